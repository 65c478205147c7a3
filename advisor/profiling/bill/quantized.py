"""What whole tiles and whole waves cost a traced kernel, by the time model.

    T = hypot(C, D)            the measured duration, less the least duration of a kernel: D the kernel's least traffic
                               at the reached bandwidth (advisor.step_costs.traffic_seconds), C all else
    W = h ceil(w) + (1 - h) max(w, 1)    what w CTAs per SM cost, with the fitted wave hardness h (step_costs.wave_cost)
    e = m n / (ceil(m/a) a  ceil(n/b) b)    share of the tiles' area inside the result
    T' = hypot(C e w / W, D)   without either; the loss is T - T', nothing where the traffic alone explains T

CTAs are the launched ones that compute something; waves are counted over SMs, as the time models are fitted. Persistent
and split-K kernels are not blamed for waves (w / W = 1). The tile is the one that the kernel's name prints; where it
prints none, the one that its grid tells (powers of two, the least waste); where neither tells, or the tiles are not the
product's own (fused Winograd, residue classes of a strided dgrad), e = 1. A kernel without a grid takes the model's own
choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from advisor.convolution_time import KERNEL_S, tensor_sizes, winograd_product
from advisor.profiling.bill.timing import (
    Call,
    Layout,
    TimeModel,
    attention_bytes,
    is_predictable,
    pass_of_group,
)
from advisor.profiling.kernels.waves import slices_of
from advisor.profiling.records import QUANTIZED, KernelGroup, Operation, Product
from advisor.quantization import ceil_div, largest_size, tile_efficiency
from advisor.step_costs import PRODUCT_KINDS, wave_cost

LARGEST_TILE = 1024  # of either side; none in use is larger than 512
GRID_TILES = (16, 32, 64, 128, 256)  # that a grid is read as
WINOGRAD_PRODUCTS = 36  # of F(4x4, 3x3)
NOT_ITS_TILES = ("winograd", "fft", "gcgemm")


class Tiling(NamedTuple):
    """Tiles of one product: `m`, `n` its sizes, `across` what one more row of tiles adds in CTAs."""

    tile_m: int
    tile_n: int
    m: int
    n: int
    across: int
    split: bool = False  # of the contraction
    from_grid: bool = False

    @property
    def ctas(self) -> int:
        """CTAs that compute a tile, or a slice of one."""
        return ceil_div(self.m, self.tile_m) * self.across

    @property
    def efficiency(self) -> float:
        """Share of the tiles' area inside the result."""
        return float(tile_efficiency(self.m, self.n, self.tile_m, self.tile_n))


@dataclass(frozen=True)
class QuantizationLoss:
    """Of one group of kernels."""

    share: float  # of its time that is lost
    tiling: Tiling | None  # None: unknown
    waves_sms: float | None  # CTAs over SMs
    blamed_for_waves: bool
    upper_bound: bool  # the traffic is unknown, for want of shapes


def quantization_loss(
    group: KernelGroup, operation: Operation | None, model: TimeModel, layout: Layout = "nchw"
) -> QuantizationLoss | None:
    """What tiles and waves cost a group; None for kernels that are not billed for them."""
    if group.class_ not in QUANTIZED or group.helper or group.count == 0:
        return None
    product = operation.product if operation is not None else None
    if product is not None and not is_predictable(product):
        product = None
    time_s = max(group.total_s / group.count - KERNEL_S, 0.0)
    if group.ctas is None:
        return _of_the_model(group, operation, model, layout)
    tiling = read_tiling(group, product)
    ctas = tiling.ctas if tiling is not None and not group.persistent else group.ctas
    traffic_s = least_traffic_s(group, product, model, layout)
    waves = ctas / model.gpu.sms
    blamed = not (group.persistent or group.split_k or (tiling is not None and tiling.split))
    efficiency = tiling.efficiency if tiling is not None else 1.0
    if blamed:
        hardness = model.gemm_hardness(group.precision or "fp32") if group.class_ == "gemm" else model.conv_hardness()
        efficiency *= waves / float(wave_cost(waves, hardness))
    share = _share_lost(time_s, traffic_s, efficiency) * time_s / (time_s + KERNEL_S)
    return QuantizationLoss(share, tiling, waves, blamed, upper_bound=product is None)


def _share_lost(time_s: float, traffic_s: float, efficiency: float) -> float:
    """1 - T'/T: `efficiency` is that of tiles and waves together."""
    if time_s <= 0:
        return 0.0
    rest = math.sqrt(max(time_s**2 - traffic_s**2, 0.0))
    whole = math.hypot(rest * efficiency, min(traffic_s, time_s))
    return max(0.0, 1 - whole / time_s)


def _of_the_model(
    group: KernelGroup, operation: Operation | None, model: TimeModel, layout: Layout
) -> QuantizationLoss | None:
    if operation is None or operation.product is None or group.persistent or group.split_k:
        return None
    call = Call(operation.product, pass_of_group(group, operation))
    found = model.predict([call], group.precision or operation.product.dtype, layout)[0]
    if found is None:
        return None
    share = 1 - found.unquantized_s / found.seconds
    return QuantizationLoss(share, None, None, blamed_for_waves=True, upper_bound=False)


