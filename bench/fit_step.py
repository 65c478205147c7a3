"""Step coefficients from measured training and inference steps: robust least squares on the half that may be fitted.

ln(measured / predicted) of every row under a pseudo-Huber loss, coefficients in logarithms (exponents as they are)
with a weak prior each, by Gauss-Newton steps with damping. Deterministic: no random start, no random split.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from advisor.files import write_atomically
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.recipe import RECIPES, Recipe, make_recipe
from advisor.step_costs import (
    LAYOUT_CLASSES,
    LAYOUTS,
    Coefficients,
    Machine,
    at,
    attention_seconds,
    coefficients,
    depthwise_seconds,
    grouped_seconds,
    products_seconds,
    traffic_seconds,
)
from advisor.step_neighbours import UNIT, Neighbours, solve_weights, time_shares
from advisor.step_ops import MEMORY_CLASSES, PASSES, Attention, Depthwise, Grouped, Products, StepOps, step_ops
from advisor.step_profile import FOLDER, SCHEMA_VERSION, HeldOut, StepProfile, step_profile_bytes
from advisor.steptime import OVERLAP_POWER, machine, product_scale, update_work
from bench.fit_memory import fit_memory
from bench.step_data import INFER_TABLES, StepRow, infer_rows, train_rows, with_traces

Floats = NDArray[np.float64]
Values = dict[str, float]
Priors = dict[str, tuple[float, float]]
T = TypeVar("T", Products, Grouped, Depthwise, Attention)

GPU, INFER_NAME = "rtx-3090", "rtx3090"
TIMM_RECIPE = RECIPES["timm-2022"]
INFER_RECIPE = make_recipe(mode="infer")
ORIGIN = (
    "timm's benchmark tables (github huggingface/pytorch-image-models, commit aa4b5850, Apache-2.0): RTX 3090, AMP "
    "training with PyTorch 1.12 and CUDA 11.3, AMP inference with PyTorch 2.4 and CUDA 12.4"
)
INFER_LOOSENESS = 0.7  # of priors taken from training, against those of an unknown GPU
# Rate of fused attention's backward kernels over its forward's: an estimate (FlashAttention-2, arXiv:2307.08691,
# reports 63 against 73 % of the peak at best).
BACKWARD_ATTENTION = 0.8
SIGMA = 0.06  # residual at which the loss turns from square to absolute: between noise (0.02) and what the form leaves
STEPS = 30
LARGEST_MOVE = 0.7  # of a coefficient's logarithm in one step
HARDNESS = 0.5  # of waves: rows at their largest batch have too many waves to tell; see the GEMM profiles
GROUPS = ("products", "grouped", "depthwise", "attention", "memory", "update", "kernels")
NEIGHBOUR_LENGTH, NEIGHBOUR_AMPLITUDE, NEIGHBOUR_NOISE = 0.15, 0.1, 0.05


def priors() -> Priors:
    """Start and weak prior of every coefficient: (value, standard deviation of its logarithm or of an exponent).

    Mid-range values of the field, no GPU's own: kernels reach half to nine tenths of a peak.
    """
    p: Priors = {
        "conv.prologue_k": (64.0, 0.6), "gemm.prologue_k": (64.0, 0.6), "nchw.conversion": (1.0, 0.7),
        "nchw.depthwise.native": (1.3, 0.5),
        "gemm.rate": (0.8, 0.3), "gemm.bandwidth": (0.75, 0.2), "gemm.unaligned": (0.5, 0.5),
        "bmm.rate": (0.6, 0.4), "bmm.bandwidth": (0.7, 0.3), "bmm.unaligned": (0.4, 0.5),
        "tile_exponent": (0.15, 0.15), "attention.forward.rate": (0.5, 0.4), "attention.backward.rate": (0.4, 0.4),
        "kernel_s": (2e-6, 0.3), "optimizer.bandwidth": (0.8, 0.2),
    }  # fmt: skip
    for layout in LAYOUTS:
        for pass_, rate in zip(PASSES, (0.65, 0.6, 0.55), strict=True):
            p |= {
                f"{layout}.conv_{pass_}.rate": (rate, 0.4), f"{layout}.conv_{pass_}.bandwidth": (0.7, 0.25),
                f"{layout}.conv_{pass_}.unaligned": (0.5, 0.5), f"{layout}.spatial.{pass_}": (0.9, 0.3),
                f"{layout}.stem.{pass_}": (0.4, 0.6),
            }  # fmt: skip
        p |= {
            f"{layout}.grouped_narrow.rate": (0.05, 0.8), f"{layout}.grouped_narrow.exponent": (0.5, 0.4),
            f"{layout}.grouped_narrow.groups_exponent": (0.3, 0.3), f"{layout}.grouped_wide.rate": (0.1, 0.8),
            f"{layout}.grouped_wide.exponent": (0.8, 0.3), f"{layout}.grouped_fast.rate": (0.2, 0.8),
            f"{layout}.grouped_fast.exponent": (0.5, 0.4), f"{layout}.grouped.bandwidth": (0.6, 0.3),
            f"{layout}.depthwise.bandwidth": (0.5, 0.5), f"{layout}.depthwise.rate": (0.2, 0.8),
            f"{layout}.depthwise.strided": (1.2, 0.4),
            f"{layout}.depthwise.large": (2.0, 0.6), f"{layout}.depthwise.taps_exponent": (0.0, 0.3),
            f"{layout}.padding_copies": (0.5, 0.8), f"{layout}.strided": (0.6, 0.5),
        }  # fmt: skip
    shares = {
        "batch_norm_forward": 0.6, "batch_norm_backward": 0.55, "norm_forward": 0.7, "norm_backward": 0.6,
        "elementwise": 0.85, "elementwise_math": 0.8, "elementwise_broadcast": 0.75, "cast": 0.85, "copy": 0.7,
        "relayout": 0.6, "concat": 0.6, "softmax": 0.75, "reduction": 0.75, "mean": 0.7, "pool_forward": 0.6,
        "pool_backward": 0.4, "embedding": 0.3, "other": 0.4,
    }  # fmt: skip
    for name, share in shares.items():
        if name in LAYOUT_CLASSES:
            p |= {f"{layout}.{name}": (share, 0.35) for layout in LAYOUTS}
        else:
            p[name] = (share, 0.3)
    return p


# Assumptions, as the rows cannot tell: they are of the largest batch that ran, so no L2 holds their tensors and no host
# is late. l2_gain, bandwidth of tensors that fit L2 over DRAM's: small, as a training step comes back to most tensors
# long after it wrote them. host_s per kernel launch: between a fast desktop's 6 us and the 15 to 18 us that flat steps
# of ShuffleNetV2 give on a V100 server (Zeus's sweep: 38 ms for 2,200 to 2,500 launches with looped optimizers).
FIXED = {"hardness": HARDNESS, "l2_gain": 1.5, "host_s": 1e-5}


def is_exponent(name: str) -> bool:
    """Whether a coefficient is fitted as it is, and may be negative; all others are positive."""
    return name.endswith("exponent")


def group_of(name: str) -> str:
    """The part of a step that a coefficient moves."""
    bare = name.removeprefix("nhwc.").removeprefix("nchw.")
    for group in ("grouped", "depthwise", "attention"):
        if bare.startswith(group):
            return group
    if bare in MEMORY_CLASSES:
        return "memory"
    return {"kernel_s": "kernels", "optimizer.bandwidth": "update"}.get(bare, "products")


@dataclass(frozen=True)
class _Part:
    """Operations of all rows one below another; `table` holds what the class's formula needs."""

    table: Any
    row: NDArray[np.int64]
    batch: Floats  # (ops, 1)
    layout: NDArray[np.int64]  # (ops, 1)
    count: Floats
    bytes_: Floats  # (ops, 1), at the row's batch


