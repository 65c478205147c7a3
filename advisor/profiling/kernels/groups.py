"""Kernels of a trace in groups, one per name, launch shape, resources and operation: all that the analysis reads on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.kernel_names import KernelName, parse_kernel_name
from advisor.occupancy import SmLimits, resident_blocks
from advisor.profiling.kernels.classes import classify
from advisor.profiling.kernels.device import DeviceFacts
from advisor.profiling.kernels.waves import Cut, Launch, count_waves, read_cut
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.raw import Floats, Ints, Kernels, RawTrace
from advisor.profiling.records import QUANTIZED, KernelClass, KernelGroup, Operation, Phase

_EXACT = 2.0**53  # products of a grid above this are no grid
_PLAIN_SHARED_BYTES = 48 * 1024  # what a block may have without opting in


def group_kernels(raw: RawTrace, links: Links, steps: StepSpans, device: DeviceFacts) -> tuple[KernelGroup, ...]:
    """All kernels of the trace in groups, largest total first; their totals sum to the trace's kernel time.

    A group is one name, grid, block, registers, shared memory and operation. Linear in the kernels but for sorting.
    """
    kernels = raw.kernels
    if kernels.name.size == 0:
        return ()
    columns = (
        kernels.name,
        *kernels.grid.T,
        *kernels.block.T,
        kernels.registers,
        kernels.shared_bytes,
        links.operation,
    )
    group, first = group_rows(columns)
    times = _times(kernels, group, len(first), steps)
    occupancy = _occupancy(kernels, first, device)
    trace_s = float(kernels.duration_us.sum()) * 1e-6
    reduced = _reduced_operations(raw, links, first)
    groups = [
        _kernel_group(raw, links, int(kernel), row, times, occupancy, device, trace_s, reduced)
        for row, kernel in enumerate(first)
    ]
    return tuple(sorted(groups, key=lambda found: -found.total_s))


def occupancy_note(groups: Sequence[KernelGroup]) -> str | None:
    """One line on how the resident CTAs compare with the trace's own occupancy; None: it has none to compare with.

    Kineto asks NVIDIA's calculator without opting in to more than 48 KiB of shared memory, and writes 0 for kernels
    that have more: of them it says nothing.
    """
    judged = sum(group.count for group in groups if group.occupancy_agrees is not None)
    agree = sum(group.count for group in groups if group.occupancy_agrees)
    if not judged:
        return None
    silent = sum(group.count for group in groups if group.ctas_per_sm is not None and group.occupancy_agrees is None)
    rest = f"; of {silent} it tells none (over 48 KiB of shared memory)" if silent else ""
    return f"resident CTAs agree with the trace's own occupancy for {agree} of {judged} kernels{rest}"


@dataclass(frozen=True)
class _Times:
    """Per group: launches, seconds in total and in the median; per regular step, NaN where there is none."""

    count: Ints
    total_s: Floats
    median_s: Floats
    launches_per_step: Floats
    step_s: Floats


@dataclass(frozen=True)
class _Occupied:
    """Per group: CTAs of the grid and resident per SM (-1: unknown), what limits them, agreement (-1, 0, 1)."""

    ctas: Ints
    resident: Ints
    limiter: NDArray[Any]
    agrees: Ints


def group_rows(columns: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Number the distinct rows of many columns: (group of each row, first row of each group).

    Columns are packed into one 64-bit key as far as it holds them, which takes a few sorts instead of one per column.
    """
    key, span = np.zeros(len(columns[0]), dtype=np.int64), 1
    for given in columns:
        wide = int(given.max()) - int(given.min()) >= 2**31
        column = np.unique(given, return_inverse=True)[1].astype(np.int64) if wide else given
        least, most = int(column.min()), int(column.max())
        width = most - least + 1
        if span * width >= 2**62:
            key = np.unique(key, return_inverse=True)[1].astype(np.int64)
            span = int(key.max()) + 1
        key, span = key * width + (column - least), span * width
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return group.astype(np.int64), first.astype(np.int64)


