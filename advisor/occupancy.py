"""How many thread blocks an SM holds at once, and what stops it from holding more: NVIDIA's own rules, exactly.

Sources: the limits per compute capability are those of the CUDA C++ Programming Guide, "Technical Specifications
per Compute Capability" (CUDA 13); the rules of allocation are those of `cuda_occupancy.h`, the calculator that
NVIDIA ships with the CUDA runtime (wheel nvidia-cuda-runtime 13.5.37), with its defaults: the largest
shared-memory carve-out, dynamic shared memory opted into, one barrier per block, partitioned global caching off.

- Registers are handed to warps: registers x 32, rounded up to 256, out of the equal share of the register file that
  belongs to each sub-partition of the SM (four; two on compute capability 6.0).
- A launch is refused where a block's warps, rounded up to the sub-partitions, pass the registers a block may have.
- Shared memory is handed to blocks, rounded up to 256 B (128 B from 8.0 on); from 8.0 on the driver adds 1 KiB of
  its own to every block.

Occupancy is not speed: the fastest attention kernels run near 13 %. It is here to count slots, and for that only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.errors import BadInputError
from advisor.gpus.architectures import ARCHITECTURES
from advisor.quantization import Ints, ceil_div, whole

if TYPE_CHECKING:
    from advisor.gpus.model import Gpu

WARP_THREADS = 32
MAX_THREADS_PER_BLOCK = 1024  # every compute capability since 2.0


@dataclass(frozen=True)
class SmLimits:
    """What one SM can hold, and the grain in which it hands that out."""

    compute_capability: tuple[int, int]
    threads: int
    blocks: int
    shared_memory_bytes: int
    shared_memory_per_block_bytes: int  # the opt-in maximum
    registers: int = 65536
    registers_per_block: int = 65536

    @property
    def sub_partitions(self) -> int:
        """Parts of the SM with a warp scheduler and a register file of their own."""
        return 2 if self.compute_capability == (6, 0) else 4

    @property
    def registers_per_thread(self) -> int:
        """What the calculator lets a thread have; the instruction encoding, and so the compiler, stops at 255."""
        return 256 if self.compute_capability >= (7, 0) else 255

    @property
    def shared_memory_granularity_bytes(self) -> int:
        """Shared memory of a block is rounded up to a multiple of this."""
        return 128 if self.compute_capability >= (8, 0) else 256

    @property
    def reserved_shared_memory_bytes(self) -> int:
        """Shared memory that the driver takes for itself with every block."""
        return 1024 if self.compute_capability >= (8, 0) else 0


def _limits(capability: tuple[int, int], threads: int, blocks: int, per_sm_kib: int, per_block_kib: int) -> SmLimits:
    return SmLimits(capability, threads, blocks, per_sm_kib * 1024, per_block_kib * 1024)


# Those of the GPUs in `advisor.gpus` stand there, once; these are the others that the calculator knows.
_OTHERS = {
    (5, 0): _limits((5, 0), 2048, 32, 64, 48),
    (5, 2): _limits((5, 2), 2048, 32, 96, 48),
    (5, 3): replace(_limits((5, 3), 2048, 32, 64, 48), registers_per_block=32768),
    (6, 2): replace(_limits((6, 2), 2048, 32, 64, 48), registers_per_block=32768),
    (7, 2): _limits((7, 2), 2048, 32, 96, 96),  # Jetson Xavier
    (8, 7): _limits((8, 7), 1536, 16, 164, 163),  # Jetson Orin
    (11, 0): _limits((11, 0), 1536, 24, 228, 227),  # Jetson Thor
}
_SM_LIMITS = _OTHERS | {
    capability: SmLimits(
        capability, a.threads, a.blocks, a.shared_memory_bytes, a.shared_memory_per_block_bytes, a.registers
    )
    for capability, a in ARCHITECTURES.items()
}


def sm_limits(gpu: Gpu | tuple[int, int]) -> SmLimits:
    """Limits of a GPU or of a compute capability; figures that the GPU's record holds win over the table.

    Raises BadInputError for a compute capability whose rules are not known here.
    """
    capability = gpu if isinstance(gpu, tuple) else gpu.compute_capability
    limits = _SM_LIMITS.get(capability)
    if limits is None:
        known = ", ".join(f"{major}.{minor}" for major, minor in sorted(_SM_LIMITS))
        raise BadInputError(
            f"no occupancy rules for compute capability {'.'.join(map(str, capability))} (known: {known}); "
            "give the resident CTAs per SM yourself"
        )
    if isinstance(gpu, tuple):
        return limits
    facts: dict[str, Any] = {
        "threads": gpu.threads_per_sm,
        "blocks": gpu.blocks_per_sm,
        "registers": gpu.registers_per_sm,
        "shared_memory_bytes": gpu.shared_memory_per_sm_bytes,
        "shared_memory_per_block_bytes": gpu.shared_memory_per_block_bytes,
    }
    return replace(limits, **{name: value for name, value in facts.items() if value is not None})


UNLIMITED = 2**31 - 1  # what the calculator answers for a resource that a kernel does not use


@dataclass(frozen=True)
class Occupancy:
    """Blocks of one kernel that an SM holds at once; scalars, or arrays of the kernels' common shape."""

    blocks_per_sm: Ints  # 0: the launch is refused
    warps_per_sm: Ints
    occupancy: Any  # resident warps / the SM's maximum, 0 to 1
    limits: dict[str, Ints]  # blocks that each resource alone allows: threads, blocks, registers, shared memory
    limiter: Any  # the resource that stops the next block, the first of `limits` at a tie


