"""When and where every CTA of a kernel ran, and the waves that follow from it.

A kernel that has the compile-time flag TIMELINE set writes one record per CTA: the SM it ran on (`%smid`) and the
global nanosecond timer (`%globaltimer`) at its start and end. Source: PTX ISA, "Special Registers". All SMs share the
timer; how often it advances is left to the GPU. `advisor.timeline` reads the records, with no GPU and no Triton.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
# (what `triton.jit` decorates is Triton's language: its arguments have no Python types)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda as tl_cuda

UNWRITTEN = -1  # of a record whose CTA never ran


@triton.jit
def timeline_now():
    """Nanoseconds of the global timer."""
    return tl_cuda.globaltimer()


@triton.jit
def timeline_record(timeline_ptr, cta, start):
    """Write the record of this CTA: SM, start, and now, when all its warps have issued their last store."""
    tl.debug_barrier()
    end = tl_cuda.globaltimer()
    record = timeline_ptr + cta.to(tl.int64) * 3
    tl.store(record, tl_cuda.smid().to(tl.int64))
    tl.store(record + 1, start)
    tl.store(record + 2, end)


def timeline_buffer(ctas: int, device: Any) -> torch.Tensor:
    """Room for the records of `ctas` CTAs: int64 [ctas, 3], all unwritten."""
    return torch.full((ctas, 3), UNWRITTEN, dtype=torch.int64, device=device)


def check_timeline(timeline: torch.Tensor, ctas: int, device: torch.device) -> None:
    """Raise ValueError unless `timeline` has room for the records of `ctas` CTAs on this device."""
    if tuple(timeline.shape) != (ctas, 3) or not timeline.is_contiguous() or timeline.dtype != torch.int64:
        raise ValueError(
            f"timeline is {tuple(timeline.shape)} {timeline.dtype}: this launch needs timeline_buffer({ctas}, device)"
        )
    if timeline.device != device:
        raise ValueError(f"timeline is on {timeline.device}, the operands on {device}")
