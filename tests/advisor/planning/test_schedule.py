from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advisor.errors import BadInputError, UnknownNameError
from advisor.planning.learning_rate import scale_rate
from advisor.planning.records import PLAN_OPTIMIZERS, SHAPES, Schedule, Steps
from advisor.planning.schedule import count_steps, factor_at, make_schedule

IMAGENET = 1_281_167


def imagenet(epochs: float = 90, batch: int = 4096, **more: Any) -> Steps:
    return count_steps(IMAGENET, batch, epochs=epochs, **more)


def goyal(batch: int = 4096) -> Schedule:
    return make_schedule("sgd", imagenet(batch=batch), scaled=scale_rate("sgd", batch=batch, base_batch=256, lr=0.1))


def a_run(total: int, batch: int = 1) -> Steps:
    """A run of `total` steps: one epoch."""
    return count_steps(total * batch, batch, epochs=1)


# Steps ----------------------------------------------------------------------------------------------------------------


def test_imagenet_at_4096_has_312_whole_steps_and_3215_samples_left_over() -> None:
    steps = imagenet()
    assert (steps.whole, steps.left_over, steps.per_epoch, steps.total) == (312, 3215, 312, 28_080)


def test_imagenet_at_256_has_5004_whole_steps_and_143_samples_left_over() -> None:
    steps = imagenet(batch=256)
    assert (steps.whole, steps.left_over, steps.total) == (5004, 143, 450_360)


def test_the_last_partial_batch_makes_one_more_step_where_it_is_kept() -> None:
    steps = imagenet(drop_last=False)
    assert (steps.whole, steps.per_epoch, steps.total) == (312, 313, 28_170)
    even = count_steps(4096, 1024, epochs=1, drop_last=False)
    assert (even.per_epoch, even.left_over) == (4, 0)


@pytest.mark.parametrize(("epochs", "total"), [(0.5, 156), (0.001, 1), (1.01, 316), (1 / 312, 1), (100, 31_200)])
def test_a_part_of_an_epoch_counts_and_is_rounded_up(epochs: float, total: int) -> None:
    assert imagenet(epochs).total == total


def test_epochs_are_the_decimal_that_was_written() -> None:
    assert math.ceil(0.07 * 100) == 8  # 7.000000000000001 to a computer
    assert count_steps(100, 1, epochs=0.07).total == 7


def test_a_run_without_epochs_has_no_length() -> None:
    steps = count_steps(100, 7)
    assert (steps.per_epoch, steps.epochs, steps.total) == (14, None, None)
    with pytest.raises(BadInputError, match="give epochs"):
        make_schedule("sgd", steps)


@given(st.integers(1, 10**9), st.integers(1, 1 << 20), st.booleans())
def test_whole_steps_and_what_is_left_over_are_the_dataset(size: int, batch: int, drop_last: bool) -> None:
    assume(size >= batch)
    steps = count_steps(size, batch, epochs=3, drop_last=drop_last)
    assert steps.whole * batch + steps.left_over == size
    assert 0 <= steps.left_over < batch
    assert steps.per_epoch - steps.whole == (not drop_last and steps.left_over > 0)
    assert steps.total == 3 * steps.per_epoch


def test_a_dataset_smaller_than_the_global_batch_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"1,000 samples are fewer than the global batch 1024.* 1000 or less"):
        count_steps(1000, 1024)
    assert count_steps(1024, 1024).per_epoch == 1


@pytest.mark.parametrize("bad", [0, -5, 2.5, "100", math.nan, True, None])
def test_sizes_that_are_no_whole_numbers_are_refused(bad: object) -> None:
    with pytest.raises(BadInputError, match="dataset size"):
        count_steps(bad, 1)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="global batch"):
        count_steps(100, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [0, -1, math.nan, math.inf, "90", True, 1e7])
def test_epochs_that_are_no_positive_number_are_refused(epochs: object) -> None:
    with pytest.raises(BadInputError, match="epochs"):
        count_steps(100, 10, epochs=epochs)  # type: ignore[arg-type]


# Warm-up --------------------------------------------------------------------------------------------------------------


def test_sgd_warms_up_over_5_epochs_from_the_rate_it_was_scaled_from() -> None:
    schedule = goyal()
    assert (schedule.warm_up.steps, schedule.warm_up.start_factor) == (1560, 1 / 16)
    assert factor_at(schedule, 0) == 1 / 16
    assert factor_at(schedule, 780) == pytest.approx((1 / 16 + 1) / 2)
    assert factor_at(schedule, 1559) < 1
    assert factor_at(schedule, 1560) == 1
    assert "1706.02677" in schedule.warm_up.source


