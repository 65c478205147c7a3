"""What the three passes of a convolution share: its sizes, how it is cut into tiles, checks, launching.

Tensors are logically N x C x H x W, as PyTorch's, in channels_last memory: N, H, W, C from slowest to fastest. Filters
K x C x R x S lie as K, R, S, C.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (what `triton.jit` decorates is Triton's language: its arguments have no Python types)

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import triton

from kernels.matmul import DTYPES, LONGEST, WIDE, _capability, _sms, check_cut

ConvPass = Literal["forward", "dgrad", "wgrad"]
Pair = tuple[int, int]  # along the height and the width


@dataclass(frozen=True)
class ConvConfig:
    """How the implicit matrix product is cut: tile sizes in elements, pipeline stages, warps per CTA.

    group_m: rows of tiles walked together. split_k: parts of the K loop run by different CTAs.
    Raises ValueError for what no kernel can be made of.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    stages: int
    warps: int
    group_m: int = 8
    split_k: int = 1

    def __post_init__(self) -> None:
        check_cut(self, ("stages", "group_m", "split_k"))

    @property
    def tile(self) -> tuple[int, int, int]:
        """M, N and K of the tile."""
        return self.tile_m, self.tile_n, self.tile_k

    def __str__(self) -> str:
        split = f" split{self.split_k}" if self.split_k > 1 else ""
        return f"{self.tile_m}x{self.tile_n}x{self.tile_k} s{self.stages} w{self.warps}{split}"


INTERPRETER_CONFIG = ConvConfig(32, 32, 32, stages=1, warps=4)  # the default where nothing can be fast


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution of one group. Raises ValueError for what is none, or too large for 32-bit indices."""

    batch: int
    c_in: int
    height: int
    width: int
    c_out: int
    filter_h: int
    filter_w: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2 or not all(type(side) is int for side in pair):
                raise ValueError(f"{name} is {pair!r}: it must be two whole numbers (height, width)")
            if min(pair) < least:
                raise ValueError(f"{name} is {pair}: both must be {least} or more")
        for side, size, taps, pad, dilation in (
            ("height", self.height, self.filter_h, self.padding[0], self.dilation[0]),
            ("width", self.width, self.filter_w, self.padding[1], self.dilation[1]),
        ):
            reach = dilation * (taps - 1) + 1
            if size + 2 * pad < reach or taps < 1:
                raise ValueError(
                    f"{side} {size} with padding {pad} is less than the reach {reach} of the filter: pad, or crop it"
                )
        rows = self.batch * max(self.height * self.width, self.out_height * self.out_width)
        image = max(self.height * self.width * self.c_in, self.out_height * self.out_width * self.c_out)
        for what, count in (
            ("pixels of the batch", rows),
            ("elements of one image", image),
            ("weights", self.c_out * self.columns),
        ):
            if count > LONGEST:
                raise ValueError(f"{count} {what} pass the {LONGEST} that 32-bit indices reach: split the batch")

    @classmethod
    def of(
        cls, x_shape: Sequence[int], w_shape: Sequence[int], stride: Pair, padding: Pair, dilation: Pair
    ) -> Geometry:
        """From the shapes N x C x H x W of x and K x C x R x S of w."""
        batch, c_in, height, width = x_shape
        c_out, _, filter_h, filter_w = w_shape
        return cls(batch, c_in, height, width, c_out, filter_h, filter_w, stride, padding, dilation)

    @property
    def out_height(self) -> int:
        """P = floor((H + 2 pad - dilation (R - 1) - 1) / stride) + 1."""
        reach = self.dilation[0] * (self.filter_h - 1) + 1
        return (self.height + 2 * self.padding[0] - reach) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Q, as P."""
        reach = self.dilation[1] * (self.filter_w - 1) + 1
        return (self.width + 2 * self.padding[1] - reach) // self.stride[1] + 1

    @property
    def taps(self) -> int:
        """R S."""
        return self.filter_h * self.filter_w

    @property
    def columns(self) -> int:
        """R S C, the weights of one output channel."""
        return self.taps * self.c_in

    @property
    def pointwise(self) -> bool:
        """Whether it is a plain matrix product: one tap, on every pixel of x."""
        return self.taps == 1 and self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """N, C, H, W."""
        return self.batch, self.c_in, self.height, self.width

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """N, K, P, Q."""
        return self.batch, self.c_out, self.out_height, self.out_width

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """K, C, R, S."""
        return self.c_out, self.c_in, self.filter_h, self.filter_w


