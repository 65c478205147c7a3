"""Which launch, operator and step each kernel of a trace belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advisor.profiling.raw import Floats, Ints
from advisor.profiling.records import Operation


@dataclass(frozen=True)
class Links:
    """One entry per kernel of the trace, in its order; -1: not found."""

    launch: Ints  # index into RawTrace.launches
    op: Ints  # innermost operator that was running on the launching thread, index into RawTrace.ops
    outer: Ints  # outermost one below steps and annotations
    forward: Ints  # forward operator that a backward kernel's node belongs to
    operation: Ints  # index into `operations`
    operations: tuple[Operation, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepSpans:
    """The training steps of a trace, in order; empty arrays where there is none."""

    found_by: Literal["ProfilerStep", "annotation", "period", "none"]
    names: tuple[str, ...]
    start_us: Floats  # on the host
    end_us: Floats
    kernel_step: Ints  # per kernel: index of its step; -1: outside
    copy_step: Ints  # per copy
    regular: tuple[int, ...]  # steps that stand for the rest: the first is left out where it differs
