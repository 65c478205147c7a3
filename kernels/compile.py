"""What the compiler made of a kernel, for any architecture and without a GPU: read from the cubin itself.

Triton compiles a `KernelSpec` to a cubin; NVIDIA's cuobjdump lists its resources and nvdisasm its machine code (both
lie in Triton's own wheel). Registers and stack are the compiler's figures; spills, matrix instructions and the width
of loads are counted in the code: each is a number of instructions as they stand there, not of executions.

Standard library and Triton only.
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.spec import KernelSpec

# What Triton 3.9 compiles our kernels for; the tests go through the eight of `kernels.configs`.
ARCHITECTURES = (
    (7, 0), (7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1),
)  # fmt: skip
WIDE_BITS = 128  # 16 bytes: the widest load of one thread before 10.0


class UnknownArchitectureError(ValueError):
    """No architecture of this name, or none that Triton compiles for."""

    def __init__(self, asked: str) -> None:
        known = ", ".join(architecture_name(capability) for capability in ARCHITECTURES)
        super().__init__(f"unknown architecture {asked!r}: Triton's kernels are compiled for {known}")


class MissingToolError(RuntimeError):
    """Triton, or the program that reads cubins, is not installed."""


class CompileError(RuntimeError):
    """Triton or ptxas refused a kernel; the message names it and gives their verdict."""


@dataclass(frozen=True)
class CubinFacts:
    """One kernel as compiled for one architecture."""

    name: str
    capability: tuple[int, int]
    tile: tuple[int, int, int]  # M, N, K
    stages: int
    warps: int  # asked for
    threads: int  # of a CTA as launched: a warp-specialised kernel has more than `warps` tell
    registers: int  # per thread
    stack_bytes: int  # local memory per thread
    spill_store_bytes: int  # per thread, over all instructions that store to local memory, as ptxas counts spills
    spill_load_bytes: int
    shared_bytes: int  # per CTA, static and dynamic, without the driver's own share
    tensor_memory_columns: int  # of the 512 that an SM of 10.0 has
    matrix_instruction: str | None  # "HMMA", "HGMMA", "UTCHMMA", ...; None: the product runs on the FP32 units
    matrix_form: str | None  # the most frequent form, e.g. "HGMMA.64x128x16.F32"
    matrix_count: int
    global_loads: Mapping[int, int]  # bits that one thread loads -> instructions, to registers or to shared memory
    bulk_loads: int  # instructions that load a whole tile (the Tensor Memory Accelerator)
    code_bytes: int

    @property
    def spills(self) -> bool:
        """Whether registers, or anything else, went to local memory."""
        return self.stack_bytes > 0 or self.spill_store_bytes > 0 or self.spill_load_bytes > 0

    @property
    def wide_loads(self) -> int:
        """Loads of 128 bits per thread or more, and of whole tiles."""
        return sum(count for bits, count in self.global_loads.items() if bits >= WIDE_BITS) + self.bulk_loads

    @property
    def narrow_loads(self) -> int:
        """All other loads from global memory."""
        return sum(self.global_loads.values()) + self.bulk_loads - self.wide_loads


def architecture_name(capability: tuple[int, int]) -> str:
    """The compiler's name of a compute capability: (9, 0) is "sm_90"."""
    return f"sm_{capability[0]}{capability[1]}"


def parse_architecture(text: str) -> tuple[int, int]:
    """Compute capability of "sm_90", "sm90", "90" or "9.0". Raises UnknownArchitectureError for all others."""
    match = re.fullmatch(r"(?:sm_?)?([0-9]{1,2})\.?([0-9])a?", text.strip().lower())
    capability = (int(match[1]), int(match[2])) if match else None
    if capability not in ARCHITECTURES:
        raise UnknownArchitectureError(text)
    return capability


def compile_facts(spec: KernelSpec, capability: tuple[int, int]) -> CubinFacts:
    """Compile one kernel for one architecture and read its cubin. As `compile_all`."""
    return compile_all([spec], capability, workers=1)[0]


def compile_all(
    specs: Sequence[KernelSpec], capability: tuple[int, int], *, workers: int | None = None
) -> list[CubinFacts]:
    """Compile kernels for one architecture, several at a time, and read their cubins. Triton's cache keeps these.

    Threads suffice: most of the work leaves Python's lock. Raises UnknownArchitectureError, MissingToolError (no
    Triton, cuobjdump or nvdisasm), and CompileError where Triton or ptxas refuses a kernel.
    """
    if capability not in ARCHITECTURES:
        raise UnknownArchitectureError(architecture_name(capability))
    if not specs:
        return []
    with ThreadPoolExecutor(workers or _processors()) as pool:
        futures = [pool.submit(_compile, spec, capability) for spec in specs]
        try:
            compiled = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        usage = list(pool.map(lambda kernel: resource_usage(kernel.asm["cubin"]), compiled))
    codes = [code_section(kernel.asm["cubin"]) for kernel in compiled]
    return [
        _facts(spec, capability, kernel.metadata, resources, instructions, len(code))
        for spec, kernel, resources, instructions, code in zip(
            specs, compiled, usage, disassemble(codes, capability), codes, strict=True
        )
    ]


