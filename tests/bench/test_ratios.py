"""Our kernels against the libraries: pairs, their means, and what is no pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from advisor.cli import cli
from bench.__main__ import main
from bench.case import Case, Result, Timing
from bench.ratios import pairs, ratios
from bench.records import Records, Row, open_records


def gemm(m: int, library: str) -> Case:
    return Case("gemm", "gemm", {"m": m, "n": 4096, "k": 4096, "pass": "forward", "dtype": "fp16", "library": library,
                                 "mode": "cold"})  # fmt: skip


def conv(library: str, autotuned: bool) -> Case:
    return Case("conv", "conv", {"batch": 8, "c_in": 64, "c_out": 64, "height": 56, "width": 56, "kernel_h": 3,
                                 "kernel_w": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1,
                                 "pass": "wgrad", "layout": "nhwc", "dtype": "fp16", "library": library,
                                 "autotuned": autotuned, "mode": "cold"})  # fmt: skip


def took(seconds: float, *, host_bound: bool = False) -> Result:
    return Result("ok", timing=Timing((seconds,) * 3, 10, "cold", True, "good", host_bound))


MEASURED = [
    (gemm(512, "cublas"), took(8e-6)), (gemm(512, "triton"), took(4e-6)),  # ratio 2
    (gemm(4096, "cublas"), took(100e-6)), (gemm(4096, "triton"), took(200e-6)),  # ratio 1/2
    (gemm(64, "cublas"), took(5e-6)),  # nothing of ours
    (gemm(128, "cublas"), took(5e-6)), (gemm(128, "triton"), took(50e-6, host_bound=True)),  # of the host, not of ours
    (gemm(256, "cublas"), took(5e-6)), (gemm(256, "triton"), Result("failed", "out of memory")),
    (conv("cudnn", False), took(30e-6)), (conv("cudnn", True), took(20e-6)), (conv("triton", False), took(25e-6)),
]  # fmt: skip


def record(records: Records) -> None:
    run = records.start_run({"device": "cuda", "gpu_name": "NVIDIA Test", "gpu_uuid": "GPU-1"}, "advisor bench", seed=1,
                            budget_s=60.0)  # fmt: skip
    for case, result in MEASURED:
        records.add(run, case, result)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with open_records(tmp_path / "records.db") as records:
        record(records)
    return tmp_path / "records.db"


def rows_of(path: Path) -> list[Row]:
    with open_records(path, read_only=True) as records:
        return list(records.rows())


def test_only_cases_that_both_ran_to_the_end_are_pairs(path: Path) -> None:
    found = pairs(rows_of(path))
    assert sorted(pair.ratio for pair in found) == pytest.approx([0.5, 0.8, 2.0])


def test_cudnn_is_taken_at_its_faster_way_of_choosing(path: Path) -> None:
    (pair,) = (pair for pair in pairs(rows_of(path)) if pair.library == "cudnn")
    assert (pair.library_s, pair.ours_s) == (20e-6, 25e-6)


def test_twice_as_fast_and_half_as_fast_is_even_in_the_geometric_mean(path: Path) -> None:
    group = next(ratio for ratio in ratios(pairs(rows_of(path))) if ratio.library == "cublas")
    assert group.geometric_mean == pytest.approx(1.0)
    assert (group.pairs, group.least, group.most, group.share_ahead) == (2, 0.5, 2.0, 0.5)
    assert "512" in group.best
    assert group.group == "gemm forward fp16 cold"


@pytest.mark.parametrize("format_", ["table", "markdown", "csv", "json"])
@pytest.mark.parametrize("cases", [[], ["--cases"]])
def test_the_command_prints_every_format(path: Path, format_: str, cases: list[str]) -> None:
    result = CliRunner().invoke(cli, ["bench", "ratios", str(path), "--format", format_, *cases])
    assert result.exit_code == 0
    assert "cudnn" in result.stdout
    if format_ == "json":
        assert len(json.loads(result.stdout)["pairs"]) == 3


def test_records_without_a_pair_say_what_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_records(tmp_path / "empty.db"):
        pass
    assert main(["ratios", str(tmp_path / "empty.db")]) == 2
    assert "--suite gemm,conv" in capsys.readouterr().err
