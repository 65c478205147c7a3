"""`python -m bench schemas`: the JSON schemas that the project publishes, written from the records they describe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec

from advisor.comparison import GpuComparison
from advisor.measured import MeasuredProfile
from advisor.planning.records import PlanAnswer
from advisor.profile import GpuProfile
from advisor.profiling.output.document import TraceDocument
from advisor.recommendation import Answer
from advisor.workload.schema import StoredWorkload

FOLDER = Path(__file__).resolve().parent.parent / "advisor" / "schemas"
RECORDS: dict[str, Any] = {
    "recommendation": Answer,
    "comparison": GpuComparison,
    "plan": PlanAnswer,
    "profile": GpuProfile,
    "measured-profile": MeasuredProfile,
    "workload": StoredWorkload,
    "trace-profile": TraceDocument,
}


def schema(record: Any) -> str:
    """JSON Schema (draft 2020-12) of one record type, as the text of its file."""
    (reference,), components = msgspec.json.schema_components([record], ref_template="#/$defs/{name}")
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **reference, "$defs": components}
    return json.dumps(document, indent=1) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write every schema."""
    argparse.ArgumentParser(prog="python -m bench schemas", description=main.__doc__).parse_args(argv)
    FOLDER.mkdir(exist_ok=True)
    for name, record in RECORDS.items():
        (FOLDER / f"{name}.json").write_text(schema(record))
        print(f"wrote {FOLDER / name}.json")
    return 0
