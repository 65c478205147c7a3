"""Where the profiles that a user measured are kept, and which of them stands for a card.

One file per measurement, in the user's data folder; none is ever replaced. A profile is used where it was measured:
on the very card, told by a hash of its UUID. What another card of the same kind measured is named and not used, for
cards of one kind differ by a few per cent, by their power limit by more. What was measured with another driver or
torch, or long ago, is used and said.
"""

from __future__ import annotations

import datetime
import glob
import importlib.metadata
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from advisor.errors import AdvisorError, BadInputError
from advisor.files import write_atomically
from advisor.gpus import ResolvedGpu
from advisor.gpus.card import card_key
from advisor.measured import MeasuredProfile, measured_profile_bytes, read_measured_profile

ENVIRONMENT = "ADVISOR_DATA_DIR"
RECORDS = "records.db"  # in the data folder
STALE_DAYS = 180  # half a year: drivers and libraries move kernels by 3-8 % between versions


@dataclass(frozen=True)
class StoredProfile:
    """One file of the folder: its profile, or what is wrong with it."""

    path: Path
    profile: MeasuredProfile | None
    fault: str | None = None


@dataclass(frozen=True)
class MeasuredChoice:
    """The measured profile that stands for a card, if any, and what must be said about it."""

    profile: MeasuredProfile | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's data folder: ADVISOR_DATA_DIR, else what the platform gives for one. It may not exist yet."""
    given = environ.get(ENVIRONMENT, "").strip()
    if given:
        return Path(given)
    from platformdirs import user_data_path

    return user_data_path("batchwave", appauthor=False)


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it, where it is not there. Raises BadInputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"cannot make {folder}: {error.strerror}; set {ENVIRONMENT} to a folder that can be written"
        ) from error
    return folder


def default_records(name: str = RECORDS) -> Path:
    """Where `advisor bench` records unless told; the folder is made. Raises BadInputError where it cannot be."""
    return make_folder(data_folder()) / name


def profiles_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where measured profiles are kept."""
    return data_folder(environ) / "profiles"


def save_profile(profile: MeasuredProfile, folder: Path | None = None) -> Path:
    """Write a profile beside the earlier ones and return its path. Raises BadInputError where it cannot be written."""
    folder = profiles_folder() if folder is None else folder
    stem = f"{profile.gpu}-{profile.conditions.gpu_key[-8:]}-{profile.fitted}"
    make_folder(folder)
    taken = {path.stem for path in folder.glob(f"{stem}*.json")}
    count = next(i for i in range(1, len(taken) + 2) if f"{stem}-{i:02d}" not in taken)
    path = folder / f"{stem}-{count:02d}.json"
    write_atomically(path, measured_profile_bytes(profile))
    return path


def stored_profiles(folder: Path | None = None, *, gpu: str = "") -> tuple[StoredProfile, ...]:
    """Every profile of the folder, or of one kind of GPU by its id, oldest first; a damaged file with its fault."""
    folder = profiles_folder() if folder is None else folder
    found = [_read(path) for path in folder.glob(f"{glob.escape(gpu)}*.json")]
    return tuple(sorted(found, key=lambda entry: (entry.profile.fitted if entry.profile else "", entry.path.name)))


def _read(path: Path) -> StoredProfile:
    try:
        return StoredProfile(path, read_measured_profile(path))
    except AdvisorError as error:
        return StoredProfile(path, None, str(error))


def choose_measured(
    resolved: ResolvedGpu,
    stored: Iterable[StoredProfile],
    *,
    today: datetime.date | None = None,
    torch: str | None = None,
) -> MeasuredChoice:
    """Choose the newest profile of the very card, a full one before a quick one; and say what stands against it.

    `torch`: the version installed, if any. A card that is only planned for has no UUID: what was measured on its kind
    is named, and given by --profile.
    """
    stored = tuple(stored)
    notes = [
        f"{entry.fault}; it is left out"
        for entry in stored
        if entry.fault and entry.path.stem.startswith(resolved.gpu.id)
    ]
    key = card_key(resolved.uuid) if resolved.uuid else None
    own = [
        (e.path, e.profile)
        for e in stored
        if e.profile is not None and e.profile.gpu == resolved.gpu.id and card_key(e.profile.conditions.gpu_key) == key
    ]
    if not own:
        others = [e for e in stored if e.profile is not None and e.profile.gpu == resolved.gpu.id]
        if others:
            newest = others[-1]
            whose = "another card of its kind" if key else "a card of its kind"
            notes.append(f"{newest.path} was measured on {whose}: to use it, give it with --profile")
        return MeasuredChoice(notes=tuple(notes))
    path, profile = max(own, key=lambda entry: (entry[1].extent == "full", entry[1].fitted, entry[0].name))
    notes += staleness(profile, driver=resolved.driver_version, torch=torch, today=today)
    return MeasuredChoice(profile, path, tuple(notes))


def staleness(
    profile: MeasuredProfile,
    *,
    driver: str | None = None,
    torch: str | None = None,
    today: datetime.date | None = None,
) -> list[str]:
    """What makes a profile doubtful: its age, or software that has changed since. Empty: nothing."""
    measured, cure = profile.conditions, "measure anew with `advisor bench`"
    days = age_days(profile, today)
    found = [f"the measured profile is {days} days old: {cure}"] if days > STALE_DAYS else []
    changed = [
        f"{name} {then}, now {now}"
        for name, then, now in (("driver", measured.driver, driver), ("torch", measured.torch, torch))
        if then and now and then != now
    ]
    if changed:
        found.append(
            f"the profile was measured with {' and '.join(changed)}: kernels move by 3-8 % between versions; {cure}"
        )
    found += [f"the measurements: {warning}" for warning in measured.warnings]
    return found


def installed_torch() -> str | None:
    """The version of torch that is installed, without importing it; None: there is none."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def age_days(profile: MeasuredProfile, today: datetime.date | None = None) -> int:
    """Days since the profile was fitted. Raises BadInputError where its date is none."""
    today = today or datetime.datetime.now(tz=datetime.timezone.utc).date()
    try:
        return (today - datetime.date.fromisoformat(profile.fitted)).days
    except ValueError as error:
        raise BadInputError(f"the profile of {profile.gpu} is dated {profile.fitted!r}: fit it anew") from error
