"""How fast the library itself is, on the processor: `pytest bench --benchmark-only`. Reported, not asserted.

What starts a process is timed with the process, beside Python's own start.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor import predict_gemm, predict_step, recommend
from advisor.gemm import gemm_time
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.quantization import quantize_gemm
from advisor.report.subject import Measured

ROOT = Path(__file__).resolve().parent.parent
GPU = "a100-sxm4-80gb"
COMMANDS = {
    "recommend": ["recommend", "--gpu", GPU, "--model", "resnet50"],
    "predict_step": ["predict", "step", "--gpu", GPU, "--model", "resnet50", "--batches", "128,256"],
    "quantize": ["quantize", "--gpu", GPU, "--m", "2304", "--n", "1536", "--k", "4096", "--tile", "256x128"],
    "help": ["--help"],
}


@pytest.mark.benchmark(group="processes")
@pytest.mark.parametrize("code", ["pass", "import advisor", "from advisor import recommend"])
def test_import(benchmark: Any, code: str) -> None:
    """A new process that imports; `pass` is Python's own start. Aim: a few milliseconds for `import advisor`."""
    _time_process(benchmark, ["-c", code])


@pytest.mark.benchmark(group="processes")
@pytest.mark.parametrize("command", COMMANDS)
def test_command(benchmark: Any, command: str) -> None:
    """The whole command: start Python, load what is needed, answer. Aim: under 1 s for `recommend`."""
    _time_process(benchmark, ["-m", "advisor", *COMMANDS[command]])


@pytest.mark.benchmark(group="processes")
def test_predict_gemm_of_a_file(benchmark: Any, tmp_path: Path) -> None:
    """The command over a file of 1,000 products."""
    shapes, times = tmp_path / "shapes.csv", tmp_path / "times.csv"
    shapes.write_text("m,n,k\n" + "".join(f"{m},4096,4096\n" for m in range(1, 1001)))
    _time_process(
        benchmark, ["-m", "advisor", "predict", "gemm", "--gpu", GPU, "--input", str(shapes), "--output", str(times)]
    )


@pytest.mark.benchmark(group="calls")
def test_recommend(benchmark: Any) -> None:
    """Every batch size from 1 to 1024. Aim: under 50 ms."""
    benchmark(recommend, "resnet50", gpu=GPU)


@pytest.mark.benchmark(group="calls")
def test_predict_step(benchmark: Any) -> None:
    """Time and memory of four batch sizes."""
    benchmark(predict_step, "resnet50", gpu=GPU, batches=[64, 128, 256, 512])


@pytest.mark.benchmark(group="calls")
def test_predict_gemm(benchmark: Any) -> None:
    """One product."""
    benchmark(predict_gemm, 2304, 1536, 4096, gpu=GPU)


@pytest.mark.benchmark(group="calls")
def test_quantize(benchmark: Any) -> None:
    """Tiles and waves of a staircase of 4,096 sizes."""
    n = np.arange(1, 4097)
    benchmark(quantize_gemm, 2304, n, 4096, tile_m=256, tile_n=128, sms=108)


@pytest.mark.benchmark(group="sweeps")
def test_a_million_products(benchmark: Any) -> None:
    """Tiles, splits and times of a million matrix products. Aim: under 20 s with reading and writing them."""
    gpu = find_gpu("h200")
    profile = load_profile(gpu)
    sizes = np.random.default_rng(0).integers(1, 16384, size=(3, 1_000_000))
    gemm_time(profile, gpu, *sizes[:, :1000], engine="numba")  # compile
    benchmark.pedantic(gemm_time, args=(profile, gpu, *sizes), rounds=2)


@pytest.mark.benchmark(group="reports")
def test_report(benchmark: Any, tmp_path: Path) -> None:
    """A whole report of one model, with every file of it. Aim: under 20 s on two cores. Once: it takes that long."""
    from advisor.report.build import build_report
    from advisor.report.rendering.write import write_report

    def report() -> None:
        write_report(build_report(gpu=GPU, models=["resnet50"], measured=Measured()), tmp_path / "report")

    benchmark.pedantic(report, rounds=1)


def _time_process(benchmark: Any, arguments: list[str]) -> None:
    benchmark.pedantic(
        subprocess.run,
        args=([sys.executable, *arguments],),
        kwargs={"check": True, "capture_output": True, "cwd": ROOT},
        rounds=3,
        warmup_rounds=1,
    )
