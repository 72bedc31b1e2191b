"""LDMFilter: the estimator. Settings in, `fit`, `decode`, `save` and `load`."""

import copy
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import nn

from ldmfilter.config import FilterConfig, build_filter_config, current_settings, described, settings
from ldmfilter.data.counts import is_signal, seen_counts
from ldmfilter.data.frames import frame_bins
from ldmfilter.data.prepare import as_counts
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import stretches
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath, disk_errors
from ldmfilter.filter.candidates import Trained, listed, read_trained
from ldmfilter.filter.decode import decode_blocks, follow_blocks
from ldmfilter.filter.evaluation import Record, read_history
from ldmfilter.filter.matching import no_moments
from ldmfilter.filter.network import Network, current_names, names_of_format_2, widths_of
from ldmfilter.filter.rates import Rates
from ldmfilter.filter.spikes_ahead import spikes_ahead_of_all
from ldmfilter.filter.training import Finished, Training
from ldmfilter.html import table
from ldmfilter.progress import follow
from ldmfilter.tensors import Tensors, below, digest, read_tensors, reading, unit_ids, write_tensors
from ldmfilter.version import __version__

log = logging.getLogger("ldmfilter")

Progress = bool | Callable[[Record], None] | None
Item = TypeVar("Item")
SOURCE_KEYS = ("path", "identifier", "session_id", "session_start_time", "checksum")
MODEL_FILE = "model.safetensors"
#: Version of the model file. It rises when an older package could not read a newer file.
MODEL_FORMAT = 8


@dataclass(frozen=True, eq=False)
class FittedSession:
    """A session that a filter has an encoder for.

    Attributes:
        unit_ids: (unit,) ids of the units, in the order of the counts.
        source: where the training counts came from.
        trained_spans: (start, stop), s: the time that training saw, its held-out blocks included.
        signal: whether these are channels of a signal, not counts of spikes.
    """

    unit_ids: np.ndarray
    source: dict[str, str]
    trained_spans: list[tuple[float, float]]
    signal: bool = False

    @classmethod
    def of(cls, counts: xr.DataArray) -> "FittedSession":
        """From the counts that training saw."""
        source = {k: str(v) for k, v in counts.attrs.items() if k in SOURCE_KEYS}
        return cls(counts["unit"].to_numpy(), source, stretches(counts), is_signal(counts))

    @property
    def names(self) -> list[str]:
        """The names of the session: its path, the path's last part, and the ids that its file gives."""
        path = self.source.get("path", "")
        return [name for name in (path, Path(path).name, *map(self.source.get, SOURCE_KEYS[1:])) if name]

    @property
    def name(self) -> str:
        """The first of its names, for a message."""
        return next(iter(self.names), "memory")


