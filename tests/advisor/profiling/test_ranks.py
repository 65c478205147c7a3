"""Several ranks of one job, each with a profile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from advisor.cli.profile_report import report
from advisor.errors import BadInputError
from advisor.profiling.ranks import compare_ranks, require_one_job
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


def on(profile: TraceProfile, gpu: str) -> TraceProfile:
    return replace(profile, gpu=replace(profile.gpu, name=gpu))


def test_traces_of_several_jobs_are_not_taken_for_ranks_of_one() -> None:
    one = rank(0, step_s=10e-3, exposed_s=1e-3)
    alone = replace(one, rank=None, world_size=None)
    for others, why in (
        ([one], "rank 0 2 times"),
        ([rank(1, step_s=10e-3, exposed_s=1e-3, world_size=2)], "world sizes 2, 4"),
        ([on(alone, "H100")], "on Tesla V100-SXM2-16GB, H100"),
    ):
        with pytest.raises(BadInputError, match=why):
            require_one_job(Path("traces"), [one, *others])
    require_one_job(Path("traces"), [one, on(rank(1, step_s=10e-3, exposed_s=1e-3), "H100")])
    require_one_job(Path("traces"), [alone, alone])
