"""Section `waves`: wave efficiency over M and N for a tile, counted exactly, and what each tile more costs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from advisor.plots.canvas import BLACK, BLUE, ORANGE
from advisor.quantization import ceil_div, idle_share, largest_size, tile_count, tile_efficiency
from advisor.report.records import Column, Fact, Figure, Interactive, Mark, Origin, Section, Series, Table
from advisor.report.subject import Subject
from advisor.report.wave_map import Integers, WaveMap, usual_tile
from advisor.units import counted, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.image import AxesImage

FIXED_N = 4096
SMALLEST = 128
_FINE = 32  # step of the map that shows what edge tiles waste
_DARKEST = 0.5  # efficiencies below it have one colour
_MOST_NAMED = 6
_MOST_MARKS = 12
_SHOWN = 16
_TURNS = (1.0, 0.8, 1.25, 0.6, 1.7, 0.45, 2.2)  # where along its hyperbola a wave's name may stand


def section(subject: Subject) -> Section:
    """The maps of one tile, and the same along two lines through them."""
    tile_m, tile_n, why = usual_tile(subject)
    found = WaveMap(tile_m, tile_n, subject.gpu.sms)
    full = found.full()
    origin = Origin(
        "exact",
        f"counted for {subject.gpu.name}: {counted(subject.gpu.sms, 'SM')}, one CTA resident on each, tiles of "
        f"{tile_m}x{tile_n}, no split K",
    )
    turned = f" A library may turn it round ({tile_n}x{tile_m}): then exchange M and N." if tile_m != tile_n else ""
    tables = (_table(full, found, origin),) if full else ()
    return Section(
        id="waves",
        title="Waves over M and N",
        lead=(
            f"A product C[M, N] is cut into tiles of {tile_m}x{tile_n}, {why}. Each of the {subject.gpu.sms} SMs works "
            f"on one tile at a time, so {subject.gpu.sms} tiles are one wave, and a last wave that is not full leaves "
            f"SMs idle.{turned} K changes none of this. The counts are exact; what they cost in time is less where "
            "memory is the bound."
        ),
        figures=(_map_figure(found, full, origin), _line_figure(found, origin)),
        tables=tables,
    )


# The map --------------------------------------------------------------------------------------------------------------


def _map_figure(found: WaveMap, full: Sequence[tuple[int, int, int]], origin: Origin) -> Figure:
    return Figure(
        id="waves-map",
        title="Which M and N leave SMs idle in the last wave?",
        answer=f"{_fullest(found, full)} {_losses(found)}",
        alt=(
            f"Two heat maps over M and N up to {found.largest}. In the first, wave efficiency rises to 100 % along "
            "hyperbolas, each the end of a whole wave, and falls just beyond: to about half after the first, and ever "
            "less after the later ones. In the second it is multiplied by tile efficiency: dark stripes follow each "
            f"multiple of {found.tile_m} in M and of {found.tile_n} in N, and fade with size."
        ),
        origins=(origin,),
        draw=partial(_draw_maps, found=found, full=full),
        inches=(7.4, 4.4),
        narrow_inches=(3.9, 7.6),
    )


def _fullest(found: WaveMap, full: Sequence[tuple[int, int, int]]) -> str:
    """What fills its waves, by an example, and what the next column of tiles costs there."""
    grids = f"{found.rows * found.columns:,} grids of tiles up to {found.largest}x{found.largest}"
    if not full:
        return f"None of the {grids} fills its waves exactly on {found.slots} SMs."
    m, n, waves = full[0]
    tiles = waves * found.slots
    more = tiles + m // found.tile_m
    more_waves = ceil_div(more, found.slots)
    return (
        f"{len(full)} of the {grids} fill their waves exactly: {m}x{n} for instance is {counted(tiles, 'tile')}, "
        f"{counted(waves, 'full wave')}. One column more, {m}x{n + 1}, is {counted(more, 'tile')} in "
        f"{counted(more_waves, 'wave')}, with {percent(idle_share(more, found.slots))} of the SMs idle."
    )


def _losses(found: WaveMap) -> str:
    poor = float(np.mean(found.by_tiles() < 0.8))
    return (
        f"{percent(poor)} of the grids leave a fifth or more idle, all of them in fewer than 5 waves: after w full "
        "waves less than 1/(w + 1) can idle."
    )


def _draw_maps(figure: MatplotlibFigure, narrow: bool, *, found: WaveMap, full: Sequence[tuple[int, int, int]]) -> None:
    panels = figure.subplots(*((2, 1) if narrow else (1, 2)), sharex=True, sharey=True)
    waves, both = panels
    covered = (0, found.rows * found.tile_m, 0, found.columns * found.tile_n)
    image = _image(waves, found.by_tiles(), covered)
    waves.set_title("wave efficiency", fontsize=10)
    labels = _Labels(waves, found.largest, 3.1 if narrow else 2.7)
    _draw_full(waves, full, found, labels)
    _draw_boundaries(waves, found, labels)
    sizes = np.arange(_FINE, found.largest + 1, _FINE)
    _image(both, found.efficiency(sizes[:, None], sizes[None, :]), (0, found.largest, 0, found.largest))
    both.set_title("wave efficiency x tile efficiency", fontsize=10)
    ticks = range(0, found.largest + 1, 2048)
    for axes in panels:
        axes.set(xlim=(0, found.largest), ylim=(0, found.largest), xticks=ticks, yticks=ticks)
        axes.tick_params(labelsize=9)
        axes.label_outer()
    panels[-1].set_xlabel("M")
    if not narrow:
        waves.set_xlabel("M")
    for axes in panels if narrow else panels[:1]:
        axes.set_ylabel("N")
    bar = figure.colorbar(image, ax=panels, extend="min", format=lambda share, _: percent(share), aspect=30,
                          location="bottom" if narrow else "right", pad=0.02)  # fmt: skip
    bar.ax.tick_params(labelsize=9)
    bar.set_label("efficiency")


def _image(axes: Axes, values: np.ndarray, covered: tuple[int, int, int, int]) -> AxesImage:
    """Efficiencies (M, N) as an image; the size at a cell's upper right corner decides it."""
    return axes.imshow(values.T, origin="lower", extent=covered, aspect="auto", interpolation="nearest",
                       cmap="cividis", vmin=_DARKEST, vmax=1.0)  # fmt: skip


