from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import BadInputError
from advisor.gpus.model import Gpu
from advisor.occupancy import UNLIMITED, SmLimits, resident_blocks, sm_limits
from tests.data import recorded_trace

V100, A100, H100 = sm_limits((7, 0)), sm_limits((8, 0)), sm_limits((9, 0))
KNOWN = [
    (5, 0),
    (6, 0),
    (6, 1),
    (7, 0),
    (7, 5),
    (8, 0),
    (8, 6),
    (8, 7),
    (8, 9),
    (9, 0),
    (10, 0),
    (10, 3),
    (12, 0),
    (12, 1),
]


def test_a_256_thread_kernel_with_126_registers_and_48_kib_holds_two_blocks_on_v100() -> None:
    # 126 x 32 = 4032 -> 4096 a warp; 16384 / 4096 = 4 warps x 4 partitions / 8 warps = 2; 96 / 48 KiB = 2
    found = resident_blocks(V100, threads=256, registers=126, shared_memory_bytes=49152)
    assert found.limits == {"threads": 8, "blocks": 32, "registers": 2, "shared memory": 2}
    assert (found.blocks_per_sm, found.limiter, found.occupancy) == (2, "registers", 0.25)


def test_the_driver_takes_1_kib_of_every_block_from_8_0_on() -> None:
    # 164 KiB hold two blocks of 81 KiB + 1 KiB, but not of 81 KiB + 1 B + 1 KiB, rounded up to 128 B
    assert resident_blocks(A100, threads=128, shared_memory_bytes=81 * 1024).blocks_per_sm == 2
    assert resident_blocks(A100, threads=128, shared_memory_bytes=81 * 1024 + 1).blocks_per_sm == 1
    assert resident_blocks(V100, threads=128, shared_memory_bytes=48 * 1024).blocks_per_sm == 2


def test_registers_are_handed_out_per_warp_and_per_sub_partition() -> None:
    # 104 registers: 3328 a warp, 4 warps a partition, 16 a SM; three-warp blocks: 5
    assert resident_blocks(A100, threads=96, registers=104).limits["registers"] == 5
    # 168 x 32 = 5376: three warps a partition, 12 a SM, though 65536 / 5376 = 12.19
    assert resident_blocks(A100, threads=128, registers=168).blocks_per_sm == 3
    # P100 has two partitions: 6 warps in each, the same 12
    assert resident_blocks(sm_limits((6, 0)), threads=128, registers=168).blocks_per_sm == 3


def test_empty_kernels_are_bounded_by_blocks_or_threads() -> None:
    assert resident_blocks(A100, threads=32).limiter == "blocks"
    assert resident_blocks(A100, threads=32).limits["registers"] == UNLIMITED
    assert resident_blocks(sm_limits((7, 5)), threads=32).blocks_per_sm == 16
    assert resident_blocks(sm_limits((8, 6)), threads=1024).blocks_per_sm == 1  # 1536 threads hold one and a half


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "limiter"),
    [
        (1025, 0, 0, "threads"),
        (1024, 65, 0, "registers"),
        (32, 257, 0, "registers"),
        (288, 224, 0, "registers"),  # 9 warps x 7168 = 64512 would do, but a launch counts them as 12
        (32, 0, 163 * 1024 + 1, "shared memory"),
    ],
)
def test_a_block_too_large_for_the_sm_is_no_block_and_says_why(
    threads: int, registers: int, shared: int, limiter: str
) -> None:
    found = resident_blocks(A100, threads=threads, registers=registers, shared_memory_bytes=shared)
    assert (found.blocks_per_sm, found.limiter, found.occupancy) == (0, limiter, 0.0)


