"""Section `trace`: where a recorded step's time goes, what it loses, and which of its kernels leave SMs idle."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from advisor.plots.profile import (
    BOUND_BY_MEMORY,
    IDLE,
    LOOKS,
    Point,
    class_times,
    draw_classes,
    draw_kernels,
    kernel_points,
    told_waves,
)
from advisor.profiling.output.headline import headline
from advisor.profiling.output.provenance import step_lines
from advisor.profiling.output.tables import has_steps, operation_of
from advisor.profiling.output.text import clean, short_kernel
from advisor.profiling.records import QUANTIZED, TraceProfile
from advisor.report.records import Fact, Figure, Interactive, Section, Series, Tone
from advisor.report.sections.trace_tables import (
    batches_table,
    bill_table,
    classes_table,
    counted,
    kernels_table,
    recorded,
    whole_s,
    worst_table,
)
from advisor.report.subject import Subject
from advisor.units import duration, percent, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_TEXT_POINTS = 9
_TOLD_CLASSES = 3
_LEAST_TOLD = 0.005  # of a step: a smaller share is not worth a clause
_LOOK: dict[str, tuple[str, Tone]] = {  # of a class in the interactive figure: plotly's symbol, and the tone
    "gemm": ("circle", "blue"), "fprop": ("triangle-up", "vermilion"), "dgrad": ("triangle-down", "orange"),
    "wgrad": ("square", "purple"), "conv": ("diamond", "sky"), "attention": ("cross", "green"),
}  # fmt: skip
_IDLE_FOR = {
    "host": "waiting for the host's launches", "data": "waiting for data", "communication": "waiting for communication",
    "sync": "while the host waited for it", "gpu": "between queued kernels",
}  # fmt: skip


def section(subject: Subject) -> Section | None:
    """Two figures, and tables of classes, losses, kernels and predicted batch sizes, where there is a trace."""
    profile = subject.trace
    if profile is None:
        return None
    billed = any(point.group.class_ in QUANTIZED for point in kernel_points(profile))
    figures = (_classes_figure(profile), *([_kernels_figure(profile)] if billed else []))
    makers = (classes_table, bill_table, worst_table, kernels_table, batches_table)
    tables = [make(profile) for make in makers]
    return Section(
        id="trace",
        title="A recorded step: where its time goes and what it loses",
        lead=_lead(profile, subject),
        figures=figures,
        tables=tuple(table for table in tables if table.rows),
        notes=_notes(profile, subject),
    )


def as_option_of_report(text: str) -> str:
    """What `advisor profile` says of its options, with those of `advisor report`."""
    text = text.replace(", and name other GPUs with --on", "")
    return re.sub(r"(?<![\w-])--gpu\b", "--trace-gpu", text)


def _lead(profile: TraceProfile, subject: Subject) -> str:
    found = f"{headline(profile)} {_sentence(profile.bill.verdict.split('; ')[0])}"
    if profile.gpu.id == subject.gpu.id:
        return found
    where = "a GPU that it does not name" if profile.gpu.id is None else f"another GPU, {clean(profile.gpu.name, 60)}"
    return f"{found} This trace was recorded on {where}; the rest of this report is about {subject.gpu.name}."


def _sentence(text: str) -> str:
    line = clean(as_option_of_report(text), 800)
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")


def _notes(profile: TraceProfile, subject: Subject) -> tuple[str, ...]:
    notes = [*step_lines(profile), f"Batch size: {clean(profile.batch.evidence, 300)}."]
    waves = {group.class_ in QUANTIZED for group in profile.kernels if group.wave_efficiency is not None}
    if profile.ranks is not None:
        notes.append(_sentence(profile.ranks.verdict))
    if not waves:
        notes.append("No kernel's waves are known, so none is drawn: they need a known GPU: --trace-gpu.")
    elif not any(waves):
        notes.append(
            "No kernel is a matrix product, a convolution or attention: what memory bounds is not billed for waves."
        )
    told = (note for note in (*profile.gpu.notes, *profile.notes) if profile.batch.evidence not in note)
    return (*notes, *map(_sentence, told))


# Time by class --------------------------------------------------------------------------------------------------------


def _classes_figure(profile: TraceProfile) -> Figure:
    times = class_times(profile)
    what = f"the {duration(whole_s(profile))} of a step" if has_steps(profile) else "the kernels' time"
    kernels = sorted((item for item in times if item[0] != IDLE), key=lambda item: -item[1])
    most = ", ".join(_share(name, s, profile) for name, s in kernels[:_TOLD_CLASSES])
    rows = len(times)
    return Figure(
        id="trace-classes",
        title=f"Where {'do' if has_steps(profile) else 'does'} {what} go?",
        answer=f"The kernels that take most: {most}. {_idle(profile)}".strip(),
        alt=f"Bars, one for each class of kernels: {', '.join(f'{name} {duration(s)}' for name, s in times)}.",
        origins=(recorded(profile),),
        draw=partial(_draw_classes, profile),
        inches=(7.4, 1.2 + 0.27 * rows),
        narrow_inches=(3.9, 1.2 + 0.27 * rows),
    )


def _share(name: str, time_s: float, profile: TraceProfile) -> str:
    return f"{name} {duration(time_s)} ({percent(time_s / whole_s(profile), 1)})"


def _idle(profile: TraceProfile) -> str:
    gaps = sorted(((s, cause) for cause, s in profile.steps.gap_s.items() if s > 0), reverse=True)
    if not gaps:
        return ""
    idle_s = sum(s for s, _ in gaps)
    told = [f"{duration(s)} {_IDLE_FOR.get(cause, clean(cause, 40))}" for s, cause in gaps
            if s >= _LEAST_TOLD * whole_s(profile)]  # fmt: skip
    causes = f": {', '.join(told)}" if told else ""
    return f"The GPU is idle for {duration(idle_s)} ({percent(idle_s / whole_s(profile))}){causes}."


def _draw_classes(profile: TraceProfile, figure: MatplotlibFigure, narrow: bool) -> None:
    draw_classes(figure.subplots(), profile, text_points=_TEXT_POINTS, narrow=narrow)


# Kernels --------------------------------------------------------------------------------------------------------------


def _kernels_figure(profile: TraceProfile) -> Figure:
    points = kernel_points(profile)
    of = "step" if has_steps(profile) else "kernels' time"
    return Figure(
        id="trace-kernels",
        title="Which kernels leave SMs idle?",
        answer=_worst(profile, points),
        alt=(
            f"{len(points):,} points, one for each kernel, shape and grid: its share of the {of} to the "
            "right, logarithmic, and its wave efficiency upwards; classes have their own colours and symbols, and the "
            "worst are numbered and named below."
        ),
        origins=(recorded(profile), counted()),
        draw=partial(_draw_kernels, profile),
        inches=(7.4, 5.6),
        narrow_inches=(3.9, 5.6),
        interactive=_interactive(profile, points),
    )


def _worst(profile: TraceProfile, points: Sequence[Point]) -> str:
    billed = [point for point in points if point.group.class_ in QUANTIZED]
    mean = sum(p.share * p.efficiency for p in billed) / sum(p.share for p in billed)
    worst = max(billed, key=lambda point: point.idle)
    of = "step" if has_steps(profile) else "kernels' time"
    by_design = " (by design)" if worst.group.persistent or worst.group.split_k else ""
    return (
        f"Matrix products, convolutions and attention fill {percent(mean)} of their waves' slots, weighted by time. "
        f"Most is idle beside {_layer(worst, profile)}{by_design}: {percent(worst.share, 1)} of the {of}, "
        f"{told_waves(worst.group)}."
    )


def _layer(point: Point, profile: TraceProfile) -> str:
    operation = operation_of(profile, point.group)
    name = clean(operation.layer, 44) if operation else short_kernel(point.group.name, 44)
    return f"{point.group.class_}, {name}"


def _draw_kernels(profile: TraceProfile, figure: MatplotlibFigure, narrow: bool) -> None:
    named = draw_kernels(figure.subplots(), profile, narrow=narrow, text_points=_TEXT_POINTS,
                         legend_columns=3 if narrow else 5)  # fmt: skip
    lines = [
        f"{number}  {_layer(point, profile)}: "
        + (percent(point.efficiency) if narrow else f"{percent(point.share, 1)}, {told_waves(point.group)}")
        for number, point in enumerate(named, 1)
    ]
    folded = [row for line in lines for row in textwrap.wrap(line, 46 if narrow else 92, subsequent_indent="    ")]
    figure.supxlabel("\n".join(folded), fontsize=_TEXT_POINTS, x=0.01, ha="left")


def _interactive(profile: TraceProfile, points: Sequence[Point]) -> Interactive:
    of = "per step" if has_steps(profile) else "in all"
    others = [point for point in points if point.group.class_ not in QUANTIZED]
    series = [_series(BOUND_BY_MEMORY, ("circle", "grey"), others, profile)] if others else []
    for name in LOOKS:
        members = [point for point in points if point.group.class_ == name]
        if members:
            series.append(_series(name, _LOOK[name], members, profile))
    return Interactive(tuple(series), x_title=f"time {of}, us (logarithmic)", y_title="wave efficiency, %", x_log2=True)


def _series(name: str, look: tuple[str, Tone], points: Sequence[Point], profile: TraceProfile) -> Series:
    groups = [point.group for point in points]
    steps = has_steps(profile)
    operations = [operation_of(profile, group) for group in groups]
    used = {True: "yes", False: "no", None: None}
    return Series(
        name=name,
        kind="points",
        tone=look[1],
        x=tuple(significant(1e6 * ((group.step_s or 0.0) if steps else group.total_s)) for group in groups),
        y=tuple(round(100 * point.efficiency, 1) for point in points),
        symbol=look[0],
        facts=(
            Fact("kernel", tuple(short_kernel(group.name, 100) for group in groups)),
            Fact("class", tuple(group.class_ for group in groups)),
            Fact("layer", tuple(clean(each.layer, 80) if each else None for each in operations)),
            Fact("tile", tuple(clean(group.tile, 24) if group.tile else None for group in groups)),
            Fact("grid", tuple("x".join(map(str, group.grid)) if group.grid else None for group in groups)),
            Fact("waves", tuple(_rounded(group.waves) for group in groups)),
            Fact("idle slots of the last wave", tuple(_rounded(group.idle_share, 100) for group in groups), "%"),
            Fact("of the step" if steps else "of all kernel time",
                 tuple(significant(100 * point.share) for point in points), "%"),
            Fact("calls per step" if steps else "calls",
                 tuple(_rounded(group.launches_per_step) if steps else group.count for group in groups)),
            Fact("Tensor Cores", tuple(used[group.tensor_cores] for group in groups)),
        ),
    )  # fmt: skip


def _rounded(value: float | None, factor: float = 1.0) -> float | None:
    return None if value is None else significant(factor * value)
