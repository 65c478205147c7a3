"""How wrong times of matrix products are: unseen shapes, steps from m to m + 1, the choice of m, other GPUs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from advisor.gemm import gemm_time
from advisor.gpus import Gpu, find_gpu
from advisor.profile import GemmCoefficients, load_profile
from bench.accuracy import matmul_heuristics
from bench.fit import borrow, error_of, fit_physical, predict_unseen
from bench.fit_gemm import Timings, levenberg_marquardt, physical_times
from bench.gemm_data import (
    FOLDS,
    LEAST_M,
    NEUSIGHT,
    NEUSIGHT_UNFITTED,
    TABLES,
    Table,
    read_eleutherai,
    read_neusight,
    read_records,
    read_table,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
CAPS = (512, 513, 1024, 1500, 2048, 2500, 3000, 3584, 4353)
CLIFF, BAND = 1.10, (1.07, 1.13)  # a slowdown that counts; those near it count neither way


@dataclass(frozen=True)
class HeldOut:
    """ln(predicted / measured), [m, pair], of one GPU by models that have not seen the pair, its n or its k."""

    table: Table
    gpu: Gpu
    coefficients: GemmCoefficients  # fitted to all rows
    pairs: Floats
    whole_n: Floats
    whole_k: Floats
    physical: Floats  # pairs, without the local correction
    roofline: Floats
    lookup: Floats


def hold_out_all(data: Path) -> dict[str, HeldOut]:
    """Every GPU with a table, by its id."""
    gpus = {name: find_gpu(name) for name in TABLES}
    return {gpu.id: hold_out(read_table(data, name), gpu) for name, gpu in gpus.items()}


def section(data: Path, found: dict[str, HeldOut]) -> str:
    """The report's part on matrix products, as Markdown; `found` by `hold_out_all`."""
    parts = [
        "## Matrix products",
        shapes_part(found),
        noise_part(found),
        small_part(found),
        cliffs_part(found),
        regret_part(found),
        borrowed_part(found),
        eleutherai_part(data),
        v100_part(),
        fp32_part(data),
        peaks_part(data),
        matmul_heuristics.part(data, {gpu.id: name for name, gpu in ((n, find_gpu(n)) for n in TABLES)}),
    ]
    return "\n\n".join(parts)


def hold_out(table: Table, gpu: Gpu) -> HeldOut:
    """Predict every pair of one GPU without having seen it, in each of the ways reported."""
    everything = np.ones(len(table.pairs), dtype=bool)
    folds = table.folds()
    fits = {fold: fit_physical(table, gpu, folds != fold) for fold in range(FOLDS)}
    physical, pairs, roofline, lookup = (np.empty_like(table.time_s) for _ in range(4))
    for fold, fit in fits.items():
        seen = folds != fold
        physical[:, ~seen] = -fit.residual[:, ~seen]
        pairs[:, ~seen] = predict_unseen(table, fit.residual, seen)
        roofline[:, ~seen] = fitted_roofline(table, gpu, seen)[:, ~seen]
        lookup[:, ~seen] = log_linear_lookup(table, seen)
    return HeldOut(
        table, gpu, fit_physical(table, gpu, everything).coefficients, pairs,
        whole_line(table, gpu, 0), whole_line(table, gpu, 1), physical, roofline, lookup,
    )  # fmt: skip


def whole_line(table: Table, gpu: Gpu, axis: int) -> Floats:
    """Predict each n (axis 0) or k (axis 1) from the others; the physical form is fitted without a fifth of them."""
    values, line = np.unique(table.pairs[:, axis], return_inverse=True)
    ratio = np.empty_like(table.time_s)
    for group in range(FOLDS):
        fit = fit_physical(table, gpu, line % FOLDS != group)
        for i in range(group, len(values), FOLDS):
            ratio[:, line == i] = predict_unseen(table, fit.residual, line != i)
    return ratio


def fitted_roofline(table: Table, gpu: Gpu, seen: Bools) -> Floats:
    """ln(predicted / measured) of launch + max(FLOPs / a, bytes / b), its three constants fitted to the pairs seen."""
    m, n, k = table.rows()
    flops, bytes_ = 2 * m * n * k, 2 * (m * k + n * k + m * n)
    peak, bandwidth = gpu.peak_flops_per_s("fp16"), gpu.memory_bandwidth_bytes_per_s
    assert peak is not None and bandwidth is not None
    keep = (table.judged & seen).ravel()
    measured = np.log(table.time_s.ravel())

    def predict(x: Floats, rows: Bools | slice = slice(None)) -> Floats:
        launch, compute, memory = np.exp(x)
        longest = np.maximum(flops[rows] / (peak * compute), bytes_[rows] / (bandwidth * memory))
        return np.asarray(np.log(launch + longest))

    start = np.log(np.array([5e-6, 0.7, 0.7]))
    x = levenberg_marquardt(
        lambda x: predict(x, keep), measured[keep], lambda residual, _: float(np.abs(residual).mean()), start,
        np.ones(3), np.full(3, np.inf), np.full(keep.sum(), 1 / keep.sum()), 50,
    )  # fmt: skip
    return (predict(x) - measured).reshape(table.time_s.shape)


