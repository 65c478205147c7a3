"""Starts what measures: a child process that runs `bench/__main__.py` by its absolute path.

`bench` and `kernels` are names that other packages have, too, so `advisor` never imports them: the child puts their
folder first on its own `sys.path` and leaves the environment as it is, so that nothing leaks to what it starts. With
`python -m bench` a user's own `bench.py` in the current folder would run instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from advisor.errors import AdvisorError
from advisor.signals import heard


class WorkerError(AdvisorError):
    """The child failed: its last line on stderr, and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def worker_script() -> Path:
    """Absolute path of `bench/__main__.py`: inside this package (a wheel), or beside it (a checkout).

    Raises WorkerError where neither is there. A folder `bench` beside an installed package is somebody else's.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_worker" / "bench" / "__main__.py"
    if installed.is_file():
        return installed
    checkout = package.parent / "bench" / "__main__.py"
    if checkout.is_file() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise WorkerError(f"{installed} is missing, which is what measures: install batchwave anew", 6)


def worker_command(*arguments: str) -> list[str]:
    """Command line of a child that runs `bench` with these arguments, in any current folder."""
    return [sys.executable, str(worker_script()), *arguments]


def _child_command(arguments: Sequence[str]) -> list[str]:
    """Command line of a child that ends with this process and begins its errors with "advisor:"."""
    return worker_command("--parent", str(os.getpid()), *arguments)


def run_worker(*arguments: str) -> int:
    """Run a child on this terminal: stdin, stdout and stderr are its own. Return its exit code, 128 + n for signal n.

    SIGINT, SIGTERM and SIGHUP are passed on and the child is waited for, so that it closes its records itself; one that
    is ignored here (`nohup`) stays ignored there.
    """
    with subprocess.Popen(_child_command(arguments)) as child:

        def pass_on(number: int, _frame: FrameType | None) -> None:
            if child.poll() is None:  # a terminal sends SIGINT to both of us, so it may get that twice at once
                child.send_signal(number)

        with heard(("SIGINT", "SIGTERM", "SIGHUP"), pass_on):
            code = child.wait()
    return code if code >= 0 else 128 - code


def ask_worker(*arguments: str) -> Any:
    """Run a child that prints JSON, and return it parsed. Its notes go to our stderr.

    Raises WorkerError, with the child's exit code and last line, where it fails or prints something else.
    """
    done = subprocess.run(
        _child_command(arguments), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"`bench {' '.join(arguments)}` ended without a word"])[-1]
        code = done.returncode if done.returncode > 0 else 128 - done.returncode
        raise WorkerError(last.removeprefix("advisor: "), code)
    sys.stderr.write(done.stderr)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise WorkerError(f"`bench {' '.join(arguments)}` printed no JSON: {done.stdout[:80]!r}", 1) from None
