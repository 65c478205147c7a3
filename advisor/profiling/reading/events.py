"""From decoded trace events to columns: which events are kept, and what of each.

Categories and fields as Kineto writes them (libkineto/src/ActivityType.cpp, output_json.cpp, CuptiActivity.cpp) and
wrote them in 2021 ("Operator", "Kernel", "Runtime", "Memcpy", "Memset", "external id").
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from advisor.errors import BrokenFileError
from advisor.profiling.raw import DeviceProperties, Kernels, RawTrace
from advisor.profiling.reading.columns import (
    Columns,
    copy_columns,
    kernel_columns,
    launch_columns,
    mark_columns,
    memory_columns,
    op_columns,
    repeated,
)
from advisor.profiling.reading.interned import Interned, TextBudget, dims_of, sizes_of, texts_of
from advisor.units import counted

MOST_KEPT = 8_000_000
"""Events kept of one trace: about 150 bytes each. A gigabyte of JSON with shapes holds two million."""

_Rows = tuple[list[tuple[Any, ...]], ...]
_NONE = msgspec.Raw()


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


class Collector:
    """Keeps what is used of the events of one trace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events = 0
        self.is_trace = False  # whether an event had a phase
        self._before_kineto = 0
        budget = TextBudget(path)
        self._names, self._threads, self._sizes = Interned(budget), Interned(budget), Interned(budget)
        self._dims, self._types, self._inputs = Interned(budget), Interned(budget), Interned(budget)
        self._kernels, self._copies, self._launches = Columns(), Columns(), Columns()
        self._ops, self._marks, self._memory = Columns(), Columns(), Columns(timed=False)

    def add(self, events: Sequence[Event]) -> None:
        """Keep the events that are of a known kind. Raises BrokenFileError past the limit on events."""
        self.events += len(events)
        self.is_trace = self.is_trace or any(event.ph for event in events)
        rows: _Rows = tuple([] for _ in range(8))
        kinds, add_row = _KINDS.get, self._add_row
        for event in events:
            kind = kinds(event.cat)
            if kind is None:
                continue
            if kind == _MEMORY:
                if event.name == "[memory]":
                    rows[_MEMORY].append(_memory_row(event))
                elif event.pid == "CUDA functions":
                    self._before_kineto += event.ph == "X"
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
        origin = min(table.earliest() for table in self._tables().values())
        origin = 0.0 if origin == inf else origin
        dims, dim_index = dims_of(self._dims)
        types, type_index = texts_of(self._types)
        inputs, input_index = texts_of(self._inputs)
        kernels = kernel_columns(self._kernels, origin, sizes_of(self._sizes))
        return RawTrace(
            path=self._path,
            names=tuple(self._names.index),
            dims=dims,
            types=types,
            inputs=inputs,
            threads=tuple(f"{pid}/{tid}" for pid, tid in self._threads.index),
            kernels=kernels,
            copies=copy_columns(self._copies, origin),
            launches=launch_columns(self._launches, origin),
            ops=op_columns(self._ops, origin, dim_index, type_index, input_index),
            marks=mark_columns(self._marks, origin),
            memory=memory_columns(self._memory, origin),
            devices=devices,
            origin_us=origin,
            events=self.events,
            notes=(*notes, *self._notes(kernels)),
            **of_trace,
        )

    def _tables(self) -> dict[int, Columns]:
        return {
            _KERNEL: self._kernels, _COPY: self._copies, _CALL: self._launches, _OP: self._ops, _MARK: self._marks,
            _MEMORY: self._memory,
        }  # fmt: skip

    def _notes(self, kernels: Kernels) -> list[str]:
        names = ("kernel", "copy", "call", "operator", "annotation", "allocation")
        notes = []
        for name, table in zip(names, self._tables().values(), strict=True):
            if table.without_time:
                notes.append(
                    f"{counted(table.without_time, f'{name} event')} without a usable time (absent, NaN or beyond "
                    "2^53 us) left out"
                )
            if table.negative:
                notes.append(f"{counted(table.negative, f'{name} event')} of negative duration, taken as 0")
        twice = repeated(kernels)
        if twice:
            notes.append(
                f"{counted(twice, 'kernel event')} with name, time, stream and correlation of another: kept, since "
                "branches of a CUDA graph may; if two traces were merged into this file, their time counts twice"
            )
        if self._before_kineto:
            notes.append(
                f"{counted(self._before_kineto, 'GPU range')} of the profiler before PyTorch 1.8.1, which records "
                "neither kernels' grids nor their registers: record the trace with torch.profiler"
            )
        return notes

    def _thread(self, event: Event) -> int:
        key = (event.pid, event.tid)
        index = self._threads.index.get(key)
        return self._threads.add(key, len(str(key))) if index is None else index

    def _op_row(self, event: Event, name: int, arguments: Arguments) -> tuple[Any, ...]:
        external = arguments.old_external if arguments.external is None else arguments.external
        return (
            name, event.ts, event.dur, self._thread(event), external, arguments.sequence, arguments.forward_thread,
            self._dims.add_raw(arguments.dims), self._types.add_raw(arguments.types),
            self._inputs.add_raw(arguments.inputs),
        )  # fmt: skip

    def _kernel_row(self, event: Event, name: int, arguments: Arguments) -> tuple[Any, ...]:
        a = arguments
        return (
            name, event.ts, event.dur, a.device, a.stream, a.correlation,
            a.old_external if a.external is None else a.external, a.registers, a.shared, a.blocks_per_sm,
            a.warps_per_sm, a.occupancy, self._sizes.add_raw(a.grid), self._sizes.add_raw(a.block),
        )  # fmt: skip


def _memory_row(event: Event) -> tuple[Any, ...]:
    a = event.args or _NO_ARGUMENTS
    return (0, event.ts, a.device_type, a.device_id, a.allocated_bytes, a.total_allocated, a.total_reserved)


def _copy_row(event: Event, name: int, a: Arguments, is_set: bool) -> tuple[Any, ...]:
    external = a.old_external if a.external is None else a.external
    device = a.in_device if a.device is None else a.device  # between two GPUs: the one that copied
    return (name, event.ts, event.dur, device, a.stream, a.correlation, external, a.bytes_, is_set)
