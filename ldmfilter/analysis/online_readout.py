"""Behaviour from one state after the other, with intervals that keep their coverage when the session drifts.

Adaptive conformal inference (Gibbs & Candes 2021, Adv. Neural Inf. Process. Syst. 34): whenever a value becomes known,
the chance of a miss that the next interval is made for moves up or down, so that in the long run the intended share of
values lies outside, even where the session drifts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmfilter.analysis.intervals import ErrorDistribution, Reader, conformal_quantile
from ldmfilter.errors import InputError

#: Step of the chance of a miss, per second. Gibbs & Candes take 0.005 for each value, of values that miss one by one.
#: The values of neighbouring bins miss together, for about a second.
GAMMA = 0.005


class AdaptiveConformal:
    """The largest nonconformity inside an interval, adapted to how often values lay outside.

        alpha_{t+1} = alpha_t + gamma (1 - level - err_t)        err_t = 1 where value t lay outside, else 0

    The limit is the 1 - alpha_t quantile of the last scores: at first those of the calibration, each new one in the
    place of the oldest. Where alpha_t <= 0 all is inside, where alpha_t >= 1 nothing is. After T values the share that
    lay outside is within (1 + gamma) / (gamma T) of 1 - level, for any sequence of them (their Proposition 4.1).

    Args:
        scores: (score,) nonconformity in the calibration.
        level: share of values that intervals should hold.
        gamma: step.

    Attributes:
        alpha: the current chance of a miss; below 0 or above 1 at times.
    """

    def __init__(self, scores: NDArray[np.float64], level: float, gamma: float):
        self._scores, self._next = np.array(scores, dtype=np.float64), 0
        self._miss, self._gamma = 1 - level, gamma
        self.alpha = self._miss

    @property
    def limit(self) -> float:
        """The largest score inside the next interval; infinite where all is."""
        if self.alpha <= 0:
            return np.inf
        return conformal_quantile(self._scores, 1 - self.alpha) if self.alpha < 1 else -np.inf

    def observe(self, score: float) -> None:
        """Adapt to the score of a value that has become known."""
        self.alpha += self._gamma * (self._miss - (score > self.limit))
        self._scores[self._next] = score
        self._next = (self._next + 1) % self._scores.size


class OnlineReadout:
    """A behaviour that is read from one state at a time, beside `OnlineFilter`, with intervals that adapt.

    Parameters
    ----------
    reader : Reader
        Of `Reading.readers`.
    level : float
        Share of values that intervals should hold.
    gamma : float, optional
        Step of the adaptation for each observed value, 0 for none; without it 0.005 times the bin, s.

    Raises
    ------
    InputError
        Level or gamma is no share.

    References
    ----------
    Gibbs & Candes 2021, Adaptive conformal inference under distribution shift.

    Examples
    --------
    >>> reading = ldmfilter.read_behavior(latents, ldmfilter.choose_behavior(session, ["linear_position"]))
    >>> place = ldmfilter.OnlineReadout(reading.readers["linear_position"])
    >>> online = ldmfilter.OnlineFilter(model)
    >>> value, lower, upper = place.read(*online.step(counts.values[0]))
    >>> lower <= value <= upper
    True
    >>> place.observe(12.5)  # where the behaviour of this bin was measured
    """

    def __init__(self, reader: Reader, level: float = 0.95, gamma: float | None = None):
        gamma = GAMMA * reader.bin_size if gamma is None else gamma
        if not (0 < level < 1 and 0 <= gamma < 1):
            raise InputError(f"level {level:g}, gamma {gamma:g}: give shares, a level above 0 and both below 1")
        self._reader = reader
        self.adaptive = AdaptiveConformal(reader.scores, level, gamma)
        self._last: tuple[float, ErrorDistribution] | None = None

    def read(self, mean: NDArray[np.float64], cov: NDArray[np.float64]) -> tuple[float, float, float]:
        """The value at a state and its interval, whose bounds are infinite where the intervals before held too few.

        Parameters
        ----------
        mean : ndarray (state,)
            Filtered mean.
        cov : ndarray (state, state)
            Its covariance.

        Returns
        -------
        value, lower, upper : float
            On a circle bounds are not wrapped, and at most a turn apart.

        Examples
        --------
        >>> reading = ldmfilter.read_behavior(latents, ldmfilter.choose_behavior(session, ["linear_position"]))
        >>> place = ldmfilter.OnlineReadout(reading.readers["linear_position"])
        >>> online = ldmfilter.OnlineFilter(model)
        >>> value, lower, upper = place.read(*online.step(counts.values[0]))
        >>> bool(np.isfinite(value))
        True
        """
        values, near = self._reader.read(mean[None], cov[None])
        self._last = value, _ = float(values[0]), near
        limit = self.adaptive.limit
        if limit < 0:
            return value, value, value
        low, high = (float(self._reader.variable.within(bound)[0]) for bound in near.bounds(limit))
        return value, value + low, value + high

    def observe(self, truth: float) -> None:
        """Adapt to the value that was measured in the bin that was read last.

        Parameters
        ----------
        truth : float
            In the behaviour's unit; NaN where none was measured.

        Examples
        --------
        >>> reading = ldmfilter.read_behavior(latents, ldmfilter.choose_behavior(session, ["linear_position"]))
        >>> place = ldmfilter.OnlineReadout(reading.readers["linear_position"])
        >>> online = ldmfilter.OnlineFilter(model)
        >>> value, lower, upper = place.read(*online.step(counts.values[0]))
        >>> place.observe(12.5)
        """
        if self._last is not None and np.isfinite(truth):
            value, near = self._last
            error = self._reader.variable.difference(np.array([truth]), np.array([value]))
            self.adaptive.observe(float(near.score(error)[0]))
            self._last = None
