"""The CTAs of one launch as they ran, and the waves that follow: read from what a kernel recorded.

A record is one CTA's SM and its start and end on the GPU's global nanosecond timer. Pure numpy: a laptop can read what
a GPU left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Timeline:
    """One launch: for each CTA, by its linear index, the SM and the time (ns since the first start)."""

    sm: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]

    @property
    def ctas(self) -> int:
        """How many CTAs ran."""
        return len(self.sm)

    @property
    def span_ns(self) -> int:
        """From the first start to the last end."""
        return int(self.end_ns.max())

    @property
    def tick_ns(self) -> int:
        """The longest step of which all times are multiples: CTAs not much longer than it are badly resolved."""
        return int(np.gcd.reduce(np.concatenate((self.start_ns, self.end_ns))))


@dataclass(frozen=True)
class Wave:
    """The CTAs that were the k-th to run in their slot."""

    ctas: int
    start_ns: int  # of the first
    end_ns: int  # of the last
    idle_share: float  # of the slots, that had no CTA in this wave


@dataclass(frozen=True)
class Waves:
    """How the CTAs of one launch shared the GPU. A slot is a place for one resident CTA on one SM."""

    waves: tuple[Wave, ...]
    wave: NDArray[np.int64]  # of each CTA, from 0
    slot: NDArray[np.int64]  # of each CTA, on its SM, from 0
    sms: int
    slots: int  # of the whole GPU
    busy_share: float  # CTA-time over slots x span


@dataclass(frozen=True)
class Launch:
    """One recorded launch of a matrix product: its case, its CTAs and the waves in which they ran."""

    m: int
    n: int
    k: int
    tile: str  # "128x128x64"
    timeline: Timeline
    waves: Waves


def read_launch(record: Mapping[str, Any]) -> Launch:
    """Read an entry of what `bench timelines` prints. Raises ValueError, in one line, where it is damaged."""
    try:
        m, n, k, *tile, sms = (int(record[name]) for name in ("m", "n", "k", "tile_m", "tile_n", "tile_k", "sms"))
        sm, start, end = (np.asarray(record[name], dtype=np.int64) for name in ("sm", "start_ns", "end_ns"))
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    timeline = decode(np.stack([sm, start, end], axis=1))
    return Launch(m, n, k, "x".join(map(str, tile)), timeline, group_waves(timeline, sms=sms))


def decode(records: NDArray[np.int64]) -> Timeline:
    """Read the records [ctas, 3] of one launch; times are rebased to the first start.

    Raises ValueError for another shape, a record no CTA wrote, and an end before its start.
    """
    records = np.asarray(records)
    if records.ndim != 2 or records.shape[1] != 3 or not len(records):
        raise ValueError(f"timeline records have shape {records.shape}, not [ctas, 3] with at least one CTA")
    missing = int((records < 0).any(axis=1).sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(records)} CTAs left no record: make the timeline buffer as long as the grid"
        )
    sm, start, end = records.astype(np.int64).T
    if (end < start).any():
        raise ValueError(f"CTA {int(np.argmax(end < start))} ends before it starts: the records are damaged")
    first = start.min()
    return Timeline(sm=sm, start_ns=start - first, end_ns=end - first)


def group_waves(timeline: Timeline, *, sms: int | None = None) -> Waves:
    """Give every CTA its slot and its wave.

    On each SM, in order of start, a CTA takes the slot that was freed first, or a new one if none is free; its wave is
    the number of CTAs that slot had before. The GPU has `sms` SMs (default: those seen) with as many slots each as the
    fullest SM showed. A persistent kernel shows one wave: that is what it is for.

    Raises ValueError if more SMs are seen than `sms`.
    """
    seen = np.unique(timeline.sm)
    sms = len(seen) if sms is None else sms
    if len(seen) > sms:
        raise ValueError(f"the timeline shows {len(seen)} SMs, more than the {sms} given: use the GPU it was taken on")
    wave = np.zeros(timeline.ctas, dtype=np.int64)
    slot = np.zeros(timeline.ctas, dtype=np.int64)
    slots_per_sm = 0
    for sm in seen:
        free_at: list[int] = []  # of each slot
        used: list[int] = []  # CTAs each slot has had
        here = np.flatnonzero(timeline.sm == sm)
        for cta in here[np.lexsort((timeline.end_ns[here], timeline.start_ns[here]))]:
            start, end = int(timeline.start_ns[cta]), int(timeline.end_ns[cta])
            first = min(range(len(free_at)), key=free_at.__getitem__, default=None)
            if first is None or free_at[first] > start:
                first = len(free_at)
                free_at.append(0)
                used.append(0)
            slot[cta], wave[cta] = first, used[first]
            free_at[first] = end
            used[first] += 1
        slots_per_sm = max(slots_per_sm, len(free_at))
    slots = sms * slots_per_sm
    waves = []
    for index in range(int(wave.max()) + 1):
        members = wave == index
        count = int(members.sum())
        waves.append(
            Wave(
                ctas=count,
                start_ns=int(timeline.start_ns[members].min()),
                end_ns=int(timeline.end_ns[members].max()),
                idle_share=1 - count / slots,
            )
        )
    busy_ns = int((timeline.end_ns - timeline.start_ns).sum())
    span_ns = timeline.span_ns
    return Waves(tuple(waves), wave, slot, sms, slots, busy_ns / (slots * span_ns) if span_ns else 1.0)
