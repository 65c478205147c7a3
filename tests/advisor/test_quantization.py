from __future__ import annotations

import csv
from collections import defaultdict
from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor import quantization as q
from advisor.errors import BadInputError
from tests.data import measured

sizes = st.integers(1, 1 << 16)
tiles = st.sampled_from([16, 32, 64, 96, 128, 192, 256, 7])
counts = st.integers(1, 10_000)


def on_a100(m: int, n: int, k: int = 4096, **more: object) -> q.GemmQuantization:
    return q.quantize_gemm(m, n, k, tile_m=256, tile_n=128, sms=108, **more)


def test_n_1536_fills_one_wave_of_an_a100_and_1537_starts_a_second() -> None:
    full, over = on_a100(2304, 1536), on_a100(2304, 1537)
    assert (full.tiles, full.whole_waves, full.wave_efficiency, full.idle_share) == (9 * 12, 1, 1.0, 0.0)
    assert (over.tiles, over.whole_waves) == (9 * 13, 2)
    assert over.wave_efficiency == pytest.approx(117 / 216)
    assert over.last_wave_fill == pytest.approx(9 / 108)
    assert over.tile_efficiency == pytest.approx(1537 / (13 * 128))
    assert over.flops == 2 * 2304 * 1537 * 4096
    assert over.flops + over.wasted_flops == 2 * 2304 * (13 * 128) * 4096
    assert over.efficiency == pytest.approx(over.flops / (2 * 256 * 128 * 4096) / 216)  # C's share of 216 tiles' work


def test_idle_share_is_exact_where_the_nsight_rule_is_not() -> None:
    # 4.81 waves: the rule 1 / (1 + floor(w)) says 20 %; 5.05 waves: 1/6, and the rule is silent
    assert q.idle_share(481, 100) == pytest.approx(0.038)
    assert q.idle_share(505, 100) == pytest.approx(95 / 600)  # 15.8 %


