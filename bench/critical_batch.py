"""`python -m bench critical-batch`: critical batches fitted to MLPerf's reference convergence points.

A reference convergence point is the mean, over many runs, of what a benchmark takes to reach its target at one global
batch with hyperparameters tuned for it. The rules below say which rows and which benchmarks are used; nothing is chosen
by hand.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from tabulate import tabulate

from advisor.choice import Floats
from advisor.errors import BadInputError
from advisor.files import write_atomically
from advisor.planning.critical_batch import (
    LEVEL,
    SCHEMA_VERSION,
    SHIPPED,
    CriticalFit,
    FittedBatch,
    FittedBatches,
    LeftOutRow,
    Origin,
    UnusedBenchmark,
    fit_critical_batch,
)
from advisor.units import percent, rate, significant
from bench.gemm_data import read_records

MOST_BATCH = 1 << 40  # of one row: a larger one is damage
MOST_SPREAD = 0.5  # standard deviation over the mean of the runs behind one row
LEAST_BATCHES = 4
LEAST_SPAN = 4.0  # largest over smallest batch
LEAST_REACH = 0.5  # largest batch over the critical one: there samples to target have risen by half
WIDEST = 3.0  # upper over lower end of the interval
MOST_HELD_OUT = 0.10  # median error of a batch left out
ROW_RULES = (
    "a row without a mean is left out",
    f"so is one whose runs vary by more than {percent(MOST_SPREAD)} of their mean (standard deviation)",
    "rounds differ in target and recipe: of what is left, the round with the most rows is used, of equals the newest",
)
BENCHMARK_RULES = (
    "rows that are also those of a benchmark of a newer round are used once, there",
    f"{LEAST_BATCHES} batches or more, the largest {LEAST_SPAN:g} times the smallest or more",
    f"the largest batch is {LEAST_REACH:g} of the critical one or more: beyond that the fit would be an extrapolation",
    f"the interval's upper end is no more than {WIDEST:g} times its lower one",
    f"a batch left out is predicted within {percent(MOST_HELD_OUT)} (median)",
)
METHOD = "Fieller 1954: independent relative errors of equal variance, Student's t"
ORIGIN = Origin(
    "https://github.com/mlcommons/logging", "7bbf792", "mlperf_logging/rcp_checker/training_*/rcps_*.json", "Apache-2.0"
)


@dataclass(frozen=True)
class Benchmark:
    """What the source's rows of one benchmark count."""

    task: str
    title: str
    unit: str  # of a global batch
    converged_unit: str  # of its mean to converge
    sample_tokens: int | None = None
    note: str | None = None


