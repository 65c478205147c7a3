"""Records to and from files that others read: JSON lines, JSON, CSV and Parquet, every sample to the last bit.

Every format holds the same entries, told apart by `record`: "run" (environment, command, seed), "result" (one
measurement) and "note". JSON lines and CSV close with an entry "end" that counts the others, so that a file cut short
is known. In the tables (CSV, Parquet) a nested value is text in JSON, and a result repeats its run's environment, so
that a row stands alone.

What is imported is untrusted: its size is limited, every field's type is checked, nothing is unpickled or evaluated,
and nothing is added unless all of it is right.

    python -m bench records export records.db --output records.jsonl.gz --anonymous
    python -m bench records import records.jsonl.gz records.db
"""

from __future__ import annotations

import argparse
import csv
import getpass
import gzip
import io
import json
import re
import socket
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from advisor.errors import BadInputError, BrokenFileError, MissingDependencyError
from advisor.files import write_atomically
from advisor.gpus.card import card_key
from bench.case import Case, Mode, Quality, Result, Status, Timing
from bench.records import Note, Records, Row, Run, RunState, open_records

FORMATS = ("jsonl", "json", "csv", "parquet")
FORMAT_VERSION = 1
_FORMAT = "batchwave records"
_MAX_BYTES = 256 * 2**20  # of one import, unpacked: a campaign holds some 10 MiB
_MAX_ENTRIES = 1_000_000

_Entry = dict[str, Any]

# column of the tables -> how it is kept: "text", "integer", "number", "yes or no", "numbers", or "json"
_COLUMNS = {
    "version": "integer",
    "record": "text",
    "run": "text",
    "sequence": "integer",
    "suite": "text",
    "kind": "text",
    "params": "json",
    "status": "text",
    "reason": "text",
    "samples_s": "numbers",
    "calls_per_sample": "integer",
    "mode": "text",
    "graph": "yes or no",
    "quality": "text",
    "host_bound": "yes or no",
    "facts": "json",
    "telemetry": "json",
    "at": "text",
    "environment": "json",
    "command": "text",
    "seed": "integer",
    "budget_s": "number",
    "state": "text",
    "data": "json",
}


@dataclass(frozen=True)
class Archive:
    """What a records file holds, in memory."""

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...]


def export_records(
    records: Records,
    path: str | Path,
    format: str | None = None,  # noqa: A002  # the name of the flag
    *,
    anonymous: bool = False,
    suites: Collection[str] | None = None,
) -> int:
    """Write records to a file, whole or not at all; return the number of measurements written.

    `format` is one of FORMATS; without it the file's name tells (.jsonl, .json, .csv, each also .gz, or .parquet).
    `anonymous` hides what names a card, a machine or a person (see `anonymised`). `suites` takes only those suites'
    measurements; the runs and notes go along, so that parts of one campaign can be imported one by one.
    Raises BadInputError where the name or place will not do, MissingDependencyError for Parquet without pyarrow.
    """
    path = Path(path)
    format_, packed = _format_of(path, format)
    archive = archive_of(records)
    if suites is not None:
        archive = replace(archive, rows=tuple(row for row in archive.rows if row.case.suite in suites))
    if anonymous:
        archive = anonymised(archive)
    content = _WRITERS[format_](archive)
    write_atomically(path, gzip.compress(content, mtime=0) if packed else content)
    return len(archive.rows)


def import_records(path: str | Path, records: Records) -> int:
    """Add a file's runs, measurements and notes to records, all or none; return the number of measurements added.

    What is there already is passed over, so importing twice changes nothing. Raises BadInputError where the file
    cannot be read, BrokenFileError where it is truncated, of another version, or not what it should be.
    """
    archive = read_file(path)
    return records.merge(archive.runs, archive.rows, archive.notes)


def is_export(path: str | Path) -> bool:
    """Whether the name is that of an export: it ends in .jsonl, .json, .csv, each also .gz, or .parquet."""
    return _suffix(Path(path)) is not None


def read_archive(path: str | Path) -> Archive:
    """What a records file or an export of one holds, whichever it is."""
    if is_export(path):
        return read_file(path)
    with open_records(path, read_only=True) as records:
        return archive_of(records)


