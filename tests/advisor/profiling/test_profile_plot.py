from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advisor.errors import BadInputError
from advisor.plots.profile import _tick, save_profile
from tests.advisor.profiling.profiles import GROUP, memory_bound, small_profile

pytestmark = pytest.mark.filterwarnings("error")  # a glyph that no font has would be one


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_picture_is_the_same_on_every_run(tmp_path: Path, suffix: str) -> None:
    for name in ("first", "second"):
        save_profile(small_profile(), tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert len(first) > 5000


def test_the_picture_names_the_worst_kernel_its_gpu_and_its_file(tmp_path: Path) -> None:
    profile = small_profile(recorded_at="2024-10-28T23:06:30Z", versions={"cuda_runtime_version": "12.0"})
    save_profile(profile, tmp_path / "p.svg", command="advisor profile trace.json.gz --plot p.svg")
    text = (tmp_path / "p.svg").read_text()
    for part in (
        "conv 64&gt;64 3x3 on 56x56",
        "2.45 waves",
        "Tesla V100-SXM2-16GB",
        "trace.json.gz",
        "Where do the 8.00 ms",
        "2024-10-28 23:06 UTC, CUDA runtime 12.0",
        "advisor profile trace.json.gz",  # its dashes are no longer such in a comment of SVG
    ):
        assert part in text


def test_kernels_whose_waves_are_by_design_are_blamed_for_nothing(tmp_path: Path) -> None:
    for change in ({"split_k": True}, {"persistent": True}):
        save_profile(small_profile(kernels=(replace(GROUP, **change),)), tmp_path / "p.svg")
        assert "2.45 waves" not in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize(("share", "text"), [(1e-7, "0.00001 %"), (0.01, "1 %"), (1.0, "100 %")])
def test_ticks_are_written_without_exponents(share: float, text: str) -> None:
    assert _tick(share) == text


def test_hostile_names_cannot_break_the_picture(tmp_path: Path) -> None:
    profile = small_profile()
    name = "$\\frac{x$ \u4e2d\u6587 \x1b[31m" + "k" * 10_000
    hostile = replace(
        profile, kernels=(replace(GROUP, name=name),), operations=(replace(profile.operations[0], layer=name),),
        gpu=replace(profile.gpu, name=name), path=f"{name[:50]}.json", versions={name: name},
    )  # fmt: skip
    save_profile(hostile, tmp_path / "p.png")


@pytest.mark.parametrize(
    "kernels",
    [
        (),
        (replace(GROUP, waves=None, wave_efficiency=None),),
        (memory_bound("tiny", "elementwise", total_s=1e-12, count=1),),
        (replace(GROUP, total_s=0.0),),
    ],
)
def test_a_trace_without_known_waves_is_drawn_too(tmp_path: Path, kernels: tuple) -> None:
    save_profile(small_profile(kernels=kernels), tmp_path / "p.png")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="gif"):
        save_profile(small_profile(), tmp_path / "p.gif")
