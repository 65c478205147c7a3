"""Batch sizes people commonly train with, by task: context for a plan, never its answer."""

from __future__ import annotations

from advisor.planning.records import PlanOptimizer, UsualRange
from advisor.planning.sources import YOU_2019
from advisor.recommendation import samples_of
from advisor.workload import Workload

SMALL_PARAMETERS = 10_000_000  # a model with fewer is small: MobileNet, EfficientNet-B0


# A task that the user names, as in `advisor.planning.critical_batch`, and what such workloads call theirs.
_NAMED = {"imagenet": "image classification", "detection": "object detection", "bert": "masked language modelling"}


def usual_ranges(workload: Workload, optimizer: PlanOptimizer, task: str | None = None) -> tuple[UsualRange, ...]:
    """Usual global batch sizes of a task, left out: the model's own; empty where none is commonly named.

    What public guides and recipes name: nothing is derived from them.
    """
    unit = samples_of(workload)
    named = workload.task if task is None else _NAMED.get(task.strip().lower(), "")
    if named == "image classification":
        ranges = [UsualRange("image classification", 256, 512, unit, "ImageNet, over several GPUs")]
        if workload.parameters < SMALL_PARAMETERS:
            ranges.append(UsualRange("image classification", 64, 128, unit, "small models, on one GPU"))
        return tuple(ranges)
    if named in ("segmentation", "object detection"):
        return (UsualRange("detection and segmentation", 2, 16, unit, "per GPU: images are large"),)
    if named == "masked language modelling":
        larger = f"with LAMB far larger ones, up to 32,768 in {YOU_2019}" if optimizer == "lamb" else "larger with LAMB"
        return (UsualRange("BERT", 32, 512, unit, larger),)
    return ()
