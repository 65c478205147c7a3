from __future__ import annotations

import gzip
import json
import math
import re
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError, BadInputError, BrokenFileError, MissingDependencyError
from advisor.gpus.card import card_key
from bench.__main__ import main
from bench.case import Case, Plain, Result, Timing
from bench.exchange import (
    anonymised,
    archive_of,
    export_records,
    import_records,
    read_archive,
    read_file,
    secrets_in,
)
from bench.records import Records, open_records

NAMES = ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet"]
UUID = "GPU-3f2a9c1e-0b7d-4c55-9e21-6a8d7f10b2c3"
ENVIRONMENT: Mapping[str, Any] = {
    "gpu_name": "NVIDIA H200",
    "gpu_uuid": UUID,
    "capability": [9, 0],
    "power_limit_w": 700.0,
    "torch": "2.11.0",
    "method_version": 1,
    "allow_tf32": False,
}
SAMPLES = (1e-3 / 3, math.nextafter(1e-6, 1), 5e-324, 0.1 + 0.2, 12.0)


def fill(records: Records) -> None:
    run = records.start_run(ENVIRONMENT, "python -m bench measure --seed 7", seed=7, budget_s=540.0)
    params: dict[str, Plain] = {"m": 257, "n": 4096, "pass": "wgrad", "autotuned": True, "scale": 0.1, "tile": None}
    facts = {"kernels": [{"name": "void k<1, 2>(float*)", "grid": [132, 1, 1]}], "text": 'α, "β"\nγ'}
    telemetry = {"before": {"sm_hz": 1.98e9, "reasons": ["sw_power_cap"], "power_w": None}}
    records.add(
        run,
        Case("gemm", "gemm", params),
        Result("ok", None, Timing(SAMPLES, 5, "cold", True, "noisy", True), facts, telemetry),
    )
    records.add(
        run, Case("train", "train", {"model": "resnet50", "batch": 128}), Result("failed", "CUDA error:\r\n'x', \"y\"")
    )
    records.add(run, Case("train", "train", {"model": "resnet50", "batch": 129}), Result("failed", ""))
    records.add(run, Case("train", "train", {"model": "resnet50", "batch": 512}), Result("skipped", "needs 151 GiB"))
    records.add(run, Case("waves", "timeline", {"m": 1}), Result("ok", None, None, {"ctas": 117}))
    records.note(run, "drift", {"ratio": 1.0 / 3})
    records.finish_run(run, "complete")
    records.start_run({**ENVIRONMENT, "gpu_uuid": None}, "")


def exported(folder: Path, name: str) -> Path:
    with open_records(folder / "of.db") as records:
        fill(records)
        export_records(records, folder / name)
    return folder / name


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_changes_nothing_to_the_last_bit(tmp_path: Path, name: str) -> None:
    path = exported(tmp_path, name)
    with open_records(tmp_path / "of.db") as source, open_records(tmp_path / "to.db") as target:
        assert import_records(path, target) == 5
        assert archive_of(target) == archive_of(source)
        first = next(target.rows())
        assert first.result.timing is not None
        packed = struct.pack("<5d", *first.result.timing.samples_s)
        assert packed == struct.pack("<5d", *SAMPLES)
        assert import_records(path, target) == 0  # twice changes nothing
        assert archive_of(target) == archive_of(source)


_values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(params={}, facts={}, samples=[0.0], reason="\r", name="a.csv")
@given(
    params=st.dictionaries(_text, _values | _text, max_size=3),
    facts=st.dictionaries(_text, st.recursive(_values | _text, lambda inner: st.lists(inner, max_size=3)), max_size=3),
    samples=st.lists(st.floats(0, 1e9), min_size=1, max_size=4),
    reason=_text,
    name=st.sampled_from(NAMES),
)
def test_any_case_and_result_come_back_as_they_went(
    tmp_path: Path, params: dict[str, Any], facts: dict[str, Any], samples: list[float], reason: str, name: str
) -> None:
    results = [
        Result("ok", None, Timing(tuple(samples), 1, "warm", False, "short"), facts),
        Result("failed", reason, None, {}, facts),
    ]
    (tmp_path / "of.db").unlink(missing_ok=True)
    with open_records(tmp_path / "of.db") as records:
        run = records.start_run({}, reason)
        for result in results:
            records.add(run, Case("s", "k", params), result)
        export_records(records, tmp_path / name)
    found = read_file(tmp_path / name)
    assert [row.result for row in found.rows] == results
    assert [row.case for row in found.rows] == [Case("s", "k", params)] * 2
    assert found.runs[0].command == reason


