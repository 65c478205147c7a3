"""How fast kernels are: the libraries' and the project's own, in device time through `bench.timer`.

`pytest bench/bench_kernels.py --benchmark-only` on a GPU; without one, a miniature on the processor keeps the way from
the timer to pytest-benchmark's files working, and its times mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.benchmark_clock import device_clock, time_on_device
from bench.device import Device
from bench.timer import TimerOptions, rotation

torch = pytest.importorskip("torch")

MINIATURE = TimerOptions(samples=3, most_samples=5, sample_s=1e-4, budget_s=0.05)
# M, N, K: a whole number of waves of 128x128 tiles on 132 SMs' H100 and H200, one past it, and a thin one
PRODUCTS = [(4096, 4096, 4096), (2816, 3072, 4096), (2817, 3072, 4096), (64, 4096, 4096)]
# batch, channels in and out, height, kernel: ResNet-50's second and last stages
CONVOLUTIONS = [(256, 64, 64, 56, 3), (256, 512, 512, 7, 3)]


def on_device(group: str) -> pytest.MarkDecorator:
    """The mark of a benchmark in device time; pytest-benchmark reads the nearest mark alone, so all is in one."""
    return pytest.mark.benchmark(group=group, timer=device_clock)


@on_device("miniature")
@pytest.mark.parametrize("size", [32, 64])
def test_product_on_the_processor(benchmark: Any, cpu: Device, size: int) -> None:
    """y = a b in FP32, warm."""
    a, b, y = torch.rand(size, size), torch.rand(size, size), torch.empty(size, size)
    time_on_device(benchmark, cpu, [lambda: torch.mm(a, b, out=y)], MINIATURE, flops=2 * size**3)


@pytest.mark.gpu
@on_device("copy")
@pytest.mark.parametrize("mebibytes", [16, 256, 1024])
def test_copy(benchmark: Any, gpu: Device, mebibytes: int) -> None:
    """A copy from memory to memory; the sizes from 256 MiB on do not fit an L2."""
    x = torch.empty(mebibytes * 2**20, dtype=torch.uint8, device="cuda:0").random_()
    y = torch.empty_like(x)
    found = rotation(x.numel(), gpu.l2_bytes, most=1)
    time_on_device(benchmark, gpu, [lambda: y.copy_(x)], mode=found.mode, bytes=2 * x.numel())


@pytest.mark.gpu
@on_device("launch")
def test_tiny_kernel(benchmark: Any, gpu: Device) -> None:
    """One element plus one: what a graph's node costs at least."""
    x = torch.zeros(1, device="cuda:0")
    time_on_device(benchmark, gpu, [lambda: x.add_(1)])


@pytest.mark.gpu
@on_device("product")
@pytest.mark.parametrize("mode", ["cold", "warm"])
@pytest.mark.parametrize("library", ["cublas", "triton"])
@pytest.mark.parametrize(("m", "n", "k"), PRODUCTS)
def test_product(benchmark: Any, gpu: Device, m: int, n: int, k: int, library: str, mode: Any) -> None:
    """y[m, n] = x[m, k] w[n, k]^T in FP16, as a linear layer's forward pass."""
    from kernels.matmul import prepare_matmul

    found = rotation(2 * (m * k + n * k), gpu.l2_bytes, mode=mode)
    calls: list[Callable[[], object]] = []
    for seed in range(found.copies):
        x, w, y = _uniform(m, k, seed=2 * seed), _uniform(n, k, seed=2 * seed + 1), _uniform(m, n)
        if library == "cublas":
            calls.append(lambda x=x, w=w, y=y: torch.mm(x, w.t(), out=y))  # type: ignore[misc]  # defaults bind now
        else:
            calls.append(prepare_matmul(x, w.t(), out=y))
    time_on_device(benchmark, gpu, calls, mode=found.mode, flops=2 * m * n * k)


@pytest.mark.gpu
@on_device("convolution")
@pytest.mark.parametrize("library", ["cudnn", "triton"])
@pytest.mark.parametrize(("batch", "c_in", "c_out", "height", "kernel"), CONVOLUTIONS)
def test_convolution(
    benchmark: Any, gpu: Device, batch: int, c_in: int, c_out: int, height: int, kernel: int, library: str
) -> None:
    """Forward, stride 1, same size, FP16 and channels last."""
    from kernels.conv2d import conv2d_forward

    x = _uniform(batch, height, height, c_in).permute(0, 3, 1, 2)
    w = _uniform(c_out, kernel, kernel, c_in, seed=1).permute(0, 3, 1, 2)
    padding = kernel // 2
    if library == "cudnn":
        call: Callable[[], object] = lambda: torch.nn.functional.conv2d(x, w, padding=padding)  # noqa: E731
    else:
        call = lambda: conv2d_forward(x, w, padding=(padding, padding))  # noqa: E731
    flops = 2 * batch * height * height * c_out * c_in * kernel * kernel
    found = rotation(2 * x.numel(), gpu.l2_bytes, most=1)
    time_on_device(benchmark, gpu, [call], mode=found.mode, flops=flops)


def _uniform(*shape: int, seed: int = 0) -> Any:
    generator = torch.Generator("cuda:0").manual_seed(seed)
    return torch.empty(*shape, device="cuda:0", dtype=torch.float16).uniform_(-1, 1, generator=generator)
