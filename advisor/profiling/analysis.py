"""From a trace file to its profile: `profile_trace`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advisor.errors import AdvisorError, BadInputError, BrokenFileError
from advisor.gpus import find_gpu
from advisor.profiling.advice.advise import MOST_SEARCHED, Advised, advise
from advisor.profiling.bill.make import make_bill
from advisor.profiling.kernels.device import require_nvidia_kernels, traced_gpu
from advisor.profiling.kernels.groups import group_kernels, occupancy_note
from advisor.profiling.kernels.overlong import without_overlong
from advisor.profiling.kernels.precision import read_precision
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.link import link
from advisor.profiling.output.provenance import recorded_at, software
from advisor.profiling.output.text import clean
from advisor.profiling.ranks import compare_ranks, require_one_job
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.files import last_captures, trace_files
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import LITTLE_BUSY, Bill, KernelGroup, Operation, StepFacts, TraceProfile
from advisor.profiling.steps.batch import read_batch
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.gaps import step_facts
from advisor.step import check_count
from advisor.units import duration, parse_bytes

LONGEST_ERROR = 400  # characters
_NOTES_OF_ERROR = 2
_FEW_KERNELS = 10


def profile_trace(
    path: str | Path,
    *,
    gpu: str | None = None,
    on: str | Sequence[str] = (),
    memory_limit: str | int | None = None,
    max_batch: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> TraceProfile:
    """Tell where the time of a torch.profiler trace goes, what waves and missed Tensor Cores cost, and what to try.

    `path` is one trace (`.json`, `.json.gz`, `.json.zip`) or a folder of them, one per rank. Of a folder the profile is
    that of the slowest rank, and its `ranks` compares them all. `gpu` names the traced GPU where the trace does not
    tell (any name `advisor gpus` finds); `on` names another GPU to advise for, or several. `memory_limit` is what a
    step may take where that is less than the GPU has, in bytes or as "24GiB"; sizes up to `max_batch` are searched.
    `progress` is called with the share of the file that was read.

    Raises BadInputError for a path that is no trace of an NVIDIA GPU, and for limits that are none; BrokenFileError for
    a damaged file, UnknownNameError for a GPU nobody knows.

    >>> profile_trace("trace.json.gz").bill.verdict  # doctest: +SKIP
    """
    on = (on,) if isinstance(on, str) else tuple(on)
    for name in (*on, *([] if gpu is None else [gpu])):
        _check_name(name)  # a slip of the pen is told before a gigabyte is read
    if max_batch is not None:
        check_count("largest batch to search", max_batch, limit=MOST_SEARCHED)
    asked = _Asked(gpu, on, _memory_limit(memory_limit), max_batch)
    try:
        files, notes = last_captures(trace_files(_checked(path)))
        if len(files) == 1:
            return _noted(_profile(files[0], asked, progress), notes)
        return _slowest(Path(path), files, notes, asked, progress)
    except (BadInputError, BrokenFileError) as error:
        raise _in_one_line(error) from error


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise BadInputError(f"{clean(repr(name), 60)} is no GPU's name: give one that `advisor gpus` lists")
    find_gpu(name)


def _checked(path: object) -> Path:
    if not isinstance(path, (str, Path)) or not str(path):
        raise BadInputError(f"{clean(repr(path), 60)} is no path: give a trace file, or a folder with one per rank")
    return Path(path)


def _in_one_line(error: BadInputError | BrokenFileError) -> AdvisorError:
    """The error itself, or its text without what a file's name may do to a terminal."""
    line = clean(str(error), LONGEST_ERROR)
    if line == str(error):
        return error
    return BrokenFileError(line) if isinstance(error, BrokenFileError) else BadInputError(line)


def _noted(profile: TraceProfile, notes: Sequence[str]) -> TraceProfile:
    return replace(profile, notes=(*notes, *profile.notes)) if notes else profile


@dataclass(frozen=True)
class _Asked:
    """What the user said beside the path."""

    gpu: str | None
    on: tuple[str, ...]
    memory_limit_bytes: int | None
    max_batch: int | None


def _memory_limit(given: str | int | None) -> int | None:
    if given is None:
        return None
    size = math.floor(parse_bytes(given)) if isinstance(given, str) else given
    return check_count("memory limit in bytes", size, limit=1 << 50)


def _slowest(
    folder: Path,
    files: Sequence[Path],
    notes: Sequence[str],
    asked: _Asked,
    progress: Callable[[float], None] | None,
) -> TraceProfile:
    """The profile of the slowest rank, one rank in memory at a time; damaged ones are left out and named."""
    profiles: list[TraceProfile] = []
    left_out: list[AdvisorError] = []
    for index, file in enumerate(files):
        found = _tried(file, asked, _part(progress, index, len(files)))
        if isinstance(found, AdvisorError):
            left_out.append(found)
        else:
            profiles.append(found)
    if not profiles:
        raise left_out[0]
    notes = (*notes, *(f"left out: {error}" for error in left_out))
    if len(profiles) == 1:
        return _noted(profiles[0], notes)
    require_one_job(folder, profiles)
    ranks = compare_ranks(profiles, notes)
    return replace(ranks.profiles[ranks.slowest], ranks=ranks)


