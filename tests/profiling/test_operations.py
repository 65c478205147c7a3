from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.profiling.calls import Call, Situation
from advisor.profiling.conv_shapes import infer_axis
from advisor.profiling.operations import Description, describe
from advisor.profiling.passes import split_passes
from advisor.profiling.records import Phase, Product

HALF = ("c10::Half", "c10::Half")


def situation(call: Call, phase: Phase = "forward", **around: object) -> Situation:
    top = around.pop("top", call)
    return Situation(call, phase, str(around.pop("outer", call.name)), top, **around)  # type: ignore[arg-type]


def product(described: Description) -> Product:
    assert described.product is not None
    return described.product


def sizes(found: Product) -> tuple[int, int, int, int]:
    return found.m, found.n, found.k, found.batch


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call("aten::mm", ((5, 7), (7, 3))), (5, 3, 7, 1)),
        (Call("aten::addmm", ((3,), (5, 7), (7, 3), (), ())), (5, 3, 7, 1)),
        (Call("aten::_addmm_activation", ((3,), (5, 7), (7, 3))), (5, 3, 7, 1)),
        (Call("aten::bmm", ((4, 5, 7), (4, 7, 3))), (5, 3, 7, 4)),
        (Call("aten::baddbmm", ((4, 5, 3), (4, 5, 7), (4, 7, 3))), (5, 3, 7, 4)),
        (Call("aten::mv", ((5, 7), (7,))), (5, 1, 7, 1)),
        (Call("aten::addmv", ((5,), (5, 7), (7,))), (5, 1, 7, 1)),
        (Call("aten::dot", ((7,), (7,))), (1, 1, 7, 1)),
        (Call("aten::linear", ((2, 5, 7), (3, 7), (3,))), (10, 3, 7, 1)),
        (Call("aten::matmul", ((2, 6, 5, 7), (7, 3))), (60, 3, 7, 1)),
        (Call("aten::matmul", ((2, 1, 5, 7), (6, 7, 3))), (5, 3, 7, 12)),
        (Call("aten::_int_mm", ((32, 64), (64, 8)), ("signed char", "signed char")), (32, 8, 64, 1)),
        (Call("triton_tem_fused_addmm_relu_3", ((3,), (5, 7), (7, 3), (5, 3))), (5, 3, 7, 1)),
    ],
)
def test_each_product_of_linear_algebra_has_the_sizes_of_its_arguments(
    call: Call, expected: tuple[int, int, int, int]
) -> None:
    found = product(describe(situation(call)))

    assert sizes(found) == expected
    m, n, k, batch = expected
    assert found.flops == 2 * m * n * k * batch


@pytest.mark.parametrize(
    "call",
    [
        Call("aten::mm"),  # no shapes recorded
        Call("aten::mm", ((5, 7), (8, 3))),  # sizes that do not fit
        Call("aten::mm", ((5, 0), (0, 3))),  # empty
        Call("aten::mm", ((2**50, 7), (7, 3))),  # damage
        Call("aten::mm", (((5, 7), (7, 3)), None)),
        Call("aten::bmm", ((4, 5, 7), (3, 7, 3))),
        Call("triton_tem_fused_mm_0", ((8, 8), (8, 8))),
        Call("aten::conv2d", ((1, 3, 8, 8), (4, 3, 0, 0))),
        Call("aten::conv2d", ((1, 3, 8, 8), (4, 3, 9, 9)), (), ("", "", "", "[1, 1]", "[0, 0]", "[1, 1]", "1")),
        Call("aten::_scaled_dot_product_flash_attention", ((2, 4, 64), (2, 4, 64), (2, 4, 64))),
    ],
)
def test_sizes_that_make_no_sense_give_no_product(call: Call) -> None:
    assert describe(situation(call)).product is None


def test_fp8_operands_are_one_byte() -> None:
    types = ("c10::Float8_e4m3fn", "c10::Float8_e4m3fn")

    found = product(describe(situation(Call("aten::_scaled_mm", ((16, 64), (64, 32)), types))))

    assert (found.dtype, found.element_bytes) == ("fp8", 1)


# Linear 48 > 10 on 62 rows: x[62, 48], W[10, 48], y = x W^T; dx = dy W is [62, 48], dW = dy^T x is [10, 48].
ADDMM = Call("aten::addmm", ((10,), (62, 48), (48, 10), (), ()), ("c10::Half",) * 3)
NODE = Call("AddmmBackward0", ((62, 10),), ("c10::Half",))


def test_dgrad_multiplies_the_gradient_and_wgrad_contracts_its_rows() -> None:
    around = {"node": NODE, "forward": ADDMM, "forward_top": Call("aten::linear", ((62, 48), (10, 48), (10,)))}

    dgrad = describe(situation(Call("aten::mm", ((62, 10), (10, 48)), HALF), "backward", **around))
    wgrad = describe(situation(Call("aten::mm", ((10, 62), (62, 48)), HALF), "backward", order=1, **around))

    assert (product(dgrad).pass_, sizes(product(dgrad))) == ("dgrad", (62, 48, 10, 1))
    assert (product(wgrad).pass_, sizes(product(wgrad))) == ("wgrad", (10, 48, 62, 1))
    assert dgrad.layer == wgrad.layer == "linear 48>10"
    assert product(dgrad).dtype == "fp16"


