"""What the suites share: work declared beside the shape, random operands, memory asked for first, one way to a result.

Importing it imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.case import Case, Plain, Result
from bench.suites import Context, SuiteOptions
from bench.timer import Call, TimerOptions, rotation, time_calls

GIB = 2**30
ITEM_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "int64": 8, "bool": 1}
OLDEST_TRITON = (7, 0)  # compute capability
SPARE_BYTES = 2**28  # left free beside the operands: workspaces of the libraries, what a first launch loads
BRIEF = TimerOptions(samples=3, most_samples=6, budget_s=0.03, relative_spread=0.03)  # to choose among configurations


@dataclass(frozen=True)
class Work:
    """What one call has to do at least: FLOP, and bytes read and written once each."""

    flops: int
    read_bytes: int
    write_bytes: int

    def facts(self) -> dict[str, int]:
        """As `Result.facts` keeps them."""
        return {"flops": self.flops, "bytes": self.read_bytes + self.write_bytes}


def tiers(*lists: Iterable[Case], capability: tuple[int, int] | None = None) -> list[list[Case]]:
    """The lists without what an earlier one has, or what such a GPU has no instructions for; empty ones left out.

    Parameters of one kind come in one order.
    """
    missing = ("bf16", "tf32") if capability is not None and capability < (8, 0) else ()
    seen: set[Any] = set()
    found = []
    for cases in lists:
        fresh = {(case.kind, *case.params.values()): case for case in cases}  # quicker than keys, which are JSON
        found.append(
            [
                case
                for identity, case in fresh.items()
                if identity not in seen and case.params.get("dtype") not in missing
            ]
        )
        seen |= fresh.keys()
    return [tier for tier in found if tier]


def calibration(suite: str, options: SuiteOptions) -> list[list[Case]]:
    """The cases of this suite that a calibration needs: `calibration_cases(suite, options)` of `bench.calibration`."""
    module = importlib.import_module("bench.calibration")
    return tiers(module.calibration_cases(suite, options))


def seed_of(case: Case) -> int:
    """A seed that the case alone decides."""
    return zlib.crc32(case.key.encode())


def number(case: Case, name: str) -> int:
    """A whole number of the case's parameters."""
    value = case.params[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} of {case.key} is {value!r}: it must be a whole number")
    return value


def dtype_of(name: str) -> Any:
    """torch's type: "fp16", "bf16", "fp32", "int64" or "bool"."""
    import torch

    return {
        "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int64": torch.int64, "bool": torch.bool
    }[name]  # fmt: skip


class Operands:
    """Makes tensors of random content in [-1, 1], seeded by the case. Never zeros: they draw less power, run faster."""

    def __init__(self, case: Case, torch_device: str) -> None:
        import torch

        self.torch_device = torch_device
        self._torch = torch
        self._generator = torch.Generator(torch_device).manual_seed(seed_of(case))

    def uniform(self, *shape: int, dtype: str, channels_last: bool = False) -> Any:
        """Uniform in [-1, 1]; row-major, or channels_last in memory."""
        made = self.empty(*shape, dtype=dtype, channels_last=channels_last)
        return made.uniform_(-1, 1, generator=self._generator)

    def empty(self, *shape: int, dtype: str, channels_last: bool = False) -> Any:
        """For results: whatever the memory holds."""
        torch = self._torch
        memory = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=dtype_of(dtype), device=self.torch_device, memory_format=memory)

    def integers(self, below: int, *shape: int) -> Any:
        """int64, uniform from 0."""
        return self._torch.randint(below, shape, device=self.torch_device, generator=self._generator)


def unfit(context: Context, need_bytes: int, what: str) -> Result | None:
    """A skipped result, with the reason, where the case needs more memory than is free; else None."""
    free_bytes = context.device.free_bytes()
    spare_bytes = 0 if context.smoke else SPARE_BYTES
    if free_bytes is None or need_bytes + spare_bytes <= free_bytes:
        return None
    needs, free = (f"{size / GIB:.1f} GiB" for size in (need_bytes + spare_bytes, free_bytes))
    return Result(
        "skipped", reason=f"{what} needs {needs}, {free} is free: take a GPU with more, or stop what else runs on it"
    )


