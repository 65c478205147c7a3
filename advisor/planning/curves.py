"""What a setup predicts for 1..n samples per GPU, and the cuts of a global batch that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from advisor import choice
from advisor.choice import Bools, Floats, Ints
from advisor.cut import Cut, LeastTimes, NearestCuts, global_step_s, least_times, nearest_cuts
from advisor.memory import Bytes
from advisor.planning.records import RankedCut
from advisor.step import Setup


@dataclass(frozen=True)
class Curves:
    """Time and memory at 1..n samples per GPU, for one GPU and for several (which keep buckets of gradients)."""

    setup: Setup
    batches: Ints
    step_time_s: Floats
    update_time_s: float  # of the step: one optimizer update
    _memory: dict[tuple[bool, bool], Bytes] = field(default_factory=dict)

    @property
    def batch_norm(self) -> bool:
        """Whether the model has BatchNorm."""
        return self.setup.workload.batch_norm_layers > 0

    def memory(self, gpus: int, *, accumulate: bool) -> Bytes:
        """Total bytes at each size."""
        key = (gpus > 1, accumulate)
        if key not in self._memory:
            setup = replace(self.setup, gpus=gpus)
            self._memory[key] = setup.memory(self.batches, accumulate=accumulate).total_bytes
        return self._memory[key]

    def fits(self, gpus: int) -> dict[str, Bools]:
        """Which sizes fit, as arguments of `nearest_cuts`: with gradients kept, and as the only micro-step."""
        return {
            "fits": self.setup.fits(self.memory(gpus, accumulate=True)),
            "fits_whole": self.setup.fits(self.memory(gpus, accumulate=False)),
        }

    def cuts(self, global_batch: int, gpus: int) -> NearestCuts:
        """Cuts of a global batch, or of the nearest that the GPUs can share; see `nearest_cuts`."""
        return nearest_cuts(
            global_batch, gpus, step_time_s=self.step_time_s, update_time_s=self.update_time_s,
            batch_norm=self.batch_norm, **self.fits(gpus),
        )  # fmt: skip

    def least_times(self, gpus: int, largest_per_gpu: int) -> LeastTimes:
        """The best cut of every share of a GPU; see `advisor.cut.least_times`."""
        return least_times(
            largest_per_gpu, step_time_s=self.step_time_s, update_time_s=self.update_time_s,
            batch_norm=self.batch_norm, **self.fits(gpus),
        )  # fmt: skip

    def knee(self, gpus: int) -> tuple[int, float]:
        """Smallest size within the tolerance of the fastest that fits, and its samples/s on one GPU."""
        samples_per_s = self.batches / self.step_time_s
        at = choice.knee(samples_per_s, self.fits(gpus)["fits_whole"])
        return int(self.batches[at]), float(samples_per_s[at])

    def line(self) -> tuple[Ints, Floats]:
        """Sizes and times for a line over the batch: those searched, and 2 at least."""
        batches = np.arange(1, max(2, len(self.batches)) + 1)
        return batches, self.step_time_s if len(batches) == len(self.batches) else self.setup.curve(batches).time_s

    def ranked(self, cuts: tuple[Cut, ...], *, exchange_s: float = 0.0) -> tuple[RankedCut, ...]:
        """Cuts in the order given with memory and ties, then the next larger one of them that does not fit.

        `exchange_s` is added to every step on several GPUs.
        """
        extra_s = exchange_s if cuts[0].gpus > 1 else 0.0
        least_s = min(cut.time_s for cut in cuts) + extra_s
        return tuple(
            RankedCut(
                cut=cut,
                step_s=(step_s := cut.time_s + extra_s),
                samples_per_s=cut.global_batch / step_s,
                relative_time=step_s / least_s,
                tie=step_s <= (1 + choice.TIE) * least_s,
                memory_bytes=self.memory_of(cut),
                fits=fits,
                batch_norm_samples=cut.batch if self.batch_norm else None,
            )
            for cut, fits in [*((cut, True) for cut in cuts), *((cut, False) for cut in self._too_large(cuts))]
        )

    def memory_of(self, cut: Cut) -> int:
        """Bytes that one GPU needs for a cut."""
        return int(self.memory(cut.gpus, accumulate=cut.accumulation > 1)[cut.batch - 1])

    def _too_large(self, cuts: tuple[Cut, ...]) -> list[Cut]:
        largest = max(cuts, key=lambda cut: cut.batch)
        share = largest.batch * largest.accumulation
        for batch in range(largest.batch + 1, min(share, len(self.batches)) + 1):
            if share % batch == 0:
                time_s = float(global_step_s(share // batch, self.step_time_s[batch - 1], self.update_time_s))
                return [replace(largest, batch=batch, accumulation=share // batch, time_s=time_s,
                                samples_per_s=largest.global_batch / time_s)]  # fmt: skip
        return []


def curves_of(setup: Setup, max_batch: int) -> Curves:
    """Predict 1 to `max_batch` samples per GPU."""
    batches = np.arange(1, max_batch + 1)
    curve = setup.curve(batches)
    update_s = float(np.median(curve.class_time_s.get("optimizer", np.zeros(1))))
    return Curves(setup, batches, curve.time_s, update_s)
