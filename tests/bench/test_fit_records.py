from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from advisor.errors import BadInputError
from advisor.gemm import gemm_time
from advisor.gpus import ResolvedGpu, find_gpu
from advisor.gpus.card import card_key
from advisor.measured import gpu_profile_of, parse_measured_profile, read_measured_profile, step_profile_of
from advisor.profile import load_profile
from advisor.recipe import make_recipe
from advisor.step_costs import at, coefficients, depthwise_seconds
from advisor.step_ops import step_ops
from advisor.step_profile import load_step_profile
from advisor.steptime import StepModel, machine
from advisor.workload.catalogue import load_workload
from advisor.workload.schema import Variant
from bench.__main__ import main
from bench.calibration import convolution_shapes, gemm_shapes
from bench.campaign import write_files
from bench.case import METHOD_VERSION, Case, Result, Timing
from bench.fit_convolution import convolution_op, convolutions, fit_convolutions, predicted
from bench.fit_few import borne_out, fit_few, predict_few, smooth_points
from bench.fit_gemm import Timings, physical_times
from bench.fit_records import as_table, fit_measurements, gpu_of, measurements_of, nearest_model
from bench.records import Note, Row, open_records
from bench.replay import environment_of, rows_of
from bench.session import Summary
from bench.suites import SuiteOptions, memory

H200 = find_gpu("h200")
NONE = frozenset[str]()


def gemm_case(m: int, n: int, k: int) -> dict[str, Any]:
    return {"m": m, "n": n, "k": k, "pass": "forward", "dtype": "fp16", "library": "cublas", "mode": "cold"}


def conv_case(sizes: dict[str, int], pass_: str) -> dict[str, Any]:
    side, kernel = sizes["side"], sizes["kernel"]
    return {
        "batch": sizes["batch"], "c_in": sizes["c_in"], "c_out": sizes["c_out"], "height": side, "width": side,
        "kernel_h": kernel, "kernel_w": kernel, "stride": sizes["stride"], "padding": kernel // 2, "dilation": 1,
        "groups": 1, "pass": pass_, "layout": "nhwc", "dtype": "fp16", "library": "cudnn", "autotuned": True,
        "mode": "cold",
    }  # fmt: skip


def slow_h200(m: Any, n: Any, k: Any) -> Any:
    """A card of H200's kind at 0.8 of its speed."""
    return gemm_time(load_profile(H200), H200, m, n, k, corrected=False).time_s / 0.8


def calibration_rows(**environment: Any) -> list[Row]:
    shapes = gemm_shapes()
    times = slow_h200(*np.array(shapes).T)
    cases = [(gemm_case(*shape), float(time)) for shape, time in zip(shapes, times, strict=True)]
    return rows_of("gemm", cases, {**environment_of(H200, "made up"), **environment})


def test_a_calibration_finds_a_card_that_is_slower_than_its_kind() -> None:
    profile, missing = fit_measurements(measurements_of(calibration_rows(), "x.db"), fitted="2026-01-02")
    assert profile.extent == "quick" and profile.gpu == H200.id
    assert profile.gemm["fp16"].held_out.mean < 0.05
    n, k = np.array([3000, 5000]), np.array([2048, 6016])
    found = gemm_time(gpu_profile_of(profile, H200), H200, 2000, n, k).time_s
    assert found == pytest.approx(slow_h200(2000, n, k), rel=0.06)
    assert missing == ["0 FP16 convolutions where 20 are the least: run `advisor bench --quick`"]


def test_what_a_single_suite_measured_is_kept_without_products_and_convolutions() -> None:
    cases: list[tuple[dict[str, Any], float]] = [({"what": "graph"}, 2e-6)]
    rows = rows_of("launch", cases, environment_of(H200, "made up"))
    profile, missing = fit_measurements(measurements_of(rows, "x.db"))
    assert profile.ceilings.kernel_s == 2e-6
    assert [line.split(" where")[0] for line in missing] == ["0 FP16 products", "0 FP16 convolutions"]
    assert "products and convolutions were not" in profile.describe()
    timelines = rows_of("timeline", [({"m": 1}, 1e-6)], environment_of(H200, "made up"))
    with pytest.raises(BadInputError, match="too few rows to fit: 0 FP16 products"):
        fit_measurements(measurements_of(timelines, "x.db"))


