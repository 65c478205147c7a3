"""Kernels are tested in two ways, which cannot share a process.

Run: with CUDA, on the GPU. Without, on Triton's CPU interpreter: `tests/conftest.py` sets TRITON_INTERPRET=1 before
Triton is first imported (parts of Torch import it), so every `@triton.jit` function, Triton's own included, becomes an
interpreted one that takes CPU tensors. The fixture `device` is the device to make tensors on.

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
pytest.importorskip("triton", reason="kernels need Triton")

ROOT = Path(__file__).parents[2]

compile_only = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
compile_only.pop("TRITON_INTERPRET", None)


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


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
