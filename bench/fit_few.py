"""A GEMM model from a few products (a calibration's hundred): a fit held by priors, then what neighbours can tell.

The physical form has some 25 coefficients, which a hundred products settle where they can and priors where they
cannot. A profile of a card with the same kind of SM tells more than the field's middle: its coefficients are the prior
then, and its local correction is taken over by the share of it that the new measurements bear out. What is left is
smoothed between the measured products alone and fades away from them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from advisor.gemm import local_correction
from advisor.gemm.correction import LIMIT, log_correction
from advisor.gpus import Gpu, find_gpu
from advisor.nearby import Nearby, distances
from advisor.profile import Error, GemmCoefficients, GemmCorrection, GemmModel
from bench.fit_gemm import FINE_TILES, PRIOR_WEIGHT, TILE_SIGMA, TILES_9, Timings, fit_coefficients, physical_times
from bench.gemm_data import LEAST_M, LEAST_NK, LEAST_S

Floats = NDArray[np.float64]

FOLDS = 5
STEPS = 20
MOST_SPLIT_LOAD = 12.0  # tiles per SM; A100 and RTX PRO 6000 split products of more than four
# Weight of all priors against the mean error of the rows, times their number. Two residuals of 0.1 speak as loudly as
# a prior missed by its width; with a model of the same kind of SM as prior it takes ten times as many.
PRIOR_ROWS, KIN_PRIOR_ROWS = 0.2, 2.0
UNJUDGED_WEIGHT = 0.3  # of rows that are launch-bound or skinny: few steps are made of them
SHARE_RIDGE = 0.05  # of the sum of squares: as if that much of a borrowed correction had not been seen again


# How residuals hang together between measured products: octaves along m, n, k, and the variance that no neighbour
# shares over the shared one. Which of them holds for a card is told by leaving out each product in turn.
SMOOTHNESS = tuple(
    (octaves, noise) for octaves in ((1.0, 1.0, 2.0), (2.0, 2.0, 3.0), (4.0, 4.0, 4.0)) for noise in (0.5, 1.0, 3.0)
)
MOST_POINTS = 1000  # of a correction: more cost seconds, and lie closer than layers do
CLIP = 0.4  # no single residual counts for more
WORTH = 0.98  # of the error left out: a correction that brings less is none


@dataclass(frozen=True)
class FewFit:
    """What a few rows gave: a model's parts."""

    coefficients: GemmCoefficients
    correction: GemmCorrection | None
    nearby: Nearby | None


def is_kin(gpu: Gpu, model: GemmModel) -> bool:
    """Whether a model was fitted on a GPU of the same kind of SM: libraries run the same kernels on both."""
    return find_gpu(model.gpu).compute_capability == gpu.compute_capability


def fit_few(rows: Timings, gpu: Gpu, donor: GemmModel | None, *, precision: str = "fp16") -> FewFit:
    """Fit a few rows of one GPU. `donor`: the nearest model that is not fitted to these rows."""
    rows = replace(rows, weight=rows.weight * np.where(judged(rows), 1.0, UNJUDGED_WEIGHT))
    kin = donor if donor is not None and is_kin(gpu, donor) else None
    fine = precision != "fp32" and gpu.compute_capability[0] in (9, 10)
    menu = FINE_TILES if fine else None
    tile_sigma = TILE_SIGMA * (len(TILES_9) / len(FINE_TILES)) ** 0.5 if fine else TILE_SIGMA  # all together alike
    split_load = MOST_SPLIT_LOAD
    borrowed = np.zeros(len(rows))
    if kin is not None:
        tile_sigma = TILE_SIGMA
        menu = tuple((tile.m, tile.n) for tile in kin.coefficients.tiles)  # its correction belongs to its tiles
        split_load = kin.coefficients.most_split_load
        if kin.correction is not None:
            borrowed = log_correction(kin.correction, rows.m, rows.n, rows.k)
    share = 0.7 if borrowed.any() else 0.0
    for _ in range(2 if share else 1):
        physical_rows = Timings(rows.m, rows.n, rows.k, rows.time_s / np.exp(share * borrowed), rows.weight)
        coefficients = fit_coefficients(
            physical_rows,
            gpu,
            precision=precision,
            menu=menu,
            steps=STEPS,
            prior=None if kin is None else kin.coefficients,
            prior_weight=max(PRIOR_WEIGHT, (PRIOR_ROWS if kin is None else KIN_PRIOR_ROWS) / len(rows)),
            most_split_load=split_load,
            tile_sigma=tile_sigma,
        )
        residual = np.log(rows.time_s / physical_times(coefficients, gpu, precision, rows))
        if share:
            share = borne_out(borrowed, residual)
    correction = None if kin is None or not share else scaled(kin.correction, share)
    if correction is not None:
        residual = residual - log_correction(correction, rows.m, rows.n, rows.k)
    return FewFit(
        coefficients, correction, smooth_points(np.column_stack([rows.m, rows.n, rows.k]), residual, ("m", "n", "k"))
    )


