"""What a child owes the process that started it: to end with it, and a pipe for events alone.

Standard library only, and light to import.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int, signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, however it does (Linux; elsewhere nothing).

    `parent` is the process id of the one that started this process; SystemExit where that one is gone already.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        raise SystemExit(1)


@contextlib.contextmanager
def private_pipe() -> Iterator[TextIO]:
    """Keep what was stdout for the events alone, and point stdout at stderr: for Python, for C and for children."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as events:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield events


def say(events: TextIO, **event: Any) -> None:
    """Send one event: a line of JSON."""
    events.write(json.dumps(event, separators=(",", ":")) + "\n")
    events.flush()


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error that says something; empty where none does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "")[:limit]
