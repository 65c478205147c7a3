"""The picture of waves as they happened: when every CTA of a kernel ran, and on which SM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from advisor.plots.canvas import BLUE, GREEN, GREY, ORANGE, VERMILION, drawing
from advisor.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, GREEN, VERMILION)  # of successive waves, in turn


@dataclass(frozen=True)
class TimelinePanel:
    """One launch: per CTA its row (a slot of an SM, from 0), wave (from 0), and start and end in ns."""

    title: str
    row: NDArray[np.int64]
    wave: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    slots: int  # rows of the whole GPU, those without a CTA too
    busy_share: float  # CTA-time over slots x span


def save_timeline(panels: Sequence[TimelinePanel], path: Path, *, title: str, caption: str) -> None:
    """Draw the launches below one another on one time axis; the suffix decides between PNG, SVG and PDF.

    Raises BadInputError where the file cannot be written or the suffix is none of these.
    """
    with drawing(path, inches=(8, 1.2 + 2.6 * len(panels))) as figure:
        for axes, panel in zip(np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True):
            _draw(axes, panel)
        figure.axes[-1].set_xlabel("time since the first CTA started (us)")
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(caption, fontsize=7, color=GREY)


def _draw(axes: Axes, panel: TimelinePanel) -> None:
    from matplotlib.collections import PolyCollection

    left, right = panel.start_ns * 1e-3, panel.end_ns * 1e-3
    low, high = panel.row - 0.45, panel.row + 0.45
    boxes = np.stack([np.stack([left, low], 1), np.stack([right, low], 1), np.stack([right, high], 1),
                      np.stack([left, high], 1)], axis=1)  # fmt: skip
    for wave in range(int(panel.wave.max()) + 1):
        members = panel.wave == wave
        axes.add_collection(
            PolyCollection(
                list(boxes[members]),
                facecolor=COLOURS[wave % len(COLOURS)],
                linewidth=0,
                rasterized=True,
                label=f"wave {wave + 1}: {members.sum()} CTAs".removesuffix("s" if members.sum() == 1 else ""),
            )
        )
    axes.set_xlim(0, float(right.max()) * 1.02)
    axes.set_ylim(-1, panel.slots)
    axes.set_ylabel("slot (SM by SM)")
    axes.set_title(f"{panel.title}, {percent(panel.busy_share)} of the slots' time in use", fontsize=9, loc="left")
    if panel.wave.max() < len(COLOURS):
        axes.legend(fontsize=7, frameon=True, framealpha=0.9, loc="upper right")
