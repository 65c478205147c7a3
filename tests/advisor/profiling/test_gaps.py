"""How busy the GPU is, and why it waits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import StepFacts
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.gaps import step_facts
from advisor.profiling.steps.intervals import Union
from tests.data import recorded_trace
from tests.kineto import KinetoTrace

US = 1e-6


def facts_of(trace: KinetoTrace, folder: Path) -> StepFacts:
    return facts_at(trace.write(folder / "trace.json"))


def facts_at(path: Path) -> StepFacts:
    raw = read_trace(path)
    links = link(raw)
    return step_facts(raw, links, find_steps(raw, links))


def one_step(*, until: float = 100) -> KinetoTrace:
    """A step of 100 us whose GPU works from 10 to 30 and from 70 to `until`: a gap of 40 us between."""
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.kernel("a", start=10, duration=20, launched=0)
    trace.kernel("b", start=70, duration=until - 70, launched=64)
    return trace


# busy, and for how long


def test_a_step_is_busy_while_any_kernel_or_copy_runs_and_kernels_add_up_apart(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.kernel("a", start=10, duration=30, launched=1)
    trace.kernel("b", start=20, duration=40, launched=2, stream=9)  # 20 us of it beside a
    trace.copy("Memcpy DtoD (Device -> Device)", 60, 10, 4, launched=3)
    facts = facts_of(trace, tmp_path)
    assert facts.busy_share == pytest.approx(0.6)
    assert facts.kernel_s == pytest.approx(70 * US)
    assert facts.exposed_copy_s == pytest.approx(10 * US)
    assert sum(facts.gap_s.values()) == pytest.approx(40 * US)
    assert (facts.count, facts.launches, facts.step_s) == (1, 2, pytest.approx(100 * US))


def test_copies_that_nothing_hides_are_told_by_kind(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.kernel("a", start=10, duration=30, launched=1)
    trace.copy("Memcpy HtoD (Pageable -> Device)", 0, 8, 4, launched=0)
    trace.copy("Memcpy HtoD (Pinned -> Device)", 35, 9, 4, launched=2)  # 4 us of it after the kernel
    trace.copy("Memcpy DtoH (Device -> Pageable)", 50, 3, 4, launched=3)
    trace.copy("Memset (Device)", 60, 2, 4, launched=4)
    facts = facts_of(trace, tmp_path)
    assert facts.exposed_copies_s == pytest.approx(
        {"pageable": 8 * US, "pinned": 4 * US, "to host": 3 * US, "on the GPU": 2 * US}
    )
    assert facts.exposed_copy_s == pytest.approx(17 * US)


def test_steps_keep_their_length_where_all_correlation_ids_are_one_number(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for number, start in ((1, 0), (2, 100), (3, 200)):
        trace.step(number, start, 100)
        trace.copy("Memcpy HtoD (Pageable -> Device)", start + 12, 3, 4, launched=start + 2)
        trace.kernel("a", start=start + 30, duration=40, launched=start + 20)
    for event in trace.events:
        if "correlation" in event.get("args", {}):
            event["args"]["correlation"] = 7
    assert facts_of(trace, tmp_path).durations_s == pytest.approx((100 * US,) * 3)


def test_a_step_launched_ahead_begins_when_the_work_of_the_one_before_is_done(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.step(2, 100, 100)
    trace.kernel("a", start=0, duration=180, launched=0)
    trace.kernel("a", start=190, duration=110, launched=110)  # ends at 300, after the mark
    facts = facts_of(trace, tmp_path)
    assert facts.durations_s == pytest.approx((180 * US, 120 * US))
    assert facts.busy_share == pytest.approx(290 / 300)


def test_a_step_waits_for_the_work_launched_before_the_first_mark(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.kernel("before", start=0, duration=140, launched=0)
    trace.step(1, 100, 100)
    trace.kernel("a", start=150, duration=40, launched=110)
    facts = facts_of(trace, tmp_path)
    assert facts.durations_s == pytest.approx((60 * US,))
    assert facts.outside_s == pytest.approx(140 * US)


def test_the_figures_are_those_of_the_regular_steps_and_the_first_is_told_apart(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for number, start, duration, work in ((1, 0, 400, 20), (2, 400, 100, 80), (3, 500, 120, 84)):
        trace.step(number, start, duration)
        trace.kernel("a", start=start + 10, duration=work, launched=start)
    facts = facts_of(trace, tmp_path)
    assert facts.first_step_differs
    assert facts.durations_s == pytest.approx((400 * US, 100 * US, 120 * US))
    assert facts.step_s == pytest.approx(110 * US)
    assert facts.kernel_s == pytest.approx(82 * US)
    assert facts.busy_share == pytest.approx(164 / 220)
    assert facts.step_gap_s[0]["host"] == pytest.approx(380 * US)


def test_without_steps_the_figures_are_of_the_whole_trace(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.kernel("a", start=10, duration=30, launched=1)
    trace.kernel("b", start=60, duration=40, launched=2)
    facts = facts_of(trace, tmp_path)
    assert (facts.count, facts.found_by, facts.durations_s, facts.outside_s) == (0, "none", (), 0)
    assert facts.step_s == pytest.approx(90 * US)
    assert facts.busy_share == pytest.approx(70 / 90)
    assert facts.launches == 2


# causes


def test_a_gap_in_which_the_host_only_launches_is_the_hosts(tmp_path: Path) -> None:
    assert facts_of(one_step(), tmp_path).gap_s == pytest.approx(
        {"host": 50 * US, "data": 0, "communication": 0, "sync": 0, "gpu": 0}
    )


@pytest.mark.parametrize("name", ["enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", "## data_load ##"])
def test_a_gap_spent_in_the_data_loader_is_datas(tmp_path: Path, name: str) -> None:
    trace = one_step()
    trace.op(name, 32, 25, category="user_annotation")  # 25 of 40 us
    assert facts_of(trace, tmp_path).gap_s == pytest.approx(
        {"host": 10 * US, "data": 40 * US, "communication": 0, "sync": 0, "gpu": 0}
    )


def test_a_data_loader_in_a_thread_that_launches_nothing_holds_nobody_up(tmp_path: Path) -> None:
    trace = one_step()
    trace.op("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 0, 100, thread=2)
    assert facts_of(trace, tmp_path).gap_s["data"] == 0


def test_a_gap_spent_staging_a_copy_to_the_gpu_is_datas(tmp_path: Path) -> None:
    trace = one_step()
    trace.copy("Memcpy HtoD (Pageable -> Device)", 65, 2, 1000, launched=32)
    trace.events[-1]["dur"] = 35
    facts = facts_of(trace, tmp_path)  # 33 of the 35 us before the copy; then 3 us in which the kernel is launched
    assert facts.gap_s == pytest.approx({"host": 10 * US, "data": 38 * US, "communication": 0, "sync": 0, "gpu": 0})


def test_a_gap_that_began_while_the_host_waited_for_the_gpu_is_syncs(tmp_path: Path) -> None:
    trace = one_step()
    trace.call("cudaStreamSynchronize", 15, 20)  # returns 5 us after the kernel ended
    assert facts_of(trace, tmp_path).gap_s == pytest.approx(
        {"host": 10 * US, "data": 0, "communication": 0, "sync": 40 * US, "gpu": 0}
    )


@pytest.mark.parametrize(
    "launched, start, cause",
    [
        (18, 31, "gpu"),  # in the queue 12 us before the gap began at 30
        (22, 31, "sync"),  # 8 us before: as long as a launch takes
        (18, 45, "sync"),  # queued, but the GPU waited for something else
    ],
)
def test_a_short_gap_before_a_queued_kernel_is_the_gpus_own_whatever_the_host_does(
    tmp_path: Path, launched: float, start: float, cause: str
) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.kernel("a", start=10, duration=20, launched=0)
    trace.kernel("b", start=start, duration=100 - start, launched=launched)
    trace.call("cudaStreamSynchronize", 24, 76)
    gaps = facts_of(trace, tmp_path).gap_s
    assert gaps == pytest.approx(
        {"host": 10 * US, "data": 0, "communication": 0, "sync": 0, "gpu": 0} | {cause: (start - 30) * US}
    )


def test_a_wait_that_ends_in_the_data_loader_is_datas(tmp_path: Path) -> None:
    trace = one_step()
    trace.call("cudaStreamSynchronize", 15, 18)
    trace.op("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 34, 26)
    assert facts_of(trace, tmp_path).gap_s["data"] == pytest.approx(40 * US)


def test_reading_a_number_back_is_a_sync_and_waiting_for_the_input_is_data(tmp_path: Path) -> None:
    def gap_after(name: str) -> dict[str, float]:
        trace = one_step()
        trace.copy(name, 30, 5, 4, launched=20)
        trace.events[-1]["dur"] = 18
        return facts_of(trace, tmp_path).gap_s

    assert gap_after("Memcpy DtoH (Device -> Pageable)")["sync"] == pytest.approx(35 * US)
    assert gap_after("Memcpy HtoD (Pageable -> Device)")["data"] == pytest.approx(35 * US)


def test_a_synchronization_that_found_the_gpu_idle_is_not_the_cause(tmp_path: Path) -> None:
    trace = one_step()
    trace.call("cudaDeviceSynchronize", 40, 3)
    assert facts_of(trace, tmp_path).gap_s["sync"] == 0


def test_communication_that_runs_alone_is_exposed_and_beside_work_is_not(tmp_path: Path) -> None:
    trace = one_step()
    trace.kernel("ncclDevKernel_AllReduce_Sum_f16_RING_LL(ncclDevComm*)", 20, 40, launched=5, stream=20)
    facts = facts_of(trace, tmp_path)  # 20 to 30 beside "a", 30 to 60 alone
    assert facts.exposed_communication_s == pytest.approx(30 * US)
    assert facts.busy_share == pytest.approx(0.9 - 0.1)


def test_a_gap_spent_in_a_collective_on_the_host_is_communications(tmp_path: Path) -> None:
    trace = one_step()
    trace.op("gloo:all_reduce", 31, 30, category="user_annotation")
    assert facts_of(trace, tmp_path).gap_s["communication"] == pytest.approx(40 * US)


def test_of_two_gpus_the_busier_ones_gaps_are_told(tmp_path: Path) -> None:
    trace = one_step()
    trace.kernel("c", start=0, duration=10, launched=1)
    trace.events[-2]["args"]["device"] = 1
    facts = facts_of(trace, tmp_path)
    assert facts.busy_share == pytest.approx(0.5)
    assert facts.kernel_s == pytest.approx(60 * US)


# arithmetic

interval = st.tuples(st.integers(0, 40), st.integers(-3, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(interval, max_size=12), st.lists(interval, min_size=1, max_size=6))
def test_unions_agree_with_counting_each_unit_of_time(
    intervals: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    covered = {moment for start, end in intervals for moment in range(start, end)}
    union = Union.of(*(np.array([pair[i] for pair in intervals], dtype=float) for i in (0, 1)))
    starts, ends = (np.array([float(min(pair)) for pair in asked]), np.array([float(max(pair)) for pair in asked]))
    expected = [len(covered & set(range(int(a), int(b)))) for a, b in zip(starts, ends, strict=True)]
    assert union.within(starts, ends).tolist() == expected
    gap_start, gap_end = union.gaps(5.0, 45.0)
    assert (gap_end - gap_start).sum() == 40 - len(covered & set(range(5, 45)))
    assert not union.contains((gap_start + gap_end) / 2).any()


moments = st.integers(0, 300)
lengths = st.integers(0, 60)


@given(
    kernels=st.lists(st.tuples(moments, lengths, st.none() | moments, st.sampled_from(["gemm", "ncclKernel"]))),
    copies=st.lists(st.tuples(moments, lengths, st.none() | moments, st.sampled_from(["Memcpy HtoD", "Memset"]))),
    ranges=st.lists(st.tuples(moments, lengths, st.sampled_from(["ProfilerStep#1", "DataLoader", "step 1", "nccl:x"]))),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_busy_and_gaps_fill_the_steps_of_any_trace(
    tmp_path: Path,
    kernels: list[tuple[int, int, int | None, str]],
    copies: list[tuple[int, int, int | None, str]],
    ranges: list[tuple[int, int, str]],
) -> None:
    trace = KinetoTrace()
    trace.kernel("always one", start=150, duration=1, launched=140)
    for start, duration, launched, name in kernels:
        trace.kernel(name, start=start, duration=duration, launched=launched, stream=start % 3)
    for start, duration, launched, name in copies:
        trace.copy(name, start, duration, 4, launched=launched)
    for start, duration, name in ranges:
        trace.op(name, start, duration, category="user_annotation")
    facts = facts_of(trace, tmp_path)
    regular = facts.durations_s[facts.first_step_differs :] or (facts.step_s,)
    assert 0 <= facts.busy_share <= 1 + 1e-9
    for step, gaps in zip(facts.durations_s, facts.step_gap_s, strict=True):
        assert sum(gaps.values()) <= step + 1e-12
    if len(regular) == 1 and sum(regular):
        assert facts.busy_share * regular[0] + sum(facts.gap_s.values()) == pytest.approx(regular[0])


def test_a_stall_every_so_many_steps_is_shared_among_them_and_no_cause_takes_more_than_the_step(tmp_path: Path) -> None:
    """Four steps of 100 us that wait for 20, and one of 900 that waits for 820."""
    trace = KinetoTrace()
    for number, start, duration in ((1, 0, 100), (2, 100, 100), (3, 200, 900), (4, 1100, 100), (5, 1200, 100)):
        trace.step(number, start, duration)
        trace.kernel("a", start=start + duration - 80, duration=80, launched=start)
    facts = facts_of(trace, tmp_path)
    assert facts.step_s == pytest.approx(260 * US)
    assert facts.gap_s["host"] == pytest.approx((4 * 20 + 820) / 5 * US)
    assert facts.busy_share * facts.step_s == pytest.approx(80 * US)


# real traces


def test_the_resnet_trace_is_launch_bound_and_its_first_step_waited_for_data() -> None:
    """By hand, in microseconds of step 5: the loader takes 99 to 4,430, the call that copies the images 8,556 to
    48,552, the copy itself 44,992 to 48,597, and the first kernel begins at 49,231."""
    facts = facts_at(recorded_trace("resnet50_train_b32_fp32_v100.json.gz"))
    assert (facts.count, facts.launches, facts.first_step_differs, facts.outside_s) == (6, 1478, True, 0)
    assert facts.durations_s == pytest.approx((0.182306, 0.126183, 0.127181, 0.123079, 0.163461, 0.124198))
    assert facts.step_s == pytest.approx((0.126183 + 0.127181 + 0.123079 + 0.163461 + 0.124198) / 5)
    assert facts.busy_share * facts.step_s + sum(facts.gap_s.values()) == pytest.approx(facts.step_s)
    assert facts.kernel_s == pytest.approx((594.868e-3 - 99.778e-3) / 5)
    assert facts.busy_share == pytest.approx(0.769, abs=0.001)
    first = facts.step_gap_s[0]
    assert first["data"] == pytest.approx(44.992e-3 + (49.231 - 44.992 - 3.605) * 1e-3, abs=1e-5)
    assert facts.gap_s["host"] > 0.9 * sum(facts.gap_s.values())
    assert facts.gap_s["gpu"] == pytest.approx(0.00167, abs=1e-5)  # of a step with 1478 kernels, 1.1 us each


@pytest.mark.parametrize(
    "name", ["resnet50_train_b32_fp32_v100", "alexnet_a100", "sampled_no_device_properties", "triton_kernel_a100"]
)
def test_busy_and_gaps_fill_the_steps(name: str) -> None:
    raw = read_trace(recorded_trace(f"{name}.json.gz"))
    links = link(raw)
    steps = find_steps(raw, links)
    facts = step_facts(raw, links, steps)
    regular = [facts.durations_s[i] for i in steps.regular]
    gaps = sum(facts.gap_s.values()) * len(regular)
    assert facts.busy_share * sum(regular) + gaps == pytest.approx(sum(regular))