def check_groups(groups: int) -> None:
    """Raise ValueError for grouped and depthwise convolutions."""
    if groups != 1:
        raise ValueError(
            f"groups is {groups}: these kernels take 1 only; grouped and depthwise convolutions are left to cuDNN "
            "(torch.nn.functional.conv2d)"
        )


def check_tensors(function: Any, **tensors: torch.Tensor) -> None:
    """Raise ValueError unless all are FP16 or all BF16, on one device that the kernel runs on, and channels_last."""
    (first_name, first), *others = tensors.items()
    for name, tensor in tensors.items():
        if tensor.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it must have four dimensions")
        if not tensor.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(
                f"{name} has strides {tensor.stride()}: call .contiguous(memory_format=torch.channels_last)"
            )
    if first.dtype not in DTYPES.values() or any(other.dtype != first.dtype for _, other in others):
        found = ", ".join(f"{name} is {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"{found}: all must be torch.float16 or all torch.bfloat16")
    for name, other in others:
        if other.device != first.device:
            raise ValueError(f"{first_name} is on {first.device}, {name} on {other.device}: move one of them")
    if first.device.type != "cuda" and isinstance(function, triton.runtime.JITFunction):
        raise ValueError(
            f"{first_name} is on {first.device}: move it to an NVIDIA GPU, or set TRITON_INTERPRET=1 before Python "
            "starts"
        )


def output(out: torch.Tensor | None, shape: tuple[int, int, int, int], like: torch.Tensor) -> torch.Tensor:
    """`out` after a check (ValueError), or a new tensor in channels_last memory, not initialised."""
    if out is None:
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    if tuple(out.shape) != shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}: make it {shape} {like.dtype} on {like.device}"
        )
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out has strides {out.stride()}: it must be in torch.channels_last memory")
    return out


def align(channels: int) -> int:
    """Elements of a pixel that can be read or written at once: the largest of 8, 4, 2 and 1 that divides them."""
    return next(of for of in (WIDE, 4, 2, 1) if channels % of == 0)


def default_conv_config(
    pass_: ConvPass, m: int, n: int, k: int, device: torch.device, *, aligned: bool = True
) -> ConvConfig:
    """The curated configuration for an implicit product of these sizes, its K loop split or not, by the rule of
    `kernels.choice`. aligned: channels are multiples of 8. On the CPU interpreter `INTERPRETER_CONFIG`.
    """
    check_pass(pass_)
    return _default_config(pass_, m, n, k, device, aligned)


@functools.lru_cache(maxsize=4096)
def _default_config(pass_: ConvPass, m: int, n: int, k: int, device: torch.device, aligned: bool) -> ConvConfig:
    from kernels.choice import ranked, usable
    from kernels.configs import conv_configs

    capability = _capability(device)
    if capability is None:
        return INTERPRETER_CONFIG
    curated = usable(conv_configs(capability, pass_), aligned=aligned)
    # each whole and split: `ranked` tries every number of splits of those that have more than one
    either = [replace(config, split_k=split_k) for config in curated for split_k in (1, 2)]
    return ranked(either, m, n, k, sms=_sms(device), capability=capability)[0]


def check_pass(pass_: str) -> None:
    """Raise ValueError for an unknown pass."""
    if pass_ not in get_args(ConvPass):
        raise ValueError(f"unknown pass {pass_!r}: it is one of {', '.join(get_args(ConvPass))}")
