"""The section on accuracy: what it draws of held-out counts, of measured rows, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from advisor.gemm import gemm_time
from advisor.report.records import Figure, Origin, Section
from advisor.report.sections.accuracy import section
from advisor.report.sections.accuracy_measured import MOST_ROWS
from advisor.report.subject import Measured, MeasuredProducts, MeasuredSteps, Subject
from tests.advisor.report.subjects import subject
from tests.pictures import pictured

NOWHERE = Origin("measured here", "made up")
A100 = "a100-sxm4-80gb"


def figure(found: Section, id_: str) -> Figure:
    return next(figure for figure in found.figures if figure.id == id_)


def ids(found: Section) -> list[str]:
    return [figure.id for figure in found.figures]


def products(
    count: int = 5, *, library: str = "cublas", fitted: bool = False, off: float = 1.0, mode: str = "cold"
) -> MeasuredProducts:
    """m = 1024, 2048, ..., n = k = 4096, measured at `off` times what the A100's profile predicts."""
    about = subject(A100)
    m = 1024 * np.arange(1, count + 1)
    n = np.full(count, 4096)
    time_s = off * gemm_time(about.profiles.gemm, about.gpu, m, n, n).time_s
    nothing = np.full(count, np.nan)
    return MeasuredProducts(m, n, n, time_s, nothing, nothing, "fp16", library, mode, ("",) * count, fitted, NOWHERE)


def with_products(*found: MeasuredProducts) -> Subject:
    return subject(A100, measured=Measured(products=found))


def kinds(found: Section) -> dict[object, tuple[object, ...]]:
    """Rows of the table of all errors by what is predicted."""
    table = next(table for table in found.tables if table.id == "accuracy-kinds")
    return {row[0]: row[1:] for row in table.rows}


def test_the_a100_was_3_6_per_cent_off_on_10_745_products_not_in_the_fit() -> None:
    """reports/ACCURACY.md, Sizes not in the fit."""
    answer = figure(section(subject(A100)), "accuracy-fp16").answer
    assert "3.6 % off in the mean, 2.4 % in the median, more than 8.2 % in one of ten, over 10,745 products" in answer


def test_short_products_are_said_to_be_the_worst_on_the_a100() -> None:
    answer = figure(section(subject(A100)), "accuracy-fp16-size").answer
    assert answer.startswith(
        "Those that take 20 to 50 us: 5.1 % off in the mean, against 1.2 % of those that take over 20"
    )


def test_simpler_models_and_the_noise_of_measuring_stand_beside_the_error() -> None:
    notes = " ".join(section(subject(A100)).notes)
    assert "a roofline with three fitted constants 8.9 %" in notes
    assert "differ by 5.0 % in the mean from one version" in notes


def test_a_gpu_without_timings_shows_the_error_of_borrowing_and_no_picture_of_its_donor() -> None:
    found = section(subject("rtx-4090"))
    assert ids(found) == ["accuracy-borrowed"]
    whose = "NVIDIA GeForce RTX 4090 has the coefficients of rtx-pro-6000-server, which was itself 37 % off when"
    assert whose in found.figures[0].answer
    assert kinds(found)["FP16 products"][0] == 0.3708
    assert any("Rows of rtx-pro-6000-server would say nothing" in note for note in found.notes)


def test_a_loan_that_nobody_has_checked_is_not_given_the_error_of_the_lenders_own_products_as_its_own() -> None:
    found = section(subject("p100"))
    assert found.figures[0].id == "accuracy-borrowed"
    assert "v100-sxm2-16gb, and what that costs could not be checked" in found.figures[0].answer


def test_an_error_that_nobody_has_checked_is_unknown() -> None:
    mean, *_, how = kinds(section(subject("rtx-4090")))["FP32 products"]
    assert mean is None
    assert "not checked" in str(how)


def test_borrowed_fp32_that_was_checked_states_what_was_found() -> None:
    """reports/ACCURACY.md, FP32 without Tensor Cores: NVIDIA L4 from the coefficients of T4."""
    mean, *_, how = kinds(section(subject("l4")))["FP32 products"]
    assert mean == 0.1263
    assert str(how).startswith("coefficients of t4 and this GPU's facts")


def test_the_rtx_3090_shows_training_steps_not_in_the_fit() -> None:
    answer = figure(section(subject("rtx-3090", "resnet50")), "accuracy-steps-nhwc").answer
    assert "over 270 models on NVIDIA GeForce RTX 3090 that the fit had not seen" in answer


