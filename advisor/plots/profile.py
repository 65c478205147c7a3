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

_PALE = 0.55  # opacity of what no wave is billed for
LOOKS = {  # class -> colour and marker; told apart without colour too
    "gemm": (BLUE, "o"), "fprop": (VERMILION, "^"), "dgrad": (ORANGE, "v"), "wgrad": (PURPLE, "s"),
    "conv": (SKY, "D"), "attention": (GREEN, "P"),
}  # fmt: skip
NAMED = 6
IDLE, BOUND_BY_MEMORY = "GPU idle", "bound by memory: not billed for waves"
_CORNERS = ((6.0, 5.0), (-12.0, 5.0), (6.0, -12.0), (-12.0, -12.0), (14.0, -3.0), (-20.0, -3.0))  # in points
_APART_POINTS = 10.0
_AXES_POINTS = (430.0, 370.0)  # about the size of the axes once laid out
_NARROW_POINTS = (210.0, 190.0)
_LEAST_SHARE = 1 / 500  # of the largest share: points further left say nothing


@dataclass(frozen=True)
class Point:
    """One group of kernels: its share of a step (of all kernel time without steps), and its wave efficiency."""

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
        draw_classes(bars, profile)
        named = draw_kernels(points, profile)
        bars.set_title("time by class", fontsize=10, loc="left")
        points.set_title("kernels, one point per shape and grid", fontsize=10, loc="left", pad=24)
        figure.suptitle(_question(profile), fontsize=13, x=0.01, ha="left")
        told = [*_wrapped(headline(profile)), *_wrapped(_caption(profile, command))]
        lines = [_ascii(line) for line in (*_named_lines(named, profile), "", *told)]
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


def class_times(profile: TraceProfile) -> list[tuple[str, float]]:
    """Seconds of a step (of the trace without steps) by class of kernels, largest first; then copies, then idleness."""
    steps = has_steps(profile)
    times = [
        (row.class_ or "", row.total_s if row.per_step_s is None else row.per_step_s)
        for row in time_by(profile, "class")
    ]
    if copy_s := profile.steps.copy_s if steps else profile.copy_time_s:
        times.append(("memcpy, memset", copy_s))
    if (idle_s := sum(profile.steps.gap_s.values())) > 0:
        times.append((IDLE, idle_s))
    return times


def draw_classes(axes: Axes, profile: TraceProfile, *, text_points: float = 8, narrow: bool = False) -> None:
    """Draw a bar for each of `class_times`, its time beside it."""
    bars = class_times(profile)
    names, values = [name for name, _ in bars], [s * 1e3 for _, s in bars]
    drawn = axes.barh(range(len(bars)), values)
    for name, bar in zip(names, drawn.patches, strict=True):
        if name == IDLE:
            bar.set(facecolor="white", edgecolor=GREY, hatch="///")
        else:
            bar.set(facecolor=LOOKS.get(name, (GREY, ""))[0], alpha=None if name in LOOKS else _PALE)
    axes.bar_label(drawn, [duration(s) for _, s in bars], padding=3, fontsize=text_points)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    room = 1.45 if narrow else 1.22  # for the words beside the longest bar
    axes.set_xlim(0, room * max(values, default=1.0) or 1.0)
    axes.set_xlabel("ms per step" if has_steps(profile) else "ms in the trace")


