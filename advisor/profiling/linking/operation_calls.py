"""The distinct calls of operators that launched kernels, each with what is around it, as `Operation`s."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from advisor.convolution import Pass
from advisor.profiling.linking.calls import Call, Shape, Situation
from advisor.profiling.linking.conv_calls import expected_result, is_convolution, is_result
from advisor.profiling.linking.linear_calls import is_linear_algebra, is_product_node
from advisor.profiling.linking.names import is_backward, without_wrapper
from advisor.profiling.linking.nesting import follow
from advisor.profiling.linking.operations import describe, matched_by_sizes, tells_by_values
from advisor.profiling.linking.operator_tree import PHASES, Tree
from advisor.profiling.raw import Ints, RawTrace
from advisor.profiling.records import Operation

PASSES: tuple[Pass, ...] = get_args(Pass)
_NEXT_OPERATORS = 60  # how far behind a convolution the operator that takes its result is looked for


class Calls:
    """The calls that launched kernels: per row an operator, a pass, and whether the kernels communicate."""

    def __init__(self, raw: RawTrace, tree: Tree, op: Ints, pass_: Ints, communicates: NDArray[np.bool_]) -> None:
        self._raw, self._tree, self._op, self._pass = raw, tree, op, pass_
        self._phase = np.where(communicates, PHASES.index("other"), follow(tree.phase, op))
        self._output, self._shapes = self._output_shapes()
        self._order = self._order_in_node()
        self._recomputed = self._recomputes()

    def operations(self) -> tuple[Ints, tuple[Operation, ...], dict[str, int]]:
        """Per row the index of its operation; the operations; what was assumed, and for how many rows."""
        first, same = _distinct(self._columns())
        known: dict[tuple[object, ...], int] = {}
        operations: list[Operation] = []
        doubts: dict[str, int] = {}
        counts = np.bincount(same, minlength=len(first))
        index = np.empty(len(first), dtype=np.int64)
        for i, row in enumerate(first.tolist()):
            operation, doubt = self._describe(row)
            if doubt is not None:
                doubts[doubt] = doubts.get(doubt, 0) + int(counts[i])
            pass_ = operation.product.pass_ if operation.product is not None else None
            key = (operation.name, operation.outer, operation.phase, operation.dims, operation.types, operation.inputs,
                   operation.layer, operation.forward_dims, pass_, self._pass[row])  # fmt: skip
            index[i] = known.setdefault(key, len(operations))
            if index[i] == len(operations):
                operations.append(operation)
        calls = np.bincount(index[same], minlength=len(operations))
        counted = (replace(o, calls=int(n)) for o, n in zip(operations, calls, strict=True))
        return index[same], matched_by_sizes(tuple(counted)), doubts

    def _describe(self, row: int) -> tuple[Operation, str | None]:
        raw, tree = self._raw, self._tree
        op = int(self._op[row])
        shaped, forward = int(tree.shaped[op]), int(tree.forward[op])
        forward_shaped = int(tree.shaped[forward]) if forward >= 0 else -1
        situation = Situation(
            call=call_of(raw, shaped),
            phase=PHASES[self._phase[row]],
            outer=without_wrapper(raw.names[raw.ops.name[tree.outer[op]]]),
            top=call_of(raw, int(tree.top[op])),
            node=_call_or_none(raw, int(tree.node[op])),
            forward=_call_or_none(raw, forward_shaped),
            forward_top=_call_or_none(raw, int(tree.top[forward]) if forward >= 0 else -1),
            caller=_call_or_none(raw, int(tree.caller[shaped])),
            output=self._shapes[self._output[row]] if self._output[row] >= 0 else None,
            order=int(self._order[row]),
            pass_=PASSES[self._pass[row]] if self._pass[row] >= 0 else None,
            recomputed=bool(self._recomputed[row]),
        )
        described = describe(situation)
        call, undone = situation.call, situation.as_called.forward
        operation = Operation(
            raw.names[raw.ops.name[op]], situation.outer, situation.phase, call.dims, call.types, call.inputs,
            described.product, described.layer, undone.dims if undone is not None else (),
        )  # fmt: skip
        return operation, described.doubt

    def _columns(self) -> list[Ints]:
        """All that a description depends on, as columns of indices."""
        ops, tree, op = self._raw.ops, self._tree, self._op
        shaped, forward = follow(tree.shaped, op), follow(tree.forward, op)
        caller = follow(tree.caller, shaped)
        columns = [
            ops.name[op],
            self._phase,
            self._pass,
            self._output,
            self._order,
            self._recomputed,
            follow(ops.name, tree.outer[op]),
        ]
        for which in (shaped, tree.top[op], follow(tree.shaped, forward), follow(tree.top, forward)):
            columns += [follow(ops.name, which), follow(ops.dims, which), follow(ops.types, which), self._inputs(which)]
        for which in (tree.node[op], caller):
            columns += [follow(ops.name, which), follow(ops.dims, which)]
        return columns

    def _inputs(self, op: Ints) -> Ints:
        """Index of the arguments' values, -1 where they tell nothing of the work (learning rates, counters)."""
        telling = np.array([tells_by_values(name) for name in self._raw.names], dtype=np.bool_)
        kept = follow(telling.astype(np.int64), follow(self._raw.ops.name, op)) > 0
        return np.where(kept, follow(self._raw.ops.inputs, op), -1)

    def _order_in_node(self) -> Ints:
        """Per row which of its backward node's matrix products it is: 0, 1, 2 or later; 0 for all else."""
        order = np.zeros(len(self._op), dtype=np.int64)
        names = np.array([is_linear_algebra(name) for name in self._raw.names], dtype=np.bool_)
        node = follow(self._tree.node, self._op)
        rows = np.flatnonzero((node >= 0) & names[self._raw.ops.name[self._op]])
        rows = rows[np.lexsort((self._op[rows], node[rows]))]
        new = np.diff(node[rows], prepend=-1) != 0
        place = np.arange(len(rows))
        order[rows] = np.minimum(place - np.maximum.accumulate(np.where(new, place, 0)), 2)
        return order

    def _recomputes(self) -> Ints:
        """Per row 1 where a forward operator runs again inside of a backward node, as checkpointing makes it.

        Only there do operators inside of a node take sequence numbers; with create_graph the node's own do as well.
        """
        raw, top = self._raw, self._tree.top[self._op]
        of_node = np.array([is_backward(name) for name in raw.names], dtype=np.bool_)[raw.ops.name[top]]
        product = np.array([is_linear_algebra(name) for name in raw.names], dtype=np.bool_)[raw.ops.name[top]]
        nodes = np.array([is_product_node(name) for name in raw.names], dtype=np.int64)
        own = product & (follow(nodes, follow(raw.ops.name, self._tree.node[self._op])) > 0)
        inside = (self._phase == PHASES.index("backward")) & (self._tree.node[self._op] >= 0)
        return np.asarray(inside & (raw.ops.sequence[top] >= 0) & ~of_node & ~own, dtype=np.int64)

    def _output_shapes(self) -> tuple[Ints, list[Shape]]:
        """Per row of a forward convolution, or of the backward of its casts, the index of its result's shape; shapes.

        Told by the backward node's argument, else by the next operator that takes a tensor of that form.
        """
        raw, tree, op = self._raw, self._tree, self._op
        convolution = np.array([is_convolution(name) for name in raw.names], dtype=np.bool_)
        own = convolution[raw.ops.name[tree.top[op]]]
        top = np.where(own, tree.top[op], follow(tree.top, follow(tree.forward, op)))
        name = follow(raw.ops.name, top)
        rows = np.flatnonzero((name >= 0) & convolution[name])
        shapes: dict[Shape, int] = {}
        output = np.full(len(op), -1, dtype=np.int64)
        for row in rows.tolist():
            shape = self._result(int(top[row]), int(tree.backward[op[row]]) if own[row] else -1)
            if shape is not None:
                output[row] = shapes.setdefault(shape, len(shapes))
        return output, list(shapes)

    def _result(self, top: int, node: int) -> Shape | None:
        ops = self._raw.ops
        expected = expected_result(call_of(self._raw, top))
        if expected is None:
            return None
        if node >= 0:
            shape = call_of(self._raw, node).shape(0)
            if is_result(shape, expected):
                return shape
        if ops.inputs[top] >= 0:
            return None
        end = ops.start_us[top] + ops.duration_us[top]
        for later in range(top + 1, min(top + 1 + _NEXT_OPERATORS, len(ops.name))):
            if ops.thread[later] == ops.thread[top] and ops.start_us[later] >= end and ops.dims[later] >= 0:
                shape = call_of(self._raw, later).shape(0)
                if is_result(shape, expected):
                    return shape
        return None


def call_of(raw: RawTrace, op: int) -> Call:
    """The operator's call, with the values of arguments only where they tell the work."""
    ops = raw.ops
    name, dims, types, inputs = raw.names[ops.name[op]], ops.dims[op], ops.types[op], ops.inputs[op]
    return Call(
        name,
        raw.dims[dims] if dims >= 0 else (),
        raw.types[types] if types >= 0 else (),
        raw.inputs[inputs] if inputs >= 0 and tells_by_values(name) else (),
    )


def _call_or_none(raw: RawTrace, op: int) -> Call | None:
    return call_of(raw, op) if op >= 0 else None


def _distinct(columns: list[Ints]) -> tuple[Ints, Ints]:
    """(first row of every distinct combination, which combination each row is)."""
    same = np.zeros(len(columns[0]), dtype=np.int64)
    first = np.zeros(min(len(same), 1), dtype=np.int64)
    for column in columns:
        values = np.unique(column, return_inverse=True)[1].reshape(-1)
        paired = same * (int(values.max(initial=0)) + 1) + values
        _, first, same = np.unique(paired, return_index=True, return_inverse=True)
        same = same.reshape(-1)
    return first, same
