"""What a plan is asked for: values that are refused, in one line that names the way out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from advisor.errors import AdvisorError, BadInputError
from advisor.planning.build import plan


def asked(**options: Any) -> None:
    plan("resnet18", gpu="rtx-3060", **{"global_batch": 64, "input_shape": (3, 32, 32), "max_batch": 64, **options})


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
    ],
)
def test_values_of_another_type_are_named_not_computed_with(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInputError, match=named):
        asked(**options)


def test_records_may_be_one_path() -> None:
    with pytest.raises(AdvisorError, match=r"nowhere\.db does not exist"):
        asked(records="nowhere.db")
