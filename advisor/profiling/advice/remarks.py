"""What is said about a piece of advice: the change from the traced step, and what the prediction stands on."""

from __future__ import annotations

import numpy as np

from advisor import choice
from advisor.choice import tied
from advisor.gpus import Gpu
from advisor.profiling.advice.amp import CONVERSION_ERROR, LAUNCHES_ERROR
from advisor.profiling.advice.calibrated import HELD_FACTOR, AmpModel, CalibratedModel
from advisor.profiling.advice.hosts import traced_host
from advisor.profiling.advice.traced import NOTABLE, WAITING, Traced
from advisor.profiling.advice.traced_setup import TracedSetup, some_sizes
from advisor.recommendation import Comparison, Recommendation
from advisor.units import percent, rate

_COEFFICIENTS = "The coefficients of matrix products"  # of whose timings a profile's note tells
UNKNOWN_MEMORY = "unknown: record with profile_memory=True"


def own_setup(found: Recommendation) -> TracedSetup:
    """The setup of a recommendation from a trace."""
    assert isinstance(found.setup, TracedSetup)
    return found.setup


def gain(found: Recommendation, chosen: int, traced: Traced) -> float | None:
    """Of throughput over the traced batch: over the step as it was traced where the GPU is the same."""
    comparison, per_s = found.answer.comparison, found.curve.samples_per_s
    if isinstance(found.setup.model, CalibratedModel):
        return per_s[chosen - 1] * traced.times.step_s / traced.step.batch - 1
    return per_s[chosen - 1] / per_s[comparison.current - 1] - 1 if comparison is not None else None


def kernel_gain(found: Recommendation, chosen: int, traced: Traced) -> float | None:
    """Of the kernels alone, as if neither step waited for anything; None: the GPU is not the traced one."""
    model = found.setup.model
    if not isinstance(model, CalibratedModel):
        return None
    per_s = float(model.kernels_per_s(np.array([chosen]))[0])
    return per_s * traced.times.busy_s / traced.step.batch - 1


def told_apart(found: Recommendation) -> float:
    """Least |ln| of two throughputs of a curve that tells one size from another.

    Of a curve held to one measured batch it is its error: where public sweeps were predicted to gain less than that
    from one batch to another, they gained and lost alike.
    """
    model = found.setup.model
    calibrated = isinstance(model, CalibratedModel) and not isinstance(model, AmpModel)
    return max(choice.TIE, found.answer.error.mean_abs_log) if calibrated else choice.TIE


def comparison(found: Recommendation, chosen: int, traced: Traced) -> tuple[str, ...]:
    """The change from the traced size, and how much of it is the kernels' own."""
    compared, model = found.answer.comparison, found.setup.model
    up_to = "up to " if traced.waits_profiled else ""
    if isinstance(model, AmpModel):
        change = 100 * (gain(found, chosen, traced) or 0.0)
        step = f"the traced {traced.recipe.precision.upper()} step of {traced.step.batch} samples"
        more = f"{up_to if change > 0 else ''}{change:+.0f} % of throughput"
        return (f"Against {step} it is {more}.", *_where_amp_pays(model, found, traced))
    if compared is None:
        return ()
    if chosen != found.batch_size:
        return (_kept(found, compared),)
    if not isinstance(model, CalibratedModel):
        return (compared.text,)
    return (compared.text.replace(" by +", f" by {up_to}+"), *_of_kernels_alone(model, found, chosen, traced))


def _kept(found: Recommendation, compared: Comparison) -> str:
    """Why the traced size stays, though the curve's choice is another."""
    less = ", and need less memory" if found.batch_size < compared.current else ""
    return (
        f"Keep {compared.current}, it hardly matters here: {found.batch_size} would change the throughput by "
        f"{100 * compared.gain:+.1f} %, less than the {percent(told_apart(found), 1)} that can be told apart{less}."
    )


def _of_kernels_alone(model: CalibratedModel, found: Recommendation, chosen: int, traced: Traced) -> list[str]:
    """What is left of a gain if the host keeps ahead of the GPU, and which size that would take."""
    answer = found.answer
    batch = traced.step.batch
    alone = kernel_gain(found, chosen, traced) or 0.0
    if tied(1 + alone, 1 + (gain(found, chosen, traced) or 0.0)):
        return []
    said = f"The kernels alone gain {100 * alone:+.1f} %: the rest is waiting that a larger batch hides"
    if traced.times.host_s > WAITING * traced.times.step_s:
        sizes = some_sizes(1, max(answer.largest_fitting, batch))
        enough = int(sizes[choice.knee(model.kernels_per_s(sizes), np.ones(len(sizes), dtype=bool), answer.tolerance)])
        if enough < chosen:
            said += f", or that CUDA graphs or torch.compile remove: then batch {enough} would be enough"
    return [f"{said}."]


def _where_amp_pays(model: AmpModel, found: Recommendation, traced: Traced) -> tuple[str, ...]:
    """From which batch AMP is faster, where it is not at the traced one."""
    batch = traced.step.batch
    here = np.array([batch])
    amp, plain = model.curve(here), model.as_traced(here)
    if plain.time_s[0] > (1 + choice.TIE) * amp.time_s[0]:
        return ()
    sizes = some_sizes(batch, max(found.answer.largest_fitting, batch))
    slower = np.flatnonzero(model.as_traced(sizes).time_s <= (1 + choice.TIE) * model.curve(sizes).time_s)
    host = amp.host_time_s[0] > amp.gpu_time_s[0]
    why = "the host, not the GPU, sets the step" if host else "its casts cost what the Tensor Cores save"
    at = f"{rate(batch / float(amp.time_s[0]))} instead of {rate(batch / float(plain.time_s[0]))} samples/s"
    pays = f"AMP pays from batch {sizes[slower[-1] + 1]} on" if slower[-1] + 1 < len(sizes) else (
        f"AMP does not pay up to batch {sizes[-1]}")  # fmt: skip
    return (f"At batch {batch} {why}, and AMP would make it {at}; {pays}.",)


