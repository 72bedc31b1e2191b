"""From a session to counts, as a configuration says; every command and experiment calls this one function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.config import DataConfig
from ldmfilter.data.binned import BinnedSession
from ldmfilter.data.binning import as_session, bin_spikes, choose_spans, choose_units
from ldmfilter.data.counts import check_counts
from ldmfilter.data.session import Session


def prepare(session: Session, config: DataConfig, unit_ids: Sequence | None = None) -> xr.DataArray:
    """Counts (time, unit) of the spans, units and bins that a configuration asks for, as `bin_spikes` gives them.

    Reserved time is included; `windows.reserve` takes it out. The attribute `units_left_out` says how many units were
    not chosen and why, or is "".

    unit_ids: the units of a trained filter, in its order, in place of those that the configuration chooses

    Raises InputError as `choose_spans`, `choose_units`, `Session.select_units` and `bin_spikes`.
    """
    spans = choose_spans(session, interval=config.interval, spans=config.spans)
    if unit_ids is None:
        chosen, note = choose_units(session, query=config.units, min_rate=config.min_rate, spans=spans)
    else:
        chosen, note = session.select_units(np.asarray(unit_ids)), ""
    return bin_spikes(chosen, config.bin_size, spans).assign_attrs(units_left_out=note)


def as_counts(recording: Any, bin_size: float | None = None) -> xr.DataArray:
    """Counts (time, unit) of a recording in memory, as the filter takes them.

    Args:
        recording: counts of `bin_spikes`, which stay as they are, or what `as_session` takes.
        bin_size: s; without it that of counts that know theirs, and for spikes that of `DataConfig`.

    Raises InputError as `check_counts`, `as_session` and `bin_spikes`.
    """
    is_array = isinstance(recording, xr.DataArray)
    if is_array and {"time", "unit"} <= set(recording.coords) and "bin_size" in recording.attrs:
        return check_counts(recording)
    session = as_session(recording, bin_size)
    own = session.bin_size if isinstance(session, BinnedSession) else DataConfig().bin_size
    return check_counts(bin_spikes(session, bin_size or own))
