"""How fast traces are read and analysed, on the processor: `pytest bench --benchmark-only`. Reported, not asserted.

Aim: a gigabyte of JSON within a minute and 4 GB of memory; what is timed here is a hundredth of that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.profiling.analysis import profile_trace
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace

_A100 = {
    "id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 85100068864, "computeMajor": 8, "computeMinor": 0,
    "maxThreadsPerMultiprocessor": 2048, "regsPerMultiprocessor": 65536, "warpSize": 32,
    "sharedMemPerMultiprocessor": 167936, "numSms": 108, "sharedMemPerBlockOptin": 166912,
}  # fmt: skip
STEPS = 12
CHANNELS = (64, 128, 256, 512)  # one stage of a network each
LAYERS = 12  # of a stage
BATCH = 32
_KERNELS = {
    kind: f"sm80_xmma_{kind}_implicit_gemm_indexed_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x32_stage4_"
    "warpsize2x2x1_g1_tensor16x8x16_kernel_cudnn"
    for kind in ("fprop", "dgrad", "wgrad")
}
_RELU = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::launch_clamp_scalar("
    "at::TensorIteratorBase&, c10::Scalar, c10::Scalar, at::native::detail::ClampLimits)::{lambda(c10::Half)#1}, "
    "at::detail::Array<char*, 2> >(int, c10::Half)"
)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of a network of convolutions, with shapes: some 6 MB of JSON."""
    written = _Writer()
    for step in range(STEPS):
        written.step(step)
    path = tmp_path_factory.mktemp("traces") / "trace.json"
    path.write_text(
        json.dumps({"schemaVersion": 1, "deviceProperties": [_A100], "traceEvents": written.events}, indent=2)
    )
    return path


class _Writer:
    """Lays operators out on the host's clock, and their kernels on the GPU's, which is behind it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.host_us = self.gpu_us = 0.0

    def step(self, number: int) -> None:
        start_us = self.host_us
        layers = [(width, index) for width in CHANNELS for index in range(LAYERS)]
        for sequence, (width, index) in enumerate(layers):
            self._forward(width, 1 if index % 2 else 3, 1000 * number + sequence)
        for sequence, (width, index) in reversed(list(enumerate(layers))):
            self._backward(width, 1 if index % 2 else 3, 1000 * number + sequence)
        self.host_us = max(self.host_us, self.gpu_us) + 50
        self._add("user_annotation", f"ProfilerStep#{number}", start_us, self.host_us - start_us - 10, 1, {})

    def _forward(self, width: int, kernel: int, sequence: int) -> None:
        x, w = _shapes(width, kernel)
        dims, inputs = (
            [x, w, [], [], [], [], []],
            ["", "", "", "[1, 1]", f"[{kernel // 2}, {kernel // 2}]", "[1, 1]", "1"],
        )
        for depth, name in enumerate(("conv2d", "convolution", "_convolution", "cudnn_convolution")):
            external = self._op(
                f"aten::{name}", self.host_us + depth, 60 - 2 * depth, dims=dims, inputs=inputs,
                types=["c10::Half", "c10::Half", *[""] * 5], sequence=sequence,
            )  # fmt: skip
        self._launch(_KERNELS["fprop"], 40, external, width)
        external = self._op("aten::relu_", self.host_us + 70, 15, dims=[x], types=["c10::Half"])
        self._launch(_RELU, 75, external, width)
        self.host_us += 100

    def _backward(self, width: int, kernel: int, sequence: int) -> None:
        x, w = _shapes(width, kernel)
        dims = [x, x, w, *[[]] * 8]
        common: dict[str, Any] = {"sequence": sequence, "forward_thread": 1, "thread": 2}
        self._op("autograd::engine::evaluate_function: ConvolutionBackward0", self.host_us, 90, **common)
        self._op("ConvolutionBackward0", self.host_us + 1, 88, dims=[x], types=["c10::Half"], **common)
        external = self._op(
            "aten::convolution_backward", self.host_us + 2, 86, dims=dims, types=[*["c10::Half"] * 3, *[""] * 8],
            thread=2,
            inputs=["", "", "", "[0]", "[1, 1]", f"[{kernel // 2}, {kernel // 2}]", "[1, 1]", "False", "[0, 0]", "1",
                    "[True, True, False]"],
        )  # fmt: skip
        self._launch(_KERNELS["dgrad"], 20, external, width, thread=2)
        self._launch(_KERNELS["wgrad"], 50, external, width, thread=2)
        self.host_us += 110

    def _launch(self, name: str, after_us: float, external: int, width: int, thread: int = 1) -> None:
        launched_us = self.host_us + after_us
        self.gpu_us = max(self.gpu_us + 1, launched_us + 5)
        grid = [BATCH * (3584 // width) ** 2 // 128, max(width // 128, 1), 1]
        link = {"External id": external, "correlation": len(self.events) + 1}
        facts = {"device": 0, "context": 1, "stream": 7, "registers per thread": 168, "shared memory": 65536,
                 "blocks per SM": grid[0] * grid[1] / 108, "grid": grid, "block": [128, 1, 1]}  # fmt: skip
        self._add("kernel", name, self.gpu_us, 60, 7, {**link, **facts}, pid=0)
        self._add("cuda_runtime", "cudaLaunchKernel", launched_us, 5, thread, link)
        self.gpu_us += 60

    def _op(
        self, name: str, start_us: float, lasts_us: float, *, dims: list[Any] | None = None,
        types: list[str] | None = None, inputs: list[str] | None = None, sequence: int | None = None,
        forward_thread: int = 0, thread: int = 1,
    ) -> int:  # fmt: skip
        """An operator on the host; returns its external id."""
        external = len(self.events) + 1
        facts = {"Input Dims": dims, "Input type": types, "Concrete Inputs": inputs, "Sequence number": sequence}
        told = {key: value for key, value in facts.items() if value is not None}
        if sequence is not None:
            told["Fwd thread id"] = forward_thread
        self._add("cpu_op", name, start_us, lasts_us, thread, {"External id": external, **told})
        return external

    def _add(
        self,
        category: str,
        name: str,
        start_us: float,
        lasts_us: float,
        tid: int,
        facts: dict[str, Any],
        pid: int = 100,
    ) -> None:
        self.events.append({"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": start_us,
                            "dur": lasts_us, "args": facts})  # fmt: skip


def _shapes(width: int, kernel: int) -> tuple[list[int], list[int]]:
    side = 3584 // width  # 56 x 56 of 64 channels to 7 x 7 of 512
    return [BATCH, width, side, side], [width, width, kernel, kernel]


@pytest.mark.benchmark(group="traces")
def test_read_a_trace(benchmark: Any, trace: Path) -> None:
    """From the file to columns."""
    benchmark(read_trace, trace)


@pytest.mark.benchmark(group="traces")
def test_link_a_trace(benchmark: Any, trace: Path) -> None:
    """From kernels to the operators that asked for them."""
    benchmark(link, read_trace(trace))


@pytest.mark.benchmark(group="traces")
def test_profile_a_trace(benchmark: Any, trace: Path) -> None:
    """All of it: reading, grouping, the bill and the advice."""
    benchmark.pedantic(profile_trace, args=(trace,), rounds=3, warmup_rounds=1)
