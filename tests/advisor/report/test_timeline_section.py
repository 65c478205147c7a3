"""Recorded waves in a report. Every timeline here is made up: 108 SMs, one CTA on each, some 25 us each."""

from __future__ import annotations

import random
from typing import Any

from advisor.report.records import Figure, Origin, Section
from advisor.report.sections.timeline import section
from advisor.report.subject import Measured, MeasuredTimeline
from tests.advisor.report.subjects import subject
from tests.pictures import pictured

HERE = Origin("measured here", "made up for this test")


def record(m: int, *, sms: int = 108, n: int = 1536, jitter: float = 0.03, cta_ns: int = 25_000) -> dict[str, Any]:
    """CTAs of 128x128 tiles, each taking the SM that is free first."""
    drawn = random.Random(m)
    ctas = -(-m // 128) * -(-n // 128)
    free_ns = [0] * sms
    rows = []
    for _ in range(ctas):
        sm = min(range(sms), key=free_ns.__getitem__)
        start = free_ns[sm] + round(drawn.uniform(0, jitter) * cta_ns)
        free_ns[sm] = start + round(cta_ns * drawn.uniform(1 - jitter, 1 + jitter))
        rows.append((sm, start, free_ns[sm]))
    columns = dict(zip(("sm", "start_ns", "end_ns"), map(list, zip(*rows, strict=True)), strict=True))
    return {"m": m, "n": n, "k": 4096, "tile_m": 128, "tile_n": 128, "tile_k": 64, "sms": sms, **columns}


def shown(*records: dict[str, Any]) -> Section | None:
    timelines = tuple(MeasuredTimeline(each, HERE) for each in records)
    return section(subject("a100", measured=Measured(timelines=timelines)))


def some(*records: dict[str, Any]) -> Section:
    found = shown(*records)
    assert found is not None
    return found


def test_nothing_recorded_is_no_section() -> None:
    assert section(subject("a100")) is None


def test_one_row_past_a_full_wave_is_answered_beside_it() -> None:
    """1152 rows are 9 x 12 = 108 tiles, one for each of 108 SMs; 1153 are 10 x 12 = 120, 12 in a second wave."""
    figure = some(record(1153, jitter=0), record(1152, jitter=0)).figures[0]
    assert figure.title == "In how many waves do 1,152 and 1,153 rows run, and how idle is the last?"
    assert figure.answer == (
        "108 CTAs in 1 wave, which leaves 0 % of the 108 slots idle, took 25.0 us (N = 1,536, K = 4,096, tiles of "
        "128x128x64). One row more: 120 CTAs in 2 waves, of which the last leaves 89 % of the 108 slots idle, took "
        "50.0 us, 100 % longer."
    )
    assert "1152 rows, 1 wave of 108 CTAs; 1153 rows, 2 waves of 108, 12 CTAs" in figure.alt
    assert figure.origins == (HERE,)


def test_the_table_has_every_launch_with_the_waves_counted_beside_those_recorded() -> None:
    found = some(*(record(m, jitter=0) for m in (1152, 1153, 2304, 2305, 3456, 3457)))
    assert len(found.figures) == 2 and "not drawn" in found.notes[0]
    keys = [column.key for column in found.tables[0].columns]
    row = dict(zip(keys, found.tables[0].rows[3], strict=True))
    assert (row["m"], row["ctas"], row["slots"], row["counted_waves"], row["waves"]) == (2305, 228, 108, 3, 3)
    assert (row["last_wave_idle_share"], row["busy_share"]) == (1 - 12 / 108, 228 / 324)


def test_a_damaged_timeline_is_left_out_and_said() -> None:
    """More SMs are seen than the GPU has."""
    found = some(record(1152), {**record(1152), "sms": 4})
    assert len(found.tables[0].rows) == 1 and "108 SMs, more than the 4" in found.notes[0]
    only = shown({**record(1152), "sm": [0]})
    assert only is not None and not only.figures and "damaged" in only.notes[0]


def test_a_launch_of_very_many_ctas_is_in_the_table_alone() -> None:
    found = some(record(128 * 2000, cta_ns=100))
    assert not found.figures and found.tables[0].rows[0][4] == 24_000


@pictured()
def test_two_sides_of_a_wave() -> Figure:
    return some(record(1152), record(1153)).figures[0]


@pictured(narrow=True)
def test_two_sides_of_a_wave_on_a_phone() -> Figure:
    return some(record(1152), record(1153)).figures[0]