class Stacked:
    """Measured rows in the form in which they are fitted: every operation of every row in one table per class."""

    def __init__(self, rows: Sequence[StepRow], recipe: Recipe) -> None:
        self.rows = [r for r in rows if r.workload is not None]
        workloads = [r.workload for r in self.rows if r.workload is not None]
        self.ops = [step_ops(w.variants[0]) for w in workloads]
        self.layout = np.array([LAYOUTS.index(r.row.layout) for r in self.rows], dtype=np.int64)
        self.batch = np.array([r.row.batch for r in self.rows], dtype=float)
        self.log_time = np.log([r.row.time_s for r in self.rows])
        self._parts: dict[str, _Part] = {
            "products": self._part(Products, lambda ops: ops.products),
            "grouped": self._part(Grouped, lambda ops: ops.grouped),
            "depthwise": self._part(Depthwise, lambda ops: ops.depthwise),
            "attention": self._part(Attention, lambda ops: ops.attention),
        }
        classes = np.concatenate([ops.memory_class for ops in self.ops])[:, None]
        self._parts["memory"] = self._indexed([ops.memory for ops in self.ops], classes)
        self.updates = [update_work(w, recipe) for w in workloads]
        self._update_bytes = np.array([u.bytes_ for u in self.updates])
        traced = np.array([(ops.count * ops.kernels).sum() for ops in self.ops])
        self._launches = traced + np.array([u.kernels for u in self.updates])

    def _part(self, kind: type[T], get: Callable[[StepOps], T]) -> _Part:
        tables = [get(ops) for ops in self.ops]
        joined = {f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in dataclasses.fields(kind)}
        return self._indexed([t.index for t in tables], kind(**joined))

    def _indexed(self, indices: list[NDArray[np.int64]], table: Any) -> _Part:
        row = np.repeat(np.arange(len(self.rows)), [len(i) for i in indices])
        batch = self.batch[row][:, None]
        lines = np.concatenate([ops.bytes_[i] for ops, i in zip(self.ops, indices, strict=True)])
        count = np.concatenate([ops.count[i] for ops, i in zip(self.ops, indices, strict=True)])
        return _Part(table, row, batch, self.layout[row][:, None], count, at(lines, batch))

    def seconds(self, group: str, c: Coefficients, machine: Machine) -> Floats:
        """GPU seconds of one part of the step, for every row."""
        if group == "update":
            return np.asarray(self._update_bytes / (machine.bandwidth_bytes_per_s * c.optimizer_bandwidth))
        if group == "kernels":
            return np.asarray(self._launches * c.kernel_s)
        p = self._parts[group]
        if group == "products":
            per_call = products_seconds(p.table, p.bytes_, p.batch, p.layout, c, machine).seconds
        elif group == "grouped":
            per_call = grouped_seconds(p.table, p.bytes_, p.batch, p.layout, c, machine)
        elif group == "depthwise":
            per_call = depthwise_seconds(p.table, p.bytes_, p.batch, p.layout, c, machine)
        elif group == "attention":
            per_call = attention_seconds(p.table, p.bytes_, p.batch, c, machine)
        else:
            per_call = traffic_seconds(p.bytes_, c.memory[p.layout, p.table], c, machine)
        return np.bincount(p.row, per_call[:, 0] * p.count, minlength=len(self.rows)).astype(float)

    def parts(self, values: Mapping[str, float], machine: Machine) -> dict[str, Floats]:
        """GPU seconds of every part."""
        c = coefficients(values)
        return {group: self.seconds(group, c, machine) for group in GROUPS}

    def log_step(self, parts: Mapping[str, Floats], host_s: float) -> Floats:
        """ln of the predicted step time of every row."""
        gpu, host = np.sum(list(parts.values()), axis=0), self._launches * host_s
        longest = np.maximum(gpu, host)
        p = OVERLAP_POWER
        return np.asarray(np.log(longest) + np.log((gpu / longest) ** p + (host / longest) ** p) / p)

    def residuals(self, values: Mapping[str, float], machine: Machine) -> Floats:
        """ln(predicted / measured) step time of every row."""
        return self.log_step(self.parts(values, machine), values["host_s"]) - self.log_time

    def shares(self, values: Mapping[str, float], machine: Machine) -> Floats:
        """Where each row's model spends its time: rows as `advisor.step_neighbours.FEATURES`."""
        c = coefficients(values)
        update = [u.bytes_ / (machine.bandwidth_bytes_per_s * c.optimizer_bandwidth) for u in self.updates]
        rows = zip(self.ops, self.layout, update, strict=True)
        return np.array([time_shares(ops, int(layout), c, machine, s) for ops, layout, s in rows])


