"""How the operators of a trace nest, which belong to the backward pass, and which forward operator they undo.

A backward node has the "Sequence number" that its forward operator took; operators that need no gradient show the
number that the next one takes, so of several the last before the node is meant.

Sources: PyTorch, torch/csrc/autograd/engine.cpp and profiler_kineto.cpp, aten/src/ATen/record_function.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.linking.names import (
    canonical,
    is_communication,
    is_data,
    is_foreach,
    is_generated,
    is_library_call,
    is_node,
    is_optimizer,
    is_range,
)
from advisor.profiling.linking.nesting import follow, innermost_around, latest_before, nearest_flagged, topmost_flagged
from advisor.profiling.raw import Floats, Ints, RawTrace
from advisor.profiling.records import Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
Flags = NDArray[np.bool_]


class Tree:
    """How marks, operators and launches nest, and what follows for every operator. Indices of operators; -1: none."""

    outer: Ints  # outermost operator below ranges
    top: Ints  # outermost operator of a library
    caller: Ints  # operator directly around
    node: Ints  # innermost backward node around
    forward: Ints  # forward operator of the innermost numbered node around
    backward: Ints  # node that the operator, or the nearest around it that has one, is the forward of
    shaped: Ints  # itself or the nearest around whose shapes are recorded; of a generated kernel itself
    phase: Ints  # index into PHASES

    def __init__(self, raw: RawTrace) -> None:
        marks, ops, launches = raw.marks, raw.ops, raw.launches
        self._marks, self._ops, self._launches = len(marks.name), len(ops.name), len(launches.name)
        on_host = ~marks.on_gpu  # marks of the GPU are rows that contain nothing
        name = np.concatenate([marks.name, ops.name, launches.name])
        start = np.concatenate([marks.start_us, ops.start_us, launches.start_us])
        duration = np.concatenate([np.where(on_host, marks.duration_us, 0), ops.duration_us, launches.duration_us])
        thread = np.concatenate([np.where(on_host, marks.thread, -1), ops.thread, launches.thread])
        is_op = self._rows(np.ones(self._ops), 0) > 0
        parent = innermost_around(start, duration, thread, np.arange(len(name)) >= self._marks + self._ops)
        test = _NameTests(raw.names, name)
        node = is_op & (test(is_node) | (self._rows(ops.forward_thread, -1) > 0))
        sequence, dims = self._rows(ops.sequence, -1), self._rows(ops.dims, -1)
        operator = is_op & ~test(is_range) & ((sequence >= 0) | (dims >= 0))  # ranges of users have neither

        self._innermost = nearest_flagged(parent, is_op)
        library = is_op & test(is_library_call) & ~node
        outer, plain = topmost_flagged(parent, library | node), topmost_flagged(parent, operator)
        self.outer = self._or_itself(np.where(outer >= 0, outer, plain))
        self.top = self._or_itself(topmost_flagged(parent, library))
        self.caller = self._of_ops(follow(self._innermost, parent))
        self.node = self._of_ops(nearest_flagged(parent, node))
        self.shaped = self._or_itself(nearest_flagged(parent, (dims >= 0) | (is_op & test(is_generated))))
        autograd = _autograd_threads(thread, operator | library | node, node, parent, sequence)
        self.phase = self._of_ops(_phases(parent, node, test, autograd) + self._marks)
        own = _forward_of_nodes(raw, self._slice(node))
        self.forward = follow(own, self._of_ops(nearest_flagged(parent, node & (sequence >= 0))))
        node_of = _node_of_forward(own, self._ops)
        self.backward = follow(node_of, self._of_ops(nearest_flagged(parent, self._rows(node_of, -1) >= 0)))

    def op_of_launch(self, launch: Ints) -> Ints:
        """Per kernel the innermost operator around its launch."""
        found = follow(self._innermost, np.where(launch >= 0, launch + self._marks + self._ops, -1))
        return np.where(found >= 0, found - self._marks, -1)

    def _rows(self, of_ops: Ints | Floats, elsewhere: int) -> Ints:
        """A column of the operators as one of all rows."""
        return np.pad(of_ops.astype(np.int64), (self._marks, self._launches), constant_values=elsewhere)

    def _slice(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows[self._marks : self._marks + self._ops]

    def _of_ops(self, rows: Ints) -> Ints:
        """What points to rows, as indices of operators, for the operators only."""
        rows = self._slice(rows)
        return np.where(rows >= self._marks, rows - self._marks, -1)

    def _or_itself(self, rows: Ints) -> Ints:
        found = self._of_ops(rows)
        return np.where(found >= 0, found, np.arange(self._ops))


def _phases(parent: Ints, node: Flags, test: _NameTests, autograd: Flags) -> Ints:
    """Per row the index of its phase: what the nearest range that tells says."""
    optimizer, data = test(is_optimizer), test(is_data)
    told = nearest_flagged(parent, node | optimizer | data)
    kind = np.where(node, PHASES.index("backward"), PHASES.index("optimizer"))
    kind = np.where(data & ~node & ~optimizer, PHASES.index("data"), kind)
    foreach = nearest_flagged(parent, test(is_foreach)) >= 0
    untold = np.where(foreach, PHASES.index("optimizer"), PHASES.index("forward"))
    untold = np.where(autograd, PHASES.index("backward"), untold)
    phase = np.where(told >= 0, follow(kind, told), untold)
    return np.where(nearest_flagged(parent, test(is_communication)) >= 0, PHASES.index("other"), phase)


class _NameTests:
    """A test of names, asked once per distinct name."""

    def __init__(self, names: tuple[str, ...], name: Ints) -> None:
        self._names, self._name = names, name

    def __call__(self, test: Callable[[str], bool]) -> Flags:
        flags = np.array([test(name) for name in self._names], dtype=np.bool_)
        return flags[self._name] if len(flags) else np.zeros(len(self._name), dtype=np.bool_)


def _autograd_threads(thread: Ints, operator: Flags, node: Flags, parent: Ints, sequence: Ints) -> Flags:
    """Per row whether its thread runs backward nodes, and at its top no operator that took a sequence number."""
    top = operator & (follow(nearest_flagged(parent, operator), parent) < 0)
    with_nodes = np.unique(thread[top & node])
    with_forward = np.unique(thread[top & ~node & (sequence >= 0)])
    return np.isin(thread, np.setdiff1d(with_nodes, with_forward))


def _forward_of_nodes(raw: RawTrace, node: Flags) -> Ints:
    """Per operator, if it is a backward node, the forward operator it belongs to; -1: none."""
    ops = raw.ops
    forward = np.full(len(ops.name), -1, dtype=np.int64)
    nodes = np.flatnonzero(node & (ops.sequence >= 0))
    taken = np.flatnonzero(~node & (ops.sequence >= 0))
    if not len(nodes) or not len(taken):
        return forward
    name = np.unique([canonical(text) for text in raw.names], return_inverse=True)[1].reshape(-1)
    numbers = np.unique(np.concatenate([ops.sequence[nodes], ops.sequence[taken]]), return_inverse=True)[1].reshape(-1)
    asked, given = numbers[: len(nodes)], numbers[len(nodes) :]
    home = _home_threads(ops.forward_thread[nodes], asked, ops.thread[taken], given)
    threads = int(ops.thread.max()) + 1
    for thread in np.unique(home):
        mine, theirs = np.flatnonzero(home == thread), np.flatnonzero(ops.thread[taken] == thread)
        if thread < 0 or thread >= threads:
            theirs = np.arange(len(taken))
        at, times = ops.start_us[nodes[mine]], ops.start_us[taken[theirs]]
        last = latest_before(given[theirs], times, asked[mine], at)
        width = int(name.max()) + 1  # a key of number and name
        with_name = given[theirs] * width + name[ops.name[taken[theirs]]]
        named = latest_before(with_name, times, asked[mine] * width + name[ops.name[nodes[mine]]], at)
        forward[nodes[mine]] = follow(taken[theirs], np.where(named >= 0, named, last))
    return forward


def _home_threads(forward_id: Ints, asked: Ints, thread: Ints, given: Ints) -> Ints:
    """Per node the thread its forward ran on: for each "Fwd thread id" the one that took most of its numbers."""
    threads = np.unique(thread)
    if len(threads) == 1:
        return np.full(len(forward_id), threads[0])
    ids, which = np.unique(forward_id, return_inverse=True)
    most, home = np.zeros(len(ids), dtype=np.int64), np.full(len(ids), -1, dtype=np.int64)
    for candidate in threads:
        hits = np.bincount(which.reshape(-1), weights=np.isin(asked, given[thread == candidate]), minlength=len(ids))
        better = hits > most
        most[better], home[better] = hits[better].astype(np.int64), candidate
    return home[which.reshape(-1)]


def _node_of_forward(forward: Ints, count: int) -> Ints:
    """The other way round: per forward operator its node, the innermost where a wrapper has the same number."""
    node_of = np.full(count, -1, dtype=np.int64)
    nodes = np.flatnonzero(forward >= 0)
    node_of[forward[nodes]] = nodes  # the last one stands: the node follows its wrapper
    return node_of
