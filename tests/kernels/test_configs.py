"""Every shipped configuration, compiled for every architecture: the rules by which the tables were chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from advisor.gpus.architectures import ARCHITECTURES as FACTS
from bench.device import HostDevice
from bench.tune import matmul_calls
from kernels.choice import ARCHITECTURES, FMA_PER_CLOCK, estimated_clocks, nearest_architecture, ranked, with_splits
from kernels.compile import architecture_name
from kernels.configs import conv_configs, default_config, matmul_configs, usable
from kernels.conv2d import ConvPass, conv_spec
from kernels.matmul import MatmulConfig, matmul_reference, matmul_spec

PASSES: tuple[ConvPass, ...] = ("forward", "dgrad", "wgrad")
INSTRUCTIONS: dict[tuple[int, int], set[str | None]] = {
    (7, 0): {None}, (7, 5): {None}, (8, 0): {"HMMA"}, (8, 6): {"HMMA"}, (8, 9): {"HMMA"}, (9, 0): {"HGMMA"},
    (10, 0): {"UTCHMMA"}, (12, 0): {"HMMA"},
}  # fmt: skip

# All of one architecture in one child. K that tile_k does not divide ("ragged") masks the loads of the last step.
_COMPILE = """
from dataclasses import replace
from bench.inspect_kernels import resident_ctas
from kernels.compile import compile_all
from kernels.configs import conv_configs, matmul_configs
from kernels.conv2d import conv_spec
from kernels.matmul import matmul_spec

capability = {capability}
named = []

def add(label, tile, unaligned, spec):
    named.append((label + ": " + spec.name, tile, unaligned, spec))

for entry in matmul_configs(capability):
    config = entry.config
    for layout in ("nn", "nt", "tn"):  # dgrad is nn, forward is nt, wgrad is tn
        add("aligned", config.tile, False, matmul_spec(config, capability=capability, layout=layout))
    if config.split_k > 1:
        one = matmul_spec(replace(config, split_k=1), capability=capability, layout="nt")
        add("aligned", config.tile, False, one)
    if config.variant != "descriptor":  # in wgrad K is the rows of the batch, which may be any number
        spec = matmul_spec(config, capability=capability, layout="tn")
        add("ragged", config.tile, False, replace(spec, constants={{**spec.constants, "EVEN_K": False}}))
    if entry.unaligned:
        spec = matmul_spec(config, capability=capability, layout="nt", aligned=False)
        add("unaligned", config.tile, True, spec)
for pass_ in ("forward", "dgrad", "wgrad"):
    for entry in conv_configs(capability, pass_):
        add("aligned", entry.config.tile, False, conv_spec(pass_, entry.config, capability=capability))
        if entry.unaligned:
            spec = conv_spec(pass_, entry.config, capability=capability, aligned=False)
            add("unaligned", entry.config.tile, True, spec)
found = compile_all([spec for *_, spec in named], capability)
answer = [
    {{
        "name": name, "tile": tile, "unaligned": unaligned, "spills": facts.spills, "stack_bytes": facts.stack_bytes,
        "matrix": facts.matrix_instruction, "narrow": facts.narrow_loads, "wide": facts.wide_loads,
        "resident": resident_ctas(facts).ctas,
    }}
    for (name, tile, unaligned, _), facts in zip(named, found)
]
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ARCHITECTURES, ids=architecture_name)
def test_every_shipped_configuration_compiles_well(
    capability: tuple[int, int], compiled: Callable[[str], list[dict[str, Any]]]
) -> None:
    rows = compiled(_COMPILE.format(capability=capability))
    assert len(rows) >= (8 if capability < (8, 0) else 35)
    assert not [(row["name"], row["stack_bytes"]) for row in rows if row["spills"]]
    assert not [row["name"] for row in rows if row["resident"] < 1]
    assert not [row["name"] for row in rows if row["narrow"] and not row["unaligned"]]
    assert not [row["name"] for row in rows if row["wide"] and row["unaligned"]]
    for row in rows:
        thin = row["tile"][0] < 64 and capability >= (9, 0)  # the instructions of 9.0 and 10.0 take 64 rows
        assert row["matrix"] in ({"HMMA"} if thin else INSTRUCTIONS[capability]), row["name"]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=architecture_name)
def test_a_table_is_small_and_each_entry_is_there_for_a_reason(capability: tuple[int, int]) -> None:
    for table in (matmul_configs(capability), *(conv_configs(capability, pass_) for pass_ in PASSES)):
        assert len({entry.config for entry in table}) == len(table) <= 8
        assert all(entry.reason for entry in table)
        assert any(entry.unaligned for entry in table)
    if capability >= (8, 0):
        configs = [entry.config for entry in matmul_configs(capability)]
        assert len(configs) >= 4
        assert any(config.split_k > 1 for config in configs)
        assert any(config.tile_m <= 32 for config in configs)
        assert any(config.variant == "descriptor" for config in configs) == (capability >= (9, 0))


