from __future__ import annotations

import ast
import math
from dataclasses import replace
from itertools import product, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import UnknownNameError
from advisor.planning.records import PLAN_OPTIMIZERS, SHAPES, PlanAnswer
from advisor.planning.schedule import factor_at
from advisor.planning.snippets import FRAMEWORKS, Snippet, emit
from tests.advisor.planning.example import example_plan

SCRIPTS = tuple(name for name in FRAMEWORKS if name != "deepspeed")


def constants(text: str) -> dict[str, Any]:
    """The constants of a script up to its first check, by running them."""
    found: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name.isupper():
                exec(compile(ast.Module([statement], []), "constants", "exec"), found)
    return found


def rate_factor(text: str) -> Any:
    """The function of that name, with the constants of its script."""
    found = {"math": math, **constants(text)}
    function = next(s for s in ast.parse(text).body if isinstance(s, ast.FunctionDef) and s.name == "rate_factor")
    exec(compile(ast.Module([function], []), "rate_factor", "exec"), found)
    return found["rate_factor"]


def everything() -> list[dict[str, Any]]:
    """Every choice that shows in a snippet, with every other at least once."""
    common = [
        {"optimizer": optimizer, "shape": shape, "dataset_size": 700}
        for optimizer, shape in product(PLAN_OPTIMIZERS, SHAPES)
    ]
    unknown = [{"lr": None}, {"base_batch": None}, {"epochs": None}, {"dataset_size": None}]
    cuts = [{"gpus": g, "accumulation": a, "drop_last": d} for g, a, d in product((1, 2, 16), (1, 3), (True, False))]
    recipes = [
        {"precision": p, "layout": layout} for p, layout in product(("fp16", "bf16", "fp32", "tf32"), ("nhwc", "any"))
    ]
    recipes += [{"recipe": "timm-2022", "precision": "fp16"}]
    return [
        {"dataset_size": 700, **one, "samples": samples, "batch_norm": samples == "images"}
        for one in (*common, *unknown, *cuts, *recipes)
        for samples in ("images", "sequences")
    ]


@pytest.mark.parametrize("framework", SCRIPTS)
def test_every_script_parses_and_has_no_import_and_no_constant_that_it_does_not_use(framework: str) -> None:
    for choice in everything():
        text = emit(example_plan(**choice), framework).text
        tree = ast.parse(text)
        imported = {
            (alias.asname or alias.name).split(".")[0]
            for statement in tree.body
            if isinstance(statement, (ast.Import, ast.ImportFrom))
            for alias in statement.names
        }
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        constants = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id.isupper()}
        assert imported | constants <= used, choice
        assert max(len(line) for line in text.splitlines()) <= 120


@pytest.mark.parametrize("framework", SCRIPTS)
def test_the_constants_are_the_plans(framework: str) -> None:
    text = emit(
        example_plan(batch=64, accumulation=8, gpus=8, dataset_size=1281167, epochs=90, base_batch=256), framework
    ).text
    found = constants(text)
    del found["__builtins__"]
    # 1281167 = 312 x 4096 + 3215; 90 x 312 = 28080; 0.1 x 4096 / 256 = 1.6; divided at 30, 60 and 80 of 90 epochs
    expected = {
        "MICRO_BATCH": 64, "ACCUMULATION": 8, "GPUS": 8, "DATASET_SIZE": 1281167, "STEPS_PER_EPOCH": 312,
        "LEARNING_RATE": 1.6, "WARMUP_STEPS": 1560, "WARMUP_START": 1 / 16, "MILESTONES": (9360, 18720, 24960),
        "GAMMA": 0.1, "MOMENTUM": 0.9, "WEIGHT_DECAY": 0.0,
    }  # fmt: skip
    in_some = {"GLOBAL_BATCH": 4096, "TOTAL_STEPS": 28080, "EPOCHS": 90, "DATA_WORKERS": 0, "STEP_BATCH": 512}
    assert expected.items() <= found.items() <= {**expected, **in_some}.items()
    assert "3215 samples of each epoch are left out" in text
    assert "FILL IN" not in text


