"""The picture of a trace: time by class, and its kernels by share and wave efficiency."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.plots.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, drawing
from advisor.profiling.output.headline import headline
from advisor.profiling.output.provenance import conditions
from advisor.profiling.output.tables import has_steps, operation_of, share_of_step, time_by
from advisor.profiling.output.text import clean, short_kernel
from advisor.profiling.records import QUANTIZED, KernelGroup, TraceProfile
from advisor.units import duration, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIGHT = "#B4B4B4"
_LOOKS = {  # class -> colour and marker; told apart without colour too
    "gemm": (BLUE, "o"), "fprop": (VERMILION, "^"), "dgrad": (ORANGE, "v"), "wgrad": (PURPLE, "s"),
    "conv": (SKY, "D"), "attention": (GREEN, "P"),
}  # fmt: skip
NAMED = 6
_CORNERS = ((6.0, 5.0), (-12.0, 5.0), (6.0, -12.0), (-12.0, -12.0), (14.0, -3.0), (-20.0, -3.0))  # in points
_APART_POINTS = 10.0
_AXES_POINTS = (430.0, 370.0)  # about the size of the axes once laid out
_LEAST_SHARE = 1 / 500  # of the largest share: points further left say nothing


@dataclass(frozen=True)
class _Point:
    group: KernelGroup
    share: float
    efficiency: float

    @property
    def idle(self) -> float:
        """Share of the time in which slots stood idle: what ranks the points that are named."""
        return self.share * (1 - self.efficiency)


def save_profile(profile: TraceProfile, path: Path, *, command: str = "") -> None:
    """Draw a trace's profile; the suffix decides between PNG, SVG and PDF. `command`, that drew it, is in its caption.

    Raises BadInputError where the file cannot be written or the suffix is none of these.
    """
    with drawing(path, inches=(11, 7.6)) as figure:
        bars, points = figure.subplots(1, 2, width_ratios=(1, 1.7))
        _draw_classes(bars, profile)
        named = _draw_kernels(points, profile)
        figure.suptitle(_question(profile), fontsize=13, x=0.01, ha="left")
        told = [*_wrapped(headline(profile)), *_wrapped(_caption(profile, command))]
        lines = [_ascii(line) for line in (*named, "", *told)]
        figure.supxlabel("\n".join(lines), fontsize=8, color=GREY, x=0.01, ha="left",
                         parse_math=False)  # a "$" in a name is a dollar  # fmt: skip


def _question(profile: TraceProfile) -> str:
    what = f"do the {duration(profile.steps.step_s)} of a step" if profile.steps.count else "does the kernels' time"
    return f"Where {what} go, and which kernels leave SMs idle?"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 150, break_on_hyphens=False)


def _caption(profile: TraceProfile, command: str) -> str:
    facts = (clean(Path(profile.path).name, 100), clean(profile.gpu.name, 60), conditions(profile))
    return "; ".join(filter(None, (", ".join(filter(None, facts)), clean(command, 200))))


def _ascii(text: str) -> str:
    """Text that every font can draw."""
    return text.encode("ascii", "replace").decode()


def _draw_classes(axes: Axes, profile: TraceProfile) -> None:
    steps = has_steps(profile)
    bars = [
        (row.class_ or "", row.total_s if row.per_step_s is None else row.per_step_s)
        for row in time_by(profile, "class")
    ]
    if copy_s := profile.steps.copy_s if steps else profile.copy_time_s:
        bars.append(("memcpy, memset", copy_s))
    if (idle_s := sum(profile.steps.gap_s.values())) > 0:
        bars.append(("GPU idle", idle_s))
    names, values = [name for name, _ in bars], [s * 1e3 for _, s in bars]
    drawn = axes.barh(range(len(bars)), values, color=[_LOOKS.get(name, (LIGHT, ""))[0] for name in names])
    if names[-1] == "GPU idle":
        drawn.patches[-1].set(facecolor="white", edgecolor=GREY, hatch="///")
    axes.bar_label(drawn, [duration(s) for _, s in bars], padding=3, fontsize=8)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.22 * max(values, default=1.0) or 1.0)
    axes.set_xlabel("ms per step" if steps else "ms in the trace")
    axes.set_title("time by class", fontsize=10, loc="left")


def _draw_kernels(axes: Axes, profile: TraceProfile) -> list[str]:
    """Draw the points; return a line for each that is named."""
    points = _points(profile)
    others = [point for point in points if point.group.class_ not in QUANTIZED]
    if others:
        _scatter(axes, others, LIGHT, "o", "bound by memory: not billed for waves")
    for class_, (colour, marker) in _LOOKS.items():
        members = [point for point in points if point.group.class_ == class_]
        if members:
            _scatter(axes, members, colour, marker, class_)
    blamed = (p for p in points if p.group.class_ in QUANTIZED and not (p.group.persistent or p.group.split_k))
    named = [point for point in sorted(blamed, key=lambda p: -p.idle)[:NAMED] if point.efficiency < 1]
    limits = _decades([point.share for point in points])
    for number, (point, offset) in enumerate(zip(named, _offsets(named, limits), strict=True), 1):
        axes.annotate(str(number), (point.share, point.efficiency), xytext=offset, textcoords="offset points",
                      fontsize=9, weight="bold")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.xaxis.set_major_formatter(lambda share, _: _tick(share))
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(0, 1.06)
    axes.yaxis.set_major_formatter(lambda share, _: percent(share))
    axes.set_xlabel("share of the step" if has_steps(profile) else "share of all kernel time")
    axes.set_ylabel("wave efficiency (100 %: every wave is full)")
    axes.set_title("kernels, one point per shape and grid", fontsize=10, loc="left", pad=24)
    axes.grid(alpha=0.25)
    if points:
        legend = axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=7,
                             columnspacing=1, handletextpad=0.1)  # fmt: skip
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[36])
    else:
        why = "" if profile.gpu.id else "\nname the GPU with --gpu"
        axes.text(0.5, 0.5, f"no kernel's waves are known{why}", transform=axes.transAxes, ha="center", color=GREY)
    return [_named_line(number, point, profile) for number, point in enumerate(named, 1)]


def _tick(share: float) -> str:
    """ "0.001 %", without an exponent."""
    return f"{100 * share:.12f}".rstrip("0").rstrip(".") + " %"


def _decades(shares: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around all shares; a step at most."""
    low, high = (min(shares), max(shares)) if shares else (0.01, 0.5)
    return 10.0 ** math.floor(math.log10(low) - 0.05), 10.0 ** math.ceil(math.log10(high) + 0.05)


