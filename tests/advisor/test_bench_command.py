"""`advisor bench` as a user types it, and the child it starts whatever else is called bench."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import advisor.worker
import bench.compare
import bench.exchange
from advisor.cli import main
from advisor.worker import WorkerError, ask_worker, run_worker, worker_command, worker_script
from bench.measure import QUICK_SUITES
from bench.session import SLOTS
from bench.suites import SUITES

ROOT = Path(__file__).resolve().parents[2]
FAKE = """
import json, os, signal, sys, time
assert sys.argv[1:3] == ["--parent", str(os.getppid())]
what = sys.argv[3]
if what == "json": print(json.dumps(sys.argv[4:])); print("a note", file=sys.stderr)
if what == "text": print("no JSON")
if what == "fail": print("advisor: no such thing: try another", file=sys.stderr); sys.exit(int(sys.argv[4]))
if what == "die": os.kill(os.getpid(), signal.SIGKILL)
if what == "stop":
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CUDA sees no device, and the records are this test's own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ADVISOR_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package `advisor` whose worker does as it is told."""
    script = tmp_path / "advisor" / "_worker" / "bench" / "__main__.py"
    script.parent.mkdir(parents=True)
    script.write_text(FAKE)
    monkeypatch.setattr(advisor.worker, "__file__", str(tmp_path / "advisor" / "worker.py"))


