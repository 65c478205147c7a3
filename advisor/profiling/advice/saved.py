"""What is alive when backward begins, from the operations of the forward pass and the rules of autograd.

A trace tells no tensor from another, so each operation counts by what it adds to what is kept: its result, less what it
reads where that is kept by nobody once the result is there. The formulas saved for backward are PyTorch's
(tools/autograd/derivatives.yaml).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from advisor.workload.catalogue import LARGEST_SIZE
from advisor.workload.schema import Affine, Op

# Of these autograd keeps the input, so that in place they work on a copy of it.
_IN_PLACE_ON_A_COPY = frozenset(
    {"silu_", "hardswish_", "hardtanh_", "clamp_", "hardsigmoid_", "mish_", "elu_", "gelu_"}
)
_MOVES = frozenset({"clone", "contiguous", "roll", "constant_pad_nd"})
_KEEP_THE_RESULT = frozenset({"relu", "clamp_min", "sigmoid", "pow", "masked_fill", "where"})  # or what is kept anyway
_OF_TRANSFORMERS = frozenset({"norm", "bmm", "attention_fprop"})
_AT_THE_LOSS = 3  # log-probabilities, and on the way back their gradient and that of the scores
_OPERANDS = 1.25  # reads over writes from which a sum has two whole operands, not one that is broadcast


def alive_at_backward(ops: Sequence[Op]) -> Affine:
    """Bytes of activations, and of temporaries at the loss, as a + b*B. Parameters and their gradients are apart."""
    forward = [op for op in ops if op.phase == "forward"]
    kept = [_kept(op) for op in forward if not op.name.endswith("_")]
    growth = sum(part[1] for part in kept)
    constant = sum(part[0] for part in kept)

    def written(wanted: Callable[[Op], bool]) -> int:
        return sum(op.count * op.write_bytes[1] for op in forward if wanted(op))

    copied = written(lambda op: op.name in ("clone", "contiguous"))
    growth += min(copied, written(lambda op: op.name in _IN_PLACE_ON_A_COPY))
    probabilities = written(lambda op: op.name == "_softmax")
    dropped = min(probabilities, sum(op.count * op.read_bytes[1] for op in forward if op.name == "native_dropout"))
    growth += dropped  # the next product keeps what dropout leaves of them
    narrowed = sum(op.count * op.read_bytes[1] for op in forward if _narrows(op))
    if any(op.kind == "bmm" and op.dtype == "fp16" for op in forward):
        narrowed -= probabilities - dropped  # softmax in FP32 keeps its result beside the cast one
    of_norms = written(lambda op: op.kind == "norm" or (op.name == "mul" and _kept(op)[1] > 0))
    growth -= max(0, min(narrowed, of_norms + dropped))  # each once, however many layers cast it
    first = next((op for op in forward if op.kind in ("conv_fprop", "gemm")), None)
    if first is not None and first.kind == "conv_fprop":  # the images, in FP32
        growth += first.read_bytes[1] * (2 if first.dtype == "fp16" else 1)
    constant += _gradients_of_the_head(ops)
    return min(max(constant, 0), LARGEST_SIZE), min(max(growth, 0), LARGEST_SIZE)


def _narrows(op: Op) -> bool:
    """Whether it casts activations from FP32 to a short type."""
    return op.kind == "copy" and op.name in ("_to_copy", "copy_") and op.read_bytes[1] > 1.5 * op.write_bytes[1] > 0


def _kept(op: Op) -> Affine:
    """What one operation, all calls of it, adds to what is kept."""
    constant, wrote = (op.count * part for part in op.write_bytes)
    read = op.count * op.read_bytes[1]
    broadcast = op.read_bytes[0] > 0
    if _narrows(op):
        return constant, wrote
    if op.name in _MOVES or (op.kind == "copy" and op.name != "cat"):
        return constant, wrote - read  # the copy instead of what was copied; of a weight, beside it
    if op.name in ("add", "sub"):
        if read >= _OPERANDS * wrote:  # of two results that nobody keeps
            return 0, max(0, 2 * wrote - read)
        return 0, 0 if broadcast or read > wrote else wrote
    if op.name in ("mul", "div"):
        return 0, wrote if broadcast or read > wrote else 0  # by a number: keeps nothing
    if op.name == "_softmax":
        return 0, wrote - read
    if op.name in _KEEP_THE_RESULT:
        return 0, 0
    if op.name == "native_dropout":  # its mask
        itemsize = 2 if wrote - read > 0.4 * read else 4
        return 0, read // itemsize
    if op.name == "_log_softmax":
        return _AT_THE_LOSS * constant, _AT_THE_LOSS * wrote
    return constant, wrote


def _gradients_of_the_head(ops: Sequence[Op]) -> int:
    """FP32 gradients of the linear layers behind convolutions: they come while all activations are still alive."""
    forward = {op.kind for op in ops if op.phase == "forward"}
    if "conv_fprop" not in forward or forward & _OF_TRANSFORMERS:
        return 0
    products = [op for op in ops if op.kind == "gemm" and op.phase == "backward"]
    return sum(op.count * op.write_bytes[0] * (2 if op.dtype == "fp16" else 1) for op in products)
