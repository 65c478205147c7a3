"""Pictures of predicted against measured: densities of held-out rows, single rows, errors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.plots.canvas import BLACK, BLUE, GREY, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from advisor.profile import Error
    from advisor.report.held_out import Density

Floats = NDArray[np.float64]
BANDS = (0.1, 0.2)
MOST_LINES = 300  # points of a picture above which dots are smaller than lines
RATIO_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.7, 2.0)
RATIO_TICKS_NARROW = (0.5, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0)
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")
_COLOURS = (BLUE, ORANGE, PURPLE, VERMILION, SKY, GREY, BLACK)


@dataclass(frozen=True)
class Rows:
    """Measured and predicted rates (FLOP/s) of one group of rows, such as one library's with cold caches."""

    name: str
    measured: Floats
    predicted: Floats


def draw_density(axes: Axes, density: Density, *, narrow: bool = False, bar: bool = True) -> None:
    """Predicted against measured TFLOP/s, both axes logarithmic: the darker yellow a cell, the more rows it has."""
    measured, ratio = np.meshgrid(density.edges() / 1e12, density.ratio_edges(), indexing="ij")
    mesh = _mesh(axes, measured, measured / ratio, density.counts())
    low, high = density.low / 1e12, density.high / 1e12
    _diagonal(axes, low, high)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low / 1.3, high * 1.3)
    axes.set_xlabel("measured (TFLOP/s)")
    axes.set_ylabel("predicted (TFLOP/s)")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_ticks(axis, (4 if narrow else 8) if bar else 3)
    if bar:
        axes.legend(loc="upper left", fontsize=9, frameon=False)
        _colour_bar(axes, mesh, narrow=narrow)


