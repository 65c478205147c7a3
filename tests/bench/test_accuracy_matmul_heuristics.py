from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.accuracy import matmul_heuristics
from bench.gemm_data import read_table
from tests.data import measured


def test_without_the_package_the_report_says_it_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", None)  # what Python makes of a missing one
    assert "not installed and was not run" in matmul_heuristics.part(Path("nowhere"), {})


@pytest.mark.skipif(
    importlib.util.find_spec("nvMatmulHeuristics") is None, reason="nvMatmulHeuristics is not installed: optional"
)
def test_its_estimates_for_an_a100_are_of_the_right_size() -> None:
    root = measured("aiconfigurator-gemm").parent
    found = matmul_heuristics.errors({"a100-sxm4-80gb": read_table(root, "a100-sxm4-80gb")})
    assert found is not None
    assert np.abs(found["a100-sxm4-80gb"]).mean() < 0.5
