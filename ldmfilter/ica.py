"""Linear independent component analysis by distribution matching, with scikit-learn's API.

The encoder is z = W (x - mean) and the latent model is independent sources, so that (method.md, section 1)

    F = sum_i <log p_i(z_i)> + log|det W|

is the likelihood of the data: maximum likelihood ICA (Bell & Sejnowski 1995; Pham & Garat 1997). The centre of each
p_i, and by default its shape, is fitted with it.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ldmfilter.errors import InputError
from ldmfilter.ldm.alignment import generalized_gaussian, logistic
from ldmfilter.ldm.objectives import independent_sources

Density = Literal["generalized_gaussian", "logistic", "laplace", "gaussian_known_variance"]

#: Shapes of the generalised Gaussian, from Laplace's density to nearly the uniform. Below 1 the density has a cusp,
#: which pulls samples to zero rather than sources apart; far above 12 it has walls, at which the search stops.
SHAPES = (1.0, 12.0)
#: Rounding of |y| at zero, in units of alpha: at a corner of the density the objective has no gradient.
CORNER = 0.01
#: Shapes closer than this ratio are taken as the same.
SETTLED = 1.05
#: Least eigenvalue of the Hessian's blocks and steps that the quasi-Newton method remembers, as in Ablin, Cardoso &
#: Gramfort (2018).
LEAST_CURVATURE, MEMORY = 0.01, 7
#: Most halvings of a step: a few samples around a corner give a poor curvature, and steps are too long.
HALVINGS = 30
#: Loss of F at a step that rounding explains, nats per source.
ROUNDING = 1e-14


class LDMICA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Independent sources z = W (x - mean) whose distribution matches a given density.

    Each density is centred where F is largest, not at the mean: a symmetric density at the mean separates a skewed
    source badly.

    Args:
        n_components: number of sources. None takes as many as the data have dimensions (their rank); fewer keep the
            principal axes with the largest variance.
        density: of each source. "generalized_gaussian": see `shape`. "logistic" and "laplace": for sources
            with heavier tails than a Gaussian's. "gaussian_known_variance": Gaussians with the given, different
            `variances`, mixed by a rotation, so that W is orthogonal and the volume is preserved.
        shape: beta of the generalised Gaussian, from 1 to 12: 1 is Laplace's, 2 the Gaussian's, which no linear method
            separates, 4 has light tails. None chooses one for each source, by its <|z|> / sd.
        variances: of the sources, for "gaussian_known_variance"; in data units squared, one for each feature.
        tol: least expected gain of another step, in nats of the log-likelihood of all samples. At convergence the error
            is below sqrt(2 tol) of the standard error due to the number of samples.
        max_iter: iterations at most; then a ConvergenceWarning.
        random_state: of the rotation that the search starts from.

    Attributes:
        components_: (source, feature) W. Scaled to the density: unit variance where the density is right.
        mixing_: (feature, source) from sources back to data; `components_ @ mixing_` is the identity.
        mean_: (feature,) of the data.
        location_: (source,) the centre of each density; zero with known variances.
        shape_: (source,) beta; None for the logistic density.
        n_iter_: iterations taken.
        converged_: whether `tol` was reached.
        log_likelihood_: F, nats per sample.
        n_features_in_, feature_names_in_: see scikit-learn.

    Sources are in the order of the variance that they explain, the largest first, and turned so that the largest entry
    of their column of `mixing_` is positive; with known variances, in the order of `variances`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sources = np.stack([rng.laplace(size=2000), rng.uniform(-1, 1, 2000)], axis=1)
        >>> mixing = np.array([[1.0, 0.7], [0.7, 1.0]])
        >>> ica = LDMICA(random_state=0).fit(sources @ mixing.T)
        >>> amari_distance(ica.components_, mixing) < 0.05
        True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        density: Density = "generalized_gaussian",
        shape: float | None = None,
        variances: Any = None,
        tol: float = 1e-4,
        max_iter: int = 200,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.density = density
        self.shape = shape
        self.variances = variances
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> LDMICA:
        """Find W for samples X (sample, feature).

        Raises:
            InputError: an option out of its range; more components than dimensions; data without variance.
            ValueError: X is no finite matrix of two samples or more.
        """
        self._check_options()
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.mean_ = X.mean(0)
        centred = X - self.mean_
        if self.density == "gaussian_known_variance":
            W, mixing, log_density = self._rotate(centred)
        else:
            W, mixing, log_density = self._search(centred)
        sign = np.sign(mixing[np.abs(mixing).argmax(0), np.arange(len(W))])
        self.location_ *= sign
        self.components_ = W = W * sign[:, None]
        self.mixing_ = mixing * sign
        z = torch.from_numpy(centred @ W.T - self.location_)
        F = independent_sources(z, torch.from_numpy(W), log_density)
        self.log_likelihood_ = float(F.value)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Sources (sample, source) of samples X (sample, feature)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_) @ self.components_.T

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Samples (sample, feature) that sources Z (sample, source) are mixed to."""
        check_is_fitted(self)
        return np.asarray(Z, dtype=np.float64) @ self.mixing_.T + self.mean_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _check_options(self) -> None:
        if self.density not in get_args(Density):
            raise InputError(f"density is {self.density!r}; it must be one of {', '.join(get_args(Density))}")
        if self.shape is not None and self.density != "generalized_gaussian":
            raise InputError(f"shape is {self.shape}; density {self.density} has none, leave it out")
        if self.shape is not None and not (isinstance(self.shape, Real) and SHAPES[0] <= self.shape <= SHAPES[1]):
            raise InputError(f"shape is {self.shape!r}; it must be a number from {SHAPES[0]:g} to {SHAPES[1]:g}")
        if (self.variances is None) == (self.density == "gaussian_known_variance"):
            raise InputError("variances go with density gaussian_known_variance, and only with it")
        if self.n_components is not None and not isinstance(self.n_components, Integral):
            raise InputError(f"n_components is {self.n_components!r}; it must be a whole number or None")
        whole = isinstance(self.max_iter, Integral) and self.max_iter >= 1
        if not (whole and isinstance(self.tol, Real) and self.tol > 0):
            raise InputError(
                f"tol is {self.tol!r} and max_iter {self.max_iter!r}; tol must be above 0, "
                "max_iter a whole number from 1"
            )

    def _rotate(self, centred: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable[[Tensor], Tensor]]:
        """The orthogonal W that maximises -sum_i <z_i^2> / 2 sigma_i^2, in closed form: by von Neumann's trace
        inequality its rows are the eigenvectors of the covariance, the larger eigenvalue for the larger sigma_i^2."""
        n_samples, n_features = centred.shape
        try:
            variances = np.asarray(self.variances, dtype=np.float64)
        except (TypeError, ValueError):
            variances = np.empty(0)
        if variances.shape != (n_features,) or not (np.isfinite(variances) & (variances > 0)).all():
            raise InputError(f"variances must be {n_features} positive numbers, one for each feature of the data")
        if len(np.unique(variances)) < n_features:
            raise InputError("variances must differ: Gaussian sources of equal variance look the same when rotated")
        if self.n_components not in (None, n_features):
            raise InputError(
                f"n_components is {self.n_components}; with known variances it is {n_features}, the number of features"
            )
        axes = np.linalg.eigh(centred.T @ centred / n_samples)[1]
        W = np.empty_like(axes)
        W[np.argsort(variances)] = axes.T
        self.n_iter_, self.converged_ = 1, True
        self.location_: np.ndarray = np.zeros(n_features)
        self.shape_: np.ndarray | None = np.full(n_features, 2.0)
        sd = torch.from_numpy(np.sqrt(variances))
        return W, W.T, lambda z: generalized_gaussian(z, 2.0, sd)

    def _search(self, centred: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable[[Tensor], Tensor]]:
        """Whiten, search for W on white data, sort its rows."""
        K, colour = _whitening(centred, self.n_components)
        Y = torch.from_numpy(np.ascontiguousarray(K @ centred.T))
        start = np.linalg.qr(check_random_state(self.random_state).standard_normal((len(K), len(K))))[0]
        fixed = 1.0 if self.density == "laplace" else self.shape
        found = _maximise(Y, torch.from_numpy(start), self.density, fixed, self.tol, self.max_iter)
        if not found.converged:
            warnings.warn(
                f"LDMICA has not converged in {found.n_iter} iterations: another step promises {found.promise:.2g} "
                f"nats, tol is {self.tol:.2g}; raise max_iter, or choose a density closer to the sources'",
                ConvergenceWarning,
                stacklevel=3,
            )
        W = found.W.numpy() @ K
        mixing = colour @ np.linalg.inv(found.W.numpy())
        order = np.argsort(-np.square(mixing).sum(0) * np.square(centred @ W.T).mean(0), kind="stable")
        W, mixing = W[order], mixing[:, order]
        self.n_iter_, self.converged_ = found.n_iter, found.converged
        self.location_ = found.location.numpy()[order]
        if self.density == "logistic":
            self.shape_ = None
            return W, mixing, logistic
        beta = found.shape[torch.from_numpy(order)]
        self.shape_ = beta.numpy()
        return W, mixing, lambda z: generalized_gaussian(z, beta, corner=CORNER)