def _processors() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compile(spec: KernelSpec, capability: tuple[int, int]) -> Any:
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError:
        raise MissingToolError("compiling kernels needs triton, which is not installed") from None
    function = spec.function
    if not isinstance(function, triton.runtime.JITFunction):
        raise CompileError(f"{spec.name}: TRITON_INTERPRET was set when it was imported, so it cannot be compiled")
    arguments = _source_arguments(spec)
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    options = {"num_warps": spec.warps, "num_stages": spec.stages, "enable_fp_fusion": True}
    try:
        return triton.compile(ASTSource(function, *arguments), target=target, options=options)
    except Exception as error:  # Triton raises what its passes, LLVM or ptxas raise: no common base
        first: BaseException = error
        while first.__cause__ is not None:  # a fault in a called function comes wrapped in each of its callers
            first = first.__cause__
        lines = [line.strip() for line in str(first).splitlines() if line.strip()] or [type(first).__name__]
        said = next((line for line in lines if "fatal" in line), lines[-1])  # ptxas's verdict, or Triton's last line
        raise CompileError(f"{spec.name} does not compile for {architecture_name(capability)}: {said}") from error


def _source_arguments(spec: KernelSpec) -> tuple[Any, ...]:
    """Signature, constants and attributes as this Triton's ASTSource takes them."""
    names = list(spec.function.arg_names)
    multiples = [(names.index(name),) for name in names if name in spec.divisible_by_16]
    try:
        from triton.backends.compiler import AttrsDescriptor  # Triton 3.2: constants apart from the signature
    except ImportError:
        return dict(spec.signature), dict(spec.constants), {path: [["tt.divisibility", 16]] for path in multiples}
    attributes = AttrsDescriptor.from_dict(
        {"arg_properties": {"tt.divisibility": [index for (index,) in multiples]}, "cls": "AttrsDescriptor"}
    )
    signature = {name: kind for name, kind in spec.signature.items() if kind != "constexpr"}
    return signature, dict(spec.constants), attributes


_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", re.MULTILINE)
_MATRIX = re.compile(r"(?:UTC)?[A-Z]G?MMA")  # HMMA; HGMMA (Hopper's warp groups); UTCHMMA (Blackwell's Tensor Memory)
_GLOBAL_LOADS = ("LDG", "LDGSTS", "LD")  # to registers; to shared memory; generic, which may be either
_BULK_LOADS = ("UTMALDG", "UBLKCP")
_RESERVED_SHARED_BYTES = 1024


@dataclass(frozen=True)
class ResourceUsage:
    """As cuobjdump lists it: registers and stack per thread, static shared memory per CTA."""

    registers: int
    stack_bytes: int
    shared_bytes: int


def _facts(
    spec: KernelSpec, capability: tuple[int, int], metadata: Any, usage: ResourceUsage, instructions: Counter[str],
    code_bytes: int,
) -> CubinFacts:  # fmt: skip
    static_bytes = usage.shared_bytes
    if capability >= (9, 0):  # here the driver's own share is listed where dynamic memory begins behind it
        static_bytes = max(0, static_bytes - _RESERVED_SHARED_BYTES)
    matrix = Counter({form: count for form, count in instructions.items() if _MATRIX.match(form)})
    form = matrix.most_common(1)[0][0] if matrix else None
    return CubinFacts(
        name=spec.name,
        capability=capability,
        tile=spec.tile,
        stages=spec.stages,
        warps=spec.warps,
        threads=32 * metadata.num_warps,
        registers=usage.registers,
        stack_bytes=usage.stack_bytes,
        spill_store_bytes=_moved_bytes(instructions, "STL"),
        spill_load_bytes=_moved_bytes(instructions, "LDL"),
        shared_bytes=static_bytes + metadata.shared,
        tensor_memory_columns=getattr(metadata, "tmem_size", None) or 0,
        matrix_instruction=form.split(".")[0] if form else None,
        matrix_form=form,
        matrix_count=matrix.total(),
        global_loads=_by_width(instructions, _GLOBAL_LOADS),
        bulk_loads=sum(count for name, count in instructions.items() if name.split(".")[0] in _BULK_LOADS),
        code_bytes=code_bytes,
    )


def resource_usage(cubin: bytes) -> ResourceUsage:
    """Resources of the one kernel in a cubin. Raises MissingToolError where cuobjdump is missing or cannot read it."""
    listing = _run_on(cubin, find_tool("cuobjdump"), "--dump-resource-usage")
    found = _RESOURCES.search(listing.stdout)
    if found is None:
        raise MissingToolError(f"cuobjdump lists no resources of a cubin: {_said(listing)}")
    return ResourceUsage(*map(int, found.groups()))


