"""Section `layers`: what one sample more costs, layer by layer, at the recommended batch and at a cliff near it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from advisor.plots.canvas import BLUE, GREY, VERMILION
from advisor.recommendation import Recommendation
from advisor.report.layer_looks import operation, tile_text
from advisor.report.one_more import OneMore, Pair, one_more, signed, verdict
from advisor.report.records import NOT_MEANT, Cell, Column, Figure, Origin, Section, Table
from advisor.report.sections.batch import step_origin
from advisor.report.subject import Subject
from advisor.units import duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_CHANGING, _HEAVY = 5, 3  # rows of a figure: what changes most, and what weighs most besides
_SHOWN = 15
_NARROW_LINE = 50  # characters
_UNDER_A_CLIFF = "just under a cliff"


def section(subject: Subject) -> Section | None:
    """For each model a figure and a table at the recommended size; the same at the deepest cliff near it."""
    if not subject.models:
        return None
    figures, tables = [], []
    for name, found in subject.named_models():
        origin = step_origin(found)
        for id_, batch in _sizes(name, found):
            step = one_more(found, batch)
            figures.append(_figure(id_, found, step, origin))
            tables.append(_table(id_, found, step, origin))
    return Section(
        id="layers",
        title="One sample more, layer by layer",
        lead=(
            "A sample more adds its own work to every layer; where it needs another wave of tiles, or other tiles "
            "become the cheaper ones (or the same turned round, 128x256 for 256x128), it costs more or less than that. "
            "Times are those of a whole step: a layer's calls with those of the layers like it (and 4 more, or +4); "
            "what only moves data is summed up by class."
        ),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _sizes(name: str, found: Recommendation) -> list[tuple[str, int]]:
    """(id, B): the recommended size, and the one just under the deepest cliff near it."""
    cliffs = [c.prediction.batch for c in found.answer.candidates if _UNDER_A_CLIFF in c.roles]
    return [
        (f"layers-{name}", found.batch_size),
        *((f"layers-{name}-cliff", batch) for batch in cliffs if batch != found.batch_size),
    ]


def _figure(id_: str, found: Recommendation, step: OneMore, origin: Origin) -> Figure:
    rows = step.chosen(_CHANGING, _HEAVY)
    title = found.answer.model.title
    at_cliff = (
        "the deepest cliff near the recommended size" if step.batch != found.batch_size else "the recommended size"
    )
    unfit = f" {step.batch + 1} samples are predicted not to fit." if step.fits is False else ""
    return Figure(
        id=id_,
        title=f"What does one sample more than {step.batch} cost each layer of {title}?",
        answer=f"At {at_cliff}: {verdict(step)}{unfit}",
        alt=(
            f"{len(rows)} rows, a layer each, with two markers joined by a line: milliseconds per step at batch "
            f"{step.batch} and at {step.batch + 1}, on a logarithmic axis. From the longest: "
            f"{'; '.join(_row_words(pair) for pair in rows[:5])}."
        ),
        origins=(origin,),
        draw=partial(_draw, rows=rows, batch=step.batch),
        inches=(7.4, 1.1 + 0.38 * len(rows)),
        narrow_inches=(3.9, 1.2 + 0.54 * len(rows)),
    )


def _row_words(pair: Pair) -> str:
    cause = f", {pair.cause}" if pair.cause else ""
    return f"{operation(pair.before, 60)} {duration(pair.before.time_s)}, {signed(pair.change_s)}{cause}"


def _draw(figure: MatplotlibFigure, narrow: bool, *, rows: Sequence[Pair], batch: int) -> None:
    axes = figure.subplots()
    label_at, across = (0.42, "center") if narrow else (0.4, "center_baseline")
    for row, pair in enumerate(rows):
        before, after = 1e3 * pair.before.time_s, 1e3 * pair.after.time_s
        axes.plot([before, after], [row, row], color=GREY, linewidth=2, zorder=2)
        axes.plot(before, row, "o", color=BLUE, markersize=8, zorder=3)
        axes.plot(after, row, "D", markerfacecolor="none", markeredgecolor=VERMILION, markeredgewidth=1.6, markersize=7,
                  zorder=4)  # fmt: skip
        name, change = operation(pair.before, 44), _change(pair, narrow)
        lines = f"{name}\n{change}" if narrow else name
        axes.annotate(lines, (0, row - label_at), xycoords=("axes fraction", "data"), xytext=(4, 0), fontsize=9,
                      textcoords="offset points", va=across, linespacing=1.05)  # fmt: skip
        if not narrow:
            axes.annotate(change, (1, row - label_at), xycoords=("axes fraction", "data"), ha="right", fontsize=9,
                          va=across, color=VERMILION if pair.cause else GREY)  # fmt: skip
        axes.axhline(row + 0.3, color=GREY, linewidth=0.4, alpha=0.4)
    times = [1e3 * layer.time_s for pair in rows for layer in (pair.before, pair.after)]
    axes.set(xscale="log", xlim=(min(times) / 1.25, max(times) * 1.25), ylim=(len(rows) - 0.7, -1.0), yticks=[])
    axes.set_xticks(_ticks(min(times) / 1.25, max(times) * 1.25, most=6 if narrow else 9))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.tick_params(labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("ms per step (predicted), logarithmic")
    handles = [axes.lines[1], axes.lines[2]]
    figure.legend(handles, [f"at batch {batch}", f"at {batch + 1}"], loc="outside upper left", ncols=2, fontsize=9,
                  frameon=False, handletextpad=0.2)  # fmt: skip


def _change(pair: Pair, narrow: bool) -> str:
    """The change, as a share too, and its cause; on phones without the share where there is no room for all."""
    share = pair.change_s / pair.before.time_s if pair.before.time_s else 0.0
    change, cause = signed(pair.change_s), f": {pair.cause}" if pair.cause else ""
    text = f"{change} ({100 * share:+.1f} %){cause}"
    return text if not narrow or len(text) <= _NARROW_LINE else f"{change}{cause}"


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers within a logarithmic axis, as many as `most` allows."""
    ticks: list[float] = []
    for digits in ((1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [d * 10.0**e for e in range(-7, 8) for d in digits if low <= d * 10.0**e <= high]
        if len(ticks) <= most:
            break
    return ticks


def _table(id_: str, found: Recommendation, step: OneMore, origin: Origin) -> Table:
    before, after = f"at {step.batch}", f"at {step.batch + 1}"
    return Table(
        id=id_,
        title=f"{found.answer.model.title}: a step of {step.batch} samples and one of {step.batch + 1}",
        columns=(
            Column("layer", "layer"),
            Column("operation", "operation"),
            Column("calls", "calls"),
            Column("time_before_s", f"time {before}", duration),
            Column("time_after_s", f"time {after}", duration),
            Column("change_s", "change", signed),
            Column("excess_s", "beyond its share", signed, "change beyond 1/B of the time: what tiles and waves do"),
            Column("tile_before", f"tile {before}"),
            Column("waves_before", f"waves {before}", _waves),
            Column("tile_after", f"tile {after}"),
            Column("waves_after", f"waves {after}", _waves),
            Column("share", "of step", partial(percent, digits=1)),
        ),
        rows=tuple(_cells(pair) for pair in step.by_excess()),
        origins=(origin,),
        shown=_SHOWN,
    )


def _cells(pair: Pair) -> tuple[Cell, ...]:
    before, after = pair.before, pair.after
    return (
        before.layer, before.op, before.count, before.time_s, after.time_s, pair.change_s, pair.excess_s,
        tile_text(before), before.waves if before.tile_m else NOT_MEANT,
        tile_text(after), after.waves if after.tile_m else NOT_MEANT, before.share,
    )  # fmt: skip


def _waves(value: float) -> str:
    return f"{value:.2f}"
