"""An alarm for spikes that a filter was not trained on: the mean innovation is further from 0 than chance allows.

The innovations of a filter that is right have mean 0 (Bar-Shalom, Li & Kirubarajan 2001, *Estimation with Applications
to Tracking and Navigation*, section 5.4). Units that are lost or take another's place, and rates that drift, hardly
change how large single innovations are, but all of them lean to one side.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from ldmfilter.analysis.statistics import normalised
from ldmfilter.data.counts import where_of
from ldmfilter.errors import InputError
from ldmfilter.filter.decode import decode_blocks
from ldmfilter.filter.model import LDMFilter

LEAST_WINDOWS = 8
DAY = 86_400.0  # s, in which chance alone gives one alarm


class Alarm:
    """An alarm beside `OnlineFilter`, when the mean innovation is larger than chance allows.

    The size of the mean of w normalised innovations (latent,) is its length times sqrt(w / latent), 1 where they are
    white.
    Its logarithm has mean m in n windows of time that training never saw, and standard deviation s about its own mean
    in these and in k windows of training time, so that s holds what varies with behaviour. Beyond exp(m + q s) lies
    what chance gives once a day of windows, q = t sqrt(1 + 1/n) with the quantile t of Student's distribution,
    n + k - 2 degrees of freedom.

    Parameters
    ----------
    model : LDMFilter
        Fitted, of one session.
    counts : xarray.DataArray (time, unit)
        The session that it was trained on, with time that it was not trained on (`ldmfilter.reserve`).
    seconds : float
        Length of a window, s of observed bins. Longer windows see smaller changes.

    Attributes
    ----------
    limit : float
        Largest size without an alarm, in times what is expected, exp(m).
    size : float
        Of the last `seconds`, in times what is expected; NaN while there are fewer.

    Raises
    ------
    InputError
        Fewer than 8 windows that training never saw, or the counts do not fit the model.

    References
    ----------
    Bar-Shalom, Li & Kirubarajan 2001, Estimation with Applications to Tracking and Navigation, for the mean of
    innovations as a test.

    Examples
    --------
    >>> online, alarm = ldmfilter.OnlineFilter(model), ldmfilter.Alarm(model, counts, seconds=2)
    >>> for bin in counts.values:
    ...     _ = online.step(bin)
    ...     changed = alarm.step(online.innovation)
    >>> changed
    False
    """

    def __init__(self, model: LDMFilter, counts: xr.DataArray, seconds: float = 20.0):
        if not seconds > 0:
            raise InputError(f"alarm: windows of {seconds:g} s; give more than 0")
        bins = max(round(seconds / model.bin_size_), 1)
        x, trained = _innovations(model, counts)
        unseen, seen = (
            np.log(_size(some[: len(some) // bins * bins].reshape(-1, bins, x.shape[1]).mean(1), bins))
            for some in (x[~trained], x[trained])
        )
        n = len(unseen)
        if n < LEAST_WINDOWS:
            length = (~trained).sum() * model.bin_size_
            raise InputError(
                f"{where_of(counts)}: {length:g} s that training never saw hold {n} of the "
                f"windows of {seconds:g} s; an alarm needs {LEAST_WINDOWS} to know what chance gives; shorten the "
                "windows or train with more time reserved"
            )
        degrees = n - 1 + max(len(seen) - 1, 0)
        s = math.sqrt(sum(((one - one.mean()) ** 2).sum() for one in (unseen, seen) if len(one)) / degrees)
        q = t.isf(min(seconds / DAY, 0.5), degrees) * math.sqrt(1 + 1 / n)
        self._expected, self.limit = math.exp(unseen.mean()), math.exp(q * s)
        self._recent, self._sum = np.zeros((bins, x.shape[1])), np.zeros(x.shape[1])
        self._taken, self._calm = 0, bins  # observed bins, and those since the size was last beyond the limit
        self.size = math.nan

    def step(self, innovation: ArrayLike) -> bool:
        """Take a bin's innovation and tell whether there is an alarm: from the bin in which the size of the mean is
        beyond the limit, until it was not for as long as a window.

        Parameters
        ----------
        innovation : array_like (latent,)
            `OnlineFilter.innovation`; NaN in a missing bin, which changes nothing.

        Returns
        -------
        bool
            True for an alarm.

        Examples
        --------
        >>> alarm = ldmfilter.Alarm(model, counts, seconds=2)
        >>> [alarm.step([100.0, 100.0]) for _ in range(20)][-1]
        True
        """
        x, bins = np.asarray(innovation, dtype=np.float64), len(self._recent)
        if np.isfinite(x).all():
            place = self._taken % bins
            self._sum += x - self._recent[place]
            self._recent[place] = x
            self._taken += 1
            if self._taken % bins == 0:
                self._sum = self._recent.sum(0)  # rounding does not add up
            if self._taken >= bins:
                self.size = float(_size(self._sum / bins, bins)) / self._expected
                self._calm = 0 if self.size > self.limit else self._calm + 1
        return self._calm < bins


def _size(mean: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Sizes (...) of means (..., latent) of so many normalised innovations, 1 where these are white."""
    return np.sqrt(bins * (mean**2).mean(-1))


def _innovations(model: LDMFilter, counts: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Normalised innovations (time, latent) of the observed bins, and whether training saw these (time,)."""
    found, trained = [], []
    for latents in decode_blocks(model, counts):
        x = normalised(*(latents[name].values.astype(float) for name in ("innovation", "innovation_cov")))
        observed = np.isfinite(x).all(1)
        found.append(x[observed])
        trained.append(latents["trained"].values[observed])
    return np.concatenate(found), np.concatenate(trained)