def test_rates_are_those_of_the_table_of_architectures() -> None:
    for capability in ARCHITECTURES:
        facts = FACTS[capability]
        flop = facts.fp16 if capability >= (8, 0) else facts.fp32
        assert FMA_PER_CLOCK[capability] * 2 == flop


def test_an_architecture_that_is_not_checked_takes_the_tables_of_its_kind() -> None:
    assert nearest_architecture((8, 7)) == (8, 0)
    assert nearest_architecture((10, 3)) == (10, 0)
    assert nearest_architecture((12, 1)) == (12, 0)
    assert nearest_architecture((13, 0)) == (12, 0)
    with pytest.raises(ValueError, match=r"compute capability 6\.1"):
        matmul_configs((6, 1))
    with pytest.raises(ValueError, match="unknown pass 'backward'"):
        conv_configs((8, 0), "backward")  # what is refused


def test_clocks_are_tiles_and_waves_worked_by_hand() -> None:
    config = MatmulConfig(128, 256, 64, 3, 8)
    # 2304 x 4096: 18 x 16 = 288 tiles on 108 SMs, so 3 each. A step of one K: 128 x 256 / 1024 = 32 clocks of products,
    # 2 x 384 / 48 = 16 of loads. Store 2 x 128 x 256 / 48 = 1365.3; fill 1000.
    clocks = estimated_clocks(config, 2304, 4096, 1000, sms=108, capability=(8, 0))
    assert clocks == pytest.approx(3 * (1024 * 32 + 65536 / 48 + 1000))  # K is padded to 16 steps of 64
    persistent = MatmulConfig(128, 256, 64, 3, 8, variant="persistent")
    filled_once = estimated_clocks(persistent, 2304, 4096, 1000, sms=108, capability=(8, 0))
    assert filled_once == pytest.approx(clocks - 2 * 1000)


def test_split_k_fills_the_gpu_where_c_is_small_and_k_is_long() -> None:
    small = default_config(256, 256, 16384, sms=132, capability=(9, 0))
    assert small.split_k > 1
    assert default_config(8192, 8192, 16384, sms=132, capability=(9, 0)).split_k == 1
    template = MatmulConfig(64, 64, 64, 4, 4, split_k=4)
    assert [config.split_k for config in with_splits([template], 1024)] == [1, 2, 4, 8]  # two steps of 64 each at least
    assert [config.split_k for config in with_splits([template], 128)] == [1]


def test_few_rows_take_the_thin_tile_and_many_the_large_one() -> None:
    for capability, sms in (((8, 0), 108), ((9, 0), 132), ((8, 6), 84), ((12, 0), 170)):
        assert default_config(16, 4096, 4096, sms=sms, capability=capability).tile_m <= 32
        large = default_config(16384, 16384, 4096, sms=sms, capability=capability)
        assert large.tile_m * large.tile_n >= 128 * 128


def test_operands_that_descriptors_cannot_take_get_none() -> None:
    sizes = {"sms": 132, "capability": (9, 0)}
    assert default_config(8192, 8192, 4096, **sizes).variant == "descriptor"
    assert default_config(8192, 8192, 4096, descriptors=False, **sizes).variant == "plain"
    odd = default_config(8191, 8191, 4095, aligned=False, **sizes)
    assert odd in usable(matmul_configs((9, 0)), aligned=False)
    assert odd.variant == "plain"


def test_equal_ones_stay_in_the_order_of_the_table() -> None:
    twins = [MatmulConfig(64, 64, 64, stages, 4) for stages in (5, 3, 4)]
    assert ranked(twins, 512, 512, 512, sms=108, capability=(8, 0)) == twins


def test_every_entry_is_a_kernel_that_can_be_asked_for() -> None:
    for capability in ARCHITECTURES:
        for entry in matmul_configs(capability):
            assert matmul_spec(entry.config, capability=capability).tile == entry.config.tile
        for pass_ in PASSES:
            for found in conv_configs(capability, pass_):
                assert conv_spec(pass_, found.config, capability=capability).warps == found.config.warps


def test_the_calls_that_tuning_times_multiply_random_operands(device: str) -> None:
    prepare = matmul_calls(HostDevice(), device, layout="nt")
    config = MatmulConfig(32, 32, 32, 1, 4)
    (call, *_) = prepare(config, 33, 48, 40)
    torch.manual_seed(0)
    a = torch.randn(33, 40, device=device, dtype=torch.float16)
    b = torch.randn(48, 40, device=device, dtype=torch.float16).t()
    torch.testing.assert_close(call(), matmul_reference(a, b), rtol=2e-3, atol=2e-3)
