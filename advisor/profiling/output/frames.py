"""A trace's kernels as a pandas table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.errors import MissingDependencyError
from advisor.profiling.output.tables import KernelRow, kernel_rows, plain
from advisor.profiling.records import TraceProfile

if TYPE_CHECKING:
    import pandas as pd


def kernels_frame(profile: TraceProfile) -> pd.DataFrame:
    """The kernels, a row per group, the largest first; raises MissingDependencyError without pandas."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("pandas is not installed: pip install 'batchwave[pandas]'") from error
    return pd.DataFrame(plain(kernel_rows(profile)), columns=list(KernelRow.__struct_encode_fields__))
