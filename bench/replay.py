"""Public timings as if they had been measured here: the rows that the records would hold, for the very same fit.

What they lack they lack here too (telemetry, versions, several samples); where they come from is in the environment as
"replay_of", so that nothing fitted to them can be taken for a measurement of a card at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advisor.errors import BadInputError
from advisor.gpus import Gpu, find_gpu
from bench.calibration import CONVOLUTIONS, GEMMS, PASSES, replay_gemm, spread
from bench.case import METHOD_VERSION, Case, Result, Timing
from bench.gemm_data import DEEPBENCH, NEUSIGHT_ORIGIN, ORIGIN, TABLES, read_deepbench, read_records, read_table
from bench.records import Row

V100 = "v100-sxm2-16gb"
NEUSIGHT_CONVOLUTIONS = {  # device in neusight-fp32 with convolutions -> GPU
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "Tesla V100-PCIE-32GB": "v100-pcie-32gb",
    "Tesla T4": "t4",
    "Tesla P100-PCIE-16GB": "p100-pcie-16gb",
    "Tesla P4": "p4",
}
LEAST_TIMES_FLOOR = 3  # calls shorter than so many empty ones say more about the launch than about the kernel
_AT = "1970-01-01T00:00:00+00:00"  # when they were measured is not told


def environment_of(gpu: Gpu, origin: str) -> dict[str, Any]:
    """What the records would say of the machine."""
    return {
        "device": "cuda",
        "gpu_name": gpu.name,
        "gpu_uuid": f"replay-{gpu.id}",
        "capability": ".".join(map(str, gpu.compute_capability)),
        "sms": gpu.sms,
        "memory_bytes": gpu.memory_bytes,
        "l2_bytes": gpu.l2_bytes,
        "method_version": METHOD_VERSION,
        "replay_of": origin,
    }


def rows_of(kind: str, cases: Iterable[tuple[Mapping[str, Any], float]], environment: Mapping[str, Any]) -> list[Row]:
    """Rows of the records, one sample each; cases as parameters and seconds."""
    return [
        Row(
            f"replay-{environment['gpu_uuid']}", i, Case(kind, kind, dict(params)),
            Result("ok", timing=Timing((time_s,), 1, "cold", graph=True, quality="good")), environment, _AT,
        )
        for i, (params, time_s) in enumerate(cases, start=1)
    ]  # fmt: skip


def _gemm(m: float, n: float, k: float, dtype: str) -> dict[str, Any]:
    sizes = {"m": int(m), "n": int(n), "k": int(k)}
    return {**sizes, "pass": "forward", "dtype": dtype, "library": "cublas", "mode": "cold"}


def gemm_rows(data: Path, name: str) -> list[Row]:
    """All BF16 products of a GPU of `bench.gemm_data.TABLES`: m, n, k of linear layers by CUDA-graph replay."""
    table, gpu = read_table(data, name), find_gpu(name)
    cases = [
        (_gemm(m, n, k, "bf16"), float(time_s))
        for m, n, k, time_s in zip(*table.rows(), table.time_s.ravel(), strict=True)
    ]
    return rows_of("gemm", cases, environment_of(gpu, ORIGIN))


def deepbench_gemm_rows(data: Path) -> list[Row]:
    """DeepBench's FP16 products on a V100."""
    found = read_deepbench(data, "fp16_mixed")
    cases = [
        (_gemm(m, n, k, "fp16"), float(t)) for m, n, k, t in zip(found.m, found.n, found.k, found.time_s, strict=True)
    ]
    return rows_of("gemm", cases, environment_of(find_gpu(V100), DEEPBENCH))


