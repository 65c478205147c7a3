"""What is said of a sweep: the answer of its figure, what there is to see, and the notes of the section."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.report.sections.sweep_tables import Found, named
from advisor.report.sweeps import DROP, MeasuredStep, Points, Sweep, measured_around
from advisor.report.teeth import LEAST_LOSS, Cause, Tooth, cut_at
from advisor.units import counted, percent, rate

ENOUGH = 6  # points of one source that make the mean of their errors worth a word
MOST_MISSED = 5  # measured drops that the line lacks, of which a note tells


def answer(sweep: Sweep, found: Sequence[Tooth], points: Sequence[Points], what: str) -> str:
    """What the deepest cliff costs and why, how many there are, and which measured drops are predicted.

    Its first sentence stands alone at the head of a report.
    """
    name, ends = sweep.label.split(" (")[0], f"{sweep.sizes[0]} to {sweep.sizes[-1]}"
    if found:
        worst = max(found, key=lambda tooth: tooth.loss)
        waves = sum(tooth.cause == "wave" for tooth in found)
        which = f"{waves} of them " if waves < len(found) else "all of them " if waves > 1 else ""
        of_them = f", {which}where a further wave starts" if waves else ""
        text = (
            f"{what[0].upper()}{what[1:]} more can cost a matrix product {percent(worst.loss)} of its throughput: "
            f"predicted at {sweep.fixed} from {name} = {worst.under} to {worst.over}{_beside(worst, points)}. "
            f"There {_cause_in_short(worst)}. From {ends} there {'is' if len(found) == 1 else 'are'} "
            f"{counted(len(found), 'such cliff')} of {percent(LEAST_LOSS)} or more{of_them}."
        )
    else:
        text = (
            f"Next to nothing: at {sweep.fixed} and {name} from {ends}, {what} more is nowhere predicted to cost a "
            f"matrix product {percent(LEAST_LOSS)} of its throughput."
        )
    return text + _of_measured([step for each in points for step in each.steps]) + _off(points, fitted=False)


def _beside(tooth: Tooth, points: Sequence[Points]) -> str:
    """What was measured at a cliff, in brackets."""
    seen = measured_around(points, tooth.under, tooth.over)
    if seen is None:
        return ""
    change = percent(seen.measured_loss) if seen.measured_loss >= 0 else f"{percent(-seen.measured_loss)} more"
    where = "" if (seen.before, seen.after) == (tooth.under, tooth.over) else f" from {seen.before} to {seen.after}"
    return f" (measured{where}: {change})"


def _cause_in_short(tooth: Tooth) -> str:
    before, kept = tooth.before, tooth.kept
    tiles = f"{before.tiles} tiles of {before.name}"
    if tooth.cause == "wave":
        waves = counted(before.whole_waves, "wave")
        return f"{tiles}, {waves} on {before.sms} SMs, become {kept.tiles}, {kept.whole_waves} waves"
    if tooth.cause == "tiles":
        return f"{tiles} become {kept.tiles}, {before.waves:.2f} to {kept.waves:.2f} waves on {before.sms} SMs"
    short: dict[Cause, str] = {
        "alignment": "rows start on fewer bytes",
        "neighbours": "timings of neighbouring sizes show it, not tiles and waves",
        "other": "neither tiles nor waves explain it",
    }
    return short[tooth.cause]


def _of_measured(steps: Sequence[MeasuredStep]) -> str:
    """How many of the measured drops are predicted; the sizes after which one is missed, or predicted alone."""
    drops = [step for step in steps if step.measured]
    missed = [step.before for step in drops if not step.agrees]
    alone = [step.before for step in steps if step.predicted and not step.agrees]
    text = ""
    if drops:
        shown = f"{len(drops) - len(missed)} of the" if missed else "all" if len(drops) > 1 else "the"
        lacking = f", not {'that' if len(missed) == 1 else 'those'} after {_listed(missed)}" if missed else ""
        text = f" The line shows {shown} {counted(len(drops), 'measured drop')} of {percent(DROP)} or more{lacking}."
    return text + (f" Where it has one after {_listed(alone)}, none was measured." if alone else "")


def _listed(sizes: Sequence[int], most: int = 3) -> str:
    """The first few of some sizes: "256", "256 and 512", "256, 512, 768 and 2 more"."""
    words = [str(size) for size in dict.fromkeys(sizes)]
    words = words if len(words) <= most else [*words[:most], f"{len(words) - most} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def alt(sweep: Sweep, found: Sequence[Tooth], points: Sequence[Points], name: str) -> str:
    """What there is to see."""
    best = sweep.flops_per_s.max() / 1e12
    seen = f"; {counted(sum(len(each.sizes) for each in points), 'measured point')} beside it" if points else ""
    return (
        f"Saw-toothed line of predicted throughput against {name} from {sweep.sizes[0]} to {sweep.sizes[-1]} with "
        f"{counted(len(found), 'cliff')}, up to {rate(best)} TFLOP/s{seen}. Powers of two are marked on the line, "
        "multiples of 64 along the axis."
    )


def notes(found: Sequence[Found]) -> tuple[str, ...]:
    """What is missing, how far the lines are from what was measured, and what waves are counted over."""
    said = []
    unmeasured = [named(sweep) for sweep, _, points in found if not points]
    if unmeasured and len(unmeasured) < len(found):
        said.append(f"No measured products on the lines of {'; '.join(unmeasured)}: those are predicted alone.")
    said += [f"{named(sweep)}: t{off[2:]}" for sweep, _, points in found if (off := _off(points, fitted=True))]
    missed = [
        _tiles_of(sweep, step)
        for sweep, _, points in found
        for each in points
        for step in each.steps
        if step.measured and not step.agrees and np.isin((step.before, step.after), sweep.sizes).all()
    ]
    if missed:
        said.append(
            "Why the line lacks some measured drops: it takes the tiles that it predicts to be the fastest, and the "
            f"library may have taken others. Its own there: {'; '.join(missed[:MOST_MISSED])}."
        )
    said.append(
        "Waves count tiles over SMs, one tile at a time on each. Tiles and waves know nothing of powers of two: one is "
        "good where it lies just under a cliff, as any other size there is; the table of powers of two compares them."
    )
    return tuple(said)


def _tiles_of(sweep: Sweep, step: MeasuredStep) -> str:
    """The tiles predicted at the size before a measured step, and the waves that they make at both."""
    before, after = (int(i) for i in np.searchsorted(sweep.sizes, (step.before, step.after)))
    cut, kept = cut_at(sweep, before), cut_at(sweep, before, after)
    return (
        f"{named(sweep)} from {sweep.sizes[before]} to {sweep.sizes[after]}, tiles of {cut.name}, {cut.waves:.2f} to "
        f"{kept.waves:.2f} waves"
    )


def _off(points: Sequence[Points], *, fitted: bool) -> str:
    """How far the line is from the sources with enough points that its fit has seen, or has not."""
    return "".join(
        f" The line is {percent(float(np.abs(each.off).mean()), 1)} off in the mean at "
        f"{len(each.sizes)} points of {each.name}, which {'are' if fitted else 'are not'} in its fit."
        for each in points
        if each.source.fitted == fitted and len(each.sizes) >= ENOUGH
    )
