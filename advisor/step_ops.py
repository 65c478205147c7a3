"""A workload's operations as arrays, sorted into the classes that the step-time model knows.

Every size is affine in the batch size: column 0 holds a, column 1 holds b of a + b*B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advisor.workload.schema import Affine, Op, Variant

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PASSES = ("fprop", "dgrad", "wgrad")
# cuDNN's grouped Tensor Core kernels take groups in multiples of 32 of 4, 8, ... 64 channels ("fast"); other groups run
# elsewhere, wide ones in tiles of 128 channels.
GROUPED_REGIMES = ("narrow", "wide", "fast")
FAST_GROUPS = (4, 8, 16, 32, 64)  # channels
NARROW_GROUP = 48  # channels
ATTENTION_BLOCK = 64  # rows and columns of scores that fused attention kernels treat at a time
ITEM_BYTES = 2  # of FP16
STEM_CHANNELS = 4  # cuDNN pads up to this many input channels to 4 and has kernels for it

# Memory-bound classes. Each has one bandwidth share per layout where the layout matters.
MEMORY_CLASSES = (
    "batch_norm_forward", "batch_norm_backward", "norm_forward", "norm_backward", "elementwise", "elementwise_math",
    "elementwise_broadcast", "cast", "copy", "relayout", "concat", "softmax", "reduction", "mean", "pool_forward",
    "pool_backward", "embedding", "other",
)  # fmt: skip
_MATH = ("gelu", "silu", "sigmoid", "tanh", "erf", "exp", "softplus", "mish", "elu", "log", "pow", "sin", "cos",
         "softsign", "logit", "rsqrt", "native_dropout")  # fmt: skip
_CONCATS = {"cat", "stack", "constant_pad_nd", "roll", "slice_backward", "select_backward", "repeat", "slice_scatter",
            "im2col", "col2im", "flip"}  # fmt: skip
_COPIES = {"_to_copy": "cast", "copy_": "cast", "contiguous": "relayout"}
_BINARY = {"add", "sub", "mul", "div", "where", "add_", "mul_", "sub_", "div_", "masked_fill", "addcmul"}


@dataclass(frozen=True)
class Products:
    """Matrix products: linear layers, batched ones and dense convolutions as implicit GEMMs."""

    index: Ints  # of Variant.ops
    m: Floats  # (ops, 2)
    n: Floats
    k: Floats
    batch: Floats
    kind: Ints  # 0, 1, 2: convolution fprop, dgrad, wgrad; 3: gemm; 4: bmm
    filter_taps: Floats
    stem: NDArray[np.bool_]  # at most STEM_CHANNELS input channels
    unaligned: NDArray[np.bool_]  # a contiguous dimension is no multiple of 8 elements
    strided: NDArray[np.bool_]  # data gradient of a strided convolution
    strided_layer: NDArray[np.bool_]  # any pass of a strided convolution
    in_bytes: Floats  # (ops, 2): traffic of the activations that an NCHW convolution has to convert
    half: NDArray[np.bool_]  # 2-byte operands


@dataclass(frozen=True)
class Grouped:
    """Grouped convolutions, depthwise ones apart."""

    index: Ints
    width: Floats  # channels per group, the geometric mean of input and output
    groups: Floats
    regime: Ints  # index into GROUPED_REGIMES
    flops: Floats  # (ops, 2)


@dataclass(frozen=True)
class Depthwise:
    """Convolutions with one input channel per group."""

    index: Ints
    taps: Floats
    strided: NDArray[np.bool_]
    native: NDArray[np.bool_]  # in NCHW, run by PyTorch's own kernel instead of cuDNN's
    outputs: Floats  # (ops, 2): output elements of the forward convolution


@dataclass(frozen=True)
class Attention:
    """Fused attention."""

    index: Ints
    backward: NDArray[np.bool_]
    flops: Floats  # (ops, 2): with query and key lengths rounded up to blocks, half of it where causal


@dataclass(frozen=True)
class StepOps:
    """All operations of a variant: what each class needs, and the traffic of all."""

    bytes_: Floats  # (ops, 2)
    flops: Floats  # (ops, 2)
    count: Floats
    kernels: Floats  # per call
    products: Products
    grouped: Grouped
    depthwise: Depthwise
    attention: Attention
    memory: Ints  # indices of the memory-bound
    memory_class: Ints


def step_ops(variant: Variant) -> StepOps:
    """Sort a variant's operations."""
    ops = variant.ops
    rows: dict[str, list[tuple[int, Op]]] = {"product": [], "grouped": [], "depthwise": [], "attention": [], "mem": []}
    for i, op in enumerate(ops):
        rows[_family(op)].append((i, op))
    return StepOps(
        bytes_=_lines([(op.read_bytes[0] + op.write_bytes[0], op.read_bytes[1] + op.write_bytes[1]) for op in ops]),
        flops=_lines([op.flops for op in ops]),
        count=np.array([op.count for op in ops], dtype=float),
        kernels=np.array([op.kernels for op in ops], dtype=float),
        products=_products(rows["product"], nchw=variant.layout == "nchw"),
        grouped=_grouped(rows["grouped"]),
        depthwise=_depthwise(rows["depthwise"]),
        attention=_attention(rows["attention"]),
        memory=_index(rows["mem"]),
        memory_class=np.array([MEMORY_CLASSES.index(memory_class(op)) for _, op in rows["mem"]], dtype=np.int64),
    )


