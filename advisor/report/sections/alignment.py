"""Tensor Core alignment: throughput at every K, N and M around one product, and what each alignment leaves of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advisor.alignment import BATCH_NOTE, OLD_LIBRARIES_NOTE
from advisor.errors import BadInputError
from advisor.gemm import runs_on_tensor_cores
from advisor.report.records import Cell, Column, Figure, Interactive, Origin, Section, Table
from advisor.report.sections.alignment_series import interactive_series
from advisor.report.strips import ALIGNMENTS, ELEMENT_BYTES, GROUPS, LEAST_M, Strip, measured_shares, odd_rows, strip
from advisor.report.subject import Floats, Integers, ProductError, Subject
from advisor.report.sweeps import Axis
from advisor.units import counted, percent, rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from advisor.plots.alignment import AlignmentPicture

SAME_LEVEL = 0.01  # a smaller difference between two lines would not be seen
SHARES_NOTE = (
    "What unaligned rows leave of the Tensor Cores' rate was taken from sweeps over these very sizes on an A100 "
    "(EleutherAI cookbook) and is assumed of every other GPU: their points, where shown, are no test of it. The error "
    "is that of aligned products."
)
_TITLES: dict[Axis, str] = {
    "k": "Must K, the contraction, be a multiple of 8",
    "n": "Must N, the output features, be a multiple of 8",
    "m": "Must M, where the batch is, be a multiple of 8",
}


def section(subject: Subject) -> Section:
    """Three figures, of K, N and M, and a table by alignment; without Tensor Cores the section says that alone."""
    title, gpu = "Tensor Core alignment: sizes around a multiple of 8", subject.gpu
    if not runs_on_tensor_cores(gpu, "fp16"):
        unknown = gpu.tensor_cores_per_sm is None and gpu.compute_capability >= (7, 0)
        why = "Whether it has Tensor Cores is unknown" if unknown else "It has no Tensor Cores"
        return Section(
            "alignment", title, f"{gpu.name}: {why[0].lower()}{why[1:]} for FP16, so nothing is predicted to depend on "
            "alignment: a size that is no multiple of 8 costs tiles and waves at most.",
        )  # fmt: skip
    lead = (
        "Tensor Cores are fed by loads of 16 bytes, so each row of an operand should start on a multiple of 16 bytes: "
        "of 8 elements in FP16 or BF16. Rows run along each operand's contiguous dimension, K and N of a linear layer, "
        f"C and K of an NHWC convolution. {BATCH_NOTE}"
    )
    try:
        strips = tuple(strip(subject, axis) for axis in ("k", "n", "m"))
    except BadInputError as error:
        return Section("alignment", title, lead, notes=(f"No throughput can be predicted here: {error}",))
    odd = odd_rows(subject.measured.products)
    return Section(
        id="alignment",
        title=title,
        lead=lead,
        figures=tuple(_figure(subject, each, odd) for each in strips),
        tables=(_table(subject, strips),),
        notes=(SHARES_NOTE, OLD_LIBRARIES_NOTE),
    )


# Figures -------------------------------------------------------------------------------------------------------------


def _figure(subject: Subject, shown: Strip, odd: tuple[int, float] | None) -> Figure:
    sweep, error = shown.sweep, subject.product_error()

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.alignment import draw_alignment

        draw_alignment(figure, _picture(shown, error), narrow)

    answer = _answer_rows(shown, odd) if shown.axis == "m" else _answer_contiguous(shown)
    seen = sum(len(each.sizes) for each in shown.points)
    beside = f", and {counted(seen, 'measured point')}" if seen else ""
    return Figure(
        id=sweep.id,
        title=f"{_TITLES[shown.axis]}, at {sweep.fixed}?",
        answer=answer,
        alt=(
            f"Predicted throughput at every {sweep.label} from {sweep.sizes[0]} to {sweep.sizes[-1]}"
            f"{beside}, marked by the largest power of two that divides {sweep.label} x 2 bytes: {_alt_levels(shown)}."
        ),
        origins=(subject.gemm_origin(), *_origins((shown,))),
        draw=draw,
        inches=(7.4, 3.9),
        narrow_inches=(3.9, 4.6),
        interactive=Interactive(interactive_series(shown), x_title=sweep.label, y_title="TFLOP/s"),
    )


def _answer_contiguous(shown: Strip) -> str:
    name, shares = shown.sweep.label, shown.shares()
    measured = max((measured_shares(each) for each in shown.points), key=len, default={})

    def said(alignment: int) -> str:
        beside = f" (measured: {percent(measured[alignment][1])})" if alignment in measured else ""
        return f"{percent(shares[alignment][1])}{beside}"

    return (
        f"Yes: of the rate at multiples of 64, {said(2)} is left at an odd {name}, {said(4)} at an even one, and "
        f"{said(16)} at a multiple of 8."
    )


def _answer_rows(shown: Strip, odd: tuple[int, float] | None) -> str:
    shares = shown.shares()
    text = f"No. {BATCH_NOTE} An odd M is predicted to have {percent(shares[2][1])} of the rate of multiples of 64"
    if odd is None:
        return f"{text}."
    pairs = f"{counted(odd[0], 'pair')} of M and M + 1, M even and at least {LEAST_M}"
    return f"{text}; measured, the odd row more takes {odd[1]:.2f} times as long in the median of {pairs}."


def _alt_levels(shown: Strip) -> str:
    return ", ".join(
        f"{rate(float(np.median(shown.sweep.flops_per_s[at])) / 1e12)} TFLOP/s at {name}"
        for name, at in zip(GROUPS, shown.levels, strict=True)
    )


def _picture(shown: Strip, error: ProductError) -> AlignmentPicture:
    from advisor.plots.alignment import AlignmentPicture, Marked

    predicted = shown.sweep.flops_per_s / 1e12
    marked = [
        Marked(name, each.name, each.sizes[at], (each.flops / each.time_s)[at] / 1e12)
        for each in shown.points
        for name, at in shown.grouped(each)
    ]
    if not shown.dense:
        marked += [
            Marked(name, "", shown.sweep.sizes[at], predicted[at])
            for name, at in zip(GROUPS, shown.levels, strict=True)
        ]
    levels = [(shown.sweep.sizes[at], predicted[at]) for at in _merged(shown.levels, predicted)]
    name = shown.sweep.label + (" (no row runs along M)" if shown.axis == "m" else "")
    return AlignmentPicture(levels, error.error.mean, error.label, name, marked)


def _merged(levels: Sequence[Integers], rates: Floats) -> list[Integers]:
    """The same with neighbours joined whose median rates are one, as far as a picture can show."""
    found = list(levels[:1])
    for at in levels[1:]:
        if abs(np.median(rates[at]) / np.median(rates[found[-1]]) - 1) < SAME_LEVEL:
            found[-1] = np.union1d(found[-1], at)
        else:
            found.append(at)
    return found


# Table ---------------------------------------------------------------------------------------------------------------


def _table(subject: Subject, strips: Sequence[Strip]) -> Table:
    columns = (
        Column("dimension", "dimension"),
        Column("alignment_bytes", "rows aligned to (bytes)", None, "largest power of two that divides size x 2 bytes"),
        Column("sizes", "sizes"),
        Column("predicted_count", "how many"),
        Column("predicted_share", "predicted share", _percent, "of the rate at multiples of 64 (128 bytes), medians"),
        Column("measured_share", "measured share", _percent),
        Column("measured_count", "measured sizes"),
        Column("source", "measured by"),
    )
    rows: list[tuple[Cell, ...]] = []
    for shown in strips:
        for alignment, (count, share) in shown.shares().items():
            elements = alignment // ELEMENT_BYTES
            sizes = "odd" if elements == 1 else f"multiples of {elements}"
            if 1 < elements < ALIGNMENTS[-1] // ELEMENT_BYTES:
                sizes += f", not of {2 * elements}"
            beside: list[tuple[Cell, ...]] = [
                (found[alignment][1], found[alignment][0], each.name)
                for each in shown.points
                if alignment in (found := measured_shares(each))
            ]
            unknown: tuple[Cell, ...] = (None, None, None)
            rows += [(shown.sweep.label, alignment, sizes, count, share, *seen) for seen in beside or (unknown,)]
    origins = (subject.gemm_origin(), *_origins(strips))
    return Table("alignment", "What each alignment leaves of the aligned rate", columns, tuple(rows), origins)


def _percent(value: float) -> str:
    return percent(value, 1)


def _origins(strips: Sequence[Strip]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(each.source.origin for shown in strips for each in shown.points))
