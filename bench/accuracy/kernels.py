"""How wrong the predicted times of single products are, against the kernels of recorded training jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advisor.convolution import Pass
from advisor.convolution_time import load_convolution_profile
from advisor.errors import AdvisorError
from advisor.gpus import find_gpu
from advisor.profiling.bill.timing import Call, TimeModel, algorithm_of, pass_of_group
from advisor.profiling.kernels.device import require_nvidia_kernels, traced_gpu
from advisor.profiling.kernels.groups import group_kernels
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import KernelGroup, Operation
from advisor.profiling.steps.find import find_steps
from advisor.step_ops import PASSES
from bench.accuracy.step import FIGURES, figures, table
from bench.fit_fp32_convolutions import NEUSIGHT, NEUSIGHT_STEP, read_neusight, residuals

NAMED_GPUS = {"sampled_no_device_properties": "a100-sxm4-40gb"}  # traces that do not name theirs
LONG_S = 2e-5  # shorter calls are mostly the start of a kernel
NEUSIGHT_GPUS = {
    "Tesla V100-PCIE-32GB": "v100-pcie-32gb", "Tesla T4": "t4", "Tesla P4": "p4",
    "Tesla P100-PCIE-16GB": "p100-pcie-16gb", "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
}  # fmt: skip
NEUSIGHT_ROWS = 400  # of each GPU, evenly spread over its rows


@dataclass(frozen=True)
class JudgedCall:
    """One distinct product of a trace: what one call took, and what the models say."""

    class_: str  # gemm, bmm, fprop, dgrad, wgrad, attention
    precision: str
    algorithm: str  # as the kernels' names tell, or the model's name
    calls: int
    measured_s: float
    predicted_s: float
    without_names_s: float  # predicted with the algorithm left to the model
    step_model_s: float  # by the step model alone, without what single convolutions taught


@dataclass(frozen=True)
class JudgedTrace:
    """One trace, or why it tells nothing."""

    name: str
    gpu: str
    calls: tuple[JudgedCall, ...]
    unpredicted: int  # products without a prediction
    reason: str | None = None


def section(data: Path, traces: Path | None) -> str | None:
    """The report's part on kernels, as Markdown; None where no recorded trace is at hand."""
    folder = traces or data.parent / "traces"
    files = sorted(folder.glob("*.json.gz"))
    if not files:
        return None
    judged = [judge_trace(path) for path in files]
    return "\n\n".join([
        "## Kernels of recorded training jobs",
        "Single GEMM and convolution calls in public torch.profiler traces (pytorch/kineto, HolisticTraceAnalysis): "
        "all kernels of a call, transforms and sums of slices too, against the time predicted from its shapes. "
        "Logarithms: ln(predicted / measured), weighted by calls; sum: predicted over measured time of all calls. No "
        "trace is fitted. The algorithm of a convolution (implicit GEMM, Winograd's in separate kernels or fused) is "
        "read from the kernels' names.",
        traces_part(judged),
        algorithms_part(judged),
        convolutions_part(data),
    ])  # fmt: skip


def judge_trace(path: Path) -> JudgedTrace:
    """Predict every product of one trace."""
    name = path.name.removesuffix(".json.gz")
    try:
        raw = read_trace(path)
        require_nvidia_kernels(raw)
        links = link(raw)
        device = traced_gpu(raw, NAMED_GPUS.get(name))
        groups = group_kernels(raw, links, find_steps(raw, links), device)
    except AdvisorError as error:
        return JudgedTrace(name, "none", (), 0, str(error).removeprefix(f"{path}: "))
    if device.gpu is None:
        return JudgedTrace(name, device.public.name, (), 0, "which GPU is unknown")
    calls, unpredicted = judge_groups(groups, links.operations, TimeModel(device.gpu))
    reason = None if calls else "no shapes of products were recorded" if unpredicted else "no product in it"
    return JudgedTrace(name, device.public.name, calls, unpredicted, reason)


def judge_groups(
    groups: Sequence[KernelGroup], operations: Sequence[Operation], model: TimeModel
) -> tuple[tuple[JudgedCall, ...], int]:
    """Predict each operation that has a product; and how many product kernels' operations have no prediction."""
    members: dict[int, list[KernelGroup]] = defaultdict(list)
    unpredicted = 0
    for group in groups:
        if group.operation is not None and operations[group.operation].product is not None:
            members[group.operation].append(group)
        elif group.class_ in ("gemm", "fprop", "dgrad", "wgrad", "conv"):
            unpredicted += 1
    judged = []
    for index, of_operation in members.items():
        found = _judge(of_operation, operations[index], model)
        unpredicted += found is None
        if found is not None:
            judged.append(found)
    return tuple(judged), unpredicted


def _judge(groups: Sequence[KernelGroup], operation: Operation, model: TimeModel) -> JudgedCall | None:
    product = operation.product
    computing = [group for group in groups if not group.helper]
    calls = operation.calls or max(group.count for group in groups)
    if product is None or not computing:
        return None
    precision = max(computing, key=lambda group: group.total_s).precision or product.dtype
    pass_: Pass | None = pass_of_group(groups[0], operation)
    algorithm = algorithm_of([group.name for group in groups]) if product.convolution is not None else None
    named, free = model.predict([Call(product, pass_, algorithm), Call(product, pass_)], precision)
    if named is None or free is None:
        return None
    alone = model.predict_by_steps([Call(product, pass_)], precision)[0]
    return JudgedCall(
        class_=pass_ if product.kind == "conv" and pass_ is not None else product.kind,
        precision=precision,
        algorithm=named.model,
        calls=calls,
        measured_s=sum(group.total_s for group in groups) / calls,
        predicted_s=named.seconds,
        without_names_s=free.seconds,
        step_model_s=alone.seconds if alone is not None else named.seconds,
    )


