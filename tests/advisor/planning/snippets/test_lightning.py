from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.advisor.planning.example import example_plan
from tests.advisor.planning.snippets.running import close, expected_rates, runner, train_whole_batches

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_utilities")  # lightning itself is imported by the child alone
run = runner("lightning", "lightning")


def weights(folder: Path) -> list[Any]:
    saved = torch.load(folder / "model.ckpt", weights_only=False)["state_dict"]
    return [saved[f"model.weights.{i}"].numpy() for i in range(4)]


def test_the_trainer_takes_the_planned_steps_at_the_planned_rates(run: Any, tmp_path: Path) -> None:
    # one GPU, 8 samples per step; 21 samples make 2 steps, and Lightning would make a third of the micro-batch left
    plan = example_plan(gpus=1, optimizer="adamw", dataset_size=21, epochs=3, warmup_steps=2, shape="polynomial")
    ran = run(plan, tmp_path, samples=21)
    assert [len(set(step)) for step in ran.samples] == [8] * 6
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
    whole = train_whole_batches(ran, lambda p: torch.optim.AdamW(p, weight_decay=0), samples=21, kind="images")
    close(weights(tmp_path), whole, within=1e-4)  # Adam divides by small numbers


@pytest.mark.slow
def test_two_processes_count_tokens_alike_also_in_a_smaller_last_step(run: Any, tmp_path: Path) -> None:
    plan = example_plan(
        samples="sequences", dataset_size=37, epochs=1.5, drop_last=False, shape="linear", warmup_steps=2
    )
    ran = run(plan, tmp_path, samples=37, launched=True)
    assert [len(step) for step in ran.samples] == [16, 16, 6, 16, 16]
    assert ran.rates == pytest.approx(expected_rates(plan, 0.2), rel=1e-12)
    assert ran.exchanges == 5
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=37, kind="sequences")
    close(weights(tmp_path), whole)


def test_a_smaller_last_step_is_the_mean_over_its_own_samples(run: Any, tmp_path: Path) -> None:
    plan = example_plan(gpus=1, dataset_size=21, epochs=2, drop_last=False, shape="constant", warmup_steps=0)
    ran = run(plan, tmp_path, samples=21)
    assert [len(step) for step in ran.samples] == [8, 8, 5] * 2
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=21, kind="images")
    close(weights(tmp_path), whole)
