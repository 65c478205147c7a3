"""GEMM timings to coefficients: the physical form by robust least squares, what it leaves by smoothing on its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.gemm import machine_of, operand_rate
from advisor.gemm.engines import compiled_fastest_cut
from advisor.gemm.physics import MOST_SPLIT_LOAD
from advisor.gpus import Gpu
from advisor.profile import GemmCoefficients, GemmCorrection, Tile

Floats = NDArray[np.float64]

# coefficient: where the fit starts (a mid-range value of the field, no GPU's own), and how far, in logarithms, it
# may reasonably be from there: the weak prior that keeps what the data cannot tell at a sensible value
START: dict[str, tuple[float, float]] = {
    "efficiency": (1.2, 0.3),
    "dram_efficiency": (0.83, 0.2),
    "l2_bytes_per_clock_per_sm": (60.0, 0.7),
    "launch_s": (1.5e-6, 0.5),
    "dram_latency_s": (1e-6, 1.0),
    "prologue_cycles": (2000.0, 1.0),
    "epilogue_cycles": (2000.0, 1.0),
    "feed_cycles": (0.025, 1.0),
    "wave_hardness": (0.5, 1.0),
    "reread": (0.3, 1.0),
    "split_fixed_s": (2e-6, 1.0),
    "split_traffic": (0.3, 1.0),
    "throttle": (0.05, 1.0),
    "throttle_s": (1e-3, 1.5),
}
AT_MOST = {"wave_hardness": 1.0, "dram_efficiency": 1.0}
TILE_SIGMA = 0.1
TILES_8 = (
    (16, 64), (32, 64), (32, 128), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64),
    (128, 256), (256, 128),
)  # fmt: skip
TILES_9 = (
    (16, 64), (32, 64), (64, 32), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 192),
    (192, 128), (128, 256), (256, 128), (256, 192), (256, 256),
)  # fmt: skip
# Hopper's and later kernels come in many widths along m (cuBLAS's nvjet in steps of 8), cut to fit the waves.
FINE_TILES = (
    *((m, n) for n in (64, 128, 256) for m in range(16, 257, 16) if m * n <= 192 * 256),
    (192, 192), (256, 192),
)  # fmt: skip
SIMT_TILES = ((32, 32), (32, 64), (64, 32), (32, 128), (128, 32), (64, 64), (64, 128), (128, 64), (128, 128))
FEED_AT_FLOP = 2048  # FLOP per clock and SM for which feed_cycles starts where it does

PRIOR_WEIGHT = 2e-4  # of one prior against the mean error of all rows
LEAST_COEFFICIENT = 1e-12  # stands for zero where a logarithm is taken
SMALL_RESIDUAL = 0.02  # below it the robust (absolute) loss turns quadratic: the noise between repeats


@dataclass(frozen=True)
class Timings:
    """Rows of one GPU: sizes (elements), measured time (s), and the weight of each in the fit."""

    m: Floats
    n: Floats
    k: Floats
    time_s: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.m)

    def where(self, keep: NDArray[np.bool_]) -> Timings:
        """The rows for which `keep` holds."""
        return Timings(*(getattr(self, name)[keep] for name in ("m", "n", "k", "time_s", "weight")))


def tile_menu(gpu: Gpu) -> tuple[tuple[int, int], ...]:
    """Output tiles that cuBLAS is known to choose from on this architecture."""
    return TILES_9 if gpu.compute_capability[0] in (9, 10) else TILES_8


def physical_times(coefficients: GemmCoefficients, gpu: Gpu, precision: str, rows: Timings) -> Floats:
    """Predicted seconds of every row by the physical form alone."""
    machine, tensor_cores = machine_of(coefficients, gpu, precision)
    rate = operand_rate(rows.n, rows.k, machine.element_bytes) if tensor_cores else np.ones(len(rows))
    tiles = np.array([(t.m, t.n, t.rate) for t in coefficients.tiles], dtype=np.float64)
    return compiled_fastest_cut(rows.m, rows.n, rows.k, np.ones(len(rows)), rate, tiles, machine)[0] + machine.launch_s


def fit_coefficients(
    rows: Timings,
    gpu: Gpu,
    *,
    precision: str = "fp16",
    menu: tuple[tuple[int, int], ...] | None = None,
    steps: int = 25,
    prior: GemmCoefficients | None = None,
    prior_weight: float = PRIOR_WEIGHT,
    most_split_load: float = MOST_SPLIT_LOAD,
    tile_sigma: float = TILE_SIGMA,
) -> GemmCoefficients:
    """Fit the physical form to the rows: least absolute ln(predicted / measured), by Levenberg-Marquardt.

    Deterministic. The result depends on the rows and the GPU's facts alone; and on `prior`, where coefficients of
    another fit rather than the field's middle are what the rows have to speak against.
    """
    menu = menu or (SIMT_TILES if precision == "fp32" else tile_menu(gpu))
    peak = getattr(gpu, f"{precision}_flop_per_clock_per_sm")
    start = np.log(np.array([value for value, _ in START.values()] + [1.0] * len(menu)))
    sigma = np.array([spread for _, spread in START.values()] + [tile_sigma] * len(menu))
    start[list(START).index("feed_cycles")] += np.log(FEED_AT_FLOP / peak)
    if precision == "fp32":  # CUDA cores reach nearly their peak in any tile
        start[list(START).index("efficiency")] = np.log(0.9)
    if prior is not None:
        rates = {(tile.m, tile.n): tile.rate for tile in prior.tiles}
        known = [max(getattr(prior, name), LEAST_COEFFICIENT) for name in START]
        start = np.log(np.array(known + [rates.get(shape, 1.0) for shape in menu]))
    high = np.full(len(start), np.inf)
    for i, name in enumerate(START):
        high[i] = np.log(AT_MOST.get(name, np.inf))

    def unpack(x: Floats) -> GemmCoefficients:
        values = {name: float(np.exp(x[i])) for i, name in enumerate(START)}
        tiles = tuple(Tile(a, b, float(np.exp(r))) for (a, b), r in zip(menu, x[len(START) :], strict=True))
        return GemmCoefficients(tiles=tiles, most_split_load=most_split_load, **values)

    measured, total = np.log(rows.time_s), rows.weight.sum()

    def predict(x: Floats) -> Floats:
        return np.log(physical_times(unpack(x), gpu, precision, rows))

    def loss(residual: Floats, x: Floats) -> float:
        size = np.abs(residual)
        huber = np.where(size < SMALL_RESIDUAL, size**2 / (2 * SMALL_RESIDUAL) + SMALL_RESIDUAL / 2, size)
        return float((rows.weight * huber).sum() / total + prior_weight / 2 * (((x - start) / sigma) ** 2).sum())

    x = levenberg_marquardt(predict, measured, loss, start, sigma, high, rows.weight / total, steps, prior_weight)
    return unpack(x)


def levenberg_marquardt(
    predict: Callable[[Floats], Floats], measured: Floats, loss: Callable[[Floats, Floats], float],
    start: Floats, sigma: Floats, high: Floats, weight: Floats, steps: int, prior_weight: float = PRIOR_WEIGHT,
) -> Floats:  # fmt: skip
    """Minimise a robust loss with priors: reweighted least squares, damped; derivatives by central differences.

    The differences are wide (a thirtieth of a prior's width): the model has corners where the best tile changes.
    """
    x: Floats = start.copy()
    damping = 1e-2
    residual = measured - predict(x)
    value = loss(residual, x)
    for _ in range(steps):
        slopes = np.empty((len(measured), len(x)))
        for j in range(len(x)):
            h = np.zeros(len(x))
            h[j] = 0.03 * max(sigma[j], 0.1)
            slopes[:, j] = (predict(x + h) - predict(x - h)) / (2 * h[j])
        w = weight / np.maximum(np.abs(residual), SMALL_RESIDUAL)
        matrix = (slopes * w[:, None]).T @ slopes + np.diag(prior_weight / sigma**2)
        gradient = (slopes * w[:, None]).T @ residual - prior_weight * (x - start) / sigma**2
        for _ in range(6):
            step = np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), gradient)
            trial: Floats = np.minimum(x + np.clip(step, -sigma, sigma), high)
            trial_residual = measured - predict(trial)
            trial_value = loss(trial_residual, trial)
            if trial_value < value:
                break
            damping *= 4
        else:
            return x
        gain = value - trial_value
        x, residual, value, damping = trial, trial_residual, trial_value, max(damping / 3, 1e-5)
        if gain < 2e-5:
            return x
    return x


@dataclass(frozen=True)
class Smoothing:
    """How residuals of the physical form hang together. Variances are relative to that of a neighbourhood of pairs.

    Two parts: one that varies slowly with m, alike in near pairs, and in all pairs of one n or one k; and one that
    each m has for itself, as the steps from wave to wave have. A step stays where it is as k changes, and moves with
    n: so the second part carries far along k and hardly along n.
    """

    pair_octaves: float = 1.0
    line_variance: float = 0.3  # of what all pairs of one n, or one k, share
    m_octaves: float = 4.0
    step_variance: float = 1.0
    step_octaves_n: float = 0.2
    step_octaves_k: float = 3.0
    noise: float = 0.3
    clip: float = 0.4  # no single residual counts for more
    fade_octaves: float = 1.0  # off the grid's lines


def fit_correction(m: Floats, pairs: Floats, residual: Floats, how: Smoothing | None = None) -> GemmCorrection:
    """Smooth ln(measured / physical), an array [m, pair], and tabulate it on the grid of all n, k and m.

    The posterior mean of a Gaussian process with covariance slow(m, m') near(pair, pair') + [m = m'] step(pair, pair').
    In the eigenvectors of `slow` it falls apart into one small system per eigenvalue, so that no approximation is
    needed. pairs: rows of n, k.
    """
    how = how or Smoothing()
    grid_n, grid_k = np.unique(pairs[:, 0]), np.unique(pairs[:, 1])
    nodes = np.array([(n, k) for n in grid_n for k in grid_k])
    values, vectors = np.linalg.eigh(_decay(m, m, how.m_octaves))
    data = vectors.T @ np.clip(residual, -how.clip, how.clip)
    near, near_nodes = _near(pairs, pairs, how), _near(pairs, nodes, how)
    step, step_nodes = _step(pairs, pairs, how) + how.noise * np.eye(len(pairs)), _step(pairs, nodes, how)
    smooth = vectors @ np.array(
        [
            np.linalg.solve(value * near + step, row) @ (value * near_nodes + step_nodes)
            for value, row in zip(values, data, strict=True)
        ]
    )  # [m, node]
    return GemmCorrection(
        n=tuple(int(n) for n in grid_n),
        k=tuple(int(k) for k in grid_k),
        m=tuple(int(x) for x in m),
        fade_octaves=how.fade_octaves,
        log_permille=tuple(int(v) for v in np.rint(1000 * smooth.T.ravel())),
    )


def _near(a: Floats, b: Floats, how: Smoothing) -> Floats:
    n, k = _decay(a[:, 0], b[:, 0], how.pair_octaves), _decay(a[:, 1], b[:, 1], how.pair_octaves)
    return np.asarray(n * k + how.line_variance * (n + k))


def _step(a: Floats, b: Floats, how: Smoothing) -> Floats:
    n, k = _decay(a[:, 0], b[:, 0], how.step_octaves_n), _decay(a[:, 1], b[:, 1], how.step_octaves_k)
    return np.asarray(how.step_variance * n * k)


def _decay(a: Floats, b: Floats, octaves: float) -> Any:
    return np.exp(-np.abs(np.log2(a)[:, None] - np.log2(b)[None]) / octaves)
