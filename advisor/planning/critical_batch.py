"""The critical batch of a task: where samples to target double. Published values, and a fit to measured ones.

Samples to target over the global batch B: E(B) = E_min (1 + B / B_crit), equation 2.11 of McCandlish et al. 2018
(arXiv:1812.06162) at a fixed batch. Far below B_crit the samples are what costs, far above it the optimizer steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from advisor.choice import Floats, Ints
from advisor.decoding import decode_versioned, read_shipped
from advisor.errors import BadInputError, UnknownNameError
from advisor.planning.records import CriticalBatch, CriticalValue
from advisor.planning.sources import KAPLAN_2020, MCCANDLISH_2018, MLPERF_RCP
from advisor.recommendation import samples_of
from advisor.units import counted, rate
from advisor.workload import Workload

SHIPPED = Path(__file__).with_name("critical-batch.json")
SCHEMA_VERSION = 1
MOST_FILE_BYTES = 1 << 20
LEAST_POINTS = 3  # two points lie on one curve exactly, and say nothing of its error
GIVEN_SAMPLES = 1.0, 1e12  # of a critical batch that a user gives
REACH = 100.0  # a critical batch this many times outside the measured batches is not determined by them
LEVEL = 0.9  # probability that an interval holds the critical batch
# Student's t, quantiles of (1 + LEVEL) / 2 for 1, 2, ... degrees of freedom; beyond the last one, that is a little wide
STUDENT = (
    6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331, 1.8125, 1.7959, 1.7823, 1.7709, 1.7613,
    1.7531, 1.7459, 1.7396, 1.7341, 1.7291, 1.7247,
)  # fmt: skip


# The fit --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CriticalFit:
    """E(B) = least_samples (1 + B / critical_batch), fitted."""

    critical_batch: float  # global batch at which samples to target are twice the least
    interval: tuple[float, float]  # that holds it with a probability of 90 %; (0, inf): the points tell nothing
    least_samples: float  # to target, towards batch 0, in the unit that was given
    median_error: float  # of |fitted / measured - 1| over the points
    largest_error: float

    def samples(self, batches: Floats) -> Floats:
        """Samples to target at each global batch."""
        return samples_to_target(batches, critical=self.critical_batch, least_samples=self.least_samples)


def samples_to_target(batches: Floats | Ints, *, critical: float, least_samples: float) -> Floats:
    """E(B) = E_min (1 + B / B_crit): McCandlish et al. 2018 (arXiv:1812.06162), equation 2.11, solved for E."""
    return np.asarray(least_samples * (1 + np.asarray(batches, dtype=float) / critical))


def fit_critical_batch(batches: Iterable[float], samples: Iterable[float]) -> CriticalFit:
    """Fit the critical batch to samples to target (or epochs) measured at several global batches (samples per step).

    The squares of fitted / measured - 1 are least: a linear fit, as E = E_min + (E_min / B_crit) B. Runs repeated at
    one batch are points of their own, or their mean is one. The form presumes a rate tuned at each batch, and only ever
    rises: where small batches need more samples than larger ones, as at a rate that is too high for them, leave them
    out. The interval takes errors as relative, independent and of equal variance (Fieller 1954).

    Raises BadInputError for fewer than three different batches, values that are not positive and finite, and samples
    that hardly rise with the batch, or as fast as it: they determine no critical batch.

    >>> fit = fit_critical_batch([64, 128, 256, 512, 1024], [1.07, 1.10, 1.27, 1.49, 2.02])
    >>> round(fit.critical_batch), [round(end) for end in fit.interval]
    (1000, [897, 1122])
    """
    sizes, measured = _checked("global batch", batches), _checked("samples to target", samples)
    if len(sizes) != len(measured):
        raise BadInputError(f"{len(sizes)} batches and {len(measured)} values of samples to target: one each is needed")
    if len(np.unique(sizes)) < LEAST_POINTS:
        raise BadInputError(
            f"{counted(len(np.unique(sizes)), 'batch size')} cannot tell the critical batch and its error: "
            f"measure at {LEAST_POINTS} or more"
        )
    unit, scale = float(sizes.max()), float(measured.max())
    columns = np.column_stack([scale / measured, sizes / unit * scale / measured])
    least, slope = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)[0]
    if slope * REACH < least or least * REACH * unit < slope * sizes.min():
        flat = slope < least
        raise BadInputError(
            f"samples to target {'hardly rise with' if flat else 'rise as fast as'} the batch from {sizes.min():,.0f} "
            f"to {sizes.max():,.0f}, so no critical batch is determined: measure {'larger' if flat else 'smaller'} "
            "batches"
        )
    error = np.abs(columns @ [least, slope] - 1)
    low, high = _interval(columns, float((error**2).sum()))
    return CriticalFit(
        float(least / slope * unit), (low * unit, high * unit), float(least * scale), float(np.median(error)),
        float(error.max()),
    )  # fmt: skip


def _interval(columns: Floats, squares: float) -> tuple[float, float]:
    """The ratios of the first coefficient to the second that do not raise the least `squares` too far (Fieller)."""
    free = len(columns) - 2
    bound = len(columns) - squares * (1 + STUDENT[min(free, len(STUDENT)) - 1] ** 2 / free)
    # a second coefficient of r times the first is kept where a r^2 + 2 b r + c >= 0
    sums, products = columns.sum(axis=0), columns.T @ columns
    c, b, _, a = (np.outer(sums, sums) - bound * products).ravel()
    root = math.sqrt(max(b * b - a * c, 0.0))
    least, most = (-b + root) / a, math.inf if a > 0 else (-b - root) / a
    return float(1 / most), math.inf if least <= 0 else float(1 / least)


def _checked(what: str, values: Iterable[float]) -> Floats:
    try:
        found = np.asarray(list(values), dtype=float)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{what} must be numbers: {error}") from error
    if found.ndim != 1:
        raise BadInputError(f"{what} must be a plain list of numbers")
    wrong = found[~(np.isfinite(found) & (found > 0))]
    if len(wrong):
        raise BadInputError(f"{what} {wrong[0]:g} is not positive and finite: leave that point out")
    return found


# The shipped fits -----------------------------------------------------------------------------------------------------


class LeftOutRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the source that the fit did not use."""

    global_batch: int
    round: str
    reason: str


class FittedBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The critical batch of one benchmark."""

    benchmark: str
    task: str
    title: str
    unit: str
    sample_tokens: int | None  # tokens of one sample, where all have the same number
    critical_batch: float
    interval: tuple[float, float]
    least_samples: float
    least_samples_unit: str
    points: int
    batches: tuple[int, int]
    rounds: tuple[str, ...]
    median_error: float  # of |fitted / measured - 1|
    largest_error: float
    held_out_median_error: float  # each batch predicted by a fit to the others
    held_out_largest_error: float
    left_out: tuple[LeftOutRow, ...]
    note: str | None


class UnusedBenchmark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A benchmark of the source whose rows determine no critical batch, or are those of another."""

    benchmark: str
    reason: str


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the measurements come from."""

    repository: str
    commit: str
    files: str
    licence: str


class FittedBatches(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shipped file, written by `python -m bench critical-batch`."""

    schema_version: int
    origin: Origin
    form: str
    interval_level: float  # probability that the interval of a critical batch holds it
    interval_method: str
    row_rules: tuple[str, ...]
    benchmark_rules: tuple[str, ...]
    benchmarks: tuple[FittedBatch, ...]
    not_used: tuple[UnusedBenchmark, ...]


@cache
def fitted_batches() -> FittedBatches:
    """The fits to MLPerf's reference convergence points. Raises BrokenFileError for a damaged installation."""
    cure = "write it again with `python -m bench critical-batch`"
    content = read_shipped(SHIPPED, cure)
    return decode_versioned(
        content, FittedBatches, str(SHIPPED), version=SCHEMA_VERSION, most_bytes=MOST_FILE_BYTES,
        cure=f"reinstall the package, or {cure}",
    )  # fmt: skip


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Published:
    task: str
    samples: float
    unit: str
    source: str
    note: str | None = None


