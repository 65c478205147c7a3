from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus.card import card_key
from bench.case import Case, Result, Timing
from bench.records import Records, is_network_mount, open_records

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "gpu_name": "NVIDIA H200",
    "gpu_uuid": "GPU-3f2a9c1e-0b7d-4c55-9e21-6a8d7f10b2c3",
    "sms": 132,
    "driver": "570.86.15",
    "torch": "2.11.0",
    "method_version": 1,
}
TIMING = Timing((1e-3 / 3, 2.5e-3, 1.1e-9), 5, "cold", True, "noisy", True)

# Adds rows of some 10 KiB until it is killed, and says each one that was committed.
WRITER = """
import sys
from bench.case import Case, Result, Timing
from bench.records import open_records
with open_records(sys.argv[1]) as records:
    run = records.start_run({"gpu_uuid": "GPU-1"}, "measure")
    for m in range(100_000):
        timing = Timing((1e-3 / 7,) * 500, 1, "warm", False, "good")
        records.add(run, Case("gemm", "gemm", {"m": m}), Result("ok", None, timing))
        print(m, flush=True)
"""


def case(m: int, **params: int) -> Case:
    return Case("gemm", "gemm", {"m": m, "n": 4096, "pass": "dgrad", **params})


def fill(path: Path, rows: int) -> None:
    with open_records(path) as records:
        run = records.start_run(ENVIRONMENT, "measure")
        for m in range(rows):
            records.add(run, case(m), Result("ok", None, TIMING))


