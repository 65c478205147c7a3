"""A report is written all at once, over an old one only when told to, and never over a user's files."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from advisor.errors import BadInputError
from advisor.report.records import Column, Figure, Interactive, Report, Section, Series, Table
from advisor.report.rendering.interactive import chart_json
from advisor.report.rendering.limit import limited_page
from advisor.report.rendering.pictures import Pictures, raster_svg
from advisor.report.rendering.write import check_folder, write_report


def line(canvas: MatplotlibFigure, narrow: bool) -> None:
    canvas.subplots().plot([1, 2])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is drawn: tests of what is done with files are quick."""
    monkeypatch.setattr("advisor.report.rendering.write.draw", lambda figure: pictures(10, 10))


def figure(name: str) -> Figure:
    return Figure(name, "Why?", "So.", "A line.", (), line)


def report(*figures: str, tables: tuple[str, ...] = (), title: str = "R") -> Report:
    made = tuple(Table(name, name, (Column("x", "x"),), ((1,),), ()) for name in tables)
    return Report(title, (), {}, (Section("s", "S", "", tuple(map(figure, figures)), made),))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_is_a_page_a_text_and_files_of_each_figure_and_table(tmp_path: Path) -> None:
    said: list[str] = []
    written = write_report(report("a", "b", tables=("t",)), tmp_path / "new" / "report", progress=said.append)
    names = {
        "report.html",
        "report.md",
        "figures/a.png",
        "figures/a.svg",
        "figures/b.png",
        "figures/b.svg",
        "tables/t.csv",
    }
    assert set(files(tmp_path / "new" / "report")) == names
    assert {str(path.relative_to(tmp_path / "new" / "report")) for path in written} == names
    assert said == ["drawing 1 of 2: a", "drawing 2 of 2: b", "writing the page"]


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    write_report(report("a", tables=("t",)), tmp_path)
    first = files(tmp_path)
    write_report(report("a", tables=("t",)), tmp_path, force=True)
    assert files(tmp_path) == first


@pytest.mark.parametrize("existing", ["report.html", "report.md", "figures/a.png"])
def test_nothing_is_overwritten_without_force(tmp_path: Path, existing: str) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / existing).write_text("mine")
    with pytest.raises(BadInputError, match=f"{existing} already: give --force"):
        write_report(report("a"), tmp_path)
    assert files(tmp_path) == {existing: b"mine"}


@pytest.mark.usefixtures("undrawn")
def test_with_force_the_old_reports_files_go_and_a_users_stay(tmp_path: Path) -> None:
    write_report(report("a", "old", tables=("gone",)), tmp_path)
    for mine in ("notes.md", "figures/mine.png", "tables/mine.csv"):
        (tmp_path / mine).write_text("mine")
    write_report(report("a"), tmp_path, force=True)
    assert set(files(tmp_path)) == {
        "report.html", "report.md", "figures/a.png", "figures/a.svg", "notes.md", "figures/mine.png", "tables/mine.csv",
    }  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_an_emptied_folder_of_tables_goes_too(tmp_path: Path) -> None:
    write_report(report("a", tables=("gone",)), tmp_path)
    write_report(report("a"), tmp_path, force=True)
    assert not (tmp_path / "tables").exists()


@pytest.mark.usefixtures("undrawn")
def test_no_name_lists_a_users_file_as_the_reports(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_text("mine")
    write_report(report(title="<!-- Made with this report: figures/mine.png -->"), tmp_path)
    write_report(report("a"), tmp_path, force=True)
    assert (tmp_path / "figures" / "mine.png").read_text() == "mine"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "A", "a.b", "-a", "a\n"])
def test_an_id_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    for made in (report(name), report(tables=(name,))):
        with pytest.raises(ValueError, match="is no id"):
            write_report(made, tmp_path)
    assert files(tmp_path) == {}


def test_two_figures_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' is no id of a report, or is used twice"):
        write_report(report("a", "a"), tmp_path)


def test_a_file_in_the_place_of_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("mine")
    for folder in (tmp_path / "figures", tmp_path):
        with pytest.raises(BadInputError, match="figures is a file; choose another folder"):
            check_folder(folder)
    with pytest.raises(BadInputError, match="Not a directory; choose another folder"):
        check_folder(tmp_path / "figures" / "below")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(BadInputError):
        check_folder(tmp_path, force=True)


def test_a_link_to_nothing_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(BadInputError, match="gone is a link to nothing; choose another folder"):
        check_folder(tmp_path / "gone")


def test_folders_of_an_old_report_that_cannot_be_written_are_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "figures")  # root may write anywhere
    with pytest.raises(BadInputError, match="figures cannot be written; choose another folder"):
        check_folder(tmp_path, force=True)


def test_a_report_that_another_run_wrote_meanwhile_is_kept_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(of: Figure) -> Pictures:
        if of.id == "slow":
            write_report(report("quick"), tmp_path, force=True)
        return pictures(10, 10)

    monkeypatch.setattr("advisor.report.rendering.write.draw", drawn)
    with pytest.raises(BadInputError, match=r"there is .*report\.html already: give --force"):
        write_report(report("slow"), tmp_path)
    assert "figures/quick.png" in files(tmp_path) and "figures/slow.png" not in files(tmp_path)
    write_report(report("slow"), tmp_path, force=True)
    assert "figures/slow.png" in files(tmp_path) and "figures/quick.png" not in files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "figures"}


