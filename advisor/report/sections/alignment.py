"""Tensor Core alignment: throughput at every K, N and M around one product, and what each alignment leaves of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.alignment import BATCH_NOTE, CACHE_LINE_BYTES, OLD_LIBRARIES_NOTE, alignment_bytes
from advisor.errors import BadInputError
from advisor.gemm import runs_on_tensor_cores
from advisor.report.records import Cell, Column, Fact, Figure, Interactive, Origin, Section, Series, Table, Tone
from advisor.report.subject import Floats, Integers, MeasuredProducts, Subject
from advisor.report.sweeps import (
    Axis,
    Points,
    ProductError,
    Sweep,
    points_on,
    predict_sweep,
    product_error,
    product_origin,
)
from advisor.units import counted, percent, rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from advisor.plots.alignment import AlignmentPicture

ELEMENT_BYTES = 2
# The product around which sizes step by one, a projection to a vocabulary: EleutherAI's sweeps have every K around
# 14336 at N = 51200, and every N around 51200 at K = 14336.
BASE: dict[Axis, int] = {"m": 8192, "n": 51200, "k": 14336}
REACH = 64  # sizes on either side
ALIGNMENTS = (2, 4, 8, 16, 32, 64, 128)  # bytes, to a cache line
GROUPS: dict[str, tuple[int, ...]] = {  # as figures tell them apart
    "2 bytes": (2,), "4 bytes": (4,), "8 bytes": (8,), "16 to 64 bytes": (16, 32, 64), "128 bytes": (128,),
}  # fmt: skip
SAME_LEVEL = 0.01
LEAST_M = 2048  # rows from which one more is hardly more work
_SYMBOLS: dict[str, tuple[Tone, str]] = {
    "2 bytes": ("vermilion", "x"), "4 bytes": ("orange", "triangle-up"), "8 bytes": ("purple", "triangle-down"),
    "16 to 64 bytes": ("sky", "circle"), "128 bytes": ("green", "diamond"), "any": ("ink", "star"),
}  # fmt: skip
SHARES_NOTE = (
    "What unaligned rows leave of the Tensor Cores' rate was taken from these very sweeps on an A100 (EleutherAI "
    "cookbook) and is assumed of every other GPU: points of those sweeps are no test of it. The error is that of "
    "aligned products."
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


# What is shown -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """Products whose one size steps by one; `bytes_` is the alignment of rows of that size, 128 at most."""

    sweep: Sweep
    bytes_: Integers
    points: tuple[Points, ...]

    @property
    def dense(self) -> bool:
        """Whether so many sizes were measured that the measured points show the pattern themselves."""
        return len({size for each in self.points for size in each.sizes.tolist()}) >= REACH

    @property
    def axis(self) -> Axis:
        """The size that steps."""
        return self.sweep.axis

    def shares(self) -> dict[int, tuple[int, float]]:
        """By alignment: how many sizes, and their median predicted rate over that of rows of whole cache lines."""
        return _shares(self.bytes_, self.sweep.flops_per_s)


def strip(subject: Subject, axis: Axis) -> Strip:
    """Predict the strip around BASE along one axis; raises BadInputError where the GPU's facts are missing."""
    sizes = np.arange(BASE[axis] - REACH, BASE[axis] + REACH + 1)
    fixed: dict[str, int] = {name: size for name, size in BASE.items() if name != axis}
    sweep = predict_sweep(subject, axis, sizes, fixed=fixed, id_=f"alignment-{axis}")
    return Strip(sweep, alignment_bytes(sizes, ELEMENT_BYTES), points_on(sweep, subject.measured.products))


def measured_shares(points: Points) -> dict[int, tuple[int, float]]:
    """As `Strip.shares`, of measured rates; empty where no row of whole cache lines was measured."""
    return _shares(alignment_bytes(points.sizes, ELEMENT_BYTES), points.flops / points.time_s)


def _shares(bytes_: Integers, rates: Floats) -> dict[int, tuple[int, float]]:
    best = rates[bytes_ == CACHE_LINE_BYTES]
    if not len(best):
        return {}
    whole = float(np.median(best))
    return {a: (int(at.sum()), float(np.median(rates[at])) / whole) for a in ALIGNMENTS if (at := bytes_ == a).any()}


