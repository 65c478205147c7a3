"""Groups of kernels and operations for tests of times and bills."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from advisor.convolution import Convolution, Pass
from advisor.gpus import Gpu, find_gpu
from advisor.occupancy import sm_limits
from advisor.profiling.kernels.device import DeviceFacts, traced_gpu
from advisor.profiling.kernels.groups import group_kernels
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import KernelGroup, Operation, Product, StepFacts, TracedGpu
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.gaps import step_facts

_GROUP = KernelGroup(
    name="ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_tn", class_="gemm", phase="forward",
    library="cuBLAS", tile="128x128x32", tile_m=128, tile_n=128, tile_k=32, split_k=None, persistent=False,
    tensor_cores=True, precision="fp16", operation=0, grid=(32, 32, 1), block=(256, 1, 1), registers=128,
    shared_bytes=81920, ctas_per_sm=1, limiter="shared memory", ctas=1024, waves=None, wave_efficiency=None,
    wave_efficiency_sms=None, idle_share=None, idle_share_sms=None, occupancy_agrees=None, note=None, count=1,
    total_s=1e-3, median_s=1e-3, share=1.0,
)  # fmt: skip


def group(**changes: Any) -> KernelGroup:
    """One launch of 1 ms of an FP16 product on Tensor Cores: 1024 CTAs of 128x128."""
    changes.setdefault("median_s", changes.get("total_s", 1e-3) / changes.get("count", 1))
    if "tile_m" in changes:
        changes.setdefault("tile", None if changes["tile_m"] is None else f"{changes['tile_m']}x{changes['tile_n']}")
    if "grid" in changes and changes["grid"] is not None:
        x, y, z = changes["grid"]
        changes.setdefault("ctas", x * y * z)
    return replace(_GROUP, **changes)


def linear(m: int, n: int, k: int, *, pass_: Pass | None = "fprop", **changes: Any) -> Operation:
    """A product of a linear layer, or a batch of products."""
    told = {"element_bytes": 2, "dtype": "fp16", "flops": 2 * m * n * k, **changes}
    kind: Any = "bmm" if told.get("batch", 1) > 1 else "gemm"
    phase: Any = "forward" if pass_ == "fprop" else "backward"
    return Operation(
        "aten::mm", "aten::linear", phase, (), ("float",), (), Product(kind, m, n, k, pass_=pass_, **told),
        f"linear {k}>{n}", calls=1,
    )  # fmt: skip


def convolution(conv: Convolution, pass_: Pass = "fprop", **changes: Any) -> Operation:
    """One pass of a convolution, FP32."""
    gemm = max(conv.gemms(pass_), key=lambda g: g.flops)
    sizes = (int(gemm.m), int(gemm.n), int(gemm.k))
    flops = int(conv.flops(pass_))
    product = Product("conv", *sizes, pass_=pass_, convolution=conv, flops=flops, **changes)
    layer = f"conv {conv.c_in}>{conv.c_out} {conv.filter_h}x{conv.filter_w} on {conv.height}x{conv.width}"
    phase: Any = "forward" if pass_ == "fprop" else "backward"
    return Operation("aten::convolution", "aten::conv2d", phase, (), ("float",), (), product, layer, calls=1)


def device(gpu: Gpu | str | None) -> DeviceFacts:
    """Facts of a GPU of the table; None: unknown."""
    if gpu is None:
        return DeviceFacts(TracedGpu("unknown GPU", None, "unknown", None, None, None), None, None, None)
    found = find_gpu(gpu) if isinstance(gpu, str) else gpu
    public = TracedGpu(found.name, found.sms, "named", found.id, found.compute_capability, found.has_tensor_cores)
    return DeviceFacts(public, found, sm_limits(found), found.sms)


def facts(step_s: float = 10e-3, **changes: Any) -> StepFacts:
    """One step without gaps."""
    whole = StepFacts(1, "ProfilerStep", (step_s,), step_s, 1.0, step_s, {}, 0.0, 1.0, 0.0, False)
    return replace(whole, **changes)


def recorded(
    path: Path, gpu: str | None = None
) -> tuple[tuple[KernelGroup, ...], tuple[Operation, ...], DeviceFacts, StepFacts, float]:
    """Groups, operations, device, steps and kernel seconds of a recorded trace."""
    raw = read_trace(path)
    links = link(raw)
    steps, found = find_steps(raw, links), traced_gpu(raw, gpu)
    kernel_time_s = float(raw.kernels.duration_us.sum()) * 1e-6
    return (
        group_kernels(raw, links, steps, found),
        links.operations,
        found,
        step_facts(raw, links, steps),
        kernel_time_s,
    )
