"""A linear dynamical system fitted to pseudo-observations by expectation maximisation."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor

from ldmfilter.data.tables import Array, Floats
from ldmfilter.filter.kalman import Filtered, LinearGaussian, filter, smooth
from ldmfilter.filter.linalg import safe_cholesky, stationary_covariance, symmetrise

STEPS, LAGS = 30, 8  # of the expectation maximisation at most; of the covariances that it begins with at least
ENOUGH = 0.002  # nats a bin: it ends when a step adds less


def fit_linear_system(z: Floats, starts: Array, state_dim: int) -> LinearGaussian:
    """The most likely linear dynamical system of z (time, latent) less its mean, by expectation maximisation (Shumway &
    Stoffer 1982), which begins with the covariances at several lags (`_first_guess`). A step may lower the likelihood,
    as each keeps A stable and the prior stationary: there it ends, with the system before.

    Args:
        z: pseudo-observations.
        starts: (time,) bool, the first bins of gap-free stretches.
        state_dim: dimensions of its state.
    """
    centred = z - z.mean(0)
    root = np.linalg.cholesky(centred.T @ centred / len(z))
    x, new = torch.from_numpy(np.linalg.solve(root, centred.T).T.copy()), torch.from_numpy(starts)
    system = following = _first_guess(x.numpy(), starts, state_dim)
    before = -math.inf
    for _ in range(STEPS):
        filtered = filter(following, x, starts=new)
        now = _log_likelihood(filtered)
        gain = now - before
        if gain > 0:
            system, before = following, now
        if gain < ENOUGH:
            break
        following = _maximised(system, x, new, filtered)
    scale = torch.from_numpy(root)
    return system._replace(C=scale @ system.C, R=symmetrise(scale @ system.R @ scale.mT))


def _log_likelihood(filtered: Filtered) -> float:
    """Mean over bins, nats, less its constant."""
    L, row = safe_cholesky(filtered.covariances.innovation), filtered.row
    white = torch.linalg.solve_triangular(L[row], filtered.innovation[..., None], upper=False)
    return -float((0.5 * white.square().sum((1, 2)) + L.diagonal(dim1=1, dim2=2).log().sum(1)[row]).mean())


def _maximised(system: LinearGaussian, x: Tensor, new: Tensor, filtered: Filtered) -> LinearGaussian:
    """The system that maximises the expected log-likelihood of x and the states, of which `filtered` are the means and
    covariances given the past."""
    smoothed = smooth(system, filtered, new)
    m, P, row = smoothed.smoothed_mean, smoothed.covariances, smoothed.row
    later = torch.nonzero(~new[1:])[:, 0] + 1  # bins that follow another
    # Lag-one covariance P_{t,t-1|T} = P_{t|T} G_{t-1}', with the smoother's gain G.
    ahead = system.A @ filtered.covariances.filtered
    G = torch.cholesky_solve(ahead, safe_cholesky(symmetrise(ahead @ system.A.mT + system.Q))).mT
    pairs, number = torch.unique(torch.stack([row[later], filtered.row[later - 1]], 1), dim=0, return_counts=True)
    cross = m[later].mT @ m[later - 1] + torch.einsum("n,nij,nkj->ik", number.to(P), P[pairs[:, 0]], G[pairs[:, 1]])
    start = symmetrise(m[later - 1].mT @ m[later - 1] + _total(P, row[later - 1]))
    stop = symmetrise(m[later].mT @ m[later] + _total(P, row[later]))
    A = _stable(torch.cholesky_solve(cross.mT, safe_cholesky(start)).mT)
    Q = symmetrise(stop - A @ cross.mT - cross @ A.mT + A @ start @ A.mT) / max(len(later), 1)
    spread = _total(P, row)
    C = torch.cholesky_solve(m.mT @ x, safe_cholesky(symmetrise(m.mT @ m + spread))).mT
    error = x - m @ C.mT
    R = symmetrise(error.mT @ error + C @ spread @ C.mT) / len(x)
    return LinearGaussian(A, Q, C, R, system.b, stationary_covariance(A, Q))


def _total(table: Float[Tensor, "row state state"], rows: Tensor) -> Float[Tensor, "state state"]:
    """The sum of the matrices that these bins have."""
    return torch.einsum("r,rij->ij", torch.bincount(rows, minlength=len(table)).to(table), table)


def _first_guess(x: Floats, starts: Array, state_dim: int) -> LinearGaussian:
    """A system from the covariances of white x (time, latent) at lags 1 to 2 `LAGS`, or more where states are many:
    G_k = C A^(k-1) N, N = A X C'. The matrix of blocks G_(i+j) has the rank of the state, and its factors hold C, A and
    N (Ho & Kalman 1966)."""
    latent, n, segment = x.shape[1], state_dim, np.cumsum(starts)
    lags = max(LAGS, 1 + math.ceil(n / latent))

    def lagged(k: int) -> Floats:
        both = segment[k:] == segment[:-k]
        products: Floats = x[k:][both].T @ x[:-k][both] / max(int(both.sum()), 1)
        return products

    U, size, V = np.linalg.svd(np.block([[lagged(i + j + 1) for j in range(lags)] for i in range(lags)]))
    root = np.sqrt(np.maximum(size[:n], 1e-6))
    seen, N = U[:, :n] * root, (root[:, None] * V[:n])[:, :latent]  # seen: C, C A, C A^2, ...
    C = seen[:latent]
    A = _stable(torch.from_numpy(np.linalg.lstsq(seen[:-latent], seen[latent:], rcond=None)[0])).numpy()
    # N = A X C' for the stationary covariance X, by least squares.
    seen_ahead = LinearOperator(
        (n * latent, n * n),
        matvec=lambda X: (A @ X.reshape(n, n) @ C.T).ravel(),
        rmatvec=lambda Y: (A.T @ Y.reshape(n, latent) @ C).ravel(),
    )
    X = _positive(lsqr(seen_ahead, N.ravel())[0].reshape(n, n), 1e-3)
    Q, R = _positive(X - A @ X @ A.T, 1e-4), _positive(np.eye(latent) - C @ X @ C.T, 0.02)
    a, q, c, r = (torch.from_numpy(one) for one in (A, Q, C, R))
    return LinearGaussian(a, q, c, r, b=a.new_zeros(n), P0=stationary_covariance(a, q))


def _positive(M: Floats, least: float) -> Floats:
    """The symmetric part with eigenvalues of `least` or more."""
    values, vectors = np.linalg.eigh(0.5 * (M + M.T))
    positive: Floats = (vectors * np.maximum(values, least)) @ vectors.T
    return positive


def _stable(A: Tensor) -> Tensor:
    """A, scaled down where its spectral radius is above 0.9995."""
    radius = float(torch.linalg.eigvals(A).abs().max())
    return A * min(1.0, 0.9995 / max(radius, 1e-300))
