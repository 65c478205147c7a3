"""Which dimensions decide whether Tensor Cores run at full rate: each operand's contiguous one, and no other.

A row of an operand must start on a 16-byte boundary (FP16: a multiple of 8 elements) for the fast loads; from
A100 on, rows of whole 128-byte cache lines (FP16: multiples of 64) are best. Source: NVIDIA, "Matrix
Multiplication Background User's Guide", table 2, and for FP8 the cuBLAS manual, "8-bit Floating Point Data Types
(FP8) Usage", which refuses what is not aligned to 16 bytes.

The contiguous dimensions are the features of linear layers, the channels C and K of NHWC convolutions, the head
dimension and, where attention is not fused, the key length of its score matrix. The batch is contiguous in none
of them: see BATCH_NOTE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from advisor.convolution import Convolution, Pass
from advisor.errors import BadInputError
from advisor.quantization import Ints, ceil_div, whole

BATCH_NOTE = (
    "The batch is contiguous in no operand of row-major linear layers or NHWC convolutions: "
    "an odd batch costs tiles and waves, never Tensor Cores."
)
OLD_LIBRARIES_NOTE = (
    "Before cuBLAS 11 and cuDNN 7.6.3 an operand that is not aligned to 16 bytes meant no Tensor Cores at all."
)
ELEMENT_BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
# compute capability of the first Tensor Cores for each: V100, Xavier, A100, Ada; FP32 proper never had any
_TENSOR_CORES_SINCE = {"fp16": (7, 0), "int8": (7, 2), "bf16": (8, 0), "tf32": (8, 0), "fp64": (8, 0), "fp8": (8, 9)}
GOOD_BYTES = 16
CACHE_LINE_BYTES = 128

Role = Literal["contraction", "output"]
_Rows: TypeAlias = list[tuple[str, str, Ints, Role]]  # operand, its contiguous dimension, size, what that dimension is
MEASURED_NOTE = (
    "measured on one A100 in FP16, m = 8192, n or k near 51200 and 14336: EleutherAI cookbook, sizing/results, "
    "commit fb3e361d (the data behind arXiv 2401.14489); context, not a prediction"
)
# (role of the dimension, alignment in bytes from which it holds) -> median rate in TFLOP/s
_MEASURED_TFLOPS: dict[Role, dict[int, float]] = {
    "contraction": {2: 71.6, 4: 172.8, 8: 173.0, 16: 256.0},
    "output": {2: 74.1, 4: 138.3, 8: 139.8, 16: 226.5, 128: 255.5},
}


def alignment_bytes(size: Ints, element_bytes: int) -> Any:
    """Largest power of two, up to a cache line of 128 B, that divides rows of `size` elements. Vectorised."""
    row = size * element_bytes
    return np.minimum(row & -row, CACHE_LINE_BYTES) if np.ndim(row) else min(row & -row, CACHE_LINE_BYTES)


def pad_to_bytes(size: Ints, element_bytes: int, align_bytes: int) -> Any:
    """Smallest number of elements >= size whose rows are a multiple of `align_bytes`. Vectorised."""
    elements = max(1, align_bytes // element_bytes)
    return ceil_div(size, elements) * elements


def measured_rate(role: Role, aligned_bytes: int) -> float:
    """Rate at this alignment over the best one, as measured in FP16 (MEASURED_NOTE)."""
    table = _MEASURED_TFLOPS[role]
    return table[max(threshold for threshold in table if threshold <= max(2, aligned_bytes))] / table[max(table)]


@dataclass(frozen=True)
class OperandAlignment:
    """How the rows of one operand of a Tensor Core product are aligned."""

    operand: str  # "A: input"
    dimension: str  # its contiguous dimension: "K"
    size: int  # elements
    alignment_bytes: int  # largest power of two that divides a row, up to 128
    verdict: Literal["best", "good", "slow", "refused"]
    pad_to: int  # smallest size >= this one that is good (16 B)
    pad_to_best: int  # ... and best (128 B from A100 on, else 16 B)
    measured_rate: float | None  # 2-byte types from A100 on: share of the best rate measured there (MEASURED_NOTE)


def gemm_alignment(
    m: int, n: int, k: int, *, pass_: Pass = "fprop", precision: str = "fp16", compute_capability: tuple[int, int]
) -> tuple[OperandAlignment, ...]:
    """Alignment of the operands of C[m, n] = A[m, k] B[k, n] as one pass of a linear layer stores them.

    fprop: y = x W^T, both operands contiguous in k. dgrad: dx = dy W, in k and in n. wgrad: dW = dy^T x, in m and
    in n; there k is the batch, contiguous nowhere. C is always contiguous in n.
    Empty where the GPU has no Tensor Cores for the precision: then there is nothing to align, here and below.
    Raises BadInputError for sizes that are not positive whole numbers, or an unknown precision.
    """
    if pass_ == "fprop":
        rows: _Rows = [("A: input", "K", k, "contraction"), ("B: weight", "K", k, "contraction")]
        rows += [("C: output", "N", n, "output")]
    elif pass_ == "dgrad":
        rows = [("A: output grad", "K", k, "contraction"), ("B: weight", "N", n, "output")]
        rows += [("C: input grad", "N", n, "output")]
    else:
        rows = [("A: output grad", "M", m, "output"), ("B: input", "N", n, "output")]
        rows += [("C: weight grad", "N", n, "output")]
    return _records(rows, precision, compute_capability)


def linear_alignment(
    in_features: int, out_features: int, *, precision: str = "fp16", compute_capability: tuple[int, int]
) -> tuple[OperandAlignment, ...]:
    """Alignment of a row-major linear layer, the same in all three passes: only its features count."""
    rows: _Rows = [
        ("input", "in features", in_features, "contraction"),
        ("weight", "in features", in_features, "contraction"),
        ("output", "out features", out_features, "output"),
    ]
    return _records(rows, precision, compute_capability)


def convolution_alignment(
    conv: Convolution, *, precision: str = "fp16", compute_capability: tuple[int, int]
) -> tuple[OperandAlignment, ...]:
    """Alignment of an NHWC convolution, the same in all three passes: only its channels count.

    In NCHW the Tensor Core kernels transpose to NHWC first, so the same dimensions count.
    """
    rows: _Rows = [
        ("input", "C", conv.c_in, "contraction"),
        ("weight", "C/groups", conv.c_in // conv.groups, "contraction"),
        ("output", "K", conv.c_out, "output"),
    ]
    return _records(rows, precision, compute_capability)


def attention_alignment(
    kv_len: int, head_dim: int, *, fused: bool, precision: str = "fp16", compute_capability: tuple[int, int]
) -> tuple[OperandAlignment, ...]:
    """Alignment of softmax(Q K^T) V: the head dimension, and where it is not fused the key length of the scores."""
    rows: _Rows = [("Q, K, V and output", "head dim", head_dim, "contraction")]
    if not fused:
        rows += [("scores", "key length", kv_len, "output")]
    return _records(rows, precision, compute_capability)


def _records(rows: _Rows, precision: str, compute_capability: tuple[int, int]) -> tuple[OperandAlignment, ...]:
    if precision not in ELEMENT_BYTES:
        raise BadInputError(f"unknown precision {precision!r}: give one of {', '.join(ELEMENT_BYTES)}")
    if compute_capability < _TENSOR_CORES_SINCE.get(precision, (99, 0)):
        return ()
    element_bytes = ELEMENT_BYTES[precision]
    best_bytes = CACHE_LINE_BYTES if compute_capability >= (8, 0) else GOOD_BYTES
    below: Literal["refused", "slow"] = "refused" if precision == "fp8" else "slow"
    records = []
    for operand, dimension, size, role in rows:
        if np.ndim(whole(dimension, size)):
            raise BadInputError(f"{dimension} must be one whole number, got an array")
        aligned = alignment_bytes(size, element_bytes)
        records.append(
            OperandAlignment(
                operand=operand,
                dimension=dimension,
                size=int(size),
                alignment_bytes=int(aligned),
                verdict="best" if aligned >= best_bytes else "good" if aligned >= GOOD_BYTES else below,
                pad_to=int(pad_to_bytes(size, element_bytes, GOOD_BYTES)),
                pad_to_best=int(pad_to_bytes(size, element_bytes, best_bytes)),
                measured_rate=measured_rate(role, aligned)
                if element_bytes == 2 and compute_capability >= (8, 0)
                else None,
            )
        )
    return tuple(records)