def judged(rows: Timings) -> NDArray[np.bool_]:
    """Which rows are of the kind that steps are made of: neither skinny nor launch-bound."""
    wide = (rows.m >= LEAST_M) & (rows.n >= LEAST_NK) & (rows.k >= LEAST_NK)
    return np.asarray(wide & (rows.time_s > LEAST_S))


def borne_out(borrowed: Floats, residual: Floats) -> float:
    """The share of a borrowed correction that the residuals show again, from 0 to 1: ridge regression."""
    limited = np.clip(residual, -LIMIT, LIMIT)
    squares = float((borrowed**2).sum())
    return float(np.clip((borrowed * limited).sum() / (squares * (1 + SHARE_RIDGE) + 1e-9), 0.0, 1.0))


def scaled(correction: GemmCorrection | None, share: float) -> GemmCorrection | None:
    """A correction's logarithms times a share."""
    if correction is None:
        return None
    found = tuple(int(v) for v in np.rint(share * np.array(correction.log_permille)))
    return GemmCorrection(correction.n, correction.k, correction.m, correction.fade_octaves, found)


def smooth_points(
    points: Floats,
    residual: Floats,
    axes: tuple[str, ...],
    choices: Sequence[tuple[tuple[float, ...], float]] = SMOOTHNESS,
) -> Nearby | None:
    """The correction beside measured points, at most MOST_POINTS of them, as smooth as leaving each out says.

    Weights (K + noise I)^-1 residual. The residual left at a point by all others is [K^-1 r]_i / [K^-1]_ii (Rasmussen
    and Williams, 2006, equation 5.12). None: no smoothness leaves less than WORTH of what no correction leaves.
    """
    taken = np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).astype(int))
    points, limited = points[taken], np.clip(residual[taken], -CLIP, CLIP)
    best, chosen = WORTH * float(np.abs(limited).mean()), None
    for octaves, noise in choices:
        scaled_points = np.log2(points) / np.array(octaves)
        inverse = np.linalg.inv(np.exp(-distances(scaled_points, scaled_points)) + noise * np.eye(len(points)))
        weights = inverse @ limited
        left_out = float(np.abs(weights / np.diag(inverse)).mean())
        if left_out < best:
            best, chosen = left_out, (octaves, weights)
    if chosen is None:
        return None
    return Nearby(
        axes=axes,
        octaves=chosen[0],
        limit=LIMIT,
        points=tuple(tuple(float(x) for x in point) for point in points),
        weights=tuple(float(f"{w:.4g}") for w in chosen[1]),
    )


def predict_few(fit: FewFit, gpu: Gpu, rows: Timings, precision: str = "fp16") -> Floats:
    """Predicted seconds of rows, corrections included, as `advisor.gemm.gemm_time` has them."""
    model = GemmModel(
        gpu.id, "measured", "", 0, "", fit.coefficients, Error(0, 0, 0, 0, ""), fit.correction, nearby=fit.nearby
    )
    return np.asarray(
        physical_times(fit.coefficients, gpu, precision, rows) * np.exp(local_correction(model, rows.m, rows.n, rows.k))
    )


def folds_of(rows: Timings) -> NDArray[np.int64]:
    """Fold of each row, by its (n, k): crc32 of "NxK", modulo FOLDS, as for the public tables."""
    return np.array([zlib.crc32(f"{n:.0f}x{k:.0f}".encode()) % FOLDS for n, k in zip(rows.n, rows.k, strict=True)])


def held_out_few(rows: Timings, gpu: Gpu, donor: GemmModel | None, *, precision: str = "fp16") -> Floats:
    """ln(predicted / measured) of every row by a fit that has not seen its (n, k)."""
    folds, found = folds_of(rows), np.empty(len(rows))
    for fold in np.unique(folds):
        fit = fit_few(rows.where(folds != fold), gpu, donor, precision=precision)
        unseen = rows.where(folds == fold)
        found[folds == fold] = np.log(predict_few(fit, gpu, unseen, precision) / unseen.time_s)
    return found
