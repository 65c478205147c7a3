"""Lines of the bill on the time in which the GPU runs nothing: measured, by cause, with what to do."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.profiling.records import BillLine, KernelGroup, Operation, StepFacts
from advisor.units import duration, percent

LEAST_SHARE = 0.002  # of a step: shorter gaps are no line
SHORT_S = 1e-5  # kernels below this take about as long to launch as to run
MANY_UPDATES = 20  # kernels of one optimizer operator in a step that say it loops over the parameters
WHAT = {
    "host": "the GPU waits for the host's launches",
    "data": "the GPU waits for data",
    "communication": "the GPU waits for communication",
    "gpu": "the GPU changes from one kernel to the next, though they are queued",
    "sync": "the GPU runs dry while the host waits for it (.item(), .cpu(), synchronize())",
    "exposed communication": "communication that no other kernel hides",
    "exposed copies": "copies that no kernel hides",
}
TODO = {
    "data": "more DataLoader workers, pin_memory=True, persistent_workers=True, copies with non_blocking=True, "
    "or decoding on the GPU; the batch size changes nothing here",
    "gpu": "fewer kernels, fused by torch.compile, or CUDA graphs, in which the change is shorter",
    "communication": "overlap it: DistributedDataParallel's bucket_cap_mb, gradient_as_bucket_view=True, accumulation "
    "under no_sync(), fewer and larger messages",
    "sync": "keep the loss on the GPU and read it every so many steps; no .item(), .cpu() or print of tensors, no "
    "boolean masks whose size the host must know",
}
_GRAPHS = 0.5  # of the kernels in CUDA graphs: no more graphs are advised
COPIES = {
    "pageable": "pin_memory=True and non_blocking=True, and the next batch copied on a stream of its own",
    "pinned": "copy the next batch ahead, on a stream of its own, while this one is computed",
    "to host": "read less back, less often, and into pinned memory with non_blocking=True",
    "on the GPU": "fewer copies and fills on the GPU: no clone() or contiguous() that is not needed, buffers kept "
    "instead of zeroed anew (zero_grad(set_to_none=True)), torch.compile",
}
"""What to do about copies that no kernel hides, by `StepFacts.exposed_copies_s`."""
NAMES = {
    "pageable": "from pageable memory", "pinned": "from pinned memory", "to host": "to the host",
    "on the GPU": "and fills on the GPU",
}  # fmt: skip
_SAME = {"exposed communication": "communication"}


def gap_lines(
    groups: Sequence[KernelGroup],
    operations: Sequence[Operation],
    facts: StepFacts,
    larger: int | None = None,
) -> list[BillLine]:
    """A line per cause that takes more than LEAST_SHARE of a step, exposed communication and copies too.

    `larger`: a batch size that is recommended and takes as many launches.
    """
    causes = facts.gap_s | {
        "exposed communication": facts.exposed_communication_s,
        "exposed copies": facts.exposed_copy_s,
    }
    lines = []
    for cause, lost_s in sorted(causes.items(), key=lambda item: -item[1]):
        if facts.step_s <= 0 or lost_s < LEAST_SHARE * facts.step_s:
            continue
        items: tuple[str, ...] = ()
        if cause == "host":
            todo, items = _launch_advice(groups, operations, larger, facts.graph_share)
        elif cause == "exposed copies":
            todo, items = _copy_advice(facts)
        elif cause == "gpu" and facts.graph_share > _GRAPHS:
            todo = "fewer kernels, fused by torch.compile: they are in CUDA graphs already"
        else:
            todo = TODO[_SAME.get(cause, cause)]
        lines.append(
            BillLine(
                kind="gaps",
                what=WHAT[cause],
                lost_s=lost_s,
                share=lost_s / facts.step_s,
                todo=todo,
                measured=True,
                items=items,
                step_gain_s=lost_s,
            )
        )
    return lines


def _copy_advice(facts: StepFacts) -> tuple[str, tuple[str, ...]]:
    """What to do about the kind of copies that costs most, and what each kind costs where there are several."""
    kinds = sorted(((s, kind) for kind, s in facts.exposed_copies_s.items() if s > 0 and kind in COPIES), reverse=True)
    if not kinds:
        return COPIES["pageable"], ()
    items = [f"{duration(s)}  copies {NAMES[kind]}" for s, kind in kinds] if len(kinds) > 1 else []
    return COPIES[kinds[0][1]], tuple(items)


def _launch_advice(
    groups: Sequence[KernelGroup], operations: Sequence[Operation], larger: int | None, graph_share: float
) -> tuple[str, tuple[str, ...]]:
    short = [group for group in groups if group.median_s < SHORT_S]
    launches, all_launches = sum(map(_per_step, short)), sum(map(_per_step, groups))
    items = []
    if launches >= 1:
        time_s = sum(group.step_s if group.step_s is not None else group.total_s for group in short)
        items.append(
            f"{launches:,.0f} of {all_launches:,.0f} kernels are shorter than {duration(SHORT_S)}, "
            f"{duration(time_s)} in all; most: {_names(short, operations)}"
        )
    size = f"a larger batch ({larger} is recommended)" if larger else "a larger batch"
    todo = f"torch.compile(mode='reduce-overhead') or CUDA graphs, or {size}: launches cost the same at any size"
    if graph_share > _GRAPHS:
        todo = (
            f"{percent(graph_share)} of the kernels are launched by CUDA graphs already: what remains is the host's "
            f"work between them, and {size} repeats it less often"
        )
    looped = _looped_updates(groups, operations)
    zeroed = sum(count for name, count in looped if name in _ZEROES)
    if zeroed:
        todo = f"zero_grad(set_to_none=True): gradients are zeroed one by one ({zeroed:,.0f} kernels a step); {todo}"
    updates = ", ".join(f"{count:,.0f} {name}" for name, count in looped if name not in _ZEROES)
    if updates:
        todo = f"an optimizer with foreach=True or fused=True: it loops over the parameters ({updates} a step); {todo}"
    return todo, tuple(items)


_ZEROES = ("fill_", "zero_")


def _looped_updates(groups: Sequence[KernelGroup], operations: Sequence[Operation]) -> list[tuple[str, float]]:
    """(operator, kernels of one step) of an optimizer that launches kernels parameter by parameter."""
    counts: dict[str, float] = {}
    for group in groups:
        operation = operations[group.operation] if group.operation is not None else None
        if operation is not None and group.phase == "optimizer" and "_foreach_" not in operation.name:
            name = operation.name.removeprefix("aten::")
            counts[name] = counts.get(name, 0.0) + _per_step(group)
    return sorted(((n, c) for n, c in counts.items() if c >= MANY_UPDATES), key=lambda item: -item[1])


def _per_step(group: KernelGroup) -> float:
    return group.launches_per_step if group.launches_per_step is not None else float(group.count)


def _names(groups: Sequence[KernelGroup], operations: Sequence[Operation], most: int = 3) -> str:
    counts: dict[str, float] = {}
    for group in groups:
        name = (
            operations[group.operation].name.removeprefix("aten::") if group.operation is not None else group.name[:40]
        )
        counts[name] = counts.get(name, 0.0) + _per_step(group)
    total = sum(counts.values())
    top = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {percent(count / total)}" for name, count in top)
