"""`advisor kernels`: what the compiler made of the project's own kernels. The compiling is the worker's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.errors import BadInputError
from advisor.gpus import ResolvedGpu, list_gpus, resolve_gpu
from advisor.quantization import GemmQuantization, quantize_gemm
from advisor.units import percent
from advisor.worker import ask_worker

KERNELS = ("matmul", "conv_forward", "conv_dgrad", "conv_wgrad")  # as `bench inspect` names them
SCHEMA_VERSION = 1
_SIZE = click.IntRange(min=1)
_COUNTED_NOTE = (
    "Registers, spills and shared memory are the compiler's; wide loads are those of 16 bytes per thread or of a whole "
    "tile, out of all loads from global memory, counted where they stand in the code."
)
_NO_TENSOR_CORES_NOTE = (
    "Triton {triton} emits no matrix instruction for {architecture}: these kernels miss the Tensor Cores of {cards} "
    "and run on the FP32 units. cuBLAS and cuDNN do use them there."
)
_UNALIGNED_NOTE = (
    "Unaligned: as for sizes that are no multiples of 8. Tensor descriptors cannot take those and are left out."
)


@dataclass(frozen=True)
class _Target:
    architecture: str
    gpu: ResolvedGpu | None  # whose SMs the waves are counted on
    note: str | None


@click.group()
def command() -> None:
    """What the compiler made of the project's own Triton kernels."""


@command.command("inspect")
@click.option("--arch", metavar="sm_90", help="Architecture to compile for.  [default: that of --gpu]")
@click.option("--gpu", "-g", help="Whose SMs the waves are counted on.  [default: a GPU of --arch, else auto]")
@click.option(
    "--kernel", "kernels", multiple=True, type=click.Choice(KERNELS), help="May be given again.  [default: matmul]"
)
@click.option("--m", type=_SIZE, default=4096, show_default=True, help="Rows of C; of a convolution, the implicit M.")
@click.option("--n", type=_SIZE, default=4096, show_default=True, help="Columns of C.")
@click.option("--k", type=_SIZE, default=4096, show_default=True, help="The contraction.")
@click.option("--dtype", type=click.Choice(("fp16", "bf16")), default="fp16", show_default=True)
@click.option(
    "--layout",
    type=click.Choice(("nn", "nt", "tn", "tt")),
    default="nn",
    show_default=True,
    help="Of a matrix product's A and B: n row-major, t column-major.",
)
@click.option("--unaligned", is_flag=True, help="As for sizes that are no multiples of 8.")
@output_options()
def inspect(
    *, arch: str | None, gpu: str | None, kernels: tuple[str, ...], m: int, n: int, k: int, dtype: str, layout: str,
    unaligned: bool, format_: str, output: Path | None,
) -> None:  # fmt: skip
    """Compile the shipped configurations for an architecture, without a GPU, and read the machine code.

    \b
    advisor kernels inspect --arch sm_90
    advisor kernels inspect --gpu "RTX 4090" --kernel conv_forward --m 100352 --n 64 --k 576

    Per configuration: registers, spills, shared memory, the matrix instruction, wide loads, how many CTAs an SM
    holds and what stops the next, and the waves of one product. Needs PyTorch and Triton: batchwave[torch].
    """
    target = _target(arch, gpu)
    chosen = kernels or KERNELS[:1]
    arguments = [word for kernel in chosen for word in ("--kernel", kernel)]
    found = ask_worker(
        "inspect", "--arch", target.architecture, *arguments, "--dtype", dtype, "--layout", layout,
        *(["--unaligned"] if unaligned else []),
    )  # fmt: skip
    sms = target.gpu.gpu.sms if target.gpu else None
    quantized = [_waves(row, m, n, k, sms) for row in found["rows"]]
    if target.note:
        click.echo(f"advisor: {target.note}", err=True)
    emit(_render(found, quantized, target, (m, n, k), format_), output)


def _target(arch: str | None, gpu: str | None) -> _Target:
    """Architecture and GPU that belong together. Raises BadInputError where they do not."""
    if arch is None:
        resolved = resolve_gpu(gpu or "auto")
        return _Target(_architecture(resolved.gpu.compute_capability), resolved, resolved.note)
    if gpu is not None:
        resolved = resolve_gpu(gpu)
        own = _architecture(resolved.gpu.compute_capability)
        if arch.lower() not in {own, own.replace("_", "")}:
            raise BadInputError(f"--arch {arch} is not that of {resolved.gpu.name}, which is {own}: leave one out")
        return _Target(own, resolved, resolved.note)
    known = next((g for g in list_gpus() if _architecture(g.compute_capability) == arch.lower()), None)
    if known is None:
        return _Target(arch, None, None)
    note = f"waves are counted on the {known.sms} SMs of {known.name}; --gpu names another"
    return _Target(arch.lower(), resolve_gpu(known.id), note)


