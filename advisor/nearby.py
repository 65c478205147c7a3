"""A bounded correction beside measured points that lie on no grid, fading to nothing away from them.

The mean of a Gaussian process with an exponential kernel over the logarithms of the sizes (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, equations 2.25 and 4.14 with a distance per axis). It is fitted to
ln(measured / physical), so that far from every point the physical form remains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CHUNK = 4096  # products at a time, so that the distances to all points stay in cache
MOST_POINTS = 4096
MOST_LIMIT = 1.0  # a file's word for more than a factor of e is none


class Nearby(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured points and their weights in the correction: sum of weight x exp(-distance in octaves)."""

    axes: tuple[str, ...]  # what a point's numbers are, such as m, n, k
    octaves: tuple[float, ...]  # along each axis: the distance over which the correlation falls by 1/e
    limit: float  # |ln(correction)| never exceeds it
    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def log_correction(self, sizes: Mapping[str, Any]) -> Floats:
        """ln(corrected / physical) for flat arrays of equal length, one per axis."""
        wanted = self._scaled(np.column_stack([np.asarray(sizes[axis], dtype=float) for axis in self.axes]))
        known = self._scaled(np.array(self.points, dtype=float))
        weights, found = np.array(self.weights), np.zeros(len(wanted))
        for start in range(0, len(wanted), CHUNK):
            part = slice(start, start + CHUNK)
            found[part] = np.exp(-distances(wanted[part], known)) @ weights
        return np.clip(found, -self.limit, self.limit)

    def _scaled(self, points: Floats) -> Floats:
        return np.asarray(np.log2(points) / np.array(self.octaves))

    def fault(self) -> str | None:
        """What is wrong with the numbers, as far as types cannot say it; None: nothing."""
        if not self.axes or len(self.octaves) != len(self.axes):
            return f"octaves holds {len(self.octaves)} lengths where {len(self.axes)} axes ask for one each"
        if not 1 <= len(self.points) <= MOST_POINTS or len(self.weights) != len(self.points):
            return f"{len(self.points)} points and {len(self.weights)} weights: one weight each, {MOST_POINTS} at most"
        if any(len(point) != len(self.axes) or not all(0 < x < math.inf for x in point) for point in self.points):
            return f"points must be {len(self.axes)} positive numbers each"
        if not all(map(math.isfinite, self.weights)) or not all(0 < x < math.inf for x in (*self.octaves, self.limit)):
            return "weights must be finite, octaves and limit positive"
        if self.limit > MOST_LIMIT:
            return f"limit is {self.limit}, above {MOST_LIMIT}"
        return None


def distances(a: Floats, b: Floats) -> Floats:
    """Euclidean distances between the rows of a and of b."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
