"""Advice where a trace is not plain: bounds, no steps, the host, several GPUs, precisions that a GPU lacks."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import BadInputError
from advisor.profiling.records import Advice
from advisor.recipe import Recipe
from tests.advisor.profiling.simulated import simulate
from tests.advisor.profiling.simulated_kernels import A100 as SIMULATED_A100
from tests.advisor.profiling.simulated_models import resnet_fp32
from tests.advisor.profiling.test_advice import RESNET, advised, at, linear_trace
from tests.data import recorded_trace
from tests.kineto import A100, V100, KinetoTrace

BF16_KERNEL = "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x3_tn"


def training(*, kernel: str = "ampere_sgemm_128x64_tn", type_: str = "float", marks: bool = True, busy: float = 400.0,
             communication: float = 0.0, rank: int | None = None, device: Any = A100) -> KinetoTrace:  # fmt: skip
    """Three steps (one, without marks) of a linear layer, [16, 8, 256] by 512, and its gradient, `busy` us each."""
    trace = KinetoTrace(device, rank=rank)
    types = [type_, type_, type_, "", ""]
    for number in range(3 if marks else 1):
        start = 2000.0 * number
        if marks:
            trace.step(number, start, 1990)
        trace.op("aten::linear", start + 10, 100, dims=[[16, 8, 256], [512, 256], [512]], types=types[:3],
                 sequence=number + 1)  # fmt: skip
        trace.op("aten::addmm", start + 20, 80, dims=[[512], [128, 256], [256, 512], [], []], types=types)
        trace.kernel(kernel, start + 60, busy, launched=start + 40, grid=(4, 2, 1))
        trace.op("autograd::engine::evaluate_function: AddmmBackward0", start + 200, 90, sequence=number + 1, thread=2)
        trace.op("AddmmBackward0", start + 205, 80, sequence=number + 1, thread=2)
        trace.op("aten::mm", start + 210, 60, dims=[[512, 128], [128, 256]], types=types[:2], thread=2)
        trace.kernel(kernel, start + 70 + busy, busy, launched=start + 220, grid=(4, 2, 1), thread=2)
        if communication:
            trace.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", start + 80 + 2 * busy, communication,
                         launched=start + 230, thread=2, stream=20)  # fmt: skip
        trace.op("torch::autograd::AccumulateGrad", start + 300, 5, dims=[[512, 256]], thread=2)
        trace.op("torch::autograd::AccumulateGrad", start + 310, 5, dims=[[512]], thread=2)
        trace.op("Optimizer.step#SGD.step", start + 1500, 90)
    return trace


def own(trace: KinetoTrace, folder: Path, **options: Any) -> Advice:
    return advised(trace.write(folder / "trace.json"), **options).advice[0]


def said(advice: Advice) -> str:
    return "\n".join((*advice.reasons, *advice.notes))


# How far is searched -----------------------------------------------------------------------------------


def test_a_calibrated_curve_is_searched_as_far_as_such_curves_were_checked(tmp_path: Path) -> None:
    found = own(linear_trace(busy=20.0), tmp_path)  # the host sets the step: throughput rises with the batch
    assert max(point.batch for point in found.points) == 8 * 16
    assert at(found, 128).roles[-1] in ("end of the search", "largest power of two")
    (note,) = [note for note in found.notes if "ended" in note]
    assert "8 times the traced batch" in note
    assert "record a trace at batch 128" in note


def test_nothing_is_said_of_the_end_of_the_search_where_the_curve_is_flat(tmp_path: Path) -> None:
    found = own(linear_trace(rows=4096), tmp_path)
    assert not any("ended" in note for note in found.notes)


def test_the_user_may_search_less_than_what_was_traced(tmp_path: Path) -> None:
    found = own(linear_trace(), tmp_path, max_batch=8)
    assert max(point.batch for point in found.points) == 8
    assert found.gain is not None
    assert found.gain < 0  # fewer samples than were traced


@pytest.mark.parametrize("bounds", [{"max_batch": 0}, {"max_batch": 1 << 30}, {"memory_limit_bytes": -1}])
def test_bounds_that_cannot_be_are_refused(tmp_path: Path, bounds: dict[str, int]) -> None:
    with pytest.raises(BadInputError):
        own(linear_trace(), tmp_path, **bounds)


def test_a_memory_limit_stands_for_the_traced_gpu_and_bounds_the_others() -> None:
    limit = 8 * 2**30
    for advice in advised(recorded_trace(RESNET), on=("h100",), memory_limit_bytes=limit).advice:
        fitting = [p for p in advice.points if p.fits]
        assert max(p.total_bytes or 0 for p in fitting) * 1.075 <= limit  # with the margin
        assert any(p.fits is False for p in advice.points)
    plenty = advised(recorded_trace(RESNET), on=("v100-sxm2-16gb",), memory_limit_bytes=1 << 40, max_batch=512).advice
    assert at(plenty[0], 512).fits
    assert not at(plenty[2], 256).fits


# Steps ------------------------------------------------------------------------------------------------------


def test_a_trace_without_marks_that_is_one_optimizer_step_is_advised_for(tmp_path: Path) -> None:
    found = own(training(marks=False), tmp_path)
    assert found.traced_batch == 16
    assert "holds a single one" in said(found)


def test_no_steps_no_advice_and_the_way_out(tmp_path: Path) -> None:
    trace = training(marks=False)
    dims = [[512], [96, 256], [256, 512], [], []]
    trace.op("aten::addmm", 3000, 80, dims=dims)  # goes on with another batch
    trace.kernel("ampere_sgemm_128x64_tn", 3040, 300, launched=3020, grid=(4, 2, 1))
    found = advised(trace.write(tmp_path / "trace.json"))
    assert found.advice == ()
    assert "profiler.step()" in found.notes[0]


# Ties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"has_tf32": False}, {"loads_us": 150e3}])
def test_a_size_as_fast_as_any_is_kept_and_a_smaller_one_named(tmp_path: Path, settings: dict[str, Any]) -> None:
    loads_us = settings.pop("loads_us", 0.0)
    path = tmp_path / "trace.json"
    simulate(resnet_fp32(), replace(SIMULATED_A100, **settings), path, host_us={"enumerate(DataLoader)": loads_us})
    found = advised(path).advice[0]
    assert (found.traced_batch, found.batch, found.gain) == (256, 256, pytest.approx(0))
    assert {"recommended", "traced"} <= set(at(found, 256).roles)
    smaller = next(point for point in found.points if "as fast" in point.roles)
    assert smaller.batch < 256
    assert smaller.samples_per_s == pytest.approx(at(found, 256).samples_per_s, rel=found.error)
    kept = f"Keep 256, it hardly matters here: {smaller.batch} would change"
    assert any(reason.startswith(kept) and "need less memory" in reason for reason in found.reasons)
    assert found.reasons[0].startswith(f"Of batch {smaller.batch}: ")


# The host ---------------------------------------------------------------------------------------------------


def test_what_the_traced_host_would_make_of_another_gpu_is_said() -> None:
    """(102.2 ms busy, 130.7 ms with the waits for launches): (130.7^6 - 102.2^6)^(1/6) = 125 ms."""
    traced, _, h100, amp = advised(recorded_trace(RESNET), on=("h100",)).advice
    assert "would take about 125 ms to launch such a step, and the model's own 14.2 ms are assumed" in said(h100)
    (batch,) = map(int, re.findall(r"nothing under batch (\d+) would be faster than that: 32 samples", said(h100)))
    assert h100.batch > batch > 32
    assert batch / 0.125 == pytest.approx(at(h100, h100.batch).samples_per_s, rel=0.03)
    assert "32 samples would run at 256 a second, not 1,174" in said(h100)
    assert "would take about 154 ms" in said(amp)  # 1.23 times the operators
    assert "the traced host" not in said(traced)
    assert h100.kernel_gain is None


def test_a_host_that_kept_ahead_is_not_held_against_another_gpu(tmp_path: Path) -> None:
    path = linear_trace(busy=900.0).write(tmp_path / "trace.json")
    assert "the traced host" not in said(advised(path, on=("h100",)).advice[-1])


def head(**changes: Any) -> dict[str, Any]:
    """What `advisor profile --model` writes of its run."""
    run = {
        "schema_version": 1, "model": "linear", "batch": 16, "input_shape": [8, 256], "recipe": asdict(Recipe()),
        "device": "NVIDIA A100-SXM4-80GB", "torch": "2.9.0", "cuda": "12.8", "cudnn": 91002,
        "warm_up": {"steps": 20, "took_s": 3.1, "steady": True}, "unprofiled_step_s": [0.0013, 0.0014, 0.0012],
        "profiled_step_s": [0.002], "allocated_peak_bytes": None, "reserved_peak_bytes": None, "notes": [],
    }  # fmt: skip
    return {**run, **changes}


def with_head(folder: Path, **changes: Any) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps({**training().document(), "batchwave": head(**changes)}))
    return path


def test_the_step_is_what_it_took_without_the_profiler(tmp_path: Path) -> None:
    found = advised(with_head(tmp_path)).advice[0]
    assert at(found, 16).step_s == pytest.approx(0.0013)
    assert "1.30 ms, the median without the profiler" in said(found)
    assert "profiler itself slows" not in said(found)


@pytest.mark.parametrize("seconds", [1e-6, 0.6e-3, 0.1])  # two kernels take 0.8 ms, the step with the profiler 2 ms
def test_unprofiled_times_that_cannot_be_are_left_out_and_said_to_be(tmp_path: Path, seconds: float) -> None:
    found = advised(with_head(tmp_path, unprofiled_step_s=[seconds])).advice[0]
    assert at(found, 16).step_s > 0.0018
    assert "which cannot be" in said(found)


def test_peaks_without_the_profiler_tell_the_memory(tmp_path: Path) -> None:
    weights = 4 * (512 * 256 + 512)
    peaks = {"allocated_peak_bytes": 2 * weights + 16 * 10**6, "reserved_peak_bytes": 2 * weights + 20 * 10**6}
    found = advised(with_head(tmp_path, **peaks)).advice[0]
    assert "without the profiler" in found.memory_origin
    grown = (at(found, 32).total_bytes or 0) - (at(found, 16).total_bytes or 0)
    assert grown == pytest.approx(16 * 10**6 + 4 * 10**6, abs=10)  # weights and momentum stay; the reserve grows too


def test_where_the_host_sets_the_step_amp_is_said_to_pay_from_a_batch_on() -> None:
    fp32, amp, *_ = advised(recorded_trace(RESNET)).advice
    (told,) = [match for reason in amp.reasons if (match := re.search(r"AMP pays from batch (\d+) on", reason))]
    assert "At batch 32 the host, not the GPU, sets the step" in told.string
    first = int(told[1])
    both = advised(recorded_trace(RESNET), max_batch=first).advice
    faster = {a.precision: {p.batch: p.samples_per_s for p in a.points} for a in both}
    assert faster["fp16"][first] > 1.02 * faster["fp32"][first] if first in faster["fp32"] else True
    assert at(amp, 32).samples_per_s < at(fp32, 32).samples_per_s
    assert at(amp, 64).samples_per_s > at(fp32, 64).samples_per_s
    assert 32 < first <= 64


def test_amp_that_never_pays_is_said_not_to(tmp_path: Path) -> None:
    _, amp = advised(linear_trace(busy=20.0).write(tmp_path / "trace.json")).advice
    assert "AMP does not pay up to batch 128" in said(amp)
    assert "launches 3.00 times the operators" in said(amp)


def test_a_gain_of_waiting_is_told_from_one_of_the_kernels() -> None:
    found = advised(recorded_trace(RESNET)).advice[0]
    (reason,) = [reason for reason in found.reasons if reason.startswith("The kernels alone")]
    enough = int(re.search(r"then batch (\d+) would be enough", reason)[1])
    assert 32 < enough < found.batch


# Several GPUs ---------------------------------------------------------------------------------------------------


def test_of_a_job_of_several_gpus_batch_and_throughput_are_those_of_one(tmp_path: Path) -> None:
    found = own(training(rank=0, communication=300.0), tmp_path, on=("h100",))
    assert "of one GPU of the job" in said(found)
    assert "communication runs alone for 15% of the step" in said(found).replace(" %", "%")
    other = advised(tmp_path / "trace.json", on=("h100",)).advice[-1]
    assert "exchange of gradients" in said(other)
    assert "communication runs alone" not in said(other)


def test_ddp_has_buckets_of_all_gradients(tmp_path: Path) -> None:
    alone, shared = (own(training(rank=rank), tmp_path) for rank in (None, 0))
    assert "estimate from the shapes" in alone.memory_origin
    assert (at(shared, 16).total_bytes or 0) - (at(alone, 16).total_bytes or 0) == 4 * (512 * 256 + 512)


def test_shapes_tell_no_memory_where_parameters_are_sharded(tmp_path: Path) -> None:
    trace = training(rank=0)
    for start, name in ((700, "AllGather"), (720, "ReduceScatter")):
        trace.kernel(f"ncclDevKernel_{name}_RING_LL", start, 10, launched=start - 10, stream=20)
    found = own(trace, tmp_path)
    assert "unknown" in found.memory_origin
    assert at(found, 16).fits is None


# Precisions and GPUs ---------------------------------------------------------------------------------------------


def casting(trace: KinetoTrace) -> KinetoTrace:
    """With a cast of the weights to BF16 in the first step, as autocast makes it."""
    types = ["c10::BFloat16", "float", "", ""]
    trace.op("aten::copy_", 130, 20, dims=[[512, 256], [512, 256], []], types=types)
    trace.kernel("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", 1000, 5,
                 launched=135, grid=(256, 1, 1))  # fmt: skip
    return trace


def test_a_model_wholly_in_two_bytes_is_not_called_amp(tmp_path: Path) -> None:
    path = training(kernel=BF16_KERNEL, type_="c10::BFloat16").write(tmp_path / "trace.json")
    traced, v100 = advised(path, on=("v100-sxm2-16gb",)).advice
    assert (traced.precision, traced.autocast) == ("bf16", False)
    assert (v100.precision, v100.autocast) == ("fp16", False)
    assert "has no BF16 Tensor Cores: predicted in FP16 instead" in said(v100)


def test_bf16_timings_are_said_to_stand_for_fp16_and_whose_they_are(tmp_path: Path) -> None:
    plain, amp = advised(linear_trace().write(tmp_path / "trace.json")).advice
    assert "BF16" not in said(plain)
    whose = "The coefficients of matrix products on NVIDIA A100-SXM4-80GB were fitted to timings in BF16, "
    assert whose in said(amp)
    bf16 = own(training(kernel=BF16_KERNEL, type_="c10::BFloat16"), tmp_path)
    assert "timings" not in said(bf16)


def test_a_gpu_without_bf16_is_predicted_in_fp16(tmp_path: Path) -> None:
    path = casting(training(kernel=BF16_KERNEL, type_="c10::BFloat16")).write(tmp_path / "trace.json")
    traced, *others = advised(path, on=("v100-sxm2-16gb", "t4", "h100")).advice
    assert all(advice.autocast for advice in (traced, *others))
    assert traced.precision == "bf16"
    assert [advice.precision for advice in others] == ["fp16", "fp16", "bf16"]
    assert "has no BF16 Tensor Cores: predicted in FP16 AMP instead" in said(others[0])


def test_a_gpu_without_tf32_is_predicted_at_the_fp32_rate_and_in_amp(tmp_path: Path) -> None:
    path = training(kernel="ampere_tf32_s1688gemm_128x64").write(tmp_path / "trace.json")
    found = advised(path, on=("v100-sxm2-16gb",)).advice
    assert [advice.precision for advice in found] == ["tf32", "fp16", "tf32", "fp16"]
    assert "no TF32 Tensor Cores" in said(found[2])


def test_8_bit_products_are_predicted_as_bf16_and_said_to_be(tmp_path: Path) -> None:
    path = training(kernel="nvjet_qqtst_128x256_128x4_1x2_h_bz_TNT").write(tmp_path / "trace.json")
    found = advised(path, on=("h100",)).advice
    assert {advice.precision for advice in found} == {"bf16"}
    assert all("FP8: predicted as BF16" in said(advice) for advice in found)


def test_a_gpu_without_timings_of_its_own_borrows_them_and_says_so(tmp_path: Path) -> None:
    path = training(device={**V100, "name": "Tesla V100-SXM2-32GB"}).write(tmp_path / "trace.json")
    plain, amp = advised(path).advice
    assert (plain.calibrated, plain.precision, amp.precision) == (True, "fp32", "fp16")
    assert "no GEMM timings of v100-sxm2-32gb" in said(amp)
    assert "GEMM timings" not in said(plain)  # FP32 products stand on the card's facts: nothing is borrowed


def test_a_gpu_that_no_table_knows_gets_no_advice_of_its_own(tmp_path: Path) -> None:
    path = training(device={**A100, "name": "NVIDIA X9000", "numSms": 77}).write(tmp_path / "trace.json")
    found = advised(path, on=("h100",))
    assert {advice.gpu for advice in found.advice} == {"h100-sxm-80gb"}
    assert any("NVIDIA X9000 is not in our table" in note for note in found.notes)


# What the model does not know --------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [200.0, 900.0])  # beside two known kernels of 400 us each
def test_kernels_without_operators_are_assumed_or_left_out_and_of_most_there_is_no_advice(
    tmp_path: Path, busy: float
) -> None:
    trace = training()
    for number in range(3):
        trace.kernel("triton_poi_fused_0", 2000.0 * number + 900, busy)
    found = advised(trace.write(tmp_path / "trace.json"), on=("h100",))
    if busy == 900:
        assert found.advice == ()
        assert "53 % of the kernels' time has no known operator" in found.notes[0]
        return
    assert "20 % of the kernels' time has no known operator or shapes: taken to grow" in said(found.advice[0])
    assert "20 % of the traced time, are left out here" in said(found.advice[-1])
