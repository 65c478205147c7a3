"""A trace's profile as text: the headline first, then where the time goes, what it costs, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from advisor.cli.output import render_rows
from advisor.cli.profile_advice import advice_blocks, answer_lines
from advisor.profiling.bill.subject import HIDDEN
from advisor.profiling.output.headline import headline
from advisor.profiling.output.provenance import conditions, step_lines
from advisor.profiling.output.ranks import EVEN
from advisor.profiling.output.tables import By, TimeRow, operation_of, steps_divisor, time_by
from advisor.profiling.output.text import cell, clean, code, short_kernel, title
from advisor.profiling.records import QUANTIZED, BillLine, KernelGroup, RanksProfile, TraceProfile
from advisor.units import duration, percent

TableBy = Literal["class", "operator", "layer", "shape", "kernel"]
_CAUSES = {
    "host": "the host launches too slowly",
    "data": "loading or copying data",
    "communication": "communication on the host",
    "sync": "the host waited for the GPU (.item(), synchronize()) instead of working ahead",
    "gpu": "from one queued kernel to the next",
}
_KERNEL_WIDTH, _LAYER_WIDTH, _OPERATOR_WIDTH, _NOTE_WIDTH = 44, 36, 56, 40


def report(profile: TraceProfile, *, by: TableBy = "kernel", rows: int = 15, format_: str = "table") -> str:
    """The whole profile as "table" or "markdown"; `rows` of the longest table, 0 for all."""
    blocks = [
        _answer_block(profile, format_),
        _ranks_block(profile.ranks, format_) if profile.ranks else [],
        _classes_block(profile, format_),
        [] if by == "class" else _main_block(profile, by, rows, format_),
        _bill_block(profile, format_),
        *advice_blocks(profile, format_),
        _notes_block(profile, format_),
    ]
    text = "\n\n".join("\n".join(block) for block in blocks if block)
    return _without_tags(text) if format_ == "markdown" else text


def _without_tags(markdown: str) -> str:
    """Text outside of tables without HTML; names in tables are code spans."""
    return "\n".join(line if line.startswith("|") else line.replace("<", "&lt;") for line in markdown.split("\n"))


def _answer_block(profile: TraceProfile, format_: str) -> list[str]:
    """What was found, what costs most, and which batch sizes to try: a line each."""
    lines = [f"**{headline(profile)}**" if format_ == "markdown" else headline(profile), *step_lines(profile)]
    if profile.bill.lines:
        lines.append(_sentence(profile.bill.verdict))
    lines += answer_lines(profile)
    return [f"{line}  " for line in lines] if format_ == "markdown" else lines


def _sentence(text: str) -> str:
    line = clean(text, 800)
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")


def _classes_block(profile: TraceProfile, format_: str) -> list[str]:
    divisor = steps_divisor(profile)
    rows = [_time_row(row, divisor, format_, name="class", kind=False) for row in time_by(profile, "class")]
    if profile.copy_time_s:
        rows.append({
            **dict.fromkeys(rows[0], ""), "class": "(memcpy, memset)",
            **_time(profile.copy_time_s, profile.steps.copy_s if divisor else None),
        })  # fmt: skip
    lines = [*title(f"Where the kernels' time goes{_mean_of(divisor)}", format_), render_rows(rows, format_)]
    gaps = sorted(((s, cause) for cause, s in profile.steps.gap_s.items() if s > 0), reverse=True)
    if gaps:
        idle_s, whole = sum(s for s, _ in gaps), "a step" if profile.steps.count else "the trace"
        causes = ", ".join(f"{duration(s)} {_CAUSES.get(cause, cause)}" for s, cause in gaps)
        lines += ["", f"The GPU is idle for {duration(idle_s)} of {whole}: {causes}."]
    return lines


def _main_block(profile: TraceProfile, by: TableBy, rows: int, format_: str) -> list[str]:
    if by == "kernel":
        made = [_kernel_row(profile, group, format_) for group in _first(profile.kernels, rows)]
        total, heading = len(profile.kernels), "Kernels (TC: on Tensor Cores; last idle: of the last wave's slots)"
    else:
        found, divisor = time_by(profile, _narrow(by)), steps_divisor(profile)
        made = [
            _time_row(row, divisor, format_, name=by if by != "shape" else "operator") for row in _first(found, rows)
        ]
        total, heading = len(found), {"operator": "Operators", "layer": "Layers and passes",
                                    "shape": "Operators by input shapes"}[by]  # fmt: skip
    lines = [*title(heading + _mean_of(steps_divisor(profile)), format_), render_rows(made, format_)]
    if total > len(made):
        lines += [*([""] if format_ == "markdown" else []), f"... and {total - len(made)} more; --rows 0 shows all."]
    return lines


def _mean_of(divisor: int | None) -> str:
    return "" if divisor is None or divisor == 1 else f", mean of {divisor} steps"


def _first(items: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    return items if rows <= 0 else items[:rows]


def _narrow(by: TableBy) -> By:
    assert by != "kernel"
    return by


def _time(total_s: float, per_step_s: float | None) -> dict[str, str]:
    return {"in all": duration(total_s)} if per_step_s is None else {"per step": duration(per_step_s)}


def _number(count: int | None, divisor: int | None) -> str | None:
    """A count per step where times are: "53", "0.5"; of the whole trace otherwise."""
    return None if count is None else f"{count / (divisor or 1):,.1f}".removesuffix(".0")


def _time_row(row: TimeRow, divisor: int | None, format_: str, *, name: str, kind: bool = True) -> dict[str, Any]:
    return {
        name: cell(row.name, format_, _OPERATOR_WIDTH),
        **({"shapes": cell(row.shapes, format_, 60)} if row.shapes is not None else {}),
        **({"class": row.class_ or "several"} if kind else {}),
        **_time(row.total_s, row.per_step_s),
        "share": percent(row.share, 1),
        "calls": _number(row.calls, divisor),
        "kernels": _number(row.launches, divisor),
        "on Tensor Cores": "" if row.tensor_core_share is None else percent(row.tensor_core_share),
        "wave eff.": "" if row.wave_efficiency is None else percent(row.wave_efficiency),
    }


def _kernel_row(profile: TraceProfile, group: KernelGroup, format_: str) -> dict[str, Any]:
    operation = operation_of(profile, group)
    divisor = steps_divisor(profile)
    name = short_kernel(group.name, _KERNEL_WIDTH)
    return {
        "kernel": code(name) if format_ == "markdown" else name,
        "class": group.class_,
        "layer": None if operation is None else cell(operation.layer, format_, _LAYER_WIDTH),
        **_time(group.total_s, group.total_s / divisor if divisor else None),
        "share": percent(group.share, 1),
        "runs": _number(group.count, divisor),
        "TC": _used(group),
        "tile": clean(group.tile, 16) if group.tile else "",
        "CTAs/SM": group.ctas_per_sm,
        "waves": None if group.waves is None else f"{group.waves:.2f}",
        "wave eff.": None if group.wave_efficiency is None else percent(group.wave_efficiency),
        "last idle": None if group.idle_share is None else percent(group.idle_share),
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
    lines = title("What a step loses" if profile.steps.count else "What the trace loses", format_)
    for line in bill.lines:
        lines += _bill_line(line, profile, format_)
    return lines if bill.lines else [*lines, _sentence(bill.verdict)]


def _cost(line: BillLine, profile: TraceProfile) -> str:
    """What a step would be shorter by; beside it the kernels' own time, where the host's launches hide a part of it."""
    if line.lost_s is None or line.step_gain_s is None:
        return "??"
    gain, share = duration(round(line.step_gain_s, 7)), percent(line.step_gain_s / profile.bill.step_s, 1)
    kind = "measured" if line.measured else "estimate"
    if line.step_gain_s >= HIDDEN * line.lost_s:
        return f"{gain} ({share}, {kind})"
    whole = "step" if profile.steps.count else "trace"
    return f"{gain} of the {whole} ({share}, {kind}), {duration(line.lost_s)} of its kernels"


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
