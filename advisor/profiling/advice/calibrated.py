"""The time model of a traced step, held to what the trace measured.

Every operation takes its measured time at the traced batch B0, and at another batch what the model says it would gain
or lose: t(B) = measured * model(B) / model(B0). Kernels of forward and backward that the model does not know grow with
B; the optimizer's and the gradients' communication do not grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor.profiling.advice.traced_step import TracedStep
from advisor.profiling.records import StepFacts
from advisor.steptime import CLASSES, OVERLAP_POWER, Batches, Floats, StepCurve, StepError, StepModel

HELD_FACTOR = 8
# |ln(predicted / measured)| of samples/s of a curve that is right at one batch of a sweep, at another that is at most
# HELD_FACTOR times as large or small: reports/ACCURACY.md, "Shape over the batch".
_SWEEPS = "curves held to one measured batch, at others of public FP32 sweeps of "
SHAPE_ERRORS = {
    "convolutions": StepError(0.044, 0.108, _SWEEPS + "ResNet-50"),
    "others": StepError(0.129, 0.255, _SWEEPS + "BERT, whose sequences there grow with the batch"),
}
UNSEEN = 0.4  # a host that takes this share of the GPU's time lengthens a step by less than 0.1 %


@dataclass(frozen=True)
class StepTimes:
    """What a step consists of at the traced batch, in seconds; the parts sum to `step_s`."""

    step_s: float
    busy_s: float  # in which kernels or copies run
    host_s: float  # the GPU waits for launches: hidden as kernels grow
    data_s: float  # it waits for data: grows with the batch
    fixed_s: float  # it waits for communication or after a synchronization: stays

    @classmethod
    def of(cls, facts: StepFacts, passes: int) -> StepTimes:
        """From the facts of a step, per pass; gaps are scaled so that the parts sum to the median step."""
        step_s = facts.step_s / passes
        busy_s = min(facts.busy_share, 1.0) * step_s
        gaps = {cause: max(0.0, seconds) for cause, seconds in facts.gap_s.items()}
        total = sum(gaps.values())
        share = (step_s - busy_s) / total if total > 0 else 0.0
        host_s = gaps.get("host", 0.0) * share if total > 0 else step_s - busy_s
        data_s = gaps.get("data", 0.0) * share
        return cls(step_s, busy_s, host_s, data_s, max(0.0, step_s - busy_s - host_s - data_s))


class CalibratedModel(StepModel):
    """A StepModel whose curve passes through the traced step. `layers` stay the model's own."""

    def __init__(self, traced: TracedStep, times: StepTimes, **model: Any) -> None:
        super().__init__(**model)
        self._traced, self._times = traced, times
        at_traced, _ = self._op_seconds(np.array([traced.batch], dtype=float))
        self._modelled_s = np.maximum(at_traced[:, 0], 1e-12)
        self._kernel_s = max(traced.kernel_s, 1e-12)
        self._host_s = self._host_seconds()

    @property
    def error(self) -> StepError:
        """What remains once the curve is held to one measured batch: the error of its shape over the batch."""
        convolves = any(op.kind.startswith("conv") for op in self.variant.ops)
        return SHAPE_ERRORS["convolutions" if convolves else "others"]

    def kernels_per_s(self, batches: Batches) -> Floats:
        """Samples/s if nothing but the kernels took time: no waits for the host, data or other GPUs."""
        sizes = np.asarray(batches, dtype=float)
        gained: Floats = sizes / (self._gpu_seconds(self._weighted(sizes), sizes))
        return gained

    def _curve(self, batches: Batches) -> StepCurve:
        sizes = batches.astype(float)
        modelled = super()._curve(batches)
        weighted = self._weighted(sizes)
        gpu_s = self._gpu_seconds(weighted, sizes)
        grown = sizes / self._traced.batch
        host_s = np.full(len(sizes), self._host_s)
        core_s = _longest(gpu_s, host_s) * self._exactness()
        time_s = core_s + self._times.fixed_s + self._times.data_s * grown
        to_busy = self._times.busy_s / self._kernel_s
        classes = {name: to_busy * weighted[self._class == i].sum(axis=0) for i, name in enumerate(CLASSES)}
        constant = dict(self._traced.constant_s)
        classes["optimizer"] = np.full(len(sizes), to_busy * constant.pop("optimizer", 0.0))
        classes["other"] = classes["other"] + to_busy * (sum(constant.values()) + self._traced.growing_s * grown)
        return StepCurve(
            batches=batches,
            time_s=time_s,
            gpu_time_s=gpu_s,
            host_time_s=host_s,
            class_time_s=classes,
            wave_efficiency=modelled.wave_efficiency,
            tile_efficiency=modelled.tile_efficiency,
            quantization_loss_s=modelled.quantization_loss_s * gpu_s / np.maximum(modelled.gpu_time_s, 1e-12),
        )

    def _weighted(self, sizes: Floats) -> Floats:
        """Seconds of all calls of each operation (ops, batches)."""
        seconds, _ = self._op_seconds(sizes)
        found: Floats = self._traced.op_s[:, None] * seconds / self._modelled_s[:, None]
        return found

    def _gpu_seconds(self, weighted: Floats, sizes: Floats) -> Floats:
        """Time in which the GPU works: the sum of kernels, scaled by how much of it overlapped when traced."""
        kernels = weighted.sum(axis=0) + self._traced.growing_s * sizes / self._traced.batch
        kernels = kernels + sum(self._traced.constant_s.values())
        busy: Floats = kernels * (self._times.busy_s / self._kernel_s)
        return busy

    def _host_seconds(self) -> float:
        """The host's time to launch a step: with it, kernels and launches together take what was measured.

        Where the GPU never waited for it, it took less than was seen: the model's own figure stands in, as far as it
        would have gone unseen.
        """
        times, p = self._times, OVERLAP_POWER
        together = times.busy_s + times.host_s
        solved = max(0.0, together**p - times.busy_s**p) ** (1 / p)
        own = self._traced.kernels * self._values["host_s"]
        return float(max(solved, min(own, UNSEEN * times.busy_s)))

    def _exactness(self) -> float:
        together = self._times.busy_s + self._times.host_s
        return together / float(_longest(np.array([self._times.busy_s]), np.array([self._host_s]))[0])


