"""Runs a snippet in child processes beside a small my_training.py, and trains the same on whole global batches."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advisor.planning.records import PlanAnswer
from advisor.planning.schedule import factor_at
from advisor.planning.snippets import emit

HERE = Path(__file__).parent
LIMIT_S = 120


@dataclass(frozen=True)
class Ran:
    """What the processes of a snippet did, optimizer step by step."""

    folder: Path
    samples: list[list[int]]  # the samples of each step, over all processes
    rates: list[float]
    exchanges: int  # of gradients, in the first process


def run(plan: PlanAnswer, framework: str, folder: Path, *, samples: int, fill: dict[str, float] | None = None) -> Ran:
    """Run the snippet of `plan`; what it marks FILL IN is set from `fill`, nothing else is changed."""
    text = emit(plan, framework).text
    for name, value in (fill or {}).items():
        assert f"\n{name} = None  # FILL IN" in text
        text = text.replace(f"\n{name} = None  # FILL IN", f"\n{name} = {value!r}  # FILL IN")
    folder.joinpath("train.py").write_text(text, encoding="utf-8")
    mine = {"lightning": "torch"}.get(framework, framework)
    shutil.copy(HERE / f"training_{mine}.py", folder / "my_training.py")
    shutil.copy(HERE / "recording.py", folder)
    shutil.copy(HERE / "training_torch.py", folder)
    if framework in ("lightning", "hf") or "timm" in text:  # these import torchvision
        shutil.copy(HERE / "sitecustomize.py", folder)
    gpus = plan.planned.cut.gpus
    kind = "sequences" if plan.model.samples == "sequences" else "images"
    command = [sys.executable, "train.py"]
    if gpus > 1 and framework in ("torch", "hf"):  # as the snippet's own comment has it
        launch = ["torchrun", "--standalone", f"--nproc-per-node={gpus}", "train.py"]
        assert " ".join(launch) in text
        command = [sys.executable, "-m", "torch.distributed.run", *launch[1:]]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**child_environment(), "SAMPLES": str(samples), "KIND": kind},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return _read(folder)


def expected_rates(plan: PlanAnswer, rate: float) -> list[float]:
    schedule = plan.planned.schedule
    assert schedule is not None
    return [rate * factor_at(schedule, step) for step in range(schedule.total_steps)]


def train_whole_batches(ran: Ran, optimizer: Any, *, samples: int, kind: str, rate_inside: bool = False) -> list[Any]:
    """The weights after the steps of `ran` in one process, each the mean over its whole global batch at once.

    `optimizer` makes one from the parameters; `rate_inside`: the rate is within the momentum, as Keras has it.
    """
    import torch  # only here: the others need no torch in this process

    os.environ["SAMPLES"], os.environ["KIND"] = str(samples), kind
    try:
        mine = runpy.run_path(str(HERE / "recording.py"))
    finally:
        del os.environ["SAMPLES"], os.environ["KIND"]
    import atexit

    atexit.unregister(mine["_write"])
    inputs, targets = (torch.from_numpy(array) for array in mine["make_data"]())
    inputs = inputs.flatten(1) if kind == "images" else inputs
    weights = [torch.nn.Parameter(torch.from_numpy(weight)) for weight in mine["make_weights"]()]
    kernel, bias, last_kernel, last_bias = weights
    made = optimizer(weights)
    for numbers, rate in zip(ran.samples, ran.rates, strict=True):
        outputs = torch.tanh(inputs[numbers] @ kernel + bias) @ last_kernel + last_bias
        loss = torch.nn.functional.cross_entropy(
            outputs.reshape(-1, mine["CLASSES"]), targets[numbers].reshape(-1), ignore_index=mine["IGNORED"]
        )
        loss.backward()
        made.param_groups[0]["lr"] = 1.0 if rate_inside else rate
        if rate_inside:
            for weight in weights:
                weight.grad *= rate
        made.step()
        made.zero_grad()
    return [weight.detach().numpy() for weight in weights]


def child_environment() -> dict[str, str]:
    """Of a child on the processor alone, which finds what was copied beside its script."""
    return {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "PYTHONPATH": os.pathsep.join([".", str(HERE.parents[3])]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "KERAS_BACKEND": "torch",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def _read(folder: Path) -> Ran:
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("record*.json"))]
    steps = [_steps(events) for events in records]
    assert len({len(s) for s in steps}) == 1
    samples = [[n for step in at_once for n in step[0]] for at_once in zip(*steps, strict=True)]
    rates = [step[1] for step in steps[0]]
    assert all(step[1] == rate for process in steps for step, rate in zip(process, rates, strict=True))
    return Ran(folder, samples, rates, sum(kind == "exchange" for kind, _ in records[0]))


def _steps(events: list[tuple[str, Any]]) -> list[tuple[list[int], float]]:
    found, numbers = [], []
    for kind, value in events:
        if kind == "saw":
            numbers += value
        elif kind == "step":
            found.append((numbers, value))
            numbers = []
    return found


def close(ours: list[Any], theirs: list[Any], *, within: float = 2e-6) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=within)
