"""Kernels to launches, operators and shapes, on built traces of today's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.profiling.linked import Links
from advisor.profiling.linking.link import link
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import Operation
from tests.kineto import KinetoTrace

WRAPPER = "autograd::engine::evaluate_function: "


def linked(trace: KinetoTrace, folder: Path) -> tuple[RawTrace, Links]:
    raw = read_trace(trace.write(folder / "trace.json"))
    return raw, link(raw)


def operation_of(raw: RawTrace, links: Links, kernel: str) -> Operation:
    """The one operation of all kernels of that name."""
    (index,) = {
        int(links.operation[i]) for i in range(len(raw.kernels.name)) if raw.names[raw.kernels.name[i]] == kernel
    }
    return links.operations[index]


def amp_linear(trace: KinetoTrace) -> None:
    """Linear 48 > 10 on 62 rows under autocast, as torch 2.13 records it: forward, then its node on another thread."""
    fp16 = ["c10::Half"] * 3
    trace.op("aten::linear", 10, 90, dims=[[62, 48], [10, 48], [10]], sequence=250)
    trace.op("aten::to", 12, 20, dims=[[10, 48], [], [], [], []], sequence=250)
    trace.op("aten::copy_", 14, 10, dims=[[10, 48], [10, 48], []], types=["c10::Half", "float", ""])
    trace.kernel("cast", 200, 2, launched=16)
    trace.op("aten::linear", 40, 50, dims=[[62, 48], [10, 48], [10]], types=fp16, sequence=251)
    trace.op("aten::t", 42, 5, dims=[[10, 48]], types=["c10::Half"], sequence=251)
    trace.op("aten::addmm", 50, 30, dims=[[10], [62, 48], [48, 10], [], []], types=fp16, sequence=252)
    trace.kernel("forward", 210, 9, launched=60)
    node = {"sequence": 252, "forward_thread": 1, "thread": 2}
    trace.op(WRAPPER + "AddmmBackward0", 300, 90, **node)
    trace.op("AddmmBackward0", 302, 60, dims=[[62, 10]], types=["c10::Half"], **node)
    trace.op("aten::mm", 310, 10, dims=[[62, 10], [10, 48]], types=fp16[:2], thread=2)
    trace.kernel("dgrad", 400, 5, launched=312, thread=2)
    trace.op("aten::mm", 330, 10, dims=[[10, 62], [62, 48]], types=fp16[:2], thread=2)
    trace.kernel("wgrad", 410, 6, launched=332, thread=2)
    trace.op("aten::sum", 370, 10, dims=[[62, 10], [], [], []], types=["c10::Half", "", "", ""], thread=2)
    trace.kernel("bias", 420, 3, launched=372, thread=2)
    trace.op(WRAPPER + "torch::autograd::AccumulateGrad", 400, 20, thread=2)
    trace.op("aten::add_", 405, 10, dims=[[10, 48], [10, 48], []], thread=2)
    trace.kernel("accumulate", 430, 3, launched=407, thread=2)


def test_forward_and_both_gradients_of_an_amp_linear_are_one_layer(tmp_path: Path) -> None:
    trace = KinetoTrace()
    amp_linear(trace)

    raw, links = linked(trace, tmp_path)

    found = {name: operation_of(raw, links, name) for name in ("forward", "dgrad", "wgrad", "bias", "cast")}
    assert {o.layer for o in found.values()} == {"linear 48>10"}
    products = {name: o.product for name, o in found.items()}
    assert [(p.pass_, p.m, p.n, p.k, p.dtype) if p else None for p in products.values()] == [
        ("fprop", 62, 10, 48, "fp16"), ("dgrad", 62, 48, 10, "fp16"), ("wgrad", 10, 48, 62, "fp16"), None, None,
    ]  # fmt: skip
    assert found["wgrad"].outer == "AddmmBackward0"
    assert found["wgrad"].forward_dims == ((10,), (62, 48), (48, 10), (), ())
    assert found["forward"].outer == "aten::linear"
    assert [found[name].phase for name in found] == ["forward", "backward", "backward", "backward", "forward"]
    accumulate = operation_of(raw, links, "accumulate")
    assert (accumulate.phase, accumulate.outer) == ("backward", "torch::autograd::AccumulateGrad")
    forward = {raw.names[raw.ops.name[i]] for i in links.forward if i >= 0}
    assert forward == {"aten::addmm"}  # not the t or linear of nearby numbers


def test_of_several_operators_with_one_number_the_last_before_the_node_is_its_forward(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::detach", 10, 5, dims=[[3]], sequence=7)  # needs no gradient: shows the number of the next
    trace.op("aten::mul", 20, 5, dims=[[5], [5]], sequence=7)
    trace.op("MulBackward0", 50, 20, dims=[[5]], sequence=7, forward_thread=1, thread=2)
    trace.op("aten::mul", 52, 10, dims=[[5], [5]], thread=2)
    trace.kernel("k", 100, 1, launched=54, thread=2)
    trace.op("aten::mul", 80, 5, dims=[[9], [9]], sequence=7)  # after it

    raw, links = linked(trace, tmp_path)

    assert raw.ops.start_us[links.forward[0]] == 10  # the second, counted from the first event
    assert links.operations[links.operation[0]].layer == "mul 5"


def conv_backward(trace: KinetoTrace, mask: str, kernels: tuple[str, ...]) -> None:
    inputs = ("", "", "", "[0]", "[2, 2]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1", mask)
    trace.op(WRAPPER + "ConvolutionBackward0", 10, 90, sequence=4, forward_thread=1, thread=2)
    trace.op("ConvolutionBackward0", 12, 80, dims=[[32, 128, 28, 28]], sequence=4, forward_thread=1, thread=2)
    dims = [[32, 128, 28, 28], [32, 64, 56, 56], [128, 64, 3, 3], *[[]] * 8]
    trace.op("aten::convolution_backward", 14, 70, dims=dims, types=["c10::Half"] * 3, inputs=inputs, thread=2)
    for i, name in enumerate(kernels):
        trace.kernel(name, 200 + 10 * i, 5, launched=20 + 4 * i, thread=2)


def test_one_backward_convolution_is_split_into_dgrad_and_wgrad(tmp_path: Path) -> None:
    trace = KinetoTrace()
    names = ("nchwToNhwcKernel", "cutlass_tensorop_f16_s16816dgrad_optimized_f16_128x128_32x5", "nhwcToNchwKernel",
             "nchwToNhwcKernel", "cutlass_tensorop_f16_s16816wgrad_optimized_f16_128x128_32x5")  # fmt: skip
    conv_backward(trace, "[True, True, False]", names)

    _, links = linked(trace, tmp_path)

    products = [links.operations[i].product for i in links.operation]
    assert [p.pass_ if p else None for p in products] == ["dgrad"] * 3 + ["wgrad"] * 2
    dgrad, wgrad = products[0], products[-1]
    assert dgrad is not None and wgrad is not None
    # at stride 2 dgrad is four products of 28 x 28 pixels with 1, 2, 2 and 4 of the 9 taps
    assert (dgrad.m, dgrad.n, dgrad.k) == (32 * 28 * 28, 64, 128 * 4)
    assert dgrad.flops == 2 * 32 * 28 * 28 * 64 * 128 * 9
    assert (wgrad.m, wgrad.n, wgrad.k) == (128, 64 * 9, 32 * 28 * 28)
    assert {links.operations[i].layer for i in links.operation} == {"conv 64>128 3x3/2 on 56x56"}


def test_the_stem_has_no_dgrad_whatever_its_kernels_are_called(tmp_path: Path) -> None:
    trace = KinetoTrace()
    conv_backward(trace, "[False, True, False]", ("unknown", "another"))

    _, links = linked(trace, tmp_path)

    assert [links.operations[i].product.pass_ for i in links.operation] == ["wgrad"] * 2
    assert links.notes == ()


def test_a_split_that_no_name_tells_is_noted(tmp_path: Path) -> None:
    trace = KinetoTrace()
    conv_backward(trace, "[True, True, False]", ("unknown", "another"))

    _, links = linked(trace, tmp_path)

    assert [links.operations[i].product.pass_ for i in links.operation] == ["dgrad", "wgrad"]
    assert len(links.notes) == 1
    assert "tells dgrad from wgrad" in links.notes[0]


@pytest.mark.parametrize(
    ("consumer", "layer", "notes"),
    [
        ([32, 128, 28, 28], "conv 64>128 3x3/2 on 56x56", 0),
        ([32, 96, 28, 28], "conv 64>128 3x3 on 56x56", 1),  # takes another tensor: the result's size stays unknown
    ],
)
def test_in_a_forward_without_recorded_strides_the_next_operator_tells_the_size(
    tmp_path: Path, consumer: list[int], layer: str, notes: int
) -> None:
    trace = KinetoTrace(old=True)
    dims = [[32, 64, 56, 56], [128, 64, 3, 3], *[[]] * 5]
    trace.op("aten::conv2d", 10, 50, dims=dims)
    trace.op("aten::cudnn_convolution", 20, 30, dims=dims)
    trace.kernel("volta_scudnn_128x64_relu_medium_nn_v1", 100, 5, launched=25)
    trace.op("aten::batch_norm", 70, 20, dims=[consumer, [128]])

    _, links = linked(trace, tmp_path)

    assert links.operations[0].layer == layer
    assert len(links.notes) == notes


def test_flash_attention_forward_and_backward_are_one_layer(tmp_path: Path) -> None:
    shape = [2, 12, 512, 64]
    trace = KinetoTrace()
    forward = "aten::_scaled_dot_product_flash_attention"
    inputs = ("", "", "", "0.", "True", "False", "")
    trace.op("aten::scaled_dot_product_attention", 10, 50, dims=[shape] * 3, sequence=9)
    trace.op(forward, 12, 40, dims=[shape] * 3 + [[]] * 4, types=["c10::BFloat16"] * 3, inputs=inputs, sequence=9)
    trace.op("aten::_flash_attention_forward", 20, 20, dims=[[2, 512, 12, 64]] * 3, types=["c10::BFloat16"] * 3)
    trace.kernel("flash_fwd_kernel", 100, 5, launched=22)
    node = {"sequence": 9, "forward_thread": 1, "thread": 2}
    trace.op("ScaledDotProductFlashAttentionBackward0", 200, 50, dims=[shape], **node)
    trace.op(forward + "_backward", 202, 40, dims=[shape] * 5 + [[2, 12, 512]], thread=2)
    trace.kernel("flash_bwd_kernel", 300, 9, launched=210, thread=2)

    raw, links = linked(trace, tmp_path)

    forth, back = (operation_of(raw, links, f"flash_{which}_kernel") for which in ("fwd", "bwd"))
    assert forth.product is not None and back.product is not None
    assert (forth.product.m, forth.product.n, forth.product.k, forth.product.batch) == (512, 512, 64, 24)
    assert back.product.flops == 2.5 * forth.product.flops
    assert forth.layer.removesuffix(" causal") == back.layer.removesuffix(" causal")
    assert back.layer == "attention 12 heads x 64, 512 x 512 causal"


def test_all_kernels_of_a_cuda_graph_belong_to_its_launch(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("replay", 10, 30, dims=[[4]])
    trace.call("cudaGraphLaunch", 15, 10)
    launch = trace.events[-1]["args"]["correlation"]
    for i in range(3):
        trace.kernel(f"k{i}", 50 + 10 * i, 5)
        trace.events[-1]["args"]["correlation"] = launch

    raw, links = linked(trace, tmp_path)

    assert {raw.names[raw.launches.name[i]] for i in links.launch} == {"cudaGraphLaunch"}
    assert {raw.names[raw.ops.name[i]] for i in links.op} == {"replay"}
    assert links.notes == ()


def test_of_launches_with_one_correlation_the_latest_before_the_kernel_is_taken(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for i, name in enumerate(("aten::first", "aten::second", "aten::third")):
        trace.op(name, 100 * i, 50, dims=[[i]])
        trace.kernel(f"k{i}", 100 * i + 60, 5, launched=100 * i + 10)
    for event in trace.events:
        if "correlation" in event["args"]:
            event["args"]["correlation"] = 77

    raw, links = linked(trace, tmp_path)

    assert [raw.names[raw.ops.name[i]] for i in links.op] == ["aten::first", "aten::second", "aten::third"]
    assert links.notes == (
        "3 kernels have a correlation id that several launches share: each is given the latest before it",
    )


def test_a_kernel_that_seems_to_start_before_its_launch_still_has_it(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::add", 100, 50, dims=[[3]])
    trace.kernel("k", 90, 5, launched=110)

    raw, links = linked(trace, tmp_path)

    assert raw.names[raw.ops.name[links.op[0]]] == "aten::add"


def test_without_a_launch_the_external_id_names_the_operator(tmp_path: Path) -> None:
    trace = KinetoTrace()
    number = trace.op("aten::add", 100, 50, dims=[[3]])
    trace.kernel("known", 160, 5, external=number)
    trace.kernel("unknown", 170, 5, external=999)

    raw, links = linked(trace, tmp_path)

    assert raw.names[raw.ops.name[links.op[0]]] == "aten::add"
    assert links.op[1] == links.operation[1] == -1
    assert links.notes == (
        "2 of 2 kernels have no launch in the trace",
        "1 of 2 kernels belong to no operator in the trace",
    )


@pytest.mark.parametrize("old", [True, False])
def test_ranges_of_optimizer_and_loader_decide_the_phase(tmp_path: Path, old: bool) -> None:
    trace = KinetoTrace(old=old)
    trace.step(1, 0, 1000)
    mark = {"category": "user_annotation"}
    trace.op("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 10, 50, **mark)
    trace.op("aten::to", 20, 30, dims=[[8, 3]])
    trace.kernel("data", 100, 1, launched=25)
    trace.op("Optimizer.step#AdamW.step", 200, 100, **mark)
    trace.op("aten::_foreach_add_", 210, 20, dims=[[[4, 4], [4]], [], []], types=["TensorList", "float", "Scalar"])
    trace.kernel("update", 400, 1, launched=215)
    trace.op("aten::add_", 240, 20, dims=[[4], [4], []])
    trace.kernel("plain update", 410, 1, launched=245)
    trace.op("aten::_foreach_norm", 320, 20, dims=[[[4, 4], [4]], []])
    trace.kernel("clip", 420, 1, launched=325)
    trace.op("aten::_amp_update_scale_", 350, 20, dims=[[], [], []])
    trace.kernel("scale", 430, 1, launched=355)
    trace.op("aten::relu", 380, 10, dims=[[4]])
    trace.kernel("relu", 440, 1, launched=385)

    raw, links = linked(trace, tmp_path)

    phases = {raw.names[raw.kernels.name[i]]: links.operations[o].phase for i, o in enumerate(links.operation)}
    assert phases == {
        "data": "data", "update": "optimizer", "plain update": "optimizer", "clip": "optimizer", "scale": "optimizer",
        "relu": "forward",
    }  # fmt: skip
    update = operation_of(raw, links, "update")
    assert (update.outer, update.layer) == ("aten::_foreach_add_", "_foreach_add of 2 tensors")


def test_collectives_are_no_part_of_backward(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op(WRAPPER + "torch::autograd::AccumulateGrad", 10, 90, thread=2)
    trace.op("c10d::allreduce_", 20, 40, dims=[[[400]]], thread=2)
    trace.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 100, 20, launched=30, thread=2)
    trace.op("aten::mul", 70, 10, dims=[[400], []], thread=2)
    trace.kernel("mul", 130, 2, launched=72, thread=2)

    raw, links = linked(trace, tmp_path)

    assert operation_of(raw, links, "ncclDevKernel_AllReduce_Sum_f32_RING_LL").phase == "other"
    assert operation_of(raw, links, "mul").phase == "backward"


def test_sums_of_old_backward_threads_are_backward_without_a_node(tmp_path: Path) -> None:
    trace = KinetoTrace(old=True)
    trace.op("aten::addmm", 10, 20, dims=[[10], [62, 48], [48, 10]], sequence=5)
    trace.op("AddmmBackward", 100, 20, dims=[[62, 10]], sequence=5, forward_thread=1, thread=2)
    trace.op("aten::sum", 130, 20, dims=[[62, 10], [], []], thread=2)
    trace.kernel("sum", 200, 2, launched=135, thread=2)

    raw, links = linked(trace, tmp_path)

    assert operation_of(raw, links, "sum").phase == "backward"


def test_values_that_change_each_step_make_no_new_operation(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for step in range(3):
        trace.op("aten::add_", 100 * step, 20, dims=[[4], [4], []], inputs=("", "", str(0.1 * step)))
        trace.kernel("k", 100 * step + 50, 1, launched=100 * step + 5)

    _, links = linked(trace, tmp_path)

    assert [(o.layer, o.calls) for o in links.operations] == [("add 4", 3)]


def test_a_forward_that_checkpointing_runs_again_is_fprop_in_the_backward_phase(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::relu", 5, 3, dims=[[62, 10]], sequence=9)
    trace.op("ReluBackward0", 100, 200, dims=[[62, 10]], sequence=9, forward_thread=1, thread=2)
    trace.op("aten::linear", 110, 50, dims=[[62, 48], [10, 48], [10]], sequence=20, thread=2)
    trace.op("aten::addmm", 120, 30, dims=[[10], [62, 48], [48, 10], [], []], sequence=21, thread=2)
    trace.kernel("again", 400, 5, launched=130, thread=2)
    trace.op("aten::threshold_backward", 200, 30, dims=[[62, 10], [62, 10], []], thread=2)
    trace.kernel("own", 410, 5, launched=210, thread=2)

    raw, links = linked(trace, tmp_path)

    again, own = operation_of(raw, links, "again"), operation_of(raw, links, "own")
    assert again.product is not None
    assert (again.phase, again.product.pass_, again.layer) == ("backward", "fprop", "linear 48>10")
    assert again.forward_dims == ()
    assert own.layer == "relu 62x10"


def test_gradients_in_a_compiled_region_are_told_by_the_sizes_of_its_forward(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("CompiledFunction", 5, 50, dims=[[62, 48], [10, 48], [10]], sequence=9)
    trace.op("aten::addmm", 10, 30, dims=[[10], [62, 48], [48, 10], [], []])
    trace.kernel("forward", 400, 5, launched=15)
    trace.op("CompiledFunctionBackward", 100, 200, dims=[[62, 10]], sequence=9, forward_thread=1, thread=2)
    for i, (a, b) in enumerate((([62, 10], [10, 48]), ([10, 62], [62, 48]), ([7, 5], [5, 3]))):
        trace.op("aten::mm", 110 + 20 * i, 10, dims=[a, b], thread=2)
        trace.kernel(f"k{i}", 410 + 10 * i, 5, launched=112 + 20 * i, thread=2)

    raw, links = linked(trace, tmp_path)

    found = [operation_of(raw, links, name) for name in ("forward", "k0", "k1", "k2")]
    assert [(o.product.pass_ if o.product else None, o.layer) for o in found] == [
        ("fprop", "linear 48>10"), ("dgrad", "linear 48>10"), ("wgrad", "linear 48>10"), (None, "mm 7x5x3"),
    ]  # fmt: skip


def test_a_trace_without_kernels_has_no_links(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::add", 0, 10)

    _, links = linked(trace, tmp_path)

    assert links.operations == () and links.notes == () and len(links.op) == 0


NAMES = st.sampled_from((
    "aten::conv2d", "aten::cudnn_convolution", "aten::convolution_backward", "aten::cudnn_convolution_backward_input",
    "aten::cudnn_convolution_backward_weight", "aten::_conv_depthwise2d", "aten::conv_transpose2d", "aten::mm",
    "aten::bmm", "aten::addmm", "aten::matmul", "aten::linear", "aten::_flash_attention_forward",
    "flash_attn::_flash_attn_backward", "AddmmBackward0", "ConvolutionBackward0", WRAPPER + "MmBackward0",
    "Optimizer.step#SGD.step", "c10d::allreduce_", "triton_tem_fused_mm_0", "aten::layer_norm", "aten::_foreach_add_",
    "", "::", "forward",
))  # fmt: skip
SHAPES = st.lists(st.integers(-1, 9) | st.just(2**62), max_size=5)
DIMS = st.none() | st.lists(SHAPES | st.lists(SHAPES, max_size=2), max_size=11)
VALUES = st.none() | st.lists(st.sampled_from(("[1, 1]", "[2]", "[0, 0]", "[", "True", "1", "-3", "", "[9999999999]")))
TIMES, NUMBERS = st.integers(0, 60), st.none() | st.integers(0, 3)
EVENTS = st.lists(st.tuples(NAMES, TIMES, TIMES, DIMS, VALUES, NUMBERS, st.integers(1, 2)), max_size=12)


@given(EVENTS, st.lists(st.tuples(st.integers(0, 70), st.integers(1, 2)), max_size=6))
def test_no_mixture_of_operators_and_shapes_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any], launches: list[tuple[int, int]]
) -> None:
    trace = KinetoTrace()
    for name, start, duration, dims, values, sequence, thread in events:
        backward = {} if sequence is None else {"sequence": sequence, "forward_thread": thread - 1}
        trace.op(name, start, duration, dims=dims, inputs=values, thread=thread, **backward)
    for start, thread in launches:
        trace.kernel("volta_scudnn_128x64_relu_medium_nn_v1", start + 5, 2, launched=start, thread=thread)
    if not trace.events:
        return

    raw, links = linked(trace, tmp_path_factory.mktemp("mixture"))

    assert ((links.op >= 0) == (links.operation >= 0)).all()
    assert len(links.op) == len(raw.kernels.name) == len(launches)
    assert sum(links.operation >= 0) >= len(links.operations)
    for operation in links.operations:
        if operation.product is not None:
            assert min(operation.product.m, operation.product.n, operation.product.k, operation.product.batch) >= 1
