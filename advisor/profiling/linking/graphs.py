"""Kernels that CUDA graphs replay: one launch for all of a graph, and no operator around it."""

from __future__ import annotations

import re

import numpy as np

from advisor.profiling.linked import Links
from advisor.profiling.linking.nesting import follow
from advisor.profiling.raw import RawTrace
from advisor.units import percent

NO_SHAPES = "the trace has no shapes: record it with record_shapes=True"
_LAUNCH = re.compile(r"^cu(?:da)?GraphLaunch").match


def share_of_graphs(raw: RawTrace, links: Links) -> float:
    """Share of the kernels that a CUDA graph launched."""
    if not len(links.launch):
        return 0.0
    launches_graph = np.array([_LAUNCH(name) is not None for name in raw.names], dtype=np.int64)
    return float((follow(launches_graph, follow(raw.launches.name, links.launch)) > 0).mean())


def why_no_shapes(raw: RawTrace, links: Links) -> str:
    """Why the trace's kernels have no shapes, and what to record."""
    share = share_of_graphs(raw, links)
    if share <= 0.5:
        return NO_SHAPES
    return (
        f"{percent(share)} of the kernels are replayed from CUDA graphs, where no operator runs: record steps without "
        "graphs, with record_shapes=True"
    )
