"""`advisor compare` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from advisor.cli import main
from advisor.cli.compare import energy, parse_prices
from advisor.comparison import compare
from advisor.comparison_inputs import Power
from advisor.comparison_ranking import share
from advisor.errors import BadInputError


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(line: str) -> tuple[int, str, str]:
        code = main(["compare", *line.split()])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


GPUS = "--gpus a100-sxm4-80gb,l40s --model resnet50"


@pytest.mark.parametrize("format_", ["table", "markdown"])
def test_the_answer_is_one_line_on_top_and_every_gpu_has_a_row(run, format_: str) -> None:
    code, out, err = run(f"{GPUS} --format {format_}")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].lstrip("*").startswith("ResNet-50: a100-sxm4-80gb is fastest")
    assert lines[1] == ""
    assert sum(line.lstrip("| ").startswith(("a100-sxm4-80gb ", "l40s ")) for line in lines) == 2
    assert "cost" not in out
    assert "at most 400 W" in out


def test_energy_is_never_called_measured_without_a_measurement(run) -> None:
    _, out, _ = run(f"{GPUS} --price 2")
    assert out.count("at most 0.") == 2
    assert "measured in" not in out
    assert "price    2.00, per hour of one GPU" in out
    assert "note     Energy is the power over the predicted samples/s" in out


@pytest.mark.parametrize("model", ["resnet50", "bert-base-128"])
def test_a_table_stays_near_120_columns(run, model: str) -> None:
    gpus = "--gpus a100-sxm4-80gb,h100-sxm-80gb,l40s,t4"
    for price in ("", "--price 2.5", "--price a100-sxm4-80gb=1.79,h100-sxm-80gb=2.99,l40s=0.99,t4=0.35"):
        _, out, _ = run(f"{gpus} --model {model} {price}")
        rule = next(line for line in out.splitlines() if line.startswith("-----"))
        assert len(rule) <= 126
        assert ("price/h" in out) == ("=" in price)
        assert ("cost/1M" in out) == bool(price)


def test_a_share_too_small_for_a_whole_per_cent_is_not_called_none() -> None:
    assert [share(part) for part in (1, 0.0146, 0.0034)] == ["100 %", "1 %", "0.3 %"]


def test_csv_has_plain_numbers_and_the_reason_of_what_does_not_fit(run) -> None:
    code, out, _ = run("--gpus p4,a100-sxm4-80gb --model gpt2-medium --price 3.6 --format csv")
    fits, unfit = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert (fits["gpu"], fits["fits"], fits["power_is"], fits["reason"]) == ("a100-sxm4-80gb", "True", "at most", "")
    assert float(fits["cost_per_million"]) == pytest.approx(1e3 / float(fits["samples_per_s"]))
    assert float(fits["energy_per_sample_j"]) == pytest.approx(400 / float(fits["samples_per_s"]))
    assert (unfit["gpu"], unfit["fits"], unfit["batch"], unfit["cost_per_million"]) == ("p4", "False", "", "")
    assert "does not fit" in unfit["reason"]


def test_a_row_without_an_answer_says_why_and_shows_no_figure(run) -> None:
    _, out, _ = run("--gpus p4,a100-sxm4-80gb --model gpt2-medium")
    (row,) = (line for line in out.splitlines() if line.startswith("p4 "))
    assert "does not fit" in row
    assert row.split()[-1] == "??"
    assert any(line.startswith("p4: GPT-2 Medium") and "batch 1 needs" in line for line in out.splitlines())


def test_json_is_the_librarys(run) -> None:
    _, out, _ = run(f"{GPUS} --price l40s=1,a100-sxm4-80gb=2 --sort cost --format json")
    prices = {"l40s": 1.0, "a100-sxm4-80gb": 2.0}
    assert json.loads(out) == json.loads(
        compare("resnet50", gpus=["a100-sxm4-80gb", "l40s"], price=prices, sort="cost").to_json()
    )


def test_a_name_that_fits_several_gpus_is_said_on_stderr(run) -> None:
    _, out, err = run("--gpus a100 --gpus a100 --model resnet50 --format csv")
    assert "took a100-sxm4-80gb" in err
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("--gpus a100,h1000 --model resnet50", 2, "unknown GPU 'h1000'. Nearest: "),
        ("--gpus a100,,h100 --model resnet50", 2, "an empty name in --gpus a100,,h100"),
        ("--gpus a100 --model resnet5O", 2, "unknown model 'resnet5O'. Nearest: resnet50"),
        ("--model resnet50", 2, "Missing option '--gpus'"),
        ("--gpus a100 --model resnet50 --sort cost", 2, "sorting by cost needs a price"),
        ("--gpus a100,l40s --model resnet50 --price a100=2", 2, "no price for l40s: add l40s=PRICE"),
        ("--gpus a100 --model resnet50 --price l40s=2", 2, "a price for l40s, which is not compared"),
        ("--gpus a100 --model resnet50 --price -1", 2, "--price '-1' is no positive number"),
        ("--gpus a100 --model resnet50 --plot x.bmp", 2, "use a name that ends in .png"),
        ("--gpus a100 --model resnet50 -o /no/such/folder/x", 2, "cannot write"),
        ("--gpus a100 --model resnet50 --records /no/such/records.db", 2, "records.db"),
        ("--gpus a100 --model resnet50 --profile /no/such/profile.json", 2, "cannot read profile"),
        ("--gpus a100,l40s --model resnet50 --memory-limit 300MiB", 4, "none of a100-sxm4-80gb, l40s can run it"),
        ("--gpus a100 --model resnet50 --memory-limit 300MiB", 4, "ResNet-50 does not fit: batch 1 needs"),
    ],
)
def test_bad_input_is_one_clear_line(run, line: str, code: int, message: str) -> None:
    found, out, err = run(line)
    assert found == code
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "prices"),
    [
        ([], None),
        (["2.5"], 2.5),
        ([" .5 "], 0.5),
        (["1e-2"], 0.01),
        (["a100=1.79,h100=2.99"], {"a100": 1.79, "h100": 2.99}),
        (["a100=1.79", " NVIDIA L40S = 1 "], {"a100": 1.79, "NVIDIA L40S": 1.0}),
    ],
)
def test_prices_are_one_for_all_or_one_by_name(given: list[str], prices: object) -> None:
    assert parse_prices(given) == prices


@pytest.mark.parametrize(
    "given",
    [
        "0", "-1", "nan", "inf", "1e999", "1e-999", "0x10", "1_000", "two", "", " ", "$2", "2$", "2;3", "٢", "9" * 5000,
        "1e99", "1e-10",
        "2,5", "2,a100=1", "a100=", "a100=0", "a100=nan", "=2", "a100=1=2", "a100=1,a100=2", "a100=1,", "<script>",
    ],
)  # fmt: skip
def test_prices_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(BadInputError, match="price"):
        parse_prices([given])


def test_a_picture_is_drawn_with_and_without_prices(run, tmp_path: Path) -> None:
    plain, priced = tmp_path / "plain.png", tmp_path / "priced.svg"
    assert run(f"--gpus p4,a100,t4 --model gpt2-medium --plot {plain}")[0] == 0
    assert run(f"--gpus p4,a100,t4 --model gpt2-medium --price 1 --plot {priced}")[0] == 0
    assert plain.read_bytes().startswith(b"\x89PNG")
    assert priced.read_text().count("<svg") == 1


def test_energy_is_printed_as_what_it_is() -> None:
    result = compare("resnet50", gpus=["a100"]).rows[0].result
    assert result is not None
    assert energy(result, None) is None
    assert str(energy(result, Power(400, "at most", ""))).startswith("at most 0.")
    assert str(energy(result, Power(400, "measured", ""))).startswith("0.")
