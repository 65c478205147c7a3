"""Builds small Chrome traces as torch.profiler writes them, with the field names of today or of 2021."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

V100 = {
    "id": 0, "name": "Tesla V100-SXM2-16GB", "totalGlobalMem": 16945512448, "computeMajor": 7, "computeMinor": 0,
    "maxThreadsPerBlock": 1024, "maxThreadsPerMultiprocessor": 2048, "regsPerBlock": 65536,
    "regsPerMultiprocessor": 65536, "warpSize": 32, "sharedMemPerBlock": 49152, "sharedMemPerMultiprocessor": 98304,
    "numSms": 80, "sharedMemPerBlockOptin": 98304,
}  # fmt: skip
A100 = {
    "id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 85100068864, "computeMajor": 8, "computeMinor": 0,
    "maxThreadsPerBlock": 1024, "maxThreadsPerMultiprocessor": 2048, "regsPerBlock": 65536,
    "regsPerMultiprocessor": 65536, "warpSize": 32, "sharedMemPerBlock": 49152, "sharedMemPerMultiprocessor": 167936,
    "numSms": 108, "sharedMemPerBlockOptin": 166912,
}  # fmt: skip
_OLD_CATEGORIES = {
    "cpu_op": "Operator", "kernel": "Kernel", "cuda_runtime": "Runtime", "gpu_memcpy": "Memcpy", "gpu_memset": "Memset",
    "user_annotation": "Operator",
}  # fmt: skip


class KinetoTrace:
    """A trace under construction; times in microseconds. `old` writes the categories and fields of 2021."""

    def __init__(self, device: dict[str, Any] | None = A100, *, old: bool = False, rank: int | None = None) -> None:
        self.device, self.old, self.rank = device, old, rank
        self.events: list[dict[str, Any]] = []
        self._next = 1

    def op(
        self,
        name: str,
        start: float,
        duration: float,
        *,
        dims: Sequence[Any] | None = None,
        types: Sequence[str] | None = None,
        inputs: Sequence[str] | None = None,
        sequence: int | None = None,
        forward_thread: int | None = None,
        thread: int = 1,
        category: str = "cpu_op",
    ) -> int:
        """An operator on the host; returns its external id."""
        number = self._number()
        arguments: dict[str, Any] = {"External id": number}
        if dims is not None:
            arguments["Input Dims"] = dims
            arguments["Input type"] = types if types is not None else ["float" if d else "" for d in dims]
        if inputs is not None:
            arguments["Concrete Inputs"] = inputs
        if sequence is not None:
            arguments |= {"Sequence number": sequence, "Fwd thread id": forward_thread or 0}
        self._add(category, name, start, duration, pid=100, tid=thread, args=arguments)
        return number

    def step(self, number: int, start: float, duration: float) -> None:
        """A ProfilerStep mark."""
        self.op(f"ProfilerStep#{number}", start, duration, category="user_annotation")

    def kernel(
        self,
        name: str,
        start: float,
        duration: float,
        *,
        launched: float | None = None,
        external: int | None = None,
        grid: Sequence[int] = (1, 1, 1),
        block: Sequence[int] = (128, 1, 1),
        registers: int = 32,
        shared: int = 0,
        occupancy: int | None = None,
        thread: int = 1,
        stream: int = 7,
    ) -> int:
        """A kernel, and its launch on the host where `launched` says when; returns the correlation id."""
        number = self._number()
        ctas = grid[0] * grid[1] * grid[2]
        warps = -(-block[0] * block[1] * block[2] // 32)
        arguments: dict[str, Any] = {
            "queued": 0, "device": 0, "context": 1, "stream": stream, "correlation": number,
            "registers per thread": registers, "shared memory": shared, "grid": list(grid), "block": list(block),
        }  # fmt: skip
        if self.device is not None:
            arguments |= {"blocks per SM": ctas / self.device["numSms"],
                          "warps per SM": ctas * warps / self.device["numSms"]}  # fmt: skip
        if occupancy is not None:
            arguments["est. achieved occupancy %"] = occupancy
        if external is not None:
            arguments["external id" if self.old else "External id"] = external
        self._add("kernel", name, start, duration, pid=0, tid=f"stream {stream}" if self.old else stream,
                  args=arguments)  # fmt: skip
        if launched is not None:
            of_launch: dict[str, Any] = {"cbid": 211, "correlation": number}
            if external is not None:
                of_launch["external id" if self.old else "External id"] = external
            self._add("cuda_runtime", "cudaLaunchKernel", launched, 5, pid=100, tid=thread, args=of_launch)
        return number

    def copy(
        self, name: str, start: float, duration: float, bytes_: int, *, launched: float | None = None, stream: int = 7
    ) -> int:
        """A copy ("Memcpy HtoD (Pageable -> Device)") or a fill ("Memset (Device)") by the GPU."""
        number = self._number()
        self._add("gpu_memset" if name.startswith("Memset") else "gpu_memcpy", name, start, duration, pid=0, tid=stream,
                  args={"device": 0, "stream": stream, "correlation": number, "bytes": bytes_})  # fmt: skip
        if launched is not None:
            arguments = {"correlation": number}
            self._add("cuda_runtime", "cudaMemcpyAsync", launched, 5, pid=100, tid=1, args=arguments)
        return number

    def call(self, name: str, start: float, duration: float, *, thread: int = 1) -> None:
        """Another call of the CUDA runtime, such as cudaDeviceSynchronize."""
        self._add("cuda_runtime", name, start, duration, pid=100, tid=thread, args={"correlation": self._number()})

    def memory(self, time: float, bytes_: int, *, device_type: int = 1) -> None:
        """An allocation (or, negative, a release)."""
        arguments = {"Device Type": device_type, "Device Id": 0, "Bytes": bytes_}
        self.events.append(
            {"ph": "i", "s": "t", "name": "[memory]", "pid": 100, "tid": 1, "ts": time, "args": arguments}
        )

    def document(self) -> dict[str, Any]:
        """The whole trace as JSON has it."""
        top: dict[str, Any] = {"schemaVersion": 1}
        if self.device is not None:
            top["deviceProperties"] = [self.device]
        if self.rank is not None:
            top["distributedInfo"] = {"backend": "nccl", "rank": self.rank, "world_size": 8}
        return {**top, "traceEvents": self.events, "traceName": "trace.json"}

    def write(self, path: Path) -> Path:
        """Write the file, packed as its suffix says; returns the path."""
        content = json.dumps(self.document(), indent=2).encode()
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(content))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(path.stem, content)
        else:
            path.write_bytes(content)
        return path

    def _add(self, category: str, name: str, start: float, duration: float, **rest: Any) -> None:
        category = _OLD_CATEGORIES[category] if self.old else category
        self.events.append({"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, **rest})

    def _number(self) -> int:
        self._next += 1
        return self._next - 1
