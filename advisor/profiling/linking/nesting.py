"""Which range of a thread lies in which, and the like: index arithmetic over sorted columns, millions of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.raw import Floats, Ints

_HALF_A_NANOSECOND_US = 5e-4


def innermost_around(start: Floats, duration: Floats, thread: Ints, leaf: NDArray[np.bool_]) -> Ints:
    """For every row the innermost range (no leaf) of its thread that is running when it starts; -1: none.

    A range contains what starts in [start, start + duration), to a nanosecond: sums of decimals are not exact, and what
    starts as another ends is not inside. Among equal starts the longer one is outer, and leaves come last. One pass
    with a stack per thread: linear after the sort, whatever the depth.
    """
    order = np.lexsort((-duration, leaf, start, thread))
    rows: list[int] = order.tolist()
    starts: list[float] = start[order].tolist()
    ends: list[float] = (start + duration - _HALF_A_NANOSECOND_US)[order].tolist()
    threads: list[int] = thread[order].tolist()
    leaves: list[bool] = leaf[order].tolist()
    found = [-1] * len(rows)
    open_rows: list[int] = []
    open_ends: list[float] = []
    current = None
    for i, begin in enumerate(starts):
        if threads[i] != current:
            current = threads[i]
            open_rows.clear()
            open_ends.clear()
        while open_ends and open_ends[-1] <= begin:
            open_ends.pop()
            open_rows.pop()
        if open_rows:
            found[i] = open_rows[-1]
        if not leaves[i]:
            open_rows.append(rows[i])
            open_ends.append(ends[i])
    parent = np.empty(len(rows), dtype=np.int64)
    parent[order] = found
    return parent


def nearest_flagged(parent: Ints, flagged: NDArray[np.bool_]) -> Ints:
    """For every row itself or its nearest ancestor that is flagged; -1: none. Pointer doubling: log2(depth) rounds."""
    step = np.where(flagged, np.arange(len(parent)), parent)
    while True:
        further = follow(step, step)
        if np.array_equal(further, step):
            return step
        step = further


def topmost_flagged(parent: Ints, flagged: NDArray[np.bool_]) -> Ints:
    """For every row the outermost among itself and its ancestors that is flagged; -1: none."""
    nearest = nearest_flagged(parent, flagged)
    above = follow(nearest, parent)  # nearest flagged strictly above each flagged row
    step = np.where(flagged & (above >= 0), above, np.arange(len(parent)))
    while True:
        further = step[step]
        if np.array_equal(further, step):
            return follow(step, nearest)
        step = further


def latest_before(keys: Ints, times: Floats, wanted: Ints, at: Floats) -> Ints:
    """For every wanted key the row of `keys` with that key and the latest time not after `at`; -1: none.

    Where all rows with that key come later, -1 as well.
    """
    count = len(keys)
    key, time = np.concatenate([keys, wanted]), np.concatenate([times, at])
    asks = np.arange(len(key)) >= count
    order = np.lexsort((asks, time, key))
    given = np.where(asks[order], -1, np.arange(len(order)))
    last = np.maximum.accumulate(given) if len(given) else given  # position of the last row at or before each
    row = follow(order, last)
    found = np.full(len(key), -1, dtype=np.int64)
    found[order] = np.where((row >= 0) & (follow(key, row) == key[order]), row, -1)
    return found[count:]


def follow(values: Ints, index: Ints) -> Ints:
    """values[index], and -1 where the index is -1."""
    if not len(values):
        return np.full(len(index), -1, dtype=np.int64)
    return np.where(index >= 0, values[np.maximum(index, 0)], -1)
