"""Critical batches and time to target, held against MLPerf's reference convergence points and the traces of Zeus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advisor.choice import Floats
from advisor.cut import LeastTimes
from advisor.planning.critical_batch import LEVEL, CriticalFit, fit_critical_batch
from advisor.planning.records import CriticalBatch, CriticalValue, Target
from advisor.planning.sources import MLPERF_RCP
from advisor.planning.target import StepLine, find_target, fit_step_line
from advisor.units import percent, rate
from bench.accuracy.calibration import table
from bench.critical_batch import (
    BENCHMARK_RULES,
    ROW_RULES,
    Fitted,
    fit_all,
    fit_cells,
    held_out_errors,
    points,
    read_rows,
)
from bench.gemm_data import read_records

IMAGES = 50_000  # of CIFAR-100's training set
POWER_LIMIT_W = 250
ACCURACIES = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65)  # below, few whole epochs; above, no batch at which every run got there
ZEUS = "ml-energy/zeus, commit 75a8b93, Apache-2.0"
ERRORS = ("median", "largest", "left out", "left out, largest")
Epochs = dict[float, dict[int, float]]  # target -> batch -> mean epochs to it, where every run reached it


def section(data: Path) -> str:
    """The report's part on critical batches, as Markdown."""
    found = fit_all(read_rows(data))
    return "\n\n".join([
        "## Critical batches and time to target",
        "Samples to target over the global batch, E(B) = E_min (1 + B / B_crit), held against public training runs. "
        "Errors in per cent. Median and largest are of points that are in the fit, left out is the median of points "
        "that are not: each batch in turn, from a fit to the others.",
        *benchmarks_part(found),
        *trace_part(data),
        *speech_part(data),
    ])  # fmt: skip


# MLPerf ---------------------------------------------------------------------------------------------------------------


def benchmarks_part(found: Sequence[Fitted]) -> Iterator[str]:
    """What is shipped, and what is not."""
    used = [one for one in found if one.reason is None]
    noise = [100 * float(np.median([r.deviation / (r.mean or 1) / r.runs**0.5 for r in one.used])) for one in used]
    moved = max(abs(moved_by_logarithms(one)) for one in used)
    ends = f"{percent(LEVEL)} interval"
    yield "### Critical batches from MLPerf's reference points"
    yield (
        f"{MLPERF_RCP}, Apache-2.0: a point is the mean of many runs, with settings tuned for its batch. "
        f"Rows: {'; '.join(ROW_RULES)}. Benchmarks: {'; '.join(BENCHMARK_RULES)}."
    )
    yield table(["benchmark", "points", "batches", "critical batch", ends, *ERRORS], [_benchmark(one) for one in used])
    yield (
        f"Runs repeat better than the form fits: the standard error of a point is {min(noise):.1f} to "
        f"{max(noise):.1f} % (median of a benchmark). So what a fit misses is the form and the tuning, and points "
        f"count the same. Least squares of logarithms would move no critical batch by more than {percent(moved, 1)}. "
        "The intervals take misses as "
        "independent of each other; where neighbours miss alike, as for bert, they are too narrow. They hold for the "
        "benchmark's model, target and optimizer alone: for ImageNet McCandlish et al. 2018 give 15,000, and a "
        "plan computes with both."
    )
    yield "The limits are chosen, not derived; gpt3 just misses one."
    yield "Benchmarks not used:"
    yield table(
        ["benchmark", "points", "batches", "critical batch", ends, "why not"],
        [[*_benchmark(one)[:5], one.reason or ""] for one in found if one.reason is not None],
    )


def moved_by_logarithms(one: Fitted) -> float:
    """How far the critical batch moves, as a share of it, where the squares of ln(fitted / measured) are least."""
    from scipy.optimize import least_squares

    assert one.fit is not None
    batches, means = points(one.used)
    start = np.log([one.fit.least_samples, one.fit.critical_batch])
    found = least_squares(lambda x: x[0] + np.log1p(batches / np.exp(x[1])) - np.log(means), start)
    return float(np.exp(found.x[1])) / one.fit.critical_batch - 1


def _benchmark(one: Fitted) -> list[str]:
    sizes = f"{one.used[0].global_batch:,} to {one.used[-1].global_batch:,}" if one.used else ""
    start = [one.benchmark, str(len(one.used)), sizes]
    return [*start, *([""] * 6 if one.fit is None else [*fit_cells(one.fit), *_errors(one.fit, one.held_out)])]


def _errors(fit: CriticalFit, held_out: Floats) -> list[str]:
    shares = (fit.median_error, fit.largest_error, float(np.median(held_out)), float(held_out.max()))
    return [f"{100 * share:.1f}" for share in shares]


