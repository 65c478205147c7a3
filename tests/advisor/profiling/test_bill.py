from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from advisor.convolution import Convolution
from advisor.gpus import find_gpu
from advisor.profiling.bill.host import host_bound
from advisor.profiling.bill.make import LITTLE, NO_TIME, make_bill
from advisor.profiling.kernels.device import DeviceFacts
from advisor.profiling.records import (
    Advice,
    BatchSize,
    Bill,
    BillLine,
    CurvePoint,
    KernelGroup,
    Operation,
    TracedGpu,
)
from tests.advisor.profiling.priced import convolution, device, facts, group, linear, recorded
from tests.data import recorded_trace

RESNET = "resnet50_train_b32_fp32_v100.json.gz"
SAMPLED = "sampled_no_device_properties.json.gz"


def bill_of(
    groups: list[KernelGroup], operations: list[Operation], gpu: str | None = "a100-sxm4-80gb", **changes: Any
) -> Bill:
    total_s = sum(g.total_s for g in groups)
    batch, advice = changes.pop("batch", None), changes.pop("advice", ())
    steps = facts(**{"step_s": total_s, **changes})
    return make_bill(groups, operations, device(gpu), steps, total_s, batch, advice)


def line_of(bill: Bill, kind: str) -> BillLine | None:
    return next((line for line in bill.lines if line.kind == kind), None)


