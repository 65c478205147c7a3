"""How wrong step time and memory are: rows the fit has not seen, families left out, other GPUs, sweeps of the batch."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from advisor.errors import AdvisorError
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.profiling.advice.calibrated import HELD_FACTOR
from advisor.recipe import make_recipe
from advisor.report.held_out import HeldOutSteps
from advisor.step_costs import LAYOUTS, coefficients, op_seconds
from advisor.step_ops import step_ops
from advisor.step_profile import MemoryCoefficients, load_step_profile
from advisor.steptime import StepModel, machine, product_scale
from advisor.workload.catalogue import load_workload
from advisor.workload.schema import Kind, Op, Variant
from bench.accuracy.held_out import steps_counts, write_held_out_steps
from bench.fit_memory import predicted_batch
from bench.fit_step import (
    GPU,
    INFER_NAME,
    INFER_RECIPE,
    TIMM_RECIPE,
    Stacked,
    corrected_residuals,
    fit,
    fit_neighbours,
    other_gpu_residuals,
)
from bench.step_data import INFER_TABLES, SIZES, StepRow, infer_rows, train_rows, with_traces

Floats = NDArray[np.float64]

LARGEST_SIZE = SIZES[0]
SWEEP_POINTS = 0.03
LONG_CONVOLUTION_S = 2e-4  # shorter ones are launches and noise
DEEPBENCH_DIMS = {
    "n": "n", "c": "c", "h": "h", "w": "w", "k": "k", "p": "p_out_h", "q": "q_out_w", "r": "r_filter_h",
    "s": "s_filter_w", "stride_h": "stride_h", "stride_w": "stride_w", "pad_h": "pad_h", "pad_w": "pad_w",
}  # fmt: skip
LEFT_OUT_STEPS = 4  # from the shipped coefficients; more change the figures by less than 0.001
SWEEPS = {  # (network, data set) of batch-sweeps/sweeps.csv: (catalogue model, layout)
    ("resnet50", "imagenet"): ("resnet50", "nchw"),
    ("bert_base_uncased", "sentiment140"): ("bert-base-128", None),  # tweets: the shortest sequences of the catalogue
    ("bert_base_uncased", "squad"): ("bert-base-512", None),
}
SWEEP_GPUS = {"Tesla V100 16GB (250 W)": "v100-pcie-16gb", "Quadro RTX 6000 (Turing)": "quadro-rtx-6000"}


def write_steps(data: Path, traces: Path, folder: Path) -> None:
    """Count the training steps of models that the fit has not seen, beside the products of the same GPU."""
    found: dict[str, HeldOutSteps] = {}
    for layout in LAYOUTS:
        rows = [r for r in with_traces(train_rows(data, layout), traces) if not r.row.fitted]
        if any(r.workload for r in rows):
            found[layout] = unseen_steps(rows, layout)
    write_held_out_steps(found, GPU, folder)


def unseen_steps(rows: Sequence[StepRow], layout: str) -> HeldOutSteps:
    """The counts of rows of one layout, predicted as shipped."""
    profile, gpu = load_step_profile(), machine(find_gpu(GPU), TIMM_RECIPE)
    unseen = Stacked(rows, TIMM_RECIPE)
    residuals = corrected_residuals(unseen, profile.train, profile.neighbours, gpu)
    return steps_counts(np.exp(unseen.log_time), residuals, profile.origin, profile.held_out[layout].what)


def section(data: Path, traces: Path) -> str:
    """The report's part on training and inference steps, as Markdown."""
    train: dict[str, list[StepRow]] = {layout: with_traces(train_rows(data, layout), traces) for layout in LAYOUTS}
    infer = {table: with_traces(infer_rows(data, table), traces) for table in INFER_TABLES}
    parts = [
        time_part(train),
        families_part(train),
        memory_part(train),
        infer_part(infer),
        convolutions_part(data),
        sweeps_part(data),
    ]
    return "\n\n".join(parts) + "\n"


# Time ------------------------------------------------------------------------------------------------


