"""What a compiler without a GPU needs to know of a kernel: its function, the types of its arguments, its constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KernelSpec:
    """One specialisation of a Triton kernel, as `triton.compile` takes it."""

    name: str  # e.g. "matmul 128x128x64 s3 w8"
    function: Any  # triton.runtime.JITFunction
    signature: Mapping[str, str]  # every argument: "*fp16", "i32", "tensordesc<fp16[128, 64]>" or "constexpr"
    constants: Mapping[str, Any]  # of the arguments that are "constexpr"
    divisible_by_16: frozenset[str]  # pointers and integers that are promised to be multiples of 16
    warps: int
    stages: int
    tile: tuple[int, int, int]  # M, N and K of the tile that one CTA works on at a time
