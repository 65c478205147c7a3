"""A report as Markdown for a code host: answers, pictures with alternative text, tables cut with a link to all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from advisor.profiling.output.text import LONGEST_READ, clean
from advisor.report.records import Figure, Origin, Report, Section, Table
from advisor.report.rendering.tables import numeric, printed

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Where each acts: backslash, backtick, asterisk, brackets, pipe, tilde; "$" begins mathematics on code hosts.
_ACTIVE = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK_START = re.compile(r"^(\d*)(#+(?=\s|$)|[+-](?=[\s-]|$)|(?<=\d)[.)](?=\s|$))")  # heading, rule, list


def markdown(report: Report) -> str:
    """The whole report, with links to figures/ID.png, figures/ID.svg and tables/ID.csv beside it.

    All text is escaped: no name makes a table cell, a heading, HTML, or a link that leads elsewhere than it reads.
    """
    return "\n\n".join(_blocks(report)) + "\n"


def escaped(text: str) -> str:
    """Any text as Markdown that shows just this text, on one line."""
    line = _ACTIVE.sub(r"\\\g<0>", clean(text, LONGEST_READ))
    line = re.sub("[&<>]", lambda found: _ENTITIES[found[0]], line)
    return _BLOCK_START.sub(r"\1\\\2", line)


def _blocks(report: Report) -> Iterator[str]:
    yield f"# {escaped(report.title)}"
    if report.summary:
        yield _list(report.summary)
    if report.notes:
        yield "\n>\n".join(f"> {escaped(note)}" for note in report.notes)
    if report.conditions:
        yield _grid(("", ""), ((name, value) for name, value in report.conditions.items()), right=(False, False))
    yield "The same with the facts of each point, and tables that sort: [report.html](report.html)."
    for section in report.sections:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield f"## {escaped(section.title)}"
    if section.lead:
        yield escaped(section.lead)
    for figure in section.figures:
        yield from _figure(figure)
    for table in section.tables:
        yield from _table(table)
    if section.notes:
        yield _list(section.notes)


def _figure(figure: Figure) -> Iterator[str]:
    yield f"### {escaped(figure.title)}"
    yield escaped(figure.answer)
    yield f"![{escaped(figure.alt)}](figures/{figure.id}.png)"
    yield f"{_origins(figure.origins)}[SVG](figures/{figure.id}.svg)"


def _table(table: Table) -> Iterator[str]:
    yield f"### {escaped(table.title)}"
    rows = table.rows if table.shown is None else table.rows[: table.shown]
    if rows:
        yield _grid(
            [column.title for column in table.columns],
            ([printed(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in rows),
            right=[numeric(table, index) for index in range(len(table.columns))],
        )
    if notes := [f"{column.title}: {column.note}" for column in table.columns if column.note]:
        yield _list(notes)
    total = f"{len(rows):,} of {len(table.rows):,} rows; all: " if len(rows) < len(table.rows) else ""
    yield f"{_origins(table.origins)}{total}[CSV](tables/{table.id}.csv)"


def _origins(origins: Sequence[Origin]) -> str:
    """ "*Exact:* counted from shapes. *Estimate:* ..." and a blank after it."""
    return "".join(f"*{origin.kind.capitalize()}:* {escaped(_sentence(origin.text))} " for origin in origins)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _grid(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool]) -> str:
    rule = ["---:" if to_the_right else "---" for to_the_right in right]
    lines = [[escaped(title) for title in titles], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
