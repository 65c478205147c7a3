"""The sum that people do on paper: (memory available - fixed part) / memory per sample, in exact arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from advisor.choice import largest_power_of_two
from advisor.cut import Division, nearest_global_batches
from advisor.errors import BadInputError, DoesNotFitError
from advisor.step import check_count, check_share
from advisor.units import parse_bytes, short_size

MAX_BYTES = 1 << 50  # no memory is larger; it bounds the answer
LIKELY_BYTES = 1 << 20  # a smaller size without a unit is likely one whose unit was forgotten


@dataclass(frozen=True)
class MemoryAnswer:
    """How many samples fit by the sum alone, and the cut of a global batch that follows. It knows nothing of speed."""

    available_bytes: Fraction
    fixed_bytes: Fraction  # what does not grow with the batch
    per_sample_bytes: Fraction
    margin: Fraction  # share added to the sum before it is held against what is available
    largest: int  # samples
    power_of_two: int  # the largest that is no larger than `largest`
    asked_global_batch: int | None
    cut: Division | None  # with the largest micro-batch that divides each GPU's share; None: nothing to cut
    other_global_batches: tuple[int, ...]  # where the asked one cannot be shared equally: the nearest on the other side

    @property
    def batch_size(self) -> int:
        """Samples per GPU and micro-step: those of the cut, or the largest."""
        return self.largest if self.cut is None else self.cut.batch

    def needed_bytes(self, batch: int) -> Fraction:
        """Memory that `batch` samples need, the margin included."""
        return (self.fixed_bytes + batch * self.per_sample_bytes) * (1 + self.margin)

    def __str__(self) -> str:
        """The sum in one line: "(24 GiB - 4 GiB) / 0.2 GiB = 100 samples"."""
        available, fixed, each = map(short_size, (self.available_bytes, self.fixed_bytes, self.per_sample_bytes))
        less = f" / {float(1 + self.margin):g}" if self.margin else ""
        exact = (self.available_bytes / (1 + self.margin) - self.fixed_bytes) / self.per_sample_bytes
        whole = "" if exact == self.largest else f"{math.floor(100 * exact) / 100:,.2f}, so "
        return f"({available}{less} - {fixed}) / {each} = {whole}{self.largest:,} sample{'s' * (self.largest != 1)}"


def memory_sum(
    *,
    available: str | int | Fraction,
    fixed: str | int | Fraction,
    per_sample: str | int | Fraction,
    margin: str | float = 0.0,
    global_batch: int | None = None,
    gpus: int = 1,
) -> MemoryAnswer:
    """The largest n with (fixed + n * per_sample) * (1 + margin) <= available, in exact arithmetic.

    Sizes are in bytes, or text such as "0.2 GiB". `global_batch` over `gpus` GPUs (left out: the largest on each) is
    cut by memory alone, into the largest micro-batch that divides each GPU's share; where the GPUs cannot share it
    equally, the nearest global batch that they can.

    Raises BadInputError for values that are no positive sizes or counts, DoesNotFitError where not one sample fits.

    >>> str(memory_sum(available="24GiB", fixed="4GiB", per_sample="0.2GiB"))
    '(24 GiB - 4 GiB) / 0.2 GiB = 100 samples'
    """
    available_bytes, fixed_bytes = _size("available memory", available), _size("fixed part", fixed)
    per_sample_bytes = _size("memory per sample", per_sample)
    if per_sample_bytes < 1:
        raise BadInputError(f"memory per sample {per_sample!r} is less than a byte: write it like 0.2GiB or 5MiB")
    check_count("number of GPUs", gpus, limit=1 << 20)
    share = Fraction(str(check_share("margin", margin)))  # the decimal fraction that was meant, not the nearest float
    largest = math.floor((available_bytes / (1 + share) - fixed_bytes) / per_sample_bytes)
    if largest < 1:
        hints = unit_hints(available, fixed, per_sample)
        why = _nothing_fits(available_bytes, fixed_bytes, per_sample_bytes, share)
        raise DoesNotFitError("; ".join((why, *hints)))
    cut, others = None, list[int]()
    if global_batch is not None:
        anything = np.ones(1, dtype=bool)
        check_count("global batch", global_batch, limit=1 << 30)
        reached, *others = nearest_global_batches(global_batch, gpus, fits=anything, fits_whole=anything)
        batch = _largest_divisor(reached // gpus, largest)
        cut = Division(reached, gpus, batch, reached // gpus // batch)
    elif gpus > 1:
        cut = Division(largest * gpus, gpus, largest, 1)
    return MemoryAnswer(
        available_bytes, fixed_bytes, per_sample_bytes, share, largest, largest_power_of_two(largest), global_batch,
        cut, tuple(others),
    )  # fmt: skip


def unit_hints(*sizes: str | int | Fraction) -> tuple[str, ...]:
    """A line for each size that is text without a unit, and so few bytes that the unit may be forgotten."""
    return tuple(
        f"{size.strip()} has no unit, so it is {size.strip()} bytes: write it like 24GiB"
        for size in sizes
        if isinstance(size, str) and not any(c.isalpha() for c in size) and parse_bytes(size) < LIKELY_BYTES
    )


def _size(what: str, given: str | int | Fraction) -> Fraction:
    if not isinstance(given, (str, int, np.integer, Fraction)) or isinstance(given, bool):
        raise BadInputError(f"{what} {given!r} is no size: give text such as '0.2GiB', or whole bytes")
    size = parse_bytes(given) if isinstance(given, str) else Fraction(given)
    if not 0 < size <= MAX_BYTES:
        raise BadInputError(f"{what} {given!r} is no size from 1 byte to 1 PiB: write it like 24GiB")
    return size


def _largest_divisor(share: int, limit: int) -> int:
    """Largest divisor of `share` up to `limit`."""
    small = [d for d in range(1, math.isqrt(share) + 1) if share % d == 0]
    return max(d for part in small for d in (part, share // part) if d <= limit)


def _nothing_fits(available: Fraction, fixed: Fraction, per_sample: Fraction, margin: Fraction) -> str:
    least = short_size((fixed + per_sample) * (1 + margin), at_least=True)
    more = f", with the margin {least}," if margin else ""
    return (
        f"not even 1 sample fits: {short_size(fixed)} fixed and {short_size(per_sample)} for it are "
        f"{short_size(fixed + per_sample, at_least=True)}{more} of {short_size(available)}; at least {least} must be "
        "available, or the fixed part smaller"
    )
