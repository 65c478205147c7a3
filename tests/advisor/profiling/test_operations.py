from __future__ import annotations

import pytest

from advisor.profiling.linking.calls import Call
from advisor.profiling.linking.operations import describe
from tests.advisor.profiling.situations import product, situation, sizes

HALF = ("c10::Half", "c10::Half")


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
