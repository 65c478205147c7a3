"""What a report shows of a records file: which rows, what becomes of them, and what is said of the others.

Every measurement here is made up.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.__main__ import main
from bench.case import Case, Result, Timing
from bench.exchange import export_records
from bench.records import Records, open_records
from bench.sampling import Sample
from bench.suites.gemm import gemm_case
from bench.suites.train import train_case
from bench.suites.waves import kernels_case

UUID = "GPU-3f2a0c58-7b7e-4a0f-9d52-0123456789ab"
ENVIRONMENT = {
    "method_version": 1, "device": "cuda", "gpu_name": "NVIDIA H200", "gpu_uuid": UUID, "capability": "9.0", "sms": 132,
    "memory_bytes": 141 * 10**9, "power_limit_w": 700.0, "driver": "580.95", "cuda": "13.0", "cudnn": 91200,
    "torch": "2.13.0", "triton": "3.9.0", "busy": None,
}  # fmt: skip
TELEMETRY = {"during": {"n": 2, "sm_hz": {"median": 1.755e9}, "power_w": {"median": 600.0}, "reasons": {"none": 2}}}


def took(*samples_s: float, host_bound: bool = False, quality: Any = "good", **facts: Any) -> Result:
    timing = Timing(samples_s, 10, "cold", True, quality, host_bound)
    return Result("ok", timing=timing, facts=facts, telemetry=TELEMETRY)


def record(records: Records, *measured: tuple[Case, Result], **environment: object) -> None:
    run = records.start_run(ENVIRONMENT | environment, "advisor bench", seed=1, budget_s=60.0)
    for case, result in measured:
        records.add(run, case, result)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def read(path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str, of: Path = path) -> Any:
        assert main(["report-rows", str(of), *words]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_each_pass_is_the_product_that_it_computes_with_the_quartiles_of_its_samples(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(
            records,
            (gemm_case(512, 4096, 1024), took(1e-5, 2e-5, 3e-5, 4e-5, 5e-5)),
            (gemm_case(512, 4096, 1024, pass_="dgrad"), took(6e-5)),
            (gemm_case(512, 4096, 1024, pass_="wgrad"), took(7e-5)),
        )
    by_pass = {series["pass"]: series for series in read()["products"]}
    sizes = {name: (series["m"], series["n"], series["k"]) for name, series in by_pass.items()}
    assert sizes == {
        "forward": ([512], [4096], [1024]), "dgrad": ([512], [1024], [4096]), "wgrad": ([4096], [1024], [512]),
    }  # fmt: skip
    forward = by_pass["forward"]
    assert (forward["low_s"], forward["time_s"], forward["high_s"]) == ([2e-5], [3e-5], [4e-5])
    assert (forward["precision"], forward["library"], forward["mode"]) == ("fp16", "cublas", "cold")


def test_the_kernel_is_the_one_that_took_most_of_the_profiled_call_whatever_the_caches(path: Path, read: Any) -> None:
    launched = [{"name": "split_k_reduce", "duration_s": 2e-6}, {"name": "sm90_gemm_128x256", "duration_s": 9e-6}]
    with open_records(path) as records:
        record(
            records,
            (gemm_case(64, 64, 64, mode="warm"), took(1e-5)),
            (kernels_case(gemm_case(64, 64, 64)), Result("ok", facts={"kernels": launched})),
            (gemm_case(64, 64, 64, library="triton"), took(1e-5, config={"tile_m": 128, "tile_n": 64, "tile_k": 32})),
        )
    kernels = {series["library"]: series["kernel"] for series in read()["products"]}
    assert kernels == {"cublas": ["sm90_gemm_128x256"], "triton": ["Triton 128x64x32"]}


def test_a_pair_has_its_flop(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(
            records,
            (gemm_case(64, 64, 64), took(1e-5, flops=524288)),
            (gemm_case(64, 64, 64, library="triton"), took(2e-5, flops=524288)),
        )
    (pair,) = read()["pairs"]
    assert (pair["ratio"], pair["flops"]) == (0.5, 524288)


def test_a_step_holds_its_largest_reservation_and_what_the_process_holds_beside_it(path: Path, read: Any) -> None:
    held = {"reserved_peak_bytes": 10, "first_step_reserved_bytes": 12, "context_bytes": 5, "alloc_retries": 0}
    with open_records(path) as records:
        record(
            records,
            (train_case("resnet50", 128), took(0.1, **held)),
            (
                train_case("resnet50", 256),
                took(0.2, **held | {"alloc_retries": 1}),
            ),  # what there was, not what it needs
            (train_case("resnet50", 128, layout="nchw"), took(0.3)),
        )
    nchw, nhwc = read()["steps"]
    assert (nhwc["model"], nhwc["layout"], nhwc["batch"]) == ("resnet50", "nhwc", [128, 256])
    assert (nhwc["time_s"], nhwc["memory_bytes"], nhwc["power_w"]) == ([0.1, 0.2], [17, None], [600.0, 600.0])
    assert (nchw["layout"], nchw["memory_bytes"]) == ("nchw", [None])


def test_of_a_case_measured_twice_the_newest_good_row_is_shown(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(records, (gemm_case(64, 64, 64), took(3e-5)))
        record(records, (gemm_case(64, 64, 64), took(1e-5)), (gemm_case(64, 64, 64), Result("failed", "lost")))
    found = read()
    assert found["products"][0]["time_s"] == [1e-5]
    assert found["counts"] == {
        "total": 3, "good": 2, "used": 1, "sampled": False, "left_out": {"failed": 1, "measured anew since": 1},
    }  # fmt: skip


def test_every_row_left_out_is_counted_with_its_reason(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(records, (gemm_case(8, 8, 8), took(1e-5)), gpu_name="NVIDIA L4", sms=58, gpu_uuid="GPU-2")
        record(records, (gemm_case(8, 8, 8), took(1e-5)), driver="570.1")
        record(records, (gemm_case(8, 8, 8), took(1e-5)), device="cpu", gpu_name=None)
        record(
            records,
            (gemm_case(8, 8, 8), took(1e-5)),
            (gemm_case(16, 8, 8), took(1e-5, host_bound=True)),
            (gemm_case(24, 8, 8), Result("skipped", "too large")),
            (gemm_case(32, 8, 8), took(1e-5, note="x" * 2**17)),
            (Case("memory", "memory", {"what": "copy"}), took(1e-5)),
        )
    counts = read()["counts"]
    assert (counts["total"], counts["good"], counts["used"]) == (8, 1, 1)
    assert counts["left_out"] == {
        "held up by the host": 1, "measured on a processor": 1, "of another GPU": 1, "of kinds that no report shows": 1,
        "skipped while measuring": 1, "too large for what they are": 1,
        "under other conditions (card, power limit, driver or versions)": 1,
    }  # fmt: skip


def test_of_several_gpus_the_asked_one_is_shown_else_the_last(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(records, (gemm_case(8, 8, 8), took(1e-5)))
        record(records, (gemm_case(8, 8, 8), took(2e-5)), gpu_name="NVIDIA L40S", sms=142, gpu_uuid="GPU-2")
    assert read()["gpu"]["id"] == "l40s"
    assert read("--gpu", "h200-sxm", "--sms", "132")["gpu"]["name"] == "NVIDIA H200"
    assert read("--gpu", "h200-sxm", "--sms", "16")["gpu"]["id"] == "l40s"  # a slice of a H200 is another GPU
    assert read("--gpu", "t4")["gpu"]["id"] == "l40s"


def test_conditions_are_those_of_the_rows_drawn_with_what_makes_them_doubtful(path: Path, read: Any) -> None:
    slow = {"during": {"n": 2, "sm_hz": {"min": 1e9, "median": 1.2e9}, "reasons": {"hw_thermal_slowdown": 1}}}
    with open_records(path) as records:
        run = records.start_run(ENVIRONMENT | {"busy": "another process computes"}, "advisor bench --quick")
        records.add(run, gemm_case(8, 8, 8), took(1e-5, quality="noisy"))
        records.add(run, gemm_case(16, 8, 8), Result("ok", timing=took(1e-5).timing, telemetry=slow))
        records.note(run, "drift", {"text": "3 %"})
    found = read()["conditions"]
    assert (found["driver"], found["cudnn"], found["sm_clock_hz"]) == ("580.95", "91200", (1.755e9 + 1.2e9) / 2)
    assert found["commands"] == ["advisor bench --quick"] and found["first"] <= found["last"]
    drift, noisy, hot, busy = found["warnings"]
    assert "1 of 1 runs are marked by drift" in drift and "1 of 2 cases are noisy" in noisy
    assert "in 1 of 2 cases heat" in hot and busy == "another process computes"


def test_an_export_and_a_campaigns_folder_say_what_the_file_says(path: Path, tmp_path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(records, (gemm_case(8, 8, 8), took(1e-5)), (train_case("resnet50", 8), took(0.1)))
        folder = tmp_path / "campaign"
        folder.mkdir()
        for suite in ("gemm", "train"):
            export_records(records, folder / f"{suite}.jsonl.gz", suites=[suite])
        export_records(records, tmp_path / "all.csv")
    assert read() == read(of=tmp_path / "all.csv") == read(of=folder)


def test_a_file_measured_on_a_processor_has_nothing_to_show_and_says_why(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(records, (gemm_case(8, 8, 8), took(1e-5)), device="cpu", gpu_name=None, gpu_uuid=None)
    found = read()
    assert found["gpu"] is None and found["conditions"] is None and not found["products"]
    assert found["counts"]["left_out"] == {"measured on a processor": 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE results SET samples_s = '[\"1\"]'", "is not a time in seconds"),
        ("UPDATE results SET samples_s = '[1e-5'", "cannot be understood"),
        ("UPDATE results SET params = '{\"m\": 8}'", "lacks what its kind must have"),
        ("UPDATE results SET params = '{\"m\": [8]}'", "neither text nor a number"),
        ("UPDATE results SET measured_at = 'never'", "not a time as"),
    ],
)
def test_what_others_wrote_is_checked(path: Path, capsys: pytest.CaptureFixture[str], change: str, told: str) -> None:
    with open_records(path) as records:
        record(records, (gemm_case(8, 8, 8), took(1e-5)))
        records._connection.execute(change)
    assert main(["report-rows", str(path)]) == 5
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("case", "result"),
    [
        (gemm_case(8, 8, 8), took(0.0)),
        (gemm_case(8, 8, 8), took(1e-300)),
        (gemm_case(8, 8, 8), took(1e-5, 1e-5, 1e-5, 0.0)),
        (gemm_case(8, 8, 8), took(1e8)),
        (gemm_case(0, 8, 8), took(1e-5)),
        (gemm_case(2**31, 8, 8), took(1e-5)),
        (train_case("resnet50", 0), took(0.1)),
        (train_case("resnet50", -1), took(0.1)),
    ],
)
def test_times_and_sizes_that_cannot_be_are_left_out_and_counted(
    path: Path, read: Any, case: Case, result: Result
) -> None:
    with open_records(path) as records:
        record(records, (case, result), (gemm_case(8, 8, 8, library="triton"), took(1e-5)))
    found = read()
    assert [series["library"] for series in found["products"]] == ["triton"] and not found["pairs"]
    assert not found["steps"]
    assert (found["counts"]["used"], found["counts"]["left_out"]) == (1, {"with a time or size that cannot be": 1})


def test_readings_and_flop_that_cannot_be_are_not_known(path: Path, read: Any) -> None:
    seen = {"during": {"n": 2, "sm_hz": {"median": -1.0}, "power_w": {"median": -600.0}}}
    with open_records(path) as records:
        for library in ("cublas", "triton"):
            record(records, (gemm_case(8, 8, 8, library=library), took(1e-5, flops=1e300)))
        record(records, (train_case("resnet50", 8), Result("ok", timing=took(0.1).timing, telemetry=seen)))
    found = read()
    assert found["pairs"][0]["flops"] is None and found["steps"][0]["power_w"] == [None]
    assert found["conditions"]["sm_clock_hz"] == 1.755e9


def test_names_that_anybody_wrote_are_short_and_of_printable_characters(path: Path, read: Any) -> None:
    name = "a\u202eb\x1b[31m\n\x00" + "c" * 10_000
    case = gemm_case(8, 8, 8)
    steps = train_case("resnet50", 8)
    with open_records(path) as records:
        record(
            records,
            (Case(case.suite, case.kind, {**case.params, "library": name}), took(1e-5)),
            (Case(steps.suite, steps.kind, {**steps.params, "layout": name}), took(0.1)),
            gpu_name=name, driver=name,
        )  # fmt: skip
    found = read()
    product, step, told = found["products"][0], found["steps"][0], found["conditions"]
    for text, most in (
        (product["library"], 40),
        (step["layout"], 40),
        (told["driver"], 300),
        (found["gpu"]["name"], 300),
    ):
        assert text.startswith("a?b?[31m ?ccc") and text.isprintable() and len(text) <= most


def test_of_two_runs_in_one_millisecond_the_later_recorded_is_the_newest(path: Path, read: Any) -> None:
    with open_records(path) as records:
        for count in range(1, 21):
            record(records, (gemm_case(8, 8, 8), took(1e-5)), driver=f"{count}")
        records._connection.execute("UPDATE runs SET started_at = '2026-01-31T12:00:00.000+00:00'")
    assert read()["conditions"]["driver"] == "20"


def test_a_pipe_is_told_to_be_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pipe.db", "pipe.jsonl"):
        os.mkfifo(tmp_path / name)
        assert main(["report-rows", str(tmp_path / name)]) == 2
        assert f"{name} is no regular file: copy the records to one" in capsys.readouterr().err


def test_more_cases_than_the_limit_are_sampled_and_said(path: Path, read: Any) -> None:
    with open_records(path) as records:
        record(records, *((gemm_case(m, n, 64), took(1e-5)) for n in (64, 128) for m in range(1, 31)))
    found = read("--limit", "10")
    assert found["counts"] | {"left_out": {}} == {"total": 60, "good": 60, "used": 10, "sampled": True, "left_out": {}}
    assert Counter(found["products"][0]["n"]) == {64: 5, 128: 5}
    assert found == read("--limit", "10")


# Sampling ------------------------------------------------------------------------------------------------------------

SWEEPS = st.lists(st.sets(st.integers(1, 500), min_size=1, max_size=60), min_size=1, max_size=12)


@settings(deadline=None)
@given(SWEEPS, st.integers(1, 100), st.sampled_from([("cublas",), ("cublas", "triton")]))
def test_a_sample_keeps_every_case_that_the_limit_allows_and_treats_sweeps_alike(
    sweeps: list[set[int]], limit: int, libraries: tuple[str, ...]
) -> None:
    cases = {
        gemm_case(m, 8 * sweep + 8, 64, library=library).key: sweep
        for sweep, sizes in enumerate(sweeps)
        for m in sorted(sizes)
        for library in libraries
    }
    rows = [(key, f"2026-01-0{day}", 10_000 * day + i) for day in (1, 2) for i, key in enumerate(cases)]
    sample, again = Sample(limit), Sample(limit)
    for row in rows:
        sample.add(*row)
        again.add(*row)
    ids = sample.ids()
    assert ids == again.ids() and sample.cut == (len(cases) > limit)
    drawn = [key for key, _, id_ in rows if id_ in ids]
    assert len(set(drawn)) == len(ids) == min(limit, len(cases))
    assert min(ids) >= 20_000  # the newest row of each
    given_by, there_are = Counter(cases[key] for key in drawn), Counter(cases.values())
    whole_rounds = math.floor(limit / len(libraries) / len(sweeps)) * len(libraries)
    assert all(given_by[sweep] >= min(there_are[sweep], whole_rounds) for sweep in there_are)


def test_a_sample_holds_a_few_times_its_limit_however_many_rows_come() -> None:
    sample = Sample(50)
    for i in range(5000):
        sample.add(gemm_case(i + 1, 8 * (i % 300) + 8, 64).key, "2026-01-01", i)
        assert sum(len(points) for points in sample._sweeps.values()) <= 200
    assert len(sample.ids()) == 50
