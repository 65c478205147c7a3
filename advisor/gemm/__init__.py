"""Time of matrix products on a GPU: a physical form fitted per GPU, corrected near its measurements.

`gemm_time` takes arrays, `predict_gemm` one product and a GPU's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError
from advisor.gemm.correction import LIMIT, log_correction
from advisor.gemm.engines import compiled_fastest_cut, fastest_cut
from advisor.gemm.physics import Machine, kernel_time, rounds_of
from advisor.gpus import Gpu, resolve_gpu
from advisor.profile import Error, GemmCoefficients, GemmModel, GpuProfile
from advisor.quantization import MAX_SIZE

__all__ = ["Gemm", "GemmPrediction", "gemm_time", "predict_gemm"]

Floats = NDArray[np.float64]
BOUNDS = ("compute", "memory", "latency")
COMPILED_FROM = 200_000  # products from which compiling pays
TF32_NOTE = "TF32 is an estimate: no timings, the FP16 coefficients at the TF32 rate with operands of 4 bytes"
BF16_NOTE = "FP16 with FP32 accumulate and BF16 run at one rate; the timings are BF16"


@dataclass(frozen=True)
class GemmPrediction:
    """Matrix products and their predicted times (s), as arrays of the shape to which the sizes broadcast.

    time_s = ideal_s + tile_loss_s + wave_loss_s. `launch_s` is the part of each time that successive kernels hide.
    """

    time_s: Floats
    launch_s: float
    ideal_s: Floats  # same kernels, were their tiles cut to C's edges and dealt out evenly to the SMs
    tile_loss_s: Floats  # lost on the parts of edge tiles outside C
    wave_loss_s: Floats  # lost to SMs without a tile, in the last round or for want of tiles
    flops: Floats
    tile_m: NDArray[np.int64]
    tile_n: NDArray[np.int64]
    split_k: NDArray[np.int64]
    waves: Floats  # tiles over SMs: rounds that the SMs work through
    wave_efficiency: Floats  # waves / ceil(waves)
    tile_efficiency: Floats  # share of the tiles' area inside C
    bound: NDArray[np.int8]  # index into BOUNDS


def gemm_time(
    profile: GpuProfile,
    gpu: Gpu,
    m: Any,
    n: Any,
    k: Any,
    *,
    batch: Any = 1,
    precision: str = "fp16",
    engine: Literal["auto", "numpy", "numba"] = "auto",
    corrected: bool = True,
) -> GemmPrediction:
    """Predict C[m, n] = A[m, k] B[k, n], `batch` times in one launch. Sizes are positive whole numbers; they broadcast.

    precision: "fp16", "bf16", "tf32" or "fp32". corrected: apply the local correction where the profile has one.
    Raises BadInputError for sizes out of range, an unknown precision, or a GPU without the facts needed.
    """
    section = "fp16" if runs_on_tensor_cores(gpu, precision) else "fp32"
    if section not in profile.gemm:
        raise BadInputError(f"the profile of {gpu.id} has no timings in {section}: give another with --profile")
    model = profile.gemm[section]
    machine, tensor_cores = machine_of(model.coefficients, gpu, precision)
    m, n, k, batch = (np.asarray(size, dtype=np.float64) for size in (m, n, k, batch))
    for name, size in (("m", m), ("n", n), ("k", k), ("batch", batch)):
        if size.size and not (np.all(size >= 1) and np.all(size <= MAX_SIZE) and np.all(size == np.floor(size))):
            raise BadInputError(f"{name} must be a whole number from 1 to {MAX_SIZE}")
    shape = np.broadcast_shapes(m.shape, n.shape, k.shape, batch.shape)
    m, n, k, batch = (np.ascontiguousarray(np.broadcast_to(size, shape)).ravel() for size in (m, n, k, batch))
    rate = operand_rate(n, k, machine.element_bytes) if tensor_cores else np.ones(len(m))
    tiles = np.array([(tile.m, tile.n, tile.rate) for tile in model.coefficients.tiles], dtype=np.float64)
    compiled = engine == "numba" or (engine == "auto" and len(m) >= COMPILED_FROM)
    search = compiled_fastest_cut if compiled else fastest_cut
    kernel, best, split = search(m, n, k, batch, rate, tiles, machine)

    tile_m, tile_n, tile_rate = tiles[best].T
    rows, columns = np.ceil(m / tile_m), np.ceil(n / tile_n)
    cut = (m, n, k, batch, rate, tile_m, tile_n, tile_rate, split)
    tile_count = rows * columns * batch * split
    even_rounds = tile_count / machine.sms
    rounds = rounds_of(tile_count, machine.sms, machine.wave_hardness)
    _, arithmetic, l2, dram = kernel_time(*cut, rows, columns, rounds, machine)
    even = kernel_time(*cut, rows, columns, even_rounds, machine)[0]
    inside = m * n / (rows * tile_m * columns * tile_n)
    ideal = kernel_time(*cut, m / tile_m, n / tile_n, even_rounds * inside, machine)[0]

    launch = machine.launch_s
    factor = np.ones(len(m))
    if corrected and model.gpu == gpu.id:
        single = batch == 1  # no batched product was measured
        factor[single] = np.exp(local_correction(model, m[single], n[single], k[single]))
    waves = tile_count / machine.sms
    starting = (machine.prologue_cycles / machine.clock_hz) + launch
    bound = np.where(arithmetic >= np.maximum(l2, dram), 0, 1)
    bound = np.where(starting > 0.5 * (kernel + launch), 2, bound).astype(np.int8)

    def shaped(values: Any) -> Any:
        return values.reshape(shape)

    return GemmPrediction(
        time_s=shaped((kernel + launch) * factor),
        launch_s=launch,
        ideal_s=shaped((np.minimum(ideal, kernel) + launch) * factor),
        tile_loss_s=shaped((np.minimum(even, kernel) - np.minimum(ideal, kernel)) * factor),
        wave_loss_s=shaped((kernel - np.minimum(even, kernel)) * factor),
        flops=shaped(2 * m * n * k * batch),
        tile_m=shaped(tile_m.astype(np.int64)),
        tile_n=shaped(tile_n.astype(np.int64)),
        split_k=shaped(split),
        waves=shaped(waves),
        wave_efficiency=shaped(waves / np.ceil(waves)),
        tile_efficiency=shaped(inside),
        bound=shaped(bound),
    )


def local_correction(model: GemmModel, m: Floats, n: Floats, k: Floats) -> Floats:
    """ln(corrected / physical) of single products by what a model has: a grid, points off any grid, both or none."""
    found = np.zeros(len(m))
    if model.correction is not None:
        found = found + log_correction(model.correction, m, n, k)
    if model.nearby is not None:
        found = found + model.nearby.log_correction({"m": m, "n": n, "k": k})
    return np.clip(found, -LIMIT, LIMIT)


def machine_of(coefficients: GemmCoefficients, gpu: Gpu, precision: str) -> tuple[Machine, bool]:
    """The GPU's facts times the coefficients, and whether Tensor Cores do the work."""
    tensor_cores = runs_on_tensor_cores(gpu, precision)
    facts = {
        "flop_per_clock_per_sm": getattr(gpu, f"{precision if tensor_cores else 'fp32'}_flop_per_clock_per_sm"),
        "boost_clock_hz": gpu.boost_clock_hz,
        "memory_bandwidth_bytes_per_s": gpu.memory_bandwidth_bytes_per_s,
        "l2_bytes": gpu.l2_bytes,
    }
    missing = [name for name, value in facts.items() if value is None]
    if missing:
        raise BadInputError(f"cannot predict times on {gpu.name}: {', '.join(missing)} unknown; choose another --gpu")
    c, clock = coefficients, facts["boost_clock_hz"]
    element_bytes = 4.0 if precision in {"tf32", "fp32"} else 2.0
    # TF32 moves twice the bytes of the FP16 products fitted, also between shared memory and the Tensor Cores
    wide = 2.0 if tensor_cores and element_bytes == 4 else 1.0
    machine = Machine(
        sms=float(gpu.sms),
        clock_hz=clock,
        peak_flop_per_clock_per_sm=float(facts["flop_per_clock_per_sm"]),
        flop_per_clock_per_sm=facts["flop_per_clock_per_sm"] * c.efficiency,
        dram_bytes_per_s=facts["memory_bandwidth_bytes_per_s"] * c.dram_efficiency,
        l2_bytes_per_s=c.l2_bytes_per_clock_per_sm * gpu.sms * clock,
        l2_bytes=float(facts["l2_bytes"]),
        element_bytes=element_bytes,
        launch_s=c.launch_s,
        dram_latency_s=c.dram_latency_s,
        prologue_cycles=wide * c.prologue_cycles,
        epilogue_cycles=wide * c.epilogue_cycles,
        feed_cycles=wide * c.feed_cycles,
        wave_hardness=c.wave_hardness,
        reread=c.reread,
        split_fixed_s=c.split_fixed_s,
        split_traffic=c.split_traffic,
        throttle=c.throttle,
        throttle_s=c.throttle_s,
        most_split_load=c.most_split_load,
    )
    return machine, tensor_cores


