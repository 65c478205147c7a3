"""What makes measurements doubtful, each in a line: what was seen, what it spoils, what to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bench.records import Row
from bench.telemetry import SLOWED

NOISY_SHARE = 0.1  # of the cases, from which it is said


def warnings_of(rows: Sequence[Row], drifted: Collection[str]) -> list[str]:
    """Of rows that were measured under one set of conditions; `drifted` names the runs that a note marks."""
    found = []
    runs = {row.run for row in rows}
    if marked := runs & set(drifted):
        found.append(
            f"{len(marked)} of {len(runs)} runs are marked by drift: the clocks changed while measuring; let the card "
            "settle and measure again"
        )
    noisy = sum(row.result.timing is not None and row.result.timing.quality == "noisy" for row in rows)
    if noisy > NOISY_SHARE * len(rows):
        found.append(f"{noisy} of {len(rows)} cases are noisy: is another process on the card?")
    return found


def slowed(rows: Sequence[Row]) -> list[str]:
    """A line where heat or the hardware's protection held the clocks down while some of the rows were measured."""
    count = sum(_slowed(row) for row in rows)
    if not count:
        return []
    return [
        f"in {count} of {len(rows)} cases heat or the hardware's protection held the clocks down: these times are too "
        "long; let the GPU cool and measure again"
    ]


def _slowed(row: Row) -> bool:
    during = row.result.telemetry.get("during")
    reasons = during.get("reasons") if isinstance(during, Mapping) else None
    return isinstance(reasons, Mapping) and any(reasons.get(name) for name in SLOWED)
