"""One regular step of a trace as operations of a workload, and the time that was measured for the kernels of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.profiling.advice.parameters import ACCUMULATE, Parameters
from advisor.profiling.advice.scaling import Scaling, flat_shapes
from advisor.profiling.advice.workload import op_of
from advisor.profiling.kernels.classes import class_by_name
from advisor.profiling.kernels.device import busiest_device
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.names import is_communication
from advisor.profiling.raw import Floats, RawTrace
from advisor.profiling.records import Operation
from advisor.profiling.steps.intervals import named
from advisor.workload.schema import Op

Fate = Literal["modelled", "growing", "optimizer", "communication", "other"]
_EXCHANGES = re.compile(r"all_?to_?all|send_?recv|::send|::recv", re.IGNORECASE)


@dataclass(frozen=True)
class TracedStep:
    """The operations of one forward and backward pass at the traced batch, in order of first execution.

    Seconds are of one pass: of a regular step, over the passes whose gradients it accumulates.
    """

    batch: int
    passes: int  # backward passes per step
    ops: tuple[Op, ...]  # of forward and backward, as far as the time model knows them
    op_s: Floats  # of all calls of each of `ops`
    growing_s: float  # of kernels of forward and backward that the model does not know: taken to grow with the batch
    constant_s: dict[str, float]  # "optimizer", "communication", "other": taken not to grow
    doubtful_s: float  # of `op_s`: which size grows was guessed
    kernels: float

    @property
    def unknown_share(self) -> float:
        """Of the kernels' time: that of kernels without a known operator, and of exchanged activations."""
        return self.growing_s / max(self.kernel_s, 1e-12)

    @property
    def kernel_s(self) -> float:
        """Of all kernels."""
        return float(self.op_s.sum()) + self.growing_s + sum(self.constant_s.values())


class _Measured(NamedTuple):
    seconds: float
    kernels: float
    calls: float


def traced_step(raw: RawTrace, links: Links, steps: StepSpans, batch: int, parameters: Parameters) -> TracedStep:
    """Sort the kernels of the regular steps (of the whole trace, where it has none) by their operations."""
    scaling = Scaling(batch, frozenset(parameters.shapes))
    chosen = _kernels(raw, steps)
    wires = _communication(raw, links, chosen)
    chosen = chosen & ~wires.constant & ~wires.growing
    share = 1 / (max(1, len(steps.regular)) * parameters.passes)
    measured = _measured(raw, links, chosen, share)
    ops: list[Op] = []
    op_s: list[float] = []
    seconds: dict[Fate, float] = dict.fromkeys(("growing", "optimizer", "communication", "other"), 0.0)
    seconds["communication"] += float(raw.kernels.duration_us[wires.constant].sum()) * 1e-6 * share
    seconds["growing"] += float(raw.kernels.duration_us[wires.growing].sum()) * 1e-6 * share
    seconds["growing"] += float(raw.kernels.duration_us[chosen & (links.operation < 0)].sum()) * 1e-6 * share
    doubtful = 0.0
    for index in _in_order(links, chosen):
        operation, found = links.operations[index], measured[index]
        op = None
        if (fate := _fate(operation)) == "modelled":
            op = _op(operation, found, batch, scaling)
        if op is None:
            seconds["growing" if fate == "modelled" else fate] += found.seconds
            continue
        ops.append(op)
        op_s.append(found.seconds)
        doubtful += found.seconds if scaling.doubtful(operation) else 0.0
    growing = seconds.pop("growing")
    return TracedStep(
        batch=batch,
        passes=parameters.passes,
        ops=tuple(ops),
        op_s=np.array(op_s, dtype=float),
        growing_s=growing,
        constant_s={str(fate): s for fate, s in seconds.items()},
        doubtful_s=doubtful,
        kernels=float((chosen | wires.constant | wires.growing).sum()) * share,
    )


class _Wires(NamedTuple):
    """Kernels of communication: that of gradients, and of what grows with the batch."""

    constant: NDArray[np.bool_]
    growing: NDArray[np.bool_]


def _communication(raw: RawTrace, links: Links, chosen: NDArray[np.bool_]) -> _Wires:
    """By the kernels' names: of gradients, unless the forward pass or an exchange of activations says no."""
    wire, exchange = np.zeros_like(chosen), np.zeros_like(chosen)
    wire[named(raw, raw.kernels.name, lambda name: class_by_name(name) == "communication")] = True
    exchange[named(raw, raw.kernels.name, _EXCHANGES.search)] = True
    forward = np.array([operation.phase == "forward" for operation in links.operations] + [False], dtype=bool)
    exchanged = np.array([_EXCHANGES.search(operation.outer) is not None for operation in links.operations] + [False])
    wires = chosen & wire
    grows = exchange | forward[links.operation] | exchanged[links.operation].astype(bool)
    return _Wires(wires & ~grows, wires & grows)


def _kernels(raw: RawTrace, steps: StepSpans) -> NDArray[np.bool_]:
    """Kernels of the regular steps on the GPU with most kernel time."""
    kernels = raw.kernels
    chosen: NDArray[np.bool_] = kernels.device == busiest_device(raw)
    return chosen & np.isin(steps.kernel_step, steps.regular) if steps.names else chosen


def _measured(raw: RawTrace, links: Links, chosen: NDArray[np.bool_], share: float) -> list[_Measured]:
    """Per operation: seconds, kernels and calls of one pass."""
    known = chosen & (links.operation >= 0)
    count = len(links.operations)
    operation = links.operation[known]
    seconds = np.bincount(operation, weights=raw.kernels.duration_us[known] * 1e-6, minlength=count) * share
    kernels = np.bincount(operation, minlength=count) * share
    calls_of = np.unique(np.stack([operation, links.op[known]]), axis=1)[0]
    calls = np.bincount(calls_of, minlength=count) * share
    return [_Measured(*row) for row in np.stack([seconds, kernels, calls], axis=1).tolist()]


def _in_order(links: Links, chosen: NDArray[np.bool_]) -> list[int]:
    """The operations that the chosen kernels belong to, by their first kernel."""
    found, first = np.unique(links.operation[chosen], return_index=True)
    return [int(i) for i in found[np.argsort(first)] if i >= 0]


def _fate(operation: Operation) -> Fate:
    if is_communication(operation.name):  # what a collective launches beside its kernel
        return "growing" if operation.phase == "forward" else "other"
    if operation.phase == "optimizer" or operation.outer == ACCUMULATE:
        return "optimizer"
    if operation.product is None and _of_numbers(operation):
        return "other"  # counters, the loss
    return "modelled"


def _of_numbers(operation: Operation) -> bool:
    """Whether all arguments are recorded and none has a dimension; of lists of tensors old traces show nothing."""
    shapes = flat_shapes(operation.dims)
    return bool(shapes) and not any(shapes) and "TensorList" not in operation.types


def _op(operation: Operation, found: _Measured, batch: int, scaling: Scaling) -> Op | None:
    calls = max(1, round(found.calls))
    kernels = max(1, round(found.kernels / calls))
    op = op_of(operation, batch, scaling, kernels=kernels)
    if op is None:
        return None
    return msgspec.structs.replace(op, count=calls)