@given(
    shape=st.sampled_from(SHAPES),
    optimizer=st.sampled_from(PLAN_OPTIMIZERS),
    epochs=st.floats(0.1, 50),
    warmup=st.none() | st.integers(0, 2),
    base_batch=st.integers(1, 64),
)
def test_the_rate_of_a_script_is_the_schedules_at_every_step(
    shape: str, optimizer: str, epochs: float, warmup: int | None, base_batch: int
) -> None:
    plan = example_plan(
        shape=shape, optimizer=optimizer, epochs=epochs, warmup_steps=warmup, base_batch=base_batch, dataset_size=1000
    )
    schedule = plan.planned.schedule
    assert schedule is not None
    for framework in ("torch", "lightning"):
        function = rate_factor(emit(plan, framework).text)
        for step in range(0, schedule.total_steps, max(1, schedule.total_steps // 97)):
            assert function(step) == factor_at(schedule, step)
        assert 0 <= function(schedule.total_steps) <= 1  # what a scheduler asks for after the last step


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("unknown", "names"),
    [
        ({"lr": None}, {"BASE_LEARNING_RATE": "--lr"}),
        ({"base_batch": None}, {"LEARNING_RATE": "--lr"}),
        ({"epochs": None}, {"EPOCHS": "--dataset-size and --epochs"}),
        ({"dataset_size": None}, {"EPOCHS": "--dataset-size and --epochs"}),
        (
            {"lr": None, "dataset_size": None},
            {"BASE_LEARNING_RATE": "--lr", "EPOCHS": "--dataset-size and --epochs"},
        ),
    ],
)
def test_what_is_not_known_is_marked_and_stops_the_script(
    framework: str, unknown: dict[str, Any], names: dict[str, str]
) -> None:
    snippet = emit(example_plan(**unknown), framework)
    options = ", ".join(f"{name} (or give {option})" for name, option in names.items())
    assert f"To fill in: {options}." in snippet.notes
    if framework == "deepspeed":
        assert ("FILL IN" in snippet.text) == any("RATE" in name for name in names)
        return
    assert [line.split(" = ")[0] for line in snippet.text.splitlines() if "None  # FILL IN" in line] == [*names]
    check = next(s for s in ast.parse(snippet.text).body if isinstance(s, ast.If) and "FILL IN" in ast.unparse(s))
    with pytest.raises(SystemExit, match=f"FILL IN: {', '.join(names)}"):
        exec(compile(ast.Module([check], []), "check", "exec"), dict.fromkeys(names))


@pytest.mark.parametrize("framework", SCRIPTS)
def test_the_head_of_a_script_says_what_is_not_as_asked_and_what_is_left_to_do(framework: str) -> None:
    def head(answer: PlanAnswer) -> str:
        return "".join(takewhile(lambda line: line[0] == "#", emit(answer, framework).text.splitlines(True)))

    asked = example_plan()
    assert "Not as asked" not in head(asked)
    assert "# Left to you: validation" in head(asked)
    other = replace(asked, planned=replace(asked.planned, asked_global_batch=1017))
    assert head(other).splitlines()[1] == "# Not as asked: a global batch of 16 instead of 1,017."
    fewer = "2 of 8 GPUs, for objective cost."
    assert head(replace(asked, gpus=8, objective="cost")).splitlines()[1] == f"# Not as asked: {fewer}"
    assert head(replace(other, gpus=8, objective="cost")).splitlines()[1].endswith(f"instead of 1,017; {fewer}")


def test_frameworks_are_named_where_there_is_no_such_one() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown framework 'kears'. Nearest: keras. Snippets are for torch, light"
    ):
        emit(example_plan(), "kears")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_name_from_a_file_stays_within_its_comment(framework: str) -> None:
    text = emit(example_plan(title='x\nimport os; os.system("true")\r\u2028"""\x0c{{ 7 * 7 }}'), framework).text
    assert "\nimport os; os.system" not in text.replace("\r", "\n").replace("\u2028", "\n").replace("\x0c", "\n")
    assert "49" not in text.splitlines()[0]


def test_the_same_plan_gives_the_same_snippet() -> None:
    assert [emit(example_plan(), f) for f in FRAMEWORKS] == [emit(example_plan(), f) for f in FRAMEWORKS]


