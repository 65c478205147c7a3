"""A report as Markdown for a code host: answers, pictures with alternative text, tables cut with a link to all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from advisor.profiling.output.text import LONGEST_READ, clean
from advisor.report.records import Figure, Origin, Report, Section, Table
from advisor.report.rendering.prose import items, pieces, sources
from advisor.report.rendering.tables import known_columns, numeric, printed

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Where each acts: backslash, backtick, asterisk, brackets, pipe, tilde; "$" begins mathematics on code hosts.
_ACTIVE = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_SOURCES = "Sources in full"
_BLOCK_START = re.compile(r"^(\d*)(#+(?=\s|$)|[+-](?=[\s-]|$)|(?<=\d)[.)](?=\s|$))")  # heading, rule, list


def markdown(report: Report) -> str:
    """The whole report, with links to figures/ID.png, figures/ID.svg and tables/ID.csv beside it.

    All text is escaped: no name makes a table cell, a heading, HTML, or a link that leads elsewhere than it reads.
    """
    return "\n\n".join(_blocks(report)) + "\n"


def escaped(text: str) -> str:
    """Any text as Markdown that shows just this text, on one line."""
    return _BLOCK_START.sub(r"\1\\\2", _inert(clean(text, LONGEST_READ)))


def prose(text: str) -> str:
    """As `escaped`, but words between two backticks are code."""
    return _BLOCK_START.sub(
        r"\1\\\2", "".join(f"`{piece}`" if is_code else _inert(piece) for piece, is_code in pieces(text))
    )


def _inert(line: str) -> str:
    return re.sub("[&<>]", lambda found: _ENTITIES[found[0]], _ACTIVE.sub(r"\\\g<0>", line))


def _blocks(report: Report) -> Iterator[str]:
    yield f"# {escaped(report.title)}"
    if report.summary:
        yield _list(report.summary)
    if report.notes:
        yield "\n>\n".join(f"> {prose(note)}" for note in report.notes)
    if report.conditions:
        yield _grid(("", ""), ((name, value) for name, value in report.conditions.items()), right=(False, False))
    yield "The same with the facts of each point, and tables that sort: [report.html](report.html)."
    numbers = sources(report)
    for section in report.sections:
        yield from _section(section, numbers)
    if numbers:
        yield f"## {_SOURCES}"
        yield "\n".join(f"{number}. {_said(origin, origin.text)}" for origin, number in numbers.items())


def _section(section: Section, numbers: Mapping[Origin, int]) -> Iterator[str]:
    yield f"## {escaped(section.title)}"
    if section.lead:
        yield prose(section.lead)
    for item in items(section):
        yield from _figure(item, numbers) if isinstance(item, Figure) else _table(known_columns(item), numbers)
    if section.notes:
        yield _list(section.notes)


def _figure(figure: Figure, numbers: Mapping[Origin, int]) -> Iterator[str]:
    yield f"### {escaped(figure.title)}"
    yield prose(figure.answer)
    yield f"![{escaped(figure.alt)}](figures/{figure.id}.png)"
    yield f"{_origins(figure.origins, numbers)}[SVG](figures/{figure.id}.svg)"


def _table(table: Table, numbers: Mapping[Origin, int]) -> Iterator[str]:
    yield f"### {escaped(table.title)}"
    rows = table.rows if table.shown is None else table.rows[: table.shown]
    if rows:
        yield _grid(
            [column.title for column in table.columns],
            ([printed(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in rows),
            right=[numeric(table, index) for index in range(len(table.columns))],
        )
    if notes := [f"{column.title}: {column.note}" for column in table.columns if column.note]:
        yield "\n".join(f"- {escaped(note)}" for note in notes)
    total = f"{len(rows):,} of {len(table.rows):,} rows; all: " if len(rows) < len(table.rows) else ""
    yield f"{_origins(table.origins, numbers)}{total}[CSV](tables/{table.id}.csv)"


def _origins(origins: Sequence[Origin], numbers: Mapping[Origin, int]) -> str:
    """ "*Exact:* counted from shapes. *Estimate:* 4 % off, [source 1](#...). ..." and a blank after it."""
    return "".join(f"{_caption(origin, numbers.get(origin))} " for origin in origins)


def _caption(origin: Origin, number: int | None) -> str:
    if number is None:
        return _said(origin, origin.text)
    return f"{_said(origin, origin.short).rstrip('.')}, [source {number}](#{_SOURCES.lower().replace(' ', '-')})."


def _said(origin: Origin, text: str) -> str:
    return f"*{origin.kind.capitalize()}:* {prose(_sentence(text))}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {prose(line)}" for line in lines)


def _grid(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool]) -> str:
    rule = ["---:" if to_the_right else "---" for to_the_right in right]
    lines = [[escaped(title) for title in titles], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
