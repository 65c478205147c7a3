"""Gathers a report: resolves the GPU, decides for every model, reads what was measured, asks each section in turn."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor import __version__
from advisor.errors import AdvisorError, BadInputError, DoesNotFitError
from advisor.gpus import ResolvedGpu, find_gpu, resolve_gpu
from advisor.loading import profiles_for
from advisor.profiling.output.text import clean
from advisor.recommendation import Recommendation, headline, recommend
from advisor.report.records import Report, Section
from advisor.report.subject import Measured, Subject
from advisor.units import gib
from advisor.user_profiles import default_records

if TYPE_CHECKING:
    from advisor.profiling.records import TraceProfile

DEFAULT_MODELS = ("resnet50",)
MOST_MODELS = 12  # each adds some half a megabyte of pictures to the page
# In the order of the page: modules of advisor.report.sections, with what progress calls them.
SECTIONS = {
    "batch": "batch sizes",
    "sweep": "teeth of matrix products",
    "layers": "layers at one sample more",
    "roofline": "roofline",
    "waves": "wave efficiency",
    "alignment": "alignment",
    "ratios": "Triton against cuBLAS and cuDNN",
    "timeline": "recorded waves",
    "trace": "recorded trace",
    "accuracy": "accuracy",
}
ALL_PREDICTED = (
    "Nothing in this report was measured on the GPU it is about: every time, throughput and memory figure is "
    "predicted, and its error is stated beside it. Measure with `advisor bench` on that GPU, and give `--records FILE`."
)

Progress = Callable[[str], None]
_MOST_NAME = 60  # characters of a name that anybody may have written, where it is told


def build_report(
    *,
    gpu: str = "auto",
    models: Sequence[str] = DEFAULT_MODELS,
    records: Path | None = None,
    trace: Path | None = None,
    trace_gpu: str | None = None,
    measured: Measured | None = None,
    command: str = "",
    date: str | None = None,
    progress: Progress | None = None,
    **setup: Any,
) -> Report:
    """Compute all that a report shows; nothing is drawn or written yet.

    `gpu` is a name, "auto" or "local". `records` is a file of `advisor bench`, or an export of one; without it, the
    user's own records are taken where they are of this very GPU. `measured` are rows from elsewhere, which are added.
    `trace` is a recorded torch.profiler trace, `trace_gpu` the GPU it ran on where it does not tell. `command` and
    `date` (when it was made) go into the conditions; without a date the same input gives the same report on any day.
    `progress` is told what is being done. `setup` holds further arguments of `recommend`.
    `advisor.report.rendering.write.write_report` makes files of what is returned.

    A model that does not fit is a note of the report. Raises UnknownNameError, BadInputError and BrokenFileError for
    what was asked for, and NoGpuError for "local" without a GPU.

    >>> build_report(gpu="a100", models=["resnet50"]).title
    'NVIDIA A100-SXM4-80GB: batch sizes, waves and tiles'
    """
    models = tuple(dict.fromkeys(models)) or DEFAULT_MODELS
    if len(models) > MOST_MODELS:
        raise BadInputError(f"{len(models)} models are more than one page holds, {MOST_MODELS}: make several reports")
    say = progress or (lambda _what: None)
    found = measured or Measured()
    resolved = resolve_gpu(gpu)
    if trace_gpu is not None:
        if trace is None:
            raise BadInputError(f"the GPU of a trace is given ({clean(trace_gpu, _MOST_NAME)}), and no trace")
        find_gpu(trace_gpu)  # a slip of the pen is told before anything is computed
    if records is not None or measured is None:
        resolved, own = _records(records, resolved, say)
        found = _joined(own, found)
    profiles = profiles_for(resolved, path=setup.get("profile"))
    if profiles.path is not None:  # a profile of this very card, which was fitted to its records
        found = replace(found, products=tuple(replace(each, fitted=True) for each in found.products))
    notes: list[str] = [note for note in (resolved.note, profiles.gemm.note, *profiles.notes) if note]
    decided = _decided(models, resolved, setup, notes, say)
    if not found.anything:
        notes.insert(0, ALL_PREDICTED)
    notes += found.notes
    profile = _trace(trace, trace_gpu, say)
    subject = Subject(resolved, profiles, decided, found, profile)
    sections = _sections(subject, say, notes)
    names = ", ".join(each.answer.model.title for each in decided)
    return Report(
        title=f"{resolved.gpu.name}: batch sizes, waves and tiles",
        summary=(*(_sentence(headline(each.answer)) for each in decided), *_answers(sections)),
        conditions=_conditions(subject, command, date, names),
        sections=tuple(sections),
        notes=tuple(dict.fromkeys(notes)),
    )


def _records(path: Path | None, resolved: ResolvedGpu, say: Progress) -> tuple[ResolvedGpu, Measured]:
    """What was measured, and the GPU of the report: with "auto" and no GPU here, that of the records given."""
    if path is None:
        return resolved, _own_records(resolved, say)
    from advisor.report.measurements import read_measured

    say("reading records")
    named = resolved.source in ("named", "environment")
    local = resolved.source == "local"
    found = read_measured(path, gpu=resolved.gpu if named or local else None)
    if found.gpu_id is None or found.gpu_id == resolved.gpu.id:
        return resolved, found
    measured_on = clean(found.gpu_id, _MOST_NAME)
    try:
        gpu = find_gpu(found.gpu_id)
    except BadInputError:  # a slice of a GPU, or one that no table has
        raise BadInputError(
            f"{path} was measured on {measured_on}, of which no facts are known: make its report where that GPU is, "
            "with --gpu local"
        ) from None
    if named or local:
        raise BadInputError(
            f"{path} was measured on {measured_on}, the report is about {resolved.gpu.id}: name that GPU with --gpu, "
            "or leave --records out"
        )
    return ResolvedGpu(gpu, "named", note=f"The GPU is that of {clean(path.name, _MOST_NAME)}."), found


def _own_records(resolved: ResolvedGpu, say: Progress) -> Measured:
    """The user's own records where they are of the local GPU. Nobody asked for them, so a fault in them is a note."""
    path = default_records()
    if resolved.source != "local" or not path.is_file():
        return Measured()
    from advisor.report.measurements import read_measured

    say("reading records")
    try:
        found = read_measured(path, gpu=resolved.gpu)
    except AdvisorError as error:
        return Measured(notes=(f"Your own records are not shown: {error}",))
    if found.gpu_id not in (None, resolved.gpu.id):
        return Measured(notes=(f"Your own records, {path}, are of {clean(found.gpu_id, _MOST_NAME)} and not shown.",))
    return found


