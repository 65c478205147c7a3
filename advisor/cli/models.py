"""`advisor models`: the shipped models, or one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.workload import Workload
from advisor.workload.catalogue import catalogue_names, forward_flops, load_workload

_HEADERS = {
    "name": "model",
    "parameters": "parameters",
    "forward_flop_per_sample": "forward FLOP/sample",
    "input": "input",
    "task": "task",
    "batch_norm_layers": "BatchNorm layers",
    "mode": "mode",
    "precision": "precision",
    "layout": "layout",
    "attention": "attention",
    "operations": "operations",
    "kernels": "kernels",
    "flop_per_sample": "FLOP/sample",
    "traffic_bytes_per_sample": "traffic/sample",
    "live_bytes_per_sample": "peak memory/sample",
}


@click.command()
@click.argument("name", required=False)
@output_options()
def command(name: str | None, format_: str, output: Path | None) -> None:
    """List the shipped models, or show what is known of one.

    Any other model can be named where --model is asked for: torchvision:NAME, timm:NAME, hf:NAME, or
    package.module:factory (which imports and runs that code).
    """
    if name is None:
        rows = [_summary(load_workload(known)) for known in catalogue_names()]
        text = to_json({"schema_version": 1, "models": rows}) if format_ == "json" else _table(rows, format_)
    else:
        workload = load_workload(name)
        facts, variants = _summary(workload) | _details(workload), _variants(workload)
        if format_ == "json":
            text = to_json({"schema_version": 1, **facts, "variants": variants})
        elif format_ == "csv":
            text = render_rows(variants, format_)
        else:
            head = "\n".join(f"{key.replace('_', ' '):24} {value}" for key, value in _printed(facts).items())
            text = f"{head}\n\n{_table(variants, format_)}"
    emit(text, output)


def _table(rows: list[dict[str, Any]], format_: str) -> str:
    printed = rows if format_ == "csv" else [_printed(row) for row in rows]
    return render_rows(printed, format_, headers=_HEADERS)


def _summary(workload: Workload) -> dict[str, Any]:
    return {
        "name": workload.name,
        "parameters": workload.parameters,
        "forward_flop_per_sample": forward_flops(workload),
        "input": "x".join(map(str, workload.input_shape)),
        "task": workload.task,
        "batch_norm_layers": workload.batch_norm_layers,
    }


def _details(workload: Workload) -> dict[str, Any]:
    return {
        "title": workload.title,
        "origin": workload.origin,
        "trainable_parameters": workload.trainable_parameters,
        "parameter_tensors": workload.parameter_tensors,
        "buffer_bytes": workload.buffer_bytes,
        "layers": len(workload.layer_names),
    }


def _variants(workload: Workload) -> list[dict[str, Any]]:
    return [
        {
            "mode": v.mode,
            "precision": v.precision,
            "layout": v.layout,
            "attention": v.attention,
            "operations": sum(op.count for op in v.ops),
            "kernels": sum(op.count * op.kernels for op in v.ops),
            "flop_per_sample": sum(op.count * op.flops[1] for op in v.ops),
            "traffic_bytes_per_sample": sum(op.count * (op.read_bytes[1] + op.write_bytes[1]) for op in v.ops),
            "live_bytes_per_sample": v.live[-1][1],
        }
        for v in workload.variants
    ]


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers as people read them: 25.6 M parameters, 8.2 GFLOP, 44.8 MB."""
    units = {"parameters": ("M", 1e6), "trainable_parameters": ("M", 1e6), "forward_flop_per_sample": ("GFLOP", 1e9),
             "flop_per_sample": ("GFLOP", 1e9), "traffic_bytes_per_sample": ("MB", 1e6),
             "live_bytes_per_sample": ("MB", 1e6), "buffer_bytes": ("MB", 1e6)}  # fmt: skip
    return {k: f"{v / units[k][1]:.2f} {units[k][0]}" if k in units else v for k, v in row.items()}
