"""`advisor quantize`: tiles, waves, waste and alignment of one matrix product, or their staircase over a range."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from advisor.alignment import (
    BATCH_NOTE,
    ELEMENT_BYTES,
    MEASURED_NOTE,
    OLD_LIBRARIES_NOTE,
    OperandAlignment,
    gemm_alignment,
)
from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.convolution import Pass
from advisor.errors import BadInputError
from advisor.gpus import ResolvedGpu, resolve_gpu
from advisor.occupancy import Occupancy, resident_blocks, sm_limits
from advisor.quantization import (
    MAX_SIZE,
    GemmQuantization,
    IntArray,
    Ints,
    Schedule,
    ceil_div,
    largest_size,
    quantize_gemm,
    run_starts,
)
from advisor.units import percent

MAX_RANGE = 100_000  # sizes of one staircase
SCHEMA_VERSION = 1
_DIAGNOSIS_NOTE = "Waves are a diagnosis, not a bill: `advisor predict gemm` says what they cost in time."


@click.command()
@click.option("--gpu", "-g", default="auto", show_default=True, help="A name from `advisor gpus`; auto; local.")
@click.option("--m", "m_text", required=True, metavar="SIZE", help="Rows of A and C: the batch x positions of a layer.")
@click.option("--n", "n_text", required=True, metavar="SIZE", help="Columns of B and C: output features, contiguous.")
@click.option("--k", "k_text", required=True, metavar="SIZE", help="The contraction: input features.")
@click.option("--tile", required=True, metavar="MxN[xK]", help="What one CTA computes: rows x columns of C [x K step].")
@click.option("--batch", type=int, default=1, show_default=True, help="Equal products in one launch.")
@click.option("--split-k", type=int, default=1, show_default=True, help="Slices of K, each with CTAs of its own.")
@click.option(
    "--schedule",
    type=click.Choice(get_args(Schedule)),
    help="How CTAs take tiles.  [default: plain, or split-K where --split-k is above 1]",
)
@click.option("--ctas-per-sm", type=int, help="Resident CTAs per SM.  [default: 1, or derived from the next three]")
@click.option("--registers", type=int, help="Registers per thread of the kernel.")
@click.option("--shared-memory", type=int, metavar="BYTES", help="Static and dynamic shared memory per CTA.")
@click.option("--threads", type=int, help="Threads per CTA.")
@click.option("--precision", type=click.Choice(tuple(ELEMENT_BYTES)), default="fp16", show_default=True)
@click.option(
    "--pass",
    "pass_",
    type=click.Choice(get_args(Pass)),
    default="fprop",
    show_default=True,
    help="Pass of a linear layer that this product is: decides which dimensions are contiguous.",
)
@click.option("--all-rows", is_flag=True, help="Of a range, print every size and not one row per step of tiles.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw a range (PNG, SVG or PDF).")
@output_options()
def command(
    *, gpu: str, m_text: str, n_text: str, k_text: str, tile: str, batch: int, split_k: int, schedule: Schedule | None,
    ctas_per_sm: int | None, registers: int | None, shared_memory: int | None, threads: int | None, precision: str,
    pass_: Pass, all_rows: bool, plot: Path | None, format_: str, output: Path | None,
) -> None:  # fmt: skip
    """Count the tiles and waves of C[m, n] = A[m, k] B[k, n], and what they waste.

    \b
    advisor quantize --gpu a100 --m 2304 --n 1537 --k 4096 --tile 256x128
    advisor quantize --gpu a100 --m 2304 --n 1024:2048 --k 4096 --tile 256x128 --plot stairs.png

    One of m, n and k may be a range FIRST:LAST[:STEP], LAST included. The batch of a layer steps through m (in
    wgrad through k); it is contiguous in no operand, so an odd batch costs tiles and waves, never Tensor Cores.
    """
    sizes: dict[str, Any] = {"m": parse_size("m", m_text), "n": parse_size("n", n_text), "k": parse_size("k", k_text)}
    swept = [name for name, size in sizes.items() if np.ndim(size)]
    if len(swept) > 1:
        raise BadInputError(f"{' and '.join(swept)} are ranges: only one dimension may be")
    if plot is not None and not swept:
        raise BadInputError("a picture needs a range: for instance --n 1024:2048")
    tile_m, tile_n, tile_k = parse_tile(tile)
    resolved = resolve_gpu(gpu)
    resident, occupancy = _resident(resolved, ctas_per_sm, registers, shared_memory, threads)
    count = partial(
        quantize_gemm, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k, sms=resolved.gpu.sms, split_k=split_k, batch=batch,
        ctas_per_sm=resident, schedule=schedule,
    )  # fmt: skip
    found = count(**sizes)
    title = _title(found, resolved, tile, precision)
    if swept:
        text = _render_range(found, swept[0], resolved, occupancy, title, format_, all_rows)
    else:
        aligned: tuple[OperandAlignment, ...] = ()
        if resolved.gpu.has_tensor_cores:
            aligned = gemm_alignment(
                int(found.m), int(found.n), int(found.k), pass_=pass_, precision=precision,
                compute_capability=resolved.gpu.compute_capability,
            )  # fmt: skip
        text = _render_one(found, resolved, occupancy, aligned, title, format_)
    if plot is not None:
        from advisor.plots.staircase import save_staircase

        save_staircase(
            count(**{**sizes, swept[0]: _every(sizes[swept[0]])}), swept[0], plot, title=title.replace(", on ", "\non ")
        )
    if resolved.note:
        click.echo(f"advisor: {resolved.note}", err=True)
    emit(text, output)
    if plot is not None:
        click.echo(f"wrote {plot}", err=True)


def parse_size(name: str, text: str) -> Ints:
    """Read "1537" as an int, "1024:2048" or "1024:2048:8" as an array that includes its last size.

    Raises BadInputError for what is no whole number from 1 to 2^31 - 1, and for empty or very long ranges.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", part.strip()) for part in parts):
        raise BadInputError(
            f"--{name} {text!r} is neither a whole number nor a range: write 1537, 1024:2048 or 1024:2048:8"
        )
    numbers = [int(part) for part in parts]
    if not all(1 <= number <= MAX_SIZE for number in numbers):
        raise BadInputError(f"--{name} {text!r}: sizes and steps must be from 1 to {MAX_SIZE}")
    if len(numbers) == 1:
        return numbers[0]
    first, last, step = numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 1
    if last < first:
        raise BadInputError(f"--{name} {text!r} is empty: the last size is below the first")
    count = (last - first) // step + 1
    if count > MAX_RANGE:
        raise BadInputError(f"--{name} {text!r} holds {count} sizes, the limit is {MAX_RANGE}: take a larger step")
    return np.arange(first, last + 1, step, dtype=np.int64)


