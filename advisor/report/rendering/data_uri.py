"""An SVG inside a page: in few characters, as most of a page's bytes are its pictures."""

from __future__ import annotations

import base64
import re
import urllib.parse

_BETWEEN_TAGS = re.compile(r">\s*\n\s*<")
_PATH = re.compile(r'(<path\b[^>]*?\sd=")([^"]*)(")')
_STYLE = re.compile(r'(<\w[^>]*?\sstyle=")([^"]*)(")')
# What stands in a URL as it is, and in an attribute and a srcset too: no blank, quote, ampersand, "#", "<" or ">".
_PLAIN = "!$()*+,/:;=?@"


def svg_uri(svg: str) -> str:
    """The SVG, without blanks that mean nothing, as a data URI: URL-encoded or base64, whichever is shorter."""
    text = compact(svg)
    quoted = "data:image/svg+xml," + urllib.parse.quote(text, safe=_PLAIN)
    encoded = "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
    return min(quoted, encoded, key=len)


def compact(svg: str) -> str:
    """The same picture with commas for the blanks in paths (one character in a URL, not three), and no indents."""
    text = _BETWEEN_TAGS.sub("><", svg)
    text = _PATH.sub(lambda found: found[1] + _path(found[2]) + found[3], text)
    return _STYLE.sub(lambda found: found[1] + re.sub(r"([:;])\s+", r"\1", found[2]) + found[3], text)


def _path(data: str) -> str:
    """Path data: a letter ends a number, and a comma is as good as a blank (SVG 2, 9.3.9)."""
    return re.sub(r"\s+", ",", re.sub(r"\s*([A-Za-z])\s*", r"\1", data.strip()))
