"""Every distinct convolution of ResNet-50, MobileNetV3-Large and U-Net over batch sizes, in the three passes.

By cuDNN, its algorithm tried out (`cudnn.benchmark`) or by heuristic, in NHWC and NCHW; by our Triton kernels in NHWC.
Case kind "conv": batch, c_in, c_out, height, width, kernel_h, kernel_w, stride, padding, dilation, groups, pass,
layout, dtype, library, autotuned, mode. The suite "memory" has the depthwise and grouped ones, run here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from bench.case import Case, Result
from bench.shapes import ConvShape, ConvUse, catalogue_convolutions
from bench.suites import Context, SuiteOptions
from bench.suites.common import (
    ITEM_BYTES,
    Candidate,
    Operands,
    Work,
    calibration,
    copies_of,
    cudnn_setting,
    fastest,
    gpu_limits,
    number,
    tf32_setting,
    tiers,
    timed,
    triton_refusal,
    unfit,
)
from bench.timer import Call

SUITE = "conv"
CLASSIFIERS = ("resnet50", "mobilenet_v3_large")  # at 224 x 224
SEGMENTERS = ("unet",)  # at 256 x 256: about an eighth of the batch is as much work
BATCHES = (16, 32, 64, 128, 256, 512)
EDGE_BATCHES = (127, 129, 255, 257)
_SEGMENTER_BATCH = {16: 2, 32: 4, 64: 8, 127: 15, 128: 16, 129: 17, 255: 31, 256: 32, 257: 33, 512: 64}
CANDIDATES = 2  # curated configurations of our kernel that are timed beside its default, for each shape


def conv_case(
    shape: ConvShape,
    batch: int,
    *,
    pass_: str = "forward",
    layout: str = "nhwc",
    dtype: str = "fp16",
    library: str = "cudnn",
    autotuned: bool = True,
    mode: str = "cold",
    suite: str = SUITE,
) -> Case:
    """One pass of one convolution. `autotuned` is of cuDNN; our kernels have it False."""
    return Case(
        suite, "conv",
        {
            "batch": batch, "c_in": shape.c_in, "c_out": shape.c_out, "height": shape.height, "width": shape.width,
            "kernel_h": shape.kernel_h, "kernel_w": shape.kernel_w, "stride": shape.stride, "padding": shape.padding,
            "dilation": shape.dilation, "groups": shape.groups, "pass": pass_, "layout": layout, "dtype": dtype,
            "library": library, "autotuned": autotuned and library == "cudnn", "mode": mode,
        },
    )  # fmt: skip


def cases(options: SuiteOptions) -> list[list[Case]]:
    """Tiers: ResNet-50 and U-Net at one batch; ours forward; MobileNetV3; ours backward; ResNet-50 over the batches;
    cuDNN's heuristic; the rest.
    """
    if options.smoke:
        return [list(_smoke())]
    if options.quick:
        return calibration(SUITE, options)
    models = [_Uses(name) for name in (*CLASSIFIERS, *SEGMENTERS)]
    resnet, unet = models[:1], models[2:]
    return tiers(
        _sweep((*resnet, *unet), (64,)),
        _sweep(resnet, (64,), passes=("forward",), library="triton"),
        [*_sweep(models, (64,)), *_sweep(resnet, (64,), passes=("dgrad", "wgrad"), library="triton")],
        _sweep(resnet, (32, 256)),
        [*_sweep(models, (64,), library="triton"), *_sweep(models, (64,), autotuned=False)],
        [*_sweep(resnet, (127, 128, 129)), *_sweep(resnet, (256,), library="triton")],
        _sweep(models, (16, 256)),
        _sweep(models, (64,), layout="nchw"),
        _sweep(models, (64,), mode="warm"),
        _sweep(models, (64,), dtype="bf16"),
        _sweep(models, (*BATCHES, *EDGE_BATCHES)),
        _sweep(models, (*BATCHES, *EDGE_BATCHES), library="triton"),
        _sweep(models, (*BATCHES, *EDGE_BATCHES), autotuned=False),
        _sweep(models, (*BATCHES, *EDGE_BATCHES), layout="nchw"),
        _sweep(models, BATCHES, layout="nchw", autotuned=False),
        capability=options.capability,
    )


class _Uses:
    """A model's dense convolutions, and its batch where a classifier has a given one."""

    def __init__(self, name: str) -> None:
        self.convolutions: Sequence[ConvUse] = catalogue_convolutions([name])
        self._segments = name in SEGMENTERS

    def batch(self, batch: int) -> int:
        return _SEGMENTER_BATCH[batch] if self._segments else batch