@pytest.mark.parametrize("base", [None, 4096, 8192])
def test_sgd_needs_no_warm_up_where_the_rate_was_not_scaled_up(base: int | None) -> None:
    scaled = None if base is None else scale_rate("sgd", batch=4096, base_batch=base, lr=0.1)
    schedule = make_schedule("sgd", imagenet(), scaled=scaled)
    assert schedule.warm_up.steps == 0
    assert "not scaled up" in schedule.warm_up.source
    assert factor_at(schedule, 0) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_warms_up_over_2000_steps_from_0(optimizer: str) -> None:
    schedule = make_schedule(optimizer, imagenet())
    assert (schedule.warm_up.steps, schedule.warm_up.start_factor) == (2000, 0)  # 2 / (1 - 0.999)
    assert factor_at(schedule, 0) == 0
    assert factor_at(schedule, 500) == 0.25
    assert "1910.04209" in schedule.warm_up.source


def test_lars_warms_up_over_5_epochs() -> None:
    assert make_schedule("lars", imagenet()).warm_up.steps == 1560


@pytest.mark.parametrize(("batch", "share"), [(512, 1 / 320), (1024, 1 / 160), (8192, 1 / 20), (32768, 1 / 5)])
def test_lamb_s_share_of_warm_up_doubles_with_the_batch(batch: int, share: float) -> None:
    warm_up = make_schedule("lamb", a_run(64_000, batch)).warm_up
    assert warm_up.steps == 64_000 * share
    assert "capped" not in warm_up.source


def test_lamb_s_share_of_warm_up_is_of_the_run_and_not_of_an_epoch() -> None:
    steps = count_steps(100 * 16_384, 16_384, epochs=10)
    assert make_schedule("lamb", steps).warm_up.steps == 100  # 16,384 / (320 x 512) = 1/10 of 1,000 steps


@pytest.mark.parametrize(
    ("optimizer", "steps", "capped"),
    [
        ("lamb", a_run(1000, 65536), 200),  # 2/5 of the run by its rule
        ("adam", a_run(3000), 600),
        ("lars", imagenet(epochs=10), 624),
        ("adamw", a_run(4), 0),
    ],
)
def test_a_usual_warm_up_takes_a_fifth_of_the_run_at_most_and_says_so(
    optimizer: str, steps: Steps, capped: int
) -> None:
    warm_up = make_schedule(optimizer, steps).warm_up
    assert warm_up.steps == capped
    assert "capped at 1/5 of the run" in warm_up.source


def test_a_short_sgd_run_is_at_its_full_rate_before_it_is_first_divided() -> None:
    schedule = make_schedule("sgd", imagenet(epochs=9), scaled=scale_rate("sgd", batch=4096, base_batch=256))
    assert schedule.warm_up.steps == 561  # 9 x 312 / 5, not 5 epochs
    assert schedule.milestones[0] == 936


def test_the_user_s_own_warm_up_is_taken() -> None:
    steps = imagenet()
    assert make_schedule("sgd", steps, warmup_epochs=2.5).warm_up.steps == 780
    assert make_schedule("sgd", steps, warmup_epochs=0.2).warm_up.steps == 62  # of 62.4
    assert make_schedule("sgd", steps, warmup_epochs=2.5).warm_up.source == "as asked"
    assert make_schedule("sgd", steps, warmup_steps=7).warm_up.steps == 7
    none = make_schedule("adamw", steps, warmup_steps=0)
    assert (none.warm_up.steps, factor_at(none, 0)) == (0, 1)
    assert make_schedule("adamw", steps, warmup_epochs=0).warm_up.steps == 0


def test_the_user_s_own_warm_up_starts_at_the_base_rate_where_the_rate_was_scaled_up() -> None:
    scaled = scale_rate("adamw", batch=4096, base_batch=256)
    assert make_schedule("adamw", imagenet(), scaled=scaled, warmup_steps=9).warm_up.start_factor == 1 / 4
    assert make_schedule("adamw", imagenet(), warmup_steps=9).warm_up.start_factor == 0


def test_two_warm_ups_are_refused() -> None:
    with pytest.raises(BadInputError, match="one of the two"):
        make_schedule("sgd", imagenet(), warmup_epochs=5, warmup_steps=100)


@pytest.mark.parametrize("given_steps", [-1, 2.5, "5", True, math.nan])
def test_warm_up_steps_that_are_no_whole_number_are_refused(given_steps: object) -> None:
    with pytest.raises(BadInputError, match=r"warm-up steps .* whole number from 0"):
        make_schedule("sgd", imagenet(), warmup_steps=given_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [-0.1, math.nan, math.inf, "5", True])
def test_warm_up_epochs_that_are_no_number_are_refused(epochs: object) -> None:
    with pytest.raises(BadInputError, match="warm-up epochs"):
        make_schedule("sgd", imagenet(), warmup_epochs=epochs)  # type: ignore[arg-type]


