"""LDMFilter: the estimator. Settings in, `fit`, `decode`, `save` and `load`."""

import copy
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ldmfilter.config import FilterConfig, build_filter_config, settings
from ldmfilter.data.counts import check_counts
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import stretches
from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors
from ldmfilter.filter.decode import decode
from ldmfilter.filter.evaluation import Record, read_history
from ldmfilter.filter.matching import no_moments
from ldmfilter.filter.network import Network, current_names, names_of_format_2
from ldmfilter.filter.training import Training
from ldmfilter.tensors import damaged, digest, read_tensors, unit_ids, write_tensors
from ldmfilter.version import __version__

log = logging.getLogger("ldmfilter")

MODEL_FILE = "model.safetensors"
#: Version of the model file. It rises when an older package could not read a newer file.
MODEL_FORMAT = 3


@dataclass(frozen=True, eq=False)
class FittedSession:
    """A session that a filter has an encoder for.

    Attributes:
        unit_ids: (unit,) ids of the units, in the order of the counts.
        source: where the training counts came from.
        trained_spans: (start, stop), s: the time that training saw, its held-out blocks included.
    """

    unit_ids: np.ndarray
    source: dict[str, str]
    trained_spans: list[tuple[float, float]]

    @classmethod
    def of(cls, counts: xr.DataArray) -> "FittedSession":
        """That of the counts that a training saw."""
        source = {k: str(v) for k, v in counts.attrs.items() if k in SOURCE_KEYS}
        return cls(counts["unit"].to_numpy(), source, stretches(counts))

    @property
    def names(self) -> list[str]:
        """What it may be called: its path, the path's last part, and the ids that its file gives."""
        path = self.source.get("path", "")
        return [name for name in (path, Path(path).name, *map(self.source.get, SOURCE_KEYS[1:])) if name]


