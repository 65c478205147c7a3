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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.case import Mode, Quality, Timing
from bench.device import Device

Call = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True)
class TimerOptions:
    """How long and how well to time; the one place of each default."""

    samples: int = 7  # at least, of each case; 7 give the median a 95 % interval (and 6 are the fewest that do)
    most_samples: int = 100
    sample_s: float = 1e-3  # least time between the two events of a sample
    relative_spread: float = 0.01  # wanted: half the median's 95 % interval over the median
    budget_s: float = 0.25  # for one case, from its first call on
    graph_below_s: float = 50e-6  # shorter calls are replayed from a graph
    graph_calls: int = 256  # at most in one graph, if so many buffers are not rotated
    settle_s: float = 3.0  # least time of settling
    settle_limit_s: float = 15.0  # settled or not, go on then
    settle_spread: float = 0.01  # of the last windows' times, to be steady
    settle_windows: int = 5  # that must agree
    settle_window_s: float = 0.1
    reference_every: int = 100  # cases
    drift_limit: float = 0.02


@dataclass(frozen=True)
class Settling:
    """What settling saw: seconds per call in each window, in order."""

    windows_s: tuple[float, ...]
    took_s: float
    steady: bool

    def facts(self) -> dict[str, Any]:
        """JSON-plain."""
        return {"windows_s": list(self.windows_s), "took_s": self.took_s, "steady": self.steady}


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
    of these calls takes as it is, launches and all: whole training steps. At least one sample is always taken; the
    budget is overrun by one sample at most, warm-up and the shortest sample aside. What a call raises comes through.
    """
    raise NotImplementedError


def settle(device: Device, work: Call, options: TimerOptions = TimerOptions()) -> Settling:
    """Repeat `work` until its time is steady, `settle_s` at least and `settle_limit_s` at most."""
    raise NotImplementedError


class Reference:
    """One case timed again and again through a run: did the device stay the same?"""

    def __init__(self, device: Device, calls: Sequence[Call], options: TimerOptions = TimerOptions()) -> None:
        raise NotImplementedError

    def read(self, after_cases: int) -> Timing:
        """Time it now. At the start (after 0 cases), whenever `due`, and at the end."""
        raise NotImplementedError

    def due(self, after_cases: int) -> bool:
        """Whether `reference_every` cases have passed since the last reading; true before the first."""
        raise NotImplementedError

    @property
    def drift(self) -> float:
        """Largest relative distance of a reading's median from the first one's; 0 before the second."""
        raise NotImplementedError

    @property
    def drifted(self) -> bool:
        """Whether the drift is over the limit, which marks the run."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """JSON-plain: drift, limit, drifted, note (one line or None), readings [{after_cases, at_s, median_s, ...}]."""
        raise NotImplementedError


def rotation(
    bytes_read: int,
    l2_bytes: int,
    *,
    mode: Mode = "cold",
    most: int = 256,
    free_bytes: int | None = None,
    bytes_per_copy: int | None = None,
) -> Rotation:
    """Copies of operands to rotate through so that each is out of the L2 when it comes round again.

    `bytes_read` by one call; `bytes_per_copy` allocated for one (default the same). Cold needs 2 x L2 between two uses
    of one buffer. Where `most` copies or `free_bytes` do not reach that, one copy is used and is warm, never a mix.
    """
    raise NotImplementedError


def relative_spread(samples_s: Sequence[float]) -> float:
    """Half the 95 % interval of the median over the median, by order statistics (no shape of errors assumed)."""
    raise NotImplementedError


def interleave(cases: Sequence[T], seed: int) -> list[T]:
    """The cases in a random order that only `seed` decides, so that no shape's heat biases the next."""
    shuffled = list(cases)
    random.Random(seed).shuffle(shuffled)
    return shuffled