def amari_distance(W: np.ndarray, mixing: np.ndarray) -> float:
    """Distance of W mixing from a scaled permutation: 0 where all sources are recovered, 1 at worst,

        1 / (2 n (n - 1)) [ sum_i (sum_j |p_ij| / max_j |p_ij| - 1) + sum_j (sum_i |p_ij| / max_i |p_ij| - 1) ]

    with P = W mixing, n x n, n > 1 (Amari, Cichocki & Yang 1996, scaled as by Bach & Jordan 2002).

    Raises:
        InputError: W (source, feature) and mixing (feature, source) do not fit, or are of one source.
    """
    W, mixing = np.asarray(W), np.asarray(mixing)
    if W.ndim != 2 or W.shape != mixing.shape[::-1] or len(W) < 2:
        raise InputError(
            f"W has the shape {W.shape}, mixing {mixing.shape}; they must be (source, feature) and (feature, source), "
            "of two sources or more"
        )
    P = np.abs(W @ mixing)
    n = len(P)
    rows, columns = P / P.max(1, keepdims=True), P / P.max(0, keepdims=True)
    return float(rows.sum() + columns.sum() - 2 * n) / (2 * n * (n - 1))


def _whitening(centred: np.ndarray, n_components: int | None) -> tuple[np.ndarray, np.ndarray]:
    """K (component, feature) such that K x is white, on `n_components` axes, or on all; and the matrix
    (feature, component) that brings white data back to these axes.

    Raises:
        InputError: no variance, or less dimensions than components.
    """
    n_samples, n_features = centred.shape
    # Axes are found in units that do not depend on those of the features; where some are to be left out, units decide.
    unit = centred.std(0) if n_components is None else np.ones(n_features)
    unit[unit == 0] = 1.0
    _, size, axes = np.linalg.svd(centred / unit, full_matrices=False)
    rank = int((size > size[0] * max(centred.shape) * np.finfo(float).eps).sum())
    if rank == 0:
        raise InputError("the data have no variance; ICA needs samples that differ")
    if n_components is not None and not 1 <= n_components <= rank:
        raise InputError(f"n_components is {n_components}; the data have {rank} dimensions, choose 1 to {rank}")
    keep = slice(rank if n_components is None else n_components)
    sd = size[keep, None] / math.sqrt(n_samples)
    return axes[keep] / sd / unit, (axes[keep] * sd * unit).T