@dataclass(eq=False, repr=False)
class LDMFilter(FilterConfig):
    """Nonlinear Bayesian filter for spike counts, trained without labels by predictive latent distribution
    matching (Mikulasch & Zenke 2026).

    The settings are those of `FilterConfig`. `fit` adds attributes that end in an underscore:

        sessions_      one `FittedSession` for each session
        bin_size_      s
        history_       one `Record` for each evaluation
        kept_step_     the step whose held-out score was best: its parameters are used
        network_       an encoder for each session and the dynamics that all share, a torch module on the CPU
        model_id_      hash of the parameters

    and, of a filter of one session, `unit_ids_`, `source_` and `trained_spans_` of that session. A filter of several
    decodes them into one state space; `of` gives the filter of one of them.

    >>> LDMFilter(latent_dim=4, seed=0)
    LDMFilter(latent_dim=4)
    """

    def fit(
        self,
        counts: xr.DataArray | Sequence[xr.DataArray],
        y: None = None,
        progress: Callable[[Record], None] | None = None,
    ) -> "LDMFilter":
        """Train on counts of a session, or on those of several that share a world: one dynamics, an encoder each.

        Args:
            counts: (time, unit), as `bin_spikes` makes them; or several, whose units may differ.
            y: ignored, for scikit-learn.
            progress: called with each evaluation's record.

        Raises:
            InputError: a setting is out of range, the bins are too few, or sessions do not go together.
            TrainingError: training diverged or collapsed, or the device is not there.
        """
        recordings = [check_counts(one) for one in _several(counts)]
        training = Training(self, recordings)
        _drive(training, progress)
        return self.take(training, recordings)

    def take(self, training: Training, counts: xr.DataArray | Sequence[xr.DataArray]) -> "LDMFilter":
        """Take over what a training on these counts has reached: the parameters at its kept step."""
        recordings = _several(counts)
        self.sessions_ = list(map(FittedSession.of, recordings))
        self.bin_size_ = float(recordings[0].attrs["bin_size"])
        self.history_ = list(training.history)
        self.kept_step_ = training.kept_step
        self._set_network(training.finished_state())
        return self

    def add(self, counts: xr.DataArray, progress: Callable[[Record], None] | None = None) -> "LDMFilter":
        """Fit an encoder for a further session; the dynamics and all other encoders stay as they are.

        Args:
            counts: (time, unit) of the session, in bins of the model's size.
            progress: called with each evaluation's record.

        Raises:
            InputError: not fitted, another bin size, too few bins, or a session that the model has already.
            TrainingError: as `fit`.
        """
        counts = check_counts(counts)
        training = self.adding(counts)
        _drive(training, progress)
        return self.take_added(training, counts)

    def adding(self, counts: xr.DataArray) -> Training:
        """The training of `add`, for who wants to follow it; `take_added` takes over what it has reached."""
        self._check_fitted()
        where, size = counts.attrs.get("path", "counts"), float(counts.attrs["bin_size"])
        if not np.isclose(size, self.bin_size_, rtol=1e-9):
            raise InputError(
                f"{where}: bins of {size:g} s, but the model was trained on {self.bin_size_:g} s; use those"
            )
        checksum = str(counts.attrs.get("checksum", ""))
        if checksum and checksum in [one.source.get("checksum") for one in self.sessions_]:
            raise InputError(f"{where}: is one of {self._told()} already; decode it")
        if not self.network_.second_moments.any():
            raise InputError(f"{where}: the model is of an older ldmfilter and takes no further session; train it anew")
        return Training(self, counts, self.network_)

    def take_added(self, training: Training, counts: xr.DataArray) -> "LDMFilter":
        """Take over the encoder of a further session from a training that `adding` gave."""
        first = f"encoders.{len(self.sessions_)}."
        mine = {
            first + name.removeprefix("encoders.0."): value
            for name, value in training.finished_state().items()
            if name.startswith("encoders.")
        }
        self.sessions_ = [*self.sessions_, FittedSession.of(counts)]
        self._set_network(self.network_.state_dict() | mine)
        return self

    def _set_network(self, tensors: dict[str, Tensor]) -> None:
        with torch.random.fork_rng(devices=[]):  # a caller's random numbers are not ours to draw
            network = Network([len(one.unit_ids) for one in self.sessions_], self, self.bin_size_)
        network.load_state_dict(tensors)
        self.network_ = network.eval()
        self.model_id_ = _id(tensors)

    def of(self, session: int | str | xr.DataArray) -> "LDMFilter":
        """The filter of one of the sessions, with the same parameters, not copies; of a filter of one, itself.

        Args:
            session: its position, one of its names (`FittedSession.names`), or counts: those of the session with the
                same checksum, else with the same identifier, else with the same units.

        Raises:
            InputError: none or several fit; names the sessions.
        """
        self._check_fitted()
        if len(self.sessions_) == 1:
            return self
        return self.keep([self._find(session)])

    def keep(self, positions: Sequence[int]) -> "LDMFilter":
        """The filter of some of the sessions, with the same parameters, not copies."""
        self._check_fitted()
        model = copy.copy(self)
        model.sessions_ = [self.sessions_[i] for i in positions]
        model.network_ = self.network_.keep(positions)
        model.model_id_ = _id(model.network_.state_dict())  # sessions that come later do not change it
        return model

    def _find(self, session: int | str | xr.DataArray) -> int:
        all_of_them = range(len(self.sessions_))
        if isinstance(session, int):
            found, what = [i for i in all_of_them if i == session], f"session {session}"
        elif isinstance(session, str):
            found, what = [i for i in all_of_them if session in self.sessions_[i].names], session
        else:
            what = str(session.attrs.get("path") or "counts")
            ids = session["unit"].to_numpy().tolist()
            fits = [i for i in all_of_them if self.sessions_[i].unit_ids.tolist() == ids]
            found = fits
            for key, among in (("checksum", all_of_them), ("identifier", fits)):
                value = str(session.attrs.get(key, ""))
                same = [i for i in among if value and self.sessions_[i].source.get(key) == value]
                if len(same) == 1:
                    found = same
                    break
        if len(found) != 1:
            raise InputError(f"{what}: is {'none' if not found else f'like {len(found)}'} of {self._told()}; name one")
        return found[0]

    def _told(self) -> str:
        names = [one.names[0] if one.names else "memory" for one in self.sessions_]
        return f"the model's {len(names)} sessions ({shorten(names)})"

    def _only(self) -> FittedSession:
        self._check_fitted()
        if len(self.sessions_) > 1:
            raise InputError(f"choose one of {self._told()} first, with of(session)")
        return self.sessions_[0]

    @property
    def unit_ids_(self) -> np.ndarray:
        """Ids of the units (unit,), in the order of the counts. Raises: InputError for several sessions."""
        return self._only().unit_ids

    @property
    def source_(self) -> dict[str, str]:
        """Where the training counts came from. Raises: InputError for several sessions."""
        return self._only().source

    @property
    def trained_spans_(self) -> list[tuple[float, float]]:
        """The time (start, stop), s, that training saw. Raises: InputError for several sessions."""
        return self._only().trained_spans

    def decode(
        self,
        counts: xr.DataArray,
        ci: float = 0.95,
        smooth: bool = False,
        session: int | str | None = None,
        device: str = "cpu",
    ) -> xr.Dataset:
        """Filter a session's counts: states with covariances and intervals, labelled (see `decode.decode`).

        Args:
            counts: (time, unit), as `bin_spikes` makes them.
            ci: level of the intervals.
            smooth: add each bin's state given its whole segment.
            session: of a filter of several, whose encoder to use, as `of` takes it; without it the counts tell.
            device: where to compute, "auto", "cpu" or "cuda".

        Raises:
            InputError: not fitted, other units, another bin size, ci outside (0, 1), or as `of`.
            TrainingError: the device is not there.
        """
        self._check_fitted()
        counts = check_counts(counts)
        return decode(self.of(counts if session is None else session), counts, ci, smooth, device)

    def transform(self, counts: xr.DataArray) -> np.ndarray:
        """Filtered means (time, state), as an array. Raises: InputError, as `decode`."""
        return self.decode(counts)["filtered_mean"].to_numpy()

    def fit_transform(self, counts: xr.DataArray, y: None = None) -> np.ndarray:
        """`fit`, then `transform` of the same counts."""
        return self.fit(counts).transform(counts)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, as scikit-learn asks for them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(FilterConfig)}

    def set_params(self, **params: Any) -> "LDMFilter":
        """Change settings. Raises: InputError for one that does not exist."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(f"unknown setting {name!r}; the settings are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(FilterConfig)
            if getattr(self, f.name) != f.default
        ]
        return f"LDMFilter({', '.join(changed)})"

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise InputError("this LDMFilter has not been fitted; call fit(counts) or load a model first")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model into a folder, which is made where it is missing; one file, replaced at once.

        The file is safetensors; its header holds the settings, units and source as JSON.

        Raises:
            InputError: not fitted, or the folder cannot be written to.
        """
        self._check_fitted()
        path = Path(folder) / MODEL_FILE
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        description = {
            "format": MODEL_FORMAT,
            "package_version": __version__,
            "settings": settings(self),
            "bin_size": self.bin_size_,
            "sessions": [
                {"unit_ids": one.unit_ids.tolist(), "source": one.source, "trained_spans": one.trained_spans}
                for one in self.sessions_
            ],
            "kept_step": self.kept_step_,
            "history": [dataclasses.asdict(record) for record in self.history_],
        }
        write_tensors(path, self.network_.state_dict(), description)
        return path


