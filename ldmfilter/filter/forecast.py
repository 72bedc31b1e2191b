"""Times after a bin, and forecasts: the state some time after a bin, given that bin and those before it.

With X the stationary covariance and s = horizon / frame, from the state's mean m and covariance P,

    m_h = b + A^s (m - b),  P_h = X - A^s (X - P) A^s'.

For whole s this is the prediction over s frames, as X = A X A' + Q. Between frames A^s is the principal power (Higham &
Lin 2011, SIAM J. Matrix Anal. Appl. 32), which reads the same process in continuous time. Where there is none, as of a
state that changes sign with every frame, or none of which X - A^s X A^s' is a covariance, the powers of the frames
before and after are interpolated linearly: each takes nothing from X that is not there, and so does their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import fractional_matrix_power

from ldmfilter.data.tables import Floats
from ldmfilter.errors import InputError
from ldmfilter.filter.kalman import LinearGaussian

if TYPE_CHECKING:
    from ldmfilter.filter.model import LDMFilter

_WHOLE = 1e-6  # frames: horizons so near to whole ones are whole
_NEGATIVE = 1e-9  # of the variance: less than that below 0 is rounding


def check_horizons(horizons: float | Sequence[float], seconds: float = math.inf) -> tuple[float, ...]:
    """Horizons, s, in rising order, each once; of a number that one.

    Raises:
        InputError: one is no number above 0, not finite, or longer than the session's `seconds`.
    """
    several: list[Any] = list(horizons) if np.ndim(horizons) else [horizons]  # type: ignore[arg-type]
    for one in several:
        if _seconds("ahead", one) > seconds:
            raise InputError(f"ahead is {one:g} s, but the session has {seconds:g} s; give a shorter time")
    return tuple(sorted({float(one) for one in several}))


def whole_lag(model: LDMFilter, lag: float, seconds: float = math.inf) -> int:
    """The bins of a lag, s, in whole frames of the shortest; a part of the filter takes as many of its own as these
    hold (`lag_note`).

    Raises:
        InputError: there is none, or the lag is no number, or longer than the session's `seconds`.
    """
    if _seconds("lag", lag) > seconds:
        raise InputError(f"lag is {lag:g} s, but the session has {seconds:g} s; give a shorter one, or smooth it")
    k = min(part.frame_bins_ for part in model.parts)
    frame = k * model.bin_size_
    frames = int(lag / frame + _WHOLE)
    if not frames:
        raise InputError(
            f"lag is {lag:g} s, but this filter looks at frames of {frame:g} s and learns nothing new of a bin before "
            f"the next one ends; give {frame:g} s or more"
        )
    return frames * k


def lag_note(model: LDMFilter, lag: float) -> str:
    """A line that tells the seconds of a lag that the parts of the filter use; "" where they use all of it."""
    bins = whole_lag(model, lag)
    used = {part.kept_.dynamics: bins // part.frame_bins_ * part.frame_bins_ * model.bin_size_ for part in model.parts}
    if all(abs(one - lag) < _WHOLE for one in used.values()):
        return ""
    parts = ", ".join(f"{one:g} s for {name} states" for name, one in used.items())
    return f"a lag of {lag:g} s in whole frames is {parts}"


def _seconds(name: str, value: Any) -> float:
    """A time, s. Raises: InputError where it is no number above 0, or not finite."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and 0 < value < math.inf):
        shown = f"{value:g} s" if is_number else repr(value)
        raise InputError(f"{name} is {shown}; give a number of seconds above 0, as 0.5")
    return float(value)


@dataclass(frozen=True, eq=False)
class Forecast:
    """The way from all states of a filter to those that it hands out, at each of several horizons.

    Attributes:
        powers: (ahead, state, all) the first rows of A^s.
        b: (all,) the point that the dynamics returns to.
        X: (all, all) the stationary covariance.
    """

    powers: Floats
    b: Floats
    X: Floats

    @classmethod
    def over(cls, dynamics: LinearGaussian, states: int, horizons: Sequence[float], frame: float) -> Forecast:
        """The forecasts of a filter whose dynamics step by `frame` s, of its first `states` states."""
        A, b, X = (value.detach().cpu().double().numpy() for value in (dynamics.A, dynamics.b, dynamics.P0))
        return cls(np.stack([_power(A, X, horizon, frame)[:states] for horizon in horizons]), b, X)

    def __call__(self, mean: Floats, cov: Floats) -> tuple[Floats, Floats]:
        """Means (ahead, *bins, state) and covariances (ahead, *rows, state, state) of the forecasts from filtered means
        (*bins, all) and covariances (*rows, all, all) of all states."""
        n = self.powers.shape[1]
        means = [self.b[:n] + (mean - self.b) @ power.T for power in self.powers]
        covs = [self.X[:n, :n] - power @ (self.X - cov) @ power.T for power in self.powers]
        return np.stack(means), 0.5 * (np.stack(covs) + np.stack(covs).swapaxes(-1, -2))


def _power(A: Floats, X: Floats, horizon: float, frame: float) -> Floats:
    """A^(horizon / frame), or where there is none the powers before and after, interpolated."""
    steps = horizon / frame
    if abs(steps - round(steps)) < _WHOLE:
        return np.linalg.matrix_power(A, round(steps))
    before, share = np.linalg.matrix_power(A, int(steps)), steps % 1
    eigenvalues = np.linalg.eigvals(A)
    if not ((np.abs(eigenvalues.imag) <= 1e-12) & (eigenvalues.real <= 0)).any():
        power = np.real(fractional_matrix_power(A, share)) @ before
        noise = X - power @ X @ power.T  # of the time in between
        if np.isfinite(power).all() and np.linalg.eigvalsh(noise)[0] >= -_NEGATIVE * np.abs(X).max():
            return power
    return (1 - share) * before + share * A @ before
