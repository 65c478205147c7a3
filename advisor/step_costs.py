"""Seconds of each operation of a step, from a GPU's facts and a few fitted shares of its peaks.

One formula per class of operation. All take arrays that broadcast: operations by batch sizes when predicting,
one column of operations (each at its own batch size and layout) when fitting, so that both run the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from advisor.step_ops import GROUPED_REGIMES, MEMORY_CLASSES, PASSES, Attention, Depthwise, Grouped, Products, StepOps

Floats = NDArray[np.float64]

LAYOUTS: tuple[Literal["nhwc", "nchw"], ...] = ("nhwc", "nchw")
PRODUCT_KINDS = (*(f"conv_{p}" for p in PASSES), "gemm", "bmm")
LAYOUT_CLASSES = frozenset({  # memory-bound classes that move image tensors: their share depends on the layout
    "batch_norm_forward", "batch_norm_backward", "elementwise_broadcast", "mean", "reduction", "pool_forward",
    "pool_backward", "relayout", "copy", "concat",
})  # fmt: skip
# Output tiles of cuBLAS's and cuDNN's FP16 kernels (CUTLASS names them in its profiler's list of sm80 HMMA kernels).
TILES = ((256, 128), (128, 256), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64), (128, 32), (32, 32))
TILE_K = 32
LARGEST_TILE = 256 * 128
GEMM = PRODUCT_KINDS.index("gemm")
LARGEST_SINGLE_TILE = 128 * 128  # of FP32 kernels: cuBLAS's sgemm names end there
# FP32 3x3 convolutions of stride 1 reach 0.95 of the peak in the median, more than any GEMM, by Winograd's transform:
# NeuSight's measured convolutions (github sitar-lab/NeuSight, commit 6945927d), V100, above 0.5 ms.
WINOGRAD = 1.25
LARGE_FILTER = 49  # taps of the largest depthwise filter that cuDNN's fast kernels take, 7x7
THIN = 16  # n or k up to which a product may as well run outside Tensor Cores
THIN_RATE = 0.25  # share of the vector peak it reaches there: an estimate
ATTENTION_BANDWIDTH = 0.7  # share of the bandwidth fused attention reaches: an estimate, seldom its bound
GROUPED_WIDTHS = (16.0, 128.0, 16.0)  # channels per group at which the regimes' rates are given
GROUPED_RATES = (0.005, 0.6)  # share of the peak between which grouped convolutions are believed


@dataclass(frozen=True)
class Machine:
    """The facts of a GPU that the step model scales by."""

    sms: int
    half_flops_per_s: float  # dense peak for 2-byte operands
    single_flops_per_s: float  # and for 4-byte operands: TF32 or FP32, as the recipe says
    vector_flops_per_s: float  # FP32 outside Tensor Cores
    bandwidth_bytes_per_s: float
    l2_bytes: float
    half_prologue: float = 1.0  # FLOP per clock and SM over the fitted GPU's: what a tile's start, which takes clocks,
    single_prologue: float = 0.5  # costs in elements of the contraction


@dataclass(frozen=True)
class Coefficients:
    """Fitted shares as arrays: row 0 NHWC, row 1 NCHW; columns by kind, pass or class."""

    rate: Floats  # (2, 5): share of the peak by kind of product, for long contractions in the largest tile
    spatial: Floats  # (2, 3): factor for filters larger than 1x1, by pass
    product_bandwidth: Floats  # (2, 5): share of the bandwidth
    stem: Floats  # (2, 3): factor on the rate for at most 4 input channels
    unaligned: Floats  # (2, 5): factor on the rate for channels that are no multiple of 8
    padding_copies: Floats  # (2,): extra traffic of unaligned convolutions over their own
    strided: Floats  # (2,): factor on the rate of strided data gradients
    conversion: Floats  # (2,): NCHW only: extra traffic over the activations'
    prologue_k: Floats  # (2,): elements of the contraction that the start of a tile costs; convolutions, gemm
    tile_exponent: float  # rate of a tile falls as (area / largest area)^exponent
    hardness: (
        Floats  # of waves, of convolutions and of other products: 1: a part-full one costs a whole one; 0: its share
    )
    grouped_rate: Floats  # (2, 3): share of the peak by regime, at 16 (narrow, fast) or 128 (wide) channels a group
    grouped_exponent: Floats  # (2, 3): its growth with the width of a group
    groups_exponent: Floats  # (2,): growth of the narrow groups' rate with their number
    grouped_bandwidth: Floats  # (2,)
    depthwise_bandwidth: Floats  # (2,)
    depthwise_rate: Floats  # (2,): share of the vector peak
    depthwise_strided: Floats  # (2,): factor on the time
    depthwise_native: Floats  # (2,): factor on the time in PyTorch's own kernels, NCHW only
    depthwise_large: Floats  # (2,): factor on the time of filters wider than 7
    taps_exponent: Floats  # (2,): growth of the time per tap with the number of taps, over 3x3
    memory: Floats  # (2, classes): share of the bandwidth
    attention_rate: Floats  # (2,): forward, backward: share of the peak
    l2_gain: float  # bandwidth of tensors that stay in L2 over DRAM's
    kernel_s: float  # least duration of a kernel, start to start
    optimizer_bandwidth: float


def coefficients(values: Mapping[str, float]) -> Coefficients:
    """Arrange named values, as a profile stores them, into arrays."""

    def table(*names: str) -> Floats:
        return np.array([[_value(values, layout, name) for name in names] for layout in LAYOUTS])

    def by_pass(name: str) -> Floats:
        return table(*(f"{name}.{p}" for p in PASSES))

    kinds = PRODUCT_KINDS
    return Coefficients(
        rate=table(*(f"{k}.rate" for k in kinds)),
        spatial=by_pass("spatial"),
        product_bandwidth=table(*(f"{k}.bandwidth" for k in kinds)),
        stem=by_pass("stem"),
        unaligned=table(*(f"{k}.unaligned" for k in kinds)),
        padding_copies=table("padding_copies")[:, 0],
        strided=table("strided")[:, 0],
        conversion=np.array([0.0, values["nchw.conversion"]]),
        prologue_k=np.array([values["conv.prologue_k"], values["gemm.prologue_k"]]),
        tile_exponent=values["tile_exponent"],
        hardness=np.array([values["hardness"], values.get("gemm.hardness", values["hardness"])]),
        grouped_rate=table(*(f"grouped_{r}.rate" for r in GROUPED_REGIMES)),
        grouped_exponent=table(*(f"grouped_{r}.exponent" for r in GROUPED_REGIMES)),
        groups_exponent=table("grouped_narrow.groups_exponent")[:, 0],
        grouped_bandwidth=table("grouped.bandwidth")[:, 0],
        depthwise_bandwidth=table("depthwise.bandwidth")[:, 0],
        depthwise_rate=table("depthwise.rate")[:, 0],
        depthwise_strided=table("depthwise.strided")[:, 0],
        depthwise_native=np.array([1.0, values["nchw.depthwise.native"]]),
        depthwise_large=table("depthwise.large")[:, 0],
        taps_exponent=table("depthwise.taps_exponent")[:, 0],
        memory=table(*MEMORY_CLASSES),
        attention_rate=np.array([values["attention.forward.rate"], values["attention.backward.rate"]]),
        l2_gain=values["l2_gain"],
        kernel_s=values["kernel_s"],
        optimizer_bandwidth=values["optimizer.bandwidth"],
    )


def _value(values: Mapping[str, float], layout: str, name: str) -> float:
    own = values.get(f"{layout}.{name}")
    return values[name] if own is None else own


def at(lines: Floats, batches: Any) -> Floats:
    """a + b*B: (ops, 2) lines at batch sizes of shape (B,) or (ops, 1)."""
    return np.asarray(lines[:, :1] + lines[:, 1:] * batches)


def traffic_seconds(bytes_: Floats, share: Any, c: Coefficients, machine: Machine) -> Floats:
    """Bytes over the reached bandwidth; small tensors move at L2's, which l2_gain holds against DRAM's."""
    resident = 1 / (1 + (bytes_ / (0.5 * machine.l2_bytes)) ** 2)
    return np.asarray(bytes_ / (machine.bandwidth_bytes_per_s * share * (1 + (c.l2_gain - 1) * resident)))


@dataclass(frozen=True)
class ProductCost:
    """Time of matrix products, and the tiles it stands on; arrays (ops, batches)."""

    seconds: Floats
    compute_s: Floats
    traffic_s: Floats
    tile: NDArray[np.int8]  # index into TILES
    split_k: Floats
    waves: Floats
    tile_efficiency: Floats
    unquantized_s: Floats  # with whole tiles and waves


def products_seconds(
    p: Products,
    bytes_: Floats,
    batches: Any,
    layout: Any,
    c: Coefficients,
    machine: Machine,
    candidates: NDArray[np.bool_] | None = None,
) -> ProductCost:
    """Matrix products in tiles and waves, split along the contraction where the tiles do not fill the GPU.

    compute = waves x (tile_m tile_n (K / split + prologue)) / (rate of one SM), by the cheapest tile, or the cheapest
    of each product's `candidates` (ops, tiles). Time joins it with the traffic as the sides of a right triangle: the
    longer hides most of the shorter.
    """
    m, n, k, count = (at(lines, batches) for lines in (p.m, p.n, p.k, p.batch))
    kind, is_conv = p.kind[:, None], p.kind[:, None] < 3
    pass_ = np.minimum(kind, 2)
    rate = c.rate[layout, kind] * np.where(is_conv & (p.filter_taps[:, None] > 1), c.spatial[layout, pass_], 1)
    rate = rate * np.where(p.stem[:, None] & p.half[:, None], c.stem[layout, pass_], 1)
    rate = rate * np.where(p.unaligned[:, None] & p.half[:, None], c.unaligned[layout, kind], 1)
    rate = rate * np.where(p.strided[:, None], c.strided[layout], 1)
    plain = ~p.half[:, None] & (p.filter_taps[:, None] == 9) & ~p.strided_layer[:, None]
    rate = rate * np.where(plain, WINOGRAD, 1)
    peak = np.where(p.half, machine.half_flops_per_s, machine.single_flops_per_s)[:, None]
    flop_s_per_sm = peak / machine.sms * rate
    prologue = np.where(is_conv, c.prologue_k[0], c.prologue_k[1])
    prologue = prologue * np.where(p.half, machine.half_prologue, machine.single_prologue)[:, None]

    hardness = np.where(is_conv, c.hardness[0], c.hardness[1])

    best = np.full(np.broadcast_shapes(m.shape, k.shape, count.shape), np.inf)
    best_tile = np.zeros(best.shape, dtype=np.int8)
    for i, (tile_m, tile_n) in enumerate(TILES):
        rows: Any = slice(None) if candidates is None else np.flatnonzero(candidates[:, i])
        tiles = np.ceil(m[rows] / tile_m) * np.ceil(n[rows] / tile_n) * count[rows]
        split = _split(tiles, k[rows], machine.sms)
        area = tile_m * tile_n
        speed = np.where(p.half, area / LARGEST_TILE, area / LARGEST_SINGLE_TILE)[rows, None] ** c.tile_exponent
        cost = wave_cost(tiles * split / machine.sms, hardness[rows]) * (k[rows] / split + prologue[rows])
        cost = cost * (2 * area / speed)
        if area > LARGEST_SINGLE_TILE:
            cost = np.where(p.half[rows, None], cost, np.inf)
        found = best[rows]
        better = cost < found
        best[rows] = np.where(better, cost, found)
        best_tile[rows] = np.where(better, np.int8(i), best_tile[rows])
    compute = best / flop_s_per_sm
    thin = (np.minimum(n, k) <= THIN) & (kind == GEMM)
    vector = 2 * m * n * k * count / (THIN_RATE * machine.vector_flops_per_s)
    compute = np.where(thin, np.minimum(compute, vector), compute)

    extra = c.conversion[layout] * at(p.in_bytes, batches)
    extra = extra + np.where(p.unaligned[:, None] & is_conv, c.padding_copies[layout], 0) * bytes_
    share = c.product_bandwidth[layout, kind]
    traffic = traffic_seconds(bytes_, share, c, machine)
    seconds = np.hypot(compute, traffic) + extra / machine.bandwidth_bytes_per_s

    shapes = np.array(TILES, dtype=float)
    tile_m, tile_n = shapes[best_tile, 0], shapes[best_tile, 1]
    rows, columns = np.ceil(m / tile_m), np.ceil(n / tile_n)
    tiles = rows * columns * count
    split = _split(tiles, k, machine.sms)
    waves = tiles * split / machine.sms
    tile_efficiency = m * n / (rows * tile_m * columns * tile_n)
    lossless = compute * tile_efficiency * waves / np.maximum(wave_cost(waves, hardness), 1e-9)
    return ProductCost(
        seconds=seconds,
        compute_s=compute,
        traffic_s=traffic,
        tile=best_tile,
        split_k=split,
        waves=waves,
        tile_efficiency=tile_efficiency,
        unquantized_s=np.hypot(lossless, traffic) + extra / machine.bandwidth_bytes_per_s,
    )


def _split(tiles: Floats, k: Floats, sms: int) -> Floats:
    """Slices of the contraction: as many as the SMs that the tiles leave idle, none shorter than 8 steps."""
    return np.maximum(1, np.minimum(np.floor(sms / tiles), np.floor(k / (8 * TILE_K))))


def wave_cost(waves: Any, hardness: Any) -> Any:
    """Waves as they cost: between their exact number (at least one) and the next whole one."""
    return hardness * np.ceil(waves) + (1 - hardness) * np.maximum(waves, 1)


def grouped_seconds(g: Grouped, bytes_: Floats, batches: Any, layout: Any, c: Coefficients, machine: Machine) -> Floats:
    """Grouped convolutions: a rate that grows with the width of a group, joined with the traffic."""
    regime = g.regime[:, None]
    width = g.width[:, None] / np.array(GROUPED_WIDTHS)[regime]
    width = np.where(regime == 1, width / np.ceil(width), width)  # wide groups fill tiles of 128
    rate = c.grouped_rate[layout, regime] * width ** c.grouped_exponent[layout, regime]
    rate = rate * (g.groups[:, None] / 8) ** np.where(regime == 0, c.groups_exponent[layout], 0)
    rate = np.where(regime == 0, np.minimum(rate, c.grouped_rate[layout, 1]), rate)  # no narrow group outruns wide ones
    compute = at(g.flops, batches) / (machine.half_flops_per_s * np.clip(rate, *GROUPED_RATES))
    traffic = traffic_seconds(bytes_, c.grouped_bandwidth[layout], c, machine)
    return np.asarray(np.hypot(compute, traffic))


def depthwise_seconds(
    d: Depthwise, bytes_: Floats, batches: Any, layout: Any, c: Coefficients, machine: Machine
) -> Floats:
    """Depthwise convolutions run outside Tensor Cores: traffic, plus the taps at a share of the vector peak."""
    taps = 2 * d.taps[:, None] * at(d.outputs, batches) * (d.taps[:, None] / 9) ** c.taps_exponent[layout]
    traffic = traffic_seconds(bytes_, c.depthwise_bandwidth[layout], c, machine)
    seconds = traffic + taps / (machine.vector_flops_per_s * c.depthwise_rate[layout])
    seconds = seconds * np.where(d.strided[:, None], c.depthwise_strided[layout], 1)
    seconds = seconds * np.where(d.taps[:, None] > LARGE_FILTER, c.depthwise_large[layout], 1)
    return np.asarray(seconds * np.where(d.native[:, None], c.depthwise_native[layout], 1))


def attention_seconds(a: Attention, bytes_: Floats, batches: Any, c: Coefficients, machine: Machine) -> Floats:
    """Fused attention: its products at a share of the peak, joined with the traffic."""
    compute = at(a.flops, batches) / (machine.half_flops_per_s * c.attention_rate[a.backward.astype(np.int64)][:, None])
    return np.asarray(np.hypot(compute, traffic_seconds(bytes_, ATTENTION_BANDWIDTH, c, machine)))


def op_seconds(
    ops: StepOps,
    sizes: Floats,
    layout: int,
    c: Coefficients,
    machine: Machine,
    candidates: NDArray[np.bool_] | None = None,
) -> tuple[Floats, ProductCost]:
    """Seconds of one call of each operation at each batch size (ops, batches), gaps between kernels included."""
    bytes_ = at(ops.bytes_, sizes)
    seconds = np.zeros((len(ops.count), len(sizes)))
    cost = products_seconds(ops.products, bytes_[ops.products.index], sizes, layout, c, machine, candidates)
    seconds[ops.products.index] = cost.seconds
    grouped, depthwise, attention = ops.grouped.index, ops.depthwise.index, ops.attention.index
    seconds[grouped] = grouped_seconds(ops.grouped, bytes_[grouped], sizes, layout, c, machine)
    seconds[depthwise] = depthwise_seconds(ops.depthwise, bytes_[depthwise], sizes, layout, c, machine)
    seconds[attention] = attention_seconds(ops.attention, bytes_[attention], sizes, c, machine)
    share = c.memory[layout, ops.memory_class][:, None]
    seconds[ops.memory] = traffic_seconds(bytes_[ops.memory], share, c, machine)
    return seconds + ops.kernels[:, None] * c.kernel_s, cost
