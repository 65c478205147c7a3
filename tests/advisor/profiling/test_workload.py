"""Traced operations as the time model knows them, and the traced step as a workload."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.convolution import Convolution
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.profiling.advice.amp import CONVERSION_ERROR, LAUNCHES_ERROR, under_amp
from advisor.profiling.advice.calibrated import host_work
from advisor.profiling.advice.memory import (
    known_model,
)
from advisor.profiling.advice.parameters import Parameters, find_parameters
from advisor.profiling.advice.scaling import Scaling
from advisor.profiling.advice.traced_step import TracedStep, traced_step
from advisor.profiling.advice.workload import op_of
from advisor.profiling.linking.link import link
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import Operation, Product
from advisor.profiling.steps.find import find_steps
from advisor.recipe import make_recipe
from advisor.steptime import StepModel, update_work
from advisor.workload.catalogue import catalogue_names, load_workload, select_variant
from advisor.workload.schema import Op, Variant, Workload
from tests.data import recorded_trace
from tests.kineto import KinetoTrace

RESNET = "resnet50_train_b32_fp32_v100.json.gz"


def operation(name: str, dims: tuple[Any, ...] = (), **changes: Any) -> Operation:
    """A call of an ATen operator on FP32 tensors in the forward pass, unless said otherwise."""
    types = tuple("float" if dim else "" for dim in dims)
    facts = {"outer": f"aten::{name}", "phase": "forward", "types": types, "inputs": (), "product": None, "layer": name}
    return Operation(name=f"aten::{name}", dims=dims, **{**facts, **changes})


def product(m: int, n: int, k: int, pass_: Any, **changes: Any) -> Operation:
    return operation("mm", ((m, k), (k, n)), product=Product("gemm", m, n, k, pass_=pass_), **changes)


def known(op: Op | None) -> Op:
    assert op is not None
    return op


def test_a_forward_linear_layer_grows_in_its_rows_though_all_sizes_are_multiples_of_the_batch() -> None:
    op = known(op_of(product(2048, 1024, 512, "fprop"), 32))
    assert (op.kind, op.dims["m"], op.dims["n"], op.dims["k"]) == ("gemm", (0, 64), (1024, 0), (512, 0))
    assert op.flops == (0, 2 * 64 * 1024 * 512)
    assert op.read_bytes == (4 * 512 * 1024, 4 * 64 * 512)  # the weight once; 64 rows of 512 per sample


def test_the_gradient_of_a_weight_grows_in_the_contraction() -> None:
    op = known(op_of(product(1024, 512, 2048, "wgrad", phase="backward"), 32))
    assert (op.dims["m"], op.dims["n"], op.dims["k"]) == ((1024, 0), (512, 0), (0, 64))
    assert op.write_bytes == (4 * 1024 * 512, 0)
    assert op.phase == "backward"


def test_a_product_whose_pass_is_unknown_is_told_by_the_shapes_of_the_parameters() -> None:
    scaling = Scaling(32, frozenset({(64, 128)}))
    with_weight = product(4096, 128, 64, None, phase="backward")  # B is the weight: rows of an activation
    of_weight = product(64, 128, 4096, None, phase="backward")  # the result is as large as the weight
    assert known(op_of(with_weight, 32, scaling)).dims["m"] == (0, 128)
    assert known(op_of(of_weight, 32, scaling)).dims["k"] == (0, 128)


def test_batched_products_grow_in_number() -> None:
    bmm = operation("bmm", product=Product("bmm", 64, 64, 32, batch=96))
    op = known(op_of(bmm, 8))
    assert (op.kind, op.dims["batch"], op.dims["m"]) == ("bmm", (0, 12), (64, 0))


@pytest.mark.parametrize(
    "pass_, read, written",
    [  # x 8x4x6x6, filters 16x4x3x3, y 8x16x6x6, 4 bytes each
        ("fprop", (4 * 16 * 36, 4 * 4 * 36), (0, 4 * 16 * 36)),
        ("dgrad", (4 * 16 * 36, 4 * 16 * 36), (0, 4 * 4 * 36)),
        ("wgrad", (0, 4 * (4 + 16) * 36), (4 * 16 * 36, 0)),
    ],
)
def test_convolutions_grow_in_images_in_every_pass(pass_: Any, read: Any, written: Any) -> None:
    conv = Convolution(8, 4, 6, 6, 16, 3, 3, pad_h=1, pad_w=1)
    op = known(op_of(operation("convolution", product=Product("conv", 1, 1, 1, pass_=pass_, convolution=conv)), 8))
    assert op.kind == f"conv_{pass_}"
    assert op.dims["n"] == (0, 1)
    assert op.flops == (0, 2 * 36 * 16 * 4 * 9)
    assert (op.read_bytes, op.write_bytes) == (read, written)


def test_attention_grows_in_its_batch() -> None:
    dims = {"batch": 4, "heads": 12, "q_len": 128, "kv_len": 128, "head_dim": 64, "value_dim": 64, "causal": 1}
    attention = Product("attention", 128, 128, 64, 48, pass_="fprop", attention=dims, element_bytes=2, dtype="bf16")
    op = known(op_of(operation("_scaled_dot_product_flash_attention", product=attention), 4))
    assert (op.kind, op.dtype, op.dims["batch"], op.dims["heads"]) == ("attention_fprop", "fp16", (0, 1), (12, 0))
    assert op.flops == (0, 2 * 12 * 128 * 128 * 128)  # 64 of the head and 64 of the value
    backward = known(op_of(operation("b", product=Product("attention", 1, 1, 1, attention=dims)), 4))
    assert backward.flops == (0, 2 * 12 * 128 * 128 * (3 * 64 + 2 * 64))


def test_batch_norm_reads_and_writes_images_and_its_statistics_do_not_grow() -> None:
    channels = (64,)
    op = known(op_of(operation("cudnn_batch_norm", ((32, 64, 8, 8), *[channels] * 4)), 32))
    assert (op.kind, op.name) == ("batch_norm", "native_batch_norm")
    assert (op.read_bytes, op.write_bytes) == ((4 * 4 * 64, 4 * 64 * 64), (0, 4 * 64 * 64))


@pytest.mark.parametrize(
    "name, dims, types, read, written",
    [
        ("relu_", ((32, 10),), ("float",), (0, 40), (0, 40)),
        ("clamp_min", ((32, 10), (), (32, 10)), ("float", "Int", "float"), (0, 40), (0, 40)),  # into its last argument
        ("add", ((32, 10), (10,), ()), ("float", "float", "Int"), (40, 40), (0, 40)),  # a bias is broadcast
        ("native_dropout", ((32, 10), (), ()), ("c10::Half", "", ""), (0, 20), (0, 20 + 10)),  # and a mask of bytes
        ("copy_", ((32, 10), (32, 10), ()), ("c10::Half", "float", ""), (0, 40), (0, 20)),  # a cast
        ("cat", (((32, 10), (32, 6)), ()), ("TensorList", ""), (0, 64), (0, 64)),
        ("sum", ((32, 10), (), ()), ("float", "", ""), (0, 40), (0, 0)),
        ("embedding", ((1000, 8), (32, 5), ()), ("float", "long int", ""), (0, 5 * 8 + 5 * 8 * 4), (0, 5 * 8 * 4)),
    ],
)
def test_traffic_of_operators_that_only_move_data(
    name: str, dims: Any, types: Any, read: tuple[int, int], written: tuple[int, int]
) -> None:
    op = known(op_of(operation(name, dims, types=types), 32))
    assert (op.read_bytes, op.write_bytes) == (read, written)


def test_casts_are_told_from_copies() -> None:
    dims = ((32, 10), (32, 10), ())
    assert known(op_of(operation("copy_", dims, types=("c10::Half", "float", "")), 32)).name == "_to_copy"
    assert known(op_of(operation("copy_", dims, types=("float", "float", "")), 32)).name == "clone"


def test_pooling_writes_its_image_over_the_stride_with_indices() -> None:
    dims = ((32, 4, 8, 8), (), (), (), (), ())
    recorded = operation("max_pool2d_with_indices", dims, inputs=("", "[4, 4]", "[4, 4]", "[0, 0]"))
    assert known(op_of(recorded, 32)).write_bytes == (0, 4 * 4 * (4 + 8))  # 2x2 of 4 channels; int64 indices
    assert known(op_of(operation("max_pool2d_with_indices", dims), 32)).write_bytes == (0, 4 * 16 * (4 + 8))


def test_what_the_optimizer_does_never_grows() -> None:
    weights = ((64, 32, 3, 3), (64, 32, 3, 3), ())
    for changes in ({"phase": "optimizer"}, {"phase": "backward", "outer": "torch::autograd::AccumulateGrad"}):
        op = known(op_of(operation("add_", weights, **changes), 32))
        assert op.write_bytes == (4 * 64 * 32 * 9, 0)


def test_a_cast_of_a_weight_does_not_grow_and_arithmetic_on_rows_of_its_size_does() -> None:
    scaling = Scaling(32, frozenset({(1024, 1024)}))
    both = ((1024, 1024), (1024, 1024), ())
    cast = operation("copy_", both, types=("c10::Half", "float", ""))
    assert known(op_of(cast, 32, scaling)).write_bytes == (2 * 1024 * 1024, 0)
    added = operation("add", both)
    assert known(op_of(added, 32, scaling)).write_bytes == (0, 4 * 32 * 1024)
    assert scaling.doubtful(added)


def test_tokens_that_are_no_multiple_of_the_batch_grow_in_their_whole_part() -> None:
    packed = operation("gelu", ((1037, 12),))
    op = known(op_of(packed, 8))
    assert op.write_bytes == (4 * 12 * (1037 % 8), 4 * 12 * (1037 // 8))
    assert Scaling(8).doubtful(packed)


def test_operators_of_other_libraries_are_unknown_unless_they_tell_their_product() -> None:
    of_library = dataclasses.replace(operation("gelu", ((32, 8),)), name="fbgemm::permute")
    assert op_of(of_library, 32) is None
    attention = dataclasses.replace(of_library, product=Product("gemm", 32, 8, 8, pass_="fprop"))
    assert known(op_of(attention, 32)).dims["m"] == (0, 1)


def test_a_batch_that_comes_second_grows() -> None:
    assert known(op_of(operation("gelu", ((50, 32, 8),)), 32)).write_bytes == (0, 4 * 50 * 8)


def test_an_operation_without_shapes_is_unknown_and_without_a_batch_nothing_grows() -> None:
    assert op_of(operation("mm"), 32) is None
    assert known(op_of(product(2048, 1024, 512, "fprop"), None)).dims["m"] == (2048, 0)


@given(
    st.integers(1, 64),
    st.integers(1, 100),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["fprop", "dgrad", "wgrad"]),
)
def test_a_traced_product_is_exact_at_the_traced_batch(batch: int, rows: int, n: int, k: int, pass_: Any) -> None:
    tokens = batch * rows
    m, contraction = (n, tokens) if pass_ == "wgrad" else (tokens, n)
    op = known(op_of(product(m, k, contraction, pass_), batch))
    assert [op.dims[d][0] + op.dims[d][1] * batch for d in "mnk"] == [m, k, contraction]
    assert op.flops[0] + op.flops[1] * batch == 2 * m * k * contraction


SIZES = st.one_of(st.integers(-2, 9), st.sampled_from([32, 64, 1024, 2**40, 2**63]))
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
ARGUMENTS = st.lists(st.one_of(SHAPES, st.none(), st.lists(SHAPES, max_size=3).map(tuple)), max_size=5).map(tuple)
NAMES = st.sampled_from(
    ["add", "add_", "cat", "copy_", "native_layer_norm", "embedding", "embedding_dense_backward", "sum",
     "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "upsample_nearest2d", "native_dropout",
     "_foreach_add_", "clamp_min"]
)  # fmt: skip


TYPES = st.lists(st.sampled_from(["", "float", "c10::Half", "long int", "x"]), max_size=5).map(tuple)
INPUTS = st.lists(st.sampled_from(["", "[2, 2]", "7", "x", "[]"]), max_size=5).map(tuple)


@given(NAMES, ARGUMENTS, TYPES, INPUTS, st.integers(1, 64))
def test_no_shapes_are_too_odd_to_read(name: str, dims: Any, types: Any, inputs: Any, batch: int) -> None:
    found = op_of(operation(name, dims, types=types, inputs=inputs), batch, Scaling(batch, frozenset({(32, 64)})))
    if found is not None:
        for a, b in (found.read_bytes, found.write_bytes):
            assert b >= 0
            assert 0 <= a + b * batch < 2**63


# The real step ------------------------------------------------------------------------------------


@cache
def resnet(path: Path) -> tuple[RawTrace, Any, Any, Parameters, TracedStep]:
    raw = read_trace(path)
    links = link(raw)
    steps = find_steps(raw, links)
    parameters = find_parameters(raw, links, steps)
    return raw, links, steps, parameters, traced_step(raw, links, steps, 32, parameters)


def test_resnet50_has_25_557_032_parameters_in_161_tensors() -> None:
    *_, parameters, _ = resnet(recorded_trace(RESNET))
    assert (parameters.elements, len(parameters.shapes), parameters.source) == (25_557_032, 161, "autograd")
    assert (parameters.passes, parameters.element_bytes, parameters.largest) == (1, 4, 512 * 512 * 9)


def test_the_traced_convolutions_are_those_that_tracing_the_model_gives() -> None:
    *_, step = resnet(recorded_trace(RESNET))
    variants = load_workload("resnet50").variants
    catalogue = next(v for v in variants if (v.mode, v.precision, v.layout) == ("train", "fp32", "nchw"))

    def convolutions(ops: tuple[Op, ...]) -> Counter[Any]:
        found: Counter[Any] = Counter()
        for op in ops:
            if op.kind.startswith("conv"):
                found[op.kind, tuple(sorted(op.dims.items())), op.read_bytes, op.write_bytes, op.flops] += op.count
        return found

    assert convolutions(step.ops) == convolutions(catalogue.ops)
    assert sum(op.count for op in step.ops if op.kind == "conv_dgrad") == 52


def test_the_traced_step_holds_every_kernel_of_a_regular_step() -> None:
    raw, _, steps, _, step = resnet(recorded_trace(RESNET))
    regular = np.isin(steps.kernel_step, steps.regular)
    measured_s = raw.kernels.duration_us[regular].sum() * 1e-6 / len(steps.regular)
    assert step.kernel_s == pytest.approx(measured_s, rel=1e-12)
    assert step.kernels == 1478
    assert step.growing_s == 0
    assert step.doubtful_s == 0


def test_the_trace_is_recognised_as_the_catalogues_resnet50() -> None:
    *_, parameters, step = resnet(recorded_trace(RESNET))
    recipe = make_recipe(precision="fp32", layout="nchw")
    assert known_model(step.ops, 32, parameters, recipe) == "resnet50"
    assert known_model(step.ops[1:], 32, parameters, recipe) is None


# What estimates are worth, on the models that were traced without a GPU ------------------------------------------


def training_steps() -> Iterator[tuple[Workload, Variant]]:
    for name in catalogue_names():
        workload = load_workload(name)
        yield from ((workload, variant) for variant in workload.variants if variant.mode == "train")


def test_the_stated_error_of_what_amp_launches_is_that_over_the_catalogue() -> None:
    errors = []
    for workload, variant in training_steps():
        if variant.precision != "fp32":
            continue
        fused = variant.attention if variant.attention != "none" else "fused"
        layout: Any = "nchw" if variant.layout == "any" else variant.layout
        recipe = make_recipe(precision="fp16", layout=layout, attention=fused)
        updates = update_work(workload, recipe).kernels
        ops = under_amp(variant.ops, workload.parameters, nchw=layout == "nchw")
        traced = select_variant(workload, recipe).ops
        errors.append(abs(np.log((host_work(ops) + updates) / (host_work(traced) + updates))))
    assert np.mean(errors) == pytest.approx(LAUNCHES_ERROR, abs=0.006)


def test_the_stated_error_of_steps_converted_to_amp_is_that_over_the_catalogue() -> None:
    gpu = find_gpu("v100-sxm2-32gb")
    profile, errors = load_profile(gpu), []
    for workload, variant in training_steps():
        if variant.precision != "fp32":
            continue
        layout: Any = "nchw" if variant.layout == "any" else variant.layout
        fused: Any = variant.attention if variant.attention != "none" else "fused"
        recipe = make_recipe(precision="fp16", layout=layout, attention=fused)
        ops = under_amp(variant.ops, workload.parameters, nchw=layout == "nchw")
        converted = Variant("train", "amp", variant.layout, variant.attention, ops, ())
        gpu_s = [
            StepModel(w, gpu=gpu, profile=profile, recipe=recipe).curve(np.array([64])).gpu_time_s[0]
            for w in (msgspec.structs.replace(workload, variants=(converted,)), workload)
        ]
        errors.append(abs(np.log(gpu_s[0] / gpu_s[1])))
    assert np.mean(errors) == pytest.approx(CONVERSION_ERROR, abs=0.006)


# Parameters and memory of small steps --------------------------------------------------------------------------


def small_trace(path: Path, *, passes: int, fused: bool = True) -> RawTrace:
    """Two steps, each with backward passes of two parameters and an optimizer step over both."""
    trace = KinetoTrace()
    for number in range(2):
        start = 1000.0 * number
        trace.step(number, start, 990)
        for i in range(passes):
            for j, shape in enumerate(([6, 4], [6])):
                trace.op("torch::autograd::AccumulateGrad", start + 100 * i + 10 * j, 5, dims=[shape])
        if fused:
            trace.op("aten::_fused_adamw_", start + 800, 50, dims=[[[4, 6], [6]]], types=["TensorList"])
            trace.kernel("void multi_tensor_apply_kernel<FusedAdamMathFunctor>", start + 830, 20, launched=start + 810)
    return read_trace(trace.write(path))


def test_accumulated_passes_are_counted_once_where_the_optimizer_says_so(tmp_path: Path) -> None:
    raw = small_trace(tmp_path / "trace.json", passes=3)
    links = link(raw)
    parameters = find_parameters(raw, links, find_steps(raw, links))
    assert (parameters.elements, len(parameters.shapes), parameters.passes) == (30, 2, 3)
