"""A trace's profile as text: the headline first, then where the time goes, what it costs, and what to do."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from advisor.cli.output import render_rows
from advisor.cli.profile_advice import advice_blocks, answer_lines
from advisor.profiling.output.headline import counted_steps, headline
from advisor.profiling.output.provenance import conditions, step_lines
from advisor.profiling.output.tables import (
    By,
    TimeRow,
    has_steps,
    largest_first,
    operation_of,
    share_of_step,
    time_by,
)
from advisor.profiling.output.text import cell, clean, code, short_kernel, title
from advisor.profiling.ranks import EVEN
from advisor.profiling.records import HIDDEN, LITTLE_BUSY, QUANTIZED, BillLine, KernelGroup, RanksProfile, TraceProfile
from advisor.units import duration, percent

TableBy = Literal["class", "operator", "layer", "shape", "kernel"]
_CAUSES = {
    "host": "the host launches too slowly",
    "data": "loading or copying data",
    "communication": "communication on the host",
    "sync": "the host waited for the GPU (.item(), synchronize()) instead of working ahead",
    "gpu": "from one queued kernel to the next",
}
_LEAST_WIDTH = 40  # characters: a terminal narrower than that breaks lines itself
_LABEL = re.compile(r"(?:error|memory|note|batch|recorded) +|      -> ")
_STRAY_SHARE = 0.01  # of kernel time: so much outside of all steps is said
_KERNEL_WIDTH, _LAYER_WIDTH, _OPERATOR_WIDTH, _NOTE_WIDTH = 44, 36, 56, 40


def report(
    profile: TraceProfile, *, by: TableBy = "kernel", rows: int = 15, format_: str = "table", width: int | None = None
) -> str:
    """The whole profile as "table" or "markdown"; `rows` of the longest table, 0 for all.

    Lines that are not of a table are wrapped at `width`, where one is given.
    """
    blocks = [
        _answer_block(profile, format_),
        _ranks_block(profile.ranks, format_) if profile.ranks else [],
        _classes_block(profile, format_),
        [] if by == "class" else _main_block(profile, by, rows, format_),
        _bill_block(profile, format_),
        *advice_blocks(profile, format_),
        _notes_block(profile, format_),
    ]
    text = "\n\n".join("\n".join(_wrapped(line, width) for line in block) for block in blocks if block)
    return _without_tags(text) if format_ == "markdown" else text


def _wrapped(text: str, width: int | None) -> str:
    """A line of prose within a width, its later lines indented below its first; a table, which has lines, as it is."""
    if width is None or len(text) <= max(width, _LEAST_WIDTH) or "\n" in text:
        return text
    found = _LABEL.match(text)
    indent = found.end() if found else len(text) - len(text.lstrip()) + 2
    return textwrap.fill(text, max(width, _LEAST_WIDTH), subsequent_indent=" " * indent, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def _without_tags(markdown: str) -> str:
    """Text outside of tables without HTML; names in tables are code spans."""
    return "\n".join(line if line.startswith("|") else line.replace("<", "&lt;") for line in markdown.split("\n"))


def _answer_block(profile: TraceProfile, format_: str) -> list[str]:
    """What was found, what costs most, and which batch sizes to try: a line each."""
    lines = [f"**{headline(profile)}**" if format_ == "markdown" else headline(profile), *step_lines(profile)]
    lines.append(_sentence(_clauses(profile)[0] if profile.bill.lines else profile.bill.verdict))
    lines += answer_lines(profile)
    return [f"{line}  " for line in lines] if format_ == "markdown" else lines


def _sentence(text: str) -> str:
    line = clean(text, 800)
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")


def _classes_block(profile: TraceProfile, format_: str) -> list[str]:
    rows = [_time_row(row, format_, name="class", kind=False) for row in time_by(profile, "class")]
    if profile.copy_time_s:
        copy_s = profile.steps.copy_s if has_steps(profile) else None
        rows.append({
            **dict.fromkeys(rows[0], ""), "class": "(memcpy, memset)",
            **_time(profile.copy_time_s, copy_s, share_of_step(profile, copy_s), None),
        })  # fmt: skip
    lines = [*title(f"Where the kernels' time goes{_mean_of(profile)}", format_), render_rows(rows, format_)]
    lines += ["", *_legend(profile)]
    outside_s = profile.steps.outside_s
    if has_steps(profile) and outside_s >= _STRAY_SHARE * profile.kernel_time_s:
        lines.append(f"Beside these, {duration(outside_s)} of the trace's kernels run outside of its steps.")
    gaps = sorted(((s, cause) for cause, s in profile.steps.gap_s.items() if s > 0), reverse=True)
    if gaps and (profile.bill.lines or profile.steps.busy_share >= LITTLE_BUSY):
        idle_s, whole = sum(s for s, _ in gaps), "a step" if profile.steps.count else "the trace"
        causes = ", ".join(f"{duration(s)} {_CAUSES.get(cause, cause)}" for s, cause in gaps)
        lines.append(f"The GPU is idle for {duration(idle_s)} of {whole}: {causes}.")
    return lines


def _after_table(lines: list[str], format_: str) -> list[str]:
    """Lines below a table, which a blank line ends in Markdown."""
    return [*([""] if format_ == "markdown" and lines else []), *lines]


def _legend(profile: TraceProfile) -> list[str]:
    """What the words of the tables mean, as far as they are in them."""
    passes = {"fprop": "a convolution's forward pass", "dgrad": "its input's gradient", "wgrad": "its weights'"}
    told = [f"{name}: {what}" for name, what in passes.items() if name in profile.class_s]
    if any(group.waves is not None for group in profile.kernels):
        told.append("waves: rounds of thread blocks that the SMs need; wave eff.: share of their slots that work")
    return [f"({'; '.join(told)}.)"] if told else []


def _main_block(profile: TraceProfile, by: TableBy, rows: int, format_: str) -> list[str]:
    if by == "kernel":
        made = [_kernel_row(profile, group, format_) for group in _first(largest_first(profile), rows)]
        total, heading = len(profile.kernels), "Kernels (TC: on Tensor Cores; idle: of the last wave's slots, of SMs)"
    else:
        found = time_by(profile, _narrow(by))
        made = [_time_row(row, format_, name=by if by != "shape" else "operator") for row in _first(found, rows)]
        total, heading = len(found), {"operator": "Operators", "layer": "Layers and passes",
                                    "shape": "Operators by input shapes"}[by]  # fmt: skip
    lines = [*title(heading + _mean_of(profile), format_), render_rows(made, format_)]
    if total > len(made):
        lines += _after_table([f"... and {total - len(made):,} more; --rows 0 shows all."], format_)
    return lines


def _mean_of(profile: TraceProfile) -> str:
    counted = counted_steps(profile.steps)
    of = "" if counted == profile.steps.count else f" of {profile.steps.count}"
    return f", {'mean of ' if counted > 1 else ''}{counted}{of} steps" if counted > 1 or of else ""


def _first(items: Sequence[Any], rows: int) -> Sequence[Any]:
    return items if rows <= 0 else items[:rows]


def _narrow(by: TableBy) -> By:
    assert by != "kernel"
    return by


def _time(
    total_s: float, per_step_s: float | None, of_step: float | None, of_kernel_time: float | None
) -> dict[str, str | None]:
    """Time and share of a step; of the trace where it has no steps."""
    if per_step_s is None:
        return {"in all": duration(total_s), "of kernel time": "" if of_kernel_time is None else _share(of_kernel_time)}
    return {"per step": duration(per_step_s), "of step": None if of_step is None else _share(of_step)}


def _share(share: float) -> str:
    return percent(share, 1)


def _number(per_step: float | None, in_all: int | None) -> str | None:
    """A count per step where times are: "53", "0.5"; of the whole trace otherwise."""
    count = in_all if per_step is None else per_step
    return None if count is None else f"{count:,.1f}".removesuffix(".0")


def _time_row(row: TimeRow, format_: str, *, name: str, kind: bool = True) -> dict[str, Any]:
    return {
        name: cell(row.name, format_, _OPERATOR_WIDTH),
        **({"shapes": cell(row.shapes, format_, 60)} if row.shapes is not None else {}),
        **({"class": row.class_ or "several"} if kind else {}),
        **_time(row.total_s, row.per_step_s, row.share_of_step, row.share_of_kernel_time),
        "calls": _number(row.calls_per_step, row.calls),
        "kernels": _number(row.launches_per_step, row.launches),
        "on Tensor Cores": "" if row.tensor_core_share is None else percent(row.tensor_core_share),
        "wave eff.": "" if row.wave_efficiency is None else percent(row.wave_efficiency),
    }


def _kernel_row(profile: TraceProfile, group: KernelGroup, format_: str) -> dict[str, Any]:
    operation, steps = operation_of(profile, group), has_steps(profile)
    per_step_s = group.step_s if steps else None
    name = short_kernel(group.name, _KERNEL_WIDTH)
    return {
        "kernel": code(name) if format_ == "markdown" else name,
        "class": group.class_,
        "layer": None if operation is None else cell(operation.layer, format_, _LAYER_WIDTH),
        **_time(group.total_s, per_step_s, share_of_step(profile, per_step_s), group.share),
        "runs": _number(group.launches_per_step if steps else None, group.count),
        "TC": _used(group),
        "tile": clean(group.tile, 16) if group.tile else "",
        "CTAs/SM": group.ctas_per_sm,
        "waves": None if group.waves is None else f"{group.waves:,.2f}",
        "wave eff.": None if group.wave_efficiency is None else percent(group.wave_efficiency),
        "idle slots": None if group.idle_share is None else percent(group.idle_share),
        "idle SMs": None if group.idle_share_sms is None else percent(group.idle_share_sms),
        "note": clean(group.note, _NOTE_WIDTH) if group.note else "",
    }


def _used(group: KernelGroup) -> str | None:
    if group.class_ not in QUANTIZED:
        return ""
    if group.tensor_cores is None:
        return None
    return (group.precision or "yes") if group.tensor_cores else "no"


def _bill_block(profile: TraceProfile, format_: str) -> list[str]:
    bill = profile.bill
    if not bill.lines:
        return []
    lines = title("What a step loses" if profile.steps.count else "What the trace loses", format_)
    for line in bill.lines:
        lines += _bill_line(line, profile, format_)
    behind = [clause for clause in _clauses(profile)[1:] if not clause.startswith("then ")]  # it is a line above
    return [*lines, *_after_table([_sentence("; ".join(behind))] if behind else [], format_)]


def _clauses(profile: TraceProfile) -> list[str]:
    """The verdict: what is to gain most, then all else there is to say of it."""
    return profile.bill.verdict.split("; ")


def _cost(line: BillLine, profile: TraceProfile) -> str:
    """What a step would be shorter by; the kernels' own time first where the host's launches hide a part of it."""
    if line.lost_s is None or line.step_gain_s is None:
        return "?? (record_shapes=True)" if not any(operation.dims for operation in profile.operations) else "??"
    gain, share = duration(round(line.step_gain_s, 7)), percent(line.step_gain_s / profile.bill.step_s, 1)
    kind = "measured" if line.measured else "estimate"
    if line.step_gain_s >= HIDDEN * line.lost_s:
        return f"{gain} ({share}, {kind})"
    whole = "step" if profile.steps.count else "trace"
    lost = percent(line.lost_s / profile.bill.step_s)
    return (
        f"{duration(line.lost_s)} of kernels ({lost} of the {whole}, {kind}; the {whole} shows {gain} of it while the "
        "host holds it back)"
    )


def _bill_line(line: BillLine, profile: TraceProfile, format_: str) -> list[str]:
    head = f"{_cost(line, profile)}  {clean(line.what, 400)}"
    todo, items = clean(line.todo, 1000), [clean(item, 200) for item in line.items]
    if format_ == "markdown":
        return [f"- **{head}** {todo}", *(f"  - {item}" for item in items)]
    return [f"  {head}", f"      -> {todo}", *(f"         {item}" for item in items)]


def _ranks_block(ranks: RanksProfile, format_: str) -> list[str]:
    marks = {ranks.slowest: "slowest", ranks.fastest: "fastest"} if ranks.imbalance > EVEN else {}
    rows = [
        {
            "rank": str(facts.rank) if facts.rank is not None else cell(Path(facts.path).name, format_, 40),
            "GPU": cell(facts.gpu, format_, 32),
            "step": duration(facts.step_s),
            "own work": duration(facts.own_s),
            "communication": duration(facts.communication_s),
            "exposed": duration(facts.exposed_communication_s),
            "waits": duration(facts.waiting_s),
            "GPU busy": percent(facts.busy_share),
            "": marks.get(index, ""),
        }
        for index, facts in enumerate(ranks.ranks)
    ]
    return [
        *title(f"{len(ranks.ranks)} ranks, times per step", format_),
        render_rows(rows, format_),
        *([""] if format_ == "markdown" else []),
        clean(ranks.verdict, 600),
        *(clean(note, 400) for note in ranks.notes),
    ]


def _notes_block(profile: TraceProfile, format_: str) -> list[str]:
    end = "  " if format_ == "markdown" else ""
    batch = [f"batch    {clean(profile.batch.evidence, 300)}"]
    notes = [f"note     {clean(note, 400)}" for note in (*profile.gpu.notes, *profile.notes)
             if profile.batch.evidence not in note]  # fmt: skip
    told = conditions(profile)
    recorded = [f"recorded {told}"] if told else []
    return [line + end for line in (*batch, *recorded, *notes)]
