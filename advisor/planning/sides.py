"""Everything that follows from one global batch: its cut, rate, steps, schedule, time, energy and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advisor import choice
from advisor.cut import Cut, NearestCuts
from advisor.errors import DoesNotFitError
from advisor.planning.curves import Curves
from advisor.planning.learning_rate import scale_rate
from advisor.planning.power import PowerSource
from advisor.planning.records import RankedCut, Side
from advisor.planning.request import Request
from advisor.planning.run import make_run
from advisor.planning.schedule import count_steps, make_schedule


@dataclass(frozen=True)
class Sides:
    """Makes sides from what is predicted and what is asked."""

    curves: Curves
    request: Request
    power: PowerSource | None = None  # None: unknown

    def side(self, global_batch: int, gpus: int) -> tuple[Side, NearestCuts]:
        """What follows from a global batch on so many GPUs, and where it could not be kept.

        Raises BadInputError and DoesNotFitError as `nearest_cuts`, `scale_rate`, `count_steps` and `make_schedule` do.
        """
        request = self.request
        near = self.curves.cuts(global_batch, gpus)
        cut = near.cuts[0]
        moved = cut.global_batch != request.known_at
        known = request.lr is not None or request.base_batch is not None
        rate = (
            scale_rate(request.optimizer, batch=cut.global_batch, base_batch=request.known_at, lr=request.lr)
            if known or moved
            else None
        )
        steps = (
            None
            if request.dataset_size is None
            else count_steps(
                request.dataset_size, cut.global_batch, epochs=request.epochs, drop_last=request.drop_last
            )
        )  # fmt: skip
        schedule = (
            None
            if steps is None or steps.total is None
            else make_schedule(
                request.optimizer, steps, scaled=rate, shape=request.shape, warmup_epochs=request.warmup_epochs,
                warmup_steps=request.warmup_steps,
            )
        )  # fmt: skip
        run = make_run(
            cut, steps, exchange_s=request.exchange_s, error=self.curves.setup.error,
            power=self.power.at(cut.batch) if self.power else request.power, price_per_hour=request.price,
        )  # fmt: skip
        side = Side(
            asked_global_batch=global_batch, global_batch=cut.global_batch, cuts=self.ranked(near.cuts),
            rate=rate, steps=steps, schedule=schedule, run=run, memory_bytes=self.curves.memory_of(cut),
        )  # fmt: skip
        return side, near

    def ranked(self, cuts: tuple[Cut, ...]) -> tuple[RankedCut, ...]:
        """Cuts as `Curves.ranked` has them, the exchange as asked in every step."""
        return self.curves.ranked(cuts, exchange_s=self.request.exchange_s)

    def planned_cuts(self, global_batches: Sequence[int], gpus: int) -> tuple[RankedCut, ...]:
        """The cut that would be planned of each global batch."""
        return tuple(self.ranked(self.curves.cuts(batch, gpus).cuts)[0] for batch in global_batches)

    def gpus_for(self, global_batch: int) -> int:
        """How many of the GPUs the objective plans for a global batch: all, but for objective "cost"."""
        gpus = self.request.gpus
        return self._cheapest_gpus(global_batch, gpus) if self.request.objective == "cost" else gpus

    def _cheapest_gpus(self, global_batch: int, gpus: int) -> int:
        """The number of GPUs with the least cost per sample; of those that tie (choice.TIE) the most.

        Looked at are those that keep the global batch exactly, and all of them.
        """
        costs = {}
        for count in (n for n in range(1, min(gpus, global_batch) + 1) if n == gpus or global_batch % n == 0):
            try:
                cut = self.curves.cuts(global_batch, count).cuts[0]
            except DoesNotFitError:
                continue
            if count == gpus or cut.global_batch == global_batch:
                step_s = cut.time_s + (self.request.exchange_s if count > 1 else 0.0)
                costs[count] = count * step_s / cut.global_batch
        least = min(costs.values(), default=0.0)
        return max((count for count, cost in costs.items() if cost <= (1 + choice.TIE) * least), default=gpus)
