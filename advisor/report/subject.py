"""What the sections of a report are about: one GPU, some models, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.gpus import Gpu, ResolvedGpu
from advisor.loading import Profiles
from advisor.profile import Error, GemmModel
from advisor.recommendation import Recommendation
from advisor.report.records import Origin, slug
from advisor.units import percent

if TYPE_CHECKING:
    from advisor.profiling.records import TraceProfile

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredProducts:
    """Matrix products C[m, n] = A[m, k] B[k, n] timed by one library under one set of conditions; parallel arrays.

    Of the reader's own rows `time_s` is the median, `low_s` and `high_s` are the quartiles. Of public rows it is the
    figure of the source, and they are the ends of a spread that `origin` names; NaN where there is none.
    """

    m: Integers
    n: Integers
    k: Integers
    time_s: Floats
    low_s: Floats
    high_s: Floats
    precision: str  # "fp16", "bf16", "fp32", "tf32"
    library: str  # "cublas", "triton"
    mode: str  # caches: "cold", "warm", or "" where the source does not say
    kernel: tuple[str, ...]  # names, "" where unknown
    fitted: bool  # whether the profile's fit has seen these rows
    origin: Origin
    pass_: str = ""  # of a linear layer: "forward", "dgrad" or "wgrad"; "": a product by itself
    source: str = ""  # whose, in a word or two for a legend: "EleutherAI"; "": the reader's own


@dataclass(frozen=True)
class MeasuredPair:
    """One case that a library and our Triton kernel both ran; `ratio` is the library's time over ours."""

    case: str
    group: str  # kind, pass, type, layout, caches: "gemm forward fp16 cold"
    library: str
    library_s: float
    ours_s: float
    ratio: float
    flops: float = math.nan  # of the case; NaN where the source does not say


@dataclass(frozen=True)
class MeasuredSteps:
    """Whole training steps of one model; parallel arrays by batch size. NaN where a figure is absent."""

    model: str
    batch: Integers
    time_s: Floats
    memory_bytes: Floats  # peak, as MemorySplit.total_bytes counts it
    power_w: Floats
    recipe: str
    origin: Origin


@dataclass(frozen=True)
class MeasuredTimeline:
    """The recorded CTAs of one launch: `record` is an entry of what `bench timelines` prints."""

    record: Mapping[str, Any]
    origin: Origin


@dataclass(frozen=True)
class Measured:
    """Everything measured that a report may show. `notes` say what was left out or sampled, and why."""

    products: tuple[MeasuredProducts, ...] = ()
    pairs: tuple[MeasuredPair, ...] = ()
    pairs_origin: Origin | None = None
    steps: tuple[MeasuredSteps, ...] = ()
    timelines: tuple[MeasuredTimeline, ...] = ()
    conditions: Mapping[str, str] | None = None  # of the records: GPU, driver, versions, clocks, dates
    gpu_id: str | None = None  # which GPU the records are of
    notes: tuple[str, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether there is a single measured row."""
        return bool(self.products or self.pairs or self.steps or self.timelines)


@dataclass(frozen=True)
class ProductError:
    """How wrong predicted matrix products were on products that the fit has not seen."""

    error: Error
    checked_on: str | None  # the GPU it is of, where predicting this GPU from that one's timings was never checked

    @property
    def label(self) -> str:
        """For the legend of a band."""
        return f"its mean error{f' on {self.checked_on}' if self.checked_on else ''}, {percent(self.error.mean, 1)}"


@dataclass(frozen=True)
class Subject:
    """What a section is given. A section returns None where it has nothing to show."""

    resolved: ResolvedGpu
    profiles: Profiles  # of FP16
    models: tuple[Recommendation, ...]  # one per model asked for, already decided
    measured: Measured
    trace: TraceProfile | None = None

    @property
    def gpu(self) -> Gpu:
        """The GPU's facts."""
        return self.resolved.gpu

    def named_models(self) -> tuple[tuple[str, Recommendation], ...]:
        """Each model behind the part of an id that stands for it: its slug, numbered from the second of one slug on."""
        taken: set[str] = set()
        named = []
        for model in self.models:
            wanted, number = slug(model.answer.model.name), 1
            name = wanted
            while name in taken:
                number += 1
                name = f"{wanted}-{number}"
            taken.add(name)
            named.append((name, model))
        return tuple(named)

    @property
    def product_precision(self) -> str:
        """What matrix products are predicted in: FP16 where there are Tensor Cores for it, else FP32."""
        return "fp16" if self.gpu.has_tensor_cores else "fp32"

    def product_error(self) -> ProductError:
        """The error of predicted matrix products: of the precision they are predicted in, and of borrowing if so."""
        _, model = self._product_model()
        borrowed = model.gpu != self.profiles.gemm.gpu
        if borrowed and model.borrowed is None:
            return ProductError(model.held_out, model.gpu)
        return ProductError((model.borrowed if borrowed else None) or model.held_out, None)

    def gemm_origin(self) -> Origin:
        """The origin of a predicted matrix product's time."""
        precision, model = self._product_model()
        error = self.product_error()
        whose = f"with the coefficients of {model.gpu}, scaled by the facts of {self.gpu.id}"
        if model.gpu == self.profiles.gemm.gpu:
            source = "timings" if model.kind == "measured" else "public measurements"
            whose = f"fitted to {source} of this GPU ({model.fitted})"
            how, told = "on products that the fit has not seen", "predicted; unseen ones were"
        elif error.checked_on:
            told = f"predicted with another GPU's coefficients, which was never checked; on {model.gpu} they were"
            how = f"such a loan was never checked; on {model.gpu}, on products that its fit has not seen,"
        else:
            how = f"{model.gpu}, predicted in the same way from another GPU's, was"
            told = "predicted with another GPU's coefficients; one such GPU was"
        return Origin(
            "estimate",
            f"{precision.upper()} matrix products predicted for {self.gpu.name}, {whose}; {how} "
            f"{percent(error.error.mean, 1)} off in the mean, {percent(error.error.p90)} in one of ten",
            short=f"{precision.upper()} matrix products, {told} {percent(error.error.mean, 1)} off in the mean",
        )

    def _product_model(self) -> tuple[str, GemmModel]:
        """The precision of predicted products and its model; another precision's where the profile lacks that one."""
        models, wanted = self.profiles.gemm.gemm, self.product_precision
        return (wanted, models[wanted]) if wanted in models else next(iter(models.items()))
