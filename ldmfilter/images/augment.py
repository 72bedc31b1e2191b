"""Random views of images, on tensors, by kornia."""

from dataclasses import dataclass

from torch import nn

from ldmfilter.errors import InputError


@dataclass(frozen=True)
class Views:
    """Random changes that make a view of an image. Zero leaves a step out, and so does a `crop` of 1.

    Attributes:
        crop: smallest share of the area that a random crop keeps; the crop is scaled to the full size.
        flip: chance that left and right change places.
        jitter: strength of the change of brightness and contrast, and of colours where there are any.
        grey: chance that colours are lost.
        blur: chance of a Gaussian blur.
        rotate: the largest rotation, degrees.
        shift: the largest shift, as a share of the size.
        zoom: the largest change of size, as a share.
        noise: standard deviation of the noise on every pixel, which are between 0 and 1.
    """

    crop: float = 0.2
    flip: float = 0.5
    jitter: float = 0.4
    grey: float = 0.2
    blur: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    noise: float = 0.0


#: Views of digits, which may not be mirrored, have no colours and fill their image.
DIGIT_VIEWS = Views(crop=1.0, flip=0.0, jitter=0.0, grey=0.0, rotate=12.0, shift=0.1, zoom=0.12, noise=0.08)


def augmentation(views: Views, channels: int, height: int, width: int) -> nn.Sequential:
    """The module that draws a view of each of a batch of images, from torch's own generator.

    Raises:
        InputError: kornia is not installed.
    """
    try:
        from kornia import augmentation as draw
    except ImportError:
        raise InputError("kornia is not installed; views of images need it: pip install 'ldmfilter[images]'") from None
    steps: list[nn.Module] = []
    if views.crop < 1:
        steps.append(draw.RandomResizedCrop((height, width), scale=(views.crop, 1.0)))
    if views.rotate or views.shift or views.zoom:
        zoom = (1 - views.zoom, 1 + views.zoom)
        steps.append(draw.RandomAffine(views.rotate, (views.shift, views.shift), zoom, p=1.0))
    if views.flip:
        steps.append(draw.RandomHorizontalFlip(p=views.flip))
    if views.jitter and channels == 3:
        # Hue a quarter of the rest, and the chance, as in SimCLR (Chen et al. 2020, appendix A).
        j = views.jitter
        steps.append(draw.ColorJitter(brightness=j, contrast=j, saturation=j, hue=j / 4, p=0.8))
    elif views.jitter:
        steps.append(draw.ColorJiggle(brightness=views.jitter, contrast=views.jitter, p=0.8))
    if views.grey and channels == 3:
        steps.append(draw.RandomGrayscale(p=views.grey))
    if views.blur:
        steps.append(draw.RandomGaussianBlur((3, 3), (0.1, 2.0), p=views.blur))
    if views.noise:
        steps.append(draw.RandomGaussianNoise(0.0, views.noise, p=1.0))
    return nn.Sequential(*steps)
