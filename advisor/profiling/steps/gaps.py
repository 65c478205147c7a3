"""How busy the GPU is in a step, and why it waits.

A step on the GPU's clock begins when the host begins it or when the GPU has done the work of the step before, whichever
is later, and lasts until the host ends it and its own work is done. So the wait for a step's data counts in that step,
and steps that the host launches ahead of the GPU are not counted twice.

A gap is a time in which neither kernel nor copy runs. Where what ends it was already waiting in the queue, and it is
short, the GPU itself took it:

- gpu: from one kernel to the next, 1 to 3 us each (V100 and A100); nobody waits for the host.

The cause of any other is what most of it was spent on by the threads that launch kernels:

- data: in a DataLoader, or in a copy to the GPU (staging pageable memory), or waiting for one;
- communication: in a collective on the host;
- sync: the gap began while the host was waiting for the GPU (`.item()`, `synchronize()`): the GPU ran dry because the
  host did not work ahead;
- host: all else: Python, the dispatch of operators and the launches take longer than the kernels.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.kernels.classes import class_by_name
from advisor.profiling.kernels.device import busiest_device
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.graphs import share_of_graphs
from advisor.profiling.linking.launches import launch_of
from advisor.profiling.raw import Copies, Floats, Ints, Kernels, Launches, Marks, Ops, RawTrace
from advisor.profiling.records import StepFacts
from advisor.profiling.steps.intervals import TO_GPU, TO_HOST, Union, named, on_host

CAUSES = ("host", "data", "communication", "sync", "gpu")
_LAUNCH_US = 10.0  # from a launch to its kernel on an idle GPU: at least 9 on a V100, 11 on an A100, as traced
_TURNOVER_US = 10.0  # a longer gap has another cause, though its kernel was launched: an event, another GPU
_LOADS = re.compile(r"data_?loader|data_?load\b|load_?data|fetch_?next|next_?batch|get_?batch", re.IGNORECASE).search
_COLLECTIVE = re.compile(r"^(nccl|gloo|mpi|ucc):|^c10d::|record_param_comms").search
_WAITS = re.compile(r"(cuda|cu|hip)(Stream|Device|Event|Ctx)Synchronize").search
_Column = Ops | Marks | Launches


def step_facts(raw: RawTrace, links: Links, steps: StepSpans) -> StepFacts:
    """What the regular steps have in common. Of several GPUs in one trace, times are those of the busiest.

    Without steps `count` is 0, and the figures are of the whole trace, from its first work on the GPU to its last.
    """
    start, end = _windows(raw, links, steps)
    regular = np.array(steps.regular or (0,), dtype=np.int64)
    kernel_rows, copy_rows = _of_busiest_device(raw)
    kernels = _covered(raw.kernels, kernel_rows)
    copies = _covered(raw.copies, copy_rows)
    of_copy = _copy_kinds(raw)[copy_rows]
    busy = Union.of(np.concatenate([kernels[0], copies[0]]), np.concatenate([kernels[1], copies[1]]))
    lengths = end - start

    gap_start, gap_end = busy.gaps(float(start.min()), float(end.max()))
    cause = _causes(raw, links, gap_start, gap_end)
    cause[_queued(raw, links, kernel_rows, copy_rows, gap_start, gap_end)] = CAUSES.index("gpu")
    gaps = {
        name: Union.of(gap_start[cause == i], gap_end[cause == i]).within(start, end) / 1e6
        for i, name in enumerate(CAUSES)
    }
    wire = np.isin(kernel_rows, named(raw, raw.kernels.name, lambda name: class_by_name(name) == "communication"))
    work = Union.of(np.append(kernels[0][~wire], copies[0]), np.append(kernels[1][~wire], copies[1]))

    def mean_apart(rest: Union) -> float:
        return max(0.0, float((busy.within(start, end) - rest.within(start, end))[regular].mean()) / 1e6)

    inside = steps.kernel_step >= 0
    counted = np.isin(steps.kernel_step, regular) if steps.names else ~inside
    copied = np.isin(steps.copy_step, regular) if steps.names else steps.copy_step < 0
    durations = raw.kernels.duration_us
    return StepFacts(
        count=len(steps.names),
        found_by=steps.found_by,
        durations_s=tuple((lengths / 1e6).tolist()) if steps.names else (),
        step_s=float(lengths[regular].mean()) / 1e6,
        busy_share=float(busy.within(start, end)[regular].sum() / max(lengths[regular].sum(), 1e-9)),
        kernel_s=float(durations[counted].sum()) / len(regular) / 1e6,
        gap_s={name: float(of_steps[regular].mean()) for name, of_steps in gaps.items()},
        exposed_communication_s=mean_apart(work),
        launches=float(counted.sum()) / len(regular),
        outside_s=float(durations[~inside].sum()) / 1e6 if steps.names else 0.0,
        first_step_differs=bool(steps.names) and 0 not in steps.regular,
        step_gap_s=tuple({name: float(gaps[name][i]) for name in CAUSES} for i in range(len(steps.names))),
        exposed_copy_s=mean_apart(Union.of(*kernels)),
        exposed_copies_s={
            kind: mean_apart(_without(kernels, copies, of_copy == kind)) for kind in np.unique(of_copy).tolist()
        },
        graph_share=share_of_graphs(raw, links),
        copy_s=float(raw.copies.duration_us[copied].sum()) / len(regular) / 1e6,
    )


def _windows(raw: RawTrace, links: Links, steps: StepSpans) -> tuple[Floats, Floats]:
    """Start and end of each step on the GPU's clock; without steps, of all work on the GPU. Microseconds."""
    ends = np.concatenate(
        [raw.kernels.start_us + raw.kernels.duration_us, raw.copies.start_us + raw.copies.duration_us]
    )
    if not steps.names:
        starts = np.concatenate([raw.kernels.start_us, raw.copies.start_us])
        return (np.array([starts.min()]), np.array([ends.max()])) if len(ends) else (np.zeros(1), np.zeros(1))
    launched = np.concatenate([
        on_host(raw, links.launch, raw.kernels.start_us),
        on_host(raw, launch_of(raw, raw.copies), raw.copies.start_us),
    ])  # fmt: skip
    begun = np.searchsorted(steps.start_us, launched, side="right")  # 0: before the first step
    done_before = np.maximum.accumulate(_latest(begun, ends, len(steps.names) + 1))[:-1]
    own = np.concatenate([steps.kernel_step, steps.copy_step])
    start = np.maximum(steps.start_us, done_before)
    end = np.maximum(steps.end_us, _latest(own + 1, ends, len(steps.names) + 1)[1:])
    return start, np.maximum(np.minimum(end, np.append(start[1:], np.inf)), start)