def test_a_warm_up_as_long_as_the_run_is_refused_and_one_step_less_is_not() -> None:
    with pytest.raises(BadInputError, match="100 steps does not end before the run of 100 steps"):
        make_schedule("adamw", a_run(100), warmup_steps=100)
    with pytest.raises(BadInputError, match="does not end before the run"):
        make_schedule("adamw", a_run(100), warmup_epochs=1)
    schedule = make_schedule("adamw", a_run(100), warmup_steps=99)
    assert (factor_at(schedule, 98), factor_at(schedule, 99)) == (98 / 99, 1)


def test_a_warm_up_past_the_first_milestone_is_refused() -> None:
    assert make_schedule("sgd", a_run(90), warmup_steps=30).warm_up.steps == 30
    with pytest.raises(BadInputError, match="31 steps reaches past step 30"):
        make_schedule("sgd", a_run(90), warmup_steps=31)
    assert make_schedule("sgd", a_run(90), warmup_steps=31, shape="cosine").warm_up.steps == 31


# Shapes ---------------------------------------------------------------------------------------------------------------


def test_sgd_s_rate_is_divided_by_10_at_epochs_30_60_and_80_of_90() -> None:
    schedule = goyal()
    assert (schedule.shape, schedule.milestones, schedule.gamma) == ("step", (9360, 18_720, 24_960), 0.1)
    for step, factor in ((9359, 1), (9360, 0.1), (18_719, 0.1), (18_720, 0.01), (24_960, 1e-3), (28_079, 1e-3)):
        assert factor_at(schedule, step) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ("cosine", (1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2)),
        ("linear", (1, 0.75, 0.5, 0.25)),
        ("polynomial", (1, 0.5625, 0.25, 0.0625)),
        ("constant", (1, 1, 1, 1)),
    ],
)
def test_a_shape_falls_over_the_steps_after_the_warm_up(shape: str, factors: tuple[float, ...]) -> None:
    schedule = make_schedule("adamw", a_run(100), shape=shape, warmup_steps=20)
    assert [factor_at(schedule, step) for step in (20, 40, 60, 80)] == pytest.approx(factors)


@pytest.mark.parametrize(("shape", "last"), [("linear", 1 / 80), ("polynomial", 1 / 6400), ("constant", 1)])
def test_the_last_step_still_moves_the_weights(shape: str, last: float) -> None:
    schedule = make_schedule("adamw", a_run(100), shape=shape, warmup_steps=20)
    assert factor_at(schedule, 99) == pytest.approx(last)


@pytest.mark.parametrize(("shape", "end"), [("linear", 0), ("polynomial", 0), ("cosine", 0), ("constant", 1)])
def test_a_framework_that_asks_past_the_end_gets_the_end(shape: str, end: float) -> None:
    schedule = make_schedule("adamw", a_run(100), shape=shape, warmup_steps=20)
    assert factor_at(schedule, 100) == factor_at(schedule, 130) == end


@pytest.mark.parametrize(
    ("optimizer", "shape", "power"),
    [
        ("sgd", "step", 1),
        ("adam", "cosine", 1),
        ("adamw", "cosine", 1),
        ("lars", "polynomial", 2),
        ("lamb", "linear", 1),
    ],
)
def test_each_optimizer_has_a_usual_shape_with_a_source(optimizer: str, shape: str, power: float) -> None:
    schedule = make_schedule(optimizer, imagenet())
    assert (schedule.shape, schedule.power) == (shape, power)
    assert schedule.gamma == (0.1 if shape == "step" else 1)
    assert "arXiv" in schedule.source


@pytest.mark.parametrize(
    ("shape", "source"),
    [
        ("step", "1706.02677"),
        ("cosine", "1608.03983"),
        ("linear", "1904.00962"),
        ("polynomial", "1708.03888"),
        ("constant", "as asked"),
    ],
)
def test_a_shape_that_is_not_the_optimizer_s_own_has_its_own_source(shape: str, source: str) -> None:
    optimizer = "adamw" if shape != "cosine" else "sgd"
    assert source in make_schedule(optimizer, imagenet(), shape=shape).source


@given(st.integers(1, 40), st.integers(1, 500))
def test_milestones_of_runs_of_whole_ninths_are_ends_of_epochs(ninth: int, per_epoch: int) -> None:
    schedule = make_schedule("sgd", count_steps(per_epoch, 1, epochs=9 * ninth))
    assert schedule.milestones == tuple(epochs * ninth * per_epoch for epochs in (3, 6, 8))


