"""Calls of operators for tests."""

from __future__ import annotations

from advisor.profiling.linking.calls import Call, Situation
from advisor.profiling.linking.operations import Description
from advisor.profiling.records import Phase, Product


def situation(call: Call, phase: Phase = "forward", **around: object) -> Situation:
    """A call in a phase; by itself the outermost operator."""
    top = around.pop("top", call)
    return Situation(call, phase, str(around.pop("outer", call.name)), top, **around)


def product(described: Description) -> Product:
    """The product, which must be there."""
    assert described.product is not None
    return described.product


def sizes(found: Product) -> tuple[int, int, int, int]:
    """(m, n, k, batch)."""
    return found.m, found.n, found.k, found.batch
