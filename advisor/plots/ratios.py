"""Pictures of ratios of times: how they are spread in each group, and against the size of the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.plots.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VERMILION, "D"), (PURPLE, "v"), (SKY, "P"))  # in turn
_RASTER_FROM = 600  # points, from which they are an image inside of the SVG
_EVEN: Any = {"color": BLACK, "linewidth": 1, "linestyle": (0, (5, 3)), "zorder": 1}
_GOLDEN = 0.6180339887498949  # (sqrt(5) - 1) / 2: multiples of it, less their whole part, fill [0, 1) evenly


@dataclass(frozen=True)
class RatioGroup:
    """The ratios of one group; `flops` beside each, NaN where it is not known. The first `points` are drawn as such."""

    name: str
    look: int  # of LOOKS, the same for groups that belong together
    ratio: Floats
    flops: Floats
    points: int

    @property
    def mean(self) -> float:
        """Geometric."""
        return math.exp(float(np.log(self.ratio).mean()))


def draw_groups(figure: Figure, groups: Sequence[RatioGroup], narrow: bool, *, x_label: str) -> None:
    """A row per group: every ratio as a point, the middle half as a box, the geometric mean as a labelled diamond."""
    axes = figure.subplots()
    for row, group in enumerate(groups):
        colour, marker = LOOKS[group.look % len(LOOKS)]
        low, high = np.quantile(group.ratio, (0.25, 0.75))
        scattered = 0.62 * ((np.arange(group.points) * _GOLDEN) % 1 - 0.5)
        axes.plot(group.ratio[: group.points], row + scattered, marker, color=colour, markersize=3.2 if narrow else 4,
                  alpha=0.7, markeredgewidth=0, rasterized=group.points > _RASTER_FROM)  # fmt: skip
        axes.fill_between((low, high), row - 0.36, row + 0.36, facecolor="none", edgecolor=BLACK, linewidth=1)
        axes.plot(group.mean, row, "D", color=BLACK, markersize=5.5, zorder=4)
        axes.annotate(f"{group.mean:.2f}", (1.015, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    names = [group.name.replace(", ", "\n", 1) if narrow else group.name for group in groups]
    axes.set_yticks(range(len(groups)), [f"{name} ({len(g.ratio)})" for name, g in zip(names, groups, strict=True)])
    axes.tick_params(axis="y", length=0, labelsize=8.5 if narrow else 9.5)
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    _ratio_axis(axes, [group.ratio for group in groups], "x", narrow)
    axes.set_xlabel(x_label.replace(": ", ":\n", 1) if narrow else x_label)
    axes.annotate("mean", (1.015, 1.005), xycoords="axes fraction", va="bottom", fontsize=9, color=GREY)


def draw_sizes(figure: Figure, groups: Sequence[RatioGroup], narrow: bool, *, y_label: str) -> None:
    """Each ratio over the FLOP of its case, and a line through the geometric means of each power of four."""
    axes = figure.subplots()
    for group in groups:
        colour, marker = LOOKS[group.look % len(LOOKS)]
        drawn = slice(group.points)
        axes.plot(group.flops[drawn] / 1e9, group.ratio[drawn], marker, color=colour, markersize=4, alpha=0.75,
                  markeredgewidth=0, label=group.name, rasterized=group.points > _RASTER_FROM)  # fmt: skip
    flops, ratio = (np.concatenate([getattr(group, name) for group in groups]) for name in ("flops", "ratio"))
    middle, mean = means_by_size(flops, ratio)
    axes.plot(middle / 1e9, mean, "-", color=BLACK, linewidth=1.8, marker="D", markersize=4.5, label="geometric mean")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value:.0e}")
    axes.set_xlabel("work of the case, GFLOP")
    _ratio_axis(axes, [ratio], "y", narrow)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=GREY, alpha=0.15)
    legend = figure.legend(
        loc="outside lower center",
        ncols=1 if narrow else 3,
        frameon=False,
        fontsize=9,
        handletextpad=0.3,
        columnspacing=1,
    )
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)


def means_by_size(flops: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """FLOP and geometric mean of the ratios in each power of four of FLOP that has any, in the order of size."""
    known = np.isfinite(flops) & (flops > 0)
    flops, log_ratio = flops[known], np.log(ratio[known])
    power = np.floor(np.log2(flops) / 2).astype(int)
    powers = np.unique(power)
    middle = [math.exp(float(np.log(flops[power == each]).mean())) for each in powers]
    return np.array(middle), np.array([math.exp(float(log_ratio[power == each].mean())) for each in powers])


def _ratio_axis(axes: Axes, ratios: Sequence[Floats], name: str, narrow: bool) -> None:
    """A logarithmic axis on which twice and half as fast are as far from the line at 1, which is drawn."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(float(ratio.min()) for ratio in ratios), max(float(ratio.max()) for ratio in ratios)
    low, high = min(low, 1 / 1.1) / 1.06, max(high, 1.1) * 1.06
    steps = (
        [1, 2, 5] if high / low > 8 else [1, 1.5, 2, 3, 5, 7] if high / low > 2.5 else [1, 1.1, 1.2, 1.3, 1.5, 1.7, 2]
    )
    if high / low > 200:
        steps = [1]
    ticks = {step * 10.0**power for step in steps for power in range(-8, 9)} | {1 / step for step in steps}
    shown = sorted(tick for tick in ticks if low <= tick <= high)
    if name == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.axvline(1, **_EVEN)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.axhline(1, **_EVEN)
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(_spread(shown, math.log(high / low), 5 if narrow and name == "x" else 9)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.2g}" if value < 100 else f"{value:.0f}")


def _spread(ticks: Sequence[float], length: float, most: int) -> list[float]:
    """1, and the ticks that stand a share of the axis's length apart from it and one another."""
    kept = [1.0]
    for tick in sorted(ticks, key=lambda tick: abs(math.log(tick))):
        if all(abs(math.log(tick / other)) > length / most for other in kept):
            kept.append(tick)
    return sorted(kept)
