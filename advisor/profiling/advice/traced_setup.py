"""A traced step as a Setup, so that it is recommended for as any model is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from advisor.memory import MemoryCurve
from advisor.profiling.advice.calibrated import AmpModel, CalibratedModel, StepTimes
from advisor.profiling.advice.memory import TracedMemory
from advisor.profiling.advice.traced_step import TracedStep
from advisor.recipe import Recipe
from advisor.step import Setup
from advisor.step_profile import load_step_profile
from advisor.steptime import StepCurve, StepModel

MOST_PREDICTED = 4096  # sizes of a search; the steps between them are then far smaller than a tooth of the curve


def some_sizes(least: int, most: int) -> np.ndarray:
    """All sizes from `least` to `most`, or so many of them that are ever further apart."""
    few = np.geomspace(least, most, min(MOST_PREDICTED, most - least + 1))
    return np.unique(np.rint(few)).astype(np.int64)


@dataclass(frozen=True)
class Measured:
    """What calibrates a curve: the traced step, its times, and the recipe it ran in."""

    step: TracedStep
    times: StepTimes
    recipe: Recipe


@dataclass(frozen=True)
class TracedSetup(Setup):
    """A Setup whose workload, memory and, on the traced GPU, times come from a trace."""

    measured: Measured | None = None  # None: another GPU, predicted without calibration
    traced_memory: TracedMemory | None = None  # None: unknown, and then everything is taken to fit
    ran: int = 0  # a batch that ran on this very GPU and so fits, whatever is predicted

    @cached_property
    def model(self) -> StepModel:
        """The time model: calibrated, where the trace is of this GPU."""
        common: dict[str, Any] = {
            "workload": self.workload, "gpu": self.resolved_gpu.gpu, "profile": self.profile,
            "step_profile": self.step_profile,
        }  # fmt: skip
        if self.measured is None:
            return StepModel(recipe=self.recipe, **common)
        traced, times, recipe = self.measured.step, self.measured.times, self.measured.recipe
        if recipe.autocast != self.recipe.autocast:
            return AmpModel(traced, times, amp=StepModel(recipe=self.recipe, **common), recipe=recipe, **common)
        return CalibratedModel(traced, times, recipe=recipe, **common)

    def curve(self, batches: np.ndarray) -> StepCurve:
        """Time of a step at each batch size; of very many sizes in order, predicted at some and interpolated."""
        if len(batches) <= MOST_PREDICTED:
            return super().curve(batches)
        few = np.unique(np.geomspace(batches[0], batches[-1], MOST_PREDICTED).astype(np.int64))
        curve = super().curve(few)

        def between(values: np.ndarray) -> np.ndarray:
            return np.asarray(np.interp(batches, few, values))

        names = [name for name in StepCurve.__dataclass_fields__ if name not in ("batches", "class_time_s")]
        classes = {name: between(values) for name, values in curve.class_time_s.items()}
        return StepCurve(
            batches=batches, class_time_s=classes, **{name: between(getattr(curve, name)) for name in names}
        )

    def memory(self, batches: np.ndarray, *, accumulate: bool = False) -> MemoryCurve:
        """Memory of a step at each batch size; zeros where it is unknown."""
        if self.traced_memory is None:
            zeros = np.zeros(len(batches), dtype=np.int64)
            names = [name for name in MemoryCurve.__dataclass_fields__ if name != "batches"]
            return MemoryCurve(batches=np.asarray(batches, dtype=np.int64), **dict.fromkeys(names, zeros))
        profile = self.step_profile or load_step_profile()
        return self.traced_memory.curve(batches, profile, gpus=self.gpus, accumulate=accumulate)

    def fits(self, total_bytes: np.ndarray) -> np.ndarray:
        """Whether each predicted total fits with the margin, or is no larger than that of the batch that ran."""
        fits = super().fits(total_bytes)
        if not self.ran:
            return fits
        proven = self.memory(np.array([self.ran])).total_bytes[0]
        return np.asarray(fits | (total_bytes <= proven))