class _Found(NamedTuple):
    """The end of the search, on white data."""

    W: Tensor
    shape: Tensor
    location: Tensor
    n_iter: int
    converged: bool
    promise: float  # nats, of all samples


class _Fit(NamedTuple):
    """Of sources y (source, sample), less their location: sum_i <log p_i(y_i)>, nats; the score psi = -d log p / dy;
    <psi'> and <psi' y^2> of each source."""

    value: float
    psi: Tensor
    slope: Tensor
    slope_y2: Tensor


def _generalized_gaussian_fit(y: Tensor, beta: Tensor) -> _Fit:
    """With x = y / alpha, r = sqrt(x^2 + corner^2): psi = beta x r^(beta-2) / alpha,
    psi' = beta r^(beta-2) (1 + (beta-2) x^2 / r^2) / alpha^2."""
    b = beta[:, None]
    log_alpha = 0.5 * (torch.lgamma(1 / b) - torch.lgamma(3 / b))
    alpha = log_alpha.exp()
    x = y / alpha
    x2 = x.square()
    r2 = x2 + CORNER**2
    power = (r2.log() * (0.5 * b - 1)).exp()  # half the time of pow
    log_norm = (torch.lgamma(1 / b) + log_alpha - (b / 2).log()).sum()
    value = -float((power * r2).mean(1).sum() + log_norm)
    slope = power * (1 + (b - 2) * (x2 / r2)) * b
    return _Fit(value, x * power * (b / alpha), slope.mean(1) / alpha[:, 0].square(), (slope * x2).mean(1))


def _logistic_fit(y: Tensor) -> _Fit:
    """psi = tanh(y / 2s) / s, psi' = (1 - tanh^2(y / 2s)) / 2 s^2, with e = exp(-|y| / s) computed once."""
    s = math.sqrt(3) / math.pi
    size = y.abs() / s
    e = torch.exp(-size)
    value = -float((size + 2 * torch.log1p(e)).mean(1).sum()) - len(y) * math.log(s)
    tanh = torch.copysign((1 - e) / (1 + e), y)
    slope = (1 - tanh.square()) / (2 * s**2)
    return _Fit(value, tanh / s, slope.mean(1), (slope * y.square()).mean(1))


