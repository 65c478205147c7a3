"""`python -m bench COMMAND`: what is measured, fitted and published. Standard library only, as on a GPU machine."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import signal
import sys

if __name__ == "__main__":  # `bench` and `kernels` come from the folder above, whatever else has these names
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the script's own folder or, with -m, the current one
    _root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - pathlib waits for this path
    sys.path.insert(0, _root)
    if os.path.basename(_root) == "_worker":  # noqa: PTH119 - inside an installed `advisor`: this one and no other
        _spec = importlib.util.spec_from_file_location("advisor", os.path.dirname(_root) + "/__init__.py")  # noqa: PTH120
        assert _spec is not None and _spec.loader is not None
        sys.modules["advisor"] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules["advisor"])

from advisor.errors import AdvisorError
from advisor.parent import end_with

# command -> module whose `main(argv)` runs it, imported only then; and what it does, in one line
COMMANDS = {
    "accuracy": ("bench.accuracy", "write reports/ACCURACY.md: how wrong the predictions are"),
    "campaign": ("bench.campaign", "the most valuable part of every suite, in one command and few files"),
    "catalogue": ("bench.catalogue", "build the shipped catalogue of models"),
    "compare": ("bench.compare", "two records case by case: SAME, FASTER, SLOWER or AMBIGUOUS"),
    "critical-batch": ("bench.critical_batch", "fit critical batches to MLPerf's reference convergence points"),
    "docs": ("bench.docs", "run the commands that the documentation shows, and paste what they print"),
    "fit": ("bench.fit", "fit a card's records, or published timings, to profiles"),
    "fit-convolutions": ("bench.fit_fp32_convolutions", "fit published FP32 convolutions, timed alone"),
    "fit-step": ("bench.fit_step", "fit the step model to timm's tables"),
    "inspect": ("bench.inspect_kernels", "what the compiler makes of the kernels, for any architecture"),
    "measure": ("bench.measure", "measure this machine's GPU and record it; `advisor bench` runs this"),
    "publish": ("bench.publish", "write the reports that people look at, and their gallery"),
    "ratios": ("bench.ratios", "our kernels against cuBLAS and cuDNN, as JSON"),
    "records": ("bench.exchange", "records to and from JSON lines, JSON, CSV and Parquet"),
    "report-rows": ("bench.report_rows", "what a report shows of a records file, as JSON"),
    "schemas": ("bench.schemas", "write the JSON schemas of what the project publishes"),
    "timelines": ("bench.timelines", "print the recorded timelines of CTAs as JSON"),
    "trace-tables": ("bench.trace_tables", "trace the models of timm's tables, for fit-step and accuracy"),
    "worker": ("bench.worker", "the child that measures one suite; `measure` starts it"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code. An expected error is one line on stderr.

    `--parent PID` before the command: `advisor` started this, so errors begin with its name, and it ends with it.
    """
    argv = sys.argv[1:] if argv is None else argv
    program = "bench"
    if argv[:1] == ["--parent"] and len(argv) > 1:
        program, parent, argv = "advisor", int(argv[1]), argv[2:]
        end_with(parent, signal.SIGTERM)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file need not be UTF-8
    try:
        code = _run(argv)
        if sys.stdout is not None:  # as it is where the shell closed it
            sys.stdout.flush()
    except AdvisorError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if program == "advisor":  # a terminal's Ctrl-C comes twice, and the other one may still be on its way
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `python -m bench ... | head`
        from advisor.files import discard_output  # which a start need not pay for

        discard_output()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        from advisor.files import discard_output

        discard_output()
        print(f"{program}: {error.strerror}: free some and run it again", file=sys.stderr)
        return 1
    return int(code or 0)


def _run(argv: list[str]) -> int | None:
    if argv and argv[0] in COMMANDS:
        code: int | None = importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])
        return code
    asked = argv[:1] in (["-h"], ["--help"])
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}} {what}" for name, (_, what) in COMMANDS.items()]
    print("usage: python -m bench COMMAND ...\n", *lines, sep="\n", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
