"""Kill commands at random moments: each output is whole or absent, and going on ends in the same result.

    python tests/benchmarks/kills.py [--kills 50] [--commands train,export] [--seed 0] [--json FILE]

A command runs in a process that is forked from one in which everything is imported, so that the moments fall into its
work and not into imports. What it leaves is looked at file by file; then it is run again (`train` goes on from its
checkpoint) and compared with what an undisturbed run gives. Nothing is random but the moments, which follow from the
seed and from how fast the machine is.
"""

import argparse
import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

TRAIN = "--latent-dim 2 --max-steps 75 --hidden 8 --window 1.2 --warmup 0.4 --dynamics fast"
TRAIN += " --batch-size 8 --no-refit"
PATIENCE = 120.0  # s
NWB = "session.nwb"
INTO = f"export RUN --to nwb --session {NWB} --in-place"


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Attributes:
        words: as on the command line; SESSION and RUN are put in.
        again: the words that go on from what the killed process left.
        prepare: makes what lies in the folder beforehand.
        fault: what is wrong with what lies in the folder, given that of an undisturbed run and that of before, or "".
    """

    words: str
    again: Callable[[Path], str]
    prepare: Callable[[Path, dict[str, str]], None]
    fault: Callable[[Path, Path], str]


def start(words: list[str], cwd: Path) -> int:
    """Run a command in a forked process; its id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(cwd)
        said = os.open(cwd.with_name(f"{cwd.name}.said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        from ldmfilter_cli.main import app

        from ldmfilter.filter import runs

        runs.CHECKPOINT_EVERY = 0.02  # s: as many moments at which a checkpoint is being written as there can be
        app(words, prog_name="ldmfilter")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        cwd.with_name(f"{cwd.name}.modules").write_text("\n".join(sys.modules))
        os._exit(code)


def ended(child: int, patience: float) -> int | None:
    """The exit code of a process, minus a signal's number; None where it has not ended in so many seconds."""
    until = time.monotonic() + patience
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


def run(words: list[str], cwd: Path) -> None:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    child = start(words, cwd)
    code = ended(child, PATIENCE)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if code != 0:
        said = cwd.with_name(f"{cwd.name}.said").read_text(errors="replace")
        raise RuntimeError(f"{' '.join(words)}: exit code {code}: {said[-500:]}")


def import_as(cwd: Path) -> None:
    """Import what the command in that folder has imported late."""
    for module in cwd.with_name(f"{cwd.name}.modules").read_text().split():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


# --- train -----------------------------------------------------------------------------------------------------------

RUN_FILES = ("model.safetensors", "checkpoint.safetensors", "log.jsonl", "config.toml")


def run_fault(folder: Path, whole: Path) -> str:
    """What is wrong with a run folder: a file that cannot be read, or, at its end, one that differs."""
    from ldmfilter.errors import InputError
    from ldmfilter.filter.model import load
    from ldmfilter.filter.runs import Run
    from ldmfilter.tensors import read_tensors

    made = folder / "run"
    if not made.exists():
        return ""
    try:
        Run.open(made)
        for name, read in (("checkpoint.safetensors", read_tensors), ("model.safetensors", load)):
            if (made / name).exists():
                read(made / name)
    except InputError as error:
        return str(error)
    return ""


def run_difference(folder: Path, whole: Path) -> str:
    """Which files of a finished run are not those of an undisturbed one, and what is left besides."""
    made = folder / "run"
    differ = [n for n in RUN_FILES if (made / n).read_bytes() != (whole / "run" / n).read_bytes()]
    besides = sorted({p.name for p in made.iterdir()} - {p.name for p in (whole / "run").iterdir()})
    return "; ".join([f"{name} differs" for name in differ] + [f"{name} is left" for name in besides])


# --- decode ----------------------------------------------------------------------------------------------------------


def same_states(one: Path, other: Path) -> bool:
    """Whether two stores hold the same, but for when they were made."""
    import xarray as xr

    def read(path: Path) -> Any:
        with xr.open_zarr(path, chunks=None, consolidated=False) as latents:
            found = latents.load()
        return found.assign_attrs(created="")

    return bool(read(one).identical(read(other)))


def store_fault(folder: Path, whole: Path) -> str:
    """What is wrong with a store of states: it is neither the old nor the new one, nor absent."""
    made = folder / "out.zarr"
    if not made.exists() or same_states(made, whole / "out.zarr"):
        return ""
    old = folder.parent / "old.zarr"
    return "" if old.exists() and same_states(made, old) else "out.zarr is neither old nor new"


def store_difference(folder: Path, whole: Path) -> str:
    """How a finished store differs from that of an undisturbed run."""
    return "" if same_states(folder / "out.zarr", whole / "out.zarr") else "out.zarr differs"


# --- export ----------------------------------------------------------------------------------------------------------


def table_fault(folder: Path, whole: Path) -> str:
    """What is wrong with an exported table: it is neither whole nor absent."""
    made = folder / "out.csv"
    return "out.csv is not whole" if made.exists() and table_difference(folder, whole) else ""


def table_difference(folder: Path, whole: Path) -> str:
    """How an exported table differs from that of an undisturbed run."""
    same = (folder / "out.csv").read_bytes() == (whole / "out.csv").read_bytes()
    return "" if same else "out.csv differs"


def held(path: Path) -> dict[str, str | None]:
    """The values that an NWB file holds, by name."""
    import h5py

    found: dict[str, str | None] = {}

    def look(name: str, item: Any) -> None:
        found[name] = str(np.asarray(item[()]).tolist()) if isinstance(item, h5py.Dataset) else None

    with h5py.File(path, "r") as file:
        file.visititems(look)
    return found


def session_fault(folder: Path, whole: Path) -> str:
    """What is wrong with a session that states are written into: it is neither the old nor the new one."""
    return "" if _same_bytes(folder) else session_difference(folder, whole)


def session_difference(folder: Path, whole: Path) -> str:
    """How a session with states differs from that of an undisturbed run."""
    one, other = held(folder / NWB), held(whole / NWB)
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f"{NWB} differs in {', '.join(names[:5])}" if names else ""


def _nothing(folder: Path, places: dict[str, str]) -> None:
    pass


def _old_store(folder: Path, places: dict[str, str]) -> None:
    old = folder.parent / "old.zarr"
    if not old.exists():
        run(["decode", "--run", places["RUN"], "--out", "../old.zarr", "--ci", "0.5", "--quiet"], folder)
    shutil.copytree(old, folder / "out.zarr")


def _session(folder: Path, places: dict[str, str]) -> None:
    shutil.copy(folder.parents[1] / NWB, folder / NWB)


def _same_bytes(folder: Path) -> bool:
    return (folder / NWB).read_bytes() == (folder.parents[1] / NWB).read_bytes()


def _train_again(folder: Path) -> str:
    return "train --resume --run run" if (folder / "run").exists() else COMMANDS["train"][0].words


COMMANDS: dict[str, tuple[Command, Callable[[Path, Path], str]]] = {
    "train": (Command(f"train SESSION --run run {TRAIN}", _train_again, _nothing, run_fault), run_difference),
    "decode": (
        Command(
            "decode --run RUN --out out.zarr", lambda _: "decode --run RUN --out out.zarr --overwrite", _nothing,
            store_fault,
        ),
        store_difference,
    ),
    "overwrite": (
        Command(
            "decode --run RUN --out out.zarr --overwrite", lambda _: "decode --run RUN --out out.zarr --overwrite",
            _old_store, store_fault,
        ),
        store_difference,
    ),
    "export": (
        Command(
            "export RUN --to csv --out out.csv", lambda _: "export RUN --to csv --out out.csv --overwrite", _nothing,
            table_fault,
        ),
        table_difference,
    ),
    "in-place": (
        Command(INTO, lambda folder: INTO if _same_bytes(folder) else f"inspect {NWB}", _session, session_fault),
        session_difference,
    ),
}  # fmt: skip


def kill_often(name: str, kills: int, rng: np.random.Generator, root: Path, places: dict[str, str]) -> dict[str, Any]:
    """Kill one command at so many random moments; a row of the table, with the faults."""
    command, difference = COMMANDS[name]

    def words(text: str) -> list[str]:
        return [*(places.get(word, word) for word in text.split()), "--quiet"]

    home = root / name
    whole = home / "whole"
    whole.mkdir(parents=True)
    command.prepare(whole, places)
    run(words(command.words), whole)
    import_as(whole)
    timed = home / "timed"
    timed.mkdir()
    command.prepare(timed, places)
    began = time.monotonic()
    run(words(command.words), timed)
    seconds = time.monotonic() - began
    if fault := difference(timed, whole):
        raise RuntimeError(f"{name}: two undisturbed runs differ: {fault}")
    hits, absent, left, faults = 0, 0, 0, []
    for number in range(kills):
        folder = home / f"{number:03d}"
        folder.mkdir()
        command.prepare(folder, places)
        before = {item.name for item in folder.iterdir()}
        moment = rng.uniform(0, seconds)
        child = start(words(command.words), folder)
        if ended(child, moment) is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            hits += 1
        there = {item.name for item in folder.iterdir()}
        absent += all(item.startswith(".") for item in there - before)
        left += any(item.startswith(".") for item in there - before)
        said = [command.fault(folder, whole)]
        try:
            run(words(command.again(folder)), folder)
            said.append(difference(folder, whole))
        except RuntimeError as error:
            said.append(str(error))
        for fault in filter(None, said):
            faults.append(f"{name} {number}, killed after {moment:.3f} s: {fault}")
        if not any(said):
            shutil.rmtree(folder)
    return {
        "command": name,
        "seconds": seconds,
        "killed": hits,
        "ended before": kills - hits,
        "absent": absent,
        "scratch left": left,
        "faults": faults,
    }


def main() -> None:
    """Kill, go on, compare; exit code 1 where anything was wrong."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--commands", default=",".join(COMMANDS))
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--keep", type=Path, help="Folder for what was wrong.")
    given = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in ("ldmfilter_cli.main", "ldmfilter.filter.runs", "lightning_fabric"):
        importlib.import_module(module)
    from ldmfilter.data.simulate import linear_track_session
    from tests.fuzzing import write_nwb

    kept = given.keep or Path(tempfile.mkdtemp())
    root = kept / "work"
    root.mkdir(parents=True, exist_ok=True)
    places = {"SESSION": str(root / NWB), "RUN": str(root / "run")}
    child = os.fork()  # whatever starts threads stays out of the process that is forked
    if not child:
        write_nwb(linear_track_session(seed=3, n_units=8, duration=60.0, rest=10.0), root / NWB)
        os._exit(0)
    os.waitpid(child, 0)
    run(["train", places["SESSION"], "--run", places["RUN"], *TRAIN.split(), "--quiet"], root)
    import_as(root)
    rng = np.random.default_rng(given.seed)
    rows = [kill_often(name, given.kills, rng, root, places) for name in given.commands.split(",")]
    columns = ["command", "seconds", "killed", "ended before", "absent", "scratch left", "faults"]
    table = [[len(row[c]) if c == "faults" else row[c] for c in columns] for row in rows]
    present(f"Killed at {given.kills} random moments, seed {given.seed}", columns, table, given.json)
    faults = [fault for row in rows for fault in row["faults"]]
    print(*faults, sep="\n")
    if given.keep is None:
        shutil.rmtree(kept)
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
