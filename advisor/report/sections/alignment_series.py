"""The interactive form of a strip of sizes: its line, and points by the alignment of their rows, with their facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from advisor.alignment import alignment_bytes
from advisor.report.records import Cell, Fact, Series, Tone
from advisor.report.strips import ELEMENT_BYTES, GROUPS, Strip
from advisor.report.subject import Integers
from advisor.report.sweeps import Points
from advisor.units import significant

_SYMBOLS: dict[str, tuple[Tone, str]] = {
    "2 bytes": ("vermilion", "x"), "4 bytes": ("orange", "triangle-up"), "8 bytes": ("purple", "triangle-down"),
    "16 to 64 bytes": ("sky", "circle"), "128 bytes": ("green", "diamond"), "any": ("ink", "star"),
}  # fmt: skip


def interactive_series(shown: Strip) -> tuple[Series, ...]:
    """The predicted line, the sizes of each alignment on it where few were measured, and the measured points."""
    sweep, p = shown.sweep, shown.sweep.prediction
    rates = sweep.flops_per_s / 1e12
    line = Series(
        "predicted", "line", "blue", tuple(sweep.sizes.tolist()), tuple(rates.tolist()),
        (
            Fact(sweep.label, tuple(sweep.sizes.tolist())),
            Fact("rows aligned to", tuple(shown.bytes_.tolist()), "bytes"),
            Fact("time", tuple(significant(1e3 * time) for time in p.time_s), "ms"),
            Fact("throughput", tuple(significant(value) for value in rates), "TFLOP/s"),
            Fact("tile", tuple(f"{a}x{b}" for a, b in zip(p.tile_m, p.tile_n, strict=True))),
            Fact("split-K", tuple(int(split) for split in p.split_k)),
            Fact("waves", tuple(round(float(waves), 2) for waves in p.waves)),
            Fact("idle share", tuple(round(100 * float(1 - e), 1) for e in p.wave_efficiency), "%"),
        ),
    )  # fmt: skip
    measured = _joined([_measured(each, name, at) for each in shown.points for name, at in shown.grouped(each)])
    if shown.dense:
        return line, *measured
    on_line = (_on_line(line, name, at) for name, at in zip(GROUPS, shown.levels, strict=True))
    return line, *on_line, *measured


def _on_line(line: Series, name: str, at: Integers) -> Series:
    tone, symbol = _SYMBOLS[name]
    index = at.tolist()

    def chosen(values: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(values[i] for i in index)

    return Series(
        f"predicted: {name}", "points", tone, tuple(line.x[i] for i in index), tuple(line.y[i] for i in index),
        tuple(replace(fact, values=chosen(fact.values)) for fact in line.facts), symbol=symbol,
    )  # fmt: skip


def _measured(each: Points, name: str, at: Integers) -> Series:
    tone, symbol = _SYMBOLS[name]
    rates = each.flops[at] / each.time_s[at] / 1e12
    title = f"measured: {each.name}" + ("" if name == "any" else f", {name}")
    return Series(
        title, "points", tone, tuple(each.sizes[at].tolist()), tuple(rates.tolist()),
        (
            Fact("size", tuple(each.sizes[at].tolist())),
            Fact("rows aligned to", tuple(alignment_bytes(each.sizes[at], ELEMENT_BYTES).tolist()), "bytes"),
            Fact("time", tuple(significant(1e3 * time) for time in each.time_s[at]), "ms"),
            Fact("throughput", tuple(significant(value) for value in rates), "TFLOP/s"),
            Fact("prediction is off by", tuple(f"{100 * off:+.1f}" for off in each.off[at]), "%"),
        ),
        symbol=symbol,
    )  # fmt: skip


def _joined(found: Sequence[Series]) -> list[Series]:
    """The same with series of one name, which are of several tables of one source, as one."""
    by_name: dict[str, Series] = {}
    for each in found:
        first = by_name.setdefault(each.name, each)
        if first is not each:
            facts = zip(first.facts, each.facts, strict=True)
            both = tuple(replace(one, values=one.values + other.values) for one, other in facts)
            by_name[each.name] = replace(first, x=first.x + each.x, y=first.y + each.y, facts=both)
    return list(by_name.values())
