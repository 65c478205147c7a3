"""What a framework does otherwise than the plan, or cannot say: a line each."""

from __future__ import annotations

from advisor.planning.snippets.deepspeed import make_scheduler
from advisor.planning.snippets.facts import Facts
from advisor.planning.snippets.python import TORCH_OPTIMIZERS
from advisor.units import counted


def notes(facts: Facts, framework: str) -> tuple[str, ...]:
    """The notes of one framework's snippet, those of every framework first."""
    own = {"torch": _torch, "lightning": _lightning, "hf": _hf, "deepspeed": _deepspeed, "keras": _keras}
    return (*_common(facts), *own[framework](facts))


def _common(facts: Facts) -> list[str]:
    found = ["Momentum, betas, weight decay and clipping are not planned: the snippet has common ones, put yours in."]
    if facts.fills:
        names = ", ".join(fill.name for fill in facts.fills)
        found.append(f"To fill in: {names}; --lr, --base-batch, --dataset-size and --epochs fill them.")
    if facts.schedule is None:
        found.append("The rate is constant: a schedule needs --dataset-size and --epochs.")
    if facts.settings.attention == "unfused":
        found.append("The plan is of attention written out; the snippet leaves it to the model.")
    return found


def _torch(facts: Facts) -> list[str]:
    return _of_torch_optimizer(facts)


def _lightning(facts: Facts) -> list[str]:
    found = _of_torch_optimizer(facts)
    if facts.settings.precision == "fp16" and not facts.settings.grad_scaler:
        found.append('precision="16-mixed" has a GradScaler; the planned recipe has none.')
    return found


def _hf(facts: Facts) -> list[str]:
    found = _of_torch_optimizer(facts)
    if facts.optimizer in ("lars", "lamb"):
        found.append(f"TrainingArguments' optim has no {facts.optimizer.upper()}: the class is given to the Trainer.")
    if facts.optimizer == "adam":
        found.append("TrainingArguments' optim has AdamW alone, no Adam: the class is given to the Trainer.")
    if facts.optimizer == "sgd":
        found.append('optim="sgd" alone has no momentum: the class and its momentum are given to the Trainer.')
    if facts.schedule is None or _own_schedule(facts):
        found.append("The Trainer applies weight decay to weights only, not to biases and norms.")
    if facts.tokens:
        found.append(
            "The loss is the mean over the tokens of the global batch only where the model takes num_items_in_batch "
            "(its forward has **kwargs, as those of transformers) or compute_loss_func does; otherwise micro-batches "
            "count alike, however many tokens they have. average_tokens_across_devices counts them over all GPUs."
        )
    elif facts.cut.accumulation > 1:
        found.append(
            "A model whose forward has **kwargs is given num_items_in_batch and must divide its summed loss by that, "
            "as those of transformers do; the losses of others the Trainer divides by gradient_accumulation_steps."
        )
    if facts.smaller_step:
        repeats = "repeating samples so that every GPU has whole micro-batches" if facts.cut.gpus > 1 else (
            "its last micro-batch counting as much as a whole one"
        )  # fmt: skip
        found.append(f"An epoch ends with the smaller step, {repeats}.")
    if facts.settings.precision == "fp16" and not facts.settings.grad_scaler:
        found.append("fp16=True has a GradScaler; the planned recipe has none.")
    return found


def _own_schedule(facts: Facts) -> bool:
    """Whether one of the Trainer's own schedules has the plan's rate; they warm up from 0."""
    schedule = facts.schedule
    if schedule is None or schedule.shape == "step":
        return False
    return schedule.warm_up.steps == 0 or schedule.warm_up.start_factor == 0


