"""A user's records, read for a report. Every measurement here is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.errors import AdvisorError, BrokenFileError
from advisor.gpus import find_gpu
from advisor.report import measurements
from advisor.report.measurements import cudnn_version, read_measured
from advisor.report.records import Origin
from bench.suites.gemm import gemm_case
from tests.advisor.report.recordings import every_kind, recorded, took


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return every_kind(tmp_path / "records.db")


def test_every_kind_of_row_becomes_what_sections_draw(path: Path) -> None:
    found = read_measured(path, fitted=True)
    library, ours = found.products
    assert (library.library, library.pass_, library.precision, library.mode) == ("cublas", "wgrad", "fp16", "cold")
    assert (library.m.tolist(), library.n.tolist(), library.k.tolist()) == ([4096], [1024], [512])
    assert (library.time_s.tolist(), ours.time_s.tolist(), library.fitted) == ([2e-5], [4e-5], True)
    (pair,) = found.pairs
    assert (pair.ratio, pair.flops, pair.library) == (0.5, 2**32, "cublas")
    (steps,) = found.steps
    assert (steps.model, steps.batch.tolist()) == ("resnet50", [128, 256])
    assert steps.memory_bytes.tolist() == pytest.approx([5 * 2**30, np.nan], nan_ok=True)
    assert (steps.recipe, steps.power_w[0]) == ("fp16 AMP, nhwc, sgd, cudnn.benchmark=True", 600.0)
    assert found.timelines[0].record["m"] == 64
    assert found.gpu_id == "h200-sxm" and found.anything


def test_the_origin_names_the_gpu_the_software_the_clocks_the_date_and_the_command(path: Path) -> None:
    found = read_measured(path)
    assert found.conditions is not None
    assert found.pairs_origin == Origin(
        "measured here",
        "on NVIDIA H200; driver 580.95, CUDA 13.0, torch 2.13.0, cuDNN 9.12.0, Triton 3.9.0; SM clock 1.75 GHz, median "
        f"while measuring; power limit 700 W; {found.conditions['Measured']}; by `advisor bench`",
    )
    assert found.conditions["Measured GPU"] == "NVIDIA H200 (132 SMs)"
    assert found.conditions["Measured rows"] == "5 of 6 in the records"
    assert found.notes == ("Left out of records.db, which holds 6 rows: 1 row (1 failed).",)


def test_replayed_public_timings_are_never_called_measured_here(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r.db", (gemm_case(8, 8, 8), took(1e-5)), replay_of="a public table")
    assert read_measured(path).products[0].origin == Origin(
        "public measurement", "replayed, not measured here: a public table"
    )


def test_rows_of_the_gpu_asked_for_are_read_else_whose_they_are_is_said(path: Path) -> None:
    recorded(path, (gemm_case(8, 8, 8), took(1e-5)), gpu_name="NVIDIA L40S", sms=142, gpu_uuid="GPU-2")
    assert read_measured(path, gpu=find_gpu("h200")).gpu_id == "h200-sxm"
    assert read_measured(path, gpu=find_gpu("a100")).gpu_id == "l40s"
    assert "of another GPU" in read_measured(path).notes[0]


def test_a_slice_of_a_card_is_not_taken_for_the_card(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r.db", (gemm_case(8, 8, 8), took(1e-5)), gpu_name="NVIDIA H200 MIG 1g.18gb", sms=16)
    assert read_measured(path, gpu=find_gpu("h200")).gpu_id == "h200-sxm (16 SMs)"


def test_a_sample_says_how_many_rows_of_how_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"total": 1_300_000, "good": 1_234_567, "used": 20_000, "sampled": True, "left_out": {}}
    answered(monkeypatch, counts=counts, products=[PRODUCTS])
    assert "20,000 of 1,234,567 rows drawn from records.db" in read_measured(path).notes[0]


def test_a_file_measured_on_a_processor_says_so_and_what_to_do(tmp_path: Path) -> None:
    path = recorded(tmp_path / "smoke.db", (gemm_case(8, 8, 8), took(1e-5)), device="cpu", gpu_name=None)
    found = read_measured(path)
    assert not found.anything and found.gpu_id is None
    assert found.notes == (
        "smoke.db holds nothing that a report shows, in 1 row (1 measured on a processor): measure on a GPU with "
        "`advisor bench`.",
    )


def test_records_without_a_row_say_so(tmp_path: Path) -> None:
    found = read_measured(recorded(tmp_path / "empty.db"))
    assert found.notes == ("empty.db holds no measurement: measure on a GPU with `advisor bench`.",)


@pytest.mark.parametrize("name", ["nothing.db", "damaged.db", "text.jsonl"])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    if name != "nothing.db":
        (tmp_path / name).write_text("not records\n")
    with pytest.raises(AdvisorError, match=name) as raised:
        read_measured(tmp_path / name)
    assert "\n" not in str(raised.value)


DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "gpu": {"id": "h200-sxm", "name": "NVIDIA H200", "key": "card-0"},
    "conditions": {"first": "2026-01-01", "last": "2026-01-02", "commands": [], "warnings": []},
    "counts": {"total": 1, "good": 1, "used": 1, "sampled": False, "left_out": {}},
    "products": [], "pairs": [], "steps": [], "timelines": [],
}  # fmt: skip
PRODUCTS = {"pass": "forward", "precision": "fp16", "library": "cublas", "mode": "cold", "m": [1], "n": [1], "k": [1],
            "time_s": [1.0], "low_s": [1.0], "high_s": [1.0], "kernel": [""]}  # fmt: skip


def answered(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    document = json.loads(json.dumps(DOCUMENT | parts))
    monkeypatch.setattr(measurements, "ask_worker", lambda *_: document)


@pytest.mark.parametrize(
    "parts",
    [
        {"products": [PRODUCTS | {"m": [0]}]},
        {"products": [PRODUCTS | {"time_s": [0]}]},
        {"products": [PRODUCTS | {"time_s": ["1"]}]},
        {"products": [PRODUCTS | {"kernel": []}]},
        {"timelines": [{"m": 1, "n": 1, "k": 1}]},
        {"gpu": "NVIDIA"},
    ],
)
def test_an_answer_that_no_measurement_gives_is_refused(monkeypatch: pytest.MonkeyPatch, parts: Any) -> None:
    answered(monkeypatch, **parts)
    with pytest.raises(BrokenFileError, match=r"records\.db holds what no measurement says") as raised:
        read_measured(Path("records.db"))
    assert "\n" not in str(raised.value)


def test_dates_of_several_days_are_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, products=[PRODUCTS])
    found = read_measured(Path("records.db"))
    assert found.conditions is not None and found.conditions["Measured"] == "2026-01-01 to 2026-01-02"


@pytest.mark.parametrize(("told", "version"), [("91200", "9.12.0"), ("8907", "8.9.7"), ("9.1", "9.1"), (None, None)])
def test_cudnns_number_is_printed_as_a_version(told: str | None, version: str | None) -> None:
    assert cudnn_version(told) == version
