"""A live profile: a child process runs steps of a model under torch.profiler, and its trace is kept.

This process imports no torch: what an error or an out-of-memory leaves of CUDA goes with the child, and a user's model
runs there alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advisor.child import Child, ChildEndedError, told
from advisor.errors import AdvisorError, BadInputError, DoesNotFitError
from advisor.recipe import Recipe, make_recipe

STEPS = 5  # in the trace
MOST_STEPS = 100
TIMEOUT_S = 900.0  # of the child, from its start to the written trace
SUFFIXES = (".json", ".json.gz")
_POLL_S = 0.5
_MOST_BATCH = 1 << 20

Say = Callable[[str], None]


def record_live(
    model: str,
    *,
    batch: int,
    keep: Path | None = None,
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    layout: str | None = None,
    precision: str | None = None,
    optimizer: str | None = None,
    mode: str | None = None,
    recipe: str = "default",
    steps: int = STEPS,
    device: str = "cuda",
    timeout_s: float = TIMEOUT_S,
    say: Say | None = None,
) -> Path:
    """Run steps of a model on this machine's GPU under torch.profiler; return the path of the kept Chrome trace.

    `model`: a name of the catalogue, "torchvision:NAME", "timm:NAME", "hf:NAME", or "package.module:factory", which is
    imported and run by the child; the libraries must be installed. `batch` samples on the one GPU; the recipe is as in
    `advisor.step.prepare`. `keep`: a new file, .json or .json.gz, or a folder; left out, a file in the current folder
    that is named after the run. `device` is "cuda", "cuda:N" or "cpu" (for trying the chain, in FP32 unless
    `precision` says otherwise; no kernels are recorded).
    Before it records, the child warms up until step times are steady, and times as many steps without the profiler:
    both times, peaks of memory, recipe and versions are in the trace's head under "batchwave". `say` gets a line of
    progress at a time.

    Raises BadInputError (before anything runs where `keep` exists or cannot be written), UnknownNameError,
    MissingDependencyError, NoGpuError, DoesNotFitError out of memory, TraceError where the model raises, AdvisorError
    where the profiler got no kernels, at the time limit, and where the child crashes.
    """
    if precision is None and device == "cpu":
        precision = "fp32"  # processors are slow in half precision, or have none
    chosen = make_recipe(recipe, layout=layout, precision=precision, optimizer=optimizer, mode=mode)
    source, shape, length = _source(model, input_shape, seq_len)
    request = {
        "model": model,
        "model_source": source,
        "input_shape": shape,
        "seq_len": length,
        "batch": _count("batch size", batch, _MOST_BATCH),
        "recipe": asdict(chosen),
        "steps": _count("number of steps", steps, MOST_STEPS),
        "device": _device(device),
    }
    target = _target(keep, model, batch, chosen)
    try:
        _record(request, target, timeout_s=timeout_s, say=say or (lambda _: None))
    except DoesNotFitError as error:
        known = ":" not in model and device != "cpu"
        raise DoesNotFitError(f"{error}; {_way_out(model, shape, length, chosen) if known else _SMALLER}") from error
    return target


_SMALLER = "try a smaller batch"


def _record(request: dict[str, Any], target: Path, *, timeout_s: float, say: Say) -> dict[str, Any]:
    """Have a child record into a folder beside the target, then move the trace there; return the child's facts."""
    with _folder_beside(target) as folder:
        to = folder / ("trace.pt" + (".json.gz" if target.name.endswith(".gz") else ".json"))
        facts = _ask_child({**request, "to": str(to)}, timeout_s, say)
        if target.exists():
            raise BadInputError(f"{target} came to exist in the meantime: give --keep another name")
        to.replace(target)
    return facts


