"""What a plan says of itself: its headline, why it is as it is, and what to know of it."""

from __future__ import annotations

from collections.abc import Sequence

from advisor import choice
from advisor.planning.records import CriticalBatch, RankedCut, Side, Target
from advisor.planning.request import BEST, MOST_PER_GPU, PREDICTED_AS, Request
from advisor.planning.sides import Sides
from advisor.planning.target import best_for
from advisor.recommendation import samples_of
from advisor.step import Setup
from advisor.units import counted, duration, gib, percent, rate, span


def headline(setup: Setup, side: Side) -> str:
    """The plan in one line, with the global batch asked for where it could not be kept."""
    run, error = side.run, percent(side.run.error.mean_abs_log)
    asked = "" if side.global_batch == side.asked_global_batch else f" ({side.asked_global_batch:,} asked)"
    return (
        f"{side.cut}{asked} for {setup.workload.title} on {setup.resolved_gpu.gpu.name}: {duration(run.step_s)} per "
        f"step, {rate(run.samples_per_s)} {samples_of(setup.workload)}/s +-{error} (predicted)"
    )


def reasons(sides: Sides, planned: Side, target: Target | None) -> tuple[str, ...]:
    """Why this cut among those that fit, why this many GPUs, why another global batch, or what that would win."""
    request = sides.request
    why_cut, change = _why_cut(planned.cuts), request.change_global_batch
    if change == BEST:
        return (why_cut, _why_best(request, planned))
    unchanged = (f"{planned.global_batch:,} is the global batch asked for: nothing changes.",)
    same = change is not None and change == request.global_batch
    return (why_cut, *(unchanged if same else ()), *_why_gpus(sides, planned), *_what_would_be_best(request, target))


def _why_cut(cuts: Sequence[RankedCut]) -> str:
    chosen, *others = (ranked for ranked in cuts if ranked.fits)
    if not others:
        return f"{chosen.cut.batch:,} per GPU is the only exact cut that fits."
    fastest = min((chosen, *others), key=lambda ranked: ranked.cut.time_s)
    if fastest is chosen:
        count = counted(len(others) + 1, "exact cut")
        why = f"{chosen.cut.batch:,} per GPU has the least predicted time per step of {count} that fit"
    else:
        why = (
            f"{chosen.cut.batch:,} per GPU takes {percent(chosen.relative_time - 1, 1)} more time than the fastest "
            f"exact cut, {fastest.cut.batch:,}, which is no difference, and {_against(chosen, fastest)}"
        )
    ties = [other for other in others if other.tie]
    if not ties:
        following = min(others, key=lambda ranked: ranked.cut.time_s)
        return f"{why}; the next, {following.cut.batch:,}, takes {_more(following)} more."
    named = ", ".join(f"{tie.cut.batch:,} x {tie.cut.accumulation:,}" for tie in ties)
    return f"{why}; {named} {'ties' if len(ties) == 1 else 'tie'} with it: less than {percent(choice.TIE)} apart."


def _more(ranked: RankedCut) -> str:
    more = ranked.relative_time - 1
    return percent(more, 1 if more < 1 else 0)


def _against(chosen: RankedCut, fastest: RankedCut) -> str:
    if chosen.batch_norm_samples is not None and chosen.cut.batch > fastest.cut.batch:
        return f"gives BatchNorm {chosen.cut.batch:,} samples"
    return f"needs {gib(fastest.memory_bytes - chosen.memory_bytes)} less memory"


def _why_gpus(sides: Sides, side: Side) -> tuple[str, ...]:
    """What objective "cost" made of the number of GPUs."""
    request, used = sides.request, side.cut.gpus
    if request.objective != "cost" or request.gpus == 1:
        return ()
    if used == request.gpus:
        return (f"Fewer GPUs than {used:,} do not cost clearly less per run.{_no_exchange(request)}",)
    every, _ = sides.side(side.asked_global_batch, request.gpus)
    speed = every.run.samples_per_s / side.run.samples_per_s
    more = request.gpus / used / speed - 1
    return (
        f"This global batch costs least on {used:,} of the {request.gpus:,} GPUs; all {request.gpus:,} would cost "
        f"{percent(more)} more and be {speed:.2g} times as fast.{_no_exchange(request)}",
    )


def _no_exchange(request: Request) -> str:
    """What a comparison of numbers of GPUs leaves out."""
    if request.exchange_s:
        return ""
    return " Gradient exchange is not in the times, so several GPUs look cheaper than they are: give --exchange."


def _what_would_be_best(request: Request, target: Target | None) -> tuple[str, ...]:
    """What objectives that look at the target lose with a global batch that is kept."""
    if target is None or request.objective == "throughput" or request.change_global_batch is not None:
        return ()
    batch, gpus = best_for(target, request.objective)
    if request.objective == "cost":
        best = f"The target would cost least at a global batch of {batch:,} on {counted(gpus, 'GPU')}"
    else:
        loses = span(*(percent(loss) for loss in sorted(target.asked_loses)))
        best = f"The target would be reached soonest at a global batch of {batch:,}; the one asked takes {loses} longer"
    return (f"{best}; --change-global-batch best plans that.",)


def _why_best(request: Request, side: Side) -> str:
    chosen = f"Global batch {side.global_batch:,} on {counted(side.cut.gpus, 'GPU')}"
    if request.objective == "throughput":
        return f"{chosen} is what `advisor recommend` names for each GPU: larger ones are hardly faster."
    if request.objective == "time-to-target":
        return f"{chosen} reaches the target soonest, as far as the critical batch is known."
    alone = _no_exchange(request) if request.gpus > 1 else ""
    return f"{chosen} reaches the target at the least cost, as far as the critical batch is known.{alone}"


def why_no_target(setup: Setup, request: Request, critical: CriticalBatch | None) -> str:
    """Why a plan says nothing of time to target, and what would change that."""
    if critical is None:
        return (
            f"no critical batch is known for {setup.workload.title}, so time to target is not: give --critical-batch "
            "SAMPLES, or a --task that is alike"
        )
    return (
        f"global batch {request.global_batch:,} is more than {MOST_PER_GPU:,} samples per GPU, up to which time to "
        "target is searched: use more GPUs or a smaller global batch"
    )


def notes(
    setup: Setup, request: Request, side: Side, target: Target | None, critical: CriticalBatch | None
) -> tuple[str, ...]:
    """What a user should know of where the figures come from, a line each."""
    said = [*setup.notes()]
    if PREDICTED_AS[request.optimizer] != request.optimizer:
        said.append(
            f"Steps with {request.optimizer.upper()} are predicted as with {PREDICTED_AS[request.optimizer]}: the "
            "norms of its trust ratio are left out."
        )
    if side.cut.gpus > 1 and not request.exchange_s:
        said.append("Gradient exchange between GPUs is not in the predicted times; --exchange adds what you measured.")
    if target is None:
        why = why_no_target(setup, request, critical)
        said.append(f"{why[0].upper()}{why[1:]}.")
    return tuple(said)