class LDMFilter(FilterConfig):
    """Nonlinear Bayesian filter for spike counts, or a signal such as dF/F, trained without labels by predictive latent
    distribution matching (Mikulasch & Zenke 2026).

    Parameters
    ----------
    {settings}

    `fit` adds attributes that end in an underscore:

    Attributes
    ----------
    sessions_ : list of FittedSession
        One for each session.
    bin_size_ : float
        s.
    frame_ : float
        s, length of the counts that the encoder sees at once.
    candidates_, kept_ : list of Trained, Trained
        One for each candidate that was trained, and the one that is used.
    ended_ : bool
        Whether training has ended.
    sized_ : FilterConfig
        The settings, with numbers for all sizes.
    history_ : list of Record
        One for each evaluation.
    network_ : torch.nn.Module
        An encoder for each session and the dynamics that all share, on the CPU.
    model_id_ : str
        Hash of the parameters.
    unit_ids_, source_, trained_spans_ : ndarray (unit,), dict, list of (float, float)
        Of a filter of one session. One of several decodes them into one state space; `of` gives the filter of one of
        them.

    Examples
    --------
    >>> import numpy as np
    >>> import ldmfilter
    >>> import ldmfilter.export
    >>> from ldmfilter.data.simulate import linear_track_session
    >>> session = linear_track_session(duration=120, rest=0, n_units=6)
    >>> counts = ldmfilter.bin_spikes(session, 0.2)
    >>> model = ldmfilter.LDMFilter(latent_dim=2, dynamics="fast", max_steps=2, refit=False)
    >>> model = model.fit(ldmfilter.reserve(counts, 0.4))
    >>> latents = model.decode(counts)
    >>> latents["filtered_cov"].shape
    (600, 2, 2)
    """

    sessions_: list[FittedSession]
    sized_: FilterConfig
    bin_size_: float
    frame_: float
    candidates_: list[Trained]
    kept_: Trained
    ended_: bool
    history_: list[Record]
    network_: Network
    parts_: list["LDMFilter"]

    _dashes = False

    if not TYPE_CHECKING:  # which knows the settings

        @wraps(FilterConfig.__init__)
        def __init__(self, *unnamed: Any, **given: Any):
            if unnamed:
                raise InputError(f"{unnamed[0]!r} has no name; give settings by name, as LDMFilter(latent_dim=8)")
            check_names(given)
            super().__init__(**given)

    def fit(
        self,
        counts: Any,
        y: Any = None,
        progress: Progress = False,
        bin_size: float | None = None,
    ) -> "LDMFilter":
        """Train on counts of a session, or on those of several that share a world: one dynamics, an encoder each.

        Parameters
        ----------
        counts : xarray.DataArray (time, unit)
            As `bin_spikes` makes them; or whatever it makes them of (`as_session`); or a list of several, whose units
            may differ.
        y : object, optional
            Ignored, for scikit-learn.
        progress : bool or callable
            True shows how far it is, as a bar on a terminal or in a notebook, as lines in a log; a function is called
            with each evaluation's record.
        bin_size : float, optional
            s, of counts that do not say it, or into which spikes are binned; without it that of the counts, or 0.1.

        Returns
        -------
        LDMFilter
            Itself, fitted.

        Raises
        ------
        InputError
            A setting is out of range, the bins are too few, or sessions do not go together.
        TrainingError
            Training diverged or collapsed, or the device is not there.

        References
        ----------
        Mikulasch & Zenke 2026, "Understanding Self-Supervised Learning via Latent Distribution Matching", ICML,
        arXiv 2605.03517.

        Examples
        --------
        >>> quick = ldmfilter.LDMFilter(latent_dim=2, dynamics="fast", max_steps=2, refit=False)
        >>> quick.fit(counts).history_[-1].step
        2
        """
        training = Training(self, [as_counts(one, bin_size) for one in several(counts)])
        _drive(training, progress)
        return self._take(training)

    def _take(self, training: Training) -> "LDMFilter":
        """Take over what a training has reached: the parameters at its kept step."""
        self.sessions_ = list(map(FittedSession.of, training.counts))
        self.bin_size_ = float(training.counts[0].attrs["bin_size"])
        self.candidates_, self.kept_ = list(training.trained), training.kept
        self.ended_ = training.ended
        self.history_ = list(training.history)
        self._set_parts(training.parts)
        return self

    def add(self, counts: Any, progress: Progress = False) -> "LDMFilter":
        """Fit an encoder for a further session; the dynamics and all other encoders stay as they are.

        Parameters
        ----------
        counts : xarray.DataArray (time, unit)
            Of the session, as `fit` takes them, in bins of the model's size.
        progress : bool or callable
            As `fit` takes it.

        Returns
        -------
        LDMFilter
            Itself, with one session more.

        Raises
        ------
        InputError
            Not fitted, another bin size, too few bins, or a session that the model has already.
        TrainingError
            As `fit`.

        Examples
        --------
        >>> from copy import copy
        >>> tuesday = linear_track_session(seed=1, duration=60, rest=0, n_units=5)
        >>> both = copy(model).add(ldmfilter.bin_spikes(tuesday, 0.2))
        >>> [len(one.unit_ids) for one in both.sessions_]
        [6, 5]
        """
        self.check_fitted()
        training = self._adding(as_counts(counts, self.bin_size_))
        _drive(training, progress)
        return self._take_added(training)

    def _adding(self, counts: xr.DataArray) -> Training:
        """The training of `add`, for who wants to follow it; `_take_added` takes over what it has reached."""
        self.check_fitted()
        self._check_bins(counts)
        where = counts.attrs.get("path", "counts")
        checksum = str(counts.attrs.get("checksum", ""))
        if checksum and checksum in [one.source.get("checksum") for one in self.sessions_]:
            raise InputError(f"{where}: is one of {self._listed()} already; decode it")
        if not all(part.network_.second_moments.any() for part in self.parts):
            raise InputError(f"{where}: the model is of an older ldmfilter and takes no further session; train it anew")
        config = self.sized_
        if len(self.parts) == 1 and self.kept_.name:  # formats up to 3 have no name
            config = dataclasses.replace(config, dynamics=self.kept_.dynamics)
        parts = [Finished(one.network_, one.frame_, one.sized_, one.kept_.dropout) for one in self.parts]
        return Training(config, counts, parts)

    def _take_added(self, training: Training) -> "LDMFilter":
        """Take over the encoder of a further session from a training that `_adding` gave."""
        first = f"encoders.{len(self.sessions_)}."
        parts = []
        for part, (_, tensors) in zip(self.parts, training.parts, strict=True):
            mine = {first + name: value for name, value in below("encoders.0.", tensors).items()}
            parts.append((part.kept_, part.network_.state_dict() | mine))
        self.sessions_ = [*self.sessions_, *map(FittedSession.of, training.counts)]
        self._set_parts(parts)
        return self

    def decode(
        self,
        counts: Any,
        ci: float = 0.95,
        smooth: bool = False,
        session: int | str | None = None,
        device: str = "cpu",
        ahead: float | Sequence[float] = (),
        lag: float | None = None,
        rates: bool | Rates = False,
        progress: bool | Callable[[int], None] | None = False,
    ) -> xr.Dataset:
        """Filter a session's counts, causally: states with covariances and intervals, labelled.

        Parameters
        ----------
        counts : xarray.DataArray (time, unit)
            As `fit` takes them, with the units that the filter knows; those without a bin size have the model's.
        ci : float
            Level of the intervals, between 0 and 1: mean -+ the normal quantile times the square root of the
            covariance's diagonal.
        smooth : bool
            Add each bin's state given its whole segment.
        session : int or str, optional
            Of a filter of several, whose encoder to use, as `of` takes it; without it the counts tell.
        device : str
            Where to compute: "auto", "cpu" or "cuda".
        ahead : float or sequence of float
            Horizons, s: add the state so much after a bin, given that bin and all before.
        lag : float, optional
            s: add each bin's state given the bins up to so much after it, in whole frames. Slow and fast states each
            use as many of their own as it holds: of 0.3 s fast ones three of 0.1 s, slow ones none of 0.5 s.
        rates : bool or Rates
            Add each unit's expected rate given the state: fitted to those of these bins that training saw, or elsewhere
            by `Rates.fit`.
        progress : bool or callable
            True shows how far it is, of a long recording; a function is called with the number of bins that are done.

        Returns
        -------
        xarray.Dataset
            float32, along `time` (bin centres, s). States have no unit: each has a variance of 1.

            - filtered_mean (time, state), filtered_cov (time, state, state_2), ci (time, state, bound): t|t
            - predicted_mean, predicted_cov: before the bin's frame was seen, t|t-1 where a frame is one bin
            - innovation (time, latent), NaN in bins not observed, innovation_cov (time, latent, latent_2)
            - smoothed_mean, smoothed_cov with `smooth`: t|T
            - ahead_mean (ahead, time, state), ahead_cov, ahead_ci with `ahead`: t+ahead|t
            - lagged_mean (time, state), lagged_cov, lagged_ci with `lag`: t|t+lag, where the attribute `lag` (s) is
              that of the whole frames, of the shortest
            - rate (time, unit), rate_ci (time, unit, bound) with `rates`, Hz
            - observed, trained, segment and interval (time,)

        Raises
        ------
        InputError
            Not fitted; other units, another bin size, no bins, or a level outside (0, 1); a horizon or a lag that is
            not above 0, or longer than the session; a lag shorter than every frame; rates of a signal, or of bins of
            which training saw too few.
        TrainingError
            The device is not there.

        References
        ----------
        Smoothing with a lag: Anderson & Moore 1979, *Optimal Filtering*, chapter 7. Horizons between frames: Higham &
        Lin 2011, SIAM J. Matrix Anal. Appl. 32.

        Examples
        --------
        >>> states = model.decode(counts, ahead=[0.4, 1.0], lag=1.0, rates=True)
        >>> states["filtered_mean"].shape, states["ahead_mean"].shape, states["rate"].shape
        ((600, 2), (2, 600, 2), (600, 6))
        """
        self.check_fitted()
        if not isinstance(rates, bool | Rates):
            raise InputError(f"rates is {rates!r}; give True, False or Rates")
        counts = as_counts(counts, self.bin_size_)
        model = self.of(counts if session is None else session)
        pieces = decode_blocks(model, counts, ci, smooth, device=device, ahead=ahead, lag=lag)
        if progress:
            pieces = follow_blocks(pieces, counts.sizes["time"], progress if callable(progress) else None)
        blocks = list(pieces)
        latents = blocks[0] if len(blocks) == 1 else xr.concat(blocks, "time", data_vars="minimal", coords="minimal")
        if not rates:
            return latents
        return (Rates.fit(latents, counts) if rates is True else rates).add(latents)

    def transform(self, counts: Any) -> np.ndarray:
        """Filtered means, as an array.

        Parameters
        ----------
        counts : xarray.DataArray (time, unit)
            As `decode` takes them.

        Returns
        -------
        ndarray (time, state)

        Raises
        ------
        InputError
            As `decode`.

        Examples
        --------
        >>> model.transform(counts).shape
        (600, 2)
        """
        return self.decode(counts)["filtered_mean"].to_numpy()

    def fit_transform(self, counts: Any, y: Any = None) -> np.ndarray:
        """`fit`, then `transform` of the same counts.

        Parameters
        ----------
        counts : xarray.DataArray (time, unit)
            As `fit` takes them, of one session.
        y : object, optional
            Ignored, for scikit-learn.

        Returns
        -------
        ndarray (time, state)

        Raises
        ------
        InputError, TrainingError
            As `fit`.

        Examples
        --------
        >>> quick = ldmfilter.LDMFilter(latent_dim=2, dynamics="fast", max_steps=2, refit=False)
        >>> quick.fit_transform(counts).shape
        (600, 2)
        """
        return self.fit(counts).transform(counts)

    def score(self, counts: Any, y: Any = None) -> float:
        """Bits per spike of the counts 0.5 to 3 s ahead of each state, of a signal the share of its variance.

        The higher the better, 0 for a state that tells nothing. In blocks, the readouts (a ridge, and 50 nearest
        neighbours) are fitted on a part of these counts and judged on the rest, each part in turn. `ldmfilter.score`
        judges horizon by horizon, beside simpler methods.

        Parameters
        ----------
        counts : xarray.DataArray (time, unit)
            As `decode` takes them, best of time that training did not see.
        y : object, optional
            Ignored, for scikit-learn.

        Returns
        -------
        float
            NaN for counts too few to judge.

        Raises
        ------
        InputError
            As `decode`.

        Examples
        --------
        >>> type(model.score(counts))
        <class 'float'>
        """
        self.check_fitted()
        counts = as_counts(counts, self.bin_size_)
        states = self.decode(counts)["filtered_mean"].to_numpy().astype(np.float64)
        values = seen_counts(counts).astype(np.float64)
        segment, every = counts["segment"].to_numpy(), np.ones(len(states), dtype=bool)
        return spikes_ahead_of_all(states, values, segment, every, self.bin_size_, is_signal(counts)).value

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the states, for scikit-learn.

        Parameters
        ----------
        input_features : object, optional
            Ignored, for scikit-learn.

        Returns
        -------
        ndarray (state,)

        Raises
        ------
        InputError
            Not fitted.

        Examples
        --------
        >>> model.get_feature_names_out().tolist()
        ['state_0', 'state_1']
        """
        self.check_fitted()
        return np.array([f"state_{i}" for i in range(self.sized_.states)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(allow_nan=True, positive_only=True),
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, as scikit-learn asks for them.

        Parameters
        ----------
        deep : bool
            Ignored, for scikit-learn.

        Returns
        -------
        dict
            Each setting's value by its name.

        Examples
        --------
        >>> model.get_params()["latent_dim"]
        2
        """
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(FilterConfig)}

    def set_params(self, **params: Any) -> "LDMFilter":
        """Change settings.

        Parameters
        ----------
        **params : object
            Values by the settings' names.

        Returns
        -------
        LDMFilter
            Itself.

        Raises
        ------
        InputError
            A setting that does not exist.

        Examples
        --------
        >>> ldmfilter.LDMFilter().set_params(latent_dim=4)
        LDMFilter(latent_dim=4)
        """
        check_names(params)
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(FilterConfig)
            if getattr(self, f.name) != f.default
        ]
        return f"LDMFilter({', '.join(changed)})"

    def _repr_html_(self) -> str:
        """For a notebook: the settings that were changed and, once fitted, what was trained on what."""
        if not hasattr(self, "network_"):
            return table(repr(self), [], note="not fitted; help(LDMFilter) explains the settings")
        rows = [
            ("sessions", ", ".join(one.name for one in self.sessions_)),
            ("units", ", ".join(str(len(one.unit_ids)) for one in self.sessions_)),
            ("states", f"{self.sized_.states}, of {self.sized_.latents} pseudo-observations"),
            ("bins", f"{self.bin_size_:g} s, in frames of {' and '.join(f'{x.frame_:g}' for x in self.parts)} s"),
            ("candidates", listed(self.candidates_)),
            ("kept", ", ".join(f"{x.kept_.label} at step {x.kept_step_}" for x in self.parts)),
            ("id", self.model_id_),
        ]
        return table(repr(self), rows, note="fitted" if self.ended_ else "training has not ended")

    def save(self, folder: AnyPath) -> Path:
        """Write the model into a folder, which is made where it is missing; one file, replaced at once.

        Parameters
        ----------
        folder : str or os.PathLike
            Of the file `model.safetensors`, whose header holds the settings, units and source as JSON.

        Returns
        -------
        Path
            Of the file; `load` reads it.

        Raises
        ------
        InputError
            Not fitted, or the folder cannot be written to.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     model.save(folder).name
        'model.safetensors'
        """
        self.check_fitted()
        path = Path(folder) / MODEL_FILE
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        description = {
            "format": MODEL_FORMAT,
            "package_version": __version__,
            "settings": settings(self.sized_),
            "bin_size": self.bin_size_,
            "kept": dataclasses.asdict(self.kept_),
            "parts": [dataclasses.asdict(part.kept_) for part in self.parts_],
            "candidates": [dataclasses.asdict(one) for one in self.candidates_],
            "ended": self.ended_,
            "sessions": [vars(one) | {"unit_ids": one.unit_ids.tolist()} for one in self.sessions_],
            "history": [dataclasses.asdict(record) for record in self.history_],
        }
        write_tensors(path, self.network_.state_dict(), description)
        return path

    def of(self, session: int | str | xr.DataArray) -> "LDMFilter":
        """The filter of one of the sessions, with the same parameters, not copies; of a filter of one, itself.

        Parameters
        ----------
        session : int, str or xarray.DataArray
            Its position, one of its names (`FittedSession.names`), or counts: those of the session with the same
            checksum, else with the same identifier, else with the same units.

        Returns
        -------
        LDMFilter

        Raises
        ------
        InputError
            None or several fit; names the sessions.

        Examples
        --------
        >>> model.of(counts).unit_ids_.tolist()
        [0, 1, 2, 3, 4, 5]
        """
        self.check_fitted()
        if len(self.sessions_) == 1:
            return self
        return self._keep([self._find(session)])

    def _keep(self, positions: Sequence[int]) -> "LDMFilter":
        """The filter of some of the sessions, with the same parameters, not copies."""
        self.check_fitted()
        model = copy.copy(self)
        model.sessions_ = [self.sessions_[i] for i in positions]
        if self.parts_:
            model._join([part._keep(positions) for part in self.parts_])
        else:
            model.network_ = self.network_.keep(positions)
        return model

    def _of_frames(self) -> "LDMFilter":
        """The same filter for counts in bins as long as its frames (`data.frames.apart`)."""
        model = copy.copy(self)
        model.bin_size_ = model.frame_ = self.frame_bins_ * self.bin_size_
        return model

    def _find(self, session: int | str | xr.DataArray) -> int:
        every = range(len(self.sessions_))
        if isinstance(session, int):
            tiers, what = [[i for i in every if i == session]], f"session {session}"
        elif isinstance(session, str):
            tiers, what = [[i for i in every if session in self.sessions_[i].names]], session
        else:
            what = str(session.attrs.get("path") or "counts")
            ids = session["unit"].to_numpy().tolist()
            units = [i for i in every if self.sessions_[i].unit_ids.tolist() == ids]

            def same(key: str, among: Sequence[int]) -> list[int]:
                value = str(session.attrs.get(key, ""))
                return [i for i in among if value and self.sessions_[i].source.get(key) == value]

            tiers = [same("checksum", every), same("identifier", units), units]
        return find_one(tiers, what, self._listed())

    def _listed(self) -> str:
        """The number of sessions and their names, for a message."""
        names = [one.name for one in self.sessions_]
        return f"the model's {len(names)} sessions ({shorten(names)})"

    def _only(self) -> FittedSession:
        self.check_fitted()
        if len(self.sessions_) > 1:
            raise InputError(f"choose one of {self._listed()} first, with of(session)")
        return self.sessions_[0]

    @property
    def unit_ids_(self) -> np.ndarray:
        """Ids of the units (unit,), in the order of the counts. Raises: InputError for several sessions."""
        return self._only().unit_ids

    @property
    def source_(self) -> dict[str, str]:
        """The source of the training counts: path, identifiers, checksum. Raises: InputError for several sessions."""
        return self._only().source

    @property
    def trained_spans_(self) -> list[tuple[float, float]]:
        """The time (start, stop), s, that training saw. Raises: InputError for several sessions."""
        return self._only().trained_spans

    @property
    def signal_(self) -> bool:
        """True for a filter of a signal, False for one of counts. Raises: InputError for several sessions."""
        return self._only().signal

    @property
    def parts(self) -> list["LDMFilter"]:
        """The filters whose states it has: of slow and of fast states, or itself alone."""
        return self.parts_ or [self]

    def _set_parts(self, parts: Sequence[tuple[Trained, Tensors]]) -> None:
        """Take what was kept, of each part, for the sessions that are set; `kept_` is set already."""
        self.parts_ = []
        models = [copy.copy(self) for _ in parts] if len(parts) > 1 else [self]
        for model, (kept, tensors) in zip(models, parts, strict=True):
            model.kept_, model.frame_ = kept, kept.frame
            model._set_network(tensors)
        if len(models) > 1:
            self._join(models)

    def _join(self, parts: Sequence["LDMFilter"]) -> None:
        """Become the filter of these parts."""
        self.parts_, self.frame_ = list(parts), max(one.frame_ for one in parts)
        networks = nn.ModuleDict({one.kept_.dynamics: one.network_ for one in parts})
        self.network_ = networks  # type: ignore[assignment]  # what computes asks the parts
        sizes = [one.sized_ for one in parts]
        hidden = sizes[0].widths if len({one.widths for one in sizes}) == 1 else None
        self._set_sizes(sum(one.latents for one in sizes), sum(one.states for one in sizes), hidden)

    def _set_sizes(self, latents: int, states: int, hidden: tuple[int, ...] | None) -> None:
        sizes = {"latent_dim": latents, "state_dim": states, "hidden": hidden}
        self.sized_ = FilterConfig(**self.get_params() | sizes)

    def _set_network(self, tensors: Tensors) -> None:
        """Take a network's parameters, for the sessions that are set."""
        self._set_sizes(len(tensors["encoders.0.z_mean"]), len(tensors["gauge"]), widths_of(tensors))
        with torch.random.fork_rng(devices=[]):  # a caller's random numbers are not ours to draw
            signals = [one.signal for one in self.sessions_]
            network = Network([len(one.unit_ids) for one in self.sessions_], self.sized_, self.frame_, signals=signals)
        self.network_ = network.take(tensors).eval()

    @property
    def model_id_(self) -> str:
        """Hash of the parameters: that of a session's filter stays when others are added."""
        return digest(names_of_format_2(self.network_.state_dict()))[:16]

    @property
    def kept_step_(self) -> int:
        """The step whose parameters are used; of several parts the last."""
        return self.kept_.kept_step

    @property
    def kept_record_(self) -> Record:
        """The evaluation of the step that was kept, of a filter of one part."""
        return {one.step: one for one in self.history_ if one.candidate == self.kept_.name}[self.kept_step_]

    @property
    def frame_bins_(self) -> int:
        """Bins in a frame (`data.frames`)."""
        return frame_bins(self.frame_, self.bin_size_)

    def check_fitted(self) -> None:
        """Raises: InputError where it is not fitted."""
        if not hasattr(self, "network_"):
            raise InputError("this LDMFilter has not been fitted; call fit(counts) or load a model first")

    def _check_bins(self, counts: xr.DataArray) -> None:
        """Raises: InputError for counts in bins of another size."""
        size = float(counts.attrs["bin_size"])
        if not np.isclose(size, self.bin_size_, rtol=1e-9):
            raise InputError(
                f"{counts.attrs.get('path', 'counts')}: bins of {size:g} s, but the model was trained on "
                f"{self.bin_size_:g} s; use those"
            )


