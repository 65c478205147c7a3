"""Seconds per call of a kernel, a library call or a whole step, taken one way everywhere.

Rules, and what each is for:
- settle first, as clocks swing for about three seconds after a pause;
- several calls between two events, so that they last a millisecond or more, and no waiting between timed calls, as a
  pause lowers the clocks; before the first event some untimed calls let the host queue ahead;
- calls shorter than 50 us, or than their launches, are replayed from a CUDA graph; where that cannot be, the device is
  held while the host queues; what remains bound by the host says so;
- "cold" operands are rotated through twice the L2, "warm" ones are used again and again;
- stop at a relative spread or at a budget of time, keep every sample, and say how good they are;
- a reference is timed at the start, between cases and at the end: a run that drifted says so.

No torch is imported here: see `bench.device`.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bench.case import Mode, Quality, Timing
from bench.device import Device

Call = Callable[[], object]
T = TypeVar("T")

_PROBE_S = 2e-4  # a first guess of a call's time comes from so much work, or from 16 calls
_LEAD_S = 2e-4  # untimed work before the first event of a batch: some ten launches' head start
_LONG_S = 1e-2  # such calls need no head start: a launch's latency is nothing to them
_HOST_BOUND = 0.8  # of the time went into queueing: the device may have waited for the host
_HELD_HOST_S = 5e-3  # queued at most behind one hold: about the 1024 launches that CUDA queues
_LEAST_S = 1e-8  # no call is shorter: for divisions


@dataclass(frozen=True)
class TimerOptions:
    """How long and how well to time; the one place of each default."""

    samples: int = 9  # at least, of each case: the fewest whose 95 % interval leaves out the least and the largest
    most_samples: int = 100
    sample_s: float = 1e-3  # least time between the two events of a sample
    relative_spread: float = 0.01  # wanted: half the median's 95 % interval over the median
    budget_s: float = 0.25  # for one case, its first call aside
    graph_below_s: float = 50e-6  # shorter calls are replayed from a graph
    graph_calls: int = 256  # at most in one graph, if so many buffers are not rotated
    settle_s: float = 3.0  # least time of settling
    settle_limit_s: float = 8.0  # settled or not, go on then
    settle_spread: float = 0.02  # of the last windows' times, to be steady
    settle_windows: int = 5  # that must agree
    settle_window_s: float = 0.1
    reference_every: int = 100  # cases
    drift_limit: float = 0.02


@dataclass(frozen=True)
class Settling:
    """What settling saw: seconds per call in each window, in order."""

    windows_s: tuple[float, ...]
    clocks_hz: tuple[float, ...]  # of the SMs after each window; empty where nobody tells
    took_s: float
    steady: bool

    def facts(self) -> dict[str, Any]:
        """JSON-plain."""
        return {
            "windows_s": list(self.windows_s),
            "clocks_hz": list(self.clocks_hz),
            "took_s": self.took_s,
            "steady": self.steady,
        }


@dataclass(frozen=True)
class Rotation:
    """How many copies of the operands to make, and how they will be found then."""

    copies: int
    mode: Mode


def time_calls(
    device: Device,
    calls: Sequence[Call],
    options: TimerOptions = TimerOptions(),
    *,
    mode: Mode = "warm",
    graph: bool = True,
    host_included: bool = False,
) -> Timing:
    """Seconds per call of `calls`, which do the same work on different buffers and wait for nothing.

    `mode` is what `rotation` said of the buffers. `graph=False` for what must not be captured: it waits for the host,
    or runs on other streams (a backward pass whose forward pass ran outside). `host_included=True` times what a loop
    of these calls takes as it is, launches and all: whole training steps. At least one sample is always taken; that
    and the warm-up aside, the budget is overrun only by what one batch of samples takes longer than expected.
    Raises ValueError without calls; what a call raises comes through.
    """
    if not calls:
        raise ValueError("there are no calls to time")
    turns = itertools.cycle(calls)
    next(turns)()  # compiles, chooses an algorithm, makes workspaces: seconds that are not the budget's
    device.synchronize()
    deadline_s = device.now_s() + options.budget_s
    sampler = _sampler(device, turns, len(calls), options, graph=graph, host_included=host_included)
    samples_s: list[float] = []
    starved = False
    cost_s = sampler.cost_s
    while True:
        fitting = int(max(0.0, deadline_s - device.now_s()) / cost_s)
        if samples_s and not fitting:
            break
        more = max(options.samples - len(samples_s), len(samples_s) // 2, 1)
        count = max(1, min(more, fitting, options.most_samples - len(samples_s)))
        start_s = device.now_s()
        taken_s, late = sampler.take(device, count)
        cost_s = max((device.now_s() - start_s) / count, _LEAST_S)
        samples_s += taken_s
        starved = starved or late
        enough = len(samples_s) >= options.samples and relative_spread(samples_s) <= options.relative_spread
        if enough or len(samples_s) >= options.most_samples:
            break
    return Timing(
        samples_s=tuple(samples_s),
        calls_per_sample=sampler.calls,
        mode=mode,
        graph=sampler.graph,
        quality=_quality(samples_s, options),
        host_bound=starved and not host_included,
    )


def relative_spread(samples_s: Sequence[float]) -> float:
    """Half the median's 95 % interval over the median, by order statistics: no shape of the errors is assumed.

    The interval is [x_k, x_(n+1-k)] with the largest k for which a binomial(n, 1/2) falls below k with a probability
    of at most 2.5 %; all of the samples where there are fewer than six, and infinite for one.
    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2 (interval of a quantile).
    """
    n = len(samples_s)
    if n < 2:
        return math.inf
    below, outside = 0, 1 + n  # ways for at most `below + 1` of n samples to lie below the median
    while outside / 2**n <= 0.025:
        below += 1
        outside += math.comb(n, below + 1)
    ordered = sorted(samples_s)
    median_s = statistics.median(ordered)
    width_s = ordered[n - 1 - below] - ordered[below]
    if width_s == 0:
        return 0.0
    return width_s / 2 / median_s if median_s > 0 else math.inf


def settle(device: Device, work: Call, options: TimerOptions = TimerOptions()) -> Settling:
    """Repeat `work` until its time is steady, `settle_s` at least and `settle_limit_s` at most."""
    start_s = device.now_s()
    work()
    device.synchronize()
    device_s, host_s = _probe(device, work)
    count = max(1, round(options.settle_window_s / max(device_s, host_s, _LEAST_S)))
    windows_s: list[float] = []
    clocks_hz: list[float] = []
    while True:
        (window_s,), _ = _Sampler(work, count, count, 0.0).take(device, 1)
        windows_s.append(window_s)
        clock_hz = device.telemetry.read(quick=True).get("sm_hz")
        if clock_hz is not None:
            clocks_hz.append(float(clock_hz))
        took_s = device.now_s() - start_s
        recent = windows_s[-options.settle_windows :]
        steady = len(recent) == options.settle_windows and max(recent) <= min(recent) * (1 + options.settle_spread)
        if (steady and took_s >= options.settle_s) or took_s >= options.settle_limit_s:
            return Settling(tuple(windows_s), tuple(clocks_hz), took_s, steady)


@dataclass(frozen=True)
class ReferenceReading:
    """One reading of the reference."""

    after_cases: int
    at_s: float  # of Device.now_s
    timing: Timing
    sm_hz: float | None


class Reference:
    """One case timed again and again through a run: did the device stay the same?"""

    def __init__(self, device: Device, calls: Sequence[Call], options: TimerOptions = TimerOptions()) -> None:
        self._device, self._calls, self._options = device, calls, options
        self.readings: list[ReferenceReading] = []

    def read(self, after_cases: int) -> Timing:
        """Time it now: at the start (after 0 cases), whenever it is due, and at the end."""
        timing = time_calls(self._device, self._calls, self._options)
        clock_hz = self._device.telemetry.read(quick=True).get("sm_hz")
        sm_hz = None if clock_hz is None else float(clock_hz)
        self.readings.append(ReferenceReading(after_cases, self._device.now_s(), timing, sm_hz))
        return timing

    def due(self, after_cases: int) -> bool:
        """Whether `reference_every` cases have passed since the last reading; true before the first."""
        return not self.readings or after_cases - self.readings[-1].after_cases >= self._options.reference_every

    @property
    def drift(self) -> float:
        """The median that is farthest from the first one, relative to it: 0.03 is 3 % slower. 0 before the second."""
        return drift_of([reading.timing.median_s for reading in self.readings])

    @property
    def drifted(self) -> bool:
        """Whether the drift is over the limit, which marks the run."""
        return abs(self.drift) > self._options.drift_limit

    def facts(self) -> dict[str, Any]:
        """JSON-plain: drift, limit, drifted, note (one line, or None) and the readings."""
        return {
            "drift": self.drift,
            "limit": self._options.drift_limit,
            "drifted": self.drifted,
            "note": drift_note(self.drift, self._options.drift_limit),
            "readings": [
                {
                    "after_cases": reading.after_cases,
                    "at_s": reading.at_s,
                    "median_s": reading.timing.median_s,
                    "samples_s": list(reading.timing.samples_s),
                    "sm_hz": reading.sm_hz,
                }
                for reading in self.readings
            ],
        }


def drift_of(medians_s: Sequence[float]) -> float:
    """The largest relative distance from the first, with its sign; 0 for fewer than two."""
    if len(medians_s) < 2 or medians_s[0] <= 0:
        return 0.0
    return max((median_s / medians_s[0] - 1 for median_s in medians_s[1:]), key=abs)


def drift_note(drift: float, limit: float = TimerOptions.drift_limit) -> str | None:
    """One line for a drift over the limit, else None."""
    if abs(drift) <= limit:
        return None
    became = "slower" if drift > 0 else "faster"
    return (
        f"the reference became {abs(drift):.1%} {became} during the run (limit {limit:.0%}): times from its start and "
        "its end do not compare; let the GPU cool or stop what else runs on it, and run again"
    )


def rotation(
    bytes_read: int,
    l2_bytes: int,
    *,
    mode: Mode = "cold",
    most: int = TimerOptions.graph_calls,
    free_bytes: int | None = None,
    bytes_per_copy: int | None = None,
) -> Rotation:
    """Copies of the operands to rotate through so that each has left the L2 when its turn comes again.

    `bytes_read` by one call, `bytes_per_copy` allocated for one (as many, if not given). Cold takes twice the L2
    between two uses. Where `most` copies or `free_bytes` do not reach that, it is one copy and warm, never a mix.
    Raises ValueError if nothing is read.
    """
    if bytes_read <= 0:
        raise ValueError(f"a call that reads {bytes_read} bytes has no operands to rotate")
    copies = max(1, math.ceil(2 * l2_bytes / bytes_read))
    fits = free_bytes is None or copies * (bytes_per_copy or bytes_read) <= free_bytes
    if mode == "cold" and copies <= most and fits:
        return Rotation(copies, "cold")
    return Rotation(1, "warm")


def interleave(cases: Sequence[T], seed: int) -> list[T]:
    """The cases in a random order that `seed` alone decides, so that no shape's heat biases the next."""
    shuffled = list(cases)
    random.Random(seed).shuffle(shuffled)
    return shuffled


