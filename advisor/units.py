"""Units at the edge: inside are bytes, seconds and FLOP; only text says GiB, ms and TFLOP/s."""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

from advisor.errors import BadInputError

_FACTORS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def parse_bytes(text: str) -> Fraction:
    """Exact number of bytes in a size such as "24GiB", "0.2 GiB", "80GB" or "1024".

    GB is 10**9 and GiB 2**30; a bare G means GiB, as memory sizes of GPUs are meant.
    Raises BadInputError where the text is no positive size.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _FACTORS or Fraction(match[1]) <= 0:
        raise BadInputError(f"{text!r} is no positive size: write it like 24GiB, 512MiB or 80GB")
    return Fraction(match[1]) * _FACTORS[match[2].lower()]


def parse_duration(text: str) -> float:
    """Seconds in a time such as "12ms", "250 us" or "1.5 s".

    Raises BadInputError where the text is no time of up to a day, or has no unit.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?)\s*([a-zA-Z]*)\s*", text)
    value = float(match[1]) * _SECONDS.get(match[2].lower(), math.nan) if match else math.nan
    if not value <= DAY_S:  # also where it is NaN
        raise BadInputError(f"{text!r} is no time of up to a day with its unit: write it like 12ms, 250us or 0.5s")
    return value


def parse_fraction(text: str) -> float:
    """Share between 0 and 1 in "5%" or "0.05". Raises BadInputError outside of [0, 1)."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= value < 1:
        raise BadInputError(f"{text!r} is no share from 0 up to 1: write it like 5% or 0.05")
    return value


def gib(size_bytes: float) -> str:
    """Print bytes as GiB with two decimals, "0.20 GiB"; three significant digits from 100 GiB on."""
    value = size_bytes / 2**30
    return f"{value:.2f} GiB" if value < 100 else f"{value:.0f} GiB"


def about_gib(size_bytes: float) -> str:
    """Print an estimate of bytes as GiB with three significant digits and two decimals at most: "0.20", "13.3 GiB"."""
    value = size_bytes / 2**30
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} GiB"


def short_size(size_bytes: Fraction, *, at_least: bool = False) -> str:
    """Print a size as people write it, with up to four digits: "24 GiB", "0.2 GiB", "50 MiB"; `at_least` rounds up."""
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
    unit, factor = next((unit for unit in units if 10 * size_bytes >= unit[1]), units[-1])
    digits = Context(prec=4, rounding=ROUND_CEILING if at_least else ROUND_HALF_EVEN)
    value = digits.divide(Decimal(size_bytes.numerator), Decimal(size_bytes.denominator * factor))
    return f"{value.normalize():,f} {unit}"


def duration(time_s: float) -> str:
    """Print a time with three significant digits in the unit that suits it: "5.3 us", "133 ms", "2.15 s"."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if float(f"{time_s * factor:.3g}") < 1000:
            return f"{_three_digits(time_s * factor)} {unit}"
    return f"{_three_digits(time_s)} s"


def long_time(time_s: float) -> str:
    """Print a time from milliseconds to days: "441 s", "18.2 min", "7.35 h"."""
    return long_times(time_s, time_s)


def long_times(low_s: float, high_s: float) -> str:
    """Print a range of times in the unit that suits the longer: "1.90 to 2.19 h", "595 to 610 s"."""
    for least, factor, unit in ((2 * DAY_S, DAY_S, "days"), (2 * HOUR_S, HOUR_S, "h"), (600, 60, "min")):
        if high_s >= least:
            return span(f"{rate(low_s / factor)} {unit}", f"{rate(high_s / factor)} {unit}")
    unit = duration(high_s).partition(" ")[2]
    return span(f"{_three_digits(low_s / _SECONDS[unit])} {unit}", duration(high_s))


def energy(joules: float) -> str:
    """Print an energy with three significant digits as it is billed: "0.350 J", "2.00 Wh", "12.4 kWh", "2.50 MWh"."""
    for unit, factor in (("MWh", 3.6e9), ("kWh", 3.6e6), ("Wh", 3.6e3)):
        if joules >= factor:
            return f"{rate(joules / factor)} {unit}"
    return f"{_three_digits(joules)} J"


def rate(per_s: float) -> str:
    """Print a rate with three or more significant digits and thousands separated: "0.52", "41.3", "2,315"."""
    return f"{per_s:,.0f}" if per_s >= 100 else _three_digits(per_s)


def span(low: str, high: str) -> str:
    """Print a range of two printed values, their unit once where it is one: "14.1 to 14.3 h", "3 to 14 %"."""
    if low == high:
        return low
    figure, _, unit = low.rpartition(" ")
    return f"{figure if figure and high.endswith(f' {unit}') else low} to {high}"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Print a number of things: "1 step", "8,868 kernels"; `nouns` is a plural that takes more than an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or f'{noun}s'}"


def percent(share: float, digits: int = 0) -> str:
    """Print a share as per cent: 0.031 becomes "3 %"."""
    return f"{100 * share:.{digits}f} %"


def significant(value: float, digits: int = 4) -> float:
    """The number with so many significant digits, as many as a reader looks at; NaN stays NaN."""
    return float(f"{value:.{digits}g}")


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    value = float(f"{value:.3g}")  # 9.996 is 10.0
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
