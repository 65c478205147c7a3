"""Measured convolutions to shares of a card's peaks: the step model's own formula, fitted pass by pass.

Priors are the coefficients of the step profile that the card would borrow, so that what a few convolutions do not
tell stays as it was. What the formula leaves is smoothed between measured convolutions, by layout and pass.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.convolution import Convolution, Pass
from advisor.convolution_time import convolution_op as traced_convolution_op
from advisor.errors import BadInputError
from advisor.nearby import Nearby
from advisor.step_costs import LAYOUTS, Machine, at, coefficients, products_seconds
from advisor.step_ops import PASSES, Products, step_ops
from advisor.workload.schema import Op, Variant
from bench.fit_few import PRIOR_ROWS, smooth_points
from bench.fit_gemm import levenberg_marquardt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = dict[str, float]

PASS_NAMES: dict[str, Pass] = {"forward": "fprop", "dgrad": "dgrad", "wgrad": "wgrad"}  # of a case: of the step model
FOLDS = 5
STEPS = 30
# As bench.fit_few.SMOOTHNESS, along m, n, k and the image's side: which algorithm cuDNN takes depends on each.
SMOOTHNESS = tuple(
    ((length, length, length, side), noise)
    for length in (1.5, 3.0, 6.0) for side in (1.5, 4.0) for noise in (0.3, 1.0, 3.0)
)  # fmt: skip
LEAST_IN_PASS = 8  # convolutions of a pass from which what its formula leaves is smoothed
# How far, in logarithms (exponents: as they are), a card's own coefficient may reasonably be from a borrowed one:
# single convolutions of a V100 are a factor of two from what whole steps on an RTX 3090 say.
SPREAD = {
    "rate": 0.6, "bandwidth": 0.3, "spatial": 0.4, "stem": 0.7, "unaligned": 0.5, "strided": 0.5,
    "padding_copies": 0.8, "conversion": 0.7, "prologue_k": 0.7, "tile_exponent": 0.2, "kernel_s": 0.7,
}  # fmt: skip
# CUDA cores reach nearly their peak in tiles of any size (as in bench.fit_gemm); Tensor Cores need large ones.
CUDA_CORE_TILE_EXPONENT, CUDA_CORE_SPREAD = 0.1, 0.1


@dataclass(frozen=True)
class Convolutions:
    """Measured dense convolutions of one precision, one pass of one layer a row."""

    products: Products
    bytes_: Floats  # (rows, 1)
    layout: Ints  # (rows, 1): index into LAYOUTS
    time_s: Floats
    side: Floats  # of the output image: the geometric mean of height and width
    layer: NDArray[np.str_]  # equal for the passes of one layer at any batch

    def __len__(self) -> int:
        return len(self.time_s)

    def where(self, keep: NDArray[np.bool_]) -> Convolutions:
        """The rows for which `keep` holds."""
        names = [field.name for field in dataclasses.fields(Products)]
        products = Products(**{name: getattr(self.products, name)[keep] for name in names})
        return Convolutions(
            products, self.bytes_[keep], self.layout[keep], self.time_s[keep], self.side[keep], self.layer[keep]
        )

    @property
    def sizes(self) -> dict[str, Floats]:
        """m, n, k of the implicit products, and the side of the image: what neighbours are near in."""
        p = self.products
        found = {name: at(line, 1.0)[:, 0] for name, line in (("m", p.m), ("n", p.n), ("k", p.k))}
        return {**found, "side": self.side}


@dataclass(frozen=True)
class ConvolutionFit:
    """Fitted coefficients by name, and the corrections beside measured convolutions by layout and pass."""

    values: Values
    nearby: dict[str, Nearby]


def convolution_op(params: Mapping[str, Any]) -> Op:
    """The operation, as a traced step would have it, of a case. Raises BadInputError for no convolution."""
    shape = Convolution(
        batch=params["batch"], c_in=params["c_in"], height=params["height"], width=params["width"],
        c_out=params["c_out"], filter_h=params["kernel_h"], filter_w=params["kernel_w"],
        stride_h=params["stride"], stride_w=params["stride"], pad_h=params["padding"], pad_w=params["padding"],
        dilation_h=params["dilation"], dilation_w=params["dilation"], groups=params["groups"],
    )  # fmt: skip
    return traced_convolution_op(shape, PASS_NAMES[params["pass"]], precision=params["dtype"])


def image_side(params: Mapping[str, Any]) -> float:
    """Geometric mean of the height and the width of a square-strided convolution's output."""
    height, width = (
        (params[size] + 2 * params["padding"] - params["dilation"] * (params[taps] - 1) - 1) // params["stride"] + 1
        for size, taps in (("height", "kernel_h"), ("width", "kernel_w"))
    )
    return float(np.sqrt(height * width))


def layer_name(params: Mapping[str, Any]) -> str:
    """What the passes and batches of one layer have in common: its folds keep them together."""
    names = ("c_in", "c_out", "height", "width", "kernel_h", "kernel_w", "stride", "padding")
    return "x".join(str(params[name]) for name in names)


def convolutions(cases: Sequence[Mapping[str, Any]], times_s: Sequence[float]) -> Convolutions:
    """Dense convolutions (groups 1) as a table; cases by their parameters."""
    tables, order = [], []
    for layout in LAYOUTS:
        mine = [i for i, params in enumerate(cases) if params["layout"] == layout]
        variant = Variant("train", "amp", layout, "none", tuple(convolution_op(cases[i]) for i in mine), ())
        ops = step_ops(variant)
        tables.append((ops.products, at(ops.bytes_, 1.0)))
        order += mine
    joined = {
        field.name: np.concatenate([getattr(products, field.name) for products, _ in tables])
        for field in dataclasses.fields(Products)
    }
    if len(joined["kind"]) != len(cases):
        raise BadInputError("grouped convolutions are no dense ones: leave them out of this fit")
    return Convolutions(
        Products(**joined),
        np.concatenate([bytes_ for _, bytes_ in tables]),
        np.array([LAYOUTS.index(cases[i]["layout"]) for i in order])[:, None],
        np.array([times_s[i] for i in order]),
        np.array([image_side(cases[i]) for i in order]),
        np.array([layer_name(cases[i]) for i in order]),
    )