SOURCE_KEYS = ("path", "identifier", "session_id", "session_start_time", "checksum")


def _several(counts: xr.DataArray | Sequence[xr.DataArray]) -> list[xr.DataArray]:
    return [counts] if isinstance(counts, xr.DataArray) else list(counts)


def _drive(training: Training, progress: Callable[[Record], None] | None) -> None:
    for record in training.run():
        log.info("step %d: held-out score %.3f nats per bin", record.step, record.score)
        if progress is not None:
            progress(record)


def _id(tensors: dict[str, Tensor]) -> str:
    """The id of a model with these parameters."""
    return digest(names_of_format_2(tensors))[:16]


def _current(tensors: dict[str, Tensor], format: int, latents: int) -> dict[str, Tensor]:
    """The tensors of an older model file by the names they have now. Format 1 knew one session and no moments."""
    if format == 1:
        moments = no_moments(latents)
        tensors = {
            f"encoders.0.{name.removeprefix('encoder.')}" if name.startswith(("encoder.", "z_")) else name: value
            for name, value in tensors.items()
        }
        tensors["second_moments"] = torch.from_numpy(moments.second).float()
        tensors["third_moments"] = torch.from_numpy(moments.third).float()
    return current_names(tensors)


def load(folder: str | os.PathLike[str]) -> LDMFilter:
    """Read a model that `LDMFilter.save` or a training run wrote. Nothing in it is executed.

    Args:
        folder: the folder, or the model file itself.

    Raises:
        InputError: the file is missing, damaged, or of a newer version.
    """
    path = Path(folder)
    if path.is_dir():
        path = path / MODEL_FILE
    tensors, header = read_tensors(path)
    found = header.get("format")
    if not isinstance(found, int) or found > MODEL_FORMAT:
        raise InputError(
            f"{path}: model format {found}, made by ldmfilter {header.get('package_version')}, is newer than this "
            f"package reads ({MODEL_FORMAT}); update ldmfilter"
        )
    try:
        config = build_filter_config(header["settings"], f"{path}: settings")
        model = LDMFilter(**{f.name: getattr(config, f.name) for f in dataclasses.fields(FilterConfig)})
        model.bin_size_ = float(header["bin_size"])
        model.sessions_ = [
            FittedSession(
                np.asarray(unit_ids(one["unit_ids"])),
                {k: str(v) for k, v in one["source"].items() if k in SOURCE_KEYS},
                [(float(start), float(stop)) for start, stop in one["trained_spans"]],
            )
            for one in (header["sessions"] if found > 1 else [header])
        ]
        model.kept_step_ = int(header["kept_step"])
        model.history_ = read_history(header["history"])
        if not (0 < model.bin_size_ < math.inf and model.history_):
            raise ValueError("it was trained on bins of no length, or not at all")
        model._set_network(_current(tensors, found, model.latent_dim))
        if not all(bool(x.isfinite().all()) for x in (*tensors.values(), *model.network_.linear_gaussian())):
            raise ValueError("its parameters are not finite")
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise damaged(path, error) from None
    return model