def test_counts_of_another_fit_are_not_shown() -> None:
    """A profile measured on the very card has errors of its own."""
    shipped = subject(A100)
    own = msgspec.structs.replace(shipped.profiles.gemm.gemm["fp16"], kind="measured")
    gemm = msgspec.structs.replace(shipped.profiles.gemm, gemm={"fp16": own})
    found = section(replace(shipped, profiles=replace(shipped.profiles, gemm=gemm)))
    assert ids(found) == []
    assert kinds(found)["FP16 products"][0] == own.held_out.mean


def test_measured_rows_are_compared_with_their_predictions() -> None:
    """Measured 1.25 times the prediction: predicted 20 % too short."""
    found = section(with_products(products(off=1.25)))
    assert figure(found, "accuracy-measured").answer == (
        "20.0 % in the mean and 20.0 % in the median, over 5 products. The fit has seen none of them."
    )
    assert kinds(found)["measured products: FP16 cold, not fitted"][:4] == pytest.approx((0.2, 0.2, 0.2, 5))


def test_rows_that_the_fit_has_seen_are_told_from_those_that_it_has_not() -> None:
    found = section(with_products(products(off=1.25), products(15, fitted=True, mode="warm")))
    assert figure(found, "accuracy-measured").answer == (
        "5.0 % in the mean and 0.0 % in the median, over 20 products. Of the 5 that the fit has not seen the mean is "
        "20.0 %."
    )


def test_a_point_tells_its_size_its_times_its_tile_and_how_far_off_it_is() -> None:
    chart = figure(section(with_products(products(off=1.25))), "accuracy-measured").interactive
    assert chart is not None
    facts = {fact.name: fact.values for fact in chart.series[0].facts}
    assert (facts["M"][0], facts["N"][0], facts["K"][0], facts["off"][0]) == (1024, 4096, 4096, -20.0)
    assert facts["measured"][0] == pytest.approx(1.25 * facts["predicted"][0], abs=0.02)
    assert {"tile", "waves"} <= set(facts)


def test_groups_of_one_name_share_a_legend() -> None:
    chart = figure(section(with_products(products(3), products(4))), "accuracy-measured").interactive
    assert chart is not None
    assert [(series.name, len(series.x)) for series in chart.series] == [("FP16 cold, not fitted", 7), ("equal", 2)]


def test_products_of_our_own_kernels_are_left_out_and_counted() -> None:
    found = section(with_products(products(library="triton")))
    assert "accuracy-measured" not in ids(found)
    assert any("5 products of our own Triton kernels" in note for note in found.notes)


def test_very_many_rows_are_sampled_evenly_and_the_notes_say_so() -> None:
    found = section(with_products(products(MOST_ROWS), products(MOST_ROWS // 2, mode="warm")))
    chart = figure(found, "accuracy-measured").interactive
    assert chart is not None
    assert [len(series.x) for series in chart.series[:2]] == [MOST_ROWS // 2, MOST_ROWS // 4]
    assert any(note.startswith("6,000 products were measured; one in 2 is") for note in found.notes)


def test_rows_that_cannot_be_predicted_are_a_note() -> None:
    empty = replace(products(1), m=np.array([0]))
    found = section(with_products(empty))
    assert "accuracy-measured" not in ids(found)
    assert any(note.startswith("No prediction of 1 product in fp16") for note in found.notes)


def test_without_measured_rows_the_notes_say_how_to_get_some() -> None:
    assert any("`advisor bench`" in note for note in section(subject(A100)).notes)


def test_measured_steps_are_held_against_the_curve() -> None:
    about = subject(A100, "resnet50")
    at_64 = about.models[0].curve.time_s[63]
    unknown = np.full(1, np.nan)
    steps = MeasuredSteps("resnet50", np.array([64]), np.array([1.25 * at_64]), unknown, unknown, "mine", NOWHERE)
    found = section(replace(about, measured=Measured(steps=(steps,))))
    mean, median, p90, rows, how = kinds(found)["steps of ResNet-50"]
    assert (mean, median, p90, rows) == (pytest.approx(0.2), "", "", 1)  # of one row no quantiles are meant
    assert "of this report: mine; predicted: fp16 AMP" in str(how)
    assert NOWHERE in found.tables[0].origins


@pictured()
def test_picture_of_the_a100() -> Figure:
    return figure(section(subject(A100)), "accuracy-fp16")


@pictured(narrow=True)
def test_picture_of_the_a100_by_size_on_a_phone() -> Figure:
    return figure(section(subject(A100)), "accuracy-fp16-size")


@pictured()
def test_picture_of_measured_rows() -> Figure:
    rows = (products(12, off=1.15), products(9, off=0.95, fitted=True, mode="warm"))
    return figure(section(with_products(*rows)), "accuracy-measured")


@pictured(narrow=True)
def test_picture_of_borrowed_errors_on_a_phone() -> Figure:
    return figure(section(subject("rtx-4090")), "accuracy-borrowed")
