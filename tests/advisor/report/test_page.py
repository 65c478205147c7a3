from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import advisor.report
from advisor.report.records import Column, Interactive, Origin, Report, Series, Table
from advisor.report.rendering.html import page
from advisor.report.rendering.interactive import chart_json
from advisor.report.rendering.pictures import COLOURS, Pictures
from tests.advisor.report import made_up

ASSETS = Path(advisor.report.__file__).parent / "assets"
VOID = {"meta", "link", "img", "source", "br"}
HOSTILE = (
    '"><script>alert(1)</script>',
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "'\"><svg onload=alert(4)>",
    '<a href="javascript:alert(5)">x</a>',
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
)


class Parsed(HTMLParser):
    """Elements in order, and that each is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []  # (innermost element, text)
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [data for element, data in self.words if element == tag and data.strip()]


def made(report: Report | None = None) -> str:
    report = report or made_up.report()
    return page(report, made_up.pictures(report))


def executable(text: str) -> list[str]:
    """The scripts that a browser would run; blocks of data are none."""
    return [body for kind, body in re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL) if "json" not in kind]


def svg_of(uri: str) -> str:
    kind, body = uri.split(",", 1)
    assert kind in {"data:image/svg+xml", "data:image/svg+xml;base64"}
    return base64.b64decode(body).decode() if kind.endswith("base64") else unquote(body)


def charts(text: str) -> list[dict]:
    bodies = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(body) for body in bodies]


def test_the_page_says_its_language_title_and_viewport() -> None:
    text = made()
    parsed = Parsed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert parsed.all("html") == [{"lang": "en"}]
    assert parsed.text_of("title") == ["Report on NVIDIA A100"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all("meta")
    assert list(parsed.all("meta")[0]) == ["charset"]


def test_headings_follow_one_another_without_a_gap() -> None:
    levels = [int(tag[1]) for tag, _ in Parsed(made()).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_title_and_answers_come_before_the_contents() -> None:
    text = made()
    assert (
        text.index("<h1>") < text.index("Train at batch 248") < text.index("Nothing was measured") < text.index("<nav")
    )


def test_every_id_is_unique_and_every_reference_finds_one() -> None:
    elements = Parsed(made()).elements  # with a figure and a table that are both called "layers"
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids


def test_nothing_is_loaded_from_anywhere() -> None:
    for tag, attributes in Parsed(made()).elements:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
        assert tag != "link" or attributes["href"] == "data:,"
    assert "@import" not in made()
    assert not re.search(r"url\((?!data:)", re.search("<style>(.*?)</style>", made(), re.DOTALL)[1])


def test_a_figure_has_both_forms_its_answer_and_its_origins_as_words() -> None:
    parsed = Parsed(made())
    image, source = parsed.all("img")[0], parsed.all("source")[0]
    assert image["alt"] == "A line that rises to 200 TFLOP/s and falls."
    assert (image["width"], image["height"]) == ("710", "422")  # 7.4 by 4.4 inches at 96 px
    assert source["media"] == "(max-width: 600px)"
    assert svg_of(image["src"]) == svg_of(source["srcset"]) == made_up.PICTURE
    assert not set(source["srcset"]) & set(" \n\"'<>#")
    assert "It falls by 25\xa0% after M\xa0=\xa0256." in parsed.text_of("p")
    assert parsed.text_of("span").count("measured here") == 2


def test_the_page_has_the_colours_of_figures_by_day_and_others_by_night() -> None:
    style = re.search("<style>(.*?)</style>", made(), re.DOTALL)[1]
    day, night = re.match(
        r":root\{([^{}]*)\}@media \(prefers-color-scheme:dark\)\{:root\{([^{}]*)\}\}\n", style
    ).groups()
    by_day, by_night = (dict(re.findall(r"--(\w+):(#\w+);", block)) for block in (day, night))
    assert by_day == {name: light for name, (light, _) in COLOURS.items()}
    assert by_night == {name: dark for name, (_, dark) in COLOURS.items()}
    assert all(by_day[name] != by_night[name] for name in COLOURS)
    assert {"paper", "ink"} <= set(by_day)


def test_a_number_and_its_unit_stay_on_one_line() -> None:
    report = replace(made_up.report(), summary=("37 % of 2 sizes in 1.5 ms at 312 TFLOP/s on 108 SMs, N = 4",))
    assert "37\xa0% of 2 sizes in 1.5\xa0ms at 312\xa0TFLOP/s on 108\xa0SMs, N\xa0=\xa04" in made(report)


def test_words_between_backticks_are_code_in_prose_and_nowhere_else() -> None:
    text = "Give `--force <b>`, or $`x`$ ``y`` a ` b"
    report = replace(made_up.report(), notes=(text,), title=text)
    section = replace(report.sections[0], lead=text, notes=(text,))
    parsed = Parsed(made(replace(report, sections=(section,))))
    assert parsed.text_of("code") == ["--force <b>", "advisor report", "--force <b>", "--force <b>"]
    assert parsed.text_of("h1") == [text]
    assert parsed.text_of("b") == []


def test_what_captions_say_briefly_is_said_in_full_once() -> None:
    long = Origin("estimate", "steps predicted, <i>4</i> % off " + 9 * "in the mean ", short="steps, 4 % off")
    exact = Origin("exact", "counted")
    report = made_up.report()
    figures = tuple(replace(figure, origins=(exact, long)) for figure in report.sections[0].figures)
    report = replace(report, sections=(replace(report.sections[0], figures=figures),))
    text = made(report)
    parsed = Parsed(text)
    assert text.count("steps predicted") == 1
    assert text.count('steps, 4\xa0% off, <a href="#source-1">source 1</a>') == 2
    assert [attributes["id"] for attributes in parsed.all("li") if "id" in attributes] == ["source-1"]
    assert text.count("</span> counted") == 3  # two figures and the table: it is short as it is
    assert parsed.all("i") == []
    assert "Sources in full" not in made()


def test_a_picture_without_a_form_for_phones_has_its_wide_one_everywhere() -> None:
    report = made_up.report()
    pictures = {name: replace(picture, narrow_svg="") for name, picture in made_up.pictures(report).items()}
    assert Parsed(page(report, pictures)).all("source") == []


@pytest.mark.parametrize(
    ("inside", "kind"), [("m" * 300, "data:image/svg+xml,"), ("<g/>" * 99, "data:image/svg+xml;base64,")]
)
def test_a_picture_takes_the_shorter_encoding(inside: str, kind: str) -> None:
    report, svg = made_up.report(), f"<svg>{inside}</svg>"
    text = page(report, dict.fromkeys(made_up.pictures(report), Pictures(b"", svg, svg, svg)))
    source = Parsed(text).all("img")[0]["src"]
    assert source.startswith(kind)
    assert svg_of(source) == svg


def test_cells_are_printed_and_sort_by_their_raw_value() -> None:
    text = made()
    assert '<td class="number" data-sort="0.0012">1.20 ms</td>' in text
    assert '<td class="number" data-sort="9e-05">90.0 us</td>' in text
    assert text.count('<td class="number" data-sort="">??</td>') == 2
    assert "<td>conv10</td>" in text
    assert all(header["scope"] == "col" for header in Parsed(text).all("th"))


def test_truth_and_endless_numbers_sort_too() -> None:
    table = Table("t", "t", (Column("a", "a"), Column("b", "b")), ((True, float("inf")), (False, float("nan"))), ())
    report = replace(made_up.report(), sections=(replace(made_up.report().sections[0], figures=(), tables=(table,)),))
    text = made(report)
    assert '<td data-sort="1">yes</td>' in text
    assert '<td class="number" data-sort="Infinity">inf</td>' in text
    assert '<td class="number" data-sort="">??</td>' in text


def test_rows_that_are_not_shown_are_said() -> None:
    text = made(made_up.report(shown=3))
    assert "The first 3 of 4 rows; all are in" in text
    assert 'href="tables/layers.csv"' in text
    assert "conv10" not in text
    assert "The first" not in made()


def test_a_wide_table_can_be_scrolled_by_keyboard() -> None:
    regions = [attributes for attributes in Parsed(made()).all("div") if attributes.get("class") == "scroll"]
    assert regions == [{"class": "scroll", "role": "region", "tabindex": "0", "aria-labelledby": "table-layers"}]


def test_plotly_comes_only_with_an_interactive_figure() -> None:
    assert len(executable(made())) == 4
    still = made(made_up.report(interactive=False))
    assert len(executable(still)) == 3
    assert "plotly.js" not in still
    assert len(still.encode()) < 50_000


def test_the_policy_names_exactly_the_scripts_of_the_page() -> None:
    text = made()
    policy = next(meta["content"] for meta in Parsed(text).all("meta") if "http-equiv" in meta)
    hashes = {base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in executable(text)}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert policy.endswith("; base-uri 'none'; form-action 'none'")
    assert text.index("Content-Security-Policy") < text.index("<script")


def test_scripts_stand_in_a_page_as_they_are() -> None:
    for script in ASSETS.rglob("*.js"):
        content = script.read_bytes()
        assert not re.search(rb"</script|<!--|\r|\0", content, re.IGNORECASE), script.name


def test_vendored_files_are_those_that_the_readme_names() -> None:
    named = dict(
        re.findall(r"^\| `(\S+\.js)` .* `([0-9a-f]{64})` \|$", (ASSETS / "README.md").read_text(), re.MULTILINE)
    )
    vendored = {path.relative_to(ASSETS).as_posix(): path for path in ASSETS.glob("*/*.js")}
    assert set(named) == set(vendored)
    for name, path in vendored.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == named[name]
        assert (path.parent / "LICENSE").is_file()


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_are_words(words: str) -> None:
    plain, hostile = Parsed(made(made_up.report())), Parsed(made(made_up.report(words)))
    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in hostile.elements]
    names = [[set(attributes) - {"class"} for _, attributes in parsed.elements] for parsed in (plain, hostile)]
    assert names[0] == names[1]  # the class says which cells are long
    assert executable(made(made_up.report(words))) == executable(made())
    assert hostile.text_of("h1") == ["Report on NVIDIA A100" + words]
    assert hostile.all("img")[0]["alt"].endswith(words)


@pytest.mark.parametrize("words", HOSTILE)
def test_plotly_reads_hostile_words_as_words(words: str) -> None:
    (chart,) = charts(made(made_up.report(words)))
    drawn = [trace["name"] for trace in chart["data"][:2]] + chart["data"][2]["text"]
    drawn += [chart["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    for text in drawn:
        assert "<" not in text.replace("<br>", "")
        assert html.unescape(text.replace("<br>", " ")).replace(" ", "").endswith(words.replace(" ", ""))
    assert chart["names"][1] == "measured" + words  # the panel sets it as text


def test_a_chart_has_every_fact_of_every_point_and_no_figure_for_an_unknown_one() -> None:
    (chart,) = charts(made())
    assert chart["names"] == ["predicted", "measured", "mark"]
    assert chart["data"][1]["x"] == [64, 128, 256, 512]
    assert chart["data"][1]["error_y"]["array"] == [10, 10, 10, 10]
    assert chart["data"][1]["error_y"]["arrayminus"] == [5, 5, 5, 5]
    assert chart["facts"][1][1] == ["throughput", "TFLOP/s", [50.0, 100.0, 200.0, 150.0]]
    assert chart["facts"][1][2][2][1] is None
    assert chart["facts"][2] == [["M, rows", "", [257]], ["cause", "", ["at M = 257 a second wave starts"]]]


def test_areas_of_markers_are_to_one_measure_in_all_series_of_a_chart() -> None:
    def series(*areas: float) -> Series:
        return Series("s", "points", "blue", (1.0,) * len(areas), (1.0,) * len(areas), (), areas=areas)

    chart = json.loads(chart_json(Interactive((series(0.0, 0.25), series(1.0)), "x", "y", y_range=(0.5, 2.0))))
    none, quarter, most = (size for trace in chart["data"] for size in trace["marker"]["size"])
    assert 0 < none < quarter < most < 40
    assert quarter**2 - none**2 == pytest.approx((most**2 - none**2) / 4, rel=0.01)
    assert chart["layout"]["yaxis"]["range"] == [0.5, 2.0]
    logarithmic = json.loads(chart_json(Interactive((), "x", "y", y_log=True, y_range=(0.1, 100.0))))
    assert logarithmic["layout"]["yaxis"]["range"] == [-1, 2]


def test_points_that_are_nowhere_are_gaps_and_whole_numbers_stay_whole() -> None:
    x, y = (16777217.0, 2.0), (float("nan"), 1 / 3)
    chart = json.loads(chart_json(Interactive((Series("s", "line", "blue", x, y, ()),), "x", "y")))
    assert chart["data"][0]["x"] == [16777217, 2]
    assert chart["data"][0]["y"] == [None, 0.333333]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert made() == made()


def test_half_of_a_surrogate_pair_can_be_written() -> None:
    assert "A100?" in made(made_up.report("\udc80"))


def test_twelve_charts_of_a_thousand_points_stay_below_six_megabytes() -> None:
    x = tuple(float(m) for m in range(1, 1001))
    facts = tuple(replace(made_up.chart().series[1].facts[2], values=(made_up.KERNEL,) * 1000) for _ in range(2))
    big = Interactive((Series("s", "line", "blue", x, tuple(m / 7 for m in x), facts),), "x", "y")
    figures = tuple(replace(made_up.figure(f"f{i}"), interactive=big) for i in range(12))
    report = replace(made_up.report(), sections=(replace(made_up.report().sections[0], figures=figures),))
    assert len(made(report).encode()) < 6_000_000