def _latest(group: Ints, times: Floats, groups: int) -> Floats:
    latest = np.full(groups, -np.inf)
    np.maximum.at(latest, group, times)
    return latest


def _of_busiest_device(raw: RawTrace) -> tuple[Ints, Ints]:
    """Rows of the kernels and of the copies of the GPU with most kernel time."""
    if len(np.unique(raw.kernels.device)) < 2:
        return np.arange(len(raw.kernels.name)), np.arange(len(raw.copies.name))
    busiest = busiest_device(raw)
    return np.flatnonzero(raw.kernels.device == busiest), np.flatnonzero(raw.copies.device == busiest)


def _copy_kinds(raw: RawTrace) -> NDArray[np.str_]:
    """Of each copy what it is: "pageable" and "pinned" memory to the GPU, "to host", "on the GPU" (fills too)."""
    kinds = np.full(len(raw.copies.name), "on the GPU")
    to_gpu = named(raw, raw.copies.name, TO_GPU)
    kinds[to_gpu] = "pageable"
    kinds[np.intersect1d(to_gpu, named(raw, raw.copies.name, re.compile("Pinned").search))] = "pinned"
    kinds[named(raw, raw.copies.name, TO_HOST)] = "to host"
    return kinds


def _without(kernels: tuple[Floats, Floats], copies: tuple[Floats, Floats], left_out: NDArray[np.bool_]) -> Union:
    """What is covered by kernels and all other copies."""
    return Union.of(np.append(kernels[0], copies[0][~left_out]), np.append(kernels[1], copies[1][~left_out]))


def _covered(column: _Column | Kernels | Copies, rows: Ints) -> tuple[Floats, Floats]:
    start = column.start_us[rows]
    return start, start + column.duration_us[rows]


def _causes(raw: RawTrace, links: Links, start: Floats, end: Floats) -> Ints:
    """Index into CAUSES of each gap."""
    threads = np.unique(raw.launches.thread[links.launch[links.launch >= 0]])
    to_gpu, to_host = named(raw, raw.copies.name, TO_GPU), named(raw, raw.copies.name, TO_HOST)
    started = launch_of(raw, raw.copies)
    feeding, reading = started[to_gpu], started[to_host]
    feeding, reading = feeding[feeding >= 0], reading[reading >= 0]
    data = _spent(threads, *_ranges(raw, _LOADS), (raw.launches, feeding))
    collective = _spent(threads, *_ranges(raw, _COLLECTIVE))
    waits = np.concatenate([named(raw, raw.launches.name, _WAITS), feeding, reading])
    waiting = _spent(threads, (raw.launches, waits)).contains(start)
    fed = np.isin(start, _covered(raw.copies, to_gpu)[1])

    of_data, of_collective = data.within(start, end), collective.within(start, end)
    rest = end - start - of_data - of_collective
    cause: Ints = np.select(
        [(of_data >= of_collective) & (of_data >= rest), of_collective >= rest, waiting & fed, waiting],
        [CAUSES.index("data"), CAUSES.index("communication"), CAUSES.index("data"), CAUSES.index("sync")],
        CAUSES.index("host"),
    )
    return cause


def _queued(
    raw: RawTrace, links: Links, kernels: Ints, copies: Ints, gap_start: Floats, gap_end: Floats
) -> NDArray[np.bool_]:
    """Per gap whether it is short and what ends it was launched early enough to have begun when the gap did."""
    starts = np.append(raw.kernels.start_us[kernels], raw.copies.start_us[copies])
    launched = np.append(
        on_host(raw, links.launch, raw.kernels.start_us)[kernels],
        on_host(raw, launch_of(raw, raw.copies), raw.copies.start_us)[copies],
    )
    order = np.argsort(starts, kind="stable")
    at = np.minimum(np.searchsorted(starts[order], gap_end), len(order) - 1)
    ends_it = order[at]
    early = (starts[ends_it] == gap_end) & (launched[ends_it] + _LAUNCH_US <= gap_start)
    queued: NDArray[np.bool_] = early & (gap_end - gap_start <= _TURNOVER_US)
    return queued


def _ranges(raw: RawTrace, matches: Callable[[str], object]) -> tuple[tuple[_Column, Ints], ...]:
    """Operators and marks of the host under such names."""
    marks = named(raw, raw.marks.name, matches)
    return (raw.ops, named(raw, raw.ops.name, matches)), (raw.marks, marks[~raw.marks.on_gpu[marks]])


def _spent(threads: Ints, *ranges: tuple[_Column, Ints]) -> Union:
    """When any of the threads was in any of the ranges."""
    spans = [_covered(column, rows[np.isin(column.thread[rows], threads)]) for column, rows in ranges]
    return Union.of(np.concatenate([start for start, _ in spans]), np.concatenate([end for _, end in spans]))
