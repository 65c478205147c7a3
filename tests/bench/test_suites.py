from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.step_ops import MEMORY_CLASSES, memory_class
from advisor.steptime import update_work
from advisor.workload.catalogue import load_workload
from bench.case import Case, Result, result_from_json, result_to_json
from bench.device import HostDevice
from bench.shapes import ConvShape
from bench.suites import SUITES, Context, SuiteOptions, ceilings, conv, gemm, memory, train, tune, waves
from bench.suites.common import Candidate, Operands, cudnn_setting, fastest, number, tf32_setting, tiers, unfit
from bench.timer import TimerOptions
from tests.recorded_device import RecordedDevice

torch = pytest.importorskip("torch", reason="suites time torch")

ROOT = Path(__file__).parents[2]
H100 = SuiteOptions(capability=(9, 0), memory_bytes=80 * 2**30, sms=132)
A100 = SuiteOptions(capability=(8, 0), memory_bytes=40 * 2**30, sms=108)
BRIEF = TimerOptions(samples=2, most_samples=2, sample_s=1e-6, budget_s=1e-3)


@pytest.fixture(scope="module")
def cpu() -> Iterator[Context]:
    device, threads = HostDevice(), torch.get_num_threads()
    torch.set_num_threads(1)  # the cases are far too small to share
    yield Context(device, BRIEF, device.telemetry, smoke=True, torch_device="cpu")
    torch.set_num_threads(threads)


def recorded(**settings: Any) -> Context:
    device = RecordedDevice(**settings)
    return Context(device, TimerOptions(), device.telemetry, torch_device="cpu")


def module_of(suite: str) -> Any:
    return importlib.import_module(SUITES[suite])


# Cases ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("options", [H100, SuiteOptions(), SuiteOptions(smoke=True)])
def test_cases_are_the_same_each_time_and_each_is_there_once(suite: str, options: SuiteOptions) -> None:
    module = module_of(suite)
    found = module.cases(options)
    assert found == module.cases(options)
    assert all(found)
    keys = [case.key for tier in found for case in tier]
    assert len(set(keys)) == len(keys)
    assert {case.suite for tier in found for case in tier} == {suite}
    assert all(json.loads(key) for key in keys)


def test_planning_needs_neither_torch_nor_what_a_gpu_machine_lacks() -> None:
    program = (
        "import importlib, sys\n"
        "from bench.suites import SUITES, SuiteOptions\n"
        "for name in SUITES.values():\n"
        "    importlib.import_module(name).cases(SuiteOptions(capability=(9, 0), sms=132))\n"
        "print(*({'torch', 'triton', 'msgspec', 'click', 'scipy', 'platformdirs'} & set(sys.modules)))\n"
    )
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.split() == []


def test_the_first_gemm_tier_has_both_sides_of_the_first_wave_of_a100() -> None:
    # 4096 / 128 = 32 tiles across, 108 SMs take 3 rows of 256; 12288 / 128 = 96 across, they take one
    found = {(case.params["n"], case.params["k"], case.params["m"]) for case in gemm.cases(A100)[0]}
    assert {(4096, 4096, 768), (4096, 4096, 769), (12288, 4096, 256), (12288, 4096, 257)} <= found


def test_m_is_swept_finely_for_both_libraries_types_and_all_passes() -> None:
    every = [case.params for tier in gemm.cases(A100) for case in tier]
    of_square = [p for p in every if (p["n"], p["k"]) == (4096, 4096)]
    swept = {p["m"] for p in of_square if (p["library"], p["pass"], p["dtype"]) == ("triton", "forward", "fp16")}
    assert {752, 760, 768, 769, 776, 784, 1537, 2561} <= swept
    for library in ("cublas", "triton"):
        for dtype in ("fp16", "bf16"):
            for pass_ in ("forward", "dgrad", "wgrad"):
                rows = {p["m"] for p in of_square if (p["library"], p["pass"], p["dtype"]) == (library, pass_, dtype)}
                assert {16, 768, 769, 16384} <= rows


