"""What was found in a trace, in one line."""

from __future__ import annotations

from advisor.profiling.output.text import clean
from advisor.profiling.records import QUANTIZED, TraceProfile
from advisor.units import duration, percent


def headline(profile: TraceProfile) -> str:
    """What was found, in one line."""
    steps, gpu = profile.steps, clean(profile.gpu.name, 60)
    if steps.count:
        what = f"{steps.count} steps of {duration(steps.step_s)}" if steps.count > 1 else (
            f"1 step of {duration(steps.step_s)}")  # fmt: skip
    else:
        what = f"no steps found, {duration(profile.kernel_time_s)} of kernels"
    model = f" of {clean(profile.recorded.model, 60)}" if profile.recorded else ""
    batch = f", batch {profile.batch.batch}" if profile.batch.batch else ", batch size ??"
    rank = f"rank {profile.rank}: " if profile.rank is not None else ""
    busy = f"the GPU is busy {percent(steps.busy_share)} of the time"
    precision = printed_precision(profile.precision)
    return f"{rank}{what}{model} on {gpu}{batch}, {precision}: {busy}; {_tensor_cores(profile)}."


def _tensor_cores(profile: TraceProfile) -> str:
    if profile.gpu.has_tensor_cores is False:
        return "it has no Tensor Cores"
    products = [group for group in profile.kernels if group.class_ in QUANTIZED]
    if not products:
        return "no kernel is a matrix product, a convolution or attention"
    if profile.tensor_core_time_s > 0:
        return f"{percent(profile.tensor_core_time_s / profile.kernel_time_s)} of kernel time ran on Tensor Cores"
    if all(group.tensor_cores is None for group in products):
        return "the kernels' names do not tell whether Tensor Cores were used"
    return "no kernel ran on Tensor Cores"


def printed_precision(precision: str) -> str:
    """A precision as people write it: "FP16 AMP", "TF32"; "precision ??" where it is unknown."""
    if precision == "unknown":
        return "precision ??"
    return precision.replace("fp", "FP").replace("tf32", "TF32").replace("bf16", "BF16")