# What NVIDIA's own calculator answers: cuda_occupancy.h of the wheel nvidia-cuda-runtime 13.5.37, compiled with g++
# and called with the limits of each compute capability (carve-out default, opt-in shared memory, one barrier).
# Columns: compute capability, threads, registers, shared memory, then blocks by threads, blocks, registers, shared.
CALCULATOR: list[tuple[tuple[int, int], int, int, int, int, int, int, int]] = [
    ((5, 0), 288, 32, 49152, 7, 32, 7, 1),
    ((5, 0), 64, 24, 24576, 32, 32, 42, 2),
    ((5, 0), 96, 80, 49152, 21, 32, 8, 1),
    ((5, 2), 64, 168, 8704, 32, 32, 6, 11),
    ((5, 2), 64, 24, 49152, 32, 32, 42, 2),
    ((5, 2), 384, 24, 8704, 5, 32, 7, 11),
    ((5, 3), 96, 168, 49152, 21, 32, 4, 1),
    ((5, 3), 64, 200, 1, 32, 32, 4, 256),
    ((5, 3), 160, 255, 49024, 12, 32, 0, 1),
    ((6, 0), 1024, 0, 49152, 2, 32, UNLIMITED, 1),
    ((6, 0), 1024, 96, 0, 2, 32, 0, UNLIMITED),
    ((6, 0), 160, 0, 24576, 12, 32, UNLIMITED, 2),
    ((6, 1), 128, 64, 49152, 16, 32, 8, 2),
    ((6, 1), 128, 168, 1, 16, 32, 3, 384),
    ((6, 1), 1024, 64, 24576, 2, 32, 1, 4),
    ((6, 2), 128, 24, 49152, 16, 32, 21, 1),
    ((6, 2), 1024, 255, 8704, 2, 32, 0, 7),
    ((6, 2), 288, 24, 24576, 7, 32, 9, 2),
    ((7, 0), 96, 200, 0, 21, 32, 2, UNLIMITED),
    ((7, 0), 1024, 41, 65536, 2, 32, 1, 1),
    ((7, 0), 640, 96, 33000, 3, 32, 1, 2),
    ((7, 2), 512, 200, 65536, 4, 32, 0, 1),
    ((7, 2), 288, 64, 8704, 7, 32, 3, 11),
    ((7, 2), 128, 41, 1, 16, 32, 10, 384),
    ((7, 5), 1024, 64, 32768, 1, 16, 1, 2),
    ((7, 5), 512, 80, 65536, 2, 16, 1, 1),
    ((7, 5), 256, 200, 1, 4, 16, 1, 256),
    ((8, 0), 96, 168, 49152, 21, 32, 4, 3),
    ((8, 0), 128, 80, 1000, 16, 32, 6, 82),
    ((8, 0), 512, 96, 0, 4, 32, 1, 164),
    ((8, 6), 96, 168, 101376, 16, 16, 4, 1),
    ((8, 6), 288, 80, 33000, 5, 16, 2, 3),
    ((8, 6), 1024, 128, 101376, 1, 16, 0, 1),
    ((8, 7), 512, 24, 1, 3, 16, 5, 145),
    ((8, 7), 256, 128, 166784, 6, 16, 2, 1),
    ((8, 7), 96, 0, 16384, 16, 16, UNLIMITED, 9),
    ((8, 9), 1024, 255, 65536, 1, 24, 0, 1),
    ((8, 9), 256, 96, 101248, 6, 24, 2, 1),
    ((8, 9), 288, 0, 65536, 5, 24, UNLIMITED, 1),
    ((9, 0), 288, 32, 232448, 7, 32, 7, 1),
    ((9, 0), 96, 128, 0, 21, 32, 5, 228),
    ((9, 0), 160, 64, 1000, 12, 32, 6, 114),
    ((10, 0), 160, 96, 49152, 12, 32, 4, 4),
    ((10, 0), 512, 24, 1000, 4, 32, 5, 114),
    ((10, 0), 512, 96, 116224, 4, 32, 1, 1),
    ((10, 3), 256, 32, 49152, 8, 32, 8, 4),
    ((10, 3), 640, 64, 49152, 3, 32, 1, 4),
    ((10, 3), 288, 255, 49152, 7, 32, 0, 4),
    ((11, 0), 160, 32, 1, 9, 24, 12, 202),
    ((11, 0), 128, 32, 8704, 12, 24, 16, 24),
    ((11, 0), 160, 0, 65536, 9, 24, UNLIMITED, 3),
    ((12, 0), 1024, 32, 16384, 1, 24, 2, 5),
    ((12, 0), 256, 0, 1000, 6, 24, UNLIMITED, 50),
    ((12, 0), 384, 168, 33000, 4, 24, 1, 3),
    ((12, 1), 1024, 200, 33000, 1, 24, 0, 3),
    ((12, 1), 128, 168, 101376, 12, 24, 3, 1),
    ((12, 1), 64, 128, 101248, 24, 24, 8, 1),
]


@pytest.mark.parametrize("row", CALCULATOR, ids=lambda row: "-".join(map(str, row[:4])))
def test_blocks_are_those_of_nvidias_calculator(row: tuple[Any, ...]) -> None:
    capability, threads, registers, shared, *limits = row
    found = resident_blocks(sm_limits(capability), threads=threads, registers=registers, shared_memory_bytes=shared)
    assert list(found.limits.values()) == limits
    assert found.blocks_per_sm == min(limits)


