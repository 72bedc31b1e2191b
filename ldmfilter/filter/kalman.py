"""The linear-Gaussian part of the filter, as pure functions of tensors (method: h_t = b + A (h_{t-1} - b) + w_t,
z_t = C h_t + v_t, w ~ N(0, Q), v ~ N(0, R)).

Three time indices have names of their own: predicted t|t-1, filtered t|t, smoothed t|T.

Loops over bins are compiled (`recursions`): the covariances, of which each distinct one is computed once, and then
the means. Training has recursions of its own, with gradients.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldmfilter.filter import recursions
from ldmfilter.filter.linalg import (
    NotPositiveDefiniteError,
    gains,
    on_host,
    riccati,
    safe_cholesky,
    stationary_covariance,
    symmetrise,
    tell_repairs,
)

Flags = Bool[Tensor, " time"]
Rows = Int[Tensor, " time"]


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


class Covariances(NamedTuple):
    """The distinct covariances of a recording, in float64 on the CPU; `Filtered.row` tells which bin has which."""

    predicted: Float[Tensor, "row state state"]  # t|t-1
    filtered: Float[Tensor, "row state state"]  # t|t
    innovation: Float[Tensor, "row latent latent"]  # S_t
    gain: Float[Tensor, "row state latent"]  # K_t, zero in a missing bin


@dataclass(frozen=True)
class Filtered:
    """Result of `filter`. Where a bin is not observed its innovation is NaN and filtered equals predicted.

    Long recordings have few distinct covariances: `covariances` holds these, and bin t has those of row[t].
    `predicted_cov` and the other two spread them over all bins.
    """

    predicted_mean: Float[Tensor, "time state"]  # t|t-1
    filtered_mean: Float[Tensor, "time state"]  # t|t
    innovation: Float[Tensor, "time latent"]  # e_t = z_t - C predicted_mean_t
    covariances: Covariances
    row: Rows  # on the CPU

    @property
    def predicted_cov(self) -> Float[Tensor, "time state state"]:
        """t|t-1"""
        return _spread(self.covariances.predicted, self.row, self.filtered_mean)

    @property
    def filtered_cov(self) -> Float[Tensor, "time state state"]:
        """t|t"""
        return _spread(self.covariances.filtered, self.row, self.filtered_mean)

    @property
    def innovation_cov(self) -> Float[Tensor, "time latent latent"]:
        """S_t"""
        return _spread(self.covariances.innovation, self.row, self.filtered_mean)


@dataclass(frozen=True)
class Smoothed:
    """Result of `smooth`, t|T with T the last bin of the segment, or of `smooth_lagged`; bin t has the covariance of
    row[t]."""

    smoothed_mean: Float[Tensor, "time state"]
    covariances: Float[Tensor, "row state state"]  # in float64 on the CPU
    row: Rows  # on the CPU

    @property
    def smoothed_cov(self) -> Float[Tensor, "time state state"]:
        """t|T"""
        return _spread(self.covariances, self.row, self.smoothed_mean)


def _spread(table: Tensor, row: Tensor, like: Tensor) -> Tensor:
    """table[row], on the device and in the dtype of `like`."""
    return table.to(like)[row.to(like.device)]


def predict(
    model: LinearGaussian, mean: Float[Tensor, "*batch state"], cov: Float[Tensor, "*batch state state"]
) -> tuple[Tensor, Tensor]:
    """One bin ahead: m- = b + A (m - b), P- = A P A' + Q."""
    mean = model.b + (mean - model.b) @ model.A.mT
    return mean, symmetrise(model.A @ cov @ model.A.mT + model.Q)


