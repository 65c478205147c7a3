"""`python -m bench measure`: run suites on this machine's GPU and record what they measured. `advisor bench` runs it.

Exit codes: 0 done, or the budget was spent; 1 a suite was given up; 2 bad input, or a budget too small for one case;
3 no usable GPU; 5 a damaged records file; 6 torch is missing; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from advisor.child import scrub
from advisor.errors import BadInputError
from bench.progress import Progress, clock_time
from bench.records import open_records
from bench.session import Session, SessionOptions, Summary, choose_slots, parse_budget
from bench.suites import SUITES

QUICK_SUITES = ("ceilings", "gemm", "conv")
QUICK_BUDGET = "90s"
BUDGET = "8m"
LEAST_BUDGET = "30s"  # that a child needs to start, settle, and measure a few cases


def main(argv: list[str] | None = None) -> int:
    """Measure; print a summary on stdout and return the exit code."""
    argv = sys.argv[2:] if argv is None else argv
    options = parse_options(argv)
    program = options.program or command_line("measure", argv)
    with open_records(options.records) as records:
        session = Session(session_options(options, program), records, Progress())
        summary = session.run()
    code = exit_code(summary, session.options.budget_s)
    print("\n".join(summary_lines(summary, options.records, program)))
    return code


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, required=True, metavar="FILE", help="records to add to, or to begin")
    add_measuring_options(parser, budget=None)
    parser.add_argument("--suite", action="append", default=[], help="repeatable, or a list with commas (default: all)")
    parser.add_argument("--quick", action="store_true", help=f"a calibration in {QUICK_BUDGET}, not the whole sweep")
    parser.add_argument("--new", dest="resume", action="store_false", help="measure all anew (the default)")
    parser.add_argument("--program", help=argparse.SUPPRESS)  # the command line that the summary tells to repeat
    return parser.parse_args(argv)


def add_measuring_options(parser: argparse.ArgumentParser, budget: str | None) -> None:
    """Options that `measure` and `campaign` share."""
    told = budget or f"{BUDGET}, with --quick {QUICK_BUDGET}"
    parser.add_argument("--budget", default=budget, metavar="TIME", help=f"8m, 90s, 1h (default: {told})")
    parser.add_argument("--gpu", default="auto", help="auto, cuda:N or a UUID (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="leave out what the records hold already")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: measure what failed again")
    parser.add_argument("--seed", type=int, help="of the order of cases (default: a new one)")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # in miniature, on the processor


def command_line(command: str, argv: Sequence[str]) -> str:
    """The command line as given, without what `--resume` would change."""
    kept = [word for word in argv if word not in ("--new", "--resume", "--retry-failed")]
    return shlex.join(["python", "-m", "bench", command, *kept])


def session_options(options: argparse.Namespace, command: str) -> SessionOptions:
    """What the session is to do. Raises BadInputError and UnknownNameError for options that cannot be used."""
    if options.retry_failed and not options.resume:
        raise BadInputError("--retry-failed goes with --resume: without it all is measured anew")
    if options.seed is not None and not -(2**63) <= options.seed < 2**63:
        raise BadInputError(f"a seed of {options.seed} is none of 64 bits: choose a smaller one, e.g. 0")
    budget = (QUICK_BUDGET if options.quick else BUDGET) if options.budget is None else options.budget
    slots = choose_slots(options.suite or (QUICK_SUITES if options.quick else ()), SUITES)
    return SessionOptions(
        slots=slots,
        budget_s=parse_budget(budget),
        gpu=options.gpu,
        resume=options.resume,
        retry_failed=options.retry_failed,
        quick=options.quick,
        smoke=options.smoke,
        seed=random.SystemRandom().randrange(2**31) if options.seed is None else options.seed,
        command=scrub(command),
    )


def summary_lines(summary: Summary, records: Path, program: str) -> list[str]:
    """What came of it, where it is, and what to do next."""
    noisy = f" ({summary.noisy} noisy)" if summary.noisy else ""
    parts = [f"{summary.ok} measured{noisy}", f"{summary.failed} failed", f"{summary.skipped} skipped"]
    if summary.already_done:
        parts.append(f"{summary.already_done} were there already")
    lines = [f"{', '.join(parts)}, {summary.left} left; {clock_time(summary.elapsed_s)} min"]
    if summary.skipped_for:
        (reason, count), *others = summary.skipped_for.most_common()
        rest = f"; {sum(n for _, n in others)} for other reasons, which are in the records" if others else ""
        lines.append(f"skipped: {reason} ({count}){rest}")
    by_suite = ", ".join(f"{suite} {rows}" for suite, rows in summary.rows_by_suite.items())
    if by_suite:
        lines.append(f"rows: {by_suite}")
    if summary.environment.get("device") == "cuda":
        lines.append(f"drift: {100 * summary.drift:.1f} % at most, of the reference since the start")
    if summary.slowed:
        lines.append(f"clocks were held down by heat in {summary.slowed} cases: let the GPU cool and measure again")
    lines += summary.given_up
    lines.append(f"records: {records}")
    if summary.left:
        lines.append(f"next: `{program} --resume` measures what is left")
    if summary.failed:
        lines.append(
            f"next: `{program} --resume --retry-failed` measures what failed again; reasons are in the records"
        )
    return lines


def exit_code(summary: Summary, budget_s: float) -> int:
    """The exit code of a session. Raises BadInputError where the budget was too small for one case."""
    if summary.stopped_by is not None:
        return 128 + summary.stopped_by
    if summary.given_up:
        return 1
    if summary.rows == 0 and summary.state == "out_of_budget":
        raise BadInputError(
            f"a budget of {budget_s:g} s is too small for one case, as a child must start and the clocks settle: give "
            f"at least {LEAST_BUDGET}"
        )
    return 0
