"""`python -m bench report-rows`: everything of a records file that a report shows, as one JSON document.

RECORDS is a records file, an export of one, or the folder that a campaign left. The rows are one GPU's under one set of
conditions, a bounded sample of them where there are very many (`bench.sampling`); the document counts what is in it
and what is not. Times in seconds, sizes in bytes, power in watts; null where a figure is not known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus.card import card_key
from advisor.profiling.output.text import clean
from bench.campaign import SUFFIX
from bench.case import Timing
from bench.exchange import import_records, is_export
from bench.quality import slowed, warnings_of
from bench.ratios import Pair, pairs, ratios
from bench.records import Records, Row, open_records
from bench.sampling import Asked, Drawn, draw, gpu_id
from bench.suites.gemm import product_of
from bench.telemetry import median_during
from bench.timelines import timelines

SCHEMA_VERSION = 1
LIMIT = 20_000  # rows
MOST_TEXT = 300  # characters of a text that anybody may have written
MOST_NAME = 40  # of a library, precision, recipe: they stand in legends
SHORTEST_S, LONGEST_S = 1e-9, 1e6  # of a launch or step: about a clock cycle; more than a week
MOST_SIZE = 2**31 - 1  # of a product or batch: cuBLAS counts in 32 bits
MOST_AMOUNT = 1e30  # of FLOP, bytes, hertz or watts
IMPOSSIBLE = "with a time or size that cannot be"
_VERSIONS = ("driver", "cuda", "torch", "cudnn", "triton")
_RECIPE = ("precision", "layout", "optimizer", "cudnn_benchmark")


def main(argv: list[str] | None = None) -> int:
    """Print the document. Raises BadInputError and BrokenFileError as `open_records` and `import_records` do."""
    parser = argparse.ArgumentParser(prog="python -m bench report-rows", description=main.__doc__)
    parser.add_argument("records", type=Path, help="a records file, an export of one, or a campaign's folder")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="rows to draw at most (%(default)s)")
    parser.add_argument("--gpu", metavar="ID", help="whose rows, by its id in the table; else those measured last")
    parser.add_argument("--gpu-name", metavar="NAME", help="of the same GPU, as its driver calls it")
    parser.add_argument("--sms", type=int, metavar="N", help="of the same GPU")
    options = parser.parse_args(argv)
    if options.limit < 1:
        raise BadInputError(f"--limit is {options.limit}: draw at least one row")
    asked = None if options.gpu is None else Asked(options.gpu, options.gpu_name or options.gpu, options.sms)
    with opened(options.records) as records:
        drawn = draw(records, limit=options.limit, asked=asked)
    try:
        found = document(drawn)
    except (KeyError, TypeError) as error:
        raise BrokenFileError(
            f"{options.records}: a row lacks what its kind must have ({_cut(str(error))}); measure anew"
        ) from error
    print(json.dumps(found, separators=(",", ":"), allow_nan=False))
    return 0


@contextmanager
def opened(path: Path) -> Iterator[Records]:
    """The records in a file of any kind; exports are imported into a file that is gone afterwards."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise BadInputError(f"{path} is no regular file: copy the records to one")
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise BadInputError(f"{path} holds no *{SUFFIX}, as a campaign leaves: name its folder, or a records file")
    if not is_export(files[0]):
        with open_records(path, read_only=True) as records:
            yield records
        return
    with (
        tempfile.TemporaryDirectory(prefix="batchwave-") as folder,
        open_records(Path(folder, "records.db")) as records,
    ):
        for file in files:
            import_records(file, records)
        yield records


