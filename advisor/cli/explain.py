"""`advisor explain`: what one batch size wastes, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.cli.setup_options import setup_arguments, setup_options
from advisor.recommendation import explain
from advisor.step import prepare
from advisor.steptime import LayerCost
from advisor.units import duration, percent


@click.command()
@setup_options
@click.option("--batch", type=int, required=True, help="The batch size to explain.")
@click.option("--rows", type=int, default=20, show_default=True, help="Show this many layers; 0 shows all.")
@output_options()
def command(*, batch: int, rows: int, format_: str, output: Path | None, **options: Any) -> None:
    """Say layer by layer what a batch size wastes on tiles, waves and alignment.

    \b
    advisor explain --gpu a100 --model resnet50 --batch 130
    """
    found = explain(prepare(**setup_arguments(options)), batch)
    if format_ == "json":
        emit(to_json(found), output)
        return
    shown = found.layers if rows <= 0 or format_ == "csv" else found.layers[:rows]
    table = render_rows([_row(layer) for layer in shown], format_)
    if format_ == "csv":
        emit(table, output)
        return
    hidden = len(found.layers) - len(shown)
    lines = [found.summary, "", table]
    if hidden:
        lines.append(f"... and {hidden} more that lose less; --rows 0 shows all.")
    emit("\n".join(lines), output)


def _row(layer: LayerCost) -> dict[str, str]:
    lost_s = layer.time_s - layer.ideal_time_s
    tile = f"{layer.tile_m}x{layer.tile_n}" if layer.tile_m else ""
    return {
        "layer": layer.layer,
        "pass": layer.op,
        "calls": str(layer.count),
        "M x N x K": f"{layer.m}x{layer.n}x{layer.k}" if layer.m else "",
        "time": duration(layer.time_s),
        "of step": percent(layer.share, 1),
        "lost": duration(lost_s),
        "tile": tile if layer.split_k <= 1 else f"{tile}/{layer.split_k}",
        "waves": f"{layer.waves:.2f}" if layer.tile_m else "",
        "wave eff.": percent(layer.wave_efficiency) if layer.tile_m else "",
        "tile eff.": percent(layer.tile_efficiency) if layer.tile_m else "",
        "bound": layer.bound,
        "alignment": layer.alignment_note or "",
    }
