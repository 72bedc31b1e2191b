"""Theorem 1, small: recovery with its assumptions, and without."""

import pytest

from ldmfilter.paper import theorem1
from ldmfilter.paper.experiment import reproduce


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return reproduce("theorem1", "tiny", tmp_path_factory.mktemp("theorem1"))


def test_broken_assumptions_lose_what_the_theorem_recovers(done):
    numbers = done.outcome.numbers
    assert numbers["intact"]["r2"] > 0.95
    for name in theorem1.BROKEN:
        assert numbers[name]["r2"] < numbers["intact"]["r2"] - 0.15
    assert numbers["bimodal"]["r2"] > 0.93
    assert done.picture.stat().st_size > 50_000


def test_the_image_tells_the_position_unless_it_is_folded(done):
    told = {name: each["r2_of_the_centre_of_light"] for name, each in done.outcome.numbers.items()}
    assert told.pop("folded") < 0.6
    assert min(told.values()) > 0.9


def test_claims_take_the_worst_seed():
    r2 = {"intact": [0.99, 0.98], "jumps": [0.5, 0.7], "latent": [0.4, 0.3], "folded": [0.9, 0.2], "bimodal": [0.96, 1]}
    intact, jumps, latent, folded, bimodal = theorem1.claims(r2)
    assert (intact.value, intact.holds) == (0.98, True)
    assert (jumps.value, jumps.holds) == (pytest.approx(0.28), True)
    assert latent.value == pytest.approx(0.58)
    assert (folded.value, folded.holds) == (pytest.approx(0.08), False)
    assert bimodal.value == 0.96
