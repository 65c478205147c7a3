from __future__ import annotations

import csv
import io
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.errors import BadInputError
from bench.__main__ import main
from bench.case import Case, Plain, Result, Timing
from bench.compare import Verdict, compare, differences, judge, summary, unmatched
from bench.exchange import export_records
from bench.records import Row, open_records

ENVIRONMENT: Mapping[str, Any] = {"gpu_name": "NVIDIA H200", "gpu_uuid": "GPU-1", "sms": 132, "method_version": 1}


def case(**params: Plain) -> Case:
    return Case("gemm", "gemm", params)


def row(which: Case, samples_s: Sequence[float] | None, environment: Mapping[str, Any] = ENVIRONMENT) -> Row:
    result = Result("failed", "out of memory")
    if samples_s is not None:
        result = Result("ok", None, Timing(tuple(samples_s), 1, "cold", False, "good"))
    return Row("r", 1, which, result, environment, "2026-01-31T12:00:00.000+00:00")


def about(median_s: float, spread: float = 0.002, count: int = 21, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [median_s * math.exp(chance.gauss(0, spread)) for _ in range(count)]


def test_the_interval_is_that_of_the_published_example() -> None:
    # statpsych (Bonett), ci.ratio.median2: 43 / 37 = 1.162162, 95 % interval 0.927667 to 1.455933
    a = [32, 39, 26, 35, 43, 27, 40, 37, 34, 29, 49, 42, 40]
    b = [36, 44, 47, 42, 49, 39, 46, 31, 33, 48]
    found = judge(a, b, confidence=0.95)
    assert (found.ratio, found.ratio_low, found.ratio_high) == pytest.approx((1.162162, 0.927667, 1.455933), abs=1e-6)
    assert found.verdict == "AMBIGUOUS"


@pytest.mark.parametrize(
    "factor, verdict", [(1.0, "SAME"), (1.01, "SAME"), (1.05, "SLOWER"), (1 / 1.05, "FASTER"), (1.02, "AMBIGUOUS")]
)
def test_each_zone_has_its_verdict(factor: float, verdict: str) -> None:
    assert judge(about(1e-3), about(factor * 1e-3, seed=1)).verdict == verdict


def test_a_spread_too_wide_to_tell_is_ambiguous() -> None:
    found = judge(about(1e-3, 0.2), about(1.05e-3, 0.2, seed=1))
    assert (found.verdict, found.why) == ("AMBIGUOUS", "the interval crosses 2 %")


def test_a_median_that_jumps_between_two_clusters_is_ambiguous() -> None:
    # 4 of 7 samples are low, then 3 of 7: the medians lie 20 % apart, the samples are nearly the same
    low, high = ([t + 1e-9 * i for i in range(4)] for t in (1.0e-3, 1.2e-3))
    found = judge(low[:4] + high[:3], low[:3] + high[:4])
    assert found.ratio_low > 1.02
    assert (found.verdict, found.why) == ("AMBIGUOUS", "the samples overlap too much")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_samples_are_ambiguous_however_far_apart(count: int) -> None:
    found = judge([1e-3] * count, [2e-3] * 50)
    assert (found.verdict, found.ratio, found.why) == ("AMBIGUOUS", 2.0, "fewer than 5 samples")


def test_a_clock_that_shows_no_time_is_ambiguous() -> None:
    assert judge([0.0] * 9, [1e-9] * 9).verdict == "AMBIGUOUS"


def _draw(rng: np.random.Generator, shape: str, count: int, spread: float) -> list[float]:
    if shape == "normal":
        times = rng.normal(1, spread, count)
    elif shape == "skewed":
        times = 1 + rng.exponential(spread, count)
    elif shape == "heavy tails":
        times = np.exp(spread * rng.standard_t(2, count))
    else:  # two clocks
        times = 1 + spread * (rng.random(count) < 0.5) + rng.normal(0, spread / 20, count)
    found: list[float] = (1e-3 * np.maximum(times, 0.01)).tolist()
    return found


@pytest.mark.parametrize("shape", ["normal", "skewed", "heavy tails", "two clocks"])
@pytest.mark.parametrize("count", [5, 7, 20, 50])
def test_of_one_distribution_at_most_2_in_100_are_called_different(shape: str, count: int) -> None:
    rng = np.random.default_rng(7)
    tries = 400
    for spread in (0.01, 0.05, 0.2):
        verdicts = Counter(
            judge(_draw(rng, shape, count, spread), _draw(rng, shape, count, spread)).verdict for _ in range(tries)
        )
        assert verdicts["FASTER"] + verdicts["SLOWER"] <= 0.02 * tries  # the level is 1 in 100


@pytest.mark.parametrize("count, seen", [(7, 0.7), (10, 0.9), (20, 0.99)])
def test_a_shift_of_5_percent_under_noise_of_1_percent_is_seen(count: int, seen: float) -> None:
    rng = np.random.default_rng(8)
    tries = 300
    shifts: tuple[tuple[float, Verdict], ...] = ((1.05, "SLOWER"), (1 / 1.05, "FASTER"))
    for shift, verdict in shifts:
        verdicts = Counter(
            judge(_draw(rng, "normal", count, 0.01), [shift * t for t in _draw(rng, "normal", count, 0.01)]).verdict
            for _ in range(tries)
        )
        assert verdicts[verdict] >= seen * tries
        assert set(verdicts) <= {verdict, "AMBIGUOUS"}


def test_no_shift_under_noise_of_1_percent_is_the_same() -> None:
    rng = np.random.default_rng(9)
    verdicts = Counter(
        judge(_draw(rng, "normal", 30, 0.01), _draw(rng, "normal", 30, 0.01)).verdict for _ in range(200)
    )
    assert verdicts["SAME"] >= 0.95 * 200


def test_cases_are_matched_by_their_parameters_and_the_last_time_counts() -> None:
    a = [row(case(m=8), about(9e-3)), row(case(m=8), about(1e-3)), row(case(m=8), None), row(case(m=16), about(1e-3))]
    b = [row(case(m=16), about(2e-3)), row(case(m=8), about(1e-3))]
    found = compare(a, b)
    assert [(c.case.params["m"], c.judgement.verdict) for c in found] == [(8, "SAME"), (16, "SLOWER")]
    assert (found[1].a_samples, found[1].b_samples) == (21, 21)
    assert found[1].b_median_s == pytest.approx(2 * found[1].a_median_s)


def test_the_summary_has_the_geometric_mean_and_the_typical_difference() -> None:
    a = [row(case(m=m), [1e-3] * 9) for m in (1, 2, 3)]
    b = [row(case(m=1), [2e-3] * 9), row(case(m=2), [0.5e-3] * 9), row(case(m=3), [8e-3] * 9)]
    found = summary(compare(a, b))
    assert found["geometric_mean_ratio"] == pytest.approx(2.0)  # (2 * 1/2 * 8) ** (1/3)
    assert found["median_difference"] == pytest.approx(1.0)  # of ln 2, ln 2, ln 8
    assert found["verdicts"] == {"SAME": 0, "AMBIGUOUS": 0, "FASTER": 1, "SLOWER": 2}


def test_what_only_one_has_is_listed_with_the_reason() -> None:
    a = [row(case(m=1), about(1e-3)), row(case(m=2), about(1e-3)), row(case(m=9), None)]
    b = [row(case(m=2), None), row(case(m=3), about(1e-3))]
    found = [(missing.case.params["m"], missing.where, missing.reason) for missing in unmatched(a, b)]
    assert found == [(1, "a", "not measured"), (2, "a", "failed: out of memory"), (3, "b", "not measured")]


def test_other_methods_and_other_gpus_are_refused() -> None:
    a = [row(case(m=1), about(1e-3))]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"method_version": 2}, "method versions 1 and 2"),
        ({"gpu_name": "NVIDIA L4", "sms": 58}, r"NVIDIA H200 \(132 SMs\) and NVIDIA L4 \(58 SMs\).*--across-gpus"),
        ({"sms": 66}, "different GPUs"),  # a slice of one
    ]
    for change, said in changes:
        b = [row(case(m=1), about(1e-3), {**ENVIRONMENT, **change})]
        with pytest.raises(BadInputError, match=said):
            compare(a, b)
        if "method_version" not in change:
            assert len(compare(a, b, across_gpus=True)) == 1
    with pytest.raises(BadInputError, match="method versions"):
        compare(a, [row(case(m=1), about(1e-3), {**ENVIRONMENT, "method_version": 2})], across_gpus=True)


