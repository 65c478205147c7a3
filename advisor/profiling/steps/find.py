"""Which training steps a trace holds, and which step each kernel and copy belongs to.

A step is, in this order of trust: a ProfilerStep mark; a range the user named that repeats and holds nearly all
kernels; the period at which the sequence of kernels repeats; a range that repeats and holds most kernels. A kernel
belongs to the step in which the host launched it; one without a launch to the step in which it began.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.launches import launch_of
from advisor.profiling.raw import Floats, Ints, RawTrace
from advisor.profiling.steps.intervals import TO_GPU, named, on_host
from advisor.profiling.steps.periods import WARM_UP, step_bounds, without_numbers

_CUT_OFF = 0.8  # a last step that launches less than this share of the median was cut off by the end of the trace
_COVERS = 0.95  # share of the kernels that a repeated range must hold to be a step
_COVERS_MOST = 0.8  # the same, where no period is found: the optimizer may be outside
_NO_STEP = re.compile(r"::|Backward\d*$|^(nccl|gloo|mpi|ucc):|[Ee]poch|DataLoader|^Optimizer\.|^ProfilerStep").search
_MOST_RANGES = 100  # distinct names that are tried as steps, those with most time
_FoundBy = Literal["ProfilerStep", "annotation", "period"]


@dataclass(frozen=True)
class _Spans:
    """Ranges of the host, in order, that do not overlap."""

    names: tuple[str, ...]
    start_us: Floats
    end_us: Floats

    def holding(self, times: Floats) -> Ints:
        """Index of the range that holds each time; -1: none."""
        at = np.searchsorted(self.start_us, times, side="right") - 1
        inside = (at >= 0) & (times < np.append(self.end_us, -np.inf)[at])
        return np.where(inside, at, -1).astype(np.int64)

    def count(self, ordered: Floats) -> Ints:
        """How many of the times, given in order, each range holds."""
        counts: Ints = np.searchsorted(ordered, self.end_us) - np.searchsorted(ordered, self.start_us)
        return counts


@dataclass(frozen=True)
class _Named:
    """Ranges of the host under names, in any order."""

    name: Ints
    start_us: Floats
    duration_us: Floats
    thread: Ints

    def take(self, rows: Ints) -> _Named:
        return _Named(self.name[rows], self.start_us[rows], self.duration_us[rows], self.thread[rows])


def find_steps(raw: RawTrace, links: Links) -> StepSpans:
    """The steps of a trace; empty, with found_by "none", where there are no marks and nothing repeats as a whole.

    A single step without marks is not found: nothing tells it from its layers. `regular` leaves out a first step that
    takes or launches more than 1.2 times the median of the others (warm-up, cuDNN trying its algorithms, the wait for
    the first data) and a last one that launches less than 0.8 of it (the trace ended).
    """
    kernels_at = on_host(raw, links.launch, raw.kernels.start_us)
    copies_at = on_host(raw, launch_of(raw, raw.copies), raw.copies.start_us)
    ordered = np.sort(kernels_at)
    found_by, found = next(_found(raw, kernels_at, copies_at), ("none", _Spans((), np.empty(0), np.empty(0))))
    spans = _without_empty_ends(found, ordered)
    return StepSpans(
        found_by,
        spans.names,
        spans.start_us,
        spans.end_us,
        kernel_step=spans.holding(kernels_at),
        copy_step=spans.holding(copies_at),
        regular=_regular(_durations(raw, spans, found_by, ordered), spans.count(ordered)),
    )


def _durations(raw: RawTrace, spans: _Spans, found_by: str, ordered: Floats) -> Floats:
    """Time of each step on the host; the last period, which no launch ends, until its kernels are done."""
    durations: Floats = spans.end_us - spans.start_us
    if found_by == "period" and spans.end_us[-1] > ordered[-1]:
        done = float((raw.kernels.start_us + raw.kernels.duration_us).max())
        durations[-1] = max(durations[-1], done - spans.start_us[-1])
    return durations


def _found(raw: RawTrace, kernels_at: Floats, copies_at: Floats) -> Iterator[tuple[_FoundBy | Literal["none"], _Spans]]:
    """Steps by each way that finds any, the most trusted first."""
    if (marks := _profiler_steps(raw)) is not None:
        yield "ProfilerStep", marks
    if (ranges := _repeated_range(raw, kernels_at, _COVERS)) is not None:
        yield "annotation", ranges
    if (periods := _periods(raw, kernels_at, copies_at)) is not None:
        yield "period", periods
    if (ranges := _repeated_range(raw, kernels_at, _COVERS_MOST)) is not None:
        yield "annotation", ranges


def _profiler_steps(raw: RawTrace) -> _Spans | None:
    """The marks of the thread that has most; the GPU's copies of them only where the host's are missing."""
    chosen = named(raw, raw.marks.name, lambda name: name.startswith("ProfilerStep"))
    if not len(chosen):
        return None
    on_gpu = raw.marks.on_gpu[chosen]
    chosen = chosen if on_gpu.all() else chosen[~on_gpu]
    threads, counts = np.unique(raw.marks.thread[chosen], return_counts=True)
    return _in_order(raw, _marks(raw).take(chosen[raw.marks.thread[chosen] == threads[np.argmax(counts)]]))


def _marks(raw: RawTrace) -> _Named:
    return _Named(raw.marks.name, raw.marks.start_us, raw.marks.duration_us, raw.marks.thread)


def _in_order(raw: RawTrace, ranges: _Named) -> _Spans:
    """Ranges in order: one without end, or that overlaps the next, lasts until the next begins; inner ones are out."""
    order = np.lexsort((-ranges.duration_us, ranges.start_us))
    names, start = ranges.name[order], ranges.start_us[order]
    end = start + ranges.duration_us[order]
    reached = np.maximum.accumulate(end)
    outer = np.ones(len(end), dtype=bool)
    outer[1:] = (end[1:] > reached[:-1]) | (start[1:] >= reached[:-1])
    names, start, end = names[outer], start[outer], end[outer]
    if not np.all(end > start):
        end = np.where(end > start, end, max(_last_time(raw), float(start[-1])))
    return _Spans(
        tuple(raw.names[name] for name in names.tolist()), start, np.minimum(end, np.append(start[1:], np.inf))
    )


def _last_time(raw: RawTrace) -> float:
    columns = (raw.kernels, raw.copies, raw.launches, raw.ops)
    return max((float((c.start_us + c.duration_us).max()) for c in columns if len(c.name)), default=0.0)


def _repeated_range(raw: RawTrace, kernels_at: Floats, covers: float) -> _Spans | None:
    """The range whose name, digits apart, repeats and holds most kernels, evenly; of equals, the one repeated least."""
    ordered = np.sort(kernels_at)
    best: tuple[tuple[int, int], _Spans] | None = None
    for ranges in _by_name(raw, _named_ranges(raw)):
        spans = _in_order(raw, ranges)
        held = spans.count(ordered)
        usual = np.median(held)
        if len(held) < 2 or usual == 0 or held.sum() < covers * len(kernels_at):
            continue
        rank = (round(20 * held.sum() / len(kernels_at)), -len(held))
        if np.mean(np.abs(held - usual) <= 0.2 * usual) >= 0.7 and (best is None or rank > best[0]):
            best = rank, spans
    return best[1] if best else None


def _named_ranges(raw: RawTrace) -> _Named:
    """The host's ranges that a user may have named: marks and, in old traces, operators."""

    def by_user(name: str) -> bool:
        return not _NO_STEP(name)

    ops = named(raw, raw.ops.name, by_user)
    marks = named(raw, raw.marks.name, by_user)
    marks = marks[~raw.marks.on_gpu[marks]]
    return _Named(
        np.concatenate([raw.ops.name[ops], raw.marks.name[marks]]),
        np.concatenate([raw.ops.start_us[ops], raw.marks.start_us[marks]]),
        np.concatenate([raw.ops.duration_us[ops], raw.marks.duration_us[marks]]),
        np.concatenate([raw.ops.thread[ops], raw.marks.thread[marks]]),
    )


