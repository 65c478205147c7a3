"""The tables of section `trace`, and where its numbers come from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from advisor.plots.profile import class_times
from advisor.profiling.output.provenance import conditions
from advisor.profiling.output.tables import has_steps, kernel_rows, time_by
from advisor.profiling.output.text import clean, short_kernel
from advisor.profiling.records import QUANTIZED, BillLine, TraceProfile
from advisor.report.records import NOT_MEANT, Cell, Column, Origin, Table
from advisor.units import duration, gib, percent, rate

_SHOWN = 15


def whole(profile: TraceProfile) -> str:
    """What times are of: "a step", or "the trace" where it has no steps."""
    return "a step" if has_steps(profile) else "the trace"


def whole_s(profile: TraceProfile) -> float:
    """Seconds of `whole`; of a trace, of its kernels."""
    return profile.steps.step_s or profile.kernel_time_s


def recorded(profile: TraceProfile) -> Origin:
    """The file, the GPU it was recorded on, when, and with which software."""
    told = conditions(profile)
    gpu = clean(profile.gpu.name, 60)
    when = f"; {told}" if told else "; the file tells neither date nor versions"
    return Origin(
        "recorded trace",
        f"recorded by torch.profiler on {gpu}, read from {clean(Path(profile.path).name, 100)}{when}; a step under the "
        "profiler is longer than one without, its kernels are not",
    )


def counted() -> Origin:
    """Of waves and their slots."""
    return Origin(
        "exact",
        "waves are counted from each kernel's grid and from how many of its CTAs an SM holds at once, by registers, "
        "shared memory and threads",
    )


def estimated(profile: TraceProfile) -> Origin:
    """Of what is predicted, with the errors of the predictions."""
    errors = {
        f"{percent(advice.error)} off in the mean for {clean(advice.gpu_name, 60)} in {advice.precision} "
        f"({advice.error_origin})": None
        for advice in profile.advice
    }
    known = "; ".join(errors) or "whole steps of this GPU and precision have no known error: take it for a hint"
    return Origin("estimate", f"what a change would save or reach is predicted by the time model, {known}")


_SHARE = partial(percent, digits=1)


def _count(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _time_columns(profile: TraceProfile) -> tuple[Column, Column]:
    if has_steps(profile):
        return Column("time_per_step_s", "per step", duration), Column("share_of_step", "of step", _SHARE)
    return Column("time_s", "in all", duration), Column("share_of_kernel_time", "of kernel time", _SHARE)


def classes_table(profile: TraceProfile) -> Table:
    """Time, kernels, Tensor Cores and waves of each class."""
    steps = has_steps(profile)
    found = {row.class_: row for row in time_by(profile, "class")}
    rows: list[tuple[Cell, ...]] = []
    for name, time_s in class_times(profile):
        row = found.get(name)
        launches: Cell = NOT_MEANT if row is None else row.launches_per_step if steps else row.launches
        told: tuple[Cell, Cell] = (NOT_MEANT, NOT_MEANT)
        if row is not None and name in QUANTIZED:
            told = row.tensor_core_share, row.wave_efficiency
        rows.append((name, time_s, time_s / whole_s(profile), launches, *told))
    return Table(
        id="trace-time-by-class",
        title="Time by class of kernels",
        columns=(
            Column("class", "class", note="fprop, dgrad, wgrad: a convolution's forward pass and its two gradients"),
            *_time_columns(profile),
            Column("kernels_per_step" if steps else "kernels", "kernels", _count),
            Column("tensor_core_share", "on Tensor Cores", percent),
            Column("wave_efficiency", "wave eff.", percent, note="share of the slots of all waves that work"),
        ),
        rows=tuple(rows),
        origins=(recorded(profile), counted()),
    )


def bill_table(profile: TraceProfile) -> Table:
    """What each cause costs, what the step shows of it, and the cure."""
    lines = profile.bill.lines
    return Table(
        id="trace-losses",
        title=f"What {whole(profile)} loses, and what to do",
        columns=(
            Column("what", "what costs"),
            Column("lost_s", "time lost", duration, note="of kernels or of waiting; lines overlap and do not add up"),
            Column("step_gain_s", f"{whole(profile).removeprefix('a ')} would be shorter by", duration,
                   note="less than the time lost while the host's launches hold the step back"),
            Column("step_gain_share", "of it", _SHARE, note=f"of {whole(profile)}"),
            Column("known_by", "known by"),
            Column("todo", "what to do"),
        ),
        rows=tuple(_bill_row(line, profile) for line in lines),
        origins=(recorded(profile), *([] if all(line.measured for line in lines) else [estimated(profile)])),
    )  # fmt: skip


def _bill_row(line: BillLine, profile: TraceProfile) -> tuple[Cell, ...]:
    gain = None if line.step_gain_s is None or not profile.bill.step_s else line.step_gain_s / profile.bill.step_s
    known_by = "measuring" if line.measured else "estimate"
    return clean(line.what, 400), line.lost_s, line.step_gain_s, gain, known_by, clean(line.todo, 1000)


def worst_table(profile: TraceProfile) -> Table:
    """The worst offenders of each line of the bill."""
    lines = [line for line in profile.bill.lines if line.items]
    return Table(
        id="trace-worst",
        title="The worst of each",
        columns=(Column("what", "what costs", lambda text: clean(str(text), 60)), Column("worst", "worst")),
        rows=tuple((clean(line.what, 400), clean(item, 200)) for line in lines for item in line.items),
        origins=(recorded(profile), *([] if all(line.measured for line in lines) else [estimated(profile)])),
    )


def kernels_table(profile: TraceProfile) -> Table:
    """Every group of kernels, as `advisor profile` counts them."""
    steps = has_steps(profile)
    rows = [
        (
            row.name, row.class_, row.layer,
            *((row.per_step_s, row.share_of_step, row.launches_per_step) if steps
              else (row.total_s, row.share_of_kernel_time, row.launches)),
            row.tensor_cores if row.class_ in QUANTIZED else NOT_MEANT, row.precision, row.tile, row.grid, row.block,
            row.registers_per_thread, row.shared_memory_bytes, row.ctas_per_sm, row.waves, row.wave_efficiency,
            row.idle_share, row.note or NOT_MEANT,
        )
        for row in kernel_rows(profile)
    ]  # fmt: skip
    return Table(
        id="trace-kernel-list",
        title="Kernels, largest first",
        columns=(
            Column("kernel", "kernel", lambda name: short_kernel(str(name))),
            Column("class", "class"),
            Column("layer", "layer", lambda name: clean(str(name), 44)),
            *_time_columns(profile),
            Column("calls_per_step" if steps else "calls", "calls", _count),
            Column("tensor_cores", "Tensor Cores"),
            Column("precision", "precision"),
            Column("tile", "tile", lambda name: clean(str(name), 24)),
            Column("grid", "grid"),
            Column("block", "threads"),
            Column("registers_per_thread", "registers"),
            Column("shared_memory_bytes", "shared memory, B"),
            Column("ctas_per_sm", "CTAs/SM", note="how many an SM holds at once"),
            Column("waves", "waves", lambda waves: f"{waves:,.2f}", note="rounds of CTAs that the SMs need"),
            Column("wave_efficiency", "wave eff.", percent),
            Column("idle_share", "idle slots", percent, note="of the last wave"),
            Column("note", "note", lambda text: clean(str(text), 80)),
        ),
        rows=tuple(rows),
        origins=(recorded(profile), counted()),
        shown=_SHOWN,
    )


def batches_table(profile: TraceProfile) -> Table:
    """What the time model predicts of the recorded model at other sizes."""
    rows = [
        (clean(advice.gpu_name, 60), advice.precision, point.batch, point.step_s, point.samples_per_s,
         point.total_bytes, point.fits, ", ".join(point.roles) or NOT_MEANT,
         advice.calibrated, advice.error)
        for advice in profile.advice for point in advice.points
    ]  # fmt: skip
    return Table(
        id="trace-batches",
        title="The recorded model at other batch sizes",
        columns=(
            Column("gpu", "GPU"),
            Column("precision", "precision"),
            Column("batch", "batch"),
            Column("step_s", "step", duration),
            Column("samples_per_s", "samples/s", rate),
            Column("memory_bytes", "memory", gib),
            Column("fits", "fits"),
            Column("roles", "which"),
            Column("calibrated", "calibrated", note="on the kernels of this trace"),
            Column("error", "error", percent, note="mean of |ln(predicted / measured)| of steps that no fit has seen"),
        ),
        rows=tuple(rows),
        origins=(estimated(profile),),
        shown=_SHOWN,
    )
