"""One bin in, one state out: the fitted filter inside a closed loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ldmfilter.errors import InputError
from ldmfilter.filter.forecast import whole_lag
from ldmfilter.filter.linalg import block_diagonal
from ldmfilter.filter.online_part import MOST, Array, OnlinePart

if TYPE_CHECKING:
    from ldmfilter.filter.model import LDMFilter

__all__ = ["OnlineFilter"]

MOST_LAG = 10_000  # bins whose states are kept
_ARRAYS = ("mean", "cov", "recent")


class OnlineFilter:
    """A fitted filter that takes one bin at a time and remembers its state.

    The states are those that `LDMFilter.decode` gives as filtered (t|t), to 1e-6. Nothing grows with the number of
    bins. Not for several threads at once.

    With a lag, `step` gives the state of the bin that lies so far behind, given all bins up to now, as `decode` gives
    it as lagged (t|t+lag); `flush` gives those that are left at the end.

    A filter of a signal takes the mean of each channel over a bin in place of counts.

    Parameters
    ----------
    model : LDMFilter
        Fitted, of one session (`LDMFilter.of`). It is read once; fitting it anew does not change this filter.
    lag : float, optional
        s, in whole frames of the shortest; states of longer frames use as many of theirs as it holds.

    Attributes
    ----------
    unit_ids : ndarray (unit,)
        Ids in the order that `step` takes the counts in.
    model_id : str
        Hash of the model's parameters.
    bins : int
        Number of bins taken since the start or the last `reset`.
    lag_bins : int
        Number of bins that `step` is behind.
    innovation : ndarray (latent,)
        Normalised innovation of the last bin.

    Raises
    ------
    InputError
        The model is not fitted; the lag is no number, shorter than every frame, or longer than 10,000 bins.

    Examples
    --------
    >>> online = ldmfilter.OnlineFilter(model)
    >>> for bin in counts.values:  # in an experiment: as each bin ends
    ...     mean, cov = online.step(bin)
    >>> bool(np.allclose(mean, latents["filtered_mean"][-1], atol=1e-4))
    True
    """

    def __init__(self, model: LDMFilter, lag: float | None = None):
        model.check_fitted()
        self.unit_ids, self.model_id, self._signal = model.unit_ids_, model.model_id_, model.signal_
        self.lag_bins = 0 if lag is None else whole_lag(model, lag)
        if self.lag_bins > MOST_LAG:
            most = MOST_LAG * model.bin_size_
            raise InputError(f"lag is {lag:g} s, and at most {MOST_LAG:,} bins are waited for; give {most:g} s or less")
        self._parts = [OnlinePart(part, self.lag_bins) for part in model.parts]
        names = [f"{part.kept_.dynamics}_" for part in model.parts]
        self._prefixes = names if len(names) > 1 else [""]

    @property
    def bins(self) -> int:
        """Number of bins taken since the start or the last `reset`."""
        return self._parts[0].bins

    @property
    def innovation(self) -> Array:
        """Normalised innovation of the last bin, (latent,): on average 0, of unit variance, where the filter is right.

        L^-1 e with S = L L', e = z - C m and S = C P C' + R, with m and P the state that was predicted for the bin; the
        parts of slow and fast states stand one after the other. NaN where the bin was missing, or none was taken since
        the start, `reset` or `restore`. It is computed when asked for.

        Examples
        --------
        >>> online = ldmfilter.OnlineFilter(model)
        >>> _ = online.step(counts.values[0])
        >>> online.innovation.shape
        (2,)
        """
        return np.concatenate([part.innovation for part in self._parts])

    def reset(self) -> None:
        """Start a new segment: the next bin's prediction is the prior (mean b, stationary covariance).

        Examples
        --------
        >>> online = ldmfilter.OnlineFilter(model)
        >>> first, _ = online.step(counts.values[0])
        >>> online.reset()
        >>> bool((online.step(counts.values[0])[0] == first).all())
        True
        """
        for part in self._parts:
            part.reset()

    def step(self, counts: ArrayLike | None) -> tuple[Array, Array] | None:
        """Take one bin and give its state, or with a lag that of the bin so far behind.

        Parameters
        ----------
        counts : array_like (unit,) or None
            Whole numbers in the order of `unit_ids`, or any numbers of a signal; NaN for a unit that is not observed,
            which enters as its mean. None, or NaN for every unit, is a missing bin: a predict step only.

        Returns
        -------
        mean : ndarray (state,)
            Filtered (t|t) or lagged (t|t+lag).
        cov : ndarray (state, state)
            Its covariance. Both are new arrays, which are the caller's; with a lag, None stands in place of both while
            no bin lies so far behind.

        Raises
        ------
        InputError
            Another number of counts, or one that is negative, infinite or no whole number. The state is as before the
            call.

        Examples
        --------
        >>> online = ldmfilter.OnlineFilter(model)
        >>> mean, cov = online.step([0, 2, 0, 1, np.nan, 0])
        >>> mean.shape, cov.shape
        ((2,), (2, 2))
        """
        checked = None if counts is None else self._checked(counts)
        states = [part.step(checked) for part in self._parts]
        return None if states[0] is None else _beside(states)

    def flush(self) -> list[tuple[Array, Array]]:
        """Give the states of the last bins, which `step` has not given yet, each given all bins up to the last; then
        start a new segment, as `reset`.

        Returns
        -------
        list of (ndarray (state,), ndarray (state, state))
            Mean and covariance of each; empty without a lag.

        Examples
        --------
        >>> online = ldmfilter.OnlineFilter(model, lag=0.4)
        >>> given = [online.step(bin) for bin in counts.values[:10]]
        >>> given.count(None), len(online.flush())
        (2, 2)
        """
        return [_beside(states) for states in zip(*(part.flush() for part in self._parts), strict=True)]

    def ahead(self, seconds: float) -> tuple[Array, Array]:
        """The state some time after the last bin, given that bin and all before, as `LDMFilter.decode` gives it as
        ahead.

        From mean m and covariance P, with X the stationary covariance and s = seconds / frame, m_s = b + A^s (m - b)
        and P_s = X - A^s (X - P) A^s'.

        Parameters
        ----------
        seconds : float
            s.

        Returns
        -------
        mean : ndarray (state,)
            Of the state then.
        cov : ndarray (state, state)
            Its covariance.

        Raises
        ------
        InputError
            Not above 0, or not finite.

        References
        ----------
        Higham & Lin 2011, SIAM J. Matrix Anal. Appl. 32, for A^s between frames.

        Examples
        --------
        >>> online = ldmfilter.OnlineFilter(model)
        >>> _, now = online.step(counts.values[0])
        >>> _, later = online.ahead(1.0)
        >>> bool(np.trace(later) > np.trace(now))
        True
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

        Returns
        -------
        dict
            mean (bin, state) and cov (bin, state, state) of the last k bins, and those of the lag before, of all states
            that refitted or split dynamics have; recent (phase, unit), the counts of the last k bins, -1 (of a
            signal the largest float32) where there is none; bins; model_id. For `np.savez(path, **state)`, or for JSON
            with each array's `tolist`.

        Examples
        --------
        >>> sorted(ldmfilter.OnlineFilter(model).state())
        ['bins', 'cov', 'mean', 'model_id', 'recent']
        """
        arrays = {
            f"{prefix}{name}": value
            for prefix, part in zip(self._prefixes, self._parts, strict=True)
            for name, value in part.state().items()
        }
        return arrays | {"bins": self.bins, "model_id": self.model_id}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Parameters
        ----------
        state : mapping
            Of a filter of the same model and lag; arrays may be lists, as JSON gives them back.

        Raises
        ------
        InputError
            Of another model, incomplete, or its covariance is not positive semidefinite. The filter is as before the
            call.

        Examples
        --------
        >>> online, other = ldmfilter.OnlineFilter(model), ldmfilter.OnlineFilter(model)
        >>> _ = online.step(counts.values[0])
        >>> other.restore(online.state())
        >>> other.bins
        1
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
