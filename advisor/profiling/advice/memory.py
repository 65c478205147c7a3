"""Device memory of the traced step at other batches: from its allocations, a known model, or its shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from advisor.memory import STATE_TENSORS, MemoryCurve, envelope, workspace
from advisor.profiling.advice.parameters import Parameters
from advisor.profiling.advice.saved import alive_at_backward
from advisor.profiling.linked import StepSpans
from advisor.profiling.raw import Ints, RawTrace
from advisor.recipe import Recipe
from advisor.step_profile import StepProfile
from advisor.units import gib, percent
from advisor.workload.catalogue import LARGEST_SIZE, catalogue_names, load_workload, select_variant
from advisor.workload.schema import Affine, Op, Variant

# Largest live peak of every training step in the catalogue (26 models, AMP and FP32, each layout) against its traced
# storages, mean |ln(estimate / traced)| at batch 32: the estimate of `modelled_memory` from shapes.
SHAPES_ERROR = 0.035
# The same over 14 models of Transformers 5.23 in their default sizes, AMP and FP32: RoBERTa, DistilBERT, OPT, Llama,
# GPT-NeoX, ELECTRA, ViT, ResNet, RegNet, Swin v2, SegFormer, MobileViT, BART, Qwen2; and the most that it is too little
# over these and the catalogue at batch 8 to 128. One rule, on activations that several layers cast, was made better on
# them: before, it was 7 % off as well, and up to 20 % too little.
OTHERS_ERROR, OTHERS_SHORTFALL = 0.07, 0.15
# What scaling the live peak from batch 32 to 256 adds to the traced one, the mean over the same steps.
GROWTH_ERROR = 0.03
_CUDA = 1
_PRODUCTS = frozenset({"gemm", "bmm", "conv_fprop", "conv_dgrad", "conv_wgrad"})
_AS_GIVEN = frozenset({"a_t", "b_t"})  # how operands are stored: a trace does not tell


@dataclass(frozen=True)
class TracedMemory:
    """Bytes of a step: what stays from step to step, and the live peak as lines a + b*B."""

    origin: str  # one line: where it comes from, and its error
    live: tuple[Affine, ...]
    static_bytes: int  # parameters, buffers, optimizer state and gradients that are kept
    state_bytes: int = 0  # of that, the optimizer's
    kept_gradients_bytes: int = 0  # of that, gradients
    gradients_bytes: int = 0  # of all parameters, kept or not
    reserved_share: float | None = None  # beyond the allocated, as a share of the live peak; None: the profile's
    depthwise: Variant | None = None
    more_margin: float = 0.0  # share kept free beyond the usual margin

    def curve(self, batches: Ints, profile: StepProfile, *, gpus: int = 1, accumulate: bool = False) -> MemoryCurve:
        """Memory at each batch size; what no trace says (context, libraries, allocator) comes from the step profile."""
        sizes = np.asarray(batches, dtype=np.int64)
        known = profile.memory
        live = envelope(self.live, sizes)

        def constant(nbytes: float) -> Ints:
            return np.full(sizes.shape, round(nbytes), dtype=np.int64)

        kept = self.kept_gradients_bytes or (self.gradients_bytes if accumulate else 0)
        share = known.allocator_share if self.reserved_share is None else self.reserved_share
        libraries = constant(known.workspace_bytes)
        if self.depthwise is not None:
            libraries = libraries + workspace(self.depthwise, sizes, known.depthwise_workspace)
        parts = {
            "parameters_bytes": constant(self.static_bytes - self.state_bytes - self.kept_gradients_bytes),
            "buffers_bytes": constant(0),
            "gradients_bytes": constant(kept + (self.gradients_bytes if gpus > 1 else 0)),
            "optimizer_state_bytes": constant(self.state_bytes),
            "live_peak_bytes": live,
            "workspace_bytes": libraries,
            "reserved_bytes": np.rint(share * live).astype(np.int64),
            "context_bytes": constant(known.overhead_bytes - known.workspace_bytes),
            "first_step_spike_bytes": constant(0),
        }
        total = np.asarray(np.sum(list(parts.values()), axis=0), dtype=np.int64)
        return MemoryCurve(batches=sizes, **parts, total_bytes=total)


def measured_memory(
    raw: RawTrace, steps: StepSpans, parameters: Parameters, recipe: Recipe, batch: int
) -> TracedMemory | None:
    """The memory of a traced step from the trace's own allocations; None where they were not recorded.

    Without them from the peaks that the run itself noted, where it wrote any in the trace's head.
    """
    peak = _peak(raw, steps)
    base = _static(parameters, recipe)
    if peak is None:
        return _noted_memory(raw, base, batch)
    live = peak.peak_bytes - peak.least_bytes
    if not 0 < live <= LARGEST_SIZE or not 0 <= peak.least_bytes <= LARGEST_SIZE:
        return None  # damage
    share = None
    if peak.reserved_bytes > peak.peak_bytes and live > 0:
        share = (peak.reserved_bytes - peak.peak_bytes) / live
    origin = (
        f"allocations in the trace: a live peak of {gib(live)} at batch {batch}, all of it taken to grow with it "
        f"({percent(GROWTH_ERROR)} too much in the mean from 32 to 256 over the 26 models of the catalogue)"
    )
    grown = replace(base, origin=origin, live=((0, -(-live // batch)),), reserved_share=share)
    if peak.least_bytes < base.static_bytes:
        return grown
    return replace(grown, static_bytes=peak.least_bytes, gradients_bytes=0)  # what stays, DDP's buckets too


def _noted_memory(raw: RawTrace, base: TracedMemory, batch: int) -> TracedMemory | None:
    """From the allocator's peaks of the same steps without the profiler."""
    noted = raw.recorded
    if noted is None or noted.batch != batch or not noted.allocated_peak_bytes:
        return None
    live = noted.allocated_peak_bytes - base.static_bytes
    if not 0 < live <= LARGEST_SIZE:
        return None
    origin = (
        f"peak of the allocator without the profiler, {gib(noted.allocated_peak_bytes)} at batch {batch}: all but "
        "parameters and optimizer is taken to grow with it "
        f"({percent(GROWTH_ERROR)} too much in the mean from 32 to 256 over the 26 models of the catalogue)"
    )
    share = max(0, (noted.reserved_peak_bytes or 0) - noted.allocated_peak_bytes) / live
    return replace(base, origin=origin, live=((0, -(-live // batch)),), reserved_share=share or None)


def modelled_memory(variant: Variant, parameters: Parameters, recipe: Recipe, known: str | None) -> TracedMemory | None:
    """The memory of a traced step from the catalogue's model of this name, else from its shapes; None: unknown."""
    base = _static(parameters, recipe)
    if known is not None:
        workload = load_workload(known)
        variant = select_variant(workload, recipe)
        lines = variant.live if base.kept_gradients_bytes else variant.live_with_gradients
        origin = f"the catalogue's {workload.title}, whose products and parameters are those of the trace"
        static = base.static_bytes + workload.buffer_bytes
        return replace(base, origin=origin, live=lines or variant.live, static_bytes=static, depthwise=variant)
    if not variant.ops or recipe.mode != "train":
        return None
    origin = (
        f"an estimate from the shapes and what autograd keeps ({percent(OTHERS_ERROR)} off in the mean over models it "
        f"was not made with, up to {percent(OTHERS_SHORTFALL)} too little, which is kept free beside the margin)"
    )
    live = _with_gradients(alive_at_backward(variant.ops), parameters, recipe)
    return replace(base, origin=origin, live=live, depthwise=variant, more_margin=OTHERS_SHORTFALL)


def _with_gradients(alive: Affine, parameters: Parameters, recipe: Recipe) -> tuple[Affine, ...]:
    """When backward begins, and when it has ended with all gradients, and the update."""
    gradients, largest = parameters.bytes_, parameters.largest * parameters.element_bytes
    temporary = 0 if recipe.optimizer == "sgd" else gradients if recipe.foreach else largest
    kept = parameters.passes > 1 or not recipe.set_to_none
    return alive, ((0 if kept else gradients) + temporary, 0)


def _static(parameters: Parameters, recipe: Recipe) -> TracedMemory:
    """What stays from step to step: parameters, optimizer state, and gradients where they are kept."""
    training = recipe.mode == "train"
    weights = parameters.bytes_
    state = STATE_TENSORS[recipe.optimizer] * weights if training else 0
    kept = weights if training and (parameters.passes > 1 or not recipe.set_to_none) else 0
    return TracedMemory(
        origin="", live=(), static_bytes=weights + state + kept, state_bytes=state, kept_gradients_bytes=kept,
        gradients_bytes=weights if training else 0,
    )  # fmt: skip


def known_model(ops: Sequence[Op], batch: int, parameters: Parameters, recipe: Recipe) -> str | None:
    """The catalogue's model with these very products (pass, sizes and number) and as many parameters; None: none."""
    products = _products(ops, batch)
    if not products:
        return None
    for name in catalogue_names():
        workload = load_workload(name)
        if parameters.elements and workload.parameters != parameters.elements:
            continue
        for variant in workload.variants:
            same_step = variant.mode == recipe.mode and variant.precision == ("amp" if recipe.autocast else "fp32")
            if same_step and variant.layout in (recipe.layout, "any") and _products(variant.ops, batch) == products:
                return name
    return None


def _products(ops: Sequence[Op], batch: int) -> Counter[tuple[str, tuple[tuple[str, int], ...]]]:
    found: Counter[tuple[str, tuple[tuple[str, int], ...]]] = Counter()
    for op in ops:
        if op.kind in _PRODUCTS:
            dims = tuple(sorted((key, a + b * batch) for key, (a, b) in op.dims.items() if key not in _AS_GIVEN))
            found[op.kind, dims] += op.count
    return found


@dataclass(frozen=True)
class _Peak:
    peak_bytes: int
    least_bytes: int  # 0 where the trace tells changes alone
    reserved_bytes: int  # by the allocator; -1: not told


def _peak(raw: RawTrace, steps: StepSpans) -> _Peak | None:
    """What is allocated in a regular step at most and at least, the median of them; None: it was not recorded."""
    memory = raw.memory
    cuda = memory.device_type == _CUDA
    if not cuda.any():
        return None
    devices, count = np.unique(memory.device[cuda], return_counts=True)
    rows = np.flatnonzero(cuda & (memory.device == devices[np.argmax(count)]))
    rows = rows[np.argsort(memory.time_us[rows], kind="stable")]
    told = bool((memory.total_allocated[rows] >= 0).all())
    held = memory.total_allocated[rows] if told else np.cumsum(memory.bytes_[rows])
    bounds = [(0, len(rows))]
    if steps.regular:
        regular = list(steps.regular)
        sides = np.stack([steps.start_us[regular], steps.end_us[regular]], axis=1)
        bounds = [(int(first), int(last)) for first, last in np.searchsorted(memory.time_us[rows], sides)]
    found = [_of_step(held, memory.total_reserved[rows], *bound) for bound in bounds if bound[1] > bound[0]]
    if not found:
        return None
    peak, least, reserved = (int(value) for value in np.median(np.array(found, dtype=float), axis=0))
    return _Peak(peak, least, reserved) if told else _Peak(peak - least, 0, -1)


def _of_step(held: Ints, reserved: Ints, first: int, last: int) -> tuple[int, int, int]:
    within = held[max(0, first - 1) : last]  # with what the step found
    return int(within.max()), int(within.min()), int(reserved[first:last].max())
