from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from advisor.convolution import Convolution, Pass
from advisor.convolution_time import (
    convolution_op,
    convolution_profile_bytes,
    fp32_convolution_times,
    load_convolution_profile,
    parse_convolution_profile,
    tensor_sizes,
    winograd_applies,
    winograd_product,
)
from advisor.errors import BrokenFileError
from advisor.gpus import find_gpu
from advisor.profile import load_profile

V100 = find_gpu("v100-sxm2-16gb")
GEMM = load_profile(V100)
PLAIN = Convolution(32, 256, 14, 14, 256, 3, 3, pad_h=1, pad_w=1)
POINTWISE = Convolution(32, 256, 14, 14, 1024, 1, 1)


def test_winograds_products_cover_the_image_in_tiles_of_four() -> None:
    # recorded on a V100: 36 products of 512 x 256 x 256 for 32 images of 14x14, 256 channels
    assert winograd_product(PLAIN, "fprop") == (512, 256, 256, 36)
    odd = Convolution(2, 16, 7, 9, 32, 3, 3, pad_h=1, pad_w=1)  # 2 x 3 tiles an image
    assert winograd_product(odd, "fprop") == (12, 32, 16, 36)
    assert winograd_product(odd, "dgrad") == (12, 16, 32, 36)
    assert winograd_product(odd, "wgrad") == (32, 16, 12, 36)
    assert winograd_product(odd, "fprop", fused=True) == (2 * 4 * 5, 32, 16, 16)


@pytest.mark.parametrize(
    "layer, applies",
    [
        (PLAIN, True),
        (POINTWISE, False),
        (Convolution(8, 64, 56, 56, 64, 3, 3, 2, 2, 1, 1), False),
        (Convolution(8, 3, 224, 224, 64, 3, 3, pad_h=1, pad_w=1), False),
        (Convolution(8, 64, 56, 56, 64, 3, 3, pad_h=2, pad_w=2, dilation_h=2, dilation_w=2), False),
        (Convolution(8, 64, 56, 56, 64, 3, 3, pad_h=1, pad_w=1, groups=32), False),
    ],
)
def test_winograd_is_for_plain_3x3_filters_of_many_channels(layer: Convolution, applies: bool) -> None:
    assert winograd_applies(layer) is applies


def test_the_fastest_algorithm_is_taken_where_none_is_known() -> None:
    free = fp32_convolution_times([(PLAIN, "fprop")], V100, GEMM)
    known = [
        fp32_convolution_times([(PLAIN, "fprop")], V100, GEMM, algorithms=[algorithm])
        for algorithm in ("implicit", "winograd", "winograd fused")
    ]
    assert free.seconds[0] == min(times.seconds[0] for times in known)
    assert [times.algorithms[0] for times in known] == ["implicit", "winograd", "winograd fused"]


def test_the_order_of_calls_is_kept() -> None:
    calls: list[tuple[Convolution, Pass]] = [(POINTWISE, "wgrad"), (PLAIN, "dgrad"), (POINTWISE, "fprop")]
    together = fp32_convolution_times(calls, V100, GEMM)
    alone = [fp32_convolution_times([call], V100, GEMM).seconds[0] for call in calls]
    assert together.seconds == pytest.approx(alone)


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("layer", [PLAIN, POINTWISE])
def test_whole_tiles_and_waves_are_never_slower(layer: Convolution, pass_: Pass) -> None:
    found = fp32_convolution_times([(layer, pass_)], V100, GEMM)
    assert 0 < found.unquantized_s[0] <= found.seconds[0]


def test_direct_convolutions_never_pass_the_peak() -> None:
    sizes = itertools.product((1, 32, 256), (64, 1024), (64, 1024))
    calls: list[tuple[Convolution, Pass]] = [(Convolution(n, c, 28, 28, k, 1, 1), "fprop") for n, c, k in sizes]
    found = fp32_convolution_times(calls, V100, GEMM)
    flops = np.array([float(layer.flops()) for layer, _ in calls])
    peak = V100.peak_flops_per_s("fp32")
    assert peak is not None and (flops / found.seconds < peak).all()


def test_another_architecture_takes_no_correction_beside_a_v100s_layers() -> None:
    a100 = find_gpu("a100-sxm4-80gb")
    profile = load_convolution_profile()
    plain = msgspec.structs.replace(profile, nearby={})
    times = [
        fp32_convolution_times([(POINTWISE, "fprop")], a100, load_profile(a100), profile=p).seconds[0]
        for p in (profile, plain)
    ]
    assert times[0] == times[1]
    on_v100 = [
        fp32_convolution_times([(POINTWISE, "fprop")], V100, GEMM, profile=p).seconds[0] for p in (profile, plain)
    ]
    assert on_v100[0] != on_v100[1]


def test_an_operation_counts_each_tensor_once() -> None:
    x, y, weight = tensor_sizes(POINTWISE)
    assert (x, y, weight) == (32 * 256 * 196, 32 * 1024 * 196, 256 * 1024)
    op = convolution_op(POINTWISE, "dgrad", precision="fp16")
    assert (op.kind, op.dtype) == ("conv_dgrad", "fp16")
    assert (op.read_bytes, op.write_bytes) == ((2 * (y + weight), 0), (2 * x, 0))
    assert convolution_op(POINTWISE, "wgrad", precision="tf32").write_bytes == (4 * weight, 0)


def test_the_shipped_profile_names_its_origin_and_its_errors() -> None:
    profile = load_convolution_profile()
    assert "DeepBench" in profile.origin and "NeuSight" in profile.origin
    assert set(profile.held_out) == {"fprop", "dgrad", "wgrad"}
    assert all(0 < error.mean < 0.35 and error.rows > 50 for error in profile.held_out.values())


def test_a_profile_survives_its_file() -> None:
    profile = load_convolution_profile()
    assert parse_convolution_profile(convolution_profile_bytes(profile), "again") == profile


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schema_version": 9}, "version 9"),
        ({"fused_factor": 0.0}, "fused_factor is 0.0, no positive number"),
        ({"winograd_bandwidth": float("inf")}, None),
        ({"values": {"conv.prologue_k": -1.0}}, "conv.prologue_k is -1.0"),
    ],
)
def test_a_damaged_profile_names_the_place_and_the_cure(changes: dict[str, object], message: str | None) -> None:
    damaged = msgspec.structs.replace(load_convolution_profile(), **changes)
    with pytest.raises(BrokenFileError, match="fit-convolutions") as raised:
        parse_convolution_profile(convolution_profile_bytes(damaged), "damaged")
    assert message is None or message in str(raised.value)
