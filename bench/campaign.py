"""`python -m bench campaign --out DIR --budget 9m`: the most valuable part of every suite, in one command.

Works from a plain checkout (`PYTHONPATH=.`) with torch, triton, numpy and nvidia-ml-py. DIR gets at most 8 files of
16 MiB: records of each suite as JSON lines (`python -m bench records import` reads them), which name no card, machine
or person, and summary.json. They are written again every half minute, so that a campaign killed at any moment keeps
what it has; `--resume` goes on from them. It ends within its budget, writing included. Exit codes: as of `measure`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from advisor.errors import AdvisorError, BadInputError
from advisor.files import write_atomically
from bench.case import METHOD_VERSION
from bench.exchange import Archive, anonymised, archive_of, export_records, import_records
from bench.measure import add_measuring_options, command_line, exit_code, session_options, summary_lines
from bench.progress import Progress
from bench.records import Records, open_records
from bench.session import Session, SessionOptions, Summary

MOST_FILES = 8
MOST_BYTES = 16 * 2**20  # of one file
FLUSH_S = 30.0
SUMMARY = "summary.json"
SUFFIX = ".jsonl.gz"
_REST = "others"  # the file of the suites that have none of their own


def main(argv: list[str] | None = None) -> int:
    """Measure, write the files, print a summary; return the exit code."""
    argv = sys.argv[2:] if argv is None else argv
    start_s = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m bench campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    add_measuring_options(parser, budget="9m")
    parser.set_defaults(suite=[], quick=False)
    options = parser.parse_args(argv)
    program = command_line("campaign", argv)
    asked = session_options(options, program)
    earlier = prepare(options.out, resume=options.resume)
    with tempfile.TemporaryDirectory(prefix="batchwave-") as folder:
        path = Path(folder) / "records.db"
        with open_records(path) as records:
            for file in earlier:
                import_records(file, records)
            session = Session(within(asked, time.monotonic() - start_s), records, Progress())
            summary, notices = session.summary, []
            try:
                with flushing(path, options.out, summary, FLUSH_S):
                    session.run()
            finally:
                if records.runs():
                    notices = write_files(records, options.out, summary)
    for notice in notices:
        print(notice, file=sys.stderr)
    code = exit_code(summary, asked.budget_s)
    print("\n".join(summary_lines(summary, options.out, program)))
    return code


def within(options: SessionOptions, spent_s: float) -> SessionOptions:
    """The options with a budget that leaves time to end the last case and to write the files."""
    margin_s = min(12.0, 2.0 + 0.05 * options.budget_s)  # 2,000 rows are written within one second
    left_s = max(options.budget_s - spent_s - margin_s, 0.01)
    return replace(options, budget_s=left_s, overrun_s=0.1 * margin_s)


def prepare(out: Path, *, resume: bool) -> list[Path]:
    """Make the folder; return the files of an earlier campaign there.

    Raises BadInputError where the folder cannot be written, or holds a campaign that this one does not resume.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise BadInputError(f"cannot write to {out}: {error.strerror}; name another folder with --out") from error
    earlier = sorted(out.glob(f"*{SUFFIX}"))
    if earlier and not resume:
        raise BadInputError(f"{out} holds a campaign ({earlier[0].name}): go on with --resume, or name another folder")
    return earlier


@contextlib.contextmanager
def flushing(records: Path, out: Path, summary: Summary, every_s: float) -> Iterator[None]:
    """Write the files again and again meanwhile, from a thread that reads the records beside the session."""
    done = threading.Event()

    def flush() -> None:
        while not done.wait(every_s):
            with contextlib.suppress(AdvisorError, OSError), open_records(records, read_only=True) as reader:
                write_files(reader, out, summary)

    thread = threading.Thread(target=flush, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def write_files(records: Records, out: Path, summary: Summary) -> list[str]:
    """Write every file anew; what had to be left out to keep to the limits is returned, one line each.

    All are made before the first is replaced, so that the files belong together but for an instant.
    """
    archive = archive_of(records)
    counts = Counter(row.case.suite for row in archive.rows)
    contents, notices = {}, []
    for name, suites in file_names(list(counts)).items():
        contents[name], left_out = packed(archive, suites)
        if left_out:
            notices.append(f"{name}: {left_out}")
    document = summary_document(archive, summary, {name: len(content) for name, content in contents.items()}, notices)
    for name, content in contents.items():
        write_atomically(out / name, content)
    write_atomically(out / SUMMARY, json.dumps(document, indent=1).encode() + b"\n")
    return notices


def file_names(suites: Sequence[str]) -> dict[str, list[str]]:
    """File -> the suites in it: a file each, those beyond what may be left together in the last."""
    most = MOST_FILES - 1  # and the summary
    own = suites if len(suites) <= most else suites[: most - 1]
    found = {f"{suite}{SUFFIX}": [suite] for suite in own}
    if len(own) < len(suites):
        found[f"{_REST}{SUFFIX}"] = list(suites[len(own) :])
    return found


def packed(archive: Archive, suites: Sequence[str], most_bytes: int = MOST_BYTES) -> tuple[bytes, str | None]:
    """One file's bytes, and in words what was left out of it: first telemetry, then the last rows; never a sample."""
    rows = [row for row in archive.rows if row.case.suite in suites]
    content = _exported(replace(archive, rows=tuple(rows)))
    if len(content) <= most_bytes:
        return content, None
    bare = [replace(row, result=replace(row.result, telemetry={})) for row in rows]
    kept = len(bare)
    while True:
        content = _exported(replace(archive, rows=tuple(bare[:kept])))
        if len(content) <= most_bytes:
            break
        kept = kept * 9 // 10
    rest = f" and the last {len(rows) - kept} of {len(rows)} rows" if kept < len(rows) else ""
    return content, f"over {most_bytes >> 20} MiB, so telemetry{rest} was left out"


def _exported(archive: Archive) -> bytes:
    with tempfile.TemporaryDirectory(prefix="batchwave-") as folder:
        path = Path(folder) / f"part{SUFFIX}"
        with open_records(Path(folder) / "part.db") as part:
            part.merge(archive.runs, archive.rows, archive.notes)
            export_records(part, path, anonymous=True)
        return path.read_bytes()


def summary_document(
    archive: Archive, summary: Summary, sizes: Mapping[str, int], notices: Sequence[str]
) -> dict[str, Any]:
    """What summary.json says, without what names a card, a machine or a person."""
    rows: dict[str, Counter[str]] = {}
    for row in archive.rows:
        rows.setdefault(row.case.suite, Counter())[row.result.status] += 1
    shown = anonymised(replace(archive, rows=()))
    return {
        "schema_version": 1,
        "method_version": METHOD_VERSION,
        "runs": [
            {
                "started_at": run.started_at,
                "command": run.command,
                "state": run.state,
                "seed": run.seed,
                "budget_s": run.budget_s,
                "environment": dict(run.environment),
            }
            for run in shown.runs
        ],
        "rows": {suite: dict(counts) for suite, counts in rows.items()},
        "noisy": sum(row.result.timing is not None and row.result.timing.quality == "noisy" for row in archive.rows),
        "left": summary.left,
        "drift": summary.drift,
        "elapsed_s": round(summary.elapsed_s, 1),
        "given_up": summary.given_up,
        "notes": [{"at": note.at, "kind": note.kind, **note.data} for note in shown.notes],
        "files": dict(sizes),
        "left_out": list(notices),
    }
