"""`advisor report` as a user types it."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

import pytest

from advisor.cli import main
from tests.data import recorded_trace


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*line: str) -> tuple[int, str, str]:
        code = main(list(line))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


class _Page(HTMLParser):
    """What a page refers to, and the headings it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h1", "h2"):
            self.headings.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "poster")]
        self.links += [value or "" for name, value in attrs if name == "href"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "report"
    assert main(["report", "--gpu", "a100-sxm4-80gb", "--model", "resnet50", "-o", str(folder)]) == 0
    return folder


def test_the_page_stands_alone_and_is_under_six_megabytes(made: Path) -> None:
    text = (made / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert len(text.encode()) < 6e6
    assert page.headings.count("h1") == 1
    assert page.headings.count("h2") >= 6
    assert page.loaded
    assert all(reference.startswith("data:") for reference in page.loaded)
    assert all(link.startswith(("#", "data:")) or (made / link).is_file() for link in page.links)


def test_every_figure_is_there_as_png_and_svg_and_every_table_as_csv(made: Path) -> None:
    pictures = list((made / "figures").iterdir())
    assert (
        {path.stem for path in pictures if path.suffix == ".png"}
        == {path.stem for path in pictures if path.suffix == ".svg"}
        != set()
    )
    text = (made / "report.md").read_text(encoding="utf-8")
    for path in pictures:
        assert path.suffix == ".svg" or f"figures/{path.name}" in text
    for path in (made / "tables").iterdir():
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        assert len({len(row) for row in rows}) == 1


def test_the_result_alone_is_on_stdout_and_progress_on_stderr(run, tmp_path: Path) -> None:
    code, out, err = run("report", "--gpu", "rtx-3090", "--model", "resnet18", "-o", str(tmp_path / "made"))
    assert (code, out.strip()) == (0, str(tmp_path / "made" / "report.html"))
    assert err.count("computing: ") >= 5
    assert "Nothing in this report was measured" in err


def test_an_existing_report_is_kept_unless_forced(run, made: Path) -> None:
    before = (made / "report.html").read_bytes()
    code, out, err = run("report", "--gpu", "t4", "-o", str(made))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--force" in err
    assert (made / "report.html").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_computed(run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    code, out, err = run("report", "--gpu", "t4", "-o", str(tmp_path / "taken"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "taken" in err


def test_unknown_models_and_gpus_are_one_line(run, tmp_path: Path) -> None:
    for arguments in (["--gpu", "h1000"], ["--gpu", "a100", "--model", "resnet5"]):
        code, out, err = run("report", *arguments, "-o", str(tmp_path / "made"))
        assert (code, out) == (2, "")
        assert "Nearest" in err.splitlines()[-1]
        assert not (tmp_path / "made").exists()


def test_a_recorded_trace_becomes_a_section(run, tmp_path: Path) -> None:
    trace = recorded_trace("alexnet_a100.json.gz")
    code, out, _ = run("report", "--gpu", "a100", "--trace", str(trace), "-o", str(tmp_path / "made"))
    assert code == 0
    assert "torch.profiler" in Path(out.strip()).read_text(encoding="utf-8")
