"""Which sizes of a traced operation grow with the batch, known from one batch alone.

A trace shows one batch size B, and channels, heads and sequence lengths may be multiples of it by chance. So position
and role decide first: weights, their gradients and what the optimizer does never grow; of a matrix product the rows
grow, or the contraction where it is a weight gradient; of a batched product and of attention their number. Only then
does divisibility count: a leading dimension that is a multiple of B (samples, or samples x tokens) grows with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from advisor.profiling.records import Operation, Product

Shape = tuple[int, ...]
_OF_PARAMETERS = ("AccumulateGrad", "Optimizer.", "_foreach_", "_fused_adam", "_fused_sgd", "_amp_", "nccl", "c10d::")
_MOVES = frozenset({"copy_", "clone", "contiguous", "to", "_to_copy", "t", "zero_", "fill_", "cat"})
_TABLE_FIRST = frozenset({"embedding", "_embedding_bag", "index_select", "embedding_renorm_"})


@dataclass(frozen=True)
class Scaling:
    """The traced batch, and the shapes of the model's parameters as far as the trace shows them."""

    batch: int
    parameters: frozenset[Shape] = frozenset()

    def of_parameters(self, operation: Operation) -> bool:
        """Whether an operation works on parameters or their gradients alone, so that no batch size changes it.

        Arithmetic on a matrix that has a weight's shape is taken for an activation's: samples x tokens by features
        often coincide with a weight. Copies and casts of one are taken for the weight's.
        """
        if operation.phase == "optimizer":
            return True
        if any(mark in name for mark in _OF_PARAMETERS for name in (operation.name, operation.outer)):
            return True
        shapes = [shape for shape in flat_shapes(operation.dims) if shape]
        if not shapes or not all(shape in self.parameters for shape in shapes):
            return False
        return len(shapes[0]) != 2 or bare_name(operation.name) in _MOVES

    def grown_size(self, size: int, batch: int) -> int:
        """A size that grows, at another batch; one that is no multiple of the traced batch grows in its whole part."""
        per_sample, rest = divmod(size, self.batch)
        return per_sample * batch + rest

    def grown_shapes(self, operation: Operation, batch: int) -> list[Shape | None]:
        """The shapes of `flat_shapes`, at another batch.

        A tensor grows with the largest one, unless it is so much smaller that it is broadcast to it.
        """
        shapes = flat_shapes(operation.dims)
        held = 1 if bare_name(operation.name) in _TABLE_FIRST else 0  # a table of weights
        candidates = [shape for shape in shapes[held:] if shape]
        if not candidates or self.of_parameters(operation):
            return shapes
        largest = max(candidates, key=prod)
        if self._axis(largest, alone=True) is None:
            return shapes
        return [
            shape if shape is None or i < held else self._grown(shape, largest, batch) for i, shape in enumerate(shapes)
        ]

    def product_axis(self, product: Product, phase: str) -> str | None:
        """Which of m, n, k or "batch" of a matrix product grows; None: none does. Not for convolutions."""
        if product.kind == "attention":
            return "batch"
        if product.kind == "bmm":
            return next((axis for axis in ("batch", "m", "k") if self._multiple(getattr(product, axis))), None)
        m, n, k = product.m, product.n, product.k
        if product.pass_ is not None:
            wanted = "k" if product.pass_ == "wgrad" else "m"
        elif self._is_parameter(n, k):
            wanted = "m"
        elif self._is_parameter(m, n):
            wanted = "k"
        elif self._is_parameter(m, k):
            wanted = "n"
        elif phase == "backward" and self._multiple(k) and not self._multiple(m):
            wanted = "k"
        else:
            wanted = "m"
        size = {"m": m, "n": n, "k": k}[wanted]
        return wanted if size >= self.batch else None

    def doubtful(self, operation: Operation) -> bool:
        """Whether what grows was guessed: sizes that are no multiples of the batch, or that could be a weight's."""
        if operation.phase == "optimizer" or self.of_parameters(operation):
            return False
        product = operation.product
        if product is not None and product.kind == "conv":
            return False
        if product is not None:
            axis = self.product_axis(product, operation.phase)
            return axis is None or not self._multiple(getattr(product, axis))
        shapes = [shape for shape in flat_shapes(operation.dims) if shape]
        if not shapes:
            return False
        largest = max(shapes, key=prod)
        return self._axis(largest, alone=False) is None or (len(largest) == 2 and largest in self.parameters)

    def _grown(self, shape: Shape, largest: Shape, batch: int) -> Shape:
        axis = self._axis(shape, alone=shape == largest)
        broadcast = shape[:1] != largest[:1] and prod(shape) * self.batch <= prod(largest)
        if axis is None or broadcast:
            return shape
        return (*shape[:axis], self.grown_size(shape[axis], batch), *shape[axis + 1 :])

    def _axis(self, shape: Shape, *, alone: bool) -> int | None:
        """The dimension that grows: the first if it is a multiple of the batch, else one that equals it.

        `alone`: no other tensor tells, so a leading dimension above the batch (packed tokens) is taken to grow too.
        """
        if not shape:
            return None
        if self._multiple(shape[0]):
            return 0
        if self.batch > 1 and self.batch in shape:
            return shape.index(self.batch)
        return 0 if alone and shape[0] > self.batch else None

    def _multiple(self, size: int) -> bool:
        return size > 0 and size % self.batch == 0

    def _is_parameter(self, rows: int, columns: int) -> bool:
        return (rows, columns) in self.parameters or (columns, rows) in self.parameters


def flat_shapes(dims: Sequence[object]) -> list[Shape | None]:
    """The shapes of an operator's arguments in order, lists of tensors unrolled; None: no tensor, or a scalar."""
    return list(_flat(tuple(dims)))


@lru_cache(maxsize=1024)
def _flat(dims: tuple[object, ...]) -> tuple[Shape | None, ...]:
    """Kept, as several questions about one operation follow each other."""
    found: list[Shape | None] = []
    for entry in dims:
        if isinstance(entry, tuple) and entry and isinstance(entry[0], tuple):
            found += [_shape(inner) for inner in entry]
        else:
            found.append(_shape(entry))
    return tuple(found)


def flat_types(dims: Sequence[object], types: Sequence[str]) -> list[str]:
    """The element type of each entry of `flat_shapes`; "" where none was recorded."""
    found: list[str] = []
    for i, entry in enumerate(dims):
        name = types[i] if i < len(types) else ""
        many = len(entry) if isinstance(entry, tuple) and entry and isinstance(entry[0], tuple) else 1
        found += [name] * many
    return found


def bare_name(name: str) -> str:
    """An operator without its library: "aten::add_" is "add_"."""
    return name.rpartition("::")[2]


def _shape(entry: object) -> Shape | None:
    if not isinstance(entry, tuple) or not entry:
        return None
    return entry if all(isinstance(size, int) and size >= 0 for size in entry) else None
