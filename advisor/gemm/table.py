"""Matrix sizes from a CSV file, and predicted times back into one: fast enough for millions of rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError, BrokenFileError
from advisor.quantization import MAX_SIZE

COLUMNS = (
    "m", "n", "k", "time_s", "tflops", "tile_m", "tile_n", "split_k", "waves", "wave_efficiency", "bound",
)  # fmt: skip
MAX_BYTES = 2**30
WANTED = ("m", "n", "k")


def read_shapes(path: Path) -> NDArray[np.int64]:
    """Columns m, n, k of a CSV file with a line of titles, one row per product; other columns are ignored.

    Raises BadInputError where the file cannot be read, BrokenFileError naming the first line that is no product.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BadInputError(f"{path} has {size} bytes, limit {MAX_BYTES}: split it")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"{path}: not UTF-8 text at byte {error.start}; save it as CSV in UTF-8") from error
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; give a CSV file with columns m,n,k") from error
    head, _, body = text.partition("\n")
    titles = [title.strip().strip('"').lower() for title in head.split(",")]
    if any(titles.count(name) != 1 for name in WANTED):
        raise BrokenFileError(f"{path}, line 1: titles {head.strip()[:80]!r} lack m, n or k; write m,n,k")
    if not body.strip():
        raise BrokenFileError(f"{path} has no line after its titles; add one product per line, such as 4096,1024,1024")
    places = [titles.index(name) for name in WANTED]
    try:
        found = np.loadtxt(io.StringIO(body), delimiter=",", usecols=places, dtype=np.int64, ndmin=2, comments=None)
    except ValueError:
        found = None
    if found is None or (found < 1).any() or (found > MAX_SIZE).any():
        raise _first_broken_line(path, body, places)
    return found


def _first_broken_line(path: Path, body: str, places: Sequence[int]) -> BrokenFileError:
    """Say which line is no product. Only called once something is known to be wrong."""
    for number, fields in enumerate(csv.reader(io.StringIO(body)), start=2):
        if not fields:
            continue
        for name, place in zip(WANTED, places, strict=True):
            value = fields[place].strip() if place < len(fields) else ""
            if not value.isdecimal() or not 1 <= int(value[:20]) <= MAX_SIZE:
                said = repr(value[:40]) if value else "missing"
                cure = f"write a whole number from 1 to {MAX_SIZE}"
                return BrokenFileError(f"{path}, line {number}: {name} is {said}; {cure}")
    return BrokenFileError(f"{path}: not readable as CSV; write whole numbers under the titles m,n,k")


def table_text(columns: Sequence[Sequence[str]]) -> str:
    """CSV text of columns of text under the titles COLUMNS."""
    lines = [",".join(COLUMNS)]
    lines += map(",".join, zip(*columns, strict=True))
    return "\n".join(lines)
