"""Under which conditions a trace was recorded, in words: when, with which software, and which steps count."""

from __future__ import annotations

import statistics
from datetime import datetime, timezone

from advisor.profiling.output.text import clean
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import StepFacts, TraceProfile
from advisor.units import duration

_NAMES = {
    "torch_version": "PyTorch", "cuda_version": "CUDA", "cuda_runtime_version": "CUDA runtime",
    "cuda_driver_version": "driver for CUDA", "cudnn_version": "cuDNN", "cupti_version": "CUPTI",
    "nccl_version": "NCCL",
}  # fmt: skip
_MOST_NAMED = 8
_WAITING = {
    "host": "for the host's launches", "data": "for data", "communication": "for communication",
    "sync": "while the host waited for it",
}  # fmt: skip
_EXCESS = 0.25  # of what the first step took longer: a wait that explains so much of it is named


def recorded_at(raw: RawTrace) -> str | None:
    """When a trace begins, in UTC and ISO 8601; None where that is unknown."""
    if raw.begun_s is None:
        return None
    return datetime.fromtimestamp(raw.begun_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def software(raw: RawTrace) -> dict[str, str]:
    """Versions as the trace tells them; CUDA's numbers as people write them ("12000" is 12.0)."""
    told = {name: _version(name, value) for name, value in raw.versions.items()}
    if raw.recorded is not None:
        own = {"torch_version": raw.recorded.torch, "cuda_version": raw.recorded.cuda,
               "cudnn_version": None if raw.recorded.cudnn is None else str(raw.recorded.cudnn)}  # fmt: skip
        told |= {name: _version(name, value) for name, value in own.items() if value is not None}
    return told


def _version(name: str, value: str) -> str:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        return value
    number = int(value)
    if name in ("cuda_runtime_version", "cuda_driver_version") and number >= 1000:  # CUDART_VERSION
        return f"{number // 1000}.{number % 1000 // 10}"
    if name == "cudnn_version" and number >= 1000:  # CUDNN_VERSION; with one digit more from 9 on
        major, rest = divmod(number, 10_000 if number >= 90_000 else 1000)
        return f"{major}.{rest // 100}.{rest % 100}"
    return value


def conditions(profile: TraceProfile) -> str:
    """Date and versions in one line; empty where the trace tells neither."""
    date = [] if profile.recorded_at is None else [f"{profile.recorded_at[:10]} {profile.recorded_at[11:16]} UTC"]
    versions = [
        f"{_NAMES.get(name) or clean(name, 40).removesuffix('_version')} {clean(value, 40)}"
        for name, value in sorted(profile.versions.items(), key=_order)
        if name.endswith("_version")
    ]
    return ", ".join([*date, *versions[:_MOST_NAMED]])


def _order(item: tuple[str, str]) -> tuple[int, str]:
    known = list(_NAMES)
    return known.index(item[0]) if item[0] in known else len(known), item[0]


def step_lines(profile: TraceProfile) -> list[str]:
    """What is to be known of the steps before their figures are read: a line each."""
    steps, lines = profile.steps, []
    if not steps.count:
        lines.append(
            "No steps were found: all figures are of the whole trace. Call profiler.step() after each training step, "
            "and record two or more: torch.profiler.schedule(wait=2, warmup=3, active=5, repeat=1)."
        )
    if steps.found_by == "period":
        lines.append("The trace marks no steps: they were found where its sequence of kernels repeats.")
    if steps.first_step_differs and len(steps.durations_s) > 1:
        lines.append(_first_step(steps))
    if profile.recorded is not None and profile.recorded.unprofiled_step_s and steps.count:
        without_s = statistics.median(profile.recorded.unprofiled_step_s)
        lines.append(
            f"A step took {duration(without_s)} without the profiler and {duration(steps.step_s)} under it: all times "
            "and shares here are of the step under the profiler, which slows the host but not the kernels."
        )
    return lines


def _first_step(steps: StepFacts) -> str:
    first_s, others_s = steps.durations_s[0], steps.durations_s[1:]
    longer_s = first_s - steps.step_s
    waits = steps.step_gap_s[0] if steps.step_gap_s else {}
    told = [
        f"{duration(wait_s)} of it waiting {_WAITING[cause]}"
        for cause, wait_s in sorted(waits.items(), key=lambda item: -item[1])
        if cause in _WAITING and longer_s > 0 and wait_s - steps.gap_s.get(cause, 0.0) >= _EXCESS * longer_s
    ]
    low, high = duration(min(others_s)), duration(max(others_s))
    rest = f"the others took {low}" + ("" if low == high else f" to {high}")
    first = ", ".join([duration(first_s), *told])
    return f"The first step took {first}; {rest}, and step time, busy share and gaps are theirs."