def test_every_way_to_run_a_convolution_is_there() -> None:
    every = [case.params for tier in conv.cases(H100) for case in tier]
    stem = [p for p in every if (p["c_in"], p["kernel_h"], p["batch"]) == (3, 7, 128)]
    ways = {(p["pass"], p["library"], p["autotuned"], p["layout"]) for p in stem if p["dtype"] == "fp16"}
    cudnn = {("cudnn", on, layout) for on in (True, False) for layout in ("nhwc", "nchw")}
    assert ways == {(pass_, *how) for pass_ in ("forward", "wgrad") for how in (*cudnn, ("triton", False, "nhwc"))}
    assert {p["batch"] for p in every if p["c_in"] == 2048} >= {127, 128, 129}
    assert {p["batch"] for p in every if p["height"] == 256} >= {15, 16, 17}  # U-Net's


def test_training_is_measured_just_below_and_just_above_the_powers_of_two() -> None:
    every = [case.params for tier in train.cases(H100) for case in tier]
    assert {p["model"] for p in every} == {"resnet50", "mobilenet_v3_large", "unet", "vit_b_16", "bert-base-128"}
    first = [p for tier in train.cases(H100)[:4] for p in (case.params for case in tier)]
    for model in {p["model"] for p in every}:
        assert {p["batch"] for p in first if p["model"] == model} >= (
            {1, 2, 4, 8, 15, 16, 17, 32, 64} if model == "unet" else {8, 16, 32, 64, 127, 128, 129, 256, 512}
        )
        batches = {p["batch"] for p in every if p["model"] == model}
        assert {127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025} <= batches
    assert {(p["optimizer"], p["precision"], p["cudnn_benchmark"]) for p in every if p["model"] == "resnet50"} >= {
        ("sgd", "amp_fp16", True), ("adamw", "amp_fp16", True), ("sgd", "fp32", True), ("sgd", "amp_fp16", False),
    }  # fmt: skip


def test_timelines_lie_on_both_sides_of_whole_waves() -> None:
    # 108 = 6 x 18: 18 tiles of 128 across make a wave of one CTA per SM exactly 6 rows of tiles, 768 rows of M
    found = [case.params for case in waves.cases(A100)[0]]
    assert [(p["m"], p["n"]) for p in found] == [(768 * w + past, 18 * 128) for w in (1, 2, 3, 4) for past in (0, 1)]


def test_a_tier_leaves_out_what_an_earlier_one_has() -> None:
    a, b, c = (Case("s", "k", {"m": m}) for m in (1, 2, 3))
    assert tiers([a, b, a], [b], [b, c]) == [[a, b], [c]]


def test_types_that_a_gpu_has_no_instructions_for_are_not_tried_on_it() -> None:
    volta = SuiteOptions(capability=(7, 0), sms=80)
    for suite in SUITES:
        planned = {case.params.get("dtype") for tier in module_of(suite).cases(volta) for case in tier}
        assert not {"bf16", "tf32"} & planned
    assert {"bf16", "tf32"} < {case.params.get("dtype") for tier in ceilings.cases(A100) for case in tier}


def test_quick_asks_the_calibration_for_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"gemm": [gemm.gemm_case(1, 2, 3)], "conv": [conv.conv_case(ConvShape(8, 8, 9, 9, 3, 3), 2)]}
    stand_in = SimpleNamespace(calibration_cases=lambda suite, options: chosen[suite])
    monkeypatch.setitem(sys.modules, "bench.calibration", stand_in)
    quick = replace(H100, quick=True)
    assert gemm.cases(quick) == [chosen["gemm"]]
    assert conv.cases(quick) == [chosen["conv"]]
    assert len(ceilings.cases(quick)[0]) < 10
    assert memory.cases(quick) == train.cases(quick) == waves.cases(quick) == tune.cases(quick) == []


