"""What is bound by memory: normalisation, activations, casts, softmax, pooling, optimizers, depthwise convolutions.

Case kind "memory": op (a class of `advisor.step_ops.MEMORY_CLASSES`, or "optimizer_sgd", "optimizer_adamw"), detail
(which operator), shape ("128x64x56x56"), bytes (that one call moves, counted as the advisor counts: every input read
once, every output written once), dtype, layout, mode. Depthwise and grouped convolutions are of kind "conv".

Operators are called as autograd calls them under autocast: normalisation and losses in FP32, the rest in FP16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from bench.case import Case, Result
from bench.shapes import ConvShape, catalogue_convolutions
from bench.suites import Context, SuiteOptions, conv
from bench.suites.common import ITEM_BYTES, Operands, Work, copies_of, dtype_of, number, tiers, timed, unfit
from bench.timer import Call

SUITE = "memory"
LAYOUTS = ("nhwc", "nchw")
VOCABULARY = 30522  # BERT's
IMAGES = ((128, 256, 28, 28), (32, 64, 28, 28), (256, 256, 56, 56))  # batch, channels, height, width
ROWS = ((32768, 768), (2048, 768), (65536, 3072))  # tokens, features
PARAMETERS = ((64, 2**20), (320, 2**18), (16, 2**24))  # tensors, elements of each
DEPTHWISE = ("mobilenet_v3_large",)
GROUPED = ("resnext50_32x4d", "convnext_tiny", "efficientnet_b0", "mobilenet_v2")


@dataclass(frozen=True)
class Shape:
    """Of the largest activation: [batch, channels, height, width], or [rows, width]; of an optimizer, its tensors."""

    sizes: tuple[int, ...]
    item: int  # bytes of an activation's element

    @property
    def n(self) -> int:
        """Elements."""
        return prod(self.sizes)

    @property
    def width(self) -> int:
        """Channels of an image, features of a row."""
        return self.sizes[1]

    @property
    def pooled(self) -> int:
        """Elements after 3x3 pooling at stride 2 with padding 1."""
        batch, channels, height, width = self.sizes
        return batch * channels * ((height + 1) // 2) * ((width + 1) // 2)


class Maker:
    """Tensors of one copy of the operands."""

    def __init__(self, operands: Operands, shape: Shape, dtype: str, *, channels_last: bool) -> None:
        self.operands, self.shape, self.dtype = operands, shape, dtype
        self.channels_last = channels_last and len(shape.sizes) == 4

    def activation(self, *sizes: int, dtype: str | None = None) -> Any:
        """As the case's shape, or of other sizes, in its layout."""
        sizes = sizes or self.shape.sizes
        return self.operands.uniform(
            *sizes, dtype=dtype or self.dtype, channels_last=self.channels_last and len(sizes) == 4
        )

    def parameter(self) -> Any:
        """FP32, one per channel or feature."""
        return self.operands.uniform(self.shape.width, dtype="fp32")


@dataclass(frozen=True)
class MemoryOp:
    """One operator: its class, what it moves, and how it is called."""

    op: str
    dtype: str
    images: bool
    read_bytes: Callable[[Shape], int]
    write_bytes: Callable[[Shape], int]
    prepare: Callable[[Maker], Call]
    unmoved_bytes: Callable[[Shape], int] = lambda s: 0  # held beside them, hardly touched


def memory_case(detail: str, sizes: tuple[int, ...], *, layout: str = "nhwc", mode: str = "cold") -> Case:
    """One operator on one shape. Rows have no layout: theirs is "any". KeyError for an unknown detail."""
    op = OPS[detail]
    shape = Shape(sizes, ITEM_BYTES[op.dtype])
    return Case(
        SUITE, "memory",
        {
            "op": op.op, "detail": detail, "shape": "x".join(map(str, sizes)),
            "bytes": op.read_bytes(shape) + op.write_bytes(shape), "dtype": op.dtype,
            "layout": layout if op.images else "any", "mode": mode,
        },
    )  # fmt: skip


def optimizer_case(optimizer: str, tensors: int, elements: int) -> Case:
    """One step over FP32 parameters, multi-tensor ("foreach"). Bytes as `advisor.steptime.update_work` counts them."""
    moved = UPDATE_BYTES[optimizer] * tensors * elements
    return Case(
        SUITE, "memory",
        {
            "op": f"optimizer_{optimizer}", "detail": "foreach", "shape": f"{tensors}x{elements}", "bytes": moved,
            "dtype": "fp32", "layout": "any", "mode": "cold",
        },
    )  # fmt: skip


