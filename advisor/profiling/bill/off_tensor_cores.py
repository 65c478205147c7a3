"""What the products of a trace would take on Tensor Cores: under FP16 autocast, and in TF32.

The gain is the measured time of an operation's kernels less the predicted time of the same operation, by the GPU's
profile. Elementwise kernels and batch normalisation gain too, for autocast halves their traffic; that is an estimate
of its own, never added to the products'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from advisor.convolution_time import KERNEL_S
from advisor.profiling.bill.timing import Call, Layout, ProductTime, TimeModel, pass_of_group
from advisor.profiling.records import QUANTIZED, KernelGroup, Operation, Product

SINGLE = ("fp32",)
HALF = ("fp16", "bf16")
LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")
OTHER_NUMBERS = ("fp64", "complex", "int", "uint", "bool", "fp8")  # no product of these is moved to FP16


@dataclass(frozen=True)
class Moved:
    """One operation that runs off the Tensor Cores: seconds of one step, all calls together."""

    operation: Operation
    measured_s: float
    half_s: dict[Layout, float]  # predicted under FP16 autocast, by layout
    tf32_s: float | None  # None: the GPU has no TF32

    @property
    def best_half_s(self) -> float:
        """In the faster layout."""
        return min(self.half_s.values())


@dataclass(frozen=True)
class OffTensorCores:
    """All operations that could run on Tensor Cores and do not; seconds of one step."""

    moved: tuple[Moved, ...]
    products_s: float  # measured, on Tensor Cores or not
    unpredicted_s: float  # measured off Tensor Cores, without a prediction: no shapes, or no model
    memory_bound_s: float  # measured: elementwise kernels and batch normalisation on FP32 data
    memory_bound_gain_s: float  # an estimate: half of what is longer than a kernel's least duration

    def half_s(self, layout: Layout) -> float:
        """Predicted time of all under FP16 autocast in one layout."""
        return sum(moved.half_s[layout] for moved in self.moved)

    @property
    def measured_s(self) -> float:
        """Of those with a prediction."""
        return sum(moved.measured_s for moved in self.moved)


def step_seconds(group: KernelGroup) -> float:
    """Seconds of one step; of the whole trace where it has no steps."""
    return group.step_s if group.step_s is not None else group.total_s


def off_tensor_cores(
    groups: Sequence[KernelGroup], operations: Sequence[Operation], model: TimeModel
) -> OffTensorCores:
    """Find the FP32 products off the Tensor Cores and predict them on these."""
    products = [group for group in groups if group.class_ in QUANTIZED]
    by_operation: dict[int | None, list[KernelGroup]] = {}
    for group in products:
        by_operation.setdefault(group.operation, []).append(group)
    found: list[tuple[Operation, list[KernelGroup]]] = []
    unpredicted_s = 0.0
    for index, members in by_operation.items():
        if index is None or operations[index].product is None:  # any number of products: each kernel for itself
            unpredicted_s += sum(step_seconds(group) for group in members if is_off(group))
        elif _could_move(members, operations[index].product):
            found.append((operations[index], members))
    calls = [Call(operation.product, pass_of_group(members[0], operation)) for operation, members in found]  # type: ignore[arg-type]  # those without a product are left out above
    half = {layout: model.predict(calls, "fp16", layout) for layout in LAYOUTS}
    tf32 = model.predict(calls, "tf32") if model.gpu.supports("tf32") else [None] * len(calls)
    moved = []
    for i, (operation, members) in enumerate(found):
        measured_s = sum(map(step_seconds, members))
        times = {layout: half[layout][i] for layout in LAYOUTS}
        per_step = _calls_per_step(operation, members)
        if None in times.values():
            unpredicted_s += measured_s
            continue
        moved.append(
            Moved(
                operation,
                measured_s,
                {layout: per_step * time.seconds for layout, time in times.items() if time is not None},
                _scaled(tf32[i], per_step),
            )
        )
    memory_bound_s, memory_bound_gain_s = _memory_bound(groups, operations)
    return OffTensorCores(
        tuple(sorted(moved, key=lambda m: m.best_half_s - m.measured_s)),
        sum(map(step_seconds, products)),
        unpredicted_s,
        memory_bound_s,
        memory_bound_gain_s,
    )


def _scaled(time: ProductTime | None, per_step: float) -> float | None:
    return None if time is None else per_step * time.seconds


def _could_move(members: Iterable[KernelGroup], product: Product | None) -> bool:
    """Whether an operation's product is FP32, or half and off the Tensor Cores all the same."""
    computing = [group for group in members if not group.helper]
    if product is None or not computing or any(group.tensor_cores for group in computing):
        return False
    if product.dtype.startswith(OTHER_NUMBERS):
        return False
    if product.dtype in HALF:  # by a kernel that is known not to use them
        return all(group.tensor_cores is False for group in computing)
    return product.dtype == "fp32" and all(group.precision in (None, *SINGLE) for group in computing)


def is_off(group: KernelGroup) -> bool:
    """Whether the name tells a product off the Tensor Cores, in FP32 or half, or a transform of one in FP32."""
    if group.precision in HALF:
        return group.tensor_cores is False and not group.helper
    return not group.tensor_cores and group.precision in SINGLE


def _calls_per_step(operation: Operation, members: Sequence[KernelGroup]) -> float:
    total_s = sum(group.total_s for group in members)
    calls = operation.calls or max(group.count for group in members)
    return calls * sum(map(step_seconds, members)) / total_s if total_s > 0 else 0.0


def _memory_bound(groups: Sequence[KernelGroup], operations: Sequence[Operation]) -> tuple[float, float]:
    """(measured, gain) of what autocast runs on half the bytes: elementwise kernels and batch normalisation.

    Autocast keeps the other normalisations, softmax, sums and losses in FP32 (PyTorch, "CUDA Ops that autocast to
    float32"), and the optimizer always is.
    """
    measured_s = gain_s = 0.0
    for group in groups:
        operation = operations[group.operation] if group.operation is not None else None
        if operation is None or group.phase not in ("forward", "backward"):
            continue
        batch_norm = group.class_ == "normalisation" and "batch_norm" in (operation.name + operation.outer).lower()
        if not (group.class_ == "elementwise" or batch_norm) or not _is_single(operation):
            continue
        time_s = step_seconds(group)
        least_s = KERNEL_S * time_s * group.count / group.total_s if group.total_s > 0 else 0.0
        measured_s += time_s
        gain_s += max(0.0, time_s - least_s) / 2
    return measured_s, gain_s


def _is_single(operation: Operation) -> bool:
    """Whether an operator's first tensor is FP32, as far as the trace tells."""
    told = [kind for kind in operation.types if kind]
    return not told or told[0] == "float"