# Work ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pass_", "read", "written"), [("forward", 8 + 12, 6), ("dgrad", 6 + 12, 8), ("wgrad", 6 + 8, 12)]
)
def test_the_work_of_a_linear_layer(pass_: str, read: int, written: int) -> None:
    work = gemm.work_of(gemm.gemm_case(2, 3, 4, pass_=pass_))  # x 2x4, w 3x4, y 2x3; 2 bytes each
    assert (work.flops, work.read_bytes, work.write_bytes) == (48, 2 * read, 2 * written)


def test_the_work_of_a_convolution_is_the_same_in_every_pass() -> None:
    shape = ConvShape(4, 6, 5, 5, 3, 3, stride=2, padding=1, groups=2)  # y is 6 x 3 x 3; w 6 x 2 x 3 x 3
    found = {p: conv.work_of(conv.conv_case(shape, 7, pass_=p)) for p in ("forward", "dgrad", "wgrad")}
    assert {work.flops for work in found.values()} == {2 * 7 * 9 * 6 * 2 * 9}
    x, w, y = 7 * 4 * 25, 6 * 2 * 9, 7 * 6 * 9
    assert (found["forward"].read_bytes, found["forward"].write_bytes) == (2 * (x + w), 2 * y)
    assert (found["dgrad"].read_bytes, found["dgrad"].write_bytes) == (2 * (y + w), 2 * x)
    assert (found["wgrad"].read_bytes, found["wgrad"].write_bytes) == (2 * (x + y), 2 * w)


def test_the_work_of_the_ceilings() -> None:
    assert ceilings.work_of(ceilings.copy_case(1024)).facts() == {"flops": 0, "bytes": 1024}
    assert ceilings.work_of(ceilings.peak_case(10, "tf32")).facts() == {"flops": 2000, "bytes": 3 * 4 * 100}


