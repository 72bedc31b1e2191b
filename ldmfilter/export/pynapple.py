"""States as a folder of pynapple's .npz files, in the layout that its `save` methods describe."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from ldmfilter.errors import InputError
from ldmfilter.export.latents import attributes, blocks, check_latents, segments, source_of, unit_of
from ldmfilter.files import replacing

FORMAT = "ldmfilter-pynapple"
ABOUT = "about.json"
_CLASSES = ("Tsd", "TsdFrame", "TsdTensor")


def write_pynapple(latents: xr.Dataset, out: str | os.PathLike[str], overwrite: bool) -> Path:
    """As `ldmfilter.export.to_pynapple`."""
    check_latents(latents)
    if Path(out).exists() and overwrite:
        check_folder(Path(out))
    stretches = segments(latents)
    start, stop = stretches.joined()
    time = latents["time"].to_numpy()
    with replacing(out, overwrite) as folder:
        folder.mkdir()
        with zipfile.ZipFile(folder / "segments.npz", "w") as file:
            _put(file, "start", stretches.start)
            _put(file, "end", stretches.stop)
            _put(file, "label", np.asarray(stretches.label, dtype=np.str_))
            _put(file, "type", np.asarray(["IntervalSet"]))
        units = {}
        for name, variable, at in _series(latents):
            values = latents[variable].isel(at)
            units[name] = unit_of(latents, variable)
            with zipfile.ZipFile(folder / f"{name}.npz", "w") as file:
                _put(file, "t", time)
                _put(file, "start", start)
                _put(file, "end", stop)
                _put(file, "type", np.asarray([_CLASSES[min(values.ndim, 3) - 1]]))
                if values.ndim == 2:
                    _put(file, "columns", np.asarray([f"{values.dims[1]}_{i}" for i in range(values.shape[1])]))
                dtype = np.dtype(np.uint8) if values.dtype.kind == "b" else values.dtype
                pieces = (part[variable].isel(at).to_numpy() for _, part in blocks(latents, [variable]))
                _stream(file, "d", values.shape, dtype, pieces)
        about = {
            "format": FORMAT,
            "attributes": attributes(latents),
            "units": units,
            "segments": [list(one) for one in zip(stretches.start, stretches.stop, stretches.label, strict=True)],
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return Path(out)


def check_folder(path: Path) -> None:
    """Raises: InputError where something lies at the path that is no folder of states for pynapple."""
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        ours = isinstance(about, dict) and about.get("format") == FORMAT
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise InputError(f"{path}: is no folder of states for pynapple and is not replaced; choose another name")


def _series(latents: xr.Dataset) -> list[tuple[str, str, dict[str, int]]]:
    """For each file its name, the variable and the position of its `bound`; (time, bound) is two series."""
    result: list[tuple[str, str, dict[str, int]]] = [("segment", "segment", {})]
    for key, variable in latents.data_vars.items():
        name = str(key)
        if variable.dims[:1] != ("time",) or variable.dtype.kind in "UT":
            continue
        if "bound" in variable.dims:
            stem = "filtered" if name == "ci" else name.removesuffix("_ci")
            result += [(f"{stem}_{end}", name, {"bound": b}) for b, end in enumerate(("lower", "upper"))]
        else:
            result.append((name, name, {}))
    names = [name for name, _, _ in result]
    if len(set(names)) < len(names):
        raise InputError(f"{source_of(latents)}: two variables would go into one file; decode it again")
    return result


def _put(file: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    _stream(file, name, values.shape, values.dtype, [values])


def _stream(
    file: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, pieces: Iterable[np.ndarray]
) -> None:
    """An array of an .npz file, written one piece after the other."""
    with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for piece in pieces:
            stream.write(np.ascontiguousarray(piece, dtype=dtype).tobytes())
