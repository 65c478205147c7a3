"""Our Triton kernels against cuBLAS and cuDNN, on the cases that both ran."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.plots.ratios import LOOKS, RatioGroup, draw_groups, draw_sizes, means_by_size
from advisor.report.records import Column, Fact, Figure, Interactive, Origin, Section, Series, Table, Tone
from advisor.report.subject import MeasuredPair, Subject
from advisor.units import counted, duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

MOST_GROUPS = 14  # drawn; the table has all
MOST_DRAWN = 4000  # pairs as points
MOST_INTERACTIVE = 1500
MOST_NAME = 44  # characters of a group's name in a picture
EXTREMES = 10  # cases printed from either end
FIRST_WITH_MATRIX_INSTRUCTIONS = (8, 0)  # compute capability: kernels.configs, `advisor kernels`
_LIBRARIES = {"cublas": "cuBLAS", "cudnn": "cuDNN"}
_TONES: tuple[tuple[Tone, str], ...] = (
    ("blue", "circle"), ("orange", "square"), ("green", "triangle-up"), ("vermilion", "diamond"),
    ("purple", "triangle-down"), ("sky", "cross"),
)  # fmt: skip
AXIS = "library's time over ours: above 1 ours is faster"
AXIS_UPRIGHT = "library's time over ours"


@dataclass(frozen=True)
class Group:
    """The pairs of one kind, pass, type and library."""

    name: str
    library: str
    pairs: tuple[MeasuredPair, ...]

    @property
    def title(self) -> str:
        """With the library, as printed: "gemm forward fp16 cold, cuBLAS"."""
        return f"{self.name}, {printed(self.library)}"

    @property
    def mean(self) -> float:
        """Geometric mean of the ratios."""
        return geometric_mean(self.pairs)

    @property
    def ahead(self) -> float:
        """Share of the pairs in which ours is the faster."""
        return sum(pair.ratio > 1 for pair in self.pairs) / len(self.pairs)


def section(subject: Subject) -> Section | None:
    """Ratios by group and by size, and tables; None where no case was run both ways.

    On GPUs that Triton emits no matrix instruction for, it says so in any case.
    """
    title, pairs, origin = "Triton against cuBLAS and cuDNN", subject.measured.pairs, subject.measured.pairs_origin
    old = _no_matrix_instruction(subject)
    if not pairs or origin is None:
        how = "Compare them with `advisor bench --suite gemm,conv` on this GPU, and give the records to this report."
        return Section("ratios", title, old, notes=(how,)) if old else None
    groups = groups_of(pairs)
    lead = (
        "The same products and convolutions by our Triton kernels and by NVIDIA's libraries, cuDNN at the faster of "
        "its two ways to choose an algorithm. A ratio is the library's median time over ours: above 1 ours is faster, "
        f"at 0.5 it takes twice as long. Means are geometric, so that twice and half as fast even out. {old}"
    )
    figures = [_groups_figure(groups, origin)]
    if len({pair.flops for pair in pairs if math.isfinite(pair.flops)}) >= 2:
        figures.append(_sizes_figure(groups, origin))
    notes = []
    if len(pairs) > MOST_DRAWN:
        notes.append(
            f"Of {len(pairs):,} cases the figures show {MOST_DRAWN:,} as points and the interactive ones "
            f"{MOST_INTERACTIVE:,}, chosen evenly; boxes, means and tables are of all."
        )
    elif len(pairs) > MOST_INTERACTIVE:
        notes.append(f"The interactive figures show {MOST_INTERACTIVE:,} of {len(pairs):,} cases, chosen evenly.")
    if len(groups) > MOST_GROUPS:
        notes.append(f"The first figure shows the {MOST_GROUPS} largest of {len(groups)} groups; the table has all.")
    return Section(
        "ratios", title, lead.strip(), tuple(figures), (_groups_table(groups, origin), _cases_table(pairs, origin)),
        tuple(notes),
    )  # fmt: skip


def groups_of(pairs: Sequence[MeasuredPair]) -> list[Group]:
    """The pairs by group and library, in the order of their names."""
    found: dict[tuple[str, str], list[MeasuredPair]] = defaultdict(list)
    for pair in pairs:
        found[pair.group, pair.library].append(pair)
    return [Group(name, library, tuple(of_group)) for (name, library), of_group in sorted(found.items())]


def geometric_mean(pairs: Sequence[MeasuredPair]) -> float:
    """Of the ratios."""
    return math.exp(math.fsum(math.log(pair.ratio) for pair in pairs) / len(pairs))


def printed(library: str) -> str:
    """A library as it is written."""
    return _LIBRARIES.get(library, library)


def case_of(pair: MeasuredPair) -> str:
    """The case without the name of who ran it."""
    return pair.case.replace(" triton", "", 1)


def _no_matrix_instruction(subject: Subject) -> str:
    gpu = subject.gpu
    if gpu.compute_capability >= FIRST_WITH_MATRIX_INSTRUCTIONS:
        return ""
    version = (subject.measured.conditions or {}).get("Triton", "")
    capability = "{}.{}".format(*gpu.compute_capability)
    units = (
        "they miss its Tensor Cores, which cuBLAS and cuDNN use, and run on the FP32 units"
        if gpu.has_tensor_cores
        else "they run on the FP32 units, as the libraries' do"
    )
    return (
        f"Triton{f' {version}' if version else ''} emits no matrix instruction for compute capability {capability}, "
        f"that of {gpu.name}: whatever the tile of our kernels, {units}."
    )


def _evenly(pairs: Sequence[MeasuredPair]) -> list[MeasuredPair]:
    """In an order that has nothing to do with the cases, the same for the same cases: any first part is a sample."""
    return sorted(pairs, key=lambda pair: (zlib.crc32(pair.case.encode(errors="replace")), pair.case))


def _share(count: int, total: int, most: int) -> int:
    """How many of `count` out of `total` are shown where at most about `most` are."""
    return count if total <= most else max(1, count * most // total)


def _looks(groups: Sequence[Group]) -> dict[str, int]:
    """Of each family."""
    families = sorted({_family(group) for group in groups})
    return {family: place % len(LOOKS) for place, family in enumerate(families)}


def _family(group: Group) -> str:
    """Groups that differ in type, layout or caches alone look alike."""
    return " ".join([*group.name.split()[:2], "against", printed(group.library)])


def _row(name: str, pairs: Sequence[MeasuredPair], look: int, total: int) -> RatioGroup:
    order = _evenly(pairs)
    points = _share(len(pairs), total, MOST_DRAWN)
    name = name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…"
    return RatioGroup(name, look, np.array([p.ratio for p in order]), np.array([p.flops for p in order]), points)


def _groups_figure(groups: Sequence[Group], origin: Origin) -> Figure:
    looks, total = _looks(groups), sum(len(group.pairs) for group in groups)
    largest = sorted(groups, key=lambda group: (-len(group.pairs), group.title))[:MOST_GROUPS]
    rows = [
        _row(group.title, group.pairs, looks[_family(group)], total)
        for group in sorted(largest, key=lambda group: group.title)
    ]

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        draw_groups(figure, rows, narrow, x_label=AXIS)

    return Figure(
        id="ratio-groups",
        title="How fast are our Triton kernels beside cuBLAS and cuDNN?",
        answer=_groups_answer(groups),
        alt=(
            f"{counted(len(rows), 'row')} of points, one row per kind of case, on a logarithmic axis of ratios with a "
            f"dashed line at 1; a box around the middle half and a diamond at the geometric mean, from "
            f"{min(row.mean for row in rows):.2f} to {max(row.mean for row in rows):.2f}."
        ),
        origins=(origin,),
        draw=draw,
        inches=(7.4, 1.5 + 0.42 * len(rows)),
        narrow_inches=(3.9, 1.6 + 0.5 * len(rows)),
    )


def _groups_answer(groups: Sequence[Group]) -> str:
    pairs = [pair for group in groups for pair in group.pairs]
    ahead = percent(sum(pair.ratio > 1 for pair in pairs) / len(pairs))
    libraries = " and ".join(sorted({printed(group.library) for group in groups}))
    said = (
        f"Our Triton kernels run at {geometric_mean(pairs):.2f} times the speed of {libraries} in the geometric mean "
        f"of {counted(len(pairs), 'case')}, and are faster in {ahead} of them"
    )
    if len(groups) == 1:
        return f"{said}."
    best, worst = max(groups, key=lambda group: group.mean), min(groups, key=lambda group: group.mean)
    return f"{said}: from {worst.mean:.2f} in {worst.title} to {best.mean:.2f} in {best.title}."


def _sizes_figure(groups: Sequence[Group], origin: Origin) -> Figure:
    families: dict[str, list[MeasuredPair]] = defaultdict(list)
    for group in groups:
        families[_family(group)] += (pair for pair in group.pairs if math.isfinite(pair.flops) and pair.flops > 0)
    looks, total = _looks(groups), sum(map(len, families.values()))
    rows = [_row(name, pairs, looks[name], total) for name, pairs in families.items() if pairs]

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        draw_sizes(figure, rows, narrow, y_label=AXIS_UPRIGHT)

    sized = sorted((pair for pairs in families.values() for pair in pairs), key=lambda pair: pair.flops)
    middle = sized[len(sized) // 2].flops
    limit = middle if middle > sized[0].flops else next(p.flops for p in sized if p.flops > middle)
    small, large = [p for p in sized if p.flops < limit], [p for p in sized if p.flops >= limit]
    return Figure(
        id="ratio-sizes",
        title="Does the ratio depend on the size of the work?",
        answer=(
            f"Below {limit / 1e9:.3g} GFLOP ours run at {geometric_mean(small):.2f} times the libraries' "
            f"speed, from there on at {geometric_mean(large):.2f} times (geometric means of {len(small):,} and "
            f"{len(large):,} cases)."
        ),
        alt=(
            f"{counted(len(sized), 'point')}, ratio over FLOP, both axes logarithmic, with a dashed line at 1 and a "
            "line through the geometric means by size."
        ),
        origins=(origin,),
        draw=draw,
        inches=(7.4, 4.6),
        narrow_inches=(3.9, 4.4 + 0.2 * len(rows)),
        interactive=Interactive(
            (*(_series(name, pairs, looks[name], total) for name, pairs in families.items() if pairs), _means(sized)),
            x_title="work of the case, GFLOP",
            y_title=AXIS_UPRIGHT,
            x_log2=True,
            y_log=True,
            y_from_zero=False,
        ),
    )


def _series(name: str, pairs: Sequence[MeasuredPair], look: int, total: int) -> Series:
    shown = sorted(_evenly(pairs)[: _share(len(pairs), total, MOST_INTERACTIVE)], key=lambda pair: pair.flops)
    tone, symbol = _TONES[look]
    return Series(
        name, "points", tone, tuple(pair.flops / 1e9 for pair in shown), tuple(pair.ratio for pair in shown),
        (
            Fact("case", tuple(case_of(pair) for pair in shown)),
            Fact("library", tuple(duration(pair.library_s) for pair in shown)),
            Fact("ours", tuple(duration(pair.ours_s) for pair in shown)),
            Fact("ratio", tuple(round(pair.ratio, 3) for pair in shown)),
        ),
        symbol=symbol,
    )  # fmt: skip


def _means(sized: Sequence[MeasuredPair]) -> Series:
    flops, mean = means_by_size(np.array([pair.flops for pair in sized]), np.array([pair.ratio for pair in sized]))
    means = tuple(mean.tolist())
    facts = (Fact("mean ratio", tuple(round(ratio, 3) for ratio in means)),)
    return Series("geometric mean by size", "line", "ink", tuple((flops / 1e9).tolist()), means, facts)


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _groups_table(groups: Sequence[Group], origin: Origin) -> Table:
    columns = (
        Column(
            "group", "cases", note="kind, pass, type, layout and place of the operands (cold: in memory, warm: in L2)"
        ),
        Column("library", "against"),
        Column("pairs", "pairs"),
        Column("geometric_mean", "mean ratio", _ratio, "geometric mean of the library's time over ours"),
        Column("least", "least", _ratio),
        Column("first_quartile", "first quartile", _ratio),
        Column("third_quartile", "third quartile", _ratio),
        Column("most", "most", _ratio),
        Column("share_ahead", "ours faster in", percent),
    )
    rows = []
    for group in groups:
        least, low, high, most = np.quantile([pair.ratio for pair in group.pairs], (0, 0.25, 0.75, 1)).tolist()
        name, library = group.name, printed(group.library)
        rows.append((name, library, len(group.pairs), group.mean, least, low, high, most, group.ahead))
    return Table("ratio-groups", "Ratios by kind of case", columns, tuple(rows), (origin,))


def _cases_table(pairs: Sequence[MeasuredPair], origin: Origin) -> Table:
    """The best and the worst first, then all others: a page prints the first ones, the CSV has every pair."""
    columns = (
        Column("case", "case"),
        Column("library", "against"),
        Column("library_s", "library", duration),
        Column("ours_s", "ours", duration),
        Column("ratio", "ratio", _ratio, "the library's time over ours"),
        Column("flops", "GFLOP", lambda value: f"{value / 1e9:,.3g}"),
    )
    ranked = sorted(pairs, key=lambda pair: (-pair.ratio, pair.case))
    if len(ranked) > 2 * EXTREMES:
        ranked = [*ranked[:EXTREMES], *ranked[-EXTREMES:], *ranked[EXTREMES:-EXTREMES]]
    return Table(
        "ratio-cases",
        f"The {EXTREMES} best and the {EXTREMES} worst cases" if len(ranked) > 2 * EXTREMES else "Every case",
        columns,
        tuple(
            (
                case_of(p),
                printed(p.library),
                p.library_s,
                p.ours_s,
                p.ratio,
                p.flops if math.isfinite(p.flops) else None,
            )
            for p in ranked
        ),
        (origin,),
        shown=2 * EXTREMES,
    )
