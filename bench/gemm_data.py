"""Published GEMM timings, read from the folder named by --data, and the folds that hold some of them out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError

Floats = NDArray[np.float64]

TABLES = {  # GPU -> stem of its files in aiconfigurator-gemm
    "a100-sxm4-80gb": "a100_sxm4_80gb",
    "h100-sxm": "h100_sxm_80gb",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "l40s": "l40s",
    "rtx-pro-6000-server": "rtx_pro_6000_server",
}
ORIGIN = (
    "NVIDIA aiconfigurator, commit 095f58a5 (2026-08-21), systems/data/*/gemm, bfloat16 rows, Apache-2.0: "
    "cuBLAS by CUDA-graph replay in short bursts near boost clock"
)
FOLDS = 5
LEAST_M, LEAST_NK, LEAST_S = 128, 256, 20e-6  # rows that are judged: no launch-bound ones


@dataclass(frozen=True)
class Table:
    """Timings of one GPU on a grid: `time_s[m, pair]`; `repeats_s[table, m, pair]` by other software, NaN: absent."""

    m: Floats
    pairs: Floats  # rows of n, k
    time_s: Floats
    repeats_s: Floats

    def rows(self) -> tuple[Floats, Floats, Floats]:
        """Flat m, n and k of `time_s.ravel()`."""
        count = len(self.pairs)
        return np.repeat(self.m, count), np.tile(self.pairs[:, 0], len(self.m)), np.tile(self.pairs[:, 1], len(self.m))

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which of `time_s` count for accuracy: m >= 128, n and k >= 256, over 20 us."""
        wide: NDArray[np.bool_] = np.all(self.pairs >= LEAST_NK, axis=1)
        return (self.m[:, None] >= LEAST_M) & wide & (self.time_s > LEAST_S)

    def folds(self) -> NDArray[np.int64]:
        """Fold of each pair: crc32 of "NxK", modulo 5."""
        return np.array([zlib.crc32(f"{int(n)}x{int(k)}".encode()) % FOLDS for n, k in self.pairs])


def read_table(data: Path, gpu: str) -> Table:
    """Read the timings of one GPU of TABLES. Raises BadInputError where a file is missing or not as expected."""
    folder = data / "aiconfigurator-gemm"
    main = read_csv(folder / f"{TABLES[gpu]}_bf16.csv", 4)
    m, pairs = np.unique(main[:, 0]), np.unique(main[:, 1:3], axis=0)
    time_s = _on_grid(main[:, :3], main[:, 3:], m, pairs)[0]
    if np.isnan(time_s).any():
        raise BadInputError(f"{TABLES[gpu]}_bf16.csv lacks rows of its grid: fetch the file again")
    other = read_csv(folder / f"repeats_{TABLES[gpu]}.csv", None)
    return Table(m, pairs, time_s, _on_grid(other[:, :3], other[:, 3:], m, pairs))


def _on_grid(sizes: Floats, times_ms: Floats, m: Floats, pairs: Floats) -> Floats:
    width = pairs[:, 1].max() + 1  # one number per pair, in the order of `pairs`
    key = pairs[:, 0] * width + pairs[:, 1]
    rows, columns = np.searchsorted(m, sizes[:, 0]), np.searchsorted(key, sizes[:, 1] * width + sizes[:, 2])
    grid = np.full((times_ms.shape[1], len(m), len(pairs)), np.nan)
    grid[:, rows, columns] = times_ms.T * 1e-3
    return grid


def read_csv(path: Path, columns: int | None) -> Floats:
    """Numbers of a CSV file with one line of titles; empty fields are NaN. Raises BadInputError, naming the file."""
    try:
        found = np.genfromtxt(path, delimiter=",", skip_header=1)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BadInputError(f"cannot read {path}: {first}; --data names the folder of the public data") from error
    if found.ndim != 2 or (columns is not None and found.shape[1] != columns):
        raise BadInputError(f"{path} has not the expected columns: fetch the file again")
    return found
