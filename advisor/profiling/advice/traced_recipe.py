"""How the traced step was run: the recipe that a prediction of it stands on, as far as the trace shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from advisor.profiling.advice.scaling import bare_name
from advisor.profiling.kernels.layout import traced_layout
from advisor.profiling.kernels.precision import read_precision
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import KernelGroup, Operation
from advisor.recipe import Layout, Optimizer, Precision, Recipe

_STEP = re.compile(r"^Optimizer\.step#(\w+)\.step$")
_EIGHT_BITS = ("fp8", "int8")
_PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "tf32", "fp32")


def traced_recipe(
    raw: RawTrace, groups: Sequence[KernelGroup], operations: Sequence[Operation]
) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe, and a line for everything in it that was assumed."""
    names = set(raw.names)
    phases = {operation.phase for operation in operations}
    training = bool(phases & {"backward", "optimizer"})
    precision, notes = _precision(read_precision(groups, operations))
    optimizer, assumed = _optimizer(names) if training else ("sgd", ())
    recipe = Recipe(
        name="traced",
        precision=precision,
        layout=_layout(groups, operations),
        optimizer=optimizer,
        grad_scaler=any("_amp_foreach_non_finite_check" in name for name in names),
        set_to_none=not any(o.phase == "backward" and "AccumulateGrad" in o.outer for o in operations),
        foreach=any(
            o.phase == "optimizer" and bare_name(o.name).startswith(("_foreach_", "_fused_")) for o in operations
        ),
        mode="train" if training else "infer",
    )
    return recipe, (*notes, *assumed)


def with_amp(recipe: Recipe) -> Recipe:
    """The same step under automatic mixed precision in FP16, with a GradScaler where it trains."""
    return replace(recipe, name="traced, with AMP", precision="fp16", grad_scaler=recipe.mode == "train")


def _precision(read: str) -> tuple[Precision, tuple[str, ...]]:
    """Of "fp16 AMP", "mixed: 81 % fp16, 19 % fp32" and the like, the main one that the time model knows."""
    words = re.findall(r"[a-z]+\d+", read)
    found = next((known for word in words for known in _PRECISIONS if word == known), None)
    if found is None and words and words[0] in _EIGHT_BITS:
        return "bf16", (f"the products of the trace are {words[0].upper()}: predicted as BF16, too slow on other GPUs",)
    if found is None:
        return "fp32", (f"the precision of the trace is {read}: predicted as FP32",)
    if read.startswith("mixed"):
        return found, (f"the trace is {read}: predicted as {found.upper()} where types do not tell",)
    return found, ()


def _optimizer(names: set[str]) -> tuple[Optimizer, tuple[str, ...]]:
    used = [match[1] for name in names if (match := _STEP.match(name))]
    used += [name.removeprefix("aten::_fused_").rstrip("_") for name in names if name.startswith("aten::_fused_")]
    known: dict[str, Optimizer] = {"sgd": "sgd", "adam": "adam", "adamw": "adamw"}
    for name in used:
        if name.lower() in known:
            return known[name.lower()], ()
    if used:
        return "adamw", (f"optimizer {used[0]}: its memory taken as AdamW's",)
    return "sgd", ("the trace names no optimizer: SGD with momentum assumed",)


def _layout(groups: Sequence[KernelGroup], operations: Sequence[Operation]) -> Layout:
    """As the convolutions ran; without any, NCHW if there are images."""
    if (layout := traced_layout(groups)) is not None:
        return layout
    images = any(len(shape) == 4 for o in operations for shape in o.dims[:1] if isinstance(shape, tuple))
    return "nchw" if images else "any"
