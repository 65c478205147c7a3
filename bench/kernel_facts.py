"""Which kernels a library launched for a call: name, grid, block, registers and shared memory, from torch.profiler.

The profiler's Chrome trace is the only public place that has a kernel's grid. A call is marked by `record_function`;
a kernel belongs to the mark inside which the host launched it, found through the correlation id that CUPTI gives the
launch and the kernel alike. So calls with several kernels, and kernels that start late, are told apart.
"""

from __future__ import annotations

import bisect
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.kernel_names import parse_kernel_name

MARK = "batchwave:"  # begins the name of each mark
LAUNCHES = ("cuda_runtime", "cuda_driver")


@dataclass(frozen=True)
class LaunchedKernel:
    """One kernel as it was launched; None where the trace does not say."""

    name: str
    duration_s: float
    grid: tuple[int, int, int] | None
    block: tuple[int, int, int] | None
    registers: int | None  # per thread
    shared_bytes: int | None  # per CTA, static and dynamic

    def facts(self) -> dict[str, Any]:
        """JSON-plain: the launch, and what the name tells of the cut (advisor.kernel_names), unknown left out."""
        told = {key: value for key, value in asdict(parse_kernel_name(self.name)).items() if value is not None}
        return asdict(self) | {key: value for key, value in told.items() if key != "name"}


def profile_calls(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[LaunchedKernel]]:
    """Run each call once under torch.profiler and return its kernels in the order of their start.

    Without CUDA the lists are empty. The calls must have run before: a first call may load or tune kernels.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        for name, call in calls.items():
            with record_function(MARK + name):
                call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))
    found = kernels_by_mark(trace["traceEvents"])
    return {name: found.get(name, []) for name in calls}


def kernels_by_mark(events: Sequence[Mapping[str, Any]]) -> dict[str, list[LaunchedKernel]]:
    """Sort the kernels of a Chrome trace by the mark in which they were launched; those outside every mark are left.

    Marks are taken to follow one another, as `profile_calls` makes them.
    """
    marks = sorted(
        (float(event["ts"]), float(event["ts"]) + float(event["dur"]), str(event["name"]).removeprefix(MARK))
        for event in events
        if event.get("cat") == "user_annotation" and str(event.get("name", "")).startswith(MARK) and "dur" in event
    )
    starts = [start for start, _, _ in marks]
    mark_of: dict[Any, str] = {}
    for event in events:
        if event.get("cat") not in LAUNCHES:
            continue
        at = bisect.bisect_right(starts, float(event["ts"])) - 1
        if at >= 0 and float(event["ts"]) <= marks[at][1]:
            mark_of[event.get("args", {}).get("correlation")] = marks[at][2]
    found: dict[str, list[LaunchedKernel]] = {name: [] for _, _, name in marks}
    kernels = (event for event in events if str(event.get("cat", "")).lower() == "kernel")
    for event in sorted(kernels, key=lambda event: float(event["ts"])):
        mark = mark_of.get(event.get("args", {}).get("correlation"))
        if mark is not None:
            found[mark].append(_kernel(event))
    return found


def _kernel(event: Mapping[str, Any]) -> LaunchedKernel:
    arguments = event.get("args", {})
    return LaunchedKernel(
        name=str(event["name"]),
        duration_s=float(event["dur"]) * 1e-6,
        grid=_triple(arguments.get("grid")),
        block=_triple(arguments.get("block")),
        registers=arguments.get("registers per thread"),
        shared_bytes=arguments.get("shared memory"),
    )


def _triple(value: Any) -> tuple[int, int, int] | None:
    return (int(value[0]), int(value[1]), int(value[2])) if isinstance(value, list) and len(value) == 3 else None
