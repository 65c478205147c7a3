"""The teeth of throughput against a size, and the cause of each, read from the prediction's own tiles and waves.

The model takes, at each size, the tile and split of K that cost least. So throughput can only fall from one size to
the next where what was cheapest before becomes dearer: the old tiles at the new size (`Tooth.kept`) tell why. If
another cut is cheaper then, the model changes to it; that softens the tooth and is never its cause.

That a further wave starts is the cause only where that costs most. On GPUs whose fitted wave hardness is near 0 the
idle SMs of a last wave cost little, and further tiles cost alike whether they start a wave or not; and where L2 feeds
the tiles too slowly, their number counts (see `gemm.physics`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from advisor.choice import TIE, cliffs
from advisor.gemm import machine_of, operand_rate, runs_on_tensor_cores
from advisor.gemm.physics import kernel_time, rounds_of
from advisor.quantization import tile_count
from advisor.report.sweeps import Sweep
from advisor.units import percent

# wave: the old tiles start a further wave, and that costs most, or measured neighbours tell of more than the tiles' own
# work. tiles: more tiles cost most, wave or not. alignment: rows start on fewer bytes. neighbours: the physical form
# alone has no cliff, the correction from measured neighbours makes it. other: none of these (such as power limits).
Cause = Literal["wave", "tiles", "alignment", "neighbours", "other"]
LEAST_LOSS = TIE  # a smaller drop is no evidence
_TOLD = 0.05  # the correction is told of where it changes the loss by this much of the throughput
_ORDINALS = (
    "",
    "a first",
    "a second",
    "a third",
    "a fourth",
    "a fifth",
    "a sixth",
    "a seventh",
    "an eighth",
    "a ninth",
    "a tenth",
)


@dataclass(frozen=True)
class Cut:
    """A product cut into tiles, `split_k` slices of each, and the waves that they make on the GPU's SMs."""

    tile_m: int
    tile_n: int
    split_k: int
    tiles: int
    sms: int

    @property
    def waves(self) -> float:
        """Tiles over SMs."""
        return self.tiles / self.sms

    @property
    def whole_waves(self) -> int:
        """Waves, the last one counted whole."""
        return -(-self.tiles // self.sms)

    @property
    def name(self) -> str:
        """ "128x256", or "128x256 with K in 2 slices"."""
        return f"{self.tile_m}x{self.tile_n}" + (f" with K in {self.split_k} slices" if self.split_k > 1 else "")

    def same_tiles(self, other: Cut) -> bool:
        """Whether both have the same tile and split."""
        return (self.tile_m, self.tile_n, self.split_k) == (other.tile_m, other.tile_n, other.split_k)


@dataclass(frozen=True)
class Tooth:
    """From size `under` to the sweep's next one, `over`, predicted throughput falls by the share `loss`."""

    under: int
    over: int
    loss: float
    physical_loss: float  # without the correction from measured neighbours
    before: Cut  # at `under`
    kept: Cut  # the same tiles at `over`
    after: Cut  # those chosen at `over`
    cause: Cause
    reason: str  # the cause in words and numbers
    remarks: str  # which tiles are taken then, and what the correction has to do with it; "" where neither matters

    @property
    def text(self) -> str:
        """Between which sizes, why, and what else is to be known."""
        return f"{self.under} to {self.over}: {self.reason}{self.remarks and ' '}{self.remarks}"


def teeth(sweep: Sweep, least_loss: float = LEAST_LOSS) -> tuple[Tooth, ...]:
    """Every drop of predicted throughput by at least `least_loss` between neighbouring sizes of a sweep, by size."""
    steps = cliffs(np.arange(len(sweep.sizes)), sweep.flops_per_s, least_loss)
    return tuple(_tooth(sweep, step.under, step.loss) for step in steps)


def cut_at(sweep: Sweep, i: int, over: int | None = None) -> Cut:
    """The tile and split predicted at the sweep's i-th size; laid over the product of another where `over` is given."""
    p, at = sweep.prediction, i if over is None else over
    tile_m, tile_n, split_k = int(p.tile_m[i]), int(p.tile_n[i]), int(p.split_k[i])
    tiles = tile_count(int(sweep.m[at]), int(sweep.n[at]), tile_m, tile_n, split_k)
    return Cut(tile_m, tile_n, split_k, int(tiles), sweep.gpu.sms)


def _tooth(sweep: Sweep, i: int, loss: float) -> Tooth:
    physical = sweep.physical.flops / sweep.physical.time_s
    physical_loss = float(1 - physical[i + 1] / physical[i])
    before, kept, after = cut_at(sweep, i), cut_at(sweep, i, i + 1), cut_at(sweep, i + 1)
    cause = _cause(sweep, i, loss, physical_loss, before, kept)
    under, over = int(sweep.sizes[i]), int(sweep.sizes[i + 1])
    reason = _reason(sweep, i, cause, physical_loss, before, kept)
    remarks = "" if cause == "neighbours" else _remarks(loss, physical_loss, before, after)
    return Tooth(under, over, loss, physical_loss, before, kept, after, cause, reason, remarks)


def _cause(sweep: Sweep, i: int, loss: float, physical_loss: float, before: Cut, kept: Cut) -> Cause:
    # logarithms of the rates' ratios, which are products of their parts: both are negative
    corrected = math.log1p(-physical_loss) > 0.5 * math.log1p(-loss)
    if corrected and physical_loss < LEAST_LOSS:
        return "neighbours"
    rate = _rate(sweep, slice(i, i + 2))
    if rate[1] < rate[0]:
        return "alignment"
    if kept.whole_waves > before.whole_waves and (corrected or _of_the_wave(sweep, i, before, kept) > 0.5):
        return "wave"
    return "tiles" if kept.tiles > before.tiles else "other"


def _of_the_wave(sweep: Sweep, i: int, before: Cut, kept: Cut) -> float:
    """The share of a loss, in logarithms, that the same tiles without a start of a further wave would not have.

    The SMs' rounds would then go on as within a wave, tiles / SMs + hardness x (the old whole waves - tiles / SMs).
    """
    model = sweep.profile.gemm["fp16" if runs_on_tensor_cores(sweep.gpu, sweep.precision) else "fp32"]
    machine, _ = machine_of(model.coefficients, sweep.gpu, sweep.precision)
    tile_rate = next(each.rate for each in model.coefficients.tiles if (each.m, each.n) == (kept.tile_m, kept.tile_n))
    m, n, k = (getattr(sweep, axis)[i : i + 2].astype(np.float64) for axis in "mnk")
    first, last = (rounds_of(cut.tiles, cut.sms, machine.wave_hardness) for cut in (before, kept))
    within = max(1.0, kept.waves + machine.wave_hardness * (before.whole_waves - kept.waves))
    at = np.array([0, 1, 1])
    tile_m, tile_n, split_k = float(kept.tile_m), float(kept.tile_n), float(kept.split_k)
    seconds = machine.launch_s + kernel_time(
        m[at], n[at], k[at], 1.0, _rate(sweep, slice(i, i + 2))[at], tile_m, tile_n, tile_rate, split_k,
        np.ceil(m[at] / tile_m), np.ceil(n[at] / tile_n), np.array([first, last, within]), machine,
    )[0]  # fmt: skip
    dearer = math.log(seconds[1] / seconds[0]) - math.log((m * n * k)[1] / (m * n * k)[0])
    return math.log(seconds[1] / seconds[2]) / dearer if dearer > 0 else 1.0


def _rate(sweep: Sweep, at: slice) -> np.ndarray:
    """Share of the Tensor Core rate that the operands' alignment leaves."""
    n, k = sweep.n[at].astype(np.float64), sweep.k[at].astype(np.float64)
    return operand_rate(n, k, 2.0) if runs_on_tensor_cores(sweep.gpu, sweep.precision) else np.ones(len(n))


def _reason(sweep: Sweep, i: int, cause: Cause, physical_loss: float, before: Cut, kept: Cut) -> str:
    if cause == "alignment":
        share = _rate(sweep, slice(i, i + 2))
        return f"rows start on fewer bytes: Tensor Cores at {percent(share[1] / share[0])} of the rate before."
    counts = f"{before.tiles} tiles of {before.name}" + (
        f" become {kept.tiles}, {before.waves:.2f} to {kept.waves:.2f} waves on {before.sms} SMs"
        if kept.tiles > before.tiles
        else f", {before.waves:.2f} waves on {before.sms} SMs, before and after"
    )
    if cause == "neighbours":
        alone = f"{-100 * physical_loss:+.0f}" if abs(physical_loss) >= 0.005 else "0"
        return f"timings of neighbouring sizes; tiles and waves alone would change it by {alone} %: {counts}."
    if cause == "other":
        return f"neither tiles nor waves, but memory traffic or power limits: {counts}."
    further = kept.whole_waves - before.whole_waves
    if cause == "wave":
        rest = kept.tiles - (kept.whole_waves - 1) * kept.sms
        which = f"{_ordinal(kept.whole_waves)} wave" if further == 1 else f"{further} more waves, the last"
        return f"{which} for {rest} tile{'s' if rest > 1 else ''}: {counts}."
    if further:
        return f"more tiles to compute and to feed: {counts}; that a wave starts costs less here."
    return f"more tiles in the same wave{'s' if kept.whole_waves > 1 else ''}: {counts}."


def _remarks(loss: float, physical_loss: float, before: Cut, after: Cut) -> str:
    found = []
    if not after.same_tiles(before):
        found.append(f"Tiles of {after.name} ({after.tiles}, {after.waves:.2f} waves) then cost less, and are taken.")
    if abs(loss - physical_loss) >= _TOLD:
        found.append(f"Without timings of neighbouring sizes it would lose {percent(max(physical_loss, 0))}.")
    return " ".join(found)


def _ordinal(number: int) -> str:
    """The ordinal with its article: "a second", "an 11th"."""
    if number < len(_ORDINALS):
        return _ORDINALS[number]
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{'an' if number in (11, 18) or 80 <= number < 90 else 'a'} {number}{ending}"
