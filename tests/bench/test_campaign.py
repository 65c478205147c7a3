"""The campaign: a few small files that name nobody, within the budget, whatever happens to it."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advisor.errors import BadInputError
from bench.campaign import MOST_BYTES, MOST_FILES, SUFFIX, file_names, packed, prepare, within
from bench.case import Case, Result, Timing
from bench.exchange import Archive, archive_of, read_file, secrets_in
from bench.records import open_records
from bench.session import SessionOptions
from tests.bench.fake_suite import TIERS, be_the_only_suite, processes

ROOT = Path(__file__).resolve().parents[2]
UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    blocked = tmp_path / "blocked"  # children find no torch: they start in half a second, and need none
    blocked.mkdir()
    for name in ("torch", "triton"):
        (blocked / f"{name}.py").write_text(f'raise ModuleNotFoundError("No module named {name}", name="{name}")')

    def call(*options: str, tiers: list[list[str]]) -> subprocess.Popen[str]:
        numbers = iter(range(10_000))
        cases = [[{"number": next(numbers), "what": what} for what in tier] for tier in tiers]
        script = "import sys; from tests.bench.test_campaign import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", script, "--out", str(tmp_path / "out"), "--smoke", *options],
            cwd=ROOT, env={**os.environ, TIERS: json.dumps(cases), "PYTHONPATH": str(blocked)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    with processes() as started:
        yield call


def main(argv: list[str]) -> int:
    """`bench campaign` with a suite of tiny cases, its files written every tenth of a second."""
    from bench import campaign
    from bench.__main__ import main as run

    be_the_only_suite()
    campaign.FLUSH_S = 0.1
    return run(["campaign", *argv])


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_a_campaign_leaves_few_files_that_name_nobody(start, tmp_path: Path) -> None:
    process = start("--budget", "60s", tiers=[["ok", "skip", "abort"]])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert files(tmp_path / "out") == ["fake.jsonl.gz", "summary.json"]
    archive = read_file(tmp_path / "out" / "fake.jsonl.gz")
    assert sorted(row.result.status for row in archive.rows if row.case.kind == "fake") == ["failed", "ok", "skipped"]
    text = (tmp_path / "out" / "summary.json").read_text()
    assert secrets_in(text) == []
    summary = json.loads(text)
    assert summary["runs"][0]["state"] == "complete"
    assert summary["files"] == {"fake.jsonl.gz": (tmp_path / "out" / "fake.jsonl.gz").stat().st_size}
    assert str(tmp_path) not in text
    assert "1 measured, 1 failed, 1 skipped, 0 left" in out


def test_a_campaign_ends_within_its_budget_with_all_files_written(start, tmp_path: Path) -> None:
    start_s = time.monotonic()
    process = start("--budget", "6s", tiers=[["sleep 0.05"] * 1000])
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - start_s < 6
    assert process.returncode == 0
    rows = [row for row in read_file(tmp_path / "out" / "fake.jsonl.gz").rows if row.case.kind == "fake"]
    assert 0 < len(rows) < 1000
    assert f"{1000 - len(rows)} left" in out
    again = f"python -m bench campaign --out {tmp_path / 'out'} --smoke --budget 6s --resume"
    assert f"next: `{again}` measures what is left" in out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_campaign_that_is_killed_keeps_what_it_has_and_resumes(start, tmp_path: Path, number) -> None:
    tiers = [["sleep 0.02"] * 80]
    process = start("--budget", "60s", tiers=tiers)
    file = tmp_path / "out" / "fake.jsonl.gz"
    deadline = time.monotonic() + 30
    while not file.exists() or sum(row.case.kind == "fake" for row in read_file(file).rows) < 5:
        assert time.monotonic() < deadline, "no file came"
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    kept = {row.case.key for row in read_file(file).rows if row.case.kind == "fake"}
    assert 5 <= len(kept) < 80
    again = start("--budget", "60s", tiers=tiers)
    _, err = again.communicate(timeout=30)
    assert again.returncode == 2
    assert "holds a campaign (fake.jsonl.gz): go on with --resume, or name another folder" in err
    resumed = start("--budget", "60s", "--resume", tiers=tiers)
    out, err = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, err
    assert f"{80 - len(kept)} measured" in out
    rows = [row for row in read_file(file).rows if row.case.kind == "fake"]
    assert len(rows) == len({row.case.key for row in rows}) == 80


def test_what_was_measured_is_written_though_the_session_ends_in_an_error(start, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SUITE_LOST", str(tmp_path / "lost"))
    process = start("--budget", "60s", tiers=[["ok"], ["ok"], ["lose"], ["ok"]])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.splitlines()[-1] == "bench: the GPU fell off the bus"
    rows = [row for row in read_file(tmp_path / "out" / "fake.jsonl.gz").rows if row.case.kind == "fake"]
    assert [row.result.status for row in rows] == ["ok", "ok", "failed"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["runs"][0]["state"] == "failed"


def test_there_is_time_left_to_write_the_files() -> None:
    nine_minutes = within(SessionOptions(budget_s=540.0), spent_s=4.0)
    assert nine_minutes.budget_s == 524.0  # 540 - 4 - 12
    assert nine_minutes.overrun_s == pytest.approx(1.2)  # of the 12
    assert within(SessionOptions(budget_s=30.0), spent_s=1.0).budget_s == 25.5  # 30 - 1 - 3.5


def test_no_more_than_eight_files_whatever_the_number_of_suites() -> None:
    few = file_names(["ceilings", "train", "gemm"])
    assert few == {f"{name}{SUFFIX}": [name] for name in ("ceilings", "train", "gemm")}
    suites = [f"suite{i}" for i in range(12)]
    many = file_names(suites)
    assert len(many) + 1 == MOST_FILES
    assert [suite for members in many.values() for suite in members] == suites


def test_a_file_over_the_limit_loses_telemetry_before_rows_and_says_so(tmp_path: Path) -> None:
    with open_records(tmp_path / "records.db") as records:
        run = records.start_run({"gpu_uuid": UUID, "device": "cuda"}, "test")
        for number in range(40):
            timing = Timing((1e-3 * (number + 1),), 1, "warm", graph=False, quality="good")
            telemetry = {"before": {"noise": secrets.token_hex(500)}}  # cannot be packed to less than half
            case = Case("gemm", "gemm", {"m": number + 1})
            records.add(run, case, Result("ok", timing=timing, telemetry=telemetry))
        archive = archive_of(records)
    whole, left_out = packed(archive, ["gemm"])
    assert left_out is None
    bare, left_out = packed(archive, ["gemm"], most_bytes=len(whole) // 2)
    assert left_out is not None and left_out.endswith("so telemetry was left out")
    assert rows_in(bare, tmp_path).rows[-1].result.timing == archive.rows[-1].result.timing
    short, left_out = packed(archive, ["gemm"], most_bytes=len(bare) - 100)
    assert left_out is not None and "so telemetry and the last" in left_out
    assert 0 < len(rows_in(short, tmp_path).rows) < 40
    assert UUID.encode() not in whole


def rows_in(content: bytes, folder: Path) -> Archive:
    path = folder / f"part{SUFFIX}"
    path.write_bytes(content)
    return read_file(path)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"cannot write to .*file.*; name another folder with --out"):
        prepare(tmp_path / "file", resume=False)


@pytest.mark.gpu
def test_a_gpu_is_measured_from_a_plain_checkout_within_the_budget(tmp_path: Path) -> None:
    out = tmp_path / "out"
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "bench", "campaign", "--out", str(out), "--budget", "90s"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start_s < 90
    rows = read_file(out / f"ceilings{SUFFIX}").rows
    assert {row.environment["device"] for row in rows} == {"cuda"}
    assert any(row.result.status == "ok" and row.result.telemetry for row in rows)
    for path in out.iterdir():
        content = path.read_bytes()
        assert len(content) < MOST_BYTES
        assert secrets_in((gzip.decompress(content) if path.suffix == ".gz" else content).decode()) == []


def test_a_budget_that_only_writing_would_fill_is_too_small(start) -> None:
    process = start("--budget", "1s", tiers=[["ok"]])
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "bench: a budget of 1 s is too small for one case" in err
