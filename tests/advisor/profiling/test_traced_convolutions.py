from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.profiling.linking.calls import Call
from advisor.profiling.linking.conv_shapes import infer_axis
from advisor.profiling.linking.operations import describe
from advisor.profiling.linking.passes import split_passes
from tests.advisor.profiling.situations import product, situation, sizes

HALF = ("c10::Half", "c10::Half")
CONV2D = "aten::cudnn_convolution"


def test_recorded_stride_and_padding_are_read_where_the_operator_has_them() -> None:
    # cudnn_convolution has padding before stride: 7x7/2 with padding 3 on 224: 112
    call = Call(CONV2D, ((32, 3, 224, 224), (64, 3, 7, 7)), HALF, ("", "", "[3, 3]", "[2, 2]", "[1, 1]", "1"))

    described = describe(situation(call))

    assert sizes(product(described)) == (32 * 112 * 112, 64, 147, 1)
    assert described.layer == "conv 3>64 7x7/2 on 224x224"
    assert described.doubt is None
    assert product(described).pass_ == "fprop"


def test_unrecorded_stride_follows_from_the_size_of_the_result() -> None:
    call = Call(CONV2D, ((32, 256, 56, 56), (512, 256, 1, 1)))

    described = describe(situation(call, output=(32, 512, 28, 28)))

    assert described.layer == "conv 256>512 1x1/2 on 56x56"
    assert sizes(product(described)) == (32 * 28 * 28, 512, 256, 1)
    assert described.doubt is None


def test_an_unknown_result_is_assumed_and_said_so() -> None:
    described = describe(situation(Call(CONV2D, ((32, 64, 56, 56), (64, 64, 3, 3)))))

    assert described.layer == "conv 64>64 3x3 on 56x56"
    assert described.doubt is not None
    assert "assumed" in described.doubt


def test_recorded_stride_that_contradicts_the_sizes_is_not_believed() -> None:
    call = Call(CONV2D, ((32, 64, 56, 56), (64, 64, 3, 3)), (), ("", "", "[1, 1]", "[1, 1]", "[1, 1]", "1"))

    described = describe(situation(call, output=(32, 64, 28, 28)))

    assert described.layer == "conv 64>64 3x3/2 on 56x56"
    assert described.doubt == "the recorded stride and padding do not fit the sizes in the trace"


@pytest.mark.parametrize(
    ("size", "out", "taps", "expected"),
    [
        (224, 112, 7, (2, 3, 1, False)),  # ResNet's stem
        (56, 28, 1, (2, 0, 1, False)),  # its downsampling
        (56, 28, 3, (2, 1, 1, False)),
        (299, 149, 3, (2, 0, 1, False)),  # Inception's stem, no padding
        (224, 14, 16, (16, 0, 1, False)),  # patches of a vision transformer
        (32, 16, 4, (2, 1, 1, False)),  # DCGAN
        (224, 55, 11, (4, 2, 1, True)),  # AlexNet's stem: padding 3 would do as well
        (65, 65, 3, (1, 1, 1, False)),
        (65, 61, 3, (1, 0, 2, False)),  # dilated, no padding
    ],
)
def test_stride_and_padding_of_known_layers_are_inferred(
    size: int, out: int, taps: int, expected: tuple[int, int, int, bool]
) -> None:
    assert infer_axis(size, out, taps) == expected


@given(st.integers(1, 300), st.integers(1, 11), st.integers(1, 5), st.integers(0, 5))
def test_inferred_stride_and_padding_always_lead_to_the_result(size: int, taps: int, stride: int, padding: int) -> None:
    span = size + 2 * padding - taps
    if span < 0:
        return
    out = span // stride + 1

    found = infer_axis(size, out, taps)

    assert found is not None
    found_stride, found_padding, dilation, _ = found

    assert (size + 2 * found_padding - dilation * (taps - 1) - 1) // found_stride + 1 == out


def test_a_grouped_convolution_is_as_many_products() -> None:
    call = Call(CONV2D, ((8, 128, 28, 28), (256, 4, 3, 3)), (), ("", "", "[1, 1]", "[1, 1]", "[1, 1]", "32"))

    described = describe(situation(call))

    assert sizes(product(described)) == (8 * 28 * 28, 8, 36, 32)
    assert described.layer == "conv 128>256 3x3 in 32 groups on 28x28"


def test_a_depthwise_convolution_is_named_so() -> None:
    inputs = ("", "", "[3, 3]", "", "[2, 2]", "[1, 1]", "[1, 1]")
    call = Call("aten::_conv_depthwise2d", ((8, 32, 56, 56), (32, 1, 3, 3)), (), inputs)

    described = describe(situation(call))

    assert described.layer == "depthwise conv 32 3x3/2 on 56x56"
    assert sizes(product(described)) == (8 * 28 * 28, 1, 9, 32)


def test_one_and_three_dimensions_are_products_too() -> None:
    one = Call("aten::conv1d", ((4, 16, 64), (32, 16, 3)), (), ("", "", "", "[1]", "[0]", "[1]", "1"))
    three = Call("aten::conv3d", ((2, 3, 8, 16, 16), (4, 3, 3, 3, 3)), (), ("", "", "", "[1]", "[1]", "[1]", "1"))

    described_one, described_three = describe(situation(one)), describe(situation(three))

    assert sizes(product(described_one)) == (4 * 62, 32, 48, 1)
    assert described_one.layer == "conv1d 16>32 3 on 64"
    assert sizes(product(described_three)) == (2 * 8 * 16 * 16, 4, 81, 1)
    assert product(described_three).convolution is None
    assert described_three.layer == "conv3d 3>4 3x3x3 on 8x16x16"


