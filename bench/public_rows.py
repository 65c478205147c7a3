"""Public timings as the measured rows of a report: the lines through the tables that its figures show, with origins.

They are not part of the project. `python -m bench publish` reads them from the folder that --data names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advisor.gpus import find_gpu
from advisor.recipe import make_recipe
from advisor.report.records import Origin
from advisor.report.subject import Measured, MeasuredProducts, MeasuredSteps
from advisor.workload.catalogue import load_workload
from bench.fit import V100
from bench.fit_step import GPU as STEPS_GPU
from bench.gemm_data import ELEUTHERAI, ORIGIN, TABLES, Table, read_records, read_table
from bench.step_data import TableRow, train_rows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LINE = (12288, 4096)  # n, k of the shared tables' line over m; they lack n = k = 4096
MEASURED_WITH = {  # name in TABLES: the software of its main table
    "a100-sxm4-80gb": "sglang 0.5.10",
    "h100-sxm": "vllm 0.24.0",
    "h200": "vllm 0.24.0",
    "b200": "vllm 0.24.0",
    "l40s": "sglang 0.5.14",
    "rtx-pro-6000-server": "vllm 0.24.0",
}
A100 = "a100-sxm4-80gb"
OVER_N = "ksweep_high"  # of eleutherai-cookbook-sizing; its output dimension is called k
ALIGNMENT = ("vocab_h_sweep", "vocab_v_sweep")
RATES_SET = "the rates of unaligned products were set from it"
TIMM_MODELS = {  # model of the catalogue: the same network in timm's tables
    "convnext_base": "convnext_base", "convnext_tiny": "convnext_tiny", "densenet121": "densenet121",
    "efficientnet_b0": "efficientnet_b0", "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100", "resnet18": "resnet18", "resnet50": "resnet50",
    "resnet101": "resnet101", "resnext50_32x4d": "resnext50_32x4d", "vit_b_16": "vit_base_patch16_224",
}  # fmt: skip
TIMM = (
    "timm's benchmark tables (github huggingface/pytorch-image-models, commit aa4b5850, Apache-2.0), July 2022: "
    "PyTorch 1.12, CUDA 11.3, the largest batch of a list that ran, 40 steps timed; driver and clocks unknown"
)
_CLOCKS = "driver and clocks unknown"
_EARLIER = "wall clock around a loop that synchronizes after every call, mean of 100; " + _CLOCKS


def public_measured(data: Path, gpu_id: str) -> Measured:
    """The public rows of one GPU that its report shows, by the id of the table of GPUs; empty where there are none.

    Raises BadInputError and BrokenFileError for a file of `data` that is missing or damaged.
    """
    tables = {find_gpu(name).id: name for name in TABLES}
    products: list[MeasuredProducts] = []
    if gpu_id in tables:
        name = tables[gpu_id]
        products.append(grid_line(read_table(data, name), *LINE, software=MEASURED_WITH[name]))
    if gpu_id == A100:
        products += a100_sweeps(data)
    if gpu_id == V100:
        origin = _eleutherai("a V100 of 16 GB", OVER_N)
        products.append(_sweep(data, "v100", OVER_N, fitted=True, origin=origin))
    steps = timm_steps(data) if gpu_id == STEPS_GPU else ()
    return Measured(products=tuple(products), steps=tuple(steps), gpu_id=gpu_id if products or steps else None)


def grid_line(table: Table, n: int, k: int, *, software: str) -> MeasuredProducts:
    """One (n, k) of a shared table over m; its spread is that between the tables of other software versions."""
    at = np.flatnonzero((table.pairs == (n, k)).all(axis=1))[0]
    every = np.concatenate([table.time_s[None, :, at], table.repeats_s[:, :, at]])
    several = np.isfinite(every[1:]).any(axis=0)
    low, high = (np.where(several, pick(every, axis=0), np.nan) for pick in (np.nanmin, np.nanmax))
    count, m = len(table.repeats_s), table.m.astype(np.int64)
    bars = f"the least and the greatest of this table and of {count} measured with other versions of the software"
    origin = Origin(
        "public measurement",
        f"{ORIGIN}; the table of {software}; {_CLOCKS}; bars, where drawn: {bars}",
        f"NVIDIA aiconfigurator's table of {software}, Apache-2.0; bars: the range over versions of the software",
    )
    return MeasuredProducts(
        m=m, n=np.full_like(m, n), k=np.full_like(m, k), time_s=table.time_s[:, at], low_s=low, high_s=high,
        precision="bf16", library="cublas", mode="", kernel=("",) * len(m), fitted=True,
        origin=origin, source="aiconfigurator",
    )  # fmt: skip


def a100_sweeps(data: Path) -> list[MeasuredProducts]:
    """EleutherAI's sweeps over N and over alignment; the source's card has 40 GB, the same SMs and clock."""
    card = "an A100 of 40 GB"
    same = "the same SMs and clock, 76 % of the memory bandwidth"
    found = [_sweep(data, "a100", OVER_N, fitted=False, origin=_eleutherai(card, OVER_N, same))]
    rows = read_records(data / "eleutherai-cookbook-sizing" / "alignment_fp16_a100_step1.csv")
    for sweep in ALIGNMENT:
        m, n, k, rate = (
            np.array([float(row[key]) for row in rows if row["sweep"] == sweep]) for key in ("m", "n", "k", "tflops")
        )
        origin = _eleutherai(card, sweep, same, f"whose log names no GPU; {RATES_SET}")
        found.append(_products(m, n, k, 2 * m * n * k / (rate * 1e12), fitted=True, origin=origin))
    return found


def _eleutherai(card: str, sweep: str, *more: str) -> Origin:
    """Of one of their sweeps; `more` says what is to be known of the card, then of the sweep."""
    about = "".join(f" ({each})" for each in more[:1])
    which = ", ".join((sweep, *more[1:]))
    return Origin(
        "public measurement",
        f"{ELEUTHERAI}: torch.mm on {card}{about}, {_EARLIER}; sweep {which}",
        f"EleutherAI's sweeps on {card}, 2024, Apache-2.0: {which}",
    )


def _sweep(data: Path, gpu: str, sweep: str, *, fitted: bool, origin: Origin) -> MeasuredProducts:
    path = data / "eleutherai-cookbook-sizing" / "gemm_bmm_fp16_a100_v100_mi250x.csv"
    rows = [row for row in read_records(path) if (row["gpu"], row["op"], row["sweep"]) == (gpu, "mm", sweep)]
    m, n, k, rate = (np.array([float(row[key]) for row in rows]) for key in ("m", "k_out", "n_contraction", "tflops"))
    return _products(m, n, k, 2 * m * n * k / (rate * 1e12), fitted=fitted, origin=origin)


def _products(m: Floats, n: Floats, k: Floats, time_s: Floats, *, fitted: bool, origin: Origin) -> MeasuredProducts:
    nothing = np.full(len(m), np.nan)
    return MeasuredProducts(
        m=m.astype(np.int64), n=n.astype(np.int64), k=k.astype(np.int64), time_s=time_s, low_s=nothing, high_s=nothing,
        precision="fp16", library="cublas", mode="", kernel=("",) * len(m), fitted=fitted,
        origin=origin, source="EleutherAI",
    )  # fmt: skip


def timm_steps(data: Path, layout: str = "nhwc") -> list[MeasuredSteps]:
    """timm's training steps on the RTX 3090 of models in the catalogue, at the catalogue's size of image."""
    recipe = make_recipe("timm-2022", layout=layout)
    rows = {row.model: row for row in train_rows(data, layout)}
    found = []
    for name, timm_name in TIMM_MODELS.items():
        row = rows.get(timm_name)
        if row is None or load_workload(name).input_shape != (3, row.size, row.size):
            continue
        seen = "the fit has seen this model" if row.fitted else "the fit has not seen this model"
        origin = Origin(
            "public measurement",
            f"{TIMM}; {timm_name} at {row.size} pixels, {recipe.describe()}; {seen}",
            f"timm's benchmark table of July 2022, {timm_name}, Apache-2.0; {seen}",
        )
        found.append(_one_step(name, row, f"timm's AMP steps of 2022, {layout.upper()}", origin))
    return found


def _one_step(model: str, row: TableRow, recipe: str, origin: Origin) -> MeasuredSteps:
    unknown = np.array([np.nan])
    return MeasuredSteps(
        model=model, batch=np.array([row.batch]), time_s=np.array([row.time_s]), memory_bytes=unknown, power_w=unknown,
        recipe=recipe, origin=origin,
    )  # fmt: skip