def time_part(train: Mapping[str, Sequence[StepRow]]) -> str:
    """Held-out error of samples/s on the RTX 3090, beside simpler models of the same rows."""
    profile, gpu = load_step_profile(), machine(find_gpu(GPU), TIMM_RECIPE)
    rows = []
    for layout, all_rows in train.items():
        unseen = Stacked([r for r in all_rows if not r.row.fitted], TIMM_RECIPE)
        seen = Stacked([r for r in all_rows if r.row.fitted], TIMM_RECIPE)
        models = {
            "as shipped": corrected_residuals(unseen, profile.train, profile.neighbours, gpu),
            "physical form alone": unseen.residuals(profile.train, gpu),
            "FLOPs and bytes, two fitted rates": two_rates(seen, unseen),
        }
        rows += [[layout.upper(), name, *figures(e)] for name, e in models.items()]
    untraced = sorted({r.row.model for rs in train.values() for r in rs if r.workload is None})
    total = len({r.row.model for rs in train.values() for r in rs})
    share = len(untraced) / total
    return "\n\n".join([
        "## Training steps on the RTX 3090",
        "timm's AMP training tables (PyTorch 1.12, batch as large as ran). Half of the models is fitted "
        "(`crc32('half:' + name) % 2 == 0`); the figures are those of the other half: ln(predicted / measured) of "
        "samples/s.",
        table(["layout", "model of time", *FIGURES], rows),
        f"{len(untraced)} of {total} models ({share:.1%}) do not trace and have no prediction: "
        f"{', '.join(untraced) or 'none'}.",
    ])  # fmt: skip


FIGURES = ("rows", "mean", "median", "p90", "bias")


def figures(residuals: Floats) -> list[str]:
    """Rows; mean, median and p90 of the absolute, and mean of the signed logarithm of samples/s."""
    size = np.abs(residuals)
    numbers = (size.mean(), np.median(size), np.quantile(size, 0.9))
    return [str(len(size)), *(f"{x:.3f}" for x in numbers), f"{-residuals.mean():+.3f}"]


def two_rates(seen: Stacked, unseen: Stacked) -> Floats:
    """Residuals of time = FLOPs / a + bytes / b, a and b fitted by iterated least squares of the relative error."""

    def work(rows: Stacked) -> Floats:
        sums = []
        for ops, batch in zip(rows.ops, rows.batch, strict=True):
            at_batch = [(lines[:, 0] + lines[:, 1] * batch) @ ops.count for lines in (ops.flops, ops.bytes_)]
            sums.append(at_batch)
        return np.array(sums)

    known, time = work(seen), np.exp(seen.log_time)
    rates: Floats = np.zeros(2)
    predicted: Floats = time
    for _ in range(20):
        rates = np.asarray(np.linalg.lstsq(known / predicted[:, None], time / predicted, rcond=None)[0])
        predicted = np.maximum(known @ rates, 1e-9)
    return np.asarray(np.log(np.maximum(work(unseen) @ rates, 1e-9)) - unseen.log_time)


def families_part(train: Mapping[str, Sequence[StepRow]]) -> str:
    """Unseen models by family, with the family's other models fitted and with the whole family left out."""
    profile, gpu = load_step_profile(), machine(find_gpu(GPU), TIMM_RECIPE)
    traced = [r for rows in train.values() for r in rows if r.workload is not None]
    seen = Stacked([r for r in traced if r.row.fitted], TIMM_RECIPE)
    unseen = Stacked([r for r in traced if not r.row.fitted], TIMM_RECIPE)
    shipped = corrected_residuals(unseen, profile.train, profile.neighbours, gpu)
    left_out = np.zeros(len(shipped))
    families = np.array([r.family for r in unseen.rows])
    for family in sorted(set(families)):
        weight = np.array([float(r.family != family) for r in seen.rows])
        values = fit(seen, gpu, weight=weight, begin=profile.train, steps=LEFT_OUT_STEPS)
        rest = Stacked([r for r in seen.rows if r.family != family], TIMM_RECIPE)
        mine = Stacked([r for r in unseen.rows if r.family == family], TIMM_RECIPE)
        left_out[families == family] = corrected_residuals(mine, values, fit_neighbours(rest, values, gpu), gpu)
    layouts = np.array([r.row.layout for r in unseen.rows])
    rows = []
    for family, count in sorted(Counter(families).items(), key=lambda item: (-item[1], item[0])):
        cells = [family, count]
        for e in (shipped, left_out):
            mine_e = e[families == family]
            cells += [f"{np.abs(mine_e).mean():.3f}", f"{-mine_e.mean():+.3f}"]
        rows.append(cells)
    summary = [[layout.upper(), *figures(left_out[layouts == layout])] for layout in LAYOUTS]
    return "\n\n".join([
        "### By family, and with whole families left out",
        "A family is a source file of timm. Left out: fitted without any model of the family, both layouts.",
        table(["layout", *FIGURES], [*summary, ["both", *figures(left_out)]]),
        table(["family", "rows", "mean", "bias", "left out: mean", "bias"], rows),
    ])  # fmt: skip