@pytest.mark.parametrize("detail", memory.OPS)
def test_bytes_and_class_of_an_operator_are_those_the_tracer_counts(detail: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from advisor.workload.recorder import Recorder
    from advisor.workload.schema import Op

    case = memory.memory_case(detail, (3, 32, 6, 10) if memory.OPS[detail].images else (6, 16))
    shape, fake = memory.shape_of(case), FakeTensorMode()
    with fake:
        maker = memory.Maker(Operands(case, "cpu"), shape, str(case.params["dtype"]), channels_last=True)
        with Recorder(fake, []):  # its batch norm saves moments in FP32, as CUDA's does
            call = memory.OPS[detail].prepare(maker)
        with Recorder(fake, []) as recorder:
            call()
    (op,) = recorder.ops
    work = memory.work_of(case)
    if "softmax" in detail:  # the FP16 side of CUDA's kernel is FP32 on a processor
        assert (op.read_bytes, op.write_bytes) == (
            work.read_bytes * (1 if "backward" in detail else 2), work.write_bytes * (2 if "backward" in detail else 1),
        )  # fmt: skip
    else:
        assert (op.read_bytes, op.write_bytes) == (work.read_bytes, work.write_bytes)
    assert case.params["bytes"] == work.read_bytes + work.write_bytes
    phase: Any = "backward" if detail.endswith("_backward") else "forward"
    kind = memory_class(Op(op.kind, op.name, phase, op.dtype, (op.read_bytes, 0), (op.write_bytes, 0)))
    # the tracer sees a change of layout inside of another operator; called alone it is a clone
    assert kind == ("copy" if detail == "relayout" else case.params["op"])
    assert case.params["op"] in MEMORY_CLASSES


def test_the_memory_suite_covers_every_class() -> None:
    assert {op.op for op in memory.OPS.values()} == set(MEMORY_CLASSES)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizers_bytes_are_the_advisors(optimizer: str) -> None:
    from advisor.recipe import make_recipe

    workload = load_workload("resnet50")
    counted = update_work(workload, make_recipe(optimizer=optimizer, grad_scaler=False)).bytes_
    assert memory.optimizer_case(optimizer, 1, workload.trainable_parameters).params["bytes"] == counted


# Running -------------------------------------------------------------------------------------------------------------


def smoke_cases() -> Iterator[Any]:
    for suite in SUITES:
        for tier in module_of(suite).cases(SuiteOptions(smoke=True)):
            for case in tier:
                names = ("detail", "model", "what", "pass", "precision", "library", "layout")
                label = "-".join(str(case.params[name]) for name in names if name in case.params)
                yield pytest.param(suite, case, id=f"{suite}-{case.kind}-{label}")


@pytest.mark.parametrize(("suite", "case"), list(smoke_cases()))
def test_every_smoke_case_runs_on_a_processor(suite: str, case: Case, cpu: Context) -> None:
    result = module_of(suite).run(case, cpu)
    if (case.params.get("library") == "triton" or case.kind == "tune") and os.environ.get("TRITON_INTERPRET") != "1":
        assert result.status == "skipped"
        assert "TRITON_INTERPRET=1" in str(result.reason)
    elif case.kind == "timeline":
        assert result.status == "skipped"
        assert "GPU" in str(result.reason)
    else:
        assert result.status == "ok", result.reason
        assert (result.timing is None) == (case.kind == "kernels")
    assert result_from_json(result_to_json(result)) == result


def test_on_a_gpu_before_volta_our_kernels_are_skipped_and_not_tried(
    cpu: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.suites.common.gpu_limits", lambda _: ((6, 0), 56))
    result = gemm.run(gemm.gemm_case(32, 32, 32, library="triton"), cpu)
    assert result.status == "skipped"
    assert "compute capability 7.0, this GPU has 6.0" in str(result.reason)


def test_tuning_keeps_every_configuration_that_it_timed(cpu: Context) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("on a GPU the curated configurations are timed")
    result = tune.run(tune.tune_case(32, 32, 32), cpu)
    assert {entry["config"]["tile_m"] for entry in result.facts["timed"]} == {16, 32}
    assert result.facts["failed"] == []


@pytest.mark.parametrize("pass_", ["forward", "dgrad", "wgrad"])
def test_the_three_products_are_those_of_a_linear_layers_autograd(pass_: str) -> None:
    case = gemm.gemm_case(5, 3, 4, pass_=pass_, dtype="fp32")
    a, b, c = gemm.operands_of(case, Operands(case, "cpu"))
    gemm.cublas_calls([(a, b, c)])[0]()
    x, w, dy = {
        "forward": lambda: (a, b.t(), torch.ones(5, 3)),
        "dgrad": lambda: (torch.zeros(5, 4), b, a),
        "wgrad": lambda: (b, torch.zeros(3, 4), a.t()),
    }[pass_]()
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = torch.nn.functional.linear(x, w)
    y.backward(dy)
    expected = {"forward": y.detach(), "dgrad": x.grad, "wgrad": w.grad}[pass_]
    torch.testing.assert_close(c, expected)
    assert (*gemm.product_of(case)[:2],) == tuple(c.shape)


@pytest.mark.parametrize("pass_", ["forward", "dgrad", "wgrad"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_the_three_passes_are_those_of_a_convolutions_autograd(pass_: str, layout: str) -> None:
    shape = ConvShape(4, 6, 7, 5, 3, 2, stride=2, padding=1, dilation=2, groups=2)
    case = conv.conv_case(shape, 3, pass_=pass_, dtype="fp32", layout=layout)
    tensors = conv.operands_of(case, Operands(case, "cpu"))
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    assert all(t.is_contiguous(memory_format=memory_format) for t in tensors.values())
    found = conv.cudnn_calls(case, [tensors])[0]()
    sizes = conv.sizes_of(case)
    x, w, dy = (tensors.get(name, torch.zeros(sizes[name])).clone() for name in "xwy")
    x.requires_grad_()
    w.requires_grad_()
    y = torch.nn.functional.conv2d(x, w, None, 2, 1, 2, 2)
    y.backward(dy)
    if pass_ == "forward":
        torch.testing.assert_close(found, y.detach())
    else:
        assert [t is not None for t in found] == [pass_ == "dgrad", pass_ == "wgrad", False]
        torch.testing.assert_close(found[0 if pass_ == "dgrad" else 1], x.grad if pass_ == "dgrad" else w.grad)


def test_operands_are_random_seeded_by_the_case_and_never_zero() -> None:
    case, other = gemm.gemm_case(64, 32, 32), gemm.gemm_case(65, 32, 32)
    first, again, another = (Operands(c, "cpu").uniform(64, 32, dtype="fp16") for c in (case, case, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, another)
    assert -1 <= float(first.min()) < -0.95 < 0.95 < float(first.max()) <= 1
    assert abs(float(first.float().mean())) < 0.05


@pytest.mark.parametrize(
    ("module", "case"),
    [
        (gemm, gemm.gemm_case(16384, 8192, 8192)),
        (conv, conv.conv_case(ConvShape(64, 64, 56, 56, 3, 3, padding=1), 512)),
        (memory, memory.memory_case("relu", (256, 256, 56, 56))),
        (memory, memory.optimizer_case("adamw", 16, 2**24)),
        (ceilings, ceilings.copy_case(2**32)),
        (train, train.train_case("resnet50", 1024)),
        (waves, waves.kernels_case(gemm.gemm_case(16384, 8192, 8192))),
    ],
)
def test_a_case_that_cannot_fit_is_skipped_before_anything_is_allocated(module: Any, case: Case) -> None:
    result = module.run(case, recorded(free_bytes=2**28))
    assert result.status == "skipped"
    assert "GiB, 0.2 GiB is free" in str(result.reason)


def test_the_reason_names_what_is_needed_and_what_is_free() -> None:
    refusal = unfit(recorded(free_bytes=5 * 2**30), 6 * 2**30, "the product")
    assert refusal is not None
    assert refusal.reason is not None
    assert refusal.reason.startswith("the product needs 6.2 GiB, 5.0 GiB is free")
    assert unfit(recorded(free_bytes=5 * 2**30), 4 * 2**30, "the product") is None
    assert unfit(recorded(free_bytes=None), 2**60, "the product") is None


def test_cold_operands_are_twice_the_l2_and_the_timing_says_so() -> None:
    context = recorded(l2_bytes=2**20)
    result = gemm.run(gemm.gemm_case(64, 256, 256, dtype="fp32"), context)
    # x and w: 4 (64 + 256) 256 bytes; 2 MiB over that is 6.4
    assert result.facts["copies"] == 7
    assert result.timing is not None
    assert result.timing.mode == "cold"
    warm = gemm.run(gemm.gemm_case(64, 256, 256, dtype="fp32", mode="warm"), context)
    assert warm.facts["copies"] == 1
    assert warm.timing is not None
    assert warm.timing.mode == "warm"


def test_settings_are_as_they_were_even_after_a_failure() -> None:
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for autotuned in (True, False):
        with pytest.raises(ValueError, match="out of memory"), cudnn_setting(autotuned=autotuned):
            assert torch.backends.cudnn.benchmark is autotuned
            # else PyTorch would find the plan of the other setting, kept for the life of the process
            assert torch.backends.cudnn.allow_tf32 is autotuned
            with tf32_setting(allowed=not autotuned):
                assert torch.backends.cuda.matmul.allow_tf32 is not autotuned
                raise ValueError("out of memory")
    after = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert after == before


@dataclass(frozen=True)
class Config:
    tile: int


def test_the_fastest_candidate_is_kept_and_a_failing_one_is_said() -> None:
    context = recorded()
    device: Any = context.device

    def broken() -> list[Any]:
        raise RuntimeError("out of resource: shared memory\nand more")

    calls = {tile: [device.work(tile * 1e-6)] for tile in (300, 100, 200)}
    candidates = [
        Candidate(Config(7), broken),
        *(Candidate(Config(tile), lambda t=tile: calls[t]) for tile in calls),
    ]  # binds now
    chosen, facts = fastest(context, candidates)
    assert chosen is calls[100]
    assert facts["config"] == {"tile": 100}
    assert facts["tried"][0] == {"config": {"tile": 7}, "failed": "out of resource: shared memory"}
    assert [round(entry["time_s"] * 1e6) for entry in facts["tried"][1:]] == [300, 100, 200]


def test_where_every_candidate_fails_the_case_fails() -> None:
    def broken() -> list[Any]:
        raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        fastest(recorded(), [Candidate(Config(1), broken), Candidate(Config(2), broken)])


def test_a_parameter_that_is_no_whole_number_is_named() -> None:
    with pytest.raises(TypeError, match=r"m of .* is True"):
        number(Case("gemm", "gemm", {"m": True}), "m")


def test_steps_under_fp16_were_not_skipped_and_their_loss_is_finite(cpu: Context) -> None:
    result: Result = train.run(train.train_case("bert-base-128", 2), cpu)
    assert result.facts["skipped_steps"] == 0
    assert math.isfinite(result.facts["loss"])
    assert result.facts["first_step_s"] > 0
    assert result.facts["host_s_per_launch"] == pytest.approx(result.facts["host_s"] / result.facts["launches"])
    assert result.timing is not None
    assert not result.timing.graph


def test_the_hosts_part_is_measured_once_per_recipe_whatever_the_batch(
    cpu: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(train, "_HOST_S", {})
    monkeypatch.setattr(train, "_host_s", lambda case, *_: measured.append(case.params["batch"]) or 0.5)
    cases = [train.train_case("unet", 2), train.train_case("unet", 4), train.train_case("unet", 2, precision="fp32")]
    step: Any = None
    found = [train._host_facts(case, cpu, step)["host_s"] for case in cases]
    assert measured == [2, 2]
    assert found == [0.5] * 3


def test_peaks_leave_out_what_the_process_held_before(cpu: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        "memory_allocated": 100, "memory_reserved": 120, "max_memory_allocated": 1100, "max_memory_reserved": 2120,
        "mem_get_info": (5000, 10000), "memory_stats": {"num_alloc_retries": 0}, "reset_peak_memory_stats": None,
    }  # fmt: skip
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    peaks = train._Memory(replace(cpu, torch_device="cuda:0"))
    peaks.restart()
    peaks.read_first_step()
    facts = peaks.facts()
    assert (facts["allocated_peak_bytes"], facts["reserved_peak_bytes"]) == (1000, 2000)
    assert (facts["first_step_peak_bytes"], facts["first_step_reserved_bytes"]) == (1000, 2000)
    assert facts["context_bytes"] == 5000 - 120  # of what the device has in use, the allocator holds 120


def test_the_first_tiers_hold_what_a_fit_needs_before_any_kernel_of_ours() -> None:
    products = [case.params for case in gemm.cases(H100)[0]]
    assert {p["library"] for p in products} == {"cublas"}
    assert {p["pass"] for p in products} == {"forward", "dgrad", "wgrad"}
    assert len({(p["n"], p["k"]) for p in products}) >= 15
    assert {p["library"] for p in (case.params for case in gemm.cases(H100)[1])} == {"triton"}
    convolutions = [case.params for case in conv.cases(H100)[0]]
    assert {p["library"] for p in convolutions} == {"cudnn"}
    assert {p["pass"] for p in convolutions} == {"forward", "dgrad", "wgrad"}


def test_a_step_takes_its_gradients_anew_and_moves_every_weight() -> None:
    context = recorded()
    step = train.Step(train.train_case("unet", 2, precision="fp32"), replace(context, smoke=True))
    weights = [p.detach().clone() for p in step.model.parameters()]
    step()
    first = [p.grad for p in step.model.parameters()]
    step()
    assert all(p.grad is not g for p, g in zip(step.model.parameters(), first, strict=True))
    assert all(not torch.equal(p, w) for p, w in zip(step.model.parameters(), weights, strict=True))
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in step.model.parameters() if p.dim() == 4)


def test_a_kernels_case_profiles_the_very_case_it_names(cpu: Context) -> None:
    of = gemm.gemm_case(32, 16, 8, pass_="wgrad", dtype="fp32")
    case = waves.kernels_case(of)
    assert case.params == {"of": "gemm", **of.params}
    assert waves.work_of(case) == gemm.work_of(of)
    assert waves.run(case, cpu).facts["kernels"] == []  # a processor launches none
