"""What a profile looks like: tables, text, JSON, pandas."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from typing import Any

import jsonschema
import msgspec
import pytest

from advisor.cli.profile_advice import MOST_SIZES, shown_sizes
from advisor.cli.profile_report import report
from advisor.errors import MissingDependencyError
from advisor.profiling.output.document import TraceDocument
from advisor.profiling.output.headline import headline
from advisor.profiling.output.tables import kernel_rows, shapes_text, time_by
from advisor.profiling.output.text import clean, code, short_kernel
from advisor.profiling.records import Advice, CurvePoint
from tests.advisor.profiling.profiles import GROUP, small_profile

HOSTILE = "evil\x1b[31m|kernel`\n" + "$x^2$ " * 2000 + "\u202e<script>"


def test_time_by_class_sums_to_the_kernel_time() -> None:
    rows = time_by(small_profile(), "class")
    assert [(row.name, row.per_step_s) for row in rows] == [
        ("fprop", 2e-3),
        ("elementwise", 1.75e-3),
        ("other", 1.25e-3),
    ]
    assert sum(row.total_s for row in rows) == pytest.approx(10e-3)
    assert rows[0].tensor_core_share == 0
    assert rows[0].wave_efficiency == pytest.approx(2.45 / 3)


def test_waves_of_memory_bound_kernels_are_in_no_sum() -> None:
    assert time_by(small_profile(), "class")[1].wave_efficiency is None


def test_operators_are_found_by_name_layer_and_shapes() -> None:
    profile = small_profile()
    assert [row.name for row in time_by(profile, "operator")] == [
        "aten::cudnn_convolution", "aten::add_", "(no operator found)"]  # fmt: skip
    assert [(row.name, row.class_) for row in time_by(profile, "layer")[:1]] == [("conv 64>64 3x3 on 56x56", "fprop")]
    assert [row.shapes for row in time_by(profile, "shape")] == ["32x64x56x56, 64x64x3x3", "32x64x56x56", ""]
    assert [row.calls for row in time_by(profile, "operator")] == [4, 40, None]


def test_what_runs_outside_of_the_steps_is_said_beside_the_figures_per_step() -> None:
    profile = small_profile()
    outside = replace(profile, steps=replace(profile.steps, outside_s=1e-3))
    assert time_by(outside, "class")[0].per_step_s == 2e-3
    assert "1.00 ms of the trace's kernels run outside of its steps" in report(outside)
    assert "outside of its steps" not in report(profile)


def test_totals_of_the_trace_are_shown_where_it_has_no_steps() -> None:
    profile = small_profile()
    without = replace(profile, steps=replace(profile.steps, count=0, found_by="none"))
    assert (time_by(without, "class")[0].per_step_s, time_by(without, "class")[0].share_of_step) == (None, None)
    assert "in all" in report(without)


def test_a_first_step_that_differs_is_in_no_figure_per_step_but_in_the_totals() -> None:
    # the convolution took 4 ms in all, 1 ms of it in the one step that counts
    profile = small_profile(kernels=(replace(GROUP, step_s=1e-3, launches_per_step=1.0),))
    profile = replace(profile, steps=replace(profile.steps, durations_s=(16e-3, 8e-3), first_step_differs=True))
    for row in (*kernel_rows(profile), *time_by(profile, "class")):
        assert (row.total_s, row.per_step_s, row.share_of_step) == (4e-3, 1e-3, pytest.approx(1 / 8))
        assert (row.share_of_kernel_time, row.launches_per_step) == (0.4, 1)
    assert headline(profile).startswith("8.00 ms a step (1 of 2 steps) on")
    assert "Where the kernels' time goes, 1 of 2 steps" in report(profile)


def test_where_mean_and_median_of_the_steps_differ_both_are_said() -> None:
    profile = small_profile()
    steps = replace(profile.steps, count=4, durations_s=(30e-3, 9e-3, 6e-3, 9e-3), first_step_differs=True)
    told = headline(replace(profile, steps=steps))
    assert told.startswith("8.00 ms a step (mean of 3 of 4 steps, median 9.00 ms) on")


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        (((32, 64), (), (3,), None), "32x64, 3"),
        ((((64, 3), (64,)),), "[64x3 and 1 more]"),
        ([(1,)] * 6, "1, 1, 1, 1 and 2 more"),
        ((((),),), "[scalar]"),
        ((), ""),
    ],
)
def test_shapes_are_written_as_products(dims: Any, text: str) -> None:
    assert shapes_text(dims) == text


def test_the_headline_says_steps_gpu_batch_precision_busy_share_and_tensor_cores() -> None:
    assert headline(small_profile()) == (
        "8.00 ms a step (mean of 2 steps) on Tesla V100-SXM2-16GB, batch 32, FP32: the GPU is busy 69 % of the time; "
        "no kernel ran on Tensor Cores."
    )


def test_the_headline_claims_nothing_where_names_tell_nothing() -> None:
    profile = small_profile()
    unnamed = replace(profile, kernels=(replace(GROUP, tensor_cores=None),))
    assert "do not tell" in headline(unnamed)
    without = replace(profile, gpu=replace(profile.gpu, has_tensor_cores=False))
    assert "has no Tensor Cores" in headline(without)
    half = replace(profile, tensor_core_time_s=5e-3)
    assert "50 % of kernel time ran on Tensor Cores" in headline(half)


@pytest.mark.parametrize("by", ["class", "operator", "layer", "shape", "kernel"])
@pytest.mark.parametrize("format_", ["table", "markdown"])
def test_every_table_has_the_headline_the_bill_and_the_advice(by: Any, format_: str) -> None:
    text = report(small_profile(), by=by, format_=format_)
    assert text.lstrip("*").startswith("8.00 ms a step")
    for part in ("train under torch.autocast", "Worth a try", "size to try", "64 is 7 % faster", "recommended", "+7 %"):
        assert part in text
    assert "??" in text  # the memory of batch 64 is unknown


def test_what_the_host_hides_of_a_saving_is_told_apart_and_the_unknown_is_not_0() -> None:
    bill = small_profile().bill
    hidden = replace(bill.lines[0], step_gain_s=0.1e-3)
    unknown = replace(bill.lines[0], lost_s=None, share=None, step_gain_s=None)
    text = report(small_profile(bill=replace(bill, lines=(hidden, unknown))))
    assert "  1.00 ms of kernels (12 % of the step, estimate; the step shows 100 us of it while the host " in text
    assert "  ??  4 convolutions run in FP32" in text


def test_a_size_whose_memory_nobody_knows_may_not_fit_and_that_is_said() -> None:
    assert "calibrated on this trace; memory unknown: may not fit)." in report(small_profile())


def test_above_stands_one_clause_of_the_verdict_and_the_rest_below() -> None:
    profile = small_profile()
    text = report(replace(profile, bill=replace(profile.bill, verdict="the most to gain: gaps; lines overlap")))
    assert "The most to gain: gaps.\n" in text
    assert text.index("Lines overlap.") > text.index("What a step loses")


def test_prose_is_wrapped_at_the_width_of_a_terminal_and_tables_are_not() -> None:
    whole, wrapped = report(small_profile()), report(small_profile(), width=80)
    assert " ".join(whole.split()) == " ".join(wrapped.split())
    tables = [line for line in whole.splitlines() if line.startswith(("class ", "kernel ", "fprop "))]
    for line in tables:
        assert line in wrapped.splitlines()
    assert max(len(line) for line in wrapped.splitlines() if "  " not in line.strip()) <= 80


def test_rows_are_cut_and_that_is_said() -> None:
    text = report(small_profile(), rows=1)
    assert "... and 2 more" in text
    assert "mystery" not in text
    assert "mystery" in report(small_profile(), rows=0)


def _advice(gpu: str, precision: str, sizes: dict[int, str], **changes: Any) -> Advice:
    """Advice with a point per size and its roles; 512 and more does not fit."""
    points = tuple(CurvePoint(batch, 1e-3 * batch, 1000.0, 0.9, batch << 26, batch < 512,
                              tuple(filter(None, roles.split(", ")))) for batch, roles in sizes.items())  # fmt: skip
    (advice,) = small_profile().advice
    return replace(advice, gpu=gpu, gpu_name=gpu, precision=precision, points=points, calibrated=False, **changes)


SIZES = {16: "", 24: "", 32: "traced", 48: "", 52: "just under a cliff", 53: "just over it", 64: "recommended, knee",
         96: "", 128: "", 192: "", 256: "largest power of two", 300: "fastest", 330: "folk formula", 333: "largest",
         512: "", 768: ""}  # fmt: skip


def test_of_a_long_curve_the_sizes_that_say_most_are_printed() -> None:
    shown = shown_sizes(_advice("a100-sxm4-80gb", "fp32", SIZES))
    assert [point.batch for point in shown] == [24, 32, 48, 64, 96, 128, 192, 256, 300, 333, 512]
    assert len(shown) == MOST_SIZES + 1


def test_other_gpus_and_precisions_take_a_few_rows_and_their_notes_are_said_once() -> None:
    (own,) = small_profile().advice
    others = (
        _advice("v100-sxm2-16gb", "fp16", SIZES, notes=("a note", "of AMP")),
        _advice("h100-sxm-80gb", "fp32", SIZES, notes=("a note", "of the H100", "of FP32")),
        _advice("h100-sxm-80gb", "fp16", SIZES, notes=("a note", "of the H100")),
    )
    text = report(small_profile(advice=(own, *others)))
    table = text[text.index("Batch sizes in another precision and on other GPUs") :]
    rows = [line.split() for line in table.splitlines()[3:12]]
    assert [row[-1] for row in rows] == ["traced", "knee", "largest"] * 3
    assert rows[0][:4] == ["v100-sxm2-16gb", "FP16", "AMP", "32"]
    assert rows[4][0] == "64"  # the GPU is named once
    assert text.count("a note") == 1
    assert "note     v100-sxm2-16gb in FP16 AMP: of AMP" in text
    assert "note     h100-sxm-80gb: of the H100" in text
    assert "note     h100-sxm-80gb in FP32: of FP32" in text


def test_hostile_names_stay_on_their_line_and_in_their_cell() -> None:
    profile = small_profile()
    hostile = replace(profile, kernels=(replace(GROUP, name=HOSTILE),), notes=(HOSTILE,),
                      operations=(replace(profile.operations[0], layer=HOSTILE, name=HOSTILE),))  # fmt: skip
    for format_ in ("table", "markdown"):
        text = report(hostile, format_=format_)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert max(map(len, text.splitlines())) < 800
    rows = [line for line in report(hostile, format_="markdown").splitlines() if line.startswith("| `evil")]
    assert rows
    assert all(line.replace("\\|", "").count("|") == rows[0].replace("\\|", "").count("|") for line in rows)
    assert "<script>" not in report(replace(hostile, notes=("<script>",)), format_="markdown")
    assert json.loads(hostile.to_json())["kernels"][0]["name"] == HOSTILE


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor<float> >(int, float)",
         "vectorized_elementwise_kernel<4, AddFunctor<float> >"),
        ("void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_128x64_32x6_nt_align1>(cutlass_80::Params)",
         "cutlass_80_tensorop_s1688gemm_128x64_32x6_nt_align1"),
        ("void cudnn::(anonymous namespace)::f<float>(int)", "f<float>"),
        ("a" * 100, "a" * 57 + "..."),
        ("(", "("),
        ("", ""),
    ],
)  # fmt: skip
def test_kernels_are_called_by_what_tells_them_apart(name: str, short: str) -> None:
    assert short_kernel(name, 60) == short


def test_cleaned_text_is_one_printable_line() -> None:
    assert clean("a\r\n\tb\x00\x9b\ud800c") == "a b??" + "?c"
    assert clean("x" * 10_000, 20) == "x" * 17 + "..."
    assert code("a|b`c") == "`a\\|b'c`"


def test_the_json_keeps_its_schema_and_reads_back() -> None:
    text = small_profile().to_json()
    _, components = msgspec.json.schema_components([TraceDocument], ref_template="#/$defs/{name}")
    jsonschema.validate(json.loads(text), {"$ref": "#/$defs/TraceDocument", "$defs": components})
    document = json.loads(text)
    assert document["schema_version"] == 1
    assert document["kernel_time_s"] == document["bill"]["kernel_time_s"] == 10e-3
    assert document["kernels"][0]["class"] == "fprop"
    assert document["by_layer"][0]["class"] == "fprop"
    assert document["operations"][0]["pass"] == "fprop"
    assert document["ranks"] is None


def test_pandas_has_a_row_per_group_and_the_columns_of_the_csv() -> None:
    pandas = pytest.importorskip("pandas")
    frame = small_profile().to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["total_s"].sum() == pytest.approx(10e-3)
    assert list(frame["class"]) == ["fprop", "elementwise", "other"]
    assert list(small_profile(kernels=()).to_pandas().columns) == list(frame.columns)


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"batchwave\[pandas\]"):
        small_profile().to_pandas()


def test_rows_of_kernels_carry_units_in_their_names() -> None:
    row = msgspec.to_builtins(kernel_rows(small_profile())[0])
    assert (row["grid"], row["shared_memory_bytes"], row["per_step_s"]) == ("784x1x1", 12288, 2e-3)
