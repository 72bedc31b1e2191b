"""The run folder: the options, the log, the checkpoint and the model of a training.

    run.json                 when and on which sessions, with their units
    config.toml              every option
    log.jsonl                one record an evaluation, for people: nothing reads it back
    checkpoint.safetensors   the whole state of the training
    model.safetensors        the parameters kept so far, with all that decoding needs
    .lock                    held by the process that trains; the operating system takes it away when that ends

All of it is data, written whole or not at all; opening a stranger's folder runs nothing.
"""

import errno
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

from ldmfilter.config import Config
from ldmfilter.data import read_session
from ldmfilter.data.binned import BinnedSession
from ldmfilter.data.counts import check_counts
from ldmfilter.data.prepare import prepare
from ldmfilter.data.session import Session
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import reserve
from ldmfilter.errors import BusyError, InputError
from ldmfilter.files import AnyPath, disk_errors, plain_name, write_bytes
from ldmfilter.filter.evaluation import Record
from ldmfilter.filter.model import MODEL_FILE, LDMFilter, find_one, load, several
from ldmfilter.filter.run_files import (
    RUN_FILE,
    RUN_FORMAT,
    RunSession,
    exists_already,
    read_options,
    sha256,
    write_new,
)
from ldmfilter.filter.training import Training
from ldmfilter.ranks import ranks
from ldmfilter.tensors import read_tensors, reading, write_tensors
from ldmfilter.version import __version__

RUNS = Path("runs")
CHECKPOINT_EVERY = 2.0  # seconds at least between checkpoints
_LOG, _CHECKPOINT = "log.jsonl", "checkpoint.safetensors"
_LOCK = ".lock"
_LOCKLESS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # from disks that know no locks


