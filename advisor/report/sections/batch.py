"""Section `batch`: samples/s and memory against the batch size, what is advised, and what rules of thumb cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from advisor.plots.curve import INCHES, NARROW_INCHES, Lane, draw_curve, lanes
from advisor.recommendation import Answer, Recommendation
from advisor.report.records import (
    Cell,
    Column,
    Fact,
    Figure,
    Interactive,
    Mark,
    Origin,
    Section,
    Series,
    Table,
    Tone,
)
from advisor.report.sections.batch_memory import about_gib_number, memory_figure
from advisor.report.sections.batch_words import advice, listed, searched_or_fits, seen, verdict
from advisor.report.subject import MeasuredSteps, Subject
from advisor.rules_of_thumb import Choice, choices, last_shown, sizes_shown
from advisor.steptime import StepCurve
from advisor.units import about_gib, percent, rate, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_LOOK: dict[str, tuple[str, Tone]] = {  # of a lane in the interactive figure: plotly's symbol, and the tone
    "recommended": ("star", "vermilion"),
    "knee": ("circle", "blue"),
    "fastest": ("triangle-up", "green"),
    "today": ("cross", "ink"),
    "largest": ("triangle-right", "grey"),
    "power of two": ("square", "orange"),
    "multiple of 64": ("diamond", "purple"),
    "folk formula": ("x", "sky"),
    "usual": ("line-ns-open", "ink"),
}
_RULES = ("largest", "power of two", "multiple of 64", "folk formula")


def section(subject: Subject) -> Section | None:
    """For each model its throughput, its memory and a table of choices; and what was measured, where something was."""
    if not subject.models:
        return None
    figures, tables = [], []
    for name, found in subject.named_models():
        steps = tuple(
            each for each in subject.measured.steps if each.model == found.answer.model.name and len(each.batch)
        )
        origin = step_origin(found)
        figures += [_figure(name, found, steps, origin), memory_figure(name, found, steps, origin)]
        tables.append(_choices_table(name, found.answer, origin))
        tables += [_measured_table(name, number, found, each, origin) for number, each in enumerate(steps, start=1)]
    return Section(
        id="batch",
        title="Batch size: what is fast, and what fits",
        lead=(
            "More samples per step keep the GPU busier, until it is busy: from the knee on, larger sizes cost memory "
            "and win little. The saw teeth are waves and tiles that fill up and start anew. Marks show what is "
            "recommended and what people choose by rule of thumb; the table has their sizes and what each reaches."
        ),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def step_origin(found: Recommendation) -> Origin:
    """The origin of a predicted step's time and memory."""
    error = found.answer.error
    return Origin(
        "estimate",
        f"steps of {found.answer.model.title} predicted for {found.answer.gpu.name}: {found.answer.gpu.profile}; "
        f"such predictions were {percent(error.mean_abs_log, 1)} off in the mean where they were checked, "
        f"nine of ten by no more than {percent(error.p90_abs_log)} ({error.origin}); recipe: {found.answer.recipe}",
        short=f"steps of {found.answer.model.title}, predicted; such predictions were "
        f"{percent(error.mean_abs_log, 1)} off in the mean",
    )


def _figure(name: str, found: Recommendation, steps: tuple[MeasuredSteps, ...], origin: Origin) -> Figure:
    answer = found.answer
    return Figure(
        id=f"batch-{name}",
        title=f"Which batch size for {answer.model.title} on this GPU?",
        answer=f"{advice(answer)} {verdict(answer)}",
        alt=seen(answer, measured=bool(steps)),
        origins=(origin, *(each.origin for each in steps)),
        draw=partial(_draw, found, steps),
        inches=INCHES,
        narrow_inches=NARROW_INCHES,
        interactive=_interactive(found, steps),
    )


def _draw(found: Recommendation, steps: Sequence[MeasuredSteps], figure: MatplotlibFigure, narrow: bool) -> None:
    draw_curve(figure, found, measured=steps, narrow=narrow)


# The interactive form -------------------------------------------------------------------------------------------------


