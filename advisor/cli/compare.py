"""`advisor compare`: GPUs side by side for one model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from advisor.choice import TOLERANCE
from advisor.cli.options import add_options
from advisor.cli.output import as_markdown, emit, output_options, render_rows
from advisor.cli.setup_options import (
    MARGIN_OPTION,
    MODEL_OPTION,
    RECIPE_OPTION,
    SIZE_AND_RECIPE_OPTIONS,
    setup_arguments,
)
from advisor.comparison import SORTS, GpuComparison, GpuResult, GpuRow, compare
from advisor.comparison_inputs import PRICES, Power
from advisor.comparison_ranking import share
from advisor.errors import BadInputError
from advisor.plots.canvas import check_path
from advisor.plots.comparison import save_comparison
from advisor.recommendation import DEFAULT_MAX_BATCH
from advisor.units import gib, long_time, percent, rate

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?")
_OPTIONS = (
    MODEL_OPTION,
    click.option("--gpus", "-g", multiple=True, required=True, metavar="NAME,NAME,...",
                 help="Names from `advisor gpus`, auto or local; may be given again."),
    click.option("--price", multiple=True, metavar="PRICE|NAME=PRICE,...",
                 help="Per hour of one GPU, in any currency: one for all, or one for each by name."),
    click.option("--sort", type=click.Choice(SORTS), default=SORTS[0], show_default=True,
                 help="Most samples/s first, least cost or energy per sample first, or as given."),
    click.option("--records", multiple=True, type=click.Path(path_type=Path),
                 help="Records of `advisor bench` on one of these GPUs: their measured power. May be given again."),
    *SIZE_AND_RECIPE_OPTIONS,
    RECIPE_OPTION,
    click.option("--memory-limit", metavar="SIZE", help="What to use of each GPU at most, e.g. 24GiB."),
    MARGIN_OPTION,
    click.option("--profile", "profiles", multiple=True, type=click.Path(path_type=Path),
                 help="A profile measured on one of these GPUs, instead of the shipped one. May be given again."),
    click.option("--max-batch", type=int, default=DEFAULT_MAX_BATCH, show_default=True, help="Search up to this size."),
    click.option("--tolerance", default=f"{TOLERANCE:.0%}", show_default=True, metavar="SHARE",
                 help="The knee is the smallest size this close to the fastest."),
    click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png",
                 help="Draw samples/s, and the cost where a price is given (PNG, SVG or PDF)."),
)  # fmt: skip


@click.command()
@add_options(_OPTIONS)
@output_options()
def command(
    *, gpus: Sequence[str], price: Sequence[str], plot: Path | None, format_: str, output: Path | None, **options: Any
) -> None:
    """Put GPUs side by side: best batch, samples/s, memory, energy and cost of each.

    Energy is the power of the GPU alone over the predicted samples/s. The power is measured only where --records hold
    that of training steps of this model; else it is at most the limit of the card or board.

    \b
    advisor compare --gpus a100,h100,l40s --model resnet50
    advisor compare --gpus a100,h100 --model gpt2 --optimizer adamw --price a100=1.79,h100=2.99 --sort cost
    advisor compare --gpus l4,t4,rtx4090 --model resnet50 --price 0.5 --plot gpus.png --format markdown
    """
    if plot is not None:
        check_path(plot)
    found = compare(gpus=split_names(gpus), price=parse_prices(price), **setup_arguments(options))
    for note in (note for row in found.rows for note in row.gpu_notes):
        click.echo(f"advisor: {note}", err=True)
    emit(_render(found, format_), output)
    if plot is not None:
        save_comparison(found, plot)
        click.echo(f"wrote {plot}", err=True)


def split_names(given: Iterable[str]) -> list[str]:
    """Read "a100,h100" and several of these. Raises BadInputError for an empty name."""
    names = [name.strip() for text in given for name in text.split(",")]
    if not all(names):
        raise BadInputError(f"an empty name in --gpus {','.join(names)}: write it like a100,h100,l40s")
    return names


def parse_prices(given: Iterable[str]) -> float | dict[str, float] | None:
    """Read "2.5", "a100=1.79,h100=2.99", or several of these; None: there is none.

    Raises BadInputError for a price that is no positive number, several for all, several for one name, or both kinds.
    """
    parts = [part.strip() for text in given for part in text.split(",")]
    plain = [part for part in parts if "=" not in part]
    if plain and len(parts) > 1:
        raise BadInputError(
            f"--price {','.join(parts)}: give one price for all (2.5, with a point), or one for each GPU (a100=1.79)"
        )
    if plain:
        return _price(plain[0], plain[0])
    found: dict[str, float] = {}
    for part in parts:
        name, _, text = (piece.strip() for piece in part.partition("="))
        if not name:
            raise BadInputError(f"--price {part!r} names no GPU: write it like a100=1.79")
        if name in found:
            raise BadInputError(f"--price names {name} twice: give it one price")
        found[name] = _price(text, part)
    return found or None


def _price(text: str, part: str) -> float:
    least, most = PRICES
    value = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not least <= value <= most:
        raise BadInputError(
            f"--price {part!r} is no positive number ({least:g} to {most:g}): give what one GPU costs per hour, "
            "such as 2.5"
        )
    return value


# Output ---------------------------------------------------------------------------------------------------------------


def _render(found: GpuComparison, format_: str) -> str:
    if format_ == "json":
        return found.to_json()
    if format_ == "csv":
        return render_rows([_plain_row(row) for row in found.rows], format_)
    prices, noun = {row.price_per_hour for row in found.rows}, found.model.samples
    lines = [
        found.headline,
        "",
        render_rows([_row(row, noun, prices) for row in found.rows], format_),
        "",
        *found.ties,
        *(f"{row.name}: {row.reason}" for row in found.rows if row.reason),
        *([""] if found.ties or any(row.reason for row in found.rows) else []),
        *_below(found, prices),
    ]
    if format_ == "markdown":
        lines = as_markdown(lines)
    return "\n".join(lines)


def _row(row: GpuRow, noun: str, prices: set[float | None]) -> dict[str, str | None]:
    one, r = noun.removesuffix("s"), row.result
    shown = {
        "GPU": row.name,
        "batch": None if r is None else str(r.batch_size),
        f"{noun}/s": None if r is None else f"{rate(r.samples_per_s)} +-{percent(r.error.mean_abs_log)}",
        "of fastest": None if r is None else share(r.relative),
        "memory": None if r is None else gib(r.memory_bytes),
        "limit": None if r is None or r.memory_limit_bytes is None else gib(r.memory_limit_bytes),
        "time/1M": None if r is None else long_time(r.million_samples_s),
        f"energy/{one}": None if r is None else energy(r, row.power),
    }
    if len(prices) > 1:
        shown["price/h"] = None if row.price_per_hour is None else rate(row.price_per_hour)
    if prices != {None}:
        shown["cost/1M"] = None if r is None or r.cost_per_million is None else rate(r.cost_per_million)
    if row.result is None:
        shown["batch"] = "does not fit" if row.fits is False else "cannot be predicted"
    return shown


def energy(result: GpuResult, power: Power | None) -> str | None:
    """Print energy per sample; an upper bound says that it is one. None: the power is unknown."""
    if power is None or result.energy_per_sample_j is None:
        return None
    unit = f"{result.energy_per_sample_j:.3g} J"
    return unit if power.kind == "measured" else f"at most {unit}"


def _below(found: GpuComparison, prices: set[float | None]) -> list[str]:
    """Where the figures come from: one line for each thing said, with the GPUs it is said of."""
    answered = [(row, row.result) for row in found.rows if row.result is not None]
    lines = _said(answered, "recipe ", lambda row, result: (result.recipe,))
    lines += _said(answered, "profile", lambda row, result: (result.profile,))
    lines += _said(answered, "error  ", lambda row, result: (
        f"{percent(result.error.mean_abs_log, 1)} mean, {percent(result.error.p90_abs_log, 1)} in nine of ten "
        f"({result.error.origin})",
    ))  # fmt: skip
    lines += _said(answered, "power  ", lambda row, result: ("unknown" if row.power is None else str(row.power),))
    given = [rate(price) for price in prices if price is not None]
    if given:
        lines.append(f"price    {given[0] if len(given) == 1 else 'as given'}, per hour of one GPU")
    lines += [f"note     {note}" for note in found.notes]
    lines += _said(answered, "note   ", lambda row, result: row.notes)
    return lines


def _said(
    answered: Sequence[tuple[GpuRow, GpuResult]], title: str, what: Callable[[GpuRow, GpuResult], Iterable[str]]
) -> list[str]:
    by_text: dict[str, list[str]] = {}
    for row, result in answered:
        for text in what(row, result):
            by_text.setdefault(text, []).append(row.name)
    return [
        f"{title}  {text}" if len(names) == len(answered) else f"{title}  {', '.join(names)}: {text}"
        for text, names in by_text.items()
    ]


def _plain_row(row: GpuRow) -> dict[str, Any]:
    """A row in plain numbers, for CSV: seconds, bytes, joules and shares."""
    r, power = row.result, row.power
    return {
        "gpu": row.name,
        "id": row.id,
        "fits": row.fits,
        "batch": r and r.batch_size,
        "samples_per_s": r and r.samples_per_s,
        "error_mean": r and r.error.mean_abs_log,
        "error_p90": r and r.error.p90_abs_log,
        "of_fastest": r and r.relative,
        "memory_bytes": r and r.memory_bytes,
        "memory_limit_bytes": r and r.memory_limit_bytes,
        "million_samples_s": r and r.million_samples_s,
        "power_w": power and power.watts,
        "power_is": power and power.kind,
        "energy_per_sample_j": r and r.energy_per_sample_j,
        "price_per_hour": row.price_per_hour,
        "cost_per_million": r and r.cost_per_million,
        "ties": r and "; ".join(r.ties),
        "cost_ties": r and "; ".join(r.cost_ties),
        "reason": row.reason,
    }
