"""Wgrad of a 2-D convolution as an implicit matrix product.

    dw[k,r,s,c] = sum over n,p,q of  dy[n,p,q,k]  x[n, p stride + r dilation - pad, q stride + s dilation - pad, c]
    M = K, N = C R S, K = N P Q; 2 N P Q K C R S FLOP

The batch is in the contraction: M and N are often a few tiles, so the K loop is split over CTAs. Each split writes its
FP32 sums to a workspace [split_k, K, R S C], and a second kernel adds them in order: every run gives the same bits,
and dw is rounded once. Atomics would need dw zeroed in FP32 and a rounding pass as well.

Along K the pixel (n, p, q) moves by TILE_K, carried as in a sum of digits: no division in the loop. Where TILE_N
divides C all columns of a tile belong to one tap (ONE_TAP), and a pixel is inside the image for all of them or none.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (what `triton.jit` decorates is Triton's language: its arguments have no Python types)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.conv2d_gather import met_by_tap, pad
from kernels.conv2d_parts import (
    ConvConfig,
    Geometry,
    Pair,
    align,
    check_groups,
    check_tensors,
    default_conv_config,
    output,
)
from kernels.dot import dot
from kernels.matmul import WIDE, _multiple, _tile_of, launcher


def conv2d_wgrad_reference(
    x: torch.Tensor,
    dy: torch.Tensor,
    kernel_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """dw[K,C,R,S] in FP64, not rounded: for each tap the pixels it met, times dy."""
    geometry = Geometry.of(x.shape, (dy.shape[1], x.shape[1], *kernel_size), stride, padding, dilation)
    padded = pad(x.double(), padding)
    dw = x.new_zeros(geometry.w_shape, dtype=torch.float64)
    for r in range(geometry.filter_h):
        for s in range(geometry.filter_w):
            dw[:, :, r, s] = torch.einsum("nkpq,ncpq->kc", dy.double(), met_by_tap(padded, geometry, r, s))
    return dw


@triton.jit(
    do_not_specialize=[
        "batch", "height", "width", "c_in", "out_h", "out_w", "c_out", "filter_h", "filter_w", "stride_h", "stride_w",
        "pad_h", "pad_w", "dilation_h", "dilation_w",
    ]
)  # fmt: skip
def _wgrad_kernel(  # noqa: PLR0915  # the compiler takes most branches: each variant is a straight line
    x_ptr, dy_ptr, dw_ptr, batch, height, width, c_in, out_h, out_w, c_out, filter_h, filter_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr,
    PADDED: tl.constexpr, ONE_TAP: tl.constexpr, EVEN_K: tl.constexpr,
    X_ALIGN: tl.constexpr, DY_ALIGN: tl.constexpr,
):  # fmt: skip
    """One tile of dw, or of the parts of it that one split sums up.

    Rows and columns beyond the edge wrap to others, whose sums are not stored. Pixels beyond the last are masked in
    both operands: zero times a NaN is a NaN. PADDED: some taps fall beside the image.
    """
    C = _multiple(c_in, X_ALIGN)
    M = _multiple(c_out, DY_ALIGN)
    N = filter_h * filter_w * C
    tiles = tl.cdiv(M, TILE_M) * tl.cdiv(N, TILE_N)
    work = tl.program_id(0)
    split = work // tiles
    tile_m, tile_n = _tile_of(work % tiles, M, N, TILE_M, TILE_N, GROUP_M)
    rows = (tile_m * TILE_M + tl.arange(0, TILE_M)) % M
    if ONE_TAP:
        tap = tile_n * TILE_N // C
        channel = tile_n * TILE_N % C + tl.arange(0, TILE_N)
    else:
        cols = (tile_n * TILE_N + tl.arange(0, TILE_N)) % N
        tap = tl.max_constancy(cols // C, X_ALIGN)  # X_ALIGN divides C and TILE_N, so that many columns share a tap
        channel = cols % C
    tap_row = tap // filter_w * dilation_h - pad_h
    tap_col = tap % filter_w * dilation_w - pad_w
    # X_ALIGN columns lie side by side, the first at a multiple of it: said, as the compiler cannot follow the remainder
    place = tl.max_contiguous(tl.multiple_of((tap_row * width + tap_col) * C + channel, X_ALIGN), X_ALIGN)
    x_ptrs = x_ptr + place[None, :]
    dy_ptrs = dy_ptr + rows[:, None]

    pixels = batch * out_h * out_w
    all_steps = tl.cdiv(pixels, TILE_K)
    steps = tl.cdiv(all_steps, SPLIT_K)
    first = split * steps
    ks = first * TILE_K + tl.arange(0, TILE_K)
    q = ks % out_w
    p = ks // out_w % out_h
    n = ks // (out_h * out_w)
    move_q = TILE_K % out_w
    move_p = TILE_K // out_w % out_h
    move_n = TILE_K // (out_h * out_w)
    sums = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for _ in range(first, tl.minimum(first + steps, all_steps)):
        # int64: a batch can pass 2**31 elements, a single image cannot
        a_ptrs = dy_ptrs + (ks.to(tl.int64) * M)[None, :]
        row = p * stride_h
        col = q * stride_w
        b_ptrs = x_ptrs + (n.to(tl.int64) * (height * width * C) + (row * width + col) * C)[:, None]
        if PADDED:
            if ONE_TAP:
                inside = (
                    ((row + tap_row).to(tl.uint32) < height.to(tl.uint32))
                    & ((col + tap_col).to(tl.uint32) < width.to(tl.uint32))
                )[:, None]
            else:
                inside = ((row[:, None] + tap_row[None, :]).to(tl.uint32) < height.to(tl.uint32)) & (
                    (col[:, None] + tap_col[None, :]).to(tl.uint32) < width.to(tl.uint32)
                )
        if EVEN_K:
            a = tl.load(a_ptrs)
            b = tl.load(b_ptrs, mask=inside, other=0.0) if PADDED else tl.load(b_ptrs)
        else:
            a = tl.load(a_ptrs, mask=(ks < pixels)[None, :], other=0.0)
            b_mask = (ks < pixels)[:, None]
            if PADDED:
                b_mask = b_mask & inside
            b = tl.load(b_ptrs, mask=b_mask, other=0.0)
        sums = dot(a, b, sums)
        ks += TILE_K
        q += move_q
        p += move_p + (q >= out_w).to(tl.int32)
        q = tl.where(q >= out_w, q - out_w, q)
        n += move_n + (p >= out_h).to(tl.int32)
        p = tl.where(p >= out_h, p - out_h, p)

    stored_rows = tile_m * TILE_M + tl.arange(0, TILE_M)
    stored_cols = tile_n * TILE_N + tl.arange(0, TILE_N)
    if SPLIT_K > 1:
        dw_ptr += split.to(tl.int64) * M * N
    dw_ptrs = dw_ptr + (stored_rows[:, None].to(tl.int64) * N + stored_cols[None, :])
    inside_dw = (stored_rows[:, None] < M) & (stored_cols[None, :] < N)
    tl.store(dw_ptrs, sums.to(dw_ptr.dtype.element_ty), mask=inside_dw)


def wgrad_constants(
    config: ConvConfig, *, padded: bool, one_tap: bool, even: bool, x_align: int, dy_align: int
) -> dict[str, Any]:
    """The compile-time arguments of the kernel."""
    return {
        "TILE_M": config.tile_m,
        "TILE_N": config.tile_n,
        "TILE_K": config.tile_k,
        "GROUP_M": config.group_m,
        "SPLIT_K": config.split_k,
        "PADDED": padded,
        "ONE_TAP": one_tap,
        "EVEN_K": even,
        "X_ALIGN": x_align,
        "DY_ALIGN": dy_align,
    }


def conv2d_wgrad(
    x: torch.Tensor,
    dy: torch.Tensor,
    kernel_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    config: ConvConfig | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """dw[K,C,R,S] of x[N,C,H,W] and dy[N,K,P,Q], all in channels_last memory: FP16 or BF16, summed in FP32.

    kernel_size: (R, S). config: None takes `default_conv_config`; a given one is run as it is. Raises
    ValueError for groups other than 1, and for shapes, types, devices or layouts it cannot take.
    """
    return prepare_conv2d_wgrad(
        x, dy, kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups, config=config, out=out
    )()


def prepare_conv2d_wgrad(
    x: torch.Tensor,
    dy: torch.Tensor,
    kernel_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    config: ConvConfig | None = None,
    out: torch.Tensor | None = None,
) -> Callable[[], torch.Tensor]:
    """`conv2d_wgrad` with its checks and allocations done: each call of the result launches again."""
    check_groups(groups)
    check_tensors(_wgrad_kernel, x=x, dy=dy)
    if len(kernel_size) != 2:
        raise ValueError(f"kernel_size is {tuple(kernel_size)}: it must be the height and width of the filter")
    geometry = Geometry.of(x.shape, (dy.shape[1], x.shape[1], *kernel_size), stride, padding, dilation)
    if tuple(dy.shape) != geometry.y_shape:
        raise ValueError(f"dy is {tuple(dy.shape)}: this convolution of {geometry.x_shape} gives {geometry.y_shape}")
    dw = output(out, geometry.w_shape, x)
    if dw.numel() == 0:
        return lambda: dw
    if dy.numel() == 0:
        return dw.zero_
    pixels = geometry.batch * geometry.out_height * geometry.out_width
    if config is None:
        config = default_conv_config(
            "wgrad",
            geometry.c_out,
            geometry.columns,
            pixels,
            x.device,
            aligned=geometry.c_in % WIDE == 0 and geometry.c_out % WIDE == 0,
        )
    parts = None
    if config.split_k > 1:
        parts = torch.empty((config.split_k, geometry.c_out, geometry.columns), dtype=torch.float32, device=x.device)
    constants = wgrad_constants(
        config,
        padded=geometry.padding != (0, 0),
        one_tap=geometry.c_in % config.tile_n == 0,
        even=pixels % config.tile_k == 0,
        x_align=align(geometry.c_in),
        dy_align=align(geometry.c_out),
    )
    arguments = (
        x, dy, dw if parts is None else parts,
        geometry.batch, geometry.height, geometry.width, geometry.c_in, geometry.out_height, geometry.out_width,
        geometry.c_out, geometry.filter_h, geometry.filter_w, *geometry.stride, *geometry.padding, *geometry.dilation,
    )  # fmt: skip
    return launcher(
        _wgrad_kernel, _tiles(geometry, config) * config.split_k, arguments, constants, config,
        out=dw, rows=geometry.c_out, columns=geometry.columns, ld=geometry.columns, align=align(geometry.columns),
        parts=parts,
    )  # fmt: skip


def _tiles(geometry: Geometry, config: ConvConfig) -> int:
    return -(-geometry.c_out // config.tile_m) * -(-geometry.columns // config.tile_n)
