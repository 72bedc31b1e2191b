"""Encoders of small images, with the projector and predictor that are trained with them."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

Image = Float[Tensor, "sample channel height width"]


class _Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.short = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Image) -> Float[Tensor, "sample feature row column"]:
        y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return relu(y + self.short(x))


class ResNet18(nn.Sequential):
    """ResNet-18 (He et al. 2016) for images of about 32 x 32: it begins with a 3 x 3 convolution of stride 1 and no
    pooling, so that three halvings are left; `width` features in the first stage, 8 x `width` at the end."""

    def __init__(self, channels: int = 3, width: int = 64):
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        super().__init__(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(
                nn.Sequential(_Block(a, b, 1 if stage == 0 else 2), _Block(b, b, 1))
                for stage, (a, b) in enumerate(pairwise(widths))
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class SmallConv(nn.Sequential):
    """Three convolutions and one halving, for images of about 8 x 8; 2 x `width` features in each quarter."""

    def __init__(self, channels: int = 1, width: int = 32):
        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        super().__init__(
            *convolution(channels, width),
            nn.MaxPool2d(2),
            *convolution(width, 2 * width),
            *convolution(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )


def perceptron(inputs: int, hidden: int, outputs: int, layers: int = 2) -> nn.Sequential:
    """Layers with batch norm between them; the last is linear."""
    widths = [inputs] + [hidden] * (layers - 1)
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], outputs))


class PairNetwork(nn.Module):
    """An encoder, a projector from its features to z, and, optionally, a predictor from z to z'.

    Args:
        encoder: images -> (sample, features), any module.
        features: how many.
        hidden: width of the projector's and predictor's hidden layers.
        latent: dimensions of z.
        predict: with a predictor.
    """

    def __init__(self, encoder: nn.Module, features: int, hidden: int, latent: int, predict: bool = False):
        super().__init__()
        self.encoder = encoder
        self.projector = perceptron(features, hidden, latent)
        self.predictor = perceptron(latent, hidden, latent) if predict else None

    def forward(self, x: Image) -> tuple[Float[Tensor, "sample latent"], Float[Tensor, "sample latent"] | None]:
        """z, and the prediction from it."""
        z = self.projector(self.encoder(x))
        return z, None if self.predictor is None else self.predictor(z)
