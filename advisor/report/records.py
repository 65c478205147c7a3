"""What a report is made of, before anything is rendered: sections of figures and tables, each with its origin.

Everything here is plain text and numbers. Names of models, kernels and GPUs may be anybody's text: whoever renders
escapes them. In prose (summary, notes, leads, answers, origins) words between two backticks are printed as code.
Numbers are seconds, bytes, FLOP/s and hertz; a column says how they are printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Cell: TypeAlias = str | int | float | bool | None  # None: unknown, printed "??", never 0
NOT_MEANT = ""  # a cell that has no figure because none is meant there, also in a column of numbers
OriginKind = Literal["measured here", "public measurement", "recorded trace", "exact", "estimate"]
Tone = Literal["blue", "orange", "green", "vermilion", "purple", "sky", "grey", "ink"]  # advisor.plots.canvas


def slug(name: str) -> str:
    """A name as it may stand in an id or a file name: lower-case letters, digits and single hyphens, 60 at most."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "unnamed"


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a figure or table come from.

    "exact": counted from shapes and facts of the GPU, nothing fitted. "estimate": predicted, and `text` states the
    error. "recorded trace": read from a file of torch.profiler, whoever recorded it. `text` is one sentence: GPU,
    driver, versions, clocks and date of a measurement; table, commit and licence of a public one; profile and held-out
    error of an estimate. Where it is long, `short` says in a line what it is of, and an estimate's error: captions
    have that and a link to `text`, which is printed once.
    """

    kind: OriginKind
    text: str
    short: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table. CSV has the raw values under `key`; pages print them by `show` (None: as they are)."""

    key: str  # with its unit: "time_s", "memory_bytes"
    title: str  # as printed
    show: Callable[[Any], str] | None = None  # is given known values only
    note: str = ""  # what it means, for a reader who does not know the term


@dataclass(frozen=True)
class Table:
    """Rows under columns, all of one length."""

    id: str  # unique in the report, [a-z0-9-]+: the file is tables/ID.csv
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    origins: tuple[Origin, ...]
    shown: int | None = None  # rows printed on the page and in Markdown, the CSV has all; None: all


@dataclass(frozen=True)
class Fact:
    """One thing a reader learns of a point by hovering: a value per point of its series."""

    name: str  # "tile"
    values: tuple[Cell, ...]
    unit: str = ""  # "ms": the values are in it already, rounded as they are to be read


@dataclass(frozen=True)
class Series:
    """Points of an interactive figure, measured or predicted; x and y are in the units of the figure's axes.

    A line is broken where x and y are NaN.
    """

    name: str  # in the legend
    kind: Literal["line", "points"]
    tone: Tone
    x: tuple[float, ...]
    y: tuple[float, ...]
    facts: tuple[Fact, ...]
    low: tuple[float, ...] | None = None  # ends of the spread around y: quartiles, or those that the origin names
    high: tuple[float, ...] | None = None
    symbol: str = "circle"  # plotly's names: "circle", "diamond", "star", "x", "square", "triangle-up"
    dashed: bool = False
    areas: tuple[float, ...] | None = None  # what points weigh, in one unit in all series of a figure: their areas


@dataclass(frozen=True)
class Mark:
    """A labelled vertical line of an interactive figure, a cliff for instance."""

    x: float
    label: str  # short: "256"
    reason: str  # a sentence: the cause, shown on hovering


@dataclass(frozen=True)
class Interactive:
    """The interactive form of a figure: the same data, with the facts of every point."""

    series: tuple[Series, ...]
    x_title: str
    y_title: str
    x_log2: bool = False
    y_log: bool = False
    marks: tuple[Mark, ...] = ()
    y_from_zero: bool = True
    y_range: tuple[float, float] | None = None  # what is seen at first, in the axis's units; None: all points


@dataclass(frozen=True)
class Figure:
    """One figure. `draw` fills an empty matplotlib figure of `inches` (constrained layout), or of `narrow_inches` when
    its second argument, narrow, is True: the form for phones, with the same text size and fewer labels side by side.
    It draws with the canvas's colours only (a dark page exchanges them) and writes no title: the page does.
    """

    id: str  # unique in the report, [a-z0-9-]+: the files are figures/ID.png and figures/ID.svg
    title: str  # the question it answers
    answer: str  # its answer, one or two sentences with numbers read from the data
    alt: str  # what there is to see, for who cannot
    origins: tuple[Origin, ...]
    draw: Callable[[MatplotlibFigure, bool], None]
    inches: tuple[float, float] = (7.4, 4.4)
    narrow_inches: tuple[float, float] = (3.9, 4.6)
    interactive: Interactive | None = None


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading."""

    id: str  # [a-z0-9-]+
    title: str
    lead: str  # a paragraph: what is shown and how to read it
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()  # what is missing and how to get it; what to mind


@dataclass(frozen=True)
class Report:
    """All of one report."""

    title: str
    summary: tuple[str, ...]  # the answers a hurried reader wants, a sentence each
    conditions: Mapping[str, str]  # GPU, driver, versions, clocks, dates, command, version of batchwave
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()  # such as: nothing was measured, all is predicted
