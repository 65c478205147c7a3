"""What a traced step does not say of memory, from which batch sizes ran and which did not.

A row of a training table says: this batch ran on the card, and the next larger of the list failed. So the memory of a
step is known between two bounds, and the coefficients are those that make these bounds most likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.gpus import find_gpu
from advisor.memory import FP32_BYTES, STATE_TENSORS, envelope, usable_memory_bytes, workspace
from advisor.step_profile import MemoryCoefficients
from bench.step_data import SIZES, StepRow

GIB = 2**30
CARD = find_gpu("rtx-3090")
LIMIT = usable_memory_bytes(CARD) or 0
CONTEXT_BYTES = round(0.45 * GIB)  # CUDA context and loaded kernels: an estimate, of 300 to 500 MB seen in the field
DEPTHWISE_SHARES = (0.0, 0.1, 0.2)
SHARES = np.arange(0.0, 0.1501, 0.005)
OVERHEADS = np.arange(0.5, 1.6001, 0.025)  # a context and some workspace at least
SPREADS = (0.004, 0.006, 0.008, 0.01, 0.013, 0.017, 0.022, 0.03)
OUTLIERS = 0.01  # rows that no smooth error explains: another process, another library version
FAILURES = 0.015  # share of predicted batches that may fail where the margin is chosen


@dataclass(frozen=True)
class Brackets:
    """Per row: fixed bytes, live peak at the batch that ran and at the next that failed (0: none was tried)."""

    fixed: NDArray[np.float64]
    live_ran: NDArray[np.float64]
    live_failed: NDArray[np.float64]
    depthwise_ran: NDArray[np.float64]  # traffic of the largest depthwise convolution
    depthwise_failed: NDArray[np.float64]

    def needs(self, share: float, overhead: float, depthwise: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted bytes at the batch that ran, and at the one that failed."""
        ran = self.fixed + (1 + share) * self.live_ran + overhead * GIB + depthwise * self.depthwise_ran
        return ran, self.fixed + (1 + share) * self.live_failed + overhead * GIB + depthwise * self.depthwise_failed

    def exact(self, share: float, overhead: float, depthwise: float) -> float:
        """Share of the rows whose bounds the prediction meets."""
        ran, failed = self.needs(share, overhead, depthwise)
        return float(((ran <= LIMIT) & ((self.live_failed == 0) | (failed > LIMIT))).mean())


def brackets(rows: Sequence[StepRow]) -> Brackets:
    """The bounds that each traced row sets: SGD with momentum, gradients kept (timm's recipe of 2022)."""
    table = []
    for r in rows:
        w = r.workload
        if w is None:
            continue
        fixed = w.parameters * FP32_BYTES + w.buffer_bytes
        fixed += w.trainable_parameters * FP32_BYTES * (1 + STATE_TENSORS["sgd"])
        at = SIZES.index(r.row.batch)
        sizes = np.array([SIZES[at], SIZES[max(0, at - 1)]])
        ran, failed = envelope(w.variants[0].live, sizes)
        depthwise = workspace(w.variants[0], sizes, 1.0)
        table.append((fixed, ran, failed if at else 0, *depthwise))
    columns = np.array(table, dtype=float).reshape(-1, 5).T
    return Brackets(*columns)


def log_likelihood(b: Brackets, share: float, overhead: float, depthwise: float, spread: float) -> float:
    """Of the bounds, if ln(true / predicted) is normal with this spread."""
    ran, failed = b.needs(share, overhead, depthwise)
    upper = _normal(np.log(LIMIT / ran) / spread)
    lower = np.where(b.live_failed > 0, _normal(np.log(LIMIT / failed) / spread), 0.0)
    return float(np.log((1 - OUTLIERS) * (upper - lower) + OUTLIERS).sum())


def _normal(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.5 * (1 + erf(x / sqrt(2))) for x in z])


def fit_memory(rows: Sequence[StepRow]) -> MemoryCoefficients:
    """Coefficients that meet most bounds, the likeliest of them, and the margin at which few predicted batches fail."""
    b = brackets(rows)
    grid = [(f, c, d) for f in SHARES for c in OVERHEADS for d in DEPTHWISE_SHARES]
    met = np.array([b.exact(*point) for point in grid])
    best = [grid[i] for i in np.flatnonzero(met >= met.max() - 1e-9)]
    *point, spread = max(((*p, s) for p in best for s in SPREADS), key=lambda found: log_likelihood(b, *found))
    share, overhead, depthwise = (float(x) for x in point)
    found = MemoryCoefficients(
        allocator_share=round(share, 4),
        overhead_bytes=round(overhead * GIB),
        workspace_bytes=max(0, round(overhead * GIB) - CONTEXT_BYTES),
        depthwise_workspace=depthwise,
        driver_bytes=(CARD.memory_bytes or 0) - LIMIT,
        log_error=spread,
        margin=0.0,
    )
    return msgspec.structs.replace(found, margin=margin_for(rows, found))


def predicted_batch(row: StepRow, known: MemoryCoefficients, margin: float) -> int:
    """Largest size of the list that is predicted to fit the card; 0 if none is."""
    w = row.workload
    if w is None:
        return 0
    live = envelope(w.variants[0].live, np.array(SIZES))
    fixed = w.parameters * FP32_BYTES + w.buffer_bytes
    fixed += w.trainable_parameters * FP32_BYTES * (1 + STATE_TENSORS["sgd"])
    total = fixed + live + np.rint(known.allocator_share * live) + known.overhead_bytes
    total = total + workspace(w.variants[0], np.array(SIZES), known.depthwise_workspace)
    fits = total * (1 + margin) <= LIMIT
    return next((size for size, ok in zip(SIZES, fits, strict=True) if ok), 0)


def margin_for(rows: Sequence[StepRow], known: MemoryCoefficients) -> float:
    """Smallest margin, in half per cents, at which at most FAILURES of the predicted batches fail; at least 2.2 spreads
    (the 1.5 % tail of the normal error)."""
    traced = [r for r in rows if r.workload is not None]
    least = np.ceil((np.exp(2.17 * known.log_error) - 1) * 200) / 200
    for margin in np.arange(least, 0.2, 0.005):
        failing = np.mean([predicted_batch(r, known, float(margin)) > r.row.batch for r in traced])
        if failing <= FAILURES:
            return round(float(margin), 4)
    return 0.2
