"""Time of single FP32 convolutions on CUDA cores, by the algorithm that a library would take.

Three algorithms, of which the fastest is taken where nothing tells which one ran:

- implicit: the implicit GEMM of `advisor.convolution`, in tiles and waves (advisor.step_costs), with shares of the
  peaks fitted to convolutions measured alone, and a correction beside these on a GPU of the same compute capability.
- winograd: F(4x4, 3x3) in separate kernels: transforms to and from 36 products over T = N ceil(P/4) ceil(Q/4) tiles of
  4x4 pixels; m, n, k are T, K, C (fprop), T, C, K (dgrad) or K, C, T (wgrad). The products take what the GEMM model
  says times a factor, as libraries run them in small tiles; the transforms take their traffic at 4 B: input, output and
  filter, and 36 (T C + C K + T K) transformed elements.
- winograd fused: F(2x2, 3x3) in one kernel, fprop and dgrad: 16 products of T = N ceil(P/2) ceil(Q/2). No traffic for
  transforms, but their arithmetic: a factor on the products' time.

The last two are for 3x3 filters at stride 1 and without dilation. Source of the transforms: Lavin and Gray, Fast
Algorithms for Convolutional Neural Networks, arXiv 1509.09308, section 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.convolution import Convolution, Pass
from advisor.decoding import decode_versioned, read_shipped
from advisor.errors import BrokenFileError
from advisor.gemm import gemm_time
from advisor.gpus import Gpu, find_gpu
from advisor.nearby import Nearby
from advisor.profile import GpuProfile
from advisor.recipe import Recipe
from advisor.step_costs import LAYOUTS, Coefficients, Machine, ProductCost, at, coefficients, products_seconds
from advisor.step_ops import PASSES, Products, step_ops
from advisor.step_profile import HeldOut, load_step_profile
from advisor.steptime import machine
from advisor.workload.schema import Affine, Op, Variant

Floats = NDArray[np.float64]
Algorithm = Literal["implicit", "winograd", "winograd fused"]
WINOGRADS: tuple[Algorithm, ...] = ("winograd", "winograd fused")

SCHEMA_VERSION = 1
PATH = Path(__file__).parent / "profiles" / "convolution" / "fp32.json"
MAX_BYTES = 1 << 20
_CURE = "write it anew with `python -m bench fit-convolutions`"
NCHW = LAYOUTS.index("nchw")
LEAST_LOAD = 1e-9  # tiles per SM up to which K is split: never
LEAST_CHANNELS = 16  # below, the transforms outweigh the products: libraries take implicit GEMM
KERNEL_S = 2e-6
"""Least duration of a kernel on the GPU."""


class ConvolutionProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What single FP32 convolutions on one GPU taught."""

    schema_version: int
    gpu: str  # id of the GPU that was measured
    origin: str
    fitted: str  # date, YYYY-MM-DD
    rows: int
    values: dict[str, float]  # coefficients of advisor.step_costs, in place of the step profile's
    winograd_products: float  # time of Winograd's products, in its own small tiles, over what the GEMM model says
    winograd_bandwidth: float  # share of the bandwidth that its transforms reach
    fused_factor: float  # time of fused Winograd over its products'
    nearby: dict[str, Nearby]  # by pass: ln(measured / implicit) beside measured convolutions, on such a GPU
    held_out: dict[str, HeldOut]  # by pass, on layers that the fit has not seen, the algorithm left to the model


@dataclass(frozen=True)
class ConvolutionTimes:
    """Predicted times (s) of convolution passes, kernels alone without gaps between them; arrays of one length."""

    seconds: Floats
    compute_s: Floats  # of the implicit GEMM or the products of Winograd
    traffic_s: Floats
    unquantized_s: Floats  # with whole tiles and waves
    algorithms: tuple[Algorithm, ...]


@lru_cache(maxsize=1)
def load_convolution_profile() -> ConvolutionProfile:
    """Return the shipped profile. Raises BrokenFileError naming the file and the cure."""
    return parse_convolution_profile(read_shipped(PATH, _CURE), str(PATH))


def parse_convolution_profile(content: bytes, name: str) -> ConvolutionProfile:
    """Decode and check a convolution profile. Raises BrokenFileError naming the place and the cure."""
    what = f"convolution profile {name}"
    found = decode_versioned(
        content, ConvolutionProfile, what, version=SCHEMA_VERSION, most_bytes=MAX_BYTES, cure=_CURE
    )
    winograd = {name: getattr(found, name) for name in ("winograd_products", "winograd_bandwidth", "fused_factor")}
    for key, value in {**found.values, **winograd}.items():
        if not math.isfinite(value) or (value <= 0 and not key.endswith("exponent")):
            raise BrokenFileError(f"{what}: {key} is {value}, no positive number; {_CURE}")
    for key, nearby in found.nearby.items():
        if fault := nearby.fault():
            raise BrokenFileError(f"{what}: nearby.{key}: {fault}; {_CURE}")
    return found