def _times(kernels: Kernels, group: Ints, groups: int, steps: StepSpans) -> _Times:
    count = np.bincount(group, minlength=groups)
    order = np.lexsort((kernels.duration_us, group))
    ordered, start = kernels.duration_us[order], np.concatenate(([0], np.cumsum(count)[:-1]))
    low, high = start + (count - 1) // 2, start + count // 2
    launches = per_step = np.full(groups, np.nan)
    if steps.regular:
        inside = np.isin(steps.kernel_step, steps.regular)
        launches = np.bincount(group[inside], minlength=groups) / len(steps.regular)
        per_step = np.bincount(group[inside], kernels.duration_us[inside], groups) * 1e-6 / len(steps.regular)
    return _Times(
        count=count,
        total_s=np.bincount(group, kernels.duration_us, groups).astype(np.float64) * 1e-6,
        median_s=(ordered[low] + ordered[high]) / 2 * 1e-6,
        launches_per_step=launches,
        step_s=per_step,
    )


def _occupancy(kernels: Kernels, first: Ints, device: DeviceFacts) -> _Occupied:
    """CTAs, residency and its agreement with the trace for the groups whose first kernels are given."""
    grid, threads = kernels.grid[first], kernels.block[first].astype(np.float64).prod(axis=1)
    exact = (grid > 0).all(axis=1) & (grid.astype(np.float64).prod(axis=1) < _EXACT)
    ctas = np.where(exact, np.where(exact[:, None], grid, 1).prod(axis=1), -1)
    resident = np.full(len(first), -1)
    limiter = np.full(len(first), "", dtype=object)
    registers, shared = kernels.registers[first], kernels.shared_bytes[first]
    known = (kernels.block[first] > 0).all(axis=1) & (threads < 2**20)
    known &= (registers >= 0) & (registers < 2**20) & (shared >= 0) & (shared < 2**31)
    if device.limits is not None and known.any():
        found = resident_blocks(
            device.limits,
            threads=threads[known].astype(np.int64),
            registers=registers[known],
            shared_memory_bytes=shared[known],
        )
        resident[known], limiter[known] = found.blocks_per_sm, found.limiter
    return _Occupied(ctas, resident, limiter, _agreement(kernels, first, device.limits, resident, threads, shared))


def _agreement(
    kernels: Kernels, first: Ints, limits: SmLimits | None, resident: Ints, threads: Floats, shared: Ints
) -> Ints:
    """1, 0: whether the trace's "est. achieved occupancy %" follows from `resident`; -1: it cannot be asked.

    Kineto's formula (libkineto/src/cuda_occupancy, kernelOccupancy): min(resident, grid / SMs) x threads per block /
    threads per SM, rounded to a whole percent, without opting in to shared memory: 0 above 48 KiB.
    """
    told, per_sm = kernels.occupancy_percent[first], kernels.blocks_per_sm[first]
    if limits is None:
        return np.full(len(first), -1)
    asked = (resident >= 0) & np.isfinite(told) & (told >= 0) & np.isfinite(per_sm)
    asked &= ~((told == 0) & (shared > _PLAIN_SHARED_BYTES))
    ours = 100 * np.minimum(resident, np.where(asked, per_sm, 0)) * threads / limits.threads
    return np.where(asked, (np.abs(np.rint(ours) - told) <= 1).astype(np.int64), -1)


def _reduced_operations(raw: RawTrace, links: Links, first: Ints) -> frozenset[int]:
    """Operations in which a kernel sums the slices of a split K."""
    operations = links.operation[first]
    names = raw.kernels.name[first]
    sums = [index for index in np.unique(names) if _told(raw, int(index)).operation == "split-K reduction"]
    return frozenset(operations[np.isin(names, sums) & (operations >= 0)].tolist())


def _told(raw: RawTrace, name: int) -> KernelName:
    return parse_kernel_name(raw.names[name])


