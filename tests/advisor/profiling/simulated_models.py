"""Small models with the operators of real ones, recorded once; each size stands for the one beside it in `SIZES`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.advisor.profiling.simulated import parameter_sizes, record
from tests.advisor.profiling.simulated_kernels import Gpu, Kernel, kernels_of
from tests.advisor.profiling.simulated_operators import Node, as_on_cuda

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

# pixels of 224, channels of ResNet-18, 1001 classes, 256 images
RESNET_SIZES = {2: 7, 4: 14, 8: 28, 16: 56, 32: 112, 64: 224, 11: 64, 22: 128, 44: 256, 88: 512, 13: 1001, 5: 256}
# GPT-2 small: 16 sequences of 1024 (their product), 12 heads of 64, 768, 3 x 768, 4 x 768, a vocabulary of 50257
GPT_SIZES = {11: 16, 13: 1024, 143: 16384, 5: 12, 17: 64, 85: 768, 255: 2304, 340: 3072, 1009: 50257}


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Identity()
        if c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """ResNet-18 (arXiv:1512.03385) with channels of its own."""

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels[0], 7, 2, 3, bias=False), nn.BatchNorm2d(channels[0])
        self.pool = nn.MaxPool2d(3, 2, 1)
        before = (channels[0], *channels)
        first = [_Block(before[i], channels[i], 2 if i else 1) for i in range(4)]
        second = [_Block(c, c, 1) for c in channels]
        self.blocks = nn.Sequential(*[block for pair in zip(first, second, strict=True) for block in pair])
        self.head = nn.Linear(channels[3], classes)

    def forward(self, x: Any) -> Any:
        x = self.blocks(self.pool(functional.relu(self.norm(self.stem(x)), inplace=True)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        b, s, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, dim=2)
        q, k, v = (part.view(b, s, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(b, s, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """A GPT-2 of two layers."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(_Layer(width, heads), _Layer(width, heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.layers(self.tokens(x) + self.positions(torch.arange(x.shape[1])))))


def _recorded(step: Callable[[int], object], **options: Any) -> tuple[Node, ...]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operators are slower on several
    try:
        with tempfile.TemporaryDirectory() as folder:
            return record(step, Path(folder, "trace.json"), **options)
    finally:
        torch.set_num_threads(threads)


@cache
def resnet_inference(batches: int = 3) -> tuple[Node, ...]:
    """Batches of ResNet-18 in FP16, without gradients and without marks; each ends with its result on the host."""
    model = ResNet((11, 22, 44, 88), 13).to(memory_format=torch.channels_last).to(torch.bfloat16).eval()
    on_host = torch.randn(5, 3, 64, 64, dtype=torch.float64).contiguous(memory_format=torch.channels_last)

    def step(_: int) -> None:
        with torch.no_grad():
            model(on_host.to(torch.bfloat16)).float().sum().item()

    return _recorded(step, sizes=RESNET_SIZES, half="c10::Half", marks=False, steps=batches)


@cache
def resnet_fp32() -> tuple[Node, ...]:
    """Two steps of ResNet-18 in FP32, fed by a data loader; Adam over all parameters at once."""
    model = ResNet((11, 22, 44, 88), 13).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images = torch.randn(5 * 4, 3, 64, 64, dtype=torch.float64)
    loader = iter(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=5))
    labels = torch.randint(0, 13, (5,))

    def step(_: int) -> None:
        (batch,) = next(loader)
        x = batch.to(torch.float32, memory_format=torch.channels_last)
        functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _recorded(step, sizes=RESNET_SIZES)


