"""Profiles that a user measured: kept, chosen for the very card, doubted where software or time has moved on."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from advisor.cli import cli
from advisor.errors import BadInputError
from advisor.gpus import ResolvedGpu, find_gpu
from advisor.gpus.card import card_key
from advisor.measured import SCHEMA_VERSION, Conditions, MeasuredProfile
from advisor.user_profiles import (
    STALE_DAYS,
    choose_measured,
    data_folder,
    profiles_folder,
    save_profile,
    staleness,
    stored_profiles,
)

UUID = "GPU-3f2a0c58-7b7e-4a0f-9d52-0123456789ab"
TODAY = datetime.date(2026, 11, 21)
CONDITIONS = Conditions(
    gpu_name="NVIDIA H200", gpu_key=card_key(UUID), compute_capability=(9, 0), sms=132, memory_bytes=141 * 10**9,
    method_version=1, driver="580.95", torch="2.11.0",
)  # fmt: skip
PROFILE = MeasuredProfile(SCHEMA_VERSION, "h200-sxm", "2026-11-20", "full", CONDITIONS)
THIS_CARD = ResolvedGpu(find_gpu("h200"), "local", uuid=UUID, driver_version="580.95")


def variant(**changes: object) -> MeasuredProfile:
    conditions = {k: changes.pop(k) for k in list(changes) if k in Conditions.__struct_fields__}
    return msgspec.structs.replace(PROFILE, conditions=msgspec.structs.replace(CONDITIONS, **conditions), **changes)


def test_a_key_tells_cards_apart_and_does_not_hold_their_uuid() -> None:
    assert card_key(UUID) == card_key(UUID.upper()) == card_key(card_key(UUID))
    assert card_key(UUID) != card_key(UUID.replace("ab", "ac"))
    assert not set(card_key(UUID).removeprefix("card-").split("-")) & set(UUID.split("-"))


def test_the_data_folder_is_the_users_or_the_one_that_the_environment_names() -> None:
    assert data_folder({"ADVISOR_DATA_DIR": "/somewhere"}) == Path("/somewhere")
    assert data_folder({}).name == "batchwave"
    assert profiles_folder({"ADVISOR_DATA_DIR": "/somewhere"}) == Path("/somewhere/profiles")


def test_a_second_profile_of_one_day_does_not_replace_the_first(tmp_path: Path) -> None:
    first, second = save_profile(PROFILE, tmp_path / "new"), save_profile(variant(extent="quick"), tmp_path / "new")
    assert first != second
    assert [entry.profile for entry in stored_profiles(tmp_path / "new")] == [PROFILE, variant(extent="quick")]


def test_the_profile_of_the_very_card_is_chosen_without_a_word(tmp_path: Path) -> None:
    path = save_profile(PROFILE, tmp_path)
    found = choose_measured(THIS_CARD, stored_profiles(tmp_path), today=TODAY, torch="2.11.0")
    assert (found.profile, found.path, found.notes) == (PROFILE, path, ())


def test_a_full_profile_goes_before_a_newer_quick_one_and_the_newer_of_two_full_ones_first(tmp_path: Path) -> None:
    for profile in (variant(extent="quick", fitted="2026-11-21"), variant(fitted="2026-11-19"), PROFILE):
        save_profile(profile, tmp_path)
    assert choose_measured(THIS_CARD, stored_profiles(tmp_path), today=TODAY).profile == PROFILE


def test_what_another_card_of_the_kind_measured_is_named_and_not_used(tmp_path: Path) -> None:
    path = save_profile(variant(gpu_key=card_key("GPU-other")), tmp_path)
    found = choose_measured(THIS_CARD, stored_profiles(tmp_path))
    assert found.profile is None
    assert found.notes == (f"{path} was measured on another card of its kind: to use it, give it with --profile",)
    planned = choose_measured(ResolvedGpu(find_gpu("h200"), "named"), stored_profiles(tmp_path))
    assert planned.profile is None and "a card of its kind" in planned.notes[0]


def test_another_gpu_hears_nothing_of_it(tmp_path: Path) -> None:
    save_profile(PROFILE, tmp_path)
    assert choose_measured(ResolvedGpu(find_gpu("a100"), "named"), stored_profiles(tmp_path)).notes == ()


def test_a_new_driver_and_torch_are_said_and_the_profile_still_used(tmp_path: Path) -> None:
    save_profile(variant(driver="550.54"), tmp_path)
    found = choose_measured(THIS_CARD, stored_profiles(tmp_path), today=TODAY, torch="2.12.0")
    assert found.profile is not None
    (note,) = found.notes
    assert "driver 550.54, now 580.95 and torch 2.11.0, now 2.12.0" in note and "advisor bench" in note


def test_a_profile_is_old_after_half_a_year_and_not_a_day_before() -> None:
    measured = datetime.date(2026, 11, 20)
    assert staleness(PROFILE, today=measured + datetime.timedelta(days=STALE_DAYS)) == []
    (note,) = staleness(PROFILE, today=measured + datetime.timedelta(days=STALE_DAYS + 1))
    assert "181 days old" in note


def test_what_went_wrong_while_measuring_is_said_whenever_the_profile_is_used() -> None:
    assert staleness(variant(warnings=("clocks fell",)), today=TODAY) == ["the measurements: clocks fell"]


def test_a_damaged_profile_of_this_gpu_is_said_and_left_out(tmp_path: Path) -> None:
    path = save_profile(PROFILE, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    found = choose_measured(THIS_CARD, stored_profiles(tmp_path))
    assert found.profile is None
    assert str(path) in found.notes[0] and "left out" in found.notes[0]


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(BadInputError, match="ADVISOR_DATA_DIR"):
        save_profile(PROFILE, Path("/proc/nowhere"))


def test_the_command_lists_measured_profiles_before_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVISOR_DATA_DIR", str(tmp_path))
    save_profile(variant(sm_clock_hz=1.98e9, power_limit_w=700.0), tmp_path / "profiles")
    (tmp_path / "profiles" / "broken.json").write_text("{")
    result = CliRunner().invoke(cli, ["profiles", "--format", "json"])
    found = json.loads(result.stdout)
    rows = found["profiles"]
    assert [row["kind"] for row in rows[:2]] == ["damaged", "measured, full"]
    assert rows[1]["software"] == "driver 580.95, torch 2.11.0" and rows[1]["card"] == card_key(UUID)
    assert {row["kind"] for row in rows[2:]} == {"shipped"}
    assert "broken.json" in found["notes"][0]


@pytest.mark.parametrize("format_", ["table", "markdown", "csv"])
def test_every_format_prints_the_clock_and_the_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.setenv("ADVISOR_DATA_DIR", str(tmp_path))
    save_profile(variant(sm_clock_hz=1.98e9), tmp_path / "profiles")
    result = CliRunner().invoke(cli, ["profiles", "--measured", "--format", format_])
    assert result.exit_code == 0
    assert ("1980000000.0" if format_ == "csv" else "1980 MHz") in result.stdout
    assert "shipped" not in result.stdout


def test_where_nothing_was_measured_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_DATA_DIR", str(tmp_path))
    result = CliRunner().invoke(cli, ["profiles"])
    assert "advisor bench --quick" in result.stderr
    assert "a100-sxm4-80gb" in result.stdout