def odd_rows(products: Sequence[MeasuredProducts]) -> tuple[int, float] | None:
    """Pairs of measured products with M and M + 1 rows, M even and at least LEAST_M, K and N multiples of 8.

    Returns how many pairs there are and the median of the second one's time over the first one's; None without a pair.
    """
    ratios = []
    for each in products:
        if each.precision not in ("fp16", "bf16"):
            continue
        order = np.lexsort((each.m, each.k, each.n))
        m, n, k, time_s = (values[order] for values in (each.m, each.n, each.k, each.time_s))
        pair = (m[1:] == m[:-1] + 1) & (n[1:] == n[:-1]) & (k[1:] == k[:-1])
        pair &= (m[:-1] % 2 == 0) & (m[:-1] >= LEAST_M) & (n[1:] % 8 == 0) & (k[1:] % 8 == 0)
        ratios.append((time_s[1:] / time_s[:-1])[pair])
    found = np.concatenate(ratios) if ratios else np.zeros(0)
    return (len(found), float(np.median(found))) if len(found) else None


# Figures -------------------------------------------------------------------------------------------------------------


def _figure(subject: Subject, shown: Strip, odd: tuple[int, float] | None) -> Figure:
    sweep, error = shown.sweep, product_error(subject)

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
        origins=(product_origin(subject), *_origins((shown,))),
        draw=draw,
        inches=(7.4, 3.9),
        narrow_inches=(3.9, 4.6),
        interactive=Interactive(_series(shown), x_title=sweep.label, y_title="TFLOP/s"),
    )


def _answer_contiguous(shown: Strip) -> str:
    name, shares = shown.sweep.label, shown.shares()
    measured = measured_shares(shown.points[0]) if shown.dense else {}

    def said(alignment: int) -> str:
        beside = f" (measured {percent(measured[alignment][1])})" if alignment in measured else ""
        return f"{percent(shares[alignment][1])}{beside}"

    text = (
        f"Yes: of the rate at multiples of 64, an odd {name} leaves {said(2)}, a multiple of 4 alone {said(8)}; "
        f"a multiple of 8 alone has {said(16)}"
    )
    if 16 in measured and 64 in measured:
        return f"{text}, of 32 {said(64)}."
    return f"{text}."


def _answer_rows(shown: Strip, odd: tuple[int, float] | None) -> str:
    shares = shown.shares()
    text = f"No. {BATCH_NOTE} Predicted, an odd M has {percent(shares[2][1], 1)} of the rate of multiples of 64"
    if odd is None:
        return f"{text}."
    pairs = f"{counted(odd[0], 'pair')} of M and M + 1, M even and at least {LEAST_M}"
    return f"{text}; measured, the odd row more takes x{odd[1]:.2f} the time in the median of {pairs}."


def _alt_levels(shown: Strip) -> str:
    return ", ".join(
        f"{rate(float(np.median(shown.sweep.flops_per_s[at])) / 1e12)} TFLOP/s at {name}"
        for name, at in zip(GROUPS, _levels(shown), strict=True)
    )


def _picture(shown: Strip, error: ProductError) -> AlignmentPicture:
    from advisor.plots.alignment import AlignmentPicture, Marked

    predicted = shown.sweep.flops_per_s / 1e12
    marked = [
        Marked(name, each.name, each.sizes[at], (each.flops / each.time_s)[at] / 1e12)
        for each in shown.points
        for name, at in _grouped(shown, each)
    ]
    if not shown.dense:
        marked += [
            Marked(name, "", shown.sweep.sizes[at], predicted[at])
            for name, at in zip(GROUPS, _levels(shown), strict=True)
        ]
    levels = [(shown.sweep.sizes[at], predicted[at]) for at in _merged(_levels(shown), predicted)]
    name = shown.sweep.label
    meaning = (
        "the alignment of rows of so many elements" if shown.axis != "m" else "as above, though no row runs along M"
    )
    return AlignmentPicture(levels, error.error.mean, error.label, f"{name} (marks: {meaning})", marked)


def _levels(shown: Strip) -> list[Integers]:
    """Indices of the sizes of each alignment, the least aligned (every second size) first."""
    return [at for group in GROUPS.values() if (at := np.flatnonzero(np.isin(shown.bytes_, group))).size]


