"""Steps of an epoch and of a run, and the learning rate at each of them.

The rate at optimizer step s, counted from 0, is `factor_at(schedule, s)` times the full rate. With w steps of warm-up,
start factor a, T steps in all, and progress p = (s - w) / (T - w):

    s < w          a + (1 - a) s / w
    constant       1
    step           gamma ** (number of milestones <= s)
    cosine         (1 + cos(pi p)) / 2
    linear         1 - p
    polynomial     (1 - p) ** power

Step w is the first with the full rate. The last step is T - 1: p stays below 1 there, so no step after the first has
rate 0, and a framework that asks once more for step T gets what p = 1 gives. With a = 0 step 0 leaves the weights as
they are and fills Adam's moments; schedulers that count s / w from 0 do the same.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import cast

import numpy as np

from advisor.errors import BadInputError, UnknownNameError
from advisor.planning import sources
from advisor.planning.learning_rate import ADAM_BETA2, MAX_GLOBAL_BATCH, check_optimizer
from advisor.planning.records import (
    SHAPES,
    PlanOptimizer,
    ScaledRate,
    Schedule,
    ScheduleRow,
    Shape,
    Steps,
    WarmUp,
)
from advisor.step import check_count, is_number
from advisor.units import counted

MAX_DATASET = 10**15  # samples
MAX_EPOCHS = 1e6
MILESTONES = (Fraction(1, 3), Fraction(2, 3), Fraction(8, 9))  # Goyal 2017: epochs 30, 60 and 80 of 90
GAMMA = 0.1
POWER = 2.0  # You 2017
GOYAL_EPOCHS = 5  # of warm-up; You 2017 has as many
# A default warm-up takes at most this share of the run: the largest of You 2019, at 32,768 sequences per step.
LARGEST_WARM_UP = Fraction(1, 5)
_SHAPE: dict[PlanOptimizer, tuple[Shape, str]] = {
    "sgd": ("step", f"divided by 10 at 1/3, 2/3 and 8/9 of the run: {sources.GOYAL_2017}"),
    "adam": ("cosine", f"one cycle, to 0: {sources.LOSHCHILOV_2016}"),
    "adamw": ("cosine", f"one cycle, to 0: {sources.LOSHCHILOV_2017}"),
    "lars": ("polynomial", f"of power 2: {sources.YOU_2017}"),
    "lamb": ("linear", f"polynomial of power 1: {sources.YOU_2019}"),
}
_SOURCE: dict[Shape, str] = {
    "step": _SHAPE["sgd"][1],
    "cosine": _SHAPE["adam"][1],
    "linear": _SHAPE["lamb"][1],
    "polynomial": _SHAPE["lars"][1],
    "constant": "as asked",
}


def count_steps(dataset_size: int, global_batch: int, *, epochs: float | None = None, drop_last: bool = True) -> Steps:
    """Optimizer steps of one epoch and, where `epochs` is given (a part of one counts), of the run, rounded up.

    With `drop_last` the samples that fill no whole step are left out of the epoch, so every step has `global_batch`
    samples; otherwise they make one more, smaller step. Raises BadInputError for sizes that are no whole numbers, a
    dataset smaller than the global batch, and epochs that are no positive number.
    """
    dataset_size = check_count("dataset size", dataset_size, limit=MAX_DATASET)
    global_batch = check_count("global batch", global_batch, limit=MAX_GLOBAL_BATCH)
    if dataset_size < global_batch:
        raise BadInputError(
            f"the dataset's {counted(dataset_size, 'sample')} are fewer than the global batch {global_batch}: give a "
            f"global batch of {dataset_size} or less"
        )
    whole, left_over = divmod(dataset_size, global_batch)
    per_epoch = whole if drop_last or not left_over else whole + 1
    total = None
    if epochs is not None:
        epochs = check_epochs(epochs)
        total = math.ceil(_exactly(epochs) * per_epoch)
    return Steps(
        dataset_size=dataset_size, global_batch=global_batch, whole=whole, left_over=left_over, drop_last=drop_last,
        per_epoch=per_epoch, epochs=epochs, total=total,
    )  # fmt: skip


def make_schedule(
    optimizer: str,
    steps: Steps,
    *,
    scaled: ScaledRate | None = None,
    shape: str | None = None,
    warmup_epochs: float | None = None,
    warmup_steps: int | None = None,
) -> Schedule:
    """The learning rate over a run; shape and warm-up are the optimizer's usual ones where none are given.

    `scaled` is the rate the factors are of, and how far it was scaled up: SGD then warms up from the rate it was
    scaled from. Raises UnknownNameError for an unknown optimizer or shape, BadInputError for a run without a length,
    both warm-ups given, and a warm-up that is negative, no number, or does not end before the run or the first drop.
    """
    optimizer = check_optimizer(optimizer)
    if steps.total is None:
        raise BadInputError("a schedule needs the length of the run: give epochs")
    usual, source = _SHAPE[optimizer]
    chosen = usual if shape is None else _check_shape(shape)
    if chosen != usual:
        source = _SOURCE[chosen]
    milestones = _milestones(steps.total) if chosen == "step" else ()
    warm_up = _given_warm_up(steps, scaled, warmup_epochs, warmup_steps)
    if warm_up is None:
        warm_up = _usual_warm_up(optimizer, steps, steps.total, scaled)
    elif milestones and warm_up.steps > milestones[0]:
        raise BadInputError(
            f"a warm-up of {counted(warm_up.steps, 'step')} reaches past step {milestones[0]}, where the rate is first "
            "divided: give a shorter warm-up or another schedule"
        )
    schedule = Schedule(
        shape=chosen, total_steps=steps.total, warm_up=warm_up, milestones=milestones,
        gamma=GAMMA if chosen == "step" else 1.0, power=POWER if chosen == "polynomial" else 1.0, source=source,
        rows=(),
    )  # fmt: skip
    return _with_rows(schedule, steps.per_epoch, None if scaled is None else scaled.rate)


def factor_at(schedule: Schedule, step: int) -> float:
    """The rate at optimizer step `step`, counted from 0, over the full rate; the formulae head this module."""
    warm_up = schedule.warm_up
    if step < warm_up.steps:
        return warm_up.start_factor + (1 - warm_up.start_factor) * step / warm_up.steps
    progress = min(1.0, (step - warm_up.steps) / (schedule.total_steps - warm_up.steps))
    match schedule.shape:
        case "step":
            return math.pow(schedule.gamma, sum(milestone <= step for milestone in schedule.milestones))
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return 1 - progress
        case "polynomial":
            return math.pow(1 - progress, schedule.power)
        case "constant":
            return 1.0


def _milestones(total: int) -> tuple[int, ...]:
    """Steps at which the rate is divided, those of a short run that fall past its end left out."""
    at = (math.ceil(share * total) for share in MILESTONES)
    return tuple(sorted({step for step in at if step < total}))


def _given_warm_up(
    steps: Steps, scaled: ScaledRate | None, epochs: float | None, given_steps: int | None
) -> WarmUp | None:
    """The user's own warm-up; None where none was given."""
    if epochs is None and given_steps is None:
        return None
    if epochs is not None and given_steps is not None:
        raise BadInputError(f"warm-up of {epochs!r} epochs and of {given_steps!r} steps: give one of the two")
    total = cast(int, steps.total)
    if epochs is not None:
        exact = _exactly(_check_number("warm-up epochs", epochs, least=0, most=MAX_EPOCHS))
        count, what = round(exact * steps.per_epoch), f"{epochs:g} epochs"
    else:
        count = _check_steps(cast(int, given_steps))
        what = counted(count, "step")
    if count >= total:
        raise BadInputError(f"a warm-up of {what} does not end before the run of {counted(total, 'step')}: shorten it")
    return WarmUp(count, start_factor=_scaled_start(scaled) if count else 1.0, source="as asked")


def _usual_warm_up(optimizer: PlanOptimizer, steps: Steps, total: int, scaled: ScaledRate | None) -> WarmUp:
    """What the optimizer's source warms up by, at most `LARGEST_WARM_UP` of the run."""
    start = 0.0
    match optimizer:
        case "sgd":
            start = _scaled_start(scaled)
            if not start:
                return WarmUp(0, start_factor=1.0, source=f"none: the rate was not scaled up ({sources.GOYAL_2017})")
            count, source = GOYAL_EPOCHS * steps.per_epoch, f"5 epochs from the base rate: {sources.GOYAL_2017}"
        case "lars":
            count, source = GOYAL_EPOCHS * steps.per_epoch, f"5 epochs from 0: {sources.YOU_2017}"
        case "adam" | "adamw":
            count = round(2 / (1 - ADAM_BETA2))
            source = f"2 / (1 - beta2) steps from 0, with beta2 {ADAM_BETA2}: {sources.MA_YARATS_2019}"
        case "lamb":
            share = Fraction(steps.global_batch, 320 * 512)
            count = round(share * total)
            source = f"from 0, 1/320 of the run at 512 samples per step, doubling with the batch: {sources.YOU_2019}"
    longest = math.floor(LARGEST_WARM_UP * total)
    if count > longest:
        count, source = longest, f"{source}; capped at {LARGEST_WARM_UP} of the run"
    return WarmUp(count, start_factor=start if count else 1.0, source=source)


def _scaled_start(scaled: ScaledRate | None) -> float:
    """The base rate over the full one where the rate was scaled up; otherwise 0."""
    return 1 / scaled.factor if scaled is not None and scaled.factor > 1 else 0.0


def _with_rows(schedule: Schedule, per_epoch: int, rate: float | None) -> Schedule:
    """The schedule with the table a user reads."""
    last, warm = schedule.total_steps - 1, schedule.warm_up.steps
    what = {0: "warm-up begins" if warm else "full rate"}
    what.setdefault(warm, "full rate")
    for step in schedule.milestones:
        what.setdefault(step, f"divided by {1 / GAMMA:g}")
    if schedule.shape not in ("step", "constant"):
        for tenth in range(1, 10):
            step = schedule.total_steps * tenth // 10
            if step > warm:
                what.setdefault(step, "halfway" if tenth == 5 else f"{10 * tenth} % of the run")
    what.setdefault(last, "last step")
    rows = []
    for step in sorted(what):
        factor = factor_at(schedule, step)
        now = None if rate is None else rate * factor
        rows.append(ScheduleRow(step=step, epoch=step / per_epoch, factor=factor, rate=now, what=what[step]))
    return replace(schedule, rows=tuple(rows))


def _check_shape(shape: str) -> Shape:
    if shape not in SHAPES:
        raise UnknownNameError("schedule", str(shape), SHAPES, f"A plan knows {', '.join(SHAPES)}.")
    return cast(Shape, shape)


def check_epochs(value: float) -> float:
    """Return a number of epochs if it is one above 0; otherwise raise BadInputError."""
    epochs = _check_number("epochs", value, least=0, most=MAX_EPOCHS)
    if not epochs:
        raise BadInputError("epochs 0 train nothing: give a number above 0, such as 90")
    return epochs


def _check_number(what: str, value: float, *, least: float, most: float) -> float:
    if not is_number(value) or not least <= value <= most:  # also where it is NaN
        raise BadInputError(f"{what} {value!r} is no number from {least:g} to {most:g}")
    return float(value)


def _check_steps(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise BadInputError(f"warm-up steps {value!r} is no whole number from 0 on")
    return int(value)


def _exactly(value: float) -> Fraction:
    """The decimal as it was written: 0.1 of 30 steps are 3, though the float lies above 1/10."""
    return Fraction(repr(value))
