"""Texts that objects have in a notebook."""

from ldmfilter.text import plain


def test_in_a_notebook_a_table_is_text_and_is_not_displayed_by_itself(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert plain(lambda console: console.print("a table")) == "a table"
