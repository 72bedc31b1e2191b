"""The linear-Gaussian part of the filter, as pure functions of tensors (method: h_t = b + A (h_{t-1} - b) + w_t,
z_t = C h_t + v_t, w ~ N(0, Q), v ~ N(0, R)).

Three time indices are told apart by name: predicted t|t-1, filtered t|t, smoothed t|T.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ldmfilter.filter.linalg import NotPositiveDefiniteError, safe_cholesky, symmetrise


class LinearGaussian(NamedTuple):
    """Parameters of the hidden dynamics and its observation; time is counted in bins."""

    A: Float[Tensor, "state state"]
    Q: Float[Tensor, "state state"]
    C: Float[Tensor, "latent state"]
    R: Float[Tensor, "latent latent"]
    b: Float[Tensor, " state"]  # prior mean, and the point that the dynamics returns to
    P0: Float[Tensor, "state state"]  # prior covariance, at the first bin of every segment

    def to(self, *args: Any, **kwargs: Any) -> "LinearGaussian":
        """The same parameters in another dtype or on another device, as `torch.Tensor.to`."""
        return LinearGaussian._make(value.to(*args, **kwargs) for value in self)


@dataclass(frozen=True)
class Filtered:
    """Result of `filter`. Where a bin is not observed its innovation is NaN and filtered equals predicted."""

    predicted_mean: Float[Tensor, "*batch time state"]  # t|t-1
    predicted_cov: Float[Tensor, "*batch time state state"]
    filtered_mean: Float[Tensor, "*batch time state"]  # t|t
    filtered_cov: Float[Tensor, "*batch time state state"]
    innovation: Float[Tensor, "*batch time latent"]  # e_t = z_t - C predicted_mean_t
    innovation_cov: Float[Tensor, "*batch time latent latent"]  # S_t


class Smoothed(NamedTuple):
    """Result of `smooth`, t|T with T the last bin of the segment."""

    smoothed_mean: Float[Tensor, "*batch time state"]
    smoothed_cov: Float[Tensor, "*batch time state state"]


def predict(
    model: LinearGaussian, mean: Float[Tensor, "*batch state"], cov: Float[Tensor, "*batch state state"]
) -> tuple[Tensor, Tensor]:
    """One bin ahead: m- = b + A (m - b), P- = A P A' + Q."""
    mean = model.b + (mean - model.b) @ model.A.mT
    return mean, symmetrise(model.A @ cov @ model.A.mT + model.Q)


def gain(model: LinearGaussian, predicted_cov: Float[Tensor, "*batch state state"]) -> tuple[Tensor, Tensor, Tensor]:
    """Innovation covariance S = C P- C' + R, gain K = P- C' S^-1 and filtered covariance in Joseph's form."""
    PC = predicted_cov @ model.C.mT
    S = symmetrise(model.C @ PC + model.R)
    K = torch.cholesky_solve(PC.mT, safe_cholesky(S)).mT
    IKC = torch.eye(model.A.shape[-1], dtype=K.dtype, device=K.device) - K @ model.C
    cov = symmetrise(IKC @ predicted_cov @ IKC.mT + K @ model.R @ K.mT)
    return S, K, cov


def filter(  # the field's name for it
    model: LinearGaussian,
    z: Float[Tensor, "*batch time latent"],
    observed: Bool[Tensor, "*batch time"] | None = None,
    starts: Bool[Tensor, " time"] | None = None,
) -> Filtered:
    """Filter pseudo-observations, causally.

    Args:
        model: the linear-Gaussian parameters.
        z: pseudo-observations; entries of bins that are not observed are ignored.
        observed: False for a missing bin, which is a predict step only. Default: all observed.
        starts: True at the first bin of each segment, where the filter starts anew from the prior
            (mean b, covariance P0). Default: the first bin only.

    Raises:
        NotPositiveDefiniteError: an innovation covariance is not positive definite.
    """
    *batch, time, _ = z.shape
    state = model.A.shape[-1]
    if observed is None:
        observed = torch.ones(*batch, time, dtype=torch.bool, device=z.device)
    if starts is None:
        starts = torch.zeros(time, dtype=torch.bool, device=z.device)
    first = starts.tolist()
    prior_mean, prior_cov = model.b.expand(*batch, state), model.P0.expand(*batch, state, state)
    m, P = prior_mean, prior_cov
    out: list[list[Tensor]] = [[] for _ in range(6)]
    for t in range(time):
        m_pred, P_pred = (prior_mean, prior_cov) if t == 0 or first[t] else predict(model, m, P)
        S, K, P_upd = gain(model, P_pred)
        seen = observed[..., t, None]
        e = torch.where(seen, z[..., t, :] - m_pred @ model.C.mT, torch.zeros((), dtype=z.dtype, device=z.device))
        m = m_pred + (K @ e[..., None])[..., 0]
        P = torch.where(seen[..., None], P_upd, P_pred)
        e = torch.where(seen, e, torch.full((), torch.nan, dtype=z.dtype, device=z.device))
        for column, value in zip(out, (m_pred, P_pred, m, P, e, S), strict=True):
            column.append(value)
    mean_axis, cov_axis = -2, -3
    return Filtered(
        torch.stack(out[0], mean_axis),
        torch.stack(out[1], cov_axis),
        torch.stack(out[2], mean_axis),
        torch.stack(out[3], cov_axis),
        torch.stack(out[4], mean_axis),
        torch.stack(out[5], cov_axis),
    )


