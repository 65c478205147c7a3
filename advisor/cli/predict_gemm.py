"""`advisor predict gemm`: a CSV of sizes in, the same with predicted times out."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from advisor.cli.output import emit
from advisor.cli.setup_options import PROFILE_OPTION
from advisor.gemm import BF16_NOTE, BOUNDS, TF32_NOTE, GemmPrediction, gemm_time
from advisor.gemm.table import read_shapes, table_text
from advisor.gpus import resolve_gpu
from advisor.loading import profiles_for


@click.command()
@click.option("--gpu", default="auto", show_default=True, help="GPU by name, `local`, or `auto`.")
@click.option(
    "--input",
    "input_",
    type=click.Path(path_type=Path),
    required=True,
    help="CSV with columns m, n, k; others are ignored.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to this file instead of the terminal.")
@click.option(
    "--precision", type=click.Choice(["fp16", "bf16", "tf32", "fp32"]), default="fp16", show_default=True,
    help="Of the operands; products accumulate in FP32.",
)  # fmt: skip
@PROFILE_OPTION
def command(*, gpu: str, input_: Path, output: Path | None, precision: str, profile: Path | None) -> None:
    """Predict the time of every matrix product C[m, n] = A[m, k] B[k, n] in a CSV file.

    Writes m, n, k and time_s, tflops, tile_m, tile_n, split_k, waves, wave_efficiency, bound (compute, memory or
    latency). Tiles and split are the model's own choice: the fastest of those that libraries have.

    \b
    advisor predict gemm --gpu h200 --input shapes.csv --output times.csv
    """
    resolved = resolve_gpu(gpu)
    profiles = profiles_for(resolved, precision=precision, path=profile)
    loaded = profiles.gemm
    shapes = read_shapes(input_)
    prediction = gemm_time(loaded, resolved.gpu, *shapes.T, precision=precision)
    for line in (
        resolved.note,
        f"{resolved.gpu.name}: {loaded.describe()}",
        *_caveats(precision, loaded.note),
        *profiles.notes,
    ):
        if line:
            click.echo(line, err=True)
    error = loaded.error
    click.echo(
        f"off by {100 * error.mean:.1f} % on average, {100 * error.p90:.0f} % at the 90th percentile: {error.what}",
        err=True,
    )
    emit(table_text(columns(shapes, prediction)), output)


def columns(shapes: np.ndarray, p: GemmPrediction) -> list[list[str]]:
    """The file's columns as text, in the order of its titles."""
    numbers = (p.time_s, p.flops / p.time_s / 1e12)
    exact = (*shapes.T, p.tile_m, p.tile_n, p.split_k)
    m, n, k, tile_m, tile_n, split_k = ([str(v) for v in values.tolist()] for values in exact)
    time_s, tflops, waves, efficiency = (
        [f"{v:.6g}" for v in values.tolist()] for values in (*numbers, p.waves, p.wave_efficiency)
    )
    bound = [BOUNDS[i] for i in p.bound.tolist()]
    return [m, n, k, time_s, tflops, tile_m, tile_n, split_k, waves, efficiency, bound]


def _caveats(precision: str, note: str | None) -> list[str]:
    if precision == "tf32":
        return [TF32_NOTE]
    return [note] if note else [BF16_NOTE] if precision == "fp16" else []