def gain(
    model: LinearGaussian,
    predicted_cov: Float[Tensor, "*batch state state"],
    evidence: Float[Tensor, " *batch"] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Innovation covariance S = C P- C' + R / evidence, gain K = P- C' S^-1, and filtered covariance P- - K S K', which
    needs float64."""
    R = model.R if evidence is None else model.R / evidence[..., None, None]
    CP = model.C @ predicted_cov
    S = symmetrise(CP @ model.C.mT + R)
    L = safe_cholesky(S)
    W = torch.linalg.solve_triangular(L, CP, upper=False)  # W' W = K S K'
    return S, torch.linalg.solve_triangular(L.mT, W, upper=True).mT, symmetrise(predicted_cov - W.mT @ W)


def filter(  # the field's name for it
    model: LinearGaussian,
    z: Float[Tensor, "time latent"],
    observed: Flags | None = None,
    starts: Flags | None = None,
    ahead: tuple[Float[Tensor, " state"], Float[Tensor, "state state"]] | None = None,
    evidence: Float[Tensor, " time"] | None = None,
) -> Filtered:
    """Filter pseudo-observations, causally. Without gradients: training has `filter_windows`.

    Args:
        model: the linear-Gaussian parameters.
        z: pseudo-observations; entries of bins that are not observed are ignored.
        observed: False for a missing bin, which is a predict step only. Default: all observed.
        starts: True at the first bin of each segment, where the filter starts anew from the prior
            (mean b, covariance P0). Default: the first bin only.
        ahead: mean and covariance predicted for the first bin, in place of the prior, where z goes on from a piece that
            was filtered before and does not start a segment.
        evidence: of each bin, above 0: its observation noise is R / evidence. Default: 1, the noise is R.

    Results agree with the loop over bins to 1e-9 in float64 and 1e-4 in float32.

    Raises:
        NotPositiveDefiniteError: an innovation covariance is not positive definite.
    """
    goes_on = ahead is not None and (starts is None or not bool(starts[0]))
    starts = _starts(starts, len(z))
    starts[0] = not goes_on
    observed = torch.ones(len(z), dtype=torch.bool) if observed is None else observed.cpu()
    exact = model.to("cpu", torch.float64)
    mean, cov = (exact.b, exact.P0) if ahead is None else (value.to(exact.b) for value in ahead)
    tables, row = _filter_covariances(exact, observed, starts, cov, evidence)
    means = recursions.filter_means(
        *_arrays(exact.A, exact.C, exact.b, tables.gain),
        row.numpy(),
        *_arrays(mean),
        observed.numpy(),
        starts.numpy(),
        z.detach().cpu().contiguous().numpy(),
    )
    predicted, filtered, innovation = (torch.from_numpy(value).to(z.device) for value in means)
    return Filtered(predicted, filtered, innovation, tables, row)


def smooth(model: LinearGaussian, filtered: Filtered, starts: Flags | None = None) -> Smoothed:
    """Rauch-Tung-Striebel smoother: each bin given its whole segment.

        G_t = P_t A' (P-_{t+1})^-1,  m_t|T = m_t + G_t (m_{t+1|T} - m-_{t+1}),
        P_t|T = P_t + G_t (P_{t+1|T} - P-_{t+1}) G_t'

    Args:
        model: the parameters that `filtered` was made with.
        filtered: result of `filter`.
        starts: as given to `filter`; nothing flows back over the start of a segment.
    """
    last, (P, ahead, G), changes = _backwards(model, filtered, starts)
    row = filtered.row.numpy()
    common = int(np.bincount(row).argmax())
    try:
        noise = torch.from_numpy(P[common] - G[common] @ ahead[common] @ G[common].T)
        limit = stationary_covariance(torch.from_numpy(G[common]), noise).numpy()
    except NotPositiveDefiniteError:
        limit = np.full_like(P[common], np.nan)
    table, kept = recursions.smoother_covariances(P, ahead, G, row, last, limit, common)
    return _smoothed(filtered, recursions.smoother_means(G, row, last, changes), table, kept)


def smooth_lagged(model: LinearGaussian, filtered: Filtered, starts: Flags, frames: int) -> Smoothed:
    """The fixed-lag smoother: each state given `frames` bins more, or those that its segment still has.

    That of `smooth`, begun `frames` bins after each one in place of at the segment's end (Anderson & Moore 1979,
    *Optimal Filtering*, chapter 7). The other arguments are those of `smooth`.
    """
    last, tables, changes = _backwards(model, filtered, starts)
    return _smoothed(filtered, *recursions.lagged(*tables, filtered.row.numpy(), last, changes, frames))


def _backwards(
    model: LinearGaussian, filtered: Filtered, starts: Tensor | None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Flags of the last bins of segments; the filtered covariances, those predicted for the next bin and the smoother's
    gains G_t; and what each bin changed in the mean that was predicted for it."""
    change = filtered.filtered_mean - filtered.predicted_mean
    A, Q, P, changes = _arrays(model.A, model.Q, filtered.covariances.filtered, change)
    ahead, G, power = recursions.smoother_gains(A, Q, P)
    tell_repairs(power)
    last = _starts(starts, len(filtered.row)).roll(-1).numpy()
    return last, (P, ahead, G), changes


