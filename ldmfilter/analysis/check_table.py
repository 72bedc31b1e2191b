"""The table of checks: a row for each, under three questions. A new check is a new row."""

from __future__ import annotations

import math

from ldmfilter.analysis.baselines import LINEAR_SYSTEM, LOCAL_LEVEL, NO_MEMORY, RANDOM_WALK
from ldmfilter.analysis.calibration import BAND
from ldmfilter.analysis.findings import DRIFT_LEVEL, Bound, Check, Limit, Number
from ldmfilter.analysis.measures import LEVEL, Measures
from ldmfilter.analysis.statistics import INFORMATION_UNIT

QUESTIONS = USEFUL, HONEST, FIT = "are the states useful?", "are the intervals honest?", "do the dynamics fit?"

CORRELATION = 0.25  # of innovations, beyond that of white noise
LAG_BEHIND = 0.02  # nats per frame and latent dimension
COUPLING_DEVIATIONS = 5.0

SPIKES_AHEAD, LEAD_OVER_PCA = "spikes ahead", "lead over a causal PCA"
PREDICTIVE_INFORMATION, COUPLING = "predictive information", "coupling of the units"
HIDDEN_UNITS = "spikes of hidden units"


def _lead(m: Measures, baseline: str) -> Number:
    return next(Number(one.lead, one.interval) for one in m.baselines if one.name == baseline)


def _unjudged(value: float) -> str:
    return "" if math.isfinite(value) else "it could not be judged: too few bins in a row"


def _coupling_limit(m: Measures) -> float:
    others = m.sharing.surrogate_coupling
    return max(float(others.mean() + COUPLING_DEVIATIONS * others.std(ddof=1)), 0.0) if len(others) > 1 else 0.0


def _coupling(m: Measures) -> Number:
    # In short recordings and short trials it misses what the states tell of hidden units.
    shared = m.spikes.hidden > 0
    unshown = "a linear regression does not show that units predict each other; see spikes of hidden units"
    return Number(m.sharing.coupling, missing=unshown if shared and m.sharing.coupling <= _coupling_limit(m) else "")


def _coverage_ahead(m: Measures) -> Number:
    worst = m.worst_ahead
    missing = "" if worst.bins else "it could not be judged: no stretch is longer than a frame"
    return Number(worst.coverage, worst.coverage_interval, missing=missing)


def _coverage_in_thirds(m: Measures) -> Number:
    if not m.thirds:
        return Number(math.nan, missing="it could not be judged: no intervals were calibrated")
    third, _ = m.thirds[0]
    low, high = (third.coverage + sign * 2 * third.coverage_se for sign in (-1, 1))
    return Number(third.coverage, (max(low, 0.0), min(high, 1.0)))


_IN_A_THIRD = (
    "95 % intervals of behaviour do not hold 92 to 98 % everywhere: {m.thirds_off}",
    "choose a --min-speed, which leaves slow bins out, or more --reserve, which leaves less to train on",
)


