"""`decode --rates`, as a person types it."""

import numpy as np
import xarray as xr

from ldmfilter import Rates, reserve
from ldmfilter.filter.runs import Run
from tests.cli.conftest import here

ALIGNED = ["--align", "trials.start_time", "--window", "0:1"]


def test_rates_of_a_run_in_its_own_session_in_trials_and_exported(trained):
    ended = here("decode", "--run", "run", "--rates", "--out", "rates.zarr", cwd=trained)
    assert ended.code == 0, ended.err
    run = Run.open(trained / "run")
    counts = run.recording()[1]
    with xr.open_zarr(trained / "rates.zarr") as found:
        assert found["rate"].dims == ("time", "unit")
        assert found["rate_ci"].dims == ("time", "unit", "bound")
        assert found["rate"].attrs["unit"] == "Hz"
        seen = found.sel(time=counts["time"], method="nearest")
        np.testing.assert_allclose(
            seen["rate"].where(seen["trained"]).mean("time"),
            counts.where(seen["trained"].values[:, None]).mean("time") / 0.1,
            rtol=0.3,
        )
        model, kept = run.model(), reserve(counts, run.config.data.reserve)
        rates = Rates.fit(model.decode(kept), kept)
        np.testing.assert_allclose(model.decode(counts, rates=rates)["rate"], seen["rate"], rtol=1e-4)
    ended = here("export", "rates.zarr", "--to", "csv", "--out", "rates.csv", cwd=trained)
    assert ended.code == 0, ended.err
    with (trained / "rates.csv").open() as file:
        head = file.readline()
    assert f"rate_{run.unit_ids[0]} (Hz),rate_{run.unit_ids[0]}_lower (Hz)" in head
    ended = here("decode", "--run", "run", "--rates", *ALIGNED, "--out", "rates_in_trials.zarr", cwd=trained)
    assert ended.code == 0, ended.err
    with xr.open_zarr(trained / "rates_in_trials.zarr") as aligned:
        assert aligned["rate"].dims == ("trial", "time", "unit")
