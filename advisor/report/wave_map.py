"""Wave and tile efficiency over M and N for one tile on one GPU: exact counts, nothing fitted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.gemm import runs_on_tensor_cores
from advisor.kernel_names import parse_kernel_name
from advisor.quantization import ceil_div, tile_count, tile_efficiency, wave_efficiency
from advisor.report.subject import MeasuredProducts, Subject

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

LARGEST = 8192  # M and N of the map
GUIDES_TILE = (256, 128)
_LARGE = 1024  # M and N from which a measured product tells which tile a library takes for large ones


@dataclass(frozen=True)
class WaveMap:
    """Products C[M, N] of up to `largest` x `largest`, in tiles of tile_m x tile_n, on `slots` resident CTAs."""

    tile_m: int
    tile_n: int
    slots: int
    largest: int = LARGEST

    @property
    def rows(self) -> int:
        """Rows of tiles of the largest product."""
        return ceil_div(self.largest, self.tile_m)

    @property
    def columns(self) -> int:
        """Columns of tiles of the largest product."""
        return ceil_div(self.largest, self.tile_n)

    def by_tiles(self) -> Floats:
        """Wave efficiency (rows, columns), at 1, 2, ... rows and columns of tiles."""
        rows, columns = np.arange(1, self.rows + 1)[:, None], np.arange(1, self.columns + 1)[None, :]
        return np.asarray(wave_efficiency(rows * columns, self.slots))

    def efficiency(self, m: Integers, n: Integers) -> Floats:
        """Tile efficiency x wave efficiency of products; sizes broadcast."""
        tiles = tile_count(m, n, self.tile_m, self.tile_n)
        return np.asarray(tile_efficiency(m, n, self.tile_m, self.tile_n) * wave_efficiency(tiles, self.slots))

    def boundary(self, waves: int) -> Integers:
        """The largest N, in whole tiles, that `waves` waves hold, at 1, 2, ... rows of tiles; 0 where none is held."""
        return waves * self.slots // np.arange(1, self.rows + 1) * self.tile_n

    def full(self) -> list[tuple[int, int, int]]:
        """(M, N, waves) of whole tiles within the map that leave no slot empty: fewest waves first, squarest first."""
        found = [
            (m * self.tile_m, n * self.tile_n, m * n // self.slots)
            for m in range(1, self.largest // self.tile_m + 1)
            for n in range(1, self.largest // self.tile_n + 1)
            if m * n % self.slots == 0
        ]
        return sorted(found, key=lambda size: (size[2], max(size[0], size[1]) / min(size[0], size[1]), -size[0]))


def usual_tile(subject: Subject) -> tuple[int, int, str]:
    """The tile that libraries take most for large products, its longer side first, and how that is known."""
    tiles: Counter[tuple[int, int]] = Counter()
    for products in subject.measured.products:
        tiles.update(_tiles_of(products))
    if tiles:
        (longer, shorter), calls = tiles.most_common(1)[0]
        return longer, shorter, f"the tile that most of the large products measured ran in ({calls} of {tiles.total()})"
    precision = "fp16" if runs_on_tensor_cores(subject.gpu, "fp16") else "fp32"
    model = subject.profiles.gemm.gemm.get(precision)
    if model is None:
        return *GUIDES_TILE, "the most efficient of cuBLAS's tiles by NVIDIA's guide"
    fitted = {(max(tile.m, tile.n), min(tile.m, tile.n)) for tile in model.coefficients.tiles}
    if GUIDES_TILE in fitted:
        return (
            *GUIDES_TILE,
            "the most efficient of cuBLAS's tiles by NVIDIA's guide, and one of those of the time model",
        )
    longer, shorter = max(fitted, key=lambda tile: (tile[0] * tile[1], tile))
    return longer, shorter, f"the largest of the time model's tiles in {precision.upper()}"


def _tiles_of(products: MeasuredProducts) -> Counter[tuple[int, int]]:
    """How often each tile, its longer side first, was taken for large products, as the names of the kernels tell."""
    large = (products.m >= _LARGE) & (products.n >= _LARGE)
    if products.library != "cublas" or not large.any():
        return Counter()
    names = Counter(name for name, is_large in zip(products.kernel, large, strict=True) if is_large and name)
    found: Counter[tuple[int, int]] = Counter()
    for name, calls in names.items():
        told = parse_kernel_name(name)
        if told.tile_rows and told.tile_columns:
            found[max(told.tile_rows, told.tile_columns), min(told.tile_rows, told.tile_columns)] += calls
    return found
