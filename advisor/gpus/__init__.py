"""GPU facts: a table with a source for each figure, names as people type them, and the card in this machine."""

from __future__ import annotations

from advisor.gpus.model import Gpu
from advisor.gpus.names import GpuMatch, find_gpu, list_gpus, match_gpu
from advisor.gpus.resolve import ResolvedGpu, resolve_gpu

__all__ = ["Gpu", "GpuMatch", "ResolvedGpu", "find_gpu", "list_gpus", "match_gpu", "resolve_gpu"]
