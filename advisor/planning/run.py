"""Time, energy and cost of a run from the time of one optimizer step."""

from __future__ import annotations

from advisor.comparison_inputs import Power
from advisor.cut import Cut
from advisor.planning.records import Run, Steps
from advisor.steptime import StepError
from advisor.units import HOUR_S


def make_run(
    cut: Cut,
    steps: Steps | None,
    *,
    exchange_s: float,
    error: StepError,
    power: Power | None,
    price_per_hour: float | None,
) -> Run:
    """What a run with this cut takes on all its GPUs.

    A last, smaller step of an epoch counts as a whole one. Energy is that of the GPUs alone, power x time.
    """
    exchange_s = exchange_s if cut.gpus > 1 else 0.0
    step_s = cut.time_s + exchange_s
    run_s = None if steps is None or steps.total is None else steps.total * step_s
    return Run(
        step_s=step_s,
        exchange_s=exchange_s,
        samples_per_s=cut.global_batch / step_s,
        epoch_s=None if steps is None else steps.per_epoch * step_s,
        run_s=run_s,
        error=error,
        power=power,
        energy_j=None if run_s is None or power is None else power.watts * cut.gpus * run_s,
        price_per_hour=price_per_hour,
        cost=None if run_s is None or price_per_hour is None else price_per_hour / HOUR_S * cut.gpus * run_s,
    )
