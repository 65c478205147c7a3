"""Figures of held-out errors, from the counts that are shipped and from the profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advisor.profile import FOLDER, Error, read_profile, shipped_profiles
from advisor.report.held_out import HeldOutProducts, HeldOutSteps, SizeClass
from advisor.report.records import Figure, Origin
from advisor.report.sections.accuracy_measured import NAMES
from advisor.report.subject import Subject
from advisor.units import counted, duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


def spoken(error: Error) -> str:
    """Mean, median and ninth decile of an error, in words."""
    return (
        f"{percent(error.mean, 1)} off in the mean, {percent(error.median, 1)} in the median, more than "
        f"{percent(error.p90, 1)} in one of ten"
    )


def steps_figure(layout: str, found: HeldOutSteps, gpu: str) -> Figure:
    """Predicted over measured time of steps of one layout."""
    error, times = found.error, found.times

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_ratios

        draw_ratios(figure.subplots(), times, narrow=narrow)

    return Figure(
        id=f"accuracy-steps-{layout}",
        title=f"How far are predicted training steps from measured ones ({layout.upper()})?",
        answer=(
            f"{spoken(error)}, over {counted(error.rows, 'model')} on {gpu} that the fit had not seen; "
            f"{percent(found.within[0])} are within 10 %."
        ),
        alt=(
            f"{counted(error.rows, 'training step')}: predicted over measured time, from 0.5 to 2, against the "
            f"measured time from {duration(times.low)} to {duration(times.high)}, with lines at 1 and 10 and 20 % off; "
            f"{percent(found.within[0])} lie within the lines of 10 %."
        ),
        origins=(Origin("public measurement", found.origin),
                 Origin("estimate", f"predicted by the fit to other models ({error.what}); {spoken(error)}",
                        f"predicted by the fit to other models; {percent(error.mean, 1)} off in the mean")),
        draw=draw,
    )  # fmt: skip


def density_figures(precision: str, found: HeldOutProducts, gpu: str) -> list[Figure]:
    """Predicted against measured rates of the judged products, and the ratio of all of them by their time."""
    name, error = NAMES[precision], found.error
    origin = (
        Origin("public measurement", found.origin),
        Origin(
            "estimate",
            f"predicted by fits of {found.fitted} without these rows ({error.what}); {spoken(error)}",
            f"predicted by fits without these rows; {percent(error.mean, 1)} off in the mean",
        ),
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
                f"{spoken(error)}, over {error.rows:,} products on {gpu} that the fit had not "
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


def borrowed_figure(subject: Subject) -> Figure:
    """How wrong every GPU with timings would be without them; this report's donor is named."""
    errors = _borrowed_errors()
    donor, error = subject.profiles.gemm.borrowed_from, subject.profiles.gemm.error
    least, most = (pick(errors.values(), key=lambda each: each.mean).mean for pick in (min, max))
    was = (
        f"which was itself {percent(error.mean)} off when predicted so"
        if subject.profiles.gemm.borrowing_checked
        else f"and what that costs could not be checked: {percent(error.mean)} is the error on {donor} itself"
    )

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
            f"mean. {subject.gpu.name} has the coefficients of {donor}, {was}."
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