# The traces of Zeus ---------------------------------------------------------------------------------------------------


def read_epochs(data: Path, network: str, optimizer: str) -> Epochs:
    """Mean epochs to each target by batch, rising, where every run reached it."""
    runs: dict[tuple[float, int], list[float]] = defaultdict(list)
    for row in read_records(data / "zeus" / "epochs_to_target.csv"):
        if (row["network"], row["optimizer"]) == (network, optimizer):
            runs[float(row["target_metric"]), int(row["batch_size"])].append(float(row["target_epoch"]))
    found: Epochs = defaultdict(dict)
    for (target, batch), epochs in sorted(runs.items()):
        if np.isfinite(epochs).all():
            found[target][batch] = float(np.mean(epochs))
    return dict(found)


def read_epoch_times(data: Path) -> dict[int, float]:
    """Seconds per epoch of ShuffleNetV2 on CIFAR-100 by batch, rising."""
    return dict(
        sorted(
            (int(row["batch_size"]), float(row["time_per_epoch"]))
            for row in read_records(data / "zeus" / "time_and_power_v100.csv")
            if (row["optimizer"], float(row["power_limit"])) == ("adadelta", POWER_LIMIT_W)
        )
    )


def line_of(epoch_s: dict[int, float]) -> StepLine:
    """t0 + t1 B of a step, fitted to the seconds per epoch."""
    return fit_step_line(list(epoch_s), [seconds * batch / IMAGES for batch, seconds in epoch_s.items()])


def picked(line: StepLine, epochs: dict[int, float], critical: float) -> Target:
    """The plan's answer among the measured batches, from t0, t1 and the critical batch alone."""
    shares, largest = np.arange(1, max(epochs) + 1), max(epochs)
    there = np.isin(shares, list(epochs))
    times = LeastTimes(np.where(there, line.t0_s + line.t1_s * shares, np.inf), np.where(there, shares, 0))
    value = CriticalValue("trace", "a trace", critical, "images", "given", "as fitted", None, None, None)
    return find_target(
        lambda gpus: times, gpus=1, asked=largest, known_at=largest,
        critical=CriticalBatch(critical, critical, "images", "a trace", (value,), None),
        curve=(shares, line.t0_s + line.t1_s * shares), known_samples=IMAGES * epochs[largest],
    )  # fmt: skip


def batches_of(epochs: dict[int, float], *, least: int = 0) -> tuple[Floats, Floats]:
    """Batches from `least` on, and their epochs."""
    used = [batch for batch in epochs if batch >= least]
    return np.array(used, float), np.array([epochs[batch] for batch in used])


def fewest_at(epochs: dict[int, float]) -> int:
    """The batch that needs the fewest epochs."""
    return min(epochs, key=lambda batch: epochs[batch])


@dataclass(frozen=True)
class Pick:
    """What one fit to one target of the trace chooses. A regret is the share of the least time that is lost."""

    accuracy: float
    least: int  # smallest batch of the fit
    fit: CriticalFit
    best: int
    ours: int
    regret: float
    measured_regret: float  # with the measured epochs in place of the line
    left_out_regret: float  # the largest with one batch left out of the fit
    fastest: int  # the batch with the fastest epoch
    fastest_regret: float
    largest: int
    largest_regret: float

    @property
    def regrets(self) -> tuple[float, ...]:
        """Of every choice, in the order of the table."""
        return self.regret, self.measured_regret, self.left_out_regret, self.fastest_regret, self.largest_regret


def pick(accuracy: float, epochs: dict[int, float], epoch_s: dict[int, float], *, least: int) -> Pick:
    """Choose by a fit to the batches from `least` on, among all that reached the target."""
    line = line_of(epoch_s)
    to_target_s = {batch: epochs[batch] * epoch_s[batch] for batch in epochs}
    best, fastest, largest = (
        min(epochs, key=lambda b: to_target_s[b]),
        min(epochs, key=lambda b: epoch_s[b]),
        max(epochs),
    )

    def regret(batch: int) -> float:
        return to_target_s[batch] / to_target_s[best] - 1

    sizes, measured = batches_of(epochs, least=least)
    fit = fit_critical_batch(sizes, measured)
    ours = picked(line, epochs, fit.critical_batch).best[0]
    without = [np.delete(np.arange(len(sizes)), i) for i in range(len(sizes))]
    others = [fit_critical_batch(sizes[kept], measured[kept]).critical_batch for kept in without]
    return Pick(
        accuracy, int(sizes[0]), fit, best, ours, regret(ours),
        regret(min(epochs, key=lambda b: float(fit.samples(np.array(b))) * epoch_s[b])),
        max(regret(picked(line, epochs, critical).best[0]) for critical in others), fastest, regret(fastest),
        largest, regret(largest),
    )  # fmt: skip


