from __future__ import annotations

from fractions import Fraction

import pytest

from advisor import units
from advisor.errors import BadInputError


def test_sizes_are_exact_fractions() -> None:
    assert units.parse_bytes("0.2 GiB") * 5 == 2**30
    assert units.parse_bytes("24GiB") == units.parse_bytes("24g") == 24 * 2**30
    assert units.parse_bytes("80GB") == Fraction(80 * 10**9)
    assert units.parse_bytes("1024") == 1024


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "nan", "1e999GiB", "3 apples", "1/2GiB"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="no positive size"):
        units.parse_bytes(text)


def test_shares_are_per_cent_or_numbers() -> None:
    assert units.parse_fraction("5%") == units.parse_fraction("0.05") == 0.05


@pytest.mark.parametrize("text", ["100%", "1", "-1%", "nan", "five"])
def test_no_share_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="no share"):
        units.parse_fraction(text)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(5.3e-6, "5.30 us"), (0.1334, "133 ms"), (2.154, "2.15 s"), (0.0, "0 us"), (312.0, "312 s"),
     (0.009998, "10.0 ms"), (0.0009998, "1.00 ms")],
)  # fmt: skip
def test_durations_have_three_digits(time_s: float, text: str) -> None:
    assert units.duration(time_s) == text


def test_rates_and_sizes_read_well() -> None:
    assert [units.rate(r) for r in (0.5234, 41.3, 2315.4)] == ["0.523", "41.3", "2,315"]
    assert [units.gib(2**30 * x) for x in (0.2, 23.456, 141)] == ["0.20 GiB", "23.46 GiB", "141 GiB"]
    about = [units.about_gib(2**30 * x) for x in (0.2, 9.994, 9.996, 23.456, 99.94, 99.96, 141)]
    assert about == ["0.20 GiB", "9.99 GiB", "10.0 GiB", "23.5 GiB", "99.9 GiB", "100 GiB", "141 GiB"]


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.25, "250 ms"), (441.3, "441 s"), (684, "11.4 min"), (9000, "2.50 h"), (432_000, "5.00 days")],
)
def test_long_times_are_read_easily(time_s: float, text: str) -> None:
    assert units.long_time(time_s) == text


@pytest.mark.parametrize(("text", "time_s"), [("12ms", 0.012), ("1.5 s", 1.5), ("250us", 0.00025), ("2 min", 120.0)])
def test_times_are_read_in_the_units_they_are_printed_in(text: str, time_s: float) -> None:
    assert units.parse_duration(text) == pytest.approx(time_s)


@pytest.mark.parametrize("text", ["", "12", "0.012", "ms", "-1ms", "nan", "inf", "1e99s", "12 apples", "12 ms 3"])
def test_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="no time"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("joules", "text"), [(0.35, "0.350 J"), (7200, "2.00 Wh"), (3.6e6, "1.00 kWh"), (9e9, "2.50 MWh")]
)
def test_energy_is_printed_as_it_is_billed(joules: float, text: str) -> None:
    assert units.energy(joules) == text


def test_short_sizes_are_written_as_people_write_them() -> None:
    sizes = [24 * 2**30, Fraction("0.2") * 2**30, 50 * 2**20, 80 * 10**9, 10**6 * 2**30, Fraction(1, 3), Fraction(0)]
    shown = ["24 GiB", "0.2 GiB", "50 MiB", "74.51 GiB", "1,000,000 GiB", "0.3333 B", "0 B"]
    assert [units.short_size(Fraction(size)) for size in sizes] == shown
    assert units.short_size(Fraction(4 * 2**30 + 1), at_least=True) == "4.001 GiB"
    assert units.short_size(Fraction(4 * 2**30), at_least=True) == "4 GiB"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [("14.1 h", "14.3 h", "14.1 to 14.3 h"), ("900 Wh", "1.1 kWh", "900 Wh to 1.1 kWh"), ("1 x", "1 x", "1 x"),
     ("29.1", "30", "29.1 to 30")],
)  # fmt: skip
def test_a_range_names_its_unit_once(low: str, high: str, text: str) -> None:
    assert units.span(low, high) == text


@pytest.mark.parametrize(
    ("low_s", "high_s", "text"),
    [
        (6840, 7884, "1.90 to 2.19 h"),  # 114 min alone
        (590, 660, "9.83 to 11.0 min"),
        (47 * 3600, 50 * 3600, "1.96 to 2.08 days"),
        (0.9, 1.2, "0.900 to 1.20 s"),
        (0.45, 0.46, "450 to 460 ms"),
        (3e-4, 2e-3, "0.300 to 2.00 ms"),
        (100, 100, "100 s"),
    ],
)
def test_both_ends_of_a_range_of_times_have_one_unit(low_s: float, high_s: float, text: str) -> None:
    assert units.long_times(low_s, high_s) == text
