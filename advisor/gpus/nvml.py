"""The cards of this machine as their driver describes them, through NVML (package nvidia-ml-py, import name pynvml).

Every figure is optional: NVML refuses some in containers and on MIG slices, and some cards have none (GB10's memory).
All functions take the module, so that a recorded stand-in can take its place.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from advisor.errors import NoGpuError

INSTALL = "pip install --force-reinstall nvidia-ml-py"


@dataclass(frozen=True)
class Device:
    """A card, or a MIG slice of one; None where the driver does not say."""

    uuid: str
    name: str
    compute_capability: tuple[int, int] | None = None
    sms: int | None = None  # said of MIG slices only
    cuda_cores: int | None = None  # said of whole cards only
    memory_bytes: int | None = None
    reserved_bytes: int | None = None  # of them, kept by the driver
    free_bytes: int | None = None
    max_clock_hz: float | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    mig: bool = False  # a card with MIG on: CUDA sees its slices only
    slices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Machine:
    """The driver and its cards in NVML's order, which is that of the PCI bus."""

    driver_version: str | None
    devices: tuple[Device, ...]


def load_nvml() -> Any:
    """Import NVML's binding where there is a driver to talk to. Raises NoGpuError with the cure."""
    if sys.platform == "darwin":
        raise NoGpuError("macOS has no NVIDIA driver")
    if sys.platform.startswith("linux"):
        try:  # a millisecond, where importing the binding first would cost tens
            ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            raise NoGpuError("no NVIDIA driver is installed (libnvidia-ml.so.1 not found)") from None
    found = importlib.util.find_spec("pynvml")
    if found is None:
        raise NoGpuError(f"the package nvidia-ml-py is missing: {INSTALL}")
    if found.submodule_search_locations is not None:  # nvidia-ml-py is the single module pynvml.py
        raise NoGpuError(
            f"the deprecated package 'pynvml' (before 12) hides nvidia-ml-py: pip uninstall -y pynvml && {INSTALL}"
        )
    return importlib.import_module("pynvml")


def read_machine(nvml: Any) -> Machine:
    """Ask the driver once for everything. Raises NoGpuError where it does not answer or has no card."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NoGpuError(f"the NVIDIA driver does not answer: {error}") from error
    try:
        version = _optional(nvml, "nvmlSystemGetDriverVersion")
        devices = []
        for index in range(_optional(nvml, "nvmlDeviceGetCount") or 0):
            with suppress(nvml.NVMLError):  # a card that fell off the bus is no card
                devices.append(_device(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    if not devices:
        raise NoGpuError("the NVIDIA driver shows no GPU")
    return Machine(_text(version), tuple(devices))


def _device(nvml: Any, handle: Any) -> Device:
    def ask(function: str, *arguments: Any) -> Any:
        return _optional(nvml, function, handle, *arguments)

    mig_modes = ask("nvmlDeviceGetMigMode")
    mig = bool(mig_modes and mig_modes[0])
    total, reserved, free = _memory(nvml, handle)
    return Device(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)) or "",
        name=_text(nvml.nvmlDeviceGetName(handle)) or "",
        compute_capability=_pair(ask("nvmlDeviceGetCudaComputeCapability")),
        cuda_cores=ask("nvmlDeviceGetNumGpuCores"),
        memory_bytes=total,
        reserved_bytes=reserved,
        free_bytes=free,
        max_clock_hz=_scaled(ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM), 1e6),
        memory_bandwidth_bytes_per_s=_bandwidth(
            ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM), ask("nvmlDeviceGetMemoryBusWidth")
        ),
        mig=mig,
        slices=tuple(_slices(nvml, handle)) if mig else (),
    )


def _slices(nvml: Any, card: Any) -> list[Device]:
    slices = []
    for index in range(_optional(nvml, "nvmlDeviceGetMaxMigDeviceCount", card) or 0):
        handle = _optional(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", card, index)
        uuid = handle and _text(_optional(nvml, "nvmlDeviceGetUUID", handle))
        if not uuid:
            continue  # this place holds no slice
        attributes = _optional(nvml, "nvmlDeviceGetAttributes_v2", handle)
        total, reserved, free = _memory(nvml, handle)
        if total is None and attributes is not None:
            total = attributes.memorySizeMB * 2**20
        name = _text(_optional(nvml, "nvmlDeviceGetName", handle)) or _text(nvml.nvmlDeviceGetName(card)) or ""
        sms = getattr(attributes, "multiprocessorCount", None)
        slices.append(Device(uuid, name, sms=sms, memory_bytes=total, reserved_bytes=reserved, free_bytes=free))
    return slices


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None, int | None]:
    """Total, the driver's reserve and free; the reserve is told by version 2 of the call only (driver 510 on)."""
    info = _optional(nvml, "nvmlDeviceGetMemoryInfo", handle, getattr(nvml, "nvmlMemory_v2", None))
    if info is None:
        info = _optional(nvml, "nvmlDeviceGetMemoryInfo", handle)
    return getattr(info, "total", None), getattr(info, "reserved", None), getattr(info, "free", None)


def _bandwidth(clock_mhz: int | None, bus_bits: int | None) -> float | None:
    """Bytes per second: two transfers per clock, as NVML's memory clocks are given for GDDR and HBM alike."""
    return clock_mhz * 1e6 * 2 * bus_bits / 8 if clock_mhz and bus_bits else None


def _optional(nvml: Any, function: str, *arguments: Any) -> Any:
    """Call, and take NotSupported, NoPermission, an old driver or an old binding for "not said"."""
    call: Callable[..., Any] | None = getattr(nvml, function, None)
    if call is None:
        return None
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _pair(value: Any) -> tuple[int, int] | None:
    return (int(value[0]), int(value[1])) if value else None


def _scaled(value: float | None, factor: float) -> float | None:
    return value * factor if value else None
