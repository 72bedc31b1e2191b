"""Statistics of innovations, spectra, couplings and trends, as functions of arrays, for anyone's filter.

Those of innovations are from Bar-Shalom, Li & Kirubarajan 2001, *Estimation with Applications to Tracking and
Navigation*, section 5.4, unless another source is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter
from scipy.stats import chi2, entropy
from sklearn.linear_model import Ridge

from ldmfilter.data.tables import Array

INFORMATION_UNIT = "nats per second"  # of log-likelihoods and predictive information
BLOCK = 5.0  # s, a block of the bootstrap: longer than what neighbouring bins remember of each other
RESAMPLES = 2_000  # of a bootstrap or a permutation test: a standard error is then right to 2 %
LAGS = 10
# s, of the averages of the past that counts are predicted from, beside those of FAST bins
OWN_TIMES, OTHERS_TIME, FAST = (0.25, 1.0, 4.0), 1.0, 2


@dataclass(frozen=True, eq=False)
class Consistency:
    """Normalised innovations squared (NIS) against chi-square, and the correlations of innovations.

    Attributes:
        size: mean NIS per latent dimension, 1 where the covariances are true, and its 95 % interval.
        tail: share of bins beyond chi-square's 95 % quantile, and its 95 % interval.
        probability: (quantile,) levels of the quantiles.
        nis: (quantile,) of the judged bins' NIS.
        chi2: (quantile,) of chi-square with as many degrees of freedom as z has dimensions.
        lag: (lag,) s, the first and those with pairs enough to tell a correlation.
        correlation: (lag,) largest correlation of any direction of the innovation with any direction so much earlier.
        white: (lag,) upper bound for white innovations, at all lags together with 95 %.
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

    @property
    def worst_lag(self) -> float:
        """The lag of the largest correlation, s."""
        return float(self.lag[self.correlation.argmax()])

    @property
    def hosking(self) -> str:
        """The result of Hosking's test, in words."""
        p = self.portmanteau[1]
        return f"Hosking's test of all lags: p {f'= {p:.2g}' if p > 1e-10 else '< 1e-10'}"


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variances along principal axes, in falling order, of z and of its prediction, (latent,) each; and their
    effective ranks."""

    z: Array
    prediction: Array
    z_rank: float
    prediction_rank: float


@dataclass(frozen=True, eq=False)
class Memory:
    """Time constants (s) and periods (s, infinite where nothing turns) of the eigenvalues of A; (state,) each, the
    slowest first."""

    time_constant: Array
    period: Array


def covariance(x: Array) -> Array:
    """Covariance (dim, dim) of samples (time, dim), with a small ridge so that it can always be factorised."""
    cov = np.cov(x.T, bias=True).reshape(x.shape[1], -1)
    return cov + (1e-9 * float(np.diagonal(cov).mean()) + 1e-12) * np.eye(len(cov))


def normalised(error: Array, cov: Array) -> Array:
    """L_t^-1 e_t with S_t = L_t L_t', of errors (time, latent) with covariances S (latent, latent) or (time, ...).

    Innovations of a filter that is right are then white with unit covariance, and their squared norms, the NIS
    e' S^-1 e, are chi-square with `latent` degrees of freedom.
    """
    return np.linalg.solve(np.linalg.cholesky(cov), error[..., None])[..., 0]


def log_likelihood(error: Array, cov: Array) -> Array:
    """log N(e_t; 0, S_t) (time,), nats, of errors (time, latent) with covariances S (latent, latent) or (time, ...)."""
    return -0.5 * ((normalised(error, cov) ** 2).sum(-1) + np.linalg.slogdet(2 * math.pi * cov)[1])


def block_bootstrap(values: Array, block: Array, seed: int = 0) -> Array:
    """Means (draw, ...) of values (time, ...) over blocks that are drawn with replacement (Kunsch 1989, Ann. Stat. 17).

    Neighbouring bins depend on each other, blocks (time,), given by number, hardly.
    """
    blocks, of = np.unique(block, return_inverse=True)
    sums = np.zeros((blocks.size, *values.shape[1:]))
    np.add.at(sums, of, values)
    chance = np.full(blocks.size, 1 / blocks.size)
    draws = np.random.default_rng(seed).multinomial(blocks.size, chance, size=RESAMPLES)
    size = (draws @ np.bincount(of)).reshape(-1, *[1] * (values.ndim - 1))
    return np.tensordot(draws, sums, 1) / size


def mean_interval(values: Array, time: Array, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean of values (time,) and its 95 % interval by `block_bootstrap`, in blocks of `BLOCK` s."""
    low, high = np.quantile(block_bootstrap(values, np.floor(time / BLOCK), seed), [0.025, 0.975]).tolist()
    return float(values.mean()), (low, high)


