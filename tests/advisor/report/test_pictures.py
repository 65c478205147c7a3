"""Figures as pictures: the same bytes on every run, small, and readable on dark paper."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from advisor.plots.canvas import BLUE, GREY, VERMILION
from advisor.report.records import Figure
from advisor.report.rendering.pictures import COLOURS, PAPER, draw
from tests.pictures import pictured

SVG = "{http://www.w3.org/2000/svg}"


def teeth(canvas: MatplotlibFigure, narrow: bool) -> None:
    """Efficiency of 1 to 512 tiles on 108 slots."""
    axes = canvas.subplots()
    tiles = np.arange(1, 513)
    axes.plot(tiles, tiles / (np.ceil(tiles / 108) * 108), color=BLUE, label="108 slots")
    axes.plot(tiles, tiles / (np.ceil(tiles / 132) * 132), color=VERMILION, dashes=(4, 2), label="132 slots")
    axes.set_xlabel("tiles")
    axes.set_ylabel("efficiency" if narrow else "wave efficiency")
    axes.axvspan(0, 108, facecolor="white", edgecolor=GREY, hatch="///")
    axes.legend()


def figure(name: str = "teeth", draws: object = teeth) -> Figure:
    return Figure(name, "Where are the teeth?", "At 108.", "Two saws.", (), draws)


def saying(words: str) -> Figure:
    def draws(canvas: MatplotlibFigure, narrow: bool) -> None:
        axes = canvas.subplots()
        axes.plot([1, 2], [1, 2], label=words)
        axes.set_xticks([1, 2], [words, "b"])
        axes.set_title(words)
        axes.set_yscale("log")
        axes.legend()

    return figure(draws=draws)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        lights.append(0.2126 * r + 0.7152 * g + 0.0722 * b)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pictured()
def test_a_figure_looks_as_it_did() -> Figure:
    return figure()


@pictured(narrow=True)
def test_the_narrow_form_looks_as_it_did() -> Figure:
    return figure()


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert draw(figure()) == draw(figure())


def test_a_line_plot_is_small_and_scales() -> None:
    pictures = draw(figure())
    assert len(pictures.svg) < 80_000
    assert pictures.png.startswith(b"\x89PNG")
    file, wide, narrow = (ET.fromstring(text) for text in (pictures.svg, pictures.wide_svg, pictures.narrow_svg))
    assert file.get("width") == "532.8pt"  # 7.4 in of 72 pt
    assert wide.get("viewBox") == "0 0 532.8 316.8"
    assert narrow.get("viewBox") == "0 0 280.8 331.2"
    assert not {"width", "height"} & {*wide.keys(), *narrow.keys()}


def test_coordinates_have_two_decimals_at_most() -> None:
    coordinates = " ".join(re.findall(r'\sd="([^"]*)"', draw(figure()).svg))
    assert re.search(r"\.\d\d\b", coordinates)
    assert not re.search(r"\.\d{3}", coordinates)


def test_the_files_of_two_figures_share_no_reference() -> None:
    def referred(text: str) -> set[str]:
        return set(re.findall(r"url\(#([^)]+)\)", text))

    one, other = draw(figure("one")), draw(figure("other"))
    assert referred(one.svg)
    assert not referred(one.svg) & referred(other.svg)


def test_files_hold_colours_and_pages_hold_variables_for_them() -> None:
    pictures = draw(figure())
    assert f"stroke: {BLUE.lower()}" in pictures.svg
    assert "prefers-color-scheme" not in pictures.svg
    assert "stroke:var(--blue)" in pictures.wide_svg
    assert "prefers-color-scheme: dark" in pictures.wide_svg
    assert not re.search(r"(fill|stroke)(: ?|=.)#", pictures.wide_svg)  # no colour is left that stays as it is by night


@pytest.mark.parametrize("name", [name for name in COLOURS if name != "paper"])
def test_words_in_every_colour_are_readable_on_dark_paper(name: str) -> None:
    assert contrast(COLOURS[name][1], PAPER) >= 4.5


@pytest.mark.parametrize("words", [r"$\frac{", "a $5 b $6", "--> <script>alert(1)</script>", "汉字", "\x01\x1b[31m"])
def test_any_text_may_stand_in_a_figure(words: str) -> None:
    pictures = draw(saying(words))
    for text in (pictures.svg, pictures.wide_svg, pictures.narrow_svg):
        ET.fromstring(text)
        assert "script" not in text


def test_a_logarithmic_axis_keeps_its_powers_of_ten() -> None:
    assert draw(saying("a")).svg != draw(figure()).svg
    assert "DejaVuSans-5c" not in draw(saying("a")).svg  # no backslash is drawn: "$\mathdefault{10^{0}}$"


def test_a_users_style_changes_no_picture() -> None:
    usual = draw(figure())
    odd = {"font.size": 30, "text.usetex": True, "axes.grid": True, "savefig.bbox": "tight", "svg.fonttype": "none"}
    with mpl.rc_context(odd):
        assert draw(figure()) == usual
        assert mpl.rcParams["font.size"] == 30


def test_a_backend_that_matplotlib_refuses_is_one_clear_line() -> None:
    call = "from advisor.plots.canvas import styled\nwith styled(): pass"
    found = subprocess.run([sys.executable, "-c", call], env={**os.environ, "MPLBACKEND": "nonsense"}, text=True,
                           capture_output=True, check=False)  # fmt: skip
    last = found.stderr.splitlines()[-1]
    assert last.startswith("advisor.errors.BadInputError: matplotlib cannot start (Key backend: 'nonsense' is not a")
    assert last.endswith("): unset MPLBACKEND")
