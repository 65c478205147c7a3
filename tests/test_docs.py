"""The pages, the README and CONTRIBUTING: their commands run or at least parse, their links and numbers hold."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import advisor
from advisor.cli import cli
from advisor.errors import AdvisorError
from bench.__main__ import COMMANDS
from bench.docs import PAGES, REFERENCE, command_paths, output_of, reference, refreshed

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted([*PAGES.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "reports" / "README.md"])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
OTHER_PROGRAMS = {
    ".",
    ".ci/run",
    ".venv/bin/pip",
    ".venv/bin/pre-commit",
    ".venv/bin/pytest",
    "pip",
    "pytest",
    "zensical",
}
pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="the pages are in the project's checkout alone")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(path.read_text(encoding="utf-8")) if found == language]


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_what_a_page_says_a_command_prints_is_what_it_prints(path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert refreshed(page, tmp_path) == page, "run `python -m bench docs`"


def test_the_reference_holds_the_help_of_every_command(tmp_path: Path) -> None:
    page = (PAGES / REFERENCE).read_text(encoding="utf-8")
    assert refreshed(reference(), tmp_path) == page, "run `python -m bench docs`"
    assert ("bench", "waves") in set(command_paths())


def test_a_page_shows_the_beginning_of_what_is_printed_and_errors_as_a_terminal_does(tmp_path: Path) -> None:
    quantize = "advisor quantize --gpu a100-sxm4-80gb --m 2304 --n 1537 --k 4096 --tile 256x128"
    whole = output_of(quantize, tmp_path)
    assert whole.startswith(output_of(f"{quantize} | head -10", tmp_path))
    assert "117" in output_of(f"{quantize} | head -5", tmp_path).splitlines()[4]
    assert output_of("advisor gpus nonesuch", tmp_path).startswith("advisor: unknown GPU 'nonesuch'.")


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_the_commands_of_a_page_parse(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (words for block in blocks(path, "sh") for line in block.splitlines() for words in commands(line)):
        program, *arguments = [word for word in words if word != "PYTHONPATH=."]
        if Path(program).name == "advisor":
            make_files(arguments)
            parse(arguments)
        elif arguments[:2] == ["-m", "bench"]:
            assert arguments[2] in COMMANDS
        elif arguments[:2] != ["-m", "venv"]:
            assert program in OTHER_PROGRAMS, f"{words}: nothing checks this command"


def commands(line: str) -> Iterator[list[str]]:
    words = shlex.split(line, comments=True)
    while "&&" in words:
        yield words[: words.index("&&")]
        words = words[words.index("&&") + 1 :]
    if words:
        yield words


def make_files(arguments: list[str]) -> None:
    """Those that a command of a page reads."""
    for name in arguments:
        if name.endswith("/"):
            Path(name).mkdir(exist_ok=True)
        elif name.endswith((".csv", ".db", ".json.gz")):
            Path(name).touch()


def parse(arguments: list[str]) -> None:
    """Raise where click refuses the words of a command line; run nothing."""
    command: click.Command = cli
    context = click.Context(cli, **cli.context_settings)  # a command keeps the help option of the first it is read in
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        _, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found
    command.make_context(command.name, arguments, parent=context)


def test_a_command_that_does_not_exist_does_not_parse() -> None:
    for wrong in (["recommend", "--nonesuch"], ["nonesuch"], ["bench", "nonesuch"]):
        with pytest.raises(click.UsageError):
            parse(wrong)


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_the_python_of_a_page_compiles_and_its_examples_are_true(path: Path) -> None:
    runner, parser = doctest.DocTestRunner(), doctest.DocTestParser()
    for block in blocks(path, "python"):
        if block.startswith(">>>"):
            runner.run(parser.get_doctest(block, {}, path.name, str(path), 0))
        else:
            compile(block, path.name, "exec")
    assert runner.summarize().failed == 0


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_the_links_of_a_page_lead_to_files_of_the_project(path: Path) -> None:
    targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_what_contributing_says_lives_somewhere_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [re.findall("`([^`]+)`", row[0]) for row in table(text, "## Where things live")]
    assert all(rows)
    for first, *others in rows:
        for name in (first, *(other if "/" in other else f"{Path(first).parent}/{other}" for other in others)):
            assert list(ROOT.glob(name.rstrip("/"))), name


def test_everything_public_is_on_the_python_page() -> None:
    shown = set(re.findall(r"^::: (\S+)", (PAGES / "python.md").read_text(encoding="utf-8"), re.MULTILINE))
    missing = {name for name in advisor.__all__ if not any(path.endswith(f".{name}") for path in shown)}
    assert missing == {"__version__", "AdvisorError"}  # the table of errors has that one


def test_every_error_and_its_exit_code_are_on_the_python_page() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", (PAGES / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    raised = [AdvisorError, *kinds(AdvisorError)]
    assert {(int(code), name) for code, name in rows} == {(error.exit_code, error.__name__) for error in raised}


def kinds(error: type[AdvisorError]) -> list[type[AdvisorError]]:
    """Of an error, as far as advisor/errors.py has them."""
    found = [kind for kind in error.__subclasses__() if kind.__module__ == AdvisorError.__module__]
    return found + [finer for kind in found for finer in kinds(kind)]


def test_what_the_texts_say_of_the_error_is_what_accuracy_says() -> None:
    accuracy = (ROOT / "reports" / "ACCURACY.md").read_text(encoding="utf-8")
    products = [float(row[2]) for row in table(accuracy, "### Sizes not in the fit")]
    shipped = {row[0]: float(row[3]) for row in table(accuracy, "## Training steps") if row[1] == "as shipped"}
    borrowed = [float(row[2]) for row in table(accuracy, "### A GPU without timings")]
    (elsewhere,) = [float(row[4]) for row in table(accuracy, "## Other GPUs") if row[0] == "all other GPUs"]
    (fails,) = [float(row[5]) for row in table(accuracy, "## Memory on") if row[:2] == ["7.5%", "all"]]
    short, readme = (path.read_text(encoding="utf-8") for path in (PAGES / "how-wrong.md", ROOT / "README.md"))
    for text in (short, readme):
        assert f"{min(products)} to {max(products)} %" in text
        assert f"{shipped['NHWC']:.0%} (NHWC)".replace("%", " %") in text
        assert f"{shipped['NCHW']:.0%} (NCHW)".replace("%", " %") in text
        assert f"{int(100 * elsewhere)} %" in text
    assert f"{min(borrowed):.0f} to {max(borrowed):.0f} %" in short
    assert f"{100 * fails:.1f} % of cases" in short


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, its head left out."""
    below = text[text.index(heading) :]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]
