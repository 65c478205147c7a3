"""From each kernel to its launch, its operator, the forward operator behind a backward one, and their shapes.

A kernel and its launch have one correlation id. The operator is the innermost one that was running on the launching
thread when it launched; only where the launch is missing is the "External id" asked, which in some versions is no
operator's.
"""

from __future__ import annotations

import numpy as np

from advisor.profiling.linked import Links
from advisor.profiling.linking.conv_calls import runs_both_gradients, wanted_gradients
from advisor.profiling.linking.graphs import NO_SHAPES
from advisor.profiling.linking.launches import launch_of
from advisor.profiling.linking.names import is_communication
from advisor.profiling.linking.nesting import follow
from advisor.profiling.linking.operation_calls import PASSES, Calls, call_of
from advisor.profiling.linking.operator_tree import Tree
from advisor.profiling.linking.passes import split_passes
from advisor.profiling.raw import Ints, RawTrace
from advisor.profiling.records import Operation


def link(raw: RawTrace) -> Links:
    """Tie every kernel to its launch, operators and shapes; linear in the trace's events but for sorting."""
    notes: list[str] = []
    launch = _launches(raw, notes)
    tree = Tree(raw)
    op = tree.op_of_launch(launch)
    op = np.where(op >= 0, op, _op_by_external_id(raw, launch))
    _note_missing(raw, launch, op, notes)
    passes = _kernel_passes(raw, launch, op, notes)
    operation, operations = _operations(raw, tree, op, passes, notes)
    return Links(
        launch=launch, op=op, outer=follow(tree.outer, op), forward=follow(tree.forward, op), operation=operation,
        operations=operations, notes=tuple(notes),
    )  # fmt: skip


def _launches(raw: RawTrace, notes: list[str]) -> Ints:
    """Per kernel its launch; ids that several launches share are noted."""
    launch, correlation = launch_of(raw, raw.kernels), raw.launches.correlation
    ids, count = np.unique(correlation[correlation >= 0], return_counts=True)
    repeated = int(np.isin(raw.kernels.correlation, ids[count > 1]).sum()) if (count > 1).any() else 0
    if repeated:
        notes.append(
            f"{repeated} kernels have a correlation id that several launches share: each is given the latest before it"
        )
    return launch


def _op_by_external_id(raw: RawTrace, launch: Ints) -> Ints:
    """Per kernel the operator of its external id, or of its launch's; -1: none, or several."""
    ids, first, count = np.unique(raw.ops.external, return_index=True, return_counts=True)
    single = (count == 1) & (ids >= 0)
    ids, first = ids[single], first[single]
    asked = np.where(raw.kernels.external >= 0, raw.kernels.external, follow(raw.launches.external, launch))
    if not len(ids):
        return np.full(len(asked), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
    # a launch whose thread shows no operator had none: there the id means something else
    return np.where((ids[at] == asked) & (launch < 0), first[at], -1)


def _note_missing(raw: RawTrace, launch: Ints, op: Ints, notes: list[str]) -> None:
    kernels = len(launch)
    without_launch, without_op = int((launch < 0).sum()), int((op < 0).sum())
    if without_launch:
        notes.append(f"{without_launch} of {kernels} kernels have no launch in the trace")
    if without_op:
        notes.append(f"{without_op} of {kernels} kernels belong to no operator in the trace")
    elif kernels and not (raw.ops.dims[op] >= 0).any():
        notes.append(NO_SHAPES)


def _kernel_passes(raw: RawTrace, launch: Ints, op: Ints, notes: list[str]) -> Ints:
    """Per kernel the index into PASSES where its operator runs both gradients of a convolution; -1: elsewhere."""
    both = np.array([runs_both_gradients(name) for name in raw.names], dtype=np.int64)
    passes = np.full(len(op), -1, dtype=np.int64)
    kernels = np.flatnonzero(follow(both, follow(raw.ops.name, op)) > 0)
    if not len(kernels):
        return passes
    launched = np.where(launch >= 0, raw.launches.start_us[np.maximum(launch, 0)], raw.kernels.start_us)
    kernels = kernels[np.lexsort((kernels, launched[kernels], op[kernels]))]
    untold = 0
    for group in np.split(kernels, np.flatnonzero(np.diff(op[kernels])) + 1):
        names = tuple(raw.names[i] for i in raw.kernels.name[group])
        split, told = split_passes(names, wanted_gradients(call_of(raw, int(op[group[0]]))))
        passes[group] = [PASSES.index(pass_) for pass_ in split]
        untold += not told
    if untold:
        notes.append(
            f"in {untold} backward convolutions no kernel's name tells dgrad from wgrad: the first half taken as dgrad"
        )
    return passes


def _operations(
    raw: RawTrace, tree: Tree, op: Ints, passes: Ints, notes: list[str]
) -> tuple[Ints, tuple[Operation, ...]]:
    """Per kernel the index of its operation, and the distinct operations."""
    communication = np.array([is_communication(name) for name in raw.names], dtype=np.bool_)[raw.kernels.name]
    key = np.where(op >= 0, (op * 4 + passes + 1) * 2 + communication, -1)
    calls, of_kernel = np.unique(key, return_inverse=True)
    of_kernel = of_kernel.reshape(-1)
    start = int(len(calls) > 0 and calls[0] < 0)  # the first stands for kernels without an operator
    calls = calls[start:]
    found = Calls(raw, tree, calls // 8, calls // 2 % 4 - 1, calls % 2 > 0)
    index, operations, doubts = found.operations()
    for doubt, count in doubts.items():
        notes.append(f"{count} calls of convolutions: {doubt}")
    return np.concatenate([np.full(start, -1), index]).astype(np.int64)[of_kernel], operations