def kaplan_tokens(loss: float) -> float:
    """Critical batch of language modelling in tokens: 2e8 / L^(1/0.21), L in nats per token.

    Kaplan et al. 2020 (arXiv:2001.08361), equation 5.3.
    """
    return float(2e8 / loss ** (1 / 0.21))


TITLES = {
    "imagenet": "image classification on ImageNet",
    "cifar10": "image classification on CIFAR-10",
    "svhn": "image classification on SVHN",
    "mnist": "image classification on MNIST",
    "svhn-autoencoder": "an autoencoder on SVHN",
    "svhn-vae": "a variational autoencoder on SVHN",
    "detection": "object detection",
    "bert": "masked language modelling (BERT)",
    "llm": "language modelling",
    "billion-word": "language modelling on Billion Word (LSTM)",
    "atari": "reinforcement learning, Atari",
    "dota-1v1": "reinforcement learning, Dota 1v1",
    "image-generation": "latent diffusion",
    "speech": "speech recognition",
    "recommendation": "recommendation",
    "graph": "node classification in a graph",
}
_TABLE_1 = f"{MCCANDLISH_2018}, table 1, mean over a run"
_PUBLISHED = (
    _Published("imagenet", 15_000, "images", _TABLE_1, "ResNet-50; 1,000 at the start of a run"),
    _Published("cifar10", 900, "images", _TABLE_1, "300 at the start of a run"),
    _Published("svhn", 500, "images", _TABLE_1, "50 at the start of a run"),
    _Published("mnist", 200, "images", _TABLE_1, "20 at the start of a run"),
    _Published("svhn-autoencoder", 40, "images", _TABLE_1, "10 at the start of a run"),
    _Published("svhn-vae", 200, "images", _TABLE_1, "10 at the start of a run"),
    _Published("billion-word", 100_000, "tokens", _TABLE_1, "700 at the start of a run"),
    _Published("atari", 400, "frames", _TABLE_1, "the least of the games"),
    _Published("atari", 8_000, "frames", _TABLE_1, "the most of the games"),
    _Published("dota-1v1", 3_000_000, "frames", _TABLE_1, "50,000 at the start of a run"),
    *(
        _Published("llm", kaplan_tokens(loss), "tokens", f"{KAPLAN_2020}, 2e8 tokens / L^(1/0.21)", f"at {what}")
        for loss, what in (
            (3.3, "a loss of 3.3 nats per token, to which MLPerf's Llama-3.1-8B is trained"),
            (2.85, "a loss of 2.85 nats per token, about GPT-2's (124M) on OpenWebText"),
        )
    ),
)
_WAY_OUT = f"Known: {', '.join(TITLES)}; or give your own with --critical-batch."
_OF_TASK = {
    "masked language modelling": ("bert", "training BERT"),
    "language modelling": ("llm", "training a language model from scratch"),
}
LEAST_IMAGENET_SIDE = 128  # pixels; models of smaller images are trained on other data


def task_names() -> tuple[str, ...]:
    """What `task` may be, in the order of the table."""
    return tuple(TITLES)


def critical_batch(workload: Workload, *, task: str | None = None, given: float | None = None) -> CriticalBatch | None:
    """What is known of the critical batch of training `workload`, in its samples: a range where sources differ.

    `task` is one of `task_names()`; left out, that of the model where one is sensible, and `assumed` says so. `given`
    is the user's own. None: nothing is known. Tokens become sequences of the workload's length, said in the value's
    note.

    Raises UnknownNameError for an unknown task; BadInputError where `given` is not within GIVEN_SAMPLES, and where the
    task counts other samples than the model.
    """
    key = None if task is None else _find_task(task)
    if given is not None:
        return _given(workload, key, given)
    assumed = None
    if key is None:
        guess = _guess(workload)
        if guess is None:
            return None
        key, why = guess
        assumed = f"taken for {why}; --task names another"
    values = tuple(_in_samples(value, tokens, workload) for value, tokens in _values(key))
    samples = [value.samples for value in values]
    return CriticalBatch(min(samples), max(samples), values[0].unit, TITLES[key], values, assumed)


