"""Kernels that a damaged trace says to last longer than itself."""

from __future__ import annotations

from pathlib import Path

from advisor.profiling.kernels.overlong import without_overlong
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from tests.kineto import KinetoTrace


def read(trace: KinetoTrace, folder: Path) -> RawTrace:
    return read_trace(trace.write(folder / "trace.json"))


def test_a_kernel_longer_than_the_trace_ends_where_its_streams_next_begins(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.kernel("a", start=10, duration=1e15, launched=0)
    trace.kernel("elsewhere", start=20, duration=5, launched=1, stream=9)
    trace.kernel("b", start=70, duration=30, launched=2)
    found = without_overlong(read(trace, tmp_path))
    assert found.kernels.duration_us.tolist() == [60, 5, 30]
    assert found.notes[-1].startswith("damaged: 1 kernel or copy lasts longer than the whole trace")


def test_a_last_kernel_of_hours_ends_with_the_trace(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.kernel("a", start=10, duration=5, launched=0)
    trace.kernel("b", start=70, duration=1e15, launched=60)
    trace.kernel("c", start=95, duration=5, launched=61, stream=9)
    assert without_overlong(read(trace, tmp_path)).kernels.duration_us.tolist() == [5, 25, 5]


def test_a_single_long_kernel_is_believed(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.kernel("a", start=10, duration=50_000, launched=0)
    raw = read(trace, tmp_path)
    assert without_overlong(raw) is raw