def _interactive(found: Recommendation, steps: Sequence[MeasuredSteps]) -> Interactive:
    answer, end = found.answer, last_shown(found.answer)
    every = np.array(sizes_shown(answer))
    curve = found.setup.curve(np.arange(1, end + 1))
    roles = _roles(answer)
    speed = np.array(answer.curve.samples_per_s)
    fits = np.array(answer.curve.fits)[every - 1]
    band = float(np.exp(answer.error.mean_abs_log))

    def line(label: str, sizes: np.ndarray, tone: Tone, *, dashed: bool = False) -> Series:
        return Series(label, "line", tone, _floats(sizes), _floats(speed[sizes - 1]),
                      _facts(answer, curve, roles, sizes), dashed=dashed)  # fmt: skip

    series = [line("predicted, fits", every[fits], "blue")]
    if not fits.all():
        series.append(line("predicted, does not fit", every[~fits], "grey", dashed=True))
    gap = [np.nan]
    around = np.concatenate([speed[every - 1] / band, gap, speed[every - 1] * band])
    series.append(Series(f"within the mean error, {percent(answer.error.mean_abs_log)}", "line", "sky",
                         _floats(np.concatenate([every, gap, every])), _floats(around), (), dashed=True))  # fmt: skip
    for lane in _together(lanes([c for c in choices(answer) if c.batch <= end])):
        sizes = np.array(lane.batches)
        symbol, tone = _LOOK[lane.short]
        series.append(Series(_lane_name(lane), "points", tone, _floats(sizes), _floats(speed[sizes - 1]),
                             _facts(answer, curve, roles, sizes), symbol=symbol))  # fmt: skip
    series += [each for one in steps if (each := _measured_series(one)) is not None]
    return Interactive(
        series=tuple(series),
        x_title="batch size per GPU",
        y_title=f"{answer.model.samples} per second",
        marks=_marks(answer),
    )


def _together(rows: Sequence[Lane]) -> list[Lane]:
    """Rules of thumb that name one size as one lane: no mark hides another, and the legend is short."""
    found: dict[object, Lane] = {}
    for row in rows:
        key = row.batches if row.short in _RULES else row.short
        first = found.get(key)
        found[key] = row if first is None else replace(first, name=f"{first.name}, {row.short}")
    return list(found.values())


def _lane_name(lane: Lane) -> str:
    return f"{lane.name}: {listed(lane.batches)}"


def _roles(answer: Answer) -> dict[int, str]:
    found: dict[int, list[str]] = {}
    for candidate in answer.candidates:
        bound = "that fits" if not answer.largest_fitting_is_search_limit else "searched"
        roles = [role.replace("that fits", bound) for role in candidate.roles]
        found.setdefault(candidate.prediction.batch, []).extend(roles)
    for choice in choices(answer):
        if choice.kind != "advice" and choice.name not in found.get(choice.batch, ()):
            found.setdefault(choice.batch, []).append(choice.name)
    return {batch: ", ".join(names) for batch, names in found.items()}


def _facts(answer: Answer, curve: StepCurve, roles: dict[int, str], sizes: np.ndarray) -> tuple[Fact, ...]:
    at, known = sizes - 1, answer.curve

    def shares(values: np.ndarray) -> tuple[Cell, ...]:
        return tuple(round(100 * float(value)) for value in values[at])

    return (
        Fact("batch", tuple(int(size) for size in sizes)),
        Fact(f"{answer.model.samples}/s", tuple(significant(known.samples_per_s[i]) for i in at)),
        Fact("step time", tuple(significant(1e3 * known.time_s[i]) for i in at), "ms"),
        Fact("memory", tuple(about_gib_number(known.total_bytes[i]) for i in at), "GiB"),
        Fact("fits", tuple(bool(known.fits[i]) if answer.memory_limit_bytes is not None else None for i in at)),
        Fact("GPU busy", shares(curve.busy_share), "%"),
        Fact("wave efficiency", shares(curve.wave_efficiency), "%"),
        Fact("roles", tuple(roles.get(int(size), "") for size in sizes)),
    )


