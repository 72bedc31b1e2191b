"""Pages made from the code: the command line from its help, the configuration from its fields; and the gallery's
pictures, the last one of each tutorial."""

import dataclasses
import re
import shutil
import typing
from pathlib import Path

import typer
from ldmfilter_cli.main import app as command_line
from sphinx.util.logging import getLogger

from ldmfilter.config import TABLES, kind

PICTURE = re.compile(r'<img alt="[^"]*" src="\.\./_images/([0-9a-f]{64}\.png)"')
TYPOGRAPHY = re.compile("[\N{EN DASH}\N{EM DASH}][a-z]\\w*|[\u2018-\u201e]\\w*")
NAMELESS = re.compile(r'<img[^>]* alt="(?:[^"]*[0-9a-f]{40}[^"]*)?"[^>]*>')
LOGGER = getLogger(__name__)
# The kinds of settings that have no bounds.
WORDS = {bool: "true or false", str: "text", tuple[str, ...]: "text, several"}
WORDS[tuple[tuple[float, float], ...]] = "from and to, several"


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", r"\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _option(one) -> tuple[str, str]:
    """How a parameter of a command is given, and what it is."""
    if one.param_type_name == "argument":
        return f"`{one.name.upper()}`", one.help or ""
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    metavar = "" if one.is_flag else f" `{(one.metavar or 'VALUE').replace('|', ' | ')}`"
    plain = isinstance(one.default, int | float | str) and not one.is_flag
    return names + metavar, (one.help or "") + (f" (default: {one.default})" if plain else "")


def command_page() -> str:
    """Every command, its help and its options by group."""
    commands = typer.main.get_command(command_line).commands
    page = "# The command line\n\nEvery command explains itself with `--help`, of which this page is made.\n\n"
    page += _table(("command", ""), [(f"[{name}](#{name})", one.short_help) for name, one in commands.items()])
    for name, one in commands.items():
        page += f"\n## {name}\n\n{one.help}\n"
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in one.params:
            panel = getattr(parameter, "rich_help_panel", None)
            argument = parameter.param_type_name == "argument"
            groups.setdefault(panel or ("Arguments" if argument else "Options"), []).append(_option(parameter))
        for panel, rows in groups.items():
            page += f"\n**{panel}**\n\n{_table(('', ''), rows)}"
    return page


def _allowed(one: dataclasses.Field) -> str:
    """The values that a setting may have, in words."""
    about, of = one.metadata, kind(one)
    if "choices" in about:
        return ", ".join(about["choices"])
    several = " each, several" if typing.get_origin(of) is tuple else ""
    low = f"{about['least']:,} or more" if "least" in about else f"above {about['above']:,}" if "above" in about else ""
    high = f"up to {about['most']:,}" if "most" in about else f"below {about['below']:,}" if "below" in about else ""
    if "least" in about and "most" in about:
        return f"{about['least']:,} to {about['most']:,}{several}"
    return (", ".join(filter(None, (low, high))) + several) if low or high else WORDS[of]


def configuration_page() -> str:
    """Every setting: its name in Python and TOML, its default, what it is, and what it may be."""
    page = (
        "# The configuration\n\nA setting is an option of the command line (`max_steps` is `--max-steps`), a key of "
        "the TOML file that `--config` takes and each run folder keeps as `config.toml`, and, under `[filter]`, an "
        "argument of `LDMFilter`.\n"
    )
    for name, table in TABLES.items():
        rows = []
        for one in dataclasses.fields(table):
            flag = f" (`--{one.metadata['flag']}`)" if "flag" in one.metadata else ""
            default = "" if one.default in (None, ()) else f"`{one.default}`"
            rows.append((f"`{one.name}`{flag}", default, one.metadata["help"], _allowed(one)))
        page += f"\n## [{name}]\n\n{table.__doc__}\n\n{_table(('setting', 'default', '', 'allowed'), rows)}"
    return page


def _write_pages(app) -> None:
    folder = Path(app.srcdir) / "reference"
    for name, text in {"command-line": command_page(), "configuration": configuration_page()}.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _gallery(app, error) -> None:
    """Copy the last picture of each tutorial to `_static/gallery`, where the page of tutorials shows it."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    (out / "_static" / "gallery").mkdir(parents=True, exist_ok=True)
    for page in (out / "tutorials").glob("*.html"):
        pictures = PICTURE.findall(page.read_text(encoding="utf-8"))
        if pictures:
            shutil.copy(out / "_images" / pictures[-1], out / "_static" / "gallery" / f"{page.stem}.png")


def _check_pages(app, error) -> None:
    """Warn of pages where a typographer made a dash of an option's hyphens or curly quotes of straight ones, and of
    pictures without an alternative text."""
    if error or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for found in NAMELESS.findall(text):
            LOGGER.warning("%s: a picture has no alternative text: %s", page.name, found)
        for found in TYPOGRAPHY.findall(text):
            LOGGER.warning("%s cannot be copied: %r; write straight quotes and hyphens", page.name, found)


def setup(app):
    app.connect("builder-inited", _write_pages)
    app.connect("build-finished", _gallery)
    app.connect("build-finished", _check_pages)
    return {"parallel_read_safe": True}
