"""Workloads: a training step's operations and memory as functions of the batch size B."""

from advisor.workload.schema import Affine, Op, Variant, Workload

__all__ = ["Affine", "Op", "Variant", "Workload"]
