"""One state space for several sessions: the rotation that makes pseudo-observations of one behave as those of others.

White z has no preferred axes: a filter that predicts z predicts z U as well, for every orthogonal U that leaves the
dynamics as they are, and dynamics of nearly equal time constants change little under any. Sessions that share a world
but no unit are matched by statistics that do not depend on units: the moments of z over time. Second moments separate
directions of different time constants, third moments determine signs. Where the process is symmetric (a track that is
used alike in both directions) separate sessions do not determine the signs, and the runner-up is as good as the match.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from ldmfilter.data.frames import averages
from ldmfilter.data.tables import Array, Floats

SMOOTHING = 0.5  # s, time constant of the average that takes the noise out of z; turning z turns it alike
SECOND_LAGS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)  # s
THIRD_LAGS = (0.0, 0.5, 1.5, 3.0)  # s
SLOWNESS_LAG = 1.0  # s, of the autocovariance whose eigenvectors are where the search starts
RADIUS = 3.0  # times the typical length; farther samples are drawn in, lest a few of them determine third moments
STARTS = 16  # of the search that are refined
ROUNDS = 100  # of a refinement at most
MOST_SIGNS = 10  # dimensions up to which all signs are tried
CLEAR = 2.0  # a runner-up so many times as far from a perfect match as the match is no doubt
APART = 0.5  # mean square distance of slow z under two rotations, over its variance, from which they are different


class Moments(NamedTuple):
    """Moments of smoothed z over time. second: (lag, latent, latent); third: (lag, latent, latent, latent)."""

    second: Floats
    third: Floats


class Match(NamedTuple):
    """The rotation of a session's z onto another's.

    Attributes:
        rotation: (latent, latent) orthogonal U; z U is in the other's coordinates.
        likeness: the mean of the cosines between both sessions' second and third moments, 1 where they are equal.
        runner_up: the same of the best other rotation, one that would exchange or mirror states.
    """

    rotation: Floats
    likeness: float
    runner_up: float

    @property
    def doubtful(self) -> bool:
        """True if the runner-up is nearly as good, as where the world is symmetric or the recording short."""
        return 1 - self.runner_up < CLEAR * (1 - self.likeness)


def moments_of(z: Floats, run: Array, bin_size: float) -> Moments:
    """The moments of white z (time, latent); `run` (time,) has another number where something is missing between."""
    x = averages(z, np.diff(run, prepend=run[:1] - 1) != 0, SMOOTHING / bin_size)
    x = x - x.mean(0)
    length = np.sqrt((x**2).mean(1))
    typical, n = np.sqrt((length**2).mean()), z.shape[1]
    x /= typical * np.sqrt(1 + (length / (RADIUS * typical)) ** 2)[:, None]

    def pairs(lag: float) -> tuple[Floats, Floats]:
        bins = min(max(round(lag / bin_size), 1), len(run)) if lag else 0
        same = run[bins:] == run[: len(run) - bins]
        return x[: len(x) - bins][same], x[bins:][same]

    def third(one: Floats, other: Floats) -> Floats:
        products = (one[:, :, None] * one[:, None, :]).reshape(len(one), n**2)
        return (products.T @ other).reshape(n, n, n) / max(len(one), 1)

    second = [now.T @ later / max(len(now), 1) for now, later in map(pairs, SECOND_LAGS)]
    thirds = []
    for lag in THIRD_LAGS:
        now, later = pairs(lag)
        thirds += [third(now, later), third(later, now)] if lag else [third(now, now)]
    return Moments(np.stack(second), np.stack(thirds))


def no_moments(latents: int) -> Moments:
    """Moments that are all 0, of a model that has none."""
    n = (latents,) * 3
    return Moments(np.zeros((len(SECOND_LAGS), *n[1:])), np.zeros((2 * len(THIRD_LAGS) - 1, *n)))


def mean_moments(several: list[Moments]) -> Moments:
    """The moments of several sessions in one space."""
    return Moments(np.mean([one.second for one in several], 0), np.mean([one.third for one in several], 0))


def rotated(moments: Moments, U: Floats) -> Moments:
    """The moments of z U."""
    third = np.einsum("lijk,ia,jb,kc->labc", moments.third, U, U, U, optimize=True)
    return Moments(U.T @ moments.second @ U, third)


def match(moments: Moments, onto: Moments) -> Match:
    """The rotation, mirrors included, that makes moments most like others."""
    moments, onto = _unit(moments), _unit(onto)
    own, other = _slow_axes(moments), _slow_axes(onto)
    found = _refined(_mirrored(moments, onto, own, other), moments, onto)
    best = found[0][int(found[1].argmax())]
    # Around the best all mirrors once more: a better one may be among them; the best of the others is the runner-up.
    axes = best @ other
    again = _refined(_mirrored(moments, onto, axes, other), moments, onto)
    U, value = (np.concatenate(pair) for pair in zip(found, again, strict=True))
    winner = int(value.argmax())
    lagged = moments.second[SECOND_LAGS.index(SLOWNESS_LAG)]
    moved = U - U[winner]
    apart = ((lagged @ moved) * moved).sum((1, 2)) > APART * np.trace(lagged)
    runner_up = float(value[apart].max()) if apart.any() else 0.0
    return Match(U[winner], float(value[winner]), runner_up)


def _unit(moments: Moments) -> Moments:
    return Moments(*(part / max(float(np.sqrt((part**2).sum())), 1e-300) for part in moments))


def _slow_axes(moments: Moments) -> Floats:
    """Orthogonal axes (latent, axis), the slowest first (Wiskott & Sejnowski 2002)."""
    lagged = moments.second[SECOND_LAGS.index(SLOWNESS_LAG)]
    return np.linalg.eigh(lagged + lagged.T)[1][:, ::-1]


def _mirrored(moments: Moments, onto: Moments, own: Floats, other: Floats) -> Floats:
    """The most promising rotations (start, latent, latent) that take own axes to plus or minus the other's."""
    n = len(own)
    one, two = rotated(moments, own), rotated(onto, other)
    pairs, triples = (one.second * two.second).sum(0), (one.third * two.third).sum(0)

    def value(signs: Floats) -> Floats:
        of_triples = (signs @ triples.reshape(n, -1)).reshape(-1, n, n)
        return (((pairs + of_triples) @ signs[:, :, None])[..., 0] * signs).sum(1)

    if n <= MOST_SIGNS:
        signs = np.array(list(itertools.product([1.0, -1.0], repeat=n)))
    else:  # each from its own start uphill, a sign at a time
        signs = np.where(np.random.default_rng(0).random((2**MOST_SIGNS, n)) < 0.5, -1.0, 1.0)
        for _ in range(2):
            for axis in range(n):
                flipped = signs.copy()
                flipped[:, axis] *= -1
                better = value(flipped) > value(signs)
                signs[better] = flipped[better]
        signs = np.unique(signs, axis=0)
    best = signs[np.argsort(-value(signs), kind="stable")[:STARTS]]
    return (own[None] * best[:, None, :]) @ other.T


