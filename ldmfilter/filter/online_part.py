"""One bin in, one state out: an encoder and its Kalman filter.

Plain NumPy on preallocated arrays. One bin is 30,000 multiplications, about 5 microseconds of work; the calls of a
tensor library take many times as long. The encoder runs in float32 and the filter in
float64, as in `decode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv
from scipy.special import ndtr
from torch import Tensor, nn

from ldmfilter.errors import InputError
from ldmfilter.filter import recursions
from ldmfilter.filter.encoder import MOST_SPIKES
from ldmfilter.filter.forecast import Forecast, check_horizons
from ldmfilter.filter.kalman import steady_state
from ldmfilter.filter.linalg import tell_repairs

if TYPE_CHECKING:
    from ldmfilter.filter.model import LDMFilter
    from ldmfilter.filter.network import Network

Array = NDArray[np.float64]

MOST_HORIZONS = 100  # whose powers of the dynamics are remembered
MOST = float(np.finfo(np.float32).max)  # a larger count would be infinite to the encoder


class OnlinePart:
    """One encoder and its Kalman filter, which take one bin at a time (`OnlineFilter`).

    Where a frame has k bins (`data.frames`), the encoder sees the sum of the last k, and the state goes on from that of
    k bins before: k filters take turns. The covariance recursion is exact until it has converged; from there the steady
    gain serves, until a bin is missing.

    Args:
        model: a fitted filter of one part.
        lag_bins: number of bins that `step` is behind.

    Attributes:
        bins: number of bins taken since the start or the last `reset`.
    """

    def __init__(self, model: LDMFilter, lag_bins: int):
        self._units = len(model.unit_ids_)
        self._none = MOST if model.signal_ else -1.0  # stands for NaN in a saved state
        self._encode = _Encoder(model.network_)
        with torch.no_grad():
            self._dynamics = dynamics = model.network_.linear_gaussian()
            limit = _array(steady_state(dynamics)[0])
        self._A, self._Q, self._C, self._R, self._b, self._P0 = map(_array, dynamics)
        self._limit_gain, self._limit_filtered, _ = recursions.updated(limit, self._C, self._R, 1.0)
        self._limit = recursions.predicted(self._A, self._Q, self._limit_filtered)
        self._states = model.sized_.states
        self._k = model.frame_bins_
        self._frame = self._k * model.bin_size_
        self.lag_bins = lag_bins
        self._forecasts: dict[float, Forecast] = {}
        self._limit_lagged: Array | None = None
        self.reset()

    def reset(self) -> None:
        """Start a new segment: the next bin's prediction is the prior (mean b, stationary covariance)."""
        # The last bins of each phase, with a lag several: bin t in place t modulo their number.
        self._last = [_State(self._b, self._P0)] * (self._k + self.lag_bins)
        self._recent = np.full((self._k, self._units), np.nan)  # bin t in row t modulo k
        self._innovation: tuple[Array, Array, float] | None = None  # and of that bin: P, evidence
        self.bins = 0

    def step(self, counts: Array | None) -> tuple[Array, Array] | None:
        """Take one bin (unit,), None where it is missing, and give its state, or with a lag that of the bin so far
        behind; None while there is none."""
        frame = self._framed(counts)
        seen = None if frame is None else self._encode(*frame)
        before, first = self._at(self.bins - self._k), self.bins < self._k
        mean = self._b if first else self._b + self._A @ (before.mean - self._b)
        P = self._predicted_cov(before, first)
        if seen is None:
            self._innovation, now = None, _State(mean, P)
        else:
            z, evidence = seen
            e = z - self._C @ mean
            K, cov, steady = self._updated(P, evidence)
            self._innovation, now = (e, P, evidence), _State(mean + K @ e, cov, steady)
        self._last[self.bins % len(self._last)] = now
        self.bins += 1
        return self._given_later(self.bins - 1 - self.lag_bins) if self.bins > self.lag_bins else None

    @property
    def innovation(self) -> Array:
        """L^-1 e (latent,) of the last bin, as `OnlineFilter.innovation`."""
        if self._innovation is None:
            return np.full(len(self._C), np.nan)
        e, P, evidence = self._innovation
        S = self._C @ P @ self._C.T + self._R / evidence
        return np.asarray(np.linalg.solve(np.linalg.cholesky(S), e), dtype=np.float64)

    def flush(self) -> list[tuple[Array, Array]]:
        """The states of the last bins, which `step` has not given yet, each given all bins up to the last; then a new
        segment begins."""
        left = [self._given_later(bin) for bin in range(max(self.bins - self.lag_bins, 0), self.bins)]
        self.reset()
        return left

    def ahead(self, seconds: float) -> tuple[Array, Array]:
        """Mean (state,) and covariance (state, state) of the state `seconds` after the last bin."""
        horizons = check_horizons([seconds])
        if seconds not in self._forecasts:
            if len(self._forecasts) > MOST_HORIZONS:
                self._forecasts.clear()
            self._forecasts[seconds] = Forecast.over(self._dynamics, self._states, horizons, self._frame)
        now = self._at(self.bins - 1)
        mean, cov = self._forecasts[seconds](now.mean, now.cov)
        return mean[0], cov[0]

    def _at(self, bin: int) -> _State:
        """The state of one of the last bins; before the first one, the prior."""
        return self._last[bin % len(self._last)]

    def _given_later(self, bin: int) -> tuple[Array, Array]:
        """Mean and covariance of a bin given itself and the later ones of its phase."""
        n = self._states  # refitted and split dynamics have more, which are not handed out
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

    def _framed(self, counts: Array | None) -> tuple[Array, Array] | None:
        """The counts of the frame that ends with this bin, as `data.frames.sum_frames` and `seen_frames` give them."""
        if self._k == 1:
            return None if counts is None else (counts, counts)
        self._recent[self.bins % self._k] = np.nan if counts is None else counts
        seen = self._k - np.isnan(self._recent).sum(0)
        enough = 2 * seen >= self._k
        if 2 * (~np.isnan(self._recent).all(1)).sum() < self._k:
            return None
        total = np.nansum(self._recent, 0)
        return np.where(enough, total * (self._k / np.maximum(seen, 1)), np.nan), np.where(enough, total, 0)

    def _predicted_cov(self, before: _State, first: bool) -> Array:
        if first:
            return self._P0
        if before.steady:
            return self._limit
        return recursions.predicted(self._A, self._Q, before.cov)

    def _updated(self, P: Array, evidence: float) -> tuple[Array, Array, bool]:
        """Gain and filtered covariance from the predicted one and the evidence, and whether they are the limits."""
        if evidence == 1 and (P is self._limit or recursions.near(P, self._limit, recursions.SAME)):
            return self._limit_gain, self._limit_filtered, True
        K, cov, power = recursions.updated(P, self._C, self._R, evidence)
        tell_repairs(power)
        return K, cov, False

    def state(self) -> dict[str, Any]:
        """The state that `restore` goes on from: mean, cov and recent, as `OnlineFilter.state` describes them."""
        return {
            "mean": np.stack([one.mean for one in self._last]),
            "cov": np.stack([one.cov for one in self._last]),
            "recent": np.nan_to_num(self._recent, nan=self._none),
        }

    def restore(self, mean: Array, cov: Array, recent: Array, bins: int) -> None:
        """Go on from what `state` gave, after so many bins. Raises: InputError, as `OnlineFilter.restore`."""
        last, n = len(self._last), len(self._b)
        if mean.shape != (last, n) or cov.shape != (last, n, n) or recent.shape != self._recent.shape or bins < 0:
            found = f"mean {mean.shape}, cov {cov.shape}, recent {recent.shape}, bins {bins}"
            lag = f" and a lag of {self.lag_bins}" if self.lag_bins else ""
            raise InputError(
                f"state: {found} for {n} state dimensions, {self._units} units and frames of {self._k} bins{lag}"
            )
        if not all(np.abs(one).max() <= MOST for one in (mean, cov, recent)):
            raise InputError("state: NaN or infinity (beyond float32) in mean, cov or recent; start anew with reset()")
        rounding = 1e-12 * np.trace(cov, axis1=1, axis2=2)
        asymmetry = np.abs(cov - cov.transpose(0, 2, 1)).max((1, 2))
        if (asymmetry > rounding).any() or (np.linalg.eigvalsh(cov)[:, 0] < -rounding).any():
            raise InputError("state: cov is not symmetric and positive semidefinite; start anew with reset()")
        self._last = [_State(m, P, np.array_equal(P, self._limit_filtered)) for m, P in zip(mean, cov, strict=True)]
        self._recent, self.bins = np.where(recent == self._none, np.nan, recent), bins
        self._innovation = None