def _architecture(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def _waves(row: dict[str, Any], m: int, n: int, k: int, sms: int | None) -> GemmQuantization | None:
    """Waves of C[m, n] in one configuration; None where no GPU is known, or the SM cannot hold one CTA."""
    config = row["config"]
    if sms is None or row["resident_ctas"] == 0:
        return None
    persistent = config.get("variant", "plain") != "plain"
    ctas_per_sm = config.get("ctas_per_sm", 1) if persistent else row["resident_ctas"]
    return quantize_gemm(
        m, n, k, tile_m=config["tile_m"], tile_n=config["tile_n"], tile_k=config["tile_k"],
        split_k=config["split_k"], sms=sms, ctas_per_sm=ctas_per_sm,
        schedule="persistent" if persistent else None,
    )  # fmt: skip


def _notes(found: dict[str, Any], quantized: list[GemmQuantization | None]) -> list[str]:
    notes = [] if found["aligned"] else [_UNALIGNED_NOTE]
    if all(row["matrix_instruction"] is None for row in found["rows"]):
        cards = {"sm_70": "V100", "sm_75": "T4"}.get(found["architecture"], "this architecture")
        notes.append(
            _NO_TENSOR_CORES_NOTE.format(triton=found["triton"], architecture=found["architecture"], cards=cards)
        )
    return notes + list(dict.fromkeys(waves.note for waves in quantized if waves and waves.note))


def _render(
    found: dict[str, Any], quantized: list[GemmQuantization | None], target: _Target, shape: tuple[int, int, int],
    format_: str,
) -> str:  # fmt: skip
    m, n, k = shape
    gpu = target.gpu.gpu if target.gpu else None
    notes = _notes(found, quantized)
    records = [
        {
            **row,
            "tiles": waves and waves.tiles,
            "waves": waves and waves.waves,
            "whole_waves": waves and waves.whole_waves,
            "wave_efficiency": waves and waves.wave_efficiency,
            "tile_efficiency": waves and waves.tile_efficiency,
        }
        for row, waves in zip(found["rows"], quantized, strict=True)
    ]
    if format_ == "json":
        return to_json(
            {
                **found, "schema_version": SCHEMA_VERSION, "gpu": gpu and gpu.id, "sms": gpu and gpu.sms, "m": m,
                "n": n, "k": k, "rows": records, "notes": notes,
            }
        )  # fmt: skip
    if format_ == "csv":
        return render_rows([_flat(record) for record in records], "csv")
    several = len({row["kernel"] for row in found["rows"]}) > 1
    rows = [
        {
            **({"kernel": row["kernel"]} if several else {}),
            "tile": f"{row['config']['tile_m']}x{row['config']['tile_n']}x{row['config']['tile_k']}",
            "stages": row["stages"],
            "warps": row["warps"],
            "variant": _variant(row["config"]),
            "regs": row["registers"],
            "spilled": f"{max(row['stack_bytes'], row['spill_store_bytes'])} B" if row["spills"] else "none",
            "shared": f"{row['shared_bytes'] / 1024:.1f} KiB",
            "matrix instruction": row["matrix_form"] or "none",
            "wide loads": f"{row['wide_loads']} of {row['wide_loads'] + row['narrow_loads']}",
            "CTAs/SM": row["resident_ctas"],
            "limited by": row["limiter"],
            "waves": None if row["waves"] is None else f"{row['waves']:.2f}",
            "wave eff.": None if row["waves"] is None else percent(row["wave_efficiency"], 1),
        }
        for row in records
    ]
    where = f", waves of {m} x {n} x {k} on {gpu.name} with {gpu.sms} SMs" if gpu else ""
    what = ", ".join(dict.fromkeys(row["kernel"] for row in found["rows"]))
    title = f"{what} in {found['dtype']} for {found['architecture']} by Triton {found['triton']}{where}"
    return "\n".join([title, "", render_rows(rows, format_), "", *notes, _COUNTED_NOTE])


def _variant(config: dict[str, Any]) -> str:
    """The variant of a configuration with what is switched on, e.g. "descriptor, subtile", "plain, split-K 4"."""
    words = [config.get("variant", "plain")]
    words += [f"split-K {config['split_k']}"] if config["split_k"] > 1 else []
    words += [name.replace("_", " ") for name, value in config.items() if value is True]
    return ", ".join(words)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """One row of CSV: the configuration's fields beside the facts, widths of loads in one field."""
    config = record["config"]
    loads = " ".join(f"{bits}:{count}" for bits, count in record["global_loads"].items())
    rest = {key: value for key, value in record.items() if key not in ("kernel", "config", "global_loads", "name")}
    own = {name: config[name] for name in ("tile_m", "tile_n", "tile_k", "group_m", "split_k")}
    return {"kernel": record["kernel"], **own, "variant": _variant(config), **rest, "global_loads": loads}
