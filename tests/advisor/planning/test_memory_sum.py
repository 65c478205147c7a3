from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import BadInputError, DoesNotFitError
from advisor.planning.memory_sum import MAX_BYTES, MemoryAnswer, memory_sum

GIB = 2**30
UNET = {"available": "12GiB", "fixed": "3GiB", "per_sample": "0.5GiB"}


def test_24_gib_less_4_over_a_fifth_is_100_which_rounding_to_bytes_would_miss() -> None:
    found = memory_sum(available="24GiB", fixed="4GiB", per_sample="0.2GiB")
    assert (found.largest, found.power_of_two, found.batch_size, found.cut) == (100, 64, 100, None)
    assert found.needed_bytes(100) == 24 * GIB
    assert str(found) == "(24 GiB - 4 GiB) / 0.2 GiB = 100 samples"
    rounded = memory_sum(available=24 * GIB, fixed=4 * GIB, per_sample=214748365)  # 0.2 GiB is 214748364.8 B
    assert rounded.largest == 99


def test_a_unet_of_3_gib_with_half_a_gib_an_image_takes_18_on_12_gib() -> None:
    found = memory_sum(**UNET)
    assert (found.largest, found.power_of_two) == (18, 16)


def test_64_where_18_fit_is_four_accumulations_of_16() -> None:
    found = memory_sum(**UNET, global_batch=64)
    assert str(found.cut) == "16 per GPU x 4 accumulation x 1 GPU = 64"
    assert (found.largest, found.batch_size, found.other_global_batches) == (18, 16, ())


def test_64_where_16_fit_is_four_accumulations() -> None:
    found = memory_sum(available="11GiB", fixed="3GiB", per_sample="0.5GiB", global_batch=64)
    assert found.largest == 16
    assert found.cut is not None
    assert (found.cut.batch, found.cut.accumulation) == (16, 4)


@pytest.mark.parametrize("asked", [None, 256])
def test_four_gpus_of_64_samples_are_256(asked: int | None) -> None:
    found = memory_sum(available="24GiB", fixed="4GiB", per_sample="0.3125GiB", gpus=4, global_batch=asked)
    assert str(found.cut) == "64 per GPU x 1 accumulation x 4 GPUs = 256"


def test_the_margin_is_on_all_that_is_needed_and_exact() -> None:
    # (3 + n / 2) * 1.2 = 12 at n = 14 exactly: the float 1.2 is a little less, 0.2 a little more than a fifth
    found = memory_sum(**UNET, margin="20%")
    assert found.largest == memory_sum(**UNET, margin=0.2).largest == 14
    assert found.needed_bytes(14) == 12 * GIB
    assert str(found) == "(12 GiB / 1.2 - 3 GiB) / 0.5 GiB = 14 samples"


def test_a_sum_that_is_not_whole_shows_what_was_cut_off() -> None:
    text = str(memory_sum(available="12GiB", fixed="3GiB", per_sample="0.7GiB"))
    assert text == "(12 GiB - 3 GiB) / 0.7 GiB = 12.85, so 12 samples"  # 9 / 0.7 = 12.857
    nearly = memory_sum(available=2**40 - 1, fixed=2**39, per_sample=2**38)  # 1.99999...: never shown as 2
    assert str(nearly).endswith("= 1.99, so 1 sample")


def test_units_may_be_written_in_every_usual_way() -> None:
    assert (
        len({memory_sum(available=text, fixed="4GiB", per_sample="1GiB") for text in ("24G", "24 GiB", "24gib")}) == 1
    )
    assert memory_sum(available="24 GB", fixed="4GiB", per_sample="1GiB").largest == 18  # 22.35 GiB


def test_an_unequal_share_takes_the_nearest_and_names_the_other() -> None:
    found = memory_sum(**UNET, global_batch=1000, gpus=3)
    assert str(found.cut) == "9 per GPU x 37 accumulation x 3 GPUs = 999"  # 333 = 9 * 37
    assert (found.asked_global_batch, found.other_global_batches) == (1000, (1002,))


def test_fewer_samples_than_gpus_are_refused() -> None:
    with pytest.raises(BadInputError, match="3 is smaller than the 4 GPUs"):
        memory_sum(**UNET, global_batch=3, gpus=4)


