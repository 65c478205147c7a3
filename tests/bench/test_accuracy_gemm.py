from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from advisor.gpus import find_gpu
from advisor.profile import load_profile
from bench.accuracy import SECTIONS, assemble, read_sections
from bench.accuracy.gemm import HeldOut, cliffs, fitted_roofline, grids, log_linear_lookup, regret
from bench.gemm_data import Table
from tests.data import measured

A100 = find_gpu("a100-sxm4-80gb")
PAIRS = np.array([[1024.0, 1024], [2048, 2048]])


def held(time_s: list[list[float]], log_ratio: list[list[float]], repeats: list[list[float]] | None = None) -> HeldOut:
    repeats_s = np.array([repeats]) if repeats else np.ones((0, 4, 2))
    table = Table(np.array([256.0, 257, 512, 513]), PAIRS, np.array(time_s), repeats_s)
    ratio = np.array(log_ratio)
    return HeldOut(table, A100, load_profile(A100).gemm["fp16"].coefficients, *([ratio] * 6))


TIMES = [[1e-3, 1e-3], [1.2e-3, 1e-3], [1e-3, 1e-3], [1.11e-3, 1.5e-3]]  # cliffs: x1.2, x1.5; x1.11 is in the band


def test_a_perfect_prediction_finds_every_cliff() -> None:
    assert cliffs(held(TIMES, [[0.0, 0]] * 4), np.zeros((4, 2))) == (3, 2, "1.00", "1.00")


def test_without_the_band_the_near_miss_counts() -> None:
    assert cliffs(held(TIMES, [[0.0, 0]] * 4), np.zeros((4, 2)), band=False) == (4, 3, "1.00", "1.00")


def test_a_missed_cliff_costs_recall_and_a_false_one_precision() -> None:
    ratio = np.zeros((4, 2))
    ratio[1, 0] = np.log(1 / 1.2)  # the cliff at 256, first pair: predicted as none
    ratio[1, 1] = np.log(1.3)  # none at 256, second pair: predicted as one
    assert cliffs(held(TIMES, [[0.0, 0]] * 4), ratio) == (3, 2, "0.50", "0.50")


def test_pairs_on_which_other_software_disagrees_do_not_count() -> None:
    flat = [[1e-3, 1e-3]] * 4
    assert cliffs(held(TIMES, [[0.0, 0]] * 4, flat), np.zeros((4, 2)))[:2] == (1, 0)


def test_regret_is_the_throughput_lost_by_the_choice() -> None:
    """Caps of 512 and 513 only reach m = 256 ... 513; 512 is best, 513 takes 1.5 times as long."""
    t = Table(np.array([256.0, 512, 513]), PAIRS[:1], np.array([[1.0], [1.0], [1.5]]), np.ones((0, 3, 1)))
    sizes = replace(t, m=np.array([256.0, 512, 513]))
    import bench.accuracy.gemm as report

    saved, report.CAPS = report.CAPS, (513,)
    try:
        ours, largest, power = regret(sizes, sizes.time_s, sizes.time_s)
    finally:
        report.CAPS = saved
    assert (ours, power) == ("0.00", "0.00")
    assert float(largest) == pytest.approx(100 * (1 - 513 / 1.5 / 512), abs=0.01)


def test_the_roofline_recovers_a_roofline() -> None:
    m, pairs = np.array([256.0, 1024, 4096]), np.array([(n, k) for n in (512.0, 4096) for k in (512.0, 4096)])
    n, k = pairs.T
    flops, bytes_ = 2 * m[:, None] * n * k, 2 * (m[:, None] * (n + k) + n * k)
    time_s = 20e-6 + np.maximum(flops / (0.6 * 312e12), bytes_ / (0.5 * 2.039e12))
    table = Table(m, pairs, time_s, np.ones((0, 3, 4)))
    assert np.abs(fitted_roofline(table, A100, np.ones(4, dtype=bool))).max() < 0.02


def test_the_lookup_is_exact_for_a_power_law() -> None:
    pairs = np.array([(n, k) for n in (256.0, 512, 1024, 2048) for k in (256.0, 512, 1024, 2048)])
    time_s = 1e-9 * np.array([[256.0], [512]]) * pairs[:, 0] ** 0.9 * pairs[:, 1] ** 1.1
    seen = np.arange(16) != 5
    assert log_linear_lookup(Table(np.array([256.0, 512]), pairs, time_s, np.ones((0, 2, 16))), seen) == pytest.approx(
        0
    )


def test_tile_counts_are_the_grids_that_the_driver_saw() -> None:
    checked, equal = grids(measured("neusight-fp32").parent)
    assert checked > 30_000
    assert equal > 0.9


def test_a_section_that_is_not_regenerated_keeps_its_text() -> None:
    texts = {name: f"## {name}\nsome\n\ntext" for name in SECTIONS}
    assert read_sections(assemble(texts)) == texts
    assert read_sections("") == {}