BENCHMARKS = {  # of those that the rules let in
    "bert": Benchmark("bert", "BERT-Large on Wikipedia", "sequences", "sequences",
                      note="continued from a checkpoint, and smaller from the start; sequences of up to 512 tokens, "
                      "of mixed length, not converted"),
    "dlrm_dcnv2": Benchmark("recommendation", "DLRM-DCNv2 on Criteo", "samples", "epochs"),
    "llama31_8b": Benchmark("llm", "Llama-3.1-8B on C4", "sequences", "sequences", 8192),
    "resnet": Benchmark("imagenet", "ResNet-50 on ImageNet", "images", "epochs", note="each batch with a tuned rate"),
    "retinanet": Benchmark("detection", "RetinaNet on Open Images", "images", "epochs"),
    "rgat": Benchmark("graph", "R-GAT on IGBH", "nodes", "epochs"),
    "rnnt": Benchmark("speech", "RNN-T on LibriSpeech", "utterances", "epochs"),
    "stable_diffusion": Benchmark("image-generation", "Stable Diffusion v2 on LAION", "images", "images"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One reference convergence point."""

    round: str
    benchmark: str
    global_batch: int
    runs: int
    mean: float | None
    deviation: float

    @property
    def possible(self) -> bool:
        """Whether every number is one that a measurement can have: finite, and above 0."""
        mean = 1.0 if self.mean is None else self.mean
        return 0 < self.global_batch <= MOST_BATCH and 0 < mean < math.inf and 0 <= self.deviation < math.inf

    @property
    def fault(self) -> str | None:
        """Why the row is unfit for any use; None: it is fit."""
        if self.mean is None:
            return "no mean"
        if self.deviation > MOST_SPREAD * self.mean:
            return f"its {self.runs} runs vary by {percent(self.deviation / self.mean)} of their mean"
        return None


@dataclass(frozen=True)
class Fitted:
    """One benchmark: the rows it stands on, and what was found. `reason`: why it is not used."""

    benchmark: str
    used: tuple[Row, ...]
    left_out: tuple[LeftOutRow, ...]
    fit: CriticalFit | None
    held_out: Floats  # |predicted / measured - 1| of each batch left out
    reason: str | None


def read_rows(data: Path) -> dict[str, list[Row]]:
    """The rows of each benchmark by its name. Raises BadInputError for a file that is missing or not as expected."""
    path = data / "mlperf-rcp" / "reference_convergence.csv"
    found: dict[str, list[Row]] = {}
    for record in read_records(path):
        try:
            row = Row(
                record["round"], record["benchmark"], int(record["global_batch"]), int(record["runs"]),
                float(record["mean_to_converge"]) if record["mean_to_converge"] else None,
                float(record["std_to_converge"] or 0),
            )  # fmt: skip
            version(row.round)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"{path} has not the expected columns ({error}): fetch the file again") from error
        if not row.possible:
            raise BadInputError(f"{path} has a row that cannot be, {row}: fetch the file again")
        found.setdefault(row.benchmark, []).append(row)
    if not found:
        raise BadInputError(f"{path} has no rows: fetch the file again")
    return found


def choose_rows(rows: list[Row]) -> tuple[tuple[Row, ...], tuple[LeftOutRow, ...]]:
    """The rows of one benchmark that ROW_RULES keep, by batch, and the others with their reasons."""
    faults = {id(row): row.fault for row in rows}
    sound = [row for row in rows if faults[id(row)] is None]
    counts = Counter(row.round for row in sound)
    newest = max(counts, key=lambda name: (counts[name], version(name)), default=None)
    left_out = [
        LeftOutRow(row.global_batch, row.round, faults[id(row)] or f"of round {row.round}, not {newest}")
        for row in rows
        if faults[id(row)] or row.round != newest
    ]
    return tuple(sorted((r for r in sound if r.round == newest), key=lambda r: r.global_batch)), tuple(left_out)


def version(name: str) -> tuple[int, ...]:
    """A round as numbers, so that 10.0.0 is newer than 9.0.0."""
    return tuple(int(part) for part in name.split("."))


def points(rows: tuple[Row, ...]) -> tuple[Floats, Floats]:
    """Global batches and means to converge."""
    return np.array([row.global_batch for row in rows], float), np.array([row.mean for row in rows], float)


def held_out_errors(batches: Floats, samples: Floats) -> Floats:
    """|predicted / measured - 1| of each batch by a fit to the others; inf where those determine none."""
    errors = []
    for i in range(len(batches)):
        others = np.arange(len(batches)) != i
        try:
            fit = fit_critical_batch(batches[others], samples[others])
        except BadInputError:
            errors.append(np.inf)
            continue
        errors.append(abs(float(fit.samples(batches[i : i + 1])[0]) / samples[i] - 1))
    return np.array(errors)


def fit_benchmark(name: str, rows: list[Row]) -> Fitted:
    """Fit one benchmark, and say by BENCHMARK_RULES why it is not used where it is not."""
    used, left_out = choose_rows(rows)
    found = Fitted(name, used, left_out, None, np.array([]), None)
    if len(used) < LEAST_BATCHES:
        return replace(found, reason=f"{len(used)} fit rows of one round, {LEAST_BATCHES} are needed")
    batches, samples = points(used)
    try:
        fit = fit_critical_batch(batches, samples)
    except BadInputError as error:
        return replace(found, reason=str(error).split(", so")[0])
    found = replace(found, fit=fit, held_out=held_out_errors(batches, samples))
    return replace(found, reason=_objection(found, fit, batches))


def _objection(found: Fitted, fit: CriticalFit, batches: Floats) -> str | None:
    """The first of the rules that a fit breaks; None: it keeps all."""
    span, reach = batches.max() / batches.min(), batches.max() / fit.critical_batch
    missed = float(np.median(found.held_out))
    if span < LEAST_SPAN:
        return f"its batches span a factor of {span:.2g}, {LEAST_SPAN:g} is needed"
    if reach < LEAST_REACH:
        return f"its largest batch is {reach:.2f} of the critical one, {LEAST_REACH:g} is needed"
    low, high = fit.interval
    if not (low > 0 and math.isfinite(high)):
        return f"the interval has no bound, a factor of {WIDEST:g} is allowed"
    if high > WIDEST * low:
        return f"the interval spans a factor of {high / low:.2g}, {WIDEST:g} is allowed"
    if missed > MOST_HELD_OUT:
        return f"a batch left out is missed by {percent(missed)} (median), {percent(MOST_HELD_OUT)} is allowed"
    return None


def fit_all(rows: dict[str, list[Row]]) -> list[Fitted]:
    """Every benchmark by name; one whose used rows are those of a newer round of another is referred to that."""
    found = [fit_benchmark(name, rows[name]) for name in sorted(rows)]
    return [replace(one, reason=reason) if (reason := _same_as(one, found)) else one for one in found]


def _same_as(one: Fitted, others: list[Fitted]) -> str | None:
    values = [(row.global_batch, row.mean, row.deviation) for row in one.used]
    for other in others:
        same = values and values == [(row.global_batch, row.mean, row.deviation) for row in other.used]
        if same and version(other.used[0].round) > version(one.used[0].round):
            return f"the same rows as {other.benchmark}"
    return None


def shipped(found: list[Fitted]) -> FittedBatches:
    """The content of the shipped file. Raises BadInputError for a benchmark that this module knows nothing of."""
    unknown = [one.benchmark for one in found if one.reason is None and one.benchmark not in BENCHMARKS]
    if unknown:
        raise BadInputError(f"nothing is known of {', '.join(unknown)}: name task and unit in {__name__}.BENCHMARKS")
    return FittedBatches(
        schema_version=SCHEMA_VERSION,
        origin=ORIGIN,
        form="samples to target E(B) = least_samples (1 + B / critical_batch)",
        interval_level=LEVEL,
        interval_method=METHOD,
        row_rules=ROW_RULES,
        benchmark_rules=BENCHMARK_RULES,
        benchmarks=tuple(_record(one, one.fit) for one in found if one.reason is None and one.fit is not None),
        not_used=tuple(UnusedBenchmark(one.benchmark, one.reason) for one in found if one.reason is not None),
    )  # fmt: skip


def _record(one: Fitted, fit: CriticalFit) -> FittedBatch:
    about = BENCHMARKS[one.benchmark]
    return FittedBatch(
        benchmark=one.benchmark,
        task=about.task,
        title=about.title,
        unit=about.unit,
        sample_tokens=about.sample_tokens,
        critical_batch=significant(fit.critical_batch),
        interval=(significant(fit.interval[0], 3), significant(fit.interval[1], 3)),
        least_samples=significant(fit.least_samples),
        least_samples_unit=about.converged_unit,
        points=len(one.used),
        batches=(one.used[0].global_batch, one.used[-1].global_batch),
        rounds=tuple(sorted({row.round for row in one.used})),
        median_error=significant(fit.median_error, 3),
        largest_error=significant(fit.largest_error, 3),
        held_out_median_error=significant(float(np.median(one.held_out)), 3),
        held_out_largest_error=significant(float(one.held_out.max()), 3),
        left_out=one.left_out,
        note=about.note,
    )


def table(found: list[Fitted]) -> str:
    """Every benchmark in a line, the used ones first."""
    lines = [_line(one) for one in sorted(found, key=lambda one: one.reason is not None)]
    titles = ("benchmark", "rows", "batches", "critical batch", f"{percent(LEVEL)} interval", "error median, largest",
              "left out: median, largest", "used")  # fmt: skip
    return str(tabulate(lines, titles, disable_numparse=True))


def _line(one: Fitted) -> tuple[str, ...]:
    rows = f"{len(one.used)} of {len(one.used) + len(one.left_out)}"
    sizes = f"{one.used[0].global_batch:,} to {one.used[-1].global_batch:,}" if one.used else ""
    used = "yes" if one.reason is None else f"no: {one.reason}"
    if one.fit is None:
        return one.benchmark, rows, sizes, "", "", "", "", used
    return (
        one.benchmark, rows, sizes, *fit_cells(one.fit),
        f"{percent(one.fit.median_error, 1)}, {percent(one.fit.largest_error, 1)}",
        f"{percent(float(np.median(one.held_out)), 1)}, {percent(float(one.held_out.max()), 1)}", used,
    )  # fmt: skip


def fit_cells(fit: CriticalFit) -> tuple[str, str]:
    """A critical batch and its interval as a table prints them."""
    ends = (rate(significant(end, 3)) if 0 < end < math.inf else "no bound" for end in fit.interval)
    return rate(significant(fit.critical_batch)), " to ".join(ends)


def main(argv: list[str] | None = None) -> int:
    """Fit critical batches to MLPerf's reference convergence points, print all, write those that are determined."""
    parser = argparse.ArgumentParser(prog="python -m bench critical-batch", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the public data")
    parser.add_argument("--output", type=Path, default=SHIPPED, metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(argv)
    found = fit_all(read_rows(options.data))
    print(table(found))
    for one in found:
        for row in one.left_out:
            print(f"left out: {one.benchmark} at {row.global_batch:,} of round {row.round}: {row.reason}")
    content = msgspec.json.format(msgspec.json.encode(shipped(found)), indent=1) + b"\n"
    write_atomically(options.output, content)
    print(f"wrote {options.output}")
    return 0
