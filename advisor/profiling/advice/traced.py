"""All that a prediction needs of a traced step: its operations as a workload, its times, its recipe, its memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from advisor.profiling.advice.amp import under_amp
from advisor.profiling.advice.calibrated import StepTimes
from advisor.profiling.advice.memory import TracedMemory, known_model, measured_memory, modelled_memory
from advisor.profiling.advice.parameters import Parameters, find_parameters
from advisor.profiling.advice.traced_recipe import traced_recipe, with_amp
from advisor.profiling.advice.traced_step import TracedStep, traced_step
from advisor.profiling.kernels.precision import read_precision
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import KernelGroup, Operation, StepFacts
from advisor.recipe import Recipe
from advisor.units import duration, percent
from advisor.workload.catalogue import load_workload, select_variant
from advisor.workload.schema import SCHEMA_VERSION, Op, Variant, Workload

NOTABLE = 0.02  # share of the kernels' time above which an assumption about it is said
UNSEEN_SHARE = 0.10  # of the kernels' time outside of known operators, above which shapes tell no memory
# A step without the profiler takes no less than nearly all of its kernels' time, and hardly more than under it.
LEAST_OF_BUSY, MOST_OF_PROFILED = 0.8, 1.25
WAITING = 0.10  # share of the step's time spent waiting for the host above which it is said


@dataclass(frozen=True)
class Traced:
    """All that is known of a traced step, in the form in which it is predicted."""

    step: TracedStep
    times: StepTimes
    recipe: Recipe
    workload: Workload
    known: bool  # it is a model of the catalogue
    memory: TracedMemory | None
    amp_memory: TracedMemory | None
    gpus: int  # that train together
    autocast: bool  # a 2-byte step ran under autocast, and not wholly in that type
    notes: tuple[str, ...]  # on any prediction
    own_notes: tuple[str, ...]  # on those that are calibrated

    @property
    def waits_profiled(self) -> bool:
        """Whether the step waits for a host that the profiler slows: what hides that gains as much at most."""
        return self.times.host_s > WAITING * self.times.step_s and self.times.profiled_s is None


def read_traced(
    raw: RawTrace, links: Links, steps: StepSpans, groups: Sequence[KernelGroup], operations: Sequence[Operation],
    facts: StepFacts, batch: int,
) -> Traced:  # fmt: skip
    """The traced step as operations, times, recipe, workload and memory, and what had to be assumed for it."""
    recipe, assumed = traced_recipe(raw, groups, operations)
    parameters = find_parameters(raw, links, steps)
    step = traced_step(raw, links, steps, batch, parameters)
    name = known_model(step.ops, batch, parameters, recipe)
    workload = _workload(raw, step, parameters, recipe, name)
    unprofiled_s, doubt = _unprofiled(raw, facts)
    times = StepTimes.of(facts, step.passes, unprofiled_s)
    sharded = _is_sharded(raw)
    measured = measured_memory(raw, steps, parameters, recipe, batch)
    return Traced(
        step=step,
        times=times,
        recipe=recipe,
        workload=workload,
        known=name is not None,
        memory=measured or (None if sharded else _modelled_memory(workload, step, parameters, recipe, name)),
        amp_memory=None
        if recipe.autocast or sharded
        else _modelled_memory(workload, step, parameters, with_amp(recipe), name),
        gpus=_gpus(raw, step),
        autocast=read_precision(groups, operations) not in ("fp16", "bf16"),
        notes=(*assumed, *doubt, *_assumptions(step, steps, parameters)),
        own_notes=_measurement(step, steps, times),
    )


def _unprofiled(raw: RawTrace, facts: StepFacts) -> tuple[float | None, tuple[str, ...]]:
    """What the same steps took without the profiler, where the run that recorded the trace timed them."""
    if raw.recorded is None or not raw.recorded.unprofiled_step_s:
        return None, ()
    step_s, busy_s = median(raw.recorded.unprofiled_step_s), facts.busy_share * facts.step_s
    if not LEAST_OF_BUSY * busy_s <= step_s <= MOST_OF_PROFILED * facts.step_s:
        return None, (
            f"the trace says that its steps took {duration(step_s)} without the profiler, which cannot be with "
            f"{duration(busy_s)} of kernels in {duration(facts.step_s)}: left out",
        )
    return step_s, ()


def _is_sharded(raw: RawTrace) -> bool:
    """Whether weights are gathered and gradients scattered between GPUs (FSDP, ZeRO): shapes tell no memory then."""
    names = {name.lower().replace("_", "") for name in raw.names}
    return all(any(collective in name for name in names) for collective in ("allgather", "reducescatter"))


def _gpus(raw: RawTrace, step: TracedStep) -> int:
    """GPUs that share the gradients: at least two where the step exchanges some, whatever the trace says."""
    exchanged = step.constant_s["communication"] > 0
    return max(raw.world_size or 1, 2 if exchanged else 1)


def _modelled_memory(
    workload: Workload, step: TracedStep, parameters: Parameters, recipe: Recipe, name: str | None
) -> TracedMemory | None:
    """Of a known model, or from the shapes where they show the parameters and nearly all of the step."""
    unseen = step.unknown_share > UNSEEN_SHARE or parameters.source not in ("autograd", "optimizer")
    if name is None and unseen:
        return None
    return modelled_memory(select_variant(workload, recipe), parameters, recipe, name)


def _workload(raw: RawTrace, step: TracedStep, parameters: Parameters, recipe: Recipe, name: str | None) -> Workload:
    """The step as a workload: as it was traced and, of an FP32 one, under AMP."""
    known = load_workload(name) if name is not None else None
    attention: Literal["fused", "none"] = "fused" if any(op.kind.startswith("attention") for op in step.ops) else "none"
    amp_ops = (
        select_variant(known, with_amp(recipe)).ops
        if known is not None and not recipe.autocast
        else under_amp(step.ops, parameters.elements, nchw=recipe.layout == "nchw")
    )
    variants = [Variant(recipe.mode, "amp" if recipe.autocast else "fp32", recipe.layout, attention, step.ops, ())]
    if not recipe.autocast:
        variants.append(Variant(recipe.mode, "amp", recipe.layout, attention, amp_ops, ()))
    return Workload(
        schema_version=SCHEMA_VERSION,
        name="traced step",
        title=known.title if known is not None else "the traced step",
        task=known.task if known is not None else "unknown",
        origin=f"trace {raw.path.name}",
        input_shape=known.input_shape if known is not None else _input_shape(step.ops),
        parameters=parameters.elements,
        parameter_tensors=len(parameters.shapes),
        trainable_parameters=parameters.elements,
        buffer_bytes=0,
        batch_norm_layers=sum(op.count for op in step.ops if op.kind == "batch_norm" and op.phase == "forward"),
        layer_names=("",),
        variants=tuple(variants),
        largest_parameter=parameters.largest,
    )


def _input_shape(ops: Iterable[Op]) -> tuple[int, ...]:
    """One sample's: the image that the first convolution reads; (1,) where it is none."""
    first = next((op.dims for op in ops if op.kind == "conv_fprop"), None)
    return (first["c"][0], first["h"][0], first["w"][0]) if first is not None else (1,)


