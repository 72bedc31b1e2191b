"""The linear-Gaussian part of the filter, as pure functions of tensors (method: h_t = b + A (h_{t-1} - b) + w_t,
z_t = C h_t + v_t, w ~ N(0, Q), v ~ N(0, R)).

Three time indices have names of their own: predicted t|t-1, filtered t|t, smoothed t|T.

Parallel in time (Sarkka & Garcia-Fernandez 2021, *Temporal parallelization of Bayesian smoothers*), in two passes.
The covariances depend on the pattern of segment starts, missing bins and evidence alone: `_trace` computes each
distinct one once, and in steady state it is solved for. Given these, the means are a linear recurrence, which is an
associative scan (`linalg.linear_recurrence`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldmfilter.data.tables import Array
from ldmfilter.filter.linalg import (
    NotPositiveDefiniteError,
    distinct,
    gains,
    linear_recurrence,
    pick,
    riccati,
    safe_cholesky,
    stationary_covariance,
    symmetrise,
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


# Covariances that differ by less, relative to their largest entry, are taken for the same. The equations' map is a
# contraction (near the steady state by the closed loop F = (I - K C) A, on both sides), so that what is taken for the
# same here differs by no more than sup_k |F^k|^2 times as much in any later bin.
SAME = 1e-12
SLICE = 2048  # covariances at a time, which stay in the processor's cache


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
    S, L, W = _whitened(model, predicted_cov, evidence)
    return S, torch.linalg.solve_triangular(L.mT, W, upper=True).mT, symmetrise(predicted_cov - W.mT @ W)


def _whitened(
    model: LinearGaussian, predicted_cov: Float[Tensor, "*batch state state"], evidence: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The innovation covariance S, L of S = L L', and W = L^-1 C P-, of which W' W = K S K'."""
    R = model.R if evidence is None else model.R / evidence[..., None, None]
    CP = model.C @ predicted_cov
    S = symmetrise(CP @ model.C.mT + R)
    L = safe_cholesky(S)
    return S, L, torch.linalg.solve_triangular(L, CP, upper=False)


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
    if starts is not None and bool(starts[0]):
        ahead = None
    starts = _starts(starts, len(z))
    observed = torch.ones(len(z), dtype=torch.bool) if observed is None else observed.cpu()
    tables, row = _filter_covariances(model, observed, starts, None if ahead is None else ahead[1], evidence)

    # Around b: x_t = F_t x_{t-1} + K_t (z_t - C b), F_t = (I - K_t C) A, and F_t = A in a missing bin.
    A, C, b = model.A, model.C, model.b
    K, missing = tables.gain.to(z), ~observed.to(z.device)[:, None]
    u = pick(K, row, (z - b @ C.mT).masked_fill_(missing, 0))
    first = torch.zeros_like(b) if ahead is None else ahead[0] - b
    u[0] = u[0] + first - K[row[0]] @ (C @ first)
    x = linear_recurrence(A - K @ (C @ A), row.masked_fill(starts, -1), u)
    from_b = torch.nn.functional.pad(x[:-1] @ A.mT, (0, 0, 1, 0)).masked_fill_(starts.to(z.device)[:, None], 0)
    from_b[0] = first
    predicted = b + from_b
    innovation = (z - predicted @ C.mT).masked_fill_(missing, torch.nan)
    return Filtered(predicted, b + x, innovation, tables, row)


def smooth(model: LinearGaussian, filtered: Filtered, starts: Flags | None = None) -> Smoothed:
    """Rauch-Tung-Striebel smoother: each bin given its whole segment.

        G_t = P_t A' (P-_{t+1})^-1,  m_t|T = m_t + G_t (m_{t+1|T} - m-_{t+1}),
        P_t|T = P_t + G_t (P_{t+1|T} - P-_{t+1}) G_t'

    Args:
        model: the parameters that `filtered` was made with.
        filtered: result of `filter`.
        starts: as given to `filter`; nothing flows back over the start of a segment.
    """
    mean, row, P = filtered.filtered_mean, filtered.row, filtered.covariances.filtered
    last, ahead, G = _backwards(model, P, starts, len(row))
    table, kept = _smoother_covariances(P, ahead, G, row, last)
    # d_t = m_t|T - m_t, backwards: d_t = G_t (d_{t+1} + m_{t+1} - m-_{t+1}).
    G = G.to(mean)
    u = pick(G, row, (mean - filtered.predicted_mean).roll(-1, 0)).masked_fill_(last.to(mean.device)[:, None], 0)
    d = linear_recurrence(G, row.masked_fill(last, -1).flip(0), u.flip(0)).flip(0)
    return Smoothed(mean + d, table, kept)


