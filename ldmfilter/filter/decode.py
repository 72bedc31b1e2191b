"""Decoding: a fitted filter and counts to labelled states (`filter.latents`)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from scipy.special import ndtri
from torch import Tensor

from ldmfilter.config import settings
from ldmfilter.data.counts import is_signal, seen_counts
from ldmfilter.data.frames import observed_frames, phases, seen_frames, sum_frames
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import outside
from ldmfilter.errors import InputError
from ldmfilter.filter.device import resolve_device
from ldmfilter.filter.forecast import Forecast, check_horizons, whole_lag
from ldmfilter.filter.kalman import LinearGaussian, filter, predict, smooth, smooth_lagged
from ldmfilter.filter.latents import FORMAT, TIME_CHUNK, make_latents
from ldmfilter.filter.linalg import NotPositiveDefiniteError, block_diagonal, one_thread
from ldmfilter.filter.network import together
from ldmfilter.progress import follow
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from ldmfilter.data.session import Session
    from ldmfilter.filter.model import LDMFilter
    from ldmfilter.filter.network import Network

BLOCK = 4 * TIME_CHUNK  # bins decoded at a time


def follow_blocks(
    blocks: Iterator[xr.Dataset], bins: int, tell: Callable[[int], None] | None = None
) -> Iterator[xr.Dataset]:
    """Pass blocks of states on and show how many bins are done, where there are several blocks; or `tell` them."""
    done = 0

    def behind(piece: xr.Dataset) -> int:
        nonlocal done
        done += piece.sizes["time"]
        return done

    if tell is not None:
        for piece in blocks:
            tell(behind(piece))
            yield piece
        return
    yield from follow(blocks, bins, behind, lambda _: "", "bin", quiet=bins <= BLOCK)


def decode_blocks(
    model: LDMFilter,
    counts: xr.DataArray,
    ci: float = 0.95,
    smoothing: bool = False,
    block: int = BLOCK,
    device: str = "cpu",
    ahead: float | Sequence[float] = (),
    lag: float | None = None,
) -> Iterator[xr.Dataset]:
    """Filter counts into states, causally, in pieces of `block` bins along time, so that memory does not grow with the
    recording; `LDMFilter.decode` says what each argument means (`smooth` is `smoothing` here) and what is in a piece.

    `counts` may be lazy, as xarray opens them from a zarr store: only the bins of one piece are read at a time.
    With smoothing the whole recording is one piece, because every bin needs its whole segment.

    Raises:
        InputError, TrainingError: as `LDMFilter.decode`.
    """
    _check(model, counts, ci)
    seconds = counts.sizes["time"] * model.bin_size_
    horizons, behind = check_horizons(ahead, seconds), None if lag is None else whole_lag(model, lag, seconds)
    states = [len(part.network_.linear_gaussian().A) for part in model.parts if part.network_.evidence_share]
    if states:  # covariances of each bin, which fill the memory
        block = min(block, max(256 // max(states) ** 2, 1) * TIME_CHUNK)
    each = [_decode_part(part, counts, ci, smoothing, block, device, horizons, behind) for part in model.parts]
    yield from (_beside(model, parts) if model.parts_ else parts[0] for parts in zip(*each, strict=True))


def _decode_part(
    model: LDMFilter,
    counts: xr.DataArray,
    ci: float,
    smoothing: bool,
    block: int,
    device: str,
    horizons: tuple[float, ...],
    behind: int | None,
) -> Iterator[xr.Dataset]:
    """The pieces of `decode_blocks` of a filter of one part; `behind` are the bins of the lag."""
    k = model.frame_bins_
    frames = None if behind is None else behind // k  # that fit into the lag, perhaps none
    after = k * (frames or 0)
    there = resolve_device(device)
    network = model.network_ if there == "cpu" else copy.deepcopy(model.network_).to(there)
    dynamics = network.linear_gaussian()
    forecast = Forecast.over(dynamics, model.sized_.states, horizons, k * model.bin_size_) if horizons else None
    block = counts.sizes["time"] if smoothing else block
    segment = np.asarray(counts["segment"])
    phase = phases(segment, k)
    series = [_Phase(dynamics, model.sized_.states, smoothing, frames, forecast) for _ in range(k)]
    for first in range(0, counts.sizes["time"], block):
        margin = min(first, k - 1)  # bins before the piece that its first frames reach back to
        last = min(first + block, counts.sizes["time"])
        part = counts.isel(time=slice(first - margin, last + after)).load()  # and bins after it, of the lag
        values: dict[str, np.ndarray] = {}
        with torch.no_grad(), one_thread(), sound(model, part):
            z, seen, evidence = _encode(network, part, k, there)
            for p, one in enumerate(series):
                those = np.flatnonzero(phase[first : last + after] == p)
                kept = int((those < last - first).sum())
                if kept:
                    own = margin + those
                    a = None if evidence is None else evidence[own]
                    found = one.states(z[own], seen[own], segment[first + those], kept, a)
                    for name, some in found.items():
                        whole = values.setdefault(name, np.empty((last - first, *some.shape[1:]), np.float32))
                        whole[those[:kept]] = some
        part = part.assign_coords(observed=("time", seen.numpy())).isel(time=slice(margin, margin + last - first))
        yield _dataset(model, part, ci, values, horizons, behind)


def _beside(model: LDMFilter, parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """States of several parts as those of one filter: side by side, and independent of each other given the spikes."""
    first = parts[0]
    values: dict[str, np.ndarray] = {}
    for name, variable in ((str(name), variable) for name, variable in first.variables.items()):
        each = [part[name].to_numpy() for part in parts]
        if "state_2" in variable.dims or "latent_2" in variable.dims:
            values[name] = block_diagonal(each)
        elif "state" in variable.dims or "latent" in variable.dims:
            values[name] = np.concatenate(each, variable.dims.index("state" if "state" in variable.dims else "latent"))
        elif name == "observed":
            values[name] = np.any(each, 0)
        else:
            values[name] = each[0]
    for name in ("state", "state_2", "latent", "latent_2", "bound", "unit"):
        values.pop(name)
    sizes = [part.sizes["state"] for part in parts]
    values["dynamics"] = np.repeat([part.kept_.dynamics for part in model.parts], sizes)
    return make_latents(values, model.unit_ids_, first.attrs | {"model_id": model.model_id_, "frame": model.frame_})


class _Phase:
    """The filter of one phase of a recording, which goes on from piece to piece.

    Args:
        dynamics: of the filter.
        states: that are handed out; those of refitted and of split dynamics have more behind them.
        smoothing, frames, forecast: what is asked for besides; `frames` are those of the lag, None without one.
    """

    def __init__(
        self, dynamics: LinearGaussian, states: int, smoothing: bool, frames: int | None, forecast: Forecast | None
    ):
        self._dynamics, self._n = dynamics, states
        self._smoothing, self._frames, self._forecast = smoothing, frames, forecast
        self._segment: int | None = None  # of the last bin of the piece before
        self._ahead: tuple[Tensor, Tensor] | None = None  # the state predicted from it

    def states(
        self, z: Tensor, observed: Tensor, segment: np.ndarray, bins: int, evidence: Tensor | None
    ) -> dict[str, np.ndarray]:
        """The states of the next bins, by the names of `latents.VARIABLES`, time first, where those after them are
        known too, for the lag.

        Raises: NotPositiveDefiniteError where they are not finite."""
        before = segment[0] - 1 if self._segment is None else self._segment
        starts = torch.from_numpy(np.diff(segment, prepend=before) != 0)
        found, n = filter(self._dynamics, z, observed, starts, self._ahead, evidence), self._n
        mean, tables, row = found.filtered_mean[:bins], found.covariances, found.row[:bins]
        self._segment = int(segment[bins - 1])
        self._ahead = predict(self._dynamics, mean[-1], tables.filtered[row[-1]].to(mean))
        if not all(bool(x.isfinite().all()) for x in (*self._ahead, mean, tables.filtered)):
            raise NotPositiveDefiniteError("not finite")

        def means(values: Tensor) -> np.ndarray:
            return values[:bins, :n].cpu().numpy()

        def covs(table: Tensor, row: Tensor) -> np.ndarray:
            return table[:, :n, :n].float()[row[:bins]].numpy()

        values = {
            "filtered_mean": means(mean),
            "filtered_cov": covs(tables.filtered, row),
            "predicted_mean": means(found.predicted_mean),
            "predicted_cov": covs(tables.predicted, row),
            "innovation": found.innovation[:bins].cpu().numpy(),
            "innovation_cov": tables.innovation.float()[row].numpy(),
        }
        if self._smoothing:
            smoothed = smooth(self._dynamics, found, starts)
            values["smoothed_mean"] = means(smoothed.smoothed_mean)
            values["smoothed_cov"] = covs(smoothed.covariances, smoothed.row)
        if self._frames is not None:
            lagged = smooth_lagged(self._dynamics, found, starts, self._frames)
            values["lagged_mean"] = means(lagged.smoothed_mean)
            values["lagged_cov"] = covs(lagged.covariances, lagged.row)
        if self._forecast is not None:
            ahead, cov = self._forecast(mean.cpu().numpy(), tables.filtered.numpy())
            values["ahead_mean"] = ahead.swapaxes(0, 1)
            values["ahead_cov"] = cov.astype(np.float32).swapaxes(0, 1)[row.numpy()]
        return values


@contextmanager
def sound(model: LDMFilter, counts: xr.DataArray) -> Iterator[None]:
    """Turn the errors of states that are not finite into one line. Raises: InputError."""
    try:
        yield
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:
        where = counts.attrs.get("path", "counts")
        raise InputError(
            f"{where}: its states under model {model.model_id_} are not finite, or do not vary; are the counts those "
            "that the model was trained on, or is it damaged? train again"
        ) from error


def _encode(network: Network, counts: xr.DataArray, k: int, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pseudo-observations of the frames of k bins that end with each bin, whether a frame is observed (time,), and its
    evidence (`Network.observe`); the hidden layers never hold more than some bins."""
    segment, observed = np.asarray(counts["segment"]), np.asarray(counts["observed"])
    own = seen_counts(counts)
    values = torch.from_numpy(sum_frames(own, segment, k))
    spikes = torch.from_numpy(seen_frames(own, segment, k)) if network.evidence_share else values
    pieces = zip(values.split(TIME_CHUNK), spikes.split(TIME_CHUNK), strict=True)
    z, evidence = together([network.observe(a.to(device), spikes=b.to(device)) for a, b in pieces])
    seen = observed_frames(observed, segment, k)
    # Of a frame seen by halves, no unit may have been observed in half of it.
    return z, torch.from_numpy(seen) & ~values.isnan().all(1), evidence


