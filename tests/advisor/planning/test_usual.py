"""Usual ranges, as context."""

from __future__ import annotations

import pytest

from advisor.planning.usual import usual_ranges
from advisor.workload.catalogue import load_workload


@pytest.mark.parametrize(
    ("model", "ranges"),
    [
        ("resnet50", [(256, 512)]),
        ("mobilenet_v2", [(256, 512), (64, 128)]),  # 3.5 million parameters: small
        ("unet", [(2, 16)]),
        ("bert-base", [(32, 512)]),
        ("gpt2", []),
        ("t5-small", []),
    ],
)
def test_a_task_has_its_usual_range(model: str, ranges: list[tuple[int, int]]) -> None:
    assert [(each.low, each.high) for each in usual_ranges(load_workload(model), "sgd")] == ranges


def test_detection_and_segmentation_are_counted_per_gpu() -> None:
    assert "per GPU" in usual_ranges(load_workload("unet"), "adam")[0].remark


def test_bert_is_trained_with_more_under_lamb() -> None:
    workload = load_workload("bert-large")
    assert usual_ranges(workload, "adamw")[0].remark == "larger with LAMB"
    assert "arXiv:1904.00962" in usual_ranges(workload, "lamb")[0].remark


def test_a_task_that_is_named_stands_before_the_models_own() -> None:
    workload = load_workload("resnet50")
    assert [(each.low, each.high) for each in usual_ranges(workload, "sgd", "detection")] == [(2, 16)]
    assert usual_ranges(workload, "sgd", "cifar10") == ()
