"""From a predicted curve to one recommended batch size, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from advisor import choice
from advisor.choice import Cliff
from advisor.cut import BATCH_NORM_SAMPLES, Cut, cut_global_batch
from advisor.errors import BadInputError, DoesNotFitError
from advisor.quantization import folk_batch_size
from advisor.step import Setup, StepPrediction, check_count, check_share, prepare
from advisor.steptime import LayerCost, StepCurve, StepError
from advisor.units import gib, percent, rate
from advisor.workload import Workload

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
DEFAULT_MAX_BATCH = 1024
# The recommended size is the fastest from the knee up to this many times the knee: the top of the tooth it stands on.
TOOTH = 1.125
EQUAL = 0.0025  # throughputs this close are one: the smaller size is taken
POOR = 0.9  # an exact cut below this share of the knee's throughput is said to be one


@dataclass(frozen=True)
class Candidate:
    """One row of the answer: a batch size, why it is listed, and what is predicted for it."""

    roles: tuple[str, ...]
    relative: float  # samples/s over those of the fastest size that fits
    prediction: StepPrediction


@dataclass(frozen=True)
class Curve:
    """Prediction for every batch size that was searched, as parallel lists."""

    batches: list[int]
    time_s: list[float]
    samples_per_s: list[float]
    total_bytes: list[int]
    fits: list[bool]


@dataclass(frozen=True)
class Comparison:
    """What moving from the user's size to the recommended one changes."""

    current: int
    fits: bool
    gain: float  # share of throughput won by moving
    tie: bool
    text: str


@dataclass(frozen=True)
class ModelFacts:
    """Which model was predicted."""

    name: str
    title: str
    origin: str
    input_shape: tuple[int, ...]
    parameters: int
    samples: str  # what a batch counts: "images", "sequences" (of tokens) or "samples"


@dataclass(frozen=True)
class GpuFacts:
    """Which GPU it was predicted for."""

    id: str
    name: str
    note: str | None
    sms: int
    profile: str  # where the time coefficients come from


@dataclass(frozen=True)
class Answer:
    """The whole recommendation as data; `Recommendation.to_json` prints it."""

    schema_version: int
    model: ModelFacts
    gpu: GpuFacts
    gpu_source: str  # "local", "named", "environment", "default"
    recipe: str
    batch_size: int
    samples_per_s: float
    knee: int
    fastest: int
    largest_fitting: int
    largest_fitting_is_search_limit: bool
    tolerance: float
    memory_limit_bytes: int | None
    margin: float
    error: StepError
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    cut: Cut | None
    other_cuts: tuple[Cut, ...]
    comparison: Comparison | None
    curve: Curve


@dataclass(frozen=True)
class Explanation:
    """What one batch size wastes, layer by layer, the worst first."""

    batch: int
    time_s: float
    gpu_time_s: float
    quantization_loss_s: float
    summary: str
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class Recommendation:
    """The answer to "which batch size?", and the setup it was predicted with."""

    setup: Setup
    answer: Answer

    @property
    def batch_size(self) -> int:
        """Recommended samples per GPU and step."""
        return self.answer.batch_size

    @property
    def knee(self) -> int:
        """Smallest size within the tolerance of the fastest that fits."""
        return self.answer.knee

    @property
    def curve(self) -> Curve:
        """Time, throughput and memory of every size searched."""
        return self.answer.curve

    def explain(self, batch: int | None = None) -> Explanation:
        """Say layer by layer what `batch` (default: the recommended size) wastes."""
        return explain(self.setup, self.batch_size if batch is None else batch)

    def to_json(self) -> str:
        """The answer as JSON; its schema is `advisor/schemas/recommendation.json`."""
        return msgspec.json.format(msgspec.json.encode(self.answer), indent=2).decode()

    def __str__(self) -> str:
        """The answer in one line."""
        return headline(self.answer)


