from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bench.calibration import (
    CONVOLUTIONS,
    GEMMS,
    calibration_cases,
    convolution_shapes,
    gemm_shapes,
    nearest_unused,
    recurrence,
    replay_gemm,
    spread,
)
from bench.suites import SUITES, SuiteOptions


def test_a_calibration_is_a_hundred_products_and_forty_convolutions_each_once() -> None:
    options = SuiteOptions(quick=True, capability=(9, 0), sms=132)
    products, convolved = (calibration_cases(suite, options) for suite in ("gemm", "conv"))
    assert (len({case.key for case in products}), len({case.key for case in convolved})) == (GEMMS, CONVOLUTIONS)
    assert {case.params["pass"] for case in convolved} == {"forward", "dgrad", "wgrad"}


def test_the_suites_measure_the_calibration_when_asked_to_be_quick() -> None:
    import importlib

    for suite, count in (("gemm", GEMMS), ("conv", CONVOLUTIONS)):
        tiers = importlib.import_module(SUITES[suite]).cases(SuiteOptions(quick=True))
        assert sum(map(len, tiers)) == count


def test_products_lie_on_tile_edges_one_past_them_and_between_with_aligned_weights() -> None:
    shapes = np.array(gemm_shapes())
    m, n, k = shapes[shapes[:, 0] >= 128].T
    assert np.all(n % 64 == 0) and np.all(k % 64 == 0)
    assert min((m % 256 == 0).sum(), (m % 256 == 1).sum(), (m % 2 == 0).sum() - (m % 256 == 0).sum()) > 10


def test_the_smallest_products_reach_every_corner_of_the_range() -> None:
    logs = np.log2(np.array(gemm_shapes(), dtype=float))[:96]
    middle = np.median(logs, axis=0)
    corners = {tuple(row) for row in (logs > middle).tolist()}
    assert len(corners) == 8


def test_a_stem_has_no_data_gradient() -> None:
    assert {pass_ for sizes, pass_ in convolution_shapes() if sizes["c_in"] == 3} == {"forward", "wgrad"}


def test_the_recurrence_fills_the_square_evenly() -> None:
    """64 points, 16 equal cells: four in each, give or take two; chance would leave some cell with none or one."""
    cells = np.floor(4 * recurrence(64, 2)).astype(int)
    counts = np.bincount(4 * cells[:, 0] + cells[:, 1], minlength=16)
    assert counts.min() >= 2 and counts.max() <= 6


def test_each_target_takes_the_nearest_point_that_is_still_free() -> None:
    points = np.array([[0.0], [1.0], [5.0]])
    assert nearest_unused(np.array([[0.4], [0.4], [0.4]]), points) == [0, 1, 2]


def test_spread_takes_crowded_sizes_as_often_as_they_are() -> None:
    points = np.log2(np.r_[np.linspace(1, 2, 900), np.linspace(1000, 1001, 100)])[:, None]
    chosen = np.array(spread(points, 50))
    assert 3 <= (chosen >= 900).sum() <= 7


def test_the_choice_for_a_replay_is_of_sizes_alone_and_never_twice_the_same() -> None:
    m, n, k = np.meshgrid([128, 256, 257, 1024, 4096], [256, 1024, 4096], [256, 1024, 8192])
    grid = np.column_stack([m.ravel(), n.ravel(), k.ravel()])
    chosen = replay_gemm(grid, 40)
    assert len(set(chosen)) == 40


def test_an_unknown_suite_has_no_calibration() -> None:
    with pytest.raises(ValueError, match="waves"):
        calibration_cases("waves", SuiteOptions())


def test_choosing_needs_nothing_but_numpy_and_the_standard_library() -> None:
    code = (
        "import sys; from bench.calibration import calibration_cases; from bench.suites import SuiteOptions;"
        "[calibration_cases(s, SuiteOptions()) for s in ('gemm', 'conv')];"
        "print([m for m in ('msgspec', 'click', 'scipy', 'numba', 'torch', 'platformdirs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
