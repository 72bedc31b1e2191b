"""A run on a small simulated session whose names would do harm on a page that does not escape them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

from markupsafe import Markup

from ldmfilter.analysis.readout import FAST, read_behavior
from ldmfilter.analysis.report import Report, report
from ldmfilter.analysis.report.page import Picture
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data import read_session
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Session, Source
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.data.windows import reserve
from ldmfilter.filter.runs import Run
from ldmfilter.filter.training import Training

HARM = "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 2'>"


PLACE = f"processing/behavior/place {HARM}"


@cache
def harmful_report() -> Report:
    """The report of that run, made once for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder, quick_reports():
        return report(harmful_run(Path(folder)), [PLACE, "facing"])


@contextmanager
def quick_reports() -> Iterator[None]:
    """Reports without networks, with few shifts, and with two shuffles of the conditions of trials."""
    quick = partial(read_behavior, shifts=20, readouts=FAST)
    with (
        patch("ldmfilter.analysis.report.make.read_behavior", quick),
        patch("ldmfilter.analysis.trials.SHUFFLES", 2),
    ):
        yield


@contextmanager
def sketched_reports(*drawn: str) -> Iterator[None]:
    """Quick reports in which only the pictures of these names are drawn."""
    svg = Picture.svg

    def draw(self: Picture, name: str, *rest: object, **more: object) -> Markup:
        return svg(self, name, *rest, **more) if name in drawn else Markup("<svg></svg>")

    with quick_reports(), patch.object(Picture, "svg", draw):
        yield


def harmful_run(folder: Path) -> Run:
    """A short training on 24 units, one of them silent, and 260 s of running; session, units and behaviour carry `HARM`
    in their names."""
    plain = linear_track_session(seed=5, n_units=24, duration=280.0, rest=20.0)
    trains = [*map(plain.spikes_of, range(plain.n_units - 1)), [270.0]]
    place = plain.behavior["processing/behavior/linear_position"]
    place.attrs["unit"] = f"cm{HARM}"
    session = replace(
        Session.from_spikes(
            {f"u{i}{HARM if i == 3 else ' $x$' if i == 4 else ''}": times for i, times in enumerate(trains)},
            behavior={
                PLACE: place,
                "processing/behavior/facing": plain.behavior["processing/behavior/facing"],
            },
        ),
        source=Source(session_id=f"rat {HARM}", identifier=HARM),
    )
    session = read_session(session.to_zarr(folder / "session.zarr"))
    options = FilterConfig(latent_dim=3, max_steps=100, hidden=(32,), window=2.0, batch_size=16, dynamics="fast")
    config = Config(DataConfig(spans=((0.0, 260.0),)), options).replace(state_dim=3)
    counts = reserve(bin_spikes(session, config.data.bin_size, config.data.spans), config.data.reserve)
    run = Run.create(folder / "run", config, session, counts)
    for _ in run.train(Training(config.filter, counts)):
        pass
    return run
