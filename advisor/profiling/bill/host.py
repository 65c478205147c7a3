"""What of a saving the step itself would show: kernels cannot make it shorter than the host takes to launch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advisor.profiling.records import Advice, StepFacts
from advisor.steptime import OVERLAP_POWER

HOST_BOUND = 0.1  # of a step in gaps behind the host, from which it is said to hold the step back


@dataclass(frozen=True)
class HostBound:
    """A step that the host's launches hold back; seconds. Together, GPU and host take what was measured.

    The two overlap as in the time model of a step: core^p = busy^p + host^p, with its p.
    """

    busy_s: float  # in which kernels or copies run
    core_s: float  # with the gaps behind the host

    @property
    def host_s(self) -> float:
        """What the host takes to launch a step: an estimate."""
        p = OVERLAP_POWER
        return float(max(0.0, self.core_s**p - self.busy_s**p) ** (1 / p))

    def gain_s(self, saved_s: float) -> float:
        """By how much the step gets shorter where the GPU is done so much sooner."""
        p = OVERLAP_POWER
        left_s = max(0.0, self.busy_s - saved_s)
        return float(max(0.0, self.core_s - (left_s**p + self.host_s**p) ** (1 / p)))


def host_bound(facts: StepFacts) -> HostBound | None:
    """The step as the host holds it back; None where it does not."""
    waits_s = facts.gap_s.get("host", 0.0)
    if facts.step_s <= 0 or waits_s <= HOST_BOUND * facts.step_s:
        return None
    busy_s = min(facts.busy_share, 1.0) * facts.step_s
    return HostBound(busy_s, busy_s + waits_s)


@dataclass(frozen=True)
class AmpStep:
    """What the advice predicts of a step under AMP, on the traced GPU."""

    ratio: float  # of the step's time at the traced batch, to that of the traced precision
    batch: int  # recommended under AMP
    samples_per_s: float  # there
    gain: float  # over the traced run: 1.0 is twice the throughput
    precision: str

    @classmethod
    def of(cls, advice: Sequence[Advice], gpu: str) -> AmpStep | None:
        """From the advice of the traced GPU; None where it has none for AMP."""
        own = [a for a in advice if a.gpu == gpu]
        traced = next((a for a in own if a.calibrated), None)
        amp = next((a for a in own if not a.calibrated and a.precision in ("fp16", "bf16")), None)
        if traced is None or amp is None:
            return None
        before, after = _point(traced, traced.traced_batch), _point(amp, amp.traced_batch)
        there = _point(amp, amp.batch)
        if before is None or after is None or there is None:
            return None
        return cls(after[0] / before[0], amp.batch, there[1], there[1] / before[1] - 1, amp.precision)


def _point(advice: Advice, batch: int) -> tuple[float, float] | None:
    """Seconds of a step and samples/s at a size."""
    return next(((point.step_s, point.samples_per_s) for point in advice.points if point.batch == batch), None)
