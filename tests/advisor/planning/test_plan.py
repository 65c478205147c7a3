"""The plan as a library call, on the shipped profiles and models; sums by hand, cuts against brute force."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor import choice, plan, recommend
from advisor.comparison_inputs import Power
from advisor.errors import AdvisorError, BadInputError, DoesNotFitError, UnknownNameError
from advisor.planning.build import TrainingPlan, decide
from advisor.planning.cautions import exact_gpus
from advisor.planning.curves import Curves, curves_of
from advisor.planning.launch import launch_command
from advisor.planning.records import PlanAnswer
from advisor.planning.request import Request
from advisor.planning.sides import Sides
from advisor.planning.target import best_for
from advisor.report import measurements
from advisor.report.records import Origin
from advisor.report.subject import Measured, MeasuredSteps
from advisor.step import Setup, prepare
from advisor.units import duration, gib, long_time, long_times, percent, rate, span

A100 = "a100-sxm4-80gb"
GIB = 2**30


@pytest.fixture(scope="module")
def resnet() -> Setup:
    return prepare("resnet50", gpu=A100, gpus=8)


def answer_of(model: str = "resnet50", **given: object) -> PlanAnswer:
    return plan(model, **({"gpu": A100, "global_batch": 256} | given)).answer


def the(warnings: tuple[str, ...], words: str) -> str:
    (found,) = (warning for warning in warnings if words in warning)
    return found


# The cut --------------------------------------------------------------------------------------------------------------


CURVES = curves_of(prepare("resnet50", gpu=A100), 1024)
TOTALS = {
    several: {kept: CURVES.memory(2 if several else 1, accumulate=kept) for kept in (True, False)}
    for several in (True, False)
}


def least_difference(asked: int, gpus: int, *, whole: set[int], kept: np.ndarray) -> int | None:
    """By brute force: how far the nearest global batch is that the GPUs can share equally, and of which a cut fits."""
    for distance in range(asked + 2 * gpus * 1024):
        for batch in {asked - distance, asked + distance}:
            share, rest = divmod(batch, gpus)
            if batch > 0 and not rest and (share in whole or any(share % b == 0 and share > b for b in kept)):
                return distance
    return None


@settings(max_examples=400, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 64),
    st.one_of(st.none(), st.integers(int(1.2 * GIB), 4 * GIB), st.integers(GIB, 90 * GIB)),
)
def test_the_cut_is_exact_or_the_nearest_and_within_memory(global_batch: int, gpus: int, limit: int | None) -> None:
    curves = Curves(replace(CURVES.setup, memory_limit_bytes=limit), CURVES.batches, CURVES.step_time_s,
                    CURVES.update_time_s)  # fmt: skip
    sides = Sides(curves, Request(global_batch, gpus))
    fits = {kept: curves.setup.fits(total) for kept, total in TOTALS[gpus > 1].items()}
    if global_batch < gpus:
        with pytest.raises(BadInputError, match="smaller than the"):
            sides.side(global_batch, gpus)
        return
    if not fits[False].any():
        with pytest.raises(DoesNotFitError, match="not even 1 sample"):
            sides.side(global_batch, gpus)
        return
    side, near = sides.side(global_batch, gpus)
    whole = set((np.flatnonzero(fits[False]) + 1).tolist())
    kept = np.flatnonzero(fits[True]) + 1
    assert abs(side.global_batch - global_batch) == least_difference(global_batch, gpus, whole=whole, kept=kept)
    assert near.difference == side.global_batch - global_batch
    for ranked in side.cuts:
        cut = ranked.cut
        assert cut.batch * cut.accumulation * cut.gpus == side.global_batch
        assert cut.gpus == gpus
        held = TOTALS[gpus > 1][cut.accumulation > 1][cut.batch - 1]
        assert ranked.memory_bytes == held
        assert ranked.fits == (limit is None or held * (1 + curves.setup.margin) <= limit)
    assert side.cuts[0].fits
    fitting = [ranked.cut.time_s for ranked in side.cuts if ranked.fits]
    assert side.cut.time_s <= 1.005 * min(fitting)
    assert sides.side(global_batch, gpus) == (side, near)


def test_the_same_question_has_the_same_answer() -> None:
    asked = {"gpus": 6, "lr": 0.1, "base_batch": 64, "dataset_size": 50000, "epochs": 3, "price": 1.0}
    assert plan("resnet50", gpu=A100, global_batch=1000, **asked).to_json() == plan(
        "resnet50", gpu=A100, global_batch=1000, **asked
    ).to_json()  # fmt: skip


def test_an_unequal_share_is_planned_as_the_nearest_and_said() -> None:
    answer = answer_of(global_batch=1000, gpus=3)
    assert (answer.planned.asked_global_batch, answer.planned.global_batch) == (1000, 999)
    assert answer.other_global_batches == (1002,)
    said = the(answer.warnings, "cannot share")
    other = answer_of(global_batch=1002, gpus=3).planned
    assert answer.other_cuts == other.cuts[:1]
    step = duration(other.run.step_s)
    other = f"the next nearest is 1,002 (334 per GPU x 1 accumulation x 3 GPUs: {step} per step)"
    for words in ("999", "1 fewer than asked", other, "1,000 would be exact with 2 or 4 GPUs"):
        assert words in said


def test_the_other_nearest_has_the_exchange_in_its_step() -> None:
    plain = answer_of(global_batch=1000, gpus=3)
    answer = answer_of(global_batch=1000, gpus=3, exchange_s=0.012)
    (other,), (was,) = answer.other_cuts, plain.other_cuts
    assert other.step_s == pytest.approx(was.step_s + 0.012)
    assert f"GPUs: {duration(other.step_s)} per step)" in the(answer.warnings, "cannot share")


def test_cuts_tie_where_the_exchange_hides_their_difference() -> None:
    # 128 per GPU takes 4.8 % more than 512 by itself, and 1 s of exchange in both leaves less than 1 %
    cuts = CURVES.ranked(CURVES.cuts(4096, 8).cuts, exchange_s=1.0)
    assert {512, 256, 128} <= {ranked.cut.batch for ranked in cuts if ranked.tie}
    assert (
        {ranked.cut.batch for ranked in cuts if not ranked.tie}
        == {ranked.cut.batch for ranked in cuts if ranked.relative_time > 1.02}
        != set()
    )
    assert not next(ranked for ranked in CURVES.ranked(CURVES.cuts(4096, 8).cuts) if ranked.cut.batch == 128).tie


def test_one_gpu_has_no_exchange_in_its_cuts() -> None:
    cuts = CURVES.cuts(64, 1).cuts
    assert CURVES.ranked(cuts, exchange_s=1.0) == CURVES.ranked(cuts)


def test_of_two_equally_near_the_faster_is_planned_and_the_other_said() -> None:
    # 496 is 62 on each GPU, 2 x 31, as 31 do not fit; 504 is 63, 3 x 21
    answer = answer_of(model="gpt2-medium", gpus=8, global_batch=500, optimizer="adam")
    assert (answer.planned.cut.batch, answer.planned.global_batch) == (21, 504)
    assert "as near is 496 (2 per GPU x 31 accumulation x 8 GPUs" in the(answer.warnings, "cannot share")


def test_a_global_batch_that_memory_alone_forbids_is_planned_smaller_and_said() -> None:
    setup = prepare("gpt2-medium", gpu=A100, gpus=8, optimizer="adamw", margin=0.0)
    one = np.array([1])
    whole, kept = (int(setup.memory(one, accumulate=keep).total_bytes[0]) for keep in (False, True))
    assert whole < kept  # gradients that are kept need room of their own
    answer = decide(replace(setup, memory_limit_bytes=kept - 1), Request(88, 8, "adamw")).answer
    assert (answer.planned.cut.batch, answer.planned.cut.accumulation, answer.planned.global_batch) == (1, 1, 8)
    said = the(answer.warnings, "Global batch 88 over 8 GPUs needs accumulation")
    assert "80 fewer than asked" in said
    # 88 on 11 GPUs are 8 on each, and more than 1 does not fit; 1 on each of 88 does.
    assert f"{gib(kept)} on each GPU would keep 88, 88 GPUs would without it" in said
    assert answer.headline.startswith("1 per GPU x 1 accumulation x 8 GPUs = 8 (88 asked) for ")


def test_memory_that_is_said_to_keep_a_global_batch_keeps_it() -> None:
    setup = prepare("gpt2-medium", gpu=A100, gpus=8, optimizer="adamw", margin=0.1)
    kept = int(setup.memory(np.array([1]), accumulate=True).total_bytes[0])
    held, room = (decide(replace(setup, memory_limit_bytes=limit), Request(88, 8, "adamw")).answer
                  for limit in (int(1.1 * kept) - 1, int(1.1 * kept) + 1))  # fmt: skip
    assert f"{gib(1.1 * kept)} on each GPU would keep 88" in held.warnings[0]
    assert (held.planned.global_batch, room.planned.global_batch) == (8, 88)


def test_gpus_that_would_not_fit_together_are_not_said_to_keep_a_global_batch() -> None:
    setup = prepare("gpt2-medium", gpu=A100, optimizer="adamw", margin=0.0)
    alone, kept = (int(setup.memory(np.array([1]), accumulate=keep).total_bytes[0]) for keep in (False, True))
    together = int(replace(setup, gpus=2).memory(np.array([1]), accumulate=False).total_bytes[0])
    assert alone < min(kept, together)  # several GPUs keep buckets of gradients
    said = decide(replace(setup, memory_limit_bytes=alone), Request(3, 1, "adamw")).answer.warnings[0]
    assert "would keep 3;" in said
    assert "GPUs would" not in said


@pytest.mark.parametrize(
    ("batch", "gpus", "exact"), [(1000, 3, [2, 4]), (7, 3, [1, 7]), (6, 4, [3, 6]), (4099, 64, [1, 4099])]
)
def test_numbers_of_gpus_that_share_exactly_are_named(batch: int, gpus: int, exact: list[int]) -> None:
    assert exact_gpus(batch, gpus) == exact


def test_a_cut_beside_the_best_is_said_to_tie() -> None:
    answer = answer_of(global_batch=4096, gpus=8)
    least = min(ranked.cut.time_s for ranked in answer.planned.cuts)
    assert [r.tie for r in answer.planned.cuts] == [
        r.cut.time_s <= (1 + choice.TIE) * least for r in answer.planned.cuts
    ]
    assert "256 x 2 ties with it" in answer.reasons[0]  # 1.7 % slower


def test_cuts_within_two_per_cent_of_the_fastest_tie() -> None:
    cuts = [
        replace(cut, time_s=time_s) for cut, time_s in zip(CURVES.cuts(4, 1).cuts, (1.0, 1.019, 1.021), strict=True)
    ]
    assert [ranked.tie for ranked in CURVES.ranked(tuple(cuts))] == [True, True, False]


def test_the_search_for_a_target_cuts_as_a_plan_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.cut.TIE", 0.6)  # 16 images take 51 % more time than 512, and BatchNorm wants 32
    times = CURVES.least_times(1, 512)
    for share in (48, 512):
        cut = CURVES.cuts(share, 1).cuts[0]
        assert (times.batch[share - 1], times.time_s[share - 1]) == (cut.batch, cut.time_s)
    assert times.batch[511] == 32


def test_the_next_larger_cut_that_does_not_fit_is_listed_last() -> None:
    room = int(TOTALS[False][True][1])  # 2 images, their gradients kept
    setup = replace(CURVES.setup, memory_limit_bytes=room, margin=0.0)
    curves = Curves(setup, CURVES.batches, CURVES.step_time_s, CURVES.update_time_s)
    ranked = curves.ranked(curves.cuts(12, 1).cuts)
    assert [(each.cut.batch, each.cut.accumulation, each.fits) for each in ranked] == [
        (2, 6, True), (1, 12, True), (3, 4, False)
    ]  # fmt: skip
    assert ranked[-1].memory_bytes == TOTALS[False][True][2]
    assert ranked[-1].cut.samples_per_s == pytest.approx(12 / ranked[-1].cut.time_s)


def test_a_whole_share_that_does_not_fit_is_listed_too() -> None:
    setup = replace(CURVES.setup, memory_limit_bytes=int(TOTALS[False][True][1]), margin=0.0)
    curves = Curves(setup, CURVES.batches, CURVES.step_time_s, CURVES.update_time_s)
    assert [(each.cut.batch, each.fits) for each in curves.ranked(curves.cuts(7, 1).cuts)] == [(1, True), (7, False)]


def test_the_next_cut_that_is_named_is_the_next_fastest() -> None:
    answer = answer_of(global_batch=64)
    least, following = sorted(ranked.cut.time_s for ranked in answer.planned.cuts)[:2]
    assert f"the next, 32, takes {following / least - 1:.1%} more".replace("%", " %") in answer.reasons[0]


def test_a_cut_that_ties_for_less_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.cut.TIE", 0.6)
    answer = answer_of(global_batch=512)
    fastest = min(answer.planned.cuts, key=lambda ranked: ranked.cut.time_s)
    assert f"needs {gib(fastest.memory_bytes - answer.planned.memory_bytes)} less memory" in answer.reasons[0]


def test_a_target_on_several_gpus_holds_their_memory(resnet: Setup) -> None:
    room = int(TOTALS[False][False][63])  # 64 on one GPU; several need more
    answer = decide(replace(resnet, memory_limit_bytes=room, margin=0.0), Request(1024, 8)).answer
    assert answer.target is not None
    assert max(point.cut.batch for point in answer.target.points) < 64


def test_the_knee_is_that_of_a_recommendation() -> None:
    assert CURVES.knee(1)[0] == recommend("resnet50", gpu=A100).knee


def test_a_prime_share_names_a_global_batch_that_runs_better_and_keeps_the_one_asked() -> None:
    answer = answer_of(global_batch=4099)
    assert answer.planned.global_batch == 4099
    assert "would raise the throughput" in the(answer.warnings, "No exact cut of global batch 4,099")


def test_what_fits_nowhere_says_the_least_that_is_needed() -> None:
    with pytest.raises(DoesNotFitError, match="batch 1 needs"):
        answer_of(memory_limit="256MiB")


def test_a_search_of_one_size_still_has_a_target() -> None:
    answer = answer_of(global_batch=4, max_batch=1)
    assert [(r.cut.batch, r.cut.accumulation) for r in answer.planned.cuts] == [(1, 4)]
    assert answer.target is not None


# Warnings -------------------------------------------------------------------------------------------------------------


def test_batch_norm_with_two_images_on_each_gpu_is_warned_of() -> None:
    said = the(answer_of(global_batch=16, gpus=8).warnings, "BatchNorm")
    for words in ("only 2 samples per GPU", "SyncBatchNorm", "16 samples", "GroupNorm", "Accumulation would not help"):
        assert words in said


@pytest.mark.parametrize(("batch", "warned"), [(31, True), (32, False)])
def test_batch_norm_is_warned_of_under_32_samples_on_each_gpu(batch: int, warned: bool) -> None:
    answer = answer_of(global_batch=8 * batch, gpus=8)
    assert answer.planned.cut.batch == batch
    assert any("BatchNorm" in warning for warning in answer.warnings) == warned


def test_two_accumulations_are_said_not_to_help_batch_norm() -> None:
    room = int(TOTALS[False][True][15])  # 16 images, their gradients kept
    answer = answer_of(global_batch=32, memory_limit=room, margin=0.0)
    assert answer.planned.cut.accumulation == 2
    assert "each of the 2 micro-batches is normalised by itself" in the(answer.warnings, "BatchNorm")


def test_on_one_gpu_accumulation_is_said_not_to_help_batch_norm() -> None:
    said = the(answer_of(global_batch=64, memory_limit="2GiB").warnings, "BatchNorm")
    assert "each of the " in said
    assert "SyncBatchNorm needs several GPUs" in said


@pytest.mark.parametrize("model", ["vit_b_16", "vgg16"])
def test_a_model_without_batch_norm_is_not_warned_of_it(model: str) -> None:
    answer = answer_of(model, global_batch=16, gpus=8)
    assert answer.warnings == ()
    assert answer.planned.cuts[0].batch_norm_samples is None


def test_token_means_are_warned_of_with_the_formula() -> None:
    answer = answer_of("gpt2", global_batch=96, gpus=2, memory_limit="24GiB")
    accumulation = answer.planned.cut.accumulation
    assert accumulation > 1
    said = the(answer.warnings, "tokens")
    every = f"in all {accumulation} micro-batches on both GPUs"
    assert f"the sum of the token losses {every}, over the count of tokens in them" in said
    assert f"2 x (sum of its token losses) / (tokens {every})" in said  # DDP divides by its 2 ranks
    assert "transformers #34191" in said


def test_token_means_of_several_gpus_are_warned_of_without_accumulation() -> None:
    answer = answer_of("gpt2", global_batch=8, gpus=2)
    assert answer.planned.cut.accumulation == 1
    assert "Right is the sum of the token losses on both GPUs, over" in the(answer.warnings, "tokens")


def test_token_means_on_one_gpu_are_not_multiplied_by_ranks() -> None:
    said = the(answer_of("gpt2", global_batch=96, memory_limit="24GiB").warnings, "tokens")
    assert "Loss of a micro-batch = (sum of its token losses) / (tokens in all" in said
    assert "DistributedDataParallel" not in said


def test_one_micro_batch_on_one_gpu_has_one_mean() -> None:
    assert answer_of("gpt2", global_batch=8).warnings == ()


def test_a_rate_past_its_known_range_is_warned_of() -> None:
    within = answer_of(global_batch=8192, gpus=8, lr=0.1, base_batch=256)
    beyond = answer_of(global_batch=16384, gpus=16, lr=0.1, base_batch=256)
    assert within.warnings == ()
    assert "LARS" in the(beyond.warnings, "past the range")
    assert "8,192" in the(beyond.warnings, "past the range")


def test_past_the_known_range_a_rate_that_is_not_scaled_is_warned_of_as_such() -> None:
    said = the(answer_of(global_batch=16384, gpus=16, lr=0.1).warnings, "past the range")
    assert said.startswith("Global batch 16,384 is past the range that the rule of the rate is known for (to 8,192")
    assert "LARS" in said


@pytest.mark.parametrize(("optimizer", "alike"), [("lars", "sgd"), ("lamb", "adamw")])
def test_layerwise_optimizers_are_predicted_as_what_they_scale_and_that_is_said(optimizer: str, alike: str) -> None:
    answer, other = answer_of(optimizer=optimizer), answer_of(optimizer=alike)
    assert answer.planned.run.step_s == other.planned.run.step_s
    assert f"predicted as with {alike}" in the(answer.notes, "trust ratio")
    assert answer.optimizer == optimizer


# Objectives and changes -----------------------------------------------------------------------------------------------


RUN = {"dataset_size": 1281167, "epochs": 90, "lr": 0.1}


def test_nothing_of_the_global_batch_changes_unless_it_is_asked_for() -> None:
    for objective in ("throughput", "time-to-target", "cost"):
        answer = answer_of(gpus=8, objective=objective, price=2.0, **RUN)
        assert answer.planned.global_batch == 256
        assert (answer.before, answer.changes) == (None, ())


def test_time_to_target_keeps_the_cut_and_says_what_the_best_batch_is() -> None:
    fast, target = answer_of(gpus=8), answer_of(gpus=8, objective="time-to-target")
    assert fast.planned == target.planned
    assert target.target is not None
    assert target.target.asked_loses[0] > 0.05
    best, _ = best_for(target.target, "time-to-target")
    low, high = sorted(target.target.asked_loses)
    loses = span(percent(low), percent(high))
    assert f"soonest at a global batch of {best:,}; the one asked takes {loses} longer" in target.reasons[-1]


def test_cost_takes_as_many_gpus_as_tie_with_the_cheapest(resnet: Setup) -> None:
    answer = decide(resnet, Request(256, 8, objective="cost", price=2.0, dataset_size=1281167, epochs=90)).answer
    sides = Sides(curves_of(resnet, 1024), Request(256, 8, price=2.0, dataset_size=1281167, epochs=90))
    cost = {n: sides.side(256, n)[0].run.cost for n in (1, 2, 4, 8)}  # what divides 256
    least = min(cost.values())
    assert answer.planned.cut.gpus == max(n for n in cost if cost[n] <= 1.02 * least)
    assert answer.gpus == 8


def test_exchange_costs_on_several_gpus_and_not_on_one() -> None:
    asked = {"global_batch": 4096, "gpus": 8, "objective": "cost"}
    step_s = answer_of(global_batch=4096).planned.run.step_s
    assert answer_of(**asked).planned.cut.gpus == 8
    # Of 1.5 % of the step on one GPU: two pay 3 % more in all, no tie. Were it paid on one, too, they would tie.
    alone = answer_of(exchange_s=0.015 * step_s, **asked).planned
    assert (alone.cut.gpus, alone.run.exchange_s, alone.run.step_s) == (1, 0.0, step_s)
    assert answer_of(exchange_s=0.015 * step_s, **asked).launch == "python train.py"


def test_memory_is_that_of_the_gpus_that_are_planned() -> None:
    fewer = answer_of(global_batch=64, gpus=8, objective="cost").planned
    alone, several = answer_of(global_batch=64).planned, answer_of(global_batch=512, gpus=8).planned
    assert (fewer.cut.gpus, several.cut.batch) == (1, 64)
    assert fewer.memory_bytes == alone.memory_bytes < several.memory_bytes  # several keep buckets of gradients


def test_the_cheapest_number_of_gpus_is_the_given_one_where_no_other_shares_exactly(resnet: Setup) -> None:
    sides = Sides(curves_of(resnet, 64), Request(1031, 8, objective="cost"))  # 1031 is prime
    assert sides.gpus_for(1031) in (1, 8)


def test_changed_to_a_number_everything_that_follows_is_in_the_table() -> None:
    answer = answer_of(
        global_batch=1024, gpus=8, lr=0.4, dataset_size=1281167, epochs=90, change_global_batch=4096, price=2.0
    )
    assert answer.before is not None
    assert (answer.before.global_batch, answer.planned.global_batch) == (1024, 4096)
    rows = {row.what: (row.before, row.after) for row in answer.changes}
    assert rows["learning rate"] == ("0.4", "1.6")  # 4096 / 1024 = 4 times
    assert rows["steps per epoch"] == ("1,251", "312")
    assert rows["steps of the run"] == ("112,590", "28,080")
    # (1 + 4096 / B) / (1 + 1024 / B) x 90 epochs: 107.3 at B = 15,000, about 95.8 at 46,900
    assert rows["epochs to the same target (estimate)"] == ("90", "95.8 to 107")
    assert rows["BatchNorm sees"] == ("128", "512")
    assert rows["left over in an epoch"] == ("143 samples", "3,215 samples")  # 1,281,167 - 1,251 x 1,024
    assert rows["rate divided at"] == ("steps 37,530, 75,060, 100,080", "steps 9,360, 18,720, 24,960")
    assert rows["cost to the same target (estimate)"][0] == rows["cost of 90 epochs"][0]  # 90 epochs, less 143 samples
    assert set(rows) >= {
        "global batch", "cut", "warm-up", "time per step", "time per epoch", "time for 90 epochs",
        "time to the same target (estimate)", "memory per GPU", "energy of 90 epochs", "cost of 90 epochs",
    }  # fmt: skip


def test_the_table_before_and_after_counts_as_the_plans_of_both_sides_do() -> None:
    asked = {"gpus": 8, "lr": 0.1, "base_batch": 256, "dataset_size": 1281167, "epochs": 90, "price": 2.0}
    rows = {row.what: (row.before, row.after)
            for row in answer_of(global_batch=1024, change_global_batch=4096, **asked).changes}  # fmt: skip
    for i, batch in enumerate((1024, 4096)):
        alone = answer_of(global_batch=batch, **asked)
        point = next(point for point in alone.target.points if "asked" in point.roles)
        assert rows["cut"][i] == alone.planned.cut.factors
        assert rows["warm-up"][i] == f"{alone.planned.schedule.warm_up.steps:,} steps"
        assert rows["time to the same target (estimate)"][i] == long_times(min(point.time_s), max(point.time_s))
        low, high = sorted(point.cost)
        assert rows["cost to the same target (estimate)"][i] == span(rate(low), rate(high))
        run = alone.planned.run
        assert [rows[name][i] for name in ("time per step", "time per epoch", "time for 90 epochs")] == [
            duration(run.step_s), long_time(run.epoch_s), long_time(run.run_s)
        ]  # fmt: skip
        assert rows["memory per GPU"][i] == gib(alone.planned.memory_bytes)
        assert rows["cost of 90 epochs"][i] == rate(run.cost)
        assert rows["samples/s"][i] == rate(run.samples_per_s)


def test_adam_moves_its_betas_and_eps_with_the_batch() -> None:
    answer = answer_of("vit_b_16", optimizer="adamw", lr=1e-3, change_global_batch=1024)
    rows = {row.what: (row.before, row.after) for row in answer.changes}
    # Malladi et al. 2022 with kappa 4: rate x 2; 1 - 4 x 0.1; 1 - 4 x 0.001; 1e-8 / 2
    assert rows["learning rate"] == ("0.001", "0.002")
    assert rows["beta1"] == ("0.9", "0.6")
    assert rows["beta2"] == ("0.999", "0.996")
    assert rows["eps"] == ("1e-08", "5e-09")


def test_without_a_rate_the_table_has_the_factor() -> None:
    rows = {row.what: (row.before, row.after) for row in answer_of(change_global_batch=512).changes}
    assert rows["learning rate"] == ("as it is", "x 2")


@pytest.mark.parametrize("model", ["resnet50", "unet"])  # with a critical batch, and without
def test_best_for_throughput_is_the_recommended_batch_on_each_gpu(model: str) -> None:
    answer = answer_of(model, gpus=4, change_global_batch="best")
    assert answer.planned.global_batch == 4 * recommend(model, gpu=A100, gpus=4).batch_size


def test_cost_chooses_the_gpus_of_the_batch_it_is_changed_to() -> None:
    answer = answer_of(global_batch=4096, gpus=8, objective="cost", change_global_batch=64)
    assert answer.before is not None
    assert (answer.before.cut.gpus, answer.planned.cut.gpus) == (8, 1)


def test_what_all_gpus_would_cost_is_said() -> None:
    one, every = (answer_of(global_batch=64, gpus=gpus).planned.run for gpus in (1, 8))
    said = answer_of(global_batch=64, gpus=8, objective="cost").reasons[1]
    assert f"all 8 would cost {100 * (8 * every.step_s / one.step_s - 1):.0f} % more" in said
    assert f"be {one.step_s / every.step_s:.2g} times as fast" in said


def test_a_global_batch_that_is_the_best_already_is_not_said_to_change() -> None:
    best = answer_of(gpus=4, change_global_batch="best").planned.global_batch
    answer = answer_of(gpus=4, global_batch=best, change_global_batch="best")
    assert (answer.planned.global_batch, answer.before, answer.changes) == (best, None, ())
    assert "is what `advisor recommend` names" in answer.reasons[-1]


@pytest.mark.parametrize("objective", ["time-to-target", "cost"])
def test_best_for_an_objective_is_what_the_target_says(objective: str) -> None:
    answer = answer_of(gpus=4, change_global_batch="best", objective=objective, **RUN)
    assert answer.target is not None
    assert (answer.planned.global_batch, answer.planned.cut.gpus) == best_for(answer.target, objective)
    assert {"time-to-target": "soonest", "cost": "at the least cost"}[objective] in answer.reasons[-1]


def test_a_model_without_a_known_task_needs_a_critical_batch_for_its_target() -> None:
    assert answer_of("unet", global_batch=64).target is None
    assert the(answer_of("unet", global_batch=64).notes, "No critical batch is known for U-Net")
    with pytest.raises(BadInputError, match="--critical-batch"):
        answer_of("unet", global_batch=64, objective="time-to-target")
    given = answer_of("unet", global_batch=64, objective="time-to-target", critical_batch=500).target
    assert given is not None
    assert (given.critical.low, given.critical.high) == (500, 500)


def test_time_to_target_is_searched_to_65536_samples_on_each_gpu() -> None:
    assert answer_of(global_batch=1 << 16).target is not None
    assert answer_of(global_batch=(1 << 16) + 1).target is None


def test_time_to_target_is_searched_to_four_times_the_global_batch_asked() -> None:
    points = answer_of(global_batch=16_000).target.points
    assert [point.global_batch for point in points if "four times the asked" in point.roles] == [64_000]


def test_a_global_batch_beyond_the_search_has_a_plan_and_no_target() -> None:
    answer = answer_of(global_batch=1 << 20)
    assert answer.target is None
    assert the(answer.notes, "more than 65,536 samples per GPU")
    with pytest.raises(BadInputError, match="65,536"):
        answer_of(global_batch=1 << 20, objective="time-to-target")


# Time, energy, cost ---------------------------------------------------------------------------------------------------


def test_exchange_is_part_of_every_step_on_several_gpus() -> None:
    run = {"dataset_size": 2560, "epochs": 3, "price": 2.0}
    plain, slower = answer_of(gpus=8, **run), answer_of(gpus=8, exchange_s=0.012, **run)
    assert slower.planned.run.step_s == pytest.approx(plain.planned.run.step_s + 0.012)
    step_s = slower.planned.run.step_s
    assert slower.planned.run.samples_per_s == pytest.approx(256 / step_s)
    assert slower.planned.run.epoch_s == pytest.approx(10 * step_s)
    assert slower.planned.run.run_s == pytest.approx(30 * step_s)
    assert slower.planned.run.cost == pytest.approx(8 * 2.0 * 30 * step_s / 3600)
    for was, ranked in zip(plain.planned.cuts, slower.planned.cuts, strict=True):
        assert (was.step_s, was.samples_per_s) == (was.cut.time_s, was.cut.samples_per_s)
        assert ranked.cut == was.cut
        assert ranked.step_s == pytest.approx(was.step_s + 0.012)
        assert ranked.samples_per_s == pytest.approx(256 / ranked.step_s)
        assert ranked.relative_time == pytest.approx(ranked.step_s / step_s)
    assert (slower.planned.cuts[0].step_s, slower.planned.cuts[0].samples_per_s) == (
        slower.planned.run.step_s, slower.planned.run.samples_per_s,
    )  # fmt: skip
    assert the(plain.notes, "not in the predicted times")
    assert not any("not in the predicted times" in note for note in slower.notes)


def test_power_that_the_user_gives_stands_before_the_boards() -> None:
    run = answer_of(power_w=300.0, dataset_size=2560, epochs=10).planned.run
    assert run.power == Power(300.0, "measured", "as given")
    assert run.run_s is not None
    assert run.energy_j == pytest.approx(300 * run.run_s)


def test_records_give_the_power_of_training_steps_near_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    none = np.full(1, np.nan)
    steps = MeasuredSteps("resnet50", np.array([200]), none, none, np.array([333.0]), "amp_fp16", Origin("here", ""))
    monkeypatch.setattr(measurements, "read_measured", lambda _path, *, gpu: Measured(steps=(steps,), gpu_id=gpu.id))
    near = answer_of(records=["records.db"])  # 256 is within twice 200
    far = answer_of(records=["records.db"], global_batch=32)
    assert near.planned.run.power is not None
    assert (near.planned.run.power.watts, near.planned.run.power.kind) == (333.0, "measured")
    assert far.planned.run.power is not None
    assert far.planned.run.power.kind == "at most"
    assert "at 200" in the(far.notes, "The records given have no power")


def test_a_last_smaller_step_counts_as_a_whole_one() -> None:
    kept, dropped = (answer_of(dataset_size=1000, epochs=2, drop_last=drop).planned for drop in (False, True))
    assert kept.steps is not None
    assert dropped.steps is not None
    assert (kept.steps.per_epoch, dropped.steps.per_epoch) == (4, 3)  # 1000 = 3 x 256 + 232
    assert kept.run.epoch_s == pytest.approx(4 * kept.run.step_s)


@pytest.mark.parametrize(("asked", "steps"), [({"warmup_steps": 7}, 7), ({"warmup_epochs": 0.5}, 50)])
def test_your_own_schedule_and_warm_up_are_planned(asked: dict[str, float], steps: int) -> None:
    schedule = answer_of(dataset_size=25600, epochs=10, schedule="cosine", **asked).planned.schedule
    assert schedule is not None
    assert (schedule.shape, schedule.warm_up.steps) == ("cosine", steps)  # 100 steps per epoch


def test_without_a_dataset_there_is_a_cut_and_no_run() -> None:
    side = answer_of(price=2.0).planned
    assert (side.rate, side.steps, side.schedule) == (None, None, None)
    assert (side.run.epoch_s, side.run.run_s, side.run.energy_j, side.run.cost) == (None, None, None, None)
    assert side.run.price_per_hour == 2.0


@pytest.mark.parametrize(
    ("gpus", "words"),
    [(1, "python train.py"), (8, "torchrun --standalone --nproc-per-node=8 "), (16, "--nnodes=2 --nproc-per-node=8 "),
     (12, "torchrun --standalone --nproc-per-node=12 ")],
)  # fmt: skip
def test_a_script_is_started_once_on_each_gpu(gpus: int, words: str) -> None:
    assert words in launch_command(gpus)


# The answer as a whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"global_batch": 64},
        {"global_batch": 1000, "gpus": 3, "optimizer": "adamw", "dataset_size": 10000},
        {"global_batch": 1024, "gpus": 8, "change_global_batch": "best", "objective": "cost", "price": 2.0, **RUN},
    ],
)
def test_the_answer_obeys_its_published_schema(asked: dict[str, object]) -> None:
    schema = json.loads((Path(advisor.__file__).parent / "schemas" / "plan.json").read_text())
    document = json.loads(plan("resnet50", gpu=A100, **asked).to_json())
    jsonschema.validate(document, schema)
    assert document["schema_version"] == 1


def test_what_is_to_know_of_a_setup_is_to_know_of_its_plan(resnet: Setup) -> None:
    assert resnet.notes()
    assert set(resnet.notes()) <= set(decide(resnet, Request(256, 8)).answer.notes)


def test_a_plan_prints_as_its_headline_and_emits_a_snippet() -> None:
    found = plan("resnet50", gpu=A100, global_batch=4096, gpus=8)
    assert isinstance(found, TrainingPlan)
    assert str(found) == found.answer.headline
    assert "4096" in found.emit("torch").text
    with pytest.raises(UnknownNameError, match="lightning"):
        found.emit("lightening")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"global_batch": 7, "gpus": 8}, "smaller than the 8 GPUs"),
        ({"global_batch": 0}, "global batch 0"),
        ({"global_batch": -1}, "global batch -1"),
        ({"global_batch": 256.0}, "global batch 256.0"),
        ({"global_batch": "256"}, "global batch '256'"),
        ({"global_batch": True}, "global batch True"),
        ({"gpus": 0}, "number of GPUs 0"),
        ({"max_batch": 0}, "largest batch to search 0"),
        ({"lr": 0.0}, "learning rate 0.0"),
        ({"lr": math.nan}, "learning rate nan"),
        ({"lr": "0.1"}, "learning rate '0.1'"),
        ({"base_batch": 0}, "base batch 0"),
        ({"optimizer": "adamm"}, "Nearest: adam"),
        ({"optimizer": None}, "unknown optimizer"),
        ({"task": "imagenett"}, "Nearest: imagenet"),
        ({"objective": "fast"}, "unknown objective"),
        ({"epochs": 90}, "give --dataset-size"),
        ({"drop_last": False}, "size of the dataset"),
        ({"warmup_steps": 5}, "length of the run"),
        ({"warmup_epochs": 5, "dataset_size": 1000}, "length of the run"),
        ({"schedule": "cosine"}, "length of the run"),
        ({"schedule": "cosin", "dataset_size": 1000, "epochs": 2}, "Nearest: cosine"),
        ({"dataset_size": 255}, "fewer than the global batch 256"),
        ({"dataset_size": 0}, "dataset size 0"),
        ({"dataset_size": 1000, "epochs": 0}, "epochs 0"),
        ({"dataset_size": 1000, "epochs": math.nan}, "epochs nan"),
        ({"price": 0.0}, "price 0.0"),
        ({"price": math.nan}, "price nan"),
        ({"power_w": 0.0}, "power 0.0"),
        ({"power_w": math.inf}, "power inf"),
        ({"exchange_s": 0.01}, "between GPUs"),
        ({"exchange_s": -1.0, "gpus": 2}, "gradient exchange -1.0"),
        ({"exchange_s": math.nan, "gpus": 2}, "gradient exchange nan"),
        ({"critical_batch": 0.0}, "critical batch 0.0"),
        ({"change_global_batch": "bestest"}, "bestest"),
        ({"change_global_batch": 0}, "change to 0"),
        ({"change_global_batch": 3, "gpus": 4}, "smaller than the 4 GPUs"),
        ({"mode": "infer"}, "a plan is of training"),
        ({"gpu": "a1000000"}, "a100"),
    ],
)
def test_unusable_values_are_refused_in_one_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        answer_of(**wrong)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