def _family(op: Op) -> str:
    if op.kind in ("gemm", "bmm"):
        return "product"
    if op.kind.startswith("conv"):
        groups = typical(op.dims["groups"])
        if groups == 1:
            return "product"
        return "depthwise" if typical(op.dims["c"]) == groups else "grouped"
    return "attention" if op.kind.startswith("attention") else "mem"


def typical(line: Affine) -> int:
    """A size at batch 64. Channels and groups grow with the batch where every sample has filters of its own."""
    return line[0] + 64 * line[1]


def memory_class(op: Op) -> str:
    """The memory-bound class of an operation."""
    if op.kind in ("batch_norm", "norm", "pool"):
        return f"{op.kind}_{op.phase}"
    if op.kind == "reduction":
        return "mean" if op.name in ("mean", "var_mean", "std_mean", "var", "std") else "reduction"
    if op.kind == "copy":
        return _COPIES.get(op.name, "concat" if op.name in _CONCATS else "copy")
    if op.kind == "elementwise":
        return _elementwise_class(op)
    return op.kind if op.kind in MEMORY_CLASSES else "other"


def _elementwise_class(op: Op) -> str:
    if op.name.startswith(_MATH):
        return "elementwise_math"
    (a, b), (c, d) = op.read_bytes, op.write_bytes
    read_per_written = (a + 64 * b) / max(1, c + 64 * d)  # a second operand that is small, but there
    broadcasts = op.name in _BINARY and not op.name.endswith("_") and 1.0 < read_per_written < 1.45
    return "elementwise_broadcast" if broadcasts else "elementwise"


def _index(rows: list[tuple[int, Op]]) -> Ints:
    return np.array([i for i, _ in rows], dtype=np.int64)


def _lines(values: list[Affine]) -> Floats:
    return np.array(values, dtype=float).reshape(-1, 2)


class _Product(NamedTuple):
    m: Affine
    n: Affine
    k: Affine
    kind: int
    batch: Affine = (1, 0)
    taps: int = 1
    stem: bool = False
    unaligned: bool = False
    strided: bool = False
    strided_layer: bool = False
    in_bytes: Affine = (0, 0)


def _products(rows: list[tuple[int, Op]], *, nchw: bool) -> Products:
    table = [_gemm(op) if op.kind in ("gemm", "bmm") else _convolution(op, nchw=nchw) for _, op in rows]
    return Products(
        index=_index(rows),
        m=_lines([p.m for p in table]),
        n=_lines([p.n for p in table]),
        k=_lines([p.k for p in table]),
        batch=_lines([p.batch for p in table]),
        kind=np.array([p.kind for p in table], dtype=np.int64),
        filter_taps=np.array([p.taps for p in table], dtype=float),
        stem=np.array([p.stem for p in table], dtype=bool),
        unaligned=np.array([p.unaligned for p in table], dtype=bool),
        strided=np.array([p.strided for p in table], dtype=bool),
        strided_layer=np.array([p.strided_layer for p in table], dtype=bool),
        in_bytes=_lines([p.in_bytes for p in table]),
        half=np.array([op.dtype == "fp16" for _, op in rows], dtype=bool),
    )


def _gemm(op: Op) -> _Product:
    d = op.dims
    contiguous = (d["m" if d["a_t"][0] else "k"], d["k" if d["b_t"][0] else "n"], d["n"])
    # a batch in a contiguous dimension (the weight gradient of a transposed operand) is taken as aligned
    unaligned = any(a % 8 for a, b in contiguous if b == 0)
    kind = 3 + (op.kind == "bmm")
    return _Product(d["m"], d["n"], d["k"], kind, batch=d.get("batch", (1, 0)), unaligned=unaligned)


