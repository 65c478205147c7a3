"""Work of the GPU that cannot have lasted as long as a damaged trace says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from advisor.profiling.raw import Copies, Floats, Kernels, RawTrace

LONGEST_US = 3.6e9  # one hour


def without_overlong(raw: RawTrace) -> RawTrace:
    """The trace with impossible durations cut to the start of what the stream runs next, and a note that says so.

    Cut is what lasts longer than from the trace's first event to its last start and either reaches into what its
    stream runs next, though a stream runs one thing at a time, or takes over an hour.
    """
    starts = [column.start_us for column in (raw.kernels, raw.copies, raw.launches, raw.ops) if len(column.start_us)]
    if not starts:
        return raw
    first, last = min(float(each.min()) for each in starts), max(float(each.max()) for each in starts)
    kernels, copies = (_cut(column, first, last) for column in (raw.kernels, raw.copies))
    count = int((kernels < raw.kernels.duration_us).sum() + (copies < raw.copies.duration_us).sum())
    if not count:
        return raw
    what = "1 kernel or copy lasts" if count == 1 else f"{count} kernels or copies last"
    note = f"damaged: {what} longer than the whole trace, and counted until the stream's next"
    return replace(
        raw,
        kernels=replace(raw.kernels, duration_us=kernels),
        copies=replace(raw.copies, duration_us=copies),
        notes=(*raw.notes, note),
    )


def _cut(column: Kernels | Copies, first: float, last: float) -> Floats:
    """Durations, the impossible ones cut; microseconds."""
    order = np.lexsort((column.start_us, column.stream, column.device))
    start, duration = column.start_us[order], column.duration_us[order]
    follows = (np.diff(column.stream[order]) == 0) & (np.diff(column.device[order]) == 0)
    until = np.append(np.where(follows, start[1:], np.inf), np.inf)[: len(start)]
    overlong = (duration > last - first) & ((start + duration > until) | (duration > LONGEST_US))
    found: Floats = column.duration_us.copy()
    found[order] = np.where(overlong, np.minimum(until, last) - start, duration)
    return found
