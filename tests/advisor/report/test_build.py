"""A whole report, gathered from the shipped profiles and from what its caller adds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from advisor import __version__
from advisor.errors import AdvisorError, BadInputError, UnknownNameError
from advisor.gpus import ResolvedGpu, find_gpu, resolve_gpu
from advisor.report import measurements
from advisor.report.build import ALL_PREDICTED, MOST_MODELS, build_report
from advisor.report.records import Origin, Report, Section
from advisor.report.subject import Measured, MeasuredProducts, Subject
from advisor.user_profiles import ENVIRONMENT
from bench.case import Result
from bench.suites.gemm import gemm_case
from tests.advisor.report.products import as_products
from tests.advisor.report.recordings import every_kind, recorded, took

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


def test_a_report_has_every_section_that_needs_nothing_measured(report: Report) -> None:
    sections = [section.id for section in report.sections]
    assert sections == ["batch", "sweep", "layers", "roofline", "waves", "alignment", "accuracy"]


def test_records_are_shown_wherever_something_was_measured(tmp_path: Path) -> None:
    path = recorded(
        every_kind(tmp_path / "records.db"),
        (gemm_case(384, 12288, 4096), took(1e-4)),
        (gemm_case(385, 12288, 4096), took(2e-4)),
    )
    report = build_report(gpu="h200", records=path)
    by_id = {section.id: section for section in report.sections}
    measured = {
        figure.id: [series.x for series in figure.interactive.series if series.name.startswith("measured: ")]
        for figure in figures(report)
        if figure.interactive and "measured here" in {origin.kind for origin in figure.origins}
    }
    assert measured["batch-resnet50"] == [(128, 256)]
    assert measured["throughput-m-n12288-k4096"] == [(384, 385)]
    assert [origin.kind for figure in by_id["timeline"].figures for origin in figure.origins] == ["measured here"]
    (case,) = next(table for table in by_id["ratios"].tables if table.id == "ratio-cases").rows
    assert 0.5 in case  # 2e-5 s of the library over 4e-5 s of ours
    assert "0.50 times the speed of cuBLAS" in report.summary[-1]
    assert ALL_PREDICTED not in report.notes
    assert "Left out of records.db, which holds 8 rows: 1 row (1 failed)." in report.notes
    assert report.conditions["Measured GPU"] == "NVIDIA H200 (132 SMs)"
    assert report.conditions["Measured rows"] == "7 of 8 in the records"
    assert report.conditions["SM clock"] == "1.75 GHz, median while measuring"


def test_rows_from_elsewhere_are_added_to_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.report.build.SECTIONS", {"sweep": "teeth of matrix products"})
    path = recorded(tmp_path / "r.db", (gemm_case(8, 8, 8), Result("failed", "lost")),
                    (gemm_case(384, 12288, 4096), took(1e-4)))  # fmt: skip
    sizes = np.array([[512, 12288, 4096]])
    elsewhere = as_products(sizes, np.array([1e-4]), "bf16", Origin("public measurement", "a table"), fitted=False)
    report = build_report(
        gpu="h200", records=path, measured=Measured(products=(elsewhere,), notes=("of the table a half",))
    )
    assert "Left out of r.db, which holds 2 rows: 1 row (1 failed)." in report.notes
    assert "of the table a half" in report.notes
    chart = figures(report)[0].interactive
    assert chart is not None
    assert [series.x for series in chart.series if series.name.startswith("measured: ")] == [(384,), (512,)]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's own records are looked for, on a machine with an H200."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    for module in ("report.build", "step"):
        monkeypatch.setattr(f"advisor.{module}.resolve_gpu", lambda _: ResolvedGpu(find_gpu("h200"), "local"))
    return tmp_path / "records.db"


def test_a_users_own_records_of_the_local_gpu_are_shown_unasked(own: Path) -> None:
    assert ALL_PREDICTED in build_report().notes
    every_kind(own)
    report = build_report()
    assert ALL_PREDICTED not in report.notes
    assert {"ratios", "timeline"} <= {section.id for section in report.sections}
    assert report.conditions["Measured rows"] == "5 of 6 in the records"


def test_a_fault_in_own_records_is_a_note(own: Path) -> None:
    own.write_text("no database")
    report = build_report()
    assert ALL_PREDICTED in report.notes
    (note,) = [note for note in report.notes if note.startswith("Your own records are not shown: ")]
    assert "records.db" in note and "\n" not in note


def test_own_records_of_another_gpu_are_not_shown_and_said_to_be(own: Path) -> None:
    recorded(own, (gemm_case(8, 8, 8), took(1e-5)), gpu_name="NVIDIA L40S", sms=142)
    report = build_report()
    assert f"Your own records, {own}, are of l40s and not shown." in report.notes
    assert ALL_PREDICTED in report.notes and "Measured GPU" not in report.conditions


def test_own_records_are_not_read_for_a_gpu_that_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.write_text("no database")
    monkeypatch.setattr("advisor.report.build.resolve_gpu", resolve_gpu)
    monkeypatch.setattr("advisor.step.resolve_gpu", resolve_gpu)
    assert not [note for note in build_report(gpu="h200").notes if "own records" in note]


def test_what_is_said_of_measured_rows_is_a_note_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.report.build.SECTIONS", {})
    assert "a sample was drawn" in build_report(gpu="a100", measured=Measured(notes=("a sample was drawn",))).notes


def test_a_section_that_cannot_be_computed_is_a_note_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def section(subject: Subject) -> Section:
        raise BadInputError("too many SMs")

    monkeypatch.setattr("advisor.report.sections.waves.section", section)
    monkeypatch.setattr("advisor.report.build.SECTIONS", {"waves": "wave efficiency", "roofline": "roofline"})
    report = build_report(gpu="a100", measured=Measured())
    assert "No section on wave efficiency: too many SMs" in report.notes
    assert [section.id for section in report.sections] == ["roofline"]


def test_the_conditions_are_all_that_the_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.report.build.SECTIONS", {})
    conditions = {"SM clock": "1.41 GHz", "driver": "580.95"}
    report = build_report(gpu="a100-sxm4-80gb", models=("resnet50", "bert-base-128"), precision="bf16",
                          measured=Measured(conditions=conditions), command="advisor report",
                          date="2026-01-02")  # fmt: skip
    found = dict(report.conditions)
    assert found.pop("Matrix products").startswith("fitted to public measurements of this GPU (20")
    steps = found.pop("Steps")
    assert steps.startswith("matrix products fitted to") and "from steps of the rtx-3090" in steps
    assert found.pop("Recipe").startswith("bf16 AMP, nhwc, sgd with momentum, ")
    assert found == {
        "GPU": "NVIDIA A100-SXM4-80GB (108 SMs, compute capability 8.0, 80.00 GiB, boost clock 1.41 GHz)",
        "Models": "ResNet-50, BERT-Base, sequences of 128",
        "SM clock": "1.41 GHz", "driver": "580.95", "Command": "advisor report", "Made": "2026-01-02",
        "batchwave": __version__,
    }  # fmt: skip


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
