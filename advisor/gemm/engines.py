"""Two engines for one search: the fastest cut of every product. Both call `physics`; tests hold them to each other.

numpy starts at once and suits the thousands of products of `recommend`; numba compiles first (a second, once) and
then runs all cores: it suits the millions of `predict gemm`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advisor.gemm.physics import LEAST_SLICE, SPLITS, Machine, kernel_time, least_time, rounds_of

Floats = NDArray[np.float64]
Tiles = NDArray[np.float64]  # one row per tile: m, n, rate
CHUNK = 8192  # products per pass of the numpy engine: its temporaries stay in cache


def fastest_cut(
    m: Floats, n: Floats, k: Floats, batch: Floats, rate: Floats, tiles: Tiles, gpu: Machine
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Kernel seconds, index of the tile and split of the fastest cut of each product (flat arrays). Pure numpy."""
    time, tile, split = np.full(len(m), np.inf), np.zeros(len(m), dtype=np.int64), np.ones(len(m), dtype=np.int64)
    for start in range(0, len(m), CHUNK):
        part = slice(start, start + CHUNK)
        _search(m[part], n[part], k[part], batch[part], rate[part], tiles, gpu, time[part], tile[part], split[part])
    return time, tile, split


def _search(
    m: Floats, n: Floats, k: Floats, batch: Floats, rate: Floats, tiles: Tiles, gpu: Machine,
    time: Floats, tile: NDArray[np.int64], split: NDArray[np.int64],
) -> None:  # fmt: skip
    for index, (tile_m, tile_n, tile_rate) in enumerate(tiles):
        across, down = np.ceil(m / tile_m), np.ceil(n / tile_n)
        count = across * down * batch
        rows = np.flatnonzero(least_time(k, rate, tile_m, tile_n, tile_rate, count, gpu) < time)
        for s in SPLITS:
            if s > 1:
                rows = rows[(count[rows] * s <= gpu.most_split_load * gpu.sms) & (k[rows] >= LEAST_SLICE * s)]
            if not rows.size:
                break
            found = kernel_time(
                m[rows], n[rows], k[rows], batch[rows], rate[rows], tile_m, tile_n, tile_rate, s,
                across[rows], down[rows], rounds_of(count[rows] * s, gpu.sms, gpu.wave_hardness), gpu,
            )[0]  # fmt: skip
            better = found < time[rows]
            at = rows[better]
            time[at], tile[at], split[at] = found[better], index, s


def compiled_fastest_cut(
    m: Floats, n: Floats, k: Floats, batch: Floats, rate: Floats, tiles: Tiles, gpu: Machine
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """As `fastest_cut`, on all cores."""
    from advisor.gemm.compiled import search

    time, tile, split = np.empty(len(m)), np.empty(len(m), dtype=np.int64), np.empty(len(m), dtype=np.int64)
    search(m, n, k, batch, rate, tiles, gpu, time, tile, split)
    return time, tile, split
