from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict

from advisor.errors import BadInputError, BrokenFileError
from advisor.gemm import gemm_time
from advisor.gpus import find_gpu
from advisor.measured import (
    MAX_BYTES,
    BandwidthModel,
    Ceilings,
    Conditions,
    ConvolutionModel,
    MeasuredProfile,
    MemoryUse,
    StepFactor,
    gpu_profile_of,
    measured_profile_bytes,
    parse_measured_profile,
    read_measured_profile,
    step_profile_of,
)
from advisor.nearby import Nearby
from advisor.profile import Error, GemmCoefficients, GpuProfile, Tile, load_profile
from advisor.recipe import make_recipe
from advisor.step_profile import load_step_profile
from advisor.steptime import StepModel
from advisor.workload.catalogue import load_workload

A100 = find_gpu("a100")
ERROR = Error(mean=0.05, median=0.04, p90=0.1, rows=100, what="pairs left out")
NEAR = Nearby(
    axes=("m", "n", "k"), octaves=(1.0, 1.0, 1.0), limit=0.5, points=((1024.0, 1024.0, 1024.0),), weights=(0.2,)
)


def a_profile(**changes: Any) -> MeasuredProfile:
    conditions = Conditions(
        gpu_name=A100.name, gpu_key="abc", compute_capability=A100.compute_capability, sms=A100.sms,
        memory_bytes=80 * 2**30, method_version=1, driver="580.1", torch="2.11",
    )  # fmt: skip
    parts: dict[str, Any] = {
        "convolutions": {
            "fp16": ConvolutionModel(
                rows=40, values={"nhwc.conv_fprop.rate": 0.5}, held_out=ERROR, passes={}, nearby={"nhwc.fprop": NEAR}
            )
        },
        "bandwidths": BandwidthModel(rows=9, values={"cast": 0.7, "nhwc.copy": 0.6}, held_out=ERROR),
        "ceilings": Ceilings(copy_bytes_per_s=1.7e12, host_s=4e-6, kernel_s=2e-6),
    }
    return MeasuredProfile(
        schema_version=1,
        gpu=A100.id,
        fitted="2026-01-02",
        extent="quick",
        conditions=conditions,
        **{**parts, **changes},
    )


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(measured_profile_bytes(a_profile())), **fields}).encode()


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(measured_profile_bytes(a_profile()))
    assert read_measured_profile(path) == a_profile()
    assert a_profile(gemm=load_profile(A100).gemm).describe() == (
        "calibrated on this NVIDIA A100-SXM4-80GB (2026-01-02, driver 580.1, torch 2.11)"
    )


def test_a_profile_without_products_says_so() -> None:
    assert a_profile().describe().endswith("torch 2.11); products were not: as without a measurement")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "missing required field"),
        (b"[" * 100_000, "profile x"),
        (changed(schema_version=2), "version 2, this is 1"),
        (changed(extent="some"), "extent is 'some'"),
        (changed(ceilings={"host_s": -1.0}), "host_s is -1.0"),
        (changed(ceilings={"matmul_flops_per_s": {"fp16": 0.0}}), "fp16 is 0.0"),
        (changed(steps={"rows": 9, "factor": 9.0, "held_out": asdict(ERROR)}), "steps.factor is 9.0"),
        (changed(surprise=1), "surprise"),
    ],
)  # fmt: skip
def test_a_damaged_profile_names_the_place_and_the_cure(content: bytes, said: str) -> None:
    with pytest.raises(BrokenFileError, match=said) as caught:
        parse_measured_profile(content, "x")
    assert "python -m bench fit --records" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "nearby", "said"),
    [
        ({"speed": 1.0}, {}, "speed is no coefficient"),
        ({"nhwc.conv_fprop.rate": 0.0}, {}, "no positive number"),
        ({}, {"nhwc.sideways": NEAR}, "no layout and pass"),
        ({}, {"nhwc.fprop": Nearby(("m",), (1.0,), 0.5, ((0.0,),), (1.0,))}, "positive numbers"),
        ({}, {"nhwc.fprop": Nearby(("m",), (1.0,), 0.5, ((1.0,),), (math.inf,))}, "finite|no JSON|null"),
        ({}, {"nhwc.fprop": Nearby(("m",), (1.0,), 9.0, ((1.0,),), (1.0,))}, "limit is 9.0, above 1.0"),
    ],
)
def test_coefficients_that_the_step_model_does_not_know_are_refused(
    values: dict[str, float], nearby: dict[str, Nearby], said: str
) -> None:
    model = ConvolutionModel(rows=40, values=values, held_out=ERROR, passes={}, nearby=nearby)
    with pytest.raises(BrokenFileError, match=said):
        parse_measured_profile(measured_profile_bytes(a_profile(convolutions={"fp16": model})), "x")