def _convolution(op: Op, *, nchw: bool) -> _Product:
    d = op.dims
    c, k = d["c"][0], d["k"][0]
    taps = d["r"][0] * d["s"][0] * d.get("t", (1, 0))[0]
    stride = d["stride_h"][0] * d["stride_w"][0]
    in_pixels = _times(d["n"], d["h"][0] * d["w"][0] * d.get("depth", (1, 0))[0])
    out_pixels = _times(d["n"], d["p"][0] * d["q"][0] * d.get("out_depth", (1, 0))[0])
    pass_ = PASSES.index(op.kind.removeprefix("conv_"))
    big, small = _times(in_pixels, c * ITEM_BYTES), _times(out_pixels, k * ITEM_BYTES)
    m, n, contraction = (
        (out_pixels, (k, 0), (c * taps, 0)),
        # s^2 sub-problems whose FLOPs together equal the forward pass's
        (in_pixels, (c, 0), (max(1, round(k * taps / stride)), 0)),
        ((k, 0), (c * taps, 0), out_pixels),
    )[pass_]
    return _Product(
        m,
        n,
        contraction,
        pass_,
        taps=taps,
        stem=c <= STEM_CHANNELS,
        unaligned=c > STEM_CHANNELS and bool(c % 8 or k % 8),
        strided=pass_ == 1 and stride > 1,
        strided_layer=stride > 1,
        in_bytes=(big[0] + small[0], big[1] + small[1]) if nchw and op.dtype == "fp16" else (0, 0),
    )


def _times(line: Affine, factor: int) -> Affine:
    return line[0] * factor, line[1] * factor


def _grouped(rows: list[tuple[int, Op]]) -> Grouped:
    groups, c_in, c_out = (
        np.array([typical(op.dims[name]) for _, op in rows], dtype=np.int64) for name in ("groups", "c", "k")
    )
    c_in, c_out = c_in // groups, c_out // groups
    fast = (groups % 32 == 0) & np.isin(c_in, FAST_GROUPS)
    return Grouped(
        index=_index(rows),
        width=np.sqrt(c_in * c_out),
        groups=groups.astype(float),
        regime=np.where(fast, 2, np.where(c_in > NARROW_GROUP, 1, 0)),
        flops=_lines([op.flops for _, op in rows]),
    )


def _depthwise(rows: list[tuple[int, Op]]) -> Depthwise:
    return Depthwise(
        index=_index(rows),
        taps=np.array([op.dims["r"][0] * op.dims["s"][0] for _, op in rows], dtype=float),
        strided=np.array([op.dims["stride_h"][0] * op.dims["stride_w"][0] > 1 for _, op in rows], dtype=bool),
        native=np.array([_runs_native(op) for _, op in rows], dtype=bool),
        outputs=_lines([_depthwise_outputs(op) for _, op in rows]),
    )


def _runs_native(op: Op) -> bool:
    """Whether PyTorch keeps a row-major FP16 depthwise convolution for its own kernel, as its heuristic has it for
    batches above 1 (use_cudnn_depthwise and check_cudnn_depthwise_workload_with_filter, ATen/native/Convolution.cpp).
    """
    d = {name: line[0] for name, line in op.dims.items()}
    square, stride = d["r"] == d["s"], d["stride_h"]
    if d["c"] < 32 or d["dilation_h"] > 1 or d["dilation_w"] > 1 or stride != d["stride_w"]:
        return True
    if not square or d["r"] not in (1, 3, 5) or d["w"] < 7 or stride > 2:
        return True
    return stride == 2 and (d["r"] == 1 or not (d["c"] >= 512 or (d["c"] >= 256 and d["w"] >= 28)))


def _depthwise_outputs(op: Op) -> Affine:
    pixels = op.dims["p"][0] * op.dims["q"][0]
    images, channels = op.dims["n"], op.dims["k"]
    if channels[1]:  # filters of each sample's own: one image of B times the channels
        return _times(channels, images[0] * pixels)
    return _times(images, channels[0] * pixels)


def _attention(rows: list[tuple[int, Op]]) -> Attention:
    flops = []
    for _, op in rows:
        d = op.dims
        q_len, kv_len = d["q_len"][0], d["kv_len"][0]
        # lengths that grow with B do not occur: a sample is a sequence
        blocks = _blocked(q_len) * _blocked(kv_len) / max(1, q_len * kv_len) * (0.5 if d["causal"][0] else 1)
        flops.append((op.flops[0] * blocks, op.flops[1] * blocks))
    return Attention(
        index=_index(rows),
        backward=np.array([op.kind == "attention_bprop" for _, op in rows], dtype=bool),
        flops=np.array(flops, dtype=float).reshape(-1, 2),
    )


def _blocked(length: int) -> int:
    return -(-length // ATTENTION_BLOCK) * ATTENTION_BLOCK