def disassemble(codes: Sequence[bytes], capability: tuple[int, int]) -> list[Counter[str]]:
    """How often each instruction stands in the machine code of each kernel, by its full name ("LDG.E.128").

    One run of nvdisasm reads them all, as its start takes longer than a kernel. Raises MissingToolError where it is
    missing, or too old or too new for the architecture.
    """
    listing = _run_on(
        b"".join(codes), find_tool("nvdisasm"), "--binary", architecture_name(capability).replace("_", "").upper()
    )
    if listing.returncode != 0 and capability[0] == 7:  # from CUDA 13.1 on it refuses Volta
        return [decode_volta(code) for code in codes]
    found: list[Counter[str]] = [Counter() for _ in codes]
    ends = list(itertools.accumulate(len(code) for code in codes))
    for address, name in _INSTRUCTION.findall(listing.stdout):
        found[bisect.bisect_right(ends, int(address, 16))][name] += 1
    if not all(found):
        raise MissingToolError(f"nvdisasm cannot read code for {architecture_name(capability)}: {_said(listing)}")
    return found


def _run_on(content: bytes, *command: str) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(content)
        file.flush()
        return subprocess.run([*command, file.name], capture_output=True, text=True, check=False)


def _said(listing: subprocess.CompletedProcess[str]) -> str:
    return (listing.stderr.strip().splitlines() or [f"exit code {listing.returncode}"])[0]


def find_tool(name: str) -> str:
    """Path of cuobjdump or nvdisasm: from TRITON_<NAME>_PATH, Triton's wheel, CUDA_HOME, then PATH.

    Raises MissingToolError where it is in none of them.
    """
    for path in _tool_candidates(name):
        if path and os.access(path, os.X_OK) and Path(path).is_file():
            return str(path)
    raise MissingToolError(
        f"reading cubins needs NVIDIA's {name}, which is neither in Triton's wheel nor on PATH: "
        f"install CUDA's, or name it in TRITON_{name.upper()}_PATH"
    )


def _tool_candidates(name: str) -> Iterable[str | Path | None]:
    yield os.environ.get(f"TRITON_{name.upper()}_PATH")
    try:
        import triton
    except ImportError:
        pass
    else:
        yield Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "bin" / name
    yield shutil.which(name)


def _bits(form: str) -> int:
    """Bits that one thread moves: of "LDG.E.U16" 16, of "LDGSTS.E.BYPASS.LTC128B.128" 128; without a width 32."""
    for part in reversed(form.split(".")):
        width = re.fullmatch(r"[US]?(8|16|32|64|128|256)", part)
        if width:
            return int(width[1])
    return 32


def _by_width(instructions: Mapping[str, int], names: Iterable[str]) -> dict[int, int]:
    widths: Counter[int] = Counter()
    for form, count in instructions.items():
        if form.split(".")[0] in names:
            widths[_bits(form)] += count
    return dict(sorted(widths.items()))


def _moved_bytes(instructions: Mapping[str, int], name: str) -> int:
    return sum(bits // 8 * count for bits, count in _by_width(instructions, (name,)).items())


def code_section(cubin: bytes) -> bytes:
    """Machine code of the one kernel in a cubin, a 64-bit little-endian ELF file. Raises ValueError for others.

    Source of the layout: System V ABI, "Object Files" (ELF-64 header and section header).
    """
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit ELF file")
    table, entry_bytes, entries, names_at = struct.unpack_from("<Q", cubin, 40) + struct.unpack_from("<3H", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + entry_bytes * index) for index in range(entries)]
    names = headers[names_at][4]
    code = [
        cubin[offset : offset + size]
        for name, _, _, _, offset, size in headers
        if cubin[names + name :].startswith(b".text.")
    ]
    if len(code) != 1:
        raise ValueError(f"a cubin of one kernel was expected, this one holds {len(code)}")
    return code[0]


# The low 12 bits of a 128-bit instruction of Volta and Turing, for those that are counted here; public disassemblers
# (NVIDIA's of CUDA 12, Mesa's NAK compiler) give the same. Loads and stores hold their width in bits 73 to 75.
_VOLTA = {
    0x381: "LDG", 0x981: "LDG", 0x380: "LD", 0x980: "LD", 0x386: "STG", 0x986: "STG", 0x387: "STL", 0x987: "STL",
    0x383: "LDL", 0x983: "LDL", 0x236: "HMMA", 0x23C: "HMMA", 0x237: "IMMA",
}  # fmt: skip
_VOLTA_WIDTHS = ("U8", "S8", "U16", "S16", "32", "64", "128", "128")


def decode_volta(code: bytes) -> Counter[str]:
    """Matrix instructions, loads and stores in machine code of compute capability 7.x, as a disassembler names them."""
    found: Counter[str] = Counter()
    for low, high in struct.iter_unpack("<2Q", code):
        name = _VOLTA.get(low & 0xFFF, "other")
        is_memory = name[:2] in ("LD", "ST")
        found[f"{name}.{_VOLTA_WIDTHS[high >> 9 & 7]}" if is_memory else name] += 1
    return found
