"""Counts of held-out predictions: what is shipped, how it is read, and that it is what the profiles say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from advisor.errors import BrokenFileError
from advisor.profile import FOLDER as PROFILES
from advisor.profile import read_profile, shipped_profiles
from advisor.report.held_out import FOLDER, Density, load_held_out, parse_held_out
from advisor.step_profile import load_step_profile
from bench.accuracy.held_out import Rows, classes, counted, density, held_out_bytes, write_held_out_steps

SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
A100 = "a100-sxm4-80gb"


def changed(**fields: object) -> bytes:
    """The A100's file with fields of its FP16 products changed."""
    found = load_held_out(A100)
    assert found is not None
    products = msgspec.structs.replace(found.products["fp16"], **fields)
    return held_out_bytes(msgspec.structs.replace(found, products={"fp16": products}))


@pytest.mark.parametrize("gpu", SHIPPED)
def test_every_shipped_file_is_read_and_small(gpu: str) -> None:
    found = load_held_out(gpu)
    assert found is not None
    assert found.gpu == gpu
    assert (FOLDER / f"{gpu}.json").stat().st_size < 20_000


@pytest.mark.parametrize("gpu", SHIPPED)
def test_counts_add_up_to_the_rows_of_the_error(gpu: str) -> None:
    found = load_held_out(gpu)
    assert found is not None
    for products in found.products.values():
        assert products.rates.counts().sum() == products.error.rows
        assert products.times.counts().sum() >= products.error.rows
    for steps in found.steps.values():
        assert steps.times.counts().sum() == steps.error.rows


@pytest.mark.parametrize("gpu", shipped_profiles())
def test_the_error_is_the_one_that_the_profile_states(gpu: str) -> None:
    found = load_held_out(gpu)
    assert found is not None
    for precision, model in read_profile(PROFILES / f"{gpu}.json").gemm.items():
        error = found.products[precision].error
        assert (error.mean, error.median, error.p90, error.rows) == (
            model.held_out.mean, model.held_out.median, model.held_out.p90, model.held_out.rows,
        )  # fmt: skip


def test_counted_steps_are_those_that_the_step_profile_was_judged_on() -> None:
    found, stated = load_held_out("rtx-3090"), load_step_profile("rtx-3090").held_out["nhwc"]
    assert found is not None
    steps = found.steps["nhwc"]
    assert steps.error.rows == stated.rows
    # one is of |exp(e) - 1| and the other of |e|
    assert steps.error.median == pytest.approx(stated.median, abs=1e-3)


def test_the_shares_within_ten_and_twenty_per_cent_agree_with_the_cells() -> None:
    found = load_held_out(A100)
    assert found is not None
    products = found.products["fp16"]
    edges, counts = products.rates.ratio_edges(), products.rates.counts().sum(axis=0)
    for off, share in zip((0.1, 0.2), products.within, strict=True):
        surely = counts[(edges[:-1] >= 1 - off) & (edges[1:] <= 1 + off)].sum()
        perhaps = counts[(edges[1:] > 1 - off) & (edges[:-1] < 1 + off)].sum()
        assert surely / counts.sum() <= share + 1e-4
        assert perhaps / counts.sum() >= share - 1e-4


def test_rows_are_counted_in_the_cell_of_what_was_measured_and_of_their_ratio() -> None:
    """Edges at 1, 10, 100 s and 1/2, ..., 2: three cells of a factor 1.59."""
    found = Density(low=1.0, high=100.0, most_off=2.0, cells=3, columns=((1, 5), (0, 2, 0, 1)))
    assert found.counts().tolist() == [[0, 5, 0], [2, 0, 1]]
    assert found.edges().tolist() == pytest.approx([1, 10, 100])
    assert found.ratio_edges().tolist() == pytest.approx([0.5, 0.79370, 1.25992, 2])


