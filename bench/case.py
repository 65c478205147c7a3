"""What is measured, and what came of it: plain data that crosses from the child that measures to the records.

A case is one thing to measure; its parameters are its identity, so that a sweep can be resumed and two sweeps be
compared. Standard library only, as all that runs on a GPU machine without an installation.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

METHOD_VERSION = 1  # of how times are taken; records of another version are not compared

Mode = Literal["cold", "warm"]  # operands rotated through twice the L2, or left in it
Quality = Literal["good", "noisy", "short"]  # noisy: spread above the limit; short: the budget ended it early
Status = Literal["ok", "failed", "skipped"]
Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Case:
    """One measurement to make: a suite's name, the kind of case, and its parameters."""

    suite: str
    kind: str
    params: Mapping[str, Plain]

    @property
    def key(self) -> str:
        """The case as one line of JSON with sorted names: equal cases have equal keys."""
        return json.dumps([self.kind, dict(self.params)], sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Timing:
    """Every sample of one case: seconds per call, in the order in which they were taken."""

    samples_s: tuple[float, ...]
    calls_per_sample: int
    mode: Mode
    graph: bool  # replayed from a CUDA graph
    quality: Quality
    host_bound: bool = False  # the host queued calls too slowly: the samples hold its launches too

    @property
    def median_s(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile of the samples; one sample is both."""
        if len(self.samples_s) == 1:
            return self.samples_s[0], self.samples_s[0]
        first, _, third = statistics.quantiles(self.samples_s, n=4, method="inclusive")
        return first, third


@dataclass(frozen=True)
class Result:
    """What came of a case. A failed or skipped one has a reason and no timing."""

    status: Status
    reason: str | None = None
    timing: Timing | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON-plain: kernels, bytes, peaks of memory
    telemetry: Mapping[str, Any] = field(default_factory=dict)  # JSON-plain: "before", "during", "after"


def result_to_json(result: Result) -> str:
    """One line of JSON."""
    return json.dumps(asdict(result), separators=(",", ":"))


def result_from_json(text: str) -> Result:
    """Read what `result_to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    found = json.loads(text)
    timing = found.pop("timing")
    if timing is not None:
        timing = Timing(**{**timing, "samples_s": tuple(timing["samples_s"])})
    return Result(timing=timing, **found)