def _draw_boundaries(axes: Axes, found: WaveMap, labels: _Labels) -> None:
    """Outline where 1, 2, 4, ... waves are full, and name each where its outline has room."""
    edges = np.arange(found.rows + 1) * found.tile_m
    for waves in (1 << i for i in range(30)):
        if waves * found.slots > found.rows * found.columns:
            break
        axes.stairs(found.boundary(waves), edges, baseline=None, color="white", linewidth=2.2)
        axes.stairs(found.boundary(waves), edges, baseline=None, color=BLACK, linewidth=1.0)
        side = (waves * found.slots * found.tile_m * found.tile_n) ** 0.5
        text = "1 wave" if waves == 1 else str(waves)
        for turn in _TURNS:
            if labels.put(text, side * turn, side / turn, edge=BLACK):
                break


def _draw_full(axes: Axes, full: Sequence[tuple[int, int, int]], found: WaveMap, labels: _Labels) -> None:
    """Mark the sizes of one full wave (of the fewest that any size fills) and name those that have room."""
    fewest = [(m, n) for m, n, waves in full if waves == full[0][2]]
    axes.plot([m for m, _ in fewest], [n for _, n in fewest], "o", color="white", markeredgecolor=BLACK, markersize=5)
    for m, n in fewest[:_MOST_NAMED]:
        text = f"{m}x{n}"
        aside = (0.5 * labels.width(text) + 0.015) * found.largest
        labels.put(text, m + aside if m < found.largest / 2 else m - aside, n + 0.035 * found.largest, edge="none")


