"""From decoded trace events to columns: which events are kept, and what of each.

Categories and fields as Kineto writes them (libkineto/src/ActivityType.cpp, output_json.cpp, CuptiActivity.cpp) and
wrote them in 2021 ("Operator", "Kernel", "Runtime", "Memcpy", "Memset", "external id").
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from advisor.errors import BrokenFileError
from advisor.profiling.columns import Columns
from advisor.profiling.raw import (
    Copies,
    DeviceProperties,
    Dims,
    Ints,
    Kernels,
    Launches,
    Marks,
    MemoryEvents,
    Ops,
    RawTrace,
)

MOST_KEPT = 12_000_000
"""Events kept of one trace: about 100 bytes each, twice while they are sorted."""
MOST_TEXT = 2**29
"""Characters of distinct names, shapes and the like of one trace."""

_Value = TypeVar("_Value")
_Rows = tuple[list[tuple[Any, ...]], ...]
_NONE = msgspec.Raw()
_Extent = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_Size = tuple[_Extent, _Extent, _Extent]


class Arguments(
    msgspec.Struct,
    gc=False,
    rename={
        "external": "External id", "old_external": "external id", "sequence": "Sequence number",
        "forward_thread": "Fwd thread id", "dims": "Input Dims", "types": "Input type", "inputs": "Concrete Inputs",
        "registers": "registers per thread", "shared": "shared memory", "blocks_per_sm": "blocks per SM",
        "warps_per_sm": "warps per SM", "occupancy": "est. achieved occupancy %", "in_device": "inDevice",
        "bytes_": "bytes", "allocated_bytes": "Bytes", "device_type": "Device Type", "device_id": "Device Id",
        "total_allocated": "Total Allocated", "total_reserved": "Total Reserved",
    },
):  # fmt: skip
    """`args` of an event: only what is used, of any type, since each kind of event has its own."""

    external: Any = None
    old_external: Any = None
    correlation: Any = None
    device: Any = None
    in_device: Any = None
    stream: Any = None
    sequence: Any = None
    forward_thread: Any = None
    dims: msgspec.Raw = _NONE
    types: msgspec.Raw = _NONE
    inputs: msgspec.Raw = _NONE
    grid: msgspec.Raw = _NONE
    block: msgspec.Raw = _NONE
    registers: Any = None
    shared: Any = None
    blocks_per_sm: Any = None
    warps_per_sm: Any = None
    occupancy: Any = None
    bytes_: Any = None
    allocated_bytes: Any = None
    device_type: Any = None
    device_id: Any = None
    total_allocated: Any = None
    total_reserved: Any = None


class Event(msgspec.Struct, gc=False):
    """One event of the Chrome trace format, with the fields that are used."""

    ph: str = ""
    cat: str | None = None
    name: str = ""
    ts: Any = None
    dur: Any = None
    pid: str | int | float | None = None
    tid: str | int | float | None = None
    args: Arguments | None = None


_NO_ARGUMENTS = Arguments()
_KERNEL, _COPY, _SET, _CALL, _OP, _MARK, _GPU_MARK, _MEMORY = range(8)
_KINDS = {
    "kernel": _KERNEL, "Kernel": _KERNEL,
    "gpu_memcpy": _COPY, "Memcpy": _COPY,
    "gpu_memset": _SET, "Memset": _SET,
    "cuda_runtime": _CALL, "cuda_driver": _CALL, "Runtime": _CALL,
    "cpu_op": _OP, "Operator": _OP,
    "user_annotation": _MARK, "gpu_user_annotation": _GPU_MARK,
    "cpu_instant_event": _MEMORY, None: _MEMORY,
}  # fmt: skip
_STEP = "ProfilerStep"
_OPS_BY_NAME = ("enumerate(DataLoader)", "Optimizer.")  # annotations of PyTorch itself that are work, not marks


class Interned:
    """Distinct values in order of appearance, each with its index."""

    def __init__(self, path: Path) -> None:
        self.index: dict[Any, int] = {}
        self._path = path
        self._size = 0

    def add(self, value: Any, size: int) -> int:
        """Return the index of a new value. Raises BrokenFileError past the limit on distinct text."""
        self._size += size
        if self._size > MOST_TEXT:
            raise BrokenFileError(
                f"trace {self._path} holds more than {MOST_TEXT // 2**20} MiB of distinct names or shapes, the limit; "
                "is it a torch.profiler trace?"
            )
        return self.index.setdefault(value, len(self.index))


class Collector:
    """Keeps what is used of the events of one trace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events = 0
        self._names, self._threads = Interned(path), Interned(path)
        self._dims, self._types, self._inputs = Interned(path), Interned(path), Interned(path)
        self._sizes = Interned(path)  # grids and blocks
        self._kernels, self._copies, self._launches = Columns(14), Columns(9), Columns(6)
        self._ops, self._marks, self._memory = Columns(10), Columns(5), Columns(7, timed=False)

    def add(self, events: Sequence[Event]) -> None:
        """Keep the events that are of a known kind. Raises BrokenFileError past the limit on events."""
        self.events += len(events)
        rows: _Rows = tuple([] for _ in range(8))
        kinds, add_row = _KINDS.get, self._add_row
        for event in events:
            kind = kinds(event.cat)
            if kind is None:
                continue
            if kind == _MEMORY:
                if event.name == "[memory]":
                    rows[_MEMORY].append(_memory_row(event))
            elif event.ph == "X":
                add_row(rows, event, kind)
        tables = self._tables()
        for kind, table in tables.items():
            table.extend(rows[kind])
        kept = sum(table.rows for table in tables.values())
        if kept > MOST_KEPT:
            raise BrokenFileError(
                f"trace {self._path} holds more than {MOST_KEPT} kernels, operators and calls, the limit; "
                "profile fewer steps"
            )

    def _add_row(self, rows: _Rows, event: Event, kind: int) -> None:
        text = event.name
        name = self._names.index.get(text)
        if name is None:
            name = self._names.add(text, len(text))
        a = event.args or _NO_ARGUMENTS
        if kind == _CALL:
            external = a.old_external if a.external is None else a.external
            rows[_CALL].append((name, event.ts, event.dur, self._thread(event), a.correlation, external))
        elif kind == _KERNEL:
            rows[_KERNEL].append(self._kernel_row(event, name, a))
        elif kind in (_COPY, _SET):
            rows[_COPY].append(_copy_row(event, name, a, kind == _SET))
        elif kind == _OP and not text.startswith(_STEP):
            rows[_OP].append(self._op_row(event, name, a))
        else:
            rows[_MARK].append((name, event.ts, event.dur, self._thread(event), kind == _GPU_MARK))
            if kind == _MARK and text.startswith(_OPS_BY_NAME):
                rows[_OP].append(self._op_row(event, name, a))

    def finish(self, devices: tuple[DeviceProperties, ...], notes: Sequence[str], **of_trace: Any) -> RawTrace:
        """Return the trace, each kind sorted by start."""
        tables = self._tables().values()
        origin = min(table.earliest() for table in tables)
        origin = 0.0 if origin == float("inf") else origin
        dims, dim_index = _decoded(self._dims, _as_dims)
        types, type_index = _decoded(self._types, _as_texts)
        inputs, input_index = _decoded(self._inputs, _as_texts)
        return RawTrace(
            path=self._path,
            names=tuple(self._names.index),
            dims=dims,
            types=types,
            inputs=inputs,
            threads=tuple(f"{pid}/{tid}" for pid, tid in self._threads.index),
            kernels=self._kernel_columns(origin),
            copies=_copy_columns(self._copies, origin),
            launches=_launch_columns(self._launches, origin),
            ops=_op_columns(self._ops, origin, dim_index, type_index, input_index),
            marks=_mark_columns(self._marks, origin),
            memory=_memory_columns(self._memory, origin),
            devices=devices,
            origin_us=origin,
            events=self.events,
            notes=(*notes, *self._notes()),
            **of_trace,
        )

    def _tables(self) -> dict[int, Columns]:
        return {
            _KERNEL: self._kernels, _COPY: self._copies, _CALL: self._launches, _OP: self._ops, _MARK: self._marks,
            _MEMORY: self._memory,
        }  # fmt: skip

    def _notes(self) -> list[str]:
        names = ("kernel", "copy", "call", "operator", "annotation", "allocation")
        notes = []
        for name, table in zip(names, self._tables().values(), strict=True):
            if table.without_time:
                notes.append(
                    f"{table.without_time} {name} events have no usable time (absent, NaN or beyond 2^53 us) and were "
                    "left out"
                )
            if table.negative:
                notes.append(f"{table.negative} {name} events have a negative duration, taken as 0")
        return notes

    def _thread(self, event: Event) -> int:
        key = (event.pid, event.tid)
        index = self._threads.index.get(key)
        return self._threads.add(key, len(str(key))) if index is None else index

    def _op_row(self, event: Event, name: int, arguments: Arguments) -> tuple[Any, ...]:
        external = arguments.old_external if arguments.external is None else arguments.external
        return (
            name, event.ts, event.dur, self._thread(event), external, arguments.sequence, arguments.forward_thread,
            _intern_raw(self._dims, arguments.dims), _intern_raw(self._types, arguments.types),
            _intern_raw(self._inputs, arguments.inputs),
        )  # fmt: skip

    def _kernel_row(self, event: Event, name: int, arguments: Arguments) -> tuple[Any, ...]:
        a = arguments
        return (
            name, event.ts, event.dur, a.device, a.stream, a.correlation,
            a.old_external if a.external is None else a.external, a.registers, a.shared, a.blocks_per_sm,
            a.warps_per_sm, a.occupancy, _intern_raw(self._sizes, a.grid), _intern_raw(self._sizes, a.block),
        )  # fmt: skip

    def _kernel_columns(self, origin: float) -> Kernels:
        floats, ints = self._kernels.sorted_by_start()
        sizes = [_as_size(raw) for raw in self._sizes.index]
        size = np.array([*sizes, (-1, -1, -1)], dtype=np.int64)  # the last: for index -1
        return Kernels(
            name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), device=ints(3), stream=ints(4),
            correlation=ints(5), external=ints(6), registers=ints(7), shared_bytes=ints(8), blocks_per_sm=floats(9),
            warps_per_sm=floats(10), occupancy_percent=floats(11), grid=size[ints(12)], block=size[ints(13)],
        )  # fmt: skip


