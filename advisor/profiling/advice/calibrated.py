"""The time model of a traced step, held to what the trace measured.

Every operation takes its measured time at the traced batch B0, and at another batch what the model says it would gain
or lose: t(B) = measured * model(B) / model(B0). Kernels of forward and backward that the model does not know grow with
B, as do copies that nothing hides; the optimizer does not, nor what of the gradients' communication runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor.profiling.advice.traced_step import TracedStep
from advisor.profiling.records import StepFacts
from advisor.recipe import Recipe
from advisor.steptime import CLASSES, OVERLAP_POWER, Batches, Floats, StepCurve, StepError, StepModel, update_work
from advisor.workload.schema import Op, Workload

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
    communication_s: float = 0.0  # of `busy_s`, in which kernels of communication run alone
    copies_s: float = 0.0  # of `busy_s`, in which copies run alone
    profiled_s: float | None = None  # the step under the profiler, where `step_s` was measured without it

    @property
    def launching_s(self) -> float:
        """What the host took to launch the step: with it, kernels and launches together take what was measured.

        0 where the GPU never waited for it.
        """
        p = OVERLAP_POWER
        return float(max(0.0, (self.busy_s + self.host_s) ** p - self.busy_s**p) ** (1 / p))

    @classmethod
    def of(cls, facts: StepFacts, passes: int, unprofiled_s: float | None = None) -> StepTimes:
        """From the facts of a step, per pass, and what a step took without the profiler, where that is known.

        Gaps are scaled so that the parts sum to the step; without the profiler only the wait for the host is
        another, as kernels are timed by the GPU.
        """
        profiled_s = facts.step_s / passes
        step_s = profiled_s if unprofiled_s is None else unprofiled_s / passes
        busy_s = min(min(facts.busy_share, 1.0) * profiled_s, step_s)
        idle_s = step_s - busy_s
        gaps = {cause: max(0.0, seconds) for cause, seconds in facts.gap_s.items()}
        others = {cause: seconds / passes for cause, seconds in gaps.items() if cause != "host"}
        total = sum(gaps.values()) / passes if unprofiled_s is None else max(idle_s, sum(others.values()))
        share = idle_s / total if total > 0 else 0.0
        data_s, other_s = others.get("data", 0.0) * share, sum(others.values()) * share
        alone = np.array([facts.exposed_communication_s, facts.exposed_copy_s]) / passes
        alone *= min(1.0, busy_s / max(float(alone.sum()), 1e-12))
        return cls(
            step_s=step_s, busy_s=busy_s, host_s=max(0.0, idle_s - other_s), data_s=data_s,
            fixed_s=max(0.0, other_s - data_s), communication_s=float(alone[0]), copies_s=float(alone[1]),
            profiled_s=None if unprofiled_s is None else profiled_s,
        )  # fmt: skip


class CalibratedModel(StepModel):
    """A StepModel whose curve passes through the traced step. `layers` stay the model's own."""

    def __init__(self, traced: TracedStep, times: StepTimes, **model: Any) -> None:
        super().__init__(**model)
        self._traced, self._times = traced, times
        at_traced, _ = self._op_seconds(np.array([traced.batch], dtype=float))
        self._modelled_s = np.maximum(at_traced[:, 0], 1e-12)
        exchanged_s = traced.constant_s["communication"]
        self._communication_s = min(times.communication_s, exchanged_s)  # exchanged activations grow: among the kernels
        self._computing_s = max(traced.kernel_s - exchanged_s, 1e-12)
        self._overlap = (times.busy_s - self._communication_s - times.copies_s) / self._computing_s
        self._host_s = self._host_seconds()

    @property
    def error(self) -> StepError:
        """What remains once the curve is held to one measured batch: the error of its shape over the batch."""
        convolves = any(op.kind.startswith("conv") for op in self.variant.ops)
        return SHAPE_ERRORS["convolutions" if convolves else "others"]

    def kernels_per_s(self, batches: Batches) -> Floats:
        """Samples/s if nothing but the kernels took time: no waits for the host, data or other GPUs."""
        sizes = np.asarray(batches, dtype=float)
        found: Floats = sizes / self._gpu_seconds(self._weighted(sizes), sizes)
        return found

    def _curve(self, batches: Batches) -> StepCurve:
        sizes = batches.astype(float)
        modelled = super()._curve(batches)
        weighted = self._weighted(sizes)
        gpu_s = self._gpu_seconds(weighted, sizes)
        grown = sizes / self._traced.batch
        host_s = np.full(len(sizes), self._host_s)
        core_s = _longest(gpu_s, host_s) * self._exactness()
        time_s = core_s + self._times.fixed_s + self._times.data_s * grown
        classes = {name: self._overlap * weighted[self._class == i].sum(axis=0) for i, name in enumerate(CLASSES)}
        optimizer_s = self._overlap * self._traced.constant_s["optimizer"]
        known_s = np.sum(list(classes.values()), axis=0)
        classes["optimizer"] = classes["optimizer"] + optimizer_s
        classes["other"] = classes["other"] + gpu_s - known_s - optimizer_s
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
        """Time in which the GPU works: the sum of kernels, scaled by how much of it overlapped when traced.

        Communication behind other kernels costs nothing, and what ran alone stays: more to hide it behind would come
        with a larger batch, so this is cautious.
        """
        constant = self._traced.constant_s
        kernels = weighted.sum(axis=0) + self._traced.growing_s * sizes / self._traced.batch
        kernels = kernels + constant["optimizer"] + constant["other"]
        busy: Floats = kernels * self._overlap + self._outside_kernels(sizes)
        return busy

    def _outside_kernels(self, sizes: Floats) -> Floats:
        """Time of the GPU that no precision changes: communication and copies that ran alone."""
        found: Floats = self._communication_s + self._times.copies_s * sizes / self._traced.batch
        return found

    def _host_seconds(self) -> float:
        """The host's time to launch a step.

        Where the GPU never waited for it, it took less than was seen: the model's own figure stands in, as far as it
        would have gone unseen.
        """
        own = self._traced.kernels * self._values["host_s"]
        return float(max(self._times.launching_s, min(own, UNSEEN * self._times.busy_s)))

    def _exactness(self) -> float:
        together = self._times.busy_s + self._times.host_s
        return together / float(_longest(np.array([self._times.busy_s]), np.array([self._host_s]))[0])


