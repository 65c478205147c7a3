"""The batch size, read from the shapes of a trace: which size most of the forward pass agrees on.

Convolutions, attention, embeddings of [batch, sequence] indices and linear layers over sequences all keep the batch as
a dimension of its own; each says what it sees, and counts with the GPU time of its kernels. Linear layers over plain
rows cannot tell a batch from batch times sequence, so they are asked last. Only the forward pass is asked: what a step
accumulates over several passes, no kernel sees.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.graphs import share_of_graphs, why_no_shapes
from advisor.profiling.raw import Ints, RawTrace
from advisor.profiling.records import BatchSize

_Kind = Literal["convolution", "attention", "embedding", "linear layer over a sequence", "linear layer", "bmm", "loss"]
_WHAT: dict[str, str] = {
    "convolution": "leading dimension of {n} convolutions",
    "attention": "leading dimension of the query of {n} attentions",
    "embedding": "leading dimension of the indices of {n} embeddings",
    "linear layer over a sequence": "leading dimension of {n} linear layers over sequences",
    "linear layer": "rows of {n} linear layers",
}
_SEQUENCE: _Kind = "linear layer over a sequence"
_MAJORITY = 0.5
_CONVOLUTION = re.compile(r"(^|_)conv(olution|\d|_transpose|_depthwise)").search
_LOSS = re.compile(r"^(nll_loss|cross_entropy|binary_cross_entropy|mse_loss|l1_loss|kl_div)").search
_FLASH = ("scaled_dot_product", "_flash_attention_forward", "_efficient_attention_forward", "flash_attn")


@dataclass(frozen=True)
class _Vote:
    """What calls of one kind and shape say: a size, with the GPU time behind it."""

    kind: _Kind
    value: int
    seconds: float
    calls: int
    shape: tuple[int, ...]
    first: int  # kernel, in order of time


def read_batch(raw: RawTrace, links: Links, steps: StepSpans) -> BatchSize:
    """The batch size per forward pass and per GPU, with its evidence; None where the shapes are missing or disagree.

    One regular step is asked, the one in the middle; without steps, or where that one shows no forward pass, all. A
    trace that `advisor profile --model` recorded says itself what it ran.
    """
    read = _read_shapes(raw, links, steps)
    if raw.recorded is None:
        return read
    ran = raw.recorded.batch
    shapes = "" if read.batch in (None, ran) else f"; its shapes look like {read.evidence}"
    return BatchSize(ran, f"{ran} per forward pass: what `advisor profile --model` ran{shapes}")


def _read_shapes(raw: RawTrace, links: Links, steps: StepSpans) -> BatchSize:
    if not (raw.ops.dims >= 0).any():
        return BatchSize(None, why_no_shapes(raw, links))
    forward = _forward_kernels(links)
    usual = steps.kernel_step[forward] == steps.regular[len(steps.regular) // 2] if steps.regular else forward >= 0
    votes = list(_votes(raw, links, forward[usual])) or list(_votes(raw, links, forward))
    votes = _batch_second(votes)
    telling = [vote for vote in votes if vote.kind not in ("linear layer", "bmm", "loss")]
    rows = [vote for vote in votes if vote.kind == "linear layer"]
    if not telling and not rows:
        nothing = "no convolution, attention, embedding or linear layer has shapes in the forward pass"
        return BatchSize(None, why_no_shapes(raw, links) if share_of_graphs(raw, links) > _MAJORITY else nothing)
    return _decide(telling, rows, votes)


def _decide(telling: list[_Vote], rows: list[_Vote], votes: list[_Vote]) -> BatchSize:
    asked = telling or rows
    seconds = _seconds(asked)
    ranked = sorted(seconds, key=lambda value: -seconds[value])
    value, folded = _agreed(asked, ranked, seconds)
    if value is None:
        return BatchSize(None, f"ambiguous: {_either(seconds, ranked)}")
    parts = [part for kind in _WHAT if (part := _counted(kind, telling + rows, value))]
    evidence = f"{value} per forward pass: {', '.join(parts)}"
    if any(vote.kind == _SEQUENCE and vote.shape[0] != vote.value == value for vote in telling):
        evidence += " (the second dimension of those that keep the sequence first)"
    if folded:
        evidence += f"; the others see multiples of it ({_either(seconds, ranked)})"
    elif len(ranked) > 1:
        others = [other for other in ranked if other != value]
        evidence += f"; they have {_share(seconds, value)} of the time, the others see {_either(seconds, others)}"
    if not telling:
        evidence += "; right if a row is a sample: nothing here tells a batch from batch x sequence"
    return BatchSize(value, evidence + _folded_rows(telling, rows, value) + _loss_sees(votes, value))


def _agreed(votes: list[_Vote], ranked: list[int], seconds: dict[int, float]) -> tuple[int | None, bool]:
    """What most of the time agrees on; else what the first call says, the model's input, if all see multiples of it."""
    if seconds[ranked[0]] > _MAJORITY * sum(seconds.values()):
        return ranked[0], False
    first = min(votes, key=lambda vote: vote.first).value
    return (first, True) if first > 1 and all(value % first == 0 for value in ranked) else (None, False)


def _seconds(votes: Sequence[_Vote]) -> dict[int, float]:
    seconds: dict[int, float] = defaultdict(float)
    for vote in votes:
        seconds[vote.value] += vote.seconds
    return seconds


def _share(seconds: dict[int, float], value: int) -> str:
    total = sum(seconds.values())
    return f"{seconds[value] / total:.0%}" if total else "none"


def _either(seconds: dict[int, float], values: Sequence[int]) -> str:
    shown = [f"{value} ({_share(seconds, value)} of the time)" for value in values[:3]]
    return " or ".join([*shown, "others"] if len(values) > 3 else shown)


