"""Section `roofline`: every layer of a model under the roof of the GPU, at the recommended batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from advisor.plots.roofline import draw_roofline, key, limits, tera
from advisor.recommendation import Recommendation
from advisor.report.layer_looks import LOOKS, layer_class, tile_text
from advisor.report.records import NOT_MEANT, Cell, Column, Fact, Figure, Interactive, Origin, Section, Series, Table
from advisor.report.roofs import NOMINAL, Point, Roof, points, roof_of, verdict
from advisor.report.sections.batch import step_origin
from advisor.report.subject import Subject
from advisor.units import counted, duration, percent, significant

_SHOWN = 25
_LEAST_BANDWIDTH = 0.02  # share of it that an operation without FLOP reaches at least to be seen at first
_ASIDE = 2.0  # times the nominal intensity at most, and at least one in so many: so far apart stand those without FLOP
_GOLDEN = 0.618034  # a share of the way that takes long to come back to where another was
_SOURCE = "S. Williams, A. Waterman, D. Patterson, Communications of the ACM 52(4), 2009"


def section(subject: Subject) -> Section | None:
    """A roofline and its table for each model; a note for one whose GPU's peak or bandwidth is unknown."""
    if not subject.models:
        return None
    figures, tables, notes = [], [], []
    for name, found in subject.named_models():
        roof = roof_of(found)
        if roof is None:
            notes.append(
                f"No roofline of {found.answer.model.title}: the peak or the bandwidth of this GPU is unknown."
            )
            continue
        step = points(found, roof)
        origins = (_roof_origin(subject, roof), step_origin(found))
        figures.append(_figure(name, found, roof, step, origins))
        tables.append(_table(name, found, step, origins))
        if above := [point for point in step if point.flops_per_s > roof.at(point.flop_per_byte)]:
            notes.append(_above(found, above, roof))
    return Section(
        id="roofline",
        title="Roofline: what bounds each layer",
        lead=(
            f"The roof ({_SOURCE}) is what the GPU can reach at so many FLOP per byte: memory bandwidth on the slope, "
            "peak arithmetic on the flat. A point is an operation, all its calls together: its FLOP over its least "
            "traffic across, its FLOP over its predicted time up, its area the share of the step. How far a point is "
            "below the roof is what a better kernel or shape could win. Operations that only move data count no FLOP "
            "and stand in a strip of their own, by the share of the bandwidth they reach (in the interactive figure "
            f"around a nominal {NOMINAL:g} FLOP per byte, as far below the slope as they miss of it)."
        ),
        figures=tuple(figures),
        tables=tuple(tables),
        notes=tuple(notes),
    )


def _roof_origin(subject: Subject, roof: Roof) -> Origin:
    sources = subject.gpu.sources.get("memory_bandwidth_bytes_per_s")
    source = f" (bandwidth: {sources})" if sources else ""
    return Origin(
        "exact",
        f"roof from the facts of {subject.gpu.name}: {tera(roof.peak_flops_per_s)} TFLOP/s {roof.unit}, dense, "
        f"{roof.bandwidth_bytes_per_s / 1e9:,.0f} GB/s{source}; FLOP and least traffic counted from the layers' shapes",
        short="roof from the GPU's data sheet; FLOP and least traffic counted from the layers' shapes",
    )


def _above(found: Recommendation, above: Sequence[Point], roof: Roof) -> str:
    """Why some operations are above the roof."""
    because: dict[str, list[Point]] = {}
    for point in above:
        because.setdefault(_reason(point, roof), []).append(point)
    told = []
    for why, those in because.items():
        share = percent(sum(point.layer.share for point in those), 1)
        told.append(f"{counted(len(those), 'operation')} ({share} of the step) {why}")
    return f"Above the roof of {found.answer.model.title}: {'; '.join(told)}."


