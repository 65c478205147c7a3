"""The bill's line on products off the Tensor Cores, and what to do about it."""

from __future__ import annotations

from advisor.profiling.bill.misaligned import pad_advice, slow_dimensions
from advisor.profiling.bill.off_tensor_cores import (
    LAYOUTS,
    Moved,
    OffTensorCores,
    is_off,
    off_tensor_cores,
    step_seconds,
)
from advisor.profiling.bill.subject import ITEMS, LEAST_LINE, LITTLE, PADS, Subject
from advisor.profiling.bill.timing import Layout
from advisor.profiling.records import HIDDEN, QUANTIZED, BillLine
from advisor.units import duration, percent, rate

MATMULS = ("gemm", "attention")
TF32_SWITCHES = {
    True: "torch.set_float32_matmul_precision('high')",
    False: "torch.backends.cudnn.allow_tf32 = True (cuDNN's own default)",
}
"""What lets matrix products (True) and convolutions (False) run in TF32."""


def tensor_core_line(subject: Subject) -> BillLine | None:
    """What moving products onto the Tensor Cores gains; None where next to nothing is off them."""
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
            step_gain_s=0.0,
            todo="nothing to move: FP16 saves memory and traffic here, not arithmetic",
        )
    triton = _triton_note(subject)
    if not found.moved:
        return BillLine(
            kind="tensor_cores",
            what=f"{duration(off_s)} of products off the Tensor Cores, without shapes to predict them by",
            lost_s=None,
            share=None,
            todo=f"record with record_shapes=True to have the gain predicted; {_without_shapes(subject)}",
            items=(triton,) if triton else (),
        )
    layout = min(LAYOUTS, key=found.half_s)
    gain_s = found.measured_s - found.half_s(layout)
    shown_s = _shown_s(subject, max(0.0, gain_s))
    return BillLine(
        kind="tensor_cores",
        what=f"{duration(off_s)} of GEMM, convolution and attention off the Tensor Cores "
        f"({percent(off_s / max(found.products_s, 1e-12))} of such time)",
        lost_s=max(0.0, gain_s),
        share=max(0.0, gain_s) / subject.step_s,
        step_gain_s=shown_s,
        todo=_tensor_core_todo(subject, found, gain_s, layout) + _of_the_step(subject, max(0.0, gain_s), shown_s),
        items=_tensor_core_items(subject, found, triton),
    )


def _tensor_core_todo(subject: Subject, found: OffTensorCores, gain_s: float, layout: Layout) -> str:
    little = "little to gain: " if gain_s < LITTLE * subject.step_s else ""
    last = " and channels_last" if _has_images(found) and layout == "nhwc" and subject.layout == "nchw" else ""
    error = subject.model.steps.held_out.get("other_gpus")
    wrong = f"; whole steps predicted so were {percent(error.mean)} off, single layers more" if error else ""
    best_s = found.measured_s - gain_s
    return (
        f"{little}{_autocast(subject)}{last}: {duration(found.measured_s)} would take {duration(best_s)}{wrong}"
        + _tf32_todo(subject, found)
    )


def _tf32_todo(subject: Subject, found: OffTensorCores) -> str:
    """TF32 as the alternative, for the kinds of products of which none runs in it."""
    is_on = _tf32_kinds(subject)
    chosen = [
        (moved, moved.tf32_s) for moved in found.moved if moved.tf32_s is not None and _is_matmul(moved) not in is_on
    ]
    if not chosen:
        return ""
    before_s, after_s = sum(moved.measured_s for moved, _ in chosen), sum(time_s for _, time_s in chosen)
    if after_s > before_s:
        return ". TF32 would gain nothing"
    switches = [TF32_SWITCHES[matmul] for matmul in sorted({_is_matmul(moved) for moved, _ in chosen}, reverse=True)]
    of = "" if len(chosen) == len(found.moved) else f" of {duration(before_s)} of them"
    return f". Or TF32 in one line, {' and '.join(switches)}: {duration(after_s)}{of}, an estimate without timings"


