from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.planning.snippets import emit
from tests.advisor.planning.example import example_plan
from tests.advisor.planning.snippets.running import close, expected_rates, runner, train_whole_batches

torch = pytest.importorskip("torch")
run = runner("torch", "torch", *(["timm.optim"] if find_spec("timm") else []))


class Lars(torch.optim.SGD):
    """You, Gitman, Ginsburg 2017: each layer's gradient times 0.001 |w| / |g|."""

    def __init__(self, parameters: list[Any]) -> None:
        super().__init__(parameters, momentum=0.9)

    def step(self) -> None:
        for weight in self.param_groups[0]["params"]:
            weight.grad *= 0.001 * weight.detach().norm() / weight.grad.norm()
        super().step()


class Lamb(torch.optim.Adam):
    """You et al. 2019, algorithm 2 without decay: each layer's step of Adam times |w| / |step|."""

    def __init__(self, parameters: list[Any]) -> None:
        super().__init__(parameters, eps=1e-6)

    def step(self) -> None:
        group = self.param_groups[0]
        before = [weight.detach().clone() for weight in group["params"]]
        rate, group["lr"] = group["lr"], 1.0
        super().step()
        with torch.no_grad():
            for weight, old in zip(group["params"], before, strict=True):
                step = old - weight
                weight.copy_(old - rate * step * old.norm() / step.norm())


def mean_difference(ours: list[Any], theirs: list[Any]) -> float:
    return float(np.mean([np.abs(one - other).mean() for one, other in zip(ours, theirs, strict=True)]))


def needs_timm() -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")


def weights(folder: Path) -> list[Any]:
    saved = torch.load(folder / "model.pt", weights_only=True)
    return [saved[f"weights.{i}"].numpy() for i in range(4)]


@pytest.mark.slow
def test_two_processes_train_as_one_on_whole_global_batches(run: Any, tmp_path: Path) -> None:
    # 70 samples, 16 per step: 4 steps in each of 3 epochs, 6 samples left out
    plan = example_plan(optimizer="sgd")
    ran = run(plan, tmp_path, samples=70, launched=True)
    assert ran.rates == pytest.approx(expected_rates(plan, 0.2), rel=1e-12)  # linear: 0.1 at 8, 0.2 at 16
    assert [len(set(step)) for step in ran.samples] == [16] * 12
    for epoch in range(3):  # no sample twice in an epoch, and epochs in another order
        assert len({n for step in ran.samples[4 * epoch : 4 * epoch + 4] for n in step}) == 64
    assert ran.samples[0] != ran.samples[4]
    assert ran.exchanges == 12  # one per step: the first of two backward passes exchanges nothing
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=70, kind="images")
    close(weights(tmp_path), whole)


def test_tokens_of_all_processes_count_alike_also_in_a_smaller_last_step(run: Any, tmp_path: Path) -> None:
    # 37 samples kept: steps of 16, 16 and 5, of which two processes get 3 each, one sample twice
    plan = example_plan(samples="sequences", dataset_size=37, epochs=2, drop_last=False, shape="linear", warmup_steps=2)
    ran = run(plan, tmp_path, samples=37)
    assert [len(step) for step in ran.samples] == [16, 16, 6] * 2
    assert set(ran.samples[0] + ran.samples[1] + ran.samples[2]) == set(range(37))
    assert ran.rates == pytest.approx(expected_rates(plan, 0.2), rel=1e-12)
    assert ran.exchanges == 6
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=37, kind="sequences")
    close(weights(tmp_path), whole)


def test_adam_without_accumulation_as_an_older_recipe_has_it(run: Any, tmp_path: Path) -> None:
    plan = example_plan(gpus=1, optimizer="adam", accumulation=1, base_batch=4, recipe="timm-2022", dataset_size=20)
    text = emit(plan, "torch").text
    assert "foreach=False" in text
    assert "set_to_none=False" in text
    ran = run(plan, tmp_path, samples=20)
    assert [len(step) for step in ran.samples] == [4] * 15
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
    close(weights(tmp_path), train_whole_batches(ran, torch.optim.Adam, samples=20, kind="images"), within=1e-3)


def test_a_smaller_last_step_is_the_mean_over_its_own_samples(run: Any, tmp_path: Path) -> None:
    # one GPU, 8 samples per step of micro-batches of 4: the last of 21 samples makes micro-batches of 4 and 1
    plan = example_plan(gpus=1, dataset_size=21, epochs=1.5, drop_last=False, shape="cosine", warmup_steps=1)
    ran = run(plan, tmp_path, samples=21)
    assert [len(step) for step in ran.samples] == [8, 8, 5, 8, 8]  # half of 3 steps, rounded up
    assert set(ran.samples[0]) != set(ran.samples[3])  # epochs in another order
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=21, kind="images")
    close(weights(tmp_path), whole)


def test_constants_are_filled_in_and_mixed_precision_trains_with_lamb(run: Any, tmp_path: Path) -> None:
    needs_timm()
    plan = example_plan(
        gpus=1, optimizer="lamb", lr=None, base_batch=2, dataset_size=None, epochs=None, precision="fp16", layout="nhwc"
    )
    ran = run(plan, tmp_path, samples=21, fill={"BASE_LEARNING_RATE": 0.01, "EPOCHS": 2})
    assert [len(step) for step in ran.samples] == [8] * 4
    assert ran.scales == [65536] * 8  # one per backward pass: what GradScaler begins with
    assert ran.rates == [0.02] * 4  # square root of 8 / 2 times 0.01
    whole, adam = (train_whole_batches(ran, made, samples=21, kind="images") for made in (Lamb, torch.optim.Adam))
    # FP16 has 11 bits, and where a gradient is near 0 its sign decides: so the mean, and Adam is further away
    assert mean_difference(weights(tmp_path), whole) < 2e-4 < 5 * 2e-4 < mean_difference(whole, adam)


def test_lars_adapts_every_layer_though_no_weight_decays(run: Any, tmp_path: Path) -> None:
    needs_timm()
    plan = example_plan(gpus=1, optimizer="lars", accumulation=1, dataset_size=20, warmup_steps=2)
    ran = run(plan, tmp_path, samples=20)
    adapted = train_whole_batches(ran, Lars, samples=20, kind="images")
    close(weights(tmp_path), adapted)
    with pytest.raises(AssertionError):
        close(adapted, train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=20, kind="images"))


def test_a_dataset_of_another_size_than_planned_stops_the_script(run: Any, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the plan is for 70 samples, the dataset has 71: plan again"):
        run(example_plan(gpus=1, accumulation=1), tmp_path, samples=71)