@dataclass(frozen=True)
class _Sampler:
    """How one sample is taken: `run` so many `times`, which is so many `calls`."""

    run: Call
    times: int
    calls: int
    cost_s: float  # of one sample, expected
    graph: bool = False
    lead: int = 0  # untimed runs before a batch
    hold_s: float = 0.0  # before each sample
    host_bound: bool = False

    def take(self, device: Device, count: int) -> tuple[list[float], bool]:
        """Seconds per call of `count` samples queued without a pause; whether the device waited for the host."""
        starved = self.host_bound
        pairs = [(device.event(), device.event()) for _ in range(count)]
        for _ in range(self.lead):
            self.run()
        for first, last in pairs:
            start_s = device.now_s()
            if self.hold_s:
                device.hold(self.hold_s)
            first.record()
            for _ in range(self.times):
                self.run()
            last.record()
            starved = starved or (self.hold_s > 0 and device.now_s() - start_s > self.hold_s)
        device.synchronize()
        return [max(first.elapsed_s(last), 0.0) / self.calls for first, last in pairs], starved


def _sampler(
    device: Device, turns: Iterator[Call], buffers: int, options: TimerOptions, *, graph: bool, host_included: bool
) -> _Sampler:
    def turn() -> None:
        next(turns)()

    device_s, host_s = _probe(device, turn)
    host_bound = _is_host_bound(device, device_s, host_s)
    if not host_included and device.queues:
        if graph and (host_bound or device_s < options.graph_below_s):
            replayed = _replayed(device, turn, buffers, options)
            if replayed is not None:
                return replayed
        if host_bound:
            held = _held(device, turn, host_s, options)
            if held is not None:
                return held
    times = _times(options.sample_s, device_s)
    return _Sampler(
        run=turn,
        times=times,
        calls=times,
        cost_s=times * max(device_s, host_s),
        lead=math.ceil(_LEAD_S / device_s) if device.queues and device_s < _LONG_S else 0,
        host_bound=host_bound,
    )


