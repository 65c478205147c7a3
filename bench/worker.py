"""The child that measures one suite: cases in on stdin, events out on a private pipe, one line of JSON each.

`python bench/__main__.py worker --suite S --module M --device cuda:0|cpu [--smoke] --parent PID`, started by
`bench.session`. In: {"case": {...}}, {"reference": true}. Out: {"hello": environment}, {"ready": {"reference": ...}},
{"started": key}, {"result": ..., "key": ..., "restart": null|"fresh"|"broken"}, {"reference": ...},
{"error": {"message", "exit_code"}}. What anything in this process prints to stdout goes to stderr, so that it cannot
end up between the events. The child dies when its session does.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TextIO

from advisor.errors import AdvisorError
from advisor.parent import end_with, one_line, private_pipe, say
from bench.case import Case, Result

# Cheap enough for a processor; what is tried is the chain, not the times.
_SMOKE: dict[str, Any] = {
    "samples": 3, "most_samples": 5, "sample_s": 1e-5, "budget_s": 0.02, "settle_s": 0.01, "settle_limit_s": 0.05,
    "settle_window_s": 0.002,
}  # fmt: skip
# Of a failed case: what its message holds when no further CUDA call of this process can be trusted.
_BROKEN = ("cuda error", "illegal memory access", "device-side assert", "launch failure")
_OUT_OF_MEMORY = ("out of memory", "alloc_failed")


def main(argv: list[str] | None = None) -> int:
    """Measure the cases that arrive until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m bench worker", description="Started by `bench measure`.")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--module", required=True, help="module of the suite")
    parser.add_argument("--device", default="cuda:0", help="cuda:0 or cpu")
    parser.add_argument("--smoke", action="store_true", help="everything in miniature")
    parser.add_argument("--parent", type=int, default=0, help="process id of the session")
    options = parser.parse_args(argv)
    if options.parent:
        end_with(options.parent, signal.SIGKILL)
    with private_pipe() as events:
        try:
            _serve(options, events)
        except AdvisorError as error:
            say(events, error={"message": str(error), "exit_code": error.exit_code})
            return error.exit_code
    return 0


def _serve(options: argparse.Namespace, events: TextIO) -> None:
    from bench.device import environment, open_device
    from bench.suites import Context
    from bench.timer import Reference, TimerOptions, settle

    device = open_device(options.device)
    say(events, hello=environment(device))
    suite = importlib.import_module(options.module)
    timer = replace(TimerOptions(), **_SMOKE) if options.smoke else TimerOptions()
    size, call = _reference_product(options.device)
    settling = settle(device, call, timer)
    reference = Reference(device, [call], timer)
    cases = 0

    def read_reference() -> dict[str, Any]:
        timing = reference.read(cases)
        return {"size": size, "timing": asdict(timing), "after_cases": cases, "facts": reference.facts()}

    say(events, ready={"settling": settling.facts(), "reference": read_reference()})
    context = Context(device, timer, device.telemetry, smoke=options.smoke, torch_device=options.device)
    gc.collect()
    gc.freeze()  # what is imported stays: no collection between cases, or inside a sample, goes through it again
    for line in sys.stdin:
        message = json.loads(line)
        if "reference" in message:
            say(events, reference=read_reference())
            continue
        case = Case(**message["case"])
        say(events, started=case.key)
        result, restart = measure(suite, case, context)
        cases += 1
        say(events, key=case.key, result=asdict(result), restart=restart)


def _reference_product(torch_device: str) -> tuple[int, Callable[[], object]]:
    """The product that settles the clocks and tells drift: FP16, square, long enough to fill any GPU."""
    if torch_device == "cpu":
        import numpy as np

        small = np.random.default_rng(0).standard_normal((2, 128, 128), dtype=np.float32)
        return 128, lambda: small[0] @ small[1]
    import torch

    size = 4096
    numbers = torch.Generator(device=torch_device).manual_seed(0)
    a, b = (torch.randn(size, size, device=torch_device, generator=numbers).half() for _ in range(2))
    out = torch.empty_like(a)
    return size, lambda: torch.mm(a, b, out=out)


def measure(suite: Any, case: Case, context: Any) -> tuple[Result, str | None]:
    """Run one case; what goes wrong becomes a failed result with its reason.

    Beside it: None where the process can go on; "fresh" after an out-of-memory, whose leftovers would shrink what the
    next case finds; "broken" where CUDA can no longer be used in this process.
    """
    try:
        result: Result = suite.run(case, context)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a library may raise anything; the sweep goes on
        return _failure(error, context)
    return result, None


def _failure(error: BaseException, context: Any) -> tuple[Result, str | None]:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "triton":
        return Result("skipped", reason="Triton is not installed: pip install 'batchwave[torch]'"), None
    if isinstance(error, AdvisorError):
        return Result("failed", reason=str(error)), None
    kind, text = type(error).__name__, one_line(error)
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        return Result("failed", reason=f"out of memory: {text}"), "fresh"
    result = Result("failed", reason=f"{kind}: {text}" if text else kind)
    broken = kind == "AcceleratorError" or any(sign in text.lower() for sign in _BROKEN)
    error.__traceback__ = None
    gc.collect()
    try:  # an error of an earlier launch shows at the next synchronization
        context.device.synchronize()
    except Exception:
        broken = True
    return result, "broken" if broken else None
