"""Damaged and made-up files, put before the commands: what is used by the tests and by tests/benchmarks/fuzz.py.

A case is a file or folder that some command reads, copied, damaged by a generator that its number seeds, and the
command that is run on it. Commands run in worker processes, one after the other, each within limits of memory and of
processor time, so that an endless loop within a C library ends its worker and is told.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
MEMORY = 4 * 2**30  # bytes that a worker may allocate
PROCESSOR = 30  # s of processor time that a case may take
PATIENCE = 300.0  # s of wall-clock time, against what sleeps
LONGEST = 1500  # letters of a line
UNITS, RATE = 8, 1000.0  # of the world that is damaged; Hz, the clock of sorters' folders

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """A damaged input, the command that read it, and its result.

    Attributes:
        kind: of file.
        number: which seeds its damage.
        damage: in words.
        words: of the command.
        folder: in which it ran; the input lies there.
        code: exit code; minus a signal's number where that ended it.
        out, err: what it printed.
        fault: what was wrong with that, or "".
    """

    kind: str
    number: int
    damage: str
    words: tuple[str, ...]
    folder: Path
    code: int
    out: str
    err: str
    fault: str

    @property
    def end(self) -> str:
        """Its end in a word."""
        return "fault" if self.fault else {0: "used", 3: "refused"}.get(self.code, "training failed")


# --- what is damaged -------------------------------------------------------------------------------------------------


def write_seeds(folder: Path) -> dict[str, Path]:
    """One sound file of every kind, from one simulated session; by the kind's name."""
    import pynapple as nap

    from ldmfilter.data.binning import bin_spikes
    from ldmfilter.data.simulate import linear_track_session

    folder.mkdir(parents=True, exist_ok=True)
    session = linear_track_session(seed=6, n_units=UNITS, duration=40.0, rest=10.0)
    counts = bin_spikes(session, 0.1).assign_coords(group=("unit", ["good", "mua"] * (UNITS // 2)))
    seeds = {"zarr": session.to_zarr(folder / "session.zarr")}
    seeds["nwb"] = write_nwb(session, folder / "session.nwb")
    seeds["nwb-zarr"] = _to_zarr(seeds["nwb"], folder / "session.nwb.zarr")
    frames = np.round(session.spike_times * RATE).astype(np.int64)
    owner = np.repeat(np.arange(UNITS), np.diff(session.spike_times_index, prepend=0))
    order = np.argsort(frames, kind="stable")
    seeds["phy"] = _write_phy(frames[order], owner[order], folder / "phy")
    seeds["sorting"] = _write_sorting(frames[order], owner[order], folder / "sorting")
    support = nap.IntervalSet(session.start, session.stop)
    trains = {unit: nap.Ts(session.spikes_of(unit), time_support=support) for unit in range(UNITS)}
    seeds["pynapple"] = folder / "group.npz"
    nap.TsGroup(trains, time_support=support).save(str(seeds["pynapple"]))
    seeds["netcdf"] = folder / "counts.nc"
    counts.to_netcdf(seeds["netcdf"], engine="h5netcdf")
    seeds["netcdf3"] = folder / "counts3.nc"
    counts.astype(np.int32).drop_vars("observed").to_netcdf(seeds["netcdf3"], engine="scipy")
    seeds["counts-zarr"] = folder / "counts.zarr"
    counts.to_zarr(seeds["counts-zarr"], zarr_format=2)
    seeds["npz"] = folder / "counts.npz"
    np.savez(seeds["npz"], counts=counts.values, time=counts["time"].values)
    seeds["npy"] = folder / "counts.npy"
    np.save(seeds["npy"], counts.values)
    seeds["toml"] = folder / "config.toml"
    seeds["toml"].write_text(
        '[data]\nbin_size = 0.1\ninterval = "epochs=run"\nspans = [[0.0, 30.0]]\nmin_rate = 0.0\n\n'
        '[filter]\nlatent_dim = 2\nentropy = "logdet"\nhidden = [8]\nwindow = 1.2\nwarmup = 0.4\n'
        'dynamics = "fast"\nlearning_rate = 0.001\n'
    )
    lines = [json.dumps(row) for row in counts.values[:40].tolist()]
    seeds["stream"] = folder / "stream.jsonl"
    seeds["stream"].write_text("\n".join(lines) + "\n")
    return seeds


TRAIN = "--latent-dim 2 --max-steps 20 --hidden 8 --window 1.2 --warmup 0.4 --dynamics fast"
TRAIN += " --batch-size 8 --no-refit"


def write_run_seeds(seeds: dict[str, Path], ask: Callable[[Sequence[str], Path], tuple[int, str, str]]) -> None:
    """Add what the commands themselves make: a run folder, its model, a store of states, a sweep."""
    folder = seeds["zarr"].parent
    here = str(seeds["zarr"])
    for words in (
        ["train", here, "--run", "run", *TRAIN.split()],
        ["decode", "--run", "run", "--out", "latents.zarr"],
        ["sweep", here, "--sweep", "sweep", "--seed", "1", "2", "--trials", "1", "--reserve", "0", *TRAIN.split()],
    ):
        code, _, err = ask([*words, "--quiet"], folder)
        if code:
            raise RuntimeError(err)
    seeds |= {"run": folder / "run", "model": folder / "run", "sweep": folder / "sweep"}
    seeds["latents"] = folder / "latents.zarr"
    seeds["export"] = folder / "export"
    seeds["export"].mkdir()
    shutil.copy(seeds["nwb"], seeds["export"] / "session.nwb")
    shutil.copytree(seeds["latents"], seeds["export"] / "latents.zarr")
    sign_pair(seeds["export"])


def write_nwb(session: Any, path: Path) -> Path:
    from datetime import UTC, datetime

    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import Position

    nwb = NWBFile("a world", "made", datetime(2020, 1, 1, tzinfo=UTC), session_id="made-1")
    nwb.add_unit_column("quality", "as sorted")
    for unit in range(session.n_units):
        nwb.add_unit(
            spike_times=session.spikes_of(unit),
            obs_intervals=[[session.start, session.stop]],
            quality="good" if unit % 2 else "mua",
        )
    nwb.add_epoch(0.0, 30.0, ["run"])
    nwb.add_epoch(30.0, 40.0, ["rest"])
    nwb.add_trial_column("side", "left or right")
    for start in range(0, 20, 4):
        nwb.add_trial(float(start), start + 3.0, side="left" if start % 8 else "right")
    time = np.arange(0.0, 40.0, 0.5)
    position = Position(name="Position")
    position.create_spatial_series(name="place", data=np.sin(time), timestamps=time, reference_frame="0", unit="m")
    module = nwb.create_processing_module("behavior", "what it did")
    module.add(position)
    module.add(TimeSeries(name="speed", data=np.cos(time), rate=2.0, starting_time=0.0, unit="m/s"))
    with NWBHDF5IO(str(path), "w") as io_:
        io_.write(nwb)
    return path


def _to_zarr(nwb: Path, path: Path) -> Path:
    from hdmf_zarr import NWBZarrIO
    from pynwb import NWBHDF5IO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with NWBHDF5IO(str(nwb), "r") as source, NWBZarrIO(str(path), mode="w") as target:
            target.export(src_io=source, write_args={"link_data": False})
    return path


def _write_phy(frames: np.ndarray, owner: np.ndarray, path: Path) -> Path:
    path.mkdir()
    np.save(path / "spike_times.npy", frames)
    np.save(path / "spike_clusters.npy", owner)
    (path / "params.py").write_text(f"dat_path = 'raw.dat'\nsample_rate = {RATE}\n")
    rows = "".join(f"{unit}\t{'good' if unit % 2 else 'mua'}\n" for unit in range(UNITS))
    (path / "cluster_group.tsv").write_text("cluster_id\tgroup\n" + rows)
    return path


def _write_sorting(frames: np.ndarray, owner: np.ndarray, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spikeinterface.core as sc

        sorting = sc.NumpySorting.from_samples_and_labels([frames], [owner], RATE, list(range(UNITS)))
        sorting.set_property("group", np.array(["good", "mua"] * (UNITS // 2)))
        sorting.save(folder=path)
    return path


# --- damage to bytes -------------------------------------------------------------------------------------------------


def damage_bytes(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """The content cut, with bits turned over, or with a piece blank, random, doubled, moved or missing."""
    size = len(content)
    if not size:
        return rng.bytes(int(rng.integers(1, 100))), "filled"
    a, b = sorted(int(i) for i in rng.integers(0, size + 1, 2))
    match rng.choice(["cut", "bits", "bits", "bits", "blank", "noise", "doubled", "missing", "moved", "longer"]):
        case "cut":
            return content[:a], f"cut at {a} of {size}"
        case "bits":
            changed = bytearray(content)
            # Most structure lies in the beginning.
            reach = size if rng.random() < 0.5 else min(size, 4096)
            places = [int(i) for i in rng.integers(0, reach, int(rng.choice([1, 1, 2, 8, 64])))]
            for place in places:
                changed[place] ^= 1 << int(rng.integers(8))
            return bytes(changed), f"bits turned at {places[:8]}"
        case "blank":
            b = min(b, a + 256)
            value = bytes([int(rng.choice([0, 255, 32]))])
            return content[:a] + value * (b - a) + content[b:], f"{a} to {b} are {value!r}"
        case "noise":
            b = min(b, a + 64)
            return content[:a] + rng.bytes(b - a) + content[b:], f"{a} to {b} are noise"
        case "doubled":
            return content[:b] + content[a:b] + content[b:], f"{a} to {b} twice"
        case "missing":
            b = min(b, a + 512)
            return content[:a] + content[b:], f"{a} to {b} missing"
        case "moved":
            return content[b:] + content[a:b] + content[:a], f"turned about {a} and {b}"
        case _:
            return content + rng.bytes(100), "100 bytes more"


def odd_value(rng: Rng, depth: int = 0) -> Any:
    """A value that JSON can hold and nobody expects."""
    values: list[Any] = [
        None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "0",
        "nan", "x" * 3000, "\x1b[31mred\x07", "a\nb", "</script>", "../../../etc/passwd", "\ud800", "é\u2028", [], {},
        [[]], [None], {"": None}, [1, "a", None], "|O", "<f8", "<U999999999", {"id": "pickle"}, {"id": "zlib"},
    ]  # fmt: skip
    if depth < 2 and rng.random() < 0.1:
        return [odd_value(rng, depth + 1) for _ in range(int(rng.integers(1, 4)))]
    return values[int(rng.integers(len(values)))]


def damage_json(text: str, rng: Rng) -> tuple[str, str]:
    """The same JSON with a value replaced, a key or an item missing or doubled, or nested without end."""
    value = json.loads(text)
    if rng.random() < 0.03:
        return "[" * 100_000, "nested without end"
    places: list[tuple[Any, Any, str]] = []

    def walk(node: Any, path: str) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in pairs:
            places.append((node, key, f"{path}/{key}"))
            walk(child, f"{path}/{key}")

    walk(value, "")
    if not places or rng.random() < 0.05:
        new = odd_value(rng)
        return json.dumps(new), f"all of it is {new!r:.40}"
    node, key, path = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        del node[key]
        return json.dumps(value), f"{path} missing"
    node[key] = new = odd_value(rng)
    return json.dumps(value), f"{path} is {new!r:.40}"


def odd_array(rng: Rng, like: np.ndarray | None = None) -> np.ndarray:
    """An array of a type, a shape or values that nobody expects."""
    n = int(rng.choice([0, 1, 2, UNITS, 100])) if like is None else len(np.atleast_1d(like))
    arrays: list[Callable[[], np.ndarray]] = [
        lambda: np.full(n, np.nan),
        lambda: np.full(n, np.inf),
        lambda: np.full(n, 1e300),
        lambda: -np.arange(n, dtype=float),
        lambda: np.zeros(n, dtype=np.int8),
        lambda: np.full(n, np.iinfo(np.int64).min),
        lambda: np.full(n, np.iinfo(np.uint64).max, dtype=np.uint64),
        lambda: np.ones(n, dtype=bool),
        lambda: np.full(n, 1 + 2j),
        lambda: np.full(n, "text"),
        lambda: np.full(n, b"bytes"),
        lambda: np.zeros(n, dtype=[("a", "<i4"), ("b", "<f8")]),
        lambda: np.zeros(n, dtype="<M8[s]"),
        lambda: np.zeros(n, dtype=np.float16),
        lambda: np.zeros(n, dtype=">f8"),
        lambda: np.zeros(n, dtype="V7"),
        lambda: np.zeros((n, 3)),
        lambda: np.zeros((2, n, 2), dtype=np.int32),
        lambda: np.float64(3.0) * np.ones(()),
        lambda: np.zeros((0, 5)),
        lambda: rng.integers(0, 50, n + 1),
        lambda: rng.normal(size=max(0, n - 1)),
    ]
    return arrays[int(rng.integers(len(arrays)))]()


# --- damage to files, each by its own nature -------------------------------------------------------------------------


def damage_file(path: Path, rng: Rng) -> str:
    """Damage a file: as bytes, or as what its name says that it is."""
    content = path.read_bytes()
    if rng.random() < 0.5:
        if path.suffix == ".npy":
            return _odd_npy(path, rng)
        with contextlib.suppress(ValueError):
            text, damage = damage_json(content.decode(), rng)
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
            return f"{path.name}: {damage}"
    content, damage = damage_bytes(content, rng)
    path.write_bytes(content)
    return f"{path.name}: {damage}"


def damage_folder(path: Path, rng: Rng) -> str:
    """Damage a folder: one to three of its files are damaged, missing, empty, folders, or links that lead nowhere."""
    damage = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        if not files:
            break
        # Metadata and data alike, however many chunks there are.
        plain = [file for file in files if file.name.startswith(".z") or file.suffix]
        files = plain if plain and rng.random() < 0.6 else files
        file = files[int(rng.integers(len(files)))]
        name = file.relative_to(path).as_posix()
        match rng.choice(["damage"] * 8 + ["missing", "folder", "link", "empty"]):
            case "missing":
                file.unlink()
                damage.append(f"{name} missing")
            case "folder":
                file.unlink()
                file.mkdir()
                damage.append(f"{name} is a folder")
            case "link":
                file.unlink()
                file.symlink_to(file.name)
                damage.append(f"{name} leads to itself")
            case "empty":
                file.write_bytes(b"")
                damage.append(f"{name} empty")
            case _:
                damage.append(f"{name}: {damage_file(file, rng)}")
    return "; ".join(damage)


def _odd_npy(path: Path, rng: Rng) -> str:
    with contextlib.suppress(ValueError, OSError, EOFError, SyntaxError):
        like = np.load(path, allow_pickle=False)
        array = odd_array(rng, like)
        np.save(path, array)
        return f"{array.dtype} {array.shape}"
    content, damage = damage_bytes(path.read_bytes(), rng)
    path.write_bytes(content)
    return damage


def damage_npz(path: Path, rng: Rng) -> str:
    """Damage an archive: its bytes, those of a member, or a member's array; members missing or twice."""
    if rng.random() < 0.4:
        return damage_file(path, rng)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(members)[int(rng.integers(len(members)))]
    match rng.choice(["odd", "odd", "bytes", "missing", "renamed", "twice"]):
        case "odd":
            with contextlib.suppress(ValueError):
                like = np.load(io.BytesIO(members[name]), allow_pickle=False)
                buffer = io.BytesIO()
                np.save(buffer, odd_array(rng, like))
                members[name] = buffer.getvalue()
            damage = f"{name} odd"
        case "bytes":
            members[name], damage = damage_bytes(members[name], rng)
        case "missing":
            del members[name]
            damage = f"{name} missing"
        case "renamed":
            members[f"intervals/../{name}"] = members.pop(name)
            damage = f"{name} renamed"
        case _:
            damage = f"{name} twice"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for key, content in members.items():
            archive.writestr(key, content)
        if damage.endswith("twice"):
            archive.writestr(name, members[name][:50])
    return damage


def damage_hdf5(path: Path, rng: Rng) -> str:
    """Damage an HDF5 file: its bytes, or objects in it that are missing, of other types, or links."""
    if rng.random() < 0.45:
        return damage_file(path, rng)
    import h5py

    damage = []
    with h5py.File(path, "r+") as file:
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            names: list[str] = []
            file.visit(names.append)
            names = [name for name in names if not name.startswith("specifications") or rng.random() < 0.05]
            name = names[int(rng.integers(len(names)))]
            try:
                damage.append(f"{name}: {_damage_object(file, name, rng)}")
            except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
                damage.append(f"{name}: left as it is ({type(error).__name__})")
    return "; ".join(damage)


def _damage_object(file: Any, name: str, rng: Rng) -> str:
    import h5py

    item = file[name]
    attributes = dict(item.attrs)
    what = str(rng.choice(["attribute", "attribute", "missing", "link", "odd", "odd", "odd", "group", "huge"]))
    if what == "attribute" and attributes:
        key = sorted(attributes)[int(rng.integers(len(attributes)))]
        if rng.random() < 0.3:
            del item.attrs[key]
            return f"attribute {key} missing"
        value = [
            np.nan, -1, "", "odd", "\x1b[31m</script>", np.arange(3), np.array(["a", "b"], dtype="S"),
            np.array([], dtype=float), h5py.Empty("f8"), file.ref, np.zeros(2, dtype=[("a", "i4")]), True,
        ][int(rng.integers(12))]  # fmt: skip
        item.attrs[key] = value
        return f"attribute {key} is {value!r:.40}"
    if name in ("units", "processing", "intervals", "general") and rng.random() < 0.7:
        return "left as it is"
    data = isinstance(item, h5py.Dataset)
    like = item[()] if data and item.size < 10**6 else None
    del file[name]
    if what in ("missing", "attribute"):
        return "missing"
    if what == "link":
        file_name = str(rng.choice(["nowhere.h5", "/etc/passwd", file.filename]))
        place = str(rng.choice(["/nowhere", f"/{name}", "/", "/units"]))
        target = h5py.ExternalLink(file_name, place) if rng.random() < 0.4 else h5py.SoftLink(place)
        file[name] = target
        return f"a link ({type(target).__name__} {target.path})"
    if what == "group":
        made = file.create_group(name)
    elif what == "huge":
        made = file.create_dataset(name, shape=(10**12,), dtype="f8", chunks=(1024,))
    else:
        array = odd_array(rng, like if isinstance(like, np.ndarray) else None)
        array = array.astype(object) if array.dtype.kind == "U" else array
        kind = h5py.string_dtype() if array.dtype.kind == "O" else None
        made = file.create_dataset(name, data=array, dtype=kind)
    for key, value in attributes.items():
        with contextlib.suppress(Exception):  # what a copy of an attribute cannot hold is one more thing missing
            made.attrs[key] = value
    return f"{what} {getattr(made, 'dtype', '')} {getattr(made, 'shape', '')}"


def damage_tensors(path: Path, rng: Rng) -> str:
    """Damage a safetensors file: its bytes, its header, or, with a digest that fits, what it describes and holds."""
    if rng.random() < 0.4:
        return damage_file(path, rng)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.4:
        text, damage = damage_json(content[8 : 8 + length].decode(), rng)
        header = text.encode("utf-8", "surrogatepass")
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
        return f"header {damage}"
    import torch

    from ldmfilter.tensors import read_tensors, write_tensors

    tensors, description = read_tensors(path)
    damage = ""
    if rng.random() < 0.6:
        text, damage = damage_json(json.dumps(description), rng)
        with contextlib.suppress(RecursionError):
            description = json.loads(text)
    if not damage or rng.random() < 0.2:
        name = sorted(tensors)[int(rng.integers(len(tensors)))]
        value = tensors[name]
        floats = value.float() if not value.is_complex() else value.real.float()
        odd = [
            lambda: floats * torch.nan, lambda: floats * 0, lambda: floats * 1e30, lambda: floats[None],
            lambda: floats.flatten()[:1], lambda: floats.double(), lambda: floats.long(), lambda: torch.zeros(0),
        ]  # fmt: skip
        match int(rng.integers(len(odd) + 2)):
            case 0:
                del tensors[name]
            case 1:
                tensors[f"{name}.odd"] = tensors.pop(name)
            case n:
                tensors[name] = odd[n - 2]()
        damage += f" tensor {name} odd"
    write_tensors(path, tensors, description)
    return f"signed: {damage}"


def damage_run(path: Path, rng: Rng) -> str:
    """Damage a run folder: one of its files, and where that is the configuration, perhaps with the digest it needs."""
    name = str(rng.choice(["run.json", "config.toml", "checkpoint.safetensors", "model.safetensors"]))
    if name.endswith("safetensors"):
        return f"{name}: {damage_tensors(path / name, rng)}"
    if name == "config.toml":
        damage = damage_toml(path / name, rng)
        if rng.random() < 0.7:
            import hashlib

            about = json.loads((path / "run.json").read_text())
            about["config_sha256"] = hashlib.sha256((path / name).read_bytes()).hexdigest()
            (path / "run.json").write_text(json.dumps(about))
            damage += ", signed"
        return damage
    return damage_file(path / name, rng)


def damage_pair(path: Path, rng: Rng) -> str:
    """Damage the session that states are to be written into; mostly, the states call it the one they are of."""
    damage = damage_hdf5(path / "session.nwb", rng)
    if rng.random() < 0.9:
        sign_pair(path)
        damage += ", signed"
    return damage


def sign_pair(path: Path) -> None:
    """Make states those of the session beside them."""
    import hashlib

    import zarr

    digest = hashlib.sha256((path / "session.nwb").read_bytes()).hexdigest()
    zarr.open_group(str(path / "latents.zarr"), mode="r+").attrs["source_checksum"] = f"sha256:{digest}"
    zarr.consolidate_metadata(str(path / "latents.zarr"))


def damage_toml(path: Path, rng: Rng) -> str:
    """Damage a configuration: its bytes, or options of other types, unknown ones, tables that are none."""
    if rng.random() < 0.3:
        return damage_file(path, rng)
    import tomllib

    import tomli_w

    from ldmfilter.config import DataConfig, FilterConfig

    content = tomllib.loads(path.read_text())
    fields = [("data", name) for name in DataConfig.__dataclass_fields__]
    fields += [("filter", name) for name in FilterConfig.__dataclass_fields__]
    damage = ""
    while True:
        table, name = fields[int(rng.integers(len(fields)))]
        value = odd_value(rng)
        if rng.random() < 0.1:
            content[table] = value
        elif rng.random() < 0.1:
            content[table][str(value)[:20]] = 1
        else:
            content[table][name] = value
        try:
            text = tomli_w.dumps(content)
            text.encode()
        except (TypeError, ValueError, AttributeError):
            content = tomllib.loads(path.read_text())
            continue
        path.write_text(text)
        damage = f"{table}.{name} is {value!r:.40}"
        return damage


def damage_sweep(path: Path, rng: Rng) -> str:
    """Damage a sweep folder: what it was asked, its draws, or a run."""
    name = str(rng.choice(["sweep.json", "sweep.json", "draws.jsonl", "000/outcome.json", "000"]))
    return damage_run(path / name, rng) if name == "000" else damage_file(path / name, rng)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is damaged, and the commands that read it (IN, RUN and ZARR are put in)."""

    damage: Callable[[Path, Rng], str]
    commands: tuple[str, ...]


_SESSION = ("inspect IN", "inspect IN --json", "decode IN --run RUN --out out.zarr", f"train IN --run out {TRAIN}")
KINDS: dict[str, Kind] = {
    "nwb": Kind(damage_hdf5, _SESSION),
    "nwb-zarr": Kind(damage_folder, _SESSION),
    "zarr": Kind(damage_folder, _SESSION),
    "phy": Kind(damage_folder, _SESSION),
    "sorting": Kind(damage_folder, _SESSION),
    "pynapple": Kind(damage_npz, _SESSION),
    "netcdf": Kind(damage_hdf5, _SESSION),
    "netcdf3": Kind(damage_file, _SESSION),
    "counts-zarr": Kind(damage_folder, _SESSION),
    "npz": Kind(damage_npz, _SESSION),
    "npy": Kind(damage_file, ("inspect IN --bin-size 0.1", f"train IN --bin-size 0.1 --run out {TRAIN}")),
    "toml": Kind(damage_toml, ("train ZARR --run out --config IN --max-steps 10 --batch-size 4",)),
    "model": Kind(
        lambda path, rng: damage_tensors(path / "model.safetensors", rng),
        ("decode --run IN --out out.zarr", "decode --run IN --smooth --out out.zarr", "check IN"),
    ),
    "run": Kind(
        damage_run,
        (
            "train --resume --run IN",
            "decode --run IN --out out.zarr",
            "check IN",
            "report IN",
            "export IN --to csv --out out.csv",
        ),
    ),
    "stream": Kind(damage_file, ("stream --run RUN",)),
    "sweep": Kind(damage_sweep, ("sweep --resume IN",)),
    "latents": Kind(
        damage_folder,
        (
            "export IN --to csv --out out.csv",
            "export IN --to netcdf --out out.nc",
            "export IN --to parquet --out out.parquet",
            "export IN --to pynapple --out out",
            "decode --run RUN --out IN --overwrite",
        ),
    ),
    "export": Kind(damage_pair, ("export IN/latents.zarr --to nwb --session IN/session.nwb --out out.nwb",)),
}


# --- workers ---------------------------------------------------------------------------------------------------------


class Worker:
    """A process that runs commands one after the other."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, words: Sequence[str], cwd: Path, stdin: Path | None = None) -> tuple[int, str, str]:
        """Exit code, or minus the signal that ended it; stdout and stderr, C libraries' included."""
        if self._process is None:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzzing"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        printed = cwd.with_name(f"{cwd.name}.printed")
        printed.mkdir(exist_ok=True)
        asked = {"words": list(words), "cwd": str(cwd), "printed": str(printed), "stdin": str(stdin or os.devnull)}
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        answer = process.stdout.readline() if ready else b""
        if answer:
            code = int(answer)
        else:
            if not ready:
                process.kill()
            code = process.wait()
            code = code if code < 0 else -signal.SIGKILL
            self.close()
        out, err = ((printed / name).read_text(errors="replace") for name in ("out", "err"))
        shutil.rmtree(printed)
        return code, out, err

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            with process:  # which closes its pipes, and waits
                pass


def serve() -> None:
    """A worker's own side: a command a line comes in, its exit code goes out."""
    answers = os.fdopen(os.dup(1), "w")
    questions = os.fdopen(os.dup(0), "rb")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from ldmfilter_cli.main import app

    for line in questions:
        asked = json.loads(line)
        os.chdir(asked["cwd"])
        for number, name, flags in (
            (0, asked["stdin"], os.O_RDONLY),
            (1, f"{asked['printed']}/out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, f"{asked['printed']}/err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            opened = os.open(name, flags, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + PROCESSOR
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        code = 0
        try:
            app(asked["words"], prog_name="ldmfilter")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(f"{code}\n")
        answers.flush()


# --- judging ---------------------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def judge(words: Sequence[str], code: int, out: str, err: str, new: set[str], folder: Path) -> str:
    """The fault in how a command ended, or "". `new`: names that it left behind beside its input."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"endless ({name})" if name in ("SIGXCPU", "SIGKILL") else f"crashed ({name})"
    if "Traceback" in err or code not in (0, 1, 3):
        return f"exit code {code}"
    if _CONTROL.search(out) or _CONTROL.search(err):
        return "control characters"
    lines = err.splitlines()
    if code == 0:
        if lines and words[0] != "stream":
            return "chatter"
        if words[0] == "inspect" and "--json" in words:
            json.loads(out)
        return _output_fault(words, folder)
    if len(lines) != 1 or not lines[0].startswith("ldmfilter: "):
        return f"{len(lines)} lines"
    if code == 1 and not lines[0].startswith(("ldmfilter: training diverged", "ldmfilter: training collapsed")):
        return "a failure of ours"
    if len(lines[0]) > LONGEST:
        return f"a line of {len(lines[0])} letters"
    if code == 3 and new:
        return f"left behind {', '.join(sorted(new))}"
    return ""


def _output_fault(words: Sequence[str], folder: Path) -> str:
    """The fault of an output that should be whole."""
    if words[0] == "export":
        return _export_fault(folder / words[words.index("--out") + 1])
    if words[0] == "decode":
        import xarray as xr

        store = folder / words[words.index("--out") + 1]
        with xr.open_zarr(store, chunks=None) as latents:
            mean = latents["filtered_mean"].to_numpy()
            if not mean.size or not np.isfinite(mean).all():
                return "states that are not finite"
    return ""


def _export_fault(path: Path) -> str:
    """The fault of an exported file: it cannot be read, or holds no bin."""
    import h5py
    import pandas as pd
    import xarray as xr

    match path.suffix:
        case ".csv":
            bins = len(pd.read_csv(path))
        case ".parquet":
            bins = len(pd.read_parquet(path))
        case ".nc":
            with xr.open_dataset(path, engine="h5netcdf") as latents:
                bins = latents.load().sizes["time"]
        case ".nwb":
            with h5py.File(path, "r") as file:
                bins = len(file["processing/ldmfilter/filtered_mean/data"])
        case _:
            with np.load(path / "filtered_mean.npz") as states:
                bins = len(states["t"])
    return "" if bins else "no bin in what was exported"


def put(command: str, places: dict[str, str]) -> list[str]:
    """The words of a command, with paths in the places of IN, RUN and ZARR, or of what they begin with."""
    parts = [word.partition("/") for word in command.split()]
    return [places.get(first, first) + slash + rest for first, slash, rest in parts]


def run_case(worker: Worker, seeds: dict[str, Path], kind: str, number: int, seed: int, folder: Path) -> Case:
    """Damage a copy of a kind's file, run a command on it, and judge. The folder is made, and is left."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    folder.mkdir(parents=True)
    source = seeds[kind]
    path = folder / source.name
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copy(source, path)
    damage = KINDS[kind].damage(path, rng)
    commands = KINDS[kind].commands
    places = {"IN": path.name, "RUN": str(seeds["run"]), "ZARR": str(seeds["zarr"])}
    # The first command is the quickest, and sees most.
    chosen = commands[0] if len(commands) > 2 and rng.random() < 0.4 else commands[int(rng.integers(len(commands)))]
    words = tuple(put(chosen, places))
    before = {item.name for item in folder.iterdir()}
    code, out, err = worker.run((*words, "--quiet"), folder, path if kind == "stream" else None)
    new = {item.name for item in folder.iterdir()} - before
    return Case(kind, number, damage, words, folder, code, out, err, judge(words, code, out, err, new, folder))


def run_cases(
    cases: Sequence[tuple[str, int]], seed: int, folder: Path, seeds: dict[str, Path] | None = None
) -> Iterator[Case]:
    """Run many cases, (kind, number), one after the other; the folders of those without a fault are removed."""
    worker = Worker()
    try:
        if seeds is None:
            seeds = write_seeds(folder / "seeds")
            write_run_seeds(seeds, worker.run)
        for kind, number in cases:
            case = run_case(worker, seeds, kind, number, seed, folder / f"{kind}-{number}")
            if not case.fault:
                shutil.rmtree(case.folder)
            yield case
    finally:
        worker.close()


if __name__ == "__main__":
    serve()
