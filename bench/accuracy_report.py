"""reports/ACCURACY.md as a report to look at: its headings are sections, its tables sort, its errors are drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from advisor.errors import BrokenFileError
from advisor.gpus import find_gpu
from advisor.profile import FOLDER, Error, read_profile
from advisor.report.held_out import HeldOutProducts, HeldOutSteps, load_held_out
from advisor.report.records import Cell, Column, Figure, Origin, Report, Section, Table, slug
from advisor.report.sections.accuracy_figures import steps_figure
from advisor.units import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

OURS = "as shipped"
_LONGEST_TITLE = 140  # of a table, taken from the paragraph before it
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.(\d+))?")
_COMMAND = "python -m bench accuracy"


@dataclass
class Part:
    """Text under one heading: paragraphs (str) and tables (rows of cells, the first has the titles), in order."""

    heading: str
    under: str = ""  # the heading of the level above
    blocks: list[str | list[list[str]]] = field(default_factory=list)


@dataclass(frozen=True)
class _Ids:
    """Those taken already."""

    sections: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)


def accuracy_report(text: str, gpus: Sequence[str]) -> Report:
    """The report of `text`, ACCURACY.md, with figures of `gpus` from their shipped counts.

    Raises BrokenFileError where a table of `text` is not one.
    """
    head, *parts = _parts(text)
    counts = {gpu: held.products["fp16"] for gpu in gpus if (held := load_held_out(gpu)) and "fp16" in held.products}
    grids = {gpu: products for gpu, products in counts.items() if products.rivals}
    steps = {gpu: held.steps for gpu in gpus if (held := load_held_out(gpu)) and held.steps}
    figures = {
        "Sizes not in the fit": [_rivals(grids), _densities(counts)],
        "A GPU without timings": [_borrowed(grids)],
        "Training steps on the RTX 3090": [
            steps_figure(layout, found, find_gpu(gpu).name)
            for gpu, layouts in steps.items()
            for layout, found in layouts.items()
        ],
    }
    ids = _Ids()
    sections = tuple(_section(part, figures.get(part.heading, []), ids) for part in parts if part.blocks)
    fitted = sorted({products.fitted for products in counts.values()})
    return Report(
        title=head.heading,
        summary=tuple(_summary(counts, steps)),
        conditions={
            "GPUs": ", ".join(dict.fromkeys((*counts, *steps))),
            "Fitted": ", ".join(fitted),
            "Command": f"{_COMMAND}, then python -m bench publish",
        },
        sections=sections,
        notes=tuple(block.replace("\n", " ") for block in head.blocks if isinstance(block, str)),
    )


# Text to records -----------------------------------------------------------------------------------------------------


def _parts(text: str) -> list[Part]:
    """The document's heading, then every heading below it. Of its marks only those of code in paragraphs are kept."""
    parts: list[Part] = []
    above = ""
    for block in re.split(r"\n\s*\n", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)):
        lines = block.strip().splitlines()
        if not lines:
            continue
        if heading := re.fullmatch(r"(#+) (.*)", lines[0]):
            deep = len(heading[1]) > 2
            above = above if deep else heading[2]
            parts.append(Part(_plain(heading[2]), under=_plain(above) if deep else ""))
            lines = lines[1:]
        if not parts:
            raise BrokenFileError(f"the accuracy report begins with no heading: write it anew with `{_COMMAND}`")
        if lines:
            parts[-1].blocks.append(_grid(lines) if lines[0].startswith("|") else " ".join(lines))
    return parts


def _plain(text: str) -> str:
    return text.replace("`", "")


def _grid(lines: Sequence[str]) -> list[list[str]]:
    rows = [[_plain(cell.strip()) for cell in line.strip().strip("|").split("|")] for line in lines]
    del rows[1]  # the rule under the titles
    if any(len(row) != len(rows[0]) for row in rows):
        raise BrokenFileError(f"a table of the accuracy report has rows of several lengths, below {lines[0]!r}: "
                              f"write it anew with `{_COMMAND}`")  # fmt: skip
    return rows


