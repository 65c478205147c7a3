"""Forward and dgrad of a 2-D convolution as implicit matrix products: one kernel that gathers pixels tap by tap.

    forward   y[n,p,q,k]  = sum over r,s,c of  x[n, p stride + r dilation - pad, ..., c]  w[k,r,s,c]
              M = N P Q, N = K, K = C R S
    dgrad     dx[n,h,w,c] = sum over r,s,k of  dy[n, (h + pad - r dilation) / stride, ..., k]  w[k,r,s,c]
              over the taps for which the division has no rest; M = N H W, N = C, K = K R S at stride 1

FLOP: 2 N P Q K C R S, both passes (products with the padding counted).

Dgrad at a stride: all pixels h with (h + pad) mod stride = a are reached by the same taps, those with
r dilation = a (mod stride). With g = gcd(stride, dilation) there are none unless g divides a; else they are
r = r0, r0 + stride/g, r0 + 2 stride/g, ... with r0 = (a/g) (dilation/g)^-1 mod stride/g, and from one to the next the
row of dy moves by -dilation/g. So the stride_h stride_w residue classes are as many dense products, without a
multiplication by a zero that is not there; a class that no tap reaches is written as zeros. All classes are one launch,
the first class, which has the most taps, first. Source of the decomposition: NVIDIA CUTLASS,
media/docs/cpp/implicit_gemm_convolution.md (strided dgrad).

The K loop is one loop over all pairs of tap and TILE_K channels: a loop inside a loop over taps would fill and drain
the pipeline of loads at each tap, and has a single step where C = TILE_K. Where C is no multiple of TILE_K and much of
each step would be idle (3 channels of an image), the loop runs over all R S C at once, at the cost of decoding
each element's tap (MERGED).

Split-K as in `kernels.matmul`: FP32 parts in a workspace, summed in order. 1x1 filters on every pixel are plain matrix
products; where no configuration is asked for, `kernels.matmul` makes them.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (what `triton.jit` decorates is Triton's language: its arguments have no Python types)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

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
from kernels.matmul import WIDE, _multiple, _tile_of, launcher, prepare_matmul


def conv2d_forward_reference(
    x: torch.Tensor, w: torch.Tensor, *, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> torch.Tensor:
    """y[N,K,P,Q] in FP64, not rounded: for each tap the pixels it meets, times its weights."""
    geometry = Geometry.of(x.shape, w.shape, stride, padding, dilation)
    padded = pad(x.double(), padding)
    y = x.new_zeros(geometry.y_shape, dtype=torch.float64)
    for r in range(geometry.filter_h):
        for s in range(geometry.filter_w):
            y += torch.einsum("ncpq,kc->nkpq", met_by_tap(padded, geometry, r, s), w[:, :, r, s].double())
    return y


def conv2d_dgrad_reference(
    dy: torch.Tensor,
    w: torch.Tensor,
    input_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """dx[N,C,H,W] in FP64, not rounded: each tap adds to the pixels it met in the forward pass."""
    geometry = Geometry.of((dy.shape[0], w.shape[1], *input_size), w.shape, stride, padding, dilation)
    padded = pad(dy.new_zeros(geometry.x_shape, dtype=torch.float64), padding)
    for r in range(geometry.filter_h):
        for s in range(geometry.filter_w):
            met_by_tap(padded, geometry, r, s).add_(torch.einsum("nkpq,kc->ncpq", dy.double(), w[:, :, r, s].double()))
    height, width = input_size
    return padded[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def pad(x: torch.Tensor, padding: Pair) -> torch.Tensor:
    """x with rows and columns of zeros on all four sides."""
    return torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))


def met_by_tap(padded: torch.Tensor, geometry: Geometry, r: int, s: int) -> torch.Tensor:
    """View [N,C,P,Q] of the padded x: the pixel under tap (r, s) for every output pixel."""
    top, left = r * geometry.dilation[0], s * geometry.dilation[1]
    bottom = top + (geometry.out_height - 1) * geometry.stride[0] + 1
    right = left + (geometry.out_width - 1) * geometry.stride[1] + 1
    return padded[:, :, top : bottom : geometry.stride[0], left : right : geometry.stride[1]]


@triton.jit
def _axis(residue, taps, size, stride, pad, dilation, gcd, inverse, DGRAD: tl.constexpr):
    """One axis of one residue class.

    Returns: taps that reach it, the first of them, from one to the next; output pixels, the first of them, from one to
    the next; the source pixel of the first output pixel at the first tap, and how it moves from output pixel to output
    pixel and from tap to tap.
    """
    if DGRAD:
        step = stride // gcd
        tap = residue // gcd * inverse % step
        count = tl.where((residue % gcd == 0) & (tap < taps), (taps - tap + step - 1) // step, 0)
        first = (residue + stride - pad % stride) % stride
        pixels = tl.maximum(size - first + stride - 1, 0) // stride
        origin = (first + pad - tap * dilation) // stride
        result = count, tap, step, pixels, first, stride, origin, 1, -(dilation // gcd)
    else:
        result = taps, 0, 1, size, 0, 1, -pad, stride, dilation
    return result


@triton.jit(
    do_not_specialize=[
        "batch", "in_h", "in_w", "in_channels", "out_h", "out_w", "out_channels", "filter_h", "filter_w",
        "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "gcd_h", "gcd_w", "inverse_h",
        "inverse_w", "class_tiles",
    ]
)  # fmt: skip
def _gather_kernel(  # noqa: PLR0912, PLR0915  # the compiler takes most branches: each variant is a straight line
    in_ptr, w_ptr, out_ptr, batch, in_h, in_w, in_channels, out_h, out_w, out_channels, filter_h, filter_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, gcd_h, gcd_w, inverse_h, inverse_w, class_tiles,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr,
    DGRAD: tl.constexpr, PADDED: tl.constexpr, MERGED: tl.constexpr, EVEN_C: tl.constexpr,
    IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr,
):  # fmt: skip
    """One tile of one residue class of `out`, from the pixels of `in` (x, or dy) and the filter.

    class_tiles: tiles of the largest class; CTAs beyond the tiles of a smaller one end at once. Rows and columns beyond
    the edge wrap to others, whose sums are not stored. PADDED: some taps fall beside the image.
    """
    work = tl.program_id(0)
    work_in_class = work % (class_tiles * SPLIT_K)
    residue = work // (class_tiles * SPLIT_K)
    split = work_in_class // class_tiles
    tile = work_in_class % class_tiles
    taps_h, tap_h, tap_step_h, rows_h, out_row, out_step_h, origin_h, in_step_h, reach_h = _axis(
        residue // stride_w, filter_h, out_h, stride_h, pad_h, dilation_h, gcd_h, inverse_h, DGRAD
    )
    taps_w, tap_w, tap_step_w, rows_w, out_col, out_step_w, origin_w, in_step_w, reach_w = _axis(
        residue % stride_w, filter_w, out_w, stride_w, pad_w, dilation_w, gcd_w, inverse_w, DGRAD
    )
    M = batch * rows_h * rows_w
    if tile >= tl.cdiv(M, TILE_M) * tl.cdiv(out_channels, TILE_N):
        return

    C = _multiple(in_channels, IN_ALIGN)
    N = _multiple(out_channels, OUT_ALIGN)
    tile_m, tile_n = _tile_of(tile, M, N, TILE_M, TILE_N, GROUP_M)
    rows = (tile_m * TILE_M + tl.arange(0, TILE_M)) % M
    image = rows // (rows_h * rows_w)
    i = rows // rows_w % rows_h
    j = rows % rows_w
    in_row = i * in_step_h + origin_h
    in_col = j * in_step_w + origin_w
    cols = (tile_n * TILE_N + tl.arange(0, TILE_N)) % N
    within = tl.arange(0, TILE_K)
    # int64: a batch can pass 2**31 elements, a single image or filter cannot
    in_ptrs = in_ptr + (image.to(tl.int64) * (in_h * in_w * C) + (in_row * in_w + in_col) * C)[:, None]
    w_ptrs = w_ptr + (cols if DGRAD else cols * (filter_h * filter_w * C))[None, :]

    sums = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    if MERGED:
        total = taps_h * taps_w * C
        steps = tl.cdiv(tl.cdiv(total, TILE_K), SPLIT_K)
        for step in range(split * steps, tl.minimum((split + 1) * steps, tl.cdiv(total, TILE_K))):
            ks = step * TILE_K + within
            tap = ks // C
            channel = ks % C
            t_h = tap // taps_w
            t_w = tap % taps_w
            offset = (t_h * reach_h * in_w + t_w * reach_w) * C + channel
            inside = (ks < total)[None, :]
            if PADDED:
                inside = (
                    inside
                    & ((in_row[:, None] + (t_h * reach_h)[None, :]).to(tl.uint32) < in_h.to(tl.uint32))
                    & ((in_col[:, None] + (t_w * reach_w)[None, :]).to(tl.uint32) < in_w.to(tl.uint32))
                )
            a = tl.load(in_ptrs + offset[None, :], mask=inside, other=0.0)
            if DGRAD:
                filter_tap = (tap_h + t_h * tap_step_h) * filter_w + tap_w + t_w * tap_step_w
                w_offset = (channel * (filter_h * filter_w) + filter_tap) * N
            else:
                w_offset = ks
            b = tl.load(w_ptrs + w_offset[:, None], mask=(ks < total)[:, None], other=0.0)
            sums = dot(a, b, sums)
    else:
        in_ptrs += within[None, :]
        if DGRAD:
            w_ptrs += (within * (filter_h * filter_w * N))[:, None]
        else:
            w_ptrs += within[:, None]
        chunks = tl.cdiv(C, TILE_K)
        total = taps_h * taps_w * chunks
        steps = tl.cdiv(total, SPLIT_K)
        first = split * steps
        chunk = first % chunks
        t_w = first // chunks % tl.maximum(taps_w, 1)
        t_h = first // chunks // tl.maximum(taps_w, 1)
        for _ in range(first, tl.minimum(first + steps, total)):
            c = chunk * TILE_K
            a_ptrs = in_ptrs + ((t_h * reach_h * in_w + t_w * reach_w) * C + c)
            filter_tap = (tap_h + t_h * tap_step_h) * filter_w + tap_w + t_w * tap_step_w
            b_ptrs = w_ptrs + ((c * (filter_h * filter_w) + filter_tap) * N if DGRAD else filter_tap * C + c)
            if PADDED:
                inside = ((in_row + t_h * reach_h).to(tl.uint32) < in_h.to(tl.uint32)) & (
                    (in_col + t_w * reach_w).to(tl.uint32) < in_w.to(tl.uint32)
                )
            if EVEN_C:
                a = tl.load(a_ptrs, mask=inside[:, None], other=0.0) if PADDED else tl.load(a_ptrs)
                b = tl.load(b_ptrs)
            else:
                left = C - c
                a_mask = (within < left)[None, :]
                if PADDED:
                    a_mask = a_mask & inside[:, None]
                a = tl.load(a_ptrs, mask=a_mask, other=0.0)
                b = tl.load(b_ptrs, mask=(within < left)[:, None], other=0.0)
            sums = dot(a, b, sums)
            chunk += 1
            t_w = tl.where(chunk == chunks, t_w + 1, t_w)
            chunk = tl.where(chunk == chunks, 0, chunk)
            t_h = tl.where(t_w == taps_w, t_h + 1, t_h)
            t_w = tl.where(t_w == taps_w, 0, t_w)

    # not from `rows`: what the epilogue needs would stay in registers during the loop
    stored_rows = tile_m * TILE_M + tl.arange(0, TILE_M)
    if DGRAD:
        stored_image = stored_rows // (rows_h * rows_w)
        stored_row = stored_rows // rows_w % rows_h * out_step_h + out_row
        out_pixel = (stored_image * out_h + stored_row) * out_w + stored_rows % rows_w * out_step_w + out_col
    else:
        out_pixel = stored_rows
    stored_cols = tile_n * TILE_N + tl.arange(0, TILE_N)
    if SPLIT_K > 1:
        out_ptr += split.to(tl.int64) * (batch * out_h * out_w) * N
    out_ptrs = out_ptr + (out_pixel.to(tl.int64) * N)[:, None] + stored_cols[None, :]
    inside = (stored_rows[:, None] < M) & (stored_cols[None, :] < N)
    tl.store(out_ptrs, sums.to(out_ptr.dtype.element_ty), mask=inside)


def gather_constants(
    config: ConvConfig, *, dgrad: bool, padded: bool, merged: bool, even: bool, in_align: int, out_align: int
) -> dict[str, Any]:
    """The compile-time arguments of the kernel."""
    return {
        "TILE_M": config.tile_m,
        "TILE_N": config.tile_n,
        "TILE_K": config.tile_k,
        "GROUP_M": config.group_m,
        "SPLIT_K": config.split_k,
        "DGRAD": dgrad,
        "PADDED": padded,
        "MERGED": merged,
        "EVEN_C": even,
        "IN_ALIGN": in_align,
        "OUT_ALIGN": out_align,
    }


def conv2d_forward(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    config: ConvConfig | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """y[N,K,P,Q] of x[N,C,H,W] and w[K,C,R,S], all in channels_last memory: FP16 or BF16, summed in FP32.

    config: None takes `default_conv_config`, or for plain products `kernels.matmul`; a given one is run as it is.
    There is no backward: `kernels.conv2d.conv2d` has one.

    Raises ValueError for groups other than 1, and for shapes, types, devices or layouts it cannot take.
    """
    return prepare_conv2d_forward(
        x, w, stride=stride, padding=padding, dilation=dilation, groups=groups, config=config, out=out
    )()


def prepare_conv2d_forward(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    config: ConvConfig | None = None,
    out: torch.Tensor | None = None,
) -> Callable[[], torch.Tensor]:
    """`conv2d_forward` with its checks and allocations done: each call of the result launches again."""
    check_groups(groups)
    check_tensors(_gather_kernel, x=x, w=w)
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"x has {x.shape[1]} channels and the filters {w.shape[1]}: both must have as many")
    geometry = Geometry.of(x.shape, w.shape, stride, padding, dilation)
    y = output(out, geometry.y_shape, x)
    return _prepare(geometry, x, w, y, config, dgrad=False)


def conv2d_dgrad(
    dy: torch.Tensor,
    w: torch.Tensor,
    input_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    config: ConvConfig | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """dx[N,C,H,W] of dy[N,K,P,Q] and w[K,C,R,S]; input_size is (H, W). All else as in `conv2d_forward`."""
    return prepare_conv2d_dgrad(
        dy, w, input_size, stride=stride, padding=padding, dilation=dilation, groups=groups, config=config, out=out
    )()


def prepare_conv2d_dgrad(
    dy: torch.Tensor,
    w: torch.Tensor,
    input_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    config: ConvConfig | None = None,
    out: torch.Tensor | None = None,
) -> Callable[[], torch.Tensor]:
    """`conv2d_dgrad` with its checks and allocations done: each call of the result launches again."""
    check_groups(groups)
    check_tensors(_gather_kernel, dy=dy, w=w)
    if len(input_size) != 2:
        raise ValueError(f"input_size is {tuple(input_size)}: it must be the height and width of x")
    geometry = Geometry.of((dy.shape[0], w.shape[1], *input_size), w.shape, stride, padding, dilation)
    if tuple(dy.shape) != geometry.y_shape:
        raise ValueError(f"dy is {tuple(dy.shape)}: this convolution of {geometry.x_shape} gives {geometry.y_shape}")
    dx = output(out, geometry.x_shape, dy)
    return _prepare(geometry, dy, w, dx, config, dgrad=True)


def _prepare(
    geometry: Geometry, source: torch.Tensor, w: torch.Tensor, out: torch.Tensor, config: ConvConfig | None, *,
    dgrad: bool,
) -> Callable[[], torch.Tensor]:  # fmt: skip
    if out.numel() == 0:
        return lambda: out
    if source.numel() == 0:
        return out.zero_
    _, in_channels, in_h, in_w = source.shape
    _, out_channels, out_h, out_w = out.shape
    if config is None and geometry.pointwise:
        matrix = w.view(geometry.c_out, geometry.c_in)
        product = prepare_matmul(as_matrix(source), matrix if dgrad else matrix.T, out=as_matrix(out))

        def pointwise() -> torch.Tensor:
            product()
            return out

        return pointwise

    strides = geometry.stride if dgrad else (1, 1)
    pixels = geometry.batch * -(-out_h // strides[0]) * -(-out_w // strides[1])
    if config is None:
        config = default_conv_config(
            "dgrad" if dgrad else "forward",
            geometry.batch * out_h * out_w,
            out_channels,
            max(1, geometry.taps // math.prod(strides)) * in_channels,
            out.device,
            aligned=in_channels % WIDE == 0 and out_channels % WIDE == 0,
        )
    class_tiles = -(-pixels // config.tile_m) * -(-out_channels // config.tile_n)
    gcds = [math.gcd(stride, dilation) for stride, dilation in zip(geometry.stride, geometry.dilation, strict=True)]
    inverses = [
        pow(dilation // gcd, -1, stride // gcd)
        for stride, dilation, gcd in zip(geometry.stride, geometry.dilation, gcds, strict=True)
    ]
    rows = geometry.batch * out_h * out_w
    parts = None
    if config.split_k > 1:
        parts = torch.empty((config.split_k, rows, out_channels), dtype=torch.float32, device=out.device)
    constants = gather_constants(
        config,
        dgrad=dgrad,
        padded=geometry.padding != (0, 0) or (dgrad and geometry.taps > 1),
        merged=merging_pays(geometry.taps, in_channels, config.tile_k),
        even=in_channels % config.tile_k == 0,
        in_align=align(in_channels),
        out_align=align(out_channels),
    )
    arguments = (
        source, w, out if parts is None else parts,
        geometry.batch, in_h, in_w, in_channels, out_h, out_w, out_channels, geometry.filter_h, geometry.filter_w,
        *geometry.stride, *geometry.padding, *geometry.dilation, *gcds, *inverses, class_tiles,
    )  # fmt: skip
    return launcher(
        _gather_kernel, class_tiles * math.prod(strides) * config.split_k, arguments, constants, config,
        out=out, rows=rows, columns=out_channels, ld=out_channels, align=align(out_channels), parts=parts,
    )  # fmt: skip


def as_matrix(x: torch.Tensor) -> torch.Tensor:
    """The same memory as a matrix of pixels x channels."""
    return x.as_strided((x.numel() // x.shape[1], x.shape[1]), (x.shape[1], 1))


def merging_pays(taps: int, channels: int, tile_k: int) -> bool:
    """Whether one loop over all taps and channels saves a quarter or more of the steps of TILE_K."""
    merged, apart = -(-taps * channels // tile_k), taps * -(-channels // tile_k)
    return channels % tile_k != 0 and 4 * merged <= 3 * apart
