"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from advisor.errors import BadInputError


def discard_output() -> None:
    """Send what is left for stdout nowhere, where its reader or its disk is gone: the interpreter still flushes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, then rename over it: a reader sees the old file or the whole new one.

    A link keeps pointing where it does, and what is no regular file (a device, a pipe) is written to as it is.
    Raises BadInputError where the folder is missing or cannot be written.
    """
    handle, temporary = -1, ""
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                file.write(content)
            return
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise BadInputError(f"cannot write {path}: {error.strerror}; choose another place") from error
