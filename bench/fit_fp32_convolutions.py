"""`python -m bench fit-convolutions`: published FP32 convolutions to the profile of single convolutions.

What is fitted are the implicit GEMM's shares of the peaks, on the layers that DeepBench's library ran that way; the
factor of fused Winograd; and for Winograd in separate kernels the factor of its products and the share of the bandwidth
of its transforms, to DeepBench's layers and NeuSight's random ones in equal parts.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.convolution import Convolution, Pass
from advisor.convolution_time import (
    PATH,
    SCHEMA_VERSION,
    ConvolutionProfile,
    convolution_profile_bytes,
    fp32_convolution_times,
    winograd_applies,
    winograd_time,
)
from advisor.files import write_atomically
from advisor.gpus import Gpu, find_gpu
from advisor.profile import load_profile
from advisor.recipe import Recipe
from advisor.step_ops import PASSES
from advisor.step_profile import HeldOut, load_step_profile
from advisor.steptime import machine
from bench.fit_convolution import Convolutions, convolutions, fit_convolutions
from bench.gemm_data import read_records

Floats = NDArray[np.float64]

GPU = "v100-sxm2-16gb"
NEUSIGHT, NEUSIGHT_GPU = "Tesla V100-PCIE-32GB", "v100-pcie-32gb"
FITTED = "2026-11-21"
FOLDS = 5
ORIGIN = (
    "Baidu DeepBench, commit da81ba78, training, Apache-2.0: FP32 convolutions on a V100 (CUDA 10.1, cuDNN 7.6.2); for "
    "Winograd in separate kernels also NeuSight, commit 6945927d, MIT: 3x3 on a V100 (PyTorch 2.1.0, cuDNN 8.9.2)"
)
EMPTY_S = 4e-5  # of NeuSight's 30 to 60 us of an empty call
NEUSIGHT_LONG_S = 3e-4
NEUSIGHT_STEP = 10  # every tenth row is fitted
PRODUCTS = (1.0, 1.1, 1.2, 1.3, 1.4)  # factors and shares tried
BANDWIDTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LONG_S = 5e-5  # shorter ones are launches and noise
JUDGED_S = 1e-4
COLUMNS: tuple[tuple[Pass, str], ...] = (("fprop", "fwd_ms"), ("dgrad", "dgrad_ms"), ("wgrad", "wgrad_ms"))
CASE_PASS = {"fprop": "forward", "dgrad": "dgrad", "wgrad": "wgrad"}


@dataclass(frozen=True)
class Timed:
    """One measured pass; `algorithm` is what the library named for the forward pass of its layer."""

    convolution: Convolution
    pass_: Pass
    time_s: float
    algorithm: str


def read_convolutions(data: Path) -> list[Timed]:
    """DeepBench's FP32 convolutions with equal padding and stride both ways. Raises BadInputError, naming the file."""
    path = data / "deepbench" / "conv_v100.csv"
    rows = [row for row in read_records(path) if row["precision"] == "fp32"]
    found = []
    for row in rows:
        n, c, h, w, k = (int(row[name]) for name in "nchwk")
        r, s = int(row["r_filter_h"]), int(row["s_filter_w"])
        stride, pad = (int(row["stride_h"]), int(row["stride_w"])), (int(row["pad_h"]), int(row["pad_w"]))
        if stride[0] != stride[1] or pad[0] != pad[1]:
            continue
        layer = Convolution(n, c, h, w, k, r, s, *stride, *pad)
        for pass_, column in COLUMNS:
            if row[column]:
                found.append(Timed(layer, pass_, float(row[column]) * 1e-3, row["fwd_algorithm"]))
    return found


def read_neusight(data: Path, device: str, *, winograd: bool = False) -> list[Timed]:
    """NeuSight's forward convolutions over 0.3 ms, less an empty call; those with a grid of 36 products, if asked for.

    Raises BadInputError, naming the file.
    """
    found = []
    for row in read_records(data / "neusight-fp32" / "conv3x3_fp32_5gpus.csv"):
        time_s = float(row["latency_ms"]) * 1e-3
        if row["device"] != device or time_s < NEUSIGHT_LONG_S:
            continue
        is_winograd = row["kernel_family"] == "sgemm" and row["grid_z"] == "36"
        if winograd and not is_winograd:
            continue
        side, taps, pad = int(row["hw_in"]), int(row["kernel"]), int(row["pad"])
        sizes = (int(row["batch"]), int(row["c_in"]), side, side, int(row["c_out"]))
        layer = Convolution(*sizes, taps, taps, pad_h=pad, pad_w=pad)
        found.append(Timed(layer, "fprop", time_s - EMPTY_S, "WINOGRAD_NONFUSED" if is_winograd else ""))
    return found


def is_implicit(timed: Timed) -> bool:
    """Whether the library ran implicit GEMM: it names another algorithm where the filter allows one."""
    return not winograd_applies(timed.convolution) and "GEMM" in timed.algorithm


def table(rows: Sequence[Timed]) -> Convolutions:
    """Rows as the fit takes them, without the step model's factor for Winograd's algorithm."""
    cases = [
        {
            "batch": t.convolution.batch, "c_in": t.convolution.c_in, "height": t.convolution.height,
            "width": t.convolution.width, "c_out": t.convolution.c_out, "kernel_h": t.convolution.filter_h,
            "kernel_w": t.convolution.filter_w, "stride": t.convolution.stride_h, "padding": t.convolution.pad_h,
            "dilation": 1, "groups": 1, "dtype": "fp32", "layout": "nchw", "pass": CASE_PASS[t.pass_],
        }
        for t in rows
    ]  # fmt: skip
    found = convolutions(cases, [t.time_s for t in rows])
    return replace(found, products=replace(found.products, strided_layer=np.ones(len(found), dtype=bool)))


