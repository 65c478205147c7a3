"""The batch section in words: what is advised, what rules of thumb cost beside it, and what its figure shows."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.choice import TIE, tied
from advisor.recommendation import Answer
from advisor.rules_of_thumb import Choice, choices, last_shown
from advisor.units import about_gib, counted, percent, rate


def advice(answer: Answer) -> str:
    """The recommended size, what is predicted there, and how near that is to the fastest."""
    memory, size = about_gib(answer.curve.total_bytes[answer.batch_size - 1]), answer.batch_size
    room = memory if answer.memory_limit_bytes is None else f"{memory} of {about_gib(answer.memory_limit_bytes)}"
    samples = answer.model.samples
    speed = f"{rate(answer.samples_per_s)} {samples}/s +-{percent(answer.error.mean_abs_log)}"
    which = searched_or_fits(answer)
    share = answer.samples_per_s / answer.curve.samples_per_s[answer.fastest - 1]
    near = f"That is {percent(share, 1)} of the throughput at {answer.fastest}, the fastest size {which}."
    if size == answer.fastest:
        near = f"No other size {which} is faster."
    return f"Take {counted(size, samples.removesuffix('s'))} per GPU: {speed} are predicted, in {room}. {near}"


def searched_or_fits(answer: Answer) -> str:
    """What bounds the sizes in question: the search, or the memory."""
    unbounded = answer.memory_limit_bytes is None or answer.largest_fitting_is_search_limit
    return "searched" if unbounded else "that fits"


def verdict(answer: Answer) -> str:
    """What the rules of thumb cost against the recommended size, and where the search ended."""
    rules = [choice for choice in choices(answer) if choice.kind != "advice"]
    fitting = [choice for choice in rules if choice.fits and choice.batch != answer.batch_size]
    beyond = sorted({choice.batch for choice in rules if not choice.fits})
    said = [*_largest(answer, fitting), *_others(answer, fitting)]
    if beyond:
        said.append(f"{listed(beyond)} {'does' if len(beyond) == 1 else 'do'} not fit.")
    if answer.largest_fitting_is_search_limit:
        said.append(f"The search ended at {answer.largest_fitting}{_room(answer)}.")
    return " ".join(said)


def _largest(answer: Answer, fitting: Sequence[Choice]) -> list[str]:
    larger = [choice for choice in fitting if choice.batch > answer.batch_size]
    if not larger:
        return []
    largest = max(larger, key=lambda choice: choice.batch)
    gain = largest.samples_per_s / answer.samples_per_s - 1
    change = f"{percent(abs(gain), 1)} {'more' if gain > 0 else 'less'} throughput"
    if tied(largest.samples_per_s, answer.samples_per_s):
        change = f"the same throughput, within {percent(TIE)}"
    times = largest.memory_bytes / answer.curve.total_bytes[answer.batch_size - 1]
    return [f"{largest.batch} ({largest.name}) takes {times:.1f} times the memory for {change}."]


def _others(answer: Answer, fitting: Sequence[Choice]) -> list[str]:
    if not fitting:
        return ["No rule of thumb that fits names another size."]
    if all(tied(choice.samples_per_s, answer.samples_per_s) for choice in fitting):
        return [f"Every rule of thumb that fits is as fast, within {percent(TIE)}."]
    slowest = min(fitting, key=lambda choice: (choice.samples_per_s, choice.batch))
    loss = 1 - slowest.samples_per_s / answer.samples_per_s
    if loss <= 0:
        return []
    return [f"Of the rules of thumb {slowest.batch} ({slowest.name}) loses most, {percent(loss)} of the throughput."]


def _room(answer: Answer) -> str:
    return ": larger sizes may fit" if answer.memory_limit_bytes is not None else ""


def listed(sizes: Sequence[int]) -> str:
    """Sizes as words.

    >>> listed([32, 64, 128])
    '32, 64 and 128'
    """
    *first, last = map(str, sizes)
    return f"{', '.join(first)} and {last}" if first else last


def seen(answer: Answer, *, measured: bool) -> str:
    """The figure for those who cannot see it; `measured`: with points of measured steps."""
    end, curve = last_shown(answer), answer.curve
    marks = "; ".join(
        f"{choice.name} {choice.batch}, {percent(choice.relative)} of the fastest"
        + ("" if choice.fits else ", does not fit")
        for choice in choices(answer)
        if choice.batch <= end
    )
    limit = answer.memory_limit_bytes
    lines = (
        "the limit is unknown"
        if limit is None
        else f"lines show the limit, {about_gib(limit)}, and the limit less a margin"
    )
    points = " Measured steps are points beside both curves." if measured else ""
    return (
        f"Three panels over the batch size, 1 to {end}. Above, {answer.model.samples} per second go from "
        f"{rate(curve.samples_per_s[0])} at 1 to {rate(curve.samples_per_s[end - 1])} at {end}, with a band of "
        f"the mean error around them. Between, one row for each choice: {marks}. Below, memory rises from "
        f"{about_gib(curve.total_bytes[0])} to {about_gib(curve.total_bytes[end - 1])}; {lines}.{points}"
    )
