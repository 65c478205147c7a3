"""How far a calibration of a minute gets: public timings replayed as if a card had just been measured.

Three predictions of the same rows, all unseen: (a) the profile that the card would have without any row of its own,
(b) after a calibration's 100 products or 40 convolutions, chosen by their sizes alone, (c) after all its other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from advisor.gpus import Gpu, find_gpu
from advisor.profile import Error, GemmModel, load_profile
from advisor.recipe import make_recipe
from advisor.step_profile import load_step_profile
from advisor.steptime import machine, product_scale
from bench.fit import error_of, held_out
from bench.fit_convolution import ConvolutionFit, Convolutions, corrected, held_out_convolutions
from bench.fit_few import fit_few, is_kin, judged, predict_few
from bench.fit_gemm import physical_times
from bench.fit_records import (
    PRECISIONS,
    Measurements,
    convolution_machine,
    convolution_prior,
    convolution_rows,
    fit_measurements,
    gemm_timings,
    measurements_of,
    nearest_model,
)
from bench.gemm_data import TABLES, read_table
from bench.records import Row
from bench.replay import (
    NEUSIGHT_CONVOLUTIONS,
    V100,
    calibration_of,
    deepbench_convolution_rows,
    gemm_rows,
    neusight_convolution_rows,
)

Floats = NDArray[np.float64]
COUNTS = (50, 100, 200)
WITHIN = 1.3  # times the error of the full fit that a calibration is to come to


@dataclass(frozen=True)
class Replay:
    """Errors on the same unseen rows: without the card's rows, calibrated, fitted to all other rows."""

    gpu: str
    measured: int  # rows of the calibration
    without: Error
    calibrated: Error
    full: Error | None
    full_everywhere: Error | None = None  # on the rows that the calibration touched too

    @property
    def ratio(self) -> float | None:
        """Calibrated over full, mean errors."""
        return None if self.full is None else self.calibrated.mean / self.full.mean


def replay_products(data: Path, name: str, *, full: bool = True) -> Replay:
    """One GPU of the public tables, judged on the (n, k) pairs that the calibration does not touch."""
    gpu, rows = find_gpu(name), gemm_rows(data, name)
    few, rest = calibration_of(rows)
    touched = {(row.case.params["n"], row.case.params["k"]) for row in few}
    unseen = [row for row in rest if (row.case.params["n"], row.case.params["k"]) not in touched]
    dtypes = PRECISIONS["fp16"]
    wanted = gemm_timings(measurements_of(unseen, name), dtypes)
    keep = judged(wanted)
    wanted = wanted.where(keep)
    donor = lender(gpu)
    without = physical_times(donor.coefficients, gpu, "fp16", wanted)
    fit = fit_few(gemm_timings(measurements_of(few, name), dtypes), gpu, donor)
    found = everywhere = None
    if full:
        table = read_table(data, name)
        pairs = np.array([(n, k) not in touched for n, k in table.pairs.astype(int).tolist()])
        ratio = held_out(table, gpu, table.folds())
        found, everywhere = error_of(ratio[table.judged & pairs[None]], ""), error_of(ratio[table.judged], "")
    return Replay(
        gpu.id, len(few), error_of(np.log(without / wanted.time_s), ""),
        error_of(np.log(predict_few(fit, gpu, wanted) / wanted.time_s), ""), found, everywhere,
    )  # fmt: skip


def learning(data: Path, name: str) -> list[float]:
    """Mean errors after as many products as COUNTS says, all on the pairs that the most of them leave untouched."""
    gpu, rows = find_gpu(name), gemm_rows(data, name)
    chosen = [calibration_of(rows, count)[0] for count in COUNTS]
    touched = {(row.case.params["n"], row.case.params["k"]) for few in chosen for row in few}
    unseen = [row for row in rows if (row.case.params["n"], row.case.params["k"]) not in touched]
    dtypes, donor = PRECISIONS["fp16"], lender(gpu)
    wanted = gemm_timings(measurements_of(unseen, name), dtypes)
    wanted = wanted.where(judged(wanted))
    fits = [fit_few(gemm_timings(measurements_of(few, name), dtypes), gpu, donor) for few in chosen]
    return [error_of(np.log(predict_few(fit, gpu, wanted) / wanted.time_s), "").mean for fit in fits]


def replay_convolutions(rows: Sequence[Row], section: str, *, full: bool = True) -> Replay:
    """One card's convolutions, judged on the layers that the calibration does not touch."""
    few, _ = calibration_of(rows)
    everything, found = measurements_of(rows, "replay"), measurements_of(few, "replay")
    gpu, dtypes = everything.gpu, PRECISIONS[section]
    profile, _ = fit_measurements(found, judge=False)
    model = profile.convolutions[section]
    prior, facts = convolution_prior(found, profile, section), convolution_machine(gpu, section)
    wanted = unseen_of(everything, found, dtypes)
    without = shipped_times(wanted, gpu, section)
    calibrated = corrected(wanted, ConvolutionFit(model.values, model.nearby), prior, facts)
    error = everywhere = None
    if full:
        all_rows = convolution_rows(everything, dtypes)
        assert all_rows is not None
        ratio = held_out_convolutions(all_rows, prior, facts)
        error, everywhere = error_of(ratio[np.isin(all_rows.layer, wanted.layer)], ""), error_of(ratio, "")
    return Replay(
        gpu.id, len(few), error_of(np.log(without / wanted.time_s), ""),
        error_of(np.log(calibrated / wanted.time_s), ""), error, everywhere,
    )  # fmt: skip


