"""GPUs side by side: the arithmetic by hand, the rest against `recommend`."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor import comparison, comparison_inputs, recommend
from advisor.comparison import APART, BOUNDS, ENERGY, GpuComparison, GpuResult, GpuRow, compare, cost_per_million
from advisor.comparison_inputs import Power, entrants, power_of
from advisor.comparison_ranking import cost_of, headline, ranked, related, speed_of, tie_sentences, told_apart
from advisor.errors import AdvisorError, BadInputError, BrokenFileError, DoesNotFitError, NoGpuError, UnknownNameError
from advisor.gpus import Gpu, ResolvedGpu, find_gpu
from advisor.measured import Conditions, MeasuredProfile, measured_profile_bytes
from advisor.recommendation import ModelFacts
from advisor.report.records import Origin
from advisor.report.subject import Measured, MeasuredSteps
from advisor.step import predict_step
from advisor.steptime import StepError

A100, H100, L40S = "a100-sxm4-80gb", "h100-sxm-80gb", "l40s"


def rows_of(found: GpuComparison) -> dict[str, GpuRow]:
    return {row.name: row for row in found.rows}


def test_two_an_hour_at_a_thousand_per_second_is_55_cents_a_million() -> None:
    # A million samples take 1000 s, 0.27778 of an hour.
    assert cost_per_million(2.0, 1000.0) == pytest.approx(0.55556, abs=5e-6)


def test_each_gpu_has_the_answer_that_recommend_gives() -> None:
    row = rows_of(compare("resnet50", gpus=["a100", "l40s"], price=3.6))[L40S]
    alone = recommend("resnet50", gpu="l40s").answer
    result = row.result
    assert result is not None
    assert (result.batch_size, result.samples_per_s, result.error) == (
        alone.batch_size, alone.samples_per_s, alone.error,
    )  # fmt: skip
    assert result.memory_bytes == alone.curve.total_bytes[alone.batch_size - 1]
    assert result.memory_limit_bytes == alone.memory_limit_bytes
    assert result.million_samples_s == pytest.approx(1e6 / alone.samples_per_s)
    assert result.cost_per_million == pytest.approx(1000 / alone.samples_per_s)  # 3.6 an hour is 0.001 a second


def test_energy_without_a_measurement_is_at_most_what_the_board_may_draw() -> None:
    row = compare("resnet50", gpus=["a100"]).rows[0]
    assert row.power is not None
    assert row.result is not None
    assert (row.power.watts, row.power.kind) == (400, "at most")  # NVIDIA A100 data sheet, SXM
    assert "A100 data sheet" in row.power.source
    assert row.result.energy_per_sample_j == pytest.approx(400 / row.result.samples_per_s)


def a_gpu(**changes: Any) -> Gpu:
    return replace(find_gpu("a100"), **changes)


def steps(batch: list[int], watts: list[float], model: str = "resnet50", recipe: str = "amp_fp16") -> MeasuredSteps:
    none = np.full(len(batch), np.nan)
    return MeasuredSteps(model, np.array(batch), none, none, np.array(watts), recipe, Origin("measured here", ""))


def test_power_that_nobody_states_is_unknown_and_no_other_gpus() -> None:
    assert power_of(a_gpu(tdp_w=None), profile=None, steps=(), batch=64) is None


def test_power_is_measured_at_the_size_nearest_to_the_recommended_one() -> None:
    measured = [steps([16, 64, 512], [210.0, 301.5, 390.0]), steps([100], [math.nan])]
    assert power_of(a_gpu(), profile=None, steps=measured, batch=100) == Power(
        301.5, "measured", "measured in training steps of 64 samples (amp_fp16)"
    )


def test_power_measured_at_a_far_smaller_size_stands_for_no_larger_one() -> None:
    found = power_of(a_gpu(), profile=None, steps=[steps([8], [150.0])], batch=100)
    assert found is not None
    assert (found.kind, found.watts) == ("at most", 400)


def measured_profile(tmp_path: Path, gpu: str = A100, watts: float | None = 275.0) -> Path:
    conditions = Conditions("NVIDIA A100-SXM4-80GB", "key", (8, 0), 108, 0, 1, power_limit_w=watts)
    profile = MeasuredProfile(1, gpu, "2026-01-02", "quick", conditions)
    path = tmp_path / f"{gpu}.json"
    path.write_bytes(measured_profile_bytes(profile))
    return path


def test_the_power_limit_of_a_measured_card_is_a_tighter_bound(tmp_path: Path) -> None:
    rows = rows_of(compare("resnet50", gpus=["a100", "h100"], profiles=[measured_profile(tmp_path)]))
    mine, other = rows[A100].power, rows[H100].power
    assert mine is not None
    assert other is not None
    assert (mine.watts, mine.kind, other.watts) == (275.0, "at most", 700.0)


def test_a_profile_of_a_gpu_that_is_not_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="h100-sxm-80gb, which is not compared"):
        compare("resnet50", gpus=["a100"], profiles=[measured_profile(tmp_path, H100)])


def test_two_profiles_of_one_gpu_are_refused(tmp_path: Path) -> None:
    path = measured_profile(tmp_path)
    with pytest.raises(BadInputError, match="two profiles"):
        compare("resnet50", gpus=["a100"], profiles=[path, path])


@pytest.mark.parametrize(
    ("content", "error"), [(b"{}", BrokenFileError), (b"\xff", BrokenFileError), (None, BadInputError)]
)
def test_a_profile_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, error: type[AdvisorError]
) -> None:
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=r"broken\.json"):
        compare("resnet50", gpus=["a100"], profiles=[path])


def test_records_give_the_power_of_this_model_on_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    measurements = pytest.importorskip("advisor.report.measurements")
    batch = recommend("resnet50", gpu="a100").batch_size
    others = steps([batch], [111.0], "vgg16"), steps([batch], [222.0], recipe="fp32")
    held = Measured(steps=(*others, steps([batch], [333.0])), gpu_id=A100)
    monkeypatch.setattr(measurements, "read_measured", lambda _path, *, gpu: held)
    row = rows_of(compare("resnet50", gpus=["h100", "a100"], records=["records.db"]))[A100]
    assert row.power is not None
    assert row.result is not None
    assert (row.power.watts, row.power.kind) == (333.0, "measured")
    assert row.result.energy_per_sample_j == pytest.approx(333 / row.result.samples_per_s)
    inference = compare("resnet50", gpus=["a100"], records=["records.db"], mode="infer").rows[0].power
    assert inference is not None
    assert inference.kind == "at most"
    with pytest.raises(BadInputError, match="not compared"):
        compare("resnet50", gpus=["h100"], records=["records.db"])


def measured_on(monkeypatch: pytest.MonkeyPatch, *held: Measured) -> None:
    """A file of records that holds these, and answers as `read_measured` does for a GPU that it does not hold."""
    measurements = pytest.importorskip("advisor.report.measurements")
    by_gpu = {each.gpu_id: each for each in held}
    monkeypatch.setattr(measurements, "read_measured", lambda _path, *, gpu: by_gpu.get(gpu.id, held[-1]))


def test_records_of_several_gpus_give_each_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {name: recommend("resnet50", gpu=name).batch_size for name in (A100, L40S)}
    watts = {A100: 333.0, L40S: 222.0}
    measured_on(
        monkeypatch,
        *(Measured(steps=(steps([sizes[name]], [watts[name]]),), gpu_id=name) for name in (A100, L40S)),
    )
    rows = rows_of(compare("resnet50", gpus=[L40S, H100, A100], records=["records.db"]))
    assert {name: row.power.watts for name, row in rows.items() if row.power} == {**watts, H100: 700.0}
    with pytest.raises(BadInputError, match=f"measured on {L40S}, which is not compared"):
        compare("resnet50", gpus=["h100"], records=["records.db"])


def test_records_that_do_not_hold_the_power_asked_for_are_said_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_on(monkeypatch, Measured(steps=(steps([8, 16, 300], [99.0, 99.0, math.nan]),), gpu_id=A100))
    batch = recommend("resnet50", gpu="a100").batch_size
    (far,) = compare("resnet50", gpus=["a100"], records=["records.db"]).rows
    assert far.notes[-1] == (
        f"The records given have no power of fp16 training steps of resnet50 near batch {batch}: they have it at 8, 16."
    )
    other = rows_of(compare("vgg16", gpus=["a100", "h100"], records=["records.db"]))
    assert other[A100].notes[-1].endswith(": they have it at no size.")
    assert not any("records" in note for note in other[H100].notes)


# Prices ---------------------------------------------------------------------------------------------------------------


def test_prices_go_by_any_name_of_a_gpu() -> None:
    rows = rows_of(compare("resnet50", gpus=["a100", "H100"], price={"NVIDIA A100-SXM4-80GB": 1.5, "h100": 3}))
    assert {name: row.price_per_hour for name, row in rows.items()} == {A100: 1.5, H100: 3.0}


@pytest.mark.parametrize(
    "price", [0, -1, math.nan, math.inf, 1e99, 1e-99, True, "2", {"a100": 0.0}, {"a100": math.nan}]
)
def test_no_positive_price_is_refused(price: Any) -> None:
    with pytest.raises(BadInputError, match="no positive number"):
        compare("resnet50", gpus=["a100"], price=price)


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ({"a100": 1.0}, "no price for l40s: add l40s=PRICE"),
        ({"a100": 1.0, "l40s": 1.0, "h100": 1.0}, "h100-sxm-80gb, which is not compared"),
        ({"a100": 1.0, "l40s": 1.0, "local": 1.0}, "'local', which is not compared"),
        ({"a100": 1.0, "a100-sxm4-80gb": 2.0, "l40s": 1.0}, "two prices for a100-sxm4-80gb"),
        ({"a100": 1.0, "l4os": 1.0}, "unknown GPU 'l4os'. Nearest: L40S"),
        ({1: 1.0}, "a GPU is named by text"),
        ({}, "no price for a100-sxm4-80gb, l40s"),
    ],
)
def test_prices_and_gpus_must_match(price: dict[Any, float], message: str) -> None:
    with pytest.raises(BadInputError) as raised:
        compare("resnet50", gpus=["a100", "l40s"], price=price)
    assert message in str(raised.value)


# Which GPUs -----------------------------------------------------------------------------------------------------------


def test_names_of_one_gpu_are_one_row_and_that_is_said() -> None:
    found = compare("resnet50", gpus=["a100", "A100-SXM4-80GB", "a100", "l40s"], sort="given")
    assert [row.name for row in found.rows] == [A100, L40S]
    assert any("a100 and A100-SXM4-80GB are one GPU" in note for note in found.rows[0].gpu_notes)


def test_a_name_in_capitals_is_no_other_name() -> None:
    (only,) = entrants(["a100", "A100", "A100-SXM4-80GB", " a100-sxm4-80gb "])
    assert only.asked == ("a100", "A100-SXM4-80GB")
    assert only.notes[-1] == "a100 and A100-SXM4-80GB are one GPU: it has one row"


def test_what_auto_was_taken_for_is_said_even_where_that_gpu_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    default = ResolvedGpu(find_gpu("a100"), "default", note="planning for an A100")
    plain = comparison_inputs.resolve_gpu
    monkeypatch.setattr(comparison_inputs, "resolve_gpu", lambda name: default if name == "auto" else plain(name))
    (only,) = entrants(["a100-sxm4-80gb", "auto"])
    assert only.notes == ("planning for an A100", "a100-sxm4-80gb and auto are one GPU: it has one row")


def test_a_local_card_beside_its_kind_of_the_table_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    local = ResolvedGpu(replace(find_gpu("a100"), sms=42), "local")
    plain = comparison_inputs.resolve_gpu
    monkeypatch.setattr(comparison_inputs, "resolve_gpu", lambda name: local if name == "local" else plain(name))
    assert [each.name for each in entrants(["local", "a100"])] == [f"{A100} (local)", A100]
    assert [each.name for each in entrants(["local", "h100"])] == [A100, H100]


@pytest.mark.parametrize("gpus", [[], "a100,h100", ["a100", ""], ["a100", " "], [None], 3])
def test_no_gpus_are_refused(gpus: Any) -> None:
    with pytest.raises(BadInputError, match="a100"):
        compare("resnet50", gpus=gpus)


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="h100"):
        compare("resnet50", gpus=["a100", "h1000"])


def test_a_missing_local_gpu_is_an_error_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> ResolvedGpu:
        raise NoGpuError(f"no usable NVIDIA GPU here: {name}")

    monkeypatch.setattr(comparison_inputs, "resolve_gpu", none)
    with pytest.raises(NoGpuError):
        compare("resnet50", gpus=["local"])


def test_what_does_not_fit_has_its_row_and_the_others_answer() -> None:
    found = compare("gpt2-medium", gpus=["p4", "a100"], price=1.0)  # 8 GB, of which CUDA hands out less than it needs
    rows = rows_of(found)
    assert rows["p4"].fits is False
    assert rows["p4"].result is None
    assert "does not fit" in str(rows["p4"].reason)
    assert rows[A100].result is not None
    assert [row.name for row in found.rows] == [A100, "p4"]
    assert "the only one of these that can run it" in found.headline


def test_what_cannot_be_predicted_has_its_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = comparison.prepare

    def blind(model: Any, *, gpu: str, **setup: Any) -> Any:
        if gpu == "l40s":
            raise BadInputError("the memory bandwidth of l40s is unknown")
        return plain(model, gpu=gpu, **setup)

    monkeypatch.setattr(comparison, "prepare", blind)
    rows = rows_of(compare("resnet50", gpus=["l40s", "a100"]))
    assert (rows[L40S].fits, rows[L40S].reason) == (None, "the memory bandwidth of l40s is unknown")
    assert rows[A100].fits
    with pytest.raises(BadInputError, match="bandwidth"):
        compare("resnet50", gpus=["l40s"])


def test_where_it_fits_none_the_error_says_what_is_needed() -> None:
    with pytest.raises(DoesNotFitError, match=r"none of a100-sxm4-80gb, l40s can run it; .* batch 1 needs"):
        compare("resnet50", gpus=["a100", "l40s"], memory_limit="300MiB")


def test_a_memory_limit_for_all_is_no_more_than_a_gpu_has() -> None:
    rows = rows_of(compare("resnet50", gpus=["a100", "t4"], memory_limit="40GiB"))
    limits = {name: row.result.memory_limit_bytes for name, row in rows.items() if row.result}
    assert limits == {A100: 40 * 2**30, "t4": recommend("resnet50", gpu="t4").answer.memory_limit_bytes}


@pytest.mark.parametrize(
    "wrong",
    [
        {"sort": "beauty"}, {"sort": "cost"}, {"max_batch": 0}, {"tolerance": "x"}, {"margin": 2}, {"seq_len": 7},
        {"layout": "x"}, {"precision": "fp8"}, {"recipe": "x"}, {"memory_limit": "lots"}, {"mode": "rest"},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_for_all_gpus_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        compare("resnet50", gpus=["a100", "l40s"], **wrong)


# One against another --------------------------------------------------------------------------------------------------

MODEL = ModelFacts("m", "Model", "made up", (3, 8, 8), 1, "images")


def made_up(name: str, per_s: float, p90: float = 0.0, price: float | None = None) -> GpuRow:
    result = GpuResult(
        batch_size=8, samples_per_s=per_s, relative=0.0, error=StepError(p90 / 2, p90, "made up"), memory_bytes=1,
        memory_limit_bytes=None, margin=0.0, million_samples_s=1e6 / per_s, energy_per_sample_j=None,
        cost_per_million=None if price is None else cost_per_million(price, per_s), ties=(), cost_ties=(), recipe="",
        profile="",
    )  # fmt: skip
    return GpuRow(name, name, name, "named", price, None, True, None, result, (), ())


@pytest.mark.parametrize(("ratio", "apart"), [(1.64, False), (1.66, True)])
def test_gpus_are_told_apart_beyond_both_errors_together(ratio: float, apart: bool) -> None:
    # sqrt(0.3**2 + 0.4**2) = 0.5, and exp(0.5) = 1.6487
    left, right = made_up("a", 100 * ratio, 0.3).result, made_up("b", 100, 0.4).result
    assert left is not None
    assert right is not None
    assert told_apart(left, right, speed_of) is apart
    assert told_apart(right, left, speed_of) is apart


def test_two_per_cent_is_a_tie_however_small_the_errors_are() -> None:
    rows = related([made_up("a", 101.9), made_up("b", 100.0)])
    assert [row.result.ties for row in rows if row.result] == [("b",), ("a",)]


def test_ties_are_said_once_and_no_tie_is_made_of_two() -> None:
    # 0.2 is the spread of each pair; ln(1.15) = 0.14, ln(1.15**2) = 0.28: b is tied with both, a and c are not
    p90 = 0.2 / math.sqrt(2)
    chain = related([made_up("c", 100, p90), made_up("a", 132.25, p90), made_up("b", 115, p90)])
    assert tie_sentences(chain) == (
        "a and b cannot be told apart within their errors.",
        "b and c cannot be told apart within their errors.",
    )
    near = related([made_up("c", 100, p90), made_up("a", 110, p90), made_up("b", 105, p90)])
    assert tie_sentences(near) == ("a, b and c cannot be told apart within their errors.",)


def test_a_large_error_ties_with_what_others_are_told_from() -> None:
    rows = related([made_up("a", 200), made_up("b", 150), made_up("c", 140, 1.0)])
    assert tie_sentences(rows) == (
        "a and c cannot be told apart within their errors.",
        "b and c cannot be told apart within their errors.",
    )


def test_the_headline_says_the_fastest_the_cheapest_and_how_sure_that_is() -> None:
    # a: 4 an hour at 2000/s is 0.556 a million; b: 1 an hour at 1000/s is 0.278, half of it
    assert headline(MODEL, related([made_up("b", 1000, 0.1, 1.0), made_up("a", 2000, 0.1, 4.0)])) == (
        "Model: a is fastest, 2,000 images/s +-5 % predicted at batch 8, 2.00 times b (more than their errors); "
        "b is cheapest per sample, 0.278 per million images, 50 % below a (more than their errors)"
    )
    assert headline(MODEL, [made_up("a", 1000, 0.1, 2.0)]) == (
        "Model on a: 1,000 images/s +-5 % predicted at batch 8; 0.556 per million images"
    )


def test_the_headline_calls_no_gpu_the_fastest_or_cheapest_where_that_is_a_tie() -> None:
    # 3.6 an hour at 110/s is 1000/110 = 9.09 a million, at 100/s 10.0: 9 % below; sqrt(2) * 0.1 is more than ln(1.1)
    assert headline(MODEL, [made_up("a", 110, 0.1, 3.6), made_up("b", 100, 0.1, 3.6)]) == (
        "Model: a would be fastest, 110 images/s +-5 % predicted at batch 8, 1.10 times b, but that is a tie within "
        "their errors; a would be cheapest per sample, 9.09 per million images, 9 % below b, but that is a tie within "
        "their errors"
    )


def test_rows_are_sorted_as_asked_and_those_without_an_answer_come_last() -> None:
    unfit = replace(made_up("x", 1.0), result=None, fits=False)
    rows = [unfit, made_up("slow", 100, price=1.0), made_up("fast", 200, price=4.0)]
    assert [row.name for row in ranked(rows, "throughput")] == ["fast", "slow", "x"]
    assert [row.name for row in ranked(rows, "cost")] == ["slow", "fast", "x"]
    assert [row.name for row in ranked(rows, "given")] == ["x", "slow", "fast"]
    costs = related(rows)
    assert [row.result.relative for row in costs if row.result] == [0.5, 1.0]
    assert cost_of(costs[1].result) == pytest.approx(2.7778, abs=5e-5)


def test_upper_bounds_of_energy_are_said_to_rank_nothing() -> None:
    assert compare("resnet50", gpus=["a100", "l40s"], sort="energy").notes == (APART, ENERGY, BOUNDS)


def test_what_the_figures_stand_on_is_said_where_there_is_such_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare("resnet50", gpus=["a100", "l40s"]).notes == (APART, ENERGY)
    assert compare("resnet50", gpus=["a100"]).notes == (ENERGY,)
    monkeypatch.setattr(comparison, "power_of", lambda *_given, **_more: None)
    assert compare("resnet50", gpus=["a100"]).notes == ()


@pytest.mark.parametrize("gpu", ["t4", "rtx-4090", "rtx-3090", "v100-pcie-32gb"])
def test_a_comparison_a_recommendation_and_a_prediction_have_one_error(gpu: str) -> None:
    result = compare("resnet50", gpus=[gpu]).rows[0].result
    assert result is not None
    assert result.error == recommend("resnet50", gpu=gpu).answer.error
    assert result.error.mean_abs_log == predict_step("resnet50", gpu=gpu, batches=[8])[0].error


def test_what_is_said_of_borrowed_products_is_said_only_where_their_rates_are_used() -> None:
    rows = rows_of(compare("resnet50", gpus=["t4", "rtx-4090", "rtx-3090"]))
    said = {name: (row.notes, row.result.profile) for name, row in rows.items() if row.result}
    assert "no GEMM timings of t4" in said["t4"][0][0]
    assert said["rtx-4090"] == ((), "waves of matrix products as on rtx-pro-6000-server; all else from steps of the "
                                "rtx-3090, scaled by this GPU's facts")  # fmt: skip
    assert said["rtx-3090"] == ((), "fitted to public training and inference steps of this GPU")


# As a whole -----------------------------------------------------------------------------------------------------------


def figures(found: GpuComparison) -> dict[str, tuple[object, ...]]:
    return {
        row.name: (row.fits, row.result and (row.result.batch_size, row.result.samples_per_s, row.result.relative,
                                             row.result.cost_per_million, set(row.result.ties)))
        for row in found.rows
    }  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(["a100", "h100", "t4", "p4"]), price=st.floats(0.01, 1000))
def test_neither_the_order_nor_the_price_changes_the_figures(order: list[str], price: float) -> None:
    found = compare("gpt2-medium", gpus=order, price=price)
    plain = compare("gpt2-medium", gpus=sorted(order), price=price)
    assert figures(found) == figures(plain)
    assert (found.headline, found.ties) == (plain.headline, plain.ties)
    for row in found.rows:
        if row.result is not None:
            assert row.result.cost_per_million == pytest.approx(price * row.result.million_samples_s / 3600)
    for one, other in itertools.permutations(found.rows, 2):
        if one.result is not None and other.result is not None:
            assert (other.name in one.result.ties) == (one.name in other.result.ties)


def test_the_document_obeys_its_published_schema() -> None:
    schema = json.loads((Path(advisor.__file__).parent / "schemas" / "comparison.json").read_text())
    document = json.loads(compare("gpt2-medium", gpus=["p4", "a100"], price=2).to_json())
    jsonschema.validate(document, schema)
    assert document["schema_version"] == 1
    assert [row["fits"] for row in document["rows"]] == [True, False]


def test_compare_is_a_public_name_and_prints_as_its_headline() -> None:
    found = advisor.compare("resnet50", gpus=["a100"])
    assert isinstance(found, advisor.GpuComparison)
    assert str(found) == found.headline
