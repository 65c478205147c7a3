"""Convolution operators of a trace, of all years and libraries, as `Convolution`s and matrix products.

Where the trace did not record stride and padding (PyTorch before 1.13, or no shapes asked for), they follow from
the sizes of input, filter and output. A transposed convolution is the dgrad of a convolution whose input is its
result: its forward is billed as dgrad, its backward towards the input as fprop.

Argument orders: PyTorch, aten/src/ATen/native/native_functions.yaml (1.8 to 2.9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from advisor.convolution import Convolution, Pass
from advisor.errors import BadInputError
from advisor.profiling.calls import LARGEST, Call, Shape, Situation
from advisor.profiling.dtypes import element_type
from advisor.profiling.records import Product


class _Signature(NamedTuple):
    """Positions of an operator's arguments; None: it has no such argument. `pass_` None: it runs several passes."""

    pass_: Pass | None
    x: int | None
    weight: int | None
    gradient: int | None = None
    stride: int | None = None
    padding: int | None = None
    dilation: int | None = None
    groups: int | None = None
    transposed: int | bool = False  # position of a flag, or what is always so
    mask: int | None = None  # which gradients are wanted


_FORWARD: dict[str, tuple[int, ...]] = {  # stride, padding, dilation, groups
    "conv1d": (3, 4, 5, 6), "conv2d": (3, 4, 5, 6), "conv3d": (3, 4, 5, 6), "cudnn_convolution": (3, 2, 4, 5),
    "cudnn_convolution_relu": (3, 4, 5, 6), "cudnn_convolution_add_relu": (5, 6, 7, 8),
    "mkldnn_convolution": (4, 3, 5, 6), "_conv_depthwise2d": (4, 5, 6), "conv_depthwise3d": (4, 5, 6),
    "_slow_conv2d_forward": (4, 5), "slow_conv3d_forward": (4, 5), "slow_conv_dilated2d": (4, 5, 6),
    "slow_conv_dilated3d": (4, 5, 6), "thnn_conv2d_forward": (4, 5), "thnn_conv_depthwise2d_forward": (4, 5, 6),
}  # fmt: skip
_SIGNATURES: dict[str, _Signature] = {
    **{name: _Signature("fprop", 0, 1, None, *where) for name, where in _FORWARD.items()},
    **{name: _Signature("fprop", 0, 1, None, 3, 4, 5, 8, 6)
       for name in ("convolution", "_convolution", "convolution_overrideable")},
    **{name: _Signature("fprop", 0, 1, None, 3, 4, 7, 6, True)
       for name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")},
    "cudnn_convolution_transpose": _Signature("fprop", 0, 1, None, 4, 2, 5, 6, True),
    "convolution_backward": _Signature(None, 1, 2, 0, 4, 5, 6, 9, 7, 10),
    "convolution_backward_overrideable": _Signature(None, 1, 2, 0, 3, 4, 5, 8, 6, 9),
    "cudnn_convolution_backward": _Signature(None, 0, 2, 1, 4, 3, 5, 6, mask=10),
    "cudnn_convolution_backward_input": _Signature("dgrad", None, 2, 1, 4, 3, 5, 6),
    "cudnn_convolution_backward_weight": _Signature("wgrad", 2, None, 1, 4, 3, 5, 6),
    "cudnn_convolution_transpose_backward": _Signature(None, 0, 2, 1, 5, 3, 6, 7, True, 11),
    "cudnn_convolution_transpose_backward_input": _Signature("dgrad", None, 1, 0, 3, 2, 4, 5, True),
    "cudnn_convolution_transpose_backward_weight": _Signature("wgrad", 2, None, 1, 4, 3, 5, 6, True),
    "_conv_depthwise2d_backward": _Signature(None, 1, 2, 0, 4, 5, 6, mask=7),
    "thnn_conv_depthwise2d_backward": _Signature(None, 1, 2, 0, 4, 5, 6, mask=7),
    "conv_depthwise3d_backward": _Signature(None, 1, 2, 0, 4, 5, 6, mask=7),
    "_slow_conv2d_backward": _Signature(None, 1, 2, 0, 4, 5, mask=6),
    "thnn_conv2d_backward": _Signature(None, 1, 2, 0, 4, 5, mask=8),
}  # fmt: skip
_MASK_FIRST_TWO = {"[True, True": (True, True), "[True, False": (True, False), "[False, True": (False, True)}
_TRANSPOSED_PASS: dict[Pass, Pass] = {"fprop": "dgrad", "dgrad": "fprop", "wgrad": "wgrad"}


@dataclass(frozen=True)
class ConvShapes:
    """One convolution in 1 to 3 dimensions, as the convolution it is or is the transpose of."""

    batch: int
    c_in: int
    c_out: int
    size: Shape
    out_size: Shape
    taps: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    transposed: bool = False
    doubt: str | None = None  # what was assumed, because the trace does not tell

    def convolution(self) -> Convolution | None:
        """As the record of a 2-D convolution, one dimension as height 1; None in 3-D, or for impossible sizes."""
        if len(self.size) > 2:
            return None
        (h, w), (r, s), (p, q) = _two(self.size, 1), _two(self.taps, 1), _two(self.padding, 0)
        stride, dilation = _two(self.stride, 1), _two(self.dilation, 1)
        try:
            return Convolution(self.batch, self.c_in, h, w, self.c_out, r, s, *stride, p, q, *dilation, self.groups)
        except BadInputError:
            return None


def is_convolution(name: str) -> bool:
    """Whether an operator is a convolution of any pass."""
    return _short(name) in _SIGNATURES


def runs_both_gradients(name: str) -> bool:
    """Whether an operator computes the gradients of input and filter in one call."""
    signature = _SIGNATURES.get(_short(name))
    return signature is not None and signature.pass_ is None


def wanted_gradients(call: Call) -> tuple[bool, bool]:
    """(input's, filter's) of an operator that can compute both; both where the trace does not tell."""
    signature = _SIGNATURES[_short(call.name)]
    text = call.input(signature.mask) if signature.mask is not None else ""
    return next((both for start, both in _MASK_FIRST_TWO.items() if text.startswith(start)), (True, True))


def layer_pass(situation: Situation) -> Pass | None:
    """Which pass of its layer an operator's kernels run; a transposed layer's dgrad is still called dgrad here."""
    signature = _SIGNATURES[_short(situation.call.name)]
    return signature.pass_ or situation.pass_


def expected_result(call: Call) -> tuple[int, int, int] | None:
    """(dimensions, batch, channels) of a forward convolution's result."""
    signature = _SIGNATURES.get(_short(call.name))
    if signature is None or signature.pass_ != "fprop":
        return None
    x, weight = _argument(call, signature.x), _argument(call, signature.weight)
    if x is None or weight is None or len(x) != len(weight) or len(x) < 3 or not weight[1]:
        return None
    transposed = _transposed(call, signature)
    channels = weight[1] * _groups(call, signature, x, weight, transposed) if transposed else weight[0]
    return len(x), x[0], channels


def is_result(shape: Shape | None, expected: tuple[int, int, int] | None) -> bool:
    """Whether a tensor may be a convolution's result."""
    return shape is not None and expected is not None and len(shape) == expected[0] and shape[:2] == expected[1:]


def read_convolution(situation: Situation) -> ConvShapes | None:
    """The convolution of a call, from its own arguments, those of its caller and of its forward; None: unknown."""
    call = situation.call
    signature = _SIGNATURES.get(_short(call.name))
    if signature is None:
        return None
    x = _argument(call, signature.x) or _of_others(situation, "x")
    weight = _argument(call, signature.weight) or _of_others(situation, "weight")
    y = _argument(call, signature.gradient) or situation.output
    if signature.pass_ != "fprop" and y is None:
        y = situation.gradient
    if weight is None or not 3 <= len(weight) <= 5:
        return None
    if signature.pass_ == "fprop":
        if x is None:
            return None
        y = y if is_result(y, expected_result(call)) else None
    transposed = _transposed(call, signature)
    if transposed:
        x, y = y, x
    if (x is None and y is None) or any(s is not None and len(s) != len(weight) for s in (x, y)):
        return None
    return _resolve(call, signature, x, y, weight, transposed)


def conv_product(shapes: ConvShapes, pass_: Pass, call: Call) -> Product | None:
    """The matrix product of one pass of the layer, or None where its sizes are impossible or empty."""
    ran = _TRANSPOSED_PASS[pass_] if shapes.transposed else pass_
    convolution = shapes.convolution()
    if convolution is not None:
        gemms = convolution.gemms(ran)
        if not gemms:
            return None
        largest = max(gemms, key=lambda gemm: int(gemm.flops))
        m, n, k, flops = int(largest.m), int(largest.n), int(largest.k), int(convolution.flops(ran))
    else:
        m, n, k, flops = _implicit_gemm(shapes, ran)
    dtype, element_bytes = element_type(call.type_of(0) or call.type_of(1))
    if min(m, n, k, shapes.groups) < 1 or max(m, n, k) > LARGEST or flops >= 2**62:
        return None
    return Product("conv", m, n, k, shapes.groups, ran, convolution, flops, None, element_bytes, dtype)


def conv_layer(shapes: ConvShapes) -> str:
    """What a reader calls the layer: "conv 3>64 7x7/2 on 224x224"."""
    d = len(shapes.size)
    kind = {1: "conv1d", 2: "conv", 3: "conv3d"}[d]
    size = shapes.size
    c_in, c_out = shapes.c_in, shapes.c_out
    if shapes.transposed:
        kind, size, c_in, c_out = kind.replace("conv", "conv_transpose"), shapes.out_size, c_out, c_in
    depthwise = shapes.groups > 1 and shapes.groups == shapes.c_in
    channels = f"{c_in}" if depthwise and c_in == c_out else f"{c_in}>{c_out}"
    text = f"{'depthwise ' if depthwise else ''}{kind} {channels} {_times(shapes.taps)}"
    if max(shapes.stride) > 1:
        text += f"/{shapes.stride[0] if len(set(shapes.stride)) == 1 else _times(shapes.stride)}"
    if max(shapes.dilation) > 1:
        text += f" dilated {max(shapes.dilation)}"
    if shapes.groups > 1 and not depthwise:
        text += f" in {shapes.groups} groups"
    return f"{text} on {_times(size)}"


def _resolve(
    call: Call, signature: _Signature, x: Shape | None, y: Shape | None, weight: Shape, transposed: bool
) -> ConvShapes | None:
    d = len(weight) - 2
    c_out, group_in = weight[0], weight[1]
    groups = _groups(call, signature, x, weight, transposed)
    c_in = x[1] if x is not None else group_in * groups
    batch = (x or y or (0,))[0]
    if groups < 1 or c_in != group_in * groups or c_out % groups or min(batch, *weight) < 1:
        return None
    stride, padding, dilation = (
        _spread(call.numbers(where), d) if where is not None else None
        for where in (signature.stride, signature.padding, signature.dilation)
    )
    recorded = stride is not None and padding is not None
    dilation = dilation or (1,) * d
    doubt = None
    if stride is None or padding is None or not _agrees(x, y, weight, stride, padding, dilation):
        if x is None or y is None:
            doubt = "the size of its result or of its input is not in the trace: stride 1 and 'same' padding assumed"
            stride, padding, dilation = (1,) * d, tuple((taps - 1) // 2 for taps in weight[2:]), (1,) * d
        else:
            axes = [_infer_axis(*sizes) for sizes in zip(x[2:], y[2:], weight[2:], strict=True)]
            stride, padding, dilation = (tuple(axis[i] for axis in axes) for i in range(3))
            if any(axis[3] for axis in axes):
                doubt = "several paddings fit the sizes in the trace: the smallest is assumed"
        if recorded:
            doubt = "the recorded stride and padding do not fit the sizes in the trace"
    size = x[2:] if x is not None else _sizes_in(y, weight, stride, padding, dilation)
    out_size = y[2:] if y is not None else _sizes_out(size, weight, stride, padding, dilation)
    return ConvShapes(
        batch, c_in, c_out, size, out_size, weight[2:], stride, padding, dilation, groups, transposed, doubt
    )


def _groups(call: Call, signature: _Signature, x: Shape | None, weight: Shape, transposed: bool) -> int:
    text = call.input(signature.groups) if signature.groups is not None else ""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    if not transposed and x is not None and weight[1] > 0 and x[1] % weight[1] == 0:
        return x[1] // weight[1]
    return 1


def _transposed(call: Call, signature: _Signature) -> bool:
    flag = signature.transposed
    return flag if isinstance(flag, bool) else call.input(flag) == "True"


def _infer_axis(size: int, out: int, taps: int) -> tuple[int, int, int, bool]:
    """(stride, padding, dilation, whether others would do as well) that lead from `size` to `out` along one side.

    Odd filters: 'same' padding first, then none; even ones (patches): none first; then the smallest, with the smallest
    stride; no dilation unless nothing else fits.
    """
    for dilation in (1, 2, 4, 3, 6, 8, 12, 16, 18, 24, 32, 36):
        if dilation > 1 and taps == 1:
            break
        reach = dilation * (taps - 1) + 1
        same = (reach - 1) // 2
        fitting: list[tuple[int, int]] = []
        ordinary = (same, 0) if taps % 2 else (0, same)
        for padding in dict.fromkeys((*ordinary, *range(1, min(reach, 64)))):
            stride = _stride(size + 2 * padding - reach, out)
            if stride is not None:
                fitting.append((stride, padding))
        if fitting:
            stride, padding = fitting[0]
            return stride, padding, dilation, len(fitting) > 1 and padding not in ordinary
    return 1, (taps - 1) // 2, 1, True


def _stride(span: int, out: int) -> int | None:
    """The smallest stride with span // stride + 1 == out."""
    if span < 0 or out < 1:
        return None
    stride = span // out + 1  # the smallest with span // stride <= out - 1
    return stride if span // stride + 1 == out else None


def _agrees(x: Shape | None, y: Shape | None, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> bool:
    if min(stride) < 1 or min(dilation) < 1:
        return False
    if x is None or y is None:
        return True
    return _sizes_out(x[2:], weight, stride, padding, dilation) == y[2:]


def _sizes_out(size: Shape, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    return tuple(
        (h + 2 * p - d * (r - 1) - 1) // s + 1
        for h, r, s, p, d in zip(size, weight[2:], stride, padding, dilation, strict=True)
    )


def _sizes_in(y: Shape | None, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """The smallest input with that output."""
    assert y is not None
    return tuple(
        max((q - 1) * s - 2 * p + d * (r - 1) + 1, 1)
        for q, r, s, p, d in zip(y[2:], weight[2:], stride, padding, dilation, strict=True)
    )


def _implicit_gemm(shapes: ConvShapes, pass_: Pass) -> tuple[int, int, int, int]:
    """(m, n, k, FLOP) as `Convolution.gemms`, in any number of dimensions; of a strided dgrad the largest product."""
    c_in, c_out, taps = shapes.c_in // shapes.groups, shapes.c_out // shapes.groups, math.prod(shapes.taps)
    pixels = shapes.batch * math.prod(shapes.out_size)
    flops = 2 * pixels * c_in * c_out * taps * shapes.groups
    if pass_ == "fprop":
        return pixels, c_out, c_in * taps, flops
    if pass_ == "wgrad":
        return c_out, c_in * taps, pixels, flops
    reached = math.prod(-(-size // stride) for size, stride in zip(shapes.size, shapes.stride, strict=True))
    share = math.prod(-(-taps // stride) for taps, stride in zip(shapes.taps, shapes.stride, strict=True))
    return shapes.batch * reached, c_in, c_out * share, flops


def _of_others(situation: Situation, what: str) -> Shape | None:
    """Shape of input or filter as the caller (an operator of both gradients) or the forward operator has it."""
    for other in (situation.caller, situation.forward, situation.forward_top):
        signature = _SIGNATURES.get(_short(other.name)) if other is not None else None
        if other is not None and signature is not None:
            shape = _argument(other, signature.x if what == "x" else signature.weight)
            if shape is not None:
                return shape
    return None


def _argument(call: Call, where: int | None) -> Shape | None:
    return call.shape(where) if where is not None else None


def _short(name: str) -> str:
    return name.removeprefix("aten::")


def _spread(numbers: Shape | None, dimensions: int) -> Shape | None:
    """A list with one number per dimension; one number stands for all."""
    if numbers is None or len(numbers) not in (1, dimensions):
        return None
    return numbers * dimensions if len(numbers) == 1 else numbers


def _two(sizes: Shape, first: int) -> tuple[int, int]:
    return (first, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _times(sizes: Shape) -> str:
    return "x".join(str(size) for size in sizes)
