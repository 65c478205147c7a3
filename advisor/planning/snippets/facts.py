"""What snippets of every framework print of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.cut import BATCH_NORM_SAMPLES, Cut
from advisor.planning.cautions import past_range
from advisor.planning.launch import launch_command, machines
from advisor.planning.learning_rate import ADAM_BETA1, ADAM_BETA2, ADAM_EPS
from advisor.planning.records import PlanAnswer, PlanOptimizer, ScaledRate, Schedule, Steps
from advisor.recipe import Recipe

MOMENTUM = 0.9  # of SGD in Goyal et al. 2017, and of LARS in You et al. 2017
LAMB_EPS = 1e-6  # You et al. 2019, section 4


@dataclass(frozen=True)
class Fill:
    """A number the plan does not know."""

    name: str  # of the constant
    what: str
    option: str  # that would fill it


@dataclass(frozen=True)
class Facts:
    """One side of a plan, as a snippet needs it."""

    headline: str
    not_as_asked: str | None  # what is planned otherwise; None: nothing
    cut: Cut
    optimizer: PlanOptimizer
    settings: Recipe
    rate: ScaledRate | None
    origin: str | None  # where the rate is from and how far its rule is known; None: as given
    past_range: str | None  # that the rule is not known to hold here; None: it is
    steps: Steps | None
    schedule: Schedule | None
    fills: tuple[Fill, ...]
    tokens: bool  # the loss is a mean over tokens
    batch_norm_samples: int | None  # that BatchNorm sees; None: the model has none

    @property
    def drop_last(self) -> bool:
        """Whether samples that fill no whole optimizer step are left out of an epoch."""
        return self.steps is None or self.steps.drop_last

    @property
    def smaller_step(self) -> bool:
        """Whether each epoch ends with a step of fewer samples."""
        return self.steps is not None and not self.steps.drop_last and self.steps.left_over > 0

    @property
    def may_leave_micro_batches(self) -> bool:
        """Whether samples that fill no whole step may fill micro-batches, which some frameworks make a step of."""
        if not self.drop_last or self.cut.accumulation == 1:
            return False
        return self.steps is None or self.steps.left_over >= self.cut.batch * self.cut.gpus

    @property
    def whole_epochs(self) -> bool:
        """Whether the run ends with an epoch; False where its length is not known."""
        if self.steps is None or self.steps.total is None:
            return False
        return self.steps.total % self.steps.per_epoch == 0

    @property
    def few_for_batch_norm(self) -> bool:
        """Whether BatchNorm sees so few samples that sharing its statistics between GPUs helps."""
        return (
            self.cut.gpus > 1 and self.batch_norm_samples is not None and self.batch_norm_samples < BATCH_NORM_SAMPLES
        )

    @property
    def base_rate_missing(self) -> bool:
        """Whether the rule's factor is known, but not the rate it is of."""
        return self.rate is not None and self.rate.rate is None

    @property
    def loss_scaling(self) -> bool:
        """Whether the loss is scaled against FP16's underflow."""
        return self.settings.precision == "fp16" and self.settings.grad_scaler

    @property
    def own_hf_schedule(self) -> bool:
        """Whether one of the Trainer's own schedules has the plan's rate: it has no steps, and warms up from 0."""
        if self.schedule is None or self.schedule.shape == "step":
            return False
        return self.schedule.warm_up.steps == 0 or self.schedule.warm_up.start_factor == 0

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam, AdamW and LAMB."""
        return ADAM_BETA1, ADAM_BETA2

    @property
    def eps(self) -> float:
        """Of Adam, AdamW and LAMB."""
        return LAMB_EPS if self.optimizer == "lamb" else ADAM_EPS

    @property
    def moved(self) -> tuple[str, ...]:
        """Constants as the rule of scaling would have them, where it moves more than the rate."""
        return tuple(
            f"{c.name} = {number(c.after)} instead of {number(c.before)}"
            if c.after is not None
            else f"{c.name}: {plain(c.why or 'no value')}"
            for c in (self.rate.companions if self.rate is not None else ())
        )

    @property
    def momentum(self) -> float | None:
        """Of SGD and LARS; None: the optimizer has none."""
        return MOMENTUM if self.optimizer in ("sgd", "lars") else None

    @property
    def nodes(self) -> int:
        """How many machines `launch` is for."""
        return machines(self.cut.gpus)

    @property
    def launch(self) -> str:
        """The command that runs train.py on all GPUs."""
        return launch_command(self.cut.gpus)


def gather(answer: PlanAnswer) -> Facts:
    """The facts of the planned side."""
    side = answer.planned
    return Facts(
        headline=plain(f"{answer.model.title} on {answer.gpu.name}: {side.cut}"),
        not_as_asked=_not_as_asked(answer),
        cut=side.cut,
        optimizer=answer.optimizer,
        settings=answer.settings,
        rate=side.rate,
        origin=_origin(side.rate),
        past_range=next(map(plain, past_range(side.rate)), None),
        steps=side.steps,
        schedule=side.schedule,
        fills=_fills(side.rate, side.steps),
        tokens=answer.model.samples == "sequences",
        batch_norm_samples=side.cuts[0].batch_norm_samples,
    )


def _not_as_asked(answer: PlanAnswer) -> str | None:
    side, said = answer.planned, []
    if side.global_batch != side.asked_global_batch:
        said.append(f"a global batch of {side.global_batch:,} instead of {side.asked_global_batch:,}")
    if side.cut.gpus < answer.gpus:
        said.append(f"{side.cut.gpus:,} of {answer.gpus:,} GPUs, for objective {answer.objective}")
    return f"Not as asked: {'; '.join(said)}." if said else None


def _origin(rate: ScaledRate | None) -> str | None:
    if rate is None or rate.factor == 1:
        return None
    base = "the rate" if rate.base_rate is None else number(rate.base_rate)
    known = f"{f'to {rate.known_to:,} samples per step, ' if rate.known_to else ''}{rate.known_where}"
    return plain(
        f"{base} at {rate.base_batch} samples per step x {number(rate.factor)}: {rate.rule} rule, known {known} "
        f"({rate.source})."
    )


def _fills(rate: ScaledRate | None, steps: Steps | None) -> tuple[Fill, ...]:
    fills = []
    if rate is None:
        fills.append(Fill("LEARNING_RATE", "the learning rate of this global batch", "--lr"))
    elif rate.rate is None:
        what = f"the learning rate tuned for {rate.base_batch} samples per step"
        fills.append(Fill("BASE_LEARNING_RATE", what, "--lr"))
    if steps is None or steps.epochs is None:
        fills.append(Fill("EPOCHS", "how many times the run sees the dataset", "--dataset-size and --epochs"))
    return tuple(fills)


def plain(text: str) -> str:
    """Anybody's text as one line of a comment: names of models come from files."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def number(value: float | tuple[float, ...]) -> str:
    """A number as source text, read back as the same: 90, 0.4, 1e-08."""
    if isinstance(value, tuple):
        return f"({', '.join(number(v) for v in value)}{',' if len(value) == 1 else ''})"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
