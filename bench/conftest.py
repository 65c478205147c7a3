"""Settings of the pytest-benchmark suites (`bench_*.py`)."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.errors import AdvisorError
from bench.device import Device, open_device
from bench.timer import settle


@pytest.fixture(scope="session")
def cpu() -> Device:
    """This machine's processor: the kernels' suite in miniature."""
    return open_device("cpu")


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The first GPU, settled; skips where there is none."""
    try:
        device = open_device("cuda:0")
    except AdvisorError as error:
        pytest.skip(str(error))
    import torch

    x = torch.rand(4096, 4096, device="cuda:0").half()
    out = torch.empty_like(x)
    settle(device, lambda: torch.mm(x, x, out=out))
    return device


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """A stored file names no host."""
    machine_info.pop("node", None)
