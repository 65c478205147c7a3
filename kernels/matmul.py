"""Matrix product C[M,N] = A[M,K] B[K,N]: FP16 or BF16 in and out, FP32 accumulation, any of the four layouts.

Work 2*M*N*K FLOP (NVIDIA, "Matrix Multiplication Background User's Guide"). Traffic, each operand once: 2*(MK+KN+MN)
bytes. A CTA makes TILE_M x TILE_N of C at a time, over K in steps of TILE_K; there are
ceil(M/TILE_M) ceil(N/TILE_N) split_k such pieces of work.

- Order: GROUP_M rows of tiles are walked column by column, so CTAs that run together share operands in L2.
- Split-K: each split writes its FP32 partial sums to a workspace [split_k, M, N], and a second kernel adds them in
  order. Atomics would save the workspace but need C zeroed, could not round to FP16 once, and give other bits on every
  run. The workspace costs 8*split_k*M*N bytes of traffic, much of it in L2; a library's split-K pays the same.
- Persistent: ctas_per_sm CTAs per SM walk over the tiles, so the loads of the next tile overlap the end of this one.
- Descriptor: persistent, with loads and stores by the Tensor Memory Accelerator (compute capability 9.0 and later).
  It fills with zeros beyond the edge, but needs 16-byte aligned operands; others are refused (`descriptor_fits`).

Reads are masked or wrapped into the matrix, so nothing beyond an edge is read. The widest load and store is 16 bytes,
8 elements; of a matrix whose stride or contiguous size is a multiple of 4, 2 or 1 only, as many: right, but slower.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (what `triton.jit` decorates is Triton's language: its arguments have no Python types)

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl

from kernels.dot import INTERPRETED, dot
from kernels.spec import KernelSpec
from kernels.timeline import check_timeline, timeline_now, timeline_record

Variant = Literal["plain", "persistent", "descriptor"]
Layout = Literal["nn", "nt", "tn", "tt"]
VARIANTS = ("plain", "persistent", "descriptor")
LAYOUTS = ("nn", "nt", "tn", "tt")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
WIDE = 8  # elements of 2 bytes in the widest load, 16 bytes
LONGEST = 2**31 - 2**10  # so that the index of a tile's last row is an int32
REDUCE_M, REDUCE_N = 4, 256  # the piece of C one CTA of the split-K reduction adds up


def check_cut(config: Any, counts: Sequence[str]) -> None:
    """Raise ValueError unless tiles and warps are what Triton can compile and the fields in `counts` are 1 or more."""
    for name in ("tile_m", "tile_n", "tile_k"):
        value = getattr(config, name)
        if value < 16 or value & (value - 1):
            raise ValueError(f"{name} is {value}: Triton's matrix product needs a power of two, 16 or more")
    if config.warps < 1 or config.warps & (config.warps - 1):
        raise ValueError(f"warps is {config.warps}: it must be a power of two")
    for name in counts:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be 1 or more")


@dataclass(frozen=True)
class MatmulConfig:
    """How the product is cut: tile sizes in elements, pipeline stages, warps per CTA.

    group_m: rows of tiles walked together. split_k: parts of the K loop run by different CTAs. Only for descriptors:
    subtile stores the tile in two halves (half the shared memory for it), warp_specialize gives loads, matrix
    instructions and the epilogue their own warps (compute capability 10.0 and later). ctas_per_sm: of a kernel that is
    not plain; more than fit at a time is right, but slower.
    Raises ValueError for what no kernel can be made of.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    stages: int
    warps: int
    group_m: int = 8
    split_k: int = 1
    variant: Variant = "plain"
    subtile: bool = False
    warp_specialize: bool = False
    ctas_per_sm: int = 1

    def __post_init__(self) -> None:
        check_cut(self, ("stages", "group_m", "split_k", "ctas_per_sm"))
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}: it is one of {', '.join(VARIANTS)}")
        if self.variant != "descriptor" and (self.subtile or self.warp_specialize):
            raise ValueError(f"subtile and warp_specialize are for variant 'descriptor', not {self.variant!r}")
        if self.variant == "plain" and self.ctas_per_sm > 1:
            raise ValueError("ctas_per_sm is for variants 'persistent' and 'descriptor': a plain kernel fills every SM")

    @property
    def tile(self) -> tuple[int, int, int]:
        """M, N and K of the tile."""
        return self.tile_m, self.tile_n, self.tile_k

    def __str__(self) -> str:
        marks = "".join(
            mark
            for mark, is_set in (
                (f" split{self.split_k}", self.split_k > 1),
                (f" {self.variant}", self.variant != "plain"),
                (f" x{self.ctas_per_sm}", self.ctas_per_sm > 1),
                (" subtile", self.subtile),
                (" ws", self.warp_specialize),
            )
            if is_set
        )
        return f"{self.tile_m}x{self.tile_n}x{self.tile_k} s{self.stages} w{self.warps}{marks}"


