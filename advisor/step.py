"""Time and memory of one training (or inference) step at given batch sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.errors import BadInputError
from advisor.gemm import TF32_NOTE
from advisor.gpus import ResolvedGpu, resolve_gpu
from advisor.loading import profiles_for
from advisor.memory import MemoryCurve, default_margin, memory_curve, usable_memory_bytes
from advisor.profile import GpuProfile
from advisor.recipe import Recipe, make_recipe
from advisor.step_profile import StepProfile
from advisor.steptime import StepCurve, StepError, StepModel
from advisor.units import gib, parse_bytes, parse_fraction
from advisor.workload import Workload
from advisor.workload.catalogue import resolve_workload

if TYPE_CHECKING:
    import torch

MAX_BATCH = 1 << 20  # no step of more samples is predicted; it bounds every array


@dataclass(frozen=True)
class MemorySplit:
    """Where the device memory of one step goes, in bytes; `total_bytes` is what must be free before it starts."""

    parameters_bytes: int  # FP32 weights and buffers
    gradients_bytes: int  # FP32, where they outlive the step; otherwise they are part of activations_bytes
    optimizer_bytes: int
    activations_bytes: int  # live peak of everything else: activations, FP16 weight casts, temporaries
    workspace_bytes: int  # cuBLAS and cuDNN
    reserved_bytes: int  # the caching allocator's rounding and fragmentation
    context_bytes: int  # CUDA context and loaded kernels
    first_step_spike_bytes: int  # more than the steady state while cuDNN tries its algorithms
    total_bytes: int


@dataclass(frozen=True)
class StepPrediction:
    """One batch size: predicted time (s), throughput (samples/s) and memory of a step on one GPU."""

    batch: int
    time_s: float
    samples_per_s: float
    error: float  # the mean of `StepModel.error`
    memory: MemorySplit
    fits: bool  # total_bytes, and the margin, in the memory limit
    busy_share: float  # of the step's time in which the GPU runs kernels
    wave_efficiency: float  # over GEMM, convolution and attention, weighted by their time
    tile_efficiency: float
    class_share: dict[str, float]  # class of operation -> share of the GPU's time


@dataclass(frozen=True)
class Setup:
    """All that a prediction stands on. Build it once, ask it for many batch sizes."""

    workload: Workload
    resolved_gpu: ResolvedGpu
    profile: GpuProfile
    recipe: Recipe
    memory_limit_bytes: int | None  # None: the memory of this GPU is unknown
    margin: float  # share added to the predicted memory before it is held against the limit
    gpus: int = 1
    step_profile: StepProfile | None = None  # None: the shipped one
    profile_notes: tuple[str, ...] = ()  # what stands against the profiles: their age, changed software

    @cached_property
    def model(self) -> StepModel:
        """The time model of this setup."""
        return StepModel(
            self.workload, gpu=self.resolved_gpu.gpu, profile=self.profile, recipe=self.recipe,
            step_profile=self.step_profile,
        )  # fmt: skip

    @property
    def error(self) -> StepError:
        """Held-out error of the time model on a card like this one, and where it comes from."""
        return self.model.error

    def describe_recipe(self) -> str:
        """One line: how the step is run, with the layout and the attention that were traced."""
        variant = self.model.variant
        return self.recipe.describe(layout=variant.layout, attention=variant.attention)

    def notes(self) -> tuple[str, ...]:
        """What a user should know of where the predictions come from, a line each; the GPU's own note is first."""
        gpu, precision = self.resolved_gpu.gpu, self.recipe.precision
        of_products = self.profile.note if self.model.product_profile is not None else None
        notes = [self.resolved_gpu.note, of_products, *self.profile_notes]
        if precision != "fp32" and not gpu.supports(precision):
            notes.append(
                f"{gpu.name} has no {precision.upper()} Tensor Cores: matrix products are predicted at the FP32 rate."
            )
        elif precision == "tf32":
            notes.append(f"{TF32_NOTE}.")
        if self.memory_limit_bytes is None:
            notes.append("The memory of this GPU is unknown, so nothing was held against it: give --memory-limit.")
        return tuple(note for note in notes if note)

    def describe_profile(self) -> str:
        """One line: where the coefficients come from, those of matrix products and those of all else."""
        steps = self.model.step_profile
        if steps.measured:
            return steps.measured
        fitted = steps.gpu
        if fitted == self.resolved_gpu.gpu.id:
            return "fitted to public training and inference steps of this GPU"
        scaled = f"from steps of the {fitted}, scaled by this GPU's facts"
        if self.model.product_profile is None:
            waves = self.profile.gemm.get("fp16" if self.recipe.autocast else "fp32")
            return (
                f"all {scaled}" if waves is None else f"waves of matrix products as on {waves.gpu}; all else {scaled}"
            )
        return f"matrix products {self.profile.describe()}; all else {scaled}"

    def curve(self, batches: np.ndarray) -> StepCurve:
        """Time of a step at each batch size."""
        return self.model.curve(batches)

    def memory(self, batches: np.ndarray, *, accumulate: bool = False) -> MemoryCurve:
        """Memory of a step at each batch size; `accumulate`: gradients are kept from micro-step to micro-step."""
        return memory_curve(
            self.workload, gpu=self.resolved_gpu.gpu, profile=self.profile, recipe=self.recipe, batches=batches,
            gpus=self.gpus, accumulate=accumulate, step_profile=self.step_profile,
        )  # fmt: skip

    def fits(self, total_bytes: np.ndarray) -> np.ndarray:
        """Whether each predicted total fits with the margin. Where the limit is unknown, all do."""
        if self.memory_limit_bytes is None:
            return np.ones(len(total_bytes), dtype=bool)
        return np.asarray(total_bytes * (1 + self.margin) <= self.memory_limit_bytes)

    def predict(self, batches: np.ndarray) -> tuple[StepPrediction, ...]:
        """One record per batch size, in the order given."""
        curve, memory = self.curve(batches), self.memory(batches)
        fits, error = self.fits(memory.total_bytes), self.error.mean_abs_log
        return tuple(
            StepPrediction(
                batch=int(batch),
                time_s=float(curve.time_s[i]),
                samples_per_s=float(batch / curve.time_s[i]),
                error=error,
                memory=memory_split(memory, i),
                fits=bool(fits[i]),
                busy_share=float(curve.busy_share[i]),
                wave_efficiency=float(curve.wave_efficiency[i]),
                tile_efficiency=float(curve.tile_efficiency[i]),
                class_share={name: float(t[i] / curve.gpu_time_s[i]) for name, t in curve.class_time_s.items()},
            )
            for i, batch in enumerate(batches)
        )


