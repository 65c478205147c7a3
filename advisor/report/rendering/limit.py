"""Keeps the page of a report below 6 MB; what it leaves out to get there, it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from advisor.report.records import Report
from advisor.report.rendering.interactive import chart_json
from advisor.report.rendering.pictures import Pictures, raster_svg

MOST_BYTES = 6_000_000
_NOTE_BYTES = 2_000  # room for what is said of it
_EMBEDDED = 1.2  # bytes of a page for each of a picture, at least: as a data URI
_NAMED = 8  # pictures; the others are counted
_WORTH = 2  # how many times smaller dots must be, for lines are sharp at any size and follow the dark mode

_Drawn: TypeAlias = Mapping[str, Pictures]


def limited_page(
    report: Report, pictures: _Drawn, page: Callable[[Report, _Drawn], str], most_bytes: int = MOST_BYTES
) -> tuple[Report, str]:
    """The page of a report, and the report with notes on what the page had to leave out; `pictures` are by figure id.

    A page above `most_bytes` gets dots instead of lines for pictures that are much smaller so; then none of the forms
    for phones (`narrow_svg` is ""); then no interactive forms. The largest go first, and as few as need be. The files
    beside the page are as ever. A page that is too large even so is made, and says so.
    """
    whole, made = report, page(report, pictures)
    for lighten in (_in_dots, _without_narrow, _without_interactive):
        excess = len(made.encode()) + _NOTE_BYTES - most_bytes
        if excess <= 0:
            break
        report, pictures = lighten(report, pictures, excess)
        made = page(report, pictures)
    if len(made.encode()) > most_bytes:
        report = _noting(
            report, f"This page is larger than {most_bytes / 1e6:.0f} MB: fewer models make a smaller one."
        )
        made = page(report, pictures)
    return replace(whole, notes=report.notes), made


def _noting(report: Report, note: str) -> Report:
    return replace(report, notes=(*report.notes, note))


def _in_dots(report: Report, pictures: _Drawn, excess: float) -> tuple[Report, _Drawn]:
    forms = {name: raster_svg(picture) for name, picture in pictures.items()}
    gains = {
        name: _EMBEDDED * (len(pictures[name].wide_svg) - len(form))
        for name, form in forms.items()
        if len(pictures[name].wide_svg) > _WORTH * len(form)
    }
    chosen = _fewest(gains, excess)
    lighter = {name: replace(p, wide_svg=forms[name]) if name in chosen else p for name, p in pictures.items()}
    return _told(report, chosen, "of dots instead of lines, the same in dark mode"), lighter


def _without_narrow(report: Report, pictures: _Drawn, excess: float) -> tuple[Report, _Drawn]:
    chosen = _fewest({name: _EMBEDDED * len(picture.narrow_svg) for name, picture in pictures.items()}, excess)
    lighter = {name: replace(p, narrow_svg="") if name in chosen else p for name, p in pictures.items()}
    return _told(report, chosen, "without a form of their own for phones"), lighter


def _without_interactive(report: Report, pictures: _Drawn, excess: float) -> tuple[Report, _Drawn]:
    charts = {
        figure.id: len(chart_json(figure.interactive))
        for section in report.sections
        for figure in section.figures
        if figure.interactive
    }
    chosen = _fewest(charts, excess)
    sections = [
        replace(section, figures=tuple(replace(f, interactive=None) if f.id in chosen else f for f in section.figures))
        for section in report.sections
    ]
    return _told(replace(report, sections=tuple(sections)), chosen, "without points to hover"), pictures


def _told(report: Report, names: Sequence[str], what: str) -> Report:
    """The report with a note on what some pictures are."""
    if not names:
        return report
    which = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return _noting(report, f"To keep this page below its limit these pictures are {what}: {which}.")


def _fewest(gains: Mapping[str, float], excess: float) -> list[str]:
    """The names of the largest gains, in bytes, that together are the excess; all where they are less."""
    chosen = []
    for name in sorted(gains, key=lambda name: -gains[name]):
        if excess <= 0:
            break
        chosen.append(name)
        excess -= gains[name]
    return chosen
