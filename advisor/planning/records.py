"""What a training plan is made of: frozen records, seconds, bytes, joules and samples inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from advisor.comparison_inputs import Power
from advisor.cut import Cut
from advisor.recipe import Recipe
from advisor.recommendation import GpuFacts, ModelFacts
from advisor.steptime import StepError

SCHEMA_VERSION = 1

PlanOptimizer = Literal["sgd", "adam", "adamw", "lars", "lamb"]
Shape = Literal["step", "cosine", "linear", "polynomial", "constant"]
Objective = Literal["throughput", "time-to-target", "cost"]
PLAN_OPTIMIZERS: tuple[str, ...] = get_args(PlanOptimizer)
SHAPES: tuple[str, ...] = get_args(Shape)
OBJECTIVES: tuple[str, ...] = get_args(Objective)
FRAMEWORKS = ("torch", "lightning", "hf", "deepspeed", "keras")  # that `advisor.planning.snippets` emits for


# Learning rate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Companion:
    """Another setting that a rule of scaling moves with the rate, such as Adam's beta2."""

    name: str  # "beta1"
    before: float
    after: float | None  # None: the rule has no value here, and `why` says so
    why: str | None


@dataclass(frozen=True)
class ScaledRate:
    """How a learning rate goes from the batch it was tuned for to another one."""

    rule: Literal["linear", "square root", "unchanged"]
    base_batch: int  # samples per optimizer step that the rate was tuned for
    batch: int
    factor: float  # rate over base rate
    base_rate: float | None  # None: none was given, so the factor is the answer
    rate: float | None
    known_to: int | None  # samples per step up to which the rule was shown to hold; None: no such limit is known
    known_where: str  # "ResNet-50 on ImageNet"
    within_known: bool
    source: str
    beyond: str | None  # past the known range: what to use instead, with its source
    companions: tuple[Companion, ...]
    notes: tuple[str, ...]


# Schedule -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of one epoch and of the run."""

    dataset_size: int
    global_batch: int
    whole: int  # steps per epoch with all `global_batch` samples
    left_over: int  # samples that fill no whole step
    drop_last: bool  # whether they are left out; otherwise they make one more, smaller step
    per_epoch: int
    epochs: float | None  # None: not given, so the run has no length
    total: int | None


@dataclass(frozen=True)
class WarmUp:
    """A linear rise of the rate over the first steps."""

    steps: int  # 0: none
    start_factor: float  # rate of the first step over the full one; it rises linearly and is 1 at step `steps`
    source: str


@dataclass(frozen=True)
class ScheduleRow:
    """One line of the schedule's table: from this step on, or at this step."""

    step: int  # counted from 0
    epoch: float
    factor: float  # of the full rate
    rate: float | None
    what: str  # "warm-up begins", "full rate", "divided by 10", "halfway", "end"


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run; `advisor.planning.schedule.factor_at` gives it at any step."""

    shape: Shape
    total_steps: int
    warm_up: WarmUp
    milestones: tuple[int, ...]  # steps at which shape "step" divides the rate; empty otherwise
    gamma: float  # what it multiplies by there
    power: float  # of shape "polynomial"
    source: str
    rows: tuple[ScheduleRow, ...]


# Statistical efficiency -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CriticalValue:
    """One published or fitted critical batch."""

    task: str  # key of the table: "imagenet"
    title: str  # "image classification on ImageNet"
    samples: float
    unit: str  # "images", "sequences", "tokens"
    kind: Literal["published", "fitted", "given"]
    source: str
    error: float | None  # median |fit / measured - 1| of samples to target, of a fitted one
    measured: tuple[int, int] | None  # least and largest global batch that a fitted one stands on
    note: str | None
    interval: tuple[float, float] | None = None  # that holds a fitted one with a probability of 90 %


@dataclass(frozen=True)
class CriticalBatch:
    """What is known of a task's critical batch: a range where sources differ."""

    low: float
    high: float
    unit: str
    title: str
    values: tuple[CriticalValue, ...]
    assumed: str | None  # why this task was taken where none was named


@dataclass(frozen=True)
class TargetPoint:
    """One global batch: what it takes to reach the target that the run reaches today.

    Pairs are for `CriticalBatch.low` and `.high`, in this order; equal where one value is known.
    """

    global_batch: int
    gpus: int
    cut: Cut
    roles: tuple[str, ...]  # "asked", "best", "recommended for throughput", "twice the asked", ...
    samples_factor: tuple[float, float]  # samples to target over those of the batch the run is known at
    time_s: tuple[float, float] | None  # to target; None: without epochs and dataset only the ratio is known
    relative_time: tuple[float, float]  # over that of the best global batch
    relative_cost: tuple[float, float]  # GPU time over that of the cheapest
    cost: tuple[float, float] | None  # in the currency of the price


