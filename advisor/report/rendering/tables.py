"""A table's cells as CSV and as printed text."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

from advisor.profiling.output.text import LONGEST_READ, clean
from advisor.report.records import NOT_MEANT, Cell, Column, Table

UNKNOWN = "??"
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
)  # what spreadsheets start a formula with: https://owasp.org/www-community/attacks/CSV_Injection


def csv_text(table: Table) -> str:
    """All rows as CSV under the columns' keys: raw values (seconds, bytes; floats to nine digits), unknown ones empty.

    Words are anybody's text: control characters become "?" or a blank, so that a line is a row, and words that a
    spreadsheet would take for a formula, for they begin with "=", "+", "-" or "@", get an apostrophe before them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    writer.writerows([_raw(cell) for cell in row] for row in table.rows)
    return text.getvalue()


def printed(cell: Cell, column: Column) -> str:
    """A cell as pages print it, on one line and without control characters; "??" where it is unknown.

    It is plain text: whoever puts it into HTML or Markdown escapes it.
    """
    if _unknown(cell):
        return UNKNOWN
    if column.show is not None and cell != NOT_MEANT:
        return clean(column.show(cell), LONGEST_READ)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.4g}" if isinstance(cell, float) else clean(str(cell), LONGEST_READ)


def known_columns(table: Table) -> Table:
    """The table as pages print it: without the columns that are unknown in every row that is shown. CSV has all."""
    shown = table.rows[: table.shown]
    every = range(len(table.columns))
    kept = [place for place in every if not shown or not all(_unknown(row[place]) for row in shown)]
    columns, rows = tuple(table.columns[place] for place in kept), (tuple(row[i] for i in kept) for row in table.rows)
    return replace(table, columns=columns, rows=tuple(rows))


def numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, but for cells that are unknown or not meant: it is set to the right."""
    known = [row[column] for row in table.rows if not _unknown(row[column]) and row[column] != NOT_MEANT]
    return bool(known) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in known)


def _unknown(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _raw(cell: Cell) -> str:
    if _unknown(cell):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return f"{cell:.9g}"
    if not isinstance(cell, str):
        return str(cell)
    line = clean(cell, LONGEST_READ)
    return f"'{line}" if line.startswith(_FORMULA) else line
