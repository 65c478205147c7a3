from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.report.records import Fact, Interactive, Report, Series
from advisor.report.rendering.html import page as html_page
from tests.advisor.report import made_up
from tests.advisor.report.browser import checks

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

HOSTILE = (
    "\"><script>alert('script')</script><img src=x onerror=alert('img')><svg onload=alert('svg')>"
    "</script><script>alert('json')</script><a href=\"javascript:alert('link')\">link</a>"
    "<iframe srcdoc=\"<script>alert('frame')</script>\"></iframe><style>body{display:none}</style>${alert('js')}"
    "</script x><!--<script x"  # ends a block of data, or keeps it from ending, with no ">" behind the name
)


@pytest.fixture
def report_file(tmp_path: Path) -> Callable[[Report], Path]:
    def written(report: Report) -> Path:
        path = tmp_path / "report.html"
        path.write_text(html_page(report, made_up.pictures(report)), encoding="utf-8")
        return path

    return written


def facts(page: Any) -> dict[str, str]:
    """The panel's facts as name to value; the name of the series under ""."""
    panel = page.locator("#figure-teeth ~ figure .facts")
    pairs = zip(panel.locator("dt").all_text_contents(), panel.locator("dd").all_text_contents(), strict=True)
    return {"": panel.locator("p").text_content(), **dict(pairs)}


def column(page: Any, place: int) -> list[str]:
    return page.locator(f"tbody td:nth-child({place})").all_text_contents()


@pytest.fixture
def wide(open_page: Any, report_file: Any) -> Any:
    """The little report in a wide window, its chart drawn."""
    opened = open_page(report_file(made_up.report()))
    checks.draw_all(opened.page)
    return opened


def test_the_page_opens_with_no_error_and_asks_for_nothing(wide: Any) -> None:
    assert wide.page.title() == "Report on NVIDIA A100"
    assert wide.page.locator("img").count() == 2
    assert wide.wrongs == []


def test_pointing_at_a_point_shows_its_facts(wide: Any) -> None:
    point = wide.page.locator(".plot .scatterlayer .trace").nth(1).locator("path.point").nth(2)
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    label = wide.page.locator(".hoverlayer .hovertext")
    label.wait_for()
    assert "throughput: 200 TFLOP/s" in label.text_content()
    assert f"kernel:{made_up.KERNEL}" in label.text_content()  # on lines of their own
    assert facts(wide.page) == {
        "": "measured",
        "M": "256",
        "throughput": "200 TFLOP/s",
        "kernel": made_up.KERNEL,
        "idle share": "0",
    }
    assert wide.wrongs == []


def test_the_keyboard_walks_along_and_between_series(wide: Any) -> None:
    wide.page.locator(".chart").focus()
    walked = []
    for key in (
        "ArrowRight",
        "ArrowRight",
        "ArrowDown",
        "End",
        "ArrowRight",
        "ArrowLeft",
        "Home",
        "ArrowUp",
        "ArrowUp",
    ):
        wide.page.keyboard.press(key)
        found = facts(wide.page)
        walked.append((found[""], found.get("M") or found["M, rows"]))
    assert walked == [
        ("predicted", "64"),
        ("predicted", "128"),
        ("measured", "128"),
        ("measured", "512"),
        ("measured", "512"),
        ("measured", "256"),
        ("measured", "64"),
        ("predicted", "64"),
        ("mark", "257"),
    ]
    assert facts(wide.page)["cause"] == "at M = 257 a second wave starts"
    expect(wide.page.locator(".hoverlayer")).to_contain_text("at M = 257")  # plotly draws labels 50 ms apart
    assert wide.wrongs == []


def test_the_chart_is_reached_by_tab_and_says_how_it_is_read(wide: Any) -> None:
    for _ in range(30):
        wide.page.keyboard.press("Tab")
        if wide.page.evaluate("document.activeElement.className") == "chart":
            break
    chart = wide.page.locator(".chart:focus")
    hint = wide.page.locator(f"#{chart.get_attribute('aria-describedby')}")
    assert hint.is_visible()
    assert "along a series" in hint.text_content()
    assert wide.page.locator(".facts").get_attribute("aria-live") == "polite"


def test_escape_brings_the_hint_back(wide: Any) -> None:
    hint = wide.page.locator(".hint")
    wide.page.locator(".chart").focus()
    wide.page.keyboard.press("ArrowRight")
    assert (hint.is_visible(), wide.page.locator(".facts dt").count() > 0) == (False, True)
    wide.page.keyboard.press("Escape")
    assert (hint.is_visible(), wide.page.locator(".facts dt").count()) == (True, 0)


def chart_of(*series: Series, **changes: Any) -> Report:
    """The little report with another chart in its first figure."""
    report = made_up.report()
    first, *others = report.sections[0].figures
    interactive = Interactive(series, "FLOP per byte", "TFLOP/s", x_log2=True, y_log=True, **changes)
    figures = (replace(first, interactive=interactive), *others)
    return replace(report, sections=(replace(report.sections[0], figures=figures),))