def _reason(point: Point, roof: Roof) -> str:
    if point.roof == "memory":
        return "on small tensors, which stay in the L2 cache and need less of the memory than is counted"
    fault = "by an error of the prediction, whose shares of the peak are from a card that exceeds its nominal clock"
    if roof.unit == "FP32" and layer_class(point.layer) in ("fprop", "dgrad", "wgrad"):
        winograd = "Winograd's transform, which computes 3x3 convolutions with fewer multiplications than are counted"
        return f"by {winograd}, or {fault}"
    return fault


# Words ----------------------------------------------------------------------------------------------------------------


def _figure(name: str, found: Recommendation, roof: Roof, step: Sequence[Point], origins: tuple[Origin, ...]) -> Figure:
    title, batch = found.answer.model.title, found.batch_size
    moving = any(point.moves_only for point in step)
    below = " Below, operations that only move data, by the share of the bandwidth they reach." if moving else ""
    return Figure(
        id=f"roofline-{name}",
        title=f"What bounds the layers of {title} at batch {batch}: memory, or arithmetic?",
        answer=verdict(roof, step, found.answer.curve.time_s[batch - 1]),
        alt=(
            f"Roofline of {counted(len(step), 'operation')}: TFLOP/s against FLOP per byte, both logarithmic. The roof "
            f"rises to {tera(roof.peak_flops_per_s)} TFLOP/s at {roof.ridge:.0f} FLOP per byte and stays there. The "
            f"largest points are {'; '.join(key(point, 60) for point in step[:3])}.{below}"
        ),
        origins=origins,
        draw=partial(draw_roofline, roof=roof, step=step),
        inches=(7.4, 5.6),
        narrow_inches=(3.9, 6.2),
        interactive=_interactive(roof, step),
    )


# Interactive ----------------------------------------------------------------------------------------------------------


def _interactive(roof: Roof, step: Sequence[Point]) -> Interactive:
    (_, right), (low, high) = limits(roof, step)
    corners = (NOMINAL / _ASIDE, roof.ridge, right)
    roofs = [_line(f"roof: {roof.unit}", roof, corners, tuple(roof.at(x) for x in corners), dashed=False)]
    if roof.reached_flops_per_s is not None and roof.reached_flops_per_s < roof.peak_flops_per_s:
        level = roof.reached_flops_per_s
        ends = (level / roof.bandwidth_bytes_per_s, right)
        roofs.append(_line("a large product, predicted", roof, ends, (level, level), dashed=True))
    apart = _apart(step)
    least = _LEAST_BANDWIDTH * roof.bandwidth_bytes_per_s * NOMINAL / _ASIDE
    low = min(low, least) if any(point.moves_only for point in step) else low
    shown = []
    for class_ in LOOKS:
        members = [point for point in apart if layer_class(point.layer) == class_]
        below = sum(point.flops_per_s < low for point in members)
        unseen = f" ({below} below the axis: see the table)" if below else ""
        shown.append(_points_series(f"{class_}{unseen}", class_, members))
    return Interactive(
        series=(*roofs, *(series for series in shown if series.x)),
        x_title=f"FLOP per byte of memory traffic (about {NOMINAL:g} where none is counted)",
        y_title="TFLOP/s reached (predicted)",
        x_log2=True,
        y_log=True,
        y_range=(low / 1e12, high / 1e12),
    )


def _apart(step: Sequence[Point]) -> list[Point]:
    """The operations, those without FLOP side by side around the nominal intensity, as far below the roof as ever."""
    found = []
    for index, point in enumerate(step):
        times = _ASIDE ** (2 * (index * _GOLDEN % 1) - 1) if point.moves_only else 1.0
        found.append(replace(point, flop_per_byte=times * point.flop_per_byte, flops_per_s=times * point.flops_per_s))
    return found


def _line(name: str, roof: Roof, x: tuple[float, ...], y: tuple[float, ...], *, dashed: bool) -> Series:
    bounds = tuple("memory" if each <= roof.ridge else "compute" for each in x)
    return Series(name, "line", "ink", x, tuple(each / 1e12 for each in y), (Fact("bound", bounds),), dashed=dashed)


