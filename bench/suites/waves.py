"""The CTAs of one matrix product as they ran, on either side of a wave boundary; and which kernels the libraries chose.

Case kinds: "timeline" (m, n, k and a configuration of our kernel: tile_m, tile_n, tile_k, stages, warps), whose facts
hold each CTA's SM, start and end; "kernels" (of: "gemm" or "conv", and that case's parameters), whose facts hold what
torch.profiler saw. Profiling is kept apart from timing: what a profiler leaves attached may slow later launches.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from advisor.timeline import decode, group_waves
from bench.case import Case, Result
from bench.shapes import PUBLIC_LINEARS, catalogue_convolutions, catalogue_linears, wave_boundaries
from bench.suites import Context, SuiteOptions, conv, gemm
from bench.suites.common import (
    Operands,
    Work,
    cudnn_setting,
    gpu_limits,
    number,
    tiers,
    timed,
    triton_refusal,
    unfit,
)

SUITE = "waves"
DEPTH = 4096  # K of the timelines: CTAs long enough for the timer's resolution
TILE = (128, 128)  # of output
WAVES = (1, 2)
KERNEL_ROWS = (64, 512, 4096)


def timeline_case(m: int, n: int, k: int, *, tile_k: int, stages: int, warps: int) -> Case:
    """A plain kernel, one CTA per tile of 128x128."""
    return Case(
        SUITE, "timeline",
        {"m": m, "n": n, "k": k, "dtype": "fp16", "tile_m": TILE[0], "tile_n": TILE[1], "tile_k": tile_k,
         "stages": stages, "warps": warps},
    )  # fmt: skip


def kernels_case(of: Case) -> Case:
    """Which kernels run in this case of "gemm" or "conv"."""
    return Case(SUITE, "kernels", {"of": of.kind} | dict(of.params))


def cases(options: SuiteOptions) -> list[list[Case]]:
    """Tiers: timelines at the ends of the first waves; kernels of the chief shapes; kernels of all."""
    if options.quick:
        return []
    if options.smoke:
        return [
            [
                timeline_case(64, 64, 64, tile_k=32, stages=1, warps=4),
                kernels_case(gemm.gemm_case(32, 32, 32, dtype="fp32")),
            ]
        ]
    public = tuple(PUBLIC_LINEARS)
    every = (*public, *((linear.n, linear.k) for linear in catalogue_linears()))
    return tiers(
        _timelines(options),
        [
            *(kernels_case(gemm.gemm_case(m, n, k)) for n, k in public for m in KERNEL_ROWS),
            *_convolutions(("resnet50",)),
        ],
        [
            *(
                kernels_case(gemm.gemm_case(m, n, k, pass_=p))
                for n, k in every
                for p in gemm.PASSES
                for m in KERNEL_ROWS
            ),
            *_convolutions(("mobilenet_v3_large", "unet")),
        ],
    )


def _timelines(options: SuiteOptions) -> list[Case]:
    """M at which the tiles just fill whole waves of one and of two CTAs per SM, and one row past each.

    N is as many tiles as make the SMs a whole number of rows of tiles where that can be: 132 SMs are 11 rows of 12.
    """
    if options.sms is None:
        return []
    across = max(count for count in range(1, 25) if options.sms % count == 0)
    n = across * TILE[1]
    most = (2 * max(WAVES) + 1) * options.sms * TILE[0]
    boundaries = wave_boundaries(n, options.sms, tiles=(TILE,), most=most)[: 2 * max(WAVES)]
    config = {"tile_k": 64, "stages": 3, "warps": 8}  # the curated 128x128 tile of Ampere and later
    if options.capability is not None and options.capability < (8, 0):
        config = {"tile_k": 16, "stages": 1, "warps": 8}  # there Triton multiplies on the FP32 units
    return [timeline_case(boundary + past, n, DEPTH, **config) for boundary in boundaries for past in (0, 1)]


def _convolutions(names: tuple[str, ...]) -> list[Case]:
    return [
        kernels_case(conv.conv_case(use.shape, 8 if name == "unet" else 64, pass_=pass_))
        for name in names
        for use in catalogue_convolutions([name])
        for pass_ in use.passes
    ]


def work_of(case: Case) -> Work:
    """As of the product or the convolution."""
    if case.kind == "kernels":
        of = _profiled(case)
        return gemm.work_of(of) if of.kind == "gemm" else conv.work_of(of)
    m, n, k = (number(case, name) for name in "mnk")
    return Work(2 * m * n * k, 2 * (m * k + n * k), 2 * m * n)


def run(case: Case, context: Context) -> Result:
    """Record one timeline, or profile one call."""
    work = work_of(case)
    refusal = triton_refusal(context) if case.kind == "timeline" else None
    refusal = refusal or unfit(context, work.read_bytes + 2 * work.write_bytes, "the case")
    if refusal is not None:
        return refusal
    if case.kind == "kernels":
        return _kernels(case, context, work)
    if not context.torch_device.startswith("cuda"):
        return Result("skipped", reason="a timeline needs an NVIDIA GPU: the interpreter has neither SMs nor a clock")
    return _timeline(case, context, work)


_CONFIG = ("tile_m", "tile_n", "tile_k", "stages", "warps")


def _timeline(case: Case, context: Context, work: Work) -> Result:
    """facts: config, sms, slots_per_sm, waves, and the CTAs' records by linear index: sm, start_ns, end_ns.

    The timing is that of the same kernel without the records.
    """
    import torch

    from kernels.matmul import MatmulConfig, matmul_ctas, prepare_matmul
    from kernels.timeline import timeline_buffer

    m, n, k = (number(case, name) for name in "mnk")
    tile_m, tile_n, tile_k, stages, warps = (number(case, name) for name in _CONFIG)
    config = MatmulConfig(tile_m, tile_n, tile_k, stages, warps)
    make = Operands(case, context.torch_device)
    a, b = make.uniform(m, k, dtype="fp16"), make.uniform(n, k, dtype="fp16").t()
    out = make.empty(m, n, dtype="fp16")
    result = timed(context, [prepare_matmul(a, b, config=config, out=out)], work.facts())
    _, sms = gpu_limits(context)
    assert sms is not None  # on CUDA it is known
    records = timeline_buffer(matmul_ctas(m, n, config, sms), context.torch_device)
    recorded = prepare_matmul(a, b, config=config, out=out, timeline=records)
    for _ in range(3):  # the first compiles, the second finds the operands in L2; the last one's records stay
        recorded()
        torch.cuda.synchronize(context.torch_device)
    timeline = decode(records.cpu().numpy())
    found = group_waves(timeline, sms=sms)
    facts: dict[str, Any] = dict(result.facts) | {
        "config": asdict(config),
        "sms": sms,
        "slots_per_sm": found.slots // sms,
        "busy_share": found.busy_share,
        "waves": [asdict(wave) for wave in found.waves],
        "sm": timeline.sm.tolist(),
        "start_ns": timeline.start_ns.tolist(),
        "end_ns": timeline.end_ns.tolist(),
    }
    return Result("ok", timing=result.timing, facts=facts, telemetry=result.telemetry)


def _profiled(case: Case) -> Case:
    params = {name: value for name, value in case.params.items() if name != "of"}
    return Case(SUITE, str(case.params["of"]), params)


def _kernels(case: Case, context: Context, work: Work) -> Result:
    """facts: kernels, in the order of their start; empty on a processor."""
    from bench.kernel_facts import profile_calls

    of = _profiled(case)
    make = Operands(of, context.torch_device)
    if of.kind == "gemm":
        call = gemm.cublas_calls([gemm.operands_of(of, make)])[0]
    else:
        call = conv.cudnn_calls(of, [conv.operands_of(of, make)])[0]
    with cudnn_setting(autotuned=bool(of.params.get("autotuned"))):
        call()
        context.device.synchronize()
        found = profile_calls({"call": call})["call"]
    return Result("ok", facts=work.facts() | {"kernels": [kernel.facts() for kernel in found]})