def _every(sizes: Any) -> IntArray:
    """All sizes between the first and the last, so that a picture shows each tooth where it is."""
    first, last = int(sizes[0]), int(sizes[-1])
    return np.arange(first, last + 1) if last - first < MAX_RANGE else np.asarray(sizes)


def parse_tile(text: str) -> tuple[int, int, int | None]:
    """Read "256x128" or "256x128x64". Raises BadInputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip().lower())
    if match is None or any(part is not None and int(part) == 0 for part in match.groups()):
        raise BadInputError(f"--tile {text!r} is no tile: write rows x columns of C, such as 256x128 or 256x128x64")
    return int(match[1]), int(match[2]), None if match[3] is None else int(match[3])


def _resident(
    resolved: ResolvedGpu, given: int | None, registers: int | None, shared: int | None, threads: int | None
) -> tuple[int, Occupancy | None]:
    """CTAs per SM: as given, derived from the kernel's resources, or 1."""
    if registers is None and shared is None and threads is None:
        return 1 if given is None else given, None
    if given is not None:
        raise BadInputError(
            "--ctas-per-sm is given and would also be derived from the kernel's resources: leave one out"
        )
    if registers is None or threads is None:
        raise BadInputError("resident CTAs follow from --threads, --registers and --shared-memory: give the first two")
    limits = sm_limits(resolved.gpu)
    found = resident_blocks(limits, threads=threads, registers=registers, shared_memory_bytes=shared or 0)
    if found.blocks_per_sm == 0:
        raise BadInputError(
            f"a CTA of {threads} threads with {registers} registers each and {shared or 0} B of shared memory does not "
            f"fit {resolved.gpu.name}: too much for its {found.limiter}"
        )
    return int(found.blocks_per_sm), found


