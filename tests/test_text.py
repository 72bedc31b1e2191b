"""Texts that objects have in a notebook, and tables on narrow terminals."""

import io
import sys

import pytest
from rich.console import Console

from ldmfilter.progress import follow
from ldmfilter.text import plain, print_table

HEADS = ["bits per spike", ">runs/[/b]", ">smoothed counts, 0.5 s", ">causal PCA, 0.5 s", "lead over the best"]
ROWS = [
    ("0.1 s ahead", "0.721 (0.063)", "0.757 (0.066)", "0.755 (0.066)", "-0.036 (0.006) over smoothed counts"),
    ("hidden units, learnt from 500 bins", "0.625 (0.054)", "0.631 (0.055)", "-", ""),
]


def printed(width: int) -> list[str]:
    """Lines of the table on a console of that width."""
    text = io.StringIO()
    print_table(Console(file=text, width=width), HEADS, ROWS)
    return text.getvalue().splitlines()


def test_in_a_notebook_a_table_is_text_and_is_not_displayed_by_itself(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert plain(lambda console: console.print("a table")) == "a table"


@pytest.mark.parametrize("width", [80, 60])
def test_a_table_that_does_not_fit_is_a_list_of_heads_and_cells_for_each_row(width):
    pairs = [line.split("  ", 1) for line in printed(width)]
    found = [(head, rest[0].strip()) for head, *rest in pairs if rest]
    names = [head.removeprefix(">") for head in HEADS]
    assert found == [(name, cell) for row in ROWS for name, cell in zip(names, row, strict=True) if cell]


def test_a_table_may_have_no_rows_and_a_head_no_letters():
    text = io.StringIO()
    print_table(Console(file=text, width=20), ["name", ">R2"], [])
    print_table(Console(file=text, width=20), ["name", ">"], [("a", "0.1")])
    assert text.getvalue().split() == ["name", "R2", "name", "a", "0.1"]


def test_texts_are_folded_between_words_and_numbers_are_not():
    assert len(printed(200)) == 3
    lines = printed(100)
    assert max(map(len, lines)) <= 100
    for row in ROWS:
        assert any(all(cell in line for cell in row[1:4]) for line in lines)
    assert [line[:20].rstrip() for line in lines[-2:]] == ["hidden units, learnt", "from 500 bins"]


def test_a_total_that_grows_is_not_cut_on_a_narrow_terminal(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    seen = [0]
    steps = (seen.append(step) or step for step in range(0, 1201, 300))
    list(follow(steps, lambda: 1200 if seen[-1] > 600 else 600, int, lambda _: "fast " * 20, "step"))
    assert "1200/1200" in terminal.getvalue()