def document(drawn: Drawn) -> dict[str, Any]:
    """What a report shows of the rows drawn."""
    drawn = _possible(drawn)
    rows = drawn.archive.rows
    found = [_checked(pair) for pair in pairs(row for row in rows if row.case.kind in ("gemm", "conv"))]
    return {
        "schema_version": SCHEMA_VERSION,
        "gpu": None if drawn.environment is None else gpu_of(drawn.environment),
        "conditions": None if drawn.environment is None or not rows else conditions_of(drawn),
        "counts": {
            "total": drawn.total,
            "good": drawn.good,
            "used": len(rows),
            "sampled": drawn.sampled,
            "left_out": dict(drawn.left_out),
        },
        "products": products(rows),
        "pairs": [asdict(pair) for pair in found],
        "groups": [asdict(ratio) for ratio in ratios(found)],
        "steps": steps(rows),
        "timelines": timelines(rows),
    }


def gpu_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The card that was measured: its id where the table has it, its name, and a hash of its UUID."""
    name = str(environment.get("gpu_name"))
    return {
        "id": gpu_id(name),
        "name": _cut(name),
        "key": card_key(str(environment.get("gpu_uuid"))),
        "capability": _text(environment.get("capability")),
        "sms": _whole(environment.get("sms")),
        "memory_bytes": _whole(environment.get("memory_bytes")),
    }


def conditions_of(drawn: Drawn) -> dict[str, Any]:
    """Software, clocks, power limit, dates and commands of the rows drawn, and what makes them doubtful."""
    environment, rows = drawn.environment or {}, drawn.archive.rows
    clocks = [clock for row in rows if (clock := _number(median_during(row.result.telemetry, "sm_hz"))) is not None]
    busy = sorted({_cut(str(run.environment["busy"])) for run in drawn.archive.runs if run.environment.get("busy")})
    return {
        **{name: _text(environment.get(name)) for name in _VERSIONS},
        "method_version": _whole(environment.get("method_version")),
        "replay_of": _text(environment.get("replay_of")),
        "power_limit_w": _number(environment.get("power_limit_w")),
        "sm_clock_hz": statistics.median(clocks) if clocks else None,
        "first": min(row.measured_at for row in rows),
        "last": max(row.measured_at for row in rows),
        "commands": sorted({_cut(run.command) for run in drawn.archive.runs}),
        "warnings": [*warnings_of(rows, drawn.drifted), *slowed(rows), *busy[:3]],
    }


def products(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Matrix products C[m, n] = A[m, k] B[k, n] by pass, type, library and caches: parallel lists, a place per case.

    Time and quartiles are of all samples of the case; those of one sample, or all alike, are that sample.
    """
    rows = tuple(rows)
    launched = _launched(rows)
    series: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for of_case in _by_case(rows, "gemm"):
        case, facts = of_case[-1].case, of_case[-1].result.facts
        m, n, k = product_of(case)
        name = tuple(str(case.params[what]) for what in ("pass", "dtype", "library", "mode"))
        timing = _pooled(of_case)
        kernel = launched.get(_identity(case.params)) or _our_kernel(facts.get("config"))
        series[name].append((n, k, m, timing.median_s, *timing.quartiles_s, kernel))
    return [
        {
            **dict(zip(("pass", "precision", "library", "mode"), map(_name, name), strict=True)),
            **_columns(("n", "k", "m", "time_s", "low_s", "high_s", "kernel"), sorted(points)),
        }
        for name, points in sorted(series.items())
    ]