def _memory_row(event: Event) -> tuple[Any, ...]:
    a = event.args or _NO_ARGUMENTS
    return (0, event.ts, a.device_type, a.device_id, a.allocated_bytes, a.total_allocated, a.total_reserved)


def _copy_row(event: Event, name: int, a: Arguments, is_set: bool) -> tuple[Any, ...]:
    external = a.old_external if a.external is None else a.external
    device = a.in_device if a.device is None else a.device  # between two GPUs: the one that copied
    return (name, event.ts, event.dur, device, a.stream, a.correlation, external, a.bytes_, is_set)


def _intern_raw(interned: Interned, raw: msgspec.Raw) -> int:
    text = bytes(raw)
    if not text:
        return -1
    index = interned.index.get(text)
    return interned.add(text, len(text)) if index is None else index


def _copy_columns(columns: Columns, origin: float) -> Copies:
    floats, ints = columns.sorted_by_start()
    return Copies(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), device=ints(3), stream=ints(4),
        correlation=ints(5), external=ints(6), bytes_=ints(7), is_set=floats(8) == 1,
    )  # fmt: skip


def _launch_columns(columns: Columns, origin: float) -> Launches:
    floats, ints = columns.sorted_by_start()
    return Launches(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), thread=ints(3), correlation=ints(4),
        external=ints(5),
    )  # fmt: skip


