"""`advisor recommend`: one batch size, with its reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.choice import TOLERANCE, tied
from advisor.cli.output import FORMATS, as_markdown, emit, output_options, render_rows
from advisor.cli.predict_step import plain_row
from advisor.cli.setup_options import say_gpu, setup_arguments, setup_lines, setup_options
from advisor.plots.canvas import check_path
from advisor.plots.curve import save_curve
from advisor.recommendation import DEFAULT_MAX_BATCH, Answer, Candidate, Recommendation, headline, recommend
from advisor.step import memory_sum
from advisor.units import duration, gib, parse_fraction, percent, rate


@click.command()
@setup_options
@click.option("--global-batch", type=int, help="Samples per optimizer step over all GPUs; kept exactly. "
              "`advisor plan` makes a whole plan of it: learning rate, schedule, time.")  # fmt: skip
@click.option("--gpus", type=int, default=1, show_default=True, help="How many such GPUs train together.")
@click.option("--current", type=int, metavar="BATCH", help="Your size today: says what moving would gain.")
@click.option("--max-batch", type=int, default=DEFAULT_MAX_BATCH, show_default=True, help="Search up to this size.")
@click.option("--tolerance", default=f"{TOLERANCE:.0%}", show_default=True, metavar="SHARE",
              help="The knee is the smallest size this close to the fastest.")  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the curve (PNG, SVG or PDF).")
@output_options((*FORMATS, "value"))
def command(
    *, global_batch: int | None, gpus: int, current: int | None, max_batch: int, tolerance: str, plot: Path | None,
    format_: str, output: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Recommend a batch size: fast, fitting, with the reason.

    \b
    advisor recommend --gpu auto --model resnet50
    advisor recommend --gpu h100 --model gpt2 --global-batch 512 --gpus 8 --optimizer adamw
    """
    if plot is not None:
        check_path(plot)
    found = recommend(
        gpus=gpus, global_batch=global_batch, current=current, max_batch=max_batch,
        tolerance=parse_fraction(tolerance), **setup_arguments(options),
    )  # fmt: skip
    say_gpu(found.setup)
    emit(_render(found, format_), output)
    if plot is not None:
        save_curve(found, plot)
        click.echo(f"wrote {plot}", err=True)


def _render(found: Recommendation, format_: str) -> str:
    answer = found.answer
    if format_ == "json":
        return found.to_json()
    if format_ == "value":
        return str(answer.batch_size)
    if format_ == "csv":
        return render_rows([_plain_row(candidate) for candidate in answer.candidates], format_)
    table = render_rows([_row(candidate, answer) for candidate in answer.candidates], format_)
    chosen = next(c.prediction for c in answer.candidates if c.prediction.batch == answer.batch_size)
    limit = "unknown" if answer.memory_limit_bytes is None else gib(answer.memory_limit_bytes)
    lines = [
        headline(answer),
        "",
        table,
        "",
        *answer.reasons,
        f"Memory at {chosen.batch}: {memory_sum(chosen.memory)}; limit {limit} less a margin of "
        f"{percent(answer.margin, 1)}.",
        *([answer.comparison.text] if answer.comparison else []),
        *_other_cuts(answer),
        "",
        *setup_lines(found.setup, answer.notes),
    ]
    if format_ == "markdown":
        lines = as_markdown(lines)
    return "\n".join(lines)


def _other_cuts(answer: Answer) -> list[str]:
    best = answer.cut
    if best is None:
        return []
    return [
        f"Also exact: {cut}: {duration(cut.time_s)} per global step instead of {duration(best.time_s)}"
        + (", a tie." if tied(cut.samples_per_s, best.samples_per_s) else ".")
        for cut in answer.other_cuts
    ]


def _row(candidate: Candidate, answer: Answer) -> dict[str, str]:
    p = candidate.prediction
    return {
        "batch": str(p.batch),
        "samples/s": rate(p.samples_per_s),
        "of fastest": percent(candidate.relative, 1),
        "step": duration(p.time_s),
        "memory": gib(p.memory.total_bytes),
        "fits": "yes" if p.fits else "no",
        "GPU busy": percent(p.busy_share),
        "wave eff.": percent(p.wave_efficiency),
        "why listed": ", ".join(candidate.roles),
    }


def _plain_row(candidate: Candidate) -> dict[str, Any]:
    return {**plain_row(candidate.prediction), "of_fastest": candidate.relative, "roles": "; ".join(candidate.roles)}