def _replayed(device: Device, turn: Call, buffers: int, options: TimerOptions) -> _Sampler | None:
    """Samples of a graph's replays; a small graph is tried first, as only it tells how many calls fill a sample."""
    calls = _whole_rounds(8, buffers)
    replay = device.capture(lambda: _repeat(turn, calls))
    if replay is None:
        return None
    replay_s, host_s = _probe(device, replay)
    wanted = _whole_rounds(min(_times(options.sample_s, replay_s / calls), options.graph_calls), buffers)
    if wanted >= 2 * calls:
        larger = device.capture(lambda: _repeat(turn, wanted))
        if larger is not None:
            calls, replay = wanted, larger
            replay_s, host_s = _probe(device, replay)
    times = _times(options.sample_s, replay_s)
    return _Sampler(
        run=replay,
        times=times,
        calls=times * calls,
        cost_s=times * replay_s,
        graph=True,
        lead=math.ceil(_LEAD_S / replay_s),
        host_bound=_is_host_bound(device, replay_s, host_s),
    )


def _held(device: Device, turn: Call, host_s: float, options: TimerOptions) -> _Sampler | None:
    """Samples queued behind a hold, so that the device finds all of one sample's launches waiting."""
    times = max(1, min(16, int(_HELD_HOST_S / host_s)))
    if not device.hold(0.0):
        return None
    margin = 1.5  # over the host's time, as both vary
    probe = _Sampler(turn, times, times, 0.0, hold_s=margin * times * host_s + _LEAD_S)
    (device_s,), _ = probe.take(device, 1)
    times = max(1, min(_times(options.sample_s, max(device_s, _LEAST_S)), int(_HELD_HOST_S / host_s)))
    hold_s = margin * times * host_s + _LEAD_S
    return replace(probe, times=times, calls=times, cost_s=hold_s + times * device_s, hold_s=hold_s)


