"""What pages and Markdown share of a report's words: code within prose, and sources that captions name briefly."""

from __future__ import annotations

import re
from collections.abc import Iterator

from advisor.profiling.output.text import LONGEST_READ, clean
from advisor.report.records import Origin, Report

# Beside another backtick or a "$" Markdown may read more than code: both stay as they are.
_CODE = re.compile(r"(?<![`$])`((?=\S)[^`]+(?<=\S))`(?![`$])")


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Prose on one line in pieces, and whether each is code: "give `--force`" is ("give ", False), ("--force", True).

    Whoever renders them escapes both kinds.
    """
    for place, piece in enumerate(_CODE.split(clean(text, LONGEST_READ))):
        if piece:
            yield piece, place % 2 == 1


def sources(report: Report) -> dict[Origin, int]:
    """The origins whose captions have a short form, numbered from 1 as they first appear; the rest are said in full."""
    shown = (
        origins
        for section in report.sections
        for origins in (*(figure.origins for figure in section.figures), *(table.origins for table in section.tables))
    )
    briefly = dict.fromkeys(origin for origins in shown for origin in origins if origin.short)
    return {origin: number for number, origin in enumerate(briefly, start=1)}
