"""Workloads: a training step's operations and memory as functions of the batch size B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Affine", "Op", "Variant", "Workload"]

if TYPE_CHECKING:
    from advisor.workload.schema import Affine, Op, Variant, Workload


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): `sources` and `inputs` are needed where torch is and msgspec is not."""
    if name in __all__:
        from advisor.workload import schema

        return getattr(schema, name)
    raise AttributeError(f"module 'advisor.workload' has no attribute {name!r}")
