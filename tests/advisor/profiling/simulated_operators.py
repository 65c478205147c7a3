"""Operators that the CPU ran, as a GPU build runs them: its own names and arguments, and none of the CPU's own parts.

Sources: PyTorch, aten/src/ATen/native/native_functions.yaml and tools/autograd/derivatives.yaml (2.9).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.advisor.profiling.simulated_kernels import Kernel

_NUMBERS = ("Sequence number", "Fwd thread id")
# What launches kernels of its own and nothing else on a GPU; on the CPU it may call others.
_ALONE = re.compile(
    r"aten::(?:add_?|sub|mul_?|div_?|gelu|gelu_backward|clamp_min_|relu|threshold_backward|fill_|zero_|sum|mean|b?mm|addmm|"
    r"native_layer_norm|native_layer_norm_backward|convolution_backward|_(?:log_)?softmax|_(?:log_)?softmax_backward_data|"
    r"nll_loss_forward|nll_loss_backward|index_select|embedding_dense_backward|max_pool2d_with_indices|"
    r"max_pool2d_with_indices_backward|copy_|_local_scalar_dense|_foreach_\w+|_fused_\w+|_amp_\w+)$"
)


@dataclass
class Node:
    """An operator or range of the host, and what ran inside of it; never changed once made."""

    name: str
    category: str = "cpu_op"
    args: dict[str, Any] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    launches: tuple[Kernel, ...] | None = None  # instead of those that its name tells
    is_graph: bool = False  # all kernels share one launch
    joins: bool = False  # later kernels wait for communication

    @property
    def dims(self) -> list[list[int]]:
        return list(self.args.get("Input Dims", []))

    @property
    def half(self) -> bool:
        """Whether its first tensors have two bytes an element."""
        return any(kind in ("c10::Half", "c10::BFloat16") for kind in self.args.get("Input type", [])[:3])

    @property
    def bfloat16(self) -> bool:
        return "c10::BFloat16" in self.args.get("Input type", [])[:3]

    def numbers(self, argument: int) -> list[int]:
        """Value of an argument that is a list of numbers."""
        return [int(part) for part in self.args["Concrete Inputs"][argument].strip("[]").split(",")]

    def within(self) -> Iterator[Node]:
        """Itself and all inside of it."""
        yield self
        for child in self.children:
            yield from child.within()


def as_on_cuda(nodes: Iterable[Node]) -> list[Node]:
    """The same operators as a GPU build would have run them."""
    return [_on_cuda(node) for node in nodes]


def _on_cuda(node: Node) -> Node:
    name = node.name.replace("NativeBatchNormBackward", "CudnnBatchNormBackward")
    name = name.replace("FlashAttentionForCpuBackward", "FlashAttentionBackward")
    node = replace(node, name=name)
    if name in _REPLACED:
        return _REPLACED[name](node)
    if name.startswith("Optimizer.step"):  # it reads its own step numbers, which stay on the host
        node = replace(node, children=[child for child in node.children if child.name != "aten::item"])
    return replace(node, children=[] if _ALONE.match(name) else as_on_cuda(node.children))


def _called(name: str, node: Node, arguments: Sequence[int | str]) -> Node:
    """An operator with some of another's arguments: their positions, or plain values as text."""
    dims, types, inputs = (node.args[key] for key in ("Input Dims", "Input type", "Concrete Inputs"))
    given = [([], "Scalar", a) if isinstance(a, str) else (dims[a], types[a], inputs[a]) for a in arguments]
    args = {"Input Dims": [g[0] for g in given], "Input type": [g[1] for g in given],
            "Concrete Inputs": [g[2] for g in given]}  # fmt: skip
    return Node(name, "cpu_op", args)


def _heads_last(node: Node, tensors: int) -> Node:
    """With its first tensors as (batch, length, heads, dim)."""
    dims = [[b, s, h, d] for b, h, s, d in node.dims[:tensors]]
    return replace(node, args=node.args | {"Input Dims": dims + node.dims[tensors:]})


def _convolution(node: Node) -> Node:
    children = [_called("aten::cudnn_convolution", node, [0, 1, 4, 3, 5, 8, "True", "False", "True"])]
    if node.dims[2]:
        children.append(_called("aten::add_", node, [0, 2, "1"]))
    return replace(node, children=children)


def _batch_norm(node: Node) -> Node:
    return replace(node, children=[_called("aten::cudnn_batch_norm", node, list(range(8)))])


def _batch_norm_backward(node: Node) -> Node:
    return _called("aten::cudnn_batch_norm_backward", node, [1, 0, 2, 3, 4, 5, 6, 8, ""])


def _attention(node: Node) -> Node:
    outer = _called("aten::_scaled_dot_product_flash_attention", node, [0, 1, 2, 3, 4, "False", 6])
    inner = _called("aten::_flash_attention_forward", node, [0, 1, 2, "", "", "1", "1", 3, 4, "False", 6])
    args = outer.args | {key: node.args[key] for key in _NUMBERS if key in node.args}
    return replace(outer, args=args, children=[_heads_last(inner, 3)])


def _attention_backward(node: Node) -> Node:
    arguments: list[int | str] = [0, 1, 2, 3, 4, 5, "", "", "1", "1", 6, 7, "", ""]
    outer = _called("aten::_scaled_dot_product_flash_attention_backward", node, arguments)
    return replace(outer, children=[_heads_last(_called("aten::_flash_attention_backward", node, arguments), 5)])


_REPLACED: dict[str, Callable[[Node], Node]] = {
    "aten::_convolution": _convolution,
    "aten::_batch_norm_impl_index": _batch_norm,
    "aten::native_batch_norm_backward": _batch_norm_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