def memory_split(memory: MemoryCurve, i: int) -> MemorySplit:
    """The memory of the i-th batch size of a curve as one record."""
    return MemorySplit(
        parameters_bytes=int(memory.parameters_bytes[i] + memory.buffers_bytes[i]),
        gradients_bytes=int(memory.gradients_bytes[i]),
        optimizer_bytes=int(memory.optimizer_state_bytes[i]),
        activations_bytes=int(memory.live_peak_bytes[i]),
        workspace_bytes=int(memory.workspace_bytes[i]),
        reserved_bytes=int(memory.reserved_bytes[i]),
        context_bytes=int(memory.context_bytes[i]),
        first_step_spike_bytes=int(memory.first_step_spike_bytes[i]),
        total_bytes=int(memory.total_bytes[i]),
    )


def prepare(
    model: str | Workload | torch.nn.Module,
    *,
    gpu: str = "auto",
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    layout: str | None = None,
    precision: str | None = None,
    optimizer: str | None = None,
    mode: str | None = None,
    recipe: str = "default",
    memory_limit: str | int | None = None,
    margin: str | float | None = None,
    profile: str | Path | None = None,
    gpus: int = 1,
) -> Setup:
    """Resolve names into a Setup.

    `model`: a catalogue name, "torchvision:NAME", "timm:NAME", "hf:NAME", "package.module:factory", an nn.Module or
    a Workload. `input_shape` is one sample's, without the batch. `memory_limit` is in bytes, or text such as "24GiB";
    left out, it is the memory free on the local GPU, or what the driver leaves of a planned one. `margin` is a share.

    Raises AdvisorError's kinds: unknown names, no GPU, bad values, a model that does not trace, broken files.
    """
    chosen = make_recipe(recipe, layout=layout, precision=precision, optimizer=optimizer, mode=mode)
    resolved = resolve_gpu(gpu)
    workload = resolve_workload(model, input_shape=input_shape, seq_len=seq_len, recipe=chosen)
    loaded = profiles_for(resolved, precision=chosen.precision, path=None if profile is None else Path(profile))
    return Setup(
        workload=workload,
        resolved_gpu=resolved,
        profile=loaded.gemm,
        step_profile=loaded.steps,
        profile_notes=loaded.notes,
        recipe=chosen,
        memory_limit_bytes=_memory_limit(memory_limit, resolved),
        margin=default_margin(loaded.gemm) if margin is None else check_share("margin", margin),
        gpus=check_count("number of GPUs", gpus, limit=1 << 20),
    )


