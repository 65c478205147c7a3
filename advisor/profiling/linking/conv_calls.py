"""Convolution operators of a trace, of all years and libraries, as `Convolution`s and matrix products.

Where the trace did not record stride and padding (PyTorch before 1.13, or no shapes asked for), they follow from
the sizes of input, filter and output. A transposed convolution is the dgrad of a convolution whose input is its
result: its forward is billed as dgrad, its backward towards the input as fprop.

Argument orders: PyTorch, aten/src/ATen/native/native_functions.yaml (1.8 to 2.9).
"""

from __future__ import annotations

from typing import NamedTuple

from advisor.convolution import Pass
from advisor.profiling.linking.calls import Call, Shape, Situation
from advisor.profiling.linking.conv_shapes import ConvShapes, infer_axis, sizes_in, sizes_out


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
    if y is not None and (y[0] != batch or y[1] != c_out):
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
            found = [infer_axis(*sizes) for sizes in zip(x[2:], y[2:], weight[2:], strict=True)]
            axes = [axis for axis in found if axis is not None]
            if len(axes) < d:
                return None
            stride, padding, dilation = (tuple(axis[i] for axis in axes) for i in range(3))
            if any(axis[3] for axis in axes):
                doubt = "several paddings fit the sizes in the trace: the smallest is assumed"
        if recorded:
            doubt = "the recorded stride and padding do not fit the sizes in the trace"
    size = x[2:] if x is not None else sizes_in(y[2:] if y is not None else (), weight, stride, padding, dilation)
    out_size = y[2:] if y is not None else sizes_out(size, weight, stride, padding, dilation)
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


def _agrees(x: Shape | None, y: Shape | None, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> bool:
    if min(stride) < 1 or min(dilation) < 1:
        return False
    if x is None or y is None:
        return True
    return sizes_out(x[2:], weight, stride, padding, dilation) == y[2:]


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