def recommend(
    model: str | Workload | torch.nn.Module,
    *,
    gpu: str = "auto",
    gpus: int = 1,
    global_batch: int | None = None,
    current: int | None = None,
    max_batch: int = DEFAULT_MAX_BATCH,
    tolerance: str | float = choice.TOLERANCE,
    **setup: Any,
) -> Recommendation:
    """Recommend a batch size per GPU for training (or running) `model`.

    `global_batch` over `gpus` GPUs is kept exactly: the answer is then the best exact cut. `current` is the size the
    user has today. Sizes from 1 to `max_batch` are searched. The remaining arguments are those of
    `advisor.step.prepare`: input_shape, seq_len, layout, precision, optimizer, mode, recipe, memory_limit, margin,
    profile.

    Raises BadInputError for unusable values, DoesNotFitError where nothing fits or no cut reaches the global batch,
    and what `prepare` raises.

    >>> recommend("resnet50", gpu="a100", global_batch=4096, gpus=8).answer.cut.global_batch
    4096
    """
    check_count("number of GPUs", gpus, limit=1 << 20)
    check_count("largest batch to search", max_batch, limit=1 << 16)
    if global_batch is not None:
        check_count("global batch", global_batch, limit=1 << 30)
    if current is not None:
        check_count("current batch", current, limit=1 << 16)
        if current > max_batch:
            raise BadInputError(f"current batch {current} is beyond the search, 1 to {max_batch}: raise --max-batch")
    tolerance = check_share("tolerance", tolerance)
    return decide(
        prepare(model, gpu=gpu, gpus=gpus, **setup),
        global_batch=global_batch, current=current, max_batch=max_batch, tolerance=tolerance,
    )  # fmt: skip


def decide(
    setup: Setup,
    *,
    global_batch: int | None = None,
    current: int | None = None,
    max_batch: int = DEFAULT_MAX_BATCH,
    tolerance: float = choice.TOLERANCE,
) -> Recommendation:
    """Predict the curve of a setup and choose from it; see `recommend` for the arguments."""
    batches = np.arange(1, max_batch + 1)
    curve = setup.curve(batches)
    memory = setup.memory(batches)
    fits = setup.fits(memory.total_bytes)
    if not fits.any():
        raise DoesNotFitError(_nothing_fits(setup, int(memory.total_bytes[0])))
    samples_per_s = batches / curve.time_s
    top = choice.fastest(samples_per_s, fits)
    knee = choice.knee(samples_per_s, fits, tolerance)
    tooth = fits & (batches >= batches[knee]) & (batches <= TOOTH * batches[knee])
    chosen = choice.knee(samples_per_s, tooth, EQUAL)

    cuts: tuple[Cut, ...] = ()
    if global_batch is not None:
        accumulated = setup.fits(setup.memory(batches, accumulate=True).total_bytes)
        whole = global_batch // setup.gpus
        fits_in_cut = np.where(batches == whole, fits, accumulated)  # no accumulation where one micro-batch is all
        update_s = float(np.median(curve.class_time_s.get("optimizer", np.zeros(1))))
        cuts = cut_global_batch(
            global_batch, setup.gpus, step_time_s=curve.time_s, update_time_s=update_s, fits=fits_in_cut,
            batch_norm=setup.recipe.mode == "train" and setup.workload.batch_norm_layers > 0,
        )  # fmt: skip
        chosen = cuts[0].batch - 1

    cliff = _cliff_near(batches, samples_per_s, fits, int(batches[chosen]))
    largest = int(batches[fits].max())
    roles = _roles(setup, batch=int(batches[chosen]), fastest=int(batches[top]), knee=int(batches[knee]),
                   largest=largest, cliff=cliff, current=current, is_cut=bool(cuts))  # fmt: skip
    listed = np.array(sorted(roles))
    candidates = tuple(
        Candidate(tuple(roles[p.batch]), float(p.samples_per_s / samples_per_s[top]), p) for p in setup.predict(listed)
    )
    gpu = setup.resolved_gpu.gpu
    answer = Answer(
        schema_version=SCHEMA_VERSION,
        model=ModelFacts(setup.workload.name, setup.workload.title, setup.workload.origin, setup.workload.input_shape,
                         setup.workload.parameters, samples_of(setup.workload)),
        gpu=GpuFacts(gpu.id, gpu.name, setup.resolved_gpu.note, gpu.sms, setup.describe_profile()),
        gpu_source=setup.resolved_gpu.source,
        recipe=setup.describe_recipe(),
        batch_size=int(batches[chosen]),
        samples_per_s=float(samples_per_s[chosen]),
        knee=int(batches[knee]),
        fastest=int(batches[top]),
        largest_fitting=largest,
        largest_fitting_is_search_limit=largest == max_batch,
        tolerance=tolerance,
        memory_limit_bytes=setup.memory_limit_bytes,
        margin=setup.margin,
        error=setup.error,
        reasons=_reasons(setup, curve, samples_per_s, fits, chosen, cliff),
        notes=(
            *_notes(setup, batch=int(batches[chosen]), largest=largest, max_batch=max_batch),
            *poor_cut(cuts, knee=int(batches[knee]), knee_per_s=float(samples_per_s[knee])),
        ),
        candidates=candidates,
        cut=cuts[0] if cuts else None,
        other_cuts=cuts[1:4],
        comparison=_compare(current, int(batches[chosen]), samples_per_s, fits),
        curve=Curve(batches.tolist(), curve.time_s.tolist(), samples_per_s.tolist(), memory.total_bytes.tolist(),
                    fits.tolist()),
    )  # fmt: skip
    return Recommendation(setup, answer)


