from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor import choice

BATCHES = np.array([1, 2, 3, 4, 5])
SPEED = np.array([50.0, 90.0, 98.0, 97.0, 100.0])
ALL = np.ones(5, dtype=bool)


def test_the_fastest_is_taken_from_those_that_fit() -> None:
    fits = np.array([True, True, True, True, False])
    assert choice.fastest(SPEED, fits) == 2


def test_the_fastest_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch size"):
        choice.fastest(SPEED, ~ALL)


def test_the_knee_is_the_smallest_within_the_tolerance_of_the_fastest() -> None:
    assert choice.knee(SPEED, ALL, tolerance=0.03) == 2  # 98 of 100
    assert choice.knee(SPEED, ALL, tolerance=0.01) == 4
    assert choice.knee(SPEED, ALL, tolerance=0.10) == 1


def test_a_cliff_is_a_step_of_one_sample_that_loses_throughput() -> None:
    (cliff,) = choice.cliffs(BATCHES, SPEED)
    assert (cliff.under, cliff.over) == (3, 4)
    assert cliff.loss == pytest.approx(1 / 98)


def test_a_gap_between_two_sizes_is_no_cliff() -> None:
    assert choice.cliffs(np.array([10, 20]), np.array([100.0, 50.0])) == []


@pytest.mark.parametrize(("limit", "power"), [(1, 1), (255, 128), (256, 256), (257, 256)])
def test_largest_power_of_two(limit: int, power: int) -> None:
    assert choice.largest_power_of_two(limit) == power


def test_two_per_cent_apart_is_a_tie_and_three_is_not() -> None:
    assert choice.tied(100.0, 98.0)
    assert not choice.tied(97.0, 100.0)


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50),
    st.floats(0, 0.5),
)
def test_the_knee_is_never_larger_than_the_fastest_and_never_slower_than_allowed(
    speeds: list[float], tolerance: float
) -> None:
    speed, fits = np.array(speeds), np.ones(len(speeds), dtype=bool)
    knee, fastest = choice.knee(speed, fits, tolerance), choice.fastest(speed, fits)
    assert knee <= fastest
    assert speed[knee] >= (1 - tolerance) * speed[fastest]