def _offsets(points: Sequence[_Point], limits: tuple[float, float]) -> list[tuple[float, float]]:
    """Where each point's number goes, from the point: the first corner that is clear of the numbers before it."""
    across, up = _AXES_POINTS
    scale = across / math.log10(limits[1] / limits[0])
    taken: list[tuple[float, float]] = []
    offsets = []
    for point in points:
        x, y = scale * math.log10(point.share), up * point.efficiency
        free = (o for o in _CORNERS if all(math.hypot(x + o[0] - a, y + o[1] - b) > _APART_POINTS for a, b in taken))
        offset = next(free, _CORNERS[0])
        taken.append((x + offset[0], y + offset[1]))
        offsets.append(offset)
    return offsets


def _points(profile: TraceProfile) -> list[_Point]:
    steps = has_steps(profile)
    points = [
        _Point(group, share, group.wave_efficiency)
        for group in profile.kernels
        if (share := share_of_step(profile, group.step_s) if steps else group.share)
        and group.wave_efficiency is not None
    ]
    least = _LEAST_SHARE * max((point.share for point in points), default=0.0)
    return [point for point in points if point.share >= least]


def _scatter(axes: Axes, points: Sequence[_Point], colour: str, marker: str, label: str) -> None:
    sizes = [18 + 1200 * point.share for point in points]
    axes.scatter([p.share for p in points], [p.efficiency for p in points], s=sizes, c=colour, marker=marker,
                 alpha=0.75, linewidth=0.5, edgecolor="white", label=label)  # fmt: skip


def _named_line(number: int, point: _Point, profile: TraceProfile) -> str:
    group, operation = point.group, operation_of(profile, point.group)
    layer = f"{clean(operation.layer, 50)}, " if operation else ""
    waves = f"{group.waves:.2f} waves" if group.waves is not None else "waves ??"
    return (
        f"{number}  {group.class_}, {layer}{short_kernel(group.name, 60)}: {percent(point.share, 1)}, {waves}, "
        f"{percent(point.efficiency)} efficient"
    )
