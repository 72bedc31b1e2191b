"""Is the filter's uncertainty true, has it collapsed, and did it find anything that predicts?

Each question is answered by a number, a threshold with its reason, a verdict and a remedy, on time that training
never saw. `diagnose` asks them all of a model; the statistics are functions of arrays, for anyone's filter. The
statistics are those of Bar-Shalom, Li & Kirubarajan 2001, *Estimation with Applications to Tracking and Navigation*,
section 5.4, unless another source is named. Log-likelihoods are in nats per bin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy.linalg import solve_triangular
from scipy.signal import lfilter
from scipy.stats import chi2
from torch import Tensor

from ldmfilter.data.counts import check_counts
from ldmfilter.data.windows import outside
from ldmfilter.errors import InputError
from ldmfilter.filter.decode import sound
from ldmfilter.filter.kalman import Filtered, LinearGaussian, filter, smooth
from ldmfilter.filter.linalg import linear_recurrence, one_thread, safe_cholesky, stationary_covariance, symmetrise
from ldmfilter.ldm.spectrum import rank_of

if TYPE_CHECKING:
    from ldmfilter.filter.model import LDMFilter

Array = np.ndarray

GUARD = 2.0  # s between time that was trained on and time that is judged: the slowest part of behaviour's memory
LEAST_BINS = 100  # judged bins below which a number says nothing
MOST_BINS = 100_000  # longer recordings are judged on stretches of so many bins in all, spread evenly
MOST_VALUES = 3_000_000  # bins times units, likewise
STRETCH = 40.0  # s, of such a stretch
PIECE_BINS = 20_000  # judged bins that what is repeated many times (surrogates) is computed on
FIT_BINS = 10_000  # bins that the linear system and the local level are fitted to
COUPLED_UNITS = 300  # units at most that are looked at for coupling: those of most variance
BLOCK = 5.0  # s, a block of the bootstrap: longer than what neighbouring bins remember of each other
RESAMPLES = 1_000  # of a bootstrap or a permutation test
DRIFT_BLOCKS = 10
LAGS = 10
SURROGATES = 19  # with which "beyond all of them" has a chance of 1 in 20
# Thresholds; `Finding.reason` says why they lie there.
NIS_BAND = (0.8, 1.25)
TAIL = 0.1
CORRELATION = 0.25
LAG_BEHIND = 0.02  # nats per bin and latent dimension
LARGEST_UNIT = 0.5
DRIFT_LEVEL = 0.01
COUPLING_DEVIATIONS = 5.0

# Names of findings, and of rivals.
INNOVATION_SIZE, OUTLIERS, WHITENESS = "innovation size", "innovation outliers", "innovation correlation"
Z_RANK, PREDICTED_RANK = "rank of z", "rank of the prediction"
GAIN, AHEAD_OF_WALK = "gain over no memory", "lead over a random walk"
AHEAD_OF_LEVEL, AHEAD_OF_SYSTEM = "lead over a walk in noise", "lead over a linear system"
FORGETFUL, SLOWEST, LARGEST = "forgetful states", "slowest state", "largest unit"
DRIFT_GAIN, DRIFT_NIS, DRIFT_Z = "drift of the gain", "drift of the innovations", "drift of z"
COUPLING, SHARED = "coupling of the units", "gain through sharing"
NO_MEMORY, RANDOM_WALK = "a Gaussian without memory", "a random walk"
LOCAL_LEVEL, LINEAR_SYSTEM = "a random walk seen through noise", "a linear dynamical system fitted to them"

# s, of the averages of the past that counts are predicted from, beside those of FAST bins
OWN_TIMES, OTHERS_TIME, FAST = (0.25, 1.0, 4.0), 1.0, 2


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        name: of the number.
        value: the number.
        unit: its unit, empty for a ratio.
        interval: its 95 % interval, where it has one.
        threshold: lowest and highest value that raise no finding; None where there is no bound.
        reason: why the threshold lies there.
        ok: whether nothing is wrong.
        verdict: in words.
        remedy: what to change where something is wrong, else empty.
        doubtful: whether nothing is wrong only because chance may have taken the value beyond the threshold: part of
            its interval lies within.
    """

    name: str
    value: float
    unit: str
    interval: tuple[float, float] | None
    threshold: tuple[float | None, float | None]
    reason: str
    ok: bool
    verdict: str
    remedy: str
    doubtful: bool


