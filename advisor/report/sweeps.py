"""Matrix products along one dimension: the predicted line, the measured points beside it, and classes of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from advisor.errors import BadInputError
from advisor.gemm import GemmPrediction, gemm_time
from advisor.gpus import Gpu
from advisor.profile import Error, GemmModel, GpuProfile
from advisor.report.records import Origin
from advisor.report.subject import Floats, Integers, MeasuredProducts, Subject
from advisor.units import percent

Axis = Literal["m", "n", "k"]
SizeClass = Literal["power of two", "multiple of 64", "multiple of 8", "other"]
CLASSES: tuple[SizeClass, ...] = ("power of two", "multiple of 64", "multiple of 8", "other")
LEAST_CLASSED = 256  # sizes below are too few, and bound by memory: not counted in `standing`
NEAR = 1 / 8  # sizes this share smaller or larger are what one might take instead
LONGEST_STEP = 64  # two measured sizes farther apart are not neighbours
MEASURED_DROP = 0.05  # between neighbours; smaller ones are within what two software versions differ by


@dataclass(frozen=True)
class Sweep:
    """Predicted products along one dimension; arrays run along `sizes`, which rise.

    `sizes` are those of `axis`, or numbers of samples where the products are those of a layer (`label` says which).
    `physical` is the prediction without the correction from measured neighbours.
    """

    id: str
    axis: Axis
    label: str  # of `sizes`: "M", "N", "batch size"
    sizes: Integers
    m: Integers
    n: Integers
    k: Integers
    gpu: Gpu
    profile: GpuProfile
    precision: str
    prediction: GemmPrediction
    physical: GemmPrediction

    @property
    def flops_per_s(self) -> Floats:
        """Predicted rate at each size."""
        return np.asarray(self.prediction.flops / self.prediction.time_s)

    @property
    def fixed(self) -> str:
        """The two dimensions that do not change: "N = 12288, K = 4096"."""
        return ", ".join(f"{axis.upper()} = {int(getattr(self, axis)[0])}" for axis in "mnk" if axis != self.axis)


def predict_sweep(
    subject: Subject, axis: Axis, sizes: Integers, *, fixed: dict[str, int], id_: str, label: str = "", rows: int = 1
) -> Sweep:
    """Predict the products whose `axis` is `sizes` times `rows`, the other two dimensions `fixed`.

    Raises BadInputError where facts of the GPU are missing that a prediction needs.
    """
    gpu, profile, precision = subject.gpu, subject.profiles.gemm, precision_of(subject.gpu)
    found = {axis: sizes * rows, **{name: np.full(len(sizes), size) for name, size in fixed.items()}}
    m, n, k = found["m"], found["n"], found["k"]
    return Sweep(
        id=id_, axis=axis, label=label or axis.upper(), sizes=sizes, m=m, n=n, k=k,
        gpu=gpu, profile=profile, precision=precision,
        prediction=gemm_time(profile, gpu, m, n, k, precision=precision),
        physical=gemm_time(profile, gpu, m, n, k, precision=precision, corrected=False),
    )  # fmt: skip


def precision_of(gpu: Gpu) -> str:
    """What matrix products are predicted in: FP16 where there are Tensor Cores for it, else FP32."""
    return "fp16" if gpu.has_tensor_cores else "fp32"


@dataclass(frozen=True)
class ProductError:
    """How wrong the predictions of `predict_sweep` were on products that the fit has not seen."""

    error: Error
    checked_on: str | None  # the GPU it is of, where predicting this GPU from that one's timings was never checked

    @property
    def label(self) -> str:
        """For the legend of a band."""
        return f"its mean error{f' on {self.checked_on}' if self.checked_on else ''}, {percent(self.error.mean, 1)}"


def product_error(subject: Subject) -> ProductError:
    """The held-out error of the model that predicts a subject's products."""
    model = _model(subject)
    borrowed = model.gpu != subject.profiles.gemm.gpu
    if borrowed and model.borrowed is None:
        return ProductError(model.held_out, model.gpu)
    return ProductError((model.borrowed if borrowed else None) or model.held_out, None)


def product_origin(subject: Subject) -> Origin:
    """Where the predictions of `predict_sweep` come from, and how wrong they are."""
    found, precision = product_error(subject), precision_of(subject.gpu)
    if precision == "fp16" and found.checked_on is None:
        return subject.gemm_origin()
    model, error = _model(subject), found.error
    whose = (
        "fitted to timings of this GPU"
        if model.gpu == subject.profiles.gemm.gpu
        else f"with the coefficients of {model.gpu}, scaled by its facts"
    )
    where = f"of {found.checked_on}, none of this GPU: " if found.checked_on else ""
    return Origin(
        "estimate",
        f"{precision.upper()} matrix products predicted for {subject.gpu.name}, {whose}; on products that the fit has "
        f"not seen ({where}{error.what}) {100 * error.mean:.1f} % off in the mean, {100 * error.p90:.0f} % in one of "
        "ten",
    )


def _model(subject: Subject) -> GemmModel:
    models, precision = subject.profiles.gemm.gemm, precision_of(subject.gpu)
    if precision not in models:
        raise BadInputError(f"the profile of {subject.gpu.id} has no timings in {precision}: give another, --profile")
    return models[precision]


