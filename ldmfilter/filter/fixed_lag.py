"""The fixed-lag smoother: the state of a bin, given those up to some time after it.

The Rauch-Tung-Striebel smoother of `kalman.smooth`, begun `frames` frames after each bin in place of at the segment's
end (Anderson & Moore 1979, *Optimal Filtering*, chapter 7). Where the segment ends earlier, it begins there.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from ldmfilter.errors import InputError
from ldmfilter.filter.kalman import Filtered, LinearGaussian, Smoothed, smoother_gains
from ldmfilter.filter.linalg import pick, symmetrise


def lag_frames(lag: float, frame: float, seconds: float = math.inf) -> int:
    """The whole frames of `frame` s in a lag, s.

    Raises:
        InputError: there is none, or the lag is longer than the session's `seconds`.
    """
    if not 0 < lag < math.inf:
        raise InputError(f"lag is {lag:g} s; give a number of seconds above 0, as 0.5")
    if lag > seconds:
        raise InputError(f"lag is {lag:g} s, but the session has {seconds:g} s; give a shorter one, or --smooth")
    frames = int(lag / frame + 1e-6)
    if not frames:
        raise InputError(
            f"lag is {lag:g} s, but this filter looks at frames of {frame:g} s and learns nothing new of a bin before "
            f"the next one ends; give {frame:g} s or more"
        )
    return frames


def smooth_lagged(model: LinearGaussian, filtered: Filtered, starts: Bool[Tensor, " time"], frames: int) -> Smoothed:
    """Each state given `frames` more, or those that its segment still has.

    Args:
        model: the parameters that `filtered` was made with.
        filtered: result of `filter`, of one series (time, state).
        starts: True at the first frame of each segment.
        frames: of the lag.
    """
    mean, row = filtered.filtered_mean, filtered.row
    P = filtered.covariances.filtered
    predicted, G = smoother_gains(model, P)
    last = starts.cpu().roll(-1)
    last[-1:] = True
    there, gains = last.to(mean.device)[:, None], G.to(mean)
    update = (mean - filtered.predicted_mean).roll(-1, 0)
    # d_t = m_t|t+n - m_t; each round takes one frame more: d_t = G_t (d_{t+1} + m_{t+1} - m-_{t+1}).
    d, table, node = torch.zeros_like(mean), P, row
    for _ in range(frames):
        d = pick(gains, row, d.roll(-1, 0) + update).masked_fill(there, 0)
        size = len(table)
        pairs, node = (row * (size + 1) + node.roll(-1).masked_fill(last, size)).unique(return_inverse=True)
        own, later = pairs // (size + 1), pairs % (size + 1)
        change = torch.cat([table, torch.zeros_like(table[:1])])[later] - predicted[own]
        change = (G[own] @ change @ G[own].mT).masked_fill((later == size)[:, None, None], 0)
        table = symmetrise(P[own] + change)
    return Smoothed(mean + d, table, node)
