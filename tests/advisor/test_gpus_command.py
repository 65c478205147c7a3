"""`advisor gpus` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from advisor.cli import main
from advisor.gpus import list_gpus


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["gpus", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_has_a_row_for_every_gpu_and_marks_those_without_tensor_cores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = _run(capsys, "--format", "csv")
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(out))}
    assert (code, err) == (0, "")
    assert list(rows) == [gpu.id for gpu in list_gpus()]
    assert rows["a100-sxm4-80gb"]["fp16_tflops"] == "311.9"
    assert rows["p4"]["tensor_cores"] == rows["p4"]["fp16_tflops"] == "none"


def test_one_gpu_is_shown_with_the_source_of_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "a100")
    assert code == 0
    assert err.startswith("note: 'a100' fits 4 GPUs: took a100-sxm4-80gb")
    assert out.startswith("NVIDIA A100-SXM4-80GB (a100-sxm4-80gb), compute capability 8.0\n")
    assert "\n[1] NVIDIA A100 data sheet, https://" in out
    assert "CUDA Programming Guide, Technical Specifications per Compute Capability" in out


def test_a_card_without_tensor_cores_says_so_and_shows_no_rate_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "p100")
    assert "no Tensor Cores" in out.splitlines()[0]
    assert "FP16" not in out


def test_an_unknown_figure_is_two_question_marks_in_the_table_and_null_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, table, _ = _run(capsys, "h100-nvl")
    assert next(line for line in table.splitlines() if line.startswith("L2")).split() == ["L2", "??", "MiB", "unknown"]
    _, text, _ = _run(capsys, "h100-nvl", "--format", "json")
    assert json.loads(text)["gpu"]["l2_bytes"] is None


def test_json_carries_version_source_and_peaks(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = _run(capsys, "rtx4090", "--format", "json")
    found = json.loads(text)
    assert (found["schema_version"], found["gpu_source"], found["note"]) == (1, "named", None)
    assert found["gpu"]["sms"] == 128
    assert found["gpu"]["peak_flops_per_s"]["fp16"] == pytest.approx(165.2e12, rel=1e-3)
    assert set(found["gpu"]["sources"]) >= {"sms", "memory_bytes", "fp16_flop_per_clock_per_sm"}


def test_the_whole_table_goes_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "gpus.json"
    code, out, _ = _run(capsys, "--format", "json", "--output", str(target))
    assert (code, out) == (0, "")
    assert len(json.loads(target.read_text())["gpus"]) == len(list_gpus())


def test_an_unknown_gpu_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "h100x")
    assert (code, out) == (2, "")
    assert err.startswith("advisor: unknown GPU 'h100x'. Nearest: ")
    assert err.count("\n") == 1
