"""The page: templates that write the words about a report's numbers, in one file that needs no network.

Every text from a session (unit names, paths, tags) is escaped by the templates. A content security policy names the
two scripts by their hashes, so that a browser runs nothing else, and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.environment import TemplateModule
from markupsafe import Markup, escape

from ldmfilter.analysis.calibration import unit_of
from ldmfilter.analysis.report.pictures import Picture
from ldmfilter.analysis.text import reason_in_words


def environment() -> Environment:
    """The templates, with the filters below."""
    made = Environment(
        loader=PackageLoader("ldmfilter.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    filters = (short, plain_number, in_words, listed, plain, with_options, reason_in_words, unit_of)
    made.filters |= {one.__name__: one for one in filters}
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def write_section(name: str, content: dict[str, Any], pictures: Mapping[str, Picture]) -> TemplateModule:
    """A section's markup, empty where it has nothing to show; its attribute `heading` is the heading.

    Args:
        name: of the section and its template.
        content: the report's numbers, plain types. The words that report.json repeats (captions, the summary's
            sentences) are added to it.
        pictures: by name.
    """
    return environment().get_template(f"{name}.html").make_module({**content, "content": content, "pictures": pictures})


def write_page(names: Sequence[str], content: dict[str, Any], pictures: Mapping[str, Picture]) -> str:
    """The whole page, of the sections in this order; `content` and `pictures` as for `write_section`."""
    from plotly.offline import get_plotlyjs

    # A browser reads every line end as \n, and checks the script's hash after that.
    scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), asset("report.js"))]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sections = [(name, write_section(name, content, pictures)) for name in names]
    template = environment().get_template("page.html")
    return template.render(content, sections=sections, scripts=scripts, hashes=hashes, css=asset("report.css"))


def asset(name: str) -> str:
    """The text of a file that lies beside this module."""
    return (files("ldmfilter.analysis.report") / name).read_text(encoding="utf-8")


# Numbers and names as text: filters of the templates.

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
