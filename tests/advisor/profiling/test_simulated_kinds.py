"""Whole profiles of simulated traces of other kinds: several ranks, CUDA graphs, inference, accumulation, waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advisor.profiling.analysis import profile_trace
from advisor.profiling.records import BillLine, TraceProfile
from tests.advisor.profiling.simulated import Simulation, parameter_sizes, simulate
from tests.advisor.profiling.simulated_kernels import A100, H100
from tests.advisor.profiling.simulated_models import (
    all_reduced,
    as_graph,
    compiled,
    gpt_bf16,
    resnet_amp,
    resnet_fp32,
    resnet_inference,
)
from tests.advisor.profiling.simulated_operators import Node

WIRE_US = 300.0


def line(profile: TraceProfile, kind: str, part: str = "") -> BillLine | None:
    return next((each for each in profile.bill.lines if each.kind == kind and part in each.what), None)


def alone_us(run: Simulation) -> float:
    """Time per step in which communication runs beside nothing, from the trace's own events."""
    events = [e for e in run.events if e["cat"] in ("kernel", "gpu_memcpy")]
    wires = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["name"].startswith("nccl")]
    work = [(e["ts"], e["ts"] + e["dur"]) for e in events if not e["name"].startswith("nccl")]  # one after another
    hidden = sum(max(0.0, min(e, end) - max(s, start)) for s, e in wires for start, end in work)
    return (sum(e - s for s, e in wires) - hidden) / 2


def test_of_two_ranks_the_slow_one_is_named_and_the_other_waits_for_it(tmp_path: Path) -> None:
    elements = sum(parameter_sizes(resnet_amp())) // 3
    steps = [all_reduced(step, 3, elements) for step in resnet_amp()]
    slow = simulate(steps, replace(A100, slowdown=1.25), tmp_path / "rank1.json", rank=1,
                    collective=lambda index, start: WIRE_US)  # fmt: skip
    fast = simulate(steps, A100, tmp_path / "rank0.json", rank=0,
                    collective=lambda index, start: slow.collectives[index] + WIRE_US - start)  # fmt: skip
    ranks = profile_trace(tmp_path).ranks
    assert ranks is not None and [facts.rank for facts in ranks.ranks] == [0, 1]
    assert (ranks.slowest, ranks.fastest) == (1, 0)
    for profile, run in zip(ranks.profiles, (fast, slow), strict=True):
        assert profile.steps.exposed_communication_s == pytest.approx(alone_us(run) * 1e-6, rel=1e-3)
        assert sum(group.count for group in profile.kernels if group.class_ == "communication") == 6
        assert profile.batch.batch == 256
    # the last bucket is sent after the last gradient
    assert ranks.profiles[1].steps.exposed_communication_s == pytest.approx(WIRE_US * 1e-6, rel=0.05)
    own = [sum(k.us for k, _ in run.kernels if not k.communicates) / 2e6 for run in (fast, slow)]
    assert own[1] > 1.2 * own[0]
    mean = sum(own) / 2
    assert ranks.imbalance == pytest.approx(own[1] / mean - 1, rel=0.05)
    assert ranks.step_spread < 0.01


def test_a_graph_has_steps_and_kernels_but_no_layers_and_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run = simulate([as_graph(step, A100) for step in resnet_amp()], A100, path)
    assert sum(event["name"] == "cudaGraphLaunch" for event in run.events) == 2
    profile = profile_trace(path)
    assert (profile.steps.count, profile.steps.found_by) == (2, "ProfilerStep")
    assert profile.steps.launches == pytest.approx(len(run.kernels) / 2)
    assert profile.kernel_time_s == pytest.approx(sum(kernel.us for kernel, _ in run.kernels) * 1e-6)
    assert profile.batch.batch is None
    assert "CUDA graph" in profile.batch.evidence
    assert profile.steps.gap_s["gpu"] > 0.9 * sum(profile.steps.gap_s.values())
    assert not profile.advice
    assert profile.precision in ("fp16", "fp16 AMP")