def smooth_lagged(model: LinearGaussian, filtered: Filtered, starts: Flags, frames: int) -> Smoothed:
    """The fixed-lag smoother: each state given `frames` bins more, or those that its segment still has.

    That of `smooth`, begun `frames` bins after each one in place of at the segment's end (Anderson & Moore 1979,
    *Optimal Filtering*, chapter 7). The other arguments are those of `smooth`.
    """
    mean, row, P = filtered.filtered_mean, filtered.row, filtered.covariances.filtered
    last, predicted, G = _backwards(model, P, starts, len(row))
    there, gains = last.to(mean.device)[:, None], G.to(mean)
    update = (mean - filtered.predicted_mean).roll(-1, 0)
    # d_t = m_t|t+n - m_t; each round takes one bin more: d_t = G_t (d_{t+1} + m_{t+1} - m-_{t+1}).
    d, table, node = torch.zeros_like(mean), P, row
    for _ in range(frames):
        d = pick(gains, row, d.roll(-1, 0) + update).masked_fill_(there, 0)
        size = len(table)
        pairs, node = (row * (size + 1) + node.roll(-1).masked_fill(last, size)).unique(return_inverse=True)
        own, later = pairs // (size + 1), pairs % (size + 1)
        change = torch.cat([table, torch.zeros_like(table[:1])])[later] - predicted[own]
        change = (G[own] @ change @ G[own].mT).masked_fill((later == size)[:, None, None], 0)
        table = symmetrise(P[own] + change)
    return Smoothed(mean + d, table, node)


