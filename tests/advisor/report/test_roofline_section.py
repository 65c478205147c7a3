import re
from dataclasses import replace

import numpy as np
import pytest

from advisor.plots.roofline import draw_roofline
from advisor.report.layer_looks import layer_class, operation, short_name
from advisor.report.records import NOT_MEANT, Figure
from advisor.report.roofs import NOMINAL, Point, Roof, points, roof_of, verdict
from advisor.report.sections.roofline import section
from advisor.report.subject import Subject
from advisor.steptime import LayerCost
from tests.advisor.report.subjects import figure, subject
from tests.pictures import pictured

ROOF = Roof("FP16 Tensor Cores", 100e12, 1e12, 10e12, 80e12)  # ridge at 100 FLOP per byte


def layer(name: str = "fc", op: str = "forward gemm", **changes: object) -> LayerCost:
    plain = LayerCost(
        layer=name, op=op, m=64, n=128, k=256, count=1, time_s=1e-3, ideal_time_s=1e-3, tile_m=64, tile_n=64, split_k=1,
        waves=0.5, wave_efficiency=0.5, tile_efficiency=1.0, bound="compute", alignment_note=None, share=0.1,
        flops=50e9, traffic_bytes=1e8,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def a100() -> Subject:
    return subject("a100", "resnet50")


def test_the_roof_is_the_bandwidth_up_to_the_ridge_and_the_peak_from_there() -> None:
    assert ROOF.ridge == 100
    assert [ROOF.at(x) for x in (1, 50, 100, 1000)] == [1e12, 50e12, 100e12, 100e12]


def test_the_roof_of_an_a100_is_its_data_sheets(a100: Subject) -> None:
    roof = roof_of(a100.models[0])
    assert roof is not None
    # 108 SMs x 2048 FLOP per clock x 1.41 GHz; 2,039 GB/s; FP32 108 x 128 x 1.41 GHz
    assert (roof.peak_flops_per_s, roof.bandwidth_bytes_per_s) == (108 * 2048 * 1.41e9, 2039e9)
    assert roof.vector_flops_per_s == 108 * 128 * 1.41e9
    assert roof.reached_flops_per_s is not None
    assert 0.5 < roof.reached_flops_per_s / roof.peak_flops_per_s < 1


def test_the_stem_of_resnet_50_has_124_flop_per_byte_and_is_under_the_memory_roof(a100: Subject) -> None:
    found = a100.models[0]
    roof = roof_of(found)
    assert roof is not None
    (stem,) = [p for p in points(found, roof) if (p.layer.layer, p.layer.op) == ("conv1", "fprop")]
    # per image 2 x 112 x 112 x 64 x 147 FLOP, over 2 bytes each of 3 x 224 x 224 and 64 x 112 x 112; filters besides
    assert stem.flop_per_byte == pytest.approx(236027904 / (2 * (150528 + 802816)), rel=1e-4)
    assert stem.flops_per_s == pytest.approx(found.batch_size * 236027904 / stem.layer.time_s)
    assert stem.roof == "memory"


def test_every_operation_is_a_point_and_their_shares_sum_to_the_busy_step(a100: Subject) -> None:
    found = a100.models[0]
    roof = roof_of(found)
    assert roof is not None
    step = points(found, roof)
    assert len(step) == len(found.setup.model.variant.ops) + 1  # the optimizer
    busy = found.setup.predict(np.array([found.batch_size]))[0].busy_share
    assert sum(point.layer.share for point in step) == pytest.approx(busy)
    moving = [point for point in step if point.moves_only]
    assert all(point.flop_per_byte == NOMINAL and point.roof == "memory" for point in moving)
    bn = next(point for point in moving if point.layer.op == "batch norm backward")
    assert bn.flops_per_s == pytest.approx(NOMINAL * bn.layer.traffic_bytes / bn.layer.time_s)


def test_the_verdict_weighs_points_by_their_time() -> None:
    step = [
        Point(layer(flops=60e9, time_s=1e-3, traffic_bytes=1e8), 600, 60e12, "compute"),
        Point(layer(flops=20e9, time_s=1e-3, traffic_bytes=1e8), 200, 20e12, "compute"),
        Point(layer(flops=0.0, time_s=4e-3, traffic_bytes=3e9), NOMINAL, 1, "memory"),
        Point(layer(flops=10e9, time_s=2e-3, traffic_bytes=1.5e9), 6.7, 5e12, "memory"),
    ]
    assert verdict(ROOF, step, 10e-3) == (
        "Of 10.0 ms per step 60 % lies under the memory roof (40 % only moves data), reaching 75 % of the bandwidth; "
        "20 % lies under the compute roof, reaching 40 % of the peak; 20 % waits for launches."
    )


@pytest.mark.parametrize(
    ("op", "class_"),
    [
        ("backward gemm", "gemm"),
        ("wgrad", "wgrad"),
        ("forward bmm", "attention"),
        ("attention bprop", "attention"),
        ("batch norm forward", "normalisation"),
        ("norm backward", "normalisation"),
        ("optimizer", "elementwise, other"),
        ("elementwise math", "elementwise, other"),
    ],
)
def test_operations_are_told_apart_by_class(op: str, class_: str) -> None:
    assert layer_class(layer(op=op)) == class_


def test_a_long_path_keeps_its_end() -> None:
    long = layer("bert.encoder.layer.0.intermediate.dense and 11 more")
    assert short_name(long, 26) == "..intermediate.dense +11"
    assert short_name(layer("conv1"), 26) == "conv1"
    assert short_name(layer("layer3.0.conv2 and 4 more"), 26) == "layer3.0.conv2 and 4 more"
    assert operation(long, 44) == "..dense +11, forward 64x128x256"
    assert operation(layer("all", "batch norm forward")) == "all batch norm forward"


def test_hovering_tells_shape_tile_waves_and_bound(a100: Subject) -> None:
    interactive = figure(section(a100), "roofline-resnet50").interactive
    assert interactive is not None
    fprop = next(series for series in interactive.series if series.name == "fprop")
    at = next(fact for fact in fprop.facts if fact.name == "layer").values.index("conv1")
    facts = {fact.name: fact.values[at] for fact in fprop.facts}
    rows = a100.models[0].batch_size * 112 * 112
    assert (facts["M"], facts["N"], facts["K"]) == (rows, 64, 147)
    assert facts["FLOP/byte"] == 124
    assert facts["bound"] in {"compute", "memory", "latency"}
    assert {"operation", "tile", "waves", "idle share", "time", "of the step"} <= facts.keys()
    moved = next(series for series in interactive.series if series.name.startswith("normalisation"))
    assert {fact.name: fact.values[0] for fact in moved.facts}["FLOP/byte"] == "none"


def test_every_operation_is_in_the_interactive_figure_and_those_below_its_axis_are_counted(a100: Subject) -> None:
    found = a100.models[0]
    roof = roof_of(found)
    assert roof is not None
    step = points(found, roof)
    interactive = figure(section(a100), "roofline-resnet50").interactive
    assert interactive is not None
    assert interactive.y_range is not None
    shown = [series for series in interactive.series if series.kind == "points"]
    assert sum(len(series.x) for series in shown) == len(step) == len(found.setup.model.variant.ops) + 1
    assert sorted(area for series in shown for area in series.areas or ()) == sorted(p.layer.share for p in step)
    (other,) = [series for series in shown if series.name.startswith("elementwise")]
    below = sum(y < interactive.y_range[0] for series in shown for y in series.y)
    assert below > 0
    assert f"({below} below the axis: see the table)" in other.name
    # what moves data at half of the bandwidth is drawn by half below the slope, wherever it stands across
    distances = sorted(y * 1e12 / x / roof.bandwidth_bytes_per_s for x, y in zip(other.x, other.y, strict=True))
    moved = [p.bytes_per_s / roof.bandwidth_bytes_per_s for p in step if layer_class(p.layer) == "elementwise, other"]
    assert distances == pytest.approx(sorted(moved))
    assert all(NOMINAL / 2 <= x <= NOMINAL * 2 for x in other.x)
    assert len(set(other.x)) == len(other.x)


def test_what_is_not_meant_is_blank_and_nothing_idle_is_a_figure(a100: Subject) -> None:
    found = section(a100)
    assert found is not None
    (table,) = found.tables
    rows = [dict(zip([column.key for column in table.columns], row, strict=True)) for row in table.rows]
    without = [row["idle_share"] for row in rows if not row["tile"]]
    assert without
    assert set(without) == {NOT_MEANT}
    assert 0.0 in [row["idle_share"] for row in rows if row["tile"]]
    assert all(row["m"] != 0 and row["flops_per_s"] != 0 for row in rows)


def test_the_table_has_every_operation_longest_first(a100: Subject) -> None:
    found = section(a100)
    assert found is not None
    (table,) = found.tables
    times = [row[[column.key for column in table.columns].index("time_s")] for row in table.rows]
    assert times == sorted(times, reverse=True)
    assert len(times) > 100


def test_a_gpu_without_tensor_cores_has_the_fp32_roof() -> None:
    roof = roof_of(subject("p100", "resnet50").models[0])
    assert roof is not None
    assert (roof.unit, roof.vector_flops_per_s) == ("FP32", None)


def test_what_is_above_the_roof_is_told_with_its_reason() -> None:
    old, new = section(subject("p100", "resnet50")), section(subject("a100", "bert-base-128"))
    assert old is not None
    assert new is not None
    assert any("Winograd's transform" in note for note in old.notes)  # FP32 convolutions of 3x3
    assert any("stay in the L2 cache" in note and "Winograd" not in note for note in new.notes)


def test_two_models_of_one_name_have_figures_of_their_own(a100: Subject) -> None:
    found = section(replace(a100, models=a100.models * 2))
    assert found is not None
    assert [each.id for each in found.figures] == ["roofline-resnet50", "roofline-resnet50-2"]


def test_without_a_model_there_is_no_roofline() -> None:
    assert section(subject("a100")) is None


def test_a_step_that_only_moves_data_or_only_computes_is_drawn() -> None:
    from advisor.plots.canvas import blank, encoded, styled

    products = [Point(layer(), 500, 50e12, "compute")]
    moving = [Point(layer(op="elementwise", flops=0.0, tile_m=0), NOMINAL, 2e10, "memory")]
    for step in (products, moving):
        with styled():
            canvas = blank((4, 4))
            draw_roofline(canvas, False, roof=ROOF, step=step)
            assert re.match(b"\x89PNG", encoded(canvas, "png"))


@pictured()
def test_roofline(a100: Subject) -> Figure:
    return figure(section(a100), "roofline-resnet50")


@pictured(narrow=True)
def test_roofline_on_a_phone() -> Figure:
    return figure(section(subject("h100", "bert-base-128")), "roofline-bert-base-128")
