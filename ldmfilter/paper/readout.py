"""Affine readouts, fitted on some samples and judged on others; all but the last axis number the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from ldmfilter.data.tables import Floats


def affine(z: Floats, truth: Floats) -> LinearRegression:
    """The least-squares affine map from z (..., latent) to truth (..., dim)."""
    return LinearRegression().fit(_flat(z), _flat(truth))


def apply(readout: LinearRegression, z: Floats) -> Floats:
    """Truth (..., dim) as read from z (..., latent)."""
    return readout.predict(_flat(z)).reshape(*z.shape[:-1], -1)


def affine_r2(z: Floats, truth: Floats, held_z: Floats, held_truth: Floats, each: bool = False) -> Any:
    """Share of the held-out truth's variance that the best affine map, fitted on other samples, explains; over all
    dims, or, with `each`, of each dim (dim,).

    >>> z = np.random.default_rng(0).standard_normal((50, 2))
    >>> round(affine_r2(z, 3 * z - 1, z, 3 * z - 1), 9)
    1.0
    """
    read = affine(z, truth).predict(_flat(held_z))
    return r2_score(_flat(held_truth), read, multioutput="raw_values" if each else "variance_weighted")


def _flat(values: Floats) -> Floats:
    return np.reshape(values, (-1, np.shape(values)[-1]))