def fit(
    rows: Stacked,
    machine: Machine,
    *,
    weight: Floats | None = None,
    start: Priors | None = None,
    begin: Values | None = None,
    steps: int = STEPS,
) -> Values:
    """Coefficients that predict the rows best. `weight` 0 leaves a row out; `begin` is where the search sets out."""
    start = start or priors()
    names = sorted(start)
    linear = np.array([is_exponent(n) for n in names])
    centre = np.array([start[n][0] if e else np.log(start[n][0]) for n, e in zip(names, linear, strict=True)])
    tightness = 1 / np.array([start[n][1] for n in names]) ** 2
    weight = np.ones(len(rows.rows)) if weight is None else weight

    def values(x: Floats) -> Values:
        natural = np.where(linear, x, np.exp(np.where(linear, 0.0, x)))
        return FIXED | dict(zip(names, natural.tolist(), strict=True))

    def loss(residual: Floats, x: Floats) -> float:
        robust = 2 * (np.sqrt(1 + (residual / SIGMA) ** 2) - 1)
        return float((weight * robust).sum() + (tightness * (x - centre) ** 2).sum())

    def predict(x: Floats) -> tuple[Values, dict[str, Floats], Floats]:
        v = values(x)
        parts = rows.parts(v, machine)
        return v, parts, rows.log_step(parts, v["host_s"]) - rows.log_time

    x = centre
    if begin is not None:
        x = np.array([begin[n] if e else np.log(begin[n]) for n, e in zip(names, linear, strict=True)])
    v, parts, residual = predict(x)
    now, damping = loss(residual, x), 1e-2
    for _ in range(steps):
        jacobian = _jacobian(rows, machine, names, x, values, parts, residual)
        pull = weight / np.sqrt(1 + (residual / SIGMA) ** 2) / SIGMA**2
        normal = jacobian.T @ (pull[:, None] * jacobian) + np.diag(tightness)
        slope = jacobian.T @ (pull * residual) + tightness * (x - centre)
        before = now
        for _ in range(8):
            move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
            candidate = x - np.clip(move, -LARGEST_MOVE, LARGEST_MOVE)
            found = predict(candidate)
            after = loss(found[2], candidate)
            if after < now:
                x, (v, parts, residual), now, damping = candidate, found, after, max(damping / 4, 1e-6)
                break
            damping *= 5
        if before - now < 1e-4 * before:
            break
    return v