def test_parts_by_suite_are_imported_one_by_one(tmp_path: Path) -> None:
    with open_records(tmp_path / "of.db") as source, open_records(tmp_path / "to.db") as target:
        fill(source)
        for suite, count in [("gemm", 1), ("train", 3), ("waves", 1)]:
            path = tmp_path / f"{suite}.jsonl.gz"
            assert export_records(source, path, suites=[suite]) == count
            assert import_records(path, target) == count
        assert {row.case.key for row in target.rows()} == {row.case.key for row in source.rows()}
        assert target.notes() == source.notes()


def test_a_run_exported_while_it_went_on_is_brought_up_to_date(tmp_path: Path) -> None:
    with open_records(tmp_path / "of.db") as source, open_records(tmp_path / "to.db") as target:
        run = source.start_run(ENVIRONMENT, "measure")
        for m, state in [(1, None), (2, "complete")]:
            source.add(run, Case("gemm", "gemm", {"m": m}), Result("skipped", "x"))
            if state:
                source.finish_run(run, "complete")
            export_records(source, tmp_path / "a.jsonl")
            assert import_records(tmp_path / "a.jsonl", target) == 1
        assert archive_of(target) == archive_of(source)


def test_another_content_under_the_same_name_is_refused_whole(tmp_path: Path) -> None:
    path = exported(tmp_path, "a.jsonl")
    with open_records(tmp_path / "of.db") as target:
        before = archive_of(target)
        path.write_text(path.read_text().replace('"m":257', '"m":258'))
        with pytest.raises(BrokenFileError, match=r"row 1 of run .* with other content"):
            import_records(path, target)
        assert archive_of(target) == before


# Nothing that names a card, a machine or a person

SECRETS = [UUID, UUID[4:], "1320423001234", "00000000:65:00.0", "65:00.0", "lab-node-7", "alice"]


def with_secrets(records: Records) -> None:
    environment = {
        **ENVIRONMENT,
        "serial": "1320423001234",
        "pci_bus_id": "00000000:65:00.0",
        "hostname": "lab-node-7",
        "pcie_generation": 5,
        "driver": "570.86.15",
    }
    program = "/home/alice/batchwave/bench/__main__.py"
    command = f"python {program} measure --out=/home/alice/runs/x.db --gpu {UUID} runs/alice/y.db"
    run = records.start_run(environment, command)
    reason = f'CUDA error on {UUID} at 00000000:65:00.0\n  File "/home/alice/lib/torch/cuda/graphs.py", line 12'
    facts = {"kernels": [{"name": "nvjet_hsh_128x256"}], "log": "/home/alice smith/x.log", "bytes": 2**31}
    telemetry = {"before": {"uuid": UUID[4:], "serial_number": "1320423001234", "sm_hz": 1.98e9, "gpu": "65:00.0"}}
    timing = Timing(SAMPLES, 1, "cold", False, "good")
    records.add(run, Case("gemm", "gemm", {"m": 8}), Result("ok", None, timing, facts, telemetry))
    records.add(run, Case("gemm", "gemm", {"m": 9}), Result("failed", reason))
    records.note(run, "processes", {"text": f"pid 7 of {UUID} runs /home/alice/a.py", "username": "alice"})


