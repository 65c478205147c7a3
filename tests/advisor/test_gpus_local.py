"""The card in this machine: what `auto` and `local` take, with recorded answers of drivers in place of NVML."""

from __future__ import annotations

# ruff: noqa: N802, N815 (the names are pynvml's)
import importlib.machinery
import importlib.util
import os
import sys
import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.errors import NoGpuError, UnknownNameError
from advisor.gpus import nvml as nvml_module
from advisor.gpus import resolve_gpu
from advisor.gpus.resolve import ask_cuda

MIB = 2**20


class NVMLError(Exception):
    """Stands for pynvml.NVMLError and all its kinds (NotSupported, NoPermission, DriverNotLoaded ...)."""


class FakeNvml:
    """pynvml's functions over recorded answers; an answer that is missing is NotSupported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    nvmlMemory_v2 = 0x2000028

    def __init__(self, *cards: dict[str, Any], init: Exception | None = None, old_driver: bool = False) -> None:
        self.cards, self.init, self.old_driver = cards, init, old_driver
        self.open = 0

    def nvmlInit(self) -> None:
        if self.init:
            raise self.init
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.159.03"  # old bindings answer in bytes

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.cards[index]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(card["slices"]):
            raise NVMLError("NotFound")
        return card["slices"][index]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMemoryInfo(self, handle: dict[str, Any], version: int | None = None) -> SimpleNamespace:
        if "total" not in handle or (version and self.old_driver):
            raise NVMLError("NotSupported")
        answer = SimpleNamespace(total=handle["total"] * MIB, free=handle["free"] * MIB)
        if version:
            answer.reserved = handle["reserved"] * MIB
        return answer

    def nvmlDeviceGetMaxClockInfo(self, handle: dict[str, Any], kind: int) -> int:
        return self._answer(handle, "sm_mhz" if kind == self.NVML_CLOCK_SM else "memory_mhz")

    def __getattr__(self, function: str) -> Any:
        if function not in _ANSWERS:
            raise AttributeError(function)
        return lambda handle: self._answer(handle, _ANSWERS[function])

    @staticmethod
    def _answer(handle: dict[str, Any], key: str) -> Any:
        if key not in handle:
            raise NVMLError("NotSupported")
        return handle[key]


_ANSWERS = {
    "nvmlDeviceGetUUID": "uuid",
    "nvmlDeviceGetName": "name",
    "nvmlDeviceGetCudaComputeCapability": "capability",
    "nvmlDeviceGetNumGpuCores": "cores",
    "nvmlDeviceGetMemoryBusWidth": "bus_bits",
    "nvmlDeviceGetMigMode": "mig",
    "nvmlDeviceGetAttributes_v2": "attributes",
}

# Figures as nvidia-smi and CUDA print them for these cards.
H200 = {
    "uuid": "GPU-11111111-0000-0000-0000-000000000000", "name": "NVIDIA H200", "capability": (9, 0), "cores": 16896,
    "sm_mhz": 1980, "memory_mhz": 3201, "bus_bits": 6144, "mig": [0, 0],
    "total": 143771, "reserved": 615, "free": 143000,
}  # fmt: skip
RTX_4090 = {
    "uuid": "GPU-22222222-0000-0000-0000-000000000000", "name": "NVIDIA GeForce RTX 4090", "capability": (8, 9),
    "cores": 16384, "sm_mhz": 3105, "memory_mhz": 10501, "bus_bits": 384,
    "total": 24564, "reserved": 390, "free": 23000,
}  # fmt: skip
RTX_3060 = {
    "uuid": "GPU-33333333-0000-0000-0000-000000000000", "name": "NVIDIA GeForce RTX 3060", "capability": (8, 6),
    "cores": 3584, "sm_mhz": 2130, "memory_mhz": 7501, "bus_bits": 192, "total": 12288, "reserved": 330, "free": 11500,
}  # fmt: skip
GB10 = {  # unified memory: NVML does not tell it
    "uuid": "GPU-44444444-0000-0000-0000-000000000000", "name": "NVIDIA GB10", "capability": (12, 1), "cores": 6144,
    "sm_mhz": 3003,
}  # fmt: skip
SLICE = {
    "uuid": "MIG-55555555-0000-0000-0000-000000000000", "name": "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    "attributes": SimpleNamespace(multiprocessorCount=14, memorySizeMB=9728),
    "total": 9728, "reserved": 0, "free": 9715,
}  # fmt: skip
BIG_SLICE = {
    "uuid": "MIG-66666666-0000-0000-0000-000000000000", "name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
    "attributes": SimpleNamespace(multiprocessorCount=42, memorySizeMB=40192),
    "total": 40192, "reserved": 0, "free": 40000,
}  # fmt: skip
SLICED_A100 = {
    "uuid": "GPU-77777777-0000-0000-0000-000000000000", "name": "NVIDIA A100-SXM4-80GB", "capability": (8, 0),
    "cores": 6912, "sm_mhz": 1410, "memory_mhz": 1593, "bus_bits": 5120, "mig": [1, 1],
    "total": 81920, "reserved": 766, "free": 81000, "slices": [SLICE, BIG_SLICE],
}  # fmt: skip


def _no_question() -> Sequence[str]:
    raise AssertionError("CUDA's order must not be asked for here: it costs a process")


def test_a_local_card_is_described_by_its_driver() -> None:
    fake = FakeNvml(H200)
    found = resolve_gpu("auto", nvml=fake, environ={}, cuda_order=_no_question)
    assert (found.source, found.gpu.id, found.gpu.sms) == ("local", "h200-sxm", 132)
    assert found.gpu.memory_bytes == 143771 * MIB
    assert found.gpu.cuda_memory_bytes == 143156 * MIB  # what torch.cuda.get_device_properties prints for an H200
    assert found.free_bytes == 143000 * MIB
    assert found.uuid == H200["uuid"]
    assert found.driver_version == "580.159.03"
    assert found.gpu.sources["memory_bytes"] == "the driver of this machine (NVML)"
    assert found.gpu.peak_flops_per_s("fp16") == pytest.approx(989e12, rel=1e-3)  # from the table, not 1980 MHz
    assert fake.open == 0


def test_a_geforce_keeps_its_boost_clock_where_the_driver_tells_the_end_of_its_voltage_curve() -> None:
    gpu = resolve_gpu("local", nvml=FakeNvml(RTX_4090), environ={}).gpu
    assert gpu.boost_clock_hz == 2.52e9


def test_a_driver_that_allows_less_clock_than_the_table_is_believed() -> None:
    gpu = resolve_gpu("local", nvml=FakeNvml(H200 | {"sm_mhz": 1500}), environ={}).gpu
    assert gpu.boost_clock_hz == gpu.tensor_clock_hz == 1.5e9
    assert gpu.sources["tensor_clock_hz"] == "the driver of this machine (NVML)"


def test_a_driver_with_another_sm_count_than_the_table_is_believed() -> None:
    b300 = {"uuid": "GPU-8", "name": "NVIDIA B300 SXM6 AC", "capability": (10, 3), "cores": 152 * 128}
    assert resolve_gpu("local", nvml=FakeNvml(b300), environ={}).gpu.sms == 152


def test_memory_that_the_driver_does_not_tell_comes_from_the_table() -> None:
    found = resolve_gpu("local", nvml=FakeNvml(GB10), environ={})
    assert found.free_bytes is None
    assert found.gpu.memory_bytes == 128 * 2**30
    assert "DGX Spark" in found.gpu.sources["memory_bytes"]


def test_a_driver_from_before_510_tells_no_reserve_and_the_tables_stands() -> None:
    found = resolve_gpu("local", nvml=FakeNvml(RTX_3060, old_driver=True), environ={})
    assert found.gpu.memory_bytes == 12288 * MIB
    assert found.gpu.cuda_memory_bytes == 11931 * MIB


def test_a_variant_with_another_memory_takes_no_bandwidth_from_its_namesake() -> None:
    eight_gib = RTX_3060 | {"total": 8192, "bus_bits": 128}
    gpu = resolve_gpu("local", nvml=FakeNvml(eight_gib), environ={}).gpu
    assert gpu.memory_bandwidth_bytes_per_s == pytest.approx(240e9, rel=0.01)  # 7501 MHz x 2 x 128 bit
    assert gpu.l2_bytes is None
    assert "l2_bytes" not in gpu.sources


def test_a_card_newer_than_every_table_is_described_by_its_driver_and_its_compute_capability() -> None:
    new = {
        "uuid": "GPU-9", "name": "NVIDIA GeForce RTX 9999", "capability": (12, 0), "cores": 12800, "sm_mhz": 2800,
        "memory_mhz": 14001, "bus_bits": 256, "total": 16384, "reserved": 300, "free": 16000,
    }  # fmt: skip
    gpu = resolve_gpu("local", nvml=FakeNvml(new), environ={}).gpu
    assert (gpu.id, gpu.sms, gpu.threads_per_sm) == ("nvidia-geforce-rtx-9999", 100, 1536)
    assert gpu.fp16_flop_per_clock_per_sm == 512  # GeForce
    assert gpu.boost_clock_hz == 2.8e9
    assert gpu.memory_bandwidth_bytes_per_s == pytest.approx(896e9, rel=1e-3)
    assert gpu.l2_bytes is None
    assert not gpu.verified


def test_a_card_of_which_nobody_knows_the_sms_is_refused() -> None:
    with pytest.raises(NoGpuError, match="does not tell the SMs of NVIDIA Rubin X: name a GPU with --gpu"):
        resolve_gpu(
            "local", nvml=FakeNvml({"uuid": "GPU-1", "name": "NVIDIA Rubin X", "capability": (13, 0)}), environ={}
        )


def test_cudas_first_is_taken_where_cards_differ_not_nvmls() -> None:
    order = [str(RTX_4090["uuid"]).removeprefix("GPU-"), str(RTX_3060["uuid"]).removeprefix("GPU-")]
    fake = FakeNvml(RTX_3060, RTX_4090)  # the slower card sits first on the bus
    found = resolve_gpu("auto", nvml=fake, environ={}, cuda_order=lambda: order)
    assert found.gpu.id == "rtx-4090"
    assert found.note == "CUDA's first of 2 GPUs: NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(
    ("environ", "identifier"),
    [
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "rtx-3060"),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}, "rtx-4090"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22222222"}, "rtx-4090"),  # CUDA takes a UUID's beginning too
        ({"CUDA_VISIBLE_DEVICES": "GPU-33333333-0000-0000-0000-000000000000,GPU-22222222"}, "rtx-3060"),
    ],
)
def test_visible_devices_are_respected_without_asking_cuda(environ: dict[str, str], identifier: str) -> None:
    found = resolve_gpu("auto", nvml=FakeNvml(RTX_3060, RTX_4090), environ=environ, cuda_order=_no_question)
    assert found.gpu.id == identifier


def test_equal_cards_need_no_question() -> None:
    second = H200 | {"uuid": "GPU-aaaaaaaa"}
    found = resolve_gpu(
        "auto", nvml=FakeNvml(H200, second), environ={"CUDA_VISIBLE_DEVICES": "1"}, cuda_order=_no_question
    )
    assert found.uuid == "GPU-aaaaaaaa"


def test_a_silent_cuda_is_said() -> None:
    found = resolve_gpu("auto", nvml=FakeNvml(RTX_3060, RTX_4090), environ={}, cuda_order=lambda: [])
    assert found.gpu.id == "rtx-3060"
    assert found.note is not None
    assert "CUDA did not tell its order" in found.note


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_no_gpus(hidden: str) -> None:
    with pytest.raises(NoGpuError, match="hides every GPU"):
        resolve_gpu("local", nvml=FakeNvml(H200), environ={"CUDA_VISIBLE_DEVICES": hidden})


@pytest.mark.parametrize("wrong", ["7", "GPU-ffffffff", "MIG-ffffffff"])
def test_a_visible_device_that_is_not_there_is_no_gpu(wrong: str) -> None:
    with pytest.raises(NoGpuError, match=f"CUDA_VISIBLE_DEVICES={wrong}"):
        resolve_gpu("local", nvml=FakeNvml(H200), environ={"CUDA_VISIBLE_DEVICES": wrong})


def test_a_mig_slice_has_its_own_sms_and_memory_and_its_share_of_bandwidth() -> None:
    found = resolve_gpu("auto", nvml=FakeNvml(SLICED_A100), environ={}, cuda_order=_no_question)
    assert found.uuid == SLICE["uuid"]
    assert (found.gpu.id, found.gpu.name) == ("a100-sxm4-80gb", "NVIDIA A100-SXM4-80GB MIG 1g.10gb")
    assert found.gpu.sms == 14
    assert found.gpu.memory_bytes == 9728 * MIB
    assert found.free_bytes == 9715 * MIB
    assert found.gpu.memory_bandwidth_bytes_per_s == pytest.approx(2039e9 / 8)  # one of eight memory slices
    assert found.gpu.l2_bytes == 5 * MIB
    assert found.gpu.tdp_w is None
    assert found.gpu.fp16_flop_per_clock_per_sm == 2048


def test_a_mig_slice_is_found_by_its_uuid() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": str(BIG_SLICE["uuid"])}
    gpu = resolve_gpu("local", nvml=FakeNvml(H200, SLICED_A100), environ=environ).gpu
    assert gpu.sms == 42
    assert gpu.memory_bandwidth_bytes_per_s == pytest.approx(2039e9 / 2)


def test_a_sliced_card_named_by_its_own_uuid_is_its_first_slice() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": str(SLICED_A100["uuid"])}
    assert resolve_gpu("local", nvml=FakeNvml(SLICED_A100), environ=environ).uuid == SLICE["uuid"]


def test_mig_without_a_slice_is_no_gpu() -> None:
    with pytest.raises(NoGpuError, match="MIG is on and NVIDIA A100-SXM4-80GB has no slice"):
        resolve_gpu("local", nvml=FakeNvml(SLICED_A100 | {"slices": []}), environ={})


def test_a_slice_whose_sms_the_driver_keeps_to_itself_is_refused() -> None:
    secret = SLICED_A100 | {"slices": [{k: v for k, v in SLICE.items() if k != "attributes"}]}
    with pytest.raises(NoGpuError, match="does not tell the SMs of the slice"):
        resolve_gpu("local", nvml=FakeNvml(secret), environ={})


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeNvml(init=NVMLError("Driver Not Loaded")), "the NVIDIA driver does not answer: Driver Not Loaded"),
        (FakeNvml(), "the NVIDIA driver shows no GPU"),
    ],
)
def test_without_a_usable_gpu_auto_plans_for_the_default_and_local_refuses(fake: FakeNvml, reason: str) -> None:
    found = resolve_gpu("auto", nvml=fake, environ={})
    assert (found.source, found.gpu.id) == ("default", "a100-sxm4-80gb")
    assert found.note is not None
    assert reason in found.note
    assert "planning for NVIDIA A100-SXM4-80GB" in found.note
    assert "\n" not in found.note
    with pytest.raises(NoGpuError, match=reason):
        resolve_gpu("local", nvml=fake, environ={})


def test_no_driver_is_noticed_before_the_binding_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(nvml_module.ctypes, "CDLL", _raise_os_error)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"{name} was looked for"))
    with pytest.raises(NoGpuError, match="no NVIDIA driver is installed"):
        nvml_module.load_nvml()


def test_the_deprecated_package_is_told_from_the_right_one_and_the_cure_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deprecated = importlib.machinery.ModuleSpec("pynvml", None, is_package=True)  # it ships a folder pynvml/
    monkeypatch.setattr(nvml_module.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: deprecated)
    with pytest.raises(NoGpuError, match="pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py"):
        nvml_module.load_nvml()
    found = resolve_gpu("auto", environ={})
    assert found.source == "default"
    assert found.note is not None
    assert "pip uninstall -y pynvml" in found.note


def test_the_right_package_passes_for_the_right_one() -> None:
    found = importlib.util.find_spec("pynvml")
    if found is None:
        pytest.skip("nvidia-ml-py is not installed")
    assert found.submodule_search_locations is None


def test_the_environment_names_the_gpu_to_plan_for_where_there_is_none() -> None:
    environ = {"ADVISOR_GPU": "l40s"}
    found = resolve_gpu("auto", nvml=FakeNvml(), environ=environ)
    assert (found.source, found.gpu.id) == ("environment", "l40s")
    assert found.note == (
        "no usable NVIDIA GPU here (the NVIDIA driver shows no GPU): planning for NVIDIA L40S, named by ADVISOR_GPU"
    )
    assert resolve_gpu("auto", nvml=FakeNvml(H200), environ=environ).source == "local"
    assert resolve_gpu("t4", nvml=FakeNvml(H200), environ=environ).source == "named"


def test_an_environment_that_demands_a_local_gpu_is_refused_without_one() -> None:
    with pytest.raises(NoGpuError):
        resolve_gpu("auto", nvml=FakeNvml(), environ={"ADVISOR_GPU": "local"})
    with pytest.raises(UnknownNameError, match="no-such-gpu"):
        resolve_gpu("auto", nvml=FakeNvml(), environ={"ADVISOR_GPU": "no-such-gpu"})


def test_an_ambiguous_name_carries_its_note_along() -> None:
    found = resolve_gpu("v100", environ={})
    assert found.source == "named"
    assert found.note is not None
    assert found.note.startswith("'v100' fits 4 GPUs: took v100-sxm2-16gb")


def _raise_os_error(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_asking_cuda_for_its_order_gives_uuids_or_nothing() -> None:
    for text in ask_cuda(os.environ):  # nothing where there is no CUDA driver
        assert str(uuid.UUID(text)) == text