def draw_densities(figure: Figure, densities: Mapping[str, Density], *, narrow: bool = False) -> None:
    """A small density per name, each with its own axes: three beside each other, two in the form for phones."""
    across = 2 if narrow else 3
    grid = figure.subplots(-(-len(densities) // across), across, squeeze=False)
    for axes, (name, density) in zip(grid.flat, densities.items(), strict=False):
        draw_density(axes, density, narrow=True, bar=False)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("")
        axes.set_ylabel("")
        axes.tick_params(labelsize=9)
    for axes in grid.flat[len(densities) :]:
        axes.set_visible(False)
    figure.supxlabel("measured (TFLOP/s)", fontsize=10)
    figure.supylabel("predicted (TFLOP/s)", fontsize=10)


def draw_ratios(axes: Axes, density: Density, *, narrow: bool = False) -> None:
    """Predicted over measured time against the measured time, both axes logarithmic."""
    x, y = np.meshgrid(density.edges() * 1e6, density.ratio_edges(), indexing="ij")
    mesh = _mesh(axes, x, y, density.counts())
    axes.axhline(1, color=VERMILION, linewidth=1.1)
    for band, style in zip(BANDS, ("--", ":"), strict=True):
        for at in (1 - band, 1 + band):
            axes.axhline(at, color=VERMILION, linewidth=0.9, linestyle=style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(density.low * 1e6, density.high * 1e6)
    axes.xaxis.set_minor_formatter(_no_words())
    axes.set_ylim(1 / density.most_off, density.most_off)
    axes.yaxis.set_major_locator(_fixed(RATIO_TICKS_NARROW if narrow else RATIO_TICKS))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(_none())
    axes.xaxis.set_major_formatter(lambda value, _: _in_words(value))
    axes.set_xlabel("measured time")
    axes.set_ylabel("predicted / measured time")
    _colour_bar(axes, mesh, narrow=narrow)


def draw_rows(axes: Axes, groups: Sequence[Rows], *, narrow: bool = False) -> None:
    """Predicted against measured TFLOP/s of single rows, a marker and a colour per group."""
    both = np.concatenate([each for group in groups for each in (group.measured, group.predicted)]) / 1e12
    low, high = float(both.min()) / 1.15, float(both.max()) * 1.15
    _diagonal(axes, low, high)
    for i, group in enumerate(groups):
        axes.plot(group.measured / 1e12, group.predicted / 1e12, _MARKERS[i % len(_MARKERS)],
                  color=_COLOURS[i % len(_COLOURS)], markersize=4, markeredgecolor="white", markeredgewidth=0.3,
                  alpha=0.8, label=group.name, rasterized=len(both) > 2 * MOST_LINES)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("measured (TFLOP/s)")
    axes.set_ylabel("predicted (TFLOP/s)")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_ticks(axis, 4 if narrow else 8)
    if narrow:
        axes.figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    else:
        axes.legend(loc="upper left", fontsize=9, frameon=False)


def draw_errors(axes: Axes, errors: Mapping[str, Mapping[str, Error]], *, narrow: bool = False) -> None:
    """Mean errors (per cent) of several models side by side, a row of dots per GPU; `errors` by GPU, then by model."""
    names = list(errors)
    models = list(dict.fromkeys(model for found in errors.values() for model in found))
    for i, model in enumerate(models):
        at = [row for row, name in enumerate(names) if model in errors[name]]
        values = [100 * errors[names[row]][model].mean for row in at]
        axes.plot(values, at, _MARKERS[i], color=_COLOURS[i], markersize=10 if i == 0 else 7,
                  markeredgecolor="white", label=model, zorder=4 if i == 0 else 3)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean error (%)" if narrow else "mean error of products not in the fit (%)")
    axes.grid(axis="both", alpha=0.3)
    axes.figure.legend(loc="outside lower center", fontsize=9, frameon=False, ncols=1 if narrow else len(models))


def plain_log_ticks(axis: Any, most: int) -> None:
    """Round ticks of a logarithmic axis as plain numbers, as many as there are up to `most`."""
    low, high = axis.get_view_interval()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = np.multiply.outer(powers, steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        closest = np.diff(np.log10(ticks)).min() if len(ticks) > 1 else np.inf
        if len(ticks) <= most and closest >= np.log10(high / low) / (2 * most):
            break
    axis.set_major_locator(_fixed(ticks.tolist()))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(_none())


def _mesh(axes: Axes, x: Floats, y: Floats, counts: NDArray[np.int64]) -> Any:
    from matplotlib.colors import LogNorm

    filled = np.ma.masked_equal(counts, 0)
    norm = LogNorm(vmin=1, vmax=max(2, int(counts.max())))
    return axes.pcolormesh(x, y, filled, norm=norm, cmap="cividis", rasterized=True, linewidth=0)


def _diagonal(axes: Axes, low: float, high: float) -> None:
    span = np.array([low / 4, high * 4])
    axes.plot(span, span, color=VERMILION, linewidth=1.1, label="equal")
    for band, style in zip(BANDS, ("--", ":"), strict=True):
        for factor, label in ((1 + band, f"{100 * band:.0f} % off"), (1 - band, None)):
            axes.plot(span, factor * span, color=VERMILION, linewidth=0.9, linestyle=style, label=label)


def _colour_bar(axes: Axes, mesh: Any, *, narrow: bool) -> None:
    where = {"location": "bottom", "shrink": 0.9, "pad": 0.03} if narrow else {"location": "right", "pad": 0.02}
    figure: Figure = axes.figure  # type: ignore[assignment]  # no subfigures here
    bar = figure.colorbar(mesh, ax=axes, label="rows in a cell", **where)  # type: ignore[arg-type]
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    bar.ax.tick_params(labelsize=9)
    long = bar.ax.xaxis if narrow else bar.ax.yaxis
    long.set_major_formatter(lambda value, _: f"{value:g}")
    long.set_minor_locator(_none())


def _in_words(time_us: float) -> str:
    scale, unit = next((s, u) for s, u in ((1e6, "s"), (1e3, "ms"), (0, "us")) if time_us >= s)
    return f"{time_us / (scale or 1):g} {unit}"


def _fixed(values: Sequence[float]) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(list(values))


def _no_words() -> Any:
    from matplotlib.ticker import NullFormatter

    return NullFormatter()


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