def _probe(device: Device, run: Call) -> tuple[float, float]:
    """A first guess of a run's seconds on the device, and of the host's seconds to queue it."""
    times = 1
    while True:
        first, last = device.event(), device.event()
        start_s = device.now_s()
        first.record()
        _repeat(run, times)
        last.record()
        queued_s = device.now_s() - start_s
        device.synchronize()
        took_s = first.elapsed_s(last)
        if took_s >= _PROBE_S or times >= 16:
            return max(took_s / times, _LEAST_S), max(queued_s / times, _LEAST_S)
        times *= 4


def _is_host_bound(device: Device, device_s: float, host_s: float) -> bool:
    return device.queues and host_s > _HOST_BOUND * device_s


def _times(sample_s: float, one_s: float) -> int:
    return max(1, math.ceil(1.05 * sample_s / one_s))  # a little over, as the guess is one


def _whole_rounds(calls: int, buffers: int) -> int:
    return math.ceil(calls / buffers) * buffers


def _repeat(run: Call, times: int) -> None:
    for _ in range(times):
        run()


def _quality(samples_s: Sequence[float], options: TimerOptions) -> Quality:
    if len(samples_s) < options.samples:
        return "short"
    return "good" if relative_spread(samples_s) <= options.relative_spread else "noisy"