def deepbench_convolution_rows(data: Path) -> list[Row]:
    """DeepBench's FP16 convolutions on a V100 (cuDNN 7.6, NCHW), one row per layer and pass, square strides alone."""
    cases = []
    for row in read_records(data / "deepbench" / "conv_v100.csv"):
        if row["precision"] != "fp16_mixed" or row["stride_w"] != row["stride_h"] or row["pad_w"] != row["pad_h"]:
            continue
        sizes = {
            "batch": row["n"], "c_in": row["c"], "c_out": row["k"], "height": row["h"], "width": row["w"],
            "kernel_h": row["r_filter_h"], "kernel_w": row["s_filter_w"], "stride": row["stride_h"],
            "padding": row["pad_h"],
        }  # fmt: skip
        for pass_, column in zip(PASSES, ("fwd_ms", "dgrad_ms", "wgrad_ms"), strict=True):
            if row[column]:
                cases.append((_convolution(sizes, pass_, "fp16"), float(row[column]) * 1e-3))
    return rows_of("conv", cases, environment_of(find_gpu(V100), DEEPBENCH))


def neusight_convolution_rows(data: Path, device: str) -> list[Row]:
    """NeuSight's FP32 convolutions of one device, 3x3, stride 1, forward, NCHW.

    One launch lies between two events however little it does: the shortest time of the device is taken off, and rows
    that are not three times as long are left out, as for its linear layers.
    """
    if device not in NEUSIGHT_CONVOLUTIONS:
        raise BadInputError(f"no convolutions of {device!r}: choose one of {', '.join(NEUSIGHT_CONVOLUTIONS)}")
    found = [row for row in read_records(data / "neusight-fp32" / "conv3x3_fp32_5gpus.csv") if row["device"] == device]
    floor = min(float(row["latency_ms"]) for row in found)
    cases = []
    for row in found:
        sizes = {
            "batch": row["batch"], "c_in": row["c_in"], "c_out": row["c_out"], "height": row["hw_in"],
            "width": row["hw_in"], "kernel_h": row["kernel"], "kernel_w": row["kernel"], "stride": row["stride"],
            "padding": row["pad"],
        }  # fmt: skip
        latency = float(row["latency_ms"])
        if latency > LEAST_TIMES_FLOOR * floor:
            cases.append((_convolution(sizes, "forward", "fp32"), (latency - floor) * 1e-3))
    gpu = find_gpu(NEUSIGHT_CONVOLUTIONS[device])
    return rows_of("conv", cases, environment_of(gpu, NEUSIGHT_ORIGIN.replace("linear layers", "convolutions")))


def _convolution(sizes: Mapping[str, str], pass_: str, dtype: str) -> dict[str, Any]:
    whole = {name: int(value) for name, value in sizes.items()}
    how = {"layout": "nchw", "dtype": dtype, "library": "cudnn", "autotuned": True, "mode": "cold"}
    return {**whole, "dilation": 1, "groups": 1, "pass": pass_, **how}


def calibration_of(rows: Sequence[Row], count: int | None = None) -> tuple[list[Row], list[Row]]:
    """The rows that stand for a calibration's, chosen by the sizes alone, and the others.

    Products: the nearest to the calibration's targets. Convolutions: spread as the calibration spreads its own over
    the layers it draws from; those of one pass after another.
    """
    if rows[0].case.kind == "gemm":
        sizes = [[row.case.params[name] for name in ("m", "n", "k")] for row in rows]
        chosen = replay_gemm(np.array(sizes, dtype=float), count or GEMMS)
    else:
        chosen = _spread_convolutions(rows, count or CONVOLUTIONS)
    taken = set(chosen)
    return [rows[i] for i in chosen], [row for i, row in enumerate(rows) if i not in taken]


def _spread_convolutions(rows: Sequence[Row], count: int) -> list[int]:
    by_pass = [[i for i, row in enumerate(rows) if row.case.params["pass"] == pass_] for pass_ in PASSES]
    by_pass = [indices for indices in by_pass if indices]
    found = []
    for j, indices in enumerate(by_pass):
        names = ("batch", "c_in", "c_out", "height", "kernel_h", "stride")
        points = np.log2([[float(rows[i].case.params[name] or 1) for name in names] for i in indices])
        share = count // len(by_pass) + (j < count % len(by_pass))
        found += [indices[i] for i in spread(points, share)]
    return found


__all__ = [
    "NEUSIGHT_CONVOLUTIONS",
    "TABLES",
    "V100",
    "calibration_of",
    "deepbench_convolution_rows",
    "deepbench_gemm_rows",
    "environment_of",
    "gemm_rows",
    "neusight_convolution_rows",
]