UPDATE_BYTES = {"sgd": 32, "adamw": 84}  # per parameter


def cases(options: SuiteOptions) -> list[list[Case]]:
    """Tiers: every operator at one size, optimizers, depthwise layers; other sizes; NCHW; other grouped layers."""
    if options.smoke:
        return [list(_smoke())]
    if options.quick:
        return []
    return tiers(
        [
            *_sweep(IMAGES[:1], ROWS[:1]),
            *(optimizer_case(name, *PARAMETERS[0]) for name in UPDATE_BYTES),
            *_grouped(DEPTHWISE, (128,)),
        ],
        [
            *_sweep(IMAGES[1:], ROWS[1:]),
            *(optimizer_case(name, *sizes) for sizes in PARAMETERS for name in UPDATE_BYTES),
        ],
        [*_sweep(IMAGES, (), layout="nchw"), *_grouped(DEPTHWISE, (128,), layout="nchw")],
        _grouped(GROUPED, (64,)),
        _sweep(IMAGES, ROWS, mode="warm"),
        _grouped(DEPTHWISE, (32, 64, 127, 128, 129, 256)),
        _grouped(DEPTHWISE, (128,), autotuned=False),
        [*_grouped(GROUPED, (64,), layout="nchw"), *_grouped(GROUPED, (16, 128, 256))],
    )


def _sweep(
    images: Iterable[tuple[int, ...]], rows: Iterable[tuple[int, ...]], *, layout: str = "nhwc", mode: str = "cold"
) -> list[Case]:
    images, rows = tuple(images), tuple(rows)
    return [
        memory_case(detail, sizes, layout=layout, mode=mode)
        for detail, op in OPS.items()
        for sizes in (images if op.images else rows)
    ]


def _grouped(names: tuple[str, ...], batches: Iterable[int], **how: Any) -> list[Case]:
    return [
        conv.conv_case(use.shape, batch, pass_=pass_, suite=SUITE, **how)
        for use in catalogue_convolutions(names, grouped=True)
        for pass_ in use.passes
        for batch in batches
    ]


def _smoke() -> Iterator[Case]:
    for detail, op in OPS.items():
        yield memory_case(detail, (2, 32, 6, 6) if op.images else (6, 16))
    yield memory_case("batch_norm", (2, 32, 6, 6), layout="nchw")
    for optimizer in UPDATE_BYTES:
        yield optimizer_case(optimizer, 3, 50)
    for pass_ in ("forward", "dgrad", "wgrad"):
        yield conv.conv_case(
            ConvShape(8, 8, 9, 9, 3, 3, padding=1, groups=8), 2, pass_=pass_, dtype="fp32", suite=SUITE
        )


# Running -------------------------------------------------------------------------------------------------------------


def shape_of(case: Case) -> Shape:
    """The case's shape."""
    return Shape(
        tuple(int(size) for size in str(case.params["shape"]).split("x")), ITEM_BYTES[str(case.params["dtype"])]
    )


def work_of(case: Case) -> Work:
    """Bytes alone; of an optimizer, how many are read is not told apart."""
    if case.kind == "conv":
        return conv.work_of(case)
    if str(case.params["op"]).startswith("optimizer_"):
        return Work(0, number(case, "bytes"), 0)
    op, shape = OPS[str(case.params["detail"])], shape_of(case)
    return Work(0, op.read_bytes(shape), op.write_bytes(shape))


def run(case: Case, context: Context) -> Result:
    """Time one operator, one optimizer step or one pass of a grouped convolution."""
    if case.kind == "conv":
        return conv.run(case, context)
    work, shape = work_of(case), shape_of(case)
    if str(case.params["op"]).startswith("optimizer_"):
        refusal = unfit(context, 20 * shape.n, "the optimizer's step")  # weight, gradient, two moments, temporaries
        return refusal or _optimizer(case, context, work, shape)
    op = OPS[str(case.params["detail"])]
    one_copy = work.read_bytes + 2 * work.write_bytes + op.unmoved_bytes(shape)
    refusal = unfit(context, one_copy, str(case.params["detail"]))
    if refusal is not None:
        return refusal
    copies, mode = copies_of(context, work, case.params["mode"], one_copy)
    operands, dtype = Operands(case, context.torch_device), str(case.params["dtype"])
    maker = Maker(operands, shape, dtype, channels_last=case.params["layout"] == "nhwc")
    calls = [op.prepare(maker) for _ in range(copies)]
    return timed(context, calls, work.facts() | {"copies": copies}, mode=mode)


