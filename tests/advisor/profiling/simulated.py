"""Traces as torch.profiler writes them today, of training that no GPU ran: real operators, made-up kernels.

`record` runs a small model on the CPU and keeps what its operators are: nesting, shapes, values, sequence numbers.
Every size that it meets may stand for a larger one, so that a model of a few hundred parameters has the shapes of a
real one. `simulate` then lays a host and a GPU on that, by the law of `simulated_kernels.Gpu`:

- an operator costs the host `op_us`, a launch `launch_us`, and what `host_us` says of its name;
- backward nodes run on a thread of their own; a kernel starts `LATENCY_US` after its launch, or its stream is free;
- a copy to the host makes the host wait for the GPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.advisor.profiling.simulated_kernels import Gpu, Kernel, kernels_of
from tests.advisor.profiling.simulated_operators import Node, as_on_cuda

LATENCY_US = 4.0
COMPUTE, COMMUNICATION = 7, 20  # streams
_MAIN, _AUTOGRAD = 4242, 4300  # threads
_KEPT = ("Input Dims", "Input type", "Concrete Inputs", "Sequence number", "Fwd thread id")
_NUMBER = re.compile(r"\d+")
_LEAST_SIZE = 11  # values of arguments below are strides and the like, and stand for themselves


def record(step: Callable[[int], object], path: Path, *, steps: int = 2, sizes: Mapping[int, int] | None = None,
           half: str = "c10::BFloat16", marks: bool = True) -> tuple[Node, ...]:  # fmt: skip
    """What `step(i)` runs, called `steps` times after one to warm up. `half`: the type its BF16 stands for."""
    from torch.profiler import ProfilerActivity, profile, schedule

    plan = schedule(wait=0, warmup=1, active=steps) if marks else None
    if not marks:
        step(0)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, schedule=plan) as profiler:
        for i in range(steps + marks):
            step(i)
            if i < steps + marks - 1:
                profiler.step()
    profiler.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    return tuple(_tree([e for e in events if e.get("cat") in ("cpu_op", "user_annotation")], sizes or {}, half))


def _tree(events: list[dict[str, Any]], sizes: Mapping[int, int], half: str) -> list[Node]:
    top: list[Node] = []
    open_: list[tuple[float, Node]] = []
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        while open_ and event["ts"] > open_[-1][0] - 5e-4:  # nanoseconds, as inexact sums
            open_.pop()
        args = {key: value for key, value in event["args"].items() if key in _KEPT}
        args = json.loads(json.dumps(args).replace("c10::BFloat16", half))
        if "Input Dims" in args:
            args["Input Dims"] = _resized(args["Input Dims"], sizes)
            args["Concrete Inputs"] = [_resized(text, sizes) for text in args["Concrete Inputs"]]
        node = Node(event["name"], event["cat"], args)
        (open_[-1][1].children if open_ else top).append(node)
        open_.append((event["ts"] + event["dur"], node))
    return top


def _resized(value: Any, sizes: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [_resized(item, sizes) for item in value]
    if isinstance(value, str):
        return _NUMBER.sub(lambda n: str(sizes.get(int(n[0]), n[0])) if int(n[0]) >= _LEAST_SIZE else n[0], value)
    return sizes.get(value, value)


@dataclass
class Simulation:
    """A trace under construction: two clocks, in microseconds."""

    gpu: Gpu
    parameters: Sequence[int]  # elements of each
    op_us: float
    launch_us: float
    host_us: Mapping[str, float]
    collective: Callable[[int, float], float]
    now: float = 1000.0
    free: dict[int, float] = field(default_factory=lambda: {COMPUTE: 0.0, COMMUNICATION: 0.0})
    events: list[dict[str, Any]] = field(default_factory=list)
    kernels: list[tuple[Kernel, Node]] = field(default_factory=list)
    collectives: list[float] = field(default_factory=list)  # when each began
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**9)))

    def run(self, node: Node, thread: int = _MAIN) -> None:
        """One operator with all inside of it."""
        if node.name.startswith("autograd::engine::evaluate_function"):
            thread = _AUTOGRAD
        begin, place = self.now, len(self.events)
        self.now += self.op_us + sum(us for part, us in self.host_us.items() if part in node.name)
        external = next(self._ids)
        if node.joins:
            self.free[COMPUTE] = max(self.free.values())
        for child in node.children:
            self.run(child, thread)
        self._launch_all(node, kernels_of(node, self.gpu, self.parameters), external, thread)
        self.now += 0.1
        if not node.category:
            return
        args = {"External id": external, **node.args}
        self.events.insert(place, _event(node.category, node.name, begin, self.now - begin, 4242, thread, args))

    def synchronize(self) -> None:
        """What the profiler does before it stops."""
        self._call("cudaDeviceSynchronize", 0, next(self._ids), _MAIN, until=max(self.free.values()))

    def _launch_all(self, node: Node, kernels: Sequence[Kernel], external: int, thread: int) -> None:
        correlation = None
        for kernel in kernels:
            if correlation is None or not node.is_graph:
                correlation = next(self._ids)
                self._call(kernel.launch if not node.is_graph else "cudaGraphLaunch", external, correlation, thread)
            self._on_gpu(kernel, node, external, correlation)
            if kernel.waits:
                self._call("cudaStreamSynchronize", external, next(self._ids), thread, until=self.free[COMPUTE])

    def _call(self, name: str, external: int, correlation: int, thread: int, *, until: float = 0.0) -> None:
        category = "cuda_runtime" if name.startswith("cuda") else "cuda_driver"
        args = {"External id": external, "cbid": 211, "correlation": correlation}
        begin, self.now = self.now, max(self.now + self.launch_us, until)
        self.events.append(_event(category, name, begin, self.now - begin, 4242, thread, args))

    def _on_gpu(self, kernel: Kernel, node: Node, external: int, correlation: int) -> None:
        stream = COMMUNICATION if kernel.communicates else COMPUTE
        start = max(self.now - self.launch_us + LATENCY_US, self.free[stream] + 1)
        duration = kernel.us
        if kernel.communicates:
            start = max(start, self.free[COMPUTE])  # what it sends has to be there
            duration = self.collective(len(self.collectives), start)
            self.collectives.append(start)
        self.free[stream] = start + duration
        self.kernels.append((replace(kernel, us=duration), node))
        common = {"External id": external, "device": 0, "context": 1, "stream": stream, "correlation": correlation}
        category, args = kernel.event(self.gpu)
        self.events.append(_event(category, kernel.name, start, duration, 0, stream, common | args))

    def document(self, rank: int | None, world_size: int) -> dict[str, Any]:
        """The whole file."""
        top: dict[str, Any] = {"schemaVersion": 1, "deviceProperties": [dict(self.gpu.properties)],
                               "cuda_runtime_version": 12080, "cuda_driver_version": 12080}  # fmt: skip
        if rank is not None:
            top["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": world_size}
        return {**top, "traceEvents": self.events, "traceName": "trace.json"}


def simulate(
    nodes: Sequence[Node],
    gpu: Gpu,
    path: Path,
    *,
    op_us: float = 0.2,
    launch_us: float = 2.0,
    host_us: Mapping[str, float] | None = None,
    collective: Callable[[int, float], float] = lambda index, start: 100.0,
    rank: int | None = None,
    world_size: int = 2,
) -> Simulation:
    """Run operators on a made-up host and GPU, and write the trace to `path`; returns what happened."""
    simulation = Simulation(gpu, parameter_sizes(nodes), op_us, launch_us, host_us or {}, collective)
    for node in as_on_cuda(nodes):
        simulation.run(node)
    simulation.synchronize()
    path.write_text(json.dumps(simulation.document(rank, world_size)))
    return simulation


def parameter_sizes(nodes: Iterable[Node]) -> tuple[int, ...]:
    """Elements of each parameter, in the order of the first backward pass."""
    sizes: list[int] = []
    for node in (child for step in nodes for child in (step.children if step.name.startswith("Prof") else [step])):
        found = [math.prod(part.dims[0]) for part in node.within() if part.name == "torch::autograd::AccumulateGrad"]
        if sizes and node.name.startswith("aten::"):
            break
        sizes += found
    return tuple(sizes)


def _event(
    category: str, name: str, start: float, duration: float, pid: int, thread: int, args: Mapping[str, Any]
) -> dict[str, Any]:
    """Times in whole nanoseconds, so that what ends together still does."""
    begin, end = round(start, 3), round(start + duration, 3)
    return {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": thread, "ts": begin,
            "dur": round(end - begin, 3), "args": dict(args)}  # fmt: skip
