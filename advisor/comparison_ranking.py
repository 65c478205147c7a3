"""One GPU of a comparison against another: the order of rows, and what the errors of predictions let one say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.choice import TIE
from advisor.units import percent, rate

if TYPE_CHECKING:
    from advisor.comparison import GpuResult, GpuRow, Sort
    from advisor.recommendation import ModelFacts

Value = Callable[["GpuResult"], "float | None"]


def speed_of(result: GpuResult) -> float:
    """Samples/s."""
    return result.samples_per_s


def cost_of(result: GpuResult) -> float | None:
    """Cost of a million samples; None: no price was given."""
    return result.cost_per_million


def told_apart(left: GpuResult, right: GpuResult, value: Value) -> bool:
    """Whether a figure of two GPUs differs by more than their errors.

    The errors are what nine of ten predictions stay within, of each GPU its own, and runs of one program differ by
    `advisor.choice.TIE` in any case. They are taken as independent. GPUs predicted from the same coefficients share
    errors, which cancel between them; how much is not known (RTX 4090 and 5090 err in opposite directions in the mean,
    reports/ACCURACY.md), so none is subtracted. A price is exact: a cost is as uncertain as its samples/s.
    """
    a, b = value(left), value(right)
    if a is None or b is None:
        return False
    spread = max(TIE, math.hypot(left.error.p90_abs_log, right.error.p90_abs_log))
    return abs(math.log(a / b)) > spread


def related(rows: Sequence[GpuRow]) -> list[GpuRow]:
    """The rows with what each is beside the others: its share of the fastest, and which cannot be told from it."""
    answered = [(row.name, row.result) for row in rows if row.result is not None]
    top = max(result.samples_per_s for _, result in answered)

    def ties(mine: GpuResult, value: Value) -> tuple[str, ...]:
        if value(mine) is None:
            return ()
        return tuple(name for name, other in answered if other is not mine and not told_apart(mine, other, value))

    def beside(result: GpuResult) -> GpuResult:
        share = result.samples_per_s / top
        return replace(result, relative=share, ties=ties(result, speed_of), cost_ties=ties(result, cost_of))

    return [row if row.result is None else replace(row, result=beside(row.result)) for row in rows]


def ranked(rows: Sequence[GpuRow], sort: Sort) -> list[GpuRow]:
    """The rows in the order asked for: what is unknown after what is known, rows without a result last."""

    def place(row: GpuRow) -> tuple[bool, bool, float]:
        if row.result is None:
            return True, True, 0.0
        value = {
            "throughput": -row.result.samples_per_s,
            "cost": row.result.cost_per_million,
            "energy": row.result.energy_per_sample_j,
        }[sort]
        return False, value is None, value or 0.0

    return list(rows) if sort == "given" else sorted(rows, key=place)


def headline(model: ModelFacts, rows: Sequence[GpuRow]) -> str:
    """Which GPU is fastest and which is cheapest per sample, by how much, and whether the errors let one say so."""
    answered = [(row.name, row.result) for row in rows if row.result is not None]
    (best, result), *others = sorted(answered, key=lambda entry: -entry[1].samples_per_s)
    speed = f"{rate(result.samples_per_s)} {model.samples}/s +-{percent(result.error.mean_abs_log)}"
    at = f"predicted at batch {result.batch_size}"
    if not others:
        only = ", the only one of these that can run it" if len(rows) > 1 else ""
        cost = result.cost_per_million
        priced = f"; {rate(cost)} per million {model.samples}" if cost is not None else ""
        return f"{model.title} on {best}{only}: {speed} {at}{priced}"
    second, slower = others[0]
    is_, sure = _sure(result, slower, speed_of)
    times = result.samples_per_s / slower.samples_per_s
    text = f"{model.title}: {best} {is_} fastest, {speed} {at}, {times:.2f} times {second}{sure}"
    costs = [(each.cost_per_million, name, each) for name, each in answered if each.cost_per_million is not None]
    if len(costs) < 2:
        return text
    (least, cheapest, cheap), (more, dearer, dear) = sorted(costs, key=lambda entry: entry[0])[:2]
    is_, sure = _sure(cheap, dear, cost_of)
    return (
        f"{text}; {cheapest} {is_} cheapest per sample, {rate(least)} per million {model.samples}, "
        f"{share(1 - least / more)} below {dearer}{sure}"
    )


def _sure(left: GpuResult, right: GpuResult, value: Value) -> tuple[str, str]:
    if told_apart(left, right, value):
        return "is", " (more than their errors)"
    return "would be", ", but that is a tie within their errors"


def share(part: float) -> str:
    """Print a share in whole per cent, a small one with a digit more.

    >>> share(0.52), share(0.0034)
    ('52 %', '0.3 %')
    """
    return percent(part, 0 if part == 0 or part >= 0.01 else 1)


def tie_sentences(rows: Sequence[GpuRow]) -> tuple[str, ...]:
    """Which GPUs' samples/s cannot be told apart, from the fastest down; what an earlier sentence holds is left out."""
    answered = [(row.name, row.result) for row in rows if row.result is not None]
    answered.sort(key=lambda entry: -entry[1].samples_per_s)
    ties = {name: set(result.ties) for name, result in answered}
    said: list[set[str]] = []
    sentences = []
    for i, (name, _) in enumerate(answered):
        others = [other for other, _ in answered[i + 1 :] if other in ties[name]]
        group = {name, *others}
        if not others or any(group <= earlier for earlier in said):
            continue
        said.append(group)
        if all(group - {other} <= ties[other] for other in others):
            sentences.append(f"{_listed([name, *others])} cannot be told apart within their errors.")
        else:
            sentences.append(f"{name} cannot be told from {_listed(others)} within their errors.")
    return tuple(sentences)


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