def _refined(U: Floats, moments: Moments, onto: Moments) -> tuple[Floats, Floats]:
    """Each start taken uphill to the next best rotation, and its likeness.

    A power iteration: U becomes the orthogonal factor of the gradient, which never goes downhill where the
    likeness is convex (Journee, Nesterov, Richtarik & Sepulchre 2010); a multiple of U, enlarged where it did, makes it
    so.
    """
    shift = np.full(len(U), 0.1)
    value, gradient = _likeness(U, moments, onto)
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd(gradient + shift[:, None, None] * U)
        moved = left @ right
        new, slope = _likeness(moved, moments, onto)
        up = new >= value
        gain = np.where(up, new - value, np.inf)
        U, gradient = np.where(up[:, None, None], moved, U), np.where(up[:, None, None], slope, gradient)
        value, shift = np.where(up, new, value), np.where(up, shift, 4 * shift)
        if (gain < 1e-9).all():
            break
    return U, value


def _likeness(U: Floats, moments: Moments, onto: Moments) -> tuple[Floats, Floats]:
    """The mean cosine of second and third moments (start,), and its gradient in U (start, latent, latent)."""
    n = U.shape[1]
    of_second = (moments.second @ U[:, None] @ onto.second.transpose(0, 2, 1)).sum(1)
    of_second += (moments.second.transpose(0, 2, 1) @ U[:, None] @ onto.second).sum(1)
    # Third moments T_ijk are symmetric in i and j. Two of the three indices turned, in each way:
    with_i = _last_two(moments.third, U)
    with_k = _last_two(moments.third.transpose(0, 3, 1, 2), U)
    of_third = 2 * with_i @ onto.third.transpose(0, 3, 2, 1).reshape(-1, n)
    last = with_k @ onto.third.transpose(0, 2, 1, 3).reshape(-1, n)
    value = 0.25 * (of_second * U).sum((1, 2)) + 0.5 * (last * U).sum((1, 2))
    return value, 0.5 * (of_second + of_third + last)


def _last_two(third: Floats, U: Floats) -> Floats:
    """Moments with their last two indices turned by each U: (start, first index, lag times last times middle)."""
    x = third @ U[:, None, None]
    x = x.swapaxes(-1, -2) @ U[:, None, None]  # (start, lag, first, last, middle)
    return x.swapaxes(1, 2).reshape(len(U), U.shape[1], -1)
