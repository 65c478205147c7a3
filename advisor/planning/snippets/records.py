"""What `emit` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """A plan in the words of one framework."""

    text: str  # ends with a line end
    language: str  # "python", "json"
    notes: tuple[str, ...]  # what the framework does otherwise than the plan, or cannot say
