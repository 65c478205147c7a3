"""Settings shared by all tests."""

from __future__ import annotations

import ctypes
import os

import pytest
from hypothesis import settings

from advisor.errors import NoGpuError
from advisor.gpus.nvml import load_nvml

settings.register_profile("project", deadline=None)  # the first call may compile or load a table
settings.load_profile("project")


def has_cuda() -> bool:
    """Asked of the driver, as Torch may import Triton."""
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False


if not has_cuda():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton's first import: see tests/kernels/conftest.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no NVIDIA driver, and say why."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    try:
        load_nvml()
    except NoGpuError as reason:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA GPU: {reason}"))
