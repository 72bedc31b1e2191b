"""One bin in, one state out: the fitted filter inside a closed loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ldmfilter.errors import InputError
from ldmfilter.filter.fixed_lag import lag_frames
from ldmfilter.filter.linalg import block_diagonal
from ldmfilter.filter.online_part import MOST, Array, OnlinePart

if TYPE_CHECKING:
    from ldmfilter.filter.fitted import Fitted

__all__ = ["OnlineFilter"]

_ARRAYS = ("mean", "cov", "recent")


class OnlineFilter:
    """A fitted filter that takes one bin at a time and remembers its state.

    The states are those that `LDMFilter.decode` gives as filtered (t|t), to 1e-6. Nothing grows with the number of
    bins. Not for several threads at once.

    With a lag, `step` gives the state of the bin that lies so far behind, given all bins up to now, as `decode` gives
    it as lagged (t|t+lag); `flush` gives those that are left at the end.

    Args:
        model: a fitted `LDMFilter`. It is read once; fitting it anew does not change this filter.
        lag: s, in whole frames (`fixed_lag.lag_frames`).

    A filter of a signal takes the mean of each channel over a bin in place of counts.

    Attributes:
        unit_ids: (unit,) ids in the order that `step` takes the counts in.
        model_id: hash of the model's parameters.
        lag_bins: number of bins that `step` is behind.

    Raises:
        InputError: the model is not fitted, or the lag is shorter than a frame.
    """

    def __init__(self, model: Fitted, lag: float | None = None):
        model.check_fitted()
        self.unit_ids, self.model_id, self._signal = model.unit_ids_, model.model_id_, model.signal_
        frames = 0 if lag is None else lag_frames(lag, model.frame_)
        self.lag_bins = frames * model.frame_bins_
        self._parts = [OnlinePart(part, self.lag_bins) for part in model.parts]
        names = [f"{part.kept_.name.split()[0]}_" for part in model.parts]
        self._prefixes = names if len(names) > 1 else [""]

    @property
    def bins(self) -> int:
        """Number of bins taken since the start or the last `reset`."""
        return self._parts[0].bins

    def reset(self) -> None:
        """Start a new segment: the next bin's prediction is the prior (mean b, stationary covariance)."""
        for part in self._parts:
            part.reset()

    def step(self, counts: ArrayLike | None) -> tuple[Array, Array] | None:
        """Take one bin and give its state, or with a lag that of the bin so far behind.

        Args:
            counts: (unit,) whole numbers in the order of `unit_ids`, or any numbers of a signal; NaN for a unit that is
                not observed, which enters as its mean. None, or NaN for every unit, is a missing bin: a predict step
                only.

        Returns:
            Mean (state,) and covariance (state, state), filtered (t|t) or lagged (t|t+lag): new arrays, which are the
            caller's. None while no bin lies so far behind.

        Raises:
            InputError: another number of counts, or one that is negative, infinite or no whole number. The state
                is as before the call.
        """
        checked = None if counts is None else self._checked(counts)
        states = [part.step(checked) for part in self._parts]
        return None if states[0] is None else _beside(states)

    def flush(self) -> list[tuple[Array, Array]]:
        """Give the states of the last bins, which `step` has not given yet, each given all bins up to the last; then
        start a new segment, as `reset`."""
        return [_beside(states) for states in zip(*(part.flush() for part in self._parts), strict=True)]

    def ahead(self, seconds: float) -> tuple[Array, Array]:
        """The state `seconds` after the last bin, given that bin and all before: mean (state,) and covariance (state,
        state), as `decode` gives them as ahead (`filter.forecast`).

        Raises:
            InputError: not above 0, not finite, or between frames where the dynamics have no such power.
        """
        return _beside([part.ahead(seconds) for part in self._parts])

    def _checked(self, counts: ArrayLike) -> Array:
        """Counts as an array. Raises: InputError, naming what cannot be used."""
        try:
            x = np.asarray(counts, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise InputError("counts: not all are numbers; give one count for each unit, NaN if unobserved") from None
        n = len(self.unit_ids)
        if x.shape != (n,):
            what = f"{x.size} counts" if x.ndim == 1 else f"an array of shape {x.shape}"
            raise InputError(f"counts: {what}, but the model has {n} units; give one count for each, NaN if unobserved")
        good = np.abs(x) < MOST if self._signal else (x >= 0) & (x <= MOST) & (np.floor(x) == x)
        bad = ~(good | np.isnan(x))
        if bad.any():
            i, wanted = int(bad.argmax()), "finite numbers" if self._signal else "whole numbers of 0 or more"
            raise InputError(f"counts: unit {self.unit_ids[i]} has {x[i]:g}; give {wanted}, NaN if unobserved")
        return x

    def state(self) -> dict[str, Any]:
        """The state that `restore` goes on from, as NumPy arrays and plain values.

        Keys: mean (bin, state) and cov (bin, state, state) of the last k bins, and those of the lag before, with the
        states of the noise where it has a memory; recent (phase, unit), the counts of the last k bins, -1 (of a signal
        the largest float32) where there is none; bins; model_id. A filter of slow and fast states has arrays of each:
        slow_mean, fast_mean and so on. For `np.savez(path, **state)`, or for JSON with each array's `tolist`.
        """
        arrays = {
            f"{prefix}{name}": value
            for prefix, part in zip(self._prefixes, self._parts, strict=True)
            for name, value in part.state().items()
        }
        return arrays | {"bins": self.bins, "model_id": self.model_id}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; arrays may be lists, as JSON gives them back.

        Raises:
            InputError: of another model, incomplete, or its covariance is not positive semidefinite. The filter
                is as before the call.
        """
        try:
            each = [[np.array(state[prefix + name], np.float64) for name in _ARRAYS] for prefix in self._prefixes]
            bins, model_id = int(state["bins"]), str(state["model_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"state: incomplete or damaged ({error}); give what OnlineFilter.state() gave") from None
        if model_id != self.model_id:
            raise InputError(f"state: of model {model_id}, but this is {self.model_id}; restore it with its own model")
        parts = list(map(copy.copy, self._parts))
        for part, (mean, cov, recent) in zip(parts, each, strict=True):
            part.restore(mean, cov, recent, bins)
        self._parts = parts


def _beside(states: Sequence[tuple[Array, Array] | None]) -> tuple[Array, Array]:
    """States of several parts as one: side by side, independent of each other given the spikes."""
    known = [state for state in states if state is not None]
    if len(known) == 1:
        return known[0]
    means, covs = zip(*known, strict=True)
    return np.concatenate(means), block_diagonal(covs)
