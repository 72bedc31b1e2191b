"""Simpler methods to compare a filter with: predictors of the same pseudo-observations z, and states from counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter
from sklearn.decomposition import PCA, FactorAnalysis

from ldmfilter.analysis.judged import Bins
from ldmfilter.analysis.statistics import Array, covariance, log_likelihood, normalised
from ldmfilter.filter.linalg import linear_recurrence
from ldmfilter.filter.linear_system import fit_linear_system
from ldmfilter.filter.spikes_ahead import standardised

NO_MEMORY, RANDOM_WALK = "a Gaussian without memory", "a random walk"
SMOOTHING, DIMS = 0.5, 16  # s of the exponential averages where none is chosen; dimensions of PCA and factor analysis
LOCAL_LEVEL, LINEAR_SYSTEM = "a random walk seen through noise", "a linear dynamical system fitted to them"


@dataclass(frozen=True)
class Baseline:
    """A simpler predictor of the same z, fitted to the bins that the filter was trained on.

    Attributes:
        name: of the predictor.
        log_likelihood: mean over judged bins.
        lead: how far the filter is ahead, with its 95 % interval, in the same unit.
    """

    name: str
    log_likelihood: float
    lead: float
    interval: tuple[float, float]


def log_likelihoods(
    z: Array, bins: Bins, fit: Array, state_dim: int, evidence: Array | None = None
) -> dict[str, Array]:
    """Log-likelihood (time,), nats, of each bin of z (time, latent) under each baseline, by name; NaN in bins not
    observed.

    The local level and the linear system, which has a state of `state_dim` dimensions, are fitted to the bins `fit`
    (time,), which are some of `bins.fit`. Where the filter is told the evidence (time,) of the bin, so are they: the
    covariance of their errors has a size of its own in each third of the bins by it.
    """
    third = np.zeros(len(z), int)
    if evidence is not None:
        third = np.digitize(evidence, np.quantile(evidence[bins.fit], [1 / 3, 2 / 3]))

    def judged(error: Array, cov: Array) -> Array:
        size = np.ones(len(error))
        for number in np.unique(third[bins.fit]) if evidence is not None else ():
            rows = third == number
            size[rows] = (normalised(error[rows & bins.fit], cov) ** 2).mean()
        return log_likelihood(error, size[:, None, None] * cov)

    rows = np.flatnonzero(fit)
    system = fit_linear_system(z[rows], (np.diff(rows, prepend=-2) != 1) | bins.fresh[rows], state_dim)
    filtered = bins.filter(system, torch.from_numpy(z - z[rows].mean(0)))
    errors = {
        NO_MEMORY: z - z[bins.fit].mean(0),
        RANDOM_WALK: smoothing_errors(z, bins.fresh, 1.0),
        LOCAL_LEVEL: smoothing_errors(z, bins.fresh, fit_local_level(z, bins.fresh, fit)),
    }
    found = {name: judged(error, covariance(error[bins.fit])) for name, error in errors.items()}
    innovation = filtered.innovation.numpy()
    own = filtered.innovation_cov.numpy() if evidence is None else covariance(innovation[bins.fit])
    return found | {LINEAR_SYSTEM: judged(innovation, own)}


def smoothing_errors(z: Array, starts: Array, gain: Array | float) -> Array:
    """Errors (time, latent) of predicting z (time, latent) by the level m_t = m_{t-1} + gain (z_t - m_{t-1}): the
    steady-state filter of a random walk seen through noise. With gain 1 the prediction is the bin before.

    The level begins with the first bin of each gap-free stretch, `starts` (time,), whose error is 0. There is one gain,
    or one for each dimension (latent,).
    """
    # e_t = z_t - z_{t-1} + (1 - gain) e_{t-1}
    difference = np.where(starts[:, None], 0, np.diff(z, axis=0, prepend=z[:1]))
    forget = torch.diag(torch.from_numpy(1 - np.broadcast_to(np.asarray(gain, dtype=np.float64), z.shape[1])))
    index = torch.from_numpy(np.where(starts, -1, 0))
    return linear_recurrence(forget[None], index, torch.from_numpy(difference)).numpy()


def fit_local_level(z: Array, starts: Array, fit: Array) -> Array:
    """Gain (latent,) of `smoothing_errors`, the most likely one on the bins `fit` (time,) for each dimension: that of
    the least mean squared error, given each stretch's first bin (Harvey 1989, section 4.1). To 12 %."""
    gains = np.geomspace(0.01, 1, 40)
    errors = np.stack([(smoothing_errors(z, starts, gain)[fit] ** 2).mean(0) for gain in gains])
    return gains[errors.argmin(0)]


