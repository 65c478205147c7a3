"""What a trace's head says of when and by whom it was recorded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from advisor.cli.profile_report import report
from advisor.profiling.analysis import profile_trace
from advisor.profiling.output.provenance import conditions, step_lines
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from advisor.recipe import Recipe
from tests.advisor.profiling.profiles import small_profile
from tests.advisor.profiling.test_analysis import small_trace
from tests.data import recorded_trace
from tests.kineto import KinetoTrace

HEAD: dict[str, Any] = {
    "schema_version": 1, "model": "resnet50", "batch": 256, "input_shape": [3, 224, 224], "recipe": asdict(Recipe()),
    "device": "NVIDIA A100-SXM4-80GB", "torch": "2.9.0+cu128", "cuda": "12.8", "cudnn": 91002,
    "warm_up": {"steps": 20, "took_s": 3.1, "steady": True}, "unprofiled_step_s": [0.098, 0.097, 0.099],
    "profiled_step_s": [0.125, 0.126, 0.127], "allocated_peak_bytes": 2**34, "reserved_peak_bytes": 2**34 + 2**30,
    "notes": [],
}  # fmt: skip


def read(tmp_path: Path, **top: Any) -> RawTrace:
    """A trace of one kernel at 5 us with more entries at its top."""
    trace = KinetoTrace()
    trace.kernel("k", 5, 2)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({**trace.document(), **top}))
    return read_trace(path)


def test_what_the_command_wrote_of_its_run_is_read_back(tmp_path: Path) -> None:
    found = read(tmp_path, batchwave=HEAD).recorded
    assert found is not None
    assert (found.model, found.batch, found.input_shape) == ("resnet50", 256, (3, 224, 224))
    assert found.recipe == Recipe()
    assert found.unprofiled_step_s == (0.098, 0.097, 0.099)
    assert found.reserved_peak_bytes == 2**34 + 2**30


def test_other_traces_were_recorded_by_others(tmp_path: Path) -> None:
    assert read(tmp_path).recorded is None


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0}, {"batch": 2**40}, {"batch": "256"}, {"model": 5}, {"model": "m" * 10_000}, {"schema_version": 2},
        {"unprofiled_step_s": [-0.1]}, {"unprofiled_step_s": [0.1] * 10_000}, {"recipe": {"precision": "int3"}},
        {"allocated_peak_bytes": -1}, {"notes": [["a"]]}, {"anything": "x" * 100_000},
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_is_left_out_and_said_to_be(tmp_path: Path, change: dict[str, Any]) -> None:
    raw = read(tmp_path, batchwave={**HEAD, **change})
    assert raw.recorded is None
    (note,) = raw.notes
    assert "recording by this command" in note
    assert len(note) <= 200


@pytest.mark.parametrize("head", [3, "text", None, [], [[]] * 1000])
def test_a_head_that_is_no_object_is_no_head(tmp_path: Path, head: object) -> None:
    assert read(tmp_path, batchwave=head).recorded is None


def test_times_since_1970_date_a_trace_by_themselves() -> None:
    assert read_trace(recorded_trace("resnet50_train_b32_fp32_v100.json.gz")).begun_s == pytest.approx(1_623_212_388.4)


def test_times_since_a_base_are_dated_with_it() -> None:
    # the trace's own log says 16:06:30 on 2024-10-28 in California, which is 23:06:30 UTC
    begun_s = read_trace(recorded_trace("triton_kernel_a100.json.gz")).begun_s
    assert begun_s == pytest.approx(1_730_156_790, abs=2)


@pytest.mark.parametrize("base", [None, 0, -1, "x", 2**70, 5_000_000_000_000_000_000])
def test_a_date_that_cannot_be_is_unknown(tmp_path: Path, base: object) -> None:
    assert read(tmp_path, baseTimeNanoseconds=base).begun_s is None


def test_a_recorded_run_gives_batch_model_versions_and_what_the_profiler_cost(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "trace.json")
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "batchwave": {**HEAD, "unprofiled_step_s": [0.8e-3, 0.7e-3, 0.9e-3]}}))
    profile = profile_trace(path)
    assert profile.batch.batch == 256
    # an addmm of 256 rows in every step says the same, so nothing is added
    assert profile.batch.evidence == "256 per forward pass: what `advisor profile --model` ran"
    text = report(profile)
    assert text.startswith("990 us a step (mean of 3 steps) of resnet50 on NVIDIA A100-SXM4-80GB, batch 256")
    assert "A step took 800 us without the profiler and 990 us under it" in text
    assert "recorded PyTorch 2.9.0+cu128, CUDA 12.8, cuDNN 9.10.2" in text
    assert json.loads(profile.to_json())["recorded"]["model"] == "resnet50"


def test_date_and_versions_are_told_as_people_write_them() -> None:
    profile = profile_trace(recorded_trace("triton_kernel_a100.json.gz"))
    assert profile.recorded_at == "2024-10-28T23:06:31Z"
    assert conditions(profile) == "2024-10-28 23:06 UTC, CUDA runtime 12.0, driver for CUDA 12.0, CUPTI 18"


def test_a_trace_without_steps_says_how_to_mark_them() -> None:
    profile = small_profile()
    without = replace(profile, steps=replace(profile.steps, count=0, found_by="none", durations_s=()))
    (line,) = step_lines(without)
    assert "all figures are of the whole trace" in line
    assert "profiler.step()" in line
    assert line in report(without)
    assert step_lines(profile) == []


def test_a_first_step_that_differs_is_told_with_what_it_waited_for() -> None:
    profile = small_profile()
    usual = {"host": 2e-3, "data": 0.5e-3}
    steps = replace(profile.steps, durations_s=(14e-3, 8e-3, 9e-3), first_step_differs=True,
                    step_gap_s=({"host": 2.5e-3, "data": 6e-3}, usual, usual))  # fmt: skip
    # 6 ms longer than the median of 8: 5.5 of them by data, 0.5 by the host
    assert step_lines(replace(profile, steps=steps)) == [
        "The first step took 14.0 ms, 6.00 ms of it waiting for data; the others took 8.00 ms to 9.00 ms, and step "
        "time, busy share and gaps are theirs."
    ]
