"""Files of fitted coefficients, which others may have written: the size, the structure and the version are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from advisor.errors import BrokenFileError

_Record = TypeVar("_Record")


def read_shipped(path: Path, cure: str) -> bytes:
    """The content of a file that comes with the package. Raises BrokenFileError naming it and the cure."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenFileError(f"cannot read {path}: {error.strerror}; reinstall the package, or {cure}") from error


def decode_versioned(
    content: bytes, kind: type[_Record], what: str, *, version: int, most_bytes: int, cure: str
) -> _Record:
    """Decode JSON as a record that has a `schema_version`. `what` names the file in messages, such as "profile x.json".

    Raises BrokenFileError naming the file, the place and the cure.
    """
    if len(content) > most_bytes:
        raise BrokenFileError(f"{what} has {len(content)} bytes, limit {most_bytes}: is it a profile?")
    try:
        record: Any = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BrokenFileError(f"{what}: {error}; {cure}") from error
    if record.schema_version != version:
        raise BrokenFileError(f"{what}: version {record.schema_version}, this is {version}; {cure}")
    found: _Record = record
    return found