class _Labels:
    """Places words on a square map of sizes where no others stand."""

    def __init__(self, axes: Axes, largest: int, inches: float) -> None:
        self.axes, self.largest, self.inches = axes, largest, inches
        self.boxes: list[tuple[float, float, float]] = []

    def width(self, text: str) -> float:
        """Width of words of 8 points, as a share of the map's."""
        return (len(text) * 0.075 + 0.04) / self.inches

    def put(self, text: str, x: float, y: float, *, edge: str) -> bool:
        """Write words around (x, y) unless that is outside of the map or occupied."""
        half, height = self.width(text) / 2 * self.largest, 0.06 * self.largest
        inside = half < x < self.largest - half and height / 2 < y < self.largest - height / 2
        if not inside or any(abs(x - a) < half + b and abs(y - c) < height for a, c, b in self.boxes):
            return False
        self.boxes.append((x, y, half))
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": edge, "linewidth": 0.6}
        self.axes.annotate(text, (x, y), ha="center", va="center", fontsize=8, bbox=box)
        return True


# Along two lines ------------------------------------------------------------------------------------------------------


def _line_figure(found: WaveMap, origin: Origin) -> Figure:
    sizes = _turning_points(found)
    fixed = np.full(len(sizes), FIXED_N)
    ends = _wave_ends(found)
    series = (
        _series(f"N = {FIXED_N}", found, sizes, fixed, dashed=False),
        _series("N = M", found, sizes, sizes, dashed=True),
    )
    return Figure(
        id="waves-lines",
        title="How much of the GPU works as one side of a product grows?",
        answer=_line_answer(found, ends),
        alt=(
            f"Two lines of teeth against M from {SMALLEST} to {found.largest}: the share of the work that is not lost "
            f"to edge tiles or idle SMs, for N = {FIXED_N} and for N = M. Both rise to a peak where a wave is full, "
            "fall just past it, and stay ever nearer to 100 % as M grows."
        ),
        origins=(origin,),
        draw=partial(_draw_lines, found=found, ends=ends),
        inches=(7.4, 3.6),
        narrow_inches=(3.9, 3.9),
        interactive=Interactive(
            series=series,
            x_title="M",
            y_title="wave efficiency x tile efficiency (%)",
            marks=tuple(_mark(found, end) for end in ends[:_MOST_MARKS]),
        ),
    )


def _turning_points(found: WaveMap) -> Integers:
    """Sizes at which either line turns: the last and the first of each row and column of tiles, and 128 apart."""
    steps = [np.arange(step, found.largest + 1, step) for step in (found.tile_m, found.tile_n, SMALLEST)]
    ends = np.concatenate(steps)
    sizes = np.unique(np.concatenate((ends, ends + 1)))
    return np.asarray(sizes[(sizes >= SMALLEST) & (sizes <= found.largest)], dtype=np.int64)


