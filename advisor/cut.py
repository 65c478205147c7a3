"""Cutting a global batch into per-GPU batch x accumulation x GPUs. The global batch stays what the user asked for.

Arrays are over 1..n samples per GPU: `step_time_s[i]` is a step of i+1 samples, of which one optimizer update takes
`update_time_s`. A global step of k micro-steps updates once: k * (step - update) + update. Gradient exchange between
GPUs is not in the times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor import choice
from advisor.choice import Bools, Floats, Ints
from advisor.errors import BadInputError, DoesNotFitError
from advisor.units import counted

# Cuts whose predicted time per global step differs by no more than this are tied: the one that needs less memory wins.
TIE = 0.005
# BatchNorm's statistics get noisy under this many samples per GPU (Wu & He, arXiv:1803.08494, figure 1).
BATCH_NORM_SAMPLES = 32


@dataclass(frozen=True)
class Division:
    """A global batch as `batch` x `accumulation` x `gpus` samples, nothing predicted for it."""

    global_batch: int
    gpus: int
    batch: int
    accumulation: int

    def __str__(self) -> str:
        """As printed: "64 per GPU x 2 accumulation x 8 GPUs = 1,024"."""
        return f"{self.factors} = {self.global_batch:,}"

    @property
    def factors(self) -> str:
        """As printed: "64 per GPU x 2 accumulation x 8 GPUs"."""
        return f"{self.batch:,} per GPU x {self.accumulation:,} accumulation x {counted(self.gpus, 'GPU')}"


@dataclass(frozen=True)
class Cut(Division):
    """One way to reach a global batch: `batch` x `accumulation` x `gpus` samples per optimizer step."""

    time_s: float  # per optimizer step, communication between GPUs left out
    samples_per_s: float  # over all GPUs


@dataclass(frozen=True)
class NearestCuts:
    """The cuts of the global batch asked for, or of the nearest one that the GPUs can share and that fits."""

    asked: int
    cuts: tuple[Cut, ...]  # best first; all of one global batch
    others: tuple[int, ...]  # the nearest global batch on the other side of the one asked; empty where that is exact

    @property
    def difference(self) -> int:
        """Samples by which the planned global batch is larger than the one asked; negative: smaller."""
        return self.cuts[0].global_batch - self.asked

    @property
    def held_by_memory(self) -> bool:
        """Whether a nearer global batch could be shared equally, but no cut of it fits."""
        gpus = self.cuts[0].gpus
        least = min(self.asked % gpus, -self.asked % gpus)
        return abs(self.difference) > least


@dataclass(frozen=True)
class LeastTimes:
    """The best cut of every number of samples per GPU and global step: index p-1 is that of p samples."""

    time_s: Floats  # of the global step; inf where nothing fits
    batch: Ints  # samples per micro-step; 0 where nothing fits


def cut_global_batch(
    global_batch: int,
    gpus: int,
    *,
    step_time_s: Floats,
    update_time_s: float,
    fits: Bools,
    batch_norm: bool = False,
) -> tuple[Cut, ...]:
    """Every exact cut of `global_batch` over `gpus` that fits, in the order of `nearest_cuts`.

    `fits[i]` is whether i+1 samples per GPU fit in this cut.

    Raises BadInputError where the GPUs cannot share the global batch equally, DoesNotFitError where no exact cut fits.
    """
    per_gpu, rest = divmod(global_batch, gpus)
    if per_gpu == 0 or rest:
        lower, upper = per_gpu * gpus, (per_gpu + 1) * gpus
        nearest = f"{lower} and {upper} can" if lower else f"{upper} is the least that can"
        raise BadInputError(
            f"global batch {global_batch} cannot be shared equally by {gpus} GPUs; {nearest}: "
            "`advisor plan` takes the nearest"
        )
    cuts = _ranked(per_gpu, gpus, step_time_s, update_time_s, fits, batch_norm=batch_norm)
    if not cuts:
        raise DoesNotFitError(
            f"no exact cut of global batch {global_batch} over {gpus} GPUs fits: not even 1 sample per GPU does; "
            "use a GPU with more memory or a smaller model"
        )
    return cuts


def nearest_cuts(
    global_batch: int,
    gpus: int,
    *,
    step_time_s: Floats,
    update_time_s: float,
    fits: Bools,
    fits_whole: Bools,
    batch_norm: bool = False,
) -> NearestCuts:
    """Every cut that fits of `global_batch` over `gpus`, or of the nearest global batch that has one, best first.

    `fits` is for several micro-steps per global step, which keep their gradients, `fits_whole` for one alone. Of two
    global batches equally near the smaller is cut, unless the larger has clearly more samples/s (`choice.TIE`). Of cuts
    that tie the smallest micro-batch is first. With `batch_norm` it is the smallest of those with BATCH_NORM_SAMPLES or
    more; where none has, the largest.

    Raises BadInputError for fewer samples than GPUs, DoesNotFitError where no global batch fits.
    """
    found = nearest_global_batches(global_batch, gpus, fits=fits, fits_whole=fits_whole)

    def cuts(reached: int) -> tuple[Cut, ...]:
        per_gpu = reached // gpus
        fitting = np.where(np.arange(1, len(fits) + 1) == per_gpu, fits_whole, fits)
        return _ranked(per_gpu, gpus, step_time_s, update_time_s, fitting, batch_norm=batch_norm)

    nearest = cuts(found[0])
    if len(found) == 2 and sum(found) == 2 * global_batch:  # as far on either side
        larger = cuts(found[1])
        if larger[0].samples_per_s > (1 + choice.TIE) * nearest[0].samples_per_s:
            return NearestCuts(global_batch, larger, found[:1])
    return NearestCuts(global_batch, nearest, found[1:])


def nearest_global_batches(global_batch: int, gpus: int, *, fits: Bools, fits_whole: Bools) -> tuple[int, ...]:
    """`global_batch` if it has an equal cut over `gpus` that fits; else the nearest on each side that has one.

    The nearest is first; of two equally near, the smaller. The arguments and errors are those of `nearest_cuts`.
    """
    if global_batch < gpus:
        alone = "1 GPU" if global_batch == 1 else f"{global_batch} GPUs at most"
        raise BadInputError(
            f"global batch {global_batch} is smaller than the {gpus} GPUs, and each needs a sample: "
            f"use {alone}, or a global batch of {gpus} or more"
        )
    below, above = (int(share) * gpus for share in nearest_shares(global_batch, gpus, fits=fits, fits_whole=fits_whole))
    found = sorted({b for b in (below, above) if b}, key=lambda b: (abs(b - global_batch), b))
    if not found:
        raise DoesNotFitError(
            f"no cut of global batch {global_batch} over {gpus} GPUs fits, nor of any other: not even 1 sample per GPU "
            "does; use a GPU with more memory or a smaller model"
        )
    return tuple(found)


def nearest_shares(global_batch: Any, gpus: int, *, fits: Bools, fits_whole: Bools) -> tuple[Any, Any]:
    """Samples per GPU that have a cut that fits and reach `global_batch` most nearly: from below, and from above.

    0: there is none on that side. A share p has a cut where p fits as one micro-step, or where p = k b with k > 1 and
    b fits with gradients kept. Vectorised over `global_batch`.
    """
    asked = np.asarray(global_batch)[..., np.newaxis]
    most, least = asked // gpus, -(-asked // gpus)
    batches = np.arange(1, len(fits) + 1)
    whole, parts = batches[fits_whole], batches[fits]
    none_above = np.iinfo(np.int64).max
    below = np.maximum(
        np.where(whole <= most, whole, 0).max(axis=-1, initial=0),
        np.where(most // parts > 1, most // parts * parts, 0).max(axis=-1, initial=0),
    )
    above = np.minimum(
        np.where(whole >= least, whole, none_above).min(axis=-1, initial=none_above),
        (np.maximum(-(-least // parts), 2) * parts).min(axis=-1, initial=none_above),
    )
    return below, np.where(above == none_above, 0, above)


def least_times(
    largest_per_gpu: int,
    *,
    step_time_s: Floats,
    update_time_s: float,
    fits: Bools,
    fits_whole: Bools,
    batch_norm: bool = False,
) -> LeastTimes:
    """The best cut of 1..`largest_per_gpu` samples per GPU and global step: the first of `nearest_cuts` for each.

    Its time is the least, or ties with it (TIE). The arguments are those of `nearest_cuts`.
    """
    sizes = min(len(fits), largest_per_gpu)
    batches = np.arange(1, sizes + 1)
    whole_s = np.where(fits_whole[:sizes], global_step_s(1, step_time_s[:sizes], update_time_s), np.inf)
    parts_s = np.where(fits[:sizes], step_time_s[:sizes], np.inf)
    least_s = np.full(largest_per_gpu, np.inf)
    least_s[:sizes] = whole_s
    for shares, batch, accumulation in _products(sizes, largest_per_gpu):
        time_s = global_step_s(accumulation, parts_s[batch], update_time_s)
        least_s[shares] = np.minimum(least_s[shares], time_s)
    tied_s = (1 + TIE) * least_s
    nothing = sizes + BATCH_NORM_SAMPLES
    # Too few samples for BatchNorm come after all others, the most first.
    order = np.where(batches < BATCH_NORM_SAMPLES, nothing - batches, batches) if batch_norm else batches
    first = np.full(largest_per_gpu, nothing)
    first[:sizes] = np.where(fits_whole[:sizes] & (whole_s <= tied_s[:sizes]), order, nothing)
    for shares, batch, accumulation in _products(sizes, largest_per_gpu):
        time_s = global_step_s(accumulation, parts_s[batch], update_time_s)
        tied = np.isfinite(time_s) & (time_s <= tied_s[shares])
        first[shares] = np.minimum(first[shares], np.where(tied, order[batch], nothing))
    chosen = np.where(first == nothing, 0, np.where(first > sizes, nothing - first, first))
    used = np.maximum(chosen, 1)
    time_s = global_step_s(np.arange(1, largest_per_gpu + 1) // used, step_time_s[used - 1], update_time_s)
    return LeastTimes(np.where(chosen > 0, time_s, np.inf), chosen)


def global_step_s(accumulation: Any, step_time_s: Any, update_time_s: float) -> Any:
    """Seconds of one optimizer step of `accumulation` micro-steps, of which the last alone updates. Vectorised."""
    return accumulation * (step_time_s - update_time_s) + update_time_s


def _products(sizes: int, largest: int) -> Iterator[tuple[slice, Any, Any]]:
    """Every k * b <= `largest` with k > 1 and b <= `sizes`, once: indices of the products, index of b, k.

    Vectorised over b for small k and over k for small b, so about 2 sqrt(largest) rounds.
    """
    root = math.isqrt(largest)
    for k in range(2, root + 1):
        count = min(sizes, largest // k)
        yield slice(k - 1, k * count, k), slice(count), k
    for b in range(1, min(sizes, largest // (root + 1)) + 1):
        ks = np.arange(max(root + 1, 2), largest // b + 1)
        yield slice(int(ks[0]) * b - 1, largest, b), b - 1, ks


def _ranked(
    per_gpu: int, gpus: int, step_time_s: Floats, update_time_s: float, fits: Bools, *, batch_norm: bool = False
) -> tuple[Cut, ...]:
    """The cuts of `per_gpu` samples on each GPU that fit: those tied with the fastest first, then by time."""
    batches = np.arange(1, len(fits) + 1)
    cuts = []
    for batch in batches[fits & (per_gpu % batches == 0)].tolist():
        accumulation = per_gpu // batch
        time_s = float(global_step_s(accumulation, step_time_s[batch - 1], update_time_s))
        cuts.append(Cut(per_gpu * gpus, gpus, batch, accumulation, time_s, per_gpu * gpus / time_s))
    tied_s = (1 + TIE) * min((cut.time_s for cut in cuts), default=0.0)

    def order(cut: Cut) -> tuple[bool, bool, float, int]:
        if cut.time_s > tied_s:
            return True, False, cut.time_s, cut.batch
        few = batch_norm and cut.batch < BATCH_NORM_SAMPLES
        return False, few, 0.0, -cut.batch if few else cut.batch

    return tuple(sorted(cuts, key=order))
