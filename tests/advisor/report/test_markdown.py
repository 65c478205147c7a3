"""A report as Markdown: what a reader sees of it on a code host, and that no name acts in it."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from advisor.report.records import Column, Figure, Origin, Report, Section, Table
from advisor.report.rendering.markdown import escaped, markdown, prose

CODE_HOST = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "![x](http://a.b/c)",
    "a|b|c", "`code`", "**bold** _slanted_ ~~struck~~", "# heading", "- item", "1. item", "> quoted", "---", "==",
    "line\n\n# next\n\n| a |\n| - |", "<!-- comment", "&lt;b&gt;", "$x^2$", "back\\slash \\| \\`", "<http://a.b>", "*",
    "[x]: http://a.b", "```", "    indented", "\x00\x1b[31m\u202e",
]  # fmt: skip


def report(text: str, *, shown: int | None = None) -> Report:
    origins = (Origin("measured here", text), Origin("estimate", "4.3 % off in the mean"))
    columns = (Column("name", text, note=text), Column("time_s", "time"))
    table = Table("all-rows", text, columns, ((text, 1.5), (text, None), ("c", 3.0)), origins, shown=shown)
    figure = Figure("teeth", text, text, text, origins, lambda canvas, narrow: None)
    return Report(text, (text,), {text: text}, (Section("one", text, text, (figure,), (table,), (text,)),), (text,))


def seen(html: str) -> str:
    """The words of a page, without its tags."""
    words = re.sub("<[^>]*>", "", html)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        words = words.replace(entity, char)
    return words


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_does_nothing(text: str) -> None:
    html = CODE_HOST.render(markdown(report(text)))
    plain = CODE_HOST.render(markdown(report("plain")))
    tags = [tag for tag in re.findall(r"<(/?\w+)", html) if not tag.endswith("code")]
    assert tags == re.findall(r"<(/?\w+)", plain)
    assert ("<code>" in html) == (text == "`code`")
    assert re.findall(r'(?:href|src)="([^"]*)"', html) == [
        "report.html", "figures/teeth.png", "figures/teeth.svg", "tables/all-rows.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isprintable() and "  " not in text])
def test_escaped_text_reads_as_it_was(text: str) -> None:
    assert seen(CODE_HOST.render(escaped(text))).strip() == text


@pytest.mark.parametrize(
    "inside", ["<script>alert(1)</script>", "**bold** [x](y)", "a|b", "&lt;", "\\", "$x$", "-o DIR"]
)
def test_code_in_prose_is_shown_as_it_is(inside: str) -> None:
    html = CODE_HOST.render(prose(f"# give `{inside}` *now*"))
    assert re.findall(r"<(/?\w+)", html) == ["p", "code", "/code", "/p"]
    assert seen(html).strip() == f"# give {inside} *now*"


@pytest.mark.parametrize("text", ["a ` b", "``", "``a``", "$`a`$", "a ` b ` c", "\\`a", "`", "```a`", "` a`"])
def test_backticks_that_surround_no_code_are_backticks(text: str) -> None:
    html = CODE_HOST.render(prose(text))
    assert "<code>" not in html
    assert seen(html).strip() == text


@pytest.mark.parametrize("text", ["`a", "b`", "`", "\\", "`` ` ```", "$", "x`y`z", "`\\`", "a` `b", "`a`\\", "\\`a`"])
def test_nothing_that_stands_beside_code_gets_out_of_it(text: str) -> None:
    html = CODE_HOST.render(prose(f"{text}`<b>`{text} <i> {text}"))
    assert set(re.findall(r"<(/?\w+)", html)) <= {"p", "/p", "code", "/code"}


def test_what_captions_say_briefly_is_said_in_full_at_the_end() -> None:
    brief = Origin("estimate", "steps predicted | off by 4 %", short="steps, 4 % off.")
    figures = tuple(Figure(name, "Q?", "A.", "S.", (brief,), lambda canvas, narrow: None) for name in ("one", "two"))
    made = markdown(Report("R", (), {}, (Section("s", "S", "Lead.", figures),)))
    assert made.count("*Estimate:* steps, 4 % off, [source 1](#sources-in-full). [SVG]") == 2
    assert made.endswith("## Sources in full\n\n1. *Estimate:* steps predicted \\| off by 4 %.\n")


def test_figures_have_answer_alternative_text_and_origin() -> None:
    origins = (Origin("exact", "counted from shapes"), Origin("public measurement", "Li et al., A100, cuBLAS 11."))
    figure = Figure("teeth", "Where are the teeth?", "At 108 tiles.", "A saw.", origins, lambda canvas, narrow: None)
    made = markdown(Report("R", (), {}, (Section("s", "S", "Lead.", (figure,)),)))
    assert "### Where are the teeth?\n\nAt 108 tiles.\n\n![A saw.](figures/teeth.png)" in made
    assert "*Exact:* counted from shapes. *Public measurement:* Li et al., A100, cuBLAS 11. [SVG]" in made


def test_a_long_table_is_cut_and_says_where_all_of_it_is() -> None:
    made = markdown(report("x", shown=2))
    assert "| x | 1.5 |\n| x | ?? |\n\n" in made
    assert "2 of 3 rows; all: [CSV](tables/all-rows.csv)" in made
    assert "| c | 3 |" not in made
    assert "| c | 3 |" in markdown(report("x"))


def test_numbers_are_set_to_the_right() -> None:
    assert "| x | time |\n| --- | ---: |" in markdown(report("x"))
