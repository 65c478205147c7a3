"""Why no curve can be made of a traced step."""

from __future__ import annotations

import numpy as np

from advisor.profiling.advice.traced import Traced
from advisor.profiling.linked import Links
from advisor.profiling.raw import RawTrace
from advisor.units import duration, percent

MOST_UNKNOWN = 0.5  # share of the kernels' time beyond which a curve would be a guess
LEAST_KERNEL_S = 50e-9  # an empty kernel takes about 1 us
MOST_AT_ONCE = 128  # kernels resident on one GPU (CUDA C++ Programming Guide, "Technical Specifications")
MOST_MISTAKEN = 0.1  # share of the kernels whose launch cannot be theirs


def lack_of(raw: RawTrace, links: Links, traced: Traced) -> str | None:
    """Why no curve can be made of a traced step; None: it can."""
    step, busy_s = traced.step, traced.times.busy_s
    if not step.ops:
        return "no kernel belongs to an operator with shapes"
    mistaken = _mistaken(raw, links)
    if mistaken > MOST_MISTAKEN:
        return f"{percent(mistaken)} of the kernels share a launch though others of its correlation id launched nothing"
    mean_s = step.kernel_s / max(step.kernels, 1.0)
    if not mean_s >= LEAST_KERNEL_S:
        return f"the kernels of the trace take {1e9 * mean_s:.2g} ns in the mean, and none takes so little"
    if not MOST_AT_ONCE * busy_s >= step.kernel_s:
        return (
            f"{duration(step.kernel_s)} of kernels a step cannot have run in the {1e6 * busy_s:.3g} us of it in which "
            "the trace has the GPU work"
        )
    if step.unknown_share > MOST_UNKNOWN:
        return f"{percent(step.unknown_share)} of the kernels' time has no known operator or shapes"
    return None


def _mistaken(raw: RawTrace, links: Links) -> float:
    """Share of the kernels that are linked to one launch, of several with their correlation id.

    The launch of a CUDA graph has many kernels too, but its id alone.
    """
    ids, launches = np.unique(raw.launches.correlation, return_counts=True)
    repeated = np.isin(raw.kernels.correlation, ids[(launches > 1) & (ids >= 0)])
    linked = repeated & (links.launch >= 0)
    _, which, kernels = np.unique(links.launch[linked], return_inverse=True, return_counts=True)
    return float((kernels[which] > 1).sum()) / max(1, len(links.launch))
