"""The child that records a live profile: builds a model, runs its steps under torch.profiler, writes the trace.

Run by its absolute path, `child.py --parent PID`, by `advisor.profiling.live.record`. In, one line of JSON on
stdin: model, file, input_shape, seq_len, batch, recipe, steps, device, to (a path in a folder that goes with this
process). Out, on a private pipe: {"progress": text}, {"error": {"message", "exit_code"}}, {"done": facts}.

Neither the current folder nor the checkout gets onto the path of a library's model: Transformers imports a package
`kernels` that is not ours. The current folder is added for package.module:factory alone, by `sources.from_factory`.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # `advisor` comes from the folder it is in, whatever is on the path
    _here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - pathlib waits for this path
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this folder
    _package = os.path.dirname(os.path.dirname(_here))  # noqa: PTH120
    _root = os.path.dirname(_package)  # noqa: PTH120
    if os.path.isfile(_root + "/bench/__main__.py") and os.path.isfile(_root + "/pyproject.toml"):  # noqa: PTH113
        sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != _root]
    import importlib.util

    _spec = importlib.util.spec_from_file_location("advisor", _package + "/__init__.py")
    assert _spec is not None and _spec.loader is not None
    sys.modules["advisor"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["advisor"])

import gzip
import json
import shutil
import signal
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from advisor.errors import AdvisorError, BadInputError, DoesNotFitError, MissingDependencyError, NoGpuError, TraceError
from advisor.parent import end_with, one_line, private_pipe, say
from advisor.recipe import Recipe
from advisor.units import counted, duration

if TYPE_CHECKING:
    from advisor.profiling.live.step import Settled, Step
    from advisor.workload.sources import Source

METADATA_KEY = "batchwave"  # in the trace's head
SCHEMA_VERSION = 1
_GZIP_LEVEL = 4  # the default takes several times as long for a twentieth less
_CHUNK = 1 << 20
_OUT_OF_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
_NO_KERNELS = (
    "the profiler recorded no GPU kernel, as CUPTI gave it none: end other profilers and monitors of this GPU (nsys, "
    "ncu, DCGM's profiling metrics); in a container add the capability SYS_ADMIN, or have the driver loaded with "
    "NVreg_RestrictProfilingToAdminUsers=0; under WSL 2 switch on GPU performance counters for all users in Windows"
)

Say = Callable[[str], None]


def main(argv: list[str] | None = None) -> int:
    """Record what the request on stdin asks for; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    request = json.loads(sys.stdin.readline())
    folder = Path(request["to"]).parent
    signal.signal(signal.SIGTERM, lambda *_: _end(folder))
    if argv[:1] == ["--parent"]:
        end_with(int(argv[1]), signal.SIGTERM)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a model that reads stdin gets its end
    warnings.simplefilter("ignore")
    with private_pipe() as events:
        try:
            say(events, done=record(request, lambda text: say(events, progress=text)))
        except AdvisorError as error:
            say(events, error={"message": str(error), "exit_code": error.exit_code})
            return error.exit_code
    return 0


