"""The picture of throughput against one dimension of a matrix product: the predicted teeth and measured points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from advisor.plots.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from advisor.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_STYLES = {  # library -> marker and colour of its first source, its second, ...
    "cublas": (("o", VERMILION), ("s", PURPLE), ("p", VERMILION), ("h", PURPLE)),
    "triton": (("^", GREEN), ("v", GREEN), (">", GREEN), ("<", GREEN)),
}
_OTHER = (("X", SKY), ("P", SKY))
_CLASSES = {"multiple of 64": ("s", 6), "multiple of 8": ("o", 5), "other": (".", 4)}  # -> marker, size


@dataclass(frozen=True)
class Measurements:
    """Measured points of one source, in TFLOP/s; `low` and `high` are NaN where one figure is known."""

    name: str
    library: str
    filled: bool
    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class SweepPicture:
    """What the picture shows, in TFLOP/s over sizes."""

    x: NDArray[np.int64]
    y: Floats
    error: float  # mean held-out error, as a share: the band
    error_label: str
    x_label: str
    cliffs: Sequence[tuple[int, float]]  # last size before, share lost: labelled, so they stand apart
    classes: Sequence[str]  # of each x, as in _CLASSES
    points: Sequence[Measurements]
    enlarged: tuple[int, int] | None  # sizes shown one by one below


def draw_sweep(figure: Figure, shown: SweepPicture, narrow: bool) -> None:
    """Draw the whole range, and below it an enlarged part where one is given."""
    if shown.enlarged is None:
        whole = figure.subplots()
    else:
        whole, part = figure.subplots(2, 1, height_ratios=(1.25, 1))
        _draw_part(part, shown, shown.enlarged, narrow)
    _draw_whole(whole, shown, narrow)
    handles, labels = whole.get_legend_handles_labels()
    if shown.enlarged is not None:
        more = part.get_legend_handles_labels()
        known = set(labels)
        new = [i for i, label in enumerate(more[1]) if label not in known]
        handles, labels = handles + [more[0][i] for i in new], labels + [more[1][i] for i in new]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=1 if narrow else 2, frameon=False, fontsize=9,
        handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip


def _draw_whole(axes: Axes, shown: SweepPicture, narrow: bool) -> None:
    everywhere = np.ones(len(shown.x), dtype=bool)
    _draw_line(axes, shown, everywhere)
    _draw_points(axes, shown, (float(shown.x[0]), float(shown.x[-1])))
    _draw_powers(axes, shown, everywhere)
    rug = shown.x[shown.x % 64 == 0]
    # one path, which is a tenth of the characters of as many marks; the mark is the legend's alone
    ticks = np.column_stack([np.zeros(len(rug)), np.full(len(rug), 0.04), np.full(len(rug), np.nan)])
    axes.plot(np.repeat(rug, 3), ticks.ravel(), color=GREY, linewidth=0.7, transform=axes.get_xaxis_transform())
    axes.plot([], [], "|", color=GREY, markersize=7, markeredgewidth=0.7, label="multiples of 64, along the axis")
    _label_cliffs(axes, shown)
    axes.set_xlabel(shown.x_label)
    axes.set_ylabel("TFLOP/s")
    axes.set_ylim(0, None)
    axes.set_xlim(shown.x[0] - 0.01 * (shown.x[-1] - shown.x[0]), shown.x[-1] * 1.005)
    axes.locator_params(axis="x", nbins=5 if narrow else 9)
    axes.grid(axis="y", color=GREY, alpha=0.2)


def _draw_line(axes: Axes, shown: SweepPicture, at: Bools) -> None:
    band = 1 + shown.error
    axes.plot(shown.x[at], shown.y[at], color=BLUE, linewidth=1.2, label="predicted", zorder=3)
    axes.fill_between(shown.x[at], shown.y[at] / band, shown.y[at] * band, color=BLUE, alpha=0.15, linewidth=0,
                      label=shown.error_label)  # fmt: skip


def _draw_powers(axes: Axes, shown: SweepPicture, at: Bools) -> None:
    powers = at & (np.array(shown.classes) == "power of two")
    axes.plot(shown.x[powers], shown.y[powers], "D", color=ORANGE, markersize=8, markerfacecolor="none",
              markeredgewidth=1.8, label="powers of two, on the line", zorder=5)  # fmt: skip


def _draw_points(axes: Axes, shown: SweepPicture, ends: tuple[float, float]) -> None:
    used: Counter[str] = Counter()
    for each in shown.points:
        styles = _STYLES.get(each.library, _OTHER)
        marker, colour = styles[used[each.library] % len(styles)]
        used[each.library] += 1
        at = (each.x >= ends[0]) & (each.x <= ends[1])
        if not at.any():
            continue
        axes.plot(each.x[at], each.y[at], marker, color=colour, markerfacecolor=colour if each.filled else "white",
                  markersize=4.5, label=f"measured: {each.name}", zorder=6)  # fmt: skip
        axes.vlines(each.x[at], each.low[at], each.high[at], color=colour, linewidth=1.2, zorder=6)


def _label_cliffs(axes: Axes, shown: SweepPicture) -> None:
    """A dotted line at each cliff given, with the last size before it and the loss."""
    for i, (size, loss) in enumerate(shown.cliffs):
        axes.axvline(size, color=GREY, linewidth=0.8, linestyle=":", zorder=1,
                     label="cliff: last size before it, loss" if i == 0 else None)  # fmt: skip
        axes.annotate(f"{size}\n{percent(-loss)}", (size, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                      textcoords="offset points", ha="center", va="bottom", fontsize=9, color=GREY)  # fmt: skip


def _draw_part(axes: Axes, shown: SweepPicture, ends: tuple[int, int], narrow: bool) -> None:
    inside = (shown.x >= ends[0]) & (shown.x <= ends[1])
    _draw_line(axes, shown, inside)
    _draw_powers(axes, shown, inside)
    classes = np.array(shown.classes)
    for name, (marker, size) in _CLASSES.items():
        at = inside & (classes == name)
        if at.any():
            plural = "any other size" if name == "other" else name.replace("multiple", "multiples")
            axes.plot(shown.x[at], shown.y[at], marker, color=GREY, markersize=size, zorder=4,
                      markerfacecolor="white" if name != "other" else GREY, label=f"{plural}, on the line")  # fmt: skip
    _draw_points(axes, shown, ends)
    axes.set_xlabel(f"enlarged: {shown.x_label.split(' (')[0]} from {ends[0]} to {ends[1]}")
    axes.set_ylabel("TFLOP/s")
    axes.set_ylim(0, None)
    axes.locator_params(axis="x", nbins=5 if narrow else 9, integer=True)
    axes.grid(axis="y", color=GREY, alpha=0.2)
