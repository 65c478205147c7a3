from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.advisor.planning.example import example_plan
from tests.advisor.planning.snippets.running import close, expected_rates, run, train_whole_batches

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")


def weights(folder: Path) -> list[Any]:
    from safetensors.numpy import load_file

    saved = load_file(folder / "model" / "model.safetensors")
    return [saved[f"weights.{i}"] for i in range(4)]


def test_the_trainers_own_schedule_has_the_planned_rate(tmp_path: Path) -> None:
    # 21 samples make 2 steps of 8, and the Trainer would make a third of the micro-batch left
    plan = example_plan(
        gpus=1, optimizer="adamw", base_batch=8, dataset_size=21, epochs=3, warmup_steps=2, shape="cosine"
    )
    ran = run(plan, "hf", tmp_path, samples=21)
    assert 'lr_scheduler_type="cosine"' in tmp_path.joinpath("train.py").read_text()
    assert [len(set(step)) for step in ran.samples] == [8] * 6
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
    whole = train_whole_batches(ran, lambda p: torch.optim.AdamW(p, weight_decay=0), samples=21, kind="images")
    close(weights(tmp_path), whole, within=1e-4)


def test_two_processes_count_tokens_alike_under_a_schedule_of_ours(tmp_path: Path) -> None:
    plan = example_plan(optimizer="sgd", samples="sequences", dataset_size=38, epochs=1.5, warmup_steps=1)
    ran = run(plan, "hf", tmp_path, samples=38)
    assert [len(set(step)) for step in ran.samples] == [16] * 3
    assert ran.rates == pytest.approx(expected_rates(plan, 0.2), rel=1e-12)
    assert ran.exchanges == 3
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=38, kind="sequences")
    close(weights(tmp_path), whole)


@pytest.mark.parametrize(("optimizer", "shape"), [("sgd", "polynomial"), ("adam", "linear"), ("adamw", "constant")])
def test_every_schedule_the_trainer_has_is_the_plans(optimizer: str, shape: str, tmp_path: Path) -> None:
    plan = example_plan(gpus=1, optimizer=optimizer, dataset_size=24, epochs=2, warmup_steps=2, shape=shape)
    ran = run(plan, "hf", tmp_path, samples=24)
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
    made = {"sgd": lambda p: torch.optim.SGD(p, momentum=0.9), "adam": torch.optim.Adam}.get(optimizer)
    whole = train_whole_batches(
        ran, made or (lambda p: torch.optim.AdamW(p, weight_decay=0)), samples=24, kind="images"
    )
    close(weights(tmp_path), whole, within=1e-4)