class Run:
    """A run folder. Make one with `create`, open one with `open` or `latest`.

    Attributes:
        folder: where it lies.
        config: the options.
        sessions: what it was trained on, then what was added.
        created: ISO 8601.

    A run of one session, or one that `choose` gave, has that session's `session_path`, `checksum`, `unit_ids` and
    `session_unit_ids`, as `RunSession` names them.
    """

    def __init__(self, folder: Path, config: Config, about: dict[str, Any]):
        self.folder = folder
        self.config = config
        self._about = about
        self.sessions = [RunSession.read(one) for one in about["sessions"]]
        if not self.sessions:
            raise ValueError("it has no session")
        self._chosen = self.sessions
        self.created = str(about["created"])
        self._lock = FileLock(folder / _LOCK, thread_local=False)

    @property
    def session(self) -> RunSession:
        """The run's session. Raises: InputError, naming them, where it has several and none was chosen."""
        return self.choose(None)._chosen[0]

    @property
    def listed(self) -> str:
        """The number of sessions, and their names."""
        names = [Path(one.session).name for one in self.sessions]
        if len(set(names)) < len(names):
            names = [one.session for one in self.sessions]
        return f"{len(names)} sessions, {shorten(names)}"

    @property
    def session_path(self) -> str:
        """Path of the session when it was trained on."""
        return self.session.session

    @property
    def checksum(self) -> str:
        """Of the session."""
        return self.session.checksum

    @property
    def unit_ids(self) -> list:
        """The units that were used, in order."""
        return self.session.unit_ids

    @property
    def session_unit_ids(self) -> list:
        """All units of the session."""
        return self.session.session_unit_ids

    def choose(self, session: AnyPath | Session | None) -> "Run":
        """The run as one of its sessions sees it; a run of one session is that already.

        Args:
            session: a path as it was given, its last part, with its suffix or without, or a file with the same content;
                or a session as read, which is that with the same checksum, or else has the units of just one.

        Raises:
            InputError: none or several are meant; names the sessions.
        """
        if len(self._chosen) == 1:
            return self
        if session is None:
            raise InputError(f"{self.folder}: has {self.listed}; name one (--session; for `decode` SESSION)")
        if isinstance(session, Session):
            where, ids = session.source.path, session.units["unit"].to_numpy().tolist()
            tiers = [
                [one for one in self.sessions if one.checksum == session.source.checksum],
                [one for one in self.sessions if ids in (one.unit_ids, one.session_unit_ids)],
            ]
        else:
            where = str(session)
            tiers = [
                [one for one in self.sessions if where == one.session],
                [one for one in self.sessions if Path(where).name == Path(one.session).name],
                [one for one in self.sessions if where == Path(one.session).stem],
            ]
            if not any(tiers) and Path(where).exists():
                return self.choose(self.read(where))
        return self._of(find_one(tiers, where, f"the sessions of {self.folder}, which has {self.listed}"))

    def _of(self, session: RunSession) -> "Run":
        run = Run(self.folder, self.config, self._about)
        run._chosen = [session]
        return run

    @classmethod
    def create(
        cls,
        folder: AnyPath | None,
        config: Config,
        session: Session | list[Session],
        counts: xr.DataArray | list[xr.DataArray],
    ) -> "Run":
        """Make a run folder; without a name, a new one below `runs/`. Of processes that train together, the first does.

        Args:
            folder: where, or None.
            config: the options, validated.
            session: the session as read, or several.
            counts: of each session, with the units that are used.

        Raises:
            InputError: the folder holds something already or cannot be written to.
        """
        now = datetime.now(UTC)
        sessions, used = several(session), several(counts)
        path = new_folder(sessions, now) if folder is None else Path(folder)
        if ranks().first and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise exists_already(path)
        toml = config.to_toml()
        about = {
            "format": RUN_FORMAT,
            "package_version": __version__,
            "created": now.isoformat(),
            "sessions": [asdict(RunSession.of(*pair)) for pair in zip(sessions, used, strict=True)],
            "config_sha256": sha256(toml.encode()),
        }
        if ranks().first:
            write_new(path, toml, about)
        return cls(path, config, about)

    @classmethod
    def open(cls, folder: AnyPath) -> "Run":
        """Open a run folder.

        Raises:
            InputError: it is not one, or a file in it is missing, damaged or of a newer version.
        """
        path = Path(folder)
        config, about = read_options(path)
        with reading(path / RUN_FILE):
            return cls(path, config, about)

    @classmethod
    def latest(cls) -> "Run":
        """The run below `runs/` that was made last. Warns of a damaged one.

        Raises:
            InputError: there is none.
        """
        made: dict[Path, str] = {}
        for path in RUNS.glob(f"*/{RUN_FILE}"):
            try:
                made[path.parent] = str(json.loads(path.read_text(encoding="utf-8"))["created"])
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                warnings.warn(f"{path}: damaged file; this run is passed over", stacklevel=2)
        if not made:
            raise InputError(f"{RUNS}: no run here; run `ldmfilter train SESSION` first, or give --run FOLDER")
        return cls.open(max(made, key=made.__getitem__))

    def train(self, training: Training) -> Iterator[Record]:
        """Run a training and keep log, checkpoints and model up to date; one record an evaluation.

        Raises:
            InputError: the folder cannot be written to any more, or another process trains this run.
            TrainingError: as `Training.run`.
        """
        if not ranks().first:
            yield from training.run()
            return
        self._hold()
        try:
            yield from self._train(training)
        finally:
            self._lock.release()

    def _train(self, training: Training) -> Iterator[Record]:
        written, ended = 0.0, training.ended
        write_bytes(self.folder / _LOG, "".join(map(_line, training.history)).encode())
        if training.step and not any(one.added for one in self.sessions):  # those came when all was done
            self._write(training, checkpoint=False)  # a stop may have come between checkpoint and model
        for record in training.run():
            with disk_errors(self.folder / _LOG), (self.folder / _LOG).open("a", encoding="utf-8") as log:
                log.write(_line(record))
            if time.monotonic() - written >= CHECKPOINT_EVERY or record.step == self.config.filter.max_steps:
                try:
                    self._write(training)
                except InputError:
                    if not written and not training.step:  # nothing is worth keeping yet
                        shutil.rmtree(self.folder, ignore_errors=True)
                    raise
                written, ended = time.monotonic(), training.ended
            yield record
        if training.ended and not ended:  # a candidate failed at the end, maybe without a record
            self._write(training)

    def resume(self, training: Training) -> None:
        """Put a training back to the last checkpoint; one that was stopped before its first begins anew.

        Raises:
            InputError: the checkpoint is missing or damaged, or another process trains this run.
        """
        self._hold()  # before the checkpoint is read: a process that still trains would write a later one
        path = self.folder / _CHECKPOINT
        if not path.exists() and not (self.folder / MODEL_FILE).exists():
            return
        tensors, values = read_tensors(path)
        with reading(path):
            training.restore(tensors, values)

    def model(self) -> LDMFilter:
        """The model kept so far, of the chosen session where one was chosen.

        Raises:
            InputError: it is missing or damaged.
        """
        if not (self.folder / MODEL_FILE).exists() and not (self.folder / _CHECKPOINT).exists():
            raise InputError(
                f"{self.folder}: its training has kept no model yet; "
                f"`ldmfilter train --resume --run {self.folder}` goes on"
            )
        model = load(self.folder / MODEL_FILE)
        return model.of(self.checksum) if len(self._chosen) == 1 else model

    def read(self, path: AnyPath | None = None, format: str | None = None) -> Session:
        """Read a session for this run: counts that do not say how long a bin is have bins of the run's length.

        Args:
            path: of any session; None for the run's own or chosen one, where it lay.
            format: as `read_session`; without it an own session is read as it was for training.

        Raises:
            InputError: it cannot be read, or none is named and the run has several.
        """
        if path is None:
            path, format = self.session_path, format or self.session.format
        return read_session(path, format or None, self.config.data.bin_size, **self.config.data.reading)

    def recording(self, path: AnyPath | None = None) -> tuple[Session, xr.DataArray]:
        """The run's own or chosen session, and its counts in the stretches that were asked for, reserved time included.

        Args:
            path: where the session lies now; None for where it lay.

        Raises:
            InputError: the session cannot be read, or has changed since.
        """
        session = self.read(path, self.session.format)
        if session.source.checksum != self.checksum:
            raise InputError(
                f"{session.source.path}: is not the session that {self.folder} was trained on, or has changed; "
                "train anew"
            )
        return session, prepare(session, self.config.data, self.unit_ids)

    def _hold(self) -> None:
        """Hold the run's lock, until its training or this process ends. Raises: InputError where another has it."""
        if self._lock.is_locked or not ranks().first:
            return
        try:
            with disk_errors(self.folder):
                self._lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(
                f"{self.folder}: another process trains this run; wait for it, end it, or choose another --run"
            ) from None
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            return
        for name in (_CHECKPOINT, _LOG, MODEL_FILE):  # nobody else writes here: these are of a process that was killed
            for scratch in self.folder.glob(f".{name}.*.tmp"):
                scratch.unlink(missing_ok=True)
        # What another process added since this one opened the run.
        everything = self._chosen is self.sessions
        now = Run.open(self.folder)
        self._about, self.sessions = now._about, now.sessions
        if everything:
            self._chosen = self.sessions

    def training_counts(self, paths: Sequence[AnyPath] = ()) -> list[xr.DataArray]:
        """Counts of each session that training saw, in order, reserved time left out.

        Args:
            paths: where sessions lie now that were moved.

        Raises:
            InputError: as `recording`; a path is of none of the sessions.
        """
        trained = [one for one in self.sessions if not one.added]
        if len(paths) > len(trained):
            raise InputError(
                f"{paths[-1]}: {self.folder} was trained on {len(trained)} sessions; name no more than those"
            )
        alone = trained[0].checksum if len(trained) == 1 else ""
        moved = {alone or self.choose(self.read(path)).checksum: path for path in paths}
        recorded = [self._of(one).recording(moved.get(one.checksum))[1] for one in trained]
        return [reserve(one, self.config.data.reserve) for one in recorded]

    def add(self, session: Session) -> tuple[Training, Iterator[Record]]:
        """Begin to fit an encoder for a further session, with the options of the run.

        Returns:
            The training of its encoder, and records, one an evaluation, which train it and write it into the run at the
            end: a stop before leaves the run as it was.

        Raises:
            InputError: training has not ended, the run has the session already, its bins or units are too few, or
                another process trains this run; later, the folder cannot be written to.
            TrainingError: later, as `Training.run`.
        """
        self._hold()  # before anything is read: another that adds a session would write between
        try:
            if session.source.checksum in [one.checksum for one in self.sessions]:
                raise InputError(f"{session.source.path}: is one of the sessions of {self.folder} already; decode it")
            model, data = self.model(), self.config.data
            if not model.ended_:
                raise InputError(
                    f"{self.folder}: its training has not ended; go on with it first, by `ldmfilter train --resume "
                    f"--run {self.folder}`"
                )
            counts = check_counts(reserve(prepare(session, data), data.reserve))
            added = RunSession.of(session, counts, True)
            # A stop may have left the encoder of a session that the run does not know.
            known = [i for i, one in enumerate(model.sessions_) if one.source.get("checksum") != added.checksum]
            model = model._keep(known)
            training = model._adding(counts)
        except BaseException:
            self._lock.release()
            raise
        return training, self._add(model, training, added)

    def _add(self, model: LDMFilter, training: Training, session: RunSession) -> Iterator[Record]:
        try:
            yield from training.run()
            if ranks().first:
                # First the encoder, then its name: a stop between the two leaves an encoder that is never used.
                model._take_added(training).save(self.folder)
                self.sessions.append(session)
                about = self._about | {"format": RUN_FORMAT, "sessions": [asdict(one) for one in self.sessions]}
                write_bytes(self.folder / RUN_FILE, json.dumps(about, indent=1).encode())
        finally:
            self._lock.release()

    def _write(self, training: Training, checkpoint: bool = True) -> None:
        if checkpoint:
            write_tensors(self.folder / _CHECKPOINT, *training.state())
        LDMFilter(**asdict(self.config.filter))._take(training).save(self.folder)


