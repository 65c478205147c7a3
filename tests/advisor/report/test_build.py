"""A whole report, gathered from the shipped profiles and from what its caller adds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from advisor.errors import AdvisorError, BadInputError, UnknownNameError
from advisor.report import measurements
from advisor.report.build import ALL_PREDICTED, MOST_MODELS, build_report
from advisor.report.records import Origin, Report
from advisor.report.subject import Measured, MeasuredProducts

MADE_UP = Origin("measured here", "made up for this test")


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(gpu="a100-sxm4-80gb", models=("resnet50", "bert-base-128"), measured=Measured(), command="here")


def figures(report: Report):
    return [figure for section in report.sections for figure in section.figures]


def tables(report: Report):
    return [table for section in report.sections for table in section.tables]


def test_every_id_is_unique_and_safe_as_a_file_name(report: Report) -> None:
    for ids in ([each.id for each in figures(report)], [each.id for each in tables(report)]):
        assert len(ids) == len(set(ids)) > 3
        assert all(re.fullmatch(r"[a-z0-9-]+", each) for each in ids)


def test_every_figure_asks_answers_and_describes_itself(report: Report) -> None:
    for figure in figures(report):
        assert figure.title.endswith("?"), figure.id
        assert figure.answer.endswith("."), figure.id
        assert len(figure.alt) > 40, figure.id
        assert figure.origins, figure.id


def test_every_table_has_as_many_cells_as_columns(report: Report) -> None:
    for table in tables(report):
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.id
        assert table.origins, table.id


def test_an_estimate_states_its_error(report: Report) -> None:
    origins = {origin for each in (*figures(report), *tables(report)) for origin in each.origins}
    estimates = [origin.text for origin in origins if origin.kind == "estimate"]
    assert estimates
    assert all("%" in text or "error" in text for text in estimates), estimates


def test_a_report_without_measurements_says_that_all_is_predicted(report: Report) -> None:
    assert ALL_PREDICTED in report.notes
    assert not [o for f in figures(report) for o in f.origins if o.kind == "measured here"]


def test_measured_rows_end_that_claim_and_are_shown() -> None:
    sizes = np.array([256, 257, 512])
    products = MeasuredProducts(
        m=sizes, n=np.full(3, 12288), k=np.full(3, 4096), time_s=np.array([1e-4, 2e-4, 2e-4]),
        low_s=np.array([0.9e-4, 1.9e-4, 1.9e-4]), high_s=np.array([1.1e-4, 2.1e-4, 2.1e-4]), precision="fp16",
        library="cublas", mode="cold", kernel=("made_up_kernel",) * 3, fitted=False, origin=MADE_UP,
    )  # fmt: skip
    report = build_report(gpu="a100-sxm4-80gb", measured=Measured(products=(products,)))
    assert ALL_PREDICTED not in report.notes
    assert MADE_UP in {origin for figure in figures(report) for origin in figure.origins}
    facts = [
        value
        for figure in figures(report)
        for series in (figure.interactive.series if figure.interactive else ())
        for fact in series.facts
        for value in fact.values
    ]
    assert "made_up_kernel" in facts


def test_the_models_answers_come_first(report: Report) -> None:
    assert report.summary[0].startswith("Batch size ")
    assert "ResNet-50" in report.summary[0]
    assert "BERT" in report.summary[1]


def test_of_the_teeth_the_summary_has_the_first_sentence(report: Report) -> None:
    teeth = next(section for section in report.sections if section.id == "sweep").figures[0].answer
    (sentence,) = report.summary[2:]
    assert teeth.startswith(f"{sentence} ")
    assert re.search(r"from M = \d+ to \d+", sentence)


def test_the_same_question_gives_the_same_report(report: Report) -> None:
    again = build_report(gpu="a100-sxm4-80gb", models=("resnet50", "bert-base-128"), measured=Measured(),
                         command="here")  # fmt: skip
    assert [t.rows for t in tables(again)] == [t.rows for t in tables(report)]
    assert [f.answer for f in figures(again)] == [f.answer for f in figures(report)]
    assert dict(again.conditions) == dict(report.conditions)


def test_a_model_named_twice_is_shown_once() -> None:
    report = build_report(gpu="a100", models=("resnet18", "ResNet18", "resnet18"), measured=Measured(), max_batch=64)
    assert sum(figure.id.startswith("roofline-") for figure in figures(report)) == 1
    assert len([text for text in report.summary if "ResNet-18" in text]) == 1


def test_progress_says_how_far_it_is_in_printable_characters() -> None:
    said: list[str] = []
    with pytest.raises(UnknownNameError):
        build_report(gpu="a100", models=("resnet18", "a\x1b[31m"), measured=Measured(), progress=said.append)
    assert said == ["deciding 1 of 2: resnet18", "deciding 2 of 2: a?[31m"]


def test_the_gpu_of_a_trace_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(UnknownNameError, match="h1000"):
        build_report(gpu="a100", trace=tmp_path, trace_gpu="h1000", measured=Measured(), progress=said.append)
    with pytest.raises(BadInputError, match=r"the GPU of a trace is given \(a100\), and no trace"):
        build_report(gpu="a100", trace_gpu="a100", measured=Measured(), progress=said.append)
    assert not said


@pytest.mark.parametrize(
    ("measured_on", "asked", "told"),
    [
        ("l40s", "a100", r"was measured on l40s, the report is about a100-sxm4-80gb: name that GPU with --gpu"),
        ("h200-sxm (16 SMs)", "h200", r"h200-sxm \(16 SMs\), of which no facts are known: make its report where"),
        ("NVIDIA\x1b[31m" + "X" * 300, "auto", r"measured on NVIDIA\?\[31mX{20,50}\.\.\., of which no facts are known"),
    ],
)
def test_records_of_another_gpu_say_whose_they_are(
    monkeypatch: pytest.MonkeyPatch, measured_on: str, asked: str, told: str
) -> None:
    monkeypatch.setattr(measurements, "read_measured", lambda *_, **__: Measured(gpu_id=measured_on))
    with pytest.raises(BadInputError, match=told) as caught:
        build_report(gpu=asked, records=Path("r.db"))
    assert str(caught.value).isprintable()


def test_a_model_that_does_not_fit_is_a_note_and_the_rest_is_there() -> None:
    report = build_report(gpu="t4", models=("resnet50",), memory_limit="1GiB", measured=Measured())
    assert any("does not fit" in note for note in report.notes)
    assert {section.id for section in report.sections} >= {"sweep", "waves"}


@pytest.mark.parametrize("gpu", ["v100-sxm2-16gb", "t4", "rtx-3090", "b200-sxm", "gtx 1080"])
def test_old_and_new_gpus_have_a_report(gpu: str) -> None:
    report = build_report(gpu=gpu, measured=Measured())
    assert figures(report)


def test_unknown_names_are_told_before_anything_is_computed() -> None:
    with pytest.raises(UnknownNameError, match="h1000"):
        build_report(gpu="h1000", measured=Measured())
    with pytest.raises(UnknownNameError, match="resnet5"):
        build_report(gpu="a100", models=("resnet5",), measured=Measured())


def test_more_models_than_a_page_holds_are_refused() -> None:
    with pytest.raises(BadInputError, match=f"{MOST_MODELS + 1} models"):
        build_report(gpu="a100", models=[f"model{i}" for i in range(MOST_MODELS + 1)], measured=Measured())


def test_records_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "records.db"
    broken.write_text("no database")
    with pytest.raises(AdvisorError, match=r"records\.db") as caught:
        build_report(gpu="a100", records=broken)
    assert "\n" not in str(caught.value)
