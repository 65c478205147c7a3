"""timm's benchmark tables beside traces of their models: the rows that the step model is fitted to and held against.

The tables of July 2022 name models of timm 0.6.7, the inference tables those of a current timm: each set is traced
in an environment that has its timm, by `python -m bench trace-tables`, into a folder of workload files. Fitting and
reporting read that folder and need neither timm nor torch.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from advisor.errors import BadInputError, BrokenFileError
from advisor.step_costs import LAYOUTS
from advisor.workload.schema import Workload

FOLDER = "timm_benchmark"
# Batch sizes that timm's benchmark.py tries, in this order.
SIZES = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
TRAIN_TABLES: dict[str, str] = {layout: f"benchmark-train-amp-{layout}-pt112-cu113-rtx3090.csv" for layout in LAYOUTS}
INFER_TABLES = {
    "rtx3090 nchw": "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv",
    "rtx3090 nhwc": "benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv",
    "rtx4090 nchw": "benchmark-infer-amp-nchw-pt291-cu128-4090.csv",
    "rtx4090 nhwc": "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv",
    "rtx5090 nchw": "benchmark-infer-amp-nchw-pt291-cu130-5090.csv",
    "rtx-pro-6000-maxq nchw": "benchmark-infer-amp-nchw-pt291-cu130-pro6000maxq.csv",
}


@dataclass(frozen=True)
class TableRow:
    """One measured model: `time_s` of a step of `batch` images of side `size`."""

    model: str
    mode: str  # "train" or "infer"
    layout: str
    gpu: str
    batch: int
    size: int
    time_s: float

    @property
    def fitted(self) -> bool:
        """Whether the model is in the half that may be fitted; the other half only judges."""
        return zlib.crc32(f"half:{self.model.split('.')[0]}".encode()) % 2 == 0

    @property
    def trace_name(self) -> str:
        """File of its trace in the folder of traces."""
        return f"{self.mode}/{self.model}@{self.size}@{self.layout}.json"


@dataclass(frozen=True)
class StepRow:
    """A measured row, its traced model (None: it does not trace) and the family it belongs to."""

    row: TableRow
    workload: Workload | None

    @property
    def family(self) -> str:
        """timm's source file, from the traced factory's module."""
        return self.workload.origin.split(".")[2] if self.workload and self.workload.origin.count(".") >= 2 else "?"


def train_rows(data: Path, layout: str) -> Iterator[TableRow]:
    """Rows of a training table. Raises BrokenFileError naming file and line."""
    return _rows(data / FOLDER / TRAIN_TABLES[layout], "train", layout, "rtx3090")


def infer_rows(data: Path, table: str) -> Iterator[TableRow]:
    """Rows of an inference table, named as in INFER_TABLES."""
    gpu, layout = table.split()
    return _rows(data / FOLDER / INFER_TABLES[table], "infer", layout, gpu)


def _rows(path: Path, mode: str, layout: str, gpu: str) -> Iterator[TableRow]:
    if not path.exists():
        raise BadInputError(f"{path} does not exist: --data names the folder of public measurements")
    with path.open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            yield _table_row(row, mode, layout, gpu, f"{path}, line {line}")


def _table_row(row: dict[str, str], mode: str, layout: str, gpu: str, place: str) -> TableRow:
    try:
        batch, size = int(row[f"{mode}_batch_size"]), int(row[f"{mode}_img_size"])
        return TableRow(row["model"], mode, layout, gpu, batch, size, batch / float(row[f"{mode}_samples_per_sec"]))
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise BrokenFileError(f"{place}: {error!r}; take the file from timm's results/") from error


def with_traces(rows: Iterator[TableRow], traces: Path) -> list[StepRow]:
    """The rows beside their traces. A missing file means that the model did not trace."""
    if not traces.is_dir():
        raise BadInputError(f"{traces} is no folder of traces: write it with `python -m bench trace-tables`")
    return [StepRow(row, _read(traces / row.trace_name)) for row in rows]


def _read(path: Path) -> Workload | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Workload)
    except msgspec.DecodeError as error:
        raise BrokenFileError(f"{path}: {error}; write it anew with `python -m bench trace-tables`") from error
