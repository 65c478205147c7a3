"""`advisor bench waves`: from a records file with timelines to a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from advisor.cli import cli
from bench.case import Case, Result
from bench.records import open_records

ENVIRONMENT = {"gpu_name": "NVIDIA Test", "gpu_uuid": "GPU-1", "driver": "580.1", "torch": "2.11.0"}


def timeline(m: int, ctas: int, sms: int = 4) -> tuple[Case, Result]:
    """`ctas` CTAs of 1 us each, one slot on each of `sms` SMs, starting at once."""
    case = Case("waves", "timeline", {"m": m, "n": 512, "k": 4096, "tile_m": 128, "tile_n": 128, "tile_k": 64})
    starts = [1000 * (cta // sms) for cta in range(ctas)]
    facts = {
        "sms": sms,
        "sm": [cta % sms for cta in range(ctas)],
        "start_ns": starts,
        "end_ns": [s + 1000 for s in starts],
    }
    return case, Result("ok", facts=facts)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.db"
    with open_records(path) as opened:
        run = opened.start_run(ENVIRONMENT, "advisor bench --suite waves", seed=1, budget_s=60.0)
        for m, ctas in ((129, 5), (128, 4)):
            opened.add(run, *timeline(m, ctas))
    return path


def test_one_row_past_the_boundary_is_a_wave_that_leaves_three_of_four_slots_idle(records: Path) -> None:
    result = CliRunner().invoke(cli, ["bench", "waves", str(records), "--format", "json"])
    at, past = json.loads(result.stdout)["timelines"]
    assert (at["m"], at["waves"], at["last_wave_idle_share"], at["busy_share"]) == (128, 1, 0.0, 1.0)
    assert (past["m"], past["waves"], past["last_wave_idle_share"], past["busy_share"]) == (129, 2, 0.75, 5 / 8)
    assert past["span_s"] == pytest.approx(2e-6)


def test_the_picture_names_the_gpu_and_the_software(records: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["bench", "waves", str(records), "--plot", str(tmp_path / "waves.svg")])
    assert result.exit_code == 0
    drawn = (tmp_path / "waves.svg").read_text()
    for words in ("NVIDIA Test (4 SMs)", "driver 580.1, torch 2.11.0", "M = 129, N = 512, K = 4096: 5 CTAs, 62 %"):
        assert words in drawn
    assert "75 %" in result.stdout


def test_records_without_a_timeline_say_how_to_record_one(tmp_path: Path) -> None:
    with open_records(tmp_path / "empty.db"):
        pass
    result = CliRunner().invoke(cli, ["bench", "waves", str(tmp_path / "empty.db")])
    assert "advisor bench --suite waves" in str(result.exception)


def test_a_timeline_with_more_sms_than_its_gpu_is_damaged(tmp_path: Path) -> None:
    case, result = timeline(128, 8, sms=8)
    with open_records(tmp_path / "odd.db") as opened:
        run = opened.start_run(ENVIRONMENT, "advisor bench", seed=1, budget_s=60.0)
        opened.add(run, case, Result("ok", facts={**result.facts, "sms": 4}))
    result_ = CliRunner().invoke(cli, ["bench", "waves", str(tmp_path / "odd.db")])
    assert "is damaged" in str(result_.exception)
