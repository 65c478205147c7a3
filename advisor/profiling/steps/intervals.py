"""Arithmetic on many intervals of time at once; and finding the rows of a trace by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.raw import Floats, Ints, RawTrace


@dataclass(frozen=True)
class Union:
    """The times that any of several intervals covers: as intervals in order that neither overlap nor touch."""

    start: Floats
    end: Floats

    @classmethod
    def of(cls, start: Floats, end: Floats) -> Union:
        """Union of any intervals; those that end before they begin cover nothing."""
        filled = end > start
        start, end = start[filled], end[filled]
        order = np.argsort(start, kind="stable")
        start, reached = start[order], np.maximum.accumulate(end[order])
        opens = np.append(True, start[1:] > reached[:-1])[: len(start)]
        closes = np.append(opens[1:], True)[: len(start)]
        return cls(start[opens], reached[closes])

    def within(self, start: Floats, end: Floats) -> Floats:
        """How much of each interval [start, end] is covered."""
        covered: Floats = np.maximum(self._until(end) - self._until(start), 0.0)  # rounding aside
        return covered

    def contains(self, times: Floats) -> NDArray[np.bool_]:
        """Whether each time is covered, ends included."""
        if not len(self.start):
            return np.zeros(len(times), dtype=bool)
        at = np.searchsorted(self.start, times, side="right") - 1
        inside: NDArray[np.bool_] = (at >= 0) & (times <= self.end[at])
        return inside

    def gaps(self, start: float, end: float) -> tuple[Floats, Floats]:
        """Start and end of what is not covered between two times."""
        opens = np.clip(np.append(start, self.end), start, end)
        closes = np.clip(np.append(self.start, end), start, end)
        filled = closes > opens
        return opens[filled], closes[filled]

    def _until(self, times: Floats) -> Floats:
        """Covered time before each moment."""
        if not len(self.start):
            return np.zeros(len(times))
        length = self.end - self.start
        before = np.append(0.0, np.cumsum(length))
        at = np.searchsorted(self.start, times, side="right")
        last = np.maximum(at - 1, 0)
        covered: Floats = before[last] + np.clip(times - self.start[last], 0.0, length[last])
        return covered


def named(raw: RawTrace, names: Ints, matches: Callable[[str], object]) -> Ints:
    """Rows of a column of names that match; each distinct name is asked once."""
    if not len(names):
        return np.empty(0, dtype=np.int64)
    wanted = np.zeros(len(raw.names), dtype=bool)
    for name in np.unique(names).tolist():
        wanted[name] = bool(matches(raw.names[name]))
    return np.flatnonzero(wanted[names])


def on_host(raw: RawTrace, launch: Ints, otherwise: Floats) -> Floats:
    """Per row of kernels or copies, when the host launched it; without a launch, the time given. Microseconds."""
    times: Floats = otherwise.copy()
    times[launch >= 0] = raw.launches.start_us[launch[launch >= 0]]
    return times


TO_GPU = re.compile("HtoD").search
"""Names of copies from the host to the GPU."""
TO_HOST = re.compile("DtoH").search
