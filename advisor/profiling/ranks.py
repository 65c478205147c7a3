"""What differs between the ranks of one job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from advisor.errors import BadInputError
from advisor.profiling.output.text import clean
from advisor.profiling.records import RankFacts, RanksProfile, TraceProfile
from advisor.units import duration, percent

EVEN = 0.02
"""Ranks whose own times lie this close to their mean are called even: runs of one container differ as much."""


def require_one_job(folder: Path, profiles: Sequence[TraceProfile]) -> None:
    """Raise BadInputError where the traces of a folder are not of the ranks of one job.

    GPUs may differ where every trace tells its rank and all tell one world size.
    """
    sizes = {profile.world_size for profile in profiles if profile.world_size is not None}
    counted = Counter(profile.rank for profile in profiles if profile.rank is not None)
    gpus = dict.fromkeys(profile.gpu.name for profile in profiles)
    told = counted.total() == sum(profile.world_size is not None for profile in profiles) == len(profiles)
    if len(sizes) > 1:
        why = f"world sizes {', '.join(map(str, sorted(sizes)))}"
    elif counted and max(counted.values()) > 1:
        rank, count = counted.most_common(1)[0]
        why = f"rank {rank} {count} times"
    elif len(gpus) > 1 and not told:
        why = f"on {', '.join(clean(name, 40) for name in list(gpus)[:3])}"
    else:
        return
    raise BadInputError(f"folder {folder} holds separate runs, not ranks of one job ({why}): give one file")


def compare_ranks(profiles: Sequence[TraceProfile], left_out: Sequence[str] = ()) -> RanksProfile:
    """Compare the ranks of one job, given a profile of each; `left_out` says which had none, and why.

    Collectives end together: the rank that arrives last waits least. So the rank with the longest step outside exposed
    communication is the slowest, whatever its own step time, and the least exposed communication of all ranks is what
    the exchange itself takes; what others spend beyond is waiting.
    """
    ordered = tuple(sorted(profiles, key=lambda p: (p.rank is None, p.rank or 0, p.path)))
    least_s = min(_exposed_s(profile) for profile in ordered)
    ranks = tuple(_facts(profile, least_s) for profile in ordered)
    own_s = [facts.own_s for facts in ranks]
    slowest, fastest = own_s.index(max(own_s)), own_s.index(min(own_s))
    step_s = [facts.step_s for facts in ranks]
    mean_s = sum(own_s) / len(own_s)
    imbalance = max(own_s) / mean_s - 1 if mean_s else 0.0
    return RanksProfile(
        ranks=ranks,
        profiles=ordered,
        slowest=slowest,
        fastest=fastest,
        kernel_time_s=sum(profile.kernel_time_s for profile in ordered),
        step_spread=max(step_s) / min(step_s) - 1 if min(step_s) else 0.0,
        imbalance=imbalance,
        verdict=_verdict(ranks, slowest, fastest, imbalance),
        notes=(*_notes(ordered), *left_out),
    )


def _communication_s(profile: TraceProfile) -> float:
    """Of a step; of the whole trace where it has no steps."""
    if not profile.steps.count:
        return profile.class_s.get("communication", 0.0)
    return sum(group.step_s or 0.0 for group in profile.kernels if group.class_ == "communication")


def _exposed_s(profile: TraceProfile) -> float:
    return profile.steps.exposed_communication_s


def _facts(profile: TraceProfile, least_s: float) -> RankFacts:
    steps, exposed_s = profile.steps, _exposed_s(profile)
    return RankFacts(
        path=profile.path,
        rank=profile.rank,
        gpu=profile.gpu.name,
        kernel_time_s=profile.kernel_time_s,
        step_s=steps.step_s,
        busy_share=steps.busy_share,
        communication_s=_communication_s(profile),
        exposed_communication_s=exposed_s,
        own_s=max(steps.step_s - exposed_s, 0.0),
        waiting_s=exposed_s - least_s,
        batch=profile.batch.batch,
    )


def _verdict(ranks: Sequence[RankFacts], slowest: int, fastest: int, imbalance: float) -> str:
    slow, fast = ranks[slowest], ranks[fastest]
    if imbalance <= EVEN:
        return f"The ranks are evenly loaded: the slowest does {percent(imbalance, 1)} more than their mean."
    return (
        f"{_called(slow)} is the slowest: {duration(slow.own_s)} of its own work per step, "
        f"{_more(imbalance)} the mean; {_called(fast)} needs {duration(fast.own_s)} and spends "
        f"{duration(fast.waiting_s)} longer in communication, waiting. Even ranks would save at most "
        f"{duration(slow.own_s - slow.own_s / (1 + imbalance))} per step."
    )


def _more(share: float) -> str:
    return f"{percent(share, 1)} more than" if share < 2 else f"{1 + share:.3g} times"


def _called(facts: RankFacts) -> str:
    return f"rank {facts.rank}" if facts.rank is not None else Path(facts.path).name


def _notes(profiles: Sequence[TraceProfile]) -> tuple[str, ...]:
    ranks = [profile.rank for profile in profiles]
    size = max((profile.world_size or 0 for profile in profiles), default=0)
    known = {rank for rank in ranks if rank is not None}
    notes: list[str] = []
    if size > len(known) > 0:
        notes.append(f"{len(known)} of {size} ranks are here: the slowest of them all may be another")
    if len({profile.steps.count for profile in profiles}) > 1:
        counts = ", ".join(str(profile.steps.count) for profile in profiles)
        notes.append(f"the ranks recorded different numbers of steps ({counts})")
    if len({profile.gpu.name for profile in profiles}) > 1:
        notes.append("the ranks ran on different GPUs")
    return tuple(notes)
