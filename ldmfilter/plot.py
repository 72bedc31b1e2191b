"""Pictures of decoded states.

Each function draws onto `ax`, or onto a new figure where there is none, and returns the axes.

    latents = model.decode(counts)
    ldmfilter.plot.states(latents.sel(time=slice(0, 60)))
    ldmfilter.plot.state_space(latents, "linear_position", session)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ldmfilter.analysis import plots
from ldmfilter.analysis.behavior import Behavior, align, as_labels, choose_behavior, distinct, positions
from ldmfilter.analysis.readout import Reading
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["behavior", "calibration", "rates", "state_space", "states", "trials"]


def states(latents: xr.Dataset, number: int = 3, ax: Axes | None = None) -> Axes:
    """Draw the states that vary most in time, one above the other, each in its interval.

    Parameters
    ----------
    latents : xarray.Dataset
        Of `LDMFilter.decode`, the stretch that is to be shown: ``latents.sel(time=slice(0, 60))``.
    number : int
        Of states.
    ax : matplotlib.axes.Axes, optional
        To draw onto; without it a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The states come without `ci`.

    Examples
    --------
    >>> ax = ldmfilter.plot.states(latents.sel(time=slice(0, 60)), number=2)
    >>> len(ax.lines)
    2
    """
    if "ci" not in latents:
        raise InputError("the states come without their intervals, ci; give those of decode")
    ax = _axes(ax, (8, 1 + number))
    plots.plot_states(latents, ax, number)
    return ax


def state_space(
    latents: xr.Dataset,
    by: str | Behavior | ArrayLike | None = None,
    session: Session | None = None,
    dims: tuple[int, int] | Literal["by"] = (0, 1),
    period: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a plane of the states, a point for each bin, coloured by a variable.

    Circular variables are drawn in colours that close to a circle, variables of a few values in a colour each.

    Parameters
    ----------
    latents : xarray.Dataset
        Of `LDMFilter.decode`.
    by : str, Behavior or array_like, optional
        Behaviour of the session, as ``"linear_position"`` or ``"trials.direction"``, or one of `choose_behavior`; or
        values (time,), numbers or texts, one for each bin. Bins where it is NaN are left out. Without it the time of
        the bin, s.
    session : Session, optional
        That holds the behaviour; needed where `by` is a name.
    dims : tuple of int, or "by"
        The two states. State 0 is the slowest. With ``"by"`` the plane in which values of `by` lie farthest apart, by
        a linear discriminant of 24 groups of values, fitted where training was.
    period : float, optional
        One turn of values (time,) that are circular, in their unit. Behaviour that is a name knows its own.
    ax : matplotlib.axes.Axes, optional
        To draw onto; without it a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The session has no such behaviour, `by` has another number of values than there are bins, there are no such
        states, or ``dims="by"`` and there are fewer than three values, two states or enough bins for both.

    Examples
    --------
    >>> ax = ldmfilter.plot.state_space(latents, "linear_position", session)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('h0', 'h1')
    """
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    ax = _axes(ax, (5.5, 4.5))
    if isinstance(by, list | tuple) and by and isinstance(by[0], Behavior):  # of `choose_behavior`
        if len(by) > 1:
            raise InputError(f"by is {len(by)} behaviours; draw one at a time")
        by = by[0]
    elif isinstance(by, str):
        if session is None:
            raise InputError(f"{by!r} is behaviour of a session; give the session too, or a value for each bin")
        by = choose_behavior(session, by)[0]
    classes, label, values = None, "", by
    if by is None:
        label, values = "time, s", latents["time"]
    elif isinstance(by, Behavior):
        values, _ = align(by, latents["time"].to_numpy(), float(latents.attrs["bin_size"]))
        period, classes, label = by.period, by.classes, _label(by.name, by.unit)
    elif all(isinstance(one, str | bool | np.bool_) for one in np.ravel(np.asarray(by, dtype=object))):
        held = as_labels(np.asarray(by).astype(np.str_))
        classes = distinct(held)
        values = positions(held, classes)
    try:
        colour = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("by holds no numbers and no texts; give a value for each bin") from None
    if colour.shape != (latents.sizes["time"],):
        raise InputError(f"{colour.shape} values for {latents.sizes['time']} bins; give one for each bin")
    scale: dict[str, Any] = {"cmap": "viridis"}
    if period:
        low = 0.0 if np.nanmin(colour) > -1e-3 * period else -period / 2
        circle = LinearSegmentedColormap.from_list("circle", plots.CIRCLE)
        scale = {"cmap": circle, "vmin": low, "vmax": low + period}
    elif classes is not None:
        several = ListedColormap(np.resize(plots.COLOURS, len(classes)).tolist())
        scale = {"cmap": several, "vmin": -0.5, "vmax": len(classes) - 0.5}
    known = np.isfinite(colour)
    mean, labels = latents["filtered_mean"].to_numpy(), ["axis 1", "axis 2"]
    if dims == "by":
        seen = latents["trained"].to_numpy() if "trained" in latents else known
        plane = plots.turned(mean, plots.flat(colour, period), seen, 2)
        if plane is None:
            raise InputError("by has fewer than three values, or states or bins are too few; give two dims")
    else:
        if np.shape(dims) != (2,) or not np.isin(dims, latents["state"]).all():
            raise InputError(f"dims is {dims!r}; give two of the {latents.sizes['state']} states, from 0, or 'by'")
        plane, labels = mean[:, list(dims)], [f"h{one}" for one in dims]
    points = ax.scatter(plane[known, 0], plane[known, 1], c=colour[known], s=4, linewidths=0, alpha=0.8, **scale)
    ax.set(xticks=[], yticks=[])
    plots.finish(ax, labels[0], labels[1])
    bar = ax.figure.colorbar(points, ax=ax, shrink=0.7, label=label)
    if classes is not None:
        bar.set_ticks(range(len(classes)), labels=[str(one) for one in classes])
    return ax


