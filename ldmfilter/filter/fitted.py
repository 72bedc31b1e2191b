"""A fitted filter: its network and sessions, and the filter of some of the sessions."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ldmfilter.config import FilterConfig
from ldmfilter.data.counts import is_signal
from ldmfilter.data.frames import frame_bins
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import stretches
from ldmfilter.errors import InputError
from ldmfilter.filter.candidates import Trained
from ldmfilter.filter.evaluation import Record
from ldmfilter.filter.network import Network, names_of_format_2
from ldmfilter.tensors import digest

Item = TypeVar("Item")
Self = TypeVar("Self", bound="Fitted")

SOURCE_KEYS = ("path", "identifier", "session_id", "session_start_time", "checksum")


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


class Fitted(FilterConfig):
    """The settings of a filter, and its attributes once it is fitted, as `LDMFilter` lists them."""

    sessions_: list[FittedSession]
    sized_: FilterConfig
    bin_size_: float
    frame_: float
    candidates_: list[Trained]
    kept_: Trained
    ended_: bool
    history_: list[Record]
    network_: Network
    parts_: list["Fitted"]
    model_id_: str

    def of(self: Self, session: int | str | xr.DataArray) -> Self:
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
        return self.keep([self._find(session)])

    def keep(self: Self, positions: Sequence[int]) -> Self:
        """The filter of some of the sessions, with the same parameters, not copies."""
        self.check_fitted()
        model = copy.copy(self)
        model.sessions_ = [self.sessions_[i] for i in positions]
        if self.parts_:
            model._join([part.keep(positions) for part in self.parts_])
        else:
            model.network_ = self.network_.keep(positions)
            model.model_id_ = _id(model.network_.state_dict())  # sessions that come later do not change it
        return model

    def of_frames(self: Self) -> Self:
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
        return find_one(tiers, what, self.listed())

    def listed(self) -> str:
        """The number of sessions and their names, for a message."""
        names = [one.names[0] if one.names else "memory" for one in self.sessions_]
        return f"the model's {len(names)} sessions ({shorten(names)})"

    def _only(self) -> FittedSession:
        self.check_fitted()
        if len(self.sessions_) > 1:
            raise InputError(f"choose one of {self.listed()} first, with of(session)")
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
    def parts(self: Self) -> list[Self]:
        """The filters whose states it has: of slow and of fast states, or itself alone."""
        return cast(list[Self], self.parts_) or [self]

    def set_parts(self, parts: Sequence[tuple[Trained, dict[str, Tensor]]]) -> None:
        """Take what was kept, of each part, for the sessions that are set; `kept_` is set already."""
        self.parts_ = []
        models = [copy.copy(self) for _ in parts] if len(parts) > 1 else [self]
        for model, (kept, tensors) in zip(models, parts, strict=True):
            model.kept_, model.frame_ = kept, kept.frame
            model.set_network(tensors)
        if len(models) > 1:
            self._join(models)

    def _join(self, parts: Sequence["Fitted"]) -> None:
        """Become the filter of these parts."""
        self.parts_, self.frame_ = list(parts), max(one.frame_ for one in parts)
        networks = nn.ModuleDict({one.kept_.dynamics: one.network_ for one in parts})
        self.network_ = networks  # type: ignore[assignment]  # what computes asks the parts
        self._set_sizes(sum(one.sized_.latents for one in parts), sum(one.sized_.states for one in parts))
        self.model_id_ = _id(self.network_.state_dict())

    def _set_sizes(self, latents: int, states: int) -> None:
        values = {one.name: getattr(self, one.name) for one in fields(FilterConfig)}
        self.sized_ = FilterConfig(**values | {"latent_dim": latents, "state_dim": states})

    def set_network(self, tensors: dict[str, Tensor]) -> None:
        """Take a network's parameters, for the sessions that are set."""
        self._set_sizes(len(tensors["encoders.0.z_mean"]), len(tensors["gauge"]))
        with torch.random.fork_rng(devices=[]):  # a caller's random numbers are not ours to draw
            signals = [one.signal for one in self.sessions_]
            network = Network([len(one.unit_ids) for one in self.sessions_], self.sized_, self.frame_, signals=signals)
        network.load_state_dict(tensors)
        self.network_ = network.eval()
        self.model_id_ = _id(tensors)

    @property
    def kept_step_(self) -> int:
        """The step whose parameters are used; of several parts the last."""
        return self.kept_.kept_step

    @property
    def kept_record_(self) -> Record:
        """The evaluation of the step that was kept, of a filter of one part."""
        of_kept = [one for one in self.history_ if one.candidate == self.kept_.name]
        return next(one for one in of_kept if one.step == self.kept_step_)

    @property
    def frame_bins_(self) -> int:
        """Bins in a frame (`data.frames`)."""
        return frame_bins(self.frame_, self.bin_size_)

    def check_fitted(self) -> None:
        """Raises: InputError where it is not fitted."""
        if not hasattr(self, "network_"):
            raise InputError("this LDMFilter has not been fitted; call fit(counts) or load a model first")

    def check_bins(self, counts: xr.DataArray) -> None:
        """Raises: InputError for counts in bins of another size."""
        size = float(counts.attrs["bin_size"])
        if not np.isclose(size, self.bin_size_, rtol=1e-9):
            raise InputError(
                f"{counts.attrs.get('path', 'counts')}: bins of {size:g} s, but the model was trained on "
                f"{self.bin_size_:g} s; use those"
            )


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


def _id(tensors: dict[str, Tensor]) -> str:
    """The id of a model with these parameters."""
    return digest(names_of_format_2(tensors))[:16]
