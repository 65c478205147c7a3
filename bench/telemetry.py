"""Clocks, power, temperature and why the clocks are what they are, through NVML; each reading optional.

Read before and after each case and sampled during it by a thread that calls NVML alone, never CUDA. A driver refuses
some readings in containers, on MIG slices and to users without rights: what is refused is left out, nothing fails.

A power cap while matrix products run is normal: training runs under it too. It is recorded and no sample is dropped.
"""

from __future__ import annotations

import math
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from advisor.errors import NoGpuError
from advisor.gpus.nvml import load_nvml, read_machine

Reading = dict[str, float | int | str]

SAMPLE_INTERVAL_S = 0.02
SLOWED = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")  # not a power cap
_PREFIXES = ("nvmlClocksEventReason", "nvmlClocksThrottleReason")  # driver 535 renamed them
_ALIASES = ("UserDefinedClocks", "None", "All")


@dataclass
class Samples:
    """What the thread read while work ran, in order."""

    readings: list[Reading] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """`summarise` of the readings."""
        return summarise(self.readings)


@dataclass
class Watch:
    """Telemetry of one case, as `Result.telemetry` keeps it."""

    before: Reading = field(default_factory=dict)
    during: Samples = field(default_factory=Samples)
    after: Reading = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """JSON-plain: "before" and "after" as read, "during" summarised; empty without any reading."""
        if not (self.before or self.during.readings or self.after):
            return {}
        return {"before": self.before, "during": self.during.summary(), "after": self.after}


class Telemetry:
    """Reads one card, or a MIG slice and, for what a slice does not tell, the card it is on."""

    def __init__(self, nvml: Any = None, handles: Sequence[Any] = (), reason: str | None = None) -> None:
        self.reason = reason  # why there is nothing to read
        self._handles = tuple(handles)
        self._nvml = nvml
        self._names = reason_names(nvml) if nvml else {}

    def __bool__(self) -> bool:
        return bool(self._handles)

    def read(self, *, quick: bool = False) -> Reading:
        """One reading of all that the driver tells.

        Keys: sm_hz, memory_hz, power_w, power_limit_w, celsius, reasons (names joined by commas, "none"), and unless
        `quick` also utilisation (share of the last moments with work, 0 to 1) and used_bytes (by all processes).
        """
        n, found = self._nvml, Reading()
        for key, ask in (_QUICK if quick else _QUICK | _SLOW).items():
            for handle in self._handles:
                try:
                    found[key] = ask(n, handle)
                    break
                except (n.NVMLError, AttributeError, TypeError):  # refused, or not in this binding
                    continue
        if "reasons" in found:
            found["reasons"] = decode(int(found["reasons"]), self._names)
        return found

    @contextmanager
    def sample_during(self, interval_s: float = SAMPLE_INTERVAL_S) -> Iterator[Samples]:
        """Read quickly every `interval_s` in a thread until the block ends, the first time at once."""
        samples = Samples()
        if not self:
            yield samples
            return
        done = threading.Event()

        def sample() -> None:
            while True:
                samples.readings.append(self.read(quick=True))
                if done.wait(interval_s):
                    return

        thread = threading.Thread(target=sample, name="telemetry", daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()

    @contextmanager
    def watch(self, interval_s: float = SAMPLE_INTERVAL_S) -> Iterator[Watch]:
        """Telemetry before, during and after the block: `Watch.facts` is what a result keeps.

        Quick readings, as a sweep has thousands of short cases.
        """
        watch = Watch(before=self.read(quick=True))
        with self.sample_during(interval_s) as watch.during:
            yield watch
        watch.after = self.read(quick=True)

    def driver(self) -> str | None:
        """Version of the driver."""
        with suppress(Exception):
            version = self._nvml.nvmlSystemGetDriverVersion()
            return version.decode() if isinstance(version, bytes) else str(version)
        return None

    def close(self) -> None:
        """Let go of NVML; every later reading is empty."""
        if self._handles:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._handles = ()


def open_telemetry(uuid: str, nvml: Any = None) -> Telemetry:
    """Telemetry of the card or MIG slice with this UUID, with or without "GPU-" or "MIG-" before it.

    By UUID and not by index, as NVML orders cards by PCI bus and knows nothing of CUDA_VISIBLE_DEVICES. Never fails:
    without a driver or the card, `reason` says why there is nothing to read. `nvml` stands in for the module.
    """
    try:
        nvml = nvml or load_nvml()
        nvml.nvmlInit()
    except NoGpuError as error:
        return Telemetry(reason=str(error))
    except nvml.NVMLError as error:
        return Telemetry(reason=f"the NVIDIA driver does not answer: {error}")
    handles = _handles(nvml, uuid)
    if not handles:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
        return Telemetry(reason=f"NVML knows no device with UUID {uuid}")
    return Telemetry(nvml, handles)


def use_by_device(nvml: Any = None, sleep: Callable[[float], object] = time.sleep) -> dict[str, Reading]:
    """Bare UUID -> utilisation and used_bytes of every card and MIG slice; empty without a driver.

    Utilisation is that of up to the last second: where something ran just now, it is read again a second later.
    """
    try:
        nvml = nvml or load_nvml()
        machine = read_machine(nvml)
    except NoGpuError:
        return {}
    uuids = [device.uuid for card in machine.devices for device in (card, *card.slices)]

    def read_all() -> dict[str, Reading]:
        found = {}
        for uuid in uuids:
            telemetry = open_telemetry(uuid, nvml)
            found[bare_uuid(uuid)] = {k: v for k, v in telemetry.read().items() if k in _SLOW}
            telemetry.close()
        return found

    found = read_all()
    if any(reading.get("utilisation") for reading in found.values()):
        sleep(1.0)
        found = read_all()
    return found


def bare_uuid(uuid: str) -> str:
    """Without "GPU-" or "MIG-" before it."""
    return re.sub(r"^(GPU|MIG)-", "", uuid)


def reason_names(nvml: Any) -> dict[int, str]:
    """Bit -> name of every reason this binding has a constant for, old or new: "sw_power_cap" ..."""
    names: dict[int, str] = {}
    for prefix in _PREFIXES:
        for constant in sorted(dir(nvml)):
            if constant.startswith(prefix) and constant.removeprefix(prefix) not in _ALIASES:
                words = re.findall(r"[A-Z][a-z0-9]*", constant.removeprefix(prefix))
                names.setdefault(int(getattr(nvml, constant)), "_".join(words).lower())
    return names


def decode(bits: int, names: Mapping[int, str]) -> str:
    """Names of the bits set, lowest first, joined by commas; "none" for no bit, hexadecimal for an unknown one."""
    found = [1 << i for i in range(bits.bit_length()) if bits >> i & 1]
    return ",".join(names.get(bit, hex(bit)) for bit in found) or "none"


def summarise(readings: Sequence[Reading]) -> dict[str, Any]:
    """JSON-plain: n, {min, median, max} of every number, and how many readings held each reason."""
    found: dict[str, Any] = {"n": len(readings)}
    for key in dict.fromkeys(key for reading in readings for key in reading):
        values = [reading[key] for reading in readings if key in reading]
        if key == "reasons":
            found[key] = dict(Counter(name for value in values for name in str(value).split(",")))
        else:
            numbers = [float(value) for value in values]
            found[key] = {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers)}
    return found


