"""The figure of a model's memory against the batch size, of the section `batch`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from advisor.plots.memory import INCHES, NARROW_INCHES, draw_memory, parts_bytes, shares, some_sizes
from advisor.recommendation import Answer, Recommendation
from advisor.report.records import Cell, Fact, Figure, Interactive, Mark, Origin, Series
from advisor.report.subject import MeasuredSteps
from advisor.rules_of_thumb import last_shown
from advisor.units import about_gib, counted, percent, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


def memory_figure(name: str, found: Recommendation, steps: tuple[MeasuredSteps, ...], origin: Origin) -> Figure:
    """What takes the memory at each batch size, and up to which size it fits."""
    answer = found.answer
    return Figure(
        id=f"batch-memory-{name}",
        title=f"What takes the memory of {answer.model.title}, and what fits?",
        answer=_answer(found),
        alt=_seen(found),
        origins=(origin, *(each.origin for each in steps if np.isfinite(each.memory_bytes).any())),
        draw=partial(_draw, found, steps),
        inches=INCHES,
        narrow_inches=NARROW_INCHES,
        interactive=_interactive(found, steps),
    )


def about_gib_number(size_bytes: float) -> float:
    """GiB with three significant digits, as a chart's facts have them."""
    return significant(size_bytes / 2**30, 3)


def _draw(found: Recommendation, steps: Sequence[MeasuredSteps], figure: MatplotlibFigure, narrow: bool) -> None:
    draw_memory(figure, found, measured=steps, narrow=narrow)


def _answer(found: Recommendation) -> str:
    answer = found.answer
    total, one = answer.curve.total_bytes, answer.model.samples.removesuffix("s")
    batch = np.array([answer.batch_size])
    take = "takes" if answer.batch_size == 1 else "take"
    text = (
        f"{counted(answer.batch_size, one)} {take} {about_gib(total[answer.batch_size - 1])}: "
        f"{shares(parts_bytes(found.setup.memory(batch)), 0)}."
    )
    if len(total) > 1:
        each = (total[-1] - total[0]) / (len(total) - 1) / 2**20
        text += f" Each further {one} takes about {each:,.{0 if each >= 10 else 1}f} MiB."
    fits = _what_fits(answer)
    return f"{text} {fits[0].upper()}{fits[1:]}."


def _what_fits(answer: Answer) -> str:
    if answer.memory_limit_bytes is None:
        return "the memory of this GPU is unknown, so nothing was held against it"
    limit = f"{about_gib(answer.memory_limit_bytes)} with a margin of {percent(answer.margin, 1)}"
    if answer.largest_fitting_is_search_limit:
        if answer.largest_fitting == 1:
            return f"1, the only size searched, fits {limit}"
        return f"all sizes searched, up to {answer.largest_fitting}, fit {limit}"
    return f"{answer.largest_fitting} is the largest size that fits {limit}"


def _seen(found: Recommendation) -> str:
    answer, end = found.answer, last_shown(found.answer)
    total = answer.curve.total_bytes
    return (
        f"Areas one upon the other over the batch size, 1 to {end}: CUDA context and libraries, weights with gradients "
        f"and optimizer, activations and temporaries, the allocator's reserve. Together they rise from "
        f"{about_gib(total[0])} to {about_gib(total[end - 1])}; {_what_fits(answer)}. A star marks "
        f"{answer.batch_size}, the recommended size."
    )


def _interactive(found: Recommendation, steps: Sequence[MeasuredSteps]) -> Interactive:
    answer = found.answer
    sizes = some_sizes(found, always=[answer.largest_fitting, answer.largest_fitting + 1])
    curve = found.setup.memory(sizes)
    total = curve.total_bytes / 2**30
    parts = parts_bytes(curve)
    fits: list[Cell] = [
        None if answer.memory_limit_bytes is None else bool(fitting) for fitting in found.setup.fits(curve.total_bytes)
    ]
    facts = (
        Fact("batch", tuple(int(size) for size in sizes)),
        Fact("memory", tuple(map(about_gib_number, curve.total_bytes)), "GiB"),
        *(Fact(part, tuple(map(about_gib_number, of_part)), "GiB") for part, of_part in parts.items()),
        Fact("fits", tuple(fits)),
    )
    series = [Series("predicted", "line", "blue", tuple(map(float, sizes)), tuple(map(float, total)), facts)]
    ends = (float(sizes[0]), float(sizes[-1]))
    if answer.memory_limit_bytes is not None:
        limit = answer.memory_limit_bytes / 2**30
        lines = {"limit": limit, f"limit less a margin of {percent(answer.margin, 1)}": limit / (1 + answer.margin)}
        for i, (label, height) in enumerate(lines.items()):
            known = (Fact("memory", (significant(height, 3),) * 2, "GiB"),)
            series.append(Series(label, "line", "ink", ends, (height, height), known, dashed=i > 0))
    series += [each for one in steps if (each := _measured(one)) is not None]
    mark = Mark(answer.batch_size, str(answer.batch_size), "the recommended size")
    return Interactive(tuple(series), "batch size per GPU", "memory (GiB)", marks=(mark,))


def _measured(steps: MeasuredSteps) -> Series | None:
    known = np.isfinite(steps.memory_bytes)
    if not known.any():
        return None
    batch, held = steps.batch[known], steps.memory_bytes[known] / 2**30
    facts = (
        Fact("batch", tuple(int(size) for size in batch)),
        Fact("memory", tuple(significant(value, 3) for value in held), "GiB"),
    )
    return Series(f"measured: {steps.recipe}", "points", "orange", tuple(map(float, batch)), tuple(map(float, held)),
                  facts, symbol="circle-open")  # fmt: skip
