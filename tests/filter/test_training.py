"""Training: the same every time, resumable to the bit, watched on held-out time."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter.config import FilterConfig
from ldmfilter.data.windows import split_windows
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter import batches
from ldmfilter.filter.evaluation import covariance_bias
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.training import Training, resolve_device
from ldmfilter.ldm.spectrum import effective_rank, rank_of
from tests.filter.conftest import SMALL


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("entropy", ["logdet", "knn", "stopgrad", "kde"])
def test_learns_to_predict_and_keeps_its_rank(counts, entropy):
    training = Training(FilterConfig(**SMALL, entropy=entropy), counts)
    records = list(training.run())
    assert [r.step for r in records] == [0, 25, 50, 75, 100]
    best = max(records, key=lambda r: r.score)
    assert best.score > records[0].score + 0.1
    assert best.score > 0
    assert best.step == records[-1].kept_step == training.kept.kept_step
    assert all(2.0 < r.effective_rank <= 3.001 for r in records)


def test_nothing_is_predicted_where_nothing_is_there(noise_counts):
    best = max(LDMFilter(**SMALL).fit(noise_counts).history_, key=lambda r: r.score)
    assert best.score < 0.05


def test_the_same_seed_gives_the_same_bits_and_another_does_not(counts):
    settings = SMALL | {"max_steps": 50}
    torch.manual_seed(123)
    one = LDMFilter(**settings, seed=5).fit(counts)
    torch.manual_seed(321)
    torch.rand(7)
    two = LDMFilter(**settings, seed=5).fit(counts)
    other = LDMFilter(**settings, seed=6).fit(counts)
    assert same(one.network_.state_dict(), two.network_.state_dict())
    assert one.model_id_ == two.model_id_ != other.model_id_
    assert str(one.history_) == str(two.history_)


def test_the_callers_random_numbers_and_threads_are_left_alone(counts):
    torch.manual_seed(1)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    try:
        torch.set_num_threads(threads + 1)
        LDMFilter(**SMALL | {"max_steps": 25}).fit(counts)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture(scope="module", params=["logdet", "knn"])
def undisturbed(request, counts):
    training = Training(FilterConfig(**SMALL, entropy=request.param), counts)
    return training, list(training.run())


def test_resumed_equals_undisturbed(counts, undisturbed):
    """Stopped after the first record and after the third; each time another goes on."""
    whole, records = undisturbed
    training = Training(whole.config, counts)
    for more in (1, 2):
        list(itertools.islice(training.run(), more))
        tensors, values = training.state()
        training = Training(whole.config, counts)
        training.restore(tensors, json.loads(json.dumps(values)))
        torch.rand(5)
    assert str(list(training.run())) == str(records[3:])
    assert str(training.history) == str(records)
    assert same(training.parts[0][1], whole.parts[0][1])
    assert same(training.state()[0], whole.state()[0])


def test_divergence_is_told(counts):
    training = Training(FilterConfig(**SMALL), counts)
    with torch.no_grad():
        training._now._network.encoder().layers[-1].weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"training diverged at step 0: .*learning rate below 0\.01"):
        list(training.run())


def test_collapse_is_told(counts, monkeypatch):
    # An encoder of one hidden unit and no linear map has one dimension to give: the other two latents collapse onto it.
    config = FilterConfig(**SMALL | {"hidden": (1,), "max_steps": 200}, entropy="stopgrad")
    training = Training(config, counts)
    encoder = training._now._network.encoder()
    encoder.linear.weight.requires_grad_(False).zero_()
    for layer in encoder.layers:
        if isinstance(layer, torch.nn.GELU):
            monkeypatch.setattr(layer, "forward", lambda x: x)
    with pytest.raises(TrainingError, match=r"training collapsed at step 100: z of 3 dimensions.*rank of 1\."):
        list(training.run())


def test_z_that_is_constant_is_a_collapse_and_scores_low(counts):
    training = Training(FilterConfig(**SMALL), counts)
    encoder = training._now._network.encoder()
    with torch.no_grad():
        for weight in (encoder.linear.weight, encoder.layers[-1].weight, encoder.layers[-1].bias):
            weight.zero_()
    record = next(training.run())
    assert record.score < -5
    assert record.effective_rank == pytest.approx(1)
    with pytest.raises(TrainingError, match=r"^training collapsed at step 100: "):
        training._now._check(dataclasses.replace(record, step=100, loss=0.0))


def test_no_device_of_that_kind():
    if torch.cuda.is_available():
        assert resolve_device("auto") == resolve_device("cuda") == "cuda"
    else:
        assert resolve_device("auto") == "cpu"
        with pytest.raises(TrainingError, match="no CUDA device"):
            resolve_device("cuda")


def test_effective_rank():
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    assert effective_rank(z) == pytest.approx(3, abs=0.01)
    assert effective_rank(z @ torch.diag(torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(2, abs=0.01)
    assert effective_rank(z[:, :1]) == pytest.approx(1)


def test_effective_rank_of_variances():
    assert rank_of(torch.full((5,), 3.0)) == pytest.approx(5)
    assert rank_of(torch.tensor([2.0, 0, -1e-9])) == pytest.approx(1)


def test_windows_stay_within_segments_and_out_of_held_out_blocks(counts):
    n = counts.sizes["time"]
    segment = np.repeat([0, 1, 2], [500, 300, n - 800]).astype(np.int32)
    observed = np.ones(n, bool)
    observed[100:130] = False
    world = counts.assign_coords(segment=("time", segment), observed=("time", observed))
    windows = split_windows(world, 24, 0.2)
    held = np.zeros(n, bool)
    held[windows.held_bins] = True
    for starts, inside in ((windows.train_starts, False), (windows.held_starts, True)):
        assert len(starts) > 0
        for start in starts.tolist():
            bins = slice(start, start + 24)
            assert observed[bins].all()
            assert len(set(segment[bins])) == 1
            assert (held[bins] == inside).all()
    assert set(windows.train_bins) | set(windows.held_bins) == set(np.flatnonzero(observed))
    assert held.sum() == pytest.approx(0.2 * observed.sum(), rel=0.05)


def test_counts_that_are_read_from_a_store_train_to_the_same_bits(counts, fitted, tmp_path, monkeypatch):
    counts.to_dataset(name="counts").to_zarr(tmp_path / "counts.zarr")
    monkeypatch.setattr(batches, "RESIDENT", 1000)
    monkeypatch.setattr(batches, "STRETCH", 700)
    with xr.open_dataset(tmp_path / "counts.zarr", engine="zarr", chunks=None) as store:
        monkeypatch.setattr(xr.Variable, "load", None)  # nothing may ask for all of it
        assert same(LDMFilter(**SMALL).fit(store["counts"]).network_.state_dict(), fitted.network_.state_dict())


def test_too_few_bins(counts):
    with pytest.raises(InputError, match=r"40 observed bins, 40 in a row .* windows of 24 bins .* shorter window"):
        Training(FilterConfig(**SMALL), counts[:40])


def test_fewer_bins_than_units_are_told(counts):
    few = Training(FilterConfig(**SMALL), counts[:600])
    for one in few._now._recordings:
        one.n_units = 1000
    few._now.step = 0
    assert str(few._now._diverged()) == "too few bins (600) to train on for 1000 units; use a longer span"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"latent_dim": 0}, "latent-dim is 0; it must be a whole number of 1 or more"),
        ({"state_dim": 2}, "state-dim is 2; it must be at least latent_dim, 3"),
        ({"entropy": "none"}, "entropy is none; it must be one of logdet, knn, stopgrad, kde"),
        ({"window": 0.5}, r"window is 0\.5; it must be longer than warmup, 0\.8"),
        ({"held_out": 0.9}, "held-out is 0.9; it must be a share above 0 and up to 0.5"),
        ({"learning_rate": -1.0}, "learning-rate is -1.0; it must be a number above 0 and up to 1"),
        ({"device": "tpu"}, "device is tpu; it must be one of auto, cpu, cuda"),
    ],
)
def test_settings_out_of_range(counts, setting, message):
    config = dataclasses.replace(FilterConfig(**SMALL), **setting)
    with pytest.raises(InputError, match=message):
        Training(config, counts)


def test_the_bias_of_a_fitted_gaussian():
    """What few bins say of their own covariance, against what it was, averaged over draws."""
    rng, n, d = np.random.default_rng(0), 40, 6
    draws = rng.standard_normal((4000, n, d))
    covariances = np.stack([np.cov(x.T) for x in draws])
    bias = 0.5 * np.linalg.slogdet(covariances * (n - 1) / n)[1].mean()
    assert covariance_bias(n, d) == pytest.approx(bias, abs=0.01)
    assert abs(covariance_bias(100_000, d)) < 1e-3
    assert math.isfinite(covariance_bias(3, d))


@pytest.mark.parametrize(("hidden", "most"), [((), 5), ((32, 3), 8)])
def test_more_latent_dimensions_than_the_encoder_can_fill_are_refused(noise_counts, hidden, most):
    tiny = SMALL | {"hidden": hidden, "latent_dim": most, "state_dim": most, "max_steps": 2}
    assert len(LDMFilter(**tiny).fit(noise_counts).history_) == 2
    told = rf"{most + 1} latent dimensions are more than .* 5 units .*; choose {most} or fewer, or wider hidden layers"
    with pytest.raises(InputError, match=told):
        LDMFilter(**tiny | {"latent_dim": most + 1, "state_dim": most + 1}).fit(noise_counts)
    with pytest.raises(InputError, match="15 latent dimensions of each part are more"):
        LDMFilter(**tiny | {"latent_dim": 30, "state_dim": 30, "dynamics": "auto", "frame": None}).fit(noise_counts)
