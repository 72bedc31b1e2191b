"""Recordings in memory, of this package and of others, as sessions."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.data.binned import from_counts
from ldmfilter.data.counts import is_signal
from ldmfilter.data.session import Session
from ldmfilter.data.signal import from_signal
from ldmfilter.errors import InputError

# What takes an object of another package: the module of `ldmfilter.data.formats`, and its function.
_TAKEN_BY = {
    "pynapple": ("pynapple", "from_pynapple"),
    "spikeinterface": ("sorting", "from_sorting"),
    "pynwb": ("nwb", "from_nwb"),
}


def as_session(recording: Any, bin_size: float | None = None) -> Session:
    """A session from a recording in memory; a session stays as it is.

    A signal goes through `from_signal`.

    Parameters
    ----------
    recording : object
        Spike times, s, as a mapping from units' ids to arrays; counts as an array (time, unit) or a DataArray with dims
        time and unit; a TsGroup of pynapple, or a TsdFrame; an NWBFile; a sorting or a SortingAnalyzer of
        spikeinterface.
    bin_size : float, optional
        Of counts that do not say it themselves, s.

    Returns
    -------
    Session

    Raises
    ------
    InputError
        Another object, or as `Session.from_spikes`, `from_counts`, `from_pynapple`, `from_sorting` and `from_nwb`.

    Examples
    --------
    >>> ldmfilter.as_session({"a": [0.1, 0.4], "b": [0.2]}).n_spikes
    3
    >>> ldmfilter.as_session(np.array([[1, 0], [2, 3]]), bin_size=0.5).stop
    1.0
    """
    if isinstance(recording, Session):
        return recording
    if isinstance(recording, xr.DataArray):
        own = "time" in recording.coords or "bin_size" in recording.attrs
        make = from_signal if is_signal(recording) else from_counts
        return make(recording, None if own else bin_size)
    if isinstance(recording, np.ndarray):
        return from_counts(recording, bin_size)
    for kind in type(recording).__mro__:
        if (package := kind.__module__.split(".")[0]) in _TAKEN_BY:
            module, name = _TAKEN_BY[package]
            made: Session = getattr(importlib.import_module(f"ldmfilter.data.formats.{module}"), name)(recording)
            return made
    if isinstance(recording, Mapping):
        return Session.from_spikes(recording)
    raise InputError(
        f"memory: a {type(recording).__name__} is no recording; give a session of ldmfilter.read_session, spike times "
        "{unit: array}, counts (time, unit), a TsGroup, an NWBFile or a sorting"
    )
