"""One bin in, one state out: the fitted filter inside a closed loop.

Plain NumPy on preallocated arrays. One bin is 30,000 multiplications, about 5 microseconds of work; the calls of a
tensor library take many times as long. The encoder runs in float32 and the filter in
float64, as in `decode`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dposv
from scipy.special import ndtr
from torch import Tensor, nn

from ldmfilter.errors import InputError
from ldmfilter.filter.fixed_lag import lag_frames
from ldmfilter.filter.forecast import Forecast, check_horizons
from ldmfilter.filter.kalman import gain, steady_state
from ldmfilter.filter.linalg import NotPositiveDefiniteError

if TYPE_CHECKING:
    from ldmfilter.filter.fitted import Fitted
    from ldmfilter.filter.network import Network

Array = NDArray[np.float64]

#: Largest difference of the predicted covariance from its limit, relative to the limit's largest entry, at which
#: the limit takes over. What it leaves in the states is of the same order.
STEADY = 1e-12
MOST_HORIZONS = 100  # whose powers of the dynamics are remembered
MOST = float(np.finfo(np.float32).max)  # a larger count would be infinite to the encoder


class OnlineFilter:
    """A fitted filter that takes one bin at a time and remembers its state.

    Where a frame has k bins (`data.frames`), the encoder sees the sum of the last k, and the state goes on from that of
    k bins before: k filters take turns.

    The states are those that `LDMFilter.decode` gives as filtered (t|t), to 1e-6. The covariance recursion is
    exact until it has converged; from there the steady gain serves, until a bin is missing. Nothing grows with
    the number of bins. Not for several threads at once.

    With a lag, `step` gives the state of the bin that lies so far behind, given all bins up to now, as `decode` gives
    it as lagged (t|t+lag); `flush` gives those that are left at the end.

    A filter of a signal takes the mean of each channel over a bin in place of counts.

    Parameters
    ----------
    model : LDMFilter
        Fitted, of one session (`LDMFilter.of`). It is read once; fitting it anew does not change this filter.
    lag : float, optional
        s, in whole frames.

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

    Raises
    ------
    InputError
        The model is not fitted, or the lag is shorter than a frame.

    Examples
    --------
    >>> online = ldmfilter.OnlineFilter(model)
    >>> for bin in counts.values:  # in an experiment: as each bin ends
    ...     mean, cov = online.step(bin)
    >>> bool(np.allclose(mean, latents["filtered_mean"][-1], atol=1e-4))
    True
    """

    def __init__(self, model: Fitted, lag: float | None = None):
        model.check_fitted()
        self.unit_ids, self._signal = model.unit_ids_, model.signal_
        self._none = MOST if self._signal else -1.0  # stands for NaN in a saved state
        self.model_id = model.model_id_
        self._encode = _Encoder(model.network_)
        with torch.no_grad():
            self._dynamics = dynamics = model.network_.linear_gaussian()
            P, _, K = steady_state(dynamics)
            self._limit, self._limit_gain, self._limit_filtered = map(_array, (P, K, gain(dynamics, P)[2]))
        self._A, self._Q, self._C, self._R, self._b, self._P0 = map(_array, dynamics)
        self._states = model.sized_.states
        self._k = model.frame_bins_
        self._frame = self._k * model.bin_size_
        self.lag_bins = 0 if lag is None else self._k * lag_frames(lag, self._frame)
        self._forecasts: dict[float, Forecast] = {}
        self._limit_lagged: Array | None = None
        self._near = STEADY * float(np.abs(self._limit).max())
        self._eye = np.eye(len(self._A))
        self.reset()

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
        # The last bins of each phase, with a lag several: bin t in place t modulo their number.
        self._last = [_State(self._b, self._P0)] * (self._k + self.lag_bins)
        self._recent = np.full((self._k, len(self.unit_ids)), np.nan)  # bin t in row t modulo k
        self.bins = 0

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
        frame = self._framed(None if counts is None else self._checked(counts))
        z = None if frame is None else self._encode(frame)
        before, first = self._at(self.bins - self._k), self.bins < self._k
        mean = self._b if first else self._b + self._A @ (before.mean - self._b)
        if z is None:
            now = _State(mean, self._predicted_cov(before, first))
        else:
            K, cov, steady = self._updated(before, first)
            now = _State(mean + K @ (z - self._C @ mean), cov, steady)
        self._last[self.bins % len(self._last)] = now
        self.bins += 1
        return self._given_later(self.bins - 1 - self.lag_bins) if self.bins > self.lag_bins else None

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
        left = [self._given_later(bin) for bin in range(max(self.bins - self.lag_bins, 0), self.bins)]
        self.reset()
        return left

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
            Not above 0, not finite, or between frames where the dynamics have no such power.

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
        if seconds not in self._forecasts:
            horizons = check_horizons([seconds])
            if len(self._forecasts) > MOST_HORIZONS:
                self._forecasts.clear()
            self._forecasts[seconds] = Forecast.over(self._dynamics, self._states, horizons, self._frame)
        now, n = self._at(self.bins - 1), self._states
        mean, cov = self._forecasts[seconds](now.mean[:n], now.cov[:n, :n])
        return mean[0], cov[0]

    def _at(self, bin: int) -> _State:
        """The state of one of the last bins; before the first one, the prior."""
        return self._last[bin % len(self._last)]

    def _given_later(self, bin: int) -> tuple[Array, Array]:
        """Mean and covariance of a bin given itself and the later ones of its phase."""
        n = self._states  # those of noise with a memory are not handed out
        if bin + self._k >= self.bins:
            now = self._at(bin)
            return now.mean[:n].copy(), now.cov[:n, :n].copy()
        chain = [self._at(later) for later in range(bin, self.bins, self._k)]
        mean, cov = chain[-1].mean, chain[-1].cov
        # Where nothing is missing, the covariance is always the same.
        steady = all(one.steady for one in chain) and len(chain) == len(self._last) // self._k
        known = self._limit_lagged if steady else None
        for one in reversed(chain[:-1]):
            if one.back is None:
                P = self._predicted_cov(one, first=False)
                one.back = dposv(P, self._A @ one.cov)[1].T, P
            G, P = one.back
            mean = one.mean + G @ (mean - self._b - self._A @ (one.mean - self._b))
            if known is None:
                cov = one.cov + G @ (cov - P) @ G.T
        if steady:
            cov = self._limit_lagged = cov if known is None else known
        return mean[:n].copy(), 0.5 * (cov[:n, :n] + cov[:n, :n].T)

    def _framed(self, counts: Array | None) -> Array | None:
        """The counts of the frame that ends with this bin, as `data.frames.sum_frames` gives them."""
        if self._k == 1:
            return counts
        self._recent[self.bins % self._k] = np.nan if counts is None else counts
        seen = self._k - np.isnan(self._recent).sum(0)
        enough = 2 * seen >= self._k
        if 2 * (~np.isnan(self._recent).all(1)).sum() < self._k:
            return None
        return np.where(enough, np.nansum(self._recent, 0) * (self._k / np.maximum(seen, 1)), np.nan)

    def _predicted_cov(self, before: _State, first: bool) -> Array:
        if first:
            return self._P0
        if before.steady:
            return self._limit
        P = self._A @ before.cov @ self._A.T + self._Q
        return 0.5 * (P + P.T)

    def _updated(self, before: _State, first: bool) -> tuple[Array, Array, bool]:
        """Gain and filtered covariance after a state, by Joseph's form, and whether they are the limits."""
        P = self._predicted_cov(before, first)
        if before.steady or np.abs(P - self._limit).max() <= self._near:
            return self._limit_gain, self._limit_filtered, True
        CP = self._C @ P
        _, K_transposed, failed = dposv(CP @ self._C.T + self._R, CP)
        if failed:
            raise NotPositiveDefiniteError("the innovation covariance is not positive definite")
        K = K_transposed.T
        IKC = self._eye - K @ self._C
        P = IKC @ P @ IKC.T + K @ self._R @ K.T
        return K, 0.5 * (P + P.T), False

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
            mean (bin, state) and cov (bin, state, state) of the last k bins, and those of the lag before, with the
            states of the noise where it has a memory; recent (phase, unit), the counts of the last k bins, -1 (of a
            signal the largest float32) where there is none; bins; model_id. For `np.savez(path, **state)`, or for JSON
            with each array's `tolist`.

        Examples
        --------
        >>> sorted(ldmfilter.OnlineFilter(model).state())
        ['bins', 'cov', 'mean', 'model_id', 'recent']
        """
        return {
            "mean": np.stack([one.mean for one in self._last]),
            "cov": np.stack([one.cov for one in self._last]),
            "recent": np.nan_to_num(self._recent, nan=self._none),
            "bins": self.bins,
            "model_id": self.model_id,
        }

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
            mean, cov, recent = (np.array(state[name], np.float64) for name in ("mean", "cov", "recent"))
            bins, model_id = int(state["bins"]), str(state["model_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"state: incomplete or damaged ({error}); give what OnlineFilter.state() gave") from None
        if model_id != self.model_id:
            raise InputError(f"state: of model {model_id}, but this is {self.model_id}; restore it with its own model")
        last, n = len(self._last), len(self._b)
        if mean.shape != (last, n) or cov.shape != (last, n, n) or recent.shape != self._recent.shape or bins < 0:
            found = f"mean {mean.shape}, cov {cov.shape}, recent {recent.shape}, bins {bins}"
            units = len(self.unit_ids)
            lag = f" and a lag of {self.lag_bins}" if self.lag_bins else ""
            raise InputError(
                f"state: {found} for {n} state dimensions, {units} units and frames of {self._k} bins{lag}"
            )
        if not all(np.abs(one).max() <= MOST for one in (mean, cov, recent)):
            raise InputError("state: NaN or infinity (beyond float32) in mean, cov or recent; start anew with reset()")
        rounding = 1e-12 * np.trace(cov, axis1=1, axis2=2)
        asymmetry = np.abs(cov - cov.transpose(0, 2, 1)).max((1, 2))
        if (asymmetry > rounding).any() or (np.linalg.eigvalsh(cov)[:, 0] < -rounding).any():
            raise InputError("state: cov is not symmetric and positive semidefinite; start anew with reset()")
        self._last = [_State(m, P, np.array_equal(P, self._limit_filtered)) for m, P in zip(mean, cov, strict=True)]
        self._recent, self.bins = np.where(recent == self._none, np.nan, recent), bins


@dataclass
class _State:
    """The state of a bin, t|t; and, once they are needed, the smoother's gain from the next one of its phase and the
    covariance that was predicted for that."""

    mean: Array
    cov: Array
    steady: bool = False
    back: tuple[Array, Array] | None = None


class _Encoder:
    """The network's encoder and whitening in NumPy: counts to z, or to None where no unit is observed."""

    def __init__(self, network: Network):
        encoder = network.encoder()
        self._signal = encoder.signal
        self._input_mean, self._input_scale = _array(encoder.input_mean), _array(encoder.input_scale)
        self._z_mean, self._z_whiten = _array(encoder.z_mean), _array(encoder.z_whiten)
        linear = [(_array(m.weight), _array(m.bias)) for m in encoder.layers if isinstance(m, nn.Linear)]
        *self._hidden, self._last = [(W, b, np.empty_like(b)) for W, b in linear]
        self._x = np.empty_like(self._input_mean)

    def __call__(self, counts: Array) -> Array | None:
        missing = np.isnan(counts)
        some = missing.any()
        if some and missing.all():
            return None
        x = self._x
        x[:] = counts
        if not self._signal:
            np.sqrt(x, out=x)
        x -= self._input_mean
        x /= self._input_scale
        if some:
            x[missing] = 0
        for W, b, out in self._hidden:
            np.dot(W, x, out=out)
            out += b
            out *= ndtr(out)  # GELU: x times the normal distribution function
            x = out
        W, b, z = self._last
        np.dot(W, x, out=z)
        z += b
        z -= self._z_mean
        return (z @ self._z_whiten).astype(np.float64)


def _array(value: Tensor) -> NDArray[Any]:
    """A copy that training the model further cannot change."""
    return value.detach().cpu().numpy().copy()
