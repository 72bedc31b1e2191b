"""States as a folder of pynapple's .npz files, in the layout that its `save` methods describe."""

from __future__ import annotations

import json
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import xarray as xr

from ldmfilter.export.latents import ABOUT, PYNAPPLE, Follow, attributes, blocks, checked, clean, segments, series
from ldmfilter.files import AnyPath, replacing

_CLASSES = ("Tsd", "TsdFrame", "TsdTensor")


def to_pynapple(latents: xr.Dataset, out: AnyPath, overwrite: bool = False, follow: Follow = iter) -> Path:
    """Write a folder of .npz files for `pynapple.load_folder` or `load_file`.

    A TsdFrame with named columns for each (time, state) or (time, unit) variable and bound, a TsdTensor for each
    covariance, a Tsd for what has one value a bin, and the segments as an IntervalSet. `about.json` holds attributes,
    units and the segments' labels. No file holds a pickle.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    out : str or os.PathLike
        Folder.
    overwrite : bool
        Replace what is there.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        `out` exists or is a folder of something else, or the disk refuses.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = ldmfilter.export.to_pynapple(latents, f"{folder}/latents")
    ...     (path / "filtered_mean.npz").exists()
    True
    """
    path, stretches, held = checked("pynapple", latents, out, overwrite), segments(latents), series(latents)
    start, stop = stretches["start"].to_numpy(), stretches["stop"].to_numpy()
    apart = start[1:] > stop[:-1] + 1e-6  # of the time supports, which cannot touch
    support = {"start": start[np.append(True, apart)], "end": stop[np.append(apart, True)]}
    with replacing(path, overwrite) as folder, ExitStack() as stack:
        folder.mkdir()
        np.savez(folder / "segments.npz", start=start, end=stop, type=np.asarray(["IntervalSet"]))
        streams = []
        for one in held:
            values, file = one.of(latents), folder / f"{one.name}.npz"
            dtype = np.dtype(np.uint8) if values.dtype.kind == "b" else values.dtype
            about = support | {"type": np.asarray([_CLASSES[min(values.ndim, 3) - 1]])}
            if values.ndim == 2:
                dim = values.dims[1]
                about["columns"] = np.asarray([f"{dim}_{clean(label)}" for label in values[dim].to_numpy().tolist()])
            np.savez(file, t=latents["time"].to_numpy(), **about)
            # The values follow in blocks.
            archive = stack.enter_context(zipfile.ZipFile(file, "a"))
            stream = stack.enter_context(archive.open("d.npy", "w", force_zip64=True))
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": values.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            streams.append(stream)
        for _, part in follow(blocks(latents, held)):
            for one, stream in zip(held, streams, strict=True):
                stream.write(one.of(part).to_numpy().tobytes())
        content = {
            "format": PYNAPPLE,
            "attributes": attributes(latents),
            "units": {one.name: one.unit for one in held},
            "segments": stretches.rename(columns={"stop": "end"}).to_dict("records"),
        }
        (folder / ABOUT).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path
