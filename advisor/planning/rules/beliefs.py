"""What is widely believed and not gone by here, with the measured evidence; and what is true of other hardware."""

from __future__ import annotations

from advisor.planning import sources
from advisor.planning.rules.record import Rule

# Mean throughput lost, in per cent, against the best measured M: by our choice, the largest size that is allowed, and
# the largest power of two. reports/ACCURACY.md, Regret of choosing m.
REGRET = {
    "a100-sxm4-80gb": (1.60, 8.91, 6.60),
    "h100-sxm-80gb": (1.68, 5.15, 4.97),
    "h200-sxm": (1.56, 4.88, 4.58),
    "b200-sxm": (2.24, 6.55, 7.06),
    "l40s": (3.56, 9.51, 7.43),
    "rtx-pro-6000-server": (0.58, 6.18, 6.95),
}


def _lost(column: int) -> str:
    lost = [row[column] for row in REGRET.values()]
    return f"{min(lost):.1f} to {max(lost):.1f} %"


RULES = (
    Rule(
        id="powers-of-two",
        group="beliefs",
        title="Batch sizes must be powers of two",
        statement="Nothing in a GPU asks the batch for it. What steps there are come from tiles and waves: "
        "multiples of a tile's rows, and of the number of SMs (80, 108, 132, 142, 148, 188), which is a power of "
        "two on one card of our table, the RTX 4090. A power of two is fine where it happens to be near the best. "
        "Taken for its own sake it leaves memory unused and loses throughput. Where 18 samples fit, 18 is as good "
        "as 16.",
        formula="the belief: B = 2^floor(log2(largest that fits))",
        known_range="NVIDIA GPUs with current libraries. Feature and channel sizes are another matter: see alignment.",
        source=f"reports/ACCURACY.md, Regret of choosing m; {sources.RASCHKA_2022}",
        confidence="not believed",
        evidence=f"Choosing the rows M of a product as the largest power of two loses {_lost(2)} against the best "
        f"measured M, over six GPUs; our prediction loses {_lost(0)}. On an A100 with n = 12288, k = 4096 the power of "
        "two 512 runs 11 % fewer rows/s than 768, which is none. MobileNetV3 on a V100: batches of 127, 128 and 129 "
        "trained in 9.80, 9.78 and 9.92 minutes, within 1.4 % (one run each).",
    ),
    Rule(
        id="batch-multiples-of-8",
        group="beliefs",
        title="Batch sizes must be multiples of 8 for Tensor Cores",
        statement="The rule is about contiguous dimensions: features, channels, sequence length where scores are "
        "written out. The batch is contiguous in no operand of a row-major linear layer or an NHWC convolution, in "
        "none of the three passes. An odd batch costs tiles and waves, not Tensor Cores.",
        formula="rows of a linear layer = batch x tokens: M, or the contraction of the weights' gradient",
        known_range="cuBLAS 11, cuDNN 7.6.3 and later. Before, a batch that was no multiple of 8 could lose Tensor "
        "Cores.",
        source=f"{sources.NVIDIA_MATMUL}, table 2; {sources.AICONFIGURATOR}; {sources.ANTHONY_2024}",
        confidence="not believed",
        evidence="From M to M + 1, M of 2048 and more, n and k of 1024 and more: 2.7 % on an A100 in the median, "
        "nothing on an H200. An odd contraction on an A100 costs a factor of 3.6.",
    ),
    Rule(
        id="largest-that-fits",
        group="beliefs",
        title="The largest batch that fits is the fastest",
        statement="Throughput flattens long before the memory is full, and sometimes falls. The last samples cost "
        "memory, risk running out of it, and teach less. Fill the memory with a larger model or longer inputs if you "
        "have use for them.",
        formula="the belief: B = max {B that fits}",
        known_range="Largest is close to fastest for small models on large GPUs, where launches are the limit.",
        source=f"reports/ACCURACY.md, Regret of choosing m and Shape over the batch; {sources.ZEUS}",
        confidence="not believed",
        evidence=f"Taking the largest allowed M loses {_lost(1)} against the best measured one, over six GPUs. "
        "ResNet-50 on a V100: throughput times 0.999 from batch 256 to 360. BERT on SQuAD: times 0.976 from 12 to 16.",
    ),
    Rule(
        id="folk-formula",
        group="beliefs",
        title="A formula for the batch from SMs and image size",
        statement="A public rule of thumb multiplies the SMs and divides by the pixels of the input. It knows no "
        "layer, no channel and no memory. Its size is listed beside ours for comparison and chosen never.",
        formula="B = floor(n 2^14 SMs / (H W C)), n a whole number",
        known_range="None was given with it.",
        source=f"Remi Coulom, quoted by {sources.RASCHKA_2022}",
        confidence="not believed",
        evidence="`advisor recommend` prints what is predicted at its size, so you can see what it would cost.",
    ),
    Rule(
        id="tpu-padding",
        group="beliefs",
        title="Padding on TPUs",
        statement="On a TPU the batch does matter: XLA lays arrays out in tiles of 8 x 128 and pads what does not fill "
        "them, so a batch per core that is no multiple of 8 (or 128, by layout) computes zeros. If you train on TPUs, "
        "follow Google's guide. Out of scope here: it is other hardware with another compiler, and none of our "
        "models, facts or measurements knows it. Nothing of it carries over to NVIDIA GPUs.",
        formula="padded size = ceil(dimension / 8) x 8 and ceil(dimension / 128) x 128, by layout",
        known_range="Google TPUs under XLA.",
        source=sources.CLOUD_TPU,
        confidence="out of scope",
        evidence="Google's guide says so: registers of 8 x 128, and a batch that 8 or 128 divide.",
    ),
)