def test_where_not_one_sample_fits_the_least_that_is_needed_is_said_and_is_enough() -> None:
    with pytest.raises(DoesNotFitError, match=r"4 GiB fixed and 0.5 GiB for it .* at least 4.5 GiB must be available"):
        memory_sum(available="4.4GiB", fixed="4GiB", per_sample="0.5GiB")
    assert memory_sum(available="4.5GiB", fixed="4GiB", per_sample="0.5GiB").largest == 1
    with pytest.raises(DoesNotFitError, match=r"at least 4\.001 GiB"):  # rounded up: 4 GiB would not be enough
        memory_sum(available="4GiB", fixed="4GiB", per_sample="1B")
    with pytest.raises(DoesNotFitError, match=r"with the margin 4\.95 GiB.* at least 4\.95 GiB"):
        memory_sum(available="4.5GiB", fixed="4GiB", per_sample="0.5GiB", margin="10%")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"available": "0"}, "no positive size"),
        ({"fixed": "-3GiB"}, "no positive size"),
        ({"per_sample": "half"}, "no positive size"),
        ({"per_sample": "nan"}, "no positive size"),
        ({"available": 0}, "available memory 0"),
        ({"fixed": -1}, "fixed part -1"),
        ({"per_sample": 0.5}, "memory per sample 0.5 is no size"),
        ({"available": True}, "available memory True"),
        ({"available": "2e6GiB"}, "1 PiB"),
        ({"per_sample": "0.5B"}, "less than a byte"),
        ({"margin": "100%"}, "no share"),
        ({"margin": -0.1}, "no share"),
        ({"gpus": 0}, "number of GPUs 0"),
        ({"global_batch": 0}, "global batch 0"),
        ({"global_batch": 1.5}, "global batch 1.5"),
    ],
)
def test_unusable_values_are_refused_by_name_or_value(changed: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        memory_sum(**{**UNET, **changed})


SIZES = st.fractions(1, 2**20, max_denominator=1000) | st.integers(1, MAX_BYTES).map(Fraction)


def answer(available: Fraction, fixed: Fraction, per_sample: Fraction, **rest: object) -> MemoryAnswer | None:
    try:
        return memory_sum(available=available, fixed=fixed, per_sample=per_sample, **rest)
    except DoesNotFitError:
        return None


@given(SIZES, SIZES, SIZES)
def test_the_answer_fits_and_one_sample_more_does_not(
    available: Fraction, fixed: Fraction, per_sample: Fraction
) -> None:
    found = answer(available, fixed, per_sample)
    n = 0 if found is None else found.largest
    assert available < fixed + (n + 1) * per_sample
    if found is not None:
        assert n >= 1
        assert fixed + n * per_sample <= available
        assert found == answer(available, fixed, per_sample)
        assert found.power_of_two <= n < 2 * found.power_of_two


@given(SIZES, SIZES, st.integers(0, 99), st.integers(1, 10**6))
def test_a_margin_in_per_cent_is_exact(fixed: Fraction, per_sample: Fraction, percent: int, samples: int) -> None:
    available = (fixed + samples * per_sample) * Fraction(100 + percent, 100)  # just enough
    if available <= MAX_BYTES:
        for margin in (f"{percent}%", percent / 100):
            found = answer(available, fixed, per_sample, margin=margin)
            assert found is not None
            assert found.largest == samples


@given(st.integers(1, 200), st.integers(1, 5000), st.integers(1, 64))
def test_the_cut_is_the_largest_divisor_that_fits(fitting: int, asked: int, gpus: int) -> None:
    if asked < gpus:
        return
    found = answer(Fraction(fitting + 1), Fraction(1), Fraction(1), global_batch=asked, gpus=gpus)
    assert found is not None
    cut = found.cut
    assert cut is not None
    assert found.largest == fitting
    assert cut.batch * cut.accumulation * cut.gpus == cut.global_batch
    assert abs(cut.global_batch - asked) == min(asked % gpus, -asked % gpus)
    share = cut.global_batch // gpus
    assert cut.batch == max(b for b in range(1, min(fitting, share) + 1) if share % b == 0)
