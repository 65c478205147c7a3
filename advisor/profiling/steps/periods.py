"""Finds the steps of a sequence of kernels without marks: the shortest stretch that repeats as a whole.

A transformer's layers repeat too, and most kernels of a step with them. So each *distinct* kernel counts the same here,
however often it runs: the loss, the embedding and the optimizer weigh as much as the layers, and a period that splits
them unevenly is no step. Kernels that run once per step ("anchors") cut the sequence, so a step with a few kernels more
or less (a skipped optimizer step, cuDNN trying its algorithms in the first) does not disturb the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.profiling.raw import Floats, Ints

_LEAST_DISTINCT = 5  # different kernels: a loop over fewer is no training step
_LEAST_PERIOD = 8  # kernels
_LEAST_AGREEMENT = 0.9  # mean over distinct kernels of how evenly the steps share them
_TIE = 0.01  # agreements closer than this: the shorter period
_TIE_OF_ONE = 0.08
_DEVIATING = 0.2  # share of the steps in which a kernel may run more or less often than usual
_MOST_CANDIDATES = 12
_MOST_CELLS_PER_KERNEL = 20  # of the table of steps and distinct kernels: bounds its memory
WARM_UP = 1.2
"""A first step that takes, or launches, this many times the median of the others does not stand for them."""


@dataclass(frozen=True)
class _Sequence:
    """Distinct kernels numbered 0.., and where each stands."""

    tokens: Ints
    order: Ints  # positions, by token
    first: Ints  # per token: where its positions begin in `order`

    @property
    def distinct(self) -> int:
        return len(self.first) - 1

    def positions(self, token: int) -> Ints:
        return self.order[self.first[token] : self.first[token + 1]]


def step_bounds(tokens: Ints, pauses: Floats) -> Ints:
    """Positions at which steps begin, and the end of the last: n + 1 bounds of n >= 2 steps, or none.

    `tokens` names each kernel of one stream, in order; `pauses` is how long the host paused before launching it (any
    unit): where the sequence begins amid a step, the longest pause of the cycle tells where steps begin. Time is linear
    in the number of kernels but for a sort.
    """
    sequence = _sequence(tokens)
    sound: list[tuple[float, Ints, list[Ints]]] = []
    for positions in _candidates(sequence):
        anchors = (min(positions, key=lambda p: p[0]), max(positions, key=lambda p: p[-1]))
        score, anchor = max(((_agreement(sequence, anchor), anchor) for anchor in anchors), key=lambda entry: entry[0])
        if score >= _LEAST_AGREEMENT:
            sound.append((score, anchor, positions))
    if not sound:
        return np.empty(0, dtype=np.int64)
    _, anchor, positions = _shortest(sound)
    return _bounds(_earliest(positions, anchor), len(tokens), pauses)


def _shortest(sound: list[tuple[float, Ints, list[Ints]]]) -> tuple[float, Ints, list[Ints]]:
    """The shortest period, unless a longer one explains more: the optimizer after several accumulated passes.

    A longer one that hangs on a single kernel must explain much more: it may be what is logged every tenth step.
    """
    sound = sorted(sound, key=lambda entry: -len(entry[1]))
    chosen = sound[0]
    for entry in sound[1:]:
        if entry[0] > chosen[0] + (_TIE if len(entry[2]) > 1 else _TIE_OF_ONE):
            chosen = entry
    return chosen


def _sequence(tokens: Ints) -> _Sequence:
    _, numbered, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    return _Sequence(numbered, np.argsort(numbered, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))


def _candidates(sequence: _Sequence) -> list[list[Ints]]:
    """Positions of kernels that may run once in each step, those that run equally often together."""
    n = len(sequence.tokens)
    settled = len(np.unique(sequence.tokens[n // 2 :]))  # distinct kernels, warm-up left out
    if settled < _LEAST_DISTINCT:
        return []
    most = min(n // _LEAST_PERIOD, int(n / (_LEAST_AGREEMENT * settled)))  # a step holds nearly all distinct kernels
    groups: dict[int, list[Ints]] = defaultdict(list)
    counts = np.diff(sequence.first)
    for token in np.flatnonzero((counts >= 2) & (counts <= most)).tolist():
        positions = sequence.positions(token)
        if _evenly_spread(positions, n):
            groups[len(positions)].append(positions)
    return sorted(groups.values(), key=len, reverse=True)[:_MOST_CANDIDATES]


def _evenly_spread(positions: Ints, n: int) -> bool:
    count = len(positions)
    if (positions[-1] - positions[0]) * count < 0.7 * n * (count - 1):
        return False
    gaps = np.diff(positions)
    usual = np.median(gaps)
    return bool(np.mean(np.abs(gaps - usual) <= 0.1 * usual) >= 0.5)


def _agreement(sequence: _Sequence, anchor: Ints) -> float:
    """How evenly the stretches between anchors share the distinct kernels: 1 where all hold the same.

    What precedes the first anchor and what follows the last make one stretch (row 0): together a step where the trace
    holds whole steps. That stretch may be left out (a trace that ends amid a step), or a long first one (warm-up).
    """
    n, steps = len(sequence.tokens), len(anchor)
    if steps * sequence.distinct > _MOST_CELLS_PER_KERNEL * n:  # a step would hold hardly any of the distinct kernels
        return 0.0
    lengths = np.diff(np.concatenate([[0], anchor, [n]]))
    stretch = np.repeat(np.arange(steps + 1) % steps, lengths)
    held = np.bincount(stretch * sequence.distinct + sequence.tokens, minlength=steps * sequence.distinct)
    held = held.reshape(steps, sequence.distinct)
    everything = np.ones(sequence.distinct, dtype=bool)
    scores = [_evenness(held, everything)]
    if steps >= 3:
        last_seen = sequence.order[sequence.first[1:] - 1]
        usual = float(np.median(held.sum(axis=1)))
        scores.append(_evenness(held[1:], everything))
        for row, end in ((0, anchor[0]), (1, anchor[1])):
            if held[row].sum() > WARM_UP * usual:
                scores.append(_evenness(np.delete(held, row, axis=0), last_seen >= end))
    return max(scores)


def _evenness(held: Ints, counted: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Mean over distinct kernels of min / max of their number in a stretch and the median; the worst fifth left out."""
    usual = np.median(held, axis=0)
    more = np.maximum(held, usual)
    ratio = np.divide(np.minimum(held, usual), more, out=np.ones(held.shape), where=more > 0)
    left_out = int(_DEVIATING * len(held))
    kept = np.partition(ratio, left_out, axis=0)[left_out:].mean(axis=0)
    return float(np.where(usual > 0, kept, 0.0)[counted].mean())