def child(code: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def sound(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def test_what_was_recorded_is_read_to_the_last_bit(tmp_path: Path) -> None:
    facts = {"kernels": [{"name": "nvjet_hsh_128x256", "grid": [132, 1, 1]}], "bytes": 2**40}
    results = [
        Result("ok", None, TIMING, facts, {"before": {"sm_hz": 1.98e9}}),
        Result("failed", "CUDA error: an illegal memory access was encountered"),
        Result("skipped", "needs 151 GiB of 140 GiB"),
    ]
    with open_records(tmp_path / "r.db") as records:
        run = records.start_run(ENVIRONMENT, "advisor bench --suite gemm", seed=7, budget_s=480.0)
        for result in results:
            records.add(run, case(257), result)
        records.note(run, "drift", {"ratio": 1.004})
        records.finish_run(run, "complete")
    with open_records(tmp_path / "r.db", read_only=True) as records:
        rows = list(records.rows())
        (found,) = records.runs()
        (note,) = records.notes(kind="drift")
    assert [row.result for row in rows] == results
    assert [(row.run, row.sequence, row.case) for row in rows] == [(run.id, i, case(257)) for i in (1, 2, 3)]
    assert all(row.environment == ENVIRONMENT for row in rows)
    assert (found.command, found.seed, found.budget_s, found.state) == (run.command, 7, 480.0, "complete")
    assert note.data == {"ratio": 1.004}


def test_a_sensor_without_a_number_is_unknown_and_a_sample_without_one_is_refused(tmp_path: Path) -> None:
    with open_records(tmp_path / "r.db") as records:
        run = records.start_run(ENVIRONMENT, "measure")
        records.add(
            run, case(1), Result("ok", None, TIMING, {}, {"power_w": float("nan"), "clocks": [float("inf"), 1.5]})
        )
        with pytest.raises(BadInputError, match="not a time"):
            records.add(run, case(2), Result("ok", None, Timing((float("nan"),), 1, "warm", False, "good")))
        (row,) = records.rows()
    assert row.result.telemetry == {"power_w": None, "clocks": [None, 1.5]}


def test_every_row_shows_its_environment_to_plain_sql(tmp_path: Path) -> None:
    fill(tmp_path / "r.db", 2)
    with sqlite3.connect(tmp_path / "r.db") as connection:
        found = connection.execute("SELECT environment, samples_s FROM measurements").fetchall()
    assert len(found) == 2
    assert all(ENVIRONMENT["gpu_uuid"] in environment and samples.count(",") == 2 for environment, samples in found)


def test_a_resumed_run_repeats_neither_what_is_done_nor_what_failed_unless_asked(tmp_path: Path) -> None:
    with open_records(tmp_path / "r.db") as records:
        run = records.start_run(ENVIRONMENT, "measure")
        records.add(run, case(1), Result("ok", None, TIMING))
        records.add(run, case(2), Result("skipped", "too large"))
        records.add(run, case(3), Result("failed", "timeout"))
        records.add(run, case(1), Result("failed", "timeout"))  # ok once is done
        assert records.done(ENVIRONMENT) == {case(1).key, case(2).key, case(3).key}
        assert records.done(ENVIRONMENT, retry_failed=True) == {case(1).key, case(2).key}


@pytest.mark.parametrize(
    "change", [{"gpu_uuid": "GPU-0"}, {"driver": "580.1"}, {"torch": "2.12"}, {"method_version": 2}, {"sms": 66}]
)
def test_a_case_is_not_done_on_another_card_or_under_other_versions(tmp_path: Path, change: dict[str, object]) -> None:
    fill(tmp_path / "r.db", 1)
    with open_records(tmp_path / "r.db") as records:
        assert records.done({**ENVIRONMENT, "pid": 4}) == {case(0).key}
        assert records.done({**ENVIRONMENT, **change}) == set()


def test_a_card_has_one_name_with_and_without_its_prefix_and_in_shared_records() -> None:
    uuid = "GPU-3f2a9c1e-0b7d-4c55-9e21-6a8d7f10b2c3"
    assert card_key(uuid) == card_key(uuid[4:].upper()) == card_key(card_key(uuid))
    assert card_key(uuid) != card_key(uuid[:-1] + "4")
    assert len(card_key(uuid)) == len("card-") + 16


def test_rows_are_found_by_suite_kind_status_and_run_and_end_where_reading_began(tmp_path: Path) -> None:
    with open_records(tmp_path / "r.db") as records:
        first, second = (records.start_run(ENVIRONMENT, "measure") for _ in range(2))
        for m in range(300):  # more than one page
            records.add(first, case(m), Result("ok", None, TIMING))
        records.add(second, Case("conv", "memory", {"bytes": 8}), Result("failed", "x"))
        assert [row.case.params["m"] for row in records.rows(suite="gemm")] == list(range(300))
        assert len(list(records.rows(kind="memory"))) == 1
        assert len(list(records.rows(status="failed"))) == 1
        assert len(list(records.rows(run=first.id, status="ok"))) == 300
        assert len(list(records.rows(suite="none"))) == 0
        for row in records.rows():
            records.add(second, row.case, row.result)
        assert len(list(records.rows())) == 602


@pytest.mark.parametrize("seed", range(5))
def test_kill_9_at_any_moment_loses_at_most_the_running_case(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "r.db"
    said = 0
    for attempt in range(2):  # the second goes on in what the first left
        with child(WRITER, path) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(random.Random(2 * seed + attempt).uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            said += len([first, *process.stdout.readlines()])
        with open_records(path) as records:
            rows = list(records.rows())
        assert said <= len(rows) <= said + 1  # committed, and killed before it could say so
        said = len(rows)
        assert sound(path)
    assert said >= 2


BEGINNER = """
import sys
from bench.records import open_records
print(flush=True)
for i in range(100_000):
    open_records(f"{sys.argv[1]}/{i}.db").close()
"""


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_while_a_file_is_begun_leaves_one_that_can_be_used(tmp_path: Path, seed: int) -> None:
    with child(BEGINNER, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
    begun = {entry.name.partition("-")[0] for entry in tmp_path.iterdir()}
    for name in begun:
        fill(tmp_path / name, 1)
        assert sound(tmp_path / name)


def _add_200(path: str, environment: dict[str, object]) -> None:
    with open_records(path) as records:
        run = records.start_run(environment, "measure")
        for m in range(200):
            records.add(run, case(m), Result("ok", None, TIMING))


def test_two_processes_may_begin_and_fill_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    spawn = multiprocessing.get_context("fork")
    writers = [
        spawn.Process(target=_add_200, args=(str(path), {**ENVIRONMENT, "gpu_uuid": f"GPU-{i}"})) for i in (0, 1)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    with open_records(path) as records:
        rows = list(records.rows())
    assert sorted((row.environment["gpu_uuid"], row.sequence) for row in rows) == [
        (f"GPU-{i}", sequence) for i in (0, 1) for sequence in range(1, 201)
    ]
    assert sound(path)


def test_a_reader_sees_a_run_that_is_going_on(tmp_path: Path) -> None:
    with open_records(tmp_path / "r.db") as writer:
        run = writer.start_run(ENVIRONMENT, "measure")
        writer.add(run, case(1), Result("ok", None, TIMING))
        with open_records(tmp_path / "r.db", read_only=True) as reader:
            assert len(list(reader.rows())) == 1
            with pytest.raises(BadInputError, match="cannot use"):
                reader.add(run, case(2), Result("ok", None, TIMING))
        writer.add(run, case(3), Result("ok", None, TIMING))
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.db"]


def test_a_file_cut_short_anywhere_is_told_from_records_and_left_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "whole.db", 40)
    whole = (tmp_path / "whole.db").read_bytes()
    path = tmp_path / "cut.db"
    lengths = [2, 15, 16, 99, 100, 511, 4095, 4096, 4097, len(whole) - 4096, len(whole) - 1]
    for length in [*lengths, *random.Random(1).sample(range(len(whole)), 10)]:
        path.write_bytes(whole[:length])
        for read_only in (True, False):
            with pytest.raises(BrokenFileError) as caught:
                open_records(path, read_only=read_only)
            assert "\n" not in str(caught.value)
            assert str(path) in str(caught.value)
            assert path.read_bytes() == whole[:length]


def test_a_page_overwritten_is_found_on_opening(tmp_path: Path) -> None:
    fill(tmp_path / "r.db", 40)
    damaged = bytearray((tmp_path / "r.db").read_bytes())
    damaged[3 * 4096 : 4 * 4096] = b"\x07" * 4096
    (tmp_path / "r.db").write_bytes(damaged)
    with pytest.raises(BrokenFileError, match="truncated or damaged"):
        open_records(tmp_path / "r.db")


def test_a_row_changed_by_something_else_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "r.db", 3)
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE results SET samples_s = '[1e-3,' WHERE id = 2")
    with open_records(tmp_path / "r.db") as records, pytest.raises(BrokenFileError, match="row 2 cannot be understood"):
        list(records.rows())


@pytest.mark.parametrize("read_only", [True, False])
def test_records_of_another_version_say_how_to_bring_them_over(tmp_path: Path, read_only: bool) -> None:
    fill(tmp_path / "r.db", 1)
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("PRAGMA user_version = 2")
    before = (tmp_path / "r.db").read_bytes()
    with pytest.raises(BrokenFileError, match=r"version 2, this is version 1.*records export"):
        open_records(tmp_path / "r.db", read_only=read_only)
    assert (tmp_path / "r.db").read_bytes() == before


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = (tmp_path / "r.db").read_bytes()
    with pytest.raises(BrokenFileError, match="not records"):
        open_records(tmp_path / "r.db")
    assert (tmp_path / "r.db").read_bytes() == before


def test_text_a_folder_an_empty_file_and_a_missing_place_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("m,n,k\n" * 1000)
    (tmp_path / "empty.db").touch()
    for name, read_only, wrong in [
        ("a.csv", False, BrokenFileError),
        ("empty.db", True, BrokenFileError),
        ("none.db", True, BadInputError),
        (".", False, BadInputError),
        ("none/r.db", False, BadInputError),
    ]:
        with pytest.raises(wrong):
            open_records(tmp_path / name, read_only=read_only)
    open_records(tmp_path / "empty.db").close()  # as a run killed before its first row leaves it


def full(path: Path, records: Records) -> int:
    """Add rows until it fails; return how many were added."""
    run = records.start_run(ENVIRONMENT, "measure")
    added = itertools.count()
    with pytest.raises(BadInputError, match=r"^[^\n]*What was recorded is safe$") as caught:
        while True:
            timing = Timing((1e-3 / 7,) * 50, 1, "warm", False, "good")
            records.add(run, case(next(added)), Result("ok", None, timing))
    print(caught.value)
    return next(added) - 1


def test_a_full_database_is_one_line_and_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_records(tmp_path / "r.db") as records:
        records._connection.execute("PRAGMA max_page_count = 30")
        added = full(tmp_path / "r.db", records)
        assert "the disk is full" in capsys.readouterr().out
    with open_records(tmp_path / "r.db") as records:
        assert len(list(records.rows())) == added > 0


FILL = "import sys; from pathlib import Path; from tests.bench.test_records import full, open_records\n" + (
    "with open_records(sys.argv[1]) as records: print(full(Path(sys.argv[1]), records))"
)


def test_a_limit_of_the_system_on_the_files_size_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    with child(limit + FILL, path) as process:
        said, wrong = process.communicate(timeout=60)
    assert process.returncode == 0, wrong
    with open_records(path) as records:
        assert len(list(records.rows())) == int(said.split()[-1]) > 0


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=400k none {tmp_path}"
    rights = [] if os.geteuid() == 0 else ["-r"]
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", *rights, "sh", "-c", mount], check=False).returncode
    ):
        pytest.skip("may not mount a small disk of its own here")
    script = f'{mount} && {sys.executable} -c "$0" {tmp_path}/r.db && cp {tmp_path}/r.db* "$1"'
    with tempfile.TemporaryDirectory() as kept:
        done = subprocess.run(
            ["unshare", "-m", *rights, "sh", "-c", script, FILL, kept],
            cwd=ROOT, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "the disk is full" in done.stdout
        with open_records(Path(kept) / "r.db") as records:
            assert len(list(records.rows())) == int(done.stdout.split()[-1]) > 0


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions bind no root: be nobody for a while."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_a_read_only_folder_is_one_line_and_can_still_be_read() -> None:
    folder = Path(tempfile.mkdtemp())  # not below pytest's, which nobody else may enter
    try:
        fill(folder / "r.db", 2)
        (folder / "r.db").chmod(0o444)
        folder.chmod(0o555)
        with unprivileged():
            for name in ("r.db", "new.db"):
                with pytest.raises(BadInputError, match="read-only"):
                    open_records(folder / name)
            with open_records(folder / "r.db", read_only=True) as records:
                assert len(list(records.rows())) == 2
        assert [entry.name for entry in folder.iterdir()] == ["r.db"]
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


MOUNTS = r"""overlay / overlay rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/local ext4 rw 0 0
//nas/share /mnt/my\040share cifs rw 0 0
alice@host: /mnt/ssh fuse.sshfs rw 0 0
/dev/sdc1 /mnt/ntfs fuseblk rw 0 0
10.0.0.1@tcp:/scratch /scratch lustre rw 0 0
/dev/sdd1 /scratch ext4 rw 0 0
"""


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/root/r.db", None),
        ("/home/alice/r.db", "nfs4"),
        ("/home/local/r.db", None),
        ("/home/locals/r.db", "nfs4"),  # beside the mount point, not below it
        ("/mnt/my share/a/r.db", "cifs"),
        ("/mnt/ssh/r.db", "fuse.sshfs"),
        ("/mnt/ntfs/r.db", None),
        ("/scratch/r.db", None),  # mounted over
    ],
)
def test_a_network_file_system_is_known_by_the_deepest_mount(path: str, kind: str | None) -> None:
    assert is_network_mount(Path(path), MOUNTS) == kind


def test_on_a_network_file_system_the_delete_journal_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "r.db", 2)  # begun on a local disk, with WAL
    monkeypatch.setattr("bench.records._network_type", lambda path: "nfs4")
    with open_records(tmp_path / "r.db") as records:
        assert records.journal == "delete"
        assert records.notice is not None
        assert "nfs4" in records.notice
        run = records.start_run(ENVIRONMENT, "measure")
        records.add(run, case(9), Result("ok", None, TIMING))
        assert records._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert not (tmp_path / "r.db-wal").exists()
        assert len(list(records.rows())) == 3


def test_a_local_disk_has_wal_and_nothing_to_say(tmp_path: Path) -> None:
    with open_records(tmp_path / "r.db") as records:
        assert (records.journal, records.notice) == ("wal", None)