# Tables ---------------------------------------------------------------------------------------------------------------

HEAD = ("calls", "distinct", "mean", "median", "bias", "sum")


def traces_part(judged: Sequence[JudgedTrace]) -> str:
    """By trace, precision and class; then the traces that tell nothing."""
    rows = []
    for trace in judged:
        cases: dict[tuple[str, str], list[JudgedCall]] = defaultdict(list)
        for call in trace.calls:
            cases[call.precision, call.class_].append(call)
        for (precision, class_), calls in sorted(cases.items()):
            long = [call for call in calls if call.measured_s >= LONG_S]
            where = [trace.name, trace.gpu, precision, class_]
            rows.append([*where, *score(calls)])
            if len(long) < len(calls):
                rows.append([*where[:3], f"{class_} over {LONG_S * 1e6:.0f} us", *score(long)])
    silent = [f"{trace.name}: {trace.reason}" for trace in judged if trace.reason]
    parts = [table(["trace", "GPU", "precision", "class", *HEAD], rows)]
    unpredicted = sum(trace.unpredicted for trace in judged if not trace.reason)
    if unpredicted:
        parts.append(f"Without a prediction for want of shapes: {unpredicted} groups of kernels.")
    if silent:
        parts.append(f"No figure from: {'; '.join(silent)}.")
    named = [f"{name} says neither its GPU nor its clock and is taken for {gpu}" for name, gpu in NAMED_GPUS.items()]
    parts.append(
        f"{'; '.join(named)}; its products run beside communication, and TF32 has no timings of its own: the FP16 "
        "coefficients with every byte and every multiplication counted twice."
    )
    return "\n\n".join(parts)


def score(calls: Sequence[JudgedCall], predicted: str = "predicted_s") -> list[str]:
    """Calls; distinct ones; mean and median of the absolute, mean of the signed logarithm by call; sum over sum."""
    if not calls:
        return ["0", "0", "", "", "", ""]
    count = np.array([call.calls for call in calls])
    measured = np.array([call.measured_s for call in calls])
    times = np.array([getattr(call, predicted) for call in calls])
    e = np.log(times / measured)
    spread = np.repeat(np.abs(e), count)
    return [
        str(count.sum()), str(len(calls)), f"{spread.mean():.3f}", f"{np.median(spread):.3f}",
        f"{np.average(e, weights=count):+.3f}", f"{(times * count).sum() / (measured * count).sum():.2f}",
    ]  # fmt: skip


def algorithms_part(judged: Sequence[JudgedTrace]) -> str:
    """FP32 convolutions by algorithm, and what knowing it, and the fit of single convolutions, are worth."""
    every = [call for trace in judged for call in trace.calls]
    calls = [call for call in every if call.precision == "fp32" and call.class_ in PASSES]
    rows = []
    for class_ in PASSES:
        for algorithm in ("implicit", "winograd", "winograd fused"):
            mine = [call for call in calls if call.class_ == class_ and call.algorithm == algorithm]
            if mine:
                rows.append([class_, algorithm, *score(mine)])
    compared = [
        [what, *score(calls, predicted)]
        for what, predicted in (
            ("as shipped", "predicted_s"),
            ("the algorithm left to the model", "without_names_s"),
            ("the step model alone", "step_model_s"),
        )
        if calls
    ]
    return "\n\n".join([
        "### FP32 convolutions by algorithm",
        table(["pass", "algorithm", *HEAD], rows),
        "All of them, with less known:",
        table(["model", *HEAD], compared),
    ])  # fmt: skip


def convolutions_part(data: Path) -> str:
    """The fit's own held-out errors, and another source that it has not seen at all."""
    profile = load_convolution_profile()
    rows = [
        [pass_, str(e.rows), f"{e.mean:.3f}", f"{e.median:.3f}", f"{e.p90:.3f}", f"{e.bias:+.3f}"]
        for pass_, e in profile.held_out.items()
    ]
    return "\n\n".join([
        "### FP32 convolutions timed alone",
        f"{profile.origin}. Layers that the fit has not seen, the algorithm left to the model.",
        table(["pass", *FIGURES], rows),
        "NeuSight's forward convolutions (3x3, stride 1, over 0.3 ms), less an empty call; of the V100 a tenth of "
        "those that ran as 36 products is fitted, and the figures are of the others. Channels and images are random "
        "numbers, 893 on 5x5 and the like, which few networks have.",
        table(["GPU", *FIGURES], neusight_rows(data)),
    ])  # fmt: skip


def neusight_rows(data: Path) -> list[list[str]]:
    """NeuSight's forward convolutions by GPU; of the V100 those that were not fitted."""
    rows = []
    for device, gpu_id in NEUSIGHT_GPUS.items():
        mine = read_neusight(data, device)
        if device == NEUSIGHT:
            fitted = {id(t) for t in [t for t in mine if t.algorithm][::NEUSIGHT_STEP]}
            mine = [t for t in mine if id(t) not in fitted]
        mine = mine[:: max(1, len(mine) // NEUSIGHT_ROWS)]
        rows.append([device, *figures(-residuals(mine, find_gpu(gpu_id), load_convolution_profile()))])
    return rows
