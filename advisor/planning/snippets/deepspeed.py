"""DeepSpeed's configuration file. What it cannot say is in `notes.deepspeed_notes`."""

from __future__ import annotations

import json
from typing import Any

from advisor.planning.snippets.facts import Facts

LEAST_WARM_UP = 3  # steps; DeepSpeed makes a warm-up of fewer than 2 one of 2, and ours starts one step later
Config = dict[str, Any]


def config(facts: Facts) -> str:
    """The configuration as JSON; what the user must fill in is a text, which no optimizer takes for a number."""
    cut = facts.cut
    content: Config = {
        "train_batch_size": cut.global_batch,
        "train_micro_batch_size_per_gpu": cut.batch,
        "gradient_accumulation_steps": cut.accumulation,
    }
    if (optimizer := _optimizer(facts)) is not None:
        content["optimizer"] = optimizer
    if (scheduler := make_scheduler(facts)) is not None:
        content["scheduler"] = scheduler
    if facts.settings.autocast:
        dtype = "float16" if facts.settings.precision == "fp16" else "bfloat16"
        content["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return json.dumps(content, indent=2) + "\n"


def make_scheduler(facts: Facts) -> Config | None:
    """DeepSpeed's own scheduler where one has the plan's rate after warm-up; None where none has, or none is planned.

    DeepSpeed's schedulers start one step late: step s has the rate of their index s - 1 (lr_schedules.py: the first
    `step()` comes after the first update and makes the index 0). Counts that are one less make up for it in WarmupLR,
    from step 1 on, and in the decay of WarmupDecayLR, which ends at the rate that warm-up starts from, so at 0 only if
    that does. WarmupCosineLR makes up for it by itself in its cosine, not in its warm-up.
    """
    schedule = facts.schedule
    if schedule is None or schedule.warm_up.steps < LEAST_WARM_UP:
        return None
    warm, total, start = schedule.warm_up.steps, schedule.total_steps, schedule.warm_up.start_factor
    rate = _rate(facts)
    if schedule.shape == "cosine":
        params: Config = {"total_num_steps": total, "warmup_min_ratio": start, "warmup_num_steps": warm}
        return {"type": "WarmupCosineLR", "params": {**params, "cos_min_ratio": 0.0, "warmup_type": "linear"}}
    late = {"warmup_max_lr": rate, "warmup_num_steps": warm - 1, "warmup_type": "linear"}
    if schedule.shape == "linear" and start == 0:
        return {"type": "WarmupDecayLR", "params": {"total_num_steps": total - 1, "warmup_min_lr": 0.0, **late}}
    if schedule.shape == "constant":
        first = start + (1 - start) / warm  # of step 1
        least = rate * first if isinstance(rate, float) else f"FILL IN: {first!r} x warmup_max_lr"
        return {"type": "WarmupLR", "params": {"warmup_min_lr": least, **late}}
    return None


def _optimizer(facts: Facts) -> Config | None:
    """The optimizer's block; None for LARS, which DeepSpeed has not."""
    rate: Config = {"lr": _rate(facts)}
    adam: Config = {**rate, "betas": list(facts.betas), "eps": facts.eps, "weight_decay": 0.0}
    match facts.optimizer:
        case "sgd":  # by its name in torch.optim
            return {"type": "SGD", "params": {**rate, "momentum": facts.momentum, "weight_decay": 0.0}}
        case "adam":  # DeepSpeed takes AdamW for "Adam" unless told otherwise
            return {"type": "Adam", "params": {**adam, "adam_w_mode": False}}
        case "adamw":
            return {"type": "AdamW", "params": adam}
        case "lamb":
            return {"type": "Lamb", "params": adam}
        case "lars":
            return None


def _rate(facts: Facts) -> float | str:
    rate = facts.rate
    if rate is None:
        return "FILL IN: the learning rate of this global batch"
    if rate.rate is None:
        return f"FILL IN: {rate.factor!r} x the learning rate tuned for {rate.base_batch} samples per step"
    return rate.rate