def lines(plan: PlanAnswer, framework: str) -> str:
    return emit(plan, framework).text


def noted(snippet: Snippet, words: str) -> bool:
    return any(words in note for note in snippet.notes)


@pytest.mark.parametrize("framework", ["torch", "lightning", "hf"])
def test_lars_and_lamb_are_timms_and_said_to_be(framework: str) -> None:
    for optimizer, name in (("lars", "Lars"), ("lamb", "Lamb")):
        snippet = emit(example_plan(optimizer=optimizer), framework)
        assert f"from timm.optim import {name}" in snippet.text
        given = '"always_adapt": True' if framework == "hf" else "always_adapt=True"
        assert given in snippet.text  # without it and without decay, both are plain SGD and Adam
        assert noted(snippet, f"torch has no {optimizer.upper()}")


def test_keras_has_lamb_and_no_lars() -> None:
    assert "keras.optimizers.Lamb(" in lines(example_plan(optimizer="lamb"), "keras")
    snippet = emit(example_plan(optimizer="lars"), "keras")
    assert "FILL IN: LARS" in snippet.text
    assert "from my_training import LARS, " in snippet.text
    assert noted(snippet, "Keras 3 has no LARS")


def test_precision_follows_the_recipe() -> None:
    for framework, fp16, bf16 in (
        ("torch", "dtype=torch.float16", "dtype=torch.bfloat16"),
        ("lightning", 'precision="16-mixed"', 'precision="bf16-mixed"'),
        ("hf", "fp16=True", "bf16=True"),
        ("keras", '"mixed_float16"', '"mixed_bfloat16"'),
        ("deepspeed", '"float16"', '"bfloat16"'),
    ):
        assert fp16 in lines(example_plan(precision="fp16"), framework)
        assert bf16 in lines(example_plan(precision="bf16"), framework)
        for neither in ("fp32", "tf32"):
            text = lines(example_plan(precision=neither), framework)
            assert fp16 not in text and bf16 not in text and "autocast" not in text
    assert "GradScaler" in lines(example_plan(precision="fp16"), "torch")
    assert "GradScaler" not in lines(example_plan(precision="bf16"), "torch")
    assert "GradScaler" not in lines(example_plan(precision="fp16", recipe="timm-2022"), "torch")
    assert "allow_tf32 = False" in lines(example_plan(precision="fp32"), "torch")
    assert "allow_tf32 = True" in lines(example_plan(precision="tf32"), "torch")


def test_batch_norm_is_shared_where_it_sees_few_samples_on_several_gpus() -> None:
    sync = "# model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)"
    assert sync in lines(example_plan(dataset_size=700, batch=31), "torch")
    assert sync not in lines(example_plan(dataset_size=700, batch=32), "torch")
    assert sync not in lines(example_plan(dataset_size=700, batch=31, gpus=1), "torch")
    assert sync not in lines(example_plan(dataset_size=700, batch=31, batch_norm=False), "torch")
    assert "# sync_batchnorm=True" in lines(example_plan(dataset_size=700, batch=31), "lightning")


def test_gpus_of_several_machines_are_launched_on_each() -> None:
    text = lines(example_plan(dataset_size=700, gpus=16), "torch")
    assert "on each of 2 machines" in text
    assert "torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d" in text
    assert "num_nodes=2" in lines(example_plan(dataset_size=700, gpus=16), "lightning")
    assert "torchrun --standalone --nproc-per-node=8 train.py" in lines(example_plan(dataset_size=700, gpus=8), "torch")


def test_what_a_framework_does_otherwise_than_the_plan_is_noted() -> None:
    tokens = example_plan(samples="sequences")
    assert noted(emit(tokens, "hf"), "only where the model takes num_items_in_batch")
    assert noted(emit(tokens, "deepspeed"), "the sum over its tokens x 2 x 2 / the tokens of the global batch")
    assert noted(emit(example_plan(), "hf"), "must divide its summed loss by that")
    assert noted(emit(example_plan(), "keras"), "Keras' momentum has the rate within it")
    assert noted(emit(example_plan(), "keras"), "that of all GPUs together, 8")
    assert noted(emit(example_plan(drop_last=False), "keras"), "Keras ends no step early")
    assert noted(emit(example_plan(recipe="timm-2022", precision="fp16"), "lightning"), "has a GradScaler")
    assert all("\n" not in note for framework in FRAMEWORKS for note in emit(tokens, framework).notes)


