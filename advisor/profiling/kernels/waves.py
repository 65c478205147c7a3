"""The waves of one launch: exact counts over slots and over SMs, and why some kernels are not to be blamed for them.

A kernel that loops over its tiles (persistent, stream-K) launches one wave at most, by design: the waves given are the
rounds of that loop where the operator's product and the tile tell how many tiles there are, and unknown otherwise. A
split K adds CTAs on purpose. Formulae: `advisor.quantization`.

How a grid covers the tiles. cuBLAS's and cuDNN's own kernels have one axis per side of the product, in either order,
or all tiles on one axis; CUTLASS has (rows x 2^s, columns / 2^s rounded up), so that neighbours share operands in L2,
and the CTAs that the rounding adds have no tile (cutlass/gemm/threadblock/threadblock_swizzle.h, "get_grid_shape").
The third axis counts the batch, or the slices of a split K.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from advisor.kernel_names import KernelName
from advisor.profiling.records import Product
from advisor.quantization import ceil_div, last_wave_fill, wave_efficiency
from advisor.units import percent

# cuBLAS's own names are of column-major products: the first number of a tile runs along our n (advisor.kernel_names).
_CUBLAS_CUTLASS = re.compile(r"cutlass(?:_\d{2,3}_|3x_)")
_OTHER_PRODUCT = re.compile(r"[wW]inograd|gcgemm|fft")  # their tile is not one of the operator's product
_NEARLY_ALL = 0.85  # of the SMs: as many as hold a persistent kernel's clusters
_SWIZZLES = {1: 1, 2: 2, 4: 3, 8: 6}  # 2^s, and the columns of tiles from which CUTLASS takes it

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Launch:
    """One kernel's launch: its grid, how many CTAs an SM holds at once, and the GPU's SMs; None: unknown."""

    grid: Grid | None
    resident: int | None
    sms: int | None

    @property
    def ctas(self) -> int | None:
        """CTAs of the grid."""
        return None if self.grid is None else self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class Cut:
    """How the kernel divides the operator's product; None: unknown. Tiles count the product's batch, not a split K."""

    tile_m: int | None = None
    tile_n: int | None = None
    tiles: int | None = None
    persistent: bool = False
    split_k: bool | None = None
    note: str | None = None


@dataclass(frozen=True)
class Waves:
    """Fields of `KernelGroup` of the same names."""

    waves: float | None = None
    wave_efficiency: float | None = None
    wave_efficiency_sms: float | None = None
    idle_share: float | None = None
    idle_share_sms: float | None = None


def read_cut(told: KernelName, product: Product | None, launch: Launch, *, reduced: bool) -> Cut:
    """Tile, tiles and schedule of a kernel that computes `product`. `reduced`: a split-K sum follows it."""
    rows, columns = told.tile_rows, told.tile_columns
    if rows is None or columns is None or told.operation == "attention":
        return _scheduled(told, Cut(split_k=told.split_k), launch)
    by_habit = (columns, rows) if _first_is_n(told) else (rows, columns)
    if product is None or product.is_strided_dgrad:  # several products in one: their tiles are not counted
        return _scheduled(told, Cut(*by_habit, split_k=told.split_k), launch)
    if not _computes(told, product):
        note = "its tiles are Winograd's or Fourier's, not the convolution's" if product.kind == "conv" else None
        return Cut(split_k=told.split_k, note=note)
    covering = [_cover(told, product, tile, launch.grid) for tile in (by_habit, by_habit[::-1])]
    found = min((each for each in covering if each is not None), key=lambda each: each.empty, default=None)
    if found is not None:
        return found.cut
    tile_m, tile_n = by_habit
    tiles = ceil_div(product.m, tile_m) * ceil_div(product.n, tile_n) * product.batch
    split_k = True if told.split_k or (reduced and (launch.ctas or 0) > tiles) else told.split_k
    return _scheduled(told, Cut(tile_m, tile_n, tiles, split_k=split_k), launch)


def count_waves(launch: Launch, cut: Cut) -> Waves:
    """Waves of a launch; of a persistent kernel the rounds of its loop, its CTAs being the slots."""
    ctas, sms = launch.ctas, launch.sms
    if not ctas:
        return Waves()
    slots = sms * launch.resident if sms and launch.resident else None
    if cut.persistent and (cut.tiles is None or cut.split_k):
        return Waves(waves=ctas / slots if slots else None)
    if cut.persistent and cut.tiles is not None and cut.tiles > ctas:
        return _waves(cut.tiles, ctas, sms)
    return _waves(ctas, slots, sms)


def _waves(work: int, slots: int | None, sms: int | None) -> Waves:
    return Waves(
        waves=work / slots if slots else None,
        wave_efficiency=wave_efficiency(work, slots) if slots else None,
        wave_efficiency_sms=wave_efficiency(work, sms) if sms else None,
        idle_share=1 - last_wave_fill(work, slots) if slots else None,
        idle_share_sms=1 - last_wave_fill(work, sms) if sms else None,
    )


def _first_is_n(told: KernelName) -> bool:
    return told.operation == "gemm" and (told.library == "cuBLAS" or bool(_CUBLAS_CUTLASS.search(told.name)))


def _computes(told: KernelName, product: Product) -> bool:
    """Whether the kernel computes the operator's own product, so that its tiles are the product's."""
    if told.helper or product.kind == "attention" or _OTHER_PRODUCT.search(told.name):
        return False
    if product.kind != "conv":
        return told.operation == "gemm"
    return told.operation in {"fprop", "dgrad", "wgrad", "conv"}


@dataclass(frozen=True)
class _Cover:
    cut: Cut
    empty: int  # CTAs without a tile


def _cover(told: KernelName, product: Product, tile: tuple[int, int], grid: Grid | None) -> _Cover | None:
    """The cut into these tiles, if the grid has a CTA for each, `slices` times over; None: the grid is another's."""
    down, across = ceil_div(product.m, tile[0]), ceil_div(product.n, tile[1])
    slices = slices_of(grid, down, across, product.batch)
    if grid is None or slices is None:
        return None
    ctas = grid[0] * grid[1] * grid[2]
    tiles = down * across * product.batch
    empty = ctas - tiles * slices
    notes = []
    if told.persistent:
        notes.append("persistent: one wave by design")
    if slices > 1:
        notes.append(f"split-K: {slices} CTAs share each tile's contraction, to fill the GPU")
    if empty:
        notes.append(f"{empty} of {ctas} CTAs have no tile: the grid is rounded up")
    split_k = True if slices > 1 else told.split_k
    return _Cover(Cut(*tile, tiles, bool(told.persistent), split_k, "; ".join(notes) or None), empty)


