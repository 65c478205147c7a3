from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cut import (
    BATCH_NORM_SAMPLES,
    TIE,
    LeastTimes,
    NearestCuts,
    cut_global_batch,
    least_times,
    nearest_cuts,
    nearest_shares,
)
from advisor.errors import BadInputError, DoesNotFitError

STEP_S = 0.010 + 0.001 * np.arange(1, 65)  # 10 ms + 1 ms per sample, of which the update takes 2 ms
FITS = np.arange(1, 65) <= 48
NONE = np.zeros(64, dtype=bool)
FLAT_S = 0.001 * np.arange(1, 65)  # no fixed cost: without an update every cut takes the same time


def cut(
    global_batch: int,
    gpus: int,
    *,
    step_s: np.ndarray = STEP_S,
    update_s: float = 0.002,
    fits: np.ndarray = FITS,
    fits_whole: np.ndarray = FITS,
    batch_norm: bool = False,
) -> NearestCuts:
    return nearest_cuts(
        global_batch, gpus, step_time_s=step_s, update_time_s=update_s, fits=fits, fits_whole=fits_whole,
        batch_norm=batch_norm,
    )  # fmt: skip


def has_cut(largest: int, fits: np.ndarray, fits_whole: np.ndarray) -> np.ndarray:
    """Whether 0..`largest` samples per GPU have a cut that fits: a sieve over every product, by the definition."""
    has = np.zeros(largest + 1, dtype=bool)
    has[1 : len(fits_whole) + 1] = fits_whole[:largest]
    for b in (np.flatnonzero(fits) + 1).tolist():
        has[2 * b :: b] = True
    return has


def test_the_fastest_exact_cut_pays_the_fixed_cost_least_often() -> None:
    best = cut_global_batch(256, 4, step_time_s=STEP_S, update_time_s=0.002, fits=FITS)[0]
    # 64 per GPU: 64 does not fit, 32 x 2 is next: 2 * (10 - 2 + 32) ms + 2 ms = 82 ms
    assert (best.batch, best.accumulation, best.gpus) == (32, 2, 4)
    assert best.time_s == pytest.approx(0.082)
    assert best.samples_per_s == pytest.approx(256 / 0.082)
    assert str(best) == "32 per GPU x 2 accumulation x 4 GPUs = 256"


def test_tied_cuts_are_ordered_by_memory() -> None:
    assert cut_global_batch(64, 1, step_time_s=FLAT_S, update_time_s=0.0, fits=FITS)[0].batch == 1


def test_an_unequal_share_names_the_nearest_that_can() -> None:
    with pytest.raises(BadInputError, match=r"global batch 1000 cannot be shared equally by 3 GPUs; 999 and 1002 can"):
        cut_global_batch(1000, 3, step_time_s=STEP_S, update_time_s=0.0, fits=FITS)


def test_fewer_samples_than_gpus_names_the_least() -> None:
    with pytest.raises(BadInputError, match="8 is the least"):
        cut_global_batch(7, 8, step_time_s=STEP_S, update_time_s=0.0, fits=FITS)


def test_nothing_that_fits_is_said() -> None:
    with pytest.raises(DoesNotFitError, match="not even 1 sample"):
        cut_global_batch(8, 1, step_time_s=STEP_S, update_time_s=0.0, fits=NONE)


@given(st.integers(1, 500), st.integers(1, 16))
def test_every_cut_multiplies_to_the_global_batch(per_gpu: int, gpus: int) -> None:
    cuts = cut_global_batch(per_gpu * gpus, gpus, step_time_s=STEP_S, update_time_s=0.002, fits=FITS)
    assert {cut.batch * cut.accumulation * cut.gpus for cut in cuts} == {per_gpu * gpus}


def test_a_global_batch_that_can_be_shared_is_kept() -> None:
    found = cut(256, 4)
    assert (found.asked, found.difference, found.others, found.held_by_memory) == (256, 0, (), False)
    assert found.cuts == cut_global_batch(256, 4, step_time_s=STEP_S, update_time_s=0.002, fits=FITS)