def _tried(path: Path, asked: _Asked, progress: Callable[[float], None] | None) -> TraceProfile | AdvisorError:
    try:
        return _profile(path, asked, progress)
    except (BadInputError, BrokenFileError) as error:
        return error


def _part(progress: Callable[[float], None] | None, index: int, count: int) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress((index + share) / count)


def _profile(path: Path, asked: _Asked, progress: Callable[[float], None] | None) -> TraceProfile:
    raw = without_overlong(read_trace(path, progress=progress))
    _require_kernels(raw)
    links = link(raw)
    steps = find_steps(raw, links)
    device = traced_gpu(raw, asked.gpu)
    groups = group_kernels(raw, links, steps, device)
    operations = _with_calls(links, steps)
    facts = step_facts(raw, links, steps)
    batch = read_batch(raw, links, steps)
    kernel_time_s = float(raw.kernels.duration_us.sum()) * 1e-6
    if nothing := _nothing_to_judge(len(raw.kernels.name), kernel_time_s, facts):
        bill, advised = Bill(kernel_time_s, facts.step_s, (), nothing), Advised(())
    else:
        advised = advise(
        raw, links, steps, groups, operations, device, facts, batch,
            on=asked.on, memory_limit_bytes=asked.memory_limit_bytes, max_batch=asked.max_batch,
    )  # fmt: skip
        bill = make_bill(groups, operations, device, facts, kernel_time_s, batch, advised.advice)
    return TraceProfile(
        path=str(path),
        rank=raw.rank,
        world_size=raw.world_size,
        gpu=device.public,
        kernel_time_s=kernel_time_s,
        copy_time_s=float(raw.copies.duration_us.sum()) * 1e-6,
        kernels_launched=len(raw.kernels.name),
        tensor_core_time_s=math.fsum(group.total_s for group in groups if group.tensor_cores),
        precision=read_precision(groups, operations),
        steps=facts,
        batch=batch,
        class_s=_class_s(groups),
        operations=operations,
        kernels=groups,
        bill=bill,
        advice=advised.advice,
        notes=_told(
            *raw.notes,
            *(raw.recorded.notes if raw.recorded else ()),
            *links.notes,
            occupancy_note(groups),
            *advised.notes,
        ),
        versions=software(raw),
        recorded_at=recorded_at(raw),
        recorded=raw.recorded,
    )


def _nothing_to_judge(kernels: int, kernel_time_s: float, facts: StepFacts) -> str | None:
    """Say so where a trace holds so little that waits between kernels are nobody's loss."""
    signs = (facts.count > 0, kernels >= _FEW_KERNELS, facts.busy_share >= LITTLE_BUSY)
    if sum(signs) >= 2:
        return None
    what = "one kernel" if kernels == 1 else f"{kernels:,} kernels"
    return f"{what} of {duration(kernel_time_s)}: no step to judge"


def _require_kernels(raw: RawTrace) -> None:
    """Refuse what holds no kernel of an NVIDIA GPU; what could not be read may be why."""
    try:
        require_nvidia_kernels(raw)
    except BadInputError as error:
        more = len(raw.notes) - _NOTES_OF_ERROR
        rest = [f"and {more} more notes"] if more > 0 else []
        shown = (clean(note, 100) for note in raw.notes[:_NOTES_OF_ERROR])
        raise BadInputError("; ".join((str(error), *shown, *rest))) from error


def _told(*notes: str | None) -> tuple[str, ...]:
    """What there is to say, once."""
    return tuple(dict.fromkeys(note for note in notes if note))


def _with_calls(links: Links, steps: StepSpans) -> tuple[Operation, ...]:
    """The operations with how many calls of each launched a kernel, in all and per regular step."""
    in_all = _calls(links, np.ones(len(links.operation), dtype=np.bool_))
    counted = len(steps.regular) if steps.names else 0
    regular = _calls(links, np.isin(steps.kernel_step, steps.regular)) if counted else in_all
    return tuple(
        replace(operation, calls=int(n), calls_per_step=int(of_steps) / counted if counted else None)
        for operation, n, of_steps in zip(links.operations, in_all, regular, strict=True)
    )


def _calls(links: Links, kernels: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Of each operation the calls that some of these kernels belong to."""
    known = kernels & (links.operation >= 0) & (links.op >= 0)
    pairs = np.unique(np.stack([links.operation[known], links.op[known]]), axis=1)
    return np.bincount(pairs[0], minlength=len(links.operations))


def _class_s(groups: Sequence[KernelGroup]) -> dict[str, float]:
    class_s: dict[str, float] = {}
    for group in groups:
        class_s[group.class_] = class_s.get(group.class_, 0.0) + group.total_s
    return dict(sorted(class_s.items(), key=lambda item: -item[1]))
