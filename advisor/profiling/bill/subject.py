"""What the lines of a bill are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advisor.profiling.bill.host import AmpStep, HostBound
from advisor.profiling.bill.timing import Layout, TimeModel
from advisor.profiling.records import KernelGroup, Operation

LITTLE = 0.03  # of a step: what all lines together must exceed to be worth the work
LEAST_LINE = 0.001  # of a step: a loss below is no line
ITEMS = 5  # of the worst, in a line
PADS = 3  # layers named to be padded


@dataclass(frozen=True)
class Subject:
    """One step of a trace, and what it is billed by."""

    groups: Sequence[KernelGroup]
    operations: Sequence[Operation]
    model: TimeModel
    layout: Layout
    step_s: float
    batch: int | None
    host: HostBound | None  # where the host's launches hold the step back
    amp: AmpStep | None  # where the step under AMP is predicted

    def operation(self, group: KernelGroup) -> Operation | None:
        """The operation that a group of kernels belongs to."""
        return self.operations[group.operation] if group.operation is not None else None

    def step_gain_s(self, saved_s: float) -> float:
        """By how much the step gets shorter with so much less kernel time."""
        return saved_s if self.host is None else min(saved_s, self.host.gain_s(saved_s))
