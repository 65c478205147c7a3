from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import BadInputError, UnknownNameError
from advisor.planning.learning_rate import check_optimizer, scale_rate
from advisor.planning.records import PLAN_OPTIMIZERS
from advisor.planning.rules import find_rules
from tests.data import measured

optimizers = st.sampled_from(PLAN_OPTIMIZERS)
batches = st.integers(1, 1 << 30)


@pytest.mark.parametrize(("base", "batch", "rate"), [(64, 256, 0.4), (16, 64, 0.4), (256, 4096, 1.6), (256, 8192, 3.2)])
def test_sgd_goes_up_by_the_batch(base: int, batch: int, rate: float) -> None:
    scaled = scale_rate("sgd", batch=batch, base_batch=base, lr=0.1)
    assert scaled.rule == "linear"
    assert scaled.rate == pytest.approx(rate)
    assert scaled.factor == batch / base


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lars", "lamb"])
def test_all_others_go_up_by_its_root(optimizer: str) -> None:
    scaled = scale_rate(optimizer, batch=4096, base_batch=256, lr=1e-3)
    assert (scaled.rule, scaled.factor) == ("square root", 4.0)
    assert scaled.rate == pytest.approx(4e-3)


def test_without_a_rate_the_factor_is_the_answer() -> None:
    scaled = scale_rate("sgd", batch=512, base_batch=256)
    assert (scaled.factor, scaled.base_rate, scaled.rate) == (2.0, None, None)


def test_a_smaller_batch_lowers_the_rate_and_says_why() -> None:
    sgd, adam = (scale_rate(name, batch=1, base_batch=256, lr=0.1) for name in ("sgd", "adam"))
    assert sgd.rate == pytest.approx(0.1 / 256)
    assert adam.rate == pytest.approx(0.1 / 16)
    assert any("diverge" in note for note in sgd.notes)
    assert not any("diverge" in note for note in scale_rate("sgd", batch=512, base_batch=256).notes)


@pytest.mark.parametrize("optimizer", PLAN_OPTIMIZERS)
def test_notes_are_those_of_the_optimizer(optimizer: str) -> None:
    said = " ".join(scale_rate(optimizer, batch=1024, base_batch=256).notes)
    assert ("velocity" in said) == (optimizer == "sgd")
    assert ("mostly noise" in said) == (optimizer in ("adam", "adamw"))
    assert ("weight decay" in said) == (optimizer == "adamw")


def test_the_same_batch_leaves_everything_as_it_is() -> None:
    scaled = scale_rate("adamw", batch=96, base_batch=96, lr=3e-4)
    assert (scaled.rule, scaled.factor, scaled.rate) == ("unchanged", 1.0, 3e-4)
    assert (scaled.companions, scaled.notes) == ((), ())


def test_adam_s_betas_and_eps_move_with_the_rate() -> None:
    # kappa 4: 1 - 4 x 0.1, 1 - 4 x 0.001, 1e-8 / 2
    beta1, beta2, eps = scale_rate("adam", batch=1024, base_batch=256).companions
    assert (beta1.name, beta1.before, beta1.after) == ("beta1", 0.9, 0.6)
    assert (beta2.name, beta2.before, beta2.after) == ("beta2", 0.999, 0.996)
    assert (eps.name, eps.before, eps.after) == ("eps", 1e-8, 5e-9)


@pytest.mark.parametrize(
    ("kappa", "beta1", "beta2"), [(9, True, True), (10, False, True), (999, False, True), (1000, False, False)]
)
def test_a_beta_that_would_leave_0_to_1_has_no_value_but_a_reason(kappa: int, beta1: bool, beta2: bool) -> None:
    first, second, eps = scale_rate("adamw", batch=32 * kappa, base_batch=32).companions
    for companion, known in ((first, beta1), (second, beta2)):
        assert (companion.after is not None) == known == (companion.why is None)
        assert known or f"1 - {kappa} x" in str(companion.why)
    assert eps.after == pytest.approx(1e-8 / math.sqrt(kappa))


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "lamb"])
def test_only_adam_has_companions(optimizer: str) -> None:
    assert scale_rate(optimizer, batch=512, base_batch=256).companions == ()