def log_linear_lookup(table: Table, seen: Bools, count: int = 8) -> Floats:
    """ln(predicted / measured), [m, unseen pair]: at each m a plane in ln n, ln k through the nearest pairs seen."""
    known, wanted = np.log(table.pairs[seen]), np.log(table.pairs[~seen])
    log_time = np.log(table.time_s)
    predicted = np.empty((len(table.m), len(wanted)))
    for j, at in enumerate(wanted):
        distance = np.hypot(*(known - at).T)
        near = np.argsort(distance, kind="stable")[:count]
        weight = np.sqrt(1 / (distance[near] + 0.1))
        plane = np.column_stack([np.ones(count), known[near] - at])
        solution = np.linalg.lstsq(plane * weight[:, None], log_time[:, seen][:, near].T * weight[:, None], rcond=None)
        predicted[:, j] = solution[0][0]
    return np.asarray(predicted - log_time[:, ~seen])


# Errors of time --------------------------------------------------------------------------------------


def shapes_part(found: dict[str, HeldOut]) -> str:
    """Held-out error of unseen pairs and lines, beside simpler models of the same rows."""
    rows = []
    for name, held in found.items():
        judged = held.table.judged
        errors = [error_of(r[judged], "") for r in (held.pairs, held.whole_n, held.whole_k)]
        others = [error_of(r[judged], "") for r in (held.physical, held.lookup, held.roofline)]
        e = errors[0]
        rows.append([
            name, e.rows, per_cent(e.mean), per_cent(e.median), per_cent(e.p90),
            *(per_cent(x.mean) for x in (*errors[1:], *others)),
        ])  # fmt: skip
    titles = [
        "GPU",
        "rows",
        "mean",
        "median",
        "p90",
        "whole n out",
        "whole k out",
        "physical form alone",
        "lookup",
        "roofline",
    ]
    return "\n\n".join([
        "### Sizes not in the fit",
        "Per cent. (n, k) pairs are left out by folds of `crc32('NxK') % 5` and everything is fitted again without "
        "them; m >= 128, n and k >= 256, kernels over 20 us. Then whole n and whole k are left out, one at a time (the "
        "physical form without a fifth of them). Beside it, on the same folds: the physical form without its local "
        "correction, a log-linear lookup in the eight nearest (n, k), and a roofline with three fitted constants.",
        table(titles, rows),
        "The timings are NVIDIA aiconfigurator's (BF16, which stands for FP16 with FP32 accumulate: one rate).",
    ])  # fmt: skip


def noise_part(found: dict[str, HeldOut]) -> str:
    """How far the same shapes lie apart when measured with other software."""
    rows = []
    for name, held in found.items():
        keep = held.table.judged & ~np.isnan(held.table.repeats_s)
        apart = repeats_apart(held.table)
        middle = np.nanmedian(np.concatenate([held.table.time_s[None], held.table.repeats_s]), axis=0)
        against = held.pairs + np.log(held.table.time_s / middle)
        counted = held.table.judged & keep.any(axis=0)
        rows.append([
            name, ", ".join(per_cent(a) for a in apart), per_cent(float(np.mean(apart))),
            per_cent(error_of(held.pairs[counted], "").mean), per_cent(error_of(against[counted], "").mean),
        ])  # fmt: skip
    return "\n\n".join([
        "### The noise floor",
        "The same shapes measured with other software versions, mean difference in per cent; and our held-out error on "
        "those rows, against the table that was fitted and against the median of all tables.",
        table(["GPU", "each other table", "mean", "our error", "against the median"], rows),
    ])  # fmt: skip


def repeats_apart(t: Table) -> list[float]:
    """Mean difference of each table of other software from the fitted one, on the rows that are judged."""
    ratios = np.log(t.repeats_s / t.time_s)
    keep = t.judged & ~np.isnan(ratios)
    return [error_of(r[k], "").mean for r, k in zip(ratios, keep, strict=True)]


