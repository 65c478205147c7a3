"""What a batch size does to learning, and what is only said of it."""

from __future__ import annotations

from advisor.choice import TIE, TOLERANCE
from advisor.planning import critical_batch, sources, target, usual
from advisor.planning.rules.record import Rule
from advisor.units import percent

RULES = (
    Rule(
        id="unbiased-gradient",
        group="statistics",
        title="The gradient is unbiased at every batch size",
        statement="Often told wrongly: a small batch does not give a biased gradient. The mean gradient of B samples "
        "drawn at random has the full gradient as its expectation, at B = 1 as at B = 10,000. Only its variance falls, "
        "as 1 / B. So four times the batch halves the noise, no more.",
        formula="E[g_B] = grad L; Var[g_B] = Sigma / B with replacement, Sigma / B x (D - B) / (D - 1) without; "
        "g_B the mean gradient of B of D samples, Sigma the covariance of one sample's",
        known_range="Losses that are means over samples. Not exactly: BatchNorm, in-batch negatives, means over a "
        "varying number of tokens, clipped gradients. Adam's step is no linear function of it, so it is biased.",
        source=sources.BOTTOU_2016,
        confidence="exact",
        evidence="A test of this project enumerates every batch of a small data set.",
    ),
    Rule(
        id="gradient-size",
        group="statistics",
        title="The gradient does not grow with the batch",
        statement="Often told wrongly: averaging over more samples does not make the gradient larger. Its expectation "
        "is the same, and its expected squared length even shrinks, as there is less noise in it. What allows a larger "
        "rate is the smaller noise, not a gradient B times as large. (A loss that sums over samples does grow with B. "
        "Then the rate is multiplied by B in disguise.)",
        formula="E|g_B|^2 = |grad L|^2 + tr(Sigma) / B; tr(Sigma) the summed variance of one sample's gradient",
        known_range="As for unbiased-gradient. Clipping by norm therefore bites more often at small batches.",
        source=f"{sources.MCCANDLISH_2018}, appendix A; arithmetic",
        confidence="exact",
        evidence="A test of this project enumerates every batch of a small data set.",
    ),
    Rule(
        id="noise-scale",
        group="statistics",
        title="Gradient noise scale",
        statement="Noise over signal of the gradient says at which batch noise and signal are equal. Below it larger "
        "batches save steps nearly in proportion, above it hardly. It can be read off two batch sizes during training, "
        "and it grows as the loss falls.",
        formula="B_simple = tr(Sigma) / |grad L|^2, from E|g_B|^2 at two batch sizes: see gradient-size",
        known_range="An order of magnitude, not a figure to tune by. Measured with one optimizer, it is that one's.",
        source=sources.MCCANDLISH_2018,
        confidence="well supported",
        evidence="It goes with the largest useful batch over tasks from digits (hundreds of images) to Dota (millions "
        "of frames).",
    ),
    Rule(
        id="critical-batch",
        group="statistics",
        title="Critical batch size",
        statement="Samples to a target grow with the batch: little below the critical batch, in proportion above "
        "it. At the critical batch a run needs twice the least samples and twice the least steps. A plan takes it "
        "from a published table, a fit to published convergence points, or --critical-batch, and prints a range "
        "where sources differ.",
        formula="E(B) = E_min (1 + B / B_crit); steps S(B) = S_min (1 + B_crit / B), S_min = E_min / B_crit",
        known_range="Per task, model, target and optimizer: Adam's and K-FAC's can be far larger than SGD's. It grows "
        f"during training. A fit takes {critical_batch.LEAST_POINTS} batches or more, and no critical batch more than "
        f"{critical_batch.REACH:g} times outside of them is believed; its interval holds "
        f"{percent(critical_batch.LEVEL)}.",
        source=f"{sources.MCCANDLISH_2018}; {sources.ZHANG_2019}; {sources.GOYAL_2017}; {sources.MLPERF_RCP}",
        confidence="well supported",
        evidence="The form fits eight of MLPerf's benchmarks with median errors of 0.6 to 4.9 %. A batch left out is "
        "predicted within 2.4 to 6.7 % (median). The value for a new task is uncertain by a factor: for ImageNet "
        "sources say 15,000 and 46,900. It is of the least samples: a run of fixed length often has slack. Goyal's 90 "
        "epochs reach at 8,192 images what they reach at 256, where the form asks for 17 to 52 % more.",
        constants=(
            "advisor.planning.critical_batch.LEAST_POINTS",
            "advisor.planning.critical_batch.LEVEL",
            "advisor.planning.critical_batch.REACH",
        ),
    ),
    Rule(
        id="time-to-target",
        group="statistics",
        title="Hardware speed against statistical efficiency",
        statement="The batch with the most samples/s need not be the one that is done first. With a step of t0 + t1 b "
        "for b samples on each of N GPUs the time to the target has one minimum, and it is flat. A plan searches the "
        "predicted curve itself; the closed form stands beside it.",
        formula="T(B) = E(B) / B x (t0 + t1 B / N); best B = N sqrt((t0 / t1) B_crit / N)",
        known_range="As good as B_crit. The rate must be tuned for each B, and gradient exchange belongs to t0.",
        source=f"{sources.MCCANDLISH_2018} for E(B); the minimum is calculus; {sources.ZEUS}",
        confidence="well supported",
        evidence="ShuffleNetV2 on CIFAR-100 to 60 % on a V100: the batch with the fastest epoch, 1,024, takes 1.9 "
        "times as long as the best one, 256. To six accuracies the batch chosen from t0, t1 and B_crit loses 0 to 11 "
        "%, that with the fastest epoch 26 to 92 %.",
    ),
    Rule(
        id="best-global-batch",
        group="statistics",
        title="One best batch from an uncertain number",
        statement="The critical batch is often a range. The best global batch is given for both ends of it, with "
        f"the batches within {percent(TOLERANCE)} of each, and a compromise: the batch that loses least at the end "
        f"it suits worse. Losses below {percent(target.NONE, 1)} are said to be none. For the least cost, counts of "
        f"GPUs whose costs are within {percent(TIE)} of the least tie, and the most GPUs win. Up to "
        f"{target.EVERY_COUNT} GPUs every count is tried, beyond it powers of two.",
        formula="compromise = the B with the least max over both ends of T(B) / min T",
        known_range="As for time-to-target.",
        source="minimax regret; a choice of ours",
        confidence="chosen",
        evidence="The minimum is flat: where a step's time is a line, a compromise between ends that differ threefold "
        "loses less than 4 % at either.",
        constants=(
            "advisor.choice.TOLERANCE",
            "advisor.choice.TIE",
            "advisor.planning.target.NONE",
            "advisor.planning.target.EVERY_COUNT",
        ),
    ),
    Rule(
        id="sharp-minima",
        group="statistics",
        title="Sharp and flat minima",
        statement="The claim: large batches end in sharp minima, small ones in flat minima, and flat ones generalise "
        "better. Against it: a ReLU network can be rescaled to any sharpness and compute the same function. Large "
        "batches train as well once rate, warm-up and the number of steps are right. In recent models sharpness hardly "
        "goes with generalisation, and sometimes the other way. For it: methods that seek flat minima often help.",
        formula="sharpness: largest rise of the loss within a small box around the weights (Keskar 2016)",
        known_range="None that would let one choose a batch size.",
        source=f"for: {sources.KESKAR_2016}; {sources.FORET_2020}. Against: {sources.DINH_2017}; {sources.GOYAL_2017}; "
        f"{sources.HOFFER_2017}; {sources.SHALLUE_2018}; {sources.ANDRIUSHCHENKO_2023}",
        confidence="contested",
        evidence="Keskar 2016 compares two batch sizes per network; Hoffer 2017 closes the gap on three of its "
        "networks; Shallue 2018 finds no evidence of a loss in 35 workloads.",
    ),
    Rule(
        id="flat-minima-remedies",
        group="statistics",
        title="Augmentation, weight averaging, label smoothing",
        statement="What people add to repair large batches. Each often helps, at any batch size. That it helps because "
        "minima get flatter, or helps large batches in particular, is not settled. With augmentation Keskar 2016 "
        "found the gap all but closed, minima still sharp. Stochastic weight averaging finds flatter solutions that "
        "generalise better; renew BatchNorm's statistics afterwards (torch.optim.swa_utils.update_bn). Label smoothing "
        "helps accuracy and calibration, and hurts distillation. Add them for their own sake.",
        formula="SWA: w = mean of weights along the run; label smoothing: (1 - e) one-hot + e / classes",
        known_range="Mostly image classification.",
        source=f"{sources.KESKAR_2016}; {sources.IZMAILOV_2018}; {sources.SZEGEDY_2015}; {sources.MULLER_2019}",
        confidence="contested",
        evidence="The gains are well supported; their reason, and that batch size calls for them, is not.",
    ),
    Rule(
        id="large-batch-generalisation",
        group="statistics",
        title="Large batches generalise worse",
        statement="At a fixed number of epochs a larger batch takes fewer steps, and with an untuned rate it ends "
        "worse: true, and no law of batch size. Train as many steps, or tune the rate, and the gap closes as far as "
        "the critical batch allows. Small batches also act as a regulariser that can be replaced by others, and at "
        "small scale they were found best.",
        formula="steps = epochs x D / B, D samples in the data set",
        known_range="On small image sets the best batches were 2 to 32 (Masters and Luschi 2018). On ImageNet no loss "
        "up to 8,192 (Goyal 2017).",
        source=f"for: {sources.KESKAR_2016}; {sources.MASTERS_LUSCHI_2018}. Against: {sources.HOFFER_2017}; "
        f"{sources.GOYAL_2017}; {sources.SHALLUE_2018}",
        confidence="contested",
        evidence="Budgets and tuning differ between these papers, and explain most of what they disagree on.",
    ),
    Rule(
        id="usual-ranges",
        group="statistics",
        title="Usual global batches",
        statement="What people commonly train with: 256 to 512 for ImageNet classification over several GPUs, 64 to "
        f"128 for small models (under {usual.SMALL_PARAMETERS:,} parameters), 2 to 16 per GPU for detection and "
        "segmentation, 32 to 512 for BERT, larger with LAMB. A plan prints the one of your task as context. It is "
        "never the answer.",
        formula=None,
        known_range="Habits of published recipes. They reflect the memory of past GPUs as much as learning.",
        source="published training recipes",
        confidence="rule of thumb",
        evidence="None of them was tuned for your GPU.",
        constants=("advisor.planning.usual.SMALL_PARAMETERS",),
    ),
)
