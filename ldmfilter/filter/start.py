"""A run and its training, from session files or from a run folder."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from ldmfilter.config import Config
from ldmfilter.data import read_session
from ldmfilter.data.formats.binned import BinnedSession
from ldmfilter.data.prepare import prepare
from ldmfilter.data.windows import reserve
from ldmfilter.filter.runs import Run
from ldmfilter.filter.training import Training


def start_run(
    folder: Path | None, paths: Sequence[Path], format: str | None, config: Config, bin_size_given: bool
) -> tuple[Run, Training, list[xr.DataArray]]:
    """Make a run of sessions.

    Args:
        folder: of the run, or None for a new one below runs/.
        paths: of the sessions.
        format: as `read_session` takes it, of all of them.
        config: what is asked for, validated.
        bin_size_given: whether a person chose the bin size; counts that come binned have their own otherwise.

    Returns:
        the run, its training, and the counts (time, unit) of each session, reserved time left out.

    Raises:
        InputError: a session cannot be used, or the folder holds something already.
    """
    size = config.data.bin_size if bin_size_given else None
    sessions = [read_session(path, format, size, **config.data.reading) for path in paths]
    if isinstance(sessions[0], BinnedSession) and not bin_size_given:
        config = config.replace(bin_size=sessions[0].bin_size)
    counts = [reserve(prepare(session, config.data), config.data.reserve) for session in sessions]
    training = Training(config.filter, counts)
    config = Config(config.data, training.config)
    return Run.create(folder, config, sessions, counts), training, counts


def resume_run(run: Run, paths: Sequence[Path] = ()) -> tuple[Run, Training, list[xr.DataArray]]:
    """Go on with a run from its last checkpoint; `paths` are those of sessions that were moved.

    Raises:
        InputError: as `Run.training_counts` and `Run.resume`.
    """
    counts = run.training_counts(paths)
    training = Training(run.config.filter, counts)
    run.resume(training)
    return run, training, counts
