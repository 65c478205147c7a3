"""`python -m bench docs`: run the commands that the documentation's pages show, and write down what they print.

A block of a page that begins with "```console" holds commands, each behind "$ ", and what they print; `| head -N`
shows the beginning. commands.md is written whole: the help of every command. The site itself is built from the
pages by `zensical build --strict -f reports/zensical.toml`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from advisor.cli import cli
from advisor.errors import AdvisorError
from advisor.files import write_atomically

PAGES = Path(__file__).resolve().parent.parent / "reports" / "docs"
REFERENCE = "commands.md"
WIDTH = 110  # columns of help
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"(.*?)(?: \| head -(\d+))?$")  # of a command: what runs, and how many lines are shown


def refreshed(page: str, folder: Path) -> str:
    """The text of a page with the output of every command in it as it is now. Commands run, and draw, in `folder`."""
    return _CONSOLE.sub(lambda block: f"```console\n{_session(block[1], folder)}```", page)


def reference() -> str:
    """The text of commands.md: the help of `advisor` and of each of its commands."""
    parts = ["# Commands\n\nWhat `--help` says of every command, written by `python -m bench docs`.\n"]
    for path in command_paths():
        name = shlex.join(["advisor", *path])
        parts.append(f"\n{'##' if len(path) < 2 else '###'} {name}\n\n```console\n$ {name} --help\n```\n")
    return "".join(parts)


def command_paths(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """What is typed after `advisor` for each command, commands of commands after their own."""
    yield path
    for name in sorted(group.list_commands(click.Context(group))):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from command_paths(command, (*path, name))
        elif command is not None and not command.hidden:
            yield (*path, name)


def output_of(command: str, folder: Path) -> str:
    """What an `advisor` command prints in `folder`, on a machine that has measured nothing: stderr, then stdout."""
    line, count = _HEAD.fullmatch(command).groups()  # type: ignore[union-attr]  # it matches any line
    program, *arguments = shlex.split(line)
    if program != "advisor":
        raise ValueError(f"a page shows the output of {command!r}; only commands of advisor are run")
    here = Path.cwd()
    os.chdir(folder)
    try:
        with tempfile.TemporaryDirectory() as data:
            environment = {"ADVISOR_DATA_DIR": data, "ADVISOR_GPU": None, "COLUMNS": None}
            done = CliRunner().invoke(cli, arguments, prog_name="advisor", env=environment, terminal_width=WIDTH)
    finally:
        os.chdir(here)
    if isinstance(done.exception, AdvisorError):
        return f"advisor: {done.exception}\n"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    shown = done.stdout.splitlines(keepends=True)[: int(count) if count else None]
    return re.sub(r"[ \t]+$", "", done.stderr + "".join(shown), flags=re.MULTILINE)


def _session(block: str, folder: Path) -> str:
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "\n".join(f"$ {command}\n{output_of(command, folder)}" for command in commands)


def main(argv: list[str] | None = None) -> int:
    """Rewrite every page that is no longer what its commands print, and name it."""
    parser = argparse.ArgumentParser(prog="python -m bench docs", description=__doc__)
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of the pages; figures go to its `figures`")
    pages = parser.parse_args(argv).pages
    (pages / "figures").mkdir(exist_ok=True)
    for path in sorted({*pages.glob("*.md"), pages / REFERENCE}):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = refreshed(reference() if path.name == REFERENCE else before, pages / "figures")
        if after != before:
            write_atomically(path, after.encode())
            print(path)
    return 0
