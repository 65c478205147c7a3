"""What batch size to try: the traced step's curve over the batch, on its own GPU and on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.choice import tied
from advisor.errors import AdvisorError
from advisor.gpus import Gpu, ResolvedGpu, resolve_gpu
from advisor.loading import profiles_for
from advisor.memory import default_margin, usable_memory_bytes
from advisor.profiling.advice.amp import CONVERSION_ERROR
from advisor.profiling.advice.calibrated import HELD_FACTOR, AmpModel, CalibratedModel
from advisor.profiling.advice.traced import Traced, read_traced
from advisor.profiling.advice.traced_recipe import with_amp
from advisor.profiling.advice.traced_setup import Measured, TracedSetup
from advisor.profiling.kernels.device import DeviceFacts
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import Advice, BatchSize, CurvePoint, KernelGroup, Operation, StepFacts
from advisor.recipe import Recipe
from advisor.recommendation import DEFAULT_MAX_BATCH, TOOTH, Recommendation, decide
from advisor.units import percent

MOST_SEARCHED = 1 << 18
_ROLES = {"current": "traced", "fastest that fits": "fastest", "largest that fits": "largest"}
_UNKNOWN_MEMORY = "unknown: record with profile_memory=True"


@dataclass(frozen=True)
class Advised:
    """The advice, and why there is none or not all that was asked for: a line each."""

    advice: tuple[Advice, ...]
    notes: tuple[str, ...] = ()


def advise(
    raw: RawTrace,
    links: Links,
    steps: StepSpans,
    groups: Sequence[KernelGroup],
    operations: Sequence[Operation],
    device: DeviceFacts,
    facts: StepFacts,
    batch: BatchSize,
    *,
    on: Sequence[str] = (),
) -> Advised:
    """Advice for the traced GPU, calibrated on the trace, and for each GPU named by `on`, not calibrated.

    Where the trace is in FP32 each GPU with Tensor Cores is advised for AMP too. Raises UnknownNameError for a GPU in
    `on` that nobody knows.
    """
    others = [found for found in map(resolve_gpu, on) if device.gpu is None or found.gpu.id != device.gpu.id]
    if batch.batch is None:
        return Advised((), (f"no advice on the batch size: {batch.evidence}",))
    if batch.batch > MOST_SEARCHED:
        return Advised((), (f"no advice on the batch size: {batch.batch} is beyond the search, 1 to {MOST_SEARCHED}",))
    traced = read_traced(raw, links, steps, groups, operations, facts, batch.batch)
    if not traced.step.ops:
        return Advised((), ("no advice on the batch size: no kernel belongs to an operator with shapes",))
    advice: list[Advice] = []
    notes: list[str] = []
    if device.gpu is None:
        notes.append(f"no prediction for {device.public.name}: name the traced GPU with --gpu")
    for resolved in [*([ResolvedGpu(device.gpu, "named")] if device.gpu else []), *others]:
        for recipe in (traced.recipe, *_with_amp(traced.recipe, resolved.gpu)):
            found = _advice(traced, resolved, recipe, own=resolved.gpu is device.gpu)
            if isinstance(found, Advice):
                advice.append(found)
            else:
                notes.append(found)
    return Advised(tuple(advice), tuple(notes))


def _with_amp(recipe: Recipe, gpu: Gpu) -> tuple[Recipe, ...]:
    return (with_amp(recipe),) if not recipe.autocast and gpu.supports("fp16") else ()


def _advice(traced: Traced, resolved: ResolvedGpu, recipe: Recipe, *, own: bool) -> Advice | str:
    """Advice for one GPU and precision, or why there is none."""
    try:
        setup = _setup(traced, resolved, recipe, own=own)
        batch = traced.step.batch
        most = min(MOST_SEARCHED, max(DEFAULT_MAX_BATCH, 4 * batch))
        found = decide(setup, current=batch, max_batch=most)
    except AdvisorError as error:
        return f"no advice for {resolved.gpu.name} in {recipe.precision}: {error}"
    answer, memory = found.answer, setup.traced_memory
    chosen = settled(found)
    return Advice(
        gpu=resolved.gpu.id,
        gpu_name=resolved.gpu.name,
        calibrated=isinstance(setup.model, CalibratedModel) and not isinstance(setup.model, AmpModel),
        precision=recipe.precision,
        batch=chosen,
        traced_batch=batch,
        knee=answer.knee,
        fastest=answer.fastest,
        points=_points(found, chosen),
        gain=_gain(found, chosen, traced),
        error=answer.error.mean_abs_log,
        error_origin=answer.error.origin,
        memory_origin=memory.origin if memory is not None else _UNKNOWN_MEMORY,
        reasons=(*answer.reasons, *_comparison(found, chosen, traced)),
        notes=(*_setting(found, traced, own=own), *_own_notes(found, chosen, traced), *traced.notes),
    )


def _setup(traced: Traced, resolved: ResolvedGpu, recipe: Recipe, *, own: bool) -> TracedSetup:
    as_traced = recipe.precision == traced.recipe.precision
    loaded = profiles_for(resolved, precision=recipe.precision)
    memory = traced.memory if as_traced else traced.amp_memory
    return TracedSetup(
        workload=traced.workload,
        resolved_gpu=resolved,
        profile=loaded.gemm,
        step_profile=loaded.steps,
        profile_notes=loaded.notes,
        recipe=recipe,
        memory_limit_bytes=usable_memory_bytes(resolved.gpu),
        margin=default_margin(loaded.gemm),
        measured=Measured(traced.step, traced.times, traced.recipe) if own else None,
        traced_memory=memory,
        ran=traced.step.batch if own and as_traced and memory is not None else 0,
    )


def _own_setup(found: Recommendation) -> TracedSetup:
    assert isinstance(found.setup, TracedSetup)
    return found.setup


def settled(found: Recommendation) -> int:
    """The recommended size; the traced one where it ties with it and is as good as the same."""
    comparison = found.answer.comparison
    if comparison is None or not comparison.tie or not comparison.fits:
        return found.batch_size
    near = max(comparison.current, found.batch_size) <= TOOTH * min(comparison.current, found.batch_size)
    return comparison.current if near else found.batch_size


def _points(found: Recommendation, chosen: int) -> tuple[CurvePoint, ...]:
    """The sizes with a role, and round ones from half the traced size to the first that does not fit."""
    answer, setup = found.answer, _own_setup(found)
    roles = {
        candidate.prediction.batch: [_ROLES.get(role, role) for role in candidate.roles if role != "recommended"]
        for candidate in answer.candidates
    }
    roles.setdefault(chosen, []).insert(0, "recommended")
    if chosen != answer.batch_size and not roles[answer.batch_size]:
        del roles[answer.batch_size]
    traced = answer.comparison.current if answer.comparison is not None else answer.batch_size
    sizes = {*roles, *_round_sizes(max(1, traced // 2), 2 * answer.largest_fitting, len(answer.curve.batches))}
    known = setup.traced_memory is not None
    return tuple(
        CurvePoint(
            batch=p.batch,
            step_s=p.time_s,
            samples_per_s=p.samples_per_s,
            busy_share=p.busy_share,
            total_bytes=p.memory.total_bytes if known else None,
            fits=p.fits if known and setup.memory_limit_bytes is not None else None,
            roles=tuple(roles.get(p.batch, ())),
        )
        for p in setup.predict(np.array(sorted(sizes)))
    )


def _round_sizes(least: int, below: int, most: int) -> list[int]:
    """48, 64, 96, 128, ...: powers of two and what lies halfway between."""
    sizes = {size for power in range(19) for size in (1 << power, 3 << max(0, power - 1))}
    return sorted(size for size in sizes if least <= size < below and size <= most)


def _gain(found: Recommendation, chosen: int, traced: Traced) -> float | None:
    """Of throughput over the traced batch: over the step as it was traced where the GPU is the same."""
    comparison, per_s = found.answer.comparison, found.curve.samples_per_s
    if isinstance(found.setup.model, AmpModel):
        return per_s[chosen - 1] * traced.times.step_s / traced.step.batch - 1
    return per_s[chosen - 1] / per_s[comparison.current - 1] - 1 if comparison is not None else None


def _comparison(found: Recommendation, chosen: int, traced: Traced) -> tuple[str, ...]:
    """The change from the traced size, and how much of it is the kernels' own."""
    comparison, model = found.answer.comparison, found.setup.model
    if comparison is None:
        return ()
    if isinstance(model, AmpModel):
        gain = 100 * (_gain(found, chosen, traced) or 0.0)
        traced_in = traced.recipe.precision.upper()
        return (
            f"Against the traced {traced_in} step of {comparison.current} samples it is {gain:+.0f} % of throughput.",
        )
    said = [comparison.text]
    if comparison.tie:
        said.append("It hardly matters here: stay." if chosen == comparison.current else "It hardly matters here.")
    elif isinstance(model, CalibratedModel):
        both = model.kernels_per_s(np.array([comparison.current, chosen]))
        alone = float(both[1] / both[0] - 1)
        if not tied(1 + alone, 1 + comparison.gain):
            said.append(f"The kernels alone gain {100 * alone:+.1f} %: the rest is waiting that a larger batch hides.")
    return tuple(said)


