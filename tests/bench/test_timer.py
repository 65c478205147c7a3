"""The timer's decisions, on a recorded stand-in: what is queued, when it stops, what it says of its samples."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.device import HostDevice
from bench.timer import (
    Reference,
    TimerOptions,
    drift_note,
    drift_of,
    interleave,
    relative_spread,
    rotation,
    settle,
    time_calls,
)
from tests.recorded_device import RecordedDevice, dips, heating, settling

US, MS, MIB = 1e-6, 1e-3, 2**20
OPTIONS = TimerOptions()


@pytest.mark.parametrize("seconds", [2 * US, 7 * US, 45 * US, 70 * US, 3 * MS, 0.4])
def test_the_time_found_is_the_devices_without_launches(seconds: float) -> None:
    device = RecordedDevice()
    timing = time_calls(device, [device.work(seconds)], OPTIONS)
    assert timing.median_s == pytest.approx(seconds, rel=0.015)
    assert not timing.host_bound
    assert timing.graph == (seconds < 50 * US)


@pytest.mark.parametrize("seconds", [2 * US, 70 * US, 700 * US, 3 * MS])
def test_a_sample_lasts_a_millisecond_at_least(seconds: float) -> None:
    device = RecordedDevice()
    timing = time_calls(device, [device.work(seconds)], OPTIONS)
    assert timing.calls_per_sample * timing.median_s >= 1 * MS


def test_nothing_waits_between_the_timed_calls_of_a_batch() -> None:
    device = RecordedDevice()
    time_calls(device, [device.work(70 * US)], OPTIONS)
    last_wait = len(device.log) - device.log[::-1].index("sync")  # 1 past it
    batch_start = last_wait - 1 - device.log[: last_wait - 1][::-1].index("sync")
    batch = device.log[batch_start : last_wait - 1]
    assert batch.count("record") == 2 * OPTIONS.samples
    assert set(batch) == {"record", "run"}
    assert batch.index("record") > 0  # untimed calls lead, so that the host is ahead at the first event


def test_an_exact_device_is_left_after_the_fewest_samples() -> None:
    device = RecordedDevice()
    timing = time_calls(device, [device.work(1 * MS)], OPTIONS)
    assert len(timing.samples_s) == OPTIONS.samples
    assert timing.quality == "good"


def test_a_noisy_device_is_sampled_until_the_spread_is_small() -> None:
    few = time_calls(*_noisy(0.01), OPTIONS)
    many = time_calls(*_noisy(0.03), replace(OPTIONS, budget_s=10.0))
    assert many.quality == "good"
    assert len(many.samples_s) > len(few.samples_s)
    assert relative_spread(many.samples_s) <= OPTIONS.relative_spread


def test_a_spread_that_stays_is_noisy_and_every_sample_is_kept() -> None:
    timing = time_calls(*_noisy(0.5), replace(OPTIONS, budget_s=10.0))
    assert timing.quality == "noisy"
    assert len(timing.samples_s) == OPTIONS.most_samples


def test_a_budget_spent_early_is_short_and_still_gives_a_time() -> None:
    device = RecordedDevice()
    timing = time_calls(device, [device.work(0.1)], replace(OPTIONS, budget_s=0.25))
    assert timing.quality == "short"
    assert timing.samples_s == pytest.approx(
        [0.1], rel=1e-4
    )  # 0.1 s went into the guess; a second sample would overrun
    huge = time_calls(device, [device.work(2.0)], replace(OPTIONS, budget_s=0.25))
    assert huge.samples_s == pytest.approx([2.0], rel=1e-4)


def test_compiling_in_the_first_call_costs_no_budget() -> None:
    device = RecordedDevice()
    first = iter([4.0])

    def call() -> None:
        device.host_s += next(first, 0.0)
        work()

    work = device.work(1 * MS)
    assert time_calls(device, [call], OPTIONS).quality == "good"


@given(
    seconds=st.floats(0, 1.0),
    launches=st.integers(1, 30),
    host_s=st.floats(0, 1e-2),
    noise=st.floats(0, 1),
    budget_s=st.floats(0, 0.5),
    buffers=st.integers(1, 20),
    graphs=st.booleans(),
    holds=st.booleans(),
    host_included=st.booleans(),
)
def test_whatever_is_timed_there_is_a_finite_sample(
    seconds: float, launches: int, host_s: float, noise: float, budget_s: float, buffers: int, graphs: bool,
    holds: bool, host_included: bool,
) -> None:  # fmt: skip
    device = RecordedDevice(noise=noise, graphs=graphs, holds=holds)
    options = replace(OPTIONS, budget_s=budget_s)
    calls = [device.work(seconds, launches=launches, host_s=host_s) for _ in range(buffers)]
    timing = time_calls(device, calls, options, host_included=host_included)
    assert 1 <= len(timing.samples_s) <= options.most_samples
    assert all(math.isfinite(sample) and sample >= 0 for sample in timing.samples_s)
    assert timing.calls_per_sample >= 1


@given(seconds=st.floats(0.5 * MS, 1.0), budget_s=st.floats(0, 0.5), relative_spread=st.sampled_from([0.0, 0.01]))
def test_the_budget_is_overrun_by_one_sample_at_most(seconds: float, budget_s: float, relative_spread: float) -> None:
    device = RecordedDevice()
    options = replace(OPTIONS, budget_s=budget_s, relative_spread=relative_spread)
    timing = time_calls(device, [device.work(seconds)], options)
    sample_s = timing.calls_per_sample * seconds
    warm_up_s = 2 * seconds  # the first call, and one to guess from
    lead_s = seconds if seconds < 10 * MS else 0.0
    assert device.now_s() <= warm_up_s + lead_s + max(budget_s, sample_s) + 0.1 * MS


def test_throttled_samples_are_kept_and_do_not_move_the_median() -> None:
    device = RecordedDevice(slowdown=dips(every_s=0.005, length_s=0.001, factor=1.5))
    timing = time_calls(device, [device.work(1 * MS)], replace(OPTIONS, most_samples=40, relative_spread=0.0))
    assert max(timing.samples_s) > 1.2 * MS
    assert len(timing.samples_s) == 40
    assert timing.median_s == pytest.approx(1 * MS)


def test_all_buffers_take_turns_also_inside_a_graph() -> None:
    device = RecordedDevice()
    outside = [device.work(0.3 * MS, label=i) for i in range(7)]
    time_calls(device, outside, OPTIONS, mode="cold")
    assert all(after == (before + 1) % 7 for before, after in pairwise(device.ran))

    times = [1 * US, 2 * US, 6 * US, 3 * US, 8 * US]  # mean 4 us: any uneven share of the turns would show
    replayed = time_calls(device, [device.work(seconds) for seconds in times], OPTIONS, mode="cold")
    assert replayed.graph
    assert replayed.mode == "cold"
    assert replayed.calls_per_sample % 5 == 0
    assert replayed.median_s == pytest.approx(4 * US, rel=0.02)


def test_a_tiny_kernel_that_cannot_be_captured_is_timed_behind_a_hold() -> None:
    device = RecordedDevice(graphs=False)
    timing = time_calls(device, [device.work(5 * US, host_s=40 * US)], OPTIONS)
    assert not timing.graph
    assert "hold" in device.log
    assert timing.median_s == pytest.approx(5 * US, rel=0.02)
    assert not timing.host_bound


def test_a_caller_that_forbids_graphs_gets_none() -> None:
    device = RecordedDevice()
    timing = time_calls(device, [device.work(5 * US, host_s=40 * US)], OPTIONS, graph=False)
    assert "capture" not in device.log
    assert timing.median_s == pytest.approx(5 * US, rel=0.02)


def test_a_long_call_of_many_small_launches_is_replayed_too() -> None:
    device = RecordedDevice()
    timing = time_calls(device, [device.work(100 * US, launches=50)], OPTIONS)  # 300 us of launches for 100 us of work
    assert timing.graph
    assert timing.median_s == pytest.approx(100 * US, rel=0.03)


def test_where_neither_graph_nor_hold_is_possible_the_host_is_said_to_bind() -> None:
    device = RecordedDevice(graphs=False, holds=False)
    timing = time_calls(device, [device.work(5 * US, host_s=40 * US)], OPTIONS)
    assert timing.host_bound
    assert timing.median_s == pytest.approx(46 * US, rel=0.05)


def test_more_launches_than_the_queue_takes_are_said_to_be_bound_by_the_host() -> None:
    device = RecordedDevice(graphs=False)
    timing = time_calls(device, [device.work(3 * MS, launches=3000)], OPTIONS)
    assert timing.host_bound


def test_a_step_with_its_host_is_timed_as_a_loop_runs_it() -> None:
    device = RecordedDevice()
    step = device.work(5 * MS, launches=2000)  # 12 ms of launches
    timing = time_calls(device, [step], OPTIONS, host_included=True)
    assert timing.median_s == pytest.approx(12 * MS, rel=0.01)
    assert not timing.graph
    assert not timing.host_bound  # it is what was asked for
    assert not {"hold", "capture"} & set(device.log)


def test_what_a_call_raises_comes_through() -> None:
    def broken() -> None:
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        time_calls(RecordedDevice(), [broken], OPTIONS)
    with pytest.raises(ValueError, match="no calls"):
        time_calls(RecordedDevice(), [], OPTIONS)


def test_the_hosts_own_clock_times_a_call_without_graphs() -> None:
    timing = time_calls(HostDevice(), [lambda: sum(range(1000))], replace(OPTIONS, budget_s=0.02))
    assert timing.samples_s
    assert timing.median_s > 0
    assert not timing.graph
    assert not timing.host_bound


# The interval of a median by order statistics, from tables of the binomial distribution: with 9 samples the second and
# the eighth (96.1 %), with 20 the sixth and the fifteenth (95.9 %), with 100 the 40th and the 61st (96.5 %).
@pytest.mark.parametrize(("n", "low", "high"), [(2, 1, 2), (5, 1, 5), (6, 1, 6), (9, 2, 8), (20, 6, 15), (100, 40, 61)])
def test_the_spread_is_half_the_interval_of_the_median(n: int, low: int, high: int) -> None:
    samples = [1.0 + i for i in range(n)]
    assert relative_spread(samples[::-1]) == pytest.approx((high - low) / 2 / statistics.median(samples))


def test_the_spread_of_one_sample_is_unknown_and_of_equal_ones_nothing() -> None:
    assert relative_spread([1.0]) == math.inf
    assert relative_spread([0.0, 0.0]) == 0.0
    assert relative_spread([0.0, 0.0, 1.0]) == math.inf


def test_settling_waits_until_the_clocks_are_steady() -> None:
    device = RecordedDevice(slowdown=settling(extra=0.3, time_constant_s=1.0))
    found = settle(device, device.work(0.1 * MS), replace(OPTIONS, settle_s=0.5))
    assert found.steady
    # 30 % x exp(-t/1 s) must fall by 2 % within the last 4 windows of 0.1 s: exp(-t) (exp(0.4) - 1) = 0.02 / 0.3, so
    # t = 2.0 s at the last window's middle
    assert found.took_s == pytest.approx(2.0, abs=0.3)
    assert found.windows_s[0] > 1.2 * found.windows_s[-1]
    json.dumps(found.facts(), allow_nan=False)


def test_settling_takes_its_least_time_even_where_all_is_steady() -> None:
    device = RecordedDevice()
    found = settle(device, device.work(0.1 * MS), OPTIONS)
    assert found.steady
    assert found.took_s == pytest.approx(OPTIONS.settle_s, abs=2 * OPTIONS.settle_window_s)


def test_settling_ends_at_its_limit_and_says_that_it_did_not_settle() -> None:
    device = RecordedDevice(slowdown=heating(per_s=0.2))
    found = settle(device, device.work(0.1 * MS), OPTIONS)
    assert not found.steady
    assert found.took_s == pytest.approx(OPTIONS.settle_limit_s, abs=3 * OPTIONS.settle_window_s)


def test_a_reference_that_slows_over_two_per_cent_marks_the_run() -> None:
    device = RecordedDevice(slowdown=heating(per_s=0.001))
    reference = Reference(device, [device.work(1 * MS)], OPTIONS)
    reference.read(0)
    device.host_s += 30.0  # cases are measured meanwhile
    reference.read(250)
    assert reference.drifted
    assert reference.drift == pytest.approx(0.03, rel=0.02)
    facts = json.loads(json.dumps(reference.facts(), allow_nan=False))
    assert [reading["after_cases"] for reading in facts["readings"]] == [0, 250]
    assert "3.0% slower" in facts["note"]
    assert "\n" not in facts["note"]


def test_a_steady_reference_marks_nothing() -> None:
    device = RecordedDevice()
    reference = Reference(device, [device.work(1 * MS)], OPTIONS)
    assert reference.drift == 0.0
    reference.read(0)
    reference.read(100)
    assert reference.drift == pytest.approx(0.0, abs=1e-9)
    assert not reference.drifted
    assert reference.facts()["note"] is None


def test_a_reference_is_due_at_first_and_every_so_many_cases() -> None:
    device = RecordedDevice()
    reference = Reference(device, [device.work(1 * MS)], replace(OPTIONS, reference_every=50))
    read_after = []
    for done in range(121):
        if reference.due(done):
            reference.read(done)
            read_after.append(done)
    assert read_after == [0, 50, 100]


@pytest.mark.parametrize(
    ("medians", "drift"), [([], 0.0), ([1.0], 0.0), ([1.0, 1.01, 0.95, 1.0], -0.05), ([0.0, 1.0], 0.0)]
)
def test_drift_is_the_farthest_reading_from_the_first(medians: list[float], drift: float) -> None:
    assert drift_of(medians) == pytest.approx(drift)


def test_a_device_that_became_faster_is_said_too() -> None:
    note = drift_note(-0.05)
    assert note is not None
    assert "5.0% faster" in note
    assert drift_note(0.02) is None


def test_cold_operands_are_rotated_through_twice_the_l2() -> None:
    l2 = 50 * MIB
    assert (rotation(8 * MIB, l2).copies, rotation(8 * MIB, l2).mode) == (13, "cold")  # 12.5 copies are 100 MiB
    assert (rotation(100 * MIB, l2).copies, rotation(100 * MIB, l2).mode) == (1, "cold")
    assert (rotation(8 * MIB, l2, mode="warm").copies, rotation(8 * MIB, l2, mode="warm").mode) == (1, "warm")


def test_what_cannot_be_cold_is_warm_and_says_so() -> None:
    assert rotation(1024, 50 * MIB).mode == "warm"  # 102,400 copies
    assert rotation(8 * MIB, 50 * MIB, free_bytes=100 * MIB).mode == "warm"  # 13 copies are 104 MiB
    assert rotation(8 * MIB, 50 * MIB, free_bytes=200 * MIB, bytes_per_copy=16 * MIB).mode == "warm"  # 208 MiB
    with pytest.raises(ValueError, match="reads 0 bytes"):
        rotation(0, 50 * MIB)


@given(bytes_read=st.integers(1, 2**36), l2_bytes=st.integers(0, 2**28))
def test_a_cold_rotation_covers_twice_the_l2_and_no_fewer_copies_do(bytes_read: int, l2_bytes: int) -> None:
    found = rotation(bytes_read, l2_bytes)
    if found.mode == "cold":
        assert found.copies * bytes_read >= 2 * l2_bytes
        assert found.copies == 1 or (found.copies - 1) * bytes_read < 2 * l2_bytes
    else:
        assert found.copies == 1


def test_the_order_is_random_and_the_seed_alone_decides_it() -> None:
    cases = list(range(100))
    once, again, other = interleave(cases, 1), interleave(cases, 1), interleave(cases, 2)
    assert once == again
    assert sorted(once) == cases
    assert once not in (cases, other)


@pytest.mark.gpu
def test_a_gpus_kernels_are_timed_on_the_device() -> None:
    import torch

    from bench.device import open_device

    device = open_device("cuda:0")
    x = torch.rand(2**28, device="cuda")
    y = torch.empty_like(x)
    copied = time_calls(device, [lambda: y.copy_(x)], OPTIONS)
    assert 1e11 < 2 * 4 * x.numel() / copied.median_s < 2e13  # bytes per second of any card from Volta to Rubin
    small = torch.zeros(8, device="cuda")
    tiny = time_calls(device, [lambda: small.add_(1)], OPTIONS)
    held = time_calls(device, [lambda: small.add_(1)], OPTIONS, graph=False)
    assert tiny.graph
    assert not held.graph
    assert tiny.median_s < 10 * US
    assert held.median_s < 10 * US


def _noisy(noise: float) -> tuple[RecordedDevice, list[object]]:
    device = RecordedDevice(noise=noise, seed=1)
    return device, [device.work(1.2 * MS)]
