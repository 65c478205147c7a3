"""The picture of a comparison: samples/s of each GPU with its error, and the cost where a price was given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.comparison import GpuComparison, GpuResult, GpuRow
from advisor.plots.canvas import BLACK, BLUE, GREY, ORANGE, drawing
from advisor.units import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_INCHES = 0.42
_MOST_ROWS = 60  # more lines than a page can show


def save_comparison(found: GpuComparison, path: Path) -> None:
    """Draw a bar for each GPU in the order of the rows; the suffix decides between PNG, SVG and PDF.

    The thick whisker is the mean error of such predictions, the thin one what nine of ten stay within. Raises
    BadInputError where the file cannot be written or the suffix is none of these.
    """
    rows = found.rows[:_MOST_ROWS]
    priced = any(row.result is not None and row.result.cost_per_million is not None for row in rows)
    with drawing(path, inches=(9 if priced else 7, 1.7 + _ROW_INCHES * len(rows))) as figure:
        panels = figure.subplots(1, 2 if priced else 1, sharey=True, squeeze=False)[0]
        noun = found.model.samples
        _bars(panels[0], rows, lambda result: result.samples_per_s, BLUE, f"{noun} per second")
        if priced:
            _bars(panels[1], rows, lambda result: result.cost_per_million, ORANGE, f"cost per million {noun}")
        panels[0].set_yticks(range(len(rows)), [_label(row) for row in rows], parse_math=False)
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        figure.suptitle(f"{found.model.title}, each GPU at its recommended batch size", fontsize=11, parse_math=False)
        left_out = f"; {len(found.rows) - len(rows)} more GPUs are not drawn" if len(found.rows) > len(rows) else ""
        figure.supxlabel(
            f"predicted; thick: mean error, thin: nine of ten predictions are within{left_out}", fontsize=9, color=GREY
        )


def _label(row: GpuRow) -> str:
    return row.name if row.result is None else f"{row.name}\nbatch {row.result.batch_size}"


def _bars(
    axes: Axes, rows: Sequence[GpuRow], value: Callable[[GpuResult], float | None], colour: str, title: str
) -> None:
    ends = [0.0]
    for y, row in enumerate(rows):
        height = None if row.result is None else value(row.result)
        if row.result is None or height is None:
            text = "does not fit" if row.fits is False else "cannot be predicted"
            axes.annotate(text, (0, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, color=GREY)
            continue
        error = row.result.error
        axes.barh(y, height, height=0.62, color=colour, alpha=0.85)
        for share, width in ((error.p90_abs_log, 1.0), (error.mean_abs_log, 3.0)):
            axes.plot([height * math.exp(-share), height * math.exp(share)], [y, y], color=BLACK, linewidth=width,
                      solid_capstyle="butt")  # fmt: skip
        ends.append(height * math.exp(max(error.p90_abs_log, error.mean_abs_log)))
        axes.annotate(rate(height), (ends[-1], y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, 1.22 * max(ends) or 1.0)  # room for the number behind the longest whisker
    axes.xaxis.set_major_formatter("{x:,.0f}" if max(ends) >= 100 else "{x:g}")
    axes.set_xlabel(title)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
