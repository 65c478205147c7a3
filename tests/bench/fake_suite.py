"""A suite of tiny cases that succeed, fail, hang and crash on demand; its cases come from the environment."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from bench.case import Case, Result, Timing

TIERS = "FAKE_SUITE_TIERS"


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError is called."""


def case(number: int, what: str = "ok") -> Case:
    return Case("fake", "fake", {"number": number, "what": what})


def cases(options: Any) -> list[list[Case]]:
    return [[case(**params) for params in tier] for tier in json.loads(os.environ[TIERS])]


def run(case: Case, context: Any) -> Result:
    what = str(case.params["what"])
    if what == "raise":
        raise ValueError("K must be 8 or more\nand a second line")
    if what == "oom":
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if what == "broken":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if what == "abort":
        print("libfake: GPU-01234567-89ab-cdef-0123-456789abcdef fell off the bus 0000:65:00.0", file=sys.stderr)
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGABRT)
    if what == "exit":
        os._exit(3)
    if what == "triton":
        import triton  # noqa: F401
    if what == "print":
        print('{"result": "a library that prints"}', flush=True)
        os.write(1, b"written below Python\n")
    if what == "hang":
        time.sleep(600)
    if what.startswith("sleep"):
        time.sleep(float(what.split()[1]))
    if what == "skip":
        return Result("skipped", reason="needs 99 GiB, 1 GiB is free")
    return Result(
        "ok", timing=Timing((1e-3, 1.1e-3), 1, "warm", graph=False, quality="noisy" if what == "noisy" else "good")
    )
