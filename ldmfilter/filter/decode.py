"""A fitted filter and counts to labelled states: the dataset that `latents.zarr` holds."""

from __future__ import annotations

import copy
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from scipy.special import ndtri
from torch import Tensor

from ldmfilter.config import settings
from ldmfilter.errors import InputError
from ldmfilter.files import replacing
from ldmfilter.filter.kalman import LinearGaussian, filter, smooth
from ldmfilter.filter.linalg import one_thread
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from ldmfilter.data.session import Session
    from ldmfilter.filter.model import LDMFilter

TIME_CHUNK = 16_384  # bins in a chunk of the store


def zarr_version() -> int:
    """Major version of the installed zarr: 2 wants consolidated metadata, 3 has no standard for it."""
    return int(version("zarr").split(".")[0])


def decode(model: LDMFilter, counts: xr.DataArray, ci: float = 0.95, smoothing: bool = False) -> xr.Dataset:
    """Filter counts into states, causally, and smooth them where asked.

    Args:
        model: a fitted filter.
        counts: (time, unit) from a session with the model's units, in bins of the model's size.
        ci: level of the intervals, between 0 and 1: filtered mean -+ the normal quantile times the square root
            of the filtered covariance's diagonal.
        smoothing: add each bin's state given its whole segment.

    Returns:
        Dataset with dims time, state, state_2, latent, unit, bound, as float32; `time` holds bin centres (s).
        predicted_* is t|t-1, filtered_* is t|t, smoothed_* is t|T; `innovation` is NaN in bins not observed.

    Raises:
        InputError: other units, another bin size, no bins, or a level outside (0, 1).
    """
    _check(model, counts, ci)
    segment = np.asarray(counts["segment"])
    observed = np.asarray(counts["observed"])
    with torch.no_grad():
        z = model.network_.encode(_as_float(counts)).double()
        dynamics = _double(model)
        starts = torch.from_numpy(np.diff(segment, prepend=segment[0] - 1) != 0)
        with one_thread():
            result = filter(dynamics, z, torch.from_numpy(observed), starts)
            smoothed = smooth(dynamics, result, starts) if smoothing else None

    def array(value: Tensor) -> np.ndarray:
        return value.numpy().astype(np.float32)

    mean, cov = array(result.filtered_mean), array(result.filtered_cov)
    half = float(ndtri(0.5 + 0.5 * ci)) * np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    state, latent = np.arange(mean.shape[1]), np.arange(model.latent_dim)
    coords = {
        "time": (
            "time",
            np.asarray(counts["time"], dtype=np.float64),
            {"units": "s", "long_name": "bin centre"},
        ),
        "state": state,
        "state_2": state,
        "latent": latent,
        "latent_2": latent,
        "unit": model.unit_ids_,
        "bound": np.asarray(["lower", "upper"]),
        "segment": ("time", segment.astype(np.int32)),
    }
    if "interval" in counts.coords:
        coords["interval"] = ("time", np.asarray(counts["interval"]).astype(np.str_))
    variables = {
        "filtered_mean": (("time", "state"), mean, {"time_index": "t|t"}),
        "filtered_cov": (("time", "state", "state_2"), cov, {"time_index": "t|t"}),
        "predicted_mean": (("time", "state"), array(result.predicted_mean), {"time_index": "t|t-1"}),
        "predicted_cov": (("time", "state", "state_2"), array(result.predicted_cov), {"time_index": "t|t-1"}),
        "ci": (
            ("time", "state", "bound"),
            np.stack([mean - half, mean + half], -1).astype(np.float32),
            {"level": ci, "of": "filtered_mean"},
        ),
        "innovation": (("time", "latent"), array(result.innovation), {"time_index": "t, given t-1"}),
        "innovation_cov": (
            ("time", "latent", "latent_2"), array(result.innovation_cov), {"time_index": "t, given t-1"},
        ),
        "observed": ("time", observed),
    }  # fmt: skip
    if smoothed is not None:
        variables["smoothed_mean"] = (("time", "state"), array(smoothed.smoothed_mean), {"time_index": "t|T"})
        variables["smoothed_cov"] = (
            ("time", "state", "state_2"), array(smoothed.smoothed_cov), {"time_index": "t|T"},
        )  # fmt: skip
    return xr.Dataset(variables, coords, _attributes(model, counts, ci))


