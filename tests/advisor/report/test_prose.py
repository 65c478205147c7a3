"""What pages and Markdown share: the order of figures and tables, and how words are set."""

from __future__ import annotations

import pytest

from advisor.report.records import Column, Figure, Origin, Report, Section, Table
from advisor.report.rendering.prose import items, pieces, sources


def figure(id_: str, *origins: Origin) -> Figure:
    return Figure(id_, id_, "", "", origins, lambda _canvas, _narrow: None)


def table(id_: str, *origins: Origin) -> Table:
    return Table(id_, id_, (Column("a", "a"),), ((1,),), origins)


def test_a_table_follows_the_figure_whose_id_its_own_begins_with() -> None:
    figures = tuple(map(figure, ("layers-a", "layers-a-cliff", "layers-b")))
    tables = tuple(map(table, ("layers-b", "other", "layers-a-cliff", "layers-a-more", "layers-a", "layers-bc")))
    ordered = [(type(item).__name__, item.id) for item in items(Section("layers", "", "", figures, tables))]
    assert ordered == [
        ("Figure", "layers-a"), ("Table", "layers-a-more"), ("Table", "layers-a"),
        ("Figure", "layers-a-cliff"), ("Table", "layers-a-cliff"),
        ("Figure", "layers-b"), ("Table", "layers-b"),
        ("Table", "other"), ("Table", "layers-bc"),
    ]  # fmt: skip


def test_sources_are_numbered_as_they_are_read() -> None:
    first, second, third = (Origin("estimate", text, short=text) for text in ("first", "second", "third"))
    section = Section("s", "", "", (figure("a", first), figure("b", third)), (table("a", second, first),))
    assert sources(Report("", (), {}, (section,))) == {first: 1, second: 2, third: 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("889 images/s +-10 % are", "889 images/s \N{PLUS-MINUS SIGN}10 % are"),
        ("give `+-10`, a +- b", "give +-10, a +- b"),  # code, and no number
    ],
)
def test_commands_print_ascii_and_pages_a_sign_of_more_or_less(text: str, words: str) -> None:
    assert "".join(piece for piece, _ in pieces(text)) == words