def _kernel_group(
    raw: RawTrace,
    links: Links,
    kernel: int,
    row: int,
    times: _Times,
    occupied: _Occupied,
    device: DeviceFacts,
    trace_s: float,
    reduced: frozenset[int],
) -> KernelGroup:
    """One group, from its first kernel and its row in the tables."""
    kernels, told = raw.kernels, _told(raw, int(raw.kernels.name[kernel]))
    index = int(links.operation[kernel])
    operation = links.operations[index] if index >= 0 else None
    phase: Phase = operation.phase if operation is not None else "other"
    class_ = classify(told.name, operation, phase)
    grid = _triple(kernels.grid[kernel])
    launch = Launch(grid if occupied.ctas[row] > 0 else None, _known(occupied.resident[row]), device.sms)
    cut = _cut(told, class_, operation, launch, reduced=index in reduced)
    tensor_cores, precision = _arithmetic(told, class_, operation, device)
    total_s = float(times.total_s[row])
    return KernelGroup(
        name=told.name,
        class_=class_,
        phase=phase,
        library=told.library,
        tile=told.tile,
        tile_m=cut.tile_m,
        tile_n=cut.tile_n,
        tile_k=told.tile_k,
        split_k=cut.split_k,
        persistent=cut.persistent,
        tensor_cores=tensor_cores,
        precision=precision,
        operation=index if index >= 0 else None,
        grid=grid,
        block=_triple(kernels.block[kernel]),
        registers=_known(kernels.registers[kernel]),
        shared_bytes=_known(kernels.shared_bytes[kernel]),
        ctas_per_sm=launch.resident,
        limiter=str(occupied.limiter[row]) or None,
        ctas=launch.ctas,
        **vars(count_waves(launch, cut)),
        occupancy_agrees=bool(occupied.agrees[row]) if occupied.agrees[row] >= 0 else None,
        note=_note(told, cut, launch, device),
        count=int(times.count[row]),
        total_s=total_s,
        median_s=float(times.median_s[row]),
        share=total_s / trace_s if trace_s > 0 else 0.0,
        helper=bool(told.helper),
        launches_per_step=_finite(times.launches_per_step[row]),
        step_s=_finite(times.step_s[row]),
    )


def _cut(told: KernelName, class_: KernelClass, operation: Operation | None, launch: Launch, *, reduced: bool) -> Cut:
    if class_ == "communication":
        return Cut(persistent=True, note="communication: few CTAs that loop, by design")
    if class_ not in QUANTIZED or told.helper:
        return Cut()
    return read_cut(told, operation.product if operation is not None else None, launch, reduced=reduced)


def _arithmetic(
    told: KernelName, class_: KernelClass, operation: Operation | None, device: DeviceFacts
) -> tuple[bool | None, str | None]:
    """Whether Tensor Cores are used, and the operands' precision: by the name, else by the operator where it decides.

    FP32 operands on Tensor Cores are TF32 up to Hopper; Blackwell also computes them as three BF16 products.
    """
    if class_ not in QUANTIZED or told.helper:
        return False, told.precision
    tensor_cores, precision = told.tensor_cores, told.precision
    if tensor_cores is None and device.public.has_tensor_cores is False:
        tensor_cores = False
    if precision is not None or operation is None or operation.product is None:
        return tensor_cores, precision
    dtype, capability = operation.product.dtype, device.public.compute_capability
    if dtype != "fp32":
        return tensor_cores, dtype
    if tensor_cores:
        return tensor_cores, "tf32" if capability is not None and capability < (10, 0) else None
    return tensor_cores, "fp32" if tensor_cores is False else None


def _note(told: KernelName, cut: Cut, launch: Launch, device: DeviceFacts) -> str | None:
    notes = [cut.note] if cut.note else []
    if launch.resident == 0:
        notes.append("needs more than an SM of this GPU has: is it the traced one?")
    capability = device.public.compute_capability
    if told.cluster not in (None, (1, 1)) and (capability is None or capability >= (9, 0)):
        rows, columns = told.cluster or (1, 1)
        notes.append(f"clusters of {rows}x{columns} CTAs: fewer may be resident than counted")
    return "; ".join(notes) or None


def _known(value: Any) -> int | None:
    return int(value) if value >= 0 else None


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _triple(values: Ints) -> tuple[int, int, int] | None:
    x, y, z = (int(value) for value in values)
    return (x, y, z) if min(x, y, z) >= 0 else None
