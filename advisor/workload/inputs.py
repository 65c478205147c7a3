"""What goes into a step and what comes out: a module's arguments, their layout, the loss of its output.

Imports torch and nothing else: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from advisor.errors import TraceError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""(positional, keyword) arguments of forward."""
MakeInputs = Callable[[int], Inputs]
MakeTargets = Callable[[tuple[int, ...], int], torch.Tensor]
"""From a shape and the number of classes to int64 targets."""


def tensor_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> MakeInputs:
    """One tensor of any content, `shape` being one sample's."""

    def make(batch: int) -> Inputs:
        return (torch.empty((batch, *shape), dtype=dtype),), {}

    return make


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor of nested mappings, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def has_images(module: torch.nn.Module) -> bool:
    """Whether a layout means anything to the module: it has 2-D convolutions."""
    return any(isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) for m in module.modules())


def to_layout(inputs: Inputs, channels_last: bool) -> Inputs:
    """The arguments with images in channels_last, where asked."""
    if not channels_last:
        return inputs

    def convert(value: Any) -> Any:
        is_image = isinstance(value, torch.Tensor) and value.dim() == 4
        return value.contiguous(memory_format=torch.channels_last) if is_image else value

    args, kwargs = inputs
    return tuple(map(convert, args)), {k: convert(v) for k, v in kwargs.items()}


def training_loss(output: Any, make_targets: MakeTargets) -> torch.Tensor:
    """The output's own loss, else cross entropy over its first floating-point tensor's classes.

    Classes are dimension 1 of [B, C] and [B, C, H, W], and the last of [B, T, C]. Raises TraceError where the output
    holds no floating-point tensor.
    """
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    logits = next((t for t in tensors_in(_plain(output)) if t.is_floating_point()), None)
    if logits is None:
        raise TraceError("its output holds no floating-point tensor to take a loss of: give loss(output, batch)")
    if logits.dim() == 0:
        return logits
    if logits.dim() == 1:
        logits = logits[:, None]
    if logits.dim() == 3:  # [batch, tokens, vocabulary]
        logits = logits.reshape(-1, logits.size(-1))
    targets = make_targets((logits.size(0), *logits.shape[2:]), logits.size(1))
    return torch.nn.functional.cross_entropy(logits, targets)


def _plain(output: Any) -> Any:
    return vars(output) if hasattr(output, "__dict__") and not isinstance(output, (Mapping, torch.Tensor)) else output
