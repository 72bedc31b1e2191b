"""Spans of time: labelled ones, and their union and intersection as arrays (span, 2) of start and stop, s."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldmfilter.data.tables import Floats, Ints, places
from ldmfilter.errors import warn


class Span(NamedTuple):
    """A stretch of time [start, stop), s, and its label."""

    start: float
    stop: float
    label: str = ""

    @property
    def clock(self) -> str:
        """START:STOP, as it is written on the command line."""
        return f"{self.start:g}:{self.stop:g}"


def bounds_of(spans: Sequence[Span]) -> Floats:
    """The spans without their labels, (span, 2), s."""
    return np.asarray([span[:2] for span in spans], dtype=np.float64).reshape(-1, 2)


def join_overlaps(spans: Sequence[Span], where: str) -> list[Span]:
    """The spans in order, those that overlap joined into one, with a warning; touching spans stay apart."""
    ordered = sorted(spans)
    joined: list[Span] = []
    for span, is_new in zip(ordered, _begins_union(bounds_of(ordered), touching=False), strict=True):
        if is_new:
            joined.append(span)
        else:
            last = joined[-1]
            labels = dict.fromkeys([*last.label.split("+"), span.label])
            joined[-1] = Span(last.start, max(last.stop, span.stop), "+".join(labels))
    if len(joined) < len(ordered):
        warn(f"{where}: joined {len(ordered)} overlapping spans into {len(joined)}")
    return joined


def union(bounds: Floats) -> Floats:
    """Disjoint intervals (interval, 2) in order that cover the same time; empty ones vanish.

    >>> union(np.array([[2.0, 3.0], [0.0, 1.0], [1.0, 1.5]])).tolist()
    [[0.0, 1.5], [2.0, 3.0]]
    """
    bounds = bounds[bounds[:, 1] > bounds[:, 0]]
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    first = np.flatnonzero(_begins_union(bounds, touching=True))
    if not first.size:
        return bounds
    return np.stack([bounds[first, 0], np.maximum.reduceat(bounds[:, 1], first)], axis=1)


def intersect(a: Floats, b: Floats) -> tuple[Floats, Ints, Ints]:
    """The intersection of two lists of disjoint, ordered intervals (interval, 2), and the rows it came from.

    >>> intersect(np.array([[0.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 4.0]]))[0].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    low = np.searchsorted(b[:, 1], a[:, 0], side="right")
    high = np.maximum(np.searchsorted(b[:, 0], a[:, 1], side="left"), low)
    many = high - low
    rows = np.repeat(np.arange(len(a)), many)
    others = places(many) + np.repeat(low, many)
    both = np.stack([np.maximum(a[rows, 0], b[others, 0]), np.minimum(a[rows, 1], b[others, 1])], axis=1)
    return both, rows, others


def _begins_union(bounds: Floats, touching: bool) -> np.ndarray:
    """(interval,) bool, for intervals in order of their starts: True where none before reaches to this one.

    touching: count intervals that only touch as one
    """
    reach = np.maximum.accumulate(bounds[:, 1])[:-1]
    starts = bounds[1:, 0]
    return np.concatenate([[True], starts > reach if touching else starts >= reach])[: len(bounds)]
