"""The simulated session of the README, as an NWB file: always the same."""

import uuid
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
from pynwb import NWBHDF5IO, H5DataIO, NWBFile, TimeSeries

from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.files import AnyPath, replacing

SEED = 1
IDENTIFIER = f"ldmfilter-linear-track-sim-{SEED}"
# A fixed time and fixed object ids: the same packages then write the same bytes.
_MADE = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
_COLUMNS = {
    "cell_type": "'place' or 'interneuron'",
    "outbound_field": "true centre of the place field on outbound runs, cm; NaN for none",
    "inbound_field": "true centre of the place field on inbound runs, cm; NaN for none",
    "field_width": "true standard deviation of the place field, cm",
    "peak_rate": "true rate at the centre of the field above the background, Hz",
    "background_rate": "true rate outside the field, Hz",
}


def write_sample(path: AnyPath, overwrite: bool = False) -> Path:
    """Write the sample session, ten minutes of a simulated rat on a linear track, as NWB; whole or not at all.

    With the same versions of numpy, h5py and pynwb the bytes are the same, and with them the checksum.

    Raises InputError where the path exists and `overwrite` is not set, and where it cannot be written.
    """
    ids = np.random.default_rng(SEED)
    fixed = mock.patch("hdmf.container.uuid4", side_effect=lambda: uuid.UUID(bytes=ids.bytes(16), version=4))
    with replacing(path, overwrite) as file, fixed, NWBHDF5IO(file, "w") as io:
        io.write(_to_nwb(linear_track_session(seed=SEED)))
    return Path(path)


def _to_nwb(session: Session) -> NWBFile:
    """The simulated session as NWB, its behaviour and true state in `processing/behavior`."""
    nwb = NWBFile(
        session_description="Simulated rat on a linear track of 180 cm, 8 min of running and 2 min of rest",
        identifier=IDENTIFIER,
        session_id="linear_track_sim",
        session_start_time=_MADE,
        file_create_date=_MADE,
        experiment_description="No animal: drawn by ldmfilter.data.simulate.linear_track_session",
    )
    for name, description in _COLUMNS.items():
        nwb.add_unit_column(name, description)
    for unit in range(session.n_units):
        values = {name: session.units[name].item(unit) for name in _COLUMNS}
        # Compression is a property of the whole column, given with its first row.
        nwb.add_unit(id=unit, spike_times=session.spikes_of(unit), **values)
    nwb.units["spike_times"].target.set_data_io(
        H5DataIO, {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    )

    epochs, trials = session.intervals["epochs"], session.intervals["trials"]
    for row in range(epochs.sizes["interval"]):
        tags = [tag for tag in epochs["tags"].values[row].tolist() if tag]
        nwb.add_epoch(epochs["start_time"].item(row), epochs["stop_time"].item(row), tags=tags)
    nwb.add_trial_column("direction", "'outbound' or 'inbound'")
    for row in range(trials.sizes["interval"]):
        nwb.add_trial(**{str(name): trials[name].item(row) for name in trials.data_vars})

    behavior = nwb.create_processing_module("behavior", "what the simulated rat did, and the true state behind it")
    for path, series in session.behavior.items():
        data = H5DataIO(series.values.astype(np.float32), compression="gzip", compression_opts=9, shuffle=True)
        behavior.add(
            TimeSeries(
                name=path.rpartition("/")[2],
                data=data,
                unit=series.attrs["unit"],
                rate=series.attrs["rate"],
                starting_time=0.0,
                description=series.attrs["description"],
            )
        )
    return nwb
