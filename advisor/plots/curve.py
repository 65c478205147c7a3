"""The picture of a recommendation: throughput and memory against the batch size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.plots.canvas import BLUE, GREEN, GREY, ORANGE, VERMILION, drawing
from advisor.recommendation import Recommendation, headline
from advisor.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = {  # role -> marker, colour; the first role of a size decides
    "recommended": ("*", VERMILION),
    "knee": ("o", BLUE),
    "fastest that fits": ("^", GREEN),
    "largest that fits": (">", GREY),
    "largest power of two": ("s", ORANGE),
    "folk formula": ("D", GREY),
    "just under a cliff": ("<", BLUE),
    "current": ("P", "black"),
}


def save_curve(found: Recommendation, path: Path) -> None:
    """Draw samples/s with its error band and the memory with its limit; the suffix decides between PNG, SVG and PDF.

    Raises BadInputError where the file cannot be written or the suffix is none of these.
    """
    with drawing(path, inches=(8, 6.4)) as figure:
        speed, memory = figure.subplots(2, 1, height_ratios=(2, 1), sharex=True)
        _draw_speed(speed, found)
        _draw_memory(memory, found)
        figure.suptitle(headline(found.answer), fontsize=11)
        figure.supxlabel(f"{found.answer.recipe}\n{found.answer.gpu.profile}", fontsize=7, color=GREY)


def _draw_speed(axes: Axes, found: Recommendation) -> None:
    answer, curve = found.answer, found.curve
    batches, speed, fits = np.array(curve.batches), np.array(curve.samples_per_s), np.array(curve.fits)
    band = np.exp(answer.error.mean_abs_log)
    axes.fill_between(batches, speed / band, speed * band, color=BLUE, alpha=0.12, linewidth=0,
                      label=f"mean error of such predictions, {percent(answer.error.mean_abs_log)}")  # fmt: skip
    axes.plot(batches[fits], speed[fits], color=BLUE, linewidth=1.4, label="predicted, fits")
    if not fits.all():
        axes.plot(
            batches[~fits], speed[~fits], color=GREY, linewidth=1.2, linestyle=":", label="predicted, does not fit"
        )
    for candidate in answer.candidates:
        role = next((r.split(" (")[0] for r in candidate.roles if r.split(" (")[0] in _MARKS), None)
        if role is None:
            continue
        marker, colour = _MARKS[role]
        p = candidate.prediction
        star = role == "recommended"
        axes.plot(p.batch, p.samples_per_s, marker, color=colour, markersize=15 if star else 7, zorder=5,
                  label=f"{p.batch}: {', '.join(candidate.roles)}", markeredgecolor="white")  # fmt: skip
    axes.set_ylabel("samples per second")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_memory(axes: Axes, found: Recommendation) -> None:
    answer, curve = found.answer, found.curve
    total = np.array(curve.total_bytes) / 2**30
    axes.plot(curve.batches, total, color=BLUE, linewidth=1.4)
    if answer.memory_limit_bytes is not None:
        limit = answer.memory_limit_bytes / 2**30
        planned = limit / (1 + answer.margin)
        axes.axhline(limit, color=VERMILION, linewidth=1.2)
        axes.axhline(planned, color=VERMILION, linewidth=1, linestyle="--")
        axes.annotate(f"{limit:.1f} GiB; dashed: less a margin of {percent(answer.margin, 1)}", (1, limit),
                      xytext=(2, 3), textcoords="offset points", fontsize=8, color=VERMILION)  # fmt: skip
        axes.set_ylim(0, 1.35 * max(limit, float(total[np.array(curve.fits)].max())))
    axes.plot(
        answer.batch_size, total[answer.batch_size - 1], "*", color=VERMILION, markersize=15, markeredgecolor="white"
    )
    axes.set_ylabel("memory (GiB)")
    axes.set_xlabel("batch size per GPU")
    axes.grid(axis="y", alpha=0.3)