def draw_kernels(
    axes: Axes, profile: TraceProfile, *, narrow: bool = False, text_points: float = 8, legend_columns: int = 7
) -> list[Point]:
    """Draw the points; return those that have a number, from 1 on."""
    points = kernel_points(profile)
    others = [point for point in points if point.group.class_ not in QUANTIZED]
    if others:
        _scatter(axes, others, GREY, "o", "bound by memory" if narrow else BOUND_BY_MEMORY, alpha=_PALE)
    for class_, (colour, marker) in LOOKS.items():
        members = [point for point in points if point.group.class_ == class_]
        if members:
            _scatter(axes, members, colour, marker, class_)
    named = _blamed(points)
    limits = _decades([point.share for point in points])
    places = _offsets(named, limits, _NARROW_POINTS if narrow else _AXES_POINTS)
    for number, (point, offset) in enumerate(zip(named, places, strict=True), 1):
        axes.annotate(str(number), (point.share, point.efficiency), xytext=offset, textcoords="offset points",
                      fontsize=9, weight="bold")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.xaxis.set_major_formatter(lambda share, _: _tick(share))
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(-0.03, 1.06)
    axes.yaxis.set_major_formatter(lambda share, _: percent(share))
    axes.set_xlabel("share of the step" if has_steps(profile) else "share of all kernel time")
    axes.set_ylabel("wave efficiency" if narrow else "wave efficiency (100 %: every wave is full)")
    axes.grid(alpha=0.25)
    if points:
        legend = axes.legend(fontsize=text_points, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99),
                             ncols=legend_columns, columnspacing=1, handletextpad=0.1)  # fmt: skip
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[36])
    else:
        why = "" if profile.gpu.id else "\nname the GPU with --gpu"
        axes.text(0.5, 0.5, f"no kernel's waves are known{why}", transform=axes.transAxes, ha="center", color=GREY)
    return named


def _blamed(points: Sequence[Point]) -> list[Point]:
    """The few that are named: where most time passes beside idle slots, and not by design."""
    found = (p for p in points if p.group.class_ in QUANTIZED and not (p.group.persistent or p.group.split_k))
    return [point for point in sorted(found, key=lambda p: -p.idle)[:NAMED] if point.efficiency < 1]


def _tick(share: float) -> str:
    """ "0.001 %", without an exponent."""
    return f"{100 * share:.12f}".rstrip("0").rstrip(".") + " %"


def _decades(shares: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around all shares; a step at most."""
    low, high = (min(shares), max(shares)) if shares else (0.01, 0.5)
    return 10.0 ** math.floor(math.log10(low) - 0.05), 10.0 ** math.ceil(math.log10(high) + 0.05)


def _offsets(
    points: Sequence[Point], limits: tuple[float, float], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Where each point's number goes, from the point: the first corner that is clear of the numbers before it."""
    across, up = size
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


def kernel_points(profile: TraceProfile) -> list[Point]:
    """The groups of kernels whose waves are known, but for those so short that they say nothing."""
    steps = has_steps(profile)
    points = [
        Point(group, share, group.wave_efficiency)
        for group in profile.kernels
        if (share := share_of_step(profile, group.step_s) if steps else group.share)
        and group.wave_efficiency is not None
    ]
    least = _LEAST_SHARE * max((point.share for point in points), default=0.0)
    return [point for point in points if point.share >= least]


def _scatter(axes: Axes, points: Sequence[Point], colour: str, marker: str, label: str, alpha: float = 0.75) -> None:
    sizes = [18 + 1200 * point.share for point in points]
    axes.scatter([p.share for p in points], [p.efficiency for p in points], s=sizes, c=colour, marker=marker,
                 alpha=alpha, linewidth=0.5, edgecolor="white", label=label)  # fmt: skip


def _named_lines(points: Sequence[Point], profile: TraceProfile) -> list[str]:
    return [f"{number}  {_described(point, profile)}" for number, point in enumerate(points, 1)]


def _described(point: Point, profile: TraceProfile) -> str:
    group, operation = point.group, operation_of(profile, point.group)
    layer = f"{clean(operation.layer, 50)}, " if operation else ""
    return f"{group.class_}, {layer}{short_kernel(group.name, 60)}: {percent(point.share, 1)}, {told_waves(group)}"


def told_waves(group: KernelGroup) -> str:
    """ "2.45 waves, 82 % efficient"."""
    waves = f"{group.waves:.2f} waves" if group.waves is not None else "waves ??"
    return waves if group.wave_efficiency is None else f"{waves}, {percent(group.wave_efficiency)} efficient"