def picks(data: Path) -> Iterator[Pick]:
    """Of every target two: fitted to all batches, and to those from the one with the fewest epochs on."""
    epoch_s, epochs = read_epoch_times(data), read_epochs(data, "shufflenetv2", "adadelta")
    for accuracy in ACCURACIES:
        for least in (0, fewest_at(epochs[accuracy])):
            yield pick(accuracy, epochs[accuracy], epoch_s, least=least)


def trace_part(data: Path) -> Iterator[str]:
    """The best batch of a trace, as found from three numbers."""
    epoch_s, found = read_epoch_times(data), list(picks(data))
    line = line_of(epoch_s)
    sizes = np.array(list(epoch_s))
    fitted = IMAGES / sizes * (line.t0_s + line.t1_s * sizes)
    off = fitted / np.array(list(epoch_s.values())) - 1
    lost = list(zip(*(each.regrets for each in found), strict=True))
    ours, exact, others, fastest, largest = (f"{100 * min(each):.0f} to {percent(max(each))}" for each in lost)
    yield "### The best batch of a public trace"
    yield (
        f"{ZEUS}: ShuffleNetV2 on CIFAR-100, a V100 at {POWER_LIMIT_W} W, Adadelta at one rate for all batches; mean "
        "epochs of batches at which every run reached the target. The choice among them rests on three fitted numbers, "
        "t0 and t1 of a step and B_crit, and regret is the time to target that it loses, in per cent of the least. The "
        "form only rises, and at this rate the smallest batches need more epochs than the next ones: each target has a "
        "row with all batches in the fit and one with those from the fewest epochs on."
    )
    yield table(
        ["accuracy", "fitted from", "critical batch", "median", "best", "ours", "regret", "with measured epochs",
         "one left out, largest", "most throughput", "its regret", "largest batch", "regret of it"],
        [_pick(each) for each in found],
    )  # fmt: skip
    yield (
        f"Ours loses {ours}, the batch with the fastest epoch {fastest}, the largest {largest}. With the measured "
        f"epochs in place of the line the choice loses {exact}: where ours loses less than that, errors of the line "
        f"and of the form cancel. With any one batch left out of the fit ours loses {others}: at 65 %, with four to "
        "six points, one of them decides."
    )
    yield (
        f"A step as a line, {1000 * line.t0_s:.1f} ms + {1e6 * line.t1_s:.0f} us per image, is off by "
        f"{percent(float(np.median(np.abs(off))))} in the median of the measured epochs: a step takes nearly as long "
        "at 8 as at 128 images, and a line cannot bend so. A plan searches the predicted curve and shows the line "
        "beside it."
    )
    yield "Seconds per epoch, measured and by the line:"
    yield table(
        ["batch", "epoch (s)", "line (s)", "error"],
        [[f"{batch:,}", f"{seconds:.1f}", f"{ours_s:.1f}", f"{100 * error:+.0f}"]
         for (batch, seconds), ours_s, error in zip(epoch_s.items(), fitted, off, strict=True)],
    )  # fmt: skip


def _pick(each: Pick) -> list[str]:
    ours, exact, others, fastest, largest = (f"{100 * regret:.0f}" for regret in each.regrets)
    return [
        percent(each.accuracy), str(each.least), rate(each.fit.critical_batch), f"{100 * each.fit.median_error:.1f}",
        str(each.best), str(each.ours), ours, exact, others, f"{each.fastest:,}", fastest, f"{each.largest:,}", largest,
    ]  # fmt: skip


def speech_part(data: Path) -> Iterator[str]:
    """The form alone, on runs of which no times are known."""
    rows = []
    for target, epochs in read_epochs(data, "deepspeech2", "adamw").items():
        sizes, measured = batches_of(epochs, least=fewest_at(epochs))
        fit = fit_critical_batch(sizes, measured)
        rows.append([
            f"{target:.0f} %", str(len(sizes)), f"{sizes[0]:.0f} to {sizes[-1]:.0f}",
            f"{measured.min():.1f} to {measured.max():.1f}", *fit_cells(fit),
            *_errors(fit, held_out_errors(sizes, measured)),
        ])  # fmt: skip
    yield "### Epochs to a word error rate"
    yield (
        f"{ZEUS}: DeepSpeech2 on LibriSpeech, AdamW, its rate scaled with the square root of the batch, two to five "
        "runs at each; batches from the fewest epochs on. The form holds. Epochs are whole numbers: where one or two "
        "suffice, the largest misses are their rounding."
    )
    yield table(
        ["word error rate", "points", "batches", "epochs", "critical batch", f"{percent(LEVEL)} interval", *ERRORS],
        rows,
    )
