"""Several ranks of one job, each with a profile."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from advisor.cli.profile_report import report
from advisor.profiling.ranks import compare_ranks
from advisor.profiling.records import TraceProfile
from tests.advisor.profiling.profiles import small_profile


def rank(number: int, *, step_s: float, exposed_s: float, world_size: int | None = 4) -> TraceProfile:
    profile = small_profile(rank=number, world_size=world_size, path=f"rank{number}.json")
    return replace(profile, steps=replace(profile.steps, step_s=step_s, exposed_communication_s=exposed_s))


def test_the_rank_that_waits_least_is_the_slowest() -> None:
    # Own times 9, 5, 7 ms of equal steps: mean 7 ms, so the slowest does 28.6 % more.
    ranks = compare_ranks([rank(i, step_s=10e-3, exposed_s=s) for i, s in enumerate((1e-3, 5e-3, 3e-3))])
    assert (ranks.slowest, ranks.fastest) == (0, 1)
    assert [facts.waiting_s for facts in ranks.ranks] == pytest.approx([0, 4e-3, 2e-3])
    assert ranks.imbalance == pytest.approx(9 / 7 - 1)
    assert ranks.step_spread == 0
    assert ranks.kernel_time_s == pytest.approx(30e-3)
    assert "rank 0 is the slowest" in ranks.verdict
    assert "2.00 ms per step" in ranks.verdict


def test_even_ranks_are_said_to_be_even_and_missing_ones_are_named() -> None:
    ranks = compare_ranks([rank(i, step_s=10e-3, exposed_s=1e-3) for i in range(2)])
    assert "evenly loaded" in ranks.verdict
    assert any("2 of 4 ranks" in note for note in ranks.notes)


def test_ranks_are_in_their_own_order_and_shown_first() -> None:
    profiles = [rank(number, step_s=10e-3, exposed_s=1e-3 * number) for number in (2, 0, 1)]
    ranks = compare_ranks(profiles)
    assert [facts.rank for facts in ranks.ranks] == [0, 1, 2]
    whole = replace(ranks.profiles[ranks.slowest], ranks=ranks)
    assert whole.rank == 0
    assert "3 ranks" in report(whole)
    document = json.loads(whole.to_json())
    assert [facts["rank"] for facts in document["ranks"]["ranks"]] == [0, 1, 2]
    assert document["rank"] == 0