def _dataset(
    model: LDMFilter,
    counts: xr.DataArray,
    ci: float,
    values: dict[str, np.ndarray],
    horizons: tuple[float, ...],
    behind: int | None,
) -> xr.Dataset:
    """The states `values` of counts with intervals, and with what tells of the bins and of the model."""
    for name in ("ahead_mean", "ahead_cov") if horizons else ():
        values[name] = values[name].swapaxes(0, 1)
    for of, name in (("filtered", "ci"), ("lagged", "lagged_ci"), ("ahead", "ahead_ci")):
        if f"{of}_mean" in values:
            mean, cov = values[f"{of}_mean"], values[f"{of}_cov"]
            half = float(ndtri(0.5 + 0.5 * ci)) * np.sqrt(np.diagonal(cov, axis1=-2, axis2=-1))
            values[name] = np.stack([mean - half, mean + half], -1).astype(np.float32)
    values |= {
        "time": np.asarray(counts["time"], dtype=np.float64),
        "segment": np.asarray(counts["segment"]).astype(np.int32),
        "observed": np.asarray(counts["observed"]),
        "trained": _trained(model, counts),
    }
    if "interval" in counts.coords:
        values["interval"] = np.asarray(counts["interval"]).astype(np.str_)
    if horizons:
        values["ahead"] = np.asarray(horizons)
    source = {f"source_{k}": str(counts.attrs.get(k, "")) for k in ("path", "identifier", "checksum")}
    about = {
        "format": FORMAT,
        "ldmfilter_version": __version__,
        "model_id": model.model_id_,
        "config": json.dumps(settings(model)),
        "seed": model.seed,
        **source,
        "session_id": str(counts.attrs.get("session_id", "")),
        "session_start_time": str(counts.attrs.get("session_start_time", "")),
        "trained_on": model.source_.get("checksum", ""),
        "bin_size": float(counts.attrs["bin_size"]),
        "frame": model.frame_,
        "ci_level": ci,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return make_latents(
        values, model.unit_ids_, about | ({"lag": round(behind * model.bin_size_, 9)} if behind else {})
    )


def _trained(model: LDMFilter, counts: xr.DataArray) -> np.ndarray:
    """Mark the bins (time,) that the model was trained on: those of the same recording, by its bytes or its identifier,
    as a copy to which behaviour or states were added has other bytes."""
    checksum, identifier = (str(counts.attrs.get(key, "")) for key in ("checksum", "identifier"))
    copy = identifier and identifier == model.source_.get("identifier", "")
    if checksum != model.source_.get("checksum", "") and not copy:
        return np.zeros(counts.sizes["time"], dtype=bool)
    time = np.asarray(counts["time"], dtype=np.float64)
    return ~outside(time, model.trained_spans_, 0.49 * model.bin_size_)


def _check(model: LDMFilter, counts: xr.DataArray, ci: float) -> None:
    where = counts.attrs.get("path", "counts")
    check_level(ci)
    if is_signal(counts) != model.signal_:
        here, there = ("a signal", "spikes") if is_signal(counts) else ("spikes", "a signal")
        raise InputError(f"{where}: holds {here}, but the model was trained on {there}; give the same")
    ids, expected = counts["unit"].to_numpy().tolist(), model.unit_ids_.tolist()
    if ids != expected:
        raise InputError(_other_units(where, ids, expected))
    model._check_bins(counts)
    if counts.sizes["time"] == 0:
        raise InputError(f"{where}: no bins to decode; choose a longer span")


def check_level(ci: float) -> None:
    """Raises: InputError for a level of intervals outside (0, 1)."""
    if not (isinstance(ci, Real) and 0 < ci < 1):
        raise InputError(f"ci is {ci!r}; it must be a level between 0 and 1, as 0.95")


def _other_units(where: str, ids: list, expected: list) -> str:
    missing = [u for u in expected if u not in set(ids)]
    extra = [u for u in ids if u not in set(expected)]
    what = (
        f"it lacks {shorten(missing) or 'none'} and has {shorten(extra) or 'none'} besides"
        if missing or extra
        else "their order differs"
    )
    return (
        f"{where}: its {len(ids)} units are not the {len(expected)} that the model was trained on: {what}; "
        "decode a session with the same units (session.select_units(model.unit_ids_) in Python) or train on this one"
    )


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
