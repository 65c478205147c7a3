"""One call of an operator as a trace records it, and what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from advisor.convolution import Pass
from advisor.profiling.raw import Dims
from advisor.profiling.records import Phase

Shape = tuple[int, ...]
LARGEST = 2**40  # elements along a dimension; beyond it a shape is taken for damage


@dataclass(frozen=True)
class Call:
    """An operator's name and arguments; empty tuples where the trace has none."""

    name: str
    dims: Dims = ()
    types: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def shape(self, argument: int) -> Shape | None:
        """Shape of one argument, if it is a tensor of at least one dimension with a sane size."""
        if not 0 <= argument < len(self.dims):
            return None
        dims = self.dims[argument]
        if not dims or not all(isinstance(size, int) and 0 <= size <= LARGEST for size in dims):
            return None
        return tuple(size for size in dims if isinstance(size, int))

    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of all tensors of at least one dimension, in order, those in lists too."""
        found: list[Shape] = []
        for i, dims in enumerate(self.dims):
            own = self.shape(i)
            if own is not None:
                found.append(own)
            elif dims:
                found += [inner for inner in dims if isinstance(inner, tuple) and inner]
        return tuple(found)

    def input(self, argument: int) -> str:
        """Text of one argument's value; "" where it was not recorded."""
        return self.inputs[argument] if 0 <= argument < len(self.inputs) else ""

    def numbers(self, argument: int) -> Shape | None:
        """Value of an argument that is a list of whole numbers ("[2, 2]"); None: not recorded, or no such list."""
        text = self.input(argument).strip()
        if not (text.startswith("[") and text.endswith("]")) or len(text) > 200:
            return None
        parts = text[1:-1].split(",")
        if not all(part.strip().isascii() and part.strip().isdigit() and len(part) <= 10 for part in parts):
            return None
        return tuple(int(part) for part in parts)

    def type_of(self, argument: int) -> str:
        """Element type of one argument as the trace names it; "" where it was not recorded."""
        return self.types[argument] if 0 <= argument < len(self.types) else ""


@dataclass(frozen=True)
class Situation:
    """A call that launched kernels, and what tells its pass and its layer."""

    call: Call
    phase: Phase
    outer: str  # name of the outermost operator
    top: Call  # the outermost operator of a library around it: aten::conv2d around aten::cudnn_convolution
    node: Call | None = None  # backward node around it; its first argument is the gradient of the forward's result
    forward: Call | None = None  # forward operator of that node
    forward_top: Call | None = None
    caller: Call | None = None  # operator directly around it
    output: Shape | None = None  # of a forward operator's result, where the backward or the next operator tells it
    order: int = 0  # which of the products of one backward node this is
    pass_: Pass | None = None  # where one operator runs several and its kernels tell them apart
    recomputed: bool = False  # a forward operator that runs again inside of the backward pass (checkpointing)

    @property
    def as_called(self) -> Situation:
        """A recomputed call as the forward call it repeats."""
        if not self.recomputed:
            return self
        return replace(self, phase="forward", node=None, forward=None, forward_top=None)

    @property
    def gradient(self) -> Shape | None:
        """Shape of the gradient that a backward node was given."""
        return self.node.shape(0) if self.node is not None else None
