"""What a traced operation that only moves data reads and writes, from the shapes of its arguments.

The accounting is `advisor.workload.operators.memory_bound`'s. A trace records no results, so their shapes follow from
the arguments': those of the largest for all that works element by element, and by name for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any

from advisor.profiling.advice.scaling import Shape, bare_name, flat_types
from advisor.profiling.linking.dtypes import element_type
from advisor.profiling.records import Operation
from advisor.workload.operators import KIND_OF, TensorInfo, memory_bound

# Arguments of the functional form, where traces also have one that writes into a last argument ("out").
_ARGUMENTS = {"add": 3, "sub": 3, "mul": 2, "div": 2, "clamp_min": 2, "clamp_max": 2, "clamp": 3, "sigmoid": 1,
              "tanh": 1, "threshold_backward": 3}  # fmt: skip
_AS_LARGE = frozenset({"cumsum", "cumprod", "sort", "topk"})  # reductions in kind, as large as their input
_ALIASES = {"cudnn_batch_norm": "native_batch_norm", "cudnn_batch_norm_backward": "native_batch_norm_backward",
            "miopen_batch_norm": "native_batch_norm", "layer_norm": "native_layer_norm",
            "softmax": "_softmax", "log_softmax": "_log_softmax"}  # fmt: skip
_NUMBERS = re.compile(r"\d{1,9}")


def memory_facts(operation: Operation, shapes: Sequence[Shape | None]) -> dict[str, Any]:
    """Kind, name, bytes read and written of one call with `shapes` (as `flat_shapes` gives them)."""
    name = _canonical(operation)
    types = flat_types(operation.dims, operation.types)
    tensors = [
        _info(shape, types[i] if i < len(types) else "") if shape is not None else None
        for i, shape in enumerate(shapes)
    ]
    read, outputs, in_place = _roles(name, operation, tensors)
    facts = memory_bound(name, read, outputs, in_place, pointwise=_pointwise(name))
    by_caller = operation.outer.endswith("_") and not operation.name.endswith("_")  # in place: relu_ calls clamp_min
    return {"name": name + "_" * by_caller, **facts}


def _canonical(operation: Operation) -> str:
    """The name that the step model's classes know: casts and changes of layout are all copies in a trace."""
    name = bare_name(operation.name)
    if name == "copy_":
        types = {element_type(kind)[0] for kind in operation.types[:2] if kind}
        if len(types) > 1:
            return "_to_copy"
        return "contiguous" if "contiguous" in operation.outer else "clone"
    return _ALIASES.get(name, name)


def _roles(
    name: str, operation: Operation, tensors: list[TensorInfo | None]
) -> tuple[list[TensorInfo | None], list[TensorInfo], list[TensorInfo]]:
    """(arguments read, results, arguments written to)."""
    present = [t for t in tensors if t is not None]
    if not present:
        return tensors, [], []
    if name in ("_to_copy", "clone", "contiguous") and len(present) > 1:  # of copy_(to, from)
        return [present[1]], [present[0]], []
    if name.endswith("_") and not name.startswith("_"):
        return tensors, [], present[:1]
    functional = _ARGUMENTS.get(name)
    if functional is not None and len(tensors) > functional and tensors[-1] is not None:
        return tensors[:functional], [tensors[-1]], []
    return tensors, _results(name, operation, tensors, present), []


def _results(
    name: str, operation: Operation, tensors: list[TensorInfo | None], present: list[TensorInfo]
) -> list[TensorInfo]:
    kind = KIND_OF.get(name)
    largest = max(present, key=lambda t: t.numel)
    if name == "cat":
        return [_dense((sum(t.numel for t in present),), largest)]
    if (kind == "reduction" and name not in _AS_LARGE) or kind == "loss":
        return []  # small beside what is read
    if kind == "pool":
        return _pooled(name, operation, tensors)
    if name in ("embedding", "_embedding_bag", "index_select"):
        table, indices = present[0], present[-1]
        return [_dense((*(indices.shape if len(present) > 1 else ()), *table.shape[1:]), table)]
    if name == "embedding_dense_backward":
        rows = _NUMBERS.findall(operation.inputs[2]) if len(operation.inputs) > 2 else []
        return [_dense((int(rows[0]), present[0].shape[-1]), present[0])] if rows else []
    if name.startswith("native_dropout") and not name.endswith("backward"):
        return [largest, TensorInfo(largest.shape, largest.strides, 1, "bool")]
    if name.startswith("upsample"):
        return _resized(operation, present)
    floating = [t for t in present if t.dtype.startswith(("fp", "bf"))] or present
    return [max(floating, key=lambda t: t.numel)]


def _pooled(name: str, operation: Operation, tensors: list[TensorInfo | None]) -> list[TensorInfo]:
    """Of backward the image pooled; of forward that over the stride, as recorded, else 2 x 2, and int64 indices."""
    if name.endswith("backward"):
        image = tensors[1] if len(tensors) > 1 and tensors[1] is not None else tensors[0]
        return [image] if image is not None else []
    image = tensors[0]
    if image is None or "adaptive" in name:
        return []
    text = operation.inputs[2] if len(operation.inputs) > 2 and operation.inputs[2] not in ("", "[]") else ""
    stride = prod(map(int, _NUMBERS.findall(text)[:3])) if text else 4
    out = _dense((max(1, image.numel // max(1, stride)),), image)
    return [out, TensorInfo(out.shape, out.strides, 8, "int64")] if name.endswith("indices") else [out]


def _resized(operation: Operation, present: list[TensorInfo]) -> list[TensorInfo]:
    """Of an upsampling: the size that its second argument says, else twice the sides."""
    image = present[0]
    sides = [int(n) for n in _NUMBERS.findall(operation.inputs[1])] if len(operation.inputs) > 1 else []
    if len(sides) != len(image.shape) - 2 or not sides:
        sides = [2 * side for side in image.shape[2:]]
    return [_dense((*image.shape[:2], *sides), image)]


def _pointwise(name: str) -> bool:
    return not name.startswith("upsample") and KIND_OF.get(name) is None and name in _ARGUMENTS


def _info(shape: Shape, type_name: str) -> TensorInfo:
    dtype, itemsize = element_type(type_name)
    dtype = "fp16" if dtype == "bf16" else dtype  # as workloads have it
    return _with_strides(shape, itemsize, dtype)


def _dense(shape: Shape, like: TensorInfo) -> TensorInfo:
    return _with_strides(shape, like.itemsize, like.dtype)


def _with_strides(shape: Shape, itemsize: int, dtype: str) -> TensorInfo:
    strides, step = [0] * len(shape), 1
    for dim in reversed(range(len(shape))):
        strides[dim] = step
        step *= max(1, shape[dim])
    return TensorInfo(shape, tuple(strides), itemsize, dtype)