def _earliest(positions: list[Ints], anchor: Ints) -> Ints:
    """The kernel that runs first in a step, of those that run once in each: little can vary before it."""
    alternating = (p for p in positions if np.all(p <= anchor) and np.all(p[1:] > anchor[:-1]))
    return min(alternating, key=lambda p: p[0])


def _bounds(anchor: Ints, n: int, pauses: Floats) -> Ints:
    """Where the steps begin, from the positions of a kernel that runs once in each."""
    period = int(np.median(np.diff(anchor)))
    around = int(anchor[0] + n - anchor[-1])
    if abs(around - period) <= max(2, 0.02 * period):  # whole steps: the first begins with the trace
        return np.append(np.maximum(anchor - anchor[0], 0), n)
    inside = anchor[:-1, None] + np.arange(period)[None, :]
    offset = int(np.argmax(np.median(pauses[np.minimum(inside, n - 1)], axis=0)))
    bounds = np.concatenate([[anchor[0] + offset - period], anchor + offset])
    bounds = bounds[(bounds >= 0) & (bounds < n)]
    return np.append(bounds, n) if n - bounds[-1] >= 0.95 * period else bounds


def without_numbers(names: Sequence[str], used: Ints) -> Ints:
    """Per use of a name, a number that names alike but for digits share: tiles of one kernel, which shapes choose."""
    seen: dict[str, int] = {}
    drop = str.maketrans("", "", "0123456789")
    distinct, inverse = np.unique(used, return_inverse=True)
    alike = [seen.setdefault(names[name].translate(drop), len(seen)) for name in distinct.tolist()]
    return np.array(alike, dtype=np.int64)[inverse]
