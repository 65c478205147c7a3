"""Cells as CSV and as printed: raw values, nothing a spreadsheet would run, unknown is never 0."""

from __future__ import annotations

import csv
import io
import math

import pytest

from advisor.report.records import NOT_MEANT, Cell, Column, Table
from advisor.report.rendering.tables import csv_text, known_columns, numeric, printed
from advisor.units import duration


def table(*rows: tuple[Cell, ...], titles: int = 1) -> Table:
    return Table("t", "T", tuple(Column(f"key_{i}", f"Title {i}") for i in range(titles)), rows, ())


def only_cell(cell: Cell) -> str:
    (_, row) = csv.reader(io.StringIO(csv_text(table((cell,), ("end",))).removesuffix("end\n")))
    return row[0] if row else ""


def test_csv_has_raw_values_under_keys_with_their_units() -> None:
    columns = (Column("time_s", "time", lambda s: duration(float(s or 0))), Column("fits", "fits?"))
    made = csv_text(Table("t", "T", columns, ((0.00123456789012, True), (2, False), (None, None)), (), shown=1))
    assert made == "time_s,fits\n0.00123456789,true\n2,false\n,\n"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r\n=cmd|' /C calc'!A0"])
def test_words_that_a_spreadsheet_would_run_get_an_apostrophe(cell: str) -> None:
    assert only_cell(cell).startswith("'")


def test_negative_numbers_stay_numbers() -> None:
    assert only_cell(-1.5) == "-1.5"


def test_a_line_is_a_row_whatever_a_cell_holds() -> None:
    assert csv_text(table(('a\n"b",\x00\x1b[31m',))).count("\n") == 2
    assert only_cell('a\n"b",') == 'a "b",'


@pytest.mark.parametrize("cell", [None, math.nan])
def test_the_unknown_is_printed_as_question_marks_and_left_empty_in_csv(cell: Cell) -> None:
    assert printed(cell, Column("x", "x", lambda _: "0")) == "??"
    assert only_cell(cell) == ""


def test_a_column_says_how_its_cells_are_printed() -> None:
    assert printed(0.0021, Column("time_s", "time", lambda s: duration(float(s or 0)))) == "2.10 ms"
    plain = Column("x", "x")
    assert [printed(cell, plain) for cell in (True, False, 12345, 0.123456, "a\nb")] == [
        "yes", "no", "12345", "0.1235", "a b",
    ]  # fmt: skip


def test_a_column_of_numbers_is_told_from_words() -> None:
    made = table((1, "a", None, True, 2.5), (None, 2, None, False, NOT_MEANT), titles=5)
    assert [numeric(made, index) for index in range(5)] == [True, False, False, False, True]


def test_where_no_figure_is_meant_nothing_is_printed() -> None:
    assert printed(NOT_MEANT, Column("time_s", "time", lambda s: duration(float(s or 0)))) == ""


def test_a_column_of_which_nothing_is_known_is_in_the_csv_alone() -> None:
    found = table(("a", None, math.nan, 1), ("b", None, None, None), titles=4)
    kept = known_columns(found)
    assert [column.key for column in kept.columns] == ["key_0", "key_3"]
    assert kept.rows == (("a", 1), ("b", None))
    assert csv_text(found).startswith("key_0,key_1,key_2,key_3\n")


def test_what_is_known_further_down_fills_no_column_of_the_page() -> None:
    found = Table("t", "T", (Column("a", "A"), Column("b", "B")), (("x", None), ("y", 2)), (), shown=1)
    assert [column.key for column in known_columns(found).columns] == ["a"]


def test_a_table_without_rows_keeps_its_columns() -> None:
    assert known_columns(table(titles=2)) == table(titles=2)
