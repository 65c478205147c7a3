"""`advisor bench`: measure this machine's GPU, and fit a profile to it. A child does the measuring and the fitting."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from click.core import ParameterSource

from advisor.cli.bench_ratios import command as ratios
from advisor.cli.bench_waves import command as waves
from advisor.cli.output import output_options
from advisor.user_profiles import RECORDS, default_records
from advisor.worker import run_worker


@click.group(invoke_without_command=True)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="One of these, or all; repeatable, or a list with commas.  [default: all; of --quick ceilings, gemm, conv]",
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

    \b
    Suites, in the order in which they run:
      ceilings  copy bandwidth, launch latency, the highest rate of matrix products
      train     whole AMP steps: time, peaks of memory, the host's part
      gemm      matrix products over M, forward and backward: cuBLAS and Triton
      conv      convolutions, forward and backward: cuDNN and Triton
      memory    operators bound by traffic, by bytes
      tune      the fastest configuration of our matrix product, for the profile
      waves     the CTAs of one product on either side of a wave boundary

    Every result is recorded at once: after Ctrl-C, a crash or kill -9 `--resume` goes on. A case that fails is
    recorded with its reason and the sweep goes on. Progress goes to stderr, the summary to stdout. Needs PyTorch
    with CUDA: batchwave[torch].

    Exit codes: 0 done, or the budget was spent; 1 a suite was given up; 2 bad input, or a budget too small for one
    case; 3 no usable GPU; 5 a damaged records file; 6 PyTorch is missing; 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    if context.invoked_subcommand is not None:
        if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
            raise click.UsageError(f"options of {context.invoked_subcommand} are written after it.", context)
        return
    if retry_failed and not resume:
        raise click.UsageError("--retry-failed goes with --resume.", context)
    path = default_records("smoke.db" if smoke else RECORDS) if records is None else records
    asked = [f"--suite={suite}" for suite in suites]
    asked += [] if budget is None else [f"--budget={budget}"]
    asked += [] if gpu == "auto" else [f"--gpu={gpu}"]
    asked += [] if seed is None else [f"--seed={seed}"]
    asked += [name for name, given in (("--quick", quick), ("--smoke", smoke), ("--no-fit", not fit)) if given]
    program = shlex.join(["advisor", "bench", *asked, *([] if records is None else [f"--records={records}"])])
    again = [name for name, given in (("--resume", resume), ("--retry-failed", retry_failed)) if given]
    to_measure = [word for word in (*asked, *again) if word != "--no-fit"]
    code = run_worker("measure", f"--records={path}", f"--program={program}", *to_measure)
    if code == 0 and fit and not smoke and set(",".join(suites).split(",")) != {"waves"}:  # which fits nothing
        code = fit_profile(path)
    context.exit(code)


def fit_profile(records: Path) -> int:
    """Fit the card's profile to the records and keep it in the user's data folder; the child's exit code."""
    return run_worker("fit", f"--records={records}", "--user-profile")


@command.command()
@click.option(
    "--records",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What was measured.  [default: records.db in the user's data folder]",
)
@click.pass_context
def fit(context: click.Context, *, records: Path | None) -> None:
    """Fit this card's profile to what was measured last, as `advisor bench` does by itself unless it was stopped.

    Prints the errors on what the fit has not seen, and keeps the profile where predictions for this card find it.
    """
    context.exit(fit_profile(default_records() if records is None else records))


@command.command()
@click.argument("a")
@click.argument("b")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable.")
@click.option("--threshold", type=float, metavar="SHARE", help="Difference that matters.  [default: 0.02]")
@click.option("--confidence", type=float, metavar="SHARE", help="Of each verdict.  [default: 0.99]")
@click.option("--across-gpus", is_flag=True, help="Compare even if the GPUs are not alike.")
@click.option("--changed", is_flag=True, help="Leave out what is SAME.")
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(["slower", "ambiguous", "missing"]),
    help="Exit with 1 if a case is SLOWER; if one is SLOWER or AMBIGUOUS; if A has a time that B lacks. Repeatable.",
)
@output_options()
@click.pass_context
def compare(
    context: click.Context, *, a: str, b: str, suites: tuple[str, ...], threshold: float | None,
    confidence: float | None, across_gpus: bool, changed: bool, fail_on: tuple[str, ...], format_: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Compare records case by case: is B the SAME as A, FASTER or SLOWER, or is it AMBIGUOUS?

    A and B are records files or exports of them; FILE#RUN takes the run whose id begins so.

    \b
    advisor bench compare before.db after.db --changed
    advisor bench compare main.jsonl.gz branch.db --suite gemm --fail-on slower

    Exit codes: 0 compared; 1 with --fail-on; 2 not comparable, or no case in common; 5 a damaged file.
    """
    words = [f"--suite={suite}" for suite in suites] + [f"--fail-on={what}" for what in fail_on]
    words += [] if threshold is None else [f"--threshold={threshold!r}"]
    words += [] if confidence is None else [f"--confidence={confidence!r}"]
    words += [name for name, given in (("--across-gpus", across_gpus), ("--changed", changed)) if given]
    words += [f"--format={format_}", *([] if output is None else [f"--output={output}"])]
    context.exit(run_worker("compare", *words, "--", a, b))


@command.command()
@click.argument("records")
@click.option("--output", "-o", required=True, metavar="FILE", help="E.g. records.jsonl.gz, records.parquet.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "json", "csv", "parquet"]),
    help="Where the output's name does not tell.",
)
@click.option("--anonymous", is_flag=True, help="Hide UUIDs (behind a hash), serial numbers, PCI ids, hosts, folders.")
@click.pass_context
def export(context: click.Context, *, records: str, output: str, format_: str | None, anonymous: bool) -> None:
    """Write a records file as JSON lines, JSON, CSV or Parquet, every sample to the last bit.

    \b
    advisor bench export records.db -o records.jsonl.gz --anonymous
    """
    words = [f"--output={output}", *([] if format_ is None else [f"--format={format_}"])]
    words += ["--anonymous"] if anonymous else []
    context.exit(run_worker("records", "export", *words, "--", records))


@command.command("import")
@click.argument("file")
@click.argument("records")
@click.pass_context
def import_(context: click.Context, *, file: str, records: str) -> None:
    """Add an exported FILE to RECORDS, which is made where it is not there. Importing twice changes nothing.

    \b
    advisor bench import records.jsonl.gz records.db
    """
    context.exit(run_worker("records", "import", "--", file, records))


command.add_command(ratios)
command.add_command(waves)
