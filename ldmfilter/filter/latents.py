"""The schema of latent states and of their store: `latents.zarr`, written and read here alone. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.data.untrusted.damage import damage
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath, check_target, replacing
from ldmfilter.version import __version__

FORMAT = "ldmfilter-latents"
ALIGNED = "ldmfilter-aligned-latents"  # of states in trials, as `filter.aligned` makes them
TIME_CHUNK = 16_384  # bins in a chunk of a store

_TABLE: dict[str, tuple[str, dict[str, str]]] = {
    "time": ("time", {"units": "s", "long_name": "bin centre"}),
    "segment": ("time", {}),
    "interval": ("time", {}),
    "filtered_mean": ("time state", {"time_index": "t|t"}),
    "filtered_cov": ("time state state_2", {"time_index": "t|t"}),
    "predicted_mean": ("time state", {"time_index": "t|t-1"}),
    "predicted_cov": ("time state state_2", {"time_index": "t|t-1"}),
    "ci": ("time state bound", {"of": "filtered_mean"}),
    "innovation": ("time latent", {"time_index": "t, given t-1"}),
    "innovation_cov": ("time latent latent_2", {"time_index": "t, given t-1"}),
    "observed": ("time", {}),
    "trained": ("time", {"long_name": "whether the model was trained on the bin"}),
    "smoothed_mean": ("time state", {"time_index": "t|T"}),
    "smoothed_cov": ("time state state_2", {"time_index": "t|T"}),
    "lagged_mean": ("time state", {"time_index": "t|t+lag"}),
    "lagged_cov": ("time state state_2", {"time_index": "t|t+lag"}),
    "lagged_ci": ("time state bound", {"of": "lagged_mean"}),
    "dynamics": ("state", {"long_name": "slow or fast, of a filter of both"}),
    "ahead": ("ahead", {"units": "s", "long_name": "from `time`, when the forecast is made, to when it is for"}),
    "ahead_mean": ("ahead time state", {"time_index": "t+ahead|t"}),
    "ahead_cov": ("ahead time state state_2", {"time_index": "t+ahead|t"}),
    "ahead_ci": ("ahead time state bound", {"of": "ahead_mean"}),
    "rate": ("time unit", {"unit": "Hz", "time_index": "t|t"}),
    "rate_ci": ("time unit bound", {"unit": "Hz", "of": "rate"}),
    "rate_ahead": ("ahead time unit", {"unit": "Hz", "time_index": "t+ahead|t"}),
    "rate_ahead_ci": ("ahead time unit bound", {"unit": "Hz", "of": "rate_ahead"}),
}
#: Variables: their dims, and attributes. Time indices: t|t-1 predicted, t|t filtered, t|T smoothed.
VARIABLES = {name: (tuple(dims.split()), about) for name, (dims, about) in _TABLE.items()}
#: Every store has these.
REQUIRED = ("time", "segment", "observed", "filtered_mean", "filtered_cov", "ci")
# Names of variables become names of files, columns and objects.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")


def make_latents(values: Mapping[str, np.ndarray], unit_ids: np.ndarray, attributes: Mapping[str, Any]) -> xr.Dataset:
    """States as a labelled dataset.

    Args:
        values: by the names of `VARIABLES`, with their dims.
        unit_ids: (unit,) ids of the model's units.
        attributes: of the dataset; `ci_level` becomes one of all intervals too, and `lag` of states with a lag.
    """
    state, latent = (np.arange(values[name].shape[1]) for name in ("filtered_mean", "innovation"))
    coords: dict[str, Any] = {"state": state, "state_2": state, "latent": latent, "latent_2": latent}
    coords |= {"unit": unit_ids, "bound": np.asarray(["lower", "upper"])}
    variables = {name: (dims, values[name], about) for name, (dims, about) in VARIABLES.items() if name in values}
    own = ("time", "segment", "interval", "ahead", "dynamics")
    coords |= {name: variables.pop(name) for name in own if name in variables}
    latents = xr.Dataset(variables, coords, attributes)
    for name in latents.data_vars:
        if "bound" in latents[name].dims:
            latents[name].attrs = {"level": attributes["ci_level"], **latents[name].attrs}
        if str(name).startswith("lagged_"):
            latents[name].attrs["lag"] = attributes["lag"]
    return latents


def write_latents(latents: xr.Dataset | Iterable[xr.Dataset], path: AnyPath, overwrite: bool = False) -> None:
    """Write a decoded dataset, or its pieces one after the other, as a zarr store chunked along time, or along trials
    where it has some: whole or not at all.

    Raises:
        InputError: the store exists and `overwrite` is False, or the disk refuses.
    """
    check_store(path, overwrite)
    with replacing(path, overwrite) as scratch:
        for i, piece in enumerate([latents] if isinstance(latents, xr.Dataset) else latents):
            if i:
                piece.to_zarr(scratch, append_dim="time", consolidated=True)
            else:
                # Format 2, which zarr 2 and 3 read: format 3 has no specification of fixed-width strings yet.
                piece.to_zarr(scratch, mode="w", encoding=_chunks(piece), consolidated=True, zarr_format=2)


def check_store(path: AnyPath, overwrite: bool) -> None:
    """Refuse a place where states cannot be written, before they are computed.

    Raises:
        InputError: as `check_target`; or something lies there that is no store of states, which is never replaced.
    """
    store = check_target(path, overwrite)
    if store.exists() and store_attributes(store).get("format") not in (FORMAT, ALIGNED):
        raise InputError(f"{path}: is no store of latent states and is not replaced; choose another name")


def is_made_from(path: AnyPath, model_id: str, checksum: str, options: str) -> bool:
    """True if a store holds the states that a model gives for the session of a checksum, by options as the attribute
    `decode_options` has them. A store that is there is whole."""
    made = {
        "ldmfilter_version": __version__,
        "model_id": model_id,
        "source_checksum": checksum,
        "decode_options": options,
    }
    found = store_attributes(path)
    return found.get("format") in (FORMAT, ALIGNED) and made.items() <= found.items()


def store_attributes(path: AnyPath) -> dict[str, Any]:
    """The attributes of a store, {} where there is none."""
    for name in (".zattrs", "zarr.json"):
        try:
            content = json.loads((Path(path) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            attributes = content.get("attributes") if name == "zarr.json" else content
            return attributes if isinstance(attributes, dict) else {}
    return {}


def open_latents(path: Path) -> xr.Dataset:
    """A store of states, its values read when they are used; as `ldmfilter.export.read_latents`.

    Raises:
        InputError: there is no such store, it is of another kind or damaged, or reading it would run code.
    """
    import zarr

    from ldmfilter.data.untrusted.npy import check_text
    from ldmfilter.data.untrusted.zarr_store import ZARR_3, check_arrays, checked

    if not path.exists():
        raise InputError(f"{path}: no such store; `ldmfilter decode --out {path}` makes one")
    if not (path / ".zgroup").exists():
        raise InputError(f"{path}: is no store of latent states; give one that `ldmfilter decode` made")
    with reading(path), checked():
        attributes = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
        if not isinstance(attributes, dict) or attributes.get("format") not in (FORMAT, ALIGNED):
            raise InputError(f"{path}: is no store of latent states; give one that `ldmfilter decode` made")
        check_arrays(path)
        # Consolidated metadata are a copy of what was just checked, or not.
        version: dict[str, Any] = {"zarr_format": 2} if ZARR_3 else {}
        group = zarr.open_group(str(path), mode="r", **version)
        for name, array in group.arrays():
            if array.dtype.kind == "U":
                check_text(array[...], f"{path}: {name}")
        latents = xr.open_zarr(path, chunks=None, consolidated=False, **version)
        latents.encoding["source"] = str(path)
        check_latents(latents)
        for name in ("time", "filtered_mean", "filtered_cov"):
            # What is not there reads as NaN or 0. These three are never all NaN or 0, so that zarr writes all chunks.
            lost = group[name].nchunks - group[name].nchunks_initialized
            if lost:
                raise InputError(f"{path}: {name}: {lost} chunks are missing; decode it again")
    return latents


def check_latents(latents: xr.Dataset) -> None:
    """Raises InputError for a dataset that is not one of states: variables missing, of other dims or odd names."""
    where = source_of(latents)
    if latents.attrs.get("format") == ALIGNED:
        raise InputError(
            f"{where}: holds states in trials (around {latents.attrs.get('align')}), where states in time are needed; "
            "decode without aligning"
        )
    for name, (dims, _) in VARIABLES.items():
        if name not in latents.variables:
            if name in REQUIRED:
                raise InputError(f"{where}: holds no {name}; give states as `ldmfilter decode` makes them")
        elif latents[name].dims != dims:
            raise InputError(f"{where}: {name} has dims {latents[name].dims}, not {dims}; decode it again")
    for key, variable in latents.variables.items():
        name = str(key)
        if not _NAME.fullmatch(name) or variable.dtype.kind not in "biufUT":
            raise InputError(f"{where}: {name!r} is no variable of latent states; decode it again")
    if latents.sizes["time"] == 0 or latents.sizes["bound"] != 2:
        raise InputError(f"{where}: holds no bins, or intervals without two bounds; decode it again")
    size = latents.attrs.get("bin_size")
    if not isinstance(size, int | float | np.number) or not 0 < size < np.inf:
        raise InputError(f"{where}: its bin_size is {size}; decode it again")
    time = latents["time"].to_numpy()
    if time.dtype.kind != "f" or not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise InputError(f"{where}: its time does not rise; decode it again")


def source_of(latents: xr.Dataset) -> str:
    """The name of states in a message: their store, if they have one."""
    return str(latents.encoding.get("source", "states"))


def reading(path: object) -> AbstractContextManager[None]:
    """Turn errors of a damaged store into one line. Raises: InputError."""
    from ldmfilter.data.untrusted.zarr_store import ZARR_DAMAGE

    return damage(path, "store of states", "decode it again", ZARR_DAMAGE)


def _chunks(latents: xr.Dataset) -> dict[str, dict[str, tuple[int, ...]]]:
    sizes = {"trial": max(TIME_CHUNK // latents.sizes["time"], 1)} if "trial" in latents.dims else {"time": TIME_CHUNK}
    return {
        str(name): {"chunks": tuple(sizes.get(str(dim), size) for dim, size in variable.sizes.items())}
        for name, variable in latents.variables.items()
        if variable.ndim
    }
