"""Methods to compare a filter with: simpler predictors of the same pseudo-observations z, and states from counts.

Simpler ones are causal. Peers, GPFA and CEBRA, need the extra `bench`. A state of either has seen bins after its own:
GPFA `CONTEXT` bins or more, the rest of a short trial; CEBRA 4. Counts that a state has seen are no forecast, so
`score` leaves their cells ahead empty. At hidden units, which neither sees, they have these bins in advance of a causal
state: the smoothed states are set beside them there.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA, FactorAnalysis

from ldmfilter.analysis.judged import Bins, thinned
from ldmfilter.analysis.statistics import covariance, log_likelihood, normalised
from ldmfilter.data.frames import averages
from ldmfilter.data.tables import Array
from ldmfilter.errors import InputError
from ldmfilter.filter import recursions
from ldmfilter.filter.linear_system import fit_linear_system
from ldmfilter.filter.spikes_ahead import standardised

NO_MEMORY, RANDOM_WALK = "a Gaussian without memory", "a random walk"
SMOOTHING, DIMS = 0.5, 16  # s of the exponential averages where none is chosen; dimensions of PCA and factor analysis
LOCAL_LEVEL, LINEAR_SYSTEM = "a random walk seen through noise", "a linear dynamical system fitted to them"
MOST_FITTED = 10_000  # bins that GPFA is fitted to, 500 pieces of 20 bins
GPFA_STEPS = 100  # of its expectation maximisation at most
CONTEXT = 20  # bins before and after as many whose states are kept: as long as the pieces that GPFA is fitted to
BEFORE, AFTER = 5, 4  # bins that CEBRA's `offset10-model` reads beside its own
APART = 10  # bins between CEBRA's pairs, half a trial where trials are shorter
ITERATIONS, RATE = 500, 1e-3  # of CEBRA's learning


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
    thirds: list[Array] = []
    if evidence is not None:
        third = np.digitize(evidence, np.quantile(evidence[bins.fit], [1 / 3, 2 / 3]))
        thirds = [third == number for number in np.unique(third[bins.fit])]

    def judged(error: Array, cov: Array) -> Array:
        size = np.ones(len(error))
        for rows in thirds:
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
    error = np.where(starts[:, None], 0, np.diff(z, axis=0, prepend=z[:1]))
    recursions.decaying_sums(error, np.full(z.shape[1], 1.0) - gain, starts)
    return error


def fit_local_level(z: Array, starts: Array, fit: Array) -> Array:
    """Gain (latent,) of `smoothing_errors`, the most likely one on the bins `fit` (time,) for each dimension: that of
    the least mean squared error, given each stretch's first bin (Harvey 1989, section 4.1). To 12 %."""
    gains = np.geomspace(0.01, 1, 40)
    errors = np.stack([(smoothing_errors(z, starts, gain)[fit] ** 2).mean(0) for gain in gains])
    return gains[errors.argmin(0)]


def smoothed_roots(bins: Bins, width: float = SMOOTHING) -> Array:
    """Exponential averages (time, unit) of the past root counts less their mean, with a time constant of `width` s;
    of a signal those of its standardised channels. They begin at the mean in each gap-free stretch, and a unit that is
    not observed enters as its mean. A unit without a spike in `bins.fit` is 0: no readout could learn what its spikes
    elsewhere tell, and their traces there are as small as one likes."""
    return averages(centred_roots(bins), bins.starts, width / bins.size)


def centred_roots(bins: Bins) -> Array:
    """Root counts (time, unit) less their mean in `bins.fit`, of a signal its standardised channels, as
    `smoothed_roots` averages them."""
    roots = bins.counts.astype(float)
    roots = standardised(roots, bins.fit) if bins.signal else np.sqrt(roots)
    fitted = roots[bins.fit]
    seen = ~np.isnan(fitted)
    mean = np.where(seen, fitted, 0).sum(0) / np.maximum(seen.sum(0), 1)
    return np.asarray(np.where(np.nan_to_num(fitted).any(0), np.nan_to_num(roots - mean), 0))


def causal_pca(bins: Bins, width: float = SMOOTHING) -> Array:
    """States (time, dim) of no model: the `DIMS` first principal components of `smoothed_roots`, fitted to the bins
    `bins.fit`."""
    smooth = smoothed_roots(bins, width)
    pca = PCA(min(DIMS, smooth.shape[1]), random_state=0).fit(smooth[bins.fit])
    return np.asarray(pca.transform(smooth))


def factor_analysis(bins: Bins, width: float = SMOOTHING) -> Array:
    """States (time, dim) as `causal_pca`, by factor analysis: means of the factors given `smoothed_roots`."""
    smooth = smoothed_roots(bins, width)
    # It ends when a step adds less than 1 nat to all fitted bins together.
    factors = FactorAnalysis(n_factors(smooth.shape[1]), tol=1.0, svd_method="lapack").fit(smooth[bins.fit])
    return np.asarray(factors.transform(smooth))


