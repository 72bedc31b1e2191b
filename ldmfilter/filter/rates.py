"""Rates of units given the state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import ndtri

from ldmfilter.data.counts import check_counts, is_signal, seen_counts, where_of
from ldmfilter.data.tables import Floats
from ldmfilter.errors import InputError
from ldmfilter.filter.latents import VARIABLES
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.spikes_ahead import MOST_FITTED, thin

#: Of half the squared weights, over all bins: so few spikes tell little, and the rate stays near its mean.
PENALTY = 10.0
LEAST_BINS = 50  # that a regression is fitted to


@dataclass(frozen=True, eq=False)
class Rates:
    """Log-linear rates of units given the state, with intervals that follow from the state's covariance.

    A unit's log rate is linear in the state, log r = w'h + c. Given a state of mean m and covariance P it is Gaussian,
    with mean mu = w'm + c and variance v = w'P w, so that

        E[r] = exp(mu + v / 2),    interval exp(mu -+ z sqrt(v)).

    w and c come from a Poisson regression of counts on m, exp(w'm + a), on training time: as it predicts E[r], c is a
    less the mean of v / 2 there. Rates and intervals stay within the expected rates that were fitted: exponentials do
    not extrapolate.

    Attributes
    ----------
    weights : ndarray (unit, state)
        Of the state's means, w; NaN of a unit that never fired where they were fitted.
    log_rate : ndarray (unit,)
        Log rate, in Hz, at the state 0, c.
    lowest, highest : ndarray (unit,)
        Logarithms of the expected rates that were fitted, in Hz; none is predicted beyond them.

    Examples
    --------
    >>> ldmfilter.Rates.fit(latents, counts).weights.shape
    (6, 2)
    """

    weights: Floats
    log_rate: Floats
    lowest: Floats
    highest: Floats

    def __repr__(self) -> str:
        units, states = self.weights.shape
        return f"Rates({units} units given {states} states)"

    @classmethod
    def fit(cls, latents: xr.Dataset, counts: xr.DataArray) -> Rates:
        """Fit to the bins that the filter was trained on, at most `MOST_FITTED`.

        Parameters
        ----------
        latents : xarray.Dataset
            As `LDMFilter.decode` gives them.
        counts : xarray.DataArray (time, unit)
            That they were decoded from.

        Returns
        -------
        Rates

        Raises
        ------
        InputError
            A signal, which has no rates, or fewer than `LEAST_BINS` bins of training time.

        Examples
        --------
        >>> rates = ldmfilter.Rates.fit(latents, counts)
        >>> model.decode(counts[:50], rates=rates)["rate"].shape
        (50, 6)
        """
        counts = check_counts(counts)
        if is_signal(counts):
            raise InputError(f"{where_of(counts)}: holds a signal, which has no rates; leave them out")
        rows = np.flatnonzero(latents["trained"].to_numpy() & latents["observed"].to_numpy())
        if rows.size < LEAST_BINS:
            raise InputError(
                f"{where_of(counts)}: {rows.size} bins of training time are too few to fit rates to; give counts that "
                "the filter was trained on"
            )
        rows = thin(rows, MOST_FITTED)
        some = latents.isel(time=rows)
        m, P = (some[name].to_numpy().astype(np.float64) for name in ("filtered_mean", "filtered_cov"))
        y = seen_counts(counts.isel(time=rows)).astype(np.float64)
        with one_thread(every_library=True):
            fitted = np.stack([_regression(m, column) for column in y.T])
        w, a = fitted[:, :-1], fitted[:, -1] - np.log(float(counts.attrs["bin_size"]))
        expected = m @ w.T + a
        return cls(w, a - 0.5 * _variances(w, P).mean(0), expected.min(0), expected.max(0))

    def expected(self, mean: Floats, cov: Floats, ci: float = 0.95) -> tuple[Floats, Floats]:
        """Expected rates given states, and their intervals.

        Parameters
        ----------
        mean : ndarray (time, state)
            Of the states: filtered, smoothed, lagged or ahead.
        cov : ndarray (time, state, state)
            Their covariances.
        ci : float
            Level of the intervals, between 0 and 1.

        Returns
        -------
        rate : ndarray (time, unit)
            Hz.
        interval : ndarray (time, unit, bound)
            Hz.

        Examples
        --------
        >>> rates = ldmfilter.Rates.fit(latents, counts)
        >>> rate, interval = rates.expected(np.zeros((1, 2)), np.eye(2)[None])
        >>> bool((interval[..., 0] < interval[..., 1]).all())
        True
        """
        mu, variance = mean @ self.weights.T + self.log_rate, _variances(self.weights, cov)
        half = float(ndtri(0.5 + 0.5 * ci)) * np.sqrt(variance)

        def within(log_rate: Floats) -> Floats:
            return np.exp(np.clip(log_rate, self.lowest, self.highest))

        rate = within(mu + 0.5 * variance)  # of a wide and skewed distribution it may lie beyond the upper end
        return rate, np.stack([within(mu - half), np.maximum(within(mu + half), rate)], -1)

    def add(self, latents: xr.Dataset) -> xr.Dataset:
        """The states with the rates that they tell.

        Parameters
        ----------
        latents : xarray.Dataset
            As `LDMFilter.decode` gives them.

        Returns
        -------
        xarray.Dataset
            With `rate` (time, unit) and `rate_ci` (time, unit, bound), Hz, at the states' own level; with forecasts,
            `rate_ahead` (ahead, time, unit) and `rate_ahead_ci` too, of the time that these are of.

        Examples
        --------
        >>> ldmfilter.Rates.fit(latents, counts).add(latents)["rate_ci"].dims
        ('time', 'unit', 'bound')
        """
        level = float(latents.attrs["ci_level"])
        for of, name in (("filtered", "rate"), ("ahead", "rate_ahead")):
            if f"{of}_mean" in latents:
                found = self.expected(latents[f"{of}_mean"].to_numpy(), latents[f"{of}_cov"].to_numpy(), level)
                for variable, values in zip((name, f"{name}_ci"), found, strict=True):
                    dims, about = VARIABLES[variable]
                    latents = latents.assign({variable: (dims, values.astype(np.float32), about)})
                latents[f"{name}_ci"].attrs["level"] = level
        return latents


def _regression(states: Floats, counts: Floats) -> Floats:
    """Weights (state,) and then the intercept of a unit's counts (time,), which are NaN where it was not observed; NaN
    where it never fired."""
    from sklearn.linear_model import PoissonRegressor

    seen = np.isfinite(counts)
    mean = counts[seen].mean() if seen.any() else 0.0
    if not mean:
        return np.full(states.shape[1] + 1, np.nan)
    model = PoissonRegressor(alpha=PENALTY / seen.sum(), max_iter=1000).fit(states[seen], counts[seen])
    return np.append(model.coef_, model.intercept_)


def _variances(weights: Floats, cov: Floats) -> Floats:
    """w'P w (*bins, unit)."""
    squares = (weights[:, :, None] * weights[:, None]).reshape(len(weights), -1)
    return np.maximum(cov.reshape(*cov.shape[:-2], -1) @ squares.T, 0)
