"""The picture of throughput at sizes that step by one, each marked by how its rows are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from advisor.plots.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {  # alignment -> marker, size, colour
    "2 bytes": ("x", 5, VERMILION),
    "4 bytes": ("^", 5.5, ORANGE),
    "8 bytes": ("v", 5.5, PURPLE),
    "16 to 64 bytes": ("o", 4.5, SKY),
    "128 bytes": ("D", 6, GREEN),
    "any": ("*", 9, BLACK),
}


@dataclass(frozen=True)
class Marked:
    """Points of one alignment, a key of the styles ("any": of all), in TFLOP/s; predicted ones have no `source`."""

    alignment: str
    source: str
    x: NDArray[np.int64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class AlignmentPicture:
    """Predicted levels, one line per alignment, with their mean held-out error as a share; and points upon them."""

    levels: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]
    error: float
    error_label: str
    x_label: str
    marked: Sequence[Marked]


def draw_alignment(figure: Figure, shown: AlignmentPicture, narrow: bool) -> None:
    """Draw a line per alignment with its error, and the points."""
    axes = figure.subplots()
    band = 1 + shown.error
    for i, (x, y) in enumerate(shown.levels):
        axes.plot(x, y, color=BLUE, linewidth=1.2, label="predicted, by alignment" if i == 0 else None, zorder=2)
        axes.fill_between(x, y / band, y * band, color=BLUE, alpha=0.15, linewidth=0,
                          label=shown.error_label if i == 0 else None)  # fmt: skip
    sources = {each.source for each in shown.marked if each.alignment != "any"}
    known: set[str] = set()
    for each in shown.marked:
        marker, size, colour = _STYLES[each.alignment]
        what = f"measured: {each.source}" if each.source else "predicted"
        parts = (what,) if each.alignment == "any" else (each.alignment, what)[: min(len(sources), 2)]
        label = ", ".join(parts)
        axes.plot(each.x, each.y, marker, color=colour, markersize=size * (0.75 if narrow else 1),
                  label=None if label in known else label, zorder=4 if each.source else 3)  # fmt: skip
        known.add(label)
    first, last = min(int(x[0]) for x, _ in shown.levels), max(int(x[-1]) for x, _ in shown.levels)
    axes.set_xlabel(shown.x_label)
    axes.set_ylabel("TFLOP/s")
    axes.set_ylim(0, 1.06 * max(float((y * band).max()) for _, y in shown.levels))
    axes.set_xlim(first - 2, last + 2)
    step = 64 if narrow else 16
    axes.set_xticks(np.arange(-(-first // step) * step, last + 1, step))
    axes.grid(axis="y", color=GREY, alpha=0.2)
    title = "marks: rows aligned to so many bytes"
    if len(sources) == 1:
        source = next(iter(sources))
        title += (",\n" if narrow else ", ") + (f"measured: {source}" if source else "predicted")
    figure.legend(
        loc="outside lower center", ncols=1 if narrow else 2, frameon=False, fontsize=9, handletextpad=0.5,
        columnspacing=1.2, title=title, title_fontsize=9,
    )  # fmt: skip
