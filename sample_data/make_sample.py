"""Write linear_track_sim.nwb and SHA256SUMS: the simulated session of the README here, always the same.

python sample_data/make_sample.py [FOLDER]
"""

from __future__ import annotations

import hashlib
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
from pynwb import NWBHDF5IO, H5DataIO, NWBFile, TimeSeries

from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session

SEED = 1
NAME = "linear_track_sim.nwb"
# A fixed time and fixed object ids: the same packages then write the same bytes.
MADE = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
COLUMNS = {
    "cell_type": "'place' or 'interneuron'",
    "outbound_field": "true centre of the place field on outbound runs, cm; NaN for none",
    "inbound_field": "true centre of the place field on inbound runs, cm; NaN for none",
    "field_width": "true standard deviation of the place field, cm",
    "peak_rate": "true rate at the centre of the field above the background, Hz",
    "background_rate": "true rate outside the field, Hz",
}


def to_nwb(session: Session) -> NWBFile:
    """The simulated session as NWB, its behaviour and true state in `processing/behavior`."""
    nwb = NWBFile(
        session_description="Simulated rat on a linear track of 180 cm, 8 min of running and 2 min of rest",
        identifier=f"ldmfilter-linear-track-sim-{SEED}",
        session_id="linear_track_sim",
        session_start_time=MADE,
        file_create_date=MADE,
        experiment_description="No animal: drawn by ldmfilter.data.simulate.linear_track_session",
    )
    for name, description in COLUMNS.items():
        nwb.add_unit_column(name, description)
    for unit in range(session.n_units):
        values = {name: session.units[name].values[unit] for name in COLUMNS}
        # Compression is a property of the whole column, given with its first row.
        nwb.add_unit(id=unit, spike_times=session.spikes_of(unit), **{n: v.item() for n, v in values.items()})
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


def main(folder: Path) -> Path:
    """Write the file and its checksum below a folder; the path of the file."""
    ids = np.random.default_rng(SEED)
    path = folder / NAME
    with mock.patch("hdmf.container.uuid4", side_effect=lambda: uuid.UUID(bytes=ids.bytes(16), version=4)):
        nwb = to_nwb(linear_track_session(seed=SEED))
        with NWBHDF5IO(path, "w") as io:
            io.write(nwb)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {NAME}\n")
    return path


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
