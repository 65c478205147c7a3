"""Figures that `advisor plan` prints, each held against the plan."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from advisor.cli import main
from advisor.units import rate, span

RESNET = "--model resnet50 --gpu a100-sxm4-80gb"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(line: str) -> str:
        assert main(["plan", *line.split()]) == 0
        return capsys.readouterr().out

    return call


def test_the_factor_of_a_rate_that_was_not_given_stands_beside_the_time(run) -> None:
    asked = f"{RESNET} --global-batch 1024 --dataset-size 10240"
    assert "Learning rate x 4, 10 steps per epoch" in run(f"{asked} --base-batch 256").splitlines()
    assert run(f"{asked} --base-batch 1024").splitlines()[1].startswith("10 steps per epoch")


def test_the_memory_of_the_planned_cut_stands_beside_its_limit_and_margin(run) -> None:
    asked = f"{RESNET} --global-batch 64 --memory-limit 24GiB --margin 7.5%"
    needed = json.loads(run(f"{asked} --format json"))["planned"]["memory_bytes"]
    said = f"Memory per GPU: {needed / 2**30:.2f} GiB; limit 24.00 GiB less a margin of 7.5 %."
    assert said in run(asked).splitlines()


@pytest.mark.parametrize(("gpus", "whose"), [(1, "the GPU alone, 300 W"), (8, "the 8 GPUs alone, each 300 W")])
def test_energy_says_whose_it_is(run, gpus: int, whose: str) -> None:
    out = run(f"{RESNET} --gpus {gpus} --global-batch 64 --dataset-size 6400 --epochs 1 --power 300")
    assert re.search(rf"^Energy: .* \({whose}", out, re.MULTILINE)


def test_the_launch_command_starts_the_gpus_that_are_planned(run) -> None:
    out = run(f"{RESNET} --gpus 8 --global-batch 64 --objective cost")
    assert "launch   python train.py" in out.splitlines()


def test_energy_is_unknown_only_where_the_power_is(run) -> None:
    assert "Energy" not in run(f"{RESNET} --global-batch 64")  # power is known, the length of the run is not


def test_every_note_of_a_plan_is_printed(run) -> None:
    asked = f"{RESNET} --gpus 8 --global-batch 4096 --optimizer lars"
    notes = json.loads(run(f"{asked} --format json"))["notes"]
    assert len(notes) >= 2
    out = run(asked)
    for note in notes:
        assert note in out


def test_what_is_known_of_a_critical_batch_stands_behind_its_source(run) -> None:
    out = run(f"{RESNET} --global-batch 64")
    assert "table 1, mean over a run); ResNet-50; 1,000 at the start of a run" in out


def test_what_batch_norm_sees_is_a_column_where_the_model_has_it(run) -> None:
    assert "BatchNorm sees" in run(f"{RESNET} --global-batch 64 --table cuts")
    assert "BatchNorm sees" not in run("--model vit_b_16 --gpu a100-sxm4-80gb --global-batch 64 --table cuts")


def test_the_table_of_time_to_target_shows_the_cost_of_the_plan(run) -> None:
    asked = f"{RESNET} --gpus 8 --global-batch 4096 --dataset-size 1281167 --epochs 90 --price 2.5"
    points = json.loads(run(f"{asked} --format json"))["target"]["points"]
    head, _, *rows = (
        line.strip("|").split("|") for line in run(f"{asked} --table target --format markdown").splitlines()
    )
    at = [column.strip() for column in head].index("cost")
    for row, point in zip(rows, points, strict=True):
        low, high = sorted(point["cost"])
        assert row[at].strip() == span(rate(low), rate(high))


def test_csv_of_time_to_target_has_every_figure_of_the_plan(run) -> None:
    asked = (
        f"{RESNET} --gpus 8 --global-batch 65536 --dataset-size 1281167 --epochs 9 --price 2.5 --objective cost "
        "--memory-limit 24GiB"
    )
    points = json.loads(run(f"{asked} --format json"))["target"]["points"]
    rows = list(csv.DictReader(io.StringIO(run(f"{asked} --table target --format csv"))))
    assert any(point["cut"]["accumulation"] > 1 for point in points)
    for row, point in zip(rows, points, strict=True):
        cut = point["cut"]
        sizes = (point["global_batch"], point["gpus"], cut["batch"], cut["accumulation"])
        assert tuple(int(row[name]) for name in ("global_batch", "gpus", "batch_per_gpu", "accumulation")) == sizes
        for name in ("samples_factor", "time_s", "relative_time", "relative_cost", "cost"):
            assert [float(row[f"{name}_{end}_critical"]) for end in ("low", "high")] == pytest.approx(point[name])


def test_csv_of_the_schedule_and_of_changes_has_the_figures_of_the_plan(run) -> None:
    asked = f"{RESNET} --gpus 8 --global-batch 4096 --lr 0.1 --dataset-size 1281167 --epochs 9 --change-global-batch 64"
    answer = json.loads(run(f"{asked} --format json"))
    schedule, changes = (
        list(csv.DictReader(io.StringIO(run(f"{asked} --table {table} --format csv"))))
        for table in ("schedule", "changes")
    )
    for row, planned in zip(schedule, answer["planned"]["schedule"]["rows"], strict=True):
        assert [float(row[name]) for name in ("step", "epoch", "factor", "rate")] == pytest.approx(
            [planned[name] for name in ("step", "epoch", "factor", "rate")]
        )
    assert [(row["what"], row["before"], row["after"]) for row in changes] == [
        (row["what"], row["before"], row["after"]) for row in answer["changes"]
    ]


def test_csv_of_the_cuts_has_every_figure_of_the_plan(run) -> None:
    asked = f"{RESNET} --gpus 8 --global-batch 4096 --memory-limit 8GiB"
    cuts = json.loads(run(f"{asked} --format json"))["planned"]["cuts"]
    rows = list(csv.DictReader(io.StringIO(run(f"{asked} --format csv"))))
    assert [row["planned"] for row in rows] == ["True", *["False"] * (len(cuts) - 1)]
    assert [row["fits"] for row in rows] == [*["True"] * (len(cuts) - 1), "False"]
    for row, ranked in zip(rows, cuts, strict=True):
        cut = ranked["cut"]
        sizes = (cut["batch"], cut["accumulation"], cut["gpus"], cut["global_batch"], ranked["batch_norm_samples"])
        names = ("batch_per_gpu", "accumulation", "gpus", "global_batch", "batch_norm_samples")
        assert tuple(int(row[name]) for name in names) == sizes
        figures = [ranked["step_s"], ranked["relative_time"], ranked["samples_per_s"], ranked["memory_bytes"]]
        assert [float(row[name]) for name in ("step_s", "of_least", "samples_per_s", "memory_bytes")] == pytest.approx(
            figures
        )
        assert row["tie"] == str(ranked["tie"])