INTERPRETER_CONFIG = MatmulConfig(32, 32, 32, stages=1, warps=4)  # the default where nothing can be fast


def matmul_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A[M,K] B[K,N] in FP32, rounded once to the operands' type."""
    return (a.float() @ b.float()).to(a.dtype)


@triton.jit
def _tile_of(index, M, N, TILE_M: tl.constexpr, TILE_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Row and column of the index-th tile in grouped order."""
    tiles_m = tl.cdiv(M, TILE_M)
    tiles_n = tl.cdiv(N, TILE_N)
    per_group = GROUP_M * tiles_n
    first = index // per_group * GROUP_M
    rows = tl.minimum(tiles_m - first, GROUP_M)
    within = index % per_group
    return first + within % rows, within // rows


@triton.jit
def _piece(work, M, N, TILE_M: tl.constexpr, TILE_N: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr):
    """Split, row and column of the work-th piece of work."""
    if SPLIT_K == 1:
        split = 0
        tile_m, tile_n = _tile_of(work, M, N, TILE_M, TILE_N, GROUP_M)
    else:
        tiles = tl.cdiv(M, TILE_M) * tl.cdiv(N, TILE_N)
        split = work // tiles
        tile_m, tile_n = _tile_of(work % tiles, M, N, TILE_M, TILE_N, GROUP_M)
    return split, tile_m, tile_n


@triton.jit
def _multiple(x, OF: tl.constexpr):
    """x itself, in a form that shows the compiler that OF divides it (of arguments it notices 16, nothing less)."""
    return x // OF * OF if OF > 1 else x


@triton.jit
def _accumulate(
    a_ptr, b_ptr, M, N, K, lda, ldb, first, steps, tile_m, tile_n,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
    A_T: tl.constexpr, B_T: tl.constexpr, A_ALIGN: tl.constexpr, B_ALIGN: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """FP32 sums of one tile over `steps` steps of K, from the step `first` on.

    Rows and columns beyond the edge wrap to others, whose sums are never stored. K beyond the edge is masked in both
    operands: zero times a NaN is a NaN.
    """
    lda = _multiple(lda, A_ALIGN)
    ldb = _multiple(ldb, B_ALIGN)
    # the alignment of a matrix holds for its contiguous size too
    rows = (tile_m * TILE_M + tl.arange(0, TILE_M)) % (_multiple(M, A_ALIGN) if A_T else M)
    cols = (tile_n * TILE_N + tl.arange(0, TILE_N)) % (N if B_T else _multiple(N, B_ALIGN))
    K = K if A_T else _multiple(K, A_ALIGN)
    K = _multiple(K, B_ALIGN) if B_T else K
    within = tl.arange(0, TILE_K)
    ks = first * TILE_K + within
    # int64: a row times its stride can pass 2**31
    if A_T:
        a_ptrs = a_ptr + (ks[None, :].to(tl.int64) * lda + rows[:, None])
    else:
        a_ptrs = a_ptr + (rows[:, None].to(tl.int64) * lda + ks[None, :])
    if B_T:
        b_ptrs = b_ptr + (cols[None, :].to(tl.int64) * ldb + ks[:, None])
    else:
        b_ptrs = b_ptr + (ks[:, None].to(tl.int64) * ldb + cols[None, :])
    a_step = lda.to(tl.int64) * TILE_K if A_T else TILE_K
    b_step = TILE_K if B_T else ldb.to(tl.int64) * TILE_K
    sums = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for step in range(steps):
        if EVEN_K:
            a = tl.load(a_ptrs)
            b = tl.load(b_ptrs)
        else:
            left = K - (first + step) * TILE_K
            a = tl.load(a_ptrs, mask=within[None, :] < left, other=0.0)
            b = tl.load(b_ptrs, mask=within[:, None] < left, other=0.0)
        sums = dot(a, b, sums)
        a_ptrs += a_step
        b_ptrs += b_step
    return sums


@triton.jit
def _store(
    c_ptr, sums, M, N, ldc, split, row, col,
    ROWS: tl.constexpr, COLS: tl.constexpr, SPLIT_K: tl.constexpr, C_ALIGN: tl.constexpr,
):  # fmt: skip
    """Round ROWS x COLS sums from (row, col) on to the type of C, or of the workspace [split_k, M, N]; store them."""
    ldc = _multiple(ldc, C_ALIGN)
    rows = row + tl.arange(0, ROWS)
    cols = col + tl.arange(0, COLS)
    if SPLIT_K > 1:
        c_ptr += split.to(tl.int64) * M * ldc
    c_ptrs = c_ptr + (rows[:, None].to(tl.int64) * ldc + cols[None, :])
    inside = (rows[:, None] < M) & (cols[None, :] < _multiple(N, C_ALIGN))
    tl.store(c_ptrs, sums.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "N", "K", "lda", "ldb", "ldc"])
def _plain_kernel(
    a_ptr, b_ptr, c_ptr, timeline_ptr, M, N, K, lda, ldb, ldc,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr,
    A_T: tl.constexpr, B_T: tl.constexpr, A_ALIGN: tl.constexpr, B_ALIGN: tl.constexpr, C_ALIGN: tl.constexpr,
    EVEN_K: tl.constexpr, TIMELINE: tl.constexpr,
):  # fmt: skip
    if TIMELINE:
        start = timeline_now()
    work = tl.program_id(0)
    steps = tl.cdiv(K, TILE_K * SPLIT_K)
    split, tile_m, tile_n = _piece(work, M, N, TILE_M, TILE_N, GROUP_M, SPLIT_K)
    sums = _accumulate(
        a_ptr, b_ptr, M, N, K, lda, ldb, split * steps, steps, tile_m, tile_n,
        TILE_M, TILE_N, TILE_K, A_T, B_T, A_ALIGN, B_ALIGN, EVEN_K,
    )  # fmt: skip
    _store(c_ptr, sums, M, N, ldc, split, tile_m * TILE_M, tile_n * TILE_N, TILE_M, TILE_N, SPLIT_K, C_ALIGN)
    if TIMELINE:
        timeline_record(timeline_ptr, work, start)


@triton.jit(do_not_specialize=["M", "N", "K", "lda", "ldb", "ldc"])
def _persistent_kernel(
    a_ptr, b_ptr, c_ptr, timeline_ptr, M, N, K, lda, ldb, ldc,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr,
    A_T: tl.constexpr, B_T: tl.constexpr, A_ALIGN: tl.constexpr, B_ALIGN: tl.constexpr, C_ALIGN: tl.constexpr,
    EVEN_K: tl.constexpr, TIMELINE: tl.constexpr,
):  # fmt: skip
    if TIMELINE:
        start = timeline_now()
    pieces = tl.cdiv(M, TILE_M) * tl.cdiv(N, TILE_N) * SPLIT_K
    steps = tl.cdiv(K, TILE_K * SPLIT_K)
    for work in tl.range(tl.program_id(0), pieces, tl.num_programs(0), flatten=True):
        split, tile_m, tile_n = _piece(work, M, N, TILE_M, TILE_N, GROUP_M, SPLIT_K)
        sums = _accumulate(
            a_ptr, b_ptr, M, N, K, lda, ldb, split * steps, steps, tile_m, tile_n,
            TILE_M, TILE_N, TILE_K, A_T, B_T, A_ALIGN, B_ALIGN, EVEN_K,
        )  # fmt: skip
        _store(c_ptr, sums, M, N, ldc, split, tile_m * TILE_M, tile_n * TILE_N, TILE_M, TILE_N, SPLIT_K, C_ALIGN)
    if TIMELINE:
        timeline_record(timeline_ptr, tl.program_id(0), start)


@triton.jit(do_not_specialize=["M", "N", "K", "ldc"])
def _descriptor_kernel(
    a_desc, b_desc, c, timeline_ptr, M, N, K, ldc,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr,
    A_T: tl.constexpr, B_T: tl.constexpr, C_ALIGN: tl.constexpr, C_DESCRIPTOR: tl.constexpr, SUBTILE: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr, TIMELINE: tl.constexpr,
):  # fmt: skip
    if TIMELINE:
        start = timeline_now()
    pieces = tl.cdiv(M, TILE_M) * tl.cdiv(N, TILE_N) * SPLIT_K
    steps = tl.cdiv(K, TILE_K * SPLIT_K)
    for work in tl.range(tl.program_id(0), pieces, tl.num_programs(0), flatten=True, warp_specialize=WARP_SPECIALIZE):
        split, tile_m, tile_n = _piece(work, M, N, TILE_M, TILE_N, GROUP_M, SPLIT_K)
        row = tile_m * TILE_M
        col = tile_n * TILE_N
        sums = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
        for step in range(steps):
            k = (split * steps + step) * TILE_K
            a = a_desc.load([k, row]).T if A_T else a_desc.load([row, k])
            b = b_desc.load([col, k]).T if B_T else b_desc.load([k, col])
            sums = dot(a, b, sums)
        if SUBTILE:
            HALF: tl.constexpr = TILE_N // 2
            left, right = tl.split(tl.permute(tl.reshape(sums, (TILE_M, 2, HALF)), (0, 2, 1)))
            if C_DESCRIPTOR:
                c.store([row, col], left.to(c.dtype))
                c.store([row, col + HALF], right.to(c.dtype))
            else:
                _store(c, left, M, N, ldc, split, row, col, TILE_M, HALF, SPLIT_K, C_ALIGN)
                _store(c, right, M, N, ldc, split, row, col + HALF, TILE_M, HALF, SPLIT_K, C_ALIGN)
        elif C_DESCRIPTOR:
            c.store([row, col], sums.to(c.dtype))
        else:
            _store(c, sums, M, N, ldc, split, row, col, TILE_M, TILE_N, SPLIT_K, C_ALIGN)
    if TIMELINE:
        timeline_record(timeline_ptr, tl.program_id(0), start)


@triton.jit(do_not_specialize=["M", "N", "ldc"])
def _reduce_kernel(
    parts_ptr, c_ptr, M, N, ldc,
    SPLIT_K: tl.constexpr, C_ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """C = sum over splits of parts[split, M, N], in the order of the splits."""
    blocks_n = tl.cdiv(N, BLOCK_N)
    rows = tl.program_id(0) // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(0) % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n = _multiple(N, C_ALIGN)
    inside = (rows[:, None] < M) & (cols[None, :] < n)
    parts = parts_ptr + (rows[:, None].to(tl.int64) * n + cols[None, :])
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(SPLIT_K):
        sums += tl.load(parts, mask=inside, other=0.0)
        parts += n.to(tl.int64) * M
    c_ptrs = c_ptr + (rows[:, None].to(tl.int64) * _multiple(ldc, C_ALIGN) + cols[None, :])
    tl.store(c_ptrs, sums.to(c_ptr.dtype.element_ty), mask=inside)


def _check_capability(config: MatmulConfig, capability: tuple[int, int]) -> None:
    if config.variant == "descriptor" and capability < (9, 0):
        raise ValueError(f"tensor descriptors need compute capability 9.0, not {capability}: use variant 'plain'")
    if config.warp_specialize and capability < (10, 0):
        raise ValueError(f"Triton specialises warps from compute capability 10.0 on, not {capability}: leave it out")


class _Operand(NamedTuple):
    tensor: torch.Tensor
    transposed: bool  # its columns are contiguous in memory
    ld: int  # elements between contiguous rows (or columns)

    @property
    def contiguous_extent(self) -> int:
        return self.tensor.shape[0 if self.transposed else 1]

    @property
    def align(self) -> int:
        """Elements that can be read or written at once, if the first element is at a multiple of 16 bytes."""
        return math.gcd(self.ld, self.contiguous_extent, WIDE)

    @property
    def is_wide(self) -> bool:
        return self.align == WIDE and self.tensor.data_ptr() % 16 == 0

    @property
    def fits_descriptor(self) -> bool:
        """Source: CUDA driver API, cuTensorMapEncodeTiled (globalAddress, globalStrides)."""
        return self.tensor.data_ptr() % 16 == 0 and self.ld % WIDE == 0 and self.ld >= self.contiguous_extent

    def descriptor(self, rows: int, cols: int) -> Any:
        """A tensor descriptor whose block is a tile of rows x cols of the matrix."""
        from triton.tools.tensor_descriptor import TensorDescriptor

        shape, block = list(self.tensor.shape), [rows, cols]
        if self.transposed:
            shape, block = shape[::-1], block[::-1]
        return TensorDescriptor(self.tensor, shape, [self.ld, 1], block)


def _operand(x: torch.Tensor, name: str) -> _Operand:
    """A dimension of one element may have any stride. Raises ValueError if no stride is 1."""
    (rows, cols), (row_stride, col_stride) = x.shape, x.stride()
    if col_stride == 1 or cols == 1:
        return _Operand(x, False, row_stride)
    if row_stride == 1 or rows == 1:
        return _Operand(x, True, col_stride)
    raise ValueError(f"{name} has strides {x.stride()}: one of them must be 1; call .contiguous()")


def descriptor_fits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether tensor descriptors can address both: first elements and rows at multiples of 16 bytes.

    Raises ValueError if one has no unit stride.
    """
    return _operand(a, "a").fits_descriptor and _operand(b, "b").fits_descriptor


@functools.cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


@functools.cache
def _sms(device: torch.device) -> int:
    """SMs of the device; for the interpreter 3, so that a persistent CTA has several tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


@functools.lru_cache(maxsize=4096)
def _default_config(m: int, n: int, k: int, device: torch.device, aligned: bool, descriptors: bool) -> MatmulConfig:
    from kernels.configs import default_config

    capability = _capability(device)
    if capability is None:
        return INTERPRETER_CONFIG
    return default_config(m, n, k, sms=_sms(device), capability=capability, aligned=aligned, descriptors=descriptors)


def _check(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} must be [M,K] and [K,N]")
    if max(*a.shape, b.shape[1]) > LONGEST:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)}: no dimension may pass {LONGEST}")
    if a.dtype != b.dtype or a.dtype not in DTYPES.values():
        raise ValueError(f"a is {a.dtype}, b is {b.dtype}: both must be torch.float16 or both torch.bfloat16")
    if a.device != b.device:
        raise ValueError(f"a is on {a.device}, b on {b.device}: move one to the other's device")
    if a.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(
            f"a is on {a.device}: move it to an NVIDIA GPU, or set TRITON_INTERPRET=1 before Python starts"
        )
    if out is not None:
        wanted = (a.shape[0], b.shape[1])
        if out.shape != wanted or out.dtype != a.dtype or out.device != a.device:
            raise ValueError(
                f"out is {tuple(out.shape)} {out.dtype} on {out.device}: make it {wanted} {a.dtype} on {a.device}"
            )
        if _operand(out, "out").transposed:
            raise ValueError(f"out has strides {out.stride()}: its rows must be contiguous")


def matmul_ctas(m: int, n: int, config: MatmulConfig, sms: int) -> int:
    """CTAs that a product of M rows and N columns launches: how many records its timeline has."""
    work = -(-m // config.tile_m) * -(-n // config.tile_n) * config.split_k
    return work if config.variant == "plain" else min(work, sms * config.ctas_per_sm)


def matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    config: MatmulConfig | None = None,
    out: torch.Tensor | None = None,
    timeline: torch.Tensor | None = None,
) -> torch.Tensor:
    """C[M,N] = A[M,K] B[K,N] in the operands' type, summed in FP32.

    a, b: FP16 or BF16, each with one unit stride: row-major or column-major. out: where to write, rows contiguous.
    timeline: a `kernels.timeline.timeline_buffer` of `matmul_ctas` records, to be filled.
    config: None takes `kernels.configs.default_config`, with descriptors only where they fit the operands; a given one
    is run as it is, or refused. There is no backward.

    Raises ValueError for shapes, types, devices or strides it cannot take, and for descriptors on operands that are
    not 16-byte aligned or on a GPU before compute capability 9.0.
    """
    return prepare_matmul(a, b, config=config, out=out, timeline=timeline)()


def prepare_matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    config: MatmulConfig | None = None,
    out: torch.Tensor | None = None,
    timeline: torch.Tensor | None = None,
) -> Callable[[], torch.Tensor]:
    """`matmul` with its checks and allocations done: each call of the result launches again, into the same output."""
    _check(a, b, out)
    (m, k), n = a.shape, b.shape[1]
    c = torch.empty((m, n), dtype=a.dtype, device=a.device) if out is None else out
    if m == 0 or n == 0:
        return lambda: c
    if k == 0:
        return c.zero_
    left, right, result = _operand(a, "a"), _operand(b, "b"), _operand(c, "out")
    fits = left.fits_descriptor and right.fits_descriptor
    capability = _capability(a.device)
    if config is None:
        config = _default_config(m, n, k, a.device, left.is_wide and right.is_wide, fits)
    if config.variant == "descriptor" and not fits:
        raise ValueError(
            f"strides {a.stride()} of a, {b.stride()} of b: tensor descriptors need first elements and rows at "
            "multiples of 16 bytes; use variant 'plain', or pad"
        )
    if capability is not None:
        _check_capability(config, capability)
    ctas = matmul_ctas(m, n, config, _sms(a.device))
    if timeline is not None:
        check_timeline(timeline, ctas, a.device)

    target = result
    if config.split_k > 1:
        parts = torch.empty((config.split_k * m, n), dtype=torch.float32, device=a.device)
        target = _Operand(parts, False, n)
    constants = _constants(config, left.transposed, right.transposed, timeline=timeline is not None)
    constants["C_ALIGN"] = target.align
    arguments: tuple[Any, ...]
    if config.variant == "descriptor":
        kernel = _descriptor_kernel
        constants["C_DESCRIPTOR"] = config.split_k == 1 and result.fits_descriptor
        arguments = (
            left.descriptor(config.tile_m, config.tile_k),
            right.descriptor(config.tile_k, config.tile_n),
            result.descriptor(config.tile_m, _stored_n(config)) if constants["C_DESCRIPTOR"] else target.tensor,
            *(timeline, m, n, k, target.ld),
        )
    else:
        kernel = _plain_kernel if config.variant == "plain" else _persistent_kernel
        constants |= {
            "A_ALIGN": left.align,
            "B_ALIGN": right.align,
            "EVEN_K": k % (config.tile_k * config.split_k) == 0,
        }
        arguments = (a, b, target.tensor, timeline, m, n, k, left.ld, right.ld, target.ld)
    return launcher(
        kernel, ctas, arguments, constants, config,
        out=c, rows=m, columns=n, ld=result.ld, align=result.align, parts=target.tensor if config.split_k > 1 else None,
    )  # fmt: skip


def launcher(
    kernel: Any, ctas: int, arguments: tuple[Any, ...], constants: dict[str, Any], config: Any, *,
    out: torch.Tensor, rows: int, columns: int, ld: int, align: int, parts: torch.Tensor | None,
) -> Callable[[], torch.Tensor]:  # fmt: skip
    """What launches a kernel, and after it the sum of the `parts` [split_k, rows, columns], again and again.

    config has warps, stages and split_k. ld: elements between the rows of `out`, of which `align` can be written at
    once.
    """
    product = functools.partial(
        kernel[(ctas,)], *arguments, **constants, num_warps=config.warps, num_stages=config.stages
    )
    reduction = None
    if parts is not None:
        reduction = functools.partial(
            _reduce_kernel[(-(-rows // REDUCE_M) * -(-columns // REDUCE_N),)],
            *(parts, out, rows, columns, ld),
            **{"SPLIT_K": config.split_k, "C_ALIGN": align, "BLOCK_M": REDUCE_M, "BLOCK_N": REDUCE_N},
        )
    guard = torch.cuda.device(out.device) if out.device.type == "cuda" else contextlib.nullcontext()

    def launch() -> torch.Tensor:
        with guard:
            product()
            if reduction is not None:
                reduction()
        return out

    return launch


def _stored_n(config: MatmulConfig) -> int:
    return config.tile_n // (2 if config.subtile else 1)


def _constants(config: MatmulConfig, a_t: bool, b_t: bool, *, timeline: bool) -> dict[str, Any]:
    """Compile-time arguments that do not depend on the sizes."""
    constants: dict[str, Any] = {
        "TILE_M": config.tile_m,
        "TILE_N": config.tile_n,
        "TILE_K": config.tile_k,
        "GROUP_M": config.group_m,
        "SPLIT_K": config.split_k,
        "A_T": a_t,
        "B_T": b_t,
        "TIMELINE": timeline,
    }
    if config.variant == "descriptor":
        constants["SUBTILE"] = config.subtile
        constants["WARP_SPECIALIZE"] = config.warp_specialize
    return constants


def matmul_spec(
    config: MatmulConfig,
    *,
    dtype: str = "fp16",
    layout: Layout = "nn",
    aligned: bool = True,
    capability: tuple[int, int] = (9, 0),
    timeline: bool = False,
) -> KernelSpec:
    """The kernel that `matmul` would launch, for a compiler without a GPU.

    layout: of A and B, "n" row-major, "t" column-major. aligned: sizes and strides are multiples of 8 elements and
    tile_k divides K; if not, every row starts at another 2-byte boundary, as with an odd K and N.

    Raises ValueError for an unknown type or layout, and for descriptors on unaligned operands or before 9.0.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown type {dtype!r}: it is one of {', '.join(DTYPES)}")
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: it is one of {', '.join(LAYOUTS)}")
    _check_capability(config, capability)
    a_t, b_t = (letter == "t" for letter in layout)
    align = WIDE if aligned else 1
    c_type = "fp32" if config.split_k > 1 else dtype
    constants = _constants(config, a_t, b_t, timeline=timeline) | {"C_ALIGN": align}
    signature: dict[str, str] = {}
    if config.variant == "descriptor":
        if not aligned:
            raise ValueError("tensor descriptors need aligned operands: use variant 'plain'")
        constants["C_DESCRIPTOR"] = config.split_k == 1
        a_block, b_block = (config.tile_m, config.tile_k), (config.tile_k, config.tile_n)
        signature["a_desc"] = _descriptor_type(dtype, a_block[::-1] if a_t else a_block)
        signature["b_desc"] = _descriptor_type(dtype, b_block[::-1] if b_t else b_block)
        c_block = (config.tile_m, _stored_n(config))
        signature["c"] = _descriptor_type(dtype, c_block) if constants["C_DESCRIPTOR"] else f"*{c_type}"
        kernel, sizes = _descriptor_kernel, ["M", "N", "K", "ldc"]
    else:
        signature = {"a_ptr": f"*{dtype}", "b_ptr": f"*{dtype}", "c_ptr": f"*{c_type}"}
        constants |= {"A_ALIGN": align, "B_ALIGN": align, "EVEN_K": aligned}
        kernel = _plain_kernel if config.variant == "plain" else _persistent_kernel
        sizes = ["M", "N", "K", "lda", "ldb", "ldc"]
    if timeline:
        signature["timeline_ptr"] = "*i64"
    else:
        constants["timeline_ptr"] = None
    signature |= dict.fromkeys(sizes, "i32") | dict.fromkeys(constants, "constexpr")
    return KernelSpec(
        name=f"matmul {config} {dtype} {layout}{'' if aligned else ' unaligned'}{' timeline' if timeline else ''}",
        function=kernel,
        signature={name: signature[name] for name in kernel.arg_names},
        constants=constants,
        divisible_by_16=frozenset(name for name, of in signature.items() if of.startswith("*")),
        warps=config.warps,
        stages=config.stages,
        tile=config.tile,
    )


def _descriptor_type(dtype: str, block: tuple[int, int]) -> str:
    """As a launch writes it, to the letter: else what is compiled ahead is not found by the launch."""
    return f"tensordesc<{dtype}{list(block)}>"