def resident_blocks(
    limits: SmLimits, *, threads: Ints, registers: Ints = 0, shared_memory_bytes: Ints = 0
) -> Occupancy:
    """Blocks of `threads` threads that one SM holds, with `registers` per thread and shared memory per block.

    `shared_memory_bytes` is static plus dynamic, as a profiler shows it, without the driver's own share. Arrays
    broadcast. A block too large for the SM is no error: 0 blocks, and the limiter says why.
    Raises BadInputError for anything but whole numbers: threads from 1, the others from 0.
    """
    threads = np.asarray(whole("threads per block", threads))
    registers = np.asarray(whole("registers per thread", registers, least=0))
    shared = np.asarray(whole("shared memory per block", shared_memory_bytes, least=0))

    warps = ceil_div(threads, WARP_THREADS)
    by_threads = np.where(threads > MAX_THREADS_PER_BLOCK, 0, limits.threads // WARP_THREADS // warps)

    per_warp = ceil_div(registers * WARP_THREADS, 256) * 256
    warps_per_partition = limits.registers // limits.sub_partitions // np.maximum(per_warp, 1)
    by_registers = np.where(registers == 0, UNLIMITED, warps_per_partition * limits.sub_partitions // warps)
    launch = per_warp * ceil_div(warps, 4) * 4  # four even on 6.0: what no other Pascal can hold, it refuses too
    refused = (registers > limits.registers_per_thread) | (launch > limits.registers_per_block)
    by_registers = np.where(refused, 0, by_registers)

    grain, reserved = limits.shared_memory_granularity_bytes, limits.reserved_shared_memory_bytes
    allocated = ceil_div(shared + reserved, grain) * grain
    by_shared = np.where(allocated == 0, UNLIMITED, limits.shared_memory_bytes // np.maximum(allocated, 1))
    by_shared = np.where(allocated > limits.shared_memory_per_block_bytes + reserved, 0, by_shared)

    names = ("threads", "blocks", "registers", "shared memory")
    values = np.broadcast_arrays(by_threads, limits.blocks, by_registers, by_shared)
    blocks = np.minimum.reduce(values)
    resident = blocks * warps
    return Occupancy(
        blocks_per_sm=_plain(blocks),
        warps_per_sm=_plain(resident),
        occupancy=_plain(resident * WARP_THREADS / limits.threads),
        limits={name: _plain(value) for name, value in zip(names, values, strict=True)},
        limiter=_plain(np.array(names)[np.argmin(values, axis=0)]),
    )


def _plain(value: Any) -> Any:
    """A Python scalar for what has no dimensions; arrays stay arrays."""
    return value if np.ndim(value) else np.asarray(value).item()
