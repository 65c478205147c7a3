"""A child that does not outlive the process that started it. Standard library only, and light to import."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

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