def test_no_case_in_common_is_an_error_not_a_pass() -> None:
    with pytest.raises(BadInputError, match="no case in common: A has a time of 1 cases and B of 0"):
        compare([row(case(m=1), about(1e-3))], [row(case(m=1), None)])


def test_what_differs_between_the_machines_is_said() -> None:
    a = [row(case(m=1), None, {**ENVIRONMENT, "torch": "2.11.0"})]
    b = [row(case(m=1), None, {**ENVIRONMENT, "gpu_uuid": "GPU-2", "torch": "2.12.0", "cudnn": 91002})]
    found = differences(a, b)
    assert found[1:] == ["torch: 2.11.0 -> 2.12.0", "cudnn: ?? -> 91002"]
    assert found[0].startswith("gpu_uuid: card-")
    assert "GPU" not in found[0]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Three cases: the same, 10 % slower, 10 % faster; and one that fails in B."""
    for name, factors in [("a", (1, 1, 1, 1)), ("b", (1, 1.1, 1 / 1.1, None))]:
        with open_records(tmp_path / f"{name}.db") as records:
            run = records.start_run(ENVIRONMENT, "measure")
            for m, factor in enumerate(factors, 1):
                which = Case("gemm", "gemm", {"m": m, "n": 4096, "k": 1024, "pass": "forward", "dtype": "fp16"})
                samples_s = None if factor is None else about(factor * 1e-4 * m, seed=m)
                records.add(run, which, row(which, samples_s).result)
    with open_records(tmp_path / "b.db") as records:
        export_records(records, tmp_path / "b.jsonl.gz", anonymous=True)
    return str(tmp_path / "a.db"), str(tmp_path / "b.jsonl.gz")


def test_the_table_ends_with_what_is_slower_and_the_sum(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["suite", "case", "A", "IQR", "B", "IQR", "B/A", "-", "1", "interval", "verdict"]
    assert [line.split()[-1] for line in lines[2:5]] == ["SAME", "FASTER", "SLOWER"]
    assert "gemm 2x4096x1024 forward fp16" in lines[4]
    assert "+10.0%" in lines[4]
    assert any("only in A: gemm 4x4096x1024 forward fp16 (B: failed: out of memory)" in line for line in lines)
    assert "3 cases: 1 SAME, 0 AMBIGUOUS, 1 FASTER, 1 SLOWER; B takes 1.0000 of A's time" in "\n".join(lines)


@pytest.mark.parametrize(
    "fail_on, swapped, code",
    [
        ((), False, 0),
        (("slower",), False, 1),
        (("slower",), True, 1),
        (("ambiguous",), False, 1),
        (("missing",), False, 1),
        (("missing",), True, 0),  # what only B has was not lost
    ],
)
def test_fail_on_is_exit_code_1(
    files: tuple[str, str], fail_on: Sequence[str], swapped: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    names = reversed(files) if swapped else files
    assert main(["compare", *names, *(f"--fail-on={what}" for what in fail_on)]) == code


def test_the_same_records_pass_every_check(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["compare", files[0], files[0], *(f"--fail-on={what}" for what in ("slower", "ambiguous", "missing"))])
        == 0
    )
    assert "4 SAME" in capsys.readouterr().out


def test_json_csv_and_markdown_hold_every_case(files: tuple[str, str], tmp_path: Path) -> None:
    found = {}
    for format_ in ("json", "csv", "markdown"):
        path = tmp_path / f"out.{format_}"
        assert main(["compare", *files, "--format", format_, "--output", str(path)]) == 0
        found[format_] = path.read_text()
    report = json.loads(found["json"])
    assert [c["judgement"]["verdict"] for c in report["comparisons"]] == ["SAME", "SLOWER", "FASTER"]
    assert report["missing"][0]["where"] == "a"
    assert report["schema_version"] == 1
    table = list(csv.DictReader(io.StringIO(found["csv"])))
    assert [line["verdict"] for line in table] == ["SAME", "FASTER", "SLOWER"]
    assert float(table[2]["ratio"]) == report["comparisons"][1]["judgement"]["ratio"]
    assert found["markdown"].count("\n| gemm ") == 3
    assert found["markdown"].splitlines()[1].startswith("| -")


def test_a_run_of_a_file_is_chosen_by_the_beginning_of_its_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.db"
    with open_records(path) as records:
        runs = [records.start_run(ENVIRONMENT, "measure") for _ in range(2)]
        for run, time_s in zip(runs, (1e-3, 2e-3), strict=True):
            records.add(run, case(m=8), row(case(m=8), about(time_s)).result)
    names = [f"{path}#{run.id}" for run in runs]
    assert main(["compare", *names, "--changed"]) == 0
    assert "1 SLOWER" in capsys.readouterr().out
    assert main(["compare", f"{path}#2", str(path)]) == 2
    assert f"2 runs of {path} begin with '2'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--suite", "conv"), "its suites are: gemm"),
        (("--threshold", "2"), "threshold 2.0 must lie between 0 and 1"),
        (("--confidence", "nan"), "confidence nan"),
    ],
)
def test_a_wrong_request_is_one_line(
    files: tuple[str, str], arguments: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *files, *arguments]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def test_of_many_cases_that_one_side_lacks_the_first_are_listed_and_the_rest_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    for path, count in zip(paths, (30, 1), strict=True):
        with open_records(path) as records:
            run = records.start_run(ENVIRONMENT, "test")
            for m in range(count):
                records.add(run, case(m=m), Result("ok", None, Timing((1e-3,) * 5, 1, "cold", False, "good")))
    assert main(["compare", *map(str, paths), "--changed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("only in A: gemm m=") for line in lines) == 20
    assert "only in A: 9 more; --format json lists them" in lines
    assert main(["compare", *map(str, paths), "--changed", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 29
    assert main(["compare", *map(str, paths), "--changed", "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("suite,kind,params,a_median_s,")  # a header, and no row