def smooth(model: LinearGaussian, filtered: Filtered, starts: Bool[Tensor, " time"] | None = None) -> Smoothed:
    """Rauch-Tung-Striebel smoother: each bin given its whole segment.

        G_t = P_t A' (P-_{t+1})^-1,  m_t|T = m_t + G_t (m_{t+1|T} - m-_{t+1}),
        P_t|T = P_t + G_t (P_{t+1|T} - P-_{t+1}) G_t'

    Args:
        model: the parameters that `filtered` was made with.
        filtered: result of `filter`.
        starts: as given to `filter`; nothing flows back over the start of a segment.
    """
    time = filtered.filtered_mean.shape[-2]
    first = [False] * time if starts is None else starts.tolist()
    m, P = filtered.filtered_mean[..., -1, :], filtered.filtered_cov[..., -1, :, :]
    means, covs = [m], [P]
    for t in range(time - 2, -1, -1):
        m_t, P_t = filtered.filtered_mean[..., t, :], filtered.filtered_cov[..., t, :, :]
        if first[t + 1]:
            m, P = m_t, P_t
        else:
            m_next, P_next = filtered.predicted_mean[..., t + 1, :], filtered.predicted_cov[..., t + 1, :, :]
            G = torch.cholesky_solve(model.A @ P_t, safe_cholesky(P_next)).mT
            m = m_t + (G @ (m - m_next)[..., None])[..., 0]
            P = symmetrise(P_t + G @ (P - P_next) @ G.mT)
        means.append(m)
        covs.append(P)
    return Smoothed(torch.stack(means[::-1], -2), torch.stack(covs[::-1], -3))


class _SteadyCovariance(torch.autograd.Function):
    """Predicted covariance in steady state: the solution of the discrete algebraic Riccati equation

        P = A P A' - A P C' (C P C' + R)^-1 C P A' + Q

    by structure-preserving doubling (Chu, Fan & Lin 2005): round k spans 2^k bins. Backwards by the implicit
    function theorem: with the gain at its optimum, dP = F dP F' + (direct terms), F = A - A K C.
    """

    @staticmethod
    def forward(ctx, A: Tensor, Q: Tensor, C: Tensor, R: Tensor) -> Tensor:
        n = A.shape[-1]
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
        M, G, P = A.mT, symmetrise(C.mT @ torch.cholesky_solve(C, safe_cholesky(R))), Q
        eps = torch.finfo(A.dtype).eps
        for _ in range(40):
            # (I + G P)^-1 [M, G], one factorisation for both.
            solved = torch.linalg.solve(eye + G @ P, torch.cat([M, G @ M.mT], -1))
            step = M.mT @ P @ solved[..., :n]
            G = symmetrise(G + M @ solved[..., n:])
            M = M @ solved[..., :n]
            P = symmetrise(P + step)
            if bool(step.abs().max() <= eps * P.abs().max()):
                break
        else:
            raise NotPositiveDefiniteError("the filter has no steady state: A is not stable")
        K = torch.cholesky_solve(C @ P, safe_cholesky(symmetrise(C @ P @ C.mT + R))).mT
        F = A - A @ K @ C
        ctx.save_for_backward(P, F, A @ K)
        return P

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        P, F, AK = ctx.saved_tensors
        V, M = symmetrise(grad), F
        eps = torch.finfo(F.dtype).eps
        for _ in range(60):
            term = M.mT @ V @ M
            V = symmetrise(V + term)
            M = M @ M
            if bool(term.abs().max() <= eps * V.abs().max()):
                break
        VFP = V @ F @ P
        return 2 * VFP, V, -2 * AK.mT @ VFP, AK.mT @ V @ AK


def steady_state(model: LinearGaussian) -> tuple[Tensor, Tensor, Tensor]:
    """Limits of the predicted covariance, the innovation covariance S and the gain K, differentiable.

    Raises:
        NotPositiveDefiniteError: A is not stable, or a covariance is not positive definite.
    """
    P = _SteadyCovariance.apply(model.A, model.Q, model.C, model.R)
    S, K, _ = gain(model, P)
    return P, S, K


def filter_windows(
    model: LinearGaussian, z: Float[Tensor, "batch time latent"]
) -> tuple[Float[Tensor, "batch time latent"], Float[Tensor, "latent latent"], Float[Tensor, "batch time state"]]:
    """Filter windows cut from the middle of recordings with the steady-state gain: what training needs.

    The covariances neither depend on the data nor on the bin, so that the filtered mean is a linear recurrence
    with constant coefficients, m_t = F m_{t-1} + K z_t with F = (I - K C) A (around b), computed in
    log2(time) rounds. The mean starts at b; its effect dies out as F^t, within the bins that carry no loss.

    Returns:
        Predictions zhat_t = C m-_t (t|t-1), their covariance S, filtered means (t|t).
    """
    _, S, K = steady_state(model)
    F = model.A - K @ (model.C @ model.A)
    m = (z - model.b @ model.C.mT) @ K.mT
    stride = 1
    while stride < z.shape[1]:
        m = torch.cat([m[:, :stride], m[:, stride:] + m[:, :-stride] @ F.mT], 1)
        F, stride = F @ F, 2 * stride
    previous = torch.cat([torch.zeros_like(m[:, :1]), m[:, :-1]], 1)
    zhat = (model.b + previous @ model.A.mT) @ model.C.mT
    return zhat, S, m + model.b


def log_likelihood(error: Float[Tensor, "*batch latent"], S: Float[Tensor, "latent latent"]) -> Float[Tensor, "*batch"]:
    """Log density of N(0, S) at each error, nats."""
    L = safe_cholesky(S)
    white = torch.linalg.solve_triangular(L, error.reshape(-1, error.shape[-1]).mT, upper=False)
    log_norm = L.diagonal().log().sum() + 0.5 * len(L) * torch.log(torch.tensor(2 * torch.pi, dtype=L.dtype))
    return (-0.5 * white.square().sum(0) - log_norm).reshape(error.shape[:-1])
