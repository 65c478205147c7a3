"""What a step traced in FP32 would be under automatic mixed precision."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from advisor.workload.schema import Affine, Op

_PRODUCTS = frozenset({"gemm", "bmm", "conv_fprop", "conv_dgrad", "conv_wgrad", "attention_fprop", "attention_bprop"})
# Autocast computes these in FP32 (PyTorch, "Automatic Mixed Precision package", CUDA ops that autocast to float32):
# their tensors keep 4 bytes, or take half of them as they arrive.
_IN_FP32 = frozenset({"norm", "softmax", "loss", "reduction", "embedding", "other"})
_FP32_NAMES = frozenset({"pow", "exp", "expm1", "log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "softplus",
                         "tan", "sinh", "cosh", "erfinv", "renorm"})  # fmt: skip
# Mean |ln(GPU time of a step so converted / of the step traced under AMP)| over the catalogue's 26 models at batch 64.
CONVERSION_ERROR = 0.04
# The same of the operators that the host launches, under AMP over in FP32.
LAUNCHES_ERROR = 0.05
_NCHW_KERNELS = 3  # a Tensor Core convolution of NCHW tensors is framed by two changes of layout


def under_amp(ops: Sequence[Op], parameters: int, *, nchw: bool) -> tuple[Op, ...]:
    """The operations with 2-byte operands where autocast has them, and the casts that it adds.

    An estimate, off by CONVERSION_ERROR: which tensors between two operators stay in FP32 is not followed, only what
    kind each operator is.
    """
    converted = [_converted(op, nchw=nchw) for op in ops]
    if not any(op.kind in _PRODUCTS and op.dtype == "fp32" for op in ops):
        return tuple(converted)
    converted += _casts_of_weights(ops, parameters)
    converted += [_cast_beside(op) for op in ops if op.kind == "norm" and op.dtype == "fp32"]
    return tuple(converted)


def _casts_of_weights(ops: Sequence[Op], parameters: int) -> list[Op]:
    """One of each weight and bias of a layer on the way forward, one of its gradient on the way back.

    Linear layers are taken to have a bias, convolutions too unless there is batch normalisation.
    """
    calls = {
        kind: sum(op.count for op in ops if op.kind == kind and op.phase == "forward")
        for kind in ("gemm", "conv_fprop")
    }
    biased = all(op.kind != "batch_norm" for op in ops)
    tensors = max(1, 2 * calls["gemm"] + (1 + biased) * calls["conv_fprop"])
    wide, narrow = (4 * parameters, 0), (2 * parameters, 0)
    casts = [Op("copy", "_to_copy", "forward", "fp32", wide, narrow, kernels=tensors)]
    if any(op.phase == "backward" for op in ops):
        casts.append(Op("copy", "_to_copy", "backward", "fp16", narrow, wide, kernels=tensors))
    return casts


def _cast_beside(op: Op) -> Op:
    """The cast of a normalisation's result, or of the gradient that comes back to it."""
    wide, narrow = op.write_bytes, _halved(op.write_bytes)
    if op.phase == "forward":
        return Op("copy", "_to_copy", "forward", "fp32", wide, narrow, count=op.count)
    return Op("copy", "_to_copy", "backward", "fp16", narrow, wide, count=op.count)


def _converted(op: Op, *, nchw: bool) -> Op:
    if op.dtype != "fp32" or op.kind in _IN_FP32 or op.name in _FP32_NAMES:
        return op
    kernels = _NCHW_KERNELS if nchw and op.kind.startswith("conv") else op.kernels
    return msgspec.structs.replace(
        op, dtype="fp16", read_bytes=_halved(op.read_bytes), write_bytes=_halved(op.write_bytes), kernels=kernels
    )


def _halved(line: Affine) -> Affine:
    return line[0] // 2, line[1] // 2