def _title(found: GemmQuantization, resolved: ResolvedGpu, tile: str, precision: str) -> str:
    m, n, k = (
        f"{size[0]}:{size[-1]}" if isinstance(size, np.ndarray) else str(size) for size in (found.m, found.n, found.k)
    )
    batch = f"{found.batch} x " if found.batch != 1 else ""
    return (
        f"{batch}C[{m}, {n}] = A[{m}, {k}] B[{k}, {n}] in {precision}, tiles of {tile}, "
        f"on {resolved.gpu.name} with {found.sms} SMs"
    )


def _render_one(
    found: GemmQuantization, resolved: ResolvedGpu, occupancy: Occupancy | None, aligned: tuple[OperandAlignment, ...],
    title: str, format_: str,
) -> str:  # fmt: skip
    notes = [note for note in (found.note,) if note]
    if aligned:
        notes += [BATCH_NOTE, *([OLD_LIBRARIES_NOTE] if any(a.verdict == "slow" for a in aligned) else [])]
    if format_ == "json":
        return to_json(
            {
                "schema_version": SCHEMA_VERSION,
                **_gpu_facts(resolved),
                "gemm": {**asdict(found), "efficiency": found.efficiency},
                "occupancy": occupancy,
                "alignment": aligned,
                "notes": notes,
            }
        )
    if format_ == "csv":
        return render_rows(_records(found), "csv")
    tables = [render_rows(_facts(found, occupancy), format_)]
    if aligned:
        tables.append(render_rows([_alignment_row(record) for record in aligned], format_))
        if any(record.verdict == "slow" and record.measured_rate for record in aligned):
            notes.append(f"Rates of unaligned operands: {MEASURED_NOTE}.")
    else:
        notes.append(f"{resolved.gpu.name} has no Tensor Cores for this precision: there is nothing to align.")
    return "\n".join([title, "", "\n\n".join(tables), "", *notes, _DIAGNOSIS_NOTE])


def _facts(found: GemmQuantization, occupancy: Occupancy | None) -> list[dict[str, str]]:
    """The table of one product: what, how much, how it comes about."""
    at = _records(found)[0]
    rows, columns = ceil_div(at["m"], at["tile_m"]), ceil_div(at["n"], at["tile_n"])
    factors = [f"in {rows} rows x {columns} columns"] + [f"split-K {at['split_k']}"] * (at["split_k"] != 1)
    factors += [f"batch {at['batch']}"] * (at["batch"] != 1)
    held = at["slots"] // at["sms"]
    why = "" if occupancy is None else f", limited by {occupancy.limiter}"
    lines = [
        ("tiles", f"{at['tiles']}", " x ".join(factors)),
        ("slots", f"{at['slots']}", f"{at['sms']} SMs x {held} resident CTA{'s' * (held != 1)}{why}"),
        (
            "waves",
            f"{at['waves']:.2f}",
            f"{at['whole_waves']} whole; the last is {percent(at['last_wave_fill'], 1)} full",
        ),
        ("tile efficiency", percent(at["tile_efficiency"], 1), "share of the tiles that lies inside C"),
        (
            "wave efficiency",
            percent(at["wave_efficiency"], 1),
            f"over slots; {percent(at['wave_efficiency_sms'], 1)} over SMs",
        ),
        ("idle slots", percent(at["idle_share"], 1), "over all waves"),
        ("work", _gflop(at["flops"]), f"and {_gflop(at['wasted_flops'])} on padding"),
    ]
    if found.schedule != "stream-K":  # it has no waves of tiles to fill
        lines += [_steps("m", at, columns), _steps("n", at, rows)]
    return [dict(zip(("figure", "value", "how"), line, strict=True)) for line in lines]


