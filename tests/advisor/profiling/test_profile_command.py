"""`advisor profile` as a user types it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

import advisor.profiling.live.record
from advisor.cli import main
from bench.schemas import FOLDER
from tests.advisor.profiling.test_analysis import small_trace
from tests.data import recorded_trace
from tests.kineto import KinetoTrace

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = main(["profile", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_headline_of_resnet_says_what_a_user_wants_to_know(run: Run) -> None:
    code, out, err = run(recorded_trace("resnet50_train_b32_fp32_v100.json.gz"))
    assert (code, err) == (0, "")
    assert out.startswith(
        "133 ms a step (mean of 5 of 6 steps, median 126 ms) on Tesla V100-DGXS-32GB, batch 32, FP32: the GPU is busy "
    )
    assert "no kernel ran on Tensor Cores" in out.splitlines()[0]
    assert "\x1b" not in out


def test_the_json_of_resnet_keeps_its_published_schema_and_the_kernel_time(run: Run) -> None:
    code, out, _ = run(recorded_trace("resnet50_train_b32_fp32_v100.json.gz"), "--format", "json")
    document = json.loads(out)
    jsonschema.validate(document, json.loads((FOLDER / "trace-profile.json").read_text()))
    assert code == 0
    assert document["schema_version"] == 1
    assert document["kernel_time_s"] == document["bill"]["kernel_time_s"] == pytest.approx(0.594868, abs=5e-7)
    for table in ("by_class", "by_operator", "by_layer", "by_shape", "kernels"):
        assert sum(row["total_s"] for row in document[table]) == pytest.approx(0.594868, abs=5e-7)


def test_csv_has_a_row_per_kernel_and_units_in_its_columns(run: Run, tmp_path: Path) -> None:
    _, out, _ = run(small_trace(tmp_path / "trace.json"), "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert float(row["total_s"]) == pytest.approx(1.2e-3)
    assert (row["class"], row["tile"], row["launches"]) == ("gemm", "128x128x32", "3")


@pytest.mark.parametrize("by", ["class", "operator", "layer", "shape", "kernel"])
@pytest.mark.parametrize("format_", ["table", "markdown", "csv"])
def test_every_table_in_every_format(run: Run, tmp_path: Path, by: str, format_: str) -> None:
    code, out, _ = run(small_trace(tmp_path / "trace.json"), "--by", by, "--format", format_)
    assert code == 0
    assert "addmm" in out or by in ("class", "kernel", "layer")


def test_the_picture_and_the_output_go_to_files(run: Run, tmp_path: Path) -> None:
    picture, text = tmp_path / "p.png", tmp_path / "p.md"
    code, out, err = run(
        small_trace(tmp_path / "t.json"), "--plot", picture, "--format", "markdown", "--output", text)  # fmt: skip
    assert (code, out) == (0, "")
    assert err.splitlines() == [f"wrote {text}", f"wrote {picture}"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert text.read_text().startswith("**990 us a step (mean of 3 steps)")


def test_a_picture_that_cannot_be_is_refused_before_the_trace_is_read(run: Run, tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "absent.json", "--plot", tmp_path / "p.gif")
    assert code == 2
    assert "gif" in err


def test_names_of_the_trace_cannot_act_on_the_terminal_or_break_a_table(run: Run, tmp_path: Path) -> None:
    trace = KinetoTrace()
    name = "k\x1b]0;owned\x07|`\r\n" + "$\\frac{" * 2000
    op = trace.op(f"op{name}", 0, 50, dims=[[4, 4]])
    trace.kernel(name, 60, 100, launched=10, external=op)
    path = trace.write(tmp_path / "t.json")
    for format_ in ("table", "markdown", "csv", "json"):
        code, out, err = run(path, "--format", format_, "--plot", tmp_path / "p.png")
        assert code == 0
        assert "\x1b" not in out + err
        assert "\x07" not in out + err
    _, out, _ = run(path, "--format", "csv")
    assert len(out.splitlines()) == 2
    _, out, _ = run(path)
    assert max(map(len, out.splitlines())) < 500


BROKEN = {
    "empty.json": b"",
    "text.json": b"hello",
    "number.json": b"3",
    "list.json": b"[1, 2, 3]",
    "other.json": b'{"a": 1}',
    "cut.json": b'{"traceEvents": [{"ph": "X", "name"',
    "deep.json": b'{"traceEvents": ' + b"[" * 100_000,
    "cut.json.gz": gzip.compress(b'{"traceEvents": []}')[:-9],
    "latin.json": b'{"traceEvents": [{"ph": "X", "name": "\xff\xfe\xfd"',
}


def test_no_batch_beyond_the_memory_limit_is_recommended(run: Run) -> None:
    trace = recorded_trace("resnet50_train_b32_fp32_v100.json.gz")
    code, out, _ = run(trace, "--memory-limit", "6GiB", "--max-batch", "100", "--format", "json")
    assert code == 0
    for advice in json.loads(out)["advice"]:
        assert max(point["batch"] for point in advice["points"]) <= 100
        for point in advice["points"]:
            assert not point["fits"] or point["total_bytes"] <= 6 * 2**30
        assert next(point for point in advice["points"] if point["batch"] == advice["batch"])["fits"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_one_line_and_exit_code_5(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BROKEN[name])
    code, out, err = run(tmp_path / name)
    assert (code, out) == (5, "")
    assert err.startswith("advisor: ")
    assert err.count("\n") == 1
    assert name in err


def test_a_zip_bomb_is_refused_in_bounded_memory(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bomb.json.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("t.json", "w", force_zip64=True) as f,
    ):
        f.write(b'{"traceEvents": [{"name": "')
        for _ in range(100):
            f.write(b"a" * 2**20)
    code, _, err = run(path)
    assert code == 5
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["mi250_rocm", "cpu_only"])
def test_a_trace_without_nvidia_kernels_is_bad_input(run: Run, name: str) -> None:
    code, out, err = run(recorded_trace(f"{name}.json.gz"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give a recorded TRACE"),
        (["--model", "resnet50"], "--batch"),
        (["t.json", "--model", "resnet50", "--input", "3x8x8"], "--model, --input"),
        (["absent.json"], "absent.json"),
        (["t.json", "--on", "nosuchgpu"], "nosuchgpu"),
        (["t.json", "--memory-limit", "lots"], "24GiB"),
        (["t.json", "--max-batch", "0"], "largest batch to search"),
        (["t.json", "--rows", "-1"], "--rows"),
        ([""], "it is empty"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(run: Run, words: list[str], says: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_the_live_form_records_then_shows_the_same(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def record(model: str, **options: object) -> Path:
        asked.update(options, model=model)
        return small_trace(tmp_path / "kept.json")

    monkeypatch.setattr(advisor.profiling.live.record, "record_live", record)
    code, live, err = run("--model", "resnet50", "--batch", 256, "--input", "3x64x64", "--keep", tmp_path / "kept.json")
    assert code == 0
    assert err == f"kept {tmp_path / 'kept.json'}\n"
    del asked["say"]
    assert asked == {"model": "resnet50", "batch": 256, "input_shape": (3, 64, 64), "keep": tmp_path / "kept.json"}
    assert run(tmp_path / "kept.json")[1] == live


def test_a_run_on_the_processor_is_kept_and_not_judged(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisor.profiling.live.record, "record_live", lambda *_, **__: tmp_path / "kept.json")
    code, out, err = run("--model", "resnet50", "--batch", 2, "--device", "cpu")
    assert (code, out) == (0, "")
    assert err == f"advisor: ran on the processor: kept {tmp_path / 'kept.json'}, with nothing of a GPU in it\n"


def test_figures_of_csv_have_nine_digits_at_most(run: Run, tmp_path: Path) -> None:
    _, out, _ = run(small_trace(tmp_path / "trace.json"), "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["total_s"], row["per_step_s"]) == ("0.0012", "0.0004")


def test_neither_torch_nor_matplotlib_is_imported_for_a_table(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "trace.json")
    script = (
        "import sys; from advisor.cli import main; code = main(['profile', sys.argv[1]]); "
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules), 'imported'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
