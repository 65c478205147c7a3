"""Counts what `python -m bench accuracy` predicted without having seen it: advisor/profiles/held-out/GPU.json.

Counts and quantiles alone: the rows are other people's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.files import write_atomically
from advisor.gemm import gemm_time
from advisor.gpus import find_gpu
from advisor.profile import Error, load_profile
from advisor.report.held_out import (
    FOLDER,
    QUANTILES,
    SCHEMA_VERSION,
    Density,
    HeldOutCounts,
    HeldOutProducts,
    HeldOutSteps,
    SizeClass,
    load_held_out,
)
from bench.accuracy.gemm import HeldOut, repeats_apart
from bench.fit import V100, error_of, v100_held_out, v100_rows
from bench.gemm_data import LEAST_M, LEAST_NK, LEAST_S, NEUSIGHT, NEUSIGHT_UNFITTED, read_neusight

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COLUMNS, CELLS, MOST_OFF = 60, 61, 2.0
FEW_COLUMNS, MANY = 30, 2000  # columns of fewer rows than so many, which would be scattered otherwise
TIMES_US = (0, 20, 50, 100, 200, 500, 1000, 2000, 5000, 20000)
SIZES = (1, 32, 128, 512, 1024, 2048, 4354)  # of m; the tables go on at 8192
FEW = 20  # a class with fewer rows is left out: its quantiles say nothing


@dataclass(frozen=True)
class Rows:
    """Flat arrays: sizes, measured s, ln(predicted / measured), and which rows the error of the profile counts."""

    m: Floats
    n: Floats
    k: Floats
    time_s: Floats
    log_ratio: Floats
    judged: Bools

    @property
    def flops_per_s(self) -> Floats:
        """Measured rate."""
        return np.asarray(2 * self.m * self.n * self.k / self.time_s)


def write_held_out(found: Mapping[str, HeldOut], data: Path, folder: Path = FOLDER) -> list[Path]:
    """Write the products of every GPU with public ones: `found` of the shared grids, by GPU, and the others here."""
    products: dict[str, dict[str, HeldOutProducts]] = {}
    for gpu_id, held in found.items():
        products.setdefault(gpu_id, {})["fp16"] = grid_counts(gpu_id, held)
    products.setdefault(V100, {})["fp16"] = v100_counts(data)
    for gpu_id, fp32 in fp32_counts(data):
        products.setdefault(gpu_id, {})["fp32"] = fp32
    folder.mkdir(parents=True, exist_ok=True)
    others = {path.stem for path in folder.glob("*.json")} - set(products)
    return [_write(folder, gpu_id, products=products.get(gpu_id, {})) for gpu_id in sorted({*products, *others})]


def write_held_out_steps(steps: Mapping[str, HeldOutSteps], gpu_id: str, folder: Path = FOLDER) -> Path:
    """Write the training steps of one GPU, by layout."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder, gpu_id, steps=dict(steps))


def _write(folder: Path, gpu_id: str, **changed: Any) -> Path:
    """Write what changed of a GPU's counts beside what its file has; without anything left the file goes."""
    path = folder / f"{gpu_id}.json"
    before = load_held_out(gpu_id, folder) or HeldOutCounts(SCHEMA_VERSION, gpu_id)
    counts = msgspec.structs.replace(before, **changed)
    if counts.products or counts.steps:
        write_atomically(path, held_out_bytes(counts))
    else:
        path.unlink(missing_ok=True)
    return path


def steps_counts(time_s: Floats, log_ratio: Floats, origin: str, what: str) -> HeldOutSteps:
    """All that is shipped of held-out steps: measured s, and ln(predicted / measured) of it."""
    return HeldOutSteps(
        origin=origin,
        error=error_of(log_ratio, what),
        within=_within(log_ratio),
        times=density(time_s, log_ratio),
    )


def grid_counts(gpu_id: str, held: HeldOut) -> HeldOutProducts:
    """FP16 products of a GPU of the shared tables, beside the simpler models of the same rows."""
    table, model = held.table, load_profile(find_gpu(gpu_id)).gemm["fp16"]
    rows = Rows(*table.rows(), table.time_s.ravel(), held.pairs.ravel(), table.judged.ravel())
    rivals = {"roofline": held.roofline, "lookup": held.lookup, "physical form alone": held.physical}
    errors = {name: error_of(ratio[table.judged], "the same rows and folds") for name, ratio in rivals.items()}
    found = counted(rows, gpu_id, model.origin, model.fitted, model.held_out.what, errors)
    return msgspec.structs.replace(found, repeats_mean=round(float(np.mean(repeats_apart(table))), 4))


def v100_counts(data: Path) -> HeldOutProducts:
    """FP16 products of the V100, which lie on no grid."""
    gpu, found = find_gpu(V100), v100_rows(data)
    model = load_profile(gpu).gemm["fp16"]
    every = np.ones(len(found), dtype=bool)
    rows = Rows(found.m, found.n, found.k, found.time_s, v100_held_out(found, gpu), every)
    return counted(rows, gpu.id, model.origin, model.fitted, model.held_out.what)