def slices_of(grid: Grid | None, down: int, across: int, batch: int) -> int | None:
    """How many CTAs share the contraction of each of `batch` x `down` x `across` tiles; None: the grid is another's."""
    if grid is None or grid[2] % batch or (grid[0], grid[1]) not in _planes(down, across):
        return None
    return grid[2] // batch


def _planes(down: int, across: int) -> Iterator[tuple[int, int]]:
    """Grids of two axes that cover `down` x `across` tiles."""
    yield down * across, 1
    for first, second in ((down, across), (across, down)):
        for swizzle, least in _SWIZZLES.items():
            if second >= least:
                yield first * swizzle, ceil_div(second, swizzle)


def _scheduled(told: KernelName, cut: Cut, launch: Launch) -> Cut:
    """Add what the name, or fewer CTAs than tiles, tell of the schedule."""
    if told.persistent or _loops(cut.tiles, launch):
        note = f"persistent: {_rounds(cut, launch)}"
        return Cut(cut.tile_m, cut.tile_n, cut.tiles, persistent=True, split_k=cut.split_k, note=note)
    note_split = "split-K: several CTAs share a tile's contraction, to fill the GPU" if cut.split_k else None
    return Cut(cut.tile_m, cut.tile_n, cut.tiles, split_k=cut.split_k, note=note_split)


def _rounds(cut: Cut, launch: Launch) -> str:
    """What the loop over the tiles takes, where every tile is one CTA's."""
    if cut.tiles is None or not launch.ctas or cut.split_k:
        return "one wave by design"
    on = f"{cut.tiles} tiles on {launch.ctas} CTAs"
    if cut.tiles <= launch.ctas:
        return f"{on}, one wave by design"
    rounds, last = ceil_div(cut.tiles, launch.ctas), last_wave_fill(cut.tiles, launch.ctas)
    return f"{on}, {rounds} rounds, the last {percent(last)} full; one launched wave by design"


def _loops(tiles: int | None, launch: Launch) -> bool:
    """Whether fewer CTAs than tiles were launched, as many as the GPU (or its clusters) holds at once."""
    ctas, sms = launch.ctas, launch.sms
    if tiles is None or not ctas or not sms or ctas >= tiles:
        return False
    return (ctas % sms == 0 and ctas // sms <= (launch.resident or 1)) or _NEARLY_ALL * sms <= ctas < sms