@dataclass
class _State:
    """The state of a bin, t|t; and, once they are needed, the smoother's gain from the next one of its phase and the
    covariance that was predicted for that."""

    mean: Array
    cov: Array
    steady: bool = False
    back: tuple[Array, Array] | None = None


class _Encoder:
    """`Network.observe` in NumPy: counts to z and their evidence, or to None where no unit is observed."""

    def __init__(self, network: Network):
        encoder = network.encoder()
        self._share, self._weights = float(network.evidence_share), _array(encoder.spike_weights())
        self._mean_counts = _array(encoder.mean_counts)
        self._signal = encoder.signal
        self._input_mean, self._input_scale = _array(encoder.input_mean), _array(encoder.input_scale)
        self._z_mean, self._z_whiten = _array(encoder.z_mean), _array(encoder.z_whiten)
        linear = [(_array(m.weight), _array(m.bias)) for m in encoder.layers if isinstance(m, nn.Linear)]
        *self._hidden, self._last = [(W, b, np.empty_like(b)) for W, b in linear]
        self._linear, self._straight = _array(encoder.linear.weight), np.empty_like(self._z_mean)
        self._x = np.empty_like(self._input_mean)
        self._silence = self._white(np.zeros(len(self._x)), np.zeros(len(self._x), bool)) if self._share else None

    def __call__(self, counts: Array, spikes: Array) -> tuple[Array, float] | None:
        missing = np.isnan(counts)
        if missing.any() and missing.all():
            return None
        z = self._white(counts, missing)
        if self._silence is None:
            return z, 1.0
        drawn, evidence = self._evidence(counts, self._mean_counts), self._evidence(spikes, 0.0)
        return self._silence + (z - self._silence) * (0.5 + 0.5 / drawn), evidence

    def _evidence(self, counts: Array, missing: Array | float) -> float:
        """That of `filter.encoder.Encoder`."""
        spikes = float(np.where(np.isnan(counts), missing, counts) @ self._weights)
        return 1 - self._share + self._share * min(spikes, MOST_SPIKES)

    def _white(self, counts: Array, missing: NDArray[np.bool_]) -> Array:
        """The encoder's own z, white; of silence as of other counts."""
        x = self._x
        x[:] = counts
        if not self._signal:
            np.sqrt(x, out=x)
        x -= self._input_mean
        x /= self._input_scale
        if missing.any():
            x[missing] = 0
        np.dot(self._linear, x, out=self._straight)
        for W, b, out in self._hidden:
            np.dot(W, x, out=out)
            out += b
            out *= ndtr(out)  # GELU: x times the normal distribution function
            x = out
        W, b, z = self._last
        np.dot(W, x, out=z)
        z += b
        z += self._straight
        z -= self._z_mean
        return (z @ self._z_whiten).astype(np.float64)


def _array(value: Tensor) -> NDArray[Any]:
    """A copy that training the model further cannot change."""
    return value.detach().cpu().numpy().copy()
