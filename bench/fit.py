"""`python -m bench fit`: timings to profiles. The same data give the same bytes.

With --data: published GEMM timings to the shipped profiles. With --records: what was measured on one card to its own.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.files import write_atomically
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
from bench.gemm_data import (
    DEEPBENCH,
    ELEUTHERAI,
    FOLDS,
    LEAST_NK,
    NEUSIGHT,
    NEUSIGHT_ORIGIN,
    ORIGIN,
    TABLES,
    Table,
    read_deepbench,
    read_eleutherai,
    read_neusight,
    read_table,
)

Floats = NDArray[np.float64]
SAMPLE = 0.12  # of the rows; the physical form has some 30 coefficients for 26,000 rows
V100 = "v100-sxm2-16gb"
UNJUDGED_WEIGHT = 0.15  # of rows that are launch-bound or narrower than real layers
BF16_NOTE = (
    "The coefficients of matrix products were fitted to timings in BF16, "
    "which runs at the rate of FP16 with FP32 accumulate."
)
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
        name: float(f"{v:.{digits}g}")
        for name, v in msgspec.structs.asdict(coefficients).items()
        if name not in ("tiles", "most_split_load")
    }
    tiles = tuple(Tile(tile.m, tile.n, float(f"{tile.rate:.{digits}g}")) for tile in coefficients.tiles)
    return GemmCoefficients(tiles=tiles, most_split_load=coefficients.most_split_load, **values)


def agreed(table: Table, residual: Floats) -> Floats:
    """Residuals half-way from the table's own to the median of all software versions that measured the shape.

    Each version's mean distance from the table is taken off first: what is left is which shapes it treats otherwise,
    and how noisy one measurement is.
    """
    apart = np.log(table.repeats_s / table.time_s)
    apart -= np.nanmedian(apart, axis=(1, 2), keepdims=True)
    middle = np.nanmedian(np.concatenate([np.zeros_like(residual)[None], apart]), axis=0)
    return np.asarray(residual + 0.5 * middle)


def predict_unseen(table: Table, residual: Floats, seen: NDArray[np.bool_]) -> Floats:
    """ln(predicted / measured), [m, unseen pair], of the pairs not seen, by the correction fitted to those seen."""
    correction = fit_correction(table.m, table.pairs[seen], agreed(table, residual)[:, seen])
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


def fit_table(table: Table, gpu: Gpu) -> GemmModel:
    """The FP16 model of one GPU: fitted to all rows, with the error of fits that left a fold of them out."""
    everything = np.ones(len(table.pairs), dtype=bool)
    fit = fit_physical(table, gpu, everything)
    error = error_of(
        held_out(table, gpu, table.folds())[table.judged],
        f"(n, k) pairs left out by folds of crc32 % {FOLDS}; m >= 128, n and k >= {LEAST_NK}, over 20 us",
    )
    return GemmModel(
        gpu=gpu.id,
        kind="public",
        origin=ORIGIN,
        rows=table.time_s.size,
        fitted=FITTED,
        coefficients=fit.coefficients,
        held_out=error,
        correction=fit_correction(table.m, table.pairs, agreed(table, fit.residual)),
        note=BF16_NOTE,
    )


def borrow(gpu: Gpu, table: Table, donors: dict[str, GemmCoefficients]) -> tuple[str, Error]:
    """Id of the nearest other GPU, and the error of predicting this one by its coefficients and these facts."""
    others = [name for name in donors if name != gpu.id]
    donor = min(others, key=lambda name: (*distance(gpu, find_gpu(name)), name))
    m, n, k = table.rows()
    rows = Timings(m, n, k, table.time_s.ravel(), np.ones(table.time_s.size))
    predicted = physical_times(donors[donor], gpu, "fp16", rows).reshape(table.time_s.shape)
    ratio = np.log(predicted / table.time_s)[table.judged]
    return donor, error_of(ratio, f"all rows of this GPU, from the coefficients of {donor} and this GPU's facts")


def v100_rows(data: Path) -> Timings:
    """FP16 products on V100: EleutherAI's aligned ones over 0.1 ms, and DeepBench's."""
    sweep, deep = read_eleutherai(data, "v100"), read_deepbench(data, "fp16_mixed")
    keep = sweep["aligned"].astype(bool)
    m, n, k, time_s = (np.r_[sweep[name][keep], getattr(deep, name)] for name in ("m", "n", "k", "time_s"))
    return Timings(m, n, k, time_s, np.ones(len(m)))


def v100_held_out(rows: Timings, gpu: Gpu) -> Floats:
    """ln(predicted / measured) of every row by a fit to the other folds."""
    sizes = zip(rows.m, rows.n, rows.k, strict=True)
    folds = np.array([zlib.crc32(f"{m:.0f}x{n:.0f}x{k:.0f}".encode()) % FOLDS for m, n, k in sizes])
    ratio = np.empty(len(rows))
    for fold in range(FOLDS):
        coefficients = fit_coefficients(rows.where(folds != fold), gpu)
        unseen = rows.where(folds == fold)
        ratio[folds == fold] = np.log(physical_times(coefficients, gpu, "fp16", unseen) / unseen.time_s)
    return ratio


def fit_v100(data: Path) -> GemmModel:
    """The FP16 model of V100: the physical form alone, since its timings lie on no grid."""
    gpu, rows = find_gpu(V100), v100_rows(data)
    ratio = v100_held_out(rows, gpu)
    return GemmModel(
        gpu=gpu.id,
        kind="public",
        origin=f"{ELEUTHERAI}; {DEEPBENCH}",
        rows=len(rows),
        fitted=FITTED,
        coefficients=rounded(fit_coefficients(rows, gpu)),
        held_out=error_of(ratio, f"rows left out by folds of crc32 % {FOLDS}; many of DeepBench's under 0.1 ms"),
        note="timings of 2018 to 2023 (CUDA 10 and later), wall clock, launch included",
    )


def fit_fp32(data: Path, device: str) -> GemmModel:
    """The FP32 model of one GPU (CUDA cores, no TF32), fitted to NeuSight's training rows, judged on its test rows."""
    gpu, found = find_gpu(NEUSIGHT[device]), read_neusight(data, device)
    rows = Timings(found.m, found.n, found.k, found.time_s, np.ones(len(found.m)))
    coefficients = rounded(fit_coefficients(rows.where(found.seen), gpu, precision="fp32"))
    unseen = rows.where(~found.seen)
    ratio = np.log(physical_times(coefficients, gpu, "fp32", unseen) / unseen.time_s)
    return GemmModel(
        gpu=gpu.id,
        kind="public",
        origin=NEUSIGHT_ORIGIN,
        rows=int(found.seen.sum()),
        fitted=FITTED,
        coefficients=coefficients,
        held_out=error_of(ratio, "the source's own test rows, longer than three empty launches"),
        note="FP32 on the CUDA cores, without TF32",
    )