def _check(model: LDMFilter, counts: xr.DataArray, ci: float) -> None:
    where = counts.attrs.get("path", "counts")
    if not 0 < ci < 1:
        raise InputError(f"ci is {ci}; it must be a level between 0 and 1, as 0.95")
    ids, expected = counts["unit"].to_numpy().tolist(), model.unit_ids_.tolist()
    if ids != expected:
        raise InputError(_other_units(where, ids, expected))
    bin_size = float(counts.attrs["bin_size"])
    if not np.isclose(bin_size, model.bin_size_, rtol=1e-9):
        raise InputError(
            f"{where}: bins of {bin_size:g} s, but the model was trained on {model.bin_size_:g} s; use those"
        )
    if counts.sizes["time"] == 0:
        raise InputError(f"{where}: no bins to decode; choose a longer span")


def _other_units(where: str, ids: list, expected: list) -> str:
    missing = [u for u in expected if u not in set(ids)]
    extra = [u for u in ids if u not in set(expected)]
    what = (
        f"it lacks {_listed(missing)} and has {_listed(extra)} besides" if missing or extra else "their order differs"
    )
    return (
        f"{where}: its {len(ids)} units are not the {len(expected)} that the model was trained on: {what}; "
        "decode a session with the same units or train on this one"
    )


def _listed(items: list, most: int = 10) -> str:
    if not items:
        return "none"
    shown = ", ".join(str(i) for i in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def _as_float(counts: xr.DataArray) -> Tensor:
    x = torch.from_numpy(counts.to_numpy().astype(np.float32))
    if "unit_observed" in counts.coords:
        x.masked_fill_(~torch.from_numpy(counts["unit_observed"].to_numpy().copy()), torch.nan)
    return x


def _double(model: LDMFilter) -> LinearGaussian:
    """The filter's parameters in float64, made from the raw ones in float64."""
    return copy.deepcopy(model.network_.dynamics).double()()


def _attributes(model: LDMFilter, counts: xr.DataArray, ci: float) -> dict[str, str | float | int]:
    source = {f"source_{k}": str(counts.attrs.get(k, "")) for k in ("path", "identifier", "checksum")}
    return {
        "ldmfilter_version": __version__,
        "model_id": model.model_id_,
        "config": json.dumps(settings(model)),
        "seed": model.seed,
        **source,
        "session_id": str(counts.attrs.get("session_id", "")),
        "session_start_time": str(counts.attrs.get("session_start_time", "")),
        "trained_on": model.source_.get("checksum", ""),
        "bin_size": float(counts.attrs["bin_size"]),
        "ci_level": ci,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def select_model_units(session: Session, model: LDMFilter, session_unit_ids: list) -> Session:
    """The session with the model's units, in the model's order.

    A model of some of a session's units decodes sessions that have just these, or all those of the session
    that it was trained on: ids such as 0, 1, 2 alone do not show that two sessions share their units.

    Raises:
        InputError: the session has other units; names the difference.
    """
    ids, wanted = session.units["unit"].to_numpy().tolist(), model.unit_ids_.tolist()
    if ids in (wanted, session_unit_ids) or sorted(map(str, ids)) == sorted(map(str, session_unit_ids)):
        return session.select_units(np.asarray(wanted))
    raise InputError(_other_units(session.source.path, ids, session_unit_ids))


def write_latents(latents: xr.Dataset, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a decoded dataset as a zarr store, chunked along time: whole or not at all.

    Raises:
        InputError: the store exists and `overwrite` is False, or the disk refuses.
    """
    chunks = {"time": min(latents.sizes["time"], TIME_CHUNK)}
    encoding = {
        str(name): {"chunks": tuple(chunks.get(str(dim), size) for dim, size in variable.sizes.items())}
        for name, variable in latents.variables.items()
        if variable.ndim
    }
    with replacing(path, overwrite) as scratch:
        latents.to_zarr(scratch, mode="w", encoding=encoding, consolidated=zarr_version() < 3)
