"""Resident CTAs from compile facts, by hand and as the driver counts them; what the child says of bad input."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest

from advisor.errors import BadInputError
from bench.inspect_kernels import Residency, main, resident_ctas
from kernels.compile import CubinFacts

FACTS = CubinFacts(
    name="a kernel", capability=(8, 0), tile=(64, 128, 64), stages=3, warps=4, threads=128, registers=167,
    stack_bytes=0, spill_store_bytes=0, spill_load_bytes=0, shared_bytes=48 * 1024, tensor_memory_columns=0,
    matrix_instruction="HMMA", matrix_form="HMMA.16816.F32", matrix_count=64, global_loads={128: 36}, bulk_loads=0,
    code_bytes=13184,
)  # fmt: skip


def test_resident_ctas_follow_from_registers_and_shared_memory() -> None:
    # 167 x 32 = 5344 -> 5376 registers a warp, 3 of them in a quarter's 16384, so 12 warps: 3 CTAs of 4.
    # 49152 + 1024 B, three times in 164 KiB = 167936 B.
    assert resident_ctas(FACTS) == Residency(3, "registers")
    # 100 KiB hold two of them
    assert resident_ctas(FACTS, (8, 6)) == Residency(2, "shared memory")
    assert resident_ctas(replace(FACTS, shared_bytes=200 * 1024)) == Residency(0, "shared memory")


def test_tensor_memory_limits_resident_ctas_where_there_is_some() -> None:
    facts = replace(FACTS, capability=(10, 0), registers=64, tensor_memory_columns=256)  # of 512
    assert resident_ctas(facts) == Residency(2, "tensor memory")
    # 4 x (48 + 1) KiB in 228: no fifth, and 64 columns would allow eight
    assert resident_ctas(replace(facts, tensor_memory_columns=64)) == Residency(4, "shared memory")


def test_an_unknown_architecture_is_refused_before_anything_is_imported() -> None:
    with pytest.raises(BadInputError, match=r"unknown architecture 'sm_61'.*sm_70.*sm_120"):
        main(["--arch", "sm_61"])


@pytest.mark.gpu
def test_registers_and_resident_ctas_are_those_that_the_driver_counts() -> None:
    torch = pytest.importorskip("torch")
    from kernels.compile import _compile, compile_facts
    from kernels.configs import matmul_configs
    from kernels.matmul import matmul_spec

    capability = torch.cuda.get_device_capability()
    cuda = ctypes.CDLL("libcuda.so.1")
    for entry in matmul_configs(capability):
        spec = matmul_spec(entry.config, capability=capability)
        kernel, facts = _compile(spec, capability), compile_facts(spec, capability)
        kernel._init_handles()  # loads it, and opts into its shared memory
        function, count = ctypes.c_void_p(kernel.function), ctypes.c_int()
        status = cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(
            ctypes.byref(count), function, facts.threads, ctypes.c_size_t(facts.shared_bytes)
        )
        assert status == 0
        assert kernel.n_regs == facts.registers, entry.config
        found = resident_ctas(facts)
        if found.limiter != "tensor memory":  # which the driver does not count
            assert count.value == found.ctas, entry.config
