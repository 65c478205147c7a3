"""`advisor explain-rules`: every rule of the product in a paragraph, and how sure we are of it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from advisor.cli.output import emit, output_options, render_rows, to_json

if TYPE_CHECKING:
    from advisor.planning.rules import Rule

SCHEMA_VERSION = 1
_WIDEST = 100  # characters of a line; longer ones are hard to read
_NARROWEST = 40
_FIELDS = (("formula", "formula"), ("known_range", "holds"), ("source", "source"))


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of rules that begin so."""
    from advisor.planning.rules import RULES

    return [CompletionItem(rule.id, help=rule.title) for rule in RULES if rule.id.startswith(incomplete)]


@click.command()
@click.argument("names", metavar="[RULE]...", nargs=-1, shell_complete=_complete)
@click.option("--list", "list_", is_flag=True, help="Only names, titles and how sure we are.")
@output_options()
def command(*, names: tuple[str, ...], list_: bool, format_: str, output: Path | None) -> None:
    """Explain the rules that advice and plans go by, and those they do not.

    \b
    advisor explain-rules                        # all of them
    advisor explain-rules --list
    advisor explain-rules linear-rate powers-of-two

    Each has its formula, the range in which it is known to hold, its source, and how sure we are.
    """
    from advisor.planning.rules import find_rules

    render = _list if list_ else _rules
    emit(render(find_rules(names), format_), output)


def _list(rules: Sequence[Rule], format_: str) -> str:
    rows = [{"rule": r.id, "group": r.group, "title": r.title, "how_sure": r.confidence} for r in rules]
    if format_ == "json":
        return to_json({"schema_version": SCHEMA_VERSION, "rules": rows})
    return render_rows(rows, format_, headers={"how_sure": "how sure"})


def _rules(rules: Sequence[Rule], format_: str) -> str:
    if format_ == "json":
        from advisor.planning.rules import MEANINGS

        return to_json({"schema_version": SCHEMA_VERSION, "how_sure": MEANINGS, "rules": rules})
    if format_ == "csv":
        return render_rows([_flat(rule) for rule in rules], "csv")
    return _markdown(rules) if format_ == "markdown" else _text(rules)


def _flat(rule: Rule) -> dict[str, Any]:
    return asdict(rule) | {"constants": " ".join(rule.constants)}


def _grouped(rules: Sequence[Rule]) -> Iterable[tuple[str, list[Rule]]]:
    return ((group, list(part)) for group, part in groupby(rules, key=lambda rule: rule.group))


def _meanings(rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """What each word of the scale that occurs means."""
    from advisor.planning.rules import MEANINGS

    used = {rule.confidence for rule in rules}
    return [(word, meaning) for word, meaning in MEANINGS.items() if word in used]


def _text(rules: Sequence[Rule]) -> str:
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns - 1))

    def item(label: str, text: str, indent: int) -> str:
        hanging = " " * (indent + 10)
        return textwrap.fill(
            f"{label:10}{text}", width, initial_indent=" " * indent, subsequent_indent=hanging,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

    blocks = []
    for group, part in _grouped(rules):
        blocks.append(f"{group.upper()}\n{'=' * len(group)}")
        for rule in part:
            lines = [textwrap.fill(f"{rule.id}: {rule.title}", width, subsequent_indent="  ", break_on_hyphens=False)]
            lines.append(
                textwrap.fill(rule.statement, width, initial_indent="  ", subsequent_indent="  ",
                              break_long_words=False, break_on_hyphens=False)
            )  # fmt: skip
            lines += [item(label, text, 4) for key, label in _FIELDS if (text := getattr(rule, key)) is not None]
            lines.append(item("how sure", f"{rule.confidence}. {rule.evidence}", 4))
            blocks.append("\n".join(lines))
    scale = [
        textwrap.fill(f"{word}: {meaning}", width, initial_indent="  ", subsequent_indent="    ")
        for word, meaning in _meanings(rules)
    ]
    return "\n\n".join([*blocks, "\n".join(["How sure we are:", *scale])])


def _markdown(rules: Sequence[Rule]) -> str:
    lines = []
    for group, part in _grouped(rules):
        lines += [f"## {group.capitalize()}", ""]
        for rule in part:
            lines += [f"### {rule.id}: {rule.title}", "", _plain(rule.statement), ""]
            for key, label in _FIELDS:
                text = getattr(rule, key)
                if text is not None:
                    lines.append(f"- {label.capitalize()}: " + (f"`{text}`" if key == "formula" else _plain(text)))
            lines += [f"- How sure: **{rule.confidence}**. {_plain(rule.evidence)}", ""]
    lines += ["## How sure we are", "", *(f"- **{word}**: {meaning}" for word, meaning in _meanings(rules))]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text with what Markdown would read as markup escaped; code in backquotes stays."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for mark in "\\*_<|":
            parts[i] = parts[i].replace(mark, "\\" + mark)
    return "`".join(parts)