# Memory ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BracketScore:
    """How predicted largest batches compare with those that ran."""

    rows: int
    exact: float
    too_small: float
    too_large: float  # predicted to fit, and failed


def score_brackets(rows: Iterable[StepRow], known: MemoryCoefficients, margin: float) -> BracketScore:
    """Of rows whose model traces."""
    steps = np.array([
        SIZES.index(predicted_batch(r, known, margin) or SIZES[-1]) - SIZES.index(r.row.batch)
        for r in rows if r.workload is not None
    ])  # fmt: skip
    return BracketScore(len(steps), *(float(share) for share in ((steps == 0).mean(), (steps > 0).mean(),
                                                                  (steps < 0).mean())))  # fmt: skip


def memory_part(train: Mapping[str, Sequence[StepRow]]) -> str:
    """The largest batch that fits, of models whose brackets the fit has not seen."""
    known = load_step_profile().memory
    unseen = [r for rows in train.values() for r in rows if not r.row.fitted]
    subsets = {
        "all": unseen,
        f"below the cap of {LARGEST_SIZE}": [r for r in unseen if r.row.batch < LARGEST_SIZE],
        **{layout.upper(): [r for r in unseen if r.row.layout == layout] for layout in LAYOUTS},
    }
    rows = []
    for margin in (0.0, known.margin):
        for name, subset in subsets.items():
            s = score_brackets(subset, known, margin)
            rows.append([f"{margin:.1%}", name, s.rows, f"{s.exact:.3f}", f"{s.too_small:.3f}", f"{s.too_large:.3f}"])
    return "\n\n".join([
        "## Memory on the RTX 3090",
        "The largest batch of timm's list (512, 384, 256, 192, ...) predicted to fit 24 GB, against the largest that "
        f"ran, on the half that was not fitted. The spread of ln(true / predicted) on the fitted half is "
        f"{known.log_error:.3f}; the default margin of {known.margin:.1%} follows from it. NCHW "
        "misses more than NHWC, and no structural cause was found.",
        table(["margin", "rows of", "rows", "exact", "too small", "too large (fails)"], rows),
    ])  # fmt: skip


# Other GPUs ------------------------------------------------------------------------------------------


def infer_part(infer: Mapping[str, Sequence[StepRow]]) -> str:
    """Inference: the 3090's unseen half, and every other GPU from the 3090's coefficients and its own facts."""
    profile, gpu = load_step_profile(), machine(find_gpu(GPU), INFER_RECIPE)
    rows, together = [], []
    for name, all_rows in infer.items():
        missing = sum(r.workload is None for r in all_rows)
        if name.startswith(INFER_NAME):
            unseen = Stacked([r for r in all_rows if not r.row.fitted], INFER_RECIPE)
            residuals = unseen.residuals(profile.infer, gpu)
            rows.append([name, "unseen models", missing, *figures(residuals)])
        else:
            residuals = np.array(other_gpu_residuals(name, all_rows, profile.infer))
            together.append(residuals)
            rows.append([name, "unseen GPU", missing, *figures(residuals)])
    rows.append(["all other GPUs", "unseen GPU", "", *figures(np.concatenate(together))])
    return "\n\n".join([
        "## Other GPUs: inference from a fit on the RTX 3090 alone",
        "timm's AMP inference tables. No row of another GPU is fitted: its facts, its GEMM profile and a stated rule "
        "for power-limited clocks are all that is known of it. This is the error printed for GPUs without training "
        "tables; where their matrix products are borrowed too, and no table here checks the card, it is the error of "
        "borrowed products if that is larger.",
        table(["table", "what is new", "untraced", *FIGURES], rows),
    ])  # fmt: skip


