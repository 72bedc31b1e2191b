"""Figure 5, small: what the encoder finds beats the controls."""

import numpy as np
import pytest
import torch

from ldmfilter.errors import InputError
from ldmfilter.paper import fig5
from ldmfilter.paper.experiment import reproduce
from ldmfilter.paper.fig5 import Recording, Scene
from ldmfilter.paper.recurrent import Training
from ldmfilter.paper.wobbly import Camera


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return reproduce("fig5", "tiny", tmp_path_factory.mktemp("fig5"))


def test_entropies_beat_the_controls_and_stopgrad_does_not_reach_them(done):
    r2 = done.outcome.numbers["r2"]
    assert set(r2) == {"pca", "random", "stopgrad", "knn", "logdet", "kde"}
    recovered = min(r2[name] for name in ("knn", "logdet", "kde"))
    assert recovered > 0.93
    assert recovered > max(r2["pca"], r2["random"]) + 0.2
    assert r2["random"] < r2["stopgrad"] < recovered  # the module says why
    assert r2["random"] < done.outcome.numbers["r2_of_stop_gradient_from_log_det"] < r2["logdet"]
    ahead = done.outcome.numbers["r2_of_the_step_ahead_without_noise"]
    assert ahead["logdet"] > 0.93


def test_claims_follow_the_numbers(done):
    r2 = done.outcome.numbers["r2"]
    claims = done.outcome.claims
    assert [claim.value for claim in claims[:4]] == [r2[name] for name in fig5.ENTROPIES]
    assert all(claim.least == 0.97 for claim in claims[:4])
    assert claims[4].value == min(r2[name] for name in fig5.ENTROPIES) - r2["pca"]
    assert done.picture.stat().st_size > 50_000


@pytest.fixture(scope="module")
def recording():
    return Recording(Scene(60, 20, 5, 3, Camera()), seed=0)


def test_held_out_sequences_judge(recording):
    truth = recording.position
    matrix, noise = np.array([[2.0, 1.0], [0.0, 0.5]]), np.random.default_rng(0).standard_normal(truth.shape)
    assert recording.r2(truth @ matrix + 3) == pytest.approx(1)
    # What is right where one learns and wrong where one is judged is wrong.
    assert recording.r2(np.concatenate([truth[:60], noise[60:]])) < 0.2
    np.testing.assert_allclose(recording.aligned(truth @ matrix), truth[60:])


def test_controls_are_what_they_are_called(recording):
    controls = recording.controls(Training(steps=5), 2, seed=0)
    images = recording.images[:60].flatten(0, 1).numpy()
    from sklearn.decomposition import PCA

    pca = PCA(2).fit(images).transform(recording.images.flatten(0, 1).numpy())
    ours = controls["pca"].reshape(-1, 2)[:, ::-1]
    np.testing.assert_allclose(np.abs(ours), np.abs(pca), atol=1e-3)
    assert controls["random"].shape == recording.position.shape
    assert torch.cov(torch.from_numpy(controls["random"][:60].reshape(-1, 2)).mT).diagonal().numpy() == pytest.approx(
        1, abs=0.01
    )


@pytest.mark.parametrize("figure", ["fig5", "theorem1", "infoldm"])
def test_data_are_refused(figure, tmp_path):
    with pytest.raises(InputError, match=f"{figure} .*leave .*--data"):
        reproduce(figure, "tiny", tmp_path, data=tmp_path)