def _measured_series(steps: MeasuredSteps) -> Series | None:
    known = np.isfinite(steps.time_s)
    if not known.any():
        return None
    batch, time_s = steps.batch[known], steps.time_s[known]
    return Series(
        f"measured: {steps.recipe}", "points", "ink", _floats(batch), _floats(batch / time_s),
        (
            Fact("batch", tuple(int(size) for size in batch)),
            Fact("samples/s", tuple(significant(value) for value in batch / time_s)),
            Fact("step time", tuple(significant(1e3 * value) for value in time_s), "ms"),
            Fact("memory", tuple(_known(value / 2**30) for value in steps.memory_bytes[known]), "GiB"),
            Fact("power", tuple(_known(value) for value in steps.power_w[known]), "W"),
        ),
        symbol="circle-open",
    )  # fmt: skip


def _marks(answer: Answer) -> tuple[Mark, ...]:
    marks = [Mark(answer.batch_size, str(answer.batch_size), "the recommended size")]
    if not answer.largest_fitting_is_search_limit and answer.memory_limit_bytes is not None:
        largest = answer.largest_fitting
        reason = (
            f"{largest} is the largest size that fits: {about_gib(answer.curve.total_bytes[largest - 1])} and a "
            f"margin of {percent(answer.margin, 1)} in {about_gib(answer.memory_limit_bytes)}"
        )
        if largest == answer.batch_size:
            return (Mark(largest, str(largest), f"the recommended size; {reason}"),)
        marks.append(Mark(largest, str(largest), reason))
    return tuple(marks)


# The tables -----------------------------------------------------------------------------------------------------------


def _choices_table(name: str, answer: Answer, origin: Origin) -> Table:
    known = answer.memory_limit_bytes is not None
    return Table(
        id=f"batch-{name}-choices",
        title=f"What do the rules of thumb cost for {answer.model.title}?",
        columns=(
            Column("choice", "choice", note="knee: the smallest size within the tolerance, "
                   f"{percent(answer.tolerance)}, of the fastest; folk formula: floor(n 2^14 SMs / (H W C)), "
                   "a rule by Remi Coulom; usual sizes: what examples and papers take"),
            Column("batch", "batch"),
            Column("samples_per_s", f"{answer.model.samples}/s", rate, "predicted"),
            Column("of_fastest", "of fastest", partial(percent, digits=1),
                   f"of the fastest size {searched_or_fits(answer)}"),
            Column("memory_bytes", "memory", about_gib, "what must be free before the step, predicted"),
            Column("fits", "fits", note="with the margin"),
        ),
        rows=tuple(_choice_row(choice, known) for choice in choices(answer)),
        origins=(origin,),
    )  # fmt: skip


def _choice_row(choice: Choice, known: bool) -> tuple[Cell, ...]:
    fits = choice.fits if known else None
    return choice.name, choice.batch, choice.samples_per_s, choice.relative, choice.memory_bytes, fits


def _measured_table(name: str, number: int, found: Recommendation, steps: MeasuredSteps, origin: Origin) -> Table:
    noun = found.answer.model.samples
    predicted = found.setup.predict(steps.batch)
    rows = (
        (int(batch), _or_none(batch / time_s), p.samples_per_s, _or_none(held), p.memory.total_bytes, _or_none(power))
        for batch, time_s, held, power, p in zip(
            steps.batch, steps.time_s, steps.memory_bytes, steps.power_w, predicted, strict=True
        )
    )
    return Table(
        id=f"batch-{name}-measured-{number}",
        title=f"What was measured of {found.answer.model.title} ({steps.recipe})?",
        columns=(
            Column("batch", "batch"),
            Column("measured_samples_per_s", f"{noun}/s, measured", rate),
            Column("predicted_samples_per_s", f"{noun}/s, predicted", rate, found.answer.recipe),
            Column("measured_memory_bytes", "memory, measured", about_gib),
            Column("predicted_memory_bytes", "memory, predicted", about_gib, found.answer.recipe),
            Column("power_w", "power, W", lambda watts: f"{watts:.0f}", "measured"),
        ),
        rows=tuple(rows),
        origins=(steps.origin, origin),
    )


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _known(value: float) -> float | None:
    return significant(value) if np.isfinite(value) else None


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
