"""Reading cubins: architectures, instructions, spills, the width of loads; what is missing or unknown is said."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from kernels import compile as compiling
from kernels.compile import (
    ARCHITECTURES,
    CompileError,
    MissingToolError,
    UnknownArchitectureError,
    architecture_name,
    code_section,
    compile_facts,
    decode_volta,
    parse_architecture,
)
from kernels.matmul import MatmulConfig, matmul_spec

# One child compiles all that is looked at here, each kernel once.
_COMPILE = """
from dataclasses import asdict
from kernels.compile import compile_facts, _compile, decode_volta, code_section, disassemble
from kernels.matmul import MatmulConfig, matmul_spec
from collections import Counter

def facts(config, capability, **options):
    found = compile_facts(matmul_spec(config, capability=capability, **options), capability)
    return asdict(found) | {
        "spills": found.spills, "wide_loads": found.wide_loads, "narrow_loads": found.narrow_loads
    }

def families(instructions):
    found = Counter()
    for name, count in instructions.items():
        found[name.split(".")[0]] += count
    return found

small = MatmulConfig(64, 64, 32, 3, 4)
old = MatmulConfig(32, 32, 16, 1, 4)
by_tma = MatmulConfig(64, 64, 64, 3, 4, variant="descriptor")
turing = code_section(_compile(matmul_spec(old, capability=(7, 5)), (7, 5)).asm["cubin"])
answer = {
    "ampere": facts(small, (8, 0)),
    "misaligned": facts(small, (8, 0), aligned=False),
    "hopper": facts(small, (9, 0)),
    "hopper by descriptor": facts(by_tma, (9, 0)),
    "blackwell": facts(MatmulConfig(128, 64, 32, 3, 4), (10, 0)),
    "geforce blackwell": facts(small, (12, 0)),
    "volta": facts(old, (7, 0)),
    "spilling": facts(MatmulConfig(128, 128, 32, 3, 4), (8, 0), aligned=False),
    "turing listed": families(disassemble([turing], (7, 5))[0]),
    "turing decoded": families(decode_volta(turing)),
}
"""


@pytest.fixture(scope="module")
def found(compiled: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    answer: dict[str, dict[str, Any]] = compiled(_COMPILE)
    return answer


@pytest.mark.parametrize("text", ["sm_90", "SM_90", "sm90", "90", "9.0", "sm_90a", " sm_90 "])
def test_an_architecture_is_read_as_it_is_written_anywhere(text: str) -> None:
    assert parse_architecture(text) == (9, 0)
    assert architecture_name((12, 0)) == "sm_120"
    assert parse_architecture("sm_120") == (12, 0)


@pytest.mark.parametrize("text", ["sm_61", "sm_999", "foo", "", "sm_", "9", "-90", "sm_90\nsm_80"])
def test_an_unknown_architecture_is_one_line_with_the_known_ones(text: str) -> None:
    with pytest.raises(UnknownArchitectureError) as error:
        parse_architecture(text)
    message = str(error.value)
    assert repr(text) in message
    assert "\n" not in message
    assert all(architecture_name(capability) in message for capability in ARCHITECTURES)


def test_each_generation_gets_its_own_matrix_instruction(found: dict[str, dict[str, Any]]) -> None:
    instructions = {name: found[name]["matrix_instruction"] for name in found if "turing" not in name}
    assert instructions["ampere"] == "HMMA"
    assert instructions["hopper"] == instructions["hopper by descriptor"] == "HGMMA"
    assert instructions["blackwell"] == "UTCHMMA"
    assert instructions["geforce blackwell"] == "HMMA"
    # 64 x 64 x 32 by m16n8k16 instructions: (64/16)(64/8)(32/16) = 64 of a warp, over 4 warps
    assert found["ampere"]["matrix_form"] == "HMMA.16816.F32"
    assert found["ampere"]["matrix_count"] == 16


def test_tensor_memory_is_known_where_there_is_some(found: dict[str, dict[str, Any]]) -> None:
    assert found["blackwell"]["tensor_memory_columns"] == 64  # 128 lanes x 64 columns of FP32 hold 128 x 64
    assert found["hopper"]["tensor_memory_columns"] == 0


def test_aligned_operands_are_loaded_16_bytes_at_a_time(found: dict[str, dict[str, Any]]) -> None:
    # per stage (64 + 64) x 32 x 2 B = 8192 B, by 128 threads x 16 B = 4 loads; 2 stages ahead of the loop and 1 in it
    assert found["ampere"]["global_loads"] == {"128": 12}
    assert found["ampere"]["narrow_loads"] == 0


def test_a_misaligned_kernel_loses_its_wide_loads(found: dict[str, dict[str, Any]]) -> None:
    assert found["misaligned"]["wide_loads"] == 0
    assert set(found["misaligned"]["global_loads"]) == {"16"}
    assert found["misaligned"]["matrix_instruction"] == "HMMA"  # slower, but on the Tensor Cores all the same


def test_descriptors_load_whole_tiles(found: dict[str, dict[str, Any]]) -> None:
    facts = found["hopper by descriptor"]
    assert facts["global_loads"] == {}
    assert facts["bulk_loads"] == facts["wide_loads"] > 0


def test_a_spill_is_seen_in_the_stack_and_in_the_code(found: dict[str, dict[str, Any]]) -> None:
    facts = found["spilling"]  # 128 accumulators per thread, and an address for each 2-byte load
    assert facts["spills"]
    assert facts["registers"] >= 250
    assert facts["stack_bytes"] > 0
    assert facts["spill_store_bytes"] > 0
    assert facts["spill_load_bytes"] > 0
    assert not found["ampere"]["spills"]


def test_shared_memory_is_the_kernels_own(found: dict[str, dict[str, Any]]) -> None:
    # (64 + 64) x 32 x 2 B per buffer: two of them where HMMA reads registers, three where HGMMA reads shared memory
    assert found["ampere"]["shared_bytes"] == 2 * 8192
    assert found["hopper"]["shared_bytes"] == 3 * 8192  # without the 1 KiB that the driver takes
    assert found["ampere"]["threads"] == 128
    assert found["ampere"]["code_bytes"] % 16 == 0


def test_volta_is_decoded_where_the_disassembler_refuses_it(found: dict[str, dict[str, Any]]) -> None:
    facts = found["volta"]
    assert facts["matrix_instruction"] is None  # Triton multiplies on the FP32 units there
    assert sum(facts["global_loads"].values()) > 0
    assert not facts["spills"]


def test_the_decoder_counts_what_the_disassembler_lists(found: dict[str, dict[str, Any]]) -> None:
    listed, decoded = found["turing listed"], found["turing decoded"]  # the encoding is Volta's
    assert sum(decoded.values()) == sum(listed.values())
    for name in ("LDG", "STG", "LDL", "STL", "HMMA"):
        assert decoded.get(name, 0) == listed.get(name, 0)
    assert listed["LDG"] > 0
    assert listed["STG"] > 0


def test_the_decoder_reads_widths_and_matrix_instructions() -> None:
    # in the order of the names below, as the disassembler of CUDA 12 gives them; 0x223 is FFMA
    words = [(0x236, 2), (0x381, 6), (0x981, 2), (0x387, 4), (0x983, 5), (0x223, 0)]
    code = b"".join(struct.pack("<2Q", 0x1234_0000_7000 | low, width << 9) for low, width in words)
    assert decode_volta(code) == {"HMMA": 1, "LDG.128": 1, "LDG.U16": 1, "STL.32": 1, "LDL.64": 1, "other": 1}


def test_what_is_no_cubin_is_refused() -> None:
    with pytest.raises(ValueError, match="not a 64-bit ELF file"):
        code_section(b"\x7fELF\x01\x01" + bytes(100))


def test_a_missing_tool_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_tool_candidates", lambda name: iter([None, f"/nowhere/{name}"]))
    with pytest.raises(MissingToolError, match="TRITON_CUOBJDUMP_PATH"):
        compiling.find_tool("cuobjdump")


def test_a_kernel_that_does_not_compile_is_one_line_with_its_name(compiled: Callable[[str], Any]) -> None:
    message = compiled(
        "from kernels.compile import CompileError, compile_facts\n"
        "from kernels.matmul import MatmulConfig, matmul_spec\n"
        "from dataclasses import replace\n"
        "spec = matmul_spec(MatmulConfig(64, 64, 32, 3, 4))\n"
        "try:\n"
        "    compile_facts(replace(spec, constants={**spec.constants, 'TILE_M': 48}), (9, 0))\n"
        "except CompileError as error:\n"
        "    answer = str(error)\n"
    )
    assert message.startswith("matmul 64x64x32 s3 w4 fp16 nn does not compile for sm_90: ")
    assert "\n" not in message
    assert "power of 2" in message


@pytest.mark.skipif("not __import__('os').environ.get('TRITON_INTERPRET')", reason="kernels are compiled here")
def test_an_interpreted_kernel_is_not_compiled() -> None:
    with pytest.raises(CompileError, match="TRITON_INTERPRET"):
        compile_facts(matmul_spec(MatmulConfig(64, 64, 32, 3, 4)), (9, 0))
