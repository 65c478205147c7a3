"""A trace's time by class, operator, layer and input shape, and its kernels as flat rows: what is printed and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from advisor.profiling.records import QUANTIZED, KernelGroup, Operation, TraceProfile

By = Literal["class", "operator", "layer", "shape"]
NO_OPERATOR = "(no operator found)"
_SHAPES_SHOWN = 4


class TimeRow(msgspec.Struct, frozen=True, kw_only=True):
    """Kernel time of all that shares one class, operator, layer and pass, or operator and input shapes."""

    name: str
    class_: str | None = msgspec.field(name="class")  # null: kernels of several classes
    shapes: str | None = None  # of the operator's inputs; in the table by shape
    calls: int | None = None  # of the operators that were found, in the whole trace; null: none was
    launches: int  # of kernels, in the whole trace
    total_s: float  # in the whole trace
    calls_per_step: float | None = None  # as `launches_per_step`
    launches_per_step: float | None  # mean over the regular steps; null: the trace has no steps
    per_step_s: float | None  # as above
    share_of_step: float | None  # `per_step_s` of the step's time; sums to more than 1 where kernels overlap
    share_of_kernel_time: float  # `total_s` of the whole trace's
    tensor_core_share: float | None  # of the time of products, convolutions and attention; null: none, or untold
    wave_efficiency: float | None  # over slots, mean weighted by time, of the same kernels


class KernelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group of kernels, flat: all launches of one kernel with one shape, grid and resources."""

    name: str
    class_: str = msgspec.field(name="class")
    phase: str
    library: str
    operator: str | None
    layer: str | None
    shapes: str | None
    launches: int
    total_s: float
    launches_per_step: float | None
    per_step_s: float | None
    median_s: float
    share_of_step: float | None
    share_of_kernel_time: float
    tensor_cores: bool | None
    precision: str | None
    tile: str | None
    split_k: bool | None
    persistent: bool
    grid: str | None
    block: str | None
    registers_per_thread: int | None
    shared_memory_bytes: int | None
    ctas: int | None
    ctas_per_sm: int | None
    limiter: str | None
    waves: float | None
    wave_efficiency: float | None
    wave_efficiency_sms: float | None
    idle_share: float | None
    idle_share_sms: float | None
    occupancy_agrees: bool | None
    note: str | None


def has_steps(profile: TraceProfile) -> bool:
    """Whether figures per step are known; they are means over the regular steps, as `StepFacts` and the bill are."""
    return profile.steps.count > 0


def share_of_step(profile: TraceProfile, per_step_s: float | None) -> float | None:
    """What share of a step's time so many seconds of it are; None without steps."""
    return per_step_s / profile.steps.step_s if per_step_s is not None and profile.steps.step_s > 0 else None


def time_by(profile: TraceProfile, by: By) -> tuple[TimeRow, ...]:
    """Kernel time by class, operator, layer (and pass) or operator and input shapes, the largest of a step first."""
    key_of = _KEYS[by]
    members: dict[_Key, list[KernelGroup]] = {}
    for group in profile.kernels:
        members.setdefault(key_of(group, operation_of(profile, group)), []).append(group)
    rows = (_row(profile, key, groups, shapes=by == "shape") for key, groups in members.items())
    return tuple(sorted(rows, key=lambda row: (-(row.per_step_s or 0.0), -row.total_s)))


def kernel_rows(profile: TraceProfile) -> tuple[KernelRow, ...]:
    """Every group of kernels, the largest of a step first."""
    return tuple(_kernel_row(profile, group, operation_of(profile, group)) for group in largest_first(profile))


def largest_first(profile: TraceProfile) -> list[KernelGroup]:
    """The groups of kernels by their time in a step, then by that in the trace."""
    return sorted(profile.kernels, key=lambda group: (-(group.step_s or 0.0), -group.total_s))


def plain(rows: Iterable[msgspec.Struct]) -> list[dict[str, Any]]:
    """Rows as dicts, with the keys that JSON has."""
    return [msgspec.to_builtins(row) for row in rows]


def operation_of(profile: TraceProfile, group: KernelGroup) -> Operation | None:
    """The operation that a group of kernels belongs to."""
    return None if group.operation is None else profile.operations[group.operation]


