"""The interactive form of a sweep: its line, the sizes of note on it, and the measured points, each with its facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from advisor.report.records import Cell, Fact, Series, Tone
from advisor.report.subject import Integers
from advisor.report.sweeps import Points, Sweep, size_class
from advisor.report.teeth import Tooth
from advisor.units import percent, significant

STRIDE = 8  # of the sizes between those that matter
_STYLES: dict[str, tuple[tuple[Tone, str], ...]] = {  # as in advisor.plots.sweep
    "cublas": (("vermilion", "circle"), ("purple", "square"), ("vermilion", "pentagon"), ("purple", "hexagon")),
    "triton": (("green", "triangle-up"), ("green", "triangle-down"), ("green", "triangle-right"),
               ("green", "triangle-left")),
}  # fmt: skip
_OTHER: tuple[tuple[Tone, str], ...] = (("sky", "x"), ("sky", "cross"))


def interactive_series(sweep: Sweep, found: Sequence[Tooth], points: Sequence[Points]) -> tuple[Series, ...]:
    """The predicted line, powers of two and sizes just under a cliff on it, then each source of measured points."""
    classes = np.array(size_class(sweep.sizes))
    tops = np.searchsorted(sweep.sizes, np.array([tooth.under for tooth in found], dtype=np.int64))
    under = _on_line(sweep, "just under a cliff", "grey", "triangle-down", tops, (
        Fact("next size", tuple(tooth.over for tooth in found)),
        Fact("loses", tuple(percent(tooth.loss, 1) for tooth in found)),
        Fact("cause", tuple(tooth.text for tooth in found)),
    ))  # fmt: skip
    powers = _on_line(sweep, "powers of two", "orange", "diamond-open", np.flatnonzero(classes == "power of two"))
    multiples = _on_line(sweep, "multiples of 64", "grey", "square-open", np.flatnonzero(classes == "multiple of 64"))
    line = _on_line(sweep, "predicted", "blue", "circle", kept(sweep), kind="line")
    return tuple(each for each in (line, multiples, powers, under, *_all_measured(sweep, points)) if each.x)


def kept(sweep: Sweep) -> Integers:
    """Indices of the line's points: every STRIDE-th, and both sides of every fall and of every change of tiles."""
    p, count = sweep.prediction, len(sweep.sizes)
    changes = np.zeros(count - 1, dtype=bool)
    for values in (p.tile_m, p.tile_n, p.split_k, p.waves):
        changes |= np.diff(values) != 0
    changes |= np.diff(sweep.flops_per_s) < -0.005 * sweep.flops_per_s[:-1]
    edges = np.flatnonzero(changes)
    return np.unique(np.concatenate([np.arange(0, count, STRIDE), [count - 1], edges, edges + 1])).astype(np.int64)


def _on_line(
    sweep: Sweep, name: str, tone: Tone, symbol: str, at: Integers, more: tuple[Fact, ...] = (),
    kind: Literal["line", "points"] = "points",
) -> Series:  # fmt: skip
    p = sweep.prediction
    rates = sweep.flops_per_s[at] / 1e12
    return Series(
        name=name, kind=kind, tone=tone, symbol=symbol,
        x=tuple(sweep.sizes[at].tolist()), y=tuple(rates.tolist()),
        facts=(
            Fact(sweep.label.split(" (")[0], tuple(sweep.sizes[at].tolist())),
            Fact("time", _rounded(1e6 * p.time_s[at]), "us"),
            Fact("throughput", _rounded(rates), "TFLOP/s"),
            Fact("tile", tuple(f"{a}x{b}" for a, b in zip(p.tile_m[at], p.tile_n[at], strict=True))),
            Fact("split-K", tuple(int(split) for split in p.split_k[at])),
            Fact("waves", tuple(round(float(waves), 2) for waves in p.waves[at])),
            Fact("idle share", tuple(round(100 * float(1 - e), 1) for e in p.wave_efficiency[at]), "%"),
            *more,
        ),
    )  # fmt: skip


def _all_measured(sweep: Sweep, points: Sequence[Points]) -> Iterator[Series]:
    used: Counter[str] = Counter()
    for each in points:
        library = each.source.library
        styles = _STYLES.get(library, _OTHER)
        yield _measured(sweep, each, *styles[used[library] % len(styles)])
        used[library] += 1


def _measured(sweep: Sweep, each: Points, tone: Tone, symbol: str) -> Series:
    at = np.clip(np.searchsorted(sweep.sizes, each.sizes), 0, len(sweep.sizes) - 1)
    p, on_line = sweep.prediction, sweep.sizes[at] == each.sizes
    spread = bool(np.isfinite(each.low_s).all() and np.isfinite(each.high_s).all())
    rates, low, high = (each.flops / seconds / 1e12 for seconds in (each.time_s, each.high_s, each.low_s))
    own = each.source.origin.kind == "measured here"
    ends = ("lower quartile", "upper quartile") if own else ("spread from", "spread to")

    def of_line(values: Sequence[Cell]) -> tuple[Cell, ...]:
        return tuple(value if known else None for value, known in zip(values, on_line, strict=True))

    facts = [
        Fact(sweep.label.split(" (")[0], tuple(each.sizes.tolist())),
        Fact("time", _rounded(1e6 * each.time_s), "us"),
        *(Fact(name, _rounded(1e6 * end), "us") for name, end in zip(ends, (each.low_s, each.high_s), strict=True)),
        Fact("throughput", _rounded(rates), "TFLOP/s"),
        Fact("predicted time", _rounded(1e6 * each.predicted_s), "us"),
        Fact("prediction is off by", tuple(f"{100 * off:+.1f}" for off in each.off), "%"),
        Fact("predicted tile", of_line([f"{p.tile_m[i]}x{p.tile_n[i]}" for i in at])),
        Fact("predicted waves", of_line([round(float(p.waves[i]), 2) for i in at])),
        Fact("kernel", tuple(name or None for name in each.kernel)),
    ]
    return Series(
        name=f"measured: {each.name}", kind="points", tone=tone,
        symbol=symbol + ("-open" if each.source.mode == "warm" else ""),
        x=tuple(each.sizes.tolist()), y=tuple(rates.tolist()),
        facts=tuple(fact for fact in facts if any(value is not None for value in fact.values)),
        low=tuple(low.tolist()) if spread else None, high=tuple(high.tolist()) if spread else None,
    )  # fmt: skip


def _rounded(values: np.ndarray) -> tuple[Cell, ...]:
    """Four significant digits; None for NaN."""
    return tuple(None if np.isnan(value) else significant(value) for value in values)
