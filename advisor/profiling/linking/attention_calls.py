"""Fused attention operators of a trace: PyTorch's own, flash_attn's and xFormers'.

FLOP as `torch.utils.flop_counter` counts them, masked scores too: two products forward, five backward.
Argument orders: PyTorch, aten/src/ATen/native/native_functions.yaml (2.0 to 2.9); flash_attn_interface.py of
Dao-AILab/flash-attention (2.7).
"""

from __future__ import annotations

from typing import NamedTuple

from advisor.profiling.linking.calls import LARGEST, Call, Shape, Situation
from advisor.profiling.linking.dtypes import element_type
from advisor.profiling.records import Product


class _Signature(NamedTuple):
    query: int  # key and value follow
    causal: int | None
    heads_first: bool  # (batch, heads, length, dim), else (batch, length, heads, dim)
    lengths: int | None = None  # cumulative lengths of the sequences packed into one, then those of the keys


_SIGNATURES = {
    "aten::_scaled_dot_product_flash_attention": _Signature(0, 4, True),
    "aten::_scaled_dot_product_flash_attention_for_cpu": _Signature(0, 4, True),
    "aten::_scaled_dot_product_efficient_attention": _Signature(0, 6, True),
    "aten::_scaled_dot_product_cudnn_attention": _Signature(0, 6, True),
    "aten::_flash_attention_forward": _Signature(0, 8, False, 3),
    "aten::_efficient_attention_forward": _Signature(0, 9, False, 4),
    "aten::_cudnn_attention_forward": _Signature(0, 10, True, 4),
    "aten::_scaled_dot_product_flash_attention_backward": _Signature(1, 11, True, 6),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _Signature(1, 7, True),
    "aten::_scaled_dot_product_efficient_attention_backward": _Signature(1, 11, True),
    "aten::_scaled_dot_product_cudnn_attention_backward": _Signature(1, 14, True, 9),
    "aten::_flash_attention_backward": _Signature(1, 11, False, 6),
    "aten::_efficient_attention_backward": _Signature(1, 14, False, 6),
    "aten::_cudnn_attention_backward": _Signature(1, 14, True, 9),
    "aten::scaled_dot_product_attention": _Signature(0, 5, True),
    "flash_attn::_flash_attn_forward": _Signature(0, 5, False),
    "flash_attn::_flash_attn_backward": _Signature(1, 11, False),
    "flash_attn::_flash_attn_varlen_forward": _Signature(0, 9, False, 3),
    "flash_attn::_flash_attn_varlen_backward": _Signature(1, 15, False, 9),
}
_FAMILIES = ("flash_attn", "flashattn", "xformers", "memory_efficient_attention", "fmha")


def is_attention(name: str) -> bool:
    """Whether an operator is fused attention, forward or backward."""
    return name in _SIGNATURES or any(family in name.lower() for family in _FAMILIES)


def attention_product(situation: Situation) -> Product | None:
    """The work of a fused attention operator; m, n, k of the scores: query length, key length, head dim."""
    call = situation.call
    backward = situation.phase == "backward" and "forward" not in call.name
    dims = _dims(call, backward)
    forward = _dims(situation.forward, False) if situation.forward is not None else None
    if dims is None or (forward is not None and not call.inputs):  # its mask may be told where this one's is not
        dims = forward
    if dims is None:
        return None
    dtype, element_bytes = element_type(call.type_of(_signature(call, backward).query))
    products = (3 * dims["head_dim"] + 2 * dims["value_dim"]) if backward else (dims["head_dim"] + dims["value_dim"])
    instances = dims["batch"] * dims["heads"]
    flops = 2 * instances * dims["q_len"] * dims["kv_len"] * products
    if not 0 < flops < 2**62 or instances > LARGEST:
        return None
    return Product(
        "attention", dims["q_len"], dims["kv_len"], dims["head_dim"], instances, None if backward else "fprop", None,
        flops, dims, element_bytes, dtype,
    )  # fmt: skip


def attention_layer(product: Product) -> str:
    """What a reader calls it: "attention 12 heads x 64, 512 x 512"."""
    dims = product.attention or {}
    text = f"attention {dims['heads']} heads x {dims['head_dim']}, {dims['q_len']} x {dims['kv_len']}"
    return text + (" causal" if dims["causal"] else "")


def _signature(call: Call, backward: bool) -> _Signature:
    """The known argument order, or the usual one: (gradient,) query, key, value in (batch, length, heads, dim)."""
    return _SIGNATURES.get(call.name, _Signature(1 if backward else 0, None, False))


def _dims(call: Call, backward: bool) -> dict[str, int] | None:
    if not is_attention(call.name):
        return None
    where = _signature(call, backward)
    query, key, value = (call.shape(where.query + i) for i in range(3))
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return None
    causal = int(where.causal is not None and call.input(where.causal) in ("True", "1", "2"))
    if len(query) == 3:
        return _packed(call, where, query, key, value, causal)
    if len(query) != 4:
        return None
    length, heads = (2, 1) if where.heads_first else (1, 2)
    return {
        "batch": query[0], "heads": query[heads], "q_len": query[length], "kv_len": key[length], "head_dim": query[3],
        "value_dim": value[3], "causal": causal,
    }  # fmt: skip


def _packed(
    call: Call, where: _Signature, query: Shape, key: Shape, value: Shape, causal: int
) -> dict[str, int] | None:
    """Sequences of several lengths, packed into one: (tokens, heads, dim), each as long as the average."""
    lengths = call.shape(where.lengths) if where.lengths is not None else None
    if lengths is None or lengths[0] < 2:
        return None
    batch = lengths[0] - 1
    return {
        "batch": batch, "heads": query[1], "q_len": max(query[0] // batch, 1), "kv_len": max(key[0] // batch, 1),
        "head_dim": query[2], "value_dim": value[2], "causal": causal,
    }  # fmt: skip
