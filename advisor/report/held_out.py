"""Counts of held-out predictions, shipped beside the profiles: how wrong they were, as anyone may draw it.

The rows themselves are other people's and are not shipped. `python -m bench accuracy` counts them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.decoding import decode_versioned, read_shipped
from advisor.errors import BrokenFileError
from advisor.profile import FOLDER as PROFILES
from advisor.profile import Error

SCHEMA_VERSION = 1
FOLDER = PROFILES / "held-out"
MAX_BYTES = 1 << 18
MOST_CELLS = 1000  # of a density, across or up
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CURE = "write it anew with `python -m bench accuracy`"

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Density(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows counted in cells, log spaced: what was measured, from `low` to `high`, by predicted / measured time.

    Rows more than `most_off` times off are counted in the outermost cells.
    """

    low: float  # edges of the first and the last column, s or FLOP/s
    high: float
    most_off: float
    cells: int  # of each column, from 1 / most_off to most_off
    columns: tuple[tuple[int, ...], ...]  # the first cell that is not empty, then the counts from there on

    def counts(self) -> Integers:
        """Rows in each cell, [column, cell]."""
        found = np.zeros((len(self.columns), self.cells), dtype=np.int64)
        for row, (first, *counts) in zip(found, self.columns, strict=True):
            row[first : first + len(counts)] = counts
        return found

    def edges(self) -> Floats:
        """Of the columns, one more than there are."""
        return np.geomspace(self.low, self.high, len(self.columns) + 1)

    def ratio_edges(self) -> Floats:
        """Of the cells, predicted / measured time, one more than there are."""
        return np.geomspace(1 / self.most_off, self.most_off, self.cells + 1)

    def fault(self) -> str | None:
        """What is wrong with the numbers, as far as types cannot say it."""
        if not (0 < self.low < self.high < math.inf and 1 < self.most_off < math.inf and self.cells > 0):
            return "edges that do not rise"
        if self.cells > MOST_CELLS or len(self.columns) > MOST_CELLS:
            return f"{max(self.cells, len(self.columns))} cells, limit {MOST_CELLS}"
        if not self.columns:
            return "no columns"
        for column in self.columns:
            if not column or min(column) < 0 or column[0] + len(column) - 1 > self.cells:
                return f"columns that are not a first cell and counts within {self.cells} cells"
        return None


class SizeClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How wrong the predictions of one class of products were."""

    by: Literal["time", "m", "unjudged"]  # unjudged: rows that the error of the profile does not count
    name: str  # "50 to 100 us"
    rows: int
    mean: float  # of |predicted / measured - 1|
    median: float
    p90: float
    ratios: tuple[float, ...]  # predicted / measured at QUANTILES


class HeldOutProducts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Products of one precision predicted by fits that had not seen them."""

    coefficients_of: str  # id of the GPU whose timings were fitted
    origin: str  # of the measurements: table, commit, licence
    fitted: str  # date of the fit that was judged, YYYY-MM-DD
    error: Error  # over the judged rows
    within: tuple[float, float]  # shares of the judged rows that are 10 and 20 % off at most
    rates: Density  # judged rows by measured FLOP/s
    times: Density  # all rows by measured time
    classes: tuple[SizeClass, ...]
    rivals: dict[str, Error]  # name of a simpler model -> its error on the same rows, held out alike
    repeats_mean: float | None = None  # how far the same products lie apart when measured with other software


class HeldOutSteps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training steps of models that the fit has not seen, all of one layout."""

    origin: str  # of the measurements: table, commit, licence
    error: Error  # of the step time
    within: tuple[float, float]  # shares of the steps that are 10 and 20 % off at most
    times: Density


class HeldOutCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one GPU."""

    schema_version: int
    gpu: str
    products: dict[str, HeldOutProducts] = {}  # by precision: "fp16", "fp32"
    steps: dict[str, HeldOutSteps] = {}  # by layout: "nhwc", "nchw"


def load_held_out(gpu_id: str, folder: Path = FOLDER) -> HeldOutCounts | None:
    """The counts of a GPU; None where it has none. Raises BrokenFileError naming the file and the cure."""
    path = folder / f"{gpu_id}.json"
    return parse_held_out(read_shipped(path, _CURE), str(path)) if path.exists() else None


def parse_held_out(content: bytes, name: str) -> HeldOutCounts:
    """Decode and check counts. Raises BrokenFileError naming the place and the cure."""
    found = decode_versioned(
        content, HeldOutCounts, f"held-out counts {name}", version=SCHEMA_VERSION, most_bytes=MAX_BYTES, cure=_CURE
    )
    for precision, products in found.products.items():
        for field in ("rates", "times"):
            if fault := getattr(products, field).fault():
                raise BrokenFileError(f"held-out counts {name}: {precision}.{field} has {fault}; {_CURE}")
        if any(len(each.ratios) != len(QUANTILES) for each in products.classes):
            raise BrokenFileError(f"held-out counts {name}: {precision}.classes need {len(QUANTILES)} ratios; {_CURE}")
    for layout, steps in found.steps.items():
        if fault := steps.times.fault():
            raise BrokenFileError(f"held-out counts {name}: {layout}.times has {fault}; {_CURE}")
    return found
