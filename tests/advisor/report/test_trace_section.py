"""Section `trace`: where a recorded step's time goes, what it loses, which kernels leave SMs idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from advisor.gpus import find_gpu
from advisor.profiling.analysis import profile_trace
from advisor.profiling.records import Bill, StepFacts, TraceProfile
from advisor.report.records import Cell, Figure, Report, Section
from advisor.report.rendering.pictures import draw
from advisor.report.rendering.write import write_report
from advisor.report.sections.trace import as_option_of_report, section
from tests.advisor.profiling.profiles import GROUP, memory_bound, small_profile
from tests.data import recorded_trace
from tests.pictures import pictured

TRACES = ("resnet50_train_b32_fp32_v100", "alexnet_a100", "triton_kernel_a100", "sampled_no_device_properties")
NO_STEPS = StepFacts(0, "none", (), 0.0, 0.0, 0.0, {}, 0.0, 0.0, 0.0, False)


def on_an_a100(trace: TraceProfile | None) -> Any:
    """A subject as far as this section asks for it."""
    return SimpleNamespace(trace=trace, gpu=find_gpu("a100"))


def made(profile: TraceProfile) -> Section:
    found = section(on_an_a100(profile))
    assert found is not None
    return found


def figure(profile: TraceProfile, name: str) -> Figure:
    return next(each for each in made(profile).figures if each.id == name)


def rows(profile: TraceProfile, name: str) -> list[Mapping[str, Cell]]:
    table = next(each for each in made(profile).tables if each.id == name)
    return [dict(zip([column.key for column in table.columns], row, strict=True)) for row in table.rows]


@pictured()
def test_time_by_class_looks_as_it_did() -> Figure:
    return figure(small_profile(), "trace-classes")


@pictured(narrow=True)
def test_kernels_look_as_they_did_on_a_phone() -> Figure:
    return figure(small_profile(), "trace-kernels")


def test_there_is_no_section_without_a_trace() -> None:
    assert section(on_an_a100(None)) is None


def test_the_answers_are_read_from_the_trace() -> None:
    """4 ms of convolutions in two steps of 8 ms: 2 ms or 25 % of one; 0.3125 of it is idle, 2 ms for the host."""
    classes, kernels = made(small_profile()).figures
    assert classes.title == "Where do the 8.00 ms of a step go?"
    assert classes.answer == (
        "The kernels that take most: fprop 2.00 ms (25.0 %), elementwise 1.75 ms (21.9 %), other 1.25 ms (15.6 %). "
        "The GPU is idle for 2.50 ms (31 %): 2.00 ms waiting for the host's launches, 500 us waiting for data."
    )
    assert kernels.answer == (  # 2.45 waves of 3
        "Matrix products, convolutions and attention fill 82 % of their waves' slots, weighted by time. Most is idle "
        "beside fprop, conv 64>64 3x3 on 56x56: 25.0 % of the step, 2.45 waves, 82 % efficient."
    )


def test_a_point_tells_its_kernel_and_its_waves() -> None:
    chart = figure(small_profile(), "trace-kernels").interactive
    assert chart is not None
    series = next(each for each in chart.series if each.name == "fprop")
    assert (series.x, series.y) == ((2000.0,), (81.7,))
    assert {fact.name: (*fact.values, fact.unit) for fact in series.facts} == {
        "kernel": ("volta_scudnn_128x64_relu_medium_nn_v1", ""),
        "class": ("fprop", ""),
        "layer": ("conv 64>64 3x3 on 56x56", ""),
        "tile": ("128x64", ""),
        "grid": ("784x1x1", ""),
        "waves": (2.45, ""),
        "idle slots of the last wave": (55.0, "%"),
        "of the step": (25.0, "%"),
        "calls per step": (2.0, ""),
        "Tensor Cores": ("no", ""),
    }


def test_the_tables_hold_classes_losses_kernels_and_batch_sizes() -> None:
    profile = small_profile()
    classes = rows(profile, "trace-time-by-class")
    assert [row["class"] for row in classes] == ["fprop", "elementwise", "other", "memcpy, memset", "GPU idle"]
    assert [row["time_per_step_s"] for row in classes] == [2e-3, 1.75e-3, 1.25e-3, 0.5e-3, 2.5e-3]
    assert [row["wave_efficiency"] for row in classes][1:] == ["", "", "", ""]  # no waves are billed there
    host = rows(profile, "trace-losses")[1]
    assert (host["what"], host["lost_s"], host["step_gain_share"], host["known_by"], host["todo"]) == (
        "no kernel runs", 2.5e-3, 0.3125, "measuring", "use a CUDA graph",
    )  # fmt: skip
    assert rows(profile, "trace-worst")[0]["worst"] == "conv 64>64 3x3 on 56x56: 1.00 ms"
    assert [row["kernel"] for row in rows(profile, "trace-kernel-list")] == [group.name for group in profile.kernels]
    assert [row["batch"] for row in rows(profile, "trace-batches")] == [32, 64]


def test_the_origin_is_the_file_and_not_this_machine() -> None:
    profile = small_profile(recorded_at="2024-10-28T23:06:30Z", versions={"cuda_runtime_version": "12.0"})
    origin = figure(profile, "trace-classes").origins[0]
    assert origin.kind == "recorded trace"
    assert origin.text.startswith(
        "recorded by torch.profiler on Tesla V100-SXM2-16GB, read from trace.json.gz; 2024-10-28 23:06 UTC, CUDA "
        "runtime 12.0;"
    )


def test_a_trace_of_another_gpu_than_the_reports_is_said_to_be() -> None:
    told = (
        " This trace was recorded on another GPU, Tesla V100-SXM2-16GB; the rest of this report is about "
        "NVIDIA A100-SXM4-80GB."
    )
    assert made(small_profile()).lead.endswith(told)
    same = replace(small_profile().gpu, id="a100-sxm4-80gb")
    assert "the rest of this report" not in made(small_profile(gpu=same)).lead


def test_a_trace_that_names_no_gpu_says_how_to_name_it_here() -> None:
    unnamed = replace(small_profile().gpu, id=None, notes=("the GPU is not named: name it with --gpu for waves",))
    section = made(small_profile(gpu=unnamed))
    assert "This trace was recorded on a GPU that it does not name;" in section.lead
    assert "The GPU is not named: name it with --trace-gpu for waves." in section.notes
    refused = "not on T4: leave out --gpu, and name other GPUs with --on"
    assert as_option_of_report(refused) == "not on T4: leave out --trace-gpu"


def test_estimates_say_their_error_and_what_is_measured_none() -> None:
    profile = small_profile()
    losses = next(table for table in made(profile).tables if table.id == "trace-losses")
    assert "12 % off in the mean" in losses.origins[-1].text
    measured = replace(profile.bill, lines=profile.bill.lines[1:])
    kinds = [[o.kind for o in t.origins] for t in made(small_profile(bill=measured)).tables if t.id == "trace-losses"]
    assert kinds == [["recorded trace"]]


def test_a_trace_without_steps_is_shown_as_a_whole() -> None:
    """10 ms of kernels, 4 ms of them in convolutions."""
    groups = [replace(group, step_s=None, launches_per_step=None) for group in small_profile().kernels]
    profile = small_profile(steps=NO_STEPS, kernels=tuple(groups), advice=(), bill=Bill(10e-3, 0.0, (), "no step"))
    classes, kernels = made(profile).figures
    assert classes.title == "Where does the kernels' time go?"
    assert classes.answer.startswith("The kernels that take most: fprop 4.00 ms (40.0 %), elementwise 3.50 ms (35.0 %)")
    assert kernels.interactive is not None
    assert kernels.interactive.x_title == "time in all, us (logarithmic)"
    assert rows(profile, "trace-kernel-list")[0]["share_of_kernel_time"] == 0.4
    assert {table.id for table in made(profile).tables} == {"trace-time-by-class", "trace-kernel-list"}
    for each in made(profile).figures:
        draw(each)


def test_kernels_bound_by_memory_are_no_figure_of_waves() -> None:
    profile = small_profile(kernels=(memory_bound("add", "elementwise", total_s=10e-3, count=1),))
    assert [each.id for each in made(profile).figures] == ["trace-classes"]
    assert any("what memory bounds is not billed" in note for note in made(profile).notes)


@pytest.mark.filterwarnings("error")
def test_hostile_names_make_a_report_as_any_other(tmp_path: Path) -> None:
    name = "$\\frac{x$ \u4e2d\u6587 <script>alert(1)</script> \x1b[31m|" + "k" * 10_000
    profile = small_profile()
    hostile = replace(
        profile, kernels=(replace(GROUP, name=name, tile=name, note=name),), versions={name: name},
        operations=(replace(profile.operations[0], layer=name),), gpu=replace(profile.gpu, name=name, notes=(name,)),
        path=f"{name[:50]}.json", notes=(name,), batch=replace(profile.batch, evidence=name),
        bill=replace(profile.bill, verdict=name, lines=(replace(profile.bill.lines[0], what=name, items=(name,)),)),
    )  # fmt: skip
    write_report(Report(name, (name,), {name: name}, (made(hostile),)), tmp_path / "report")
    for file in (tmp_path / "report").rglob("*.[hms][tdv]*"):
        assert "<script>alert" not in file.read_text(encoding="utf-8"), file.name


@pytest.mark.parametrize("name", TRACES)
def test_recorded_traces_are_shown(name: str) -> None:
    """Shares, and what no kernel covers, are of one whole: a step's 100 %, but for kernels that overlap."""
    profile = profile_trace(recorded_trace(f"{name}.json.gz"))
    found = made(profile)
    covered = sum(cast(float, row["share_of_step"]) for row in rows(profile, "trace-time-by-class"))
    assert 0.99 < covered < 1.1
    assert len(rows(profile, "trace-kernel-list")) == len(profile.kernels)
    for each in found.figures:
        draw(each)


def test_the_largest_leak_of_a_recorded_step_is_the_one_of_its_profile() -> None:
    """The CLI's own picture names the same kernel first: 72 CTAs, where 80 SMs hold 320."""
    profile = profile_trace(recorded_trace("resnet50_train_b32_fp32_v100.json.gz"))
    assert (
        "beside wgrad, conv 64>64 3x3 on 56x56: 1.1 % of the step, 0.23 waves"
        in figure(profile, "trace-kernels").answer
    )
