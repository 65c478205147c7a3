"""Coverage-guided fuzzing of the trace reader with atheris, which is no dependency of the project.

    pip install atheris
    PYTHONPATH=. python tests/advisor/profiling/fuzz_reader.py FOLDER \\
        -max_total_time=300 -max_len=4096 -timeout=20 -rss_limit_mb=0

The first byte chooses the size of the reader's windows, the rest is the file. A crash is any exception but
AdvisorError, a message of several lines, valid JSON read differently in two sizes of windows, or a hang.
FOLDER may be empty: a small trace, plain and packed, is put there first.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import atheris

with atheris.instrument_imports(include=["advisor.profiling"]):
    from advisor.profiling.reading import reader

from advisor.errors import AdvisorError
from tests.kineto import KinetoTrace

_FOLDER = TemporaryDirectory()
_PATH = Path(_FOLDER.name, "trace.json")


def outcome(window: int) -> tuple[object, ...]:
    """What reading the file gives: kernels and shapes, or the kind of refusal."""
    with patch.object(reader, "WINDOW_BYTES", window):
        try:
            raw = reader.read_trace(_PATH)
        except AdvisorError as error:
            if "\n" in str(error):
                raise RuntimeError(f"more than one line: {error}") from error
            return (type(error).__name__,)
    kernels = raw.kernels
    return (raw.events, raw.names, raw.dims, kernels.start_us.tolist(), kernels.grid.tolist(), raw.ops.dims.tolist())


def test_one_input(data: bytes) -> None:
    """Called by libFuzzer."""
    if not data:
        return
    _PATH.write_bytes(data[1:])
    whole = outcome(2**23)
    if outcome(1 + data[0] * 8) != whole and is_json(data[1:]):
        raise RuntimeError("the size of a window changed the result")


def is_json(data: bytes) -> bool:
    """Whether a strict parser takes it."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def seed(folder: Path) -> None:
    """Put a small trace into the corpus, plain and packed."""
    trace = KinetoTrace(rank=0)
    op = trace.op("aten::mm", 1, 20, dims=[[8, 16], [16, 4]], inputs=["", "1"], sequence=3)
    trace.kernel("gemm", 30, 4, launched=5, external=op)
    trace.memory(3, 512)
    plain = trace.write(_PATH).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plain").write_bytes(b"\x08" + plain)
    (folder / "gzip").write_bytes(b"\x08" + gzip.compress(plain))
    (folder / "zip").write_bytes(b"\x08" + trace.write(_PATH.with_suffix(".zip")).read_bytes())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            seed(Path(argument))
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
