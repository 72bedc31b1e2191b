"""The steps after training: sessions in one state space, noise fitted to z, the size of covariances, the gauge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ldmfilter.data.frames import phases
from ldmfilter.data.tables import Array, Floats
from ldmfilter.filter.batches import Judged, Recording, Stretches
from ldmfilter.filter.kalman import Filtered, LinearGaussian, filter, filter_windows
from ldmfilter.filter.linalg import safe_cholesky
from ldmfilter.filter.matching import Match, match, mean_moments, moments_of, rotated
from ldmfilter.filter.network import Network, together
from ldmfilter.filter.parameters import NoiseWithMemory
from ldmfilter.ldm.alignment import predictive_gaussian

ITERATIONS = 100  # of L-BFGS at most
HELD_OUT_WEIGHT = 0.5  # of the held-out windows together
LEAST_SCALE = 1e-3  # of innovations in training; in finished filters 0.32 (sample session) to 1.00 (noise) was seen
REFIT_WINDOWS = 2048  # training windows at most that the noise is fitted to, spread evenly
GAUGE_LAG = 1.0  # s, between the states whose autocorrelation orders the dimensions
FINISH_BINS = 2**16  # bins at most, about, that moments, gauge and scale of the covariances are measured on


@torch.no_grad()
def match_sessions(network: Network, sessions: Sequence[Stretches], bin_size: float, onto: bool) -> list[Match]:
    """Rotate each session's z into one state space: that of the first, or, with `onto`, that of the network's moments.

    Returns:
        The match of each session that was rotated.
    """
    moments, matches = [network.moments] if onto else [], []
    for i, (counts, observed, starts, _) in enumerate(sessions):
        run = np.cumsum(starts | (np.diff(observed, prepend=False) != 0))
        own = moments_of(network.encode(counts, i).double().numpy()[observed], run[observed], bin_size)
        if moments:
            matches.append(match(own, moments[0]))
            U = matches[-1].rotation
            encoder, own = network.encoder(i), rotated(own, U)
            encoder.z_whiten.copy_(encoder.z_whiten.double() @ torch.from_numpy(U))
        moments.append(own)
    if not onto:
        network.set_moments(mean_moments(moments))
    return matches


def refit_noise(network: Network, recordings: Sequence[Recording], warmup: int) -> None:
    """Fit the network's noise with a memory to training and held-out windows of all sessions (`refit`)."""
    most = REFIT_WINDOWS // len(recordings)
    with torch.no_grad():
        train = torch.cat([network.encode(one.train(most).cpu(), i).double() for i, one in enumerate(recordings)])
        held = torch.cat([network.encode(one.held.cpu(), i).double() for i, one in enumerate(recordings)])
    assert network.noise is not None
    refit(network.linear_gaussian(), network.noise.double(), train, held, warmup)
    network.noise.float()


@torch.no_grad()
def set_canonical(network: Network, sessions: Sequence[Stretches], bin_size: float) -> None:
    """Set the network's gauge and the size of its covariances, as measured on all sessions."""
    observed, starts, held = (np.concatenate(parts) for parts in list(zip(*sessions, strict=True))[1:])
    filtered = _filtered(network, sessions)
    activity = np.concatenate([population_activity(one.counts.nan_to_num().sqrt()) for one in sessions])
    scale, n = covariance_scale(filtered, held), len(network.gauge)
    if network.noise is not None and network.noise.fitted:
        scale *= optimism(network.noise, int((held & observed).sum()))
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
    for p in range(min(k, len(runs))):
        rows = np.flatnonzero(phase == p)
        starts = torch.from_numpy(np.diff(runs[rows], prepend=-1) != 0)
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


def optimism(noise: NoiseWithMemory, bins: int) -> float:
    """The factor by which innovations are larger on new time than on the held-out `bins` that the noise was fitted to.

    That of Akaike's final prediction error (1969, Ann. Inst. Stat. Math. 21:243) to first order, 1 + 2 p / bins, for p
    free parameters per latent dimension, of d: a row of d x d, (d - 1) / 2 correlations, and three scales.
    """
    p = 1.5 * noise.memory.latent_dim + 2.5
    return 1 + 2 * p / max(bins, 1)


def innovation_scale(
    innovation: Float[Tensor, "*batch latent"], S: Float[Tensor, "latent latent"]
) -> Float[Tensor, ""]:
    """The same factor, the mean of e' S^-1 e over bins and latent dimensions, where all bins share one covariance; at
    least `LEAST_SCALE`, so that a z that has become a constant leaves a covariance, by which it scores low."""
    e = innovation.flatten(0, -2)
    return torch.linalg.solve(S, e.mT @ e / len(e)).diagonal().mean().clamp_min(LEAST_SCALE)


def refit(
    model: LinearGaussian,
    noise: NoiseWithMemory,
    train: Float[Tensor, "window time latent"],
    held: Float[Tensor, "window_2 time latent"],
    warmup: int,
) -> None:
    """Fit the noise by maximum likelihood to the pseudo-observations of the trained encoder, in place, with L-BFGS.

    The states keep the time constants that they were trained with; what predicts z beyond them becomes the memory of
    the noise. Fitted dynamics without such a memory follow what is fast in z, and read behaviour worse.
    The encoder was fitted to the training windows, so that innovations are larger on others: held-out
    windows weigh as much as all of training.

    Args:
        model: the filter as trained, float64.
        noise: what is fitted, float64.
        train: pseudo-observations of training windows.
        held: and of held-out ones.
        warmup: first bins of a window, which do not count.
    """
    noise.start(model)
    z = torch.cat([train, held])
    of_train = z.new_full((len(train),), (1 - HELD_OUT_WEIGHT) / len(train))
    weight = torch.cat([of_train, z.new_full((len(held),), HELD_OUT_WEIGHT / len(held))])
    optimizer = torch.optim.LBFGS(
        [p for p in noise.parameters() if p.requires_grad],
        max_iter=ITERATIONS,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def negative() -> Tensor:
        optimizer.zero_grad()
        zhat, S, _ = filter_windows(noise(model), z)
        loss = -(weight * predictive_gaussian(z[:, warmup:], zhat[:, warmup:], S).mean(1)).sum()
        loss.backward()
        return loss

    optimizer.step(negative)
    noise.fitted.fill_(True)


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
