"""Before and after a change of the global batch: every setting and figure that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from advisor.planning.critical_batch import samples_to_target
from advisor.planning.records import ChangeRow, CriticalBatch, Side
from advisor.planning.request import Request
from advisor.units import HOUR_S, counted, duration, energy, gib, long_time, long_times, rate, span

# What is printed of a side; None: it has no such figure.
_Shown = Callable[[Side], str | None]


def change_rows(
    before: Side, after: Side, *, request: Request, critical: CriticalBatch | None
) -> tuple[ChangeRow, ...]:
    """The table before and after; a figure that neither side has makes no row."""
    rows = [*_optimizer_rows(before, after)]
    for what, shown in (*_steps(), *_to_target(request, critical), *_time_and_memory(request)):
        was, becomes = shown(before), shown(after)
        if was is not None or becomes is not None:
            rows.append(ChangeRow(what, was or "??", becomes or "??"))
    return tuple(rows)


def _optimizer_rows(before: Side, after: Side) -> Iterator[ChangeRow]:
    yield ChangeRow("global batch", f"{before.global_batch:,}", f"{after.global_batch:,}")
    yield ChangeRow("cut", before.cut.factors, after.cut.factors)
    yield ChangeRow("learning rate", _rate(before), _rate(after))
    companions = [{c.name: c for c in side.rate.companions} if side.rate else {} for side in (before, after)]
    for name in dict.fromkeys(name for known in companions for name in known):
        default = next(known[name].before for known in companions if name in known)
        shown = []
        for known in companions:
            value = known[name].after if name in known else default
            shown.append("no value of the rule" if value is None else companion_text(value))
        yield ChangeRow(name, *shown)


def companion_text(value: float) -> str:
    """Print a beta or an epsilon: "0.984", "2.26e-07"; "1 - 1.95e-06" where it would look like 1."""
    if value < 0.1:
        return f"{value:.3g}"
    return f"1 - {1 - value:.3g}" if 0.99995 <= value < 1 else f"{value:.5g}"


def _rate(side: Side) -> str:
    if side.rate is None:
        return "as it is"
    if side.rate.rate is None:
        return "as it is" if side.rate.factor == 1 else f"x {side.rate.factor:.4g}"
    return f"{side.rate.rate:.4g}"


def _steps() -> Iterator[tuple[str, _Shown]]:
    yield "warm-up", lambda side: None if side.schedule is None else counted(side.schedule.warm_up.steps, "step")
    yield "rate divided at", _divided
    yield "steps per epoch", lambda side: None if side.steps is None else f"{side.steps.per_epoch:,}"
    yield "left over in an epoch", lambda side: None if side.steps is None else f"{side.steps.left_over:,} samples"
    yield "steps of the run", lambda side: None if not side.steps or not side.steps.total else f"{side.steps.total:,}"


def _divided(side: Side) -> str | None:
    if side.schedule is None or side.schedule.shape != "step":
        return None
    return (
        f"steps {', '.join(f'{step:,}' for step in side.schedule.milestones)}" if side.schedule.milestones else "none"
    )


def _to_target(request: Request, critical: CriticalBatch | None) -> Iterator[tuple[str, _Shown]]:
    """Epochs, time and cost to the target that the run reaches today: estimated for the range of critical batches."""
    if critical is None:
        return
    epochs, size = request.epochs, request.dataset_size

    def factors(side: Side) -> tuple[float, float]:
        batches = np.array([request.known_at, side.global_batch])
        ends = (samples_to_target(batches, critical=end, least_samples=1.0) for end in (critical.low, critical.high))
        low, high = (float(at_side / at_known) for at_known, at_side in ends)
        return low, high

    if epochs is None or size is None:
        yield "samples to the same target (estimate)", lambda side: range_text(factors(side), lambda f: f"x {f:.3g}")
        return
    yield "epochs to the same target (estimate)", lambda side: range_text(factors(side), lambda f: f"{epochs * f:.3g}")

    def times_s(side: Side) -> tuple[float, float]:
        low, high = sorted(factor * epochs * size / side.run.samples_per_s for factor in factors(side))
        return low, high

    yield "time to the same target (estimate)", lambda side: long_times(*times_s(side))
    price = request.price
    if price is not None:
        yield (
            "cost to the same target (estimate)",
            lambda side: range_text(times_s(side), lambda time_s: rate(price / HOUR_S * side.cut.gpus * time_s)),
        )


def _time_and_memory(request: Request) -> Iterator[tuple[str, _Shown]]:
    epochs = epochs_text(request.epochs) if request.epochs else "the run"
    yield "time per step", lambda side: duration(side.run.step_s)
    yield "samples/s", lambda side: rate(side.run.samples_per_s)
    yield "time per epoch", lambda side: None if side.run.epoch_s is None else long_time(side.run.epoch_s)
    yield f"time for {epochs}", lambda side: None if side.run.run_s is None else long_time(side.run.run_s)
    yield "memory per GPU", lambda side: gib(side.memory_bytes)
    yield "BatchNorm sees", lambda side: None if (n := side.cuts[0].batch_norm_samples) is None else f"{n:,}"
    yield f"energy of {epochs}", energy_text
    yield f"cost of {epochs}", lambda side: None if side.run.cost is None else rate(side.run.cost)


def epochs_text(epochs: float) -> str:
    """As printed: "1 epoch", "90 epochs", "0.5 epochs"."""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def energy_text(side: Side) -> str | None:
    """As printed: "5.58 kWh", or "at most 5.58 kWh" where only a limit of the power is known; None: unknown."""
    run = side.run
    if run.energy_j is None or run.power is None:
        return None
    return f"{'at most ' if run.power.kind == 'at most' else ''}{energy(run.energy_j)}"


def range_text(values: tuple[float, float], shown: Callable[[float], str]) -> str:
    """As printed: both ends, the smaller first; one where they print alike."""
    return span(shown(min(values)), shown(max(values)))
