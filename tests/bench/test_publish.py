"""What the project publishes: the same bytes twice, nothing stale, and links that lead somewhere."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from advisor.errors import BadInputError, BrokenFileError
from advisor.report.records import Figure, Origin, Report, Section
from advisor.report.rendering.tables import csv_text
from advisor.report.rendering.write import write_report
from bench.accuracy_report import accuracy_report
from bench.publish import (
    QUESTIONS,
    REPORTS,
    _remove_others,
    beginning,
    gallery,
    gpu_report,
    main,
    publish,
    published_gpus,
)
from tests.data import measured

GPU = "l40s"
FIGURES = "gpus/{}/figures/{}.png"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def report(*ids: str, title: str = "A report") -> Report:
    section = Section("all", "All", "", tuple(
        Figure(name, f"What is {name}?", f"It is {name}.", f"A picture of {name}.", (Origin("exact", "counted"),),
               lambda _figure, _narrow: None)
        for name in ids
    ))  # fmt: skip
    return Report(title, (), {}, (section,))


def test_every_gpu_with_timings_of_its_own_has_a_report() -> None:
    assert set(published_gpus()) == {
        "a100-sxm4-80gb", "b200-sxm", "h100-sxm-80gb", "h200-sxm", "l40s", "rtx-3090", "rtx-pro-6000-server",
        "v100-sxm2-16gb",
    }  # fmt: skip


@pytest.mark.slow
def test_a_second_run_writes_the_same_bytes_elsewhere_and_over_an_older_report(tmp_path: Path) -> None:
    data, older = measured(), tmp_path / "two"
    publish(data, tmp_path / "one", [GPU])
    first = files(tmp_path / "one")
    write_report(report("no-longer-drawn"), older / "gpus" / GPU)
    assert f"gpus/{GPU}/figures/no-longer-drawn.png" in files(older)
    publish(data, tmp_path / "two", [GPU])
    assert files(tmp_path / "two") == first
    assert {f"gpus/{GPU}/report.html", f"gpus/{GPU}/report.md"} <= set(first)


@pytest.mark.parametrize("gpu", published_gpus())
def test_published_tables_are_current(gpu: str) -> None:
    """They follow the profiles and the sections."""
    assert stale(REPORTS / "gpus" / gpu, lambda: gpu_report(gpu, measured())) == [], CURE


def test_the_published_accuracy_report_is_current() -> None:
    """It follows ACCURACY.md and the counts of held-out rows."""
    text = (REPORTS / "ACCURACY.md").read_text(encoding="utf-8")
    assert stale(REPORTS / "accuracy", lambda: accuracy_report(text, published_gpus())) == [], CURE


CURE = "run `python -m bench publish --data DIR`, and say what moved"


def stale(folder: Path, make: Callable[[], Report]) -> list[str]:
    """The tables of a published report that are not those of the report as it is made now."""
    made = {f"{table.id}.csv": csv_text(table) for section in make().sections for table in section.tables}
    there = {path.name: path.read_text(encoding="utf-8") for path in (folder / "tables").iterdir()}
    return sorted(name for name in {*there, *made} if not agree(there.get(name, ""), made.get(name, "")))


def agree(one: str, other: str) -> bool:
    """Whether two CSV texts hold the same, their figures but for what another processor rounds otherwise."""
    rows, others = (list(csv.reader(text.splitlines())) for text in (one, other))
    return [len(row) for row in rows] == [len(row) for row in others] and all(
        a == b or close(a, b) for row, its in zip(rows, others, strict=True) for a, b in zip(row, its, strict=True)
    )


def close(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=1e-15)
    except ValueError:
        return False


def test_tables_agree_but_for_the_last_digits() -> None:
    assert agree("a,time_s\nx,0.00593907028\n", "a,time_s\nx,0.00593907029\n")
    for other in ("a,time_s\nx,0.00594\n", "a,time_s\ny,0.00593907028\n", "a,time_s\n", "a\nx\n", ""):
        assert not agree("a,time_s\nx,0.00593907028\n", other)


def test_an_unknown_gpu_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no report is published of gtx-1080: choose from a100-sxm4-80gb"):
        main(["--data", str(tmp_path), "--gpus", "gtx-1080", "--output", str(tmp_path)])


def test_a_report_that_is_published_no_more_is_removed_and_other_folders_stay(tmp_path: Path) -> None:
    for name in ("old", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").write_text("x")
    (tmp_path / "mine").mkdir()
    said: list[str] = []
    _remove_others(tmp_path, ["kept"], said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "mine"]
    assert len(said) == 1


# The gallery


N, MAP = "throughput-n-m2304-k4096", "waves-map"


def test_a_question_is_asked_once_of_the_a100_and_leads_to_the_same_picture_of_the_others() -> None:
    found = gallery({"gpus/l40s": report(MAP, N), "gpus/a100-sxm4-80gb": report(N, title="Another")})
    assert found.count(f"## What is {N}?") == 1
    assert f"]({FIGURES.format('a100-sxm4-80gb', N)})](gpus/a100-sxm4-80gb/report.md)" in found
    assert f"The same for [l40s]({FIGURES.format('l40s', N)})" in found
    assert f"]({FIGURES.format('l40s', MAP)})](gpus/l40s/report.md)" in found  # where the A100 has none


def test_questions_come_in_the_order_of_interest_and_others_are_left_to_the_reports() -> None:
    found = gallery({"gpus/a100-sxm4-80gb": report("powers", MAP, N)})
    assert re.findall(r"^## (.*)$", found, re.MULTILINE) == [f"What is {N}?", f"What is {MAP}?", "All reports"]
    assert "None of these cards was measured by this project" in found


def test_a_caption_says_whose_measurements_a_picture_shows() -> None:
    found = report(N)
    section = found.sections[0]
    origin = Origin("public measurement", "their table, at length", "their table, Apache-2.0")
    figure = replace(section.figures[0], origins=(origin, *section.figures[0].origins))
    found = replace(found, sections=(replace(section, figures=(figure,)),))
    assert "Measured: their table, Apache-2.0." in gallery({"gpus/l40s": found})
    assert "Measured:" not in gallery({"gpus/l40s": report(N)})


def test_a_caption_is_the_beginning_of_the_answer() -> None:
    first = "At K = 4096 one column more costs 38 % (measured: 17.3 %)."
    second = "There 108 tiles, 1 wave, become 126, 2 waves."
    assert beginning(f"{first} {second}") == f"{first} {second}"
    assert beginning(f"{first} {second} {'Word ' * 30}more.") == f"{first} {second}"
    assert beginning(f"{'Word ' * 50}more. {second}") == f"{'Word ' * 50}more."


def test_words_of_a_report_are_escaped() -> None:
    found = gallery({"accuracy": report("a", title="<script>[x](y)")})
    assert "<script>" not in found
    assert r"\[x\](y)" in found


def links(text: str) -> Iterator[str]:
    return (link for link in re.findall(r"\]\(([^)\s#]+)\)", text) if "://" not in link)


def test_links_of_the_published_gallery_lead_to_files() -> None:
    text = (REPORTS / "GALLERY.md").read_text(encoding="utf-8")
    missing = [link for link in links(text) if not (REPORTS / link).is_file()]
    assert missing == []


def test_the_published_gallery_asks_every_question() -> None:
    text = (REPORTS / "GALLERY.md").read_text(encoding="utf-8")
    assert [question for question in QUESTIONS if f"/figures/{question}.png" not in text] == []


# The accuracy report

TEXT = """# How wrong