def archive_of(records: Records) -> Archive:
    """All that records hold."""
    return Archive(tuple(records.runs()), tuple(records.rows()), tuple(records.notes()))


def read_file(path: str | Path, format: str | None = None) -> Archive:  # noqa: A002  # the name of the flag
    """Read an export. Errors as of `import_records`."""
    path = Path(path)
    format_, packed = _format_of(path, format)
    content = _content(path, packed=packed)
    try:
        return _archive(_READERS[format_](content, path), path)
    except RecursionError as error:
        raise BrokenFileError(f"{path} is nested too deep for records; export it again") from error
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"{path} is not text in UTF-8 ({error.reason}); export it again") from error


def checked(archive: Archive, path: str | Path) -> Archive:
    """The same, every field checked as of a file that others wrote. Raises BrokenFileError as `read_file` does."""
    entries = ((f"entry {number}", entry) for number, entry in enumerate(_entries(archive), 1))
    return _archive(entries, Path(path))


def main(argv: list[str] | None = None) -> int:
    """Run `python -m bench records`."""
    parser = argparse.ArgumentParser(prog="python -m bench records", description="Records to and from other files.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a records file as JSON lines, JSON, CSV or Parquet")
    export.add_argument("records", type=Path, help="as `advisor bench` writes")
    export.add_argument("--output", "-o", type=Path, required=True, help="e.g. records.jsonl.gz, records.parquet")
    export.add_argument("--format", choices=FORMATS, help="where the output's name does not tell")
    export.add_argument(
        "--anonymous", action="store_true", help="hide UUIDs (behind a hash), serial numbers, PCI ids, hosts, folders"
    )
    bring = commands.add_parser("import", help="add an exported file to a records file")
    bring.add_argument("file", type=Path, help="as `export` writes")
    bring.add_argument("records", type=Path, help="to add to, or to begin")
    options = parser.parse_args(argv)
    if options.command == "export":
        with open_records(options.records, read_only=True) as records:
            count = export_records(records, options.output, options.format, anonymous=options.anonymous)
        print(f"{count} measurements: {options.output}", file=sys.stderr)
        return 0
    archive = read_file(options.file)  # before a records file is begun for it
    with open_records(options.records) as records:
        if records.notice:
            print(records.notice, file=sys.stderr)
        count = records.merge(archive.runs, archive.rows, archive.notes)
    print(f"{count} of {len(archive.rows)} measurements were new: {options.records}", file=sys.stderr)
    return 0


# What must not be shared