def single(m: int, n: int, k: int, **changes: Any) -> tuple[KernelGroup, Operation]:
    """An FP32 product on CUDA cores."""
    kernel = group(name="ampere_sgemm_128x64_tn", tensor_cores=False, precision="fp32", grid=(m // 128, n // 64, 1),
                   tile_m=128, tile_n=64, **changes)  # fmt: skip
    return kernel, linear(m, n, k, dtype="fp32", element_bytes=4)


# Recorded traces ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> Bill:
    groups, operations, found, steps, kernel_time_s = recorded(recorded_trace(RESNET))
    return make_bill(groups, operations, found, steps, kernel_time_s, BatchSize(32, ""))


def test_resnet_in_fp32_loses_most_off_the_tensor_cores(resnet: Bill) -> None:
    line = resnet.lines[1]
    assert line.kind == "tensor_cores" and not line.measured
    assert "100 % of such time" in line.what
    assert "torch.autocast('cuda', torch.float16) with a GradScaler and channels_last" in line.todo
    assert "TF32" not in line.todo  # which a V100 has not
    # 67.0 ms of products a step, of which V100s in FP16 were seen to take a third to a half
    assert line.lost_s is not None and 67.0e-3 / 2 < line.lost_s < 67.0e-3 * 0.8


def test_resnets_step_shows_little_of_it_while_the_host_holds_it_back(resnet: Bill) -> None:
    host, off = resnet.lines[:2]
    assert host.measured and host.what == "the GPU waits for the host's launches"
    # 102 ms of work on the GPU, 28 ms of waits, 2 ms between queued kernels: a host that needs nearly all of 133 ms
    assert resnet.host_s is not None and 0.9 * resnet.step_s < resnet.host_s < resnet.step_s
    assert off.step_gain_s is not None and off.step_gain_s < 0.06 * resnet.step_s
    assert "the step gets shorter by" in off.todo and "take about 12" in off.todo
    assert resnet.verdict.startswith("the most to gain: the GPU waits for the host's launches, 28.5 ms (21 %)")
    assert "then 45.1 ms of kernel time, most of which a step hides while the host takes about 12" in resnet.verdict


def test_resnets_tiles_and_waves_cost_a_few_per_cent_of_its_convolutions(resnet: Bill) -> None:
    line = line_of(resnet, "quantization")
    assert line is not None and line.share is not None and 0.01 < line.share < 0.03
    assert (
        "batch 31 or 34 fills whole waves of conv 256>1024 1x1 on 14x14 dgrad (traced: 32)" in line.todo
    )  # 28 CTAs each
    assert all("norm" not in item and "add" not in item for item in line.items)


def test_nothing_is_to_be_aligned_in_fp32(resnet: Bill) -> None:
    assert line_of(resnet, "alignment") is None


def test_resnets_looped_optimizer_is_named_beside_its_launch_gaps(resnet: Bill) -> None:
    line = next(line for line in resnet.lines if line.what == "the GPU waits for the host's launches")
    assert line.measured and "foreach=True" in line.todo
    assert "add_" in line.todo  # 3 kernels for each of 161 parameters


def test_the_bill_keeps_the_traces_kernel_time(resnet: Bill) -> None:
    assert round(resnet.kernel_time_s * 1e6) == 594_868


def test_a_mixed_trace_is_billed_for_odd_dimensions_of_its_tf32_products() -> None:
    groups, operations, found, steps, kernel_time_s = recorded(recorded_trace(SAMPLED), "a100-sxm4-40gb")
    bill = make_bill(groups, operations, found, steps, kernel_time_s)
    line = line_of(bill, "alignment")
    assert line is not None and "linear 38313>512: in features 38313 to 38316 (16 bytes), best 38336" in line.todo
    assert line.todo.count("linear 38313>512") == 1  # though two of its passes are billed
    off = line_of(bill, "tensor_cores")
    assert off is not None and "TF32" not in off.todo  # on already
    assert off.todo.startswith("little to gain")


def test_an_unknown_gpu_is_billed_for_gaps_alone_and_asked_for() -> None:
    groups, operations, found, steps, kernel_time_s = recorded(recorded_trace(SAMPLED))
    bill = make_bill(groups, operations, found, steps, kernel_time_s)
    assert {line.kind for line in bill.lines} == {"gaps"}
    assert "name it with --gpu" in bill.verdict


def test_without_shapes_the_bill_asks_for_them() -> None:
    groups, operations, found, steps, kernel_time_s = recorded(recorded_trace("alexnet_a100.json.gz"))
    bill = make_bill(groups, operations, found, steps, kernel_time_s)
    off = line_of(bill, "tensor_cores")
    # sgemm 1.30 ms, scudnn 1.03 ms, Fourier transforms and their product 0.61 ms; cuDNN's others are TF32 already
    assert off is not None and off.what.startswith("2.94 ms of products off the Tensor Cores")
    assert off.lost_s is None and "record_shapes=True" in off.todo and off.what in bill.verdict
    assert "torch.bfloat16" in off.todo and "set_float32_matmul_precision('high')" in off.todo
    assert "cudnn" not in off.todo and "GradScaler" not in off.todo  # on already; no backward pass
    quantized = line_of(bill, "quantization")
    assert quantized is not None and "upper bound" in quantized.what


# By hand --------------------------------------------------------------------------------------------------------------


def test_a_well_tuned_step_has_little_to_gain() -> None:
    # 3456 x 4096 in 256x128: 13.5 x 32 tiles ... in 128x128: 27 x 32 = 864 = 8 waves of 108
    kernel = group(grid=(27, 32, 1), total_s=5e-3)
    bill = bill_of([kernel], [linear(3456, 4096, 4096)])
    assert bill.lines == ()
    assert bill.verdict == f"little to gain: all that is billed is 0.0 % of a step, under {100 * LITTLE:.0f} %"


def test_an_fp32_product_gains_what_the_profile_says() -> None:
    kernel, operation = single(4096, 4096, 4096, total_s=8e-3)
    bill = bill_of([kernel], [operation])
    line = line_of(bill, "tensor_cores")
    # 137 GFLOP: 17 TFLOP/s of 19.5 in FP32; in BF16 200 to 312 TFLOP/s, so 0.44 to 0.69 ms are left
    assert line is not None and line.lost_s is not None and 8e-3 - 0.69e-3 < line.lost_s < 8e-3 - 0.44e-3
    assert line.step_gain_s == line.lost_s
    assert "torch.bfloat16" in line.todo and "set_float32_matmul_precision('high')" in line.todo
    assert "cudnn" not in line.todo
    assert "channels_last" not in line.todo  # no images


def test_amp_that_gains_nothing_is_said_to() -> None:
    # as fast in FP32 as BF16 could be: nothing is lost
    kernel, operation = single(128, 128, 128, total_s=2e-6)
    other = group(name="at::native::vectorized", class_="elementwise", operation=None, total_s=1e-4)
    line = line_of(bill_of([kernel, other], [operation]), "tensor_cores")
    assert line is not None and line.lost_s == 0 and line.todo.startswith("little to gain")


def test_a_card_without_tensor_cores_says_so() -> None:
    kernel, operation = single(4096, 4096, 4096, total_s=15e-3)
    line = line_of(bill_of([kernel], [operation], "p100-pcie-16gb"), "tensor_cores")
    assert line is not None and line.lost_s == 0 and "has no Tensor Cores" in line.what


@pytest.mark.parametrize("dtype", ["fp64", "complex64", "int8"])
def test_products_of_other_numbers_are_not_moved(dtype: str) -> None:
    kernel, operation = single(4096, 4096, 4096)
    product = replace(operation.product, dtype=dtype)  # linear() gives a product
    bill = bill_of([replace(kernel, precision=dtype)], [replace(operation, product=product)])
    assert line_of(bill, "tensor_cores") is None


def test_triton_kernels_on_a_v100_miss_the_tensor_cores_in_any_precision() -> None:
    kernel, operation = single(4096, 4096, 4096, total_s=10e-3)
    triton = replace(kernel, name="triton_tem_fused_mm_0", library="Triton", tile_m=None, tile_n=None)
    line = line_of(bill_of([triton], [operation], "v100-sxm2-16gb"), "tensor_cores")
    assert line is not None and any("Triton emits no matrix instruction" in item for item in line.items)
    newer = line_of(bill_of([triton], [operation]), "tensor_cores")
    assert newer is not None and not any("Triton" in item for item in newer.items)


def test_an_odd_contraction_is_billed_and_padded() -> None:
    kernel = group(total_s=2e-3, grid=(32, 32, 1))
    bill = bill_of([kernel], [linear(4096, 4096, 4097)])
    line = line_of(bill, "alignment")
    # at 2 bytes 0.28 of the rate is left (EleutherAI's sweep), so 72 % of the time, but for the padding, is lost
    assert line is not None and line.share == pytest.approx(0.72, abs=0.02)
    assert line.todo == ("pad linear 4097>4096: in features 4097 to 4104 (16 bytes), best 4160 (128 bytes)")
    assert "aligned to 2 bytes" in line.items[0]


@pytest.mark.parametrize(
    "m, n, k, pass_",
    [(4097, 4096, 4096, "fprop"), (4097, 4096, 4096, "dgrad"), (4096, 4096, 4097, "wgrad")],
)
def test_an_odd_batch_is_never_blamed_for_alignment(m: int, n: int, k: int, pass_: Any) -> None:
    bill = bill_of([group(total_s=2e-3, grid=(33, 32, 1))], [linear(m, n, k, pass_=pass_)])
    assert line_of(bill, "alignment") is None


def test_a_dimension_that_equals_the_batch_is_not_blamed_either() -> None:
    kernel, operation = group(total_s=2e-3, grid=(32, 33, 1)), linear(4096, 4097, 4096)
    assert line_of(bill_of([kernel], [operation]), "alignment") is not None
    assert line_of(bill_of([kernel], [operation], batch=BatchSize(4097, "")), "alignment") is None


def test_the_stem_is_not_told_to_pad_its_three_channels() -> None:
    stem = Convolution(64, 3, 224, 224, 64, 7, 7, 2, 2, 3, 3)
    kernel = group(class_="fprop", tile_m=None, tile_n=None, grid=(6272, 1, 1))
    operation = convolution(stem, dtype="fp16", element_bytes=2)
    assert line_of(bill_of([kernel], [operation]), "alignment") is None


def test_odd_channels_of_a_half_precision_convolution_are_named() -> None:
    layer = Convolution(64, 63, 56, 56, 64, 3, 3, pad_h=1, pad_w=1)
    kernel = group(class_="fprop", tile_m=None, tile_n=None, grid=(1568, 1, 1), total_s=2e-3)
    line = line_of(bill_of([kernel], [convolution(layer, dtype="fp16", element_bytes=2)]), "alignment")
    assert line is not None and line.todo == "pad conv 63>64 3x3 on 56x56: C 63 to 64"


def test_what_fp16_will_ask_for_is_named_but_not_billed() -> None:
    kernel, _ = single(4096, 1024, 4096, total_s=8e-3)
    operation = linear(4096, 1001, 4096, dtype="fp32", element_bytes=4)
    bill = bill_of([kernel], [operation])
    line = line_of(bill, "tensor_cores")
    assert line_of(bill, "alignment") is None
    assert line is not None and any(
        "out features 1001 to 1008 (16 bytes), best 1024 (128 bytes)" in item for item in line.items
    )


def test_gaps_are_measured_and_named_by_cause() -> None:
    gaps = {"host": 3e-3, "data": 2e-3, "sync": 1e-3, "communication": 0.0}
    bill = bill_of([group(grid=(27, 32, 1), total_s=4e-3)], [linear(3456, 4096, 4096)], step_s=10e-3, gap_s=gaps)
    assert [(line.lost_s, line.measured) for line in bill.lines] == [(3e-3, True), (2e-3, True), (1e-3, True)]
    host, data, sync = bill.lines
    assert "CUDA graphs" in host.todo and "DataLoader" in data.todo and ".item()" in sync.todo
    assert bill.verdict.startswith("the most to gain: the GPU waits for the host's launches, 3.00 ms (30 %) of a step")


def test_kernels_shorten_a_step_only_as_far_as_the_host_launches_them() -> None:
    # 8 ms of work and 4 ms of waits: the host needs (12^6 - 8^6)^(1/6) = 11.8 ms of the 12
    bound = host_bound(facts(step_s=12e-3, busy_share=8 / 12, gap_s={"host": 4e-3}))
    assert bound is not None and bound.host_s == pytest.approx(11.817e-3, abs=1e-6)
    assert bound.gain_s(0.0) == pytest.approx(0.0, abs=1e-9)
    assert bound.gain_s(4e-3) == pytest.approx(12e-3 - (4**6 + 11.817**6) ** (1 / 6) * 1e-3, abs=1e-6)
    assert bound.gain_s(8e-3) == bound.gain_s(80e-3) == pytest.approx(12e-3 - 11.817e-3, abs=1e-6)
    assert host_bound(facts(step_s=12e-3, gap_s={"host": 1e-3})) is None


def test_the_step_under_amp_is_that_of_the_advice() -> None:
    kernel, operation = single(4096, 4096, 4096, total_s=8e-3)
    before = Advice("a100-sxm4-80gb", "A100", True, "fp32", 128, 64, 96, 256, (
        CurvePoint(64, 12e-3, 5333.0, 0.66, None, None, ()), CurvePoint(128, 18e-3, 7111.0, 0.9, None, None, ()),
    ), 0.3, 0.1, "", "", (), ())  # fmt: skip
    under_amp = replace(before, calibrated=False, precision="fp16", batch=256, points=(
        CurvePoint(64, 15e-3, 4266.0, 0.3, None, None, ()), CurvePoint(256, 16e-3, 16000.0, 0.9, None, None, ()),
    ))  # fmt: skip
    bill = bill_of([kernel], [operation], step_s=12e-3, busy_share=8 / 12, gap_s={"host": 4e-3},
                   batch=BatchSize(64, ""), advice=(before, under_amp))  # fmt: skip
    host, off = bill.lines
    assert "a larger batch (128 is recommended)" in host.todo
    assert off.kind == "tensor_cores" and off.step_gain_s == 0.0
    assert "at batch 64 the step of 12.0 ms is predicted at 15.0 ms under AMP" in off.todo
    assert "256 in FP16 AMP is predicted at 16,000 samples/s, +200 % over the traced run" in off.todo


def test_communication_that_nothing_hides_is_a_line() -> None:
    bill = bill_of([group(grid=(27, 32, 1), total_s=4e-3)], [linear(3456, 4096, 4096)], step_s=10e-3,
                   exposed_communication_s=2e-3)  # fmt: skip
    assert [(line.kind, line.lost_s) for line in bill.lines] == [("gaps", 2e-3)]
    assert "no_sync()" in bill.lines[0].todo


def test_a_loop_of_small_optimizer_kernels_is_told_of_foreach() -> None:
    update = Operation("aten::add_", "Optimizer.step#SGD.step", "optimizer", ((64, 64),), ("float",), (), None, "add")
    kernels = [
        group(grid=(27, 32, 1), total_s=4e-3),
        group(name="vectorized_elementwise_kernel", class_="optimizer", phase="optimizer", operation=1, count=322,
              total_s=322 * 2e-6),
    ]  # fmt: skip
    bill = bill_of(kernels, [linear(3456, 4096, 4096), update], step_s=10e-3, gap_s={"host": 5e-3})
    assert "foreach=True" in bill.lines[0].todo and "322 add_ a step" in bill.lines[0].todo


def test_gradients_zeroed_one_by_one_are_told_of_set_to_none() -> None:
    fill = Operation("aten::fill_", "aten::zero_", "optimizer", ((64, 64),), ("float",), (), None, "fill")
    kernels = [
        group(grid=(27, 32, 1), total_s=4e-3),
        group(name="FillFunctor", class_="optimizer", phase="optimizer", operation=1, count=161, total_s=161 * 2e-6),
    ]  # fmt: skip
    (line,) = bill_of(kernels, [linear(3456, 4096, 4096), fill], step_s=10e-3, gap_s={"host": 5e-3}).lines
    assert line.todo.startswith("zero_grad(set_to_none=True): gradients are zeroed one by one (161 kernels a step)")
    assert "foreach" not in line.todo


def test_graphs_are_not_advised_where_they_launch_the_kernels_already() -> None:
    kernel, operation = group(grid=(27, 32, 1), total_s=4e-3), linear(3456, 4096, 4096)
    gaps = {"host": 3e-3, "gpu": 2e-3}
    host, gpu = bill_of([kernel], [operation], step_s=10e-3, gap_s=gaps, graph_share=0.97).lines
    assert host.todo.startswith("97 % of the kernels are launched by CUDA graphs already")
    assert not any(advised in line.todo for line in (host, gpu) for advised in ("or CUDA graphs", "reduce-overhead"))


@pytest.mark.parametrize(
    "kind, cure",
    [
        ("pageable", "pin_memory=True"),
        ("pinned", "ahead, on a stream"),
        ("to host", "read less"),
        ("on the GPU", "fills"),
    ],
)
def test_exposed_copies_are_cured_by_what_they_are(kind: str, cure: str) -> None:
    bill = bill_of([group(grid=(27, 32, 1), total_s=4e-3)], [linear(3456, 4096, 4096)], step_s=10e-3,
                   exposed_copy_s=2e-3, exposed_copies_s={kind: 2e-3})  # fmt: skip
    (line,) = bill.lines
    assert line.lost_s == 2e-3 and cure in line.todo
    assert ("pin_memory" in line.todo) == (kind == "pageable")


def test_lines_are_seconds_of_a_step_where_the_trace_has_several() -> None:
    kernel, operation = single(4096, 4096, 4096, total_s=80e-3, count=10)
    operation = replace(operation, calls=10)
    whole = line_of(bill_of([kernel], [operation], step_s=80e-3), "tensor_cores")
    each = line_of(bill_of([replace(kernel, step_s=8e-3)], [operation], step_s=8e-3), "tensor_cores")
    assert whole is not None and each is not None
    assert each.lost_s is not None and whole.lost_s is not None
    assert each.lost_s == pytest.approx(whole.lost_s / 10)


def test_a_trace_whose_kernels_take_no_time_is_billed_for_nothing() -> None:
    kernel, operation = single(4096, 4096, 4096, total_s=0.0)
    for gaps in ({}, {"host": 2e-3}):
        bill = bill_of([kernel], [operation], step_s=0.0, gap_s=gaps)
        assert bill.lines == () and bill.verdict == NO_TIME
    both = bill_of([kernel, group(total_s=1e-3, operation=None)], [operation], step_s=0.0)
    assert math.isfinite(sum(line.share or 0.0 for line in both.lines))


def test_a_gpu_without_known_bandwidth_is_said_instead_of_a_traceback() -> None:
    unknown = replace(find_gpu("a100-sxm4-80gb"), memory_bandwidth_bytes_per_s=None)
    kernel, operation = single(4096, 4096, 4096)
    bill = make_bill([kernel], [operation], device(unknown), facts(), 1e-3)
    assert bill.lines == () and "memory_bandwidth" in bill.verdict.replace(" ", "_")


def test_a_gpu_that_the_trace_names_is_not_asked_for() -> None:
    named = TracedGpu("NVIDIA Future", 99, "trace", None, (9, 0), True)
    bill = make_bill([group()], [linear(4096, 4096, 4096)], DeviceFacts(named, None, None, 99), facts(), 1e-3)
    assert "NVIDIA Future is not in our table" in bill.verdict and "--gpu" not in bill.verdict