def test_a_transposed_convolution_runs_as_dgrad_and_its_backward_as_fprop() -> None:
    # 16 > 8 channels, 2x2/2, 8x8 to 16x16: the dgrad of a convolution 8 > 16 on 16x16
    forward = Call(
        "aten::cudnn_convolution_transpose", ((4, 16, 8, 8), (16, 8, 2, 2)), (),
        ("", "", "[0, 0]", "[0, 0]", "[2, 2]", "[1, 1]", "1"),
    )  # fmt: skip
    backward = Call(
        "aten::convolution_backward", ((4, 8, 16, 16), (4, 16, 8, 8), (16, 8, 2, 2)), (),
        ("", "", "", "[8]", "[2, 2]", "[0, 0]", "[1, 1]", "True", "[0, 0]", "1", "[True, True, False]"),
    )  # fmt: skip

    up = describe(situation(forward))
    gradient = describe(situation(backward, "backward", pass_="dgrad"))

    assert up.layer == gradient.layer == "conv_transpose 16>8 2x2/2 on 8x8"
    assert (product(up).pass_, sizes(product(up))) == ("dgrad", (4 * 64, 8, 16, 1))  # one of four equal products
    assert product(up).flops == 2 * 4 * 64 * 8 * 16 * 4
    assert (product(gradient).pass_, sizes(product(gradient))) == ("fprop", (4 * 64, 16, 32, 1))


def test_the_backward_of_old_traces_takes_its_missing_argument_from_its_caller() -> None:
    both = Call("aten::cudnn_convolution_backward", ((32, 256, 56, 56), (32, 512, 28, 28), (512, 256, 1, 1)))
    to_input = Call("aten::cudnn_convolution_backward_input", ((), (32, 512, 28, 28), (512, 256, 1, 1)))
    to_weight = Call("aten::cudnn_convolution_backward_weight", ((), (32, 512, 28, 28), (32, 256, 56, 56)))

    dgrad = describe(situation(to_input, "backward", caller=both))
    wgrad = describe(situation(to_weight, "backward", caller=both))

    assert dgrad.layer == wgrad.layer == "conv 256>512 1x1/2 on 56x56"
    assert sizes(product(dgrad)) == (32 * 28 * 28, 256, 512, 1)  # three of four input pixels get nothing
    assert sizes(product(wgrad)) == (512, 256, 32 * 28 * 28, 1)


def test_the_cast_of_a_filter_belongs_to_its_convolution() -> None:
    conv = Call("aten::conv2d", ((4, 3, 32, 32), (8, 3, 3, 3)), (), ("", "", "", "[1, 1]", "[1, 1]", "[1, 1]", "1"))
    cast = Call("aten::copy_", ((8, 3, 3, 3), (8, 3, 3, 3)))

    described = describe(situation(cast, top=conv))

    assert described.product is None
    assert described.layer == "conv 3>8 3x3 on 32x32"


TO_NHWC = "void cudnn::ops::nchwToNhwcKernel<__half, __half, float, false, true>"

TO_NCHW = "void cudnn::ops::nhwcToNchwKernel<__half, __half, float, true, false>"

DGRAD = (
    "cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816dgrad_optimized_f16_128x128_32x5_nhwc_unity_stride_align8>"
)

WGRAD = "cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816wgrad_optimized_f16_128x128_32x5_nhwc_align8>"

UNNAMED = "ampere_scudnn_128x64_relu_xregs_large_nn_v1"

SPLIT_K = "void splitKreduce_kernel<32, 16, int, float, float>"


@pytest.mark.parametrize(
    ("kernels", "cut"),
    [
        ((DGRAD, WGRAD), 1),
        ((TO_NHWC, TO_NHWC, DGRAD, TO_NCHW, TO_NHWC, TO_NHWC, WGRAD, TO_NCHW), 4),
        ((DGRAD, SPLIT_K, TO_NHWC, WGRAD, SPLIT_K), 2),
        ((DGRAD, TO_NHWC, UNNAMED), 1),
        ((UNNAMED, TO_NCHW, TO_NHWC, WGRAD), 2),
        ((TO_NHWC, UNNAMED, TO_NHWC, UNNAMED), 2),  # nothing tells: halved
        ((WGRAD,), 0),
        ((DGRAD,), 1),
    ],
)
def test_kernels_of_one_backward_convolution_are_cut_where_names_tell(kernels: tuple[str, ...], cut: int) -> None:
    passes, told = split_passes(kernels, (True, True))

    assert passes == ("dgrad",) * cut + ("wgrad",) * (len(kernels) - cut)
    assert told == any(name in (DGRAD, WGRAD) for name in kernels)


def test_a_gradient_that_is_not_wanted_gets_no_kernel() -> None:
    assert split_passes((TO_NHWC, UNNAMED), (False, True)) == (("wgrad", "wgrad"), True)
    assert split_passes((TO_NHWC, UNNAMED), (True, False)) == (("dgrad", "dgrad"), True)
