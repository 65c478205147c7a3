"""The CTAs of our matrix product as they ran: how many waves there were, and how much of the GPU the last left idle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advisor.plots.timeline import draw_timelines, panel_of
from advisor.report.records import Column, Figure, Origin, Section, Table
from advisor.report.subject import MeasuredTimeline, Subject
from advisor.timeline import Launch, read_launch
from advisor.units import counted, duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

MOST_FIGURES = 2
MOST_CTAS = 20_000  # of a launch that is drawn
_LEAD = (
    "Our Triton matrix product writes down where and when each of its CTAs ran (%smid and %globaltimer of PTX). A slot "
    "is a place for one resident CTA on one SM; the CTAs that are the first in their slots are the first wave. A "
    "launch that fills its waves ends at once everywhere; one more row of tiles waits for slots, and runs while most "
    "of the GPU idles."
)


def section(subject: Subject) -> Section | None:
    """A figure for each side of a wave boundary, and a table of launches; None where no timeline was recorded."""
    recorded = subject.measured.timelines
    read = [_read(timeline) for timeline in recorded]
    notes = [f"A recorded timeline is damaged and left out: {fault}." for fault in read if isinstance(fault, str)]
    launches = [launch for launch in read if isinstance(launch, Launch)]
    if not launches:
        return Section("timeline", "Waves as they ran", _LEAD, notes=tuple(notes)) if notes else None
    distinct = tuple(dict.fromkeys(timeline.origin for timeline in recorded))
    drawn = [of_figure for of_figure in _sides(launches) if max(each.timeline.ctas for each in of_figure) <= MOST_CTAS]
    if sum(map(len, drawn[:MOST_FIGURES])) < len(launches):
        notes.append("The table has the launches that are not drawn, too.")
    return Section(
        id="timeline",
        title="Waves as they ran",
        lead=_LEAD,
        figures=tuple(_figure(number, sides, distinct) for number, sides in enumerate(drawn[:MOST_FIGURES], 1)),
        tables=(_table(launches, distinct),),
        notes=tuple(notes),
    )


def _read(timeline: MeasuredTimeline) -> Launch | str:
    """The launch, or what is wrong with its record."""
    try:
        return read_launch(timeline.record)
    except ValueError as error:
        return str(error)


def _sides(launches: Sequence[Launch]) -> list[tuple[Launch, ...]]:
    """Launches that differ by one row of M together, those first; the others one by one."""
    left = sorted(launches, key=lambda launch: (launch.n, launch.k, launch.tile, launch.m))
    pairs, single = [], []
    while left:
        first, *left = left
        if left and _one_more(first, left[0]):
            pairs.append((first, left.pop(0)))
        else:
            single.append((first,))
    return [*pairs, *single]


def _one_more(at: Launch, past: Launch) -> bool:
    return (at.n, at.k, at.tile, at.m + 1) == (past.n, past.k, past.tile, past.m)


def _figure(number: int, launches: tuple[Launch, ...], origins: tuple[Origin, ...]) -> Figure:
    panels = [panel_of(launch) for launch in launches]

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        draw_timelines(figure, panels, narrow)

    sizes = " and ".join(f"{launch.m:,}" for launch in launches)
    height = 0.7 + 2.3 * len(panels)
    return Figure(
        id=f"timeline-{number}",
        title=f"In how many waves do {sizes} rows run, and how idle is the last?",
        answer=_answer(launches),
        alt=(
            f"{counted(len(panels), 'panel')} over time, a row per slot of each SM, a box per CTA, coloured by wave: "
            + "; ".join(
                f"{launch.m} rows, {counted(len(launch.waves.waves), 'wave')} of "
                + ", ".join(str(wave.ctas) for wave in launch.waves.waves[:8])
                + (" ... CTAs" if len(launch.waves.waves) > 8 else " CTAs")
                for launch in launches
            )
            + "."
        ),
        origins=origins,
        draw=draw,
        inches=(7.4, height),
        narrow_inches=(3.9, height + 0.5 * len(panels)),
    )


def _answer(launches: tuple[Launch, ...]) -> str:
    at, *past = launches
    product = f"N = {at.n:,}, K = {at.k:,}, tiles of {at.tile}"
    said = f"{_spoken(at)} ({product})"
    if not past:
        return f"{said}."
    longer = past[0].timeline.span_ns / at.timeline.span_ns - 1 if at.timeline.span_ns else 0.0
    change = f"{percent(longer)} longer" if longer >= 0.005 else "no longer" if longer > -0.005 else "less"
    return f"{said}. One row more: {_spoken(past[0])}, {change}."


def _spoken(launch: Launch) -> str:
    waves, last = launch.waves, launch.waves.waves[-1]
    which = "which leaves" if len(waves.waves) == 1 else "of which the last leaves"
    return (
        f"{counted(launch.timeline.ctas, 'CTA')} in {counted(len(waves.waves), 'wave')}, {which} "
        f"{percent(last.idle_share)} of the {waves.slots:,} slots idle, took {duration(launch.timeline.span_ns * 1e-9)}"
    )


def _table(launches: Sequence[Launch], origins: tuple[Origin, ...]) -> Table:
    columns = (
        Column("m", "M"),
        Column("n", "N"),
        Column("k", "K"),
        Column("tile", "tile", note="M x N x K of one CTA's work at a time"),
        Column("ctas", "CTAs"),
        Column("slots", "slots", note="places for one resident CTA, on all SMs"),
        Column("counted_waves", "waves, counted", note="CTAs over slots, rounded up"),
        Column("waves", "waves, recorded"),
        Column(
            "last_wave_idle_share", "idle in the last", percent, "share of the slots without a CTA in the last wave"
        ),
        Column("busy_share", "slots' time in use", percent),
        Column("span_s", "took", duration, "from the first CTA's start to the last one's end"),
    )
    rows = tuple(
        (
            each.m, each.n, each.k, each.tile, each.timeline.ctas, each.waves.slots,
            -(-each.timeline.ctas // each.waves.slots), len(each.waves.waves), each.waves.waves[-1].idle_share,
            each.waves.busy_share, each.timeline.span_ns * 1e-9,
        )
        for each in launches
    )  # fmt: skip
    return Table("timelines", "Recorded launches", columns, rows, origins)