def small_part(found: dict[str, HeldOut]) -> str:
    """The rows that the first table leaves out."""
    rows = []
    for name, held in found.items():
        t = held.table
        wide = np.broadcast_to((t.pairs >= 256).all(axis=1), t.time_s.shape)
        kinds = [
            (t.m[:, None] < 32) & wide,
            (t.m[:, None] >= 32) & (t.m[:, None] < LEAST_M) & wide,
            (t.m[:, None] >= LEAST_M) & wide & ~t.judged,
            ~wide,
        ]
        rows.append([name, *(per_cent(error_of(held.pairs[kind], "").mean) for kind in kinds)])
    titles = ["GPU", "m < 32", "32 <= m < 128", "m >= 128 under 20 us", "n or k < 256"]
    return "\n\n".join(
        ["### Small products", "The same folds, mean error in per cent, on all other rows.", table(titles, rows)]
    )


# Steps and choices -----------------------------------------------------------------------------------


def cliffs_part(found: dict[str, HeldOut]) -> str:
    """Precision and recall of slowdowns from m to m + 1."""
    rows = []
    for name, held in found.items():
        banded, plain, alone = (
            cliffs(held, held.pairs),
            cliffs(held, held.pairs, band=False),
            cliffs(held, held.physical),
        )
        rows.append([name, *banded, *plain, f"{alone[2]}/{alone[3]}"])
    titles = [
        "GPU",
        "pairs",
        "cliffs",
        "precision",
        "recall",
        "all pairs",
        "cliffs",
        "precision",
        "recall",
        "physical alone",
    ]
    return "\n\n".join([
        "### Cliffs: m to m + 1 at multiples of 256",
        "Unseen (n, k), n and k >= 256, over 20 us. A cliff costs more than 10 %. Pairs between 7 and 13 %, "
        "and pairs on which the tables of other software versions do not all agree with the fitted one, count neither "
        "way; the columns after that count every pair.",
        table(titles, rows),
        "Where one pair in thirty is a cliff (H200), a false alarm in a hundred pairs takes a quarter of the "
        "precision.",
    ])  # fmt: skip


def cliffs(held: HeldOut, ratio: Floats, *, band: bool = True) -> tuple[int, int, str, str]:
    """Pairs judged, cliffs among them, precision and recall of predicted cliffs."""
    t = held.table
    position = {int(m): i for i, m in enumerate(t.m)}
    low = [i for m, i in position.items() if m % 256 == 0 and m + 1 in position]
    high = [position[int(t.m[i]) + 1] for i in low]
    cost, predicted = t.time_s[high] / t.time_s[low], np.exp(ratio[high] - ratio[low]) * t.time_s[high] / t.time_s[low]
    count = (t.time_s[low] > 20e-6) & (t.pairs >= 256).all(axis=1)
    if band:
        repeated = t.repeats_s[:, high] / t.repeats_s[:, low]
        disagree = ((repeated > CLIFF) != (cost > CLIFF)) & ~np.isnan(repeated)
        count &= ~((cost > BAND[0]) & (cost < BAND[1])) & ~disagree.any(axis=0)
    real, said = (cost > CLIFF) & count, (predicted > CLIFF) & count
    hits = (real & said).sum()
    return int(count.sum()), int(real.sum()), f"{hits / max(1, said.sum()):.2f}", f"{hits / max(1, real.sum()):.2f}"


def regret_part(found: dict[str, HeldOut]) -> str:
    """Throughput lost by choosing m by the prediction, and by folk rules."""
    rows = []
    for name, held in found.items():
        t = held.table
        predicted = np.exp(held.pairs) * t.time_s
        middle = np.nanmedian(np.concatenate([t.time_s[None], t.repeats_s]), axis=0)
        physical = np.exp(held.physical) * t.time_s
        losses = regret(t, t.time_s, predicted)
        again = regret(t, middle, predicted)
        rows.append([name, *losses, regret(t, t.time_s, physical)[0], *again])
    titles = [
        "GPU",
        "ours",
        "largest",
        "power of two",
        "physical alone",
        "ours, median",
        "largest, median",
        "power of two, median",
    ]
    return "\n\n".join([
        "### Regret of choosing m",
        "Mean throughput lost, in per cent, against the best measured m in [cap/2, cap], for caps "
        f"{', '.join(map(str, CAPS))} and every unseen (n, k) with both >= 256; beside it the loss of always taking "
        "the largest, and the largest power of two. The last three are judged on the median of the repeated tables.",
        table(titles, rows),
    ])  # fmt: skip