def _joined(own: Measured, other: Measured) -> Measured:
    return replace(
        own,
        products=own.products + other.products,
        pairs=own.pairs + other.pairs,
        pairs_origin=own.pairs_origin or other.pairs_origin,
        steps=own.steps + other.steps,
        timelines=own.timelines + other.timelines,
        conditions=own.conditions or other.conditions,
        notes=own.notes + other.notes,
    )


def _decided(
    models: Sequence[str], resolved: ResolvedGpu, setup: Mapping[str, Any], notes: list[str], say: Progress
) -> tuple[Recommendation, ...]:
    """One for each model that fits: "resnet50" and "ResNet50" are one model."""
    gpu = "local" if resolved.source == "local" else resolved.gpu.id
    found: dict[tuple[str, str], Recommendation] = {}
    for number, model in enumerate(models, 1):
        say(f"deciding {number} of {len(models)}: {clean(model, _MOST_NAME)}")
        decided = _recommended(model, gpu, setup, notes)
        if decided is not None:
            found.setdefault((decided.answer.model.name, decided.answer.model.title), decided)
    return tuple(found.values())


def _recommended(model: str, gpu: str, setup: Mapping[str, Any], notes: list[str]) -> Recommendation | None:
    try:
        return recommend(model, gpu=gpu, **setup)
    except DoesNotFitError as error:
        notes.append(str(error))
        return None


def _trace(path: Path | None, gpu: str | None, say: Progress) -> TraceProfile | None:
    if path is None:
        return None
    from advisor.profiling.analysis import profile_trace
    from advisor.report.sections.trace import as_option_of_report

    say("reading the trace")
    try:
        return profile_trace(path, gpu=gpu)
    except BadInputError as error:
        raise BadInputError(as_option_of_report(str(error))) from error


def _sections(subject: Subject, say: Progress, notes: list[str]) -> list[Section]:
    """Every section that has something to show; one that cannot be computed is a note."""
    found = []
    for number, (name, what) in enumerate(SECTIONS.items(), 1):
        say(f"computing {number} of {len(SECTIONS)}: {what}")
        module = importlib.import_module(f"advisor.report.sections.{name}")
        try:
            section: Section | None = module.section(subject)
        except AdvisorError as error:
            notes.append(f"No section on {what}: {error}")
            continue
        if section is not None:
            found.append(section)
    return found


def _answers(sections: Sequence[Section]) -> tuple[str, ...]:
    """The first sentence of each section that is about no model."""
    return tuple(
        re.split(r"(?<=\.) (?=[A-Z])", section.figures[0].answer)[0]
        for section in sections
        if section.figures and section.id in ("sweep", "ratios")
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _conditions(subject: Subject, command: str, date: str | None, models: str) -> dict[str, str]:
    gpu = subject.gpu
    memory = "" if gpu.memory_bytes is None else f", {gib(gpu.memory_bytes)}"
    capability = "{}.{}".format(*gpu.compute_capability)
    clock = "" if gpu.boost_clock_hz is None else f", boost clock {gpu.boost_clock_hz / 1e9:.2f} GHz"
    found = {
        "GPU": f"{gpu.name} ({gpu.sms} SMs, compute capability {capability}{memory}{clock})",
        "Models": models or "none",
        "Matrix products": subject.profiles.gemm.describe(),
        **({"Steps": subject.models[0].setup.describe_profile()} if subject.models else {}),
        **({"Recipe": subject.models[0].answer.recipe} if subject.models else {}),
        **(subject.measured.conditions or {}),
    }
    if command:
        found["Command"] = command
    if date:
        found["Made"] = date
    return found | {"batchwave": __version__}