def predict_step(
    model: str | Workload | torch.nn.Module, *, batches: Iterable[int], **setup: Any
) -> tuple[StepPrediction, ...]:
    """Predict time and memory of a step of `model` at each of `batches` (samples per GPU).

    The other arguments are those of `prepare`: gpu, input_shape, seq_len, layout, precision, optimizer, mode, recipe,
    memory_limit, margin, profile. Returns one StepPrediction per batch size, in the order given.

    >>> predict_step("resnet50", gpu="rtx3090", batches=[128, 256])[0].fits
    True
    """
    sizes = check_batches(batches)
    return prepare(model, **setup).predict(sizes)


def check_batches(batches: Iterable[int]) -> np.ndarray:
    """Return batch sizes as an array; raise BadInputError where there are none, or one is no whole number in range."""
    if not isinstance(batches, Iterable):
        raise BadInputError(f"batches must be several sizes, such as [128, 256], not {batches!r}")
    sizes = np.array([check_count("batch size", batch, limit=MAX_BATCH) for batch in batches], dtype=np.int64)
    if not len(sizes):
        raise BadInputError("no batch size was given: name at least one")
    return sizes


def is_number(value: object) -> bool:
    """Whether a value is a real number of Python or NumPy. NaN is one, True is none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_count(what: str, value: int, *, limit: int) -> int:
    """Return `value` if it is a whole number from 1 to `limit`; otherwise raise BadInputError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= limit:
        raise BadInputError(f"{what} {value!r} is no whole number from 1 to {limit}")
    return int(value)


def memory_sum(split: MemorySplit) -> str:
    """The sum behind a total, in one line."""
    parts: Mapping[str, int] = {
        "weights": split.parameters_bytes,
        "gradients": split.gradients_bytes,
        "optimizer": split.optimizer_bytes,
        "activations": split.activations_bytes,
        "workspace": split.workspace_bytes,
        "allocator": split.reserved_bytes,
        "CUDA context": split.context_bytes,
        "first-step spike": split.first_step_spike_bytes,
    }
    shown = [f"{name} {gib(size)}" for name, size in parts.items() if size]
    return f"{' + '.join(shown)} = {gib(split.total_bytes)}"


def _memory_limit(given: str | int | None, resolved: ResolvedGpu) -> int | None:
    if given is None:
        return usable_memory_bytes(resolved.gpu) if resolved.free_bytes is None else resolved.free_bytes
    if isinstance(given, str):
        given = math.floor(parse_bytes(given))
    return check_count("memory limit in bytes", given, limit=1 << 50)


def check_share(what: str, given: str | float) -> float:
    """Return a share such as 0.05 or "5%"; raise BadInputError where it is none from 0 up to 1."""
    if isinstance(given, str):
        return parse_fraction(given)
    if not isinstance(given, (int, float)) or not 0 <= given < 1:  # also false for NaN
        raise BadInputError(f"{what} {given!r} is no share from 0 up to 1: write it like 0.05")
    return float(given)
