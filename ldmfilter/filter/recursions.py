"""Loops over bins, compiled by numba: covariances and means of the filter and the smoother, in float64.

The covariances depend on the pattern of segment starts, missing bins and evidence alone. A row of a table holds those
of all bins where they are the same; a row that was computed once is found again through the row of the bin before.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Covariances that differ from their limit by less, relative to its largest entry, are taken for it. The equations' map
# is a contraction (near the limit by the closed loop F = (I - K C) A, on both sides), so that what is taken for the
# same here differs by no more than sup_k |F^k|^2 times as much in any later bin.
SAME = 1e-12
# Those that differ by no more than this from the bin before, where nothing else has changed, do not change any more.
STILL = 4 * np.finfo(np.float64).eps
EPS = np.finfo(np.float64).eps


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call and kept on disk where a folder can be written."""
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no such folder
        return njit(error_model="numpy")(function)


@compiled
def near(P: Array, other: Array, share: float) -> bool:
    """No entry differs by more than this share of the other's largest; False where the other is NaN."""
    largest = 0.0
    for i in range(len(P)):
        for j in range(len(P)):
            largest = max(largest, abs(other[i, j]))
    for i in range(len(P)):
        for j in range(len(P)):
            if not abs(P[i, j] - other[i, j]) <= share * largest:
                return False
    return True


@compiled
def _add(out: Array, M: Array, x: Array) -> None:
    """out + M x, into out."""
    for i in range(len(out)):
        total = out[i]
        for j in range(len(x)):
            total += M[i, j] * x[j]
        out[i] = total


@compiled
def _product(M: Array, X: Array, out: Array) -> None:
    """M X, into out."""
    for i in range(len(out)):
        for j in range(out.shape[1]):
            out[i, j] = 0.0
        for m in range(len(X)):
            for j in range(out.shape[1]):
                out[i, j] += M[i, m] * X[m, j]


@compiled
def _copy(P: Array, out: Array) -> None:
    for i in range(P.shape[0]):
        for j in range(P.shape[1]):
            out[i, j] = P[i, j]


@compiled
def _transposed(M: Array) -> Array:
    out = np.empty((M.shape[1], M.shape[0]))
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            out[j, i] = M[i, j]
    return out


@compiled
def _sum(P: Array, share: float, Q: Array) -> None:
    """The symmetric part of P, and a share of the symmetric Q, into P."""
    for i in range(len(P)):
        for j in range(i + 1):
            P[i, j] = P[j, i] = 0.5 * (P[i, j] + P[j, i]) + share * Q[i, j]


@compiled
def _factorise(S: Array, L: Array) -> bool:
    """Cholesky's factorisation S = L L' into L, whose upper half is left as it is; False where there is none."""
    for j in range(len(S)):
        for i in range(j, len(S)):
            left = S[i, j]
            for m in range(j):
                left -= L[i, m] * L[j, m]
            if i > j:
                L[i, j] = left / L[j, j]
            elif 0 < left < np.inf:
                L[j, j] = np.sqrt(left)
            else:
                return False
    return True


@compiled
def _repaired(S: Array, L: Array) -> int:
    """L of S = L L'; where rounding left S indefinite, of S and 10^p machine epsilons of its mean diagonal.

    Returns:
        p: 0 as a rule, up to 4 where S was repaired, 5 where it is no covariance.
    """
    if _factorise(S, L):
        return 0
    T = np.empty_like(S)
    for power in range(1, 5):
        _copy(S, T)
        for i in range(len(S)):
            T[i, i] += 10.0**power * EPS * np.trace(S) / len(S)
        if _factorise(T, L):
            return power
    return 5


@compiled
def _longer(table: Array) -> Array:
    """The table with space for as many rows again."""
    longer = np.empty((2 * len(table), table.shape[1], table.shape[2]))
    for row in range(len(table)):
        _copy(table[row], longer[row])
    return longer


@compiled
def _forwards(L: Array, X: Array) -> None:
    """L^-1 X, into X, of a lower L."""
    for i in range(len(L)):
        for m in range(i):
            for j in range(X.shape[1]):
                X[i, j] -= L[i, m] * X[m, j]
        for j in range(X.shape[1]):
            X[i, j] /= L[i, i]