@pytest.mark.parametrize(("node", "first"), [("AddmmBackward0", "dgrad"), ("MmBackward0", "wgrad")])
def test_where_all_sizes_are_equal_the_order_tells_the_gradients_apart(node: str, first: str) -> None:
    square = Call("aten::mm", ((64, 64), (64, 64)))
    around = Call(node, ((64, 64),))

    passes = [product(describe(situation(square, "backward", node=around, order=i))).pass_ for i in range(2)]

    assert passes == [first, {"dgrad": "wgrad", "wgrad": "dgrad"}[first]]


def test_a_backward_product_without_its_forward_still_names_the_layer() -> None:
    dgrad = situation(Call("aten::mm", ((62, 10), (10, 48))), "backward", node=NODE)
    wgrad = situation(Call("aten::mm", ((10, 62), (62, 48))), "backward", node=NODE)
    wgrad_of_mm = situation(Call("aten::mm", ((48, 62), (62, 10))), "backward", node=Call("MmBackward0", ((62, 10),)))

    assert [describe(s).layer for s in (dgrad, wgrad, wgrad_of_mm)] == ["linear 48>10"] * 3


def test_bmm_gradients_are_told_by_the_operand_that_is_the_gradient() -> None:
    # C[4, 5, 3] = A[4, 5, 7] B[4, 7, 3]; dB = A^T dC comes first, then dA = dC B^T
    node = Call("BmmBackward0", ((4, 5, 3),))
    forward = Call("aten::bmm", ((4, 5, 7), (4, 7, 3)))

    of_b = describe(situation(Call("aten::bmm", ((4, 7, 5), (4, 5, 3))), "backward", node=node, forward=forward))
    of_a = describe(situation(Call("aten::bmm", ((4, 5, 3), (4, 3, 7))), "backward", node=node, forward=forward))

    assert (product(of_b).pass_, product(of_a).pass_) == ("wgrad", "dgrad")
    assert of_a.layer == "bmm 4x(5x7x3)"


def test_products_of_the_optimizer_have_no_pass() -> None:
    assert product(describe(situation(Call("aten::mm", ((5, 5), (5, 5))), "optimizer"))).pass_ is None


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


def test_causal_flash_attention_is_read_with_heads_first() -> None:
    dims = ((2, 12, 512, 64), (2, 12, 512, 64), (2, 12, 512, 64), (), (), (), ())
    call = Call("aten::_scaled_dot_product_flash_attention", dims, ("c10::BFloat16",) * 3,
                ("", "", "", "0.", "True", "False", ""))  # fmt: skip

    described = describe(situation(call))

    assert described.layer == "attention 12 heads x 64, 512 x 512 causal"
    assert product(described).attention == {
        "batch": 2, "heads": 12, "q_len": 512, "kv_len": 512, "head_dim": 64, "value_dim": 64, "causal": 1,
    }  # fmt: skip
    assert product(described).flops == 4 * 2 * 12 * 512 * 512 * 64
    assert sizes(product(described)) == (512, 512, 64, 24)
    assert product(described).dtype == "bf16"


def test_attention_backward_is_five_products() -> None:
    shape = (2, 12, 512, 64)
    call = Call("aten::_scaled_dot_product_flash_attention_backward", (shape,) * 5 + ((2, 12, 512),))

    described = describe(situation(call, "backward"))

    assert product(described).flops == 10 * 2 * 12 * 512 * 512 * 64
    assert product(described).pass_ is None


def test_packed_sequences_of_flash_attn_are_as_long_as_their_average() -> None:
    dims = ((4096, 16, 128), (4096, 16, 128), (4096, 16, 128), (9,), (9,))
    call = Call("flash_attn::_flash_attn_varlen_forward", dims, ("c10::Half",) * 3)

    attention = product(describe(situation(call))).attention

    assert attention is not None
    assert (attention["batch"], attention["q_len"], attention["heads"]) == (8, 512, 16)


@pytest.mark.parametrize(
    ("call", "layer"),
    [
        (Call("aten::batch_norm", ((32, 64, 112, 112), (64,))), "batch_norm 64 on 112x112"),
        (Call("aten::layer_norm", ((8, 512, 768), (), (768,)), (), ("", "[768]")), "layer_norm 768"),
        (Call("aten::embedding", ((50257, 768), (8, 512))), "embedding 50257x768"),
        (Call("aten::add_", ((32, 256, 56, 56), (32, 256, 56, 56))), "add 32x256x56x56"),
        (Call("aten::_foreach_add_", (((64, 3, 7, 7), (64,)), ())), "_foreach_add of 2 tensors"),
        (Call("aten::relu"), "relu"),
        (Call("aten::bmm", ((384, 128, 64), (384, 64, 128))), "bmm 384x(128x64x128)"),
        (Call("aten::sum", ((1,) * 70,)), "sum 1x1x1x1x1x1x..."),
    ],
)
def test_layers_are_named_for_a_reader(call: Call, layer: str) -> None:
    assert describe(situation(call)).layer == layer


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