@given(
    capability=st.sampled_from(KNOWN),
    threads=st.integers(1, 1024),
    registers=st.integers(0, 255),
    shared=st.integers(0, 100_000),
)
def test_more_of_any_resource_never_gives_more_blocks(
    capability: tuple[int, int], threads: int, registers: int, shared: int
) -> None:
    limits = sm_limits(capability)
    base = resident_blocks(limits, threads=threads, registers=registers, shared_memory_bytes=shared)
    for more in (
        resident_blocks(limits, threads=threads + 1, registers=registers, shared_memory_bytes=shared),
        resident_blocks(limits, threads=threads, registers=registers + 1, shared_memory_bytes=shared),
        resident_blocks(limits, threads=threads, registers=registers, shared_memory_bytes=shared + 1),
    ):
        assert more.blocks_per_sm <= base.blocks_per_sm
    assert base.warps_per_sm * 32 <= limits.threads
    assert base.blocks_per_sm * (shared + limits.reserved_shared_memory_bytes) <= limits.shared_memory_bytes
    assert base.blocks_per_sm * registers * threads <= limits.registers
    assert base.limits[base.limiter] == base.blocks_per_sm


@given(st.lists(st.tuples(st.integers(1, 1100), st.integers(0, 260), st.integers(0, 240_000)), min_size=1, max_size=9))
def test_arrays_give_what_each_kernel_alone_gives(kernels: list[tuple[int, int, int]]) -> None:
    threads, registers, shared = (np.array(column) for column in zip(*kernels, strict=True))
    found = resident_blocks(H100, threads=threads, registers=registers, shared_memory_bytes=shared)
    for i, (t, r, s) in enumerate(kernels):
        one = resident_blocks(H100, threads=t, registers=r, shared_memory_bytes=s)
        assert isinstance(one.blocks_per_sm, int)
        assert found.blocks_per_sm[i] == one.blocks_per_sm
        assert found.limiter[i] == one.limiter
        assert found.occupancy[i] == one.occupancy


def test_figures_of_a_gpu_win_over_the_table() -> None:
    card = Gpu("x", "X", (8, 0), 108, shared_memory_per_sm_bytes=100 * 1024, blocks_per_sm=16)
    limits = sm_limits(card)
    assert (limits.shared_memory_bytes, limits.blocks, limits.threads) == (100 * 1024, 16, 2048)


def test_an_unknown_compute_capability_is_said_to_be_unknown() -> None:
    with pytest.raises(BadInputError, match=r"compute capability 99\.0"):
        sm_limits((99, 0))


@pytest.mark.parametrize("bad", [{"threads": 0}, {"threads": 32, "registers": -1}, {"threads": 1.5}])
def test_sizes_that_are_no_whole_numbers_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        resident_blocks(A100, **bad)


def kernels_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return [event["args"] for event in events if str(event.get("cat")).lower() == "kernel"]


@pytest.mark.parametrize(
    ("trace", "limits", "sms", "count", "opted_in"),
    [
        ("resnet50_train_b32_fp32_v100.json.gz", V100, 80, 8868, 0),
        ("alexnet_a100.json.gz", A100, 108, 79, 6),
        ("triton_kernel_a100.json.gz", A100, 108, 1, 0),
        ("sampled_no_device_properties.json.gz", A100, 108, 1154, 290),  # 108 SMs: grid / blocks per SM
    ],
)
def test_every_kernel_of_recorded_traces_has_the_occupancy_the_profiler_wrote(
    trace: str, limits: SmLimits, sms: int, count: int, opted_in: int
) -> None:
    """The profiler writes (int)(0.5 + 100 x min(resident, blocks per SM) x threads / maximum), in 32-bit floats.

    That floats are 32-bit shows at exact halves: 22.5 % is 0.22499999 there, and becomes 22.
    It asks the calculator without the opt-in to more than 48 KiB of shared memory (kineto, DeviceProperties.cpp:
    FUNC_SHMEM_LIMIT_DEFAULT), so it writes 0 for kernels that use more, though they ran. Those are set apart.
    """
    kernels = kernels_of(recorded_trace(trace))
    threads = np.array([int(np.prod(kernel["block"])) for kernel in kernels])
    shared = np.array([kernel["shared memory"] for kernel in kernels])
    written = np.array([kernel["est. achieved occupancy %"] for kernel in kernels])
    per_sm = np.array([np.prod(kernel["grid"]) for kernel in kernels], dtype=np.float32) / np.float32(sms)
    assert per_sm == pytest.approx([kernel["blocks per SM"] for kernel in kernels], abs=1e-6)

    found = resident_blocks(
        limits,
        threads=threads,
        registers=np.array([kernel["registers per thread"] for kernel in kernels]),
        shared_memory_bytes=shared,
    )
    achieved = np.minimum(found.blocks_per_sm, per_sm).astype(np.float32) * threads.astype(np.float32)
    percent = np.floor(0.5 + 100.0 * (achieved / np.float32(limits.threads)).astype(np.float64))
    misjudged = shared > 48 * 1024
    assert (len(kernels), int(misjudged.sum())) == (count, opted_in)
    assert np.array_equal(percent[~misjudged], written[~misjudged])
    assert not written[misjudged].any()
    assert np.all(found.blocks_per_sm >= 1)
