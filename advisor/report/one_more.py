"""What one sample more costs, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from advisor.choice import CLIFF, TIE
from advisor.recommendation import Recommendation
from advisor.report.layer_looks import operation, tile_text
from advisor.steptime import LayerCost
from advisor.units import duration, percent


@dataclass(frozen=True)
class Pair:
    """One entry of the step at B and at B + 1 samples."""

    before: LayerCost
    after: LayerCost
    batch: int

    @property
    def change_s(self) -> float:
        """Time added to the step."""
        return self.after.time_s - self.before.time_s

    @property
    def excess_s(self) -> float:
        """Time added beyond what a sample costs on the average at B: what tiles and waves do."""
        return self.after.time_s - self.before.time_s * (self.batch + 1) / self.batch

    @property
    def cause(self) -> str:
        """What of tiles and waves differs; "" where nothing does, or there are none. A tile may be turned round."""
        if not self.before.tile_m:
            return ""
        before, after = whole_waves(self.before), whole_waves(self.after)
        tile_before, tile_after = tile_text(self.before), tile_text(self.after)
        if tile_before == tile_after:
            return f"{before} to {after} waves of {tile_before}" if before != after else ""
        if _shape(self.before) == _shape(self.after):
            return f"{before} to {after} waves, tile turned" if before != after else ""
        return f"{before} of {tile_before} to {after} of {tile_after}"


@dataclass(frozen=True)
class OneMore:
    """A step of `batch` samples and one of a sample more."""

    batch: int
    before_s: float
    after_s: float
    pairs: tuple[Pair, ...]  # in the order of the step
    fits: bool | None  # whether the larger one does; None: not searched

    @property
    def gain(self) -> float:
        """What the sample more does to the samples/s, as a share."""
        return (self.batch + 1) / self.after_s / (self.batch / self.before_s) - 1

    def by_excess(self) -> list[Pair]:
        """Entries that gain or lose most by tiles and waves first."""
        return sorted(self.pairs, key=lambda pair: -abs(pair.excess_s))

    def chosen(self, changing: int, heavy: int) -> list[Pair]:
        """Of the entries those that change most by tiles and waves, and the heaviest of the rest; heaviest first."""
        ranked = self.by_excess()
        rest = sorted(ranked[changing:], key=lambda pair: -pair.before.time_s)[:heavy]
        return sorted((*ranked[:changing], *rest), key=lambda pair: -pair.before.time_s)


def one_more(found: Recommendation, batch: int) -> OneMore:
    """Predict every entry of the step at `batch` and at `batch` + 1."""
    model = found.setup.model
    times = model.curve(np.array([batch, batch + 1])).time_s
    both = zip(model.layer_costs(batch), model.layer_costs(batch + 1), strict=True)
    fits = found.answer.curve.fits
    return OneMore(
        batch=batch,
        before_s=float(times[0]),
        after_s=float(times[1]),
        pairs=tuple(Pair(before, after, batch) for before, after in both),
        fits=fits[batch] if batch < len(fits) else None,
    )


def verdict(step: OneMore) -> str:
    """What the sample more does to the whole step, whether that matters, and which entry has the largest part in it."""
    digits = max(0, 3 - math.floor(math.log10(1e3 * step.before_s)))
    grown = f"from {1e3 * step.before_s:.{digits}f} to {1e3 * step.after_s:.{digits}f} ms"
    text = (
        f"from batch {step.batch} to {step.batch + 1} a step grows {grown}, and the throughput changes by {_gain(step)}"
    )
    if abs(step.gain) < CLIFF:
        return f"{text}: one sample more hardly matters here."
    differ = f"than two runs of one size may differ ({percent(TIE)})"
    text += f": less {differ}." if abs(step.gain) < TIE else f": more {differ}."
    largest = step.by_excess()[0]
    why = f": {largest.cause}" if largest.cause else ""
    return (
        f"{text} The largest part of it is {operation(largest.before, 60)}, {signed(largest.change_s)} "
        f"({percent(largest.change_s / step.before_s, 1)} of the step){why}."
    )


def _gain(step: OneMore) -> str:
    text = f"{100 * step.gain:+.1f} %"
    return text[1:] if text[1:] == "0.0 %" else text


def signed(time_s: float) -> str:
    """A change of a time: "+0.29 ms" as "+290 us"; "0" where there is none, to a hundredth of a microsecond."""
    size = f"{1e6 * abs(time_s):.2f} us" if abs(time_s) < 1e-6 else duration(abs(time_s))
    return "0" if size == "0.00 us" else f"{'+' if time_s > 0 else '-'}{size}"


def whole_waves(layer: LayerCost) -> int:
    """Waves that an entry's products start, the last one however empty."""
    return math.ceil(round(layer.waves, 9))


def _shape(layer: LayerCost) -> tuple[int, int, int]:
    """The tile whichever way round, and how often the contraction is split."""
    return max(layer.tile_m, layer.tile_n), min(layer.tile_m, layer.tile_n), layer.split_k
