"""The encoders' shapes and sizes, views, LARS, probes."""

import builtins
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ldmfilter.errors import InputError
from ldmfilter.images.augment import DIGIT_VIEWS, Views, augmentation
from ldmfilter.images.networks import PairNetwork, ResNet18, SmallConv
from ldmfilter.images.optim import LARS, parameter_groups, rate
from ldmfilter.images.probes import knn_probe, linear_probe


class TestResNet18:
    def test_size(self):
        """11,173,962 parameters with its 10-way head of 5,130 is the published count for CIFAR-10's ResNet-18."""
        assert sum(p.numel() for p in ResNet18().parameters()) == 11_173_962 - 5_130

    @pytest.mark.parametrize(("size", "channels"), [(32, 3), (28, 1), (8, 1)])
    def test_shapes(self, size, channels):
        net = ResNet18(channels, width=4).eval()
        assert net(torch.rand(2, channels, size, size)).shape == (2, 32)

    def test_depth(self):
        """17 convolutions of 3 x 3 (the 18th layer is the head) and 3 of 1 x 1 beside them."""
        kernels = [m.kernel_size for m in ResNet18(width=2).modules() if isinstance(m, nn.Conv2d)]
        assert kernels.count((3, 3)) == 17
        assert kernels.count((1, 1)) == 3


def test_small_network():
    assert SmallConv(1, 8)(torch.rand(3, 1, 8, 8)).shape == (3, 64)
    net = PairNetwork(SmallConv(1, 8), 64, 16, 5, predict=True)
    z, p = net(torch.rand(3, 1, 8, 8))
    assert z.shape == p.shape == (3, 5)


