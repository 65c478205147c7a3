"""Matrix products whose one size steps by one: their rates by the alignment of rows of that size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.alignment import CACHE_LINE_BYTES, alignment_bytes
from advisor.report.subject import Floats, Integers, MeasuredProducts, Subject
from advisor.report.sweeps import Axis, Points, Sweep, points_on, predict_sweep

ELEMENT_BYTES = 2
# The product around which sizes step by one, a projection to a vocabulary: EleutherAI's sweeps have every K around
# 14336 at N = 51200, and every N around 51200 at K = 14336.
BASE: dict[Axis, int] = {"m": 8192, "n": 51200, "k": 14336}
REACH = 64  # sizes on either side
ALIGNMENTS = (2, 4, 8, 16, 32, 64, 128)  # bytes, to a cache line
GROUPS: dict[str, tuple[int, ...]] = {  # as figures tell them apart
    "2 bytes": (2,), "4 bytes": (4,), "8 bytes": (8,), "16 to 64 bytes": (16, 32, 64), "128 bytes": (128,),
}  # fmt: skip
LEAST_M = 2048  # rows from which one more is hardly more work


@dataclass(frozen=True)
class Strip:
    """Products whose one size steps by one; `bytes_` is the alignment of rows of that size, 128 at most."""

    sweep: Sweep
    bytes_: Integers
    points: tuple[Points, ...]

    @property
    def dense(self) -> bool:
        """Whether so many sizes were measured that the measured points show the pattern themselves."""
        return len({size for each in self.points for size in each.sizes.tolist()}) >= REACH

    @property
    def axis(self) -> Axis:
        """The size that steps."""
        return self.sweep.axis

    @property
    def levels(self) -> list[Integers]:
        """Indices of the sizes of each of GROUPS, the least aligned (every second size) first."""
        return [np.flatnonzero(np.isin(self.bytes_, group)) for group in GROUPS.values()]

    def grouped(self, points: Points) -> list[tuple[str, Integers]]:
        """Which measured points to mark alike: those of one of GROUPS, or all, as "any", where they are few."""
        if not self.dense:
            return [("any", np.arange(len(points.sizes)))]
        bytes_ = alignment_bytes(points.sizes, ELEMENT_BYTES)
        found = ((name, np.flatnonzero(np.isin(bytes_, group))) for name, group in GROUPS.items())
        return [(name, at) for name, at in found if len(at)]

    def shares(self) -> dict[int, tuple[int, float]]:
        """By alignment: how many sizes, and their median predicted rate over that of rows of whole cache lines."""
        return _shares(self.bytes_, self.sweep.flops_per_s)


def strip(subject: Subject, axis: Axis) -> Strip:
    """Predict the strip around BASE along one axis; raises BadInputError where the GPU's facts are missing."""
    sizes = np.arange(BASE[axis] - REACH, BASE[axis] + REACH + 1)
    fixed: dict[str, int] = {name: size for name, size in BASE.items() if name != axis}
    sweep = predict_sweep(subject, axis, sizes, fixed=fixed, id_=f"alignment-{axis}")
    return Strip(sweep, alignment_bytes(sizes, ELEMENT_BYTES), points_on(sweep, subject.measured.products))


def measured_shares(points: Points) -> dict[int, tuple[int, float]]:
    """As `Strip.shares`, of measured rates; empty where no row of whole cache lines was measured, or none but these."""
    found = _shares(alignment_bytes(points.sizes, ELEMENT_BYTES), points.flops / points.time_s)
    return found if len(found) > 1 else {}


def _shares(bytes_: Integers, rates: Floats) -> dict[int, tuple[int, float]]:
    best = rates[bytes_ == CACHE_LINE_BYTES]
    if not len(best):
        return {}
    whole = float(np.median(best))
    return {a: (int(at.sum()), float(np.median(rates[at])) / whole) for a in ALIGNMENTS if (at := bytes_ == a).any()}


def odd_rows(products: Sequence[MeasuredProducts]) -> tuple[int, float] | None:
    """Pairs of measured products with M and M + 1 rows, M even and at least LEAST_M, K and N multiples of 8.

    Returns how many pairs there are and the median of the second one's time over the first one's; None without a pair.
    """
    ratios = []
    for each in products:
        if each.precision not in ("fp16", "bf16"):
            continue
        order = np.lexsort((each.m, each.k, each.n))
        m, n, k, time_s = (values[order] for values in (each.m, each.n, each.k, each.time_s))
        pair = (m[1:] == m[:-1] + 1) & (n[1:] == n[:-1]) & (k[1:] == k[:-1])
        pair &= (m[:-1] % 2 == 0) & (m[:-1] >= LEAST_M) & (n[1:] % 8 == 0) & (k[1:] % 8 == 0)
        ratios.append((time_s[1:] / time_s[:-1])[pair])
    found = np.concatenate(ratios) if ratios else np.zeros(0)
    return (len(found), float(np.median(found))) if len(found) else None