def fp32_counts(data: Path) -> Iterator[tuple[str, HeldOutProducts]]:
    """FP32 products of NeuSight's test rows, by GPU: with coefficients of its own training rows, or borrowed ones."""
    for device, name in (NEUSIGHT | NEUSIGHT_UNFITTED).items():
        gpu, found = find_gpu(name), read_neusight(data, device)
        profile, unseen = load_profile(gpu), ~found.seen
        m, n, k, time_s = (values[unseen] for values in (found.m, found.n, found.k, found.time_s))
        ratio = np.log(gemm_time(profile, gpu, m, n, k, precision="fp32").time_s / time_s)
        model = profile.gemm["fp32"]
        rows = Rows(m, n, k, time_s, ratio, np.ones(len(m), dtype=bool))
        what = "NeuSight's own test rows, longer than three empty launches"
        yield gpu.id, counted(rows, model.gpu, model.origin, model.fitted, what)


def counted(
    rows: Rows, coefficients_of: str, origin: str, fitted: str, what: str, rivals: Mapping[str, Error] | None = None
) -> HeldOutProducts:
    """All that is shipped of one GPU's rows of one precision."""
    judged = rows.judged
    return HeldOutProducts(
        coefficients_of=coefficients_of,
        origin=origin,
        fitted=fitted,
        error=error_of(rows.log_ratio[judged], what),
        within=_within(rows.log_ratio[judged]),
        rates=density(rows.flops_per_s[judged], rows.log_ratio[judged]),
        times=density(rows.time_s, rows.log_ratio),
        classes=tuple(classes(rows)),
        rivals=dict(rivals or {}),
    )


def _within(log_ratio: Floats) -> tuple[float, float]:
    off = np.abs(np.expm1(log_ratio))
    return round(float((off <= 0.1).mean()), 4), round(float((off <= 0.2).mean()), 4)


def density(measured: Floats, log_ratio: Floats) -> Density:
    """Count rows in columns of what was measured by CELLS of predicted / measured time."""
    columns = COLUMNS if len(measured) >= MANY else FEW_COLUMNS
    low, high = float(f"{0.999 * measured.min():.3g}"), float(f"{1.002 * measured.max():.3g}")
    low, high = min(low, float(measured.min())), max(high, float(measured.max()))
    column = _cell(np.log(measured), np.log(low), np.log(high), columns)
    cell = _cell(log_ratio, -np.log(MOST_OFF), np.log(MOST_OFF), CELLS)
    counts = np.zeros((columns, CELLS), dtype=np.int64)
    np.add.at(counts, (column, cell), 1)
    return Density(low=low, high=high, most_off=MOST_OFF, cells=CELLS, columns=tuple(map(_trimmed, counts)))


def _cell(values: Floats, low: float, high: float, cells: int) -> NDArray[np.int64]:
    return np.clip(np.floor((values - low) / (high - low) * cells).astype(np.int64), 0, cells - 1)


def _trimmed(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """The first cell that is not empty, then the counts up to the last that is not."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return (0,)
    return (int(filled[0]), *counts[filled[0] : filled[-1] + 1].tolist())


def classes(rows: Rows) -> Iterator[SizeClass]:
    """Judged rows by measured time and by m, then the others by why the error of the profile leaves them out."""
    time_us = 1e6 * rows.time_s
    for low, high in zip(TIMES_US, (*TIMES_US[1:], np.inf), strict=True):
        yield from _class("time", _span(low, high, "us"), rows, rows.judged & (time_us > low) & (time_us <= high))
    for low, high in zip(SIZES, (*SIZES[1:], np.inf), strict=True):
        name = f"m from {low:,} on" if high == np.inf else f"m {low:,} to {high - 1:,}"
        yield from _class("m", name, rows, rows.judged & (rows.m >= low) & (rows.m < high))
    wide = (rows.n >= LEAST_NK) & (rows.k >= LEAST_NK)
    short = wide & (rows.m >= LEAST_M) & (rows.time_s <= LEAST_S)
    others = {
        "m below 32": wide & (rows.m < 32),
        f"m 32 to {LEAST_M - 1}": wide & (rows.m >= 32) & (rows.m < LEAST_M),
        f"m from {LEAST_M} on, up to {1e6 * LEAST_S:.0f} us": short,
        f"n or k below {LEAST_NK}": ~wide,
    }
    for name, chosen in others.items():
        yield from _class("unjudged", name, rows, chosen & ~rows.judged)


def _span(low: float, high: float, unit: str) -> str:
    if high == np.inf:
        return f"over {low / 1000:g} ms"
    if low >= 1000:
        return f"{low / 1000:g} to {high / 1000:g} ms"
    return f"up to {high:g} {unit}" if low == 0 else f"{low:g} to {high:g} {unit}"


def _class(by: str, name: str, rows: Rows, chosen: Bools) -> Iterator[SizeClass]:
    if chosen.sum() < FEW:
        return
    ratio = rows.log_ratio[chosen]
    e = error_of(ratio, "")
    quantiles = tuple(round(float(q), 4) for q in np.exp(np.quantile(ratio, QUANTILES)))
    yield SizeClass(by=by, name=name, rows=e.rows, mean=e.mean, median=e.median, p90=e.p90, ratios=quantiles)  # type: ignore[arg-type]  # one of the three


def held_out_bytes(held: HeldOutCounts) -> bytes:
    """The file: one figure per line, a column of counts on one."""
    text = msgspec.json.format(msgspec.json.encode(held), indent=1)
    return re.sub(rb'\[[^\[\]{}"]*\]', lambda array: b"".join(array[0].split()), text) + b"\n"