@dataclass(frozen=True)
class TargetCurve:
    """Time to target and throughput over the global batch, some sizes of each doubling; parallel tuples."""

    global_batch: tuple[int, ...]
    samples_per_s: tuple[float, ...]  # on all GPUs, exchange included
    relative_time: tuple[tuple[float, float], ...]  # to target, over the best; a pair as in TargetPoint


@dataclass(frozen=True)
class Target:
    """Hardware speed against statistical efficiency."""

    critical: CriticalBatch
    known_at: int  # the global batch at which `epochs` reach the target
    t0_s: float  # per step and GPU, fitted to the predicted curve: t0 + t1 * samples per GPU
    t1_s: float  # per sample on one GPU
    line_error: float  # largest |line / curve - 1|
    closed_form: tuple[float, float]  # N * sqrt(t0 / t1 * B_crit / N), the global batch the formula names
    points: tuple[TargetPoint, ...]  # by global batch
    curve: TargetCurve  # on all GPUs
    best: tuple[int, int]  # global batch with the least time to target
    compromise: int  # global batch that loses least against the best, whichever end of the range is true
    most_throughput: int  # global batch recommended for throughput: the least that has about the most samples/s
    cheapest: tuple[int, int] | None  # global batch and GPUs with the least GPU time to target; None: not searched
    near_best: tuple[tuple[int, int], tuple[int, int]]  # least, largest within the tolerance of the best
    asked_loses: tuple[float, float]  # share of time to target that the asked global batch takes longer
    most_throughput_loses: tuple[float, float]
    sentence: str


# The plan -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankedCut:
    """One way to cut the global batch, and what is predicted for it."""

    cut: Cut
    step_s: float  # per global step, gradient exchange as given included
    samples_per_s: float  # on all GPUs, exchange included
    relative_time: float  # `step_s` over that of the fastest
    tie: bool  # with the fastest
    memory_bytes: int
    fits: bool
    batch_norm_samples: int | None  # that BatchNorm sees; None: the model has none


@dataclass(frozen=True)
class Run:
    """Predicted time, energy and cost; those of the run are None where its length is unknown."""

    step_s: float  # one optimizer step, `exchange_s` included
    exchange_s: float  # of it: gradient exchange between GPUs as given; 0: not in the time
    samples_per_s: float
    epoch_s: float | None
    run_s: float | None
    error: StepError
    power: Power | None  # of one GPU; None: unknown
    energy_j: float | None  # of the run, all GPUs; an upper bound where the power is "at most"
    price_per_hour: float | None  # of one GPU
    cost: float | None  # of the run, all GPUs


@dataclass(frozen=True)
class Side:
    """Everything that follows from one global batch."""

    asked_global_batch: int
    global_batch: int  # the nearest that the GPUs can share equally
    cuts: tuple[RankedCut, ...]  # the chosen one first
    rate: ScaledRate | None  # None: nothing is known to scale from
    steps: Steps | None  # None: the size of the dataset is unknown
    schedule: Schedule | None  # None: the length of the run is unknown
    run: Run
    memory_bytes: int

    @property
    def cut(self) -> Cut:
        """The cut that is planned."""
        return self.cuts[0].cut


@dataclass(frozen=True)
class ChangeRow:
    """One line of the table before and after a change of the global batch."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class UsualRange:
    """Global batch sizes people commonly train with: context, never the answer."""

    task: str
    low: int
    high: int
    unit: str
    remark: str


@dataclass(frozen=True)
class PlanAnswer:
    """The whole plan as data; `TrainingPlan.to_json` prints it."""

    schema_version: int
    headline: str
    model: ModelFacts
    gpu: GpuFacts
    gpu_source: str
    gpus: int  # as asked; objective "cost" may plan fewer
    recipe: str
    settings: Recipe  # what `recipe` says, for snippets; `layout` as traced; `optimizer` below is the plan's
    optimizer: PlanOptimizer
    objective: Objective
    memory_limit_bytes: int | None
    margin: float
    planned: Side
    before: Side | None  # as asked, where the global batch was changed
    changes: tuple[ChangeRow, ...]  # empty where it was not
    other_global_batches: tuple[int, ...]  # where the asked one cannot be shared equally: the next nearest
    other_cuts: tuple[RankedCut, ...]  # the cut that would be planned of each of them
    target: Target | None  # None: no critical batch is known for this task
    usual: tuple[UsualRange, ...]
    warnings: tuple[str, ...]  # what may harm the run: BatchNorm, token means, rates past their range
    notes: tuple[str, ...]
    launch: str  # the command that starts train.py on the planned GPUs
    reasons: tuple[str, ...] = ()  # why this cut, and this many GPUs