def _find_task(task: str) -> str:
    key = task.strip().lower().replace("_", "-")
    if key not in TITLES:
        raise UnknownNameError("task", task, TITLES, _WAY_OUT)
    return key


def _given(workload: Workload, key: str | None, given: float) -> CriticalBatch:
    number = isinstance(given, (int, float, np.number)) and not isinstance(given, bool)
    least, most = GIVEN_SAMPLES
    if not (number and least <= given <= most):  # also where it is NaN
        raise BadInputError(
            f"critical batch {given!r} is no number of samples from {least:g} to {most:g}: write it like "
            "--critical-batch 15000"
        )
    title = TITLES[key] if key else workload.task or "this task"
    unit = samples_of(workload)
    value = CriticalValue(key or "given", title, float(given), unit, "given", "as given", None, None, None)
    return CriticalBatch(float(given), float(given), unit, title, (value,), None)


def _guess(workload: Workload) -> tuple[str, str] | None:
    """The task a model is most likely trained for, and how that is said."""
    if workload.task == "image classification" and len(workload.input_shape) == 3:
        side = min(workload.input_shape[1:])
        if side >= LEAST_IMAGENET_SIDE:
            return "imagenet", "training on ImageNet"
        if workload.input_shape == (3, 32, 32):
            return "cifar10", "training on CIFAR-10, by its images of 3x32x32"
        return None
    return _OF_TASK.get(workload.task)


def _values(key: str) -> list[tuple[CriticalValue, int | None]]:
    """The values of one task, each with the tokens of one sample where they are known: 1 for a value in tokens."""
    found: list[tuple[CriticalValue, int | None]] = [
        (
            CriticalValue(p.task, TITLES[p.task], p.samples, p.unit, "published", p.source, None, None, p.note),
            1 if p.unit == "tokens" else None,
        )
        for p in _PUBLISHED
        if p.task == key
    ]
    for fit in fitted_batches().benchmarks:
        if fit.task == key:
            value = CriticalValue(
                key, fit.title, fit.critical_batch, fit.unit, "fitted", f"fitted to {MLPERF_RCP}", fit.median_error,
                fit.batches, fit.note, fit.interval,
            )  # fmt: skip
            found.append((value, fit.sample_tokens))
    return found


def _in_samples(value: CriticalValue, sample_tokens: int | None, workload: Workload) -> CriticalValue:
    """The value in the workload's samples; tokens and sequences of known length become sequences of its length."""
    unit = samples_of(workload)
    if sample_tokens is None:
        if unit not in ("samples", value.unit):
            raise BadInputError(
                f"the critical batch of task {value.task} counts {value.unit}, and {workload.name} trains on {unit}: "
                "name a task of the same kind, or give --critical-batch"
            )
        return value
    if unit != "sequences":
        raise BadInputError(
            f"the critical batch of task {value.task} counts tokens, and {workload.name} trains on {unit}, not "
            "sequences of them: name another task, or give --critical-batch"
        )
    length = workload.input_shape[0]
    samples = value.samples * sample_tokens / length
    if sample_tokens == length:
        return value
    of = f" of {sample_tokens:,}" if sample_tokens > 1 else ""
    tokens = f" = {rate(value.samples * sample_tokens)} tokens" if sample_tokens > 1 else ""
    how = f"{rate(value.samples)} {value.unit}{of}{tokens}, as {rate(samples)} sequences of {length:,}"
    scale = samples / value.samples
    measured = value.measured and (max(1, round(value.measured[0] * scale)), max(1, round(value.measured[1] * scale)))
    note = how if value.note is None else f"{value.note}; {how}"
    ends = value.interval and (value.interval[0] * scale, value.interval[1] * scale)
    return dataclasses.replace(value, samples=samples, unit="sequences", measured=measured, note=note, interval=ends)
