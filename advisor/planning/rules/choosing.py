"""How one batch size is chosen from a predicted curve."""

from __future__ import annotations

from advisor import choice, recommendation
from advisor.planning import sources
from advisor.planning.rules.record import Rule
from advisor.units import percent

RULES = (
    Rule(
        id="knee",
        group="choosing a size",
        title="The smallest size that is nearly the fastest",
        statement=f"The knee is the smallest batch size whose throughput is within {percent(choice.TOLERANCE)} of the "
        "fastest size that fits. Throughput flattens long before the memory is full. Beyond the knee a larger batch "
        "buys next to nothing and costs memory, and each sample may teach the model less.",
        formula=f"knee = min {{B that fits : v(B) >= (1 - {choice.TOLERANCE:g}) max v}}, v = samples/s",
        known_range="Any curve. --tolerance moves the threshold.",
        source="a choice of ours; the shape of the curve is held against measurements in reports/ACCURACY.md",
        confidence="chosen",
        evidence=f"{percent(choice.TOLERANCE)} is just above what two runs of one program differ by anyway (see tie).",
        constants=("advisor.choice.TOLERANCE",),
    ),
    Rule(
        id="tooth",
        group="choosing a size",
        title="From the knee to the top of its tooth",
        statement="Throughput climbs along a tooth of the curve and falls when one more sample starts a new round of "
        f"tiles. From the knee up to {recommendation.TOOTH:g} times the knee, the size recommended is the smallest "
        f"whose throughput is within {percent(recommendation.EQUAL, 2)} of the best one there.",
        formula=f"recommended = min {{B in [knee, {recommendation.TOOTH:g} knee] : "
        f"v(B) >= (1 - {recommendation.EQUAL:g}) max v there}}",
        known_range="Any curve. Where a global batch is given, the cut decides instead.",
        source="a choice of ours",
        confidence="chosen",
        evidence="An eighth more memory is a fair price for the top of the tooth; a wider search would drift to the "
        "largest size. The gain is often below what can be measured, and then the answer says so.",
        constants=("advisor.recommendation.TOOTH", "advisor.recommendation.EQUAL"),
    ),
    Rule(
        id="tie",
        group="choosing a size",
        title="What is too close to call",
        statement=f"Two sizes whose predicted throughputs differ by no more than {percent(choice.TIE)} are said to "
        "tie. So it is in a comparison with your size today, between cuts of a global batch, and between plans that "
        "cost nearly the same.",
        formula=f"tie: |v1 - v2| <= {choice.TIE:g} max(v1, v2)",
        known_range="Sizes on one GPU, where most errors of the prediction are shared. Two GPUs need more: see "
        "gpu-comparison.",
        source="public training tables, one container on one type of GPU, run twice",
        confidence="chosen",
        evidence="Such runs differ by 1 to 2 %, cards of one die by about 4 %. A smaller difference is no evidence.",
        constants=("advisor.choice.TIE",),
    ),
    Rule(
        id="cliff",
        group="choosing a size",
        title="One sample more, and slower",
        statement=f"A step from B to B + 1 that loses at least {percent(choice.CLIFF, 1)} of the throughput is "
        "called a cliff. The deepest one between half and twice the chosen size is named, with the sizes on its two "
        "sides. For one matrix product a cliff can be a factor of two. Over a whole network the teeth of different "
        "layers mostly average out, so 'it hardly matters here' is a common and honest answer.",
        formula=f"cliff at B: v(B + 1) <= (1 - {choice.CLIFF:g}) v(B)",
        known_range="Predicted curves of whole steps.",
        source=f"{sources.AICONFIGURATOR}; reports/ACCURACY.md, Cliffs",
        confidence="measured here",
        evidence="A100, n = 12288, k = 4096: M = 257 takes 2.04 times as long as 256. Of unseen matrix products our "
        "calls of cliffs over 10 % are right in 76 to 96 % of cases and find 83 to 97 % of them, pairs in doubt left "
        "out. The threshold itself is a choice.",
        constants=("advisor.choice.CLIFF",),
    ),
    Rule(
        id="poor-cut",
        group="choosing a size",
        title="When no exact cut is good",
        statement="Where every exact cut of the global batch is slow (it is a prime number of samples per GPU, say), "
        f"that is, below {percent(recommendation.POOR)} of the knee's throughput, the nearest global batch made of "
        "knees is named, and what it would gain. Nothing is changed.",
        formula=f"v(cut) <= {recommendation.POOR:g} v(knee) x GPUs, and the share of a GPU is above the knee",
        known_range="Global batches larger than the knee times the GPUs.",
        source="a choice of ours",
        confidence="chosen",
        evidence="A tenth of a training run is worth a sentence.",
        constants=("advisor.recommendation.POOR",),
    ),
)
