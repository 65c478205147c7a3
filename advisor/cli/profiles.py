"""`advisor profiles`: the profiles measured here and those shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.gpus.card import card_key
from advisor.profile import FOLDER, GpuProfile, read_profile, shipped_profiles
from advisor.units import percent
from advisor.user_profiles import StoredProfile, age_days, installed_torch, profiles_folder, staleness, stored_profiles

_HEADERS = {"gpu": "GPU", "kind": "kind", "card": "card", "age_days": "age (days)", "software": "software",
            "sm_clock_hz": "SM clock", "power_limit_w": "power limit", "gemm_error": "GEMM error",
            "convolution_error": "conv error", "path": "file"}  # fmt: skip


@click.command()
@click.option("--measured", "only_measured", is_flag=True, help="Leave out the shipped ones.")
@output_options()
def command(only_measured: bool, format_: str, output: Path | None) -> None:
    """List profiles: those that `advisor bench` measured here, and those shipped.

    Errors are means over shapes that the fit has not seen. A profile measured on the very card is used by itself; any
    other is given with --profile. ADVISOR_DATA_DIR moves the folder.
    """
    stored = stored_profiles()
    rows = [_measured_row(entry) for entry in stored]
    if not only_measured:
        rows += [
            _shipped_row(read_profile(FOLDER / f"{name}.json"), FOLDER / f"{name}.json") for name in shipped_profiles()
        ]
    notes = [note for entry in stored for note in _notes(entry)]
    if not stored:
        notes.append(
            f"nothing was measured here ({profiles_folder()} is empty): `advisor bench --quick` takes a minute"
        )
    if format_ == "json":
        emit(to_json({"schema_version": 1, "folder": str(profiles_folder()), "profiles": rows, "notes": notes}), output)
        return
    if rows:
        emit(
            render_rows(rows if format_ == "csv" else [_printed(row) for row in rows], format_, headers=_HEADERS),
            output,
        )
    for note in notes:
        click.echo(f"advisor: {note}", err=True)


def _measured_row(entry: StoredProfile) -> dict[str, Any]:
    profile = entry.profile
    if profile is None:
        return _row(gpu=entry.path.stem, kind="damaged", path=entry.path)
    conditions = profile.conditions
    software = {
        "driver": conditions.driver,
        "CUDA": conditions.cuda,
        "torch": conditions.torch,
        "cuDNN": conditions.cudnn,
    }
    convolutions = profile.convolutions.get("fp16")
    gemm = profile.gemm.get("fp16")
    return _row(
        gpu=profile.gpu,
        kind=f"measured, {profile.extent}",
        path=entry.path,
        card=card_key(conditions.gpu_key),
        age_days=age_days(profile),
        software=", ".join(f"{name} {version}" for name, version in software.items() if version) or None,
        sm_clock_hz=conditions.sm_clock_hz,
        power_limit_w=conditions.power_limit_w,
        gemm_error=gemm.held_out.mean if gemm else None,
        convolution_error=convolutions.held_out.mean if convolutions else None,
    )


def _shipped_row(profile: GpuProfile, path: Path) -> dict[str, Any]:
    return _row(gpu=profile.gpu, kind="shipped", path=path, gemm_error=profile.error.mean)


def _row(gpu: str, kind: str, path: Path, **known: Any) -> dict[str, Any]:
    names = ("card", "age_days", "software", "sm_clock_hz", "power_limit_w", "gemm_error", "convolution_error")
    return {"gpu": gpu, "kind": kind, **{name: known.get(name) for name in names}, "path": str(path)}


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """A row as people read it; what does not apply to a shipped profile is left blank."""
    clock, power = row["sm_clock_hz"], row["power_limit_w"]
    shown = row | {
        "sm_clock_hz": None if clock is None else f"{clock / 1e6:.0f} MHz",
        "power_limit_w": None if power is None else f"{power:.0f} W",
        "path": Path(row["path"]).name,
    }
    for name in ("gemm_error", "convolution_error"):
        shown[name] = None if row[name] is None else percent(row[name], 1)
    if row["kind"] == "shipped":
        return {name: "" if value is None else value for name, value in shown.items()}
    return shown


def _notes(entry: StoredProfile) -> list[str]:
    if entry.profile is None:
        return [f"{entry.fault}; it is left out"]
    return [f"{entry.path.name}: {note}" for note in staleness(entry.profile, torch=installed_torch())]