def _setting(found: Recommendation, traced: Traced, *, own: bool) -> tuple[str, ...]:
    """What kind of prediction this is."""
    gpu, recipe = found.setup.resolved_gpu.gpu, found.setup.recipe
    as_traced, notes = recipe.precision == traced.recipe.precision, []
    amp = f"{recipe.precision.upper()} AMP"
    if not own:
        notes.append(f"{gpu.name} is not the traced GPU: nothing of its times is calibrated on the trace")
    elif not as_traced:
        notes.append(f"{amp} was not traced: the calibrated curve times what the time model makes of it, an estimate")
    if not as_traced and not traced.known:
        notes.append(
            f"what {amp} changes follows from the kinds of the operators: {percent(CONVERSION_ERROR)} off in the mean, "
            "mostly too fast, where whole models were traced both ways"
        )
    if not own and recipe.precision == "fp32" and gpu.supports("tf32"):
        notes.append(f"FP32 as traced runs on CUDA cores: TF32 or AMP would use the Tensor Cores of {gpu.name}")
    return tuple(notes)


def _own_notes(found: Recommendation, chosen: int, traced: Traced) -> tuple[str, ...]:
    """The recommendation's own notes, those on options of another command put in this one's words."""
    setup, answer = _own_setup(found), found.answer
    notes = [note for note in answer.notes if "--" not in note]
    if setup.traced_memory is None:
        notes.append(f"The memory of a step is {_UNKNOWN_MEMORY}; every size is taken to fit.")
    elif setup.memory_limit_bytes is None:
        notes.append("The memory of this GPU is unknown, so nothing was held against it.")
    if isinstance(setup.model, CalibratedModel) and chosen > HELD_FACTOR * traced.step.batch:
        times = round(chosen / traced.step.batch)
        notes.append(
            f"{chosen} is {times} times the traced batch, and such curves were checked up to {HELD_FACTOR} times only."
        )
    if answer.largest_fitting_is_search_limit:
        notes.append(f"The search ended at {answer.largest_fitting}.")
    return tuple(notes)