def _jacobian(
    rows: Stacked, machine: Machine, names: Sequence[str], x: Floats, values: Callable[[Floats], Values],
    parts: Mapping[str, Floats], residual: Floats,
) -> Floats:  # fmt: skip
    step = 1e-4
    columns = []
    for j, name in enumerate(names):
        moved = x.copy()
        moved[j] += step
        v = values(moved)
        group = group_of(name)
        changed = parts if group == "host" else {**parts, group: rows.seconds(group, coefficients(v), machine)}
        columns.append((rows.log_step(changed, v["host_s"]) - rows.log_time - residual) / step)
    return np.asarray(np.array(columns).T)


def fit_neighbours(rows: Stacked, values: Values, machine: Machine) -> dict[str, Neighbours]:
    """What the fitted form leaves on the rows, by layout."""
    residuals, shares = -rows.residuals(values, machine), rows.shares(values, machine)
    found: dict[str, Neighbours] = {}
    for i, layout in enumerate(LAYOUTS):
        mine = rows.layout == i
        weights = solve_weights(
            shares[mine], residuals[mine], length=NEIGHBOUR_LENGTH, amplitude=NEIGHBOUR_AMPLITUDE, noise=NEIGHBOUR_NOISE
        )
        found[layout] = Neighbours(
            length=NEIGHBOUR_LENGTH,
            amplitude=NEIGHBOUR_AMPLITUDE,
            shares=tuple(tuple(round(UNIT * s) for s in row) for row in shares[mine]),
            weights=tuple(float(f"{w:.4g}") for w in weights),
        )
    return found


def corrected_residuals(
    rows: Stacked, values: Values, neighbours: Mapping[str, Neighbours], machine: Machine
) -> Floats:
    """ln(predicted / measured) of every row with its neighbours' correction."""
    shares = rows.shares(values, machine)
    log_correction = [
        neighbours[LAYOUTS[layout]].log_correction(row) for layout, row in zip(rows.layout, shares, strict=True)
    ]
    return np.asarray(rows.residuals(values, machine) + np.array(log_correction))


# The command --------------------------------------------------------------------------------------------------------


def rounded(values: Values) -> Values:
    """Coefficients as the profile stores them."""
    return {name: float(f"{value:.4g}") for name, value in sorted(values.items())}


