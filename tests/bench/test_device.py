"""Opening a device and what it says of itself; a stand-in for torch.cuda where there is no GPU."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.errors import BadInputError, MissingDependencyError, NoGpuError
from bench import device as device_module
from bench.device import CudaDevice, HostDevice, busy_note, environment, open_device

GIB, MIB = 2**30, 2**20
UUID = "11111111-0000-0000-0000-000000000000"


class FakeGraph:
    """Captures whether garbage was collected meanwhile; `broken` fails at the capture's end, as CUDA does."""

    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        self.collecting = gc.isenabled()

    def capture_end(self) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def replay(self) -> str:
        return "replayed"


class FakeTorch(SimpleNamespace):
    """As much of torch as a CudaDevice asks."""

    def __init__(self, *, available: bool = True, count: int = 1, broken_graphs: bool = False) -> None:
        self.ended_pools: list[object] = []
        self.slept: list[int] = []
        stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
        properties = SimpleNamespace(
            name="NVIDIA H200", uuid=UUID, L2_cache_size=60 * MIB, total_memory=140 * GIB, major=9, minor=0,
            multi_processor_count=132,
        )  # fmt: skip
        super().__init__(
            __version__="2.11.0",
            version=SimpleNamespace(cuda="12.8"),
            _C=SimpleNamespace(_cuda_endAllocateToPool=lambda index, pool: self.ended_pools.append(pool)),
            cuda=SimpleNamespace(
                is_available=lambda: available,
                device_count=lambda: count,
                get_device_properties=lambda index: properties,
                set_device=lambda index: None,
                mem_get_info=lambda index: (100 * GIB, 140 * GIB),
                memory_reserved=lambda index: 8 * GIB,
                memory_allocated=lambda index: 3 * GIB,
                synchronize=lambda index: None,
                Stream=lambda index: stream,
                stream=lambda stream: nullcontext(),
                current_stream=lambda index: stream,
                graph_pool_handle=lambda: (0, 1),
                CUDAGraph=lambda: FakeGraph(broken_graphs),
                Event=lambda enable_timing: SimpleNamespace(
                    record=lambda: None,
                    elapsed_time=lambda later: 0.5,  # milliseconds
                ),
                _sleep=self.slept.append,
            ),
        )


@pytest.fixture
def open_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeTorch | None, str], Any]:
    def opened(torch: FakeTorch | None, name: str = "cuda:0") -> Any:
        monkeypatch.setitem(sys.modules, "torch", torch)  # None: importing it fails
        monkeypatch.setattr(device_module, "use_by_device", lambda: {UUID: {"utilisation": 0.0, "used_bytes": 0}})
        return open_device(name)

    return opened


@pytest.mark.parametrize("name", ["gpu", "cuda:-1", "cuda:x", "", "cpu:0", "CUDA"])
def test_an_unknown_device_is_said_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadInputError, match=r"it is cpu, cuda or cuda:0, cuda:1"):
        open_device(name)


def test_without_torch_the_extra_to_install_is_named(open_with: Any) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'batchwave\[torch\]'") as raised:
        open_with(None)
    assert "\n" not in str(raised.value)


def test_a_torch_without_cuda_is_said(open_with: Any) -> None:
    torch = FakeTorch()
    torch.version.cuda = None
    with pytest.raises(NoGpuError, match=r"torch 2\.11\.0 is built without CUDA"):
        open_with(torch)


