"""What the physical form leaves, learned from measured models that spend their time alike; it fades away from them.

A model is described by where its time goes: shares of the GPU's time by class of operation, at one reference batch.
The correction is a Gaussian-process mean with a squared-exponential kernel over these shares (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, equation 2.25): close to the measured neighbours' residual beside them, 1
far from all, and never beyond a bound. It is a constant of the model, so it moves no cliff and no knee.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.step_costs import Coefficients, Machine, op_seconds
from advisor.step_ops import MEMORY_CLASSES, StepOps

Floats = NDArray[np.float64]

REFERENCE_BATCH = 128
BOUND = 0.15  # of |ln(correction)|
UNIT = 1000  # shares are stored in thousandths
FEATURES = (
    "conv 1x1", "conv spatial", "conv unaligned", "conv stem", "gemm", "bmm", "grouped fast", "grouped narrow",
    "grouped medium", "grouped wide", "depthwise 3x3", "depthwise 5x5", "depthwise large", "attention",
    *MEMORY_CLASSES, "update",
)  # fmt: skip


class Neighbours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured models of one layout: their shares (one row each, as FEATURES) and weights in the correction."""

    length: float  # of the kernel, in shares
    amplitude: float  # of ln(correction)
    shares: tuple[tuple[int, ...], ...]  # thousandths
    weights: tuple[float, ...]

    def log_correction(self, shares: Floats) -> float:
        """ln(measured / physical time) expected of a model with these shares, within +-BOUND."""
        if not self.weights:
            return 0.0
        known = np.array(self.shares, dtype=float) / UNIT
        kernel = covariance(shares[None, :], known, self.length, self.amplitude)[0]
        return float(np.clip(kernel @ np.array(self.weights), -BOUND, BOUND))


def covariance(a: Floats, b: Floats, length: float, amplitude: float) -> Floats:
    """Squared-exponential kernel between rows of shares."""
    squares = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)
    return np.asarray(amplitude**2 * np.exp(-squares / (2 * length**2)))


def solve_weights(shares: Floats, residuals: Floats, *, length: float, amplitude: float, noise: float) -> Floats:
    """Weights of measured rows: (K + noise^2 I)^-1 residuals; residuals beyond the bound count as the bound."""
    k = covariance(shares, shares, length, amplitude)
    limited = np.clip(residuals, -BOUND, BOUND)
    return np.asarray(np.linalg.solve(k + noise**2 * np.eye(len(shares)), limited))


def time_shares(ops: StepOps, layout: int, c: Coefficients, machine: Machine, update_s: float) -> Floats:
    """Shares of the GPU's time at the reference batch, in the order of FEATURES, rounded as they are stored."""
    seconds = op_seconds(ops, np.array([float(REFERENCE_BATCH)]), layout, c, machine)[0][:, 0] * ops.count
    feature = np.zeros(len(ops.count), dtype=np.int64)
    p, g, d = ops.products, ops.grouped, ops.depthwise
    conv = np.where(p.stem, 3, np.where(p.unaligned, 2, np.where(p.filter_taps > 1, 1, 0)))
    feature[p.index] = np.where(p.kind < 3, conv, p.kind + 1)
    feature[g.index] = np.where(g.regime == 2, 6, np.where(g.regime == 0, 7, np.where(g.width < 72, 8, 9)))
    feature[d.index] = np.where(d.taps <= 9, 10, np.where(d.taps <= 25, 11, 12))
    feature[ops.attention.index] = 13
    feature[ops.memory] = 14 + ops.memory_class
    sums = np.bincount(feature, seconds, minlength=len(FEATURES))
    sums[-1] += update_s
    return np.asarray(np.rint(UNIT * sums / sums.sum()) / UNIT)


def no_neighbours() -> Neighbours:
    """A correction of 1 everywhere."""
    return Neighbours(length=math.inf, amplitude=0.0, shares=(), weights=())
