"""LDMFilter: the estimator. Settings in, `fit`, `decode`, `save` and `load`."""

import dataclasses
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ldmfilter.config import FilterConfig, build_filter_config, settings
from ldmfilter.data.counts import check_counts
from ldmfilter.data.windows import stretches
from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors
from ldmfilter.filter.decode import decode
from ldmfilter.filter.network import Network
from ldmfilter.filter.training import Record, Training, read_history
from ldmfilter.tensors import damaged, digest, read_tensors, unit_ids, write_tensors
from ldmfilter.version import __version__

log = logging.getLogger("ldmfilter")

MODEL_FILE = "model.safetensors"
#: Version of the model file. It rises when an older package could not read a newer file.
MODEL_FORMAT = 1


@dataclass(eq=False, repr=False)
class LDMFilter(FilterConfig):
    """Nonlinear Bayesian filter for spike counts, trained without labels by predictive latent distribution
    matching (Mikulasch & Zenke 2026).

    The settings are those of `FilterConfig`. `fit` adds attributes that end in an underscore:

        unit_ids_      (unit,) ids of the units, in the order of the counts
        bin_size_      s
        history_       one `Record` for each evaluation
        kept_step_     the step whose held-out score was best: its parameters are used
        source_        dict: where the training counts came from
        trained_spans_ list of (start, stop), s: the time that training saw, its held-out blocks included
        network_       encoder and dynamics, a torch module on the CPU
        model_id_      hash of the parameters

    >>> LDMFilter(latent_dim=4, seed=0)
    LDMFilter(latent_dim=4)
    """

    def fit(
        self, counts: xr.DataArray, y: None = None, progress: Callable[[Record], None] | None = None
    ) -> "LDMFilter":
        """Train on counts.

        Args:
            counts: (time, unit), as `bin_spikes` makes them.
            y: ignored, for scikit-learn.
            progress: called with each evaluation's record.

        Raises:
            InputError: a setting is out of range, or the bins are too few.
            TrainingError: training diverged or collapsed, or the device is not there.
        """
        counts = check_counts(counts)
        training = Training(self, counts)
        for record in training.run():
            log.info("step %d: held-out score %.3f nats per bin", record.step, record.score)
            if progress is not None:
                progress(record)
        return self.take(training, counts)

    def take(self, training: Training, counts: xr.DataArray) -> "LDMFilter":
        """Take over what a training has reached: the parameters at its kept step."""
        self.unit_ids_ = counts["unit"].to_numpy()
        self.bin_size_ = float(counts.attrs["bin_size"])
        self.source_ = {k: str(v) for k, v in counts.attrs.items() if k in SOURCE_KEYS}
        self.trained_spans_ = stretches(counts)
        self.history_ = list(training.history)
        self.kept_step_ = training.kept_step
        self._set_network(training.finished_state())
        return self

    def _set_network(self, tensors: dict[str, Tensor]) -> None:
        with torch.random.fork_rng(devices=[]):  # a caller's random numbers are not ours to draw
            network = Network(len(self.unit_ids_), self, self.bin_size_)
        network.load_state_dict(tensors)
        self.network_ = network.eval()
        self.model_id_ = digest(tensors)[:16]

    def decode(self, counts: xr.DataArray, ci: float = 0.95, smooth: bool = False) -> xr.Dataset:
        """Filter a session's counts: states with covariances and intervals, labelled (see `decode.decode`).

        Raises:
            InputError: not fitted, other units, another bin size, or ci outside (0, 1).
        """
        self._check_fitted()
        return decode(self, check_counts(counts), ci, smooth)

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
        ids = self.unit_ids_.tolist()
        description = {
            "format": MODEL_FORMAT,
            "package_version": __version__,
            "settings": settings(self),
            "unit_ids": ids,
            "bin_size": self.bin_size_,
            "source": self.source_,
            "trained_spans": self.trained_spans_,
            "kept_step": self.kept_step_,
            "history": [dataclasses.asdict(record) for record in self.history_],
        }
        write_tensors(path, self.network_.state_dict(), description)
        return path


SOURCE_KEYS = ("path", "identifier", "session_id", "session_start_time", "checksum")


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
        model.unit_ids_ = np.asarray(unit_ids(header["unit_ids"]))
        model.bin_size_ = float(header["bin_size"])
        model.source_ = {k: str(v) for k, v in header["source"].items() if k in SOURCE_KEYS}
        model.trained_spans_ = [(float(start), float(stop)) for start, stop in header["trained_spans"]]
        model.kept_step_ = int(header["kept_step"])
        model.history_ = read_history(header["history"])
        if not (0 < model.bin_size_ < math.inf and model.history_):
            raise ValueError("it was trained on bins of no length, or not at all")
        model._set_network(tensors)
        if not all(bool(x.isfinite().all()) for x in (*tensors.values(), *model.network_.linear_gaussian())):
            raise ValueError("its parameters are not finite")
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise damaged(path, error) from None
    return model
