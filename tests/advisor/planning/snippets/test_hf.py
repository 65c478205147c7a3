from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.planning.snippets import emit
from tests.advisor.planning.example import example_plan
from tests.advisor.planning.snippets.running import close, expected_rates, runner, train_whole_batches

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
run = runner("hf", "transformers.trainer")


def weights(folder: Path) -> list[Any]:
    from safetensors.numpy import load_file

    saved = load_file(folder / "model" / "model.safetensors")
    return [saved[f"weights.{i}"] for i in range(4)]


def test_the_trainers_own_schedule_has_the_planned_rate(run: Any, tmp_path: Path) -> None:
    # 20 samples make 2 steps of 8, and the Trainer would make a third of the micro-batch left
    plan = example_plan(
        gpus=1, optimizer="adamw", base_batch=8, dataset_size=20, epochs=3, warmup_steps=2, shape="cosine"
    )
    ran = run(plan, tmp_path, samples=20)
    assert 'lr_scheduler_type="cosine"' in tmp_path.joinpath("train.py").read_text()
    assert [len(set(step)) for step in ran.samples] == [8] * 6
    assert ran.rates == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
    whole = train_whole_batches(ran, lambda p: torch.optim.AdamW(p, weight_decay=0), samples=20, kind="images")
    close(weights(tmp_path), whole, within=1e-4)


def test_two_processes_count_tokens_alike_under_a_schedule_of_ours(run: Any, tmp_path: Path) -> None:
    plan = example_plan(optimizer="sgd", samples="sequences", dataset_size=38, epochs=1.5, warmup_steps=1)
    ran = run(plan, tmp_path, samples=38)
    assert [len(set(step)) for step in ran.samples] == [16] * 3
    assert ran.rates == pytest.approx(expected_rates(plan, 0.2), rel=1e-12)
    assert ran.exchanges == 3
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=38, kind="sequences")
    close(weights(tmp_path), whole)


def test_a_smaller_last_step_is_as_the_note_says(run: Any, tmp_path: Path) -> None:
    # 21 samples: steps of 8, 8, and 5 in micro-batches of 4 and 1, which count alike
    plan = example_plan(gpus=1, dataset_size=21, epochs=2, drop_last=False, shape="constant", warmup_steps=0)
    ran = run(plan, tmp_path, samples=21)
    assert [len(step) for step in ran.samples] == [8, 8, 5] * 2
    assert any("its last micro-batch counting as much as a whole one" in note for note in emit(plan, "hf").notes)
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=21, kind="images")
    with pytest.raises(AssertionError):
        close(weights(tmp_path), whole)


def test_two_processes_repeat_samples_in_a_smaller_last_step_as_the_note_says(run: Any, tmp_path: Path) -> None:
    # 37 samples: steps of 16, 16, and 5, which two processes share as two whole micro-batches of 4
    plan = example_plan(dataset_size=37, epochs=2, drop_last=False, shape="constant", warmup_steps=0)
    ran = run(plan, tmp_path, samples=37)
    assert [len(step) for step in ran.samples] == [16, 16, 8] * 2
    assert set(ran.samples[0] + ran.samples[1] + ran.samples[2]) == set(range(37))
    assert any("repeating samples so that every GPU has whole" in note for note in emit(plan, "hf").notes)
    whole = train_whole_batches(ran, lambda p: torch.optim.SGD(p, momentum=0.9), samples=37, kind="images")
    close(weights(tmp_path), whole)


@pytest.mark.parametrize(
    ("gpus", "world_size", "n_gpu", "says"),
    [
        (1, 1, 8, "must see one GPU, this one sees 8"),  # the Trainer takes all, and a step 8 times the samples
        (2, 1, 2, "is for 2 GPUs, but 1 processes run"),
        (2, 4, 1, "is for 2 GPUs, but 4 processes run"),
        (2, 2, 1, None),
        (1, 1, 0, None),  # no GPU
    ],
)
def test_other_gpus_than_planned_stop_the_script(gpus: int, world_size: int, n_gpu: int, says: str | None) -> None:
    statements = ast.parse(emit(example_plan(gpus=gpus), "hf").text).body
    checks = [s for s in statements if isinstance(s, ast.If) and "arguments." in ast.unparse(s.test)]
    script = compile(ast.Module(checks, []), "checks", "exec")
    given = {"arguments": SimpleNamespace(world_size=world_size, n_gpu=n_gpu), "GPUS": gpus}
    if says is None:
        exec(script, given)
    else:
        with pytest.raises(SystemExit, match=says):
            exec(script, given)


# What each file gives TrainingArguments, and the rates of the scheduler that the Trainer makes of it.
CHILD = """
import ast, json, pathlib
import torch
from transformers import TrainingArguments, get_scheduler

said = []
for path in sorted(pathlib.Path().glob('plan*.py')):
    statements = ast.parse(path.read_text()).body
    named = [s for s in statements if isinstance(s, ast.Assign)]
    wanted = [s for s in named if s.targets[0].id.isupper() or s.targets[0].id == "arguments"]
    found = {"TrainingArguments": TrainingArguments, "torch": torch}
    exec(compile(ast.Module(wanted, []), path, "exec"), found)
    arguments = found["arguments"]
    total = arguments.max_steps if arguments.max_steps > 0 else found["EPOCHS"] * (700 // 16)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, num_warmup_steps=arguments.get_warmup_steps(total),
        num_training_steps=total, scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    said.append({"rates": rates, "clip": arguments.max_grad_norm, "drop": arguments.dataloader_drop_last})
print("SAID" + json.dumps(said))
"""


def test_every_schedule_the_trainer_has_is_the_plans(run: Any, tmp_path: Path) -> None:
    plans = [
        example_plan(optimizer=optimizer, base_batch=16, warmup_steps=warmup, shape=shape, dataset_size=700)
        for optimizer, shape, warmup in (
            ("sgd", "polynomial", 7), ("adam", "linear", 5), ("adamw", "cosine", 0), ("lamb", "constant", 3),
            ("lars", "linear", 0),
        )
    ]  # fmt: skip
    paths = [tmp_path / f"plan{number}.py" for number in range(len(plans))]
    for path, plan in zip(paths, plans, strict=True):
        path.write_text(emit(plan, "hf").text)
        assert "rate_factor" not in path.read_text()
    tmp_path.joinpath("rates.py").write_text(CHILD)
    printed = run.script("rates.py", tmp_path)
    for plan, one in zip(plans, json.loads(printed.split("SAID")[1].splitlines()[0]), strict=True):
        assert one["rates"] == pytest.approx(expected_rates(plan, 0.1), rel=1e-12)
        assert (one["clip"], one["drop"]) == (0, True)


@pytest.mark.parametrize("shape", ["step", "cosine"])
def test_a_warm_up_from_the_base_rate_and_steps_are_a_schedule_of_ours(shape: str) -> None:
    text = emit(example_plan(shape=shape, base_batch=8, warmup_steps=2), "hf").text  # the Trainer's own start at 0
    assert "optimizers=(optimizer, LambdaLR(optimizer, rate_factor))" in text
    assert "lr_scheduler_type" not in text
