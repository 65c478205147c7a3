"""The training plan: from a global batch to its cut, learning rate, schedule, time and cost.

The global batch stays what the user asked for. It changes only where that was asked for, and then everything that
follows is a table of before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import msgspec

from advisor.cut import Cut, LeastTimes
from advisor.errors import BadInputError
from advisor.planning.cautions import cautions
from advisor.planning.changes import change_rows
from advisor.planning.critical_batch import critical_batch as find_critical_batch
from advisor.planning.curves import Curves, curves_of
from advisor.planning.launch import launch_command
from advisor.planning.power import PowerSource, power_source
from advisor.planning.records import (
    SCHEMA_VERSION,
    CriticalBatch,
    Objective,
    PlanAnswer,
    PlanOptimizer,
    Shape,
    Target,
)
from advisor.planning.request import BEST, MOST_PER_GPU, PREDICTED_AS, Best, Request, checked
from advisor.planning.sentences import headline, notes, reasons, why_no_target
from advisor.planning.sides import Sides
from advisor.planning.target import best_for, find_target, with_planned
from advisor.planning.usual import usual_ranges
from advisor.recipe import Precision
from advisor.recommendation import DEFAULT_MAX_BATCH, GpuFacts, ModelFacts, samples_of
from advisor.recommendation import decide as recommend_from
from advisor.step import Setup, prepare
from advisor.workload import Workload

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from advisor.planning.snippets import Snippet

# Time to target is searched up to so many samples per GPU, and as far around the global batch asked.
SEARCHED_PER_GPU = 1 << 14
AROUND_ASKED = 4


class _SetupOptions(TypedDict, total=False):
    """Arguments of `advisor.step.prepare` that `plan` hands on."""

    input_shape: tuple[int, ...] | None
    seq_len: int | None
    layout: Literal["nhwc", "nchw"] | None
    precision: Precision | None
    mode: Literal["train"]
    recipe: str
    memory_limit: str | int | None
    margin: str | float | None
    profile: str | Path | None


@dataclass(frozen=True)
class TrainingPlan:
    """A plan, and the setup it was predicted with."""

    setup: Setup
    answer: PlanAnswer

    def emit(self, framework: str) -> Snippet:
        """Code or settings for "torch", "lightning", "hf", "deepspeed" or "keras" that train as planned.

        Raises UnknownNameError for another framework.
        """
        from advisor.planning.snippets import emit

        return emit(self.answer, framework)

    def to_json(self) -> str:
        """The plan as JSON; its schema is `advisor/schemas/plan.json`."""
        return msgspec.json.format(msgspec.json.encode(self.answer), indent=2).decode()

    def __str__(self) -> str:
        """The plan in one line."""
        return self.answer.headline


def plan(
    model: str | Workload | torch.nn.Module,
    *,
    global_batch: int,
    gpu: str = "auto",
    gpus: int = 1,
    optimizer: PlanOptimizer = "sgd",
    lr: float | None = None,
    base_batch: int | None = None,
    dataset_size: int | None = None,
    epochs: float | None = None,
    drop_last: bool = True,
    warmup_epochs: float | None = None,
    warmup_steps: int | None = None,
    schedule: Shape | None = None,
    change_global_batch: int | Best | None = None,
    task: str | None = None,
    critical_batch: float | None = None,
    objective: Objective = "throughput",
    price: float | None = None,
    power_w: float | None = None,
    exchange_s: float | None = None,
    records: str | Path | Sequence[str | Path] = (),
    max_batch: int = DEFAULT_MAX_BATCH,
    **setup: Unpack[_SetupOptions],
) -> TrainingPlan:
    """Plan the training of `model` with `global_batch` samples per optimizer step over `gpus` GPUs.

    The global batch is kept, or the nearest that the GPUs can share equally and hold, and only its cut is chosen.
    `change_global_batch`, a number or "best" for the `objective`, is the one thing that changes it.

    `optimizer`: "sgd" (with momentum), "adam", "adamw", "lars" or "lamb". `lr` was tuned for `base_batch` samples per
    step (left out: for the global batch asked) and is scaled to the planned one by the optimizer's rule. `epochs` over
    `dataset_size` samples reach the target at the same batch size. `drop_last` leaves out the samples of an epoch that
    fill no whole step. `schedule` is a shape: "step", "cosine", "linear", "polynomial" or "constant".
    `objective`: "throughput", "time-to-target" or "cost". `task` or `critical_batch` (samples) stand for the model's
    own task. `price` is per hour of one GPU, in any currency, `power_w` what one GPU draws, `exchange_s` what a step
    takes for gradient exchange that backward does not hide. `records` of `advisor bench` give measured power. Sizes up
    to `max_batch` per GPU are searched. The remaining arguments are those of `advisor.step.prepare`: input_shape,
    seq_len, layout, precision, recipe, memory_limit, margin, profile.

    Raises BadInputError for unusable values (UnknownNameError for names), DoesNotFitError where nothing fits, and what
    `prepare` raises.

    >>> found = plan("resnet50", gpu="a100", global_batch=4096, gpus=8, lr=0.1, base_batch=256)
    >>> found.answer.planned.cut.global_batch, found.answer.planned.rate.rate
    (4096, 1.6)
    """
    request = checked(
        global_batch=global_batch, gpus=gpus, optimizer=optimizer, lr=lr, base_batch=base_batch,
        dataset_size=dataset_size, epochs=epochs, drop_last=drop_last, warmup_epochs=warmup_epochs,
        warmup_steps=warmup_steps, schedule=schedule, change_global_batch=change_global_batch, task=task,
        critical_batch=critical_batch, objective=objective, price=price, power_w=power_w, exchange_s=exchange_s,
        max_batch=max_batch,
    )  # fmt: skip
    if (mode := setup.pop("mode", "train")) != "train":
        raise BadInputError(f"a plan is of training, and mode {mode!r} is none: leave it out")
    prepared = prepare(model, gpu=gpu, gpus=request.gpus, optimizer=PREDICTED_AS[request.optimizer], **setup)
    power = power_source(prepared, gpu=gpu, given=request.power, profile=setup.get("profile"), records=records)
    return decide(prepared, request, power=power)


def decide(setup: Setup, request: Request, *, power: PowerSource | None = None) -> TrainingPlan:
    """Predict the curve of a setup and plan from it; without `power` nothing is said of energy.

    Raises what `plan` raises for values that only predictions tell to be unusable.
    """
    curves = curves_of(setup, request.max_batch)
    sides = Sides(curves, request, power)
    critical = find_critical_batch(setup.workload, task=request.task, given=request.critical_batch)
    recommended = recommend_from(setup, max_batch=request.max_batch).batch_size
    asked, near = sides.side(request.global_batch, sides.gpus_for(request.global_batch))
    planned = asked
    if isinstance(request.change_global_batch, int):
        planned, near = sides.side(request.change_global_batch, sides.gpus_for(request.change_global_batch))
    target = _target(curves, request, critical, recommended=recommended, listed=planned.cut)
    if request.change_global_batch == BEST:
        planned, near = sides.side(*_best(request, target, recommended=recommended))
    if target is not None:
        target = with_planned(target, planned.global_batch, planned.cut.gpus)
    before = asked if planned.cut != asked.cut else None  # the global batch asked for may be the best
    others = sides.planned_cuts(near.others, near.cuts[0].gpus)
    gpu = setup.resolved_gpu.gpu
    workload = setup.workload
    answer = PlanAnswer(
        schema_version=SCHEMA_VERSION,
        headline=headline(setup, planned),
        model=ModelFacts(workload.name, workload.title, workload.origin, workload.input_shape, workload.parameters,
                         samples_of(workload)),
        gpu=GpuFacts(gpu.id, gpu.name, setup.resolved_gpu.note, gpu.sms, setup.describe_profile()),
        gpu_source=setup.resolved_gpu.source,
        gpus=request.gpus,
        recipe=setup.describe_recipe(),
        settings=replace(setup.recipe, layout=setup.model.variant.layout),
        optimizer=request.optimizer,
        objective=request.objective,
        memory_limit_bytes=setup.memory_limit_bytes,
        margin=setup.margin,
        planned=planned,
        before=before,
        changes=() if before is None else change_rows(before, planned, request=request, critical=critical),
        other_global_batches=near.others,
        other_cuts=others,
        target=target,
        usual=usual_ranges(workload, request.optimizer, request.task),
        warnings=cautions(curves, planned, near, others),
        notes=(*notes(setup, request, planned, target, critical), *(power.notes(planned.cut.batch) if power else ())),
        launch=launch_command(planned.cut.gpus),
        reasons=reasons(sides, planned, target),
    )  # fmt: skip
    return TrainingPlan(setup, answer)


def _target(
    curves: Curves, request: Request, critical: CriticalBatch | None, *, recommended: int, listed: Cut
) -> Target | None:
    """Time to target over the global batch; None where no critical batch is known, or the global batch is too large.

    `recommended` is the batch per GPU for throughput. The global batch of `listed` is among those listed.
    """
    share = request.global_batch / request.gpus
    if critical is None or share > MOST_PER_GPU:
        if request.needs_target:
            raise BadInputError(why_no_target(curves.setup, request, critical))
        return None
    run_samples = None
    if request.epochs is not None and request.dataset_size is not None:
        run_samples = request.epochs * request.dataset_size
    largest = min(MOST_PER_GPU, max(SEARCHED_PER_GPU, AROUND_ASKED * request.global_batch, listed.global_batch))
    asked = curves.cuts(request.global_batch, request.gpus).cuts[0].global_batch

    @cache
    def times_of(several: bool) -> LeastTimes:
        return curves.least_times(2 if several else 1, largest)

    return find_target(
        lambda gpus: times_of(gpus > 1),
        gpus=request.gpus, asked=asked, known_at=request.known_at, critical=critical,
        curve=curves.line(), known_samples=run_samples, exchange_s=request.exchange_s,
        price=request.price, objective=request.objective, most_throughput=recommended * request.gpus,
        listed=(listed.global_batch, listed.gpus),
    )  # fmt: skip


def _best(request: Request, target: Target | None, *, recommended: int) -> tuple[int, int]:
    """The best global batch for the objective, and on how many GPUs."""
    if target is None:
        return recommended * request.gpus, request.gpus
    return best_for(target, request.objective)
