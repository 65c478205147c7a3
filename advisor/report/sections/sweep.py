"""Throughput of matrix products against M and against N: the teeth of tiles and waves, and the cause of each."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advisor.errors import BadInputError
from advisor.quantization import MAX_SIZE
from advisor.recommendation import Recommendation
from advisor.report.records import Figure, Interactive, Mark, Section
from advisor.report.sections.sweep_series import interactive_series
from advisor.report.sections.sweep_tables import points_table, powers_table, steps_table, teeth_table
from advisor.report.sections.sweep_words import alt, answer, notes
from advisor.report.subject import Integers, MeasuredProducts, ProductError, Subject
from advisor.report.sweeps import (
    Points,
    Sweep,
    measured_around,
    points_on,
    predict_sweep,
    size_class,
)
from advisor.report.teeth import LEAST_LOSS, Tooth, teeth
from advisor.units import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from advisor.plots.sweep import SweepPicture

ROWS = np.arange(1, 4354)  # as far as public tables know M and M + 1
WEIGHTS = ((12288, 4096), (4096, 4096))  # n, k
COLUMNS = np.arange(1536, 6145, 8)  # the range of NVIDIA's guide; 8: N that are no multiple lose to alignment instead
INPUTS = (2304, 4096)  # m, k of NVIDIA's guide
LEAST_POINTS = 6  # measured sizes that make another line worth a figure
MOST_SAMPLES = 256  # of a layer's sweep over the batch
_REACH = (24, 40)  # sizes before and after the cliff that is enlarged


def section(subject: Subject) -> Section:
    """Figures of throughput against M and N, and tables of their teeth and of the measured points beside the line."""
    title, lead = "Teeth: throughput against M and N", _lead(subject)
    try:
        sweeps = [*_against_m(subject), *_against_n(subject), *_over_the_batch(subject)]
    except BadInputError as error:
        return Section("sweep", title, lead, notes=(f"No throughput can be predicted here: {error}",))
    found = [(sweep, teeth(sweep), points_on(sweep, subject.measured.products)) for sweep in sweeps]
    return Section(
        id="sweep",
        title=title,
        lead=lead,
        figures=tuple(_figure(subject, *each) for each in found),
        tables=tuple(table for table in (teeth_table(subject, found), powers_table(subject, found),
                                         steps_table(found), points_table(found)) if table.rows),
        notes=notes(found),
    )  # fmt: skip


def _lead(subject: Subject) -> str:
    gpu, models = subject.gpu, subject.profiles.gemm.gemm
    model = models.get(subject.product_precision)
    hardness = "" if model is None else (
        f" What the idle SMs of the last wave cost is fitted: {percent(model.coefficients.wave_hardness)} of a full "
        f"wave's share{'' if model.gpu == gpu.id else f' (on {model.gpu}, whose coefficients stand in)'}."
    )  # fmt: skip
    return (
        f"A product C[M, N] = A[M, K] B[K, N] is cut into tiles, which the {gpu.sms} SMs of {gpu.name} work through in "
        "waves. One row or column more than the tiles hold starts further tiles, and one tile more than the SMs hold "
        "starts a further wave in which the other SMs idle: throughput falls, then climbs until that wave is full. "
        f"A cliff here is a predicted loss of at least {percent(LEAST_LOSS)} of the throughput from one size to the "
        f"next.{hardness}"
    )


# What is swept -------------------------------------------------------------------------------------------------------


def _against_m(subject: Subject) -> list[Sweep]:
    pairs = _with_measured(subject.measured.products, WEIGHTS, ("n", "k"), "m", ROWS)
    return [
        predict_sweep(subject, "m", ROWS, fixed={"n": n, "k": k}, id_=f"throughput-m-n{n}-k{k}", label="M (rows)")
        for n, k in pairs
    ]


def _against_n(subject: Subject) -> list[Sweep]:
    pairs = _with_measured(subject.measured.products, (INPUTS,), ("m", "k"), "n", COLUMNS)
    return [
        predict_sweep(subject, "n", COLUMNS, fixed={"m": m, "k": k}, id_=f"throughput-n-m{m}-k{k}",
                      label="N (columns, in steps of 8)")
        for m, k in pairs
    ]  # fmt: skip


def _with_measured(
    products: Sequence[MeasuredProducts],
    standard: tuple[tuple[int, int], ...],
    fixed: tuple[str, str],
    axis: str,
    sizes: Integers,
) -> tuple[tuple[int, int], ...]:
    """The standard lines, and where none of them was measured, the line with most measured sizes."""
    seen: dict[tuple[int, int], set[int]] = {}
    for each in products:
        along = getattr(each, axis)
        inside = (along >= sizes[0]) & (along <= sizes[-1])
        for a, b, size in zip(*(getattr(each, name)[inside].tolist() for name in (*fixed, axis)), strict=True):
            seen.setdefault((a, b), set()).add(size)
    counts = Counter({pair: len(found) for pair, found in seen.items()})
    if any(counts[pair] >= LEAST_POINTS for pair in standard) or not counts:
        return standard
    most = min(counts, key=lambda pair: (-counts[pair], pair))
    return standard if counts[most] < LEAST_POINTS or most in standard else (*standard, most)


def _over_the_batch(subject: Subject) -> list[Sweep]:
    """The dearest forward product of each model over the batch, where it is a linear layer's."""
    found = []
    for name, model in subject.named_models():
        layer = _dearest_linear(model)
        if layer is None:
            continue
        rows, n, k, title = layer
        curve = model.curve
        fitting = max(batch for batch, fits in zip(curve.batches, curve.fits, strict=True) if fits)
        most = min(MOST_SAMPLES, fitting, MAX_SIZE // rows)
        if most < 2:
            continue
        label = f"batch size (M = {rows} x batch size, {title} of {model.answer.model.title})"
        found.append(
            predict_sweep(subject, "m", np.arange(1, most + 1), fixed={"n": n, "k": k}, rows=rows,
                          id_=f"throughput-batch-{name}", label=label)
        )  # fmt: skip
    return found


def _dearest_linear(model: Recommendation) -> tuple[int, int, int, str] | None:
    """Rows per sample, n, k and name of the forward product that takes longest; None where that is a convolution."""
    setup = model.setup
    costs = [layer for layer in setup.model.layers(model.batch_size) if layer.m]
    forward = [layer for layer in costs if layer.op in ("forward gemm", "fprop")]
    dearest = max(forward, key=lambda layer: layer.time_s, default=None)
    if dearest is None or dearest.op != "forward gemm" or dearest.m % model.batch_size:
        return None
    return dearest.m // model.batch_size, dearest.n, dearest.k, dearest.layer


# Figures -------------------------------------------------------------------------------------------------------------


def _figure(subject: Subject, sweep: Sweep, found: tuple[Tooth, ...], points: tuple[Points, ...]) -> Figure:
    name = sweep.label.split(" (")[0]
    what = "one sample" if name == "batch size" else {"m": "one row", "n": "8 columns"}[sweep.axis]
    verb = "do" if what.endswith("s") else "does"
    enlarged = _enlarged(sweep, found, points)
    error = subject.product_error()

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.sweep import draw_sweep

        draw_sweep(figure, _picture(sweep, found, points, error, enlarged, narrow), narrow)

    tall = 6.4 if enlarged else 4.6
    return Figure(
        id=sweep.id,
        title=f"What {verb} {what} more cost at {sweep.fixed}?",
        answer=answer(sweep, found, points, what),
        alt=alt(sweep, found, points, name),
        origins=(subject.gemm_origin(), *dict.fromkeys(each.source.origin for each in points)),
        draw=draw,
        inches=(7.4, tall),
        narrow_inches=(3.9, tall + 1.2),
        interactive=Interactive(
            series=interactive_series(sweep, found, points),
            x_title=sweep.label,
            y_title="TFLOP/s",
            marks=tuple(
                Mark(tooth.under, str(tooth.under), f"{percent(tooth.loss)} less at {tooth.over}. {tooth.text}")
                for tooth in apart(found, 0.07 * float(sweep.sizes[-1] - sweep.sizes[0]), 10)
            ),
        ),
    )


def apart(found: Sequence[Tooth], least: float, most: int) -> list[Tooth]:
    """The deepest teeth that stand at least so far apart, by size; none that is slight beside the deepest."""
    chosen: list[Tooth] = []
    slight = min(0.05, 0.25 * max((tooth.loss for tooth in found), default=0.0))
    for tooth in sorted((tooth for tooth in found if tooth.loss >= slight), key=lambda tooth: -tooth.loss):
        if len(chosen) < most and all(abs(tooth.under - other.under) >= least for other in chosen):
            chosen.append(tooth)
    return sorted(chosen, key=lambda tooth: tooth.under)


def _enlarged(sweep: Sweep, found: Sequence[Tooth], points: Sequence[Points]) -> tuple[int, int] | None:
    """Sizes around the deepest cliff that was measured, else around the deepest; None where sizes are not in a row."""
    if np.any(np.diff(sweep.sizes) > 1) or len(sweep.sizes) < 1000 or not found:
        return None
    large = [tooth for tooth in found if tooth.under >= 128] or list(found)
    on_both = [tooth for tooth in large if measured_around(points, tooth.under, tooth.over)]
    middle = max(on_both or large, key=lambda tooth: tooth.loss).under
    return max(int(sweep.sizes[0]), middle - _REACH[0]), min(int(sweep.sizes[-1]), middle + _REACH[1])


def _picture(
    sweep: Sweep,
    found: Sequence[Tooth],
    points: Sequence[Points],
    error: ProductError,
    enlarged: tuple[int, int] | None,
    narrow: bool,
) -> SweepPicture:
    from advisor.plots.sweep import Measurements, SweepPicture

    labelled = apart(found, (0.16 if narrow else 0.08) * float(sweep.sizes[-1] - sweep.sizes[0]), 5 if narrow else 10)
    return SweepPicture(
        x=sweep.sizes,
        y=sweep.flops_per_s / 1e12,
        error=error.error.mean,
        error_label=error.label,
        x_label=sweep.label.split(" (")[0] if narrow else textwrap.fill(textwrap.shorten(sweep.label, 150), 75),
        cliffs=[(tooth.under, tooth.loss) for tooth in labelled],
        classes=size_class(sweep.sizes),
        points=[
            Measurements(
                each.name, each.source.library, each.source.mode != "warm", each.sizes.astype(float),
                each.flops / each.time_s / 1e12, each.flops / each.high_s / 1e12, each.flops / each.low_s / 1e12,
            )
            for each in points
        ],
        enlarged=enlarged,
    )  # fmt: skip
