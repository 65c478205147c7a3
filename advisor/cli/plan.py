"""`advisor plan`: from a global batch to a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from advisor.cli.options import add_options
from advisor.cli.output import emit, output_options, render_rows
from advisor.cli.plan_tables import MISSING, TABLES, plain_table
from advisor.cli.plan_text import not_as_asked, render
from advisor.cli.setup_options import (
    GPU_OPTION,
    MARGIN_OPTION,
    MEMORY_LIMIT_OPTION,
    MODEL_OPTION,
    PROFILE_OPTION,
    RECIPE_OPTION,
    SIZE_OPTIONS,
    say_gpu,
    setup_arguments,
)
from advisor.errors import BadInputError
from advisor.planning.build import TrainingPlan, plan
from advisor.planning.critical_batch import task_names
from advisor.planning.records import FRAMEWORKS, OBJECTIVES, PLAN_OPTIMIZERS, SHAPES
from advisor.plots.canvas import check_path
from advisor.recommendation import DEFAULT_MAX_BATCH
from advisor.units import parse_duration


def _complete(names: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completion of an option whose errors name what is nearest, as those of click.Choice do not."""
    return lambda _context, _parameter, incomplete: [
        CompletionItem(name) for name in names if name.startswith(incomplete)
    ]


_OPTIONS = (
    MODEL_OPTION,
    GPU_OPTION,
    click.option("--global-batch", type=int, required=True, help="Samples per optimizer step over all GPUs. It is "
                 "kept: only its cut is chosen."),
    click.option("--gpus", type=int, default=1, show_default=True, help="How many such GPUs train together."),
    click.option("--optimizer", metavar="|".join(PLAN_OPTIMIZERS), default=PLAN_OPTIMIZERS[0], show_default=True,
                 shell_complete=_complete(PLAN_OPTIMIZERS), help="sgd is with momentum."),
    click.option("--lr", type=float, help="Your learning rate; it is scaled to the planned global batch."),
    click.option("--base-batch", type=int, metavar="SAMPLES", help="Samples per step that the rate was tuned for, and "
                 "that reach the target in --epochs.  [default: the global batch]"),
    click.option("--dataset-size", type=int, metavar="SAMPLES", help="Training samples of one epoch."),
    click.option("--epochs", type=float, help="How many epochs to train."),
    click.option("--keep-last", is_flag=True, help="Make a smaller step of the samples left over in an epoch."),
    click.option("--warmup-epochs", type=float, help="Epochs of warm-up.  [default: usual for the optimizer]"),
    click.option("--warmup-steps", type=int, help="Or optimizer steps of warm-up."),
    click.option("--schedule", type=click.Choice(SHAPES), help="Shape of the learning rate over the run.  "
                 "[default: usual for the optimizer]"),
    click.option("--change-global-batch", metavar="SAMPLES|best", help="Plan for another global batch, or for the best "
                 "one for the objective, and show all that follows before and after."),
    click.option("--objective", type=click.Choice(OBJECTIVES), default=OBJECTIVES[0], show_default=True,
                 help="What is best. cost may plan fewer GPUs."),
    click.option("--task", shell_complete=_complete(task_names()), help="Whose critical batch to take: imagenet, "
                 "cifar10, detection, bert, llm, ...; an unknown one lists all.  [default: the model's own task]"),
    click.option("--critical-batch", type=float, metavar="SAMPLES", help="Your own critical batch: at this size the "
                 "samples to target have doubled."),
    click.option("--price", type=float, help="Per hour of one GPU, in any currency."),
    click.option("--power", "power_w", type=float, metavar="WATTS", help="What one GPU draws while it trains.  "
                 "[default: at most the limit of the card or board]"),
    click.option("--records", multiple=True, type=click.Path(path_type=Path),
                 help="Records of `advisor bench` on this GPU: their measured power. May be given again."),
    click.option("--exchange", metavar="TIME", help="Gradient exchange of one optimizer step that backward does not "
                 "hide, as you measured it, e.g. 12ms.  [default: not in the times]"),
    *SIZE_OPTIONS,
    RECIPE_OPTION,
    MEMORY_LIMIT_OPTION,
    MARGIN_OPTION,
    PROFILE_OPTION,
    click.option("--max-batch", type=int, default=DEFAULT_MAX_BATCH, show_default=True,
                 help="Search up to this size per GPU."),
    click.option("--emit", "framework", metavar="|".join(FRAMEWORKS), shell_complete=_complete(FRAMEWORKS),
                 help="Print code or settings that train as planned, and nothing else."),
    click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png",
                 help="Draw time to target over the global batch (PNG, SVG or PDF)."),
    click.option("--table", type=click.Choice(list(TABLES)), help="Print this table alone.  [csv: cuts]"),
)  # fmt: skip


@click.command()
@add_options(_OPTIONS)
@output_options()
def command(
    *, keep_last: bool, exchange: str | None, records: Sequence[Path], framework: str | None, plot: Path | None,
    table: str | None, format_: str, output: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Plan a training run: cut of the global batch, learning rate, schedule, time, energy and cost.

    \b
    advisor plan --model resnet50 --gpu a100 --gpus 8 --global-batch 4096 --lr 0.1 --base-batch 256 \\
        --dataset-size 1281167 --epochs 90
    advisor plan --model bert-large-512 --gpu h100 --gpus 64 --global-batch 8192 --optimizer lamb
    advisor plan --model resnet50 --gpu rtx4090 --global-batch 256 --lr 0.1 --emit torch > train.py

    Exit codes as in `advisor --help`: 2 bad input, 4 nothing fits.
    """
    if plot is not None:
        check_path(plot)
    _check_output(framework, table, format_)
    found = plan(
        drop_last=not keep_last, exchange_s=None if exchange is None else parse_duration(exchange), records=records,
        **setup_arguments(options),
    )  # fmt: skip
    if plot is not None and found.answer.target is None:
        raise BadInputError(f"--plot draws time to target, and this plan has none: {MISSING['target']}")
    say_gpu(found.setup)
    if framework is not None or table is not None or format_ == "csv":  # a part of the plan, which says less
        for said in not_as_asked(found.answer):
            click.echo(f"advisor: {said}", err=True)
    if framework is not None:
        snippet = found.emit(framework)
        emit(snippet.text.rstrip("\n"), output)
        for note in snippet.notes:
            click.echo(f"advisor: {note}", err=True)
    else:
        emit(_render(found, format_, table), output)
    if plot is not None:
        from advisor.plots.target import save_target

        save_target(found.answer, plot)
        click.echo(f"wrote {plot}", err=True)


def _check_output(framework: str | None, table: str | None, format_: str) -> None:
    if framework is not None and (table is not None or format_ != "table"):
        raise BadInputError("--emit prints a snippet and no table: leave --table and --format out")
    if table is not None and format_ == "json":
        raise BadInputError(f"--table {table} with --format json: JSON is the whole plan; leave --table out")


def _render(found: TrainingPlan, format_: str, table: str | None) -> str:
    if format_ == "json":
        return found.to_json()
    if format_ == "csv":
        return render_rows(plain_table(found.answer, table or "cuts"), format_)
    if table is not None:
        return render_rows(TABLES[table](found.answer), format_)
    return render(found, format_)