@dataclass(frozen=True, eq=False)
class Consistency:
    """Normalised innovations squared (NIS) against chi-square, and what is left to predict in the innovations.

    Attributes:
        size: mean NIS per latent dimension, 1 where the covariances are true, and its 95 % interval.
        tail: share of bins beyond chi-square's 95 % quantile, and its 95 % interval.
        probability: (quantile,) levels of the quantiles.
        nis: (quantile,) of the judged bins' NIS.
        chi2: (quantile,) of chi-square with as many degrees of freedom as z has dimensions.
        lag: (lag,) s.
        correlation: (lag,) largest correlation of any direction of the innovation with any direction so much earlier.
        white: (lag,) what white innovations stay below with 95 % at all lags together.
        portmanteau: Hosking's statistic of all lags together, and its p-value.
    """

    size: float
    size_interval: tuple[float, float]
    tail: float
    tail_interval: tuple[float, float]
    probability: Array
    nis: Array
    chi2: Array
    lag: Array
    correlation: Array
    white: Array
    portmanteau: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variances along principal axes, in falling order: of z and of its prediction zhat; (latent,) each."""

    z: Array
    prediction: Array
    z_rank: float
    prediction_rank: float


@dataclass(frozen=True)
class Rival:
    """Another predictor of the same z, fitted to the bins that the filter was trained on.

    Attributes:
        name: what it is.
        log_likelihood: nats per judged bin.
        lead: how far the filter is ahead, nats per bin, with its 95 % interval.
    """

    name: str
    log_likelihood: float
    lead: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Memory:
    """Eigenvalues of A, per state: time constants (s) and periods (s, infinite where nothing turns)."""

    time_constant: Array
    period: Array


@dataclass(frozen=True, eq=False)
class Units:
    """What each unit does for the filter.

    Attributes:
        unit: ids.
        rate: Hz, in the bins used.
        loss: of predictive log-likelihood, nats per bin, when the unit is not seen.
        share: of the sum of all losses (negative ones count as none).
        saliency: root mean square of the gradient of z with respect to the unit's standardised root count.
    """

    unit: Array
    rate: Array
    loss: Array
    share: Array
    saliency: Array


@dataclass(frozen=True, eq=False)
class Drift:
    """Judged time in blocks; (block,) each, but mean_z (block, latent). Changes are those of a line from the first
    to the last block, with the p-value of a permutation test.

    Attributes:
        start, stop: s.
        gain: nats per bin over a Gaussian without memory.
        nis: mean, per latent dimension.
        mean_z: in deviations of z.
        changes: name to (change, p-value); of mean_z the length.
    """

    start: Array
    stop: Array
    gain: Array
    nis: Array
    mean_z: Array
    changes: dict[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Sharing:
    """Recorded spikes against surrogates in which each unit is shifted circularly in time by itself.

    Attributes:
        gain: of the filter over no memory, nats per bin, free of scale; and (surrogate,) of the surrogates.
        coupling: correlation of what a unit's own past does not explain with what the other units' past predicts of
            it, all units together; and (surrogate,) of the surrogates, each fitted anew.
    """

    gain: float
    surrogate_gain: Array
    coupling: float
    surrogate_coupling: Array


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """All that `diagnose` found. `to_dict` gives it as plain JSON types.

    Attributes:
        summary: in words.
        predictive: whether something was found that predicts, beyond each unit's own rhythm.
        held_out: whether the judged bins are ones that training never saw.
        bins, seconds: judged.
    """

    summary: str
    predictive: bool
    held_out: bool
    bins: int
    seconds: float
    findings: tuple[Finding, ...]
    consistency: Consistency
    spectrum: Spectrum
    log_likelihood: float
    rivals: tuple[Rival, ...]
    memory: Memory
    units: Units
    drift: Drift
    sharing: Sharing

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.ok for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; numbers that are not finite are None."""
        return {"ok": self.ok} | {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Statistics of arrays.


def normalised(innovation: Array, innovation_cov: Array) -> Array:
    """Innovations (time, latent) in their own deviations: L_t^-1 e_t with S_t = L_t L_t'. Where the filter is right,
    they are white with unit covariance, and their squared norms, the NIS e' S^-1 e, are chi-square with `latent`
    degrees of freedom."""
    return np.linalg.solve(np.linalg.cholesky(innovation_cov), innovation[..., None])[..., 0]


def _covariance(x: Array) -> Array:
    """Covariance (dim, dim) of samples (time, dim), which can always be factorised."""
    cov = np.cov(x.T, bias=True).reshape(x.shape[1], -1)
    return cov + (1e-9 * float(np.diagonal(cov).mean()) + 1e-12) * np.eye(len(cov))


def mean_interval(values: Array, block: Array, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean of values (time,) and its 95 % interval by the block bootstrap (Kunsch 1989): whole blocks (time,), given
    by number, are drawn anew, so that neighbours that resemble each other do not make the interval too narrow."""
    _, number = np.unique(block, return_inverse=True)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    draws = np.random.default_rng(seed).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return float(values.mean()), (low, high)


def lagged_correlations(x: Array, judged: Array, segment: Array, lags: int) -> tuple[Array, Array]:
    """Correlations of x_t with x_{t-k}, (lag, latent, latent), for k = 1 .. lags, and (lag,) the numbers of pairs.

    Args:
        x: (time, latent), already of unit covariance if the filter is right; whitened here by what it has.
        judged: (time,) bool; both bins of a pair are.
        segment: (time,) of a gap-free stretch; no pair crosses two.
        lags: how many.
    """
    mean = x[judged].mean(0)
    L = np.linalg.cholesky(_covariance(x[judged]))
    white = np.where(judged[:, None], solve_triangular(L, (np.where(judged[:, None], x, 0) - mean).T, lower=True).T, 0)
    matrices, pairs = [], []
    for k in range(1, lags + 1):
        both = judged[k:] & judged[:-k] & (segment[k:] == segment[:-k])
        pairs.append(int(both.sum()))
        matrices.append(white[k:][both].T @ white[:-k][both] / max(pairs[-1], 1))
    return np.stack(matrices), np.asarray(pairs)


def white_band(latent: int, pairs: Array) -> Array:
    """What the largest singular value of a lagged correlation matrix of white noise stays below, at all lags together
    with 95 %: (2 sqrt(latent) + t) / sqrt(pairs), exceeded with exp(-t^2 / 2) (Davidson & Szarek 2001)."""
    t = math.sqrt(2 * math.log(len(pairs) / 0.05))
    return (2 * math.sqrt(latent) + t) / np.sqrt(np.maximum(pairs, 1))


def portmanteau(correlations: Array, pairs: Array) -> tuple[float, float]:
    """Hosking's (1980) statistic, the sum over lags of n tr(C_k' C_k) for white x, and its p-value: chi-square with
    latent^2 degrees of freedom a lag. Significant for any filter once there are enough bins."""
    statistic = float((pairs * (correlations**2).sum((1, 2))).sum())
    return statistic, float(chi2.sf(statistic, correlations.size))


def consistency(x: Array, judged: Array, segment: Array, time: Array, bin_size: float, seed: int = 0) -> Consistency:
    """Whether innovations are what the filter says they are.

    Args:
        x: (time, latent), as `normalised` gives them; where not judged, ignored.
        judged: (time,) bool.
        segment: (time,) of a gap-free stretch.
        time: (time,) s.
        bin_size: s.
        seed: of the bootstrap.
    """
    latent, nis = x.shape[1], (x[judged] ** 2).sum(1)
    block, levels = np.floor(time[judged] / BLOCK).astype(np.int64), np.arange(1, 200) / 200
    matrices, pairs = lagged_correlations(x, judged, segment, LAGS)
    return Consistency(
        *mean_interval(nis / latent, block, seed),
        *mean_interval((nis > chi2.ppf(0.95, latent)).astype(np.float64), block, seed),
        levels,
        np.quantile(nis, levels),
        chi2.ppf(levels, latent),
        np.arange(1, LAGS + 1) * bin_size,
        np.linalg.norm(matrices, 2, (1, 2)),
        white_band(latent, pairs),
        portmanteau(matrices, pairs),
    )


def effective_rank(variances: Array) -> float:
    """Exponential of the entropy of normalised variances (Roy & Vetterli 2007)."""
    return rank_of(torch.from_numpy(variances.astype(np.float64)))


def log_likelihood(error: Array, cov: Array) -> Array:
    """log N(e_t; 0, S_t), nats, of errors (time, latent), with S (latent, latent) or one for each (time, ...)."""
    L = np.linalg.cholesky(cov)
    x = np.linalg.solve(L, error[..., None])[..., 0]
    logdet = np.log(np.diagonal(L, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * (x**2).sum(-1) - logdet - 0.5 * error.shape[-1] * math.log(2 * math.pi)


def predictive_gain(z: Array, error: Array) -> float:
    """1/2 (log det Cov z - log det Cov e), nats per bin: how much a prediction with errors e (time, latent) tells of
    z, at the best covariance. Free of scale: every affine map of z and e gives the same."""
    of_z, of_error = (float(np.linalg.slogdet(_covariance(x))[1]) for x in (z, error))
    return 0.5 * (of_z - of_error)


def smoothing_errors(z: Array, starts: Array, gain: Array | float) -> Array:
    """Errors (time, latent) of predicting z by the level m_t = m_{t-1} + gain (z_t - m_{t-1}), which begins with the
    first bin of each stretch (whose error is 0): the steady-state filter of a random walk seen through noise. With
    gain 1 the prediction is the bin before.

    Args:
        z: (time, latent).
        starts: (time,) bool, the first bins of gap-free stretches.
        gain: for each dimension (latent,), or one.
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


def fit_linear_system(z: Array, starts: Array, state_dim: int, steps: int = 30) -> LinearGaussian:
    """A linear dynamical system fitted to z by expectation maximisation (Shumway & Stoffer 1982), from where
    covariances at several lags say that it lies (`_first_guess`). Ends when a step gains less than 0.002 nats per bin.

    Args:
        z: (time, latent) float64.
        starts: (time,) bool, the first bins of gap-free stretches.
        state_dim: dimensions of the state.
        steps: at most.

    Returns the system of z less its mean over these bins.
    """
    mean = z.mean(0)
    L = np.linalg.cholesky(_covariance(z))
    x = torch.from_numpy(solve_triangular(L, (z - mean).T, lower=True).T.copy())
    new = torch.from_numpy(starts)
    system, before = _first_guess(x.numpy(), starts, state_dim), -math.inf
    within = torch.nonzero(~new[1:])[:, 0]
    for _ in range(steps):
        filtered = filter(system, x, starts=new)
        now = float(_mean_log_likelihood(filtered))
        if now - before < 0.002:
            break
        before = now
        smoothed = smooth(system, filtered, new)
        m, P = smoothed.smoothed_mean, smoothed.covariances
        # Sums over bins of smoothed covariances, of which few are distinct.
        total = _weighted(P, smoothed.row)
        # Lag-one covariance P_{t+1,t|T} = P_{t+1|T} G_t', with the smoother's gain G_t.
        ahead = system.A @ filtered.covariances.filtered
        G = torch.cholesky_solve(ahead, safe_cholesky(symmetrise(ahead @ system.A.mT + system.Q))).mT
        pair, count = torch.stack([smoothed.row[within + 1], filtered.row[within]]).unique(dim=1, return_counts=True)
        lagged = torch.einsum("p,pij,pkj->ik", count.double(), P[pair[0]], G[pair[1]])
        cross = m[within + 1].mT @ m[within] + lagged
        start = symmetrise(m[within].mT @ m[within] + _weighted(P, smoothed.row[within]))
        stop = symmetrise(m[within + 1].mT @ m[within + 1] + _weighted(P, smoothed.row[within + 1]))
        A = _stable(torch.cholesky_solve(cross.mT, safe_cholesky(start)).mT)
        Q = symmetrise(stop - A @ cross.mT - cross @ A.mT + A @ start @ A.mT) / len(within)
        C = torch.cholesky_solve(m.mT @ x, safe_cholesky(symmetrise(m.mT @ m + total))).mT
        error = x - m @ C.mT
        R = symmetrise(error.mT @ error + C @ total @ C.mT) / len(x)
        system = LinearGaussian(A, Q, C, R, system.b, stationary_covariance(A, Q))
    scale = torch.from_numpy(L)
    return system._replace(C=scale @ system.C, R=symmetrise(scale @ system.R @ scale.mT))


def _weighted(table: Tensor, row: Tensor) -> Tensor:
    """The sum over bins of table[row]."""
    return torch.einsum("r,rij->ij", row.bincount(minlength=len(table)).double(), table)


def _mean_log_likelihood(filtered: Filtered) -> float:
    """Nats per bin, of a recording without missing bins."""
    L = safe_cholesky(filtered.covariances.innovation)
    x = torch.linalg.solve_triangular(L[filtered.row], filtered.innovation[..., None], upper=False)
    logdet = 2 * torch.diagonal(L, dim1=1, dim2=2).log().sum(1)
    return float(-0.5 * (x.square().sum((1, 2)) + logdet[filtered.row]).mean())


def _first_guess(x: Array, starts: Array, state_dim: int, lags: int = 8) -> LinearGaussian:
    """A system from the covariances of white x (time, latent) at lags 1 to 2 `lags`, G_k = C A^(k-1) N, N = A X C':
    the matrix of blocks G_(i+j) has the rank of the state, and its factors hold C, A and N (Ho & Kalman 1966)."""
    latent, segment = x.shape[1], np.cumsum(starts)

    def covariance(k: int) -> Array:
        both = segment[k:] == segment[:-k]
        return x[k:][both].T @ x[:-k][both] / max(int(both.sum()), 1)

    lagged = [covariance(k) for k in range(1, 2 * lags + 1)]
    U, size, V = np.linalg.svd(np.block([[lagged[i + j] for j in range(lags)] for i in range(lags)]))
    n = min(state_dim, len(size))
    root = np.sqrt(np.maximum(size[:n], 1e-6))
    seen, N = U[:, :n] * root, (root[:, None] * V[:n])[:, :latent]  # seen: C, C A, C A^2, ...
    C, A = seen[:latent], np.linalg.lstsq(seen[:-latent], seen[latent:], rcond=None)[0]
    A = _stable(torch.from_numpy(A)).numpy()
    # N = A X C' for the stationary covariance X, by least squares.
    X = np.linalg.lstsq(np.kron(A, C), N.reshape(-1), rcond=None)[0].reshape(n, n)
    X = _positive(X, 1e-3)
    Q, R = _positive(X - A @ X @ A.T, 1e-4), _positive(np.eye(latent) - C @ X @ C.T, 0.02)
    prior = stationary_covariance(torch.from_numpy(A), torch.from_numpy(Q))
    return LinearGaussian._make([*map(torch.from_numpy, (A, Q, C, R, np.zeros(n))), prior])


def _positive(M: Array, least: float) -> Array:
    """The symmetric part with eigenvalues of `least` or more."""
    values, vectors = np.linalg.eigh(0.5 * (M + M.T))
    return (vectors * np.maximum(values, least)) @ vectors.T


def _stable(A: Tensor) -> Tensor:
    """A, made smaller where it would not forget."""
    radius = float(torch.linalg.eigvals(A).abs().max())
    return A * min(1.0, 0.9995 / max(radius, 1e-300))


def coupling(x: Array, fit: Array, judged: Array, bin_size: float) -> float:
    """How well the past of the other units predicts what a unit's own past does not, all units together.

    Each unit's x is regressed on averages of its own past; what is left is predicted from an average of the past of
    all units, by ridge regression. Returns the correlation of what is left with its prediction in the judged bins,
    over all units: about 0 where the units are independent, whatever their own rhythms. Of two averages, of two bins
    and of a second, the better one counts.

    Args:
        x: (time, unit), standardised.
        fit, judged: (time,) bool, the bins that the regressions are fitted to and judged on.
        bin_size: s.
    """
    n, units = int(fit.sum()), x.shape[1]

    def past(seconds: float) -> Array:
        keep = math.exp(-bin_size / seconds)
        average = np.zeros_like(x)
        average[1:] = lfilter(*np.asarray([[1 - keep, 0], [1, -keep]], dtype=x.dtype), x[:-1], axis=0)
        scale = average[fit].std(0)
        # A unit that hardly fires is not blown up: at least half the typical deviation.
        floor = 0.5 * math.sqrt(float((scale**2).mean())) + 1e-12
        return (average - average[fit].mean(0)) / np.maximum(scale, floor)

    times = (FAST * bin_size, *OWN_TIMES)
    averages = {seconds: past(seconds) for seconds in {*times, OTHERS_TIME}}
    own = [averages[seconds] for seconds in times]
    inside, target = [average[fit] for average in own], x[fit]
    gram = np.asarray([[(a * b).sum(0) for b in inside] for a in inside]).transpose(2, 0, 1)
    moment = np.asarray([(a * target).sum(0) for a in inside]).T
    weights = np.linalg.solve(gram + 1e-3 * n * np.eye(len(times)), moment[..., None])[..., 0].astype(x.dtype)
    left = x - sum(average * weight for average, weight in zip(own, weights.T, strict=True))
    left -= left[fit].mean(0)

    def strength(others: Array) -> float:
        gram = others[fit].T @ others[fit] + 0.3 * n * np.eye(units)
        predicted = others[judged] @ np.linalg.solve(gram, others[fit].T @ left[fit])
        size = math.sqrt(float((left[judged] ** 2).sum() * (predicted**2).sum()))
        return float((left[judged] * predicted).sum()) / size if size > 0 else 0.0

    return max(strength(averages[seconds]) for seconds in (times[0], OTHERS_TIME))


def shift_units(n: int, units: int, rng: np.random.Generator) -> Array:
    """(unit,) shifts in bins, from 5 to 95 % of the n bins."""
    return rng.integers(math.ceil(0.05 * n), math.floor(0.95 * n) + 1, units)


def trend(values: Array, time: Array, seed: int = 0) -> tuple[float, float]:
    """Change of values (block,) or (block, dim) along a line over time (block,), from the first to the last, and the
    p-value of a permutation test. Of several dimensions the length of the change."""
    values = values.reshape(len(values), -1)
    centred = time - time.mean()
    weights = centred * (time[-1] - time[0]) / max(float((centred**2).sum()), 1e-300)
    change = weights @ values
    size = math.sqrt(float((change**2).sum()))
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(time)) for _ in range(RESAMPLES)])
    others = np.sqrt(((weights[orders] @ values) ** 2).sum(1))
    p = (1 + int((others >= size * (1 - 1e-12)).sum())) / (RESAMPLES + 1)
    return (size if values.shape[1] > 1 else float(change[0])), p