def predicted(rows: Convolutions, values: Mapping[str, float], machine: Machine) -> Floats:
    """Seconds of every row by the formula alone, the least duration of a kernel included."""
    cost = products_seconds(rows.products, rows.bytes_, 1.0, rows.layout, coefficients(values), machine)
    return np.asarray(cost.seconds[:, 0] + values["kernel_s"])


def corrected(rows: Convolutions, fit: ConvolutionFit, prior: Mapping[str, float], machine: Machine) -> Floats:
    """Seconds of every row, corrections included."""
    time = predicted(rows, {**prior, **fit.values}, machine)
    for key, nearby in fit.nearby.items():
        mine = _of(rows, key)
        time[mine] *= np.exp(nearby.log_correction({name: sizes[mine] for name, sizes in rows.sizes.items()}))
    return time


def _of(rows: Convolutions, key: str) -> NDArray[np.bool_]:
    layout, _, pass_ = key.partition(".")
    return np.asarray((rows.layout[:, 0] == LAYOUTS.index(layout)) & (rows.products.kind == PASSES.index(pass_)))


def fitted_names(rows: Convolutions, *, launch_known: bool) -> list[str]:
    """The coefficients that some of the rows depend on; the least duration of a kernel unless it was measured."""
    p, names = rows.products, ["conv.prologue_k", "tile_exponent", *([] if launch_known else ["kernel_s"])]
    for i in np.unique(rows.layout):
        layout, mine = LAYOUTS[i], rows.layout[:, 0] == i
        for j, pass_ in enumerate(PASSES):
            of_pass = mine & (p.kind == j)
            for name, when in (
                (f"conv_{pass_}.rate", of_pass),
                (f"conv_{pass_}.bandwidth", of_pass),
                (f"spatial.{pass_}", of_pass & (p.filter_taps > 1)),
                (f"stem.{pass_}", of_pass & p.stem & p.half),
                (f"conv_{pass_}.unaligned", of_pass & p.unaligned & p.half),
            ):
                if when.any():
                    names.append(f"{layout}.{name}")
        if (mine & p.strided).any():
            names.append(f"{layout}.strided")
        if (mine & p.unaligned).any():
            names.append(f"{layout}.padding_copies")
        if layout == "nchw" and (mine & p.half).any():
            names.append("nchw.conversion")
    return names


def fit_convolutions(
    rows: Convolutions, prior: Mapping[str, float], machine: Machine, *, launch_known: bool = False
) -> ConvolutionFit:
    """Fit the coefficients that the rows depend on, around the prior's; then smooth what is left."""
    names = fitted_names(rows, launch_known=launch_known)
    linear = np.array([name.endswith("exponent") for name in names])
    centre = np.array([prior[name] if e else np.log(prior[name]) for name, e in zip(names, linear, strict=True)])
    sigma = np.array([SPREAD[_kind(name)] for name in names])
    if not rows.products.half.any():
        sigma[names.index("tile_exponent")] = CUDA_CORE_SPREAD
    weight = PRIOR_ROWS / len(rows)

    def values(x: Floats) -> Values:
        return {n: float(v if e else np.exp(v)) for n, v, e in zip(names, x, linear, strict=True)}

    def predict(x: Floats) -> Floats:
        return np.log(predicted(rows, {**prior, **values(x)}, machine))

    def loss(residual: Floats, x: Floats) -> float:
        return float(np.abs(residual).mean() + weight / 2 * (((x - centre) / sigma) ** 2).sum())

    x = levenberg_marquardt(
        predict, np.log(rows.time_s), loss, centre, sigma, np.full(len(names), np.inf),
        np.full(len(rows), 1 / len(rows)), STEPS, weight,
    )  # fmt: skip
    found = {name: float(f"{value:.5g}") for name, value in values(x).items()}
    residual = np.log(rows.time_s / predicted(rows, {**prior, **found}, machine))
    nearby = {}
    for layout in LAYOUTS:
        for pass_ in PASSES:
            mine = _of(rows, f"{layout}.{pass_}")
            smooth = None
            if mine.sum() >= LEAST_IN_PASS:
                points = np.column_stack([sizes[mine] for sizes in rows.sizes.values()])
                smooth = smooth_points(points, residual[mine], tuple(rows.sizes), SMOOTHNESS)
            if smooth is not None:
                nearby[f"{layout}.{pass_}"] = smooth
    return ConvolutionFit(found, nearby)


def _kind(name: str) -> str:
    """The key of SPREAD for a coefficient: the part of its name that is neither layout nor pass."""
    return next(part for part in reversed(name.split(".")) if part in SPREAD)


def held_out_convolutions(
    rows: Convolutions, prior: Mapping[str, float], machine: Machine, *, launch_known: bool = False
) -> Floats:
    """ln(predicted / measured) of every row by a fit that has not seen its layer."""
    folds = np.array([zlib.crc32(str(name).encode()) % FOLDS for name in rows.layer])
    found = np.empty(len(rows))
    for fold in np.unique(folds):
        fit = fit_convolutions(rows.where(folds != fold), prior, machine, launch_known=launch_known)
        unseen = rows.where(folds == fold)
        found[folds == fold] = np.log(corrected(unseen, fit, prior, machine) / unseen.time_s)
    return found
