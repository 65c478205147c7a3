"""`advisor bench`: measure this machine's GPU, and fit a profile to it. A child does the measuring and the fitting."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from advisor.cli.bench_waves import command as waves
from advisor.errors import BadInputError
from advisor.user_profiles import ENVIRONMENT, data_folder
from advisor.worker import run_worker, worker_script

RECORDS = "records.db"  # in the user's data folder
_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@click.group(invoke_without_command=True)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="ceilings, train, gemm, conv, memory, waves or all; repeatable, or a list with commas.  [default: all]",
)
@click.option("--budget", metavar="TIME", help="For how long: 8m, 90s, 1h.  [default: 8m; of --quick 90s]")
@click.option(
    "--gpu",
    "-g",
    default="auto",
    show_default=True,
    metavar="GPU",
    help="auto; cuda:N; a UUID as `nvidia-smi -L` prints it.",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to record.  [default: records.db in the user's data folder]",
)
@click.option(
    "--resume/--new",
    default=False,
    help="Leave out what the records hold of this card under these conditions, or measure all anew.  [default: --new]",
)
@click.option("--retry-failed", is_flag=True, help="With --resume: measure again what failed.")
@click.option("--quick", is_flag=True, help="A calibration of about a minute, not the whole sweep.")
@click.option("--seed", type=int, help="Of the order of cases.  [default: a new one]")
@click.option(
    "--fit/--no-fit", default=True, help="Fit this card's profile to the records afterwards.  [default: --fit]"
)
@click.option("--smoke", is_flag=True, hidden=True, help="In miniature, on the processor; nothing is fitted.")
@click.pass_context
def command(
    context: click.Context, *, suites: tuple[str, ...], budget: str | None, gpu: str, records: Path | None,
    resume: bool, retry_failed: bool, quick: bool, seed: int | None, fit: bool, smoke: bool,
) -> None:  # fmt: skip
    """Measure this machine's GPU and fit a profile of it, which `advisor recommend` uses from then on.

    \b
    advisor bench --quick
    advisor bench --suite gemm,conv --budget 20m
    advisor bench --resume

    Every result is recorded at once: after Ctrl-C, a crash or kill -9 `--resume` goes on. A case that fails is
    recorded with its reason and the sweep goes on. Progress goes to stderr, the summary to stdout. Needs PyTorch
    with CUDA: batchwave[torch].

    \b
    Exit codes: 0 done, or the budget was spent; 1 a suite was given up; 2 bad input, or a budget too small for one
    case; 3 no usable GPU; 5 a damaged records file; 6 PyTorch is missing; 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    if context.invoked_subcommand is not None:
        return
    path = default_records() if records is None else records
    asked = [word for suite in suites for word in ("--suite", suite)]
    asked += [] if budget is None else ["--budget", budget]
    asked += [] if gpu == "auto" else ["--gpu", gpu]
    asked += [] if seed is None else ["--seed", str(seed)]
    asked += [name for name, given in (("--quick", quick), ("--smoke", smoke)) if given]
    program = shlex.join(["advisor", "bench", *asked, *([] if records is None else ["--records", str(records)])])
    again = [name for name, given in (("--resume", resume), ("--retry-failed", retry_failed)) if given]
    code = run_worker("measure", "--records", str(path), "--program", program, *asked, *again)
    if code == 0 and fit and not smoke:
        code = fit_profile(path)
    context.exit(code)


def default_records() -> Path:
    """The records in the user's data folder, which is made. Raises BadInputError where it cannot be."""
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"cannot make {folder}: {error.strerror}; name a file with --records, or set {ENVIRONMENT}"
        ) from error
    return folder / RECORDS


def fit_profile(records: Path) -> int:
    """Fit the card's profile to the records and keep it in the user's data folder; the child's exit code."""
    if not worker_script().with_name("fit_records.py").is_file():
        return 0
    return run_worker("fit", "--records", str(records), "--user-profile")


@command.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def compare(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Compare two records case by case: SAME, FASTER, SLOWER or AMBIGUOUS."""
    context.exit(run_worker("compare", *arguments))


@command.command("export", context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def export(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Write records as JSON lines, JSON, CSV or Parquet."""
    context.exit(run_worker("records", "export", *arguments))


@command.command("import", context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def import_(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Add an exported file to records."""
    context.exit(run_worker("records", "import", *arguments))


command.add_command(waves)