def test_logarithmic_axes_have_round_ticks_of_at_most_three_digits(open_page: Any, report_file: Any) -> None:
    y = (0.0003, 1.0, 300.0)
    opened = open_page(report_file(chart_of(Series("s", "points", "blue", (2.0**-12, 1.0, 64.0), y, ()))))
    checks.draw_all(opened.page)
    across, upwards = (opened.page.locator(f".plot .{axis}tick text") for axis in "xy")
    expect(across.first).to_have_text("0.000244")  # 2^-12 = 0.000244140625
    assert across.all_text_contents()[-1] == "64"
    ticks = [float(text) for text in upwards.all_text_contents()]
    assert 5 < len(ticks) < 25
    assert all(f"{tick:e}"[:8] in {"1.000000", "2.000000", "5.000000"} for tick in ticks)
    assert checks.overlapping(opened.page) == checks.clipped(opened.page) == opened.wrongs == []


def test_points_below_the_axis_are_reached_by_keyboard_and_by_a_double_click(open_page: Any, report_file: Any) -> None:
    x, y = (1.0, 2.0), (0.001, 100.0)
    series = Series("s", "points", "blue", x, y, (Fact("layer", ("low", "high")),), areas=(1.0, 4.0))
    opened = open_page(report_file(chart_of(series, y_range=(1.0, 1000.0))))
    checks.draw_all(opened.page)
    axis = "(() => document.querySelector('.plot')._fullLayout.yaxis.range)()"
    assert opened.page.evaluate(axis) == [0, 3]
    opened.page.locator(".chart").focus()
    opened.page.keyboard.press("Home")
    assert facts(opened.page)["layer"] == "low"
    opened.page.locator(".plot .nsewdrag").first.dblclick(position={"x": 20, "y": 20})
    expect(opened.page.locator(".plot path.point")).to_have_count(2)
    opened.page.wait_for_function(f"{axis}[0] < -3")
    assert opened.wrongs == []


def test_an_unknown_fact_is_no_number(wide: Any) -> None:
    wide.page.locator(".chart").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        wide.page.keyboard.press(key)
    assert facts(wide.page)["kernel"] == "??"


def test_a_series_hidden_by_its_legend_is_passed_over(wide: Any) -> None:
    wide.page.locator(".legendtoggle").nth(0).click()
    expect(wide.page.locator(".plot .scatterlayer .trace")).to_have_count(2)  # the mark is one
    wide.page.locator(".chart").focus()
    wide.page.keyboard.press("ArrowRight")
    assert facts(wide.page)[""] == "measured"


def test_touching_a_point_shows_its_facts_on_a_phone(open_page: Any, report_file: Any) -> None:
    opened = open_page(report_file(made_up.report()), width=400, touch=True)
    checks.draw_all(opened.page)
    point = opened.page.locator(".plot .scatterlayer .trace").nth(1).locator("path.point").nth(1)
    point.scroll_into_view_if_needed()
    point.tap(force=True)
    opened.page.locator(".facts dl").wait_for()
    assert facts(opened.page)["M"] == "128"
    assert opened.page.locator(".hoverlayer .hovertext").count() == 0  # no room beside the point
    assert opened.wrongs == []