def _section(part: Part, figures: Sequence[Figure], ids: _Ids) -> Section:
    """Paragraphs before the first table lead, a short one just before a later table is its title, others are notes."""
    lead: list[str] = []
    notes: list[str] = []
    tables: list[Table] = []
    title = part.heading
    for i, block in enumerate(part.blocks):
        if isinstance(block, str):
            following = part.blocks[i + 1] if i + 1 < len(part.blocks) else None
            if not tables and not isinstance(following, str) and not lead:
                lead.append(block)
            elif tables and isinstance(following, list) and len(block) <= _LONGEST_TITLE:
                title = _plain(block).rstrip(":.")
            else:
                (notes if tables else lead).append(block)
        else:
            tables.append(
                _table(title if title not in {t.title for t in tables} else f"{title}, continued", block, ids.tables)
            )
            title = part.heading
    name = f"{part.under}: {part.heading}" if part.under else part.heading
    return Section(_new(slug(name), ids.sections), name, " ".join(lead), tuple(figures), tuple(tables), tuple(notes))


def _table(title: str, grid: Sequence[Sequence[str]], ids: set[str]) -> Table:
    titles, rows = grid[0], grid[1:]
    keys: set[str] = set()
    columns, values = [], []
    for i, name in enumerate(titles):
        texts = [row[i] for row in rows]
        show, cells = _numbers(texts)
        columns.append(Column(_new(name, keys), name, show))
        values.append(cells)
    origin = Origin(
        "estimate",
        f"predictions held against public measurements, which the text names; errors as `{_COMMAND}` found them",
    )
    return Table(_new(slug(title), ids), title, tuple(columns), tuple(zip(*values, strict=True)), (origin,))


def _numbers(texts: Sequence[str]) -> tuple[Callable[[Cell], str] | None, list[Cell]]:
    """Cells of a column as numbers, and how they are printed, where all of them are; else as they are."""
    found = [_NUMBER.fullmatch(text) for text in texts]
    if not texts or not all(found):
        return None, [text or None for text in texts]
    digits = max(len(each[1] or "") for each in found if each)
    signed = "+" if any(text.startswith("+") for text in texts) else ""
    cells: list[Cell] = [float(text.replace(",", "")) if digits else int(text.replace(",", "")) for text in texts]
    return (lambda value: f"{value:{signed},.{digits}f}"), cells