def test_adamw_s_weight_decay_is_said_to_weaken_over_an_epoch() -> None:
    # a quarter of the steps at twice the rate: half the shrinking
    (note,) = (note for note in scale_rate("adamw", batch=1024, base_batch=256).notes if "weight decay" in note)
    assert "0.5 times" in note
    assert "; 2 times" in note


@pytest.mark.parametrize(
    ("optimizer", "known_to", "where"),
    [
        ("sgd", 8192, "ResNet-50 on ImageNet"),
        ("adam", 8192, "RoBERTa"),
        ("adamw", 8192, "RoBERTa"),
        ("lars", 32768, "ResNet-50 on ImageNet"),
        ("lamb", 32768, "BERT"),
    ],
)
def test_the_range_ends_at_its_last_batch_and_another_way_is_named_past_it(
    optimizer: str, known_to: int, where: str
) -> None:
    last, past = (scale_rate(optimizer, batch=batch, base_batch=256) for batch in (known_to, known_to + 1))
    assert (last.known_to, last.within_known, last.beyond) == (known_to, True, None)
    assert where in last.known_where
    assert f"{known_to:,}" in last.notes[0]
    assert last.notes[0].endswith("the nearest evidence, not a proof.")
    assert not past.within_known
    assert past.beyond is not None
    assert "arXiv" in past.beyond or "MLPerf" in past.beyond


@pytest.mark.parametrize(("optimizer", "named"), [("sgd", "LARS"), ("adam", "LAMB"), ("adamw", "LAMB")])
def test_lars_and_lamb_are_named_past_the_range(optimizer: str, named: str) -> None:
    assert named in str(scale_rate(optimizer, batch=16384, base_batch=256).beyond)


def test_a_base_batch_past_the_range_is_past_it_though_the_batch_is_not() -> None:
    assert not scale_rate("sgd", batch=256, base_batch=16384).within_known


def test_the_linear_rule_is_goyal_s_where_it_was_measured_to_be_better_than_the_root() -> None:
    scaled = scale_rate("sgd", batch=8192, base_batch=256, lr=0.1)
    assert "1706.02677" in scaled.source
    assert any("momentum needs no correction" in note for note in scaled.notes)


TUNED = {
    "LARS": {256: 4, 1024: 9, 8192: 30, 16384: 33, 32768: 40},  # Ginsburg, Gitman, You 2018, table 4: ResNet-50
    "Adam": {256: 1e-4, 2048: 7e-4, 8192: 1e-3},  # Liu et al. 2019, table 3: RoBERTa
}


def power(rates: dict[int, float]) -> float:
    """Of the batch, with which these rates rise."""
    return float(np.polyfit(np.log(list(rates)), np.log(list(rates.values())), 1)[0])


def mlperf_rates(benchmark: str) -> dict[int, float]:
    with measured("mlperf-rcp", "reference_convergence.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark and row["base_learning_rate"]]
    kept = [row for row in rows if row["round"] != "1.0.0"]  # of other recipes than the rounds after it
    return {int(row["global_batch"]): float(row["base_learning_rate"]) for row in kept}


def evidence(rule: str) -> str:
    return find_rules([rule])[0].evidence


def test_the_root_stays_near_the_rates_tuned_for_lars_and_a_linear_rule_would_not() -> None:
    for batch, rate in TUNED["LARS"].items():
        scaled = scale_rate("lars", batch=batch, base_batch=256, lr=4)
        assert scaled.rate == pytest.approx(rate, rel=1 / 3)
    assert f"LARS {power(TUNED['LARS']):.2f} for ResNet-50 by its authors" in evidence("square-root-rate")


def test_a_user_of_lars_is_told_of_both_rules_and_which_the_tuned_rates_follow() -> None:
    note = scale_rate("lars", batch=32768, base_batch=256, lr=4).notes[0]
    root, linear = 4 * math.sqrt(32768 / 256), 4 * 32768 // 256
    assert "often run with linear scaling and warm-up (TensorFlow" in note
    assert f"4 at 256 images, 30 at 8,192, 40 at 32,768, where the root makes {root:.0f}" in note
    assert f"and linear scaling {linear}." in note


def test_the_root_goes_less_far_than_the_rates_tuned_for_roberta_and_the_note_says_so() -> None:
    for batch, rule in ((2048, 2.8e-4), (8192, 5.7e-4)):
        scaled = scale_rate("adam", batch=batch, base_batch=256, lr=1e-4)
        assert scaled.rate == pytest.approx(rule, rel=0.02)
        assert 1e-4 < rule < TUNED["Adam"][batch] < 1e-4 * batch / 256
        assert "rise somewhat faster" in scaled.notes[0] and "2.8e-4 and 5.7e-4" in scaled.notes[0]
    assert f"Adam {power(TUNED['Adam']):.2f} for RoBERTa" in evidence("square-root-rate")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("bert", "LAMB {:.2f} for BERT in MLPerf"),
        ("resnet", "by its authors, {:.2f} in MLPerf"),
        ("llama31_8b", "{:.2f} for Llama 3.1 8B in MLPerf"),
    ],
)
def test_powers_of_mlperf_s_rates_are_those_the_rule_quotes(task: str, said: str) -> None:
    assert said.format(power(mlperf_rates(task))) in evidence("square-root-rate")


