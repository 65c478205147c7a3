"""Learning rate and schedule beside the batch size."""

from __future__ import annotations

from advisor.planning import schedule, sources
from advisor.planning.learning_rate import scale_rate
from advisor.planning.records import PLAN_OPTIMIZERS
from advisor.planning.rules.record import Rule
from advisor.units import percent

_KNOWN = {name: scale_rate(name, batch=2, base_batch=1) for name in PLAN_OPTIMIZERS}
_NAMES = {"sgd": "SGD with momentum", "adam": "Adam", "adamw": "AdamW", "lars": "LARS", "lamb": "LAMB"}


def _range(optimizer: str) -> str:
    known = _KNOWN[optimizer]
    return f"{known.known_to:,} samples per step with {known.known_where}"


def _optimizers(rule: str) -> str:
    *first, last = (_NAMES[name] for name, known in _KNOWN.items() if known.rule == rule)
    return f"{', '.join(first)} and {last}" if first else last


RULES = (
    Rule(
        id="linear-rate",
        group="learning rate",
        title=f"Linear scaling for {_optimizers('linear')}",
        statement="k times the batch, k times the rate, with warm-up. While weights hardly move, one step of k times "
        "the size does what k steps did. It ends where the gradient's noise no longer limits the rate, because there "
        "the curvature does: see lower-rate. The same factor goes down with the batch. Momentum and weight decay stay.",
        formula="rate = base rate x B / base B",
        known_range=f"Shown to {_range('sgd')}. At 16k images the error rises to 24.8 %. Other models have other ends.",
        source=f"{sources.GOYAL_2017}; {sources.MLPERF_RCP}",
        confidence="well supported",
        evidence="Rate 0.1 at 256 images gives 23.6 % error, 3.2 at 8,192 gives 23.7 %. MLPerf's rates for Mask R-CNN "
        "are linear, too, from 8 images to 128, and lower than linear at 256. Shallue 2018 finds that no such rule "
        "holds for every workload.",
    ),
    Rule(
        id="square-root-rate",
        group="learning rate",
        title=f"Square-root scaling for {_optimizers('square root')}",
        statement="k times the batch, the rate times the square root of k. Adam divides the gradient by its usual "
        "size, which at small batches is mostly noise. k times the batch makes that noise smaller by the square root "
        "of k, so the normalised step has grown by as much already. For Adam the full rule also moves the betas and "
        "epsilon; a beta that would reach 0 says that k is too large for it. Most recipes scale the rate alone. LARS "
        "is often run with linear scaling and warm-up, but the rates its authors tuned go with the square root.",
        formula="rate x sqrt(k); for Adam also (1 - beta1) x k, (1 - beta2) x k, eps / sqrt(k)",
        known_range=f"LAMB: used to {_range('lamb')}. By rates that were tuned: Adam to {_range('adam')}, LARS to "
        f"{_range('lars')}. Noise must dominate; near the critical batch it does not. Krizhevsky 2014 derives the "
        "square root for SGD, too, and uses the linear rule, as it worked better.",
        source=f"{sources.MALLADI_2022}; {sources.YOU_2019}; {sources.GINSBURG_2018}; {sources.LIU_2019}; "
        f"{sources.MLPERF_RCP}; {sources.KRIZHEVSKY_2014}; linear for LARS: {sources.TENSORFLOW_LARS}",
        confidence="well supported",
        evidence="Derived for small rates and checked on vision and language models. Tuned rates rise with a power of "
        "the batch near 1/2: Adam 0.69 for RoBERTa, 0.62 for Llama 3.1 8B in MLPerf; LAMB 0.56 for BERT in MLPerf; "
        "LARS 0.49 for ResNet-50 by its authors, 0.30 in MLPerf. McCandlish 2018 finds powers from 0.5 to 1 for Adam, "
        "by task.",
    ),
    Rule(
        id="lars-lamb",
        group="learning rate",
        title="LARS and LAMB past the range",
        statement="Past the known range the rate is not the only trouble: layers whose gradients are large against "
        "their weights diverge first. LARS (for SGD) and LAMB (for Adam) scale each layer's step by the norm of its "
        "weights. A plan names them there and never switches by itself.",
        formula="LARS: layer rate = rate x c |w| / (|g| + decay |w|); LAMB: rate x |w| / |Adam's step|; w and g the "
        "layer's weights and gradient, c about 0.001",
        known_range=f"LARS: shown to {_range('lars')}. LAMB: {_range('lamb')}.",
        source=f"{sources.YOU_2017}; {sources.YOU_2019}; against it {sources.NADO_2021}",
        confidence="contested",
        evidence="That they work there is shown. That they are needed is not: Nado 2021 reaches the same with well "
        "tuned momentum and Adam.",
    ),
    Rule(
        id="warm-up",
        group="learning rate",
        title="Gradual warm-up",
        statement="Start at the rate of the small batch and rise linearly to the scaled one. Early on weights change "
        "fast, the linear rule fails, and runs diverge. Where none is given, a plan warms up as the optimizer's source "
        f"does: SGD {schedule.GOYAL_EPOCHS} epochs from the base rate, LARS as many from 0, Adam and AdamW "
        "2 / (1 - beta2) steps, LAMB a share that grows with the batch; and never for more than "
        f"{percent(float(schedule.LARGEST_WARM_UP))} of the run.",
        formula="factor(s) = a + (1 - a) s / w for s < w, with a = base rate / rate for SGD",
        known_range="Goyal 2017: 5 of 90 epochs, You 2019 up to a fifth of the run. The length is custom, not law.",
        source=f"{sources.GOYAL_2017}; {sources.YOU_2019}; {sources.MA_YARATS_2019} for Adam",
        confidence="well supported",
        evidence="Without it 8,192 images end with 24.8 % error instead of 23.7 % in Goyal 2017. The best length "
        "depends on the model.",
        constants=(
            "advisor.planning.schedule.GOYAL_EPOCHS",
            "advisor.planning.schedule.LARGEST_WARM_UP",
        ),
    ),
    Rule(
        id="schedule",
        group="learning rate",
        title="The schedule goes with epochs",
        statement="A schedule is laid over the whole run, so a new batch changes its steps and keeps its epochs. "
        f"The usual shapes: for SGD times {schedule.GAMMA:g} at 1/3, 2/3 and 8/9 of the run, cosine for Adam and "
        f"AdamW, polynomial of power {schedule.POWER:g} for LARS, linear for LAMB. A scheduler stepped once per "
        "micro-batch reaches its end far too early; one told the old number of steps, too early or never.",
        formula=f"with p the progress after warm-up: (1 + cos(pi p)) / 2; 1 - p; (1 - p)^{schedule.POWER:g}; "
        f"{schedule.GAMMA:g}^drops",
        known_range="Runs of known length. It assumes that the epochs stay; past the critical batch they must grow.",
        source=f"{sources.GOYAL_2017}; {sources.LOSHCHILOV_2016}; {sources.YOU_2017}; {sources.YOU_2019}",
        confidence="rule of thumb",
        evidence="Each shape is that of the paper named; none is best for all.",
        constants=("advisor.planning.schedule.GAMMA", "advisor.planning.schedule.POWER"),
    ),
    Rule(
        id="lower-rate",
        group="learning rate",
        title="A smaller batch needs a lower rate",
        statement="A rate that was fine at batch 256 can diverge at batch 1. The step is the rate times a gradient "
        "whose variance is 256 times as large, and noise that feeds on the weights' error grows faster than the step "
        "shrinks it. For least squares with one weight the bound is exact, and it is the linear rule and its end in "
        "one line: proportional to B while noise dominates, then flat. 'Small batches are unstable' often means that "
        "the rate was left where it was.",
        formula="stable for rate < 2 a / (a^2 + v / B); x the input, a = mean of x^2, v = variance of x^2",
        known_range="The formula: least squares that fits its data, samples drawn independently. Beyond: a guide.",
        source=f"{sources.MA_BASSILY_BELKIN_2017}; {sources.MASTERS_LUSCHI_2018}",
        confidence="well supported",
        evidence="A test of this project enumerates every batch of a data set of four: rate 0.5 shrinks the squared "
        "error of the full gradient fourfold per step and at batch 1 makes it 3.25 times as large.",
    ),
    Rule(
        id="joint-tuning",
        group="learning rate",
        title="Tune batch and rate together",
        statement="Comparing batch sizes at one rate compares rates. If both are open, choose the batch by time and "
        "memory, then tune rate, warm-up and regularisation for it. If the batch must change later, scale by a rule "
        "and check a few rates around the answer, by factors of two.",
        formula="for each B: best over rate of (quality at the same budget), then compare",
        known_range="All training by gradients. State whether the budget is steps, epochs or time: each favours "
        "others.",
        source=f"{sources.SHALLUE_2018}; {sources.GODBOLE_2023}",
        confidence="well supported",
        evidence="Shallue 2018: disagreements in the literature are largely explained by tuning and budgets that "
        "differ (35 workloads, 168,160 models).",
    ),
    Rule(
        id="lr-finder",
        group="learning rate",
        title="Learning-rate finder",
        statement="Raise the rate step by step over a hundred batches or more and watch the loss. It falls, flattens, "
        "then blows up. That brackets the usable rates in minutes. It sees the start of one run at one batch size: run "
        "it again when the batch changes, take less than the point of divergence, and do not take it for tuning. "
        "Get one from Lightning (Tuner(trainer).lr_find(model), or the callback LearningRateFinder), from "
        "pip install torch-lr-finder (LRFinder.range_test), fastai (learn.lr_find) or PyTorch-Ignite "
        "(FastaiLRFinder). batchwave has none, as it does not run your model on your data.",
        formula="rate_i = low (high / low)^(i / n), or linear between them as in the paper",
        known_range="A first guess for SGD, less telling for Adam and for runs with long warm-up.",
        source=sources.SMITH_L_2015,
        confidence="rule of thumb",
        evidence="Widely used. The range is informative; the single rate that tools suggest from it is a heuristic.",
    ),
    Rule(
        id="batch-size-warm-up",
        group="learning rate",
        title="Raising the batch during the run",
        statement="Instead of dropping the rate tenfold one can raise the batch tenfold: SGD's noise falls as much, "
        "and the later epochs have fewer steps. It also suits a critical batch that grows as the loss falls. A plan "
        "has one global batch and does not do this; with accumulation it is easy to do by hand.",
        formula="noise of SGD ~ rate x D / B for B well below the data set's size D",
        known_range="Up to the largest stable batch; then the rate has to fall after all.",
        source=f"{sources.SMITH_S_2017}; {sources.MCCANDLISH_2018}",
        confidence="well supported",
        evidence="Same test accuracy after as many epochs: with SGD, momentum and Adam on CIFAR-10, with momentum on "
        "ImageNet.",
    ),
)