class AmpModel(CalibratedModel):
    """A calibrated FP32 step as it would be under AMP: its kernels and launches times the model's ratio."""

    def __init__(self, traced: TracedStep, times: StepTimes, *, amp: StepModel, **model: Any) -> None:
        super().__init__(traced, times, **model)
        self._amp, self._plain = amp, StepModel(**model)

    @property
    def error(self) -> StepError:
        """The error of the model on GPUs like this one: how much AMP gains is its word alone."""
        return self._amp.error

    def _curve(self, batches: Batches) -> StepCurve:
        traced = super()._curve(batches)
        amp, plain = self._amp.curve(batches), self._plain.curve(batches)
        ratio = amp.gpu_time_s / plain.gpu_time_s
        gpu_s, host_s = traced.gpu_time_s * ratio, traced.host_time_s * amp.host_time_s / plain.host_time_s
        waits_s = self._times.fixed_s + self._times.data_s * batches / self._traced.batch
        shares = {name: seconds / amp.gpu_time_s for name, seconds in amp.class_time_s.items()}
        return StepCurve(
            batches=batches,
            time_s=_longest(gpu_s, host_s) * self._exactness() + waits_s,
            gpu_time_s=gpu_s,
            host_time_s=host_s,
            class_time_s={name: share * gpu_s for name, share in shares.items()},
            wave_efficiency=amp.wave_efficiency,
            tile_efficiency=amp.tile_efficiency,
            quantization_loss_s=amp.quantization_loss_s * gpu_s / amp.gpu_time_s,
        )


def _longest(gpu_s: Floats, host_s: Floats) -> Floats:
    """A step takes the longer of the two, rounded where they meet, as in StepModel."""
    longest = np.maximum(gpu_s, host_s)
    joined: Floats = longest * ((gpu_s / longest) ** OVERLAP_POWER + (host_s / longest) ** OVERLAP_POWER) ** (
        1 / OVERLAP_POWER
    )
    return joined
