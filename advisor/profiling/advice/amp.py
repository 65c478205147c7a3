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
CONVERSION_ERROR = 0.06
_NCHW_KERNELS = 3  # a Tensor Core convolution of NCHW tensors is framed by two changes of layout


def under_amp(ops: Sequence[Op], parameters: int, tensors: int, *, nchw: bool) -> tuple[Op, ...]:
    """The operations with 2-byte operands where autocast has them, and the casts of the weights.

    An estimate, off by CONVERSION_ERROR: which tensors between two operators stay in FP32 is not followed, only what
    kind each operator is.
    """
    converted = [_converted(op, nchw=nchw) for op in ops]
    if any(op.kind in _PRODUCTS and op.dtype == "fp32" for op in ops) and tensors:
        cast = Op(
            kind="copy", name="_to_copy", phase="forward", dtype="fp32", read_bytes=(4 * parameters, 0),
            write_bytes=(2 * parameters, 0), kernels=tensors,
        )  # fmt: skip
        converted.append(cast)
    return tuple(converted)


def _converted(op: Op, *, nchw: bool) -> Op:
    if op.dtype != "fp32" or op.kind in _IN_FP32 or op.name in _FP32_NAMES:
        return op
    kernels = _NCHW_KERNELS if nchw and op.kind.startswith("conv") else op.kernels
    return msgspec.structs.replace(
        op, dtype="fp16", read_bytes=_halved(op.read_bytes), write_bytes=_halved(op.write_bytes), kernels=kernels
    )


def _halved(line: Affine) -> Affine:
    return line[0] // 2, line[1] // 2
