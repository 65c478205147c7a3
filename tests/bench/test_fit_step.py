import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus import find_gpu
from advisor.memory import memory_curve
from advisor.recipe import RECIPES
from advisor.step_profile import load_step_profile
from advisor.steptime import StepModel, machine
from advisor.workload.catalogue import load_workload, select_variant
from bench.fit_memory import LIMIT, SIZES, brackets, fit_memory, predicted_batch
from bench.fit_step import (
    FIXED,
    TIMM_RECIPE,
    Stacked,
    corrected_residuals,
    fit,
    group_of,
    held_out,
    is_exponent,
    priors,
)
from bench.step_data import StepRow, TableRow, train_rows, with_traces
from tests.data import measured

GPU = machine(find_gpu("rtx-3090"), TIMM_RECIPE)
MODELS = ("resnet18", "resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t",
          "densenet121", "resnext50_32x4d", "mobilenet_v3_large", "unet")  # fmt: skip


def row(model: str, batch: int, time_s: float = 1.0, layout: str = "nhwc") -> StepRow:
    recipe = RECIPES["timm-2022"]
    workload = load_workload(model)
    variant = select_variant(workload, recipe)
    traced = msgspec.structs.replace(workload, variants=(variant,))
    return StepRow(TableRow(model, "train", layout, "rtx3090", batch, 224, time_s), traced)


def test_rows_are_timed_as_the_product_times_them() -> None:
    """The fit's tables and StepModel are two roads to one figure; the search over tiles is pruned in the latter."""
    profile = load_step_profile()
    rows = Stacked([row(name, 96) for name in MODELS], TIMM_RECIPE)
    fitted = np.exp(corrected_residuals(rows, profile.train, profile.neighbours, GPU))
    for name, seconds in zip(MODELS, fitted, strict=True):
        model = StepModel(load_workload(name), gpu=find_gpu("rtx-3090"), profile=None, recipe=TIMM_RECIPE)
        assert seconds == pytest.approx(model.curve(np.array([96])).time_s[0], rel=5e-3), name


def test_the_fit_recovers_steps_that_follow_the_form() -> None:
    start = priors()
    truth = FIXED | {name: value for name, (value, _) in start.items()}
    truth |= {"gemm.rate": 1.1, "nhwc.conv_fprop.rate": 0.9, "elementwise": 0.6, "nhwc.depthwise.rate": 0.1}
    rows = [row(name, batch) for name in MODELS for batch in (32, 128)]
    stacked = Stacked(rows, TIMM_RECIPE)
    times = np.exp(stacked.residuals(truth, GPU))  # the rows' times are 1 s
    measured_rows = [row(r.row.model, r.row.batch, t) for r, t in zip(rows, times, strict=True)]
    stacked = Stacked(measured_rows, TIMM_RECIPE)
    before = np.abs(stacked.residuals(FIXED | {n: v for n, (v, _) in start.items()}, GPU)).mean()
    found = fit(stacked, GPU)
    assert before > 0.04
    assert np.abs(stacked.residuals(found, GPU)).mean() < 0.01


def test_a_fit_is_repeated_bit_for_bit() -> None:
    rows = Stacked([row(name, 64, 0.1) for name in MODELS[:4]], TIMM_RECIPE)
    assert fit(rows, GPU) == fit(rows, GPU)


def test_every_coefficient_moves_the_part_it_is_said_to_move() -> None:
    """Finite differences of the fit recompute one part only: no other part may depend on the coefficient."""
    values = FIXED | {name: value for name, (value, _) in priors().items()}
    rows = Stacked([row(name, 48) for name in ("mobilenet_v2", "resnext50_32x4d", "swin_t")], TIMM_RECIPE)
    base = rows.parts(values, GPU)
    for name in priors():
        moved = values | {name: values[name] + 0.05 if is_exponent(name) else values[name] * 1.05}
        for part, seconds in rows.parts(moved, GPU).items():
            if part != group_of(name):
                assert np.array_equal(seconds, base[part]), (name, part)


def test_held_out_figures_speak_of_throughput() -> None:
    found = held_out(np.log([1.1, 1.1, 1.1, 1 / 1.1]), "four rows")  # times too long: samples/s too low
    assert found.bias == pytest.approx(-np.log(1.1) / 2, abs=1e-4)
    assert found.mean == found.median == pytest.approx(np.log(1.1), abs=1e-4)


def test_the_half_that_may_be_fitted_is_the_one_named_in_the_report() -> None:
    for model in ("resnet50", "vit_base_patch16_224"):
        expected = zlib.crc32(f"half:{model}".encode()) % 2 == 0
        assert TableRow(model, "train", "nhwc", "rtx3090", 1, 224, 1.0).fitted is expected
        assert TableRow(f"{model}.tag", "infer", "nhwc", "rtx3090", 1, 224, 1.0).fitted is expected


# Memory -------------------------------------------------------------------------------------------------------------


def test_the_predicted_batch_is_the_largest_whose_memory_fits_the_card() -> None:
    known = load_step_profile().memory
    r = row("resnet101", 256)
    found = predicted_batch(r, known, 0.0)
    totals = memory_curve(
        load_workload("resnet101"), gpu=find_gpu("rtx-3090"), profile=None, recipe=TIMM_RECIPE, batches=np.array(SIZES)
    ).total_bytes
    fitting = totals <= LIMIT
    assert found == max(size for size, ok in zip(SIZES, fitting, strict=True) if ok)
    assert predicted_batch(r, known, 0.5) < found


def test_memory_coefficients_are_found_from_their_own_brackets() -> None:
    known = load_step_profile().memory
    rows = []
    for name in (*MODELS, "resnet34", "resnet101", "resnet152", "wide_resnet50_2", "vit_l_16", "convnext_base"):
        ran = predicted_batch(row(name, 1), known, 0.0)
        rows.append(row(name, ran))
    found = fit_memory(rows)
    assert [predicted_batch(r, found, 0.0) for r in rows] == [r.row.batch for r in rows]


def test_a_row_at_the_cap_sets_no_upper_bound() -> None:
    b = brackets([row("resnet18", 512), row("resnet152", 128)])
    assert b.live_failed[0] == 0
    assert b.live_failed[1] > b.live_ran[1]


# Tables -------------------------------------------------------------------------------------------------------------


def test_the_training_table_is_read_as_it_stands() -> None:
    path = measured("timm_benchmark")
    rows = list(train_rows(path.parent, "nhwc"))
    assert len(rows) == 538
    assert rows[0].model == "mobilenetv3_small_050"
    assert rows[0].time_s == pytest.approx(0.0443, rel=0.03)  # its own step time column, rounded elsewhere


def test_a_broken_table_names_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "timm_benchmark"
    folder.mkdir()
    text = "model,train_samples_per_sec,train_step_time,train_batch_size,train_img_size\na,10,1,2,224\nb,none,1,2,224\n"
    (folder / "benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv").write_text(text)
    with pytest.raises(BrokenFileError, match="line 3"):
        list(train_rows(tmp_path, "nhwc"))


def test_missing_traces_say_how_to_write_them(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="trace-tables"):
        with_traces(iter([]), tmp_path / "none")


def test_a_model_that_did_not_trace_keeps_its_row(tmp_path: Path) -> None:
    (only,) = with_traces(iter([TableRow("a", "train", "nhwc", "rtx3090", 1, 224, 1.0)]), tmp_path)
    assert only.workload is None