def held_out(residuals: Floats, what: str) -> HeldOut:
    """Figures of residuals of step time, said of samples/s: their sign turns."""
    size = np.abs(residuals)
    figures = (size.mean(), np.median(size), np.quantile(size, 0.9), -residuals.mean())
    mean, median, p90, bias = (round(float(x), 4) for x in figures)
    return HeldOut(mean=mean, median=median, p90=p90, bias=bias, rows=len(size), what=what)


def infer_priors(train: Values) -> Priors:
    """The forward pass alone starts from training's coefficients: newer libraries, the same card."""
    return {name: (train[name], INFER_LOOSENESS * sd) for name, (_, sd) in priors().items()}


def main(argv: list[str]) -> int:
    """Fit the half of the models that may be fitted, judge on the other, write the profile."""
    parser = argparse.ArgumentParser(prog="python -m bench fit-step", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--traces", type=Path, required=True, help="folder written by `python -m bench trace-tables`")
    parser.add_argument("--output", type=Path, default=FOLDER / f"{GPU}.json")
    options = parser.parse_args(argv)
    gpu = find_gpu(GPU)
    train = [r for layout in LAYOUTS for r in with_traces(train_rows(options.data, layout), options.traces)]
    infer = {table: with_traces(infer_rows(options.data, table), options.traces) for table in INFER_TABLES}
    profile = fit_profile(train, infer, machine(gpu, TIMM_RECIPE))
    write_atomically(options.output, step_profile_bytes(profile))
    for name, found in profile.held_out.items():
        print(f"{name}: mean {found.mean:.3f}, median {found.median:.3f}, p90 {found.p90:.3f}, bias {found.bias:+.3f}, "
              f"{found.rows} rows: {found.what}")  # fmt: skip
    print(f"memory: {profile.memory}")
    return 0


def fit_profile(train: Sequence[StepRow], infer: Mapping[str, Sequence[StepRow]], gpu: Machine) -> StepProfile:
    """All coefficients from the rows that may be fitted, with their errors on the rows that may not."""
    fitted = Stacked([r for r in train if r.row.fitted], TIMM_RECIPE)
    values = rounded(fit(fitted, gpu))
    neighbours = fit_neighbours(fitted, values, gpu)
    own = [r for table in (f"{INFER_NAME} {layout}" for layout in LAYOUTS) for r in infer[table] if r.row.fitted]
    forward = rounded(fit(Stacked(own, INFER_RECIPE), gpu, start=infer_priors(values)))
    values["attention.forward.rate"] = forward["attention.forward.rate"]
    values["attention.backward.rate"] = round(BACKWARD_ATTENTION * forward["attention.forward.rate"], 4)
    errors: dict[str, HeldOut] = {}
    for layout in LAYOUTS:
        unseen = Stacked([r for r in train if r.row.layout == layout and not r.row.fitted], TIMM_RECIPE)
        what = f"RTX 3090 AMP training, {layout.upper()}, models that the fit has not seen"
        errors[layout] = held_out(corrected_residuals(unseen, values, neighbours, gpu), what)
    residuals = [r for table in infer for r in other_gpu_residuals(table, infer[table], forward)]
    what = "AMP inference on RTX 4090, 5090 and PRO 6000 Max-Q, predicted from the RTX 3090 and their facts"
    errors["other_gpus"] = held_out(np.array(residuals), what)
    return StepProfile(
        schema_version=SCHEMA_VERSION, gpu=GPU, origin=ORIGIN, rows=len(fitted.rows) + len(own), train=values,
        infer=forward, neighbours=neighbours, memory=fit_memory([r for r in train if r.row.fitted]), held_out=errors,
    )  # fmt: skip


def other_gpu_residuals(table: str, rows: Sequence[StepRow], forward: Values) -> list[float]:
    """ln(predicted / measured) step time of a table of another GPU, from its facts and the 3090's coefficients."""
    name = table.partition(" ")[0]
    if name == INFER_NAME:
        return []
    gpu = find_gpu(name)
    gemm = load_profile(gpu)
    scale = product_scale(gpu, gemm, forward)
    forward = forward | {"gemm.hardness": gemm.gemm["fp16"].coefficients.wave_hardness}  # as StepModel takes it
    return list(Stacked(rows, INFER_RECIPE).residuals(forward, machine(gpu, INFER_RECIPE, scale)))