def _optimizer(case: Case, context: Context, work: Work, shape: Shape) -> Result:
    """No graph: a captured step of AdamW would need its step count on the device."""
    import torch

    tensors, elements = shape.sizes
    make = Operands(case, context.torch_device)
    parameters = []
    for _ in range(tensors):
        parameter = torch.nn.Parameter(make.uniform(elements, dtype="fp32"))
        parameter.grad = make.uniform(elements, dtype="fp32")
        parameters.append(parameter)
    small = 1e-6  # so that thousands of steps leave the weights where they are
    optimizer: torch.optim.Optimizer
    if case.params["op"] == "optimizer_sgd":
        optimizer = torch.optim.SGD(parameters, lr=small, momentum=0.9, foreach=True)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=small, foreach=True)

    def step() -> None:
        optimizer.step()

    step()  # its state is born
    mode = "cold" if work.read_bytes > 2 * context.device.l2_bytes else "warm"
    return timed(context, [step], work.facts(), mode=mode, graph=False)


# The operators -------------------------------------------------------------------------------------------------------


def _aten() -> Any:
    import torch

    return torch.ops.aten


def _unary(name: str, *arguments: Any) -> Callable[[Maker], Call]:
    def prepare(maker: Maker) -> Call:
        operator, x = getattr(_aten(), name), maker.activation()
        return lambda: operator(x, *arguments)

    return prepare


def _binary(name: str, *arguments: Any) -> Callable[[Maker], Call]:
    def prepare(maker: Maker) -> Call:
        operator, x, y = getattr(_aten(), name), maker.activation(), maker.activation()
        return lambda: operator(x, y, *arguments)

    return prepare


def _batch_norm(maker: Maker) -> Call:
    x, weight, bias, mean = maker.activation(), maker.parameter(), maker.parameter(), maker.parameter()
    variance = maker.parameter().abs_()
    operator = _aten()._batch_norm_impl_index
    return lambda: operator(x, weight, bias, mean, variance, True, 0.1, 1e-5, True)


def _batch_norm_backward(maker: Maker) -> Call:
    x, weight, bias, mean = maker.activation(), maker.parameter(), maker.parameter(), maker.parameter()
    variance, dy = maker.parameter().abs_(), maker.activation()
    _, *saved, reserve, index = _aten()._batch_norm_impl_index(x, weight, bias, mean, variance, True, 0.1, 1e-5, True)
    operator = _aten()._batch_norm_impl_index_backward
    mask = [True] * 3
    return lambda: operator(index, x, dy, weight, mean, variance, *saved, True, 1e-5, mask, reserve)


def _layer_norm(maker: Maker) -> Call:
    x, weight, bias, operator = maker.activation(), maker.parameter(), maker.parameter(), _aten().native_layer_norm
    return lambda: operator(x, [x.shape[1]], weight, bias, 1e-5)


def _layer_norm_backward(maker: Maker) -> Call:
    x, dy, weight, bias = maker.activation(), maker.activation(), maker.parameter(), maker.parameter()
    _, mean, scale = _aten().native_layer_norm(x, [x.shape[1]], weight, bias, 1e-5)
    operator = _aten().native_layer_norm_backward
    return lambda: operator(dy, x, [x.shape[1]], mean, scale, weight, bias, [True] * 3)


def _dropout_backward(maker: Maker) -> Call:
    dy, operator = maker.activation(), _aten().native_dropout_backward
    mask = maker.activation() > 0
    return lambda: operator(dy, mask, 2.0)


def _scaled_channels(maker: Maker) -> Call:
    x, scale, operator = maker.activation(), maker.activation(*maker.shape.sizes[:2], 1, 1), _aten().mul
    return lambda: operator(x, scale)


def _biased_rows(maker: Maker) -> Call:
    x, bias, operator = maker.activation(), maker.activation(maker.shape.width), _aten().add
    return lambda: operator(x, bias)


