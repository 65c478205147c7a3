"""Device time in pytest-benchmark: its statistics, JSON and `pytest-benchmark compare` over our timer's samples.

pytest-benchmark reads the host's clock, which sees a kernel's launch and not its end. So `bench.timer` takes the
samples, and pytest-benchmark is given them through what it documents: a timer of our own (`device_clock`, named in
the mark of each benchmark) and `benchmark.pedantic`, one round for each sample.

    @pytest.mark.benchmark(timer=device_clock)
    def test_matmul(benchmark):
        time_on_device(benchmark, open_device("cuda:0"), [lambda: torch.mm(a, b, out=c)])
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from bench.case import Mode, Timing
from bench.device import Device, environment
from bench.timer import TimerOptions, time_calls

_UNREAD: deque[float] = deque()


def device_clock() -> float:
    """Start and end of the next sample that `time_on_device` took, in turn; each sample starts at 0."""
    if not _UNREAD:
        raise RuntimeError("device_clock only plays back samples: let time_on_device take them")
    return _UNREAD.popleft()


def time_on_device(
    benchmark: Any,
    device: Device,
    calls: Sequence[Callable[[], object]],
    options: TimerOptions | None = None,
    *,
    mode: Mode = "warm",
    graph: bool = True,
    **facts: str | int | float | bool,
) -> Timing | None:
    """Time `calls` with `time_calls`, and give every sample to pytest-benchmark's fixture `benchmark`.

    What a record says of a timing, the device and the versions goes to `extra_info`, and so do `facts`. With
    --benchmark-disable it calls once and returns None. Raises RuntimeError where the benchmark is not marked with
    `timer=device_clock`.
    """
    if not benchmark.enabled:
        benchmark.pedantic(calls[0])
        device.synchronize()
        return None
    timing = time_calls(device, calls, options or TimerOptions(), mode=mode, graph=graph)
    seen = environment(device)
    benchmark.extra_info.update(
        {key: seen[key] for key in ("device", "gpu_name", "driver", "cuda", "torch", "triton", "method_version")},
        mode=timing.mode,
        graph=timing.graph,
        quality=timing.quality,
        host_bound=timing.host_bound,
        calls_per_sample=timing.calls_per_sample,
        **facts,
    )
    _UNREAD.clear()
    for sample_s in timing.samples_s:
        _UNREAD.extend((0.0, sample_s))
    benchmark.pedantic(lambda: None, rounds=len(timing.samples_s))
    if _UNREAD:
        _UNREAD.clear()
        raise RuntimeError("mark the benchmark with @pytest.mark.benchmark(timer=device_clock)")
    return timing