def lagged_correlations(x: Array, judged: Array, segment: Array, lags: int) -> tuple[Array, Array]:
    """Correlations of x_t with x_{t-k}, (lag, latent, latent), for k = 1 .. lags, and (lag,) the numbers of pairs.

    Whitened are x (time, latent) by their covariance in the judged bins (time,). Both bins of a pair are judged ones of
    one gap-free stretch, whose number is `segment` (time,).
    """
    white = normalised(x - x[judged].mean(0), covariance(x[judged]))
    matrices, pairs = [], []
    for k in range(1, lags + 1):
        both = judged[k:] & judged[:-k] & (segment[k:] == segment[:-k])
        pairs.append(int(both.sum()))
        matrices.append(white[k:][both].T @ white[:-k][both] / max(pairs[-1], 1))
    return np.stack(matrices), np.asarray(pairs)


def white_band(latent: int, pairs: Array) -> Array:
    """Bound (lag,) of the largest singular value of a lagged correlation matrix of white noise, at all lags together
    with 95 %: (2 sqrt(latent) + t) / sqrt(pairs), exceeded with exp(-t^2 / 2) (Davidson & Szarek 2001)."""
    t = math.sqrt(2 * math.log(len(pairs) / 0.05))
    return (2 * math.sqrt(latent) + t) / np.sqrt(np.maximum(pairs, 1))


def portmanteau(correlations: Array, pairs: Array) -> tuple[float, float]:
    """Hosking's (1980) statistic, the sum over lags of n tr(C_k' C_k) for white x, and its p-value: chi-square with
    latent^2 degrees of freedom a lag. With enough bins it is significant for any filter."""
    statistic = float((pairs * (correlations**2).sum((1, 2))).sum())
    return statistic, float(chi2.sf(statistic, correlations.size))


def consistency(x: Array, judged: Array, segment: Array, time: Array, bin_size: float, seed: int = 0) -> Consistency:
    """Size and correlations of normalised innovations x (time, latent), beside those of a filter that is right.

    Judged are the bins `judged` (time,); `segment` (time,) is the number of the gap-free stretch, `time` (time,) and
    `bin_size` are in s, `seed` is of the bootstrap.
    """
    latent, nis = x.shape[1], (x[judged] ** 2).sum(1)
    time, levels = time[judged], np.arange(1, 200) / 200
    matrices, pairs = lagged_correlations(x, judged, segment, LAGS)
    white = white_band(latent, pairs)
    told = white < 1  # beyond a correlation of 1 there is nothing: too few pairs, as in short trials
    told[0] = True
    return Consistency(
        *mean_interval(nis / latent, time, seed),
        *mean_interval((nis > chi2.ppf(0.95, latent)).astype(float), time, seed),
        levels,
        np.quantile(nis, levels),
        chi2.ppf(levels, latent),
        (np.arange(1, LAGS + 1) * bin_size)[told],
        np.linalg.norm(matrices[told], 2, (1, 2)),
        white[told],
        portmanteau(matrices[told], pairs[told]),
    )


