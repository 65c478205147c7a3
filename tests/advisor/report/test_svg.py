"""SVG in fewer characters: every picture looks as it did."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.report.rendering.svg import for_file, for_page

HEAD = '<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" height="9pt" viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg">'


def page(body: str) -> str:
    return for_page(f"{HEAD}{body}</svg>", str.upper)


def polyline(points: list[tuple[float, float]]) -> str:
    return '<path d="M' + " L".join(f" {x:.6f} {y:.6f} \n" for x, y in points) + '"/>'


def vertices(svg: str) -> list[tuple[float, float]]:
    path = re.findall(r'\bd="([^"]*)"', svg)[0]
    numbers = [float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_a_dense_line_keeps_its_corners_and_nothing_between() -> None:
    """50 teeth of 8 vertices each: the first is a valley, the last a peak."""
    saw = [(i / 4, (i % 8) * 2.0) for i in range(400)]
    kept = vertices(for_file(polyline(saw)))
    assert kept == [point for i, point in enumerate(saw) if i % 8 in (0, 7)]


def test_a_line_that_turns_back_keeps_its_far_end() -> None:
    there = [(float(i), 0.0) for i in range(100)]
    assert vertices(for_file(polyline([*there, (50.0, 0.0)]))) == [(0, 0), (99, 0), (50, 0)]


def test_short_lines_keep_every_vertex() -> None:
    assert len(vertices(for_file(polyline([(float(i), 0.0) for i in range(50)])))) == 50


@given(st.lists(st.floats(-3, 3), min_size=120, max_size=160), st.floats(0.01, 5))
def test_no_vertex_is_further_from_the_thinned_line_than_can_be_seen(steps: list[float], stride: float) -> None:
    y, points = 0.0, []
    for index, step in enumerate(steps):
        y += step / 50
        points.append((index * stride, y))
    kept = vertices(for_file(polyline(points)))
    for point in points:
        assert min(map(distance, [point] * (len(kept) - 1), kept, kept[1:])) < 0.06  # 0.04, and a rounding of 0.005


def distance(point: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    """From a point to the straight line between two others."""
    (x, y), (dx, dy) = (point[0] - a[0], point[1] - a[1]), (b[0] - a[0], b[1] - a[1])
    along = min(max((x * dx + y * dy) / (dx * dx + dy * dy or 1.0), 0.0), 1.0)
    return math.hypot(x - along * dx, y - along * dy)


def test_paths_of_pages_are_relative_and_in_tenths_of_a_point() -> None:
    made = page(
        '<path d="M 10 20 \nL 12.25 20 \nL 12.25 18.5 \nL 13 19 \nz\nM 1 1 \nQ 2 2 3 0.96 \nC 1 1 2 2 0.5 -0.5"/>'
    )
    assert 'd="m10,20h2.2v-1.5l.8,.5zm-9-19q1,1,2,0c-2,0-1,1-2.5-1.5"' in made


def test_no_rounding_adds_up() -> None:
    """100 steps of 0.04, each of which would round to nothing, come to 4."""
    steps = "".join(f" L {0.04 * i:.2f} {0.04 * i:.2f}" for i in range(1, 101))
    (path,) = re.findall(r'd="m0,0([^"]*)"', page(f'<path d="M 0 0{steps}"/>'))
    assert sum(map(float, re.findall(r"[\d.]+", path))) == pytest.approx(2 * 4.0)


def test_references_keep_what_they_refer_to() -> None:
    made = page(
        '<defs><path id="DejaVuSans-4d" d="M 80 160 L 800 0" transform="scale(0.015625)"/><clipPath id="pff">'
        '<rect x="1" y="1" width="2" height="2"/></clipPath></defs><g id="axes_1"><g id="none">'
        '<use xlink:href="#DejaVuSans-4d" transform="translate(12.34 0)"/>'
        '<path d="M 0 0" clip-path="url(#pff)" style="fill: none; stroke: #ffffff"/></g></g>'
    )
    assert made == (
        '<svg viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg"><defs><path id="a" d="m10,20l90-20" '
        'transform="scale(.125)"/><clipPath id="b"><rect x="1" y="1" width="2" height="2"/></clipPath></defs>'
        '<use x="12.3" href="#a"/><path d="m0,0" clip-path="url(#b)" style="FILL:NONE;STROKE:#FFFFFF"/></svg>'
    )


def test_the_ground_below_hatching_has_its_colour_as_a_style() -> None:
    assert '<rect style="FILL:#FFFFFF"/>' in page('<rect fill="#ffffff"/>')


def test_raster_images_and_styles_stay() -> None:
    made = page(
        '<style type="text/css">*{a: b}</style><image xlink:href="data:image/png;base64,aaaa" width="3" height="4"/>'
    )
    assert '<style type="text/css">*{a: b}</style>' in made
    assert '<image href="data:image/png;base64,aaaa" width="3" height="4"/>' in made


def test_twenty_seven_references_have_twenty_seven_names() -> None:
    marks = "".join(f'<path id="m{i}" d="M 0 0"/><use xlink:href="#m{i}"/>' for i in range(30))
    root = ET.fromstring(page(marks))
    names = [each.get("id") for each in root if each.get("id")]
    assert len(set(names)) == 30
    assert names[25:28] == ["z", "aa", "ab"]


@pytest.mark.parametrize(
    ("number", "text"), [("0.5", ".5"), ("-0.25", "-.2"), ("-0.04", "0"), ("12", "12"), ("10.0", "10")]
)
def test_numbers_are_written_in_the_fewest_characters(number: str, text: str) -> None:
    assert f'd="m{text},1"' in page(f'<path d="M {number} 1"/>')
