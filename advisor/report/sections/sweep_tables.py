"""The tables of a sweep: its teeth and their causes, classes of sizes, measured drops and points beside the line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.report.records import NOT_MEANT, Cell, Column, Origin, Table
from advisor.report.subject import Subject
from advisor.report.sweeps import (
    AROUND,
    DROP,
    LONGEST_STEP,
    NEAR,
    SEEN,
    Points,
    Sweep,
    measured_around,
    powers_of_two,
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


def _share(value: float) -> str:
    return percent(round(value, 3) + 0.0, 1)  # never "-0.0 %"


def teeth_table(subject: Subject, found: Sequence[Found]) -> Table:
    """Every tooth and its cause, the deepest first."""
    columns = (
        Column("sweep", "sweep"),
        Column("size_before", "from"),
        Column("size_after", "to"),
        Column("predicted_loss", "predicted loss", _share, "share of the throughput"),
        Column("measured_loss", "measured loss", _share, "between the nearest measured sizes around it, "
               f"{percent(AROUND)} apart at most"),
        Column("cause", "cause"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            named(sweep), tooth.under, tooth.over, tooth.loss,
            None if (seen := measured_around(points, tooth.under, tooth.over)) is None else seen.measured_loss,
            tooth.reason,
        )
        for sweep, its, points in found
        for tooth in its
    ]  # fmt: skip
    rows.sort(key=lambda row: -float(row[3] or 0))
    origins = (subject.gemm_origin(), *_origins(found))
    return Table("teeth", "Every cliff and its cause, the deepest first", columns, tuple(rows), origins, SHOWN)


def powers_table(subject: Subject, found: Sequence[Found]) -> Table:
    """Every power of two beside the sizes around it."""
    share = "of the best throughput there"
    columns = (
        Column("sweep", "sweep"),
        Column("power_of_two", "power of two"),
        Column("share", "its share", _share, share),
        Column("best_size", "best size there"),
        Column("multiples_of_64", "multiples of 64", _share, f"median of the others, {share}"),
        Column("every_size", "every size", _share, f"median, {share}"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            named(sweep),
            each.size,
            each.share,
            each.best,
            NOT_MEANT if np.isnan(each.multiples) else each.multiples,
            each.all,
        )
        for sweep, _, _ in found
        if sweep.label[0] in "MN"  # numbers of samples are too few
        for each in powers_of_two(sweep)
    )
    title = f"Are powers of two special? Each beside the sizes up to {percent(NEAR, 1)} smaller or larger, predicted"
    return Table("powers-of-two", title, columns, rows, (subject.gemm_origin(),))


def steps_table(found: Sequence[Found]) -> Table:
    """Drops that were measured or predicted between neighbouring measured sizes."""
    columns = (
        Column("sweep", "sweep"),
        Column("source", "measured by"),
        Column("size_before", "from"),
        Column("size_after", "to"),
        Column("measured_loss", "measured loss", _share),
        Column("predicted_loss", "predicted loss", _share),
        Column("agree", "agree", None, f"the other is {percent(SEEN)} or more too"),
    )
    rows: list[tuple[Cell, ...]] = [
        (named(sweep), each.name, step.before, step.after, step.measured_loss, step.predicted_loss,
         "yes" if step.agrees else "no")
        for sweep, _, points in found
        for each in points
        for step in each.steps
        if step.measured or step.predicted
    ]  # fmt: skip
    rows.sort(key=lambda row: -max(float(row[4] or 0), float(row[5] or 0)))
    title = f"Drops of {percent(DROP)} or more, measured or predicted, between sizes at most {LONGEST_STEP} apart"
    return Table("measured-drops", title, columns, tuple(rows), _origins(found), SHOWN)


def points_table(found: Sequence[Found]) -> Table:
    """Every measured point with its prediction, those that it misses most first."""
    columns = (
        Column("sweep", "sweep"),
        Column("source", "measured by"),
        Column("size", "size"),
        Column("time_s", "time", duration, "median where there are several samples"),
        Column(
            "low_s",
            "spread from",
            duration,
            "quartiles where measured here; of a public measurement what its source says",
        ),
        Column("high_s", "spread to", duration),
        Column("predicted_s", "predicted", duration),
        Column("off", "off", _share, "predicted over measured time, less one"),
        Column("fitted", "in the fit", None, "whether the coefficients were fitted to this row too"),
        Column("kernel", "kernel"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            named(sweep), each.name, int(each.sizes[i]), float(each.time_s[i]), _known(each.low_s[i]),
            _known(each.high_s[i]), float(each.predicted_s[i]), float(each.off[i]),
            "yes" if each.source.fitted else "no", each.kernel[i] or None,
        )
        for sweep, _, points in found
        for each in points
        for i in range(len(each.sizes))
    ]  # fmt: skip
    rows.sort(key=lambda row: -abs(float(row[7] or 0)))
    title = "Measured products beside their predictions, the farthest off first"
    return Table("measured-points", title, columns, tuple(rows), _origins(found), SHOWN)


def _known(value: float) -> float | None:
    """The value, or None where it is NaN."""
    return None if np.isnan(value) else float(value)