def test_four_gpus_of_64_make_256_and_64_where_16_fit_takes_four_accumulations() -> None:
    fits = np.arange(1, 65) <= 16
    best = cut(256, 4, fits=NONE, fits_whole=np.ones(64, dtype=bool)).cuts[0]
    assert (best.batch, best.accumulation) == (64, 1)
    best = cut(64, 1, fits=fits, fits_whole=fits).cuts[0]
    assert (best.batch, best.accumulation) == (16, 4)


def test_an_unequal_share_is_cut_at_the_nearest_and_names_the_other_side() -> None:
    found = cut(1000, 3)
    assert {c.global_batch for c in found.cuts} == {999}
    assert (found.difference, found.others, found.held_by_memory) == (-1, (1002,), False)
    assert cut(1001, 3).difference == 1


def test_of_two_equally_near_the_smaller_is_cut_unless_the_larger_is_clearly_faster() -> None:
    found = cut(36, 8, step_s=FLAT_S, update_s=0.0)  # 32 and 40, as fast per sample
    assert (found.cuts[0].global_batch, found.difference, found.others) == (32, -4, (40,))
    # 496 is 2 x 31 on each GPU, 31 x 10 + 2 = 312 ms; 504 is 21 x 3, 3 x 29 + 2 = 89 ms
    found = cut(500, 8, fits=np.arange(1, 65) <= 30, fits_whole=np.arange(1, 65) <= 30)
    assert (found.cuts[0].global_batch, found.difference, found.others) == (504, 4, (496,))
    assert (found.cuts[0].batch, found.cuts[0].time_s) == (21, pytest.approx(0.089))
    # 2 % is no difference: 9.1 of 9.2 ms a sample is 1.1 %, 9.0 of 9.2 is 2.2 %
    for larger_s, taken in ((5 * 9.1, 4), (5 * 9.0, 5)):
        step_s = np.array([50.0, 50.0, 50.0, 4 * 9.2, larger_s])
        few = step_s < 49
        assert cut(9, 2, step_s=step_s, update_s=0.0, fits=few, fits_whole=few).cuts[0].batch == taken


def test_fewer_samples_than_gpus_are_refused_with_the_two_ways_out() -> None:
    with pytest.raises(BadInputError, match=r"7 is smaller than the 8 GPUs.* use 7 GPUs at most, or .* of 8 or more"):
        cut(7, 8)
    with pytest.raises(BadInputError, match="use 1 GPU, or"):
        cut(1, 2)


def test_a_whole_step_is_cut_where_kept_gradients_leave_no_room_for_one_sample() -> None:
    found = cut(128, 4, fits=NONE)
    assert [(c.batch, c.accumulation) for c in found.cuts] == [(32, 1)]
    assert found.difference == 0


def test_a_share_that_no_cut_fits_moves_to_the_nearest_that_has_one_and_says_why() -> None:
    found = cut(1000, 4, fits=NONE)  # 250 per GPU, whole steps fit up to 48
    assert (found.cuts[0].global_batch, found.difference, found.others) == (192, -808, ())
    assert found.held_by_memory
    found = cut(15, 8, fits=NONE, fits_whole=np.arange(1, 65) == 1)  # 16 is nearer, but 2 on each do not fit
    assert (found.cuts[0].global_batch, found.held_by_memory) == (8, True)
    sevens = np.arange(1, 65) == 7  # only 7 fits: 14, 21, ... with accumulation
    found = cut(20, 1, fits=sevens, fits_whole=NONE)
    assert [(c.batch, c.accumulation) for c in found.cuts] == [(7, 3)]
    assert (found.difference, found.others, found.held_by_memory) == (1, (14,), True)


def test_a_share_above_the_searched_sizes_is_accumulated() -> None:
    best = cut(8192, 1, fits=np.ones(64, dtype=bool), fits_whole=np.ones(64, dtype=bool)).cuts[0]
    assert (best.batch, best.accumulation) == (64, 128)
    assert best.time_s == pytest.approx(128 * (0.074 - 0.002) + 0.002)


def test_where_no_global_batch_fits_nothing_is_cut() -> None:
    with pytest.raises(DoesNotFitError, match="not even 1 sample per GPU"):
        cut(64, 2, fits=NONE, fits_whole=NONE)


