"""Published GEMM timings, read from the folder named by --data, and the folds that hold some of them out."""

from __future__ import annotations

import csv
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


@dataclass(frozen=True)
class Rows:
    """Timings that lie on no grid: sizes (elements), measured time (s), and which rows a fit may see."""

    m: Floats
    n: Floats
    k: Floats
    time_s: Floats
    seen: NDArray[np.bool_]


NEUSIGHT = {  # device in neusight-fp32 with rows to fit -> GPU
    "NVIDIA A100-PCIE-40GB": "a100-pcie-40gb",
    "Tesla V100-PCIE-32GB": "v100-pcie-32gb",
    "Tesla T4": "t4",
}
NEUSIGHT_UNFITTED = {
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA L4": "l4",
    # not fitted: on the test rows of these two a fit to their training rows does no better than another GPU's
    "Tesla P100-PCIE-16GB": "p100-pcie-16gb",
    "Tesla P4": "p4",
}
NEUSIGHT_ORIGIN = (
    "NeuSight, commit 6945927d (2025-06-23), linear layers, MIT: PyTorch 2.1.0, TF32 off; "
    "one call between events, less what an empty one takes"
)
ELEUTHERAI = "EleutherAI cookbook, commits 27dff48d and fb3e361d (2024-01-09), sizing/results, Apache-2.0"
DEEPBENCH = "Baidu DeepBench, commit da81ba78, training, Apache-2.0"


def read_neusight(data: Path, device: str) -> Rows:
    """FP32 linear layers of one device; those of the file's training split may be seen.

    One launch between two events takes 30 to 60 us however little it does: the median of products below 1 MFLOP is
    taken off, and rows that are not three times as long are left out.
    """
    found = [row for row in read_records(data / "neusight-fp32" / "linear_fp32_8gpus.csv") if row["device"] == device]
    m, n, k, time_ms = (np.array([float(row[name]) for row in found]) for name in ("m", "n_out", "k_in", "latency_ms"))
    seen = np.array([row["split"] == "train" for row in found])
    empty = np.median(time_ms[m * n * k < 5e5]) if (m * n * k < 5e5).any() else time_ms.min()
    keep = time_ms > 3 * empty
    return Rows(m[keep], n[keep], k[keep], (time_ms[keep] - empty) * 1e-3, seen[keep])


def read_eleutherai(data: Path, gpu: str, *, op: str = "mm") -> dict[str, Floats]:
    """FP16 products of "a100" or "v100" over 0.1 ms: columns m, n, k, batch, time_s, aligned (n a multiple of 8)."""
    path = data / "eleutherai-cookbook-sizing" / "gemm_bmm_fp16_a100_v100_mi250x.csv"
    found = [row for row in read_records(path) if row["gpu"] == gpu and row["op"] == op]
    m, n, k, batch, tflops = (
        np.array([float(row[name]) for row in found]) for name in ("m", "k_out", "n_contraction", "b", "tflops")
    )
    time_s = 2 * m * n * k * batch / (tflops * 1e12)
    columns = {"m": m, "n": n, "k": k, "batch": batch, "time_s": time_s, "aligned": (n % 8 == 0) & (k % 8 == 0)}
    return {name: values[time_s > 1e-4] for name, values in columns.items()}


def read_deepbench(data: Path, precision: str) -> Rows:
    """V100 products, "fp32" or "fp16_mixed". Its matrices are column-major: its n is our m."""
    found = [row for row in read_records(data / "deepbench" / "gemm_v100.csv") if row["precision"] == precision]
    m, n, k, time_ms = (np.array([float(row[name]) for row in found]) for name in ("n", "m", "k", "time_ms"))
    return Rows(m, n, k, time_ms * 1e-3, np.ones(len(m), dtype=bool))


def read_records(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by title. Raises BadInputError where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; --data names the folder of public data") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path} is no CSV file in UTF-8 ({error}): fetch the file again") from error