def shapes_text(dims: Iterable[Any]) -> str:
    """Shapes of an operator's tensors: "32x64x56x56, 64x64x1x1"; long lists of tensors are counted."""
    tensors = [dim for dim in dims if dim]
    shown = [_one_shape(dim) for dim in tensors[:_SHAPES_SHOWN]]
    return ", ".join(shown) + (f" and {len(tensors) - len(shown)} more" if len(tensors) > len(shown) else "")


def _one_shape(dim: tuple[Any, ...]) -> str:
    if not isinstance(dim[0], tuple):
        return "x".join(map(str, dim))
    first = _one_shape(dim[0]) if dim[0] else "scalar"
    return f"[{first}]" if len(dim) == 1 else f"[{first} and {len(dim) - 1} more]"


_Key = tuple[Any, ...]  # the first is the name; in the table by shape the second are the shapes

_KEYS: dict[By, Callable[[KernelGroup, Operation | None], _Key]] = {
    "class": lambda group, operation: (group.class_,),
    "operator": lambda group, operation: (operation.name if operation else NO_OPERATOR,),
    "layer": lambda group, operation: (operation.layer if operation else NO_OPERATOR, group.class_),
    "shape": lambda group, operation: (operation.name, operation.dims) if operation else (NO_OPERATOR, ()),
}


def _row(profile: TraceProfile, key: _Key, groups: list[KernelGroup], *, shapes: bool) -> TimeRow:
    total_s = sum(group.total_s for group in groups)
    steps = has_steps(profile)
    per_step_s = _sum(group.step_s for group in groups) if steps else None
    classes = {group.class_ for group in groups}
    operations = {group.operation for group in groups}
    found = [profile.operations[i] for i in operations if i is not None]
    products = [group for group in groups if group.class_ in QUANTIZED]
    return TimeRow(
        name=key[0],
        class_=classes.pop() if len(classes) == 1 else None,
        shapes=shapes_text(key[1]) if shapes else None,
        calls=sum(operation.calls for operation in found) if found else None,
        launches=sum(group.count for group in groups),
        total_s=total_s,
        calls_per_step=_sum(operation.calls_per_step for operation in found) if steps else None,
        launches_per_step=_sum(group.launches_per_step for group in groups) if steps else None,
        per_step_s=per_step_s,
        share_of_step=share_of_step(profile, per_step_s),
        share_of_kernel_time=total_s / profile.kernel_time_s if profile.kernel_time_s else 0.0,
        tensor_core_share=_mean((float(g.tensor_cores), g.total_s) for g in products if g.tensor_cores is not None),
        wave_efficiency=_mean((g.wave_efficiency, g.total_s) for g in products if g.wave_efficiency is not None),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """Sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(weighted: Iterable[tuple[float, float]]) -> float | None:
    """Mean of (value, weight) pairs; None where there is nothing to weigh."""
    pairs = list(weighted)
    weight = sum(w for _, w in pairs)
    return sum(value * w for value, w in pairs) / weight if weight > 0 else None


def _kernel_row(profile: TraceProfile, group: KernelGroup, operation: Operation | None) -> KernelRow:
    steps = has_steps(profile)
    per_step_s = group.step_s if steps else None
    return KernelRow(
        name=group.name,
        class_=group.class_,
        phase=group.phase,
        library=group.library,
        operator=operation.name if operation else None,
        layer=operation.layer if operation else None,
        shapes=shapes_text(operation.dims) if operation and operation.dims else None,
        launches=group.count,
        total_s=group.total_s,
        launches_per_step=group.launches_per_step if steps else None,
        per_step_s=per_step_s,
        median_s=group.median_s,
        share_of_step=share_of_step(profile, per_step_s),
        share_of_kernel_time=group.share,
        tensor_cores=group.tensor_cores,
        precision=group.precision,
        tile=group.tile,
        split_k=group.split_k,
        persistent=group.persistent,
        grid="x".join(map(str, group.grid)) if group.grid else None,
        block="x".join(map(str, group.block)) if group.block else None,
        registers_per_thread=group.registers,
        shared_memory_bytes=group.shared_bytes,
        ctas=group.ctas,
        ctas_per_sm=group.ctas_per_sm,
        limiter=group.limiter,
        waves=group.waves,
        wave_efficiency=group.wave_efficiency,
        wave_efficiency_sms=group.wave_efficiency_sms,
        idle_share=group.idle_share,
        idle_share_sms=group.idle_share_sms,
        occupancy_agrees=group.occupancy_agrees,
        note=group.note,
    )