def _tf32_kinds(subject: Subject) -> set[bool]:
    """Which of matrix products (True) and convolutions (False) run in TF32 already."""
    return {group.class_ in MATMULS for group in subject.groups if group.precision == "tf32"}


def _is_matmul(moved: Moved) -> bool:
    return moved.operation.product is not None and moved.operation.product.kind != "conv"


def _without_shapes(subject: Subject) -> str:
    """What moves products of unknown sizes."""
    cast = f"{_autocast(subject)} moves them"
    if not subject.model.gpu.supports("tf32"):
        return cast
    off = {group.class_ in MATMULS for group in subject.groups if group.class_ in QUANTIZED and is_off(group)}
    switches = [TF32_SWITCHES[matmul] for matmul in sorted(off - _tf32_kinds(subject), reverse=True)]
    return f"{cast}; or TF32 in one line, {' and '.join(switches)}" if switches else cast


def _autocast(subject: Subject) -> str:
    scaler = " with a GradScaler" if any(o.phase == "backward" for o in subject.operations) else ""
    if subject.model.gpu.compute_capability < (8, 0):
        return f"torch.autocast('cuda', torch.float16){scaler}"
    return f"torch.autocast('cuda', torch.bfloat16), or torch.float16{scaler}"


def _shown_s(subject: Subject, gain_s: float) -> float:
    """What the step shows of it: the least of what the host allows and what the advice predicts of AMP at this size."""
    shown_s = subject.step_gain_s(gain_s)
    return shown_s if subject.amp is None else min(shown_s, max(0.0, (1 - subject.amp.ratio) * subject.step_s))


def _of_the_step(subject: Subject, gain_s: float, shown_s: float) -> str:
    """A sentence on the whole step under AMP: at the traced size, and at the size that would pay."""
    amp, host = subject.amp, subject.host
    if gain_s < LITTLE * subject.step_s or (amp is None and host is None):
        return ""
    under_amp = "" if amp is None else (
        f" of {duration(subject.step_s)} is predicted at {duration(amp.ratio * subject.step_s)} under AMP"
    )  # fmt: skip
    if shown_s >= HIDDEN * gain_s or host is None:
        return f". The whole step{under_amp}" if under_amp else ""
    now = f" at batch {subject.batch}" if subject.batch else ""
    held = f"the host's launches, slowed by the profiler, take about {duration(host.host_s)}, whatever the kernels take"
    if amp is None:
        return f". But{now} the step gets shorter by {duration(shown_s)} only: {held}; cure these first"
    more = ", and AMP launches more of them" if amp.ratio > 1 else ""
    larger = (
        f", or raise the batch: {amp.batch} in {amp.precision.upper()} AMP is predicted at {rate(amp.samples_per_s)} "
        f"samples/s, {100 * amp.gain:+.0f} % over the traced run"
        if subject.batch is not None and amp.batch > subject.batch
        else ""
    )
    profiled = "; this rests on launches timed under the profiler, and without it a step shows more of the gain"
    return f". But{now} the step{under_amp}: {held}{more}{profiled}. Cure these first{larger}"


def _tensor_core_items(subject: Subject, found: OffTensorCores, triton: str | None) -> tuple[str, ...]:
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


def _pads_in_half(subject: Subject, found: OffTensorCores) -> list[str]:
    """The dimensions that will cost Tensor Cores once the products run in FP16, worst layers first."""
    capability = subject.model.gpu.compute_capability
    slow = [
        (moved.operation, slow_dimensions(moved.operation.product, moved.operation, "fp16", capability,
                                          batch=subject.batch))
        for moved in found.moved
        if moved.operation.product is not None
    ]  # fmt: skip
    return pad_advice(slow)[:PADS]


def _has_images(found: OffTensorCores) -> bool:
    products = [moved.operation.product for moved in found.moved]
    return any(product is not None and product.kind == "conv" for product in products)


def _triton_note(subject: Subject) -> str | None:
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
