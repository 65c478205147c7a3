"""The whole way from a file to a profile."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import advisor
from advisor.errors import AdvisorError, BadInputError, BrokenFileError, UnknownNameError
from advisor.profiling.output.tables import time_by
from advisor.profiling.records import TraceProfile
from tests.data import recorded_trace
from tests.kineto import KinetoTrace


@pytest.fixture(scope="module")
def resnet() -> TraceProfile:
    return advisor.profile_trace(recorded_trace("resnet50_train_b32_fp32_v100.json.gz"))


def small_trace(path: Path, *, wait: float = 0.0, rank: int | None = None, old: bool = False) -> Path:
    """Three steps of 1 ms, each a linear layer of 400 us on the GPU, and `wait` us in a collective."""
    trace = KinetoTrace(rank=rank, old=old)
    for step in range(3):
        at = 1000.0 * step
        trace.step(step, at, 990)
        op = trace.op("aten::addmm", at + 10, 50, dims=[[512], [256, 1024], [1024, 512], [], []])
        trace.kernel("ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_tn", at + 100, 400, launched=at + 20,
                     external=op, grid=(4, 2, 1), block=(256, 1, 1), registers=122, shared=49152)  # fmt: skip
        if wait:
            trace.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevComm*)", at + 500, wait, launched=at + 70,
                         grid=(16, 1, 1), block=(544, 1, 1), stream=20)  # fmt: skip
    return trace.write(path)


def test_the_kernel_time_of_resnet_is_the_traces_to_the_microsecond(resnet: TraceProfile) -> None:
    assert round(resnet.kernel_time_s * 1e6) == 594_868
    assert round(sum(resnet.class_s.values()) * 1e6) == 594_868
    assert round(sum(group.total_s for group in resnet.kernels) * 1e6) == 594_868
    assert resnet.bill.kernel_time_s == resnet.kernel_time_s
    assert resnet.kernels_launched == sum(group.count for group in resnet.kernels) == 8868
    assert sum(group.share for group in resnet.kernels) == pytest.approx(1)


def test_resnet_is_found_to_be_fp32_at_batch_32_without_tensor_cores(resnet: TraceProfile) -> None:
    assert (resnet.steps.count, resnet.batch.batch, resnet.precision) == (6, 32, "fp32")
    assert resnet.tensor_core_time_s == 0
    assert not any(group.tensor_cores for group in resnet.kernels)
    assert resnet.gpu.sms == 80


def test_resnets_passes_are_attributed_by_layer(resnet: TraceProfile) -> None:
    calls = {row.name: row.calls for row in time_by(resnet, "class")}
    assert {name: calls[name] / 6 for name in ("fprop", "dgrad", "wgrad")} == {"fprop": 53, "dgrad": 52, "wgrad": 53}
    # 53 batch norms, forward and backward
    assert calls["normalisation"] == 6 * 2 * 53


def test_what_is_said_per_step_adds_up_to_the_kernel_time_of_the_regular_steps(resnet: TraceProfile) -> None:
    for by in ("class", "operator", "layer", "shape"):
        rows = time_by(resnet, by)
        assert sum(row.per_step_s or 0 for row in rows) == pytest.approx(resnet.steps.kernel_s)
        assert sum(row.share_of_step or 0 for row in rows) == pytest.approx(resnet.steps.kernel_s / resnet.steps.step_s)
    assert {row.name: row.calls_per_step for row in time_by(resnet, "class")}["fprop"] == 53


def test_each_table_sums_to_the_kernel_time(resnet: TraceProfile) -> None:
    for by in ("class", "operator", "layer", "shape"):
        assert sum(row.total_s for row in time_by(resnet, by)) == pytest.approx(resnet.kernel_time_s)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zip"])
def test_a_small_trace_of_any_packing_and_age(tmp_path: Path, suffix: str, old: bool) -> None:
    profile = advisor.profile_trace(str(small_trace(tmp_path / f"trace{suffix}", old=old)))
    assert profile.kernel_time_s == pytest.approx(1.2e-3)
    assert profile.steps.count == 3
    assert profile.class_s == pytest.approx({"gemm": 1.2e-3})
    assert profile.tensor_core_time_s == pytest.approx(1.2e-3)
    (operation,) = profile.operations
    assert (operation.name, operation.calls) == ("aten::addmm", 3)
    assert operation.product is not None
    assert (operation.product.m, operation.product.n, operation.product.k) == (256, 512, 1024)


def test_a_folder_of_ranks_is_the_profile_of_the_slowest_and_compares_them(tmp_path: Path) -> None:
    # Equal steps; rank 1 spends 100 us in the collective, the others 300: they wait for it.
    for rank in range(3):
        small_trace(tmp_path / f"rank{rank}.json.gz", rank=rank, wait=100 if rank == 1 else 300)
    profile = advisor.profile_trace(tmp_path)
    assert profile.rank == 1
    assert profile.ranks is not None
    assert profile.ranks.ranks[profile.ranks.slowest].rank == 1
    assert [facts.waiting_s for facts in profile.ranks.ranks] == pytest.approx([200e-6, 0, 200e-6])
    assert len(profile.ranks.profiles) == 3


def test_a_damaged_rank_is_left_out_and_named(tmp_path: Path) -> None:
    for rank in range(2):
        small_trace(tmp_path / f"rank{rank}.json", rank=rank)
    (tmp_path / "rank2.json").write_text('{"traceEvents": [')
    profile = advisor.profile_trace(tmp_path)
    assert profile.ranks is not None
    assert any("rank2.json" in note for note in profile.ranks.notes)


def test_what_is_no_trace_is_left_out_of_a_folder_and_named(tmp_path: Path) -> None:
    small_trace(tmp_path / "trace.json")
    (tmp_path / "settings.json").write_text('{"a": 1}')
    profile = advisor.profile_trace(tmp_path)
    assert profile.ranks is None
    assert "settings.json" in profile.notes[0]


def test_captures_of_one_process_are_no_ranks(tmp_path: Path) -> None:
    for time in (1700000000000000001, 1700000000000000002):
        small_trace(tmp_path / f"host_9.{time}.pt.trace.json.gz")
    profile = advisor.profile_trace(tmp_path)
    assert profile.ranks is None
    assert profile.path.endswith("2.pt.trace.json.gz")
    assert "2 captures of one process" in profile.notes[0]


def test_a_trace_that_holds_next_to_nothing_is_not_judged(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::add", 0, 5)
    trace.kernel("k", 13_000_000, 1.76, launched=12_999_990)
    profile = advisor.profile_trace(trace.write(tmp_path / "t.json"))
    assert profile.bill.verdict == "one kernel of 1.76 us: no step to judge"
    assert (profile.bill.lines, profile.advice) == ((), ())


def test_steps_in_which_the_gpu_all_but_sleeps_are_judged(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for step in (0, 1):  # of 1 s, with 10 kernels of 2 us: busy 0.002 %
        trace.step(step, step * 1e6, 1e6)
        for kernel in range(10):
            start = step * 1e6 + kernel * 1e5
            trace.op("aten::add", start, 50)
            trace.kernel("k", start + 20, 2, launched=start + 10)
    bill = advisor.profile_trace(trace.write(tmp_path / "t.json")).bill
    assert bill.lines[0].kind == "gaps"
    assert bill.lines[0].lost_s == pytest.approx(1.0, rel=1e-3)


def test_a_profile_prints_as_one_line(resnet: TraceProfile) -> None:
    assert repr(resnet).startswith("<TraceProfile '")
    assert repr(resnet).endswith("no kernel ran on Tensor Cores.>")
    assert len(repr(resnet)) < 400
    assert advisor.TraceProfile is TraceProfile


def test_a_gpu_to_advise_for_may_be_given_by_itself(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "t.json")
    assert advisor.profile_trace(path, on="h100").advice == advisor.profile_trace(path, on=("h100",)).advice


@pytest.mark.parametrize("wrong", [{"gpu": 3}, {"path": ""}, {"path": 3}, {"on": (3,)}, {"gpu": ""}])
def test_what_is_no_name_and_no_path_is_refused_in_one_line(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(BadInputError) as caught:
        advisor.profile_trace(**{"path": tmp_path, **wrong})
    assert "\n" not in str(caught.value)


def test_a_name_of_several_lines_is_told_in_one(tmp_path: Path) -> None:
    (tmp_path / "a\nb.json").write_text("no trace")
    for name in ("a\nb.json", "absent\x1b[31m.json"):
        with pytest.raises(AdvisorError) as caught:
            advisor.profile_trace(tmp_path / name)
        assert str(caught.value).isprintable()


def test_a_folder_of_one_trace_is_that_trace(tmp_path: Path) -> None:
    small_trace(tmp_path / "only.json")
    assert advisor.profile_trace(tmp_path).ranks is None


@pytest.mark.parametrize(("name", "says"), [("mi250_rocm", "AMD"), ("cpu_only", "no GPU kernel")])
def test_traces_of_other_machines_are_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        advisor.profile_trace(recorded_trace(f"{name}.json.gz"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("on", [(), ("nosuchgpu",)])
def test_a_gpu_nobody_knows_is_told_before_the_file_is_read(tmp_path: Path, on: tuple[str, ...]) -> None:
    with pytest.raises(UnknownNameError):
        advisor.profile_trace(tmp_path / "absent.json", gpu=None if on else "nosuchgpu", on=on)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_trace_is_damaged(tmp_path: Path, kept: float, packed: bool) -> None:
    content = small_trace(tmp_path / "whole.json").read_bytes()
    content = gzip.compress(content) if packed else content
    (tmp_path / "cut.json").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(BrokenFileError, match=r"cut\.json") as caught:
        advisor.profile_trace(tmp_path / "cut.json")
    assert "\n" not in str(caught.value)


def test_events_out_of_order_with_negative_durations_and_repeated_ids_are_survived(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "trace.json")
    document = json.loads(path.read_text())
    events = document["traceEvents"]
    np.random.default_rng(0).shuffle(events)
    events.append({**events[0], "dur": -5})
    for event in events:
        if "correlation" in event.get("args", {}):
            event["args"]["correlation"] = 7
    path.write_text(json.dumps(document))
    profile = advisor.profile_trace(path)
    assert profile.kernels_launched >= 3
    assert profile.to_json()


def test_without_device_properties_the_sms_are_inferred_and_the_gpu_is_asked_for(tmp_path: Path) -> None:
    path = recorded_trace("sampled_no_device_properties.json.gz")
    profile = advisor.profile_trace(path)
    assert (profile.gpu.sms, profile.gpu.sms_source, profile.gpu.id) == (108, "kernels", None)
    assert any("--gpu" in note for note in profile.gpu.notes)
    assert all(group.waves is None for group in profile.kernels)
    named = advisor.profile_trace(path, gpu="a100-sxm4-40gb")
    assert any(group.waves is not None for group in named.kernels)


def test_progress_is_told_up_to_the_end_of_the_last_rank(tmp_path: Path) -> None:
    for rank in range(2):
        shutil.copy(small_trace(tmp_path / "one.tmp", rank=rank), tmp_path / f"rank{rank}.json")
    told: list[float] = []
    advisor.profile_trace(tmp_path, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
