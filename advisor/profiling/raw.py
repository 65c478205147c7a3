"""A trace as columns: what the reader keeps of a Chrome trace, before anything is concluded from it.

`ops` hold the operators ("cpu_op", once "Operator") and what PyTorch itself annotates as work: names that begin with
"enumerate(DataLoader)" or "Optimizer.". `marks` hold every annotation of today's traces and the ProfilerSteps of any;
so today's "Optimizer.step#SGD.step" is in both, that of 2021 ("Operator") only in `ops`.

Times are microseconds, as the trace has them, counted from `origin_us`. Names, shapes and the like are stored once and
referred to by index. -1: the trace does not say; NaN where the column is of floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advisor.recipe import Recipe

_FIRST_S, _LAST_S = 1_420_070_400, 4_102_444_800  # 2015 and 2100: before PyTorch, and after us

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kernels:
    """Kernels of the GPU, sorted by start."""

    name: Ints  # index into RawTrace.names
    start_us: Floats
    duration_us: Floats
    device: Ints
    stream: Ints
    correlation: Ints  # the launch that started it has the same
    external: Ints  # "External id": of the operator, in most traces
    grid: Ints  # (n, 3) CTAs
    block: Ints  # (n, 3) threads
    registers: Ints  # per thread
    shared_bytes: Ints  # per CTA, static and dynamic
    blocks_per_sm: Floats  # grid / SMs
    warps_per_sm: Floats
    occupancy_percent: Floats  # "est. achieved occupancy %"


@dataclass(frozen=True)
class Copies:
    """Copies and fills by the GPU (memcpy, memset), sorted by start."""

    name: Ints  # "Memcpy HtoD (Pinned -> Device)", "Memset (Device)"
    start_us: Floats
    duration_us: Floats
    device: Ints
    stream: Ints
    correlation: Ints
    external: Ints
    bytes_: Ints
    is_set: NDArray[np.bool_]


@dataclass(frozen=True)
class Launches:
    """Calls of the CUDA runtime and driver on the host, sorted by start: launches, copies, synchronizations."""

    name: Ints
    start_us: Floats
    duration_us: Floats
    thread: Ints  # index into RawTrace.threads
    correlation: Ints
    external: Ints


@dataclass(frozen=True)
class Ops:
    """Operators on the host (ATen, autograd nodes, optimizer steps), sorted by start, outer before inner."""

    name: Ints
    start_us: Floats
    duration_us: Floats
    thread: Ints
    external: Ints
    sequence: Ints  # "Sequence number": a backward node has its forward operator's
    forward_thread: Ints  # "Fwd thread id", as the trace numbers them
    dims: Ints  # index into RawTrace.dims; -1: shapes were not recorded
    types: Ints  # index into RawTrace.types
    inputs: Ints  # "Concrete Inputs" (stride, padding, ...): index into RawTrace.inputs


@dataclass(frozen=True)
class Marks:
    """Ranges a user or the profiler named (ProfilerStep#5, record_function, NCCL), on the host or the GPU."""

    name: Ints
    start_us: Floats
    duration_us: Floats
    thread: Ints
    on_gpu: NDArray[np.bool_]


@dataclass(frozen=True)
class MemoryEvents:
    """Allocations of profile_memory=True, in the trace's order."""

    time_us: Floats
    device_type: Ints  # 0 CPU, 1 CUDA
    device: Ints
    bytes_: Ints  # negative: freed
    total_allocated: Ints  # of the caching allocator, where told
    total_reserved: Ints


@dataclass(frozen=True)
class DeviceProperties:
    """One entry of the trace's `deviceProperties`; None: it does not say."""

    id: int
    name: str
    total_memory_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    sms: int | None = None
    threads_per_sm: int | None = None
    registers_per_sm: int | None = None
    registers_per_block: int | None = None
    shared_memory_per_sm_bytes: int | None = None
    shared_memory_per_block_bytes: int | None = None  # without opting in
    shared_memory_per_block_optin_bytes: int | None = None
    warp_size: int | None = None


@dataclass(frozen=True)
class RecordedBy:
    """What `advisor profile --model` says in a trace's head of the run it recorded; None: not known."""

    model: str
    batch: int
    input_shape: tuple[int, ...]  # of one sample
    recipe: Recipe
    device: str  # as CUDA names it; "cpu"
    torch: str | None
    cuda: str | None
    cudnn: int | None
    unprofiled_step_s: tuple[float, ...]  # of each step timed before the profiler ran
    profiled_step_s: tuple[float, ...]  # of each recorded step, by the host's clock
    allocated_peak_bytes: int | None  # of torch's allocator, over the steps without the profiler
    reserved_peak_bytes: int | None
    notes: tuple[str, ...]


Dims = tuple[tuple[int, ...] | tuple[tuple[int, ...], ...] | None, ...]
"""Shape of each argument: () for scalars, None where it cannot be read, a tuple of shapes for a list of tensors.

("()" and "(3,)" are shapes; a list of tensors has tuples inside: ((64, 3, 7, 7), (64,)).)
"""


@dataclass(frozen=True)
class RawTrace:
    """All that is kept of one trace file."""

    path: Path
    names: tuple[str, ...]
    dims: tuple[Dims, ...]
    types: tuple[tuple[str, ...], ...]  # of each argument: "float", "c10::Half", "Int", ""
    inputs: tuple[tuple[str, ...], ...]  # of each argument as text: "[2, 2]", "0", ""
    threads: tuple[str, ...]  # "pid/tid"
    kernels: Kernels
    copies: Copies
    launches: Launches
    ops: Ops
    marks: Marks
    memory: MemoryEvents
    devices: tuple[DeviceProperties, ...] = ()
    origin_us: float = 0.0
    base_time_s: float = 0.0  # what times count from, since 1970; 0: they are since 1970 themselves, or nobody knows
    rank: int | None = None  # of distributedInfo, else of the file's name
    world_size: int | None = None
    versions: dict[str, str] = field(default_factory=dict)  # cuda_runtime_version and the like, where told
    recorded: RecordedBy | None = None  # where `advisor profile --model` recorded it
    events: int = 0  # read in all
    notes: tuple[str, ...] = ()  # what was left out, and why: a line each

    @property
    def begun_s(self) -> float | None:
        """When its first event began, in seconds since 1970 (UTC); None where that cannot be.

        Kineto's times are microseconds since 1970, and since May 2024 since "baseTimeNanoseconds" (pytorch/kineto#910,
        #928). Older profilers count from the start of the machine or of the recording, which gives no date.
        """
        begun_s = self.base_time_s + self.origin_us * 1e-6
        return begun_s if _FIRST_S <= begun_s < _LAST_S else None
