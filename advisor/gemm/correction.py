"""The local part of the GEMM time model: what measurements say beyond the physical form, near where they were made.

A profile holds ln(measured / physical), smoothed, on a grid of n, k and m. Between grid lines of n and k the value
is that of an Ornstein-Uhlenbeck bridge (the exact conditional mean of a process whose correlation decays by 1/e
over `fade_octaves`): at a grid point the grid's, far from one nothing, so that the physical form remains. Along m it
is linear in log m, since the grid has the two sides of every step (256 and 257) as nodes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from advisor.profile import GemmCorrection

LIMIT = 0.5  # the correction never exceeds a factor of e^0.5 either way


def log_correction(correction: GemmCorrection, m: Any, n: Any, k: Any) -> NDArray[np.float64]:
    """ln(corrected / physical) for arrays of equal shape; 0 far from every measurement."""
    table = correction.table()
    i, low_n, high_n = bridge(np.log2(np.asarray(correction.n, dtype=float)), np.log2(n), correction.fade_octaves)
    j, low_k, high_k = bridge(np.log2(np.asarray(correction.k, dtype=float)), np.log2(k), correction.fade_octaves)
    r, low_m, high_m = linear(np.log2(np.asarray(correction.m, dtype=float)), np.log2(m), correction.fade_octaves)
    columns, depth = len(correction.k), len(correction.m)
    found = np.zeros(np.shape(low_n))
    for di, weight_n in ((0, low_n), (1, high_n)):
        for dj, weight_k in ((0, low_k), (1, high_k)):
            at = ((i + di) * columns + j + dj) * depth + r
            found += weight_n * weight_k * (low_m * table[at] + high_m * table[at + 1])
    return np.clip(found, -LIMIT, LIMIT)


def bridge(nodes: Any, x: Any, fade: float) -> tuple[Any, Any, Any]:
    """Left node of the interval that x lies in, and the weights of the nodes left and right of x."""
    i = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    left, right = nodes[i], nodes[i + 1]
    width = np.sinh((right - left) / fade)
    inside = np.clip(x, left, right)
    outside = np.exp(-np.abs(x - inside) / fade)
    low, high = np.sinh((right - inside) / fade) / width, np.sinh((inside - left) / fade) / width
    return i, low * outside, high * outside


def linear(nodes: Any, x: Any, fade: float) -> tuple[Any, Any, Any]:
    """As `bridge`, with weights that are linear between nodes: nothing fades there."""
    i = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    left, right = nodes[i], nodes[i + 1]
    inside = np.clip(x, left, right)
    outside = np.exp(-np.abs(x - inside) / fade)
    high = (inside - left) / (right - left)
    return i, (1 - high) * outside, high * outside