def unseen_of(everything: Measurements, found: Measurements, dtypes: Sequence[str]) -> Convolutions:
    """The convolutions of layers that were not measured, in any pass or batch."""
    all_rows, seen = convolution_rows(everything, dtypes), convolution_rows(found, dtypes)
    assert all_rows is not None
    assert seen is not None
    return all_rows.where(~np.isin(all_rows.layer, seen.layer))


def shipped_times(rows: Convolutions, gpu: Gpu, section: str) -> Floats:
    """Seconds by the shipped step profile, which holds no measurement of the card, as `StepModel` takes it."""
    values, recipe = load_step_profile().train, make_recipe(precision=section)
    scale = product_scale(gpu, load_profile(gpu), values) if section == "fp16" else 1.0
    return corrected(rows, ConvolutionFit({}, {}), values, machine(gpu, recipe, scale))


def section(data: Path) -> str:
    """The report's part on calibrations, as Markdown."""
    products = [replay_products(data, name) for name in TABLES]
    convolved = [("FP16, three passes", replay_convolutions(deepbench_convolution_rows(data), "fp16"))]
    convolved += [
        ("FP32, forward", replay_convolutions(neusight_convolution_rows(data, device), "fp32"))
        for device in NEUSIGHT_CONVOLUTIONS
    ]
    kin = [r.gpu for r in products if _has_kin(r.gpu)]
    titles = [
        "GPU",
        "rows",
        "without",
        "calibrated",
        "median",
        "p90",
        "full fit",
        "calibrated / full",
        "full, all rows",
    ]
    return "\n\n".join([
        "## A calibration of a minute",
        "Public timings replayed as records, through the code that fits a card's own: mean error in per cent of the "
        "profile that a card has without any row of its own, after a calibration's 100 products or 40 convolutions "
        "(chosen by their sizes alone), and after all other rows of the card. Judged on the same rows: (n, k) pairs, "
        f"or layers, that the calibration does not touch. The aim is {WITHIN} times the error of the full fit. "
        "Widths of priors and other constants of these fits were set with these tables in sight; no coefficient was.",
        "### Products",
        f"m >= 128, n and k >= 256, over 20 us. {', '.join(kin)}: a profile of the same kind of SM is at hand, and its "
        "local correction is taken over by the share that the calibration bears out. Elsewhere nothing but the hundred "
        "rows tells which kernel a library takes where: the full fit reads that off measured neighbours, of which a "
        "hundred rows leave few. What they can settle is the physical form (see its column in the first table).",
        table(titles, [_row(r) for r in products]),
        verdict(products),
        "How many products it takes: mean error in per cent on the pairs that none of these choices touches.",
        table(
            ["GPU", *(f"{count} products" for count in COUNTS)],
            [[find_gpu(name).id, *(f"{100 * e:.1f}" for e in learning(data, name))] for name in TABLES],
        ),
        "### Convolutions",
        "DeepBench (V100, cuDNN 7.6) and NeuSight (FP32, 3x3, random sizes, calls of over three empty ones). Without: "
        "the shipped coefficients of whole steps on the RTX 3090 with this card's facts and, in FP16, its GEMM "
        "profile; the FP32 rate of 3x3 filters in them stands on NeuSight's V100.",
        table(["what", *titles], [[what, *_row(r)] for what, r in convolved]),
        verdict([r for _, r in convolved]),
    ])  # fmt: skip


def lender(gpu: Gpu) -> GemmModel:
    """The model that a GPU of the tables would borrow if it had none: of the nearest of the others.

    V100's is left out, as where the report says what borrowing costs: old timings by another clock, 98 % off an A100.
    """
    model = nearest_model(gpu, "fp16", frozenset({gpu.id, V100}))
    assert model is not None
    return model


def _has_kin(name: str) -> bool:
    gpu = find_gpu(name)
    return is_kin(gpu, lender(gpu))


def _row(r: Replay) -> list[object]:
    figures = [r.without.mean, r.calibrated.mean, r.calibrated.median, r.calibrated.p90]
    full = [""] * 3
    if r.full is not None and r.full_everywhere is not None and r.ratio is not None:
        full = [f"{100 * r.full.mean:.1f}", f"{r.ratio:.2f}", f"{100 * r.full_everywhere.mean:.1f}"]
    return [r.gpu, r.calibrated.rows, *(f"{100 * x:.1f}" for x in figures), *full]


def verdict(replays: Sequence[Replay]) -> str:
    """Where the aims are met and where not, in words."""
    better = [r.gpu for r in replays if r.calibrated.mean < r.without.mean]
    missed = [f"{r.gpu} ({r.ratio:.2f})" for r in replays if r.ratio is not None and r.ratio > WITHIN]
    first = f"The calibration beats the profile without the card's rows on {len(better)} of {len(replays)}."
    return f"{first} Over {WITHIN} times the full fit: {', '.join(missed) or 'none'}."


def table(titles: list[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of ready text."""
    return str(tabulate(rows, headers=titles, tablefmt="github", disable_numparse=True))
