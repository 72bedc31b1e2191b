"""ldmfilter: latent states of a population of neurons, with covariances, from its spikes.

    session = ldmfilter.read_session("session.nwb")
    counts = ldmfilter.bin_spikes(session, 0.1)
    model = ldmfilter.LDMFilter(latent_dim=8).fit(counts)
    latents = model.decode(counts, ci=0.95)

Names are imported when they are first used: reading data needs no torch, and the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldmfilter.analysis.alarm import Alarm as Alarm
    from ldmfilter.analysis.behavior import choose_behavior as choose_behavior
    from ldmfilter.analysis.checks import check as check
    from ldmfilter.analysis.online_readout import OnlineReadout as OnlineReadout
    from ldmfilter.analysis.readout import read_behavior as read_behavior
    from ldmfilter.analysis.report import report as report
    from ldmfilter.analysis.score import score as score
    from ldmfilter.data import read_session as read_session
    from ldmfilter.data.binning import as_session as as_session
    from ldmfilter.data.binning import bin_spikes as bin_spikes
    from ldmfilter.data.binning import choose_spans as choose_spans
    from ldmfilter.data.binning import choose_units as choose_units
    from ldmfilter.data.session import Session as Session
    from ldmfilter.data.signal import from_signal as from_signal
    from ldmfilter.data.windows import reserve as reserve
    from ldmfilter.errors import InputError as InputError
    from ldmfilter.errors import TrainingError as TrainingError
    from ldmfilter.filter.aligned import align as align
    from ldmfilter.filter.model import LDMFilter as LDMFilter
    from ldmfilter.filter.model import load as load
    from ldmfilter.filter.online import OnlineFilter as OnlineFilter
    from ldmfilter.filter.rates import Rates as Rates
    from ldmfilter.version import __version__ as __version__

# Names by the module that they are in.
_NAMES = {
    "analysis.alarm": ("Alarm",),
    "analysis.behavior": ("choose_behavior",),
    "analysis.checks": ("check",),
    "analysis.online_readout": ("OnlineReadout",),
    "analysis.readout": ("read_behavior",),
    "analysis.report": ("report",),
    "analysis.score": ("score",),
    "data": ("read_session",),
    "data.binning": ("as_session", "bin_spikes", "choose_spans", "choose_units"),
    "data.session": ("Session",),
    "data.signal": ("from_signal",),
    "data.windows": ("reserve",),
    "errors": ("InputError", "TrainingError"),
    "filter.aligned": ("align",),
    "filter.model": ("LDMFilter", "load"),
    "filter.online": ("OnlineFilter",),
    "filter.rates": ("Rates",),
    "version": ("__version__",),
}
_MODULES = {name: f"ldmfilter.{module}" for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)
_WHOLE = ("export", "plot")  # modules whose functions are called by the module's name


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name in _WHOLE:
        return import_module(f"ldmfilter.{name}")
    raise AttributeError(f"module 'ldmfilter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_WHOLE])
