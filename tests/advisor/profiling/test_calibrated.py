"""The parts of a traced step, and how its curve follows from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.gpus import find_gpu
from advisor.profiling.advice.calibrated import AmpModel, CalibratedModel, StepTimes
from advisor.profiling.advice.traced import Traced, read_traced
from advisor.profiling.advice.traced_recipe import with_amp
from advisor.profiling.kernels.device import traced_gpu
from advisor.profiling.kernels.groups import group_kernels
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import StepFacts
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.gaps import step_facts
from advisor.steptime import StepModel
from tests.advisor.profiling.test_advice import linear_trace

FACTS = StepFacts(
    count=3, found_by="ProfilerStep", durations_s=(0.1,) * 3, step_s=0.1, busy_share=0.6, kernel_s=0.06,
    gap_s={"host": 0.01, "data": 0.02, "communication": 0.005, "sync": 0.005}, exposed_communication_s=0.0,
    launches=1.0, outside_s=0.0, first_step_differs=False,
)  # fmt: skip


def facts(**changes: object) -> StepFacts:
    return dataclasses.replace(FACTS, **changes)


def test_the_parts_of_a_step_sum_to_its_measured_time() -> None:
    times = StepTimes.of(facts(), passes=1)
    assert (times.busy_s, times.host_s, times.data_s, times.fixed_s) == pytest.approx((0.06, 0.01, 0.02, 0.01))
    halves = StepTimes.of(facts(), passes=2)
    assert (halves.step_s, halves.busy_s, halves.host_s, halves.data_s) == pytest.approx((0.05, 0.03, 0.005, 0.01))
    unexplained = StepTimes.of(facts(gap_s={}), passes=1)
    assert (unexplained.host_s, unexplained.fixed_s) == pytest.approx((0.04, 0.0))


def test_without_the_profiler_the_host_alone_is_faster() -> None:
    faster = StepTimes.of(facts(), passes=1, unprofiled_s=0.095)
    assert (faster.step_s, faster.busy_s, faster.profiled_s) == (0.095, pytest.approx(0.06), 0.1)
    assert (faster.host_s, faster.data_s, faster.fixed_s) == pytest.approx((0.005, 0.02, 0.01))


def test_waits_that_the_unprofiled_step_has_no_room_for_shrink_alike() -> None:
    times = StepTimes.of(facts(), passes=1, unprofiled_s=0.075)  # 15 ms are left for 30 ms of data and the rest
    assert (times.host_s, times.data_s, times.fixed_s) == pytest.approx((0.0, 0.01, 0.005))
    all_kernels = StepTimes.of(facts(), passes=1, unprofiled_s=0.05)
    assert (all_kernels.busy_s, all_kernels.host_s, all_kernels.data_s) == pytest.approx((0.05, 0.0, 0.0))


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    """One linear layer whose kernel takes 80 ms of a step of 100 ms at batch 16."""
    raw = read_trace(linear_trace().write(tmp_path / "trace.json"))
    links = link(raw)
    steps = find_steps(raw, links)
    groups = group_kernels(raw, links, steps, traced_gpu(raw))
    found = read_traced(raw, links, steps, groups, links.operations, step_facts(raw, links, steps), 16)
    return dataclasses.replace(found, step=dataclasses.replace(found.step, op_s=np.array([0.08])))


def model(traced: Traced, times: StepTimes, *, communication_s: float = 0.0, amp: bool = False) -> CalibratedModel:
    constant = {**traced.step.constant_s, "communication": communication_s}
    step = dataclasses.replace(traced.step, constant_s=constant)
    common: dict[str, Any] = {"workload": traced.workload, "gpu": find_gpu("a100-sxm4-80gb"), "profile": None}
    if not amp:
        return CalibratedModel(step, times, recipe=traced.recipe, **common)
    under_amp = StepModel(recipe=with_amp(traced.recipe), **common)
    return AmpModel(step, times, amp=under_amp, recipe=traced.recipe, **common)


SIZES = np.array([16, 32])


def test_waiting_for_data_grows_with_the_batch_and_for_others_does_not(traced: Traced) -> None:
    data = model(traced, StepTimes.of(facts(gap_s={"data": 0.04}), passes=1)).curve(SIZES)
    sync = model(traced, StepTimes.of(facts(gap_s={"sync": 0.04}), passes=1)).curve(SIZES)
    assert (data.time_s[0], sync.time_s[0]) == pytest.approx((0.1, 0.1))
    assert data.time_s[1] - sync.time_s[1] == pytest.approx(0.04, rel=1e-6)
    kernels = model(traced, StepTimes.of(facts(gap_s={}), passes=1)).kernels_per_s(SIZES)
    assert data.gpu_time_s[1] == pytest.approx(32 / kernels[1])


def test_communication_behind_kernels_costs_nothing_and_what_runs_alone_stays(traced: Traced) -> None:
    busy = facts(busy_share=1.0, gap_s={})
    plain = model(traced, StepTimes.of(busy, passes=1)).curve(SIZES)
    hidden = model(traced, StepTimes.of(busy, passes=1), communication_s=0.05).curve(SIZES)
    assert hidden.gpu_time_s == pytest.approx(plain.gpu_time_s)
    alone = facts(busy_share=1.0, gap_s={}, exposed_communication_s=0.03)
    exposed = model(traced, StepTimes.of(alone, passes=1), communication_s=0.05).curve(SIZES)
    growth = plain.gpu_time_s[1] / plain.gpu_time_s[0]
    assert exposed.gpu_time_s == pytest.approx([0.1, 0.07 * growth + 0.03])
    assert sum(seconds[1] for seconds in exposed.class_time_s.values()) == pytest.approx(exposed.gpu_time_s[1])


def test_copies_that_nothing_hides_grow_with_the_batch(traced: Traced) -> None:
    busy = facts(busy_share=1.0, gap_s={}, exposed_copy_s=0.02)
    plain = model(traced, StepTimes.of(facts(busy_share=1.0, gap_s={}), passes=1)).curve(SIZES)
    copies = model(traced, StepTimes.of(busy, passes=1)).curve(SIZES)
    assert copies.gpu_time_s[1] == pytest.approx(0.08 * plain.gpu_time_s[1] / plain.gpu_time_s[0] + 0.04)


def test_amp_changes_kernels_and_not_communication(traced: Traced) -> None:
    alone = facts(busy_share=1.0, gap_s={}, exposed_communication_s=0.03)
    times = StepTimes.of(alone, passes=1)
    fp32, amp = (model(traced, times, communication_s=0.05, amp=amp).curve(SIZES) for amp in (False, True))
    without = model(traced, StepTimes.of(facts(busy_share=1.0, gap_s={}), passes=1), amp=True).curve(SIZES)
    ratio = without.gpu_time_s[0] / 0.1
    assert ratio > 1.1  # for so small a layer casts cost more than Tensor Cores save
    assert fp32.gpu_time_s[0] == pytest.approx(0.1)
    assert amp.gpu_time_s[0] == pytest.approx(0.07 * ratio + 0.03)


def test_amp_adds_the_casts_of_weights_and_biases_to_what_the_host_launches(traced: Traced) -> None:
    amp = model(traced, StepTimes.of(facts(), passes=1), amp=True)
    assert isinstance(amp, AmpModel)
    assert amp.more_launches == 3  # in inference: one product, then a cast of its weight and one of its bias too
