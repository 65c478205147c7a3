"""Time to target over the global batch: the closed form, the search, and a public trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure as MatplotlibFigure

from advisor.choice import TIE
from advisor.cut import LeastTimes
from advisor.errors import BadInputError, DoesNotFitError
from advisor.planning.build import plan
from advisor.planning.records import CriticalBatch, CriticalValue, PlanAnswer, Target
from advisor.planning.target import (
    StepLine,
    best_batch,
    best_for,
    find_target,
    fit_step_line,
    gpu_counts,
    time_to_target,
)
from advisor.plots.target import INCHES, draw_target, save_target
from advisor.report.records import Figure
from bench.accuracy.target import Pick, line_of, picked, picks, read_epoch_times, read_epochs
from tests.data import measured
from tests.pictures import pictured

T0_S, T1_S = 0.010, 0.0001  # 100 samples take as long as the step's fixed part
LARGEST = 4096


def known(low: float, high: float | None = None) -> CriticalBatch:
    ends = (low,) if high is None else (low, high)
    values = tuple(CriticalValue("t", "a task", end, "images", "given", "by hand", None, None, None) for end in ends)
    return CriticalBatch(ends[0], ends[-1], "images", "a task", values, None)


def on_a_line(gpus: int) -> LeastTimes:
    """Any share of a GPU is one micro-step of T0_S + T1_S p."""
    shares = np.arange(1, LARGEST + 1)
    return LeastTimes(T0_S + T1_S * shares, shares)


def target_of(critical: CriticalBatch, *, gpus: int = 4, asked: int = 1024, **options: Any) -> Target:
    times_of: Callable[[int], LeastTimes] = options.pop("times_of", on_a_line)
    known_at = options.pop("known_at", asked)
    curve = np.arange(1, 257), T0_S + T1_S * np.arange(1, 257)
    return find_target(times_of, gpus=gpus, asked=asked, known_at=known_at, critical=critical, curve=curve, **options)


# The line


def test_an_exact_line_is_found_on_any_grid() -> None:
    for sizes in (np.arange(1, 1025), 2 ** np.arange(11), np.array([3, 257])):
        line = fit_step_line(sizes, 0.002 + 0.0005 * sizes)
        assert (line.t0_s, line.t1_s) == pytest.approx((0.002, 0.0005))
        assert line.largest_error < 1e-12


def test_every_doubling_counts_the_same_however_many_sizes_it_holds() -> None:
    every, powers = np.arange(1, 1025), 2 ** np.arange(11)

    def bent(sizes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.asarray(np.maximum(0.01, 0.0001 * sizes))

    few, many = fit_step_line(powers, bent(powers)), fit_step_line(every, bent(every))
    assert many.t0_s == pytest.approx(few.t0_s, rel=0.1)
    assert many.t1_s == pytest.approx(few.t1_s, rel=0.1)
    assert many.largest_error == pytest.approx(np.abs((many.t0_s + many.t1_s * every) / bent(every) - 1).max())


def test_neither_part_of_a_line_is_below_zero() -> None:
    sizes = np.array([1.0, 2, 4, 8])
    assert fit_step_line(sizes, sizes**1.2).t0_s == 0
    falling = fit_step_line(sizes, 1 / sizes)
    assert falling.t1_s == 0
    assert falling.t0_s > 0
    assert best_batch(falling, gpus=1, critical=100) == math.inf


@pytest.mark.parametrize(
    ("batches", "times"),
    [([1], [1.0]), ([], []), ([1, 2], [1.0]), ([2, 1], [1.0, 2.0]), ([1, 1], [1.0, 2.0]), ([0, 1], [1.0, 2.0]),
     ([1, 2], [1.0, math.nan]), ([1, 2], [0.0, 1.0]), ([1, math.inf], [1.0, 2.0])],
)  # fmt: skip
def test_a_line_that_cannot_be_fitted_is_refused(batches: list[float], times: list[float]) -> None:
    with pytest.raises(BadInputError, match="line"):
        fit_step_line(batches, times)


# Time to target


def test_time_to_target_by_hand() -> None:
    # 1,000 samples at least, 1,500 at half the critical batch: 30 steps of 0.2 s
    assert time_to_target(50, 0.2, critical=100, least_samples=1000) == pytest.approx(6.0)


@given(
    gpus=st.integers(1, 64),
    critical=st.floats(100, 1e6),
    t0_s=st.floats(1e-4, 0.1),
    t1_s=st.floats(1e-6, 1e-2),
    exchange_s=st.floats(0, 0.1),
)
def test_the_closed_form_is_the_argmin_of_an_exact_line(
    gpus: int, critical: float, t0_s: float, t1_s: float, exchange_s: float
) -> None:
    best = best_batch(StepLine(t0_s, t1_s, 0.0), gpus=gpus, critical=critical, exchange_s=exchange_s)
    batches = best * np.geomspace(0.01, 100, 20001)  # the middle one is the best itself
    times = time_to_target(batches, t0_s + exchange_s + t1_s * batches / gpus, critical=critical, least_samples=1.0)
    assert batches[times.argmin()] == pytest.approx(best, rel=1e-3)
    assert best == pytest.approx(math.sqrt(gpus * critical * (t0_s + exchange_s) / t1_s))


# The search


@given(gpus=st.integers(1, 16), critical=st.floats(500, 1e5))
def test_the_search_finds_what_the_closed_form_names(gpus: int, critical: float) -> None:
    target = target_of(known(critical), gpus=gpus, asked=gpus * 8)
    assert target.t0_s == pytest.approx(T0_S)
    closed = gpus * math.sqrt(100 * critical / gpus)
    assert target.closed_form == pytest.approx((closed, closed))
    if closed < gpus * LARGEST:
        assert abs(target.best[0] - closed) <= gpus  # the nearest that the GPUs can share
    least, largest = target.near_best[0]
    assert least <= target.best[0] <= largest


def test_the_answer_by_hand() -> None:
    # 4 GPUs, critical batch 1,600: sqrt(4 * 1600 * 100) = 800, where a step takes 10 + 20 = 30 ms
    target = target_of(known(1600), asked=1600, known_at=1600, known_samples=3200.0)
    assert target.best == (800, 800)
    asked = next(point for point in target.points if "asked" in point.roles)
    # at 1,600: 2 steps of 10 + 40 = 50 ms; at 800: 3200 * 1.5 / 2 = 2,400 samples in 3 steps of 30 ms
    assert asked.time_s == pytest.approx((0.1, 0.1))
    best = next(point for point in target.points if "best" in point.roles)
    assert best.time_s == pytest.approx((0.09, 0.09))
    assert best.samples_factor == pytest.approx((0.75, 0.75))
    assert target.asked_loses == pytest.approx((1 / 9, 1 / 9))
    # time goes as 10/B + 0.03125 + B/64000: 0.05625 at 800, 3 % more at 555.1 and 1152.9; 4 GPUs share multiples of 4
    assert target.near_best == ((556, 1152), (556, 1152))
    assert target.most_throughput == 16384  # 0.28786 there
    assert target.most_throughput_loses == pytest.approx((4.11752, 4.11752), abs=1e-5)
    assert (asked.cut.batch, asked.cut.accumulation, asked.cut.time_s) == (400, 1, pytest.approx(0.05))
    assert "the asked one takes 11 % longer" in target.sentence


@given(low=st.floats(500, 2e4), factor=st.floats(1.01, 8))
def test_a_larger_critical_batch_asks_for_no_smaller_batch(low: float, factor: float) -> None:
    target = target_of(known(low, low * factor))
    assert target.best[0] <= target.best[1]
    assert target.best[0] <= target.compromise <= target.best[1]
    for point in target.points:
        low_factor, high_factor = point.samples_factor
        assert np.sign(round(low_factor - high_factor, 9)) == np.sign(point.global_batch - target.known_at)
        assert min(point.relative_time) >= 1 - 1e-12
        assert min(point.relative_cost) >= 1 - 1e-12


@given(gpus=st.sampled_from([1, 2, 4, 8, 16]))
def test_more_gpus_are_never_slower_and_never_cheaper(gpus: int) -> None:
    few, many = (target_of(known(3000), gpus=n, asked=16, known_at=16, known_samples=1e6) for n in (gpus, 2 * gpus))
    best = [min(point.time_s[0] for point in each.points if point.time_s) for each in (few, many)]
    assert best[1] <= best[0] <= 2 * best[1] * (1 + 1e-12)


def test_what_lies_around_the_asked_batch_is_listed_with_its_roles() -> None:
    target = target_of(known(1600, 6400), asked=1024)
    roles = {point.global_batch: point.roles for point in target.points}
    assert roles[256] == ("a quarter of the asked",)
    assert roles[512] == ("half the asked",)
    assert roles[1024] == ("asked",)
    assert roles[2048] == ("twice the asked",)
    assert roles[4096] == ("four times the asked",)
    assert roles[800] == ("best at a critical batch of 1,600",)
    assert roles[1600] == ("best at a critical batch of 6,400",)
    assert any("best compromise" in role for role in roles.values())
    assert list(roles) == sorted(roles)


@pytest.mark.parametrize("asked", [64, 8192])
def test_a_smaller_and_a_larger_batch_than_the_best_are_listed_wherever_the_asked_one_lies(asked: int) -> None:
    points = {role: point for point in target_of(known(1600), asked=asked).points for role in point.roles}
    assert [points[role].global_batch for role in ("half the best", "best", "twice the best")] == [400, 800, 1600]
    # time goes as 10/B + 0.03125 + B/64000: 0.0625 at 400 and at 1,600, 0.05625 at 800
    assert points["half the best"].relative_time == pytest.approx((10 / 9, 10 / 9))
    assert points["twice the best"].relative_time == pytest.approx((10 / 9, 10 / 9))


def test_where_the_best_is_asked_for_what_lies_around_it_is_named_once() -> None:
    roles = {point.global_batch: point.roles for point in target_of(known(1600), asked=800).points}
    assert roles[400] == ("half the asked",)
    assert roles[1600] == ("twice the asked",)


def test_the_sentence_has_the_batches_that_lose_little_at_either_end() -> None:
    batches = np.arange(4, 4 * LARGEST + 1, 4)
    times = [(1 / batches + 1 / end) * (T0_S + T1_S * batches / 4) for end in (1600, 6400)]
    near = batches[np.max([time / time.min() for time in times], axis=0) <= 1.03]
    assert (
        f"izes from {near[0]:,} to {near[-1]:,} with a fast cut lose 3 % at most"
        in target_of(known(1600, 6400)).sentence
    )
    # of ends far apart no batch suits both
    assert "fast cut" not in target_of(known(1600, 25_600)).sentence


def test_a_curve_holds_what_is_named_and_four_sizes_of_each_doubling() -> None:
    target = target_of(known(1600, 6400), asked=1036, exchange_s=0.03)
    curve = target.curve
    named = {point.global_batch for point in target.points}
    assert named <= set(curve.global_batch)
    octave = [batch // 4 for batch in curve.global_batch if 1024 <= batch < 2048 and batch not in named]
    assert octave == [256, 320, 384, 448]  # 4, 5, 6 and 7 times 64
    for batch, speed, relative in zip(curve.global_batch, curve.samples_per_s, curve.relative_time, strict=True):
        assert speed == pytest.approx(batch / (T0_S + T1_S * batch / 4 + 0.03))
        assert min(relative) >= 1
    assert curve.relative_time[curve.global_batch.index(target.best[0])][0] == 1


def test_the_sentence_says_what_the_compromise_loses_at_most() -> None:
    target = target_of(known(1600, 25_600))
    compromise = next(point for point in target.points if "best compromise" in point.roles)
    assert 0.05 < max(compromise.relative_time) - 1 < 0.2
    assert f"{target.compromise:,} loses {100 * (max(compromise.relative_time) - 1):.1f} % at most" in target.sentence


def test_the_compromise_loses_the_same_at_either_end() -> None:
    target = target_of(known(1600, 25_600))
    at = target.curve.relative_time[target.curve.global_batch.index(target.compromise)]
    assert at[0] == pytest.approx(at[1], rel=2e-3)


def test_losses_below_half_a_per_cent_are_none() -> None:
    # T goes as 10 / B + 0.03125 + B / 64000 around 800: 0.05630 at 860, 0.1 % more; 0.05786 at 1100, 3 % more
    assert "the asked one takes no longer" in target_of(known(1600), asked=860).sentence
    assert "the asked one takes 2 % longer" in target_of(known(1600), asked=1080).sentence


def test_a_size_far_from_a_quarter_is_not_called_one() -> None:
    roles = [role for point in target_of(known(1600), gpus=64, asked=64).points for role in point.roles]
    assert "twice the asked" in roles
    assert not {"a quarter of the asked", "half the asked"} & set(roles)  # 16 and 32 are fewer than the GPUs


def test_a_curve_ends_at_twice_what_is_named_or_near_the_best() -> None:
    target = target_of(known(1600), asked=1024, most_throughput=2048)  # near the best up to 1152, 4096 four times asked
    assert max(target.curve.global_batch) == 8192
    assert min(target.curve.global_batch) == 128  # 256 is a quarter of the asked one


def test_only_cost_tries_fewer_gpus() -> None:
    asked: list[int] = []

    def times_of(gpus: int) -> LeastTimes:
        asked.append(gpus)
        return on_a_line(gpus)

    assert target_of(known(1600), objective="time-to-target", times_of=times_of).cheapest is None
    assert asked == [4]
    target_of(known(1600), objective="cost", times_of=times_of)
    assert sorted(asked[1:]) == [1, 2, 3, 4]


def test_a_batch_that_cannot_be_shared_is_taken_as_the_nearest_that_can() -> None:
    target = target_of(known(1600), gpus=4, asked=1025)
    assert next(point for point in target.points if "asked" in point.roles).global_batch == 1024


def test_sizes_that_do_not_fit_are_never_named() -> None:
    shares = np.arange(1, LARGEST + 1)
    fits = shares % 3 == 0  # as where nothing but a micro-batch of 3 fits

    def times_of(gpus: int) -> LeastTimes:
        return LeastTimes(np.where(fits, T0_S + T1_S * shares, np.inf), np.where(fits, 3, 0))

    target = target_of(known(1600), gpus=2, times_of=times_of)
    assert all(point.global_batch % 6 == 0 and point.cut.batch == 3 for point in target.points)
    assert all(batch % 6 == 0 for batch in target.curve.global_batch)
    assert target.most_throughput == 6  # beyond a micro-batch, accumulation alone


def test_nothing_that_fits_and_a_batch_beyond_the_search_are_refused() -> None:
    nothing = LeastTimes(np.full(8, np.inf), np.zeros(8, dtype=int))
    with pytest.raises(DoesNotFitError, match="not even 1 sample"):
        target_of(known(1600), times_of=lambda gpus: nothing)
    with pytest.raises(BadInputError, match="beyond the 16,384"):
        target_of(known(1600), asked=100_000)


def test_exchange_makes_larger_batches_better_on_several_gpus_alone() -> None:
    assert target_of(known(1600), exchange_s=0.03).best == (1600, 1600)  # four times t0, twice the batch
    assert target_of(known(1600), exchange_s=0.03).closed_form == pytest.approx((1600, 1600))
    alone = target_of(known(1600), gpus=1, exchange_s=0.03)
    assert alone.best == (400, 400)
    assert alone.closed_form == pytest.approx((400, 400))


def test_a_best_at_the_end_of_the_search_for_one_end_alone_is_said_to_be_there() -> None:
    target = target_of(known(1600, 1e9))
    assert target.best[0] < target.best[1] == 16_384
    assert "no larger one was searched" in target.sentence


def test_an_asked_batch_that_is_best_for_one_end_alone_is_not_said_to_lose_nothing() -> None:
    best, _ = target_of(known(1600, 160_000)).best
    target = target_of(known(1600, 160_000), asked=best)
    low, high = sorted(target.asked_loses)
    assert (low, high > 0.05) == (0, True)
    assert f"the asked one takes 0 to {100 * high:.0f} % longer" in target.sentence


def test_a_flat_line_leaves_the_closed_form_at_the_end_of_the_search() -> None:
    shares = np.arange(1, 65)
    target = find_target(
        lambda gpus: LeastTimes(np.full(64, 0.01), shares), gpus=1, asked=8, known_at=8, critical=known(100),
        curve=(shares, np.full(64, 0.01)),
    )  # fmt: skip
    assert target.closed_form == pytest.approx((64, 64))
    assert target.best == (64, 64)
    assert "no larger one was searched" in target.sentence


# Cost


def test_fewer_gpus_cost_less_and_take_longer() -> None:
    target = target_of(known(1600, 6400), gpus=8, asked=1024, objective="cost", known_samples=1e6, price=2.0)
    assert target.cheapest is not None
    batch, gpus = target.cheapest
    cheapest = next(point for point in target.points if "cheapest" in point.roles)
    assert (cheapest.global_batch, cheapest.gpus) == (batch, gpus)
    alone = [
        next(p for p in target.points if f"cheapest on {n}" in p.roles) for n in ("1 GPU", "2 GPUs", "4 GPUs", "8 GPUs")
    ]
    costs = [point.cost[0] for point in alone if point.cost]
    times = [point.time_s[0] for point in alone if point.time_s]
    assert costs == sorted(costs)
    assert times == sorted(times, reverse=True)
    assert max(cheapest.relative_cost) <= (1 + TIE) * min(max(point.relative_cost) for point in target.points)
    one = alone[0]
    assert one.time_s is not None and one.cost is not None
    assert one.cost[0] == pytest.approx(2.0 * one.time_s[0] / 3600)


def test_gpus_whose_cost_ties_are_all_used() -> None:
    # a critical batch far beyond every batch: samples are what counts, and 8 GPUs cost what 1 does
    target = target_of(known(1e9), gpus=8, asked=64, objective="cost")
    assert target.cheapest is not None
    assert target.cheapest[1] == 8
    assert best_for(target, "cost") == target.cheapest


def test_each_objective_has_its_own_batch() -> None:
    target = target_of(known(1600, 6400), gpus=8, objective="cost")
    assert best_for(target, "time-to-target") == (target.compromise, 8)
    assert best_for(target, "throughput") == (target.most_throughput, 8) == (8 * LARGEST, 8)
    recommended = target_of(known(1600), gpus=8, most_throughput=512)
    assert best_for(recommended, "throughput") == (512, 8)
    assert best_for(target_of(known(1600), gpus=8), "cost") == (best_for(recommended, "time-to-target"))


@given(st.integers(1, 5000))
def test_tried_numbers_of_gpus_are_fewer_than_there_are(gpus: int) -> None:
    counts = gpu_counts(gpus)
    assert all(1 <= count < gpus for count in counts)
    assert list(counts) == sorted(set(counts))
    assert (1 in counts) == (gpus > 1)


def test_every_number_of_gpus_is_tried_up_to_64() -> None:
    assert gpu_counts(64) == tuple(range(1, 64))
    assert gpu_counts(65) == (1, 2, 4, 8, 16, 32, 64)
    assert gpu_counts(128) == (1, 2, 4, 8, 16, 32, 64)


# A public trace: ShuffleNetV2 on CIFAR-100, V100 at 250 W, Adadelta at one learning rate for all batches


@pytest.fixture(scope="module")
def found() -> list[Pick]:
    """For each accuracy two fits: to all batches, and from the one that needs the fewest epochs on."""
    return list(picks(measured("zeus", "time_and_power_v100.csv").parents[1]))


def test_the_best_batch_of_a_public_trace_is_found(found: list[Pick]) -> None:
    data = measured("zeus", "time_and_power_v100.csv").parents[1]
    epoch_s, epochs = read_epoch_times(data), read_epochs(data, "shufflenetv2", "adadelta")[0.6]
    assert list(epochs) == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]  # one run at 4096 never reached it
    to_target_s = {batch: epochs[batch] * epoch_s[batch] for batch in epochs}
    assert min(to_target_s, key=lambda batch: to_target_s[batch]) == 256
    assert min(epochs, key=lambda batch: epoch_s[batch]) == 1024
    assert to_target_s[1024] / to_target_s[256] == pytest.approx(1.92, abs=0.005)
    chosen = [each for each in found if each.accuracy == 0.6]
    assert [(each.least, each.best, each.ours, each.fastest, each.largest) for each in chosen] == [
        (8, 256, 256, 1024, 2048), (32, 256, 256, 1024, 2048),
    ]  # fmt: skip
    for each in chosen:
        assert each.fastest_regret == pytest.approx(0.92, abs=0.005)
        target = picked(line_of(epoch_s), epochs, each.fit.critical_batch)
        assert 128 < target.closed_form[0] < 512
        assert target.most_throughput == 2048  # by the line, which knows of no slower epoch at 2048
        assert 1 < target.asked_loses[0] < each.largest_regret  # 2048 needs even more epochs than the form says


def test_where_another_batch_is_picked_it_costs_less_than_that_of_most_throughput(found: list[Pick]) -> None:
    assert [each.accuracy for each in found[::2]] == [0.4, 0.45, 0.5, 0.55, 0.6, 0.65]
    for each in found:
        assert each.regret < 0.12
        assert each.regret < each.fastest_regret <= each.largest_regret
        assert each.regret <= each.left_out_regret
        assert each.measured_regret <= each.fastest_regret


# The picture


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_names_what_it_marks(tmp_path: Path, suffix: str) -> None:
    answer = plan("resnet50", gpu="a100-sxm4-80gb", gpus=8, global_batch=4096, optimizer="sgd").answer
    assert answer.target is not None
    path = tmp_path / f"target.{suffix}"
    save_target(answer, path)
    assert path.stat().st_size > 10_000
    if suffix == "svg":
        text = path.read_text()
        for words in (
            "asked, 4,096",
            f"its best, {answer.target.best[0]:,}",
            "recommended for throughput, ",
            "within 3 %",
        ):
            assert words in text


def pictured_answer(**options: Any) -> PlanAnswer:
    """A plan whose target is worked by hand, so that its picture moves with no prediction."""
    answer = plan("resnet50", gpu="a100-sxm4-80gb", gpus=4, global_batch=3000, optimizer="sgd").answer
    return replace(answer, target=target_of(known(1600, 25_600), asked=3000, most_throughput=8192, **options))


@pictured()
def test_a_target_looks_as_it_did() -> Figure:
    answer = pictured_answer(objective="cost")

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        assert answer.target is not None
        draw_target(figure, answer, answer.target)

    return Figure("target", "", "", "", (), draw, inches=INCHES)


def test_times_below_the_least_are_no_marks_of_the_axis_and_nothing_marked_is_cut_off() -> None:
    for answer in (pictured_answer(), pictured_answer(known_at=64)):
        figure = MatplotlibFigure(layout="constrained")
        assert answer.target is not None
        draw_target(figure, answer, answer.target)
        time = figure.axes[0]
        least, top = time.get_ylim()
        assert min(time.get_yticks()) == 1
        assert least < 1 < 1 + max(*answer.target.asked_loses, *answer.target.most_throughput_loses) < top


def test_without_a_critical_batch_there_is_no_picture(tmp_path: Path) -> None:
    answer = plan("unet", gpu="a100-sxm4-80gb", global_batch=16, optimizer="sgd").answer
    with pytest.raises(BadInputError, match="no critical batch is known for U-Net"):
        save_target(answer, tmp_path / "target.png")
