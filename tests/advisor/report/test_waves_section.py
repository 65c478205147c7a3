import numpy as np
import pytest

from advisor.gpus import list_gpus
from advisor.report.records import Figure, Origin, Section
from advisor.report.sections.waves import section
from advisor.report.subject import Measured, MeasuredProducts
from advisor.report.wave_map import WaveMap, usual_tile
from tests.advisor.report.subjects import subject
from tests.pictures import pictured

A100 = WaveMap(256, 128, 108)
NOWHERE = Origin("measured here", "made up")


def figure(found: Section, id_: str) -> Figure:
    return next(figure for figure in found.figures if figure.id == id_)


def products(kernels: tuple[str, ...], *, size: int) -> MeasuredProducts:
    sizes, times = np.full(len(kernels), size), np.full(len(kernels), 1e-3)
    return MeasuredProducts(sizes, sizes, sizes, times, times, times, "fp16", "cublas", "cold", kernels, False, NOWHERE)


def test_nine_by_twelve_tiles_are_one_full_wave_of_an_a100_and_a_column_more_is_half_of_two() -> None:
    by_tiles = A100.by_tiles()
    assert by_tiles[8, 11] == 1  # 2304 x 1536: 108 tiles
    assert by_tiles[8, 12] == 117 / 216  # 2304 x 1537
    assert A100.efficiency(np.array([2304]), np.array([1537]))[0] == pytest.approx(1537 / 1664 * 117 / 216)


def test_the_boundary_of_a_wave_is_the_largest_n_that_it_holds() -> None:
    # 1, 2, 5 and 9 rows of tiles leave 108, 54, 21 and 12 columns of 128
    assert A100.boundary(1)[[0, 1, 4, 8]].tolist() == [108 * 128, 54 * 128, 21 * 128, 12 * 128]
    assert A100.boundary(2)[4] == 43 * 128


def test_sizes_that_fill_one_wave_come_first_and_the_squarest_of_them_before_the_rest() -> None:
    full = A100.full()
    # 108 = 9 x 12 = 6 x 18 = 4 x 27 = 3 x 36 = 2 x 54, within 32 rows and 64 columns of tiles
    one = {(m // 256, n // 128) for m, n, waves in full if waves == 1}
    assert one == {(9, 12), (12, 9), (6, 18), (18, 6), (4, 27), (27, 4), (3, 36), (2, 54)}
    assert full[0] == (2304, 1536, 1)


def test_142_sms_are_never_filled_exactly_below_8192_for_71_is_prime() -> None:
    assert WaveMap(256, 128, 142).full() == []
    found = section(subject("l40s"))
    assert found.tables == ()
    assert "None of the 2,048 grids" in figure(found, "waves-map").answer


def test_the_answer_tells_of_the_full_wave_and_of_the_column_past_it() -> None:
    answer = figure(section(subject("a100")), "waves-map").answer
    assert "2304x1536 for instance is 108 tiles, 1 full wave" in answer
    assert "2304x1537, is 117 tiles in 2 waves, with 46 % of the SMs idle" in answer  # 99 of 216


def test_no_grid_of_five_waves_or_more_leaves_a_fifth_idle() -> None:
    for slots in range(1, 200):
        waves = np.arange(1, 33)[:, None] * np.arange(1, 65)[None, :] / slots
        assert not np.any((WaveMap(256, 128, slots).by_tiles() < 0.8) & (waves >= 5))


@pytest.mark.parametrize("sms", sorted({gpu.sms for gpu in list_gpus()} | {1, 2, 14, 16}))
def test_every_number_of_sms_has_its_section(sms: int) -> None:
    found = section(subject("a100", sms=sms))
    assert [each.id for each in found.figures] == ["waves-map", "waves-lines"]
    assert f"{sms} SM" in found.lead


def test_a_gpu_without_tensor_cores_is_shown_with_the_largest_tile_of_fp32() -> None:
    assert usual_tile(subject("p100"))[:2] == (128, 128)


def test_the_tile_of_most_large_products_measured_is_taken() -> None:
    tall, wide = "ampere_fp16_s16816gemm_fp16_64x128_ldg8_f2f_stages_64x4_tn", (
        "ampere_fp16_s16816gemm_fp16_256x64_ldg8_f2f_stages_64x3_tn"
    )  # fmt: skip
    rows = (products((tall,) * 3 + (wide,) * 2 + ("unheard of", ""), size=2048), products((wide,) * 9, size=512))
    longer, shorter, why = usual_tile(subject("a100", measured=Measured(products=rows)))
    assert (longer, shorter) == (128, 64)
    assert "3 of 5" in why


def test_hovering_tells_tiles_waves_and_idle_share() -> None:
    interactive = figure(section(subject("a100")), "waves-lines").interactive
    assert interactive is not None
    line = interactive.series[0]
    at = line.x.index(769)  # 4 rows of 32 columns of tiles on 108 SMs
    facts = {fact.name: fact.values[at] for fact in line.facts}
    assert facts["tiles"] == 128
    assert facts["waves"] == round(128 / 108, 2)
    assert facts["idle share"] == round(100 * 88 / 216, 1)
    assert facts["lost in edge tiles"] == round(100 * 255 / 1024, 1)
    assert line.y[at] == round(100 * 128 / 216 * 769 / 1024, 2)


def test_marks_name_the_ends_of_waves_and_what_follows() -> None:
    interactive = figure(section(subject("a100")), "waves-lines").interactive
    assert interactive is not None
    # at N = 4096, 32 columns: 3, 6, 10 rows of tiles are the last of 1, 2, 3 waves of 108
    assert [mark.x for mark in interactive.marks[:3]] == [768, 1536, 2560]
    assert interactive.marks[0].reason == (
        "M = 768, N = 4096: 96 tiles on 108 SMs, 1 wave; M = 769: 128 tiles, 2 waves"
    )


@pictured()
def test_waves_map() -> Figure:
    return figure(section(subject("a100")), "waves-map")


@pictured(narrow=True)
def test_waves_map_on_a_phone() -> Figure:
    return figure(section(subject("a100")), "waves-map")


@pictured()
def test_waves_lines() -> Figure:
    return figure(section(subject("a100")), "waves-lines")
