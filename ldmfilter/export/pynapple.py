"""States as a folder of pynapple's .npz files, in the layout that its `save` methods describe."""

import json
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import xarray as xr

from ldmfilter.errors import InputError
from ldmfilter.export.latents import Follow, attributes, blocks, joined, segments, series
from ldmfilter.files import replacing

FORMAT = "ldmfilter-pynapple"
ABOUT = "about.json"
_CLASSES = ("Tsd", "TsdFrame", "TsdTensor")


def write_pynapple(latents: xr.Dataset, out: Path, overwrite: bool, follow: Follow = iter) -> Path:
    """As `ldmfilter.export.to_pynapple`."""
    stretches = segments(latents)
    start, stop = joined(stretches)
    time = latents["time"].to_numpy()
    held = series(latents)
    with replacing(out, overwrite) as folder:
        folder.mkdir()
        with zipfile.ZipFile(folder / "segments.npz", "w") as file:
            _put(file, "start", stretches["start"].to_numpy())
            _put(file, "end", stretches["stop"].to_numpy())
            _put(file, "type", np.asarray(["IntervalSet"]))
        with ExitStack() as stack:
            streams = []
            for one in held:
                values = latents[one.variable].isel(one.at)
                file = stack.enter_context(zipfile.ZipFile(folder / f"{one.name}.npz", "w"))
                _put(file, "t", time)
                _put(file, "start", start)
                _put(file, "end", stop)
                _put(file, "type", np.asarray([_CLASSES[min(values.ndim, 3) - 1]]))
                if values.ndim == 2:
                    _put(file, "columns", np.asarray([f"{values.dims[1]}_{i}" for i in range(values.shape[1])]))
                dtype = np.dtype(np.uint8) if values.dtype.kind == "b" else values.dtype
                streams.append(stack.enter_context(_begun(file, "d", values.shape, dtype)))
            for _, part in follow(blocks(latents, sorted({one.variable for one in held}))):
                for one, stream in zip(held, streams, strict=True):
                    stream.write(np.ascontiguousarray(one.of(part)).tobytes())
        about = {
            "format": FORMAT,
            "attributes": attributes(latents),
            "units": {one.name: one.unit for one in held},
            "segments": stretches.rename(columns={"stop": "end"}).to_dict("records"),
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return out


def check_folder(path: Path) -> None:
    """Refuse to replace what lies at a path. Raises InputError unless it is a folder of states for pynapple."""
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        ours = isinstance(about, dict) and about.get("format") == FORMAT
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise InputError(f"{path}: is no folder of states for pynapple and is not replaced; choose another name")


def _put(file: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    with _begun(file, name, values.shape, values.dtype) as stream:
        stream.write(np.ascontiguousarray(values).tobytes())


def _begun(file: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype) -> IO[bytes]:
    """An array of an .npz file, to which its values are still to be written."""
    stream = file.open(f"{name}.npy", "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream
