"""What a plan is asked for: every value checked before anything is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from advisor.comparison_inputs import Power, check_price
from advisor.errors import BadInputError, UnknownNameError
from advisor.planning.learning_rate import MAX_GLOBAL_BATCH, check_optimizer, check_rate
from advisor.planning.records import OBJECTIVES, SHAPES, Objective, PlanOptimizer, Shape
from advisor.planning.schedule import MAX_DATASET, check_epochs
from advisor.recipe import Optimizer
from advisor.recommendation import DEFAULT_MAX_BATCH
from advisor.step import check_count, is_number
from advisor.units import DAY_S

MAX_GPUS = 1 << 16
MOST_PER_GPU = 1 << 16  # samples per GPU and global step up to which time to target is searched
POWERS_W = 1.0, 1e5  # of one GPU
Best = Literal["best"]
(BEST,) = get_args(Best)
# How steps of optimizers are predicted that the step model does not know. Both add a norm of weights and of updates
# per layer to the one that stands for them.
PREDICTED_AS: dict[PlanOptimizer, Optimizer] = {
    "sgd": "sgd", "adam": "adam", "adamw": "adamw", "lars": "sgd", "lamb": "adamw",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a user asks of a plan; `checked` makes one of values that may be wrong."""

    global_batch: int
    gpus: int = 1
    optimizer: PlanOptimizer = "sgd"
    lr: float | None = None
    base_batch: int | None = None  # the rate was tuned for it, and the run reaches its target at it
    dataset_size: int | None = None
    epochs: float | None = None
    drop_last: bool = True
    warmup_epochs: float | None = None
    warmup_steps: int | None = None
    shape: Shape | None = None
    change_global_batch: int | Best | None = None
    task: str | None = None
    critical_batch: float | None = None
    objective: Objective = "throughput"
    price: float | None = None  # per hour of one GPU
    power: Power | None = None  # as the user gives it
    exchange_s: float = 0.0  # per optimizer step
    max_batch: int = DEFAULT_MAX_BATCH

    @property
    def known_at(self) -> int:
        """The global batch that the run is known at: its rate was tuned for it, and it reaches its target there."""
        return self.global_batch if self.base_batch is None else self.base_batch

    @property
    def needs_target(self) -> bool:
        """Whether the answer needs the time to target."""
        if self.objective == "throughput":
            return False
        return self.objective == "time-to-target" or self.change_global_batch == BEST


def checked(
    *,
    global_batch: int,
    gpus: int,
    optimizer: str,
    lr: float | None,
    base_batch: int | None,
    dataset_size: int | None,
    epochs: float | None,
    drop_last: bool,
    warmup_epochs: float | None,
    warmup_steps: int | None,
    schedule: str | None,
    change_global_batch: int | str | None,
    task: str | None,
    critical_batch: float | None,
    objective: str,
    price: float | None,
    power_w: float | None,
    exchange_s: float | None,
    max_batch: int,
) -> Request:
    """Make a Request, or raise BadInputError: for a value that is not usable, or one that another is needed for."""
    check_count("global batch", global_batch, limit=MAX_GLOBAL_BATCH)
    check_count("number of GPUs", gpus, limit=MAX_GPUS)
    check_count("largest batch to search", max_batch, limit=1 << 16)
    if not isinstance(drop_last, bool):
        raise BadInputError(f"drop_last {drop_last!r} is neither True nor False")
    _check_run(dataset_size, epochs, drop_last, given={
        "a warm-up": warmup_epochs is not None or warmup_steps is not None, "a schedule": schedule is not None,
    })  # fmt: skip
    if schedule is not None and schedule not in SHAPES:
        raise UnknownNameError("schedule", str(schedule), SHAPES, f"A plan knows {', '.join(SHAPES)}.")
    if task is not None and not isinstance(task, str):
        raise BadInputError(f"task {task!r} is no name of a task, such as 'imagenet'")
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", str(objective), OBJECTIVES, f"A plan knows {', '.join(OBJECTIVES)}.")
    if exchange_s is not None and gpus == 1:
        raise BadInputError("gradient exchange is between GPUs, and 1 is planned: name more GPUs or leave it out")
    return Request(
        global_batch=int(global_batch),
        gpus=int(gpus),
        optimizer=check_optimizer(optimizer),
        lr=None if lr is None else check_rate("learning rate", lr),
        base_batch=None if base_batch is None else check_count("base batch", base_batch, limit=MAX_GLOBAL_BATCH),
        dataset_size=None if dataset_size is None else int(dataset_size),
        epochs=None if epochs is None else float(epochs),
        drop_last=drop_last,
        warmup_epochs=warmup_epochs,
        warmup_steps=warmup_steps,
        shape=schedule,  # type: ignore[arg-type]  # checked just above
        change_global_batch=_check_change(change_global_batch),
        task=task,
        critical_batch=critical_batch,
        objective=objective,  # type: ignore[arg-type]  # checked just above
        price=None if price is None else check_price(price),
        power=None if power_w is None else Power(_check_power(power_w), "measured", "as given"),
        exchange_s=0.0 if exchange_s is None else _check_exchange(exchange_s),
        max_batch=int(max_batch),
    )


def _check_run(dataset_size: int | None, epochs: float | None, drop_last: bool, given: dict[str, bool]) -> None:
    if dataset_size is not None:
        check_count("dataset size", dataset_size, limit=MAX_DATASET)
        if epochs is not None:
            check_epochs(epochs)
    else:
        if epochs is not None:
            raise BadInputError(f"epochs {epochs!r} of a dataset of unknown size: give --dataset-size, in samples")
        if not drop_last:
            raise BadInputError("keeping the last, smaller step needs the size of the dataset: give --dataset-size")
    if epochs is None:
        for what in (what for what, is_given in given.items() if is_given):
            raise BadInputError(f"{what} needs the length of the run: give --dataset-size and --epochs")


def _check_change(change: int | str | None) -> int | Best | None:
    if change is None or change == BEST:
        return change  # type: ignore[return-value]  # a str only where it is "best"
    if isinstance(change, str):
        if not change.strip().isdecimal():
            raise BadInputError(f"{change!r} is no global batch to change to: give a whole number, or {BEST}")
        change = int(change)
    return check_count("global batch to change to", change, limit=MAX_GLOBAL_BATCH)


def _check_power(value: float) -> float:
    least, most = POWERS_W
    if not is_number(value) or not least <= value <= most:  # also where it is NaN
        raise BadInputError(
            f"power {value!r} is no number of watts from {least:g} to {most:g}: give what one GPU draws"
        )
    return float(value)


def _check_exchange(value: float) -> float:
    if not is_number(value) or not 0 < value <= DAY_S:  # also where it is NaN
        raise BadInputError(
            f"gradient exchange {value!r} is no number of seconds above 0, up to a day: give what you measured, or "
            "leave it out where backward hides all of it"
        )
    return float(value)