class TestViews:
    @pytest.mark.parametrize(
        ("views", "channels"),
        [(Views(blur=0.5), 3), (Views(), 1), (DIGIT_VIEWS, 1), (Views(1.0, 0, 0, 0, noise=0.1), 3)],
    )
    def test_draws_from_torchs_generator(self, views, channels):
        x = torch.rand(16, channels, 8, 8, generator=torch.Generator().manual_seed(0))
        augment = augmentation(views, channels, 8, 8)
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(augment(x))
        assert drawn[0].shape == x.shape
        assert torch.isfinite(drawn[0]).all()
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0], x)
        assert len({float((d - y).abs().sum()) for d, y in zip(drawn[0], x, strict=True)}) > 1  # each its own

    def test_nothing_asked_for(self):
        x = torch.rand(4, 3, 8, 8)
        assert torch.equal(augmentation(Views(1.0, 0.0, 0.0, 0.0), 3, 8, 8)(x), x)

    def test_without_kornia(self, monkeypatch):
        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name.startswith("kornia"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(InputError, match=r"pip install 'ldmfilter\[images\]'"):
            augmentation(Views(), 3, 8, 8)


class TestLARS:
    def stepped(self, w, grads, rates, **options):
        layer = nn.Linear(w.shape[1], len(w), bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(w)
        decay = options.pop("decay", 0.0)
        optimizer = LARS(parameter_groups(layer, decay), lr=1.0, **options)
        for g, lr in zip(grads, rates, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            layer.weight.grad = (g(layer.weight) if callable(g) else g).detach().clone()
            optimizer.step()
        return layer.weight.detach()

    def test_against_its_formula(self):
        """You, Gitman & Ginsburg 2017, algorithm 1, number by number, with a rate that changes."""
        rng = np.random.default_rng(0)
        w, grads, rates = rng.standard_normal((3, 2)), rng.standard_normal((3, 3, 2)), (0.5, 0.2, 0.7)
        found = self.stepped(
            torch.from_numpy(w), map(torch.from_numpy, grads), rates, decay=0.01, momentum=0.9, trust=0.02
        )
        v = [[0.0, 0.0] for _ in range(3)]
        for g, lr in zip(grads, rates, strict=True):
            local = 0.02 * math.sqrt((w**2).sum()) / (math.sqrt((g**2).sum()) + 0.01 * math.sqrt((w**2).sum()))
            v = [[0.9 * v[i][j] + lr * local * (g[i, j] + 0.01 * w[i, j]) for j in range(2)] for i in range(3)]
            w = w - np.array(v)
        np.testing.assert_allclose(found.numpy(), w, rtol=1e-12)

    @pytest.mark.parametrize(("a", "factor"), [(3.0, 1.0), (-3.0, (2 - 3) / (2 + 3))])
    def test_a_gradient_along_the_weights(self, a, factor):
        """g = a w: each step takes lr trust (decay + a) / (decay + |a|) of w, in closed form."""
        w = torch.tensor([[1.0, -2.0]]).double()
        found = self.stepped(w, [lambda w: a * w] * 4, [0.5] * 4, decay=2.0, momentum=0.0, trust=0.1)
        torch.testing.assert_close(found, w * (1 - 0.5 * 0.1 * factor) ** 4)

    def test_the_rate_is_within_the_momentum(self):
        """A step at rate 0 goes on by the momentum's share of the step before."""
        w, g = torch.ones(1, 2).double(), torch.tensor([[1.0, 3.0]]).double()
        first = self.stepped(w, [g], [0.5], momentum=0.9) - w
        torch.testing.assert_close(self.stepped(w, [g, g], [0.5, 0.0], momentum=0.9) - w, 1.9 * first)

    def test_biases_are_plain(self):
        layer = nn.Linear(2, 3).double()
        before = layer.bias.detach().clone()
        optimizer = LARS(parameter_groups(layer, 0.5), lr=0.1, trust=1e-3)
        layer.weight.grad, layer.bias.grad = torch.zeros(3, 2).double(), torch.ones(3).double()
        optimizer.step()
        torch.testing.assert_close(layer.bias.detach(), before - 0.1)

    def test_a_layer_of_zeros_moves(self):
        layer = nn.Linear(2, 3, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = LARS(parameter_groups(layer, 0.0), lr=0.1)
        layer.weight.grad = torch.ones(3, 2)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), torch.full((3, 2), -0.1))


def test_rate_rises_and_falls():
    course = [rate(step, 100, 10) for step in range(100)]
    assert course[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert course[55] == pytest.approx(0.5)
    assert np.all(np.diff(course[10:]) < 0)
    assert course[99] == pytest.approx(0, abs=1e-3)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 6))
    labels = rng.integers(0, 4, 500)
    x = centres[labels] + 0.9 * rng.standard_normal((500, 6)) * np.array([1, 1, 5, 1, 0.1, 1])
    x, labels = torch.from_numpy(x).float(), torch.from_numpy(labels)
    return x[:300], labels[:300], x[300:], labels[300:]


class TestProbes:
    def test_linear_is_logistic_regression(self, features):
        train, labels, test, truth = features
        mean, std = train.mean(0), train.std(0)
        oracle = LogisticRegression(C=1 / (1e-3 * len(train)), max_iter=500)  # its loss is a sum, not a mean
        oracle.fit(((train - mean) / std).numpy(), labels.numpy())
        expected = oracle.score(((test - mean) / std).numpy(), truth.numpy())
        assert linear_probe(*features) == pytest.approx(expected, abs=0.011)

    def test_knn_is_a_weighted_vote(self, features):
        train, labels, test, truth = features
        oracle = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1), algorithm="brute")
        oracle.fit(train.numpy(), labels.numpy())
        assert knn_probe(*features) == pytest.approx(oracle.score(test.numpy(), truth.numpy()), abs=0.006)

    def test_nothing_to_read(self, features):
        _, labels, _, truth = features
        noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
        chance = math.sqrt(0.25 * 0.75 / 200)
        for probe in (linear_probe, knn_probe):
            assert probe(noise[:300], labels, noise[300:], truth) == pytest.approx(0.25, abs=5 * chance)
