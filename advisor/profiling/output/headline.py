"""What was found in a trace, in one line."""

from __future__ import annotations

import statistics

from advisor.profiling.output.text import clean
from advisor.profiling.records import QUANTIZED, StepFacts, TraceProfile
from advisor.units import duration, percent


def headline(profile: TraceProfile) -> str:
    """What was found, in one line."""
    steps, gpu = profile.steps, clean(profile.gpu.name, 60)
    what = _steps(steps) if steps.count else f"no steps found, {duration(profile.kernel_time_s)} of kernels"
    model = f" of {clean(profile.recorded.model, 60)}" if profile.recorded else ""
    batch = f", batch {profile.batch.batch}" if profile.batch.batch else ", batch size ??"
    rank = f"rank {profile.rank}: " if profile.rank is not None else ""
    busy = f"the GPU is busy {percent(steps.busy_share)} of the time"
    precision = printed_precision(profile.precision)
    return f"{rank}{what}{model} on {gpu}{batch}, {precision}: {busy}; {_tensor_cores(profile)}."


def counted_steps(steps: StepFacts) -> int:
    """How many steps the means per step are of: all but a first one that differs."""
    return steps.count - (1 if steps.first_step_differs and steps.count > 1 else 0)


def _steps(steps: StepFacts) -> str:
    """ "133 ms a step (mean of 5 of 6 steps, median 126 ms)"; the median where it is printed otherwise."""
    if steps.count == 1:
        return f"1 step of {duration(steps.step_s)}"
    counted = counted_steps(steps)
    of = f"{counted} steps" if counted == steps.count else f"{counted} of {steps.count} steps"
    median_s = statistics.median(steps.durations_s[-counted:])
    median = "" if abs(median_s - steps.step_s) < 0.01 * steps.step_s else f", median {duration(median_s)}"
    return f"{duration(steps.step_s)} a step ({'mean of ' if counted > 1 else ''}{of}{median})"


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
