"""A suite of tiny cases that succeed, fail, hang and crash on demand; its cases come from the environment."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from advisor.errors import NoGpuError
from bench.case import Case, Result, Timing

TIERS = "FAKE_SUITE_TIERS"
LOST = "FAKE_SUITE_LOST"  # a file: where it is there, the GPU is gone

if LOST in os.environ and Path(os.environ[LOST]).exists():
    raise NoGpuError("the GPU fell off the bus")


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError is called."""


def be_the_only_suite() -> None:
    """In a process that measures this suite and no real one."""
    from bench import suites

    suites.SUITES.clear()
    suites.SUITES["fake"] = __name__


@contextlib.contextmanager
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """A list of what was started; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def case(number: int, what: str = "ok", **more: Any) -> Case:
    return Case("fake", "fake", {"number": number, "what": what} | more)


def cases(options: Any) -> list[list[Case]]:
    return [[case(**params) for params in tier] for tier in json.loads(os.environ[TIERS])]


def run(case: Case, context: Any) -> Result:
    what, _, argument = str(case.params["what"]).partition(" ")
    if what in _ACTIONS:
        _ACTIONS[what]()
    if what == "sleep":
        time.sleep(float(argument))
    if what == "skip":
        return Result("skipped", reason="needs 99 GiB, 1 GiB is free")
    second_s = float("nan") if what == "nan" else 1.1e-3
    quality: Any = "noisy" if what == "noisy" else "good"
    return Result("ok", timing=Timing((1e-3, second_s), 1, "warm", graph=False, quality=quality))


def _raise(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def _abort() -> None:
    print("libfake: GPU-01234567-89ab-cdef-0123-456789abcdef fell off the bus 0000:65:00.0", file=sys.stderr)
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGABRT)


def _fork() -> None:
    if os.fork() == 0:  # this one keeps the pipe open
        time.sleep(600)
    os._exit(4)


def _lose() -> None:
    Path(os.environ[LOST]).touch()
    os._exit(3)


def _print() -> None:
    print('{"result": "a library that prints"}', flush=True)
    os.write(1, b"written below Python\n")


_ACTIONS: dict[str, Callable[[], Any]] = {
    "raise": _raise(ValueError("K must be 8 or more\nand a second line")),
    "oom": _raise(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "broken": _raise(RuntimeError("CUDA error: an illegal memory access was encountered")),
    "abort": _abort,
    "lose": _lose,
    "exit": lambda: os._exit(3),
    "fork": _fork,
    "triton": lambda: importlib.import_module("triton"),
    "print": _print,
    "hang": lambda: time.sleep(600),
}