def convolution_profile_bytes(profile: ConvolutionProfile) -> bytes:
    """The file of a convolution profile: an array of numbers on one line."""
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    return re.sub(rb'\[[^\[\]{}"]*\]', lambda array: b"".join(array[0].split()), text) + b"\n"


def convolution_op(convolution: Convolution, pass_: Pass, *, precision: str) -> Op:
    """One pass at its own batch size, as a traced workload would have it; operands of 2 bytes in FP16 and BF16."""
    c = convolution
    sizes = {
        "n": c.batch, "c": c.c_in, "h": c.height, "w": c.width, "k": c.c_out, "p": c.out_height, "q": c.out_width,
        "r": c.filter_h, "s": c.filter_w, "stride_h": c.stride_h, "stride_w": c.stride_w, "pad_h": c.pad_h,
        "pad_w": c.pad_w, "dilation_h": c.dilation_h, "dilation_w": c.dilation_w, "groups": c.groups,
    }  # fmt: skip
    dims: dict[str, Affine] = {name: (int(size), 0) for name, size in sizes.items()}
    item = 2 if precision in ("fp16", "bf16") else 4
    x, y, weight = (item * size for size in tensor_sizes(c))
    read, write = {"fprop": (x + weight, y), "dgrad": (y + weight, x), "wgrad": (x + y, weight)}[pass_]
    return Op(
        kind=f"conv_{pass_}",  # type: ignore[arg-type]  # one of the literals, as Pass has them
        name="convolution", phase="forward", dtype="fp16" if item == 2 else "fp32", dims=dims,
        read_bytes=(read, 0), write_bytes=(write, 0), flops=(int(c.flops()), 0),
    )  # fmt: skip