def _lead_check(name: str, baseline: str, at: Bound, reason: str, fine: str, strict: bool) -> Check:
    return Check(
        name,
        FIT,
        lambda m: _lead(m, baseline),
        unit=INFORMATION_UNIT,
        low=Limit(
            at,
            f"{baseline} predicts the same pseudo-observations better: the filter's dynamics do not fit them",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        strict=strict,
        reason=reason,
        fine=f"the filter predicts {fine} {baseline}",
    )


def _drift_check(name: str, question: str, key: str, unit: str, at: Bound, reason: str, what: str) -> Check:
    wrong = (
        f"{what} drifts over the session (p = {{p:.2g}})",
        "choose a shorter --span, which leaves less to train on, or stable --units; conditions in blocks drift too",
    )
    high = Limit(at, *wrong)
    return Check(
        name,
        question,
        lambda m: Number(m.drift.changes[key][0], p=m.drift.changes[key][1]),
        unit=unit,
        low=Limit(lambda m: -high.of(m), *wrong),
        high=high,
        reason=f"{reason}; and not by chance, p <= {DRIFT_LEVEL:g}",
        fine=f"{what} does not drift over the session (p = {{p:.2g}})",
    )


CHECKS = (
    Check(
        SPIKES_AHEAD, USEFUL, lambda m: Number(m.spikes.states, missing=_unjudged(m.spikes.states)),
        unit="bits per spike",
        low=Limit(
            0.0,
            "the states do not tell what the population will do next",
            "choose other --units or a longer --span, and train anew",
        ),
        of="whole",
        reason="0 is what each unit's mean rate tells; counted {m.spikes.nearest:g} to {m.spikes.farthest:g} s ahead",
        fine="the states predict spikes to come better than mean rates",
    ),
    Check(
        LEAD_OVER_PCA, USEFUL, lambda m: Number(m.spikes.lead, m.spikes.interval, missing=_unjudged(m.spikes.states)),
        unit="bits per spike",
        low=Limit(
            0.0,
            "a causal PCA of smoothed counts predicts spikes better ({m.spikes.pca:.3f} bits, {m.spikes.states:.3f} by "
            "the states)",
            "choose the other --dynamics, or --max-steps twice as high, which takes twice as long",
        ),
        of="whole",
        reason="below 0 a prediction from smoothed counts alone is better",
        fine="the states predict spikes as well as a causal PCA or better "
        "({m.spikes.states:.3f} and {m.spikes.pca:.3f})",
    ),
    Check(
        PREDICTIVE_INFORMATION, USEFUL, lambda m: _lead(m, NO_MEMORY),
        unit=INFORMATION_UNIT,
        low=Limit(
            0.0,
            f"the past does not help: the filter predicts no better than {NO_MEMORY}",
            "choose another --bin-size, other --units, or a longer --span, and train anew",
        ),
        strict=True,
        of="best",
        reason="below 0 the simpler predictor is the better one",
        fine="the past helps to predict each bin",
    ),
    Check(
        COUPLING, USEFUL, _coupling,
        low=Limit(
            _coupling_limit,
            "a linear regression does not show that units predict each other for longer than a bin",
            "choose another --bin-size, more --units, or a longer --span, and train anew",
        ),
        strict=True,
        of="best",
        reason=f"{COUPLING_DEVIATIONS:g} deviations above {{m.sharing.surrogate_coupling.size}} sets of spikes with "
        "each unit shifted in time by itself",
        fine="units predict each other beyond their own rhythms",
    ),
    Check(
        HIDDEN_UNITS, USEFUL,
        lambda m: Number(m.spikes.hidden, m.spikes.hidden_interval, missing=_unjudged(m.spikes.hidden)),
        unit="bits per spike",
        low=Limit(
            0.0,
            "states that are not shown a unit do not tell its spikes: the filter follows each unit's own rhythm",
            "choose twice as many --max-steps, which takes twice as long, other --units, or a longer --span",
        ),
        strict=True,
        of="whole",
        reason="0 is what each unit's mean rate tells; a quarter of the units is hidden at a time",
        fine="states that are not shown a unit tell its spikes, so that what they follow is shared",
    ),
    Check(
        "rank of z", USEFUL, lambda m: Number(m.spectrum.z_rank),
        unit="dimensions",
        low=Limit(
            lambda m: 0.5 * len(m.spectrum.z),
            "the pseudo-observations of {m.spectrum.z.size} dimensions collapse on new time",
            "choose fewer --latent-dim, which can hold less, --entropy logdet, or a longer --span",
        ),
        reason="z is white on training's bins, of rank {m.spectrum.z.size}; half of that is a collapse on new ones",
        fine="the pseudo-observations use their {m.spectrum.z.size} dimensions",
    ),
    Check(
        "rank of the prediction", USEFUL, lambda m: Number(m.spectrum.prediction_rank),
        unit="dimensions",
        low=Limit(
            lambda m: 0.25 * len(m.spectrum.z),
            "few dimensions can be predicted: the rest of the {m.spectrum.z.size} is noise",
            "choose --latent-dim {value:.0f}, which is faster, and loses what it cannot predict",
        ),
        reason="below a quarter of the latent dimensions most of them are noise to the filter",
        fine="prediction is spread over several dimensions",
    ),
    Check(
        "largest unit", USEFUL, lambda m: Number(float(m.units.share.max())),
        high=Limit(
            lambda m: max(0.5, 1.5 / len(m.units.share)),
            "unit {m.units.largest} carries {value:.0%} of what single units add: the filter follows one unit",
            "look at unit {m.units.largest}; leave it out by --units, or choose more "
            "--dropout, which blurs what few units tell",
        ),
        reason="a filter of the population should not depend on one unit, which may be lost",
        fine="unit {m.units.largest} counts most, with {value:.0%} of what single units add",
    ),
    _drift_check(
        "drift of the predictive information", USEFUL, "predictive_information", INFORMATION_UNIT,
        lambda m: 0.5 * max(abs(_lead(m, NO_MEMORY).value), 0.1 / m.bin_size),
        "half of the predictive information: states at the end would be worth much more or less than at the start",
        "predictive information",
    ),
    Check(
        "innovation size", HONEST, lambda m: Number(m.consistency.size, m.consistency.size_interval),
        low=Limit(
            0.8,
            "the filter is underconfident: squared innovations are {value:.2f} times what it expects",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        high=Limit(
            1.25,
            "the filter is overconfident: squared innovations are {value:.2f} times what it expects",
            "choose fewer --latent-dim, which can hold less, or a longer --span",
        ),
        reason="1 where the covariances are true; beyond 0.8 to 1.25 intervals are a tenth too wide or too narrow",
        fine="innovations are about as large as the filter expects",
    ),
    Check(
        "innovation outliers", HONEST, lambda m: Number(m.consistency.tail, m.consistency.tail_interval),
        high=Limit(
            0.1,
            "{value:.1%} of bins lie outside the region that should hold 95 %: more than under a Gaussian",
            "choose a larger --bin-size, whose counts are more Gaussian and whose states come less often, or a higher "
            "--min-rate, which leaves units out",
        ),
        reason="0.05 where innovations are Gaussian; at twice that, 95 % regions miss twice as often as they should",
        fine="{value:.1%} of bins lie outside the region that should hold 95 %",
    ),
    Check(
        "forecast coverage", HONEST, _coverage_ahead,
        low=Limit(
            0.9,
            "95 % intervals of forecasts hold {value:.1%} {m.worst_ahead.seconds:g} s ahead: too few",
            "choose {refit}fewer --latent-dim, which can hold less, or a longer --span",
        ),
        high=Limit(
            0.99,
            "95 % intervals of forecasts hold {value:.1%} {m.worst_ahead.seconds:g} s ahead: they are too wide",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        reason="at 0.9 intervals miss twice as often as they should, at 0.99 a fifth as often; judged on what the "
        "encoder sees later",
        fine="95 % intervals of forecasts hold {value:.1%} {m.worst_ahead.seconds:g} s ahead, where they are furthest "
        "off",
    ),
    _drift_check(
        "drift of the innovations", HONEST, "nis", "", 0.5,
        "at 0.5 intervals are a quarter too wide or too narrow at one end",
        "the size of innovations against what the filter expects",
    ),
    Check(
        "coverage of behaviour in thirds", HONEST, _coverage_in_thirds,
        low=Limit(LEVEL - BAND, *_IN_A_THIRD),
        high=Limit(LEVEL + BAND, *_IN_A_THIRD),
        reason="intervals that are right on average may be wrong where it matters: each third of the bins, by spikes "
        "of the last second, speed, predicted width and value, should be within 3 % and 2 standard errors",
        fine="95 % intervals of behaviour hold {value:.1%} in the third where they are furthest off",
        of_behavior=True,
        of="whole",
    ),
    Check(
        "innovation correlation", FIT, lambda m: Number(float(m.consistency.correlation.max())),
        high=Limit(
            lambda m: math.hypot(float(m.consistency.white.max()), CORRELATION),
            "innovations predict each other, most of all {m.consistency.worst_lag:g} s apart: the dynamics miss "
            "something ({m.consistency.hosking})",
            "choose {refit}a --state-dim above --latent-dim, which makes filtering slower",
        ),
        reason=f"{CORRELATION:g} beyond the bound of white innovations in so many bins means that {CORRELATION**2:.0%} "
        "of an innovation could have been predicted from one before",
        fine="little is left to predict in the innovations ({m.consistency.hosking})",
    ),
    *(
        _lead_check(
            name, baseline, 0.0, "below 0 the simpler predictor is the better one", "better than", strict
        )
        for name, baseline, strict in (
            ("lead over a random walk", RANDOM_WALK, True), ("lead over a walk in noise", LOCAL_LEVEL, False)
        )
    ),
    _lead_check(
        "lead over a linear system", LINEAR_SYSTEM,
        lambda m: -LAG_BEHIND * len(m.spectrum.z) * (1 / m.bin_size),
        "the filter is one itself and should come near the best; 0.02 nats a frame and dimension are errors 2 % larger",
        "as well as", strict=False,
    ),
    Check(
        "states without memory", FIT, lambda m: Number(float((m.memory.time_constant < m.bin_size).sum())),
        unit="states",
        high=Limit(
            lambda m: 0.5 * len(m.memory.time_constant),
            "{value:.0f} of {m.memory.time_constant.size} states have time constants below a bin",
            "choose fewer --latent-dim, which can hold less, or a smaller --bin-size",
        ),
        reason="a state whose time constant is below a bin of {m.bin_size:g} s predicts nothing; half of them may",
        fine="{value:.0f} of {m.memory.time_constant.size} states have time constants below a bin",
    ),
    Check(
        "slowest state", FIT, lambda m: Number(float(m.memory.time_constant.max())),
        unit="s",
        high=Limit(
            lambda m: m.duration,
            "the slowest state hardly changes in the session: its time constant is not known",
            "choose a longer --span, or fewer --latent-dim, which can hold less",
        ),
        reason="{high:.0f} s were observed: nothing slower can be told from a constant",
        fine="the time constant of the slowest state is shorter than the session",
    ),
    _drift_check(
        "drift of z", FIT, "mean_z", "deviations", 0.5,
        "half a standard deviation of z, along the direction in which it moves",
        "the mean of the pseudo-observations",
    ),
)  # fmt: skip

# Words for a signal, in place of those for spikes.
_OF_SIGNAL = (
    ("bits per spike", "of the variance"),
    (" bits, ", " of the variance, "),
    ("mean rate", "mean"),
    ("; counted ", "; "),
    ("smoothed counts", "the smoothed signal"),
    ("whose counts are", "whose means are"),
    (", or a higher --min-rate, which leaves units out", ""),
    ("sets of spikes", "signals"),
    ("recorded spikes", "recorded signal"),
    ("spikes ahead", "signal ahead"),
    ("spikes shifted", "the signal shifted"),
    ("spikes of hidden", "signal of hidden"),
    ("its spikes", "its signal"),
    (" spikes", " the signal"),
)


def of_signal(text: str) -> str:
    """A sentence of the checks on spikes, as it reads where the model is one of a signal.

    >>> of_signal("the states predict spikes to come better than mean rates")
    'the states predict the signal to come better than means'
    """
    for spikes, signal in _OF_SIGNAL:
        text = text.replace(spikes, signal)
    return text
