from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest

from advisor.gemm import gemm_time, operand_rate
from advisor.report.sections.sweep import COLUMNS, ROWS
from advisor.report.sweeps import Sweep, predict_sweep
from advisor.report.teeth import LEAST_LOSS, Tooth, teeth
from tests.advisor.report.products import subject_of

GPUS = ("a100", "v100", "h100", "l40s", "t4", "rtx-4090", "p100-pcie-16gb")  # borrowed profiles and FP32 among them


def against_m(gpu: str, n: int, k: int) -> Sweep:
    return predict_sweep(subject_of(gpu), "m", ROWS, fixed={"n": n, "k": k}, id_="m")


def against_n(gpu: str) -> Sweep:
    return predict_sweep(subject_of(gpu), "n", COLUMNS, fixed={"m": 2304, "k": 4096}, id_="n")


def tooth_after(sweep: Sweep, size: int) -> Tooth:
    return next(tooth for tooth in teeth(sweep) if tooth.under == size)


def tiles_of(m: int, n: int, tile_m: int, tile_n: int, split_k: int) -> int:
    return math.ceil(m / tile_m) * math.ceil(n / tile_n) * split_k


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("axis", ["m at 12288 x 4096", "m at 4096 x 4096", "n", "n by ones"])
def test_every_named_cause_is_what_the_prediction_counts(gpu: str, axis: str) -> None:
    subject = subject_of(gpu)
    profile, found = subject.profiles.gemm, subject.gpu
    if axis == "n by ones":
        sweep = predict_sweep(subject, "n", np.arange(1536, 1601), fixed={"m": 2304, "k": 4096}, id_="n")
    else:
        sweep = against_n(gpu) if axis == "n" else against_m(gpu, int(axis.split()[2]), 4096)
    assert teeth(sweep)
    for tooth in teeth(sweep):
        both = tooth.under, tooth.over
        m0, m1 = both if sweep.axis == "m" else (2304, 2304)
        n0, n1 = both if sweep.axis == "n" else (int(sweep.n[0]),) * 2
        sizes = np.array([m0, m1]), np.array([n0, n1]), 4096
        p = gemm_time(profile, found, *sizes, precision=sweep.precision)
        physical = gemm_time(profile, found, *sizes, precision=sweep.precision, corrected=False)
        rates, physical_rates = p.flops / p.time_s, physical.flops / physical.time_s
        assert tooth.loss == pytest.approx(1 - rates[1] / rates[0])
        assert tooth.loss >= LEAST_LOSS
        cut = int(p.tile_m[0]), int(p.tile_n[0]), int(p.split_k[0])
        before, kept = tiles_of(m0, n0, *cut), tiles_of(m1, n1, *cut)
        assert (tooth.before.tiles, tooth.kept.tiles) == (before, kept)
        assert tooth.after.tiles == tiles_of(m1, n1, int(p.tile_m[1]), int(p.tile_n[1]), int(p.split_k[1]))
        assert (tooth.before.waves, tooth.after.waves) == pytest.approx(tuple(p.waves))
        # logarithms of ratios: which part of the fall the physical form has
        mostly_physical = math.log(physical_rates[1] / physical_rates[0]) <= 0.5 * math.log(rates[1] / rates[0])
        alignment = operand_rate(np.array([n0, n1], dtype=float), np.array([4096.0, 4096.0]), 2.0)
        further = math.ceil(kept / found.sms) > math.ceil(before / found.sms)
        if not mostly_physical and physical_rates[1] > 0.98 * physical_rates[0]:
            assert tooth.cause == "neighbours"
        elif found.has_tensor_cores and alignment[1] < alignment[0]:
            assert tooth.cause == "alignment"
        elif further and not mostly_physical:
            assert tooth.cause == "wave"
        else:
            assert tooth.cause == "tiles" or (tooth.cause == "wave" and further)
            assert kept > before
        if tooth.cause in ("wave", "tiles"):
            assert f"{before} tiles of {cut[0]}x{cut[1]}" in tooth.text
            assert f" become {kept}, {before / found.sms:.2f} to {kept / found.sms:.2f} waves on" in tooth.text
        assert ("are taken" in tooth.text) == (tooth.cause != "neighbours" and not tooth.after.same_tiles(tooth.before))


def test_the_second_wave_of_the_a100_is_named() -> None:
    """n = 12288 is 48 tiles of 256: two rows of tiles are 96, three are 144, and there are 108 SMs."""
    tooth = tooth_after(against_m("a100", 12288, 4096), 256)
    assert tooth.cause == "wave"
    assert tooth.text.startswith(
        "256 to 257: a second wave for 36 tiles: 96 tiles of 128x256 become 144, 0.89 to 1.33 waves on 108 SMs."
    )
    assert 1 / (1 - tooth.loss) == pytest.approx(2.04, rel=0.12)  # measured: x2.04 the time


def test_one_row_past_768_starts_a_second_wave_on_the_a100() -> None:
    """n = k = 4096: 6 x 16 tiles of 128x256 are 96, 7 x 16 are 112, four more than SMs; measured: x1.94 the time."""
    tooth = tooth_after(against_m("a100", 4096, 4096), 768)
    assert "a second wave for 4 tiles: 96 tiles of 128x256 become 112, 0.89 to 1.04 waves on 108 SMs." in tooth.text
    assert 769 / 768 / (1 - tooth.loss) == pytest.approx(1.94, rel=0.1)


