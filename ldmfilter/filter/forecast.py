"""Times after a bin, and forecasts: the state some time after a bin, given that bin and those before it.

With X the stationary covariance and s = horizon / frame, from the state's mean m and covariance P,

    m_h = b + A^s (m - b),  P_h = X - A^s (X - P) A^s'.

For whole s this is the prediction over s frames, as X = A X A' + Q. Between frames A^s is the principal power (Higham &
Lin 2011, SIAM J. Matrix Anal. Appl. 32), which reads the same process in continuous time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import fractional_matrix_power

from ldmfilter.data.tables import Floats
from ldmfilter.errors import InputError
from ldmfilter.filter.kalman import LinearGaussian

_WHOLE = 1e-6  # frames: horizons so near to whole ones are whole
_NEGATIVE = 1e-9  # of the variance: less than that below 0 is rounding


def check_horizons(horizons: Sequence[float], seconds: float = math.inf) -> tuple[float, ...]:
    """Horizons, s, in rising order, each once.

    Raises:
        InputError: one is not above 0, not finite, or longer than the session's `seconds`.
    """
    for one in horizons:
        if not 0 < one < math.inf:
            raise InputError(f"ahead is {one:g} s; give a number of seconds above 0, as 0.5")
        if one > seconds:
            raise InputError(f"ahead is {one:g} s, but the session has {seconds:g} s; give a shorter time")
    return tuple(sorted({float(one) for one in horizons}))


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


@dataclass(frozen=True, eq=False)
class Forecast:
    """The way from a state to the one at each of several horizons.

    Attributes:
        powers: (ahead, state, state) A^s.
        b: (state,) the point that the dynamics returns to.
        X: (state, state) the stationary covariance.
    """

    powers: Floats
    b: Floats
    X: Floats

    @classmethod
    def over(cls, dynamics: LinearGaussian, states: int, horizons: Sequence[float], frame: float) -> Forecast:
        """The forecasts of a filter whose dynamics step by `frame` s, of its first `states` states: those of noise with
        a memory, which stand behind them, do not enter their dynamics.

        Raises:
            InputError: a horizon lies between frames, and A has no power there that is a random process.
        """
        A, b, X = (value.detach().cpu().double().numpy() for value in (dynamics.A, dynamics.b, dynamics.P0))
        A, b, X = A[:states, :states], b[:states], X[:states, :states]
        return cls(np.stack([_power(A, X, horizon, frame) for horizon in horizons]), b, X)

    def __call__(self, mean: Floats, cov: Floats) -> tuple[Floats, Floats]:
        """Means (ahead, *bins, state) and covariances (ahead, *rows, state, state) of the forecasts from filtered means
        (*bins, state) and covariances (*rows, state, state)."""
        means = [self.b + (mean - self.b) @ power.T for power in self.powers]
        covs = [self.X - power @ (self.X - cov) @ power.T for power in self.powers]
        return np.stack(means), 0.5 * (np.stack(covs) + np.stack(covs).swapaxes(-1, -2))


def _power(A: Floats, X: Floats, horizon: float, frame: float) -> Floats:
    """A^(horizon / frame). Raises: InputError, as `Forecast.over`."""
    steps = horizon / frame
    if abs(steps - round(steps)) < _WHOLE:
        return np.linalg.matrix_power(A, round(steps))
    eigenvalues = np.linalg.eigvals(A)
    power = np.full_like(A, np.nan)
    if not ((np.abs(eigenvalues.imag) <= 1e-12) & (eigenvalues.real <= 0)).any():
        power = np.real(fractional_matrix_power(A, steps % 1)) @ np.linalg.matrix_power(A, int(steps))
    noise = X - power @ X @ power.T  # of the time in between
    if not (np.isfinite(power).all() and np.linalg.eigvalsh(noise)[0] >= -_NEGATIVE * np.abs(X).max()):
        raise InputError(
            f"ahead is {horizon:g} s, between frames of {frame:g} s, where the dynamics of this filter say nothing; "
            f"give a multiple of {frame:g} s"
        )
    return power
