"""What is timed on: a CUDA device or this machine's processor, behind one small interface.

Only this module and the suites touch `torch.cuda`, so that all that decides (when to stop, what has settled, whether
there was drift) runs in tests on a recorded stand-in. Importing it imports no torch.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

from advisor.errors import BadInputError, MissingDependencyError, NoGpuError
from bench.case import METHOD_VERSION, Plain
from bench.telemetry import Telemetry, bare_uuid, open_telemetry, use_by_device

GIB = 2**30
BUSY_UTILISATION = 0.05  # of the last second, before anything of ours ran
BUSY_BYTES = 256 * 2**20  # another program's CUDA context is about this large or larger


class Event(Protocol):
    """A point in the device's order of work."""

    def record(self) -> None:
        """Mark the point after all work that was queued so far."""

    def elapsed_s(self, later: Event) -> float:
        """Seconds from this point to `later`; both reached, that is after `Device.synchronize`."""


class Device(Protocol):
    """All that the timer asks of a device."""

    @property
    def name(self) -> str:
        """As its maker calls it."""

    @property
    def kind(self) -> Literal["cuda", "cpu"]:
        """What a suite gives torch, without the index."""

    @property
    def queues(self) -> bool:
        """Whether a call returns before its work is done, so that the host can run ahead of the device."""

    @property
    def l2_bytes(self) -> int:
        """Size of the last cache before memory, which cold operands must not fit in."""

    @property
    def telemetry(self) -> Telemetry:
        """Clocks, power and temperature; empty where nobody tells them."""

    def now_s(self) -> float:
        """The host's clock, in seconds from an arbitrary start; it never goes back."""

    def synchronize(self) -> None:
        """Wait until all queued work is done."""

    def event(self) -> Event:
        """A new event, not yet recorded."""

    def capture(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """What `run` queues, as one replay without the host's launches; None where that is not possible."""

    def hold(self, seconds: float) -> bool:
        """Keep the device waiting about so long, so that the host can queue ahead; False where it cannot be."""

    def free_bytes(self) -> int | None:
        """Memory that a new allocation can have, the allocator's unused reserve included; None if not known."""

    def busy_note(self) -> str | None:
        """One line if others used the device when it was opened, with the free memory; None if nobody did."""


def open_device(name: str) -> Device:
    """Open "cuda", "cuda:0" (or another index) or "cpu".

    Raises BadInputError for another name, MissingDependencyError without torch, NoGpuError where torch has no CUDA,
    finds no GPU or not this one.
    """
    if name == "cpu":
        return HostDevice()
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise BadInputError(f"unknown device {name!r}: it is cpu, cuda or cuda:0, cuda:1, ...")
    return CudaDevice(int(match[1] or 0))


class HostDevice:
    """This machine's processor, for trying the whole chain without a GPU. A call's end is its work's end: no queue."""

    kind: Literal["cuda", "cpu"] = "cpu"
    queues = False
    uuid: str | None = None

    def __init__(self) -> None:
        self.name = platform.processor() or platform.machine() or "cpu"
        self.telemetry = Telemetry(reason="a processor has no NVML")
        self.l2_bytes = _host_l2_bytes()

    def now_s(self) -> float:
        """See Device."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """See Device."""

    def event(self) -> Event:
        """See Device."""
        return _HostEvent()

    def capture(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """None: a processor has no graphs."""
        return None

    def hold(self, seconds: float) -> bool:
        """False: nothing is queued."""
        return False

    def free_bytes(self) -> int | None:
        """See Device."""
        return _sysconf("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")

    def busy_note(self) -> str | None:
        """None: a smoke run's times are not kept."""
        return None


class _HostEvent:
    def __init__(self) -> None:
        self.at_s = 0.0

    def record(self) -> None:
        self.at_s = time.perf_counter()

    def elapsed_s(self, later: Any) -> float:
        return float(later.at_s - self.at_s)


class CudaDevice:
    """A CUDA device by torch's index. Raises MissingDependencyError or NoGpuError, each in one line."""

    kind: Literal["cuda", "cpu"] = "cuda"
    queues = True

    def __init__(self, index: int = 0) -> None:
        self._torch = torch = _torch_with_cuda()
        count = torch.cuda.device_count()
        if index >= count:
            raise NoGpuError(f"there is no cuda:{index}: torch sees {count} GPU(s), the last is cuda:{count - 1}")
        others = use_by_device()  # before this process has a context on one: all that is in use is others'
        try:
            self.properties = torch.cuda.get_device_properties(index)
        except RuntimeError as error:
            raise NoGpuError(f"cuda:{index} does not answer: {_first_line(error)}") from None
        self.index = index
        self.name: str = self.properties.name
        self.uuid: str | None = _uuid(self.properties, os.environ, index)
        self.telemetry = open_telemetry(self.uuid) if self.uuid else Telemetry(reason="torch tells no UUID")
        self.l2_bytes = int(self.properties.L2_cache_size)
        torch.cuda.set_device(index)
        at_first = others.get(bare_uuid(self.uuid or ""), {})
        self._busy_note = busy_note(self.name, at_first, self._driver_free_bytes(), self.properties.total_memory)
        self._side: Any = None
        self._cycles_per_s: float | None = None

    def now_s(self) -> float:
        """See Device."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """See Device."""
        self._torch.cuda.synchronize(self.index)

    def event(self) -> Event:
        """See Device."""
        return _CudaEvent(self._torch)

    def capture(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """Replay of a CUDA graph. `run` is called twice: once so that nothing is compiled or set up while capturing.

        `torch.cuda.graph` collects garbage and empties the allocator's cache at each capture, which would cost more
        than the measurement; here nothing is collected at all meanwhile, as freeing an event or a graph would break
        the capture. One stream serves all captures: cuBLAS keeps a workspace for each stream it has seen.

        What cannot be captured gives None, but costs memory and, in torch before 2.12, leaves the allocator believing
        that it still captures (pytorch #180395), which is put right here as far as can be: avoid it.
        """
        torch = self._torch
        side = self._side = self._side or torch.cuda.Stream(self.index)
        here = torch.cuda.current_stream(self.index)
        graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        collecting = gc.isenabled()
        gc.disable()
        side.wait_stream(here)
        try:
            with torch.cuda.stream(side):
                run()
                side.synchronize()
                try:
                    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                    try:
                        run()
                    finally:
                        graph.capture_end()
                except RuntimeError:  # it waits for the host, runs on another stream or finds no memory
                    self._side = None
                    with suppress(AttributeError, RuntimeError):
                        torch._C._cuda_endAllocateToPool(self.index, pool)
                    return None
            return graph.replay  # type: ignore[no-any-return]  # torch is not imported here, so all of it is Any
        finally:
            here.wait_stream(side)
            if collecting:
                gc.enable()

    def hold(self, seconds: float) -> bool:
        """Occupy one SM with a wait. False where this torch has no `torch.cuda._sleep` (its own tests use it)."""
        sleep = getattr(self._torch.cuda, "_sleep", None)
        if sleep is None:
            return False
        if self._cycles_per_s is None:
            self.synchronize()
            first, last = self.event(), self.event()
            first.record()
            sleep(1_000_000)
            last.record()
            self.synchronize()
            self._cycles_per_s = 1_000_000 / max(first.elapsed_s(last), 1e-5)
        sleep(max(1, int(seconds * self._cycles_per_s)))
        return True

    def free_bytes(self) -> int | None:
        """See Device."""
        reserved, allocated = (
            ask(self.index) for ask in (self._torch.cuda.memory_reserved, self._torch.cuda.memory_allocated)
        )
        return self._driver_free_bytes() + int(reserved - allocated)

    def busy_note(self) -> str | None:
        """See Device."""
        return self._busy_note

    def _driver_free_bytes(self) -> int:
        return int(self._torch.cuda.mem_get_info(self.index)[0])


class _CudaEvent:
    def __init__(self, torch: Any) -> None:
        self._event = torch.cuda.Event(enable_timing=True)

    def record(self) -> None:
        self._event.record()

    def elapsed_s(self, later: Any) -> float:
        return float(self._event.elapsed_time(later._event)) * 1e-3


def environment(device: Device) -> dict[str, Plain]:
    """What a record says of where it was measured: flat and JSON-plain; a figure nobody tells is None.

    Sizes in bytes, power in watts, `capability` as "9.0". No host name, serial number or PCI id.
    """
    torch = _optional_module("torch")
    triton = _optional_module("triton")
    facts: dict[str, Plain] = {
        "method_version": METHOD_VERSION,
        "device": device.kind,
        "gpu_name": None,
        "gpu_uuid": None,
        "capability": None,
        "sms": None,
        "memory_bytes": None,
        "l2_bytes": device.l2_bytes,
        "power_limit_w": None,
        "driver": device.telemetry.driver(),
        "cuda": _look(lambda torch: torch.version.cuda, torch),
        "cudnn": _look(lambda torch: torch.backends.cudnn.version(), torch),
        "torch": getattr(torch, "__version__", None) and str(torch.__version__),
        "triton": getattr(triton, "__version__", None),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "telemetry_missing": device.telemetry.reason,
        "busy": device.busy_note(),
    }
    if isinstance(device, CudaDevice):
        properties = device.properties
        facts |= {
            "gpu_name": device.name,
            "gpu_uuid": device.uuid,
            "capability": f"{properties.major}.{properties.minor}",
            "sms": int(properties.multi_processor_count),
            "memory_bytes": int(properties.total_memory),
            "power_limit_w": _look(lambda: float(device.telemetry.read(quick=True)["power_limit_w"])),
        }
    for name, ask in _SETTINGS.items():
        facts[name] = _look(ask, torch)
    for name in _ENVIRONMENT_VARIABLES:
        if name in os.environ:
            facts[f"env_{name}"] = os.environ[name]
    return facts


_SETTINGS: dict[str, Callable[[Any], Plain]] = {  # of torch, that change how long or which kernels run
    "allow_tf32_matmul": lambda torch: bool(torch.backends.cuda.matmul.allow_tf32),
    "allow_tf32_cudnn": lambda torch: bool(torch.backends.cudnn.allow_tf32),
    "fp16_reduced_precision_reduction": lambda torch: bool(
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    ),
    "bf16_reduced_precision_reduction": lambda torch: bool(
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    ),
    "cudnn_benchmark": lambda torch: bool(torch.backends.cudnn.benchmark),
    "cudnn_deterministic": lambda torch: bool(torch.backends.cudnn.deterministic),
    "deterministic_algorithms": lambda torch: bool(torch.are_deterministic_algorithms_enabled()),
}
_ENVIRONMENT_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TRITON_INTERPRET",
)


def busy_note(name: str, at_first: Mapping[str, Any], free_bytes: int, total_bytes: int) -> str | None:
    """One line if, before anything of ours ran, others used the device named; None if nobody did or nobody tells.

    `at_first` is a reading of `Telemetry.read`.
    """
    busy = float(at_first.get("utilisation", 0.0))
    used = int(at_first.get("used_bytes", 0))
    free = f"{free_bytes / GIB:.1f} of {total_bytes / GIB:.1f} GiB are free"
    if busy >= BUSY_UTILISATION:
        return f"{name} is in use by others ({busy:.0%} busy), so its times will be too long; {free}: stop them first"
    if used >= BUSY_BYTES:
        return f"others hold {used / GIB:.1f} GiB of {name}, idle for now; {free}: cases that do not fit are skipped"
    return None


def _torch_with_cuda() -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise MissingDependencyError(
            f"measuring needs torch ({_first_line(error)}): pip install 'batchwave[torch]'"
        ) from None
    if torch.version.cuda is None:
        raise NoGpuError(f"torch {torch.__version__} is built without CUDA: install a build with CUDA from pytorch.org")
    if not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = f" (CUDA_VISIBLE_DEVICES={hidden})" if hidden is not None else ""
        raise NoGpuError(
            f"torch {torch.__version__} finds no usable NVIDIA GPU{seen}: check nvidia-smi, or that the driver is new "
            f"enough for CUDA {torch.version.cuda}"
        )
    return torch


def _uuid(properties: Any, environ: Mapping[str, str], index: int) -> str | None:
    """NVML's name of what CUDA shows: the MIG slice that was asked for by name, else what torch tells."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if index < len(visible) and visible[index].strip().startswith("MIG-"):
        return visible[index].strip()
    uuid = getattr(properties, "uuid", None)  # torch 2.5 and later
    return f"GPU-{uuid}" if uuid is not None else None


def _optional_module(name: str) -> Any:
    with suppress(ImportError):
        return importlib.import_module(name)
    return None


def _look(ask: Callable[..., Plain], *arguments: Any) -> Plain:
    """A fact that may be missing: another version has no such attribute, or says it otherwise."""
    try:
        return ask(*arguments)
    except (AttributeError, KeyError, RuntimeError):
        return None


def _host_l2_bytes() -> int:
    return _sysconf("SC_LEVEL2_CACHE_SIZE") or 2**20


def _sysconf(*names: str) -> int | None:
    """Product of what the system says under these names; None on a system without them."""
    try:
        product = 1
        for name in names:
            product *= os.sysconf(name)
    except (AttributeError, ValueError, OSError):
        return None
    return product if product > 0 else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