def _wave_ends(found: WaveMap) -> list[int]:
    """The largest M of 1, 2, ... waves at N = FIXED_N."""
    columns, ends = ceil_div(FIXED_N, found.tile_n), []
    for waves in range(1, found.rows * columns // found.slots + 1):
        end = int(largest_size(waves, found.slots, columns, found.tile_m))
        if SMALLEST <= end < found.largest and end not in ends:
            ends.append(end)
    return ends


def _mark(found: WaveMap, end: int) -> Mark:
    before, after = (tile_count(m, FIXED_N, found.tile_m, found.tile_n) for m in (end, end + 1))
    return Mark(
        end,
        str(end),
        f"M = {end}, N = {FIXED_N}: {before} tiles on {found.slots} SMs, {counted(_waves_at(found, end), 'wave')}; "
        f"M = {end + 1}: {after} tiles, {_waves_at(found, end + 1)} waves",
    )


def _series(name: str, found: WaveMap, m: Integers, n: Integers, *, dashed: bool) -> Series:
    tiles = np.asarray(tile_count(m, n, found.tile_m, found.tile_n))
    inside = np.asarray(tile_efficiency(m, n, found.tile_m, found.tile_n))
    return Series(
        name=name,
        kind="line",
        tone="orange" if dashed else "blue",
        x=tuple(m.tolist()),
        y=tuple((100 * found.efficiency(m, n)).round(2).tolist()),
        facts=(
            Fact("M", tuple(m.tolist())),
            Fact("N", tuple(n.tolist())),
            Fact("tile", (f"{found.tile_m}x{found.tile_n}",) * len(m)),
            Fact("tiles", tuple(tiles.tolist())),
            Fact("waves", tuple((tiles / found.slots).round(2).tolist())),
            Fact("idle share", tuple((100 * np.asarray(idle_share(tiles, found.slots))).round(1).tolist()), "%"),
            Fact("lost in edge tiles", tuple((100 * (1 - inside)).round(1).tolist()), "%"),
        ),
        dashed=dashed,
    )


def _line_answer(found: WaveMap, ends: Sequence[int]) -> str:
    if not ends:
        return f"At N = {FIXED_N} all of M up to {found.largest} is within one wave: efficiency only grows with M."
    text = f"At N = {FIXED_N} it falls from {_fall(found, ends[0])} past M = {ends[0]}, the end of "
    text += counted(_waves_at(found, ends[0]), "wave")
    if len(ends) > 1:
        text += f", but only from {_fall(found, ends[-1])} past M = {ends[-1]}, the end of {_waves_at(found, ends[-1])}"
    return text + ": the more waves there are, the less a further one costs."


def _fall(found: WaveMap, end: int) -> str:
    before, after = found.efficiency(np.array([end, end + 1]), np.array([FIXED_N, FIXED_N]))
    return f"{percent(before)} to {percent(after)}"


def _waves_at(found: WaveMap, m: int) -> int:
    return ceil_div(tile_count(m, FIXED_N, found.tile_m, found.tile_n), found.slots)


def _draw_lines(figure: MatplotlibFigure, narrow: bool, *, found: WaveMap, ends: Sequence[int]) -> None:
    axes = figure.subplots()
    sizes = _turning_points(found)
    axes.plot(
        sizes, found.efficiency(sizes, sizes), color=ORANGE, linewidth=1.1, linestyle=(0, (4, 1.5)), label="N = M"
    )
    axes.plot(sizes, found.efficiency(sizes, np.full(len(sizes), FIXED_N)), color=BLUE, linewidth=1.5,
              label=f"N = {FIXED_N}")  # fmt: skip
    room = found.largest * (0.14 if narrow else 0.065)
    last = -room
    for end in ends:
        height = float(found.efficiency(np.array([end]), np.array([FIXED_N]))[0])
        axes.plot([end], [height], "o", color=BLUE, markersize=4)
        if end - last >= room:
            axes.annotate(str(end), (end, height), xytext=(0, 5), textcoords="offset points", fontsize=8,
                          ha="left" if end < room / 2 else "center")  # fmt: skip
            last = end
    axes.set(xlim=(0, found.largest), ylim=(0, 1.1), xlabel="M", ylabel="wave x tile efficiency")
    axes.set_xticks(range(0, found.largest + 1, 2048 if narrow else 1024))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(lambda share, _: percent(share))
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False, loc="lower right")


# The table ------------------------------------------------------------------------------------------------------------


def _table(full: Sequence[tuple[int, int, int]], found: WaveMap, origin: Origin) -> Table:
    return Table(
        id="waves-full",
        title=f"Sizes up to {found.largest}x{found.largest} that fill their waves exactly",
        columns=(
            Column("m", "M"),
            Column("n", "N"),
            Column("tiles", "tiles", note=f"of {found.tile_m}x{found.tile_n}"),
            Column("waves", "waves", note=f"of {found.slots} tiles"),
        ),
        rows=tuple((m, n, waves * found.slots, waves) for m, n, waves in full),
        origins=(origin,),
        shown=_SHOWN,
    )
