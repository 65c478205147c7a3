from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from advisor.cli import main

GUIDE = ["memory", "--available", "24GiB", "--fixed", "4GiB", "--per-sample", "0.2GiB"]
UNET = ["memory", "--fixed", "3GiB", "--available", "12GiB", "--per-sample", "0.5GiB"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == expect
    return capsys.readouterr()


def test_the_sum_itself_is_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, *GUIDE)
    assert out.splitlines()[0] == "(24 GiB - 4 GiB) / 0.2 GiB = 100 samples"
    assert err == ""


def test_18_is_named_with_16_as_the_power_of_two_and_why_it_is_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *UNET)
    rows = [line.split(maxsplit=5) for line in out.splitlines()[4:6]]
    assert rows == [
        ["18", "12", "GiB", "0", "B", "largest that fits"], ["16", "11", "GiB", "1", "GiB", "largest power of two"]
    ]  # fmt: skip
    assert "18 is as good as 16, the power of two below it: no size needs to be one for Tensor Cores." in out
    assert "contiguous in no operand of row-major linear layers or NHWC convolutions" in out


def test_a_power_of_two_needs_no_defence(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *UNET[:-1], "0.5625GiB")  # 9 / 0.5625 = 16
    assert "largest that fits, largest power of two" in out
    assert "Tensor Cores" not in out


def test_the_sum_says_that_it_knows_no_speed_and_no_margin(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *UNET)
    assert "knows nothing of speed" in out
    assert "advisor recommend" in out
    assert "No margin is added" in out
    assert "No margin is added" not in run(capsys, *UNET, "--margin", "5%")[0]


def test_64_is_cut_into_four_accumulations_of_16_and_means_four_times_the_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = run(capsys, *UNET, "--global-batch", "64")
    assert out.splitlines()[0].endswith("= 18 samples; 16 per GPU x 4 accumulation x 1 GPU = 64")
    assert "16 is the largest size that fits and divides 64 samples per GPU exactly." in out
    assert "4 times the rate that was tuned for 16" in out
    assert "`advisor plan`" in out


def test_a_step_of_one_micro_batch_changes_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *UNET, "--global-batch", "16")
    assert "16 per GPU x 1 accumulation x 1 GPU = 16" in out
    assert "rate" not in out


def test_an_unequal_share_and_an_unlucky_divisor_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *UNET, "--global-batch", "1000", "--gpus", "3")
    assert "3 GPUs cannot share 1,000 equally: 999 (-1) is the nearest that they can, 1,002 the next." in out
    out, _ = run(capsys, *UNET, "--global-batch", "257")  # a prime: 14 * 18 = 252 is nearest
    assert "1 per GPU x 257 accumulation x 1 GPU = 257" in out
    assert "a global batch of 252, 18 per GPU x 14 accumulation, would fill it" in out


@pytest.mark.parametrize(
    ("batch", "gpus", "filling"),
    [
        (106, 2, "108, 18 per GPU x 3 accumulation"),  # 53 per GPU is prime, and 2.9 times 18
        (27, 1, "36, 18 per GPU x 2 accumulation"),  # cut into 9, just half of what fits
        (54, 1, None),  # 3 x 18
        (34, 1, None),  # 2 x 17
    ],
)
def test_a_cut_that_uses_half_of_the_memory_or_less_names_a_global_batch_that_fills_it(
    batch: int, gpus: int, filling: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(capsys, *UNET, "--global-batch", str(batch), "--gpus", str(gpus))
    assert ("would fill it" in out) == (filling is not None)
    assert f"a global batch of {filling}, would fill it" in out or filling is None


def test_the_largest_that_fits_is_not_said_to_be_less(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *UNET, "--global-batch", "54")
    assert "is the largest size that fits and divides" not in out
    out, _ = run(capsys, *UNET, "--global-batch", "34")
    assert "17 is the largest size that fits and divides 34 samples per GPU exactly." in out


def test_json_has_the_three_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *UNET, "--format", "json")[0])
    sizes = [found[name] / 2**30 for name in ("available_bytes", "fixed_bytes", "per_sample_bytes")]
    assert sizes == [12, 3, 0.5]


