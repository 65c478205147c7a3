"""What a user must do or know beside a snippet: a line each."""

from __future__ import annotations

from advisor.planning.snippets.deepspeed import make_scheduler
from advisor.planning.snippets.facts import Facts
from advisor.planning.snippets.python import TORCH_OPTIMIZERS
from advisor.units import counted


def notes(facts: Facts, framework: str) -> tuple[str, ...]:
    """The notes of one framework's snippet, those of every framework first."""
    own = {"torch": _of_torch_optimizer, "lightning": _lightning, "hf": _hf, "deepspeed": _deepspeed, "keras": _keras}
    return (*_common(facts), *own[framework](facts))


def _common(facts: Facts) -> list[str]:
    found = [] if facts.past_range is None else [facts.past_range]
    constants, values = ("Betas, eps", f"{facts.betas}, {facts.eps:g}") if facts.momentum is None else (
        "Momentum", f"{facts.momentum:g}"
    )  # fmt: skip
    found.append(
        f"{constants}, weight decay and clipping are no part of the plan, so put yours in: here they are {values}, 0 "
        "and none."
    )
    if facts.fills:
        found.append(f"To fill in: {', '.join(f'{fill.name} (or give {fill.option})' for fill in facts.fills)}.")
    if facts.schedule is None:
        found.append("The rate is constant: a schedule needs --dataset-size and --epochs.")
    if facts.settings.attention == "unfused":
        found.append("The plan is of attention written out; the snippet leaves it to the model.")
    return found


def _lightning(facts: Facts) -> list[str]:
    found = _of_torch_optimizer(facts)
    if facts.settings.precision == "fp16" and not facts.settings.grad_scaler:
        found.append('precision="16-mixed" has a GradScaler; the planned recipe has none.')
    return found


def _hf(facts: Facts) -> list[str]:
    found = _of_torch_optimizer(facts)
    if facts.tokens:
        found.append(
            "The loss is the mean over the tokens of the global batch only where the model takes num_items_in_batch "
            "(its forward has **kwargs, as those of transformers) or compute_loss_func does; otherwise micro-batches "
            "count alike, however many tokens they have."
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


def _deepspeed(facts: Facts) -> list[str]:
    cut = facts.cut
    gpus = f"{counted(facts.nodes, 'machine')} of {cut.gpus // facts.nodes} GPUs" if facts.nodes > 1 else (
        counted(cut.gpus, "GPU")
    )  # fmt: skip
    hosts = "--hostfile HOSTS" if facts.nodes > 1 else f"--num_gpus {cut.gpus}"
    found = [
        f"Give the file to deepspeed.initialize as config, and run on exactly {gpus}: deepspeed {hosts} train.py",
        "Not in the file: the dataset, epochs, dropping the last samples of an epoch"
        f"{', channels_last' if facts.settings.layout == 'nhwc' else ''}.",
    ]
    if cut.accumulation > 1:
        found.append(
            f"DeepSpeed counts {cut.accumulation} micro-batches to each step, across the ends of epochs, too: end an "
            f"epoch at a multiple of {cut.accumulation}."
        )
    if facts.origin is not None:
        found.append(f"lr: {facts.origin}")
    if facts.moved:
        found.append(f"Not applied, though the rule would move them with the rate: {'; '.join(facts.moved)}.")
    found += _of_deepspeed_schedule(facts)
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
            "torch_autocast is autocast, as planned, and needs DeepSpeed 0.18. "
            f'"{name}": {{"enabled": true}} would keep the weights themselves in {name.upper()}.'
        )
    if facts.tokens:
        found.append(
            "DeepSpeed averages the losses of micro-batches and GPUs. For a mean over tokens return, for each "
            f"micro-batch, the sum over its tokens x {cut.accumulation} x {cut.gpus} / the tokens of the global batch."
        )
    return found


def _of_deepspeed_schedule(facts: Facts) -> list[str]:
    schedule, scheduler = facts.schedule, make_scheduler(facts)
    if schedule is None or (scheduler is None and schedule.shape == "constant" and not schedule.warm_up.steps):
        return []
    exact = (
        "lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor) in "
        "deepspeed.initialize, with rate_factor of `--emit torch`"
    )
    if scheduler is None:
        return [
            f"DeepSpeed has no scheduler for this {schedule.shape} schedule, so the rate is constant but for {exact}."
        ]
    if scheduler["type"] == "WarmupLR":
        return ["WarmupLR takes step 0 at the rate of step 1, and has the planned rate from there on."]
    return [
        f"{scheduler['type']} is up to one step late during warm-up; after it the rate is the planned one. Exact: no "
        f"scheduler here, and {exact}."
    ]


def _keras(facts: Facts) -> list[str]:
    cut = facts.cut
    found = []
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
            f"The batch that fit takes is that of all GPUs together, {cut.batch * cut.gpus}: on the JAX backend fit "
            "shares it among them, and BatchNormalization sees all of it. TensorFlow: build and compile within "
            "tf.distribute.MirroredStrategy().scope() instead; torch: DistributedDataParallel by hand."
        )
    if facts.nodes > 1:
        found.append("The script is for one machine: across several, Keras shares out a tf.data.Dataset alone.")
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
    return [
        f"torch has no {facts.optimizer.upper()}: this is timm's (pip install timm). always_adapt=True gives every "
        "weight a trust ratio; without it only those with weight decay have one, which is usual once biases and norms "
        "are a group without decay."
    ]
