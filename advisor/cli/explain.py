"""`advisor explain`: what one batch size wastes, layer by layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.cli.setup_options import say_gpu, setup_arguments, setup_facts, setup_lines, setup_options
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
    setup = prepare(**setup_arguments(options))
    found = explain(setup, batch)
    say_gpu(setup)
    if format_ == "json":
        emit(to_json({"schema_version": 1, **setup_facts(setup), **dataclasses.asdict(found)}), output)
        return
    if format_ == "csv":
        emit(render_rows([dataclasses.asdict(layer) for layer in found.layers], format_), output)
        return
    shown = found.layers if rows <= 0 else found.layers[:rows]
    table = render_rows([_row(layer) for layer in shown], format_)
    hidden = len(found.layers) - len(shown)
    name, gpu = setup.workload.title, setup.resolved_gpu.gpu.name
    lines = [f"{name} on {gpu}: a step of {duration(found.time_s)} (predicted). {found.summary}", "", table]
    if hidden:
        lines.append(f"... and {hidden} more that lose less; --rows 0 shows all.")
    lines += ["", *setup_lines(setup)]
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
