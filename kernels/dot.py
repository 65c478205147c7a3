"""`tl.dot` that the CPU interpreter can do too: it has no BF16 arithmetic and would multiply the bit patterns."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
# (what `triton.jit` decorates is Triton's language: its arguments have no Python types)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _in_fp32(a, b, sums):
    return tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")


INTERPRETED = tl.constexpr(not isinstance(_in_fp32, triton.runtime.JITFunction))


@triton.jit
def dot(a, b, sums):
    """sums + a b in FP32; products of FP16 or BF16 are exact in it."""
    return _in_fp32(a, b, sums) if INTERPRETED else tl.dot(a, b, sums)