def _smoothed(filtered: Filtered, change: np.ndarray, table: np.ndarray, row: np.ndarray) -> Smoothed:
    mean = filtered.filtered_mean + torch.from_numpy(change).to(filtered.filtered_mean)
    return Smoothed(mean, torch.from_numpy(table), torch.from_numpy(row))


def _arrays(*values: Tensor) -> tuple[np.ndarray, ...]:
    """For a compiled loop: float64, on the host, each row after the other."""
    return tuple(np.ascontiguousarray(on_host(value)) for value in values)


def _starts(starts: Tensor | None, time: int) -> Tensor:
    """Flags of first bins of segments, on the CPU; the first bin is always one."""
    starts = torch.zeros(time, dtype=torch.bool) if starts is None else starts.cpu().clone()
    starts[:1] = True
    return starts


def _filter_covariances(
    model: LinearGaussian, observed: Flags, starts: Flags, first: Tensor, evidence: Float[Tensor, " time"] | None
) -> tuple[Covariances, Rows]:
    """The distinct covariances of a pattern of starts, missing bins and evidence, and which bin has which."""
    level = observed.double() if evidence is None else evidence.double().cpu().masked_fill(~observed, 0)
    try:
        limit = steady_state(model)[0]
    except NotPositiveDefiniteError:
        limit = torch.full_like(model.P0, torch.nan)
    *tables, row, power = recursions.filter_covariances(
        *_arrays(model.A, model.Q, model.C, model.R, first, model.P0, limit, level), starts.numpy()
    )
    tell_repairs(power)
    return Covariances(*map(torch.from_numpy, tables)), torch.from_numpy(row)


def steady_state(model: LinearGaussian) -> tuple[Tensor, Tensor, Tensor]:
    """Limits of the predicted covariance, the innovation covariance S and the gain K, differentiable.

    Raises:
        NotPositiveDefiniteError: A is not stable, or a covariance is not positive definite.
    """
    return riccati(model.A, model.Q, model.C, model.R)


