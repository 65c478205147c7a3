"""Names, shapes and the like of a trace: each distinct one is kept once, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from advisor.errors import BrokenFileError
from advisor.profiling.raw import Dims, Ints
from advisor.profiling.reading.jsontext import repaired

MOST_TEXT_BYTES = 2**28
"""Of the distinct names, shapes and the like of one trace, with what Python adds to each."""

_ENTRY_BYTES = 100  # of a dictionary's entry and a short string's head
_MOST_REPAIRED_BYTES = 2**20
_Value = TypeVar("_Value")
_Extent = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_SIZE = msgspec.json.Decoder(tuple[_Extent, _Extent, _Extent])
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class TextBudget:
    """What the distinct texts of one trace may take together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = MOST_TEXT_BYTES

    def spend(self, text_bytes: int) -> None:
        """Raises BrokenFileError past the limit."""
        self._left -= text_bytes + _ENTRY_BYTES
        if self._left < 0:
            raise BrokenFileError(
                f"trace {self._path} holds more than {MOST_TEXT_BYTES // 2**20} MiB of distinct names and shapes, the "
                "limit: is it a torch.profiler trace?"
            )


class Interned:
    """Distinct texts in order of appearance, each with its index."""

    def __init__(self, budget: TextBudget) -> None:
        self.index: dict[Any, int] = {}
        self._budget = budget

    def add(self, key: Hashable, text_bytes: int) -> int:
        """Return the index of a new key. Raises BrokenFileError past the budget."""
        self._budget.spend(text_bytes)
        return self.index.setdefault(key, len(self.index))

    def add_raw(self, raw: msgspec.Raw) -> int:
        """Return the index of JSON text, -1 of none."""
        text = bytes(raw)
        if not text:
            return -1
        index = self.index.get(text)
        return self.add(text, len(text)) if index is None else index


def dims_of(interned: Interned) -> tuple[tuple[Dims, ...], Ints]:
    """Return the distinct "Input Dims", and for each index of their text the index of its value (-1: unreadable)."""
    return _values(interned, _as_dims)


def texts_of(interned: Interned) -> tuple[tuple[tuple[str, ...], ...], Ints]:
    """Return distinct lists of texts ("Input type", "Concrete Inputs") and their indices, as `dims_of` does."""
    return _values(interned, _as_texts)


def sizes_of(interned: Interned) -> Ints:
    """Return grids or blocks, (n + 1, 3); -1 where they cannot be read, and in the last row, which index -1 means."""
    return np.array([*map(_as_size, interned.index), (-1, -1, -1)], dtype=np.int64)


def _values(interned: Interned, convert: Callable[[Any], _Value | None]) -> tuple[tuple[_Value, ...], Ints]:
    values: dict[_Value, int] = {}
    index = []
    for text in interned.index:
        value = convert(_decoded(text))
        index.append(-1 if value is None else values.setdefault(value, len(values)))
    return tuple(values), np.array([*index, -1], dtype=np.int64)


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except _DECODE_ERRORS:
        pass
    try:
        return msgspec.json.decode(repaired(text[:_MOST_REPAIRED_BYTES]))
    except _DECODE_ERRORS:
        return None


def _as_dims(value: Any) -> Dims | None:
    """A shape per argument, a tuple of shapes for a list of tensors, None for what is neither."""
    return tuple(_as_shape(argument) for argument in value) if isinstance(value, list) else None


def _as_shape(argument: Any) -> Any:
    if not isinstance(argument, list):
        return None
    if argument and all(isinstance(part, list) for part in argument):
        shapes = tuple(tuple(part) for part in argument)
        return shapes if all(_is_shape(shape) for shape in shapes) else None
    return tuple(argument) if _is_shape(argument) else None


def _is_shape(sizes: Sequence[Any]) -> bool:
    return all(type(size) is int and 0 <= size < 2**53 for size in sizes)


def _as_texts(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) else None


def _as_size(text: bytes) -> tuple[int, int, int]:
    try:
        return _SIZE.decode(text)
    except _DECODE_ERRORS:
        return (-1, -1, -1)
