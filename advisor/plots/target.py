"""The picture of a target: time to target and throughput against the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.choice import TOLERANCE
from advisor.errors import BadInputError
from advisor.planning.records import PlanAnswer, Target
from advisor.plots.canvas import BLACK, BLUE, GREEN, GREY, VERMILION, drawing
from advisor.units import counted, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (8.0, 6.8)
_SMALL = 8  # points
_EDGE = 1.05  # room for a mark at either end
_MOST = 2.5  # times the best: what is slower than this and than every mark is cut off


def save_target(answer: PlanAnswer, path: Path) -> None:
    """Draw time to target above throughput, with the best, what is near it and the asked batch marked.

    The suffix decides between PNG, SVG and PDF. Raises BadInputError where no critical batch is known, the file cannot
    be written or the suffix is none of these.
    """
    target = answer.target
    if target is None:
        raise BadInputError(
            f"no critical batch is known for {answer.model.title}, so there is no time to target to draw: "
            "give --critical-batch"
        )
    with drawing(path, inches=INCHES) as figure:
        draw_target(figure, answer, target)


def draw_target(figure: Figure, answer: PlanAnswer, target: Target) -> None:
    """Fill an empty figure of INCHES with what `save_target` writes."""
    batches = np.array(target.curve.global_batch)
    picture, foot = figure.subfigures(2, 1, height_ratios=(1, 0.06), squeeze=False)[:, 0]
    time, speed = picture.subplots(2, 1, sharex=True, height_ratios=(2, 1.2))
    _draw_time(time, target, batches)
    _draw_speed(speed, target, batches, answer.model.samples)
    _mark(time, speed, target)
    speed.set_xscale("log", base=2)
    speed.xaxis.set_major_formatter("{x:,.0f}")
    speed.set_xlim(batches[0] / _EDGE, batches[-1] * _EDGE)
    speed.set_xlabel(f"global batch ({answer.model.samples} per optimizer step)")
    picture.align_ylabels((time, speed))
    picture.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    picture.suptitle(
        f"Which global batch reaches the target soonest?\n{answer.model.title} on {answer.gpus} x {answer.gpu.name}",
        fontsize=11, parse_math=False,
    )  # fmt: skip
    cheap = target.cheapest
    cost = f"; least cost: {cheap[0]:,} on {counted(cheap[1], 'GPU')}" if cheap else ""
    foot.text(0.5, 0.5, f"critical batch of {target.critical.title}; times of steps are predicted{cost}\n"
              f"{answer.recipe}", ha="center", va="center", fontsize=_SMALL, color=GREY, parse_math=False)  # fmt: skip


def _ends(target: Target) -> tuple[tuple[int, float, str], ...]:
    """Index of a pair, critical batch and colour of each end of the range; one where both are the same."""
    low, high = target.critical.low, target.critical.high
    return ((0, low, BLUE),) if low == high else ((0, low, BLUE), (1, high, GREEN))


def _draw_time(axes: Axes, target: Target, batches: Any) -> None:
    relative = np.array(target.curve.relative_time)
    if target.critical.low != target.critical.high:
        axes.fill_between(batches, relative.min(axis=1), relative.max(axis=1), color=BLUE, alpha=0.12, linewidth=0)
    marked = (*target.asked_loses, *target.most_throughput_loses)
    top = min(1.03 * relative.max(), max(_MOST, 1.1 * (1 + max(marked))))
    for row, (end, critical, colour) in enumerate(_ends(target)):
        name = f"critical batch {critical:,.0f} {target.critical.unit}"
        axes.plot(batches, relative[:, end], color=colour, linewidth=1.5, linestyle="--" if row else "-", label=name)
        y = 1 - (0.05 + 0.04 * row) * (top - 1)
        axes.plot(target.near_best[end], [y, y], color=colour, linewidth=4, solid_capstyle="butt",
                  label=f"range of batches within {percent(TOLERANCE)} of its best")  # fmt: skip
    axes.axhline(1, color=GREY, linewidth=0.6)
    axes.set_ylim(1 - 0.15 * (top - 1), top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 1 <= tick <= top])
    axes.set_ylabel("time to target\n(1: the least)")
    axes.grid(axis="y", alpha=0.3)


def _draw_speed(axes: Axes, target: Target, batches: Any, samples: str) -> None:
    speed = np.array(target.curve.samples_per_s)
    axes.plot(batches, speed, color=BLACK, linewidth=1.5)
    axes.set_ylim(0, 1.15 * speed.max())
    axes.set_ylabel(f"{samples} per second\non all GPUs")
    axes.yaxis.set_major_formatter("{x:,.0f}" if speed.max() >= 100 else "{x:g}")
    axes.grid(axis="y", alpha=0.3)


def _mark(time: Axes, speed: Axes, target: Target) -> None:
    """Each batch worth a name, where it shows, with a line through both panels; the legend names it."""
    asked = next(point.global_batch for point in target.points if "asked" in point.roles)
    for (end, _, colour), batch in zip(_ends(target), target.best, strict=False):
        _put(time, batch, [_relative(target, batch)[end]], "*", colour, f"its best, {batch:,}")
    fast = target.most_throughput
    _put(speed, fast, [_speed(target, fast)], "^", VERMILION, f"recommended for throughput, {fast:,}")
    _put(time, asked, _relative(target, asked), "P", BLACK, f"asked, {asked:,}")
    _put(speed, asked, [_speed(target, asked)], "P", BLACK, "")
    for batch, colour in ((target.best[0], BLUE), (target.best[1], _ends(target)[-1][2]), (fast, VERMILION),
                          (asked, BLACK)):  # fmt: skip
        for axes in (time, speed):
            axes.axvline(batch, color=colour, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)


def _put(axes: Axes, batch: int, heights: Sequence[float], marker: str, colour: str, name: str) -> None:
    axes.plot([batch] * len(heights), heights, marker=marker, color=colour, linestyle="", zorder=5, label=name or None,
              markersize=13 if marker == "*" else 9, markeredgecolor="white", markeredgewidth=0.7)  # fmt: skip


def _relative(target: Target, batch: int) -> tuple[float, float]:
    return target.curve.relative_time[target.curve.global_batch.index(batch)]


def _speed(target: Target, batch: int) -> float:
    return target.curve.samples_per_s[target.curve.global_batch.index(batch)]
