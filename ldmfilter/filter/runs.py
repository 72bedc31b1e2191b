"""The run folder: what a training was asked for, how it went, and what it can go on from.

    run.json                 when and on which session, with its units
    config.toml              every option, resolved
    log.jsonl                one record an evaluation, for people: nothing reads it back
    checkpoint.safetensors   the whole state of the training
    model.safetensors        the parameters kept so far, with all that decoding needs
    .lock                    held by the process that trains; the operating system takes it away when that ends

All of it is data, written whole or not at all; opening a stranger's folder runs nothing.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from filelock import FileLock, Timeout

from ldmfilter.config import Config
from ldmfilter.data import read_session
from ldmfilter.data.binning import bin_spikes, choose_spans
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors, plain_name, write_bytes
from ldmfilter.filter.model import MODEL_FILE, LDMFilter, load
from ldmfilter.filter.training import Record, Training
from ldmfilter.tensors import damaged, read_tensors, unit_ids, write_tensors
from ldmfilter.version import __version__

RUNS = Path("runs")
RUN_FORMAT = 1
CHECKPOINT_EVERY = 2.0  # seconds at least between checkpoints
_RUN, _CONFIG, _LOG, _CHECKPOINT = "run.json", "config.toml", "log.jsonl", "checkpoint.safetensors"
_LOCK = ".lock"
_LOCKLESS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # from disks that know no locks


class Run:
    """A run folder. Make one with `create`, open one with `open` or `latest`.

    Attributes:
        folder: where it lies.
        config: what was asked for.
        session_path: the session that it was trained on.
        checksum: of that session.
        unit_ids: the units that were used, in order.
        session_unit_ids: all units of that session.
        created: ISO 8601.
    """

    def __init__(self, folder: Path, config: Config, about: dict[str, Any]):
        self.folder = folder
        self.config = config
        self._about = about
        self.session_path = str(about["session"])
        self.checksum = str(about["checksum"])
        self.unit_ids = unit_ids(about["unit_ids"])
        self.session_unit_ids = unit_ids(about["session_unit_ids"])
        self.created = str(about["created"])
        self._lock = FileLock(folder / _LOCK, thread_local=False)

    @classmethod
    def create(cls, folder: str | os.PathLike[str] | None, config: Config, session: Session, chosen: Session) -> "Run":
        """Make a run folder; without a name, a new one below `runs/`.

        Args:
            folder: where, or None.
            config: what is asked for, validated.
            session: the session as read.
            chosen: the same with the units that are used.

        Raises:
            InputError: the folder holds something already or cannot be written to.
        """
        now = datetime.now(UTC)
        path = new_folder(session, now) if folder is None else Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise _exists(path)
        toml = config.to_toml()
        about = {
            "format": RUN_FORMAT,
            "package_version": __version__,
            "created": now.isoformat(),
            "session": session.source.path,
            "checksum": session.source.checksum,
            "unit_ids": chosen.units["unit"].to_numpy().tolist(),
            "session_unit_ids": session.units["unit"].to_numpy().tolist(),
            "config_sha256": _sha256(toml.encode()),
        }
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with disk_errors(path):
                scratch.mkdir(parents=True)
            write_bytes(scratch / _CONFIG, toml.encode())
            write_bytes(scratch / _RUN, json.dumps(about, indent=1).encode())
            try:
                with disk_errors(path):
                    os.replace(scratch, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise _exists(path) from None  # another process was faster
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return cls(path, config, about)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Run":
        """Open a run folder.

        Raises:
            InputError: it is not one, or a file in it is missing, damaged or of a newer version.
        """
        path = Path(folder)
        if not (path / _RUN).is_file():
            raise InputError(f"{path}: is not a run folder (no {_RUN}); name one that `ldmfilter train` made")
        try:
            about = json.loads((path / _RUN).read_text(encoding="utf-8"))
            if about["format"] > RUN_FORMAT:
                raise InputError(
                    f"{path / _RUN}: run format {about['format']}, made by ldmfilter {about.get('package_version')}, "
                    f"is newer than this package reads ({RUN_FORMAT}); update ldmfilter"
                )
            if not (path / _CONFIG).is_file():
                raise InputError(f"{path / _CONFIG}: is missing; train again or restore the file")
            config = Config.read(path / _CONFIG)
            if _sha256((path / _CONFIG).read_bytes()) != about["config_sha256"]:
                raise InputError(
                    f"{path / _CONFIG}: is not what the run was made with; restore the file or train again"
                )
            return cls(path, config, about)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise damaged(path / _RUN, error) from None

    @classmethod
    def latest(cls, root: Path = RUNS) -> "Run":
        """The run below `root` that was made last.

        Raises:
            InputError: there is none.
        """
        made: dict[Path, str] = {}
        for path in root.glob(f"*/{_RUN}") if root.is_dir() else []:
            try:
                made[path.parent] = str(json.loads(path.read_text(encoding="utf-8"))["created"])
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                warnings.warn(f"{path}: damaged file; this run is passed over", stacklevel=2)
        if not made:
            raise InputError(f"{root}: no run here; run `ldmfilter train SESSION` first, or give --run FOLDER")
        return cls.open(max(made, key=made.__getitem__))

    def train(self, training: Training, counts: xr.DataArray) -> Iterator[Record]:
        """Drive a training and keep log, checkpoints and model up to date; one record an evaluation.

        Raises:
            InputError: the folder cannot be written to any more, or another process trains this run.
            TrainingError: as `Training.run`.
        """
        self._hold()
        try:
            yield from self._train(training, counts)
        finally:
            self._lock.release()

    def _train(self, training: Training, counts: xr.DataArray) -> Iterator[Record]:
        written = 0.0
        self._write_log(training.history)
        if training.step:
            self._write_model(training, counts)  # a stop may have come between checkpoint and model
        for record in training.run():
            with disk_errors(self.folder / _LOG), (self.folder / _LOG).open("a", encoding="utf-8") as log:
                log.write(_line(record))
            if time.monotonic() - written >= CHECKPOINT_EVERY or record.step == self.config.filter.max_steps:
                try:
                    write_tensors(self.folder / _CHECKPOINT, *training.state())
                    self._write_model(training, counts)
                except InputError:
                    if not written and not training.step:  # nothing is worth keeping yet
                        shutil.rmtree(self.folder, ignore_errors=True)
                    raise
                written = time.monotonic()
            yield record

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
        try:
            training.restore(tensors, values)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(path, error) from None

    def model(self) -> LDMFilter:
        """The model kept so far. Raises: InputError when it is missing or damaged."""
        if not (self.folder / MODEL_FILE).exists() and not (self.folder / _CHECKPOINT).exists():
            raise InputError(
                f"{self.folder}: its training has kept no model yet; "
                f"`ldmfilter train --resume --run {self.folder}` goes on"
            )
        return load(self.folder / MODEL_FILE)

    def recording(self, path: str | os.PathLike[str] | None = None) -> tuple[Session, xr.DataArray]:
        """The run's own session, and its counts in the stretches that were asked for, reserved time included.

        Args:
            path: where the session lies now; None for where it lay.

        Raises:
            InputError: the session cannot be read, or has changed since.
        """
        session = read_session(path or self.session_path)
        if session.source.checksum != self.checksum:
            raise InputError(
                f"{session.source.path}: is not the session that {self.folder} was trained on, or has changed; "
                "train anew"
            )
        data = self.config.data
        spans = choose_spans(session, interval=data.interval, spans=data.spans)
        return session, bin_spikes(session.select_units(np.asarray(self.unit_ids)), data.bin_size, spans)

    def _hold(self) -> None:
        """Hold the run's lock, until its training or this process ends. Raises: InputError where another has it."""
        if self._lock.is_locked:
            return
        try:
            with disk_errors(self.folder):
                self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.folder}: another process trains this run; wait for it, end it, or choose another --run"
            ) from None
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            return
        for name in (_CHECKPOINT, _LOG, MODEL_FILE):  # nobody else writes here: these are of a process that was killed
            for scratch in self.folder.glob(f".{name}.*.tmp"):
                scratch.unlink(missing_ok=True)

    def _write_model(self, training: Training, counts: xr.DataArray) -> None:
        LDMFilter(**asdict(self.config.filter)).take(training, counts).save(self.folder)

    def _write_log(self, history: list[Record]) -> None:
        write_bytes(self.folder / _LOG, "".join(map(_line, history)).encode())


def _exists(path: Path) -> InputError:
    return InputError(f"{path}: exists already; choose another --run, or --resume to go on with it")


def new_folder(session: Session, now: datetime) -> Path:
    """A free name below `runs/`, of the time and the session's file name."""
    name = f"{now:%Y%m%d-%H%M%S}-{plain_name(Path(session.source.path).stem)}"
    path, n = RUNS / name, 2
    while path.exists():
        path, n = RUNS / f"{name}-{n}", n + 1
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _line(record: Record) -> str:
    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(record).items()}
    return json.dumps(values) + "\n"
