"""The picture of a recommendation: throughput, the sizes people would choose, and memory, against the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.plots.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, drawing
from advisor.recommendation import Recommendation, headline
from advisor.rules_of_thumb import Choice, choices, last_shown, sizes_shown
from advisor.units import about_gib, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from advisor.report.subject import MeasuredSteps

# how a choice is drawn: matplotlib's marker and colour, by its short name
MARKS = {
    "recommended": ("*", VERMILION),
    "knee": ("o", BLUE),
    "fastest": ("^", GREEN),
    "today": ("P", BLACK),
    "largest": (">", GREY),
    "power of two": ("s", ORANGE),
    "multiple of 64": ("d", PURPLE),
    "folk formula": ("X", SKY),
    "usual": ("|", BLACK),
}
_SMALL = 8  # points; for the names of the choices, which are many
INCHES = (7.4, 6.2)
NARROW_INCHES = (3.9, 6.8)


@dataclass(frozen=True)
class Lane:
    """One row of the strip of choices: a name, its mark, and the sizes that it stands for."""

    name: str
    short: str
    marker: str
    colour: str
    batches: tuple[int, ...]
    relative: tuple[float, ...]
    fits: tuple[bool, ...]


def lanes(shown: Sequence[Choice]) -> tuple[Lane, ...]:
    """A lane for each way to choose, the usual sizes in one; choices without a mark of their own have none."""
    found: dict[str, list[Choice]] = {}
    for choice in shown:
        if choice.short in MARKS:
            found.setdefault(choice.short, []).append(choice)
    return tuple(
        Lane(group[0].name, short, *MARKS[short], tuple(c.batch for c in group), tuple(c.relative for c in group),
             tuple(c.fits for c in group))
        for short, group in found.items()
    )  # fmt: skip


def save_curve(found: Recommendation, path: Path) -> None:
    """Draw the curve with a heading and where it comes from; the suffix decides between PNG, SVG and PDF.

    Raises BadInputError where the file cannot be written or the suffix is none of these.
    """
    with drawing(path, inches=(8, 7.4)) as figure:
        picture, foot = figure.subfigures(2, 1, height_ratios=(1, 0.06), squeeze=False)[:, 0]
        draw_curve(picture, found)
        picture.suptitle(headline(found.answer), fontsize=11, parse_math=False)
        foot.text(0.5, 0.5, f"{found.answer.recipe}\n{found.answer.gpu.profile}", ha="center", va="center",
                  fontsize=_SMALL, color=GREY, parse_math=False)  # fmt: skip


def draw_curve(
    figure: Figure | SubFigure, found: Recommendation, *, measured: Sequence[MeasuredSteps] = (), narrow: bool = False
) -> None:
    """Fill a figure: samples/s with its error band, the choices below it, memory with its limit at the foot.

    `measured` are steps of this model, drawn as points in both. `narrow` is the form for phones.
    """
    speed, strip, memory = figure.subplots(3, 1, sharex=True, height_ratios=(2.1, 1.7, 1.2))
    rows = lanes([c for c in choices(found.answer) if c.batch <= last_shown(found.answer)])
    _draw_speed(speed, found, rows)
    _draw_strip(strip, found, rows, narrow=narrow)
    _draw_memory(memory, found)
    for steps in measured:
        _draw_measured(speed, memory, steps, last_shown(found.answer))
    recommended = found.answer.batch_size
    for axes in (speed, strip, memory):
        axes.axvline(recommended, color=VERMILION, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    last = last_shown(found.answer)
    memory.set_xlim(min(1.0, recommended - 0.03 * last), 1.03 * last)
    memory.set_xlabel("batch size per GPU")
    memory.locator_params(axis="x", integer=True, min_n_ticks=1)
    figure.align_ylabels((speed, memory))
    figure.legend(loc="outside lower center", ncols=1 if narrow else 2, frameon=False, fontsize=9)


def _draw_speed(axes: Axes, found: Recommendation, rows: Sequence[Lane]) -> None:
    answer, curve = found.answer, found.curve
    batches = np.array(sizes_shown(answer))
    speed, fits = (np.array(values)[batches - 1] for values in (curve.samples_per_s, curve.fits))
    band = np.exp(answer.error.mean_abs_log)
    axes.fill_between(batches, speed / band, speed * band, color=BLUE, alpha=0.15, linewidth=0,
                      label=f"mean error of such predictions, {percent(answer.error.mean_abs_log)}")  # fmt: skip
    beyond = ~fits
    beyond[:-1] |= beyond[1:]  # joined to the last size that fits
    for inside, colour, style, label in (
        (fits, BLUE, "-", "predicted, fits"),
        (beyond & ~fits.all(), GREY, ":", "predicted, does not fit"),
    ):
        if inside.any():
            dot = "." if inside.sum() == 1 else ""
            axes.plot(batches, np.where(inside, speed, np.nan), color=colour, linestyle=style, marker=dot,
                      linewidth=1.5, label=label)  # fmt: skip
    for row in reversed(rows):  # what is recommended comes to lie above all others
        heights = [curve.samples_per_s[batch - 1] for batch in row.batches]
        axes.plot(row.batches, heights, **_mark(row, on_curve=True))
    axes.set_ylabel(f"{answer.model.samples} per second")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}" if speed.max() >= 100 else "{x:g}")
    axes.grid(axis="y", alpha=0.3)


def _mark(row: Lane, *, on_curve: bool) -> dict[str, Any]:
    star = row.marker == "*"
    size = 14 if star else 9 if row.marker == "|" else 7
    edge = {} if row.marker == "|" else {"markeredgecolor": "white", "markeredgewidth": 0.7}
    return {"marker": row.marker, "color": row.colour, "linestyle": "", "markersize": size,
            "zorder": (6 if star else 5) if on_curve else 4, **edge}  # fmt: skip


def _draw_strip(axes: Axes, found: Recommendation, rows: Sequence[Lane], *, narrow: bool) -> None:
    """Names and sizes at the left, shares of the fastest at the right: every choice has a line of its own."""
    for y, row in enumerate(rows):
        axes.axhline(y, color=GREY, linewidth=0.4, alpha=0.4, zorder=0)
        axes.plot(row.batches, [y] * len(row.batches), **_mark(row, on_curve=False))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    places = range(len(rows))
    axes.set_yticks(places, [_label(row, narrow=narrow) for row in rows], fontsize=_SMALL)
    axes.tick_params(axis="both", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    right = axes.secondary_yaxis("right")
    right.set_yticks(places, [_share(row) for row in rows], fontsize=_SMALL)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    axes.set_title("of fastest", loc="right", fontsize=_SMALL, color=GREY, pad=1)


def _label(row: Lane, *, narrow: bool) -> str:
    sizes = f"{row.batches[0]}" if len(row.batches) == 1 else f"{row.batches[0]} to {row.batches[-1]}"
    return f"{row.short if narrow else row.name} {sizes}"


def _share(row: Lane) -> str:
    fitting = [share for share, fits in zip(row.relative, row.fits, strict=True) if fits]
    if not fitting:
        return "does not fit"
    low, high = (f"{100 * share:.0f}" for share in (min(fitting), max(fitting)))
    return f"{low} %" if low == high else f"{low}-{high} %"


def _draw_memory(axes: Axes, found: Recommendation) -> None:
    answer, end = found.answer, last_shown(found.answer)
    total = np.array(found.curve.total_bytes[:end]) / 2**30
    axes.plot(found.curve.batches[:end], total, color=BLUE, linewidth=1.5, marker="o" if end == 1 else "")
    top = float(total.max())
    if answer.memory_limit_bytes is not None:
        limit = answer.memory_limit_bytes / 2**30
        axes.axhline(limit, color=BLACK, linewidth=1.2, label=f"memory limit, {about_gib(answer.memory_limit_bytes)}")
        if answer.margin:
            axes.axhline(limit / (1 + answer.margin), color=BLACK, linewidth=1, linestyle="--",
                         label=f"limit less a margin of {percent(answer.margin, 1)}")  # fmt: skip
        top = limit
    else:
        axes.set_title("memory limit unknown: nothing was held against it", loc="left", fontsize=_SMALL, color=GREY)
    axes.set_ylim(0, 1.2 * top)
    axes.plot(answer.batch_size, total[answer.batch_size - 1], "*", color=VERMILION, markersize=14,
              markeredgecolor="white", markeredgewidth=0.7, zorder=5)  # fmt: skip
    axes.set_ylabel("memory (GiB)")
    axes.grid(axis="y", alpha=0.3)


def _draw_measured(speed: Axes, memory: Axes, steps: MeasuredSteps, last: int) -> None:
    look: dict[str, Any] = {
        "marker": "o",
        "linestyle": "",
        "markersize": 5,
        "color": BLACK,
        "markerfacecolor": "white",
        "zorder": 7,
    }
    known = np.isfinite(steps.time_s) & (steps.batch <= last)
    if not known.any():
        return
    speed.plot(steps.batch[known], (steps.batch / steps.time_s)[known], **look, label=f"measured: {steps.recipe}")
    held = np.isfinite(steps.memory_bytes) & (steps.batch <= last)
    memory.plot(steps.batch[held], steps.memory_bytes[held] / 2**30, **look)
