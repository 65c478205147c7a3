"""Kernels of a trace and the calls that launched them."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from bench.kernel_facts import MARK, LaunchedKernel, kernels_by_mark, profile_calls
from tests.data import recorded_trace

HOPPER = "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTN"


def mark(name: str, start: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "cat": "user_annotation", "name": MARK + name, "ts": start, "dur": duration}


def launch(at: float, correlation: int) -> dict[str, Any]:
    return {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at, "dur": 5,
            "args": {"correlation": correlation}}  # fmt: skip


def kernel(name: str, at: float, correlation: int) -> dict[str, Any]:
    return {"ph": "X", "cat": "kernel", "name": name, "ts": at, "dur": 16, "args": {
        "correlation": correlation, "grid": [132, 1, 1], "block": [384, 1, 1], "registers per thread": 168,
        "shared memory": 213_000}}  # fmt: skip


def test_a_kernel_belongs_to_the_call_that_launched_it_however_late_it_starts() -> None:
    events = [
        mark("forward", 0, 10), launch(2, 1), mark("wgrad", 20, 10), launch(22, 2), launch(25, 3), launch(40, 4),
        kernel("splitKreduce_kernel", 90, 3), kernel(HOPPER, 60, 1), kernel(HOPPER, 75, 2), kernel("later", 95, 4),
    ]  # fmt: skip
    found = kernels_by_mark(events)
    assert [k.name for k in found["forward"]] == [HOPPER]
    assert [k.name for k in found["wgrad"]] == [HOPPER, "splitKreduce_kernel"]
    assert found["forward"][0] == LaunchedKernel(HOPPER, 16e-6, (132, 1, 1), (384, 1, 1), 168, 213_000)


def test_facts_join_the_launch_with_what_the_name_tells() -> None:
    facts = LaunchedKernel(HOPPER, 12.5e-6, (132, 1, 1), (384, 1, 1), 168, 213_000).facts()
    assert (facts["grid"], facts["tile_rows"], facts["tile_columns"], facts["stages"]) == ((132, 1, 1), 128, 256, 4)
    assert "split_k" not in facts
    json.dumps(facts)


def test_a_kernel_without_its_launch_facts_is_kept() -> None:
    bare = {"cat": "Kernel", "name": "old", "ts": 5, "dur": 1, "args": {"correlation": 1}}
    (found,) = kernels_by_mark([mark("x", 0, 10), launch(2, 1), bare])["x"]
    assert (found.grid, found.registers) == (None, None)


def test_every_kernel_of_a_recorded_trace_is_found_through_its_launch() -> None:
    with gzip.open(recorded_trace("alexnet_a100.json.gz"), "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    whole = mark("all", 0, max(float(e["ts"]) for e in events if "ts" in e))
    found = kernels_by_mark([*events, whole])["all"]
    assert len(found) == sum(str(e.get("cat", "")).lower() == "kernel" for e in events)
    convolution = next(k for k in found if k.name.startswith("sm80_xmma_fprop"))
    assert convolution.facts()["tile_rows"] == 128


def test_without_a_gpu_a_profiled_call_has_no_kernels() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert profile_calls({"product": lambda: torch.ones(2, 2) @ torch.ones(2, 2)}) == {"product": []}


@pytest.mark.gpu
def test_a_product_on_the_gpu_is_seen_with_its_grid() -> None:
    torch = pytest.importorskip("torch")
    a = torch.randn(1024, 1024, device="cuda", dtype=torch.float16)
    a @ a
    (found, *_) = profile_calls({"product": lambda: a @ a})["product"]
    assert found.grid is not None
    assert found.facts()["library"] != "unknown"