@pytest.mark.parametrize(("wave", "last_n"), [(2, 2176), (3, 3328), (4, 4480), (5, 5632)])
def test_cliffs_of_v100_at_m_2304_follow_from_80_sms(wave: int, last_n: int) -> None:
    assert q.largest_size(wave, slots=80, tiles_across=2304 // 256, tile=128) == last_n


@pytest.mark.parametrize("j", [2, 3, 4, 5, 6, 7])
def test_cliffs_of_a100_at_m_2304_lie_at_multiples_of_768(j: int) -> None:
    assert q.largest_size(j, slots=108, tiles_across=2304 // 128, tile=128) == 768 * j


@pytest.mark.parametrize(
    ("gpu", "cliffs", "unexplained"),
    [
        ("v100", [q.largest_size(wave, 80, 9, 128) for wave in (2, 3, 4, 5)], []),  # tiles of 256x128
        ("a100", [q.largest_size(wave, 108, 18, 128) for wave in (2, 3, 4, 5, 6)], [1728]),  # of 128x128; one other
    ],
)
def test_measured_throughput_drops_by_7_percent_where_another_wave_starts(
    gpu: str, cliffs: list[int], unexplained: list[int]
) -> None:
    with measured("eleutherai-cookbook-sizing", "gemm_bmm_fp16_a100_v100_mi250x.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["gpu"] == gpu and r["sweep"] == "ksweep_high"]
    rate = sorted((int(r["k_out"]), float(r["tflops"])) for r in rows)
    drops = [n for (n, at), (_, following) in pairwise(rate) if following < 0.93 * at]
    assert drops == sorted(cliffs + unexplained)


def test_split_k_multiplies_tiles_and_leaves_slices_empty_where_steps_do_not_go_round() -> None:
    found = q.quantize_gemm(64, 576, 100_352, tile_m=64, tile_n=64, sms=80, split_k=8)
    assert (found.tiles, found.whole_waves, found.schedule) == (9 * 8, 1, "split-K")
    assert found.note is not None
    # 10 steps of 64 over 8 slices: 2 each, so 5 work; the longest slice holds 128 of 640 / 8
    assert q.split_k_slices(640, 64, 8) == 5
    assert q.split_k_efficiency(640, 64, 8) == pytest.approx(640 / (8 * 128))
    assert q.split_k_efficiency(640, 64, 5) == 1.0


def test_a_step_of_k_that_sticks_out_is_padding_too() -> None:
    found = q.quantize_gemm(128, 128, 100, tile_m=128, tile_n=128, tile_k=64, sms=1)
    assert found.wasted_flops == 2 * 128 * 128 * 28


def test_persistent_kernels_launch_one_wave_and_keep_their_rounds() -> None:
    found = q.quantize_gemm(2304, 1537, 4096, tile_m=256, tile_n=128, sms=108, schedule="persistent")
    assert (found.ctas, found.tiles, found.whole_waves) == (108, 117, 2)
    assert found.wave_efficiency == pytest.approx(117 / 216)


def test_stream_k_leaves_no_tail_but_an_uneven_step() -> None:
    found = q.quantize_gemm(2304, 1537, 4096, tile_m=256, tile_n=128, tile_k=64, sms=108, schedule="stream-K")
    steps = 117 * 64  # shared by 108 slots: 70 each for the longest
    assert (found.ctas, found.whole_waves, found.waves) == (108, 1, 1.0)
    assert found.wave_efficiency == pytest.approx(steps / (108 * 70))
    with pytest.raises(BadInputError, match="tile_k"):
        q.quantize_gemm(2304, 1537, 4096, tile_m=256, tile_n=128, sms=108, schedule="stream-K")


def test_two_resident_ctas_halve_the_waves_but_not_the_balance_over_sms() -> None:
    found = on_a100(2304, 1537, ctas_per_sm=2)
    assert (found.slots, found.whole_waves) == (216, 1)
    assert found.wave_efficiency == found.wave_efficiency_sms == pytest.approx(117 / 216)


def test_folk_rule_for_imagenet_on_an_rtx_2080_ti() -> None:
    # 68 SMs, 224 x 224 x 3: n * 2^14 * 68 / 150528 = 7.40 n
    assert [q.folk_batch_size(n, 68, 224, 224, 3) for n in (1, 2, 10)] == [7, 14, 74]
    assert q.folk_batch_size(np.array([1, 10]), 68, 224, 224, 3).tolist() == [7, 74]


@given(m=sizes, n=sizes, tile_m=tiles, tile_n=tiles, split=st.integers(1, 40))
def test_one_more_row_adds_tiles_only_past_a_multiple_of_the_tile(
    m: int, n: int, tile_m: int, tile_n: int, split: int
) -> None:
    grown = q.tile_count(m + 1, n, tile_m, tile_n, split) - q.tile_count(m, n, tile_m, tile_n, split)
    columns = sum(1 for _ in range(0, n, tile_n))
    assert grown == (columns * split if m % tile_m == 0 else 0)


@given(m=sizes, n=sizes, k=sizes, tile_m=tiles, tile_n=tiles, tile_k=tiles, sms=st.integers(1, 200))
def test_efficiencies_lie_above_0_and_reach_1_only_without_waste(
    m: int, n: int, k: int, tile_m: int, tile_n: int, tile_k: int, sms: int
) -> None:
    found = q.quantize_gemm(m, n, k, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k, sms=sms)
    for share in (found.tile_efficiency, found.wave_efficiency, found.last_wave_fill):
        assert 0 < share <= 1
    assert (found.tile_efficiency == 1) == (m % tile_m == 0 and n % tile_n == 0)
    assert (found.wave_efficiency == 1) == (found.tiles % sms == 0) == (found.last_wave_fill == 1)
    assert (found.wasted_flops == 0) == (m % tile_m == n % tile_n == k % tile_k == 0)
    assert found.idle_share == pytest.approx(1 - found.wave_efficiency)
    assert found.whole_waves - 1 < found.waves <= found.whole_waves


@given(a=counts, b=counts, slots=st.integers(1, 500))
def test_waves_add_up_and_whole_waves_never_exceed_those_of_the_parts(a: int, b: int, slots: int) -> None:
    assert q.waves(a, slots) + q.waves(b, slots) == pytest.approx(q.waves(a + b, slots))
    assert q.ceil_div(a + b, slots) <= q.ceil_div(a, slots) + q.ceil_div(b, slots)


@given(k=sizes, tile_k=tiles, split=st.integers(1, 64))
def test_working_slices_of_a_split_hold_every_step_once(k: int, tile_k: int, split: int) -> None:
    steps = len(range(0, k, tile_k))
    longest = -(-steps // split)
    slices = q.split_k_slices(k, tile_k, split)
    assert 1 <= slices <= min(split, steps)
    assert (slices - 1) * longest < steps <= slices * longest
    assert 0 < q.split_k_efficiency(k, tile_k, split) <= 1


@given(st.lists(st.tuples(sizes, sizes, sizes, tiles, tiles, st.integers(1, 9)), min_size=1, max_size=8))
def test_arrays_give_what_each_element_alone_gives(cases: list[tuple[int, ...]]) -> None:
    m, n, k, tile_m, tile_n, split = (np.array(column) for column in zip(*cases, strict=True))
    found = q.quantize_gemm(m, n, k, tile_m=tile_m, tile_n=tile_n, split_k=split, sms=108)
    for i, (m1, n1, k1, a, b, s) in enumerate(cases):
        one = q.quantize_gemm(m1, n1, k1, tile_m=a, tile_n=b, split_k=s, sms=108)
        assert isinstance(one.tiles, int)
        for name in ("tiles", "flops", "wasted_flops", "whole_waves", "tile_efficiency", "wave_efficiency", "waves"):
            assert getattr(found, name)[i] == getattr(one, name), name


@given(tiles_across=st.integers(1, 50), slots=st.integers(1, 500), tile=tiles, waves=st.integers(1, 9))
def test_largest_size_is_the_last_one_that_needs_no_further_wave(
    tiles_across: int, slots: int, tile: int, waves: int
) -> None:
    last = q.largest_size(waves, slots, tiles_across, tile)
    assert q.ceil_div(q.ceil_div(last, tile) * tiles_across, slots) <= waves
    assert q.ceil_div(q.ceil_div(last + 1, tile) * tiles_across, slots) > waves


def test_plain_formulae_compile_under_numba_unchanged() -> None:
    functions = (
        (q.ceil_div, (1537, 128)),
        (q.gemm_flops, (3, 5, 7, 2)),
        (q.tile_count, (2304, 1537, 256, 128, 2)),
        (q.tile_efficiency, (2304, 1537, 256, 128)),
        (q.split_k_slices, (640, 64, 8)),
        (q.split_k_efficiency, (650, 64, 8)),
        (q.waves, (117, 108)),
        (q.wave_efficiency, (117, 108)),
        (q.idle_share, (117, 108)),
        (q.last_wave_fill, (117, 108)),
        (q.largest_size, (2, 80, 9, 128)),
    )
    for function, arguments in functions:
        assert numba.njit(function)(*arguments) == function(*arguments), function.__name__


def test_run_starts_mark_every_change_of_tiles_or_waves() -> None:
    assert q.run_starts(np.array([9, 9, 18, 18, 18]), np.array([1, 1, 1, 2, 2])).tolist() == [0, 2, 3]


@pytest.mark.parametrize("bad", [0, -1, 2**31, 1.5, 2048.0, float("nan"), "9", None, True])
def test_a_size_that_is_no_positive_whole_number_is_refused(bad: object) -> None:
    with pytest.raises(BadInputError, match="m must be"):
        q.quantize_gemm(bad, 8, 8, tile_m=8, tile_n=8, sms=1)


def test_arrays_with_one_bad_size_or_of_floats_are_refused() -> None:
    with pytest.raises(BadInputError, match="got -3"):
        on_a100(np.array([5, -3]), 8)
    with pytest.raises(BadInputError, match="float64"):
        on_a100(np.array([5.0]), 8)


def test_counts_past_64_bits_are_refused_and_not_wrapped() -> None:
    with pytest.raises(BadInputError, match="64-bit"):
        on_a100(2**31 - 1, 2**31 - 1, 2**31 - 1)
    with pytest.raises(BadInputError, match="64-bit"):
        on_a100(np.array([2**31 - 1], dtype=np.int32), 2**31 - 1)


def test_32_bit_arrays_do_not_overflow() -> None:
    assert on_a100(np.array([65536], dtype=np.int32), 65536, 65536).flops.tolist() == [2 * 65536**3]


def test_true_grids_of_40_478_fp32_products_are_explained_by_tiles_and_split_k() -> None:
    """cuBLAS computes row-major C as its transpose: the first number of a kernel's tile mostly runs along n_out.

    97.2 % of the grids are ceil(n_out/a) x ceil(m/b) x split_k (or with a and b exchanged, which H100's kernels do)
    axis by axis; in 0.5 % one axis is rounded up to a swizzle of 2, 4 or 8; in 2.2 %, all on the P4, the axes are
    folded otherwise but the number of CTAs is exact. Nothing is left over.
    """
    with measured("neusight-fp32", "linear_fp32_8gpus.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("m", "n_out", "tile_a", "tile_b", "grid_x", "grid_y", "grid_z")
    m, n, a, b, x, y, z = (np.array([int(row[name]) for row in rows]) for name in names)
    straight = (q.ceil_div(n, a), q.ceil_div(m, b))
    exchanged = (q.ceil_div(m, a), q.ceil_div(n, b))

    n_first = (x == straight[0]) & (y == straight[1])
    m_first = (x == exchanged[0]) & (y == exchanged[1]) & ~n_first
    swizzled = np.zeros_like(n_first)
    for first, second in (straight, straight[::-1], exchanged, exchanged[::-1]):
        for swizzle in (2, 4, 8):
            swizzled |= (x == first * swizzle) & (y == q.ceil_div(second, swizzle))
    axes = n_first | m_first
    swizzled &= ~axes
    counted = (x * y * z == q.tile_count(n, m, a, b)) & ~axes & ~swizzled

    found = [int(np.sum(part)) for part in (n_first, m_first, swizzled, counted)]
    assert found == [38_411, 942, 222, 903]
    assert sum(found) == len(rows) == 40_478
    by_device = defaultdict(list)
    for row, exact in zip(rows, axes, strict=True):
        by_device[row["device"]].append(exact)
    assert {d for d, exact in by_device.items() if all(exact)} >= {
        "Tesla V100-PCIE-32GB", "NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe", "Tesla T4", "Tesla P100-PCIE-16GB"
    }  # fmt: skip
