"""What the hardware gives at best: bandwidth of a copy, what a launch costs, the highest rate of a matrix product.

Case kinds: "copy" (bytes: read and written together), "launch" (what: "graph" or "stream"), "matmul_peak" (n, dtype:
"fp16", "bf16", "tf32" or "fp32").
"""

from __future__ import annotations

import statistics
from typing import Any

from bench.case import Case, Result
from bench.suites import Context, SuiteOptions
from bench.suites.common import ITEM_BYTES, Operands, Work, copies_of, number, tf32_setting, tiers, timed, unfit

SUITE = "ceilings"
COPY_BYTES = tuple(2**power for power in range(20, 33, 2))  # moved: 1 MiB to 4 GiB
PEAK_SIZES = (2048, 4096, 8192, 16384)
LAUNCHES = 500  # timed on the host at once: half of what CUDA queues before the host has to wait


def copy_case(moved_bytes: int) -> Case:
    """A copy within device memory."""
    return Case(SUITE, "copy", {"bytes": moved_bytes})


def launch_case(what: str) -> Case:
    """The smallest kernel: in a graph, or launched one by one."""
    return Case(SUITE, "launch", {"what": what})


def peak_case(n: int, dtype: str) -> Case:
    """C[n, n] = A[n, n] B[n, n] by cuBLAS."""
    return Case(SUITE, "matmul_peak", {"n": n, "dtype": dtype})


def cases(options: SuiteOptions) -> list[list[Case]]:
    """Tiers: one figure of each ceiling; more sizes; FP32, which is slow."""
    if options.smoke:
        return [[copy_case(2**16), launch_case("stream"), launch_case("graph"), peak_case(64, "fp32")]]
    first = [
        *(copy_case(size) for size in (2**24, 2**28, 2**30)),
        *(launch_case(what) for what in ("graph", "stream")),
        *(peak_case(n, "fp16") for n in (4096, 8192)),
    ]
    if options.quick:
        return [first]
    return tiers(
        first,
        [
            *(copy_case(size) for size in COPY_BYTES),
            *(peak_case(n, dtype) for n in PEAK_SIZES for dtype in ("fp16", "bf16")),
            *(peak_case(n, dtype) for n in PEAK_SIZES[:3] for dtype in ("tf32",)),
            *(peak_case(n, "fp32") for n in PEAK_SIZES[:2]),
        ],
        [peak_case(8192, "fp32"), peak_case(16384, "tf32")],
        capability=options.capability,
    )


def work_of(case: Case) -> Work:
    """The copy reads half of its bytes and writes half; a launch does nothing worth counting; 2 n^3 FLOP."""
    if case.kind == "copy":
        half = number(case, "bytes") // 2
        return Work(0, half, half)
    if case.kind == "launch":
        return Work(0, 0, 0)
    n = number(case, "n")
    item = ITEM_BYTES.get(str(case.params["dtype"]), 4)  # TF32 is FP32 in memory
    return Work(2 * n**3, 2 * item * n * n, item * n * n)


def run(case: Case, context: Context) -> Result:
    """Time one ceiling."""
    work = work_of(case)
    refusal = unfit(context, work.read_bytes + work.write_bytes, f"this {case.kind.replace('_', ' ')}")
    if refusal is not None:
        return refusal
    make = Operands(case, context.torch_device)
    if case.kind == "copy":
        return _copy(context, work, make)
    if case.kind == "launch":
        return _launch(context, str(case.params["what"]), make)
    return _peak(case, context, work, make)


def _copy(context: Context, work: Work, make: Operands) -> Result:
    copies, mode = copies_of(context, work, "cold", 2 * work.read_bytes)
    count = work.read_bytes // ITEM_BYTES["fp32"]
    pairs = [(make.uniform(count, dtype="fp32"), make.empty(count, dtype="fp32")) for _ in range(copies)]

    def call(source: Any, target: Any) -> Any:
        return lambda: target.copy_(source)

    return timed(context, [call(*pair) for pair in pairs], work.facts() | {"copies": copies}, mode=mode)


def _launch(context: Context, what: str, make: Operands) -> Result:
    """The kernel adds to one element. One by one, host and device run side by side: the slower sets the pace.

    facts, for "stream": host_s_per_launch, what queueing one takes the host while the device is kept waiting.
    """
    one = make.uniform(1, dtype="fp32")

    def launch() -> object:
        return one.add_(1)

    if what == "graph":
        return timed(context, [launch], {})
    result = timed(context, [launch], {}, graph=False, host_included=True)
    facts = dict(result.facts) | {"host_s_per_launch": host_seconds(context, launch)}
    return Result("ok", timing=result.timing, facts=facts, telemetry=result.telemetry)


def host_seconds(context: Context, launch: Any, repeats: int = 5) -> float:
    """Median of the host's seconds to queue one launch, the device held meanwhile so that it is never waited for."""
    device, found = context.device, []
    launches = 50 if context.smoke else LAUNCHES
    for _ in range(repeats):
        device.synchronize()
        device.hold(2e-5 * launches)
        start_s = device.now_s()
        for _ in range(launches):
            launch()
        found.append((device.now_s() - start_s) / launches)
    device.synchronize()
    return statistics.median(found)


def _peak(case: Case, context: Context, work: Work, make: Operands) -> Result:
    import torch

    n, dtype = number(case, "n"), str(case.params["dtype"])
    stored = "fp32" if dtype == "tf32" else dtype
    a, b, c = make.uniform(n, n, dtype=stored), make.uniform(n, n, dtype=stored), make.empty(n, n, dtype=stored)
    with tf32_setting(allowed=dtype == "tf32"):
        return timed(context, [lambda: torch.mm(a, b, out=c)], work.facts())
