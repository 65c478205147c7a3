from __future__ import annotations

import numpy as np
import pytest

from advisor.report.records import Cell, Figure, Origin, Table
from advisor.report.sections.alignment import section
from advisor.report.strips import odd_rows, strip
from advisor.report.subject import MeasuredProducts
from tests.advisor.report.products import aiconfigurator, alignment_sweeps, as_products, subject_of
from tests.pictures import pictured

HERE = Origin("measured here", "made up for this test")
# TFLOP/s by alignment in bytes; made up, near those of an A100
LEVELS = {2: 72, 4: 140, 8: 142, 16: 226, 32: 240, 64: 245, 128: 256}


def levels_at(axis: str) -> MeasuredProducts:
    """Every size of one axis around 8192 x 51200 x 14336, at the rate that LEVELS gives its alignment."""
    base = {"m": 8192, "n": 51200, "k": 14336}
    around = np.arange(base[axis] - 64, base[axis] + 65)
    sizes = np.column_stack([around if name == axis else np.full(129, base[name]) for name in "mnk"])
    rates = [LEVELS[min(int(2 * size) & -int(2 * size), 128)] for size in around]
    return as_products(sizes, 2 * sizes.prod(axis=1) / (np.array(rates) * 1e12), "fp16", HERE, fitted=False)


def shares(table: Table, dimension: str, key: str) -> dict[Cell, Cell]:
    """A column of the table by alignment in bytes."""
    at = [column.key for column in table.columns].index(key)
    return {row[1]: row[at] for row in table.rows if row[0] == dimension}


def test_sizes_are_counted_by_the_largest_power_of_two_in_their_rows_bytes() -> None:
    """Of 129 sizes around a multiple of 64 half are odd, a quarter 2 mod 4, ..., and three are multiples of 64."""
    found = strip(subject_of("a100"), "k").shares()
    assert {alignment: count for alignment, (count, _) in found.items()} == {
        2: 64, 4: 32, 8: 16, 16: 8, 32: 4, 64: 2, 128: 3,
    }  # fmt: skip


def test_k_and_n_must_be_aligned_and_m_need_not() -> None:
    (table,) = section(subject_of("a100")).tables
    for dimension in "KN":
        predicted = shares(table, dimension, "predicted_share")
        assert predicted[2] == pytest.approx(0.3, abs=0.05)
        assert predicted[4] == pytest.approx(predicted[8]) == pytest.approx(0.68, abs=0.05)
        assert predicted[16] == pytest.approx(1, abs=0.01)
    assert shares(table, "M", "predicted_share")[2] == pytest.approx(1, abs=0.01)


def test_measured_shares_are_medians_over_the_rate_at_multiples_of_64() -> None:
    (table,) = section(subject_of("a100", levels_at("n"))).tables
    measured = shares(table, "N", "measured_share")
    assert measured == pytest.approx({alignment: level / 256 for alignment, level in LEVELS.items()})
    assert set(shares(table, "K", "measured_share").values()) == {None}  # the base alone, of which 100 % tells nothing


def test_the_answers_give_predicted_and_measured_shares() -> None:
    k, n, m = section(subject_of("a100", levels_at("n"))).figures
    assert "measured" not in k.answer
    # measured: 72, 140 and 226 of 256 TFLOP/s
    assert n.answer == (
        "Yes: of the rate at multiples of 64, 31 % (measured: 28 %) is left at an odd N, 65 % (measured: 55 %) at an "
        "even one, and 100 % (measured: 88 %) at a multiple of 8."
    )
    assert m.answer.startswith("No. The batch is contiguous in no operand of row-major linear layers")
    assert "an odd batch costs tiles and waves, never Tensor Cores" in m.answer


