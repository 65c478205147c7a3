"""Pictures of exact counts: the staircase of tiles and waves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.errors import BadInputError
from advisor.plots.canvas import BLACK, BLUE, GREEN, GREY, VERMILION, drawing
from advisor.quantization import GemmQuantization

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LABELS = 12  # full waves named in the picture; beyond, every second, third ... one


def save_staircase(found: GemmQuantization, dimension: str, path: Path, *, title: str) -> None:
    """Draw waves and efficiencies of a product over a range of `dimension` ("m", "n" or "k").

    Above: whole waves (stairs) and waves as a fraction. Below: wave efficiency and its product with tile
    efficiency; the teeth end where a wave is full, and the sizes of these ends are named.
    The suffix decides between PNG, SVG and PDF. Raises BadInputError for other suffixes, for a result that holds
    one size only, and where the file cannot be written.
    """
    sizes = np.asarray(getattr(found, dimension))
    if sizes.size < 2:
        raise BadInputError(f"a staircase needs several sizes of {dimension}, got one")
    with drawing(path, inches=(9, 6.2)) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
        _draw_waves(above, sizes, found)
        _draw_efficiency(below, sizes, found)
        below.set_xlabel(dimension)
        below.set_xlim(sizes[0], sizes[-1])
        figure.suptitle(title, fontsize=10)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def _draw_waves(axes: Axes, sizes: Any, found: GemmQuantization) -> None:
    from matplotlib.ticker import MaxNLocator

    whole, fraction = (np.broadcast_to(value, sizes.shape) for value in (found.whole_waves, found.waves))
    # steps reach back ("pre"): a size needs the same tiles as the ones below it, down to the last multiple of a tile
    axes.fill_between(sizes, fraction, whole, step="pre", color=VERMILION, alpha=0.18, linewidth=0, label="idle slots")
    axes.step(sizes, whole, where="pre", color=VERMILION, linewidth=1.8, label="whole waves")
    axes.step(sizes, fraction, where="pre", color=BLUE, linewidth=1.2, label="waves as a fraction: tiles / slots")
    axes.set_ylabel(f"waves (slots: {found.slots})")
    axes.set_ylim(0, None)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.grid(axis="y", color=GREY, alpha=0.15)


def _draw_efficiency(axes: Axes, sizes: Any, found: GemmQuantization) -> None:
    wave, both = (np.broadcast_to(value, sizes.shape) for value in (found.wave_efficiency, found.efficiency))
    ends = np.flatnonzero(np.diff(np.broadcast_to(found.whole_waves, sizes.shape)) > 0)
    axes.step(sizes, wave, where="pre", color=GREEN, linewidth=2, label="wave efficiency")
    axes.plot(sizes, both, color=BLACK, linewidth=1, label="wave efficiency x tile efficiency")
    named = ends[:: max(1, -(-len(ends) // _MOST_LABELS))]
    axes.plot(sizes[named], both[named], "o", color=BLACK, markersize=4, label="last size before another wave")
    for end in named:
        axes.axvline(sizes[end], color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        axes.annotate(f"{sizes[end]}", (sizes[end], both[end]), xytext=(-3, 5), textcoords="offset points",
                      ha="right", fontsize=8, color=GREY)  # fmt: skip
    axes.set_ylabel("efficiency")
    axes.set_ylim(0, 1.12)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", color=GREY, alpha=0.15)
