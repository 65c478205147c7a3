"""What a step of a trace loses, by cause, and what to do about each.

Four causes: whole tiles and waves (`quantized`), products off the Tensor Cores (`off_tensor_cores`), misaligned
dimensions (`misaligned`), and gaps in which the GPU runs nothing (`gap_lines`). The first three are estimates by the
time model of the GPU, the last is measured. Lines overlap and do not add up: a kernel may be misaligned and badly cut.
Kernels that get shorter shorten a step only as far as the host launches them soon enough (`host`).
"""

from __future__ import annotations

from collections.abc import Sequence

from advisor.alignment import OperandAlignment
from advisor.errors import AdvisorError
from advisor.profiling.bill.gap_lines import gap_lines
from advisor.profiling.bill.host import AmpStep, HostBound, host_bound
from advisor.profiling.bill.misaligned import TENSOR_CORE_PRECISIONS, misalignment, pad_advice
from advisor.profiling.bill.off_tensor_cores import step_seconds
from advisor.profiling.bill.quantized import (
    QuantizationLoss,
    fuller_batches,
    is_winograd_product,
    least_traffic_s,
    quantization_loss,
)
from advisor.profiling.bill.subject import ITEMS, LEAST_LINE, LITTLE, PADS, Subject
from advisor.profiling.bill.tensor_core_line import tensor_core_line
from advisor.profiling.bill.timing import TimeModel
from advisor.profiling.kernels.device import DeviceFacts
from advisor.profiling.kernels.layout import traced_layout
from advisor.profiling.records import QUANTIZED, Advice, BatchSize, Bill, BillLine, KernelGroup, Operation, StepFacts
from advisor.units import duration, percent

NO_TIME = "nothing is billed: every kernel of the trace has a duration of 0, which no GPU's has; record it again"
NO_STEP = "nothing is billed: the steps of the trace have no length, as its times or correlation ids are damaged"
WORTH_NAMING = 0.1  # of a line's loss: what one kernel must lose for advice on it alone


def make_bill(
    groups: Sequence[KernelGroup],
    operations: Sequence[Operation],
    device: DeviceFacts,
    facts: StepFacts,
    kernel_time_s: float,
    batch: BatchSize | None = None,
    advice: Sequence[Advice] = (),
) -> Bill:
    """The bill of one rank. `kernel_time_s`: of all kernels of the trace, copies not counted.

    Lines are seconds of one step, or of the whole trace where it has no steps; the first shortens the step most.
    Without a known GPU only the gaps are billed, and the verdict says why. `advice` tells what batch size would hide
    the host's launches, and what the whole step would take under AMP.
    """
    step_s = facts.step_s if facts.step_s > 0 else max(kernel_time_s, 1e-12)
    if kernel_time_s <= 0:
        return Bill(0.0, step_s, (), NO_TIME)
    if facts.count and facts.step_s <= 0:
        return Bill(kernel_time_s, step_s, (), NO_STEP)
    host = host_bound(facts)
    lines = gap_lines(groups, operations, facts, _larger(advice))
    unknown = None
    if device.gpu is None:
        unknown = f"{device.lack}, so tiles, waves and Tensor Cores are not billed"
    else:
        try:
            model = TimeModel(device.gpu)
        except AdvisorError as error:
            unknown = f"tiles, waves and Tensor Cores are not billed: {error}"
        else:
            traced = batch.batch if batch else None
            amp = AmpStep.of(advice, device.gpu.id)
            subject = Subject(groups, operations, model, traced_layout(groups) or "nchw", step_s, traced, host, amp)
            estimates = (_quantization(subject), tensor_core_line(subject), _alignment(subject))
            lines += [line for line in estimates if line is not None]
    lines = _ranked(lines)
    verdict = _verdict(lines, step_s, facts, host, unknown)
    return Bill(kernel_time_s, step_s, tuple(lines), verdict, host.host_s if host else None)


def _ranked(lines: Sequence[BillLine]) -> list[BillLine]:
    """First what shortens the step most, then by what each loses; unknown ones last."""
    ranked = sorted(lines, key=lambda line: -(line.lost_s or 0.0))
    first = max(ranked, key=lambda line: line.step_gain_s or 0.0, default=None)
    return sorted(ranked, key=lambda line: line is not first)


