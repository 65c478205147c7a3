"""A stand-in for a GPU on a virtual clock: work queues behind the host, launches cost time, clocks settle and dip.

`device.work(seconds)` makes something to time. Nothing here sleeps: a minute of measuring takes milliseconds.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, Literal

from bench.telemetry import Telemetry

QUEUE_LAUNCHES = 1024  # how far CUDA lets the host run ahead


def steady(at_s: float) -> float:
    """A device that always runs at one speed."""
    return 1.0


def settling(extra: float = 0.3, time_constant_s: float = 1.0) -> Callable[[float], float]:
    """Slow by `extra` at first, as clocks are after a pause; e-fold towards the steady speed each time constant."""
    return lambda at_s: 1 + extra * math.exp(-at_s / time_constant_s)


def dips(every_s: float, length_s: float, factor: float) -> Callable[[float], float]:
    """Throttled by `factor` for `length_s` out of every `every_s`."""
    return lambda at_s: factor if at_s % every_s > every_s - length_s else 1.0


def heating(per_s: float) -> Callable[[float], float]:
    """Slower by `per_s` of the first speed with every second."""
    return lambda at_s: 1 + per_s * at_s


class RecordedDevice:
    """bench.device.Device over a virtual clock.

    `slowdown` is how many times longer work takes that starts at a given second; `noise` the relative spread (normal)
    of each launch; `launch_s` what one launch costs the host, `replay_s` what a graph does, once, and `replay_gap_s`
    how long the device pauses before each; `latency_s` how long a launch takes to reach an idle device.

    `log` holds what was asked, in order: "run", "record", "sync", "capture", "replay", "hold"; `ran` the labels of the
    work that ran outside graphs and captures.
    """

    def __init__(
        self,
        *,
        kind: Literal["cuda", "cpu"] = "cuda",
        l2_bytes: int = 50 * 2**20,
        launch_s: float = 6e-6,
        replay_s: float = 7e-6,
        replay_gap_s: float = 1.5e-6,
        latency_s: float = 4e-6,
        graphs: bool = True,
        holds: bool = True,
        slowdown: Callable[[float], float] = steady,
        noise: float = 0.0,
        seed: int = 0,
        free_bytes: int | None = 80 * 2**30,
        busy_note: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.name, self.kind, self.queues, self.l2_bytes, self.uuid = "recorded", kind, True, l2_bytes, None
        self.telemetry = telemetry or Telemetry(reason="recorded")
        self.launch_s, self.latency_s = launch_s, latency_s
        self.replay_s, self.replay_gap_s = replay_s, replay_gap_s
        self.graphs, self.holds, self.slowdown, self.noise = graphs, holds, slowdown, noise
        self.log: list[str] = []
        self.ran: list[object] = []
        self.host_s = 0.0
        self.idle_from_s = 0.0  # when the device has done all that is queued
        self._free_bytes, self._busy_note = free_bytes, busy_note
        self._random = random.Random(seed)
        self._ends: deque[float] = deque()
        self._capturing: list[Callable[[], float]] | None = None

    def work(
        self, seconds: float | Sequence[float], *, launches: int = 1, host_s: float = 0.0, label: object = None
    ) -> Callable[[], None]:
        """Something to time: `seconds` of the device (a sequence is played in turn, as recorded), in `launches`.

        `host_s` is what the host needs besides the launches themselves.
        """
        recorded = cycle([seconds] if isinstance(seconds, float | int) else seconds)

        def call() -> None:
            if self._capturing is None:
                self.log.append("run")
                self.ran.append(label)
            self.host_s += host_s
            total_s = next(recorded)
            for _ in range(launches):
                self._launch(total_s / launches)

        return call

    def now_s(self) -> float:
        return self.host_s

    def synchronize(self) -> None:
        assert self._capturing is None, "a capture must not wait"
        self.log.append("sync")
        self.host_s = max(self.host_s, self.idle_from_s)
        self._ends.clear()

    def event(self) -> RecordedEvent:
        return RecordedEvent(self)

    def capture(self, run: Callable[[], object]) -> Callable[[], object] | None:
        if not self.graphs:
            return None
        self.log.append("capture")
        run()  # once outside, as CudaDevice does
        self._capturing = []
        try:
            run()
            kernels = self._capturing
        finally:
            self._capturing = None

        def replay() -> None:
            self.log.append("replay")
            self.host_s += self.replay_s
            at_s = self._start_s() + self.replay_gap_s
            for seconds in kernels:
                at_s += seconds() * self.slowdown(at_s)
            self._queue(at_s)

        return replay

    def hold(self, seconds: float) -> bool:
        if self.holds:
            self.log.append("hold")
            self.host_s += self.launch_s
            self._queue(self._start_s() + seconds)
        return self.holds

    def free_bytes(self) -> int | None:
        return self._free_bytes

    def busy_note(self) -> str | None:
        return self._busy_note

    def _launch(self, seconds: float) -> None:
        def taken_s() -> float:
            return seconds * max(0.0, 1 + self._random.gauss(0, self.noise)) if self.noise else seconds

        self.host_s += self.launch_s
        if self._capturing is not None:
            self._capturing.append(taken_s)
            return
        start_s = self._start_s()
        self._queue(start_s + taken_s() * self.slowdown(start_s))

    def _start_s(self) -> float:
        return max(self.host_s + self.latency_s, self.idle_from_s)

    def _queue(self, end_s: float) -> None:
        self.idle_from_s = end_s
        self._ends.append(end_s)
        if len(self._ends) > QUEUE_LAUNCHES:
            self.host_s = max(self.host_s, self._ends.popleft())


class RecordedEvent:
    """bench.device.Event of a RecordedDevice."""

    def __init__(self, device: RecordedDevice) -> None:
        self.device, self.at_s = device, math.nan

    def record(self) -> None:
        self.device.log.append("record")
        self.device.host_s += 1e-6
        self.at_s = self.device.idle_from_s = max(self.device.host_s + self.device.latency_s, self.device.idle_from_s)

    def elapsed_s(self, later: Any) -> float:
        assert later.at_s <= self.device.host_s, "an event was read before the device reached it: synchronize first"
        return float(later.at_s - self.at_s)
