"""What holds for every GPU of one compute capability, written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advisor.gpus import documents as doc

KIB = 1024


@dataclass(frozen=True)
class Architecture:
    """Limits and rates of one SM. FLOP per clock are dense, FP32 accumulate, at the full rate."""

    name: str
    threads: int
    blocks: int
    shared_memory_bytes: int
    shared_memory_per_block_bytes: int  # opt-in maximum; from 8.0 on CUDA keeps 1 KiB of each block
    fp32: int
    tensor_cores: int  # of a full SM; 0: none on any GPU of this kind
    fp16: int | None
    rates_source: str
    half_rate_source: str | None = None  # why some of its cards accumulate in FP32 at half the rate
    registers: int = 64 * KIB  # 32-bit; the same from 6.0 to 12.1


# Compute capability: threads, blocks, shared memory per SM and per block; FP32, Tensor Cores, FP16 per SM and clock.
# fmt: off
ARCHITECTURES: dict[tuple[int, int], Architecture] = {
    (6, 0):  Architecture("Pascal", 2048, 32,  64 * KIB,  48 * KIB, 128, 0, None, doc.P100_PAPER),
    (6, 1):  Architecture("Pascal", 2048, 32,  96 * KIB,  48 * KIB, 256, 0, None, doc.THROUGHPUT),
    (7, 0):  Architecture("Volta",  2048, 32,  96 * KIB,  96 * KIB, 128, 8, 1024, doc.V100_PAPER),
    (7, 5):  Architecture("Turing", 1024, 16,  64 * KIB,  64 * KIB, 128, 8, 1024, doc.TURING,
                          f"GeForce: 53.8 TFLOP/s of 107.6 with FP32 accumulate on the RTX 2080 Ti, {doc.TURING}"),
    (8, 0):  Architecture("Ampere", 2048, 32, 164 * KIB, 163 * KIB, 128, 4, 2048, doc.A100_PAPER),
    (8, 6):  Architecture("Ampere", 1536, 16, 100 * KIB,  99 * KIB, 256, 4, 1024, doc.GA102,
                          f"GeForce: 71 TFLOP/s of 142 with FP32 accumulate on the RTX 3090, {doc.GA102}"),
    (8, 9):  Architecture("Ada",    1536, 24, 100 * KIB,  99 * KIB, 256, 4, 1024, doc.ADA,
                          f"GeForce: 165.2 TFLOP/s of 330.3 with FP32 accumulate on the RTX 4090, {doc.ADA}"),
    (9, 0):  Architecture("Hopper", 2048, 32, 228 * KIB, 227 * KIB, 256, 4, 4096, doc.H100_PAPER),
    (10, 0): Architecture("Blackwell", 2048, 32, 228 * KIB, 227 * KIB, 256, 4, 8192, doc.CUDNN),
    (10, 3): Architecture("Blackwell", 2048, 32, 228 * KIB, 227 * KIB, 256, 4, 8192, doc.CUDNN),
    (12, 0): Architecture("Blackwell", 1536, 24, 100 * KIB,  99 * KIB, 256, 4, 1024, doc.PRO_BLACKWELL,
                          f"GeForce: 209.5 TFLOP/s of 419 with FP32 accumulate on the RTX 5090, {doc.RTX_BLACKWELL}"),
    (12, 1): Architecture("Blackwell", 1536, 24, 100 * KIB,  99 * KIB, 256, 4, 1024, doc.CUDNN),
}
# fmt: on


def architecture_facts(
    compute_capability: tuple[int, int], *, tensor_cores: bool = True, tensor_share: float | None = 1.0
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of `Gpu` that follow from the compute capability, and the source of each.

    `tensor_share` is the card's share of the full Tensor Core rate with FP32 accumulate (GeForce 1/2); None: unknown.
    For a compute capability that is not in the table everything is unknown: two empty dicts.
    """
    found = ARCHITECTURES.get(compute_capability)
    if found is None:
        return {}, {}
    facts: dict[str, Any] = {
        "threads_per_sm": found.threads,
        "blocks_per_sm": found.blocks,
        "registers_per_sm": found.registers,
        "shared_memory_per_sm_bytes": found.shared_memory_bytes,
        "shared_memory_per_block_bytes": found.shared_memory_per_block_bytes,
    }
    sources = dict.fromkeys(facts, doc.CUDA_GUIDE)
    facts["fp32_flop_per_clock_per_sm"] = found.fp32
    facts["tensor_cores_per_sm"] = found.tensor_cores if tensor_cores else 0
    sources |= dict.fromkeys(("fp32_flop_per_clock_per_sm", "tensor_cores_per_sm"), found.rates_source)
    if tensor_cores and found.fp16 is not None and tensor_share is not None:
        rate = round(found.fp16 * tensor_share)
        facts["fp16_flop_per_clock_per_sm"] = rate
        if compute_capability >= (8, 0):
            facts |= {"bf16_flop_per_clock_per_sm": rate, "tf32_flop_per_clock_per_sm": rate // 2}
        source = found.half_rate_source if tensor_share == 0.5 and found.half_rate_source else found.rates_source
        sources |= {figure: source for figure in facts if figure.startswith(("fp16", "bf16", "tf32"))}
    return facts, sources