def test_on_the_v100_columns_cost_most_where_256x128_tiles_pass_a_multiple_of_80() -> None:
    """M = 2304 is 9 tiles of 256: 9 x 17 = 153 of 160 at N = 2176, 26 x 9 = 234 of 240 at 3328, and so on."""
    deepest = sorted(teeth(against_n("v100")), key=lambda tooth: -tooth.loss)[:4]
    assert sorted(tooth.under for tooth in deepest) == [2176, 3328, 4480, 5632]
    assert {tooth.cause for tooth in deepest} == {"wave"}


def test_on_the_a100_columns_cost_only_past_whole_waves_of_108_tiles() -> None:
    """18 tiles of 128 by 6 of 256 are 108: waves end at N = 768 j with either tile of 128x256 or its half."""
    found = [tooth.under for tooth in teeth(against_n("a100"))]
    assert found == [1536, 2304, 3072, 4608]  # 3840 was measured too; the model does not show it


@pytest.mark.parametrize("hardness, cause", [(1.0, "wave"), (0.0, "tiles")])
def test_a_further_wave_is_the_cause_only_where_idle_sms_cost(hardness: float, cause: str) -> None:
    """N = 1536 to 1544 is 108 to 126 tiles: with hardness 1 from 1 round to 2, with 0 to 126 / 108 rounds."""
    subject = subject_of("a100")
    profile, model = subject.profiles.gemm, subject.profiles.gemm.gemm["fp16"]
    found = msgspec.structs.replace(
        model,
        coefficients=msgspec.structs.replace(model.coefficients, wave_hardness=hardness),
        correction=None,
        nearby=None,
    )
    changed = msgspec.structs.replace(profile, gemm={"fp16": found})
    other = dataclasses.replace(subject, profiles=dataclasses.replace(subject.profiles, gemm=changed))
    sweep = predict_sweep(other, "n", np.array([1536, 1544]), fixed={"m": 2304, "k": 4096}, id_="n")
    (tooth,) = teeth(sweep)
    assert (tooth.before.tiles, tooth.kept.tiles) == (108, 126)
    assert tooth.cause == cause
    assert ("a wave starts costs less here" in tooth.reason) == (cause == "tiles")


def test_on_an_h100_a_further_wave_is_rarely_the_cause() -> None:
    """Its fitted hardness is 6 %: 264 tiles are two whole waves of 132, and 276 cost little more than 276 / 264."""
    tooth = tooth_after(against_n("h100"), 2816)
    assert (tooth.before.tiles, tooth.kept.tiles) == (264, 276)
    assert tooth.cause == "tiles"
    assert tooth.reason.startswith("more tiles to compute and to feed: 264 tiles of 192x128 become 276")


def test_a_cliff_that_measurements_deepen_keeps_its_wave() -> None:
    """H100, n = 12288: 4 x 64 = 256 tiles of 128x192 become 320, past 2 x 132; measured x1.36, the form alone x1.11."""
    tooth = tooth_after(against_m("h100", 12288, 4096), 512)
    assert (tooth.before.tiles, tooth.kept.tiles) == (256, 320)
    assert tooth.cause == "wave"
    assert "Without timings of neighbouring sizes it would lose" in tooth.remarks


def test_a_column_that_breaks_alignment_is_named_as_that() -> None:
    sweep = predict_sweep(subject_of("a100"), "n", np.arange(4088, 4098), fixed={"m": 4096, "k": 4096}, id_="n")
    tooth = tooth_after(sweep, 4096)
    assert tooth.cause == "alignment"
    assert "Tensor Cores at 29 % of the rate before" in tooth.text


def test_without_measured_neighbours_none_is_named() -> None:
    subject = subject_of("a100")
    profile = subject.profiles.gemm
    bare = {name: msgspec.structs.replace(model, correction=None, nearby=None) for name, model in profile.gemm.items()}
    plain = dataclasses.replace(
        subject, profiles=dataclasses.replace(subject.profiles, gemm=msgspec.structs.replace(profile, gemm=bare))
    )
    causes = [
        {tooth.cause for tooth in teeth(predict_sweep(each, "m", ROWS, fixed={"n": 4096, "k": 4096}, id_="m"))}
        for each in (subject, plain)
    ]
    assert "neighbours" in causes[0]
    assert causes[1] == {"wave"}


def test_sizes_within_one_tile_have_no_tooth() -> None:
    sweep = predict_sweep(subject_of("v100"), "m", np.arange(1025, 1153), fixed={"n": 4096, "k": 4096}, id_="m")
    assert teeth(sweep) == ()


def test_waves_are_numbered_in_words() -> None:
    """On 56 SMs: 22 columns of 128x128 tiles are 21 x 18 = 378 tiles, 6.75 waves, then 396, 7.07."""
    assert (
        "an eighth wave for 4 tiles: 378 tiles of 128x128 become 396, 6.75 to 7.07 waves on 56 SMs."
        in tooth_after(against_n("p100-pcie-16gb"), 2688).text
    )
