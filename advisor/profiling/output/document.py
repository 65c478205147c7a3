"""The JSON document of a trace's profile; its schema is `advisor/schemas/trace-profile.json`."""

from __future__ import annotations

from dataclasses import fields

import msgspec

from advisor.profiling.output.headline import headline
from advisor.profiling.output.tables import KernelRow, TimeRow, kernel_rows, shapes_text, time_by
from advisor.profiling.raw import RecordedBy
from advisor.profiling.records import (
    Advice,
    BatchSize,
    Bill,
    Operation,
    RankFacts,
    RanksProfile,
    StepFacts,
    TracedGpu,
    TraceProfile,
)

SCHEMA_VERSION = 1


class OperationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One distinct call of an operator; the matrix product it asks for, where it does."""

    name: str
    outer: str
    phase: str
    layer: str
    calls: int
    calls_per_step: float | None
    shapes: str
    forward_shapes: str
    types: tuple[str, ...]
    kind: str | None  # "gemm", "bmm", "conv", "attention"
    pass_: str | None = msgspec.field(name="pass")  # "fprop", "dgrad", "wgrad"
    m: int | None
    n: int | None
    k: int | None
    products: int | None  # how many such at once
    flops: int | None


class RanksDocument(msgspec.Struct, frozen=True, kw_only=True):
    """How the ranks of a folder compare; the document itself is that of the slowest."""

    ranks: tuple[RankFacts, ...]
    slowest: int  # index into `ranks`
    fastest: int
    kernel_time_s: float
    step_spread: float
    imbalance: float
    verdict: str
    notes: tuple[str, ...]


class TraceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found in a trace, in seconds and bytes; null where it is unknown."""

    schema_version: int
    headline: str
    path: str
    rank: int | None
    world_size: int | None
    versions: dict[str, str]
    recorded_at: str | None  # UTC
    recorded: RecordedBy | None
    gpu: TracedGpu
    precision: str
    batch: BatchSize
    steps: StepFacts
    kernel_time_s: float  # sum of all kernels of the trace, copies and fills not counted
    copy_time_s: float
    tensor_core_time_s: float
    kernels_launched: int
    class_s: dict[str, float]  # sums to kernel_time_s
    by_class: tuple[TimeRow, ...]
    by_operator: tuple[TimeRow, ...]
    by_layer: tuple[TimeRow, ...]
    by_shape: tuple[TimeRow, ...]
    kernels: tuple[KernelRow, ...]
    operations: tuple[OperationRow, ...]
    bill: Bill
    advice: tuple[Advice, ...]
    ranks: RanksDocument | None
    notes: tuple[str, ...]


_SHARED = sorted({f.name for f in fields(TraceProfile)} & set(TraceDocument.__struct_fields__) - {
    "kernels", "operations", "ranks"
})  # fmt: skip


def document(profile: TraceProfile) -> TraceDocument:
    """The document of one profile."""
    return TraceDocument(
        schema_version=SCHEMA_VERSION,
        headline=headline(profile),
        by_class=time_by(profile, "class"),
        by_operator=time_by(profile, "operator"),
        by_layer=time_by(profile, "layer"),
        by_shape=time_by(profile, "shape"),
        kernels=kernel_rows(profile),
        operations=tuple(map(_operation_row, profile.operations)),
        ranks=_ranks_document(profile.ranks) if profile.ranks else None,
        **{name: getattr(profile, name) for name in _SHARED},
    )


def to_json(profile: TraceProfile) -> str:
    """The document as indented JSON text."""
    return msgspec.json.format(msgspec.json.encode(document(profile)), indent=2).decode()


def _operation_row(operation: Operation) -> OperationRow:
    product = operation.product
    return OperationRow(
        name=operation.name,
        outer=operation.outer,
        phase=operation.phase,
        layer=operation.layer,
        calls=operation.calls,
        calls_per_step=operation.calls_per_step,
        shapes=shapes_text(operation.dims),
        forward_shapes=shapes_text(operation.forward_dims),
        types=operation.types,
        kind=product.kind if product else None,
        pass_=product.pass_ if product else None,
        m=product.m if product else None,
        n=product.n if product else None,
        k=product.k if product else None,
        products=product.batch if product else None,
        flops=product.flops if product else None,
    )


def _ranks_document(ranks: RanksProfile) -> RanksDocument:
    return RanksDocument(**{name: getattr(ranks, name) for name in RanksDocument.__struct_fields__})