def _ask_child(request: dict[str, Any], timeout_s: float, say: Say) -> dict[str, Any]:
    script = Path(__file__).resolve().with_name("child.py")
    deadline_s = time.monotonic() + timeout_s
    what = f"{request['model']} at batch {request['batch']}"
    with Child([sys.executable, str(script), "--parent", str(os.getpid())]) as child:
        child.send(request)
        while True:
            try:
                event = child.next_event(min(_POLL_S, deadline_s - time.monotonic()))
            except ChildEndedError as error:
                raise AdvisorError(f"{what}: {error}") from error
            if event is None and time.monotonic() >= deadline_s:
                raise AdvisorError(
                    f"{what} was not recorded within {timeout_s:g} s: try a smaller batch or fewer steps"
                )
            if event is None:
                continue
            if "error" in event:
                raise told(event["error"])
            if "done" in event:
                facts: dict[str, Any] = event["done"]
                return facts
            say(str(event.get("progress", "")))


def _source(
    model: str, input_shape: tuple[int, ...] | None, seq_len: int | None
) -> tuple[str, tuple[int, ...] | None, int | None]:
    """("library:name", one sample's shape, sequence length) of what is to be built; a catalogue's own size if none."""
    from advisor.worker import worker_script
    from advisor.workload.catalogue import check_sizes, load_workload

    check_sizes(input_shape, seq_len)
    if ":" in model:
        return model, input_shape, seq_len
    workload = load_workload(model)
    if input_shape is None and seq_len is None:
        of_tokens = len(workload.input_shape) == 1
        input_shape, seq_len = (None, workload.input_shape[0]) if of_tokens else (workload.input_shape, None)
    if workload.factory:
        return workload.factory, input_shape, seq_len
    if seq_len is not None:
        raise BadInputError(f"{model} takes images: give --input 1x256x256 instead of a sequence length")
    return f"file:{worker_script().with_name('unet.py')}:UNet", input_shape, seq_len  # no library has it


def _target(keep: Path | None, model: str, batch: int, recipe: Recipe) -> Path:
    """Where the trace is kept: a name that is free."""
    mode = "-infer" if recipe.mode == "infer" else ""
    name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', model).strip('-.')}-b{batch}-{recipe.precision}{mode}"
    if keep is not None and not keep.is_dir():
        if not keep.name.endswith(SUFFIXES):
            raise BadInputError(f"{keep} does not end in {' or '.join(SUFFIXES)}: name the trace so")
        if keep.exists() or keep.is_symlink():
            raise BadInputError(f"{keep} exists already: give --keep another name, or remove it")
        return keep
    folder = Path.cwd() if keep is None else keep
    taken = 1
    while (path := folder / f"{name}{'' if taken == 1 else f'-{taken}'}.pt.trace.json.gz").exists():
        taken += 1
    return path


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A folder of its own beside a file to be, which goes with all that is in it. BadInputError where none can be."""
    try:
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".batchwave-"))
    except OSError as error:
        raise BadInputError(f"cannot write {target}: {error.strerror}; choose another place with --keep") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _way_out(model: str, shape: tuple[int, ...] | None, length: int | None, recipe: Recipe) -> str:
    """The largest batch predicted to fit what is free on this GPU now."""
    from advisor.memory import largest_batch
    from advisor.step import prepare

    try:
        setup = prepare(
            model, gpu="local", layout=recipe.layout, precision=recipe.precision, optimizer=recipe.optimizer,
            mode=recipe.mode, recipe=recipe.name, input_shape=shape, seq_len=length,
        )  # fmt: skip
        if setup.memory_limit_bytes is None:
            return _SMALLER
        largest = largest_batch(
            setup.workload, gpu=setup.resolved_gpu.gpu, profile=setup.profile, recipe=setup.recipe,
            limit_bytes=setup.memory_limit_bytes, margin=setup.margin,
        )  # fmt: skip
    except AdvisorError:
        return _SMALLER
    if not largest:
        return "not even batch 1 is predicted to fit: free memory, or take a smaller model or input"
    return f"up to {largest} is predicted to fit"


def _device(name: str) -> str:
    if re.fullmatch(r"cpu|cuda(:\d{1,3})?", name) is None:
        raise BadInputError(f"unknown device {name!r}: it is cuda, cuda:0, cuda:1, ..., or cpu")
    return name


def _count(what: str, value: int, limit: int) -> int:
    from advisor.step import check_count

    return check_count(what, value, limit=limit)
