"""Which products and convolutions a calibration of a minute measures: those that tell most of a card's coefficients.

No time is looked at. Targets are spread evenly, in logarithms, by an additive recurrence over the sizes that layers
have, and each takes the nearest shape that can be measured and is not taken yet: by the suites any shape, snapped to
sizes that layers have; in a replay of public tables (bench.replay) the shapes of their grids. Recurrence: M. Roberts,
"The Unreasonable Effectiveness of Quasirandom Sequences", 2018 (generalised golden ratio); its points fill a box
evenly at every count, so that a run that its budget ends early has spread shapes too.

Standard library and numpy only, as all that runs on a GPU machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bench.case import Case
from bench.suites import SuiteOptions

Floats = NDArray[np.float64]

GEMMS = 100
CONVOLUTIONS = 40  # timed cases: each layer in one pass
SKINNY = ((1, 4096, 4096), (16, 4096, 1024), (8, 1024, 4096), (32, 8192, 2048))  # m, n, k: memory-bound, one wave

# Sizes of layers: rows of a microbatch; features. m crowds towards its large end, where training is.
M_RANGE, NK_RANGE = (128.0, 16384.0), (256.0, 16384.0)
M_CROWDING = 0.7  # exponent on the recurrence
PASSES = ("forward", "dgrad", "wgrad")

# Layers that convolutional networks have: (image side, least and most channels in and out) by the filter and stride.
_SIDES = (7, 14, 28, 56, 112)
_CHANNELS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
_BATCHES = (8, 16, 32, 64, 128, 256)
_FILTERS = ((1, 1), (3, 1), (1, 2), (3, 2), (5, 1))  # side, stride
_MOST_ELEMENTS = 2**28  # of an activation: half a GiB in FP16
_FLOPS = (2e8, 4e11)  # of one pass: over a kernel's launch, under what a minute allows
_STEM = (3, 64, 224, 7, 2)  # c_in, c_out, side, filter, stride


def recurrence(count: int, dimensions: int) -> Floats:
    """`count` points of the additive recurrence in the unit cube, (count, dimensions)."""
    ratio = 2.0
    for _ in range(64):  # the root of x^(d+1) = x + 1
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    return np.asarray((0.5 + np.arange(1, count + 1)[:, None] * steps) % 1)


def gemm_targets(count: int = GEMMS - len(SKINNY)) -> Floats:
    """Wanted m, n, k of `count` products, (count, 3); not yet whole."""
    u = recurrence(count, 3)
    u[:, 0] **= M_CROWDING
    low = np.log2([M_RANGE[0], NK_RANGE[0], NK_RANGE[0]])
    high = np.log2([M_RANGE[1], NK_RANGE[1], NK_RANGE[1]])
    return np.asarray(2 ** (low + u * (high - low)))


def gemm_shapes(count: int = GEMMS) -> list[tuple[int, int, int]]:
    """m, n, k of the products to measure: n and k multiples of 64; m by turns just at a tile's edge, past it, between.

    The edge is where a product pays for a whole further row of tiles: multiples of 256 and one past them.
    """
    shapes = []
    for i, (m, n, k) in enumerate(gemm_targets(count - len(SKINNY))):
        edge = 256 * max(1, round(m / 256))
        rows = (edge, edge + 1, 8 * round(m / 8), edge, 64 * round(m / 64) + 1)[i % 5]
        shapes.append((int(rows), int(64 * round(n / 64)), int(64 * round(k / 64))))
    return [*shapes, *SKINNY]


def nearest_unused(targets: Floats, available: Floats) -> list[int]:
    """For each target in turn the index of the nearest available point that none before has taken. Rows: points."""
    if len(targets) > len(available):
        raise ValueError(f"{len(targets)} targets, {len(available)} points")
    free = np.ones(len(available), dtype=bool)
    found = []
    for target in targets:
        squares = ((available - target) ** 2).sum(axis=1)
        squares[~free] = np.inf
        found.append(int(np.argmin(squares)))
        free[found[-1]] = False
    return found


def spread(points: Floats, count: int) -> list[int]:
    """Indices of `count` of the points that lie as all of them do: the recurrence in the ranks along each axis.

    Ranks, as layers crowd in some sizes and a box would have empty corners. Rows: points.
    """
    count = min(count, len(points))
    ranks = np.argsort(np.argsort(points, axis=0, kind="stable"), axis=0, kind="stable") / max(1, len(points) - 1)
    return nearest_unused(recurrence(count, points.shape[1]), ranks)


def convolution_shapes(count: int = CONVOLUTIONS) -> list[tuple[dict[str, int], str]]:
    """Sizes (batch, c_in, c_out, side, kernel, stride) and pass of the convolutions to measure."""
    pool = []
    for side, (kernel, stride), c_in, c_out, batch in product(_SIDES, _FILTERS, _CHANNELS, _CHANNELS, _BATCHES):
        flops = 2.0 * batch * (side // stride) ** 2 * c_in * c_out * kernel**2
        elements = batch * side * side * max(c_in, c_out)
        usual = 1 / 4 <= c_out / c_in <= 4 and 2**9 <= c_in * side <= 2**15  # wide images are shallow, deep ones small
        if usual and _FLOPS[0] <= flops <= _FLOPS[1] and elements <= _MOST_ELEMENTS:
            pool.append((batch, c_in, c_out, side, kernel, stride))
    table = np.log2(np.array(pool, dtype=float))
    chosen = spread(table, count - 2)
    names = ("batch", "c_in", "c_out", "side", "kernel", "stride")
    found = [(dict(zip(names, pool[i], strict=True)), PASSES[j % 3]) for j, i in enumerate(chosen)]
    c_in, c_out, side, kernel, stride = _STEM
    stem = {"batch": 64, "c_in": c_in, "c_out": c_out, "side": side, "kernel": kernel, "stride": stride}
    return [*found, (stem, "forward"), (stem, "wgrad")]  # nothing needs the gradient of the images


def calibration_cases(suite: str, options: SuiteOptions) -> list[Case]:
    """The cases of the suite "gemm" or "conv" that a calibration measures: FP16, by cuBLAS and cuDNN, cold, NHWC."""
    del options  # the same shapes on every card: their waves differ, and with them what they tell
    if suite == "gemm":
        from bench.suites.gemm import gemm_case

        return [gemm_case(m, n, k) for m, n, k in gemm_shapes()]
    if suite == "conv":
        from bench.shapes import ConvShape
        from bench.suites.conv import conv_case

        found = []
        for s, pass_ in convolution_shapes():
            shape = ConvShape(
                s["c_in"], s["c_out"], s["side"], s["side"], s["kernel"], s["kernel"], s["stride"], s["kernel"] // 2
            )
            found.append(conv_case(shape, s["batch"], pass_=pass_))
        return found
    raise ValueError(f"no calibration of suite {suite!r}")


def replay_gemm(available: Sequence[Sequence[float]] | Floats, count: int = GEMMS) -> list[int]:
    """Indices of the rows m, n, k of a table that stand for the calibration's products: the nearest, in octaves."""
    targets = np.concatenate([gemm_targets(count - len(SKINNY)), np.array(SKINNY, dtype=float)])
    return nearest_unused(np.log2(targets), np.log2(np.asarray(available, dtype=float)))