def regret(t: Table, measured: Floats, predicted: Floats) -> tuple[str, str, str]:
    """Mean throughput lost, in per cent, by the prediction, by the largest m, by the largest power of two."""
    wide = (t.pairs >= 256).all(axis=1)
    power = np.array([int(m) & (int(m) - 1) == 0 for m in t.m])
    losses: list[list[float]] = [[], [], []]
    for cap in CAPS:
        inside = np.flatnonzero((t.m >= cap / 2) & (t.m <= cap))
        throughput = t.m[inside, None] / measured[inside][:, wide]
        best = throughput.max(axis=0)
        ours = np.argmax(t.m[inside, None] / predicted[inside][:, wide], axis=0)
        folk = np.flatnonzero(power[inside])[-1]
        for loss, chosen in zip(losses, (ours, len(inside) - 1, folk), strict=True):
            loss.extend(1 - throughput[chosen, np.arange(throughput.shape[1])] / best)
    first, second, third = (f"{100 * np.mean(loss):.2f}" for loss in losses)
    return first, second, third


# Other GPUs, other measurements ----------------------------------------------------------------------


def borrowed_part(found: dict[str, HeldOut]) -> str:
    """Each GPU predicted from the coefficients of another and its own facts."""
    donors = {name: held.coefficients for name, held in found.items()}
    rows = []
    for name, held in found.items():
        donor, error = borrow(held.gpu, held.table, donors)
        m, n, k = held.table.rows()
        timings = Timings(m, n, k, held.table.time_s.ravel(), np.ones(held.table.time_s.size))
        others = []
        for other, coefficients in donors.items():
            if other not in (name, donor):
                predicted = physical_times(coefficients, held.gpu, "fp16", timings).reshape(held.table.time_s.shape)
                others.append(error_of(np.log(predicted / held.table.time_s)[held.table.judged], "").mean)
        rows.append(
            [name, donor, *(per_cent(e) for e in (error.mean, error.median, error.p90)), per_cent(np.median(others))]
        )
    return "\n\n".join([
        "### A GPU without timings",
        "Each GPU in turn as if it had none: the coefficients of the nearest other, scaled by this GPU's facts, "
        "without local correction, per cent; and the median over the other donors. A borrowed profile carries it.",
        table(["GPU", "borrows from", "mean", "median", "p90", "other donors"], rows),
    ])  # fmt: skip


def eleutherai_part(data: Path) -> str:
    """FP16 products on an A100, measured by others in another way and never fitted."""
    rows = []
    kinds: list[tuple[str, dict[str, Floats], Callable[[dict[str, Floats]], Bools]]] = [
        ("torch.mm, n a multiple of 8", read_eleutherai(data, "a100"), lambda c: c["aligned"] > 0),
        ("torch.mm, n even", read_eleutherai(data, "a100"), lambda c: c["aligned"] == 0),
        ("torch.bmm", read_eleutherai(data, "a100", op="bmm"), lambda c: c["aligned"] > 0),
        ("linear layers of transformers", read_layers(data), lambda c: c["aligned"] > 0),
    ]
    for what, columns, choose in kinds:
        keep = choose(columns)
        m, n, k, batch, time_s = (columns[name][keep] for name in ("m", "n", "k", "batch", "time_s"))
        for name in ("a100-sxm4-40gb", "a100-sxm4-80gb"):
            gpu = find_gpu(name)
            ratio = np.log(gemm_time(load_profile(gpu), gpu, m, n, k, batch=batch).time_s / time_s)
            e = error_of(ratio, "")
            rows.append(
                [what, name, e.rows, *(per_cent(x) for x in (e.mean, e.median, e.p90)), f"{np.median(ratio):+.3f}"]
            )
    return "\n\n".join([
        "### EleutherAI's A100 sweeps",
        "FP16, wall clock around a synchronized loop, rows over 0.1 ms, never fitted; per cent, and the median of "
        "ln(predicted / measured). The source names an A100 of 40 GB; the other card's facts are beside it. The rate "
        "of rows aligned to 4 bytes was set with the second kind of rows in view.",
        table(["rows", "as", "count", "mean", "median", "p90", "bias"], rows),
    ])  # fmt: skip