def trials(aligned: xr.Dataset, by: str, state: int = 0, ax: Axes | None = None) -> Axes:
    """Draw a state along trials: the mean of each condition in its 95 % band, single trials thin behind.

    Parameters
    ----------
    aligned : xarray.Dataset
        Of `ldmfilter.align`.
    by : str
        Column of the trials' table, as ``"direction"``.
    state : int
        Which state.
    ax : matplotlib.axes.Axes, optional
        To draw onto; without it a new figure. The legend stands beside it: give a figure of several panels
        ``layout="constrained"``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The table has no such column, or there is no such state.

    Examples
    --------
    >>> aligned = ldmfilter.align(latents, session, "trials.start_time", (-0.6, 1.0))
    >>> ax = ldmfilter.plot.trials(aligned, "direction")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['inbound', 'outbound']
    """
    if by not in aligned.coords or aligned[by].dims != ("trial",):
        raise InputError(f"the trials have no column {by!r}")
    if state not in aligned["state"]:
        raise InputError(f"no state {state!r}; there are {aligned.sizes['state']}, from 0")
    values = as_labels(aligned[by].to_numpy())
    names = distinct(values)
    ax = _axes(ax, (6.5, 3.6))
    plots.plot_trials(aligned, state, positions(values, names), [str(name) for name in names], ax)
    ax.legend(title=by, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)  # beside the curves
    return ax


def behavior(latents: xr.Dataset | Reading, name: str, ax: Axes | None = None) -> Axes:
    """Draw behaviour that was read from the states, in its interval, over what was measured.

    Parameters
    ----------
    latents : xarray.Dataset or Reading
        With ``<name>_mean``, of `read_behavior` or ``decode --behavior``, the stretch that is to be shown.
    name : str
        Of the behaviour.
    ax : matplotlib.axes.Axes, optional
        To draw onto; without it a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        No such behaviour was read.

    Examples
    --------
    >>> read = ldmfilter.read_behavior(latents, ldmfilter.choose_behavior(session, ["linear_position"])).latents
    >>> ax = ldmfilter.plot.behavior(read.sel(time=slice(0, 30)), "linear_position")
    >>> ax.get_ylabel()
    'linear_position, cm'
    """
    latents, report = _report(latents, name)
    ax = _axes(ax, (8, 3))
    plots.plot_behavior(latents, name, ax, report["period"])
    ax.set_ylabel(_label(name, report["unit"]))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax


def calibration(latents: xr.Dataset | Reading, name: str, ax: Axes | None = None) -> Axes:
    """Draw the share of bins that lie inside the intervals of a behaviour against the level of the intervals, or the
    share of a class against its probability. On the dashed line both are equal.

    Parameters
    ----------
    latents : xarray.Dataset or Reading
        With ``<name>_mean`` or ``<name>_probability``, of `read_behavior` or ``decode --behavior``.
    name : str
        Of the behaviour.
    ax : matplotlib.axes.Axes, optional
        To draw onto; without it a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        No such behaviour was read, or its intervals were not calibrated, for want of time that training never saw.

    Examples
    --------
    >>> read = ldmfilter.read_behavior(latents, ldmfilter.choose_behavior(session, ["linear_position"])).latents
    >>> ax = ldmfilter.plot.calibration(read, "linear_position")
    >>> ax.get_xlabel()
    'level of the interval'
    """
    report = _report(latents, name)[1]
    if not report["calibration" if report["categories"] else "intervals"]:
        raise InputError(f"{name}: not calibrated; reserve more time from training")
    ax = _axes(ax, (4.5, 4))
    plots.plot_reports([report], ax)
    return ax


def rates(latents: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw the rates of all units in time, each in its own deviations, ordered by when they are highest.

    Parameters
    ----------
    latents : xarray.Dataset
        With ``rate`` (time, unit), Hz, the stretch that is to be shown.
    ax : matplotlib.axes.Axes, optional
        To draw onto; without it a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The dataset has no rates.

    Examples
    --------
    >>> ax = ldmfilter.plot.rates(model.decode(counts, rates=True).sel(time=slice(0, 60)))
    >>> ax.get_ylabel()
    '6 units'
    """
    if "rate" not in latents:
        raise InputError("the states come without rates; decode with them")
    rate = latents["rate"].transpose("time", "unit")
    ax = _axes(ax, (8, 3.6))
    time, half = latents["time"].to_numpy(), float(latents.attrs["bin_size"]) / 2
    order = rate.fillna(-np.inf).argmax("time").argsort().to_numpy()
    plots.plot_signal(rate.isel(unit=order), ax, time[0] - half, time[-1] + half)
    ax.set_ylabel(f"{rate.sizes['unit']} units")
    return ax


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def _label(name: str, unit: str) -> str:
    return f"{name}, {unit}" if unit else name


def _report(latents: xr.Dataset | Reading, name: str) -> tuple[xr.Dataset, dict[str, Any]]:
    """The states, and the report on a behaviour that `read_behavior` leaves with them."""
    latents = latents.latents if isinstance(latents, Reading) else latents
    reports: dict[str, dict[str, Any]] = {one["name"]: one for one in json.loads(latents.attrs.get("behavior", "[]"))}
    if name not in reports:
        has = f"it has {', '.join(reports)}" if reports else "none was read"
        raise InputError(f"the states come without the behaviour {name!r}; {has}")
    return latents, reports[name]
