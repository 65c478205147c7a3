"""The tables of a plan: as a person reads them, and in plain numbers for CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from advisor.errors import BadInputError
from advisor.planning.changes import range_text
from advisor.planning.records import PlanAnswer, RankedCut, ScheduleRow, TargetPoint
from advisor.units import duration, gib, long_times, rate

_Rows = list[dict[str, Any]]
MISSING = {  # why a plan may have no such table
    "schedule": "give --dataset-size and --epochs",
    "target": "no critical batch is known for this model (--critical-batch or --task gives one), or the global batch "
    "is beyond what is searched",
    "changes": "the global batch is as asked; --change-global-batch changes it to another",
}


# As a person reads them -----------------------------------------------------------------------------------------------


def cuts_table(answer: PlanAnswer) -> _Rows:
    """Every exact cut, the planned one first."""
    return [_cut_row(i, ranked, answer) for i, ranked in enumerate(answer.planned.cuts)]


def schedule_table(answer: PlanAnswer) -> _Rows:
    """The learning rate at the steps where something happens."""
    schedule = _there(answer.planned.schedule, "schedule")
    return [_schedule_row(row) for row in schedule.rows]


def target_table(answer: PlanAnswer) -> _Rows:
    """What each global batch takes to the target, by global batch."""
    target = _there(answer.target, "target")
    fewer = target.cheapest is not None  # GPUs were tried; on all of them the cost goes with the time
    return [_target_row(point, relative_cost=fewer) for point in target.points]


def changes_table(answer: PlanAnswer) -> _Rows:
    """Before and after a change of the global batch."""
    return [{"": row.what, "before": row.before, "after": row.after} for row in _changed(answer)]


TABLES: Mapping[str, Callable[[PlanAnswer], _Rows]] = {
    "cuts": cuts_table, "schedule": schedule_table, "target": target_table, "changes": changes_table,
}  # fmt: skip


def _there(part: Any, table: str) -> Any:
    if part is None:
        raise BadInputError(f"this plan has no table {table}: {MISSING[table]}")
    return part


def _changed(answer: PlanAnswer) -> Any:
    return _there(answer.changes or None, "changes")


def _cut_row(place: int, ranked: RankedCut, answer: PlanAnswer) -> dict[str, str]:
    cut = ranked.cut
    remark = "planned" if place == 0 else "does not fit" if not ranked.fits else "tie" if ranked.tie else ""
    row = {
        "per GPU": f"{cut.batch:,}",
        "accumulation": f"{cut.accumulation:,}",
        "GPUs": f"{cut.gpus:,}",
        "global batch": f"{cut.global_batch:,}",
        "step": duration(ranked.step_s),
        "of least": f"{100 * ranked.relative_time:,.1f} %",
        f"{answer.model.samples}/s": rate(ranked.samples_per_s),
        "memory": gib(ranked.memory_bytes),
        "BatchNorm sees": f"{cut.batch:,}",
        "": remark,
    }
    if ranked.batch_norm_samples is None:
        del row["BatchNorm sees"]
    return row


def _schedule_row(row: ScheduleRow) -> dict[str, str]:
    return {
        "from step": f"{row.step:,}",
        "epoch": f"{row.epoch:.4g}",
        "of full rate": f"{row.factor:.4g}",
        **({} if row.rate is None else {"learning rate": f"{row.rate:.4g}"}),
        "what": row.what,
    }


def _target_row(point: TargetPoint, *, relative_cost: bool) -> dict[str, str]:
    shown = {
        "global batch": f"{point.global_batch:,}",
        "GPUs": f"{point.gpus:,}",
        "cut": f"{point.cut.batch:,} x {point.cut.accumulation:,}",
        "samples to target": range_text(point.samples_factor, _times),
    }
    if point.time_s is not None:
        shown["time to target"] = long_times(min(point.time_s), max(point.time_s))
    shown["of best time"] = range_text(point.relative_time, _times)
    if relative_cost:
        shown["of least cost"] = range_text(point.relative_cost, _times)
    if point.cost is not None:
        shown["cost"] = range_text(point.cost, rate)
    return {**shown, "why listed": ", ".join(point.roles)}


def _times(ratio: float) -> str:
    return f"{ratio:.3g} x"


# In plain numbers -----------------------------------------------------------------------------------------------------


def plain_table(answer: PlanAnswer, table: str) -> _Rows:
    """One table in plain numbers: seconds, bytes and shares. Raises BadInputError where the plan does not have it."""
    if table == "cuts":
        return [_plain_cut(i, ranked) for i, ranked in enumerate(answer.planned.cuts)]
    if table == "schedule":
        rows = _there(answer.planned.schedule, table).rows
        return [{"step": r.step, "epoch": r.epoch, "factor": r.factor, "rate": r.rate, "what": r.what} for r in rows]
    if table == "target":
        return [_plain_point(point) for point in _there(answer.target, table).points]
    return [{"what": row.what, "before": row.before, "after": row.after} for row in _changed(answer)]


def _plain_cut(place: int, ranked: RankedCut) -> dict[str, Any]:
    cut = ranked.cut
    return {
        "planned": place == 0,
        "batch_per_gpu": cut.batch,
        "accumulation": cut.accumulation,
        "gpus": cut.gpus,
        "global_batch": cut.global_batch,
        "step_s": ranked.step_s,
        "of_least": ranked.relative_time,
        "tie": ranked.tie,
        "samples_per_s": ranked.samples_per_s,
        "memory_bytes": ranked.memory_bytes,
        "fits": ranked.fits,
        "batch_norm_samples": ranked.batch_norm_samples,
    }


def _plain_point(point: TargetPoint) -> dict[str, Any]:
    pairs = {
        "samples_factor": point.samples_factor, "time_s": point.time_s, "relative_time": point.relative_time,
        "relative_cost": point.relative_cost, "cost": point.cost,
    }  # fmt: skip
    return {
        "global_batch": point.global_batch,
        "gpus": point.gpus,
        "batch_per_gpu": point.cut.batch,
        "accumulation": point.cut.accumulation,
        **{
            f"{name}_{end}": None if pair is None else pair[i]
            for name, pair in pairs.items()
            for i, end in enumerate(("low_critical", "high_critical"))
        },
        "roles": "; ".join(point.roles),
    }