def read_layers(data: Path) -> dict[str, Floats]:
    """Linear layers over 0.1 ms of EleutherAI's transformer sweep: its blocks "microbatch x k x n, b=sequence"."""
    sizes = []
    with (data / "eleutherai-cookbook-sizing" / "transformer_layer_h_sweep_a100.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "estimate" and row["metric"] == "tflops" and ", b=" in row["shape"]:
                shape, sequence = row["shape"].split(", b=")
                batch, k, n = map(int, shape.split("x"))
                sizes.append((batch * int(sequence), n, k, float(row["value"])))
    m, n, k, tflops = np.array(sizes, dtype=np.float64).T
    time_s = 2 * m * n * k / (tflops * 1e12)
    columns = {
        "m": m,
        "n": n,
        "k": k,
        "time_s": time_s,
        "batch": np.ones(len(m)),
        "aligned": (n % 8 == 0) & (k % 8 == 0),
    }
    return {name: values[time_s > 1e-4] for name, values in columns.items()}


def v100_part() -> str:
    """V100, whose profile has no grid to correct on."""
    model = load_profile(find_gpu("v100-sxm2-16gb")).gemm["fp16"]
    e = model.held_out
    row = [model.rows, *(per_cent(x) for x in (e.mean, e.median, e.p90))]
    return "\n\n".join([
        "### V100",
        f"Physical form alone, {model.origin}; {e.what}. Per cent.",
        table(["rows", "mean", "median", "p90"], [row]),
    ])  # fmt: skip


def fp32_part(data: Path) -> str:
    """FP32 on CUDA cores, and the true grids of its kernels against the tile count."""
    rows = []
    for device, name in (NEUSIGHT | NEUSIGHT_UNFITTED).items():
        gpu, found = find_gpu(name), read_neusight(data, device)
        unseen = ~found.seen
        profile = load_profile(gpu)
        sizes = (found.m[unseen], found.n[unseen], found.k[unseen])
        e = error_of(np.log(gemm_time(profile, gpu, *sizes, precision="fp32").time_s / found.time_s[unseen]), "")
        source = profile.gemm["fp32"].gpu
        whose = "itself" if source == gpu.id else source
        rows.append([device, whose, e.rows, *(per_cent(x) for x in (e.mean, e.median, e.p90))])
    checked, equal = grids(data)
    return "\n\n".join([
        "### FP32 without Tensor Cores",
        "NeuSight's test rows (linear layers), longer than three empty launches; per cent. Coefficients come from its "
        "training rows of the same GPU, or are borrowed.",
        table(["GPU", "coefficients of", "rows", "mean", "median", "p90"], rows),
        f"Tile counts: of {checked:,} kernels whose name tells their tile, ceil(m / a) ceil(n / b) is the grid that "
        f"the driver saw, in one order of a and b or the other, in {equal:.1%}. "
        "TF32 has no data: its times are an estimate, and say so.",
    ])  # fmt: skip


def grids(data: Path) -> tuple[int, float]:
    """Kernels with a known tile, and the share of them whose grid our tile count gives; grid_z is the split of k."""
    found = [r for r in read_records(data / "neusight-fp32" / "linear_fp32_8gpus.csv") if r["tile_a"] and r["tile_b"]]
    names = ("m", "n_out", "tile_a", "tile_b", "grid_x", "grid_y")
    m, n, a, b, x, y = (np.array([float(row[name]) for row in found]) for name in names)
    counts = [np.ceil(m / p) * np.ceil(n / q) for p, q in ((a, b), (b, a))]
    return len(found), float(np.mean((counts[0] == x * y) | (counts[1] == x * y)))


def peaks_part(data: Path) -> str:
    """The best rates that others found, at the shapes where they found them."""
    gpus = {"A100 SXM": "a100-sxm4-80gb", "A100 PCIe": "a100-pcie-80gb", "H100 SXM": "h100-sxm", "B200 SXM": "b200"}
    rows = []
    for row in read_records(data / "stas-ml-engineering-mamf" / "mamf.csv"):
        name = gpus.get(row["accelerator"].removeprefix("NVIDIA "))
        if row["dtype"] == "bf16" and name:
            gpu = find_gpu(name)
            m, n, k = map(int, row["best_shape_mxnxk"].split("x"))
            p = gemm_time(load_profile(gpu), gpu, m, n, k)
            ours, theirs = float(p.flops / p.time_s) / 1e12, float(row["mamf_tflops"])
            rows.append(
                [gpu.id, row["best_shape_mxnxk"], f"{theirs:.0f}", f"{ours:.0f}", f"{100 * (ours / theirs - 1):+.1f} %"]
            )
    return "\n\n".join([
        "### Achievable peaks",
        "The maximum achievable rate that Stas Bekman's finder reports (CC BY-SA 4.0), and ours there, TFLOP/s.",
        table(["GPU", "m x n x k", "found", "predicted", "difference"], rows),
    ])  # fmt: skip


def per_cent(share: float) -> str:
    """A share as per cent with one digit, unit in the title."""
    return f"{100 * share:.1f}"


def table(titles: list[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of ready text."""
    return str(tabulate(rows, headers=titles, tablefmt="github", disable_numparse=True))