def effective_rank(variances: Array) -> float:
    """Exponential of the entropy of normalised variances (Roy & Vetterli 2007)."""
    return float(np.exp(entropy(variances)))


def spectrum(z: Array, zhat: Array) -> Spectrum:
    """Spectra of z (time, latent) and of its prediction."""
    of_z, of_zhat = (np.linalg.eigvalsh(covariance(x))[::-1].clip(0) for x in (z, zhat))
    return Spectrum(of_z, of_zhat, effective_rank(of_z), effective_rank(of_zhat))


def memory(A: Array, bin_size: float, number: int) -> Memory:
    """Time constants and periods of the slowest `number` of the dynamics A (state, state) from one bin to the next."""
    with np.errstate(divide="ignore"):
        logarithm = np.log(np.linalg.eigvals(A).astype(np.complex128))
        constant = np.where(logarithm.real < 0, -bin_size / logarithm.real, np.inf)
        period = 2 * math.pi * bin_size / np.abs(logarithm.imag)
    order = np.argsort(-constant)[:number]
    return Memory(constant[order], period[order])


def coupling(x: Array, fit: Array, judged: Array, bin_size: float) -> float:
    """Correlation of the part of each unit that its own past does not explain with its prediction from the past of all
    units, over all units: about 0 where the units are independent, whatever their own rhythms.

    Each unit's x is regressed on averages of its own past; what is left is predicted from an average of the past of all
    units, by ridge regression. Of two averages, of two bins and of a second, the better one counts.

    x (time, unit) is standardised; the regressions are fitted to the bins `fit` (time,), and judged on `judged`
    (time,).
    """
    n = int(fit.sum())

    def past(seconds: float) -> Array:
        keep = math.exp(-bin_size / seconds)
        average = lfilter(*np.asarray([[0, 1 - keep], [1, -keep]], dtype=x.dtype), x, axis=0)
        scale = average[fit].std(0)
        # A unit that hardly fires is not magnified: its deviation counts as at least half the typical one.
        floor = 0.5 * math.sqrt(float((scale**2).mean())) + 1e-12
        return (average - average[fit].mean(0)) / np.maximum(scale, floor)

    own = np.stack([past(seconds) for seconds in (FAST * bin_size, *OWN_TIMES)], -1)  # (time, unit, average)
    inside = own[fit].transpose(1, 2, 0)
    gram = inside @ inside.swapaxes(1, 2) + 1e-3 * n * np.eye(own.shape[-1])
    weights = np.linalg.solve(gram, inside @ x[fit].T[..., None])[..., 0].astype(x.dtype)
    left = x - (own * weights).sum(-1)
    left -= left[fit].mean(0)

    def strength(others: Array) -> float:
        ridge = Ridge(0.3 * n, fit_intercept=False).fit(others[fit], left[fit])
        target, predicted = left[judged].ravel(), ridge.predict(others[judged]).ravel()
        size = float(np.linalg.norm(target) * np.linalg.norm(predicted))
        return float(target @ predicted) / size if size > 0 else 0.0

    return max(strength(own[..., 0]), strength(past(OTHERS_TIME)))


def trend(values: Array, time: Array, seed: int = 0) -> tuple[float, float]:
    """Change of values (block,) or (block, dim) along a line over time (block,), from the first to the last, and the
    p-value of a permutation test. Of several dimensions the length of the change."""
    values = values.reshape(len(values), -1)
    centred = time - time.mean()
    weights = centred * (time[-1] - time[0]) / max(float((centred**2).sum()), 1e-300)
    change = weights @ values
    size = float(np.linalg.norm(change))
    shuffled = np.random.default_rng(seed).permuted(np.tile(weights, (RESAMPLES, 1)), axis=1)
    larger = np.linalg.norm(shuffled @ values, axis=1) >= size * (1 - 1e-12)
    return (size if len(change) > 1 else float(change[0])), (1 + int(larger.sum())) / (RESAMPLES + 1)