def tensor_sizes(convolution: Convolution) -> tuple[int, int, int]:
    """Elements of input, output and filter."""
    c = convolution
    x = c.batch * c.c_in * c.height * c.width
    y = c.batch * c.c_out * c.out_height * c.out_width
    return int(x), int(y), int(c.c_out * (c.c_in // c.groups) * c.filter_h * c.filter_w)


def winograd_applies(convolution: Convolution) -> bool:
    """Whether a library takes Winograd's transforms for it."""
    c = convolution
    plain = c.filter_h == c.filter_w == 3 and c.stride_h == c.stride_w == c.dilation_h == c.dilation_w == c.groups == 1
    return plain and min(int(c.c_in), int(c.c_out)) >= LEAST_CHANNELS


def winograd_product(convolution: Convolution, pass_: Pass, *, fused: bool = False) -> tuple[int, int, int, int]:
    """m, n, k and number of the products of one pass."""
    side = 2 if fused else 4
    c, k = int(convolution.c_in), int(convolution.c_out)
    # dgrad is a convolution of dy, whose result has the size of x
    height, width = ((convolution.height, convolution.width) if pass_ == "dgrad" else
                     (convolution.out_height, convolution.out_width))  # fmt: skip
    tiles = int(convolution.batch) * -(-int(height) // side) * -(-int(width) // side)
    m, n, depth = {"fprop": (tiles, k, c), "dgrad": (tiles, c, k), "wgrad": (k, c, tiles)}[pass_]
    return m, n, depth, (side + 2) ** 2


def fp32_convolution_times(
    calls: Sequence[tuple[Convolution, Pass]],
    gpu: Gpu,
    gemm: GpuProfile,
    *,
    algorithms: Sequence[Algorithm | None] | None = None,
    profile: ConvolutionProfile | None = None,
) -> ConvolutionTimes:
    """Predict dense FP32 convolutions (one group) in NCHW, as one kernel sequence each.

    `algorithms`: the one that is known to have run; None: the fastest. `gemm`: the GPU's profile of matrix products.
    Raises BadInputError for a GPU without the facts needed.
    """
    profile = profile or load_convolution_profile()
    known = list(algorithms) if algorithms is not None else [None] * len(calls)
    best = implicit_times(calls, gpu, profile)
    chosen: list[Algorithm] = ["implicit"] * len(calls)
    for i, ((convolution, pass_), algorithm) in enumerate(zip(calls, known, strict=True)):
        if algorithm == "implicit" or not (algorithm or winograd_applies(convolution)):
            continue
        for name in WINOGRADS:
            if algorithm not in (None, name) or (name == "winograd fused" and pass_ == "wgrad"):
                continue
            found = winograd_time(convolution, pass_, gpu, gemm, profile, fused=name == "winograd fused")
            if algorithm == name or found[0] < best[0, i]:
                best[:, i] = found
                chosen[i] = name
    seconds, compute, traffic, unquantized = best
    return ConvolutionTimes(seconds, compute, traffic, unquantized, tuple(chosen))


def winograd_time(
    convolution: Convolution, pass_: Pass, gpu: Gpu, gemm: GpuProfile, profile: ConvolutionProfile, *, fused: bool
) -> tuple[float, float, float, float]:
    """Seconds, and of these those of the products, of the transforms, and all with whole tiles and waves."""
    m, n, k, count = winograd_product(convolution, pass_, fused=fused)
    found = gemm_time(_without_split(gemm), gpu, m, n, k, batch=count, precision="fp32", corrected=False)
    products, lost = float(found.time_s) - found.launch_s, float(found.tile_loss_s + found.wave_loss_s)
    if fused:
        f = profile.fused_factor
        return f * products + KERNEL_S, f * products, 0.0, f * (products - lost) + KERNEL_S
    x, y, weight = tensor_sizes(convolution)
    elements = x + y + weight + count * (m * k + k * n + m * n)
    reached = (gpu.memory_bandwidth_bytes_per_s or math.inf) * profile.winograd_bandwidth
    transforms, f = 4 * elements / reached + 3 * KERNEL_S, profile.winograd_products
    return (f * products + transforms + KERNEL_S, f * products, transforms,
            f * (products - lost) + transforms + KERNEL_S)  # fmt: skip


def implicit_times(
    calls: Sequence[tuple[Convolution, Pass]], gpu: Gpu, profile: ConvolutionProfile
) -> NDArray[np.float64]:
    """Rows: seconds, those of the arithmetic, those of the traffic, all with whole tiles and waves; a column a call."""
    if not calls:
        return np.zeros((4, 0))
    ops = step_ops(implicit_variant(calls))
    facts = machine(gpu, Recipe(precision="fp32"))
    cost = implicit_cost(ops.products, at(ops.bytes_, 1.0), profile.values, facts)
    found = np.stack([a[:, 0] for a in (cost.seconds, cost.compute_s, cost.traffic_s, cost.unquantized_s)])
    if find_gpu(profile.gpu).compute_capability == gpu.compute_capability:
        factor = np.exp(log_corrections(calls, ops.products, profile.nearby))
        found[:, :] *= factor
    return found


def implicit_variant(calls: Sequence[tuple[Convolution, Pass]]) -> Variant:
    """The calls as a step of FP32 operations in NCHW."""
    ops = tuple(convolution_op(convolution, pass_, precision="fp32") for convolution, pass_ in calls)
    return Variant("train", "fp32", "nchw", "none", ops, ())


def implicit_cost(products: Products, bytes_: Floats, values: dict[str, float], facts: Machine) -> ProductCost:
    """Implicit GEMM alone: the step model's formula without its factor for Winograd's algorithm."""
    products = replace(products, strided_layer=np.ones_like(products.strided_layer))
    return products_seconds(products, bytes_, 1.0, NCHW, implicit_coefficients(values), facts)


def implicit_coefficients(values: dict[str, float]) -> Coefficients:
    """The step profile's coefficients with those that single convolutions taught."""
    return coefficients({**load_step_profile().train, **values})


def log_corrections(calls: Sequence[tuple[Convolution, Pass]], products: Products, nearby: dict[str, Nearby]) -> Floats:
    """ln(measured / implicit) beside measured convolutions; 0 for passes that have none."""
    sizes = {name: at(line, 1.0)[:, 0] for name, line in (("m", products.m), ("n", products.n), ("k", products.k))}
    sizes["side"] = np.array([math.sqrt(int(c.out_height) * int(c.out_width)) for c, _ in calls])
    found = np.zeros(len(calls))
    for pass_, points in nearby.items():
        mine = np.flatnonzero(products.kind == PASSES.index(pass_))
        found[mine] = points.log_correction({name: size[mine] for name, size in sizes.items()})
    return found


def _without_split(profile: GpuProfile) -> GpuProfile:
    """The profile for batched products, whose contraction no library splits."""
    models = dict(profile.gemm)
    if "fp32" in models:
        single = msgspec.structs.replace(models["fp32"].coefficients, most_split_load=LEAST_LOAD)
        models["fp32"] = msgspec.structs.replace(models["fp32"], coefficients=single)
    return msgspec.structs.replace(profile, gemm=models)
