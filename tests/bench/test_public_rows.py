"""Public timings as the measured rows of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advisor.errors import BadInputError
from bench.gemm_data import TABLES, Table
from bench.public_rows import TIMM_MODELS, grid_line, public_measured
from tests.data import measured


@pytest.fixture(scope="module")
def data() -> Path:
    return measured()


def made_up(time_s: list[float], *repeats: list[float]) -> Table:
    """m = 256, 257 of one (n, k) = (1024, 512)."""
    tables = np.array(repeats).reshape(len(repeats), 2, 1)
    return Table(np.array([256.0, 257]), np.array([[1024.0, 512]]), np.array(time_s)[:, None], tables)


def test_the_spread_of_a_line_is_that_between_the_versions_of_the_software() -> None:
    line = grid_line(made_up([2.0, 3.0], [1.5, np.nan], [2.5, np.nan]), 1024, 512, software="made up 1")
    assert line.time_s.tolist() == [2.0, 3.0]
    assert (line.low_s[0], line.high_s[0]) == (1.5, 2.5)
    assert np.isnan([line.low_s[1], line.high_s[1]]).all()  # measured by one version alone
    assert "the table of made up 1" in line.origin.text
    assert "the least and the greatest of this table and of 2 measured with other versions" in line.origin.text


def test_the_bars_of_a_line_hold_its_own_time() -> None:
    line = grid_line(made_up([2.0, 1.0], [3.0, 4.0]), 1024, 512, software="made up 1")
    assert (line.low_s.tolist(), line.high_s.tolist()) == ([2.0, 1.0], [3.0, 4.0])


@pytest.mark.parametrize("gpu", ["a100-sxm4-80gb", "h100-sxm-80gb", "b200-sxm"])
def test_every_shared_table_gives_a_line_over_m(data: Path, gpu: str) -> None:
    line = public_measured(data, gpu).products[0]
    assert (set(line.n.tolist()), set(line.k.tolist())) == ({12288}, {4096})
    assert len(line.m) >= 70
    assert line.fitted
    assert line.precision == "bf16"
    assert "Apache-2.0" in line.origin.text
    assert "clocks unknown" in line.origin.text


@pytest.mark.parametrize("gpu", ["a100-sxm4-80gb", "v100-sxm2-16gb"])
def test_of_other_peoples_tables_only_the_lines_of_a_figure_are_taken(data: Path, gpu: str) -> None:
    """Along M, N or K, as the sweeps and the alignment figures draw them; not whole tables."""
    lines = {
        (n, k) if len(set(each.m.tolist())) > 1 else (m, k) if len(set(each.n.tolist())) > 1 else (m, n)
        for each in public_measured(data, gpu).products
        for m, n, k in zip(each.m.tolist(), each.n.tolist(), each.k.tolist(), strict=True)
    }
    over_n, alignment = (2304, 4096), {(8192, 51200), (8192, 14336)}
    assert lines == ({(12288, 4096), over_n} | alignment if gpu.startswith("a100") else {over_n})


def test_one_row_past_256_costs_twice_the_time_on_the_a100(data: Path) -> None:
    """The cliff that the table is known for: x2.04."""
    line = public_measured(data, "a100-sxm4-80gb").products[0]
    at = dict(zip(line.m.tolist(), line.time_s.tolist(), strict=True))
    assert at[257] / at[256] == pytest.approx(2.04, abs=0.005)


def test_the_v100_reaches_85_2_tflops_at_2176_columns_and_69_8_at_2240(data: Path) -> None:
    """ksweep_high: its middle dimension is the contraction."""
    sweep = public_measured(data, "v100-sxm2-16gb").products[0]
    rate = dict(zip(sweep.n.tolist(), (2 * sweep.m * sweep.n * sweep.k / sweep.time_s / 1e12).tolist(), strict=True))
    assert (set(sweep.m.tolist()), set(sweep.k.tolist())) == ({2304}, {4096})
    assert (round(rate[2176], 1), round(rate[2240], 1)) == (85.2, 69.8)


def test_an_odd_contraction_reaches_72_tflops_on_the_a100(data: Path) -> None:
    sweep = next(each for each in public_measured(data, "a100-sxm4-80gb").products if "vocab_h" in each.origin.text)
    rate = 2.0 * sweep.m * sweep.n * sweep.k / sweep.time_s / 1e12
    assert rate[sweep.k == 14273][0] == pytest.approx(72.046)
    assert sweep.fitted  # the rates of unaligned products come from it


def test_the_card_with_less_memory_is_named(data: Path) -> None:
    texts = [each.origin.text for each in public_measured(data, "a100-sxm4-80gb").products[1:]]
    assert all("A100 of 40 GB" in text for text in texts)


def test_timms_steps_say_whether_the_fit_has_seen_the_model(data: Path) -> None:
    steps = {each.model: each for each in public_measured(data, "rtx-3090").steps}
    assert (steps["resnet50"].batch[0], "has not seen this model" in steps["resnet50"].origin.text) == (512, True)
    assert "the fit has seen this model" in steps["resnet101"].origin.text
    assert set(steps) <= set(TIMM_MODELS)


def test_a_gpu_without_public_rows_has_none(data: Path) -> None:
    assert not public_measured(data, "l4").anything


def test_missing_data_name_the_option(tmp_path: Path) -> None:
    assert "a100-sxm4-80gb" in TABLES
    with pytest.raises(BadInputError, match="--data names the folder"):
        public_measured(tmp_path, "a100-sxm4-80gb")
