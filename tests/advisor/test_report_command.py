"""`advisor report` as a user types it."""

from __future__ import annotations

import csv
import datetime
import html
import os
import shlex
import signal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from advisor.cli import main
from advisor.cli import report as command
from advisor.report.build import build_report
from advisor.report.records import Report
from advisor.report.rendering.pictures import Pictures
from advisor.report.subject import Measured
from advisor.signals import heard
from tests.advisor.report.recordings import every_kind
from tests.data import recorded_trace

_FORMATS = ("png", "svg")


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
    report = build_report(gpu="a100-sxm4-80gb", models=["resnet50"], measured=Measured())
    figures = [figure.id for section in report.sections for figure in section.figures]
    tables = [table for section in report.sections for table in section.tables]
    assert {path.name for path in (made / "figures").iterdir()} == {f"{id_}.{s}" for id_ in figures for s in _FORMATS}
    assert {path.name for path in (made / "tables").iterdir()} == {f"{table.id}.csv" for table in tables}
    page, text = ((made / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for id_ in figures:
        assert f'<h3 id="figure-{id_}">' in page and f"](figures/{id_}.png)" in text, id_
    for table in tables:
        assert f'<h3 id="table-{table.id}">' in page and f"](tables/{table.id}.csv)" in text, table.id
        rows = list(csv.reader((made / "tables" / f"{table.id}.csv").read_text(encoding="utf-8").splitlines()))
        assert rows[0] == [column.key for column in table.columns]
        assert [len(row) for row in rows] == [len(table.columns)] * (1 + len(table.rows))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are computed, and no picture is drawn."""
    monkeypatch.setattr("advisor.report.rendering.write.draw", lambda _: Pictures(b"", "<svg/>", "<svg/>", "<svg/>"))


@pytest.mark.usefixtures("undrawn")
def test_records_that_are_named_are_in_the_page_with_what_was_typed_and_the_day(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = every_kind(tmp_path / "my records.db")
    line = ["report", "--gpu", "h200", "--records", str(records), "-o", str(tmp_path / "made")]
    monkeypatch.setattr("sys.argv", ["advisor", *line])
    days = {datetime.date.today().isoformat()}
    code, out, err = run(*line)
    days.add(datetime.date.today().isoformat())
    assert code == 0, err
    assert "Left out of my records.db, which holds 6 rows: 1 row (1 failed)." in err
    page = Path(out.strip()).read_text(encoding="utf-8")
    text = Path(out.strip()).with_name("report.md").read_text(encoding="utf-8")
    assert all(f'<h2 id="section-{id_}">' in page for id_ in ("batch", "ratios", "timeline"))
    assert '"measured: fp16 AMP, nhwc, sgd, cudnn.benchmark=True"' in page  # a series to hover
    assert "Left out of my records.db" in page and "Left out of my records.db" in text
    assert "<dt>SM clock</dt><dd>1.75 GHz, median while measuring</dd>" in page
    assert "<dt>Command</dt><dd><code>advisor report --gpu h200 --records &#39;" in page
    assert f"<dd><code>{html.escape(shlex.join(['advisor', *line])).replace('&#x27;', '&#39;')}</code></dd>" in page
    assert any(f"<dt>Made</dt><dd>{day}</dd>" in page for day in days)


@pytest.mark.usefixtures("undrawn")
def test_the_result_alone_is_on_stdout_and_progress_on_stderr(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("advisor.report.build.SECTIONS", {"waves": "wave efficiency"})
    code, out, err = run("report", "--gpu", "rtx-3090", "--model", "resnet18", "-o", str(tmp_path / "made"))
    assert (code, out.strip()) == (0, str(tmp_path / "made" / "report.html"))
    stages = ["deciding", "computing", "drawing", "writing the page"]
    assert err.splitlines()[:4] == [f"advisor: {stage}" for stage in stages]
    assert "Nothing in this report was measured" in err and "\x1b" not in err


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


def test_an_empty_name_of_a_folder_is_not_the_current_one(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("report", "--gpu", "t4", "-o", "")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "it is empty" in err and not list(tmp_path.iterdir())


def test_unknown_models_and_gpus_are_one_line(run, tmp_path: Path) -> None:
    for arguments in (["--gpu", "h1000"], ["--gpu", "a100", "--model", "resnet5"]):
        code, out, err = run("report", *arguments, "-o", str(tmp_path / "made"))
        assert (code, out) == (2, "")
        assert "Nearest" in err.splitlines()[-1]
        assert not (tmp_path / "made").exists()


@pytest.fixture
def trace_alone(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """A report has the section of its trace, and no picture is drawn."""
    monkeypatch.setattr("advisor.report.build.SECTIONS", {"trace": "recorded trace"})


@pytest.mark.usefixtures("trace_alone")
def test_a_recorded_trace_becomes_a_section(run, tmp_path: Path) -> None:
    trace = recorded_trace("alexnet_a100.json.gz")
    code, out, _ = run("report", "--gpu", "a100", "--trace", str(trace), "-o", str(tmp_path / "made"))
    assert code == 0
    assert "torch.profiler" in Path(out.strip()).read_text(encoding="utf-8")


@pytest.mark.usefixtures("trace_alone")
def test_a_trace_that_names_no_gpu_is_given_one(run, tmp_path: Path) -> None:
    trace = str(recorded_trace("sampled_no_device_properties.json.gz"))
    line = ("report", "--gpu", "h100", "--max-batch", "8", "--trace", trace, "--trace-gpu")
    code, out, _ = run(*line, "a100", "-o", str(tmp_path / "made"))
    assert code == 0
    text = Path(out.strip()).with_name("report.md").read_text(encoding="utf-8")
    assert "recorded on another GPU, NVIDIA A100-SXM4-80GB" in text
    code, out, err = run(*line, "t4", "-o", str(tmp_path / "other"))
    assert (code, out) == (2, "")
    assert "give --trace-gpu the traced one" in err and "--on" not in err


def test_sizes_and_recipe_are_given_as_to_recommend(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def build_report(**arguments: object) -> Report:
        asked.update(arguments)
        return Report("Made up", (), {}, ())

    monkeypatch.setattr(command, "build_report", build_report)
    line = [
        "--input",
        "3x64x64",
        "--precision",
        "bf16",
        "--optimizer",
        "adamw",
        "--margin",
        "5%",
        "--layout",
        "nchw",
        "--mode",
        "infer",
    ]
    assert run("report", *line, "-o", str(tmp_path / "made"))[0] == 0
    setup = {"input_shape": (3, 64, 64), "precision": "bf16", "optimizer": "adamw", "margin": "5%", "layout": "nchw",
             "mode": "infer", "recipe": "default"}  # fmt: skip
    assert asked | setup == asked and "seq_len" not in asked


def test_where_somebody_watches_progress_is_one_line(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    with command._progress() as say:
        say("drawing 1 of 2: " + "a" * 100)
        say("drawing 2 of 2: b")
    told = capsys.readouterr().err
    assert "\n" not in told
    assert len(max(told.split("\r"), key=len)) <= 40


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_undoes_what_is_half_done_and_ends_the_run(name: str) -> None:
    number, undone = getattr(signal, name), []
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, heard((name,), command._end):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            undone.append(name)
    assert (ended.value.code, undone) == (128 + number, [name])
    assert signal.getsignal(number) == before
