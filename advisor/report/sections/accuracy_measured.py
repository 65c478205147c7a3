"""Measured products beside their predictions, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError
from advisor.gemm import GemmPrediction, gemm_time
from advisor.report.records import Fact, Figure, Interactive, Origin, Series, Tone
from advisor.report.subject import MeasuredProducts, Subject
from advisor.units import counted, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Floats = NDArray[np.float64]

MOST_ROWS = 4000  # single rows drawn; the page holds them twice
NAMES = {"fp16": "FP16", "bf16": "BF16", "fp32": "FP32", "tf32": "TF32"}
_TONES: tuple[Tone, ...] = ("blue", "orange", "purple", "vermilion", "sky", "grey", "ink")
_SYMBOLS = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "x")


@dataclass(frozen=True)
class Compared:
    """One group of measured products beside their predictions."""

    rows: MeasuredProducts
    predicted: GemmPrediction

    @property
    def name(self) -> str:
        """As the legend has it."""
        rows = self.rows
        parts = [rows.source, NAMES.get(rows.precision, rows.precision), rows.pass_, rows.mode]
        return f"{' '.join(part for part in parts if part)}, {'fitted' if rows.fitted else 'not fitted'}"

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


def compared_products(subject: Subject) -> tuple[list[Compared], list[str]]:
    """Products that a library ran beside their predictions, and notes on what is left out."""
    notes, found = [], []
    groups = [each for each in subject.measured.products if each.library == "cublas" and len(each.m)]
    others = sum(len(each.m) for each in subject.measured.products if each.library != "cublas")
    if others:
        notes.append(
            f"Not compared, as the predictions are of cuBLAS: {counted(others, 'product')} of our own Triton kernels."
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
            notes.append(f"No prediction of {counted(len(chosen.m), 'product')} in {chosen.precision}: {error}.")
            continue
        found.append(Compared(chosen, predicted))
    return found, notes


def _every(rows: MeasuredProducts, step: int) -> MeasuredProducts:
    if step <= 1:
        return rows
    arrays = {name: getattr(rows, name)[::step] for name in ("m", "n", "k", "time_s", "low_s", "high_s")}
    return replace(rows, kernel=rows.kernel[::step], **arrays)


def rows_figures(compared: Sequence[Compared]) -> list[Figure]:
    """The measured rows themselves; none where nothing was measured."""
    if not compared:
        return []
    named = by_name(compared)
    off = np.abs(np.concatenate([each.off for each in compared]))
    rates = np.concatenate([rate for each in compared for rate in (each.measured_per_s, each.predicted_per_s)]) / 1e12
    origins = tuple(dict.fromkeys(each.rows.origin for each in compared))

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import Rows, draw_rows

        rows = [
            Rows(
                name,
                np.concatenate([each.measured_per_s for each in groups]),
                np.concatenate([each.predicted_per_s for each in groups]),
            )
            for name, groups in named.items()
        ]
        draw_rows(figure.subplots(), rows, narrow=narrow)

    return [
        Figure(
            id="accuracy-measured",
            title="How far are the measured products of this report from their predictions?",
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


def by_name(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Groups by their name in the legend."""
    found: dict[str, list[Compared]] = {}
    for each in compared:
        found.setdefault(each.name, []).append(each)
    return found


def _interactive(named: Mapping[str, Sequence[Compared]]) -> Interactive:
    points = [
        _series(name, groups, _TONES[i % len(_TONES)], _SYMBOLS[i % len(_SYMBOLS)])
        for i, (name, groups) in enumerate(named.items())
    ]
    ends = (min(min(s.x) for s in points), max(max(s.x) for s in points))
    equal = Series("equal", "line", "grey", ends, ends, ())
    return Interactive((*points, equal), "measured (TFLOP/s)", "predicted (TFLOP/s)", x_log2=True, y_log=True,
                       y_from_zero=False)  # fmt: skip


def _series(name: str, groups: Sequence[Compared], tone: Tone, symbol: str) -> Series:
    def joined(values: Callable[[Compared], Any], digits: int | None = None) -> tuple[Any, ...]:
        found = np.concatenate([values(each) for each in groups])
        return tuple((found if digits is None else np.round(found, digits)).tolist())

    facts = [
        Fact("M", joined(lambda each: each.rows.m)),
        Fact("N", joined(lambda each: each.rows.n)),
        Fact("K", joined(lambda each: each.rows.k)),
        Fact("measured", joined(lambda each: 1e6 * each.rows.time_s, 2), "us"),
        Fact("predicted", joined(lambda each: 1e6 * each.predicted.time_s, 2), "us"),
        Fact("off", joined(lambda each: 100 * each.off, 1), "%"),
        Fact("tile", joined(lambda each: _tiles(each.predicted))),
        Fact("waves", joined(lambda each: each.predicted.waves, 2)),
    ]
    if any(any(each.rows.kernel) for each in groups):
        facts.append(Fact("kernel", tuple(kernel or None for each in groups for kernel in each.rows.kernel)))
    x = joined(lambda each: each.measured_per_s / 1e12, 3)
    y = joined(lambda each: each.predicted_per_s / 1e12, 3)
    return Series(name, "points", tone, x, y, tuple(facts), symbol=symbol)


def _tiles(predicted: GemmPrediction) -> list[str]:
    return [f"{a}x{b}" for a, b in zip(predicted.tile_m, predicted.tile_n, strict=True)]