class _ConstantGain(torch.autograd.Function):
    """The filter with one gain, m_t = F m_{t-1} + K z_t, F = A - K C A (around b), and zhat_{t+1} = C A m_t.

    By doubling: after round k, m_t holds the last 2^k terms. Backwards it is the same recurrence, reversed. Written
    out, as the bookkeeping of so many small operations would cost more than these. Time comes first within.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, C: Tensor, b: Tensor, K: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        batch, time, latent = z.shape
        CA, Cb = C @ A, C @ b
        powers = [A - K @ CA]
        error = (z - Cb).transpose(0, 1).reshape(-1, latent)
        m, stride = error @ K.mT, 1
        while stride < time:
            m[stride * batch :] += m[: -stride * batch] @ powers[-1].mT
            stride *= 2
            if stride < time:
                powers.append(powers[-1] @ powers[-1])
        zhat = torch.empty_like(error)
        zhat[:batch] = Cb
        torch.addmm(Cb, m[:-batch], CA.mT, out=zhat[batch:])
        ctx.save_for_backward(A, C, b, K, CA, error, m, *powers)
        ctx.batch = batch
        return zhat.view(time, batch, -1).transpose(0, 1), (m + b).view(time, batch, -1).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_zhat: Tensor, g_m: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        A, C, b, K, CA, error, m, *powers = ctx.saved_tensors
        batch, rows = ctx.batch, len(m)
        g_zhat = g_zhat.transpose(0, 1).reshape(rows, -1)
        v = g_m.transpose(0, 1).reshape(rows, -1).clone()
        ahead, before = g_zhat[batch:], m[:-batch]
        g_b = v.sum(0) if ctx.needs_input_grad[2] else None
        v[:-batch].addmm_(ahead, CA)
        for k, power in enumerate(powers):
            stride = batch << k
            if stride < rows:
                v[:-stride] += v[stride:] @ power
        g_F = v[batch:].mT @ before
        g_CA = ahead.mT @ before - K.mT @ g_F
        g_K = v.mT @ error - g_F @ CA.mT
        g_error = v @ K
        g_A = g_F + C.mT @ g_CA
        g_C = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            g_Cb = g_zhat.sum(0) - g_error.sum(0)
            g_C = g_CA @ A.mT + g_Cb[:, None] * b
            g_b = None if g_b is None else g_b + C.mT @ g_Cb
        return g_A, g_C, g_b, g_K, g_error.view(-1, batch, C.shape[0]).transpose(0, 1)


def filter_windows(
    model: LinearGaussian, z: Float[Tensor, "batch time latent"]
) -> tuple[Float[Tensor, "batch time latent"], Float[Tensor, "latent latent"], Float[Tensor, "batch time state"]]:
    """Filter windows cut from the middle of recordings with the steady-state gain: what training needs.

    The covariances neither depend on the data nor on the bin, so that the filtered mean is a linear recurrence
    with constant coefficients, computed in log2(time) rounds. The mean starts at b; its effect dies out as F^t,
    within the bins that carry no loss. Differentiable once.

    Returns:
        Predictions zhat_t = C m-_t (t|t-1), their covariance S, filtered means (t|t).
    """
    _, S, K = steady_state(model)
    zhat, m = _ConstantGain.apply(model.A, model.C, model.b, K, z)
    return zhat, S, m


class _Trials(torch.autograd.Function):
    """The filter with the gain of each bin, from b on; the derivatives written out, as in `_ConstantGain`."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, C: Tensor, b: Tensor, K: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        zhat, means, predicted, ahead = torch.empty_like(z), [], [], b.expand(len(z), -1)
        for t in range(z.shape[1]):
            predicted.append(ahead)
            zhat[:, t] = ahead @ C.mT
            means.append(torch.addmm(ahead, z[:, t] - zhat[:, t], K[t].mT))
            ahead = torch.addmm(b, means[t] - b, A.mT)
        found = torch.stack(means, 1)
        ctx.save_for_backward(A, C, b, K, z - zhat, torch.stack(predicted, 1), found)
        return zhat, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_zhat: Tensor, g_m: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        A, C, b, K, error, predicted, means = ctx.saved_tensors
        g_zhat, g_m, ahead = g_zhat.clone(), g_m.clone(), torch.zeros_like(means)  # ahead: of the next prediction
        g_z, g_p = torch.empty_like(error), torch.zeros_like(means[:, 0])
        for t in range(means.shape[1] - 1, -1, -1):
            ahead[:, t] = g_p
            g_m[:, t].addmm_(g_p, A)
            g_z[:, t] = g_m[:, t] @ K[t]
            g_zhat[:, t] -= g_z[:, t]
            g_p = torch.addmm(g_m[:, t], g_zhat[:, t], C)
        g_A = ahead.flatten(0, 1).mT @ (means - b).flatten(0, 1)
        g_C = g_zhat.flatten(0, 1).mT @ predicted.flatten(0, 1)
        g_K = torch.einsum("btn,btk->tnk", g_m, error)
        later = ahead.sum((0, 1))
        return g_A, g_C, g_p.sum(0) + later - later @ A, g_K, g_z


def filter_trials(
    model: LinearGaussian, z: Float[Tensor, "batch time latent"]
) -> tuple[Float[Tensor, "batch time latent"], Float[Tensor, "time latent latent"], Float[Tensor, "batch time state"]]:
    """Filter windows that begin as a segment does, from the prior: exactly, with the gain of each bin.

    The covariances are those of any trial, so that they are computed once for all. Differentiable once.

    Returns:
        Predictions zhat_t = C m-_t (t|t-1), their covariances S_t, filtered means (t|t).
    """
    A, Q, C, R, b, P0 = model
    S, K = gains(A, Q, C, R, P0, z.shape[1])
    zhat, means = _Trials.apply(A, C, b, K, z)
    return zhat, S, means