def test_tables_sort_by_raw_value_on_a_click(wide: Any) -> None:
    header = wide.page.get_by_role("columnheader", name="Time")
    header.click()
    expect(wide.page.locator("tbody td").first).to_have_text("conv2")
    assert column(wide.page, 2) == ["90.0 us", "1.20 ms", "900 ms", "??"]
    assert header.get_attribute("aria-sort") == "ascending"
    header.click()
    expect(wide.page.locator("tbody td").first).to_have_text("fc")
    assert column(wide.page, 2) == ["900 ms", "1.20 ms", "90.0 us", "??"]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_tables_sort_by_keyboard(wide: Any, key: str) -> None:
    wide.page.get_by_role("columnheader", name="Calls").focus()
    wide.page.keyboard.press(key)
    expect(wide.page.locator("tbody td").first).to_have_text("conv10")
    assert column(wide.page, 4) == ["1", "2", "3", "11"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_nothing_is_clipped_and_no_barrier_is_found(
    open_page: Any, report_file: Any, artefact: Any, width: int, scheme: str
) -> None:
    opened = open_page(report_file(made_up.report()), width=width, scheme=scheme)
    checks.draw_all(opened.page)
    opened.page.locator(".chart").focus()
    opened.page.keyboard.press("ArrowRight")
    assert checks.clipped(opened.page) == []
    assert checks.overlapping(opened.page) == []
    assert checks.barriers(opened.page) == []
    assert artefact(opened, f"{width}-{scheme}").stat().st_size > 10_000
    assert opened.wrongs == []


def test_the_check_for_clipping_finds_what_is_too_wide(wide: Any) -> None:
    wide.page.evaluate("document.querySelector('.answer').style.cssText = 'white-space: nowrap; width: 5rem'")
    assert any("wider than its box" in wrong for wrong in checks.clipped(wide.page))


def test_long_words_without_a_blank_are_broken_on_a_phone(open_page: Any, report_file: Any) -> None:
    opened = open_page(report_file(made_up.report(" " + 4 * made_up.KERNEL)), width=400)
    checks.draw_all(opened.page)
    opened.page.locator(".chart").focus()
    opened.page.keyboard.press("ArrowRight")
    assert checks.clipped(opened.page) == []


def test_dark_mode_changes_paper_and_chart_while_the_page_is_open(wide: Any) -> None:
    assert checks.background(wide.page) == (255, 255, 255)
    wide.page.emulate_media(color_scheme="dark")
    assert max(checks.background(wide.page)) < 40
    paper = wide.page.evaluate("getComputedStyle(document.body).backgroundColor")
    expect(wide.page.locator(".plot .main-svg").first).to_have_css("background-color", paper)
    assert checks.barriers(wide.page) == []


def test_a_window_made_narrow_gets_the_form_for_phones(wide: Any) -> None:
    wide.page.locator(".chart").focus()
    wide.page.keyboard.press("ArrowRight")
    expect(wide.page.locator(".hoverlayer .hovertext")).to_have_count(1)
    wide.page.set_viewport_size({"width": 400, "height": 900})
    wide.page.wait_for_timeout(1000)  # plotly waits before it resizes
    wide.page.keyboard.press("ArrowRight")
    expect(wide.page.locator(".hoverlayer .hovertext")).to_have_count(0)
    assert checks.clipped(wide.page) == []
    assert checks.overlapping(wide.page) == []


def test_colours_change_and_what_was_hidden_stays_hidden(wide: Any) -> None:
    wide.page.locator(".legendtoggle").nth(0).click()
    expect(wide.page.locator(".plot .scatterlayer .trace")).to_have_count(2)
    wide.page.emulate_media(color_scheme="dark")
    paper = wide.page.evaluate("getComputedStyle(document.body).backgroundColor")
    expect(wide.page.locator(".plot .main-svg").first).to_have_css("background-color", paper)
    expect(wide.page.locator(".plot .scatterlayer .trace")).to_have_count(2)


def test_on_paper_the_picture_stands_in_for_the_chart(wide: Any) -> None:
    picture, chart = wide.page.locator(".static").first, wide.page.locator(".chart").first
    assert (picture.is_visible(), chart.is_visible()) == (False, True)
    wide.page.emulate_media(media="print")
    assert (picture.is_visible(), chart.is_visible()) == (True, False)
    wide.page.set_viewport_size({"width": 680, "height": 900})  # A4 between margins of 15 mm
    assert checks.clipped(wide.page) == []


def test_without_scripts_pictures_and_tables_are_there(browser: Any, report_file: Any) -> None:
    window = browser.new_context(java_script_enabled=False, offline=True)
    page = window.new_page()
    page.goto(report_file(made_up.report()).as_uri())
    assert page.locator("picture").first.is_visible()
    assert not page.locator(".chart").is_visible()
    assert page.locator("tbody tr").count() == 4
    window.close()


def test_zooming_a_logarithmic_axis_leaves_it_labelled(wide: Any) -> None:
    wide.page.evaluate("Plotly.relayout(document.querySelector('.plot'), {'xaxis.range': [2.40, 2.42]})")
    expect(wide.page.locator(".plot .xtick text").nth(1)).to_be_visible()
    assert checks.overlapping(wide.page) == []


def test_hostile_words_run_no_script(open_page: Any, report_file: Any) -> None:
    opened = open_page(report_file(made_up.report(HOSTILE)))
    page = opened.page
    checks.draw_all(page)
    page.locator(".chart").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
        assert HOSTILE.replace(" ", "") in page.locator(".facts").text_content().replace(" ", "")
    point = page.locator(".plot .scatterlayer .trace").nth(1).locator("path.point").nth(0)
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    page.get_by_role("columnheader", name="Time").click()
    page.locator("summary").first.click()
    assert page.locator("iframe, body script[src], a[href^=javascript]").count() == 0
    assert page.locator(".plot a").count() == 0
    assert page.evaluate("[...document.querySelectorAll('*')].some((el) => el.onerror || el.onload)") is False
    assert page.locator("h1").is_visible()
    assert opened.wrongs == []


def test_the_policy_stops_a_script_that_found_its_way_in(open_page: Any, tmp_path: Path) -> None:
    report = made_up.report()
    text = html_page(report, made_up.pictures(report))
    path = tmp_path / "report.html"
    path.write_text(text.replace("<h1>", "<script>alert(1)</script><img src=x onerror=alert(2)><h1>"), encoding="utf-8")
    opened = open_page(path)
    opened.page.wait_for_timeout(200)
    assert not [wrong for wrong in opened.wrongs if wrong.startswith("dialog")]
    assert len([wrong for wrong in opened.wrongs if "Content Security Policy" in wrong]) >= 2
