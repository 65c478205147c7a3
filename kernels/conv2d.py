"""2-D convolution as implicit matrix products in Triton: FP16 or BF16 in channels_last memory, FP32 accumulation.

Forward and dgrad are in `kernels.conv2d_gather`, wgrad is in `kernels.conv2d_wgrad`: each with its maths, its plain
reference, its kernel and its wrapper. Here: the function that PyTorch can differentiate, and what a compiler without a
GPU needs. One group only: grouped and depthwise convolutions, whose time is memory traffic, stay cuDNN's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kernels.conv2d_gather import (
    _gather_kernel,
    conv2d_dgrad,
    conv2d_dgrad_reference,
    conv2d_forward,
    conv2d_forward_reference,
    gather_constants,
    prepare_conv2d_dgrad,
    prepare_conv2d_forward,
)
from kernels.conv2d_parts import ConvConfig, ConvPass, Geometry, Pair, check_groups, check_pass, default_conv_config
from kernels.conv2d_wgrad import (
    _wgrad_kernel,
    conv2d_wgrad,
    conv2d_wgrad_reference,
    prepare_conv2d_wgrad,
    wgrad_constants,
)
from kernels.matmul import DTYPES, WIDE
from kernels.spec import KernelSpec

__all__ = [
    "ConvConfig",
    "ConvPass",
    "Geometry",
    "conv2d",
    "conv2d_dgrad",
    "conv2d_dgrad_reference",
    "conv2d_forward",
    "conv2d_forward_reference",
    "conv2d_wgrad",
    "conv2d_wgrad_reference",
    "conv_spec",
    "default_conv_config",
    "prepare_conv2d_dgrad",
    "prepare_conv2d_forward",
    "prepare_conv2d_wgrad",
]


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, places: Mapping[str, Any], configs: Mapping[ConvPass, ConvConfig]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.places, ctx.configs = places, configs
        return conv2d_forward(x, w, config=configs.get("forward"), **places)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, w = ctx.saved_tensors
        dy = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = conv2d_dgrad(dy, w, tuple(x.shape[2:]), config=ctx.configs.get("dgrad"), **ctx.places)
        if ctx.needs_input_grad[1]:
            dw = conv2d_wgrad(x, dy, tuple(w.shape[2:]), config=ctx.configs.get("wgrad"), **ctx.places)
        return dx, dw, None, None


def conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    configs: Mapping[ConvPass, ConvConfig] | None = None,
) -> torch.Tensor:
    """y[N,K,P,Q] of x[N,C,H,W] and w[K,C,R,S] in channels_last memory, with gradients to both.

    configs: by pass; a pass without one takes `default_conv_config`. Raises ValueError as `conv2d_forward`, and
    for groups other than 1.
    """
    check_groups(groups)
    places = {"stride": stride, "padding": padding, "dilation": dilation}
    y: torch.Tensor = _Conv2d.apply(x, w, places, configs or {})  # type: ignore[no-untyped-call]  # PyTorch's stub
    return y


def conv_spec(
    pass_: ConvPass,
    config: ConvConfig,
    *,
    dtype: str = "fp16",
    aligned: bool = True,
    capability: tuple[int, int] = (9, 0),
    merged: bool = False,
) -> KernelSpec:
    """The kernel that a pass of a padded convolution would launch, for a compiler without a GPU.

    aligned: tiles divide the channels (in wgrad the pixels too), so rows are 16-byte aligned and only the padding is
    masked; if not, every pixel starts at another 2-byte boundary, as with odd channels. merged: the loop over taps and
    channels at once that few channels take (forward and dgrad). All architectures get the same kernel.

    Raises ValueError for an unknown pass or type.
    """
    check_pass(pass_)
    if dtype not in DTYPES:
        raise ValueError(f"unknown type {dtype!r}: it is one of {', '.join(DTYPES)}")
    if merged and pass_ == "wgrad":
        raise ValueError("merged is for passes 'forward' and 'dgrad': wgrad has its taps in N, not in K")
    align = WIDE if aligned else 1
    result = f"*{'fp32' if config.split_k > 1 else dtype}"
    if pass_ == "wgrad":
        kernel = _wgrad_kernel
        constants = wgrad_constants(config, padded=True, one_tap=aligned, even=aligned, x_align=align, dy_align=align)
        pointers = {"x_ptr": f"*{dtype}", "dy_ptr": f"*{dtype}", "dw_ptr": result}
    else:
        kernel = _gather_kernel
        constants = gather_constants(
            config,
            dgrad=pass_ == "dgrad",
            padded=True,
            merged=merged,
            even=aligned and not merged,
            in_align=align,
            out_align=align,
        )
        pointers = {"in_ptr": f"*{dtype}", "w_ptr": f"*{dtype}", "out_ptr": result}
    types = dict.fromkeys(kernel.arg_names, "i32") | pointers | dict.fromkeys(constants, "constexpr")
    marks = f"{' merged' if merged else ''}{'' if aligned else ' unaligned'}"
    return KernelSpec(
        name=f"conv {pass_} {config} {dtype}{marks}",
        function=kernel,
        signature=types,
        constants=constants,
        divisible_by_16=frozenset(pointers),
        warps=config.warps,
        stages=config.stages,
        tile=config.tile,
    )
