"""The suites: what each measures on a GPU, as cases, and how one case is run.

A suite is a module with two functions. `cases(options) -> list[list[Case]]` is pure: tiers, the most valuable first.
`run(case, context) -> Result` imports torch inside; it may raise, and the worker makes a failed result of that. A case
that cannot fit is skipped before anything is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.device import Device
from bench.telemetry import Telemetry
from bench.timer import TimerOptions

SUITES: dict[str, str] = {  # name -> module
    "ceilings": "bench.suites.ceilings",
    "gemm": "bench.suites.gemm",
    "conv": "bench.suites.conv",
    "memory": "bench.suites.memory",
    "train": "bench.suites.train",
    "waves": "bench.suites.waves",
    "tune": "bench.suites.tune",
}


@dataclass(frozen=True)
class SuiteOptions:
    """What decides the cases. A figure of the GPU that is not known is None."""

    smoke: bool = False  # everything in miniature, for a processor
    quick: bool = False  # only what a calibration needs
    capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    sms: int | None = None


@dataclass(frozen=True)
class Context:
    """What a case is run with."""

    device: Device
    timer: TimerOptions
    telemetry: Telemetry
    smoke: bool = False
    torch_device: str = "cuda:0"