@cache
def resnet_amp() -> tuple[Node, ...]:
    """Two steps of ResNet-18: FP16 AMP with GradScaler, channels_last, foreach SGD, input from the host."""
    model = ResNet((11, 22, 44, 88), 13).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    scaler = torch.amp.GradScaler("cpu")
    on_host = torch.randn(5, 3, 64, 64, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 13, (5,))

    def step(_: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(on_host.to(torch.float32)), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return _recorded(step, sizes=RESNET_SIZES, half="c10::Half")


@cache
def gpt_bf16(micro_batches: int = 1, marks: bool = True) -> tuple[Node, ...]:
    """Two steps of GPT: BF16 autocast, causal flash attention, gradient clipping, fused AdamW."""
    model = Gpt(1009, 13, 85, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    text = torch.randint(0, 1009, (11, 13))

    def step(_: int) -> None:
        for _ in range(micro_batches):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = functional.cross_entropy(model(text).flatten(0, 1), text.flatten())
            (loss / micro_batches if micro_batches > 1 else loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _recorded(step, sizes=GPT_SIZES, marks=marks)


def all_reduced(step: Node, buckets: int, elements: int) -> Node:
    """A step as DistributedDataParallel runs it: gradients summed in buckets, the last when all are there."""
    wrappers = [i for i, node in enumerate(step.children) if node.name.endswith("AccumulateGrad")]
    ends = {wrappers[len(wrappers) * (i + 1) // buckets - 1] for i in range(buckets)}
    children = [
        replace(node, children=[*node.children, _all_reduce(elements)]) if i in ends else node
        for i, node in enumerate(step.children)
    ]
    after = max(ends) + 1
    children[after] = replace(children[after], joins=True)
    return replace(step, children=children)


def _all_reduce(elements: int) -> Node:
    kernel = Kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 0.0, (24, 1, 1), 640,
                    96, launch="cudaLaunchKernelExC", communicates=True)  # fmt: skip
    args = {"Input Dims": [[elements]], "Input type": ["float"], "Concrete Inputs": [""]}
    told = {"Collective name": "allreduce", "In msg nelems": elements, "Out msg nelems": elements, "Group size": 2,
            "dtype": "Float", "Process Group Name": "0"}  # fmt: skip
    innermost = Node("nccl:all_reduce", "user_annotation", launches=(kernel,))
    return Node(
        "c10d::allreduce_", args=args, children=[Node("record_param_comms", args=args | told, children=[innermost])]
    )


def as_graph(step: Node, gpu: Gpu) -> Node:
    """The kernels of a step as one CUDA graph, which the host launches at once."""
    sizes = parameter_sizes([step])
    launched = [kernel for node in as_on_cuda([step])[0].within() for kernel in kernels_of(node, gpu, sizes)]
    kernels = tuple(kernel for kernel in launched if kernel.copied is None)
    return replace(step, children=[Node("graph", "", launches=kernels, is_graph=True)])


def compiled(step: Node, gpu: Gpu) -> Node:
    """A step as torch.compile runs it: one region forward and one backward, all but products and attention fused.

    Fused kernels are operators of their own, named after what they fuse, without shapes.
    """
    children = as_on_cuda([step])[0].children
    backward = [i for i, node in enumerate(children) if node.name.startswith("autograd::engine") and not _leaf(node)]
    forward, rest = children[: backward[0]], children[backward[0] :]
    gradients = [node for node in rest if _leaf(node)]
    after = [node for node in rest if not node.name.startswith("autograd::engine")]
    region = Node("CompiledFunction", args={"Sequence number": 9, "Fwd thread id": 0} | forward[0].args,
                  children=_graph(forward, gpu, "f"))  # fmt: skip
    undone = [node for node in rest if node.name.startswith("autograd") and not _leaf(node)]
    node = Node("CompiledFunctionBackward", args={"Sequence number": 9, "Fwd thread id": 1},
                children=_graph(undone, gpu, "b"))  # fmt: skip
    wrapper = Node("autograd::engine::evaluate_function: CompiledFunctionBackward", args=node.args, children=[node])
    outer = Node("Torch-Compiled Region: 0/0", children=[region])
    return replace(step, children=[outer, wrapper, *gradients, *after])


def _leaf(node: Node) -> bool:
    return node.name.endswith("AccumulateGrad")


def _graph(nodes: Iterable[Node], gpu: Gpu, name: str) -> list[Node]:
    kept: list[Node] = []
    fused: list[Node] = []

    def flush() -> None:
        if fused:
            names = [node.name.removeprefix("aten::").strip("_") for node in fused]
            kind = "red" if any("norm" in n or "softmax" in n or n == "sum" for n in names) else "poi"
            us = sum(kernel.us for node in fused for kernel in kernels_of(node, gpu, ())) / 2
            kernel = Kernel(f"triton_{kind}_fused_{'_'.join(dict.fromkeys(names))}_{len(kept)}", us, (2048, 1, 1), 256,
                            launch="cuLaunchKernel")  # fmt: skip
            kept.append(Node(kernel.name, launches=(kernel,)))
            fused.clear()

    for node in (part for top in nodes for part in top.within()):
        args = {key: value for key, value in node.args.items() if key not in ("Sequence number", "Fwd thread id")}
        if node.name.removeprefix("aten::") in ("mm", "addmm") or node.name.startswith("aten::_scaled_dot"):
            flush()
            kept.append(replace(node, args=args))
        elif kernels_of(node, gpu, ()) and "_flash_" not in node.name:
            fused.append(node)
    flush()
    return [Node(f"## Call CompiledFxGraph {name}ag7ynm3on43 ##", "user_annotation", children=kept)]
