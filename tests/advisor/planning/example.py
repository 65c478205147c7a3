"""Plans built by hand, for tests of what prints them."""

from __future__ import annotations

from advisor.cut import Cut
from advisor.planning.launch import launch_command
from advisor.planning.learning_rate import scale_rate
from advisor.planning.records import PlanAnswer, RankedCut, Run, Side
from advisor.planning.schedule import count_steps, make_schedule
from advisor.recipe import make_recipe
from advisor.recommendation import GpuFacts, ModelFacts
from advisor.steptime import StepError


def example_plan(
    *,
    batch: int = 4,
    accumulation: int = 2,
    gpus: int = 2,
    optimizer: str = "sgd",
    lr: float | None = 0.1,
    base_batch: int | None = 8,
    dataset_size: int | None = 70,
    epochs: float | None = 3,
    drop_last: bool = True,
    shape: str | None = None,
    warmup_steps: int | None = None,
    precision: str = "fp32",
    layout: str = "nchw",
    recipe: str = "default",
    samples: str = "images",
    batch_norm: bool = True,
    title: str = "Two layers",
) -> PlanAnswer:
    """A plan of 16 samples per step, 4 steps and 6 samples over per epoch, 12 steps; the times mean nothing."""
    cut = Cut(batch * accumulation * gpus, gpus, batch, accumulation, time_s=1.0, samples_per_s=16.0)
    rate = None if base_batch is None else scale_rate(optimizer, batch=cut.global_batch, base_batch=base_batch, lr=lr)
    steps = None
    if dataset_size is not None:
        steps = count_steps(dataset_size, cut.global_batch, epochs=epochs, drop_last=drop_last)
    schedule = None
    if steps is not None and steps.total is not None:
        schedule = make_schedule(optimizer, steps, scaled=rate, shape=shape, warmup_steps=warmup_steps)
    settings = make_recipe(recipe, precision=precision, layout=layout)
    ranked = RankedCut(
        cut,
        step_s=1.0,
        samples_per_s=16.0,
        relative_time=1.0,
        tie=True,
        memory_bytes=2**30,
        fits=True,
        batch_norm_samples=batch if batch_norm else None,
    )
    error = StepError(mean_abs_log=0.1, p90_abs_log=0.2, origin="none")
    run = Run(
        step_s=1.0, exchange_s=0.0, samples_per_s=16.0, epoch_s=None, run_s=None, error=error, power=None,
        energy_j=None, price_per_hour=None, cost=None,
    )  # fmt: skip
    side = Side(
        asked_global_batch=cut.global_batch, global_batch=cut.global_batch, cuts=(ranked,), rate=rate, steps=steps,
        schedule=schedule, run=run, memory_bytes=2**30,
    )  # fmt: skip
    return PlanAnswer(
        schema_version=1,
        headline=str(cut),
        model=ModelFacts("two", title, "test", (3, 8, 8), 10, samples),
        gpu=GpuFacts("a100", "A100", None, 108, "none"),
        gpu_source="named",
        gpus=gpus,
        recipe=settings.describe(),
        settings=settings,
        optimizer=optimizer,  # type: ignore[arg-type]
        objective="throughput",
        memory_limit_bytes=None,
        margin=0.0,
        planned=side,
        before=None,
        changes=(),
        other_global_batches=(),
        other_cuts=(),
        target=None,
        usual=(),
        warnings=(),
        notes=(),
        launch=launch_command(gpus),
    )