def _counted(kind: str, votes: list[_Vote], value: int) -> str:
    calls = sum(vote.calls for vote in votes if vote.kind == kind)
    agree = sum(vote.calls for vote in votes if vote.kind == kind and vote.value == value)
    return _WHAT[kind].format(n=f"{agree} of {calls}") if agree else ""


def _folded_rows(telling: list[_Vote], rows: list[_Vote], value: int) -> str:
    """That the rows of linear layers are batch x sequence, where an embedding tells both."""
    folded = {vote.value for vote in rows}
    for vote in telling:
        if vote.kind == "embedding" and vote.value == value and vote.shape[0] * vote.shape[1] in folded:
            length = vote.shape[0] * vote.shape[1] // value
            return f"; the linear layers' {value * length} rows are {value} x {length}"
    return ""


def _loss_sees(votes: list[_Vote], value: int) -> str:
    seen = sorted({vote.value for vote in votes if vote.kind == "loss"})
    if not seen:
        return ""
    folded = [
        f"{size} = {value} x {size // value}" if size > value and size % value == 0 else str(size) for size in seen
    ]
    return f"; the loss sees {' and '.join(folded[:3])}"


def _batch_second(votes: list[_Vote]) -> list[_Vote]:
    """Votes of layers that keep the sequence first, [sequence, batch, features], corrected by what attention sees."""
    seconds = _seconds([vote for vote in votes if vote.kind == "attention"])
    batch = max(seconds, key=lambda value: seconds[value]) if seconds else _batch_of_bmm(votes)
    return [
        replace(vote, value=batch)
        if batch is not None and vote.kind in (_SEQUENCE, "embedding") and vote.value != batch == vote.shape[1]
        else vote
        for vote in votes
    ]


def _batch_of_bmm(votes: list[_Vote]) -> int | None:
    """The batch of layers that are sequence first, where attention is bmm over [batch x heads, sequence, head]."""
    layers = [vote for vote in votes if vote.kind == _SEQUENCE]
    products = [vote for vote in votes if vote.kind == "bmm"]
    if not layers or not products:
        return None
    length, batch = max(layers, key=lambda vote: vote.seconds).shape[:2]
    first = sum(p.seconds for p in products if p.shape[1] == length and p.shape[0] % batch == 0)
    second = sum(p.seconds for p in products if p.shape[1] == batch and p.shape[0] % length == 0)
    return batch if first > second else None


def _forward_kernels(links: Links) -> Ints:
    forward = np.array([operation.phase == "forward" for operation in links.operations], dtype=bool)
    chosen = (links.operation >= 0) & (links.op >= 0)
    chosen[chosen] = forward[links.operation[chosen]]
    return np.flatnonzero(chosen)


def _votes(raw: RawTrace, links: Links, kernels: Ints) -> Iterator[_Vote]:
    """One vote per distinct call; the outermost operator is asked first, it has the shapes the user wrote."""
    ops = raw.ops
    inner, outer = links.op[kernels], np.where(links.outer[kernels] >= 0, links.outer[kernels], links.op[kernels])
    keys = np.stack([ops.name[outer], ops.dims[outer], ops.name[inner], ops.dims[inner]], axis=1)
    distinct, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    seconds = np.bincount(group, weights=raw.kernels.duration_us[kernels], minlength=len(distinct)) / 1e6
    said = [_says(raw, *row[:2]) or _says(raw, *row[2:]) for row in distinct.tolist()]
    by_outer = np.array([_says(raw, *row[:2]) is not None for row in distinct.tolist()], dtype=bool)
    _, once = np.unique(np.where(by_outer[group], outer, inner), return_index=True)
    calls = np.bincount(group[once], minlength=len(distinct))
    for i, found in enumerate(said):
        if found is not None:
            kind, value, shape = found
            yield _Vote(kind, value, float(seconds[i]), int(calls[i]), shape, int(kernels[first[i]]))


def _says(raw: RawTrace, name: int, dims: int) -> tuple[_Kind, int, tuple[int, ...]] | None:
    """Kind, batch size and the shape it was read from, of one call; None where it tells nothing."""
    operator = raw.names[name].removeprefix("aten::")
    shapes = [_shape(entry) for entry in raw.dims[dims]] if dims >= 0 else []
    if not shapes or operator.endswith("_backward"):
        return None
    query = shapes[0]
    if _CONVOLUTION(operator) and len(query) >= 3:
        return "convolution", query[0], query
    if any(part in operator for part in _FLASH) and len(query) == 4:
        return "attention", query[0], query
    if operator == "embedding" and len(shapes) > 1 and len(shapes[1]) == 2:
        return "embedding", shapes[1][0], shapes[1]
    if _LOSS(operator) and query:
        return "loss", query[0], query
    if operator in ("bmm", "baddbmm") and len(query) == 3:
        return "bmm", query[0], query
    if operator in ("linear", "matmul", "mm", "addmm"):
        return _linear(shapes[1:] if operator == "addmm" else shapes)
    return None


def _linear(shapes: list[tuple[int, ...]]) -> tuple[_Kind, int, tuple[int, ...]] | None:
    if len(shapes) < 2 or len(shapes[1]) != 2 or len(shapes[0]) < 2:
        return None
    features = shapes[0]
    return "linear layer" if len(features) == 2 else _SEQUENCE, features[0], features


def _shape(entry: Any) -> tuple[int, ...]:
    """A tensor's shape; empty for scalars, lists of tensors and what cannot be read."""
    return entry if isinstance(entry, tuple) and all(isinstance(size, int) and size > 0 for size in entry) else ()
