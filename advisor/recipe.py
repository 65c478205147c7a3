"""How a step is run. Every prediction and record carries its recipe: each of these moves time or memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from advisor.errors import BadInputError

Precision = Literal["fp16", "bf16", "fp32", "tf32"]
Layout = Literal["nhwc", "nchw", "any"]
Optimizer = Literal["sgd", "adam", "adamw"]
Mode = Literal["train", "infer"]
Attention = Literal["fused", "unfused"]

PRECISIONS: tuple[str, ...] = get_args(Precision)
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True)
class Recipe:
    """One way of running a step in PyTorch's eager mode.

    fp16 and bf16 mean automatic mixed precision (autocast, FP32 master weights); fp32 turns TF32 off.
    """

    name: str = "default"
    precision: Precision = "fp16"
    layout: Layout = "nhwc"  # channels_last; means nothing to a model without images
    optimizer: Optimizer = "sgd"  # sgd: with momentum
    grad_scaler: bool = True  # torch.amp.GradScaler: unscales and checks every gradient; used with fp16 only
    set_to_none: bool = True  # zero_grad(set_to_none=True): gradients are freed between steps
    foreach: bool = True  # multi-tensor optimizer kernels, PyTorch's default on CUDA since 2.0
    cudnn_benchmark: bool = True
    attention: Attention = "fused"  # scaled_dot_product_attention's fused kernels
    mode: Mode = "train"  # infer: the forward pass alone, in eval mode

    @property
    def autocast(self) -> bool:
        """Whether matrix products run in a 2-byte type under autocast."""
        return self.precision in ("fp16", "bf16")

    def describe(self, *, layout: str | None = None, attention: str | None = None) -> str:
        """One line for the header of a report.

        `layout` and `attention` are those of the traced step where they are not the recipe's: "any" and "none" for a
        model without images or without attention, "unfused" for one that writes its attention out.
        """
        layout, attention = layout or self.layout, attention or self.attention
        parts = [f"{self.precision}{' AMP' if self.autocast else ''}{' inference' if self.mode == 'infer' else ''}"]
        if layout != "any":
            parts.append(layout)
        if self.mode == "train":
            parts.append(self.optimizer + (" with momentum" if self.optimizer == "sgd" else ""))
            if self.grad_scaler and self.precision == "fp16":
                parts.append("GradScaler")
        if attention != "none":
            parts.append(f"{attention} attention")
        if self.mode == "train":
            parts += [f"zero_grad(set_to_none={self.set_to_none})", f"foreach={self.foreach}"]
        return ", ".join([*parts, f"cudnn.benchmark={self.cudnn_benchmark}", "eager"])


RECIPES = {
    "default": Recipe(),
    # timm's benchmark.py of July 2022 (PyTorch 1.12): autocast without a scaler, gradients zeroed in place,
    # optimizer looped over parameters, attention as separate operations.
    "timm-2022": Recipe(name="timm-2022", grad_scaler=False, set_to_none=False, foreach=False, attention="unfused"),
}


def make_recipe(name: str = "default", **changes: object) -> Recipe:
    """Return a named recipe with some fields changed (None leaves a field as it is).

    Raises BadInputError for an unknown recipe or a value a field does not take.
    """
    if name not in RECIPES:
        raise BadInputError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    changes = {field: value for field, value in changes.items() if value is not None}
    allowed = {"precision": PRECISIONS, "layout": get_args(Layout), "optimizer": OPTIMIZERS, "mode": MODES,
               "attention": get_args(Attention)}  # fmt: skip
    for field, value in changes.items():
        if field in allowed and value not in allowed[field]:
            raise BadInputError(f"{field} {value!r} is not one of {', '.join(allowed[field])}")
    return dataclasses.replace(RECIPES[name], **changes)  # type: ignore[arg-type]  # checked just above
