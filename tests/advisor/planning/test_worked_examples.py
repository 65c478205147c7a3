"""What public guides and the documentation work out by hand, through the public functions."""

from __future__ import annotations

import numpy as np
import pytest

from advisor import plan
from advisor.planning.learning_rate import scale_rate
from advisor.planning.memory_sum import memory_sum
from advisor.step import prepare

A100 = "a100-sxm4-80gb"


def test_four_gpus_with_64_each_make_256() -> None:
    cut = plan("resnet50", gpu=A100, global_batch=256, gpus=4).answer.planned.cut
    assert (cut.batch, cut.accumulation, cut.gpus, cut.global_batch) == (64, 1, 4, 256)


def test_going_from_64_to_256_moves_an_sgd_rate_from_a_tenth_to_four_tenths() -> None:
    rate = plan("resnet50", gpu=A100, global_batch=256, base_batch=64, lr=0.1).answer.planned.rate
    assert rate is not None
    assert (rate.rule, rate.factor, rate.rate) == ("linear", 4, pytest.approx(0.4))


def test_where_16_fit_and_64_are_wanted_there_are_four_accumulations() -> None:
    # Room for 18 samples with their gradients kept: of the divisors of 64 up to 18, 16 is the fastest.
    room = int(prepare("unet", gpu=A100).memory(np.array([18]), accumulate=True).total_bytes[0])
    answer = plan("unet", gpu=A100, global_batch=64, lr=0.01, base_batch=16, memory_limit=room, margin=0.0).answer
    assert (answer.planned.cut.batch, answer.planned.cut.accumulation) == (16, 4)
    assert answer.planned.rate is not None
    assert answer.planned.rate.rate == pytest.approx(0.04)  # four times the batch, four times the rate
    assert [(c.cut.batch, c.fits) for c in answer.planned.cuts if not c.fits] == [(32, False)]  # the next that is exact


def test_a_24_gb_card_holds_a_hundred_samples_of_a_fifth() -> None:
    assert memory_sum(available="24GiB", fixed="4GiB", per_sample="0.2GiB").largest == 100  # (24 - 4) / 0.2


def test_a_u_net_of_3_gb_and_half_a_gb_an_image_on_12_gb() -> None:
    found = memory_sum(available="12GiB", fixed="3GiB", per_sample="0.5GiB", global_batch=64)
    assert found.largest == 18  # (12 - 3) / 0.5
    assert found.cut is not None
    assert (found.cut.batch, found.cut.accumulation) == (16, 4)
    assert scale_rate("sgd", batch=64, base_batch=16).factor == 4


def test_resnet_50_with_4096_images_on_eight_a100() -> None:
    answer = plan(
        "resnet50", gpu=A100, global_batch=4096, gpus=8, optimizer="sgd", lr=0.1, base_batch=256,
        dataset_size=1281167, epochs=90, price=2.0,
    ).answer  # fmt: skip
    side, steps, schedule = answer.planned, answer.planned.steps, answer.planned.schedule
    assert side.cut.batch * side.cut.accumulation * side.cut.gpus == 4096
    assert side.rate is not None
    assert side.rate.rate == pytest.approx(1.6)  # 0.1 x 4096 / 256
    assert steps is not None
    # 312 x 4096 = 1,277,952 of 1,281,167 samples; 312 x 90 = 28,080
    assert (steps.per_epoch, steps.left_over, steps.total) == (312, 3215, 28080)
    assert schedule is not None
    assert (schedule.warm_up.steps, schedule.milestones) == (1560, (9360, 18720, 24960))  # epochs 5; 30, 60 and 80
    run = side.run
    assert run.epoch_s == pytest.approx(312 * side.cut.time_s)
    assert run.run_s == pytest.approx(28080 * side.cut.time_s)
    assert run.power is not None
    assert (run.power.watts, run.power.kind) == (400, "at most")  # NVIDIA A100 data sheet, SXM
    assert run.energy_j == pytest.approx(8 * 400 * run.run_s)
    assert run.cost == pytest.approx(8 * 2.0 * run.run_s / 3600)
    assert answer.warnings == ()  # 512 images for BatchNorm, within 8,192 of Goyal et al. 2017, no tokens
