"""Which coefficients stand for a GPU: the measured ones where the very card was measured, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import advisor.step
from advisor.errors import BadInputError, BrokenFileError
from advisor.gemm import gemm_time
from advisor.gpus import ResolvedGpu, find_gpu
from advisor.gpus.card import card_key
from advisor.loading import profiles_for
from advisor.measured import SCHEMA_VERSION, Conditions, MeasuredProfile, measured_profile_bytes
from advisor.profile import FOLDER, load_profile
from advisor.step import prepare
from advisor.step_profile import load_step_profile
from advisor.user_profiles import profiles_folder, save_profile

UUID = "GPU-3f2a0c58-7b7e-4a0f-9d52-0123456789ab"
H200 = find_gpu("h200")
THIS_CARD = ResolvedGpu(H200, "local", free_bytes=140 * 10**9, uuid=UUID, driver_version="580.95")


def half_as_fast() -> MeasuredProfile:
    """A card that reaches half the rate of the shipped profile, measured on it."""
    shipped = load_profile(H200).gemm["fp16"]
    slow = msgspec.structs.replace(shipped.coefficients, efficiency=shipped.coefficients.efficiency / 2)
    model = msgspec.structs.replace(shipped, kind="measured", coefficients=slow, fitted="2026-11-20")
    conditions = Conditions(
        gpu_name=H200.name, gpu_key=card_key(UUID), compute_capability=(9, 0), sms=132, memory_bytes=141 * 10**9,
        method_version=1, driver="580.95",
    )  # fmt: skip
    return MeasuredProfile(SCHEMA_VERSION, H200.id, "2026-11-20", "full", conditions, gemm={"fp16": model})


@pytest.fixture
def measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_DATA_DIR", str(tmp_path))
    return save_profile(half_as_fast(), profiles_folder())


def long_product_s(resolved: ResolvedGpu, path: Path | None = None) -> float:
    return float(gemm_time(profiles_for(resolved, path=path).gemm, resolved.gpu, 8192, 8192, 8192).time_s)


def test_the_card_that_was_measured_is_predicted_by_its_own_profile(measured_here: Path) -> None:
    found = profiles_for(THIS_CARD)
    assert found.path == measured_here
    assert found.gemm.describe() == "measured on this GPU (2026-11-20)"
    planned = long_product_s(ResolvedGpu(H200, "named"))
    assert 1.3 * planned < long_product_s(THIS_CARD) < 2 * planned  # bound by its rate, and by power a little


def test_a_planned_card_of_the_kind_keeps_the_shipped_profile_and_hears_of_the_other(measured_here: Path) -> None:
    found = profiles_for(ResolvedGpu(H200, "named"))
    assert found.gemm.describe().startswith("fitted to public measurements")
    assert found.steps is load_step_profile()
    assert str(measured_here) in found.notes[0]


def test_a_named_measured_profile_is_used_for_a_planned_card_too(measured_here: Path) -> None:
    named = profiles_for(ResolvedGpu(H200, "named"), path=measured_here)
    assert named.gemm.describe().startswith("measured")


def test_a_profile_of_matrix_products_alone_can_be_named_as_before(measured_here: Path) -> None:
    found = profiles_for(THIS_CARD, path=FOLDER / "h200-sxm.json")
    assert found.gemm.describe().startswith("fitted to public measurements")


def test_a_profile_measured_on_another_gpu_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "h200.json"
    path.write_bytes(measured_profile_bytes(half_as_fast()))
    with pytest.raises(BadInputError, match="measured on h200-sxm, not a100-sxm4-80gb"):
        profiles_for(ResolvedGpu(find_gpu("a100"), "named"), path=path)


def test_a_damaged_named_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h200.json"
    path.write_bytes(measured_profile_bytes(half_as_fast())[:-50])
    with pytest.raises(BrokenFileError, match=r"h200\.json"):
        profiles_for(THIS_CARD, path=path)
    path.write_bytes(measured_profile_bytes(half_as_fast()).replace(b'"full"', b'"half"'))
    with pytest.raises(BrokenFileError, match="extent"):
        profiles_for(THIS_CARD, path=path)


def test_a_recommendation_on_the_measured_card_says_so(measured_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisor.step, "resolve_gpu", lambda _: THIS_CARD)
    setup = prepare("resnet50")
    assert setup.describe_profile().startswith("measured on this NVIDIA H200 (2026-11-20, driver 580.95")
    assert setup.predict([128])[0].time_s > 0


def test_a_changed_driver_is_among_the_notes_of_a_recommendation(
    measured_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = ResolvedGpu(H200, "local", uuid=UUID, driver_version="590.10")
    monkeypatch.setattr(advisor.step, "resolve_gpu", lambda _: newer)
    assert any("driver 580.95, now 590.10" in note for note in prepare("resnet50").notes())
