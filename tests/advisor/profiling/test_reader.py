from __future__ import annotations

import gzip
import json
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.errors import BrokenFileError
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading import events, interned
from advisor.profiling.reading.reader import read_trace
from tests.data import recorded_trace
from tests.kineto import A100, KinetoTrace

RESNET = "resnet50_train_b32_fp32_v100.json.gz"


def written(tmp_path: Path, *entries: dict[str, Any], **top: Any) -> RawTrace:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({**top, "traceEvents": entries}))
    return read_trace(path)


def kernel(start: object = 10, duration: object = 5, name: str = "k", **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": "kernel", "name": name, "ts": start, "dur": duration, "pid": 0, "tid": 7, "args": args}


def named(raw: RawTrace, indices: Any) -> list[str]:
    return [raw.names[index] for index in indices]


def test_the_resnet_trace_has_its_kernels_to_the_microsecond() -> None:
    raw = read_trace(recorded_trace(RESNET))
    assert len(raw.kernels.name) == 8868
    assert raw.kernels.duration_us.sum() == 594_868
    assert raw.events == 71_424
    assert raw.devices[0].name == "Tesla V100-DGXS-32GB"
    assert (raw.devices[0].sms, raw.devices[0].compute_capability) == (80, (7, 0))
    steps = [raw.names[name] for name in raw.marks.name if raw.names[name].startswith("ProfilerStep")]
    assert steps == [f"ProfilerStep#{n}" for n in range(5, 11)]
    assert raw.notes == ()


def test_every_kernel_of_the_resnet_trace_is_as_json_has_it() -> None:
    path = recorded_trace(RESNET)
    raw = read_trace(path)
    document = json.loads(gzip.decompress(path.read_bytes()))
    wanted = sorted((e for e in document["traceEvents"] if e.get("cat") == "Kernel"), key=lambda e: e["ts"])
    k = raw.kernels
    assert named(raw, k.name) == [e["name"] for e in wanted]
    assert (k.start_us + raw.origin_us).tolist() == [e["ts"] for e in wanted]
    columns = {
        "correlation": k.correlation, "external id": k.external, "registers per thread": k.registers,
        "shared memory": k.shared_bytes, "blocks per SM": k.blocks_per_sm, "grid": k.grid, "block": k.block,
        "est. achieved occupancy %": k.occupancy_percent, "stream": k.stream, "device": k.device,
    }  # fmt: skip
    for field, column in columns.items():
        assert column.tolist() == [e["args"][field] for e in wanted], field


def test_operators_of_the_resnet_trace_keep_shapes_sequence_and_thread() -> None:
    path = recorded_trace(RESNET)
    raw = read_trace(path)
    counts = Counter(named(raw, raw.ops.name))
    assert counts["aten::cudnn_convolution"] == 6 * 53
    first = named(raw, raw.ops.name).index("aten::conv2d")
    assert raw.dims[raw.ops.dims[first]][:2] == ((32, 3, 224, 224), (64, 3, 7, 7))
    assert raw.types[raw.ops.types[first]][:2] == ("float", "float")
    assert raw.threads[raw.ops.thread[first]] == "5555/5555"
    backward = named(raw, raw.ops.name).index("NllLossBackward")
    assert (raw.ops.sequence[backward], raw.ops.forward_thread[backward]) == (1067, 1)


@pytest.mark.parametrize("old", [False, True], ids=["today", "2021"])
def test_field_names_of_both_times_give_the_same_columns(tmp_path: Path, old: bool) -> None:
    trace = KinetoTrace(A100, old=old)
    conv = trace.op("aten::conv2d", 100, 50, dims=[[8, 3, 9, 9], []], types=["float", ""], inputs=["", "[1, 1]"])
    trace.kernel(
        "gemm", 200, 7, launched=120, external=conv, grid=(5, 6, 1), block=(64, 2, 1), registers=96, shared=512
    )
    trace.copy("Memcpy HtoD (Pageable -> Device)", 190, 3, 4096, launched=105)
    trace.copy("Memset (Device)", 195, 1, 64)
    trace.step(3, 90, 400)
    trace.memory(101, -512)
    raw = read_trace(trace.write(tmp_path / "trace.json"))
    assert named(raw, raw.kernels.name) == ["gemm"]
    assert raw.kernels.grid.tolist() == [[5, 6, 1]]
    assert raw.kernels.block.tolist() == [[64, 2, 1]]
    assert (raw.kernels.external[0], raw.kernels.registers[0], raw.kernels.shared_bytes[0]) == (conv, 96, 512)
    assert np.isnan(raw.kernels.occupancy_percent[0])
    assert raw.copies.bytes_.tolist() == [4096, 64]
    assert raw.copies.is_set.tolist() == [False, True]
    assert named(raw, raw.launches.name) == ["cudaMemcpyAsync", "cudaLaunchKernel"]
    assert set(raw.kernels.correlation) <= set(raw.launches.correlation)
    assert raw.dims[raw.ops.dims[0]] == ((8, 3, 9, 9), ())
    assert raw.inputs[raw.ops.inputs[0]] == ("", "[1, 1]")
    assert named(raw, raw.marks.name) == ["ProfilerStep#3"]
    assert raw.origin_us == 90
    assert (raw.memory.bytes_[0], raw.memory.device_type[0], raw.memory.total_allocated[0]) == (-512, 1, -1)
    assert raw.devices[0].sms == 108


def test_pytorchs_own_annotations_are_operators_and_marks(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("Optimizer.step#SGD.step", 10, 5, category="user_annotation")
    trace.op("my range", 20, 5, category="user_annotation")
    trace.op("Optimizer.step#SGD.step", 11, 5, category="gpu_user_annotation")
    raw = read_trace(trace.write(tmp_path / "trace.json"))
    assert named(raw, raw.ops.name) == ["Optimizer.step#SGD.step"]
    assert named(raw, raw.marks.name) == ["Optimizer.step#SGD.step", "Optimizer.step#SGD.step", "my range"]
    assert raw.marks.on_gpu.tolist() == [False, True, False]


def test_events_out_of_order_are_sorted_and_the_outer_of_equal_starts_is_first(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for name, start, duration in (("inner", 5, 1), ("last", 9, 1), ("outer", 5, 4), ("first", 1, 1)):
        trace.op(name, start, duration)
    raw = read_trace(trace.write(tmp_path / "trace.json"))
    assert named(raw, raw.ops.name) == ["first", "outer", "inner", "last"]
    assert raw.ops.start_us.tolist() == [0, 4, 4, 8]


def test_kernels_of_several_gpus_in_one_file_are_all_kept(tmp_path: Path) -> None:
    raw = written(tmp_path, kernel(1, device=0, stream=7), kernel(1, device=3, stream=7))
    assert raw.kernels.device.tolist() == [0, 3]
    assert raw.notes == ()


def test_what_lies_beside_the_events_may_come_after_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(
        '{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k", "ts": 1, "dur": 2}], "deviceProperties": '
        '[{"id": 0, "name": "x"}, {"id": 1, "name": "y", "numSms": 4}], "odd": [{}, {}], "distributedInfo": '
        '{"rank": 3, "world_size": 8}, "cuda_runtime_version": 12040}'
    )
    raw = read_trace(path)
    assert [(d.id, d.name, d.sms) for d in raw.devices] == [(0, "x", None), (1, "y", 4)]
    assert (raw.rank, raw.world_size) == (3, 8)
    assert raw.versions == {"cuda_runtime_version": "12040"}


def test_a_document_that_is_a_bare_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rank-5.json"
    path.write_text(json.dumps([kernel(), kernel(20)]))
    raw = read_trace(path)
    assert len(raw.kernels.name) == 2
    assert raw.rank == 5  # of the name, as nothing else tells


def test_a_gpu_range_of_the_profiler_before_kineto_is_noted(tmp_path: Path) -> None:
    raw = written(
        tmp_path, {"name": "add", "ph": "X", "ts": 1, "dur": 2, "tid": 0, "pid": "CUDA functions", "args": {}}
    )
    assert len(raw.kernels.name) == 0
    assert "before PyTorch 1.8.1" in raw.notes[0]


@pytest.mark.parametrize("start", [None, "x", float("1e300"), 2**54, [1]])
def test_a_kernel_without_a_usable_start_is_left_out_and_counted(tmp_path: Path, start: object) -> None:
    raw = written(tmp_path, kernel(start), kernel(7))
    assert len(raw.kernels.name) == 1
    assert raw.notes == ("1 kernel event without a usable time (absent, NaN or beyond 2^53 us) left out",)


def test_a_negative_duration_is_taken_as_none_and_counted(tmp_path: Path) -> None:
    raw = written(tmp_path, kernel(1, -4), kernel(2, 3))
    assert raw.kernels.duration_us.tolist() == [0, 3]
    assert raw.notes == ("1 kernel event of negative duration, taken as 0",)


def test_times_may_be_text_or_have_decimals(tmp_path: Path) -> None:
    raw = written(tmp_path, kernel("1.25", "0.5"), kernel(3.5, 1))
    assert (raw.kernels.start_us + raw.origin_us).tolist() == [1.25, 3.5]
    assert raw.kernels.duration_us.sum() == 1.5


def test_an_argument_of_an_odd_type_is_untold_and_the_event_stays(tmp_path: Path) -> None:
    raw = written(
        tmp_path,
        kernel(1, correlation={"a": 1}, stream="0x0", grid="grid(100,)", block=[1, 2], registers=[]),
        kernel(2, correlation="12", grid=[1, 2, 3], block=[4, -5, 6]),
    )
    assert raw.kernels.correlation.tolist() == [-1, 12]
    assert raw.kernels.stream.tolist() == [-1, -1]
    assert raw.kernels.grid.tolist() == [[-1, -1, -1], [1, 2, 3]]
    assert raw.kernels.block.tolist() == [[-1, -1, -1], [-1, -1, -1]]


def test_lists_of_tensors_have_a_shape_each(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::cat", 1, 1, dims=[[[2, 3], [4]], [], "x", [-1], [[]]])
    raw = read_trace(trace.write(tmp_path / "trace.json"))
    assert raw.dims[0] == (((2, 3), (4,)), (), None, None, ((),))


def test_kernels_that_repeat_exactly_are_kept_and_noted(tmp_path: Path) -> None:
    same = kernel(1, correlation=4, device=0, stream=7)
    raw = written(tmp_path, same, same, kernel(1, correlation=5, device=0, stream=7))
    assert len(raw.kernels.name) == 3
    assert raw.notes[0].startswith("1 kernel event with name, time, stream and correlation of another")


def test_an_event_that_cannot_be_read_costs_itself_alone(tmp_path: Path) -> None:
    raw = written(tmp_path, kernel(1), {"ph": "X", "name": ["list"]}, kernel(2), {"ph": 4})
    assert len(raw.kernels.name) == 2
    ends = raw.path.read_text().index('["list"]}') + len('["list"]}')
    assert raw.notes == (
        "2 of 4 events left out, as unreadable (first: Expected `str`, got `array` - at `$.name` in the "
        f"one that ends at byte {ends})",
    )


@pytest.mark.parametrize(
    "text",
    ['"memory bandwidth (GB/s)": N/A', '"x": -nan', '"x": [inf, NaN]', '"f": "C:\\temp\\cuda.py"', '"f": "a\x01b"'],
)
def test_what_writers_of_traces_get_wrong_is_repaired_and_counted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(
        '[{"ph":"X","cat":"kernel","name":"a","ts":1.5e0,"dur":2,"args":{"correlation":9,' + text + '}},'
        '{"ph":"X","cat":"kernel","name":"b","ts":2,"dur":2}]'
    )  # fmt: skip
    raw = read_trace(path)
    assert named(raw, raw.kernels.name) == ["a", "b"]
    assert raw.kernels.correlation.tolist() == [9, -1]
    assert raw.kernels.start_us.tolist() == [0, 0.5]
    assert raw.notes == ("text that JSON does not allow (NaN, N/A, quotes, lone backslashes) in 1 event",)


@pytest.mark.parametrize("name", ['{"device": "cpu", "dtype": "float32"}(12): run', 'a"b.py(1): f', '}},{"'])
def test_a_quote_that_is_not_escaped_costs_its_event_alone(tmp_path: Path, name: str) -> None:
    """As with_stack writes names of generated code: pytorch/kineto#1459."""
    trace = KinetoTrace()
    trace.kernel("before", 1, 1)
    trace.op("NAME", 2, 1, category="python_function")
    trace.kernel("after", 3, 1)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace.document(), indent=2).replace("NAME", name))
    raw = read_trace(path)
    assert named(raw, raw.kernels.name) == ["before", "after"]
    assert raw.devices[0].sms == 108


def test_a_range_named_with_quotes_keeps_its_name(tmp_path: Path) -> None:
    """As PyTorch 2.13 writes record_function('step "a"')."""
    trace = KinetoTrace()
    trace.op("NAME", 2, 1, category="user_annotation")
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace.document(), indent=2).replace("NAME", 'step "a", of "b"'))
    raw = read_trace(path)
    assert named(raw, raw.marks.name) == ['step "a", of "b"']
    assert "text that JSON does not allow" in raw.notes[0]


