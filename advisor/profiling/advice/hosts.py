"""What the traced host would make of another GPU, where it held the traced step back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advisor.profiling.advice.calibrated import launches
from advisor.profiling.advice.traced import WAITING, Traced
from advisor.profiling.advice.traced_setup import TracedSetup
from advisor.recommendation import Recommendation
from advisor.units import duration, rate
from advisor.workload.catalogue import select_variant


@dataclass(frozen=True)
class TracedHost:
    """What is to be said of the traced host beside another GPU."""

    note: str
    reason: str


def traced_host(found: Recommendation, traced: Traced) -> TracedHost | None:
    """What it would change on a GPU other than the traced one.

    None where the traced step did not wait for its host, or the other GPU takes longer for the traced batch.
    """
    setup, times = found.setup, traced.times
    assert isinstance(setup, TracedSetup)
    if setup.measured is not None or times.host_s <= WAITING * times.step_s:
        return None
    here, there = (
        launches(select_variant(setup.workload, recipe).ops, setup.workload, recipe)
        for recipe in (traced.recipe, setup.recipe)
    )
    launching_s = times.launching_s * there / max(here, 1.0)
    samples = traced.step.batch
    curve = setup.curve(np.array([samples]))
    if launching_s <= float(curve.time_s[0]):
        return None
    assumed_s = float(curve.host_time_s[0])
    shorter = np.array(found.curve.time_s) < launching_s
    ends = bool(shorter.all())
    batch = found.curve.batches[-1 if ends else int(np.argmin(shorter))]
    about, slowed = f"about {duration(launching_s)}", ", slowed by the profiler," if times.profiled_s is None else ""
    nothing = f"nothing {'up to' if ends else 'under'} batch {batch} would be faster than that"
    return TracedHost(
        note=f"the traced host{slowed} would take {about} to launch such a step, and the model's own "
        f"{duration(assumed_s)} are assumed here: with the traced host {nothing}",
        reason=f"With the traced host, {about} a step, {nothing}: {samples} samples would run at "
        f"{rate(samples / launching_s)} a second, not {rate(samples / float(curve.time_s[0]))}.",
    )
