"""`advisor report`: one page, and files, of what was measured, predicted and advised for a GPU."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from advisor.cli.setup_options import complete_gpus, complete_models
from advisor.recipe import OPTIMIZERS, PRECISIONS
from advisor.report.build import DEFAULT_MODELS, build_report


@click.command()
@click.option("--gpu", "-g", default="auto", show_default=True, shell_complete=complete_gpus,
              help="As in `advisor recommend`; with --records and no GPU here, auto is theirs.")  # fmt: skip
@click.option("--model", "-m", "models", multiple=True, shell_complete=complete_models,
              help="A model to decide for, as in `advisor recommend`; may be given several times.  "
                   f"[default: {', '.join(DEFAULT_MODELS)}]")  # fmt: skip
@click.option("--records", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Records of `advisor bench`, or an export of them.  [default: your own, of the local GPU]",
)  # fmt: skip
@click.option("--trace", type=click.Path(path_type=Path, exists=True), help="A torch.profiler trace to show as well.")
@click.option("--output", "-o", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Folder for report.html, report.md, figures/ and tables/; it is made.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a report that is there already.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the models' steps.  [default: fp16]")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="sgd is with momentum.  [default: sgd]")
@click.option("--memory-limit", metavar="SIZE", help="Memory to fit into, e.g. 24GiB.  [default: what is free]")
@click.option("--max-batch", type=int, help="Search up to this size.")
@click.option("--profile", type=click.Path(path_type=Path), help="A profile file instead of the shipped one.")
def command(
    *, gpu: str, models: tuple[str, ...], records: Path | None, trace: Path | None, folder: Path, force: bool,
    **setup: Any,
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
    report = build_report(
        gpu=gpu, models=models or DEFAULT_MODELS, records=records, trace=trace,
        command=shlex.join(["advisor", *_arguments()]), date=datetime.date.today().isoformat(), progress=_say,
        **{name: value for name, value in setup.items() if value is not None},
    )  # fmt: skip
    written = write_report(report, folder, force=force, progress=_say)
    for note in report.notes:
        click.echo(f"advisor: {note}", err=True)
    click.echo(next(str(path) for path in written if path.name == "report.html"))


def _arguments() -> list[str]:
    """What was typed after `advisor`, wherever the library was started from."""
    return sys.argv[1:] if sys.argv[1:2] == ["report"] else ["report"]


def _say(what: str) -> None:
    click.echo(f"advisor: {what}", err=True)
