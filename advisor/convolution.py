"""A convolution as the matrix products that compute it (implicit GEMM), in all three passes of training.

C[m, n] = A[m, k] B[k, n] with n the contiguous dimension of C, tensors in NHWC, filters in K R S C:

    fprop   m = N P Q         n = C_out/g         k = C_in/g R S     y from x and w
    dgrad   m = N H W         n = C_in/g          k = C_out/g R S    dx from dy and w, stride 1
    wgrad   m = C_out/g       n = C_in/g R S      k = N P Q          dw from dy and x

g groups are g independent products. At strides above 1 dgrad is up to stride_h x stride_w products: a pixel of dx
is reached only by the filter taps that fall on it, and which these are depends on its position modulo the stride.
Pixels reached by no tap (1x1 filters at stride 2 leave three of four) are set to zero without a product.

The batch N steps through m in fprop and dgrad; in wgrad it is the contraction, so there split-K decides.

Sources: NVIDIA, "Convolutional Layers User's Guide", section 2.3 and table 1,
https://docs.nvidia.com/deeplearning/performance/dl-performance-convolutional/; strided dgrad: NVIDIA CUTLASS,
media/docs/cpp/implicit_gemm_convolution.md.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from advisor.errors import BadInputError
from advisor.quantization import Ints, ceil_div, gemm_flops, whole

Pass = Literal["fprop", "dgrad", "wgrad"]


@dataclass(frozen=True)
class Gemm:
    """`batch` equal products C[m, n] = A[m, k] B[k, n]; ints, or arrays that broadcast."""

    m: Ints
    n: Ints
    k: Ints
    batch: Ints = 1

    @property
    def flops(self) -> Ints:
        """2 m n k batch."""
        return gemm_flops(self.m, self.n, self.k, self.batch)


@dataclass(frozen=True)
class Convolution:
    """A forward 2-D convolution: N x C x H x W by K filters of C/groups x R x S.

    Batch, image and channels are ints or integer arrays that broadcast (the batch an array: a whole sweep at once);
    filter, stride, padding, dilation and groups are ints. Raises BadInputError for sizes that are no convolution.
    """

    batch: Ints
    c_in: Ints
    height: Ints
    width: Ints
    c_out: Ints
    filter_h: int
    filter_w: int
    stride_h: int = 1
    stride_w: int = 1
    pad_h: int = 0
    pad_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = whole(field.name, getattr(self, field.name), least=0 if field.name.startswith("pad") else 1)
            if field.type == "int" and np.ndim(value):
                raise BadInputError(f"{field.name} must be one whole number, got an array")
            object.__setattr__(self, field.name, value)
        if np.any(self.c_in % self.groups) or np.any(self.c_out % self.groups):
            raise BadInputError(
                f"{self.groups} groups divide neither or only one of {self.c_in} and {self.c_out} channels"
            )
        for side, size, taps, pad, dilation in (
            ("height", self.height, self.filter_h, self.pad_h, self.dilation_h),
            ("width", self.width, self.filter_w, self.pad_w, self.dilation_w),
        ):
            reach = dilation * (taps - 1) + 1
            if np.any(size + 2 * pad < reach):
                raise BadInputError(f"{side} {size} with padding {pad} is smaller than the filter's reach of {reach}")

    @property
    def out_height(self) -> Ints:
        """P: floor((H + 2 pad - dilation (R - 1) - 1) / stride) + 1."""
        return (self.height + 2 * self.pad_h - self.dilation_h * (self.filter_h - 1) - 1) // self.stride_h + 1

    @property
    def out_width(self) -> Ints:
        """Q, as P."""
        return (self.width + 2 * self.pad_w - self.dilation_w * (self.filter_w - 1) - 1) // self.stride_w + 1

    def gemms(self, pass_: Pass) -> tuple[Gemm, ...]:
        """The products of one pass: one of them, or one per residue class of the stride for a strided dgrad."""
        if pass_ not in get_args(Pass):
            raise BadInputError(f"unknown pass {pass_!r}: fprop, dgrad or wgrad")
        c_in, c_out = self.c_in // self.groups, self.c_out // self.groups
        taps = self.filter_h * self.filter_w
        pixels = self.batch * self.out_height * self.out_width
        if pass_ == "fprop":
            return (Gemm(pixels, c_out, c_in * taps, self.groups),)
        if pass_ == "wgrad":
            return (Gemm(c_out, c_in * taps, pixels, self.groups),)
        rows = _residue_classes(self.height, self.filter_h, self.stride_h, self.pad_h, self.dilation_h)
        columns = _residue_classes(self.width, self.filter_w, self.stride_w, self.pad_w, self.dilation_w)
        return tuple(
            Gemm(self.batch * height * width, c_in, c_out * (taps_h * taps_w), self.groups)
            for height, taps_h in rows
            for width, taps_w in columns
        )

    def flops(self, pass_: Pass = "fprop") -> Ints:
        """FLOP of one pass, products with the zeros of the padding counted, as the libraries compute them.

        fprop and wgrad: 2 N P Q K R S C/g, which is what `torch.utils.flop_counter` counts for every pass. dgrad
        equals it exactly where H = P stride_h and W = Q stride_w ("same" padding), and otherwise differs by the
        taps that reach past an edge.
        """
        return sum(gemm.flops for gemm in self.gemms(pass_))

    @property
    def useful_flops(self) -> Ints:
        """FLOP without the products with padding: the same in all three passes, at any stride."""
        rows = _taps_inside(self.height, self.out_height, self.filter_h, self.stride_h, self.pad_h, self.dilation_h)
        columns = _taps_inside(self.width, self.out_width, self.filter_w, self.stride_w, self.pad_w, self.dilation_w)
        return 2 * self.batch * self.c_out * (self.c_in // self.groups) * rows * columns


def _residue_classes(size: Ints, taps: int, stride: int, pad: int, dilation: int) -> list[tuple[Ints, int]]:
    """(pixels along one side, taps reaching each) for every class of (pixel + pad) modulo the stride that has both."""
    classes = []
    for residue in range(stride):
        reaching = sum(tap * dilation % stride == residue for tap in range(taps))
        pixels = (size + pad - 1 - residue) // stride - (pad - 1 - residue) // stride
        if reaching and np.any(pixels):
            classes.append((pixels, reaching))
    return classes


def _taps_inside(size: Ints, out_size: Ints, taps: int, stride: int, pad: int, dilation: int) -> Ints:
    """Pairs of (output pixel, tap) along one side whose input pixel lies inside the image."""
    total: Ints = 0
    for tap in range(taps):
        offset = tap * dilation - pad  # input pixel = output pixel x stride + offset, inside from 0 to size - 1
        first = max(0, ceil_div(-offset, stride))
        last = np.minimum(out_size - 1, (size - 1 - offset) // stride)
        total = total + np.maximum(last - first + 1, 0)
    return total if np.ndim(total) else operator.index(total)