def test_the_value_alone_is_the_size_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *UNET, "--format", "value")[0] == "18\n"
    assert run(capsys, *UNET, "--format", "value", "--global-batch", "64")[0] == "16\n"


def test_json_is_versioned_and_holds_sum_cut_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *UNET, "--format", "json", "--global-batch", "64")[0])
    assert (found["schema_version"], found["batch_size"], found["largest"], found["largest_power_of_two"]) == (
        1,
        16,
        18,
        16,
    )
    assert found["sum"] == "(12 GiB - 3 GiB) / 0.5 GiB = 18 samples"
    assert found["cut"] == {"global_batch": 64, "gpus": 1, "batch": 16, "accumulation": 4}
    assert [row["batch"] for row in found["rows"]] == [18, 16]
    assert found["rows"][1]["left_bytes"] == 2**30
    assert any("knows nothing of speed" in note for note in found["notes"])
    assert json.loads(run(capsys, *UNET, "--format", "json")[0])["cut"] is None


def test_csv_and_markdown_hold_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, *UNET, "--format", "csv")[0])))
    assert [(row["batch"], row["roles"]) for row in rows] == [
        ("18", "largest that fits"),
        ("16", "largest power of two"),
    ]
    target = tmp_path / "sum.md"
    out, err = run(capsys, *UNET, "--format", "markdown", "--output", str(target))
    assert out == ""
    assert str(target) in err
    assert target.read_text().startswith("**(12 GiB - 3 GiB) / 0.5 GiB = 18 samples**\n")
    assert "|      18 |" in target.read_text()


def test_where_not_one_sample_fits_the_exit_code_is_4_and_the_least_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "memory", "--available", "3.2GiB", *UNET[1:3], *UNET[5:], expect=4)
    assert out == ""
    assert err.count("\n") == 1
    assert "at least 3.5 GiB must be available" in err


def test_a_size_without_its_unit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "memory", "--available", "24", "--fixed", "4GiB", "--per-sample", "0.2GiB", expect=4)
    assert err.count("\n") == 1
    assert err.endswith("; 24 has no unit, so it is 24 bytes: write it like 24GiB\n")
    out, err = run(capsys, "memory", "--available", "24GiB", "--fixed", "4", "--per-sample", "0.5 GiB")
    assert "47.99, so 47 samples" in out
    assert err == "advisor: 4 has no unit, so it is 4 bytes: write it like 24GiB\n"


@pytest.mark.parametrize("size", ["1048576", "1MiB", "1000 B", "1k"])
def test_a_size_with_its_unit_or_of_a_mib_is_not_said(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "memory", "--available", "24GiB", "--fixed", "4GiB", "--per-sample", size)
    assert err == ""
    _, err = run(capsys, "memory", "--available", "24GiB", "--fixed", "4GiB", "--per-sample", "1048575")
    assert err.startswith("advisor: 1048575 has no unit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--available", "0"], "no positive size"),
        (["--available=-12GiB"], "no positive size"),
        (["--available", "twelve"], "no positive size"),
        (["--available", "12 apples"], "no positive size"),
        (["--per-sample", "0.1B"], "less than a byte"),
        (["--margin", "120%"], "no share"),
        (["--global-batch", "2.5"], "--global-batch"),
        (["--global-batch", "-64"], "global batch -64"),
        (["--global-batch", "3", "--gpus", "4"], "smaller than the 4 GPUs"),
        (["--gpus", "0"], "number of GPUs 0"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, *UNET, *arguments, expect=2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_size_that_is_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "memory", "--available", "12GiB", "--fixed", "3GiB", expect=2)
    assert "--per-sample" in err


@pytest.mark.parametrize("command", ["memory", "plan"])
def test_help_says_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, command, "--help")
    assert "Exit codes as in `advisor --help`: 2 bad input, 4 nothing fits." in out
