"""What a plan is asked for: values that are refused, in one line that names the way out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from advisor.errors import AdvisorError, BadInputError
from advisor.planning.build import TrainingPlan, plan


def asked(**options: Any) -> TrainingPlan:
    return plan(
        "resnet18", gpu="rtx-3060", **{"global_batch": 64, "input_shape": (3, 32, 32), "max_batch": 64, **options}
    )


@pytest.mark.parametrize("watts", [0, 0.5, -3, 2e5, math.nan, math.inf, "300", True])
def test_power_is_that_of_a_gpu(watts: Any) -> None:
    with pytest.raises(BadInputError, match=r"no number of watts from 1 to 100000: give what one GPU draws"):
        asked(power_w=watts)


@pytest.mark.parametrize("seconds", [0, 0.0, -1, math.nan, 90_000, "12ms"])
def test_no_exchange_is_said_by_leaving_it_out(seconds: Any) -> None:
    with pytest.raises(BadInputError, match="give what you measured, or leave it out"):
        asked(gpus=2, exchange_s=seconds)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs": "3", "dataset_size": 1000}, "epochs '3' is no number"),
        ({"epochs": 3, "dataset_size": "1000"}, "dataset size '1000' is no whole number"),
        ({"epochs": 3, "dataset_size": 1e6}, "dataset size 1000000.0 is no whole number"),
        ({"task": 3}, "task 3 is no name"),
        ({"drop_last": "no", "dataset_size": 1000}, "drop_last 'no' is neither True nor False"),
    ],
)
def test_values_of_another_type_are_named_not_computed_with(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInputError, match=named):
        asked(**options)


def test_records_may_be_one_path() -> None:
    with pytest.raises(AdvisorError, match=r"nowhere\.db does not exist"):
        asked(records="nowhere.db")


def test_numbers_of_numpy_are_numbers() -> None:
    options = {
        "global_batch": 60, "gpus": 2, "lr": 0.25, "base_batch": 30, "dataset_size": 1000, "epochs": 2.5,
        "warmup_epochs": 0.5, "change_global_batch": 30, "critical_batch": 900, "price": 2.5, "power_w": 250,
        "exchange_s": 0.125, "max_batch": 32,
    }  # fmt: skip
    kinds = {int: np.int64, float: np.float32}  # what these hold exactly
    same = asked(**{name: kinds[type(value)](value) for name, value in options.items()})
    assert same.to_json() == asked(**options).to_json()
    steps = {"dataset_size": 1000, "epochs": 3}
    assert asked(warmup_steps=np.int32(4), **steps).to_json() == asked(warmup_steps=4, **steps).to_json()


def test_a_model_of_your_own_is_planned() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 10),
    )  # fmt: skip
    answer = plan(
        model, gpu="rtx-3060", input_shape=(3, 32, 32), global_batch=100, gpus=2, lr=0.1, dataset_size=1000, epochs=3
    ).answer
    assert answer.planned.cut.batch * answer.planned.cut.accumulation == 50
    assert answer.planned.cuts[0].batch_norm_samples == answer.planned.cut.batch
    assert answer.planned.steps is not None
    assert answer.planned.steps.total == 30
    assert answer.model.samples == "images"


def test_the_bounds_of_power_and_exchange_are_themselves_allowed() -> None:
    power = asked(power_w=1).answer.planned.run.power
    assert power is not None
    assert power.watts == 1
    assert asked(gpus=2, exchange_s=86_400).answer.planned.run.exchange_s == 86_400


def test_more_gpus_than_65536_are_refused() -> None:
    with pytest.raises(BadInputError, match="number of GPUs 65537 is no whole number from 1 to 65536"):
        asked(gpus=65_537, global_batch=65_537)


def test_the_cheapest_global_batch_needs_a_critical_batch() -> None:
    with pytest.raises(BadInputError, match=r"no critical batch is known for U-Net.*give --critical-batch"):
        plan("unet", gpu="rtx-3060", global_batch=4, max_batch=8, objective="cost", change_global_batch="best")


def test_the_task_that_is_named_also_says_what_is_usual() -> None:
    assert [each.task for each in asked(task="detection").answer.usual] == ["detection and segmentation"]


def test_sizes_recommended_for_throughput_are_searched_as_far_as_asked() -> None:
    target = asked(gpus=2, max_batch=16, task="cifar10").answer.target
    assert target is not None
    assert target.most_throughput <= 2 * 16


def test_the_best_global_batch_is_shared_equally_whatever_was_asked() -> None:
    changed = asked(gpus=8, global_batch=1001, max_batch=1024, task="cifar10", change_global_batch="best").answer
    assert changed.planned.global_batch % 8 == 0
    assert changed.other_global_batches == ()
    assert not [warning for warning in changed.warnings if "equally" in warning]
