from __future__ import annotations

import numpy as np
import pytest

from advisor.timeline import decode, group_waves


def records(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(rows, dtype=np.int64)


def test_times_are_counted_from_the_first_start() -> None:
    timeline = decode(
        records(
            (5, 1_700_000_000_000_000_300, 1_700_000_000_000_000_900),
            (2, 1_700_000_000_000_000_100, 1_700_000_000_000_000_800),
        )
    )
    assert timeline.sm.tolist() == [5, 2]
    assert timeline.start_ns.tolist() == [200, 0]
    assert timeline.end_ns.tolist() == [800, 700]
    assert timeline.span_ns == 800
    assert timeline.tick_ns == 100


def test_five_ctas_on_two_sms_with_one_slot_each_are_three_waves() -> None:
    # SM 0 runs CTAs 0, 2, 4; SM 1 runs 1, 3 and is idle in the third wave
    timeline = decode(records((0, 0, 100), (1, 0, 110), (0, 100, 200), (1, 110, 220), (0, 200, 300)))
    waves = group_waves(timeline)
    assert waves.slots == 2
    assert waves.wave.tolist() == [0, 0, 1, 1, 2]
    assert [wave.ctas for wave in waves.waves] == [2, 2, 1]
    assert [wave.idle_share for wave in waves.waves] == [0.0, 0.0, 0.5]
    assert (waves.waves[1].start_ns, waves.waves[1].end_ns) == (100, 220)
    assert waves.busy_share == pytest.approx((300 + 220) / (2 * 300))


def test_ctas_that_overlap_on_an_sm_take_different_slots() -> None:
    # two resident CTAs per SM; the third takes the slot freed first, by CTA 1
    waves = group_waves(decode(records((7, 0, 100), (7, 0, 80), (7, 85, 150), (7, 100, 190))))
    assert waves.slots == 2
    assert waves.slot.tolist() == [1, 0, 0, 1]
    assert waves.wave.tolist() == [0, 0, 1, 1]


def test_a_late_cta_of_the_first_wave_stays_in_it() -> None:
    # SM 1 starts late, after SM 0 has begun its second CTA: by slots both of its CTAs count from the first wave
    waves = group_waves(decode(records((0, 0, 50), (0, 50, 100), (1, 60, 110), (1, 110, 160))))
    assert waves.wave.tolist() == [0, 1, 0, 1]


def test_sms_that_got_no_cta_are_idle_where_their_number_is_given() -> None:
    # 117 tiles on 108 SMs, one CTA each: the second wave holds 9, so 99 of 108 slots are idle
    rows = [(cta % 108, cta // 108 * 1000, cta // 108 * 1000 + 1000) for cta in range(117)]
    waves = group_waves(decode(records(*rows)), sms=108)
    assert [wave.ctas for wave in waves.waves] == [108, 9]
    assert waves.waves[1].idle_share == pytest.approx(99 / 108)
    assert waves.busy_share == pytest.approx(117 / 216)
    one = group_waves(decode(records((3, 0, 10))), sms=4)
    assert one.waves[0].idle_share == 0.75


def test_a_persistent_kernel_shows_one_wave() -> None:
    waves = group_waves(decode(records(*((sm, 3 * sm, 1000 + sm) for sm in range(8)))))
    assert len(waves.waves) == 1
    assert waves.sms == waves.slots == 8


def test_a_launch_too_short_for_the_timer_has_no_idle_time() -> None:
    assert group_waves(decode(records((0, 64, 64), (1, 64, 64)))).busy_share == 1.0


@pytest.mark.parametrize(
    "rows, says",
    [
        (((0, 1, 2), (-1, -1, -1), (-1, -1, -1)), "2 of 3 CTAs left no record"),
        (((0, 1, 2), (0, 9, 8)), "CTA 1 ends before it starts"),
    ],
)
def test_damaged_records_are_refused(rows: tuple[tuple[int, int, int], ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode(records(*rows))


@pytest.mark.parametrize("shape", [(0, 3), (3,), (4, 2)])
def test_records_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        decode(np.zeros(shape, dtype=np.int64))


def test_more_sms_than_the_gpu_has_are_refused() -> None:
    with pytest.raises(ValueError, match="2 SMs, more than the 1"):
        group_waves(decode(records((0, 0, 1), (1, 0, 1))), sms=1)
