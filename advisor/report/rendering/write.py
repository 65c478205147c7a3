"""Writes a report into a folder: the page, the Markdown, its pictures and tables. All of it or nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from advisor.errors import BadInputError
from advisor.report.records import Report
from advisor.report.rendering.html import page
from advisor.report.rendering.limit import limited_page
from advisor.report.rendering.markdown import markdown
from advisor.report.rendering.pictures import Pictures, draw
from advisor.report.rendering.tables import csv_text

PAGE, TEXT = "report.html", "report.md"
_FOLDERS = ("figures", "tables")
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LISTED = re.compile(r"<!-- Made with this report:((?: (?:figures|tables)/[a-z0-9-]+\.(?:png|svg|csv))*) -->\n?\Z")


def write_report(
    report: Report, folder: Path, *, force: bool = False, progress: Callable[[str], None] | None = None
) -> tuple[Path, ...]:
    """Write report.html, report.md, figures/ID.png, figures/ID.svg and tables/ID.csv; return their paths.

    All is drawn first and put in place at the end, so that an interrupted run leaves the folder as it was. With
    `force` a report in the folder is replaced, and what it had and the new one has not is removed; other files stay.
    Of two runs at once the later replaces, or refuses, what the earlier wrote. `progress` is told what is drawn.

    Raises BadInputError as `check_folder` does and where the disk is full, ValueError for an id that is no [a-z0-9-]+
    or used twice.

    >>> from advisor.report.build import build_report
    >>> write_report(build_report(gpu="a100", models=["resnet50"]), Path("report"))  # doctest: +SKIP
    """
    names = _names(report)
    check_folder(folder, force=force, names=names)
    contents = _contents(report, progress or (lambda _what: None))
    listed = "".join(f" {name}" for name in names if name not in (PAGE, TEXT))
    contents[TEXT] += f"\n<!-- Made with this report:{listed} -->\n".encode()
    with _workplace(folder) as workplace, _one_line_errors(folder):
        _save(workplace / "new", contents)
        with _alone(folder):
            _check_names(folder, names, force=force)
            _put_in_place(workplace, folder, names)
    return tuple(folder / name for name in names)


def _names(report: Report) -> list[str]:
    """Every file of the report, from its ids: no id can lead out of the folder."""
    figures = [figure.id for section in report.sections for figure in section.figures]
    tables = [table.id for section in report.sections for table in section.tables]
    for ids in (figures, tables, [section.id for section in report.sections]):
        for name in ids:
            if not _ID.fullmatch(name) or ids.count(name) > 1:
                raise ValueError(f"{name!r} is no id of a report, or is used twice: take lower-case letters and digits")
    pictures = [f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "svg")]
    return [PAGE, TEXT, *pictures, *(f"tables/{name}.csv" for name in tables)]


def check_folder(folder: Path, *, force: bool = False, names: Sequence[str] = (PAGE, TEXT)) -> None:
    """Raise BadInputError where `write_report` could not write to `folder`: a report or one of `names` is in it and
    there is no `force`, it is a file, or cannot be written. The folder is left as it was.
    """
    with _one_line_errors(folder):
        for path in (folder, *(folder / part for part in _FOLDERS)):
            if fault := _fault(path):
                raise BadInputError(f"cannot write a report to {folder}: {path} {fault}; choose another folder")
        _check_names(folder, names, force=force)
    with _workplace(folder):
        pass


def _fault(path: Path) -> str:
    """Why a path is no folder to write to, as far as can be seen; "" where it is one, or is not there."""
    if path.is_symlink() and not path.exists():
        return "is a link to nothing"
    if path.exists() and not path.is_dir():
        return "is a file"
    return "cannot be written" if path.exists() and not os.access(path, os.W_OK | os.X_OK) else ""


def _check_names(folder: Path, names: Sequence[str], *, force: bool) -> None:
    taken = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if taken and not force:
        way_out = "give --force to replace it, or choose another folder"
        raise BadInputError(f"there is {folder / taken[0]} already: {way_out}")
    if hindering := next((folder / name for name in taken if (folder / name).is_dir()), None):
        raise BadInputError(f"cannot write a report to {folder}: {hindering} is a folder; choose another folder")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other run put files into the folder meanwhile, where the system and the disk have such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _one_line_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise BadInputError(f"cannot write a report to {folder}: {why}; choose another folder") from error


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A hidden folder within the target, so that what is in it can be renamed into place; gone in the end."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with _one_line_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=folder, prefix=".report-"))
    try:
        yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: the report is there
            for parent in made:
                parent.rmdir()


def _contents(report: Report, say: Callable[[str], None]) -> dict[str, bytes]:
    """What goes into each file."""
    pictures: dict[str, Pictures] = {}
    contents: dict[str, bytes] = {}
    count = sum(len(section.figures) for section in report.sections)
    for section in report.sections:
        for figure in section.figures:
            say(f"drawing {len(pictures) + 1} of {count}: {figure.id}")
            picture = pictures[figure.id] = draw(figure)
            contents[f"figures/{figure.id}.png"] = picture.png
            contents[f"figures/{figure.id}.svg"] = picture.svg.encode()
        for table in section.tables:
            contents[f"tables/{table.id}.csv"] = csv_text(table).encode()
    say("writing the page")
    report, made = limited_page(report, pictures, page)
    return {PAGE: made.encode(), TEXT: markdown(report).encode(), **contents}


def _save(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _put_in_place(workplace: Path, folder: Path, names: Iterable[str]) -> None:
    """Rename the new files to where they belong and the old ones away; all is undone where one of it fails."""
    with contextlib.ExitStack() as undo:
        for part in _FOLDERS:
            undo.callback(_remove_empty, folder / part)
        for name in dict.fromkeys((*_of_old_report(folder), *names)):
            new, old, place = workplace / "new" / name, workplace / "old" / name, folder / name
            old.parent.mkdir(parents=True, exist_ok=True)
            if place.exists() or place.is_symlink():
                undo.callback(_back, old, place)  # before it is done: a signal may come between
                place.rename(old)
            if new.exists():
                place.parent.mkdir(exist_ok=True)
                undo.callback(_back, place, new)
                new.rename(place)
        undo.pop_all()
    for part in _FOLDERS:
        _remove_empty(folder / part)


def _back(there: Path, here: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # not yet moved
        there.rename(here)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty, or never there
        folder.rmdir()


def _of_old_report(folder: Path) -> list[str]:
    """The pictures and tables that the report in the folder says are its own, as far as they are there."""
    try:
        listed = _LISTED.search((folder / TEXT).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
    return listed[1].split() if listed else []