def headline(answer: Answer) -> str:
    """The answer in one line."""
    speed = f"{rate(answer.samples_per_s)} {answer.model.samples}/s +-{percent(answer.error.mean_abs_log)} (predicted)"
    cut = f"; {answer.cut}" if answer.cut else ""
    return f"batch size {answer.batch_size} for {answer.model.title} on {answer.gpu.name}: {speed}{cut}"


def samples_of(workload: Workload) -> str:
    """What a batch of this model counts: "images", "sequences" where the input is looked up in a table, "samples"."""
    if len(workload.input_shape) == 3:
        return "images"
    ops = workload.variants[0].ops
    return "sequences" if any(op.kind == "embedding" and op.phase == "forward" for op in ops) else "samples"


def explain(setup: Setup, batch: int) -> Explanation:
    """Say layer by layer what a step of `batch` samples loses to tiles, waves and alignment."""
    check_count("batch size", batch, limit=1 << 20)
    curve = setup.curve(np.array([batch]))
    layers = sorted(setup.model.layers(batch), key=lambda layer: layer.time_s - layer.ideal_time_s, reverse=True)
    loss, total = float(curve.quantization_loss_s[0]), float(curve.time_s[0])
    after = setup.curve(np.array([batch + 1]))
    step_up = (batch + 1) / after.time_s[0] / (batch / total) - 1
    summary = (
        f"At batch {batch} tiles and waves cost {percent(loss / total, 1)} of the step; "
        f"one sample more changes the throughput by {100 * step_up:+.1f} %."
    )
    return Explanation(batch, total, float(curve.gpu_time_s[0]), loss, summary, tuple(layers))


def _nothing_fits(setup: Setup, least_bytes: int) -> str:
    limit = setup.memory_limit_bytes or 0
    return (
        f"{setup.workload.title} does not fit: batch 1 needs {gib(least_bytes)} (+ {percent(setup.margin)} margin) of "
        f"{gib(limit)}; use a GPU with at least {gib(least_bytes * (1 + setup.margin))} free, or a smaller input"
    )


def _cliff_near(batches: np.ndarray, samples_per_s: np.ndarray, fits: np.ndarray, batch: int) -> Cliff | None:
    """The deepest cliff between half and twice the chosen size whose far side still fits."""
    near = [
        cliff for cliff in choice.cliffs(batches[fits], samples_per_s[fits]) if batch / 2 <= cliff.under <= 2 * batch
    ]
    return max(near, key=lambda cliff: cliff.loss, default=None)


def _roles(
    setup: Setup, *, batch: int, fastest: int, knee: int, largest: int, cliff: Cliff | None, current: int | None,
    is_cut: bool,
) -> dict[int, list[str]]:  # fmt: skip
    roles: dict[int, list[str]] = {}

    def add(size: int, role: str) -> None:
        roles.setdefault(size, []).append(role)

    add(batch, "recommended" + (" (exact cut)" if is_cut else ""))
    add(fastest, "fastest that fits")
    add(knee, "knee")
    add(largest, "largest that fits")
    if cliff:
        add(cliff.under, "just under a cliff")
        add(cliff.over, "just over it")
    add(choice.largest_power_of_two(largest), "largest power of two")
    if len(setup.workload.input_shape) == 3:
        channels, height, width = setup.workload.input_shape
        sizes = folk_batch_size(np.arange(1, 1 << 12), setup.resolved_gpu.gpu.sms, height, width, channels)
        if (known := sizes[(sizes >= 1) & (sizes <= largest)]).size:
            add(int(known.max()), "folk formula")
    if current is not None:
        add(current, "current")
    return roles