@given(st.sampled_from(SHAPES), st.integers(1, 200), st.integers(0, 20), st.integers(2, 9), st.data())
def test_a_smaller_batch_has_the_same_rate_at_the_same_part_of_the_run(
    shape: str, total: int, warm: int, times: int, data: st.DataObject
) -> None:
    assume(warm < total and (shape != "step" or warm * 3 <= total))
    large = make_schedule("adamw", a_run(total), shape=shape, warmup_steps=warm)
    small = make_schedule("adamw", a_run(total * times), shape=shape, warmup_steps=warm * times)
    step = data.draw(st.integers(0, total - 1))
    assert factor_at(small, step * times) == pytest.approx(factor_at(large, step))


def test_an_unknown_shape_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'cosin'\. Nearest: cosine"):
        make_schedule("sgd", imagenet(), shape="cosin")


@pytest.mark.parametrize("total", range(1, 12))
def test_milestones_of_the_shortest_runs_lie_within_them(total: int) -> None:
    milestones = make_schedule("sgd", a_run(total)).milestones
    assert all(0 < step < total for step in milestones)
    assert len(milestones) == (3 if total >= 9 else len(set(milestones)))


@given(
    st.sampled_from(PLAN_OPTIMIZERS),
    st.none() | st.sampled_from(SHAPES),
    st.integers(1, 3000),
    st.integers(1, 1 << 16),
    st.integers(1, 1 << 16),
)
def test_rates_rise_to_the_full_one_without_a_jump_and_never_again(
    optimizer: str, shape: str | None, total: int, batch: int, base: int
) -> None:
    scaled = scale_rate(optimizer, batch=batch, base_batch=base)
    schedule = make_schedule(optimizer, a_run(total, batch), scaled=scaled, shape=shape)
    factors = [factor_at(schedule, step) for step in range(total)]
    warm = schedule.warm_up.steps
    assert factors[warm] == 1
    assert 0 <= factors[0] <= 1
    assert all(0 < factor <= 1 for factor in factors[1:])
    rise = (1 - schedule.warm_up.start_factor) / max(1, warm)
    for before, after in pairwise(factors[: warm + 1]):
        assert after - before == pytest.approx(rise)
    assert all(after <= before for before, after in pairwise(factors[warm:]))


# The table ------------------------------------------------------------------------------------------------------------


def test_the_table_of_imagenet_in_an_hour_reads_as_the_paper_does() -> None:
    rows = [(row.step, row.epoch, row.what) for row in goyal(8192).rows]
    assert rows == [
        (0, 0, "warm-up begins"),
        (780, 5, "full rate"),
        (4680, 30, "divided by 10"),
        (9360, 60, "divided by 10"),
        (12_480, 80, "divided by 10"),
        (14_039, pytest.approx(90, abs=0.01), "last step"),
    ]
    rates = [row.rate for row in goyal(8192).rows]
    assert rates == pytest.approx([0.1, 3.2, 0.32, 0.032, 0.0032, 0.0032])


def test_a_smooth_shape_is_shown_at_every_tenth_of_the_run() -> None:
    schedule = make_schedule("lars", imagenet())
    assert [row.epoch for row in schedule.rows[:-1]] == [0, 5, 9, 18, 27, 36, 45, 54, 63, 72, 81]
    assert [row.what for row in schedule.rows if row.epoch in (9, 45)] == ["10 % of the run", "halfway"]


def test_no_tenth_of_the_run_is_shown_within_the_warm_up() -> None:
    schedule = make_schedule("adamw", a_run(100), warmup_steps=40)
    assert [row.step for row in schedule.rows] == [0, 40, 50, 60, 70, 80, 90, 99]


def test_a_constant_schedule_is_its_warm_up_and_nothing_more() -> None:
    schedule = make_schedule("sgd", a_run(100), shape="constant", warmup_steps=10)
    assert [(row.step, row.factor, row.what) for row in schedule.rows] == [
        (0, 0, "warm-up begins"),
        (10, 1, "full rate"),
        (99, 1, "last step"),
    ]


def test_a_table_without_a_rate_has_factors_alone() -> None:
    assert {row.rate for row in make_schedule("adamw", imagenet()).rows} == {None}


@given(st.sampled_from(PLAN_OPTIMIZERS), st.none() | st.sampled_from(SHAPES), st.integers(1, 500), st.booleans())
def test_rows_are_steps_of_the_run_in_their_order_with_their_factors(
    optimizer: str, shape: str | None, total: int, scaled_up: bool
) -> None:
    scaled = scale_rate(optimizer, batch=8, base_batch=2 if scaled_up else 8, lr=0.5)
    schedule = make_schedule(optimizer, a_run(total, 8), scaled=scaled, shape=shape)
    steps = [row.step for row in schedule.rows]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, total - 1)
    assert {schedule.warm_up.steps, *schedule.milestones} <= set(steps)
    for row in schedule.rows:
        assert row.factor == factor_at(schedule, row.step)
        assert row.rate == pytest.approx(row.factor * (scaled.rate or 0))
        assert row.epoch == row.step / total