def test_mlperf_s_rates_for_mask_r_cnn_are_linear_up_to_128_images_and_lower_at_256() -> None:
    rates = mlperf_rates("maskrcnn")
    for batch in (48, 64, 96, 128):
        assert rates[batch] == pytest.approx(scale_rate("sgd", batch=batch, base_batch=8, lr=rates[8]).rate)
    assert rates[256] < 0.8 * rates[8] * 256 / 8
    assert "linear, too, from 8 images to 128, and lower than linear at 256" in evidence("linear-rate")


@given(optimizers, batches, batches, st.floats(1e-6, 1.0))
def test_there_and_back_again_is_the_same_rate(optimizer: str, base: int, batch: int, lr: float) -> None:
    there = scale_rate(optimizer, batch=batch, base_batch=base)
    back = scale_rate(optimizer, batch=base, base_batch=batch)
    assert there.factor * back.factor == pytest.approx(1)
    assert (there.factor > 1) == (batch > base)
    assert there.within_known == back.within_known
    assert there.within_known == (there.beyond is None)


@given(optimizers, batches, batches)
def test_companions_stay_what_an_optimizer_takes(optimizer: str, base: int, batch: int) -> None:
    for companion in scale_rate(optimizer, batch=batch, base_batch=base).companions:
        assert (companion.after is None) != (companion.why is None)
        assert companion.after is None or 0 < companion.after < 1


@pytest.mark.parametrize("lr", [0, 0.0, -0.1, math.nan, math.inf, -math.inf, "0.1", True, 1e-300, 1e7])
def test_a_rate_that_is_no_usable_number_is_refused(lr: object) -> None:
    with pytest.raises(BadInputError, match=r"learning rate .* is no positive number from 1e-15 to 1e"):
        scale_rate("sgd", batch=256, base_batch=64, lr=lr)  # type: ignore[arg-type]


def test_a_rate_that_scaling_takes_out_of_bounds_is_refused() -> None:
    with pytest.raises(BadInputError, match="scaled learning rate"):
        scale_rate("sgd", batch=1 << 30, base_batch=1, lr=1.0)


@pytest.mark.parametrize("batch", [0, -1, 2.0, 2.5, math.nan, "64", True, (1 << 30) + 1, None])
def test_a_batch_that_is_no_whole_number_is_refused(batch: object) -> None:
    with pytest.raises(BadInputError, match=r"global batch .* whole number"):
        scale_rate("sgd", batch=batch, base_batch=64)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=r"base batch .* whole number"):
        scale_rate("sgd", batch=64, base_batch=batch)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "near"), [("admw", "adamw"), ("lamp", "lamb"), ("SGDM", "sgd")])
def test_an_unknown_optimizer_is_answered_with_the_nearest_names(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown optimizer '{name}'. Nearest: .*{near}"):
        scale_rate(name, batch=64, base_batch=64)


@pytest.mark.parametrize("name", ["", "rmsprop", None, 3])
def test_an_optimizer_like_none_is_answered_with_all_names(name: object) -> None:
    with pytest.raises(UnknownNameError, match="A plan knows sgd, adam, adamw, lars, lamb"):
        check_optimizer(name)  # type: ignore[arg-type]


def test_names_of_optimizers_are_taken_however_they_are_cased() -> None:
    assert [check_optimizer(name) for name in ("SGD", " AdamW ", "LAMB")] == ["sgd", "adamw", "lamb"]