def test_without_a_usable_gpu_it_says_so_in_one_line(no_gpu: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--gpu", "auto", "--suite", "ceilings"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("advisor: torch ")
    assert err.count("\n") == 1


def test_without_torch_it_says_what_to_install(
    no_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["bench"]) == 6
    assert capfd.readouterr().err == (
        "advisor: measuring needs torch (No module named torch): pip install 'batchwave[torch]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--suite gem", "unknown suite 'gem'. Nearest: gemm. Known: "),
        ("--budget soon", "'soon' is no budget of time: write it like 8m"),
        ("--gpu gpu0", "'gpu0' names no GPU to measure: auto, cuda:0, or a UUID"),
        ("--records /nowhere/at/all.db", "/nowhere/at does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    no_gpu: Path, capfd: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(["bench", *arguments.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_records_file_is_left_as_it_is(
    no_gpu: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"SQLite format 3\x00 and then nothing of the kind" * 40)
    before = path.read_bytes()
    assert main(["bench", "--records", str(path)]) == 5
    assert capfd.readouterr().err.count("\n") == 1
    assert path.read_bytes() == before


def test_a_miniature_on_the_processor_runs_from_measuring_to_comparing(
    no_gpu: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--smoke", "--suite", "ceilings", "--budget", "60s", "--seed", "1"]) == 0
    out, _ = capfd.readouterr()
    records, exported = no_gpu / "smoke.db", tmp_path / "records.jsonl.gz"  # apart from what a GPU measured
    assert " 0 failed, " in out
    assert f"records: {records}\n" in out
    assert main(["bench", "export", str(records), "--output", str(exported), "--anonymous"]) == 0
    assert main(["bench", "import", str(exported), str(tmp_path / "again.db")]) == 0
    capfd.readouterr()
    assert main(["bench", "compare", str(records), str(tmp_path / "again.db"), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert rows
    assert {row["verdict"] for row in rows} <= {"SAME", "AMBIGUOUS"}


@pytest.mark.parametrize(
    ("line", "measured", "commands"),
    [
        ("bench --quick", 0, ["measure", "fit"]),
        ("bench --quick --no-fit", 0, ["measure"]),
        ("bench --suite waves", 0, ["measure"]),  # of which nothing is fitted
        ("bench --suite waves,gemm", 0, ["measure", "fit"]),
        ("bench --quick", 130, ["measure"]),  # stopped: what is there is fitted when the user says so,
        ("bench fit", 0, ["fit"]),  # that is, like this
    ],
)
def test_what_was_measured_to_the_end_is_fitted(
    no_gpu: Path, monkeypatch: pytest.MonkeyPatch, line: str, measured: int, commands: list[str]
) -> None:
    called: list[tuple[str, ...]] = []

    def run(*arguments: str) -> int:
        called.append(arguments)
        return measured if arguments[0] == "measure" else 0

    monkeypatch.setattr("advisor.cli.bench.run_worker", run)
    assert main(line.split()) == measured
    assert [arguments[0] for arguments in called] == commands
    assert {arguments[1] for arguments in called} == {f"--records={no_gpu / 'records.db'}"}


def test_compare_is_given_what_was_asked(
    no_gpu: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "compare", "nothing.db", "nothing.jsonl", "--fail-on", "slower"]) == 2
    assert capfd.readouterr().err.startswith(f"advisor: {Path.cwd() / 'nothing.db'} does not exist")
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr("advisor.cli.bench.run_worker", lambda *words: called.append(words) or 0)
    line = "bench compare a.db --suite gemm --threshold 0.05 --changed --fail-on missing --format csv -o c.csv -- -b.db"
    assert main(line.split()) == 0
    words = (
        "compare --suite=gemm --fail-on=missing --threshold=0.05 --changed --format=csv --output=c.csv -- a.db -b.db"
    )
    assert called == [tuple(words.split())]


@pytest.mark.parametrize("command", ["compare", "export", "import"])
def test_a_wrong_line_is_answered_in_one_line(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", command]) == 2
    assert capfd.readouterr().err.endswith(f"See `advisor bench {command} --help`.\n")


def test_the_help_tells_the_figures_and_suites_that_the_child_has(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", "--help"]) == 0
    shown = capfd.readouterr().out
    assert f"[default: {bench.compare.THRESHOLD}]" in shown
    assert f"[default: {bench.compare.CONFIDENCE}]" in shown
    assert all(f"[{'|'.join(names)}]" in shown for names in (bench.compare.FAIL_ON, bench.compare.FORMATS))
    assert main(["bench", "export", "--help"]) == 0
    assert f"[{'|'.join(bench.exchange.FORMATS)}]" in capfd.readouterr().out
    assert main(["bench", "--help"]) == 0
    shown = capfd.readouterr().out
    assert [
        line.split()[0] for line in shown.splitlines() if line.startswith("    ") and line.split()[0] in SUITES
    ] == [slot.suite for slot in SLOTS]
    assert set(SUITES) == {slot.suite for slot in SLOTS}
    assert f"of --quick {', '.join(QUICK_SUITES)}]" in " ".join(shown.split())


def test_an_option_of_measuring_before_another_command_is_not_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--suite", "gemm", "compare", "a.db", "b.db"]) == 2
    assert capfd.readouterr().err == "advisor: options of compare are written after it. See `advisor bench --help`.\n"


def test_measuring_again_what_failed_goes_with_resuming(no_gpu: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--retry-failed"]) == 2
    assert capfd.readouterr().err == "advisor: --retry-failed goes with --resume. See `advisor bench --help`.\n"


def test_the_help_tells_the_exit_codes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "Exit codes: 0 done" in capfd.readouterr().out


def test_a_users_own_bench_and_kernels_in_the_current_folder_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bench", "kernels", "worker"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    for environment in ({}, {"PYTHONPATH": "."}, {"PYTHONPATH": os.pathsep}, {"PYTHONSAFEPATH": "1"}):
        done = subprocess.run(
            worker_command("--help"), env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "measure" in done.stdout


def test_the_child_of_an_installed_package_finds_it_and_its_own_folder_first(tmp_path: Path) -> None:
    site = tmp_path / "site"
    worker = site / "advisor" / "_worker"
    worker.mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "parent.py", "signals.py", "worker.py"):
        shutil.copy(ROOT / "advisor" / name, site / "advisor" / name)
    (worker / "bench").mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / "bench" / name, worker / "bench" / name)
    (worker / "bench" / "schemas.py").write_text(
        "import advisor, bench, sys\ndef main(argv): print(advisor.__file__, bench.__file__, sys.path[0])\n"
    )
    (site / "bench").mkdir()
    (site / "bench" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    script = "import sys; sys.path.insert(0, sys.argv[1]); from advisor.worker import run_worker; run_worker('schemas')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    expected = (site / "advisor" / "__init__.py", worker / "bench" / "__init__.py", worker)
    assert (done.stdout.split(), done.stderr) == ([str(path) for path in expected], "")


def test_a_bench_beside_an_installed_package_is_somebody_elses(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__main__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.setattr(advisor.worker, "__file__", str(tmp_path / "advisor" / "worker.py"))
    with pytest.raises(WorkerError, match="is missing, which is what measures: install batchwave anew"):
        worker_script()


def test_a_child_is_asked_for_json(fake: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask_worker("json", "--arch", "sm_90") == ["--arch", "sm_90"]
    assert capsys.readouterr().err == "a note\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("fail", "6"), 6, "no such thing: try another"),
        (("text",), 1, "`bench text` printed no JSON: 'no JSON"),
        (("die",), 137, "`bench die` ended without a word"),
    ],
)
def test_a_child_that_fails_is_an_error_with_its_last_line_and_exit_code(
    fake: None, arguments: tuple[str, ...], code: int, message: str
) -> None:
    with pytest.raises(WorkerError) as caught:
        ask_worker(*arguments)
    assert caught.value.exit_code == code
    assert str(caught.value).startswith(message)


def test_the_exit_code_of_the_child_is_the_commands(fake: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_worker("fail", "5") == 5
    assert run_worker("die") == 137
    assert run_worker("json") == 0
    assert json.loads(capfd.readouterr().out) == []


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_reaches_the_child_and_is_waited_for(fake: None, tmp_path: Path) -> None:
    script = (
        "import sys, advisor.worker; advisor.worker.__file__ = sys.argv[1];sys.exit(advisor.worker.run_worker('stop'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "advisor" / "worker.py")], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert time.monotonic() - start_s < 15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's doing")
def test_the_child_of_a_command_that_is_killed_ends_too(tmp_path: Path) -> None:
    inner = tmp_path / "inner.py"
    inner.write_text(
        "import os, signal, sys, time\nfrom advisor.parent import end_with\nend_with(os.getppid(), signal.SIGTERM)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, {str(inner)!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    start_s = time.monotonic()
    assert process.stdout.read() == ""  # ends when the last that holds the pipe does
    assert time.monotonic() - start_s < 30
    process.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
def test_a_signal_that_is_ignored_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    seen = {}

    class Process:
        def __init__(self, command: list[str]) -> None: ...
        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None: ...

        def wait(self) -> int:
            seen.update({number: signal.getsignal(number) for number in before})
            return 0

    monkeypatch.setattr(advisor.worker.subprocess, "Popen", Process)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        assert run_worker("measure") == 0
        assert seen[signal.SIGHUP] == signal.SIG_IGN
        assert seen[signal.SIGTERM] != before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in before} == before
