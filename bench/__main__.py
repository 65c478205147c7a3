"""`python -m bench COMMAND`: what is measured, fitted and published. Standard library only, as on a GPU machine."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":  # the folder above comes first, so that no other package named `bench` runs instead
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from advisor.errors import AdvisorError

# command -> module whose `main(argv)` runs it, imported only then; and what it does, in one line
COMMANDS = {
    "accuracy": ("bench.accuracy", "write reports/ACCURACY.md: how wrong the predictions are"),
    "catalogue": ("bench.catalogue", "build the shipped catalogue of models"),
    "fit": ("bench.fit", "fit the shipped GEMM profiles to published timings"),
    "fit-step": ("bench.fit_step", "fit the step model to timm's tables"),
    "schemas": ("bench.schemas", "write the JSON schemas of what the project publishes"),
    "trace-tables": ("bench.trace_tables", "trace the models of timm's tables, for fit-step and accuracy"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code. An expected error is one line on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        asked = argv and argv[0] in ("-h", "--help")
        lines = [f"  {name:<12} {what}" for name, (_, what) in COMMANDS.items()]
        print("usage: python -m bench COMMAND ...\n", *lines, sep="\n", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        code = importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])
    except AdvisorError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
