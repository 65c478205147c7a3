"""The command as a user types it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(line: str) -> tuple[int, str, str]:
        code = main(line.split())
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_value_prints_the_number_alone(run) -> None:
    code, out, err = run("recommend --gpu a100-sxm4-80gb --model resnet50 --format value")
    assert (code, err) == (0, "")
    assert int(out) > 0


def test_without_a_gpu_the_default_is_said_in_one_line(run, monkeypatch) -> None:
    monkeypatch.delenv("ADVISOR_GPU", raising=False)
    code, out, err = run("recommend --model resnet50 --format json")
    document = json.loads(out)
    if document["gpu_source"] != "default":
        pytest.skip("this machine has an NVIDIA GPU, so no default is used")
    assert code == 0
    assert document["gpu"]["id"] == "a100-sxm4-80gb"
    assert err.count("\n") == 1
    assert "A100" in err


@pytest.mark.parametrize("format_", ["table", "markdown"])
def test_the_answer_comes_first_and_the_memory_sum_is_shown(run, format_: str) -> None:
    _, out, _ = run(f"recommend --gpu h100-sxm --model resnet50 --format {format_}")
    assert out.lstrip("*").startswith("batch size ")
    assert "CUDA context" in out


def test_csv_rows_can_be_read_back(run) -> None:
    _, out, _ = run("predict step --gpu a100-sxm4-80gb --model resnet50 --batches 1,2 --format csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["batch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["time_s"]) > 0


@pytest.mark.parametrize("command", ["predict step --batches 8", "explain --batch 8"])
def test_every_prediction_says_which_gpu_and_how_wrong_it_is(run, command: str) -> None:
    _, out, err = run(f"{command} --gpu a100 --model resnet50 --format json")
    document = json.loads(out)
    assert (document["gpu"], document["gpu_source"]) == ("a100-sxm4-80gb", "named")
    assert document["error"]["mean_abs_log"] > 0
    assert "took a100-sxm4-80gb" in err
    _, out, _ = run(f"{command} --gpu a100-sxm4-80gb --model resnet50")
    assert all(line in out for line in ("\nrecipe ", "\nprofile ", "\nerror "))


def test_explains_csv_holds_plain_numbers(run) -> None:
    _, out, _ = run("explain --gpu a100-sxm4-80gb --model resnet50 --batch 130 --format csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sum(float(row["share"]) for row in rows) <= 1
    assert all(float(row["time_s"]) >= float(row["ideal_time_s"]) for row in rows)


def test_output_goes_to_a_file_whole(run, tmp_path: Path) -> None:
    target = tmp_path / "answer.json"
    code, out, _ = run(f"recommend --gpu a100-sxm4-80gb --model resnet50 --format json --output {target}")
    assert (code, out) == (0, "")
    assert json.loads(target.read_text())["batch_size"] > 0
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["curve.png", "curve.svg"])
def test_the_curve_is_drawn(run, tmp_path: Path, name: str) -> None:
    code, _, _ = run(f"recommend --gpu a100-sxm4-80gb --model resnet50 --plot {tmp_path / name}")
    assert code == 0
    assert (tmp_path / name).stat().st_size > 10_000


def test_doctor_only_reports(run) -> None:
    code, out, _ = run("doctor --format json")
    findings = {row["what"]: row["found"] for row in json.loads(out)["findings"]}
    assert code == 0
    assert findings["profiles"] == findings["models"] == "yes"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(run, shell: str) -> None:
    code, out, _ = run(f"completion {shell}")
    assert code == 0
    assert "_ADVISOR_COMPLETE" in out


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("recommend --model resnet50 --gpu a10000", 2, "a100"),
        ("recommend --model resnet5O --gpu a100-sxm4-80gb", 2, "resnet50"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --memory-limit 1apple", 2, "24GiB"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --memory-limit 128MiB", 4, "needs"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --margin 200%", 2, "5%"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --tolerance nan", 2, "5%"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --global-batch 10 --gpus 3", 2, "9 and 12 can"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --global-batch 0", 2, "global batch"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --max-batch 0", 2, "1 to"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --current 5000", 2, "--max-batch"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --memory-limit 1e99GiB", 2, "memory limit"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --plot curve.gif", 2, ".png"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --profile no-such-file.json", 2, "no-such-file.json"),
        ("predict step --model resnet50 --gpu a100-sxm4-80gb --batches 1,x", 2, "128,192,256"),
        ("predict step --model resnet50 --gpu a100-sxm4-80gb --batches 0", 2, "1 to"),
        ("explain --model resnet50 --gpu a100-sxm4-80gb --batch -3", 2, "1 to"),
        ("recommend --model resnet50 --gpu a100-sxm4-80gb --output no/such/folder/x", 2, "another place"),
    ],
)
def test_bad_input_is_one_line_with_the_way_out(run, line: str, code: int, says: str) -> None:
    found, out, err = run(line)
    assert found == code
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_local_refuses_where_there_is_no_gpu(run) -> None:
    code, _, err = run("recommend --model resnet50 --gpu local")
    if code == 0:
        pytest.skip("this machine has an NVIDIA GPU")
    assert code == 3
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "advisor", "gpus", "a100-sxm4-80gb"], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr
