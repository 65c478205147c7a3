"""The tables of a sweep: its teeth and their causes, classes of sizes, measured drops and points beside the line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.report.records import Cell, Column, Origin, Table
from advisor.report.subject import Subject
from advisor.report.sweeps import (
    LEAST_CLASSED,
    LONGEST_STEP,
    MEASURED_DROP,
    Points,
    Sweep,
    measured_loss,
    product_origin,
    standings,
)
from advisor.report.teeth import Tooth
from advisor.units import duration, percent

SHOWN = 15  # rows of a table that the page prints

Found = tuple[Sweep, tuple[Tooth, ...], tuple[Points, ...]]  # a line, its teeth, and what was measured on it


def named(sweep: Sweep) -> str:
    """What is swept, and what stands still: "M at N = 12288, K = 4096"."""
    return f"{sweep.label.split(' (')[0]} at {sweep.fixed}"


def _origins(found: Sequence[Found]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(each.source.origin for _, _, points in found for each in points))


def _share(value: Cell) -> str:
    return percent(float(value or 0), 1)


def _time(value: Cell) -> str:
    return duration(float(value or 0))


def _table(
    id_: str, title: str, columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]], origins: tuple[Origin, ...],
    shown: int | None = SHOWN,
) -> Table:  # fmt: skip
    """A table without the columns of which nothing is known."""
    known = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    kept = tuple(tuple(row[i] for i in known) for row in rows)
    return Table(id_, title, tuple(columns[i] for i in known), kept, origins, shown)


def teeth_table(subject: Subject, found: Sequence[Found]) -> Table:
    """Every tooth and its cause, the deepest first."""
    columns = (
        Column("sweep", "sweep"),
        Column("size_before", "size before"),
        Column("size_after", "size after"),
        Column("predicted_loss", "predicted loss", _share, "share of the throughput"),
        Column("measured_loss", "measured loss", _share, "between the same two sizes, where both were measured"),
        Column(
            "kind", "kind", None, "wave: a further wave; tiles: more tiles in the same waves; neighbours: a correction"
        ),
        Column("cause", "cause"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            named(sweep), tooth.under, tooth.over, tooth.loss, measured_loss(points, tooth.under, tooth.over),
            tooth.cause, tooth.reason,
        )
        for sweep, its, points in found
        for tooth in its
    ]  # fmt: skip
    rows.sort(key=lambda row: -float(row[3] or 0))
    origins = (product_origin(subject), *_origins(found))
    return _table("teeth", "Every cliff and its cause, the deepest first", columns, rows, origins)


def classes_table(subject: Subject, found: Sequence[Found]) -> Table:
    """How powers of two, multiples of 64 and of 8, and sizes just under a cliff stand."""
    columns = (
        Column("sweep", "sweep"),
        Column("sizes", "sizes"),
        Column("count", "how many"),
        Column(
            "median_share",
            "median share",
            _share,
            "of the best throughput at sizes an eighth smaller to an eighth larger",
        ),
        Column("worst_share", "worst share", _share),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (named(sweep), each.name, each.count, each.median, each.worst)
        for sweep, its, _ in found
        if sweep.label[0] in "MN"  # numbers of samples are too few to have classes
        for each in standings(sweep, np.array([tooth.under for tooth in its], dtype=np.int64))
    )
    title = f"Are powers of two special? Predicted throughput of sizes from {LEAST_CLASSED} on, by their class"
    return _table("classes-of-sizes", title, columns, rows, (product_origin(subject),), shown=None)


def steps_table(found: Sequence[Found]) -> Table:
    """Drops that were measured or predicted between neighbouring measured sizes."""
    columns = (
        Column("sweep", "sweep"),
        Column("source", "measured by"),
        Column("size_before", "size before"),
        Column("size_after", "size after"),
        Column("measured_loss", "measured loss", _share),
        Column("predicted_loss", "predicted loss", _share),
        Column("agree", "agree", None, f"both lose {percent(MEASURED_DROP)} or more, or neither does"),
    )
    rows: list[tuple[Cell, ...]] = [
        (named(sweep), each.name, step.before, step.after, step.measured_loss, step.predicted_loss,
         "yes" if step.agrees else "no")
        for sweep, _, points in found
        for each in points
        for step in each.steps
        if max(step.measured_loss, step.predicted_loss) >= MEASURED_DROP
    ]  # fmt: skip
    rows.sort(key=lambda row: -max(float(row[4] or 0), float(row[5] or 0)))
    title = f"Drops of {percent(MEASURED_DROP)} or more between measured sizes at most {LONGEST_STEP} apart"
    return _table("measured-drops", title, columns, rows, _origins(found))


def points_table(found: Sequence[Found]) -> Table:
    """Every measured point with its prediction."""
    columns = (
        Column("sweep", "sweep"),
        Column("source", "measured by"),
        Column("size", "size"),
        Column("time_s", "time", _time, "median where there are several samples"),
        Column("low_s", "lower quartile", _time),
        Column("high_s", "upper quartile", _time),
        Column("predicted_s", "predicted", _time),
        Column("off", "off", _share, "predicted over measured time, less one"),
        Column("fitted", "in the fit", None, "whether the coefficients were fitted to this row too"),
        Column("kernel", "kernel"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            named(sweep), each.name, int(each.sizes[i]), float(each.time_s[i]), _known(each.low_s[i]),
            _known(each.high_s[i]), float(each.predicted_s[i]), float(each.off[i]),
            "yes" if each.source.fitted else "no", each.kernel[i] or None,
        )
        for sweep, _, points in found
        for each in points
        for i in range(len(each.sizes))
    )  # fmt: skip
    return _table("measured-points", "Measured products beside their predictions", columns, rows, _origins(found))


def _known(value: float) -> float | None:
    """The value, or None where it is NaN."""
    return None if np.isnan(value) else float(value)