def test_the_same_records_give_the_same_profile() -> None:
    first, second = (
        fit_measurements(measurements_of(calibration_rows(), "x.db"), fitted="2026-01-02", judge=False)[0] for _ in "ab"
    )
    assert first == second


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"device": "cpu"}, "smoke run"),
        ({"method_version": METHOD_VERSION + 1}, f"timed by method {METHOD_VERSION + 1}"),
    ],
)
def test_records_that_are_no_measurements_of_a_gpu_by_this_method_are_refused(
    environment: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        measurements_of(calibration_rows(**environment), "x.db")


def test_two_cards_are_not_mixed_and_one_can_be_chosen() -> None:
    rows = calibration_rows() + calibration_rows(gpu_uuid="another")
    with pytest.raises(BadInputError, match=rf"holds 2 cards: .*{card_key('another')}.*--card"):
        measurements_of(rows, "x.db")
    assert measurements_of(rows, "x.db", card="anoth").conditions.gpu_key == card_key("another")
    with pytest.raises(BadInputError, match="no card 'B200'"):
        measurements_of(rows, "x.db", card="B200")


def test_too_few_rows_are_told_with_their_number_and_what_to_run() -> None:
    with pytest.raises(BadInputError, match=r"12 FP16 products where 40 are the least: run `advisor bench --quick`"):
        fit_measurements(measurements_of(calibration_rows()[:12], "x.db"))
    with pytest.raises(BadInputError, match="no measured case"):
        measurements_of([], "x.db")


def test_what_mars_a_run_goes_into_its_profile() -> None:
    rows = calibration_rows()
    rows[0] = replace(rows[0], environment={**rows[0].environment, "torch": "2.9"})
    found = measurements_of(rows, "x.db", drifted=[rows[0].run])
    assert [warning.split(":")[0] for warning in found.conditions.warnings] == [
        "1 of 1 runs are marked by drift", "measured with several versions of torch (2.9, None)"
    ]  # fmt: skip


def test_failed_and_host_bound_cases_do_not_count() -> None:
    rows = calibration_rows()
    rows[0] = replace(rows[0], result=Result("failed", reason="out of memory"))
    slow = Timing((1.0,), 1, "cold", graph=False, quality="good", host_bound=True)
    rows[1] = replace(rows[1], result=Result("ok", timing=slow))
    assert len(measurements_of(rows, "x.db").times) == len(rows) - 2


def test_several_rows_of_one_case_are_one_time_their_median() -> None:
    row = calibration_rows()[0]
    again = [
        replace(row, result=Result("ok", timing=Timing((s,), 1, "cold", graph=True, quality="good")))
        for s in (3.0, 1.0, 2.0)
    ]
    assert [time for _, time in measurements_of(again, "x.db").times] == [2.0]


def test_the_command_fits_a_records_file_prints_the_error_and_writes_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.db"
    rows = calibration_rows()
    with open_records(path) as records:
        run = records.start_run(rows[0].environment, "test")
        for row in rows:
            records.add(run, row.case, row.result)
        records.merge([], [], [Note(run.id, "2026-01-01T00:00:00+00:00", "drift", {"text": "3 % slower"})])
    assert main(["fit", "--records", str(path)]) == 0
    told = capsys.readouterr().out
    assert "products, fp16: 100 rows; unseen mean" in told
    assert "marked by drift" in told
    assert read_measured_profile(tmp_path / f"{H200.id}.profile.json").gemm["fp16"].rows == 100
    assert main(["fit", "--records", str(tmp_path / "none.db")]) == 2


def test_a_campaigns_folder_is_fitted_as_one_whatever_file_a_case_is_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = calibration_rows()
    launch = Case("ceilings", "launch", {"what": "graph"})
    with open_records(tmp_path / "records.db") as records:
        run = records.start_run(rows[0].environment, "test")
        for row in rows:
            records.add(run, row.case, row.result)
        timing = Timing((2e-6,), 1, "warm", graph=True, quality="good")
        records.add(run, launch, Result("ok", timing=timing))
        out = tmp_path / "out"
        out.mkdir()
        assert main(["fit", "--records", str(out)]) == 2
        assert "holds no *.jsonl.gz" in capsys.readouterr().err
        write_files(records, out, Summary())
    assert {path.name for path in out.iterdir()} == {"ceilings.jsonl.gz", "gemm.jsonl.gz", "summary.json"}
    assert main(["fit", "--records", str(out)]) == 0
    profile = read_measured_profile(out / f"{H200.id}.profile.json")
    assert (profile.gemm["fp16"].rows, profile.ceilings.kernel_s) == (100, 2e-6)


def test_the_nearest_model_is_the_cards_own_unless_it_is_taken_away() -> None:
    own, other = (nearest_model(H200, "fp16", without) for without in (NONE, frozenset({H200.id})))
    assert own is not None and other is not None
    assert (own.gpu, other.gpu) == ("h200-sxm", "h100-sxm-80gb")


def test_a_mig_slice_is_measured_against_its_own_share_of_the_card() -> None:
    """3g.40gb of an A100: 42 SMs and four eighths of memory, with as much of its bandwidth."""
    name, a100 = "NVIDIA A100-SXM4-80GB MIG 3g.40gb", find_gpu("a100-sxm4-80gb")
    told = {"gpu_name": name, "capability": "8.0", "sms": 42, "memory_bytes": 40 * 2**30, "l2_bytes": 20 * 2**20}
    found = gpu_of(told, "x.db")
    assert (found.id, found.sms, found.memory_bytes) == (a100.id, 42, 40 * 2**30)
    assert a100.memory_bandwidth_bytes_per_s is not None
    assert found.memory_bandwidth_bytes_per_s == a100.memory_bandwidth_bytes_per_s / 2


def test_only_a_complete_grid_is_a_table() -> None:
    m, n, k = (axis.ravel() for axis in np.meshgrid([1.0, 2, 3], [4.0, 5], [6.0, 7]))
    rows = Timings(m, n, k, m * n * k, np.ones(len(m)))
    table = as_table(rows)
    assert table is not None
    assert table.time_s[2, 3] == 3 * 5 * 7  # m = 3, (n, k) = (5, 7)
    assert as_table(rows.where(np.arange(len(rows)) > 0)) is None


def test_a_borrowed_correction_counts_for_what_is_seen_of_it() -> None:
    borrowed = np.array([0.1, -0.1, 0.2, -0.2])
    assert borne_out(borrowed, 0.5 * borrowed) == pytest.approx(0.5, rel=0.06)
    assert borne_out(borrowed, -borrowed) == 0


def test_noise_is_not_smoothed_and_a_trend_is() -> None:
    random = np.random.default_rng(5)
    points = 2 ** random.uniform(7, 13, (80, 3))
    assert smooth_points(points, random.normal(0, 0.05, 80), ("m", "n", "k")) is None
    trend = smooth_points(points, 0.1 * (np.log2(points[:, 0]) - 10), ("m", "n", "k"))
    assert trend is not None
    high, low = trend.log_correction({"m": np.array([4096.0, 256]), "n": np.full(2, 1024), "k": np.full(2, 1024)})
    assert high > 0.1 and low < -0.1


def test_a_few_rows_without_a_kindred_profile_move_the_fields_middle() -> None:
    shapes = np.array(gemm_shapes(), dtype=float).T
    truth = load_profile(H200).gemm["fp16"].coefficients
    made = Timings(*shapes, np.zeros(shapes.shape[1]), np.ones(shapes.shape[1]))
    made = replace(made, time_s=physical_times(truth, H200, "fp16", made))
    fit = fit_few(made, H200, None)
    assert np.abs(predict_few(fit, H200, made) / made.time_s - 1).mean() < 0.05


def test_convolutions_fit_the_card_that_made_them_pass_by_pass() -> None:
    """Weight gradients at half of the shipped rate: the fit finds it, and leaves the other passes as they are."""
    prior = load_step_profile().train
    facts = machine(H200, make_recipe())
    cases = [conv_case(*shape) for shape in convolution_shapes(60)]
    truth = {**prior, "nhwc.conv_wgrad.rate": prior["nhwc.conv_wgrad.rate"] / 2}
    rows = convolutions(cases, [1.0] * len(cases))
    rows = replace(rows, time_s=predicted(rows, truth, facts))
    fit = fit_convolutions(rows, prior, facts)
    assert fit.values["nhwc.conv_wgrad.rate"] < 0.7 * prior["nhwc.conv_wgrad.rate"]
    assert fit.values["nhwc.conv_fprop.rate"] == pytest.approx(prior["nhwc.conv_fprop.rate"], rel=0.1)
    before, after = (
        np.abs(np.log(predicted(rows, {**prior, **v}, facts) / rows.time_s)).mean() for v in ({}, fit.values)
    )
    assert after < 0.3 * before


def test_convolutions_are_the_operations_a_trace_has_of_them() -> None:
    """ResNet-50's 3x3 of 64 channels at 56 x 56, batch 32: m = 32 x 56 x 56, n = 64, k = 64 x 9, FP16."""
    sizes = {"batch": 32, "c_in": 64, "c_out": 64, "side": 56, "kernel": 3, "stride": 1}
    rows = convolutions([conv_case(sizes, "forward")], [1.0])
    assert [at(line, 1.0)[0, 0] for line in (rows.products.m, rows.products.n, rows.products.k)] == [100352, 64, 576]
    assert rows.bytes_[0, 0] == 2 * (2 * 32 * 64 * 56 * 56 + 64 * 64 * 9)


def test_a_measured_profile_moves_a_steps_convolutions_and_says_so() -> None:
    facts, prior = machine(H200, make_recipe()), load_step_profile().train
    cases = [conv_case(*shape) for shape in convolution_shapes()]
    table = convolutions(cases, [1.0] * len(cases))
    times = predicted(table, {**prior}, facts) * 3  # three times slower than shipped
    rows = rows_of("conv", list(zip(cases, times.tolist(), strict=True)), environment_of(H200, "made up"))
    found = measurements_of([*calibration_rows(), *rows], "x.db")
    profile, missing = fit_measurements(found, judge=False)
    assert missing == []
    assert parse_measured_profile(measured_bytes(profile), "x") == profile
    recipe, work = make_recipe(), load_workload("resnet50")
    shipped = StepModel(work, gpu=H200, profile=load_profile(H200), recipe=recipe)
    own = StepModel(
        work, gpu=H200, profile=gpu_profile_of(profile, H200), recipe=recipe,
        step_profile=step_profile_of(profile, H200, "fp16"),
    )  # fmt: skip
    batch = np.array([256])
    before, after = (model.curve(batch).class_time_s["conv"][0] for model in (shipped, own))
    assert after > 1.5 * before
    assert own.step_profile.measured == profile.describe()
    assert "no whole step was measured on this card" in own.error.origin
    with pytest.raises(BadInputError, match="measured on h200-sxm, not a100"):
        step_profile_of(profile, find_gpu("a100"), "fp16")


def measured_bytes(profile: Any) -> bytes:
    from advisor.measured import measured_profile_bytes

    return measured_profile_bytes(profile)


def test_ceilings_memory_and_steps_are_read_from_their_own_suites() -> None:
    bandwidth = H200.memory_bandwidth_bytes_per_s
    assert bandwidth is not None
    environment = environment_of(H200, "made up")
    moved = 2**30
    plain = [
        ("copy", {"bytes": 2**30}, 2**30 / (0.9 * bandwidth), {}),
        ("launch", {"what": "graph"}, 2e-6, {}),
        ("launch", {"what": "stream"}, 5e-6, {"host_s_per_launch": 4e-6}),
        ("matmul_peak", {"n": 8192, "dtype": "fp16"}, 2 * 8192**3 / 7e14, {}),
        ("memory", {"op": "cast", "detail": "cast", "bytes": moved, "layout": "nhwc", "mode": "cold"},
         2e-6 + moved / (0.75 * bandwidth), {}),
        ("memory", {"op": "copy", "detail": "copy", "bytes": moved, "layout": "nchw", "mode": "cold"},
         2e-6 + moved / (0.5 * bandwidth), {}),
    ]  # fmt: skip
    rows = [
        Row("r", i, Case(kind, kind, params),
            Result("ok", timing=Timing((time,), 1, "cold", graph=True, quality="good"), facts=facts), environment, "")
        for i, (kind, params, time, facts) in enumerate(plain)
    ]  # fmt: skip
    profile, _ = fit_measurements(measurements_of([*calibration_rows(), *rows], "x.db"), judge=False)
    assert profile.ceilings.copy_bytes_per_s == pytest.approx(0.9 * bandwidth)
    assert (profile.ceilings.host_s, profile.ceilings.step_host_s, profile.ceilings.kernel_s) == (4e-6, None, 2e-6)
    assert profile.ceilings.matmul_flops_per_s == {"fp16": pytest.approx(7e14)}
    assert profile.bandwidths is not None
    assert profile.bandwidths.values == {"cast": 0.75, "nchw.copy": 0.5}


def test_depthwise_convolutions_move_a_steps_by_what_they_take_over_the_shipped() -> None:
    """MobileNetV3's layers as suite memory measures them, made twice as long as shipped, in NHWC alone."""
    wanted = [case for case in memory.cases(SuiteOptions())[0] if case.kind == "conv"]
    base, facts = load_step_profile().train, machine(H200, make_recipe())
    ops = step_ops(Variant("train", "amp", "nhwc", "none", tuple(convolution_op(c.params) for c in wanted), ()))
    moved = at(ops.bytes_, 1.0)
    assert len(ops.depthwise.index) == len(wanted) > 20
    shipped_s = depthwise_seconds(ops.depthwise, moved, 1.0, 0, coefficients(base), facts)[:, 0]
    cases = [(case.params, 2 * float(s) + base["kernel_s"]) for case, s in zip(wanted, shipped_s, strict=True)]
    rows = rows_of("conv", cases, environment_of(H200, "made up"))
    profile, _ = fit_measurements(measurements_of([*calibration_rows(), *rows], "x.db"), judge=False)
    assert profile.bandwidths is not None
    assert profile.bandwidths.values == {
        name: pytest.approx(base[name] / 2, rel=1e-3) for name in ("nhwc.depthwise.bandwidth", "nhwc.depthwise.rate")
    }
    assert 6 <= profile.bandwidths.rows < len(wanted)  # those that the L2 holds do not count
    times = []
    for step_profile in (
        step_profile_of(p, H200, "fp16") for p in (msgspec.structs.replace(profile, bandwidths=None), profile)
    ):
        step = StepModel(
            load_workload("mobilenet_v3_large"), gpu=H200, profile=gpu_profile_of(profile, H200),
            recipe=make_recipe(), step_profile=step_profile,
        )  # fmt: skip
        times.append(step.curve(np.array([256])).gpu_time_s[0])
    assert times[1] > 1.1 * times[0]


def test_whole_steps_give_one_bounded_factor_and_what_a_process_holds() -> None:
    """Steps made 1.2 times as long as a first fit predicts them, with 1 GiB of context; without tuning three times."""
    environment = environment_of(H200, "made up")
    first, _ = fit_measurements(measurements_of(calibration_rows(), "x.db"), judge=False)
    rows = []
    wanted = product(("resnet50", "unet"), (64, 128, 256, 512, 1024, 2048))
    for i, (name, batch) in enumerate(wanted):
        tuned = batch <= 256
        params = {
            "model": name, "batch": batch, "optimizer": "sgd", "precision": "amp_fp16", "layout": "nhwc",
            "cudnn_benchmark": tuned,
        }  # fmt: skip
        model = StepModel(
            load_workload(name), gpu=H200, profile=gpu_profile_of(first, H200), recipe=make_recipe(),
            step_profile=step_profile_of(first, H200, "fp16"),
        )  # fmt: skip
        time = (1.2 if tuned else 3) * float(model.curve(np.array([batch])).time_s[0])
        facts = {
            "context_bytes": 2**30, "reserved_peak_bytes": 11, "allocated_peak_bytes": 10, "alloc_retries": 0,
            "host_s_per_launch": {"resnet50": 12e-6, "unet": 14e-6}[name],
        }  # fmt: skip
        timing = Timing((time,), 1, "warm", graph=False, quality="good")
        rows.append(
            Row("t", i, Case("train", "train", params), Result("ok", timing=timing, facts=facts), environment, "")
        )
    profile, _ = fit_measurements(measurements_of([*calibration_rows(), *rows], "x.db"), judge=False)
    assert profile.steps is not None and profile.memory is not None
    assert profile.steps.rows == 6
    assert profile.steps.factor == pytest.approx(1.2, rel=0.02)
    assert profile.ceilings.step_host_s == pytest.approx(13e-6)
    assert profile.steps.held_out.mean < 0.02
    assert profile.memory.context_bytes == 2**30
    step_profile = step_profile_of(profile, H200, "fp16")
    assert step_profile.factor == profile.steps.factor
    assert step_profile.train["host_s"] == pytest.approx(13e-6)
    rows = [row for row in rows if row.case.params["model"] == "unet"] * 2
    rows = [
        replace(row, case=replace(row.case, params={**row.case.params, "batch": 8 + i})) for i, row in enumerate(rows)
    ]
    profile, missing = fit_measurements(measurements_of([*calibration_rows(), *rows], "x.db"), judge=False)
    assert profile.steps is None
    assert "training steps of unet alone say nothing of other models: run more of suite train" in missing
    assert step_profile.memory.overhead_bytes == 2**30 + step_profile.memory.workspace_bytes


def test_a_full_grid_is_fitted_as_the_public_tables_are_with_a_correction_on_its_grid() -> None:
    """2,000 products, those of one n 20 % slower than any physical form says: its unseen pairs come out so too."""
    m = sorted({*range(128, 2560, 128), *range(129, 2561, 128), 4096, 8192})[:40]
    pairs = [(n, k) for n in (512, 1024, 2048, 4096, 8192) for k in range(512, 512 * 11, 512)]
    shapes = [(rows, n, k) for rows in m for n, k in pairs]
    times = slow_h200(*np.array(shapes).T) * np.where(np.array(shapes)[:, 1] == 1024, 1.2, 1.0)
    cases = [(gemm_case(*shape), float(time)) for shape, time in zip(shapes, times, strict=True)]
    found = measurements_of(rows_of("gemm", cases, environment_of(H200, "made up")), "x.db")
    profile, _ = fit_measurements(found, fitted="2026-01-02")
    model = profile.gemm["fp16"]
    assert (profile.extent, model.kind, model.rows) == ("full", "measured", 2000)
    assert model.correction is not None and model.correction.m == tuple(m)
    assert model.held_out.mean < 0.06
    wanted = 1.2 * float(slow_h200(2000, 1024, 2816))
    assert float(gemm_time(gpu_profile_of(profile, H200), H200, 2000, 1024, 2816).time_s) == pytest.approx(
        wanted, rel=0.1
    )


def test_a_card_is_chosen_among_records_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--data", "x", "--card", "y"])
    assert "--records" in capsys.readouterr().err


def test_a_card_that_no_table_holds_is_fitted_on_the_machine_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    unlisted = replace(H200, id="nvidia-x1", name="NVIDIA X1")
    here = ResolvedGpu(unlisted, "local", uuid="GPU-of-this-card")
    monkeypatch.setattr("bench.fit_records.resolve_gpu", lambda _: here)
    environment = {"gpu_name": "NVIDIA X1", "gpu_uuid": "GPU-of-this-card", "capability": "9.0"}
    assert gpu_of(environment, "x.db") == unlisted
    with pytest.raises(BadInputError, match="NVIDIA X1"):
        gpu_of({**environment, "gpu_uuid": "GPU-of-another"}, "x.db")