def least_traffic_s(group: KernelGroup, product: Product | None, model: TimeModel, layout: Layout) -> float:
    """Seconds of the least traffic of a group's kernel; 0 where no shapes were recorded."""
    if product is None:
        return 0.0
    if product.attention is not None:
        backward = product.pass_ != "fprop"
        bytes_ = sum(attention_bytes(product.attention, product.element_bytes, backward=backward))
        return model.traffic_s(bytes_, "gemm", layout)
    if product.convolution is None:
        kind = product.kind if product.kind in PRODUCT_KINDS else "gemm"
        return model.traffic_s(product.element_bytes * _elements(product), kind, layout)
    pass_ = product.pass_ or "fprop"
    if is_winograd_product(group):
        m, n, k, count = winograd_product(product.convolution, pass_)
        return model.traffic_s(product.element_bytes * count * (m * k + k * n + m * n), "bmm", layout)
    return model.traffic_s(product.element_bytes * sum(tensor_sizes(product.convolution)), f"conv_{pass_}", layout)


def _elements(product: Product) -> int:
    m, n, k = product.m, product.n, product.k
    return product.batch * (m * k + k * n + m * n)


def is_winograd_product(group: KernelGroup) -> bool:
    """The batched product between Winograd's transforms: a plain GEMM kernel inside a convolution."""
    return group.class_ != "gemm" and group.grid is not None and group.grid[2] == WINOGRAD_PRODUCTS and (
        "gemm" in group.name and "scudnn" not in group.name and "implicit" not in group.name
    )  # fmt: skip


# Tiles ----------------------------------------------------------------------------------------------------------------


def read_tiling(group: KernelGroup, product: Product | None) -> Tiling | None:
    """How a group's kernel cuts its product, by its name or its grid; None: neither tells."""
    if product is None or product.kind == "attention" or group.ctas is None or not is_predictable(product):
        return None
    convolution = product.convolution
    if convolution is not None and is_winograd_product(group):
        m, n, _, count = winograd_product(convolution, product.pass_ or "fprop")
        return _named(group, m, n, count)
    if product.is_strided_dgrad or any(word in group.name.lower() for word in NOT_ITS_TILES):
        return None
    if group.tile is not None:
        return _named(group, product.m, product.n, product.batch)
    return _by_grid(group, product) if group.class_ != "gemm" else None


def _named(group: KernelGroup, m: int, n: int, count: int) -> Tiling | None:
    """By the tile of the name, either way round, if the CTAs bear it out."""
    tile_m, tile_n = _tile(group)
    if not (0 < tile_m <= LARGEST_TILE and 0 < tile_n <= LARGEST_TILE) or group.ctas is None:
        return None
    found = []
    for a, b in ((tile_m, tile_n), (tile_n, tile_m)):
        rows, columns = ceil_div(m, a), ceil_div(n, b)
        if group.persistent:
            return Tiling(a, b, m, n, columns * count)
        slices = slices_of(group.grid, rows, columns, count)
        if slices is None and group.ctas == rows * columns * count:
            slices = 1
        if slices is not None:
            found.append(Tiling(a, b, m, n, columns * count * slices, split=slices > 1))
    return max(found, key=lambda tiling: tiling.ctas, default=None)  # the fewest CTAs without a tile


def _tile(group: KernelGroup) -> tuple[int, int]:
    """The tile of the name, as it runs along m and n or, where that is not known, as the name prints it; (0, 0)."""
    if group.tile_m is not None and group.tile_n is not None:
        return group.tile_m, group.tile_n
    printed = (group.tile or "").split("x")
    if len(printed) < 2 or max(map(len, printed)) > len(str(LARGEST_TILE)):
        return 0, 0
    return int(printed[0]), int(printed[1])


def _by_grid(group: KernelGroup, product: Product) -> Tiling | None:
    """The largest share of tiles inside the result among those that give the grid.

    cuDNN's engines with no tile in their names lay m and n along x and y, and along z the images of a batch (then rows
    of m are padded image by image), the groups, or slices of the contraction (wgrad).
    """
    if group.grid is None or min(group.grid) < 1:
        return None
    return max(_grid_readings(group.grid, product), key=lambda tiling: tiling.efficiency, default=None)


def _grid_readings(grid: tuple[int, int, int], product: Product) -> Iterator[Tiling]:
    x, y, z = grid
    images = int(product.convolution.batch) if product.convolution is not None else 1
    for along_m, along_n in ((x, y), (y, x)):
        for m, is_split in ((product.m, product.pass_ == "wgrad" and z > product.batch), (product.m // images, False)):
            fits = is_split or z == (product.batch if m == product.m else images)
            tile_m = next((tile for tile in GRID_TILES if ceil_div(m, tile) == along_m), None)
            tile_n = next((tile for tile in GRID_TILES if ceil_div(product.n, tile) == along_n), None)
            if fits and m > 0 and tile_m is not None and tile_n is not None:
                yield Tiling(tile_m, tile_n, m, product.n, along_n * z, split=is_split, from_grid=True)


# What to do -----------------------------------------------------------------------------------------------------------


def fuller_batches(loss: QuantizationLoss, group: KernelGroup, product: Product, sms: int) -> tuple[int, int] | None:
    """The largest batch sizes in whole waves below and above the traced one; None: the batch does not set the waves.

    Waves over SMs. For products whose rows grow with the batch: convolutions forward and towards the input.
    """
    tiling, convolution = loss.tiling, product.convolution
    if tiling is None or convolution is None or product.pass_ == "wgrad" or not loss.blamed_for_waves:
        return None
    if is_winograd_product(group):
        return None
    images, whole = int(convolution.batch), tiling.ctas // sms
    rows_per_image = product.m // images
    if tiling.m == product.m:
        below, above = (
            int(largest_size(waves, sms, tiling.across, tiling.tile_m)) // rows_per_image
            for waves in (whole, whole + 1)
        )
    elif tiling.m == rows_per_image and tiling.ctas % images == 0:  # cut image by image
        below, above = (waves * sms * images // tiling.ctas for waves in (whole, whole + 1))
    else:
        return None
    return (below, above) if above >= 1 else None
