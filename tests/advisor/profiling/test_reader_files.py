from __future__ import annotations

import gzip
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest

from advisor.errors import BadInputError, BrokenFileError
from advisor.profiling.reading import files, reader
from advisor.profiling.reading.files import last_captures, trace_files
from advisor.profiling.reading.reader import read_trace
from tests.kineto import KinetoTrace


def content(kernels: int = 3, rank: int | None = None) -> bytes:
    trace = KinetoTrace(rank=rank)
    for n in range(kernels):
        trace.kernel(f"kernel {n}", 10 * n, 5, launched=10 * n + 1)
    return json.dumps(trace.document()).encode()


def refusal(path: Path, kind: type[Exception] = BrokenFileError) -> str:
    with pytest.raises(kind) as caught:
        read_trace(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def packed(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "t.json.zip", "t.pt.trace.json.gz"])
def test_plain_gzip_and_zip_files_are_read(tmp_path: Path, name: str) -> None:
    trace = KinetoTrace()
    trace.kernel("k", 1, 2)
    assert len(read_trace(trace.write(tmp_path / name)).kernels.name) == 1


def test_what_a_file_is_follows_from_its_content_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(gzip.compress(content()))
    assert len(read_trace(path).kernels.name) == 3


def test_gzip_members_one_after_another_and_padding_are_one_file(tmp_path: Path) -> None:
    whole = content()
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(whole[:100]) + gzip.compress(whole[100:]) + b"\0" * 1000)
    assert len(read_trace(path).kernels.name) == 3


@pytest.mark.parametrize("window", [1, 7, 64, 2**23])
@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zip"])
def test_a_file_cut_anywhere_is_refused_or_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, suffix: str
) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", window)
    whole = content(2)
    if suffix == ".json.gz":
        whole = gzip.compress(whole)
    elif suffix == ".json.zip":
        whole = packed(tmp_path / "whole.zip", ("a", whole)).read_bytes()
    path = tmp_path / f"trace{suffix}"
    for stop in range(1, len(whole), 1 if window > 64 else 37):
        path.write_bytes(whole[:stop])
        refusal(path)


def test_a_cut_file_tells_where_it_ends_and_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    whole = content(4)
    path.write_bytes(whole[:-50])
    message = refusal(path)
    assert f"is cut off: it ends at byte {len(whole) - 50} of its JSON after 7 whole events" in message
    path.write_bytes(gzip.compress(whole)[:-4])
    assert f"is cut off: it ends at byte {len(whole)} of its JSON after 8 whole events" in refusal(path)


def test_a_gzip_file_with_a_wrong_sum_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    data = bytearray(gzip.compress(content()))
    data[-6] ^= 1
    path.write_bytes(data)
    assert "packed data are damaged" in refusal(path)
    path.write_bytes(b"\x1f\x8b" + os.urandom(100))
    assert "packed data are damaged" in refusal(path)
    path.write_bytes(gzip.compress(content()) + b"more")
    assert "packed data are damaged" in refusal(path)


def test_a_zip_file_with_a_wrong_sum_is_damaged(tmp_path: Path) -> None:
    path = packed(tmp_path / "t.zip", ("t.json", content()), method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"kernel 1")] ^= 1
    path.write_bytes(data)
    assert "packed data are damaged" in refusal(path)


def test_a_zip_file_must_hold_one_trace(tmp_path: Path) -> None:
    two = packed(tmp_path / "two.zip", ("a.json", content()), ("b.json", content()))
    assert "zip file of 2 files, expected one; unpack it and give the folder" in refusal(two)
    none = packed(tmp_path / "none.zip")
    assert "zip file of 0 files" in refusal(none)
    of_a_mac = packed(tmp_path / "mac.zip", ("../../etc/passwd", content()), ("__MACOSX/._x", b"x"))
    assert len(read_trace(of_a_mac).kernels.name) == 3
    assert not (tmp_path / "../../etc/passwd").exists()


def test_a_member_without_a_name_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "t.zip", ("x", content()))
    data = bytearray(path.read_bytes())
    for at in (data.index(b"PK\x03\x04") + 26, data.index(b"PK\x01\x02") + 28):
        struct.pack_into("<HH", data, at, 0, 1)  # the name's byte becomes the extra field's
    path.write_bytes(data)
    assert len(read_trace(path).kernels.name) == 3


def test_an_encrypted_or_oddly_packed_zip_file_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "t.zip", ("t.json", content()))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # general purpose flag of the directory's entry
    path.write_bytes(data)
    assert "encrypted" in refusal(path)
    assert "uncommon method" in refusal(packed(tmp_path / "b.zip", ("t", content()), method=zipfile.ZIP_BZIP2))


def test_a_zip_file_of_a_huge_directory_is_refused_unread(tmp_path: Path) -> None:
    path = packed(tmp_path / "t.zip", ("t.json", content()))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 2**30)
    path.write_bytes(data)
    assert "very many files" in refusal(path)