def _deepspeed(facts: Facts) -> list[str]:
    cut = facts.cut
    found = [
        f"Run it with: deepspeed --num_gpus {cut.gpus} train.py --deepspeed_config FILE; it must be "
        f"{counted(cut.gpus, 'GPU')}, as train_batch_size is {cut.batch} x {cut.accumulation} x {cut.gpus}.",
        "Not in this file: the dataset, epochs, and dropping the last samples of an epoch.",
    ]
    if cut.accumulation > 1:
        found.append(
            f"DeepSpeed counts {cut.accumulation} micro-batches to each step, across the ends of epochs, too: end an "
            f"epoch at a multiple of {cut.accumulation}."
        )
    found += _of_deepspeed_rate(facts)
    if facts.optimizer == "lars":
        found.append(
            "DeepSpeed has no LARS: pass optimizer=timm.optim.Lars(model.parameters(), lr=..., momentum=..., "
            "always_adapt=True) to deepspeed.initialize."
        )
    if facts.optimizer == "lamb":
        found.append("DeepSpeed's Lamb keeps its trust ratio from 0.01 to 10 (min_coeff, max_coeff) and needs CUDA.")
    if facts.settings.autocast:
        name = facts.settings.precision
        found.append(
            "The plan is of autocast, so is torch_autocast, which an old DeepSpeed has not. "
            f'"{name}": {{"enabled": true}} would keep the weights themselves in {name.upper()}: another memory, other '
            "arithmetic."
        )
    if facts.tokens:
        found.append(
            "DeepSpeed averages the losses of micro-batches and GPUs. For a mean over tokens return, for each "
            f"micro-batch, the sum over its tokens x {cut.accumulation} x {cut.gpus} / the tokens of the global batch."
        )
    return found


def _of_deepspeed_rate(facts: Facts) -> list[str]:
    schedule, scheduler = facts.schedule, make_scheduler(facts)
    if schedule is None:
        return []
    exact = (
        "lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor) in "
        "deepspeed.initialize, with rate_factor of `--emit torch`"
    )
    if scheduler is None:
        if schedule.shape == "constant" and not schedule.warm_up.steps:
            return []
        return [f"DeepSpeed has no scheduler for this {schedule.shape} schedule: give {exact}; without it the rate is "
                "constant."]  # fmt: skip
    if scheduler["type"] == "WarmupLR":
        return ["WarmupLR takes step 0 at the rate of step 1, and has the planned rate from there on."]
    return [
        f"{scheduler['type']} is up to one step late during warm-up and takes the first step at rate 0; after warm-up "
        f"it has the planned rate. Exact: no scheduler here, and {exact}."
    ]


def _keras(facts: Facts) -> list[str]:
    cut = facts.cut
    found = ["Keras' weight_decay is decoupled for every optimizer; torch's SGD and Adam add it to the gradient."]
    if facts.optimizer in ("sgd", "lars"):
        found.append(
            "Keras' momentum has the rate within it, torch's has not: they differ while the rate changes "
            "(Goyal et al. 2017, remark 2)."
        )
    if facts.optimizer == "lars":
        found.append(
            "Keras 3 has no LARS: the one in TensorFlow's Model Garden (official/modeling/optimization/lars.py) is of "
            "Keras 2; write one, or use timm.optim.Lars with torch."
        )
    if cut.gpus > 1:
        found.append(
            f"The batch that fit takes is that of all GPUs together, {cut.batch * cut.gpus}. fit shares it among GPUs "
            "on the JAX backend; on TensorFlow build and compile within tf.distribute.MirroredStrategy().scope(), on "
            "torch there is no such thing but DistributedDataParallel by hand."
        )
    if facts.few_for_batch_norm:
        found.append("BatchNormalization on JAX takes its statistics over the whole batch of all GPUs together.")
    if facts.smaller_step:
        found.append("Keras ends no step early: an epoch's last step is filled with samples it has seen already.")
    if facts.loss_scaling and cut.accumulation > 1:
        found.append("A backward pass that overflows is left out, and its optimizer step takes one more instead.")
    if facts.settings.precision == "tf32":
        found.append("TF32 is the backend's setting: JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32 with JAX.")
    return found


def _of_torch_optimizer(facts: Facts) -> list[str]:
    """Where LARS and LAMB are from, and what theirs does by itself."""
    if TORCH_OPTIMIZERS[facts.optimizer].module == "torch.optim":
        return []
    only = "adapts only weights with decay unless always_adapt=True"
    if facts.optimizer == "lars":
        return [f"torch has no LARS: this is timm's (pip install timm). It {only}; its trust coefficient is 0.001."]
    return [
        f"torch has no LAMB: this is timm's (pip install timm). It {only}, and clips the gradient's norm at 1 unless "
        "max_grad_norm=None."
    ]
