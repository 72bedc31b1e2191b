"""The steps after training: sessions in one state space, dynamics fitted to z, the size of covariances, the gauge."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ldmfilter.data.frames import phases
from ldmfilter.data.tables import Array, Floats
from ldmfilter.filter.batches import Judged, Stretches
from ldmfilter.filter.kalman import Filtered, LinearGaussian, filter
from ldmfilter.filter.linalg import safe_cholesky, symmetrise
from ldmfilter.filter.linear_system import fit_linear_system
from ldmfilter.filter.matching import Match, match, mean_moments, moments_of, rotated
from ldmfilter.filter.network import Network, together

GAUGE_LAG = 1.0  # s, between the states whose autocorrelation orders the dimensions
SLOWED = 2 / 3  # of their speed in training, that slow states have beside fast ones
FINISH_BINS = 2**16  # bins at most, about, that moments, dynamics, gauge and scale of the covariances are measured on


@torch.no_grad()
def match_sessions(network: Network, sessions: Sequence[Stretches], bin_size: float, onto: bool) -> list[Match]:
    """Rotate each session's z into one state space: that of the first, or, with `onto`, that of the network's moments.

    Returns:
        The match of each session that was rotated.
    """
    moments, matches = [network.moments] if onto else [], []
    for i, one in enumerate(sessions):
        own = moments_of(*_encoded(network, i, one), bin_size)
        if moments:
            matches.append(match(own, moments[0]))
            U = matches[-1].rotation
            encoder, own = network.encoder(i), rotated(own, U)
            encoder.z_whiten.copy_(encoder.z_whiten.double() @ torch.from_numpy(U))
        moments.append(own)
    if not onto:
        network.set_moments(mean_moments(moments))
    return matches


def _encoded(network: Network, session: int, bins: Stretches) -> tuple[Floats, Array]:
    """Pseudo-observations (time, latent) of a session's observed bins, and the number of each one's gap-free stretch
    (time,)."""
    counts, observed, starts, _ = bins
    run = np.cumsum(starts | (np.diff(observed, prepend=False) != 0))
    return network.encode(counts, session).double().numpy()[observed], run[observed]


@torch.no_grad()
def refit_dynamics(network: Network, sessions: Sequence[Stretches]) -> None:
    """Fit dynamics anew to the pseudo-observations of all sessions, by maximum likelihood (`fit_linear_system`).

    In training dropout makes z noisier than it is in use. And z has more than the states of training can follow: for
    each of its dimensions the new system has one state more. Its first states are C h, z less its noise; only as many
    of them are handed out as the filter had.
    """
    z, starts = [], []
    for i, one in enumerate(sessions):
        own, run = _encoded(network, i, one)
        z.append(own)
        starts.append(np.diff(run, prepend=-1) != 0)
    states = len(network.gauge) + z[0].shape[1]
    system = fit_linear_system(np.concatenate(z), np.concatenate(starts), states)
    A, Q, C, _, _, P0 = system
    # An orthonormal basis, of C first, then of C A, and so on.
    powers = [C]
    while len(powers) * len(C) < states:
        powers.append(powers[-1] @ A)
    T = torch.linalg.qr(torch.cat(powers).mT)[0]
    first = T.mT @ A @ T, symmetrise(T.mT @ Q @ T), C @ T, system.R, system.b, symmetrise(T.mT @ P0 @ T)
    network.set_system(LinearGaussian._make(first))


@torch.no_grad()
def split_dynamics(network: Network) -> None:
    """Let slow states change at about two thirds of the speed, and add states that change twice as fast and are not
    handed out: z_t = C (h_t + u_t) + v_t, h with (2 A + I) / 3 and three quarters of the states' covariance X, u with
    A^2 and a quarter of it. Where states last several frames, z changes about as fast as before (3/4 2/3 + 1/4 2 = 1).

    In training slow states follow everything in z that lasts, as there is nothing beside them. Beside fast states they
    can average for longer.
    """
    A, Q, C, R, _, X = copy.deepcopy(network.dynamics).double()()
    n, away = len(A), torch.eye(len(A), dtype=A.dtype) - A
    share, rest = 1 / (2 - SLOWED), (1 - SLOWED) / (2 - SLOWED)
    # X less F X F' for both, in a form that stays positive.
    slow, fast = SLOWED * (Q + (1 - SLOWED) * away @ X @ away.mT), Q + A @ Q @ A.mT
    network.set_system(
        LinearGaussian(
            A=torch.block_diag(A + (1 - SLOWED) * away, A @ A),
            Q=torch.block_diag(share * symmetrise(slow), rest * symmetrise(fast)),
            C=torch.cat([C, C], 1),
            R=R,
            b=A.new_zeros(2 * n),
            P0=torch.block_diag(share * X, rest * X),
        )
    )


@torch.no_grad()
def set_canonical(network: Network, sessions: Sequence[Stretches], bin_size: float, fitted: bool = False) -> None:
    """Set the network's gauge and the size of its covariances, as measured on all sessions. With `fitted` its dynamics
    were fitted to these."""
    network.gauge.copy_(torch.eye(len(network.gauge)))
    network.covariance_scale.fill_(1.0)
    observed, starts, held = (np.concatenate(parts) for parts in list(zip(*sessions, strict=True))[1:])
    filtered = _filtered(network, sessions)
    activity = np.concatenate([population_activity(one.counts.nan_to_num().sqrt()) for one in sessions])
    scale, n = covariance_scale(filtered, held), len(network.gauge)
    if fitted and network.system is not None:
        scale *= optimism(network.system, int(observed.sum()))
    mean, cov = filtered.filtered_mean[:, :n].numpy(), scale * filtered.filtered_cov.mean(0)[:n, :n].numpy()
    lag = max(1, round(GAUGE_LAG / bin_size))
    network.covariance_scale.fill_(scale)
    network.gauge.copy_(torch.from_numpy(canonical_gauge(mean, cov, np.cumsum(starts), activity, lag)))


def _filtered(network: Network, sessions: Sequence[Stretches]) -> Filtered:
    """All sessions filtered, one after the other. Frames of which bins are missing have the evidence of whole ones."""
    observed, starts = (torch.from_numpy(np.concatenate([one[i] for one in sessions])) for i in (1, 2))
    z, evidence = together([network.observe(one.counts, i) for i, one in enumerate(sessions)])
    return filter(network.linear_gaussian(), z, observed, starts, evidence=evidence)


@torch.no_grad()
def filtered_means(network: Network, session: int, judged: Judged, k: int) -> Floats:
    """Causal states (time, state) of a session's bins, whose frames have k bins, each phase by itself."""
    runs, observed = judged.runs, judged.observed
    (z, evidence), model = network.observe(judged.frames, session), network.linear_gaussian()
    states, phase = np.empty((len(runs), len(network.gauge))), phases(runs, k)
    rows = np.argsort(phase, kind="stable")  # one phase after the other, each of its stretches a segment
    stretch = phase[rows] * len(runs) + runs[rows]
    starts = torch.from_numpy(np.diff(stretch, prepend=-1) != 0)
    own = None if evidence is None else evidence[rows]
    filtered = filter(model, z[rows], torch.from_numpy(observed[rows]), starts, evidence=own)
    states[rows] = filtered.filtered_mean[:, : states.shape[1]].numpy()
    return states


