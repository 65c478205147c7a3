"""Critical batches: the fit, and the table of what is known."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import BadInputError, BrokenFileError, UnknownNameError
from advisor.planning import critical_batch as module
from advisor.planning.critical_batch import (
    critical_batch,
    fit_critical_batch,
    fitted_batches,
    kaplan_tokens,
    samples_to_target,
    task_names,
)
from advisor.workload import Workload
from advisor.workload.catalogue import load_workload


def test_twice_the_least_samples_are_needed_at_the_critical_batch() -> None:
    fit = fit_critical_batch([100, 400, 1600], [45.0, 54.0, 90.0])  # 42 (1 + B / 1400), to the digit
    assert fit.critical_batch == pytest.approx(1400, rel=1e-6)
    assert fit.least_samples == pytest.approx(42)
    assert (fit.median_error, fit.largest_error) == pytest.approx((0, 0), abs=1e-9)
    assert samples_to_target([fit.critical_batch], critical=fit.critical_batch, least_samples=42)[0] == pytest.approx(
        84
    )


@given(
    critical=st.floats(1, 1e6),
    least=st.floats(1e-3, 1e9),
    shares=st.lists(st.floats(0.05, 20), min_size=3, max_size=12, unique_by=lambda share: round(math.log(share), 1)),
)
def test_exact_points_give_back_the_critical_batch_they_were_made_of(
    critical: float, least: float, shares: list[float]
) -> None:
    batches = [share * critical for share in shares]
    fit = fit_critical_batch(batches, [least * (1 + share) for share in shares])
    assert fit.critical_batch == pytest.approx(critical, rel=1e-5)
    assert fit.least_samples == pytest.approx(least, rel=1e-5)


@given(critical=st.floats(1, 1e6), batches=st.lists(st.floats(1, 1e6), min_size=2, max_size=20))
def test_samples_to_target_rise_with_the_batch_and_steps_fall(critical: float, batches: list[float]) -> None:
    batches = sorted(batches)
    samples = samples_to_target(batches, critical=critical, least_samples=1.0)
    assert all(a <= b for a, b in itertools.pairwise(samples))
    steps = samples / batches
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(steps))


def test_the_unit_of_samples_does_not_move_the_critical_batch() -> None:
    batches, epochs = [16, 32, 64, 96, 128], [161587.2, 179404.8, 226713.6, 278640.0, 345907.2]
    fit = fit_critical_batch(batches, epochs)
    scaled = fit_critical_batch(batches, [each / 1e6 for each in epochs])
    assert fit.critical_batch == pytest.approx(84.04, rel=1e-3)  # Llama-3.1-8B of the shipped fits
    assert scaled.critical_batch == pytest.approx(fit.critical_batch, rel=1e-6)


@pytest.mark.parametrize(
    ("batches", "samples", "words"),
    [
        ([1, 2], [1, 2], "2 batch sizes cannot tell"),
        ([8, 8, 8], [1, 2, 3], "1 batch size cannot tell"),
        ([], [], "0 batch sizes"),
        ([1, 2, 3], [1, 2], "3 batches and 2 values"),
        ([1, 2, 4], [5, 5, 5], "hardly rise with the batch"),
        ([1, 2, 4], [3, 2, 1], "hardly rise with the batch"),
        ([1, 2, 4], [1, 2, 4], "rise as fast as the batch"),
        ([1, 2, 0], [1, 2, 3], "global batch 0 is not positive"),
        ([1, 2, 3], [1, math.nan, 3], "samples to target nan is not positive"),
        ([1, 2, 3], [1, math.inf, 3], "samples to target inf is not positive"),
        ([1, 2, -3], [1, 2, 3], "global batch -3"),
        ([1, 2, "x"], [1, 2, 3], "must be numbers"),
        ([[1], [2], [3]], [1, 2, 3], "plain list"),
    ],
)
def test_points_that_determine_no_critical_batch_are_refused(
    batches: list[float], samples: list[float], words: str
) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        fit_critical_batch(batches, samples)
    assert "\n" not in str(caught.value)


def test_no_critical_batch_is_believed_a_hundred_times_outside_the_batches() -> None:
    def doubling_at(critical: float) -> float:
        return fit_critical_batch([1, 2, 4], [1 + batch / critical for batch in (1, 2, 4)]).critical_batch

    assert doubling_at(399) == pytest.approx(399)
    assert doubling_at(0.011) == pytest.approx(0.011)
    with pytest.raises(BadInputError, match=r"hardly rise with the batch from 1 to 4.* measure larger batches"):
        doubling_at(401)
    with pytest.raises(BadInputError, match=r"rise as fast as the batch from 1 to 4.* measure smaller batches"):
        doubling_at(0.0099)


# The interval of a fit

BATCHES = np.array([100.0, 200, 400, 800, 1600])
SIGNS = np.array([1, -1, -1, 1, 1])


def shares(noise: float) -> list[float]:
    return list(1 + noise * SIGNS)


def noisy(*noise: float) -> np.ndarray:  # type: ignore[type-arg]
    return 40 * (1 + BATCHES / 500) * np.array(noise)


def test_exact_points_leave_no_doubt_of_the_critical_batch() -> None:
    assert fit_critical_batch(BATCHES, noisy(1, 1, 1, 1, 1)).interval == pytest.approx((500, 500), rel=1e-5)


def test_the_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(1000):
        low, high = fit_critical_batch(BATCHES, noisy(*(1 + 0.03 * rng.standard_normal(5)))).interval
        held += low <= 500 <= high
    assert 0.88 <= held / 1000 <= 0.92  # 90 % is claimed; two standard deviations of the count


def test_the_ends_of_an_interval_are_as_bad_as_the_level_allows() -> None:
    """By brute force: at either end the squares are 1 + t^2 / 3 times the least; t of 0.95 and 3 is 2.3534."""
    samples = noisy(*shares(0.04))
    fit = fit_critical_batch(BATCHES, samples)

    def squares(critical: float) -> float:
        shape = (1 + BATCHES / critical) / samples
        return float(((shape * shape.sum() / (shape**2).sum() - 1) ** 2).sum())

    for end in fit.interval:
        assert squares(end) / squares(fit.critical_batch) == pytest.approx(1 + 2.3534**2 / 3, rel=1e-4)


def test_an_interval_grows_with_the_noise_and_may_have_no_end() -> None:
    narrow, wide = (fit_critical_batch(BATCHES, noisy(*shares(noise))) for noise in (0.01, 0.04))
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]
    low, high = fit_critical_batch(BATCHES, [40, 44, 39, 43, 44]).interval  # they hardly rise
    assert 1600 < low < math.inf
    assert high == math.inf
    low, high = fit_critical_batch(BATCHES, [40, 90, 150, 330, 620]).interval  # they all but double with the batch
    assert low == 0
    assert 0 < high < 100
    assert fit_critical_batch([1, 2, 4], [1, 3, 2]).interval == (0, math.inf)


def test_quantiles_are_student_s() -> None:
    from scipy.stats import t

    known = [t.ppf((1 + module.LEVEL) / 2, free) for free in range(1, len(module.STUDENT) + 1)]
    assert pytest.approx(known, abs=5e-5) == module.STUDENT
    many = np.tile(BATCHES, 8), np.tile(noisy(*shares(0.04)), 8)
    assert fit_critical_batch(*many).interval[1] < fit_critical_batch(BATCHES, noisy(*shares(0.04))).interval[1]


def test_repeated_runs_count_as_points_of_their_own() -> None:
    batches, samples = [100, 100, 400, 1600], [44.0, 46.0, 54.0, 90.0]
    assert fit_critical_batch(batches, samples).critical_batch == pytest.approx(1400, rel=0.05)


# The table


@pytest.fixture(scope="module")
def resnet() -> Workload:
    return load_workload("resnet50")


def test_imagenet_is_a_range_because_its_sources_differ(resnet: Workload) -> None:
    found = critical_batch(resnet)
    assert found is not None
    assert found.low == 15_000  # McCandlish et al. 2018, table 1
    assert found.high == pytest.approx(46_900, rel=0.005)  # MLPerf's points
    assert (found.unit, [value.kind for value in found.values]) == ("images", ["published", "fitted"])
    assert found.assumed == "taken for training on ImageNet; --task names another"
    fitted = found.values[1]
    assert fitted.error is not None
    assert 0.02 < fitted.error < 0.05
    assert fitted.measured == (1632, 67840)
    assert fitted.interval == (42_100, 52_500)
    assert found.values[0].interval is None


@pytest.mark.parametrize(
    ("task", "samples"), [("cifar10", 900), ("svhn", 500), ("mnist", 200), ("svhn-autoencoder", 40), ("svhn-vae", 200)]
)
def test_a_named_task_is_that_of_table_1_and_nothing_is_assumed(resnet: Workload, task: str, samples: float) -> None:
    found = critical_batch(resnet, task=task)
    assert found is not None
    assert (found.low, found.high, found.assumed) == (samples, samples, None)
    assert "arXiv:1812.06162" in found.values[0].source


def test_small_images_are_not_taken_for_imagenet(resnet: Workload) -> None:
    cifar = msgspec.structs.replace(resnet, input_shape=(3, 32, 32))
    found = critical_batch(cifar)
    assert found is not None
    assert (found.low, found.title) == (900, "image classification on CIFAR-10")
    assert "CIFAR-10" in (found.assumed or "")
    assert critical_batch(msgspec.structs.replace(resnet, input_shape=(3, 64, 64))) is None
    assert critical_batch(msgspec.structs.replace(resnet, input_shape=(3, 64, 224))) is None
    assert critical_batch(msgspec.structs.replace(resnet, input_shape=(3, 128, 128))) == critical_batch(resnet)


@pytest.mark.parametrize("model", ["unet", "t5-small"])
def test_a_task_of_which_nothing_is_known_has_none(model: str) -> None:
    assert critical_batch(load_workload(model)) is None


def test_language_modelling_counts_sequences_of_the_models_own_length() -> None:
    workload = load_workload("gpt2")  # sequences of 1,024
    found = critical_batch(workload)
    assert found is not None
    kaplan, _, llama = found.values
    assert kaplan.samples == pytest.approx(2e8 / 3.3 ** (1 / 0.21) / 1024)
    assert llama.samples == pytest.approx(84.04 * 8192 / 1024, rel=1e-3)  # sequences of 8,192
    assert llama.measured == (128, 1024)  # 16 to 128 of those
    assert llama.interval == pytest.approx((8 * 67.9, 8 * 105))
    assert "of 8,192" in (llama.note or "") and "672 sequences of 1,024" in (llama.note or "")
    half = critical_batch(msgspec.structs.replace(workload, input_shape=(512,)))
    assert half is not None
    assert (half.low, half.high) == pytest.approx((2 * found.low, 2 * found.high))


def test_kaplan_and_mlperf_agree_at_the_loss_that_mlperf_trains_to() -> None:
    llama = next(fit for fit in fitted_batches().benchmarks if fit.benchmark == "llama31_8b")
    assert llama.sample_tokens is not None
    assert kaplan_tokens(3.3) == pytest.approx(llama.critical_batch * llama.sample_tokens, rel=0.05)
    assert kaplan_tokens(1.0) == 2e8


def test_bert_is_not_converted_to_another_length() -> None:
    short, long = (critical_batch(load_workload(f"bert-large-{length}")) for length in (128, 512))
    assert short is not None and long is not None
    assert short.low == long.low == pytest.approx(12_700, rel=0.005)
    assert "not converted" in (short.values[0].note or "")


@pytest.mark.parametrize(("model", "task"), [("resnet50", "bert"), ("resnet50", "llm"), ("gpt2", "imagenet")])
def test_a_task_that_counts_other_samples_is_refused(model: str, task: str) -> None:
    with pytest.raises(BadInputError, match=r"--critical-batch$"):
        critical_batch(load_workload(model), task=task)


def test_an_unknown_task_names_the_nearest(resnet: Workload) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'cifar'. Nearest: cifar10.*--critical-batch"):
        critical_batch(resnet, task="cifar")
    with pytest.raises(UnknownNameError, match="unknown task"):
        critical_batch(resnet, task="", given=5)


def test_case_and_separators_of_a_task_do_not_matter() -> None:
    workload = load_workload("gpt2")
    assert critical_batch(workload, task="Billion_Word") == critical_batch(workload, task="billion-word")


def test_the_users_own_stands_alone() -> None:
    found = critical_batch(load_workload("unet"), given=300)
    assert found is not None
    assert (found.low, found.high, found.unit, found.values[0].kind) == (300, 300, "images", "given")
    assert found.assumed is None


@pytest.mark.parametrize("wrong", [0, -5, math.nan, math.inf, True, "many"])
def test_a_critical_batch_that_is_no_positive_number_is_refused(resnet: Workload, wrong: float) -> None:
    with pytest.raises(BadInputError, match=r"is no number of samples from 1 to 1e\+12"):
        critical_batch(resnet, given=wrong)


def test_every_task_of_the_table_has_a_value_with_a_source() -> None:
    plain = msgspec.structs.replace(load_workload("unet"), input_shape=(7,))  # what a batch counts is not known
    for task in task_names():
        workload = load_workload("gpt2") if task in ("llm", "billion-word", "bert") else plain
        found = critical_batch(workload, task=task)
        assert found is not None
        assert 0 < found.low <= found.high
        assert all(value.source and value.unit == found.unit for value in found.values)


def test_a_damaged_file_of_fits_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "critical-batch.json"
    fits = json.loads(module.SHIPPED.read_text())
    fits["benchmarks"][0]["critical_batch"] = "many"
    broken.write_text(json.dumps(fits))
    monkeypatch.setattr(module, "SHIPPED", broken)
    with pytest.raises(BrokenFileError, match=r"critical-batch\.json.*benchmarks.*reinstall"):
        fitted_batches.__wrapped__()


def test_what_is_known_is_a_record(resnet: Workload) -> None:
    found = critical_batch(resnet)
    assert found is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.low = 1.0  # type: ignore[misc]
