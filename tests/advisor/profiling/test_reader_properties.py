from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading import reader
from advisor.profiling.reading.jsontext import repaired, split
from advisor.profiling.reading.reader import read_trace
from tests.kineto import KinetoTrace

hostile = st.text(alphabet=st.sampled_from('{}[],:"\\ \n\tab\x7fé☃😀'), max_size=12)
junk: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | hostile,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=6,
)
kernels = st.builds(
    lambda name, start, duration, correlation, grid, other: {
        "ph": "X", "cat": "kernel", "name": name, "ts": start, "dur": duration,
        "args": {"list": [{}, {"},{": other}], "correlation": correlation, "grid": grid},
    },
    hostile, st.integers(0, 10**6), st.integers(0, 1000), st.integers(0, 2**40),
    st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), junk,
)  # fmt: skip
others = st.builds(lambda name, more: {"ph": "i", "name": name, "args": {"x": more}, "ts": 1}, hostile, junk)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False, "indent": 2}])


def read_bytes(data: bytes, *, window: int = 2**23, guess: int = 2**16, suffix: str = ".json") -> RawTrace:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"trace{suffix}")
        path.write_bytes(data)
        with patch.object(reader, "WINDOW_BYTES", window), patch.object(reader, "_GUESS_BYTES", guess):
            return read_trace(path)


@given(
    st.lists(kernels | others, min_size=1, max_size=8), layouts, st.integers(1, 400), st.integers(1, 300),
    st.dictionaries(hostile, junk, max_size=2), st.dictionaries(hostile, junk, max_size=2), st.booleans(),
)  # fmt: skip
def test_any_split_into_windows_gives_what_json_has(
    entries: list[dict[str, Any]], layout: Any, window: int, guess: int, before: Any, after: Any, bare: bool
) -> None:
    document = entries if bare else {**before, "traceEvents": entries, **after}
    raw = read_bytes(json.dumps(document, **layout).encode(), window=window, guess=guess)
    wanted = [e for e in entries if e.get("cat") == "kernel"]
    wanted.sort(key=lambda e: (e["ts"], -e["dur"]))
    k = raw.kernels
    assert raw.events == len(entries)
    assert [raw.names[name] for name in k.name] == [e["name"] for e in wanted]
    assert (k.start_us + raw.origin_us).tolist() == [e["ts"] for e in wanted]
    assert k.duration_us.tolist() == [e["dur"] for e in wanted]
    assert k.correlation.tolist() == [e["args"]["correlation"] for e in wanted]
    assert k.grid.tolist() == [e["args"]["grid"] for e in wanted]


def plain_split(text: str) -> tuple[list[int], int]:
    """One character after another."""
    commas, depth, in_string, escaped = [], 0, False, False
    for at, character in enumerate(text):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth < 0:
                return commas, at
        elif character == "," and depth == 0:
            commas.append(at)
    return commas, -1


@given(st.lists(junk, max_size=6), layouts, st.integers(0, 200), st.booleans())
def test_elements_end_where_a_plain_scan_finds_them(values: list[Any], layout: Any, cut: int, ended: bool) -> None:
    text = json.dumps(values, **{**layout, "ensure_ascii": True})[1:] + ' , "x": [1, 2], {}'
    text = text if ended else text[:cut]
    commas, end = split(b"#" + text.encode(), 1)
    wanted, wanted_end = plain_split(text)
    assert (commas - 1).tolist() == wanted
    assert end == (wanted_end + 1 if wanted_end >= 0 else -1)


@given(junk, layouts)
def test_repairing_what_is_right_changes_nothing(value: Any, layout: Any) -> None:
    text = json.dumps(value, **layout)
    assert json.loads(repaired(text.encode())) == value


@pytest.mark.parametrize(
    "slow", [b'"' + b'\\"' * 2**18, b'"name":"' * 2**17, b'"' * 2**20, b"}, " * 2**18, b"\\" * 2**20]
)
def test_text_made_to_be_slow_is_repaired_at_once(slow: bytes) -> None:
    """A pattern that starts again at each character would take hours."""
    assert repaired(slow)
    assert repaired(b'{"name": "' + slow)


def small_trace() -> bytes:
    trace = KinetoTrace(rank=0)
    op = trace.op("aten::mm", 1, 20, dims=[[8, 16], [16, 4]], inputs=["", "[1, 1]"], sequence=3)
    trace.kernel('gemm<"},{">', 30, 4, launched=5, external=op, occupancy=12)
    trace.copy("Memset (Device)", 40, 1, 64, launched=25)
    trace.memory(3, 512)
    trace.step(1, 0, 60)
    return json.dumps(trace.document(), indent=1).encode()


SMALL = small_trace()
mutations = st.lists(
    st.tuples(
        st.integers(0, len(SMALL)),
        st.integers(0, 6),
        st.binary(max_size=4)
        | st.sampled_from(
            [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"NaN", b"1e999", b"-", b"null", b"9" * 400, b"\0"]
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300)
@given(mutations, st.sampled_from([1, 50, 300, 2**23]), st.booleans())
def test_no_change_of_bytes_raises_anything_but_a_plain_line(
    changes: list[tuple[int, int, bytes]], window: int, pack: bool
) -> None:
    data = SMALL
    for at, removed, added in changes:
        data = data[:at] + added + data[at + removed :]
    try:
        raw = read_bytes(gzip.compress(data) if pack else data, window=window)
    except AdvisorError as error:
        assert "\n" not in str(error)
        return
    check(raw)


@given(mutations, st.sampled_from([".json.gz", ".json.zip"]))
def test_no_change_of_packed_bytes_raises_anything_but_a_plain_line(
    changes: list[tuple[int, int, bytes]], suffix: str
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"trace{suffix}")
        trace = KinetoTrace()
        trace.kernel("k", 1, 2)
        data = trace.write(path).read_bytes()
        for at, removed, added in changes:
            data = data[: at % len(data)] + added + data[at % len(data) + removed :]
        path.write_bytes(data)
        try:
            check(read_trace(path))
        except AdvisorError as error:
            assert "\n" not in str(error)


def check(raw: RawTrace) -> None:
    """Columns agree in length, and every index is of something."""
    for table, width in ((raw.kernels, 14), (raw.copies, 9), (raw.launches, 6), (raw.ops, 10), (raw.marks, 5)):
        columns = list(vars(table).values())
        assert len(columns) == width
        assert len({len(column) for column in columns}) == 1
        assert np.isfinite(table.start_us).all()
        assert (table.duration_us >= 0).all()
        assert ((table.name >= 0) & (table.name < max(len(raw.names), 1))).all()
    assert ((raw.ops.dims >= -1) & (raw.ops.dims < max(len(raw.dims), 1))).all()
    assert all("\n" not in note for note in raw.notes)