def test_a_file_too_large_for_a_profile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(BrokenFileError, match="limit"):
        read_measured_profile(path)
    with pytest.raises(BadInputError, match="cannot read"):
        read_measured_profile(tmp_path / "none.json")


def test_what_was_measured_replaces_what_is_shipped_and_nothing_else() -> None:
    base, found = load_step_profile(), step_profile_of(a_profile(), A100, "fp16")
    assert found.gpu == A100.id
    measured = {"nhwc.conv_fprop.rate": 0.5, "cast": 0.7, "kernel_s": 2e-6}
    assert {name: found.train[name] for name in measured} == measured
    assert found.train["softmax"] == base.train["softmax"]
    assert found.memory == base.memory
    assert "convolutions 5 %" in found.held_out["nhwc"].what


def test_a_bare_launch_can_only_raise_what_a_steps_launch_takes_the_host() -> None:
    """Shipped: 10 us per launch of a step. A bare operation at 4 us is no step's; at 25 us the host is slow."""
    said = {}
    for bare, of_steps in ((4e-6, None), (25e-6, None), (4e-6, 7e-6), (None, None)):
        profile = a_profile(ceilings=Ceilings(host_s=bare, step_host_s=of_steps))
        said[bare, of_steps] = step_profile_of(profile, A100, "fp16").train["host_s"]
    assert list(said.values()) == [1e-5, 25e-6, 7e-6, 1e-5]


def test_measured_products_move_the_products_of_a_geforces_steps() -> None:
    """Half the rate by its own measurement: large products take 1.5 times as long, and so, nearly, do GPT-2's."""
    gpu = find_gpu("rtx4090")
    borrowed = load_profile(gpu).gemm["fp16"]
    times = []
    for share in (1.0, 0.5):
        slower = msgspec.structs.replace(borrowed.coefficients, efficiency=share * borrowed.coefficients.efficiency)
        model = msgspec.structs.replace(borrowed, gpu=gpu.id, kind="measured", coefficients=slower, correction=None)
        profile = a_profile(gemm={"fp16": model}, convolutions={}, bandwidths=None, ceilings=Ceilings())
        profile = msgspec.structs.replace(profile, gpu=gpu.id)
        step = StepModel(
            load_workload("gpt2"), gpu=gpu, profile=gpu_profile_of(profile, gpu), recipe=make_recipe(),
            step_profile=step_profile_of(profile, gpu, "fp16"),
        )  # fmt: skip
        times.append(step.curve(np.array([16])).class_time_s["gemm"][0])
    assert 1.3 * times[0] < times[1] < 2 * times[0]


def test_coefficients_that_were_not_measured_predict_as_they_did_as_another_gpus() -> None:
    """Shares of the RTX 3090 scaled by this GPU's GEMM profile, or shares of its own peak: one time. Waves apart."""
    recipe = make_recipe(layout="nchw")
    work = load_workload("resnet50")
    profile = a_profile(convolutions={}, bandwidths=None, ceilings=Ceilings())
    shipped = StepModel(work, gpu=A100, profile=load_profile(A100), recipe=recipe)
    own = StepModel(
        work, gpu=A100, profile=load_profile(A100), recipe=recipe, step_profile=step_profile_of(profile, A100, "fp16")
    )
    batches = np.array([32, 128, 257])
    assert own.curve(batches).time_s == pytest.approx(shipped.curve(batches).time_s, rel=1e-6)