def n_factors(units: int) -> int:
    """The number of factors, no more than the covariance of so many units determines (Ledermann 1937)."""
    return max(1, min(DIMS, int(units + 0.5 - math.sqrt(2 * units + 0.25))))


#: States of simpler methods, by name.
STATES: dict[str, Callable[..., Array]] = {
    "smoothed counts": smoothed_roots,
    "causal PCA": causal_pca,
    "factor analysis": factor_analysis,
}


def gpfa(bins: Bins) -> Array:
    """States (time, dim) of Gaussian-process factor analysis of root counts (Yu et al. 2009, J Neurophysiol 102:614),
    by elephant; NaN in bins not observed.

    It takes time to the third power of a trial's length: elephant fits it to pieces of 20 bins (shorter trials are left
    out, unless all are), and a state is computed from a window of 60 bins or what there is of it.
    """
    from elephant.gpfa import gpfa_core

    roots = centred_roots(bins)
    roots = roots[:, roots[bins.fit].any(0)]
    states = np.full((len(roots), n_factors(roots.shape[1])), np.nan)
    if not roots.shape[1]:  # none of these units fires where it is fitted
        return states
    windows = [
        (rows[max(first - CONTEXT, 0) : first + 2 * CONTEXT], rows[first : first + CONTEXT])
        for rows in _stretches(bins, ~np.isnan(bins.counts).all(1))
        for first in range(0, len(rows), CONTEXT)
    ]

    def trials(parts: Sequence[Array]) -> Array:
        return np.array([(len(rows), roots[rows].T) for rows in parts], [("T", int), ("y", object)])

    with _aside():
        learnt = _stretches(bins, thinned(bins.fit, MOST_FITTED, bins.size, 0))
        found, _ = gpfa_core.fit(
            trials(learnt), states.shape[1], 1000 * bins.size, em_max_iters=GPFA_STEPS, tau_init=5000 * bins.size
        )
        inferred, _ = gpfa_core.exact_inference_with_ll(trials([window for window, _ in windows]), found, get_ll=False)
    for (window, kept), latent in zip(windows, inferred["latent_variable"], strict=True):
        states[kept] = latent.T[np.isin(window, kept)]
    return states


def cebra_time(bins: Bins) -> Array:
    """States (time, dim) of CEBRA-Time (Schneider, Lee & Mathis 2023, Nature 617:360), whose pairs are `APART` bins
    apart; NaN in bins not observed.

    Its window reaches over the ends of trials, where the first or last bin is repeated.
    """
    from cebra import CEBRA

    roots = centred_roots(bins).astype(np.float32)
    states = np.full((len(roots), min(DIMS, roots.shape[1])), np.nan)

    def padded(parts: Sequence[Array]) -> tuple[Array, Array]:
        own = [np.pad(np.ones(len(rows), bool), (BEFORE, AFTER)) for rows in parts]
        return np.concatenate([np.pad(rows, (BEFORE, AFTER), "edge") for rows in parts]), np.concatenate(own)

    learnt = _stretches(bins, bins.fit)
    apart = min(APART, max(1, int(np.median([len(rows) for rows in learnt])) // 2))
    with _aside(), torch.enable_grad():
        model = CEBRA(
            model_architecture="offset10-model", batch_size=512, learning_rate=RATE, output_dimension=states.shape[1],
            max_iterations=ITERATIONS, time_offsets=apart, conditional="time", distance="cosine", device="cpu",
        )  # fmt: skip
        model.fit(roots[padded(learnt)[0]])
        rows, own = padded(_stretches(bins, ~np.isnan(bins.counts).all(1)))
        states[rows[own]] = model.transform(roots[rows])[own]
    return states


#: Package and states of peers, by name.
PEERS: dict[str, tuple[str, Callable[..., Array]]] = {
    "GPFA": ("elephant", gpfa),
    "CEBRA": ("cebra", cebra_time),
}


def chosen(names: Sequence[str]) -> dict[str, Callable[..., Array]]:
    """The named peers, in any case of letters.

    Raises:
        InputError: no such peer, or its package is not installed.
    """
    made = {}
    for name in map(str.upper, names):
        if name not in PEERS:
            raise InputError(f"peer {name}: not known; choose from {', '.join(PEERS)}")
        package, made[name] = PEERS[name]
        try:
            import_module(package)
        except ImportError:
            raise InputError(f"peer {name}: the package {package} is missing; pip install 'ldmfilter[bench]'") from None
    return made


def _stretches(bins: Bins, chosen: Any) -> list[Array]:
    """Numbers of the chosen bins (time,), in stretches without a gap."""
    rows = np.flatnonzero(chosen)
    return np.split(rows, np.flatnonzero((np.diff(rows) != 1) | bins.starts[rows[1:]]) + 1)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Keep the peers' prints and warnings off the terminal, and draw the same numbers each time, apart from others'."""
    before = np.random.get_state()  # noqa: NPY002  both draw from the global generators
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