def _matched_shape(Y: Tensor) -> Tensor:
    """For each source the beta whose density has its <|y|> / sd, within `SHAPES` (Mallat 1989)."""
    beta = np.geomspace(*SHAPES, 200)
    gamma = torch.from_numpy(1 / beta)
    ratio = (torch.lgamma(2 * gamma) - 0.5 * (torch.lgamma(gamma) + torch.lgamma(3 * gamma))).exp().numpy()
    measured = (Y.abs().mean(1) / Y.square().mean(1).sqrt()).numpy()
    return torch.from_numpy(np.interp(measured, ratio, beta))


def _settled(new: Tensor, beta: Tensor) -> bool:
    return float((new / beta).log().abs().max()) <= math.log(SETTLED)


def _maximise(Y: Tensor, W: Tensor, density: str, shape: float | None, tol: float, max_iter: int) -> _Found:
    """Maximise F over W and the locations m for white Y (source, sample): W <- (I + E) W, m <- m + e.

    Preconditioned L-BFGS as in Picard (Ablin, Cardoso & Gramfort 2018). At independent sources the Hessian of -F
    couples E_ij with E_ji alone, by [[h_ij, 1], [1, h_ji]] with h_ij = <psi_i'> <y_j^2>; E_ii has 1 + <psi_i' y_i^2>,
    e_i has <psi_i'>. The memory of past steps corrects for the rest. E and e are one matrix, e its last column.
    """
    n, n_samples = Y.shape
    eye = torch.eye(n, dtype=Y.dtype)
    beta = torch.full((n,), 2.0 if shape is None else float(shape), dtype=Y.dtype)
    follow = matching = density == "generalized_gaussian" and shape is None
    fit = _logistic_fit if density == "logistic" else lambda y: _generalized_gaussian_fit(y, beta)
    Y, location = W @ Y, torch.zeros(n, dtype=Y.dtype)
    at = fit(Y)
    memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    last: tuple[Tensor, Tensor] | None = None  # the step taken, the gradient before it
    promise = math.inf
    for iteration in range(1, max_iter + 1):
        if follow:  # shapes follow the sources until they come to rest, and are compared again at the end
            new = _matched_shape(Y)
            if follow := not _settled(new, beta):
                beta, last = new, None
                at = fit(Y - location[:, None])
                memory.clear()
        G = torch.cat([at.psi @ Y.mT / n_samples - eye, -at.psi.mean(1, keepdim=True)], 1)
        if last is not None and float((last[0] * (G - last[1])).sum()) > 0:
            memory.append((last[0], G - last[1]))
        E = _direction(G, at, Y, memory)
        promise = -0.5 * n_samples * float((G * E).sum())
        if promise < tol:
            follow = matching and not _settled(_matched_shape(Y), beta)
            if not follow:
                return _Found(W, beta, location, iteration, True, promise)
            continue
        for _ in range(HALVINGS):
            step, moved = eye + E[:, :n], location + E[:, n]
            trial = step @ Y
            there = fit(trial - moved[:, None])
            if there.value - at.value + float(torch.linalg.slogdet(step)[1]) > -n * ROUNDING:
                last = (E, G)
                W, Y, location, at = step @ W, trial, moved, there
                break
            E = E / 2
        else:
            if not memory:
                break
            memory.clear()
            last = None
    return _Found(W, beta, location, iteration, False, promise)


def _direction(G: Tensor, at: _Fit, Y: Tensor, memory: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """-H^-1 G by the two loops of L-BFGS (Nocedal & Wright 2006, algorithm 7.4), H_0 as in `_maximise`."""
    h = at.slope[:, None] * Y.square().mean(1)
    least = 0.5 * (h + h.mT - ((h - h.mT).square() + 4).sqrt())  # the smaller eigenvalue of each block
    h = h + (LEAST_CURVATURE - least).clamp_min(0)
    diagonal = (1 + at.slope_y2).clamp_min(LEAST_CURVATURE)
    q = G
    weights = []
    for step, change in reversed(memory):
        weight = (step * q).sum() / (step * change).sum()
        weights.append(weight)
        q = q - weight * change
    square = q[:, :-1]
    pairs = (h.mT * square - square.mT) / (h * h.mT - 1)
    pairs.diagonal().copy_(square.diagonal() / diagonal)
    E = torch.cat([pairs, q[:, -1:] / at.slope.clamp_min(LEAST_CURVATURE)[:, None]], 1)
    for (step, change), weight in zip(memory, reversed(weights), strict=True):
        E = E + (weight - (change * E).sum() / (step * change).sum()) * step
    return -E
