"""The batch sizes to try, as text: the traced GPU's in full, those of other GPUs and precisions in a few rows each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from advisor.cli.output import render_rows
from advisor.profiling.output.headline import printed_precision
from advisor.profiling.output.text import cell, clean, title
from advisor.profiling.records import Advice, CurvePoint, TraceProfile
from advisor.units import duration, gib, percent, rate

PRINTED_AS_FACTOR = 3.0
"""Throughputs this many times another are said so; smaller gains are per cents."""
MOST_SIZES = 10
"""Rows of the long table, but for the one that does not fit: sizes that say more come first."""
_KEY_ROLES = ("traced", "recommended", "knee", "fastest", "largest")
_ROUND = {"largest power of two"}  # the only role that a size has for being round
_BRIEF_ROLES = ("traced", "recommended", "largest")
_OTHER_PRECISION, _OTHER_GPU = "not calibrated: another precision", "not calibrated: another GPU"
_WHERE = {_OTHER_PRECISION: "in another precision", _OTHER_GPU: "on other GPUs"}


def answer_lines(profile: TraceProfile) -> list[str]:
    """The batch size to try on each GPU and in each precision: a line each."""
    return [_answer(advice, profile) for advice in profile.advice]


def advice_blocks(profile: TraceProfile, format_: str) -> list[list[str]]:
    """The first advice with its curve and reasons, the others in one table; each note is said once."""
    if not profile.advice:
        return []
    first, *others = profile.advice
    said: set[str] = set()
    blocks = [_full_block(first, profile, said, format_)]
    return [*blocks, _brief_block(others, profile, said, format_)] if others else blocks


def _answer(advice: Advice, profile: TraceProfile) -> str:
    speed = _speed(advice, advice.batch)
    base, over = next(
        ((_speed(other, other.traced_batch), "the traced run") for other in profile.advice
         if other.calibrated and other.gpu == advice.gpu),
        (_speed(advice, advice.traced_batch), f"batch {advice.traced_batch} there"),
    )  # fmt: skip
    gain = f", {_up_to(advice, profile)}{_gain(speed / base, over)}" if speed and base else ""
    return (
        f"Batch size to try on {_label(advice)}: {advice.batch}{f', {rate(speed)} samples/s' if speed else ''}{gain} "
        f"(predicted, +-{percent(advice.error)}; {_basis(advice, profile)}{_unsure(advice)})."
    )


def _unsure(advice: Advice) -> str:
    chosen = next((point for point in advice.points if point.batch == advice.batch), None)
    return "; memory unknown: may not fit" if chosen is not None and chosen.total_bytes is None else ""


def _up_to(advice: Advice, profile: TraceProfile) -> str:
    """A gain that lies in hidden waits more than in the kernels is less without the profiler, which slows the host."""
    hidden = advice.gain is not None and advice.kernel_gain is not None and advice.gain > advice.kernel_gain + 0.01
    return "up to " if hidden and profile.recorded is None else ""


def _gain(ratio: float, over: str) -> str:
    return f"{ratio:.3g} times {over}" if ratio >= PRINTED_AS_FACTOR else f"{100 * (ratio - 1):+.0f} % over {over}"


def _speed(advice: Advice, batch: int) -> float | None:
    return next((point.samples_per_s for point in advice.points if point.batch == batch), None)


def _recipe(advice: Advice) -> str:
    return printed_precision(advice.precision) + (
        " AMP" if advice.autocast and advice.precision in ("fp16", "bf16") else ""
    )


def _label(advice: Advice) -> str:
    return f"{clean(advice.gpu_name, 60)} in {_recipe(advice)}"


def _basis(advice: Advice, profile: TraceProfile) -> str:
    if advice.calibrated:
        return "calibrated on this trace"
    same = advice.gpu_name == profile.gpu.name or advice.gpu == profile.gpu.id
    return _OTHER_PRECISION if same else _OTHER_GPU


def _full_block(advice: Advice, profile: TraceProfile, said: set[str], format_: str) -> list[str]:
    shown = shown_sizes(advice)
    more = len(advice.points) - len(shown)
    lines = [*title(f"Batch sizes on {_label(advice)} ({_basis(advice, profile)})", format_)]
    if shown:
        lines += [render_rows([_row(point) for point in shown], format_), ""]
    reasons = [clean(reason, 400) for reason in advice.reasons]
    if more:
        reasons.append(f"--format json has {more} more size{'s' if more > 1 else ''}.")
    return [*lines, *_ended([*reasons, *_about([advice], said)], format_)]


def _brief_block(advices: Sequence[Advice], profile: TraceProfile, said: set[str], format_: str) -> list[str]:
    kinds = dict.fromkeys(_basis(advice, profile) for advice in advices)
    where = " and ".join(_WHERE[kind] for kind in kinds if kind in _WHERE)
    rows = [
        {"GPU": cell(advice.gpu_name, format_, 40), "precision": _recipe(advice), **_row(point)}
        for advice in advices
        for point in _with_roles(advice, _BRIEF_ROLES)
    ]
    for above, row in zip(rows[-2::-1], rows[:0:-1], strict=True):  # from below: a name is told where it changes
        if (above["GPU"], above["precision"]) == (row["GPU"], row["precision"]):
            row["GPU"] = row["precision"] = ""
    table = [render_rows(rows, format_), ""] if rows else []
    return [*title(f"Batch sizes {where} (predicted, not calibrated)", format_), *table,
            *_ended(_about(advices, said), format_)]  # fmt: skip


def _ended(lines: Iterable[str], format_: str) -> list[str]:
    return [f"{line}  " for line in lines] if format_ == "markdown" else list(lines)


def _row(point: CurvePoint) -> dict[str, str | None]:
    return {
        "batch": str(point.batch),
        "samples/s": rate(point.samples_per_s),
        "step": duration(point.step_s),
        "GPU busy": percent(point.busy_share),
        "memory": None if point.total_bytes is None else gib(point.total_bytes),
        "fits": {True: "yes", False: "no", None: None}[point.fits],
        "why listed": ", ".join(point.roles),
    }


def shown_sizes(advice: Advice) -> list[CurvePoint]:
    """Of all predicted sizes those that a reader needs: MOST_SIZES at most, and the first that does not fit.

    First those with a role, then the one below the traced size and the ones above it in turn, then what is left.
    """
    fitting = [point for point in advice.points if point.fits is not False]
    traced = advice.traced_batch
    wanted = [
        *_with_roles(advice, _KEY_ROLES),
        *[point for point in fitting if point.batch < traced][-1:],
        *[point for point in fitting if point.batch > traced and set(point.roles) <= _ROUND],
        *fitting,
    ]
    chosen = {point.batch: point for point in list(dict.fromkeys(wanted))[:MOST_SIZES]}
    too_large = [point for point in advice.points if point.fits is False and point.batch not in chosen]
    return sorted([*chosen.values(), *too_large[:1]], key=lambda point: point.batch)


def _with_roles(advice: Advice, roles: Sequence[str]) -> list[CurvePoint]:
    return [point for point in advice.points if set(roles) & set(point.roles)]


def _about(advices: Sequence[Advice], said: set[str]) -> list[str]:
    """Error, origin of the memory and notes, each once; with whose it is where it is not that of all."""
    tellers: tuple[tuple[str, Callable[[Advice], Iterable[str]]], ...] = (
        ("error", lambda advice: [f"{percent(advice.error, 1)} mean ({clean(advice.error_origin, 300)})"]),
        ("memory", lambda advice: [clean(advice.memory_origin, 300)]),
        ("note", lambda advice: [clean(note, 400) for note in advice.notes]),
    )
    lines = []
    for kind, tell in tellers:
        of: dict[str, list[Advice]] = {}
        for advice in advices:
            for text in tell(advice):
                of.setdefault(text, []).append(advice)
        lines += [f"{kind:<9}{_whose(text, those, advices)}{text}" for text, those in of.items() if text not in said]
        said.update(of)
    return lines


def _whose(text: str, those: Sequence[Advice], all_: Sequence[Advice]) -> str:
    """ "H100 in FP32: ", without the precision where it is of all of that GPU's; nothing where it is of all of all."""
    if len(those) == len(all_):
        return ""
    names = []
    for gpu in dict.fromkeys(advice.gpu for advice in those):
        of_gpu = [advice for advice in those if advice.gpu == gpu]
        name = clean(of_gpu[0].gpu_name, 60)
        whole = len(of_gpu) == sum(advice.gpu == gpu for advice in all_) > 1
        if not (whole and text.startswith(name)):
            names.append(name if whole else ", ".join(map(_label, of_gpu)))
    return f"{', '.join(names)}: " if names else ""
