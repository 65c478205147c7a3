"""Traces made to hurt: whatever a file holds, `advisor profile` ends in a sane result or in one clear line."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.cli import main
from tests.kineto import A100, KinetoTrace

HOSTILE_NAMES = [
    "\x1b[31mred\x1b[0m", "<img src=x onerror=alert(1)>", "two\nlines\r", "$\\frac{", "\u202eevil", "a|b`c`",
    "%s{}%(x)d", "ampere_fp16_s16816gemm_fp16_999999999999x0_ldg8_stages_64x5_tn", "nvjet_hsh_0x0_0x0_0x0_v_bz_TNN",
    "volta_sgemm_0x0_nt", "<" * 3000, "ProfilerStep#99999999999999999999",
]  # fmt: skip
NUMBERS = [0, -1, 0.5, 2**31, 2**63, 10**30, 1e300, -1e300, float("nan"), float("inf"), True, None, "", "12", [], {}]
GRIDS = [[0, 0, 0], [2**31 - 1] * 3, [-1, 1, 1], [1], [], None, ["a", 1, 1], [0.5, 1, 1], [1e300, 1, 1]]
SHAPES: list[Any] = [
    "abc", None, {}, [1, 2], [[-1, -1], [2, 2]], [[2**62] * 4] * 3, [[10**30] * 2] * 2, [["8", "16"], [16, 4]],
    [[8.5, 16], [16, 4]], [[1] * 200], [[]] * 500, [[[["a"]]]],
]  # fmt: skip
ODD = {"grid": GRIDS, "block": GRIDS, "Input Dims": SHAPES, "Input type": SHAPES, "Concrete Inputs": SHAPES}


def three_steps() -> KinetoTrace:
    """Steps of a linear layer, a convolution and a copy."""
    trace = KinetoTrace(dict(A100), rank=0)
    for step in range(3):
        at = 1000.0 * step
        trace.step(step, at, 990)
        linear = trace.op("aten::addmm", at + 10, 40, dims=[[512], [256, 1024], [1024, 512], [], []])
        trace.kernel("ampere_sgemm_128x64_tn", at + 100, 300, launched=at + 20, external=linear, grid=(4, 4, 1),
                     block=(128, 1, 1), registers=122, shared=16384, occupancy=12)  # fmt: skip
        conv = trace.op("aten::cudnn_convolution", at + 60, 30, dims=[[256, 64, 56, 56], [64, 64, 3, 3]])
        trace.kernel("cudnn_implicit_gemm", at + 420, 200, launched=at + 70, external=conv, grid=(900, 1, 1))
        trace.copy("Memcpy HtoD (Pinned -> Device)", at + 640, 30, 2**20, launched=at + 90)
    return trace


def profiled(document: Any, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `advisor profile` on a document or on bytes."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    out, err = io.StringIO(), io.StringIO()
    with TemporaryDirectory() as folder, redirect_stdout(out), redirect_stderr(err):
        path = Path(folder, "trace.json")
        path.write_bytes(data)
        code = main(["profile", str(path), *options])
    return code, out.getvalue(), err.getvalue()


def assert_sane(code: int, out: str, err: str) -> None:
    """A result with nothing on stderr, or no result and one line there; never a control character."""
    assert code in (0, 2, 5)
    assert len(err.splitlines()) == (1 if code else 0)
    assert bool(out) == (code == 0)
    text = err if out.startswith("{") else out + err  # JSON keeps what names hold, its control characters escaped
    assert not any(character in text for character in "\x1b\x00\r\u202e")
    assert not any(character in out for character in "\x1b\x00\r")


def test_a_trace_cut_at_any_kilobyte_is_one_line_and_exit_code_5() -> None:
    whole = json.dumps(three_steps().document(), indent=2).encode()
    for size in range(0, len(whole) - 1, 1024):
        code, out, err = profiled(whole[:size])
        assert (code, out, len(err.splitlines())) == (5, "", 1)
        assert "is cut off" in err or "is empty" in err


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["table", "markdown", "csv", "json"]), st.integers(1, 30))
def test_fields_of_any_value_end_in_a_result_or_one_line(seed: int, format_: str, changes: int) -> None:
    chance = random.Random(seed)
    document = three_steps().document()
    for _ in range(changes):
        event = chance.choice(document["traceEvents"])
        arguments = event["args"] if isinstance(event["args"], dict) else {}
        field = chance.choice([*event, *arguments])
        target = arguments if field in arguments else event
        if field not in ("ts", "dur"):  # a time may be anything: the reader's own tests
            target[field] = chance.choice(ODD.get(field, NUMBERS + HOSTILE_NAMES))
    assert_sane(*profiled(document, "--format", format_, "--rows", "0"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300))
def test_bytes_changed_at_random_end_in_a_result_or_one_line(seed: int, changes: int) -> None:
    chance = random.Random(seed)
    data = bytearray(json.dumps(three_steps().document()).encode())
    for _ in range(changes):
        at = chance.randrange(len(data))
        if chance.random() < 0.5:
            data[at] ^= 1 << chance.randrange(8)
        else:
            data[at] = chance.choice(b'"{}[],:\\09eE-+.\x00\xff')
    code, out, err = profiled(bytes(data))
    assert code in (0, 2, 5)
    assert (len(err.splitlines()), bool(out)) == ((1, False) if code else (0, True))


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("format_", ["table", "markdown", "csv"])
def test_names_of_kernels_operators_and_gpus_cannot_steer_a_terminal(name: str, format_: str) -> None:
    trace = KinetoTrace({**A100, "name": name})
    op = trace.op(name, 0, 50, dims=[[8, 8]])
    trace.kernel(name, 60, 20, launched=5, external=op)
    code, out, err = profiled(trace.document(), "--format", format_, "--rows", "0")
    assert (code, err) == (0, "")
    assert_sane(code, out, err)


@pytest.mark.parametrize("changed", [
    {"numSms": 0}, {"numSms": -1}, {"numSms": 10**9}, {"numSms": "x"}, {"computeMajor": 99}, {"warpSize": 0},
    {"regsPerMultiprocessor": 0, "sharedMemPerMultiprocessor": 0}, {"maxThreadsPerMultiprocessor": 1},
    {"totalGlobalMem": 0}, {"totalGlobalMem": 2**62}, {"name": None}, {"id": []},
], ids=str)  # fmt: skip
def test_a_device_with_absurd_properties_is_profiled_or_refused(changed: dict[str, Any]) -> None:
    trace = three_steps()
    assert trace.device is not None
    trace.device.update(changed)
    assert_sane(*profiled(trace.document()))


ALL_ALIKE: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("correlation", lambda event: event["args"].update(correlation=7)),
    ("registers 0", lambda event: event["args"].update({"registers per thread": 0})),
    ("registers 10^9", lambda event: event["args"].update({"registers per thread": 10**9})),
    ("grid of none", lambda event: event["args"].update(grid=[0, 0, 0])),
    ("largest grid", lambda event: event["args"].update(grid=[2**31 - 1, 65535, 65535])),
    ("block of none", lambda event: event["args"].update(block=[0, 1, 1])),
    ("one start", lambda event: event.update(ts=5)),
]


@pytest.mark.parametrize(("what", "change"), ALL_ALIKE, ids=[what for what, _ in ALL_ALIKE])
def test_kernels_that_all_tell_the_same_odd_thing_are_profiled(
    what: str, change: Callable[[dict[str, Any]], None]
) -> None:
    document = three_steps().document()
    for event in document["traceEvents"]:
        if event.get("cat") == "kernel":
            change(event)
    code, out, err = profiled(document, "--on", "h100")
    assert_sane(code, out, err)
    assert (code, "nan" in out) == (0, False), what


def test_a_hundred_devices_in_a_file_are_one_kind_of_gpu() -> None:
    document = three_steps().document()
    document["deviceProperties"] = [{**A100, "id": number} for number in range(100)]
    code, out, err = profiled(document)
    assert_sane(code, out, err)
    assert out.splitlines()[0].count("NVIDIA A100-SXM4-80GB") == 1
