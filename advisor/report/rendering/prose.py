"""What pages and Markdown share: code within prose, the order of figures and tables, sources named briefly."""

from __future__ import annotations

import re
from collections.abc import Iterator

from advisor.profiling.output.text import LONGEST_READ, clean
from advisor.report.records import Figure, Origin, Report, Section, Table

_MORE_OR_LESS = re.compile(r"\+-(?=\d)")  # commands print ASCII alone
# Beside another backtick or a "$" Markdown may read more than code: both stay as they are.
_CODE = re.compile(r"(?<![`$])`((?=\S)[^`]+(?<=\S))`(?![`$])")


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Prose on one line in pieces, and whether each is code: "give `--force`" is ("give ", False), ("--force", True).

    In words "+-11 %" is "±11 %". Whoever renders them escapes both kinds.
    """
    for place, piece in enumerate(_CODE.split(clean(text, LONGEST_READ))):
        if piece:
            is_code = place % 2 == 1
            yield piece if is_code else _MORE_OR_LESS.sub("\N{PLUS-MINUS SIGN}", piece), is_code


def items(section: Section) -> list[Figure | Table]:
    """Figures and tables as they are read: a table whose id is a figure's, or begins with it, follows that figure.

    The other tables come after all figures.
    """
    of_figure: dict[str, list[Figure | Table]] = {figure.id: [figure] for figure in section.figures}
    rest: list[Figure | Table] = []
    for table in section.tables:
        owners = (name for name in of_figure if f"{table.id}-".startswith(f"{name}-"))
        owner = max(owners, key=len, default=None)
        (rest if owner is None else of_figure[owner]).append(table)
    return [each for group in (*of_figure.values(), rest) for each in group]


def sources(report: Report) -> dict[Origin, int]:
    """The origins whose captions have a short form, numbered from 1 as they first appear; the rest are said in full."""
    shown = (origin for section in report.sections for item in items(section) for origin in item.origins)
    briefly = dict.fromkeys(origin for origin in shown if origin.short)
    return {origin: number for number, origin in enumerate(briefly, start=1)}
