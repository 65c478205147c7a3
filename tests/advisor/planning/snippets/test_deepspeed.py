from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from advisor.planning.records import PlanAnswer
from advisor.planning.schedule import factor_at
from advisor.planning.snippets import emit
from tests.advisor.planning.example import example_plan

# Parses each file with DeepSpeed itself, for 2 GPUs, and steps its scheduler after each update, as its engine does.
CHILD = """
import json, sys
import deepspeed, torch
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime import lr_schedules

class TwoGpus:
    def get_data_parallel_world_size(self): return 2

deepspeed.comm.get_rank = lambda: 0
said = []
for path in sys.argv[1:]:
    config = DeepSpeedConfig(path, mpu=TwoGpus())
    rates = []
    if config.scheduler_name:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.optimizer_params["lr"])
        scheduler = getattr(lr_schedules, config.scheduler_name)(optimizer, **config.scheduler_params)
        for _ in range(30):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    said.append({
        "batches": [config.train_batch_size, config.train_micro_batch_size_per_gpu, config.gradient_accumulation_steps],
        "optimizer": config.optimizer_name, "scheduler": config.scheduler_name, "rates": rates,
        "autocast": [config.torch_autocast_enabled, str(config.torch_autocast_dtype)],
    })
print("SAID" + json.dumps(said))
"""


def config(plan: PlanAnswer) -> dict[str, Any]:
    return json.loads(emit(plan, "deepspeed").text)


def test_the_batch_is_micro_times_accumulation_times_gpus() -> None:
    found = config(example_plan(batch=64, accumulation=8, gpus=8, dataset_size=10**6))
    assert found["train_batch_size"] == 4096 == 64 * 8 * 8
    assert found["train_micro_batch_size_per_gpu"] == 64
    assert found["gradient_accumulation_steps"] == 8


@pytest.mark.parametrize(
    ("optimizer", "type_", "also"),
    [
        ("sgd", "SGD", {"momentum": 0.9}),
        ("adam", "Adam", {"adam_w_mode": False}),  # DeepSpeed's Adam is AdamW unless told otherwise
        ("adamw", "AdamW", {}),
        ("lamb", "Lamb", {"eps": 1e-6}),
    ],
)
def test_optimizers_go_by_deepspeeds_names(optimizer: str, type_: str, also: dict[str, Any]) -> None:
    found = config(example_plan(optimizer=optimizer, base_batch=16))["optimizer"]
    assert found["type"] == type_
    assert found["params"]["lr"] == 0.1
    assert also.items() <= found["params"].items()


def test_lars_is_left_to_the_user_and_said_to_be() -> None:
    snippet = emit(example_plan(optimizer="lars"), "deepspeed")
    assert "optimizer" not in json.loads(snippet.text)
    assert any("DeepSpeed has no LARS: pass optimizer=timm.optim.Lars" in note for note in snippet.notes)


@pytest.mark.parametrize(
    ("shape", "warmup"), [("step", 4), ("polynomial", 4), ("cosine", 2), ("linear", 0), ("linear", 4)]
)
def test_schedules_deepspeed_has_not_are_left_out_and_said_to_be(shape: str, warmup: int) -> None:
    snippet = emit(example_plan(shape=shape, warmup_steps=warmup, dataset_size=700), "deepspeed")
    assert "scheduler" not in json.loads(snippet.text)
    assert any(f"DeepSpeed has no scheduler for this {shape}" in note and "LambdaLR" in note for note in snippet.notes)


def test_a_missing_rate_is_no_number_deepspeed_could_take() -> None:
    found = config(example_plan(lr=None, base_batch=4, dataset_size=700, shape="constant", warmup_steps=3))
    assert found["optimizer"]["params"]["lr"] == "FILL IN: 4.0 x the learning rate tuned for 4 samples per step"
    assert str(found["scheduler"]["params"]["warmup_min_lr"]).startswith("FILL IN")


def test_deepspeed_reads_it_and_its_schedulers_have_the_planned_rate(tmp_path: Path) -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip builds it from source, against the torch that is there")
    # 64 samples: 4 steps in each of 6 epochs, warm-up of 4; SGD's from half the rate, as it was scaled up by 2
    common = {"warmup_steps": 4, "dataset_size": 64, "epochs": 6, "precision": "fp16"}
    plans = [
        example_plan(shape="constant", **common),
        example_plan(shape="linear", base_batch=16, **common),
        example_plan(shape="cosine", **common),
        *(example_plan(optimizer=o, precision="bf16") for o in ("adam", "adamw", "lamb")),
    ]
    paths = []
    for number, plan in enumerate(plans):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(emit(plan, "deepspeed").text)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.split("SAID")[1])
    assert [one["batches"] for one in said] == [[16, 4, 2]] * 6
    assert [one["optimizer"] for one in said] == ["SGD", "SGD", "SGD", "adam", "adamw", "lamb"]
    assert [one["scheduler"] for one in said[:3]] == ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]
    assert said[0]["autocast"] == [True, "torch.float16"]
    assert said[3]["autocast"] == [True, "torch.bfloat16"]
    constant, linear, cosine = (one["rates"][:24] for one in said[:3])
    planned = [
        [rate * factor_at(plan.planned.schedule, s) for s in range(24)]
        for plan, rate in zip(plans[:3], (0.2, 0.1, 0.2), strict=True)
    ]
    assert constant == pytest.approx([planned[0][1], *planned[0][1:]])  # step 0 at the rate of step 1
    assert linear == pytest.approx([0, 0, 0.1 / 3, 0.2 / 3, *planned[1][4:]])
    assert cosine == pytest.approx([0, *planned[2][:4], *planned[2][5:]])  # one step late during warm-up