def copies_of(context: Context, work: Work, mode: Plain, bytes_per_copy: int) -> tuple[int, Any]:
    """(copies of the operands, mode as it will be): for a cold case enough to have left the L2, where that can be."""
    free_bytes = context.device.free_bytes()
    found = rotation(
        max(1, work.read_bytes),
        context.device.l2_bytes,
        mode="cold" if mode == "cold" else "warm",
        free_bytes=None if free_bytes is None else max(0, free_bytes - SPARE_BYTES),
        bytes_per_copy=bytes_per_copy,
    )
    return found.copies, found.mode


def timed(
    context: Context,
    calls: Sequence[Call],
    facts: Mapping[str, Any],
    *,
    mode: Any = "warm",
    graph: bool = True,
    host_included: bool = False,
    timer: TimerOptions | None = None,
) -> Result:
    """Time the calls under telemetry: a result that is ok."""
    with context.telemetry.watch() as watch:
        timing = time_calls(
            context.device, calls, timer or context.timer, mode=mode, graph=graph, host_included=host_included
        )
    return Result("ok", timing=timing, facts=dict(facts), telemetry=watch.facts())


@dataclass(frozen=True)
class Candidate:
    """A configuration of a kernel of ours; None is the kernel's own default."""

    config: Any
    calls: Callable[[], list[Call]]


def fastest(context: Context, candidates: Sequence[Candidate]) -> tuple[list[Call], dict[str, Any]]:
    """Calls of the candidate that a brief timing finds fastest; the facts say which it is and what all took.

    A candidate that fails is left out and said. Raises what the last one raised where all fail.
    """
    brief = replace(BRIEF, budget_s=min(BRIEF.budget_s, context.timer.budget_s))
    tried: list[dict[str, Any]] = []
    best: tuple[float, list[Call], Candidate] | None = None
    for candidate in candidates:
        told = None if candidate.config is None else asdict(candidate.config)
        try:
            calls = candidate.calls()
            time_s = time_calls(context.device, calls, brief).median_s if len(candidates) > 1 else 0.0
        except Exception as error:
            if candidate is candidates[-1] and best is None:
                raise
            context.device.synchronize()  # raises where the context is lost, so that the worker starts another
            tried.append({"config": told, "failed": (str(error).splitlines() or [type(error).__name__])[0][:200]})
            continue
        tried.append({"config": told, "time_s": time_s})
        if best is None or time_s < best[0]:
            best = time_s, calls, candidate
    assert best is not None  # the last candidate raised otherwise
    config = None if best[2].config is None else asdict(best[2].config)
    return best[1], {"config": config} | ({"tried": tried} if len(candidates) > 1 else {})


def triton_refusal(context: Context) -> Result | None:
    """A skipped result where Triton's kernels cannot run: on an older GPU, or a processor without the interpreter."""
    capability, _ = gpu_limits(context)
    if capability is not None and capability < OLDEST_TRITON:
        told = ".".join(map(str, capability))
        return Result("skipped", reason=f"Triton's kernels need compute capability 7.0, this GPU has {told}")
    if capability is not None or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return Result("skipped", reason="Triton's kernels need an NVIDIA GPU, or its interpreter: set TRITON_INTERPRET=1")


def gpu_limits(context: Context) -> tuple[tuple[int, int] | None, int | None]:
    """(compute capability, SMs) of the device; None on a processor."""
    if not context.torch_device.startswith("cuda"):
        return None, None
    import torch

    properties = torch.cuda.get_device_properties(context.torch_device)
    return (properties.major, properties.minor), properties.multi_processor_count


@contextlib.contextmanager
def cudnn_setting(*, autotuned: bool) -> Iterator[None]:
    """cuDNN's algorithm by trying several (`cudnn.benchmark`) or by its heuristic; all as it was afterwards.

    PyTorch keeps one plan per convolution for the life of the process and looks there first, whatever the setting is
    by then (run_single_conv in ATen/native/cudnn/Conv_v8.cpp): the second of two settings would get the first one's
    plan. What tells plans apart includes `allow_tf32`, which only FP32 heeds; so each setting has its own value of it.
    FP32 convolutions are for `tf32_setting`, inside of this.
    """
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = autotuned
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


@contextlib.contextmanager
def tf32_setting(*, allowed: bool) -> Iterator[None]:
    """Whether FP32 products and convolutions may run in TF32; as it was afterwards."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
