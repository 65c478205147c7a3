"""Kernels are tested in two ways, which cannot share a process.

Run: with CUDA, on the GPU. Without, on Triton's CPU interpreter: this file sets TRITON_INTERPRET=1 before Triton is
first imported, so every `@triton.jit` function, Triton's own included, becomes an interpreted one that takes CPU
tensors. The fixture `device` is the device to make tensors on. A test marked `gpu` is skipped without CUDA.

Compiled: an interpreted function has no compiler, so a test that looks at PTX or a cubin starts a child without the
variable: the fixture `compiled` runs a Python source text there, in the checkout's root, and returns what it assigned
to `answer` (anything JSON holds). A child costs seconds of imports: compile many kernels in one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="kernels need torch")

HAS_CUDA = torch.cuda.is_available()
ROOT = Path(__file__).parents[2]

if not HAS_CUDA:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError("Triton was imported before tests/kernels/conftest.py: run with TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="kernels need Triton")

compile_only = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
compile_only.pop("TRITON_INTERPRET", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not HAS_CUDA:
        for item in items:
            if item.get_closest_marker("gpu") and Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if HAS_CUDA else "cpu"


@pytest.fixture(scope="session")
def compiled() -> Callable[[str], Any]:
    def run(source: str) -> Any:
        program = f"{source}\nimport json as _json\nprint('\\n' + _json.dumps(answer))\n"
        child = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=compile_only, capture_output=True, text=True, check=False
        )
        assert child.returncode == 0, child.stderr
        return json.loads(child.stdout.splitlines()[-1])

    return run
