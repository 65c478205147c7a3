"""Records: every measurement ever taken, in one SQLite file that a crash cannot hurt.

One transaction per case. A process killed at any moment (kill -9 too) loses at most the case it was adding; two
processes may write to one file. Nothing is replaced: a case measured again is a further row. Each row belongs to a
run, which holds the environment (GPU, driver, versions, method version); the view `measurements` joins the two for
`sqlite3` on the command line.

Durability, as chosen here (sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous):
- WAL with synchronous=NORMAL: a commit is one append and no fsync, so that recording does not hold up measuring. A
  killed process loses nothing that was committed. A power failure may take the last commits back, never corrupts, and
  `--resume` measures those cases again.
- On a network file system WAL's shared memory is unsafe (sqlite.org/wal.html, "All processes ... same host"): there the
  DELETE journal with synchronous=FULL, which alone keeps a rollback journal sound through a power failure.

Standard library only, as all that runs on a GPU machine.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast, get_args

from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus.card import card_key
from bench.case import Case, Mode, Quality, Result, Status, Timing

SCHEMA_VERSION = 1  # PRAGMA user_version: of the tables below; METHOD_VERSION is of how times are taken
APPLICATION_ID = 0x42575243  # "BWRC", PRAGMA application_id: what `file` and this module know a records file by
BUSY_S = 30.0  # how long to wait for another process's transaction, which takes milliseconds

_ROW = (  # the columns of `results` that make a Row
    "run, sequence, suite, kind, params, status, reason, samples_s, calls_per_sample, mode, graph, quality, "
    "host_bound, facts, telemetry, measured_at"
)

RunState = Literal["running", "complete", "out_of_budget", "interrupted", "failed"]

# Of two environments that agree in these, the times may be mixed: a resumed run need not repeat its cases.
SAME_CONDITIONS = (
    "device",
    "gpu_name",
    "gpu_uuid",
    "sms",
    "power_limit_w",
    "driver",
    "cuda",
    "torch",
    "cudnn",
    "triton",
    "method_version",
)

_TABLES = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, started_at TEXT NOT NULL, command TEXT NOT NULL, environment TEXT NOT NULL,
    seed INTEGER, budget_s REAL, state TEXT NOT NULL
);
CREATE TABLE results (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id), sequence INTEGER NOT NULL, key TEXT NOT NULL,
    suite TEXT NOT NULL, kind TEXT NOT NULL, params TEXT NOT NULL, status TEXT NOT NULL, reason TEXT,
    samples_s TEXT, calls_per_sample INTEGER, mode TEXT, graph INTEGER, quality TEXT,
    host_bound INTEGER,
    facts TEXT NOT NULL, telemetry TEXT NOT NULL, measured_at TEXT NOT NULL,
    UNIQUE (run, sequence)
);
CREATE INDEX results_of_key ON results (key);
CREATE TABLE notes (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id), at TEXT NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE VIEW measurements AS
    SELECT results.*, runs.started_at, runs.command, runs.environment, runs.state
    FROM results JOIN runs ON runs.id = results.run;
"""

# Types of /proc/self/mounts on which processes of several hosts may meet, or that lack coherent shared memory (9p and
# virtiofs: a folder of the host in a virtual machine, WSL 2 or gVisor). Local FUSE (fuseblk, fuse-overlayfs) is not.
_NETWORK_TYPES = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|drvfs|glusterfs|gfs2?|gpfs|lustre|ncpfs|nfs4?|ocfs2|orangefs|panfs|pvfs2|smb[23]|smbfs"
    r"|virtiofs|wekafs|fuse\.(.*s3.*|.*gcs.*|.*blob.*|ceph.*|gluster.*|juicefs|lustre|moosefs|mfs|rclone|sshfs)"
)


@dataclass(frozen=True)
class Run:
    """One run of a command: what was asked, and the machine it ran on."""

    id: str
    started_at: str  # UTC, ISO 8601
    command: str
    environment: Mapping[str, Any]  # flat and JSON-plain: gpu_name, gpu_uuid, driver, torch, method_version, ...
    seed: int | None = None
    budget_s: float | None = None
    state: RunState = "running"  # a run that was killed stays "running"


@dataclass(frozen=True)
class Row:
    """One measurement as recorded."""

    run: str  # Run.id
    sequence: int  # from 1 within its run
    case: Case
    result: Result
    environment: Mapping[str, Any]  # of its run
    measured_at: str  # UTC, ISO 8601


@dataclass(frozen=True)
class Note:
    """What happened in a run beside its cases: drift marks, a child restarted, a pause."""

    run: str
    at: str  # UTC, ISO 8601
    kind: str
    data: Mapping[str, Any]