@compiled
def _backwards(L: Array, X: Array) -> None:
    """L'^-1 X, into X, of a lower L."""
    for i in range(len(L) - 1, -1, -1):
        for m in range(i + 1, len(L)):
            for j in range(X.shape[1]):
                X[i, j] -= L[m, i] * X[m, j]
        for j in range(X.shape[1]):
            X[i, j] /= L[i, i]


@compiled
def _update(P: Array, C: Array, Ct: Array, R: Array, level: float, filtered: Array, S: Array, gain: Array) -> int:
    """From the predicted covariance P the filtered one, the innovation covariance S = C P C' + R / level and the gain
    P C' S^-1, into the last three; the power of `_repaired`."""
    latent, state = C.shape
    L, W = np.empty((latent, latent)), np.empty((latent, state))
    _product(C, P, W)
    _product(W, Ct, S)
    _sum(S, 1 / level, R)
    power = _repaired(S, L)
    _forwards(L, W)
    for i in range(state):
        for j in range(state):
            filtered[i, j] = P[i, j]
        for m in range(latent):
            for j in range(state):
                filtered[i, j] -= W[m, i] * W[m, j]
    _backwards(L, W)
    for i in range(latent):
        for j in range(state):
            gain[j, i] = W[i, j]
    return power


@compiled
def predicted(A: Array, Q: Array, P: Array) -> Array:
    """Covariance A P A' + Q of the next bin."""
    AP, out = np.empty_like(P), np.empty_like(P)
    _product(A, P, AP)
    _product(AP, _transposed(A), out)
    _sum(out, 1.0, Q)
    return out


@compiled
def updated(P: Array, C: Array, R: Array, level: float) -> tuple[Array, Array, int]:
    """Gain and filtered covariance from a predicted one, with the noise R / level; the power of `_repaired`."""
    gain, filtered, S = np.empty((len(P), len(R))), np.empty_like(P), np.empty_like(R)
    power = _update(P, C, _transposed(C), R, level, filtered, S, gain)
    return gain, filtered, power


@compiled
def filter_covariances(
    A: Array, Q: Array, C: Array, R: Array, first: Array, prior: Array, limit: Array, level: Array, starts: Flags
) -> tuple[Array, Array, Array, Array, Rows, int]:
    """Covariances and gains of the filter, each distinct one once.

    Args:
        A, Q, C, R: as in `LinearGaussian`.
        first: predicted covariance of the first bin, where that starts no segment.
        prior: that of bins that start a segment.
        limit: that in the limit, where the level is 1; NaN where there is none.
        level: evidence of each bin (time,), its noise being R / level; 0 where it is missing.
        starts: bins (time,) that start a segment.

    Returns:
        Tables (row, ...) of predicted and filtered covariances, innovation covariances and gains; each bin's row
        (time,); the largest power of `_repaired`.
    """
    latent, state = C.shape
    rows, limit_row, worst = 0, -1, 0
    space = 64
    for share in level:
        space += share != 0 and share != 1
    predicted, filtered = np.empty((space, state, state)), np.empty((space, state, state))
    innovation, gain = np.empty((space, latent, latent)), np.empty((space, state, latent))
    # The row that follows each row (in the first place, a segment's start) where the level is 0, or 1; -1: not known.
    after = np.full((len(level) + 1, 2), -1)
    row = np.empty(len(level), np.int64)
    P, AP, At, Ct = np.empty_like(Q), np.empty_like(Q), _transposed(A), _transposed(C)
    for t in range(len(level)):
        before = -1 if starts[t] or t == 0 else row[t - 1]
        usual = (level[t] == 0 or level[t] == 1) and (t > 0 or starts[t])
        if usual and after[before + 1, int(level[t])] >= 0:
            row[t] = after[before + 1, int(level[t])]
            continue
        if before >= 0:
            _product(A, filtered[before], AP)
            _product(AP, At, P)
            _sum(P, 1.0, Q)
        else:
            _copy(prior if starts[t] else first, P)
        at = -1
        if level[t] == 1 and near(P, limit, SAME):
            _copy(limit, P)
            at = limit_row
            if at < 0:
                limit_row = rows
        elif before >= 0 and level[t] == level[t - 1] and near(P, predicted[before], STILL):
            at = before
        if at < 0:
            at, rows = rows, rows + 1
            if at == space:
                predicted, filtered = _longer(predicted), _longer(filtered)
                innovation, gain = _longer(innovation), _longer(gain)
                space *= 2
            _copy(P, predicted[at])
            if level[t] > 0:
                worst = max(worst, _update(P, C, Ct, R, level[t], filtered[at], innovation[at], gain[at]))
            else:
                _update(P, C, Ct, R, 1.0, filtered[at], innovation[at], gain[at])
                _copy(P, filtered[at])
                gain[at] = 0
        if usual:
            after[before + 1, int(level[t])] = at
        row[t] = at
    return predicted[:rows], filtered[:rows], innovation[:rows], gain[:rows], row, worst


