"""`python -m bench trace-tables`: trace every model of timm's tables into a folder of workload files.

The training tables need timm 0.6.7, the inference tables a current timm (their names carry weight tags); run it once in
an environment of each. Files already there are kept, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from advisor.errors import AdvisorError, MissingDependencyError
from advisor.step_costs import LAYOUTS
from bench.step_data import INFER_TABLES, TableRow, infer_rows, train_rows

TRAIN_TIMM = "0.6.7"


def main(argv: list[str]) -> int:
    """Trace one kind of table; models that do not trace are listed on stderr."""
    parser = argparse.ArgumentParser(prog="python -m bench trace-tables", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--traces", type=Path, required=True, help="folder to write to")
    parser.add_argument("--tables", choices=("train", "infer"), required=True)
    options = parser.parse_args(argv)
    rows = table_rows(options.data, options.tables)
    timm = _timm(options.tables)
    failures = 0
    for (model, size), layouts in sorted(rows.items()):
        wanted = {layout: options.traces / row.trace_name for layout, row in layouts.items()}
        missing = {layout: path for layout, path in wanted.items() if not path.exists()}
        if not missing:
            continue
        try:
            _trace(timm, model, size, options.tables, missing)
        except AdvisorError as error:
            failures += 1
            print(f"{model} at {size}: {error}", file=sys.stderr)
    print(f"{len(rows) - failures} of {len(rows)} models traced in {options.traces}")
    return 0


def table_rows(data: Path, tables: str) -> dict[tuple[str, int], dict[str, TableRow]]:
    """(model, image side) -> layout -> a row of it."""
    rows: dict[tuple[str, int], dict[str, TableRow]] = {}
    sources = (
        [train_rows(data, layout) for layout in LAYOUTS]
        if tables == "train"
        else [infer_rows(data, table) for table in INFER_TABLES]
    )
    for source in sources:
        for row in source:
            rows.setdefault((row.model, row.size), {})[row.layout] = row
    return rows


def _timm(tables: str) -> Any:
    try:
        from advisor.workload.sources import _library
    except ImportError as error:
        raise MissingDependencyError(f"{error}: pip install 'batchwave[torch]'") from error
    timm = _library("timm")
    is_old = timm.__version__ == TRAIN_TIMM
    if is_old != (tables == "train"):
        wanted = f"timm=={TRAIN_TIMM}" if tables == "train" else "a current timm"
        raise MissingDependencyError(f"timm {timm.__version__} is installed, the {tables} tables need {wanted}")
    return timm


def _trace(timm: Any, model: str, size: int, mode: str, paths: dict[str, Path]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from advisor.workload.trace import VariantSpec, trace_module

    module = _build(timm, model, size)
    family = timm.models.model_entrypoint(model.partition(".")[0]).__module__.rpartition(".")[2]
    attention = "unfused" if mode == "train" else "fused"  # timm 0.6.7 writes its attention out
    for layout, path in paths.items():
        spec = VariantSpec(mode=mode, layout=layout, attention=attention)  # type: ignore[arg-type]
        origin = f"timm.models.{family}.{model}, timm {timm.__version__}"
        workload = trace_module(module, (3, size, size), name=model, variants=[spec], origin=origin, verify=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(workload))
    FakeTensorMode.cache_clear()  # else it grows without end


def _build(timm: Any, model: str, size: int) -> Any:
    """The model for square images of this size: told it, where it is built for one size."""
    from advisor.workload.sources import _build

    module = _build(f"timm:{model}", lambda: timm.create_model(model, pretrained=False))
    own = (getattr(module, "pretrained_cfg", None) or module.default_cfg)["input_size"][-1]
    if own == size:
        return module
    try:
        return _build(f"timm:{model}", lambda: timm.create_model(model, pretrained=False, img_size=size))
    except AdvisorError:  # it takes any size and has no such argument
        return module
