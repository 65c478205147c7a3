from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import advisor
from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus import find_gpu
from advisor.profile import (
    FOLDER,
    MAX_BYTES,
    distance,
    load_profile,
    parse_profile,
    profile_bytes,
    read_profile,
    shipped_profiles,
)

A100 = find_gpu("a100-sxm4-80gb")


@pytest.fixture
def document() -> Any:
    return json.loads((FOLDER / "a100-sxm4-80gb.json").read_text())


def test_every_shipped_profile_reads_and_names_its_gpu_and_origin() -> None:
    for name in shipped_profiles():
        profile = read_profile(FOLDER / f"{name}.json")
        assert profile.gpu == name == find_gpu(name).id
        for model in profile.gemm.values():
            assert model.gpu == name
            assert "commit" in model.origin
            assert model.rows > 100
            assert 0 < model.held_out.mean < 0.3


def test_a_profile_writes_and_reads_the_same() -> None:
    profile = read_profile(FOLDER / "h200-sxm.json")
    assert parse_profile(profile_bytes(profile), "again") == profile


def test_a_gpu_with_timings_uses_its_own() -> None:
    profile = load_profile(A100)
    assert profile.borrowed_from is None
    assert "this GPU" in profile.describe()
    assert profile.error.mean < 0.05


@pytest.mark.parametrize(
    ("gpu", "donor"),
    [
        ("a100-pcie-40gb", "a100-sxm4-80gb"),
        ("rtx-3090", "rtx-pro-6000-server"),  # a graphics die, at half rate and so not held back by its power limit
        ("l4", "l40s"),  # 72 W: held back as the L40S is
        ("rtx-5090", "rtx-pro-6000-server"),
        ("h100-pcie", "h100-sxm-80gb"),
    ],
)
def test_another_gpu_borrows_the_nearest_and_says_so(gpu: str, donor: str) -> None:
    found = find_gpu(gpu)
    profile = load_profile(found)
    assert profile.borrowed_from == donor
    assert f"borrowed from {donor}" in profile.describe()
    assert profile.note is not None
    assert found.id in profile.note
    assert profile.error == profile.gemm["fp16"].borrowed


def test_a_card_that_its_power_limit_halves_lends_only_to_its_like() -> None:
    """T4: 70 W for 65 TFLOP/s. L4 has less power for its peak, an RTX 3090 four times as much."""
    lenders = {gpu: load_profile(find_gpu(gpu)).gemm["fp32"].gpu for gpu in ("t4", "l4", "rtx-3090")}
    assert lenders["t4"] == lenders["l4"] == "t4"
    assert lenders["rtx-3090"] != "t4"


def test_a_geforce_reaches_nearly_its_peak() -> None:
    """Half-rate Tensor Cores leave power to spare: an RTX 3090 must not look held back as an L40S is."""
    found = advisor.predict_gemm(8192, 8192, 8192, gpu="rtx-3090")
    assert 62 < found.tflops < 71.2


def test_a_gpu_is_nearest_to_itself() -> None:
    assert distance(A100, A100) == (0, 0, 0, 0)


def test_a_given_file_wins_and_lacks_nothing(tmp_path: Path, document: Any) -> None:
    document["gemm"]["fp16"]["kind"] = "measured"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document))
    profile = load_profile(A100, path)
    assert "measured on this GPU" in profile.describe()
    assert "fp32" in profile.gemm


def set_at(document: Any, value: object, *keys: str) -> Any:
    at = document["gemm"]["fp16"]
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return document


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("coefficients", "efficiency"), -1.0, "efficiency is -1.0"),
        (("coefficients", "efficiency"), 0.0, "efficiency is 0.0"),
        (("coefficients", "efficiency"), "fast", "efficiency"),
        (("coefficients", "tiles"), [], "tiles"),
        (("correction", "log_permille"), [0] * 7, "holds 7 values"),
        (("correction", "m"), [2, 1], "rising"),
        (("correction", "fade_octaves"), 0.0, "fade_octaves"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_broken_profile_names_place_and_cure(document: Any, keys: tuple[str, ...], value: object, said: str) -> None:
    with pytest.raises(BrokenFileError, match=said) as caught:
        parse_profile(json.dumps(set_at(document, value, *keys)).encode(), "mine.json")
    assert "mine.json" in str(caught.value)
    assert "bench fit" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": NaN}'])
def test_what_is_no_profile_is_refused(content: bytes) -> None:
    with pytest.raises(BrokenFileError):
        parse_profile(content, "mine.json")


def test_another_version_is_refused(document: Any) -> None:
    document["schema_version"] = 99
    with pytest.raises(BrokenFileError, match="version 99"):
        parse_profile(json.dumps(document).encode(), "mine.json")


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere"):
        read_profile(tmp_path / "nowhere.json")
    huge = tmp_path / "huge.json"
    huge.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(BrokenFileError, match="limit"):
        read_profile(huge)
