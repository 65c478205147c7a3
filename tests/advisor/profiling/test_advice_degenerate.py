"""Traces whose times tell nothing get no advice, one line that says why, and no warning of numpy's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.profiling.advice.calibrated import StepTimes
from advisor.profiling.advice.lacks import lack_of
from advisor.profiling.advice.traced import read_traced
from advisor.profiling.kernels.device import traced_gpu
from advisor.profiling.kernels.groups import group_kernels
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.gaps import step_facts
from tests.advisor.profiling.test_advice import RESNET, advised, linear_trace
from tests.data import recorded_trace

pytestmark = pytest.mark.filterwarnings("error:::advisor")
Event = dict[str, Any]


def changed(folder: Path, change: Callable[[Event], None]) -> Path:
    """The recorded ResNet-50 with every event changed."""
    with gzip.open(recorded_trace(RESNET)) as file:
        document = json.load(file)
    for event in document["traceEvents"]:
        change(event)
    path = folder / "trace.json"
    path.write_text(json.dumps(document))
    return path


def one_correlation(event: Event) -> None:
    if "correlation" in event.get("args", {}):
        event["args"]["correlation"] = 7


def lasting(duration: float) -> Callable[[Event], None]:
    def change(event: Event) -> None:
        if event.get("cat") == "Kernel":
            event["dur"] = duration

    return change


def test_kernels_that_all_have_one_correlation_id_get_no_advice(tmp_path: Path) -> None:
    found = advised(changed(tmp_path, one_correlation), on=("h100",))
    assert found.advice == ()
    (note,) = found.notes
    assert "of the kernels share a launch" in note


def test_kernels_do_not_outlast_the_steps_that_they_run_in() -> None:
    raw = read_trace(recorded_trace(RESNET))
    links = link(raw)
    steps, device = find_steps(raw, links), traced_gpu(raw)
    groups = group_kernels(raw, links, steps, device)
    facts = step_facts(raw, links, steps)
    traced = read_traced(raw, links, steps, groups, links.operations, facts, 32)
    assert lack_of(raw, links, traced) is None
    times = StepTimes.of(replace(facts, step_s=0.0), passes=1)
    lack = lack_of(raw, links, replace(traced, times=times))
    assert lack is not None
    assert lack.startswith("99.0 ms of kernels a step cannot have run in the 0 us")


@pytest.mark.parametrize("us, told", [(0, "take 0 ns in the mean"), (1e-300, "ns in the mean"), (1e-3, "take 1 ns")])
def test_kernels_that_take_no_time_get_no_advice(tmp_path: Path, us: float, told: str) -> None:
    found = advised(changed(tmp_path, lasting(us)), on=("h100",))
    assert found.advice == ()
    (note,) = found.notes
    assert note.startswith("no advice on the batch size: ")
    assert told in note
    assert len(note) < 200


@pytest.mark.parametrize("us", [0.1, 20.0, 900.0])
def test_the_shortest_of_kernels_still_get_advice(tmp_path: Path, us: float) -> None:
    assert advised(linear_trace(busy=us).write(tmp_path / "trace.json"), on=("h100",)).advice


def test_steps_without_duration_are_those_that_their_kernels_show(tmp_path: Path) -> None:
    def no_steps(event: Event) -> None:
        if str(event.get("name")).startswith("ProfilerStep"):
            event["dur"] = 1e-300

    own = advised(changed(tmp_path, no_steps)).advice[0]
    traced = next(point for point in own.points if "traced" in point.roles)
    assert traced.step_s == pytest.approx(0.1328, abs=1e-4)