def test_with_batch_norm_the_smallest_tied_micro_batch_of_32_samples_is_first() -> None:
    plain, normed = (cut(48, 1, step_s=FLAT_S, update_s=0.0, batch_norm=norm) for norm in (False, True))
    assert [c.batch for c in plain.cuts] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 48]
    assert [c.batch for c in normed.cuts] == [48, 24, 16, 12, 8, 6, 4, 3, 2, 1]
    assert cut(128, 1, step_s=FLAT_S, update_s=0.0, batch_norm=True).cuts[0].batch == 32  # 64 and 128 do not fit


def test_with_batch_norm_and_no_tied_cut_of_32_samples_the_largest_is_first() -> None:
    few = cut(16, 1, step_s=FLAT_S, update_s=0.0, batch_norm=True)
    assert [c.batch for c in few.cuts] == [16, 8, 4, 2, 1]
    tied_s = np.where(np.arange(1, 65) == 16, 0.0201, FLAT_S)  # 16 is slower: 8 is the largest that ties
    assert cut(16, 1, step_s=tied_s, update_s=0.0, batch_norm=True).cuts[0].batch == 8


def test_batch_norm_never_moves_a_cut_past_the_tie() -> None:
    # 48 is one round of 58 ms, 24 two of 34 - 2 ms and one update: 66 ms, no tie, so the order stays that of time
    assert [c.batch for c in cut(48, 1, batch_norm=True).cuts][:3] == [48, 24, 16]