LDMFilter.__doc__ = (LDMFilter.__doc__ or "").replace("{settings}", indent(described(FilterConfig), "    ").strip())


def check_names(given: Iterable[str]) -> None:
    """Raises: InputError for a name that no setting has."""
    known = [one.name for one in dataclasses.fields(FilterConfig)]
    for name in given:
        if name not in known:
            near = "".join(f"do you mean {one}? " for one in get_close_matches(name, known, 1))
            raise InputError(f"unknown setting {name!r}; {near}the settings are {', '.join(known)}")


def find_one(tiers: Sequence[Sequence[Item]], what: str, whose: str) -> Item:
    """The session that is meant, of a model or of a run.

    Args:
        tiers: the sessions that fit, by one test each, the surest first; the first that is not empty decides.
        what: the name of what was asked for.
        whose: the sessions to choose from, in words.

    Raises:
        InputError: no session fits, or several.
    """
    found = next((tier for tier in tiers if tier), [])
    if len(found) != 1:
        raise InputError(f"{what}: is {f'like {len(found)}' if found else 'none'} of {whose}; name one of them")
    return found[0]


def several(counts: Any) -> list[Any]:
    """One or several, as a list."""
    return list(counts) if isinstance(counts, list | tuple) else [counts]


def _drive(training: Training, progress: Progress) -> None:
    quiet = progress is not True
    for record in follow(
        training.run(), lambda: training.steps, lambda _: training.step, lambda one: one.text, "step", quiet
    ):
        log.info("step %d: held-out score %.3f nats per bin", record.step, record.score)
        if callable(progress):
            progress(record)