def _merged(levels: Sequence[Integers], rates: Floats) -> list[Integers]:
    """The same with neighbours joined whose median rates are one, as far as a picture can show."""
    found = list(levels[:1])
    for at in levels[1:]:
        if abs(np.median(rates[at]) / np.median(rates[found[-1]]) - 1) < SAME_LEVEL:
            found[-1] = np.union1d(found[-1], at)
        else:
            found.append(at)
    return found


def _grouped(shown: Strip, each: Points) -> list[tuple[str, Integers]]:
    """Which measured points to mark alike: those of one alignment, or all where they are few."""
    if not shown.dense:
        return [("any", np.arange(len(each.sizes)))]
    bytes_ = alignment_bytes(each.sizes, ELEMENT_BYTES)
    found = ((name, np.flatnonzero(np.isin(bytes_, group))) for name, group in GROUPS.items())
    return [(name, at) for name, at in found if len(at)]


def _series(shown: Strip) -> tuple[Series, ...]:
    sweep, p = shown.sweep, shown.sweep.prediction
    rates = sweep.flops_per_s / 1e12
    line = Series(
        "predicted", "line", "blue", tuple(sweep.sizes.tolist()), tuple(rates.tolist()),
        (
            Fact(sweep.label, tuple(sweep.sizes.tolist())),
            Fact("rows aligned to", tuple(shown.bytes_.tolist()), "bytes"),
            Fact("time", tuple(_four(1e3 * time) for time in p.time_s), "ms"),
            Fact("throughput", tuple(_four(value) for value in rates), "TFLOP/s"),
            Fact("tile", tuple(f"{a}x{b}" for a, b in zip(p.tile_m, p.tile_n, strict=True))),
            Fact("split-K", tuple(int(split) for split in p.split_k)),
            Fact("waves", tuple(round(float(waves), 2) for waves in p.waves)),
            Fact("idle share", tuple(round(100 * float(1 - e), 1) for e in p.wave_efficiency), "%"),
        ),
    )  # fmt: skip
    measured = [_measured(each, name, at) for each in shown.points for name, at in _grouped(shown, each)]
    if shown.dense:
        return line, *measured
    on_line = (_on_line(line, name, at) for name, at in zip(GROUPS, _levels(shown), strict=True))
    return line, *on_line, *measured


def _on_line(line: Series, name: str, at: Integers) -> Series:
    tone, symbol = _SYMBOLS[name]
    index = at.tolist()

    def chosen(values: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(values[i] for i in index)

    return Series(
        f"predicted: {name}", "points", tone, tuple(line.x[i] for i in index), tuple(line.y[i] for i in index),
        tuple(replace(fact, values=chosen(fact.values)) for fact in line.facts), symbol=symbol,
    )  # fmt: skip


def _measured(each: Points, name: str, at: Integers) -> Series:
    tone, symbol = _SYMBOLS[name]
    rates = each.flops[at] / each.time_s[at] / 1e12
    title = f"measured: {each.name}" + ("" if name == "any" else f", {name}")
    return Series(
        title, "points", tone, tuple(each.sizes[at].tolist()), tuple(rates.tolist()),
        (
            Fact("size", tuple(each.sizes[at].tolist())),
            Fact("rows aligned to", tuple(alignment_bytes(each.sizes[at], ELEMENT_BYTES).tolist()), "bytes"),
            Fact("time", tuple(_four(1e3 * time) for time in each.time_s[at]), "ms"),
            Fact("throughput", tuple(_four(value) for value in rates), "TFLOP/s"),
            Fact("prediction is off by", tuple(f"{100 * off:+.1f}" for off in each.off[at]), "%"),
        ),
        symbol=symbol,
    )  # fmt: skip


def _four(value: float) -> float:
    return float(f"{value:.4g}")


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
    origins = (product_origin(subject), *_origins(strips))
    return Table("alignment", "What each alignment leaves of the aligned rate", columns, tuple(rows), origins)


def _percent(value: Cell) -> str:
    return percent(float(value or 0), 1)


def _origins(strips: Sequence[Strip]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(each.source.origin for shown in strips for each in shown.points))