def _by_name(raw: RawTrace, ranges: _Named) -> Iterator[_Named]:
    """The ranges of each thread whose names differ in digits alone, those with most time first."""
    alike = without_numbers(raw.names, ranges.name)
    _, group = np.unique(alike * (len(raw.threads) + 1) + ranges.thread, return_inverse=True)
    total = np.bincount(group, weights=ranges.duration_us)
    for number in np.argsort(-total, kind="stable")[:_MOST_RANGES].tolist():
        rows = np.flatnonzero(group == number)
        if len(rows) > 1:
            yield ranges.take(rows)


def _periods(raw: RawTrace, kernels_at: Floats, copies_at: Floats) -> _Spans | None:
    """Steps of the stream with most kernels, each from the launch of its first kernel to that of the next step's."""
    kernels = raw.kernels
    if not len(kernels.name):
        return None
    streams, stream = np.unique(kernels.stream, return_inverse=True)
    _, queue = np.unique(np.unique(kernels.device, return_inverse=True)[1] * len(streams) + stream, return_inverse=True)
    chosen = np.flatnonzero(queue == np.argmax(np.bincount(queue)))
    names, at = kernels.name[chosen], kernels_at[chosen]
    pauses = np.diff(at, prepend=at[0])
    bounds = step_bounds(names, pauses)
    if not len(bounds):
        bounds = step_bounds(without_numbers(raw.names, names), pauses)
    if not len(bounds):
        return None
    start = np.maximum.accumulate(_with_input(raw, at, bounds[:-1], copies_at))
    end = at[bounds[-1]] if bounds[-1] < len(at) else np.nextafter(kernels_at.max(), np.inf)
    return _Spans(tuple(f"step {i + 1}" for i in range(len(start))), start, np.append(start[1:], end))


def _with_input(raw: RawTrace, at: Floats, first: Ints, copies_at: Floats) -> Floats:
    """When each step begins: with the copy of its input to the GPU, where one was launched before its first kernel."""
    times = np.append(np.sort(copies_at[named(raw, raw.copies.name, TO_GPU)]), np.inf)
    before = np.where(first > 0, at[np.maximum(first - 1, 0)], -np.inf)
    started: Floats = np.minimum(
        at[first], times[np.searchsorted(times, before, side="right").clip(max=len(times) - 1)]
    )
    return started


def _without_empty_ends(spans: _Spans, ordered: Floats) -> _Spans:
    """Steps without first and last ones that launched nothing: marks that were open when recording began or ended."""
    used = np.flatnonzero(spans.count(ordered))
    if not len(used):
        return spans
    kept = slice(used[0], used[-1] + 1)
    return _Spans(spans.names[kept], spans.start_us[kept], spans.end_us[kept])


def _regular(durations: Floats, launched: Ints) -> tuple[int, ...]:
    steps = list(range(len(durations)))
    if len(steps) > 1 and (
        durations[0] > WARM_UP * np.median(durations[1:]) or launched[0] > WARM_UP * np.median(launched[1:])
    ):
        steps = steps[1:]
    if len(steps) > 1 and launched[steps[-1]] < _CUT_OFF * np.median(launched[steps[:-1]]):
        steps = steps[:-1]
    return tuple(steps)
