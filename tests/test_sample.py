"""What the README says of the sample session."""

import runpy
from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

import ldmfilter

SAMPLE = Path(__file__).parents[1] / "sample_data" / "linear_track_sim.nwb"


def test_the_states_of_the_sample_session_tell_the_place_and_the_direction():
    session = ldmfilter.read_session(SAMPLE)
    whole = ldmfilter.bin_spikes(session, 0.1, "epochs=run")
    split = int(0.8 * whole.sizes["time"])
    states = ldmfilter.LDMFilter().fit(whole[:split]).transform(whole)
    time = whole["time"].to_numpy()
    r2 = {}
    for name in ("linear_position", "facing"):
        series = session.behavior[f"processing/behavior/{name}"]
        truth = np.interp(time, series["time"], series)
        read = KNeighborsRegressor(25).fit(states[:split], truth[:split]).predict(states[split:])
        r2[name] = 1 - np.mean((read - truth[split:]) ** 2) / truth[split:].var()
    print(r2)
    assert r2["linear_position"] >= 0.95
    assert r2["facing"] >= 0.8


def test_the_picture_of_the_sample_session_is_drawn(tmp_path):
    counts = ldmfilter.bin_spikes(ldmfilter.read_session(SAMPLE), 0.1, "epochs=run")
    ldmfilter.LDMFilter(latent_dim=4, max_steps=2).fit(counts).decode(counts).to_zarr(tmp_path / "latents.zarr")
    draw = runpy.run_path(str(SAMPLE.parent / "draw.py"))["main"]
    draw(str(tmp_path / "latents.zarr"), str(SAMPLE), str(tmp_path / "latents.png"))
    assert (tmp_path / "latents.png").read_bytes().startswith(b"\x89PNG")
