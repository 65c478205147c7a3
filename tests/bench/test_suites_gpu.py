"""The suites on a GPU: no more is imported than a GPU machine has, torch and Triton beside the standard library."""

from __future__ import annotations

import importlib

import pytest

from bench.device import open_device
from bench.suites import SUITES, Context, SuiteOptions, train
from bench.timer import TimerOptions

pytestmark = pytest.mark.gpu

BRIEF = TimerOptions(samples=2, most_samples=2, sample_s=1e-6, budget_s=1e-3)


@pytest.mark.parametrize("suite", SUITES)
def test_smoke_cases_run_on_a_gpu(suite: str) -> None:
    module = importlib.import_module(SUITES[suite])
    device = open_device("cuda:0")
    context = Context(device, BRIEF, device.telemetry, smoke=True, torch_device="cuda:0")
    for tier in module.cases(SuiteOptions(smoke=True)):
        for case in tier:
            result = module.run(case, context)
            assert result.status == "ok", (case.key, result.reason)


def test_a_step_on_a_gpu_tells_its_peaks() -> None:
    device = open_device("cuda:0")
    context = Context(device, TimerOptions(), device.telemetry, torch_device="cuda:0")
    facts = train.run(train.train_case("resnet50", 16), context).facts
    assert 25.6e6 * 12 < facts["allocated_peak_bytes"] <= facts["reserved_peak_bytes"]
    assert facts["first_step_peak_bytes"] > 0
    assert facts["context_bytes"] > 0
    assert facts["alloc_retries"] == 0