def _assumptions(step: TracedStep, steps: StepSpans, parameters: Parameters) -> tuple[str, ...]:
    """What any prediction from the trace takes for granted, where it matters."""
    whole, notes = max(step.kernel_s, 1e-12), []
    if step.passes > 1:
        per = "one pass of forward and backward" if parameters.source != "forward pass" else "one forward pass"
        notes.append(f"a step holds {step.passes} passes: batch and step time are of {per}, samples/s count them all")
    if step.doubtful_s > NOTABLE * whole:
        doubtful = percent(step.doubtful_s / whole)
        notes.append(f"in {doubtful} of the kernels' time the shapes leave open what grows with the batch: guessed")
    if parameters.source not in ("autograd", "optimizer"):
        notes.append("the parameters were read from the forward pass: weights that it does not show are missing")
    return tuple(notes)


def _measurement(step: TracedStep, steps: StepSpans, times: StepTimes) -> tuple[str, ...]:
    """What the step that a calibrated curve passes through was."""
    notes = []
    if not steps.names:
        notes.append("the trace marks no step and holds a single one: its times may be those of warming up")
    elif len(steps.regular) == 1:
        notes.append("one step alone was measured: another may take longer or shorter")
    if step.unknown_share > NOTABLE:
        unknown = percent(step.unknown_share)
        notes.append(f"{unknown} of the kernels' time has no known operator or shapes: taken to grow with the batch")
    if times.profiled_s is not None:
        notes.append(
            f"a step is taken as {duration(times.step_s)}, the median without the profiler, under which it took "
            f"{duration(times.profiled_s)}"
        )
    if step.constant_s["communication"] > NOTABLE * max(step.kernel_s, 1e-12):
        alone = percent(times.communication_s / max(times.step_s, 1e-12))
        notes.append(
            f"communication runs alone for {alone} of the step, taken not to depend on the batch; the rest of it stays "
            "behind other kernels"
        )
    if times.host_s > WAITING * times.step_s and times.profiled_s is None:
        notes.append(
            f"the GPU waits {duration(times.host_s)} of a step for the host, which the profiler itself slows: without "
            "it small batches are faster than predicted, and gain less by growing"
        )
    return tuple(notes)
