"""What a reader calls the layer that a kernel belongs to."""

from __future__ import annotations

import re

from advisor.profiling.linking.attention_calls import attention_layer, attention_product, is_attention
from advisor.profiling.linking.calls import Call, Shape, Situation
from advisor.profiling.linking.conv_shapes import ConvShapes, conv_layer
from advisor.profiling.linking.linear_calls import gradient_layer, is_linear_algebra, linear_layer
from advisor.profiling.linking.names import WRAPPER, is_library_call, is_region

_SHOWN = 6  # dimensions
_NORMS_OF_CHANNELS = re.compile(r"batch_norm|instance_norm|group_norm|pool")


def layer_text(situation: Situation, shapes: ConvShapes | None) -> str:
    """The layer of a call; of a backward one that of its forward, where the trace has it."""
    if shapes is not None:
        return conv_layer(shapes)
    if situation.phase != "backward":
        return _forward_text(situation.call, situation.top)
    call, forward = situation.call, situation.forward
    if is_attention(call.name):
        attention = attention_product(situation)
        return attention_layer(attention) if attention is not None else _plain(call)
    # what a whole compiled or recomputed region is called says nothing of its parts
    if forward is not None and is_library_call(forward.name):
        return _forward_text(forward, situation.forward_top or forward)
    return gradient_layer(situation) or linear_layer(call, situation.outer) or _plain(call)


def _forward_text(call: Call, top: Call) -> str:
    attention = attention_product(Situation(call, "forward", top.name, top))
    if attention is not None:
        return attention_layer(attention)
    if is_linear_algebra(call.name):
        return linear_layer(call, top.name) or _plain(call)
    if is_linear_algebra(top.name):
        return linear_layer(top, top.name) or _plain(top)
    return _plain(top if top.shapes() or not call.shapes() else call)


def _plain(call: Call) -> str:
    """Name and sizes: "batch_norm 64 on 112x112", "layer_norm 768", "embedding 50257x768", "add 32x256x56x56"."""
    name = call.name.removeprefix(WRAPPER).rpartition("aten::")[2].rstrip("_") or call.name
    shapes = call.shapes()
    if not shapes or is_region(name):
        return name
    first = shapes[0]
    if any(isinstance(dims, tuple) and dims and isinstance(dims[0], tuple) for dims in call.dims[:1]):
        return f"{name} of {len(call.dims[0] or ())} tensors"
    if "layer_norm" in name or "rms_norm" in name:
        normalized = call.numbers(1)
        return f"{name} {_sizes(normalized or (shapes[1] if len(shapes) > 1 else first[-1:]))}"
    if _NORMS_OF_CHANNELS.search(name) and len(first) > 2:
        return f"{name} {first[1]} on {_sizes(first[2:])}"
    return f"{name} {_sizes(first)}"


def _sizes(shape: Shape) -> str:
    return "x".join(str(size) for size in shape[:_SHOWN]) + ("x..." if len(shape) > _SHOWN else "")
