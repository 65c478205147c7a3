"""What precision a trace was run in."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.profiling.linking.dtypes import element_type
from advisor.profiling.records import QUANTIZED, KernelGroup, Operation
from advisor.units import percent

MINOR_SHARE = 0.05
"""Of the products' time: a precision below it does not make the run a mixed one."""
_SHORT = {"fp16": "c10::half", "bf16": "c10::bfloat16"}
_FLOATING = ("float", "double", *_SHORT.values())


def read_precision(groups: Sequence[KernelGroup], operations: Sequence[Operation]) -> str:
    """The operands' precision of products, convolutions and attention, by time.

    "fp16 AMP" and "bf16 AMP": such operands where FP32 tensors are cast to them, or updated by the optimizer.
    "mixed: ..." where several precisions have a notable share; "unknown" where neither names nor types tell.
    """
    time_s: dict[str, float] = {}
    for group in groups:
        if group.class_ in QUANTIZED and (precision := _of_group(group, operations)):
            time_s[precision] = time_s.get(precision, 0.0) + group.total_s
    whole_s = sum(time_s.values())
    largest_first = sorted(time_s.items(), key=lambda item: -item[1])
    notable = {name: s / whole_s for name, s in largest_first if s > MINOR_SHARE * whole_s}
    short = next((name for name in _SHORT if name in notable), None)
    if short and _is_amp(short, groups, operations):
        return f"{short} AMP"
    if len(notable) > 1:
        return "mixed: " + ", ".join(f"{percent(share)} {name}" for name, share in notable.items())
    return next(iter(notable), "unknown")


def _of_group(group: KernelGroup, operations: Sequence[Operation]) -> str | None:
    """By the kernel's name, else by the operator's tensors."""
    if group.precision is not None:
        return group.precision
    types = operations[group.operation].types if group.operation is not None else ()
    return next((element_type(name)[0] for name in types if name.lower() in _FLOATING), None)


def _is_amp(short: str, groups: Sequence[KernelGroup], operations: Sequence[Operation]) -> bool:
    """Whether a kernel casts FP32 to the short type (autocast of weights), unscales gradients or updates FP32."""
    cast = [_SHORT[short], "float"]  # destination, source of aten::copy_
    return any(
        [name.lower() for name in operation.types[:2]] == cast if operation.name == "aten::copy_"
        else operation.name.startswith("aten::_amp_") or (phase == "optimizer" and "float" in operation.types)
        for operation, phase in ((operations[g.operation], g.phase) for g in groups if g.operation is not None)
    )  # fmt: skip