def test_a_row_far_off_is_counted_in_the_outermost_cell() -> None:
    found = density(np.array([1e-3, 1e-3, 1.0]), np.log([1.0, 5.0, 0.1]))
    counts = found.counts()
    assert counts[0, [30, 60]].tolist() == [1, 1]  # 1.0 in the middle of 61 cells, 5.0 in the last
    assert counts[-1, 0] == 1
    assert counts.sum() == 3


def test_every_row_lies_between_the_edges() -> None:
    measured = np.geomspace(3e-6, 0.7, 50)
    found = density(measured, np.zeros(50))
    assert found.low <= measured.min()
    assert found.high >= measured.max()


def made_up_rows(count: int) -> Rows:
    """m = 256 and 30 us, predicted 15 % too long; all judged."""
    every = np.ones(count)
    return Rows(256 * every, 512 * every, 512 * every, 3e-5 * every, np.log(1.15) * every, every.astype(bool))


def test_a_class_tells_the_error_and_the_quantiles_of_its_rows() -> None:
    by_time, by_m = classes(made_up_rows(20))
    assert (by_time.name, by_m.name) == ("20 to 50 us", "m 128 to 511")
    assert (by_time.rows, by_time.mean, by_time.ratios) == (20, 0.15, (1.15,) * 5)


def test_a_class_of_few_rows_is_left_out() -> None:
    assert list(classes(made_up_rows(19))) == []


def test_rows_that_are_not_judged_are_told_by_the_reason() -> None:
    rows = made_up_rows(40)
    rows = replace(rows, judged=np.zeros(40, dtype=bool), n=np.r_[np.full(20, 128.0), np.full(20, 512.0)],
                   m=np.r_[np.full(20, 256.0), np.full(20, 16.0)])  # fmt: skip
    found = list(classes(rows))
    assert [(each.by, each.name, each.rows) for each in found] == [
        ("unjudged", "m below 32", 20),
        ("unjudged", "n or k below 256", 20),
    ]


def test_the_error_counts_judged_rows_alone_and_the_times_count_all() -> None:
    rows = made_up_rows(30)
    rows.judged[:10] = False
    found = counted(rows, A100, "made up", "2026-01-01", "all")
    assert (found.error.rows, found.rates.counts().sum(), found.times.counts().sum()) == (20, 20, 30)
    assert found.within == (0.0, 1.0)


def test_products_and_steps_of_one_gpu_share_its_file(tmp_path: Path) -> None:
    (tmp_path / f"{A100}.json").write_bytes(changed())
    known = load_held_out("rtx-3090")
    assert known is not None
    write_held_out_steps(known.steps, A100, tmp_path)
    found = load_held_out(A100, tmp_path)
    assert found is not None
    assert (set(found.products), set(found.steps)) == ({"fp16"}, {"nhwc", "nchw"})


def test_a_gpu_without_counts_has_none() -> None:
    assert load_held_out("rtx-2080-ti") is None


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"rates": Density(0.0, 1.0, 2.0, 61, ((0,),))}, "fp16.rates has edges that do not rise"),
        ({"rates": Density(1.0, 2.0, 2.0, 61, ())}, "fp16.rates has no columns"),
        ({"times": Density(1.0, 2.0, 2.0, 2, ((1, 4, 4),))}, "fp16.times has columns that are not"),
        ({"times": Density(1.0, 2.0, 2.0, 2, ((0, -4),))}, "fp16.times has columns that are not"),
        ({"times": Density(1.0, 2.0, 2.0, 10**6, ((0, 1),))}, "fp16.times has 1000000 cells"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place_and_the_cure(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(BrokenFileError, match=fault) as error:
        parse_held_out(changed(**fields), "x.json")
    assert "held-out counts x.json" in str(error.value)
    assert "python -m bench accuracy" in str(error.value)


def test_another_version_is_refused() -> None:
    with pytest.raises(BrokenFileError, match="version 7, this is 1"):
        parse_held_out(b'{"schema_version": 7, "gpu": "x"}', "x.json")