def fit(rows: Sequence[Timed], gpu: Gpu, neusight: Sequence[Timed]) -> ConvolutionProfile:
    """The profile of some rows, its errors left empty. `neusight`: its rows by Winograd in separate kernels."""
    implicit = [t for t in rows if is_implicit(t) and t.time_s > LONG_S]
    prior = load_step_profile().train
    fitted = fit_convolutions(table(implicit), prior, machine(gpu, Recipe(precision="fp32")), launch_known=True)
    profile = ConvolutionProfile(
        schema_version=SCHEMA_VERSION,
        gpu=gpu.id,
        origin=ORIGIN,
        fitted=FITTED,
        rows=len(rows) + len(neusight),
        values=fitted.values,
        winograd_products=1.0,
        winograd_bandwidth=1.0,
        fused_factor=1.0,
        nearby={key.partition(".")[2]: near for key, near in fitted.nearby.items()},
        held_out={},
    )
    gemm = load_profile(gpu)
    ratios = [
        t.time_s / winograd_time(t.convolution, t.pass_, gpu, gemm, profile, fused=True)[0]
        for t in rows
        if t.algorithm == "WINOGRAD" and t.pass_ != "wgrad" and t.time_s > LONG_S and winograd_applies(t.convolution)
    ]
    factor = float(f"{np.median(ratios):.3g}") if ratios else 1.0
    by_winograd = [t for t in rows if t.algorithm == "WINOGRAD_NONFUSED" and t.time_s > JUDGED_S]
    by_winograd = [t for t in by_winograd if winograd_applies(t.convolution)]
    products, bandwidth = fit_winograd([(gpu, by_winograd), (find_gpu(NEUSIGHT_GPU), neusight)], profile)
    return msgspec.structs.replace(
        profile, winograd_products=products, winograd_bandwidth=bandwidth, fused_factor=factor
    )


def fit_winograd(sources: Sequence[tuple[Gpu, Sequence[Timed]]], profile: ConvolutionProfile) -> tuple[float, float]:
    """Factor of the products and share of the bandwidth with the least mean error, each source counting alike."""
    parts = []
    for gpu, rows in sources:
        gemm = load_profile(gpu)
        found = [winograd_time(t.convolution, t.pass_, gpu, gemm, profile, fused=False) for t in rows]
        parts.append((np.array(found), np.array([t.time_s for t in rows])))

    def loss(products: float, bandwidth: float) -> float:
        errors = [
            np.abs(np.log((products * f[:, 1] + f[:, 2] / bandwidth) / time)).mean() for f, time in parts if len(time)
        ]
        return float(np.mean(errors))

    return min(((p, b) for p in PRODUCTS for b in BANDWIDTHS), key=lambda pair: loss(*pair))


def residuals(rows: Sequence[Timed], gpu: Gpu, profile: ConvolutionProfile) -> Floats:
    """ln(predicted / measured), the algorithm left to the model."""
    times = fp32_convolution_times(
        [(t.convolution, t.pass_) for t in rows], gpu, load_profile(gpu), profile=profile
    ).seconds
    return np.asarray(np.log(times / np.array([t.time_s for t in rows])))


def fit_profile(rows: Sequence[Timed], gpu: Gpu, neusight: Sequence[Timed]) -> ConvolutionProfile:
    """The profile of all rows, with its errors on DeepBench's layers that a fit has not seen."""
    folds = np.array([_fold(t) for t in rows])
    unseen = np.empty(len(rows))
    for fold in range(FOLDS):
        mine = np.flatnonzero(folds == fold)
        known = [t for t, f in zip(rows, folds, strict=True) if f != fold]
        unseen[mine] = residuals([rows[int(i)] for i in mine], gpu, fit(known, gpu, neusight))
    held_out: dict[str, HeldOut] = {}
    for pass_ in PASSES:
        e = unseen[[t.pass_ == pass_ and t.time_s > JUDGED_S for t in rows]]
        size = np.abs(e)
        mean, median, p90, bias = (
            float(f"{x:.4f}") for x in (size.mean(), np.median(size), np.quantile(size, 0.9), e.mean())
        )
        what = f"FP32 {pass_} over {JUDGED_S * 1e3:.1f} ms, layers that the fit has not seen at any batch"
        held_out[pass_] = HeldOut(mean, median, p90, bias, len(e), what)
    return msgspec.structs.replace(fit(rows, gpu, neusight), held_out=held_out)


def _fold(timed: Timed) -> int:
    c = timed.convolution
    sizes = (c.c_in, c.c_out, c.height, c.width, c.filter_h, c.filter_w, c.stride_h, c.pad_h)
    return zlib.crc32("x".join(map(str, sizes)).encode()) % FOLDS


def main(argv: list[str]) -> int:
    """Fit, judge on layers left out, write the profile."""
    parser = argparse.ArgumentParser(prog="python -m bench fit-convolutions", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--output", type=Path, default=PATH)
    options = parser.parse_args(argv)
    neusight = read_neusight(options.data, NEUSIGHT, winograd=True)[::NEUSIGHT_STEP]
    profile = fit_profile(read_convolutions(options.data), find_gpu(GPU), neusight)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, convolution_profile_bytes(profile))
    for pass_, found in profile.held_out.items():
        figures = f"mean {found.mean:.3f}, median {found.median:.3f}, p90 {found.p90:.3f}, bias {found.bias:+.3f}"
        print(f"{pass_}: {figures}, {found.rows} rows")
    return 0