def _larger(advice: Sequence[Advice]) -> int | None:
    """The batch size that is recommended as traced, where it is larger."""
    return next((a.batch for a in advice if a.calibrated and a.batch > a.traced_batch), None)


def _verdict(
    lines: Sequence[BillLine], step_s: float, facts: StepFacts, host: HostBound | None, unknown: str | None
) -> str:
    of = "a step" if facts.count else "the trace"
    won_s = sum(line.step_gain_s or 0.0 for line in lines)
    untold = next((line.what for line in lines if line.lost_s is None), None)
    end = "".join(f"; {text}" for text in (untold, unknown) if text)
    if won_s < LITTLE * step_s:
        return (
            f"little to gain: all that is billed is {percent(won_s / step_s, 1)} of {of}, under {percent(LITTLE)}{end}"
        )
    line, gain_s = lines[0], lines[0].step_gain_s or 0.0
    behind = _behind(lines, step_s, host)
    overlap = "; lines overlap, so they do not add up" if len(lines) > 1 else ""
    return (
        f"the most to gain: {line.what}, {duration(gain_s)} ({percent(gain_s / step_s)}) of {of}{behind}{overlap}{end}"
    )


def _behind(lines: Sequence[BillLine], step_s: float, host: HostBound | None) -> str:
    """What kernels could save beside what the step shows of it, while the host holds it back."""
    hidden = [line for line in lines if line.lost_s and line.lost_s - (line.step_gain_s or 0.0) >= LITTLE * step_s]
    if host is None or not hidden:
        return ""
    most = max(hidden, key=lambda line: line.lost_s or 0.0)
    return (
        f"; then {duration(most.lost_s or 0.0)} of kernel time, most of which a step hides while the host takes about "
        f"{duration(host.host_s)} to launch it: {most.what}"
    )


# Tiles and waves ------------------------------------------------------------------------------------------------------


def _quantization(subject: Subject) -> BillLine | None:
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
        step_gain_s=subject.step_gain_s(lost_s),
        todo=_quantization_todo(subject, losses),
        items=tuple(_quantization_item(subject, *row) for row in losses[:ITEMS] if row[0] > 0),
    )


def _quantization_item(subject: Subject, lost_s: float, group: KernelGroup, loss: QuantizationLoss) -> str:
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


def _quantization_todo(subject: Subject, losses: Sequence[tuple[float, KernelGroup, QuantizationLoss]]) -> str:
    least_s = WORTH_NAMING * sum(lost for lost, _, _ in losses)
    for lost_s, group, loss in losses[:ITEMS]:
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
                    f"worst layer that the batch can help, {duration(lost_s)}; the curve over the batch weighs all "
                    "layers"
                )
        if loss.tiling is not None and loss.tiling.efficiency < 0.9 and group.class_ == "gemm":
            t = loss.tiling
            whole_n = -(-t.n // t.tile_n) * t.tile_n
            if whole_n != t.n:
                count = whole_n // t.tile_n
                return (
                    f"{operation.layer}, {duration(lost_s)}: {t.n} columns take {count} tile{'s' * (count > 1)} of "
                    f"{t.tile_n}, as {whole_n} would: widen the layer, or merge small products"
                )
    return "larger products fill more whole waves: a larger batch, or small products merged"


# Alignment ------------------------------------------------------------------------------------------------------------


def _alignment(subject: Subject) -> BillLine | None:
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
    pads = pad_advice([(operation, loss.dimensions) for _, operation, _, loss in found])
    items: list[str] = []
    for lost, operation, group, loss in found[:ITEMS]:
        operands = ", ".join(f"{a.operand} {a.dimension} = {a.size}" for a in loss.dimensions)
        pass_ = operation.product.pass_ if operation.product is not None else None
        layer = f"{operation.layer} {pass_ or group.class_}"
        items.append(f"{duration(lost)}  {layer}: {operands} ({_bytes(loss.dimensions)})")
    return BillLine(
        kind="alignment",
        what=f"dimensions that are no multiple of 16 bytes, in {len(found)} kernels on Tensor Cores",
        lost_s=lost_s,
        share=lost_s / subject.step_s,
        step_gain_s=subject.step_gain_s(lost_s),
        todo=f"pad {'; '.join(pads[:PADS])}",
        items=tuple(items),
    )


def _bytes(dimensions: Sequence[OperandAlignment]) -> str:
    return f"aligned to {min(a.alignment_bytes for a in dimensions)} bytes"
