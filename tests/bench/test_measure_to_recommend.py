"""The whole way on a stand-in H200: the suites' own cases, recorded as a session does, fitted, and recommended from."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import advisor.step
from advisor import recommend
from advisor.gemm import gemm_time
from advisor.gpus import ResolvedGpu, find_gpu
from advisor.gpus.card import card_key
from advisor.profile import load_profile
from advisor.recipe import make_recipe
from advisor.steptime import StepModel
from advisor.user_profiles import stored_profiles
from advisor.workload.catalogue import load_workload
from bench.__main__ import main
from bench.case import Case, Result, Timing
from bench.device import HostDevice, environment
from bench.records import open_records
from bench.suites import SUITES, SuiteOptions

UUID = "GPU-3f2a0c58-7b7e-4a0f-9d52-0123456789ab"
H200 = find_gpu("h200")
SHIPPED = load_profile(H200)
SLOWER = 1.25  # of matrix products and whole steps, than the shipped profiles predict
OPTIONS = SuiteOptions(capability=(9, 0), sms=132, memory_bytes=141 * 10**9)
ENVIRONMENT = environment(HostDevice()) | {
    "device": "cuda", "gpu_name": "NVIDIA H200", "gpu_uuid": UUID, "capability": "9.0", "sms": 132,
    "memory_bytes": 141 * 10**9, "l2_bytes": 60 * 2**20, "driver": "580.95", "cuda": "13.0", "power_limit_w": 700.0,
}  # fmt: skip
CLOCK = {"during": {"n": 3, "sm_hz": {"min": 1.7e9, "median": 1.755e9, "max": 1.98e9}}}


def roofline_s(case: Case) -> float:
    work = importlib.import_module(SUITES[case.suite]).work_of(case)
    return float(max(work.flops / 500e12, (work.read_bytes + work.write_bytes) / 3.6e12) + 3e-6)


def product_s(case: Case) -> float:
    sizes = (case.params[name] for name in "mnk")
    return float(SLOWER * gemm_time(SHIPPED, H200, *sizes, corrected=False).time_s)


def step_s(case: Case) -> float:
    recipe = make_recipe(optimizer=str(case.params["optimizer"]), layout=None)
    model = StepModel(load_workload(str(case.params["model"])), gpu=H200, profile=SHIPPED, recipe=recipe)
    return float(SLOWER * model.curve(np.array([case.params["batch"]])).time_s[0])


def facts_of(case: Case) -> dict[str, Any]:
    if case.kind == "tune":
        config = {"tile_m": 128, "tile_n": 256, "tile_k": 64, "variant": "descriptor", "subtile": True}
        return {**{name: case.params[name] for name in "mnk"}, "timed": [{"config": config, "time_s": 1e-4}]}
    if case.kind == "train":
        return {"context_bytes": 500 * 2**20, "allocated_peak_bytes": 10 * 2**30, "reserved_peak_bytes": 11 * 2**30}
    return {"host_s_per_launch": 4e-6} if case.params.get("what") == "stream" else {}


TIMES: dict[str, Callable[[Case], float]] = {"gemm": product_s, "train": step_s, "launch": lambda _: 2e-6}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's data folder after a session on the stand-in and its fit."""
    folder = tmp_path_factory.mktemp("data")
    with open_records(folder / "records.db") as records:
        run = records.start_run(ENVIRONMENT, "advisor bench", seed=1, budget_s=480.0)
        for suite in ("ceilings", "gemm", "conv", "memory", "train", "tune"):
            quick = SuiteOptions(quick=True, capability=(9, 0), sms=132) if suite in ("gemm", "conv") else OPTIONS
            first = importlib.import_module(SUITES[suite]).cases(quick)[: 2 if suite == "train" else 1]
            for case in chain.from_iterable(first):
                seconds = TIMES.get(case.kind, roofline_s)(case)
                timing = Timing((seconds, 1.01 * seconds, 0.99 * seconds), 10, "cold", False, "good")
                records.add(run, case, Result("ok", timing=timing, facts=facts_of(case), telemetry=CLOCK))
        records.finish_run(run, "complete")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVISOR_DATA_DIR", str(folder))
        assert main(["fit", "--records", str(folder / "records.db"), "--user-profile"]) == 0
    return folder


@pytest.fixture
def here(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_DATA_DIR", str(fitted))
    resolved = ResolvedGpu(H200, "local", free_bytes=139 * 2**30, uuid=UUID, driver_version="580.95")
    monkeypatch.setattr(advisor.step, "resolve_gpu", lambda _: resolved)
    return fitted


def test_every_suite_leaves_its_part_in_the_profile(here: Path) -> None:
    (stored,) = stored_profiles()
    profile = stored.profile
    assert profile is not None
    assert (profile.gpu, profile.conditions.gpu_key, profile.conditions.sm_clock_hz) == (
        "h200-sxm",
        card_key(UUID),
        1.755e9,
    )
    assert profile.gemm["fp16"].kind == "measured"
    assert profile.convolutions["fp16"].rows > 30
    assert profile.bandwidths is not None and profile.bandwidths.rows > 20
    assert profile.ceilings.host_s == 4e-6 and profile.ceilings.kernel_s == 2e-6
    assert profile.memory is not None and profile.memory.context_bytes == 500 * 2**20
    assert profile.steps is not None and profile.steps.rows > 10
    assert profile.tuned[0].config["variant"] == "descriptor"


def test_products_of_the_slower_card_are_predicted_slower(here: Path) -> None:
    profile = stored_profiles()[0].profile
    assert profile is not None
    assert profile.gemm["fp16"].held_out.mean < 0.1
    sizes = np.array([1000, 3000, 6000]), 3072, 3072  # none of them in the calibration
    measured = load_profile(H200).gemm | profile.gemm
    found = gemm_time(type(SHIPPED)(1, H200.id, measured), H200, *sizes).time_s
    wanted = SLOWER * gemm_time(SHIPPED, H200, *sizes, corrected=False).time_s
    assert np.abs(found / wanted - 1).max() < 0.12


def test_a_recommendation_on_the_card_stands_on_what_was_measured(here: Path) -> None:
    found = recommend("resnet50", gpu="auto")
    assert found.answer.gpu.profile.startswith("calibrated on this NVIDIA H200")
    assert "models, each left out in turn" in found.answer.error.origin
    shipped = StepModel(load_workload("resnet50"), gpu=H200, profile=SHIPPED, recipe=make_recipe())
    now_s = found.setup.curve(np.array([256])).time_s[0]
    assert now_s / shipped.curve(np.array([256])).time_s[0] == pytest.approx(SLOWER, rel=0.2)
