from __future__ import annotations

from dataclasses import replace

import pytest

from advisor.profiling.kernels.precision import read_precision
from advisor.profiling.records import Operation
from tests.advisor.profiling.profiles import ADD, CONVOLUTION, GROUP, memory_bound

CAST = Operation("aten::copy_", "aten::to", "forward", ((64,), (64,)), ("c10::Half", "float"), (), None, "copy")
HALF = replace(CONVOLUTION, types=("c10::Half", "c10::Half", ""))


def test_the_names_of_the_products_tell() -> None:
    assert read_precision([GROUP], [CONVOLUTION]) == "fp32"
    assert read_precision([replace(GROUP, precision="tf32")], [CONVOLUTION]) == "tf32"


def test_the_operators_types_tell_where_the_name_does_not() -> None:
    assert read_precision([replace(GROUP, precision=None)], [HALF]) == "fp16"


def test_weights_that_are_cast_make_it_amp() -> None:
    groups = [replace(GROUP, precision="fp16"), memory_bound("copy", "elementwise", total_s=1e-3, count=1)]
    assert read_precision(groups, [HALF, CAST]) == "fp16 AMP"
    assert read_precision(groups, [HALF, ADD]) == "fp16"


def test_a_small_share_of_another_precision_is_not_a_mix() -> None:
    tf32 = replace(GROUP, precision="tf32")
    assert read_precision([tf32, replace(GROUP, total_s=tf32.total_s / 100)], [CONVOLUTION]) == "tf32"
    assert (
        read_precision([tf32, replace(GROUP, total_s=3 * tf32.total_s)], [CONVOLUTION]) == "mixed: 75 % fp32, 25 % tf32"
    )


@pytest.mark.parametrize("groups", [[], [memory_bound("add", "elementwise", total_s=1e-3, count=1)]])
def test_nothing_is_claimed_without_products(groups: list) -> None:
    assert read_precision(groups, [CONVOLUTION, ADD]) == "unknown"