def _points_series(name: str, class_: str, members: Sequence[Point]) -> Series:
    look = LOOKS[class_]
    layers = [point.layer for point in members]

    def fact(name: str, values: Sequence[Cell], unit: str = "") -> Fact:
        return Fact(name, tuple(values), unit)

    return Series(
        name=name,
        kind="points",
        tone=look.tone,
        x=tuple(point.flop_per_byte for point in members),
        y=tuple(point.flops_per_s / 1e12 for point in members),
        facts=(
            fact("layer", [layer.layer for layer in layers]),
            fact("operation", [layer.op for layer in layers]),
            fact("M", [layer.m or "none" for layer in layers]),
            fact("N", [layer.n or "none" for layer in layers]),
            fact("K", [layer.k or "none" for layer in layers]),
            fact("tile", [tile_text(layer) or "none" for layer in layers]),
            fact("waves", [round(layer.waves, 2) if layer.tile_m else "none" for layer in layers]),
            fact("idle share", [_idle(layer.wave_efficiency) if layer.tile_m else "none" for layer in layers], "%"),
            fact("time", [significant(1e3 * layer.time_s, 3) for layer in layers], "ms"),
            fact("of the step", [round(100 * layer.share, 2) for layer in layers], "%"),
            fact("FLOP/byte", ["none" if p.moves_only else significant(p.flop_per_byte, 3) for p in members]),
            fact("memory", [round(point.bytes_per_s / 1e9) for point in members], "GB/s"),
            fact("roof", [point.roof for point in members]),
            fact("bound", [layer.bound for layer in layers]),
        ),
        symbol=look.symbol,
        areas=tuple(layer.share for layer in layers),
    )


def _idle(wave_efficiency: float) -> float:
    return round(100 * (1 - wave_efficiency), 1)


# The table ------------------------------------------------------------------------------------------------------------


def _table(name: str, found: Recommendation, step: Sequence[Point], origins: tuple[Origin, ...]) -> Table:
    return Table(
        id=f"roofline-{name}",
        title=f"Operations of {found.answer.model.title} at batch {found.batch_size}, the longest first",
        columns=(
            Column("layer", "layer"),
            Column("operation", "operation"),
            Column("calls", "calls"),
            Column("m", "M"),
            Column("n", "N"),
            Column("k", "K"),
            Column("tile", "tile", note="of the output; /s: the contraction split in s"),
            Column("waves", "waves", lambda value: f"{value:.2f}", "tiles over SMs"),
            Column("idle_share", "idle", percent,
                   "share of the SMs without a tile, over all waves; blank: no tiles"),
            Column("time_s", "time", duration, "of all calls in a step, predicted"),
            Column("share", "of step", partial(percent, digits=1)),
            Column("flop_per_byte", "FLOP/byte", lambda value: f"{value:.1f}",
                   "of least memory traffic; blank: no FLOP counted"),
            Column("flops_per_s", "TFLOP/s", lambda value: f"{value / 1e12:.1f}"),
            Column("bytes_per_s", "GB/s", lambda value: f"{value / 1e9:,.0f}"),
            Column("roof", "roof", note="which part of the roof it stands under"),
        ),
        rows=tuple(_row(point) for point in step),
        origins=origins,
        shown=_SHOWN,
    )  # fmt: skip


def _row(point: Point) -> tuple[Cell, ...]:
    layer, counted_ = point.layer, not point.moves_only
    return (
        layer.layer, layer.op, layer.count, *(size or NOT_MEANT for size in (layer.m, layer.n, layer.k)),
        tile_text(layer), *((layer.waves, 1 - layer.wave_efficiency) if layer.tile_m else (NOT_MEANT, NOT_MEANT)),
        layer.time_s, layer.share, *((point.flop_per_byte, point.flops_per_s) if counted_ else (NOT_MEANT, NOT_MEANT)),
        point.bytes_per_s, point.roof,
    )  # fmt: skip
