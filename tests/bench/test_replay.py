from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.accuracy.calibration import WITHIN, replay_convolutions, replay_products
from bench.case import METHOD_VERSION
from bench.gemm_data import ORIGIN
from bench.replay import (
    calibration_of,
    deepbench_convolution_rows,
    gemm_rows,
    neusight_convolution_rows,
)
from tests.data import measured


def folder(name: str) -> Path:
    return measured(name).parent


def test_a_replayed_row_says_where_it_comes_from_and_keeps_the_tables_time() -> None:
    rows = gemm_rows(folder("aiconfigurator-gemm"), "h200")
    first = rows[0]
    assert first.environment["replay_of"] == ORIGIN
    assert first.environment["method_version"] == METHOD_VERSION
    assert {name: first.case.params[name] for name in ("m", "n", "k")} == {"m": 1, "n": 32, "k": 32}
    assert first.result.timing is not None
    assert first.result.timing.samples_s == pytest.approx((2.53067e-6,))  # the file's first line, in seconds


def test_the_calibration_of_a_replay_does_not_depend_on_the_times() -> None:
    data = folder("aiconfigurator-gemm")
    chosen = [[row.case.key for row in calibration_of(gemm_rows(data, name))[0]] for name in ("h200", "l40s")]
    assert chosen[0] == chosen[1]  # one grid, other times
    assert len(set(chosen[0])) == 100


def test_deepbench_has_one_row_per_pass_that_ran_of_layers_with_square_strides() -> None:
    rows = deepbench_convolution_rows(folder("deepbench"))
    passes = [row.case.params["pass"] for row in rows]
    assert passes.count("forward") == passes.count("wgrad") > passes.count("dgrad") > 0
    few, rest = calibration_of(rows)
    assert (len(few), len(few) + len(rest)) == (40, len(rows))
    assert [sum(row.case.params["pass"] == name for row in few) for name in ("forward", "dgrad", "wgrad")] == [
        14,
        13,
        13,
    ]


def test_launches_are_taken_off_neusights_convolutions_and_short_calls_left_out() -> None:
    rows = neusight_convolution_rows(folder("neusight-fp32"), "Tesla T4")
    times = np.array([row.result.timing.median_s for row in rows if row.result.timing])
    floor = 0.0661547e-3  # the shortest call of the file
    assert times.min() > 2 * floor - 1e-9
    assert len(rows) > 4500


def test_a_hundred_products_of_a_gpu_beat_the_profile_without_it_on_unseen_shapes() -> None:
    """H200, of which H100 is kin, and A100, which has none; the report holds the others.

    The full fit's error on the same rows is reports/ACCURACY.md's, which this does not fit again: 3.8 % for H200. A100
    misses the aim (1.38), as the report says.
    """
    data = folder("aiconfigurator-gemm")
    for name, share in (("a100-sxm4-80gb", 0.3), ("h200", 0.75)):
        found = replay_products(data, name, full=False)
        assert found.measured == 100
        assert found.calibrated.mean < share * found.without.mean
    assert found.calibrated.mean <= WITHIN * 0.038


def test_forty_convolutions_of_a_v100_beat_the_profile_without_it_on_unseen_layers() -> None:
    found = replay_convolutions(deepbench_convolution_rows(folder("deepbench")), "fp16")
    assert found.calibrated.mean < 0.5 * found.without.mean
    assert found.ratio is not None
    assert found.ratio <= WITHIN


def test_forty_convolutions_of_a_t4_beat_the_profile_without_it_on_unseen_layers() -> None:
    rows = neusight_convolution_rows(folder("neusight-fp32"), "Tesla T4")
    found = replay_convolutions(rows, "fp32", full=False)
    assert found.calibrated.mean < 0.75 * found.without.mean
