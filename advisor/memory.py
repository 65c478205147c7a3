"""Device memory of a step at every batch size: traced bytes, optimizer state, and what no trace says.

PyTorch's caching allocator reserves more than it hands out, libraries take workspaces, and the CUDA context and loaded
kernels belong to the process. These come from the step profile: fitted to which batch sizes ran and which did not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advisor.gpus import Gpu
from advisor.profile import GpuProfile
from advisor.recipe import Recipe
from advisor.step_ops import typical
from advisor.step_profile import StepProfile, load_step_profile
from advisor.workload.catalogue import select_variant
from advisor.workload.schema import Affine, Variant, Workload

Bytes = NDArray[np.int64]

FP32_BYTES = 4
STATE_TENSORS = {"sgd": 1, "adam": 2, "adamw": 2}  # FP32 tensors per parameter: momentum; two moments


@dataclass(frozen=True)
class MemoryCurve:
    """Bytes at each batch size; the parts from parameters to first-step spike sum to the total."""

    batches: NDArray[np.int64]
    parameters_bytes: Bytes
    buffers_bytes: Bytes
    gradients_bytes: Bytes  # FP32 gradients that outlive the step; else they are inside live_peak_bytes
    optimizer_state_bytes: Bytes
    live_peak_bytes: Bytes  # activations, FP16 weight casts, temporaries, at the worst moment of the step
    workspace_bytes: Bytes  # cuBLAS and cuDNN
    reserved_bytes: Bytes  # what the allocator holds beyond what is allocated: rounding and fragmentation
    context_bytes: Bytes  # CUDA context and loaded kernels
    first_step_spike_bytes: Bytes  # more than the steady state while cuDNN tries its algorithms
    total_bytes: Bytes

    @property
    def allocated_bytes(self) -> Bytes:
        """What torch.cuda.max_memory_allocated would say, workspaces included."""
        return (
            self.parameters_bytes + self.buffers_bytes + self.gradients_bytes + self.optimizer_state_bytes
            + self.live_peak_bytes + self.workspace_bytes
        )  # fmt: skip


def memory_curve(
    workload: Workload,
    *,
    gpu: Gpu,
    profile: GpuProfile | None,
    recipe: Recipe,
    batches: NDArray[np.int64],
    gpus: int = 1,
    accumulate: bool = False,
    step_profile: StepProfile | None = None,
) -> MemoryCurve:
    """Predict the memory of a step at each batch size per GPU.

    `gpus` > 1 adds DistributedDataParallel's buckets (4 B per trainable parameter); `accumulate` keeps gradients from
    micro-step to micro-step, as zero_grad(set_to_none=False) does.
    Raises BadInputError for a recipe that was not traced.
    """
    del gpu, profile  # every card takes the overheads of the step profile's: an estimate, its error stated there
    known = (step_profile or load_step_profile()).memory
    variant = select_variant(workload, recipe)
    sizes = np.asarray(batches, dtype=np.int64)
    kept = recipe.mode == "train" and (accumulate or not recipe.set_to_none)
    train = recipe.mode == "train"

    def constant(nbytes: float) -> Bytes:
        return np.full(sizes.shape, round(nbytes), dtype=np.int64)

    trainable = workload.trainable_parameters * FP32_BYTES
    live = _live_peak(workload, variant, recipe, sizes, kept=kept)
    gradients = constant(trainable if kept else 0) + constant(trainable if train and gpus > 1 else 0)
    parts = {
        "parameters_bytes": constant(workload.parameters * FP32_BYTES),
        "buffers_bytes": constant(workload.buffer_bytes),
        "gradients_bytes": gradients,
        "optimizer_state_bytes": constant(trainable * STATE_TENSORS[recipe.optimizer] if train else 0),
        "live_peak_bytes": live,
        "workspace_bytes": known.workspace_bytes + workspace(variant, sizes, known.depthwise_workspace),
        "reserved_bytes": np.rint(known.allocator_share * live).astype(np.int64),
        "context_bytes": constant(known.overhead_bytes - known.workspace_bytes),
        "first_step_spike_bytes": constant(0),
    }
    total = np.asarray(np.sum(list(parts.values()), axis=0), dtype=np.int64)
    return MemoryCurve(batches=sizes, **parts, total_bytes=total)


def _live_peak(workload: Workload, variant: Variant, recipe: Recipe, sizes: Bytes, *, kept: bool) -> Bytes:
    """The worst moment of forward and backward, or of the optimizer's own temporaries."""
    lines = variant.live if kept or not variant.live_with_gradients else variant.live_with_gradients
    peak = envelope(lines, sizes)
    if recipe.mode == "infer":
        return peak
    trainable = workload.trainable_parameters * FP32_BYTES
    # Adam's multi-tensor path holds one temporary of all parameters (the square roots), its loop one of the largest.
    temporary = trainable if recipe.foreach else workload.largest_parameter * FP32_BYTES
    in_update = (0 if kept else trainable) + (temporary if recipe.optimizer != "sgd" else 0)
    return np.maximum(peak, in_update)


def workspace(variant: Variant, sizes: Bytes, depthwise_share: float) -> Bytes:
    """cuDNN's workspace for the largest depthwise convolution, as a share of that one's traffic."""
    lines = tuple(
        (op.read_bytes[0] + op.write_bytes[0], op.read_bytes[1] + op.write_bytes[1])
        for op in variant.ops
        if op.kind.startswith("conv") and typical(op.dims["groups"]) == typical(op.dims["c"]) > 1
    )
    return np.asarray(np.rint(depthwise_share * envelope(lines, sizes)), dtype=np.int64)


def envelope(lines: tuple[Affine, ...], sizes: Bytes) -> Bytes:
    """Highest of the lines a + b*B at each B; 0 without lines."""
    if not lines:
        return np.zeros(sizes.shape, dtype=np.int64)
    table = np.array(lines, dtype=np.int64)
    return np.asarray((table[:, :1] + table[:, 1:] * sizes.reshape(1, -1)).max(axis=0).reshape(sizes.shape))


def largest_batch(
    workload: Workload,
    *,
    gpu: Gpu,
    profile: GpuProfile | None,
    recipe: Recipe,
    limit_bytes: int,
    margin: float,
    gpus: int = 1,
    accumulate: bool = False,
    most: int = 1 << 20,
) -> int:
    """Largest batch size up to `most` whose total, and the margin, is within the limit; 0 if not even 1 is.

    The total rises with the batch size, so it is found by halving the interval.
    """

    def fits(batch: int) -> bool:
        total = memory_curve(
            workload, gpu=gpu, profile=profile, recipe=recipe, batches=np.array([batch]), gpus=gpus,
            accumulate=accumulate,
        ).total_bytes[0]  # fmt: skip
        return bool(total * (1 + margin) <= limit_bytes)

    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def default_margin(profile: GpuProfile) -> float:
    """Share added to a predicted total before it is held against the limit, from the held-out error of memory."""
    del profile
    return load_step_profile().memory.margin


def usable_memory_bytes(gpu: Gpu) -> int | None:
    """What CUDA says a card of this kind has, else what the driver left of the one the memory model was fitted on.

    None where its memory is unknown.
    """
    if gpu.cuda_memory_bytes is not None:
        return gpu.cuda_memory_bytes
    return None if gpu.memory_bytes is None else gpu.memory_bytes - load_step_profile().memory.driver_bytes