All of it.

<!-- begin gemm -->
## Products

### Sizes

Per cent of `m`.

| GPU | rows | mean | bias |
|-----|------|------|------|
| a100 | 1234 | 3.50 | +0.001 |
| h100 | 99 | 12.00 | -0.020 |

A note.

Shorter ones:

| GPU | a/b |
|-----|-----|
| a100 | 0.8/0.9 |
<!-- end gemm -->
"""


def test_headings_become_sections_paragraphs_leads_and_tables_sort_as_numbers() -> None:
    found = accuracy_report(TEXT, ["a100-sxm4-80gb"])
    (section,) = found.sections
    assert (found.title, found.notes) == ("How wrong", ("All of it.",))
    assert (section.title, section.lead, section.notes) == ("Products: Sizes", "Per cent of `m`.", ("A note.",))
    first, second = section.tables
    assert first.rows == (("a100", 1234, 3.5, 0.001), ("h100", 99, 12.0, -0.02))
    assert [column.title for column in first.columns] == ["GPU", "rows", "mean", "bias"]
    assert (second.title, second.rows) == ("Shorter ones", (("a100", "0.8/0.9"),))


def test_numbers_are_printed_with_the_digits_and_signs_of_the_text() -> None:
    table = accuracy_report(TEXT, ["a100-sxm4-80gb"]).sections[0].tables[0]
    printed = [[column.show(cell) if column.show else cell for column, cell in zip(table.columns, row, strict=True)]
               for row in table.rows]  # fmt: skip
    assert printed == [["a100", "1,234", "3.50", "+0.001"], ["h100", "99", "12.00", "-0.020"]]


def test_a_table_with_rows_of_several_lengths_is_refused() -> None:
    with pytest.raises(BrokenFileError, match="rows of several lengths"):
        accuracy_report("# A\n\n| a | b |\n|---|---|\n| 1 |\n", ["a100-sxm4-80gb"])


def test_the_projects_accuracy_report_is_taken_whole() -> None:
    text = (REPORTS / "ACCURACY.md").read_text(encoding="utf-8")
    found = accuracy_report(text, published_gpus())
    rows = sum(len(table.rows) for section in found.sections for table in section.tables)
    ruled = len(re.findall(r"^\|[-| ]+\|$", text, flags=re.MULTILINE))
    assert rows == len(re.findall(r"^\|", text, flags=re.MULTILINE)) - 2 * ruled
    figures = [figure for section in found.sections for figure in section.figures]
    steps = [figure.id for figure in figures[3:]]
    assert [figure.id for figure in figures[:3]] == ["errors-side-by-side", "densities", "borrowed"]
    assert steps and all(name.startswith("accuracy-steps-") for name in steps)
    assert "below every simpler model on 6 of 6 GPUs" in figures[0].answer
    products, trained, borrowed = found.summary
    assert "2.4 % to 6.2 % off in the mean" in products
    assert "On Tesla V100-SXM2-16GB, with few timings: 14.2 %." in products
    assert "5.6 % (NHWC), 4.3 % (NCHW) off in the mean" in trained
    assert "6.2 % to 37.1 % off in the mean" in borrowed
