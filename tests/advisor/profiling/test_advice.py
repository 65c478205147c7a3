"""Advice on the batch size from a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from advisor import recommend
from advisor.errors import UnknownNameError
from advisor.profiling.advice.advise import Advised, advise, settled
from advisor.profiling.advice.calibrated import SHAPE_ERRORS
from advisor.profiling.advice.traced import read_traced
from advisor.profiling.advice.traced_setup import MOST_PREDICTED, Measured, TracedSetup
from advisor.profiling.kernels.device import traced_gpu
from advisor.profiling.kernels.groups import group_kernels
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import Advice, CurvePoint
from advisor.profiling.steps.batch import read_batch
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.gaps import step_facts
from advisor.step import prepare
from bench.accuracy.step import held_to_one, sweep_ratios
from tests.data import measured, recorded_trace
from tests.kineto import KinetoTrace

RESNET = "resnet50_train_b32_fp32_v100.json.gz"


def advised(path: Path, *, gpu: str | None = None, on: Sequence[str] = (), **bounds: int) -> Advised:
    raw = read_trace(path)
    links = link(raw)
    steps = find_steps(raw, links)
    device = traced_gpu(raw, gpu)
    groups = group_kernels(raw, links, steps, device)
    facts, batch = step_facts(raw, links, steps), read_batch(raw, links, steps)
    return advise(raw, links, steps, groups, links.operations, device, facts, batch, on=on, **bounds)


@cache
def resnet(path: Path) -> tuple[Advice, ...]:
    found = advised(path, on=("h100",))
    assert not found.notes
    return found.advice


def at(advice: Advice, batch: int) -> CurvePoint:
    return next(point for point in advice.points if point.batch == batch)


def test_the_curve_passes_through_the_measured_step() -> None:
    own = resnet(recorded_trace(RESNET))[0]
    assert own.calibrated
    assert (own.traced_batch, own.precision) == (32, "fp32")
    assert at(own, 32).step_s == pytest.approx(0.1328204, rel=1e-9)  # mean of the five regular steps
    assert "traced" in at(own, 32).roles


def test_larger_batches_are_faster_until_the_kernels_fill_the_step() -> None:
    own = resnet(recorded_trace(RESNET))[0]
    rates = [at(own, batch).samples_per_s for batch in (32, 48, 64, 96, 128)]
    assert rates == sorted(rates)
    assert at(own, 32).busy_share < 0.8 < at(own, 96).busy_share
    assert own.batch > 32
    assert own.gain == pytest.approx(at(own, own.batch).samples_per_s / rates[0] - 1)
    assert any("waiting that a larger batch hides" in reason for reason in own.reasons)
    assert any("by up to +" in reason for reason in own.reasons)  # the profiler slows the host
    assert own.kernel_gain == pytest.approx(0.07, abs=0.005)


def test_what_fits_32_gib_follows_the_allocations_in_the_trace() -> None:
    own = advised(recorded_trace(RESNET), max_batch=1024).advice[0]
    assert "allocations in the trace" in own.memory_origin
    assert at(own, 256).fits
    assert not at(own, 512).fits
    assert at(own, 512).total_bytes > 34_084_028_416 > at(own, 256).total_bytes  # the card's memory, from the trace


def test_memory_and_throughput_agree_with_what_recommend_says_of_the_model() -> None:
    own = resnet(recorded_trace(RESNET))[0]
    same = recommend("resnet50", gpu="v100-sxm2-32gb", precision="fp32", layout="nchw", current=256)
    theirs = next(c.prediction for c in same.answer.candidates if c.prediction.batch == 256)
    assert at(own, 256).total_bytes == pytest.approx(theirs.memory.total_bytes, rel=0.05)
    assert at(own, 256).samples_per_s == pytest.approx(theirs.samples_per_s, rel=2 * theirs.error)


def test_an_fp32_trace_is_advised_for_amp_too_and_labelled_an_estimate() -> None:
    own, amp, *_ = resnet(recorded_trace(RESNET))
    assert (amp.gpu, amp.precision, amp.calibrated) == (own.gpu, "fp16", False)
    assert any("was not traced" in note and "estimate" in note for note in amp.notes)
    assert amp.gain is not None
    assert amp.gain > 1  # Tensor Cores, over the FP32 step as it was traced
    assert amp.error > own.error


def test_another_gpu_is_predicted_without_calibration() -> None:
    *_, h100, h100_amp = resnet(recorded_trace(RESNET))
    assert (h100.gpu, h100.precision, h100.calibrated) == ("h100-sxm-80gb", "fp32", False)
    assert h100_amp.precision == "fp16"
    assert any("not the traced GPU" in note for note in h100.notes)
    assert any("TF32 or AMP" in note for note in h100.notes)
    own = resnet(recorded_trace(RESNET))[0]
    assert at(h100, 128).samples_per_s > at(own, 128).samples_per_s
    assert at(h100_amp, 128).samples_per_s > at(h100, 128).samples_per_s


def test_the_other_gpu_is_predicted_as_the_model_itself_would_be() -> None:
    h100 = resnet(recorded_trace(RESNET))[2]
    setup = prepare("resnet50", gpu="h100", precision="fp32", layout="nchw", recipe="timm-2022")  # looped optimizer
    assert at(h100, 128).step_s == pytest.approx(setup.curve(np.array([128])).time_s[0], rel=0.03)


def test_the_error_is_that_of_curves_held_to_one_batch_of_public_sweeps() -> None:
    found = held_to_one(sweep_ratios(measured("batch-sweeps", "sweeps.csv").parent.parent))
    images = [error for network, errors in found.items() if "resnet" in network for error in errors]
    others = [error for network, errors in found.items() if "bert" in network for error in errors]
    for name, errors in (("convolutions", images), ("others", others)):
        assert SHAPE_ERRORS[name].mean_abs_log == pytest.approx(np.mean(errors), abs=0.001)
        assert SHAPE_ERRORS[name].p90_abs_log == pytest.approx(np.quantile(errors, 0.9), abs=0.001)


def test_a_curve_over_one_batch_is_wrong_by_what_its_steps_add_up_to() -> None:
    sweep = [("g", "n", 8, 16, 1.5, 1.5 * np.e**0.1), ("g", "n", 16, 64, 2.0, 2.0 * np.e**0.2)]
    found = held_to_one([*sweep, ("g", "n", 64, 256, 1.0, 1.0)])
    assert sorted(found["n"]) == pytest.approx([0.0, 0.1, 0.2, 0.3])  # 64-256, 8-16, 16-64, 8-64; 16-256 is too far


@pytest.mark.parametrize("current, settles_on", [(50, 50), (100, 100), (20, 52)])
def test_a_traced_size_that_ties_is_kept(current: int, settles_on: int) -> None:
    found = recommend("resnet50", gpu="v100-sxm2-32gb", precision="fp32", layout="nchw", current=current)
    assert found.batch_size == 52
    assert settled(found) == settles_on


# Small traces ------------------------------------------------------------------------------------


def linear_trace(*, rows: int = 16, shapes: bool = True, backward: bool = True, busy: float = 400.0) -> KinetoTrace:
    """Three steps of one linear layer over sequences, [rows, 8, 256] by 512, whose kernel takes `busy` us each."""
    trace = KinetoTrace()
    for number in range(3):
        start = 1000.0 * number
        trace.step(number, start, 995)
        dims = [[rows, 8, 256], [512, 256], [512]] if shapes else None
        trace.op("aten::linear", start + 10, 100, dims=dims, sequence=number + 1)
        inner = [[512], [rows * 8, 256], [256, 512], [], []] if shapes else None
        trace.op("aten::addmm", start + 20, 80, dims=inner)
        trace.kernel("ampere_sgemm_128x64_tn", start + 60, busy, launched=start + 40, grid=(4, 2, 1))
        if backward and shapes:
            trace.op("torch::autograd::AccumulateGrad", start + 300, 5, dims=[[512, 256]])
    return trace


def test_no_shapes_no_advice_and_what_to_record(tmp_path: Path) -> None:
    found = advised(linear_trace(shapes=False).write(tmp_path / "trace.json"))
    assert found.advice == ()
    assert "record_shapes=True" in found.notes[0]


def test_an_unknown_gpu_is_asked_for_and_others_are_predicted_all_the_same(tmp_path: Path) -> None:
    trace = linear_trace()
    trace.device = None
    path = trace.write(tmp_path / "trace.json")
    found = advised(path, on=("a100",))
    assert [advice.calibrated for advice in found.advice] == [False, False]
    assert "--gpu" in found.notes[0]
    assert advised(path, gpu="a100-sxm4-80gb").advice[0].calibrated


def test_the_traced_gpu_is_not_predicted_twice(tmp_path: Path) -> None:
    found = advised(linear_trace().write(tmp_path / "trace.json"), on=("a100-sxm4-80gb",))
    assert [(advice.gpu, advice.calibrated) for advice in found.advice] == [
        ("a100-sxm4-80gb", True), ("a100-sxm4-80gb", False),
    ]  # fmt: skip
    assert [advice.precision for advice in found.advice] == ["fp32", "fp16"]


def test_a_gpu_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        advised(linear_trace().write(tmp_path / "trace.json"), on=("b9000",))


def test_inference_is_predicted_and_its_memory_left_unknown(tmp_path: Path) -> None:
    own = advised(linear_trace(backward=False).write(tmp_path / "trace.json")).advice[0]
    assert own.traced_batch == 16
    assert "unknown" in own.memory_origin
    assert {point.fits for point in own.points} == {None}
    assert {point.total_bytes for point in own.points} == {None}


def test_a_step_bound_by_the_host_stays_as_long_as_the_host_takes(tmp_path: Path) -> None:
    own = advised(linear_trace(busy=20.0).write(tmp_path / "trace.json")).advice[0]
    step = at(own, 16).step_s
    assert at(own, 24).step_s == pytest.approx(step, rel=0.001)
    assert at(own, 8).step_s == pytest.approx(step, rel=0.001)
    assert any("waits" in note and "for the host" in note for note in own.notes)


def test_a_large_traced_batch_is_searched_around_and_far_beyond_is_said_to_be_far(tmp_path: Path) -> None:
    own = advised(linear_trace(rows=4096).write(tmp_path / "trace.json")).advice[0]
    assert max(point.batch for point in own.points) == 8 * 4096
    far = advised(linear_trace(rows=2, busy=20.0).write(tmp_path / "small.json"), max_batch=512).advice[0]
    assert far.knee == 497  # 0.97 x 512, rounded up: throughput rises with the batch
    assert any("is 256 times the traced batch" in note for note in far.notes)
    assert any("ended at 512" in note and "--max-batch" in note for note in far.notes)


def test_a_batch_beyond_the_search_gets_no_advice(tmp_path: Path) -> None:
    found = advised(linear_trace(rows=2**19).write(tmp_path / "trace.json"))
    assert found.advice == ()
    assert "524288 is beyond the search" in found.notes[0]


def test_a_search_over_very_many_sizes_is_interpolated(tmp_path: Path) -> None:
    own = resnet(recorded_trace(RESNET))[0]
    raw = read_trace(recorded_trace(RESNET))
    links = link(raw)
    steps = find_steps(raw, links)
    device = traced_gpu(raw)
    groups = group_kernels(raw, links, steps, device)
    traced = read_traced(raw, links, steps, groups, links.operations, step_facts(raw, links, steps), 32)
    base = prepare("resnet50", gpu="v100-sxm2-32gb", precision="fp32", layout="nchw")
    shared = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)} | {
        "workload": traced.workload, "recipe": traced.recipe,
    }  # fmt: skip
    setup = TracedSetup(**shared, measured=Measured(traced.step, traced.times, traced.recipe))
    few, many = setup.curve(np.arange(1, 65)), setup.curve(np.arange(1, 3 * MOST_PREDICTED))
    assert many.time_s[:64] == pytest.approx(few.time_s, rel=0.01)
    assert len(many.time_s) == 3 * MOST_PREDICTED - 1
    assert own.traced_batch == 32