@compiled
def filter_means(
    A: Array, C: Array, b: Array, gain: Array, row: Rows, first: Array, observed: Flags, starts: Flags, z: Array
) -> tuple[Array, Array, Array]:
    """Predicted and filtered means (time, state) and innovations (time, latent), NaN in a missing bin, as z's numbers.

    first: mean predicted for the first bin, where that starts no segment
    """
    (time, latent), state = z.shape, len(b)
    predicted, filtered = np.empty((time, state), z.dtype), np.empty((time, state), z.dtype)
    innovation = np.empty((time, latent), z.dtype)
    ahead, x, e = np.zeros(state), np.zeros(state), np.zeros(latent)  # the two means less b, the innovation
    for t in range(time):
        for i in range(state):
            ahead[i] = 0 if t or starts[t] else first[i] - b[i]
        if t and not starts[t]:
            _add(ahead, A, x)
        for i in range(state):
            x[i] = ahead[i]
            predicted[t, i] = ahead[i] + b[i]
        for i in range(latent):
            e[i] = z[t, i]
            for j in range(state):
                e[i] -= C[i, j] * (ahead[j] + b[j])
            innovation[t, i] = e[i] if observed[t] else np.nan
        if observed[t]:
            _add(x, gain[row[t]], e)
        for i in range(state):
            filtered[t, i] = x[i] + b[i]
    return predicted, filtered, innovation


@compiled
def smoother_gains(A: Array, Q: Array, P: Array) -> tuple[Array, Array, int]:
    """Of filtered covariances P (row, state, state) those predicted for the next bin, P- = A P A' + Q, and the gains of
    the smoother, P A' (P-)^-1; the largest power of `_repaired`."""
    ahead, G, worst = np.empty_like(P), np.empty_like(P), 0
    At, L, AP = _transposed(A), np.empty_like(A), np.empty_like(A)
    for row in range(len(P)):
        _product(A, P[row], AP)
        _product(AP, At, ahead[row])
        _sum(ahead[row], 1.0, Q)
        worst = max(worst, _repaired(ahead[row], L))
        _forwards(L, AP)
        _backwards(L, AP)
        for i in range(len(A)):
            for j in range(len(A)):
                G[row, j, i] = AP[i, j]
    return ahead, G, worst


@compiled
def _back(P: Array, ahead: Array, G: Array, later: Array, out: Array) -> None:
    """P + G (later - ahead) G', the smoothed covariance from that of the bin after, into out."""
    D, GD = np.empty_like(P), np.empty_like(P)
    for i in range(len(P)):
        for j in range(len(P)):
            D[i, j] = later[i, j] - ahead[i, j]
    _product(G, D, GD)
    _product(GD, _transposed(G), out)
    _sum(out, 1.0, P)


