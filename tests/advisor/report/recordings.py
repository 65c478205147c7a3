"""Records as `advisor bench` writes them, on one GPU. Every measurement here is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.case import Case, Result, Timing
from bench.records import open_records
from bench.suites.gemm import gemm_case
from bench.suites.train import train_case
from bench.suites.waves import timeline_case

ENVIRONMENT = {
    "method_version": 1, "device": "cuda", "gpu_name": "NVIDIA H200", "gpu_uuid": "GPU-1", "capability": "9.0",
    "sms": 132, "power_limit_w": 700.0, "driver": "580.95", "cuda": "13.0", "cudnn": 91200, "torch": "2.13.0",
    "triton": "3.9.0", "busy": None,
}  # fmt: skip
TELEMETRY = {"during": {"n": 2, "sm_hz": {"median": 1.755e9}, "power_w": {"median": 600.0}}}
HELD = {"reserved_peak_bytes": 3 * 2**30, "first_step_reserved_bytes": 4 * 2**30, "context_bytes": 2**30}


def took(seconds: float, **facts: Any) -> Result:
    return Result("ok", timing=Timing((seconds,), 10, "cold", True, "good"), facts=facts, telemetry=TELEMETRY)


def recorded(path: Path, *measured: tuple[Case, Result], **environment: object) -> Path:
    """Add a run to the records at `path`, which are made where there are none."""
    with open_records(path) as records:
        run = records.start_run(ENVIRONMENT | environment, "advisor bench", seed=1, budget_s=60.0)
        for case, result in measured:
            records.add(run, case, result)
    return path


def every_kind(path: Path) -> Path:
    """Products of a library and of our kernels, steps, a timeline, and a case that failed: six rows of an H200."""
    ran = {"sms": 132, "sm": [0], "start_ns": [0], "end_ns": [1000]}
    return recorded(
        path,
        (gemm_case(512, 4096, 1024, pass_="wgrad"), took(2e-5, flops=2**32)),
        (gemm_case(512, 4096, 1024, pass_="wgrad", library="triton"), took(4e-5, flops=2**32)),
        (train_case("resnet50", 128), took(0.1, **HELD)),
        (train_case("resnet50", 256), took(0.2)),
        (timeline_case(64, 64, 64, tile_k=64, stages=3, warps=8), Result("ok", facts=ran)),
        (gemm_case(8, 8, 8), Result("failed", "lost")),
    )
