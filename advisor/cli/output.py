"""How results leave a command: one set of rows as table, JSON, Markdown or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from advisor.files import write_atomically

FORMATS = ("table", "json", "markdown", "csv")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_options(formats: Sequence[str] = FORMATS) -> Callable[[_Command], _Command]:
    """Add `--format` and `--output` to a click command (parameters `format_` and `output`)."""

    def add(command: _Command) -> _Command:
        command = click.option(
            "--output", "-o", type=click.Path(path_type=Path), help="Write to this file instead of the terminal."
        )(command)
        return click.option(
            "--format",
            "format_",
            type=click.Choice(formats),
            default=formats[0],
            show_default=True,
            help="How to print.",
        )(command)

    return add


def render_rows(rows: Sequence[Mapping[str, Any]], format_: str, *, headers: Mapping[str, str] | None = None) -> str:
    """Render rows of one set of keys as "table", "markdown" or "csv".

    `headers` maps keys to printed titles (table and Markdown); CSV keeps the keys. An unknown figure (None) prints
    as "??", in CSV as an empty field: never as 0.
    """
    if format_ == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    from tabulate import tabulate

    titles = [(headers or {}).get(key, key) for key in rows[0]] if rows else []
    cells = [["??" if value is None else value for value in row.values()] for row in rows]
    table: str = tabulate(
        cells,
        headers=titles,
        tablefmt="github" if format_ == "markdown" else "simple",
        disable_numparse=True,
        colalign=_alignment(cells),
    )
    return table


def as_markdown(lines: Sequence[str]) -> list[str]:
    """Lines of a headline, an empty line, a table and what stands below it, as Markdown: each keeps its line end."""
    return [f"**{lines[0]}**", *lines[1:3], *(f"{line}  " if line else "" for line in lines[3:])]


def _alignment(cells: Sequence[Sequence[Any]]) -> list[str] | None:
    """Numbers (also as text with a unit; empty and unknown cells do not matter) to the right, words to the left."""
    columns = [
        [str(cell).lstrip("-+~") for cell in column if cell not in ("", "??")] for column in zip(*cells, strict=True)
    ]
    return ["right" if column and all(c[:1].isdigit() for c in column) else "left" for column in columns] or None


def to_json(value: Any) -> str:
    """Encode a result as indented JSON; dataclasses, structs and tuples are understood, NaN is refused as null."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise NotImplementedError(type(value).__name__)


def emit(text: str, output: Path | None) -> None:
    """Print to stdout, or write a file all at once and say so on stderr."""
    if output is None:
        click.echo(text)
        return
    write_atomically(output, text.rstrip("\n").encode() + b"\n")
    click.echo(f"wrote {output}", err=True)