def _backwards(
    model: LinearGaussian, P: Float[Tensor, "row state state"], starts: Tensor | None, time: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Flags of the last bins of segments; and of filtered covariances those predicted for the next bin, with the
    smoother's gains G_t, in float64 on the CPU."""
    A, Q = model.A.double().cpu(), model.Q.double().cpu()
    ahead = symmetrise(A @ P @ A.mT + Q)
    return _starts(starts, time).roll(-1), ahead, torch.cholesky_solve(A @ P, safe_cholesky(ahead)).mT


def _starts(starts: Tensor | None, time: int) -> Tensor:
    """Flags of first bins of segments, on the CPU; the first bin is always one."""
    starts = torch.zeros(time, dtype=torch.bool) if starts is None else starts.cpu().clone()
    starts[:1] = True
    return starts


def _filter_covariances(
    model: LinearGaussian,
    observed: Flags,
    starts: Flags,
    first: Float[Tensor, "state state"] | None,
    evidence: Float[Tensor, " time"] | None,
) -> tuple[Covariances, Rows]:
    """The distinct covariances of a pattern of starts, missing bins and evidence, and which bin has which."""
    exact = model.to("cpu", torch.float64)
    A, Q, C, *_ = exact
    # The symbol of a bin: 0 where it is missing, else 1 + the place of its evidence among the values that occur.
    values, symbol = torch.ones(1, dtype=torch.float64), observed.long()
    if evidence is not None and bool(observed.any()):
        values, place = evidence.double().cpu()[observed].unique(return_inverse=True)
        symbol[observed] = 1 + place
    values = torch.cat([torch.ones_like(values[:1]), values])

    def step(cov: Tensor, symbol: Tensor) -> Tensor:
        W = _whitened(exact, cov, values[symbol])[2].masked_fill_(symbol[:, None, None] == 0, 0)
        return symmetrise(A @ (cov - W.mT @ W) @ A.mT + Q)

    try:
        steady, _, K = steady_state(exact)
        F = A - A @ K @ C
    except NotPositiveDefiniteError:
        steady, F = exact.P0, None
    node = starts.long()  # the steady state, or at starts the prior
    came_from = symbol.roll(1)
    irregular = (values[came_from] != 1) | (came_from == 0) | starts.roll(1) | torch.tensor(F is None)
    known = torch.stack([steady, exact.P0, exact.P0 if first is None else first.double().cpu()])
    if first is not None:
        node[0] = 2
    covs, node = _trace(step, known, node, came_from, irregular & ~starts, starts, F)
    codes = len(values) * node + symbol  # too many for a table where each bin has evidence of its own
    pairs, row = distinct(codes) if len(values) == 2 else codes.unique(return_inverse=True)
    tables = []
    for some in pairs.split(SLICE):
        predicted, here = covs[some // len(values)], some % len(values)
        S, K, updated = gain(exact, predicted, values[here])
        missing = (here == 0)[:, None, None]
        tables.append((predicted, torch.where(missing, predicted, updated), S, K.masked_fill_(missing, 0)))
    return Covariances(*map(torch.cat, zip(*tables, strict=True))), row


def _smoother_covariances(P: Tensor, ahead: Tensor, G: Tensor, row: Rows, last: Flags) -> tuple[Tensor, Rows]:
    """The distinct smoothed covariances, and which bin has which: the recursion runs backwards."""

    def step(cov: Tensor, r: Tensor) -> Tensor:
        return symmetrise(P[r] + G[r] @ (cov - ahead[r]) @ G[r].mT)

    common = int(row.bincount().argmax())
    try:
        noise = P[common] - G[common] @ ahead[common] @ G[common].mT
        steady, F = stationary_covariance(G[common], noise), G[common]
    except NotPositiveDefiniteError:
        steady, F = P[common], None
    row, last = row.flip(0), last.flip(0)
    irregular = (row != common) | last.roll(1) | torch.tensor(F is None)
    node = torch.where(last, 1 + row, 0)
    covs, node = _trace(step, torch.cat([steady[None], P]), node, row, irregular & ~last, last, F)
    return covs, node.flip(0)


def _trace(
    step: Callable[[Tensor, Tensor], Tensor],
    known: Float[Tensor, "known state state"],
    node: Rows,
    symbol: Rows,
    irregular: Flags,
    anew: Flags,
    contraction: Tensor | None,
) -> tuple[Float[Tensor, "node state state"], Rows]:
    """Covariances of a recursion cov_t = step(cov_{t-1}, symbol_t), all stretches at once and each distinct one once.

    Where a guess of all covariances does not follow from that of the bin before, it is corrected bin by bin until the
    correction agrees with the guess: soon, as the recursion forgets. All corrections advance together, a bin a round;
    equal ones share their computation. The result follows from bin to bin within `SAME`, whatever the guess was.

    Args:
        step: (covariances, symbols) -> covariances of the next bin.
        known: the covariances that the guess is made of.
        node: the guess, as rows of `known`; at bins that start anew, their value.
        symbol: what happens on the way into each bin.
        irregular: the guess does not follow from that of the bin before.
        anew: bins that do not depend on the bin before.
        contraction: how errors die out in the guess, e_t = F e_{t-1} F'; None where they do not.

    Returns:
        The distinct covariances and each bin's row among them.
    """
    bins, broken = _corrections(irregular.numpy(), anew.numpy(), contraction)
    rows, symbols = node.numpy().copy(), symbol.numpy()
    n_symbols = int(symbols.max()) + 1
    ends = np.append(anew.numpy(), True)
    store, size = known, len(known)
    current, parent = known, rows[bins - 1]
    while len(bins):
        pasts, past = np.unique(parent * n_symbols + symbols[bins], return_inverse=True)
        new = step(current[torch.from_numpy(pasts // n_symbols)], torch.from_numpy(pasts % n_symbols))
        broken[bins] = False
        on = broken[bins + 1]
        asked = np.flatnonzero(~on)  # whether the guess may stand from here
        pairs, pair = np.unique(past[asked] * size + rows[bins[asked]], return_inverse=True)
        before, after = store[torch.from_numpy(pairs % size)], new[torch.from_numpy(pairs // size)]
        agrees = (after - before).abs().amax((-2, -1)) <= SAME * before.abs().amax((-2, -1))
        on[asked] = ~agrees.numpy()[pair]
        rows[bins[on]] = size + past[on]
        if size + len(new) > len(store):
            store = torch.cat([store, store.new_empty(max(len(store), len(new)), *store.shape[1:])])
        store[size : size + len(new)] = new
        size += len(new)
        on &= ~ends[bins + 1]
        bins, parent, current = bins[on] + 1, past[on], new
    used, node = distinct(torch.from_numpy(rows))
    return store[used], node


def _corrections(irregular: Array, anew: Array, contraction: Tensor | None) -> tuple[Array, Array]:
    """Bins where corrections start, and the bins (time + 1,) that have to be corrected."""
    time = len(irregular)
    broken, stride = np.append(irregular, False), time
    if contraction is not None:
        # Bins, a power of 2, after which errors that die out as F^t are below `SAME`.
        memory, M = 1, contraction
        while memory < time and float(M.square().sum()) > SAME:
            memory, M = 2 * memory, M @ M
        # Irregular stretches that are hardly apart are one, which is corrected from several bins at once.
        broken, stride = _joined(broken, memory // 8) & ~np.append(anew, True), 2 * memory
    first = np.maximum.accumulate(np.where(broken[:-1] & ~np.roll(broken[:-1], 1), np.arange(time), -1))
    return np.flatnonzero(broken[:-1] & ((np.arange(time) - first) % stride == 0)), broken


def _joined(flags: Array, most: int) -> Array:
    """The flags, set also between two that are set and at most so many apart."""
    at, never = np.arange(len(flags)), 2 * len(flags) + most
    before = np.maximum.accumulate(np.where(flags, at, -never))
    after = np.minimum.accumulate(np.where(flags, at, never)[::-1])[::-1]
    return after - before <= most


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
    zhat, means, predicted = [], [], b.expand(len(z), -1)
    for now, gain_now in zip(z.unbind(1), K, strict=True):
        zhat.append(predicted @ C.mT)
        means.append(predicted + (now - zhat[-1]) @ gain_now.mT)
        predicted = b + (means[-1] - b) @ A.mT
    return torch.stack(zhat, 1), S, torch.stack(means, 1)