def steps(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Whole training steps by model and recipe: parallel lists by batch size.

    memory_bytes: the most that the allocator held, in the first step or later, and what the process held beside it;
    null on a device that tells no peaks, and where allocations were retried, as then it is what there was.
    """
    series: dict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for of_case in _by_case(rows, "train"):
        params, last, time_s = of_case[-1].case.params, of_case[-1].result, _pooled(of_case).median_s
        power_w = _number(median_during(last.telemetry, "power_w"))
        name = tuple(_plain(params.get(what)) for what in ("model", *_RECIPE))
        series[name].append((params["batch"], time_s, _step_bytes(last.facts), power_w))
    named = sorted(series.items(), key=lambda entry: tuple(map(str, entry[0])))
    return [
        {
            "model": str(model),
            **dict(zip(_RECIPE, recipe, strict=True)),
            **_columns(("batch", "time_s", "memory_bytes", "power_w"), sorted(points, key=itemgetter(0))),
        }
        for (model, *recipe), points in named
    ]


def _columns(names: Sequence[str], points: Iterable[tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return dict(zip(names, zip(*points, strict=True), strict=True))


def _possible(drawn: Drawn) -> Drawn:
    """Without the rows whose times or sizes no GPU has; they are counted."""
    rows = tuple(row for row in drawn.archive.rows if _can_be(row))
    lost = len(drawn.archive.rows) - len(rows)
    left_out = {**drawn.left_out, **({IMPOSSIBLE: lost} if lost else {})}
    return replace(drawn, archive=replace(drawn.archive, rows=rows), left_out=left_out)


def _can_be(row: Row) -> bool:
    sizes: tuple[int, ...] = ()
    if row.result.timing is not None:
        samples_s = row.result.timing.samples_s
        if not samples_s or min(samples_s) < SHORTEST_S or max(samples_s) > LONGEST_S:
            return False
    if row.case.kind == "gemm":
        sizes = product_of(row.case)
    elif row.case.kind == "train":
        sizes = (_whole(row.case.params.get("batch")) or 0,)
    return all(0 < size <= MOST_SIZE for size in sizes)


def _checked(pair: Pair) -> Pair:
    """With texts of bounded length, and FLOP that are a number."""
    case, group, library = _cut(pair.case), _cut(pair.group), _cut(pair.library)
    return replace(pair, case=case, group=group, library=library, flops=_number(pair.flops))


def _step_bytes(facts: Mapping[str, Any]) -> int | None:
    reserved = [_whole(facts.get(name)) for name in ("reserved_peak_bytes", "first_step_reserved_bytes")]
    known, beside = [size for size in reserved if size], _whole(facts.get("context_bytes"))
    return None if not known or beside is None or facts.get("alloc_retries") else max(known) + beside


def _by_case(rows: Iterable[Row], kind: str) -> Iterable[list[Row]]:
    """Rows of one kind, those of one case together, in their order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.case.kind == kind and row.result.timing is not None:
            found[row.case.key].append(row)
    return found.values()


def _pooled(of_case: Sequence[Row]) -> Timing:
    """All samples of one case as one timing."""
    timings = [row.result.timing for row in of_case if row.result.timing is not None]
    return replace(timings[-1], samples_s=tuple(sample for timing in timings for sample in timing.samples_s))


def _launched(rows: Iterable[Row]) -> dict[str, str]:
    """Case of a product -> the kernel that took most of its time, as torch.profiler saw it."""
    found = {}
    for row in rows:
        kernels = row.result.facts.get("kernels")
        if row.case.kind == "kernels" and row.case.params.get("of") == "gemm" and isinstance(kernels, list):
            known = [kernel for kernel in kernels if isinstance(kernel, dict) and _number(kernel.get("duration_s"))]
            if known:
                longest = max(known, key=lambda kernel: float(kernel["duration_s"]))
                found[_identity(row.case.params)] = _cut(str(longest.get("name") or ""))
    return found


def _identity(params: Mapping[str, Any]) -> str:
    """Of a product whatever its operands' place: caches do not choose the kernel."""
    return json.dumps({name: value for name, value in params.items() if name not in ("of", "mode")}, sort_keys=True)


def _our_kernel(config: object) -> str:
    """Our kernel by its tile: "Triton 128x256x64"."""
    tile = [_whole(config.get(name)) for name in ("tile_m", "tile_n", "tile_k")] if isinstance(config, Mapping) else []
    return f"Triton {'x'.join(map(str, tile))}" if tile and all(tile) else ""


# What anybody may have written


def _cut(text: str) -> str:
    """On one line, without what acts on a terminal or page, and not long."""
    return clean(text, MOST_TEXT)


def _name(text: str) -> str:
    return clean(text, MOST_NAME)


def _text(value: object) -> str | None:
    return None if value is None else _cut(str(value))


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool) else _name(str(value))


def _number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < MOST_AMOUNT
    return float(value) if known else None  # type: ignore[arg-type]  # known to be a number


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