def test_text_that_is_not_utf_8_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes('[{"ph":"X","cat":"kernel","name":"caf\xe9","ts":1,"dur":2}]'.encode("latin-1"))
    assert read_trace(path).names == ("caf\ufffd",)


def test_a_byte_order_mark_and_a_comma_too_many_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(b'\xef\xbb\xbf {"traceEvents": [{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":2}, ]} \n')
    assert len(read_trace(path).kernels.name) == 1


def test_progress_rises_to_the_whole_file(tmp_path: Path) -> None:
    shares: list[float] = []
    trace = KinetoTrace()
    trace.kernel("k", 1, 1)
    read_trace(trace.write(tmp_path / "trace.json.gz"), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_more_events_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_KEPT", 2)
    with pytest.raises(BrokenFileError, match="more than 2 kernels, operators and calls, the limit; profile fewer"):
        written(tmp_path, kernel(1), kernel(2), kernel(3))


def test_more_distinct_names_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interned, "MOST_TEXT_BYTES", 2**20)
    with pytest.raises(BrokenFileError, match="more than 1 MiB of distinct names and shapes"):
        written(tmp_path, *(kernel(n, name=f"{n}" * 20) for n in range(9000)))


def test_a_hundred_megabytes_take_little_memory(tmp_path: Path) -> None:
    """Held whole as Python objects they would take over a gigabyte."""
    one = json.dumps(kernel(1, correlation=1, grid=[1, 1, 1], block=[1, 1, 1], stream=7, device=0))
    path = tmp_path / "trace.json"
    with path.open("w") as file:
        file.write('{"traceEvents": [' + one)
        for n in range(600_000):
            file.write(",\n" + one.replace('"ts": 1', f'"ts": {n}'))
        file.write("]}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    raw = read_trace(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert path.stat().st_size > 100e6
    assert len(raw.kernels.name) == 600_001
    assert (after - before) * 1024 < 600 * 2**20
