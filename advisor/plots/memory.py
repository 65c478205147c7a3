"""The picture of a step's memory against the batch size: its parts, one upon the other, and the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.memory import MemoryCurve
from advisor.plots.canvas import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION
from advisor.recommendation import Recommendation
from advisor.rules_of_thumb import last_shown
from advisor.units import about_gib, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advisor.report.subject import MeasuredSteps

MOST_SIZES = 65  # parts of the memory are all but straight lines
_COLOURS = (GREY, SKY, BLUE, ORANGE)  # dark and light in turn, so that neighbours differ without colour too
INCHES = (7.4, 3.6)
NARROW_INCHES = (3.9, 4.6)


def parts_bytes(curve: MemoryCurve) -> dict[str, NDArray[np.int64]]:
    """The parts of the memory by name, at each batch size, from the bottom up; they sum to the total."""
    return {
        "CUDA context and libraries": curve.context_bytes + curve.workspace_bytes,
        "weights, gradients and optimizer": curve.parameters_bytes + curve.buffers_bytes + curve.gradients_bytes
        + curve.optimizer_state_bytes,
        "activations and temporaries": curve.live_peak_bytes,
        "the allocator's reserve": curve.reserved_bytes + curve.first_step_spike_bytes,
    }  # fmt: skip


def some_sizes(found: Recommendation, *, always: Sequence[int] = ()) -> NDArray[np.int64]:
    """Batch sizes enough to draw the memory: evenly spaced, with the ends, the recommended one and `always`."""
    end = last_shown(found.answer)
    spread = np.linspace(1, end, min(end, MOST_SIZES)).round().astype(np.int64)
    return np.unique(np.concatenate([spread, [found.batch_size, *(size for size in always if size <= end)]]))


def draw_memory(
    figure: Figure, found: Recommendation, *, measured: Sequence[MeasuredSteps] = (), narrow: bool = False
) -> None:
    """Fill a figure with the parts of the memory, the limit, the recommended size, and measured peaks as points."""
    answer, sizes = found.answer, some_sizes(found)
    curve = found.setup.memory(sizes)
    axes = figure.subplots()
    parts = parts_bytes(curve)
    axes.stackplot(sizes, [part / 2**30 for part in parts.values()], labels=list(parts), colors=_COLOURS, linewidth=0.6,
                   edgecolor="white")  # fmt: skip
    top = float(curve.total_bytes.max()) / 2**30
    if answer.memory_limit_bytes is not None:
        top = answer.memory_limit_bytes / 2**30
        axes.axhline(top, color=BLACK, linewidth=1.4, label=f"limit, {about_gib(answer.memory_limit_bytes)}")
        if answer.margin:
            axes.axhline(top / (1 + answer.margin), color=BLACK, linewidth=1, linestyle="--",
                         label=f"limit less a margin of {percent(answer.margin, 1)}")  # fmt: skip
    at = answer.curve.total_bytes[answer.batch_size - 1] / 2**30
    axes.plot([answer.batch_size], [at], "*", color=VERMILION, markersize=14, markeredgecolor="white", zorder=6,
              label=f"recommended, {answer.batch_size}")  # fmt: skip
    look: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 5, "color": BLACK, "markerfacecolor": "white"}
    for steps in measured:
        known = np.isfinite(steps.memory_bytes) & (steps.batch <= sizes[-1])
        if known.any():
            axes.plot(steps.batch[known], steps.memory_bytes[known] / 2**30, **look, zorder=7,
                      label=f"measured: {steps.recipe}")  # fmt: skip
    axes.set_xlim(min(1, sizes[-1] - 1), sizes[-1] + 0.03 * sizes[-1])
    axes.set_ylim(0, 1.12 * top)
    axes.set_xlabel("batch size per GPU")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_ylabel("memory (GiB)")
    axes.yaxis.set_major_formatter("{x:g}")
    handles, labels = axes.get_legend_handles_labels()
    from_top = [*reversed(range(len(parts))), *range(len(parts), len(labels))]  # as the areas lie
    figure.legend(
        [handles[i] for i in from_top],
        [labels[i] for i in from_top],
        loc="outside lower center",
        ncols=1 if narrow else 2,
        frameon=False,
        fontsize=9,
    )


def shares(parts: Mapping[str, NDArray[np.int64]], index: int) -> str:
    """The parts at one size in words, the largest first."""
    sizes = sorted(((int(part[index]), name) for name, part in parts.items()), reverse=True)
    return "; ".join(f"{about_gib(size)} for {name}" for size, name in sizes if size)
