"""Section `batch`: samples/s and memory against the batch size, what is advised, and what rules of thumb cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from advisor.choice import TIE, tied
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
from advisor.report.sections.batch_memory import memory_figure
from advisor.report.subject import MeasuredSteps, Subject
from advisor.rules_of_thumb import Choice, choices, last_shown, sizes_shown
from advisor.steptime import StepCurve
from advisor.units import gib, percent, rate

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
        tables += [
            _measured_table(f"{number}-{name}", found, each, origin) for number, each in enumerate(steps, start=1)
        ]
    return Section(
        id="batch",
        title="Batch size: what is fast, and what fits",
        lead=(
            "More samples per step keep the GPU busier, until it is busy: from the knee on, larger sizes cost memory "
            "and win little. The saw teeth are waves and tiles that fill up and start anew. Marks show what is "
            "recommended and what people choose by rule of thumb; their sizes and what each reaches are in the rows "
            "between the two curves."
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
        f"samples/s of steps that the fit has not seen were {percent(error.mean_abs_log, 1)} off in the mean, "
        f"{percent(error.p90_abs_log)} in one of ten ({error.origin}); recipe: {found.answer.recipe}",
    )


def _figure(name: str, found: Recommendation, steps: tuple[MeasuredSteps, ...], origin: Origin) -> Figure:
    answer = found.answer
    return Figure(
        id=f"batch-{name}",
        title=f"Which batch size for {answer.model.title} on this GPU?",
        answer=f"{_advice(answer)} {_verdict(answer)}",
        alt=_seen(answer, steps),
        origins=(origin, *(each.origin for each in steps)),
        draw=partial(_draw, found, steps),
        inches=INCHES,
        narrow_inches=NARROW_INCHES,
        interactive=_interactive(found, steps),
    )


def _draw(found: Recommendation, steps: Sequence[MeasuredSteps], figure: MatplotlibFigure, narrow: bool) -> None:
    draw_curve(figure, found, measured=steps, narrow=narrow)


# The answer, in words -------------------------------------------------------------------------------------------------


def _advice(answer: Answer) -> str:
    known = answer.memory_limit_bytes is not None
    memory = gib(answer.curve.total_bytes[answer.batch_size - 1])
    room = memory if answer.memory_limit_bytes is None else f"{memory} of {gib(answer.memory_limit_bytes)}"
    speed = f"{rate(answer.samples_per_s)} {answer.model.samples}/s +-{percent(answer.error.mean_abs_log)}"
    share = answer.samples_per_s / answer.curve.samples_per_s[answer.fastest - 1]
    fastest = "the fastest size that fits" if known else "the fastest size searched"
    if answer.batch_size != answer.fastest:
        fastest = f"{percent(share, 1)} of {fastest} ({answer.fastest})"
    return f"{answer.batch_size} per GPU: {speed} are predicted, {fastest}, in {room}."


def _verdict(answer: Answer) -> str:
    """What the rules of thumb cost against the recommended size."""
    rules = [choice for choice in choices(answer) if choice.kind != "advice"]
    fitting = [choice for choice in rules if choice.fits and choice.batch != answer.batch_size]
    beyond = sorted({choice.batch for choice in rules if not choice.fits})
    unfit = f" {_listed(beyond)} {'does' if len(beyond) == 1 else 'do'} not fit." if beyond else ""
    if not fitting:
        return f"No rule of thumb that fits names another size.{unfit}"
    slowest = min(fitting, key=lambda choice: (choice.samples_per_s, choice.batch))
    largest = max(fitting, key=lambda choice: choice.batch)
    said = []
    if all(tied(choice.samples_per_s, answer.samples_per_s) for choice in fitting):
        said.append(f"Every rule of thumb that fits is as fast, within {percent(TIE)}")
    elif slowest.samples_per_s < answer.samples_per_s:
        loss = 1 - slowest.samples_per_s / answer.samples_per_s
        said.append(
            f"Of the rules of thumb {slowest.batch} ({slowest.name}) costs most, {percent(loss)} of the throughput"
        )
    if largest.batch > answer.batch_size:
        gain = largest.samples_per_s / answer.samples_per_s - 1
        change = f"is as fast, within {percent(TIE)}" if abs(gain) <= TIE else f"changes it by {100 * gain:+.1f} %"
        times = largest.memory_bytes / answer.curve.total_bytes[answer.batch_size - 1]
        said.append(f"{largest.batch} ({largest.name}) takes {times:.1f} times the memory and {change}")
    return f"{'; '.join(said)}.{unfit}"


def _listed(sizes: Sequence[int]) -> str:
    *first, last = map(str, sizes)
    return f"{', '.join(first)} and {last}" if first else last


def _seen(answer: Answer, steps: Sequence[MeasuredSteps]) -> str:
    end, curve = last_shown(answer), answer.curve
    marks = "; ".join(
        f"{choice.name} {choice.batch}, {percent(choice.relative)} of the fastest"
        + ("" if choice.fits else ", does not fit")
        for choice in choices(answer)
        if choice.batch <= end
    )
    limit = answer.memory_limit_bytes
    lines = (
        "the limit is unknown" if limit is None else f"lines show the limit, {gib(limit)}, and the limit less a margin"
    )
    measured = " Measured steps are points beside both curves." if steps else ""
    return (
        f"Three panels over the batch size, 1 to {end}. Above, {answer.model.samples} per second go from "
        f"{rate(curve.samples_per_s[0])} at 1 to {rate(curve.samples_per_s[end - 1])} at {end}, with a band of "
        f"the mean error around them. Between, one row for each choice: {marks}. Below, memory rises from "
        f"{gib(curve.total_bytes[0])} to {gib(curve.total_bytes[end - 1])}; {lines}.{measured}"
    )


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

    def edge(label: str, factor: float) -> Series:
        return Series(label, "line", "sky", _floats(every), _floats(speed[every - 1] * factor), (), dashed=True)

    series = [line("predicted, fits", every[fits], "blue")]
    if not fits.all():
        series.append(line("predicted, does not fit", every[~fits], "grey", dashed=True))
    series += [edge("slower by the mean error", 1 / band), edge("faster by the mean error", band)]
    for lane in lanes([c for c in choices(answer) if c.batch <= end]):
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


def _lane_name(lane: Lane) -> str:
    return f"{lane.name} {_listed(lane.batches)}"


def _roles(answer: Answer) -> dict[int, str]:
    found: dict[int, list[str]] = {}
    for candidate in answer.candidates:
        found.setdefault(candidate.prediction.batch, []).extend(candidate.roles)
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
        Fact(f"{answer.model.samples}/s", tuple(_digits(known.samples_per_s[i]) for i in at)),
        Fact("step time", tuple(_digits(1e3 * known.time_s[i]) for i in at), "ms"),
        Fact("memory", tuple(round(known.total_bytes[i] / 2**30, 2) for i in at), "GiB"),
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
            Fact("samples/s", tuple(_digits(value) for value in batch / time_s)),
            Fact("step time", tuple(_digits(1e3 * value) for value in time_s), "ms"),
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
            f"{largest} is the largest size that fits: {gib(answer.curve.total_bytes[largest - 1])} and a margin of "
            f"{percent(answer.margin, 1)} in {gib(answer.memory_limit_bytes)}"
        )
        if largest == answer.batch_size:
            return (Mark(largest, str(largest), f"the recommended size; {reason}"),)
        marks.append(Mark(largest, str(largest), reason))
    return tuple(marks)


# The tables -----------------------------------------------------------------------------------------------------------


def _choices_table(name: str, answer: Answer, origin: Origin) -> Table:
    known = answer.memory_limit_bytes is not None
    return Table(
        id=f"batch-choices-{name}",
        title=f"What do the rules of thumb cost for {answer.model.title}?",
        columns=(
            Column("choice", "choice", note="knee: the smallest size within the tolerance, "
                   f"{percent(answer.tolerance)}, of the fastest; folk formula: floor(n 2^14 SMs / (H W C)), "
                   "a rule by Remi Coulom; usual sizes: what examples and papers take"),
            Column("batch", "batch"),
            Column("samples_per_s", f"{answer.model.samples}/s", _shown(rate), "predicted"),
            Column("of_fastest", "of fastest", _shown(partial(percent, digits=1)), "of the fastest size that fits"),
            Column("memory_bytes", "memory", _shown(gib), "what must be free before the step, predicted"),
            Column("fits", "fits", note="with the margin"),
        ),
        rows=tuple(_choice_row(choice, known) for choice in choices(answer)),
        origins=(origin,),
    )  # fmt: skip


def _choice_row(choice: Choice, known: bool) -> tuple[Cell, ...]:
    fits = choice.fits if known else None
    return choice.name, choice.batch, choice.samples_per_s, choice.relative, choice.memory_bytes, fits


def _measured_table(name: str, found: Recommendation, steps: MeasuredSteps, origin: Origin) -> Table:
    noun = found.answer.model.samples
    predicted = found.setup.predict(steps.batch)
    rows = (
        (int(batch), _or_none(batch / time_s), p.samples_per_s, _or_none(held), p.memory.total_bytes, _or_none(power))
        for batch, time_s, held, power, p in zip(
            steps.batch, steps.time_s, steps.memory_bytes, steps.power_w, predicted, strict=True
        )
    )
    return Table(
        id=f"measured-steps-{name}",
        title=f"What was measured of {found.answer.model.title} ({steps.recipe})?",
        columns=(
            Column("batch", "batch"),
            Column("measured_samples_per_s", f"{noun}/s, measured", _shown(rate)),
            Column("predicted_samples_per_s", f"{noun}/s, predicted", _shown(rate), found.answer.recipe),
            Column("measured_memory_bytes", "memory, measured", _shown(gib)),
            Column("predicted_memory_bytes", "memory, predicted", _shown(gib), found.answer.recipe),
            Column("power_w", "power, W", _shown(lambda watts: f"{watts:.0f}"), "measured"),
        ),
        rows=tuple(rows),
        origins=(steps.origin, origin),
    )


def _shown(text: Callable[[float], str]) -> Callable[[Cell], str]:
    """A number's text as a column prints it."""
    return lambda cell: text(float(cell)) if cell is not None else "??"


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _known(value: float) -> float | None:
    return _digits(value) if np.isfinite(value) else None


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
