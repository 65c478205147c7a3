"""From an operator's call to its matrix product and the name of its layer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from advisor.convolution import Pass
from advisor.profiling.linking.attention_calls import attention_product, is_attention
from advisor.profiling.linking.calls import Situation
from advisor.profiling.linking.conv_calls import is_convolution, layer_pass, read_convolution
from advisor.profiling.linking.conv_shapes import conv_product
from advisor.profiling.linking.layers import layer_text
from advisor.profiling.linking.linear_calls import is_linear_algebra, linear_product
from advisor.profiling.records import Operation, Product


@dataclass(frozen=True)
class Description:
    """What a call computes: its product (None: it is none, or the trace lacks the shapes) and its layer."""

    product: Product | None
    layer: str
    doubt: str | None = None  # what had to be assumed about a convolution


_VALUES = re.compile(r"norm|pool|embedding|conv|attention|attn")


def tells_by_values(name: str) -> bool:
    """Whether the values of an operator's arguments tell the work: strides, masks, but no learning rates."""
    return bool(_VALUES.search(name)) and not name.startswith(("aten::_foreach", "aten::linalg"))


def describe(situation: Situation) -> Description:
    """Read one call. Sizes that make no sense give no product, never an error."""
    situation = situation.as_called
    name = situation.call.name
    if is_convolution(name):
        shapes = read_convolution(situation)
        pass_ = layer_pass(situation)
        operand = situation.call.type_of(0) or situation.call.type_of(1)
        product = conv_product(shapes, pass_, operand) if shapes is not None and pass_ is not None else None
        return Description(product, layer_text(situation, shapes), shapes.doubt if shapes is not None else None)
    if is_attention(name):
        return Description(attention_product(situation), layer_text(situation, None))
    if is_linear_algebra(name):
        return Description(linear_product(situation), layer_text(situation, None))
    around = situation.forward_top or situation.top
    if is_convolution(around.name):  # the bias of a convolution, a cast of its filter
        enclosing = Situation(around, "forward", around.name, around, output=situation.output or situation.gradient)
        return Description(None, layer_text(situation, read_convolution(enclosing)))
    return Description(None, layer_text(situation, None))


def matched_by_sizes(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Backward products of compiled regions with the pass and layer of the one forward product that they can undo.

    A region's node says nothing of its parts. y[m, n] = x[m, k] w[k, n] has the gradients dx[m, k] and dw[k, n] or its
    transpose; where both readings fit, the product stays without a pass.
    """
    forward: dict[tuple[int, int, int, int], Operation] = {}
    for operation in operations:
        p = operation.product
        if p is not None and p.kind in ("gemm", "bmm") and operation.phase == "forward":
            forward.setdefault((p.m, p.n, p.k, p.batch), operation)
    return tuple(_matched(operation, forward) for operation in operations)


def _matched(operation: Operation, forward: dict[tuple[int, int, int, int], Operation]) -> Operation:
    p = operation.product
    if p is None or p.kind not in ("gemm", "bmm") or operation.phase != "backward" or p.pass_ is not None:
        return operation
    dgrad = forward.get((p.m, p.k, p.n, p.batch))
    wgrad = forward.get((p.k, p.m, p.n, p.batch)) or forward.get((p.k, p.n, p.m, p.batch))
    if (dgrad is None) == (wgrad is None):
        return operation
    pass_: Pass = "dgrad" if dgrad is not None else "wgrad"
    undone = dgrad or wgrad
    assert undone is not None
    return replace(
        operation,
        product=replace(p, pass_=pass_),
        layer=undone.layer,
        forward_dims=operation.forward_dims or undone.dims,
    )