def smoothed_roots(
    counts: Array, starts: Array, fit: Array, bin_size: float, signal: bool = False, width: float = SMOOTHING
) -> Array:
    """Exponential averages (time, unit) of the past root counts less their mean, with a time constant of `width` s;
    of a signal those of its standardised channels. A unit without a spike in the bins `fit` is 0: no readout could
    learn what its spikes elsewhere tell, and their traces in `fit` are as small as one likes.

    Args:
        counts: (time, unit), NaN where a unit is not observed, which then enters as its mean.
        starts: (time,) bool, the first bins of gap-free stretches, where the averages begin at the mean.
        fit: (time,) bool, the bins that a mean is fitted to.
        bin_size: s.
        signal: whether they are a signal.
        width: s.
    """
    centred = centred_roots(counts, fit, signal)
    forget = math.exp(-bin_size / width)
    parts = np.split(centred, np.flatnonzero(starts)[1:])
    return np.concatenate([lfilter([1 - forget], [1, -forget], part, axis=0) for part in parts])


def centred_roots(counts: Array, fit: Array, signal: bool = False) -> Array:
    """Root counts (time, unit) less their mean, of a signal its standardised channels, as `smoothed_roots` averages
    them."""
    roots = counts.astype(np.float64)
    roots = standardised(roots, fit) if signal else np.sqrt(roots)
    seen = ~np.isnan(roots[fit])
    mean = np.where(seen, roots[fit], 0).sum(0) / np.maximum(seen.sum(0), 1)
    centred: Array = np.where(np.nan_to_num(roots[fit]).any(0), np.nan_to_num(roots - mean), 0)
    return centred


def causal_pca(
    counts: Array, starts: Array, fit: Array, bin_size: float, signal: bool = False, width: float = SMOOTHING
) -> Array:
    """States (time, dim) of no model: the `DIMS` first principal components of `smoothed_roots`, of the same arguments;
    the components are fitted to the bins `fit`."""
    smooth = smoothed_roots(counts, starts, fit, bin_size, signal, width)
    states: Array = PCA(min(DIMS, counts.shape[1]), random_state=0).fit(smooth[fit]).transform(smooth)
    return states


def factor_analysis(
    counts: Array, starts: Array, fit: Array, bin_size: float, signal: bool = False, width: float = SMOOTHING
) -> Array:
    """States (time, dim) as `causal_pca`, by factor analysis: means of the factors given `smoothed_roots`."""
    smooth = smoothed_roots(counts, starts, fit, bin_size, signal, width)
    dims = n_factors(counts.shape[1])
    # It ends when a step adds less than 1 nat to all fitted bins together.
    states: Array = FactorAnalysis(dims, tol=1.0, svd_method="lapack").fit(smooth[fit]).transform(smooth)
    return states


def n_factors(units: int) -> int:
    """The number of factors, no more than the covariance of so many units determines (Ledermann 1937)."""
    return max(1, min(DIMS, int(units + 0.5 - math.sqrt(2 * units + 0.25))))


#: States of simpler methods, by name: functions of counts, as `smoothed_roots` takes them.
STATES: dict[str, Callable[..., Array]] = {
    "smoothed counts": smoothed_roots,
    "causal PCA": causal_pca,
    "factor analysis": factor_analysis,
}