def _new(name: str, taken: set[str]) -> str:
    """The name, numbered from the second on."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


# Figures -------------------------------------------------------------------------------------------------------------


def _summary(counts: Mapping[str, HeldOutProducts], steps: Mapping[str, Mapping[str, HeldOutSteps]]) -> Iterator[str]:
    """What a reader should take away: the error of products, of steps, and of a GPU that nobody has timed."""
    grids = {gpu: products for gpu, products in counts.items() if products.rivals}
    roofline = _range(each.rivals["roofline"].mean for each in grids.values())
    few = [
        f" On {find_gpu(gpu).name}, with few timings: {percent(products.error.mean, 1)}."
        for gpu, products in counts.items()
        if gpu not in grids
    ]
    yield (
        f"Matrix products of sizes that the fit has not seen, on {len(grids)} GPUs with whole tables of timings: "
        f"{_range(each.error.mean for each in grids.values())} off in the mean, where a roofline fitted to the same "
        f"timings is {roofline} off.{''.join(few)}"
    )
    for gpu, layouts in steps.items():
        each = ", ".join(f"{percent(found.error.mean, 1)} ({layout.upper()})" for layout, found in layouts.items())
        yield f"Training steps of models that the fit has not seen, on {find_gpu(gpu).name}: {each} off in the mean."
    loans = [found["borrowed"].mean for found in _loans(grids).values()]
    yield (
        f"Matrix products on a GPU without timings: {_range(loans)} off in the mean, as found by predicting "
        f"{len(loans)} GPUs with timings as if they had none."
    )


def _range(errors: Iterable[float]) -> str:
    known = sorted(errors)
    return " to ".join(dict.fromkeys((percent(known[0], 1), percent(known[-1], 1))))


def _origins(counts: Mapping[str, HeldOutProducts]) -> tuple[Origin, ...]:
    what = next(iter(counts.values())).error.what
    measured = "; ".join(dict.fromkeys(each.origin for each in counts.values()))
    error = max(counts.values(), key=lambda each: each.error.mean).error
    return (
        Origin("public measurement", measured),
        Origin(
            "estimate",
            f"predicted by fits without these rows: {what}; at most {percent(error.mean, 1)} off in the mean",
        ),
    )


def _rivals(counts: Mapping[str, HeldOutProducts]) -> Figure:
    errors: dict[str, dict[str, Error]] = {gpu: {OURS: each.error, **each.rivals} for gpu, each in counts.items()}
    means = [each.error.mean for each in counts.values()]
    ahead = sum(each.error.mean < min(rival.mean for rival in each.rivals.values()) for each in counts.values())
    roofline = [each.rivals["roofline"].mean for each in counts.values()]

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_errors

        draw_errors(figure.subplots(), errors, narrow=narrow)

    return Figure(
        id="errors-side-by-side",
        title="How wrong are predicted products, beside simpler models of the same rows?",
        answer=(
            f"{percent(min(means), 1)} to {percent(max(means), 1)} off in the mean, where a roofline with three fitted "
            f"constants is {percent(min(roofline), 1)} to {percent(max(roofline), 1)} off; below every simpler model "
            f"on {ahead} of {len(counts)} GPUs."
        ),
        alt=f"A row of dots for each of {len(counts)} GPUs: mean error of {', '.join(next(iter(errors.values())))}.",
        origins=_origins(counts),
        draw=draw,
        inches=(7.4, 3.8),
        narrow_inches=(3.9, 4.4),
    )


def _densities(counts: Mapping[str, HeldOutProducts]) -> Figure:
    within = {gpu: each.within[0] for gpu, each in counts.items()}
    best, worst = (pick(within, key=lambda gpu: within[gpu]) for pick in (max, min))
    total = sum(each.error.rows for each in counts.values())

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_densities

        draw_densities(figure, {gpu: each.rates for gpu, each in counts.items()}, narrow=narrow)

    rows = -(-len(counts) // 3), -(-len(counts) // 2)
    return Figure(
        id="densities",
        title="Where do predicted products lie beside measured ones, GPU by GPU?",
        answer=(
            f"Around the line on which both are equal: within 10 % are from {percent(within[worst])} of the products "
            f"({worst}) to {percent(within[best])} ({best}), of {total:,} in all. Dashed lines are 10 % off, dotted "
            "ones 20 %."
        ),
        alt=(
            f"{len(counts)} small densities of predicted against measured TFLOP/s, one per GPU, around the line on "
            "which both are equal, with dashed lines 10 % and dotted lines 20 % off."
        ),
        origins=_origins(counts),
        draw=draw,
        inches=(7.4, 0.3 + 2.4 * rows[0]),
        narrow_inches=(3.9, 0.3 + 2.0 * rows[1]),
    )


def _loans(gpus: Iterable[str]) -> dict[str, dict[str, Error]]:
    """Error of each GPU's products from another's coefficients where that was tried, and from its own timings."""
    models = {gpu: read_profile(FOLDER / f"{gpu}.json").gemm["fp16"] for gpu in gpus}
    return {
        gpu: {"borrowed": model.borrowed, "own timings": model.held_out}
        for gpu, model in models.items()
        if model.borrowed is not None
    }


def _borrowed(counts: Mapping[str, HeldOutProducts]) -> Figure:
    errors = _loans(counts)
    means = [found["borrowed"].mean for found in errors.values()]

    def draw(figure: MatplotlibFigure, narrow: bool) -> None:
        from advisor.plots.accuracy import draw_errors

        draw_errors(figure.subplots(), errors, narrow=narrow)

    return Figure(
        id="borrowed",
        title="How wrong are products on a GPU without timings?",
        answer=(
            f"From the coefficients of the nearest other GPU and their own facts, {len(errors)} GPUs were "
            f"{percent(min(means))} to {percent(max(means))} off in the mean."
        ),
        alt=(
            f"A row of dots for each of {len(errors)} GPUs: the mean error of its products from its own timings, and "
            f"from the coefficients of the nearest other GPU, which is {percent(min(means))} to {percent(max(means))}."
        ),
        origins=_origins(counts),
        draw=draw,
        inches=(7.4, 3.6),
        narrow_inches=(3.9, 3.8),
    )
