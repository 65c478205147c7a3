"""`advisor predict step`: time and memory of a step at given batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.cli.setup_options import say_gpu, setup_arguments, setup_facts, setup_lines, setup_options
from advisor.errors import BadInputError
from advisor.step import StepPrediction, check_batches, prepare
from advisor.units import duration, gib, percent, rate


@click.command()
@setup_options
@click.option("--batches", required=True, metavar="B,B,...", help="Batch sizes, e.g. 128,192,256.")
@output_options()
def command(*, batches: str, format_: str, output: Path | None, **options: Any) -> None:
    """Predict time, throughput and memory of a training step at the batch sizes given.

    \b
    advisor predict step --gpu rtx3090 --model resnet50 --batches 128,192,256 --format json
    """
    sizes = check_batches(parse_batches(batches))
    setup = prepare(**setup_arguments(options))
    found = setup.predict(sizes)
    say_gpu(setup)
    if format_ == "json":
        emit(to_json({"schema_version": 1, **setup_facts(setup), "predictions": found}), output)
    elif format_ == "csv":
        emit(render_rows([plain_row(p) for p in found], format_), output)
    else:
        emit("\n".join([render_rows([_row(p) for p in found], format_), "", *setup_lines(setup)]), output)


def parse_batches(text: str) -> list[int]:
    """Read "128,192,256". Raises BadInputError naming the part that is no whole number."""
    sizes = []
    for part in text.split(","):
        if not part.strip().isdecimal():
            raise BadInputError(f"batch size {part.strip()!r} in --batches is no whole number: write 128,192,256")
        sizes.append(int(part))
    return sizes


def _row(p: StepPrediction) -> dict[str, str]:
    top = sorted(p.class_share.items(), key=lambda item: -item[1])[:3]
    return {
        "batch": str(p.batch),
        "step": duration(p.time_s),
        "samples/s": f"{rate(p.samples_per_s)} +-{percent(p.error)}",
        "memory": gib(p.memory.total_bytes),
        "fits": "yes" if p.fits else "no",
        "GPU busy": percent(p.busy_share),
        "wave eff.": percent(p.wave_efficiency),
        "most time in": ", ".join(f"{name} {percent(share)}" for name, share in top),
    }


def plain_row(p: StepPrediction) -> dict[str, Any]:
    """A prediction in plain numbers, for CSV: seconds, bytes and shares."""
    return {
        "batch": p.batch,
        "time_s": p.time_s,
        "samples_per_s": p.samples_per_s,
        "error": p.error,
        "total_bytes": p.memory.total_bytes,
        "fits": p.fits,
        "busy_share": p.busy_share,
        "wave_efficiency": p.wave_efficiency,
        **{f"share_{name}": share for name, share in p.class_share.items()},
    }
