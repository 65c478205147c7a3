"""Columns that grow by chunks of rows: numbers only, no Python object kept per event."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from advisor.profiling.raw import Copies, Floats, Ints, Kernels, Launches, Marks, MemoryEvents, Ops

_EXACT = 2.0**53  # beyond it a float64 skips whole numbers


class Columns:
    """Rows of one kind of event. The first three columns are name, start and duration (us).

    Rows are added, then each column is taken once, which frees it: so at no time are all there twice.
    """

    def __init__(self, *, timed: bool = True) -> None:
        self._timed = timed
        self._chunks: list[list[Floats]] = []  # of each column
        self.rows = 0
        self.without_time = 0  # left out: start or duration absent, not finite, or beyond 2^53
        self.negative = 0  # durations clipped to 0

    def extend(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows of numbers, text of numbers, or None; anything else becomes NaN."""
        if not rows:
            return
        try:
            table = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            table = np.array([[_number(value) for value in row] for row in rows], dtype=np.float64)
        columns = np.ascontiguousarray(self._checked(table).T)
        self._chunks = self._chunks or [[] for _ in columns]
        for chunks, column in zip(self._chunks, columns, strict=True):
            chunks.append(column.copy())  # of its own, to be freed with its column
        self.rows += columns.shape[1]

    def _checked(self, table: Floats) -> Floats:
        usable = np.abs(table[:, 1]) <= _EXACT  # False for NaN
        if self._timed:
            duration = table[:, 2]
            usable &= np.abs(duration) <= _EXACT
            negative = usable & (duration < 0)
            self.negative += int(np.count_nonzero(negative))
            duration[negative] = 0.0
        self.without_time += int(np.count_nonzero(~usable))
        return table[usable]

    def earliest(self) -> float:
        """Return the least start, infinity where there is no row."""
        return min((float(chunk.min()) for chunk in self._column(1) if len(chunk)), default=math.inf)

    def sorted_by_start(self) -> tuple[Callable[[int], Floats], Callable[[int], Ints]]:
        """Return two takers of a column in order of start, longer first at equal starts: as floats, as integers."""
        order = np.lexsort((-_joined(self._column(2)), _joined(self._column(1))))
        return (lambda k: self._take(k)[order]), (lambda k: _whole(self._take(k)[order]))

    def as_read(self) -> tuple[Callable[[int], Floats], Callable[[int], Ints]]:
        """Return the same takers in the file's order."""
        return self._take, lambda k: _whole(self._take(k))

    def _take(self, column: int) -> Floats:
        chunks = self._column(column)
        values = _joined(chunks)
        chunks.clear()
        return values

    def _column(self, column: int) -> list[Floats]:
        return self._chunks[column] if self._chunks else []


def kernel_columns(columns: Columns, origin: float, sizes: Ints) -> Kernels:
    """Kernels by start; `sizes` are the grids and blocks that rows refer to."""
    floats, ints = columns.sorted_by_start()
    return Kernels(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), device=ints(3), stream=ints(4),
        correlation=ints(5), external=ints(6), registers=ints(7), shared_bytes=ints(8), blocks_per_sm=floats(9),
        warps_per_sm=floats(10), occupancy_percent=floats(11), grid=sizes[ints(12)], block=sizes[ints(13)],
    )  # fmt: skip


def copy_columns(columns: Columns, origin: float) -> Copies:
    """Copies and fills by start."""
    floats, ints = columns.sorted_by_start()
    return Copies(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), device=ints(3), stream=ints(4),
        correlation=ints(5), external=ints(6), bytes_=ints(7), is_set=floats(8) == 1,
    )  # fmt: skip


def launch_columns(columns: Columns, origin: float) -> Launches:
    """Calls of the runtime by start."""
    floats, ints = columns.sorted_by_start()
    return Launches(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), thread=ints(3), correlation=ints(4),
        external=ints(5),
    )  # fmt: skip


def op_columns(columns: Columns, origin: float, dims: Ints, types: Ints, inputs: Ints) -> Ops:
    """Operators by start; `dims`, `types`, `inputs` turn the rows' indices into those of the distinct values."""
    floats, ints = columns.sorted_by_start()
    return Ops(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), thread=ints(3), external=ints(4),
        sequence=ints(5), forward_thread=ints(6), dims=dims[ints(7)], types=types[ints(8)], inputs=inputs[ints(9)],
    )  # fmt: skip


def mark_columns(columns: Columns, origin: float) -> Marks:
    """Annotations by start."""
    floats, ints = columns.sorted_by_start()
    return Marks(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), thread=ints(3), on_gpu=floats(4) == 1
    )


def memory_columns(columns: Columns, origin: float) -> MemoryEvents:
    """Allocations in the file's order."""
    floats, ints = columns.as_read()
    return MemoryEvents(
        time_us=floats(1) - origin, device_type=ints(2), device=ints(3), bytes_=ints(4), total_allocated=ints(5),
        total_reserved=ints(6),
    )  # fmt: skip


def repeated(kernels: Kernels) -> int:
    """Return how many kernels equal another, counted without the first, in name, time, GPU, stream and correlation."""
    k = kernels
    again = (np.diff(k.start_us) == 0) & (np.diff(k.duration_us) == 0)
    rows = np.flatnonzero(np.concatenate((again, [False])) | np.concatenate(([False], again)))
    keys = [column[rows] for column in (k.name, k.device, k.stream, k.correlation, k.duration_us, k.start_us)]
    order = np.lexsort(keys)
    equal = np.ones(max(len(rows) - 1, 0), dtype=np.bool_)
    for key in keys:
        equal &= np.diff(key[order]) == 0
    return int(np.count_nonzero(equal))


def _joined(chunks: Sequence[Floats]) -> Floats:
    return np.concatenate(chunks) if chunks else np.empty(0)


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