def test_nothing_is_in_the_folder_while_figures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def drawn(of: Figure) -> Pictures:
        seen.append((tmp_path / "new").exists())
        return pictures(10, 10)

    monkeypatch.setattr("advisor.report.rendering.write.draw", drawn)
    write_report(report("a"), tmp_path / "new")
    assert seen == [False]


def test_a_folder_that_cannot_be_written_is_one_clear_line() -> None:
    with pytest.raises(
        BadInputError, match=r"cannot write a report to /proc/report: .*; choose another folder"
    ) as error:
        check_folder(Path("/proc/report"))
    assert "\n" not in str(error.value)


def test_checking_leaves_no_trace(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(report("a"), tmp_path)
    before = files(tmp_path)
    saved: list[Path] = []

    def write_bytes(path: Path, content: bytes) -> int:
        saved.append(path)
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        with path.open("wb") as file:
            return file.write(content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(BadInputError, match="No space left on device; choose another folder"):
        write_report(report("a", "b"), tmp_path, force=True)
    assert len(saved) == 3
    assert files(tmp_path) == before


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("moves", range(1, 12))
@pytest.mark.usefixtures("undrawn")
def test_an_interruption_while_files_are_put_in_place_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int, moved: bool
) -> None:
    """Before a file is moved, and at once after it."""
    write_report(report("a", tables=("t",)), tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    before = files(tmp_path)
    rename, done = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == moves and not moved:
            raise KeyboardInterrupt
        result = rename(path, target)
        if len(done) == moves:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(report("a", "b", title="other"), tmp_path, force=True)
    assert files(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "figures", "tables", "mine.txt"}


def test_a_figure_that_cannot_be_drawn_leaves_no_folder(tmp_path: Path) -> None:
    def fails(canvas: MatplotlibFigure, narrow: bool) -> None:
        raise ZeroDivisionError

    broken = replace(report(), sections=(Section("s", "S", "", (replace(figure("a"), draw=fails),)),))
    with pytest.raises(ZeroDivisionError):
        write_report(broken, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def pictures(wide: int, narrow: int, *, png: int = 300) -> Pictures:
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x04\x56\x00\x00\x02\x94"  # 1110 x 660
    return Pictures(header.ljust(png, b"\x00"), "", "w" * wide, "n" * narrow)


def page(made: Report, drawn: object) -> str:
    """As long as its pictures are in base64, and its notes."""
    assert isinstance(drawn, dict)
    return "p" * sum(len(p.wide_svg) + len(p.narrow_svg) for p in drawn.values()) * 2 + "".join(made.notes)


def test_a_report_that_is_written_keeps_to_the_limit_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.report.rendering.write.draw", lambda _: pictures(1000, 200_000))
    monkeypatch.setattr("advisor.report.rendering.write.limited_page", partial(limited_page, most_bytes=100_000))
    write_report(report("a"), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 100_000
    for name in ("report.html", "report.md"):
        assert "pictures are without a form of their own for phones: a." in (tmp_path / name).read_text("utf-8"), name


def test_a_small_page_has_everything() -> None:
    drawn = {"a": pictures(1000, 1000)}
    assert limited_page(report("a"), drawn, page, most_bytes=6100) == (report("a"), page(report("a"), drawn))


def test_a_large_page_has_dots_where_they_are_much_smaller() -> None:
    drawn = {"dense": pictures(60_000, 1000), "lines": pictures(1000, 1000)}
    made, html = limited_page(report(), drawn, page, most_bytes=50_000)
    assert made.notes == (
        "To keep this page below its limit these pictures are of dots instead of lines, the same in dark mode: dense.",
    )
    assert len(html) == 2 * (len(raster_svg(drawn["dense"])) + 3000) + len(made.notes[0])


def test_a_larger_page_leaves_out_the_forms_for_phones_of_the_largest_as_few_as_need_be() -> None:
    drawn = {"small": pictures(100, 9_000), "large": pictures(100, 30_000), "middle": pictures(100, 20_000)}
    made, html = limited_page(report(), drawn, page, most_bytes=65_000)
    assert made.notes == (
        "To keep this page below its limit these pictures are without a form of their own for phones: large, middle.",
    )
    assert len(html) < 65_000


def test_the_largest_page_leaves_out_interactive_forms_and_the_report_keeps_them() -> None:
    def chart(points: int) -> Interactive:
        x = tuple(map(float, range(points)))
        return Interactive((Series("s", "points", "blue", x, x, ()),), "x", "y")

    def charts(made: Report, drawn: object) -> str:
        figures = made.sections[0].figures
        return "".join(chart_json(each.interactive) for each in figures if each.interactive) + "".join(made.notes)

    many = [replace(figure(name), interactive=chart(points)) for name, points in (("few", 10), ("many", 5000))]
    given = replace(report(), sections=(Section("s", "S", "", tuple(many)),))
    made, html = limited_page(given, {}, charts, most_bytes=10_000)
    assert made.notes == ("To keep this page below its limit these pictures are without points to hover: many.",)
    assert html == chart_json(chart(10)) + made.notes[0]
    assert made.sections == given.sections


def test_a_page_that_is_too_large_even_so_says_so() -> None:
    made, html = limited_page(report(), {"a": pictures(9_000_000, 10, png=8_000_000)}, page)
    assert "This page is larger than 6 MB: fewer models make a smaller one." in made.notes
    assert html.endswith(made.notes[-1])


def test_the_dots_of_a_picture_are_its_png() -> None:
    assert 'viewBox="0 0 1110 660"' in raster_svg(pictures(1, 1))
    assert "data:image/png;base64,iVBORw0KGgo" in raster_svg(pictures(1, 1))