def _current(tensors: Tensors, format: int, latents: int) -> Tensors:
    """The tensors of an older model file by the names they have now. Format 1 knew one session and no moments, encoders
    until format 5 no linear map."""
    if format == 1:
        moments = no_moments(latents)
        tensors = {
            f"encoders.0.{name.removeprefix('encoder.')}" if name.startswith(("encoder.", "z_")) else name: value
            for name, value in tensors.items()
        }
        tensors["second_moments"] = torch.from_numpy(moments.second).float()
        tensors["third_moments"] = torch.from_numpy(moments.third).float()
    if format < 6:
        for name in [name for name in tensors if name.endswith(".z_mean")]:
            encoder = name.removesuffix("z_mean")
            sizes = len(tensors[name]), len(tensors[f"{encoder}input_mean"])
            tensors[f"{encoder}linear.weight"] = torch.zeros(sizes)
    return current_names(tensors)


def load(folder: AnyPath) -> LDMFilter:
    """Read a model that `LDMFilter.save` or a training run wrote. Nothing in it is executed.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder, or the model file itself.

    Returns
    -------
    LDMFilter
        Fitted.

    Raises
    ------
    InputError
        The file is missing, damaged, or of a newer version.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     again = ldmfilter.load(model.save(folder))
    >>> again.model_id_ == model.model_id_
    True
    """
    path = Path(folder)
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.exists():
        raise InputError(f"{path}: no such model; give the folder that LDMFilter.save or `ldmfilter train` made")
    tensors, header = read_tensors(path)
    found = header.get("format")
    if not isinstance(found, int) or found > MODEL_FORMAT:
        raise InputError(
            f"{path}: model format {found}, made by ldmfilter {header.get('package_version')}, is newer than this "
            f"package reads ({MODEL_FORMAT}); update ldmfilter"
        )
    with reading(path):
        bin_size = float(header["bin_size"])
        asked = header["settings"] if found > 3 else current_settings(header["settings"], bin_size)
        config = build_filter_config(asked, f"{path}: settings")
        model = LDMFilter(**vars(config))
        until_3 = {"name": "", "frame": bin_size, "kept_step": header.get("kept_step"), "lead": [0, 0]}
        model.kept_ = read_trained(header.get("kept", until_3))
        model.bin_size_ = bin_size
        model.sessions_ = [
            FittedSession(
                np.asarray(unit_ids(one["unit_ids"])),
                {k: str(v) for k, v in one["source"].items() if k in SOURCE_KEYS},
                [(float(start), float(stop)) for start, stop in one["trained_spans"]],
                bool(one.get("signal", False)),
            )
            for one in (header["sessions"] if found > 1 else [header])
        ]
        model.history_ = read_history(header["history"])
        model.candidates_ = [read_trained(one) for one in header.get("candidates", [])]
        model.ended_ = bool(header.get("ended", model.history_ and model.history_[-1].step >= model.max_steps))
        if not (0 < model.bin_size_ < math.inf and model.history_):
            raise ValueError("it was trained on bins of no length, or not at all")
        kept = [read_trained(one) for one in header.get("parts", [])]
        current = _current(tensors, found, config.latents)
        model._set_parts([(one, below(f"{one.dynamics}.", current)) for one in kept] or [(model.kept_, current)])
        [part.kept_record_ for part in model.parts]
        if not all(bool(x.isfinite().all()) for x in tensors.values()) or not all(
            bool(x.isfinite().all()) for part in model.parts for x in part.network_.linear_gaussian()
        ):
            raise ValueError("its parameters are not finite")
    return model
