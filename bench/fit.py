"""`python -m bench fit`: published GEMM timings to the shipped profiles. The same data give the same bytes."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.cli.output import write_atomically
from advisor.gemm.correction import log_correction
from advisor.gpus import Gpu, find_gpu
from advisor.profile import (
    FOLDER,
    SCHEMA_VERSION,
    Error,
    GemmCoefficients,
    GemmModel,
    GpuProfile,
    Tile,
    distance,
    profile_bytes,
)
from bench.fit_gemm import Timings, fit_coefficients, fit_correction, physical_times
from bench.gemm_data import FOLDS, LEAST_NK, ORIGIN, TABLES, Table, read_table

Floats = NDArray[np.float64]
SAMPLE = 0.15  # of the rows; the physical form has some 30 coefficients for 26,000 rows
UNJUDGED_WEIGHT = 0.15  # of rows that are launch-bound or narrower than real layers
BF16_NOTE = "timings are BF16, which runs at the rate of FP16 with FP32 accumulate"
FITTED = "2026-11-21"  # date of the shipped fit; a new fit of new data gets a new one


@dataclass(frozen=True)
class Fit:
    """Physical coefficients of one GPU and the residual they leave: ln(measured / physical), [m, pair]."""

    coefficients: GemmCoefficients
    residual: Floats


def fit_physical(table: Table, gpu: Gpu, keep: NDArray[np.bool_]) -> Fit:
    """Fit the physical form to the pairs in `keep` alone; the residual is that of all pairs."""
    m, n, k = table.rows()
    weight = np.where(table.judged, 1.0, UNJUDGED_WEIGHT)
    rows = Timings(m, n, k, table.time_s.ravel(), weight.ravel())
    sampled = np.random.default_rng(0).random(table.time_s.shape) < SAMPLE
    coefficients = rounded(fit_coefficients(rows.where((sampled & keep[None]).ravel()), gpu))
    physical = physical_times(coefficients, gpu, "fp16", rows).reshape(table.time_s.shape)
    return Fit(coefficients, np.log(table.time_s / physical))


def rounded(coefficients: GemmCoefficients, digits: int = 5) -> GemmCoefficients:
    """The coefficients as the profile stores them, to so many significant digits."""
    values = {
        name: float(f"{v:.{digits}g}") for name, v in msgspec.structs.asdict(coefficients).items() if name != "tiles"
    }
    tiles = tuple(Tile(tile.m, tile.n, float(f"{tile.rate:.{digits}g}")) for tile in coefficients.tiles)
    return GemmCoefficients(tiles=tiles, **values)


def predict_unseen(table: Table, residual: Floats, seen: NDArray[np.bool_]) -> Floats:
    """ln(predicted / measured), [m, unseen pair], of the pairs not seen, by the correction fitted to those seen."""
    correction = fit_correction(table.m, table.pairs[seen], residual[:, seen])
    n, k = table.pairs[~seen].T
    m = np.repeat(table.m, len(n))
    found = log_correction(correction, m, np.tile(n, len(table.m)), np.tile(k, len(table.m)))
    return np.asarray(found.reshape(len(table.m), -1) - residual[:, ~seen])


def held_out(table: Table, gpu: Gpu, groups: NDArray[np.int64]) -> Floats:
    """ln(predicted / measured), [m, pair]: each group of pairs predicted by a fit to all others."""
    found = np.empty_like(table.time_s)
    for group in np.unique(groups):
        seen = groups != group
        found[:, ~seen] = predict_unseen(table, fit_physical(table, gpu, seen).residual, seen)
    return found


def error_of(log_ratio: Floats, what: str) -> Error:
    """Summary of ln(predicted / measured) as |predicted / measured - 1|."""
    size = np.abs(np.expm1(log_ratio))
    mean, median, p90 = (round(float(v), 4) for v in (size.mean(), np.median(size), np.quantile(size, 0.9)))
    return Error(mean=mean, median=median, p90=p90, rows=len(size), what=what)


def fit_profile(table: Table, gpu: Gpu) -> GpuProfile:
    """The profile of one GPU: fitted to all rows, with the error of fits that left a fold of them out."""
    everything = np.ones(len(table.pairs), dtype=bool)
    fit = fit_physical(table, gpu, everything)
    error = error_of(
        held_out(table, gpu, table.folds())[table.judged],
        f"(n, k) pairs left out by folds of crc32 % {FOLDS}; m >= 128, n and k >= {LEAST_NK}, over 20 us",
    )
    model = GemmModel(
        gpu=gpu.id,
        kind="public",
        origin=ORIGIN,
        rows=table.time_s.size,
        fitted=FITTED,
        coefficients=fit.coefficients,
        held_out=error,
        correction=fit_correction(table.m, table.pairs, fit.residual),
        note=BF16_NOTE,
    )
    return GpuProfile(schema_version=SCHEMA_VERSION, gpu=gpu.id, gemm={"fp16": model})


def borrow(gpu: Gpu, table: Table, donors: dict[str, GemmCoefficients]) -> tuple[str, Error]:
    """Id of the nearest other GPU, and the error of predicting this one by its coefficients and these facts."""
    others = [name for name in donors if name != gpu.id]
    donor = min(others, key=lambda name: (*distance(gpu, find_gpu(name)), name))
    m, n, k = table.rows()
    rows = Timings(m, n, k, table.time_s.ravel(), np.ones(table.time_s.size))
    predicted = physical_times(donors[donor], gpu, "fp16", rows).reshape(table.time_s.shape)
    ratio = np.log(predicted / table.time_s)[table.judged]
    return donor, error_of(ratio, f"all rows of this GPU, from the coefficients of {donor} and this GPU's facts")


def main(argv: list[str] | None = None) -> int:
    """Fit the GPUs named, or all, and write their profiles."""
    parser = argparse.ArgumentParser(prog="python -m bench fit", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data (aiconfigurator-gemm, ...)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to (default: the shipped one)")
    options = parser.parse_args(argv)
    tables = {name: read_table(options.data, name) for name in TABLES}
    gpus = {name: find_gpu(name) for name in TABLES}
    profiles = {}
    for name, table in tables.items():
        start = time.perf_counter()
        profiles[name] = fit_profile(table, gpus[name])
        error = profiles[name].gemm["fp16"].held_out
        print(f"{name}: unseen (n, k) {100 * error.mean:.2f} %, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    donors = {profile.gpu: profile.gemm["fp16"].coefficients for profile in profiles.values()}
    options.output.mkdir(parents=True, exist_ok=True)
    for name, profile in profiles.items():
        donor, error = borrow(gpus[name], tables[name], donors)
        model = msgspec.structs.replace(profile.gemm["fp16"], borrowed=error)
        write_atomically(
            options.output / f"{profile.gpu}.json",
            profile_bytes(msgspec.structs.replace(profile, gemm={"fp16": model})),
        )
        print(f"{name}: from {donor} alone {100 * error.mean:.1f} %", file=sys.stderr)
    return 0