class AmpModel(CalibratedModel):
    """A calibrated FP32 step as it would be under AMP: its kernels times the model's ratio, its host's time times that
    of the operators that are launched.
    """

    def __init__(self, traced: TracedStep, times: StepTimes, *, amp: StepModel, **model: Any) -> None:
        super().__init__(traced, times, **model)
        self._amp = amp
        self.product_profile = amp.product_profile
        self.more_launches = launches(amp.variant.ops, amp.workload, amp.recipe) / launches(
            self.variant.ops, self.workload, self.recipe
        )
        """What the host launches under AMP over what it launches in FP32: casts of weights, inputs and gradients."""

    @property
    def error(self) -> StepError:
        """The error of the model on GPUs like this one: how much AMP gains is its word alone."""
        return self._amp.error

    def kernels_per_s(self, batches: Batches) -> Floats:
        """Samples/s under AMP if nothing but the kernels took time."""
        found: Floats = batches / self.curve(batches).gpu_time_s
        return found

    def as_traced(self, batches: Batches) -> StepCurve:
        """The curve of the FP32 step."""
        return super()._curve(batches)

    def _curve(self, batches: Batches) -> StepCurve:
        traced = self.as_traced(batches)
        amp, plain = self._amp.curve(batches), StepModel._curve(self, batches)
        rest_s = self._outside_kernels(batches.astype(float))
        kernels_s = (traced.gpu_time_s - rest_s) * amp.gpu_time_s / plain.gpu_time_s
        gpu_s, host_s = kernels_s + rest_s, traced.host_time_s * self.more_launches
        waits_s = self._times.fixed_s + self._times.data_s * batches / self._traced.batch
        classes = {name: seconds / amp.gpu_time_s * kernels_s for name, seconds in amp.class_time_s.items()}
        classes["other"] = classes["other"] + rest_s
        return StepCurve(
            batches=batches,
            time_s=_longest(gpu_s, host_s) * self._exactness() + waits_s,
            gpu_time_s=gpu_s,
            host_time_s=host_s,
            class_time_s=classes,
            wave_efficiency=amp.wave_efficiency,
            tile_efficiency=amp.tile_efficiency,
            quantization_loss_s=amp.quantization_loss_s * gpu_s / amp.gpu_time_s,
        )


def host_work(ops: Sequence[Op]) -> float:
    """Operators that the host dispatches: a convolution is one, whatever cuDNN frames it with."""
    return sum(op.count * (1 if op.kind.startswith("conv") else op.kernels) for op in ops)


def launches(ops: Sequence[Op], workload: Workload, recipe: Recipe) -> float:
    """What the host launches in a step of these operations, the optimizer's work included."""
    return host_work(ops) + update_work(workload, recipe).kernels


def _longest(gpu_s: Floats, host_s: Floats) -> Floats:
    """A step takes the longer of the two, rounded where they meet, as in StepModel."""
    longest = np.maximum(gpu_s, host_s)
    joined: Floats = longest * ((gpu_s / longest) ** OVERLAP_POWER + (host_s / longest) ** OVERLAP_POWER) ** (
        1 / OVERLAP_POWER
    )
    return joined