def test_odd_rows_are_pairs_of_m_and_m_plus_1_of_one_aligned_product() -> None:
    rows = np.array([
        (2048, 4096, 4096), (2049, 4096, 4096),  # counts: 1.1 / 1.0
        (4096, 4096, 4096), (4097, 4096, 4096),  # counts: 2.6 / 2.0
        (1024, 4096, 4096), (1025, 4096, 4096),  # fewer than 2048 rows
        (2049, 512, 4096), (2050, 512, 4096),  # the second is even
        (2048, 512, 4095), (2049, 512, 4095),  # K is odd itself
        (2048, 512, 1024), (2049, 512, 2048),  # two products
    ])  # fmt: skip
    time_s = np.array([1.0, 1.1, 2.0, 2.6, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0])
    mixed = np.random.default_rng(0).permutation(len(rows))
    one = as_products(rows[mixed], time_s[mixed], "bf16", HERE, fitted=False)
    assert odd_rows([one]) == (2, pytest.approx(1.2))  # the median of 1.1 and 1.3
    other = as_products(rows[mixed], time_s[mixed], "fp32", HERE, fitted=False)
    assert odd_rows([other]) is None


@pytest.mark.parametrize("gpu", ["p100-pcie-16gb", "gt 710", "gtx 1080 ti"])
def test_a_card_without_tensor_cores_has_nothing_to_align(gpu: str) -> None:
    found = section(subject_of(gpu))
    assert "it has no Tensor Cores for FP16" in found.lead
    assert found.figures == found.tables == ()


@pytest.mark.parametrize("gpu", ["v100", "t4", "h100", "rtx 4090"])
def test_other_cards_take_the_a100s_shares_and_say_so(gpu: str) -> None:
    found = section(subject_of(gpu))
    assert any("assumed of every other GPU" in note for note in found.notes)
    odd = shares(found.tables[0], "K", "predicted_share")[2]
    assert isinstance(odd, float)
    assert 0.2 < odd < 0.5


def test_every_point_has_its_facts_and_its_alignment() -> None:
    for figure in section(subject_of("a100", levels_at("n"))).figures:
        assert figure.interactive is not None
        for series in figure.interactive.series:
            assert {len(fact.values) for fact in series.facts} == {len(series.x)} == {len(series.y)}
            aligned = next(fact.values for fact in series.facts if fact.name == "rows aligned to")
            assert list(aligned) == [min(int(2 * x) & -int(2 * x), 128) for x in series.x]


def test_two_tables_of_one_source_are_one_series() -> None:
    figure = section(subject_of("a100", levels_at("n"), levels_at("k"))).figures[2]  # each has the base, at M = 8192
    assert figure.interactive is not None
    series = {each.name: each for each in figure.interactive.series}
    assert len(series) == len(figure.interactive.series)
    assert series["measured: cuBLAS, FP16"].x == (8192, 8192)
    assert {len(fact.values) for fact in series["measured: cuBLAS, FP16"].facts} == {2}


# Public measurements -------------------------------------------------------------------------------------------------


def test_on_an_a100_unaligned_sizes_were_measured_as_slow_as_stated() -> None:
    """EleutherAI: contraction odd 72, 2 or 4 173, from 8 on 256 TFLOP/s; output odd 74, 138, 8 226, 64 256."""
    (table,) = section(subject_of("a100", alignment_sweeps())).tables
    contraction, output = (shares(table, dimension, "measured_share") for dimension in "KN")
    assert contraction[2] == pytest.approx(72 / 256, abs=0.01)
    assert (contraction[4], contraction[8]) == pytest.approx((173 / 256,) * 2, abs=0.01)
    assert contraction[16] == pytest.approx(1, abs=0.02)
    assert output[2] == pytest.approx(74 / 256, abs=0.01)
    assert (output[4], output[8]) == pytest.approx((138 / 256,) * 2, abs=0.01)
    assert output[16] == pytest.approx(226 / 256, abs=0.01)


@pytest.mark.parametrize(("table", "ratio"), [("a100_sxm4_80gb", 1.03), ("h200_sxm", 1.00)])
def test_an_odd_row_more_was_measured_to_cost_next_to_nothing(table: str, ratio: float) -> None:
    found = odd_rows([aiconfigurator(table)])
    assert found is not None
    pairs, median = found
    assert pairs > 1000
    assert median == pytest.approx(ratio, abs=0.015)


# Pictures ------------------------------------------------------------------------------------------------------------


@pictured()
def test_alignment_of_n() -> Figure:
    return section(subject_of("a100", levels_at("n"))).figures[1]


@pictured(narrow=True)
def test_alignment_of_k_on_a_phone() -> Figure:
    return section(subject_of("v100")).figures[0]


@pictured()
def test_no_alignment_of_m() -> Figure:
    return section(subject_of("a100")).figures[2]
