"""Runs snippets in child processes, each beside a small my_training.py, and trains the same on whole global batches."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    scales: list[Any]  # what its loss was scaled by, in each backward pass; of Keras, by which class


def runner(framework: str, *imports: str) -> Any:
    """A fixture, a `Runner` for the tests of a module: a server makes `imports` once for all of them."""

    @pytest.fixture(scope="module")
    def run() -> Iterator[Runner]:
        if not hasattr(os, "fork"):
            pytest.skip("snippets are run in forked processes")
        with subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), *imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=child_environment(framework),
        ) as server:  # fmt: skip
            yield Runner(framework, server)
            server.kill()

    return run


@dataclass(frozen=True)
class Runner:
    """Runs snippets of one framework in processes of its server."""

    framework: str
    server: subprocess.Popen[str]

    def __call__(
        self,
        plan: PlanAnswer,
        folder: Path,
        *,
        samples: int,
        fill: dict[str, float] | None = None,
        launched: bool = False,
    ) -> Ran:
        """Run the snippet of `plan`; what it marks FILL IN is set from `fill`, nothing else is changed.

        `launched`: by the command that the snippet names, instead of in the server's processes.
        """
        text = emit(plan, self.framework).text
        for name, value in (fill or {}).items():
            assert f"\n{name} = None  # FILL IN" in text
            text = text.replace(f"\n{name} = None  # FILL IN", f"\n{name} = {value!r}  # FILL IN")
        folder.joinpath("train.py").write_text(text, encoding="utf-8")
        mine = {"lightning": "torch"}.get(self.framework, self.framework)
        shutil.copy(HERE / f"training_{mine}.py", folder / "my_training.py")
        kind = "sequences" if plan.model.samples == "sequences" else "images"
        environment = {"SAMPLES": str(samples), "KIND": kind}
        if launched:
            self._launch(text.split("\n#     ")[1].split("\n")[0].split(), folder, environment)
        else:
            self.script("train.py", folder, processes=plan.planned.cut.gpus, environment=environment)
        return _read(folder)

    def script(self, name: str, folder: Path, *, processes: int = 1, environment: dict[str, str] | None = None) -> str:
        """Run a script of `folder`; what its first process printed. AssertionError where one fails."""
        environment = dict(environment or {})
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
        job = {
            "folder": str(folder), "script": name, "processes": processes, "environment": environment,
            "limit_s": LIMIT_S,
        }  # fmt: skip
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        codes = json.loads(self.server.stdout.readline())
        outputs = [folder.joinpath(f"output{rank}.txt").read_text() for rank in range(processes)]
        assert codes == [0] * processes, "\n".join(outputs)[-4000:]
        return outputs[0]

    def _launch(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        program = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}[command[0]]
        done = subprocess.run(
            [sys.executable, *program, *command[1:]], cwd=folder,
            env={**child_environment(self.framework), **environment}, capture_output=True, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]


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


def child_environment(framework: str) -> dict[str, str]:
    """Of a child on the processor alone, which finds what a user's my_training.py is made of."""
    site = () if framework == "keras" else (str(HERE / "site"),)  # the others, timm too, import torchvision
    return {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "PYTHONPATH": os.pathsep.join([".", *site, str(HERE), str(HERE.parents[3])]),
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
    exchanges = sum(kind == "exchange" for kind, _ in records[0])
    return Ran(folder, samples, rates, exchanges, [value for kind, value in records[0] if kind == "scale"])


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
