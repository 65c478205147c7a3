"""Section: predicted against measured, for what no fit has seen and for what this report's reader has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError
from advisor.gemm import GemmPrediction, gemm_time
from advisor.profile import FOLDER, Error, GemmModel, read_profile, shipped_profiles
from advisor.report.held_out import HeldOutProducts, SizeClass, load_held_out
from advisor.report.records import Cell, Column, Fact, Figure, Interactive, Origin, Section, Series, Table, Tone
from advisor.report.subject import MeasuredProducts, Subject
from advisor.units import counted, duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Floats = NDArray[np.float64]

MOST_ROWS = 4000  # single rows drawn; the page holds them twice
NAMES = {"fp16": "FP16", "bf16": "BF16", "fp32": "FP32", "tf32": "TF32"}
_TONES: tuple[Tone, ...] = ("blue", "orange", "purple", "vermilion", "sky", "grey", "ink")
_SYMBOLS = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "x")
_LEAD = (
    "A prediction is worth what its error says. Errors are |predicted / measured - 1| of the time; where not said "
    "otherwise, of products that the fit had not seen when they were predicted."
)


@dataclass(frozen=True)
class Compared:
    """One group of measured products beside their predictions."""

    rows: MeasuredProducts
    predicted: GemmPrediction

    @property
    def name(self) -> str:
        """As the legend has it."""
        seen = "fitted" if self.rows.fitted else "not fitted"
        caches = f", {self.rows.mode}" if self.rows.mode else ""
        return f"{NAMES.get(self.rows.precision, self.rows.precision)}{caches}, {seen}"

    @property
    def measured_per_s(self) -> Floats:
        """Measured FLOP/s."""
        return np.asarray(self.predicted.flops / self.rows.time_s)

    @property
    def predicted_per_s(self) -> Floats:
        """Predicted FLOP/s."""
        return np.asarray(self.predicted.flops / self.predicted.time_s)

    @property
    def off(self) -> Floats:
        """predicted / measured time - 1."""
        return np.asarray(self.predicted.time_s / self.rows.time_s - 1)


def section(subject: Subject) -> Section:
    """What the errors are of, with the densities that are shipped and the rows that were measured."""
    compared, notes = _compared(subject)
    figures = _rows_figures(compared)
    tables = [_kinds_table(subject, compared)]
    profile = subject.profiles.gemm
    if profile.borrowed_from:
        figures.append(_borrowed_figure(subject))
        notes.append(
            f"No product of {subject.gpu.name} in FP16 or BF16 has been published that this project could fit: its "
            f"times come from the coefficients of {profile.borrowed_from} and its own facts. Held-out rows of "
            f"{profile.borrowed_from} would say nothing of that step, so none are drawn."
        )
    shipped = _shipped(subject)
    for precision, products in shipped.items():
        figures += _density_figures(precision, products, subject.gpu.name)
        tables.append(_sizes_table(precision, products, subject.gpu.name))
        notes += _beside(products, subject.gpu.name)
    if not compared:
        notes.append("No measured product is at hand: `advisor bench` on this GPU adds its rows to this picture.")
    return Section("accuracy", "How wrong the predictions are", _LEAD, tuple(figures), tuple(tables), tuple(notes))


# What was counted and shipped ----------------------------------------------------------------------------------------


def _shipped(subject: Subject) -> dict[str, HeldOutProducts]:
    """Counts that are of the coefficients in use: not those of another fit, of this very card for instance."""
    found = load_held_out(subject.gpu.id)
    if found is None:
        return {}
    models = subject.profiles.gemm.gemm
    return {
        precision: products
        for precision, products in found.products.items()
        if (model := models.get(precision)) is not None
        and (model.gpu, model.fitted, model.kind) == (products.coefficients_of, products.fitted, "public")
    }


def _density_figures(precision: str, found: HeldOutProducts, gpu: str) -> list[Figure]:
    name, error = NAMES[precision], found.error
    origin = (
        Origin("public measurement", found.origin),
        Origin("estimate", f"predicted by fits of {found.fitted} without these rows ({error.what}); {_spoken(error)}"),
    )
    rates, times = found.rates, found.times
    total = int(times.counts().sum())
    within, _ = found.within

    def draw_rates(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_density

        draw_density(figure.subplots(), rates, narrow=narrow)

    def draw_times(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_ratios

        draw_ratios(figure.subplots(), times, narrow=narrow)

    by_time = [each for each in found.classes if each.by == "time"]
    worst, best = (pick(by_time, key=lambda each: each.mean) for pick in (max, min))
    rest = [each for each in found.classes if each.by == "unjudged"]
    others = f" Of the products that the profile's error leaves out, {_worst_of(rest)}." if rest else ""
    return [
        Figure(
            id=f"accuracy-{precision}",
            title=f"How far are predicted {name} products from measured ones?",
            answer=(
                f"{_capital(_spoken(error))}, over {error.rows:,} products on {gpu} that the fit had not "
                f"seen; {percent(within)} are within 10 %."
            ),
            alt=(
                f"Density of {counted(error.rows, 'matrix product')}: predicted against measured TFLOP/s, both "
                f"logarithmic from {rates.low / 1e12:.3g} to {rates.high / 1e12:.3g}, around the line on which both "
                f"are equal, with dashed lines 10 % and dotted lines 20 % off; {percent(within)} of the products lie "
                "within the dashed lines."
            ),
            origins=origin,
            draw=draw_rates,
        ),
        Figure(
            id=f"accuracy-{precision}-size",
            title=f"Which {name} products are predicted worst?",
            answer=(
                f"Those that take {worst.name}: {percent(worst.mean, 1)} off in the mean, against "
                f"{percent(best.mean, 1)} of those that take {best.name}.{others}"
            ),
            alt=(
                f"Density of {counted(total, 'matrix product')}: predicted over measured time, from 0.5 to 2, against "
                f"the measured time from {duration(times.low)} to {duration(times.high)}, with lines at 1 and 10 and "
                "20 % off."
            ),
            origins=origin,
            draw=draw_times,
        ),
    ]


def _worst_of(classes: Sequence[SizeClass]) -> str:
    worst = max(classes, key=lambda each: each.mean)
    return f"those with {worst.name} are {percent(worst.mean, 1)} off"


def _beside(found: HeldOutProducts, gpu: str) -> list[str]:
    """What an error is to be held against: simpler models, and the spread between measurements."""
    notes = []
    if found.rivals:
        others = ", ".join(f"{_rival(name)} {percent(error.mean, 1)}" for name, error in found.rivals.items())
        notes.append(f"The same rows by simpler models, held out alike, in the mean: {others}.")
    if found.repeats_mean is not None:
        notes.append(
            f"The same products on {gpu} differ by {percent(found.repeats_mean, 1)} in the mean from one "
            "version of the measuring software to another: a prediction nearer to one of them tells noise."
        )
    return notes


def _rival(name: str) -> str:
    return {
        "roofline": "a roofline with three fitted constants",
        "lookup": "a log-linear lookup in the measured neighbours",
        "physical form alone": "our physical form without its local correction",
    }.get(name, name)


# What was measured ---------------------------------------------------------------------------------------------------


def _compared(subject: Subject) -> tuple[list[Compared], list[str]]:
    """Products that a library ran beside their predictions, and notes on what is left out."""
    notes, found = [], []
    groups = [each for each in subject.measured.products if each.library == "cublas" and len(each.m)]
    others = sum(len(each.m) for each in subject.measured.products if each.library != "cublas")
    if others:
        notes.append(
            f"{counted(others, 'product')} of other libraries than cuBLAS not compared: the predictions are of cuBLAS."
        )
    total = sum(len(each.m) for each in groups)
    every = -(-total // MOST_ROWS)
    if every > 1:
        notes.append(
            f"{total:,} products were measured; one in {every} is compared and drawn here, evenly over their order."
        )
    for rows in groups:
        chosen = _every(rows, every)
        try:
            predicted = gemm_time(
                subject.profiles.gemm, subject.gpu, chosen.m, chosen.n, chosen.k, precision=chosen.precision
            )
        except BadInputError as error:
            notes.append(
                f"{counted(len(chosen.m), 'measured product')} in {chosen.precision} without a prediction: {error}."
            )
            continue
        found.append(Compared(chosen, predicted))
    return found, notes


def _every(rows: MeasuredProducts, step: int) -> MeasuredProducts:
    if step <= 1:
        return rows
    arrays = {name: getattr(rows, name)[::step] for name in ("m", "n", "k", "time_s", "low_s", "high_s")}
    return replace(rows, kernel=rows.kernel[::step], **arrays)


def _rows_figures(compared: Sequence[Compared]) -> list[Figure]:
    """The measured rows themselves; none where nothing was measured."""
    if not compared:
        return []
    named = _named(compared)
    off = np.abs(np.concatenate([each.off for each in compared]))
    rates = np.concatenate([rate for each in compared for rate in (each.measured_per_s, each.predicted_per_s)]) / 1e12
    origins = tuple(dict.fromkeys(each.rows.origin for each in compared))

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import Rows, draw_rows

        groups = [Rows(name, each.measured_per_s, each.predicted_per_s) for name, each in named.items()]
        draw_rows(figure.subplots(), groups, narrow=narrow)

    return [
        Figure(
            id="accuracy-measured",
            title="How far are the products measured here from their predictions?",
            answer=(
                f"{percent(float(off.mean()), 1)} in the mean and {percent(float(np.median(off)), 1)} in the median, "
                f"over {counted(len(off), 'product')}. {_seen(compared)}"
            ),
            alt=(
                f"{counted(len(off), 'point')}: predicted against measured TFLOP/s, both logarithmic from "
                f"{rates.min():.3g} to {rates.max():.3g}, around the line on which both are equal; "
                f"{percent(float((off <= 0.1).mean()))} of them are within 10 %."
            ),
            origins=(*origins, Origin("estimate", "predicted by the profile in use; the difference is its error")),
            draw=draw,
            narrow_inches=(3.9, 5.2),
            interactive=_interactive(named),
        )
    ]


def _seen(compared: Sequence[Compared]) -> str:
    """Whether the fit has seen the rows, in a sentence."""
    unseen = [np.abs(each.off) for each in compared if not each.rows.fitted]
    if len(unseen) in (0, len(compared)):
        return f"The fit has seen {'none' if unseen else 'all'} of them."
    fresh = np.concatenate(unseen)
    return f"Of the {len(fresh):,} that the fit has not seen the mean is {percent(float(fresh.mean()), 1)}."


def _named(compared: Sequence[Compared]) -> dict[str, Compared]:
    """By name in the legend; those of one name are told apart by what their origin begins with, then by a number."""
    found: dict[str, Compared] = {}
    for each in compared:
        name = each.name
        if name in found:
            name = next(f"{name} ({i})" for i in range(2, len(compared) + 2) if f"{name} ({i})" not in found)
        found[name] = each
    return found


def _interactive(named: Mapping[str, Compared]) -> Interactive:
    points = [
        _series(name, each, _TONES[i % len(_TONES)], _SYMBOLS[i % len(_SYMBOLS)])
        for i, (name, each) in enumerate(named.items())
    ]
    ends = [float(end) for end in (min(min(s.x) for s in points), max(max(s.x) for s in points))]
    equal = Series("equal", "line", "grey", tuple(ends), tuple(ends), ())
    return Interactive((*points, equal), "measured (TFLOP/s)", "predicted (TFLOP/s)", x_log2=True, y_log=True,
                       y_from_zero=False)  # fmt: skip


def _series(name: str, each: Compared, tone: Tone, symbol: str) -> Series:
    rows, predicted = each.rows, each.predicted
    facts = [
        Fact("M", tuple(rows.m.tolist())),
        Fact("N", tuple(rows.n.tolist())),
        Fact("K", tuple(rows.k.tolist())),
        Fact("measured", tuple(round(t, 2) for t in (1e6 * rows.time_s).tolist()), "us"),
        Fact("predicted", tuple(round(t, 2) for t in (1e6 * predicted.time_s).tolist()), "us"),
        Fact("off", tuple(round(t, 1) for t in (100 * each.off).tolist()), "%"),
        Fact("tile", tuple(f"{a}x{b}" for a, b in zip(predicted.tile_m, predicted.tile_n, strict=True))),
        Fact("waves", tuple(round(w, 2) for w in predicted.waves.tolist())),
    ]
    if any(rows.kernel):
        facts.append(Fact("kernel", tuple(kernel or None for kernel in rows.kernel)))
    x, y = (tuple(round(v, 3) for v in (rate / 1e12).tolist()) for rate in (each.measured_per_s, each.predicted_per_s))
    return Series(name, "points", tone, x, y, tuple(facts), symbol=symbol)


# Tables --------------------------------------------------------------------------------------------------------------


def _kinds_table(subject: Subject, compared: Sequence[Compared]) -> Table:
    """What is predicted, and how wrong it was where that could be checked."""
    rows: list[tuple[Cell, ...]] = []
    profile = subject.profiles.gemm
    for precision, gemm in sorted(profile.gemm.items()):
        error, how = _known_error(subject, precision, gemm)
        figures = (error.mean, error.median, error.p90, error.rows) if error else (None, None, None, None)
        rows.append((f"{NAMES[precision]} products", *figures, how))
    for each in compared:
        off = np.abs(each.off)
        mean, median, p90 = float(off.mean()), float(np.median(off)), float(np.quantile(off, 0.9))
        rows.append((f"products measured here: {each.name}", mean, median, p90, len(off), each.rows.origin.text))
    for model in subject.models[:1]:
        e = model.answer.error
        rows.append(("samples/s of training steps", e.mean_abs_log, None, e.p90_abs_log, None, e.origin))
    rows += _steps(subject)
    return Table(
        id="accuracy-kinds",
        title="What is predicted, and how wrong it was",
        columns=(
            Column("what", "Predicted"),
            Column("mean_error", "Mean error", _share, "mean of |predicted / measured - 1|"),
            Column("median_error", "Median", _share),
            Column("p90_error", "One in ten over", _share, "nine in ten errors are below"),
            Column("rows", "Rows", _count),
            Column("how", "How that is known"),
        ),
        rows=tuple(rows),
        origins=(subject.gemm_origin(), *dict.fromkeys(each.rows.origin for each in compared)),
    )


def _known_error(subject: Subject, precision: str, model: GemmModel) -> tuple[Error | None, str]:
    """The error on this very GPU where there is one, else of borrowing where that was tried; and how it is known."""
    shipped = _shipped(subject).get(precision)
    if shipped is not None:
        whose = "" if model.gpu == subject.gpu.id else f"coefficients of {model.gpu} and this GPU's facts; "
        return shipped.error, whose + shipped.error.what
    if model.gpu == subject.gpu.id:
        return model.held_out, model.held_out.what
    if model.borrowed is not None:
        return model.borrowed, f"coefficients of {model.gpu}, which was predicted so: {model.borrowed.what}"
    return None, (
        f"coefficients of {model.gpu} and this GPU's facts; not checked on any GPU like this one "
        f"({model.gpu} itself: {percent(model.held_out.mean, 1)} in the mean)"
    )


def _steps(subject: Subject) -> list[tuple[Cell, ...]]:
    """Measured steps of the report's models beside their curves."""
    rows: list[tuple[Cell, ...]] = []
    for steps in subject.measured.steps:
        model = next((each for each in subject.models if each.answer.model.name == steps.model), None)
        if model is None:
            continue
        batch = np.asarray(steps.batch)
        inside = batch <= len(model.curve.batches)
        if not inside.any():
            continue
        off = np.abs(np.array(model.curve.time_s)[batch[inside] - 1] / np.asarray(steps.time_s)[inside] - 1)
        figures = (float(off.mean()), float(np.median(off)), float(np.quantile(off, 0.9)))
        how = f"{steps.origin.text}; measured with {steps.recipe}, predicted with {model.answer.recipe}"
        rows.append((f"steps of {model.answer.model.title}", *figures, len(off), how))
    return rows


def _sizes_table(precision: str, found: HeldOutProducts, gpu: str) -> Table:
    kinds = {"time": "measured time", "m": "rows of the product", "unjudged": "not in the profile's error"}
    return Table(
        id=f"accuracy-{precision}-classes",
        title=f"Error of {NAMES[precision]} products by size, {gpu}",
        columns=(
            Column("by", "By"),
            Column("class", "Products"),
            Column("rows", "Rows", _count),
            Column("mean_error", "Mean error", _share),
            Column("median_error", "Median", _share),
            Column("p90_error", "One in ten over", _share),
            Column("ratio_p5", "5 % below", _ratio, "predicted / measured time that one product in twenty is below"),
            Column("ratio_median", "Half below", _ratio),
            Column("ratio_p95", "5 % above", _ratio, "predicted / measured time that one product in twenty is above"),
        ),
        rows=tuple(
            (kinds[each.by], each.name, each.rows, each.mean, each.median, each.p90, *each.ratios[::2])
            for each in found.classes
        ),
        origins=(Origin("public measurement", found.origin),
                 Origin("estimate", f"predicted by fits of {found.fitted} without these rows; {_spoken(found.error)}")),
    )  # fmt: skip


# A GPU without timings -----------------------------------------------------------------------------------------------


def _borrowed_figure(subject: Subject) -> Figure:
    """How wrong every GPU with timings would be without them; this report's donor is named."""
    errors = _borrowed_errors()
    donor, error = subject.profiles.gemm.borrowed_from, subject.profiles.gemm.error
    least, most = (pick(errors.values(), key=lambda each: each.mean).mean for pick in (min, max))

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_errors

        found = {name: {"borrowed": borrowed, "own timings": own_errors[name]} for name, borrowed in errors.items()}
        draw_errors(figure.subplots(), found, narrow=narrow)

    own_errors = {name: read_profile(FOLDER / f"{name}.json").gemm["fp16"].held_out for name in errors}
    return Figure(
        id="accuracy-borrowed",
        title=f"How wrong are products on a GPU without timings, such as {subject.gpu.name}?",
        answer=(
            f"Each GPU with timings, predicted as if it had none, was {percent(least)} to {percent(most)} off in the "
            f"mean; {donor}, whose coefficients stand for {subject.gpu.name}, {percent(error.mean)}."
        ),
        alt=(
            f"A row of dots for each of {len(errors)} GPUs: the mean error of its products from its own timings, and "
            f"from the coefficients of the nearest other GPU, which is {percent(least)} to {percent(most)}."
        ),
        origins=(
            subject.gemm_origin(),
            Origin("public measurement", "; ".join(dict.fromkeys(
                read_profile(FOLDER / f"{name}.json").gemm["fp16"].origin for name in errors
            ))),
        ),
        draw=draw,
        inches=(7.4, 3.6),
        narrow_inches=(3.9, 3.8),
    )  # fmt: skip


def _borrowed_errors() -> dict[str, Error]:
    """Error of each GPU with FP16 timings as if it had none, by its id."""
    models = {name: read_profile(FOLDER / f"{name}.json").gemm.get("fp16") for name in shipped_profiles()}
    return {name: model.borrowed for name, model in models.items() if model is not None and model.borrowed is not None}


# Words ---------------------------------------------------------------------------------------------------------------


def _spoken(error: Error) -> str:
    return (
        f"{percent(error.mean, 1)} off in the mean, {percent(error.median, 1)} in the median, more than "
        f"{percent(error.p90, 1)} in one of ten"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share(value: Cell) -> str:
    return percent(float(value), 1)  # type: ignore[arg-type]  # of a known value


def _count(value: Cell) -> str:
    return f"{value:,}"


def _ratio(value: Cell) -> str:
    return f"{value:.2f}"
