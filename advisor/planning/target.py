"""Hardware speed against statistical efficiency: time to target over the global batch, and its best.

Time to target on N GPUs is T(B) = E(B) / B * t(B / N), with E(B) of `advisor.planning.critical_batch` and t the time of
a global step. With t = t0 + t1 p at p samples per GPU, T is least at B = sqrt(N B_crit t0 / t1), which is
N sqrt((t0 / t1) B_crit / N): the derivative of (1/B + 1/B_crit) (t0 + t1 B / N) vanishes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from advisor.choice import TIE, TOLERANCE, Floats, Ints
from advisor.cut import Cut, LeastTimes
from advisor.errors import BadInputError, DoesNotFitError
from advisor.planning.critical_batch import samples_to_target
from advisor.planning.records import CriticalBatch, Objective, Target, TargetCurve, TargetPoint
from advisor.units import HOUR_S, counted, percent, rate

AROUND_ASKED = {
    0.25: "a quarter of the asked", 0.5: "half the asked", 2.0: "twice the asked", 4.0: "four times the asked",
}  # fmt: skip
AROUND_BEST = {0.5: "half the best", 2.0: "twice the best"}
EVERY_COUNT = 64  # up to so many GPUs objective "cost" tries every number of them, beyond it powers of two
NEAR_FACTOR = 0.1  # a size this far from half or twice another one is not called that
MARGIN = 2.0  # how far a curve goes beyond what is named or near the best
PLANNED = "planned"
NONE = 0.005  # a loss below this is said to be none

Pair = tuple[float, float]


@dataclass(frozen=True)
class StepLine:
    """t(p) = t0_s + t1_s p, fitted to the time of a step at p samples per GPU."""

    t0_s: float  # per step
    t1_s: float  # per sample
    largest_error: float  # of |line / measured - 1|


def fit_step_line(batches: Any, step_s: Any) -> StepLine:
    """Fit t0 + t1 b to the time of a step at `batches` samples per GPU, neither below zero.

    The squares of line / time - 1 are least, each weighted by the share of ln b it stands for: every doubling of the
    batch counts the same, on a grid of powers of two as on every size.

    Raises BadInputError for fewer than two sizes, sizes that do not rise, and times that are not positive and finite.
    """
    sizes, times = np.asarray(batches, dtype=float), np.asarray(step_s, dtype=float)
    if sizes.ndim != 1 or sizes.shape != times.shape or len(sizes) < 2:
        raise BadInputError("a line needs the time of a step at two batch sizes or more, one time each")
    if not (np.all(np.isfinite(sizes)) and sizes[0] > 0 and np.all(np.diff(sizes) > 0)):
        raise BadInputError("batch sizes of a line must be positive and rise")
    if not np.all(np.isfinite(times) & (times > 0)):
        raise BadInputError("times of a line must be positive and finite")
    root = np.sqrt(np.gradient(np.log(sizes)))
    columns = np.column_stack([1 / times, sizes / times]) * root[:, None]
    t0_s, t1_s = np.linalg.lstsq(columns, root, rcond=None)[0]
    if t0_s < 0 or t1_s < 0:  # one of them is 0 then, and the other follows alone
        kept = int(t0_s < 0)
        alone = float(columns[:, kept] @ root / (columns[:, kept] @ columns[:, kept]))
        t0_s, t1_s = (0.0, alone) if kept else (alone, 0.0)
    error = np.abs((t0_s + t1_s * sizes) / times - 1).max()
    return StepLine(float(t0_s), float(t1_s), float(error))


def time_to_target(global_batch: Any, step_s: Any, *, critical: float, least_samples: float) -> Floats:
    """Seconds to target: E(B) / B steps of `step_s` seconds each. `critical` and the batch in the same samples."""
    batch, time_s = np.asarray(global_batch, dtype=float), np.asarray(step_s, dtype=float)
    return np.asarray(samples_to_target(batch, critical=critical, least_samples=least_samples) / batch * time_s)


def best_batch(line: StepLine, *, gpus: int, critical: float, exchange_s: float = 0.0) -> float:
    """The global batch with the least time to target on `gpus` GPUs if the line held: N sqrt((t0/t1) B_crit / N).

    inf where a step takes no longer with more samples.
    """
    if line.t1_s == 0:
        return math.inf
    return gpus * math.sqrt((line.t0_s + exchange_s) / line.t1_s * critical / gpus)


def best_for(target: Target, objective: Objective) -> tuple[int, int]:
    """The global batch that an objective asks for, and on how many GPUs."""
    if objective == "cost" and target.cheapest is not None:
        return target.cheapest
    batch = target.most_throughput if objective == "throughput" else target.compromise
    return batch, max(point.gpus for point in target.points)


def with_planned(target: Target, global_batch: int, gpus: int) -> Target:
    """Name the point that is planned, where it is not the one asked for."""
    points = (
        replace(point, roles=(PLANNED, *point.roles))
        if (point.global_batch, point.gpus) == (global_batch, gpus) and "asked" not in point.roles
        else point
        for point in target.points
    )
    return replace(target, points=tuple(points))


# The search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sizes:
    """The global batches that `gpus` GPUs can share and hold: the best cut of each, and the time of its step."""

    gpus: int
    batch: Ints  # global
    micro_batch: Ints
    cut_s: Floats  # of a global step, exchange left out
    step_s: Floats

    def nearest(self, global_batch: float) -> int:
        """Index of the size that is nearest, of equals the smaller."""
        return int(np.argmin(np.abs(self.batch - global_batch)))

    def cut(self, i: int) -> Cut:
        """The best cut of one size."""
        batch, micro_batch, time_s = int(self.batch[i]), int(self.micro_batch[i]), float(self.cut_s[i])
        return Cut(batch, self.gpus, micro_batch, batch // self.gpus // micro_batch, time_s, batch / time_s)


def _sizes(times: LeastTimes, gpus: int, exchange_s: float) -> _Sizes:
    fits = np.flatnonzero(np.isfinite(times.time_s) & (times.batch > 0))
    if not len(fits):
        raise DoesNotFitError(
            "no global batch fits: not even 1 sample per GPU does; use a GPU with more memory or a smaller model"
        )
    time_s = times.time_s[fits]
    return _Sizes(gpus, (fits + 1) * gpus, times.batch[fits], time_s, time_s + (exchange_s if gpus > 1 else 0.0))


@dataclass(frozen=True)
class _Search:
    """Everything the answer is read from. Arrays have a row for each end of the range of critical batches."""

    sizes: _Sizes  # on all GPUs
    counts: tuple[_Sizes, ...]  # of fewer GPUs, for objective "cost"
    critical: CriticalBatch
    known_at: int
    known_samples: float | None
    price_per_hour: float | None
    most_throughput: int | None

    def samples_factor(self, batch: Ints) -> Floats:
        """Samples to target over those at the global batch that the run is known at."""
        return np.stack([
            samples_to_target(batch, critical=end, least_samples=1.0) / (1 + self.known_at / end) for end in self.ends
        ])  # fmt: skip

    def time(self, sizes: _Sizes) -> Floats:
        """Time to target in seconds, per sample to target of the run as it is known."""
        return np.asarray(self.samples_factor(sizes.batch) / sizes.batch * sizes.step_s)

    @property
    def ends(self) -> Pair:
        return self.critical.low, self.critical.high

    @cached_property
    def least_time(self) -> Floats:
        """Of all sizes on all GPUs."""
        return np.asarray(self.time(self.sizes).min(axis=1))

    @cached_property
    def least_gpu_time(self) -> Floats:
        """Of all sizes on every number of GPUs that was tried."""
        every = [sizes.gpus * self.time(sizes).min(axis=1) for sizes in (*self.counts, self.sizes)]
        return np.asarray(np.min(every, axis=0))

    def relative_time(self, sizes: _Sizes) -> Floats:
        """Over that of the best size on all GPUs."""
        relative: Floats = self.time(sizes) / self.least_time[:, None]
        return relative

    def relative_cost(self, sizes: _Sizes) -> Floats:
        """GPU time over that of the cheapest."""
        relative: Floats = sizes.gpus * self.time(sizes) / self.least_gpu_time[:, None]
        return relative

    def fastest(self) -> int:
        """Index of the size with the most samples/s, of those no larger per GPU than a micro-batch can be.

        Beyond, accumulation only spares updates, by ever less: there is no best.
        """
        if self.most_throughput is not None:
            return self.sizes.nearest(self.most_throughput)
        whole = self.sizes.batch <= self.sizes.gpus * self.sizes.micro_batch.max()
        return int(np.argmax(np.where(whole, self.sizes.batch / self.sizes.step_s, 0)))

    def cheapest(self) -> tuple[_Sizes, int]:
        """The most GPUs whose cheapest size costs no more than a tie above the least, whichever end is true."""
        found = []
        for sizes in (*self.counts, self.sizes):
            worse = self.relative_cost(sizes).max(axis=0)
            i = int(np.argmin(worse))
            found.append((sizes, i, float(worse[i])))
        limit = (1 + TIE) * min(worst for _, _, worst in found)
        sizes, i, _ = max((one for one in found if one[2] <= limit), key=lambda one: one[0].gpus)
        return sizes, i

    def point(self, sizes: _Sizes, i: int, roles: tuple[str, ...]) -> TargetPoint:
        """One global batch as a record."""
        at = slice(i, i + 1)
        one = _Sizes(sizes.gpus, sizes.batch[at], sizes.micro_batch[at], sizes.cut_s[at], sizes.step_s[at])
        time_s = None if self.known_samples is None else _pair(self.known_samples * self.time(one))
        per_s = None if self.price_per_hour is None else self.price_per_hour * sizes.gpus / HOUR_S
        return TargetPoint(
            global_batch=int(sizes.batch[i]),
            gpus=sizes.gpus,
            cut=sizes.cut(i),
            roles=roles,
            samples_factor=_pair(self.samples_factor(one.batch)),
            time_s=time_s,
            relative_time=_pair(self.relative_time(one)),
            relative_cost=_pair(self.relative_cost(one)),
            cost=None if time_s is None or per_s is None else (per_s * time_s[0], per_s * time_s[1]),
        )


def find_target(
    times_of: Callable[[int], LeastTimes],
    *,
    gpus: int,
    asked: int,
    known_at: int,
    critical: CriticalBatch,
    curve: tuple[Any, Any],
    known_samples: float | None = None,
    exchange_s: float = 0.0,
    price: float | None = None,
    objective: Objective = "throughput",
    most_throughput: int | None = None,
    listed: tuple[int, int] | None = None,
) -> Target:
    """Time to target on `gpus` GPUs over every global batch they can share, for both ends of the critical batch.

    `times_of(n)` are the best cuts on each of n GPUs. `curve` is batch sizes and times (s) of a step on one GPU, for
    the line. The run is known to reach its target at global batch `known_at` after `known_samples` samples (None:
    unknown, so that times are relative alone). `exchange_s` is added to every step on several GPUs, whatever their
    number. `price` is that of one GPU for an hour. Objective "cost" also tries fewer GPUs. `most_throughput` is the
    global batch recommended for throughput; left out, that with the most samples/s without accumulation. `asked` is
    taken as the nearest global batch that can be shared and fits. `listed` is a further global batch to list, and its
    number of GPUs; `with_planned` says what it is.

    Raises DoesNotFitError where nothing fits, BadInputError where `asked` is larger than all that `times_of` holds.
    """
    sizes = _sizes(times_of(gpus), gpus, exchange_s)
    if asked > sizes.batch[-1] + gpus:
        raise BadInputError(f"global batch {asked:,} lies beyond the {sizes.batch[-1]:,} up to which was searched")
    counts = tuple(_sizes(times_of(n), n, exchange_s) for n in gpu_counts(gpus)) if objective == "cost" else ()
    search = _Search(sizes, counts, critical, known_at, known_samples, price, most_throughput)
    line = fit_step_line(*curve)
    relative = search.relative_time(sizes)
    best = int(np.argmin(relative[0])), int(np.argmin(relative[1]))
    compromise = int(np.argmin(relative.max(axis=0)))
    named = _named(search, asked, best, compromise)
    cheapest = None
    if objective == "cost":
        cheap, i = search.cheapest()
        cheapest = int(cheap.batch[i]), cheap.gpus
        _add_counts(named, search, cheap)
    for each in (*search.counts, sizes):
        if listed is not None and each.gpus == listed[1] and each.batch[each.nearest(listed[0])] == listed[0]:
            named.setdefault((each, each.nearest(listed[0])), [])
    points = [search.point(of, i, tuple(roles)) for (of, i), roles in named.items()]
    asked_at, fastest = sizes.nearest(asked), search.fastest()
    extra_s = exchange_s if gpus > 1 else 0.0
    ends = [min(best_batch(line, gpus=gpus, critical=end, exchange_s=extra_s), float(sizes.batch[-1]))
            for end in search.ends]  # fmt: skip
    target = Target(
        critical=critical,
        known_at=known_at,
        t0_s=line.t0_s,
        t1_s=line.t1_s,
        line_error=line.largest_error,
        closed_form=(ends[0], ends[1]),
        curve=_curve(search, [i for of, i in named if of is sizes]),
        points=tuple(sorted(points, key=lambda point: (point.global_batch, point.gpus))),
        best=(int(sizes.batch[best[0]]), int(sizes.batch[best[1]])),
        compromise=int(sizes.batch[compromise]),
        most_throughput=int(sizes.batch[fastest]),
        cheapest=cheapest,
        near_best=(_near(sizes, relative[0]), _near(sizes, relative[1])),
        asked_loses=_pair(relative[:, asked_at] - 1),
        most_throughput_loses=_pair(relative[:, fastest] - 1),
        sentence="",
    )
    return replace(target, sentence=_sentence(target, gpus, sizes.batch, relative.max(axis=0)))


def _curve(search: _Search, named: list[int]) -> TargetCurve:
    """Every named size, and around them those of 4, 5, 6 and 7 times a power of two samples per GPU: they cut well."""
    sizes, relative = search.sizes, search.relative_time(search.sizes)
    wanted = sizes.batch[np.isin(np.arange(len(sizes.batch)), named) | (relative.min(axis=0) <= 1 + TOLERANCE)]
    shares = sizes.batch // sizes.gpus
    shown = 4 * shares % np.exp2(np.floor(np.log2(shares))) == 0
    shown &= (sizes.batch >= wanted.min() / MARGIN) & (sizes.batch <= wanted.max() * MARGIN)
    shown[named] = True
    return TargetCurve(
        tuple(sizes.batch[shown].tolist()),
        tuple((sizes.batch / sizes.step_s)[shown].tolist()),
        tuple((float(low), float(high)) for low, high in relative[:, shown].T),
    )


def _near(sizes: _Sizes, relative: Floats) -> tuple[int, int]:
    """The least and the largest size that lose no more than TOLERANCE; between them some cut or run badly."""
    near = sizes.batch[relative <= (1 + TOLERANCE) * relative.min()]
    return int(near[0]), int(near[-1])


def gpu_counts(gpus: int) -> tuple[int, ...]:
    """The smaller numbers of GPUs that objective "cost" tries."""
    if gpus <= EVERY_COUNT:
        return tuple(range(1, gpus))
    return tuple(2**i for i in range((gpus - 1).bit_length()))


_Named = dict[tuple[_Sizes, int], list[str]]  # sizes on so many GPUs, index of one of them -> what it is


def _named(search: _Search, asked: int, best: tuple[int, int], compromise: int) -> _Named:
    """The sizes on all GPUs that the answer lists."""
    sizes = search.sizes
    asked_at = sizes.nearest(asked)
    roles: list[tuple[int, str]] = [(asked_at, "asked"), *_around(sizes, asked_at, AROUND_ASKED)]
    if best[0] == best[1]:
        roles.append((best[0], "best"))
    else:
        roles += [(i, f"best at a critical batch of {rate(end)}") for i, end in zip(best, search.ends, strict=True)]
        roles.append((compromise, "best compromise"))
    if compromise != asked_at:
        roles += _around(sizes, compromise, AROUND_BEST)
    roles.append((search.fastest(), "recommended for throughput"))
    named: _Named = {}
    for i, role in roles:
        named.setdefault((sizes, i), []).append(role)
    return named


def _around(sizes: _Sizes, at: int, factors: Mapping[float, str]) -> Iterator[tuple[int, str]]:
    """The sizes that are so many times another one, near enough to be called that."""
    for factor, role in factors.items():
        i = sizes.nearest(factor * float(sizes.batch[at]))
        if abs(sizes.batch[i] / sizes.batch[at] / factor - 1) <= NEAR_FACTOR:
            yield i, role


def _add_counts(named: _Named, search: _Search, cheapest: _Sizes) -> None:
    """Add the cheapest global batch on 1, 2, 4, ... GPUs, on as many as cost advises, and on all."""
    for sizes in (*search.counts, search.sizes):
        if sizes.gpus & (sizes.gpus - 1) == 0 or sizes is cheapest or sizes is search.sizes:
            i = int(np.argmin(search.relative_cost(sizes).max(axis=0)))
            roles = named.setdefault((sizes, i), [])
            roles.append(f"cheapest on {counted(sizes.gpus, 'GPU')}")
            if sizes is cheapest:
                roles.append("cheapest")


def _sentence(target: Target, gpus: int, batches: Ints, worst: Floats) -> str:
    """The answer in words; `worst` is the time of each batch over the best, at the end that suits it worse."""
    critical, near = target.critical, batches[worst <= 1 + TOLERANCE]
    beyond = " (no larger one was searched)" if target.best[1] == batches[-1] else ""
    losses = []
    if target.best[0] != target.best[1]:
        least = float(worst.min()) - 1
        losses.append(
            f"{target.compromise:,} loses {'next to nothing' if least < NONE else f'{percent(least, 1)} at most'}"
        )
    if len(near) > 1:
        losses.append(f"sizes from {near[0]:,} to {near[-1]:,} with a fast cut lose {percent(TOLERANCE)} at most")
    losses.append(f"the asked one takes {_loss(target.asked_loses)}")
    losses.append(
        f"the one recommended for throughput ({target.most_throughput:,}) {_loss(target.most_throughput_loses)}"
    )
    said = ", ".join(losses)
    return (
        f"On {counted(gpus, 'GPU')} the target is reached soonest at a global batch of {_span(target.best)}{beyond}, "
        f"if the critical batch is {_span((critical.low, critical.high))} {critical.unit}. {said[0].upper()}{said[1:]}."
    )


def _loss(loses: Pair) -> str:
    low, high = sorted(loses)
    if high < NONE:
        return "no longer"
    ends = [percent(end) for end in (low, high)]
    return f"{ends[0]} longer" if ends[0] == ends[1] else f"{ends[0].removesuffix(' %')} to {ends[1]} longer"


def _span(ends: tuple[float, float]) -> str:
    """One number, or "A to B"."""
    low, high = (f"{end:,.0f}" if end >= 100 or end == round(end) else rate(end) for end in sorted(ends))
    return low if low == high else f"{low} to {high}"


def _pair(values: Any) -> Pair:
    low, high = np.asarray(values, dtype=float).ravel()
    return float(low), float(high)
