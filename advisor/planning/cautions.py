"""What may harm a planned run, one sentence or two each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.cut import BATCH_NORM_SAMPLES, NearestCuts
from advisor.planning import sources
from advisor.planning.curves import Curves
from advisor.planning.records import RankedCut, ScaledRate, Side
from advisor.planning.request import MAX_GPUS
from advisor.recommendation import poor_cut, samples_of
from advisor.units import counted, duration, gib


def cautions(curves: Curves, side: Side, near: NearestCuts, others: Sequence[RankedCut]) -> tuple[str, ...]:
    """The warnings of a plan, the most important first; `others` are the cuts of `near.others`."""
    return (
        *_unequal(near, others, curves),
        *_batch_norm(side, curves.setup.workload.batch_norm_layers),
        *_token_means(side, samples_of(curves.setup.workload)),
        *past_range(side.rate),
        *_poor(near, curves),
    )


def _unequal(near: NearestCuts, others: Sequence[RankedCut], curves: Curves) -> list[str]:
    """The global batch asked for is not the one planned: by how much, why, and what would keep it."""
    if not near.difference:
        return []
    gpus, planned = near.cuts[0].gpus, near.cuts[0].global_batch
    how = "more" if near.difference > 0 else "fewer"
    as_near = abs(near.difference)
    named = "".join(
        f"; {'as near is' if abs(other.cut.global_batch - near.asked) == as_near else 'the next nearest is'} "
        f"{other.cut.global_batch:,} ({other.cut.factors}: {duration(other.step_s)} per step)"
        for other in others
    )
    said = f"Planned is a global batch of {planned:,}, {abs(near.difference):,} {how} than asked{named}"
    if near.held_by_memory:
        return [f"{_held(near, curves)} {said}. {_room(near, curves)}"]
    exact = exact_gpus(near.asked, gpus)
    return [
        f"{gpus:,} GPUs cannot share a global batch of {near.asked:,} equally. {said}. {near.asked:,} would be "
        f"exact with {' or '.join(f'{count:,}' for count in exact)} {'GPU' if exact == [1] else 'GPUs'}."
    ]


def _held(near: NearestCuts, curves: Curves) -> str:
    """Why memory holds a global batch: a share that is no micro-step alone accumulates, and keeps its gradients."""
    limit = gib(curves.setup.memory_limit_bytes or 0)
    return (
        f"Global batch {near.asked:,} over {counted(near.cuts[0].gpus, 'GPU')} needs accumulation, which keeps "
        f"gradients, and with them no size that would do fits {limit}."
    )


def _room(near: NearestCuts, curves: Curves) -> str:
    """The memory or the GPUs that would keep the global batch."""
    gpus = near.cuts[0].gpus
    needed = gib(curves.memory(gpus, accumulate=True)[0] * (1 + curves.setup.margin))
    whole = set((np.flatnonzero(curves.fits(gpus + 1)["fits_whole"]) + 1).tolist())
    counts = range(gpus + 1, min(near.asked, MAX_GPUS) + 1)
    enough = next((n for n in counts if near.asked % n == 0 and near.asked // n in whole), None)
    more = "" if enough is None else f", {enough:,} GPUs would without it"
    return f"{needed} on each GPU would keep {near.asked:,}{more}; so may a smaller input or another optimizer."


def exact_gpus(global_batch: int, gpus: int) -> list[int]:
    """The nearest numbers of GPUs below and above `gpus` that share a global batch equally."""
    below = next(count for count in range(min(gpus - 1, global_batch), 0, -1) if global_batch % count == 0)
    above = (count for count in range(gpus + 1, min(global_batch, MAX_GPUS) + 1) if global_batch % count == 0)
    return [below, *([first] if (first := next(above, None)) else [])]


def _batch_norm(side: Side, layers: int) -> list[str]:
    batch = side.cut.batch
    if not layers or batch >= BATCH_NORM_SAMPLES:
        return []
    sync = f"SyncBatchNorm (over the {side.cut.gpus:,} GPUs: {batch * side.cut.gpus:,} samples) or GroupNorm"
    accumulated = (
        f"Accumulation does not help: each of the {side.cut.accumulation:,} micro-batches is normalised by itself."
        if side.cut.accumulation > 1
        else "Accumulation would not help: each micro-batch is normalised by itself."
    )
    return [
        f"BatchNorm sees only {counted(batch, 'sample')} per GPU, fewer than {BATCH_NORM_SAMPLES}, so its statistics "
        f"are noisy ({sources.WU_HE_2018}): consider {sync if side.cut.gpus > 1 else 'GroupNorm'}"
        f"{'' if side.cut.gpus > 1 else ' (SyncBatchNorm needs several GPUs)'}. {accumulated}"
    ]


def _token_means(side: Side, samples: str) -> list[str]:
    """Means over micro-batches of means over tokens: sum first, then divide, over all that one step sees."""
    cut = side.cut
    if samples != "sequences" or cut.accumulation == cut.gpus == 1:
        return []
    every = f"on {_every(cut.gpus)} GPUs"
    if cut.accumulation > 1:
        every = f"in {_every(cut.accumulation)} micro-batches{f' {every}' if cut.gpus > 1 else ''}"
    ranks = "DistributedDataParallel averages gradients over ranks, so multiply by their number: " * (cut.gpus > 1)
    return [
        "A loss averaged over the tokens of each micro-batch is not that of the global batch, unless all hold equally "
        f"many tokens that count ({sources.TRANSFORMERS_34191}). Right is the sum of the token losses {every}, over "
        f"the count of tokens in them. {ranks}{'L' if cut.gpus == 1 else 'l'}oss of a micro-batch = "
        f"{f'{cut.gpus} x ' if cut.gpus > 1 else ''}(sum of its token losses) / (tokens {every})."
    ]


def _every(count: int) -> str:
    return "both" if count == 2 else f"all {count:,}"


def past_range(rate: ScaledRate | None) -> list[str]:
    """That a rate's rule was not shown to hold at this batch, and what was used there instead."""
    if rate is None or rate.within_known:
        return []
    known = f"to {rate.known_to:,} samples per step, {rate.known_where}" if rate.known_to else rate.known_where
    if rate.rule == "unchanged":
        what = f"Global batch {rate.batch:,} is past the range that the rule of the rate is known for"
    else:
        what = f"The {rate.rule} rule is past the range it is known for"
    return [f"{what} ({known}): {rate.beyond}."]


def _poor(near: NearestCuts, curves: Curves) -> Sequence[str]:
    knee, knee_per_s = curves.knee(near.cuts[0].gpus)
    return poor_cut(near.cuts, knee=knee, knee_per_s=knee_per_s)
