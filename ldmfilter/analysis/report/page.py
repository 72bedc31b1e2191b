"""The page: templates that write the words about a report's numbers, in one file that needs no network.

Every text from a session (unit names, paths, tags) is escaped by the templates. A content security policy names the
two scripts by their hashes, so that a browser runs nothing else, and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.environment import TemplateModule

from ldmfilter.analysis.report import words
from ldmfilter.analysis.report.pictures import Picture
from ldmfilter.analysis.text import reason_in_words


def environment() -> Environment:
    """The templates, with the filters of `words`."""
    made = Environment(
        loader=PackageLoader("ldmfilter.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    filters = (
        words.short,
        words.plain_number,
        words.in_words,
        words.listed,
        words.plain,
        reason_in_words,
        words.with_options,
    )
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