def _sweep(
    models: Iterable[_Uses],
    batches: Iterable[int],
    *,
    passes: Sequence[str] = ("forward", "dgrad", "wgrad"),
    **how: Any,
) -> list[Case]:
    return [
        conv_case(use.shape, model.batch(batch), pass_=pass_, **how)
        for model in models
        for use in model.convolutions
        for pass_ in use.passes
        if pass_ in passes
        for batch in batches
    ]


def _smoke() -> Iterator[Case]:
    shape = ConvShape(8, 16, 9, 9, 3, 3, stride=2, padding=1)
    for pass_ in ("forward", "dgrad", "wgrad"):
        yield conv_case(shape, 2, pass_=pass_, dtype="fp32")
    yield conv_case(shape, 2, dtype="fp32", layout="nchw", autotuned=False, mode="warm")
    yield conv_case(shape, 1, library="triton")


# Running -------------------------------------------------------------------------------------------------------------


def shape_of(case: Case) -> ConvShape:
    """The convolution without its batch."""
    names = ("c_in", "c_out", "height", "width", "kernel_h", "kernel_w", "stride", "padding", "dilation", "groups")
    return ConvShape(*(number(case, name) for name in names))


def sizes_of(case: Case) -> dict[str, tuple[int, int, int, int]]:
    """Shapes of x[batch, c_in, height, width], w[c_out, c_in / groups, kernel_h, kernel_w] and y."""
    shape, batch = shape_of(case), number(case, "batch")
    return {
        "x": (batch, shape.c_in, shape.height, shape.width),
        "w": (shape.c_out, shape.c_in // shape.groups, shape.kernel_h, shape.kernel_w),
        "y": (batch, shape.c_out, shape.out_height, shape.out_width),
    }


_READ = {"forward": "xw", "dgrad": "yw", "wgrad": "xy"}
_WRITTEN = {"forward": "y", "dgrad": "x", "wgrad": "w"}


def work_of(case: Case) -> Work:
    """2 batch P Q c_out c_in/groups R S FLOP in every pass; each operand read once, the result written once."""
    sizes, item, pass_ = sizes_of(case), ITEM_BYTES[str(case.params["dtype"])], str(case.params["pass"])
    elements = {name: a * b * c * d for name, (a, b, c, d) in sizes.items()}
    _, channels, kernel_h, kernel_w = sizes["w"]
    return Work(
        2 * elements["y"] * channels * kernel_h * kernel_w,
        item * sum(elements[name] for name in _READ[pass_]),
        item * elements[_WRITTEN[pass_]],
    )


def product_of(case: Case) -> tuple[int, int, int]:
    """(M, N, K) of the implicit product of one group; at strides above 1, dgrad's are those of all its parts."""
    shape, sizes = shape_of(case), sizes_of(case)
    taps, channels = shape.kernel_h * shape.kernel_w, shape.c_in // shape.groups
    pixels = sizes["y"][0] * shape.out_height * shape.out_width
    if case.params["pass"] == "forward":
        return pixels, shape.c_out // shape.groups, channels * taps
    if case.params["pass"] == "wgrad":
        return shape.c_out // shape.groups, channels * taps, pixels
    inputs = sizes["x"][0] * shape.height * shape.width
    return inputs, channels, max(1, shape.c_out // shape.groups * taps // shape.stride**2)


def run(case: Case, context: Context) -> Result:
    """Time one pass."""
    refusal = triton_refusal(context) if case.params["library"] == "triton" else None
    work = work_of(case)
    one_copy = work.read_bytes + work.write_bytes
    refusal = refusal or unfit(context, one_copy + work.write_bytes, "the convolution")
    if refusal is not None:
        return refusal
    copies, mode = copies_of(context, work, case.params["mode"], one_copy)
    make, dtype = Operands(case, context.torch_device), str(case.params["dtype"])
    operands = [operands_of(case, make) for _ in range(copies)]
    facts: dict[str, Any] = work.facts() | {"copies": copies}
    with cudnn_setting(autotuned=bool(case.params["autotuned"])):
        if dtype == "fp32":
            with tf32_setting(allowed=False):
                return timed(context, cudnn_calls(case, operands), facts, mode=mode)
        if case.params["library"] == "triton":
            calls, chosen = _triton_calls(case, context, operands)
            return timed(context, calls, facts | chosen, mode=mode)
        return timed(context, cudnn_calls(case, operands), facts, mode=mode)


def operands_of(case: Case, make: Operands) -> dict[str, Any]:
    """What the pass reads, of "x", "w" and "y" (the output's gradient), in fresh memory of the case's layout."""
    sizes, dtype, channels_last = sizes_of(case), str(case.params["dtype"]), case.params["layout"] == "nhwc"
    read = _READ[str(case.params["pass"])]
    return {name: make.uniform(*sizes[name], dtype=dtype, channels_last=channels_last) for name in read}


def cudnn_calls(case: Case, operands: Sequence[dict[str, Any]]) -> list[Call]:
    """The operators that autograd runs; a backward pass alone by its output mask."""
    import torch

    shape, pass_ = shape_of(case), str(case.params["pass"])
    places = [shape.stride] * 2, [shape.padding] * 2, [shape.dilation] * 2

    def forward(x: Any, w: Any) -> Call:
        return lambda: torch.ops.aten.convolution(x, w, None, *places, False, [0, 0], shape.groups)

    if pass_ == "forward":
        return [forward(**tensors) for tensors in operands]
    mask = [pass_ == "dgrad", pass_ == "wgrad", False]

    def backward(y: Any, x: Any, w: Any) -> Call:
        return lambda: torch.ops.aten.convolution_backward(y, x, w, None, *places, False, [0, 0], shape.groups, mask)

    # what the pass does not read still gives its shape, strides and type
    unread = _WRITTEN[pass_]
    like = next(iter(operands[0].values()))
    channels_last = case.params["layout"] == "nhwc"
    memory = torch.channels_last if channels_last else torch.contiguous_format
    filler = torch.empty(sizes_of(case)[unread], dtype=like.dtype, device=like.device, memory_format=memory)
    return [backward(**tensors, **{unread: filler}) for tensors in operands]


def _triton_calls(
    case: Case, context: Context, operands: Sequence[dict[str, Any]]
) -> tuple[list[Call], dict[str, Any]]:
    from kernels.conv2d import prepare_conv2d_dgrad, prepare_conv2d_forward, prepare_conv2d_wgrad

    shape, pass_ = shape_of(case), str(case.params["pass"])
    places: dict[str, Any] = {
        "stride": (shape.stride,) * 2, "padding": (shape.padding,) * 2, "dilation": (shape.dilation,) * 2,
        "groups": shape.groups,
    }  # fmt: skip
    prepare: Callable[..., Call]
    if pass_ == "forward":
        prepare = lambda config, x, w: prepare_conv2d_forward(x, w, config=config, **places)  # noqa: E731
    elif pass_ == "dgrad":
        size = shape.height, shape.width
        prepare = lambda config, y, w: prepare_conv2d_dgrad(y, w, size, config=config, **places)  # noqa: E731
    else:
        window = shape.kernel_h, shape.kernel_w
        prepare = lambda config, x, y: prepare_conv2d_wgrad(x, y, window, config=config, **places)  # noqa: E731

    def candidate(config: Any) -> Candidate:
        return Candidate(config, lambda: [prepare(config, **tensors) for tensors in operands])

    return fastest(context, [candidate(config) for config in (None, *_curated(case, context))])


_PASS: dict[str, Literal["forward", "dgrad", "wgrad"]] = {
    "forward": "forward", "dgrad": "dgrad", "wgrad": "wgrad",
}  # fmt: skip


def _curated(case: Case, context: Context) -> list[Any]:
    from kernels.choice import ranked, usable
    from kernels.configs import conv_configs

    capability, sms = gpu_limits(context)
    if capability is None or sms is None:
        return []
    aligned = all(number(case, name) % 8 == 0 for name in ("c_in", "c_out"))
    configs = usable(conv_configs(capability, _PASS[str(case.params["pass"])]), aligned=aligned)
    return ranked(configs, *product_of(case), sms=sms, capability=capability)[:CANDIDATES]
