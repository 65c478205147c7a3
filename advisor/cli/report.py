"""`advisor report`: one page, and files, of what was measured, predicted and advised for a GPU."""

from __future__ import annotations

import datetime
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from advisor.cli.options import NonEmptyPath, add_options
from advisor.cli.setup_options import (
    MARGIN_OPTION,
    MEMORY_LIMIT_OPTION,
    PROFILE_OPTION,
    RECIPE_OPTION,
    SIZE_AND_RECIPE_OPTIONS,
    complete_gpus,
    complete_models,
    setup_arguments,
)
from advisor.profiling.output.text import clean
from advisor.report.build import DEFAULT_MODELS, build_report
from advisor.signals import heard

_NUMBERED = re.compile(r" \d+ of \d+: .*")


_OPTIONS = (
    click.option("--gpu", "-g", default="auto", show_default=True, shell_complete=complete_gpus,
                 help="As in `advisor recommend`; with --records and no GPU here, auto is theirs."),
    click.option("--model", "-m", "models", multiple=True, shell_complete=complete_models,
                 help="A model to decide for, as in `advisor recommend`; may be given several times.  "
                      f"[default: {', '.join(DEFAULT_MODELS)}]"),
    click.option("--records", type=click.Path(path_type=Path, exists=True),
                 help="Records of `advisor bench`, an export of them, or a campaign's folder.  [default: your own, of "
                      "the local GPU]"),
    click.option("--trace", type=click.Path(path_type=Path, exists=True),
                 help="A torch.profiler trace to show as well."),
    click.option("--trace-gpu", metavar="NAME", shell_complete=complete_gpus,
                 help="The GPU that the trace ran on, where it does not tell."),
    click.option("--output", "-o", "folder", required=True, metavar="DIR",
                 type=NonEmptyPath("name a folder, or . for the current one", path_type=Path),
                 help="Folder for report.html, report.md, figures/ and tables/; it is made."),
    click.option("--force", is_flag=True, help="Replace a report that is there already."),
    *SIZE_AND_RECIPE_OPTIONS,
    RECIPE_OPTION,
    MEMORY_LIMIT_OPTION,
    MARGIN_OPTION,
    click.option("--max-batch", type=int, help="Search up to this size."),
    PROFILE_OPTION,
)  # fmt: skip


@click.command()
@add_options(_OPTIONS)
def command(
    *, gpu: str, models: tuple[str, ...], records: Path | None, trace: Path | None, trace_gpu: str | None, folder: Path,
    force: bool, **setup: Any,
) -> None:  # fmt: skip
    """Write a report: batch sizes, the teeth of waves and tiles, layers, roofline, accuracy.

    \b
    advisor report --gpu a100 --model resnet50 -o report
    advisor report --gpu auto --model gpt2 --model vit_b_16 --records records.db --trace trace.json.gz -o report

    report.html is one file that opens without a network; report.md renders on a code host; every figure is there as
    PNG and SVG, every table as CSV.
    """
    from advisor.report.rendering.write import check_folder, write_report

    check_folder(folder, force=force)
    with heard(("SIGTERM", "SIGHUP"), _end), _progress() as say:
        report = build_report(
            gpu=gpu, models=models or DEFAULT_MODELS, records=records, trace=trace, trace_gpu=trace_gpu,
            command=shlex.join(["advisor", *_arguments()]), date=datetime.date.today().isoformat(), progress=say,
            **{name: value for name, value in setup_arguments(setup).items() if value is not None},
        )  # fmt: skip
        written = write_report(report, folder, force=force, progress=say)
    for note in report.notes:
        click.echo(f"advisor: {note}", err=True)
    click.echo(next(str(path) for path in written if path.name == "report.html"))


def _arguments() -> list[str]:
    """What was typed after `advisor`, wherever the library was started from."""
    return sys.argv[1:] if sys.argv[1:2] == ["report"] else ["report"]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr: one line that changes where somebody watches, else a line for each stage."""
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        try:
            yield _rewrite
        finally:
            click.echo("\r\x1b[K", nl=False, err=True)
        return
    stages: list[str] = []

    def say(what: str) -> None:
        stage = _NUMBERED.sub("", what)
        if stage not in stages:
            stages.append(stage)
            click.echo(f"advisor: {stage}", err=True)

    yield say


def _rewrite(what: str) -> None:
    line = clean(f"advisor: {what}", max(shutil.get_terminal_size().columns - 1, 20))
    click.echo(f"\r\x1b[K{line}", nl=False, err=True)


def _end(number: int, _frame: FrameType | None) -> None:
    """Undo what is half done, as Ctrl-C does, before the signal ends the run with 128 + n."""
    raise SystemExit(128 + number)
