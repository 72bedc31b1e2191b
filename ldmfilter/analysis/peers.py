"""Peers to set beside a filter's states, where the extra `bench` is installed: GPFA and CEBRA.

A state of either has seen bins after its own: GPFA `CONTEXT` bins or more, the rest of a short trial; CEBRA 4. Counts
that a state has seen are no forecast, so `score` leaves their cells ahead empty. At hidden units, which neither sees,
they have these bins in advance of a causal state: the smoothed states are set beside them there.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ldmfilter.analysis.baselines import DIMS, centred_roots, n_factors
from ldmfilter.analysis.judged import Bins, thinned
from ldmfilter.data.tables import Array
from ldmfilter.errors import InputError

MOST_FITTED = 10_000  # bins that GPFA is fitted to, 500 pieces of 20 bins
STEPS = 100  # of its expectation maximisation at most
CONTEXT = 20  # bins before and after as many whose states are kept: as long as the pieces that GPFA is fitted to
BEFORE, AFTER = 5, 4  # bins that CEBRA's `offset10-model` reads beside its own
APART = 10  # bins between CEBRA's pairs, half a trial where trials are shorter
ITERATIONS, RATE = 500, 1e-3  # of CEBRA's learning


def gpfa(bins: Bins) -> Array:
    """States (time, dim) of Gaussian-process factor analysis of root counts (Yu et al. 2009, J Neurophysiol 102:614),
    by elephant; NaN in bins not observed.

    It takes time to the third power of a trial's length: elephant fits it to pieces of 20 bins (shorter trials are left
    out, unless all are), and a state is computed from a window of 60 bins or what there is of it.
    """
    from elephant.gpfa import gpfa_core

    roots = centred_roots(bins)
    roots = roots[:, roots[bins.fit].any(0)]
    states = np.full((len(roots), n_factors(roots.shape[1])), np.nan)
    if not roots.shape[1]:  # none of these units fires where it is fitted
        return states
    windows = [
        (rows[max(first - CONTEXT, 0) : first + 2 * CONTEXT], rows[first : first + CONTEXT])
        for rows in _stretches(bins, ~np.isnan(bins.counts).all(1))
        for first in range(0, len(rows), CONTEXT)
    ]

    def trials(parts: Sequence[Array]) -> Array:
        return np.array([(len(rows), roots[rows].T) for rows in parts], [("T", int), ("y", object)])

    with _aside():
        learnt = _stretches(bins, thinned(bins.fit, MOST_FITTED, bins.size, 0))
        found, _ = gpfa_core.fit(
            trials(learnt), states.shape[1], 1000 * bins.size, em_max_iters=STEPS, tau_init=5000 * bins.size
        )
        inferred, _ = gpfa_core.exact_inference_with_ll(trials([window for window, _ in windows]), found, get_ll=False)
    for (window, kept), latent in zip(windows, inferred["latent_variable"], strict=True):
        states[kept] = latent.T[np.isin(window, kept)]
    return states


def cebra_time(bins: Bins) -> Array:
    """States (time, dim) of CEBRA-Time (Schneider, Lee & Mathis 2023, Nature 617:360), whose pairs are `APART` bins
    apart; NaN in bins not observed.

    Its window reaches over the ends of trials, where the first or last bin is repeated.
    """
    from cebra import CEBRA

    roots = centred_roots(bins).astype(np.float32)
    states = np.full((len(roots), min(DIMS, roots.shape[1])), np.nan)

    def padded(parts: Sequence[Array]) -> tuple[Array, Array]:
        own = [np.pad(np.ones(len(rows), bool), (BEFORE, AFTER)) for rows in parts]
        return np.concatenate([np.pad(rows, (BEFORE, AFTER), "edge") for rows in parts]), np.concatenate(own)

    learnt = _stretches(bins, bins.fit)
    apart = min(APART, max(1, int(np.median([len(rows) for rows in learnt])) // 2))
    with _aside(), torch.enable_grad():
        model = CEBRA(
            model_architecture="offset10-model", batch_size=512, learning_rate=RATE, output_dimension=states.shape[1],
            max_iterations=ITERATIONS, time_offsets=apart, conditional="time", distance="cosine", device="cpu",
        )  # fmt: skip
        model.fit(roots[padded(learnt)[0]])
        rows, own = padded(_stretches(bins, ~np.isnan(bins.counts).all(1)))
        states[rows[own]] = model.transform(roots[rows])[own]
    return states


#: Package and states of peers, by name.
PEERS: dict[str, tuple[str, Callable[..., Array]]] = {
    "GPFA": ("elephant", gpfa),
    "CEBRA": ("cebra", cebra_time),
}


def chosen(names: Sequence[str]) -> dict[str, Callable[..., Array]]:
    """The named peers, in any case of letters.

    Raises:
        InputError: no such peer, or its package is not installed.
    """
    made = {}
    for name in map(str.upper, names):
        if name not in PEERS:
            raise InputError(f"peer {name}: not known; choose from {', '.join(PEERS)}")
        package, made[name] = PEERS[name]
        try:
            import_module(package)
        except ImportError:
            raise InputError(f"peer {name}: the package {package} is missing; pip install 'ldmfilter[bench]'") from None
    return made


def _stretches(bins: Bins, chosen: Any) -> list[Array]:
    """Numbers of the chosen bins (time,), in stretches without a gap."""
    rows = np.flatnonzero(chosen)
    return np.split(rows, np.flatnonzero((np.diff(rows) != 1) | bins.starts[rows[1:]]) + 1)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Keep the peers' prints and warnings off the terminal, and draw the same numbers each time, apart from others'."""
    before = np.random.get_state()  # noqa: NPY002  both draw from the global generators
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
