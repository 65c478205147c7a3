"""What a step of a trace loses, by cause, and what to do about each.

Four causes: whole tiles and waves (`quantized`), products off the Tensor Cores (`off_tensor_cores`), misaligned
dimensions (`misaligned`), and gaps in which the GPU runs nothing (`gap_lines`). The first three are estimates by the
time model of the GPU, the last is measured. Lines overlap and do not add up: a kernel may be misaligned and badly cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advisor.alignment import OperandAlignment
from advisor.errors import AdvisorError
from advisor.profiling.bill.gap_lines import gap_lines
from advisor.profiling.bill.misaligned import TENSOR_CORE_PRECISIONS, misalignment, slow_dimensions
from advisor.profiling.bill.off_tensor_cores import LAYOUTS, OffTensorCores, off_tensor_cores, step_seconds
from advisor.profiling.bill.quantized import (
    QuantizationLoss,
    fuller_batches,
    is_winograd_product,
    least_traffic_s,
    quantization_loss,
)
from advisor.profiling.bill.timing import Layout, TimeModel
from advisor.profiling.kernels.device import DeviceFacts
from advisor.profiling.records import QUANTIZED, BatchSize, Bill, BillLine, KernelGroup, Operation, StepFacts
from advisor.units import duration, percent

LITTLE = 0.03  # of a step: what all lines together must exceed to be worth the work
HOST_BOUND = 0.1  # of a step in gaps behind the host, from which it is said to hold the step back
LEAST_LINE = 0.001  # of a step: a loss below is no line
ITEMS = 5
WORTH_NAMING = 0.03  # of a line's loss: what one kernel must lose for advice on it alone
PADS = 3  # layers named to be padded


@dataclass(frozen=True)
class _Subject:
    """What the lines are made of."""

    groups: Sequence[KernelGroup]
    operations: Sequence[Operation]
    model: TimeModel
    layout: Layout
    step_s: float
    batch: int | None
    waits_for_host: bool  # so that shorter kernels shorten the step by less

    def operation(self, group: KernelGroup) -> Operation | None:
        return self.operations[group.operation] if group.operation is not None else None


def make_bill(
    groups: Sequence[KernelGroup],
    operations: Sequence[Operation],
    device: DeviceFacts,
    facts: StepFacts,
    kernel_time_s: float,
    batch: BatchSize | None = None,
) -> Bill:
    """The bill of one rank. `kernel_time_s`: of all kernels of the trace, copies not counted.

    Lines are seconds of one step, or of the whole trace where it has no steps; largest first. Without a known GPU only
    the gaps are billed, and the verdict says why.
    """
    step_s = facts.step_s if facts.step_s > 0 else max(kernel_time_s, 1e-12)
    lines = gap_lines(groups, operations, facts)
    unknown = None
    if device.gpu is None:
        unknown = "which GPU is unknown, so tiles, waves and Tensor Cores are not billed: name it with --gpu"
    else:
        try:
            model = TimeModel(device.gpu)
        except AdvisorError as error:
            unknown = f"tiles, waves and Tensor Cores are not billed: {error}"
        else:
            waits = facts.gap_s.get("host", 0.0) > HOST_BOUND * step_s
            traced = batch.batch if batch else None
            subject = _Subject(groups, operations, model, _layout(groups), step_s, traced, waits)
            estimates = (_quantization(subject), _tensor_cores(subject), _alignment(subject))
            lines += [line for line in estimates if line is not None]
    lines.sort(key=lambda line: -line.lost_s)
    return Bill(kernel_time_s, step_s, tuple(lines), _verdict(lines, step_s, facts, unknown))


def _layout(groups: Sequence[KernelGroup]) -> Layout:
    """NHWC where the names of most convolution time say so and nothing is converted, else NCHW."""
    convolutions = [group for group in groups if group.class_ in QUANTIZED - {"gemm", "attention"}]
    nhwc = sum(group.total_s for group in convolutions if "nhwc" in group.name.lower() and not group.helper)
    converts = any("nchwtonhwc" in group.name.lower() for group in groups)
    total = sum(group.total_s for group in convolutions if not group.helper)
    return "nhwc" if total > 0 and nhwc > total / 2 and not converts else "nchw"


def _verdict(lines: Sequence[BillLine], step_s: float, facts: StepFacts, unknown: str | None) -> str:
    of = "a step" if facts.count else "the trace"
    won_s = sum(max(0.0, line.lost_s) for line in lines)
    end = f"; {unknown}" if unknown else ""
    if won_s < LITTLE * step_s:
        return (
            f"little to gain: all that is billed is {percent(won_s / step_s, 1)} of {of}, under {percent(LITTLE)}{end}"
        )
    line = lines[0]
    overlap = "; lines overlap, so they do not add up" if len(lines) > 1 else ""
    return f"the most to gain: {line.what}, {duration(line.lost_s)} ({percent(line.share)}) of {of}{overlap}{end}"


# Tiles and waves ------------------------------------------------------------------------------------------------------


def _quantization(subject: _Subject) -> BillLine | None:
    losses: list[tuple[float, KernelGroup, QuantizationLoss]] = []
    billed_s = 0.0
    for group in subject.groups:
        loss = quantization_loss(group, subject.operation(group), subject.model, subject.layout)
        if loss is not None:
            billed_s += step_seconds(group)
            losses.append((loss.share * step_seconds(group), group, loss))
    lost_s = sum(lost for lost, _, _ in losses)
    if billed_s <= 0 or lost_s < LEAST_LINE * subject.step_s:
        return None
    losses.sort(key=lambda row: -row[0])
    bound = (
        ", an upper bound: no shapes were recorded" if any(loss.upper_bound for _, _, loss in losses[:ITEMS]) else ""
    )
    return BillLine(
        kind="quantization",
        what=f"part-filled tiles and waves of GEMM, convolution and attention kernels "
        f"({percent(lost_s / billed_s, 1)} of their {duration(billed_s)}{bound})",
        lost_s=lost_s,
        share=lost_s / subject.step_s,
        todo=_quantization_todo(subject, losses),
        items=tuple(_quantization_item(subject, *row) for row in losses[:ITEMS] if row[0] > 0),
    )


def _quantization_item(subject: _Subject, lost_s: float, group: KernelGroup, loss: QuantizationLoss) -> str:
    operation = subject.operation(group)
    layer = operation.layer if operation is not None else group.name[:60]
    pass_ = operation.product.pass_ if operation is not None and operation.product is not None else None
    parts = [f"{duration(lost_s)}  {layer} {pass_ or group.class_}"]
    if operation is not None and operation.product is not None and operation.product.kind != "attention":
        p = operation.product
        parts.append(f"{f'{p.batch} x ' if p.batch > 1 else ''}{p.m} x {p.n} x {p.k}")
        if loss.tiling is not None and is_winograd_product(group):
            parts[-1] += f", as 36 products of {loss.tiling.m} x {loss.tiling.n} by Winograd"
    if loss.tiling is not None:
        source = " by its grid" if loss.tiling.from_grid else ""
        filled = percent(1 - loss.tiling.efficiency)
        parts.append(f"tiles {loss.tiling.tile_m}x{loss.tiling.tile_n}{source}, {filled} outside the result")
    if loss.waves_sms is not None and loss.blamed_for_waves:
        parts.append(f"{loss.waves_sms:.2f} waves of {subject.model.gpu.sms} SMs")
        if group.idle_share_sms is not None:
            parts.append(f"last one {percent(group.idle_share_sms)} idle")
    return ", ".join(parts)


def _quantization_todo(subject: _Subject, losses: Sequence[tuple[float, KernelGroup, QuantizationLoss]]) -> str:
    least_s = WORTH_NAMING * sum(lost for lost, _, _ in losses)
    for lost_s, group, loss in losses:
        if lost_s < least_s:
            break
        operation = subject.operation(group)
        product = operation.product if operation is not None else None
        if operation is None or product is None:
            continue
        sizes = fuller_batches(loss, group, product, subject.model.gpu.sms)
        if sizes is not None and product.convolution is not None:
            below, above = sizes
            traced = int(product.convolution.batch)
            fuller = " or ".join(str(size) for size in (below, above) if size > 0 and size != traced)
            if fuller:
                return (
                    f"batch {fuller} fills whole waves of {operation.layer} {group.class_} (traced: {traced}), the "
                    "worst layer that the batch can help; the curve over the batch weighs all layers"
                )
        if loss.tiling is not None and loss.tiling.efficiency < 0.9 and group.class_ == "gemm":
            t = loss.tiling
            whole_n = -(-t.n // t.tile_n) * t.tile_n
            if whole_n != t.n:
                return (
                    f"{operation.layer}: {t.n} columns take {whole_n // t.tile_n} tiles of {t.tile_n}, as {whole_n} "
                    "would: widen the layer, or merge small products"
                )
    return "larger products fill more whole waves: a larger batch, or small products merged"


# Tensor Cores ---------------------------------------------------------------------------------------------------------


def _tensor_cores(subject: _Subject) -> BillLine | None:
    gpu = subject.model.gpu
    found = off_tensor_cores(subject.groups, subject.operations, subject.model)
    off_s = found.measured_s + found.unpredicted_s
    if off_s < LEAST_LINE * subject.step_s:
        return None
    if not gpu.has_tensor_cores:
        return BillLine(
            kind="tensor_cores",
            what=f"{duration(off_s)} of products in FP32; {gpu.name} has no Tensor Cores",
            lost_s=0.0,
            share=0.0,
            todo="nothing to move: FP16 saves memory and traffic here, not arithmetic",
        )
    triton = _triton_note(subject)
    if not found.moved:
        return BillLine(
            kind="tensor_cores",
            what=f"{duration(off_s)} of products off the Tensor Cores, without shapes to predict them by",
            lost_s=0.0,
            share=0.0,
            todo="record with record_shapes=True to have the gain predicted; torch.autocast('cuda', torch.float16) "
            "moves them",
            items=(triton,) if triton else (),
        )
    layout = min(LAYOUTS, key=found.half_s)
    gain_s = found.measured_s - found.half_s(layout)
    return BillLine(
        kind="tensor_cores",
        what=f"{duration(off_s)} of GEMM, convolution and attention off the Tensor Cores "
        f"({percent(off_s / max(found.products_s, 1e-12))} of such time)",
        lost_s=max(0.0, gain_s),
        share=max(0.0, gain_s) / subject.step_s,
        todo=_tensor_core_todo(subject, found, gain_s, layout),
        items=_tensor_core_items(subject, found, triton),
    )


def _tensor_core_todo(subject: _Subject, found: OffTensorCores, gain_s: float, layout: Layout) -> str:
    little = "little to gain: " if gain_s < LITTLE * subject.step_s else ""
    last = " and channels_last" if _has_images(found) and layout == "nhwc" and subject.layout == "nchw" else ""
    error = subject.model.steps.held_out.get("other_gpus")
    wrong = f"; whole steps predicted so were {percent(error.mean)} off, single layers more" if error else ""
    new = subject.model.gpu.compute_capability >= (8, 0)
    cast = (
        "torch.autocast('cuda', torch.bfloat16)" if new else "torch.autocast('cuda', torch.float16) with a GradScaler"
    )
    best_s = found.measured_s - gain_s
    text = f"{little}{cast}{last}: {duration(found.measured_s)} would take {duration(best_s)}{wrong}"
    if subject.waits_for_host:
        text += "; the step shortens by less as long as the GPU waits for the host"
    if found.tf32_s is None or any(group.precision == "tf32" for group in subject.groups):  # none, or on already
        return text
    if found.tf32_s > found.measured_s:
        return text + ". TF32 would gain nothing"
    return (
        f"{text}. Or TF32 in one line, torch.backends.cuda.matmul.allow_tf32 = True or "
        f"torch.set_float32_matmul_precision('high'): {duration(found.tf32_s)}, an estimate without timings"
    )


def _tensor_core_items(subject: _Subject, found: OffTensorCores, triton: str | None) -> tuple[str, ...]:
    items = []
    for moved in found.moved[:ITEMS]:
        gain_s = moved.measured_s - moved.best_half_s
        if gain_s > 0:
            pass_ = moved.operation.product.pass_ if moved.operation.product is not None else None
            items.append(
                f"{duration(gain_s)}  {moved.operation.layer} {pass_ or moved.operation.phase}: "
                f"{duration(moved.measured_s)} to {duration(moved.best_half_s)}"
            )
    if _has_images(found):
        items.append(
            f"by layout: NCHW {duration(found.half_s('nchw'))}, channels_last {duration(found.half_s('nhwc'))}"
        )
    if found.memory_bound_gain_s > 0:
        items.append(
            f"beside it about {duration(found.memory_bound_gain_s)} of {duration(found.memory_bound_s)} in elementwise "
            "kernels and batch normalisation, which autocast halves in bytes: an estimate, not counted above"
        )
    if found.unpredicted_s > 0:
        items.append(f"{duration(found.unpredicted_s)} more without a prediction")
    if pads := _pads_in_half(subject, found):
        items.append(f"to be aligned in FP16, which FP32 does not ask for: {'; '.join(pads)}")
    return (*items, triton) if triton else tuple(items)


def _pads_in_half(subject: _Subject, found: OffTensorCores) -> list[str]:
    """The dimensions that will cost Tensor Cores once the products run in FP16, worst layers first."""
    pads: dict[str, None] = {}
    for moved in found.moved:
        product, capability = moved.operation.product, subject.model.gpu.compute_capability
        if product is not None:
            slow = slow_dimensions(product, moved.operation, "fp16", capability, batch=subject.batch)
            wanted = ", ".join(f"{a.dimension} {a.size} to {a.pad_to}" for a in slow)
            if wanted:
                pads.setdefault(f"{moved.operation.layer} {wanted}")
    return list(pads)[:PADS]


def _has_images(found: OffTensorCores) -> bool:
    products = [moved.operation.product for moved in found.moved]
    return any(product is not None and product.kind == "conv" for product in products)


def _triton_note(subject: _Subject) -> str | None:
    """Triton emits no matrix instruction for V100 and T4 (compute capability below 8.0)."""
    if subject.model.gpu.compute_capability >= (8, 0):
        return None
    triton_s = sum(step_seconds(g) for g in subject.groups if g.library == "Triton" and g.class_ in QUANTIZED)
    if triton_s <= 0:
        return None
    return (
        f"{duration(triton_s)} in Triton kernels: Triton emits no matrix instruction for {subject.model.gpu.name}, so "
        "they miss the Tensor Cores in any precision; cuBLAS and cuDNN do not"
    )


# Alignment ------------------------------------------------------------------------------------------------------------


def _alignment(subject: _Subject) -> BillLine | None:
    found = []
    for group in subject.groups:
        operation = subject.operation(group)
        if operation is None or group.class_ not in QUANTIZED or group.precision not in (*TENSOR_CORE_PRECISIONS, None):
            continue
        traffic_s = least_traffic_s(group, operation.product, subject.model, subject.layout)
        loss = misalignment(group, operation, subject.model, batch=subject.batch, traffic_s=traffic_s)
        if loss is not None:
            found.append((loss.share * step_seconds(group), operation, group, loss))
    lost_s = sum(row[0] for row in found)
    if lost_s < LEAST_LINE * subject.step_s:
        return None
    found.sort(key=lambda row: -row[0])
    pads: dict[str, None] = {}
    items: list[str] = []
    for lost, operation, group, loss in found:
        wanted = ", ".join(f"{a.dimension} {a.size} to {a.pad_to}" for a in loss.dimensions)
        pads.setdefault(f"{operation.layer}: {wanted}")
        if len(items) < ITEMS:
            operands = ", ".join(f"{a.operand} {a.dimension} = {a.size}" for a in loss.dimensions)
            pass_ = operation.product.pass_ if operation.product is not None else None
            layer = f"{operation.layer} {pass_ or group.class_}"
            items.append(f"{duration(lost)}  {layer}: {operands} ({_bytes(loss.dimensions)})")
    return BillLine(
        kind="alignment",
        what=f"dimensions that are no multiple of 16 bytes, in {len(found)} kernels on Tensor Cores",
        lost_s=lost_s,
        share=lost_s / subject.step_s,
        todo=f"pad {'; '.join(list(pads)[:PADS])}",
        items=tuple(items),
    )


def _bytes(dimensions: Sequence[OperandAlignment]) -> str:
    return f"aligned to {min(a.alignment_bytes for a in dimensions)} bytes"