@pytest.mark.parametrize("name", NAMES)
def test_an_anonymous_export_holds_no_secret_and_loses_no_time(tmp_path: Path, name: str) -> None:
    with open_records(tmp_path / "of.db") as records:
        with_secrets(records)
        export_records(records, tmp_path / name, anonymous=True)
        open_ = archive_of(records)
    hidden = read_file(tmp_path / name)
    text = repr(hidden) if name.endswith("parquet") else gzip_or_plain(tmp_path / name)
    assert [secret for secret in SECRETS if secret in text] == []
    assert secrets_in(text) == []
    assert [row.case for row in hidden.rows] == [row.case for row in open_.rows]
    assert [row.result.timing for row in hidden.rows] == [row.result.timing for row in open_.rows]
    first = hidden.rows[0]
    assert first.environment["gpu_uuid"] == card_key(UUID) == first.result.telemetry["before"]["uuid"]
    assert (first.environment["driver"], first.environment["pcie_generation"]) == ("570.86.15", 5)
    assert first.result.facts["kernels"] == [{"name": "nvjet_hsh_128x256"}]
    assert first.result.telemetry["before"]["sm_hz"] == 1.98e9
    assert hidden.runs[0].command == f"python __main__.py measure --out=x.db --gpu {card_key(UUID)} y.db"
    assert hidden.rows[1].result.reason is not None
    assert 'File "graphs.py", line 12' in hidden.rows[1].result.reason
    assert anonymised(hidden) == hidden


def gzip_or_plain(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def test_this_machines_name_is_hidden_in_free_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "lab-node-7")
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    with open_records(tmp_path / "of.db") as records:
        run = records.start_run({}, "ssh alice@lab-node-7 measure")
        records.add(run, Case("gemm", "gemm", {}), Result("failed", "lab-node-7: malice"))
        (found,) = anonymised(archive_of(records)).rows
    assert found.result.reason == "host: malice"


def test_secrets_are_found_where_they_were_left() -> None:
    assert secrets_in('{"serial":"1","uuid":"card-0123456789abcdef","pcie_generation":4}') == ["serial"]
    assert secrets_in(f"x {UUID.upper()} y") == [UUID.upper()]
    assert secrets_in("2026-11-21T11:25:15.123+00:00 nvjet_hsh_128x256_64x4 [132,1,1] 0.00012:34") == []


# Untrusted input


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def refused(path: Path, said: str) -> None:
    """It must be one line that names the file, and leave no trace."""
    with open_records(path.parent / "to.db") as target:
        with pytest.raises(AdvisorError) as caught:
            import_records(path, target)
        assert target.runs() == []
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert re.search(said, text), text


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = exported(tmp_path, name)
    whole = path.read_bytes()
    last_line = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in {0, 1, len(whole) // 3, len(whole) // 2, last_line, len(whole) - 9}:
        path.write_bytes(whole[:length])
        refused(path, "truncated|not Parquet|not JSON|not the columns|not gzip|is not an export")


def _edit(index: int, name: str, value: object) -> Callable[[list[dict[str, Any]]], None]:
    def edit(lines: list[dict[str, Any]]) -> None:
        lines[index][name] = value

    return edit


@pytest.mark.parametrize(
    "edit, said",
    [  # line 1 is the header, 2 and 3 the runs, 4 to 8 the results, 9 the note
        (_edit(0, "version", 2), "version 1 .it says 2"),
        (_edit(0, "format", "other"), "not an export of records"),
        (_edit(1, "run", "../../etc"), "line 2: run is '../../etc': not a run's id"),
        (_edit(2, "at", "yesterday"), "line 3: at is 'yesterday'"),
        (_edit(1, "seed", 2**64), "line 2: seed"),
        (_edit(1, "state", "done"), "line 2: state is 'done': not one of running, complete"),
        (_edit(3, "samples_s", [1e-3, "1e-3"]), "line 4: samples_s .* '1e-3' is not a time"),
        (_edit(3, "samples_s", [-1.0]), "line 4: samples_s"),
        (_edit(3, "samples_s", []), "line 4: samples_s is ..: no sample"),
        (_edit(3, "samples_s", None), "line 4: .* a timing without its samples"),
        (_edit(3, "params", {"m": [1]}), "line 4: params"),
        (_edit(3, "params", [1]), "line 4: params .* not an object"),
        (_edit(3, "mode", "hot"), "line 4: mode is 'hot': not one of cold, warm"),
        (_edit(3, "mode", {}), "line 4: mode"),
        (_edit(3, "graph", 1), "line 4: graph is 1: not true or false"),
        (_edit(3, "calls_per_sample", True), "line 4: calls_per_sample"),
        (_edit(4, "sequence", 1), "line 5: sequence .* a second result"),
        (_edit(4, "run", "other"), "line 5: run is 'other': no entry above"),
        (_edit(4, "status", "ko"), "line 5: status"),
        (_edit(4, "reason", 5), "line 5: reason is 5: not text"),
        (_edit(8, "record", "query"), "line 9: record is 'query'"),
        (_edit(9, "sequence", 3), "truncated"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(
    tmp_path: Path, edit: Callable[[list[dict[str, Any]]], None], said: str
) -> None:
    path = exported(tmp_path, "a.jsonl")
    lines = lines_of(path)
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused(path, said)


@pytest.mark.parametrize(
    "text, said",
    [
        ("[" * 100_000, "nested too deep|not JSON"),
        ('{"format":"batchwave records","version":1}\n{"a":NaN}\n', "line 2: not JSON .NaN"),
        ('{"format":"batchwave records","version":1}\n7\n', "entry 2: not an object"),
        ('{"format":"batchwave records","version":1}\n{"a":' + "9" * 5000 + "}\n", "not JSON|truncated"),
        ("null\n", "not an export"),
        ("\x80", "line 1: not JSON"),
    ],
)
def test_what_is_not_an_export_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    refused(path, said)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "a.csv", "not text in UTF-8")


def test_a_tables_row_must_agree_with_its_run_and_its_columns(tmp_path: Path) -> None:
    path = exported(tmp_path, "a.csv")
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3].replace("2.11.0", "2.12.0"), *lines[4:]]))
    refused(path, r"line 4: environment is .*: not that of its run")
    path.write_text(whole.replace("samples_s", "samples_ms", 1))
    refused(path, r"\(missing: samples_s\)")
    path.write_text(whole.replace("\n1,result", "\n2,result", 1))
    refused(path, "version 1 .it says 2")
    path.write_text("".join([*lines[:3], lines[3].replace(",5,cold", ",5.0,cold"), *lines[4:]]))
    refused(path, "calls_per_sample is 5.0: not a whole number")


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.exchange._MAX_BYTES", 2**20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b" " * 2**22))
    refused(tmp_path / "a.jsonl.gz", "more than 1 MiB; import it in parts")


