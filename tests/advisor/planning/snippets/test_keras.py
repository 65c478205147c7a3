from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.advisor.planning.example import example_plan
from tests.advisor.planning.snippets.running import close, expected_rates, runner, train_whole_batches

torch = pytest.importorskip("torch")
pytest.importorskip("namex")  # Keras' own: Keras itself is imported by the child alone
run = runner("keras", "keras", "torch")


def weights(folder: Path) -> list[Any]:
    import zipfile

    import h5py

    with zipfile.ZipFile(folder / "model.keras") as archive:
        archive.extract("model.weights.h5", folder)
    with h5py.File(folder / "model.weights.h5") as saved:
        return [saved[f"layers/{layer}/vars/{i}"][()] for layer in ("dense", "dense_1") for i in (0, 1)]


def test_fit_takes_the_planned_steps_at_the_planned_rates(run: Any, tmp_path: Path) -> None:
    plan = example_plan(gpus=1, optimizer="adamw", dataset_size=21, epochs=3, warmup_steps=2)
    ran = run(plan, tmp_path, samples=21)
    assert [len(set(step)) for step in ran.samples] == [8] * 6
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-6)  # Keras computes it in FP32
    whole = train_whole_batches(ran, lambda p: torch.optim.AdamW(p, weight_decay=0), samples=21, kind="images")
    close(weights(tmp_path), whole, within=1e-4)


def test_tokens_count_alike_and_a_last_step_is_filled_up(run: Any, tmp_path: Path) -> None:
    plan = example_plan(
        gpus=1, shape="polynomial", samples="sequences", dataset_size=21, epochs=1.5, drop_last=False, warmup_steps=2
    )
    ran = run(plan, tmp_path, samples=21)
    assert [len(step) for step in ran.samples] == [8] * 5
    assert set(ran.samples[0] + ran.samples[1] + ran.samples[2]) == set(range(21))
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-6)
    whole = train_whole_batches(
        ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=21, kind="sequences", rate_inside=True
    )
    close(weights(tmp_path), whole)


def test_constants_are_filled_in_and_mixed_precision_trains(run: Any, tmp_path: Path) -> None:
    plan = example_plan(
        gpus=1,
        optimizer="lamb",
        lr=None,
        accumulation=1,
        dataset_size=None,
        epochs=None,
        precision="fp16",
        layout="nhwc",
    )
    ran = run(plan, tmp_path, samples=21, fill={"BASE_LEARNING_RATE": 0.01, "EPOCHS": 2})
    assert [len(step) for step in ran.samples] == [4] * 10
    assert ran.scales == ["LossScaleOptimizer"]
    assert ran.rates == pytest.approx([0.01 * 0.5**0.5] * 10)  # from 8 samples per step to 4
