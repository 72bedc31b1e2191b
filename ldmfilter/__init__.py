"""ldmfilter: what a population of neurons encodes, moment by moment, and how sure one can be.

    session = ldmfilter.read_session("session.nwb")
    counts = ldmfilter.bin_spikes(session, 0.1)
    model = ldmfilter.LDMFilter(latent_dim=8).fit(counts)
    latents = model.decode(counts, ci=0.95)

Names are imported when they are first used: reading data needs no torch, and the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldmfilter.data import read_session
    from ldmfilter.data.binning import bin_spikes, choose_spans, choose_units
    from ldmfilter.data.session import Session
    from ldmfilter.data.windows import reserve
    from ldmfilter.errors import InputError, TrainingError
    from ldmfilter.filter.model import LDMFilter, load
    from ldmfilter.filter.online import OnlineFilter
    from ldmfilter.version import __version__

_HOMES = {
    "read_session": "ldmfilter.data",
    "bin_spikes": "ldmfilter.data.binning",
    "choose_spans": "ldmfilter.data.binning",
    "choose_units": "ldmfilter.data.binning",
    "reserve": "ldmfilter.data.windows",
    "Session": "ldmfilter.data.session",
    "InputError": "ldmfilter.errors",
    "TrainingError": "ldmfilter.errors",
    "LDMFilter": "ldmfilter.filter.model",
    "load": "ldmfilter.filter.model",
    "OnlineFilter": "ldmfilter.filter.online",
    "__version__": "ldmfilter.version",
}
__all__ = [
    "InputError",
    "LDMFilter",
    "OnlineFilter",
    "Session",
    "TrainingError",
    "__version__",
    "bin_spikes",
    "choose_spans",
    "choose_units",
    "load",
    "read_session",
    "reserve",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ldmfilter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