def _op_columns(columns: Columns, origin: float, dims: Ints, types: Ints, inputs: Ints) -> Ops:
    floats, ints = columns.sorted_by_start()
    return Ops(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), thread=ints(3), external=ints(4),
        sequence=ints(5), forward_thread=ints(6), dims=dims[ints(7)], types=types[ints(8)], inputs=inputs[ints(9)],
    )  # fmt: skip


def _mark_columns(columns: Columns, origin: float) -> Marks:
    floats, ints = columns.sorted_by_start()
    return Marks(
        name=ints(0), start_us=floats(1) - origin, duration_us=floats(2), thread=ints(3), on_gpu=floats(4) == 1
    )


def _memory_columns(columns: Columns, origin: float) -> MemoryEvents:
    floats, ints = columns.as_read()
    return MemoryEvents(
        time_us=floats(1) - origin, device_type=ints(2), device=ints(3), bytes_=ints(4), total_allocated=ints(5),
        total_reserved=ints(6),
    )  # fmt: skip


def _decoded(interned: Interned, convert: Callable[[Any], _Value | None]) -> tuple[tuple[_Value, ...], Ints]:
    """Return the distinct values, and for each index of their text the index of its value (-1: unreadable)."""
    values: dict[Any, int] = {}
    index = []
    for text in interned.index:
        try:
            value: Hashable = convert(msgspec.json.decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
            value = None
        index.append(-1 if value is None else values.setdefault(value, len(values)))
    return tuple(values), np.array([*index, -1], dtype=np.int64)


def _as_dims(value: Any) -> Dims | None:
    """A shape per argument, a tuple of shapes for a list of tensors, None for what is neither."""
    if not isinstance(value, list):
        return None
    return tuple(_as_shape(argument) for argument in value)


def _as_shape(argument: Any) -> Any:
    if not isinstance(argument, list):
        return None
    if argument and all(isinstance(part, list) for part in argument):
        shapes = tuple(tuple(part) for part in argument)
        return shapes if all(_is_shape(shape) for shape in shapes) else None
    return tuple(argument) if _is_shape(argument) else None


def _is_shape(sizes: Sequence[Any]) -> bool:
    return all(type(size) is int and 0 <= size < 2**53 for size in sizes)


def _as_texts(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) else None


def _as_size(text: bytes) -> tuple[int, int, int]:
    """Three whole numbers of a grid or a block, -1 where they are not told."""
    try:
        size: tuple[int, int, int] = msgspec.json.decode(text, type=_Size)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return (-1, -1, -1)
    return size
