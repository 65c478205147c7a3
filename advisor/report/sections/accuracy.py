"""Section: predicted against measured, for what no fit has seen and for what this report's reader has measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.profile import Error, GemmModel
from advisor.recommendation import Recommendation
from advisor.report.held_out import HeldOutProducts, HeldOutSteps, load_held_out
from advisor.report.records import NOT_MEANT, Cell, Column, Origin, Section, Table
from advisor.report.sections.accuracy_figures import borrowed_figure, density_figures, spoken, steps_figure
from advisor.report.sections.accuracy_measured import NAMES, Compared, by_name, compared_products, rows_figures
from advisor.report.subject import Floats, MeasuredSteps, Subject
from advisor.units import percent

_LEAD = (
    "A prediction is worth what its error says. Errors are |predicted / measured - 1| of the time; where not said "
    "otherwise, of products that the fit had not seen when they were predicted."
)


def section(subject: Subject) -> Section:
    """What the errors are of, with the densities that are shipped and the rows that were measured."""
    compared, notes = compared_products(subject)
    figures = rows_figures(compared)
    tables = [_kinds_table(subject, compared)]
    for layout, steps in _shipped_steps(subject).items():
        figures.append(steps_figure(layout, steps, subject.gpu.name))
    profile = subject.profiles.gemm
    if profile.borrowed_from:
        figures.append(borrowed_figure(subject))
        notes.append(
            f"No product of {subject.gpu.name} in FP16 or BF16 has been published that this project could fit: its "
            f"times come from the coefficients of {profile.borrowed_from} and its own facts. Rows of "
            f"{profile.borrowed_from} would say nothing about borrowing them, so none are drawn."
        )
    shipped = _shipped(subject)
    for precision, products in shipped.items():
        figures += density_figures(precision, products, subject.gpu.name)
        tables.append(_sizes_table(precision, products, subject.gpu.name))
        notes += _beside(products, subject.gpu.name)
    if not compared:
        notes.append("No measured product is at hand: `advisor bench` on this GPU adds its rows here.")
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


def _shipped_steps(subject: Subject) -> dict[str, HeldOutSteps]:
    """Counts of training steps, by layout, where the step coefficients in use are those that were judged."""
    steps = subject.profiles.steps
    found = load_held_out(subject.gpu.id)
    return dict(found.steps) if found is not None and steps.gpu == subject.gpu.id and not steps.measured else {}


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


# Tables --------------------------------------------------------------------------------------------------------------


def _kinds_table(subject: Subject, compared: Sequence[Compared]) -> Table:
    """What is predicted, and how wrong it was where that could be checked."""
    rows: list[tuple[Cell, ...]] = []
    profile = subject.profiles.gemm
    for precision, gemm in sorted(profile.gemm.items()):
        error, how = _known_error(subject, precision, gemm)
        figures = (error.mean, error.median, error.p90, error.rows) if error else (None, None, None, None)
        rows.append((f"{NAMES[precision]} products", *figures, how))
    for name, groups in by_name(compared).items():
        off = np.abs(np.concatenate([each.off for each in groups]))
        how = f"the measured rows of this report, which the fit has {'' if groups[0].rows.fitted else 'not '}seen"
        rows.append((f"measured products: {name}", *_figures(off), how))
    for model in subject.models[:1]:
        e = model.answer.error
        rows.append(
            ("samples/s of training steps", e.mean_abs_log, None, e.p90_abs_log, None, f"{e.origin}; of the logarithm")
        )
    steps = _compared_steps(subject)
    for measured, model, off in steps:
        how = f"the measured rows of this report: {measured.recipe}; predicted: {model.answer.recipe}"
        rows.append((f"steps of {model.answer.model.title}", *_figures(off), how))
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
        origins=tuple(dict.fromkeys((
            subject.gemm_origin(),
            *(each.rows.origin for each in compared),
            *(measured.origin for measured, _, _ in steps),
        ))),
    )  # fmt: skip


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


def _compared_steps(subject: Subject) -> list[tuple[MeasuredSteps, Recommendation, Floats]]:
    """Measured steps of the report's models, each with the model and how far off its curve is at their batch sizes."""
    found = []
    for steps in subject.measured.steps:
        model = next((each for each in subject.models if each.answer.model.name == steps.model), None)
        if model is None:
            continue
        batch = np.asarray(steps.batch)
        inside = batch <= len(model.curve.batches)
        if inside.any():
            predicted = np.array(model.curve.time_s)[batch[inside] - 1]
            found.append((steps, model, np.abs(predicted / np.asarray(steps.time_s)[inside] - 1)))
    return found


def _figures(off: Floats) -> tuple[Cell, ...]:
    """Mean, median and ninth decile of errors, and their number; of a single one no quantiles are meant."""
    if len(off) == 1:
        return float(off[0]), NOT_MEANT, NOT_MEANT, 1
    return float(off.mean()), float(np.median(off)), float(np.quantile(off, 0.9)), len(off)


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
                 Origin("estimate", f"predicted by fits of {found.fitted} without these rows; {spoken(found.error)}")),
    )  # fmt: skip


# Words ---------------------------------------------------------------------------------------------------------------


def _share(value: float) -> str:
    return percent(value, 1)


def _count(value: int) -> str:
    return f"{value:,}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"
