from dataclasses import replace

import pytest

from advisor.report.one_more import OneMore, Pair, one_more, signed, verdict
from advisor.report.records import Figure
from advisor.report.sections.layers import section
from advisor.report.subject import Subject
from advisor.steptime import LayerCost
from tests.advisor.report.subjects import figure, subject
from tests.pictures import pictured


def layer(time_s: float, *, tile: tuple[int, int] = (256, 128), waves: float = 1.0, split_k: int = 1) -> LayerCost:
    return LayerCost(
        layer="fc", op="fprop", m=64, n=128, k=256, count=1, time_s=time_s, ideal_time_s=time_s, tile_m=tile[0],
        tile_n=tile[1], split_k=split_k, waves=waves, wave_efficiency=1.0, tile_efficiency=1.0, bound="compute",
        alignment_note=None, share=0.1, flops=1.0, traffic_bytes=1.0,
    )  # fmt: skip


def step(before_s: float, after_s: float, *pairs: Pair, batch: int = 100) -> OneMore:
    return OneMore(batch, before_s, after_s, pairs or (Pair(layer(1e-3), layer(1e-3), batch),), fits=True)


@pytest.fixture(scope="module")
def bert() -> Subject:
    return subject("a100", "bert-base-128")


def test_a_samples_own_work_is_no_excess() -> None:
    even = Pair(layer(100e-6), layer(101e-6), 100)
    assert even.change_s == pytest.approx(1e-6)
    assert even.excess_s == pytest.approx(0, abs=1e-12)
    assert Pair(layer(100e-6), layer(151e-6), 100).excess_s == pytest.approx(50e-6)


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (layer(1, waves=2.0), layer(1, waves=2.02), "2 to 3 waves of 256x128"),
        (layer(1, waves=2.2), layer(1, waves=2.9), ""),
        (layer(1, waves=0.4), layer(1, waves=1.0), ""),
        (layer(1, waves=6.0), layer(1, waves=6.03, tile=(128, 256)), "6 to 7 waves, tile turned"),
        (layer(1, waves=6.5), layer(1, waves=6.6, tile=(128, 256)), ""),
        (layer(1, waves=0.9), layer(1, waves=0.9, tile=(128, 128)), "1 of 256x128 to 1 of 128x128"),
        (layer(1, waves=0.9, split_k=4), layer(1, waves=0.7, split_k=3), "1 of 256x128/4 to 1 of 256x128/3"),
        (layer(1, tile=(0, 0), waves=0.0), layer(2, tile=(0, 0), waves=0.0), ""),
    ],
)
def test_the_cause_names_tiles_and_whole_waves(before: LayerCost, after: LayerCost, cause: str) -> None:
    assert Pair(before, after, 100).cause == cause


def test_the_gain_is_of_samples_per_second() -> None:
    assert step(0.100, 0.101).gain == pytest.approx(0)
    assert step(0.100, 0.202).gain == pytest.approx(-0.5)


def test_it_is_said_where_one_sample_hardly_matters() -> None:
    assert verdict(step(0.100, 0.10110)) == (
        "from batch 100 to 101 a step grows from 100.0 to 101.1 ms, and the throughput changes by -0.1 %: one sample "
        "more hardly matters here."
    )
    assert "changes by 0.0 %:" in verdict(step(0.100, 0.101000001))


def test_a_cliff_is_told_with_the_layer_that_makes_it() -> None:
    jump = Pair(layer(4e-3, waves=2.0), layer(9e-3, waves=2.02), 100)
    even = Pair(layer(20e-3), layer(20.2e-3), 100)
    # 101/100 over 106/100 is a loss of 4.7 %
    assert verdict(step(0.100, 0.106, even, jump)) == (
        "from batch 100 to 101 a step grows from 100.0 to 106.0 ms, and the throughput changes by -4.7 %: more than "
        "two runs of one size may differ (2 %). The largest part of it is fc, fprop, +5.00 ms (5.0 % of the step): "
        "2 to 3 waves of 256x128."
    )
    assert "less than two runs" in verdict(step(0.100, 0.102, even, jump))


def test_rows_are_what_changes_most_and_the_heaviest_besides() -> None:
    jump = Pair(layer(1e-3), layer(2e-3), 100)
    fall = Pair(layer(2e-3), layer(1.5e-3), 100)
    heavy, light = Pair(layer(9e-3), layer(9.09e-3), 100), Pair(layer(3e-3), layer(3.03e-3), 100)
    assert step(0.1, 0.1, light, jump, heavy, fall).chosen(2, 1) == [heavy, fall, jump]


def test_changes_have_a_sign() -> None:
    assert [signed(x) for x in (1.2e-3, -45e-6, 0.0)] == ["+1.20 ms", "-45.0 us", "0"]
    assert [signed(x) for x in (71.4e-9, -0.4e-6, 4e-9)] == ["+0.07 us", "-0.40 us", "0"]


def test_layers_sum_to_the_steps_that_the_curve_predicts(bert: Subject) -> None:
    found = bert.models[0]
    more = one_more(found, found.batch_size)
    assert more.before_s == pytest.approx(found.curve.time_s[found.batch_size - 1])
    assert more.after_s == pytest.approx(found.curve.time_s[found.batch_size])
    assert sum(pair.change_s for pair in more.pairs) == pytest.approx(more.after_s - more.before_s, rel=0.02)


def test_the_recommended_size_and_the_cliff_beside_it_are_shown(bert: Subject) -> None:
    found = section(bert)
    assert found is not None
    under = [c.prediction.batch for c in bert.models[0].answer.candidates if "just under a cliff" in c.roles]
    assert [each.id for each in found.figures] == ["layers-bert-base-128", "layers-bert-base-128-cliff"]
    assert [each.id for each in found.tables] == [each.id for each in found.figures]
    assert f"from batch {under[0]} to {under[0] + 1} " in found.figures[1].answer


def test_one_wave_more_of_bert_is_counted_from_its_rows(bert: Subject) -> None:
    # 768 x 768 linears of 108 sequences of 128 tokens: 54 x 6 tiles of 256x128 are 3 waves of 108; 109 need a fourth
    found = section(bert)
    assert found is not None
    table = found.tables[1]
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row, strict=True)) for row in table.rows]
    linear = next(row for row in rows if "query" in str(row["layer"]))
    assert (linear["waves_before"], linear["tile_before"]) == (3.0, "256x128")
    assert float(str(linear["waves_after"])) > 3


def test_two_models_of_one_name_have_ids_of_their_own(bert: Subject) -> None:
    found = section(replace(bert, models=bert.models * 2))
    assert found is not None
    assert len({each.id for each in found.figures}) == len(found.figures) == 4


@pytest.mark.parametrize(("gpu", "model"), [("p100", "resnet50"), ("t4", "mobilenet_v2"), ("rtx-3090", "gpt2")])
def test_other_gpus_and_models_have_their_section(gpu: str, model: str) -> None:
    found = section(subject(gpu, model))
    assert found is not None
    assert all("hardly matters" in each.answer or "of the step" in each.answer for each in found.figures)


def test_without_a_model_there_is_no_section() -> None:
    assert section(subject("a100")) is None


@pictured()
def test_layers_at_a_cliff() -> Figure:
    return figure(section(subject("a100", "resnet50")), "layers-resnet50-cliff")


@pictured(narrow=True)
def test_layers_on_a_phone(bert: Subject) -> Figure:
    return figure(section(bert), "layers-bert-base-128")
