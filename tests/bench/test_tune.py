"""What is tried, what is chosen and what is kept, on the recorded stand-in and with facts written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from advisor.errors import AdvisorError, BadInputError
from bench.tune import NOT_WORTH, SHAPES, TunedTable, candidates, choose, rejection, tune
from kernels.compile import CubinFacts
from tests.recorded_device import RecordedDevice

A100 = {"capability": (8, 0), "sms": 108}


@dataclass(frozen=True)
class Config:
    """The fields of MatmulConfig that decisions look at, without Triton."""

    tile_m: int
    tile_n: int
    tile_k: int = 64
    split_k: int = 1
    variant: str = "plain"


LARGE, MEDIUM, SMALL = Config(128, 256), Config(128, 128), Config(64, 64)
SLICED = Config(64, 64, split_k=4)
BY_TMA = Config(128, 128, variant="descriptor")
GOOD = CubinFacts(
    name="", capability=(8, 0), tile=(64, 64, 64), stages=3, warps=4, threads=128, registers=124, stack_bytes=0,
    spill_store_bytes=0, spill_load_bytes=0, shared_bytes=32768, tensor_memory_columns=0, matrix_instruction="HMMA",
    matrix_form="HMMA.16816.F32", matrix_count=32, global_loads={128: 24}, bulk_loads=0, code_bytes=9728,
)  # fmt: skip
FACTS = dict.fromkeys([LARGE, MEDIUM, SMALL, SLICED], GOOD)


def test_what_the_compiler_made_badly_is_not_tried() -> None:
    assert rejection(GOOD, (8, 0)) is None
    assert "64 B of stack" in str(rejection(replace(GOOD, stack_bytes=64, spill_store_bytes=64), (8, 0)))
    assert "no matrix instruction" in str(rejection(replace(GOOD, matrix_instruction=None), (8, 0)))
    assert rejection(replace(GOOD, matrix_instruction=None), (7, 0), matrix=False) is None  # there none has one
    assert "shared memory" in str(rejection(replace(GOOD, shared_bytes=180_000), (8, 0)))
    facts = FACTS | {LARGE: replace(GOOD, spill_load_bytes=8)}
    assert LARGE not in candidates((8, 0), 4096, 4096, 4096, 108, facts=facts)


def test_candidates_are_ranked_by_tiles_and_waves() -> None:
    # 4096 x 4096: 512 tiles of 128 x 256 are 5 per SM, 1024 of 128 x 128 are 10: the same products, more loads
    assert candidates((8, 0), 4096, 4096, 4096, 108, facts=FACTS)[0] == LARGE
    # 256 x 256: 2 tiles of 128 x 256 leave 106 SMs idle; 16 of 64 x 64 in slices of K fill them
    assert candidates((8, 0), 256, 256, 8192, 108, facts=FACTS)[0].split_k > 1
    assert len(candidates((8, 0), 256, 256, 8192, 108, facts=FACTS, most=2)) == 2


def test_one_number_of_slices_is_tried_per_tile_and_none_of_a_short_k() -> None:
    tried = candidates((8, 0), 256, 256, 8192, 108, facts=FACTS)
    assert sum(config.split_k > 1 for config in tried) == 1
    assert all(config.split_k == 1 for config in candidates((8, 0), 256, 256, 128, 108, facts=FACTS))


def test_nothing_sound_to_try_is_one_line_with_the_reasons() -> None:
    with pytest.raises(BadInputError, match=r"4096 x 64 x 64 on compute capability 8\.0.*spills"):
        candidates((8, 0), 4096, 64, 64, 108, facts={LARGE: replace(GOOD, stack_bytes=8)})


def prepared(
    device: RecordedDevice, seconds: Callable[[Config, int], float]
) -> Callable[..., list[Callable[[], object]]]:
    def prepare(config: Config, m: int, n: int, k: int) -> list[Callable[[], object]]:
        return [device.work(seconds(config, m))]

    return prepare


def test_the_fastest_measured_is_chosen_against_the_ranking() -> None:
    device = RecordedDevice(noise=0.002)
    times_s = {LARGE: 200e-6, MEDIUM: 150e-6, SMALL: 300e-6}
    table = tune(device, prepared(device, lambda c, m: times_s.get(replace(c, split_k=1), 1e-3)),
                 shapes=[(4096, 4096, 4096)], facts=FACTS, **A100)  # fmt: skip
    assert choose(table, 4096, 4096, 4096) == {
        "tile_m": 128, "tile_n": 128, "tile_k": 64, "split_k": 1, "variant": "plain"
    }  # fmt: skip
    timed = table["matmul"][0]["timed"]
    assert timed[0]["time_s"] == pytest.approx(150e-6, rel=0.01)
    assert [entry["careful"] for entry in timed] == [True, True, False, False]
    assert len(timed) == 4  # nothing measured is thrown away


def test_a_gain_within_the_noise_keeps_the_ranked_order() -> None:
    for gain, chosen in ((NOT_WORTH / 2, LARGE), (NOT_WORTH * 4, MEDIUM)):
        device = RecordedDevice()
        times_s = {LARGE: 200e-6, MEDIUM: 200e-6 * (1 - gain)}
        table = tune(device, prepared(device, lambda c, m, of=times_s: of.get(c, 1e-3)), shapes=[(4096, 4096, 4096)],
                     facts=FACTS, **A100)  # fmt: skip
        assert choose(table, 4096, 4096, 4096) is not None
        assert table["matmul"][0]["timed"][0]["config"]["tile_n"] == chosen.tile_n


def test_a_configuration_that_fails_is_kept_with_its_reason() -> None:
    device = RecordedDevice()

    def seconds(config: Config, m: int) -> float:
        if config == LARGE:
            raise RuntimeError("out of resource: shared memory\nand a stack trace")
        return 1e-4

    table = tune(device, prepared(device, seconds), shapes=[(4096, 4096, 4096)], facts=FACTS, **A100)
    assert table["matmul"][0]["failed"][0]["reason"] == "out of resource: shared memory"
    assert choose(table, 4096, 4096, 4096) is not None
    with pytest.raises(AdvisorError, match=r"did not run on .*: out of resource: shared memory"):
        tune(device, prepared(device, lambda c, m: seconds(LARGE, m)), shapes=[(64, 64, 64)], facts=FACTS, **A100)


def test_the_budget_ends_it_and_what_was_timed_stays() -> None:
    device = RecordedDevice()
    table = tune(device, prepared(device, lambda c, m: 1e-4), facts=FACTS, budget_s=0.5, **A100)
    assert 1 <= len(table["matmul"]) < len(SHAPES)
    whole = tune(RecordedDevice(), prepared(device, lambda c, m: 1e-4), facts=FACTS, budget_s=1e9, **A100)
    assert len(whole["matmul"]) == len(SHAPES)


def test_twenty_shapes_take_well_under_a_minute_of_the_device() -> None:
    device = RecordedDevice(noise=0.02)
    start_s = device.now_s()
    tune(device, prepared(device, lambda c, m: 1e-6 * max(m, 16)), facts=FACTS, **A100)
    assert device.now_s() - start_s < 30


def test_a_table_is_plain_data_and_answers_for_shapes_near_those_timed() -> None:
    device = RecordedDevice()
    times_s = {(SMALL, 128): 1e-5, (MEDIUM, 2048): 1e-5}
    table = tune(device, prepared(device, lambda c, m: times_s.get((c, m), 1e-4)),
                 shapes=[(128, 1024, 1024), (2048, 1024, 1024)], facts=FACTS, **A100)  # fmt: skip
    table = json.loads(json.dumps(table))

    def tile(m: int, n: int = 1024, k: int = 1024) -> int | None:
        chosen = choose(table, m, n, k)
        return chosen["tile_m"] if chosen else None

    assert tile(100) == tile(250) == 64
    assert tile(1100) == tile(4000) == 128
    assert tile(600) is None  # more than an octave from both
    assert tile(128, n=4096) is None
    assert tile(128, k=100) is None


def test_without_descriptors_the_next_best_is_chosen() -> None:
    device = RecordedDevice()
    facts = FACTS | {BY_TMA: GOOD}
    table: TunedTable = tune(device, prepared(device, lambda c, m: 1e-4 if c == BY_TMA else 2e-4 + c.tile_m * 1e-6),
                             shapes=[(4096, 4096, 4096)], facts=facts, **A100)  # fmt: skip
    fastest, plain = choose(table, 4096, 4096, 4096), choose(table, 4096, 4096, 4096, descriptors=False)
    assert fastest
    assert fastest["variant"] == "descriptor"
    assert plain
    assert plain["variant"] == "plain"
