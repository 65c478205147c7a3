"""Batch sizes people take by rule of thumb, beside those a recommendation names: read from its answer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advisor.choice import largest_power_of_two
from advisor.recommendation import Answer

USUAL = (32, 64, 128, 256)
MULTIPLES = (64, 8)
ALL_UP_TO = 256  # sizes beyond are drawn where something happens
Kind = Literal["advice", "rule of thumb", "usual size"]
_ADVICE = {  # role of a candidate -> its long and short name
    "recommended": ("recommended", "recommended"),
    "knee": ("knee", "knee"),
    "fastest that fits": ("fastest that fits", "fastest"),
    "current": ("your size today", "today"),
}


@dataclass(frozen=True)
class Choice:
    """One way to choose, the size it names, and what is predicted there."""

    name: str
    short: str  # for a phone
    kind: Kind
    batch: int
    samples_per_s: float
    relative: float  # samples/s over those of the fastest size that fits
    memory_bytes: int
    fits: bool


def choices(answer: Answer) -> tuple[Choice, ...]:
    """What is advised first, then the rules of thumb, then the usual sizes that were searched.

    The rules: the largest size that fits (or was searched), the largest power of two and multiples of 64 and 8 no
    larger, and the folk formula of `advisor.quantization.folk_batch_size` where its size is known.
    """
    largest = answer.largest_fitting
    roles = {role.split(" (")[0]: c.prediction.batch for c in answer.candidates for role in c.roles}
    named: list[tuple[str, str, Kind, int]] = [
        (*names, "advice", roles[role]) for role, names in _ADVICE.items() if role in roles
    ]
    named.append(("largest that fits", "largest", "rule of thumb", largest))
    named.append(("largest power of two", "power of two", "rule of thumb", largest_power_of_two(largest)))
    named += [
        (f"largest multiple of {step}", f"multiple of {step}", "rule of thumb", largest // step * step)
        for step in MULTIPLES
        if largest >= step
    ]
    if "folk formula" in roles:
        named.append(("folk formula", "folk formula", "rule of thumb", roles["folk formula"]))
    named += [("usual size", "usual", "usual size", size) for size in USUAL if size <= len(answer.curve.batches)]
    if answer.largest_fitting_is_search_limit:
        named = [(name.replace("that fits", "searched"), short, kind, size) for name, short, kind, size in named]
    return tuple(_choice(answer, *names) for names in named)


def _choice(answer: Answer, name: str, short: str, kind: Kind, batch: int) -> Choice:
    curve, i = answer.curve, batch - 1
    fastest = curve.samples_per_s[answer.fastest - 1]
    speed = curve.samples_per_s[i]
    return Choice(name, short, kind, batch, speed, speed / fastest, curve.total_bytes[i], curve.fits[i])


def last_shown(answer: Answer) -> int:
    """The largest size a picture of the curve shows: somewhat beyond what fits, and every size that is named."""
    searched = answer.curve.batches[-1]
    named = max(c.prediction.batch for c in answer.candidates)
    return min(searched, max(named, round(1.25 * answer.largest_fitting), 8))


def sizes_shown(answer: Answer) -> list[int]:
    """The sizes that a picture of the curve needs: all up to 256; then every fourth, those named, and cliffs' ends."""
    end, speed = last_shown(answer), answer.curve.samples_per_s
    named = {choice.batch for choice in choices(answer)} | {c.prediction.batch for c in answer.candidates}
    named |= {answer.largest_fitting, answer.largest_fitting + 1, end}
    ends = {
        size
        for batch in range(ALL_UP_TO + 1, end)
        if speed[batch] < speed[batch - 1]  # one sample more is slower
        for size in (batch, batch + 1)
    }
    return [b for b in range(1, end + 1) if b <= ALL_UP_TO or b % 4 == 0 or b in named or b in ends]
