"""What a user measured, for a report: a child reads the records, its answer is checked and given its origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from advisor.errors import BrokenFileError
from advisor.gpus import Gpu
from advisor.report.records import Origin
from advisor.report.subject import (
    Floats,
    Measured,
    MeasuredPair,
    MeasuredProducts,
    MeasuredSteps,
    MeasuredTimeline,
)
from advisor.units import counted
from advisor.worker import ask_worker

MEASURE = "measure on a GPU with `advisor bench`"
_Size = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]
_Ratio = Annotated[float, msgspec.Meta(gt=0, lt=1e30)]
_Amount = Annotated[float, msgspec.Meta(ge=0, lt=1e30)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class _Card(msgspec.Struct, frozen=True):
    name: str
    key: str
    id: str | None = None
    sms: int | None = None


class _Conditions(msgspec.Struct, frozen=True):
    first: str
    last: str
    commands: tuple[str, ...]
    warnings: tuple[str, ...]
    driver: str | None = None
    cuda: str | None = None
    torch: str | None = None
    cudnn: str | None = None
    triton: str | None = None
    method_version: int | None = None
    replay_of: str | None = None
    power_limit_w: float | None = None
    sm_clock_hz: float | None = None


class _Counts(msgspec.Struct, frozen=True):
    total: _Count
    good: _Count
    used: _Count
    sampled: bool
    left_out: dict[str, _Count]


class _Products(msgspec.Struct, frozen=True, rename={"pass_": "pass"}):
    pass_: str
    precision: str
    library: str
    mode: str
    m: list[_Size]
    n: list[_Size]
    k: list[_Size]
    time_s: list[_Seconds]
    low_s: list[_Amount]
    high_s: list[_Amount]
    kernel: list[str]


class _Pair(msgspec.Struct, frozen=True):
    case: str
    group: str
    library: str
    library_s: _Seconds
    ours_s: _Seconds
    ratio: _Ratio
    flops: _Amount | None = None


class _Steps(msgspec.Struct, frozen=True):
    model: str
    batch: list[_Size]
    time_s: list[_Seconds]
    memory_bytes: list[_Amount | None]
    power_w: list[_Amount | None]
    precision: str | None = None
    layout: str | None = None
    optimizer: str | None = None
    cudnn_benchmark: bool | None = None


class _Timeline(msgspec.Struct, frozen=True):
    """Checked here, handed on as it came."""

    m: _Size
    n: _Size
    k: _Size
    tile_m: _Size
    tile_n: _Size
    tile_k: _Size
    sms: _Size
    sm: list[_Count]
    start_ns: list[_Count]
    end_ns: list[_Count]


class _Document(msgspec.Struct, frozen=True):
    schema_version: int
    gpu: _Card | None
    conditions: _Conditions | None
    counts: _Counts
    products: list[_Products]
    pairs: list[_Pair]
    steps: list[_Steps]
    timelines: list[dict[str, Any]]


def read_measured(path: Path, *, gpu: Gpu | None = None, fitted: bool = False) -> Measured:
    """What a report shows of a records file, an export of one, or a campaign's folder.

    `gpu`: whose rows are wanted where the file holds those of several; without it, or where there are none, those of
    the GPU that was measured last. Whose they are is `Measured.gpu_id`: the table's id, the driver's name where the
    table has none, and of a slice its SMs besides, so that it is no other GPU's id. `fitted`: whether the profile that
    predicts was fitted to these rows. What was sampled, left out or is doubtful is said in `notes`.

    Raises WorkerError or BrokenFileError, each one line, where the file cannot be read or is not what it should be.
    """
    words = [] if gpu is None else [f"--gpu={gpu.id}", f"--gpu-name={gpu.name}", f"--sms={gpu.sms}"]
    answer = ask_worker("report-rows", *words, "--", str(path))
    try:
        found = msgspec.convert(answer, _Document)
        for record in found.timelines:
            _same_length(msgspec.convert(record, _Timeline), ("sm", "start_ns", "end_ns"))
        for series in found.products:
            _same_length(series, ("m", "n", "k", "time_s", "low_s", "high_s", "kernel"))
        for steps in found.steps:
            _same_length(steps, ("batch", "time_s", "memory_bytes", "power_w"))
    except (msgspec.ValidationError, ValueError) as error:
        raise BrokenFileError(f"{path} holds what no measurement says ({error}); measure anew") from error
    shown = found.products or found.pairs or found.steps or found.timelines
    if found.gpu is None or found.conditions is None or not shown:
        return Measured(notes=(_nothing(path, found.counts),))
    origin = _origin(found.gpu, found.conditions)
    return Measured(
        products=tuple(_products(series, origin, fitted=fitted) for series in found.products),
        pairs=tuple(_pair(pair) for pair in found.pairs),
        pairs_origin=origin if found.pairs else None,
        steps=tuple(_steps(steps, origin) for steps in found.steps),
        timelines=tuple(MeasuredTimeline(record, origin) for record in found.timelines),
        conditions=_conditions(found.gpu, found.conditions, found.counts),
        gpu_id=_gpu_id(found.gpu, gpu),
        notes=(*_notes(path, found.counts), *(f"The measurements: {text}." for text in found.conditions.warnings)),
    )


def _same_length(record: msgspec.Struct, names: Sequence[str]) -> None:
    lengths = [len(getattr(record, name)) for name in names]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"{', '.join(names)} have {', '.join(map(str, lengths))} entries")


def _products(series: _Products, origin: Origin, *, fitted: bool) -> MeasuredProducts:
    m, n, k = (np.array(sizes, dtype=np.int64) for sizes in (series.m, series.n, series.k))
    time_s, low_s, high_s = (np.array(times, dtype=float) for times in (series.time_s, series.low_s, series.high_s))
    return MeasuredProducts(
        m, n, k, time_s, low_s, high_s, precision=series.precision, library=series.library, mode=series.mode,
        kernel=tuple(series.kernel), fitted=fitted, origin=origin, pass_=series.pass_,
    )  # fmt: skip


def _pair(pair: _Pair) -> MeasuredPair:
    flops = np.nan if pair.flops is None else pair.flops
    return MeasuredPair(pair.case, pair.group, pair.library, pair.library_s, pair.ours_s, pair.ratio, flops)


def _steps(steps: _Steps, origin: Origin) -> MeasuredSteps:
    precision = {"amp_fp16": "fp16 AMP", None: "precision ??"}.get(steps.precision, steps.precision)
    layout = None if steps.layout == "any" else steps.layout
    tuned = None if steps.cudnn_benchmark is None else f"cudnn.benchmark={steps.cudnn_benchmark}"
    recipe = ", ".join(word for word in (precision, layout, steps.optimizer, tuned) if word)
    batch, time_s = np.array(steps.batch, dtype=np.int64), np.array(steps.time_s, dtype=float)
    return MeasuredSteps(steps.model, batch, time_s, _known(steps.memory_bytes), _known(steps.power_w), recipe, origin)


def _known(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _gpu_id(card: _Card, asked: Gpu | None) -> str:
    id_ = card.id or card.name
    sliced = " MIG " in card.name and (asked is None or (asked.id, asked.sms) != (card.id, card.sms))
    return f"{id_} ({card.sms} SMs)" if sliced else id_


# What is said of them ------------------------------------------------------------------------------------------------


def _origin(card: _Card, conditions: _Conditions) -> Origin:
    """One sentence: GPU, software, clocks, dates, command."""
    if conditions.replay_of is not None:
        return Origin("public measurement", f"replayed, not measured here: {conditions.replay_of}")
    told = _told(conditions)
    software = ", ".join(
        f"{name} {told[name]}" for name in ("driver", "CUDA", "torch", "cuDNN", "Triton") if name in told
    )
    others = {"SM clock": "SM clock {}", "Power limit": "power limit {}", "Measured": "{}", "Measured by": "by {}"}
    said = [words.format(told[name]) for name, words in others.items() if name in told]
    return Origin("measured here", "; ".join([f"on {card.name}", *([software] if software else []), *said]))


def _told(conditions: _Conditions) -> dict[str, str]:
    """What is known of the conditions, as it is printed."""
    first, last = conditions.first[:10], conditions.last[:10]
    known = {
        "driver": conditions.driver,
        "CUDA": conditions.cuda,
        "torch": conditions.torch,
        "cuDNN": cudnn_version(conditions.cudnn),
        "Triton": conditions.triton,
        "SM clock": conditions.sm_clock_hz and f"{conditions.sm_clock_hz / 1e9:.2f} GHz, median while measuring",
        "Power limit": conditions.power_limit_w and f"{conditions.power_limit_w:.0f} W",
        "Measured": first if first == last else f"{first} to {last}",
        "Measured by": _shortened(conditions.commands),
    }
    return {name: value for name, value in known.items() if value}


def _shortened(commands: Sequence[str]) -> str:
    shown = ", ".join(f"`{command}`" for command in commands[:3])
    return f"{shown} and {len(commands) - 3} more" if len(commands) > 3 else shown


def cudnn_version(version: str | None) -> str | None:
    """ "91200" (cudnnGetVersion) as "9.12.0", "8907" as "8.9.7"; other texts as they are."""
    if version is None or not version.isdigit() or len(version) not in (4, 5):
        return version
    major, minor = (100, 100) if len(version) == 5 else (10, 100)
    number = int(version)
    return f"{number // (major * minor)}.{number // minor % major}.{number % minor}"


def _conditions(card: _Card, conditions: _Conditions, counts: _Counts) -> Mapping[str, str]:
    """For the table of conditions."""
    sms = "" if card.sms is None else f" ({card.sms} SMs)"
    method = {} if conditions.method_version is None else {"Timing method": f"version {conditions.method_version}"}
    rows = f"{counts.used:,} of {counts.total:,} in the records"
    return {"Measured GPU": f"{card.name}{sms}", **_told(conditions), **method, "Measured rows": rows}


def _notes(path: Path, counts: _Counts) -> list[str]:
    """What was not shown, and why."""
    found = []
    if counts.sampled:
        found.append(
            f"{counts.used:,} of {counts.good:,} rows drawn from {path.name}: the newest of a case, and of "
            "every sweep as many cases; the same on every run."
        )
    if counts.left_out:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in counts.left_out.items())
        left_out = counted(sum(counts.left_out.values()), "row")
        found.append(f"Left out of {path.name}, which holds {counted(counts.total, 'row')}: {left_out} ({reasons}).")
    return found


def _nothing(path: Path, counts: _Counts) -> str:
    if not counts.total:
        return f"{path.name} holds no measurement: {MEASURE}."
    why = "; ".join(f"{count:,} {reason}" for reason, count in counts.left_out.items())
    reasons = f" ({why})" if why else ""
    return f"{path.name} holds nothing that a report shows, in {counted(counts.total, 'row')}{reasons}: {MEASURE}."
