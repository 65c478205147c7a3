"""How many passes of forward and backward a step of a trace holds, and whether a trace without steps is one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from math import gcd

import numpy as np
from numpy.typing import NDArray

from advisor.profiling.advice.scaling import bare_name, flat_shapes
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.raw import RawTrace
from advisor.profiling.records import Operation

_TRAINS = frozenset({"backward", "optimizer"})
_EMBEDDINGS = frozenset({"embedding", "_embedding_bag"})


def count_passes(raw: RawTrace, links: Links, steps: StepSpans) -> int:
    """Passes in one regular step (in the whole trace, where it has no steps); 1 where nothing shows that it has more.

    In training each pass is a forward part with a backward part behind it, and all launch the same operators: segments
    that checkpointing computes again are not passes. In inference a pass is what repeats from a layer that cannot
    follow on the last one (twelve equal layers are one pass).
    """
    calls = _calls(raw, links, _of_one_step(links, steps))
    blocks = _forward_blocks(calls)
    if any(call.phase == "backward" for call in calls):
        alike = [Counter(call.name for call in block) for block in blocks]
        return len(blocks) if blocks and all(block == alike[0] for block in alike) else 1
    return _repeats([call for call in calls if call.phase == "forward"])


def is_one_step(raw: RawTrace, links: Links) -> bool:
    """Whether a trace in which no steps were found plainly is a single one.

    That is: each optimizer it names made one step, and nothing goes forward behind it; or it names none, and the
    model's first layer ran once.
    """
    calls = _calls(raw, links, links.operation >= 0)
    layers = [key for call in calls if call.phase == "forward" and (key := _key(call)) is not None]
    if not layers:
        return False
    is_update = np.array([name.startswith("Optimizer.step#") for name in raw.names], dtype=bool)
    updates = np.flatnonzero(is_update[raw.ops.name])
    if len(updates):
        behind = links.op[(links.op >= 0) & (links.operation >= 0)]
        behind = behind[raw.ops.start_us[behind] > raw.ops.start_us[updates].max()]
        once = len(np.unique(raw.ops.name[updates])) == len(updates)
        of_model = _calls(raw, links, np.isin(links.op, behind))
        return once and not any(call.phase == "forward" and _key(call) for call in of_model)
    if any(call.phase == "optimizer" for call in calls) or len(_forward_blocks(calls)) > 1:
        return False
    return layers.count(layers[0]) == 1


def _of_one_step(links: Links, steps: StepSpans) -> NDArray[np.bool_]:
    return steps.kernel_step == steps.regular[0] if steps.regular else np.ones(len(links.operation), dtype=bool)


def _calls(raw: RawTrace, links: Links, chosen: NDArray[np.bool_]) -> list[Operation]:
    """The operators that launched the chosen kernels, each call once, in the order of the host."""
    known = chosen & (links.operation >= 0) & (links.op >= 0)
    rows, first = np.unique(links.op[known], return_index=True)
    order = np.argsort(raw.ops.start_us[rows], kind="stable")
    return [links.operations[i] for i in links.operation[known][first][order].tolist()]


def _forward_blocks(calls: Sequence[Operation]) -> list[list[Operation]]:
    """What goes forward, apart where something backward or of the optimizer lies between."""
    blocks: list[list[Operation]] = []
    closed = True
    for call in calls:
        if call.phase == "forward":
            if closed:
                blocks.append([])
            blocks[-1].append(call)
            closed = False
        elif call.phase in _TRAINS:
            closed = True
    return blocks


def _repeats(calls: Sequence[Operation]) -> int:
    """How many times the same calls come in turn, beginning with one that cannot follow on the last."""
    count = reduce(gcd, Counter(map(id, calls)).values(), 0)
    length = len(calls) // max(1, count)
    if count < 2 or any(call is not calls[i % length] for i, call in enumerate(calls)):
        return 1
    return 1 if _chains(calls[:length]) else count


def _chains(calls: Sequence[Operation]) -> bool:
    """Whether the first layer could take what the last one gives: as many features go in as come out."""
    layers = [call for call in calls if _key(call) is not None]
    if not layers or bare_name(layers[0].name) in _EMBEDDINGS:
        return False
    return _features(layers[0])[0] == _features(layers[-1])[1]


def _features(call: Operation) -> tuple[int, int]:
    """(in, out) of a layer; of an embedding (0, out)."""
    product = call.product
    if product is None:
        shapes = [shape for shape in flat_shapes(call.dims) if shape]
        return 0, shapes[0][-1] if shapes else 0
    if product.convolution is not None:
        return int(product.convolution.c_in), int(product.convolution.c_out)
    return product.k, product.n


def _key(call: Operation) -> tuple[object, ...] | None:
    """What tells a layer with weights from another, whatever batch it saw; None: it is none."""
    product = call.product
    if product is not None and product.kind in ("gemm", "conv"):
        taps = (product.convolution.filter_h, product.convolution.filter_w) if product.convolution is not None else ()
        return call.name, *_features(call), *taps
    if bare_name(call.name) in _EMBEDDINGS:
        shapes = [shape for shape in flat_shapes(call.dims) if shape]
        return call.name, *(shapes[0] if shapes else ())
    return None