def test_measured_fp16_convolutions_say_nothing_of_fp32() -> None:
    base, found = load_step_profile(), step_profile_of(a_profile(), A100, "fp32")
    assert found.train["nhwc.conv_fprop.rate"] == base.train["nhwc.conv_fprop.rate"]
    assert found.nearby == {}


def test_a_neighbours_correction_moves_its_own_pass_alone() -> None:
    recipe, work = make_recipe(), load_workload("resnet50")
    near = Nearby(("m", "n", "k", "side"), (50.0,) * 4, 0.5, ((1e4, 64.0, 576.0, 56.0),), (0.3,))
    plain, beside = (
        ConvolutionModel(rows=40, values={}, held_out=ERROR, passes={}, nearby=nearby)
        for nearby in ({}, {"nhwc.fprop": near, "nchw.dgrad": near})
    )
    layers = []
    for model in (plain, beside):
        step_profile = step_profile_of(a_profile(convolutions={"fp16": model}), A100, "fp16")
        step = StepModel(work, gpu=A100, profile=load_profile(A100), recipe=recipe, step_profile=step_profile)
        layers.append({(layer.layer, layer.op): layer.time_s for layer in step.layers(64)})
    for (name, op), time_s in layers[0].items():
        ratio = layers[1][name, op] / time_s
        assert (1.15 < ratio < 1.35) if op == "fprop" else ratio == pytest.approx(1)


def test_a_factor_of_whole_steps_and_the_memory_of_a_process_are_taken_over() -> None:
    steps = StepFactor(rows=12, factor=1.25, held_out=ERROR)
    profile = a_profile(steps=steps, memory=MemoryUse(rows=12, context_bytes=2**29, allocator_share=0.02))
    found = step_profile_of(profile, A100, "fp16")
    assert found.held_out["nhwc"].what == ERROR.what
    assert (found.memory.allocator_share, found.memory.overhead_bytes - found.memory.workspace_bytes) == (0.02, 2**29)
    work, recipe = load_workload("resnet50"), make_recipe()
    times = [
        StepModel(work, gpu=A100, profile=load_profile(A100), recipe=recipe, step_profile=step_profile).curve(
            np.array([128])
        ).gpu_time_s[0]
        for step_profile in (step_profile_of(a_profile(), A100, "fp16"), found)
    ]  # fmt: skip
    assert times[1] == pytest.approx(1.25 * times[0])


def test_a_foreign_profile_is_not_used() -> None:
    with pytest.raises(BadInputError, match="measured on a100-sxm4-80gb, not h200-sxm"):
        gpu_profile_of(a_profile(), find_gpu("h200"))


def test_a_product_beside_a_measured_one_is_corrected_and_a_far_one_is_not() -> None:
    base = load_profile(A100)
    model = base.gemm["fp16"]
    own = msgspec.structs.replace(model, correction=None, nearby=NEAR)
    found = gemm_time(GpuProfile(1, A100.id, {"fp16": own}), A100, np.array([1024, 2**20]), 1024, 1024)
    plain = gemm_time(base, A100, np.array([1024, 2**20]), 1024, 1024, corrected=False)
    assert np.log(found.time_s / plain.time_s) == pytest.approx([0.2, 0.2 * math.exp(-10)])


def test_products_may_be_split_as_far_as_the_profile_says() -> None:
    """A100, 5 tiles of 128x128 per SM and a long k: split only where the profile's limit allows it."""
    base = load_profile(A100).gemm["fp16"]
    coefficients = msgspec.structs.replace(base.coefficients, tiles=(Tile(128, 128, 1.0),), wave_hardness=1.0)
    assert isinstance(coefficients, GemmCoefficients)
    splits = []
    for limit in (4.0, 12.0):
        model = msgspec.structs.replace(
            base, correction=None, coefficients=msgspec.structs.replace(coefficients, most_split_load=limit)
        )
        found = gemm_time(GpuProfile(1, A100.id, {"fp16": model}), A100, 128 * 109, 256, 16384)
        splits.append(int(found.split_k))
    assert splits[0] == 1 < splits[1]
