"""Draw the decoded sample session: python sample_data/draw.py LATENTS.zarr SESSION.nwb PICTURE.png"""

import sys

import matplotlib as mpl
import numpy as np
import xarray as xr

import ldmfilter

START, STOP = 380.0, 480.0  # s, the end of the run: laps that the picture shows


def main(store: str, path: str, picture: str) -> None:
    """Place, states and state space, in one picture."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    latents = xr.open_zarr(store).load()
    session = ldmfilter.read_session(path)
    behavior = {name.rsplit("/", 1)[-1]: series for name, series in session.behavior.items()}
    time = latents["time"].to_numpy()
    place = np.interp(time, behavior["linear_position"]["time"], behavior["linear_position"])
    heading = np.interp(time, behavior["facing"]["time"], behavior["facing"])

    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1, 3])
    shown = (time >= START) & (time < STOP)
    top = figure.add_subplot(grid[0, :2])
    top.plot(time[shown], place[shown], color="black", linewidth=1)
    top.set_ylabel("place, cm")
    top.spines[["top", "right"]].set_visible(False)
    below = figure.add_subplot(grid[1, :2], sharex=top)
    ldmfilter.plot.states(latents.isel(time=shown, state=slice(4)), 4, below)
    top.tick_params(labelbottom=False)

    # Along the track and back is one lap: place and direction together lie on a ring.
    length = np.nanmax(place)
    lap = np.where(heading > 0, place, 2 * length - place) / (2 * length)
    space = figure.add_subplot(grid[:, 2])
    ldmfilter.plot.state_space(latents, lap, period=1.0, ax=space)
    figure.axes[-1].set_yticks([0, 0.5, 1], ["start", "far end", "start"])
    space.set_title("states, by place in the lap", fontsize=10)
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