def start_run(
    folder: Path | None, paths: Sequence[Path], format: str | None, config: Config, bin_size_given: bool
) -> tuple[Run, Training]:
    """Make a run of sessions.

    Args:
        folder: of the run, or None for a new one below runs/.
        paths: of the sessions.
        format: as `read_session` takes it, of all of them.
        config: what is asked for, validated.
        bin_size_given: whether a person chose the bin size; counts that come binned have their own otherwise.

    Returns:
        the run, and its training on the counts of each session, reserved time left out.

    Raises:
        InputError: a session cannot be used, or the folder holds something already.
    """
    size = config.data.bin_size if bin_size_given else None
    sessions = [read_session(path, format, size, **config.data.reading) for path in paths]
    if isinstance(sessions[0], BinnedSession) and not bin_size_given:
        config = config.replace(bin_size=sessions[0].bin_size)
    counts = [reserve(prepare(session, config.data), config.data.reserve) for session in sessions]
    training = Training(config.filter, counts)
    return Run.create(folder, config, sessions, counts), training


def new_folder(sessions: Sequence[Session], now: datetime) -> Path:
    """A free name below `runs/`, of the time and the first session's file name."""
    stem = plain_name(Path(sessions[0].source.path).stem)
    stem += f"-and-{len(sessions) - 1}-more" if len(sessions) > 1 else ""
    name = f"{now:%Y%m%d-%H%M%S}-{stem}"
    path, n = RUNS / name, 2
    while path.exists():
        path, n = RUNS / f"{name}-{n}", n + 1
    return path


def _line(record: Record) -> str:
    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(record).items()}
    return json.dumps(values) + "\n"