def _end(folder: Path) -> NoReturn:
    """The parent is gone, and cannot remove what is half written."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


def record(request: dict[str, Any], tell: Say) -> dict[str, Any]:
    """Build, settle, time, profile; return the facts that the trace's head has, too.

    Raises NoGpuError, MissingDependencyError and BadInputError before anything runs; DoesNotFitError out of memory,
    TraceError where the model raises, AdvisorError where the profiler saw no kernel.
    """
    name, batch, device = request["model"], request["batch"], request["device"]
    recipe = Recipe(**request["recipe"])
    _check_device(device)
    tell(f"building {name}")
    source = _build(request)
    try:
        return _record(source, recipe, request, tell)
    except AdvisorError as error:
        if isinstance(error, TraceError):
            raise TraceError(f"model {name!r} cannot be profiled: {error}") from error
        raise
    except BaseException as error:  # a model may raise anything
        if isinstance(error, KeyboardInterrupt):
            raise
        text = one_line(error)
        if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
            raise DoesNotFitError(f"{name} at batch {batch} does not fit {_memory(device)}: out of memory") from error
        what = f"{type(error).__name__}: {text}".rstrip(": .")
        raise TraceError(
            f"model {name!r} failed in a step at batch {batch}: {what}; check the input shape "
            f"({'x'.join(map(str, source.input_shape))}), and that forward and backward run on one device"
        ) from error


def _record(source: Source, recipe: Recipe, request: dict[str, Any], tell: Say) -> dict[str, Any]:
    from advisor.profiling.live import step as live

    to, steps = Path(request["to"]), request["steps"]
    live.configure(recipe)
    step = live.Step(source, recipe, batch=request["batch"], device=request["device"])
    on_gpu = step.device.type == "cuda"
    tell(f"warming up: {recipe.describe(layout=step.layout)}")
    settled = live.settle(step, step.synchronize, least_s=live.SETTLE_S if on_gpu else 0, limit_s=live.SETTLE_LIMIT_S)
    before, times_s = step.scale(), list[float]()
    peaks = live.peak_memory(step, lambda: times_s.extend(live.time_steps(step, steps)))
    if step.scale() < before:
        step.notes.append("GradScaler skipped steps: gradients overflowed")
    facts = _facts(step, source, request, settled, times_s, peaks)
    tell(f"recording {counted(steps, 'step')} of {duration(statistics.median(times_s))} without the profiler")

    def in_head(profiled_s: list[float]) -> dict[str, str]:
        facts["profiled_step_s"] = profiled_s
        return {METADATA_KEY: json.dumps(facts)}

    plain = to.with_name("trace.json")
    live.profile_steps(step, steps, lambda profiler: profiler.export_chrome_trace(str(plain)), in_head)
    tell("writing the trace")
    if not _keep(plain, to) and on_gpu:
        raise AdvisorError(_NO_KERNELS)
    return facts


def _facts(
    step: Step, source: Source, request: dict[str, Any], settled: Settled, times_s: list[float],
    peaks: tuple[int | None, int | None],
) -> dict[str, Any]:  # fmt: skip
    """What the trace itself does not say. Seconds and bytes; None: not known on a processor."""
    import torch

    from advisor.profiling.live.step import device_name

    return {
        "schema_version": SCHEMA_VERSION,
        "model": request["model"],
        "batch": request["batch"],
        "input_shape": list(source.input_shape),
        "recipe": {**asdict(step.recipe), "layout": step.layout},
        "device": device_name(step),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,  # type: ignore[no-untyped-call]
        "warm_up": asdict(settled),
        "unprofiled_step_s": times_s,
        "allocated_peak_bytes": peaks[0],
        "reserved_peak_bytes": peaks[1],
        "notes": step.notes,
    }


def _keep(plain: Path, to: Path) -> bool:
    """Move the exported JSON to where it is kept, compressed if named so; return whether it has a kernel."""
    sign, tail, found = b'"cat": "kernel"', b"", False
    with (
        plain.open("rb") as exported,
        gzip.open(to, "wb", _GZIP_LEVEL) if to.suffix == ".gz" else to.open("wb") as kept,
    ):
        while chunk := exported.read(_CHUNK):
            kept.write(chunk)
            seen = tail + chunk
            found = found or sign in seen
            tail = seen[-len(sign) :]
    plain.unlink()
    return found


def _check_device(device: str) -> None:
    """Raises MissingDependencyError without torch, NoGpuError where it has no such GPU."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("to run steps takes PyTorch: pip install 'batchwave[torch]'") from error
    except Exception as error:  # a broken installation raises whatever it likes
        raise AdvisorError(f"PyTorch cannot be imported: {one_line(error)}; reinstall it") from error
    if not device.startswith("cuda"):
        return
    way_out = "record a trace where there is one, and give its file: advisor profile TRACE"
    if torch.version.cuda is None:
        built = "AMD" if getattr(torch.version, "hip", None) else "processors only"
        raise NoGpuError(f"PyTorch {torch.__version__} is built for {built}: install its CUDA build; or {way_out}")
    if not torch.cuda.is_available():
        raise NoGpuError(f"PyTorch finds no usable NVIDIA GPU here: see `advisor doctor`; or {way_out}")
    index, count = torch.device(device).index or 0, torch.cuda.device_count()
    if index >= count:
        raise NoGpuError(f"there is no {device}: CUDA sees {count} GPU(s), numbered from 0")
    torch.cuda.set_device(index)


def _build(request: dict[str, Any]) -> Source:
    """The module with initial values, on the processor."""
    from advisor.workload import sources

    shape = None if request["input_shape"] is None else tuple(request["input_shape"])
    library, _, name = request["model_source"].partition(":")
    if library in sources.BUILDERS:
        return sources.BUILDERS[library](name, shape, request["seq_len"], values=True)
    if library != "file":
        return sources.from_factory(library, name, shape, request["seq_len"], values=True)
    path, _, factory = name.rpartition(":")
    spec = spec_from_file_location("advisor_model", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise BadInputError(f"{path} is missing: install batchwave anew")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return sources.from_module(getattr(module, factory)(), shape, request["seq_len"], origin=request["model"])


def _memory(device: str) -> str:
    """The device and its memory, for a message."""
    import torch

    if not device.startswith("cuda"):
        return "this machine's memory"
    try:
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        return (
            f"{torch.cuda.get_device_name()} ({total / 2**30:.1f} GiB, {others / 2**30:.1f} GiB of it not for tensors)"
        )
    except Exception:  # of a context that an error has broken
        return device


if __name__ == "__main__":
    sys.exit(main())
