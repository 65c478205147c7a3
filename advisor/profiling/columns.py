"""Columns that grow by chunks of rows: numbers only, no Python object kept per event."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from advisor.profiling.raw import Floats, Ints

_EXACT = 2.0**53  # beyond it a float64 skips whole numbers


class Columns:
    """Rows of one kind of event. The first three columns are name, start and duration (us)."""

    def __init__(self, width: int, *, timed: bool = True) -> None:
        self._width = width
        self._timed = timed
        self._chunks: list[Floats] = []
        self.rows = 0
        self.without_time = 0  # left out: start or duration absent, not finite, or beyond 2^53
        self.negative = 0  # durations clipped to 0

    def extend(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows of numbers, text of numbers, or None; anything else becomes NaN."""
        if not rows:
            return
        try:
            chunk = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            chunk = np.array([[_number(value) for value in row] for row in rows], dtype=np.float64)
        chunk = self._checked(chunk)
        self.rows += len(chunk)
        self._chunks.append(chunk)

    def _checked(self, chunk: Floats) -> Floats:
        start = chunk[:, 1]
        usable = np.abs(start) <= _EXACT  # False for NaN
        if self._timed:
            duration = chunk[:, 2]
            usable &= np.abs(duration) <= _EXACT
            negative = usable & (duration < 0)
            self.negative += int(np.count_nonzero(negative))
            duration[negative] = 0.0
        if usable.all():
            return chunk
        self.without_time += int(np.count_nonzero(~usable))
        return chunk[usable]

    def earliest(self) -> float:
        """Return the least start, infinity where there is no row."""
        return min((float(chunk[:, 1].min()) for chunk in self._chunks if len(chunk)), default=math.inf)

    def sorted_by_start(self) -> tuple[Callable[[int], Floats], Callable[[int], Ints]]:
        """Return two getters of a column in order of start, longer first at equal starts: as floats, as integers."""
        order = np.lexsort((-self._floats(2), self._floats(1)))
        return (lambda k: self._floats(k)[order]), (lambda k: _whole(self._floats(k)[order]))

    def as_read(self) -> tuple[Callable[[int], Floats], Callable[[int], Ints]]:
        """Return the same getters in the file's order."""
        return self._floats, lambda k: _whole(self._floats(k))

    def _floats(self, column: int) -> Floats:
        if not self._chunks:
            return np.empty(0)
        return np.concatenate([chunk[:, column] for chunk in self._chunks])


def _whole(values: Floats) -> Ints:
    """Return integers, -1 where the value is absent or beyond what a float64 tells apart."""
    told = np.abs(values) <= _EXACT
    return np.where(told, values, -1.0).astype(np.int64)


def _number(value: object) -> float:
    if not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
