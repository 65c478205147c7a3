"""The picture of a roofline: every operation of a step under the roof of a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advisor.plots.canvas import BLACK, GREY
from advisor.report.layer_looks import LOOKS, layer_class, operation
from advisor.report.roofs import Point, Roof
from advisor.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.lines import Line2D

_NAMED = 6
_SEEN = 0.0005  # share of the step from which a point must be within the picture
_FEW_TICKS = 400  # an axis that spans less has more ticks than the powers of ten
_AROUND = ((1.1, 0.0), (-1.1, 0.0), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (0.0, 1.1), (0.0, -1.1))


def key(point: Point, most: int) -> str:
    """What a point is, in about `most` characters, and its share of the step."""
    return f"{operation(point.layer, most)}: {percent(point.layer.share, 1)}"


def tera(flops_per_s: float) -> str:
    """TFLOP/s with three digits or more: "19.5", "312"."""
    value = flops_per_s / 1e12
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def draw_roofline(figure: MatplotlibFigure, narrow: bool, *, roof: Roof, step: Sequence[Point]) -> None:
    """Draw a step's operations under the roof, and those that only move data in a strip below."""
    moving = [point for point in step if point.moves_only]
    if moving:
        axes, strip = figure.subplots(2, 1, height_ratios=(5, 1))
        _draw_moving(strip, moving, roof, narrow)
    else:
        axes = figure.subplots()
    handles = _draw_roof(axes, roof, step, narrow)
    for class_, look in LOOKS.items():
        members = [point for point in step if layer_class(point.layer) == class_]
        counted_ = [point for point in members if not point.moves_only]
        _scatter(axes, [p.flop_per_byte for p in counted_], [p.flops_per_s / 1e12 for p in counted_], counted_)
        if members:
            handles.append(_handle(class_, color=look.colour, marker=look.marker))
    named = [point for point in step if not point.moves_only][:_NAMED]
    _number(axes, named, limits(roof, step), narrow)
    figure.legend(handles=handles, loc="outside upper left", ncols=2 if narrow else 3, fontsize=9, frameon=False,
                  handletextpad=0.5, columnspacing=0.9)  # fmt: skip
    keys = [
        _handle(f"{number}  {key(point, 38 if narrow else 42)}", linestyle="")
        for number, point in enumerate(named, start=1)
    ]
    if keys:
        figure.legend(handles=keys, loc="outside lower left", ncols=1 if narrow else 2, fontsize=9, frameon=False,
                      handlelength=0, handletextpad=0)  # fmt: skip


def _handle(label: str, **look: Any) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"linestyle": "", **look})


def _scatter(axes: Axes, x: Sequence[float], y: Sequence[float], members: Sequence[Point]) -> None:
    if members:
        look = LOOKS[layer_class(members[0].layer)]
        edge = {"linewidth": 1.2} if look.marker == "x" else {"linewidth": 0.4, "edgecolor": "white"}
        axes.scatter(x, y, s=[_area(point) for point in members], c=look.colour, marker=look.marker, alpha=0.75,
                     zorder=3, **edge)  # fmt: skip


def _area(point: Point) -> float:
    """Of a marker, in square points: the share of the step, and enough to be seen."""
    return 12 + 3000 * point.layer.share


