"""A filter of a signal: its encoder, training, checks and states one bin at a time."""

import json
import re

import numpy as np
import pytest
import torch

from ldmfilter import bin_spikes
from ldmfilter.analysis.checks import CHECKS, of_signal
from ldmfilter.data.simulate import calcium_session
from ldmfilter.errors import InputError
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.model import LDMFilter, load
from ldmfilter.filter.online import OnlineFilter
from ldmfilter.filter.spikes_ahead import spikes_ahead
from tests.filter.conftest import SMALL


@pytest.fixture(scope="module")
def signal(session):
    return bin_spikes(calcium_session(session), 0.1, "epochs=run")


@pytest.fixture(scope="module")
def fitted(signal):
    return LDMFilter(**SMALL | {"frame": 0.2, "window": 4.8, "max_steps": 50}).fit(signal)


def test_encoder_standardises_a_signal_as_it_is():
    x = torch.randn(500, 3) * torch.tensor([1e-4, 1.0, 1e4]) + torch.tensor([-1e-3, 0.0, 1e5])
    x[:50, 1] = torch.nan
    encoder = Encoder(3, 2, signal=True)
    encoder.set_input_scale(x)
    seen = encoder.standardised(x)
    torch.testing.assert_close(seen[50:].std(0), torch.ones(3), rtol=0.1, atol=0)
    assert seen[:50, 1].eq(0).all()
    constant = torch.full((500, 3), 7.0)
    encoder.set_input_scale(constant)
    assert encoder.standardised(constant).eq(0).all()


def test_explained_variance_of_a_known_signal():
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.normal(size=(6000, 1)), 0) * 0.02
    signal = 100 * np.concatenate([state, -state], 1) + rng.normal(size=(6000, 2)) - 50
    judge = (np.arange(6000) // 300) % 3 == 1
    segment = np.zeros(6000, int)
    known = spikes_ahead(state, signal, segment, ~judge, judge, 0.1, signal=True)
    noise = spikes_ahead(rng.normal(size=(6000, 1)), signal, segment, ~judge, judge, 0.1, signal=True)
    assert 0.8 < known.value < 1
    assert abs(noise.value) < 0.1
    # It is free of each channel's scale and offset.
    scaled = spikes_ahead(state, signal * [1e-3, 10.0] + 5, segment, ~judge, judge, 0.1, signal=True)
    assert scaled.value == pytest.approx(known.value, abs=1e-6)
    lead, error = known.lead(noise)
    assert lead > 3 * error > 0


def test_saved_model_is_one_of_a_signal(fitted, signal, tmp_path):
    again = load(fitted.save(tmp_path))
    assert again.signal_
    np.testing.assert_array_equal(again.transform(signal), fitted.transform(signal))


def test_states_follow_the_signal(fitted, signal):
    assert fitted.kept_record_.score > 0


def test_one_bin_at_a_time(fitted, signal):
    values = signal.to_numpy()[:300].astype(np.float64)
    values[40, 3] = np.nan
    values[70:75] = np.nan
    online, means = OnlineFilter(fitted), []
    for number, row in enumerate(values):
        if number == 73:  # a state goes through JSON, missing bins and negative values included
            text = json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in online.state().items()})
            online = OnlineFilter(fitted)
            online.restore(json.loads(text))
        means.append(online.step(row)[0])
    states = fitted.decode(signal[:300].copy(data=values.astype(np.float32)))
    np.testing.assert_allclose(means, states["filtered_mean"], atol=1e-5)
    with pytest.raises(InputError, match="has inf; give finite numbers"):
        online.step(np.full(16, np.inf))


def test_spikes_and_a_signal_are_told_apart(fitted, signal, counts):
    with pytest.raises(InputError, match="holds spikes, but the model was trained on a signal; give the same"):
        fitted.decode(counts)
    with pytest.raises(InputError, match="spikes beside a signal"):
        LDMFilter(**SMALL).fit([signal, counts.assign_attrs(checksum="other")])


def test_every_check_has_words_for_a_signal():
    for check in CHECKS:
        limits = [text for limit in (check.low, check.high) if limit for text in (limit.verdict, limit.remedy)]
        for text in (check.name, check.unit, check.reason, check.fine, *limits):
            said = of_signal(re.sub(r"{[^}]*}", "", text)).replace("counts most", "")
            assert not re.search(r"spike|counts|bits|mean rate", said), said
