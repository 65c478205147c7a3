"""Keeps the page of a report below 6 MB; what it leaves out to get there, it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from advisor.report.records import Report
from advisor.report.rendering.pictures import Pictures, raster_svg

MOST_BYTES = 6_000_000
_NOTE_BYTES = 2_000  # room for what is said of it
_EMBEDDED = 4 / 3  # bytes of a page for each of a picture: base64
_WORTH = 2  # how many times smaller dots must be, for lines are sharp at any size and follow the dark mode

_Drawn: TypeAlias = Mapping[str, Pictures]


def limited_page(
    report: Report, pictures: _Drawn, page: Callable[[Report, _Drawn], str], most_bytes: int = MOST_BYTES
) -> tuple[Report, str]:
    """The page of a report, and the report with notes on what the page had to leave out; `pictures` are by figure id.

    A page above `most_bytes` gets dots instead of lines for pictures that are much smaller so, then none of the forms
    for phones (`narrow_svg` is "") of the largest pictures; the largest first, and as few as need be. The files beside
    the page are as ever. A page that is too large even so is made, and says so.
    """
    made = page(report, pictures)
    for lighten in (_in_dots, _without_narrow):
        excess = len(made.encode()) + _NOTE_BYTES - most_bytes
        if excess <= 0:
            return report, made
        pictures, note = lighten(pictures, excess)
        report = _noting(report, note)
        made = page(report, pictures)
    if len(made.encode()) > most_bytes:
        report = _noting(
            report, f"This page is larger than {most_bytes / 1e6:.0f} MB: fewer models make a smaller one."
        )
        made = page(report, pictures)
    return report, made


def _noting(report: Report, note: str) -> Report:
    return replace(report, notes=(*report.notes, note)) if note else report


def _in_dots(pictures: _Drawn, excess: float) -> tuple[_Drawn, str]:
    forms = {name: raster_svg(picture) for name, picture in pictures.items()}
    gains = {
        name: len(pictures[name].wide_svg) - len(form)
        for name, form in forms.items()
        if len(pictures[name].wide_svg) > _WORTH * len(form)
    }
    chosen = _fewest(gains, excess)
    lighter = {name: replace(p, wide_svg=forms[name]) if name in chosen else p for name, p in pictures.items()}
    return lighter, _note(chosen, "of dots instead of lines, the same in dark mode:")


def _without_narrow(pictures: _Drawn, excess: float) -> tuple[_Drawn, str]:
    chosen = _fewest({name: len(picture.narrow_svg) for name, picture in pictures.items()}, excess)
    lighter = {name: replace(p, narrow_svg="") if name in chosen else p for name, p in pictures.items()}
    return lighter, _note(chosen, "without a form of their own for phones:")


def _fewest(gains: Mapping[str, int], excess: float) -> list[str]:
    """The names of the largest gains that together are the excess; all where they are less."""
    chosen = []
    for name in sorted(gains, key=lambda name: -gains[name]):
        if excess <= 0:
            break
        chosen.append(name)
        excess -= _EMBEDDED * gains[name]
    return chosen


def _note(names: list[str], what: str) -> str:
    return f"To keep this page small these pictures are {what} {', '.join(names)}." if names else ""
