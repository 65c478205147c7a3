"""How a matrix product is cut into tiles and the tiles into waves: exact counts, no fitted number.

C[m, n] = A[m, k] B[k, n] is computed in output tiles of tile_m x tile_n, one thread block (CTA) each. The GPU
holds `slots` = SMs x resident CTAs per SM of them at once; one such load is a wave. Two things are wasted: the
part of the edge tiles that lies outside C (tile quantization) and the slots that stay empty in the last wave
(wave quantization). Source: NVIDIA, "Matrix Multiplication Background User's Guide", sections 3.1 and 3.2,
https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/

These are diagnoses, not bills: with several CTAs per SM a part-full wave runs each CTA faster, and a memory-bound
kernel saturates early. Time lost is what the time model says.

The plain formulae (`ceil_div` ... `idle_share`) take positive integers or integer arrays, broadcast, check
nothing, and compile under numba as they are. `quantize_gemm` checks its input and returns everything at once.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError

IntArray: TypeAlias = NDArray[np.int64]
Ints: TypeAlias = int | IntArray
Floats: TypeAlias = float | NDArray[np.float64]
_I = TypeVar("_I", int, IntArray)  # ints in, int out; an array among them, an array out

MAX_SIZE = 2**31 - 1  # one dimension of a matrix product: cuBLAS's 32-bit interface


def ceil_div(numerator: _I | int, denominator: _I | int) -> _I:
    """Smallest whole number >= numerator / denominator."""
    return -(numerator // -denominator)  # type: ignore[return-value]  # (int, array) broadcasts to an array


def gemm_flops(m: _I | int, n: _I | int, k: _I | int, batch: _I | int = 1) -> _I:
    """FLOP of `batch` products, a multiply-add counted as 2: 2 m n k (NVIDIA's guide, section 2)."""
    return 2 * m * n * k * batch  # type: ignore[return-value]


def tile_count(m: _I | int, n: _I | int, tile_m: _I | int, tile_n: _I | int, split_k: _I | int = 1) -> _I:
    """CTAs of one product: ceil(m / tile_m) x ceil(n / tile_n) x split_k. A batch multiplies them."""
    return (m // -tile_m) * (n // -tile_n) * split_k  # type: ignore[return-value]  # the two signs cancel


def tile_efficiency(m: Ints, n: Ints, tile_m: Ints, tile_n: Ints) -> Any:
    """Share of the tiles' area that lies inside C, in (0, 1]: m n / (ceil(m/tile_m) tile_m ceil(n/tile_n) tile_n)."""
    return m * n / ((m // -tile_m) * tile_m * (n // -tile_n) * tile_n)


def split_k_slices(k: _I | int, tile_k: _I | int, split_k: _I | int) -> _I:
    """Slices of K that hold any work: fewer than split_k where the steps of tile_k do not go round.

    Each slice takes ceil(ceil(k / tile_k) / split_k) steps and the last what is left: 10 steps over 8 slices are
    2 each, so 5 slices work and 3 CTAs of every tile start for nothing.
    """
    steps = -(k // -tile_k)
    return -(steps // (steps // -split_k))  # type: ignore[return-value]


def split_k_efficiency(k: Ints, tile_k: Ints, split_k: Ints = 1) -> Any:
    """k / (split_k x the K extent of the longest slice), in (0, 1]: padding of K and uneven slices together."""
    steps = -(k // -tile_k)
    return k / (split_k * -(steps // -split_k) * tile_k)


def waves(tiles: Ints, slots: Ints) -> Any:
    """Waves as a fraction, tiles / slots."""
    return tiles / slots


def wave_efficiency(tiles: Ints, slots: Ints) -> Any:
    """w / ceil(w) with w = tiles / slots: the share of slots busy over all waves, in (0, 1]."""
    return tiles / (slots * -(tiles // -slots))


def idle_share(tiles: Ints, slots: Ints) -> Any:
    """1 - w / ceil(w): the exact share of slots idle over all waves.

    Nsight Compute's tail-effect rule estimates 1 / (1 + floor(w)) instead: 20 % at 4.81 waves where 3.8 % is
    idle, and nothing at 5.05 waves where 15.8 % is.
    """
    slots_in_waves = slots * -(tiles // -slots)
    return (slots_in_waves - tiles) / slots_in_waves


def last_wave_fill(tiles: Ints, slots: Ints) -> Any:
    """Share of the slots that the last wave fills, in (0, 1]."""
    return ((tiles - 1) % slots + 1) / slots


def largest_size(whole_waves: Ints, slots: Ints, tiles_across: Ints, tile: Ints) -> Any:
    """Largest size of one dimension that still fits `whole_waves` waves; 0 where not even one tile does.

    `tiles_across` is what every further tile along this dimension costs: the tiles of the other dimension x split_k
    x batch. On 108 slots, 9 tile rows of 256 and columns of 128: 1536 in one wave, and 1537 starts the second.
    """
    return whole_waves * slots // tiles_across * tile


def folk_batch_size(multiple: Ints, sms: int, height: int, width: int, channels: int) -> Any:
    """The folk rule floor(n 2^14 SMs / (H W C)), n a whole number, for comparison only.

    Source: Remi Coulom, quoted in S. Raschka, "No, We Don't Have to Choose Batch Sizes As Powers Of 2" (2022),
    https://sebastianraschka.com/blog/2022/batch-size-2.html. It may be 0: then one sample already exceeds the rule.
    """
    return multiple * 2**14 * sms // (height * width * channels)


Schedule = Literal["plain", "split-K", "stream-K", "persistent"]

_NOTES: dict[Schedule, str | None] = {
    "plain": None,
    "split-K": "split-K adds CTAs on purpose, to fill a wave; what its reduction costs is not counted here",
    "stream-K": "stream-K deals the K steps of all tiles evenly to the slots: one wave by design, no tail to blame",
    "persistent": "a persistent kernel launches at most one wave of CTAs, which loop over the tiles: the single wave "
    "a profiler shows is by design; the rounds of that loop are the waves given here",
}


@dataclass(frozen=True)
class GemmQuantization:
    """What one matrix product, or many, cost in tiles and waves. Ints, or arrays that broadcast together."""

    m: Ints
    n: Ints
    k: Ints
    batch: Ints
    tile_m: Ints
    tile_n: Ints
    tile_k: Ints | None  # K extent of one step of the main loop; None: not known, K counts as unpadded
    split_k: Ints
    schedule: Schedule
    sms: int
    slots: Ints  # CTAs resident at once: SMs x resident CTAs per SM
    tiles: Ints  # output tiles x split_k x batch
    ctas: Ints  # CTAs launched: the tiles, or at most one per slot for persistent and stream-K kernels
    flops: Ints  # 2 m n k batch
    wasted_flops: Ints  # spent on padding: outside C in the edge tiles, beyond K in the last step where tile_k is known
    tile_efficiency: Floats
    waves: Floats
    whole_waves: Ints
    wave_efficiency: Floats  # over slots: w / ceil(w)
    wave_efficiency_sms: Floats  # over SMs, w = tiles / SMs: how evenly the SMs are loaded, whatever they hold at once
    idle_share: Floats  # of the slots, over all waves: 1 - wave_efficiency
    last_wave_fill: Floats  # share of the slots busy in the last wave
    note: str | None  # why the wave figures are no fault of this kernel, if they are none

    @property
    def efficiency(self) -> Floats:
        """Tile efficiency x wave efficiency: the share of a full GPU's work that ends up in C."""
        return self.tile_efficiency * self.wave_efficiency


def quantize_gemm(
    m: Ints,
    n: Ints,
    k: Ints,
    *,
    tile_m: Ints,
    tile_n: Ints,
    sms: int,
    tile_k: Ints | None = None,
    split_k: Ints = 1,
    batch: Ints = 1,
    ctas_per_sm: Ints = 1,
    schedule: Schedule | None = None,
) -> GemmQuantization:
    """Count the tiles, waves and waste of `batch` products C[m, n] = A[m, k] B[k, n].

    Every size is an int or an integer array; they broadcast. `schedule` defaults to "split-K" where split_k
    exceeds 1, else to "plain": one CTA per tile. "stream-K" needs tile_k, and counts waves in its K steps.
    Raises BadInputError for sizes that are not whole numbers from 1 to 2^31 - 1, for products past 64 bits, and
    for a schedule that contradicts the sizes.
    """
    m, n, k, batch = whole("m", m), whole("n", n), whole("k", k), whole("batch", batch)
    tile_m, tile_n, split_k = whole("tile_m", tile_m), whole("tile_n", tile_n), whole("split_k", split_k)
    sms, ctas_per_sm = operator.index(whole("sms", sms)), whole("ctas_per_sm", ctas_per_sm)
    tile_k = None if tile_k is None else whole("tile_k", tile_k)
    is_split = bool(np.any(np.asarray(split_k) > 1))
    schedule = schedule or ("split-K" if is_split else "plain")
    if schedule == "stream-K" and (tile_k is None or is_split):
        raise BadInputError("stream-K deals out steps of the K loop: give tile_k (a tile of 128x128x64) and no split_k")

    padded_m, padded_n = ceil_div(m, tile_m) * tile_m, ceil_div(n, tile_n) * tile_n
    padded_k: Ints = k if tile_k is None else ceil_div(k, tile_k) * tile_k
    _refuse_overflow(2, padded_m, padded_n, padded_k, batch, split_k)
    flops, slots = gemm_flops(m, n, k, batch), sms * ctas_per_sm
    tiles: Ints = tile_count(m, n, tile_m, tile_n, split_k) * batch
    work = tiles if tile_k is None or schedule != "stream-K" else tiles * ceil_div(k, tile_k)
    one_wave = schedule in {"persistent", "stream-K"}
    return GemmQuantization(
        m=m,
        n=n,
        k=k,
        batch=batch,
        tile_m=tile_m,
        tile_n=tile_n,
        tile_k=tile_k,
        split_k=split_k,
        schedule=schedule,
        sms=sms,
        slots=slots,
        tiles=tiles,
        ctas=_minimum(work, slots) if one_wave else tiles,
        flops=flops,
        wasted_flops=gemm_flops(padded_m, padded_n, padded_k, batch) - flops,
        tile_efficiency=tile_efficiency(m, n, tile_m, tile_n),
        waves=_minimum(work, slots) / slots if schedule == "stream-K" else tiles / slots,
        whole_waves=1 + 0 * tiles if schedule == "stream-K" else ceil_div(tiles, slots),
        wave_efficiency=wave_efficiency(work, slots),
        wave_efficiency_sms=wave_efficiency(work, sms),
        idle_share=idle_share(work, slots),
        last_wave_fill=last_wave_fill(work, slots),
        note=_NOTES[schedule],
    )


def run_starts(tiles: IntArray, whole_waves: IntArray) -> IntArray:
    """Indices at which a staircase over one dimension takes its next step: tiles or whole waves change there."""
    changed = (np.diff(tiles) != 0) | (np.diff(whole_waves) != 0)
    return np.concatenate(([0], 1 + np.flatnonzero(changed)))


def whole(name: str, value: Any, least: int = 1, most: int = MAX_SIZE) -> Ints:
    """Return `value` as an int or an int64 array. Raises BadInputError unless all are whole numbers in range."""
    if isinstance(value, np.ndarray) and value.ndim:
        if value.dtype.kind not in "iu":
            raise BadInputError(f"{name} must be whole numbers, got an array of {value.dtype}: convert it to int64")
        bad = value[(value < least) | (value > most)]
        if bad.size:
            raise BadInputError(f"{name} must be from {least} to {most}, got {bad[0]}")
        return value.astype(np.int64, copy=False)
    try:
        number = operator.index(value)
    except TypeError:
        raise BadInputError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or not least <= number <= most:
        raise BadInputError(f"{name} must be from {least} to {most}, got {value}")
    return number


def _refuse_overflow(*factors: Ints) -> None:
    product = np.prod(np.broadcast_arrays(*(np.asarray(f, dtype=np.float64) for f in factors)), axis=0)
    if np.max(product, initial=0) >= 2**63:
        raise BadInputError(
            f"2 m n k batch reaches {np.max(product):.3g}, past 64-bit whole numbers: use smaller sizes"
        )


def _minimum(a: Ints, b: Ints) -> Ints:
    return np.minimum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else min(a, b)