def main(argv: list[str] | None = None) -> int:
    """Fit one card's records, or every GPU with public timings, and write profiles."""
    parser = argparse.ArgumentParser(prog="python -m bench fit", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of the public data (aiconfigurator-gemm, ...)")
    source.add_argument(
        "--records", type=Path, metavar="PATH", help="records of a card, an export, or a campaign's folder"
    )
    parser.add_argument("--card", help="of records of several cards: the start of the name or key of the one to fit")
    parser.add_argument(
        "--output", type=Path, metavar="PATH",
        help="folder of the shipped profiles; with --records the profile's file (default: beside the records)",
    )  # fmt: skip
    parser.add_argument(
        "--user-profile",
        action="store_true",
        help="with --records: fit the last run's card, and keep the profile where `advisor` finds it",
    )
    options = parser.parse_args(argv)
    if options.card is not None and options.records is None:
        parser.error("--card chooses among the cards of --records")
    if options.user_profile and (options.records is None or options.output is not None):
        parser.error("--user-profile keeps the profile of --records, and --output puts it elsewhere")
    if options.records is not None:
        return fit_card(options.records, options.card, options.output, keep=options.user_profile)
    return fit_public(options.data, options.output or FOLDER)


def fit_card(records: Path, card: str | None, output: Path | None, *, keep: bool = False) -> int:
    """Fit one card's records, print how wrong the fit is on what it has not seen, write the profile.

    keep: among the user's profiles, where predictions for this card find it.
    """
    from advisor.measured import measured_profile_bytes
    from advisor.user_profiles import save_profile
    from bench.fit_records import fit_measurements, read_measurements, summary

    profile, missing = fit_measurements(read_measurements(records, card, latest=keep))
    summary(profile, missing, print)
    if keep:
        path = save_profile(profile)
    else:
        folder = records if records.is_dir() else records.parent
        path = output or folder / f"{profile.gpu}.profile.json"
        write_atomically(path, measured_profile_bytes(profile))
    print(f"wrote {path}" + ("; `advisor recommend --gpu auto` uses it from now on" if keep else ""))
    return 0


def fit_public(data: Path, output: Path) -> int:
    """Fit every GPU with public timings and write its shipped profile."""
    tables = {find_gpu(name).id: read_table(data, name) for name in TABLES}
    models: dict[str, dict[str, GemmModel]] = {}  # GPU -> precision -> model
    for name, table in tables.items():
        models[name] = {"fp16": fit_table(table, find_gpu(name))}
        say(name, models[name]["fp16"])
    donors = {name: found["fp16"].coefficients for name, found in models.items()}
    for name, table in tables.items():
        donor, error = borrow(find_gpu(name), table, donors)
        models[name]["fp16"] = msgspec.structs.replace(models[name]["fp16"], borrowed=error)
        print(f"{name}: from {donor} alone {100 * error.mean:.1f} %", file=sys.stderr)
    models[V100] = {"fp16": fit_v100(data)}
    say(V100, models[V100]["fp16"])
    for device, name in NEUSIGHT.items():
        models.setdefault(name, {})["fp32"] = fit_fp32(data, device)
        say(name, models[name]["fp32"])
    output.mkdir(parents=True, exist_ok=True)
    for name, found in models.items():
        profile = GpuProfile(schema_version=SCHEMA_VERSION, gpu=name, gemm=found)
        write_atomically(output / f"{name}.json", profile_bytes(profile))
    return 0


def say(name: str, model: GemmModel) -> None:
    """Tell how far a fit is, on stderr."""
    print(f"{name}: held-out mean {100 * model.held_out.mean:.2f} % ({model.held_out.what})", file=sys.stderr)
