"""Which call on the host started what runs on the GPU."""

from __future__ import annotations

import numpy as np

from advisor.profiling.linking.nesting import follow, latest_before
from advisor.profiling.raw import Copies, Ints, Kernels, RawTrace


def launch_of(raw: RawTrace, column: Kernels | Copies) -> Ints:
    """Per row the latest call of its correlation id that began before it, else the first one of it; -1: none.

    An index into `raw.launches`. Ids are unique but in damaged traces.
    """
    calls = raw.launches
    usable = np.flatnonzero(calls.correlation >= 0)
    ids, times = calls.correlation[usable], calls.start_us[usable]
    found = latest_before(ids, times, column.correlation, column.start_us)
    late = np.flatnonzero(found < 0)
    if len(late):  # clocks of host and GPU that disagree
        found[late] = latest_before(ids, -times, column.correlation[late], -column.start_us[late])
    return np.where(column.correlation >= 0, follow(usable, found), -1)
