"""What can go wrong, each with its exit code. A message is one line: the value, the limit, the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AdvisorError(Exception):
    """Base of every error this package raises on purpose. Its text is one line for the user."""

    exit_code = 1


class BadInputError(AdvisorError):
    """A value the user gave is not usable: NaN, zero, negative, not a number, out of range."""

    exit_code = 2  # also what click uses for a wrong command line


class UnknownNameError(BadInputError):
    """No GPU, model or suite has this name; the message lists the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], way_out: str) -> None:
        near = nearest(name, known)
        did_you_mean = f" Nearest: {', '.join(near)}." if near else ""
        super().__init__(f"unknown {kind} {name!r}.{did_you_mean} {way_out}")


class NoGpuError(AdvisorError):
    """A local GPU was asked for and none can be used."""

    exit_code = 3


class DoesNotFitError(AdvisorError):
    """No batch size fits the memory, or no cut reaches the global batch."""

    exit_code = 4


class BrokenFileError(AdvisorError):
    """A profile, catalogue, records or CSV file is damaged: the message names file, place and cure."""

    exit_code = 5


class MissingDependencyError(AdvisorError):
    """An optional dependency is needed; the message names the extra to install."""

    exit_code = 6


class TraceError(AdvisorError):
    """A model cannot be traced; the message names the operation and what to do."""

    exit_code = 7


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` known names most like `name`, best first."""
    by_lower = {k.lower(): k for k in known}
    return [by_lower[k] for k in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)]
