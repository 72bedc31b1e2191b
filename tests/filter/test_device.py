"""Filter, entropies, decoding, training and figure 4 on CUDA give what they give on the CPU.

pytest tests/filter/test_device.py                        on a GPU, skipped where there is none
pytest tests/filter/test_device.py --device pretended     on tests/pretended.py's, which every machine has
"""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from ldmfilter import trainer
from ldmfilter.filter import decode, training
from ldmfilter.filter.kalman import LinearGaussian, filter_trials, filter_windows
from ldmfilter.filter.model import LDMFilter
from ldmfilter.ldm.entropy import kde, knn, logdet
from ldmfilter.paper import fig4
from tests.filter.conftest import SMALL
from tests.filter.test_kalman import PATTERNS, make_model, observations, pattern, results

LEFT_OUT = "precision or mixes or stopgrad or kde or knn or scattered or nothing or whole or False or large"
OF_EVERY_DEVICE = ["tests/filter/test_online.py::test_equal_to_decoding_offline", "tests/images/test_objectives.py"]


def test_no_operation_mixes_devices_or_shapes(request):
    """The tests of this file on a device that computes as the CPU does, but is another one, with shapes checked."""
    if request.config.getoption("--device") != "cuda":
        return
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__, *OF_EVERY_DEVICE]
    words += ["--device", "pretended", "--shapes", "-k", f"not ({LEFT_OUT})"]
    ended = subprocess.run(words, cwd=request.config.rootpath, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert ended.stdout.count("skipped") == 0, ended.stdout


def leaves(model: LinearGaussian, z: torch.Tensor, device: str) -> tuple[LinearGaussian, torch.Tensor]:
    """Copies that gradients flow to."""
    copies = [value.detach().to(device).requires_grad_() for value in (*model, z)]
    return LinearGaussian._make(copies[:-1]), copies[-1]


def same(found):
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", PATTERNS)
def test_values_of_every_route(device, kind):
    model, z = make_model(50, 4, 2), torch.from_numpy(observations(0, 70, 2)[0])
    observed, starts = pattern(kind, 70)
    found = []
    for place in ("cpu", device):
        there = [None if flags is None else flags.to(place) for flags in (observed, starts)]
        values = results(model.to(place), z.to(place), *there)
        assert all(value.device == torch.device(place) for value in values)
        found.append([value.cpu() for value in values])
    same(found)


@pytest.mark.parametrize("filtered", [filter_windows, filter_trials])
def test_values_and_gradients_of_windows(device, filtered):
    model = make_model(51, 4, 2)
    z = torch.from_numpy(np.stack([observations(s, 33, 2)[0] for s in range(3)]))
    found = []
    for place in ("cpu", device):
        ours, x = leaves(model, z, place)
        values = filtered(ours, x)
        total = torch.stack([value.square().mean() for value in values]).sum()
        gradients = torch.autograd.grad(total, [*ours[:5], x])
        found.append([value.detach().cpu() for value in (*values, *gradients)])
    same(found)


@pytest.mark.parametrize("entropy", [partial(knn, k=3, clip=0.1), kde, logdet])
@pytest.mark.parametrize("grouped", [False, True])
def test_values_and_gradients_of_entropies(device, entropy, grouped):
    z = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    group = torch.arange(400) // 4 if grouped else None
    found = []
    for place in ("cpu", device):
        x = z.to(place).requires_grad_()
        value = entropy(x, None if group is None else group.to(place))
        assert value.device == torch.device(place)
        found.append([value.detach().cpu(), torch.autograd.grad(value, x)[0].cpu()])
    same(found)


@pytest.mark.parametrize("smooth", [False, True])
def test_decoding(device, counts, fitted, monkeypatch, smooth):
    on_the_device(monkeypatch, device)
    holes = counts[:300].astype(float)
    holes[150:160] = np.nan
    holes[:60, 3] = np.nan
    asked = {"smooth": smooth, "ahead": (0.5,), "lag": 0.5}
    there = fitted.decode(holes, device="cuda", **asked)
    here = fitted.decode(holes, **asked)
    assert next(fitted.network_.parameters()).device.type == "cpu"  # the model stays where it was
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, rtol=1e-4, atol=1e-5, err_msg=str(name))


@pytest.mark.parametrize("entropy", ["knn", "stopgrad", "logdet", "kde"])
def test_training(device, counts, monkeypatch, entropy):
    on_the_device(monkeypatch, device)
    options = SMALL | {"max_steps": 8, "entropy": entropy, "dropout": 0.0, "refit": False, "learning_rate": 0.03}
    counts = counts[:160]
    here, there = (LDMFilter(**options, device=name).fit(counts) for name in ("cpu", "cuda"))
    for one, other in zip(here.history_, there.history_, strict=True):
        assert other.score == pytest.approx(one.score, abs=1e-4)
    assert abs(here.history_[-1].score - here.history_[0].score) > 1e-3  # it does change
    np.testing.assert_allclose(there.decode(counts)["ci"], here.decode(counts)["ci"], rtol=0, atol=0.05)


def test_videos_of_figure_4(device, monkeypatch):
    if device != "cuda:0":
        whole = trainer.Fabric
        monkeypatch.setattr(
            trainer,
            "Fabric",
            lambda accelerator, **more: (
                whole(accelerator=accelerator, **more) if accelerator == "cpu" else OneDevice(device)
            ),
        )
    settings = fig4.Settings(6, 3, 3, 16, 8, 8, 24, 1)
    here, there = (fig4.train_both("circle", settings, 0, place) for place in ("cpu", device))
    for entropy, one in here.items():
        other = there[entropy]
        assert other.decoded.numbers() == pytest.approx(one.decoded.numbers(), abs=1e-3)
        assert other.similarity == pytest.approx(one.similarity, abs=1e-3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_is_the_encoders_alone(counts, precision):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = LDMFilter(**SMALL | {"max_steps": 50, "precision": precision, "device": "cuda"}).fit(counts)
    assert np.isfinite([record.score for record in model.history_]).all()
    assert all(parameter.dtype == torch.float32 for parameter in model.network_.parameters())
    assert np.isfinite(model.decode(counts)["filtered_mean"]).all()


class OneDevice:
    """What training asks of Fabric, for one process and full precision: Fabric itself knows real devices only."""

    def __init__(self, device):
        self.device = torch.device(device)

    def setup(self, module, optimizer):
        # What is no tensor of torch's own is not moved, but made anew, behind the optimizer's back.
        before = list(module.parameters())
        moved = dict(zip(before, module.to(self.device).parameters(), strict=True))
        for group in optimizer.param_groups:
            group["params"] = [moved[parameter] for parameter in group["params"]]
        return module, optimizer

    def to_device(self, tensor):
        return tensor.to(self.device)

    def backward(self, loss):
        loss.backward()

    def clip_gradients(self, module, optimizer, max_norm, error_if_nonfinite):
        return torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)


def on_the_device(monkeypatch, device):
    """Make "cuda" the device that is tested."""
    if device == "cuda":
        return
    for module in (decode, training):
        monkeypatch.setattr(module, "resolve_device", lambda name: "cpu" if name == "cpu" else device)
    whole = training.fabric_on
    monkeypatch.setattr(
        training, "fabric_on", lambda name, *more: whole(name, *more) if name == "cpu" else OneDevice(name)
    )
