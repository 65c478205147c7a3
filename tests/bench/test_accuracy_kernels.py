from __future__ import annotations

import math
from pathlib import Path

import pytest

from advisor.convolution import Convolution
from advisor.convolution_time import PATH, convolution_profile_bytes, load_convolution_profile
from advisor.gpus import find_gpu
from bench.accuracy import read_sections
from bench.accuracy.kernels import JudgedCall, algorithms_part, judge_trace, score, section, traces_part
from bench.fit_fp32_convolutions import (
    GPU,
    NEUSIGHT,
    NEUSIGHT_STEP,
    Timed,
    fit_profile,
    is_implicit,
    read_convolutions,
    read_neusight,
    residuals,
)
from tests.data import measured, recorded_trace

RESNET = "resnet50_train_b32_fp32_v100.json.gz"


def call(measured_s: float, predicted_s: float, calls: int = 1, class_: str = "fprop") -> JudgedCall:
    return JudgedCall(class_, "fp32", "implicit", calls, measured_s, predicted_s, predicted_s, predicted_s)


def test_a_score_weighs_by_calls_and_sums_over_all_time() -> None:
    # three calls of 1 ms said to be 2 ms, one of 4 ms said to be 2 ms: |ln 2| each, bias half of it, 8 over 7 ms
    found = score([call(1e-3, 2e-3, calls=3), call(4e-3, 2e-3)])
    assert found == ["4", "2", f"{math.log(2):.3f}", f"{math.log(2):.3f}", f"{math.log(2) / 2:+.3f}", "1.14"]


def test_no_call_has_no_score() -> None:
    assert score([]) == ["0", "0", "", "", "", ""]


def test_every_convolution_of_the_resnet_trace_is_judged() -> None:
    judged = judge_trace(recorded_trace(RESNET))
    assert judged.reason is None and judged.gpu == "Tesla V100-DGXS-32GB" and judged.unpredicted <= 1
    by_pass = {p: sum(c.calls for c in judged.calls if c.class_ == p) for p in ("fprop", "dgrad", "wgrad", "gemm")}
    assert by_pass == {"fprop": 6 * 53, "dgrad": 6 * 52, "wgrad": 6 * 53, "gemm": 6 * 3}


def test_single_convolutions_of_the_trace_are_predicted_far_better_than_by_steps_alone() -> None:
    judged = judge_trace(recorded_trace(RESNET))
    layers = [c for c in judged.calls if c.class_ != "gemm"]
    ours, steps = (float(score(layers, predicted)[2]) for predicted in ("predicted_s", "step_model_s"))
    assert ours < 0.3 < steps


@pytest.mark.parametrize(
    "name, reason",
    [
        ("alexnet_a100", "shapes"),
        ("cpu_only", "no GPU kernel"),
        ("mi250_rocm", "AMD"),
        ("triton_kernel_a100", "product"),
    ],
)
def test_a_trace_that_tells_nothing_says_why(name: str, reason: str) -> None:
    judged = judge_trace(recorded_trace(f"{name}.json.gz"))
    assert judged.calls == () and judged.reason is not None and reason in judged.reason


def test_the_tables_name_class_and_model() -> None:
    judged = [judge_trace(recorded_trace(RESNET))]
    text = traces_part(judged) + algorithms_part(judged)
    assert "| fp32        | dgrad" in text and "winograd fused" in text and "the step model alone" in text


def test_without_recorded_traces_the_section_keeps_its_text(tmp_path: Path) -> None:
    assert section(tmp_path, tmp_path) is None


def test_the_report_holds_the_section() -> None:
    report = Path(__file__).resolve().parents[2] / "reports" / "ACCURACY.md"
    assert "No trace is fitted" in read_sections(report.read_text())["kernels"]


# The fit --------------------------------------------------------------------------------------------------------------


def test_the_shipped_convolutions_are_what_the_public_data_give() -> None:
    data = measured("deepbench", "conv_v100.csv").parents[1]
    neusight = read_neusight(data, NEUSIGHT, winograd=True)[::NEUSIGHT_STEP]
    found = fit_profile(read_convolutions(data), find_gpu(GPU), neusight)
    assert convolution_profile_bytes(found) == PATH.read_bytes()


def test_only_layers_that_ran_as_implicit_gemm_teach_it() -> None:
    plain = Convolution(8, 64, 56, 56, 64, 3, 3, pad_h=1, pad_w=1)
    small = Convolution(8, 64, 56, 56, 256, 1, 1)
    assert is_implicit(Timed(small, "fprop", 1e-3, "IMPLICIT_PRECOMP_GEMM"))
    assert not is_implicit(Timed(small, "fprop", 1e-3, "FFT_TILING"))
    assert not is_implicit(Timed(plain, "wgrad", 1e-3, "WINOGRAD_NONFUSED"))


def test_residuals_are_logarithms_of_predicted_over_measured() -> None:
    layer = Convolution(32, 256, 14, 14, 1024, 1, 1)
    twice = [Timed(layer, "fprop", seconds, "") for seconds in (1e-3, 2e-3)]
    found = residuals(twice, find_gpu(GPU), load_convolution_profile())
    assert found[0] - found[1] == pytest.approx(math.log(2))