class Records:
    """An open records file; `open_records` makes it. Close it, or use it as a context manager.

    Every method that writes is one transaction, and raises BadInputError where the file can no longer be written
    (full disk, folder gone read-only, another process holding it for BUSY_S): what was recorded before is safe.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, journal: str, notice: str | None) -> None:
        self.path = path
        self.journal = journal  # "wal" or "delete"; of a file opened only to read, as found
        self.notice = notice  # one line to show the user once, or None
        self._connection = connection

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last process to do so folds SQLite's side files (-wal, -shm) into it."""
        self._connection.close()

    def start_run(
        self,
        environment: Mapping[str, Any],
        command: str,
        *,
        seed: int | None = None,
        budget_s: float | None = None,
    ) -> Run:
        """Begin a run. Its id sorts by time and is the same nowhere else."""
        started_at = _now()
        run_id = re.sub(r"[-:]|\..*", "", started_at) + "-" + secrets.token_hex(4)
        command = command.encode(errors="surrogateescape").decode(errors="replace")  # names of files in no UTF-8
        run = Run(run_id, started_at, command, dict(environment), seed, budget_s)
        with self._writing():
            self._insert_run(run)
        return run

    def finish_run(self, run: Run, state: RunState) -> None:
        """Say how a run ended."""
        if state not in get_args(RunState):
            raise ValueError(state)
        with self._writing():
            self._connection.execute("UPDATE runs SET state = ? WHERE id = ?", (state, run.id))

    def add(self, run: Run, case: Case, result: Result) -> Row:
        """Record a case that was measured, failed or was skipped: when this returns, kill -9 cannot lose it."""
        with self._writing():
            (last,) = self._one("SELECT coalesce(max(sequence), 0) FROM results WHERE run = ?", (run.id,))
            row = Row(run.id, last + 1, case, result, run.environment, _now())
            self._insert_row(row)
        return row

    def note(self, run: Run, kind: str, data: Mapping[str, Any]) -> None:
        """Record something that happened in a run, with the time it is now."""
        with self._writing():
            self._insert_note(Note(run.id, _now(), kind, dict(data)))

    def done(self, environment: Mapping[str, Any], *, retry_failed: bool = False) -> set[str]:
        """Keys of the cases that a resumed run need not measure again under the same conditions (SAME_CONDITIONS).

        Those that are ok or skipped, and those that failed unless `retry_failed`; a case that was ok once is done
        whatever came of it later. A card is the same by its UUID, or by the hash that stands for it in shared records.
        """
        wanted = conditions(environment)
        runs = [run.id for run in self.runs() if conditions(run.environment) == wanted]
        found: set[str] = set()
        for run in runs:
            query = "SELECT DISTINCT key FROM results WHERE run = ? AND (status != 'failed' OR ?)"
            found.update(key for (key,) in self._all(query, (run, not retry_failed)))
        return found

    def runs(self, *, newest: int = -1) -> list[Run]:
        """Every run, or so many of the newest, oldest first."""
        query = (
            "SELECT id, started_at, command, environment, seed, budget_s, state FROM runs "
            "ORDER BY started_at DESC, rowid DESC LIMIT ?"  # of two in one millisecond the later recorded
        )
        with self._understanding("a run"):
            return [Run(i, at, c, json.loads(e), s, b, st) for i, at, c, e, s, b, st in self._all(query, (newest,))][
                ::-1
            ]

    def rows(
        self,
        *,
        suite: str | None = None,
        kind: str | None = None,
        status: Status | None = None,
        run: str | None = None,
    ) -> Iterator[Row]:
        """Every measurement that matches, in the order recorded; several of one case where it was measured again."""
        environments = {found.id: found.environment for found in self.runs()}
        asked = {"suite": suite, "kind": kind, "status": status, "run": run}
        given = {name: value for name, value in asked.items() if value is not None}
        where = "".join(f" AND {name} = :{name}" for name in given)
        query = f"SELECT id, {_ROW} FROM results WHERE id > :after AND id <= :last{where} ORDER BY id LIMIT 256"
        after, (last,) = 0, self._one("SELECT coalesce(max(id), 0) FROM results")
        while page := self._all(query, {**given, "after": after, "last": last}):
            for fields in page:
                after = fields[0]
                with self._understanding(f"row {after}"):
                    row = _row(fields[1:], environments)
                yield row

    def rows_by_id(self, ids: Iterable[int]) -> Iterator[Row]:
        """The measurements of these ids, in their order; what `select` finds among millions is read by it."""
        environments: dict[str, Mapping[str, Any]] = {}
        for id_ in ids:
            fields = self._one(f"SELECT {_ROW} FROM results WHERE id = ?", (id_,))
            with self._understanding(f"row {id_}"):
                run = fields[0]
                if run not in environments:
                    environments[run] = json.loads(self._one("SELECT environment FROM runs WHERE id = ?", (run,))[0])
                row = _row(fields, environments)
            yield row

    def select(self, query: str, values: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """What a query of the tables finds, row by row: millions of them need no more memory than one."""
        with _telling(self.path):
            yield from self._connection.execute(query, values or {})

    def notes(self, *, kind: str | None = None, run: str | None = None) -> list[Note]:
        """Every note that matches, in the order recorded."""
        query = (
            "SELECT run, at, kind, data FROM notes WHERE (:kind IS NULL OR kind = :kind) "
            "AND (:run IS NULL OR run = :run) ORDER BY id"
        )
        with self._understanding("a note"):
            return [Note(r, at, k, json.loads(d)) for r, at, k, d in self._all(query, {"kind": kind, "run": run})]

    def merge(self, runs: Sequence[Run], rows: Sequence[Row], notes: Sequence[Note]) -> int:
        """Add what other records hold, all or nothing; what is here already is passed over. Returns the rows added.

        Raises BrokenFileError where a run or row of the same name is here with other content.
        """
        here = {run.id: run for run in self.runs()}
        known = {(row.run, row.sequence): row for run in runs if run.id in here for row in self.rows(run=run.id)}
        known_notes = [note for run in runs if run.id in here for note in self.notes(run=run.id)]
        added = 0
        with self._writing():
            for run in runs:
                if run.id not in here:
                    self._insert_run(run)
                elif replace(here[run.id], state=run.state) != run:
                    raise BrokenFileError(_conflict(self.path, f"run {run.id}"))
                elif here[run.id].state == "running":  # it has ended since
                    self._connection.execute("UPDATE runs SET state = ? WHERE id = ?", (run.state, run.id))
            for row in rows:
                found = known.get((row.run, row.sequence))
                if found is None:
                    self._insert_row(row)
                    added += 1
                elif found != row:
                    raise BrokenFileError(_conflict(self.path, f"row {row.sequence} of run {row.run}"))
            for note in notes:
                if note not in known_notes:
                    self._insert_note(note)
        return added

    def _insert_run(self, run: Run) -> None:
        values = (run.id, run.started_at, run.command, _json(run.environment), run.seed, run.budget_s, run.state)
        self._connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _insert_row(self, row: Row) -> None:
        case, result, timing = row.case, row.result, row.result.timing
        timed: tuple[Any, ...] = (None,) * 6
        if timing is not None:
            if not all(math.isfinite(sample) and sample >= 0 for sample in timing.samples_s):
                raise BadInputError(
                    f"a sample of {case.key} is not a time in seconds: {timing.samples_s}; not recorded"
                )
            taken = (timing.calls_per_sample, timing.mode, timing.graph, timing.quality, timing.host_bound)
            timed = (_json(timing.samples_s), *taken)
        identity = (row.run, row.sequence, case.key, case.suite, case.kind, _json(case.params))
        plain = (_json(result.facts), _json(result.telemetry), row.measured_at)
        values = (*identity, result.status, result.reason, *timed, *plain)
        self._connection.execute(f"INSERT INTO results VALUES (NULL{', ?' * len(values)})", values)

    def _insert_note(self, note: Note) -> None:
        values = (note.run, note.at, note.kind, _json(note.data))
        self._connection.execute("INSERT INTO notes VALUES (NULL, ?, ?, ?, ?)", values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _telling(self.path), _transaction(self._connection):
            yield

    @contextmanager
    def _understanding(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenFileError(
                f"{self.path}: {what} cannot be understood ({error}); it was changed by something else: use a copy"
            ) from error

    def _all(self, query: str, values: Any = ()) -> list[tuple[Any, ...]]:
        with _telling(self.path):
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, values: Any = ()) -> tuple[Any, ...]:
        return self._all(query, values)[0]


def open_records(path: str | Path, *, read_only: bool = False) -> Records:
    """Open a records file, or begin one unless `read_only`.

    Raises BadInputError where it cannot be written (or is not there to be read) and BrokenFileError where it is not
    records, is of another version or is truncated; such a file is left as it is.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; name a file in it, e.g. {path / 'records.db'}")
    if read_only and not path.exists():
        raise BadInputError(f"{path} does not exist; name a records file, as `advisor bench` writes")
    if not path.parent.is_dir():
        raise BadInputError(f"{path.parent} does not exist; make the folder or choose another")
    with _telling(path):
        connection = _connect(path, read_only=read_only)
        try:
            _check(connection, path, read_only=read_only)
            journal, notice = _set_journal(connection, path, read_only=read_only)
        except BaseException:
            connection.close()
            raise
    return Records(path, connection, journal, notice)


def conditions(environment: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must agree for two environments' times to be mixed; a card's UUID as its hash."""
    uuid = environment.get("gpu_uuid")
    known = {**environment, "gpu_uuid": None if uuid is None else card_key(uuid)}
    return tuple(known.get(name) for name in SAME_CONDITIONS)


def is_network_mount(path: Path, mounts: str) -> str | None:
    """Type of the network file system that an absolute, resolved path lies on, or None for a local one.

    `mounts` is the text of /proc/self/mounts: device, mount point and type, with octal escapes for blanks; the longest
    mount point above the path counts, and of equal ones the last, which hides the others.
    """
    deepest, found = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        if (path == point or point in path.parents) and len(point.parts) >= deepest:
            deepest, found = len(point.parts), fields[2]
    return found if _NETWORK_TYPES.fullmatch(found) else None


def _network_type(path: Path) -> str | None:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return "a network share" if str(path).startswith("\\\\") else None
    return is_network_mount(path.resolve(), mounts)


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "rwc"
    if read_only:
        # A reader that may write leaves no -wal and -shm behind; one that may not needs them there already, or none.
        effective = os.access in os.supports_effective_ids
        writable = all(os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent))
        in_use = path.with_name(path.name + "-wal").exists()
        mode = "rw" if writable else "ro" if in_use else "ro&immutable=1"
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _check(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """See that the file is whole and ours, before anything in it is changed; make the tables in an empty one."""
    # The file is never opened beside SQLite: closing it would drop this process's locks (sqlite.org/howtocorrupt.html).
    with _transaction(connection, "BEGIN" if read_only else "BEGIN IMMEDIATE"):
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        application, version, pages, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "page_count", "page_size")
        )
        if not objects and not application and not version:
            if read_only:
                raise BrokenFileError(f"{path} is empty: no run has begun in it")
            for statement in filter(None, map(str.strip, _TABLES.split(";"))):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            return
        if application != APPLICATION_ID:
            raise BrokenFileError(f"{path} is a SQLite database but not records; choose another file")
        if version != SCHEMA_VERSION:
            raise BrokenFileError(
                f"{path} holds records of version {version}, this is version {SCHEMA_VERSION}; nothing was changed: "
                "export them with the release that wrote them (python -m bench records export) and import them here"
            )
        wal = path.with_name(path.name + "-wal")
        pending = wal.exists() and wal.stat().st_size
        if not pending and path.stat().st_size < pages * page_bytes:  # SQLite itself misses a page cut short
            raise BrokenFileError(_damaged(path, f"has {path.stat().st_size} of {pages * page_bytes} bytes"))
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise BrokenFileError(_damaged(path, " ".join(str(state).split())))