def test_a_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 2**30)
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(b" " * 2**24) * 70)
    assert "unpacks to more than 1 GiB, the limit" in refusal(path)


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is empty"),
        (b"   \n", "is cut off"),
        (b"hello", "is no JSON (it begins with 'hello')"),
        (b"\x0a\x05\x01\x02 pftrace", "is no JSON"),
        (b"12", "is no JSON"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"(\xb5/\xfd....", "zstd"),
        (b"SQLite format 3\0", "Nsight"),
        (b"{}", "JSON without a list of traceEvents (its keys: none)"),
        (b'{"a": 1, "b": [1]}', "its keys: 'a', 'b'"),
        (b'{"traceEvents": {}}', "without a list of traceEvents"),
        (b'{"traceEvents": []}', "holds no events"),
        (b"[]", "holds no events"),
        (b"[1, 2]", "not of trace events"),
        (b'[{"a": 1}]', "not of trace events"),
        (b'{"traceEvents": [{"ph": "X"}], "traceEvents": []}', "two lists of traceEvents"),
        (b'{"traceEvents": [{"ph": "X"}]} {', "goes on after its end, at byte 31"),
        (b'[{"ph": "X"}]]', "goes on after its end"),
        (b'[{"ph": "X"}}', "broken JSON at byte 12"),
        (b'{"traceEvents" [', "broken JSON at byte 15"),
        (b"{traceEvents: []}", "broken JSON at byte 1 ('traceEvents:')"),
        (b'{"a": 1; "b"', "is cut off"),
        (b'{"\\ud800": 1}', "broken JSON"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(data)
    assert said in refusal(path)


def test_an_event_without_an_end_is_refused_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_ELEMENT_BYTES", 2**20)
    monkeypatch.setattr(reader, "WINDOW_BYTES", 2**16)
    path = tmp_path / "trace.json"
    for endless in (b'"' + b"a" * 2**22, b"[" * 2**22, b" " * 2**22, b"\\" * 2**22, b'{"a":' * 2**20):
        for head in (b'{"traceEvents": [', b'{"other": '):
            path.write_bytes(head + endless)
            assert "one entry of more than 1 MiB (the limit)" in refusal(path)


def test_deep_nesting_costs_its_event_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    deep = (
        b'{"ph":"X","cat":"kernel","name":"deep","ts":1,"dur":1,"args":{"device":' + b"[" * 10**6 + b"]" * 10**6 + b"}}"
    )
    path.write_bytes(b"[" + deep + b',{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":1}]')
    raw = read_trace(path)
    assert len(raw.kernels.name) == 1
    assert "1 of 2 events left out, as unreadable" in raw.notes[0]


def test_too_many_unreadable_events_or_keys_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.json"
    monkeypatch.setattr(reader, "MOST_UNREADABLE", 10)
    path.write_bytes(b"[" + b"," * 100 + b"]")
    assert "more than 10 events that cannot be read" in refusal(path)
    path.write_bytes(b'{"a":1' + b',"a":1' * 10_001 + b"}")
    assert "more than 10000 entries" in refusal(path)
    monkeypatch.setattr(reader, "MOST_EVENTS", 5)
    path.write_bytes(b"[{}" + b",{}" * 9 + b"]")
    assert "more than 5 events, the limit" in refusal(path)


def test_a_path_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    assert "no trace" in refusal(tmp_path / "absent.json", BadInputError)
    assert "is a folder" in refusal(tmp_path, BadInputError)
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    assert "no regular file" in refusal(pipe, BadInputError)
    with pytest.raises(BadInputError, match="no regular file"):
        read_trace(Path("/dev/zero"))
    with pytest.raises(BadInputError, match="cannot open trace"):
        read_trace(Path("a\0b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content())
    path.chmod(0)
    assert "Permission denied" in refusal(path, BadInputError)


def test_a_folders_traces_come_by_rank(tmp_path: Path) -> None:
    for name in ("trace_rank10.json", "rank-2.json.gz", "Rank_0.json.zip", "notes.txt", ".rank1.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "rank3.json").mkdir()
    assert [p.name for p in trace_files(tmp_path)] == ["Rank_0.json.zip", "rank-2.json.gz", "trace_rank10.json"]


def test_ranks_are_read_from_the_files_where_names_do_not_tell(tmp_path: Path) -> None:
    for name, rank in (("a.pt.trace.json.gz", 2), ("b.pt.trace.json.gz", 0), ("c10.json", None), ("c9.json", None)):
        data = content(1, rank)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert [p.name for p in trace_files(tmp_path)] == [
        "b.pt.trace.json.gz",
        "a.pt.trace.json.gz",
        "c9.json",
        "c10.json",
    ]


def test_a_path_without_traces_is_said(tmp_path: Path) -> None:
    assert trace_files(tmp_path / "any.json") == [tmp_path / "any.json"]
    with pytest.raises(
        BadInputError, match=r"holds no trace: expected files named \*\.json, \*\.json\.gz, \*\.json\.zip"
    ):
        trace_files(tmp_path)


def test_of_several_captures_of_a_process_the_last_is_kept_and_that_is_said(tmp_path: Path) -> None:
    names = [f"host_123.{time}.pt.trace.json" for time in (1700000000000000009, 1700000000000000010)]
    files = [tmp_path / name for name in (*reversed(names), "host_124.1700000000000000001.pt.trace.json")]
    for file in files:
        file.write_text("[]")
    kept, notes = last_captures(files)
    assert kept == [files[0], files[2]]
    assert notes == (f"2 captures of one process (host_123); the last is profiled, {names[1]}",)


def test_ranks_of_one_name_are_no_captures_of_one_process(tmp_path: Path) -> None:
    files = [tmp_path / f"worker.170000000000000000{rank}.pt.trace.json" for rank in range(2)]
    for rank, file in enumerate(files):
        file.write_text(f'{{"distributedInfo": {{"rank": {rank}}}, "traceEvents": []}}')
    assert last_captures(files) == (files, ())