def test_inference_is_forward_only_and_its_batches_are_found_without_marks(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run = simulate(resnet_inference(), A100, path)
    profile = profile_trace(path)
    assert (profile.steps.count, profile.steps.found_by, profile.steps.first_step_differs) == (3, "period", False)
    assert profile.batch.batch == 256
    assert {group.phase for group in profile.kernels} == {"forward"}
    assert profile.precision == "fp16"
    assert sum(group.count for group in profile.kernels if group.class_ == "fprop") == 60
    kernels = sum(kernel.us for kernel, _ in run.kernels if kernel.copied is None)
    assert profile.steps.kernel_s == pytest.approx(kernels / 3e6)
    # the host waits for each result, but the GPU has its queue until then
    assert profile.steps.gap_s["sync"] < 1e-5


def test_accumulated_passes_are_one_step_and_the_batch_is_that_of_a_pass(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    simulate(gpt_bf16(4), H100, path)
    profile = profile_trace(path)
    assert (profile.steps.count, profile.batch.batch) == (2, 16)
    attention = [group for group in profile.kernels if group.class_ == "attention" and not group.helper]
    assert sum(group.count for group in attention) == 2 * 4 * 2 * 2  # steps, passes, layers, directions
    (advice,) = (each for each in profile.advice if each.calibrated)
    traced = next(point for point in advice.points if point.batch == 16)
    assert traced.samples_per_s == pytest.approx(64 / profile.steps.step_s, rel=0.01)


def test_steps_without_marks_are_found_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run = simulate(gpt_bf16(1, marks=False), H100, path)
    profile = profile_trace(path)
    assert (profile.steps.count, profile.steps.found_by) == (2, "period")
    assert profile.steps.launches == pytest.approx(len(run.kernels) / 2)
    assert profile.steps.outside_s == 0


def test_a_step_that_waits_for_its_data_says_so(tmp_path: Path) -> None:
    """The GPU works 68 ms of a step; the host loads for 150 ms while it does."""
    path = tmp_path / "trace.json"
    run = simulate(resnet_fp32(), A100, path, host_us={"enumerate(DataLoader)": 150e3})
    profile = profile_trace(path)
    work_s = sum(kernel.us for kernel, _ in run.kernels) / 2e6
    assert profile.steps.busy_share < 0.6
    waits = line(profile, "gaps", "waits for data")
    assert waits is not None and waits is profile.bill.lines[0]
    assert profile.steps.gap_s["data"] == pytest.approx(profile.steps.step_s - work_s, rel=0.01)
    assert "DataLoader" in waits.todo


def test_tiny_kernels_wait_for_the_host(tmp_path: Path) -> None:
    """306 kernels of a few us, each of whose launches and operators take the host ten times as long."""
    path = tmp_path / "trace.json"
    simulate(gpt_bf16(), replace(H100, slowdown=0.05), path, op_us=10, launch_us=8)
    profile = profile_trace(path)
    assert profile.steps.busy_share < 0.2
    assert profile.bill.lines[0].what == "the GPU waits for the host's launches"
    assert profile.steps.gap_s["host"] > 0.95 * sum(profile.steps.gap_s.values())


def test_fp32_on_tf32_kernels_runs_on_tensor_cores(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    simulate(resnet_fp32(), A100, path)
    profile = profile_trace(path)
    assert profile.precision == "tf32"
    products = [group for group in profile.kernels if group.class_ in ("fprop", "dgrad", "wgrad", "gemm")]
    assert all(group.tensor_cores and group.precision == "tf32" for group in products)
    assert line(profile, "tensor_cores") is None
    assert {advice.precision for advice in profile.advice} == {"tf32", "fp16"}


def test_fp32_off_the_tensor_cores_is_billed_for_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    simulate(resnet_fp32(), replace(A100, has_tf32=False), path)
    profile = profile_trace(path)
    assert profile.precision == "fp32" and profile.tensor_core_time_s == 0
    off = line(profile, "tensor_cores")
    assert off is not None and off is profile.bill.lines[0]
    assert "allow_tf32" in off.todo


def test_well_cut_aligned_products_leave_little_to_gain(tmp_path: Path) -> None:
    """m = 108 x 256, n = 4096: 108 x 16 x 2 tiles of 256 x 128, whole waves of 108 SMs."""
    path = tmp_path / "trace.json"
    m, n, k = 108 * 256, 4096, 4096
    steps = []
    for number in (1, 2, 3):
        calls = []
        for _ in range(8):
            args = {"Input Dims": [[m, k], [k, n]], "Input type": ["c10::Half"] * 2, "Concrete Inputs": ["", ""]}
            calls.append(Node("aten::mm", args=args))
        steps.append(Node(f"ProfilerStep#{number}", "user_annotation", children=calls))
    simulate(steps, A100, path)
    profile = profile_trace(path)
    (group,) = profile.kernels
    assert group.ctas == 108 * 2 * 16 and group.wave_efficiency_sms == 1
    assert profile.bill.verdict.startswith("little to gain")


def test_a_compiled_step_keeps_its_products_attention_and_batch_and_says_what_has_no_shapes(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run = simulate([compiled(step, A100) for step in gpt_bf16()], A100, path)
    profile = profile_trace(path)
    assert profile.kernel_time_s == pytest.approx(sum(kernel.us for kernel, _ in run.kernels) * 1e-6)
    products = [group for group in profile.kernels if group.class_ == "gemm"]
    assert sum(group.count for group in products) == 2 * 27
    layers = {profile.operations[group.operation].layer for group in products if group.operation is not None}
    assert layers == {f"linear {layer}" for layer in ("768>2304", "768>768", "768>3072", "3072>768")} | {
        "mm 16384x768x50257"
    }
    assert all(profile.operations[g.operation or 0].product.pass_ for g in products)
    assert profile.batch.batch == 16
    generated = [group for group in profile.kernels if group.name.startswith("triton_")]
    assert {group.class_ for group in generated} == {"normalisation", "reduction", "elementwise", "copy"}
    for group in generated:
        operation = profile.operations[group.operation or 0]
        assert operation.dims == () and operation.layer == operation.name == group.name
    share = sum(group.total_s for group in generated) / profile.kernel_time_s
    assert 0.1 < share < 0.3
    assert any("no known operator or shapes" in note for advice in profile.advice for note in advice.notes)