def setting(found: Recommendation, traced: Traced, *, own: bool) -> tuple[str, ...]:
    """What kind of prediction this is."""
    setup = own_setup(found)
    gpu, recipe, notes = setup.resolved_gpu.gpu, setup.recipe, list[str]()
    converted = recipe.autocast and not traced.recipe.autocast
    amp = f"{recipe.precision.upper()}{' AMP' if under_autocast(found, traced) else ''}"
    if not own:
        notes.append(f"{gpu.name} is not the traced GPU: nothing of its times is calibrated on the trace")
        if not converted and recipe.precision != traced.recipe.precision:
            notes.append(
                f"{gpu.name} has no {traced.recipe.precision.upper()} Tensor Cores: predicted in {amp} instead"
            )
        if (host := traced_host(found, traced)) is not None:
            notes.append(host.note)
        if traced.step.unknown_share > NOTABLE:
            unknown = percent(traced.step.unknown_share)
            notes.append(f"kernels without a known operator or shapes, {unknown} of the traced time, are left out here")
        if traced.step.constant_s["communication"] > 0:
            notes.append(f"the exchange of gradients, as it would be between GPUs like {gpu.name}, is left out")
    elif converted:
        notes.append(f"{amp} was not traced: the calibrated curve times what the time model makes of it, an estimate")
    if converted and not traced.known:
        notes.append(
            f"what {amp} changes follows from the kinds of the operators: {percent(CONVERSION_ERROR)} off in the mean, "
            "mostly too fast, where whole models were traced both ways"
        )
    if isinstance(setup.model, AmpModel):
        off = "" if traced.known else f" ({percent(LAUNCHES_ERROR)} off in the mean)"
        notes.append(
            f"under {amp} the host launches {setup.model.more_launches:.2f} times the operators, for casts, and is "
            f"taken to need as much longer{off}"
        )
    if not own and recipe.precision == "fp32" and gpu.supports("tf32"):
        notes.append(f"FP32 as traced runs on CUDA cores: TF32 or AMP would use the Tensor Cores of {gpu.name}")
    if traced.gpus > 1:
        notes.append("batch sizes and samples/s are those of one GPU of the job: all of them together have a multiple")
    return tuple(notes)


def own_notes(found: Recommendation, chosen: int, traced: Traced, *, asked: bool) -> tuple[str, ...]:
    """The recommendation's own notes, those on options of another command put in this one's words.

    `asked`: the user said how far to search.
    """
    setup, answer = own_setup(found), found.answer
    without = "Gradient exchange"  # said in `setting`, where it is so
    notes = [note for note in answer.notes if "--" not in note and not note.startswith(without)]
    notes = [note for each in notes if (note := _of_timings(each, setup)) is not None]
    if setup.traced_memory is None:
        notes.append(f"The memory of a step is {UNKNOWN_MEMORY}; every size is taken to fit.")
    elif setup.memory_limit_bytes is None:
        notes.append("The memory of this GPU is unknown, so nothing was held against it: give --memory-limit.")
    calibrated = isinstance(setup.model, CalibratedModel)
    if calibrated and chosen > HELD_FACTOR * traced.step.batch:
        times = round(chosen / traced.step.batch)
        notes.append(
            f"{chosen} is {times} times the traced batch, and such curves were checked up to {HELD_FACTOR} times only."
        )
    if answer.largest_fitting_is_search_limit:
        notes += _end_of_search(found, checked=calibrated and not asked)
    return (*notes, *(traced.own_notes if calibrated else ()), *traced.notes)


def _of_timings(note: str, setup: TracedSetup) -> str | None:
    """What is said of a GPU's timings: whose they are, and nothing of FP16 where it is not predicted."""
    if note != setup.profile.note or not note.startswith(_COEFFICIENTS):
        return note
    whose = f"{_COEFFICIENTS} on {setup.resolved_gpu.gpu.name}"
    return note.replace(_COEFFICIENTS, whose, 1) if setup.recipe.precision == "fp16" else None


def under_autocast(found: Recommendation, traced: Traced) -> bool:
    """Whether a 2-byte step is one under autocast: it was so traced, or is what an FP32 step would become."""
    recipe = found.setup.recipe
    return recipe.autocast and (traced.autocast or not traced.recipe.autocast)


def _end_of_search(found: Recommendation, *, checked: bool) -> list[str]:
    """That the search ended before the curve did, and what to do; nothing where little is to be had beyond."""
    end, setup = found.answer.largest_fitting, own_setup(found)
    per_s = np.array([end, 2 * end]) / setup.curve(np.array([end, 2 * end])).time_s
    more = float(per_s[1] / per_s[0] - 1)
    if more <= found.answer.tolerance:
        return []
    rises = f"the curve still rises there, by {percent(more)} to {2 * end}"
    if not checked:
        return [f"The search ended at {end}, and {rises}: --max-batch searches further."]
    return [
        f"The search ended at {end}, {HELD_FACTOR} times the traced batch, as far as such curves were checked, and "
        f"{rises}: record a trace at batch {end} for the rest, or search further with --max-batch."
    ]


def supports_as_traced(gpu: Gpu, precision: str) -> bool:
    """Whether a GPU other than the traced one has BF16 if the step needs it; V100 and T4 have FP16 alone."""
    return precision != "bf16" or gpu.supports("bf16") or not gpu.supports("fp16")