def runs_on_tensor_cores(gpu: Gpu, precision: str) -> bool:
    """Whether products of this precision run on Tensor Cores; else they run in FP32 on the CUDA cores.

    Raises BadInputError for an unknown precision.
    """
    if precision not in {"fp16", "bf16", "tf32", "fp32"}:
        raise BadInputError(f"unknown precision {precision!r}: use fp16, bf16, tf32 or fp32")
    return precision != "fp32" and getattr(gpu, f"{precision}_flop_per_clock_per_sm") is not None


# Rate of Tensor Core kernels whose rows start on fewer than 16 bytes, over that of aligned ones; by alignment in bytes.
# Contraction: EleutherAI's vocab_h_sweep (A100, m = 8192, n = 51200). Output: the mean of its vocab_v_sweep (m = 8192,
# n = 51200, k = 14336: 0.29, 0.54, 0.54) and, for 4 and 8 bytes, of ksweep_low (m = 27648, n < 512, k = 4096: 0.68).
# From 16 bytes on the sweeps show no loss that holds in both.
_UNALIGNED_RATE = {"contraction": {2: 0.28, 4: 0.67, 8: 0.67}, "output": {2: 0.29, 4: 0.61, 8: 0.61}}


def operand_rate(n: Floats, k: Floats, element_bytes: float) -> Floats:
    """Share of the Tensor Core rate that the alignment of the contiguous dimensions, n and k, leaves."""
    rate = np.ones(len(n))
    for size, role in ((n, "output"), (k, "contraction")):
        row = (size * element_bytes).astype(np.int64)
        lowest_bit = row & -row
        for bytes_, share in _UNALIGNED_RATE[role].items():
            at = lowest_bit == bytes_
            rate[at] = np.minimum(rate[at], share)
    return rate


