"""`python -m bench timelines`: the recorded timelines of a records file, as JSON, for the picture of their waves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from advisor.errors import BadInputError
from bench.exchange import read_archive
from bench.records import Row

_CONDITIONS = ("gpu_name", "driver", "cuda", "torch", "triton")


def timelines(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """The last timeline of each case, in the order of M: its case, conditions, and the CTAs' SM, start and end."""
    latest = {row.case.key: row for row in rows if row.case.kind == "timeline" and row.result.status == "ok"}
    found = [
        {
            **row.case.params,
            "measured_at": row.measured_at,
            **{name: row.environment.get(name) for name in _CONDITIONS},
            **{name: row.result.facts[name] for name in ("sms", "sm", "start_ns", "end_ns")},
        }
        for row in latest.values()
    ]
    return sorted(found, key=lambda timeline: (timeline["n"], timeline["k"], timeline["m"]))


def main(argv: list[str] | None = None) -> int:
    """Print the timelines. Raises BadInputError where there are none."""
    parser = argparse.ArgumentParser(prog="python -m bench timelines", description=main.__doc__)
    parser.add_argument("records", type=Path, help="a records file, or an export of one")
    options = parser.parse_args(argv)
    found = timelines(read_archive(options.records).rows)
    if not found:
        raise BadInputError(f"{options.records} holds no timeline: record some with `advisor bench --suite waves`")
    print(json.dumps({"schema_version": 1, "timelines": found}))
    return 0
