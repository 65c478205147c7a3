from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advisor.report.build import build_report
from advisor.report.rendering import pictures
from advisor.report.rendering.html import page
from advisor.report.subject import Measured
from tests.advisor.report.browser import checks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole report on a known GPU, all of it predicted."""
    report = build_report(gpu="a100-sxm4-80gb", models=("resnet50",), measured=Measured())
    figures = [figure for section in report.sections for figure in section.figures]
    path = tmp_path_factory.mktemp("whole") / "report.html"
    path.write_text(page(report, {figure.id: pictures.draw(figure) for figure in figures}), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_a_whole_report_can_be_read_by_anybody(
    open_page: Any, artefact: Any, whole: Path, width: int, scheme: str
) -> None:
    opened = open_page(whole, width=width, scheme=scheme)
    checks.draw_all(opened.page)
    artefact(opened, f"{width}-{scheme}")
    assert opened.page.locator(".interactive[data-ready]").count() == opened.page.locator(".interactive").count() > 3
    assert checks.clipped(opened.page) == []
    assert checks.overlapping(opened.page) == []
    assert checks.barriers(opened.page) == []
    assert opened.wrongs == []
    assert whole.stat().st_size < 6_000_000


def test_a_whole_report_fits_on_paper(open_page: Any, whole: Path) -> None:
    opened = open_page(whole, width=680)  # A4 between margins of 15 mm
    opened.page.emulate_media(media="print")
    assert checks.clipped(opened.page) == []
    edges = "[...document.querySelectorAll('table')].map((table) => table.getBoundingClientRect().right)"
    assert max(opened.page.evaluate(edges)) <= 680


def test_every_point_of_a_whole_report_has_facts(open_page: Any, whole: Path) -> None:
    opened = open_page(whole)
    checks.draw_all(opened.page)
    for box in opened.page.locator(".interactive").all():
        box.locator(".chart").focus()
        opened.page.keyboard.press("End")
        assert box.locator(".facts dt").count() > 0
    assert opened.wrongs == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_are_drawn_in_ink_that_is_seen_on_the_paper(open_page: Any, whole: Path, scheme: str) -> None:
    opened = open_page(whole, scheme=scheme)
    picture = opened.page.locator("picture.static:visible img").last  # one without an interactive form
    picture.scroll_into_view_if_needed()
    opened.page.evaluate("() => Promise.all([...document.images].map((image) => image.decode()))")
    lightness = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"), dtype=int)
    paper = int(np.median(lightness))
    assert (paper > 240) == (scheme == "light")
    assert np.mean(abs(lightness - paper) > 120) > 0.01  # words and axes
