"""What batch size to try: the traced step's curve over the batch, on its own GPU and on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.errors import AdvisorError
from advisor.gpus import Gpu, ResolvedGpu, resolve_gpu
from advisor.loading import profiles_for
from advisor.memory import default_margin, usable_memory_bytes
from advisor.profiling.advice.calibrated import HELD_FACTOR, AmpModel, CalibratedModel
from advisor.profiling.advice.hosts import traced_host
from advisor.profiling.advice.lacks import lack_of
from advisor.profiling.advice.passes import is_one_step
from advisor.profiling.advice.remarks import (
    UNKNOWN_MEMORY,
    comparison,
    gain,
    kernel_gain,
    own_notes,
    own_setup,
    setting,
    supports_as_traced,
    told_apart,
    under_autocast,
)
from advisor.profiling.advice.traced import Traced, read_traced
from advisor.profiling.advice.traced_recipe import with_amp
from advisor.profiling.advice.traced_setup import Measured, TracedSetup
from advisor.profiling.kernels.device import DeviceFacts
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import Advice, BatchSize, CurvePoint, KernelGroup, Operation, StepFacts
from advisor.recipe import Recipe
from advisor.recommendation import DEFAULT_MAX_BATCH, Recommendation, decide
from advisor.step import check_count

MOST_SEARCHED = 1 << 18
_ROLES = {"current": "traced", "fastest that fits": "fastest", "largest that fits": "largest"}
_AT_THE_END = {"largest that fits": "end of the search"}
_NO_STEPS = (
    "no advice on the batch size: no steps were found in the trace, and it does not plainly hold a single one: call "
    "profiler.step() after each step, or record one step alone"
)


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
    memory_limit_bytes: int | None = None,
    max_batch: int | None = None,
) -> Advised:
    """Advice for the traced GPU, calibrated on the trace, and for each GPU named by `on`, not calibrated.

    Where the trace is in FP32 each GPU with Tensor Cores is advised for AMP too. `memory_limit_bytes` stands for the
    memory of the traced GPU, and bounds that of the others. Sizes up to `max_batch` are searched; left out, a
    calibrated curve is followed as far as such curves were checked, HELD_FACTOR times the traced batch.

    Raises UnknownNameError for a GPU in `on` that nobody knows, BadInputError for a limit or a largest batch that is
    no whole number in range.
    """
    if memory_limit_bytes is not None:
        check_count("memory limit in bytes", memory_limit_bytes, limit=1 << 50)
    if max_batch is not None:
        check_count("largest batch to search", max_batch, limit=MOST_SEARCHED)
    others = [found for found in map(resolve_gpu, on) if device.gpu is None or found.gpu.id != device.gpu.id]
    if batch.batch is None:
        return Advised((), (f"no advice on the batch size: {batch.evidence}",))
    if not steps.names and not is_one_step(raw, links):
        return Advised((), (_NO_STEPS,))
    if batch.batch > MOST_SEARCHED:
        return Advised((), (f"no advice on the batch size: {batch.batch} is beyond the search, 1 to {MOST_SEARCHED}",))
    traced = read_traced(raw, links, steps, groups, operations, facts, batch.batch)
    if (lack := lack_of(raw, links, traced)) is not None:
        return Advised((), (f"no advice on the batch size: {lack}",))
    advice: list[Advice] = []
    notes: list[str] = []
    if device.gpu is None:
        notes.append(f"no prediction for the traced GPU: {device.lack}")
    for resolved in [*([ResolvedGpu(device.gpu, "named")] if device.gpu else []), *others]:
        own = resolved.gpu is device.gpu
        for recipe in _recipes(traced.recipe, resolved.gpu, own=own):
            bounds = _Bounds(memory_limit_bytes, max_batch)
            found = _advice(traced, resolved, recipe, bounds, own=own)
            if isinstance(found, Advice):
                advice.append(found)
            else:
                notes.append(found)
    return Advised(tuple(advice), tuple(notes))


@dataclass(frozen=True)
class _Bounds:
    """What the user said; None: nothing."""

    memory_bytes: int | None
    batch: int | None


def _recipes(traced: Recipe, gpu: Gpu, *, own: bool) -> tuple[Recipe, ...]:
    """How the step is predicted there: as it was traced, in FP16 for want of BF16; an FP32 one under AMP as well."""
    if traced.autocast:
        return (traced if own or supports_as_traced(gpu, traced.precision) else with_amp(traced),)
    return (traced, with_amp(traced)) if gpu.supports("fp16") else (traced,)


def _advice(traced: Traced, resolved: ResolvedGpu, recipe: Recipe, bounds: _Bounds, *, own: bool) -> Advice | str:
    """Advice for one GPU and precision, or why there is none."""
    batch = traced.step.batch
    try:
        setup = _setup(traced, resolved, recipe, bounds.memory_bytes, own=own)
        most = bounds.batch or min(MOST_SEARCHED, HELD_FACTOR * batch if own else max(DEFAULT_MAX_BATCH, 4 * batch))
        found = decide(setup, current=batch if batch <= most else None, max_batch=most)
    except AdvisorError as error:
        return f"no advice for {resolved.gpu.name} in {recipe.precision}: {error}"
    answer, memory = found.answer, setup.traced_memory
    chosen, host = settled(found), traced_host(found, traced)
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
        gain=gain(found, chosen, traced),
        error=answer.error.mean_abs_log,
        error_origin=answer.error.origin,
        memory_origin=memory.origin if memory is not None else UNKNOWN_MEMORY,
        reasons=(*_reasons(found, chosen), *comparison(found, chosen, traced), *([host.reason] if host else [])),
        notes=(
            *setting(found, traced, own=own),
            *own_notes(found, chosen, traced, asked=bounds.batch is not None),
        ),
        kernel_gain=kernel_gain(found, chosen, traced),
        autocast=under_autocast(found, traced),
    )


def _setup(traced: Traced, resolved: ResolvedGpu, recipe: Recipe, limit_bytes: int | None, *, own: bool) -> TracedSetup:
    as_traced = recipe.autocast == traced.recipe.autocast
    loaded = profiles_for(resolved, precision=recipe.precision)
    memory = traced.memory if as_traced else traced.amp_memory
    usable = usable_memory_bytes(resolved.gpu)
    if limit_bytes is not None:
        usable = limit_bytes if own or usable is None else min(limit_bytes, usable)
    return TracedSetup(
        workload=traced.workload,
        resolved_gpu=resolved,
        profile=loaded.gemm,
        step_profile=loaded.steps,
        profile_notes=loaded.notes,
        recipe=recipe,
        memory_limit_bytes=usable,
        margin=default_margin(loaded.gemm) + (memory.more_margin if memory is not None else 0.0),
        gpus=traced.gpus,
        measured=Measured(traced.step, traced.times, traced.recipe) if own else None,
        traced_memory=memory,
        ran=traced.step.batch if own and as_traced and limit_bytes is None and memory is not None else 0,
    )


def settled(found: Recommendation) -> int:
    """The recommended size; the traced one where moving from it changes less than can be told apart."""
    comparison = found.answer.comparison
    if comparison is None or not comparison.fits:
        return found.batch_size
    return comparison.current if abs(math.log1p(comparison.gain)) <= told_apart(found) else found.batch_size


def _reasons(found: Recommendation, chosen: int) -> tuple[str, ...]:
    """The recommendation's own, which are of its own size."""
    first, *others = found.answer.reasons
    return found.answer.reasons if chosen == found.batch_size else (f"Of batch {found.batch_size}: {first}", *others)


def _points(found: Recommendation, chosen: int) -> tuple[CurvePoint, ...]:
    """The sizes with a role, and round ones from half the traced size to the first that does not fit."""
    answer, setup = found.answer, own_setup(found)
    names = {**_ROLES, **(_AT_THE_END if answer.largest_fitting_is_search_limit else {})}
    roles = {
        candidate.prediction.batch: [names.get(role, role) for role in candidate.roles if role != "recommended"]
        for candidate in answer.candidates
    }
    roles.setdefault(chosen, []).insert(0, "recommended")
    if answer.batch_size < chosen:
        roles[answer.batch_size].append("as fast")
    elif not roles[answer.batch_size]:
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
