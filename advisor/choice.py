"""Choosing a batch size from a predicted curve: pure functions of arrays, nothing measured, nothing printed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Two sizes whose predicted throughput differs by no more than this are said to tie: measured training speed differs by
# 1-2 % between runs of one container on one type of GPU, so a smaller difference is no evidence.
TIE = 0.02
# The knee: smallest batch within this share of the fastest.
TOLERANCE = 0.03
# A step from B to B+1 that loses at least this much throughput is called a cliff.
CLIFF = 0.005


@dataclass(frozen=True)
class Cliff:
    """Going from `under` to `under + 1` samples loses `loss` (a share) of the throughput."""

    under: int
    loss: float

    @property
    def over(self) -> int:
        """The size just past the cliff."""
        return self.under + 1


def fastest(samples_per_s: Floats, allowed: Bools) -> int:
    """Index of the highest throughput among the allowed sizes, the first of equals.

    Raises ValueError where none is allowed: the caller knows why and says it better.
    """
    if not allowed.any():
        raise ValueError("no batch size is allowed")
    return int(np.argmax(np.where(allowed, samples_per_s, -np.inf)))


def knee(samples_per_s: Floats, allowed: Bools, tolerance: float = TOLERANCE) -> int:
    """Index of the smallest allowed size whose throughput is within `tolerance` of the fastest allowed one."""
    best = samples_per_s[fastest(samples_per_s, allowed)]
    return int(np.argmax(allowed & (samples_per_s >= (1 - tolerance) * best)))


def cliffs(batches: Ints, samples_per_s: Floats, least_loss: float = CLIFF) -> list[Cliff]:
    """Every step from B to B+1 that loses at least `least_loss` of the throughput, by batch size."""
    if len(batches) < 2:
        return []
    loss = 1 - samples_per_s[1:] / samples_per_s[:-1]
    at = np.flatnonzero((np.diff(batches) == 1) & (loss >= least_loss))
    return [Cliff(under=int(batches[i]), loss=float(loss[i])) for i in at]


def largest_power_of_two(limit: int) -> int:
    """Largest power of two that is no larger than `limit` (at least 1)."""
    return 1 << (limit.bit_length() - 1)


def tied(left_per_s: float, right_per_s: float, tie: float = TIE) -> bool:
    """Whether two throughputs are too close to call."""
    return abs(left_per_s - right_per_s) <= tie * max(left_per_s, right_per_s)
