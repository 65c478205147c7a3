"""How fast the advice itself is: `pytest bench/speed_test.py --benchmark-only`. Timings are reported, not asserted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from advisor import recommend
from advisor.gemm import gemm_time
from advisor.gpus import find_gpu
from advisor.profile import load_profile


def test_recommend_cold(benchmark: Any) -> None:
    """The whole process: start Python, load what is needed, answer. Aim: under 1 s."""
    command = [sys.executable, "-m", "advisor", "recommend", "--gpu", "a100-sxm4-80gb", "--model", "resnet50"]
    benchmark.pedantic(subprocess.run, args=(command,), kwargs={"check": True, "capture_output": True}, rounds=5)


def test_recommend_warm(benchmark: Any) -> None:
    """The library call for every batch size from 1 to 1024. Aim: under 50 ms."""
    benchmark(recommend, "resnet50", gpu="a100-sxm4-80gb")


def test_a_million_products(benchmark: Any) -> None:
    """Tiles, splits and times of a million matrix products. Aim: under 20 s with reading and writing them."""
    gpu = find_gpu("h200")
    profile = load_profile(gpu)
    sizes = np.random.default_rng(0).integers(1, 16384, size=(3, 1_000_000))
    gemm_time(profile, gpu, *sizes[:, :1000], engine="numba")  # compile
    benchmark.pedantic(gemm_time, args=(profile, gpu, *sizes), rounds=2)
