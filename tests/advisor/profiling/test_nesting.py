from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from advisor.profiling.linking.nesting import innermost_around, latest_before, nearest_flagged, topmost_flagged

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(0, 1), st.booleans()), max_size=20)


@given(RANGES)
def test_innermost_around_is_a_running_range_of_the_thread_and_no_leaf(rows: list[tuple[int, int, int, bool]]) -> None:
    start, duration, thread = (np.array([row[i] for row in rows], dtype=float) for i in range(3))
    leaf = np.array([row[3] for row in rows], dtype=bool)

    parent = innermost_around(start, duration, thread.astype(np.int64), leaf)

    for i, j in enumerate(parent.tolist()):
        around = [
            k for k in range(len(rows))
            if k != i and not leaf[k] and thread[k] == thread[i] and start[k] < start[i] < start[k] + duration[k]
        ]  # fmt: skip
        if j >= 0:
            assert not leaf[j] and thread[j] == thread[i] and start[j] <= start[i] < start[j] + duration[j]
        assert j >= 0 or not around
        if around and start[j] < start[i]:
            assert start[j] == max(start[k] for k in around)


PARENTS = st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=40)


@given(PARENTS)
def test_nearest_and_topmost_flagged_are_those_of_a_walk_upwards(rows: list[tuple[int, bool]]) -> None:
    parent = np.array([number % (i + 1) - 1 for i, (number, _) in enumerate(rows)])
    flagged = np.array([flag for _, flag in rows])

    nearest, topmost = nearest_flagged(parent, flagged), topmost_flagged(parent, flagged)

    for i in range(len(rows)):
        chain = [i]
        while parent[chain[-1]] >= 0:
            chain.append(int(parent[chain[-1]]))
        told = [j for j in chain if flagged[j]]
        assert (nearest[i], topmost[i]) == ((told[0], told[-1]) if told else (-1, -1))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=20),
)
def test_latest_before_is_the_last_with_the_key(given_: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([r[0] for r in rows], dtype=np.int64), np.array([r[1] for r in rows], dtype=float)

    found = latest_before(*columns(given_), *columns(asked))

    for (key, at), row in zip(asked, found.tolist(), strict=True):
        times = [time for k, time in given_ if k == key and time <= at]
        assert (row < 0) == (not times)
        if times:
            assert given_[row] == (key, max(times))


def test_what_starts_as_another_ends_is_not_inside_though_the_sum_of_start_and_duration_passes_it() -> None:
    start, duration = np.array([1000.1, 1000.3]), np.array([0.2, 5.0])
    assert start[0] + duration[0] > start[1]  # 1000.3000000000001

    parent = innermost_around(start, duration, np.zeros(2, dtype=np.int64), np.zeros(2, dtype=bool))

    assert parent.tolist() == [-1, -1]
