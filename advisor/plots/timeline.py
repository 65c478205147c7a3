"""The picture of waves as they happened: when every CTA of a kernel ran, and on which SM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from advisor.plots.canvas import BLUE, GREEN, GREY, ORANGE, VERMILION, drawing
from advisor.timeline import Launch
from advisor.units import counted, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, GREEN, VERMILION)  # of successive waves, in turn
_MOST_APART = 48  # slots with a gap between their boxes


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


def panel_of(launch: Launch) -> TimelinePanel:
    """The panel of a recorded launch."""
    timeline, waves = launch.timeline, launch.waves
    _, sm = np.unique(timeline.sm, return_inverse=True)
    return TimelinePanel(
        title=f"M = {launch.m}, N = {launch.n}, K = {launch.k}: {counted(timeline.ctas, 'CTA')}",
        row=sm * (waves.slots // waves.sms) + waves.slot,
        wave=waves.wave,
        start_ns=timeline.start_ns,
        end_ns=timeline.end_ns,
        slots=waves.slots,
        busy_share=waves.busy_share,
    )


def save_timeline(panels: Sequence[TimelinePanel], path: Path, *, title: str, caption: str) -> None:
    """Draw the launches below one another on one time axis; the suffix decides between PNG, SVG and PDF.

    Raises BadInputError where the file cannot be written or the suffix is none of these.
    """
    with drawing(path, inches=(8, 1.2 + 2.6 * len(panels))) as figure:
        draw_timelines(figure, panels)
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(caption, fontsize=8, color=GREY)


def draw_timelines(figure: Figure, panels: Sequence[TimelinePanel], narrow: bool = False) -> None:
    """Draw the launches below one another on one time axis: a box per CTA, a row per slot, a colour per wave."""
    axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
    for each, panel in zip(axes, panels, strict=True):
        _draw(each, panel, narrow)
    axes[-1].set_xlim(0, 1.02e-3 * max(int(panel.end_ns.max()) for panel in panels))
    axes[-1].set_xlabel("time since the first CTA started (us)")


def _draw(axes: Axes, panel: TimelinePanel, narrow: bool) -> None:
    from matplotlib.collections import PolyCollection

    left, right = panel.start_ns * 1e-3, panel.end_ns * 1e-3
    half = 0.45 if panel.slots <= _MOST_APART else 0.5  # closer gaps would come and go with the raster
    low, high = panel.row - half, panel.row + half
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
                label=f"wave {wave + 1}: {counted(int(members.sum()), 'CTA')}",
            )
        )
    axes.set_ylim(-1, panel.slots)
    axes.set_ylabel("slot (SM by SM)")
    legend = panel.wave.max() < len(COLOURS)
    columns = 2 if narrow else len(COLOURS)
    rows = -(-(int(panel.wave.max()) + 1) // columns) if legend else 0
    title = f"{panel.title}, {percent(panel.busy_share)} of the slots' time in use"
    axes.set_title(title.replace(": ", ":\n", 1) if narrow else title, fontsize=9, loc="left", pad=6 + 15 * rows)
    if legend:
        axes.legend(fontsize=9, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.98), ncols=columns,
                    borderpad=0.2, handlelength=1.2, handletextpad=0.4, columnspacing=1.2)  # fmt: skip