# The diagnosis of a model.


@dataclass(frozen=True, eq=False)
class _Bins:
    """The bins of a recording, and what each is used for; (time,) each, but counts (time, unit) as float32, NaN where
    a unit is not observed."""

    counts: Array
    time: Array
    size: float  # s
    segment: Array
    observed: Array
    fresh: Array  # begins a stretch without missing bins
    fit: Array  # rivals are fitted to it
    judged: Array
    held_out: bool

    @property
    def starts(self) -> Array:
        return np.diff(self.segment, prepend=self.segment[0] - 1) != 0

    @property
    def halves(self) -> tuple[Array, Array]:
        """Bins to fit to and bins to judge on, never the same ones."""
        if not (self.fit & self.judged).any():
            return self.fit, self.judged
        odd = _alternating(self.time)
        return self.fit & odd, self.judged & ~odd


@dataclass(frozen=True, eq=False)
class _Piece:
    """Judged bins with those before them that warm a filter up: `rows` of a recording, where it `starts` anew, and
    which of its bins are `judged`; (row,) each."""

    rows: Array
    starts: Array
    judged: Array


def diagnose(
    model: LDMFilter,
    counts: xr.DataArray,
    surrogates: int = SURROGATES,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Ask of a model whether its uncertainty is true, whether it has collapsed, and whether it found anything.

    All is judged on bins that training never saw, `GUARD` s away from those it did. Where there are none, training's
    own bins are used, `held_out` is False, and the summary says so.

    Args:
        model: a fitted filter.
        counts: (time, unit) of the session it was trained on, reserved time included, or of another one.
        surrogates: how often each unit is shifted anew.
        seed: of shifts, bootstrap and permutations.
        progress: called with what is being computed.

    Raises:
        InputError: not fitted, counts of other units or bins, fewer than 100 bins to judge on, or pseudo-observations
            that do not vary.
    """
    tell = progress or (lambda _: None)
    counts = _excerpt(check_counts(counts), seed)
    with one_thread(), torch.no_grad(), sound(model, counts):
        tell("innovations")
        latents = model.decode(counts)
        bins = _bins(model, counts, np.asarray(latents["trained"]))
        z = model.network_.encode(torch.from_numpy(bins.counts)).double().numpy()
        error = latents["innovation"].to_numpy().astype(np.float64)
        cov = latents["innovation_cov"].to_numpy().astype(np.float64)
        block = np.floor(bins.time / BLOCK).astype(np.int64)[bins.judged]
        scores = np.full(len(z), np.nan)
        scores[bins.judged] = log_likelihood(error[bins.judged], cov[bins.judged])
        x = np.full_like(z, np.nan)
        x[bins.judged] = normalised(error[bins.judged], cov[bins.judged])

        innovations = consistency(x, bins.judged, bins.segment, bins.time, bins.size, seed)
        spectrum = _spectrum(z[bins.judged], (z - error)[bins.judged])
        tell("other predictors of the same pseudo-observations")
        memoryless, rivals = _rivals(model, z, scores, bins, block, seed)
        A = model.network_.linear_gaussian().A[: model.states, : model.states]
        memory = _memory(A.numpy(), bins.size)
        drift = _drift(z, x, scores - memoryless, bins, seed)
        tell("units")
        units = _units(model, bins, seed)
        tell("spikes shifted in time")
        sharing = _sharing(model, bins, surrogates, seed)
    # Training alone moves the dynamics little; a refit takes them all the way.
    better = "--refit, " if getattr(model, "refit", None) is False else ""
    findings = (
        *innovation_findings(innovations, better),
        *_of_spectrum(spectrum),
        *_of_rivals(rivals, z.shape[1], better),
        *_of_memory(memory, bins),
        _of_units(units),
        *_of_drift(drift, rivals[0].lead),
        *_of_sharing(sharing),
    )
    predictive = all(f.ok for f in findings if f.name in (GAIN, COUPLING, SHARED))
    return Diagnosis(
        _summary(findings, predictive, bins),
        predictive,
        bins.held_out,
        int(bins.judged.sum()),
        float(bins.judged.sum() * bins.size),
        findings,
        innovations,
        spectrum,
        float(scores[bins.judged].mean()),
        rivals,
        memory,
        units,
        drift,
        sharing,
    )


def _excerpt(counts: xr.DataArray, seed: int) -> xr.DataArray:
    """At most `MOST_BINS` bins, in random stretches, so that a day is diagnosed as fast as an hour."""
    n, units = counts.sizes["time"], counts.sizes["unit"]
    most = min(MOST_BINS, max(MOST_VALUES // max(units, 1), 10_000))
    if n <= most:
        return counts
    kept = _thinned(np.ones(n, dtype=bool), most, float(counts.attrs["bin_size"]), seed)
    return check_counts(counts.isel(time=np.flatnonzero(kept)))


def _thinned(chosen: Array, most: int, bin_size: float, seed: int) -> Array:
    """About `most` of the chosen bins (time,), in stretches of 40 s at most that are drawn at random: reserved time is
    regular, and what is regular too could miss it."""
    if int(chosen.sum()) <= most:
        return chosen
    length = max(min(math.ceil(STRETCH / bin_size), most // 4), 1)
    stretch = (np.cumsum(chosen) - 1).clip(0) // length
    kept = np.random.default_rng(seed).permutation(int(stretch[-1]) + 1) < max(most // length, 1)
    return chosen & kept[stretch]


def _bins(model: LDMFilter, counts: xr.DataArray, trained: Array) -> _Bins:
    time, segment = np.asarray(counts["time"], dtype=np.float64), np.asarray(counts["segment"])
    observed, size = np.asarray(counts["observed"]), float(counts.attrs["bin_size"])
    values = counts.to_numpy().astype(np.float32)
    if "unit_observed" in counts.coords:
        values[~counts["unit_observed"].to_numpy()] = np.nan
    starts = np.diff(segment, prepend=segment[0] - 1) != 0
    fresh = starts | ~np.concatenate([[False], observed[:-1]])
    usable = observed & ~fresh  # the first bin of a stretch has no past to be predicted from
    if not trained.any():  # another session than the one trained on
        fit, judged, held_out = _alternating(time), ~_alternating(time), True
    else:
        away = outside(time, model.trained_spans_, GUARD)
        held_out = int((usable & away).sum()) >= LEAST_BINS
        fit, judged = trained, (away if held_out else trained)
    fit, judged = usable & fit, usable & judged
    if min(int(judged.sum()), int(fit.sum())) < LEAST_BINS:
        raise InputError(
            f"{counts.attrs.get('path') or 'counts'}: {int(judged.sum())} observed bins are too few to judge a filter "
            f"on; give a span of {LEAST_BINS} bins or more"
        )
    return _Bins(values, time, size, segment, observed, fresh, fit, judged, held_out)


def _alternating(time: Array) -> Array:
    """(time,) bool: every other of ten equal stretches."""
    return (np.arange(len(time)) * 10 // max(len(time), 1)) % 2 == 0


def _piece(bins: _Bins, most: int, seed: int) -> _Piece:
    judged = _thinned(bins.judged, most, bins.size, seed)
    ahead = round(GUARD / bins.size)
    near = np.cumsum(np.concatenate([[0], judged, np.zeros(ahead)]))
    rows = np.flatnonzero(near[ahead + 1 :] > near[: len(judged)])
    starts = (np.diff(rows, prepend=rows[0] - 2) != 1) | bins.starts[rows]
    return _Piece(rows, starts, judged[rows])


def _spectrum(z: Array, zhat: Array) -> Spectrum:
    of_z, of_zhat = (np.linalg.eigvalsh(_covariance(x))[::-1].clip(0) for x in (z, zhat))
    return Spectrum(of_z, of_zhat, effective_rank(of_z), effective_rank(of_zhat))


def _rivals(
    model: LDMFilter, z: Array, scores: Array, bins: _Bins, block: Array, seed: int
) -> tuple[Array, tuple[Rival, ...]]:
    """Log-likelihood (time,) of a Gaussian without memory, and all rivals, that one first."""
    fit, judged = bins.fit, bins.judged
    some = _thinned(fit, FIT_BINS, bins.size, seed)
    smoothed = [smoothing_errors(z, bins.fresh, gain) for gain in (1.0, fit_local_level(z, bins.fresh, some))]
    rows = np.flatnonzero(some)
    broken = (np.diff(rows, prepend=-2) != 1) | bins.fresh[rows]
    system, centre = fit_linear_system(z[rows], broken, model.states), torch.from_numpy(z[rows].mean(0))
    seen, starts = torch.from_numpy(bins.observed), torch.from_numpy(bins.starts)
    filtered = filter(system, torch.from_numpy(z) - centre, seen, starts)
    means = (z - z[fit].mean(0), *smoothed)
    likelihoods = [log_likelihood(e, _covariance(e[fit])) for e in means]
    of_system = np.full(len(z), np.nan)
    of_system[judged] = log_likelihood(filtered.innovation.numpy()[judged], filtered.innovation_cov.numpy()[judged])
    names = (NO_MEMORY, RANDOM_WALK, LOCAL_LEVEL, LINEAR_SYSTEM)
    rivals = tuple(
        Rival(name, float(own[judged].mean()), *mean_interval((scores - own)[judged], block, seed))
        for name, own in zip(names, [*likelihoods, of_system], strict=True)
    )
    return likelihoods[0], rivals


def _memory(A: Array, bin_size: float) -> Memory:
    eigenvalues = np.linalg.eigvals(A)
    size, angle = np.abs(eigenvalues), np.abs(np.angle(eigenvalues))
    with np.errstate(divide="ignore"):
        constant = np.where(size < 1, -bin_size / np.log(np.where(size < 1, size, 0.5)), np.inf)
        period = np.where(angle > 1e-9, 2 * math.pi * bin_size / np.maximum(angle, 1e-300), np.inf)
    order = np.argsort(-constant)
    return Memory(constant[order], period[order])


def _drift(z: Array, x: Array, gain: Array, bins: _Bins, seed: int) -> Drift:
    parts = np.array_split(np.flatnonzero(bins.judged), DRIFT_BLOCKS)
    middle = np.asarray([bins.time[part].mean() for part in parts])
    by_block = {
        "gain": np.asarray([gain[part].mean() for part in parts]),
        "nis": np.asarray([(x[part] ** 2).mean() for part in parts]),
        "mean_z": np.stack([z[part].mean(0) for part in parts]),
    }
    return Drift(
        np.asarray([bins.time[part[0]] - bins.size / 2 for part in parts]),
        np.asarray([bins.time[part[-1]] + bins.size / 2 for part in parts]),
        **by_block,
        changes={name: trend(values, middle, seed) for name, values in by_block.items()},
    )


def _units(model: LDMFilter, bins: _Bins, seed: int) -> Units:
    n = bins.counts.shape[1]
    piece = _piece(bins, max(min(2_000, 400_000 // max(n, 1)), 250), seed)
    counts = torch.from_numpy(bins.counts[piece.rows])
    system = model.network_.linear_gaussian()
    seen, starts = torch.from_numpy(bins.observed[piece.rows]), torch.from_numpy(piece.starts)
    whole = model.network_.encode(counts).double()
    judged = torch.from_numpy(piece.judged)

    # What is to be predicted is the z of all units; what is filtered is that of all, or of all but one.
    cases = [whole[None]]
    for first in range(0, n, 16):
        without = counts.expand(min(16, n - first), *counts.shape).clone()
        for case, unit in enumerate(range(first, first + len(without))):
            without[case, :, unit] = torch.nan
        cases.append(model.network_.encode(without).double())
    filtered = filter(system, torch.cat(cases), seen, starts)
    error = (whole - filtered.predicted_mean @ system.C.mT)[:, judged].numpy()
    S = filtered.covariances.innovation[filtered.row[0, judged]].numpy()
    scores = log_likelihood(error, S).mean(1)
    loss = scores[0] - scores[1:]
    positive = loss.clip(0)
    return Units(
        model.unit_ids_,
        counts.nanmean(0).nan_to_num().double().numpy() / bins.size,
        loss,
        positive / max(float(positive.sum()), 1e-300),
        _saliency(model, counts[judged]),
    )


def _saliency(model: LDMFilter, counts: Tensor) -> Array:
    network = model.network_
    encoder = network.encoder()
    with torch.enable_grad():
        x = torch.nan_to_num((counts.sqrt() - encoder.input_mean) / encoder.input_scale).requires_grad_()
        z = encoder.layers(x) @ encoder.z_whiten
        squares = sum(
            torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0].square().mean(0) for i in range(z.shape[1])
        )
    return torch.as_tensor(squares).sqrt().numpy().astype(np.float64)


def _sharing(model: LDMFilter, bins: _Bins, surrogates: int, seed: int) -> Sharing:
    """Both numbers on the recorded spikes, which are those of shift 0, and on spikes shifted by unit."""
    piece, units = _piece(bins, PIECE_BINS, seed), bins.counts.shape[1]
    system = model.network_.linear_gaussian()
    seen, starts = torch.from_numpy(bins.observed[piece.rows]), torch.from_numpy(piece.starts)
    usable = np.flatnonzero(bins.observed)
    rank = np.cumsum(bins.observed)[piece.rows] - 1
    fit, judged = bins.halves
    fit, judged = fit[usable], judged[usable]
    roots, lively = _standardised(np.sqrt(bins.counts[usable]), fit)

    def encoded(shifts: Array) -> Tensor:
        rows = usable[(rank[:, None] + shifts) % len(usable)]
        return model.network_.encode(torch.from_numpy(np.take_along_axis(bins.counts, rows, 0))).double()

    def strength(shifts: Array) -> float:
        rows = (np.arange(len(usable))[:, None] + shifts[lively]) % len(usable)
        return coupling(np.take_along_axis(roots, rows, 0), fit, judged, bins.size)

    rng = np.random.default_rng(seed)
    shifts = [np.zeros(units, dtype=np.int64), *(shift_units(len(usable), units, rng) for _ in range(surrogates))]
    z = torch.stack([encoded(one) for one in shifts])
    error = filter(system, z, seen, starts).innovation[:, piece.judged].numpy()
    gains = np.asarray([predictive_gain(*pair) for pair in zip(z[:, piece.judged].numpy(), error, strict=True)])
    strengths = np.asarray([strength(one) for one in shifts])
    return Sharing(float(gains[0]), gains[1:], float(strengths[0]), strengths[1:])


def _standardised(roots: Array, fit: Array) -> tuple[Array, Array]:
    """Roots of counts (time, unit) with mean 0 and variance 1 in the bins `fit`, 0 where not observed, of the
    `COUPLED_UNITS` that vary most; and which these are."""
    seen = ~np.isnan(roots)
    n = np.maximum((seen & fit[:, None]).sum(0), 1)
    filled = np.where(seen, roots, 0)
    mean = filled[fit].sum(0) / n
    centred = np.where(seen, filled - mean, 0)
    scale = np.sqrt((centred[fit] ** 2).sum(0) / n)
    # A unit that hardly fires is not blown up: at least half the typical deviation.
    floor = 0.5 * math.sqrt(float((scale**2).mean())) + 1e-12
    lively = np.sort(np.argsort(-scale)[:COUPLED_UNITS])
    return (centred / np.maximum(scale, floor))[:, lively].astype(np.float32), lively


# Findings: a number, where its threshold lies and why, what it says, and what to change.


def _beyond(interval: tuple[float, float], low: float | None, high: float | None) -> bool:
    """Whether a whole interval lies outside the thresholds: chance alone raises no finding."""
    return (low is not None and interval[1] < low) or (high is not None and interval[0] > high)


def _finding(
    name: str,
    value: float,
    threshold: tuple[float | None, float | None],
    reason: str,
    ok: bool,
    words: tuple[str, str],
    remedy: str,
    unit: str = "",
    interval: tuple[float, float] | None = None,
) -> Finding:
    """`words`: the verdict where nothing is wrong, and where something is."""
    doubtful = ok and interval is not None and _beyond((value, value), *threshold)
    verdict = f"{words[not ok]}; beyond the threshold, but chance may explain it" if doubtful else words[not ok]
    return Finding(name, value, unit, interval, threshold, reason, ok, verdict, "" if ok else remedy, doubtful)


def innovation_findings(c: Consistency, better: str = "") -> tuple[Finding, ...]:
    """What the innovations say of the filter: of their size, their outliers, their correlation. `better` begins the
    remedy of dynamics that do not fit."""
    width = abs(math.sqrt(c.size) - 1)
    strongest, white = float(c.correlation.max()), float(c.white.max())
    limit = math.hypot(white, CORRELATION)
    lag = float(c.lag[int(c.correlation.argmax())])
    p = c.portmanteau[1]
    chance = f"Hosking's test of all lags: p {f'= {p:.2g}' if p > 1e-10 else '< 1e-10'}"
    return (
        _finding(
            INNOVATION_SIZE, c.size, NIS_BAND,
            "1 where the covariances are true; beyond 0.8 to 1.25 intervals are a tenth too wide or too narrow",
            not _beyond(c.size_interval, *NIS_BAND),
            (
                "surprises are about as large as the filter expects",
                f"the filter is {'over' if c.size > 1 else 'under'}confident: surprises are {width:.0%} "
                f"{'larger' if c.size > 1 else 'smaller'} than it expects",
            ),
            "choose fewer --latent-dim or a longer --span" if c.size > 1 else f"choose {better}more --max-steps",
            interval=c.size_interval,
        ),
        _finding(
            OUTLIERS, c.tail, (None, TAIL),
            "0.05 where innovations are Gaussian; at twice that, 95 % regions fail twice as often as they say",
            not _beyond(c.tail_interval, None, TAIL),
            (
                f"{c.tail:.1%} of bins lie outside the region that is to hold 95 %",
                f"{c.tail:.1%} of bins lie outside the region that is to hold 95 %: rare large surprises, which a "
                "Gaussian does not know",
            ),
            "choose a larger --bin-size, which makes counts more Gaussian, or a higher --min-rate",
            interval=c.tail_interval,
        ),
        _finding(
            WHITENESS, strongest, (None, limit),
            f"white innovations stay below {white:.2f} in so many bins; {CORRELATION:g} on top of it means that "
            f"{CORRELATION**2:.0%} of an innovation could have been predicted from one before",
            strongest <= limit,
            (
                f"nothing much is left to predict in the innovations ({chance})",
                f"innovations predict each other, most of all {lag:g} s apart: the dynamics miss something "
                f"({chance})",
            ),
            f"choose {better}more --max-steps, or a --state-dim above --latent-dim",
        ),
    )  # fmt: skip


def _of_spectrum(s: Spectrum) -> Sequence[Finding]:
    latent = len(s.z)
    return (
        _finding(
            Z_RANK, s.z_rank, (0.5 * latent, None),
            f"z is white on training's bins, of rank {latent}; half of that is a collapse on new ones",
            s.z_rank >= 0.5 * latent,
            (
                f"the pseudo-observations use their {latent} dimensions",
                f"the pseudo-observations of {latent} dimensions collapse on new time",
            ),
            "choose fewer --latent-dim, --entropy logdet, or a longer --span",
            "dimensions",
        ),
        _finding(
            PREDICTED_RANK, s.prediction_rank, (0.25 * latent, None),
            "below a quarter of the latent dimensions most of them are noise to the filter",
            s.prediction_rank >= 0.25 * latent,
            (
                "prediction is spread over several dimensions",
                f"prediction lives in few dimensions: the rest of the {latent} is noise",
            ),
            f"choose --latent-dim {max(math.ceil(s.prediction_rank), 1)}",
            "dimensions",
        ),
    )  # fmt: skip


def _of_rivals(rivals: Sequence[Rival], latent: int, better: str) -> Sequence[Finding]:
    names = {NO_MEMORY: GAIN, RANDOM_WALK: AHEAD_OF_WALK, LOCAL_LEVEL: AHEAD_OF_LEVEL, LINEAR_SYSTEM: AHEAD_OF_SYSTEM}
    least = -LAG_BEHIND * latent
    findings = []
    for rival in rivals:
        close = rival.name == LINEAR_SYSTEM
        low = least if close else 0.0
        ok = not _beyond(rival.interval, low, None) if close else rival.lead > 0
        findings.append(
            _finding(
                names[rival.name], rival.lead, (low, None),
                "the filter is one itself: it should come near the best; 0.02 nats a dimension are errors 2 % larger"
                if close else "below 0 the simpler predictor is the better one",
                ok,
                (
                    f"the filter predicts {'as well as' if close else 'better than'} {rival.name}",
                    f"{rival.name} predicts the same pseudo-observations better: the filter's dynamics do not fit them",
                )
                if rival.name != NO_MEMORY
                else (
                    "what came before helps to predict what comes",
                    "what came before does not help: the filter predicts no better than a Gaussian without memory",
                ),
                f"choose {better}more --max-steps or a higher --learning-rate"
                if rival.name != NO_MEMORY else "choose another --bin-size, other --units, or a longer --span",
                "nats per bin", rival.interval,
            )
        )  # fmt: skip
    return findings


def _of_memory(memory: Memory, bins: _Bins) -> Sequence[Finding]:
    constants, states = memory.time_constant, len(memory.time_constant)
    short = int((constants < bins.size).sum())
    edges = np.flatnonzero(np.append(bins.starts, True))
    longest = float(np.diff(edges).max() * bins.size)
    slowest = float(constants.max())
    return (
        _finding(
            FORGETFUL, float(short), (None, 0.5 * states),
            f"a state that forgets within a bin of {bins.size:g} s predicts nothing; half of {states} may",
            short <= 0.5 * states,
            (f"{states - short} of {states} states remember longer than a bin", f"{short} of {states} states do not"
             " remember for a bin"),
            f"choose --latent-dim {max(states - short, 1)} or a smaller --bin-size",
            "states",
        ),
        _finding(
            SLOWEST, slowest, (None, longest),
            f"the longest stretch without a gap has {longest:.0f} s: nothing slower can be told from a constant",
            slowest <= longest,
            (
                "the slowest state is much faster than the recording is long",
                "the slowest state hardly changes in any stretch: its time constant is not known",
            ),
            "choose a longer --span, or fewer --latent-dim",
            "s",
        ),
    )  # fmt: skip


def _of_units(units: Units) -> Finding:
    most = int(units.share.argmax())
    limit = max(LARGEST_UNIT, 1.5 / len(units.share))
    value = float(units.share[most])
    return _finding(
        LARGEST, value, (None, limit),
        "a filter of the population should not hang on one unit: without it, it would be lost",
        value <= limit,
        (
            f"unit {units.unit[most]} counts most, with {value:.0%} of what single units add",
            f"unit {units.unit[most]} carries {value:.0%} of what single units add: the filter follows one unit",
        ),
        f"look at unit {units.unit[most]}; leave it out by --units, or choose more --dropout",
    )  # fmt: skip


def _of_drift(drift: Drift, gain: float) -> Sequence[Finding]:
    questions = (
        (
            "gain", DRIFT_GAIN, 0.5 * max(abs(gain), 0.1), "nats per bin",
            "half of the gain over no memory: the filter would be another one at the end",
            "how well the filter predicts",
        ),
        (
            "nis", DRIFT_NIS, 0.5, "",
            "0.5 is as much as intervals a quarter too wide or too narrow at one end",
            "how large surprises are against what the filter expects",
        ),
        (
            "mean_z", DRIFT_Z, 0.5, "deviations",
            "half a deviation of z, along the direction it moves in: half of what it varies by anyway",
            "where the pseudo-observations lie",
        ),
    )  # fmt: skip
    findings = []
    for key, name, size, unit, reason, what in questions:
        change, p = drift.changes[key]
        ok = abs(change) <= size or p > DRIFT_LEVEL
        findings.append(
            _finding(
                name, change, (-size, size), f"{reason}; and not by chance, p <= {DRIFT_LEVEL:g}", ok,
                (
                    f"{what} does not drift over the session (p = {p:.2g})",
                    f"{what} drifts over the session (p = {p:.2g})",
                ),
                "choose a shorter --span, or stable --units",
                unit,
            )
        )  # fmt: skip
    return findings


def _of_sharing(sharing: Sharing) -> Sequence[Finding]:
    shifted, n = sharing.surrogate_gain, len(sharing.surrogate_gain)
    most = float(shifted.max(initial=0.0))
    others = sharing.surrogate_coupling
    limit = max(float(others.mean() + COUPLING_DEVIATIONS * others.std(ddof=1)), 0.0) if n > 1 else 0.0
    return (
        _finding(
            COUPLING, sharing.coupling, (limit, None),
            f"{COUPLING_DEVIATIONS:g} deviations above {n} sets of spikes with each unit shifted in time by itself",
            sharing.coupling > limit,
            (
                "units predict each other beyond their own rhythms",
                "units do not predict each other: nothing is shared that lasts longer than a bin",
            ),
            "choose another --bin-size, more --units, or a longer --span",
        ),
        _finding(
            SHARED, sharing.gain, (most, None),
            f"the most that the same filter gains on {n} sets of spikes with each unit shifted in time by itself",
            sharing.gain > most,
            (
                f"the filter gains {sharing.gain:.2f} nats per bin on the recorded spikes, {shifted.mean():.2f} on "
                "shifted ones",
                f"the filter gains {sharing.gain:.2f} nats per bin on the recorded spikes and {shifted.mean():.2f} on "
                "shifted ones: it follows each unit's own rhythm",
            ),
            "choose more --max-steps, other --units, or a longer --span",
            "nats per bin",
        ),
    )  # fmt: skip


def _summary(findings: Sequence[Finding], predictive: bool, bins: _Bins) -> str:
    seconds = bins.judged.sum() * bins.size
    where = (
        f"Judged on {seconds:.0f} s that training never saw."
        if bins.held_out
        else f"Judged on {seconds:.0f} s that training saw, as none was kept apart (--reserve): this is optimistic."
    )
    wrong = [finding.name for finding in findings if not finding.ok]
    if not predictive:
        return f"Nothing predictive was found, beyond each unit's own rhythm. {where}"
    found = "Something predictive was found that the units share."
    doubts = f"To look at: {', '.join(wrong)}." if wrong else "No check raises a doubt."
    return f"{found} {where} {doubts}"