def _set_journal(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> tuple[str, str | None]:
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0]), None
    network = _network_type(path)
    wanted = "wal" if network is None else "delete"
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            journal = str(connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()[0])
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait here for another process, as it does elsewhere
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if journal == 'wal' else 'FULL'}")
    if journal == "wal":
        return journal, None
    where = f"{path.parent} lies on {network}" if network else f"the file system of {path.parent} has no shared memory"
    return journal, f"{where}, where SQLite's WAL is unsafe: the slower {journal.upper()} journal is used"


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # Ctrl-C too
        if connection.in_transaction:  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line each."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "not a database" in text or "encrypted" in text:
            raise BrokenFileError(
                f"{path} is not a records file; choose another (exports are read by import)"
            ) from error
        if "malformed" in text or "no such" in text:
            raise BrokenFileError(_damaged(path, text)) from error
        if "full" in text:
            why = "the disk is full; free some space and go on with --resume"
        elif "readonly" in text or "unable to open" in text:
            why = "no permission, or a read-only file system; choose another place"
        elif "locked" in text or "busy" in text:
            why = f"another process has held it for {BUSY_S:g} s; end that one, or use a file of its own"
        else:
            why = f"{text}; check the disk (full, over a quota, failing), then go on with --resume"
        raise BadInputError(f"cannot use {path}: {why}. What was recorded is safe") from error


def _damaged(path: Path, what: str) -> str:
    return f"{path} is truncated or damaged ({what}); it was left as it is: restore a copy, or begin another file"


def _conflict(path: Path, what: str) -> str:
    return f"{path} has {what} with other content; import into a new file"


def _row(fields: tuple[Any, ...], environments: Mapping[str, Mapping[str, Any]]) -> Row:
    run, sequence, suite, kind, params, status, reason, samples_s, *taken, facts, telemetry, measured_at = fields
    timing = None
    if samples_s is not None:
        calls, mode, graph, quality, host_bound = taken
        timing = Timing(
            tuple(json.loads(samples_s)), calls, cast(Mode, mode), bool(graph), cast(Quality, quality), bool(host_bound)
        )
    result = Result(status, reason, timing, json.loads(facts), json.loads(telemetry))
    return Row(run, sequence, Case(suite, kind, json.loads(params)), result, environments[run], measured_at)


def _json(value: object) -> str:
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    """As JSON has it: a figure that is no number (a sensor's NaN) is unknown."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
