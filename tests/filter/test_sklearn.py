"""The estimator among scikit-learn's, what it shows of itself, and how far a training is."""

import inspect

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from ldmfilter import InputError, LDMFilter
from tests.filter.conftest import SMALL

TINY = LDMFilter(**SMALL | {"max_steps": 25, "hidden": (8,)})


def test_a_clone_has_the_settings_and_nothing_that_was_learnt(fitted):
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    assert not hasattr(copied, "network_")


def test_a_pipeline_reads_from_the_states(counts):
    part = counts[:900, :8]
    place = np.cumsum(part.to_numpy()[:, 0].astype(float))
    pipe = make_pipeline(clone(TINY), Ridge()).fit(part, place)
    assert pipe.predict(part).shape == place.shape
    assert pipe[:-1].get_feature_names_out().tolist() == [f"state_{i}" for i in range(4)]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_grid_is_searched_by_bits_per_spike(counts, labelled):
    part = counts[:1800, :8]
    part, more = (part, {}) if labelled else (part.to_numpy(), {"bin_size": 0.1})
    split = [(np.arange(900), np.arange(900, 1800))]
    search = GridSearchCV(clone(TINY), {"max_steps": [2]}, cv=split, refit=False, error_score="raise").fit(part, **more)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_score_is_0_for_states_that_tell_nothing(fitted, counts):
    assert fitted.score(counts) > 0.1
    shuffled = counts.copy(data=np.random.default_rng(0).permuted(counts.to_numpy(), axis=0))
    assert fitted.score(shuffled) == pytest.approx(0, abs=0.05)


def test_html(fitted, session):
    assert "not fitted" in LDMFilter(latent_dim=3)._repr_html_()
    assert fitted.model_id_ in fitted._repr_html_()
    text = session._repr_html_()
    assert "epochs (2 rows)" in text
    assert "processing/behavior/linear_position, cm" in text


def test_progress_is_lines_in_a_log(counts, capsys):
    clone(TINY).fit(counts[:900, :8], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == ["step 0/25", "step 25/25"]


def test_settings_are_named_as_in_python(counts):
    with pytest.raises(InputError, match="unknown setting 'latent_dims'; do you mean latent_dim"):
        LDMFilter(latent_dims=3)
    with pytest.raises(InputError, match="8 has no name; give settings by name"):
        LDMFilter(8)
    with pytest.raises(InputError, match="latent_dim is -3; it must be a whole number of 1 or more"):
        LDMFilter(latent_dim=-3).fit(counts)
    assert list(inspect.signature(LDMFilter).parameters) == list(LDMFilter().get_params())


def test_a_function_hears_how_far_decoding_is(fitted, counts):
    done = []
    fitted.decode(counts, progress=done.append)
    assert done == [counts.sizes["time"]]
