from __future__ import annotations

import numpy as np
import pytest

from advisor.gpus import find_gpu
from advisor.memory import memory_curve
from advisor.recipe import make_recipe
from advisor.workload.catalogue import load_workload
from bench.shapes import (
    PUBLIC_LINEARS,
    ConvShape,
    all_linears,
    base_rows,
    catalogue_convolutions,
    catalogue_linears,
    catalogue_names,
    fine_rows,
    training_bytes,
    training_variant,
    training_work,
    wave_boundaries,
)
from tests.data import measured

A100, V100 = 108, 80  # SMs


def test_resnet50_has_23_distinct_convolutions() -> None:
    # the stem; 4 in the first stage, where the first block's shortcut is its last convolution over again; 6 in each
    # other: three with the first block's stride, its shortcut, and two for the blocks after it
    uses = catalogue_convolutions(["resnet50"])
    assert len(uses) == 23
    assert len({use.shape for use in uses}) == 23
    assert sum(use.count for use in uses) == 53  # 16 blocks of three, four shortcuts, the stem
    stem = uses[0]
    assert stem.shape == ConvShape(3, 64, 224, 224, 7, 7, stride=2, padding=3)
    assert (stem.shape.out_height, stem.shape.out_width) == (112, 112)
    assert stem.passes == ("forward", "wgrad")  # nobody asks for the gradient of an image
    assert all(use.passes == ("forward", "dgrad", "wgrad") for use in uses[1:])


def test_every_shape_of_a_model_is_there_for_the_others_too() -> None:
    unet = {use.shape for use in catalogue_convolutions(["unet"])}
    assert ConvShape(64, 64, 256, 256, 3, 3, padding=1) in unet
    assert ConvShape(512, 1024, 32, 32, 2, 2, stride=2) in unet  # the first up-convolution, as what it transposes
    depthwise = catalogue_convolutions(["mobilenet_v3_large"], grouped=True)
    assert {use.shape.groups for use in depthwise} == {16, 64, 72, 120, 240, 200, 184, 480, 672, 960}
    assert all(use.shape.groups == use.shape.c_in == use.shape.c_out for use in depthwise)
    assert sum(use.count for use in depthwise) == 15  # one per block


def test_berts_weights_are_those_of_its_paper() -> None:
    found = {(linear.n, linear.k) for linear in catalogue_linears(["bert-base-128"])}
    assert found == {(768, 768), (3072, 768), (768, 3072), (30522, 768)}
    (logits,) = [linear for linear in catalogue_linears(["bert-base-128"]) if linear.n == 30522]
    assert logits.rows_per_sample == (128,)


def test_every_model_of_the_catalogue_gives_its_linears_once() -> None:
    linears = all_linears()
    assert len({(linear.n, linear.k) for linear in linears}) == len(linears)
    assert {model for linear in linears for model in linear.models} == set(catalogue_names()) - {"unet"}
    assert [(linear.n, linear.k) for linear in linears[: len(PUBLIC_LINEARS)]] == list(PUBLIC_LINEARS)


def test_sources_of_public_sweeps_hold_the_sizes_they_are_cited_for() -> None:
    lines = measured("aiconfigurator-gemm/h200_sxm_bf16.csv").read_text().splitlines()[1:]
    known = {(int(n), int(k)) for n, k in (line.split(",")[1:3] for line in lines)}
    cited = [pair for pair, source in PUBLIC_LINEARS.items() if "aiconfigurator" in source]
    assert cited
    assert set(cited) <= known


def test_waves_end_where_the_tiles_pass_multiples_of_the_sms() -> None:
    # 12288 / 128 = 96 tiles across: w waves of 108 hold floor(108 w / 96) rows of them, w up to 7, but 9 in the eighth
    assert wave_boundaries(12288, A100, tiles=((256, 128),), most=2304) == (*range(256, 1793, 256), 2304)
    # 4096 / 128 = 32 tiles across: 3, 6, 10 rows of tiles in one, two, three waves
    assert wave_boundaries(4096, A100, tiles=((256, 128),), most=2560) == (768, 1536, 2560)


def test_waves_on_v100_end_where_a_public_sweep_drops() -> None:
    # EleutherAI's ksweep_high: its M = 2304 is our n; its throughput falls just after N = 2176, 3328, 4480, 5632
    found = wave_boundaries(2304, V100, tiles=((128, 256),), most=6000)
    assert found == (1024, 2176, 3328, 4480, 5632)


def test_a_fine_sweep_has_every_boundary_one_past_it_and_every_8_rows_near_the_first() -> None:
    rows = fine_rows(4096, A100)
    assert {768, 769, 1536, 1537, 2560, 2561} <= set(rows)
    assert {752, 760, 776, 784} <= set(rows)
    assert {257, 512} <= set(fine_rows(12288, A100))
    assert set(base_rows()) <= set(rows)
    assert rows[0] == 16
    assert rows[-1] <= 16384
    assert list(rows) == sorted(set(rows))


def test_without_a_gpu_a_fine_sweep_has_the_octaves_and_one_past_the_tiles() -> None:
    assert set(fine_rows(4096, None)) == {*base_rows(), 17, 33, 65, 129, 257}


def test_a_model_of_one_layout_and_attention_has_its_variant() -> None:
    assert training_variant("bert-base-128")["layout"] == "any"
    assert training_variant("swin_t")["attention"] == "unfused"  # its windows' bias is no mask that fuses
    with pytest.raises(KeyError, match="bf16"):
        training_variant("resnet50", "bf16")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["resnet50", "bert-base-128"])
def test_the_bound_on_memory_is_the_tensors_that_the_advisor_counts(name: str, optimizer: str) -> None:
    recipe = make_recipe(optimizer=optimizer)
    batches = np.array([1, 64, 1024])
    curve = memory_curve(load_workload(name), gpu=find_gpu("h100-sxm"), profile=None, recipe=recipe, batches=batches)
    parts = curve.parameters_bytes + curve.buffers_bytes + curve.optimizer_state_bytes + curve.live_peak_bytes
    assert [training_bytes(name, int(batch), optimizer=optimizer) for batch in batches] == parts.tolist()


def test_the_work_of_a_step_is_the_sum_of_its_operations() -> None:
    work, variant = training_work("resnet50", 128), None
    for variant in load_workload("resnet50").variants:
        if (variant.mode, variant.precision, variant.layout) == ("train", "amp", "nhwc"):
            break
    assert variant is not None
    assert work.flops == sum(op.count * (op.flops[0] + 128 * op.flops[1]) for op in variant.ops)
    assert work.launches == sum(op.count * op.kernels for op in variant.ops)
    # 4.09 GMAC forward (torchvision's table), twice that backward but for the stem's data gradient (0.118 GMAC)
    assert work.flops / 128 == pytest.approx(2e9 * (3 * 4.09 - 0.118), rel=2e-3)
