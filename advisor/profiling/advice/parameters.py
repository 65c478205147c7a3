"""The parameters of the traced model, from what autograd and the optimizer did with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from advisor.profiling.advice.passes import count_passes
from advisor.profiling.advice.scaling import Shape, bare_name, flat_shapes
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.dtypes import element_type
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import Operation

ACCUMULATE = "torch::autograd::AccumulateGrad"
"""The node of autograd that adds a gradient to its parameter's."""
# Positions of weights and biases in forward operators' arguments.
_WEIGHTS = {
    "convolution": (1, 2), "_convolution": (1, 2), "cudnn_convolution": (1,), "_conv_depthwise2d": (1,),
    "linear": (1, 2), "addmm": (0, 2), "mm": (1,), "native_batch_norm": (1, 2), "cudnn_batch_norm": (1, 2),
    "native_layer_norm": (2, 3), "native_group_norm": (1, 2), "embedding": (0,), "_fused_rms_norm": (2,),
}  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """Shapes of all parameter tensors of the model, one entry each, and where they were read."""

    shapes: tuple[Shape, ...]
    source: str  # "autograd", "optimizer", "forward pass", or "none"
    element_bytes: int = 4
    passes: int = 1  # in one step: of forward and backward (gradient accumulation), of forward alone in inference

    @property
    def elements(self) -> int:
        """Of all tensors together."""
        return sum(map(prod, self.shapes))

    @property
    def bytes_(self) -> int:
        """Of all tensors together."""
        return self.elements * self.element_bytes

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(map(prod, self.shapes), default=0)


def find_parameters(raw: RawTrace, links: Links, steps: StepSpans) -> Parameters:
    """The parameters that one regular step trains, or in inference the weights that it reads.

    Autograd's AccumulateGrad runs once per parameter and backward pass, and its argument has the parameter's shape;
    else the tensor lists of multi-tensor optimizers are asked, else the weights that forward operators take, of which
    those without a kernel of their own (biases inside a convolution) may be missed.
    """
    of_optimizer = _from_optimizer(links.operations)
    accumulated = _from_autograd(raw, steps)
    seen = count_passes(raw, links, steps)
    if accumulated:
        shapes = [shape for shape, _ in accumulated]
        passes = _passes(shapes, len(of_optimizer), seen)
        element_bytes = max(bytes_ for _, bytes_ in accumulated)
        return Parameters(tuple(shapes[: len(shapes) // passes]), "autograd", element_bytes, passes)
    if of_optimizer:
        return Parameters(of_optimizer, "optimizer", passes=seen)
    read = _from_forward(links.operations, max(1, len(steps.names)) * seen)
    return Parameters(read, "forward pass" if read else "none", passes=seen)


def _from_autograd(raw: RawTrace, steps: StepSpans) -> list[tuple[Shape, int]]:
    """Shape and bytes of an element of what AccumulateGrad is given in one regular step, in order of time.

    Of the whole trace where it has no steps.
    """
    wanted = [i for i, name in enumerate(raw.names) if name == ACCUMULATE]
    rows = np.flatnonzero(np.isin(raw.ops.name, wanted) & (raw.ops.dims >= 0))
    if steps.regular:
        step = steps.regular[0]
        start = raw.ops.start_us[rows]
        rows = rows[(start >= steps.start_us[step]) & (start < steps.end_us[step])]
    found = []
    for dims, types in zip(raw.ops.dims[rows].tolist(), raw.ops.types[rows].tolist(), strict=True):
        shapes, names = flat_shapes(raw.dims[dims]), raw.types[types] if types >= 0 else ()
        if shapes:
            found.append((shapes[0] or (), element_type(names[0] if names else "")[1]))
    return found


def _passes(shapes: list[Shape], of_optimizer: int, seen: int) -> int:
    """How many times the same parameters come in turn: as often as the optimizer's lists say, or as passes are seen."""
    told = len(shapes) // of_optimizer if of_optimizer else 1
    for passes in (told, seen):
        length, rest = divmod(len(shapes), max(1, passes))
        if passes > 1 and not rest and Counter(shapes[:length]) == Counter(shapes[length : 2 * length]):
            return passes
    return 1


def _from_optimizer(operations: Iterable[Operation]) -> tuple[Shape, ...]:
    """Tensors of the distinct lists that multi-tensor operators of the optimizer's phase update."""
    lists = {
        operation.dims[0]
        for operation in operations
        if operation.phase == "optimizer"
        and bare_name(operation.name).startswith(("_foreach_", "_fused_"))
        and operation.dims
        and flat_shapes(operation.dims[:1])[0]
        and isinstance(operation.dims[0][0], tuple)
    }
    return tuple(shape for tensors in sorted(lists) for shape in flat_shapes([tensors]) if shape)


def _from_forward(operations: Iterable[Operation], steps: int) -> tuple[Shape, ...]:
    found: list[Shape] = []
    for operation in operations:
        if operation.phase != "forward":
            continue
        calls = max(1, round(operation.calls / steps))
        shapes = flat_shapes(operation.dims)
        for position in _WEIGHTS.get(bare_name(operation.name), ()):
            if position < len(shapes) and (shape := shapes[position]):
                found += [shape] * calls
    return tuple(found)
