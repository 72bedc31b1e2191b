"""Ranges of the options of objectives on pairs."""

import math
from collections.abc import Sequence
from typing import Any

from ldmfilter.errors import InputError

#: Options by name: lower and upper limit, and whether the limits are included.
LIMITS: dict[str, tuple[float, float, bool]] = {
    "correlation": (0, 1, False),
    "p_match": (0, 1, False),
    "clip": (0, 0.999, True),
    "k": (1, math.inf, True),
    "bandwidth": (0, math.inf, False),
    "kernel": (0, math.inf, False),
    "kappa": (0, math.inf, False),
    "temperature": (0, math.inf, False),
    "invariance": (0, math.inf, True),
    "variance": (0, math.inf, True),
    "covariance": (0, math.inf, True),
}


def check(shape: Sequence[int], sphere: bool = False, **options: Any) -> None:
    """Refuse options, or views (sample, dim), that an objective cannot be computed with; None is an option's default.

    Raises:
        InputError: a value outside `LIMITS`, fewer than two pairs or no more than k, a sphere in one dimension.
    """
    for name, value in options.items():
        if name == "mutual_information":
            if not isinstance(value, bool):
                raise InputError(f"{name} is {value!r}; give true or false")
        elif value is not None:
            least, most, closed = LIMITS[name]
            number = isinstance(value, int if name == "k" else int | float) and not isinstance(value, bool)
            if not number or not (least <= value <= most if closed else least < value < most) or math.isinf(value):
                what = "a whole number" if name == "k" else "a number"
                bounds = f"from {least:g}" if closed else f"above {least:g}"
                end = "" if math.isinf(most) else f" to {most:g}" if closed else f" and below {most:g}"
                raise InputError(f"{name} is {value!r}; it must be {what} {bounds}{end}")
    pairs, dim = shape
    if pairs < 2:
        raise InputError(f"an objective needs at least 2 pairs, got {pairs}; give larger batches")
    if options.get("k") is not None and options["k"] >= pairs:
        raise InputError(f"k is {options['k']}; it must be below the {pairs} pairs of a batch")
    if sphere and dim < 2:
        raise InputError(f"a sphere needs at least 2 dimensions, got {dim}; give a larger latent")
