"""`advisor memory`: how many samples fit by the sum alone, from three sizes; no model and no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.alignment import BATCH_NOTE
from advisor.cli.output import FORMATS, as_markdown, emit, output_options, render_rows, to_json
from advisor.planning.memory_sum import MemoryAnswer, memory_sum, unit_hints
from advisor.planning.sources import GOYAL_2017
from advisor.units import short_size

SCHEMA_VERSION = 1


@click.command()
@click.option("--available", required=True, metavar="SIZE", help="Memory of one GPU that is free for it: 24GiB, 80GB.")
@click.option("--fixed", required=True, metavar="SIZE",
              help="What does not grow with the batch: weights, gradients, optimizer state, CUDA context.")  # fmt: skip
@click.option("--per-sample", required=True, metavar="SIZE", help="What one more sample takes: 0.2GiB, 50MiB.")
@click.option("--margin", default="0%", show_default=True, metavar="SHARE", help="Added to the sum before it must fit.")
@click.option("--global-batch", type=int, help="Samples per optimizer step over all GPUs, to be cut by memory alone.")
@click.option("--gpus", type=int, default=1, show_default=True, help="How many such GPUs train together.")
@output_options((*FORMATS, "value"))
def command(
    *, available: str, fixed: str, per_sample: str, margin: str, global_batch: int | None, gpus: int, format_: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Say how many samples fit, by the sum alone: no model, no GPU, no speed.

    \b
    advisor memory --available 24GiB --fixed 4GiB --per-sample 0.2GiB
    advisor memory --available 12GiB --fixed 3GiB --per-sample 0.5GiB --global-batch 64

    Exit codes as in `advisor --help`: 2 bad input, 4 nothing fits.
    """
    found = memory_sum(
        available=available, fixed=fixed, per_sample=per_sample, margin=margin, global_batch=global_batch, gpus=gpus
    )
    emit(_render(found, format_), output)
    for hint in unit_hints(available, fixed, per_sample):
        click.echo(f"advisor: {hint}", err=True)


def _render(found: MemoryAnswer, format_: str) -> str:
    if format_ == "value":
        return str(found.batch_size)
    if format_ == "json":
        return to_json(_record(found))
    rows = [_row(found, batch, roles) for batch, roles in _roles(found).items()]
    if format_ == "csv":
        return render_rows(rows, "csv")
    shown = [
        {
            "batch": row["batch"],
            "memory": short_size(found.needed_bytes(row["batch"])),
            "left": short_size(found.available_bytes - found.needed_bytes(row["batch"])),
            "why listed": row["roles"],
        }
        for row in rows
    ]
    headline = str(found) if found.cut is None else f"{found}; {found.cut}"
    lines = [headline, "", render_rows(shown, format_), "", *_sentences(found)]
    if format_ == "markdown":
        lines = as_markdown(lines)
    return "\n".join(lines)


def _roles(found: MemoryAnswer) -> dict[int, str]:
    roles = {found.largest: ["largest that fits"]}
    roles.setdefault(found.power_of_two, []).append("largest power of two")
    if found.cut is not None:
        roles.setdefault(found.cut.batch, []).append(f"cut of {found.cut.global_batch:,}")
    return {batch: ", ".join(why) for batch, why in roles.items()}


def _row(found: MemoryAnswer, batch: int, roles: str) -> dict[str, Any]:
    needed = found.needed_bytes(batch)
    return {
        "batch": batch,
        "memory_bytes": float(needed),
        "left_bytes": float(found.available_bytes - needed),
        "roles": roles,
    }


def _record(found: MemoryAnswer) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "batch_size": found.batch_size,
        "largest": found.largest,
        "largest_power_of_two": found.power_of_two,
        "sum": str(found),
        "available_bytes": float(found.available_bytes),
        "fixed_bytes": float(found.fixed_bytes),
        "per_sample_bytes": float(found.per_sample_bytes),
        "margin": float(found.margin),
        "asked_global_batch": found.asked_global_batch,
        "cut": found.cut,
        "other_global_batches": found.other_global_batches,
        "rows": [_row(found, batch, roles) for batch, roles in _roles(found).items()],
        "notes": _sentences(found),
    }


def _sentences(found: MemoryAnswer) -> list[str]:
    """What follows from the sum, and what it does not know."""
    sentences = []
    if found.largest != found.power_of_two:
        sentences.append(
            f"{found.largest} is as good as {found.power_of_two}, the power of two below it: no size needs to be one "
            f"for Tensor Cores. {BATCH_NOTE}"
        )
    sentences += _cut_sentences(found)
    if not found.margin:
        sentences.append(
            "No margin is added: what the allocator holds in reserve and what the first steps take on top must be in "
            "the fixed part, or give --margin 5%."
        )
    sentences.append(
        "The sum knows nothing of speed: a smaller batch is often as fast. `advisor recommend --model MODEL --gpu GPU` "
        "predicts time and memory at every size."
    )
    return sentences


def _cut_sentences(found: MemoryAnswer) -> list[str]:
    cut = found.cut
    if cut is None:
        return []
    sentences, per_gpu = [], cut.global_batch // cut.gpus
    asked = cut.global_batch if found.asked_global_batch is None else found.asked_global_batch
    if asked != cut.global_batch:
        others = " and ".join(f"{other:,}" for other in found.other_global_batches)
        difference = cut.global_batch - asked
        sentences.append(
            f"{cut.gpus} GPUs cannot share {asked:,} equally: {cut.global_batch:,} ({difference:+,d}) is the "
            f"nearest that they can, {others} the next."
        )
    if cut.batch < min(found.largest, per_gpu):
        sentences.append(
            f"{cut.batch:,} is the largest size that fits and divides {per_gpu:,} samples per GPU exactly."
        )
    full = min(found.largest, per_gpu)
    if 2 * cut.batch <= full:
        rounds = round(per_gpu / full)
        sentences.append(
            f"That uses little of the memory: a global batch of {full * rounds * cut.gpus:,}, {full:,} per GPU x "
            f"{rounds:,} accumulation, would fill it."
        )
    times = cut.global_batch // cut.batch
    if times > 1:
        sentences.append(
            f"The optimizer step of {cut.global_batch:,} is {times:,} times as large as one of {cut.batch:,}: for SGD "
            f"the linear rule means {times:,} times the rate that was tuned for {cut.batch:,} ({GOYAL_2017}). "
            "`advisor plan` says how far the rule is known to hold, and scales the rate of other optimizers too."
        )
    return sentences
