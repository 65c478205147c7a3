"""What keeps a run what it was when its batch is cut another way."""

from __future__ import annotations

from advisor import choice, cut
from advisor.planning import sources
from advisor.planning.rules.record import Rule
from advisor.units import percent

RULES = (
    Rule(
        id="global-batch",
        group="keeping the run",
        title="The global batch stays as asked",
        statement="The global batch, the samples behind one optimizer step, is part of your experiment. A plan cuts it "
        "into samples per GPU, accumulation and GPUs, and leaves it alone. Where the GPUs cannot share it equally, the "
        "nearest that they can share is planned, with the difference said; of two equally near the smaller, unless the "
        f"larger runs more than {percent(choice.TIE)} faster. It changes only where you ask for that, and then "
        "everything that follows from it is shown before and after.",
        formula="global batch = batch per GPU x accumulation x GPUs",
        known_range="Always.",
        source="arithmetic; the same contract as MosaicML Composer's",
        confidence="exact",
        evidence="Gradients of equal parts average to the gradient of the whole, but for the cases under accumulation.",
    ),
    Rule(
        id="cut",
        group="keeping the run",
        title="The fastest exact cut, and its ties",
        statement="Of all exact cuts that fit, the one with the least predicted time per global step is planned. Of "
        f"cuts within {percent(cut.TIE, 1)} of it the smallest micro-batch wins, as it needs the least memory. With "
        f"BatchNorm in the model, a micro-batch of at least {cut.BATCH_NORM_SAMPLES} samples among them comes first; "
        "where there is none, the largest. Slower cuts that are too close to call are said to tie: see tie.",
        formula="time of a global step = accumulation x (step(b) - update) + update, b = batch per GPU",
        known_range="Exchange of gradients between GPUs is not in the predicted step.",
        source="a choice of ours",
        confidence="chosen",
        evidence="Accumulating gradients keeps them in memory: the limit is checked with and without them.",
        constants=("advisor.cut.TIE",),
    ),
    Rule(
        id="accumulation",
        group="keeping the run",
        title="Gradient accumulation",
        statement="K micro-batches of b samples and one optimizer step give the gradient of one batch of K b, if the "
        "loss of each is divided by K. With several GPUs put all backward passes but the last inside "
        "DistributedDataParallel's no_sync, or gradients are exchanged K times. With a GradScaler scale every loss by "
        "one and the same factor; unscale, clip, step and update once per global batch; and step the scheduler once "
        "per optimizer step. It is not equivalent for BatchNorm (batch-norm), token means (token-mean) and losses that "
        "compare samples with each other (in-batch-negatives). Dropout draws other numbers and sums round another way.",
        formula="gradient = (1/K) sum over k of grad L_k, L_k the mean over micro-batch k, all of equal size",
        known_range="Losses that are means over independent samples, micro-batches of equal size.",
        source=f"{sources.PYTORCH_AMP}; {sources.PYTORCH_DDP}",
        confidence="exact",
        evidence="Linearity of the mean; the documentation asks for checks, skips and scale updates at the granularity "
        "of the effective batch.",
    ),
    Rule(
        id="token-mean",
        group="keeping the run",
        title="Losses that are a mean over tokens",
        statement="When every micro-batch divides by its own number of tokens, the mean of the means is not the "
        "mean: a token in a short micro-batch counts for more. Micro-batches with 1 and 3 tokens weigh the lone "
        "token three times too heavily against each of the others. Sum the losses of the tokens and divide by the "
        "number of unmasked tokens in the whole global batch, over all micro-batches and all GPUs. "
        "DistributedDataParallel averages over G GPUs, so multiply by G.",
        formula="L_k = G (sum of token losses in micro-batch k of this GPU) / N, "
        "N = tokens of all micro-batches on all GPUs; add up, do not divide by K",
        known_range="Language models with padding, packing or masks. With equal counts both ways agree.",
        source=sources.TRANSFORMERS_34191,
        confidence="exact",
        evidence="Arithmetic. Hugging Face's Trainer had it wrong until October 2024, and so had many others.",
    ),
    Rule(
        id="in-batch-negatives",
        group="keeping the run",
        title="Losses that compare the samples of a batch",
        statement="In contrastive training every sample is a negative for every other, so the loss of one depends on "
        "the whole batch. Accumulating K micro-batches of b gives each sample b - 1 negatives, not K b - 1: it is "
        "another loss. GradCache gets the large batch in little memory: embed all samples without gradients, take the "
        "loss and its gradient with respect to the embeddings, then run each micro-batch again and push that gradient "
        "back. It costs a second forward pass. sentence-transformers has it as CachedMultipleNegativesRankingLoss. "
        "Over several GPUs the negatives are local unless the embeddings are gathered.",
        formula="l_i = -log(exp(s_ii) / sum over all j in the batch of exp(s_ij))",
        known_range="InfoNCE, CLIP, SimCLR, in-batch ranking, and any loss over pairs. The encoder must have no "
        "BatchNorm, or its statistics are again the micro-batch's.",
        source=sources.GAO_2021,
        confidence="exact",
        evidence="The sum in the formula runs over the batch.",
    ),
    Rule(
        id="batch-norm",
        group="keeping the run",
        title="BatchNorm sees the micro-batch",
        statement="BatchNorm's statistics come from the samples that one GPU runs at once. Accumulation does not help: "
        f"it adds gradients, not statistics. Under {cut.BATCH_NORM_SAMPLES} samples per GPU they get noisy, and a plan "
        "warns. SyncBatchNorm takes them over all GPUs; GroupNorm does not look at the batch at all.",
        formula=f"warn where batch per GPU < {cut.BATCH_NORM_SAMPLES} and the model has BatchNorm layers",
        known_range=f"ResNet-50 on ImageNet: about flat from {cut.BATCH_NORM_SAMPLES} down to 16, then worse; at 2 "
        "samples GroupNorm's error is 10.6 points lower. Dense prediction has many pixels a sample and may need fewer. "
        "Frozen BatchNorm is not concerned.",
        source=f"{sources.WU_HE_2018}, figure 1; {sources.HOFFER_2017}",
        confidence="well supported",
        evidence="The other way round, Hoffer 2017 normalises large batches in small parts (ghost BatchNorm) and gets "
        "better test accuracy: some noise regularises. So the threshold is no sharp line.",
        constants=("advisor.cut.BATCH_NORM_SAMPLES",),
    ),
    Rule(
        id="last-partial-batch",
        group="keeping the run",
        title="What is left at the end of an epoch",
        statement="A dataset of D samples makes floor(D / B) whole steps and leaves D mod B samples. A plan drops "
        "them, as drop_last=True does: with shuffling they are others in each epoch. --keep-last keeps them as a "
        "smaller step, in which every sample weighs more and BatchNorm sees fewer. A DistributedSampler also pads "
        "or drops, to give every GPU as many.",
        formula="steps per epoch = floor(D / B), or ceil(D / B) with the last one kept; total = ceil(epochs x steps)",
        known_range="A dataset of at least one global batch.",
        source="arithmetic; PyTorch, torch.utils.data.DataLoader",
        confidence="exact",
        evidence="1,281,167 images in steps of 4,096: 312 steps and 3,215 images left.",
    ),
)
