"""What misaligned dimensions cost the Tensor Core products of a trace: which operand, which dimension, pad to what.

Only contiguous dimensions count (`advisor.alignment`), and the batch is contiguous in none of them, so that a dimension
equal to the traced batch is never blamed. The loss is the time model's: with r the share of the Tensor Core rate that
the alignment leaves (advisor.gemm.operand_rate; for NHWC convolutions the step profile's "unaligned"), D the traffic
and T the measured time,

    T' = hypot(C r p, D),  C = sqrt(T^2 - D^2),  p = padded over present work
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.alignment import (
    CACHE_LINE_BYTES,
    GOOD_BYTES,
    OperandAlignment,
    attention_alignment,
    convolution_alignment,
    gemm_alignment,
    linear_alignment,
)
from advisor.gemm import operand_rate
from advisor.profiling.bill.timing import TimeModel
from advisor.profiling.records import KernelGroup, Operation, Product
from advisor.step_costs import LAYOUTS, PRODUCT_KINDS
from advisor.step_ops import STEM_CHANNELS

MOST_PADDING = 1.1  # of a dimension: whole cache lines are named where they cost no more work than that
TENSOR_CORE_PRECISIONS = ("fp16", "bf16", "tf32")


@dataclass(frozen=True)
class Misalignment:
    """Of one operation: dimensions that are not aligned to 16 bytes, and the share of its time that they cost."""

    share: float  # of the kernels' time that padding wins, by the time model
    dimensions: tuple[OperandAlignment, ...]  # the slow ones, one per dimension


def misalignment(
    group: KernelGroup, operation: Operation, model: TimeModel, *, batch: int | None, traffic_s: float
) -> Misalignment | None:
    """What the alignment costs a group; None: nothing, or not a Tensor Core product. `traffic_s`: of one call."""
    product = operation.product
    precision = group.precision or (product.dtype if product is not None else None)
    if product is None or group.helper or precision not in TENSOR_CORE_PRECISIONS or not group.count:
        return None
    slow = slow_dimensions(product, operation, precision, model.gpu.compute_capability, batch=batch)
    if not slow:
        return None
    rate, padded = _rate(product, precision, model, slow), _padded(product, slow)
    time_s = group.total_s / group.count
    rest = math.sqrt(max(time_s**2 - traffic_s**2, 0.0))
    aligned_s = math.hypot(rest * min(1.0, rate * padded), min(traffic_s, time_s))
    return Misalignment(max(0.0, 1 - aligned_s / time_s) if time_s > 0 else 0.0, slow)


def slow_dimensions(
    product: Product, operation: Operation, precision: str, compute_capability: tuple[int, int], *, batch: int | None
) -> tuple[OperandAlignment, ...]:
    """Contiguous dimensions below 16 bytes, each once; none where the GPU has no Tensor Cores for the precision."""
    found = _alignments(product, operation, precision, compute_capability)
    slow = {a.dimension: a for a in found if a.verdict in ("slow", "refused") and a.size not in (1, batch)}
    return tuple(slow.values())


def pad_advice(found: Sequence[tuple[Operation, Sequence[OperandAlignment]]]) -> list[str]:
    """What to pad, a text per layer in the given order, its passes together.

    "linear 768>50257: out features 50257 to 50264 (16 bytes), best 50304 (128 bytes)"
    """
    layers: dict[str, dict[int, dict[str, OperandAlignment]]] = {}
    for operation, _ in found:
        layers.setdefault(operation.layer, {})
    for operation, dimensions in sorted(found, key=lambda row: _is_wgrad(row[0])):
        for alignment in dimensions:
            names = layers[operation.layer].setdefault(alignment.size, {})
            if not (names and _is_wgrad(operation)):  # whose sides may be swapped: the other passes know the name
                names.setdefault(_feature(operation, alignment.dimension), alignment)
    return [f"{layer}: {', '.join(map(_pad, sizes.values()))}" for layer, sizes in layers.items() if sizes]


_FEATURES = {
    "fprop": {"K": "in features", "N": "out features"},
    "dgrad": {"K": "out features", "N": "in features"},
    "wgrad": {"M": "out features", "N": "in features"},
}


def _is_wgrad(operation: Operation) -> bool:
    return operation.product is not None and operation.product.pass_ == "wgrad"


def _feature(operation: Operation, dimension: str) -> str:
    """The layer's own name of a dimension of one of its products."""
    product = operation.product
    if product is None or product.kind != "gemm" or not operation.layer.startswith("linear "):
        return dimension
    return _FEATURES.get(product.pass_ or "", {}).get(dimension, dimension)


def _pad(names: dict[str, OperandAlignment]) -> str:
    alignment = next(iter(names.values()))
    text = f"{' and '.join(names)} {alignment.size} to"
    if alignment.pad_to == alignment.pad_to_best or alignment.pad_to_best > MOST_PADDING * alignment.size:
        return f"{text} {alignment.pad_to}"
    return f"{text} {alignment.pad_to} ({GOOD_BYTES} bytes), best {alignment.pad_to_best} ({CACHE_LINE_BYTES} bytes)"


def _alignments(
    product: Product, operation: Operation, precision: str, compute_capability: tuple[int, int]
) -> tuple[OperandAlignment, ...]:
    d = product.attention
    if d is not None:
        return attention_alignment(
            d["kv_len"], d["head_dim"], fused=True, precision=precision, compute_capability=compute_capability
        )
    convolution = product.convolution
    if convolution is not None:
        grouped = convolution.groups > 1  # which run outside these kernels
        if grouped or convolution.c_in <= STEM_CHANNELS:  # cuDNN pads the stem, and has kernels for it
            return ()
        found = convolution_alignment(convolution, precision=precision, compute_capability=compute_capability)
        return tuple(a for a in found if a.dimension != "C/groups")  # one group: the same as C
    if product.kind == "conv":
        return ()
    pass_ = product.pass_ or ("fprop" if operation.phase == "forward" else None)
    if pass_ is None:  # which dimensions are contiguous is unknown, but for that of the result
        return linear_alignment(16, product.n, precision=precision, compute_capability=compute_capability)
    return gemm_alignment(
        product.m, product.n, product.k, pass_=pass_, precision=precision, compute_capability=compute_capability
    )


def _rate(product: Product, precision: str, model: TimeModel, slow: tuple[OperandAlignment, ...]) -> float:
    """Share of the Tensor Core rate that is left."""
    if product.convolution is not None:
        kind = PRODUCT_KINDS.index(f"conv_{product.pass_ or 'fprop'}")
        return min(1.0, float(model.coefficients.unaligned[LAYOUTS.index("nhwc"), kind]))
    item = 4.0 if precision == "tf32" else 2.0
    aligned = 16
    sizes = {a.dimension: a.size for a in slow}
    contraction = sizes.get("K", sizes.get("in features", sizes.get("head dim", aligned)))
    output = [size for name, size in sizes.items() if name in ("N", "M", "out features")] or [aligned]
    return min(float(operand_rate(np.array([float(size)]), np.array([float(contraction)]), item)[0]) for size in output)


def _padded(product: Product, slow: tuple[OperandAlignment, ...]) -> float:
    """Work with every slow dimension padded, over the present work."""
    return math.prod(a.pad_to / a.size for a in slow)
