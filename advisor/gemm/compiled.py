"""The numba engine. Import it only where numba is wanted: `engines.compiled_fastest_cut` does."""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from advisor.gemm.physics import (
    LEAST_SLICE,
    SPLITS,
    Machine,
    kernel_time,
    least_time,
    rounds_of,
    tile_cycles,
)

_SPLITS = np.array(SPLITS, dtype=np.float64)
for _formula in (rounds_of, tile_cycles, least_time, kernel_time):
    register_jitable(_formula)


# not cached: numba's cache would not notice a change of `physics`
@numba.njit(parallel=True, error_model="numpy", fastmath=True)
def search(
    m: NDArray[np.float64],
    n: NDArray[np.float64],
    k: NDArray[np.float64],
    batch: NDArray[np.float64],
    rate: NDArray[np.float64],
    tiles: NDArray[np.float64],
    gpu: Machine,
    time: NDArray[np.float64],
    tile: NDArray[np.int64],
    split: NDArray[np.int64],
) -> None:
    """Fill time, tile and split with the fastest cut of each product."""
    for row in numba.prange(len(m)):
        best, best_tile, best_split = 1e300, 0, 1.0  # in registers: the arrays are written once per row
        for index in range(len(tiles)):
            tile_m, tile_n, tile_rate = tiles[index]
            rows, columns = np.ceil(m[row] / tile_m), np.ceil(n[row] / tile_n)
            if least_time(k[row], rate[row], tile_m, tile_n, tile_rate, rows * columns * batch[row], gpu) >= best:
                continue
            for s in _SPLITS:
                count = rows * columns * batch[row] * s
                crowded = count > gpu.most_split_load * gpu.sms
                if s > 1 and (crowded or k[row] < LEAST_SLICE * s):
                    break
                rounds = rounds_of(count, gpu.sms, gpu.wave_hardness)
                found = kernel_time(
                    m[row], n[row], k[row], batch[row], rate[row], tile_m, tile_n, tile_rate, s,
                    rows, columns, rounds, gpu,
                )[0]  # fmt: skip
                if found < best:
                    best, best_tile, best_split = found, index, s
        time[row], tile[row], split[row] = best, best_tile, int(best_split)
