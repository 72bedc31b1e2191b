"""The files of a run folder that say what it is: `run.json` and `config.toml`, written once and read with care."""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from ldmfilter.config import Config, current_settings, read_toml
from ldmfilter.data import FORMATS
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors, write_bytes
from ldmfilter.tensors import reading, unit_ids

RUN_FORMAT = 3
RUN_FILE, CONFIG_FILE = "run.json", "config.toml"


@dataclass(frozen=True)
class RunSession:
    """A session of a run.

    Attributes:
        session: its path.
        checksum: of its content.
        unit_ids: the units that were used, in order.
        session_unit_ids: all its units.
        format: the format that was given for it, or "".
        added: True if it was added to the trained filter, as by `--add`.
    """

    session: str
    checksum: str
    unit_ids: list
    session_unit_ids: list
    format: str = ""
    added: bool = False

    @classmethod
    def of(cls, session: Session, counts: xr.DataArray, added: bool = False) -> "RunSession":
        """That of a session as read, and of its counts, which have the units that are used."""
        ids, all_ids = counts["unit"].to_numpy().tolist(), session.units["unit"].to_numpy().tolist()
        return cls(session.source.path, session.source.checksum, ids, all_ids, session.source.format, added)

    @classmethod
    def read(cls, one: dict[str, Any]) -> "RunSession":
        """From an entry of a run's file. Raises: KeyError, TypeError or ValueError where it is damaged."""
        ids, all_ids = (unit_ids(one[name]) for name in ("unit_ids", "session_unit_ids"))
        format = one.get("format", "")
        if format and format not in FORMATS:
            raise ValueError(f"no format {format!r}")
        return cls(str(one["session"]), str(one["checksum"]), ids, all_ids, format, bool(one.get("added", False)))


def write_new(path: Path, config: str, about: dict[str, Any]) -> None:
    """Make a run folder of a TOML text and a description. Raises: InputError where it cannot be made, or is there."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            scratch.mkdir(parents=True)
        write_bytes(scratch / CONFIG_FILE, config.encode())
        write_bytes(scratch / RUN_FILE, json.dumps(about, indent=1).encode())
        try:
            with disk_errors(path):
                os.replace(scratch, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise exists_already(path) from None  # another process was faster
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_options(path: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration and the description of a run folder.

    Raises:
        InputError: it is not one, or a file in it is missing, damaged or of a newer version.
    """
    run, options = path / RUN_FILE, path / CONFIG_FILE
    if not run.is_file():
        what = f"is not a run folder (no {RUN_FILE})" if path.exists() else "no such run folder"
        raise InputError(f"{path}: {what}; name one that `ldmfilter train` made")
    with reading(run):
        about = json.loads(run.read_text(encoding="utf-8"))
        if about["format"] > RUN_FORMAT:
            raise InputError(
                f"{run}: run format {about['format']}, made by ldmfilter {about.get('package_version')}, is newer than "
                f"this package reads ({RUN_FORMAT}); update ldmfilter"
            )
        if about["format"] == 1:  # of one session
            about["sessions"] = [{k: about.pop(k) for k in ("session", "checksum", "unit_ids", "session_unit_ids")}]
        if not options.is_file():
            raise InputError(f"{options}: is missing; train again or restore the file")
        asked = read_toml(options)
        if about["format"] < 3 and isinstance(asked.get("data"), dict):
            asked["filter"] = current_settings(asked.get("filter", {}), float(asked["data"]["bin_size"]))
        config = Config.from_dict(asked, str(options))
        if sha256(options.read_bytes()) != about["config_sha256"]:
            raise InputError(f"{options}: is not what the run was made with; restore the file or train again")
    return config, about


def exists_already(path: Path) -> InputError:
    """The refusal of a folder that holds something."""
    return InputError(f"{path}: exists already; choose another --run, or --resume to go on with it")


def sha256(content: bytes) -> str:
    """The checksum of a file's content."""
    return hashlib.sha256(content).hexdigest()
