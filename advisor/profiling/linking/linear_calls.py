"""Linear algebra of a trace: which matrix product an operator asks for, and which gradient it is.

m, n and k are those of the operator: C[m, n] = A[m, k] B[k, n], row-major as PyTorch allocates C.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from advisor.convolution import Pass
from advisor.profiling.linking.calls import LARGEST, Call, Shape, Situation
from advisor.profiling.linking.dtypes import element_type
from advisor.profiling.records import Product

_FIRST_OPERAND = {
    "mm": 0, "_int_mm": 0, "_scaled_mm": 0, "addmm": 1, "addmm_": 1, "_addmm_activation": 1, "bmm": 0, "baddbmm": 1,
    "baddbmm_": 1, "mv": 0, "addmv": 1, "addmv_": 1, "dot": 0, "vdot": 0, "matmul": 0, "linear": 0, "_scaled_mm_v2": 0,
}  # fmt: skip
_TEMPLATE = re.compile(r"^(?:triton_tem_|triton_mm|triton_bmm|cutlass_)")
_PRODUCT_NODE = re.compile(r"(?:^|: )(?:Add|Baddb|Addb|B|M)?mm?(?:Activation)?Backward\d*$|(?:^|: )LinearBackward\d*$")
_BY_MAT1_FIRST = ("Addmm", "Baddbmm", "Linear")


def is_linear_algebra(name: str) -> bool:
    """Whether an operator is a matrix product."""
    return name.removeprefix("aten::") in _FIRST_OPERAND or bool(_TEMPLATE.match(name))


def is_product_node(name: str) -> bool:
    """Whether a backward node is that of a matrix product."""
    return bool(_PRODUCT_NODE.search(name))


def linear_product(situation: Situation) -> Product | None:
    """The matrix product of a call, with its pass where forward and backward can be told; None: no shapes."""
    call = situation.call
    sizes = _sizes(call)
    if sizes is None:
        return None
    m, n, k, batch, first = sizes
    flops = 2 * m * n * k * batch
    if min(m, n, k, batch) < 1 or max(m, n, k, batch) > LARGEST or flops >= 2**62:
        return None
    dtype, element_bytes = element_type(call.type_of(first))
    kind: Literal["gemm", "bmm"] = "bmm" if batch > 1 or call.name.endswith("bmm") else "gemm"
    return Product(kind, m, n, k, batch, product_pass(situation), None, flops, None, element_bytes, dtype)


def product_pass(situation: Situation) -> Pass | None:
    """Of a backward product: dgrad if its first operand is the gradient that came in, wgrad if it is contracted away.

    Where sizes coincide, the order tells: autograd computes the gradients in alphabetical order of the arguments'
    names (addmm: mat1, mat2; mm: mat2, self; bmm: mat2, self).
    """
    call = situation.call
    if situation.phase == "forward":
        return "fprop"
    if situation.phase != "backward" or situation.node is None or not is_product_node(situation.node.name):
        return None
    first = _FIRST_OPERAND.get(call.name.removeprefix("aten::"), 0)
    a, b, gradient = call.shape(first), call.shape(first + 1), situation.gradient
    if gradient is None and situation.forward is not None:
        gradient = _result(situation.forward)
    if a is None or b is None or gradient is None:
        return None
    dgrad = a == gradient
    wgrad = b == gradient or (a == (*gradient[:-2], *gradient[:-3:-1]) and len(gradient) > 1)
    if dgrad != wgrad:
        return "dgrad" if dgrad else "wgrad"
    if not dgrad:
        return None
    mat1_first = situation.node.name.rpartition(": ")[2].startswith(_BY_MAT1_FIRST)
    return "dgrad" if mat1_first == (situation.order == 0) else "wgrad"


def linear_layer(call: Call, outer: str) -> str | None:
    """What a reader calls a forward product: "linear 2048>1000", "bmm 384x(128x64x128)", "mm 2048x5208x256"."""
    sizes = _sizes(call)
    if sizes is None:
        return None
    m, n, k, batch, _ = sizes
    name = call.name.removeprefix("aten::")
    if name == "linear" or outer == "aten::linear" or "addmm" in name:
        return f"linear {k}>{n}"
    if batch > 1 or "bmm" in name:
        return f"bmm {batch}x({m}x{k}x{n})"
    return f"{name} {m}x{k}x{n}"


def gradient_layer(situation: Situation) -> str | None:
    """The same of a backward product whose forward operator is not in the trace, from the gradient's own sizes."""
    node, product = situation.node, linear_product(situation)
    if node is None or product is None or product.pass_ is None:
        return None
    name = node.name.rpartition(": ")[2]
    gradient = situation.gradient
    if not name.startswith(("Addmm", "Mm", "Linear")) or gradient is None:
        return None
    out = gradient[-1]
    if product.pass_ == "dgrad":
        return f"linear {product.n}>{out}"
    return f"linear {product.m if product.n == out else product.n}>{out}"


def _sizes(call: Call) -> tuple[int, int, int, int, int] | None:
    """(m, n, k, batch, position of the first operand)."""
    name = call.name.removeprefix("aten::")
    if _TEMPLATE.match(call.name):
        return _template_sizes(call)
    first = _FIRST_OPERAND.get(name)
    if first is None:
        return None
    a, b = call.shape(first), call.shape(first + 1)
    if a is None or b is None:
        return None
    if name == "linear":
        b = (*b[:-2], *b[:-3:-1]) if len(b) > 1 else (*b, 1)
    if len(b) == 1:
        b = (*b, 1)
    if len(a) == 1:
        a = (1, *a)
    if a[-1] != b[-2]:
        return None
    if len(b) == 2:  # all rows are one product
        return math.prod(a[:-1]), b[-1], a[-1], 1, first
    lead = _broadcast(a[:-2], b[:-2])
    return (a[-2], b[-1], a[-1], math.prod(lead), first) if lead is not None else None


def _template_sizes(call: Call) -> tuple[int, int, int, int, int] | None:
    """Of a generated kernel, which takes (bias,) operands and result in no fixed form: the one way that fits."""
    tensors = [(i, shape) for i in range(len(call.dims)) if (shape := call.shape(i)) is not None and len(shape) == 2]
    fitting = set()
    for c, (m, n) in tensors[2:]:
        for i, (rows, k) in tensors:
            for j, shape in tensors:
                if len({c, i, j}) == 3 and i < j and rows == m and shape in ((k, n), (n, k)):
                    fitting.add((m, n, k, 1, i))
    sizes = {found[:4] for found in fitting}
    return min(fitting, key=lambda found: found[4]) if len(sizes) == 1 else None


def _result(forward: Call) -> Shape | None:
    """Shape of a forward product's result."""
    first = _FIRST_OPERAND.get(forward.name.removeprefix("aten::"))
    if first is None:
        return None
    a, b = forward.shape(first), forward.shape(first + 1)
    return (*a[:-1], b[-1]) if a is not None and b is not None and len(a) == len(b) > 1 else None


def _broadcast(a: Shape, b: Shape) -> Shape | None:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    filled = (1,) * (len(longer) - len(shorter)) + shorter
    if any(x != y and 1 not in (x, y) for x, y in zip(longer, filled, strict=True)):
        return None
    return tuple(max(x, y) for x, y in zip(longer, filled, strict=True))