def test_adams_other_settings_that_the_rule_moves_are_shown_and_not_applied() -> None:
    # 16 over 8 samples: 1 - 2 (1 - 0.9) = 0.8, 1 - 2 (1 - 0.999) = 0.998 (Malladi et al. 2022, definition 5.3)
    text = lines(example_plan(optimizer="adam"), "torch")
    assert "#     beta1 = 0.8 instead of 0.9" in text
    assert "#     beta2 = 0.998 instead of 0.999" in text
    assert constants(text)["BETAS"] == (0.9, 0.999)
    assert "instead of" not in lines(example_plan(optimizer="adam", base_batch=16), "torch")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_scaled_rate_comes_with_its_rule_and_range_and_one_past_it_with_a_warning(framework: str) -> None:
    # Goyal et al. 2017 show 8,192 samples per step: 64 x 16 x 8 is that, 64 x 17 x 8 is past it
    common = {"batch": 64, "gpus": 8, "base_batch": 256, "dataset_size": 10**6}
    within = emit(example_plan(accumulation=16, **common), framework)
    past = emit(example_plan(accumulation=17, **common), framework)
    for snippet, factor in ((within, 32), (past, 34)):
        said = f"0.1 at 256 samples per step x {factor}: linear rule, known to 8,192 samples per step, ResNet-50"
        assert said in (" ".join(snippet.notes) if framework == "deepspeed" else read(snippet))
    warning = "The linear rule is past the range it is known for"
    assert warning in past.notes[0] and "LARS reached 32,768" in past.notes[0]
    assert not noted(within, warning)
    if framework != "deepspeed":
        assert warning in read(past) and warning not in read(within)
    unscaled = emit(example_plan(**{**common, "accumulation": 17, "base_batch": 8704}), framework)
    assert noted(unscaled, "Global batch 8,704 is past the range")
    assert "rule, known" not in read(unscaled) + " ".join(unscaled.notes)


def read(snippet: Snippet) -> str:
    """A script without the line ends of its comments."""
    return snippet.text.replace("\n# ", " ")


def test_deepspeed_is_started_on_the_machines_of_the_plan() -> None:
    assert noted(
        emit(example_plan(dataset_size=700, gpus=8), "deepspeed"), "exactly 8 GPUs: deepspeed --num_gpus 8 train"
    )
    several = emit(example_plan(dataset_size=700, gpus=16), "deepspeed")
    assert noted(several, "exactly 2 machines of 8 GPUs: deepspeed --hostfile HOSTS train.py")
    assert noted(emit(example_plan(dataset_size=700, gpus=16), "keras"), "The script is for one machine")
    assert not noted(emit(example_plan(dataset_size=700, gpus=8), "keras"), "The script is for one machine")


def test_what_deepspeeds_file_cannot_say_is_noted() -> None:
    snippet = emit(example_plan(optimizer="adam", precision="fp16", layout="nhwc"), "deepspeed")
    assert noted(snippet, "beta1 = 0.8 instead of 0.9; beta2 = 0.998 instead of 0.999; eps = ")
    assert noted(snippet, "channels_last")
    assert noted(snippet, "needs DeepSpeed 0.18")  # older ones do not scale the loss of FP16 without ZeRO


def test_constants_that_are_not_planned_are_said_as_they_stand_in_the_script() -> None:
    for optimizer, words in (
        ("sgd", "Momentum, weight decay and clipping are no part of the plan, so put yours in: here they are 0.9, 0 "),
        ("lamb", "Betas, eps, weight decay and clipping are no part of the plan, so put yours in: here they are "
         "(0.9, 0.999), 1e-06, 0 and none."),
    ):  # fmt: skip
        assert noted(emit(example_plan(optimizer=optimizer), "torch"), words)
