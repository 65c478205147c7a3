"""JSON as text: where elements end, and what some writers of traces get wrong."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.raw import Ints

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_MARK = np.zeros(256, dtype=np.bool_)
_MARK[list(b"{}[],")] = True
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"{[")] = 1
_STEP[list(b"}]")] = -1

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9][-+.0-9eE]*|[-+/A-Za-z][-+./0-9A-Za-z]*', re.DOTALL)
_IN_STRING = re.compile(rb'\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\|[\x00-\x1f]')
_WORDS = (b"true", b"false", b"null")


def split(text: bytes, start: int = 0) -> tuple[Ints, int]:
    """Find where the elements of a JSON array or object end, whose first begins at `start`.

    Returns the positions of the commas between elements, and the position of the bracket that closes the array (-1
    where the text ends before). Exact for valid JSON: what is within strings and deeper levels does not count.
    """
    data = np.frombuffer(text, dtype=np.uint8, offset=start)
    quotes = np.flatnonzero(data == _QUOTE)
    slashes = np.flatnonzero(data == _BACKSLASH)
    if len(slashes):
        quotes = quotes[~_escaped(slashes, quotes)]
    marks = np.flatnonzero(_MARK[data])
    marks = marks[np.searchsorted(quotes, marks) % 2 == 0]
    steps = _STEP[data[marks]]
    depth = np.cumsum(steps, dtype=np.int64)
    closing = np.flatnonzero(depth < 0)
    last = int(closing[0]) if len(closing) else len(marks)
    commas = marks[:last][(depth[:last] == 0) & (steps[:last] == 0)] + start
    return commas, (int(marks[last]) + start if len(closing) else -1)


def _escaped(slashes: Ints, quotes: Ints) -> NDArray[np.bool_]:
    """Return which quotes follow an odd number of backslashes."""
    begins = np.diff(slashes, prepend=-2) > 1
    run_begin = slashes[begins][np.cumsum(begins) - 1]
    escaping = slashes[(slashes - run_begin) % 2 == 0]
    return np.isin(quotes - 1, escaping, assume_unique=True)


def repaired(text: bytes) -> bytes:
    """Return JSON with what some writers get wrong set right, for a second try.

    Words that JSON does not know (NaN, inf, N/A) become null, lone backslashes in strings (Windows paths) are doubled,
    control characters become spaces, and bytes that are not UTF-8 become U+FFFD.
    """
    return _TOKEN.sub(_repaired_token, text.decode("utf-8", errors="replace").encode())


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
