"""Makes matplotlib's SVG small: in files without what nobody sees, in pages with as few characters as it takes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from math import asin, atan2, hypot, pi, remainder

_NAMESPACE = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_THIN = 0.04  # points: a vertex so near to a straight line is not drawn
_DENSE = 100  # vertices: shorter lines stay as they are
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_COORDINATES = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')
_PATH = re.compile(r'\bd="([^"]*)"')
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_TOKEN = re.compile(r"[MLQCz]|-?(?:\d+\.?\d*|\.\d+)")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_SHIFT = re.compile(r"translate\((-?[\d.]+)[ ,](-?[\d.]+)\)")
_GLYPH_SCALE = "scale(0.015625)"  # of matplotlib's glyphs, in 64ths; written in eighths: 1/80 pt at 10 pt

_Segment = tuple[str, tuple[float, ...]]  # a command and its absolute coordinates


def for_file(svg: str) -> str:
    """Without comments, in hundredths of a point, and dense lines without the vertices that change nothing."""
    rounded = _COORDINATES.sub(lambda found: _NUMBER.sub(lambda n: _decimal(float(n[0]), 2), found[0]),
                               _COMMENT.sub("", svg))  # fmt: skip
    return _PATH.sub(_sparse, rounded)


def for_page(svg: str, restyled: Callable[[str], str]) -> str:
    """As a document of its own within a page: in tenths of a point, of no size, with short ids and no metadata.

    `restyled` is given each `style`. Ids repeat from one document to the next.
    """
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{{{_NAMESPACE}}}metadata"):
        root.remove(metadata)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    names = {name: _letters(index) for index, name in enumerate(dict.fromkeys(_referred(root)))}
    for element in root.iter():
        _compact(element, names, restyled)
    _unwrap(root)
    root.set("xmlns", _NAMESPACE)
    return ET.tostring(root, encoding="unicode").replace(" />", "/>")


def _decimal(number: float, digits: int) -> str:
    """The shortest text of a rounded number: "12", ".5", "-.25"."""
    text = f"{number:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return {"-0": "0"}.get(text, text.replace("-0.", "-.").removeprefix("0") if "." in text else text)


# Dense lines ----------------------------------------------------------------------------------------------------------


def _sparse(found: re.Match[str]) -> str:
    if found[1].count("L") < _DENSE:
        return found[0]
    return 'd="' + " ".join(" ".join((c, *(_decimal(n, 2) for n in xy))) for c, xy in _thinned(found[1])) + '"'


def _segments(path: str) -> Iterator[_Segment]:
    """Each command of a path's data; matplotlib's are absolute, and none is left out."""
    command, numbers = "", list[float]()
    for token in _TOKEN.findall(path):
        if not token.isalpha():
            numbers.append(float(token))
            continue
        if command:
            yield command, tuple(numbers)
        command, numbers = token, []
    if command:
        yield command, tuple(numbers)


def _thinned(path: str) -> Iterator[_Segment]:
    """The segments without the ends of straight ones that the next goes on from in the same direction.

    From each vertex that is kept, the line may go on within the cone of directions that pass all others within `_THIN`
    (a cone-intersection, or sector, simplification: linear in the number of vertices).
    """
    x = y = reached = first = low = high = 0.0
    waiting: _Segment | None = None
    for command, numbers in _segments(path):
        if command != "L":
            if waiting:
                yield waiting
            yield command, numbers
            waiting, reached = None, 0.0
            x, y = numbers[-2:] or (x, y)
            continue
        for _ in range(2):  # a second time from the vertex before, where this one leaves the cone
            across, up = numbers[0] - x, numbers[1] - y
            distance, angle = hypot(across, up), atan2(up, across)
            if waiting is None or reached == 0:
                first, low, high = angle, -pi, pi
            turn = remainder(angle - first, 2 * pi)
            if waiting is None or (low <= turn <= high and distance >= reached):
                break
            yield waiting
            x, y = waiting[1]
            waiting, reached = None, 0.0
        if distance > _THIN:
            width = asin(_THIN / distance)
            low, high, reached = max(low, turn - width), min(high, turn + width), distance
        waiting = command, numbers
    if waiting:
        yield waiting


# Few characters -------------------------------------------------------------------------------------------------------


def _referred(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == _HREF and value.startswith("#"):
                yield value[1:]
            yield from _REFERENCE.findall(value)


def _letters(index: int) -> str:
    """ "a" to "z", "aa", "ab" and so on."""
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def _compact(element: ET.Element, names: dict[str, str], restyled: Callable[[str], str]) -> None:
    """Rewrite one element: the tags and attributes of SVG 2, without namespaces, blanks and ids nobody refers to."""
    element.tag = element.tag.removeprefix(f"{{{_NAMESPACE}}}")
    element.tail = None
    if element.tag != "style":
        element.text = None
    old, element.attrib = element.attrib, {}
    transform = old.get("transform", "")
    if element.tag == "use":
        _place(element, old)
    if "d" in old:
        old["d"] = _relative(old["d"], *((1 / 8, 0) if transform == _GLYPH_SCALE else (1.0, 1)))
    if transform == _GLYPH_SCALE:
        old["transform"] = "scale(.125)"
    if "fill" in old:  # of the ground below hatching
        old["style"] = f"fill: {old.pop('fill')}"
    if "style" in old:
        old["style"] = restyled(old["style"]).replace(": ", ":").replace("; ", ";")
    if (name := old.pop("id", None)) in names:
        element.set("id", names[name])
    if target := old.pop(_HREF, ""):
        element.set("href", f"#{names[target[1:]]}" if target.startswith("#") else target)
    for key, value in old.items():
        element.set(key, _REFERENCE.sub(lambda found: f"url(#{names[found[1]]})", value))


def _place(element: ET.Element, old: dict[str, str]) -> None:
    """Give a copy of a mark or letter its place as x and y, also where it is shifted."""
    if shift := _SHIFT.fullmatch(old.get("transform", "")):
        del old["transform"]
        old["x"], old["y"] = shift.groups()
    for key in ("x", "y"):
        if (place := _decimal(float(old.pop(key, "0")), 1)) != "0":
            element.set(key, place)


def _relative(path: str, scale: float, digits: int) -> str:
    """Path data in differences of rounded coordinates, so that no rounding adds up."""
    unit = 10**digits
    x = y = start_x = start_y = 0
    made, last = [], ""
    for command, numbers in _segments(path):
        places = [round(number * scale * unit) for number in numbers]
        steps = [place - (y if index % 2 else x) for index, place in enumerate(places)]
        if command == "z":
            x, y = start_x, start_y
        else:
            x, y = places[-2:]
        if command == "M":
            start_x, start_y = x, y
        letter = command.lower()
        written = [_decimal(step / unit, digits) for step in steps]
        if letter == "l" and 0 in steps:
            letter, written = ("v", written[1:]) if steps[0] == 0 else ("h", written[:1])
        text = "".join(number if number.startswith("-") else f",{number}" for number in written)
        made.append(text if letter == last and letter not in "mz" else letter + text.removeprefix(","))
        last = letter
    return "".join(made)


def _unwrap(element: ET.Element) -> None:
    """Replace groups that say nothing by what is in them."""
    children = []
    for child in element:
        _unwrap(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = children
