"""Imports a framework once, then runs scripts in processes forked from itself: a job a line, its exit codes a line."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from typing import Any


def start(job: dict[str, Any], rank: int) -> int:
    """A process of a job, as torchrun would start it where there are several; its id."""
    child = os.fork()
    if child:
        return child
    signal.alarm(job["limit_s"])
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    if job["processes"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["processes"]))
    output = os.open(f"output{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, job["folder"])
    sys.argv = [job["script"]]
    code = 0
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for module in sys.argv[1:]:
    importlib.import_module(module)
for line in sys.stdin:
    given = json.loads(line)
    children = [start(given, number) for number in range(given["processes"])]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
