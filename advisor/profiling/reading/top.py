"""What a trace says beside its events: GPUs, rank, versions, and how `advisor profile --model` recorded it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from advisor.profiling.raw import DeviceProperties, RecordedBy
from advisor.profiling.reading.jsontext import repaired
from advisor.recipe import Recipe

KEPT_KEYS = ("deviceProperties", "distributedInfo", "schemaVersion", "record_shapes", "profile_memory", "with_stack",
             "with_flops", "with_modules", "baseTimeNanoseconds", "batchwave")  # fmt: skip
_MOST_DEVICES = 1024
_MOST_TEXT = 200
_MOST_REPAIRED_BYTES = 2**20
_MOST_RECORDED_BYTES = 2**16
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_UNREADABLE = object()

_Text = Annotated[str, Meta(max_length=_MOST_TEXT)]
_Size = Annotated[int, Meta(gt=0, le=2**20)]
_Bytes = Annotated[int, Meta(ge=0, le=2**53)]
_Times = Annotated[tuple[Annotated[float, Meta(gt=0, le=1e5)], ...], Meta(max_length=1000)]


class _Recorded(msgspec.Struct, frozen=True):
    """`RecordedBy` as it is written, with the limits of what is believed."""

    schema_version: Literal[1]
    model: _Text
    batch: _Size
    input_shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    recipe: Recipe
    device: _Text
    torch: _Text | None
    cuda: _Text | None
    cudnn: _Bytes | None
    unprofiled_step_s: _Times
    profiled_step_s: _Times
    allocated_peak_bytes: _Bytes | None
    reserved_peak_bytes: _Bytes | None
    notes: Annotated[tuple[_Text, ...], Meta(max_length=100)]


def read_top(top: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
    """Return RawTrace's fields of the entries at a trace's top, and notes of what could not be read."""
    notes: list[str] = []
    values: dict[str, Any] = {}
    recorded = _recorded(top.get("batchwave"), notes)
    for key, text in top.items():
        if key == "batchwave":
            continue
        values[key] = _decoded(text)
        if values[key] is _UNREADABLE:
            notes.append(f"{key[:40]} of the trace could not be read")
    devices = values.pop("deviceProperties", None)
    info = values.pop("distributedInfo", None)
    base_ns = values.pop("baseTimeNanoseconds", None)
    info = info if isinstance(info, dict) else {}
    fields = {
        "devices": tuple(_devices(devices)) if isinstance(devices, list) else (),
        "rank": _count(_number(info.get("rank"))),
        "world_size": _count(_number(info.get("world_size"))),
        "base_time_s": base_ns * 1e-9 if type(base_ns) is int and 0 <= base_ns < 2**63 else 0.0,
        "recorded": recorded,
        "versions": {key: str(value)[:_MOST_TEXT] for key, value in values.items() if isinstance(value, (int, str))},
    }
    return fields, notes


def _recorded(text: bytes | None, notes: list[str]) -> RecordedBy | None:
    """What `advisor profile` wrote of the run; a note where it cannot be believed."""
    if text is None:
        return None
    try:
        if len(text) > _MOST_RECORDED_BYTES:
            raise msgspec.ValidationError(f"{len(text)} bytes, of {_MOST_RECORDED_BYTES} at most")
        found = msgspec.json.decode(text, type=_Recorded)
    except _DECODE_ERRORS as error:
        notes.append(f"what the trace says of its recording by this command is not used: {error}"[:_MOST_TEXT])
        return None
    fields = {name: getattr(found, name) for name in _Recorded.__struct_fields__ if name != "schema_version"}
    return RecordedBy(**fields)


def _decoded(text: bytes) -> Any:
    with contextlib.suppress(*_DECODE_ERRORS):
        return msgspec.json.decode(text)
    with contextlib.suppress(*_DECODE_ERRORS):
        return msgspec.json.decode(repaired(text[:_MOST_REPAIRED_BYTES]))
    return _UNREADABLE


def _devices(entries: list[Any]) -> list[DeviceProperties]:
    devices = []
    for entry in entries[:_MOST_DEVICES]:
        if not isinstance(entry, dict) or _count(entry.get("id")) is None:
            continue
        major, minor = _count(entry.get("computeMajor")), _count(entry.get("computeMinor"))
        name = entry.get("name")
        devices.append(
            DeviceProperties(
                id=entry["id"],
                name=name[:_MOST_TEXT] if isinstance(name, str) else "",
                total_memory_bytes=_count(entry.get("totalGlobalMem")),
                compute_capability=None if major is None or minor is None else (major, minor),
                sms=_count(entry.get("numSms")),
                threads_per_sm=_count(entry.get("maxThreadsPerMultiprocessor")),
                registers_per_sm=_count(entry.get("regsPerMultiprocessor")),
                registers_per_block=_count(entry.get("regsPerBlock")),
                shared_memory_per_sm_bytes=_count(entry.get("sharedMemPerMultiprocessor")),
                shared_memory_per_block_bytes=_count(entry.get("sharedMemPerBlock")),
                shared_memory_per_block_optin_bytes=_count(entry.get("sharedMemPerBlockOptin")),
                warp_size=_count(entry.get("warpSize")),
            )
        )
    return devices


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value


def _count(value: object) -> int | None:
    """A whole number from 0 to 2^53, else None."""
    return value if type(value) is int and 0 <= value <= 2**53 else None
