"""One convolution as sizes: what follows from them where the trace does not say, its matrix product and its name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from advisor.convolution import Convolution, Pass
from advisor.errors import BadInputError
from advisor.profiling.linking.calls import LARGEST, Shape
from advisor.profiling.linking.dtypes import element_type
from advisor.profiling.records import Product

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


def conv_product(shapes: ConvShapes, pass_: Pass, operand: str) -> Product | None:
    """The matrix product of one pass of the layer; None where its sizes are impossible or empty.

    `operand`: element type as the trace names it.
    """
    ran = _TRANSPOSED_PASS[pass_] if shapes.transposed else pass_
    if min(*shapes.size, *shapes.out_size) < 1:
        return None
    convolution = shapes.convolution()
    if convolution is not None:
        gemms = convolution.gemms(ran)
        if not gemms:
            return None
        largest = max(gemms, key=lambda gemm: int(gemm.flops))
        m, n, k, flops = int(largest.m), int(largest.n), int(largest.k), int(convolution.flops(ran))
    else:
        m, n, k, flops = _implicit_gemm(shapes, ran)
    dtype, element_bytes = element_type(operand)
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


def infer_axis(size: int, out: int, taps: int) -> tuple[int, int, int, bool] | None:
    """(stride, padding, dilation, whether others would do as well) that lead from `size` to `out` along one side.

    Odd filters: 'same' padding first, then none; even ones (patches): none first; then the smallest. No dilation unless
    nothing else fits. Of several strides size / out, which is exact for 'same' padding and patches. None: none fits.
    """
    for dilation in (1, 2, 4, 3, 6, 8, 12, 16, 18, 24, 32, 36):
        if dilation > 1 and taps == 1:
            break
        reach = dilation * (taps - 1) + 1
        same = (reach - 1) // 2
        ordinary = (same, 0) if taps % 2 else (0, same)
        paddings = dict.fromkeys((*ordinary, *range(1, min(max(reach, 8), 64))))
        fitting = [(stride, p) for p in paddings if (stride := _stride(size, size + 2 * p - reach, out)) is not None]
        if fitting:
            stride, padding = fitting[0]
            return stride, padding, dilation, len(fitting) > 1 and padding not in ordinary
    return None


def _stride(size: int, span: int, out: int) -> int | None:
    """A stride with span // stride + 1 == out."""
    if span < 0 or out < 1:
        return None
    if out == 1:
        return span + 1 if span else 1
    least, most = span // out + 1, span // (out - 1)
    if least > most:
        return None
    exact = size // out
    return exact if least <= exact <= most else least


def sizes_out(size: Shape, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """Height and width of the result; not positive where the filter reaches past the image."""
    return tuple(
        (h + 2 * p - d * (r - 1) - 1) // s + 1
        for h, r, s, p, d in zip(size, weight[2:], stride, padding, dilation, strict=True)
    )


def sizes_in(out: Shape, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """The smallest input with that output."""
    return tuple(
        max((q - 1) * s - 2 * p + d * (r - 1) + 1, 1)
        for q, r, s, p, d in zip(out, weight[2:], stride, padding, dilation, strict=True)
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


def _two(sizes: Shape, first: int) -> tuple[int, int]:
    return (first, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _times(sizes: Shape) -> str:
    return "x".join(str(size) for size in sizes)
