"""The picture of a timeline: one box per CTA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advisor.errors import BadInputError
from advisor.plots.timeline import TimelinePanel, save_timeline

ONE_WAVE = TimelinePanel(
    "M 256", row=np.arange(4), wave=np.zeros(4, int), start_ns=np.zeros(4, int), end_ns=np.full(4, 900), slots=4,
    busy_share=1.0,
)  # fmt: skip
TWO_WAVES = TimelinePanel(
    "M 257", row=np.array([0, 1, 2, 3, 0]), wave=np.array([0, 0, 0, 0, 1]), start_ns=np.array([0, 0, 0, 0, 900]),
    end_ns=np.array([900, 900, 900, 900, 1800]), slots=4, busy_share=0.625,
)  # fmt: skip


def test_both_sides_of_a_boundary_are_drawn_with_their_waves(tmp_path: Path) -> None:
    save_timeline([ONE_WAVE, TWO_WAVES], tmp_path / "waves.svg", title="one CTA more", caption="made by hand")
    text = (tmp_path / "waves.svg").read_text()
    for words in ("M 256, 100 % of the slots", "M 257, 62 % of the slots", "wave 1: 4 CTAs", "wave 2: 1 CTA -->"):
        assert words in text


def test_the_same_timeline_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_timeline([TWO_WAVES], tmp_path / name, title="x", caption="y")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"\.png"):
        save_timeline([ONE_WAVE], tmp_path / "waves.gif", title="x", caption="y")