@dataclass(frozen=True)
class Gemm:
    """One matrix product and its predicted time (s) on one GPU."""

    m: int
    n: int
    k: int
    batch: int
    time_s: float
    tflops: float
    tile_m: int
    tile_n: int
    split_k: int
    waves: float
    wave_efficiency: float
    bound: str  # compute, memory or latency
    error: Error  # of this profile, on products that its fit has not seen
    profile: str  # whose coefficients


def predict_gemm(
    m: int, n: int, k: int, *, gpu: str = "auto", batch: int = 1, precision: str = "fp16", profile: Path | None = None
) -> Gemm:
    """Predict the time of C[m, n] = A[m, k] B[k, n], `batch` times, on a GPU known by name.

    Raises BadInputError for sizes out of range or an unknown precision, UnknownNameError for an unknown GPU.
    """
    from advisor.loading import profiles_for  # which needs this package

    resolved = resolve_gpu(gpu)
    found, loaded = resolved.gpu, profiles_for(resolved, precision=precision, path=profile).gemm
    p = gemm_time(loaded, found, m, n, k, batch=batch, precision=precision)
    return Gemm(
        m=m,
        n=n,
        k=k,
        batch=batch,
        time_s=float(p.time_s),
        tflops=float(p.flops / p.time_s) / 1e12,
        tile_m=int(p.tile_m),
        tile_n=int(p.tile_n),
        split_k=int(p.split_k),
        waves=float(p.waves),
        wave_efficiency=float(p.wave_efficiency),
        bound=BOUNDS[int(p.bound)],
        error=loaded.error,
        profile=loaded.describe(),
    )
