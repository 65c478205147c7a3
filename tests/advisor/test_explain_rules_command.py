"""`advisor explain-rules` as a user types it."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from markdown_it import MarkdownIt

from advisor.cli import cli, main
from advisor.planning.rules import MEANINGS, RULES


def run(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    assert main(["explain-rules", *arguments]) == expect
    return capsys.readouterr()


def test_without_arguments_every_rule_is_a_paragraph_under_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys)
    assert err == ""
    flat = " ".join(out.split())
    for rule in RULES:
        assert f"{rule.id}: {rule.title} {rule.statement}" in flat
        assert f"how sure {rule.confidence}. {rule.evidence}" in flat
        assert f"source {rule.source}" in flat
    assert [line for line in out.splitlines() if line.isupper()] == [
        "CHOOSING A SIZE", "THE MACHINE", "KEEPING THE RUN", "LEARNING RATE", "STATISTICS", "BELIEFS",
    ]  # fmt: skip
    assert all(f"{word}: {meaning}" in flat for word, meaning in MEANINGS.items())


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_text_is_wrapped_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out, _ = run(capsys)
    most = max(40, min(100, columns - 1))
    longer = [line for line in out.splitlines() if len(line) > most]
    assert all(" " not in line.strip() for line in longer), longer  # one word that does not fit, such as an address
    assert max(map(len, out.splitlines())) > most - 15 or columns == 30
    assert all(word in out for rule in RULES for word in rule.source.split())  # an address stays whole


def test_named_rules_come_alone_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "powers-of-two", "linear-rate", "powers-of-two")
    assert out.index("powers-of-two: ") < out.index("linear-rate: ")
    assert out.count("powers-of-two: ") == 1
    assert "knee: " not in out
    assert "  contested: " not in out  # the scale explains the words that occur


def test_a_list_has_one_line_per_rule(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--list", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["rule"] for row in rows] == [rule.id for rule in RULES]
    assert list(rows[0]) == ["rule", "group", "title", "how_sure"]
    table, _ = run(capsys, "--list")
    assert len(table.splitlines()) == len(RULES) + 2


def test_json_holds_every_field_and_the_scale(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--format", "json")
    document = json.loads(out)
    assert document["schema_version"] == 1
    assert document["how_sure"] == MEANINGS
    assert [rule["id"] for rule in document["rules"]] == [rule.id for rule in RULES]
    knee = document["rules"][0]
    assert knee["constants"] == ["advisor.choice.TOLERANCE"]
    assert set(knee) == {
        "id", "group", "title", "statement", "formula", "known_range", "source", "confidence", "evidence", "constants",
    }  # fmt: skip
    listed, _ = run(capsys, "knee", "--list", "--format", "json")
    assert json.loads(listed)["rules"] == [
        {"rule": "knee", "group": "choosing a size", "title": RULES[0].title, "how_sure": "chosen"}
    ]


def test_csv_has_a_row_per_rule(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == len(RULES)
    assert rows[0]["statement"] == RULES[0].statement
    assert rows[1]["constants"] == "advisor.recommendation.TOOTH advisor.recommendation.EQUAL"


def test_markdown_shows_formulae_as_code_and_no_stray_markup(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "step-time", "gradient-size", "--format", "markdown")
    assert "### step-time: Time of a training step" in out
    assert "- Formula: `t = (gpu^6 + host^6)^(1/6); host = launches x time per launch`" in out
    assert "- How sure: **measured here**." in out
    memory, _ = run(capsys, "occupancy", "--format", "markdown")
    assert "cuda\\_occupancy.h" in memory


def test_markdown_renders_to_what_every_rule_says(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--format", "markdown")
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(out)
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    for rule in RULES:
        for part in (rule.title, rule.statement, rule.formula, rule.known_range, rule.source, rule.evidence):
            assert part is None or part.replace("`", "") in text, rule.id
    assert set(re.findall(r"<(\w+)", page)) == {"h2", "h3", "p", "ul", "li", "strong", "code"}


def test_output_goes_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "rules.md"
    out, err = run(capsys, "--format", "markdown", "--output", str(path))
    assert out == "" and err == f"wrote {path}\n"
    assert path.read_text().count("\n### ") == len(RULES)


@pytest.mark.parametrize(
    "asked, nearest",
    [("power-of-two", "powers-of-two"), ("linear", "linear-rate"), ("batchnorm", "batch-norm"), ("", None)],
)
def test_an_unknown_rule_is_one_line_with_the_nearest(
    capsys: pytest.CaptureFixture[str], asked: str, nearest: str | None
) -> None:
    out, err = run(capsys, "knee", asked, expect=2)
    assert out == "" and err.count("\n") == 1
    assert f"unknown rule {asked!r}" in err and "--list" in err
    assert nearest is None or nearest in err


def test_names_complete_in_shells() -> None:
    complete = ShellComplete(cli, {}, "advisor", "_ADVISOR_COMPLETE")
    found = complete.get_completions(["explain-rules", "knee"], "batch-")
    assert [item.value for item in found] == ["batch-norm", "batch-size-warm-up", "batch-multiples-of-8"]
