"""Where tests find real measurements and traces: the folder named by BATCHWAVE_DATA, else they skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def measured(*parts: str) -> Path:
    """Path of a public measurement below BATCHWAVE_DATA; skips the test where it is absent."""
    root = os.environ.get("BATCHWAVE_DATA")
    if not root:
        pytest.skip("BATCHWAVE_DATA is not set: real measurements are not at hand")
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not below BATCHWAVE_DATA")
    return path


def recorded_trace(name: str) -> Path:
    """Path of a recorded torch.profiler trace, in the folder `traces` beside BATCHWAVE_DATA."""
    return measured("..", "traces", name)
