"""Subjects of a report and measured products for tests of its sections; public timings are read, never stored."""

from __future__ import annotations

import csv
from collections.abc import Iterable

import numpy as np

from advisor.gpus import resolve_gpu
from advisor.loading import profiles_for
from advisor.recommendation import recommend
from advisor.report.records import Origin
from advisor.report.subject import Measured, MeasuredProducts, Subject
from tests.data import measured

ELEUTHERAI = Origin("public measurement", "EleutherAI cookbook, sizing/results, Apache-2.0: mean of 100 calls, FP16")
AICONFIGURATOR = Origin("public measurement", "NVIDIA aiconfigurator, commit 095f58a5, Apache-2.0: cuBLAS, BF16")
_TABLES = {"a100-sxm4-80gb": "a100_sxm4_80gb", "h100-sxm-80gb": "h100_sxm_80gb", "h200-sxm": "h200_sxm",
           "l40s": "l40s"}  # fmt: skip
_ELEUTHERAI = {"a100-sxm4-80gb": "a100", "v100-sxm2-16gb": "v100"}


def subject_of(gpu: str, *products: MeasuredProducts, models: tuple[str, ...] = ()) -> Subject:
    """A report's subject: one GPU, models by name, and nothing measured but these products."""
    resolved = resolve_gpu(gpu)
    decided = tuple(recommend(model, gpu=gpu) for model in models)
    return Subject(resolved, profiles_for(resolved), decided, Measured(products=products))


def products(gpu: str) -> tuple[MeasuredProducts, ...]:
    """Every public FP16 and BF16 product of a GPU that these tests use; skips where the tables are absent."""
    found = []
    if gpu in _TABLES:
        found.append(aiconfigurator(_TABLES[gpu]))
    if gpu in _ELEUTHERAI:
        found.append(columns_sweep(_ELEUTHERAI[gpu]))
    if gpu == "a100-sxm4-80gb":
        found.append(alignment_sweeps())
    return tuple(found)


def aiconfigurator(table: str) -> MeasuredProducts:
    """BF16 timings of one GPU on a grid of m, n and k."""
    rows = np.genfromtxt(measured("aiconfigurator-gemm", f"{table}_bf16.csv"), delimiter=",", skip_header=1)
    return as_products(rows[:, :3], rows[:, 3] * 1e-3, "bf16", AICONFIGURATOR, fitted=True)


def columns_sweep(gpu: str) -> MeasuredProducts:
    """M = 2304, K = 4096, N from 1536 to 6144 in steps of 64 (ksweep_high), "a100" or "v100"."""
    path = measured("eleutherai-cookbook-sizing", "gemm_bmm_fp16_a100_v100_mi250x.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == gpu and row["sweep"] == "ksweep_high"]
    return _of_rates((row["m"], row["k_out"], row["n_contraction"], row["tflops"]) for row in rows)


def alignment_sweeps() -> MeasuredProducts:
    """An A100 at M = 8192, by ones: N from 51136 to 51264 at K = 14336, and K from 14272 to 14400 at N = 51200."""
    path = measured("eleutherai-cookbook-sizing", "alignment_fp16_a100_step1.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return _of_rates((row["m"], row["n"], row["k"], row["tflops"]) for row in rows)


def _of_rates(rows: Iterable[tuple[str, ...]]) -> MeasuredProducts:
    m, n, k, tflops = np.array([[float(value) for value in row] for row in rows]).T
    return as_products(np.column_stack([m, n, k]), 2 * m * n * k / (tflops * 1e12), "fp16", ELEUTHERAI, fitted=False)


def as_products(
    sizes: np.ndarray, time_s: np.ndarray, precision: str, origin: Origin, *, fitted: bool
) -> MeasuredProducts:
    """Rows of m, n, k with one figure each."""
    m, n, k = sizes.T.astype(np.int64)
    unknown = np.full(len(time_s), np.nan)
    return MeasuredProducts(
        m=m, n=n, k=k, time_s=time_s, low_s=unknown, high_s=unknown, precision=precision, library="cublas", mode="",
        kernel=("",) * len(time_s), fitted=fitted, origin=origin,
    )  # fmt: skip
