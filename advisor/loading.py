"""Which coefficients stand for a GPU: those of a named file, those measured on this very card, or the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from advisor.gpus import ResolvedGpu
from advisor.measured import MAX_BYTES, MeasuredProfile, gpu_profile_of, parse_measured_profile, step_profile_of
from advisor.profile import GpuProfile, load_profile
from advisor.step_profile import StepProfile, load_step_profile
from advisor.user_profiles import choose_measured, installed_torch, staleness, stored_profiles


@dataclass(frozen=True)
class Profiles:
    """The coefficients of matrix products and of all else, and what a user must know of them."""

    gemm: GpuProfile
    steps: StepProfile
    path: Path | None = None  # of a file that was measured on one card
    notes: tuple[str, ...] = ()


def profiles_for(resolved: ResolvedGpu, *, precision: str = "fp16", path: Path | None = None) -> Profiles:
    """Return the profiles for a GPU and a precision ("fp16", "bf16", "tf32", "fp32").

    `path` is a profile of either kind, measured or of matrix products alone. Without one, the newest profile measured
    on this very card, if there is one; what no other offers is shipped. Raises BadInputError or BrokenFileError for a
    file that cannot be read, is damaged, or was measured on another GPU.
    """
    if path is not None:
        measured = _measured_at(path)
        if measured is None:
            return Profiles(load_profile(resolved.gpu, path=path), load_step_profile())
        notes = staleness(measured, driver=resolved.driver_version, torch=installed_torch())
        return _of(measured, resolved, precision, path, tuple(notes))
    found = choose_measured(resolved, stored_profiles(gpu=resolved.gpu.id), torch=installed_torch())
    if found.profile is None:
        return Profiles(load_profile(resolved.gpu), load_step_profile(), notes=found.notes)
    return _of(found.profile, resolved, precision, found.path, found.notes)


def _of(
    measured: MeasuredProfile, resolved: ResolvedGpu, precision: str, path: Path | None, notes: tuple[str, ...]
) -> Profiles:
    gpu = resolved.gpu
    return Profiles(gpu_profile_of(measured, gpu), step_profile_of(measured, gpu, precision), path, notes)


def _measured_at(path: Path) -> MeasuredProfile | None:
    """The measured profile in a file; None: it is of another kind, or cannot be read, which its own reader will say."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        top = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    return parse_measured_profile(content, str(path)) if "conditions" in top else None