def limits(roof: Roof, step: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intensities and FLOP/s that the picture shows: all points of weight, and both parts of the roof."""
    seen = [point for point in step if point.layer.share >= _SEEN and not point.moves_only]
    left = min((point.flop_per_byte for point in seen), default=roof.ridge)
    right = max((point.flop_per_byte for point in seen), default=roof.ridge)
    low = min((point.flops_per_s for point in seen), default=roof.peak_flops_per_s)
    high = max((point.flops_per_s for point in seen), default=roof.peak_flops_per_s)
    return (
        (min(left / 1.6, roof.ridge / 10), max(1.6 * right, 5 * roof.ridge)),
        (min(low / 1.8, roof.peak_flops_per_s / 20), 1.4 * max(1.35 * roof.peak_flops_per_s, high)),
    )


def _draw_roof(axes: Axes, roof: Roof, step: Sequence[Point], narrow: bool) -> list[Line2D]:
    """Draw roofs and axes; return the legend of the roofs that are not labelled in place."""
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import LogLocator

    (left, right), (low, high) = limits(roof, step)
    slope = roof.bandwidth_bytes_per_s / 1e12
    corners = [left, roof.ridge, right]
    axes.plot(corners, [roof.at(x) / 1e12 for x in corners], color=BLACK, linewidth=1.6, zorder=2)
    over = any(point.flops_per_s > roof.peak_flops_per_s for point in step)  # on the right: the label goes to the left
    axes.annotate(f"{tera(roof.peak_flops_per_s)} TFLOP/s, {roof.unit}",
                  (roof.ridge if over else right, roof.peak_flops_per_s / 1e12), xytext=(2 if over else -2, 4),
                  textcoords="offset points", ha="left" if over else "right", fontsize=9, zorder=4,
                  path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
    at = math.sqrt(max(left, low / roof.bandwidth_bytes_per_s) * roof.ridge)
    bandwidth = f"{roof.bandwidth_bytes_per_s / 1e9:,.0f} GB/s"
    axes.text(at, (1.3 if narrow else 1.12) * slope * at, bandwidth, fontsize=9, ha="center", va="bottom",
              rotation=math.degrees(math.atan(slope)), rotation_mode="anchor", transform_rotates_text=True)  # fmt: skip
    handles = []
    for flops_per_s, dashes, text in (
        (roof.reached_flops_per_s, (5, 2), "large product" if narrow else "predicted of a large matrix product"),
        (roof.vector_flops_per_s, (1, 2), "FP32" if narrow else "FP32 outside Tensor Cores"),
    ):
        if flops_per_s is not None and flops_per_s < roof.peak_flops_per_s:
            ends = [max(left, flops_per_s / roof.bandwidth_bytes_per_s), right]
            axes.plot(ends, [flops_per_s / 1e12] * 2, color=GREY, linewidth=1.2, dashes=dashes, zorder=2)
            label = f"{tera(flops_per_s)} TFLOP/s: {text}" if not narrow else f"{tera(flops_per_s)}: {text}"
            handles.append(_handle(label, color=GREY, linewidth=1.2, linestyle=(0, dashes)))
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low / 1e12, high / 1e12))
    for axis, span in ((axes.xaxis, right / left), (axes.yaxis, high / low)):
        if span < _FEW_TICKS:
            axis.set_major_locator(LogLocator(subs=(1, 3) if narrow else (1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=9)
    axes.minorticks_off()
    axes.set_xlabel("FLOP per byte of memory traffic")
    axes.set_ylabel("TFLOP/s reached (predicted)")
    axes.grid(alpha=0.25)
    return handles


def _draw_moving(axes: Axes, moving: Sequence[Point], roof: Roof, narrow: bool) -> None:
    """Operations without counted FLOP by the bandwidth they reach; a row per class, in which height says nothing."""
    classes = [class_ for class_ in LOOKS if any(layer_class(point.layer) == class_ for point in moving)]
    for row, class_ in enumerate(classes):
        members = [point for point in moving if layer_class(point.layer) == class_]
        apart = [row + ((5 * i) % 7 - 3) / 14 for i in range(len(members))]
        _scatter(axes, [point.bytes_per_s / roof.bandwidth_bytes_per_s for point in members], apart, members)
    most = max(point.bytes_per_s / roof.bandwidth_bytes_per_s for point in moving)
    axes.axvline(1, color=BLACK, linewidth=1.6, zorder=2)
    axes.set(xlim=(0, max(1.08, 1.05 * most)), ylim=(len(classes) - 0.25, -0.75))
    axes.set_yticks(range(len(classes)), [class_.partition(",")[0] for class_ in classes])
    axes.set_xticks([0, 0.5, 1] if narrow else [0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(lambda share, _: percent(share))
    axes.tick_params(labelsize=9)
    axes.set_xlabel(f"only moves data: {'' if narrow else 'share '}of bandwidth reached")
    axes.grid(axis="x", alpha=0.25)


def _number(
    axes: Axes, named: Sequence[Point], limits: tuple[tuple[float, float], tuple[float, float]], narrow: bool
) -> None:
    """Number the points that weigh most, each at the first place that is clear of the numbers before it."""
    from matplotlib.patheffects import withStroke

    (left, right), (low, high) = limits
    across = (230 if narrow else 460) / math.log(right / left)  # points per unit of the logarithm, about
    up = (200 if narrow else 190) / math.log(high / low)
    taken: list[tuple[float, float]] = []
    for number, point in enumerate(named, start=1):
        x, y = across * math.log(point.flop_per_byte / left), up * math.log(point.flops_per_s / low)
        reach = math.sqrt(_area(point)) / 2
        offsets = [(dx * (reach + 5), dy * (reach + 5) - 3.5) for dx, dy in _AROUND]
        free = (o for o in offsets if all(math.hypot(x + o[0] - a, y + o[1] - b) > 10 for a, b in taken))
        offset = next(free, offsets[0])
        taken.append((x + offset[0], y + offset[1]))
        axes.annotate(str(number), (point.flop_per_byte, point.flops_per_s / 1e12), xytext=offset, zorder=5,
                      textcoords="offset points", fontsize=9, weight="bold", ha="center",
                      path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
