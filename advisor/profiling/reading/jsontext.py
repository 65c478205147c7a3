"""JSON as text: where elements end, and what some writers of traces get wrong."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.raw import Ints

_Positions = NDArray[np.int32]
_QUOTE, _BACKSLASH, _NEWLINE = b'"\\\n'
_MARK = np.zeros(256, dtype=np.bool_)
_MARK[list(b"{}[],")] = True
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"{[")] = 1
_STEP[list(b"}]")] = -1

_TOKEN = re.compile(
    rb'"[^"\\]*(?:\\(?:.|\Z)[^"\\]*)*(?:"|\Z)|-?[0-9][-+.0-9eE]*|[-+/A-Za-z][-+./0-9A-Za-z]*', re.DOTALL
)
_NAME = re.compile(rb'("name"[ \t]*:[ \t]*")([^\r\n]{0,4096}?)(?="\s*,\s*"[A-Za-z_ ]{1,40}"\s*:)')
_QUOTE_IN_NAME = re.compile(rb'\\.|"', re.DOTALL)
_IN_STRING = re.compile(rb'\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\|[\x00-\x1f]')
_WORDS = (b"true", b"false", b"null")


def split(text: bytes, start: int = 0) -> tuple[Ints, int]:
    """Find where the elements of a JSON array or object end, whose first begins at `start`.

    Returns the positions of the commas between elements, and the position of the bracket that closes the array (-1
    where the text ends before). Exact for valid JSON: what is within strings and deeper levels does not count. A line's
    end ends a string too, which valid JSON never has: so a quote that was not escaped spoils its line, not the rest.
    """
    data = np.frombuffer(text, dtype=np.uint8, offset=start)
    marks = _positions(_MARK[data])
    marks = marks[~_in_string(data, marks)]
    steps = _STEP[data[marks]]
    depth = np.cumsum(steps, dtype=np.int32)
    closing = np.flatnonzero(depth < 0)
    last = int(closing[0]) if len(closing) else len(marks)
    commas = marks[:last][(depth[:last] == 0) & (steps[:last] == 0)].astype(np.int64) + start
    return commas, (int(marks[last]) + start if len(closing) else -1)


def _in_string(data: NDArray[np.uint8], marks: _Positions) -> NDArray[np.bool_]:
    """Return which of these positions have an odd number of quotes before them on their line."""
    quotes = _positions(data == _QUOTE)
    slashes = _positions(data == _BACKSLASH)
    if len(slashes):
        quotes = quotes[~_escaped(slashes, quotes)]
    lines = _positions(data == _NEWLINE)
    before_line = np.searchsorted(quotes, np.concatenate(([0], lines)))
    odd: NDArray[np.bool_] = (np.searchsorted(quotes, marks) - before_line[np.searchsorted(lines, marks)]) % 2 == 1
    return odd


def _escaped(slashes: _Positions, quotes: _Positions) -> NDArray[np.bool_]:
    """Return which quotes follow an odd number of backslashes."""
    begins = np.diff(slashes, prepend=-2) > 1
    run_begin = slashes[begins][np.cumsum(begins) - 1]
    escaping = slashes[(slashes - run_begin) % 2 == 0]
    return np.isin(quotes - 1, escaping, assume_unique=True)


def _positions(where: NDArray[np.bool_]) -> _Positions:
    return np.flatnonzero(where).astype(np.int32)  # half the memory; a window is far below 2 GiB


def repaired(text: bytes) -> bytes:
    """Return JSON with what some writers get wrong set right, for a second try.

    Words that JSON does not know (NaN, inf, N/A) become null, lone backslashes in strings (Windows paths) are doubled,
    control characters become spaces, bytes that are not UTF-8 become U+FFFD, and quotes in an event's name are escaped,
    which Kineto does not do (pytorch/kineto#1459).
    """
    text = text.decode("utf-8", errors="replace").encode()
    found = _NAME.match(text, max(text.find(b'"name"'), 0))
    if found:
        name = _QUOTE_IN_NAME.sub(lambda part: b'\\"' if part[0] == b'"' else part[0], found[2])
        text = text[: found.start(2)] + name + text[found.end(2) :]
    return _TOKEN.sub(_repaired_token, text)


def _repaired_token(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if token.startswith(b'"'):
        return _IN_STRING.sub(_repaired_character, token)
    return token if token in _WORDS or token.lstrip(b"-")[:1].isdigit() else b"null"


def _repaired_character(found: re.Match[bytes]) -> bytes:
    character = found[0]
    if character == b"\\":
        return b"\\\\"
    return character if character.startswith(b"\\") else b" "