_UUID = re.compile(r"(?:GPU-|MIG-)?\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE)
_PCI = re.compile(r"\b(?:[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-7])?|[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\b", re.I)
_HOME = re.compile(r"(?:[A-Za-z]:)?[\\/](?:home|Users)[\\/][^\\/\n'\":]+(?:[\\/](?:[^\s\\/'\":,]+[\\/])*)?")
_FOLDERS = re.compile(r"(?<![\w/.\\])(?:[A-Za-z]:\\(?:[^\s\\'\":,]+\\)*|/(?:[^\s/'\":,]+/)+)")
_ANY_FOLDER = re.compile(r"[^\s'\"=]*[\\/](?=[^\s'\"])")
_SECRET_NAME = re.compile(
    r"serial(_?(number|no))?$|pci(?!e)|pcie?_?(id|bus|address)|bus_?id|host_?name|node_?name|^(host|node|user|login|ip|cwd|home"
    r"|p?pid)$|user_?name$|mac_address|board_id",
    re.IGNORECASE,
)


def anonymised(archive: Archive) -> Archive:
    """The same records without what names a card, a machine or a person; times and cases are untouched.

    A UUID becomes `card_key` of it wherever it stands, so that cards can be told apart and one card is known
    again; serial numbers, PCI ids, hosts, users and process ids are dropped or blanked; of a path its last part stays.
    """
    runs = [
        replace(run, command=_ANY_FOLDER.sub("", _blanked(run.command)), environment=_clean(run.environment))
        for run in archive.runs
    ]
    environments = {run.id: run.environment for run in runs}
    rows = [
        replace(
            row,
            environment=environments[row.run],
            case=replace(row.case, params=_clean(row.case.params)),
            result=replace(
                row.result,
                reason=None if row.result.reason is None else _blanked(row.result.reason),
                facts=_clean(row.result.facts),
                telemetry=_clean(row.result.telemetry),
            ),
        )
        for row in archive.rows
    ]
    notes = [replace(note, data=_clean(note.data, _blanked)) for note in archive.notes]
    return Archive(tuple(runs), tuple(rows), tuple(notes))


def secrets_in(text: str) -> list[str]:
    """UUIDs, PCI ids, home folders and fields named as serial numbers in a text: none of it may be published."""
    fields = re.findall(r"\"([^\"\\]+)\\?\"\s*:", text)
    found = [match.group() for pattern in (_UUID, _PCI, _HOME) for match in pattern.finditer(text)]
    return found + [name for name in fields if _SECRET_NAME.search(name)]


def _hidden(text: str) -> str:
    text = _UUID.sub(lambda uuid: card_key(uuid[0]), text)
    return _FOLDERS.sub("", _HOME.sub("", _PCI.sub("pci", text)))


def _blanked(text: str) -> str:
    """Free text, in which this machine and its user may be named too."""
    text = _hidden(text)
    for name, stand_in in ((socket.gethostname(), "host"), (_user(), "user")):
        if len(name) > 2 and name not in ("root", "localhost"):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", stand_in, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an id without a name, as in containers
        return ""


def _clean(value: Any, text: Callable[[str], str] = _hidden) -> Any:
    if isinstance(value, Mapping):
        return {
            name: card_key(member) if "uuid" in name.lower() and isinstance(member, str) else _clean(member, text)
            for name, member in value.items()
            if not _SECRET_NAME.search(name)
        }
    if isinstance(value, (list, tuple)):
        return [_clean(member, text) for member in value]
    return text(value) if isinstance(value, str) else value


# Entries


def _entries(archive: Archive) -> Iterator[_Entry]:
    for run in archive.runs:
        yield {
            "record": "run",
            "run": run.id,
            "at": run.started_at,
            "command": run.command,
            "environment": dict(run.environment),
            "seed": run.seed,
            "budget_s": run.budget_s,
            "state": run.state,
        }
    for row in archive.rows:
        timing = row.result.timing
        yield {
            "record": "result",
            "run": row.run,
            "sequence": row.sequence,
            "suite": row.case.suite,
            "kind": row.case.kind,
            "params": dict(row.case.params),
            "status": row.result.status,
            "reason": row.result.reason,
            "samples_s": None if timing is None else list(timing.samples_s),
            "calls_per_sample": timing and timing.calls_per_sample,
            "mode": timing and timing.mode,
            "graph": None if timing is None else timing.graph,
            "quality": timing and timing.quality,
            "host_bound": None if timing is None else timing.host_bound,
            "facts": dict(row.result.facts),
            "telemetry": dict(row.result.telemetry),
            "at": row.measured_at,
        }
    for note in archive.notes:
        yield {"record": "note", "run": note.run, "at": note.at, "kind": note.kind, "data": dict(note.data)}


def _archive(entries: Iterable[tuple[str, _Entry]], path: Path) -> Archive:
    """Check every entry; each comes with the place it was read at."""
    runs: dict[str, Run] = {}
    rows: dict[tuple[str, int], Row] = {}
    notes: list[Note] = []
    for count, (where, entry) in enumerate(entries):
        if count >= _MAX_ENTRIES:
            raise BrokenFileError(f"{path} has more than {_MAX_ENTRIES} entries; import it in parts")
        field = _Fields(entry, f"{path}, {where}")
        record, name = field.text("record"), field.text("run")
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            raise field.wrong("run", "not a run's id of letters, digits, '-', '_' and '.'")
        if record == "run":
            if name in runs:
                raise field.wrong("run", "a second run of this id")
            runs[name] = _run(name, field)
        elif name not in runs:
            raise field.wrong("run", "no entry above describes this run")
        elif record == "result":
            row = _row(runs[name], field)
            if (name, row.sequence) in rows:
                raise field.wrong("sequence", "a second result of this number in its run")
            rows[name, row.sequence] = row
        elif record == "note":
            notes.append(Note(name, field.time("at"), field.text("kind"), field.mapping("data")))
        else:
            raise field.wrong("record", "not run, result or note")
    return Archive(tuple(runs.values()), tuple(rows.values()), tuple(notes))


def _run(name: str, field: _Fields) -> Run:
    state: RunState = field.choice("state", get_args(RunState))
    seed = None if field.entry.get("seed") is None else field.integer("seed", least=-(2**63))
    budget_s = None if field.entry.get("budget_s") is None else field.number("budget_s")
    return Run(name, field.time("at"), field.text("command"), field.mapping("environment"), seed, budget_s, state)


def _row(run: Run, field: _Fields) -> Row:
    if field.entry.get("environment") not in (None, run.environment):
        raise field.wrong("environment", "not that of its run")
    params = field.mapping("params")
    if any(isinstance(value, (dict, list)) for value in params.values()):
        raise field.wrong("params", "a parameter is neither text nor a number, true, false or null")
    status: Status = field.choice("status", get_args(Status))
    reason = None if field.entry.get("reason") is None else field.text("reason")
    timing = None
    if field.entry.get("samples_s") is not None:
        mode: Mode = field.choice("mode", get_args(Mode))
        quality: Quality = field.choice("quality", get_args(Quality))
        calls, samples_s = field.integer("calls_per_sample"), field.numbers("samples_s")
        timing = Timing(samples_s, calls, mode, field.truth("graph"), quality, field.truth("host_bound"))
    elif status == "ok" and any(field.entry.get(name) is not None for name in ("mode", "quality", "calls_per_sample")):
        raise field.wrong("samples_s", "a timing without its samples")
    result = Result(status, reason, timing, field.mapping("facts"), field.mapping("telemetry"))
    case = Case(field.text("suite"), field.text("kind"), params)
    return Row(run.id, field.integer("sequence"), case, result, run.environment, field.time("at"))


@dataclass(frozen=True)
class _Fields:
    """One entry's fields, each checked as it is taken."""

    entry: Any
    where: str

    def wrong(self, name: str, why: str) -> BrokenFileError:
        shown = repr(self.entry.get(name))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return BrokenFileError(f"{self.where}: {name} is {shown}: {why}; nothing was imported: export it again")

    def text(self, name: str) -> str:
        value: str = self._of(name, str, "not text")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self._of(name, dict, "not an object of names and values")
        return value

    def choice(self, name: str, known: tuple[Any, ...]) -> Any:
        if self.entry.get(name) not in known:
            raise self.wrong(name, f"not one of {', '.join(known)}")
        return self.entry[name]

    def truth(self, name: str) -> bool:
        value: bool = self._of(name, bool, "not true or false")
        return value

    def integer(self, name: str, least: int = 1) -> int:
        value = self.entry.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise self.wrong(name, f"not a whole number of {least} or more")
        return value

    def number(self, name: str) -> float:
        return self._seconds(name, self.entry.get(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        values = self._of(name, list, "not a list of times in seconds")
        if not values:
            raise self.wrong(name, "no sample")
        return tuple([self._seconds(name, value) for value in values])

    def time(self, name: str) -> str:
        value = self.text(name)
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise self.wrong(name, "not a time as 2026-01-31T12:00:00.000+00:00") from None
        return value

    def _seconds(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
            raise self.wrong(name, f"{value!r:.30} is not a time in seconds")
        return float(value)

    def _of(self, name: str, kind: type[Any], why: str) -> Any:
        value = self.entry.get(name)
        if not isinstance(value, kind):
            raise self.wrong(name, why)
        return value


# Formats


def _suffix(path: Path) -> tuple[str, bool] | None:
    packed = path.suffix == ".gz"
    name = (path.with_suffix("") if packed else path).suffix.removeprefix(".").lower()
    return (name, packed) if name in FORMATS and not (packed and name == "parquet") else None


def _format_of(path: Path, asked: str | None) -> tuple[str, bool]:
    if asked is not None and asked not in FORMATS:
        raise BadInputError(f"format {asked!r} is none of {', '.join(FORMATS)}")
    known = _suffix(path)
    if asked is not None:
        return asked, path.suffix == ".gz" and asked != "parquet"
    if known is None:
        raise BadInputError(f"the name of {path} tells no format: end it in .jsonl.gz, .json, .csv or .parquet")
    return known


def _content(path: Path, *, packed: bool) -> bytes:
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BrokenFileError(f"{path} is truncated or not gzip ({error}); export or copy it again") from error
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; name an exported records file") from error
    if not content:
        raise BrokenFileError(f"{path} is truncated: it is empty; copy or export it again")
    if len(content) > _MAX_BYTES:
        raise BadInputError(f"{path} holds more than {_MAX_BYTES >> 20} MiB; import it in parts")
    return content


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _from_json(text: str, where: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise BrokenFileError(f"{where}: not JSON ({error}); the file is truncated or was changed") from error


def _headed(version: object, path: Path) -> None:
    if version != FORMAT_VERSION:
        raise BrokenFileError(
            f"{path} is not an export of records of version {FORMAT_VERSION} (it says {version!r:.40}); "
            "export it again with this release, or import it with the one that wrote it"
        )


def _whole(entries: list[tuple[str, _Entry]], path: Path) -> list[tuple[str, _Entry]]:
    """Without the closing entry, which must count the others."""
    last = entries[-1][1] if entries else {}
    if last.get("record") != "end" or last.get("sequence") != len(entries) - 1:
        raise BrokenFileError(f"{path} is truncated: its last entry does not count the others; copy or export it again")
    return entries[:-1]


def _to_jsonl(archive: Archive) -> bytes:
    entries = list(_entries(archive))
    lines = [{"format": _FORMAT, "version": FORMAT_VERSION}, *entries, {"record": "end", "sequence": len(entries)}]
    return "".join(_json(line) + "\n" for line in lines).encode()


def _from_jsonl(content: bytes, path: Path) -> list[tuple[str, _Entry]]:
    first, *lines = content.decode().split("\n")
    header = _from_json(first, f"{path}, line 1")
    _headed(header.get("version") if isinstance(header, dict) and header.get("format") == _FORMAT else None, path)
    found = []
    for number, line in enumerate(lines, 2):
        if line.strip():
            found.append((f"line {number}", _object(_from_json(line, f"{path}, line {number}"), path, number)))
    return _whole(found, path)


def _object(value: Any, path: Path, number: int) -> _Entry:
    if not isinstance(value, dict):
        raise BrokenFileError(f"{path}, entry {number}: not an object; nothing was imported: export it again")
    return value


def _to_json(archive: Archive) -> bytes:
    lines = ",\n".join(map(_json, _entries(archive)))
    return f'{{"format":"{_FORMAT}","version":{FORMAT_VERSION},"entries":[\n{lines}\n]}}\n'.encode()


def _from_json_document(content: bytes, path: Path) -> list[tuple[str, _Entry]]:
    found = _from_json(content.decode(), str(path))
    _headed(found.get("version") if isinstance(found, dict) and found.get("format") == _FORMAT else None, path)
    entries = found.get("entries")
    if not isinstance(entries, list):
        raise BrokenFileError(f"{path}: entries is not a list; export it again")
    return [(f"entry {number}", _object(entry, path, number)) for number, entry in enumerate(entries, 1)]


def _table(archive: Archive) -> list[_Entry]:
    """Entries with every column; nested values as JSON."""
    environments = {run.id: run.environment for run in archive.runs}
    found = []
    for entry in _entries(archive):
        whole = {"version": FORMAT_VERSION, **entry}
        if entry["record"] == "result":
            whole["environment"] = environments[entry["run"]]
        nested = {name: _json(value) for name, value in whole.items() if _COLUMNS[name] == "json"}
        found.append({**dict.fromkeys(_COLUMNS), **whole, **nested})
    return found


def _from_table(cells: Mapping[str, Any], where: str) -> _Entry:
    """An entry of a table's row: without the columns that are not its own, and JSON read."""
    entry: _Entry = {}
    for name, value in cells.items():
        if value is not None:
            entry[name] = _from_json(value, f"{where}, {name}") if _COLUMNS[name] == "json" else value
    return entry


def _to_csv(archive: Archive) -> bytes:
    rows = _table(archive)
    rows.append({"version": FORMAT_VERSION, "record": "end", "sequence": len(rows)})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\r\n")  # what it holds is what csv quotes in a cell
    writer.writeheader()
    for row in rows:
        writer.writerow({name: value if isinstance(value, str) else _cell(value) for name, value in row.items()})
    return text.getvalue().encode()


def _cell(value: object) -> str:
    return "" if value is None else _json(value)  # numbers by repr, which reads back to the last bit


def _from_csv(content: bytes, path: Path) -> list[tuple[str, _Entry]]:
    csv.field_size_limit(_MAX_BYTES)
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    found: list[tuple[str, _Entry]] = []
    try:
        header = next(reader, [])
        if header != list(_COLUMNS):
            missing = [name for name in _COLUMNS if name not in header]
            first = f"{', '.join(missing[:3])}{' and more' * (len(missing) > 3)}" or "none"
            raise BrokenFileError(f"{path}, line 1: not the columns of records (missing: {first}); export it again")
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if len(values) != len(header):
                raise BrokenFileError(
                    f"{where}: {len(values)} of {len(header)} columns; the file is truncated or changed"
                )
            cells = {
                name: value if _COLUMNS[name] in ("text", "json") else _from_json(value, f"{where}, {name}")
                for name, value in zip(header, values, strict=True)
                if value
            }
            _headed(cells.pop("version", None), path)
            entry = _from_table(cells, where)
            if entry.get("record") == "run":
                entry.setdefault("command", "")
            if entry.get("status", "ok") != "ok":  # an empty cell: of these a reason without a word
                entry.setdefault("reason", "")
            found.append((f"line {reader.line_num}", entry))
    except csv.Error as error:
        raise BrokenFileError(f"{path}, line {reader.line_num}: {error}; the file is truncated or changed") from error
    return _whole(found, path)


def _parquet() -> tuple[Any, Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"Parquet needs pyarrow ({error}): pip install 'batchwave[parquet]', or use .jsonl.gz or .csv"
        ) from error
    types = {
        "text": pyarrow.string(),
        "json": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "yes or no": pyarrow.bool_(),
        "numbers": pyarrow.list_(pyarrow.float64()),
    }
    return pyarrow, pyarrow.parquet, pyarrow.schema([(name, types[kind]) for name, kind in _COLUMNS.items()])


def _to_parquet(archive: Archive) -> bytes:
    pyarrow, parquet, schema = _parquet()
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(_table(archive), schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _from_parquet(content: bytes, path: Path) -> list[tuple[str, _Entry]]:
    pyarrow, parquet, schema = _parquet()
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size > _MAX_BYTES or file.metadata.num_rows > _MAX_ENTRIES:
            raise BadInputError(
                f"{path} holds more than {_MAX_BYTES >> 20} MiB or {_MAX_ENTRIES} rows; import it in parts"
            )
        if not file.schema_arrow.equals(schema):
            raise BrokenFileError(f"{path} has not the columns of records of version {FORMAT_VERSION}; export it again")
        table = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BrokenFileError(
            f"{path} is truncated or not Parquet ({_line(error)}); copy or export it again"
        ) from error
    found = []
    for number, cells in enumerate(table, 1):
        _headed(cells.pop("version"), path)
        found.append((f"row {number}", _from_table(cells, f"{path}, row {number}")))
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


_WRITERS: Mapping[str, Callable[[Archive], bytes]] = {
    "jsonl": _to_jsonl,
    "json": _to_json,
    "csv": _to_csv,
    "parquet": _to_parquet,
}
_READERS: Mapping[str, Callable[[bytes, Path], list[tuple[str, _Entry]]]] = {
    "jsonl": _from_jsonl,
    "json": _from_json_document,
    "csv": _from_csv,
    "parquet": _from_parquet,
}