def _cast(to: str) -> Callable[[Maker], Call]:
    def prepare(maker: Maker) -> Call:
        x, operator, dtype = maker.activation(), _aten()._to_copy, dtype_of(to)
        return lambda: operator(x, dtype=dtype)

    return prepare


def _relayout(maker: Maker) -> Call:
    """From the case's layout to the other."""
    import torch

    x, operator = maker.activation(), _aten().clone
    memory = torch.contiguous_format if maker.channels_last else torch.channels_last
    return lambda: operator(x, memory_format=memory)


def _cat(maker: Maker) -> Call:
    batch, channels, *image = maker.shape.sizes
    halves = [maker.activation(batch, channels // 2, *image), maker.activation(batch, channels - channels // 2, *image)]
    operator = _aten().cat
    return lambda: operator(halves, 1)


def _softmax(name: str) -> Callable[[Maker], Call]:
    """FP16 in and FP32 out in one kernel, as under autocast; a processor has no such kernel and stays in FP32."""

    def prepare(maker: Maker) -> Call:
        on_gpu = maker.operands.torch_device.startswith("cuda")
        x, operator = maker.activation(dtype=None if on_gpu else "fp32"), getattr(_aten(), name)
        return lambda: operator(x, 1, on_gpu)

    return prepare


def _softmax_backward(name: str) -> Callable[[Maker], Call]:
    def prepare(maker: Maker) -> Call:
        on_gpu = maker.operands.torch_device.startswith("cuda")
        dy, y, operator = maker.activation(dtype="fp32"), maker.activation(dtype="fp32"), getattr(_aten(), name)
        to = dtype_of(maker.dtype if on_gpu else "fp32")
        return lambda: operator(dy, y, 1, to)

    return prepare


def _max_pool_backward(maker: Maker) -> Call:
    x = maker.activation()
    y, indices = _aten().max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
    dy, operator = maker.activation(*y.shape), _aten().max_pool2d_with_indices_backward
    return lambda: operator(dy, x, [3, 3], [2, 2], [1, 1], [1, 1], False, indices)


def _embedding(maker: Maker) -> Call:
    rows, width = maker.shape.sizes
    table = maker.activation(VOCABULARY, width)
    tokens, operator = maker.operands.integers(VOCABULARY, rows), _aten().embedding
    return lambda: operator(table, tokens)


def _embedding_backward(maker: Maker) -> Call:
    dy, operator = maker.activation(), _aten().embedding_dense_backward
    tokens = maker.operands.integers(VOCABULARY, maker.shape.sizes[0])
    return lambda: operator(dy, tokens, VOCABULARY, -1, False)


def _upsample(maker: Maker) -> Call:
    x, operator = maker.activation(), _aten().upsample_nearest2d
    height, width = (2 * size for size in x.shape[2:])
    return lambda: operator(x, [height, width])


def _all(times: int) -> Callable[[Shape], int]:
    return lambda s: times * s.n * s.item


def _channels(s: Shape) -> int:
    """Elements of one image per sample and channel."""
    return s.sizes[0] * s.sizes[1]


OPS: dict[str, MemoryOp] = {
    "batch_norm": MemoryOp(  # mean and variance of the batch beside y; weight, bias and running moments beside x
        "batch_norm_forward", "fp16", True, lambda s: s.n * s.item + 16 * s.width, lambda s: s.n * s.item + 8 * s.width,
        _batch_norm,
    ),
    "batch_norm_backward": MemoryOp(  # weight, running and saved moments beside x and dy
        "batch_norm_backward", "fp16", True, lambda s: 2 * s.n * s.item + 20 * s.width,
        lambda s: s.n * s.item + 8 * s.width, _batch_norm_backward,
    ),
    "layer_norm": MemoryOp(
        "norm_forward", "fp32", False, lambda s: s.n * s.item + 8 * s.width, lambda s: s.n * s.item + 8 * s.sizes[0],
        _layer_norm,
    ),
    "layer_norm_backward": MemoryOp(
        "norm_backward", "fp32", False, lambda s: 2 * s.n * s.item + 8 * s.sizes[0] + 8 * s.width,
        lambda s: s.n * s.item + 8 * s.width, _layer_norm_backward,
    ),
    "relu": MemoryOp("elementwise", "fp16", True, _all(1), _all(1), _unary("relu")),
    "relu_backward": MemoryOp("elementwise", "fp16", True, _all(2), _all(1), _binary("threshold_backward", 0)),
    "hardswish": MemoryOp("elementwise", "fp16", True, _all(1), _all(1), _unary("hardswish")),
    "add": MemoryOp("elementwise", "fp16", True, _all(2), _all(1), _binary("add")),
    "gelu": MemoryOp("elementwise_math", "fp16", False, _all(1), _all(1), _unary("gelu")),
    "gelu_backward": MemoryOp("elementwise_math", "fp16", False, _all(2), _all(1), _binary("gelu_backward")),
    "silu": MemoryOp("elementwise_math", "fp16", True, _all(1), _all(1), _unary("silu")),
    "dropout": MemoryOp(
        "elementwise_math", "fp16", False, _all(1), lambda s: s.n * (s.item + 1), _unary("native_dropout", 0.5, True),
    ),
    "dropout_backward": MemoryOp(
        "elementwise_math", "fp16", False, lambda s: s.n * (s.item + 1), _all(1), _dropout_backward,
    ),
    "scale_channels": MemoryOp(
        "elementwise_broadcast", "fp16", True, lambda s: (s.n + _channels(s)) * s.item, _all(1), _scaled_channels,
    ),
    "add_bias": MemoryOp(
        "elementwise_broadcast", "fp16", False, lambda s: (s.n + s.width) * s.item, _all(1), _biased_rows,
    ),
    "to_fp16": MemoryOp("cast", "fp32", True, _all(1), lambda s: 2 * s.n, _cast("fp16")),
    "to_fp32": MemoryOp("cast", "fp16", True, _all(1), lambda s: 4 * s.n, _cast("fp32")),
    "clone": MemoryOp("copy", "fp16", True, _all(1), _all(1), _unary("clone")),
    "relayout": MemoryOp("relayout", "fp16", True, _all(1), _all(1), _relayout),
    "cat": MemoryOp("concat", "fp16", True, _all(1), _all(1), _cat),
    "pad": MemoryOp(
        "concat", "fp16", True, _all(1), lambda s: _channels(s) * (s.sizes[2] + 2) * (s.sizes[3] + 2) * s.item,
        _unary("constant_pad_nd", [1, 1, 1, 1]),
    ),
    "softmax": MemoryOp("softmax", "fp16", False, _all(1), lambda s: 4 * s.n, _softmax("_softmax")),
    "softmax_backward": MemoryOp(
        "softmax", "fp16", False, lambda s: 8 * s.n, _all(1), _softmax_backward("_softmax_backward_data"),
    ),
    "log_softmax": MemoryOp("softmax", "fp16", False, _all(1), lambda s: 4 * s.n, _softmax("_log_softmax")),
    "log_softmax_backward": MemoryOp(
        "softmax", "fp16", False, lambda s: 8 * s.n, _all(1), _softmax_backward("_log_softmax_backward_data"),
    ),
    "sum_rows": MemoryOp("reduction", "fp16", False, _all(1), lambda s: s.width * s.item, _unary("sum", [0])),
    "mean_pixels": MemoryOp(
        "mean", "fp16", True, _all(1), lambda s: _channels(s) * s.item, _unary("mean", [2, 3], True),
    ),
    "max_pool": MemoryOp(
        "pool_forward", "fp16", True, _all(1), lambda s: s.pooled * (s.item + 8),
        _unary("max_pool2d_with_indices", [3, 3], [2, 2], [1, 1]),
    ),
    "max_pool_backward": MemoryOp(
        "pool_backward", "fp16", True, lambda s: s.pooled * (s.item + 8), _all(1), _max_pool_backward,
    ),
    "embedding": MemoryOp(
        "embedding", "fp32", False, lambda s: 8 * s.sizes[0] + s.n * s.item, _all(1), _embedding,
        unmoved_bytes=lambda s: VOCABULARY * s.width * s.item,
    ),
    "embedding_backward": MemoryOp(
        "embedding", "fp32", False, lambda s: 8 * s.sizes[0] + s.n * s.item,
        lambda s: VOCABULARY * s.width * s.item, _embedding_backward,
    ),
    "upsample": MemoryOp("other", "fp32", True, _all(1), _all(4), _upsample),
}  # fmt: skip
