"""A measuring session end to end on the processor, with a suite that fails on demand and children that are killed."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.child import scrub
from advisor.errors import AdvisorError, BadInputError, UnknownNameError
from bench.case import Case
from bench.measure import summary_lines
from bench.progress import Progress, describe
from bench.records import Row, open_records
from bench.session import (
    Session,
    SessionOptions,
    Slot,
    Summary,
    choose_slots,
    device_environment,
    order_cases,
    parse_budget,
    share_of,
)
from bench.worker import measure as measure_case
from tests.bench.fake_suite import TIERS, be_the_only_suite, case, processes

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"fake": "tests.bench.fake_suite", "other": "tests.bench.fake_suite"}


@pytest.fixture(autouse=True)
def no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find no torch and no Triton: the session needs neither, and they start in half a second."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    for name in ("torch", "triton"):
        (folder / f"{name}.py").write_text(f'raise ModuleNotFoundError("No module named {name}", name="{name}")')
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Summary, list[Row], str]]:
    def call(*tiers: list[str], **options: Any) -> tuple[Summary, list[Row], str]:
        monkeypatch.setenv(TIERS, tiers_json(*tiers))
        said = io.StringIO()
        options = {"slots": (Slot("fake", 1),), "budget_s": 60.0, "smoke": True, "modules": MODULES} | options
        with open_records(tmp_path / "records.db") as records:
            summary = Session(SessionOptions(**options), records, Progress(said)).run()
            return summary, list(records.rows(kind="fake")), said.getvalue()

    return call


def tiers_json(*tiers: list[str]) -> str:
    numbers = iter(range(10_000))
    return json.dumps([[{"number": next(numbers), "what": what} for what in tier] for tier in tiers])


def outcomes(rows: list[Row]) -> dict[str, tuple[str, str | None]]:
    return {str(row.case.params["what"]): (row.result.status, row.result.reason) for row in rows}


def test_every_case_is_recorded_once_with_the_reference_before_and_after(measure, tmp_path: Path) -> None:
    summary, rows, said = measure(["ok", "noisy", "print", "skip"])
    assert (summary.ok, summary.noisy, summary.skipped, summary.failed, summary.left) == (3, 1, 1, 0, 0)
    assert summary.state == "complete"
    assert sorted(row.case.params["number"] for row in rows) == [0, 1, 2, 3]
    with open_records(tmp_path / "records.db", read_only=True) as records:
        references = list(records.rows(kind="reference"))
        (run,) = records.runs()
    assert [row.result.facts["after_cases"] for row in references] == [0, 4]
    assert (run.state, run.environment["device"]) == ("complete", "cpu")
    assert "a library that prints" not in said


def test_the_reference_is_timed_again_every_so_many_cases(measure, tmp_path: Path) -> None:
    measure(["ok"] * 5, reference_every=2)
    with open_records(tmp_path / "records.db", read_only=True) as records:
        assert [row.result.facts["after_cases"] for row in records.rows(kind="reference")] == [0, 2, 4, 5]


def test_a_session_whose_reference_became_slower_is_marked(tmp_path: Path) -> None:
    said = io.StringIO()
    with open_records(tmp_path / "records.db") as records:
        session = Session(SessionOptions(), records, Progress(said))
        session._run = records.start_run({"device": "cuda"}, "test")
        for after_cases, time_s in enumerate((1.0e-3, 1.01e-3, 1.05e-3)):  # 5 % at most, and 2 % are allowed
            timing = {"samples_s": [time_s], "calls_per_sample": 1, "mode": "warm", "graph": False, "quality": "good"}
            facts = {"drift": 0.0, "limit": 0.02}
            session._note_reference(
                "gemm", {"size": 4096, "timing": timing, "after_cases": after_cases, "facts": facts}
            )
        (note,) = records.notes(kind="drift")
    assert session.summary.drift == pytest.approx(0.05)
    assert note.data["text"].startswith("gemm: the reference became 5.0% slower")
    assert said.getvalue() == f"{note.data['text']}\n"


def test_a_case_that_fails_is_recorded_with_its_reason_and_the_sweep_goes_on(measure) -> None:
    summary, rows, said = measure(["raise"], ["abort"], ["oom"], ["exit"], ["nan"], ["fork"], ["ok"])
    found = outcomes(rows)
    assert found["raise"] == ("failed", "ValueError: K must be 8 or more")
    assert found["oom"] == ("failed", "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert found["exit"] == ("failed", "the child ended with exit code 3")
    status, reason = found["abort"]
    assert status == "failed"
    assert reason == "the child was ended by SIGABRT: libfake: GPU-? fell off the bus PCI-?"
    assert found["ok"] == ("ok", None)
    assert found["nan"] == ("failed", "not a time in seconds among the samples: (0.001, nan)")
    assert found["fork"] == ("failed", "the child ended with exit code 4")
    assert (summary.failed, summary.ok, summary.given_up) == (6, 1, [])
    assert "failed: fake number=0 raise: ValueError" in said


def test_a_case_that_hangs_is_killed_at_its_limit(measure) -> None:
    start_s = time.monotonic()
    _, rows, _ = measure(["hang"], ["ok"], case_limit_s=1.0)
    status, reason = outcomes(rows)["hang"]
    assert status == "failed"
    assert reason is not None and reason.startswith("no answer within 1 s")
    assert outcomes(rows)["ok"][0] == "ok"
    assert time.monotonic() - start_s < 30


def test_a_suite_whose_children_keep_ending_is_given_up_and_the_others_go_on(measure, monkeypatch) -> None:
    summary, rows, _ = measure(
        ["broken"], ["exit"], ["broken", "ok"], slots=(Slot("fake", 1), Slot("other", 1)), crash_limit=2
    )
    assert [line.partition(":")[0] for line in summary.given_up] == ["fake", "other"]
    assert summary.state == "failed"
    assert len(rows) == 4  # two of each suite
    assert summary.left == 4


def test_a_library_whose_cases_end_children_is_left_out_and_the_rest_of_the_suite_is_measured(
    measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = [[{"number": n, "what": "broken", "library": "ours"}] for n in range(5)]
    tiers[1:1] = [[{"number": 9, "what": "ok", "library": "theirs"}]]
    tiers += [[{"number": 10, "what": "ok", "library": "theirs"}, {"number": 11, "what": "ok"}]]
    monkeypatch.setattr(sys.modules[__name__], "tiers_json", lambda: json.dumps(tiers))
    summary, rows, said = measure()
    assert (summary.ok, summary.failed, summary.left, summary.state) == (3, 2, 3, "failed")
    assert summary.given_up == ["fake: 3 cases by ours left out, as such cases ended several children"]
    assert summary.given_up[0] in said
    assert len(rows) == 5


def test_a_first_child_slowed_by_a_cold_disk_takes_no_time_from_the_suites(measure, monkeypatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr("bench.session.share_of", lambda slots, left_s, starting_s: shares.append(starting_s) or 1.0)
    late = iter([30.0])  # only the first start is slow
    begin = Session._begin

    def slow_begin(self: Session, environment: dict[str, Any]) -> None:
        begin(self, environment)
        clock.offset_s += next(late, 0.0)

    class Clock(SimpleNamespace):
        offset_s = 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.offset_s

    clock = Clock()
    monkeypatch.setattr("bench.session.time", clock)
    monkeypatch.setattr(Session, "_begin", slow_begin)
    measure(["ok"], slots=(Slot("fake", 1), Slot("other", 1)), budget_s=600.0)
    assert max(shares) < 10


def test_children_that_cannot_even_start_end_the_session_with_the_reason(measure, tmp_path: Path) -> None:
    (tmp_path / "blocked" / "torch.py").write_text("raise SystemExit('torch: undefined symbol')")
    with pytest.raises(AdvisorError, match=r"3 children in a row could not start: .*exit code 1: torch: undefined sym"):
        measure(["ok"], slots=(Slot("fake", 1), Slot("other", 1)))


def test_without_triton_its_cases_are_skipped_with_the_cure(measure) -> None:
    _, rows, _ = measure(["triton", "ok"])
    assert outcomes(rows)["triton"] == ("skipped", "Triton is not installed: pip install 'batchwave[torch]'")


def test_the_budget_ends_a_session_and_resume_measures_exactly_the_rest(measure) -> None:
    first, rows, _ = measure(["sleep 0.05"] * 60, budget_s=3.0)
    assert first.state == "out_of_budget"
    assert first.ok + first.left == 60
    assert 0 < first.left < 60
    second, rows, _ = measure(["sleep 0.05"] * 60, budget_s=60.0, resume=True)
    assert (second.already_done, second.ok, second.left) == (first.ok, first.left, 0)
    assert len({row.case.key for row in rows}) == len(rows) == 60


def test_time_that_no_suite_claims_goes_to_those_with_cases_left(measure) -> None:
    slots = (Slot("fake", 1, at_most_s=0.3), Slot("other", 1, at_most_s=0.3))
    summary, _, _ = measure(["sleep 0.1"] * 8, slots=slots)
    assert (summary.ok, summary.left, summary.state) == (16, 0, "complete")


def test_a_case_cut_off_by_the_end_of_the_budget_is_no_failure(measure) -> None:
    summary, rows, _ = measure(["hang"], budget_s=3.0, overrun_s=0.0)
    assert (rows, summary.left, summary.state) == ([], 1, "out_of_budget")


def test_failed_cases_are_measured_again_only_on_request(measure) -> None:
    measure(["raise", "ok"])
    again, _, _ = measure(["raise", "ok"], resume=True)
    assert (again.rows, again.already_done) == (0, 2)
    again, _, _ = measure(["raise", "ok"], resume=True, retry_failed=True)
    assert (again.failed, again.ok, again.already_done) == (1, 0, 1)


def test_a_new_session_says_what_the_records_hold_already(measure) -> None:
    measure(["ok"])
    _, _, said = measure(["ok", "ok"])
    assert "1 of the cases are in" in said
    assert "--resume leaves them out" in said


def test_a_gpu_that_is_no_gpu_is_refused_before_anything_starts(measure) -> None:
    with pytest.raises(BadInputError, match="'gpu0' names no GPU to measure: auto, cuda:0, or a UUID"):
        measure(["ok"], gpu="gpu0")


# Killed from outside: the session is a process of its own.


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:

    def call(*options: str, tiers: str, records: Path = tmp_path / "records.db") -> subprocess.Popen[str]:
        script = "import sys; from tests.bench.test_session import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", script, "--records", str(records), "--smoke", *options],
            cwd=ROOT, env={**os.environ, TIERS: tiers}, text=True, errors="replace", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    with processes() as started:
        yield call


def main(argv: list[str]) -> int:
    """`bench measure` with the suite of this test."""
    from bench.__main__ import main as run

    be_the_only_suite()
    return run(["measure", *argv])


def rows_of(path: Path) -> list[Row]:
    try:
        with open_records(path, read_only=True) as records:
            return list(records.rows(kind="fake"))
    except AdvisorError:  # not there yet, or not begun
        return []


def wait_for_rows(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(rows_of(path)) < count:
        assert time.monotonic() < deadline, "no rows came"
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_kill_9_at_any_moment_loses_at_most_the_running_case_and_resume_continues(start, tmp_path: Path) -> None:
    tiers, path = tiers_json(["sleep 0.02"] * 60), tmp_path / "records.db"
    chooser = random.Random(4)
    before = 0
    for _ in range(3):
        process = start("--resume", tiers=tiers)
        wait_for_rows(path, before + 1)
        time.sleep(chooser.uniform(0.0, 0.25))
        (child,) = children_of(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while alive(child):
            assert time.monotonic() < deadline, "the child outlived its session"
            time.sleep(0.02)
        kept = len(rows_of(path))
        assert kept > before
        before = kept
    process = start("--resume", tiers=tiers)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{before} were there already, 0 left" in out
    assert len({row.case.key for row in rows_of(path)}) == len(rows_of(path)) == 60


@linux
def test_a_child_killed_at_any_moment_costs_one_case(start, tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    process = start("--new", tiers=tiers_json(["sleep 0.05"] * 40))
    wait_for_rows(path, 3)
    (child,) = children_of(process.pid)
    os.kill(child, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    failed = [row.result.reason for row in rows_of(path) if row.result.status == "failed"]
    assert failed == ["the child was ended by SIGKILL"]
    assert "39 measured, 1 failed, 0 skipped, 0 left" in out
    assert "--retry-failed" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_session_that_is_stopped_closes_the_records_and_says_how_to_go_on(start, tmp_path: Path, number) -> None:
    path = tmp_path / "records.db"
    process = start(tiers=tiers_json(["sleep 0.3"] * 40))
    wait_for_rows(path, 1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "--resume` measures what is left" in out
    assert "Traceback" not in err
    with open_records(path, read_only=True) as records:
        assert [run.state for run in records.runs()] == ["interrupted"]
    assert all(row.result.status == "ok" for row in rows_of(path))


def test_a_second_ctrl_c_does_not_wait_for_the_running_case(start, tmp_path: Path) -> None:
    process = start(tiers=tiers_json(["ok"], ["hang"]))
    wait_for_rows(tmp_path / "records.db", 1)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.3)
    start_s = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start_s < 5


def test_a_session_stopped_before_its_first_case_ends_at_once(start, tmp_path: Path) -> None:
    (tmp_path / "blocked" / "torch.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    process = start(tiers=tiers_json(["ok"]))
    deadline_s = time.monotonic() + 30
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < deadline_s and not children.read_text():
        time.sleep(0.05)
    start_s = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start_s < 5  # and not the ten seconds that a running case gets


def test_a_hangup_that_is_ignored_stops_nothing(start, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup: what is started inherits it
    try:
        process = start(tiers=tiers_json(["sleep 0.1"] * 10))
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_rows(tmp_path / "records.db", 1)
    os.kill(process.pid, signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(rows_of(tmp_path / "records.db")) == 10


def test_two_sessions_may_record_to_one_file(start, tmp_path: Path) -> None:
    both = [start("--new", tiers=tiers_json(["ok"] * 20)) for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    rows = rows_of(tmp_path / "records.db")
    assert len(rows) == 40
    assert len({row.run for row in rows}) == 2


def test_a_budget_too_small_for_one_case_is_said(start) -> None:
    process = start("--budget", "0.05s", tiers=tiers_json(["ok"]))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "a budget of 0.05 s is too small for one case" in err
    assert err.rstrip().endswith("give at least 30s")


def test_an_unknown_suite_names_the_known_ones(start) -> None:
    process = start("--suite", "gem", tiers="[]")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == "bench: unknown suite 'gem'. Known: fake, all.\n"


@linux
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("> /dev/full", 1, "bench: No space left on device: free some and run it again\n"),
        (">&-", 0, "fake: 1 case, at most "),
        ("2>&-", 0, ""),
    ],
)
def test_output_that_goes_nowhere_loses_no_measurement(tmp_path: Path, redirection: str, code: int, said: str) -> None:
    script = "import sys; from tests.bench.test_session import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", script, "--smoke", "--budget", "60s", "--records", str(tmp_path / "records.db")]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(line)} {redirection}"],
        cwd=ROOT, env={**os.environ, TIERS: tiers_json(["ok"])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(rows_of(tmp_path / "records.db")) == 1


@linux
def test_records_whose_name_is_no_utf_8_are_kept(start, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"gr\xfcn.db")
    process = start(tiers=tiers_json(["ok"]), records=path)
    process.communicate(timeout=30)
    assert process.returncode == 0
    with open_records(path, read_only=True) as records:
        assert "gr\ufffdn.db" in records.runs()[0].command


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--budget=", "'' is no budget of time"),
        ("--suite=", "unknown suite ''"),
        ("--seed=99999999999999999999", "a seed of 99999999999999999999 is none of 64 bits"),
        ("--retry-failed", "--retry-failed goes with --resume"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(start, option: str, message: str) -> None:
    process = start(option, tiers="[]")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.startswith(f"bench: {message}")
    assert err.count("\n") == 1


@linux
def test_a_folder_that_cannot_be_written_is_one_line(start) -> None:
    process = start(tiers=tiers_json(["ok"]), records=Path("/proc/sys/records.db"))  # not for root either
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.startswith("bench: cannot use /proc/sys/records.db: ")
    assert err.count("\n") == 1


# What is decided without a child.


def test_the_summary_says_why_most_of_what_was_skipped_was() -> None:
    summary = Summary(skipped=6, skipped_for=Counter({"needs 99 GiB": 1, "Triton is not installed": 5}))
    line = next(line for line in summary_lines(summary, Path("r.db"), "bench") if line.startswith("skipped"))
    assert line == "skipped: Triton is not installed (5); 1 for other reasons, which are in the records"


@pytest.mark.parametrize(
    ("error", "broken_context", "reason", "restart"),
    [
        (ValueError("K must be 8 or more"), False, "ValueError: K must be 8 or more", None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False, "RuntimeError: cuDNN error: CUDNN_", None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True, "RuntimeError: cuDNN error", "broken"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, "RuntimeError: CUDA", "broken"),
        (RuntimeError("CUDA error: out of memory"), False, "out of memory: CUDA error: out of memory", "fresh"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False, "out of memory: CUBLAS", "fresh"),
        (BadInputError("no configuration suits 8 x 8 x 8"), False, "no configuration suits 8 x 8 x 8", None),
    ],
)
def test_a_child_knows_when_it_cannot_go_on(
    error: Exception, broken_context: bool, reason: str, restart: str | None
) -> None:
    def run(case: Case, context: Any) -> None:
        raise error

    def synchronize() -> None:
        if broken_context:
            raise RuntimeError("CUDA error: unspecified launch failure")

    context = SimpleNamespace(device=SimpleNamespace(synchronize=synchronize))
    result, wanted = measure_case(SimpleNamespace(run=run), case(1), context)
    assert (result.status, wanted) == ("failed", restart)
    assert (result.reason or "").startswith(reason)


@pytest.mark.parametrize(
    ("text", "seconds"), [("8m", 480), ("90s", 90), ("1h", 3600), ("1h30m", 5400), ("45", 45), (" 1.5m ", 90)]
)
def test_a_budget_is_read_in_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "8 minutes", "-3m", "nan", "1e9h", "8m8m", "200h"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="is no budget of time: write it like 8m"):
        parse_budget(text)


def test_cases_are_shuffled_within_their_tier_by_the_seed_alone() -> None:
    tiers = [[case(i) for i in range(20)], [case(i) for i in range(15, 40)]]
    ordered = [c.params["number"] for c in order_cases(tiers, {case(3).key}, seed=1)]
    assert sorted(ordered[:19]) == [i for i in range(20) if i != 3]
    assert ordered[:19] != sorted(ordered[:19])
    assert sorted(ordered[19:]) == list(range(20, 40))  # what the first tier has is not measured again
    assert ordered == [c.params["number"] for c in order_cases(tiers, {case(3).key}, seed=1)]
    assert ordered != [c.params["number"] for c in order_cases(tiers, {case(3).key}, seed=2)]


def test_what_a_suite_leaves_of_its_share_goes_to_those_after_it() -> None:
    slots = (Slot("ceilings", 1, at_most_s=15), Slot("train", 3), Slot("gemm", 1))
    assert share_of(slots, 424, starting_s=8) == 15  # a fifth of 424 - 3 x 8 is 80 s; it needs no more than 15
    assert share_of(slots[1:], 401, starting_s=8) == pytest.approx(288.75)  # three quarters of 401 - 2 x 8
    assert share_of(slots[2:], 308, starting_s=8) == 300  # the last may have all
    assert share_of(slots, 20, starting_s=8) == 2  # too little for three: the first is measured all the same


def test_suites_run_in_the_order_of_their_worth_whatever_the_order_asked_in() -> None:
    known = ("gemm", "conv", "ceilings", "train", "new")
    assert [slot.suite for slot in choose_slots(["gemm,ceilings", "new"], known)] == ["ceilings", "gemm", "new"]
    assert [slot.suite for slot in choose_slots([], known)] == ["ceilings", "train", "gemm", "conv", "new"]
    assert choose_slots(["ceilings"], known)[0].at_most_s is None  # asked for alone it may take its time
    with pytest.raises(UnknownNameError, match=r"unknown suite 'gemn'. Nearest: gemm. Known: gemm, conv"):
        choose_slots(["gemn"], known)


@pytest.mark.parametrize(
    ("gpu", "visible", "expected"),
    [
        ("auto", "2,3", "2,3"),
        ("auto", None, None),
        ("cuda:1", None, "1"),
        ("cuda:1", "2,3", "3"),
        ("GPU-8f6e1a20-0000-4000-8000-000000000001", "2", "GPU-8f6e1a20-0000-4000-8000-000000000001"),
    ],
)
def test_the_gpu_asked_for_is_the_only_one_the_child_sees(gpu: str, visible: str | None, expected: str | None) -> None:
    environ: Mapping[str, str] = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert device_environment(gpu, environ).get("CUDA_VISIBLE_DEVICES") == expected


def test_a_gpu_that_is_hidden_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"cuda:2: CUDA_VISIBLE_DEVICES=0,1 shows 2 GPU\(s\), numbered from 0"):
        device_environment("cuda:2", {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_what_may_be_published_names_no_card_and_no_user() -> None:
    text = f"MIG-8f6e1a20-0000-4000-8000-000000000001/3/0 at 00000000:3B:00.0 in {Path.home()}/x.py"
    assert scrub(text) == "MIG-? at PCI-? in ~/x.py"


def test_a_case_in_words() -> None:
    params: dict[str, Any] = {"m": 4096, "n": 1024, "k": 512, "pass": "dgrad", "dtype": "fp16", "autotuned": True}
    assert describe(Case("gemm", "gemm", params)) == "gemm 4096x1024x512 dgrad fp16 autotuned"
    sizes = {"batch": 64, "c_in": 3, "c_out": 64, "height": 224, "width": 224, "kernel_h": 7, "kernel_w": 7}
    conv = Case("conv", "conv", {**sizes, "stride": 2, "dilation": 1, "pass": "wgrad"})
    assert describe(conv) == "conv 64x3x224x224 7x7 to 64 stride=2 wgrad"
    assert describe(Case("train", "train", {"model": "resnet50", "batch": 128})) == "train resnet50 batch=128"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_redrawn_and_no_colour_where_it_is_unwanted(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    terminal = _Terminal()
    progress = Progress(terminal, environ={"NO_COLOR": "1"})
    progress.show("gemm", "gemm 4096x1024x512 forward fp16 cublas cold", 8, 32, 125.4)
    drawn = terminal.getvalue()
    assert drawn == "\r\x1b[Kgemm [####............] 8/32  gemm 4096x1024x512  2:05 left"
    progress.note("a note")
    assert terminal.getvalue() == f"{drawn}\r\x1b[Ka note\n"
    coloured = _Terminal()
    Progress(coloured, environ={}).show("gemm", "x", 0, 1, 0.0)
    assert "\x1b[1mgemm\x1b[0m" in coloured.getvalue()


def test_a_narrow_terminal_gets_what_is_running_and_no_bar(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = _Terminal()
    Progress(terminal, environ={"NO_COLOR": "1"}).show("gemm", "gemm 4096x1024x512 forward", 8, 32, 125.4)
    assert terminal.getvalue() == "\r\x1b[Kgemm 8/32  gemm 4096x1024x51  2:05 left"


def test_what_is_no_terminal_gets_a_plain_line_every_ten_seconds() -> None:
    now = [0.0]
    stream = io.StringIO()
    progress = Progress(stream, environ={}, clock=lambda: now[0])
    progress.begin("gemm", 25, 100.0)
    for second in range(25):
        now[0] = float(second)
        progress.show("gemm", "x", second, 25, 100.0 - second)
    assert stream.getvalue() == "gemm: 25 cases, at most 1:40\ngemm 10/25, 1:30 left: x\ngemm 20/25, 1:20 left: x\n"
