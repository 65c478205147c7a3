"""batchwave: which batch size is fast, fits, and why, on any NVIDIA GPU."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

# The public names and the modules they live in. They are imported when first used, so that
# `import advisor` costs a few milliseconds and no torch, numba or matplotlib.
_PUBLIC = {
    "AdvisorError": "advisor.errors",
    "Gpu": "advisor.gpus",
    "GpuComparison": "advisor.comparison",
    "TraceProfile": "advisor.profiling.records",
    "TrainingPlan": "advisor.planning.build",
    "compare": "advisor.comparison",
    "find_gpu": "advisor.gpus",
    "fit_critical_batch": "advisor.planning.critical_batch",
    "list_gpus": "advisor.gpus",
    "plan": "advisor.planning.build",
    "predict_gemm": "advisor.gemm",
    "predict_step": "advisor.step",
    "profile_trace": "advisor.profiling.analysis",
    "recommend": "advisor.recommendation",
}
__all__ = [
    "AdvisorError",
    "Gpu",
    "GpuComparison",
    "TraceProfile",
    "TrainingPlan",
    "__version__",
    "compare",
    "find_gpu",
    "fit_critical_batch",
    "list_gpus",
    "plan",
    "predict_gemm",
    "predict_step",
    "profile_trace",
    "recommend",
]

if TYPE_CHECKING:
    from advisor.comparison import GpuComparison, compare
    from advisor.errors import AdvisorError
    from advisor.gemm import predict_gemm
    from advisor.gpus import Gpu, find_gpu, list_gpus
    from advisor.planning.build import TrainingPlan, plan
    from advisor.planning.critical_batch import fit_critical_batch
    from advisor.profiling.analysis import profile_trace
    from advisor.profiling.records import TraceProfile
    from advisor.recommendation import recommend
    from advisor.step import predict_step


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'advisor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
