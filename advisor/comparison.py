"""GPUs side by side for one model: the best batch of each, its throughput, memory, energy and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from advisor import choice
from advisor.comparison_inputs import (
    Entrant,
    Power,
    entrants,
    measured_steps,
    power_of,
    prices_of,
    profiles_of,
    unmeasured_power,
)
from advisor.comparison_ranking import headline, ranked, related, tie_sentences
from advisor.errors import BadInputError, DoesNotFitError
from advisor.loading import profiles_for
from advisor.memory import usable_memory_bytes
from advisor.recipe import make_recipe
from advisor.recommendation import DEFAULT_MAX_BATCH, ModelFacts, Recommendation, decide
from advisor.step import Setup, check_count, check_share, prepare
from advisor.steptime import StepError
from advisor.units import HOUR_S
from advisor.workload import Workload
from advisor.workload.catalogue import resolve_workload

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
MILLION = 1_000_000  # samples; time and cost are given for so many
Sort = Literal["throughput", "cost", "energy", "given"]
APART = (
    "Told apart are GPUs that differ by more than both their errors together (those of nine in ten, taken as "
    "independent)."
)
ENERGY = "Energy is the power over the predicted samples/s, and as uncertain as these; that holds for upper bounds too."
BOUNDS = "Upper bounds of energy stand beside each other: which GPU takes least cannot be read from them."
SORTS: tuple[str, ...] = get_args(Sort)


@dataclass(frozen=True)
class GpuResult:
    """What is predicted for one GPU at the batch size recommended there."""

    batch_size: int
    samples_per_s: float
    relative: float  # over the fastest GPU of the comparison
    error: StepError  # of the samples/s
    memory_bytes: int
    memory_limit_bytes: int | None  # None: unknown
    margin: float
    million_samples_s: float  # time for a million samples
    energy_per_sample_j: float | None  # of the GPU alone, at these samples/s; an upper bound where power is "at most"
    cost_per_million: float | None  # samples, in the currency of the price
    ties: tuple[str, ...]  # rows whose samples/s the errors do not tell from these
    cost_ties: tuple[str, ...]  # rows whose cost per sample the errors do not tell from this
    recipe: str
    profile: str  # where the time coefficients come from


@dataclass(frozen=True)
class GpuRow:
    """One GPU of the comparison; without a result `reason` says why."""

    name: str
    id: str
    gpu_name: str
    source: str  # "local", "named", "environment", "default"
    price_per_hour: float | None  # of one GPU
    power: Power | None  # None: unknown
    fits: bool | None  # None: it cannot be predicted
    reason: str | None
    result: GpuResult | None
    gpu_notes: tuple[str, ...]  # which GPU the names were taken for
    notes: tuple[str, ...]  # what to know of its predictions


@dataclass(frozen=True)
class GpuComparison:
    """The whole comparison as data, its rows in the order asked for."""

    schema_version: int
    headline: str
    model: ModelFacts
    sort: Sort
    rows: tuple[GpuRow, ...]
    ties: tuple[str, ...]  # sentences on samples/s
    notes: tuple[str, ...]  # on the comparison as a whole

    def to_json(self) -> str:
        """The comparison as JSON; its schema is `advisor/schemas/comparison.json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def __str__(self) -> str:
        """The comparison in one line."""
        return self.headline


def compare(
    model: str | Workload | torch.nn.Module,
    *,
    gpus: Sequence[str],
    price: float | Mapping[str, float] | None = None,
    sort: Sort = "throughput",
    records: Sequence[str | Path] = (),
    profiles: Sequence[str | Path] = (),
    memory_limit: str | int | None = None,
    max_batch: int = DEFAULT_MAX_BATCH,
    tolerance: str | float = choice.TOLERANCE,
    **setup: Any,
) -> GpuComparison:
    """Compare GPUs for training (or running) `model`, each at the batch size that is recommended for it.

    `gpus` are names as `recommend` takes them, "auto" and "local" among them; two names of one GPU are one row.
    `price` is what one GPU costs per hour: one number for all, or one by name for each. `sort` orders the rows: the
    most samples/s first, the least cost or energy per sample first, or as given; rows without an answer come last.
    `records` of `advisor bench` give measured power, where they hold training steps of this model. `profiles` were
    measured on GPUs of the comparison. `memory_limit` is what a GPU may use where it has more. The remaining arguments
    are those of `advisor.step.prepare`: input_shape, seq_len, layout, precision, optimizer, mode, recipe, margin.

    A GPU that the model does not fit, or that cannot be predicted, has a row with the reason. Raises DoesNotFitError
    where it fits none, UnknownNameError, BadInputError, NoGpuError for "local" without one, and what `prepare` raises.

    >>> compare("resnet50", gpus=["a100", "h100"], price=2.0).rows[0].name
    'h100-sxm-80gb'
    """
    check_count("largest batch to search", max_batch, limit=1 << 16)
    if sort not in SORTS:
        raise BadInputError(f"cannot sort by {sort!r}: choose one of {', '.join(SORTS)}")
    if sort == "cost" and price is None:
        raise BadInputError("sorting by cost needs a price: give what one GPU costs per hour")
    compared = entrants(gpus)
    prices = prices_of(price, compared)
    files = profiles_of([Path(path) for path in profiles], compared)
    tolerance = check_share("tolerance", tolerance)
    sizes = {name: setup.pop(name, None) for name in ("input_shape", "seq_len")}
    options = {name: setup.get(name) for name in ("layout", "precision", "optimizer", "mode")}
    chosen = make_recipe(setup.get("recipe", "default"), **options)
    workload = resolve_workload(model, **sizes, recipe=chosen)
    steps = measured_steps([Path(path) for path in records], compared, workload.name, chosen)
    answers: list[Recommendation] = []
    rows: list[GpuRow] = []
    errors: list[BadInputError] = []
    for entrant in compared:
        cost, file = prices.get(entrant.name), files.get(entrant.name)
        try:
            prepared = prepare(workload, gpu=entrant.asked[0], profile=file, memory_limit=memory_limit, **setup)
            found = decide(_within(prepared), max_batch=max_batch, tolerance=tolerance)
        except DoesNotFitError as error:
            rows.append(_blank(entrant, cost, fits=False, reason=str(error)))
        except BadInputError as error:
            errors.append(error)
            rows.append(_blank(entrant, cost, fits=None, reason=str(error)))
        else:
            answers.append(found)
            measured_at = profiles_for(entrant.resolved, precision=chosen.precision, path=file).path
            known = steps.get(entrant.gpu.id)
            power = power_of(entrant.gpu, profile=measured_at, steps=known or (), batch=found.batch_size)
            what = f"{chosen.precision} training steps of {workload.name} near batch {found.batch_size}"
            rows.append(_row(entrant, found, cost, power, unmeasured_power(power, known, what)))
    if not answers:
        raise _refusal(rows, errors)
    facts = answers[0].answer.model
    rows = ranked(related(rows), sort)
    return GpuComparison(
        schema_version=SCHEMA_VERSION,
        headline=headline(facts, rows),
        model=facts,
        sort=sort,
        rows=tuple(rows),
        ties=tie_sentences(rows),
        notes=_notes(rows, sort),
    )


def _notes(rows: Sequence[GpuRow], sort: Sort) -> tuple[str, ...]:
    answered = [row for row in rows if row.result is not None]
    said = {
        APART: len(answered) > 1,
        ENERGY: any(row.power is not None for row in answered),
        BOUNDS: sort == "energy" and any(row.power and row.power.kind == "at most" for row in answered),
    }
    return tuple(note for note, holds in said.items() if holds)


def _within(setup: Setup) -> Setup:
    """A limit given for all GPUs is no more than each has."""
    own = setup.resolved_gpu.free_bytes or usable_memory_bytes(setup.resolved_gpu.gpu)
    limits = [limit for limit in (setup.memory_limit_bytes, own) if limit is not None]
    return replace(setup, memory_limit_bytes=min(limits, default=None))


def _row(
    entrant: Entrant, found: Recommendation, price: float | None, power: Power | None, more_notes: tuple[str, ...]
) -> GpuRow:
    answer = found.answer
    speed = answer.samples_per_s
    result = GpuResult(
        batch_size=answer.batch_size,
        samples_per_s=speed,
        relative=1.0,
        error=answer.error,
        memory_bytes=answer.curve.total_bytes[answer.batch_size - 1],
        memory_limit_bytes=answer.memory_limit_bytes,
        margin=answer.margin,
        million_samples_s=MILLION / speed,
        energy_per_sample_j=power.watts / speed if power else None,
        cost_per_million=cost_per_million(price, speed) if price else None,
        ties=(),
        cost_ties=(),
        recipe=answer.recipe,
        profile=answer.gpu.profile,
    )
    notes = (*(note for note in answer.notes if note != entrant.resolved.note), *more_notes)
    return replace(_blank(entrant, price, fits=True, reason=None), power=power, result=result, notes=notes)


def _blank(entrant: Entrant, price: float | None, *, fits: bool | None, reason: str | None) -> GpuRow:
    return GpuRow(
        name=entrant.name,
        id=entrant.gpu.id,
        gpu_name=entrant.gpu.name,
        source=entrant.resolved.source,
        price_per_hour=price,
        power=None,
        fits=fits,
        reason=reason,
        result=None,
        gpu_notes=entrant.notes,
        notes=(),
    )


def _refusal(rows: Sequence[GpuRow], errors: Sequence[BadInputError]) -> BadInputError | DoesNotFitError:
    """Why no GPU has an answer: what is wrong with all of them, or that the model fits none."""
    unfit = [row for row in rows if row.fits is False]
    if not unfit:
        return errors[0]
    if len(rows) == 1:
        return DoesNotFitError(str(unfit[0].reason))
    names = ", ".join(row.name for row in rows)
    return DoesNotFitError(f"none of {names} can run it; on {unfit[0].name}: {unfit[0].reason}")


def cost_per_million(price_per_hour: float, samples_per_s: float) -> float:
    """Cost of a million samples on one GPU.

    >>> round(cost_per_million(2.0, 1000.0), 4)
    0.5556
    """
    return price_per_hour / HOUR_S * MILLION / samples_per_s
