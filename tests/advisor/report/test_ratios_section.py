"""Our kernels against the libraries in a report. Every pair here is made up."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from advisor.plots.ratios import means_by_size
from advisor.report.records import Figure, Origin, Section
from advisor.report.sections import ratios
from advisor.report.sections.ratios import section
from advisor.report.subject import Measured, MeasuredPair
from tests.advisor.report.subjects import subject
from tests.pictures import pictured

HERE = Origin("measured here", "made up for this test")


def pair(ratio: float, *, group: str = "gemm forward fp16 cold", m: int = 512, library: str = "cublas") -> MeasuredPair:
    kind, _, told = group.partition(" ")
    flops = 2.0 * m * 4096 * 4096
    return MeasuredPair(f"{kind} {m}x4096x4096 {told} triton", group, library, ratio * 1e-4, 1e-4, ratio, flops)


def made_up(count: int = 40) -> tuple[MeasuredPair, ...]:
    """Log-normal ratios about a mean per group, better for larger products."""
    drawn = random.Random(1)
    means = {
        "gemm forward fp16 cold": 1.0, "gemm forward bf16 cold": 0.98, "gemm dgrad fp16 cold": 0.93,
        "gemm wgrad fp16 cold": 0.88, "conv forward fp16 nhwc cold": 0.8, "conv dgrad fp16 nhwc cold": 0.55,
        "conv wgrad fp16 nhwc cold": 0.7,
    }  # fmt: skip
    return tuple(
        pair(mean * drawn.lognormvariate(0.03 * math.log2(m / 512), 0.15), group=group, m=m,
             library="cublas" if group.startswith("gemm") else "cudnn")
        for group, mean in means.items()
        for m in (round(2 ** drawn.uniform(3, 14)) for _ in range(count))
    )  # fmt: skip


def shown(*pairs: MeasuredPair, gpu: str = "a100", conditions: dict[str, str] | None = None) -> Section | None:
    return section(subject(gpu, measured=Measured(pairs=pairs, pairs_origin=HERE, conditions=conditions)))


def some(*pairs: MeasuredPair, gpu: str = "a100") -> Section:
    found = shown(*pairs, gpu=gpu)
    assert found is not None
    return found


def test_nothing_measured_is_no_section() -> None:
    assert section(subject("a100")) is None


@pytest.mark.parametrize("gpu", ["v100-sxm2-16gb", "t4"])
def test_before_compute_capability_8_it_says_that_triton_misses_the_tensor_cores(gpu: str) -> None:
    empty = section(subject(gpu))
    assert empty is not None and not empty.figures
    assert "emits no matrix instruction" in empty.lead and "FP32 units" in empty.lead
    assert "advisor bench --suite gemm,conv" in empty.notes[0]
    measured = shown(pair(0.2), gpu=gpu, conditions={"Triton": "3.9.0"})
    assert measured is not None and "Triton 3.9.0 emits no matrix instruction" in measured.lead
    assert "matrix instruction" not in some(pair(0.9)).lead


def test_the_answer_is_the_geometric_mean_and_the_share_that_is_ahead() -> None:
    """sqrt(2 * 1/2) = 1 forward; of all four the fourth root of 2 * 1/2 * 1/4 * 1/4 = 1/2."""
    wgrad = [pair(0.25, group="gemm wgrad fp16 cold", m=m) for m in (8, 16)]
    answer = some(pair(2.0), pair(0.5), *wgrad).figures[0].answer
    assert "0.50 times the speed of cuBLAS in the geometric mean of 4 cases" in answer and "faster in 25 %" in answer
    assert "from 0.25 in gemm wgrad fp16 cold, cuBLAS to 1.00 in gemm forward fp16 cold, cuBLAS" in answer


def test_cases_of_one_size_have_no_figure_by_size_and_those_of_two_are_told_apart_between_them() -> None:
    assert [figure.id for figure in some(pair(0.5), pair(0.5), pair(2.0)).figures] == ["ratio-groups"]
    answer = some(pair(0.5, m=8), pair(0.5, m=8), pair(0.5, m=8), pair(2.0, m=512)).figures[1].answer
    assert "Below 17.2 GFLOP ours run at 0.50 times" in answer  # 2 x 512 x 4096 x 4096
    assert "at 2.00 times (geometric means of 3 and 1 cases)" in answer


def test_a_group_is_summed_up_in_its_row() -> None:
    table = some(pair(1.0), pair(2.0), pair(4.0)).tables[0]
    (row,) = table.rows
    assert row == ("gemm forward fp16 cold", "cuBLAS", 3, pytest.approx(2.0), 1.0, 1.5, 3.0, 4.0, pytest.approx(2 / 3))


def test_the_table_begins_with_the_ten_best_and_the_ten_worst_and_holds_every_case() -> None:
    table = some(*(pair(ratio, m=ratio) for ratio in range(1, 31))).tables[1]
    ratios_ = [row[4] for row in table.rows]
    assert ratios_[:20] == [*range(30, 20, -1), *range(10, 0, -1)] and sorted(ratios_) == list(range(1, 31))
    assert table.shown == 20 and table.rows[0][0] == "gemm 30x4096x4096 forward fp16 cold"


def test_the_ratio_over_size_is_answered_by_halves_and_hovering_names_the_case() -> None:
    """Halves of 2 pairs each: below and from M = 256, 2 * 256 * 4096^2 = 8.59 GFLOP."""
    figure = some(pair(0.5, m=64), pair(0.5, m=128), pair(2.0, m=256), pair(2.0, m=512)).figures[1]
    assert "Below 8.59 GFLOP ours run at 0.50 times" in figure.answer and "at 2.00 times" in figure.answer
    assert figure.interactive is not None
    series, means = figure.interactive.series
    assert means.y == pytest.approx((0.5, 1.0, 2.0))  # 2^31 FLOP are in 4^15, 2^32 and 2^33 in 4^16, 2^34 in 4^17
    facts = {fact.name: fact.values[0] for fact in series.facts}
    assert facts == {
        "case": "gemm 64x4096x4096 forward fp16 cold", "library": "50.0 us", "ours": "100 us", "ratio": 0.5,
    }  # fmt: skip


def test_pairs_without_flop_are_in_the_groups_alone() -> None:
    found = some(*(replace(each, flops=math.nan) for each in made_up(3)))
    assert [figure.id for figure in found.figures] == ["ratio-groups"] and found.tables[1].rows[0][5] is None


def test_means_by_size_are_geometric_within_powers_of_four() -> None:
    flops, ratio = np.array([4.0, 4.0, 15.9, 16.0, np.nan]), np.array([1.0, 8.0, 1.0, 3.0, 100.0])
    middle, mean = means_by_size(flops, ratio)
    assert mean == pytest.approx([2.0, 3.0]) and middle == pytest.approx([(4 * 4 * 15.9) ** (1 / 3), 16.0])


def test_very_many_pairs_are_thinned_evenly_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratios, "MOST_INTERACTIVE", 70)
    monkeypatch.setattr(ratios, "MOST_DRAWN", 140)
    found = some(*made_up(40))
    interactive = found.figures[1].interactive
    assert interactive is not None
    points = [len(series.x) for series in interactive.series]
    assert points == [10, 10, 10, 10, 20, 10, 6]  # two groups of gemm forward; means of 4^14 to 4^19 FLOP
    assert "Of 280 cases the figures show 140" in found.notes[0]
    assert len(found.tables[1].rows) == 280


@pictured()
def test_ratios_by_group() -> Figure:
    return some(*made_up()).figures[0]


@pictured(narrow=True)
def test_ratios_by_group_on_a_phone() -> Figure:
    return some(*made_up()).figures[0]


@pictured()
def test_ratios_by_size() -> Figure:
    return some(*made_up()).figures[1]


@pictured(narrow=True)
def test_ratios_by_size_on_a_phone() -> Figure:
    return some(*made_up()).figures[1]