@compiled
def smoother_covariances(
    P: Array, ahead: Array, G: Array, row: Rows, last: Flags, limit: Array, common: int
) -> tuple[Array, Rows]:
    """Smoothed covariances, each distinct one once.

    Args:
        P: filtered covariances (row, state, state).
        ahead: those predicted for the bin after each.
        G: gains of the smoother.
        row: each bin's place (time,) in these tables.
        last: bins (time,) that end a segment.
        limit: the smoothed covariance in the limit, where the row is the common one; NaN where there is none.
        common: the most frequent row.

    Returns:
        The table (row, state, state) of smoothed covariances, and each bin's row (time,).
    """
    time = len(row)
    smoothed, rows, limit_row = np.empty((64, *P.shape[1:])), 0, -1
    found, X = np.empty(time, np.int64), np.empty_like(limit)
    ending = np.full(len(P), -1)  # the row of a segment's last bin, by its row in P; -1: not known
    after, by = np.full(time, -1), np.full(time, -1)  # the row found last for the bin before each row, and its row in P
    for t in range(time - 1, -1, -1):
        r = row[t]
        later = -1 if last[t] else found[t + 1]
        at = ending[r] if last[t] else after[later] if by[later] == r else -1
        if at >= 0:
            found[t] = at
            continue
        if last[t]:
            _copy(P[r], X)
        else:
            _back(P[r], ahead[r], G[r], smoothed[later], X)
            if r == common and near(X, limit, SAME):
                _copy(limit, X)
                at = limit_row
                if at < 0:
                    limit_row = rows
            elif r == row[t + 1] and near(X, smoothed[later], STILL):
                at = later
        if at < 0:
            at, rows = rows, rows + 1
            if at == len(smoothed):
                smoothed = _longer(smoothed)
            _copy(X, smoothed[at])
        found[t] = at
        if last[t]:
            ending[r] = at
        else:
            after[later], by[later] = at, r
    return smoothed[:rows], found


@compiled
def _carry(G: Array, later: Array, update: Array, d: Array, both: Array) -> None:
    """G (later + update), into d; `both` is space for the sum."""
    for i in range(len(d)):
        both[i], d[i] = later[i] + update[i], 0
    _add(d, G, both)


@compiled
def smoother_means(G: Array, row: Rows, last: Flags, update: Array) -> Array:
    """What later bins of its segment add to each bin's filtered mean (time, state): d_t = G_t (d_{t+1} + u_{t+1}).

    Args:
        G, row, last: as in `smoother_covariances`.
        update: u (time, state), the filtered mean less the predicted one.
    """
    d, both = np.zeros_like(update), np.empty(update.shape[1])
    for t in range(len(row) - 2, -1, -1):
        if not last[t]:
            _carry(G[row[t]], d[t + 1], update[t + 1], d[t], both)
    return d


@compiled
def lagged(
    P: Array, ahead: Array, G: Array, row: Rows, last: Flags, update: Array, lag: int
) -> tuple[Array, Array, Rows]:
    """The two of the smoother, of each bin given so many bins more, or those that its segment still has.

    Args: as in `smoother_covariances` and `smoother_means`.

    Returns:
        What later bins add to each mean (time, state), the table of covariances, and each bin's row (time,).
    """
    time = len(row)
    d, table, rows, found = np.zeros_like(update), np.empty((64, *P.shape[1:])), 0, np.empty(time, np.int64)
    X, Y, both = np.empty_like(P[0]), np.empty_like(P[0]), np.empty(update.shape[1])
    end, like = np.empty(time, np.int64), np.full(len(P), -1)  # the last bin that is given; the next bin of a row
    for t in range(time - 1, -1, -1):
        end[t] = t if last[t] else min(end[t + 1], t + lag)
        for s in range(end[t] - 1, t - 1, -1):
            _carry(G[row[s]], d[t], update[s + 1], d[t], both)
        other = like[row[t]]
        like[row[t]] = t
        if other >= 0 and np.array_equal(row[t : end[t] + 1], row[other : end[other] + 1]):
            found[t] = found[other]
            continue
        _copy(P[row[end[t]]], X)
        for s in range(end[t] - 1, t - 1, -1):
            _back(P[row[s]], ahead[row[s]], G[row[s]], X, Y)
            X, Y = Y, X
        if rows == len(table):
            table = _longer(table)
        _copy(X, table[rows])
        found[t] = rows
        rows += 1
    return d, table[:rows], found


@compiled
def decaying_sums(x: Array, keep: Array, starts: Flags) -> None:
    """x_t + keep x_{t-1} + keep^2 x_{t-2} + ... from the segment's start on, into x (time, dim)."""
    for t in range(1, len(x)):
        if not starts[t]:
            x[t] += keep * x[t - 1]
