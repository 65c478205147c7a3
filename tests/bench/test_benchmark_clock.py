"""Samples of our timer in pytest-benchmark's files, and its own comparison of two such files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.benchmark_clock import device_clock, time_on_device
from tests.recorded_device import RecordedDevice

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import pytest
from bench.benchmark_clock import device_clock, time_on_device
from bench.timer import TimerOptions
from tests.recorded_device import RecordedDevice

@pytest.mark.benchmark(timer=device_clock)
def test_recorded(benchmark):
    device = RecordedDevice()
    options = TimerOptions(samples=3, most_samples=3)
    seconds = [0.002] * 3 + [0.003, 0.001, 0.002]  # three calls guess, lead and warm up
    timing = time_on_device(benchmark, device, [device.work(seconds)], options, flops=7)
    assert timing is None or len(timing.samples_s) == 3

def test_without_the_mark(benchmark):
    device = RecordedDevice()
    with pytest.raises(RuntimeError, match="timer=device_clock"):
        time_on_device(benchmark, device, [device.work(0.002)])
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "bench_recorded.py").write_text(SUITE)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\npython_files = bench_*.py\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_every_sample_lands_in_the_stored_file_and_two_files_compare(tmp_path: Path) -> None:
    done = run(tmp_path, "--benchmark-only", "--benchmark-json=after.json")
    assert done.returncode == 0, done.stdout
    shutil.copy(tmp_path / "after.json", tmp_path / "before.json")
    stored = json.loads((tmp_path / "after.json").read_text())
    (found,) = (one for one in stored["benchmarks"] if one["name"] == "test_recorded")
    assert found["stats"]["data"] == pytest.approx([0.003, 0.001, 0.002], rel=0.01)  # in the order they were taken
    assert found["stats"]["median"] == pytest.approx(0.002, rel=0.01)
    assert found["options"]["timer"] == "device_clock"
    assert {"quality": "noisy", "mode": "warm", "graph": False, "flops": 7}.items() <= found["extra_info"].items()

    compare = [sys.executable, "-c", "from pytest_benchmark.cli import main; main()", "compare"]
    done = subprocess.run(
        [*compare, "before.json", "after.json"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test_recorded") == 2


def test_a_disabled_benchmark_calls_once_and_times_nothing(tmp_path: Path) -> None:
    calls: list[int] = []

    class Disabled:
        enabled = False

        def pedantic(self, target: Any) -> None:
            target()

    assert time_on_device(Disabled(), RecordedDevice(), [lambda: calls.append(1)]) is None
    assert calls == [1]


def test_the_clock_has_nothing_to_say_of_its_own() -> None:
    with pytest.raises(RuntimeError, match="let time_on_device take them"):
        device_clock()