def test_another_programs_parquet_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"m": [1, 2]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "not the columns")


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        open_records(tmp_path / "of.db") as records,
        pytest.raises(MissingDependencyError, match=r"batchwave\[parquet\]"),
    ):
        export_records(records, tmp_path / "a.parquet")


def test_a_name_that_tells_no_format_and_a_place_that_is_not_there_are_said(tmp_path: Path) -> None:
    with open_records(tmp_path / "of.db") as records:
        for name in ("a.txt", "a", "a.parquet.gz"):
            with pytest.raises(BadInputError, match="tells no format"):
                export_records(records, tmp_path / name)
        with pytest.raises(BadInputError, match="none of jsonl"):
            export_records(records, tmp_path / "a", "yaml")
        with pytest.raises(BadInputError, match="cannot write"):
            export_records(records, tmp_path / "none" / "a.jsonl")
        with pytest.raises(BadInputError, match="cannot read"):
            import_records(tmp_path / "none.jsonl", records)
        assert export_records(records, tmp_path / "a.txt", "csv") == 0


# The command


def test_the_command_takes_records_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_records(tmp_path / "of.db") as records:
        with_secrets(records)
        whole = archive_of(records)
    path = str(tmp_path / "a.jsonl.gz")
    assert main(["records", "export", str(tmp_path / "of.db"), "--output", path, "--anonymous"]) == 0
    assert main(["records", "import", path, str(tmp_path / "to.db")]) == 0
    assert "2 of 2 measurements were new" in capsys.readouterr().err
    assert read_archive(tmp_path / "to.db") == anonymised(whole) == read_archive(path)


def test_a_command_on_a_broken_file_says_so_in_one_line_and_begins_no_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("m,n\n")
    assert main(["records", "import", str(tmp_path / "a.csv"), str(tmp_path / "to.db")]) == 5
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "to.db").exists()


def test_published_records_name_no_card_machine_or_person() -> None:
    folder = Path(__file__).parents[2] / "reports" / "data"
    published = sorted(path for path in folder.rglob("*") if path.name.endswith((".jsonl.gz", ".json")))
    if not published:
        pytest.skip("no records have been published yet")
    for path in published:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        assert secrets_in(text) == [], path.name
