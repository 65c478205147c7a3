"""Clocks, power and reasons, from recorded answers of drivers in place of NVML; each of them may be refused."""

from __future__ import annotations

# ruff: noqa: N802, N815 (the names are pynvml's)
import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bench.telemetry import (
    Telemetry,
    decode,
    open_telemetry,
    reason_names,
    slowdown_note,
    summarise,
    use_by_device,
)

MIB = 2**20


class NVMLError(Exception):
    """Stands for pynvml.NVMLError and all its kinds (NotSupported, NoPermission, ...)."""


class FakeNvml:
    """pynvml's functions over cards' answers; an answer that is missing is NotSupported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlMemory_v2 = 0x2000028
    nvmlClocksEventReasonNone, nvmlClocksEventReasonAll = 0, 511
    nvmlClocksEventReasonGpuIdle, nvmlClocksEventReasonSwPowerCap = 1, 4
    nvmlClocksEventReasonUserDefinedClocks, nvmlClocksEventReasonApplicationsClocksSetting = 2, 2
    nvmlClocksThrottleReasonHwSlowdown, nvmlClocksThrottleReasonSwThermalSlowdown = 8, 32  # the old names

    def __init__(self, *cards: dict[str, Any], init: Exception | None = None) -> None:
        self.cards, self.init, self.open = cards, init, 0

    def nvmlInit(self) -> None:
        if self.init:
            raise self.init
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.159.03"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> dict[str, Any]:
        for card in self.cards:
            for device in (card, *card.get("slices", ())):
                if device["uuid"] == uuid.decode():
                    return device
        raise NVMLError("NotFound")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: dict[str, Any]) -> dict[str, Any]:
        for card in self.cards:
            if any(handle is device for device in card.get("slices", ())):
                return card
        raise NVMLError("InvalidArgument")

    def nvmlDeviceGetMaxMigDeviceCount(self, card: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(card["slices"]):
            raise NVMLError("NotFound")
        found: dict[str, Any] = card["slices"][index]
        return found

    def nvmlDeviceGetMigMode(self, card: dict[str, Any]) -> list[int]:
        if "slices" not in card:
            raise NVMLError("NotSupported")
        return [1, 1]

    def nvmlDeviceGetUUID(self, handle: dict[str, Any]) -> str:
        return str(handle["uuid"])

    def nvmlDeviceGetName(self, handle: dict[str, Any]) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetClockInfo(self, handle: dict[str, Any], kind: int) -> Any:
        return answer(handle, "sm_mhz" if kind == self.NVML_CLOCK_SM else "memory_mhz")

    def nvmlDeviceGetMaxClockInfo(self, handle: dict[str, Any], kind: int) -> Any:
        return answer(handle, "max_mhz")

    def nvmlDeviceGetTemperature(self, handle: dict[str, Any], sensor: int) -> Any:
        return answer(handle, "celsius")

    def nvmlDeviceGetPowerUsage(self, handle: dict[str, Any]) -> Any:
        return answer(handle, "milliwatts")

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: dict[str, Any]) -> Any:
        return answer(handle, "limit_milliwatts")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: dict[str, Any]) -> Any:
        return answer(handle, "reasons")

    def nvmlDeviceGetUtilizationRates(self, handle: dict[str, Any]) -> Any:
        said = answer(handle, "busy")
        return SimpleNamespace(gpu=said.pop(0) if isinstance(said, list) else said)

    def nvmlDeviceGetMemoryInfo(self, handle: dict[str, Any], version: int | None = None) -> Any:
        used = answer(handle, "used")
        return SimpleNamespace(used=used if version else used + 615 * MIB)


def answer(handle: dict[str, Any], key: str) -> Any:
    if key not in handle:
        raise NVMLError("NotSupported")
    return handle[key]


# As nvidia-smi prints them for an H200 under load.
H200 = {
    "uuid": "GPU-11111111-0000-0000-0000-000000000000", "sm_mhz": 1830, "memory_mhz": 3201, "milliwatts": 698_000,
    "limit_milliwatts": 700_000, "celsius": 61, "reasons": 4, "busy": 0, "used": 0,
}  # fmt: skip
SLICE = {"uuid": "MIG-55555555-0000-0000-0000-000000000000", "used": 37 * MIB}
SLICED = H200 | {"uuid": "GPU-77777777-0000-0000-0000-000000000000", "slices": [SLICE]}


def of(card: dict[str, Any], nvml: FakeNvml | None = None) -> Telemetry:
    return open_telemetry(str(card["uuid"]), nvml or FakeNvml(card))


def test_a_reading_is_in_hertz_watts_and_names() -> None:
    assert of(H200).read() == {
        "sm_hz": 1.83e9, "memory_hz": 3.201e9, "power_w": 698.0, "power_limit_w": 700.0, "celsius": 61,
        "reasons": "sw_power_cap", "utilisation": 0.0, "used_bytes": 0,
    }  # fmt: skip


def test_a_card_is_found_by_uuid_whatever_the_order_and_however_cuda_writes_it() -> None:
    other = H200 | {"uuid": "GPU-22222222-0000-0000-0000-000000000000", "celsius": 30}
    nvml = FakeNvml(other, H200)
    assert open_telemetry("11111111-0000-0000-0000-000000000000", nvml).read()["celsius"] == 61
    assert open_telemetry("GPU-22222222-0000-0000-0000-000000000000", nvml).read()["celsius"] == 30


@pytest.mark.parametrize("refused", sorted(set(H200) - {"uuid", "used", "busy"}))
def test_a_refused_reading_is_left_out_and_the_others_stay(refused: str) -> None:
    found = of({key: value for key, value in H200.items() if key != refused}).read()
    assert len(found) == 7


def test_a_binding_without_a_function_leaves_its_reading_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetEnforcedPowerLimit")
    found = of(H200).read()
    assert "power_limit_w" not in found
    assert found["power_w"] == 698.0


def test_a_slice_tells_its_own_memory_and_its_cards_clocks() -> None:
    found = of(SLICE, FakeNvml(H200, SLICED)).read()
    assert found["used_bytes"] == 37 * MIB
    assert found["sm_hz"] == 1.83e9


def test_memory_that_the_driver_keeps_is_nobodys_use_also_before_driver_510(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(H200).read()["used_bytes"] == 0
    monkeypatch.delattr(FakeNvml, "nvmlMemory_v2")
    assert of(H200).read()["used_bytes"] == 615 * MIB  # version 1 cannot tell it apart


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (FakeNvml(init=NVMLError("Driver Not Loaded")), "the NVIDIA driver does not answer: Driver Not Loaded"),
        (FakeNvml(H200), "NVML knows no device with UUID GPU-9"),
    ],
)
def test_without_a_driver_or_card_there_is_nothing_to_read_and_it_says_why(nvml: FakeNvml, reason: str) -> None:
    telemetry = open_telemetry("GPU-9", nvml)
    assert not telemetry
    assert telemetry.reason == reason
    assert telemetry.read() == {}
    assert nvml.open == 0
    with telemetry.watch() as watch:
        pass
    assert watch.facts() == {}


def test_reasons_have_names_by_old_and_new_constants_and_unknown_bits_stay_visible() -> None:
    names = reason_names(FakeNvml)
    assert names == {
        1: "gpu_idle", 2: "applications_clocks_setting", 4: "sw_power_cap", 8: "hw_slowdown",
        32: "sw_thermal_slowdown",
    }  # fmt: skip
    assert decode(0, names) == "none"
    assert decode(4 + 32, names) == "sw_power_cap,sw_thermal_slowdown"
    assert decode(4 + 4096, names) == "sw_power_cap,0x1000"


def test_the_real_binding_names_every_reason_that_slows() -> None:
    names = reason_names(pytest.importorskip("pynvml"))
    assert {
        1: "gpu_idle", 4: "sw_power_cap", 8: "hw_slowdown", 32: "sw_thermal_slowdown", 64: "hw_thermal_slowdown",
        128: "hw_power_brake_slowdown",
    }.items() <= names.items()  # fmt: skip


def test_a_driver_from_before_535_is_asked_by_the_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeNvml, handle: Any) -> Any:
        raise NVMLError("FunctionNotFound")

    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda self, handle: 8, raising=False)
    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetCurrentClocksEventReasons", refuse)
    assert of(H200).read()["reasons"] == "hw_slowdown"
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetCurrentClocksEventReasons")  # as in an old binding
    assert of(H200).read()["reasons"] == "hw_slowdown"


def test_samples_are_taken_while_work_runs_and_not_after() -> None:
    card = dict(H200)
    telemetry = of(card)
    with telemetry.watch(interval_s=0.001) as watch:
        deadline = time.monotonic() + 10
        while len(watch.during.readings) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        card["sm_mhz"] = 1755
    count = len(watch.during.readings)
    assert count >= 3
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())
    facts = json.loads(json.dumps(watch.facts(), allow_nan=False))
    assert facts["before"]["sm_hz"] == 1.83e9
    assert facts["after"]["sm_hz"] == 1.755e9
    assert facts["during"]["n"] == count
    assert facts["during"]["reasons"] == {"sw_power_cap": count}
    assert "used_bytes" not in facts["during"]


def test_an_error_in_the_watched_work_ends_the_thread_and_comes_through() -> None:
    with pytest.raises(RuntimeError, match="illegal access"), of(H200).watch():
        raise RuntimeError("illegal access")
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())


def test_closed_telemetry_reads_nothing_and_lets_go_of_nvml_once() -> None:
    nvml = FakeNvml(H200)
    telemetry = of(H200, nvml)
    assert nvml.open == 1
    telemetry.close()
    telemetry.close()
    assert nvml.open == 0
    assert telemetry.read() == {}


def test_a_summary_gives_least_median_and_largest_over_those_that_were_read() -> None:
    found = summarise([{"sm_hz": 1.0, "reasons": "none"}, {"sm_hz": 4.0}, {"sm_hz": 2.0, "reasons": "a,b"}])
    assert found == {
        "n": 3, "sm_hz": {"min": 1.0, "median": 2.0, "max": 4.0}, "reasons": {"none": 1, "a": 1, "b": 1}
    }  # fmt: skip
    assert summarise([]) == {"n": 0}


def test_a_power_cap_is_normal_and_heat_is_not() -> None:
    capped = summarise([{"sm_hz": 1.7e9, "reasons": "sw_power_cap"}] * 3)
    assert slowdown_note(capped) is None
    assert slowdown_note({"n": 0}) is None
    hot = summarise([{"sm_hz": 1.2e9, "reasons": "sw_power_cap,hw_thermal_slowdown"}, {"reasons": "sw_power_cap"}])
    note = slowdown_note(hot)
    assert note is not None
    assert "(hw_thermal_slowdown) in 1 of 2 readings, down to 1.20 GHz" in note


def test_the_use_of_every_card_and_slice_is_told_before_anything_of_ours_runs() -> None:
    nvml = FakeNvml(H200 | {"used": 5 * MIB}, SLICED)
    found = use_by_device(nvml, sleep=lambda seconds: pytest.fail("nothing was busy"))
    assert found["11111111-0000-0000-0000-000000000000"] == {"utilisation": 0.0, "used_bytes": 5 * MIB}
    assert found["55555555-0000-0000-0000-000000000000"]["used_bytes"] == 37 * MIB
    assert nvml.open == 0


def test_what_ran_a_moment_ago_is_not_taken_for_use() -> None:
    slept: list[float] = []
    found = use_by_device(FakeNvml(H200 | {"busy": [80, 0]}), sleep=slept.append)
    assert slept == [1.0]
    assert found["11111111-0000-0000-0000-000000000000"]["utilisation"] == 0.0


def test_a_machine_without_a_driver_has_no_use_to_tell() -> None:
    assert use_by_device(FakeNvml(init=NVMLError("Driver Not Loaded"))) == {}


@pytest.mark.gpu
def test_a_gpu_tells_its_clock_and_power() -> None:
    torch = pytest.importorskip("torch")
    found = open_telemetry(str(torch.cuda.get_device_properties(0).uuid)).read()
    assert 1e8 < float(found["sm_hz"]) < 4e9
    assert found["reasons"]