def covariance_scale(filtered: Filtered, held: Array) -> float:
    """The factor on all covariances that makes S the covariance of held-out innovations: the mean of e' S^-1 e over
    held-out bins and latent dimensions.

    A common factor on Q, R and the prior leaves the gains, and so every mean, as they are. Training needs it because
    dropout makes z noisier there than it is in use.
    """
    judged = torch.from_numpy(held) & torch.isfinite(filtered.innovation).all(-1)
    e = filtered.innovation[judged]
    roots = safe_cholesky(filtered.covariances.innovation)
    white = torch.linalg.solve_triangular(roots[filtered.row[judged]], e[..., None], upper=False)
    return float(white.square().mean()) if len(e) else 1.0


def optimism(system: LinearGaussian, bins: int) -> float:
    """The factor by which innovations are larger on new time than on the `bins` that the system was fitted to.

    That of Akaike's final prediction error (1969, Ann. Inst. Stat. Math. 21:243), (bins + p) / (bins - p), for p free
    parameters per dimension of z: n states and d dimensions have 2 n d of A, C and Q in any coordinates, and d more of
    R, as the autocovariances of z tell. Of fewer bins than p + 1 it is that of p + 1.
    """
    p = 2 * len(system.A) + 1
    bins = max(bins, p + 1)
    return (bins + p) / (bins - p)


def canonical_gauge(
    mean: Floats,
    cov: Floats,
    segment: Array,
    activity: Floats,
    lag: int,
) -> Floats:
    """T of the coordinates h' = T h in which two fits of the same recording can be laid over each other.

    Unit marginal covariance: Cov of the filtered means plus the mean of their covariances is the identity. The slowest
    dimension first: the rotation is that of slow feature analysis (Wiskott & Sejnowski 2002), which diagonalises
    the autocovariance of the means, here `lag` bins apart, in falling order of the autocorrelation. Sign: each
    dimension rises with the activity of the units.

    Args:
        mean: (time, state) filtered means of the training time, in the coordinates of training.
        cov: (state, state) mean of their covariances.
        segment: (time,) different numbers on both sides of a gap.
        activity: (time,) of the population, as `population_activity` gives it.
        lag: bins; from one bin to the next states hardly differ, and neither do their autocorrelations.
    """
    centred = mean - mean.mean(0)
    L = np.linalg.cholesky(centred.T @ centred / len(mean) + cov)
    white = np.linalg.solve(L, centred.T).T
    lag = lag if (segment[lag:] == segment[:-lag]).any() else 1
    same = segment[lag:] == segment[:-lag]
    lagged = white[:-lag][same].T @ white[lag:][same] / max(same.sum(), 1)
    rotation = np.linalg.eigh(0.5 * (lagged + lagged.T))[1]
    variance = ((white @ rotation) ** 2).mean(0)  # of the means: the rest of the one is what remains unknown
    autocorrelation = (rotation * (lagged @ rotation)).sum(0) / np.maximum(variance, 1e-12)
    rotation = rotation[:, np.argsort(-autocorrelation, kind="stable")]
    with_units = (white @ rotation).T @ activity
    return np.linalg.solve(L.T, rotation).T * np.where(with_units < 0, -1.0, 1.0)[:, None]


def population_activity(roots: Float[Tensor, "time unit"]) -> Floats:
    """The sum (time,) of the units' standardised root counts: what is positively correlated with it is, on average,
    with the units. Roots are 0 where a unit was not observed."""
    x = roots.double().numpy()
    activity: Floats = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-12)).sum(1)
    return activity
