"""Matrix products along one dimension: the predicted line, the measured points beside it, and classes of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from advisor.gemm import GemmPrediction, gemm_time
from advisor.gpus import Gpu
from advisor.profile import GpuProfile
from advisor.report.subject import Floats, Integers, MeasuredProducts, Subject

Axis = Literal["m", "n", "k"]
SizeClass = Literal["power of two", "multiple of 64", "multiple of 8", "other"]
CLASSES: tuple[SizeClass, ...] = ("power of two", "multiple of 64", "multiple of 8", "other")
LEAST_POWER = 256  # the powers of two below have few sizes around them, and are bound by memory
NEAR = 1 / 8  # sizes this share smaller or larger are what one might take instead
LONGEST_STEP = 64  # two measured sizes farther apart are not neighbours
AROUND = 0.05  # nor do they tell of a cliff between them, where the larger is more than this share above the smaller
DROP = 0.05  # between neighbours; smaller ones are within what two software versions differ by
SEEN = 0.02  # a drop of the measured throughput is seen in the predicted, or the other way, from this one on


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
    gpu, profile, precision = subject.gpu, subject.profiles.gemm, subject.product_precision
    found = {axis: sizes * rows, **{name: np.full(len(sizes), size) for name, size in fixed.items()}}
    m, n, k = found["m"], found["n"], found["k"]
    return Sweep(
        id=id_, axis=axis, label=label or axis.upper(), sizes=sizes, m=m, n=n, k=k,
        gpu=gpu, profile=profile, precision=precision,
        prediction=gemm_time(profile, gpu, m, n, k, precision=precision),
        physical=gemm_time(profile, gpu, m, n, k, precision=precision, corrected=False),
    )  # fmt: skip


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
        """What a legend calls them: "cuBLAS, BF16, cold", and in brackets whose, where they are not the reader's."""
        library = {"cublas": "cuBLAS", "triton": "Triton"}.get(self.source.library, self.source.library)
        pass_ = "" if self.source.pass_ == "forward" else self.source.pass_
        name = ", ".join(filter(None, (library, self.source.precision.upper(), pass_, self.source.mode)))
        return f"{name} ({self.source.source})" if self.source.source else name

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
    def measured(self) -> bool:
        """Whether a drop was measured."""
        return self.measured_loss >= DROP

    @property
    def predicted(self) -> bool:
        """Whether a drop is predicted."""
        return self.predicted_loss >= DROP

    @property
    def agrees(self) -> bool:
        """Whether a drop of either is seen in the other too."""
        return not (self.measured or self.predicted) or min(self.measured_loss, self.predicted_loss) >= SEEN


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


def measured_around(points: Sequence[Points], before: int, after: int) -> MeasuredStep | None:
    """The least measured step over a predicted one: the same, or a wider one within AROUND; None without any."""
    steps = (step for each in points for step in each.steps)
    over = [step for step in steps if step.before <= before and after <= step.after]
    near = [step for step in over if (step.before, step.after) == (before, after)
            or step.after <= (1 + AROUND) * step.before]  # fmt: skip
    return min(near, key=lambda step: step.after - step.before, default=None)


# Classes of sizes ----------------------------------------------------------------------------------------------------


def size_class(sizes: Integers) -> list[SizeClass]:
    """The narrowest class of each size."""
    power = (sizes & (sizes - 1)) == 0
    return [CLASSES[i] for i in np.select([power, sizes % 64 == 0, sizes % 8 == 0], [0, 1, 2], 3)]


@dataclass(frozen=True)
class Power:
    """A power of two among the predicted sizes within NEAR of it; shares are of the best throughput there."""

    size: int
    share: float
    best: int  # the size of the best throughput
    multiples: float  # median of the other multiples of 64
    all: float  # median of all sizes


def powers_of_two(sweep: Sweep) -> tuple[Power, ...]:
    """Each power of two from LEAST_POWER on, of which the sweep has all that is within NEAR below, and some above."""
    sizes, rates = sweep.sizes, sweep.flops_per_s
    classes = np.array(size_class(sizes))
    found = []
    for i in np.flatnonzero((classes == "power of two") & (sizes >= LEAST_POWER)):
        near = np.abs(sizes - sizes[i]) <= NEAR * sizes[i]
        if sizes[0] > (1 - NEAR) * sizes[i] or i == len(sizes) - 1:
            continue
        best = int(np.flatnonzero(near)[np.argmax(rates[near])])
        share = rates / rates[best]
        multiples = near & (classes == "multiple of 64")
        median = float(np.median(share[multiples])) if multiples.any() else float("nan")
        found.append(Power(int(sizes[i]), float(share[i]), int(sizes[best]), median, float(np.median(share[near]))))
    return tuple(found)
