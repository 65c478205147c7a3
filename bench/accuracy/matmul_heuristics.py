"""nvMatmulHeuristics beside our figures, where the user has installed it: `pip install nvidia-matmul-heuristics`.

Its licence is proprietary: it is an optional comparison, never a dependency.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gemm_data import Table, read_table

NAMES = {  # GPU of our tables -> member of NvMatmulHeuristicsNvidiaGpu
    "a100-sxm4-80gb": "A100_SXM_80GB",
    "h100-sxm-80gb": "H100_SXM",
    "h200-sxm": "H200_SXM",
    "b200-sxm": "B200",
    "l40s": "L40S",
    "rtx-pro-6000-server": "RTX_PRO_6000",
}
EVERY = 10  # of the judged rows, in the table's order: its search takes about a millisecond each
Errors = NDArray[np.float64]


def errors(tables: Mapping[str, Table]) -> dict[str, Errors] | None:
    """ln(predicted / measured) of every tenth judged row by GPU id; None where the package is not installed."""
    try:
        package = importlib.import_module("nvMatmulHeuristics")
    except ImportError:
        return None
    return {gpu: _errors(package, NAMES[gpu], table) for gpu, table in tables.items() if gpu in NAMES}


def _errors(package: Any, gpu: str, table: Table) -> Errors:
    hopper_or_later = not gpu.startswith(("A100", "L40S"))
    targets = package.NvMatmulHeuristicsTarget
    flags = package.NvMatmulHeuristicsFlags.PERF_MODEL_BASED_AUTO_TUNING
    target = targets.CUTLASS3 if hopper_or_later else targets.CUTLASS
    interface = package.NvMatmulHeuristicsInterface(target, precision="HSH", flags=flags)
    card = interface.createHardwareDescriptor()
    interface.setHardwarePredefinedGpu(card, package.NvMatmulHeuristicsNvidiaGpu[gpu])
    layout = package.NvMatmulHeuristicsMatmulLayout.NT_ROW_MAJOR  # y[m, n] = x[m, k] w[n, k]^T
    m, n, k = (sizes[table.judged.ravel()][::EVERY].astype(int) for sizes in table.rows())
    measured = table.time_s.ravel()[table.judged.ravel()][::EVERY]
    found = [interface.get_with_mnk(*map(int, sizes), layout, 1, card) for sizes in zip(m, n, k, strict=True)]
    interface.handle = None  # its destructor crashes the interpreter (0.1.0.27); the process ends soon
    answered = np.array([bool(kernels) for kernels in found])
    predicted = np.array([kernels[0]["runtime"] for kernels in found if kernels])
    return np.asarray(np.log(predicted / measured[answered]))


def part(data: Path, ids: Mapping[str, str]) -> str:
    """The comparison as Markdown; `ids` maps our GPU ids to the names of their tables."""
    found = errors({gpu: read_table(data, name) for gpu, name in ids.items()})
    if found is None:
        return "nvMatmulHeuristics (proprietary licence, never a dependency) is not installed and was not run."
    lines = [
        "### nvMatmulHeuristics",
        f"NVIDIA's estimate for its best CUTLASS kernel, every {EVERY}th row of the first table, per cent; and after "
        "one constant per GPU, fitted to these very rows, has taken its bias away. Optional, proprietary, never a "
        "dependency.",
        "| GPU | rows | mean | bias | mean without bias |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {gpu} | {len(log)} | {100 * np.abs(np.expm1(log)).mean():.1f} | {100 * np.median(log):+.1f} | "
            f"{100 * np.abs(np.expm1(log - np.median(log))).mean():.1f} |"
            for gpu, log in found.items()
        ),
    ]
    return "\n\n".join(lines)
