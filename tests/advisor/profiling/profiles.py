"""Profiles of traces made by hand: two steps of a small convolution net on a V100."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from advisor.profiling.records import (
    Advice,
    BatchSize,
    Bill,
    BillLine,
    CurvePoint,
    KernelGroup,
    Operation,
    Product,
    StepFacts,
    TracedGpu,
    TraceProfile,
)

GROUP = KernelGroup(
    name="volta_scudnn_128x64_relu_medium_nn_v1", class_="fprop", phase="forward", library="cuDNN", tile="128x64",
    tile_m=64, tile_n=128, tile_k=None, split_k=False, persistent=False, tensor_cores=False, precision="fp32",
    operation=0, grid=(784, 1, 1), block=(128, 1, 1), registers=128, shared_bytes=12288, ctas_per_sm=4,
    limiter="registers", ctas=784, waves=2.45, wave_efficiency=2.45 / 3, wave_efficiency_sms=0.98, idle_share=0.55,
    idle_share_sms=0.2, occupancy_agrees=True, note=None, count=4, total_s=4e-3, median_s=1e-3, share=0.4,
    launches_per_step=2.0, step_s=2e-3,
)  # fmt: skip
CONVOLUTION = Operation(
    name="aten::cudnn_convolution", outer="aten::conv2d", phase="forward",
    dims=((32, 64, 56, 56), (64, 64, 3, 3), ()), types=("float", "float", ""), inputs=("", "", "[1, 1]"),
    product=Product("conv", m=100352, n=64, k=576, pass_="fprop", flops=7_398_752_256),
    layer="conv 64>64 3x3 on 56x56", calls=4, calls_per_step=2.0,
)  # fmt: skip
ADD = Operation("aten::add_", "aten::add_", "forward", ((32, 64, 56, 56),), ("float",), (), None, "add", calls=40,
                calls_per_step=20.0)  # fmt: skip


def memory_bound(name: str, class_: Any, *, total_s: float, count: int, operation: int | None = 1) -> KernelGroup:
    """A kernel that no tile is known of."""
    return replace(
        GROUP, name=name, class_=class_, library="PyTorch", tile=None, tile_m=None, tile_n=None, split_k=None,
        tensor_cores=None, operation=operation, total_s=total_s, count=count, median_s=total_s / count,
        share=total_s / 10e-3, launches_per_step=count / 2, step_s=total_s / 2,
    )  # fmt: skip


def small_profile(**changes: Any) -> TraceProfile:
    """10 ms of kernels in two steps of 8 ms: 4 ms in four forward convolutions, 3.5 ms in 40 adds, 2.5 ms unknown."""
    profile = TraceProfile(
        path="trace.json.gz", rank=None, world_size=None,
        gpu=TracedGpu("Tesla V100-SXM2-16GB", 80, "trace", "v100-sxm2-16gb", (7, 0), True),
        kernel_time_s=10e-3, copy_time_s=1e-3, kernels_launched=64, tensor_core_time_s=0.0, precision="fp32",
        steps=StepFacts(2, "ProfilerStep", (8e-3, 8e-3), 8e-3, 0.6875, 5e-3, {"host": 2e-3, "data": 0.5e-3}, 0.0, 32.0,
                        0.0, False, copy_s=0.5e-3),
        batch=BatchSize(32, "dimension 0 of 4 of 4 convolutions is 32"),
        class_s={"fprop": 4e-3, "elementwise": 3.5e-3, "other": 2.5e-3},
        operations=(CONVOLUTION, ADD),
        kernels=(
            GROUP,
            memory_bound("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor<float> >(int)",
                         "elementwise", total_s=3.5e-3, count=40),
            memory_bound("mystery", "other", total_s=2.5e-3, count=20, operation=None),
        ),
        bill=Bill(10e-3, 8e-3, (
            BillLine("tensor_cores", "4 convolutions run in FP32", 1e-3, 0.125, "train under torch.autocast",
                     items=("conv 64>64 3x3 on 56x56: 1.00 ms",), step_gain_s=1e-3),
            BillLine("gaps", "no kernel runs", 2.5e-3, 0.3125, "use a CUDA graph", measured=True,
                     step_gain_s=2.5e-3),
        ), "worth a try"),
        advice=(Advice("v100-sxm2-16gb", "Tesla V100-SXM2-16GB", True, "fp32", 64, 32, 48, 128, (
            CurvePoint(32, 8e-3, 4000.0, 0.7, 2 * 2**30, True, ("traced",)),
            CurvePoint(64, 15e-3, 4266.7, 0.8, None, None, ("recommended",)),
        ), 0.067, 0.12, "held-out steps", "predicted", ("64 is 7 % faster than 32",), ("a note",)),),
        notes=("shapes were not recorded for 2 operators",),
    )  # fmt: skip
    return replace(profile, **changes)
