"""Measurements of a fitted filter on a recording, which the checks read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ldmfilter.analysis import statistics
from ldmfilter.analysis.baselines import NO_MEMORY, Baseline, causal_pca, log_likelihoods
from ldmfilter.analysis.intervals import Third
from ldmfilter.analysis.judged import Bins, bins_of, excerpt, thinned
from ldmfilter.analysis.readout import AnyReport
from ldmfilter.analysis.score import NONE, Judge, means_without
from ldmfilter.data.frames import apart
from ldmfilter.data.prepare import as_counts
from ldmfilter.data.tables import Array
from ldmfilter.filter.decode import sound
from ldmfilter.filter.forecast import Forecast
from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.network import together
from ldmfilter.filter.spikes_ahead import horizons_of, spikes_ahead

PIECE_BINS = 20_000  # judged bins, at most, in which spikes ahead are predicted
FIT_BINS = 10_000  # bins that the linear system and the local level are fitted to
COUPLED_UNITS = 300  # units at most that are looked at for coupling: those of most variance
DRIFT_BLOCKS = 10
LEVEL = 0.95  # of the intervals of behaviour
HORIZONS = (0.1, 0.5, 1.0)  # s
SURROGATES = 19  # with which "beyond all of them" has a chance of 1 in 20


@dataclass(frozen=True, eq=False)
class Units:
    """Importance of each unit for the filter; (unit,) each.

    Attributes:
        unit: ids.
        rate: Hz, in the bins used; NaN of a signal.
        loss: of predictive log-likelihood, in `INFORMATION_UNIT`, when the unit is not seen.
        share: of the sum of all losses (negative ones count as none).
        saliency: root mean square of the gradient of z with respect to the unit's standardised root count.
    """

    unit: Array
    rate: Array
    loss: Array
    share: Array
    saliency: Array

    @property
    def largest(self) -> Any:
        """Id of the unit with the largest share."""
        return self.unit[self.share.argmax()]


@dataclass(frozen=True, eq=False)
class Drift:
    """Judged time in blocks; (block,) each, but mean_z (block, latent). Changes are those of a line from the first
    to the last block, with the p-value of a permutation test.

    Attributes:
        start, stop: s.
        predictive_information: in `INFORMATION_UNIT`.
        nis: mean, per latent dimension.
        mean_z: in deviations of z.
        changes: name to (change, p-value); of mean_z the length.
    """

    start: Array
    stop: Array
    predictive_information: Array
    nis: Array
    mean_z: Array
    changes: dict[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Sharing:
    """Recorded spikes against surrogates in which each unit is shifted circularly in time by itself.

    Attributes:
        coupling: correlation of what a unit's own past does not explain with what the other units' past predicts of
            it, all units together.
        surrogate_coupling: (surrogate,) the same on the surrogates, each fitted anew.
    """

    coupling: float
    surrogate_coupling: Array


@dataclass(frozen=True)
class SpikesPredicted:
    """Prediction of spikes ahead (`filter.spikes_ahead`), bits per spike: by the causal states, and by a causal PCA of
    smoothed counts.

    Attributes:
        nearest, farthest: s after a bin, between which its horizons lie.
        states, pca: bits per spike; NaN where nothing could be judged.
        lead: of the states over the PCA, and its 95 % interval.
        hidden: of units in the bin itself by states that are not shown them (`score.Judge.hidden`); with its 95 %
            interval.
    """

    nearest: float
    farthest: float
    states: float
    pca: float
    lead: float
    interval: tuple[float, float]
    hidden: float
    hidden_interval: tuple[float, float]


@dataclass(frozen=True)
class Ahead:
    """Forecasts of z against what came: e = z_{t+h} - C m_h with S = C P_h C' + R.

    The true state is not known, and the filtered state at t + h is no measure of a forecast: it is itself drawn towards
    the forecast, the more so the less the filter trusts z. The frame that ends at t + h is new to the forecast. One
    that is not a whole frame ahead shares spikes with what the forecast has seen, and is not judged.

    Attributes:
        seconds: from the forecast to what it is for.
        bins: judged.
        size: mean of e' S^-1 e per latent dimension, 1 where the covariances are true, and its 95 % interval.
        coverage: share of the components of L^-1 e, S = L L', that lie inside their 95 % interval; and its 95 %
            interval. NaN where not judged.
    """

    seconds: float
    bins: int = 0
    size: float = math.nan
    size_interval: tuple[float, float] = (math.nan, math.nan)
    coverage: float = math.nan
    coverage_interval: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Measures:
    """Measurements of a filter. Log-likelihoods are in `statistics.INFORMATION_UNIT`.

    Attributes:
        held_out: whether the judged bins are ones that training never saw.
        bins, seconds: judged.
        bin_size: s.
        duration: the time that was observed, s, in all stretches together.
        can_refit: whether the dynamics were not refitted (`--refit` does so, in place of a split).
        log_likelihood: mean over judged bins.
        behavior: reports on what was read from the states, where any was.
    """

    held_out: bool
    bins: int
    seconds: float
    bin_size: float
    duration: float
    can_refit: bool
    spikes: SpikesPredicted
    consistency: statistics.Consistency
    ahead: tuple[Ahead, ...]
    spectrum: statistics.Spectrum
    log_likelihood: float
    baselines: tuple[Baseline, ...]
    memory: statistics.Memory
    units: Units
    drift: Drift
    sharing: Sharing
    behavior: tuple[AnyReport, ...]

    @property
    def thirds(self) -> list[tuple[Third, AnyReport]]:
        """Thirds of bins and the behaviour whose intervals are judged there, those first that are surest to be off."""
        every = [(third, one) for one in self.behavior for third in getattr(one, "thirds", ())]
        return sorted(every, key=lambda pair: 2 * pair[0].coverage_se - abs(pair[0].coverage - LEVEL))

    @property
    def thirds_off(self) -> str:
        """The thirds of bins in which intervals of behaviour hold too few or too many, in words; where chance may
        explain all, that which is furthest off."""
        return "; ".join(
            f"{third.coverage:.1%} of {one.name} in bins with {third.where(getattr(one, 'unit', ''))}"
            for third, one in [pair for pair in self.thirds if pair[0].outside] or self.thirds[:1]
        )

    @property
    def worst_ahead(self) -> Ahead:
        """The forecasts whose coverage is furthest from 95 %."""
        return max([one for one in self.ahead if one.bins] or self.ahead, key=lambda one: abs(one.coverage - 0.95))


def spikes_predicted(model: LDMFilter, counts: xr.DataArray, seed: int) -> SpikesPredicted:
    """Spikes ahead of judged bins, from the states of all bins and from a causal PCA of the width that `score` has."""
    latents = model.decode(counts)
    bins = bins_of(counts, latents["trained"].values, model.trained_spans_)
    fit, judged = bins.halves
    judged = thinned(judged, PIECE_BINS, bins.size, seed)
    judge = Judge(dataclasses.replace(bins, fit=fit, judged=judged))
    states = partial(means_without, model, counts, latents)
    by_states, by_pca = (
        spikes_ahead(each, judge.bins.counts, bins.segment, fit, judged, bins.size, bins.signal)
        for each in (states(NONE), judge.made(causal_pca, NONE, width=judge.width()))
    )
    horizons = horizons_of(judge.bins.counts, bins.segment, judged, bins.size)
    hidden = judge.hidden(states)

    def interval(value: float, error: float) -> tuple[float, tuple[float, float]]:
        return value, (value - 1.96 * error, value + 1.96 * error)

    nearest, farthest = horizons[0][0] * bins.size, sum(horizons[-1]) * bins.size
    leads = *interval(*by_states.lead(by_pca)), *interval(hidden.value, hidden.error)
    return SpikesPredicted(nearest, farthest, by_states.value, by_pca.value, *leads)


def measure(
    model: LDMFilter,
    counts: Any,
    surrogates: int,
    seed: int,
    progress: Callable[[str], None],
    behavior: Sequence[AnyReport] = (),
) -> dict[str, Measures]:
    """Measure a model on a recording, each part by its name; see `checks.check` for arguments and errors."""
    counts = excerpt(as_counts(counts, model.bin_size_), seed)
    progress("spikes ahead")
    found = {}
    with one_thread(every_library=True), torch.no_grad(), sound(model, counts):
        spikes = spikes_predicted(model, counts, seed)
        for part in model.parts:
            name = part.kept_.dynamics if model.parts_ else ""
            of = f" ({name} states)" if name else ""
            progress(f"innovations{of}")
            frames, part = apart(counts, part.frame_bins_), part._of_frames()
            latents = part.decode(frames)
            bins = bins_of(frames, latents["trained"].values, part.trained_spans_)
            judged, scale = bins.judged, 1 / bins.size  # from nats a bin to nats a second
            taken = part.network_.observe(torch.from_numpy(bins.counts))
            z, evidence = taken[0].numpy(), None if taken[1] is None else taken[1].numpy()
            error, cov = (latents[name].values.astype(float) for name in ("innovation", "innovation_cov"))
            x = statistics.normalised(error, cov)
            scores = scale * statistics.log_likelihood(error, cov)
            progress(f"other predictors of the same pseudo-observations{of}")
            system, states = part.network_.linear_gaussian(), part.sized_.states
            some = thinned(bins.fit, FIT_BINS, bins.size, seed)
            others = {name: scale * nats for name, nats in log_likelihoods(z, bins, some, states, evidence).items()}
            baselines = [
                Baseline(
                    name,
                    float(own[judged].mean()),
                    *statistics.mean_interval((scores - own)[judged], bins.time[judged], seed),
                )
                for name, own in others.items()
            ]
            progress(f"units{of}")
            units = unit_importance(part, bins, seed)
            progress(f"spikes shifted in time{of}")
            found[name] = Measures(
                held_out=bins.held_out,
                bins=int(judged.sum()),
                seconds=float(judged.sum() * bins.size),
                bin_size=bins.size,
                duration=float(len(bins.segment) * bins.size),
                can_refit=not part.kept_.refit,
                spikes=spikes,
                consistency=statistics.consistency(x, judged, bins.segment, bins.time, bins.size, seed),
                ahead=forecasts(system, z, bins, seed, evidence),
                spectrum=statistics.spectrum(z[judged], (z - error)[judged]),
                log_likelihood=float(scores[judged].mean()),
                baselines=tuple(baselines),
                memory=statistics.memory(system.A.numpy(), bins.size, states),
                units=units,
                drift=drift(z, x, scores - others[NO_MEMORY], bins, seed),
                sharing=sharing(part, bins, surrogates, seed),
                behavior=tuple(behavior),
            )
    return found


def forecasts(
    system: LinearGaussian, z: Array, bins: Bins, seed: int, evidence: Array | None = None
) -> tuple[Ahead, ...]:
    """The calibration of forecasts at `HORIZONS`, in whole frames, or where all are shorter than one at one frame."""
    evidence = np.ones(len(z)) if evidence is None else evidence
    filtered = bins.filter(system, torch.from_numpy(z), torch.from_numpy(evidence))
    C, R = system.C.numpy(), system.R.numpy() / evidence[:, None, None]
    asked = [(int(horizon / bins.size + 1e-6), horizon) for horizon in HORIZONS]  # in frames, and in s
    rows = []
    for n, horizon in asked if asked[-1][0] else [(1, bins.size)]:
        seconds = n * bins.size or horizon
        later = n + np.flatnonzero(bins.judged[n:] & (bins.segment[n:] == bins.segment[: bins.judged.size - n]))
        if n == 0 or later.size == 0:
            rows.append(Ahead(seconds))
            continue
        forecast = Forecast.over(system, len(system.A), (seconds,), bins.size)
        means, covs = forecast(filtered.filtered_mean[later - n].numpy(), filtered.covariances.filtered.numpy())
        S = (C @ covs[0] @ C.T)[filtered.row[later - n].numpy()] + R[later]
        x = statistics.normalised(z[later] - means[0] @ C.T, S)
        size, coverage = (
            statistics.mean_interval(each.mean(1), bins.time[later], seed) for each in (x**2, abs(x) < 1.96)
        )
        rows.append(Ahead(seconds, later.size, *size, *coverage))
    return tuple(rows)


def drift(z: Array, x: Array, information: Array, bins: Bins, seed: int) -> Drift:
    """Changes of z, of normalised innovations x (time, latent) and of predictive information (time,) over the judged
    time."""
    parts = np.array_split(np.flatnonzero(bins.judged), DRIFT_BLOCKS)
    middle = np.asarray([bins.time[part].mean() for part in parts])
    by_block = {
        "predictive_information": np.asarray([information[part].mean() for part in parts]),
        "nis": np.asarray([(x[part] ** 2).mean() for part in parts]),
        "mean_z": np.stack([z[part].mean(0) for part in parts]),
    }
    first, last = bins.time[[part[[0, -1]] for part in parts]].T
    return Drift(
        first - bins.size / 2,
        last + bins.size / 2,
        **by_block,
        changes={name: statistics.trend(values, middle, seed) for name, values in by_block.items()},
    )


def unit_importance(model: LDMFilter, bins: Bins, seed: int) -> Units:
    """Predictive log-likelihood without each unit in turn. The z of all units is to be predicted; filtered is the z of
    all, or of all but one."""
    n = bins.counts.shape[1]
    most = 50_000 if model.network_.evidence_share else 400_000  # covariances of their own take longer
    piece = bins.piece(max(min(2_000, most // n), 250), seed)
    counts, judged = torch.from_numpy(piece.counts), torch.from_numpy(piece.judged)

    hidden = (counts.masked_fill(torch.arange(n) == unit, torch.nan) for unit in range(-1, n))  # first none is hidden
    system, each = model.network_.linear_gaussian(), [model.network_.observe(one) for one in hidden]
    z, evidence = together(each)
    filtered, bins_of_one = piece.filter(system, z, evidence), len(counts)
    predicted = (filtered.predicted_mean @ system.C.mT).reshape(n + 1, bins_of_one, -1)
    error = (z[:bins_of_one] - predicted)[:, judged].numpy()
    S = filtered.covariances.innovation[filtered.row[:bins_of_one][judged]]
    scores = statistics.log_likelihood(error, S.numpy()).mean(1)
    loss = (scores[0] - scores[1:]) / bins.size
    costs = loss.clip(0)
    return Units(
        model.unit_ids_,
        counts.nanmean(0).nan_to_num().double().numpy() / (np.nan if model.signal_ else bins.size),
        loss,
        costs / max(float(costs.sum()), 1e-300),
        saliency(model, counts[judged]),
    )


def saliency(model: LDMFilter, counts: Tensor) -> Array:
    """Root mean square (unit,) of the gradient of z with respect to each unit's standardised root count."""
    encoder = model.network_.encoder()
    gradient = torch.func.vmap(torch.func.jacrev(lambda x: encoder.raw(x) @ encoder.z_whiten))
    return gradient(encoder.standardised(counts)).square().sum(1).mean(0).sqrt().double().numpy()


def sharing(model: LDMFilter, bins: Bins, surrogates: int, seed: int) -> Sharing:
    """Coupling on the recorded spikes, and on spikes shifted by unit over observed bins, by 5 to 95 % of them."""
    seen = np.flatnonzero(bins.observed)
    n, units = len(seen), bins.counts.shape[1]
    fit, judged = (half[seen] for half in bins.halves)
    encoder = model.network_.encoder()
    lively = encoder.input_scale.argsort(descending=True)[:COUPLED_UNITS]
    rng = np.random.default_rng(seed)
    low, high = math.ceil(0.05 * n), math.floor(0.95 * n) + 1
    couplings = []
    for shifts in np.concatenate([np.zeros((1, units), np.int64), rng.integers(low, high, (surrogates, units))]):
        rows = seen[(np.arange(n)[:, None] + shifts) % n]
        counts = torch.from_numpy(np.take_along_axis(bins.counts, rows, 0))
        couplings.append(statistics.coupling(encoder.standardised(counts)[:, lively].numpy(), fit, judged, bins.size))
    return Sharing(couplings[0], np.asarray(couplings[1:]))
