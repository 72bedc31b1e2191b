"""Numbers and names as text: filters of the templates."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def short(value: float | None, digits: int = 3) -> str:
    """A number in plain text: whole ones with thousands apart, others with `digits` significant digits; a dash for None
    and for what is not finite.

    >>> short(12345), short(0.98765), short(24.0), short(-0.00001234), short(None)
    ('12,345', '0.988', '24.0', '\u22121.23e\u22125', '\u2013')
    """
    if value is None or not math.isfinite(value):
        return "\u2013"
    if isinstance(value, int) or abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    elif value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".") if value else "0"
    return text.replace("-", "\u2212")


def with_options(text: str) -> Markup:
    """A sentence as markup, each option of the command line in it as code, which no line end divides.

    >>> with_options("choose a larger --bin-size & wait")
    Markup('choose a larger <code class="whole">--bin-size</code> &amp; wait')
    """
    return Markup(re.sub(r"--[a-z][a-z-]*", r'<code class="whole">\g<0></code>', str(escape(text))))


def plain_number(value: float) -> str:
    """A time, or another value on a scale, with two decimals at most.

    >>> plain_number(1200.0), plain_number(-0.256)
    ('1,200', '\u22120.26')
    """
    return f"{round(value, 2):,.10g}".replace("-", "\u2212")


def in_words(count: int) -> str:
    """A small number as a word, others in digits."""
    return _NUMBERS[count] if count < len(_NUMBERS) else short(count)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def plain(markup: str) -> str:
    """The text of a piece of a page in one line, which does not break between a number and its percent sign."""
    return Markup(markup).striptags().replace(" %", "\u202f%")
