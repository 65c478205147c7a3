"""Critical batches from reference convergence points: which rows and benchmarks are used, and what is shipped."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from advisor.errors import BadInputError
from advisor.planning.critical_batch import SHIPPED, FittedBatches, fit_critical_batch, fitted_batches, task_names
from bench.__main__ import main
from bench.critical_batch import (
    BENCHMARKS,
    Row,
    choose_rows,
    fit_all,
    fit_benchmark,
    held_out_errors,
    read_rows,
    shipped,
)
from tests.data import measured

COLUMNS = "round,benchmark,global_batch,runs,mean_to_converge,std_to_converge"
BATCHES = (100, 200, 400, 800, 1600)


def rows(
    *means: float | None, name: str = "resnet", batches: tuple[int, ...] = BATCHES, of: str = "4.0.0", spread: float = 0
) -> list[Row]:
    pairs = zip(batches, means, strict=True)
    return [Row(of, name, batch, 10, mean, spread * (mean or 0)) for batch, mean in pairs]


def doubling_at(critical: float, *, noise: float = 0.0, batches: tuple[int, ...] = BATCHES) -> list[float]:
    signs = (1, -1, -1, 1, 1)
    return [40 * (1 + b / critical) * (1 + s * noise) for b, s in zip(batches, signs, strict=False)]


# Rows


def test_rows_without_a_mean_or_with_runs_that_disagree_are_left_out_with_the_reason() -> None:
    found = rows(40, None, 50, 60, 80)
    found[2] = dataclasses.replace(found[2], deviation=26.0)
    used, left_out = choose_rows(found)
    assert [row.global_batch for row in used] == [100, 800, 1600]
    assert [(row.global_batch, row.reason) for row in left_out] == [
        (200, "no mean"),
        (400, "its 10 runs vary by 52 % of their mean"),
    ]


def test_the_round_with_most_rows_is_used_and_of_equals_the_newest() -> None:
    old, new = rows(40, 41, of="9.0.0", batches=(1, 2)), rows(42, 43, of="10.0.0", batches=(3, 4))
    assert [row.round for row in choose_rows(old + new)[0]] == ["10.0.0", "10.0.0"]
    more = rows(40, 41, 42, of="9.0.0", batches=(1, 2, 3))
    used, left_out = choose_rows(more + new)
    assert {row.round for row in used} == {"9.0.0"}
    assert left_out[0].reason == "of round 10.0.0, not 9.0.0"


# Benchmarks


def test_points_on_the_form_are_used() -> None:
    found = fit_benchmark("resnet", rows(*doubling_at(500, noise=0.01)))
    assert found.reason is None
    assert found.fit is not None
    assert found.fit.interval[0] < 500 < found.fit.interval[1]
    assert found.fit.critical_batch == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (rows(40, 50, 60, batches=(100, 200, 400)), "3 fit rows of one round, 4 are needed"),
        (rows(None, None, None, None, None), "0 fit rows"),
        (rows(40, 40, 40, 40, 40), "samples to target hardly rise with the batch from 100 to 1,600"),
        (rows(*doubling_at(200, batches=(100, 150, 200, 300)), batches=(100, 150, 200, 300)), "span a factor of 3"),
        (rows(*doubling_at(4000)), "its largest batch is 0.40 of the critical one"),
        (rows(*doubling_at(500, noise=0.1)), "the interval spans a factor of 3.6, 3 is allowed"),
        (rows(*doubling_at(500, noise=0.08)), r"a batch left out is missed by 11 % \(median\), 10 % is allowed"),
        (rows(40, 90, 41, 95, 120), "the interval has no bound, a factor of 3 is allowed"),
    ],
)
def test_a_benchmark_that_breaks_a_rule_is_not_used_and_the_rule_is_named(found: list[Row], reason: str) -> None:
    one = fit_benchmark("resnet", found)
    assert one.reason is not None
    assert re.search(reason, one.reason)


def test_the_same_rows_under_two_names_are_used_once_as_the_newer_round() -> None:
    means = doubling_at(500, noise=0.01)
    one, other = fit_all({"resnet": rows(*means, of="4.1.0"), "retinanet": rows(*means, of="5.1.0")})
    assert one.reason == "the same rows as retinanet"
    assert other.reason is None


def test_a_batch_left_out_is_predicted_from_the_others() -> None:
    batches, exact = np.array(BATCHES, float), np.array(doubling_at(500))
    assert held_out_errors(batches, exact) == pytest.approx(np.zeros(5), abs=1e-6)
    shifted = exact * [1, 1, 1.1, 1, 1]
    assert held_out_errors(batches, shifted)[2] == pytest.approx(1 - 1 / 1.1, abs=1e-6)


def test_a_benchmark_of_which_nothing_is_known_is_said_to_be_one() -> None:
    found = fit_all({"new": rows(*doubling_at(500, noise=0.01), name="new")})
    with pytest.raises(BadInputError, match="nothing is known of new"):
        shipped(found)


# What is shipped


def test_tasks_of_benchmarks_are_those_of_the_table() -> None:
    assert {about.task for about in BENCHMARKS.values()} <= set(task_names())
    assert {fit.benchmark for fit in fitted_batches().benchmarks} == set(BENCHMARKS)


@pytest.mark.parametrize(
    ("name", "critical"), [("resnet", 46_900), ("bert", 12_700), ("retinanet", 1_440), ("llama31_8b", 84)]
)
def test_fitted_values_are_those_of_an_earlier_fit_to_the_same_points(name: str, critical: float) -> None:
    fit = next(fit for fit in fitted_batches().benchmarks if fit.benchmark == name)
    assert fit.critical_batch == pytest.approx(critical, rel=0.005)
    assert 0.02 < fit.median_error < 0.055
    assert fit.median_error <= fit.largest_error
    assert fit.interval[0] < fit.critical_batch < fit.interval[1] <= 3 * fit.interval[0]


def test_the_shipped_file_is_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = measured("mlperf-rcp").parent
    written = tmp_path / "fits.json"
    assert main(["critical-batch", "--data", str(data), "--output", str(written)]) == 0
    assert written.read_bytes() == SHIPPED.read_bytes()
    lines = capsys.readouterr().out.splitlines()
    for name, why in (
        ("unet3d", "its batches span a factor of 3"),
        ("gpt3", "its largest batch is 0.47 of the critical one"),
        ("ssd", "the same rows as retinanet"),
        ("gnn", "the same rows as rgat"),
        ("flux1", "0 fit rows"),
        ("llama31_405b", "3 fit rows of one round"),
    ):
        assert any(line.startswith(f"{name} ") and why in line for line in lines)
    assert "left out: gpt3 at 3,072 of round 4.1.0: its 7 runs vary by 146 % of their mean" in lines


def test_every_benchmark_of_the_source_is_used_or_has_a_reason() -> None:
    found = msgspec.json.decode(SHIPPED.read_bytes(), type=FittedBatches)
    named = [fit.benchmark for fit in found.benchmarks] + [one.benchmark for one in found.not_used]
    assert sorted(named) == sorted(read_rows(measured("mlperf-rcp").parent))
    assert all(one.reason for one in found.not_used)


def test_scipy_finds_the_same_fit() -> None:
    from scipy.optimize import least_squares

    source = read_rows(measured("mlperf-rcp").parent)
    for name in BENCHMARKS:
        used, _ = choose_rows(source[name])
        batches, means = np.array([r.global_batch for r in used], float), np.array([r.mean for r in used], float)
        fit = fit_critical_batch(batches, means)

        def residual(x: np.ndarray, b: np.ndarray = batches, m: np.ndarray = means) -> np.ndarray:  # type: ignore[type-arg]
            return np.asarray(np.exp(x[0]) * (1 + b / np.exp(x[1])) / m - 1)

        start = np.log([means.min(), np.median(batches)])
        other = least_squares(residual, start, xtol=1e-12, ftol=1e-14, gtol=1e-12)
        assert np.exp(other.x) == pytest.approx([fit.least_samples, fit.critical_batch], rel=1e-4)


def test_a_missing_or_strange_file_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["critical-batch", "--data", str(tmp_path)]) == 2
    folder = tmp_path / "mlperf-rcp"
    folder.mkdir()
    (folder / "reference_convergence.csv").write_text("round,benchmark\n1.0.0,resnet\n")
    assert main(["critical-batch", "--data", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "--data names the folder" in errors[0]
    assert "has not the expected columns" in errors[1]


GOOD = "5.1.0,bert,256,20,2552704,218406"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no rows"),
        (f"{COLUMNS}\n".encode(), "has no rows"),
        (b"<!DOCTYPE html>", "has no rows"),
        (f"{COLUMNS}\n{GOOD}\n".encode("utf-16"), "is no CSV file in UTF-8"),
        *[
            (f"{COLUMNS}\n{row}\n".encode(), reason)
            for row, reason in (
                (GOOD.replace("2552704", "nan"), "cannot be"),
                (GOOD.replace("2552704", "inf"), "cannot be"),
                (GOOD.replace("2552704", "0"), "cannot be"),
                (GOOD.replace("218406", "nan"), "cannot be"),
                (GOOD.replace("218406", "-1"), "cannot be"),
                (GOOD.replace("256", "0"), "cannot be"),
                (GOOD.replace("256", "9" * 400), "cannot be"),
                (GOOD.replace("5.1.0", "v5"), "expected columns"),
                (GOOD.replace("20", "twenty"), "expected columns"),
            )
        ],
    ],
)
def test_a_damaged_file_is_refused_and_overwrites_nothing(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlperf-rcp").mkdir()
    (tmp_path / "mlperf-rcp" / "reference_convergence.csv").write_bytes(content)
    output = tmp_path / "fitted.json"
    assert main(["critical-batch", "--data", str(tmp_path), "--output", str(output)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert reason in error
    assert not output.exists()
