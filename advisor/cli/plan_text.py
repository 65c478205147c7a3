"""A plan as a person reads it: the answer in the first lines, then what it stands on."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.cli.output import render_rows
from advisor.cli.plan_tables import TABLES
from advisor.cli.setup_options import setup_lines
from advisor.cut import Cut
from advisor.planning.build import TrainingPlan
from advisor.planning.changes import companion_text, energy_text, epochs_text
from advisor.planning.critical_batch import LEVEL
from advisor.planning.records import CriticalBatch, PlanAnswer, ScaledRate, Side, Target
from advisor.units import counted, duration, gib, long_time, long_times, percent, rate, span

MOST_CUTS = 8  # rows of the table of cuts; `--table cuts` has all


def render(found: TrainingPlan, format_: str) -> str:
    """The plan as "table" or "markdown"."""
    blocks = [
        [found.answer.headline, *summary(found.answer)],
        *_blocks(found.answer, format_),
        setup_lines(found.setup, found.answer.notes),
    ]
    if format_ == "markdown":
        blocks[0][0] = f"**{blocks[0][0]}**"
        blocks = [[line if _is_table(line) else f"{line}  " for line in block] for block in blocks]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def summary(answer: PlanAnswer) -> list[str]:
    """What a user came for, below the headline: what is not as asked, rate, steps, time, energy and cost."""
    side, run = answer.planned, answer.planned.run
    told = []
    if side.rate is not None and (side.rate.rate is not None or side.rate.factor != 1):
        past = "" if side.rate.within_known else " (past the range its rule is known for)"
        told.append(f"learning rate {_rate(side.rate)}{past}")
    if side.schedule is not None and side.schedule.warm_up.steps:
        told.append(f"{counted(side.schedule.warm_up.steps, 'step')} of warm-up")
    if side.steps is not None:
        told.append(f"{counted(side.steps.per_epoch, 'step')} per epoch")
        if side.steps.total is not None and run.run_s is not None:
            told.append(f"{side.steps.total:,} in the run: {long_time(run.run_s)} +-{_error(side)}")
    if (used := energy_text(side)) is not None:
        told.append(used)
    if run.cost is not None:
        told.append(f"cost {rate(run.cost)}")
    lines = []
    if answer.before is not None:
        lines.append(
            f"The global batch is changed, as asked, from {answer.before.global_batch:,} to {side.global_batch:,}: all "
            "that follows stands below, before and after."
        )
    lines += _fewer_gpus(answer)
    if told:
        lines.append(f"{', '.join(told)[0].upper()}{', '.join(told)[1:]}")
    return [*lines, *_same_target(answer)]


def not_as_asked(answer: PlanAnswer) -> list[str]:
    """What a plan could not keep of what was asked, or planned otherwise."""
    side = answer.planned
    kept = side.global_batch == side.asked_global_batch
    return [*(() if kept else answer.warnings[:1]), *_fewer_gpus(answer)]


def _fewer_gpus(answer: PlanAnswer) -> list[str]:
    used = answer.planned.cut.gpus
    return [f"Planned on {used:,} of the {answer.gpus:,} GPUs: objective {answer.objective}."] * (used < answer.gpus)


def _same_target(answer: PlanAnswer) -> list[str]:
    """What the target takes with the planned global batch, where the run is known at another."""
    side, target = answer.planned, answer.target
    epochs = None if side.steps is None else side.steps.epochs
    if target is None or epochs is None or target.known_at == side.global_batch:
        return []
    here = (side.global_batch, side.cut.gpus)
    point = next((point for point in target.points if (point.global_batch, point.gpus) == here), None)
    if point is None or point.time_s is None:
        return []
    takes = span(*(f"{factor * epochs:.3g}" for factor in sorted(point.samples_factor)))
    if takes == f"{epochs:.3g}":  # as near as can be told
        return []
    return [
        f"Estimate by the critical batch: the target of {epochs_text(epochs)} at {target.known_at:,} takes "
        f"{takes} epochs here, {long_times(*sorted(point.time_s))}."
    ]


def _blocks(answer: PlanAnswer, format_: str) -> Iterator[list[str]]:
    yield [f"warning  {each}" for each in answer.warnings]
    if answer.changes:
        yield [_table(answer, "changes", format_)]
    yield [_table(answer, "cuts", format_)]
    yield [*_left_out(answer), *answer.reasons, *_memory(answer)]
    yield [*_learning_rate(answer), *_steps(answer), *_warm_up(answer.planned)]
    if answer.planned.schedule is not None:
        yield [_table(answer, "schedule", format_)]
    yield _time_and_money(answer)
    if answer.target is not None:
        yield [answer.target.sentence]
        yield [_table(answer, "target", format_)]
        yield [*_critical(answer.target.critical), *_closed_form(answer.target, answer.planned), _known(answer)]
    yield [
        f"Usual, not an answer: {each.low:,} to {each.high:,} {each.unit} for {each.task}{_remark(each.remark)}"
        for each in answer.usual
    ]
    yield [f"launch   {answer.launch}"]


# Parts ----------------------------------------------------------------------------------------------------------------


def _table(answer: PlanAnswer, name: str, format_: str) -> str:
    rows = TABLES[name](answer)
    if name == "cuts" and len(rows) > MOST_CUTS:
        last = [] if answer.planned.cuts[-1].fits else rows[-1:]
        rows = [*rows[: MOST_CUTS - len(last)], *last]
    return render_rows(rows, format_)


def _left_out(answer: PlanAnswer) -> list[str]:
    more = len(answer.planned.cuts) - MOST_CUTS
    return [f"--table cuts has {counted(more, 'slower cut')} more."] if more > 0 else []


def _memory(answer: PlanAnswer) -> list[str]:
    limit = answer.memory_limit_bytes
    held = (
        "the memory of this GPU is unknown"
        if limit is None
        else f"limit {gib(limit)} less a margin of {percent(answer.margin, 1)}"
    )
    return [f"Memory per GPU: {gib(answer.planned.memory_bytes)}; {held}."]


def _learning_rate(answer: PlanAnswer) -> list[str]:
    scaled = answer.planned.rate
    if scaled is None or (scaled.rule == "unchanged" and scaled.rate is None):
        return ["Learning rate: as you have it; --lr with --base-batch scales one that was tuned for another batch."]
    base = "the rate you have" if scaled.base_rate is None else f"{scaled.base_rate:g}"
    if scaled.rule == "unchanged":
        return [f"Learning rate: {_rate(scaled)}, taken as tuned for this global batch; --base-batch names another."]
    lines = [
        f"Learning rate: {_rate(scaled)}: {base} for {scaled.base_batch:,} samples per step x {scaled.factor:.4g} "
        f"for {scaled.batch:,} ({scaled.rule} rule of {answer.optimizer}: {scaled.source})."
    ]
    moved = [f"{c.name} {c.before:g} to {companion_text(c.after)}" for c in scaled.companions if c.after is not None]
    missing = [f"for {c.name}, {c.why}" for c in scaled.companions if c.after is None]
    if missing:
        lines.append(
            "Most recipes scale the rate alone, as here. The full rule also moves the betas and eps, but "
            f"{missing[0]}. Try a few rates around this one."
        )
    elif moved:
        lines.append(f"Most recipes scale the rate alone, as here. The full rule also moves {', '.join(moved)}.")
    return [*lines, *scaled.notes]


def _steps(answer: PlanAnswer) -> list[str]:
    steps = answer.planned.steps
    if steps is None:
        return ["Steps, schedule and time of the run: give --dataset-size and --epochs."]
    run = "" if steps.total is None else f", {steps.total:,} in {epochs_text(steps.epochs or 0)}"
    noun = answer.model.samples
    line = f"Steps: {steps.per_epoch:,} per epoch of {steps.dataset_size:,} {noun}{run}."
    if not steps.left_over:
        return [f"{line} No {noun} are left over."]
    if steps.drop_last:
        return [
            f"{line} The last {steps.left_over:,} {noun} of an epoch fill no whole step and are left out (drop_last); "
            "with shuffling they are others each time. --keep-last makes a smaller step of them."
        ]
    return [
        f"{line} The last of an epoch has {steps.left_over:,} {noun} instead of {steps.global_batch:,}: as a mean over "
        "fewer it is noisier at the same learning rate. Its time is counted as that of a whole one.",
        *_last_step(answer.planned.cut, steps.left_over, noun),
    ]


def _last_step(cut: Cut, left_over: int, noun: str) -> list[str]:
    """How the GPUs share a last, smaller step, and what accumulates in it."""
    each = -(-left_over // cut.gpus)
    said = []
    if cut.gpus > 1:
        repeated = each * cut.gpus - left_over
        equal = f" by repeating {repeated:,} of the epoch's {noun}" if repeated else ""
        said.append(f"In it each of the {cut.gpus:,} GPUs has {each:,}: DistributedSampler makes them equal{equal}.")
    micro_batches, rest = -(-each // cut.batch), each % cut.batch
    if cut.accumulation > 1:
        last = f", the last of {rest:,}" if rest else ""
        said.append(
            f"It accumulates {counted(micro_batches, 'micro-batch', 'micro-batches')}{last}, not "
            f"{cut.accumulation:,}: divide its summed losses by its own samples."
        )
    return [" ".join(said)] if said else []


def _warm_up(side: Side) -> list[str]:
    if side.schedule is None:
        return []
    warm_up, schedule = side.schedule.warm_up, side.schedule
    if not warm_up.steps:
        first = f"Warm-up: {warm_up.source}."
    else:
        share = f"{warm_up.start_factor:.4g} of the full rate" if warm_up.start_factor else "0"
        if side.rate is not None and side.rate.rate is not None:
            share = f"{side.rate.rate * warm_up.start_factor:.4g}"
        first = f"Warm-up: {counted(warm_up.steps, 'step')}, rising linearly from {share} ({warm_up.source})."
    return [first, f"Schedule: {schedule.shape}, per optimizer step ({schedule.source})."]


def _time_and_money(answer: PlanAnswer) -> list[str]:
    side, run = answer.planned, answer.planned.run
    step = f"{duration(run.step_s)} per step"
    if run.exchange_s:
        step += f", {duration(run.exchange_s)} of it gradient exchange as given"
    parts = [step]
    if run.epoch_s is not None:
        parts.append(f"{long_time(run.epoch_s)} per epoch")
    if run.run_s is not None and side.steps is not None:
        parts.append(f"{long_time(run.run_s)} for {epochs_text(side.steps.epochs or 0)}")
    lines = [
        f"Time: {', '.join(parts)}; +-{_error(side)} in the mean. It is that of the steps: waiting for data, "
        "evaluation and checkpoints come on top."
    ]
    gpus = counted(side.cut.gpus, "GPU")
    if run.energy_j is not None and run.power is not None:
        alone = "the GPU alone, " if side.cut.gpus == 1 else f"the {gpus} alone, each "
        lines.append(f"Energy: {energy_text(side)} ({alone}{run.power}).")
    elif run.power is None:
        lines.append("Energy: unknown, as the power of this GPU is; --power gives it.")
    if run.cost is not None and run.price_per_hour is not None:
        each = "an hour" if side.cut.gpus == 1 else "an hour each"
        lines.append(
            f"Cost: {rate(run.cost)} for {gpus} at {rate(run.price_per_hour)} {each}, as uncertain as the time."
        )
    elif run.price_per_hour is not None:
        lines.append("Cost: of a run whose length is unknown; give --dataset-size and --epochs.")
    return lines


def _critical(critical: CriticalBatch) -> list[str]:
    samples = span(_about(critical.low), _about(critical.high))
    lines = [f"Critical batch of {critical.title}: {samples} {critical.unit}, where samples to target have doubled."]
    for value in critical.values:
        error = "" if value.error is None else f", median error {percent(value.error)}"
        known = "" if value.measured is None else f", from batches {value.measured[0]:,} to {value.measured[1]:,}"
        if value.interval is not None:
            known = f", {percent(LEVEL)} interval {span(*map(_about, value.interval))}{known}"
        lines.append(f"  {_about(value.samples)} {value.unit}: {value.kind}{known}{error} ({value.source})")
        if value.note:
            lines[-1] += f"; {value.note}"
    assumed = critical.assumed
    return [*lines, *([f"{assumed[0].upper()}{assumed[1:]}."] if assumed else [])]


def _closed_form(target: Target, side: Side) -> list[str]:
    """The best global batch of the formula, beside that of the search."""
    if not target.t0_s or not target.t1_s:
        return []
    exchange = ", the exchange added to t0," if side.run.exchange_s else ""
    best = span(*(f"{end:,.0f}" for end in sorted(target.closed_form)))
    return [
        f"As a line a step on a GPU takes t0 = {duration(target.t0_s)} and t1 = {duration(target.t1_s)} per sample, "
        f"off by {percent(target.line_error)} at most. By the formula sqrt(GPUs x critical batch x "
        f"t0 / t1){exchange} the best is {best}; the search above takes the curve itself."
    ]


def _known(answer: PlanAnswer) -> str:
    """What the table of time to target takes as known."""
    steps, known_at = answer.planned.steps, answer.target.known_at if answer.target else 0
    epochs = "" if steps is None or steps.epochs is None else f" in {epochs_text(steps.epochs)}"
    return (
        f"Taken as known: the run reaches its target at a global batch of {known_at:,}{epochs}. Samples to target are "
        "relative to that; the rate is taken as tuned anew for each size."
    )


def _rate(scaled: ScaledRate) -> str:
    return f"x {scaled.factor:.4g}" if scaled.rate is None else f"{scaled.rate:.4g}"


def _error(side: Side) -> str:
    return percent(side.run.error.mean_abs_log)


def _about(samples: float) -> str:
    return f"{samples:,.0f}" if samples >= 100 else f"{samples:.3g}"


def _remark(remark: str) -> str:
    return f" ({remark})" if remark else ""


def _is_table(line: str) -> bool:
    return line.startswith("|")