# Measured beside predicted -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Measured products on a sweep's line, of one source; parallel arrays by rising size."""

    source: MeasuredProducts
    sizes: Integers
    flops: Floats
    time_s: Floats
    low_s: Floats
    high_s: Floats
    predicted_s: Floats
    kernel: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a legend calls them: "cuBLAS, BF16, cold"."""
        library = {"cublas": "cuBLAS", "triton": "Triton"}.get(self.source.library, self.source.library)
        pass_ = "" if self.source.pass_ == "forward" else self.source.pass_
        return ", ".join(filter(None, (library, self.source.precision.upper(), pass_, self.source.mode)))

    @property
    def off(self) -> Floats:
        """Predicted time over measured, less one."""
        return np.asarray(self.predicted_s / self.time_s - 1)

    @cached_property
    def steps(self) -> tuple[MeasuredStep, ...]:
        """Every pair of neighbouring sizes at most LONGEST_STEP apart; of several rows of one size the median."""
        sizes, first = np.unique(self.sizes, return_index=True)
        time_s = np.array([np.median(self.time_s[self.sizes == size]) for size in sizes])
        measured, predicted = self.flops[first] / time_s, self.flops[first] / self.predicted_s[first]
        return tuple(
            MeasuredStep(
                int(sizes[i]), int(sizes[i + 1]),
                float(1 - measured[i + 1] / measured[i]), float(1 - predicted[i + 1] / predicted[i]),
            )
            for i in np.flatnonzero(np.diff(sizes) <= LONGEST_STEP)
        )  # fmt: skip


@dataclass(frozen=True)
class MeasuredStep:
    """Two neighbouring sizes that one source measured: the share of throughput lost from one to the other."""

    before: int
    after: int
    measured_loss: float
    predicted_loss: float

    @property
    def agrees(self) -> bool:
        """Whether both are a drop, or neither is."""
        return (self.measured_loss >= MEASURED_DROP) == (self.predicted_loss >= MEASURED_DROP)


def points_on(sweep: Sweep, measured: Iterable[MeasuredProducts]) -> tuple[Points, ...]:
    """Measured products that lie on a sweep's line, between its ends, each with its prediction."""
    wanted = {"fp16", "bf16"} if sweep.precision == "fp16" else {sweep.precision}
    others = [axis for axis in ("m", "n", "k") if axis != sweep.axis]
    along = getattr(sweep, sweep.axis)
    rows = int(along[0]) // int(sweep.sizes[0])
    found = []
    for source in measured:
        size = getattr(source, sweep.axis)
        at = (size >= along[0]) & (size <= along[-1]) & (size % rows == 0) & (source.time_s > 0)
        for axis in others:
            at &= getattr(source, axis) == getattr(sweep, axis)[0]
        index = np.flatnonzero(at)
        if source.precision not in wanted or not len(index):
            continue
        index = index[np.argsort(size[index], kind="stable")]
        m, n, k = source.m[index], source.n[index], source.k[index]
        predicted = gemm_time(sweep.profile, sweep.gpu, m, n, k, precision=sweep.precision)
        found.append(
            Points(
                source=source, sizes=size[index] // rows, flops=predicted.flops, predicted_s=predicted.time_s,
                time_s=source.time_s[index], low_s=source.low_s[index], high_s=source.high_s[index],
                kernel=tuple(source.kernel[i] for i in index) if source.kernel else ("",) * len(index),
            )
        )  # fmt: skip
    return tuple(found)


def measured_loss(points: Sequence[Points], before: int, after: int) -> float | None:
    """Share of throughput that measurements lose between these two sizes (the first source that has both), or None."""
    for each in points:
        for step in each.steps:
            if (step.before, step.after) == (before, after):
                return step.measured_loss
    return None


# Classes of sizes ----------------------------------------------------------------------------------------------------


def size_class(sizes: Integers) -> list[SizeClass]:
    """The narrowest class of each size."""
    power = (sizes & (sizes - 1)) == 0
    return [CLASSES[i] for i in np.select([power, sizes % 64 == 0, sizes % 8 == 0], [0, 1, 2], 3)]


@dataclass(frozen=True)
class Standing:
    """How near a group of sizes comes to the best throughput at sizes within NEAR of theirs."""

    name: str
    count: int
    median: float
    worst: float


def standings(sweep: Sweep, tops: Integers) -> tuple[Standing, ...]:
    """`Standing` of each class, and of `tops` (sizes just under a cliff, of any class), from LEAST_CLASSED on.

    A group without a size is left out.
    """
    share = sweep.flops_per_s / _best_near(sweep)
    classes = np.array(size_class(sweep.sizes))
    groups: dict[str, Any] = {"just under a cliff": np.isin(sweep.sizes, tops)}
    groups |= {name: classes == name for name in CLASSES}
    counted = {name: at & (sweep.sizes >= LEAST_CLASSED) for name, at in groups.items()}
    return tuple(
        Standing(name, int(at.sum()), float(np.median(share[at])), float(share[at].min()))
        for name, at in counted.items()
        if at.any()
    )


def _best_near(sweep: Sweep) -> Floats:
    """The best throughput at the sweep's sizes within NEAR of each."""
    first = np.searchsorted(sweep.sizes, np.ceil(sweep.sizes * (1 - NEAR)))
    end = np.searchsorted(sweep.sizes, np.floor(sweep.sizes * (1 + NEAR)), side="right")
    rates = np.append(sweep.flops_per_s, 0.0)  # reduceat wants both ends of the last window to exist
    return np.asarray(np.maximum.reduceat(rates, np.column_stack([first, end]).ravel())[::2])