def _steps(name: str, at: dict[str, Any], tiles_across: int) -> tuple[str, str, str]:
    """How far one dimension may grow before another wave starts, and how far it must shrink to save one."""
    per_step, tile = tiles_across * at["split_k"] * at["batch"], at[f"tile_{name}"]
    below, last = (largest_size(at["whole_waves"] - less, at["slots"], per_step, tile) for less in (1, 0))
    fewer = f"; down to {below} to save one" if below else ""
    return (f"{name} = {at[name]}", f"to {last}", f"may grow so far without another wave{fewer}")


def _alignment_row(record: OperandAlignment) -> dict[str, str]:
    slow = record.verdict == "slow" and record.measured_rate is not None
    return {
        "operand": record.operand,
        "contiguous": f"{record.dimension} = {record.size}",
        "aligned to": f"{record.alignment_bytes} B" + " or more" * (record.alignment_bytes == 128),
        "Tensor Cores": record.verdict
        + (f", measured {percent(record.measured_rate or 0)} of the best" if slow else ""),
        "pad to": "" if record.verdict in {"good", "best"} else str(record.pad_to),
        "best": str(record.pad_to_best),
    }


def _render_range(
    found: GemmQuantization, swept: str, resolved: ResolvedGpu, occupancy: Occupancy | None, title: str, format_: str,
    all_rows: bool,
) -> str:  # fmt: skip
    if format_ in {"json", "csv"}:
        records = _records(found)
        if format_ == "csv":
            return render_rows(records, "csv")
        return to_json(
            {"schema_version": SCHEMA_VERSION, **_gpu_facts(resolved), "occupancy": occupancy, "rows": records}
        )
    records = _records(found)
    starts = np.arange(len(records)) if all_rows else run_starts(*_tiles_and_waves(found))
    ends = np.append(starts[1:], len(records)) - 1
    rows = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        at, following = records[end], records[end + 1] if end + 1 < len(records) else None
        cliff = following is not None and following["whole_waves"] > at["whole_waves"]
        rows.append(
            {
                swept: str(at[swept]) if start == end else f"{records[start][swept]} to {at[swept]}",
                "tiles": f"{at['tiles']}",
                "waves": f"{at['waves']:.2f}",
                "whole": f"{at['whole_waves']}",
                "wave eff.": percent(at["wave_efficiency"], 1),
                "over SMs": percent(at["wave_efficiency_sms"], 1),
                "idle": percent(at["idle_share"], 1),
                "tile eff.": percent(at["tile_efficiency"], 1),
                "both": percent(at["efficiency"], 1),
                "next": f"{following[swept]} takes {following['whole_waves']} waves" if cliff and following else "",
            }
        )
    told = "every size" if all_rows else f"one row per step of tiles, its figures those of its last {swept}"
    lines = [title, f"{len(records)} sizes of {swept}, both ends included; {told}.", "", render_rows(rows, format_), ""]
    return "\n".join([*lines, *([found.note] if found.note else []), BATCH_NOTE, _DIAGNOSIS_NOTE])


def _tiles_and_waves(found: GemmQuantization) -> tuple[Any, Any]:
    shape = np.broadcast_shapes(np.shape(found.m), np.shape(found.n), np.shape(found.k))
    return np.broadcast_to(found.tiles, shape), np.broadcast_to(found.whole_waves, shape)


def _records(found: GemmQuantization) -> list[dict[str, Any]]:
    """One flat record per size, plain Python values."""
    columns = {**asdict(found), "efficiency": found.efficiency}
    columns = {name: value for name, value in columns.items() if name != "note"}
    shape = np.broadcast_shapes((1,), *(np.shape(value) for value in columns.values()))
    lists = {name: np.broadcast_to(np.asarray(value), shape).tolist() for name, value in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _gpu_facts(resolved: ResolvedGpu) -> dict[str, Any]:
    return {"gpu": resolved.gpu.id, "gpu_name": resolved.gpu.name, "gpu_source": resolved.source}


def _gflop(flops: Ints) -> str:
    return f"{flops / 1e9:.3g} GFLOP"