def _reasons(
    setup: Setup, curve: StepCurve, samples_per_s: np.ndarray, fits: np.ndarray, chosen: int, cliff: Cliff | None
) -> tuple[str, ...]:
    """Three sentences: where the time goes, why not larger or smaller, what quantization does here."""
    batch, time_s = chosen + 1, float(curve.time_s[chosen])
    shares = sorted(
        ((t[chosen] / curve.gpu_time_s[chosen], name) for name, t in curve.class_time_s.items()), reverse=True
    )
    where = ", ".join(f"{name} {percent(share)}" for share, name in shares[:4] if share >= 0.01)
    busy = float(curve.busy_share[chosen])
    first = f"The GPU is busy {percent(busy)} of the step: {where}."
    double, half = min(2 * batch, len(fits)), max(batch // 2, 1)
    gain = samples_per_s[double - 1] / samples_per_s[chosen] - 1
    loss = 1 - samples_per_s[half - 1] / samples_per_s[chosen]
    if double > batch:
        room = "" if fits[double - 1] else ", if it fitted"
        second = (
            f"{double} samples would change the throughput by {100 * gain:+.1f} %{room}; "
            f"{half} would lose {percent(loss, 1)}."
        )
    else:
        second = f"{batch} is the end of the search; {half} would lose {percent(loss, 1)}."
    lost = float(curve.quantization_loss_s[chosen]) / time_s
    third = f"Tiles and waves cost {percent(lost, 1)} of the step at this size"
    if cliff:
        third += f"; the deepest cliff near it, {cliff.under} to {cliff.over}, loses {percent(cliff.loss, 1)}."
    else:
        third += ", and no cliff of half a per cent is near: one sample more or less hardly matters here."
    return first, second, third


def _notes(setup: Setup, *, batch: int, largest: int, max_batch: int) -> tuple[str, ...]:
    notes = [*setup.notes()]
    if largest == max_batch:
        notes.append(f"The search ended at {max_batch}; --max-batch searches further.")
    training = setup.recipe.mode == "train"
    if training and setup.workload.batch_norm_layers and batch < BATCH_NORM_SAMPLES:
        notes.append(
            f"BatchNorm would see only {batch} samples per GPU (fewer than {BATCH_NORM_SAMPLES}): consider "
            "SyncBatchNorm or GroupNorm; accumulation does not help it."
        )
    if training and setup.gpus > 1:
        notes.append("Gradient exchange between GPUs is not in the predicted times.")
    return tuple(notes)


def poor_cut(cuts: Sequence[Cut], *, knee: int, knee_per_s: float) -> tuple[str, ...]:
    """Where the exact cuts are all much slower than the knee (a prime global batch, say): the nearest that is not."""
    if (
        not cuts
        or cuts[0].global_batch <= knee * cuts[0].gpus
        or cuts[0].samples_per_s > POOR * knee_per_s * cuts[0].gpus
    ):
        return ()
    best = cuts[0]
    nearest = max(1, round(best.global_batch / (knee * best.gpus))) * knee * best.gpus
    gain = knee_per_s * best.gpus / best.samples_per_s - 1
    return (
        f"No exact cut of global batch {best.global_batch:,} comes near the knee: {nearest:,} (as {knee} per GPU) "
        f"would raise the throughput by {percent(gain)}.",
    )


def _compare(
    current: int | None, batch: int, samples_per_s: Sequence[float] | np.ndarray, fits: np.ndarray
) -> Comparison | None:
    if current is None:
        return None
    mine, ours = float(samples_per_s[current - 1]), float(samples_per_s[batch - 1])
    gain, tie = ours / mine - 1, choice.tied(mine, ours)
    if not fits[current - 1]:
        text = f"Batch {current} is predicted not to fit; {batch} does."
    elif current == batch:
        text = f"Batch {current} is the recommended size already."
    elif tie:
        text = f"Batch {current} and {batch} tie: {100 * gain:+.1f} % is less than can be told apart."
    else:
        text = f"Moving from batch {current} to {batch} changes the throughput by {100 * gain:+.1f} %."
    return Comparison(current, bool(fits[current - 1]), gain, tie, text)
