"""`python -m bench ratios`: our Triton kernels against cuBLAS and cuDNN, case by case, from one records file, as JSON.

A pair is two cases that differ in their library alone; for convolutions the faster of cuDNN's two ways of choosing an
algorithm stands for cuDNN. The ratio is the library's median time over ours: above 1 ours is the faster.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.errors import BadInputError
from bench.exchange import read_archive
from bench.progress import describe
from bench.records import Row

OURS = "triton"
IGNORED = ("library", "autotuned")  # what two cases of a pair may differ in


@dataclass(frozen=True)
class Pair:
    """One case that both ran: medians in seconds, and the library's time over ours."""

    case: str  # in words, as our kernel's
    group: str  # kind, pass, type, layout and temperature of the caches
    library: str
    library_s: float
    ours_s: float
    ratio: float
    flops: int | float | None = None  # of the case, as recorded


@dataclass(frozen=True)
class Ratio:
    """All pairs of one group."""

    group: str
    library: str
    pairs: int
    geometric_mean: float
    least: float
    most: float
    share_ahead: float  # of the pairs, in which ours is the faster
    best: str  # the case with the largest ratio


def pairs(rows: Iterable[Row]) -> list[Pair]:
    """Every case that ran both ways, at its last good time; those bound by the host say nothing and are left out."""
    times: dict[str, dict[str, tuple[float, Row]]] = defaultdict(dict)
    for row in rows:
        timing, library = row.result.timing, row.case.params.get("library")
        if row.result.status != "ok" or timing is None or timing.host_bound or library is None:
            continue
        params = {name: value for name, value in row.case.params.items() if name not in IGNORED}
        key = json.dumps([row.case.kind, row.environment.get("gpu_uuid"), params], sort_keys=True)
        slot = f"{library}{row.case.params.get('autotuned', '')}"
        times[key][slot] = timing.median_s, row
    found = []
    for of_case in times.values():
        ours = [entry for slot, entry in of_case.items() if slot.startswith(OURS)]
        others = [entry for slot, entry in of_case.items() if not slot.startswith(OURS)]
        if ours and others:
            (ours_s, row), (library_s, other) = min(ours, key=_seconds), min(others, key=_seconds)
            library = str(other.case.params["library"])
            ratio, flops = library_s / ours_s, row.result.facts.get("flops")
            found.append(Pair(describe(row.case), _group(row), library, library_s, ours_s, ratio, flops))
    return found


def _seconds(entry: tuple[float, Row]) -> float:
    return entry[0]


def _group(row: Row) -> str:
    params = row.case.params
    told = (params.get(name) for name in ("pass", "dtype", "layout", "mode"))
    return " ".join([row.case.kind, *(str(value) for value in told if value is not None)])


def ratios(found: Sequence[Pair]) -> list[Ratio]:
    """One line per group, by its name."""
    groups: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in found:
        groups[pair.group, pair.library].append(pair)
    return [
        Ratio(
            group=group,
            library=library,
            pairs=len(of_group),
            geometric_mean=math.exp(statistics.fmean(math.log(pair.ratio) for pair in of_group)),
            least=min(pair.ratio for pair in of_group),
            most=max(pair.ratio for pair in of_group),
            share_ahead=sum(pair.ratio > 1 for pair in of_group) / len(of_group),
            best=max(of_group, key=lambda pair: pair.ratio).case,
        )
        for (group, library), of_group in sorted(groups.items())
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the ratios. Raises BadInputError where nothing ran both ways."""
    parser = argparse.ArgumentParser(prog="python -m bench ratios", description=main.__doc__)
    parser.add_argument("records", type=Path, help="a records file, or an export of one")
    options = parser.parse_args(argv)
    found = pairs(read_archive(options.records).rows)
    if not found:
        raise BadInputError(
            f"{options.records} holds no case that both our kernels and a library ran: measure some with "
            "`advisor bench --suite gemm,conv`"
        )
    document: dict[str, Any] = {
        "schema_version": 1,
        "groups": [asdict(ratio) for ratio in ratios(found)],
        "pairs": [asdict(pair) for pair in found],
    }
    print(json.dumps(document))
    return 0