# Convolutions alone ------------------------------------------------------------------------------------------------


def deepbench_operations(data: Path) -> tuple[list[Op], Floats]:
    """DeepBench's FP16 convolutions on a V100, each pass one operation, and their times (s)."""
    ops, times = [], []
    with (data / "deepbench" / "conv_v100.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["precision"] != "fp16_mixed":
                continue
            dims = {name: (int(row[column]), 0) for name, column in DEEPBENCH_DIMS.items()}
            dims |= {"dilation_h": (1, 0), "dilation_w": (1, 0), "groups": (1, 0)}
            n, c, h, w, k, p, q, r, s = (dims[name][0] for name in "nchwkpqrs")
            x, y, weight = 2 * n * c * h * w, 2 * n * k * p * q, 2 * k * c * r * s
            passes: tuple[tuple[Kind, str, int, int], ...] = (
                ("conv_fprop", "fwd_ms", x + weight, y),
                ("conv_dgrad", "dgrad_ms", y + weight, x),
                ("conv_wgrad", "wgrad_ms", x + y, weight),
            )
            for kind, column, read, write in passes:
                if row[column]:
                    ops.append(Op(kind=kind, name="convolution", phase="forward", dtype="fp16", dims=dims,
                                  read_bytes=(read, 0), write_bytes=(write, 0), flops=(y * c * r * s, 0)))  # fmt: skip
                    times.append(float(row[column]) * 1e-3)
    return ops, np.array(times)


def convolutions_part(data: Path) -> str:
    """Convolutions one by one on a GPU of which no convolution was fitted."""
    ops, times = deepbench_operations(data)
    gpu, profile = find_gpu("v100-sxm2-16gb"), load_step_profile()
    gemm_profile = load_profile(gpu)
    c = coefficients(profile.train)
    facts = machine(gpu, TIMM_RECIPE, product_scale(gpu, gemm_profile, profile.train))
    kinds, long = np.array([op.kind for op in ops]), times > LONG_CONVOLUTION_S
    rows = []
    for i, layout in enumerate(LAYOUTS):
        variant = Variant("train", "amp", layout, "none", tuple(ops), ())
        seconds = op_seconds(step_ops(variant), np.array([1.0]), i, c, facts)[0][:, 0]
        for kind in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
            chosen = (kinds == kind) & long
            rows.append([layout.upper(), kind.removeprefix("conv_"), *figures(np.log(seconds / times)[chosen])])
    return "\n\n".join([
        "### Convolutions alone, on another GPU",
        f"DeepBench's FP16 convolutions on a V100 (cuDNN 7.6, above {LONG_CONVOLUTION_S * 1e3:.1f} ms), predicted by "
        "the coefficients of whole steps on the RTX 3090, its facts and its GEMM profile. The layout is that of the "
        "coefficients. Whole steps do not tell the passes of a convolution apart, so one by one they are far less "
        "certain than their sum.",
        table(["coefficients of", "pass", *FIGURES], rows),
    ])  # fmt: skip


# Shape over the batch --------------------------------------------------------------------------------


def sweep_ratios(data: Path) -> list[tuple[str, str, int, int, float, float]]:
    """(GPU, network and data set, B, next B, measured, predicted throughput ratio) of catalogue models."""
    sweeps: dict[tuple[str, str, str], dict[int, float]] = {}
    with (data / "batch-sweeps" / "sweeps.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["network"], row["dataset"]) in SWEEPS and row["gpu"] in SWEEP_GPUS:
                key = row["gpu"], row["network"], row["dataset"]
                sweeps.setdefault(key, {})[int(row["batch"])] = float(row["value"])
    found = []
    for (gpu_name, network, dataset), seconds in sweeps.items():
        model_name, layout = SWEEPS[network, dataset]
        gpu = find_gpu(SWEEP_GPUS[gpu_name])
        recipe = make_recipe("timm-2022", precision="fp32", optimizer="adamw", layout=layout)
        model = StepModel(load_workload(model_name), gpu=gpu, profile=load_profile(gpu), recipe=recipe)
        batches = np.array(sorted(seconds))
        predicted = batches / model.curve(batches).time_s
        for i, (low, high) in enumerate(pairwise(batches)):
            measured = seconds[low] / seconds[high]
            ratio = float(predicted[i + 1] / predicted[i])
            found.append((gpu_name, f"{network}, {dataset}", int(low), int(high), measured, ratio))
    return found


def held_to_one(found: Sequence[tuple[str, str, int, int, float, float]]) -> dict[str, list[float]]:
    """By network and data set, |ln(predicted / measured)| of a curve that is right at one batch of a sweep.

    Of every pair of batches of one sweep, at most HELD_FACTOR apart: what remains wrong at one of them where a measured
    step at the other, such as a trace's, calibrates the curve. `found` as `sweep_ratios` gives it.
    """
    errors: dict[str, list[float]] = {}
    for gpu, network in dict.fromkeys((gpu, network) for gpu, network, *_ in found):
        steps = [step[2:] for step in found if step[:2] == (gpu, network)]
        for i in range(len(steps)):
            error = 0.0
            for _, high, measured, predicted in steps[i:]:
                error += math.log(predicted / measured)
                if high <= HELD_FACTOR * steps[i][0]:
                    errors.setdefault(network, []).append(abs(error))
    return errors


def sweeps_part(data: Path) -> str:
    """Throughput from one batch to the next, measured and predicted."""
    try:
        found = sweep_ratios(data)
    except (OSError, AdvisorError) as error:
        return f"## Shape over the batch\n\nNot computed: {error}."
    within = np.array([abs(p - m) <= SWEEP_POINTS for *_, m, p in found])
    rows = [[g, n, f"{a} to {b}", f"{m:.3f}", f"{p:.3f}", "yes" if ok else "no"]
            for (g, n, a, b, m, p), ok in zip(found, within, strict=True)]  # fmt: skip
    networks = sorted({n for _, n, *_ in found})
    shares = ", ".join(
        f"{n} {np.mean([ok for (_, m, *_), ok in zip(found, within, strict=True) if m == n]):.0%}" for n in networks
    )
    return "\n\n".join([
        "## Shape over the batch",
        "Zeus's sweeps (FP32, data loading included, epochs timed once; BERT with sequences padded to the longest of "
        "the batch, predicted at 128 tokens for tweets and 512 for SQuAD): throughput at the next batch over "
        "throughput at this one. These sweeps differ from what is predicted in more than the batch: old software, "
        "the host's loading of data, and sequences that grow with the batch, so that BERT's throughput falls where "
        "a step of one length cannot. No sweep of AMP training of a catalogue model is at hand.",
        f"Within {100 * SWEEP_POINTS:.0f} points: {within.mean():.0%} of {len(found)} steps ({shares}).",
        table(["GPU", "network", "batch", "measured", "predicted", "within"], rows),
        "A step measured at one batch (a trace, say) calibrates the curve. What is then wrong at another batch, over "
        f"all pairs of batches of a sweep that are at most {HELD_FACTOR} times apart:",
        table(
            ["network", "pairs", "mean", "median", "p90"],
            [[n, len(e), *(f"{x:.3f}" for x in (np.mean(e), np.median(e), np.quantile(e, 0.9)))]
             for n, e in sorted(held_to_one(found).items())],
        ),
    ])  # fmt: skip


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return str(tabulate(rows, headers=list(headers), tablefmt="github", disable_numparse=True))
