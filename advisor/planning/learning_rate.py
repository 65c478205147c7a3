"""How a learning rate goes from the batch size it was tuned for to another: a rule per optimizer, each with the range
in which it was shown to hold. Nothing here changes a rate: it returns a record of what the rule says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from advisor.errors import BadInputError, UnknownNameError
from advisor.planning import sources
from advisor.planning.records import PLAN_OPTIMIZERS, Companion, PlanOptimizer, ScaledRate
from advisor.step import check_count, is_number

RATES = (1e-15, 1e6)  # what an optimizer can use, and no slip of the keys
MAX_GLOBAL_BATCH = 1 << 30  # samples per optimizer step
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # defaults of torch.optim.Adam and AdamW


@dataclass(frozen=True)
class _Rule:
    """What is known of one optimizer."""

    name: Literal["linear", "square root"]
    power: float  # the rate goes with the batch to this power
    known_to: int  # samples per step
    known_where: str
    source: str
    evidence: str  # what was seen, and how far
    beyond: str


_SGD = _Rule(
    name="linear", power=1, known_to=8192, known_where="ResNet-50 on ImageNet", source=sources.GOYAL_2017,
    evidence="Shown with ResNet-50 on ImageNet, to 8,192 images per step",
    beyond=f"LARS reached 32,768 images there ({sources.YOU_2017}), and so did well tuned Nesterov momentum "
    f"({sources.NADO_2021})",
)  # fmt: skip
_ADAM = _Rule(
    name="square root", power=0.5, known_to=8192, known_where="RoBERTa pre-training",
    source=f"{sources.MALLADI_2022}; its range: {sources.LIU_2019}",
    evidence="Rates tuned for RoBERTa rise somewhat faster: 1e-4 at 256 sequences, 7e-4 at 2,048, 1e-3 at 8,192; by "
    "the rule 2.8e-4 and 5.7e-4",
    beyond=f"LAMB reached 32,768 sequences on BERT, where AdamW missed the target at 16,384 ({sources.YOU_2019}); "
    f"better tuned, Adam reached 32,768, too ({sources.NADO_2021})",
)  # fmt: skip
_RULES: dict[PlanOptimizer, _Rule] = {
    "sgd": _SGD,
    "adam": _ADAM,
    "adamw": _ADAM,
    "lars": _Rule(
        name="square root", power=0.5, known_to=32768, known_where="ResNet-50 on ImageNet",
        source=f"the tuned rates of {sources.GINSBURG_2018}; its range: {sources.YOU_2017}",
        evidence=f"LARS is often run with linear scaling and warm-up ({sources.TENSORFLOW_LARS}), but the rates its "
        "authors tuned for ResNet-50 on ImageNet follow the root: 4 at 256 images, 30 at 8,192, 40 at 32,768, where "
        "the root makes 45 and linear scaling 512",
        beyond="no rule is known to hold there, so tune the rate anew; MLPerf's reference points reach 67,840 images "
        f"with LARS ({sources.MLPERF_RCP})",
    ),
    "lamb": _Rule(
        name="square root", power=0.5, known_to=32768, known_where="BERT-Large pre-training", source=sources.YOU_2019,
        evidence="Shown with BERT-Large pre-training, to 32,768 sequences per step",
        beyond="no rule is known to hold there, so tune the rate anew; with sequences of length 128 it reached 65,536 "
        f"({sources.YOU_2019})",
    ),
}  # fmt: skip


def check_optimizer(name: str) -> PlanOptimizer:
    """Return the optimizer of this name, however it is cased; raise UnknownNameError where a plan knows none."""
    known = name.strip().lower() if isinstance(name, str) else name
    if known not in PLAN_OPTIMIZERS:
        raise UnknownNameError("optimizer", str(name), PLAN_OPTIMIZERS, f"A plan knows {', '.join(PLAN_OPTIMIZERS)}.")
    return cast(PlanOptimizer, known)


def scale_rate(optimizer: str, *, batch: int, base_batch: int, lr: float | None = None) -> ScaledRate:
    """What the optimizer's rule makes of a rate tuned for `base_batch` samples per step, at `batch` samples per step.

    rate = lr * (batch / base_batch) ** power, power 1 for SGD with momentum, 1/2 for Adam, AdamW, LARS and LAMB;
    also downwards. `within_known` holds the larger of the two batches against the range. Without `lr` the factor
    alone is known.

    Raises UnknownNameError for an optimizer no rule is known of, BadInputError for batch sizes that are no whole
    numbers from 1 to `MAX_GLOBAL_BATCH` and a rate that is no number within `RATES`, given or scaled.
    """
    optimizer = check_optimizer(optimizer)
    batch = check_count("global batch", batch, limit=MAX_GLOBAL_BATCH)
    base_batch = check_count("base batch", base_batch, limit=MAX_GLOBAL_BATCH)
    rule = _RULES[optimizer]
    kappa = batch / base_batch
    factor = kappa**rule.power
    base_rate = None if lr is None else check_rate("learning rate", lr)
    rate = None if base_rate is None else check_rate("scaled learning rate", base_rate * factor)
    within = max(batch, base_batch) <= rule.known_to
    same = batch == base_batch
    return ScaledRate(
        rule="unchanged" if same else rule.name,
        base_batch=base_batch,
        batch=batch,
        factor=factor,
        base_rate=base_rate,
        rate=rate,
        known_to=rule.known_to,
        known_where=rule.known_where,
        within_known=within,
        source=rule.source,
        beyond=None if within else rule.beyond,
        companions=_adam_companions(kappa) if optimizer in ("adam", "adamw") and not same else (),
        notes=() if same else _notes(optimizer, rule, kappa),
    )


def check_rate(what: str, value: float) -> float:
    """Return a rate if it is a number within `RATES`; otherwise raise BadInputError."""
    least, most = RATES
    if not is_number(value) or not least <= value <= most:  # also where it is NaN
        raise BadInputError(f"{what} {value!r} is no positive number from {least:g} to {most:g}: give one such as 0.1")
    return float(value)


def _adam_companions(kappa: float) -> tuple[Companion, ...]:
    """What the square root rule moves beside the rate (Malladi et al. 2022, definition 5.3).

    With kappa = batch / base batch: beta' = 1 - kappa (1 - beta), where that is above 0; eps' = eps / sqrt(kappa).
    """
    return (
        _beta("beta1", ADAM_BETA1, kappa),
        _beta("beta2", ADAM_BETA2, kappa),
        Companion("eps", before=ADAM_EPS, after=ADAM_EPS / math.sqrt(kappa), why=None),
    )


def _beta(name: str, before: float, kappa: float) -> Companion:
    moved = round(1 - kappa * (1 - before), 12)  # 1 - 10 x (1 - 0.9) is 2e-16 to a computer
    if 0 < moved < 1:
        return Companion(name, before=before, after=moved, why=None)
    return Companion(
        name, before=before, after=None,
        why=f"1 - {kappa:g} x (1 - {before:g}) is not above 0, so the rule has no value here",
    )  # fmt: skip


def _notes(optimizer: PlanOptimizer, rule: _Rule, kappa: float) -> tuple[str, ...]:
    notes = [f"{rule.evidence}. For another model this is the nearest evidence, not a proof."]
    if kappa < 1:
        notes.append(
            "A smaller batch has the noisier gradient, so its rate is lower: at the larger batch's it may diverge."
        )
    if optimizer == "sgd":
        notes.append(
            "PyTorch multiplies the velocity by the rate, so momentum needs no correction when the rate changes "
            f"({sources.GOYAL_2017}, remark 2)."
        )
    if optimizer in ("adam", "adamw"):
        notes.append(
            "The rule stands on gradients that are mostly noise: it weakens as the batch nears the critical one."
        )
    if optimizer == "adamw":
        root = math.sqrt(kappa)
        notes.append(
            "PyTorch's AdamW shrinks weights by rate x weight decay each step, so an epoch shrinks them "
            f"{1 / root:.3g} times as much as before; {root:.3g} times the weight decay would keep it."
        )
    return tuple(notes)
