from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advisor.convolution import Convolution, Gemm, Pass
from advisor.errors import BadInputError

PASSES: tuple[Pass, ...] = ("fprop", "dgrad", "wgrad")


@st.composite
def convolutions(draw: st.DrawFn, max_stride: int = 3) -> Convolution:
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    filter_h, filter_w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dilation_h, dilation_w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    pad_h, pad_w = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    assume(height + 2 * pad_h > dilation_h * (filter_h - 1) and width + 2 * pad_w > dilation_w * (filter_w - 1))
    return Convolution(
        draw(st.integers(1, 4)), groups * draw(st.integers(1, 3)), height, width, groups * draw(st.integers(1, 3)),
        filter_h, filter_w, draw(st.integers(1, max_stride)), draw(st.integers(1, max_stride)), pad_h, pad_w,
        dilation_h, dilation_w, groups,
    )  # fmt: skip


def multiply_adds_one_by_one(conv: Convolution) -> tuple[int, int, int]:
    """Count along both sides by walking over (output pixel, tap): (all, those inside, those that dgrad computes)."""
    every, inside, reached = [], [], []
    for size, out, taps, stride, pad, dilation in (
        (conv.height, conv.out_height, conv.filter_h, conv.stride_h, conv.pad_h, conv.dilation_h),
        (conv.width, conv.out_width, conv.filter_w, conv.stride_w, conv.pad_w, conv.dilation_w),
    ):
        pairs = [(p, r) for p in range(out) for r in range(taps)]
        every.append(len(pairs))
        inside.append(sum(0 <= p * stride + r * dilation - pad < size for p, r in pairs))
        reached.append(sum((h + pad - r * dilation) % stride == 0 for h in range(size) for r in range(taps)))
    scale = 2 * conv.batch * conv.c_out * (conv.c_in // conv.groups)
    return tuple(scale * a * b for a, b in (every, inside, reached))


def test_resnet50_3x3_layer_has_the_gemm_sizes_of_nvidias_table() -> None:
    conv = Convolution(32, 64, 56, 56, 128, 3, 3, pad_h=1, pad_w=1)
    assert conv.gemms("fprop") == (Gemm(32 * 56 * 56, 128, 64 * 9),)
    assert conv.gemms("dgrad") == (Gemm(32 * 56 * 56, 64, 128 * 9),)
    assert conv.gemms("wgrad") == (Gemm(128, 64 * 9, 32 * 56 * 56),)
    assert {conv.flops(p) for p in PASSES} == {2 * 32 * 56 * 56 * 128 * 64 * 9}


def test_strided_dgrad_is_four_products_whose_work_is_that_of_fprop() -> None:
    conv = Convolution(32, 128, 56, 56, 128, 3, 3, stride_h=2, stride_w=2, pad_h=1, pad_w=1)
    parts = conv.gemms("dgrad")  # rows at even (pixel + pad) meet taps 0 and 2, the odd ones tap 1
    assert sorted(int(part.k) // 128 for part in parts) == [1, 2, 2, 4]
    assert all(part.m == 32 * 28 * 28 for part in parts)
    assert conv.flops("dgrad") == conv.flops("fprop") == conv.flops("wgrad")


def test_1x1_at_stride_2_reaches_a_quarter_of_the_image_in_one_product() -> None:
    conv = Convolution(8, 256, 56, 56, 512, 1, 1, stride_h=2, stride_w=2)
    assert conv.gemms("dgrad") == (Gemm(8 * 28 * 28, 256, 512),)
    assert conv.flops("dgrad") == conv.flops()


def test_groups_are_equal_independent_products() -> None:
    conv = Convolution(2, 256, 14, 14, 256, 3, 3, pad_h=1, pad_w=1, groups=32)  # ResNeXt-50
    assert conv.gemms("fprop") == (Gemm(2 * 14 * 14, 8, 72, 32),)
    assert conv.flops() == 2 * 2 * 14 * 14 * 256 * 8 * 9


def test_stem_of_resnet50_counts_what_the_flop_counter_counts() -> None:
    conv = Convolution(1, 3, 224, 224, 64, 7, 7, 2, 2, 3, 3)
    assert (conv.out_height, conv.out_width) == (112, 112)
    assert conv.flops() == 236_027_904  # 2 x 112^2 x 64 x 3 x 49
    assert conv.flops("dgrad") == conv.flops()


@given(convolutions(max_stride=1))
def test_at_stride_1_the_useful_work_is_all_of_it_but_the_padding(conv: Convolution) -> None:
    assert conv.useful_flops <= min(conv.flops(p) for p in PASSES)
    if conv.pad_h == conv.pad_w == 0:
        assert conv.useful_flops == conv.flops("fprop") == conv.flops("wgrad") <= conv.flops("dgrad")
    if (conv.out_height, conv.out_width) == (conv.height, conv.width):  # "same" padding
        assert conv.flops("fprop") == conv.flops("dgrad") == conv.flops("wgrad")


@given(convolutions())
def test_every_count_matches_a_walk_over_pixels_and_taps(conv: Convolution) -> None:
    every, inside, reached = multiply_adds_one_by_one(conv)
    assert (conv.flops("fprop"), conv.flops("wgrad"), conv.useful_flops, conv.flops("dgrad")) == (
        every, every, inside, reached
    )  # fmt: skip


@given(convolutions())
def test_dgrad_does_fprops_work_exactly_where_the_output_times_the_stride_is_the_image(conv: Convolution) -> None:
    if conv.out_height * conv.stride_h == conv.height and conv.out_width * conv.stride_w == conv.width:
        assert conv.flops("dgrad") == conv.flops("fprop")


@given(convolutions(), st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_a_sweep_over_the_batch_gives_what_each_batch_alone_gives(conv: Convolution, batches: list[int]) -> None:
    from dataclasses import replace

    sweep = replace(conv, batch=np.array(batches))
    for pass_ in PASSES:
        expected = [replace(conv, batch=batch).flops(pass_) for batch in batches]
        assert np.broadcast_to(sweep.flops(pass_), len(batches)).tolist() == expected


def test_torch_agrees_on_output_sizes_and_flops() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    for conv in (
        Convolution(2, 6, 17, 19, 4, 3, 5, 2, 1, 1, 2, 2, 1, 2),
        Convolution(1, 8, 9, 9, 8, 3, 3, 1, 1, 0, 0, 1, 1, 8),
    ):
        layer = torch.nn.Conv2d(
            conv.c_in, conv.c_out, (conv.filter_h, conv.filter_w), (conv.stride_h, conv.stride_w),
            (conv.pad_h, conv.pad_w), (conv.dilation_h, conv.dilation_w), conv.groups, bias=False, device="meta",
        )  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            out = layer(torch.empty(conv.batch, conv.c_in, conv.height, conv.width, device="meta"))
        assert out.shape == (conv.batch, conv.c_out, conv.out_height, conv.out_width)
        assert counter.get_total_flops() == conv.flops()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch"),
        ({"c_in": 6, "groups": 4}, "groups"),
        ({"height": 2}, "smaller than the filter"),
        ({"stride_h": 0}, "stride_h"),
        ({"pad_w": -1}, "pad_w"),
        ({"filter_h": 1.5}, "filter_h"),
        ({"stride_h": np.array([1, 2])}, "one whole number"),
    ],
)
def test_what_is_no_convolution_is_refused(change: dict[str, object], message: str) -> None:
    usual = {"batch": 1, "c_in": 8, "height": 8, "width": 8, "c_out": 8, "filter_h": 3, "filter_w": 3}
    with pytest.raises(BadInputError, match=message):
        Convolution(**{**usual, **change})


def test_an_unknown_pass_is_refused() -> None:
    with pytest.raises(BadInputError, match="backward"):
        Convolution(1, 8, 8, 8, 8, 3, 3).gemms("backward")
