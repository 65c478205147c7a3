"""`advisor kernels inspect`: facts of the child in the four formats, waves by the quantization model, bad input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor.cli import kernels as command
from advisor.cli import main
from advisor.errors import BadInputError

CONFIG = {
    "tile_m": 128, "tile_n": 256, "tile_k": 64, "stages": 4, "warps": 8, "group_m": 8, "split_k": 1,
    "variant": "descriptor", "subtile": True, "warp_specialize": False,
}  # fmt: skip
ROW = {
    "kernel": "matmul", "config": CONFIG, "reason": "large C", "name": "matmul 128x256x64", "stages": 4, "warps": 8,
    "threads": 256, "registers": 154, "stack_bytes": 0, "spill_store_bytes": 0, "spill_load_bytes": 0,
    "shared_bytes": 229376, "tensor_memory_columns": 0, "matrix_instruction": "HGMMA",
    "matrix_form": "HGMMA.64x256x16.F32", "matrix_count": 4, "global_loads": {}, "bulk_loads": 8, "code_bytes": 10240,
    "spills": False, "wide_loads": 8, "narrow_loads": 0, "resident_ctas": 1, "limiter": "registers",
}  # fmt: skip
PLAIN = ROW | {
    "config": CONFIG | {"tile_n": 128, "variant": "plain", "subtile": False}, "resident_ctas": 2, "shared_bytes": 98304,
    "global_loads": {"16": 4, "128": 20}, "bulk_loads": 0, "wide_loads": 20, "narrow_loads": 4, "spills": True,
    "stack_bytes": 24, "spill_store_bytes": 36,
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Stand in for the child: what it was asked is kept; it answers with two configurations."""
    calls: list[tuple[str, ...]] = []

    def answer(*arguments: str) -> dict[str, Any]:
        calls.append(arguments)
        architecture = arguments[arguments.index("--arch") + 1]
        rows = [ROW, PLAIN]
        if architecture in ("sm_70", "sm_75"):
            rows = [PLAIN | {"matrix_instruction": None, "matrix_form": None}]
        return {
            "schema_version": 1, "architecture": architecture, "compute_capability": [9, 0], "triton": "3.9.0",
            "dtype": "fp16", "layout": "nn", "aligned": "--unaligned" not in arguments, "rows": rows,
        }  # fmt: skip

    monkeypatch.setattr(command, "ask_worker", answer)
    return calls


def run(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    assert main(["kernels", "inspect", *arguments]) == expect
    return capsys.readouterr()


def test_a_table_shows_resources_instructions_and_waves(
    asked: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, "--arch", "sm_90")
    first, second = (line for line in out.splitlines() if "128x" in line)
    for shown in ("128x256x64", "descriptor, subtile", "154", "none", "224.0 KiB", "HGMMA.64x256x16.F32", "8 of 8"):
        assert shown in first
    assert "3.88" in first  # 32 x 16 tiles on 132 SMs: the rounds of a persistent kernel
    assert "97.0 %" in first  # 512 / (4 x 132)
    assert "36 B" in second
    assert "20 of 24" in second
    assert "132 SMs of NVIDIA H100 80GB HBM3" in err
    assert asked == [("inspect", "--arch", "sm_90", "--kernel", "matmul", "--dtype", "fp16", "--layout", "nn")]


def test_waves_come_from_resident_ctas_by_the_quantization_model(
    asked: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(capsys, "--gpu", "h100", "--m", "4097", "--format", "json")[0])
    persistent, plain = found["rows"]
    assert found["sms"] == 132
    assert persistent["tiles"] == 33 * 16
    assert persistent["waves"] == pytest.approx(528 / 132)  # one CTA per SM, whatever an SM would hold
    assert plain["tiles"] == 33 * 32
    assert plain["waves"] == pytest.approx(1056 / (2 * 132))
    assert plain["whole_waves"] == 4
    assert found["schema_version"] == 1
    assert persistent["reason"] == "large C"


def test_csv_is_flat_and_markdown_is_a_table(
    asked: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, "--arch", "sm_90", "--format", "csv")[0])))
    assert [(row["tile_n"], row["variant"], row["global_loads"]) for row in rows] == [
        ("256", "descriptor, subtile", ""), ("128", "plain", "16:4 128:20")
    ]  # fmt: skip
    written = tmp_path / "facts.md"
    run(capsys, "--arch", "sm_90", "--format", "markdown", "--output", str(written))
    assert "|---" in written.read_text().replace(" ", "").replace(":", "")


@pytest.mark.parametrize(("architecture", "card"), [("sm_70", "V100"), ("sm_75", "T4")])
def test_missing_the_tensor_cores_is_said(
    architecture: str, card: str, asked: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(capsys, "--arch", architecture)
    assert f"miss the Tensor Cores of {card}" in out
    assert "no matrix instruction" not in run(capsys, "--arch", "sm_80")[0]


def test_an_architecture_without_a_known_gpu_has_no_waves(
    asked: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, "--arch", "sm_87")
    assert "??" in out
    assert err == ""


def test_architecture_and_gpu_must_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "--arch", "sm_80", "--gpu", "h100", expect=2)
    assert err == "advisor: --arch sm_80 is not that of NVIDIA H100 80GB HBM3, which is sm_90: leave one out\n"


@pytest.mark.parametrize("architecture", ["sm_61", "sm_999", "foo", ""])
def test_an_architecture_triton_does_not_know_is_one_line(
    architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = run(capsys, "--arch", architecture, expect=2)
    assert err.startswith(f"advisor: unknown architecture '{architecture}': Triton's kernels are compiled for sm_70")
    assert err.count("\n") == 1


def test_a_gpu_without_kernels_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "--gpu", "p4", expect=2)
    assert "unknown architecture 'sm_61'" in err


def test_without_triton_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('no triton', name='triton')\n")
    script = Path(command.__file__).parents[2] / "bench" / "__main__.py"
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['bench', 'inspect', '--arch', " \
           f"'sm_90']; sys.path.insert(0, {str(script.parents[1])!r}); sys.path.insert(0, {str(tmp_path)!r}); " \
           "from bench.__main__ import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "batchwave[torch]" in done.stderr
    assert "triton" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_real_child_compiles_and_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    out, _ = run(capsys, "--arch", "sm_80", "--format", "json")
    found = json.loads(out)
    assert {row["matrix_instruction"] for row in found["rows"]} == {"HMMA"}
    assert not any(row["spills"] for row in found["rows"])
    assert all(row["resident_ctas"] >= 1 for row in found["rows"])
    assert {row["kernel"] for row in found["rows"]} == {"matmul"}


def test_the_target_of_no_option_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_GPU", "t4")
    target = command._target(None, None)
    assert target.architecture == "sm_75"
    with pytest.raises(BadInputError):
        command._target("sm_90", "t4")
