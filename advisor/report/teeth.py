"""The teeth of throughput against a size, and the cause of each, read from the prediction's own tiles and waves.

The model takes, at each size, the tile and split of K that cost least. So throughput can only fall from one size to
the next where what was cheapest before becomes dearer: the old tiles at the new size (`Tooth.kept`) tell why. If
another cut is cheaper then, the model changes to it; that softens the tooth and is never its cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from advisor.choice import TIE, cliffs
from advisor.gemm import operand_rate, runs_on_tensor_cores
from advisor.quantization import tile_count
from advisor.report.sweeps import Sweep
from advisor.units import percent

# wave: the old tiles need another whole wave. tiles: more tiles, no further wave. alignment: rows start on fewer bytes.
# neighbours: the correction from measured neighbours makes most of it. other: none of these (such as power limits).
Cause = Literal["wave", "tiles", "alignment", "neighbours", "other"]
LEAST_LOSS = TIE  # a smaller drop is no evidence
_TOLD = 0.05  # the correction is mentioned where it changes the loss by this much of the throughput
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

    @property
    def text(self) -> str:
        """Between which sizes, and why."""
        return f"{self.under} to {self.over}: {self.reason}"


def teeth(sweep: Sweep, least_loss: float = LEAST_LOSS) -> tuple[Tooth, ...]:
    """Every drop of predicted throughput by at least `least_loss` between neighbouring sizes of a sweep, by size."""
    steps = cliffs(np.arange(len(sweep.sizes)), sweep.flops_per_s, least_loss)
    return tuple(_tooth(sweep, step.under, step.loss) for step in steps)


def cut_at(sweep: Sweep, i: int) -> Cut:
    """The predicted cut at the sweep's i-th size."""
    return _cut(sweep, i, i)


def _cut(sweep: Sweep, i: int, at: int) -> Cut:
    """The tile and split chosen at the i-th size, laid over the product of the `at`-th."""
    p = sweep.prediction
    tile_m, tile_n, split_k = int(p.tile_m[i]), int(p.tile_n[i]), int(p.split_k[i])
    tiles = tile_count(int(sweep.m[at]), int(sweep.n[at]), tile_m, tile_n, split_k)
    return Cut(tile_m, tile_n, split_k, int(tiles), sweep.gpu.sms)


def _tooth(sweep: Sweep, i: int, loss: float) -> Tooth:
    physical = sweep.physical.flops / sweep.physical.time_s
    physical_loss = float(1 - physical[i + 1] / physical[i])
    before, kept, after = cut_at(sweep, i), _cut(sweep, i, i + 1), cut_at(sweep, i + 1)
    cause = _cause(sweep, i, loss, physical_loss, before, kept)
    under, over = int(sweep.sizes[i]), int(sweep.sizes[i + 1])
    reason = _reason(sweep, i, cause, loss, physical_loss, before, kept, after)
    return Tooth(under, over, loss, physical_loss, before, kept, after, cause, reason)


def _cause(sweep: Sweep, i: int, loss: float, physical_loss: float, before: Cut, kept: Cut) -> Cause:
    if math.log1p(-physical_loss) > 0.5 * math.log1p(-loss):  # logarithms of the rates' ratios: both are negative
        return "neighbours"
    rate = _rate(sweep, slice(i, i + 2))
    if rate[1] < rate[0]:
        return "alignment"
    if kept.whole_waves > before.whole_waves:
        return "wave"
    return "tiles" if kept.tiles > before.tiles else "other"


def _rate(sweep: Sweep, at: slice) -> np.ndarray:
    """Share of the Tensor Core rate that the operands' alignment leaves."""
    n, k = sweep.n[at].astype(np.float64), sweep.k[at].astype(np.float64)
    return operand_rate(n, k, 2.0) if runs_on_tensor_cores(sweep.gpu, sweep.precision) else np.ones(len(n))


def _reason(
    sweep: Sweep, i: int, cause: Cause, loss: float, physical_loss: float, before: Cut, kept: Cut, after: Cut
) -> str:
    counts = f"tiles of {before.name} go from {before.tiles} to {kept.tiles}"
    waves = f"{before.waves:.2f} to {kept.waves:.2f} waves on {before.sms} SMs"
    if cause == "neighbours":
        change = counts if kept.tiles > before.tiles else f"as many tiles of {before.name}, {before.tiles}"
        return (
            f"{change}, {waves}; the physical form alone changes the throughput by {-100 * physical_loss:+.0f} %, so "
            "most of this is the local correction from measured neighbours."
        )
    if cause == "alignment":
        share = _rate(sweep, slice(i, i + 2))
        text = f"rows start on fewer bytes, Tensor Cores at {percent(share[1] / share[0])} of the rate before."
    elif cause == "wave":
        rest = kept.tiles - (kept.whole_waves - 1) * kept.sms
        more = kept.whole_waves - before.whole_waves
        which = f"{_ordinal(kept.whole_waves)} wave" if more == 1 else f"{more} more waves, the last"
        text = f"{counts}, {waves}: {which} for {rest} tile{'s' if rest > 1 else ''}."
    elif cause == "tiles":
        text = f"{counts}, {waves}: no further wave, but more of the tiles' area lies outside the product."
    else:
        text = (
            f"as many tiles of {before.name}, {before.tiles}: not tiles or waves, but memory traffic or power limits."
        )
    if not after.same_tiles(before):
        text += f" Tiles of {after.name} ({after.tiles}, {after.waves:.2f} waves) then cost less, and are taken."
    if abs(loss - physical_loss) >= _TOLD:
        text += f" Without the correction from measured neighbours it would lose {percent(max(physical_loss, 0))}."
    return text


def _ordinal(number: int) -> str:
    """The ordinal with its article: "a second", "an 11th"."""
    if number < len(_ORDINALS):
        return _ORDINALS[number]
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{'an' if number in (11, 18) or 80 <= number < 90 else 'a'} {number}{ending}"
