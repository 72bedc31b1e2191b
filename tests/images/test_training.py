"""The trainer of pairs: it learns, resumes bit for bit, says no on one line."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from ldmfilter.errors import InputError, TrainingError
from ldmfilter.images import training
from ldmfilter.images.augment import Views
from ldmfilter.images.networks import SmallConv
from ldmfilter.images.sources import Images
from ldmfilter.images.training import PAIRS, PREDICTED, PairConfig, PairTraining, load_encoder

VIEWS = Views(crop=1.0, flip=0.0, jitter=0.0, grey=0.0, shift=0.2, noise=0.1)
QUICK = PairConfig(epochs=2, batch_size=64, warmup=0.5, hidden=16, latent=6, evaluate_every=1, views=VIEWS)


def trained(config, stripes, encoder=None):
    torch.manual_seed(7)
    one = PairTraining(config, *stripes, encoder or SmallConv(1, 4), device="cpu")
    return one, list(one.run())


@pytest.mark.parametrize("name", [*PAIRS, *PREDICTED])
def test_every_objective_trains(stripes, name):
    one, records = trained(dataclasses.replace(QUICK, objective=name), stripes)
    assert [record.epoch for record in records] == [1, 2]
    assert all(math.isfinite(value) for record in records for value in dataclasses.astuple(record))
    assert (one.network.predictor is None) == (name not in PREDICTED)


def test_it_learns(stripes):
    config = dataclasses.replace(QUICK, epochs=15, evaluate_every=5, learning_rate=3e-3)
    _, records = trained(config, stripes)
    assert records[-1].objective > records[0].objective + 1
    assert records[-1].linear > 0.9
    assert 1 < records[-1].effective_rank <= 6


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
@pytest.mark.parametrize("objective", ["sphere_kde", "plane_stopgrad"])
def test_resumed_bit_for_bit(stripes, tmp_path, optimizer, objective):
    config = dataclasses.replace(QUICK, epochs=3, optimizer=optimizer, objective=objective)
    whole, records = trained(config, stripes)
    torch.manual_seed(7)
    stopped = PairTraining(config, *stripes, SmallConv(1, 4), device="cpu")
    next(iter(stopped.run()))
    stopped.save(tmp_path / "one.safetensors")
    torch.manual_seed(99)  # another process, another state
    later = PairTraining(config, *stripes, SmallConv(1, 4), device="cpu")
    later.resume(tmp_path / "one.safetensors")
    assert list(later.run()) == records[1:]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, later.network.state_dict()[name]), name


def test_a_stop_between_evaluations_keeps_the_mean(stripes, tmp_path):
    config = dataclasses.replace(QUICK, epochs=3, evaluate_every=3)
    _, records = trained(config, stripes)
    stopped = PairTraining(config, *stripes, SmallConv(1, 4), device="cpu")
    stopped.network.load_state_dict(start(config, stripes))
    assert stopped.advance() is None
    stopped.save(tmp_path / "one.safetensors")
    later = PairTraining(config, *stripes, SmallConv(1, 4), device="cpu")
    later.resume(tmp_path / "one.safetensors")
    assert later.seconds == stopped.seconds > 0
    assert list(later.run()) == records


def start(config, stripes):
    torch.manual_seed(7)
    return PairTraining(config, *stripes, SmallConv(1, 4), device="cpu").network.state_dict()


def test_z_of_the_sphere_is_measured_as_unit_vectors(stripes):
    for name, unit in (("sphere_knn", True), ("simclr", True), ("plane_knn", False)):
        one = PairTraining(dataclasses.replace(QUICK, objective=name), *stripes, SmallConv(1, 4), device="cpu")
        length = one.encode(stripes[1])[1].norm(dim=1)
        assert torch.allclose(length, torch.ones(len(length)), atol=1e-5) is unit


def test_stop_gradient_does_not_collapse(stripes):
    """To one direction; what holds z apart is that the target is detached and that the predictor has its own layers."""
    config = dataclasses.replace(QUICK, objective="plane_stopgrad", epochs=12, evaluate_every=12, learning_rate=2e-3)
    _, records = trained(config, stripes)
    assert records[-1].effective_rank > 1.5
    assert records[-1].linear > 0.6


def test_same_seed_same_result_and_the_caller_is_not_disturbed(stripes):
    encoder = SmallConv(1, 4)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(PairTraining(QUICK, *stripes, encoder, device="cpu").run())
    assert torch.equal(torch.rand(2), expected)
    records = trained(QUICK, stripes)[1]
    assert trained(QUICK, stripes)[1] == records
    assert trained(dataclasses.replace(QUICK, seed=1), stripes)[1] != records


class TestCheckpoint:
    @pytest.fixture
    def written(self, stripes, tmp_path):
        one, _ = trained(QUICK, stripes)
        one.save(tmp_path / "one.safetensors")
        return one, tmp_path / "one.safetensors"

    def refused(self, one, path) -> str:
        with pytest.raises(InputError) as caught:
            one.resume(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_damaged(self, written):
        one, path = written
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        assert "damaged" in self.refused(one, path)
        path.write_bytes(raw[:100])
        assert "damaged" in self.refused(one, path)
        path.unlink()
        assert "cannot be read" in self.refused(one, path)

    def test_of_another_training(self, written, stripes):
        _, path = written
        other = PairTraining(dataclasses.replace(QUICK, seed=4), *stripes, SmallConv(1, 4), device="cpu")
        assert "other settings" in self.refused(other, path)

    def test_of_another_encoder(self, written, stripes):
        _, path = written
        other = PairTraining(QUICK, *stripes, SmallConv(1, 6), device="cpu")
        assert "of another encoder" in self.refused(other, path)

    def test_of_other_images(self, written, stripes):
        _, path = written
        train, test = stripes
        for one, other in ((test, train), (train, dataclasses.replace(test, pixels=255 - test.pixels))):
            again = PairTraining(QUICK, one, other, SmallConv(1, 4), device="cpu")
            assert "other images" in self.refused(again, path)

    def test_encoder_alone(self, written, stripes):
        one, path = written
        encoder = load_encoder(path, SmallConv(1, 4)).eval()
        with torch.no_grad():
            features = encoder(stripes[1].pixels.float() / 255)
        torch.testing.assert_close(features, one.encode(stripes[1])[0])
        with pytest.raises(InputError, match="another encoder"):
            load_encoder(path, SmallConv(1, 6))


def test_half_precision_of_the_network(stripes):
    _, records = trained(dataclasses.replace(QUICK, precision="bf16"), stripes)
    assert math.isfinite(records[-1].objective)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32", "16", "bf16"])
def test_on_a_gpu(stripes, precision):
    config = dataclasses.replace(QUICK, precision=precision)
    records = list(PairTraining(config, *stripes, SmallConv(1, 4), device="cuda").run())
    assert math.isfinite(records[-1].objective)


def test_without_an_encoder_it_is_a_resnet(stripes):
    one = PairTraining(QUICK, *stripes, device="cpu")
    assert one.encode(stripes[1].take(torch.arange(2)))[0].shape == (2, 512)


def test_without_labels(stripes):
    bare = [Images(images.pixels, None, (), "bare") for images in stripes]
    _, records = trained(QUICK, bare)
    assert math.isnan(records[-1].linear)
    assert math.isnan(records[-1].knn)
    assert records[-1].effective_rank > 1


def test_divergence_is_told(stripes):
    with pytest.raises(TrainingError, match="learning rate"):
        trained(dataclasses.replace(QUICK, objective="plane_logdet", learning_rate=1e20, warmup=0), stripes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "none"}, "choose one of plane_kde"),
        ({"optimizer": "sgd"}, "adamw, lars"),
        ({"precision": "8"}, "choose one of 32"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"batch_size": 1}, "at least 2 pairs"),
        (
            {"objective": "plane_kde", "options": {"foo": 1}},
            "plane_kde knows no foo; choose of mutual_information",
        ),
        ({"objective": "plane_knn", "options": {"k": 500}}, "below the 64 pairs"),
        ({"options": {"correlation": 1.0}}, "correlation is 1"),
        ({"options": {"mutual_information": "no"}}, "give true or false"),
        ({"warmup": 5}, "warmup is 5"),
    ],
)
def test_settings_that_are_none(change, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(QUICK, **change)


def test_half_an_epoch():
    config = dataclasses.replace(QUICK)
    object.__setattr__(config, "epochs", 2.5)  # the tests' own check of types would be first
    with pytest.raises(InputError, match=r"epochs is 2\.5; it must be a whole number from 1"):
        config.__post_init__()


def test_what_cannot_be_trained(stripes):
    with pytest.raises(InputError, match="fewer than a batch"):
        PairTraining(dataclasses.replace(QUICK, batch_size=500), *stripes, SmallConv(1, 4))
    with pytest.raises(InputError, match="needs CUDA"):
        PairTraining(dataclasses.replace(QUICK, precision="16"), *stripes, SmallConv(1, 4), device="cpu")
    with pytest.raises(InputError, match=r"must make \(2, features\)"):
        PairTraining(QUICK, *stripes, nn.Conv2d(1, 2, 3))
