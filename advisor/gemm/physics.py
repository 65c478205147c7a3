"""What one matrix product costs on one GPU when cut one way: the physical form of the GEMM time model.

C[m, n] = A[m, k] B[k, n], `batch` times, cut into output tiles of tile_m x tile_n and split_k slices of k. Each SM
works through its tiles one after another; what a part-full round costs is fitted (`wave_hardness`: 1 is the sharp
staircase of whole waves, 0 none). The kernel takes the smooth maximum of three times: the SMs' arithmetic, the
traffic from L2 to the SMs, and the traffic from DRAM. Split-K adds the reduction of its partial results, and every
kernel its launch.

Sources: waves and tiles, NVIDIA, "Matrix Multiplication Background User's Guide", section 3; the maximum of compute
and memory time, Williams, Waterman, Patterson, CACM 52(4), 2009, doi:10.1145/1498765.1498785.

`kernel_time` is written once: with arrays it is numpy, with numbers numba compiles it as it stands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TILE_K = 64  # elements of k that one step of the main loop takes
SPLITS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
LEAST_SLICE = 128  # elements of k below which no library splits further
MOST_SPLIT_LOAD = 4.0  # tiles per SM above which no library is taken to split k, unless a profile says otherwise
REFERENCE_TILE_AREA = 128 * 256


class Machine(NamedTuple):
    """One GPU in one precision, as the model sees it: its facts times the fitted coefficients."""

    sms: float
    clock_hz: float
    peak_flop_per_clock_per_sm: float
    flop_per_clock_per_sm: float  # that a tile without edges would reach, were there no peak
    dram_bytes_per_s: float  # achievable
    l2_bytes_per_s: float  # achievable, L2 to all SMs
    l2_bytes: float
    element_bytes: float
    launch_s: float
    dram_latency_s: float
    prologue_cycles: float  # of one tile: filling the pipeline, and writing the result of a small tile
    epilogue_cycles: float  # more than that, for a tile of REFERENCE_TILE_AREA
    feed_cycles: float  # per step element of k and per row or column of the tile: shared-memory traffic
    wave_hardness: float
    reread: float  # share of the operands' repeated reads that miss L2, once they exceed it
    split_fixed_s: float
    split_traffic: float  # partial results' traffic over what DRAM would need for it
    throttle: float  # share by which long kernels are slower: power and clock limits
    throttle_s: float  # duration at which half of that is reached
    most_split_load: float = MOST_SPLIT_LOAD  # tiles per SM, all slices counted, up to which k is split


def rounds_of(tiles: Any, sms: Any, hardness: Any) -> Any:
    """Rounds that the SMs take for their tiles: between tiles / SMs and the next whole number, never below one."""
    load = tiles / sms
    return np.maximum(load + hardness * (np.ceil(load) - load), 1.0)


def tile_cycles(depth: Any, rate: Any, tile_m: Any, tile_n: Any, tile_rate: Any, gpu: Machine) -> Any:
    """Clocks that an SM spends on one tile of so many elements of k."""
    area = tile_m * tile_n
    step = 2.0 * area / (gpu.flop_per_clock_per_sm * tile_rate) + gpu.feed_cycles * (tile_m + tile_n)
    step = np.maximum(step, 2.0 * area / gpu.peak_flop_per_clock_per_sm) / rate
    return gpu.prologue_cycles + gpu.epilogue_cycles * area / REFERENCE_TILE_AREA + depth * step


def least_time(k: Any, rate: Any, tile_m: Any, tile_n: Any, tile_rate: Any, output_tiles: Any, gpu: Machine) -> Any:
    """Seconds below which no split of these tiles gets: all SMs always busy. Cheap, so that a search can skip tiles."""
    return output_tiles * tile_cycles(k, rate, tile_m, tile_n, tile_rate, gpu) / (gpu.sms * gpu.clock_hz)


def kernel_time(
    m: Any, n: Any, k: Any, batch: Any, rate: Any, tile_m: Any, tile_n: Any, tile_rate: Any, split_k: Any,
    rows: Any, columns: Any, rounds: Any, gpu: Machine,
) -> Any:  # fmt: skip
    """Seconds of the kernel without its launch; then its three bounds: arithmetic, L2 and DRAM seconds.

    Sizes in elements, as floats; they broadcast. rate: share of the Tensor Core rate that the operands' alignment
    leaves. tile_rate: relative rate of this tile. rows, columns: tiles of C each way; rounds: see `rounds_of`.
    """
    tiles = rows * columns * batch * split_k
    depth = np.ceil(k / (split_k * TILE_K)) * TILE_K  # of one slice
    arithmetic = rounds * tile_cycles(depth, rate, tile_m, tile_n, tile_rate, gpu) / gpu.clock_hz

    l2 = tiles * (tile_m + tile_n) * depth * gpu.element_bytes / gpu.l2_bytes_per_s

    # DRAM: every operand once; and what the tiles in flight at once, a nearly square patch, read again.
    operands = (m + n) * k * gpu.element_bytes
    patch = np.minimum(gpu.sms, rows * columns)
    patch_rows = np.minimum(rows, np.maximum(1.0, np.sqrt(patch * tile_n / tile_m)))
    patch_columns = np.minimum(columns, patch / patch_rows)
    patch_rows = np.minimum(rows, patch / patch_columns)
    reads = rows * columns / patch * (patch_rows * tile_m + patch_columns * tile_n) * k * gpu.element_bytes
    again = np.maximum(0.0, reads - operands) * np.minimum(1.0, operands / gpu.l2_bytes) * gpu.reread
    dram = (operands + m * n * gpu.element_bytes + again) * batch / gpu.dram_bytes_per_s + gpu.dram_latency_s

    longest = np.maximum(np.maximum(arithmetic, l2), dram)
    a, b, c = arithmetic / longest, l2 / longest, dram / longest
    a, b, c = a * a, b * b, c * c
    time = longest * np.sqrt(np.sqrt(a * a + b * b + c * c))
    partials = gpu.split_fixed_s + gpu.split_traffic * 4.0 * split_k * m * n * batch / gpu.dram_bytes_per_s
    time = time + (split_k > 1) * partials
    hot = time / gpu.throttle_s
    return time * (1.0 + gpu.throttle * hot / (1.0 + hot)), arithmetic, l2, dram