LIMITS = {
    "few": (np.arange(1, 9) <= 5, np.arange(1, 9) <= 7),
    "no kept gradients": (np.zeros(8, dtype=bool), np.arange(1, 9) <= 6),
    "one size": (np.arange(1, 12) == 7, np.arange(1, 12) == 11),
    "holes": (np.isin(np.arange(1, 100), [6, 10, 15]), np.isin(np.arange(1, 100), [4, 9, 97])),
    "all": (np.ones(64, dtype=bool), np.ones(64, dtype=bool)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_of_every_global_batch_to_5000_on_1_to_64_gpus_the_nearest_shares_are_found(name: str) -> None:
    fits, fits_whole = LIMITS[name]
    asked, beyond = np.arange(1, 5001), 5200
    has = has_cut(beyond, fits, fits_whole)
    index = np.arange(beyond + 1)
    last = np.maximum.accumulate(np.where(has, index, 0))  # the last share with a cut, up to each
    following = np.minimum.accumulate(np.where(has, index, beyond + 1)[::-1])[::-1]  # the next, from each on
    following[following > beyond] = 0
    for gpus in range(1, 65):
        below, above = nearest_shares(asked, gpus, fits=fits, fits_whole=fits_whole)
        np.testing.assert_array_equal(below, last[asked // gpus])
        np.testing.assert_array_equal(above, following[-(-asked // gpus)])


def assert_clearly_faster(found: NearestCuts, cuts_of: Callable[[int], NearestCuts]) -> None:
    """Of two equally near the larger is cut only where it has over 2 % more samples/s."""
    smaller, larger = (cuts_of(found.asked + sign * abs(found.difference)).cuts[0] for sign in (-1, 1))
    assert (found.difference > 0) == (larger.samples_per_s > 1.02 * smaller.samples_per_s)


@pytest.mark.parametrize("offset", range(8))
def test_every_global_batch_to_5000_is_cut_exactly_or_at_the_least_difference(offset: int) -> None:
    """All 5000, each on 8 of the GPU counts from 1 to 64: the test above holds the shares of all of them."""
    for asked in range(1, 5001):
        gpus = 1 + (7 * asked + 8 * offset) % 64
        if asked < gpus:
            continue
        found = cut(asked, gpus, step_s=STEP_S[:8], fits=FITS[:8], fits_whole=FITS[:8])
        least = min(asked % gpus, -asked % gpus)
        assert abs(found.difference) == least
        if 2 * least == gpus:
            limits = {"step_s": STEP_S[:8], "fits": FITS[:8], "fits_whole": FITS[:8]}
            assert_clearly_faster(found, lambda batch, gpus=gpus, limits=limits: cut(batch, gpus, **limits))
        for c in found.cuts:
            assert c.batch * c.accumulation * c.gpus == c.global_batch == asked + found.difference
            assert c.batch <= 8


@st.composite
def curves(draw: st.DrawFn) -> dict[str, object]:
    """Step times, an update, and limits of any shape: not even that less memory fits better is assumed."""
    n = draw(st.integers(1, 80))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    fits, fits_whole = (random.random(n) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in range(2))
    per_sample_s, noise_s = draw(st.sampled_from([0.0, 1e-5, 1e-3])), draw(st.sampled_from([0.0, 1e-4, 1e-2]))
    step_s = 0.01 + per_sample_s * np.arange(1, n + 1) + noise_s * random.random(n)
    return {
        "step_time_s": step_s, "update_time_s": draw(st.sampled_from([0.0, 0.002, 0.01])), "fits": fits,
        "fits_whole": fits_whole, "batch_norm": draw(st.booleans()),
    }  # fmt: skip


@given(st.integers(1, 5000), st.integers(1, 64), curves())
def test_at_any_limit_the_nearest_is_cut_and_nothing_exceeds_memory(asked: int, gpus: int, curve: dict) -> None:
    fits, fits_whole, step_s, update_s = (curve[key] for key in ("fits", "fits_whole", "step_time_s", "update_time_s"))
    reachable = np.flatnonzero(has_cut(5200, fits, fits_whole)) * gpus
    if asked < gpus:
        with pytest.raises(BadInputError, match="smaller than"):
            nearest_cuts(asked, gpus, **curve)
        return
    if not len(reachable):
        with pytest.raises(DoesNotFitError):
            nearest_cuts(asked, gpus, **curve)
        return
    found = nearest_cuts(asked, gpus, **curve)
    assert found == nearest_cuts(asked, gpus, **curve)
    assert abs(found.difference) == np.abs(reachable - asked).min()
    if found.difference and asked - found.difference in reachable:
        assert_clearly_faster(found, lambda batch: nearest_cuts(batch, gpus, **curve))
    assert set(found.others) <= set(reachable.tolist())
    share = (asked + found.difference) // gpus
    expected = {b for b in range(1, len(fits) + 1) if share % b == 0 and (fits_whole if b == share else fits)[b - 1]}
    assert {c.batch for c in found.cuts} == expected  # every cut that fits, and none that does not
    for c in found.cuts:
        assert c.batch * c.accumulation * c.gpus == c.global_batch == asked + found.difference
        assert c.time_s == c.accumulation * (step_s[c.batch - 1] - update_s) + update_s
    assert found.cuts[0].time_s <= (1 + TIE) * min(c.time_s for c in found.cuts)
    tied = [c.batch for c in found.cuts if c.time_s <= (1 + TIE) * min(c.time_s for c in found.cuts)]
    enough = [b for b in tied if b >= BATCH_NORM_SAMPLES]
    assert found.cuts[0].batch == (min(tied) if not curve["batch_norm"] else min(enough) if enough else max(tied))


@given(st.integers(1, 300), curves())
def test_the_least_times_are_those_of_the_first_of_the_nearest_cuts(largest: int, curve: dict) -> None:
    found = least_times(largest, **curve)
    has = has_cut(max(largest, len(curve["fits"])), curve["fits"], curve["fits_whole"])
    for share in range(1, largest + 1):
        if not has[share]:
            assert (found.batch[share - 1], found.time_s[share - 1]) == (0, np.inf)
            continue
        best = nearest_cuts(share, 1, **curve).cuts[0]
        assert (found.batch[share - 1], found.time_s[share - 1]) == (best.batch, best.time_s)


def test_least_times_go_past_the_searched_sizes() -> None:
    found: LeastTimes = least_times(2**16, step_time_s=STEP_S, update_time_s=0.002, fits=FITS, fits_whole=FITS)
    assert len(found.time_s) == len(found.batch) == 2**16
    assert found.batch[2**16 - 1] == 32  # the largest divisor up to 48
    assert found.time_s[2**16 - 1] == pytest.approx(2048 * (0.042 - 0.002) + 0.002)
    assert found.batch[65521 - 1] == 1  # a prime