def slowdown_note(summary: Mapping[str, Any]) -> str | None:
    """One line if heat or the hardware's protection held the clocks down in `summarise`'s result, else None.

    A power cap ("sw_power_cap") is no such thing: it is how a card runs heavy products, in training as well.
    """
    counts: Mapping[str, int] = summary.get("reasons", {})
    slowed = [name for name in SLOWED if counts.get(name)]
    if not slowed:
        return None
    worst = max(counts[name] for name in slowed)
    clock = summary.get("sm_hz")
    fell = f", down to {clock['min'] / 1e9:.2f} GHz" if clock else ""
    return (
        f"clocks were held down ({', '.join(slowed)}) in {worst} of {summary['n']} readings{fell}: these times are too "
        "long; let the GPU cool and run again"
    )


def median_during(telemetry: Mapping[str, Any], what: str) -> float | None:
    """The median of a reading ("sm_hz", "power_w") while a case ran, of what `Watch.facts` keeps; None: not told."""
    during = telemetry.get("during")
    found = during.get(what) if isinstance(during, Mapping) else None
    median = found.get("median") if isinstance(found, Mapping) else None
    if isinstance(median, bool) or not isinstance(median, (int, float)) or not math.isfinite(median):
        return None
    return float(median)


def _handles(nvml: Any, uuid: str) -> list[Any]:
    bare = bare_uuid(uuid)
    for prefix in ("MIG-", "GPU-"):
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(f"{prefix}{bare}".encode())
        except nvml.NVMLError:
            continue
        try:
            return [handle, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)]
        except (nvml.NVMLError, AttributeError):  # a whole card, or a binding from before MIG
            return [handle]
    return []


def _reasons(n: Any, handle: Any) -> int:
    ask = getattr(n, "nvmlDeviceGetCurrentClocksEventReasons", None)
    if ask is not None:
        with suppress(n.NVMLError):  # a driver from before 535 has the old function only
            return int(ask(handle))
    return int(n.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _celsius(n: Any, handle: Any) -> int:
    return int(n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU))


def _used_bytes(n: Any, handle: Any) -> int:
    version = getattr(n, "nvmlMemory_v2", None)
    if version is not None:
        with suppress(n.NVMLError):  # from driver 510 on; version 1 counts the driver's reserve as used
            return int(n.nvmlDeviceGetMemoryInfo(handle, version).used)
    return int(n.nvmlDeviceGetMemoryInfo(handle).used)


_QUICK: dict[str, Callable[[Any, Any], float | int]] = {
    "sm_hz": lambda n, handle: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM) * 1e6,
    "memory_hz": lambda n, handle: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_MEM) * 1e6,
    "power_w": lambda n, handle: n.nvmlDeviceGetPowerUsage(handle) * 1e-3,
    "power_limit_w": lambda n, handle: n.nvmlDeviceGetEnforcedPowerLimit(handle) * 1e-3,
    "celsius": _celsius,
    "reasons": _reasons,
}
_SLOW: dict[str, Callable[[Any, Any], float | int]] = {
    "utilisation": lambda n, handle: n.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
    "used_bytes": _used_bytes,
}