def test_a_machine_without_a_gpu_is_said_and_that_gpus_are_hidden(
    open_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(NoGpuError, match=r"no usable NVIDIA GPU \(CUDA_VISIBLE_DEVICES=\): check nvidia-smi"):
        open_with(FakeTorch(available=False))


def test_an_index_past_the_last_gpu_is_said(open_with: Any) -> None:
    with pytest.raises(NoGpuError, match=r"no cuda:2: torch sees 2 GPU\(s\), the last is cuda:1"):
        open_with(FakeTorch(count=2), "cuda:2")


def test_a_gpu_that_does_not_answer_is_one_line(open_with: Any) -> None:
    def broken(index: int) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with ...")

    torch = FakeTorch()
    torch.cuda.get_device_properties = broken
    with pytest.raises(NoGpuError, match="cuda:0 does not answer: CUDA error: all CUDA-capable devices are busy") as e:
        open_with(torch)
    assert "\n" not in str(e.value)


def test_an_opened_gpu_says_what_it_is(open_with: Any) -> None:
    device = open_with(FakeTorch())
    assert (device.name, device.kind, device.queues, device.l2_bytes) == ("NVIDIA H200", "cuda", True, 60 * MIB)
    assert device.uuid == f"GPU-{UUID}"
    assert device.free_bytes() == 105 * GIB  # 100 with the driver, 8 - 3 unused in torch's reserve
    assert device.busy_note() is None
    assert device.telemetry.reason  # no driver here
    found = environment(device)
    assert (found["gpu_name"], found["capability"], found["sms"]) == ("NVIDIA H200", "9.0", 132)
    assert (found["memory_bytes"], found["torch"], found["cuda"]) == (140 * GIB, "2.11.0", "12.8")
    assert found["cudnn"] is None  # this torch does not tell


def test_a_mig_slice_keeps_the_name_under_which_it_was_asked_for(
    open_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-55555555-0000-0000-0000-000000000000")
    assert open_with(FakeTorch()).uuid == "MIG-55555555-0000-0000-0000-000000000000"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert open_with(FakeTorch()).uuid == f"GPU-{UUID}"


def test_a_capture_warms_up_first_collects_nothing_and_gives_a_replay(open_with: Any) -> None:
    device = open_with(FakeTorch())
    collecting: list[bool] = []
    replay = device.capture(lambda: collecting.append(gc.isenabled()))
    assert collecting == [False, False]  # once to warm up, once captured
    assert replay() == "replayed"
    assert gc.isenabled()


def test_what_cannot_be_captured_gives_none_and_leaves_the_allocator_as_it_was(open_with: Any) -> None:
    torch = FakeTorch(broken_graphs=True)
    device = open_with(torch)
    assert device.capture(lambda: None) is None
    assert torch.ended_pools == [(0, 1)]
    assert gc.isenabled()


def test_an_error_of_the_work_itself_is_not_taken_for_a_failed_capture(open_with: Any) -> None:
    def broken() -> None:
        raise RuntimeError("shapes do not match")

    device = open_with(FakeTorch())
    with pytest.raises(RuntimeError, match="shapes do not match"):
        device.capture(broken)
    assert gc.isenabled()


def test_a_hold_is_measured_once_and_then_lasts_as_asked(open_with: Any) -> None:
    torch = FakeTorch()
    device = open_with(torch)
    assert device.hold(1e-3)
    assert device.hold(2e-3)
    assert torch.slept == [1_000_000, 2_000_000, 4_000_000]  # a million cycles took 0.5 ms: 2 GHz
    del torch.cuda._sleep
    assert not device.hold(1e-3)


def test_a_gpu_in_use_by_others_is_said_with_the_free_memory() -> None:
    note = busy_note("NVIDIA H200", {"utilisation": 0.83, "used_bytes": 40 * GIB}, 99 * GIB, 140 * GIB)
    assert note is not None
    assert "in use by others (83% busy)" in note
    assert "99.0 of 140.0 GiB are free" in note
    held = busy_note("NVIDIA H200", {"utilisation": 0.0, "used_bytes": 40 * GIB}, 99 * GIB, 140 * GIB)
    assert held is not None
    assert "others hold 40.0 GiB" in held
    assert "99.0 of 140.0 GiB are free" in held


@pytest.mark.parametrize("at_first", [{}, {"utilisation": 0.0, "used_bytes": 4 * MIB}, {"utilisation": 0.01}])
def test_a_gpu_of_ones_own_or_of_which_nothing_is_told_has_no_note(at_first: dict[str, float]) -> None:
    assert busy_note("NVIDIA H200", at_first, 139 * GIB, 140 * GIB) is None


def test_a_processor_stands_in_for_a_gpu_in_every_question() -> None:
    device = open_device("cpu")
    assert isinstance(device, HostDevice)
    first, last = device.event(), device.event()
    first.record()
    device.synchronize()
    last.record()
    assert first.elapsed_s(last) >= 0
    assert device.now_s() <= device.now_s()
    assert device.capture(lambda: None) is None
    assert not device.hold(1.0)
    assert not device.queues
    assert device.l2_bytes > 0
    assert device.busy_note() is None
    free = device.free_bytes()
    assert free is None or free > 0


def test_an_environment_is_flat_and_plain_and_names_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    found = environment(open_device("cpu"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(value is None or isinstance(value, str | int | float | bool) for value in found.values())
    assert found["device"] == "cpu"
    assert found["gpu_uuid"] is None
    assert found["env_CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "hostname" not in found


@pytest.mark.gpu
def test_a_real_gpu_opens_captures_and_holds() -> None:
    import torch

    device = open_device("cuda:0")
    assert isinstance(device, CudaDevice)
    x = torch.zeros(8, device="cuda")
    replay = device.capture(lambda: x.add_(1))
    assert replay is not None
    replay()
    device.synchronize()
    assert x[0].item() == 2  # the warm-up and the replay; a capture itself runs nothing
    assert device.capture(lambda: x.sum().item()) is None  # it waits for the host
    torch.cuda.empty_cache()
    assert device.capture(lambda: x.add_(1)) is not None  # and the next one works
    first, last = device.event(), device.event()
    assert device.hold(1e-3)
    first.record()
    assert device.hold(5e-3)
    last.record()
    device.synchronize()
    assert first.elapsed_s(last) == pytest.approx(5e-3, rel=0.5)
    assert environment(device)["sms"] == torch.cuda.get_device_properties(0).multi_processor_count
