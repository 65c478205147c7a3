"""The batch section, on a curve made up by hand: a step takes 16 ms and 32 ms more for each 32 samples begun."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from math import ceil, isnan

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from advisor.gpus import resolve_gpu
from advisor.loading import profiles_for
from advisor.plots.canvas import styled
from advisor.plots.curve import draw_curve, lanes
from advisor.recommendation import Candidate, Curve, Recommendation, recommend
from advisor.report.records import Figure, Origin, Section, Table
from advisor.report.rendering.pictures import drawn
from advisor.report.sections.batch import section
from advisor.report.subject import Measured, MeasuredSteps, Subject
from advisor.rules_of_thumb import choices, last_shown, sizes_shown
from advisor.steptime import StepError
from tests.pictures import pictured

GIB = 2**30
SEARCHED, LARGEST, RECOMMENDED = 256, 190, 128  # 190 samples take the 20 GiB that there are
TITLE = "ResNet-50"


@cache
def real(model: str = "resnet50", gpu: str = "a100-sxm4-80gb", max_batch: int = 1024) -> Recommendation:
    return recommend(model, gpu=gpu, max_batch=max_batch)


def made_up(*, limit_bytes: int | None = 20 * GIB, largest: int = LARGEST, name: str = "resnet50") -> Recommendation:
    """128 samples: 4 * 32 + 16 = 144 ms, 888.9/s; 190, the fastest that fits: 208 ms, 913.5/s."""
    sizes = list(range(1, SEARCHED + 1))
    time_s = [0.016 + 0.032 * ceil(b / 32) for b in sizes]
    speed = [b / t for b, t in enumerate(time_s, start=1)]
    memory = [GIB + GIB // 10 * b for b in sizes]
    base = real(max_batch=256).answer
    roles = {RECOMMENDED: ("recommended", "knee"), largest: ("fastest that fits", "largest that fits"),
             100: ("folk formula",)}  # fmt: skip
    candidates = tuple(
        Candidate(names, speed[b - 1] / speed[largest - 1], replace(base.candidates[0].prediction, batch=b))
        for b, names in roles.items()
    )
    answer = replace(
        base, model=replace(base.model, name=name, title=TITLE), batch_size=RECOMMENDED,
        samples_per_s=speed[RECOMMENDED - 1], knee=RECOMMENDED, fastest=largest, largest_fitting=largest,
        largest_fitting_is_search_limit=largest == SEARCHED, tolerance=0.03, memory_limit_bytes=limit_bytes,
        margin=0.0, error=StepError(0.1, 0.2, "made up"), candidates=candidates,
        curve=Curve(sizes, time_s, speed, memory, [b <= largest for b in sizes]),
    )  # fmt: skip
    return Recommendation(real(max_batch=256).setup, answer)


STEPS = MeasuredSteps(
    model="resnet50",
    batch=np.array([32, 64, 128]),
    time_s=np.array([0.05, 0.08, np.nan]),
    memory_bytes=np.array([4.0, np.nan, 14.0]) * GIB,
    power_w=np.array([300.0, np.nan, 350.0]),
    recipe="fp16 AMP",
    origin=Origin("measured here", "one A100"),
)


def shown(*models: Recommendation, steps: tuple[MeasuredSteps, ...] = ()) -> Section:
    gpu = resolve_gpu("a100-sxm4-80gb")
    found = section(Subject(gpu, profiles_for(gpu), models, Measured(steps=steps)))
    assert found is not None
    return found


def column(table: Table, key: str) -> list[object]:
    place = [each.key for each in table.columns].index(key)
    return [row[place] for row in table.rows]


def test_without_a_model_there_is_no_section() -> None:
    gpu = resolve_gpu("a100-sxm4-80gb")
    assert section(Subject(gpu, profiles_for(gpu), (), Measured())) is None


def test_rules_of_thumb_name_the_sizes_that_people_would_compute() -> None:
    sizes = {choice.name: choice.batch for choice in choices(made_up().answer) if choice.kind == "rule of thumb"}
    assert sizes == {
        "largest that fits": 190, "largest power of two": 128, "largest multiple of 64": 128,
        "largest multiple of 8": 184, "folk formula": 100,
    }  # fmt: skip
    assert [c.batch for c in choices(made_up().answer) if c.kind == "usual size"] == [32, 64, 128, 256]


def test_a_limit_of_the_search_is_not_called_what_fits() -> None:
    names = [choice.name for choice in choices(made_up(largest=SEARCHED).answer)]
    assert "largest searched" in names
    assert "largest that fits" not in names


def test_choices_cost_what_the_curve_says() -> None:
    table = shown(made_up()).tables[0]
    assert table.title == "What do the rules of thumb cost for ResNet-50?"
    of_fastest = dict(zip(column(table, "choice"), column(table, "of_fastest"), strict=True))
    assert of_fastest["recommended"] == pytest.approx((128 / 0.144) / (190 / 0.208))  # 97.3 %
    assert of_fastest["largest multiple of 8"] == pytest.approx(184 / 190)  # of the same length
    assert of_fastest["folk formula"] == pytest.approx((100 / 0.144) / (190 / 0.208))
    assert column(table, "samples_per_s")[-3] == pytest.approx(800)  # 64 in 80 ms
    assert column(table, "fits") == [True] * (len(table.rows) - 1) + [False]  # 256


def test_the_answer_reads_its_numbers_from_the_curve() -> None:
    answer = shown(made_up()).figures[0].answer
    assert answer == (
        "Take 128 images per GPU: 889 images/s +-10 % are predicted, in 13.8 GiB of 20.0 GiB. That is 97.3 % of the "
        "throughput at 190, the fastest size that fits. "
        "190 (largest that fits) takes 1.4 times the memory for 2.8 % more throughput. "  # 20 GiB; 913.5/s
        "Of the rules of thumb 32 (usual size) loses most, 25 % of the throughput. 256 does not fit."  # 666.7/s
    )


def test_the_answer_says_where_the_search_ended_and_then_names_nothing_the_fastest_that_fits() -> None:
    found = shown(made_up(largest=SEARCHED))
    assert "at 256, the fastest size searched." in found.figures[0].answer
    assert found.figures[0].answer.endswith("The search ended at 256: larger sizes may fit.")
    assert "fastest searched" in column(found.tables[0], "choice")
    chart = found.figures[0].interactive
    assert chart is not None
    roles = [value for each in chart.series for fact in each.facts if fact.name == "roles" for value in fact.values]
    assert any(str(role).startswith("fastest searched, largest searched") for role in roles)
    everything = [found.figures[0].answer, found.figures[0].alt, *column(found.tables[0], "choice"), *roles]
    assert not any("that fits" in str(text) for text in everything if "rule of thumb that fits" not in str(text))


def test_a_single_sample_that_is_all_that_was_searched_reads_as_one() -> None:
    answer = shown(real("gpt2", "t4", 1)).figures[0].answer
    assert answer.startswith("Take 1 sequence per GPU: ")
    assert "No other size searched is faster. No rule of thumb that fits names another size." in answer
    memory = shown(real("gpt2", "t4", 1)).figures[1].answer
    assert memory.startswith("1 sequence takes 3.56 GiB: ")
    assert memory.endswith(" 1, the only size searched, fits 14.6 GiB with a margin of 7.5 %.")
    ticks = {word for word, _ in drawn_words(shown(real("gpt2", "t4", 1)).figures[0])[1]}
    assert not any(tick.startswith(("0.9", "1.0")) for tick in ticks)  # no part of a sample


def test_rules_that_are_all_as_fast_are_said_to_be() -> None:
    found = made_up()
    flat = replace(found.answer, curve=replace(found.curve, samples_per_s=[900.0] * SEARCHED), samples_per_s=900.0)
    answer = shown(Recommendation(found.setup, flat)).figures[0].answer
    assert "190 (largest that fits) takes 1.4 times the memory for the same throughput, within 2 %." in answer
    assert "Every rule of thumb that fits is as fast, within 2 %." in answer


def test_where_the_memory_is_unknown_nothing_is_said_to_fit() -> None:
    found = shown(made_up(limit_bytes=None, largest=SEARCHED))
    assert set(column(found.tables[0], "fits")) == {None}
    assert "GiB of" not in found.figures[0].answer
    assert "the fastest size searched" in found.figures[0].answer
    words = [word for word, _ in drawn_words(found.figures[0])[1]]
    assert any("memory limit unknown" in word for word in words)
    assert not any("memory limit," in word for word in words)


def test_every_point_of_the_interactive_form_has_its_facts() -> None:
    chart = shown(made_up(), steps=(STEPS,)).figures[0].interactive
    assert chart is not None
    series = {each.name: each for each in chart.series}
    line = series["predicted, fits"]
    assert [fact.name for fact in line.facts] == [
        "batch", "images/s", "step time", "memory", "fits", "GPU busy", "wave efficiency", "roles",
    ]  # fmt: skip
    assert all(len(fact.values) == len(each.x) for each in chart.series for fact in each.facts)
    assert (line.x[0], line.x[-1], line.y[127]) == (1, 190, pytest.approx(888.9, abs=0.05))
    at = {fact.name: fact.values[127] for fact in line.facts}
    assert (at["step time"], at["memory"], at["fits"]) == (144.0, 13.8, True)
    assert at["roles"] == "recommended, knee, largest power of two, largest multiple of 64, usual size"
    assert series["predicted, does not fit"].x[0] == 191
    around = series["within the mean error, 10 %"]  # below the line, a gap, above it
    half = len(around.x) // 2
    assert isnan(around.x[half])
    assert isnan(around.y[half])
    assert (around.x[:half], around.x[127]) == (around.x[half + 1 :], 128)
    assert (around.y[127], around.y[half + 128]) == pytest.approx((888.889 / np.exp(0.1), 888.889 * np.exp(0.1)))
    looks = [(each.symbol, each.tone) for each in chart.series if each.kind == "points"]
    assert len(looks) == len(set(looks)) == 8  # seven ways to choose, and what was measured
    assert series["largest power of two, multiple of 64: 128"].x == (128,)
    assert [(mark.x, mark.label) for mark in chart.marks] == [(128, "128"), (190, "190")]


def test_the_memory_is_the_sum_of_its_parts_and_holds_the_limit() -> None:
    found = real("gpt2", "t4")
    figure = shown(found, steps=(replace(STEPS, model="gpt2"),)).figures[1]
    chart = figure.interactive
    assert chart is not None
    predicted, limit, less, measured = chart.series
    assert predicted.y == pytest.approx([found.curve.total_bytes[int(b) - 1] / GIB for b in predicted.x])
    facts = {fact.name: fact.values for fact in predicted.facts}
    parts = [values for name, values in facts.items() if name not in ("batch", "memory", "fits")]
    assert np.sum(parts, axis=0) == pytest.approx(predicted.y, rel=0.01)  # each rounded to three digits
    assert facts["fits"] == tuple(b <= found.answer.largest_fitting for b in facts["batch"])
    assert limit.y[0] == pytest.approx(found.answer.memory_limit_bytes / GIB)
    assert less.y[0] == pytest.approx(limit.y[0] / (1 + found.answer.margin))
    assert (measured.x, measured.y) == ((32, 128), (4, 14))
    assert f"{found.answer.largest_fitting} is the largest size that fits" in figure.answer


def test_far_sizes_are_thinned_but_for_those_named_and_both_ends_of_cliffs() -> None:
    sizes = sizes_shown(real(max_batch=1024).answer)
    answer = real(max_batch=1024).answer
    speed = answer.curve.samples_per_s
    assert sizes[:257] == [*range(1, 257), *sizes[256:257]]
    assert {answer.batch_size, answer.fastest, answer.largest_fitting, *range(260, 1024, 4)} <= set(sizes)
    falls = [b for b in range(257, 1024) if speed[b] < speed[b - 1]]
    assert falls
    assert all(b in sizes and b + 1 in sizes for b in falls)
    assert len(sizes) < 700


def test_measured_steps_are_points_with_what_is_known_of_them() -> None:
    found = shown(made_up(), steps=(STEPS, replace(STEPS, model="vgg16")))
    chart = found.figures[0].interactive
    assert chart is not None
    (points,) = (each for each in chart.series if each.name.startswith("measured"))
    assert points.x == (32, 64)  # the third has no time
    assert points.y == pytest.approx((640, 800))
    assert {fact.name: fact.values for fact in points.facts}["power"] == (300.0, None)
    (table,) = found.tables[1:]
    assert column(table, "measured_samples_per_s") == [pytest.approx(640), pytest.approx(800), None]
    assert column(table, "measured_memory_bytes") == [4 * GIB, None, 14 * GIB]
    assert STEPS.origin in found.figures[0].origins


def test_two_models_of_one_name_have_ids_of_their_own() -> None:
    found = shown(made_up(), made_up(), steps=(STEPS, STEPS))
    ids = [each.id for each in (*found.figures, *found.tables)]
    assert len(ids) == len(set(ids)) == 4 + 2 + 4


def test_usual_sizes_share_one_row_and_what_does_not_fit_is_no_share_of_the_fastest() -> None:
    rows = {row.short: row for row in lanes(choices(made_up().answer))}
    assert rows["usual"].batches == (32, 64, 128, 256)
    assert rows["usual"].fits == (True, True, True, False)
    assert len({row.marker for row in rows.values()}) == len(rows)


def test_the_picture_ends_somewhat_beyond_what_fits() -> None:
    assert last_shown(made_up().answer) == 238  # 1.25 * 190, rounded
    assert last_shown(made_up(largest=SEARCHED).answer) == SEARCHED


def drawn_words(figure: Figure, *, narrow: bool = False) -> tuple[MatplotlibFigure, list[tuple[str, Bbox]]]:
    """The figure, and every text that was drawn with its place."""
    words: dict[int, Text] = {}
    plain = Text.draw

    def noting(text: Text, *arguments: object, **keywords: object) -> object:
        words[id(text)] = text
        return plain(text, *arguments, **keywords)

    with styled(), pytest.MonkeyPatch.context() as patch:
        picture = drawn(figure, narrow=narrow)
        picture.draw_without_rendering()
        patch.setattr(Text, "draw", noting)
        picture.draw_without_rendering()
    shown = [text for text in words.values() if text.get_visible() and text.get_text().strip()]
    return picture, [(text.get_text(), text.get_window_extent()) for text in shown]


CASES = [
    ("resnet50", "a100-sxm4-80gb", 1024),
    ("gpt2", "t4", 1024),
    ("gpt2", "t4", 1),
    ("bert-base-128", "b200-sxm", 300),
]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("model", "gpu", "most"), CASES)
def test_no_words_of_a_picture_overlap_or_are_cut_off(
    model: str, gpu: str, most: int, which: int, narrow: bool
) -> None:
    steps = replace(STEPS, model=model, batch=np.array([1, 2, 3]))
    picture, boxes = drawn_words(shown(real(model, gpu, most), steps=(steps,)).figures[which], narrow=narrow)
    edge = picture.bbox.padded(1)
    assert len(boxes) > 10
    for word, box in boxes:
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1, word
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} and {other!r}"


def test_recommend_and_report_draw_the_same() -> None:
    with styled():
        picture = MatplotlibFigure(figsize=(8, 7), layout="constrained")
        draw_curve(picture, made_up())
    titles = {axes.get_ylabel() for axes in picture.axes}
    assert {"images per second", "memory (GiB)"} <= titles


@pictured()
def test_batch_figure() -> Figure:
    return shown(made_up(), steps=(STEPS,)).figures[0]


@pictured(narrow=True)
def test_batch_figure_for_phones() -> Figure:
    return shown(made_up(), steps=(STEPS,)).figures[0]
